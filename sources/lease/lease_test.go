package lease

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/stream"
)

// Mutations seen red (line broken -> test that went red):
//
//	a row counts as silent at once, or after 3/4 of a period   -> EveryPartitionHasOneOwner..., OwnerStopsBeforeAnybodyMayTakeOver, Schedules
//	an owner that cannot renew goes on, or for 1.5 periods     -> OwnerStopsBeforeAnybodyMayTakeOver, Schedules
//	a claim counts as a sign of life                           -> EveryPartitionHasOneOwner... (the rules of world.check)
//	a conflict is taken for a loss                             -> CommitWithLostReplyIsStoredOnce, ClaimIsNeverForcedOnALiveOwner
//	reread keeps its own idea of the checkpoint                -> RenewalKeepsACommitWhoseReplyWasLost, Schedules
//	reread does not look whose the row is                      -> OldRunOfTheSameNameIsFencedAndEnds, Schedules
//	ownership is told by the worker's name only                -> OldRunOfTheSameNameIsFencedAndEnds
//	the epoch does not grow                                    -> EveryPartitionHasOneOwner...
//	a write waits for its answer without end                   -> CommitThatHangsDoesNotLoseTheLease
//	a restarted worker waits for its own lease                 -> RestartUnderItsNameHasItsPartitionsAtOnce
//	a lapsed lease is taken again at once                      -> LapsedLeaseIsTakenAfterAPeriod
//	two workers of one name go on                              -> OldRunOfTheSameNameIsFencedAndEnds
//	a partition is taken while its old tenure ends             -> PartitionIsNotGrantedWhileItsOldTenureEnds
//	a claim at a difference of one; no claims                  -> EveryPartitionHasOneOwner..., Schedules
//	a place kept for a dead worker stays kept                  -> ClaimOfADeadWorkerIsForgotten, Schedules
//	an ended partition is taken                                -> EndedPartitionIsNeverTakenAgain
//	the mark is not written                                    -> MarkGoesWithTheNextWrite
//	a lease that was given back can still be renewed           -> NobodyWritesAfterTheRelease
//	a FatalError is repeated                                   -> TableThatRefusesEndsTheRun
//	a note of any size is stored                               -> NoteThatIsTooLargeIsRefused

func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(1) // with more, Go 1.26's race detector crashes on timers that fire at once in a bubble
	goleak.VerifyTestMain(m)
}

// bubble runs a test on fake time.
func bubble(t *testing.T, partitions int, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, partitions)
		test(w)
		w.end()
	})
}

func TestEveryPartitionHasOneOwnerAndEveryWorkerItsPart(t *testing.T) {
	for workers := 1; workers <= 5; workers++ {
		t.Run(strconv.Itoa(workers), func(t *testing.T) {
			bubble(t, 12, func(w *world) {
				for i := range workers {
					w.start(fmt.Sprint("w", i))
				}
				time.Sleep(2 * period)
				w.fair("at rest")
			})
		})
	}
}

func TestMoreWorkersThanPartitionsStayIdle(t *testing.T) {
	bubble(t, 2, func(w *world) {
		for i := range 4 {
			w.start(fmt.Sprint("w", i))
		}
		time.Sleep(2 * period)
		w.fair("at rest")
		before := w.row("p0").Epoch + w.row("p1").Epoch
		time.Sleep(4 * period)
		w.fair("at rest")
		if after := w.row("p0").Epoch + w.row("p1").Epoch; after != before {
			w.Errorf("%d hand-offs at rest", after-before)
		}
	})
}

func TestShutdownHandsOverAtOnce(t *testing.T) {
	bubble(t, 12, func(w *world) {
		a := w.start("a")
		w.start("b")
		time.Sleep(2 * period)
		a.stop()
		if took := w.owned(2 * time.Second); took > 2*time.Second {
			w.Errorf("everything is owned again after %v", took)
		}
	})
}

func TestCrashedWorkersPartitionsAreOwnedWithinTwoPeriods(t *testing.T) {
	bubble(t, 12, func(w *world) {
		a := w.start("a")
		w.start("b")
		time.Sleep(2 * period)
		a.crash()
		w.owned(2 * period)
	})
}

func TestRestartUnderItsNameHasItsPartitionsAtOnce(t *testing.T) {
	bubble(t, 8, func(w *world) {
		a := w.start("a")
		w.start("b")
		time.Sleep(2 * period)
		a.crash()
		again := w.start("a")
		if took := w.owned(time.Second); took > time.Second {
			w.Errorf("everything is owned again after %v", took)
		}
		by, _ := w.share()
		if by["a"] != 4 {
			w.Errorf("shares %v; want the restarted worker to have its four", by)
		}
		time.Sleep(period)
		again.stop()
	})
}

