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
	"github.com/millrace-io/millrace/testenv/network"
	"github.com/millrace-io/millrace/testenv/s3"
)

// Mutations seen red: the line that was broken, and the test that noticed. (keeps) stands for TestFolderKeepsTheRulesOfASink
// and TestS3KeepsTheRulesOfASink.
//
//	file.finish writes the footer again on a retried Stage       (keeps)/StageRetriedDoublesNothing
//	writer.Discard leaves the uploads                            (keeps)/DiscardLeavesNothing
//	writer.Stage keeps the file of the last commit               TestNoTwoTenuresShareAKey
//	keys without the tenure's random part                        TestNoTwoTenuresShareAKey
//	openOne does not compare the key                             (keeps)/InspectFindsACopiedFile
//	checkSeal does not compare                                   TestEveryBitOfTheFooterIsSealed, (keeps)/InspectFindsAnEditedFile
//	checkData does not compare                                   (keeps)/InspectFindsAnEditedFile
//	checkRows does not compare with the row before               TestInspectFindsRowsThatAreNotWhereTheyBelong
//	checkRows does not compare with the commit's range           the same, TestInspectFindsRowsBeforeTheCommit
//	Inspect visits files of other pipelines                      (keeps)/InspectSeesItsOwnPipelineOnly
//	column.memory leaves out the page buffers                    TestAThousandOpenHoursStayInTheBudget
//	file.measure leaves out the upload                           TestWhatTheUploadsHoldIsReported
//	account never ends a row group                               TestALongFileStaysSmallInMemory, TestWriterIsFullAtTheRollSize
//	account never finds a file full                              TestWriterIsFullAtTheRollSize
//	a dictionary has no bound, or is kept when it does not pay   TestDictionariesAreForColumnsThatRepeat
//	bounds.merge keeps the first page's                          TestBoundsHoldOverAllPages
//	bounds without the dictionary's values                       TestBoundsHoldOverAllPages
//	addBits overlooks nulls                                      TestWhatIsWrittenIsRead
//	floorDiv rounds towards zero                                 TestHoursAroundTheEpochAreApart
//	storedName keeps the name of a folder                        TestFoldersAreThoseOfHive
func TestMain(m *testing.M) {
	ignored := network.Leftovers()
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
	server(t)
	places := 0
	sinktest.Run(t, func(t *testing.T) sinktest.Backend[*stream.Event] {
		places++
		return backend(t, fmt.Sprintf("s3://lake/%d", places))
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
