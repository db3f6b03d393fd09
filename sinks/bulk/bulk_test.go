package bulk_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/stream"
)

// Mutations seen red (line broken -> test):
//
//	take: no delay -> AWriteLeavesWithinTheDelayWithoutAFlush
//	full: the size is not counted -> AFullRequestLeavesAtOnceAndNoneIsLarger
//	replaces: the writer is not compared -> WritesOfTwoPartitionsNeverReplaceEachOther (hangs)
//	replaces: the position is not compared -> AnEarlierWriteThatComesLaterReplacesNone
//	landed: the older write is not repeated -> AnOlderWriteGoesOnWhenTheNewestIsRefused (hangs)
//	aside: a held key goes on -> EveryWriteIsSettledOnceInOrderUnderAllFaults
//	putBack: behind what has to be repeated already -> EveryWriteIsSettledOnceInOrderUnderAllFaults
//	withdraw: a request under way is not looked at -> CloseEndsARequestThatHangsAndTheOthersWritesGoOn
//	hash: LogOrder by the key -> EveryWriteIsSettledOnceInOrderUnderAllFaults
//	late: nothing is said -> ASinkThatHasNoAnswerSaysHowLongItWaited
//	backOff: late requests are not made smaller; nor below the size that throttled ones have -> RequestsThatAreLateBecomeSmallerUntilTheyArrive
//	landed: no poke -> AFatalErrorReachesTheEngine (hangs)
//	item: one block for all lanes -> MemoryIsThatOfWhatIsNotAcknowledged (hangs)
//	settle: what was replaced still hangs on it -> MemoryIsThatOfWhatIsNotAcknowledged
//	Withdraw: the next write goes into the block of those -> EveryWriteIsSettledOnceInOrderUnderAllFaults (hangs)

func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(1) // Go 1.26: the race detector and fake time do not go together on several
	goleak.VerifyTestMain(m)
}

// server is a target that behaves as the test says.
type server struct {
	order bulk.Order
	fail  func(items []*bulk.Item) error // nil: never; it may set Err
	hang  chan struct{}                  // not nil: Send waits for it or its context

	mu       sync.Mutex
	applied  []bulk.Item // in the order of their effect
	requests [][]string
	problems []string
	idle     int
}

func (s *server) Encoder(t stream.Tenure) (bulk.Encoder, error) {
	if t.Partition == "" {
		return nil, errors.New("no partition")
	}
	return encoder{}, nil
}

// encoder takes the record's key, and its value as the body. A value "bad" cannot be encoded, an empty one asks for no write.
type encoder struct{}

func (encoder) Encode(key, body []byte, e *stream.Event) ([]byte, []byte, error) {
	if string(e.Record.Value) == "bad" {
		return key, body, errors.New("cannot be encoded")
	}
	return append(key, e.Record.Key...), append(body, e.Record.Value...), nil
}

func (s *server) Idle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle++
}

