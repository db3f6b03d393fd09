package stream

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// commit is the promise. It makes everything up to the last processed record durable, decides, and publishes:
//
//  1. stop at position E: run calls commit between two batches, so every record up to E went through every processor
//  2. flush every upsert sink through E; stage every staged sink, which returns receipts
//  3. snapshot the processors' state
//  4. Assignment.Commit{E, receipts + state + counters}, fenced: this is the decision
//  5. publish the receipts; after a crash the next owner finds them in its checkpoint and publishes first
//  6. only then may the next commit replace the note
func (w *worker) commit() error {
	if !w.pending {
		return nil
	}
	select {
	case <-w.pressure: // this commit is the answer
	default:
	}
	began := time.Now()
	w.working("committing")
	if err := w.flush(); err != nil {
		return err
	}
	p := w.provenance()
	receipts, err := w.stage(p)
	if err != nil {
		return err
	}
	next, err := w.nextNote(p, receipts)
	if err != nil {
		return err
	}
	if err := w.decide(p.To, next); err != nil {
		return err
	}
	w.note = next
	if err := w.publish(receipts); err != nil {
		return err
	}
	w.deleteOverflows()
	w.committed(p, receipts, began)
	return nil
}

// flush waits for the upsert sinks. What they refuse for good becomes dead letters, before those are staged.
func (w *worker) flush() error {
	for i := range w.sinks {
		if w.sinks[i].upsert == nil {
			continue
		}
		if err := w.flushSink(&w.sinks[i]); err != nil {
			return err
		}
	}
	return nil
}

// flushSink waits for one of them. Of a record and a sink there is one dead letter in a commit, however many of the record's events
// the sink refuses: a replay brings all of them back. Each sink that refuses has one of its own, which says why.
func (w *worker) flushSink(s *openSink) error {
	var refused []*DeadLetter
	err := w.attempt(s.Name+".flush", func(ctx context.Context) error {
		more, err := s.upsert.Flush(ctx)
		refused = append(refused, more...)
		return err
	})
	if err != nil {
		return err
	}
	refused = slices.DeleteFunc(refused, func(d *DeadLetter) bool {
		id := refusal{s.Name, d.Record.Pos}
		twice := w.buried[id]
		if w.buried == nil {
			w.buried = map[refusal]bool{}
		}
		w.buried[id] = true
		return twice
	})
	w.bury(refused)
	return w.tolerate(0, refused)
}

// provenance is what all files of this commit say.
func (w *worker) provenance() Provenance {
	p := w.open
	p.Pipeline, p.Partition, p.Epoch = w.tenure.Pipeline, w.tenure.Partition, w.tenure.Epoch
	p.Prev = w.note.Chain
	return p
}

func (w *worker) stage(p Provenance) ([]Receipt, error) {
	var receipts []Receipt
	stage := func(sink string, stage func(context.Context, Provenance) ([]Receipt, error)) error {
		p.Sink = sink
		return w.attempt(sink+".stage", func(ctx context.Context) error {
			rs, err := stage(ctx, p)
			if err == nil {
				receipts = append(receipts, rs...)
			}
			return err
		})
	}
	for _, s := range w.sinks {
		st := s.stager()
		if st == nil {
			continue
		}
		if err := stage(s.Name, st.Stage); err != nil {
			return nil, err
		}
	}
	if err := stage(DeadLetters, w.dead.Stage); err != nil {
		return nil, err
	}
	return receipts, nil
}

// nextNote is what this commit stores. Without files that stay the open range goes on; with some it ends at p.To.
func (w *worker) nextNote(p Provenance, receipts []Receipt) (*note, error) {
	next := &note{
		First: p.First, After: p.After, Read: p.Read, Kept: p.Kept, Dropped: p.Dropped, Dead: p.Dead,
		Chain: p.Prev, Watermark: w.watermark, Base: w.note.Base,
	}
	if err := w.snapshot(next); err != nil {
		return nil, err
	}
	if len(receipts) == 0 {
		return next, nil
	}
	next.Receipts = receipts
	next.Undo = &undo{First: p.First, After: p.After, Chain: p.Prev, State: w.note.Base}
	digests := files(receipts)
	if len(digests) == 0 {
		return next, nil
	}
	next.First, next.After = false, p.To
	next.Read, next.Kept, next.Dropped, next.Dead = 0, 0, 0, 0
	next.Chain, next.Base = ChainDigest(p.Prev, digests), next.State
	return next, nil
}

