package dlq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/millrace-io/millrace/sinks/deadletter"
	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
)

// Source delivers the letters of a run that one sink has not got, or none has. It ends when all are committed.
type Source struct {
	run        *Run
	sink       string
	partitions map[string][]entry
	log        *slog.Logger
}

var _ stream.Source = (*Source)(nil)

// entry is one letter to deliver.
type entry struct {
	pos stream.Position
	at  deadletter.Ref
}

// Sources are the run's letters by the sink that they are for; "" stands for all sinks. It reads the files and holds about 100 bytes
// for each letter. A file that was removed since the run began has no letters any more; log tells. A nil log is none.
func (r *Run) Sources(ctx context.Context, log *slog.Logger) (map[string]*Source, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	all := map[string]*Source{}
	for _, file := range r.Files {
		found := int64(0)
		for l, err := range r.archive.lettersOf(ctx, file.Key) {
			if err != nil {
				return nil, err
			}
			if l.At.Key != file.Key || !r.Has(l.At) {
				continue
			}
			found++
			sink, origin := Aim(l)
			if all[sink] == nil {
				all[sink] = &Source{r, sink, map[string][]entry{}, log}
			}
			partition := Partition(r.Number, sink, origin)
			all[sink].partitions[partition] = append(all[sink].partitions[partition], entry{l.Position, l.At})
		}
		if found == 0 {
			log.Warn("a file of dead letters was removed before they were replayed", "file", file.Key)
		}
	}
	for _, s := range all {
		for name, entries := range s.partitions {
			slices.SortStableFunc(entries, func(x, y entry) int { return x.pos.Compare(y.pos) })
			// A record that a sink refused in two commits (it was set aside in one of them) goes there once.
			s.partitions[name] = slices.CompactFunc(entries, func(x, y entry) bool { return x.pos == y.pos })
		}
	}
	return all, nil
}

// Letters is how many there are to deliver, whatever was committed before.
func (s *Source) Letters() (n int64) {
	for _, entries := range s.partitions {
		n += int64(len(entries))
	}
	return n
}

// Checkpoints is what all runs committed.
func (s *Source) Checkpoints(ctx context.Context) (map[string]stream.Checkpoint, error) {
	return s.run.archive.Checkpoints(ctx)
}

// parallel is how many partitions are read at once.
const parallel = 8

// Run delivers until all is committed, ctx ends, or another process has taken the run over.
func (s *Source) Run(ctx context.Context, assigned func(stream.Assignment) (stream.Consumer, error)) error {
	own, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		mu     sync.Mutex
		failed error
		wg     sync.WaitGroup
	)
	places := make(chan struct{}, parallel)
	for _, name := range slices.Sorted(maps.Keys(s.partitions)) {
		select {
		case places <- struct{}{}:
		case <-own.Done():
		}
		if own.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-places }()
			if err := s.partition(own, name, assigned); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if failed == nil { // what follows is of its own making
					failed = fmt.Errorf("partition %s: %w", name, err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil && errors.Is(failed, ctx.Err()) {
		return nil
	}
	return failed
}

// partition is one tenure.
func (s *Source) partition(ctx context.Context, name string, assigned func(stream.Assignment) (stream.Consumer, error)) error {
	t, err := s.run.claim(ctx, name)
	if err != nil || t.saved.Ended {
		return err
	}
	t.left = int64(len(s.partitions[name]))
	consumer, err := assigned(t)
	if err != nil {
		return err
	}
	why := stream.Ended
	err = s.deliver(ctx, t, consumer)
	switch {
	case errors.Is(err, stream.ErrLost):
		consumer.Abort()
		return err
	case ctx.Err() != nil:
		why, err = stream.Handoff, nil
	case err != nil:
		why = stream.Handoff
	}
	whole := context.WithoutCancel(ctx)
	if drained := consumer.Drain(whole, why); drained != nil {
		consumer.Abort()
		return errors.Join(err, drained)
	}
	if why == stream.Handoff {
		return err
	}
	return t.end(whole)
}

// Bounds of what is delivered at once.
const (
	deliverLetters = 256
	deliverBytes   = 1 << 20
)

func (s *Source) deliver(ctx context.Context, t *tenure, consumer stream.Consumer) error {
	entries := s.partitions[t.saved.Partition]
	if after, ok := consumer.Start(); ok {
		i, found := slices.BinarySearchFunc(entries, after, func(e entry, pos stream.Position) int { return e.pos.Compare(pos) })
		if found {
			i++
		}
		entries = entries[i:]
		t.delivered(i)
	}
	letters := deadletter.NewReader(s.run.archive.store)
	defer letters.Close()
	var some []stream.Record
	bytes := int64(0)
	for i, e := range entries {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		l, err := letters.Letter(ctx, e.at)
		if err == nil {
			var d *stream.DeadLetter
			if d, err = l.DeadLetter(); err == nil {
				some = append(some, *d.Record)
				bytes += e.at.Size
			}
		}
		if err != nil && !errors.Is(err, objects.ErrNotFound) { // removed a moment ago: Sources of a later call tells
			return err
		}
		if len(some) < deliverLetters && bytes < deliverBytes && i < len(entries)-1 || len(some) == 0 {
			continue
		}
		if err := consumer.Deliver(ctx, some); err != nil {
			return err
		}
		t.delivered(len(some))
		some, bytes = nil, 0 // the engine has it
	}
	return nil
}
