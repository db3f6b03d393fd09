package sourcetest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/network"
)

type testCase struct {
	rule       string
	partitions int
	test       func(*scene)
}

func cases() []testCase {
	return []testCase{
		// The longest first: they wait for time-outs.
		{"gives up connections that are dead", 2, func(s *scene) { livesOnABadNetwork(s, network.Forgotten) }},
		{"goes on when the answers are there again", 2, func(s *scene) { livesOnABadNetwork(s, network.HalfOpen, network.Refused) }},
		{"lives on a slow network", 2, func(s *scene) {
			livesOnABadNetwork(s, network.Latency, network.Bandwidth, network.Sliced, network.Reset)
		}},
		{"a worker that is cut off is replaced", 2, isCutOff},
		{"delivers every record once and in order", 3, deliversAll},
		{"reads what is appended later", 2, readsLater},
		{"resumes after the committed position", 2, resumes},
		{"starts where the consumer says", 1, startsWhereTold},
		{"stores the note byte for byte", 1, storesNote},
		{"commits the same checkpoint again", 1, commitsAgain},
		{"commits after a lost reply", 1, commitsAfterLostReply},
		{"crash before the commit", 1, crashBeforeCommit},
		{"crash when the commit's reply is lost", 1, crashAtLostReply},
		{"crash after the commit", 1, crashAfterCommit},
		{"crash while records flow", 3, crashMidway},
		{"fences a worker that was paused past its ownership", 1, fencesZombie},
		{"keeps a partition while it drains", 1, keepsWhileDraining},
		{"hands off only what is drained", 4, handsOff},
		{"blocks one partition only", 3, blocksOnePartition},
		{"soft stop drains every consumer", 3, softStop},
		{"failed drain records nothing", 1, failedDrain},
		{"refused assignment ends the run", 2, refusedAssignment},
		{"stops delivering after an error", 2, stopsAfterError},
		{"ends as a finite source does", 2, ends},
		{"reports checkpoints without owning", 3, reportsCheckpoints},
		{"never passes a gap in silence", 2, retention},
		{"starts at the oldest record that is left", 1, startsAtOldest},
		{"knows its lag", 1, lag},
		{"workers come, go and crash", 4, churn},
		{"reads what follows a split and a merge", 1, reshards},
		{"reads a split and a merge that nobody saw", 2, reshardsUnseen},
		{"a merged partition waits for the first of its parents", 2, func(s *scene) { waitsForParent(s, 0) }},
		{"a merged partition waits for the second of its parents", 2, func(s *scene) { waitsForParent(s, 1) }},
		{"crash before the end of a split partition is committed", 1, crashBeforeEnd},
		{"crash before the end of a split partition is recorded", 1, crashAtEnd},
		{"crash before the end of a merged partition is recorded", 2, crashAtMerge},
		{"workers come and go while partitions split and merge", 2, churnResharding},
		{"reads again what is committed, beside its owner", 3, readsAgain},
		{"stops reading again", 2, stopsReadingAgain},
		{"reads again what is left", 2, readsWhatIsLeft},
		{"reads again what followed a split and a merge", 1, readsAgainAfterResharding},
	}
}

var errTest = errors.New("an error of the test")

// finish lets w deliver everything that is there, stops it softly and returns what Run returned.
func (s *scene) finish(w *worker) error {
	s.Helper()
	if s.Finite {
		return w.result()
	}
	for i := range s.expected {
		s.delivered(w, i)
	}
	return w.stop()
}

// run is a worker's whole life without faults.
func (s *scene) run(sc script) *worker {
	s.Helper()
	w := s.start(sc)
	if err := s.finish(w); err != nil {
		s.Fatalf("Run of worker %d: %v", w.id, err)
	}
	return w
}

