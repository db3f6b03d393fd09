package sinktest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// Shape is what an upsert sink makes of events.
type Shape int

const (
	Identity Shape = iota // each event is a document of its own, by its identity
	Keyed                 // there is a row for each key, with the newest event's values
	Log                   // each event is appended, and its identity lets readers drop repeats
)

// Fault is what happens to one request.
type Fault int

const (
	Unavailable Fault = iota // it fails and has no effect
	LostAnswer               // it has its effect, and the answer is lost
	Throttled                // all of it is refused for now
	Partial                  // every second write of it is refused for now; Throttled where the protocol has no such answer
	Hang                     // there is no answer until the client gives up; it has no effect
)

// Held is what a reader finds of one event.
type Held struct {
	ID     string       // the document's id or the row's key; of a Log: what orders the event, the user
	Place  stream.Place // of the event that it is made of; the time does not count
	Values string       // all that is there, in one spelling
}

// UpsertBackend is an upsert sink over one empty place.
type UpsertBackend struct {
	// New returns an instance of the sink, as another process has it. Its name is "search". The user column is the key of a
	// Keyed sink.
	New func(t *testing.T, o stream.Ordering) stream.Upsert

	// Mend is New for a replay by a mended pipeline file: an event is written over what it made before. nil where that is not
	// offered.
	Mend func(t *testing.T, o stream.Ordering) stream.Upsert

	// Contents is all that readers find: of a Log in the order of arrival, tombstones not.
	Contents func(t *testing.T) []Held

	// Fail sets the fates of the next requests that write, whoever sends them.
	Fail func(faults ...Fault)

	// Poison changes an event so that the sink refuses it for good; nil where nothing is ever refused.
	Poison func(e *stream.Event)

	// Delete changes an event so that the sink removes its row; nil where it cannot.
	Delete func(e *stream.Event)

	Schema *stream.Schema
	Shape  Shape
}

// RunUpsert checks an upsert sink. open is called by each test, for a place of its own.
func RunUpsert(t *testing.T, open func(t *testing.T) UpsertBackend) {
	rules := []struct {
		name string
		rule func(*upsertSuite)
	}{
		{"EveryWriteArrivesOnceWithAllItSays", (*upsertSuite).complete},
		{"WritesArriveWithoutAFlush", (*upsertSuite).unflushed},
		{"AReplayChangesNothing", (*upsertSuite).replay},
		{"AnyOrderOfBatchesEndsTheSame", (*upsertSuite).anyOrder},
		{"FailedRequestsAreRepeated", (*upsertSuite).unavailable},
		{"ThrottledRequestsAreRepeated", (*upsertSuite).throttled},
		{"PartialFailureOfEachWriteIsRepeated", (*upsertSuite).partial},
		{"ATimeoutAfterTheEffectDoublesNothing", (*upsertSuite).lostAnswers},
		{"AStormOfFaultsLosesNothing", (*upsertSuite).storm},
		{"PoisonInTheMiddleIsReturnedOnceAndAlone", (*upsertSuite).poison},
		{"AFlushKeepsItsDeadlineAndGoesOnLater", (*upsertSuite).deadline},
		{"CloseDuringAWriteEndsAtOnce", (*upsertSuite).closeDuring},
		{"BufferedSaysWhatWaits", (*upsertSuite).buffered},
		{"AZombiesLateWriteChangesNothing", (*upsertSuite).zombie},
		{"AParentsZombieChangesNothingAfterItsChildWrote", (*upsertSuite).parentsZombie},
		{"AKeyThatMovedKeepsItsNewestEvent", (*upsertSuite).movedKey},
		{"DeletedStaysDeleted", (*upsertSuite).deleted},
		{"AMendingReplayWritesOverWhatTheEventsMade", (*upsertSuite).mended},
	}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) { r.rule(&upsertSuite{t: t, ctx: t.Context(), b: open(t)}) })
	}
}

// upsertSuite is one test's view.
type upsertSuite struct {
	t   *testing.T
	ctx context.Context
	b   UpsertBackend
}

const upsertName = "search"

func (s *upsertSuite) check(err error, doing string) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%s: %v", doing, err)
	}
}

// upserts is a writer of one tenure, and what it wrote.
type upserts struct {
	*upsertSuite
	w         stream.UpsertWriter
	partition string
}

func (s *upsertSuite) writer(sink stream.Upsert, partition string, epoch uint64) *upserts {
	s.t.Helper()
	w, err := sink.Open(s.ctx, stream.Tenure{Pipeline: pipeline, Sink: upsertName, Partition: partition, Epoch: epoch, Schema: s.b.Schema})
	s.check(err, "open the writer")
	s.t.Cleanup(w.Close)
	return &upserts{s, w, partition}
}

