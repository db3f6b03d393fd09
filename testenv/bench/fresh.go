package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/millrace-io/millrace/testenv/opensearch"
)

// freshFile writes to a real node through the observer. The id is the event's own, so that the observer knows it.
const freshFile = `name: fresh
source:
  kafka: { brokers: ["%s"], topics: [clicks], start: earliest }
decode: { format: json }
sinks:
  lake: { parquet: { url: "s3://lake/clicks", partition_by: [date], roll: { size: 128MiB, age: 10s } } }
  search: { opensearch: { url: "%s", index: "clicks-{date}", alias: clicks, replicas: 0, id: event_id } }
dead_letters: { url: "s3://lake/dead" }
admin: %s
`

const (
	freshRate   = 2000 // events a second
	freshWarm   = 10 * time.Second
	freshLength = 30 * time.Second
	freshBar    = 500 * time.Millisecond
)

// fresh measures how long after its arrival at the broker an event is in OpenSearch.
func (o options) fresh(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"broker", "s3"} {
		if err := build(ctx, dir, name); err != nil {
			return err
		}
	}
	home := filepath.Join(dir, "node")
	if err := os.Mkdir(home, 0o777); err != nil {
		return err
	}
	node, err := opensearch.Start(ctx, opensearch.NodeOptions{Dir: home})
	if err != nil {
		return err
	}
	defer node.Kill()
	w := &observer{node: node.URL, sent: map[string]time.Time{}}
	at, err := w.listen()
	if err != nil {
		return err
	}
	p, err := o.startPipeline(ctx, dir, freshFile, at)
	if err != nil {
		return err
	}
	defer p.stop()
	began := time.Now()
	n, err := drip(ctx, p.broker, freshRate, uint64((freshWarm+freshLength).Seconds()*freshRate), w.departed)
	if err != nil {
		return err
	}
	for end := time.Now().Add(time.Minute); w.missing() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) || p.over() {
			return fmt.Errorf("%d of %d events are not acknowledged", w.missing(), n)
		}
	}
	load := loadAverage()
	if err := p.end(); err != nil {
		return err
	}
	w.looks.Wait()
	if w.failed != nil {
		return w.failed
	}
	first, then := split(w.acked, began.Add(freshWarm))
	_, found := split(w.found, began.Add(freshWarm))
	fmt.Printf("%-41s %8s %9s %9s %9s %9s\n", "fresh", "events", "p50", "p99", "most", "bar (p99)")
	row := func(name string, all []time.Duration, bar string) {
		fmt.Printf("%-41s %8d %9s %9s %9s %9s\n", name, len(all), rounded(all, 50), rounded(all, 99), rounded(all, 100), bar)
	}
	row("acknowledged", then, freshBar.String())
	row("found by id, the oldest of each request", found, freshBar.String())
	row("first 10 s: cold node, new index", first, "")
	fmt.Println("load average:", load)
	return os.WriteFile(o.plot, freshPlot(then), 0o666)
}

// loadAverage is of the last minute: how busy the machine is, with what is measured and with all else.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "not known"
	}
	last, _, _ := strings.Cut(string(text), " ")
	return last
}

func rounded(ds []time.Duration, p int) time.Duration {
	return percentile(ds, p).Round(time.Millisecond)
}

// observer is a proxy before OpenSearch that notes when the answer to each write passed.
type observer struct {
	node string

	mu     sync.Mutex
	looks  sync.WaitGroup
	sent   map[string]time.Time // of events that are not acknowledged, by id
	acked  []passage
	found  []passage // of the first event of each request: until a read by its id, which needs no refresh, has found it
	failed error
}

// passage is one event's.
type passage struct {
	sent time.Time
	took time.Duration
}

func (w *observer) listen() (string, error) {
	to, err := url.Parse(w.node)
	if err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	behind := httputil.NewSingleHostReverseProxy(to)
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/_bulk" {
			behind.ServeHTTP(rw, r)
			return
		}
		w.bulk(rw, r, behind)
	})}
	go func() { _ = server.Serve(l) }() // ends with the process
	return "http://" + l.Addr().String(), nil
}

