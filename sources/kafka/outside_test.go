package kafka

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sources/sourcetest"
	"github.com/millrace-io/millrace/testenv/network"
)

var errSevered = errors.New("network is unreachable")

// outside is the network of one worker, with its faults. It speaks just enough of the protocol to know a commit.
type outside struct {
	mu      sync.Mutex
	conns   map[*conn]bool
	severed bool
	frozen  chan struct{} // not nil while frozen; closed by thaw
	lose    func()        // called when the reply to the next commit is lost
}

func newOutside() *outside { return &outside{conns: map[*conn]bool{}} }

func (o *outside) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if err := o.pass(); err != nil {
		return nil, err
	}
	inner, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: inner, outside: o}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.severed {
		inner.Close()
		return nil, errSevered
	}
	o.conns[c] = true
	return c, nil
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
		c.Conn.Close()
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

func (o *outside) loseReply(lost func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lose = lost
}

type conn struct {
	net.Conn
	outside *outside

	mu     sync.Mutex
	unread []byte            // of the answer that is being read
	losing map[uint32]func() // by correlation id
}

const offsetCommit = 8 // API key

func (c *conn) Write(b []byte) (int, error) {
	if err := c.outside.pass(); err != nil {
		return 0, err
	}
	if len(b) > 12 && binary.BigEndian.Uint16(b[4:]) == offsetCommit {
		c.outside.mu.Lock()
		if lost := c.outside.lose; lost != nil {
			c.mu.Lock()
			c.losing = map[uint32]func(){binary.BigEndian.Uint32(b[8:]): lost}
			c.mu.Unlock()
			c.outside.lose = nil
		}
		c.outside.mu.Unlock()
	}
	return c.Conn.Write(b)
}

func (c *conn) Read(b []byte) (int, error) {
	if len(c.unread) == 0 {
		if err := c.answer(); err != nil {
			return 0, err
		}
	}
	n := copy(b, c.unread)
	c.unread = c.unread[n:]
	return n, nil
}

// answer reads a whole one, so that it can be lost as a whole.
func (c *conn) answer() error {
	head := make([]byte, 8)
	if _, err := io.ReadFull(c.Conn, head); err != nil {
		return err
	}
	body := make([]byte, binary.BigEndian.Uint32(head)-4)
	if _, err := io.ReadFull(c.Conn, body); err != nil {
		return err
	}
	if err := c.outside.pass(); err != nil {
		return err
	}
	c.mu.Lock()
	lost := c.losing[binary.BigEndian.Uint32(head[4:])]
	c.mu.Unlock()
	if lost != nil {
		lost()
		c.Conn.Close()
		return io.ErrUnexpectedEOF
	}
	c.unread = bytes.Join([][]byte{head, body}, nil)
	return nil
}

func (c *conn) Close() error {
	c.outside.mu.Lock()
	delete(c.outside.conns, c)
	c.outside.mu.Unlock()
	return c.Conn.Close()
}

// backend runs the suite on the broker at addr, whichever that is, with a group of the protocol. A silent worker keeps its
// partitions for so long.
func backend(addr, protocol string, lapse time.Duration) sourcetest.Backend {
	return sourcetest.Backend{
		Features: sourcetest.Features{
			Sharing: sourcetest.Balanced, Retention: true, TellsGaps: true, Keys: true, Headers: true, Times: true, Lag: true, Empty: true, Binary: true,
			Remote: true, Lapse: lapse,
		},
		NotOurs: []goleak.Option{
			goleak.IgnoreAnyFunction("github.com/twmb/franz-go/pkg/kfake.(*clientConn).read"),
			goleak.IgnoreAnyFunction("github.com/twmb/franz-go/pkg/kfake.(*clientConn).read.func1"),
			goleak.IgnoreAnyFunction("github.com/twmb/franz-go/pkg/kfake.(*clientConn).write"),
		},
		New: func(t *testing.T, partitions int) sourcetest.Log {
			l := newTopic(t, addr, lapse, partitions)
			l.protocol = protocol
			return l
		},
	}
}

