// Package natslog is a JetStream stream as the collector's log. An event is accepted when the stream has acknowledged it: see
// package sources/nats for what an acknowledgement is worth, and for how partitions are read.
//
// The key of an event chooses its subject, SUBJECT.0 to SUBJECT.n-1, and stands in the header sources/nats.KeyHeader. The id of an
// event is its Nats-Msg-Id: one that is sent again within the stream's duplicate window is there once.
package natslog

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace-io/millrace/sources/collect"
	source "github.com/millrace-io/millrace/sources/nats"
	"github.com/millrace-io/millrace/sources/trust"
	"github.com/millrace-io/millrace/stream"
)

// Config is the nats entry of to in a collector's file.
type Config struct {
	URL     string `yaml:"url"`     // one or more servers, separated by commas; default nats://127.0.0.1:4222
	Stream  string `yaml:"stream"`  // has to exist, and to take the subjects
	Subject string `yaml:"subject"` // before the partition's number; default: the stream's name in lower case

	// Partitions is how many subjects the events are divided into. To change it is to move keys. Default 4, 1 to 1024.
	Partitions int `yaml:"partitions"`

	Credentials string     `yaml:"credentials"` // file with a user's JWT and key, as nsc writes it; default: none
	User        string     `yaml:"user"`        // default: none
	Password    string     `yaml:"password"`    // wanted with User
	Token       string     `yaml:"token"`       // default: none
	TLS         *trust.TLS `yaml:"tls"`         // if present, even if empty, encrypts; default: none
}

// EnsureDefaults fills in what is not said.
func (c *Config) EnsureDefaults() {
	if c.URL == "" {
		c.URL = nats.DefaultURL
	}
	if c.Subject == "" {
		c.Subject = strings.ToLower(c.Stream)
	}
	if c.Partitions == 0 {
		c.Partitions = 4
	}
}

func (c *Config) connection() *source.Connection {
	return &source.Connection{
		URL: c.URL, Stream: c.Stream, Credentials: c.Credentials, User: c.User, Password: c.Password, Token: c.Token, TLS: c.TLS,
	}
}

// Validate sets the defaults and returns all problems.
func (c *Config) Validate() error {
	c.EnsureDefaults()
	problems := []error{c.connection().Validate()}
	if strings.ContainsAny(c.Subject, " \t\r\n*>") || slices.Contains(strings.Split(c.Subject, "."), "") && c.Subject != "" {
		problems = append(problems, fmt.Errorf("subject is %q; want words with dots between, without wildcards", c.Subject))
	}
	if c.Partitions < 1 || c.Partitions > 1024 {
		problems = append(problems, fmt.Errorf("partitions is %d; want 1 to 1024", c.Partitions))
	}
	return errors.Join(problems...)
}

// Subjects are those that events are published to, by partition.
func (c *Config) Subjects() []string {
	subjects := make([]string, c.Partitions)
	for i := range subjects {
		subjects[i] = fmt.Sprintf("%s.%d", c.Subject, i)
	}
	return subjects
}

// Log publishes to one stream. It is safe for concurrent use.
type Log struct {
	cfg      Config
	conn     *nats.Conn
	js       jetstream.JetStream
	subjects []string
	next     atomic.Uint32 // for events without a key
}

var _ collect.Log = (*Log)(nil)

const (
	// maxPending bounds the messages whose acknowledgement is waited for; what is beyond fails.
	maxPending = 16 << 10

	// maxStall is how long a publish waits for room among them.
	maxStall = 2 * time.Second
)

// Open connects; the servers need not answer yet. Deadline is that of the collector: how long an acknowledgement is waited for.
func Open(cfg Config, deadline time.Duration, log *slog.Logger) (*Log, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	conn, err := cfg.connection().Connect(nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		log.Warn("nats connection", "error", err)
	}))
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	js, err := jetstream.New(conn, jetstream.WithPublishAsyncMaxPending(maxPending), jetstream.WithPublishAsyncTimeout(deadline))
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &Log{cfg: cfg, conn: conn, js: js, subjects: cfg.Subjects()}, nil
}

