//go:build real

package redis

import (
	"testing"
	"time"

	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/network"
)

func TestRealRedisLosesNothingOnABadNetwork(t *testing.T) {
	srv := startReal(t)
	net := network.New(t, srv.Addr)
	over := func(address, prefix string) sinktest.UpsertBackend {
		schema := newSchema(t)
		return sinktest.UpsertBackend{
			Schema: schema, Shape: sinktest.Keyed,
			New: func(t *testing.T, o stream.Ordering) stream.Upsert {
				s, err := New(Config{Addresses: []string{address}, Key: "user", Prefix: prefix, Timeout: 2 * time.Second}, Options{Name: "search", Schema: schema, Ordering: o})
				if err != nil {
					t.Fatal(err)
				}
				return s
			},
			Contents: func(t *testing.T) []sinktest.Held { return held(t, srv.Addr, prefix) },
		}
	}
	sinktest.RunNetwork(t, sinktest.NetworkBackend{
		UpsertBackend: over(net.Addr, "faulty:"), Calm: over(srv.Addr, "calm:"), Network: net,
		Restart: func(t *testing.T) {
			srv.Kill()
			if err := srv.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	})
}