func (s *server) Send(ctx context.Context, items []*bulk.Item) error {
	if s.hang != nil {
		select {
		case <-s.hang:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var bodies []string
	seen := map[string]bool{}
	for _, it := range items {
		bodies = append(bodies, string(it.Body))
		if seen[string(it.Key)] && (s.order == bulk.Newest || s.order == bulk.OneByOne) {
			s.problems = append(s.problems, fmt.Sprintf("key %s is twice in a request", it.Key))
		}
		seen[string(it.Key)] = true
	}
	s.requests = append(s.requests, bodies)
	var err error
	if s.fail != nil {
		err = s.fail(items)
	}
	if err != nil && !errors.Is(err, errLostAnswer) {
		return err
	}
	stopped := map[string]bool{}
	for _, it := range items {
		of := ordered(s.order, it.Partition, string(it.Key))
		if (s.order == bulk.InTurn || s.order == bulk.LogOrder) && stopped[of] && it.Err == nil {
			it.Err = errBusy
		}
		if it.Err != nil {
			stopped[of] = stopped[of] || errors.Is(it.Err, errBusy)
			continue
		}
		s.applied = append(s.applied, *it)
	}
	return err
}

// ordered is what a write has an order with.
func ordered(order bulk.Order, partition, key string) string {
	if order == bulk.LogOrder {
		return partition
	}
	return key
}

var (
	errBusy       = errors.New("busy")
	errLostAnswer = errors.New("the answer is lost")
)

// events are one for each record, with the values as bodies, and keys before a colon.
func events(first uint64, values ...string) []*stream.Event {
	b := stream.NewBatch(schema())
	records := make([]stream.Record, len(values))
	for i, v := range values {
		key, _, _ := strings.Cut(v, ":")
		records[i] = stream.Record{Key: []byte(key), Value: []byte(v), Pos: stream.OffsetPosition(first + uint64(i))}
		b.Append(&records[i])
	}
	var out []*stream.Event
	for i := range values {
		out = append(out, &b.Events[i])
	}
	return out
}

func schema() *stream.Schema {
	s, err := stream.NewSchema()
	if err != nil {
		panic(err)
	}
	return s
}

func open(t *testing.T, s *bulk.Sink, partition string) *bulk.Writer {
	t.Helper()
	w, err := s.Writer(stream.Tenure{Partition: partition, Schema: schema()})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (s *server) bodies() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, it := range s.applied {
		out = append(out, string(it.Body))
	}
	return out
}

func TestAWriteLeavesWithinTheDelayWithoutAFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := &server{}
		w := open(t, bulk.New(target, bulk.Options{Delay: 80 * time.Millisecond}), "p")
		defer w.Close()
		w.Write(events(0, "a:1", "b:1"))
		time.Sleep(79 * time.Millisecond)
		synctest.Wait()
		if got := target.bodies(); len(got) != 0 {
			t.Fatalf("%v is sent before company could come", got)
		}
		w.Write(events(2, "c:1"))
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if got := target.bodies(); !slices.Equal(got[:2], []string{"a:1", "b:1"}) {
			t.Fatalf("after the delay %v is sent", got)
		}
	})
}

func TestAFullRequestLeavesAtOnceAndNoneIsLarger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := &server{}
		w := open(t, bulk.New(target, bulk.Options{Delay: time.Hour, Items: 3, Bytes: 10, Lanes: 1}), "p")
		defer w.Close()
		w.Write(events(0, "1", "2", "3", "4"))
		synctest.Wait()
		w.Write(events(4, "12345678", "9", "0", "12345678901234567890"))
		synctest.Wait()
		want := [][]string{{"1", "2", "3"}, {"4", "12345678", "9"}, {"0"}, {"12345678901234567890"}}
		if fmt.Sprint(target.requests) != fmt.Sprint(want) {
			t.Errorf("requests %v; want %v", target.requests, want)
		}
	})
}

func TestASinkThatHasNoAnswerSaysHowLongItWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := &server{hang: make(chan struct{})}
		s := bulk.New(target, bulk.Options{Timeout: 3 * time.Second})
		w := open(t, s, "p")
		defer w.Close()
		w.Write(events(0, "a:1"))
		time.Sleep(3*time.Second + 100*time.Millisecond) // and the delay
		synctest.Wait()
		if got, want := s.Stats().Failing, "no answer within 3s: context deadline exceeded"; got != want {
			t.Errorf("the sink fails with %q; want %q", got, want)
		}
		close(target.hang)
		if _, err := w.Flush(t.Context()); err != nil || s.Stats().Failing != "" {
			t.Errorf("after an answer it fails with %q; flush: %v", s.Stats().Failing, err)
		}
	})
}

func TestRequestsThatAreLateBecomeSmallerUntilTheyArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const each = 100 * time.Millisecond // for which a write is on its way
		const timeout = time.Second
		target := &server{fail: func(items []*bulk.Item) error {
			time.Sleep(min(timeout, time.Duration(len(items))*each))
			if len(items) > int(timeout/each) {
				return context.DeadlineExceeded
			}
			return nil
		}}
		s := bulk.New(target, bulk.Options{Name: "out", Timeout: timeout, Lanes: 1})
		w := open(t, s, "p")
		defer w.Close()
		w.Write(events(0, slices.Repeat([]string{"a"}, 400)...))
		ctx, cancel := context.WithTimeout(t.Context(), 10*400*each)
		defer cancel()
		if dead, err := w.Flush(ctx); err != nil || len(dead) > 0 || len(target.applied) != 400 {
			t.Errorf("%d dead letters, %d of 400 are written, %v", len(dead), len(target.applied), err)
		}
	})
}

