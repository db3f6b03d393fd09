// Package sinktest is the specification of a staged sink (Run; on a bad network RunStagedNetwork), of an upsert sink (RunUpsert; on a bad
// network RunNetwork) and of an object store (RunStore), as tests that every one of them passes, in process and on the real servers.
package sinktest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
)

// Sink is a staged sink that can read back what it published: every staged sink can.
type Sink[T any] interface {
	stream.Staged[T]
	stream.Inspector
}

// Backend is a sink over one empty place.
type Backend[T any] struct {
	// Store is the place itself: what a reader of the bucket sees, and the means to damage it.
	Store objects.Store

	// New returns an instance of the sink over s, which is Store or a wrapper of it with faults. Called again it is another
	// process's instance over the same place.
	New func(t *testing.T, s objects.Store) Sink[T]

	// Items are n items of a series without end, the same for the same arguments: one item for each of the records at the
	// offsets from, from+1 ... Events and DeadLetters are ready-made.
	Items func(from uint64, n int) []T

	Schema *stream.Schema // of the items; nil for dead letters
}

// Run checks a sink. open is called by each test, for a place of its own.
func Run[T any](t *testing.T, open func(t *testing.T) Backend[T]) {
	rules := []struct {
		name string
		rule func(*suite[T])
	}{
		{"NothingIsVisibleBeforePublish", (*suite[T]).invisible},
		{"PublishedFilesHoldEveryItemOnce", (*suite[T]).complete},
		{"FilesSayWhereTheyComeFrom", (*suite[T]).provenance},
		{"PublishIsIdempotentAlsoInAnotherProcess", (*suite[T]).idempotent},
		{"PublishAfterALostAnswerSucceeds", (*suite[T]).lostAnswer},
		{"StageRetriedDoublesNothing", (*suite[T]).stageRetried},
		{"UploadRetriedDoublesNothing", (*suite[T]).uploadRetried},
		{"StageWithoutItemsMakesNoFile", (*suite[T]).empty},
		{"CommitsOfOneTenureFollowEachOther", (*suite[T]).commits},
		{"DiscardLeavesNothing", (*suite[T]).discard},
		{"DiscardKeepsWhatStageReturned", (*suite[T]).discardAfterStage},
		{"AZombiesDataNeverBecomesVisible", (*suite[T]).zombie},
		{"WithdrawnDataCanBeWrittenAgain", (*suite[T]).withdraw},
		{"GoneDataIsExpired", (*suite[T]).expired},
		{"DeadlinesAreKept", (*suite[T]).deadline},
		{"InspectSeesItsOwnPipelineOnly", (*suite[T]).otherPipeline},
		{"InspectFindsADeletedFile", (*suite[T]).deleted},
		{"InspectFindsACopiedFile", (*suite[T]).copied},
		{"InspectFindsATruncatedFile", (*suite[T]).truncated},
		{"InspectFindsAnEditedFile", (*suite[T]).edited},
		{"InspectTellsWhatTheReaderOfRowsRefused", (*suite[T]).refusedRow},
	}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			b := open(t)
			s := &suite[T]{t: t, ctx: t.Context(), b: b, sink: b.New(t, b.Store)}
			r.rule(s)
		})
	}
}

// suite is one test's view.
type suite[T any] struct {
	t    *testing.T
	ctx  context.Context
	b    Backend[T]
	sink Sink[T]
}

const (
	sinkName  = "lake"
	pipeline  = "clicks"
	partition = "clicks/α 3" // with what must not reach a path as it is
)

func (s *suite[T]) check(err error, doing string) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%s: %v", doing, err)
	}
}

// tenure opens the writer of one owner of the partition.
func (s *suite[T]) tenure(sink stream.Staged[T], epoch uint64) *tenure[T] {
	s.t.Helper()
	w, err := sink.Open(s.ctx, stream.Tenure{Pipeline: pipeline, Sink: sinkName, Partition: partition, Epoch: epoch, Schema: s.b.Schema})
	s.check(err, "open the writer")
	return &tenure[T]{suite: s, epoch: epoch, w: w}
}

