package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/sinks/deadletter"
	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/sinks/origin"
	"github.com/millrace-io/millrace/sources/kafka"
	"github.com/millrace-io/millrace/stream"
)

// pipe is a topic that is copied into another one of the same cluster, in transactions.
type pipe struct {
	t       *testing.T
	address string
	in, out string
	dead    string // folder of the dead letters
	client  *kgo.Client
	keys    int // of the messages
	sent    []string
}

const (
	inPartitions  = 2
	outPartitions = 3
)

func newPipe(t *testing.T, address string) *pipe {
	p := &pipe{t: t, address: address, in: "in-" + name(t), out: "out-" + name(t), dead: t.TempDir(), client: connect(t, address), keys: 10}
	t.Cleanup(p.client.Close)
	forever, small := "-1", "20000"
	p.must(p.admin().CreateTopic(t.Context(), inPartitions, 1, map[string]*string{"retention.ms": &forever}, p.in))
	p.must(p.admin().CreateTopic(t.Context(), outPartitions, 1, map[string]*string{"retention.ms": &forever, "max.message.bytes": &small}, p.out))
	p.until("that the topics are known", func() bool {
		all, err := p.admin().ListEndOffsets(t.Context(), p.in, p.out)
		return err == nil && all.Error() == nil
	})
	return p
}

// name is of a topic of this test's own.
func name(t *testing.T) string { return strings.NewReplacer("/", "-", "'", "").Replace(t.Name()) }

func (p *pipe) admin() *kadm.Client { return kadm.NewClient(p.client) }

func (p *pipe) must(_ any, err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// produce adds n messages to the source.
func (p *pipe) produce(n int) {
	p.t.Helper()
	var ms []*kgo.Record
	for range n {
		text := fmt.Sprintf("message %d", len(p.sent))
		ms = append(ms, &kgo.Record{Topic: p.in, Key: fmt.Append(nil, len(p.sent)%p.keys), Value: []byte(text)})
		p.sent = append(p.sent, text)
	}
	if err := p.client.ProduceSync(p.t.Context(), ms...).FirstErr(); err != nil {
		p.t.Fatal(err)
	}
}

// messages of the sink's topic, as readers of this level see them now.
func (p *pipe) messages(level kgo.IsolationLevel) []*kgo.Record {
	p.t.Helper()
	list := p.admin().ListEndOffsets
	if level == kgo.ReadCommitted() {
		list = p.admin().ListCommittedOffsets
	}
	ends, err := list(p.t.Context(), p.out)
	if err != nil || ends.Error() != nil {
		p.t.Fatal(err, ends.Error())
	}
	from, left := map[int32]kgo.Offset{}, map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			from[o.Partition], left[o.Partition] = kgo.NewOffset().AtStart(), o.Offset
		}
	})
	c, err := kgo.NewClient(kgo.SeedBrokers(p.address), kgo.FetchMaxWait(50*time.Millisecond), kgo.FetchIsolationLevel(level), kgo.KeepControlRecords(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{p.out: from}))
	if err != nil {
		p.t.Fatal(err)
	}
	defer c.Close()
	var out []*kgo.Record
	for len(left) > 0 {
		fetches := c.PollFetches(p.t.Context())
		if err := fetches.Err(); err != nil {
			p.t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				out = append(out, r)
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	return out
}

func (p *pipe) written() int { return len(p.messages(kgo.ReadUncommitted())) }
func (p *pipe) shown() int   { return len(p.messages(kgo.ReadCommitted())) }

func (p *pipe) until(what string, is func() bool) {
	p.t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("%s does not happen", what)
		}
	}
}

// check compares what is shown with what was sent, but for those that were refused.
func (p *pipe) check(refused ...string) {
	p.t.Helper()
	p.until("that all is shown", func() bool { return p.shown() >= len(p.sent)-len(refused) })
	times, last := map[string]int{}, map[string]string{}
	for _, m := range p.messages(kgo.ReadCommitted()) {
		times[string(m.Value)]++
		from, at := fmt.Sprint(m.Partition, string(header(m, origin.PartitionHeader))), string(header(m, origin.PositionHeader))
		if at <= last[from] {
			p.t.Errorf("message %q at %s comes after %s", m.Value, at, last[from])
		}
		last[from] = at
	}
	want := map[string]int{}
	for _, text := range p.sent {
		if !slices.Contains(refused, text) {
			want[text] = 1
		}
	}
	if !maps.Equal(times, want) {
		p.t.Errorf("shown are %v; want each message once", times)
	}
}

// offsets is what the group has committed, over all partitions.
func (p *pipe) offsets() (n int64) {
	p.t.Helper()
	all, err := p.admin().FetchOffsets(kadm.RequireStable(p.t.Context()), p.in)
	if err != nil || all.Error() != nil {
		return -1
	}
	all.Each(func(o kadm.OffsetResponse) { n += o.At })
	return n
}

func (p *pipe) letters() *deadletter.Sink {
	p.t.Helper()
	store, err := objects.Open(p.t.Context(), p.dead, objects.Options{})
	if err != nil {
		p.t.Fatal(err)
	}
	return deadletter.New(store)
}

