package admin

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace-io/millrace/stream"
)

// Collector makes metrics of an engine's Stats, anew at every scrape. All have the label pipeline.
type Collector struct {
	engine Engine
	now    func() time.Time

	records, bytes, fates, dead, rows, retries, staged *prometheus.Desc
	commit, healthy, budget, used, partitions, unowned *prometheus.Desc
	lagRecords, lagSeconds, maxRecords, maxSeconds     *prometheus.Desc
	watermark, lastCommit, uncommitted, recovered      *prometheus.Desc
	retrying, sourceFailing                            *prometheus.Desc
	writes, requests, writeSeconds, waiting            *prometheus.Desc
	failing, spooling, spooled, drained                *prometheus.Desc
	spoolFiles, spoolBytes, spoolAge                   *prometheus.Desc
}

// NewCollector returns the collector of one pipeline.
func NewCollector(pipeline string, e Engine) *Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("millrace_"+name, help, labels, prometheus.Labels{"pipeline": pipeline})
	}
	return &Collector{
		engine: e, now: time.Now,
		records:    desc("records_total", "Records that the source delivered; after a loss of ownership some are delivered again."),
		bytes:      desc("record_bytes_total", "Bytes of the records that the source delivered."),
		fates:      desc("records_processed_total", "Processed records by fate: kept, dropped or dead.", "fate"),
		dead:       desc("dead_letters_total", "Records that became dead letters, by the stage that failed.", "stage"),
		rows:       desc("sink_rows_total", "Events handed to a sink.", "sink"),
		retries:    desc("retries_total", "Failed attempts of calls that are tried again, by call.", "call"),
		staged:     desc("published_bytes_total", "Bytes of the files that were staged and published."),
		commit:     desc("commit_duration_seconds", "From the decision to commit until everything was published."),
		healthy:    desc("healthy", "1 while every partition that has work makes progress."),
		budget:     desc("memory_budget_bytes", "The most that all buffers together may hold."),
		used:       desc("memory_buffered_bytes", "What all buffers hold together."),
		partitions: desc("partitions", "Partitions that this process owns."),
		unowned:    desc("partitions_unowned", "Partitions that have work and no owner in any process."),
		lagRecords: desc("partition_lag_records", "Records between the last delivered one and the end of the partition.", "partition"),
		lagSeconds: desc("partition_lag_seconds", "Age of the last delivered record where it is not the partition's last.", "partition"),
		maxRecords: desc("lag_records_max", "The largest partition_lag_records of this process."),
		maxSeconds: desc("lag_seconds_max", "The largest partition_lag_seconds of this process."),
		watermark:  desc("partition_watermark_age_seconds", "How far event time is behind the clock.", "partition"),
		lastCommit: desc("partition_last_commit_timestamp_seconds", "When the partition was last committed by this process.", "partition"),
		uncommitted: desc("partition_oldest_uncommitted_age_seconds",
			"How long the oldest uncommitted record is here; 0 when there is none.", "partition"),
		sourceFailing: desc("source_failing_seconds", "How long calls to the source's servers fail; 0 while they succeed."),
		recovered:     desc("partition_recovered", "1 when what the last owner committed is published.", "partition"),
		retrying:      desc("partition_retrying", "1 while a call of the partition fails and is tried again.", "partition"),
		writes:        desc("sink_writes_total", "Writes of an upsert sink by outcome: written, refused for good, or repeated.", "sink", "outcome"),
		requests:      desc("sink_requests_total", "Requests of an upsert sink; failed ones as a whole.", "sink", "outcome"),
		writeSeconds:  desc("sink_write_seconds", "From a write's arrival at its sink to its acknowledgement.", "sink"),
		waiting:       desc("sink_waiting_writes", "Writes of an upsert sink that are not acknowledged.", "sink"),
		failing:       desc("sink_failing_seconds", "How long nothing has succeeded at an upsert sink that is asked; 0 while it answers.", "sink"),
		spooling:      desc("sink_spooling", "1 while writes of some partition are set aside.", "sink"),
		spooled:       desc("sink_spooled_writes_total", "Writes that were set aside.", "sink"),
		drained:       desc("sink_drained_writes_total", "Writes that were sent from where they were set aside.", "sink"),
		spoolFiles:    desc("sink_spool_files", "Files set aside that wait to be drained.", "sink"),
		spoolBytes:    desc("sink_spool_bytes", "Bytes of the files set aside.", "sink"),
		spoolAge:      desc("sink_spool_lag_seconds", "Age of the oldest file set aside: how far the sink is behind; 0 when none waits.", "sink"),
	}
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.records, c.bytes, c.fates, c.dead, c.rows, c.retries, c.staged, c.commit, c.healthy, c.budget, c.used, c.partitions, c.unowned,
		c.sourceFailing, c.lagRecords, c.lagSeconds, c.maxRecords, c.maxSeconds, c.watermark, c.lastCommit, c.uncommitted, c.recovered, c.retrying,
		c.writes, c.requests, c.writeSeconds, c.waiting, c.failing, c.spooling, c.spooled, c.drained, c.spoolFiles, c.spoolBytes, c.spoolAge,
	} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(metrics chan<- prometheus.Metric) {
	s := c.engine.Stats()
	out := emitter{metrics}
	out.counter(c.records, s.Records)
	out.counter(c.bytes, s.Bytes)
	out.counter(c.fates, s.Kept, "kept")
	out.counter(c.fates, s.Dropped, "dropped")
	out.counter(c.fates, s.Dead, "dead")
	for stage, n := range s.DeadByStage {
		out.counter(c.dead, n, stage)
	}
	for sink, n := range s.Rows {
		out.counter(c.rows, n, sink)
	}
	for call, n := range s.Retries {
		out.counter(c.retries, n, call)
	}
	out.counter(c.staged, s.StagedBytes)
	out.histogram(c.commit, s.CommitSeconds)
	out.gauge(c.healthy, number(c.engine.Healthy() == nil))
	out.gauge(c.budget, float64(s.Budget))
	out.gauge(c.used, float64(s.Buffered))
	out.gauge(c.partitions, float64(len(s.Partitions)))
	if s.Unowned >= 0 {
		out.gauge(c.unowned, float64(s.Unowned))
	}
	out.gauge(c.sourceFailing, c.age(s.SourceFailingSince))
	c.collectPartitions(out, s.Partitions)
	for name, sink := range s.Sinks {
		c.collectSink(out, name, sink)
	}
}