type tenure[T any] struct {
	*suite[T]
	epoch uint64
	w     stream.StagedWriter[T]
	prev  stream.Digest
}

// write hands over the items of records from to from+n, in batches, with an upload after each.
func (w *tenure[T]) write(from uint64, n int) {
	w.t.Helper()
	for n > 0 {
		batch := min(n, 100)
		w.w.Write(w.b.Items(from, batch))
		w.check(w.w.Upload(w.ctx), "upload")
		from, n = from+uint64(batch), n-batch
	}
}

// commit is what the files of a commit of those records say.
func (w *tenure[T]) commit(from uint64, n int) stream.Provenance {
	p := stream.Provenance{
		Pipeline: pipeline, Sink: sinkName, Partition: partition, Epoch: w.epoch,
		First: from == 0, To: stream.OffsetPosition(from + uint64(n) - 1),
		Read: int64(n), Kept: int64(n), Rows: map[string]int64{sinkName: int64(n)}, Prev: w.prev,
	}
	if from > 0 {
		p.After = stream.OffsetPosition(from - 1)
	}
	return p
}

func (w *tenure[T]) stage(from uint64, n int) []stream.Receipt {
	w.t.Helper()
	rs, err := w.w.Stage(w.ctx, w.commit(from, n))
	w.check(err, "stage")
	if len(rs) == 0 {
		w.t.Fatalf("stage of %d items returned no receipt", n)
	}
	for _, r := range rs {
		if r.Sink != sinkName || r.Digest == (stream.Digest{}) || r.Bytes <= 0 {
			w.t.Fatalf("receipt %+v; want the sink's name, a digest and a size", r)
		}
		if len(r.Body) > stream.NoteLimit/4 {
			w.t.Errorf("the receipt's body has %d bytes; several fit into a note of %d", len(r.Body), stream.NoteLimit)
		}
	}
	return rs
}

func (s *suite[T]) publish(sink stream.Staged[T], rs []stream.Receipt) {
	s.t.Helper()
	for _, r := range rs {
		s.check(sink.Publish(s.ctx, r), "publish")
	}
}

// put makes the items of n records visible, as one commit.
func (s *suite[T]) put(epoch, from uint64, n int) []stream.Receipt {
	s.t.Helper()
	w := s.tenure(s.sink, epoch)
	w.write(from, n)
	rs := w.stage(from, n)
	s.publish(s.sink, rs)
	w.w.Discard(s.ctx)
	return rs
}

// keys are the visible objects.
func (s *suite[T]) keys() []string {
	s.t.Helper()
	var keys []string
	for o, err := range s.b.Store.List(s.ctx, "") {
		s.check(err, "list")
		keys = append(keys, o.Key)
	}
	return keys
}

// inspection is what Inspect found.
type inspection struct {
	files []stream.File
	rows  []uint64 // offsets, ascending
}

// inspect reads everything back as another process.
func (s *suite[T]) inspect() inspection {
	s.t.Helper()
	var in inspection
	visit := func(f stream.File) error {
		in.files = append(in.files, f)
		return nil
	}
	rows := func(_ *stream.File, pos stream.Position, _ uint32) error {
		in.rows = append(in.rows, pos.Offset())
		return nil
	}
	s.check(s.b.New(s.t, s.b.Store).Inspect(s.ctx, pipeline, visit, rows), "inspect")
	slices.Sort(in.rows)
	return in
}

// holds checks that the items of records from to from+n are visible, each once, and nothing else.
func (s *suite[T]) holds(from uint64, n int) {
	s.t.Helper()
	in := s.inspect()
	for _, f := range in.files {
		s.check(f.Err, "read "+f.Key)
	}
	want := make([]uint64, n)
	for i := range want {
		want[i] = from + uint64(i)
	}
	if !slices.Equal(in.rows, want) {
		s.t.Fatalf("%d rows are visible: %v; want %d from %d", len(in.rows), brief(in.rows), n, from)
	}
	if keys := s.keys(); len(keys) != len(in.files) {
		s.t.Fatalf("%d objects are visible, %d were inspected: %v", len(keys), len(in.files), keys)
	}
}

