package nats

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sources/sourcetest"
	server "github.com/millrace-io/millrace/testenv/nats"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, o server.Options) *server.Server {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := server.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestSourceKeepsTheContract(t *testing.T) {
	sourcetest.Run(t, backend(start(t, server.Options{Sync: server.SyncLater}).URL(), 1500*time.Millisecond))
}
