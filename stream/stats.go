package stream

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"
)

// NewHistogram is empty, with bounds from milliseconds to a minute.
func NewHistogram() Histogram {
	bounds := []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	return Histogram{Bounds: bounds, Counts: make([]uint64, len(bounds)+1)}
}

// Observe counts one duration.
func (h *Histogram) Observe(d time.Duration) {
	h.Counts[sort.SearchFloat64s(h.Bounds, d.Seconds())]++
	h.Sum += d.Seconds()
}

// Clone is a copy that Observe does not change.
func (h *Histogram) Clone() Histogram {
	return Histogram{h.Bounds, slices.Clone(h.Counts), h.Sum}
}

// Stats returns a copy of the engine's state. Partitions are in order of their names.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.counts
	s.DeadByStage, s.Rows, s.Retries = maps.Clone(s.DeadByStage), maps.Clone(s.Rows), maps.Clone(s.Retries)
	s.CommitSeconds = s.CommitSeconds.Clone()
	s.Sinks = map[string]SinkStats{}
	for _, sink := range e.cfg.Sinks {
		if o, ok := sink.Upsert.(observed); ok {
			s.Sinks[sink.Name] = o.Stats()
		}
	}
	s.Budget, s.Buffered = e.cfg.Memory, e.budget.used()
	s.Unowned = -1
	if e.overview != nil {
		s.Unowned = e.overview.Unowned()
	}
	if e.contact != nil {
		s.SourceFailing, s.SourceFailingSince = e.contact.Failing()
	}
	for w := range e.workers {
		s.Partitions = append(s.Partitions, w.stats())
	}
	slices.SortFunc(s.Partitions, func(a, b PartitionStats) int { return strings.Compare(a.Partition, b.Partition) })
	return s
}

// observed is an Upsert that tells how its writes go.
type observed interface {
	Stats() SinkStats // safe for concurrent use
}

// Healthy is nil while every partition that has work makes progress. The error names the partition and what it waits for.
func (e *Engine) Healthy() error {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	for w := range e.workers {
		if err := w.stalled(now, e.cfg); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) stats() PartitionStats {
	records, age := w.assignment.Lag()
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.public
	p.LagRecords, p.LagAge = records, age
	return p
}

func (w *worker) stalled(now time.Time, cfg Config) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.public
	due := w.progress.Add(cfg.StallAfter)
	if w.busy == "" && p.Oldest.IsZero() {
		return nil
	}
	if w.busy == "" { // waiting for company until the commit is due
		due = due.Add(cfg.CommitAge)
	}
	if now.Before(due) {
		return nil
	}
	what := w.busy
	if p.Retrying != "" {
		what = p.Retrying
	}
	return fmt.Errorf("partition %s: no progress for %s: %s", p.Partition, now.Sub(w.progress).Round(time.Second), what)
}

// update changes what Stats shows of this worker.
func (w *worker) update(change func(*PartitionStats)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.public)
}

// working says what the worker does from now on; empty for waiting. It counts as progress.
func (w *worker) working(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy, w.progress = what, time.Now()
}