// files are the digests of the files that stay; what is set aside goes again.
func files(receipts []Receipt) []Digest {
	var digests []Digest
	for _, r := range receipts {
		if !r.Aside {
			digests = append(digests, r.Digest)
		}
	}
	return digests
}

// eachState calls fn for the processors that keep state.
func (w *worker) eachState(fn func(name string, s State) error) error {
	for i, p := range w.processors {
		if s, ok := p.(State); ok {
			if err := fn(w.cfg.Processors[i].Name, s); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *worker) snapshot(n *note) error {
	return w.eachState(func(name string, s State) error {
		return w.attempt(name+".snapshot", func(ctx context.Context) error {
			reference, err := s.Snapshot(ctx)
			if n.State == nil {
				n.State = states{}
			}
			n.State[name] = reference
			return err
		})
	})
}

// decide stores the checkpoint; receipts that do not fit into the note go to an object first.
func (w *worker) decide(pos Position, next *note) error {
	text := next.encode()
	if len(text) > NoteLimit {
		// No name twice: a fenced worker that wakes must not write over the object that the new owner's note names.
		next.Overflow = fmt.Sprintf("%s-%s-%s.json", digestOf(w.tenure.Partition), pos, rand.Text())
		body, err := json.Marshal(next.Receipts)
		if err != nil {
			return err
		}
		err = w.attempt("overflow.put", func(ctx context.Context) error { return w.cfg.Overflow.Put(ctx, next.Overflow, body) })
		if err != nil {
			return err
		}
		short := *next
		short.Receipts = nil
		if text = short.encode(); len(text) > NoteLimit {
			return Fatal(fmt.Errorf("the checkpoint's note has %d bytes without receipts; at most %d fit", len(text), NoteLimit))
		}
	}
	if w.note.Overflow != "" {
		w.overflows = append(w.overflows, w.note.Overflow)
	}
	return w.attempt("commit", func(ctx context.Context) error {
		return w.assignment.Commit(ctx, Checkpoint{Pos: pos, Note: text})
	})
}

// publishers at once for one partition: a commit of many hours has many files.
const publishers = 8

// publish makes the receipts' data visible, then removes what they remove. ErrExpired if any of them is gone.
func (w *worker) publish(receipts []Receipt) error {
	var shows, removes []Receipt
	for _, r := range receipts {
		if r.Removes {
			removes = append(removes, r)
		} else {
			shows = append(shows, r)
		}
	}
	if err := w.publishAll(shows); err != nil {
		return err
	}
	return w.publishAll(removes)
}

func (w *worker) publishAll(receipts []Receipt) error {
	return w.each(receipts, "publish", func(ctx context.Context, r Receipt) error { return w.publisher(r.Sink).Publish(ctx, r) })
}

// each calls fn for all receipts, a few at a time, and returns the first error.
func (w *worker) each(receipts []Receipt, call string, fn func(context.Context, Receipt) error) error {
	errs := make([]error, len(receipts))
	limit := make(chan struct{}, publishers)
	var wg sync.WaitGroup
	for i, r := range receipts {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			errs[i] = w.attempt(r.Sink+"."+call, func(ctx context.Context) error { return fn(ctx, r) })
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// publisher is what the engine needs of a staged sink when it holds a receipt, whatever the sink is written with.
type publisher interface {
	Publish(ctx context.Context, r Receipt) error
	Withdraw(ctx context.Context, r Receipt) error
}

func (w *worker) publisher(sink string) publisher {
	if sink == DeadLetters {
		return w.cfg.DeadLetters
	}
	for _, s := range w.cfg.Sinks {
		if s.Name == sink && s.Staged != nil {
			return s.Staged
		}
		if spool, ok := s.Upsert.(Spool); ok && s.Name == sink {
			return spool
		}
	}
	return unknownSink(sink)
}

// unknownSink answers for a sink that the pipeline file had when its data was committed.
type unknownSink string

func (s unknownSink) Publish(context.Context, Receipt) error {
	return Fatal(fmt.Errorf("the last commit has data for the sink %q, which the pipeline file no longer has; "+
		"run once with that sink, then remove it", string(s)))
}
func (s unknownSink) Withdraw(ctx context.Context, r Receipt) error { return s.Publish(ctx, r) }

// deleteOverflows removes overflow objects that no checkpoint names any more. What is left by a crash is small garbage.
func (w *worker) deleteOverflows() {
	for _, name := range w.overflows {
		if err := w.once(func(ctx context.Context) error { return w.cfg.Overflow.Delete(ctx, name) }); err != nil {
			w.cfg.Log.Debug("overflow object is left behind", "name", name, "error", err)
		}
	}
	w.overflows = w.overflows[:0]
}

// committed starts the next range.
func (w *worker) committed(p Provenance, receipts []Receipt, began time.Time) {
	w.pending, w.oldest, w.buried = false, time.Time{}, nil
	if len(files(receipts)) > 0 {
		w.open = Provenance{After: p.To, To: p.To}
	}
	w.engine.budget.set(w, 0)
	w.update(func(s *PartitionStats) {
		s.Committed, s.LastCommit, s.Oldest, s.Buffered = p.To, time.Now(), time.Time{}, 0
	})
	w.engine.count(func(s *Stats) {
		s.Commits++
		s.CommitSeconds.Observe(time.Since(began))
		for _, r := range receipts {
			s.StagedBytes += uint64(r.Bytes)
		}
	})
	w.cfg.Log.Debug("committed", "partition", p.Partition, "position", p.To, "records", p.Read, "files", len(receipts))
}

// recover takes over from the last owner: it publishes what that committed, restores the state, and finds where to start.
func (w *worker) recover() error {
	w.note, w.open = &note{First: true}, Provenance{First: true}
	c, ok := w.assignment.Committed()
	if ok && len(c.Note) > 0 {
		n, err := decodeNote(c.Note)
		if err != nil {
			return Fatal(err)
		}
		w.note = n
	}
	w.start, w.hasStart = c.Pos, ok
	if err := w.republish(); err != nil {
		return err
	}
	n := w.note
	w.open = Provenance{First: n.First, After: n.After, To: w.start, Read: n.Read, Kept: n.Kept, Dropped: n.Dropped, Dead: n.Dead}
	w.watermark = n.Watermark
	w.update(func(p *PartitionStats) {
		p.Recovered, p.Committed, p.Delivered, p.Watermark = true, w.start, w.start, microTime(n.Watermark)
	})
	return w.eachState(func(name string, s State) error {
		return w.attempt(name+".restore", func(ctx context.Context) error { return s.Restore(ctx, w.tenure, n.State[name]) })
	})
}

// republish finishes the last owner's commit. If staged data is gone, everything of that commit is withdrawn and its
// records are read again.
func (w *worker) republish() error {
	n := w.note
	if n.Overflow != "" {
		err := w.attempt("overflow.get", func(ctx context.Context) error {
			body, err := w.cfg.Overflow.Get(ctx, n.Overflow)
			if err != nil {
				return err
			}
			return json.Unmarshal(body, &n.Receipts)
		})
		if err != nil {
			return err
		}
	}
	err := w.publish(n.Receipts)
	if !errors.Is(err, ErrExpired) || n.Undo == nil {
		return err
	}
	w.cfg.Log.Warn("staged data is gone; its records are read again from the source",
		"partition", w.tenure.Partition, "after", n.Undo.After, "to", n.After, "error", err)
	err = w.each(n.Receipts, "withdraw", func(ctx context.Context, r Receipt) error { return w.publisher(r.Sink).Withdraw(ctx, r) })
	if err != nil {
		return err
	}
	u := n.Undo
	w.start, w.hasStart = u.After, !u.First || u.After != Position{}
	w.note = &note{First: u.First, After: u.After, Chain: u.Chain, State: u.State, Base: u.State, Overflow: n.Overflow}
	return nil
}
