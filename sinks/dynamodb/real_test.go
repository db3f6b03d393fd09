//go:build real

package dynamodb

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/millrace-io/millrace/sinks/sinktest"
	server "github.com/millrace-io/millrace/testenv/dynamodb"
)

// proxy stands before a server that has no faults of its own.
type proxy struct {
	next http.Handler

	mu     sync.Mutex
	faults []sinktest.Fault
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	operation := r.Header.Get("X-Amz-Target")
	p.mu.Lock()
	if !strings.HasSuffix(operation, ".PutItem") && !strings.HasSuffix(operation, ".BatchWriteItem") || len(p.faults) == 0 {
		p.mu.Unlock()
		p.next.ServeHTTP(w, r)
		return
	}
	f := p.faults[0]
	p.faults = p.faults[1:]
	p.mu.Unlock()
	switch f {
	case sinktest.Unavailable:
		panic(http.ErrAbortHandler)
	case sinktest.LostAnswer:
		p.next.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	case sinktest.Hang:
		_, _ = io.Copy(io.Discard, r.Body) // only at its end the server begins to notice that the client goes
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(http.StatusBadRequest)
	fmt.Fprint(w, `{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException","message":"too busy"}`)
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

// against runs the suite on another's server, a table for each rule.
func against(t *testing.T, address string) {
	tables := new(atomic.Int64)
	for name, s := range shapes() {
		t.Run(name, func(t *testing.T) {
			sinktest.RunUpsert(t, func(t *testing.T) sinktest.UpsertBackend {
				p, address := proxied(t, address)
				environment(t, map[string]string{
					"AWS_ENDPOINT_URL_DYNAMODB": address, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "localsecret",
				})
				return backend(t, fmt.Sprintf("profiles-%d", tables.Add(1)), s.key, s.shape, func(faults ...sinktest.Fault) {
					p.mu.Lock()
					defer p.mu.Unlock()
					p.faults = faults
				})
			})
		})
	}
}

func TestRealDynaliteKeepsTheRulesOfAnUpsertSink(t *testing.T) {
	s, err := server.Dynalite()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	against(t, s.URL())
}

// TestRealDynamoDBLocalKeepsTheRulesOfAnUpsertSink runs only where somebody who has accepted Amazon's licence started DynamoDB Local
// and set MILLRACE_DYNAMODB_LOCAL to its URL; it is never fetched or started here.
func TestRealDynamoDBLocalKeepsTheRulesOfAnUpsertSink(t *testing.T) {
	if address := os.Getenv("MILLRACE_DYNAMODB_LOCAL"); address != "" {
		against(t, address)
	}
}
