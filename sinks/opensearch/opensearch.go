// Package opensearch writes events to OpenSearch as documents, ahead of the commit and each exactly once.
//
// Reading order: this file (Config, Sink), encode.go (what an event becomes, and which id and index it has), script.go (which
// of two events a document keeps), send.go (one bulk request and what its answer means), setup.go (template, policy, checks),
// inspect.go (reading back). The loop that batches, repeats and keeps order is package bulk: the client library's own bulk
// indexer gives up writes that are answered 429, and resends after connection errors what has no id.
//
// How a document is there once. With action create its id is the event's identity (partition, position, index) and its index
// follows from the event alone, so that a replay meets its own document: 409, which is success. A data stream would find a
// repeat only within its newest backing index and double it after a rollover, so Probe refuses one.
//
// How a document is kept up to date. With action index its id is a column, and the newest event wins. Where positions of all
// partitions compare and fit into 53 bits (NATS: the stream's sequence), that is OpenSearch's external version: position × 1,024
// plus the event's index. Kinesis' sequence numbers have 186 bits, and Kafka's offsets say nothing between partitions: there the
// update is a script that compares the document's _position, _partition and _time with the event's exactly as
// stream.Ordering.Later says, whatever their size, within the shard's own lock on the document.
package opensearch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/sources/trust"
	"github.com/millrace-io/millrace/stream"
)

// Config is one index, or one family of indices.
type Config struct {
	// URL is a node or a load balancer: https://host:9200. Or URLs: several nodes, used in turn; one that does not answer is left
	// alone for some seconds. One of both is required.
	URL  string   `yaml:"url"`
	URLs []string `yaml:"urls"`

	// Index is where documents go. {date} is the day of event_time in UTC (2010-12-01), {month} the month (2010-12). An event
	// whose time is more than MaxSkew away from when the log took its record counts with the latter: a visitor's wrong clock
	// must not make indices. Required; lower case.
	Index string `yaml:"index"`

	// MaxSkew: see Index. Default: 168h.
	MaxSkew time.Duration `yaml:"max_skew"`

	// Alias is the name that readers use for all indices. Setup's template gives it to each of them. Default: none.
	Alias string `yaml:"alias"`

	// Action is what an event does. create (default): it is a document of its own. index: the document of its id gets the event's
	// values and no others, unless it has a later event's already. update: the same, and values that the event has not stay.
	// delete: the document goes, whatever it is.
	Action string `yaml:"action"`

	// ID is the column that names the document, by name or alias. Default for create: the event's identity. With a column, two
	// events of one id are one document of create: the first one that came. An event without it is a dead letter.
	ID string `yaml:"id"`

	// Columns are the document's fields, by name or alias. Default: all, and the properties.
	Columns []string `yaml:"columns"`

	// Delay is the longest that a write waits for company; default 100 ms. A healthy server has it in less than twice that.
	Delay time.Duration `yaml:"delay"`

	// Requests at once; default 4.
	Requests int `yaml:"requests"`

	// MaxBytes of one request before compression; default 4 MiB. A server that takes less halves it.
	MaxBytes int64 `yaml:"max_bytes" unit:"bytes"`

	// Timeout of one request; default 30s.
	Timeout time.Duration `yaml:"timeout"`

	// Gzip compresses requests. Default: true, but for servers on this machine.
	Gzip *bool `yaml:"gzip"`

	TLS      *trust.TLS `yaml:"tls"`
	User     string     `yaml:"user"` // basic auth
	Password string     `yaml:"password"`
	SigV4    *SigV4     `yaml:"sigv4"` // Amazon's signatures, with the credentials of the SDK's environment

	// What Setup gives new indices. Defaults: 1, 1, 1s.
	Shards          int           `yaml:"shards"`
	Replicas        *int          `yaml:"replicas"`
	RefreshInterval time.Duration `yaml:"refresh_interval"`
}

// SigV4 signs requests for Amazon OpenSearch.
type SigV4 struct {
	Service string `yaml:"service"` // es (default): domains; aoss: serverless collections
	Region  string `yaml:"region"`  // default: the SDK's
}

// EnsureDefaults sets what is zero.
func (c *Config) EnsureDefaults() {
	if c.Action == "" {
		c.Action = "create"
	}
	if c.MaxSkew == 0 {
		c.MaxSkew = 7 * 24 * time.Hour
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 4 << 20
	}
	if c.Shards == 0 {
		c.Shards = 1
	}
	if c.Replicas == nil {
		one := 1
		c.Replicas = &one
	}
	if c.RefreshInterval == 0 {
		c.RefreshInterval = time.Second
	}
	if c.SigV4 != nil && c.SigV4.Service == "" {
		c.SigV4.Service = "es"
	}
}

var (
	placeholder = regexp.MustCompile(`\{[^}]*\}`)
	validIndex  = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)
)

