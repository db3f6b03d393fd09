package spool_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/sinks/spool"
	"github.com/millrace-io/millrace/stream"
)

// Mutations seen red (line broken -> test):
//
//	turn: what an earlier owner set aside does not count -> ANewOwnerSendsWhatTheLastOneSetAsideFirst
//	Flush: nothing is withdrawn -> AnOutageIsSetAsideAndDrainedInOrder
//	published: what is known waits again -> APublishThatIsRepeatedBringsNothingBack
//	drainOne: refusals are forgotten -> ARefusalOfADrainedWriteIsADeadLetterOfTheNextCommit
//	drainOne: the file is deleted at once -> AFileGoesWithTheCommitAfterItsDrain
//	Stage: a file goes although its letters were not returned -> AFileGoesOnlyWithACommitThatHoldsItsDeadLetters
//	drainAll: does not wait for begin -> ANewOwnerDrainsNothingThatTheLastOneHasDrained
//	send, orphans: no limit of time -> AStoreThatDoesNotAnswerIsAskedAgain
//	pack: no item is marked as buried -> ARecordIsBuriedOnceByASinkThoughSomeOfItIsSetAside
//	drainAll: what fails is not said -> AFatalSinkIsSetAsideTooAndADamagedFileIsSaid
//	text: bytes are written as a string -> ARefusalOfADrainedWriteIsADeadLetterOfTheNextCommit (key)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server keeps what it is sent while it is up.
type server struct {
	mu     sync.Mutex
	down   error
	fail   func(*bulk.Item) error // nil: nothing does but what ends with !
	bodies []string
}

type encoder struct{}

func (encoder) Encode(key, body []byte, e *stream.Event) ([]byte, []byte, error) {
	return append(key, e.Record.Key...), append(body, e.Record.Value...), nil
}

func (s *server) Encoder(stream.Tenure) (bulk.Encoder, error) { return encoder{}, nil }
func (s *server) Idle()                                       {}
func (s *server) Send(_ context.Context, items []*bulk.Item) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return s.down
	}
	for _, it := range items {
		if s.fail != nil {
			if it.Err = s.fail(it); it.Err != nil {
				continue
			}
		}
		if strings.HasSuffix(string(it.Body), "!") {
			it.Err = bulk.Refused(errors.New("never"))
			continue
		}
		s.bodies = append(s.bodies, string(it.Body))
	}
	return nil
}

func (s *server) set(down error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

func (s *server) got() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.bodies)
}

var errDown = errors.New("connection refused")

// place is a pipeline's sink with its spool, and a folder for it.
type place struct {
	t      *testing.T
	dir    string
	server *server
	sink   *spool.Sink
}

func newPlace(t *testing.T) *place {
	p := &place{t: t, dir: t.TempDir(), server: new(server)}
	p.sink = p.another()
	return p
}

// another is the sink of another process.
func (p *place) another() *spool.Sink {
	p.t.Helper()
	store, err := objects.Open(p.t.Context(), p.dir, objects.Options{})
	if err != nil {
		p.t.Fatal(err)
	}
	loop := bulk.New(p.server, bulk.Options{Name: "search", Order: bulk.InTurn, Delay: time.Millisecond})
	return spool.New(loop, store, spool.Options{Name: "search", StallAfter: 30 * time.Millisecond})
}

// tenure is a writer as the engine uses it.
type tenure struct {
	*place
	sink *spool.Sink
	w    stream.SpoolWriter
	last []stream.Receipt
}

func (p *place) open(s *spool.Sink, epoch uint64) *tenure {
	p.t.Helper()
	w, err := s.Open(p.t.Context(), stream.Tenure{Pipeline: "p", Sink: "search", Partition: "clicks/α", Epoch: epoch})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(w.Close)
	return &tenure{place: p, sink: s, w: w.(stream.SpoolWriter)}
}

