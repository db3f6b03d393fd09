package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/millrace-io/millrace/sinks/deadletter"
	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/sources/dlq"
	"github.com/millrace-io/millrace/stream"
)

func dlqReplay(ctx context.Context, c *call) int {
	flags := flag.NewFlagSet("dlq replay", flag.ContinueOnError)
	filter, dry := flags.String("filter", "", ""), flags.Bool("dry-run", false, "")
	path, err := c.oneFile(flags)
	var take func(*deadletter.Letter) bool
	if err == nil {
		take, err = letterFilter(*filter)
	}
	if err != nil {
		return c.usage("%s", err)
	}
	p := c.load(path)
	if p == nil {
		return exitFail
	}
	r := &letterReplay{call: c, plan: p, filter: *filter, take: func(l *deadletter.Letter) bool { return take(l) && p.knows(l) }}
	do := r.all
	if *dry {
		do = r.dryRun
	}
	if err := do(ctx); err != nil {
		return c.fail(err)
	}
	return exitOK
}

// knows says that the file has the sink that a letter is for.
func (p *plan) knows(l *deadletter.Letter) bool {
	sink, _ := dlq.Aim(l)
	return sink == "" || slices.ContainsFunc(p.sinks, func(s sinkPlan) bool { return s.name == sink && s.upsert != nil })
}

// letterReplay is one call of dlq replay.
type letterReplay struct {
	*call
	plan   *plan
	filter string
	take   func(*deadletter.Letter) bool
}

// all goes on with runs that are not finished, and then replays what the filter takes.
func (r *letterReplay) all(ctx context.Context) error {
	log := r.logger(runFlags{format: "text", level: slog.LevelWarn})
	soft, hard, release := stopping(ctx, log)
	defer release()
	limitMemory(r.plan.memory())
	parts, err := r.plan.openSinks(soft, objects.Options{Log: log})
	if err == nil {
		err = parts.check(soft)
	}
	if err != nil {
		return err
	}
	runs, err := parts.letters.Runs(soft)
	if err != nil {
		return err
	}
	for _, run := range runs {
		if run.Done {
			continue
		}
		fmt.Fprintf(r.stdout, "run %d: going on with a replay that was not finished\n", run.Number)
		if err := r.run(soft, hard, parts, run); err != nil {
			return err
		}
	}
	run, err := parts.letters.Begin(soft, r.filter, r.take, r.damaged)
	if err != nil {
		return err
	}
	if run == nil {
		fmt.Fprintln(r.stdout, "nothing to replay: no dead letter is open that the filter takes and that can be replayed")
		return nil
	}
	return r.run(soft, hard, parts, run)
}

// run carries the letters of one run to where they were to go.
func (r *letterReplay) run(soft, hard context.Context, parts *parts, run *dlq.Run) error {
	sources, err := run.Sources(soft, parts.config.Log)
	if err != nil {
		return err
	}
	fmt.Fprintf(r.stdout, "run %d: %s\n", run.Number, count(run.Letters, "letter"))
	for _, sink := range slices.Sorted(maps.Keys(sources)) {
		to, err := parts.only(sink)
		if err != nil {
			return fmt.Errorf("run %d: %w", run.Number, err)
		}
		engine, err := stream.New(to)
		if err != nil {
			return err
		}
		err = engine.Run(soft, hard, sources[sink])
		s := engine.Stats()
		if s.Records == 0 && err == nil {
			continue // done before by a replay that was not finished
		}
		fmt.Fprintf(r.stdout, "run %d: to %s: %s = %d kept + %d dropped + %d dead again; %s by a sink\n",
			run.Number, cmp.Or(sink, "all sinks"), count(int64(s.Records), "letter"), s.Kept, s.Dropped, s.Dead, count(int64(s.Rows[stream.DeadLetters]-s.Dead), "refusal"))
		if err != nil {
			return fmt.Errorf("run %d: %w", run.Number, err)
		}
		if soft.Err() != nil {
			return fmt.Errorf("run %d was stopped; the next replay goes on with it", run.Number)
		}
	}
	return run.Finish(hard)
}

