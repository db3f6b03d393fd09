// Package kafka writes the transformed events to a topic for other consumers, ahead of the commit.
//
// The producer is idempotent, so that a request that is repeated within one life of the process is stored once. After a crash
// what was written and not committed is written again; so every message says where it comes from, in the headers of package
// origin, and a consumer drops what it has seen: see Repeats. Of the messages with one millrace-partition in a partition of the
// topic, millrace-position only grows, but for repeats (its text order is log order); so messages of one key keep their order.
//
// With transactions, where the source is a topic of the same cluster, messages are in the transaction that holds the source's commit
// (kafka.Transactions): readers that read committed see each once, at the commit. What a replay of dead letters writes is in none.
//
// The brokers keep messages by their timestamps, which are the records': a topic that is filled from old logs wants a retention that
// is as long.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/sinks/document"
	"github.com/millrace-io/millrace/sinks/origin"
	"github.com/millrace-io/millrace/sources/kafka"
	"github.com/millrace-io/millrace/sources/trust"
	"github.com/millrace-io/millrace/stream"
)

// Config is one topic.
type Config struct {
	Brokers []string    `yaml:"brokers"` // some of the cluster's host:port; at least one
	Topic   string      `yaml:"topic"`   // has to exist
	TLS     *trust.TLS  `yaml:"tls"`     // if present, even if empty, encrypts; default: none
	SASL    *kafka.SASL `yaml:"sasl"`    // default: none

	// Key is what decides a message's partition and order: a column, by name or alias. Default: the record's key. A message
	// without one goes to a partition by its position, so that it goes there too when it comes again.
	Key string `yaml:"key"`

	// Value is what a message holds: json (default), the event as package document has it; or record, the bytes as they came.
	Value string `yaml:"value"`

	// Columns of json: default all, and the properties.
	Columns []string `yaml:"columns"`

	// Delay is the longest that a write waits for company; default 20 ms.
	Delay time.Duration `yaml:"delay"`

	// MaxMessage is the most bytes of a message; a larger event is a dead letter. The topic has to take 1 KiB more
	// (max.message.bytes). Default 1,000,000.
	MaxMessage int64 `yaml:"max_message" unit:"bytes"`

	// Timeout is how long the brokers' acknowledgements are waited for; default 30s.
	Timeout time.Duration `yaml:"timeout"`

	// Transactions shows readers with isolation.level=read_committed every message once, when its record is committed. It wants a
	// kafka source with the same brokers, tls and sasl, whose user may also write to the transactional ids <group>/<topic>-<partition>.
	// Default: false.
	Transactions bool `yaml:"transactions"`

	// CommitAge is the longest that a message waits for the commit that shows it. A commit ends the files of other sinks too, which
	// are as small as this is short. Default: what the other sinks want; 1s if none does.
	CommitAge time.Duration `yaml:"commit_age"`

	// TransactionTimeout is when the brokers end a transaction whose worker is silent, and for how long it may hold up readers;
	// at least twice what passes between commits, at most the brokers' transaction.max.timeout.ms. Default 15m.
	TransactionTimeout time.Duration `yaml:"transaction_timeout"`
}

// EnsureDefaults sets what is zero.
func (c *Config) EnsureDefaults() {
	if c.Value == "" {
		c.Value = "json"
	}
	if c.Delay == 0 {
		c.Delay = 20 * time.Millisecond
	}
	if c.MaxMessage == 0 {
		c.MaxMessage = 1_000_000
	}
	if c.Transactions && c.TransactionTimeout == 0 {
		c.TransactionTimeout = 15 * time.Minute
	}
}

func (c *Config) connection() *kafka.Connection {
	return &kafka.Connection{Brokers: c.Brokers, Topic: c.Topic, TLS: c.TLS, SASL: c.SASL}
}

