//go:build real

package dynamodb

import (
	"net/url"
	"testing"
	"time"

	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
	server "github.com/millrace-io/millrace/testenv/dynamodb"
	"github.com/millrace-io/millrace/testenv/network"
)

func TestRealDynaliteLosesNothingOnABadNetwork(t *testing.T) {
	s, err := server.Dynalite()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	where, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	proxy := network.New(t, where.Host)
	environment(t, map[string]string{"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "localsecret"})
	for name, shape := range shapes() {
		t.Run(name, func(t *testing.T) {
			over := func(address, table string) sinktest.UpsertBackend {
				b := backend(t, table, shape.key, shape.shape, nil)
				at := func(t *testing.T, address string, o stream.Ordering) *Sink {
					t.Setenv("AWS_ENDPOINT_URL_DYNAMODB", "http://"+address)
					return open(t, Config{Table: table, Key: shape.key, Timeout: 2 * time.Second}, Options{Schema: b.Schema, Ordering: o})
				}
				b.New = func(t *testing.T, o stream.Ordering) stream.Upsert { return at(t, address, o) }
				b.Contents = func(t *testing.T) []sinktest.Held { return held(t, at(t, where.Host, stream.ByPosition)) }
				return b
			}
			sinktest.RunNetwork(t, sinktest.NetworkBackend{
				UpsertBackend: over(proxy.Addr, "faulty-"+name), Calm: over(where.Host, "calm-"+name), Network: proxy,
			})
		})
	}
}