// crashedRun is the life of a worker that commits as every says and vanishes before it drains.
func (s *scene) crashedRun(every int, start func(*tenure) (stream.Position, bool)) {
	s.Helper()
	w := s.start(script{every: every, start: start, drain: func(context.Context, *tenure, stream.Why) error { return errTest }})
	if !s.Finite && every > 0 {
		s.wait("every due commit", func() bool {
			for i := range s.expected {
				if t := s.last(i, w); t == nil || len(s.expected[i])-t.done >= every {
					return false
				}
			}
			return true
		})
	}
	s.finish(w) // whether Run passes the consumer's own error on is the source's choice
}

// holding makes a hook that blocks a partition once all n records were taken, until release is closed or the tenure ends.
func holding(n int, release <-chan struct{}) func(context.Context, *tenure) error {
	return func(ctx context.Context, t *tenure) error {
		if t.next < n {
			return nil
		}
		select {
		case <-release:
		case <-ctx.Done():
		case <-t.ending:
		case <-t.worker.dead:
		}
		return nil
	}
}

func leavesNoGoroutine(s *scene, notOurs []goleak.Option) {
	notOurs = append(notOurs, goleak.IgnoreCurrent())
	s.append(0, 10)
	s.append(1, 10)
	s.run(script{every: 3})
	s.checkpoints()
	s.crashedRun(0, nil)
	goleak.VerifyNone(s.T, notOurs...)
}

func deliversAll(s *scene) {
	s.append(0, 500)
	s.appendMessages(0, Message{Value: s.value(1)}, Message{Key: []byte("k"), Value: []byte{}}, Message{Key: []byte("k"), Value: s.value(cmp.Or(s.Largest, 1<<20))})
	if s.Headers {
		s.appendMessages(0, Message{Value: s.value(9), Headers: []stream.Header{{Key: "a", Value: []byte("1")}, {Key: "b"}, {Key: "a", Value: s.value(3)}}})
	}
	s.appendMessages(0, Message{Key: []byte{}, Value: s.value(100)})
	s.append(0, 500)
	s.append(1, 300) // partition 2 stays empty
	s.run(script{every: 70})
	s.settled()
}

func readsLater(s *scene) {
	s.append(0, 10)
	if s.Finite {
		s.run(script{})
	} else {
		w := s.start(script{})
		s.delivered(w, 0)
		for range 5 {
			s.append(0, 3)
			s.append(1, 1)
			s.delivered(w, 0)
			s.delivered(w, 1)
		}
		if err := w.stop(); err != nil {
			s.Fatal(err)
		}
	}
	s.settled()
}

func resumes(s *scene) {
	s.append(0, 10)
	s.append(1, 7)
	s.crashedRun(4, nil)
	w := s.run(script{})
	for _, t := range w.tenures() {
		if want := map[int]int{0: 8, 1: 4}[t.partition]; t.first != want || t.next != len(s.expected[t.partition]) {
			s.Errorf("%s: the second worker got records %d to %d; want %d to %d", t.Partition(), t.first, t.next, want, len(s.expected[t.partition]))
		}
	}
	s.settled()
}

func startsWhereTold(s *scene) {
	s.append(0, 10)
	s.crashedRun(5, nil)
	for _, from := range []int{3, 9, 0, 4} {
		s.crashedRun(0, func(*tenure) (stream.Position, bool) { return s.position(0, from), true })
		if t := s.last(0, nil); t.first != from+1 || t.next != 10 {
			s.Errorf("after record %d: delivered records %d to %d", from, t.first, t.next)
		}
	}
	s.crashedRun(0, func(*tenure) (stream.Position, bool) { return stream.Position{}, false })
	if t := s.last(0, nil); t.first != 0 || t.next != 10 {
		s.Errorf("from the configured start: delivered records %d to %d", t.first, t.next)
	}
}