func brief(rows []uint64) string {
	if len(rows) > 20 {
		return fmt.Sprintf("%v ... %v", rows[:10], rows[len(rows)-10:])
	}
	return fmt.Sprint(rows)
}

func (s *suite[T]) nothing(when string) {
	s.t.Helper()
	if keys := s.keys(); len(keys) > 0 {
		s.t.Fatalf("%s these objects are visible: %v", when, keys)
	}
}

func (s *suite[T]) invisible() {
	w := s.tenure(s.sink, 1)
	s.nothing("after Open")
	w.write(0, 1000)
	s.nothing("after Upload")
	rs := w.stage(0, 1000)
	s.nothing("after Stage")
	if in := s.inspect(); len(in.files) > 0 {
		s.t.Fatalf("after Stage Inspect finds %d files", len(in.files))
	}
	s.publish(s.sink, rs)
	s.holds(0, 1000)
	w.w.Discard(s.ctx)
	s.holds(0, 1000)
}

func (s *suite[T]) complete() {
	s.put(1, 0, 2500)
	s.holds(0, 2500)
	for _, key := range s.keys() {
		for element := range strings.SplitSeq(key, "/") {
			if element == "" || strings.ContainsAny(element[:1], "_.") {
				s.t.Errorf("%s is hidden from hive readers", key)
			}
		}
	}
}

func (s *suite[T]) provenance() {
	w := s.tenure(s.sink, 7)
	w.prev = stream.Digest{1, 2, 3}
	w.write(40, 300)
	rs := w.stage(40, 300)
	s.publish(s.sink, rs)
	digests := map[stream.Digest]bool{}
	for _, r := range rs {
		digests[r.Digest] = true
	}
	want := w.commit(40, 300)
	var rows int64
	numbers := map[int]bool{}
	for _, f := range s.inspect().files {
		s.check(f.Err, "read "+f.Key)
		got := f.Provenance
		if !digests[got.Digest()] {
			s.t.Errorf("%s: its provenance is of no receipt", f.Key)
		}
		if got.Key != f.Key {
			s.t.Errorf("%s: its provenance has the key %q", f.Key, got.Key)
		}
		if got.Files != len(rs) || got.File < 1 || got.File > len(rs) || numbers[got.File] {
			s.t.Errorf("%s: is file %d of %d; want a number of its own of 1 to %d", f.Key, got.File, got.Files, len(rs))
		}
		numbers[got.File] = true
		rows += got.FileRows
		got.Key, got.File, got.Files, got.FileRows, got.Data = "", 0, 0, 0, 0
		if got.Digest() != want.Digest() {
			s.t.Errorf("%s: provenance %+v; want %+v", f.Key, got, want)
		}
	}
	if len(numbers) != len(rs) || rows != 300 {
		s.t.Errorf("%d files with %d rows; want %d with 300", len(numbers), rows, len(rs))
	}
}

func (s *suite[T]) idempotent() {
	w := s.tenure(s.sink, 1)
	w.write(0, 500)
	rs := w.stage(0, 500)
	s.publish(s.sink, rs)
	s.publish(s.sink, rs)
	other := s.b.New(s.t, s.b.Store)
	s.publish(other, rs)
	s.holds(0, 500)

	w.write(500, 500)
	next := w.stage(500, 500)
	s.publish(other, next) // the first publish of these is by a process that did not stage them
	s.publish(s.sink, next)
	s.publish(s.sink, rs)
	s.holds(0, 1000)
}

func (s *suite[T]) lostAnswer() {
	faulty := &faultyStore{Store: s.b.Store}
	w := s.tenure(s.sink, 1)
	w.write(0, 500)
	rs := w.stage(0, 500)
	sink := s.b.New(s.t, faulty)
	for _, r := range rs {
		faulty.plan("publish", before, after, after)
		for range 3 {
			if err := sink.Publish(s.ctx, r); !errors.Is(err, errFault) {
				s.t.Fatalf("publish returns %v; want the store's error", err)
			}
		}
		s.check(sink.Publish(s.ctx, r), "publish again")
	}
	s.holds(0, 500)
}