// Validate sets the defaults and lists every problem.
func (c *Config) Validate() error {
	c.EnsureDefaults()
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	connection := c.connection()
	if c.Topic == "" {
		problem("topic is empty; want one topic")
		connection.Topic = "any"
	}
	if err := connection.Validate(); err != nil {
		for text := range strings.SplitSeq(err.Error(), "\n") {
			problem("%s", strings.Replace(text, "topics has ", "topic is ", 1))
		}
	}
	if err := document.CheckMessages(c.Value, c.Columns); err != nil {
		problems = append(problems, err)
	}
	if c.Delay < 0 {
		problem("delay is %s; want 0 or more", c.Delay)
	}
	if c.Timeout < 0 {
		problem("timeout is %s; want 0 or more", c.Timeout)
	}
	if c.MaxMessage < 1<<10 || c.MaxMessage > 64<<20 {
		problem("max_message is %d bytes; want 1KiB to 64MiB", c.MaxMessage)
	}
	switch {
	case !c.Transactions && (c.CommitAge != 0 || c.TransactionTimeout != 0):
		problem("commit_age and transaction_timeout are about transactions, which are off")
	case c.Transactions && c.CommitAge < 0:
		problem("commit_age is %s; want 0 or more", c.CommitAge)
	case c.Transactions && c.TransactionTimeout < time.Second:
		problem("transaction_timeout is %s; want at least 1s", c.TransactionTimeout)
	}
	return errors.Join(problems...)
}

// CheckSchema says what is wrong with c for events of schema.
func (c *Config) CheckSchema(schema *stream.Schema) error {
	_, err := newEncoder(c, stream.Tenure{Schema: schema})
	return err
}

// Options are what the pipeline knows and the file's entry does not say.
type Options struct {
	Name, Pipeline string
	Log            *slog.Logger

	// Transactions are the source's, with Config.Transactions; nil: the sink is used without the source.
	Transactions *kafka.Transactions

	dial func(ctx context.Context, network, host string) (net.Conn, error) // of tests
}

// Sink writes to one topic.
type Sink struct {
	*bulk.Sink
	cfg     Config
	o       Options
	options []kgo.Opt

	mu        sync.Mutex
	client    *client                    // nil while no tenure needs one
	producers map[string]*kafka.Producer // of the tenures with transactions, by partition
}

var _ stream.Upsert = (*Sink)(nil)

// New returns the sink. It touches the files that TLS and SASL name, and nothing outside.
func New(cfg Config, o Options) (*Sink, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	options, err := cfg.connection().Options(o.Log)
	if err != nil {
		return nil, err
	}
	if o.dial != nil {
		options = append(options, kgo.Dialer(o.dial))
	}
	s := &Sink{cfg: cfg, o: o, producers: map[string]*kafka.Producer{}}
	s.options = append(append(options, producing(cfg.MaxMessage)...),
		kgo.AllowIdempotentProduceCancellation(), // what is given up is written again, as after a crash
	)
	s.Sink = bulk.New(s, bulk.Options{Name: o.Name, Order: bulk.LogOrder, Delay: cfg.Delay, Items: 10_000, Bytes: 8 << 20, Timeout: cfg.Timeout, Log: o.Log})
	return s, nil
}

// around is what headers and framing may add to a message.
const around = 1024

// producing are the options of a producer whose largest messages have so many bytes.
func producing(message int64) []kgo.Opt {
	return []kgo.Opt{
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(partitioner{kgo.StickyKeyPartitioner(nil)}), // keys as Kafka's own clients do
		kgo.ProducerBatchCompression(kgo.Lz4Compression(), kgo.NoCompression()),
		kgo.ProducerBatchMaxBytes(int32(message) + around),
		kgo.ProducerLinger(0), // the loop has waited
		kgo.MaxBufferedRecords(1 << 20),
		kgo.MetadataMinAge(250 * time.Millisecond), // a message whose connection was cut waits for so long before it is sent again
	}
}