func TestOfOneKeyTheNewestWaitingWriteIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := &server{order: bulk.Newest}
		s := bulk.New(target, bulk.Options{Order: bulk.Newest, Lanes: 1})
		w := open(t, s, "p")
		defer w.Close()
		w.Write(events(0, "a:1", "b:1", "a:2", "a:3"))
		if _, err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := target.bodies(); !slices.Equal(got, []string{"a:3", "b:1"}) {
			t.Errorf("%v is written; want the newest of each key", got)
		}
		if w.Buffered() != 0 || s.Stats().Waiting != 0 {
			t.Errorf("%d bytes and %d writes wait after all is acknowledged", w.Buffered(), s.Stats().Waiting)
		}
	})
}

func TestWritesOfTwoPartitionsNeverReplaceEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := &server{order: bulk.Newest}
		s := bulk.New(target, bulk.Options{Order: bulk.Newest, Lanes: 1})
		v, w := open(t, s, "p"), open(t, s, "q")
		defer v.Close()
		defer w.Close()
		v.Write(events(7, "a:7"))
		w.Write(events(3, "a:3"))
		v.Write(events(8, "a:8"))
		for _, x := range []*bulk.Writer{v, w} {
			if _, err := x.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got := target.bodies(); !slices.Equal(got, []string{"a:7", "a:3", "a:8"}) {
			t.Errorf("%v is written; want all, for the server to judge", got)
		}
	})
}

// A replay of the lake comes in the order of its files.
func TestAnEarlierWriteThatComesLaterReplacesNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := &server{order: bulk.Newest}
		w := open(t, bulk.New(target, bulk.Options{Order: bulk.Newest, Lanes: 1}), "p")
		defer w.Close()
		w.Write(events(7, "a:7"))
		w.Write(events(3, "a:3"))
		if _, err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := target.bodies(); !slices.Equal(got, []string{"a:7", "a:3"}) {
			t.Errorf("%v is written; want both, for the server to judge", got)
		}
	})
}

func TestAnOlderWriteGoesOnWhenTheNewestIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := &server{order: bulk.Newest, fail: func(items []*bulk.Item) error {
			for _, it := range items {
				if string(it.Body) == "a:3" {
					it.Err = bulk.Refused(errors.New("no threes"))
				}
			}
			return nil
		}}
		w := open(t, bulk.New(target, bulk.Options{Name: "s", Order: bulk.Newest}), "p")
		defer w.Close()
		w.Write(events(0, "a:1", "a:2", "a:3"))
		dead, err := w.Flush(t.Context())
		if err != nil || len(dead) != 1 || dead[0].Stage != "sink.s" || dead[0].Err != "no threes" || dead[0].Record.Pos.Offset() != 2 {
			t.Fatalf("flush returns %+v, %v; want a dead letter for the third", dead, err)
		}
		if got := target.bodies(); !slices.Equal(got, []string{"a:2"}) {
			t.Errorf("%v is written; want the second", got)
		}
	})
}

func TestWhatCannotBeEncodedIsADeadLetterAndTheOthersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := &server{}
		w := open(t, bulk.New(target, bulk.Options{Name: "s"}), "p")
		defer w.Close()
		w.Write(events(0, "a", "bad", "", "c"))
		dead, err := w.Flush(t.Context())
		if err != nil || len(dead) != 1 || string(dead[0].Record.Value) != "bad" {
			t.Fatalf("flush returns %v, %v; want the bad one", dead, err)
		}
		if dead, err = w.Flush(t.Context()); err != nil || len(dead) != 0 {
			t.Errorf("the next flush returns %v, %v; want nothing", dead, err)
		}
		if got := target.bodies(); !slices.Equal(got, []string{"a", "c"}) {
			t.Errorf("%v is written", got)
		}
	})
}

