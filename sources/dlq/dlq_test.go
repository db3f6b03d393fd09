package dlq

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/sinks/deadletter"
	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/s3"
)

// Mutations seen red (line broken -> test):
//
//	create: a number that is taken is taken all the same -> TwoReplaysAtOnceTakeALetterOnce, APartitionHasOneOwner
//	create: after a lost answer nobody looks -> ALostAnswerIsFoundOut
//	fill: letters of other runs are taken, unreadable ones are taken; Letters: other pipelines' are -> EveryLetterGoesWhereItWasToGoOnce
//	Has: the last line of a range is left out -> EveryLetterGoesWhereItWasToGoOnce
//	Begin: a lost race is not begun again -> TwoReplaysAtOnceTakeALetterOnce
//	claim: the epoch does not grow; store: ErrLost without Done, the end is not stored -> APartitionHasOneOwner
//	claim: what the last owner left is forgotten; deliver: from the beginning, the committed one again -> AReplayThatDiesIsGoneOnWith
//	Checkpoints: the first of a partition -> EveryLetterGoesWhereItWasToGoOnce
//	Sources: not in the order of the log; a record that was refused in two commits comes twice -> EveryLetterGoesWhereItWasToGoOnce
//	deliver: a file that is gone ends the run -> AFileThatWasRemovedEndsNothing
//	Aim: a letter of one sink's run is for all after an error of the decoder; its run's partition is its own -> EveryLetterGoesWhereItWasToGoOnce
//	ParsePartition: names with line breaks -> PartitionNames

var errCrash = errors.New("the process dies here")

// crashing is a store whose n-th write fails, and everything after it: before it had its effect, or after.
type crashing struct {
	objects.Store
	mu    sync.Mutex
	left  int
	after bool
}

func (s *crashing) step(do func() error) error {
	s.mu.Lock()
	s.left--
	left := s.left
	s.mu.Unlock()
	if left < 0 || left == 0 && !s.after {
		return errCrash
	}
	err := do()
	if left == 0 {
		return errCrash
	}
	return err
}

func (s *crashing) crashed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left <= 0
}

func (s *crashing) Publish(ctx context.Context, t objects.Ticket) error {
	return s.step(func() error { return s.Store.Publish(ctx, t) })
}

func (s *crashing) Put(ctx context.Context, key string, data []byte) error {
	return s.step(func() error { return s.Store.Put(ctx, key, data) })
}

// Get fails too after the crash: a dead process finds nothing out.
func (s *crashing) Get(ctx context.Context, key string) ([]byte, error) {
	if s.crashed() {
		return nil, errCrash
	}
	return s.Store.Get(ctx, key)
}

// bury publishes letters of a partition as one commit.
func bury(t testing.TB, store objects.Store, partition string, epoch uint64, letters ...*stream.DeadLetter) {
	t.Helper()
	buryOf(t, "clicks", store, partition, epoch, letters...)
}

