// Package kafkalog is a Kafka topic as the collector's log. An event is accepted when all in-sync replicas have it.
package kafkalog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/sources/collect"
	"github.com/millrace-io/millrace/sources/kafka"
	"github.com/millrace-io/millrace/sources/trust"
	"github.com/millrace-io/millrace/stream"
)

// Config is the kafka entry of to in a collector's file.
type Config struct {
	Brokers []string    `yaml:"brokers"` // some of the cluster's host:port; at least one
	Topic   string      `yaml:"topic"`   // has to exist
	TLS     *trust.TLS  `yaml:"tls"`     // if present, even if empty, encrypts; default: none
	SASL    *kafka.SASL `yaml:"sasl"`    // default: none

	// Linger is how long an event waits for others of its partition before it is sent. Default 1 ms, at most 1 s. While a
	// request is under way others gather by themselves.
	Linger time.Duration `yaml:"linger"`

	// MaxEvent is the most bytes of an event that the topic takes (max.message.bytes, less some 100 bytes). Default
	// 1,000,000; larger events are refused.
	MaxEvent int64 `yaml:"max_event" unit:"bytes"`
}

// maxBuffered bounds the bytes that wait in the client. The collector's own budget is smaller as a rule; this is for events
// whose requests were given up while they were on their way to a broker that does not answer.
const maxBuffered = 64 << 20

// EnsureDefaults fills in what is not said.
func (c *Config) EnsureDefaults() {
	if c.Linger == 0 {
		c.Linger = time.Millisecond
	}
	if c.MaxEvent == 0 {
		c.MaxEvent = 1_000_000
	}
}

func (c *Config) connection() *kafka.Connection {
	return &kafka.Connection{Brokers: c.Brokers, Topic: c.Topic, TLS: c.TLS, SASL: c.SASL}
}

// Validate sets the defaults and returns all problems.
func (c *Config) Validate() error {
	c.EnsureDefaults()
	connection := c.connection()
	var problems []error
	if c.Topic == "" {
		problems = append(problems, errors.New("topic is empty; want one topic"))
		connection.Topic = "any"
	}
	if err := connection.Validate(); err != nil {
		problems = append(problems, named(err)...)
	}
	if c.Linger > time.Second {
		problems = append(problems, fmt.Errorf("linger is %s; want at most 1s", c.Linger))
	}
	if c.MaxEvent < 1<<10 || c.MaxEvent > 64<<20 {
		problems = append(problems, fmt.Errorf("max_event is %d bytes; want 1KiB to 64MiB", c.MaxEvent))
	}
	return errors.Join(problems...)
}

// named takes joined problems apart, and calls the topic by its key here.
func named(err error) []error {
	var problems []error
	for text := range strings.SplitSeq(err.Error(), "\n") {
		if rest, ok := strings.CutPrefix(text, "topics has "); ok {
			text = "topic is " + rest
		}
		problems = append(problems, errors.New(text))
	}
	return problems
}

// Log produces to one topic. It is safe for concurrent use.
type Log struct {
	client *kgo.Client
	topic  string
}

var _ collect.Log = (*Log)(nil)

// New returns a log that connects when it is used. Deadline is that of the collector: how long an event is tried.
func New(cfg Config, deadline time.Duration, log *slog.Logger) (*Log, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	opts, err := cfg.connection().Options(log)
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(append(opts,
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), // as Kafka's own clients do
		kgo.ProducerBatchCompression(kgo.Lz4Compression(), kgo.NoCompression()),
		kgo.ProducerBatchMaxBytes(int32(cfg.MaxEvent)+512),
		kgo.ProducerLinger(cfg.Linger),
		kgo.RecordDeliveryTimeout(deadline),
		kgo.MaxBufferedBytes(maxBuffered),
		kgo.MaxBufferedRecords(1<<20),
	)...)
	if err != nil {
		return nil, err
	}
	return &Log{client: client, topic: cfg.Topic}, nil
}

// Append returns when the brokers have answered for all events. Kafka keeps the order of a key also over retries, for the
// producer is idempotent.
func (l *Log) Append(ctx context.Context, events []collect.Event) error {
	results := collect.NewResults(len(events))
	for i, e := range events {
		r := &kgo.Record{Topic: l.topic, Value: e.Value}
		if e.Key != "" {
			r.Key = []byte(e.Key)
		}
		l.client.TryProduce(ctx, r, func(_ *kgo.Record, err error) { results.Set(i, outcome(err)) })
	}
	return results.Wait(ctx)
}

func outcome(err error) error {
	if errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.RecordListTooLarge) {
		return fmt.Errorf("%w: %w", collect.ErrTooLarge, err)
	}
	return err
}

// Probe says why the topic cannot be written at present; a stream.FatalError if waiting does not help.
func (l *Log) Probe(ctx context.Context) error {
	topics, err := kadm.NewClient(l.client).ListTopics(ctx, l.topic)
	if err == nil {
		err = topics[l.topic].Err
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return stream.Fatal(fmt.Errorf("there is no topic %s", l.topic))
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.SaslAuthenticationFailed):
		return stream.Fatal(fmt.Errorf("topic %s: %w", l.topic, err))
	}
	return fmt.Errorf("ask the brokers for topic %s: %w", l.topic, err)
}

// Close gives up what is not sent.
func (l *Log) Close() { l.client.Close() }
