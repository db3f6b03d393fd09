package http

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/sources/trust"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/network"
)

func TestAReceiverLosesNothingOnABadNetwork(t *testing.T) {
	faulty, calm := newReceiver(t), newReceiver(t)
	proxy := network.New(t, faulty.Listener.Addr().String())
	over := func(url string, v *receiver) sinktest.UpsertBackend {
		return sinktest.UpsertBackend{
			Schema: newSchema(t), Shape: sinktest.Identity, Contents: v.held,
			New: func(t *testing.T, _ stream.Ordering) stream.Upsert {
				return newSink(t, url, Config{Columns: []string{"id", "user", "price"}, Requests: 8, Timeout: 600 * time.Millisecond})
			},
		}
	}
	sinktest.RunNetwork(t, sinktest.NetworkBackend{
		UpsertBackend: over("http://"+proxy.Addr, faulty), Calm: over(calm.URL, calm), Network: proxy,
	})
}

// By HTTP/2 all requests have one connection, and a request that is given up leaves it as it is.
func TestAConnectionThatTheNetworkForgotIsNotUsedForEver(t *testing.T) {
	v := newUnstarted(t)
	v.EnableHTTP2 = true
	v.StartTLS()
	proxy := network.New(t, v.Listener.Addr().String())
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: v.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSink(t, "https://"+proxy.Addr, Config{TLS: &trust.TLS{CA: ca}, Timeout: 300 * time.Millisecond})
	other, err := s.Writer(stream.Tenure{Partition: "other", Schema: newSchema(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close() // while it is there, the sink keeps its connections
	for _, f := range []network.Fault{network.Healthy, network.Forgotten} {
		proxy.Set(f)
		if dead, err := write(t, s, 10, nothing); err != nil || len(dead) > 0 {
			t.Fatalf("%s: %d dead letters, %v", f, len(dead), err)
		}
	}
}
