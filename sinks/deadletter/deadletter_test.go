package deadletter_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sinks/deadletter"
	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/network"
	"github.com/millrace-io/millrace/testenv/s3"
)

// Mutations seen red (line broken -> test):
//
//	Stage: the last line is written again by a retry -> Rules/StageRetriedDoublesNothing
//	Stage: the writer does not start anew -> Rules/PublishIsIdempotentAlsoInAnotherProcess
//	Discard: the upload is left -> Rules/DiscardLeavesNothing
//	begin: no epoch in the key; index: letters of one record are not numbered -> TheFormat
//	parseLast: the key is not compared -> Rules/InspectFindsACopiedFile
//	parseLast: any JSON of the same meaning will do -> ADamagedFileIsNamedAndTheOthersAreRead
//	letters: the checksum is not compared -> Rules/InspectFindsAnEditedFile
//	Inspect: other pipelines' files are visited -> Rules/InspectSeesItsOwnPipelineOnly
//	Inspect: a refused row ends the inspection -> Rules/InspectTellsWhatTheReaderOfRowsRefused
//	split: nil is not told from empty; bytes are written as text -> TheFormat, RoundTrip
//	newLetter: years beyond 9999 as RFC 3339 -> RoundTrip
//	Reader: the bytes that it has are not looked at, are taken for another file's -> ReaderFindsLettersInAnyOrder

func TestMain(m *testing.M) {
	ignored := network.Leftovers()
	for _, name := range s3.Leftovers() {
		ignored = append(ignored, goleak.IgnoreAnyFunction(name))
	}
	goleak.VerifyTestMain(m, ignored...)
}