// Join makes the source's transactions ready for sinks of these configurations, which it has to be told of before it runs. Of several,
// the smallest MaxMessage and TransactionTimeout hold for all.
func Join(t *kafka.Transactions, sinks ...*Config) {
	if len(sinks) == 0 {
		return
	}
	message, timeout := sinks[0].MaxMessage, sinks[0].TransactionTimeout
	for _, c := range sinks {
		message, timeout = min(message, c.MaxMessage), min(timeout, c.TransactionTimeout)
	}
	t.Options, t.Timeout = func() []kgo.Opt { return producing(message) }, timeout
}

// partitioner gives a message without a key a partition by its position: to readers, one that came elsewhere when it was sent
// before would be new, and one that now comes after later ones a repeat.
type partitioner struct{ kgo.Partitioner }

// ForTopic implements kgo.Partitioner.
func (p partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	return topicPartitioner{p.Partitioner.ForTopic(topic)}
}

type topicPartitioner struct{ kgo.TopicPartitioner }

// RequiresConsistency implements kgo.TopicPartitioner.
func (topicPartitioner) RequiresConsistency(*kgo.Record) bool { return true }

// Partition implements kgo.TopicPartitioner.
func (p topicPartitioner) Partition(r *kgo.Record, n int) int {
	if r.Key == nil {
		r = &kgo.Record{Key: header(r, origin.PositionHeader)}
	}
	return p.TopicPartitioner.Partition(r, n)
}

func header(r *kgo.Record, name string) []byte {
	for _, h := range r.Headers {
		if h.Key == name {
			return h.Value
		}
	}
	return nil
}

// Encoder returns the encoder of one tenure. One of the source has a producer if it has transactions; one of another, such as a replay
// of dead letters, has none.
func (s *Sink) Encoder(t stream.Tenure) (bulk.Encoder, error) {
	e, err := newEncoder(&s.cfg, t)
	if err == nil && s.o.Transactions != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if p := s.o.Transactions.Producer(t.Partition); p != nil {
			s.producers[t.Partition] = p
		} else {
			delete(s.producers, t.Partition)
		}
	}
	return e, err
}

type encoder struct {
	*document.Messages
	most int64
}

func newEncoder(c *Config, t stream.Tenure) (*encoder, error) {
	m, err := document.NewMessages(t.Schema, t.Partition, c.Key, c.Value, c.Columns)
	return &encoder{m, c.MaxMessage}, err
}

func (e *encoder) Encode(key, body []byte, ev *stream.Event) ([]byte, []byte, error) {
	key, body = e.AppendKey(key, ev), e.AppendValue(body, ev)
	if n := len(key) + len(body); int64(n) > e.most {
		return key, body, fmt.Errorf("the message has %d bytes; max_message is %d", n, e.most)
	}
	return key, body, nil
}

// Idle closes the connections.
func (s *Sink) Idle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.producers)
	if s.client != nil {
		s.client.Close()
		s.client = nil
	}
}

// client knows what the library keeps to itself when it gives a record up: why there is no connection.
type client struct {
	*kgo.Client
	refused atomic.Pointer[error] // how the last attempt to connect failed; nil: it did not
	late    atomic.Bool           // it was closed because a request had no answer in time
}

var _ kgo.HookBrokerConnect = (*client)(nil)

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (c *client) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	switch {
	case err == nil:
		c.refused.Store(nil)
	case !errors.Is(err, context.Canceled):
		c.refused.Store(&err)
	}
}

// reason is why a record of a request with ctx was given up with err.
func (c *client) reason(ctx context.Context, err error) error {
	refused := c.refused.Load()
	switch _, answered := errors.AsType[*kerr.Error](err); {
	case err == nil, answered:
		return err
	case refused != nil:
		return fmt.Errorf("no broker is reached: %w", *refused)
	case errors.Is(err, context.DeadlineExceeded), c.late.Load(): // the client looks ahead, and may say it before the context does
		return bulk.ErrLate
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return err
}

// giveUp closes a client at the end of a request's context; what it has not sent fails, and the next Send connects anew.
func (s *Sink) giveUp(ctx context.Context, c *client) {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		c.late.Store(true)
	}
	s.mu.Lock()
	if s.client == c {
		s.client = nil
	}
	s.mu.Unlock()
	c.Close()
}

