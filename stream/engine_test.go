package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Each invariant of the commit protocol was broken once to see a test go red; see TestBrokenEngineIsCaught for those
// that stay broken on purpose. Line broken -> test:
//
//	commit.go  publish before decide                   -> TestScheduleKeepsThePromise (rows twice)
//	commit.go  flush left out                          -> TestScheduleKeepsThePromise (commit before the upsert sink)
//	commit.go  republish left out of recover           -> TestScheduleKeepsThePromise (rows missing)
//	commit.go  next.Receipts = nil                     -> TestScheduleKeepsThePromise (rows missing)
//	commit.go  the state of the commit before is stored -> TestScheduleKeepsThePromise (state counts)
//	commit.go  next.Base stays what it was             -> TestExpiredUploadIsReadAgain (state counts)
//	commit.go  overflow objects share a name           -> TestScheduleKeepsThePromise (rows twice)
//	commit.go  withdraw left out of republish          -> TestExpiredUploadIsReadAgain (rows twice)
//	worker.go  judge keeps siblings of a failed event  -> TestRecordSharesOneFate
//	budget.go  over always nil                         -> TestMemoryPressureCommitsEarly

func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(1) // with more, Go 1.26's race detector crashes on timers that fire at once in a bubble
	m.Run()
}

// TestScheduleKeepsThePromise runs seeded schedules of crashes, pauses past the lease, failing and half-done outside
// calls, over three processes that share four partitions.
func TestScheduleKeepsThePromise(t *testing.T) {
	runs := 150
	if testing.Short() {
		runs = 30
	}
	for seed := range runs {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(uint64(seed), 4, 300, 12)
				w.schedule(t, uint64(seed), 25)
				w.check(t)
			})
		})
	}
}

// schedule lets processes come, crash, sleep past their leases and wake, then lets one finish the work.
func (w *world) schedule(t *testing.T, seed uint64, steps int) {
	rng := rand.New(rand.NewPCG(seed, 2))
	var running []*run
	for range steps {
		switch n := rng.IntN(10); {
		case len(running) == 0 || n < 3 && len(running) < 3:
			running = append(running, w.start(t, nil))
		case n < 5:
			i := rng.IntN(len(running))
			running[i].crash()
			running = append(running[:i], running[i+1:]...)
		case n < 6:
			i := rng.IntN(len(running))
			if err := running[i].stop(); err != nil {
				t.Error("soft stop:", err)
			}
			running = append(running[:i], running[i+1:]...)
		case n < 8:
			running[rng.IntN(len(running))].p.pause()
		default:
			for _, r := range running {
				r.p.wake()
			}
		}
		time.Sleep(time.Duration(rng.IntN(8000)) * time.Millisecond)
	}
	for _, r := range running {
		r.p.wake()
	}
	w.mu.Lock()
	w.faults = 0
	w.mu.Unlock()
	for _, r := range running[min(1, len(running)):] {
		if err := r.stop(); err != nil {
			t.Error("last stop:", err)
		}
	}
	if len(running) == 0 {
		running = append(running, w.start(t, nil))
	}
	for limit := time.Now().Add(time.Hour); !w.done() && time.Now().Before(limit); {
		time.Sleep(time.Second)
	}
	if err := running[0].stop(); err != nil {
		t.Error("the end:", err)
	}
}

// run is a process with its engine.
type run struct {
	p      *process
	engine *Engine
	soft   context.CancelFunc
	hard   context.CancelFunc
	ended  chan error
}

func (w *world) start(t *testing.T, change func(*Config)) *run {
	t.Helper()
	r := &run{p: &process{world: w}, ended: make(chan error, 1)}
	r.engine = r.p.engine(t, change)
	soft, softStop := context.WithCancel(t.Context())
	hard, hardStop := context.WithCancel(t.Context())
	r.soft, r.hard = softStop, hardStop
	go func() { r.ended <- r.engine.Run(soft, hard, &memSource{p: r.p, batch: 17}) }()
	return r
}

// stop is the soft stop; a sleeper is woken first.
func (r *run) stop() error {
	r.p.wake()
	r.soft()
	err := <-r.ended
	r.hard()
	return err
}

// crash is a kill -9: from now on nothing of the process reaches the world.
func (r *run) crash() {
	r.p.kill()
	r.p.wake()
	r.hard()
	r.soft()
	<-r.ended
}

// TestBrokenEngineIsCaught breaks one rule each for good, and wants the schedules to notice.
func TestBrokenEngineIsCaught(t *testing.T) {
	for name, sabotage := range map[string]func(*world){
		"a fenced commit is accepted": func(w *world) { w.noFence = true },
		"staged files are visible":    func(w *world) { w.earlyPublish = true },
	} {
		t.Run(name, func(t *testing.T) {
			caught := false
			for seed := uint64(0); seed < 100 && !caught; seed++ {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(seed, 4, 300, 12)
					sabotage(w)
					w.schedule(t, seed, 25)
					caught = len(w.visible) > 0 && w.broken(t)
				})
			}
			if !caught {
				t.Error("100 schedules did not notice")
			}
		})
	}
}

