package sourcetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// script is what the consumers of one worker do beside the usual. A nil hook does nothing.
type script struct {
	every    int                                                      // records between commits; 0: commit when drained only
	assigned func(a stream.Assignment) error                          // an error refuses the assignment
	start    func(t *tenure) (stream.Position, bool)                  // nil: what Committed returned
	deliver  func(ctx context.Context, t *tenure, next, n int) error  // n records from index next on are offered
	taken    func(ctx context.Context, t *tenure) error               // they were taken, and committed as every says
	before   func(t *tenure, upTo int) error                          // a commit of the records before index upTo is about to be sent
	failed   func(t *tenure)                                          // it was answered with an error
	after    func(t *tenure, upTo int) error                          // it was answered with success and is not published
	drain    func(ctx context.Context, t *tenure, w stream.Why) error // instead of committing the rest
}

// worker is one process.
type worker struct {
	*Worker
	scene  *scene
	script script
	id     int
	gone   atomic.Bool // crashed or frozen: others may take its partitions without a word from it
	dead   chan struct{}
	cancel context.CancelFunc
	ran    chan struct{} // closed when Run returned
	err    error         // of Run
}

// start runs a new worker.
func (s *scene) start(sc script) *worker {
	s.Helper()
	return s.startWorker(s.log.Open(s.T), sc)
}

// startWorker is start for one that is open.
func (s *scene) startWorker(opened *Worker, sc script) *worker {
	s.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &worker{Worker: opened, scene: s, script: sc, id: len(s.workers) + 1, cancel: cancel, dead: make(chan struct{}), ran: make(chan struct{})}
	s.note(func() { s.workers = append(s.workers, w) })
	go func() {
		err := w.Source.Run(ctx, w.assign)
		s.note(func() {
			w.err = err
			close(w.ran)
		})
	}()
	return w
}

// stop ends the worker softly and returns what Run returned.
func (w *worker) stop() error {
	w.scene.Helper()
	w.cancel()
	return w.result()
}

// result waits for the end of Run.
func (w *worker) result() error {
	w.scene.Helper()
	select {
	case <-w.ran:
	case <-time.After(w.scene.Lapse + patience):
		w.scene.Errorf("Run of worker %d does not return; tenures: %s", w.id, w.scene.describe())
		return errors.New("Run does not return")
	}
	for _, t := range w.tenures() {
		if t.end == "" {
			w.scene.Errorf("Run of worker %d returned %v, but %s had neither Drain nor Abort", w.id, w.err, t.Partition())
		}
	}
	return w.err
}

// crash ends the worker without a word: its servers hear nothing more, its consumers do nothing more.
func (w *worker) crash() {
	w.vanish()
	if w.scene.Sharing == Exclusive {
		w.result() // the operating system frees what a dead process held
	}
}

// vanish is the part of crash that a hook may call.
func (w *worker) vanish() {
	if w.gone.Swap(true) {
		return
	}
	close(w.dead)
	if w.Sever != nil {
		w.Sever()
	}
	w.cancel()
}

// anyGone says whether a worker crashed or froze so far. Call it with mu held.
func (s *scene) anyGone() bool {
	return slices.ContainsFunc(s.workers, func(w *worker) bool { return w.gone.Load() })
}

func (w *worker) crashed() bool {
	select {
	case <-w.dead:
		return true
	default:
		return false
	}
}

func (w *worker) returned() bool {
	select {
	case <-w.ran:
		return true
	default:
		return false
	}
}

func (w *worker) tenures() []*tenure {
	w.scene.mu.Lock()
	defer w.scene.mu.Unlock()
	var own []*tenure
	for _, t := range w.scene.tenures {
		if t.worker == w {
			own = append(own, t)
		}
	}
	return own
}