func TestATooLargeRequestIsSplitUntilOneWriteIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := &server{fail: func(items []*bulk.Item) error {
			n := 0
			for _, it := range items {
				n += len(it.Body)
			}
			if n > 5 {
				return fmt.Errorf("413: %w", bulk.ErrTooLarge)
			}
			return nil
		}}
		w := open(t, bulk.New(target, bulk.Options{Name: "s", Lanes: 1}), "p")
		defer w.Close()
		w.Write(events(0, "11", "22", "33", "toolarge", "44", "55"))
		dead, err := w.Flush(t.Context())
		if err != nil || len(dead) != 1 || string(dead[0].Record.Value) != "toolarge" {
			t.Fatalf("flush returns %v, %v; want the large one", dead, err)
		}
		if got := target.bodies(); !slices.Equal(got, []string{"11", "22", "33", "44", "55"}) {
			t.Errorf("%v is written", got)
		}
	})
}

func TestAFlushThatIsCutShortSaysWhatFailsAndTheNextGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := true
		target := &server{fail: func([]*bulk.Item) error {
			if down {
				return errors.New("connection refused")
			}
			return nil
		}}
		s := bulk.New(target, bulk.Options{})
		w := open(t, s, "p")
		defer w.Close()
		w.Write(events(0, "a", "b"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := w.Flush(ctx); err == nil || !strings.Contains(err.Error(), "2 writes are not acknowledged: connection refused") {
			t.Fatalf("flush returns %v", err)
		}
		if st := s.Stats(); st.Failing == "" || st.Failed < 5 || st.Failed > 30 || st.Waiting != 2 {
			t.Errorf("stats %+v; want a sink that fails, some tries a minute", st)
		}
		target.mu.Lock()
		down = false
		target.mu.Unlock()
		if _, err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if st := s.Stats(); st.Failing != "" || st.Written != 2 || st.Waiting != 0 || st.WaitingBytes != 0 {
			t.Errorf("stats %+v; want a healthy sink", st)
		}
	})
}

// slowLane is a target that hangs with one key; so the other writes of its lane wait.
type slowLane struct {
	server
	release chan struct{}
}

func (s *slowLane) Send(ctx context.Context, items []*bulk.Item) error {
	if slices.ContainsFunc(items, func(it *bulk.Item) bool { return string(it.Key) == "slow" }) {
		select {
		case <-s.release:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// heap is what is in use, once the lanes have let go.
func heap() int64 {
	var m runtime.MemStats
	least := int64(math.MaxInt64)
	for range 5 {
		runtime.GC()
		runtime.ReadMemStats(&m)
		least = min(least, int64(m.HeapAlloc))
	}
	return least
}

// The engine's budget goes by Buffered: what one lane still has must not keep more in memory than it says.
func TestMemoryIsThatOfWhatIsNotAcknowledged(t *testing.T) {
	for name, test := range map[string]struct {
		delay time.Duration
		key   string // of write I in batch B
		slow  int    // batch
	}{
		"the others have keys of their own": {time.Millisecond, "I of B", 0},
		"the others replace each other":     {time.Hour, "I", 39},
	} {
		t.Run(name, func(t *testing.T) {
			target := &slowLane{release: make(chan struct{})}
			s := bulk.New(target, bulk.Options{Name: "s", Order: bulk.Newest, Lanes: 8, Delay: test.delay, Items: 1 << 20, Bytes: 1 << 30, Timeout: time.Hour})
			w := open(t, s, "p")
			defer w.Close()
			before, written := heap(), int64(0)
			for batch := range 40 {
				var values []string
				for i := range 256 {
					key := strings.NewReplacer("I", strconv.Itoa(i), "B", strconv.Itoa(batch)).Replace(test.key)
					if batch == test.slow && i == 100 {
						key = "slow"
					}
					values = append(values, key+":"+strings.Repeat("x", 2000))
				}
				w.Write(events(uint64(256*batch), values...))
				written += 256 * 4000
			}
			if err := w.Wait(t.Context(), written/4); err != nil {
				t.Fatal(err)
			}
			if held, said := heap()-before, w.Buffered(); held > said*3/2 {
				t.Errorf("%d MB are held for %d MB that are not acknowledged", held>>20, said>>20)
			}
			close(target.release)
			if _, err := w.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if held := heap() - before; held > 1<<20 || w.Buffered() != 0 {
				t.Errorf("%d KB are held for nothing; %d bytes are said to be", held>>10, w.Buffered())
			}
		})
	}
}

func TestAFatalErrorReachesTheEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := &server{fail: func([]*bulk.Item) error { return stream.Fatal(errors.New("401")) }}
		w := open(t, bulk.New(target, bulk.Options{}), "p")
		defer w.Close()
		w.Write(events(0, "a"))
		_, err := w.Flush(t.Context())
		if fatal := (*stream.FatalError)(nil); !errors.As(err, &fatal) {
			t.Fatalf("flush returns %v; want a FatalError", err)
		}
	})
}

