//go:build real

package parquet_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/sinks/parquet"
	"github.com/millrace-io/millrace/stream"
)

// python is an interpreter that has pyarrow and duckdb; testenv/install.sh makes it.
func python(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(cache, "millrace", "venv", "bin", "python")
}

// TestRealOtherReadersSeeTheSame compares what pyarrow and DuckDB read with what was written.
func TestRealLakeLosesNothingOnABadNetwork(t *testing.T) { losesNothing(t) }

func TestRealOtherReadersSeeTheSame(t *testing.T) {
	bin := python(t)
	for compression, rows := range map[string]int{"zstd": 40_000, "snappy": 8000, "gzip": 8000, "none": 8000} {
		t.Run(compression, func(t *testing.T) {
			schema := allTypes(t)
			dir := t.TempDir()
			store, err := objects.Open(t.Context(), dir, objects.Options{})
			if err != nil {
				t.Fatal(err)
			}
			events := typedClicks(t, schema, rows)
			sink := newSink(t, store, parquet.Config{Compression: compression, PartitionBy: []string{"date", "hour", "country"}, RowGroup: 256 << 10})
			publish(t, sink, store, schema, events)

			want, err := os.Create(filepath.Join(t.TempDir(), "rows.jsonl"))
			if err != nil {
				t.Fatal(err)
			}
			enc := json.NewEncoder(want)
			for _, e := range events {
				if err := enc.Encode(plainRow(schema, e)); err != nil {
					t.Fatal(err)
				}
			}
			if err := want.Close(); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), bin, filepath.Join("testdata", "readers.py"), dir, want.Name())
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v\n%s", err, out.String())
			}
			t.Log(out.String())
		})
	}
}

// typedClicks are events over three hours and four countries, with a value or null in every column, with dictionaries
// that pay, that do not, and that grow too large.
func typedClicks(t *testing.T, schema *stream.Schema, n int) []*stream.Event {
	t.Helper()
	batch := stream.NewBatch(schema)
	records := make([]stream.Record, n)
	for i := range n {
		records[i].Pos = stream.OffsetPosition(uint64(1000 + i))
		e := batch.Append(&records[i])
		for c, column := range schema.Columns {
			if (i+c)%7 == 0 {
				continue
			}
			e.Values[c] = sample(column.Type, i)
		}
		e.Values[stream.ID] = stream.StringValue(fmt.Sprintf("click-%d", i))
		e.Values[stream.Time] = stream.TimestampValue(1291190400_000000 + int64(i)*200_000 + int64(i)%1000)
		e.Values[stream.Country] = []stream.Value{stream.StringValue("United Kingdom"), stream.StringValue("EIRE/Ünï=%"), {}, stream.StringValue("007")}[i/100%4]
		if i%3 > 0 {
			e.Properties = fmt.Sprintf(`{"n":%d,"text":"ü"}`, i%5000)
		}
	}
	events := make([]*stream.Event, n)
	for i := range events {
		events[i] = &batch.Events[i]
	}
	return events
}

func sample(typ stream.Type, i int) stream.Value {
	switch typ.Kind {
	case stream.Int:
		return stream.IntValue(int64(i)*1_000_000_007 - 5)
	case stream.Float:
		return stream.FloatValue(float64(i-100) / 8)
	case stream.Bool:
		return stream.BoolValue(i%3 == 0)
	case stream.Timestamp:
		return stream.TimestampValue(int64(i-10) * 86_400_000_001)
	case stream.Decimal:
		return stream.DecimalValue(int64(i)*7 - 100)
	case stream.List:
		text, _ := json.Marshal([]string{"a", "b\"ü", fmt.Sprint(i % 40)}[:i%4])
		return stream.ListValue(string(text))
	case stream.JSON:
		return stream.JSONValue(fmt.Sprintf(`{"k":[%d]}`, i))
	}
	return stream.StringValue(fmt.Sprintf("text %d", i%(1+i%3000)))
}

// plainRow is an event as JSON: decimals and timestamps as numbers.
func plainRow(schema *stream.Schema, e *stream.Event) map[string]any {
	row := map[string]any{"_partition": "clicks-3", "_position": e.Record.Pos.String(), "_index": e.Index, "properties": nil}
	if e.Properties != "" {
		row["properties"] = e.Properties
	}
	for i, c := range schema.Columns {
		v := e.Values[i]
		name := c.Name
		if i == stream.Country {
			name = "_country"
		}
		switch {
		case v.IsNull():
			row[name] = nil
		case slices.Contains([]stream.Kind{stream.Int, stream.Timestamp, stream.Decimal}, v.Kind()):
			row[name] = fmt.Sprint(v.Int())
		case v.Kind() == stream.Float:
			row[name] = v.Float()
		case v.Kind() == stream.Bool:
			row[name] = v.Bool()
		case v.Kind() == stream.List:
			row[name] = json.RawMessage(v.Text())
		default:
			row[name] = v.Text()
		}
	}
	return row
}
