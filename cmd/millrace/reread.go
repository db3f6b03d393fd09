package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// reread is the pipeline's own log as the source reads it once more, up to where the pipeline has committed, through the decoder and
// the processors as the file says them now. Nothing is owned, and what is behind those ends is the pipeline's to write.
type reread struct {
	plan   *plan
	source stream.Rereader
	since  time.Time // when the log took the first record to read; zero: the oldest
	ends   map[string]stream.Position
	buried map[refusedRecord]bool // dead letters that a replay of dead letters brings to all sinks

	mu     sync.Mutex
	left   int64    // records that are among buried
	failed int64    // other records that the decoder or a processor refuses
	reason string   // of one of those
	cut    []string // partitions of which the log may have removed some
}

// clientsAhead is how far the clock of a client may be ahead of the log's: so long before --from begins the reading.
const clientsAhead = 24 * time.Hour

var errNothingCommitted = errors.New("the pipeline has committed nothing yet, so there is nothing to replay: run it")

// openReread finds the ends, and then the dead letters before them.
func (p *plan) openReread(ctx context.Context, out *parts, from int64) (*reread, error) {
	src, err := p.source.open(ctx, out.config.Log)
	if err != nil {
		return nil, p.source.at.Error(err)
	}
	committed, err := src.Checkpoints(ctx)
	if err != nil {
		return nil, fmt.Errorf("what is committed: %w", err)
	}
	if len(committed) == 0 {
		return nil, errNothingCommitted
	}
	r := &reread{plan: p, source: src, ends: map[string]stream.Position{}}
	for partition, c := range committed {
		r.ends[partition] = c.Pos
	}
	if from != earliest {
		r.since = time.UnixMicro(from).Add(-clientsAhead)
	}
	refusals, err := out.refusals(ctx)
	r.buried = refusals[""]
	return r, err
}

// events calls visit with all events that the log has now and that where takes, those of one partition in the order of the log, from
// one goroutine at a time. It counts anew.
func (r *reread) events(ctx context.Context, where func(*stream.Event) bool, visit func(partition string, e *stream.Event) error) error {
	r.left, r.failed = 0, 0
	trials := map[string]*trial{}
	for partition := range r.ends {
		trials[partition] = newTrial(r.plan)
	}
	cut, err := r.source.Reread(ctx, r.since, r.ends, func(partition string, rs []stream.Record) error {
		for i := range rs {
			events, err := r.record(ctx, trials[partition], partition, &rs[i])
			if err != nil {
				return err
			}
			if err := r.pass(partition, events, where, visit); err != nil {
				return err
			}
		}
		return nil
	})
	r.cut = cut
	return err
}

// record is what becomes of one record, and counts it if that is nothing.
func (r *reread) record(ctx context.Context, t *trial, partition string, rec *stream.Record) ([]*stream.Event, error) {
	if r.buried[refusedRecord{partition, rec.Pos}] {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.left++
		return nil, nil
	}
	events, stage, failure, err := t.record(ctx, rec)
	if failure != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.failed++
		r.reason = fmt.Sprintf("%s: %s", stage, failure)
	}
	return events, err
}

// pass hands events on; whoever visits has no lock of its own.
func (r *reread) pass(partition string, events []*stream.Event, where func(*stream.Event) bool, visit func(string, *stream.Event) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range events {
		if !where(e) {
			continue
		}
		if err := visit(partition, e); err != nil {
			return err
		}
	}
	return nil
}

// notes are what the operator has to know beside the counts.
func (r *reread) notes() []string {
	var notes []string
	if r.left > 0 {
		notes = append(notes, count(r.left, "record")+" left to dlq replay, which brings dead letters to all sinks")
	}
	if len(r.cut) > 0 {
		since := "what was committed"
		if !r.since.IsZero() {
			since = "what came since " + r.since.UTC().Format(time.RFC3339) + ", a day before --from"
		}
		notes = append(notes, fmt.Sprintf("the log may no longer have all of %s, and what it has removed is not written: %s", since, strings.Join(r.cut, ", ")))
	}
	return notes
}