// JetStream is the client, for who keeps more than events in the server.
func (l *Log) JetStream() jetstream.JetStream { return l.js }

// Create makes the stream, or adds the subjects to it. duplicates is its duplicate window.
func (l *Log) Create(ctx context.Context, duplicates time.Duration) error {
	_, err := l.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: l.cfg.Stream, Subjects: l.subjects, Storage: jetstream.FileStorage, Duplicates: duplicates,
	})
	if err != nil {
		return fmt.Errorf("create the stream %s: %w", l.cfg.Stream, err)
	}
	return nil
}

// Append publishes all events, then waits for the acknowledgement of each.
func (l *Log) Append(ctx context.Context, events []collect.Event) error {
	acks := make([]jetstream.PubAckFuture, len(events))
	outcomes := make(collect.Outcomes, len(events))
	for i, e := range events {
		acks[i], outcomes[i] = l.publish(e)
		if outcomes[i] != nil && !errors.Is(outcomes[i], collect.ErrTooLarge) { // what follows would overtake it
			for j := range events[i:] {
				outcomes[i+j] = outcomes[i]
			}
			break
		}
	}
	failed := false
	for i, ack := range acks {
		if ack != nil {
			outcomes[i] = wait(ctx, ack)
		}
		failed = failed || outcomes[i] != nil
	}
	if failed {
		return outcomes
	}
	return nil
}

func (l *Log) publish(e collect.Event) (jetstream.PubAckFuture, error) {
	m := &nats.Msg{Subject: l.subject(e.Key), Data: e.Value, Header: nats.Header{}}
	if e.Key != "" && !strings.ContainsAny(e.Key, "\r\n") {
		m.Header.Set(source.KeyHeader, e.Key)
	}
	if e.ID != "" && !strings.ContainsAny(e.ID, "\r\n") {
		m.Header.Set(jetstream.MsgIDHeader, e.ID)
	}
	if most := l.conn.MaxPayload(); most > 0 && int64(m.Size()) > most {
		return nil, fmt.Errorf("%w: it takes %d bytes", collect.ErrTooLarge, most)
	}
	return l.js.PublishMsgAsync(m, jetstream.WithStallWait(maxStall))
}

func wait(ctx context.Context, ack jetstream.PubAckFuture) error {
	select {
	case <-ack.Ok():
		return nil
	case err := <-ack.Err():
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *Log) subject(key string) string {
	if key == "" {
		return l.subjects[l.next.Add(1)%uint32(len(l.subjects))]
	}
	h := fnv.New32a()
	h.Write([]byte(key))
	return l.subjects[h.Sum32()%uint32(len(l.subjects))]
}

// Probe says why the stream cannot be written at present; a stream.FatalError if waiting does not help.
func (l *Log) Probe(ctx context.Context) error {
	if !l.conn.IsConnected() {
		return errors.Join(errors.New("not connected to a NATS server"), l.conn.LastError())
	}
	s, err := l.js.Stream(ctx, l.cfg.Stream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return stream.Fatal(fmt.Errorf("stream %s: %w", l.cfg.Stream, err))
	case err != nil:
		return fmt.Errorf("ask for stream %s: %w", l.cfg.Stream, err)
	}
	for _, subject := range l.subjects {
		if !slices.ContainsFunc(s.CachedInfo().Config.Subjects, func(filter string) bool { return takes(filter, subject) }) {
			return stream.Fatal(fmt.Errorf("stream %s does not take the subject %s; it takes %s", l.cfg.Stream, subject, strings.Join(s.CachedInfo().Config.Subjects, ", ")))
		}
	}
	return nil
}

// takes says that a subject matches a filter.
func takes(filter, subject string) bool {
	filters, words := strings.Split(filter, "."), strings.Split(subject, ".")
	for i, f := range filters {
		switch {
		case f == ">":
			return i < len(words)
		case i >= len(words) || f != "*" && f != words[i]:
			return false
		}
	}
	return len(filters) == len(words)
}

// Close ends the connection; acknowledgements that are waited for do not come.
func (l *Log) Close() { l.conn.Close() }