func storesNote(s *scene) {
	s.append(0, 10)
	release := make(chan struct{})
	w := s.start(script{taken: holding(10, release), drain: func(context.Context, *tenure, stream.Why) error { return errTest }})
	t := s.delivered(w, 0)
	name := s.log.Partition(0)

	text := strings.Repeat(`{"v":1,"quote":"\"","utf8":"ü€😀"}`, 50)
	text += strings.Repeat(" ", stream.NoteLimit-len(text))
	long := make([]byte, stream.NoteLimit)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range long {
		long[i] = byte(random.Uint32())
	}
	for n, note := range [][]byte{nil, {0}, []byte("plain"), []byte(text), bytes.Repeat([]byte{0xff}, stream.NoteLimit), make([]byte, stream.NoteLimit), long} {
		c := stream.Checkpoint{Pos: s.position(0, 4), Note: note}
		if err := t.store(s.Context(), c); err != nil {
			s.Fatalf("note %d of %d bytes: %v", n, len(note), err)
		}
		if got := s.checkpoints()[name]; got.Pos != c.Pos || !bytes.Equal(got.Note, note) {
			s.Fatalf("note %d: stored %v %q; want %v %q", n, got.Pos, got.Note, c.Pos, note)
		}
	}
	err := t.Commit(s.Context(), stream.Checkpoint{Pos: s.position(0, 6), Note: make([]byte, 64<<10)})
	if err == nil || errors.Is(err, stream.ErrLost) {
		s.Errorf("a note of 64 KiB: %v; want an error that says so", err)
	}
	if got := s.checkpoints()[name]; got.Pos != s.position(0, 4) || !bytes.Equal(got.Note, long) {
		s.Errorf("a refused note changed the checkpoint to %v with %d bytes", got.Pos, len(got.Note))
	}
	close(release)
	s.finish(w)

	w = s.start(script{drain: func(context.Context, *tenure, stream.Why) error { return errTest }})
	c, ok := s.tenure(w, 0).Committed()
	if !ok || c.Pos != s.position(0, 4) || !bytes.Equal(c.Note, long) {
		s.Errorf("the next owner found %v, %v with %d bytes", ok, c.Pos, len(c.Note))
	}
	s.finish(w)
}

func commitsAgain(s *scene) {
	s.append(0, 10)
	release := make(chan struct{})
	w := s.start(script{taken: holding(10, release), drain: func(context.Context, *tenure, stream.Why) error { return errTest }})
	t := s.delivered(w, 0)
	for _, c := range []stream.Checkpoint{
		{Pos: s.position(0, 0), Note: []byte("a")},
		{Pos: s.position(0, 0), Note: []byte("a")},
		{Pos: s.position(0, 0), Note: []byte("b")},
		{Pos: s.position(0, 9), Note: []byte("b")},
		{Pos: s.position(0, 9), Note: nil},
		{Pos: s.position(0, 9), Note: nil},
	} {
		if err := t.store(s.Context(), c); err != nil {
			s.Fatalf("commit %v %q: %v", c.Pos, c.Note, err)
		}
		if got := s.checkpoints()[t.Partition()]; got.Pos != c.Pos || !bytes.Equal(got.Note, c.Note) {
			s.Fatalf("stored %v %q; want %v %q", got.Pos, got.Note, c.Pos, c.Note)
		}
	}
	close(release)
	s.finish(w)
}

func commitsAfterLostReply(s *scene) {
	s.append(0, 10)
	var lost atomic.Bool
	s.run(script{every: 4, before: func(t *tenure, upTo int) error {
		if t.worker.LoseReply != nil && upTo == 8 && !lost.Swap(true) {
			t.worker.LoseReply()
		}
		return nil
	}})
	s.settled()
}

// crashAndTakeOver runs a worker that vanishes at the commit of record 8 of 12, and another one that goes on.
func crashAndTakeOver(s *scene, sc script, committed int) {
	s.append(0, 12)
	sc.every = 4
	w := s.start(sc)
	s.wait("the worker crashes", func() bool { return w.crashed() })
	w.crash()
	heir := s.run(script{every: 4})
	s.settled()
	if t := heir.tenures()[0]; t.first != committed {
		s.Errorf("the heir began with record %d; want %d", t.first, committed)
	}
}

func crashBeforeCommit(s *scene) {
	crashAndTakeOver(s, script{before: func(t *tenure, upTo int) error { return t.crashAt(upTo, 8) }}, 4)
}

