package parquet_test

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/sinks/parquet"
	"github.com/millrace-io/millrace/stream"
)

// folderStore is an empty folder.
func folderStore(t testing.TB) objects.Store {
	t.Helper()
	store, err := objects.Open(t.Context(), t.TempDir(), objects.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// publish writes events as one commit and returns the keys of its files.
func publish(t testing.TB, sink *parquet.Sink, store objects.Store, schema *stream.Schema, events []*stream.Event) []string {
	t.Helper()
	w, err := sink.Open(t.Context(), stream.Tenure{Pipeline: "clicks", Sink: "lake", Partition: "clicks-3", Epoch: 1, Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	for batch := range slices.Chunk(events, 512) {
		w.Write(batch)
		if err := w.Upload(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	receipts, err := w.Stage(t.Context(), stream.Provenance{
		Pipeline: "clicks", Sink: "lake", Partition: "clicks-3", Epoch: 1, First: true, To: events[len(events)-1].Record.Pos,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range receipts {
		if err := sink.Publish(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	var keys []string
	for o, err := range store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
	return keys
}

// described is all that a file keeps of an event, in a form that can be compared.
func described(schema *stream.Schema, e *stream.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d %q", e.Record.Pos, e.Index, e.Properties)
	for i, v := range e.Values {
		fmt.Fprintf(&b, "\n%s: %d ", schema.Columns[i].Name, v.Kind())
		switch v.Kind() {
		case stream.Float:
			fmt.Fprintf(&b, "%x", math.Float64bits(v.Float()))
		case stream.List: // the text of an array may be written in several ways
			var elements []string
			if err := json.Unmarshal([]byte(v.Text()), &elements); err != nil {
				fmt.Fprint(&b, err)
			}
			fmt.Fprintf(&b, "%q", elements)
		default:
			fmt.Fprintf(&b, "%q", v.AppendText(nil, schema.Columns[i].Type))
		}
	}
	return b.String()
}

// randomSchema has up to 12 columns beside the well-known.
func randomSchema(t testing.TB, r *rand.Rand) *stream.Schema {
	t.Helper()
	var columns []stream.Column
	for i := range r.IntN(13) {
		typ := stream.Type{Kind: stream.Kind(1 + r.IntN(8))}
		if typ.Kind == stream.Decimal {
			typ.Precision = uint8(1 + r.IntN(18))
			typ.Scale = uint8(r.IntN(int(typ.Precision) + 1))
		}
		columns = append(columns, stream.Column{Name: fmt.Sprintf("%s %d", []string{"column", "ünï", "a.b", "date", "x=y/z"}[i%5], i), Type: typ})
	}
	schema, err := stream.NewSchema(columns...)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// profile is how one column's values come: how often null, and of how many different ones.
type profile struct {
	nulls    float64
	distinct int
	long     int
}

func randomValue(r *rand.Rand, typ stream.Type, p profile) stream.Value {
	if r.Float64() < p.nulls {
		return stream.Value{}
	}
	n := r.IntN(p.distinct)
	word := func(n int) string {
		texts := []string{"", "a", "Zürich", "日本", "quo\"te\\", "line\nbreak", "\x00", "[]", "null", "😀"}
		return texts[n%len(texts)] + strings.Repeat(fmt.Sprint(n), n%p.long)
	}
	extremes := []int64{0, 1, -1, math.MinInt64, math.MaxInt64, math.MinInt32, math.MaxInt32}
	number := extremes[n%len(extremes)] + int64(n/len(extremes))
	switch typ.Kind {
	case stream.Int:
		return stream.IntValue(number)
	case stream.Timestamp:
		return stream.TimestampValue(int64(n)*1_000_003 - 62e15) // from the year 5 on
	case stream.Float:
		floats := []float64{0, math.Copysign(0, -1), math.MaxFloat64, -math.MaxFloat64, math.SmallestNonzeroFloat64, 0.1}
		return stream.FloatValue(floats[n%len(floats)] / float64(1+n/len(floats)))
	case stream.Bool:
		return stream.BoolValue(n%2 == 0)
	case stream.Decimal:
		most := int64(math.Pow10(int(typ.Precision))) - 1
		return stream.DecimalValue([]int64{0, most, -most, int64(n) % (most + 1)}[n%4])
	case stream.List:
		elements := make([]string, n%4)
		for i := range elements {
			elements[i] = word(n + i)
		}
		text, _ := json.Marshal(elements)
		return stream.ListValue(string(text))
	case stream.JSON:
		text, _ := json.Marshal(map[string]string{"v": word(n)})
		return stream.JSONValue(string(text))
	}
	return stream.StringValue(word(n))
}

// randomEvents has records of one or several events, and now and then a record of none.
func randomEvents(r *rand.Rand, schema *stream.Schema, n int) []*stream.Event {
	profiles := make([]profile, len(schema.Columns)+1)
	for i := range profiles {
		profiles[i] = profile{
			nulls:    []float64{0, 0, 0.01, 0.5, 0.99, 1}[r.IntN(6)],
			distinct: []int{1, 2, 10, 1000, 1 << 40}[r.IntN(5)],
			long:     []int{1, 4, 12}[r.IntN(3)],
		}
	}
	batch := stream.NewBatch(schema)
	pos := uint64(0)
	record := &stream.Record{}
	for i := range n {
		if i == 0 || r.IntN(5) > 0 {
			record = &stream.Record{Pos: stream.OffsetPosition(pos)}
			pos += 1 + uint64(r.IntN(3))
		}
		e := batch.Append(record)
		for c := range e.Values {
			e.Values[c] = randomValue(r, schema.Columns[c].Type, profiles[c])
		}
		if p := profiles[len(profiles)-1]; r.Float64() >= p.nulls {
			e.Properties = fmt.Sprintf(`{"n":%d}`, r.IntN(p.distinct))
		}
	}
	events := make([]*stream.Event, n)
	for i := range events {
		events[i] = &batch.Events[i]
	}
	return events
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	for seed := range uint64(16) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 7))
			schema := randomSchema(t, r)
			events := randomEvents(r, schema, []int{1, 9, 70, 300, 1100, 3000, 3000, 21_000}[seed%8])
			store := folderStore(t)
			cfg := parquet.Config{
				Compression: []string{"zstd", "snappy", "gzip", "none"}[seed%4], RowGroup: []int64{64 << 10, 1 << 20, 0}[r.IntN(3)],
				PartitionBy: [][]string{{}, {"country"}, {"type", "bot"}}[r.IntN(3)],
			}
			for _, e := range events { // few folders, in which each file has rows in order
				e.Values[stream.Country] = randomValue(r, stream.Type{Kind: stream.String}, profile{nulls: 0.1, distinct: 3, long: 2})
				e.Values[stream.EventType] = e.Values[stream.Country]
			}
			sink := newSink(t, store, cfg)
			keys := publish(t, sink, store, schema, events)
			var got []string
			for _, key := range keys {
				got = append(got, readAll(t, store, key, schema)...)
			}
			var want []string
			for _, e := range events {
				want = append(want, described(schema, e))
			}
			if len(keys) > 1 {
				slices.Sort(got)
				slices.Sort(want)
			}
			if !slices.Equal(got, want) {
				for i := range want {
					if i >= len(got) || got[i] != want[i] {
						t.Fatalf("%d rows of %d; the first other one is number %d:\n%s\nwant\n%s", len(got), len(want), i, got[min(i, len(got)-1)], want[i])
					}
				}
			}
			files := 0
			err := sink.Inspect(t.Context(), "clicks", func(f stream.File) error {
				files++
				return f.Err
			}, func(*stream.File, stream.Position, uint32) error { return nil })
			if err != nil || files != len(keys) {
				t.Errorf("inspection of %d files finds %d: %v", len(keys), files, err)
			}
		})
	}
}

func readAll(t testing.TB, store objects.Store, key string, schema *stream.Schema) []string {
	t.Helper()
	o, err := store.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	var got []string
	for e, err := range parquet.Rows(t.Context(), o, schema) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, described(schema, e))
	}
	return got
}

func TestRowsOfAnotherSchema(t *testing.T) {
	store := folderStore(t)
	written := allTypes(t)
	events := randomEvents(rand.New(rand.NewPCG(1, 1)), written, 100)
	keys := publish(t, newSink(t, store, parquet.Config{PartitionBy: []string{}}), store, written, events)
	o, err := store.Open(t.Context(), keys[0])
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()

	more, err := stream.NewSchema(stream.Column{Name: "later", Type: stream.Type{Kind: stream.Int}})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for e, err := range parquet.Rows(t.Context(), o, more) {
		if err != nil {
			t.Fatal(err)
		}
		if !e.Values[stream.WellKnown].IsNull() {
			t.Fatal("a column that the file lacks is not null")
		}
		if n++; n == 10 {
			break
		}
	}

	other, err := stream.NewSchema(stream.Column{Name: "x decimal(9,2)", Type: stream.Type{Kind: stream.Decimal, Precision: 9, Scale: 3}})
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range parquet.Rows(t.Context(), o, other) {
		if err == nil || !strings.Contains(err.Error(), "x decimal(9,2)") {
			t.Fatalf("a column of another scale is read with %v; want an error that names it", err)
		}
	}
}
