package kafka

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sources/sourcetest"
	"github.com/millrace-io/millrace/testenv/broker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// session is the shortest that a loaded machine keeps.
	session = 3 * time.Second

	// rebalance is shorter than session because of what kfake does otherwise than Kafka: see testenv/broker.
	rebalance = 2 * time.Second
)

func start(t *testing.T, o broker.Options) *broker.Broker {
	t.Helper()
	b, err := broker.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func TestSourceKeepsTheContract(t *testing.T) {
	sourcetest.Run(t, backend(start(t, broker.Options{}).Addr, session))
}