func TestCloseEndsARequestThatHangsAndTheOthersWritesGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := &server{hang: make(chan struct{})}
		s := bulk.New(target, bulk.Options{Lanes: 1})
		v, w := open(t, s, "p"), open(t, s, "q")
		v.Write(events(0, "mine"))
		w.Write(events(0, "other"))
		time.Sleep(time.Second)
		v.Close()
		close(target.hang)
		if _, err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := target.bodies(); !slices.Equal(got, []string{"other"}) {
			t.Errorf("%v is written; want only the other's", got)
		}
		w.Close()
		w.Close()
		if target.idle != 1 {
			t.Errorf("the target is told %d times that it is idle; want once", target.idle)
		}
		x := open(t, s, "p") // a sink whose last tenure has ended can be used again
		x.Write(events(1, "again"))
		if _, err := x.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		x.Close()
	})
}

func TestWithdrawGivesBackWhatIsNotAcknowledgedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := &server{order: bulk.Newest, fail: func(items []*bulk.Item) error {
			for _, it := range items {
				if it.Key[0] == 'x' {
					it.Err = errBusy
				}
			}
			return nil
		}}
		s := bulk.New(target, bulk.Options{Order: bulk.Newest, Lanes: 3})
		w := open(t, s, "p")
		defer w.Close()
		w.Write(events(0, "x1:1", "a:1", "x2:1", "x1:2"))
		time.Sleep(time.Second)
		w.Write(events(4, "x1:3", "x3:1"))
		time.Sleep(time.Second)
		items := w.Withdraw()
		var got []string
		for _, it := range items {
			got = append(got, string(it.Body))
		}
		if want := []string{"x1:1", "x2:1", "x1:2", "x1:3", "x3:1"}; !slices.Equal(got, want) {
			t.Fatalf("withdrawn are %v; want %v", got, want)
		}
		if st := s.Stats(); st.Waiting != 0 || st.WaitingBytes != 0 || w.Buffered() != 0 {
			t.Errorf("%d writes with %d bytes wait after Withdraw", st.Waiting, st.WaitingBytes)
		}
		target.mu.Lock()
		target.fail = nil
		target.mu.Unlock()
		w.Put(items)
		if _, err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := target.bodies(); len(got) != 4 || !slices.Contains(got, "x1:3") {
			t.Errorf("%v is written", got)
		}
	})
}

// TestEveryWriteIsSettledOnceInOrderUnderAllFaults throws seeded faults at all orders: whole requests and single writes that
// fail, lost answers, refusals, requests that are too large, tenures that end.
func TestEveryWriteIsSettledOnceInOrderUnderAllFaults(t *testing.T) {
	for _, order := range []bulk.Order{bulk.Any, bulk.Newest, bulk.OneByOne, bulk.InTurn, bulk.LogOrder} {
		for seed := range uint64(150) {
			synctest.Test(t, func(t *testing.T) { stormy(t, order, seed) })
		}
	}
}

