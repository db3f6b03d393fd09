package main

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"time"

	"github.com/millrace-io/millrace/cmd/millrace/pipelinefile"
	"github.com/millrace-io/millrace/processors/decode"
	"github.com/millrace-io/millrace/processors/expr"
	"github.com/millrace-io/millrace/sinks/deadletter"
	"github.com/millrace-io/millrace/sinks/dynamodb"
	httpsink "github.com/millrace-io/millrace/sinks/http"
	kafkasink "github.com/millrace-io/millrace/sinks/kafka"
	kinesissink "github.com/millrace-io/millrace/sinks/kinesis"
	natssink "github.com/millrace-io/millrace/sinks/nats"
	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/sinks/opensearch"
	"github.com/millrace-io/millrace/sinks/parquet"
	"github.com/millrace-io/millrace/sinks/redis"
	"github.com/millrace-io/millrace/sources/collect/kafkalog"
	"github.com/millrace-io/millrace/sources/collect/kinesislog"
	"github.com/millrace-io/millrace/sources/collect/natslog"
	"github.com/millrace-io/millrace/sources/files"
	"github.com/millrace-io/millrace/sources/kafka"
	"github.com/millrace-io/millrace/sources/kinesis"
	"github.com/millrace-io/millrace/sources/nats"
	"github.com/millrace-io/millrace/stream"
)

// This file is the only one that names every source, processor and sink. A new one is one case here.

// newPlan makes a plan of a pipeline file. What is wrong stands in the file's problems.
func newPlan(file *pipelinefile.File) *plan {
	p := &plan{file: file}
	p.format, p.schema, p.decoder = wireDecode(file.Decode)
	for _, c := range file.Sources {
		p.wireSource(c, p.format)
	}
	for _, c := range file.Processors {
		p.wireProcessor(c)
	}
	for _, s := range file.Sinks {
		for _, c := range s.Kinds {
			p.wireSink(s, c)
		}
	}
	p.checkJoins()
	p.wireDeadLetters(file.DeadLetters)
	p.wireSpool(file.Spool)
	p.checkPlaces()
	return p
}

// wireDecode leaves the schema nil when the decode entry is wrong: then nothing can be said about columns.
func wireDecode(v pipelinefile.Value) (cfg *decode.Config, schema *stream.Schema, decoder func() stream.Decoder) {
	cfg = new(decode.Config)
	if !v.Into(cfg) {
		return cfg, nil, nil
	}
	schema, err := cfg.Schema()
	if err == nil {
		decoder, err = decode.New(*cfg, schema)
	}
	v.Reject(err)
	return cfg, schema, decoder
}

// wireLog is where the collector puts its events.
func wireLog(c *pipelinefile.Choice) logPlan {
	to := logPlan{at: c.Value, kind: c.Kind}
	switch {
	case c.Is("kafka"):
		cfg := new(kafkalog.Config)
		c.Into(cfg)
		to.open = func(_ context.Context, deadline time.Duration, log *slog.Logger) (eventLog, error) {
			return kafkalog.New(*cfg, deadline, log)
		}
	case c.Is("nats"):
		cfg := new(natslog.Config)
		c.Into(cfg)
		to.open = func(_ context.Context, deadline time.Duration, log *slog.Logger) (eventLog, error) {
			return natslog.Open(*cfg, deadline, log)
		}
	case c.Is("kinesis"):
		cfg := new(kinesislog.Config)
		c.Into(cfg)
		to.open = func(ctx context.Context, _ time.Duration, log *slog.Logger) (eventLog, error) {
			return kinesislog.Open(ctx, *cfg, log)
		}
	default:
		c.Unknown("stream")
	}
	return to
}

