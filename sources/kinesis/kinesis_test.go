package kinesis

import (
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sources/sourcetest"
	"github.com/millrace-io/millrace/testenv/dynamodb"
	"github.com/millrace-io/millrace/testenv/kinesis"
)

func TestMain(m *testing.M) {
	os.Unsetenv("AWS_CA_BUNDLE") // every client would read all of its certificates, for servers that speak plain HTTP
	goleak.VerifyTestMain(m)
}

// inProcess is the servers of testenv.
func inProcess(t *testing.T) (service, *kinesis.Server) {
	t.Helper()
	return inProcessWith(t, kinesis.Options{ShardPage: 3})
}

func inProcessWith(t *testing.T, o kinesis.Options) (service, *kinesis.Server) {
	t.Helper()
	streams, err := kinesis.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { streams.Close() })
	tables, err := dynamodb.Start(dynamodb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tables.Close() })
	return service{kinesis: streams.URL(), dynamodb: tables.URL(), trim: func(t *testing.T, l *log, i, n int) {
		streams.Trim(l.name, l.Partition(i), n)
		l.age(t)
	}}, streams
}

func TestSourceKeepsTheContract(t *testing.T) {
	s, _ := inProcess(t)
	sourcetest.Run(t, s.backend(3*time.Second))
}