func (s *Sink) connected() (*client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil {
		c := new(client)
		var err error
		if c.Client, err = kgo.NewClient(append(slices.Clip(s.options), kgo.WithHooks(c))...); err != nil {
			return nil, stream.Fatal(err)
		}
		s.client = c
	}
	return s.client, nil
}

// Send produces items and waits for the brokers. Within a partition of the topic Kafka stores messages in turn, and once one
// fails so do those behind it.
func (s *Sink) Send(ctx context.Context, items []*bulk.Item) error {
	if s.o.Transactions == nil {
		return s.sendAlone(ctx, items)
	}
	within := map[*kafka.Producer][]*bulk.Item{} // nil: in no transaction
	s.mu.Lock()
	for _, it := range items {
		p := s.producers[it.Partition]
		within[p] = append(within[p], it)
	}
	s.mu.Unlock()
	var sending sync.WaitGroup
	for p, some := range within {
		if p != nil {
			sending.Go(func() { s.sendWithin(ctx, p, some) })
		}
	}
	defer sending.Wait()
	if alone := within[nil]; len(alone) > 0 {
		return s.sendAlone(ctx, alone)
	}
	return nil
}

func (s *Sink) sendAlone(ctx context.Context, items []*bulk.Item) error {
	client, err := s.connected()
	if err != nil {
		return err
	}
	// The client waits for the answer to a request that is under way, whatever the context: closing it is the way out.
	defer context.AfterFunc(ctx, func() { s.giveUp(ctx, client) })()
	s.produce(items, func(m *kgo.Record, done func(error)) {
		client.Produce(ctx, m, func(_ *kgo.Record, err error) { done(client.reason(ctx, err)) })
	})
	return nil
}

// sendWithin produces in a transaction. A message of which nobody knows whether it is in there is not sent again: the transaction is
// given up, and so is the tenure. What is shown already is in one that is aborted, for the dead letters of what the brokers refuse.
func (s *Sink) sendWithin(ctx context.Context, p *kafka.Producer, items []*bulk.Item) {
	defer context.AfterFunc(ctx, func() { p.Fail(context.Cause(ctx)) })()
	again := 0
	for again < len(items) && int64(items[again].Record.Pos.Offset()) < p.Shown() {
		again++
	}
	send := func(m *kgo.Record, done func(error)) { p.Produce(ctx, m, done) }
	if again > 0 {
		s.produce(items[:again], send)
		p.Abort(ctx)
	}
	s.produce(items[again:], send)
	for _, it := range items {
		if it.Err != nil && !bulk.IsRefused(it.Err) {
			p.Fail(it.Err)
			return
		}
	}
}

// produce makes messages of items, and sets their outcomes.
func (s *Sink) produce(items []*bulk.Item, send func(m *kgo.Record, done func(error))) {
	records := make([]kgo.Record, len(items))
	headers := make([]kgo.RecordHeader, 3*len(items))
	text := make([]byte, 0, 32*len(items))
	pipeline := []byte(s.o.Pipeline)
	var waiting sync.WaitGroup
	waiting.Add(len(items))
	for i, it := range items {
		place := stream.Place{Pos: it.Record.Pos, Index: it.Index}
		from := len(text)
		text = place.AppendVersion(text)
		h := headers[3*i : 3*i+3 : 3*i+3]
		h[0] = kgo.RecordHeader{Key: origin.PipelineHeader, Value: pipeline}
		h[1] = kgo.RecordHeader{Key: origin.PartitionHeader, Value: []byte(it.Partition)}
		h[2] = kgo.RecordHeader{Key: origin.PositionHeader, Value: text[from:len(text):len(text)]}
		records[i] = kgo.Record{Topic: s.cfg.Topic, Key: it.Key, Value: it.Body, Headers: h, Timestamp: it.Record.Time}
		send(&records[i], func(err error) {
			it.Err = s.meaning(err)
			waiting.Done()
		})
	}
	waiting.Wait()
}