func (s *suite[T]) stageRetried() {
	faulty := &faultyStore{Store: s.b.Store}
	sink := s.b.New(s.t, faulty)
	w := s.tenure(sink, 1)
	w.write(0, 800)
	faulty.plan("seal", before, after, before)
	rs := w.retriedStage(0, 800)
	s.nothing("after Stage")
	s.publish(sink, rs)
	s.holds(0, 800)

	w.write(800, 200)
	faulty.plan("seal", after)
	s.publish(sink, w.retriedStage(800, 200))
	s.holds(0, 1000)
}

// retriedStage stages as the engine does: again after every error, with the same provenance.
func (w *tenure[T]) retriedStage(from uint64, n int) []stream.Receipt {
	w.t.Helper()
	for range 20 {
		rs, err := w.w.Stage(w.ctx, w.commit(from, n))
		if err == nil {
			return rs
		}
		if !errors.Is(err, errFault) {
			w.t.Fatalf("stage returns %v; want the store's error", err)
		}
	}
	w.t.Fatal("stage fails for ever")
	return nil
}

func (s *suite[T]) uploadRetried() {
	faulty := &faultyStore{Store: s.b.Store}
	sink := s.b.New(s.t, faulty)
	w := s.tenure(sink, 1)
	for from := uint64(0); from < 3000; from += 500 {
		w.w.Write(s.b.Items(from, 500))
		faulty.plan("send", before, after)
		for try := 0; ; try++ {
			err := w.w.Upload(s.ctx)
			if err == nil {
				break
			}
			if !errors.Is(err, errFault) || try > 10 {
				s.t.Fatalf("upload %d returns %v; want the store's error", try, err)
			}
		}
	}
	faulty.plan("send", before, after)
	faulty.plan("seal", after)
	s.publish(sink, w.retriedStage(0, 3000))
	s.holds(0, 3000)
}

func (s *suite[T]) empty() {
	w := s.tenure(s.sink, 1)
	stage := func() {
		s.t.Helper()
		rs, err := w.w.Stage(s.ctx, w.commit(0, 100))
		s.check(err, "stage")
		if len(rs) > 0 {
			s.t.Fatalf("stage of nothing returned %d receipts", len(rs))
		}
	}
	stage()
	w.w.Write(nil)
	s.check(w.w.Upload(s.ctx), "upload")
	stage()
	if w.w.Full() || w.w.Buffered() != 0 {
		s.t.Errorf("an empty writer is full: %t, and holds %d bytes", w.w.Full(), w.w.Buffered())
	}
	w.write(0, 100)
	if w.w.Buffered() <= 0 {
		s.t.Errorf("a writer with items that are not sent holds %d bytes", w.w.Buffered())
	}
	s.publish(s.sink, w.stage(0, 100))
	if n := w.w.Buffered(); n != 0 {
		s.t.Errorf("after Stage the writer holds %d bytes", n)
	}
	stage()
	s.holds(0, 100)
}

func (s *suite[T]) commits() {
	w := s.tenure(s.sink, 1)
	for i := range 5 {
		from := uint64(i) * 200
		w.write(from, 200)
		s.publish(s.sink, w.stage(from, 200))
	}
	w.w.Discard(s.ctx)
	s.holds(0, 1000)
}

func (s *suite[T]) discard() {
	w := s.tenure(s.sink, 1)
	w.w.Discard(s.ctx)

	w = s.tenure(s.sink, 1)
	w.write(0, 1000)
	w.w.Discard(s.ctx)
	s.nothing("after Discard of unsealed data")

	// A stage that failed returned no receipts: all of it goes.
	faulty := &faultyStore{Store: s.b.Store}
	w = s.tenure(s.b.New(s.t, faulty), 1)
	w.write(0, 1000)
	faulty.plan("seal", after)
	if _, err := w.w.Stage(s.ctx, w.commit(0, 1000)); !errors.Is(err, errFault) {
		s.t.Fatalf("stage returns %v; want the store's error", err)
	}
	w.w.Discard(s.ctx)
	s.nothing("after Discard of a failed stage")
	if n := faulty.open(); n != 0 {
		s.t.Errorf("%d uploads are neither sealed for a receipt nor discarded", n)
	}
}

