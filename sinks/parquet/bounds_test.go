package parquet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/stream"
)

// A reader skips row groups by these, so a bound that does not hold loses rows.
func TestBoundsHoldOverAllPages(t *testing.T) {
	const rows = 2*pageRows + 500
	r := rand.New(rand.NewPCG(3, 4))
	schema, err := stream.NewSchema()
	if err != nil {
		t.Fatal(err)
	}
	m := &memory{}
	s, err := New(m, Config{URL: "memory"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLayout(&s.cfg, schema)
	if err != nil {
		t.Fatal(err)
	}
	f := newFile(l, m.Begin(""), "a.parquet", "p")
	least, most := map[int]stream.Value{}, map[int]stream.Value{}
	less := func(a, b stream.Value) bool {
		switch a.Kind() {
		case stream.Float:
			return a.Float() < b.Float()
		case stream.String:
			return a.Text() < b.Text()
		}
		return a.Int() < b.Int()
	}
	batch := stream.NewBatch(schema)
	s.encoding(func(e *encoder) {
		for i := range rows {
			batch.Reset()
			ev := batch.Append(&stream.Record{Pos: stream.OffsetPosition(uint64(i))})
			for c, v := range map[int]stream.Value{
				stream.ID:        stream.StringValue(fmt.Sprintf("%016x", r.Uint64())),         // plain
				stream.Country:   stream.StringValue(fmt.Sprint(r.IntN(500))),                  // indexed
				stream.URL:       stream.StringValue(fmt.Sprint(max(i-pageRows, r.IntN(500)))), // first indexed, then plain
				stream.Query:     stream.StringValue(fmt.Sprintf("%08d", rows-i)),              // plain, the least comes last
				stream.Quantity:  stream.IntValue(r.Int64() - math.MaxInt64/2),
				stream.Price:     stream.FloatValue(r.NormFloat64()),
				stream.Time:      stream.TimestampValue(r.Int64() - math.MaxInt64/2),
				stream.Bot:       stream.BoolValue(i == rows/2),
				stream.UserAgent: stream.StringValue(strings.Repeat("z", 300)), // too long for a bound
			} {
				ev.Values[c] = v
				if i == 0 || less(v, least[c]) {
					least[c] = v
				}
				if i == 0 || less(most[c], v) {
					most[c] = v
				}
			}
			f.add(e, []*stream.Event{ev})
		}
		err = f.finish(e, stream.Provenance{})
	})
	if err != nil {
		t.Fatal(err)
	}
	o := &opened{Object: memoryObject(m.data.Bytes())}
	if err := o.readFooter(); err != nil {
		t.Fatal(err)
	}
	for c, column := range schema.Columns {
		stats := o.meta.RowGroups[0].Columns[c].MetaData.Statistics
		wantLeast, wantMost := encoded(least[c]), encoded(most[c])
		if !bytes.Equal(stats.MinValue, wantLeast) || !bytes.Equal(stats.MaxValue, wantMost) {
			t.Errorf("%s: %q to %q; want %q to %q", column.Name, stats.MinValue, stats.MaxValue, wantLeast, wantMost)
		}
		if nulls := int64(rows) * int64(b2i(least[c].IsNull())); *stats.NullCount != nulls {
			t.Errorf("%s: %d nulls; want %d", column.Name, *stats.NullCount, nulls)
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// encoded is a value in PLAIN encoding without length; nil where there is no bound.
func encoded(v stream.Value) []byte {
	switch v.Kind() {
	case stream.Null:
		return nil
	case stream.String:
		if len(v.Text()) > longestBound {
			return nil
		}
		return []byte(v.Text())
	case stream.Float:
		return binary.LittleEndian.AppendUint64(nil, math.Float64bits(v.Float()))
	case stream.Bool:
		return []byte{byte(b2i(v.Bool()))}
	}
	return binary.LittleEndian.AppendUint64(nil, uint64(v.Int()))
}