func crashAfterCommit(s *scene) {
	crashAndTakeOver(s, script{after: func(t *tenure, upTo int) error { return t.crashAt(upTo, 8) }}, 8)
}

func crashAtLostReply(s *scene) {
	crashAndTakeOver(s, script{
		before: func(t *tenure, upTo int) error {
			if t.worker.LoseReply != nil && upTo == 8 {
				t.worker.LoseReply()
			}
			return nil
		},
		failed: func(t *tenure) { t.crashAt(8, 8) },
		after:  func(t *tenure, upTo int) error { return t.crashAt(upTo, 8) },
	}, 8)
}

func (t *tenure) crashAt(upTo, at int) error {
	if upTo != at {
		return nil
	}
	t.worker.vanish()
	t.worker.scene.note(func() {})
	return errCrashed
}

func crashMidway(s *scene) {
	for i := range 3 {
		s.append(i, 200)
	}
	w := s.start(script{every: 30, taken: func(_ context.Context, t *tenure) error {
		if t.commits > 0 {
			return t.crashAt(0, 0)
		}
		return nil
	}})
	s.wait("the worker crashes", func() bool { return w.crashed() })
	w.crash()
	s.run(script{every: 30})
	s.settled()
}

func fencesZombie(s *scene) {
	s.append(0, 8)
	release := make(chan struct{})
	a := s.start(script{every: 5, taken: holding(8, release)})
	old := s.delivered(a, 0)
	if s.Sharing == Exclusive || a.Freeze == nil {
		keepsOthersOut(s, a, release)
		return
	}
	s.wait("the first commit", func() bool { return old.commits == 1 })
	a.gone.Store(true)
	a.Freeze()
	b := s.start(script{})
	fresh := s.delivered(b, 0)
	pos := s.position(0, 7)
	if err := fresh.store(s.Context(), stream.Checkpoint{Pos: pos, Note: []byte("the new owner's")}); err != nil {
		s.Fatalf("commit of the new owner: %v", err)
	}
	a.Thaw()
	lost := s.poll(func() bool { // other errors until the worker finds out
		ctx, cancel := context.WithTimeout(s.Context(), time.Second)
		defer cancel()
		err := old.Assignment.Commit(ctx, stream.Checkpoint{Pos: pos, Note: []byte("the zombie's")})
		if err == nil {
			s.Errorf("the zombie's commit succeeded")
		}
		return err == nil || errors.Is(err, stream.ErrLost)
	})
	if !lost {
		s.Errorf("the zombie's commit never fails with ErrLost")
	}
	select {
	case <-old.Done():
	case <-time.After(patience):
		s.Errorf("the zombie's Done is not closed")
	}
	if got := s.checkpoints()[old.Partition()]; string(got.Note) != "the new owner's" {
		s.Errorf("the checkpoint is %v %q; want the new owner's", got.Pos, got.Note)
	}
	s.wait("the zombie's tenure ends", func() bool { return old.end == "aborted" || old.end == "failed to drain" })
	close(release)
	a.stop()
	b.stop()
}

// keepsOthersOut is what an exclusive source does where a shared one fences.
func keepsOthersOut(s *scene, a *worker, release chan struct{}) {
	if a.Freeze != nil {
		a.Freeze()
	}
	b := s.start(script{})
	s.waitFor(300*time.Millisecond, func() bool { return s.last(0, b) != nil || b.returned() })
	if a.Thaw != nil {
		a.Thaw()
	}
	close(release)
	if err := s.finish(a); err != nil {
		s.Errorf("Run of the worker that has everything: %v", err)
	}
	if !s.Finite {
		b.cancel()
	}
	b.result()
	s.settled()
}