func (w *tenure) write(from, n int, suffix string) []string {
	b := stream.NewBatch(&stream.Schema{})
	records := make([]stream.Record, n)
	var bodies []string
	for i := range records {
		body := fmt.Sprintf("%04d%s", from+i, suffix)
		bodies = append(bodies, body)
		records[i] = stream.Record{Key: []byte{0xff, byte((from + i) % 5)}, Value: []byte(body), Pos: stream.OffsetPosition(uint64(from + i)), Time: time.Unix(int64(from), 0)}
		b.Append(&records[i])
	}
	var events []*stream.Event
	for i := range b.Events {
		events = append(events, &b.Events[i])
	}
	w.w.Write(events)
	if err := w.w.Upload(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return bodies
}

// stage is a commit up to its decision.
func (w *tenure) stage() (dead []*stream.DeadLetter) {
	w.t.Helper()
	dead, err := w.w.Flush(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	if w.last, err = w.w.Stage(w.t.Context(), stream.Provenance{Sink: "search"}); err != nil {
		w.t.Fatal(err)
	}
	for _, r := range w.last {
		if removes := strings.Contains(string(r.Body), `"d":`); !r.Aside || r.Sink != "search" || r.Removes != removes {
			w.t.Fatalf("receipt %+v; want one of the sink, aside, that says whether it removes something", r)
		}
	}
	return dead
}

func (w *tenure) publish(s *spool.Sink) {
	w.t.Helper()
	for _, r := range w.last {
		if err := s.Publish(w.t.Context(), r); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *tenure) commit() []*stream.DeadLetter {
	w.t.Helper()
	dead := w.stage()
	w.publish(w.sink)
	return dead
}

func (p *place) files() []string {
	p.t.Helper()
	files, err := filepath.Glob(filepath.Join(p.dir, "search", "*", "*.jsonl.zst"))
	if err != nil {
		p.t.Fatal(err)
	}
	return files
}

// until waits for the drain, which is another goroutine's business.
func (p *place) until(what string, done func() bool) {
	p.t.Helper()
	for end := time.Now().Add(3 * time.Minute); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("%s does not happen", what)
		}
	}
}

func (p *place) inOrder(want []string) {
	p.t.Helper()
	// Writes of one key keep their order; of different keys they need not.
	byKey := func(all []string) [5][]string {
		var out [5][]string
		for _, s := range all {
			var n int
			if _, err := fmt.Sscanf(s, "%d", &n); err != nil {
				p.t.Fatal(err)
			}
			out[n%5] = append(out[n%5], s)
		}
		return out
	}
	if got, want := byKey(p.server.got()), byKey(want); fmt.Sprint(got) != fmt.Sprint(want) {
		p.t.Fatalf("the server has %v; want %v", got, want)
	}
}

func TestAnOutageIsSetAsideAndDrainedInOrder(t *testing.T) {
	p := newPlace(t)
	w := p.open(p.sink, 1)
	want := w.write(0, 20, "")
	w.commit()
	if len(p.files()) > 0 {
		t.Fatalf("without an outage these files are there: %v", p.files())
	}
	p.server.set(errDown)
	for from := 20; from < 100; from += 20 {
		want = append(want, w.write(from, 20, "")...)
		w.commit()
	}
	if n := len(p.files()); n != 4 {
		t.Fatalf("%d files are set aside in four commits", n)
	}
	if s := p.sink.Stats(); !s.Spool.Spooling || s.Spool.Files != 4 || s.Spool.Spooled != 80 || s.Spool.Oldest.IsZero() || s.Spool.Bytes == 0 {
		t.Errorf("stats %+v", s.Spool)
	}
	want = append(want, w.write(100, 20, "")...) // not committed when the server is back
	p.server.set(nil)
	p.until("the drain", func() bool { return len(p.server.got()) == 100 })
	p.until("the return to direct writes", func() bool {
		w.write(0, 0, "")
		return !p.sink.Stats().Spool.Spooling
	})
	want = append(want, w.write(120, 20, "")...)
	w.commit()
	p.inOrder(want)
	w.commit()
	if n := len(p.files()); n != 0 || !w.w.Settled() || w.w.Buffered() != 0 {
		t.Errorf("%d files and %d bytes are left, settled %t", n, w.w.Buffered(), w.w.Settled())
	}
	if s := p.sink.Stats(); s.Spool.Files != 0 || s.Spool.Drained != 80 {
		t.Errorf("stats %+v", s.Spool)
	}
}

func TestMuchThatIsSetAsideDoesNotWaitInMemory(t *testing.T) {
	p := newPlace(t)
	w := p.open(p.sink, 1)
	p.server.set(errDown)
	want := w.write(0, 1, "")
	w.commit()
	for i := range 60 {
		want = append(want, w.write(1+i*500, 500, strings.Repeat("x", 300))...)
	}
	if n := w.w.Buffered(); n > 6<<20 {
		t.Errorf("30,000 writes that are set aside hold %d bytes of memory", n)
	}
	p.server.set(nil)
	p.until("the drain", func() bool { return p.sink.Stats().Spool.Files == 0 })
	if !w.w.Full() {
		t.Error("the file is not wanted when the drain has nothing else to do")
	}
	w.commit()
	p.until("the second drain", func() bool { return len(p.server.got()) == len(want) })
	p.inOrder(want)
}

func TestAnUnpublishedFileIsNobodysAndDiscardRemovesIt(t *testing.T) {
	p := newPlace(t)
	w := p.open(p.sink, 1)
	p.server.set(errDown)
	w.write(0, 10, "")
	w.stage() // and never committed
	w.write(10, 10, "")
	w.w.Close()
	w.w.Discard(t.Context())
	p.server.set(nil)
	other := p.open(p.another(), 2)
	want := other.write(0, 30, "")
	other.commit()
	p.inOrder(want)
	if len(p.files()) > 0 {
		t.Errorf("files %v are visible", p.files())
	}
}

func TestANewOwnerSendsWhatTheLastOneSetAsideFirst(t *testing.T) {
	p := newPlace(t)
	w := p.open(p.sink, 1)
	p.server.set(errDown)
	want := w.write(0, 10, "")
	w.commit()
	want = append(want, w.write(10, 10, "")...)
	w.stage() // the crash comes between the commit and the publish
	w.w.Close()

	p.server.set(nil)
	s := p.another()
	next := p.open(s, 2)
	next.last = w.last
	next.publish(s)
	want = append(want, next.write(20, 10, "")...)
	p.until("the drain", func() bool { return len(p.server.got()) >= 20 })
	next.commit()
	next.commit()
	p.until("all", func() bool { return len(p.server.got()) >= 30 })
	p.inOrder(want)
}

func TestAFileGoesWithTheCommitAfterItsDrain(t *testing.T) {
	p := newPlace(t)
	w := p.open(p.sink, 1)
	p.server.set(errDown)
	w.write(0, 10, "")
	w.commit()
	p.server.set(nil)
	p.until("the drain", func() bool { return p.sink.Stats().Spool.Files == 0 })
	if len(p.files()) != 1 {
		t.Fatal("the file is gone while a checkpoint may name it: a new owner would miss it")
	}
	if w.w.Settled() {
		t.Error("a file waits for a commit, and the engine is not told")
	}
	w.commit()
	if len(p.files()) != 0 {
		t.Errorf("files %v are left", p.files())
	}
}

func TestAPublishThatIsRepeatedBringsNothingBack(t *testing.T) {
	p := newPlace(t)
	w := p.open(p.sink, 1)
	p.server.set(errDown)
	w.write(0, 10, "")
	w.commit()
	ticket := w.last
	p.server.set(nil)
	p.until("the drain", func() bool { return p.sink.Stats().Spool.Files == 0 })
	w.last = ticket
	w.publish(p.sink) // the answer to the first one was lost
	if n := p.sink.Stats().Spool.Files; n != 0 {
		t.Errorf("%d files wait again", n)
	}
	w.commit()
	w.publish(p.sink) // of the removal too
}

func TestARefusalOfADrainedWriteIsADeadLetterOfTheNextCommit(t *testing.T) {
	p := newPlace(t)
	w := p.open(p.sink, 1)
	p.server.set(errDown)
	w.write(0, 3, "")
	w.write(3, 1, "!")
	w.write(4, 3, "")
	if dead := w.commit(); len(dead) > 0 {
		t.Fatalf("%d dead letters while nobody was asked", len(dead))
	}
	p.server.set(nil)
	p.until("the drain", func() bool { return p.sink.Stats().Spool.Files == 0 })
	dead := w.commit()
	if len(dead) != 1 || dead[0].Stage != "sink.search" || dead[0].Err != "never" || string(dead[0].Record.Value) != "0003!" ||
		string(dead[0].Record.Key) != "\xff\x03" || dead[0].Record.Time.Unix() != 3 {
		t.Fatalf("dead letters %+v; want the one", dead)
	}
	if dead = w.commit(); len(dead) > 0 {
		t.Errorf("it is returned again")
	}
}

func TestWithdrawnFilesAreNotDrained(t *testing.T) {
	p := newPlace(t)
	w := p.open(p.sink, 1)
	p.server.set(errDown)
	w.write(0, 5, "")
	w.commit()
	for _, r := range slices.Repeat(w.last, 2) {
		if err := p.sink.Withdraw(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if len(p.files()) > 0 || p.sink.Stats().Spool.Files != 0 {
		t.Fatal("the file is still there")
	}
	for _, r := range w.last {
		if err := p.another().Publish(t.Context(), r); !errors.Is(err, stream.ErrExpired) {
			t.Errorf("publish of what was withdrawn returns %v; want ErrExpired", err)
		}
	}
}

func TestWhatNobodyOwnsIsDrainedAndMayBePublishedAgain(t *testing.T) {
	p := newPlace(t)
	w := p.open(p.sink, 1)
	p.server.set(errDown)
	want := w.write(0, 10, "")
	w.commit()
	p.server.set(nil)
	p.sink.Orphans(t.Context(), 0) // owned: its writer drains it
	w.w.Close()
	s := p.another()
	if n, err := s.Orphans(t.Context(), time.Hour); n != 0 || err != nil {
		t.Errorf("%d writes of a young file are sent, %v: its owner may come back", n, err)
	}
	if n, err := s.Orphans(t.Context(), 0); n != 10 && len(p.server.got()) < 10 || err != nil {
		t.Fatalf("%d writes are sent, %v; want 10", n, err)
	}
	if len(p.files()) > 0 {
		t.Errorf("files %v are left", p.files())
	}
	next := p.open(s, 2) // the partition has an owner again, whose checkpoint names the file
	next.last = w.last
	next.publish(s)
	want = append(want, next.write(10, 10, "")...)
	next.commit()
	got := p.server.got()
	p.server.mu.Lock()
	p.server.bodies = got[len(got)-len(want):] // the owner's drain may have sent the file as well
	p.server.mu.Unlock()
	p.inOrder(want)
}

func TestAFatalSinkIsSetAsideTooAndADamagedFileIsSaid(t *testing.T) {
	p := newPlace(t)
	w := p.open(p.sink, 1)
	p.server.set(stream.Fatal(errors.New("401: wrong password")))
	w.write(0, 5, "")
	w.commit()
	if n := len(p.files()); n != 1 {
		t.Fatalf("%d files; the run should go on for the other sinks", n)
	}
	if p.sink.Stats().Failing == "" {
		t.Error("nothing says that the sink fails")
	}
	if err := os.Truncate(p.files()[0], 20); err != nil {
		t.Fatal(err)
	}
	p.server.set(nil)
	w.write(5, 5, "")
	w.commit()
	p.until("the damage is said", func() bool { return strings.Contains(p.sink.Stats().Spool.Failing, "read search/") })
	if got := p.server.got(); len(got) > 0 {
		t.Errorf("%v is sent past a damaged file", got)
	}
	dead, err := w.w.Flush(t.Context())
	if err != nil || len(dead) > 0 {
		t.Errorf("flush returns %v, %v", dead, err)
	}
}

func TestAFileGoesOnlyWithACommitThatHoldsItsDeadLetters(t *testing.T) {
	p := newPlace(t)
	w := p.open(p.sink, 1)
	p.server.set(errDown)
	w.write(0, 1, "!")
	w.commit()
	if dead, err := w.w.Flush(t.Context()); err != nil || len(dead) > 0 {
		t.Fatalf("flush returns %v, %v", dead, err)
	}
	p.server.set(nil) // the drain ends between a commit's flush and its stage
	p.until("the drain", func() bool { return p.sink.Stats().Spool.Files == 0 })
	rs, err := w.w.Stage(t.Context(), stream.Provenance{Sink: "search"})
	if err != nil || len(rs) > 0 {
		t.Fatalf("stage returns %v, %v; the dead letter is in no commit yet, and a crash would lose it with the file", rs, err)
	}
	if w.w.Settled() {
		t.Error("a dead letter waits for a commit, and the engine is not told")
	}
	if dead := w.commit(); len(dead) != 1 || len(p.files()) != 0 {
		t.Errorf("%d dead letters, %d files after the next commit", len(dead), len(p.files()))
	}
}

func TestANewOwnerDrainsNothingThatTheLastOneHasDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t)
		w := p.open(p.sink, 1)
		p.server.set(errDown)
		w.write(0, 1, "!")
		w.commit()
		p.server.set(nil)
		p.until("the drain", func() bool { return p.sink.Stats().Spool.Files == 0 })
		if dead := w.stage(); len(dead) != 1 { // the crash comes between the commit and the publish
			t.Fatalf("%d dead letters", len(dead))
		}
		w.w.Close()
		s := p.another()
		next := p.open(s, 2)
		synctest.Wait() // for a drain that does not
		next.last = w.last
		next.publish(s)
		if dead := next.commit(); len(dead) > 0 || len(p.files()) > 0 || s.Stats().Spool.Drained > 0 {
			t.Errorf("%d dead letters come again, %d files are left, %d writes are drained", len(dead), len(p.files()), s.Stats().Spool.Drained)
		}
		synctest.Wait()
		if next.commit(); !next.w.Settled() || s.Stats().Spool.Spooling {
			t.Error("the writer is not direct again")
		}
	})
}

