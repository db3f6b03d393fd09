package parquet_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	arrow "github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/file"
	"github.com/apache/arrow/go/v17/parquet/schema"

	"github.com/millrace-io/millrace/sinks/parquet"
	"github.com/millrace-io/millrace/stream"
)

// inspect returns what is wrong with each published file.
func inspect(t *testing.T, sink *parquet.Sink) map[string]error {
	t.Helper()
	found := map[string]error{}
	err := sink.Inspect(t.Context(), "clicks", func(f stream.File) error {
		found[f.Key] = f.Err
		return nil
	}, func(*stream.File, stream.Position, uint32) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// positions are events of records at those offsets.
func positions(schema *stream.Schema, offsets ...uint64) []*stream.Event {
	var events []*stream.Event
	for _, n := range offsets {
		events = append(events, stream.NewBatch(schema).Append(&stream.Record{Pos: stream.OffsetPosition(n)}))
	}
	return events
}

func TestInspectFindsRowsThatAreNotWhereTheyBelong(t *testing.T) {
	schema := clickSchema(t)
	for name, c := range map[string]struct {
		offsets []uint64 // the last is the end of the commit
		want    string
	}{
		"in order":          {[]uint64{0, 1, 5}, ""},
		"backwards":         {[]uint64{0, 2, 1, 5}, "not after"},
		"twice":             {[]uint64{0, 1, 1, 5}, "not after"},
		"behind the commit": {[]uint64{0, 6, 5}, "outside"},
	} {
		store := folderStore(t)
		sink := newSink(t, store, parquet.Config{})
		key := publish(t, sink, store, schema, positions(schema, c.offsets...))[0]
		err := inspect(t, sink)[key]
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, parquet.ErrDamaged) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("rows %s: %v; want %q", name, err, c.want)
		}
	}
}

func TestInspectFindsRowsBeforeTheCommit(t *testing.T) {
	store, schema := folderStore(t), clickSchema(t)
	sink := newSink(t, store, parquet.Config{})
	for after, want := range map[uint64]bool{3: true, 4: false} {
		w, err := sink.Open(t.Context(), stream.Tenure{Pipeline: "clicks", Partition: "p", Schema: schema})
		if err != nil {
			t.Fatal(err)
		}
		w.Write(positions(schema, 4, 5))
		rs, err := w.Stage(t.Context(), stream.Provenance{Pipeline: "clicks", After: stream.OffsetPosition(after), To: stream.OffsetPosition(5)})
		if err != nil {
			t.Fatal(err)
		}
		if err := sink.Publish(t.Context(), rs[0]); err != nil {
			t.Fatal(err)
		}
		for key, err := range inspect(t, sink) {
			if (err == nil) != want {
				t.Errorf("rows at 4 and 5 of a commit after %d: %v", after, err)
			}
			if err := sink.Withdraw(t.Context(), rs[0]); err != nil {
				t.Fatal(key, err)
			}
		}
	}
}

func TestInspectReportsAForeignFile(t *testing.T) {
	store := folderStore(t)
	root, err := schema.NewGroupNode("other", arrow.Repetitions.Required, schema.FieldList{schema.NewInt64Node("n", arrow.Repetitions.Required, -1)}, -1)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := file.NewParquetWriter(&b, root)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for key, data := range map[string][]byte{"date=x/foreign.parquet": b.Bytes(), "date=x/readme.txt": nil, "_hidden/foreign.parquet": nil} {
		if err := store.Put(t.Context(), key, data); err != nil {
			t.Fatal(err)
		}
	}
	found := inspect(t, newSink(t, store, parquet.Config{}))
	err = found["date=x/foreign.parquet"]
	if len(found) != 1 || !errors.Is(err, parquet.ErrDamaged) || !strings.Contains(err.Error(), "no millrace provenance") {
		t.Errorf("%v; want one file, without provenance", found)
	}
}

func TestWriterIsFullAtTheRollSize(t *testing.T) {
	events := clicks(t, 20_000, 14)
	store := &discard{}
	sink := newSink(t, store, parquet.Config{Roll: parquet.Roll{Size: 256 << 10}, RowGroup: 1 << 20})
	w, err := sink.Open(t.Context(), stream.Tenure{Pipeline: "clicks", Partition: "p", Schema: clickSchema(t)})
	if err != nil {
		t.Fatal(err)
	}
	for len(events) > 0 && !w.Full() {
		w.Write(events[:500])
		events = events[500:]
	}
	rs, err := w.Stage(t.Context(), stream.Provenance{Pipeline: "clicks"})
	if err != nil {
		t.Fatal(err)
	}
	if len(rs) != 1 || rs[0].Bytes < 256<<10 || rs[0].Bytes > 512<<10 {
		t.Errorf("%d files, the first of %d bytes; want one of at least 256 KiB and not much more", len(rs), rs[0].Bytes)
	}
	if w.Full() {
		t.Error("the writer is still full after Stage")
	}
}

// Two owners of one partition who stage the same records at the same epoch, as a bug of a source might make them, still do
// not meet.
func TestNoTwoTenuresShareAKey(t *testing.T) {
	store, schema := &discard{}, clickSchema(t)
	sink := newSink(t, store, parquet.Config{})
	seen := map[string]bool{}
	for range 2 {
		w, err := sink.Open(t.Context(), stream.Tenure{Pipeline: "clicks", Partition: "a/../b ünï", Epoch: 3, Schema: schema})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			w.Write(positions(schema, 1))
			rs, err := w.Stage(t.Context(), stream.Provenance{Pipeline: "clicks"})
			if err != nil {
				t.Fatal(err)
			}
			body := string(rs[0].Body)
			if seen[body] {
				t.Errorf("%s twice", body)
			}
			seen[body] = true
			if !strings.Contains(body, "/pa-..-b--n--0000000000000001-3-") {
				t.Errorf("%s; want partition, first position and epoch in the name", body)
			}
		}
	}
}