// tenure is a stream.Consumer that behaves like a small engine and checks what the contract promises to it.
type tenure struct {
	stream.Assignment
	worker    *worker
	partition int
	ending    chan struct{} // closed when Drain or Abort begins

	delivering sync.Mutex // held by Deliver
	closed     atomic.Bool

	// Under scene.mu.
	started bool
	first   int             // index of the first record of this tenure
	next    int             // index after the last record that was delivered
	done    int             // index after the last record that was committed by this tenure or an earlier one
	pos     stream.Position // of the last record
	kept    []stream.Record // as they were handed over
	commits int
	reached bool   // set by the hook of a test that waits for it
	end     string // "drained", "failed to drain" or "aborted"
	why     stream.Why
}

func (w *worker) assign(a stream.Assignment) (stream.Consumer, error) {
	s := w.scene
	if w.script.assigned != nil {
		if err := w.script.assigned(a); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	i, ok := s.byName[a.Partition()]
	s.mu.Unlock()
	if !ok {
		s.Errorf("assigned unknown partition %q", a.Partition())
		return nil, errors.New("unknown partition")
	}
	t := &tenure{Assignment: a, worker: w, partition: i, ending: make(chan struct{})}
	if c, ok := a.Committed(); ok {
		s.lake.publish(string(c.Note))
	}
	s.note(func() {
		if p := s.last(i, nil); p != nil {
			// A server may take a live worker for dead while it waits for one that is; the lake shows whether that was safe.
			if p.end == "" && (p.worker == w || !s.anyGone()) {
				s.Errorf("%s is assigned to worker %d while worker %d has it", a.Partition(), w.id, p.worker.id)
			}
			if p.end == "drained" && p.why == stream.Ended && !p.worker.gone.Load() { // one that is gone may not have recorded it
				s.Errorf("%s is assigned again after its end", a.Partition())
			}
		}
		for _, parent := range s.parents[i] {
			if p := s.last(parent, nil); p == nil || p.end != "drained" || p.why != stream.Ended {
				s.Errorf("%s is assigned to worker %d before its parent %s has ended", a.Partition(), w.id, s.log.Partition(parent))
			}
		}
		for _, p := range s.tenures {
			if p.partition == i && p.Epoch() >= a.Epoch() {
				s.Errorf("%s has epoch %d at worker %d after epoch %d at worker %d; want a larger one", a.Partition(), a.Epoch(), w.id, p.Epoch(), p.worker.id)
			}
		}
		s.tenures = append(s.tenures, t)
	})
	return t, nil
}

func (t *tenure) Start() (stream.Position, bool) {
	s := t.worker.scene
	c, ok := t.Committed()
	after := c.Pos
	if t.worker.script.start != nil {
		after, ok = t.worker.script.start(t)
	}
	defer s.note(func() {}) // somebody may wait for a tenure that has nothing to deliver
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.started {
		s.Errorf("%s: Start is called twice", t.Partition())
	}
	t.started = true
	t.first = s.trimmed[t.partition]
	if ok {
		t.first = -1
		for index, p := range s.where[t.partition] {
			if p == after {
				t.first = index + 1
			}
		}
		if t.first < 0 {
			s.Errorf("%s: committed position %v is of no record", t.Partition(), after)
		}
	}
	t.next, t.done = t.first, t.first
	return after, ok
}

func (t *tenure) Deliver(ctx context.Context, rs []stream.Record) error {
	s := t.worker.scene
	if !t.delivering.TryLock() {
		s.Errorf("%s: Deliver is called by two goroutines at once", t.Partition())
		return errors.New("called twice")
	}
	defer t.delivering.Unlock()
	if t.closed.Load() {
		s.Errorf("%s: Deliver after the end of the tenure", t.Partition())
	}
	if !t.started {
		s.Errorf("%s: Deliver before Start", t.Partition())
	}
	if len(rs) == 0 {
		s.Errorf("%s: Deliver of nothing", t.Partition())
	}
	if h := t.worker.script.deliver; h != nil {
		if err := h(ctx, t, t.next, len(rs)); err != nil {
			return err
		}
	}
	if t.worker.crashed() {
		return errCrashed
	}
	s.note(func() { t.take(rs) })
	if every := t.worker.script.every; every > 0 {
		for n := t.done + every; n <= t.next; n = t.done + every {
			if err := t.commit(ctx, n); err != nil {
				return err
			}
		}
	}
	if h := t.worker.script.taken; h != nil {
		return h(ctx, t)
	}
	return nil
}

func (t *tenure) take(rs []stream.Record) {
	s := t.worker.scene
	expected, where := s.expected[t.partition], s.where[t.partition]
	for _, r := range rs {
		if t.next >= len(expected) {
			s.Errorf("%s: record %.60q at %v is delivered after all that were appended", t.Partition(), r.Value, r.Pos)
			return
		}
		if err := s.compare(r, expected[t.next]); err != nil {
			s.Errorf("%s: record %d of worker %d: %v", t.Partition(), t.next, t.worker.id, err)
		}
		if t.next > t.first && r.Pos.Compare(t.pos) <= 0 {
			s.Errorf("%s: position %v follows %v", t.Partition(), r.Pos, t.pos)
		}
		if p, ok := where[t.next]; ok && p != r.Pos {
			s.Errorf("%s: record %d has position %v, and had %v", t.Partition(), t.next, r.Pos, p)
		}
		where[t.next] = r.Pos
		t.pos = r.Pos
		t.kept = append(t.kept, r)
		t.next++
	}
}

// commit makes the records before index upTo visible: stage, commit, publish.
func (t *tenure) commit(ctx context.Context, upTo int) error {
	s := t.worker.scene
	id := fmt.Sprintf("file of %s, epoch %d, worker %d, records %d to %d", t.Partition(), t.Epoch(), t.worker.id, t.done, upTo)
	f := file{partition: t.partition}
	for n := t.done; n < upTo; n++ {
		f.records = append(f.records, n)
	}
	s.lake.stage(id, f)
	if h := t.worker.script.before; h != nil {
		if err := h(t, upTo); err != nil {
			return err
		}
	}
	s.mu.Lock()
	c := stream.Checkpoint{Pos: s.where[t.partition][upTo-1], Note: []byte(id)}
	s.mu.Unlock()
	if err := t.store(ctx, c); err != nil {
		return err
	}
	if h := t.worker.script.after; h != nil {
		if err := h(t, upTo); err != nil {
			return err
		}
	}
	s.lake.publish(id)
	s.note(func() {
		t.done = upTo
		t.commits++
	})
	return nil
}

// store commits as the engine does: again and again while the outcome is unknown.
func (t *tenure) store(ctx context.Context, c stream.Checkpoint) error {
	for {
		if t.worker.crashed() {
			return errCrashed
		}
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := t.Commit(attempt, c)
		cancel()
		if err == nil || errors.Is(err, stream.ErrLost) {
			return err
		}
		if h := t.worker.script.failed; h != nil {
			h(t)
		}
		select {
		case <-time.After(20 * time.Millisecond): // back-off of a retry
		case <-t.worker.dead:
			return errCrashed
		case <-ctx.Done():
			return err
		}
	}
}

func (t *tenure) Drain(ctx context.Context, why stream.Why) error {
	s := t.worker.scene
	if t.closed.Swap(true) {
		s.Errorf("%s: Drain after Drain or Abort", t.Partition())
	}
	close(t.ending)
	t.delivering.Lock() // an engine's worker finishes what it was given
	defer t.delivering.Unlock()
	err := t.drain(ctx, why)
	s.note(func() {
		t.why = why
		if t.end = "drained"; err != nil {
			t.end = "failed to drain"
		}
	})
	return err
}

func (t *tenure) drain(ctx context.Context, why stream.Why) error {
	if t.worker.crashed() {
		return errCrashed
	}
	if h := t.worker.script.drain; h != nil {
		return h(ctx, t, why)
	}
	if t.done == t.next {
		return nil
	}
	return t.commit(ctx, t.next)
}

func (t *tenure) Abort() {
	s := t.worker.scene
	if t.closed.Swap(true) {
		return // after a Drain that failed
	}
	close(t.ending)
	s.note(func() { t.end = "aborted" })
}