// stuckStore answers nothing while it is stuck.
type stuckStore struct {
	objects.Store
	stuck atomic.Bool
}

func (s *stuckStore) wait(ctx context.Context) error {
	if !s.stuck.Load() {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (s *stuckStore) Open(ctx context.Context, key string) (objects.Object, error) {
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	return s.Store.Open(ctx, key)
}

func (s *stuckStore) List(ctx context.Context, prefix string) iter.Seq2[objects.Info, error] {
	if err := s.wait(ctx); err != nil {
		return func(yield func(objects.Info, error) bool) { yield(objects.Info{}, err) }
	}
	return s.Store.List(ctx, prefix)
}

func (s *stuckStore) Put(ctx context.Context, key string, data []byte) error {
	return errors.Join(s.wait(ctx), s.Store.Put(ctx, key, data))
}

func TestAStoreThatDoesNotAnswerIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t)
		files, err := objects.Open(t.Context(), p.dir, objects.Options{})
		if err != nil {
			t.Fatal(err)
		}
		store := &stuckStore{Store: files}
		loop := bulk.New(p.server, bulk.Options{Name: "search", Order: bulk.InTurn, Delay: time.Millisecond})
		p.sink = spool.New(loop, store, spool.Options{Name: "search", StallAfter: 30 * time.Millisecond})
		w := p.open(p.sink, 1)
		p.server.set(errDown)
		w.write(0, 10, "")
		store.stuck.Store(true) // before the drain knows of a file
		w.commit()
		p.server.set(nil)
		p.until("the drain gives up", func() bool { return p.sink.Stats().Spool.Failing != "" })
		store.stuck.Store(false)
		p.until("the drain", func() bool { return p.sink.Stats().Spool.Files == 0 })

		p.server.set(errDown)
		w.write(10, 10, "")
		w.commit()
		w.w.Close()
		p.server.set(nil)
		store.stuck.Store(true)
		if n, err := p.sink.Orphans(t.Context(), 0); n > 0 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%d writes are drained, %v; want that the store does not answer", n, err)
		}
	})
}

