//go:build real

package kinesis

import (
	"io"
	"testing"
	"time"

	"github.com/millrace-io/millrace/sources/sourcetest"
	"github.com/millrace-io/millrace/testenv/dynamodb"
	"github.com/millrace-io/millrace/testenv/kinesis"
	"github.com/millrace-io/millrace/testenv/npm"
)

// standIn starts one of the servers that are not ours.
func standIn(t *testing.T, start func() (*npm.Server, error)) string {
	t.Helper()
	s, err := start()
	if err != nil {
		t.Fatal(err)
	}
	closing(t, s)
	return s.URL()
}

func closing(t *testing.T, c io.Closer) {
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestRealContractOnKinesalite(t *testing.T) {
	s := service{kinesis: standIn(t, kinesis.Kinesalite), dynamodb: standIn(t, dynamodb.Dynalite)}
	t.Run("table", func(t *testing.T) { writesOnlyOverWhatIsKnown(t, newLog(t, s, 3*time.Second, 1)) })
	sourcetest.Run(t, s.backend(3*time.Second))
}

func TestRealContractOnKinesisLocal(t *testing.T) {
	s := service{kinesis: standIn(t, kinesis.Local), dynamodb: standIn(t, dynamodb.Dynalite)}
	s.features = func(f *sourcetest.Features) { f.Remote = false } // the program ends when a connection is reset
	sourcetest.Run(t, s.backend(3*time.Second))
}
