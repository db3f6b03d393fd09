//go:build real

package kinesis

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"

	"github.com/millrace-io/millrace/sinks/sinktest"
	server "github.com/millrace-io/millrace/testenv/kinesis"
	"github.com/millrace-io/millrace/testenv/npm"
)

// proxy stands before a server that has no faults of its own.
type proxy struct {
	next http.Handler

	mu     sync.Mutex
	faults []sinktest.Fault
}

func (p *proxy) fail(faults ...sinktest.Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = faults
}

func (p *proxy) fate(r *http.Request) (sinktest.Fault, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".PutRecords") || len(p.faults) == 0 {
		return 0, false
	}
	f := p.faults[0]
	p.faults = p.faults[1:]
	return f, true
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fault, ok := p.fate(r)
	switch {
	case !ok:
		p.next.ServeHTTP(w, r)
		return
	case fault == sinktest.Unavailable:
		panic(http.ErrAbortHandler)
	case fault == sinktest.LostAnswer:
		p.next.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	case fault == sinktest.Hang:
		_, _ = io.Copy(io.Discard, r.Body) // only at its end the server begins to notice that the client goes
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(http.StatusBadRequest) // Partial too: the proxy does not know the answer's form
	fmt.Fprint(w, `{"__type":"ProvisionedThroughputExceededException","message":"too busy"}`)
}

// proxied is a proxy before the server at address, and its URL.
func proxied(t *testing.T, address string) (*proxy, string) {
	t.Helper()
	to, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	through, transport := httputil.NewSingleHostReverseProxy(to), new(http.Transport)
	through.Transport = transport
	p := &proxy{next: through}
	s := httptest.NewServer(p)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
		transport.CloseIdleConnections()
	})
	return p, s.URL
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
				p, address := proxied(t, other.URL())
				environment(t, address)
				streams++
				cfg.Stream = fmt.Sprintf("out-%d", streams)
				client := newClient(t, address)
				if _, err := client.CreateStream(t.Context(), &kinesis.CreateStreamInput{StreamName: &cfg.Stream, ShardCount: aws.Int32(2)}); err != nil {
					t.Fatal(err)
				}
				if err := kinesis.NewStreamExistsWaiter(client, func(o *kinesis.StreamExistsWaiterOptions) {
					o.MinDelay, o.MaxDelay = 10*time.Millisecond, 50*time.Millisecond
				}).Wait(t.Context(), &kinesis.DescribeStreamInput{StreamName: &cfg.Stream}, time.Minute); err != nil {
					t.Fatal(err)
				}
				if err := newSink(t, cfg).Probe(t.Context()); err != nil {
					t.Fatal(err)
				}
				return backend(t, client, cfg, p.fail)
			})
		})
	}
}

func TestRealKinesaliteKeepsTheRulesOfAnUpsertSink(t *testing.T) { against(t, server.Kinesalite) }

func TestRealKinesisLocalKeepsTheRulesOfAnUpsertSink(t *testing.T) { against(t, server.Local) }
