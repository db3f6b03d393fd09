// Package dynamodb writes events to a DynamoDB table as items that always have the newest event's values, ahead of the commit.
//
// Reading order: this file (Config, Sink), encode.go (what an event becomes), value.go (its values), send.go (conditional
// writes and batches, and what their answers mean), sign.go and wire.go (how calls go out), pace.go (the table's limiter),
// setup.go (checks), check.go (reading back).
//
// An item holds absolute values, never sums that a replay would add again, and where they come from: _partition, _position
// and _time. Every write is conditional: it takes effect only if its event is later than the item's, as
// stream.Ordering.Later says, so that neither a replay nor a zombie, of this partition, of its parent, or of one that the key
// has left, changes anything. Of the events of one key that wait, only the newest is sent. Where the table's key holds the
// event's identity (_id) no two events share an item, and writes go in batches without conditions.
//
// A deleted item stays as a mark (_deleted) with its place in the log, or a late write would bring it back; give the table a
// TTL to be rid of marks, and leave them out when you read.
//
// Of Amazon's SDK this package uses the configuration, the credentials and the calls on tables. Writes have a short path of
// their own, with their own signatures and HTTP/1.1: the SDK's middleware and net/http take several times the processor time that
// a write has here.
package dynamodb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/stream"
)

// Config is one table.
type Config struct {
	// Table is its name; the region, the endpoint and the credentials are the SDK's environment. Required.
	Table string `yaml:"table"`

	// Key says which columns make the table's key.
	Key Key `yaml:"key"`

	// Columns are the item's attributes, by name or alias, beside the key. Default: all, and the properties.
	Columns []string `yaml:"columns"`

	// Sets are list columns that become string sets; other lists are lists.
	Sets []string `yaml:"sets"`

	// TTL gives items a time to live, from the event's time on.
	TTL *TTL `yaml:"ttl"`

	// Delay is the longest that a write waits for company; default 100 ms.
	Delay time.Duration `yaml:"delay"`

	// Requests at once, for the table; default 64. Throttling lowers it by itself, and success raises it again.
	Requests int `yaml:"requests"`

	// Timeout of one request; default 10s.
	Timeout time.Duration `yaml:"timeout"`
}

// Key names the columns of the table's key: of strings (S) or numbers (N). _id stands for the event's identity: partition,
// position and index. The attributes have the columns' names.
type Key struct {
	PK string `yaml:"pk"` // partition key; required
	SK string `yaml:"sk"` // sort key; default: none
}

// TTL is an item's end.
type TTL struct {
	Attribute string        `yaml:"attribute"` // default expires_at: seconds since 1970
	After     time.Duration `yaml:"after"`     // after event_time, or where there is none, after the log took the record
}