func (p *plan) wireSource(c *pipelinefile.Choice, format *decode.Config) {
	p.source = sourcePlan{kind: c.Kind, at: c.Value}
	switch {
	case c.Is("kafka"):
		cfg := new(kafka.Config)
		c.Into(cfg)
		p.source.ordering = stream.ByTime // a topic may get more partitions
		p.source.joins = newJoins(cfg)
		p.source.open = func(_ context.Context, log *slog.Logger) (source, error) {
			return kafka.New(*cfg, kafka.Options{Pipeline: p.file.Name, Log: log, Transactions: p.source.joins.transactions})
		}
	case c.Is("nats"):
		cfg := &nats.Config{Bucket: "millrace-" + p.file.Name}
		c.Into(cfg)
		p.source.short = true // the stream's sequence
		p.source.open = func(_ context.Context, log *slog.Logger) (source, error) {
			return nats.New(*cfg, nats.Options{Pipeline: p.file.Name, Log: log})
		}
	case c.Is("kinesis"):
		cfg := &kinesis.Config{Table: "millrace-" + p.file.Name}
		c.Into(cfg)
		p.source.open = func(_ context.Context, log *slog.Logger) (source, error) {
			return kinesis.New(*cfg, kinesis.Options{Pipeline: p.file.Name, Log: log})
		}
	case c.Is("files"):
		cfg := new(files.Config)
		c.Into(cfg)
		wireCSV(c, cfg, format)
		p.source.ordering = stream.ByTime
		p.source.end = func() { cfg.Follow = false }
		p.source.open = func(_ context.Context, log *slog.Logger) (source, error) {
			return files.New(*cfg, p.file.Name, log), nil
		}
	default:
		c.Unknown("source", "collect")
	}
	if format.WantsHeader() && c.Kind != "files" {
		p.file.Decode.Child("csv").Child("columns").Problem("is missing; want the names of the fields: records from %s have no header line", c.Kind)
	}
}

// wireCSV makes the files' first lines arrive where the decoder wants them.
func wireCSV(c *pipelinefile.Choice, cfg *files.Config, format *decode.Config) {
	if format.Format != decode.CSV {
		return
	}
	if header := c.Child("header"); !header.Present() && format.WantsHeader() {
		cfg.Header = files.CSV
	} else if format.WantsHeader() && cfg.Header != files.CSV {
		header.Problem("is %q; want csv, or the names of the fields in decode.csv.columns", cfg.Header)
	}
	if !c.Child("delimiter").Present() {
		cfg.Delimiter = format.CSV.Delimiter
	}
}

// appends is why a sink is not replayed into.
const appends = "its readers would get every event again"