func keepsWhileDraining(s *scene) {
	s.append(0, 5)
	reached := make(chan struct{})
	a := s.start(script{drain: func(ctx context.Context, t *tenure, _ stream.Why) error {
		close(reached)
		select {
		case <-time.After(s.Lapse * 3 / 2): // ownership must be kept alive by the source for so long
		case <-t.Done():
			s.Errorf("the partition is lost while it drains")
		}
		return t.commit(ctx, t.next)
	}})
	s.delivered(a, 0)
	a.cancel()
	<-reached
	if s.Sharing != Exclusive {
		b := s.start(script{})
		defer b.stop()
		s.delivered(b, 0)
	}
	if err := a.result(); err != nil {
		s.Errorf("Run: %v", err)
	}
	s.settled()
}

func handsOff(s *scene) {
	for i := range 4 {
		s.append(i, 50)
	}
	if s.Sharing == Exclusive {
		a := s.start(script{every: 20, taken: func(_ context.Context, t *tenure) error {
			t.worker.cancel()
			<-t.ending
			return nil
		}})
		if err := a.result(); err != nil {
			s.Errorf("Run: %v", err)
		}
		s.run(script{every: 20})
		s.settled()
		return
	}
	a := s.start(script{every: 20})
	for i := range 4 {
		s.delivered(a, i)
	}
	b := s.start(script{every: 20})
	if s.Sharing == Balanced {
		s.wait("the second worker has its part", func() bool { return s.share(b) == 2 && s.share(a) == 2 })
	}
	for i := range 4 {
		s.append(i, 50)
	}
	for i := range 4 {
		s.delivered(nil, i)
	}
	if err := a.stop(); err != nil {
		s.Errorf("Run: %v", err)
	}
	s.wait("the second worker has everything", func() bool { return s.share(b) == 4 })
	for i := range 4 {
		s.append(i, 10)
		s.delivered(b, i)
	}
	if err := b.stop(); err != nil {
		s.Errorf("Run: %v", err)
	}
	s.settled()
	for _, t := range s.tenures {
		if t.end != "drained" || t.why != stream.Handoff {
			s.Errorf("%s of worker %d ended %q; want a hand-off", t.Partition(), t.worker.id, t.end)
		}
	}
}

// share counts the partitions that w has. Call it with mu held.
func (s *scene) share(w *worker) int {
	n := 0
	for i := range s.expected {
		if s.owns(w, i) {
			n++
		}
	}
	return n
}

func blocksOnePartition(s *scene) {
	s.append(0, 20)
	w := s.start(script{deliver: func(ctx context.Context, t *tenure, _, _ int) error {
		if t.partition != 0 {
			return nil
		}
		s.note(func() { t.reached = true })
		select {
		case <-t.ending:
		case <-ctx.Done():
		}
		return errTest
	}})
	s.wait("partition 0 blocks", func() bool { t := s.last(0, w); return t != nil && t.reached })
	if s.Finite {
		w.cancel()
		w.result()
		return
	}
	for range 3 {
		s.append(0, 200)
		for i := 1; i < 3; i++ {
			s.append(i, 200)
			s.delivered(w, i)
		}
	}
	w.stop()
	s.run(script{})
	s.settled()
}

func softStop(s *scene) {
	for i := range 3 {
		s.append(i, 30)
	}
	// The consumer does not heed the context of Deliver: Drain frees it.
	w := s.start(script{taken: func(_ context.Context, t *tenure) error { <-t.ending; return nil }})
	s.wait("every partition has records", func() bool {
		for i := range 3 {
			if t := s.last(i, w); t == nil || t.next == 0 {
				return false
			}
		}
		return true
	})
	if err := w.stop(); err != nil {
		s.Errorf("Run: %v", err)
	}
	for _, t := range w.tenures() {
		if t.end != "drained" || t.done != t.next {
			s.Errorf("%s ended %q with %d of %d records committed", t.Partition(), t.end, t.done, t.next)
		}
	}
	s.run(script{})
	s.settled()
}

func failedDrain(s *scene) {
	s.append(0, 10)
	for range 2 {
		w := s.start(script{drain: func(context.Context, *tenure, stream.Why) error { return errTest }})
		if err := s.finish(w); s.Finite && !errors.Is(err, errTest) {
			s.Errorf("Run of a finite source whose partition did not end: %v", err)
		}
		if c := s.checkpoints(); len(c) != 0 {
			s.Errorf("a failed drain left %v", c)
		}
	}
	w := s.run(script{})
	if t := w.tenures()[0]; t.first != 0 {
		s.Errorf("the next run began with record %d", t.first)
	}
	s.settled()
}

