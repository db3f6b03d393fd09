package kinesis

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
	server "github.com/millrace-io/millrace/testenv/kinesis"
	"github.com/millrace-io/millrace/testenv/network"
)

func TestTheServerInProcessLosesNothingOnABadNetwork(t *testing.T) {
	s := start(t, server.Options{})
	s.CreateStream("faulty", 3)
	s.CreateStream("calm", 3)
	losesNothing(t, s.URL(), "", Config{Aggregate: true, Columns: []string{"id", "user", "price"}, Timeout: 300 * time.Millisecond}, sinktest.Quick())
}

func TestAConnectionThatTheNetworkForgotIsNotUsedForEver(t *testing.T) {
	far := sinktest.NewHTTP2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Records []struct{} }
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, `{"Records":[%s{"SequenceNumber":"1","ShardId":"s"}]}`, strings.Repeat(`{"SequenceNumber":"1","ShardId":"s"},`, len(in.Records)-1))
	}))
	environment(t, far.URL)
	t.Setenv("AWS_CA_BUNDLE", far.CA)
	w, err := newSink(t, Config{Stream: "out", Timeout: 300 * time.Millisecond}).Writer(stream.Tenure{Partition: "p", Schema: newSchema(t)})
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

// losesNothing runs the suite for two streams of the server at url, whose names begin with prefix and end with faulty and calm.
func losesNothing(t *testing.T, url, prefix string, cfg Config, fs []network.Fault) {
	t.Helper()
	proxy := network.New(t, strings.TrimPrefix(url, "http://"))
	client := newClient(t, url)
	over := func(address, name string) sinktest.UpsertBackend {
		cfg := cfg
		cfg.Stream = name
		b := backend(t, client, cfg, nil)
		open := b.New
		b.New = func(t *testing.T, o stream.Ordering) stream.Upsert {
			environment(t, address)
			return open(t, o)
		}
		return b
	}
	sinktest.RunNetwork(t, sinktest.NetworkBackend{
		UpsertBackend: over("http://"+proxy.Addr, prefix+"faulty"), Calm: over(url, prefix+"calm"), Network: proxy, Faults: fs,
	})
}