// users of the events: each key comes again often.
const users = 7

// start is the time of the first event.
func start() time.Time { return time.Date(2010, 12, 1, 22, 0, 0, 0, time.UTC) }

// clicks are events of the records at the offsets from, from+1 ...; the record at offset n was taken n seconds and later
// after start. All have a user, an id and times.
func (s *upsertSuite) clicks(from uint64, n int, later time.Duration) []*stream.Event {
	events := Events(s.b.Schema)(from, n)
	for i, e := range events {
		n := from + uint64(i)
		e.Record.Time = start().Add(time.Duration(n)*time.Second + later)
		e.Values[stream.Time] = stream.TimestampValue(e.Record.Time.UnixMicro())
		e.Values[stream.Received] = stream.TimestampValue(e.Record.Time.UnixMicro())
		e.Values[stream.User] = stream.StringValue(fmt.Sprintf("user-%d", n%users))
	}
	return events
}

// write hands over the records from from on, in batches.
func (w *upserts) write(from uint64, n int) {
	for n > 0 {
		batch := min(n, 100)
		w.w.Write(w.clicks(from, batch, 0))
		from, n = from+uint64(batch), n-batch
	}
}

// patience bounds what is to happen soon.
const patience = 2 * time.Minute

// flush is the engine's: again after errors. It wants no dead letters.
func (w *upserts) flush() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	dead, err := w.w.Flush(ctx)
	w.check(err, "flush")
	if len(dead) > 0 {
		w.t.Fatalf("%d writes are refused, such as %s of %s: %s", len(dead), dead[0].Record.Pos, dead[0].Stage, dead[0].Err)
	}
}

// places are those of the records from from on.
func places(partition string, from uint64, n int) []stream.Place {
	var ps []stream.Place
	for i := range n {
		ps = append(ps, stream.Place{
			Partition: partition, Pos: stream.OffsetPosition(from + uint64(i)), Time: start().Add(time.Duration(from+uint64(i)) * time.Second),
		})
	}
	return ps
}

func user(p stream.Place) string { return fmt.Sprintf("user-%d", p.Pos.Offset()%users) }

// holds checks that the place holds what follows from events at those places, and nothing else.
func (s *upsertSuite) holds(o stream.Ordering, written ...stream.Place) {
	s.t.Helper()
	got := s.b.Contents(s.t)
	want := written
	switch s.b.Shape {
	case Keyed:
		want = newest(o, written)
	case Log:
		got = s.withoutRepeats(got)
	}
	name := func(p stream.Place) string { return p.Partition + ":" + p.Version() }
	wanted := map[string]bool{}
	for _, p := range want {
		wanted[name(p)] = true
	}
	seen := map[string]bool{}
	for _, h := range got {
		n := name(h.Place)
		switch {
		case seen[n]:
			s.t.Errorf("%s is there twice", n)
		case !wanted[n]:
			s.t.Errorf("%s (%s) is there and should not be", n, h.ID)
		}
		seen[n] = true
	}
	for _, p := range want {
		if !seen[name(p)] {
			s.t.Errorf("%s of %s is not there", name(p), user(p))
		}
	}
	if s.t.Failed() {
		s.t.Fatalf("the place holds %d of %d", len(got), len(want))
	}
}

// newest is the newest place of each user.
func newest(o stream.Ordering, all []stream.Place) []stream.Place {
	byUser := map[string]stream.Place{}
	for _, p := range all {
		if old, ok := byUser[user(p)]; !ok || o.Later(p, old) {
			byUser[user(p)] = p
		}
	}
	return slices.Collect(maps.Values(byUser))
}

// withoutRepeats is a log as a reader has it that drops what it has seen, and checks the order for each partition and user.
func (s *upsertSuite) withoutRepeats(all []Held) []Held {
	s.t.Helper()
	seen := map[string]bool{}
	last := map[string]stream.Place{}
	var out []Held
	for _, h := range all {
		name := h.Place.Partition + ":" + h.Place.Version()
		if seen[name] {
			continue
		}
		seen[name] = true
		key := h.Place.Partition + " " + h.ID
		if before, ok := last[key]; ok && !stream.ByPosition.Later(h.Place, before) {
			s.t.Errorf("of %s, %s comes after %s", key, h.Place.Version(), before.Version())
		}
		last[key] = h.Place
		out = append(out, h)
	}
	return out
}