func refusedAssignment(s *scene) {
	s.append(0, 3)
	s.append(1, 3)
	w := s.start(script{assigned: func(a stream.Assignment) error {
		if a.Partition() == s.log.Partition(1) {
			return errTest
		}
		return nil
	}})
	if err := w.result(); !errors.Is(err, errTest) {
		s.Errorf("Run returned %v; want the error of assigned", err)
	}
	s.run(script{})
	s.settled()
}

func stopsAfterError(s *scene) {
	s.append(0, 10)
	var failed atomic.Bool
	w := s.start(script{deliver: func(_ context.Context, t *tenure, _, _ int) error {
		if t.partition != 0 {
			return nil
		}
		if failed.Swap(true) {
			s.Errorf("Deliver is called again after its error")
		}
		s.note(func() { t.reached = true })
		return errTest
	}})
	s.wait("Deliver failed", func() bool { t := s.last(0, w); return t != nil && t.reached })
	if !s.Finite {
		for range 3 { // the other partition shows that the source had time to go on
			s.append(0, 10)
			s.append(1, 10)
			s.wait("partition 1 is delivered, or the error has ended the run", func() bool {
				t := s.last(1, w)
				return w.returned() || t != nil && t.next == len(s.expected[1])
			})
		}
	}
	w.stop()
	s.run(script{})
	s.settled()
}

func ends(s *scene) {
	s.append(0, 10) // partition 1 is empty
	w := s.start(script{})
	if !s.Finite {
		s.delivered(w, 0)
		select {
		case <-w.ran:
			s.Errorf("Run returned %v by itself", w.err)
		default:
		}
		w.stop()
		return
	}
	if err := w.result(); err != nil {
		s.Fatalf("Run: %v", err)
	}
	for _, t := range w.tenures() {
		if t.end != "drained" || t.why != stream.Ended {
			s.Errorf("%s %s, %v; want it drained with Ended", t.Partition(), t.end, t.why)
		}
	}
	s.settled()
	for _, t := range s.run(script{}).tenures() {
		if t.next > t.first {
			s.Errorf("a second run delivered records %d to %d of %s", t.first, t.next, t.Partition())
		}
	}
}

func reportsCheckpoints(s *scene) {
	if c := s.checkpoints(); len(c) != 0 {
		s.Errorf("checkpoints of a fresh log: %v", c)
	}
	s.append(0, 10)
	s.append(1, 20)
	s.crashedRun(8, nil)
	c := s.checkpoints()
	want := map[string]stream.Position{s.log.Partition(0): s.position(0, 7), s.log.Partition(1): s.position(1, 15)}
	if len(c) != len(want) {
		s.Errorf("checkpoints %v; want those of %v", c, want)
	}
	for name, pos := range want {
		if c[name].Pos != pos || !strings.HasPrefix(string(c[name].Note), "file of "+name) {
			s.Errorf("checkpoint of %s is %v %q; want %v", name, c[name].Pos, c[name].Note, pos)
		}
	}
}

func retention(s *scene) {
	s.append(0, 20)
	s.append(1, 5)
	s.crashedRun(5, func(t *tenure) (stream.Position, bool) { // leaves 20 and 5 committed
		c, ok := t.Committed()
		return c.Pos, ok
	})
	if !s.Retention {
		s.run(script{})
		s.settled()
		return
	}
	s.append(0, 20)
	if s.TellsGaps {
		s.trim(0, 20) // the oldest record follows the committed one: no gap
	}
	s.run(script{every: 10})
	s.append(0, 20)
	s.trim(0, 41)
	s.append(1, 5)
	w := s.start(script{})
	if err := w.result(); !errors.Is(err, stream.ErrRetention) {
		s.Errorf("Run returned %v; want ErrRetention", err)
	} else if !strings.Contains(err.Error(), s.log.Partition(0)) {
		s.Errorf("the error %q does not name %s", err, s.log.Partition(0))
	}
	for _, t := range w.tenures() {
		if t.partition == 0 && t.next > t.first {
			s.Errorf("records %d to %d were delivered past the gap", t.first, t.next)
		}
	}
}