func (p *plan) wireSink(s *pipelinefile.Sink, c *pipelinefile.Choice) {
	switch {
	case c.Is("parquet"):
		cfg := new(parquet.Config)
		p.into(c, cfg)
		p.removes(s, false)
		p.addSink(s, c.Child("url"), sinkPlan{
			url: cfg.URL, age: cfg.Roll.Age, idle: cfg.Roll.Idle,
			open: func(store objects.Store) (inspected[*stream.Event], error) { return parquet.New(store, *cfg) },
		})
	case c.Is("opensearch"):
		cfg := new(opensearch.Config)
		p.into(c, cfg)
		removes, once := p.removes(s, cfg.Action != "create"), ""
		if cfg.Action == "update" {
			once = "it adds fields to a document in the order of the log, and a replay has another"
		}
		p.addUpsert(s, c, sinkPlan{removes: removes, once: once, upsert: func(log *slog.Logger) (upsertSink, error) {
			return opensearch.New(*cfg, opensearch.Options{
				Name: s.Name, Schema: p.schema, Ordering: p.source.ordering, Short: p.source.short, Delete: removes, Mend: p.mend, Log: log,
			})
		}})
	case c.Is("dynamodb"):
		cfg := new(dynamodb.Config)
		p.into(c, cfg)
		removes := p.removes(s, true)
		p.addUpsert(s, c, sinkPlan{removes: removes, upsert: func(log *slog.Logger) (upsertSink, error) {
			return dynamodb.New(*cfg, dynamodb.Options{
				Name: s.Name, Schema: p.schema, Ordering: p.source.ordering, Delete: removes, Mend: p.mend, Log: log,
			})
		}})
	case c.Is("kafka"):
		cfg := new(kafkasink.Config)
		p.into(c, cfg)
		p.removes(s, false)
		transactions := p.join(s, c, cfg)
		p.addUpsert(s, c, sinkPlan{once: appends, age: cfg.CommitAge, joined: transactions != nil, upsert: func(log *slog.Logger) (upsertSink, error) {
			return kafkasink.New(*cfg, kafkasink.Options{Name: s.Name, Pipeline: p.file.Name, Log: log, Transactions: transactions})
		}})
	case c.Is("redis"):
		cfg := new(redis.Config)
		p.into(c, cfg)
		removes := p.removes(s, true)
		p.addUpsert(s, c, sinkPlan{removes: removes, upsert: func(log *slog.Logger) (upsertSink, error) {
			return redis.New(*cfg, redis.Options{
				Name: s.Name, Schema: p.schema, Ordering: p.source.ordering, Delete: removes, Mend: p.mend, Log: log,
			})
		}})
	case c.Is("kinesis"):
		cfg := new(kinesissink.Config)
		p.into(c, cfg)
		p.removes(s, false)
		p.addUpsert(s, c, sinkPlan{once: appends, upsert: func(log *slog.Logger) (upsertSink, error) {
			return kinesissink.New(*cfg, kinesissink.Options{Name: s.Name, Pipeline: p.file.Name, Log: log})
		}})
	case c.Is("nats"):
		cfg := new(natssink.Config)
		p.into(c, cfg)
		p.removes(s, false)
		p.addUpsert(s, c, sinkPlan{once: appends, upsert: func(log *slog.Logger) (upsertSink, error) {
			return natssink.New(*cfg, natssink.Options{Name: s.Name, Pipeline: p.file.Name, Log: log})
		}})
	case c.Is("http"):
		cfg := new(httpsink.Config)
		p.into(c, cfg)
		p.removes(s, false)
		p.addUpsert(s, c, sinkPlan{once: appends, upsert: func(log *slog.Logger) (upsertSink, error) {
			return httpsink.New(*cfg, httpsink.Options{Name: s.Name, Log: log})
		}})
	default:
		c.Unknown("sink")
	}
}

// joins are a kafka source's transactions, and the sinks that are in them.
type joins struct {
	source       *kafka.Config
	transactions *kafka.Transactions
	sinks        []*kafkasink.Config
	at           pipelinefile.Value // of the last sink's
}

func newJoins(source *kafka.Config) *joins {
	return &joins{source: source, transactions: new(kafka.Transactions)}
}

// join makes a sink part of the source's transactions if its entry says so.
func (p *plan) join(s *pipelinefile.Sink, c *pipelinefile.Choice, cfg *kafkasink.Config) *kafka.Transactions {
	at, j := c.Child("transactions"), p.source.joins
	switch {
	case !cfg.Transactions:
		return nil
	case j == nil:
		at.Problem("want a kafka source of the same cluster; the source is %s", p.source.kind)
		return nil
	case !slices.Equal(sorted(cfg.Brokers), sorted(j.source.Brokers)) || !reflect.DeepEqual(cfg.TLS, j.source.TLS) || !reflect.DeepEqual(cfg.SASL, j.source.SASL):
		at.Problem("want the brokers, tls and sasl of the source: a transaction is of one cluster")
	case s.Spool:
		s.Stall.Problem("is spool; what is set aside would be in no transaction")
	}
	j.sinks, j.at = append(j.sinks, cfg), c.Value
	kafkasink.Join(j.transactions, j.sinks...)
	return j.transactions
}

// checkJoins refuses commits so rare that every transaction would time out first.
func (p *plan) checkJoins() {
	j := p.source.joins
	if j == nil || len(j.sinks) == 0 {
		return
	}
	if age := p.commitAge(); j.transactions.Timeout < 2*age {
		j.at.Child("transaction_timeout").Problem("is %s, and %s may pass between two commits; want at least twice that, or a smaller commit_age", j.transactions.Timeout, age)
	}
}

