package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/millrace-io/millrace/sinks/deadletter"
	"github.com/millrace-io/millrace/sinks/parquet"
	"github.com/millrace-io/millrace/sources/dlq"
	"github.com/millrace-io/millrace/stream"
)

// lake is a sink that holds all events of a pipeline as files: what the other sinks are compared with, and filled again from.
type lake struct {
	name     string
	pipeline string
	schema   *stream.Schema
	sink     *parquet.Sink
	ends     map[string]stream.Position // of the last file of each partition
	// By the source's partitions, with what replays brought of them.
	committed map[string]stream.Position
	rows      map[string]int64
}

var errNoLake = errors.New("no parquet sink takes all events, so there is nothing to compare with or to read again")

// openLake finds the pipeline's lake, a parquet sink without a where, and reads what its files say about themselves.
func (p *plan) openLake(ctx context.Context, out *parts) (*lake, error) {
	for _, s := range p.sinks {
		sink, ok := out.inspectors[s.name].(*parquet.Sink)
		if !ok || s.where != nil {
			continue
		}
		l := &lake{s.name, p.file.Name, p.schema, sink, map[string]stream.Position{}, map[string]stream.Position{}, map[string]int64{}}
		return l, sink.Inspect(ctx, l.pipeline, func(f stream.File) error {
			if f.Err != nil {
				return fmt.Errorf("%s: %w; see verify", f.Key, f.Err)
			}
			pr, origin := f.Provenance, dlq.Origin(f.Provenance.Partition)
			l.ends[pr.Partition] = later(l.ends, pr.Partition, pr.To)
			l.committed[origin] = later(l.committed, origin, pr.To)
			l.rows[origin] += pr.FileRows
			return nil
		}, nil)
	}
	return nil, errNoLake
}

func later(ends map[string]stream.Position, partition string, to stream.Position) stream.Position {
	if end, ok := ends[partition]; ok && end.Compare(to) > 0 {
		return end
	}
	return to
}

// events calls visit with all events that are in files now and that where takes. partition is the source's.
func (l *lake) events(ctx context.Context, where func(*stream.Event) bool, visit func(partition string, e *stream.Event) error) error {
	return l.sink.Events(ctx, l.pipeline, l.schema, l.knows, func(pr stream.Provenance, e *stream.Event) error {
		if where != nil && !where(e) {
			return nil
		}
		return visit(dlq.Origin(pr.Partition), e)
	})
}

// knows leaves out files that came after the lake was opened.
func (l *lake) knows(pr stream.Provenance) bool {
	end, ok := l.ends[pr.Partition]
	return ok && pr.To.Compare(end) <= 0
}

// sinkLake is the lake as one upsert sink was given it.
type sinkLake struct {
	*lake
	where   func(*stream.Event) bool
	refused map[refusedRecord]bool
	unknown map[string]int // how often a partition was asked for that the lake does not know
}

var _ stream.Lake = sinkLake{}

// refusedRecord is a record that the sink refused.
type refusedRecord struct {
	partition string
	pos       stream.Position
}

func (l sinkLake) Committed(partition string) (stream.Position, bool) {
	end, ok := l.committed[partition]
	if !ok {
		l.unknown[partition]++
	}
	return end, ok
}

// note tells of rows of partitions that the lake does not know; empty: there are none.
func (l sinkLake) note() string {
	rows := 0
	for _, n := range l.unknown {
		rows += n
	}
	if rows == 0 {
		return ""
	}
	return fmt.Sprintf("%s of partitions that have committed nothing, such as %q: the first events of a new one, or nobody's",
		count(rows, "row"), slices.Min(slices.Collect(maps.Keys(l.unknown))))
}

func (l sinkLake) Events(ctx context.Context, visit func(partition string, e *stream.Event) error) error {
	return l.events(ctx, l.where, visit)
}

func (l sinkLake) Counts() (map[string]int64, bool) {
	return l.rows, l.where == nil && len(l.refused) == 0
}

func (l sinkLake) Refused(partition string, pos stream.Position) bool {
	return l.refused[refusedRecord{partition, pos}]
}

// auditUpserts compares the upsert sinks with the lake.
func (p *plan) auditUpserts(ctx context.Context, out *parts, deep bool, r *stream.Report) error {
	l, err := p.openLake(ctx, out)
	if errors.Is(err, errNoLake) {
		for _, u := range out.upserts {
			r.Sinks = append(r.Sinks, stream.SinkReport{Sink: u.name, How: "nothing", Notes: []string{err.Error()}})
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the lake: %w", err)
	}
	refused, err := out.refusals(ctx)
	if err != nil {
		return err
	}
	for _, u := range out.upserts {
		checker, ok := u.sink.(stream.Checker)
		if !ok {
			r.Sinks = append(r.Sinks, stream.SinkReport{Sink: u.name, How: "nothing", Notes: []string{"this kind of sink cannot be read back"}})
			continue
		}
		of := sinkLake{l, u.where, refused[u.name], map[string]int{}}
		report, problems, err := checker.Check(ctx, of, deep)
		if err != nil {
			return fmt.Errorf("%s: %w", u.name, err)
		}
		if note := of.note(); note != "" {
			report.Notes = append(report.Notes, note)
		}
		if err := out.aside(ctx, u.name, &report, &problems); err != nil {
			return err
		}
		r.Sinks = append(r.Sinks, report)
		r.Problems = append(r.Problems, problems...)
	}
	return nil
}

// refusals are the records of which a sink need not have everything, by sink: they stand in the dead letters because it refused
// them, or are on their way from there. Under the empty name are those that no sink has: a replay brings them to all. One whose
// replay has ended has to be there, or is a dead letter again.
func (out *parts) refusals(ctx context.Context) (map[string]map[refusedRecord]bool, error) {
	runs, err := out.letters.Runs(ctx)
	if err != nil {
		return nil, err
	}
	all := map[string]map[refusedRecord]bool{"": {}}
	for _, u := range out.upserts {
		all[u.name] = map[refusedRecord]bool{}
	}
	for l, err := range out.letters.Letters(ctx) {
		if errors.Is(err, deadletter.ErrDamaged) {
			continue // the audit of the files has told
		}
		if err != nil {
			return nil, err
		}
		run := dlq.Taken(runs, l.At)
		aim, partition := dlq.Aim(l)
		for sink, records := range all {
			if sink == aim && (run == nil || !run.Done) || aim == "" && run != nil && !run.Done {
				records[refusedRecord{partition, l.Position}] = true
			}
		}
	}
	return all, nil
}

// waiting is a spool that tells what is set aside.
type waiting interface {
	Waiting(ctx context.Context) (files int, bytes int64, err error)
}

// aside takes back what is missing because it is set aside: it comes with the drain.
func (out *parts) aside(ctx context.Context, name string, r *stream.SinkReport, problems *[]stream.Problem) error {
	for _, s := range out.config.Sinks {
		w, ok := s.Upsert.(waiting)
		if s.Name != name || !ok {
			continue
		}
		files, bytes, err := w.Waiting(ctx)
		if err != nil {
			return fmt.Errorf("%s: list what is set aside: %w", name, err)
		}
		if files == 0 {
			return nil
		}
		kept := (*problems)[:0]
		for _, p := range *problems {
			if p.Kind != stream.Missing && p.Kind != stream.Differs {
				kept = append(kept, p)
			}
		}
		r.Notes = append(r.Notes, fmt.Sprintf("%s with %d bytes set aside; what is missing or old may be in there (%d problems)", count(files, "file"), bytes, len(*problems)-len(kept)))
		*problems = kept
	}
	return nil
}