func backend(t *testing.T, location string) sinktest.Backend[*stream.DeadLetter] {
	t.Helper()
	store, err := objects.Open(t.Context(), location, objects.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return sinktest.Backend[*stream.DeadLetter]{
		Store: store,
		New:   func(_ *testing.T, s objects.Store) sinktest.Sink[*stream.DeadLetter] { return deadletter.New(s) },
		Items: sinktest.DeadLetters,
	}
}

func TestDeadLettersInAFolderKeepTheRulesOfASink(t *testing.T) {
	sinktest.Run(t, func(t *testing.T) sinktest.Backend[*stream.DeadLetter] { return backend(t, t.TempDir()) })
}

func TestDeadLettersInABucketKeepTheRulesOfASink(t *testing.T) {
	server(t)
	n := new(atomic.Int64)
	sinktest.Run(t, func(t *testing.T) sinktest.Backend[*stream.DeadLetter] {
		return backend(t, fmt.Sprintf("s3://lake/dead%d", n.Add(1)))
	})
}

// server starts an S3 server and points the AWS SDK to it.
func server(t *testing.T) *s3.Server {
	t.Helper()
	srv, err := s3.Start(t.Context(), t.TempDir(), s3.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
	for k, v := range srv.Env(srv.URL()) {
		t.Setenv(k, v)
	}
	return srv
}

// store returns a folder's store with the letters published as one commit, and the key of their file.
func published(t testing.TB, letters ...*stream.DeadLetter) (objects.Store, string) {
	t.Helper()
	store, err := objects.Open(t.Context(), t.TempDir(), objects.Options{})
	if err != nil {
		t.Fatal(err)
	}
	sink := deadletter.New(store)
	w, err := sink.Open(t.Context(), stream.Tenure{Pipeline: "clicks", Sink: stream.DeadLetters, Partition: "clicks-3", Epoch: 7})
	if err != nil {
		t.Fatal(err)
	}
	w.Write(letters)
	n := int64(len(letters))
	rs, err := w.Stage(t.Context(), stream.Provenance{
		Pipeline: "clicks", Sink: stream.DeadLetters, Partition: "clicks-3", Epoch: 7, First: true,
		To: letters[n-1].Record.Pos, Read: n, Dead: n, Rows: map[string]int64{stream.DeadLetters: n},
	})
	if err != nil || len(rs) != 1 {
		t.Fatal("stage:", err, rs)
	}
	if err := sink.Publish(t.Context(), rs[0]); err != nil {
		t.Fatal(err)
	}
	var ticket objects.Ticket
	if err := json.Unmarshal(rs[0].Body, &ticket); err != nil {
		t.Fatal(err)
	}
	return store, ticket.Key
}

func readBack(t testing.TB, store objects.Store) []*stream.DeadLetter {
	t.Helper()
	var out []*stream.DeadLetter
	for l, err := range deadletter.Read(t.Context(), store, "") {
		if err != nil {
			t.Fatal(err)
		}
		d, err := l.DeadLetter()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, d)
	}
	return out
}

func same(a, b *stream.DeadLetter) bool {
	x, y := *a.Record, *b.Record
	timesEqual := x.Time.Equal(y.Time) && x.Time.IsZero() == y.Time.IsZero()
	x.Time, y.Time, x.Err, y.Err = time.Time{}, time.Time{}, nil, nil
	return timesEqual && a.Stage == b.Stage && a.Err == b.Err && reflect.DeepEqual(x, y)
}

func TestTheFormat(t *testing.T) {
	store, key := published(t,
		&stream.DeadLetter{Stage: "decode", Err: `no "id" <here>`, Record: &stream.Record{
			Key: []byte("user-1"), Value: []byte(`{"a":1}`), Pos: stream.OffsetPosition(1000), Time: time.Date(2010, 12, 1, 8, 26, 0, 5000000, time.UTC),
		}},
		&stream.DeadLetter{Stage: "sink.search", Err: "refused", Record: &stream.Record{
			Value: []byte{0xff, 0}, Pos: stream.OffsetPosition(1001), Headers: []stream.Header{{Key: "h", Value: []byte("v")}},
		}},
		&stream.DeadLetter{Stage: "sink.profiles", Err: "refused too", Record: &stream.Record{Pos: stream.OffsetPosition(1001)}},
	)
	if want := "date=2010-12-01/dead-clicks-clicks-3-"; !strings.HasPrefix(key, want) || !strings.HasSuffix(key, "-7-00000000000003e8.jsonl") {
		t.Errorf("the key is %s; want %s<hash>-<epoch>-<position>.jsonl", key, want)
	}
	data, err := store.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"pipeline":"clicks","partition":"clicks-3","epoch":7,"position":"00000000000003e8","stage":"decode","error":"no \"id\" <here>","time":"2010-12-01T08:26:00.005Z","key":"user-1","value":"{\"a\":1}"}
{"pipeline":"clicks","partition":"clicks-3","epoch":7,"position":"00000000000003e9","stage":"sink.search","error":"refused","value_base64":"/wA=","headers":[{"key":"h","value":"v"}]}
{"pipeline":"clicks","partition":"clicks-3","epoch":7,"position":"00000000000003e9","index":1,"stage":"sink.profiles","error":"refused too"}
{"provenance":{"pipeline":"clicks","sink":"dead_letters","partition":"clicks-3","epoch":7,"first":true,`
	if !strings.HasPrefix(string(data), want) {
		t.Errorf("the file is\n%s\nwant\n%s...", data, want)
	}
	if again, _ := published(t, readBack(t, store)...); again != nil {
		twice, err := again.Get(t.Context(), key)
		if err != nil || !bytes.Equal(twice, data) {
			t.Errorf("the same letters make another file (error %v):\n%s", err, twice)
		}
	}
}

func TestADamagedFileIsNamedAndTheOthersAreRead(t *testing.T) {
	letter := func(n uint64) *stream.DeadLetter {
		return &stream.DeadLetter{Stage: "decode", Err: "x", Record: &stream.Record{Value: []byte("v"), Pos: stream.OffsetPosition(n)}}
	}
	store, key := published(t, letter(1), letter(2))
	data, err := store.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Put(t.Context(), "date=0/copy.jsonl", data); err != nil {
		t.Fatal(err)
	}
	if err := store.Put(t.Context(), "date=1/edited.jsonl", bytes.Replace(data, []byte(`"v"`), []byte(`"w"`), 1)); err != nil {
		t.Fatal(err)
	}
	cased := bytes.Replace(data, []byte(`{"provenance":{"pipeline"`), []byte(`{"provenance":{"Pipeline"`), 1)
	for _, damage := range [][]byte{cased, data[:len(data)-1], append([]byte("{}\n"), data...)} {
		if err := store.Put(t.Context(), key, damage); err != nil {
			t.Fatal(err)
		}
		for _, err := range deadletter.Read(t.Context(), store, key) {
			if !errors.Is(err, deadletter.ErrDamaged) {
				t.Errorf("read of %q yields %v; want it to be damaged", damage, err)
			}
		}
	}
	if err := store.Put(t.Context(), key, data); err != nil {
		t.Fatal(err)
	}
	letters, errs := 0, 0
	for l, err := range deadletter.Read(t.Context(), store, "") {
		switch {
		case err == nil:
			letters++
			if l.Position.Offset() != uint64(letters) {
				t.Errorf("letter %d is at %s", letters, l.Position)
			}
		case errors.Is(err, deadletter.ErrDamaged) && (strings.Contains(err.Error(), "copy.jsonl") || strings.Contains(err.Error(), "edited.jsonl")):
			errs++
		default:
			t.Errorf("read yields %v; want the damaged file's name", err)
		}
	}
	if letters != 2 || errs != 2 {
		t.Errorf("%d letters and %d damaged files; want 2 and 2", letters, errs)
	}
	for range deadletter.Read(t.Context(), store, "date=__") {
		break // a caller may stop
	}
}

// A Reader reads ahead, and letters are larger and smaller than that.
func TestReaderFindsLettersInAnyOrder(t *testing.T) {
	var letters []*stream.DeadLetter
	for n := range uint64(40) {
		size := 100_000
		if n == 20 {
			size = 3 << 20
		}
		letters = append(letters, &stream.DeadLetter{Stage: "decode", Err: "x", Record: &stream.Record{
			Value: bytes.Repeat([]byte{'a' + byte(n%26)}, size), Pos: stream.OffsetPosition(n),
		}})
	}
	store, key := published(t, letters...)
	var at []deadletter.Ref
	for l, err := range deadletter.Read(t.Context(), store, "") {
		if err != nil {
			t.Fatal(err)
		}
		at = append(at, l.At)
	}
	r := deadletter.NewReader(store)
	defer r.Close()
	for i := range 3 * len(at) {
		n := i
		if i >= len(at) {
			n = 7 * i
		}
		n %= len(at)
		l, err := r.Letter(t.Context(), at[n])
		if err != nil {
			t.Fatal(err)
		}
		if d, err := l.DeadLetter(); err != nil || !same(d, letters[n]) || l.At != at[n] {
			t.Fatalf("letter %d reads as another one: %v", n, err)
		}
	}
	if _, err := r.Letter(t.Context(), deadletter.Ref{Key: key, Offset: 1 << 30, Size: 10}); !errors.Is(err, deadletter.ErrDamaged) {
		t.Errorf("beyond the end: %v", err)
	}
	if _, err := r.Letter(t.Context(), deadletter.Ref{Key: "date=0/none.jsonl", Size: 10}); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("in no file: %v", err)
	}
}

func TestConfigNamesItsProblem(t *testing.T) {
	for url, bad := range map[string]bool{"": true, "gs://x": true, "s3://lake/dead": false, "dead": false} {
		err := (&deadletter.Config{URL: url}).Validate()
		if (err != nil) != bad || bad && !strings.HasPrefix(err.Error(), "url ") {
			t.Errorf("url %q: %v", url, err)
		}
	}
}

// FuzzRoundTrip: what a replay delivers is what the log delivered, byte for byte.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("k"), []byte("v"), "h", []byte("hv"), "decode", "e", int64(0), uint8(0))
	f.Add([]byte{0xff}, []byte{}, "\xfe", []byte{0}, "source", "a\nb", int64(math.MaxInt64), uint8(7))
	f.Add([]byte("\u2028<&>\ufffd"), []byte("\x00\x1f\x7f"), "", []byte(nil), "sink.x", "\"", int64(-62135596800000000), uint8(1))
	f.Add([]byte(nil), []byte(nil), "h", []byte(nil), "process.1.map", "", int64(253402300800000000), uint8(15))
	f.Fuzz(func(t *testing.T, key, value []byte, header string, headerValue []byte, stage, text string, us int64, nils uint8) {
		d := &stream.DeadLetter{Stage: strings.ToValidUTF8(stage, "?"), Err: strings.ToValidUTF8(text, "?"), Record: &stream.Record{
			Key: key, Value: value, Pos: stream.OffsetPosition(uint64(us)),
			Headers: []stream.Header{{Key: header, Value: headerValue}, {Key: "x"}}, Time: time.UnixMicro(us).UTC(),
		}}
		// Fuzzing makes no nil slices; they are not the same as empty ones.
		if nils&1 != 0 {
			d.Record.Key = nil
		}
		if nils&2 != 0 {
			d.Record.Value = nil
		}
		if nils&4 != 0 {
			d.Record.Headers = nil
		}
		if nils&8 != 0 {
			d.Record.Time = time.Time{}
		}
		store, _ := published(t, d, d)
		got := readBack(t, store)
		if len(got) != 2 || !same(got[0], d) || !same(got[1], d) {
			t.Fatalf("read back %+v of\n%+v", got[0].Record, d.Record)
		}
	})
}