// Validate sets the defaults and lists every problem.
func (c *Config) Validate() error {
	c.EnsureDefaults()
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if (c.URL == "") == (len(c.URLs) == 0) {
		problem("url is missing, or there are url and urls; want one of them, such as https://host:9200")
	}
	for _, u := range c.nodes() {
		if p, err := url.Parse(u); err != nil || p.Scheme != "http" && p.Scheme != "https" || p.Host == "" || p.User != nil {
			problem("url is %q; want http or https, a host and a port; the user has a key of its own", redacted(u))
		}
	}
	switch plain := placeholder.ReplaceAllString(c.Index, "x"); {
	case c.Index == "":
		problem("index is empty; want a name such as clicks-{date}")
	case !validIndex.MatchString(plain) || len(plain) > 200:
		problem("index is %q; want lower-case letters, digits, '-', '_' and '.', and {date} or {month}", c.Index)
	}
	for _, p := range placeholder.FindAllString(c.Index, -1) {
		if p != "{date}" && p != "{month}" {
			problem("index has %s; want {date} or {month}", p)
		}
	}
	if c.Alias != "" && (!validIndex.MatchString(c.Alias) || c.Alias == c.Index) {
		problem("alias is %q; want another name than the index's, in lower case", c.Alias)
	}
	switch c.Action {
	case "create":
	case "index", "update", "delete":
		if c.ID == "" {
			problem("id is missing; want the column that names the document that %s is about", c.Action)
		}
		if placeholder.MatchString(c.Index) {
			problem("index is %q; a document that is kept up to date has one index, or it would be in one for each day", c.Index)
		}
	default:
		problem("action is %q; want create, index, update or delete", c.Action)
	}
	if c.Delay < 0 || c.Timeout < 0 || c.MaxSkew < 0 || c.RefreshInterval < 0 {
		problem("delay, timeout, max_skew or refresh_interval is negative")
	}
	if c.Requests < 0 || c.Requests > 64 {
		problem("requests is %d; want 1 to 64", c.Requests)
	}
	if c.MaxBytes < 64<<10 || c.MaxBytes > 100<<20 {
		problem("max_bytes is %d; want 64KiB to 100MiB", c.MaxBytes)
	}
	if c.SigV4 != nil && c.User != "" {
		problem("sigv4 and user are two ways to say who asks; want one")
	}
	if c.SigV4 != nil && c.SigV4.Service != "es" && c.SigV4.Service != "aoss" {
		problem("sigv4.service is %q; want es or aoss", c.SigV4.Service)
	}
	if err := c.TLS.Validate(); err != nil {
		problems = append(problems, err)
	}
	if (c.User == "") != (c.Password == "") {
		problem("user and password belong together; one is empty")
	}
	return errors.Join(problems...)
}

func (c *Config) nodes() []string {
	if c.URL != "" {
		return []string{c.URL}
	}
	return c.URLs
}

func redacted(u string) string {
	if p, err := url.Parse(u); err == nil {
		return p.Redacted()
	}
	return "not a URL"
}

// CheckSchema says what is wrong with c for events of schema.
func (c *Config) CheckSchema(schema *stream.Schema) error {
	_, err := newEncoder(c, Options{}, stream.Tenure{Schema: schema})
	return err
}

// Options are what the pipeline knows and the file's entry does not say.
type Options struct {
	Name     string // of the sink
	Schema   *stream.Schema
	Ordering stream.Ordering // of the source's positions

	// Short says that all positions are below 2^53: then documents that are kept up to date have external versions.
	Short bool

	// Delete says that an event removes its document; nil: none does. Not with action create.
	Delete func(*stream.Event) bool

	// Mend writes an event over what it made before, as a replay by a mended pipeline file wants it; false: that stays.
	Mend bool

	Log *slog.Logger
}

// Sink writes to one family of indices.
type Sink struct {
	*bulk.Sink
	cfg  Config
	o    Options
	http *http.Client
	gzip bool

	nodes []node
	next  atomic.Uint64

	aws func() (aws.Config, error)
}

// node is one server.
type node struct {
	url  string
	dead atomic.Int64 // until when it is left alone, in Unix nanoseconds
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
	s := &Sink{cfg: cfg, o: o}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost, transport.ResponseHeaderTimeout, transport.DisableCompression = 64, 0, true
	// By HTTP/2 a request that is given up leaves its connection to the next one: a dead connection has to be noticed.
	transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: cfg.Timeout / 2, PingTimeout: cfg.Timeout / 2}
	if cfg.TLS != nil {
		t, err := cfg.TLS.Load()
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = t
	} else {
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	s.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	s.nodes = make([]node, len(cfg.nodes()))
	local := true
	for i, u := range cfg.nodes() {
		s.nodes[i].url = strings.TrimRight(u, "/")
		p, _ := url.Parse(u)
		local = local && (p.Hostname() == "127.0.0.1" || p.Hostname() == "localhost" || p.Hostname() == "::1")
	}
	s.gzip = !local
	if cfg.Gzip != nil {
		s.gzip = *cfg.Gzip
	}
	s.aws = sync.OnceValues(loadAWS)
	order := map[string]bulk.Order{"create": bulk.Any, "index": bulk.Newest, "delete": bulk.Newest, "update": bulk.OneByOne}[cfg.Action]
	s.Sink = bulk.New(s, bulk.Options{
		Name: o.Name, Order: order, Delay: cfg.Delay, Items: 5000, Bytes: int(cfg.MaxBytes), Lanes: cfg.Requests, Timeout: cfg.Timeout, Log: o.Log,
	})
	return s, nil
}

// Idle lets go of the connections.
func (s *Sink) Idle() { s.http.CloseIdleConnections() }

// Encoder returns the encoder of one tenure.
func (s *Sink) Encoder(t stream.Tenure) (bulk.Encoder, error) { return newEncoder(&s.cfg, s.o, t) }

// ask sends one request that is no bulk request, and returns the answer's body. A status from 300 on is an *answerError.
func (s *Sink) ask(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	status, text, _, err := s.roundTrip(ctx, method, path, body, "application/json")
	if err != nil {
		return nil, err
	}
	if status >= 300 {
		return nil, newAnswerError(status, text)
	}
	return text, nil
}