// Its first run is not dead, only cut off: the second must not wait for it, and it must not come back.
func TestOldRunOfTheSameNameIsFencedAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		old, err := New(&link{world: w, name: "a"}, Config{Worker: "a", Period: period})
		if err != nil {
			t.Fatal(err)
		}
		leases := make(chan *Lease, 1)
		ran := make(chan error, 1)
		go func() {
			ran <- old.Run(t.Context(), func([]Row) []string { return w.names }, func(l *Lease) { leases <- l })
		}()
		l := <-leases
		w.start("a")
		w.owned(time.Second)
		if err := l.Commit(t.Context(), stream.Checkpoint{Pos: stream.OffsetPosition(9)}); !errors.Is(err, stream.ErrLost) {
			t.Errorf("commit of the old run: %v; want ErrLost", err)
		}
		<-l.Done()
		var fatal *stream.FatalError
		if err := <-ran; !errors.As(err, &fatal) || !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("the old Run returned %v; want a FatalError that names the instance", err)
		}
		if err := l.Release(t.Context()); !errors.Is(err, stream.ErrLost) {
			t.Errorf("release by the old run: %v; want ErrLost", err)
		}
		old.Wait()
		w.end()
	})
}

func TestOwnerStopsBeforeAnybodyMayTakeOver(t *testing.T) {
	for seed := range 20 {
		bubble(t, 4, func(w *world) {
			a := w.start("a")
			b := w.start("b")
			time.Sleep(2*period + time.Duration(seed)*period/20)
			a.set(func() { a.frozen = make(chan struct{}) })
			time.Sleep(2 * period)
			if by, _ := w.share(); by["b"] != 4 { // that nobody worked at the same time is checked by the world
				w.Errorf("shares %v; want the frozen worker's partitions with the other", by)
			}
			a.thaw()
			time.Sleep(3 * period)
			w.fair("after the thaw")
			_ = b
		})
	}
}

func TestClaimIsNeverForcedOnALiveOwner(t *testing.T) {
	bubble(t, 4, func(w *world) {
		w.start("a", func(p *process) { p.stubborn = true })
		time.Sleep(period)
		w.start("b")
		time.Sleep(20 * period)
		if by, _ := w.share(); by["a"] != 4 {
			w.Errorf("shares %v; want all of them with the owner that renews", by)
		}
	})
}

func TestClaimOfADeadWorkerIsForgotten(t *testing.T) {
	bubble(t, 4, func(w *world) {
		w.start("a", func(p *process) { p.drains = period / 2 })
		time.Sleep(period)
		b := w.start("b")
		time.Sleep(2 * time.Second)
		b.crash()
		time.Sleep(4 * period)
		if by, _ := w.share(); by["a"] != 4 {
			w.Errorf("shares %v; want the dead worker's claims to be void", by)
		}
	})
}

// alone runs one worker, and calls test with its lease of the one partition.
func alone(t *testing.T, test func(w *world, k *link, l *Lease)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		k := &link{world: w, name: "a"}
		worker, err := New(k, Config{Worker: "a", Period: period})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		leases, ran := make(chan *Lease, 9), make(chan struct{})
		go func() {
			defer close(ran)
			worker.Run(ctx, func([]Row) []string { return w.names }, func(l *Lease) { leases <- l })
		}()
		test(w, k, <-leases)
		cancel()
		<-ran
		for len(leases) > 0 {
			(<-leases).Lapse()
		}
		worker.Wait()
		time.Sleep(period) // what is still on its way arrives
	})
}

func TestCommitWithLostReplyIsStoredOnce(t *testing.T) {
	alone(t, func(w *world, k *link, l *Lease) {
		defer l.Lapse()
		c := stream.Checkpoint{Pos: stream.OffsetPosition(7), Note: []byte("n")}
		lost := 0
		k.set(func() {
			k.lose = func(r Row) bool {
				lost++
				return lost == 1
			}
		})
		if err := l.Commit(w.Context(), c); err == nil {
			w.Error("a commit without a reply succeeded")
		}
		if err := l.Commit(w.Context(), c); err != nil {
			w.Errorf("the same commit again: %v", err)
		}
		r := w.row("p0")
		if r.Checkpoint.Pos != c.Pos || string(r.Checkpoint.Note) != "n" || !r.Committed || r.Owner != "a" || r.Epoch != l.Epoch() {
			w.Errorf("the row is %+v", r)
		}
	})
}