// only is the engine's configuration for one sink of a replay, or for all of them. A replay sets nothing aside: it waits.
func (out *parts) only(sink string) (stream.Config, error) {
	c := out.config
	if sink == "" {
		c.Sinks = slices.DeleteFunc(slices.Clone(c.Sinks), func(s stream.Sink) bool { return s.Upsert != nil })
	} else {
		c.Sinks = nil
	}
	for _, u := range out.upserts {
		if sink == "" || sink == u.name {
			c.Sinks = append(c.Sinks, stream.Sink{Name: u.name, Where: u.where, Upsert: inPlace{u.sink}})
		}
	}
	if len(c.Sinks) == 0 {
		return c, fmt.Errorf("it has letters for the sink %q, which the pipeline file no longer has; run once with that sink", sink)
	}
	return c, nil
}

// inPlace gives a sink the events of a replay as those of the partition that they are of.
type inPlace struct{ stream.Upsert }

func (u inPlace) Open(ctx context.Context, t stream.Tenure) (stream.UpsertWriter, error) {
	t.Partition = dlq.Origin(t.Partition)
	return u.Upsert.Open(ctx, t)
}

// fate is what would become of some letters.
type fate struct {
	to, what, stage, reason string
}

// dryRun says what would become of the letters, as far as decoding and processing tell.
func (r *letterReplay) dryRun(ctx context.Context) error {
	archive, runs, err := r.plan.openLetters(ctx)
	if err != nil {
		return err
	}
	try := newTrial(r.plan)
	fates := map[fate]int64{}
	total := int64(0)
	for l, err := range archive.Letters(ctx) {
		if errors.Is(err, deadletter.ErrDamaged) {
			r.damaged(err)
			continue
		}
		if err != nil {
			return err
		}
		if !dlq.Open(runs, l) || !r.take(l) {
			continue
		}
		f, err := try.letter(ctx, l)
		if err != nil {
			return err
		}
		fates[f]++
		total++
	}
	fmt.Fprintf(r.stdout, "%s would be replayed\n", count(total, "dead letter"))
	if total == 0 {
		return nil
	}
	t := tabwriter.NewWriter(r.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "COUNT\tTO\tFATE\tSTAGE\tREASON")
	for _, f := range slices.SortedFunc(maps.Keys(fates), func(x, y fate) int {
		return cmp.Or(cmp.Compare(x.to, y.to), -cmp.Compare(x.what, y.what), cmp.Compare(fates[y], fates[x]), cmp.Compare(x.reason, y.reason))
	}) {
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\n", fates[f], f.to, f.what, cmp.Or(f.stage, "-"), cmp.Or(shorten(printable(f.reason), reasonWidth), "-"))
	}
	return t.Flush()
}

// trial takes records through the decoder and the processors, and no further.
type trial struct {
	decoder    stream.Decoder
	processors []stream.Processor
	batch      *stream.Batch
}

func newTrial(p *plan) *trial {
	t := &trial{decoder: p.decoder(), batch: stream.NewBatch(p.schema)}
	for _, c := range p.processors {
		t.processors = append(t.processors, c.New())
	}
	return t
}

func (t *trial) letter(ctx context.Context, l *deadletter.Letter) (fate, error) {
	sink, _ := dlq.Aim(l)
	f := fate{to: cmp.Or(sink, "all sinks"), what: "dropped"}
	d, err := l.DeadLetter()
	if err != nil {
		return f, err
	}
	events, stage, failure, err := t.record(ctx, d.Record)
	switch {
	case failure != nil:
		f.what, f.stage, f.reason = "dead again", stage, generalReason(failure.Error())
	case len(events) > 0:
		f.what = "kept"
	}
	return f, err
}

// record is the events that are left of a record, valid until the next one. A failure, with its stage, makes it a dead letter; err is
// about the processors' own means.
func (t *trial) record(ctx context.Context, r *stream.Record) (events []*stream.Event, stage string, failure, err error) {
	t.batch.Reset()
	if r.Err != nil {
		return nil, "source", r.Err, nil
	}
	if err := t.decoder.Decode(r, t.batch); err != nil {
		return nil, "decode", err, nil
	}
	for _, p := range t.processors {
		if err := p.Process(ctx, t.batch); err != nil {
			return nil, "", nil, err
		}
	}
	for i := range t.batch.Events {
		e := &t.batch.Events[i]
		if stage, failure := e.Failure(); failure != nil {
			return nil, stage, failure, nil
		}
		if e.Alive() {
			events = append(events, e)
		}
	}
	return events, "", nil, nil
}
