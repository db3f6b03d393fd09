// Package kinesis puts the transformed events into a Kinesis data stream for other consumers, ahead of the commit.
//
// Reading order: this file (Config, Sink), send.go (calls, and what their answers mean), aggregate.go (many events in one
// record).
//
// PutRecords stores the records of a call in any order, and some of them only. So a partition key is in one call once: its next
// event is put when the one before it is stored, and its events are in the log's order, whatever fails. One key alone has a
// record for each round trip; with aggregate, as many as fit into a record.
//
// Kinesis drops no repeats: what was put and not committed is put again after a crash, as is a call whose answer was lost. Kinesis
// has no headers either, so where an event comes from stands in its document, as _partition and _position. Of the events with one
// partition key and one _partition, _position only grows, but for repeats (its text order is log order): a consumer drops those
// whose _position is not after the last one's. Records of value record do not say it, unless they are aggregated: then they
// have the tags that package origin names.
//
// What the credentials must allow: kinesis:PutRecords and kinesis:DescribeStreamSummary on the stream.
package kinesis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"sync"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/sinks/document"
	source "github.com/millrace-io/millrace/sources/kinesis"
	"github.com/millrace-io/millrace/stream"
)

// Config is one stream. Region, endpoint and credentials come from the SDK's own environment.
type Config struct {
	Stream string `yaml:"stream"` // name or ARN; has to exist

	// Key is the partition key, which decides a record's shard and order: a column, by name or alias. Default: the record's key.
	// An event without one goes to any shard. A key of more than 256 bytes stands as its SHA-256.
	Key string `yaml:"key"`

	// Value is what a record holds: json (default), the event as package document has it; or record, the bytes as they came.
	Value string `yaml:"value"`

	// Columns of json: default all, and the properties.
	Columns []string `yaml:"columns"`

	// Aggregate packs events of one key into one record, as the Kinesis Producer Library does: consumers need its
	// deaggregation, which the Kinesis Client Library and millrace have. Default false.
	Aggregate bool `yaml:"aggregate"`

	// Delay is the longest that a write waits for company; default 20 ms.
	Delay time.Duration `yaml:"delay"`

	// MaxRecord is the most bytes of a record that the stream takes, its key included. Default 1 MiB, as that of streams; 1 KiB
	// to 10 MiB. A larger event is a dead letter.
	MaxRecord int64 `yaml:"max_record" unit:"bytes"`

	// Timeout of one call; default 10s.
	Timeout time.Duration `yaml:"timeout"`
}