// The renewal that follows a commit of unknown outcome must not put the old checkpoint back.
func TestRenewalKeepsACommitWhoseReplyWasLost(t *testing.T) {
	alone(t, func(w *world, k *link, l *Lease) {
		defer l.Lapse()
		k.set(func() { k.lose = func(r Row) bool { return r.Committed && r.Checkpoint.Pos.Offset() == 7 } })
		if err := l.Commit(w.Context(), stream.Checkpoint{Pos: stream.OffsetPosition(7)}); err == nil {
			w.Error("a commit without a reply succeeded")
		}
		k.set(func() { k.lose = nil })
		time.Sleep(2 * period)
		if got := w.row("p0").Checkpoint.Pos.Offset(); got != 7 {
			w.Errorf("the checkpoint is %d after renewals; want 7", got)
		}
		select {
		case <-l.Done():
			w.Error("the lease is lost")
		default:
		}
	})
}

func TestCommitThatHangsDoesNotLoseTheLease(t *testing.T) {
	alone(t, func(w *world, k *link, l *Lease) {
		defer l.Lapse()
		frozen := make(chan struct{})
		k.set(func() { k.frozen = frozen })
		go func() {
			time.Sleep(10 * time.Millisecond)
			k.set(func() { k.frozen = nil }) // only what is on its way hangs
		}()
		if err := l.Commit(w.Context(), stream.Checkpoint{Pos: stream.OffsetPosition(7)}); err == nil {
			w.Error("a commit without an answer succeeded")
		}
		time.Sleep(3 * period)
		select {
		case <-l.Done():
			w.Error("the lease is lost")
		default:
		}
		if err := l.Commit(w.Context(), stream.Checkpoint{Pos: stream.OffsetPosition(8)}); err != nil {
			w.Errorf("commit: %v", err)
		}
		close(frozen) // the first one arrives now
		time.Sleep(time.Second)
		if got := w.row("p0").Checkpoint.Pos.Offset(); got != 8 {
			w.Errorf("the checkpoint is %d; want 8: a late write must not win", got)
		}
	})
}

func TestNoteThatIsTooLargeIsRefused(t *testing.T) {
	alone(t, func(w *world, _ *link, l *Lease) {
		defer l.Lapse()
		err := l.Commit(w.Context(), stream.Checkpoint{Note: make([]byte, stream.NoteLimit+1)})
		if err == nil || errors.Is(err, stream.ErrLost) || w.row("p0").Committed {
			w.Errorf("a note of %d bytes: %v, row %+v", stream.NoteLimit+1, err, w.row("p0"))
		}
	})
}

func TestMarkGoesWithTheNextWrite(t *testing.T) {
	alone(t, func(w *world, k *link, l *Lease) {
		l.SetMark([]byte("one"))
		if err := l.Renew(w.Context()); err != nil || string(w.row("p0").Mark) != "one" {
			w.Errorf("after Renew: %v, mark %q", err, w.row("p0").Mark)
		}
		l.SetMark([]byte("two"))
		time.Sleep(period / 2)
		if got := string(w.row("p0").Mark); got != "two" {
			w.Errorf("after a renewal: mark %q", got)
		}
		l.SetMark([]byte("three"))
		if err := l.Release(w.Context()); err != nil || string(w.row("p0").Mark) != "three" {
			w.Errorf("after Release: %v, mark %q", err, w.row("p0").Mark)
		}
	})
}

// A renewal that waited while the row was given back must not write into it.
func TestNobodyWritesAfterTheRelease(t *testing.T) {
	alone(t, func(w *world, _ *link, l *Lease) {
		defer l.Lapse()
		err := l.write(w.Context(), func(r *Row) { r.Owner, r.Run = "", "" })
		if err != nil {
			w.Fatal(err)
		}
		before := w.row("p0")
		if err := l.Renew(w.Context()); !errors.Is(err, stream.ErrLost) {
			w.Errorf("renewal after the release: %v; want ErrLost", err)
		}
		if after := w.row("p0"); after.Renewals != before.Renewals {
			w.Errorf("the row of nobody was written: %+v", after)
		}
	})
}

func TestEndedPartitionIsNeverTakenAgain(t *testing.T) {
	alone(t, func(w *world, _ *link, l *Lease) {
		if err := l.End(w.Context()); err != nil {
			w.Fatal(err)
		}
		time.Sleep(5 * period)
		if r := w.row("p0"); !r.Ended || r.Owner != "" || r.Epoch != 1 {
			w.Errorf("the row is %+v", r)
		}
	})
}