func buryOf(t testing.TB, pipeline string, store objects.Store, partition string, epoch uint64, letters ...*stream.DeadLetter) {
	t.Helper()
	sink := deadletter.New(store)
	w, err := sink.Open(t.Context(), stream.Tenure{Pipeline: pipeline, Sink: stream.DeadLetters, Partition: partition, Epoch: epoch})
	if err != nil {
		t.Fatal(err)
	}
	w.Write(letters)
	rs, err := w.Stage(t.Context(), stream.Provenance{Pipeline: pipeline, Sink: stream.DeadLetters, Partition: partition, Epoch: epoch})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rs {
		if err := sink.Publish(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
}

func letter(stage string, n uint64) *stream.DeadLetter {
	return &stream.DeadLetter{Stage: stage, Err: "why", Record: &stream.Record{
		Value: fmt.Append(nil, n), Pos: stream.OffsetPosition(n), Time: time.Date(2026, 1, 5, 10, 0, int(n), 0, time.UTC),
	}}
}

func folder(t testing.TB) objects.Store {
	t.Helper()
	store, err := objects.Open(t.Context(), t.TempDir(), objects.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// ledger is what the consumers of all processes committed.
type ledger struct {
	mu        sync.Mutex
	committed map[string][]string // values by partition
}

// consumer commits after each letter, and once more when it is drained.
type consumer struct {
	*ledger
	a     stream.Assignment
	fresh []stream.Record
	last  stream.Position
	any   bool
}

func (l *ledger) assigned(a stream.Assignment) (stream.Consumer, error) {
	c := &consumer{ledger: l, a: a}
	committed, ok := a.Committed()
	c.last, c.any = committed.Pos, ok
	return c, nil
}

func (c *consumer) Start() (stream.Position, bool) { return c.last, c.any }

func (c *consumer) Deliver(ctx context.Context, rs []stream.Record) error {
	for _, r := range rs {
		if c.any && r.Pos.Compare(c.last) <= 0 {
			return fmt.Errorf("%s after %s", r.Pos, c.last)
		}
		c.last, c.any = r.Pos, true
		c.fresh = append(c.fresh, r)
		if err := c.commit(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (c *consumer) commit(ctx context.Context) error {
	note := []byte(fmt.Sprint("note of ", c.last))
	if err := c.a.Commit(ctx, stream.Checkpoint{Pos: c.last, Note: note}); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.fresh {
		c.committed[c.a.Partition()] = append(c.committed[c.a.Partition()], string(r.Value))
	}
	c.fresh = nil
	return nil
}

func (c *consumer) Drain(context.Context, stream.Why) error { return nil }
func (c *consumer) Abort()                                  {}

func all(*deadletter.Letter) bool { return true }

// replay is one process: it goes on with what is not finished, and then begins.
func (l *ledger) replay(ctx context.Context, t testing.TB, store objects.Store) error {
	t.Helper()
	a := New(store, "clicks")
	runs, err := a.Runs(ctx)
	if err != nil {
		return err
	}
	r, err := a.Begin(ctx, "", all, func(err error) { t.Error(err) })
	if err != nil {
		return err
	}
	if r != nil {
		runs = append(runs, r)
	}
	for _, r := range runs {
		if r.Done {
			continue
		}
		sources, err := r.Sources(ctx, nil)
		if err != nil {
			return err
		}
		for _, sink := range slices.Sorted(maps.Keys(sources)) {
			if err := sources[sink].Run(ctx, l.assigned); err != nil {
				return err
			}
		}
		if err := r.Finish(ctx); err != nil {
			return err
		}
	}
	return nil
}

// archive is letters of all kinds: of two partitions, refused by sinks, of a run before, of another pipeline, unreadable.
func archive(t testing.TB, store objects.Store) objects.Store {
	t.Helper()
	bury(t, store, "clicks-0", 1, letter("decode", 1), letter("process.1.map", 2), letter("sink.search", 3), letter(Unreadable, 4))
	bury(t, store, "clicks-1", 1, letter("decode", 0), letter("sink.search", 7))
	bury(t, store, "clicks-0", 2, letter("sink.search", 3), letter("sink.profiles", 3), letter("decode", 9)) // 3 was set aside as well
	bury(t, store, Partition(7, "", "clicks-0"), 1, letter("decode", 5), letter("sink.profiles", 6))
	bury(t, store, Partition(7, "search", "clicks-0"), 1, letter("decode", 8))
	buryOf(t, "views", store, "clicks-0", 1, letter("decode", 10))
	return store
}

var wanted = map[string]string{
	"dlq-000001/all/clicks-0":           "1 2 5 9",
	"dlq-000001/all/clicks-1":           "0",
	"dlq-000001/sink.search/clicks-0":   "3 8",
	"dlq-000001/sink.search/clicks-1":   "7",
	"dlq-000001/sink.profiles/clicks-0": "3 6",
}

func (l *ledger) check(t *testing.T, store objects.Store) {
	t.Helper()
	got := map[string]string{}
	for p, values := range l.committed {
		got[p] = strings.Join(values, " ")
	}
	if !maps.Equal(got, wanted) {
		t.Errorf("replayed %v; want %v", got, wanted)
	}
	checkpoints, err := New(store, "clicks").Checkpoints(t.Context())
	if err != nil || len(checkpoints) != len(wanted) {
		t.Fatalf("%d checkpoints, %v; want %d", len(checkpoints), err, len(wanted))
	}
	for p, c := range checkpoints {
		if string(c.Note) != "note of "+c.Pos.String() {
			t.Errorf("%s: note %q at %s", p, c.Note, c.Pos)
		}
	}
}

func TestEveryLetterGoesWhereItWasToGoOnce(t *testing.T) {
	everyLetterOnce(t, archive(t, folder(t)))
}

func TestEveryLetterGoesWhereItWasToGoOnceInABucket(t *testing.T) {
	srv, err := s3.Start(t.Context(), t.TempDir(), s3.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	}()
	for k, v := range srv.Env(srv.URL()) {
		t.Setenv(k, v)
	}
	store, err := objects.Open(t.Context(), "s3://lake/dead", objects.Options{})
	if err != nil {
		t.Fatal(err)
	}
	everyLetterOnce(t, archive(t, store))
}

func everyLetterOnce(t *testing.T, store objects.Store) {
	l := &ledger{committed: map[string][]string{}}
	for range 2 {
		if err := l.replay(t.Context(), t, store); err != nil {
			t.Fatal(err)
		}
		l.check(t, store)
	}
	runs, err := New(store, "clicks").Runs(t.Context())
	if err != nil || len(runs) != 1 || !runs[0].Done || runs[0].Letters != 11 {
		t.Errorf("runs %+v, %v", runs, err)
	}
	if runs, err := New(store, "views").Runs(t.Context()); err != nil || len(runs) != 0 {
		t.Errorf("of another pipeline: %v, %v", runs, err)
	}
	bury(t, store, "clicks-1", 2, letter("decode", 11))
	wanted := "11"
	if err := l.replay(t.Context(), t, store); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(l.committed["dlq-000002/all/clicks-1"], " "); got != wanted {
		t.Errorf("a letter that came later: %q", got)
	}
}

// A process dies at each of its writes in turn, before and after the effect, and the next one goes on. The ledger is what the
// consumers know to be committed: of a commit whose answer was lost it learns by where the next one starts.
func TestAReplayThatDiesIsGoneOnWith(t *testing.T) {
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			store := archive(t, folder(t))
			l := &ledger{committed: map[string][]string{}}
			dying := &crashing{Store: store, left: n, after: after}
			err := l.replay(t.Context(), t, dying)
			if !dying.crashed() {
				if err != nil {
					t.Fatal(err)
				}
				break // it had fewer writes
			}
			if err == nil && !after {
				t.Fatalf("write %d: no error", n)
			}
			l.learn(t, store)
			if err := l.replay(t.Context(), t, store); err != nil {
				t.Fatalf("write %d, after its effect %v: %v", n, after, err)
			}
			l.check(t, store)
		}
	}
}

// learn adds what is committed and of which nobody was told.
func (l *ledger) learn(t *testing.T, store objects.Store) {
	t.Helper()
	checkpoints, err := New(store, "clicks").Checkpoints(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for p, c := range checkpoints {
		told := l.committed[p]
		for _, v := range strings.Fields(wanted[p]) {
			if v == fmt.Sprint(c.Pos.Offset()) && !slices.Contains(told, v) {
				l.committed[p] = append(told, v)
			}
		}
	}
}

func TestTwoReplaysAtOnceTakeALetterOnce(t *testing.T) {
	store := archive(t, folder(t))
	a, b := New(store, "clicks"), New(store, "clicks")
	var other *Run
	// b begins while a is at it: a finds its number taken, and nothing left.
	mine, err := a.Begin(t.Context(), "", func(*deadletter.Letter) bool {
		if other == nil {
			var err error
			if other, err = b.Begin(t.Context(), "b's", all, func(err error) { t.Error(err) }); err != nil {
				t.Error(err)
			}
		}
		return true
	}, func(err error) { t.Error(err) })
	if err != nil || mine != nil || other == nil || other.Number != 1 {
		t.Errorf("the first has %+v, %v; the second %+v", mine, err, other)
	}
}

func TestAPartitionHasOneOwner(t *testing.T) {
	store := archive(t, folder(t))
	r, err := New(store, "clicks").Begin(t.Context(), "", all, nil)
	if err != nil {
		t.Fatal(err)
	}
	name := Partition(1, "", "clicks-0")
	old, err := r.claim(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	c := stream.Checkpoint{Pos: stream.OffsetPosition(1), Note: []byte{0xff, 0}}
	for range 2 { // an answer was lost
		if err := old.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	next, err := r.claim(t.Context(), name)
	if err != nil || next.Epoch() <= old.Epoch() {
		t.Fatalf("epoch %d after %d, %v", next.Epoch(), old.Epoch(), err)
	}
	if got, ok := next.Committed(); !ok || got.Pos != c.Pos || string(got.Note) != string(c.Note) {
		t.Errorf("the next owner finds %+v, %v", got, ok)
	}
	for range 2 {
		if err := old.Commit(t.Context(), stream.Checkpoint{Pos: stream.OffsetPosition(2)}); !errors.Is(err, stream.ErrLost) {
			t.Errorf("the old owner's commit: %v; want ErrLost", err)
		}
	}
	select {
	case <-old.Done():
	default:
		t.Error("the old owner is not told")
	}
	if err := next.end(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ended, err := r.claim(t.Context(), name); err != nil || !ended.saved.Ended {
		t.Errorf("%v: a partition that has ended begins again", err)
	}
}

// forgetful is a store that does what it is asked, and says that it did not.
type forgetful struct {
	objects.Store
	forgets bool
}

func (s *forgetful) Publish(ctx context.Context, t objects.Ticket) error {
	err := s.Store.Publish(ctx, t)
	if s.forgets {
		return errors.Join(err, context.DeadlineExceeded)
	}
	return err
}

func TestALostAnswerIsFoundOut(t *testing.T) {
	store := &forgetful{Store: archive(t, folder(t))}
	r, err := New(store, "clicks").Begin(t.Context(), "", all, nil)
	if err != nil {
		t.Fatal(err)
	}
	owner, err := r.claim(t.Context(), Partition(1, "", "clicks-0"))
	if err != nil {
		t.Fatal(err)
	}
	store.forgets = true
	if err := owner.Commit(t.Context(), stream.Checkpoint{Pos: stream.OffsetPosition(1)}); err != nil {
		t.Errorf("a commit that was stored: %v", err)
	}
	store.forgets = false
	if err := owner.Commit(t.Context(), stream.Checkpoint{Pos: stream.OffsetPosition(2)}); err != nil {
		t.Errorf("the next one: %v", err)
	}
}

func TestPartitionNames(t *testing.T) {
	for _, c := range []struct {
		run          int
		sink, origin string
	}{{1, "", "clicks-3"}, {1234567, "search", "a/b"}, {2, "", "sink.x/y"}, {4, "", "a\nb"}} {
		run, sink, origin, ok := ParsePartition(Partition(c.run, c.sink, c.origin))
		if !ok || run != c.run || sink != c.sink || origin != c.origin {
			t.Errorf("%+v reads back as %d %q %q %v", c, run, sink, origin, ok)
		}
	}
	for _, name := range []string{"clicks-3", "dlq-1/x", "dlq-000001", "dlq-000001/", "x/dlq-000001/all/y", "dlq-000001/clicks-0"} {
		if _, _, _, ok := ParsePartition(name); ok {
			t.Errorf("%q is taken for a run's partition", name)
		}
	}
}

func TestAFileThatWasRemovedEndsNothing(t *testing.T) {
	store := archive(t, folder(t))
	r, err := New(store, "clicks").Begin(t.Context(), "", all, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Delete(t.Context(), r.Files[0].Key); err != nil {
		t.Fatal(err)
	}
	sources, err := r.Sources(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Delete(t.Context(), r.Files[1].Key); err != nil { // a moment later
		t.Fatal(err)
	}
	l := &ledger{committed: map[string][]string{}}
	for _, s := range sources {
		if err := s.Run(t.Context(), l.assigned); err != nil {
			t.Error(err)
		}
	}
	if err := l.replay(t.Context(), t, store); err != nil {
		t.Error(err)
	}
	if runs, err := New(store, "clicks").Runs(t.Context()); err != nil || len(runs) != 1 || !runs[0].Done {
		t.Errorf("%v, %v", runs, err)
	}
}
