// Package redis writes events to Redis as hashes that always have the newest event's values, ahead of the commit: one key
// for each value of a column, as pages and services read it.
//
// Reading order: this file (Config, Sink), encode.go (what an event becomes), script.lua (the conditional write), send.go
// (pipelines, and what answers mean), connect.go (connections that can be given up), check.go (reading back).
//
// A hash holds absolute values, never sums that a replay would add again, and where they come from: _partition and
// _position, and _time where times order the events. A script, one call for each key, writes only if its event is later
// than the hash's, as stream.Ordering.Later says, so that neither a replay nor a zombie changes anything. Of the events of
// one key that wait, only the newest is sent.
//
// What is deleted stays as a mark with its place in the log (_deleted), or a late write would bring it back; leave marks
// out when you read. A mark goes by itself after Tombstones. A row ends TTL after its event, by the server's clock. An
// event that is past its end when it is written leaves such a mark too: it is the newest of its key, and without the mark
// an older event that is still to live would come back. Of a row that ended in its time nothing is left. So a replay can
// bring back an older event of its key only if that one has a later event time by which it still lives.
//
// The server has to keep what it took: an eviction policy other than noeviction removes rows with their places, and a
// server that loses what it acknowledged (a failover to a replica that is behind; appendfsync everysec and a power cut)
// leaves the sink behind the commit. millrace verify tells.
//
// It wants Redis 5 or newer, or what speaks and runs Lua as Redis does.
package redis

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/sources/trust"
	"github.com/millrace-io/millrace/stream"
)

// Config is one place in one server or cluster.
type Config struct {
	// Addresses are the server's host:port, or some of a cluster's. At least one.
	Addresses []string `yaml:"addresses"`

	Username string     `yaml:"username"` // default: the server's default user
	Password string     `yaml:"password"` // default: none
	TLS      *trust.TLS `yaml:"tls"`      // if present, even if empty, encrypts; default: none
	Database int        `yaml:"database"` // a cluster has only 0; default 0

	// Key is the column, by name or alias, that a row is about: of strings, numbers or times. Required.
	Key string `yaml:"key"`

	// Prefix stands before every key. The rows of a sink should have one of their own, which millrace verify looks at.
	Prefix string `yaml:"prefix"`

	// Value is what a row holds: fields (default), a field for each column; or json, the one field json with the event as
	// package document has it.
	Value string `yaml:"value"`

	// Columns are the row's, by name or alias. Default: all, and the properties. Nulls have no field.
	Columns []string `yaml:"columns"`

	// TTL is how long a row lives after event_time, or where there is none, after the log took the record. Default: for ever.
	TTL time.Duration `yaml:"ttl"`

	// Tombstones is how long the mark of a deleted row stays: longer than a process may be out of touch and go on, and than
	// what is read again after a crash takes. Default 24h.
	Tombstones time.Duration `yaml:"tombstones"`

	// Delay is the longest that a write waits for company; default 20 ms.
	Delay time.Duration `yaml:"delay"`

	// Timeout of one request; default 30s.
	Timeout time.Duration `yaml:"timeout"`
}

// EnsureDefaults sets what is zero.
func (c *Config) EnsureDefaults() {
	if c.Value == "" {
		c.Value = "fields"
	}
	if c.Tombstones == 0 {
		c.Tombstones = 24 * time.Hour
	}
	if c.Delay == 0 {
		c.Delay = 20 * time.Millisecond
	}
}

// Validate sets the defaults and lists every problem.
func (c *Config) Validate() error {
	c.EnsureDefaults()
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if len(c.Addresses) == 0 {
		problem("addresses is empty; want at least one host:port")
	}
	for _, a := range c.Addresses {
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" || strings.Contains(a, "/") {
			problem("addresses has %q; want host:port", a)
		}
	}
	if c.Username != "" && c.Password == "" {
		problem("password is empty; want the password of %s", c.Username)
	}
	if err := c.TLS.Validate(); err != nil {
		problems = append(problems, err)
	}
	if c.Database < 0 {
		problem("database is %d; want 0 or more", c.Database)
	}
	if c.Key == "" {
		problem("key is missing; want the column that a row is about")
	}
	if c.Value != "fields" && c.Value != "json" {
		problem("value is %q; want fields or json", c.Value)
	}
	if c.TTL < 0 || c.TTL > 0 && c.TTL < time.Second {
		problem("ttl is %s; want how long after its event a row lives, 1s or more", c.TTL)
	}
	if c.Tombstones < time.Second {
		problem("tombstones is %s; want how long the mark of a deleted row stays, 1s or more", c.Tombstones)
	}
	if c.Delay < 0 {
		problem("delay is %s; want 0 or more", c.Delay)
	}
	if c.Timeout < 0 {
		problem("timeout is %s; want 0 or more", c.Timeout)
	}
	return errors.Join(problems...)
}

// CheckSchema says what is wrong with c for events of schema.
func (c *Config) CheckSchema(schema *stream.Schema) error {
	_, err := newLayout(c, schema)
	return err
}

// Options are what the pipeline knows and the file's entry does not say.
type Options struct {
	Name     string // of the sink
	Schema   *stream.Schema
	Ordering stream.Ordering // of the source's positions

	// Delete says that an event removes its row; nil: none does.
	Delete func(*stream.Event) bool

	// Mend writes an event over what it made before, as a replay by a mended pipeline file wants it; false: that stays.
	Mend bool

	Log *slog.Logger

	dial dialer // of tests
}

// Sink writes to one place.
type Sink struct {
	*bulk.Sink
	cfg     Config
	o       Options
	layout  *layout
	options rueidis.ClientOption
	script  string // its name

	connecting chan struct{} // holds an element while somebody connects

	mu   sync.Mutex
	link *link // nil while there is none
}

var _ stream.Upsert = (*Sink)(nil)

// New returns the sink. It touches the files that TLS names, and nothing outside.
func New(cfg Config, o Options) (*Sink, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l, err := newLayout(&cfg, o.Schema)
	if err != nil {
		return nil, err
	}
	s := &Sink{cfg: cfg, o: o, layout: l, script: nameOf(script), connecting: make(chan struct{}, 1)}
	s.options = rueidis.ClientOption{
		InitAddress: cfg.Addresses, Username: cfg.Username, Password: cfg.Password, SelectDB: cfg.Database, ClientName: "millrace",
		Dialer:       net.Dialer{Timeout: 5 * time.Second},
		DisableCache: true, // nothing is read
		DisableRetry: true, // the loop does that
	}
	if cfg.TLS != nil {
		if s.options.TLSConfig, err = cfg.TLS.Load(); err != nil {
			return nil, err
		}
	}
	s.Sink = bulk.New(s, bulk.Options{Name: o.Name, Order: bulk.Newest, Delay: cfg.Delay, Items: 500, Timeout: cfg.Timeout, Log: o.Log})
	return s, nil
}

// Encoder returns the encoder of one tenure.
func (s *Sink) Encoder(t stream.Tenure) (bulk.Encoder, error) { return s.encoder(t.Partition) }

func (s *Sink) String() string { return strings.Join(s.cfg.Addresses, ", ") }