func stormy(t *testing.T, order bulk.Order, seed uint64) {
	defer func() {
		if t.Failed() {
			t.Logf("order %d, seed %d", order, seed)
		}
	}()
	rng := rand.New(rand.NewPCG(seed, uint64(order)))
	target := &server{order: order}
	faults := rand.New(rand.NewPCG(seed, 99)) // used under the target's lock
	target.fail = func(items []*bulk.Item) error {
		fate := faults.IntN(8)
		if fate == 0 {
			return errors.New("503")
		}
		for _, it := range items {
			if strings.HasSuffix(string(it.Body), "!") {
				it.Err = bulk.Refused(errors.New("never"))
			}
		}
		switch fate {
		case 1:
			return errLostAnswer
		case 2:
			if len(items) > 1 {
				return bulk.ErrTooLarge
			}
		case 3, 4:
			for _, it := range items {
				if faults.IntN(3) == 0 {
					it.Err = errBusy
				}
			}
		}
		return nil
	}
	s := bulk.New(target, bulk.Options{Order: order, Lanes: 1 + rng.IntN(3), Items: 1 + rng.IntN(20), Bytes: 1 + rng.IntN(100)})
	w, other := open(t, s, "p"), open(t, s, "other")
	var want []string // of w, that are not refused
	refused := 0
	withdrew := false // a write that the newest replaced may come by itself then, before the newest comes again
	n := uint64(0)
	for range 5 + rng.IntN(10) {
		var values []string
		for range rng.IntN(30) {
			v := fmt.Sprintf("k%d:%d", rng.IntN(6), n)
			if rng.IntN(10) == 0 {
				v += "!"
				refused++
			} else {
				want = append(want, v)
			}
			values = append(values, v)
			n++
		}
		w.Write(events(n-uint64(len(values)), values...))
		if rng.IntN(3) == 0 {
			other.Write(events(0, fmt.Sprintf("o%d:x", rng.IntN(9))))
		}
		switch rng.IntN(6) {
		case 0:
			time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
		case 1:
			other.Close()
			other = open(t, s, "other")
		case 2:
			w.Put(w.Withdraw())
			withdrew = true
		}
	}
	dead, err := w.Flush(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = other.Wait(t.Context(), 0)
	for _, p := range target.problems {
		t.Error(p)
	}
	check(t, target, order, want, withdrew && order == bulk.Newest)
	if order != bulk.Newest && len(dead) != refused { // of a key's writes those before the newest may never be looked at
		t.Errorf("%d refusals come back; want %d", len(dead), refused)
	}
	if st := s.Stats(); st.Waiting != 0 || st.WaitingBytes != 0 || w.Buffered() != 0 {
		t.Errorf("%d writes with %d bytes wait at the end", st.Waiting, st.WaitingBytes)
	}
	w.Close()
	other.Close()
}

// check compares the effects with what was written: all, or the newest of each key; in order per key or partition, but for repeats.
func check(t *testing.T, target *server, order bulk.Order, want []string, detours bool) {
	t.Helper()
	seen := map[string]int{}
	last := map[string]string{}
	newest := map[string]string{}
	at := map[string]int{}
	of := func(body string) string {
		key, _, _ := strings.Cut(body, ":")
		return ordered(order, "p", key)
	}
	for i, v := range want {
		newest[of(v)], at[v] = v, i
	}
	for _, body := range target.bodies() {
		if body[0] == 'o' {
			continue
		}
		key := of(body)
		if order != bulk.Any && !detours && seen[body] == 0 && last[key] != "" && at[body] < at[last[key]] {
			t.Errorf("%s takes effect after %s", body, last[key])
		}
		seen[body]++
		last[key] = body
	}
	for _, v := range want {
		if seen[v] == 0 && (order != bulk.Newest || newest[of(v)] == v) {
			t.Errorf("%s is lost", v)
		}
	}
	for key, v := range newest {
		if order != bulk.Any && last[key] != v {
			t.Errorf("the last effect on %s is %s; want %s", key, last[key], v)
		}
	}
}
