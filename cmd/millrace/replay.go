package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/millrace-io/millrace/stream"
)

const replayHelp = `write events of the lake, or of the source, into another sink again

Usage: millrace replay [--source] [--from T] [--to T] --into SINK FILE

Reads the files of the first parquet sink that takes all events, and writes what is in them into one of the other sinks: a new
index, a table that was restored from an old backup. It may run beside the pipeline. What the sink has already does not
change, since the sink keeps the newest event of a key, and an event is written as it was the first time. The lake is not written.

  --source       read the pipeline's own source again instead, up to where the pipeline has committed: see below
  --from, --to   events whose event_time (without one: received_at) is at or after T, and before T: 2026-01-05 or
                 2026-01-05T10:00:00Z. Default: all
  --into         an opensearch, dynamodb or redis sink of FILE. Logs and webhooks are not written again: their readers would
                 get every event twice

Where the sink removes rows (delete:), all events that do so are written first, whatever their time: nothing comes back that
was deleted.

With --source the records go through decode and process as FILE says them now: after a mapping was mended, or without a lake. An
event replaces what it made in the sink before. Start the pipeline with the mended FILE first: it writes what comes from then
on. The replay is no member of the pipeline's group, takes no lease and stores nothing; killed, it is simply started again.

  Reading begins a day of the log before --from (files: at the beginning of each) and goes on behind --to, so late events are
  written too. Missed are events of clients whose clocks were ahead by more than a day, and what the log has removed: that is told.

What stands in the dead letters because no sink could have it is left to dlq replay. Rows that the mended FILE no longer makes, or
makes under another key, stay; verify compares the sink with the lake, and so names the rows that were mended. A kafka source whose
start is latest wants --from: nothing says where the pipeline began.

Example:
  $ millrace replay --from 2026-01-05 --to 2026-01-06 --into search clicks.yaml
  search: 118203 events written, 0 refused

Exit codes: 0 done, 1 failed, or events were refused that are not among the dead letters, 2 wrong usage.`

// span is a range of event times in microseconds: from from, before to.
type span struct{ from, to int64 }

const (
	earliest = -1 << 63
	latest   = 1<<63 - 1
)

func (s span) has(e *stream.Event) bool {
	at := e.Values[stream.Time]
	if at.IsNull() {
		at = e.Values[stream.Received]
	}
	if at.IsNull() {
		return s == span{earliest, latest}
	}
	return at.Int() >= s.from && at.Int() < s.to
}

// parseTime reads a day or a time; empty: otherwise.
func parseTime(text string, otherwise int64) (int64, error) {
	if text == "" {
		return otherwise, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339Nano} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UnixMicro(), nil
		}
	}
	return 0, fmt.Errorf("%q is no time; want 2026-01-05 or 2026-01-05T10:00:00Z", text)
}

func replayInto(ctx context.Context, c *call) int {
	flags := flag.NewFlagSet("replay", flag.ContinueOnError)
	from, to, into := flags.String("from", "", ""), flags.String("to", "", ""), flags.String("into", "", "")
	again := flags.Bool("source", false, "")
	path, err := c.oneFile(flags)
	var s span
	if err == nil {
		s.from, err = parseTime(*from, earliest)
	}
	if err == nil {
		s.to, err = parseTime(*to, latest)
	}
	switch {
	case err != nil:
		return c.usage("%s", err)
	case s.from >= s.to:
		return c.usage("--from is not before --to")
	case *into == "":
		return c.usage("--into is missing; want the name of a sink")
	}
	p := c.load(path)
	if p == nil {
		return exitFail
	}
	if err := p.replayable(*into); err != nil {
		return c.fail(err)
	}
	log := c.logger(runFlags{format: "text", level: slog.LevelWarn})
	soft, hard, release := stopping(ctx, log)
	defer release()
	do := p.refillFromLake
	if *again {
		do = p.refillFromSource
	}
	refill, err := do(soft, *into, s, log)
	if err == nil && refill.unknown > 0 {
		err = fmt.Errorf("%s: %s that are not among the dead letters, such as: %s", *into, count(refill.unknown, "refusal"), refill.reason)
	}
	if soft.Err() != nil {
		err = errors.Join(errors.New("stopped before the end; start it again"), context.Cause(hard))
	}
	if refill != nil {
		fmt.Fprintf(c.stdout, "%s: %s written, %d refused\n", *into, count(refill.written-refill.refused, "event"), refill.refused+refill.failed)
		for _, note := range refill.notes {
			fmt.Fprintf(c.stderr, "%s: %s\n", c.name, note)
		}
	}
	if err != nil {
		return c.fail(err)
	}
	return exitOK
}

// replayable says why a sink is not written again.
func (p *plan) replayable(sink string) error {
	var names []string
	for _, s := range p.sinks {
		if s.upsert != nil && s.once == "" {
			names = append(names, s.name)
		}
		switch {
		case s.name != sink:
		case s.upsert == nil:
			return fmt.Errorf("%s is written in files; a replay is into a sink that is not", sink)
		case s.once != "":
			return fmt.Errorf("%s is not replayed into: %s", sink, s.once)
		default:
			return nil
		}
	}
	if names == nil {
		return fmt.Errorf("there is no sink %q, and none that can be replayed into", sink)
	}
	return fmt.Errorf("there is no sink %q; want one of %s", sink, strings.Join(names, ", "))
}

