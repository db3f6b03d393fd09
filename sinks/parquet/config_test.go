package parquet_test

import (
	"bytes"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow/go/v17/parquet/file"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/sinks/parquet"
	"github.com/millrace-io/millrace/stream"
)

func TestConfigNamesEveryProblem(t *testing.T) {
	for _, c := range []struct {
		cfg  parquet.Config
		want []string
	}{
		{parquet.Config{}, []string{"url "}},
		{
			parquet.Config{URL: "x", Compression: "lz4", RowGroup: 1, Roll: parquet.Roll{Size: 1, Age: -1, Idle: -1}},
			[]string{"compression ", "roll.size ", "roll.age ", "roll.idle ", "row_group "},
		},
		{parquet.Config{URL: "x", CompressionLevel: 23, PartitionBy: []string{"a", "a", ""}}, []string{"partition_by ", "partition_by ", "compression_level "}},
		{parquet.Config{URL: "x", Compression: "gzip", CompressionLevel: 10}, []string{"compression_level "}},
		{parquet.Config{URL: "x", Compression: "none", CompressionLevel: 1}, []string{"compression_level "}},
		{parquet.Config{URL: "x"}, nil},
		{parquet.Config{URL: "x", Compression: "snappy", PartitionBy: []string{}}, nil},
	} {
		var got []string
		if err := c.cfg.Validate(); err != nil {
			got = strings.Split(err.Error(), "\n")
		}
		if len(got) != len(c.want) {
			t.Errorf("%+v: %q; want problems with %q", c.cfg, got, c.want)
			continue
		}
		for i, key := range c.want {
			if !strings.HasPrefix(got[i], key) {
				t.Errorf("%+v: problem %d is %q; want it to begin with %q", c.cfg, i, got[i], key)
			}
		}
	}
}

func TestPartitionByNeedsColumnsThatMakeFolders(t *testing.T) {
	schema, err := stream.NewSchema(stream.Column{Name: "tags", Type: stream.Type{Kind: stream.List}},
		stream.Column{Name: "position", Type: stream.Type{Kind: stream.Int}})
	if err != nil {
		t.Fatal(err)
	}
	for _, by := range [][]string{{"colour"}, {"tags"}, {"user", "user_id"}, {"position"}} {
		cfg := parquet.Config{URL: "x", PartitionBy: by}
		if err := cfg.CheckSchema(schema); err == nil || !strings.HasPrefix(err.Error(), "partition_by ") {
			t.Errorf("partition_by %q: %v; want a problem of partition_by", by, err)
		}
	}
	cfg := parquet.Config{URL: "x", PartitionBy: []string{"date", "hour", "country", "price", "time"}}
	if err := cfg.CheckSchema(schema); err != nil {
		t.Error(err)
	}
}

func TestFoldersAreThoseOfHive(t *testing.T) {
	long := strings.Repeat("日", 100)
	for _, c := range []struct {
		by   []string
		time stream.Value
		text stream.Value
		want string
	}{
		{nil, at(2010, 12, 1, 8), stream.Value{}, "date=2010-12-01"},
		{[]string{}, at(2010, 12, 1, 8), stream.Value{}, "."},
		{[]string{"date", "hour"}, at(2010, 12, 1, 8), stream.Value{}, "date=2010-12-01/hour=08"},
		{[]string{"date", "hour"}, at(1969, 12, 31, 23), stream.Value{}, "date=1969-12-31/hour=23"},
		{[]string{"hour", "date"}, stream.Value{}, stream.Value{}, "hour=__HIVE_DEFAULT_PARTITION__/date=__HIVE_DEFAULT_PARTITION__"},
		{[]string{"date"}, at(9999, 12, 31, 23), stream.Value{}, "date=9999-12-31"},
		{[]string{"date"}, at(10000, 1, 1, 0), stream.Value{}, "date=__HIVE_DEFAULT_PARTITION__"},
		{[]string{"country"}, stream.Value{}, stream.StringValue("EIRE"), "country=EIRE"},
		{[]string{"country"}, stream.Value{}, stream.Value{}, "country=__HIVE_DEFAULT_PARTITION__"},
		{[]string{"country"}, stream.Value{}, stream.StringValue(""), "country=__HIVE_DEFAULT_PARTITION__"},
		{[]string{"country"}, stream.Value{}, stream.StringValue("a/b=c%\x00\x7f\\ ü\xff.."), "country=a%2Fb%3Dc%25%00%7F%5C ü%FF.."},
		{[]string{"country"}, stream.Value{}, stream.StringValue(long), "country=" + strings.Repeat("日", 50) + "~"},
	} {
		schema := clickSchema(t)
		record := &stream.Record{Pos: stream.OffsetPosition(7)}
		e := stream.NewBatch(schema).Append(record)
		e.Values[stream.Time], e.Values[stream.Country] = c.time, c.text
		store := folderStore(t)
		keys := publish(t, newSink(t, store, parquet.Config{PartitionBy: c.by}), store, schema, []*stream.Event{e})
		if len(keys) != 1 {
			t.Fatalf("%d files", len(keys))
		}
		got := path.Dir(keys[0])
		if c.text.Text() == long {
			got = got[:len(got)-8] // a hash
		}
		if got != c.want {
			t.Errorf("%q: folder %q; want %q", c.by, got, c.want)
		}
		for _, name := range rootColumns(t, store, keys[0]) {
			if strings.Contains("/"+got, "/"+name+"=") {
				t.Errorf("%q: the column %s is in the file and in its path", c.by, name)
			}
		}
		if rows := readAll(t, store, keys[0], schema); len(rows) != 1 || rows[0] != described(schema, e) {
			t.Errorf("%q: the file has\n%s\nwant\n%s", c.by, rows, described(schema, e))
		}
	}
}

// rootColumns are the columns of a file as Arrow sees them.
func rootColumns(t *testing.T, store objects.Store, key string) []string {
	t.Helper()
	data, err := store.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	r, err := file.NewParquetReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	root := r.MetaData().Schema.Root()
	names := make([]string, root.NumFields())
	for i := range names {
		names[i] = root.Field(i).Name()
	}
	return names
}

func TestHoursAroundTheEpochAreApart(t *testing.T) {
	schema := clickSchema(t)
	events := positions(schema, 1, 2, 3)
	for i, v := range []stream.Value{at(1969, 12, 31, 22), at(1969, 12, 31, 23), at(1970, 1, 1, 0)} {
		events[i].Values[stream.Time] = v
	}
	store := folderStore(t)
	keys := publish(t, newSink(t, store, parquet.Config{PartitionBy: []string{"hour"}}), store, schema, events)
	if len(keys) != 3 {
		t.Errorf("%d files of three hours: %q", len(keys), keys)
	}
}

func at(year int, month time.Month, day, hour int) stream.Value {
	return stream.TimestampValue(time.Date(year, month, day, hour, 59, 59, 999999000, time.UTC).UnixMicro())
}