// meaning is what an error says about a message: refused, fatal, or to be written again. Brokers refuse a batch as a whole: the good messages in
// it are dead letters too, since in the log others follow already.
func (s *Sink) meaning(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge), errors.Is(err, kerr.InvalidRecord), errors.Is(err, kerr.InvalidTimestamp):
		return bulk.Refused(err)
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed):
		return stream.Fatal(fmt.Errorf("topic %s: %w; allow Write, Describe and IdempotentWrite on it", s.cfg.Topic, err))
	case errors.Is(err, kerr.SaslAuthenticationFailed):
		return stream.Fatal(fmt.Errorf("topic %s: %w; check sasl", s.cfg.Topic, err))
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return stream.Fatal(fmt.Errorf("there is no topic %s; create it", s.cfg.Topic))
	}
	return err
}

// Probe says why the topic cannot be written; a FatalError if waiting does not help.
func (s *Sink) Probe(ctx context.Context) error {
	client, err := kgo.NewClient(s.options...)
	if err != nil {
		return stream.Fatal(err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	for began := time.Now(); ; {
		topics, err := admin.ListTopics(kadm.WithAuthorizedOps(ctx), s.cfg.Topic) // or the client would answer from memory
		if err == nil {
			err = topics[s.cfg.Topic].Err
		}
		switch {
		case err == nil:
			return s.checkSize(ctx, admin)
		case !errors.Is(err, kerr.UnknownTopicOrPartition) || time.Since(began) > createdGrace:
			return s.meaning(fmt.Errorf("ask the brokers for topic %s: %w", s.cfg.Topic, err))
		}
		select {
		case <-time.After(createdGrace / 20):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// createdGrace is how long a topic may be unknown after it was created, or its broker started.
const createdGrace = 2 * time.Second

// checkSize compares max_message with what the topic takes, if we may know: a batch of many small messages can be as large.
func (s *Sink) checkSize(ctx context.Context, admin *kadm.Client) error {
	configs, err := admin.DescribeTopicConfigs(ctx, s.cfg.Topic)
	if err != nil {
		return nil
	}
	for _, c := range configs {
		for _, entry := range c.Configs {
			most, err := strconv.ParseInt(entry.MaybeValue(), 10, 64)
			if entry.Key == "max.message.bytes" && err == nil && most < s.cfg.MaxMessage+around {
				return stream.Fatal(fmt.Errorf("topic %s takes %d bytes; set max_message to %d or less, or its max.message.bytes to %d or more",
					s.cfg.Topic, most, most-around, s.cfg.MaxMessage+around))
			}
		}
	}
	return nil
}

// Repeats tells which messages of topics were there before, whatever their partitions. A reader has to see each partition from
// some point on; a topic has one sink. The zero value is ready to use by one goroutine.
type Repeats struct{ logs map[log]*origin.Repeats }

// log is a partition of a topic.
type log struct {
	topic     string
	partition int32
}

// Repeated says that a message comes again, by its headers. A message without them never does.
func (r *Repeats) Repeated(m *kgo.Record) bool {
	at := log{m.Topic, m.Partition}
	if r.logs == nil {
		r.logs = map[log]*origin.Repeats{}
	}
	if r.logs[at] == nil {
		r.logs[at] = new(origin.Repeats)
	}
	return r.logs[at].Repeated(string(header(m, origin.PipelineHeader)), string(header(m, origin.PartitionHeader)), string(header(m, origin.PositionHeader)))
}