// bulk passes a request on. What its items are is read before, and the time taken when the whole answer is here.
func (w *observer) bulk(rw http.ResponseWriter, r *http.Request, behind http.Handler) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	kept := &keeping{ResponseWriter: rw, status: http.StatusOK}
	behind.ServeHTTP(kept, r)
	now := time.Now()
	if kept.status != http.StatusOK || !bytes.HasPrefix(kept.body, []byte(`{"errors":false`)) {
		w.fail(fmt.Errorf("bulk: %d %.300s", kept.status, kept.body))
		return
	}
	index, id, sent := "", "", time.Time{}
	w.mu.Lock()
	for i, line := range bytes.Split(bytes.TrimSuffix(body, []byte("\n")), []byte("\n")) {
		if i%2 == 1 {
			continue
		}
		var action map[string]struct {
			Index string `json:"_index"`
			ID    string `json:"_id"`
		}
		if json.Unmarshal(line, &action) != nil {
			continue
		}
		for _, a := range action {
			when, ok := w.sent[a.ID]
			if !ok {
				continue // a repeat
			}
			delete(w.sent, a.ID)
			w.acked = append(w.acked, passage{when, now.Sub(when)})
			if id == "" {
				index, id, sent = a.Index, a.ID, when
			}
		}
	}
	w.mu.Unlock()
	if id != "" {
		w.looks.Go(func() { w.look(index, id, sent) })
	}
}

// look reads a document by its id, once: what is acknowledged has to be there.
func (w *observer) look(index, id string, sent time.Time) {
	answer, err := http.Get(fmt.Sprintf("%s/%s/_doc/%s?realtime=true&_source=false", w.node, index, url.PathEscape(id)))
	if err != nil {
		w.fail(err)
		return
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || !bytes.Contains(text, []byte(`"found":true`)) {
		w.fail(fmt.Errorf("%s is acknowledged and not found: %s %w", id, text, err))
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.found = append(w.found, passage{sent, time.Since(sent)})
}

func (w *observer) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = errors.Join(w.failed, err)
}

func (w *observer) departed(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent[id] = time.Now()
}

func (w *observer) missing() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.sent)
}

// split is how long events took that were sent before a time, and after it.
func split(all []passage, at time.Time) (before, after []time.Duration) {
	for _, p := range all {
		if p.sent.Before(at) {
			before = append(before, p.took)
		} else {
			after = append(after, p.took)
		}
	}
	return before, after
}

// keeping passes an answer on and keeps a copy.
type keeping struct {
	http.ResponseWriter
	status int
	body   []byte
}

func (k *keeping) WriteHeader(status int) {
	k.status = status
	k.ResponseWriter.WriteHeader(status)
}

func (k *keeping) Write(b []byte) (int, error) {
	k.body = append(k.body, b...)
	return k.ResponseWriter.Write(b)
}

// running is millrace with a broker and a store of its own, and OpenSearch at an address that somebody else serves.
type running struct {
	broker, admin string
	cmd           *exec.Cmd
	servers       []*exec.Cmd
	ended         chan struct{} // closed when millrace has ended
	err           error         // how; set before
}

func (o options) startPipeline(ctx context.Context, dir, text, search string) (*running, error) {
	p := &running{ended: make(chan struct{})}
	broker, addr, err := start(ctx, filepath.Join(dir, "broker"), "-topic", "clicks", "-partitions", "4")
	if err != nil {
		return nil, err
	}
	p.servers, p.broker = append(p.servers, broker), addr
	store, at, err := start(ctx, filepath.Join(dir, "s3"), "-dir", filepath.Join(dir, "objects"))
	if err != nil {
		p.stop()
		return nil, err
	}
	p.servers = append(p.servers, store)
	if p.admin, err = freeAddress(ctx); err != nil {
		p.stop()
		return nil, err
	}
	file := filepath.Join(dir, "pipeline.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, text, addr, search, p.admin), 0o666); err != nil {
		p.stop()
		return nil, err
	}
	cmd := exec.CommandContext(ctx, o.millrace, "run", "--setup", "--log-level", o.level, file)
	cmd.Stderr, cmd.Env = os.Stderr, append(os.Environ(), storeEnv(at)...)
	if err := cmd.Start(); err != nil {
		p.stop()
		return nil, err
	}
	p.cmd = cmd
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return p, p.ready(ctx)
}

// ready returns when millrace owns all partitions.
func (p *running) ready(ctx context.Context) error {
	for range 600 {
		if _, err := get(ctx, "http://"+p.admin+"/readyz"); err == nil {
			return nil
		}
		if p.over() {
			return fmt.Errorf("millrace ended: %w", p.err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	p.stop()
	return errors.New("millrace is not ready")
}

func (p *running) over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// end ends millrace as an operator does.
func (p *running) end() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // to one that may have ended
	<-p.ended
	return p.err
}

// stop ends everything.
func (p *running) stop() {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
	for _, s := range p.servers {
		stop(s)
	}
}