// topic is one topic with a group of the same name.
type topic struct {
	addr, name string
	protocol   string        // default classic
	session    time.Duration // of a classic group
	client     *kgo.Client
	admin      *kadm.Client
}

func newTopic(t *testing.T, addr string, session time.Duration, partitions int) *topic {
	t.Helper()
	client := newProducer(t, addr)
	l := &topic{addr: addr, name: topicName(t), session: session, client: client, admin: kadm.NewClient(client)}
	if _, err := l.admin.CreateTopic(t.Context(), int32(partitions), 1, map[string]*string{"max.message.bytes": kadm.StringPtr("2097152")}, l.name); err != nil {
		t.Fatalf("create topic: %v", err)
	}
	t.Cleanup(func() {
		l.admin.DeleteTopics(context.Background(), l.name)
		l.admin.DeleteGroups(context.Background(), l.name)
	})
	return l
}

func newProducer(t *testing.T, addr string) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(2<<20),
		kgo.ProducerLinger(0), kgo.MetadataMinAge(50*time.Millisecond), kgo.UnknownTopicRetries(200), kgo.DisableClientMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func topicName(t *testing.T) string {
	name := []byte(t.Name())
	for i, c := range name {
		if !validTopic(string(rune(c))) || c == '.' {
			name[i] = '_'
		}
	}
	return string(name)
}

func (l *topic) Partition(i int) string { return partition{l.name, int32(i)}.String() }

func (l *topic) Append(t *testing.T, i int, ms ...sourcetest.Message) {
	t.Helper()
	var rs []*kgo.Record
	for _, m := range ms {
		r := &kgo.Record{Topic: l.name, Partition: int32(i), Key: m.Key, Value: m.Value}
		for _, h := range m.Headers {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
		}
		rs = append(rs, r)
	}
	if err := l.client.ProduceSync(t.Context(), rs...).FirstErr(); err != nil {
		t.Fatalf("append: %v", err)
	}
}

func (l *topic) Trim(t *testing.T, i, n int) {
	t.Helper()
	offsets := kadm.Offsets{}
	offsets.AddOffset(l.name, int32(i), int64(n), -1)
	done, err := l.admin.DeleteRecords(t.Context(), offsets)
	if err == nil {
		err = done.Error()
	}
	if err != nil {
		t.Fatalf("trim: %v", err)
	}
}

func (l *topic) Open(t *testing.T) *sourcetest.Worker {
	t.Helper()
	o := newOutside()
	s := l.source(t, o, func(*Config) {})
	return &sourcetest.Worker{Source: s, Sever: o.sever, Freeze: o.freeze, Thaw: o.thaw, LoseReply: func() { o.loseReply(func() {}) }}
}

// Far implements sourcetest.Remote. Brokers name their own address in the metadata, which is not the proxy's.
func (l *topic) Far(t *testing.T) (*sourcetest.Worker, []*network.Proxy) {
	t.Helper()
	proxy := network.New(t, l.addr)
	s := l.dialing(t, func(ctx context.Context, kind, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, kind, proxy.Addr)
	}, same)
	return &sourcetest.Worker{Source: s}, []*network.Proxy{proxy}
}

// source makes a worker with a change to its configuration.
func (l *topic) source(t *testing.T, o *outside, change func(*Config)) *Source {
	t.Helper()
	return l.dialing(t, o.dial, change)
}

// dialing is source with another network; nil is the real one, which is wanted for TLS.
func (l *topic) dialing(t *testing.T, dial Dial, change func(*Config)) *Source {
	t.Helper()
	cfg := Config{Brokers: []string{l.addr}, Topics: []string{l.name}, Protocol: l.protocol, RebalanceTimeout: rebalance, Refresh: refresh}
	if l.protocol != consumer {
		cfg.SessionTimeout = l.session
	}
	change(&cfg)
	s, err := New(cfg, Options{Pipeline: l.name, Dial: dial})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
