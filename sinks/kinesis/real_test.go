//go:build real

package kinesis

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"

	"github.com/millrace-io/millrace/sinks/sinktest"
	server "github.com/millrace-io/millrace/testenv/kinesis"
	"github.com/millrace-io/millrace/testenv/npm"
)

// create makes a stream of two shards.
func create(t *testing.T, client *kinesis.Client, name string) {
	t.Helper()
	if _, err := client.CreateStream(t.Context(), &kinesis.CreateStreamInput{StreamName: &name, ShardCount: aws.Int32(2)}); err != nil {
		t.Fatal(err)
	}
	if err := kinesis.NewStreamExistsWaiter(client, func(o *kinesis.StreamExistsWaiterOptions) {
		o.MinDelay, o.MaxDelay = 10*time.Millisecond, 50*time.Millisecond
	}).Wait(t.Context(), &kinesis.DescribeStreamInput{StreamName: &name}, time.Minute); err != nil {
		t.Fatal(err)
	}
}

// against runs the suite on another's server, a stream for each rule.
func against(t *testing.T, start func() (*npm.Server, error)) {
	other, err := start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	})
	streams := 0
	for name, cfg := range map[string]Config{"plain": {}, "aggregate": {Aggregate: true}} {
		t.Run(name, func(t *testing.T) {
			sinktest.RunUpsert(t, func(t *testing.T) sinktest.UpsertBackend {
				p := sinktest.NewProxy(t, other.URL())
				p.Writes = func(r *http.Request) bool { return strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".PutRecords") }
				p.Busy = func(w http.ResponseWriter, _ *http.Request, _ bool, _ http.Handler) {
					w.WriteHeader(http.StatusBadRequest)
					fmt.Fprint(w, `{"__type":"ProvisionedThroughputExceededException","message":"too busy"}`)
				}
				environment(t, p.URL)
				streams++
				cfg.Stream = fmt.Sprintf("out-%d", streams)
				client := newClient(t, other.URL()) // readers have no part in the faults
				create(t, client, cfg.Stream)
				if err := newSink(t, cfg).Probe(t.Context()); err != nil {
					t.Fatal(err)
				}
				return backend(t, client, cfg, p.Set)
			})
		})
	}
}

func TestRealKinesaliteKeepsTheRulesOfAnUpsertSink(t *testing.T) { against(t, server.Kinesalite) }

func TestRealKinesaliteLosesNothingOnABadNetwork(t *testing.T) {
	s, err := server.Kinesalite()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	for name, cfg := range map[string]Config{"plain": {}, "aggregate": {Aggregate: true}} {
		t.Run(name, func(t *testing.T) {
			cfg.Timeout = 2 * time.Second
			client := newClient(t, s.URL())
			for _, stream := range []string{"faulty", "calm"} {
				create(t, client, name+stream)
			}
			losesNothing(t, s.URL(), name, cfg, nil)
		})
	}
}

func TestRealKinesisLocalKeepsTheRulesOfAnUpsertSink(t *testing.T) { against(t, server.Local) }