// EnsureDefaults sets what is zero.
func (c *Config) EnsureDefaults() {
	if c.Requests == 0 {
		c.Requests = 64
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.TTL != nil && c.TTL.Attribute == "" {
		c.TTL.Attribute = "expires_at"
	}
}

// Validate sets the defaults and lists every problem.
func (c *Config) Validate() error {
	c.EnsureDefaults()
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Table == "" {
		problem("table is empty; want the table's name")
	}
	if c.Key.PK == "" {
		problem("key.pk is missing; want the column that is the table's partition key")
	}
	if c.Key.PK == c.Key.SK && c.Key.SK != "" {
		problem("key.pk and key.sk are both %s; want two columns", c.Key.PK)
	}
	if c.TTL != nil && c.TTL.After <= 0 {
		problem("ttl.after is %s; want how long after its event an item lives, such as 720h", c.TTL.After)
	}
	if c.Requests < 1 || c.Requests > 1024 {
		problem("requests is %d; want 1 to 1024", c.Requests)
	}
	if c.Delay < 0 || c.Timeout < 0 {
		problem("delay or timeout is negative")
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

	// Delete says that an event removes its item; nil: none does.
	Delete func(*stream.Event) bool

	// Mend writes an event over what it made before, as a replay by a mended pipeline file wants it; false: that stays. Where the
	// table's key holds the event's identity it is always so.
	Mend bool

	Log *slog.Logger
}

// Sink writes to one table.
type Sink struct {
	*bulk.Sink
	cfg    Config
	o      Options
	layout *layout
	pace   *pace

	connect func() (*connection, error)
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
	l, err := newLayout(&cfg, o.Schema)
	if err != nil {
		return nil, err
	}
	s := &Sink{cfg: cfg, o: o, layout: l, pace: newPace(cfg.Requests)}
	s.connect = sync.OnceValues(s.load)
	options := bulk.Options{Name: o.Name, Order: bulk.Newest, Delay: cfg.Delay, Items: 500, Timeout: cfg.Timeout, Log: o.Log}
	if l.identity {
		options.Order = bulk.Any
	}
	s.Sink = bulk.New(s, options)
	return s, nil
}

// Idle lets go of the connections.
func (s *Sink) Idle() {
	if c, err := s.connect(); err == nil {
		c.transport.closeIdle()
	}
}

// Encoder returns the encoder of one tenure.
func (s *Sink) Encoder(t stream.Tenure) (bulk.Encoder, error) {
	return &encoder{layout: s.layout, o: s.o, partition: t.Partition}, nil
}

// layout is what items are made of.
type layout struct {
	pk, sk     attribute
	identity   bool // the key holds the event's identity
	columns    []attribute
	properties bool
	ttl        *TTL
}

// attribute is a column as DynamoDB has it.
type attribute struct {
	name   string
	prefix []byte // "name":
	column int    // -1: the event's identity; -2: there is none
	kind   stream.Type
	set    bool
}

const (
	identityColumn = -1
	noColumn       = -2
)

func newLayout(c *Config, schema *stream.Schema) (*layout, error) {
	l := &layout{ttl: c.TTL, sk: attribute{column: noColumn}}
	var problems []error
	find := func(key, name string) (a attribute) {
		i, ok := schema.Lookup(name)
		if !ok {
			problems = append(problems, fmt.Errorf("%s has %q, which is no column of the pipeline", key, name))
			return attribute{column: noColumn}
		}
		col := schema.Columns[i]
		return newAttribute(col.Name, i, col.Type)
	}
	keyColumn := func(key, name string) attribute {
		if name == "_id" {
			l.identity = true
			return newAttribute("_id", identityColumn, stream.Type{Kind: stream.String})
		}
		a := find(key, name)
		if a.column >= 0 && keyType(a.kind) == "" {
			problems = append(problems, fmt.Errorf("%s is %q of type %s; want a string, a number or a time", key, name, a.kind))
		}
		return a
	}
	l.pk = keyColumn("key.pk", c.Key.PK)
	if c.Key.SK != "" {
		l.sk = keyColumn("key.sk", c.Key.SK)
	}
	names := c.Columns
	if len(names) == 0 {
		l.properties = true
		for _, col := range schema.Columns {
			names = append(names, col.Name)
		}
	}
	for _, name := range names {
		if name == "properties" {
			l.properties = true
			continue
		}
		a := find("columns", name)
		if a.column == l.pk.column || a.column == l.sk.column {
			continue // the key is there anyway
		}
		a.set = slices.Contains(c.Sets, name)
		l.columns = append(l.columns, a)
	}
	for _, name := range c.Sets {
		if i, ok := schema.Lookup(name); !ok || schema.Columns[i].Type.Kind != stream.List {
			problems = append(problems, fmt.Errorf("sets has %q, which is no list column of the pipeline", name))
		}
	}
	return l, errors.Join(problems...)
}

func newAttribute(name string, column int, t stream.Type) attribute {
	return attribute{name: name, prefix: appendName(nil, name), column: column, kind: t}
}

// keyType is a key attribute's type in DynamoDB, empty for what cannot be one.
func keyType(t stream.Type) string {
	switch t.Kind {
	case stream.String, stream.Timestamp:
		return "S"
	case stream.Int, stream.Float, stream.Decimal:
		return "N"
	}
	return ""
}

// client is the SDK's, for everything but writes.
func (s *Sink) client() (*dynamodb.Client, error) {
	c, err := s.connect()
	if err != nil {
		return nil, err
	}
	return c.client, nil
}

func (s *Sink) String() string { return cmp.Or(s.cfg.Table, "no table") }

// describe is DescribeTable.
func (s *Sink) describe(ctx context.Context) (*dynamodb.DescribeTableOutput, error) {
	client, err := s.client()
	if err != nil {
		return nil, err
	}
	return client.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: &s.cfg.Table})
}
