package sinktest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
)

// Faults are the fates of the next requests that write. The zero value lets all pass; it is safe for concurrent use.
type Faults struct {
	mu   sync.Mutex
	next []Fault
}

// Set is an UpsertBackend's Fail.
func (f *Faults) Set(faults ...Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next = faults
}

// Next takes the fate of a request; false: it passes.
func (f *Faults) Next() (Fault, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.next) == 0 {
		return 0, false
	}
	out := f.next[0]
	f.next = f.next[1:]
	return out, true
}

// Proxy stands before an HTTP server that has no faults of its own.
type Proxy struct {
	Faults
	URL string

	// Writes says that a request writes; only those fail.
	Writes func(r *http.Request) bool

	// Busy answers a request that is Throttled, or, if all is false, Partial, in the server's words. It may pass a part of it on.
	Busy func(w http.ResponseWriter, r *http.Request, all bool, server http.Handler)

	server http.Handler
}

// NewProxy starts a proxy before the server at address. Its fields are to be set before the first request.
func NewProxy(t testing.TB, address string) *Proxy {
	t.Helper()
	to, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	through, transport := httputil.NewSingleHostReverseProxy(to), new(http.Transport)
	through.Transport = transport
	p := &Proxy{server: through}
	s := httptest.NewServer(p)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
		transport.CloseIdleConnections()
	})
	p.URL = s.URL
	return p
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fault, fails := Fault(0), false
	if p.Writes(r) {
		fault, fails = p.Next()
	}
	switch {
	case !fails:
		p.server.ServeHTTP(w, r)
	case fault == Throttled, fault == Partial:
		p.Busy(w, r, fault == Throttled, p.server)
	case fault == LostAnswer:
		p.server.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	case fault == Hang:
		_, _ = io.Copy(io.Discard, r.Body) // only at its end the server begins to notice that the client goes
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	default:
		panic(http.ErrAbortHandler)
	}
}