func (s *suite[T]) discardAfterStage() {
	w := s.tenure(s.sink, 1)
	w.write(0, 300)
	rs := w.stage(0, 300) // and committed, but this tenure never learns it
	w.write(300, 300)
	w.w.Discard(s.ctx)
	s.publish(s.b.New(s.t, s.b.Store), rs)
	s.holds(0, 300)
}

func (s *suite[T]) zombie() {
	zombie := s.tenure(s.sink, 1)
	zombie.write(0, 400)
	zombie.stage(0, 400) // then it sleeps, and its commit is refused

	idle := s.tenure(s.sink, 1)
	idle.write(0, 400)

	s.put(2, 0, 600)
	s.holds(0, 600)
	keys := s.keys()

	idle.stage(0, 400)
	zombie.write(400, 300)
	zombie.w.Discard(s.ctx)
	idle.w.Discard(s.ctx)
	s.holds(0, 600)
	if now := s.keys(); !slices.Equal(now, keys) {
		s.t.Fatalf("a zombie changed the visible objects from %v to %v", keys, now)
	}
}

func (s *suite[T]) withdraw() {
	w := s.tenure(s.sink, 1)
	w.write(0, 300)
	published := w.stage(0, 300)
	s.publish(s.sink, published)
	w.write(300, 300)
	staged := w.stage(300, 300)

	other := s.b.New(s.t, s.b.Store)
	for _, r := range append(published, staged...) {
		s.check(other.Withdraw(s.ctx, r), "withdraw")
		s.check(other.Withdraw(s.ctx, r), "withdraw again")
	}
	s.nothing("after Withdraw")
	s.put(2, 0, 600)
	for _, r := range published { // a retry that comes late
		s.check(other.Withdraw(s.ctx, r), "withdraw late")
	}
	s.holds(0, 600)
}

func (s *suite[T]) expired() {
	w := s.tenure(s.sink, 1)
	w.write(0, 300)
	rs := w.stage(0, 300)
	for _, r := range rs {
		s.check(s.b.New(s.t, s.b.Store).Withdraw(s.ctx, r), "withdraw")
		if err := s.sink.Publish(s.ctx, r); !errors.Is(err, stream.ErrExpired) {
			s.t.Fatalf("publish of staged data that is gone returns %v; want ErrExpired", err)
		}
	}
	s.nothing("after publishing what is gone")
}

func (s *suite[T]) deadline() {
	faulty := &faultyStore{Store: s.b.Store}
	sink := s.b.New(s.t, faulty)
	w := s.tenure(sink, 1)
	w.write(0, 300)
	late := func(call string, fn func(ctx context.Context) error) {
		s.t.Helper()
		ctx, cancel := context.WithTimeout(s.ctx, 20*time.Millisecond)
		defer cancel()
		if err := fn(ctx); !errors.Is(err, context.DeadlineExceeded) {
			s.t.Fatalf("%s on a store that hangs returns %v; want the deadline's error", call, err)
		}
	}
	faulty.plan("seal", hang)
	late("stage", func(ctx context.Context) error {
		_, err := w.w.Stage(ctx, w.commit(0, 300))
		return err
	})
	rs := w.retriedStage(0, 300)
	faulty.plan("publish", hang)
	late("publish", func(ctx context.Context) error { return sink.Publish(ctx, rs[0]) })
	s.publish(sink, rs)
	faulty.plan("withdraw", hang)
	late("withdraw", func(ctx context.Context) error { return sink.Withdraw(ctx, rs[0]) })
	s.holds(0, 300)
}

func (s *suite[T]) otherPipeline() {
	s.put(1, 0, 100)
	err := s.sink.Inspect(s.ctx, "another", func(f stream.File) error {
		return fmt.Errorf("%s is of %q", f.Key, f.Provenance.Pipeline)
	}, nil)
	s.check(err, "inspect another pipeline")
	s.check(s.b.Store.Put(s.ctx, "_millrace/receipts/x.json", []byte("{}")), "put a hidden object")
	in := s.inspect()
	for _, f := range in.files {
		s.check(f.Err, "read "+f.Key)
	}
	if len(in.rows) != 100 {
		s.t.Fatalf("%d rows are visible; want 100", len(in.rows))
	}
}