// broken says whether a row is missing or there twice.
func (w *world) broken(t *testing.T) bool {
	src := &memSource{p: &process{world: w}}
	report, err := Audit(t.Context(), "test", src.Checkpoints, w.inspectors(), true)
	if err != nil {
		t.Fatal(err)
	}
	return len(report.Problems) > 0
}

// settle runs one process until everything is committed, and stops it.
func (w *world) settle(t *testing.T, change func(*Config)) {
	t.Helper()
	r := w.start(t, change)
	time.Sleep(leaseTime + 5*time.Second) // what is committed already is still to be published
	for limit := time.Now().Add(time.Hour); !w.done() && time.Now().Before(limit); {
		time.Sleep(time.Second)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
}

func TestExpiredUploadIsReadAgain(t *testing.T) {
	for _, publishedBefore := range []int{0, 1, 9} { // of a commit's two lake files: none, one; or those of some commits before
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(7, 2, 200, 0)
			// Crash between commit and publish: publishing fails from the first commit on.
			r := w.start(t, func(c *Config) {
				lake := c.Sinks[0].Staged
				c.Sinks[0].Staged = &brokenPublish{Staged: lake, left: publishedBefore}
			})
			time.Sleep(30 * time.Second)
			r.crash()
			w.mu.Lock()
			for upload, f := range w.staged { // the bucket's lifecycle
				if f.prov.Sink == "lake" {
					delete(w.staged, upload)
				}
			}
			w.mu.Unlock()
			time.Sleep(leaseTime)
			w.settle(t, nil)
			w.check(t)
		})
	}
}

// brokenPublish publishes so many receipts and then fails for ever.
type brokenPublish struct {
	Staged[*Event]
	mu   sync.Mutex
	left int
}

func (b *brokenPublish) Publish(ctx context.Context, r Receipt) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left == 0 {
		return errInjected
	}
	b.left--
	return b.Staged.Publish(ctx, r)
}

func TestFatalErrorEndsTheRunAndCommitsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(1, 2, 50, 0)
		r := w.start(t, func(c *Config) { c.Sinks[0].Staged = &fatalStage{c.Sinks[0].Staged} })
		err := <-r.ended
		if err == nil || !strings.Contains(err.Error(), "no such bucket") {
			t.Errorf("run ended with %v; want the bucket's error", err)
		}
		for i, l := range w.leases {
			if l.commit != nil {
				t.Errorf("log-%d was committed", i)
			}
		}
		r.soft()
		r.hard()
		w.mu.Lock()
		for i := range w.leases {
			w.leases[i].owner = nil
		}
		w.mu.Unlock()
		w.settle(t, nil)
		w.check(t)
	})
}

type fatalStage struct{ Staged[*Event] }

func (f *fatalStage) Open(ctx context.Context, t Tenure) (StagedWriter[*Event], error) {
	w, err := f.Staged.Open(ctx, t)
	return fatalWriter{w}, err
}

type fatalWriter struct{ StagedWriter[*Event] }

func (fatalWriter) Stage(context.Context, Provenance) ([]Receipt, error) {
	return nil, fmt.Errorf("stage: %w", Fatal(errors.New("no such bucket")))
}

func TestMemoryPressureCommitsEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(3, 4, 2000, 0)
		peak := int64(0)
		r := w.start(t, func(c *Config) {
			c.CommitAge, c.CommitIdle = time.Hour, time.Hour
			c.Memory = 1 << 20
			for i := range c.Sinks[:2] {
				c.Sinks[i].Staged.(*memStaged[*Event]).size = 1 << 30
			}
			c.Sinks = c.Sinks[:2]
			c.Sinks[0].Staged = &heavy{c.Sinks[0].Staged}
		})
		for limit := time.Now().Add(time.Minute); time.Now().Before(limit); {
			time.Sleep(10 * time.Millisecond)
			s := r.engine.Stats()
			peak = max(peak, s.Buffered)
		}
		if s := r.engine.Stats(); s.Commits < 10 {
			t.Errorf("%d commits in an hour-long age; want many, by memory", s.Commits)
		}
		if peak > 2<<20 {
			t.Errorf("buffered %d bytes; the budget is 1 MiB", peak)
		}
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
}

// heavy says that a row takes 5 KB.
type heavy struct{ Staged[*Event] }

func (h *heavy) Open(ctx context.Context, t Tenure) (StagedWriter[*Event], error) {
	w, err := h.Staged.Open(ctx, t)
	return heavyWriter{w}, err
}

type heavyWriter struct{ StagedWriter[*Event] }

func (h heavyWriter) Buffered() int64 { return 50 * h.StagedWriter.Buffered() }

func TestHardStopDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(5, 2, 100, 0)
		r := w.start(t, func(c *Config) { c.Sinks[0].Staged = &brokenPublish{Staged: c.Sinks[0].Staged} })
		time.Sleep(10 * time.Second)
		r.soft()
		select {
		case err := <-r.ended:
			t.Fatalf("soft stop ended with %v while a sink fails; want it to go on trying", err)
		case <-time.After(time.Minute):
		}
		began := time.Now()
		r.hard()
		if err := <-r.ended; err == nil {
			t.Error("hard stop with work left returned nil")
		}
		if d := time.Since(began); d > time.Second {
			t.Errorf("hard stop took %s", d)
		}
	})
}

func TestStalledSinkIsUnhealthyAndNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(5, 1, 100, 0)
		r := w.start(t, func(c *Config) { c.Sinks[0].Staged = &brokenPublish{Staged: c.Sinks[0].Staged} })
		time.Sleep(time.Minute)
		if err := r.engine.Healthy(); err != nil {
			t.Errorf("unhealthy after a minute: %v", err)
		}
		time.Sleep(6 * time.Minute)
		if err := r.engine.Healthy(); err == nil || !strings.Contains(err.Error(), "lake.publish") {
			t.Errorf("health is %v; want the stalled call", err)
		}
		if s := r.engine.Stats(); s.Retries["lake.publish"] == 0 || s.Partitions[0].Retrying == "" {
			t.Errorf("retries are not in the stats: %+v", s)
		}
		r.crash()
	})
}

func TestIdlePartitionIsHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(5, 2, 0, 0)
		r := w.start(t, nil)
		time.Sleep(24 * time.Hour)
		if err := r.engine.Healthy(); err != nil {
			t.Error(err)
		}
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
}

// arrayDecoder makes three events of a record; the second of record 1 fails later, record 2 is all dropped.
type arrayDecoder struct{}

func (arrayDecoder) Decode(r *Record, b *Batch) error {
	for range 3 {
		b.Append(r)
	}
	if r.Pos.Offset() == 3 {
		panic("a bug")
	}
	return nil
}

type arrayProcessor struct{}

func (arrayProcessor) Process(_ context.Context, b *Batch) error {
	for i := range b.Events {
		e := &b.Events[i]
		switch at := e.Record.Pos.Offset(); {
		case !e.Alive():
		case at == 1 && e.Index == 1:
			e.Fail("process.1.array", errors.New("second"))
		case at == 2:
			e.Drop()
		}
	}
	return nil
}

func TestRecordSharesOneFate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(5, 1, 5, 0)
		r := w.start(t, func(c *Config) {
			c.Decoder = func() Decoder { return arrayDecoder{} }
			c.Processors = []ProcessorConfig{{"process.1.array", func() Processor { return arrayProcessor{} }}}
			c.Sinks = c.Sinks[:1]
		})
		time.Sleep(time.Minute)
		s := r.engine.Stats()
		if s.Records != 5 || s.Kept != 2 || s.Dropped != 1 || s.Dead != 2 {
			t.Errorf("read %d, kept %d, dropped %d, dead %d; want 5, 2, 1, 2", s.Records, s.Kept, s.Dropped, s.Dead)
		}
		if s.DeadByStage["decode"] != 1 || s.DeadByStage["process.1.array"] != 1 {
			t.Errorf("dead by stage: %v", s.DeadByStage)
		}
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		for i, want := range []int{3, 0, 0, 0, 3} {
			if n := w.countRows("lake", "log-0", OffsetPosition(uint64(i))); n != want {
				t.Errorf("record %d has %d rows; want %d", i, n, want)
			}
		}
	})
}

// oddName is a source with one partition whose name is no text.
type oddName struct{ memSource }

func (s *oddName) Run(ctx context.Context, assigned func(Assignment) (Consumer, error)) error {
	_, err := assigned(oddAssignment{&memAssignment{done: make(chan struct{})}})
	return err
}

type oddAssignment struct{ *memAssignment }

func (oddAssignment) Partition() string { return "caf\xe9.log" }

func TestPartitionNameMustBeText(t *testing.T) {
	p := &process{world: newWorld(1, 1, 1, 0)}
	err := p.engine(t, nil).Run(t.Context(), t.Context(), &oddName{memSource{p: p}})
	if err == nil || !strings.Contains(err.Error(), "not UTF-8") {
		t.Errorf("run ended with %v; want it to name the partition", err)
	}
}

// TestUndrainedStopIsNoSuccess: a drain that runs out of time must not look like a complete one.
func TestUndrainedStopIsNoSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(5, 1, 100, 0)
		r := w.start(t, func(c *Config) { c.Sinks[0].Staged = &brokenPublish{Staged: c.Sinks[0].Staged} })
		time.Sleep(time.Second) // records are processed, nothing is due yet
		w.mu.Lock()
		w.drainTime = 10 * time.Second
		w.mu.Unlock()
		r.soft()
		if err := <-r.ended; err == nil || !strings.Contains(err.Error(), "not drained") {
			t.Errorf("run ended with %v; want it to say what was not drained", err)
		}
		r.hard()
	})
}