// TestARecordIsBuriedOnceByASinkThoughSomeOfItIsSetAside: of two events one is refused at once, the other one after the drain, in a
// later commit.
func TestARecordIsBuriedOnceByASinkThoughSomeOfItIsSetAside(t *testing.T) {
	p := newPlace(t)
	w := p.open(p.sink, 1)
	busy := errors.New("429")
	p.server.fail = func(it *bulk.Item) error {
		if it.Index == 1 {
			return busy
		}
		return nil
	}
	r := stream.Record{Key: []byte("k"), Value: []byte("x!"), Pos: stream.OffsetPosition(4)}
	b := stream.NewBatch(&stream.Schema{})
	b.Append(&r)
	b.Append(&r)
	w.w.Write([]*stream.Event{&b.Events[0], &b.Events[1]})
	if dead := w.commit(); len(dead) != 1 || len(p.files()) != 1 {
		t.Fatalf("%d dead letters, %d files; want one of each", len(dead), len(p.files()))
	}
	p.server.mu.Lock()
	p.server.fail = nil
	p.server.mu.Unlock()
	w.write(5, 0, "")
	p.until("the drain", func() bool { return p.sink.Stats().Spool.Files == 0 })
	if dead := w.commit(); len(dead) != 0 || len(p.files()) != 0 {
		t.Errorf("%d dead letters more, %d files", len(dead), len(p.files()))
	}
}