// contradicts says that the files found tell of something wrong with key: itself, or against the receipts.
func (s *suite[T]) contradicts(key string, rs []stream.Receipt) bool {
	s.t.Helper()
	digests := map[stream.Digest]bool{}
	for _, r := range rs {
		digests[r.Digest] = true
	}
	for _, f := range s.inspect().files {
		if f.Err == nil && !digests[f.Provenance.Digest()] {
			return true
		}
		if f.Err != nil {
			if f.Key != key {
				s.t.Errorf("%s is said to be damaged, but %s is: %v", f.Key, key, f.Err)
			}
			return true
		}
	}
	return false
}

func (s *suite[T]) deleted() {
	s.put(1, 0, 100)
	rs := s.put(1, 100, 100)
	victim := ""
	for _, f := range s.inspect().files {
		if f.Provenance.Digest() == rs[0].Digest {
			victim = f.Key
		}
	}
	s.check(s.b.Store.Delete(s.ctx, victim), "delete "+victim)
	var rows int64
	for _, f := range s.inspect().files {
		s.check(f.Err, "read "+f.Key)
		if f.Key == victim {
			s.t.Errorf("%s is gone but found", f.Key)
		}
		rows += f.Provenance.FileRows
	}
	if rows >= 200 {
		s.t.Errorf("after a file is gone the others still say that they have all %d rows", rows)
	}
}

func (s *suite[T]) copied() {
	rs := s.put(1, 0, 100)
	key := s.keys()[0]
	data := s.get(key)
	twin := path.Join(path.Dir(key), "copy-of-"+path.Base(key))
	s.check(s.b.Store.Put(s.ctx, twin, data), "put")
	if !s.contradicts(twin, rs) {
		s.t.Errorf("%s is a copy of %s, and nothing tells", twin, key)
	}
}

func (s *suite[T]) truncated() {
	rs := s.put(1, 0, 100)
	key := s.keys()[0]
	data := s.get(key)
	for _, n := range []int{0, 1, len(data) / 2, len(data) - 9, len(data) - 1} {
		s.check(s.b.Store.Put(s.ctx, key, data[:n]), "put")
		if !s.contradicts(key, rs) {
			s.t.Errorf("%s has %d of its %d bytes, and nothing tells", key, n, len(data))
		}
	}
}

func (s *suite[T]) edited() {
	rs := s.put(1, 0, 100)
	key := s.keys()[0]
	data := s.get(key)
	const seed = 1
	s.t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 60 {
		at, bit := r.IntN(len(data)), byte(1)<<r.IntN(8)
		data[at] ^= bit
		s.check(s.b.Store.Put(s.ctx, key, data), "put")
		if !s.contradicts(key, rs) {
			s.t.Errorf("%s is changed at byte %d of %d, and nothing tells", key, at, len(data))
		}
		data[at] ^= bit
	}
	s.check(s.b.Store.Put(s.ctx, key, append(slices.Clone(data), data...)), "put")
	if !s.contradicts(key, rs) {
		s.t.Errorf("%s is there twice in itself, and nothing tells", key)
	}
}

func (s *suite[T]) refusedRow() {
	s.put(1, 0, 10)
	refused := errors.New("refused")
	found := 0
	err := s.sink.Inspect(s.ctx, pipeline, func(f stream.File) error {
		if errors.Is(f.Err, refused) {
			found++
		}
		return nil
	}, func(*stream.File, stream.Position, uint32) error { return refused })
	s.check(err, "inspect")
	if found == 0 {
		s.t.Error("rows were refused, and no file says so")
	}
}

func (s *suite[T]) get(key string) []byte {
	s.t.Helper()
	data, err := s.b.Store.Get(s.ctx, key)
	s.check(err, "get "+key)
	return data
}