// snapshot is the contents as one text, for comparisons.
func (s *upsertSuite) snapshot() string {
	s.t.Helper()
	all := s.b.Contents(s.t)
	if s.b.Shape == Log {
		all = s.withoutRepeats(all)
	}
	slices.SortFunc(all, func(a, b Held) int {
		return cmp.Or(strings.Compare(a.ID, b.ID), strings.Compare(a.Place.Partition, b.Place.Partition), strings.Compare(a.Place.Version(), b.Place.Version()))
	})
	var b strings.Builder
	for _, h := range all {
		fmt.Fprintf(&b, "%s %s %s %s\n", h.ID, h.Place.Partition, h.Place.Version(), h.Values)
	}
	return b.String()
}

func (s *upsertSuite) unchanged(before, after string) {
	s.t.Helper()
	if now := s.snapshot(); now != before {
		s.t.Fatalf("%s changed the contents from\n%s\nto\n%s", after, before, now)
	}
}

func (s *upsertSuite) complete() {
	w := s.writer(s.b.New(s.t, stream.ByPosition), partition, 1)
	w.write(0, 2500)
	w.flush()
	s.holds(stream.ByPosition, places(partition, 0, 2500)...)
	for _, h := range s.b.Contents(s.t) {
		if h.Values == "" {
			s.t.Fatalf("%s has no values", h.ID)
		}
	}
}

func (s *upsertSuite) unflushed() {
	w := s.writer(s.b.New(s.t, stream.ByPosition), partition, 1)
	w.write(0, 50)
	for end := time.Now().Add(patience); w.w.Buffered() > 0; {
		if time.Now().After(end) {
			s.t.Fatalf("%d bytes wait still", w.w.Buffered())
		}
		time.Sleep(time.Millisecond) // a real server: there is nothing to wait for
	}
	s.holds(stream.ByPosition, places(partition, 0, 50)...)
}

func (s *upsertSuite) replay() {
	w := s.writer(s.b.New(s.t, stream.ByPosition), partition, 1)
	w.write(0, 700)
	w.flush()
	before := s.snapshot()
	w.write(0, 700)
	w.flush()
	s.unchanged(before, "the same once more")
	other := s.writer(s.b.New(s.t, stream.ByPosition), partition, 2)
	for from := uint64(0); from < 700; from += 70 {
		other.w.Write(s.clicks(from, 70, 0))
	}
	other.flush()
	s.unchanged(before, "a replay by another process")
	other.w.Write(s.clicks(300, 50, 0))
	other.flush()
	s.unchanged(before, "a replay of a part")
}

func (s *upsertSuite) anyOrder() {
	const seed = 5
	s.t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	sink := s.b.New(s.t, stream.ByPosition)
	w := s.writer(sink, partition, 1)
	if s.b.Shape == Log { // its readers drop repeats; what comes first has to be in order
		w.write(0, 600)
		w.flush()
	}
	starts := rng.Perm(20)
	for _, i := range slices.Concat(starts, starts[:7]) {
		w.w.Write(s.clicks(uint64(i)*30, 30, 0))
		if rng.IntN(3) == 0 {
			w.flush()
		}
		if rng.IntN(5) == 0 {
			w.w.Close()
			w = s.writer(sink, partition, 1)
			w.w.Write(s.clicks(uint64(i)*30, 30, 0))
		}
	}
	w.flush()
	w.write(0, 600) // what Close gave up
	w.flush()
	s.holds(stream.ByPosition, places(partition, 0, 600)...)
}

// faulty writes 300 records while the faults happen.
func (s *upsertSuite) faulty(faults ...Fault) {
	s.t.Helper()
	w := s.writer(s.b.New(s.t, stream.ByPosition), partition, 1)
	s.b.Fail(faults...)
	w.write(0, 150)
	w.flush()
	w.write(150, 150)
	w.flush()
	s.holds(stream.ByPosition, places(partition, 0, 300)...)
}

func (s *upsertSuite) unavailable() { s.faulty(Unavailable, Unavailable, Unavailable) }
func (s *upsertSuite) throttled()   { s.faulty(Throttled, Throttled, Throttled) }
func (s *upsertSuite) partial()     { s.faulty(Partial, Partial, Partial, Partial) }
func (s *upsertSuite) lostAnswers() { s.faulty(LostAnswer, LostAnswer, LostAnswer) }

