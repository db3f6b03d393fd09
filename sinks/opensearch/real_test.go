//go:build real

package opensearch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/sources/trust"
	"github.com/millrace-io/millrace/stream"
	standin "github.com/millrace-io/millrace/testenv/opensearch"
)

// everySecond sends half of the items on, and answers for the others as a node does whose queue is full.
func everySecond(w http.ResponseWriter, r *http.Request, node http.Handler) {
	body, _ := io.ReadAll(r.Body)
	lines := bytes.SplitAfter(body, []byte("\n"))
	var sent []byte
	n := 0
	for i := 0; i+1 < len(lines); i += 2 { // each of the sink's writes has two lines
		if n%2 == 0 {
			sent = append(append(sent, lines[i]...), lines[i+1]...)
		}
		n++
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(sent)), int64(len(sent))
	record := httptest.NewRecorder()
	node.ServeHTTP(record, r)
	var answer struct {
		Items []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(record.Body.Bytes(), &answer); err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	var items []json.RawMessage
	for i := range n {
		if i%2 == 0 && i/2 < len(answer.Items) {
			items = append(items, answer.Items[i/2])
		} else {
			items = append(items, json.RawMessage(`{"index":{"status":429,"error":{"type":"rejected_execution_exception","reason":"queue full"}}}`))
		}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": true, "items": items})
}

func start(t *testing.T, o standin.NodeOptions) *standin.Node {
	t.Helper()
	o.Dir = t.TempDir()
	n, err := standin.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Stop)
	return n
}

func TestRealOpenSearchKeepsTheRulesOfAnUpsertSink(t *testing.T) {
	node := start(t, standin.NodeOptions{})
	places := new(atomic.Int64)
	for name, s := range shapes() {
		t.Run(name, func(t *testing.T) {
			sinktest.RunUpsert(t, func(t *testing.T) sinktest.UpsertBackend {
				p := sinktest.NewProxy(t, node.URL)
				p.Writes = func(r *http.Request) bool { return r.URL.Path == "/_bulk" }
				p.Busy = func(w http.ResponseWriter, r *http.Request, all bool, node http.Handler) {
					if !all {
						everySecond(w, r, node)
						return
					}
					http.Error(w, `{"error":{"type":"rejected_execution_exception","reason":"too busy"},"status":429}`, http.StatusTooManyRequests)
				}
				cfg, n := s.cfg, places.Add(1)
				cfg.URL, cfg.Index = p.URL, fmt.Sprintf("r%d-%s", n, cfg.Index)
				if cfg.Alias != "" {
					cfg.Alias = fmt.Sprintf("r%d", n)
				}
				return backend(t, cfg, s.short, s.shape, p.Set)
			})
		})
	}
}

func TestRealOpenSearchMendsTheFirstEventOfAnID(t *testing.T) {
	mendsTheFirst(t, start(t, standin.NodeOptions{}).URL)
}

func TestRealOpenSearchWithSecurity(t *testing.T) {
	node := start(t, standin.NodeOptions{Security: true})
	cfg := Config{URL: node.URL, TLS: &trust.TLS{CA: node.CA}, User: standin.User, Password: standin.Password, Index: "clicks-{date}", Alias: "clicks"}
	s := open(t, cfg, Options{})
	w := writer(t, s, "p")
	w.Write(sinktest.Events(s.o.Schema)(0, 500))
	if dead, err := flush(t, w, time.Minute); err != nil || len(dead) > 0 {
		t.Fatal(dead, err)
	}
	if err := s.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	if n := len(held(t, s)); n != 500 {
		t.Errorf("%d documents; want 500", n)
	}
	for user, want := range map[string]string{"admin": "check user and password", standin.ReadOnlyUser: "allow indices:data/write"} {
		wrong := cfg
		wrong.User, wrong.Password = user, "wrong"
		if user == standin.ReadOnlyUser {
			wrong.Password = standin.ReadOnlyPassword
		}
		o, err := New(wrong, s.o)
		if err != nil {
			t.Fatal(err)
		}
		v := writer(t, o, "p")
		v.Write(sinktest.Events(s.o.Schema)(500, 1))
		_, err = flush(t, v, 30*time.Second)
		if fatal := (*stream.FatalError)(nil); !errors.As(err, &fatal) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want a FatalError with %q", user, err, want)
		}
		v.Close()
		o.Idle()
	}
	untrusted := cfg
	untrusted.TLS = nil
	o, err := New(untrusted, s.o)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a server whose certificate nobody signed: %v", err)
	}
}

