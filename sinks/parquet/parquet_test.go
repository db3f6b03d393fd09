package parquet_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/sinks/parquet"
	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/s3"
)

func TestMain(m *testing.M) {
	var ignored []goleak.Option
	for _, name := range s3.Leftovers() {
		ignored = append(ignored, goleak.IgnoreAnyFunction(name))
	}
	goleak.VerifyTestMain(m, ignored...)
}

// allTypes is a schema with a column of every type.
func allTypes(t testing.TB) *stream.Schema {
	t.Helper()
	var columns []stream.Column
	for _, typ := range []string{"string", "int", "float", "bool", "timestamp", "decimal(9,2)", "decimal(18,4)", "list", "json"} {
		parsed, err := stream.ParseType(typ)
		if err != nil {
			t.Fatal(err)
		}
		columns = append(columns, stream.Column{Name: "x " + typ, Type: parsed})
	}
	schema, err := stream.NewSchema(columns...)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// backend is a place of sinktest: small row groups and two levels of folders, so that every commit has several files.
func backend(t *testing.T, location string) sinktest.Backend[*stream.Event] {
	t.Helper()
	store, err := objects.Open(t.Context(), location, objects.Options{})
	if err != nil {
		t.Fatal(err)
	}
	schema := allTypes(t)
	return sinktest.Backend[*stream.Event]{
		Store: store,
		New: func(t *testing.T, s objects.Store) sinktest.Sink[*stream.Event] {
			return newSink(t, s, parquet.Config{PartitionBy: []string{"date", "hour"}, RowGroup: 64 << 10})
		},
		Items:  sinktest.Events(schema),
		Schema: schema,
	}
}

func newSink(t testing.TB, store objects.Store, cfg parquet.Config) *parquet.Sink {
	t.Helper()
	cfg.URL = store.String()
	sink, err := parquet.New(store, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return sink
}

func TestFolderKeepsTheRulesOfASink(t *testing.T) {
	sinktest.Run(t, func(t *testing.T) sinktest.Backend[*stream.Event] {
		return backend(t, filepath.Join(t.TempDir(), "lake"))
	})
}

func TestS3KeepsTheRulesOfASink(t *testing.T) {
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
	places := 0
	sinktest.Run(t, func(t *testing.T) sinktest.Backend[*stream.Event] {
		places++
		return backend(t, fmt.Sprintf("s3://lake/%d", places))
	})
}
