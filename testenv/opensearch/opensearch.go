// Package opensearch is OpenSearch for tests and for `millrace dev`: Serve is an honest stand-in in this process for the
// part of the protocol that a stream writes and a dashboard reads; Start (node.go) is a real node. script_test.go asks both
// the same questions and wants the same answers.
//
// The stand-in keeps everything in memory. It knows bulk writes with all their outcomes, external versions, templates,
// mappings with the types that the sink uses, aliases, simple queries and aggregations, and no analysis: a text field is a
// keyword. A written document is found at once, where a real node wants a refresh.
package opensearch

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options of a stand-in. The zero value is an open server without faults.
type Options struct {
	// Users are passwords by name; none: nobody has to say who they are. ReadOnly names those who may not write.
	Users    map[string]string
	ReadOnly map[string]bool

	// TLS makes the server speak HTTPS.
	TLS *tls.Config

	// MaxBody is the most bytes of a request's body as it is sent, http.max_content_length; default 100 MiB.
	MaxBody int64

	// Scripts are update scripts by their source, since painless does not run here: they change source or return "none".
	Scripts map[string]func(source, params map[string]any) (op string)

	// ISM: the index management plugin is there, and keeps policies.
	ISM bool
}

// Fault is what happens to one bulk request.
type Fault int

const (
	Refuse503   Fault = iota + 1 // 503, no effect
	Refuse429                    // 429 for all of it, no effect
	LostAnswer                   // it has its effect, and the connection ends
	Reset                        // the connection ends before it has an effect
	EverySecond                  // 429 for every second item
	Hang                         // no answer until the client goes away; no effect
)

// Server is a running stand-in.
type Server struct {
	o        Options
	listener net.Listener
	http     *http.Server
	served   sync.WaitGroup

	mu        sync.Mutex
	indices   map[string]*index
	templates map[string]*template
	streams   map[string][]string // data streams: their backing indices
	kept      map[string]json.RawMessage
	faults    []Fault
	counts    Counts
	seq       int64
}

// Counts are what a server was asked.
type Counts struct {
	Bulks, Items int
}

// Serve starts a stand-in on a free port of 127.0.0.1.
func Serve(ctx context.Context, o Options) (*Server, error) {
	if o.MaxBody == 0 {
		o.MaxBody = 100 << 20
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{
		o: o, listener: l, indices: map[string]*index{}, templates: map[string]*template{}, streams: map[string][]string{},
		kept: map[string]json.RawMessage{},
	}
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, TLSConfig: o.TLS}
	s.served.Go(func() {
		if o.TLS != nil {
			_ = s.http.ServeTLS(l, "", "") // ends with Close
		} else {
			_ = s.http.Serve(l)
		}
	})
	return s, nil
}

// URL is where it listens.
func (s *Server) URL() string {
	if s.o.TLS != nil {
		return "https://" + s.listener.Addr().String()
	}
	return "http://" + s.listener.Addr().String()
}

// Close ends the server and its connections.
func (s *Server) Close() {
	_ = s.http.Close() // of sockets that nobody waits for
	s.served.Wait()
}

// Fail sets the fates of the next bulk requests.
func (s *Server) Fail(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = slices.Clone(faults)
}

// Counts is what the server was asked so far.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

func (s *Server) nextFault() Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.faults) == 0 {
		return 0
	}
	f := s.faults[0]
	s.faults = s.faults[1:]
	return f
}

// problem is an error as OpenSearch says it.
type problem struct {
	status int
	kind   string
	reason string
	cause  *problem
}

func (p *problem) body() map[string]any {
	b := map[string]any{"type": p.kind, "reason": p.reason}
	if p.cause != nil {
		b["caused_by"] = p.cause.body()
	}
	return b
}

func (p *problem) Error() string { return p.kind + ": " + p.reason }