func TestRealOpenSearchIsKilledInTheMiddleOfBulks(t *testing.T) {
	node := start(t, standin.NodeOptions{Settings: []string{"http.max_content_length=300kb"}})
	s := open(t, Config{URL: node.URL, Index: "clicks-{date}", Alias: "clicks"}, Options{})
	w := writer(t, s, "p")
	for round := range uint64(2) {
		written := s.Stats().Written
		for i := range uint64(10) {
			w.Write(sinktest.Events(s.o.Schema)((round*10+i)*500, 500))
		}
		for s.Stats().Written == written { // some are there, others are under way
			time.Sleep(time.Millisecond)
		}
		node.Kill()
		if dead, err := flush(t, w, time.Second); err == nil || len(dead) > 0 {
			t.Logf("all was written before the kill: %v", err)
		}
		if err := node.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if dead, err := flush(t, w, time.Minute); err != nil || len(dead) > 0 {
			t.Fatal(dead, err)
		}
	}
	if n := len(held(t, s)); n != 10_000 {
		t.Errorf("%d documents; want 10,000", n)
	}
}

func TestRealOpenSearchFullMappingAndWatermark(t *testing.T) {
	node := start(t, standin.NodeOptions{})
	s := open(t, Config{URL: node.URL, Index: "clicks-{date}", Alias: "clicks"}, Options{})
	// Somebody's own template, which lets the mapping grow up to a limit.
	_, err := s.ask(t.Context(), http.MethodPut, "/_index_template/"+s.templateName(), []byte(`{"index_patterns":["clicks-*"],"priority":200,"template":{"aliases":{"clicks":{}},"settings":{"index.mapping.total_fields.limit":5}}}`))
	if err != nil {
		t.Fatal(err)
	}
	w := writer(t, s, "p")
	w.Write(event(s.o.Schema, 0, nil))
	dead, err := flush(t, w, time.Minute)
	if err != nil || len(dead) != 1 || !strings.Contains(dead[0].Err, "Limit of total fields [5]") {
		t.Fatalf("%+v, %v; want a dead letter that names the limit", dead, err)
	}
	if err := s.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "has no field _partition") {
		t.Errorf("probe returns %v", err)
	}
	for _, path := range []string{"/clicks-2026-03-02"} {
		_, _ = s.ask(t.Context(), http.MethodDelete, path, nil)
	}
	if err := s.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Write(event(s.o.Schema, 1, nil))
	if dead, err := flush(t, w, time.Minute); err != nil || len(dead) > 0 {
		t.Fatal(dead, err)
	}
	if _, err := s.ask(t.Context(), http.MethodPut, "/clicks-*/_settings", []byte(`{"index.blocks.read_only_allow_delete":true}`)); err != nil {
		t.Fatal(err)
	}
	w.Write(event(s.o.Schema, 2, nil))
	if dead, err := flush(t, w, 500*time.Millisecond); err == nil || len(dead) > 0 || !strings.Contains(err.Error(), "free disk space") {
		t.Fatalf("%v, %v; want an error that says what to do, and nothing lost", dead, err)
	}
	if _, err := s.ask(t.Context(), http.MethodPut, "/clicks-*/_settings", []byte(`{"index.blocks.read_only_allow_delete":null}`)); err != nil {
		t.Fatal(err)
	}
	if dead, err := flush(t, w, time.Minute); err != nil || len(dead) > 0 {
		t.Fatal(dead, err)
	}
}
