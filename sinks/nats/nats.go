// Package nats publishes the transformed events to a JetStream stream for other consumers, ahead of the commit.
//
// Reading order: this file (Config, Sink), subject.go (where a message goes), send.go (publishing, and what the answers mean).
//
// A message's Nats-Msg-Id is made of the pipeline, the sink, the partition and the position, so that the stream stores one that
// comes again within its duplicate window once. What comes again later, after a crash with a long way back to the commit, is
// there twice: give the stream a duplicate window (duplicates) as long as the parquet sink's roll.age, or drop repeats where
// they are read, by the headers: see sinks/origin.Repeats.
//
// Messages of one key are stored in the log's order, whatever fails: one is published when the one before it is acknowledged.
// Messages of other keys do not wait for that, so one key alone has a message for each round trip. While nothing fails, all
// messages of a partition of the source are in order; of a request that a stream takes in part, as it does when its leader
// changes or when it is full, those that it did not take come up to max_pending messages late.
package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/sinks/document"
	"github.com/millrace-io/millrace/sinks/origin"
	source "github.com/millrace-io/millrace/sources/nats"
	"github.com/millrace-io/millrace/sources/trust"
	"github.com/millrace-io/millrace/stream"
)

// Config is one stream.
type Config struct {
	URL    string `yaml:"url"`    // one or more servers, separated by commas; default nats://127.0.0.1:4222
	Stream string `yaml:"stream"` // has to exist, and to take the subject

	// Subject of the messages, such as clicks.{country}: a word in braces is a column, by name or alias, whose value becomes the
	// word. What a subject may not hold in a value becomes an underscore, as does no value at all. The first word is a word.
	Subject string `yaml:"subject"`

	// Key is what keeps messages in order: a column, by name or alias. Default: the record's key. It is the header of
	// sources/nats.KeyHeader. Messages without one keep the order of their subject, if that has columns, else none.
	Key string `yaml:"key"`

	Credentials string     `yaml:"credentials"` // file with a user's JWT and key, as nsc writes it; default: none
	User        string     `yaml:"user"`        // default: none
	Password    string     `yaml:"password"`    // wanted with User
	Token       string     `yaml:"token"`       // default: none
	TLS         *trust.TLS `yaml:"tls"`         // if present, even if empty, encrypts; default: none

	// Value is what a message holds: json (default), the event as package document has it; or record, the bytes as they came.
	Value string `yaml:"value"`

	// Columns of json: default all, and the properties.
	Columns []string `yaml:"columns"`

	// Delay is the longest that a write waits for company; default 20 ms.
	Delay time.Duration `yaml:"delay"`

	// MaxPending is the most messages of a request: they are published without waiting for each other's acknowledgement. Four
	// requests may be under way, each of partitions of its own. Default 1000, 1 to 1000.
	MaxPending int `yaml:"max_pending"`

	// Timeout is how long acknowledgements are waited for; default 10s.
	Timeout time.Duration `yaml:"timeout"`
}

// EnsureDefaults sets what is zero.
func (c *Config) EnsureDefaults() {
	if c.URL == "" {
		c.URL = nats.DefaultURL
	}
	if c.Value == "" {
		c.Value = "json"
	}
	if c.Delay == 0 {
		c.Delay = 20 * time.Millisecond
	}
	if c.MaxPending == 0 {
		c.MaxPending = origin.Disorder
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
}

func (c *Config) connection() *source.Connection {
	return &source.Connection{
		URL: c.URL, Stream: c.Stream, Credentials: c.Credentials, User: c.User, Password: c.Password, Token: c.Token, TLS: c.TLS,
	}
}

// Validate sets the defaults and lists every problem.
func (c *Config) Validate() error {
	c.EnsureDefaults()
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if err := c.connection().Validate(); err != nil {
		problems = append(problems, err)
	}
	if err := checkSubject(c.Subject); err != nil {
		problems = append(problems, err)
	}
	if err := document.CheckMessages(c.Value, c.Columns); err != nil {
		problems = append(problems, err)
	}
	if c.Delay < 0 || c.Timeout < 0 {
		problem("delay or timeout is negative")
	}
	if c.MaxPending < 1 || c.MaxPending > origin.Disorder {
		problem("max_pending is %d; want 1 to %d", c.MaxPending, origin.Disorder)
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
	Connect        []nats.Option // come after those of the Config: a dialer; default: none
	Log            *slog.Logger
}

// Sink writes to one stream.
type Sink struct {
	*bulk.Sink
	cfg Config
	o   Options

	mu   sync.Mutex
	conn *connection // nil while no tenure needs one
}

var _ stream.Upsert = (*Sink)(nil)

// New returns the sink. It touches nothing outside.
func New(cfg Config, o Options) (*Sink, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Sink{cfg: cfg, o: o}
	s.Sink = bulk.New(s, bulk.Options{
		Name: o.Name, Order: bulk.LogOrder, Delay: cfg.Delay, Items: cfg.MaxPending, Timeout: cfg.Timeout, Log: o.Log,
	})
	return s, nil
}

// Encoder returns the encoder of one tenure.
func (s *Sink) Encoder(t stream.Tenure) (bulk.Encoder, error) { return newEncoder(&s.cfg, t) }

// encoder makes the key of a write its subject, a line's end, and the message's key.
type encoder struct {
	*document.Messages
	subject []word
}

func newEncoder(c *Config, t stream.Tenure) (*encoder, error) {
	subject, wrong := parseSubject(c.Subject, t.Schema)
	m, err := document.NewMessages(t.Schema, t.Partition, c.Key, c.Value, c.Columns)
	return &encoder{m, subject}, errors.Join(wrong, err)
}

// maxSubject keeps clear of the 4,096 bytes that a server takes of a line; it ends the connection of who sends more.
const maxSubject = 1024

func (e *encoder) Encode(key, body []byte, ev *stream.Event) ([]byte, []byte, error) {
	if key = appendSubject(key, e.subject, ev); len(key) > maxSubject {
		return key, body, fmt.Errorf("the subject has %d bytes; want at most %d", len(key), maxSubject)
	}
	return e.AppendKey(append(key, '\n'), ev), e.AppendValue(body, ev), nil
}

// Idle closes the connection.
func (s *Sink) Idle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// Probe says why the stream cannot be written; a FatalError if waiting does not help.
func (s *Sink) Probe(ctx context.Context) error {
	c, err := s.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	return c.takes(ctx, s.cfg.Stream, s.cfg.Subject)
}

func (s *Sink) String() string { return strings.TrimSpace(s.cfg.Stream + " " + s.cfg.Subject) }