func sorted(of []string) []string { return slices.Sorted(slices.Values(of)) }

// into reads a sink's entry and compares it with the pipeline's columns.
func (p *plan) into(c *pipelinefile.Choice, cfg interface{ CheckSchema(*stream.Schema) error }) {
	if c.Into(cfg) && p.schema != nil {
		c.Reject(cfg.CheckSchema(p.schema))
	}
}

func (p *plan) wireProcessor(c *pipelinefile.Choice) {
	step := stream.ProcessorConfig{Name: fmt.Sprintf("process.%d.%s", len(p.processors)+1, c.Kind)}
	var err error
	switch {
	case c.Is("filter"):
		if condition, ok := c.Text(); ok && p.schema != nil {
			step.New, err = expr.Filter(step.Name, condition, p.schema)
		}
	case c.Is("map"):
		if set, ok := assignments(c); ok && p.schema != nil {
			step.New, err = expr.Map(step.Name, set, p.schema)
		}
	default:
		c.Unknown("processor", "dedupe", "validate", "lambda", "session", "window", "enrich", "anonymise", "features")
	}
	c.Reject(err)
	p.processors = append(p.processors, step)
}

// assignments are column: expression in the order of the file.
func assignments(c *pipelinefile.Choice) (set []expr.Assignment, ok bool) {
	columns, ok := c.Children()
	for _, column := range columns {
		text, isText := column.Text()
		ok = ok && isText
		set = append(set, expr.Assignment{Column: column.Key(), Value: text})
	}
	return set, ok
}

// wireDeadLetters puts the dead letters beside the first sink's files unless the file says where: readers of the lake
// do not see names that begin with an underscore.
func (p *plan) wireDeadLetters(v pipelinefile.Value) {
	cfg := new(deadletter.Config)
	p.dead.at = v.Child("url")
	if lake := p.lake(); lake != nil {
		cfg.URL = join(lake.url, "_dead_letters")
		if !p.dead.at.Present() {
			p.dead.at = lake.at
		}
	}
	if v.Present() || cfg.URL != "" {
		v.Into(cfg)
	} else if n := len(p.sinks); n > 0 && n == len(p.file.Sinks) && !p.staged() {
		p.dead.at.Problem("is missing; want where dead letters go, such as s3://bucket/dead: no sink of the file has a place for them")
	}
	if limit := v.Child("stop_above"); limit.Present() && cfg.StopAbove.Percent == 0 {
		limit.Problem("has no percent; want how many of 100 records may fail, such as {percent: 5}")
	}
	p.dead.url, p.dead.limit = cfg.URL, cfg.StopAbove.Limit()
	p.dead.open = func(store objects.Store) inspected[*stream.DeadLetter] { return deadletter.New(store) }
}

// spoolConfig is the pipeline file's spool.
type spoolConfig struct {
	// URL is where writes are set aside: s3://bucket/prefix, file:///folder or a path. Default: _spool beside the first sink's
	// files, or beside the dead letters.
	URL string `yaml:"url"`

	// StallAfter is how long a commit waits for a sink before its writes are set aside. Default: 5s.
	StallAfter time.Duration `yaml:"stall_after"`
}

// wireSpool says where writes are set aside.
func (p *plan) wireSpool(v pipelinefile.Value) {
	cfg := new(spoolConfig)
	p.spool.at = v.Child("url")
	near := p.dead.url
	if lake := p.lake(); lake != nil {
		near = lake.url
	}
	if near != "" {
		cfg.URL = join(near, "_spool")
	}
	if v.Present() {
		v.Into(cfg)
		if err := objects.CheckURL(cfg.URL); err != nil {
			p.spool.at.Problem("is wrong: %s", err)
		}
	}
	p.spool.url, p.spool.stallAfter = cfg.URL, cfg.StallAfter
}
