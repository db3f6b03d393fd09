package nats

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sources/lease"
	"github.com/millrace-io/millrace/sources/sourcetest"
	"github.com/millrace-io/millrace/testenv/network"
)

var errSevered = errors.New("network is unreachable")

// outside is the network and the bucket of one worker, with their faults.
type outside struct {
	mu      sync.Mutex
	conns   map[net.Conn]bool
	severed bool
	frozen  chan struct{} // not nil while frozen; closed by thaw
	lose    bool          // the reply to the next commit is lost
}

func newOutside() *outside { return &outside{conns: map[net.Conn]bool{}} }

// Dial makes outside a nats.CustomDialer.
func (o *outside) Dial(network, address string) (net.Conn, error) {
	if err := o.pass(); err != nil {
		return nil, err
	}
	inner, err := net.DialTimeout(network, address, 5*time.Second)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.severed {
		inner.Close()
		return nil, errSevered
	}
	o.conns[inner] = true
	return &conn{inner, o}, nil
}

// pass waits while the worker is frozen.
func (o *outside) pass() error {
	o.mu.Lock()
	frozen := o.frozen
	o.mu.Unlock()
	if frozen != nil {
		<-frozen
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.severed {
		return errSevered
	}
	return nil
}

func (o *outside) sever() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.severed = true
	for c := range o.conns {
		c.Close()
	}
}

func (o *outside) freeze() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.frozen = make(chan struct{})
}

func (o *outside) thaw() {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.frozen)
	o.frozen = nil
}

func (o *outside) loseReply() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lose = true
}

// cut breaks the connections that there are; new ones can be made.
func (o *outside) cut() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for c := range o.conns {
		c.Close()
	}
}

type conn struct {
	net.Conn
	outside *outside
}