func TestLapsedLeaseIsTakenAfterAPeriod(t *testing.T) {
	alone(t, func(w *world, _ *link, l *Lease) {
		l.Lapse()
		time.Sleep(period - time.Second)
		if r := w.row("p0"); r.Epoch != 1 {
			w.Errorf("epoch %d before the period is over", r.Epoch)
		}
		time.Sleep(period)
		if r := w.row("p0"); r.Epoch != 2 {
			w.Errorf("epoch %d after the period", r.Epoch)
		}
	})
}

func TestPartitionIsNotGrantedWhileItsOldTenureEnds(t *testing.T) {
	alone(t, func(w *world, _ *link, l *Lease) {
		w.mu.Lock() // another worker had it and gave it back
		w.revision++
		w.rows["p0"] = Row{Partition: "p0", Epoch: 2, Renewals: 9, Revision: w.revision}
		w.mu.Unlock()
		<-l.Done()
		time.Sleep(3 * period)
		if r := w.row("p0"); r.Epoch != 2 {
			w.Errorf("epoch %d while the old tenure has not ended", r.Epoch)
		}
		l.Lapse()
		time.Sleep(2 * period)
		if r := w.row("p0"); r.Epoch != 3 || r.Owner != "a" {
			w.Errorf("the row is %+v after it has", r)
		}
	})
}

func TestDeletedRowIsALostLease(t *testing.T) {
	alone(t, func(w *world, _ *link, l *Lease) {
		defer l.Lapse()
		w.mu.Lock()
		delete(w.rows, "p0")
		w.mu.Unlock()
		if err := l.Commit(w.Context(), stream.Checkpoint{}); !errors.Is(err, stream.ErrLost) {
			w.Errorf("commit: %v; want ErrLost", err)
		}
	})
}

func TestTableThatRefusesEndsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		worker, err := New(refusing{}, Config{})
		if err != nil {
			t.Fatal(err)
		}
		err = worker.Run(t.Context(), func([]Row) []string { return nil }, func(*Lease) {})
		if !errors.Is(err, errDenied) {
			t.Errorf("Run: %v", err)
		}
	})
}

var errDenied = errors.New("not allowed")

type refusing struct{ Table }

func (refusing) List(context.Context) ([]Row, error) { return nil, stream.Fatal(errDenied) }

func TestConfigSaysWhatIsWrong(t *testing.T) {
	err := (&Config{Period: time.Millisecond, Poll: -1}).Validate()
	if err == nil || !strings.Contains(err.Error(), "lease is 1ms; want") || !strings.Contains(err.Error(), "poll is") {
		t.Errorf("%v", err)
	}
}

// Every schedule of starts, stops, crashes, restarts, pauses, slow tables and lost replies keeps the world's rules, and
// comes to rest.
func TestSchedules(t *testing.T) {
	first, count := uint64(1), uint64(60)
	if text := os.Getenv("LEASE_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		first, count = n, 1
	}
	for seed := first; seed < first+count && !t.Failed(); seed++ {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, seed, 1+int(seed%9))
			w.schedule()
			if t.Failed() {
				t.Logf("LEASE_SEED=%d", seed)
			}
		})
	}
}

func (w *world) schedule() {
	started := 0
	for range 25 {
		p := w.pick()
		switch n := w.random.IntN(12); {
		case p == nil || n < 3 && len(w.live) < 5:
			started++
			w.start(fmt.Sprint("w", started), func(p *process) { p.drains = time.Duration(w.random.Int64N(int64(period))) })
		case n == 3:
			p.stop()
		case n == 4:
			p.crash()
		case n == 5:
			p.crash()
			w.start(p.name)
		case n < 8:
			p.set(func() {
				if p.frozen == nil {
					p.frozen = make(chan struct{})
				}
			})
		case n == 8:
			p.set(func() { p.slow = time.Duration(w.random.Int64N(int64(period / 4))) })
		case n == 9:
			p.set(func() { p.lose = func(Row) bool { return time.Now().UnixNano()%3 == 0 } })
		case n == 10:
			p.set(func() { p.slow, p.lose = 0, nil })
		}
		if p != nil && w.random.IntN(3) > 0 {
			time.Sleep(time.Duration(w.random.Int64N(int64(period * 3 / 2))))
			p.thaw()
		}
		time.Sleep(time.Duration(w.random.Int64N(int64(period))))
	}
	for _, p := range w.live {
		p.set(func() { p.slow, p.lose, p.drains = 0, nil, 0 })
		p.thaw()
	}
	if len(w.live) == 0 {
		w.start("last")
	}
	time.Sleep(8 * period)
	w.fair("at rest")
	if p := w.pick(); len(w.live) > 1 {
		p.crash()
		w.owned(2 * period)
	}
	w.end()
}