// worker is a process of the pipeline.
type worker struct {
	p      *pipe
	wire   *wire
	engine *stream.Engine
	soft   context.CancelFunc
	hard   context.CancelFunc
	done   chan error
}

// settings of a worker.
type settings struct {
	age     time.Duration
	timeout time.Duration // of transactions
	answer  time.Duration // Config.Timeout
	where   func(*stream.Event) bool
	beside  stream.Staged[*stream.Event] // another sink; nil: none
}

// decoder makes an event of each record.
type decoder struct{}

func (decoder) Decode(r *stream.Record, b *stream.Batch) error {
	b.Append(r)
	return nil
}

func (p *pipe) work(s settings) *worker {
	p.t.Helper()
	w := &worker{p: p, wire: &wire{conns: map[net.Conn]bool{}}, done: make(chan error, 1)}
	cfg := Config{Brokers: []string{p.address}, Topic: p.out, Value: "record", Delay: time.Millisecond, Transactions: true, TransactionTimeout: s.timeout, Timeout: s.answer}
	cfg.EnsureDefaults()
	transactions := new(kafka.Transactions)
	Join(transactions, &cfg)
	sink, err := New(cfg, Options{Name: "out", Pipeline: "clicks", Transactions: transactions})
	if err != nil {
		p.t.Fatal(err)
	}
	source, err := kafka.New(kafka.Config{
		Brokers: []string{p.address}, Topics: []string{p.in}, Group: p.in, SessionTimeout: 3 * time.Second, RebalanceTimeout: 2 * time.Second,
	}, kafka.Options{Pipeline: "clicks", Dial: w.wire.dial, Transactions: transactions})
	if err != nil {
		p.t.Fatal(err)
	}
	sinks := []stream.Sink{{Name: "out", Where: s.where, Upsert: sink}}
	if s.beside != nil {
		sinks = append(sinks, stream.Sink{Name: "beside", Staged: s.beside})
	}
	w.engine, err = stream.New(stream.Config{
		Name: "clicks", Schema: newSchema(p.t), Decoder: func() stream.Decoder { return decoder{} }, CommitAge: s.age, CommitIdle: s.age,
		Sinks: sinks, DeadLetters: p.letters(),
	})
	if err != nil {
		p.t.Fatal(err)
	}
	var soft, hard context.Context
	soft, w.soft = context.WithCancel(context.Background())
	hard, w.hard = context.WithCancel(context.Background())
	go func() { w.done <- w.engine.Run(soft, hard, source) }()
	p.t.Cleanup(func() { w.wire.heal(); w.hard(); w.soft(); <-w.done })
	return w
}

// stop drains and returns what Run does.
func (w *worker) stop() error {
	w.soft()
	err := <-w.done
	w.done <- err
	return err
}

// kill ends the worker without a word to anybody.
func (w *worker) kill() {
	w.wire.set(func(int16) fate { return cut })
	w.hard()
	w.soft()
	err := <-w.done
	w.done <- err
}

// fate is what becomes of a request.
type fate int

const (
	pass   fate = iota
	cut         // the connection is, before the brokers see it
	deafen      // the connection is, after the brokers have seen it
	freeze      // it waits for heal
)

// wire is the network between one worker and the brokers.
type wire struct {
	mu    sync.Mutex
	of    func(key int16) fate // nil: pass
	ice   chan struct{}        // closed by heal
	conns map[net.Conn]bool
}

// set makes of the judge of every request. Connections are cut.
func (w *wire) set(of func(key int16) fate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.of, w.ice = of, make(chan struct{})
	for c := range w.conns {
		_ = c.Close()
	}
}

func (w *wire) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of = nil; w.ice != nil {
		close(w.ice)
		w.ice = nil
	}
}

func (w *wire) fate(key int16) (fate, chan struct{}) {
	w.mu.Lock()
	of, ice := w.of, w.ice
	w.mu.Unlock()
	if of == nil {
		return pass, nil
	}
	return of(key), ice
}

func (w *wire) dial(ctx context.Context, network, host string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, host)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns[c] = true
	return &wireConn{Conn: c, wire: w}, nil
}

type wireConn struct {
	net.Conn
	wire *wire
	mu   sync.Mutex
	deaf bool
}

var errCut = errors.New("the connection is cut")

// Write looks at whole requests: the client writes each at once. Bytes 4 and 5 are the kind.
func (c *wireConn) Write(b []byte) (int, error) {
	if len(b) < 6 {
		return c.Conn.Write(b)
	}
	fate, ice := c.wire.fate(int16(binary.BigEndian.Uint16(b[4:])))
	switch fate {
	case cut:
		_ = c.Conn.Close()
		return 0, errCut
	case deafen:
		c.mu.Lock()
		c.deaf = true
		c.mu.Unlock()
	case freeze:
		<-ice
	}
	return c.Conn.Write(b)
}

func (c *wireConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deaf {
		_ = c.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

func (c *wireConn) Close() error {
	c.wire.mu.Lock()
	delete(c.wire.conns, c.Conn)
	c.wire.mu.Unlock()
	return c.Conn.Close()
}