// EnsureDefaults sets what is zero.
func (c *Config) EnsureDefaults() {
	if c.Value == "" {
		c.Value = "json"
	}
	if c.Delay == 0 {
		c.Delay = 20 * time.Millisecond
	}
	if c.MaxRecord == 0 {
		c.MaxRecord = source.DefaultRecordBytes
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
}

var streamName = regexp.MustCompile(`^([a-zA-Z0-9_.-]{1,128}|arn:[a-z-]+:kinesis:[a-z0-9-]+:[0-9]{12}:stream/[a-zA-Z0-9_.-]{1,128})$`)

// Validate sets the defaults and lists every problem.
func (c *Config) Validate() error {
	c.EnsureDefaults()
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Stream == "" {
		problem("stream is empty; want the name of a Kinesis data stream, or its ARN")
	} else if !streamName.MatchString(c.Stream) {
		problem("stream is %q; want the stream's name: letters, digits, and . _ -; or its ARN", c.Stream)
	}
	if err := document.CheckMessages(c.Value, c.Columns); err != nil {
		problems = append(problems, err)
	}
	if c.Delay < 0 || c.Timeout < 0 {
		problem("delay or timeout is negative")
	}
	if c.MaxRecord < 1<<10 || c.MaxRecord > source.MaxRecordBytes {
		problem("max_record is %d bytes; want 1KiB to 10MiB", c.MaxRecord)
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
}

// Sink writes to one stream.
type Sink struct {
	*bulk.Sink
	cfg     Config
	o       Options
	http    *http.Client
	connect func() (*kinesis.Client, error)
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
	transport := http.DefaultTransport.(*http.Transport).Clone()
	// By HTTP/2 a call that is given up leaves its connection to the next one: a dead connection has to be noticed.
	transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: cfg.Timeout / 2, PingTimeout: cfg.Timeout / 2}
	s := &Sink{cfg: cfg, o: o, http: &http.Client{Transport: transport}}
	s.connect = sync.OnceValues(s.load)
	options := bulk.Options{
		Name: o.Name, Order: bulk.OneByOne, Delay: cfg.Delay, Items: source.MaxCallRecords, Bytes: 4 << 20, Timeout: cfg.Timeout, Log: o.Log,
	}
	if cfg.Aggregate {
		options.Order, options.Items = bulk.InTurn, 10_000
	}
	s.Sink = bulk.New(s, options)
	return s, nil
}

// load reads the environment and ~/.aws.
func (s *Sink) load() (*kinesis.Client, error) {
	cfg, err := config.LoadDefaultConfig(context.Background()) // no call goes out
	if err != nil {
		return nil, stream.Fatal(fmt.Errorf("the AWS configuration in the environment or in ~/.aws: %w", err))
	}
	if cfg.Region == "" {
		return nil, stream.Fatal(fmt.Errorf("%s: no region; set AWS_REGION to the stream's", s))
	}
	if b, ok := cfg.HTTPClient.(*awshttp.BuildableClient); ok { // it knows AWS_CA_BUNDLE
		s.http.Transport.(*http.Transport).TLSClientConfig = b.GetTransport().TLSClientConfig
	}
	return source.PutClient(cfg, func(o *kinesis.Options) { o.HTTPClient = s.http }), nil
}

// Encoder returns the encoder of one tenure.
func (s *Sink) Encoder(t stream.Tenure) (bulk.Encoder, error) { return newEncoder(&s.cfg, t) }

// encoder makes the key of a write its partition key.
type encoder struct {
	*document.Messages
	cfg       *Config
	partition string
}

func newEncoder(c *Config, t stream.Tenure) (*encoder, error) {
	m, err := document.NewMessages(t.Schema, t.Partition, c.Key, c.Value, c.Columns)
	return &encoder{m, c, t.Partition}, err
}

func (e *encoder) Encode(key, body []byte, ev *stream.Event) ([]byte, []byte, error) {
	from := len(key)
	own := string(e.AppendKey(key, ev)[from:])
	if own == "" { // the same one when it comes again
		own = e.partition + "/" + stream.PlaceOf(e.partition, ev).Version()
	}
	key, body = append(key, source.PartitionKey(own)...), e.AppendValue(body, ev)
	if n := len(key) + len(body) + e.cfg.around(); int64(n) > e.cfg.MaxRecord {
		return key, body, fmt.Errorf("the record has %d bytes; max_record is %d", n, e.cfg.MaxRecord)
	}
	return key, body, nil
}

// Idle lets go of the connections.
func (s *Sink) Idle() { s.http.CloseIdleConnections() }

// Probe says why the stream cannot be written; a FatalError if waiting does not help.
func (s *Sink) Probe(ctx context.Context) error {
	client, err := s.connect()
	if err != nil {
		return err
	}
	in := &kinesis.DescribeStreamSummaryInput{}
	in.StreamName, in.StreamARN = source.StreamNamed(s.cfg.Stream)
	out, err := client.DescribeStreamSummary(ctx, in)
	s.Idle()
	if err != nil {
		return source.Explain("ask for", s.String(), err)
	}
	d := out.StreamDescriptionSummary
	if d.MaxRecordSizeInKiB != nil && *d.MaxRecordSizeInKiB > 0 && s.cfg.MaxRecord > int64(*d.MaxRecordSizeInKiB)<<10 {
		return stream.Fatal(fmt.Errorf("%s takes records of %d KiB; max_record is %d bytes: lower it, or raise the stream's", s, *d.MaxRecordSizeInKiB, s.cfg.MaxRecord))
	}
	if d.StreamStatus != types.StreamStatusActive && d.StreamStatus != types.StreamStatusUpdating {
		return fmt.Errorf("%s is %s", s, d.StreamStatus)
	}
	return nil
}

func (s *Sink) String() string { return "stream " + s.cfg.Stream }