func startsAtOldest(s *scene) {
	s.append(0, 20)
	if s.Retention {
		s.trim(0, 6)
	}
	w := s.run(script{})
	if t := w.tenures()[0]; t.first != s.trimmed[0] || t.next != 20 {
		s.Errorf("delivered records %d to %d; want %d to 20", t.first, t.next, s.trimmed[0])
	}
}

func lag(s *scene) {
	s.append(0, 10)
	release := make(chan struct{})
	defer close(release)
	if !s.Finite {
		w := s.start(script{})
		t := s.delivered(w, 0)
		s.checkLag(t, 0)
		if err := w.stop(); err != nil {
			s.Errorf("Run: %v", err)
		}
	}
	s.append(0, 10)
	w := s.start(script{taken: holding(1, release)})
	s.wait("the first records", func() bool { t := s.last(0, w); return t != nil && t.next > 0 })
	s.mu.Lock()
	t := s.last(0, w)
	s.mu.Unlock()
	s.append(0, 10)
	s.checkLag(t, 10) // or more: what is delivered counts when Deliver has returned
	w.stop()
}

// checkLag waits until t is at least so many records behind, or exactly none.
func (s *scene) checkLag(t *tenure, want int64) {
	s.Helper()
	if !s.Lag {
		want = -1
	}
	var got int64
	ok := s.poll(func() bool {
		got, _ = t.Lag()
		return got == want || want > 0 && got > want
	})
	if !ok {
		s.Errorf("lag is %d records; want %d", got, want)
	}
}

// churn is seeded; the order of what the workers see is not, so a red run is not always repeatable.
func churn(s *scene) {
	seed := uint64(time.Now().UnixNano())
	s.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	if s.Sharing == Exclusive {
		churnAlone(s, random)
		return
	}
	var live []*worker
	crashes := 0
	for range 10 {
		for i := range 4 {
			s.append(i, 1+random.IntN(40))
		}
		switch n := random.IntN(5); {
		case len(live) < 1 || len(live) < 3 && n < 3:
			live = append(live, s.start(script{every: 1 + random.IntN(20)}))
		case n < 4 || crashes == 2:
			if err := live[0].stop(); err != nil {
				s.Errorf("Run: %v", err)
			}
			live = live[1:]
		default:
			crashes++
			live[0].crash()
			live = live[1:]
		}
		if len(live) == 0 {
			continue
		}
		want := 0
		for i := range s.expected {
			want += s.lake.count(i)
		}
		want += 1 + random.IntN(40)
		s.waitFor(time.Second, func() bool {
			n := 0
			for i := range s.expected {
				n += s.lake.count(i)
			}
			return n >= want
		})
	}
	last := s.start(script{every: 1}) // the others keep records until they are drained
	for _, w := range append(live, last) {
		if w == last {
			s.settled()
		}
		if err := w.stop(); err != nil {
			s.Errorf("Run: %v", err)
		}
	}
	s.checkLake()
}

func churnAlone(s *scene, random *rand.Rand) {
	for range 8 {
		for i := range 4 {
			s.append(i, 1+random.IntN(60))
		}
		at, crash := random.IntN(40), random.IntN(2) == 0
		w := s.start(script{every: 1 + random.IntN(20), taken: func(_ context.Context, t *tenure) error {
			switch {
			case t.next < at:
				return nil
			case crash:
				t.worker.vanish()
				return errCrashed
			}
			t.worker.cancel()
			return nil
		}})
		w.result()
		if s.Finite {
			break // an ended partition takes no more
		}
	}
	s.run(script{every: 5})
	s.settled()
}