func problemf(status int, kind, format string, args ...any) *problem {
	return &problem{status: status, kind: kind, reason: fmt.Sprintf(format, args...)}
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, ok := s.allowed(r)
	if !ok {
		w.Header().Set("WWW-Authenticate", `Basic realm="OpenSearch Security"`)
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	body, status, err := s.body(r)
	if status == http.StatusRequestEntityTooLarge { // as the real one: no word, and the connection ends
		w.Header().Set("Connection", "close")
		w.WriteHeader(status)
		return
	}
	if err != nil {
		answer(w, nil, problemf(http.StatusBadRequest, "parse_exception", "%s", err))
		return
	}
	path := strings.Split(strings.Trim(r.URL.EscapedPath(), "/"), "/")
	for i, element := range path {
		if plain, err := url.PathUnescape(element); err == nil { // an id may have slashes
			path[i] = plain
		}
	}
	if path[len(path)-1] == "_bulk" && r.Method != http.MethodGet {
		s.serveBulk(w, r, path, body, user)
		return
	}
	s.mu.Lock()
	out, p := s.route(r, path, body)
	s.mu.Unlock()
	answer(w, out, p)
}

func (s *Server) allowed(r *http.Request) (string, bool) {
	if len(s.o.Users) == 0 {
		return "", true
	}
	user, password, ok := r.BasicAuth()
	want, known := s.o.Users[user]
	return user, ok && known && want == password
}

// body reads and unpacks a request's body.
func (s *Server) body(r *http.Request) ([]byte, int, error) {
	raw, err := io.ReadAll(io.LimitReader(r.Body, s.o.MaxBody+1))
	if err != nil {
		return nil, 0, err
	}
	if int64(len(raw)) > s.o.MaxBody {
		return nil, http.StatusRequestEntityTooLarge, errors.New("too large")
	}
	if r.Header.Get("Content-Encoding") != "gzip" {
		return raw, 0, nil
	}
	z, err := gzip.NewReader(strings.NewReader(string(raw)))
	if err != nil {
		return nil, 0, err
	}
	raw, err = io.ReadAll(z)
	return raw, 0, err
}

// answer writes out, or what is wrong.
func answer(w http.ResponseWriter, out any, p *problem) {
	status := http.StatusOK
	if p != nil {
		status = p.status
		cause := p.body()
		out = map[string]any{"error": map[string]any{"root_cause": []any{cause}, "type": p.kind, "reason": p.reason}, "status": p.status}
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	if text, ok := out.([]byte); ok {
		_, _ = w.Write(text)
		return
	}
	_ = json.NewEncoder(w).Encode(out) // to a client that may be gone
}

// route answers all but bulk requests, under the lock.
func (s *Server) route(r *http.Request, path []string, body []byte) (any, *problem) {
	last := path[len(path)-1]
	switch {
	case r.URL.Path == "/":
		return map[string]any{"version": map[string]any{"distribution": "opensearch", "number": "3.4.0"}, "tagline": "a stand-in for tests"}, nil
	case path[0] == "_cluster" && last == "health":
		return map[string]any{"status": "green", "timed_out": false}, nil
	case path[0] == "_index_template" && len(path) == 2:
		return s.routeTemplate(r.Method, path[1], body)
	case path[0] == "_data_stream" && len(path) == 2:
		return s.routeStream(r.Method, path[1])
	case path[0] == "_plugins" && len(path) == 4 && path[1] == "_ism":
		return s.routePolicy(r, path[3], body)
	case last == "_refresh":
		return map[string]any{"_shards": map[string]any{"failed": 0}}, nil
	case last == "_count":
		return s.count(path, body)
	case last == "_search":
		return s.search(path, body)
	case len(path) == 2 && last == "_alias":
		return s.routeAlias(path[0])
	case len(path) == 2 && last == "_mapping":
		return s.routeMapping(path[0])
	case len(path) == 2 && last == "_settings" && r.Method == http.MethodPut:
		return s.routeSettings(path[0], body)
	case len(path) == 3 && path[1] == "_doc":
		return s.routeDocument(r.Method, path[0], path[2], body)
	case len(path) == 1 && !strings.HasPrefix(path[0], "_"):
		return s.routeIndex(r.Method, path[0], body)
	}
	return nil, problemf(http.StatusBadRequest, "illegal_argument_exception", "no handler found for uri [%s] and method [%s]", r.URL.RequestURI(), r.Method)
}

func (s *Server) routeStream(method, name string) (any, *problem) {
	if method == http.MethodPut {
		s.streams[name] = []string{".ds-" + name + "-000001"}
		s.create(s.streams[name][0])
		return map[string]any{"acknowledged": true}, nil
	}
	if s.streams[name] == nil {
		return nil, problemf(http.StatusNotFound, "index_not_found_exception", "no such index [%s]", name)
	}
	return map[string]any{"data_streams": []any{map[string]any{"name": name}}}, nil
}

func (s *Server) routePolicy(r *http.Request, name string, body []byte) (any, *problem) {
	if !s.o.ISM {
		return nil, problemf(http.StatusBadRequest, "illegal_argument_exception", "no handler found for uri [%s] and method [%s]", r.URL.RequestURI(), r.Method)
	}
	old, there := s.kept["ism/"+name]
	switch {
	case r.Method == http.MethodGet && !there:
		return nil, problemf(http.StatusNotFound, "status_exception", "Policy not found")
	case r.Method == http.MethodGet:
		return map[string]any{"_id": name, "policy": old}, nil
	case there && r.URL.Query().Get("if_seq_no") == "":
		return nil, problemf(http.StatusConflict, "version_conflict_engine_exception", "[%s]: version conflict, document already exists", name)
	}
	s.kept["ism/"+name] = slices.Clone(body)
	return map[string]any{"_id": name}, nil
}