func (c *conn) Write(b []byte) (int, error) {
	if err := c.outside.pass(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil {
		err = c.outside.pass()
	}
	return n, err
}

func (c *conn) Close() error {
	c.outside.mu.Lock()
	delete(c.outside.conns, c.Conn)
	c.outside.mu.Unlock()
	return c.Conn.Close()
}

// lossy is a table that loses the reply to a commit.
type lossy struct {
	lease.Table
	outside *outside

	mu   sync.Mutex
	last map[string]lease.Row
}

func (t *lossy) Update(ctx context.Context, r lease.Row) (uint64, error) {
	revision, err := t.Table.Update(ctx, r)
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.last[r.Partition]
	t.last[r.Partition] = r
	t.outside.mu.Lock()
	defer t.outside.mu.Unlock()
	if commit := r.Checkpoint.Pos != old.Checkpoint.Pos; err == nil && commit && t.outside.lose {
		t.outside.lose = false
		return 0, errors.New("the reply is lost")
	}
	return revision, err
}

// backend runs the suite on the server at url, whichever that is. let says how it lets clients in; nil: just so.
func backend(url string, period time.Duration, let func(*Config)) sourcetest.Backend {
	return sourcetest.Backend{
		Features: sourcetest.Features{
			Sharing: sourcetest.Balanced, Retention: true, TellsGaps: true, Keys: true, Times: true, Lag: true, Empty: true, Binary: true,
			Remote: true, Lapse: period,
		},
		NotOurs: serverGoroutines(),
		New:     func(t *testing.T, partitions int) sourcetest.Log { return newLogFor(t, url, period, partitions, let) },
	}
}

// serverGoroutines are those that the server in this process starts for a client, a bucket or a cursor, and ends when it gets to it.
func serverGoroutines() []goleak.Option {
	var found []goleak.Option
	for _, f := range []string{
		"(*fileStore).flushStreamStateLoop", "(*stream).signalConsumersLoop", "(*stream).internalLoop",
		"(*Server).startStatszTimer.(*Server).wrapChk.func1",
		"(*consumer).loopAndGatherMsgs", "(*consumer).processInboundAcks", "(*consumer).processInboundNextMsgReqs",
	} {
		found = append(found, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server."+f))
	}
	return found
}

// log is one stream with a subject for each partition, and a bucket of its own.
type log struct {
	url, name string
	period    time.Duration
	let       func(*Config)
	js        jetstream.JetStream

	mu        sync.Mutex
	sequences [][]uint64 // of all messages, by partition
}

func newLog(t *testing.T, url string, period time.Duration, partitions int) *log {
	t.Helper()
	return newLogFor(t, url, period, partitions, nil)
}

// newLogFor is newLog on a server that lets in only whom it knows.
func newLogFor(t *testing.T, url string, period time.Duration, partitions int, let func(*Config)) *log {
	t.Helper()
	if let == nil {
		let = func(*Config) {}
	}
	var known Config
	let(&known)
	opts, err := known.options()
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(url, append(opts, nats.ReconnectWait(50*time.Millisecond), nats.ReconnectJitter(0, 0))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	l := &log{url: url, name: streamName(t), period: period, let: let, js: js, sequences: make([][]uint64, partitions)}
	var subjects []string
	for i := range partitions {
		subjects = append(subjects, l.Partition(i))
	}
	for _, c := range []jetstream.StreamConfig{
		{Name: "KEEP"}, // or the server removes the folder of an account without streams, some time after the last one, under the next
		{Name: l.name, Subjects: subjects},
	} {
		if _, err := js.CreateOrUpdateStream(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		js.DeleteStream(context.Background(), l.name)
		js.DeleteKeyValue(context.Background(), l.name)
	})
	return l
}

func streamName(t *testing.T) string {
	return strings.Map(func(r rune) rune {
		if validBucket(string(r)) {
			return r
		}
		return '_'
	}, t.Name())
}

func (l *log) Partition(i int) string { return fmt.Sprintf("%s.%d", l.name, i) }

func (l *log) Append(t *testing.T, i int, ms ...sourcetest.Message) {
	t.Helper()
	for _, m := range ms {
		msg := &nats.Msg{Subject: l.Partition(i), Data: m.Value, Header: nats.Header{}}
		if m.Key != nil {
			msg.Header.Set(KeyHeader, string(m.Key))
		}
		ack, err := l.js.PublishMsg(t.Context(), msg)
		if err != nil {
			t.Fatalf("append: %v", err)
		}
		l.mu.Lock()
		l.sequences[i] = append(l.sequences[i], ack.Sequence)
		l.mu.Unlock()
	}
}

// Trim removes from the front of the stream, as its limits do: also what other partitions had there.
func (l *log) Trim(t *testing.T, i, n int) {
	t.Helper()
	s, err := l.js.Stream(t.Context(), l.name)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(t.Context(), jetstream.WithPurgeSequence(l.sequences[i][n-1]+1)); err != nil {
		t.Fatal(err)
	}
}

func (l *log) Open(t *testing.T) *sourcetest.Worker {
	t.Helper()
	o := newOutside()
	s := l.source(t, o, func(*Config) {})
	return &sourcetest.Worker{Source: s, Sever: o.sever, Freeze: o.freeze, Thaw: o.thaw, LoseReply: o.loseReply}
}

// Far implements sourcetest.Remote.
func (l *log) Far(t *testing.T) (*sourcetest.Worker, []*network.Proxy) {
	t.Helper()
	at, err := url.Parse(l.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := network.New(t, at.Host)
	at.Host = proxy.Addr
	return &sourcetest.Worker{Source: l.source(t, newOutside(), func(c *Config) { c.URL = at.String() })}, []*network.Proxy{proxy}
}

// source makes a worker with a change to its configuration.
func (l *log) source(t *testing.T, o *outside, change func(*Config)) *Source {
	t.Helper()
	cfg := Config{URL: l.url, Stream: l.name, Bucket: l.name, Lease: l.period}
	l.let(&cfg)
	change(&cfg)
	s, err := New(cfg, Options{Pipeline: l.name, Connect: []nats.Option{nats.SetCustomDialer(o)}})
	if err != nil {
		t.Fatal(err)
	}
	s.through = func(inner lease.Table) lease.Table {
		return &lossy{Table: inner, outside: o, last: map[string]lease.Row{}}
	}
	return s
}
