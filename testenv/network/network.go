// Package network is the network between a client and a server of the tests, and what goes wrong on it: a TCP proxy on
// 127.0.0.1 with toxiproxy's toxics.
package network

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/testenv/child"
)

// Fault is what is wrong with the network.
type Fault int

const (
	Healthy   Fault = iota
	Latency         // answers take 300 ms longer, give or take 100 ms
	Reset           // a connection is reset, to both sides, in the middle of what the client sends: after ResetAfter bytes
	Silent          // nothing arrives on either side, the connections stay, and new ones can be made
	HalfOpen        // requests arrive and have their effect, the connection stays, and the answers are lost
	Bandwidth       // requests take a second for 32 KB, on each connection
	Sliced          // answers come in pieces of some bytes
	Refused         // connections end, and nobody listens any more
	Forgotten       // the connections that there are carry nothing any more, and new ones are well: a firewall that lost its table
)

// ResetAfter is how many bytes of the client a connection carries while there is Reset.
const ResetAfter = 700

func (f Fault) String() string {
	return [...]string{"healthy", "latency", "reset", "silent", "half-open", "bandwidth", "sliced", "refused", "forgotten"}[f]
}

// toxics are toxiproxy's, in JSON. Upstream is what the client sends.
func (f Fault) toxics() []string {
	switch f {
	case Latency:
		return []string{`{"type":"latency","stream":"downstream","attributes":{"latency":300,"jitter":100}}`}
	case Reset:
		// The second toxic does nothing but make each connection that is opened beside it end with RST and not with FIN.
		return []string{
			fmt.Sprintf(`{"type":"limit_data","stream":"upstream","attributes":{"bytes":%d}}`, ResetAfter),
			`{"type":"reset_peer","stream":"upstream","toxicity":0,"attributes":{"timeout":0}}`,
		}
	case Silent:
		return []string{`{"type":"timeout","stream":"upstream","attributes":{"timeout":0}}`, `{"type":"timeout","stream":"downstream","attributes":{"timeout":0}}`}
	case HalfOpen:
		return []string{`{"type":"timeout","stream":"downstream","attributes":{"timeout":0}}`}
	case Bandwidth:
		return []string{`{"type":"bandwidth","stream":"upstream","attributes":{"rate":32}}`}
	case Sliced:
		return []string{`{"type":"slicer","stream":"downstream","attributes":{"average_size":40,"size_variation":20,"delay":20}}`}
	case Forgotten:
		return []string{`{"type":"forget","stream":"upstream"}`, `{"type":"forget","stream":"downstream"}`}
	}
	return nil
}

// forget is the toxic of Forgotten. The state of a connection is whether it was there before it.
type forget struct{ begun atomic.Bool }

// NewState implements toxics.StatefulToxic: toxiproxy asks for the connections that there are before it has added the toxic.
func (f *forget) NewState() any { return !f.begun.Load() }

// Pipe implements toxics.Toxic.
func (f *forget) Pipe(connection *toxics.ToxicStub) {
	if connection.State.(bool) {
		new(toxics.TimeoutToxic).Pipe(connection)
	} else {
		new(toxics.NoopToxic).Pipe(connection)
	}
}

// Cleanup implements toxics.CleanupToxic.
func (f *forget) Cleanup(connection *toxics.ToxicStub) {
	if connection.State.(bool) {
		connection.Close()
	}
}

// register makes toxiproxy know our own toxic.
var register = sync.OnceFunc(func() { toxics.Register("forget", new(forget)) })

// patience bounds a change of the fault: toxiproxy waits for its connections, of which one that hangs must not hang the test.
const patience = 30 * time.Second

// Proxy is a network to one server. Set is called by one goroutine at a time.
type Proxy struct {
	Addr string // host:port that clients connect to

	t     testing.TB
	proxy *toxiproxy.Proxy
}

// New starts a healthy network to the server at host:port, which ends with the test. The server need not run yet.
func New(t testing.TB, server string) *Proxy {
	t.Helper()
	ports, err := child.Ports(1)
	if err != nil {
		t.Fatal(err)
	}
	register()
	zerolog.SetGlobalLevel(zerolog.Disabled) // a toxic writes to the global logger, about each of its ends
	p := &Proxy{Addr: fmt.Sprintf("127.0.0.1:%d", ports[0]), t: t}
	p.proxy = toxiproxy.NewProxy(toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()), t.Name(), p.Addr, server)
	if err := p.proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.proxy.Stop)
	return p
}

// Set replaces the fault. It is there for open connections too, and what is on its way on them. A connection that was
// HalfOpen, Silent or Forgotten is closed when its fault ends.
func (p *Proxy) Set(f Fault) {
	p.t.Helper()
	done := make(chan error, 1)
	go func() { done <- p.set(f) }()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case err := <-done:
		if err != nil {
			p.t.Fatalf("make the network %s: %v", f, err)
		}
	case <-late.C:
		p.t.Fatalf("make the network %s: the proxy hangs", f)
	}
}

func (p *Proxy) set(f Fault) error {
	if f == Refused {
		p.proxy.Stop()
		return nil
	}
	p.proxy.Toxics.ResetToxics(p.t.Context())
	for _, toxic := range f.toxics() {
		added, err := p.proxy.Toxics.AddToxicJson(strings.NewReader(toxic))
		if err != nil {
			return err
		}
		if f, ok := added.Toxic.(*forget); ok {
			f.begun.Store(true)
		}
	}
	if err := p.proxy.Start(); !errors.Is(err, toxiproxy.ErrProxyAlreadyStarted) {
		return err
	}
	return nil
}

// Leftovers are the goroutines of toxiproxy that never end: those of a connection that ended at one side while there were
// bytes for it. They are options of goleak in the TestMain of who uses a Proxy.
func Leftovers() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).read"),
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"),
	}
}