func (c *Collector) collectSink(out emitter, name string, s stream.SinkStats) {
	out.counter(c.writes, s.Written, name, "written")
	out.counter(c.writes, s.Refused, name, "refused")
	out.counter(c.writes, s.Repeated, name, "repeated")
	out.counter(c.requests, s.Requests-s.Failed, name, "answered")
	out.counter(c.requests, s.Failed, name, "failed")
	out.histogram(c.writeSeconds, s.WriteSeconds, name)
	out.gauge(c.waiting, float64(s.Waiting), name)
	out.gauge(c.failing, c.age(s.FailingSince), name)
	spool := s.Spool
	if spool == nil {
		return
	}
	out.gauge(c.spooling, number(spool.Spooling), name)
	out.counter(c.spooled, spool.Spooled, name)
	out.counter(c.drained, spool.Drained, name)
	out.gauge(c.spoolFiles, float64(spool.Files), name)
	out.gauge(c.spoolBytes, float64(spool.Bytes), name)
	out.gauge(c.spoolAge, c.age(spool.Oldest), name)
}

// age is how long ago something was, in seconds; 0 for never.
func (c *Collector) age(since time.Time) float64 {
	if since.IsZero() {
		return 0
	}
	return c.now().Sub(since).Seconds()
}

func (c *Collector) collectPartitions(out emitter, partitions []stream.PartitionStats) {
	now := c.now()
	mostRecords, oldest := int64(-1), time.Duration(-1)
	for _, p := range latest(partitions) {
		if p.LagRecords >= 0 {
			out.gauge(c.lagRecords, float64(p.LagRecords), p.Partition)
		}
		if p.LagAge >= 0 {
			out.gauge(c.lagSeconds, p.LagAge.Seconds(), p.Partition)
		}
		mostRecords, oldest = max(mostRecords, p.LagRecords), max(oldest, p.LagAge)
		if !p.Watermark.IsZero() {
			out.gauge(c.watermark, now.Sub(p.Watermark).Seconds(), p.Partition)
		}
		if !p.LastCommit.IsZero() {
			out.gauge(c.lastCommit, float64(p.LastCommit.UnixMilli())/1e3, p.Partition)
		}
		age := time.Duration(0)
		if !p.Oldest.IsZero() {
			age = now.Sub(p.Oldest)
		}
		out.gauge(c.uncommitted, age.Seconds(), p.Partition)
		out.gauge(c.recovered, number(p.Recovered), p.Partition)
		out.gauge(c.retrying, number(p.Retrying != ""), p.Partition)
	}
	if mostRecords >= 0 {
		out.gauge(c.maxRecords, float64(mostRecords))
	}
	if oldest >= 0 {
		out.gauge(c.maxSeconds, oldest.Seconds())
	}
}

// latest leaves out tenures that end while the next one of the same partition is here: one scrape has a series once.
func latest(partitions []stream.PartitionStats) map[string]stream.PartitionStats {
	byName := make(map[string]stream.PartitionStats, len(partitions))
	for _, p := range partitions {
		name := strings.ToValidUTF8(p.Partition, "\uFFFD") // what a label may have
		if old, ok := byName[name]; !ok || old.Epoch < p.Epoch {
			p.Partition = name
			byName[name] = p
		}
	}
	return byName
}

// emitter sends metrics to one scrape.
type emitter struct{ metrics chan<- prometheus.Metric }

func (e emitter) counter(d *prometheus.Desc, n uint64, labels ...string) {
	e.metrics <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
}

func (e emitter) gauge(d *prometheus.Desc, x float64, labels ...string) {
	e.metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, x, labels...)
}

// histogram makes the cumulative counts that Prometheus wants of the plain ones.
func (e emitter) histogram(d *prometheus.Desc, h stream.Histogram, labels ...string) {
	buckets := make(map[float64]uint64, len(h.Bounds))
	var total uint64
	for i, n := range h.Counts {
		total += n
		if i < len(h.Bounds) {
			buckets[h.Bounds[i]] = total
		}
	}
	e.metrics <- prometheus.MustNewConstHistogram(d, total, h.Sum, buckets, labels...)
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