func (s *upsertSuite) storm() {
	const seed = 11
	s.t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	w := s.writer(s.b.New(s.t, stream.ByPosition), partition, 1)
	for from := uint64(0); from < 600; from += 60 {
		var faults []Fault
		for range rng.IntN(4) {
			faults = append(faults, Fault(rng.IntN(4)))
		}
		s.b.Fail(faults...)
		w.w.Write(s.clicks(from, 60, 0))
		if rng.IntN(2) == 0 {
			w.flush()
		}
	}
	w.flush()
	s.holds(stream.ByPosition, places(partition, 0, 600)...)
}

func (s *upsertSuite) poison() {
	if s.b.Poison == nil {
		return
	}
	w := s.writer(s.b.New(s.t, stream.ByPosition), partition, 1)
	var good []stream.Place
	for from := uint64(0); from < 300; from += 100 {
		events := s.clicks(from, 100, 0)
		s.b.Poison(events[50])
		w.w.Write(events)
		for _, p := range places(partition, from, 100) {
			if p.Pos.Offset() != from+50 {
				good = append(good, p)
			}
		}
	}
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	dead, err := w.w.Flush(ctx)
	s.check(err, "flush")
	offsets := map[uint64]bool{}
	for _, d := range dead {
		offsets[d.Record.Pos.Offset()] = true
		if d.Stage != "sink."+upsertName || d.Err == "" || len(d.Record.Value) == 0 {
			s.t.Errorf("dead letter of stage %q, error %q, %d bytes; want the sink's stage, the reason, the record", d.Stage, d.Err, len(d.Record.Value))
		}
	}
	// A keyed sink may never look at a write that a newer one replaces.
	if s.b.Shape != Keyed && len(dead) != 3 || len(dead) != len(offsets) {
		s.t.Fatalf("%d dead letters for %d records; want 3", len(dead), len(offsets))
	}
	if dead, err = w.w.Flush(ctx); err != nil || len(dead) > 0 {
		s.t.Fatalf("the next flush returns %d dead letters, %v", len(dead), err)
	}
	s.holds(stream.ByPosition, good...)
}

func (s *upsertSuite) deadline() {
	w := s.writer(s.b.New(s.t, stream.ByPosition), partition, 1)
	s.b.Fail(slices.Repeat([]Fault{Unavailable}, 1000)...)
	w.write(0, 100)
	ctx, cancel := context.WithTimeout(s.ctx, 300*time.Millisecond)
	defer cancel()
	_, err := w.w.Flush(ctx)
	if err == nil || ctx.Err() == nil {
		s.t.Fatalf("flush against a server that does not answer returns %v before its deadline", err)
	}
	if fatal := (*stream.FatalError)(nil); errors.As(err, &fatal) {
		s.t.Fatalf("a server that is away is fatal: %v", err)
	}
	s.b.Fail()
	w.flush()
	s.holds(stream.ByPosition, places(partition, 0, 100)...)
}

func (s *upsertSuite) closeDuring() {
	sink := s.b.New(s.t, stream.ByPosition)
	w := s.writer(sink, partition, 1)
	s.b.Fail(slices.Repeat([]Fault{Hang}, 100)...)
	w.write(0, 100)
	ctx, cancel := context.WithTimeout(s.ctx, 300*time.Millisecond)
	defer cancel()
	if _, err := w.w.Flush(ctx); err == nil {
		s.t.Fatal("flush succeeds while the server hangs")
	}
	began := time.Now()
	w.w.Close()
	if took := time.Since(began); took > 5*time.Second {
		s.t.Errorf("Close took %s", took)
	}
	s.b.Fail()
	next := s.writer(sink, partition, 2)
	next.write(0, 120)
	next.flush()
	s.holds(stream.ByPosition, places(partition, 0, 120)...)
}

func (s *upsertSuite) buffered() {
	w := s.writer(s.b.New(s.t, stream.ByPosition), partition, 1)
	if n := w.w.Buffered(); n != 0 {
		s.t.Errorf("an empty writer holds %d bytes", n)
	}
	s.b.Fail(slices.Repeat([]Fault{Unavailable}, 1000)...)
	w.write(0, 200)
	if n := w.w.Buffered(); n < 200*20 {
		s.t.Errorf("200 writes that cannot be sent hold %d bytes", n)
	}
	s.b.Fail()
	w.flush()
	if n := w.w.Buffered(); n != 0 {
		s.t.Errorf("after a flush the writer holds %d bytes", n)
	}
}

