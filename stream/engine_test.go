package stream

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// The commit protocol is tested in package sim, over seeded schedules of everything that can go wrong; here are the rules of
// single things. Line broken -> test that went red:
//
//	commit.go  next.Base stays what it was             -> TestExpiredUploadIsReadAgain (state counts)
//	commit.go  withdraw left out of republish          -> TestExpiredUploadIsReadAgain (rows twice)
//	commit.go  flush buries every refusal              -> TestRecordIsBuriedOnceForASink
//	commit.go  publish removes with all else           -> TestACommitThatIsTakenBackHasRemovedNothing
//	worker.go  judge keeps siblings of a failed event  -> TestRecordSharesOneFate
//	budget.go  over always nil                         -> TestMemoryPressureCommitsEarly

func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(1) // with more, Go 1.26's race detector crashes on timers that fire at once in a bubble
	m.Run()
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

// stop is the soft stop.
func (r *run) stop() error {
	r.soft()
	err := <-r.ended
	r.hard()
	return err
}

// crash is a kill -9: from now on nothing of the process reaches the world.
func (r *run) crash() {
	r.p.kill()
	r.hard()
	r.soft()
	<-r.ended
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

// TestRecordIsBuriedOnceForASink: a record of which a sink refuses several events is one dead letter, and a replay makes nothing
// twice. What two sinks refuse is a dead letter of each.
func TestRecordIsBuriedOnceForASink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(5, 1, 3, 0)
		w.settle(t, func(c *Config) {
			c.Decoder = func() Decoder { return arrayDecoder{} }
			c.Processors = nil
			for _, s := range c.Sinks {
				if u, ok := s.Upsert.(*memUpsert); ok {
					c.Sinks = append(c.Sinks, Sink{Name: "kv2", Upsert: u})
				}
			}
		})
		if n := w.countRows(DeadLetters, "log-0", OffsetPosition(1)); n != 2 {
			t.Errorf("the record of three events that two upsert sinks refuse has %d dead letters; want 2", n)
		}
		if report := w.audit(t, true); len(report.Problems) > 0 {
			t.Error(report.Problems)
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

// scrap is a sink with a spool that notes what is removed, and whose other receipts are gone.
type scrap struct {
	Spool
	gone    error
	removed []string
}

func (s *scrap) Publish(_ context.Context, r Receipt) error {
	if !r.Removes {
		return s.gone
	}
	s.removed = append(s.removed, string(r.Body))
	return nil
}

// TestACommitThatIsTakenBackHasRemovedNothing: what a drained file was refused for stands in dead letters of the same commit.
func TestACommitThatIsTakenBackHasRemovedNothing(t *testing.T) {
	receipts := []Receipt{{Sink: "kv", Body: []byte("old"), Removes: true}, {Sink: "kv", Body: []byte("new")}}
	s := &scrap{gone: ErrExpired}
	cfg := &Config{Sinks: []Sink{{Name: "kv", Upsert: s}}}
	cfg.EnsureDefaults()
	w := &worker{cfg: cfg, ctx: t.Context()}
	if err := w.publish(receipts); !errors.Is(err, ErrExpired) || len(s.removed) > 0 {
		t.Errorf("publish returns %v, and removed is %v", err, s.removed)
	}
	s.gone = nil
	if err := w.publish(receipts); err != nil || len(s.removed) != 1 {
		t.Errorf("publish returns %v, and removed is %v", err, s.removed)
	}
}
