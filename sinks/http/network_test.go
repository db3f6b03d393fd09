package http

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/sources/trust"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/network"
)

func TestAReceiverLosesNothingOnABadNetwork(t *testing.T) {
	losesNothing(t, Config{Columns: []string{"id", "user", "price"}, Requests: 8, Timeout: 300 * time.Millisecond}, sinktest.Quick())
}

func losesNothing(t *testing.T, cfg Config, fs []network.Fault) {
	t.Helper()
	faulty, calm := newReceiver(t), newReceiver(t)
	proxy := network.New(t, faulty.Listener.Addr().String())
	over := func(url string, v *receiver) sinktest.UpsertBackend {
		return sinktest.UpsertBackend{
			Schema: newSchema(t), Shape: sinktest.Identity, Contents: v.held,
			New: func(t *testing.T, _ stream.Ordering) stream.Upsert {
				return newSink(t, url, cfg)
			},
		}
	}
	sinktest.RunNetwork(t, sinktest.NetworkBackend{
		UpsertBackend: over("http://"+proxy.Addr, faulty), Calm: over(calm.URL, calm), Network: proxy, Faults: fs,
	})
}

func TestAConnectionThatTheNetworkForgotIsNotUsedForEver(t *testing.T) {
	v := newReceiver(t)
	far := sinktest.NewHTTP2(t, http.HandlerFunc(v.serve))
	s := newSink(t, far.URL, Config{TLS: &trust.TLS{CA: far.CA}, Timeout: 300 * time.Millisecond})
	w, err := s.Writer(stream.Tenure{Partition: "p", Schema: newSchema(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	far.Forgets(t, func(ctx context.Context) error {
		w.Write(sinktest.Events(newSchema(t))(0, 10))
		_, err := w.Flush(ctx)
		return err
	})
}
