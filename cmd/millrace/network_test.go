package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace-io/millrace/testenv/nats"
	"github.com/millrace-io/millrace/testenv/network"
)

// Mutations seen red:
//   - admin.go, readyz passes over a source that fails; over sinks that do
//   - metrics.go, source_failing_seconds is always 0
//   - sources/nats, Failing says nothing
//   - sources/lease, a lease that is not renewed is kept

// hook receives events and drops those that it has.
type hook struct {
	*httptest.Server
	mu     sync.Mutex
	events map[string]bool
	late   bool
	grown  *sync.Cond
}

func newHook(t *testing.T) *hook {
	h := &hook{events: map[string]bool{}}
	h.grown = sync.NewCond(&h.mu)
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var events []struct {
		ID string `json:"event_id"`
	}
	if r.Method == http.MethodPost && json.NewDecoder(r.Body).Decode(&events) != nil {
		w.WriteHeader(http.StatusBadRequest)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range events {
		h.events[e.ID] = true
	}
	h.grown.Broadcast()
}

// has waits until there are n events.
func (h *hook) has(t *testing.T, n int) {
	t.Helper()
	end := time.AfterFunc(patience, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.late = true
		h.grown.Broadcast()
	})
	defer end.Stop()
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.events) < n {
		if h.late {
			t.Fatalf("%d of %d events arrive", len(h.events), n)
		}
		h.grown.Wait()
	}
}

// Operators are told which side of a pipeline the network has cut off, and why; when it is back, nothing is missing.
func TestReadinessAndMetricsTellWhoIsCutOff(t *testing.T) {
	s, err := nats.Start(nats.Options{Dir: t.TempDir(), Sync: nats.SyncLater})
	must(t, err)
	t.Cleanup(s.Close)
	nc, err := client.Connect(s.URL())
	must(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	must(t, err)
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "CLICKS", Subjects: []string{"clicks"}})
	must(t, err)
	h, published := newHook(t), 0
	publish := func() {
		t.Helper()
		for range 20 {
			_, err := js.Publish(t.Context(), "clicks", fmt.Appendf(nil, `{"event_id":"%d","event_type":"click","event_time":"2026-01-02T03:04:05Z"}`, published))
			must(t, err)
			published++
		}
	}
	source, sink := network.New(t, strings.TrimPrefix(s.URL(), "nats://")), network.New(t, h.Listener.Addr().String())
	l := newLake(t)
	p := start(t, "run", l.write("clicks.yaml", fmt.Sprintf(`name: clicks
source:
  nats: { url: "nats://%s", stream: CLICKS, lease: 600ms }
sinks:
  hook:
    http: { url: "http://%s", delay: 10ms, timeout: 300ms }
dead_letters: { url: "%s/dead" }
admin: 127.0.0.1:0
`, source.Addr, sink.Addr, l.dir)))
	admin := p.await(`msg="admin server listens" address=(\S+)`)[1]
	const ready = `\Aready: 1 partitions\n\z`
	publish()
	h.has(t, published)
	p.eventually(admin, "/readyz", ready)

	sink.Set(network.HalfOpen)
	publish()
	p.eventually(admin, "/readyz", `\Aready: 1 partitions\nsink hook fails since \S+, \d+ writes wait: no answer within 300ms: .*\n\z`)
	p.eventually(admin, "/metrics", `(?s)millrace_sink_failing_seconds\{pipeline="clicks",sink="hook"\} [^0].*millrace_source_failing_seconds\{pipeline="clicks"\} 0\n`)
	sink.Set(network.Healthy)
	h.has(t, published)
	p.eventually(admin, "/readyz", ready)

	source.Set(network.Silent)
	publish()
	p.eventually(admin, "/readyz", `\Ano partition is assigned to this process\nthe source fails since \S+: .*no answer in time: .*\n\z`)
	p.eventually(admin, "/metrics", `(?s)millrace_sink_failing_seconds\{pipeline="clicks",sink="hook"\} 0\n.*millrace_source_failing_seconds\{pipeline="clicks"\} [^0]`)
	source.Set(network.Healthy)
	h.has(t, published)
	p.eventually(admin, "/readyz", ready)

	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 0 {
		t.Errorf("exit code %d\n%s", code, p.log.String())
	}
}