func (s *upsertSuite) zombie() {
	zombie := s.writer(s.b.New(s.t, stream.ByPosition), partition, 1)
	zombie.write(0, 300)
	zombie.flush()
	owner := s.writer(s.b.New(s.t, stream.ByPosition), partition, 2)
	owner.write(150, 350)
	owner.flush()
	before := s.snapshot()
	zombie.write(200, 150) // it never learned that it lost the partition
	zombie.flush()
	s.unchanged(before, "a zombie's late write")
	s.holds(stream.ByPosition, places(partition, 0, 500)...)
}

func (s *upsertSuite) parentsZombie() {
	parent := s.writer(s.b.New(s.t, stream.ByPosition), "shard-1", 4)
	parent.write(0, 200)
	parent.flush()
	left := s.writer(s.b.New(s.t, stream.ByPosition), "shard-2", 1)
	left.write(200, 100)
	left.flush()
	right := s.writer(s.b.New(s.t, stream.ByPosition), "shard-0", 1)
	right.write(300, 100)
	right.flush()
	before := s.snapshot()
	parent.write(100, 100)
	parent.flush()
	s.unchanged(before, "the parent's zombie")
	s.holds(stream.ByPosition, slices.Concat(places("shard-1", 0, 200), places("shard-2", 200, 100), places("shard-0", 300, 100))...)
}

// movedKey: the topic got more partitions. In the new one the offsets begin anew, and only time goes on.
func (s *upsertSuite) movedKey() {
	const later = time.Hour
	was, is := places("topic-9", 1000, 100), places("topic-1", 0, 100)
	for i := range is {
		is[i].Time = is[i].Time.Add(later)
	}
	before := s.writer(s.b.New(s.t, stream.ByTime), "topic-9", 1)
	after := s.writer(s.b.New(s.t, stream.ByTime), "topic-1", 1)
	before.w.Write(s.clicks(1000, 50, 0))
	before.flush()
	after.w.Write(s.clicks(0, 100, later))
	after.flush()
	before.w.Write(s.clicks(1050, 50, 0)) // a zombie, or just behind
	before.flush()
	after.w.Write(s.clicks(0, 100, later))
	after.flush()
	s.holds(stream.ByTime, slices.Concat(was, is)...)
}

func (s *upsertSuite) deleted() {
	if s.b.Delete == nil {
		return
	}
	w := s.writer(s.b.New(s.t, stream.ByPosition), partition, 1)
	w.write(0, 70)
	w.flush()
	gone := s.clicks(70, 2, 0)
	for _, e := range gone {
		s.b.Delete(e)
	}
	w.w.Write(gone)
	w.flush()
	left := func(extra ...stream.Place) []stream.Place {
		all := newest(stream.ByPosition, places(partition, 0, 70))
		all = slices.DeleteFunc(all, func(p stream.Place) bool {
			return user(p) == fmt.Sprintf("user-%d", 70%users) || user(p) == fmt.Sprintf("user-%d", 71%users)
		})
		return append(all, extra...)
	}
	s.holds(stream.ByPosition, left()...)
	zombie := s.writer(s.b.New(s.t, stream.ByPosition), partition, 1)
	zombie.write(0, 70)
	zombie.flush()
	s.holds(stream.ByPosition, left()...)
	w.w.Write(s.clicks(77, 1, 0)) // the first of the two users is back
	w.flush()
	s.holds(stream.ByPosition, left(places(partition, 77, 1)...)...)
}

// mended: a row has the mended values of the event that made it, and no older event's; what does not mend leaves it alone.
func (s *upsertSuite) mended() {
	if s.b.Mend == nil {
		return
	}
	for _, o := range []stream.Ordering{stream.ByPosition, stream.ByTime} {
		plain := s.writer(s.b.New(s.t, o), partition, 1)
		plain.write(0, 300)
		plain.flush()
		mending := s.writer(s.b.Mend(s.t, o), partition, 2)
		mending.w.Write(saying(s.clicks(0, 300, 0), "mended"))
		mending.flush()
		mended := s.snapshot()
		if strings.Count(mended, `mended`) != strings.Count(mended, "\n") {
			s.t.Fatalf("not everything is mended:\n%s", mended)
		}
		s.holds(o, places(partition, 0, 300)...)
		if s.b.Shape == Identity {
			continue
		}
		mending.w.Write(saying(s.clicks(0, 200, 0), "older"))
		mending.flush()
		s.unchanged(mended, "older events of the keys")
		plain.write(0, 300)
		plain.flush()
		s.unchanged(mended, "a replay that mends nothing")
	}
}

func saying(events []*stream.Event, item string) []*stream.Event {
	for _, e := range events {
		e.Values[stream.Item] = stream.StringValue(item)
	}
	return events
}
