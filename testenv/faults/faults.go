// Package faults stands between an S3 client and its server and makes requests fail as S3's do: at random with a seed, or
// on order.
package faults

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"time"
)

// Fault is what happens to one request.
type Fault int

const (
	None       Fault = iota
	Internal         // 500 InternalError; the server never sees the request
	SlowDown         // 503 SlowDown; the server never sees the request
	Reset            // the connection is reset before the server sees the request
	LostAnswer       // the server does it, and the connection is reset before the answer
	FailAfter        // the server does it, and the answer is 500 InternalError
	Slow             // the request waits for Options.Delay, or until the client gives up, and then goes to the server
	faults
)

func (f Fault) String() string {
	if f < 0 || f >= faults {
		return fmt.Sprintf("fault %d", int(f))
	}
	return [...]string{"none", "500", "503", "reset", "lost answer", "500 after the effect", "slow"}[f]
}

// Options are for New.
type Options struct {
	Rate  float64       // share of requests that fail, 0 to 1; default 0: only those on order
	Seed  uint64        // of the choice; default 0
	Delay time.Duration // of a Slow request; default 100 ms
}

// Proxy forwards requests to one server. Its methods are safe for concurrent use.
type Proxy struct {
	o     Options
	proxy *httputil.ReverseProxy

	mu     sync.Mutex
	random *rand.Rand
	orders []order
	holds  []hold
	counts [faults]int
	seen   map[string]int
}

type order struct {
	match func(*http.Request) bool
	fault Fault
}

// New returns a Proxy before the server at target. Signatures stay valid: the Host header is left as it is.
func New(target string, o Options) (*Proxy, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("faults: %w", err)
	}
	if o.Delay == 0 {
		o.Delay = 100 * time.Millisecond
	}
	p := &Proxy{o: o, random: rand.New(rand.NewPCG(o.Seed, 0)), seen: map[string]int{}}
	p.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = u.Scheme, u.Host
			r.Out.Host = r.In.Host
		},
		Transport:    &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // a reset, as without us
		ErrorLog:     log.New(io.Discard, "", 0),
	}
	return p, nil
}

// Order makes the next requests that match fail, one for each fault. Requests that match no order fail at the Rate.
func (p *Proxy) Order(match func(*http.Request) bool, next ...Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range next {
		p.orders = append(p.orders, order{match, f})
	}
}

type hold struct {
	ctx     context.Context
	match   func(*http.Request) bool
	arrived chan struct{}
	goOn    chan struct{}
}

// Hold makes the next request that matches wait until goOn is called, its client has gone, or ctx ends. arrived is closed when it is
// there; of its body some may still be on the way.
func (p *Proxy) Hold(ctx context.Context, match func(*http.Request) bool) (arrived <-chan struct{}, goOn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := hold{ctx, match, make(chan struct{}), make(chan struct{})}
	p.holds = append(p.holds, h)
	return h.arrived, sync.OnceFunc(func() { close(h.goOn) })
}

// wait is where held requests are.
func (p *Proxy) wait(r *http.Request) {
	p.mu.Lock()
	i := slices.IndexFunc(p.holds, func(h hold) bool { return h.match(r) })
	if i < 0 {
		p.mu.Unlock()
		return
	}
	h := p.holds[i]
	p.holds = slices.Delete(p.holds, i, i+1)
	p.mu.Unlock()
	close(h.arrived)
	select {
	case <-h.goOn:
	case <-h.ctx.Done():
	case <-r.Context().Done():
	}
}

// Operation matches requests of one S3 operation: "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload",
// "AbortMultipartUpload", "PutObject", "GetObject", "HeadObject", "DeleteObject", "ListObjectsV2".
func Operation(name string) func(*http.Request) bool {
	return func(r *http.Request) bool { return operation(r) == name }
}

func operation(r *http.Request) string {
	q := r.URL.Query()
	switch {
	case r.Method == http.MethodPost && q.Has("uploads"):
		return "CreateMultipartUpload"
	case r.Method == http.MethodPut && q.Has("partNumber"):
		return "UploadPart"
	case r.Method == http.MethodPost && q.Has("uploadId"):
		return "CompleteMultipartUpload"
	case r.Method == http.MethodDelete && q.Has("uploadId"):
		return "AbortMultipartUpload"
	case r.Method == http.MethodGet && q.Has("list-type"):
		return "ListObjectsV2"
	}
	return map[string]string{
		http.MethodPut: "PutObject", http.MethodGet: "GetObject", http.MethodHead: "HeadObject", http.MethodDelete: "DeleteObject",
	}[r.Method]
}

// Counts says how many requests met each fault, by its name.
func (p *Proxy) Counts() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]int{}
	for f, n := range p.counts {
		if n > 0 {
			out[Fault(f).String()] = n
		}
	}
	return out
}

// Seen says how many requests of an operation came.
func (p *Proxy) Seen(operation string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen[operation]
}

func (p *Proxy) choose(r *http.Request) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen[operation(r)]++
	f := None
	ordered := false
	for i, o := range p.orders {
		if o.match(r) {
			f, ordered = o.fault, true
			p.orders = append(p.orders[:i], p.orders[i+1:]...)
			break
		}
	}
	if !ordered && p.random.Float64() < p.o.Rate {
		f = Fault(1 + p.random.IntN(int(faults)-1))
	}
	p.counts[f]++
	return f
}

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.wait(r)
	switch p.choose(r) {
	case Internal:
		refuse(w, r, http.StatusInternalServerError, "InternalError")
	case SlowDown:
		refuse(w, r, http.StatusServiceUnavailable, "SlowDown")
	case Reset:
		panic(http.ErrAbortHandler)
	case LostAnswer:
		p.effect(r)
		panic(http.ErrAbortHandler)
	case FailAfter:
		p.effect(r)
		refuse(w, r, http.StatusInternalServerError, "InternalError")
	case Slow:
		body, err := io.ReadAll(r.Body) // net/http notices that the client gave up only when the body is read
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		select {
		case <-time.After(p.o.Delay):
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
		p.proxy.ServeHTTP(w, r)
	default:
		p.proxy.ServeHTTP(w, r)
	}
}

// effect lets the server do the request, whatever becomes of the client.
func (p *Proxy) effect(r *http.Request) {
	p.proxy.ServeHTTP(&unheard{header: http.Header{}}, r.WithContext(context.WithoutCancel(r.Context())))
}

// unheard takes an answer that the client does not get.
type unheard struct{ header http.Header }

func (u *unheard) Header() http.Header         { return u.header }
func (u *unheard) Write(p []byte) (int, error) { return len(p), nil }
func (u *unheard) WriteHeader(int)             {}

// refuse answers as S3 does.
func refuse(w http.ResponseWriter, r *http.Request, status int, code string) {
	io.Copy(io.Discard, r.Body) // S3 reads the request before it fails
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		fmt.Fprintf(w, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code><Message>fault on order</Message></Error>", code)
	}
}