// refill is the writing of events of the lake into one sink.
type refill struct {
	sink    upsertPart
	memory  int64 // bytes that may wait
	log     *slog.Logger
	known   map[refusedRecord]bool // that are among the dead letters
	writers map[string]stream.UpsertWriter
	since   int // events since the last look at what waits

	written, refused, unknown int64 // events; of those refused; refusals that are in no dead letter
	failed                    int64 // records that became no event: unknown, too
	reason                    string
	notes                     []string
}

// history is where the events of a replay are.
type history interface {
	// events calls visit with all events that where takes, valid until visit returns, from one goroutine at a time. It may be called again.
	events(ctx context.Context, where func(*stream.Event) bool, visit func(partition string, e *stream.Event) error) error
}

func (p *plan) refillFromLake(ctx context.Context, sink string, s span, log *slog.Logger) (*refill, error) {
	return p.refill(ctx, sink, s, log, func(out *parts) (history, error) {
		l, err := p.openLake(ctx, out)
		if errors.Is(err, errNoLake) {
			err = fmt.Errorf("%w; replay --source reads the pipeline's own source", err)
		}
		return l, err
	})
}

// refillFromSource mends: the file may make other values of a record than it did when the record came.
func (p *plan) refillFromSource(ctx context.Context, sink string, s span, log *slog.Logger) (*refill, error) {
	p.mend = true
	var again *reread
	r, err := p.refill(ctx, sink, s, log, func(out *parts) (_ history, err error) {
		again, err = p.openReread(ctx, out, s.from)
		return again, err
	})
	if r != nil && again.failed > 0 {
		r.failed, r.unknown, r.reason = again.failed, r.unknown+again.failed, again.reason
	}
	if r != nil {
		r.notes = again.notes()
	}
	return r, err
}

// refill writes the events in s. It is not nil once something may have been written.
func (p *plan) refill(ctx context.Context, sink string, s span, log *slog.Logger, open func(*parts) (history, error)) (*refill, error) {
	limitMemory(p.memory())
	o := patient()
	o.Log = log
	out, err := p.openSinks(ctx, o)
	if err == nil {
		err = out.check(ctx)
	}
	if err != nil {
		return nil, err
	}
	h, err := open(out)
	if err != nil {
		return nil, err
	}
	known, err := out.refusals(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(out.upserts, func(u upsertPart) bool { return u.name == sink })
	r := &refill{sink: out.upserts[i], memory: p.memory() / 2, log: log, known: known[sink], writers: map[string]stream.UpsertWriter{}}
	defer r.close()
	takes := func(in span, also func(*stream.Event) bool) func(*stream.Event) bool {
		return func(e *stream.Event) bool {
			return in.has(e) && (r.sink.where == nil || r.sink.where(e)) && (also == nil || also(e))
		}
	}
	passes := []func(*stream.Event) bool{takes(s, nil)}
	if removes := r.sink.removes; removes != nil {
		passes = []func(*stream.Event) bool{
			takes(span{earliest, latest}, removes),
			takes(s, func(e *stream.Event) bool { return !removes(e) }),
		}
	}
	for _, takes := range passes {
		err := h.events(ctx, takes, func(partition string, e *stream.Event) error { return r.write(ctx, p, partition, e) })
		if err == nil {
			err = r.flush(ctx)
		}
		if err != nil {
			return r, err
		}
	}
	return r, nil
}

// lookEvery is how many events are written between two looks at what waits.
const lookEvery = 1000

func (r *refill) write(ctx context.Context, p *plan, partition string, e *stream.Event) error {
	w := r.writers[partition]
	if w == nil {
		var err error
		if w, err = r.sink.sink.Open(ctx, stream.Tenure{Pipeline: p.file.Name, Sink: r.sink.name, Partition: partition, Schema: p.schema}); err != nil {
			return err
		}
		r.writers[partition] = w
	}
	w.Write([]*stream.Event{e})
	r.written++
	if r.since++; r.since < lookEvery {
		return nil
	}
	r.since = 0
	waiting := int64(0)
	for _, w := range r.writers {
		waiting += w.Buffered()
	}
	if waiting < r.memory {
		return nil
	}
	return r.flush(ctx)
}

// flush waits until all is written, for as long as it takes.
func (r *refill) flush(ctx context.Context) error {
	for partition, w := range r.writers {
		for pause := firstPause; ; pause = min(2*pause, lastPause) {
			refused, err := w.Flush(ctx)
			r.refuse(partition, refused)
			if err == nil {
				break
			}
			var fatal *stream.FatalError
			if errors.As(err, &fatal) || ctx.Err() != nil {
				return err
			}
			r.log.Warn("the sink does not take the events; trying again", "sink", r.sink.name, "error", err)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// Back-off between two tries, doubled from the first to the last.
const (
	firstPause = 200 * time.Millisecond
	lastPause  = 10 * time.Second
)

func (r *refill) refuse(partition string, dead []*stream.DeadLetter) {
	for _, d := range dead {
		r.refused++
		if !r.known[refusedRecord{partition, d.Record.Pos}] {
			r.unknown++
			r.reason = d.Err
		}
	}
}

func (r *refill) close() {
	for _, w := range r.writers {
		w.Close()
	}
}
