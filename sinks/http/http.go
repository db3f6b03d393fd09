// Package http posts the transformed events to a webhook in batches, ahead of the commit.
//
// A request's body is a JSON array, or lines, of events as package document has them. Its headers are those of Standard Webhooks
// (www.standardwebhooks.com): webhook-id, webhook-timestamp, and with a secret webhook-signature: "v1," and the base64 of
// the HMAC-SHA256, under the secret, of "id.timestamp.body", body being the bytes as they are sent, compressed ones if they are.
//
// Events come at least once, and in any order: a request whose answer is lost is sent again, and after a crash so are the events
// that were not committed, in other batches. webhook-id is made of a batch's content, so it only tells the first kind. A receiver
// drops repeats by the event: by event_id, or, where events have none or it is not theirs alone, by _partition and _position,
// which every event has.
//
// What the receiver's status makes of a batch:
//
//	2xx                      it has the events
//	408, 425, 429, 5xx       it is sent again, after what Retry-After says (10 minutes at most)
//	413                      it is sent again in smaller ones; an event that is too large by itself is a dead letter
//	3xx, 401, 403, 404,      the run ends: the address, the credentials or the format is wrong, whatever the events are
//	405, 407, 410, 415
//	any other 4xx            it is sent again in halves, until the events that are refused are alone: they are dead letters with
//	                         the status and the beginning of the answer
package http

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/sinks/document"
	"github.com/millrace-io/millrace/sources/trust"
	"github.com/millrace-io/millrace/stream"
)

// Config is one receiver.
type Config struct {
	URL string     `yaml:"url"` // http or https; required. It is never logged beyond the host
	TLS *trust.TLS `yaml:"tls"` // default: the system's certificates

	// Headers are added to every request, such as Authorization.
	Headers map[string]string `yaml:"headers"`

	// Secret signs the requests: base64, as it is or after "whsec_", of 24 to 64 bytes. Default: none, and no signature.
	Secret string `yaml:"secret"`

	// Format is json (default), one array of events, or ndjson, an event a line.
	Format string `yaml:"format"`

	Columns []string `yaml:"columns"` // of the events; default all, and the properties
	Gzip    bool     `yaml:"gzip"`    // compresses the bodies; default false

	MaxItems int           `yaml:"max_items"`              // most events of a request; default 100, 1 to 10,000
	MaxBytes int64         `yaml:"max_bytes" unit:"bytes"` // most bytes of a body before compression; default 1 MiB; a larger event is a dead letter
	Delay    time.Duration `yaml:"delay"`                  // longest that an event waits for company; default 1s
	Requests int           `yaml:"requests"`               // at once; default 4
	Timeout  time.Duration `yaml:"timeout"`                // of one request; default 30s
}

// EnsureDefaults sets what is zero.
func (c *Config) EnsureDefaults() {
	if c.Format == "" {
		c.Format = "json"
	}
	if c.MaxItems == 0 {
		c.MaxItems = 100
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 1 << 20
	}
	if c.Delay == 0 {
		c.Delay = time.Second
	}
	if c.Requests == 0 {
		c.Requests = 4
	}
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Second
	}
}

// ours are headers that every request has.
var ours = []string{"Content-Type", "Content-Encoding", "Content-Length", "Host", "User-Agent", "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"}

// Validate sets the defaults and lists every problem.
func (c *Config) Validate() error {
	c.EnsureDefaults()
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if u, err := url.Parse(c.URL); c.URL == "" {
		problem("url is missing; want the receiver's, such as https://hooks.example.com/clicks")
	} else if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		problem("url is wrong; want http or https and a host, such as https://hooks.example.com/clicks")
	} else if u.User != nil {
		problem("url has a user; want it in headers, as Authorization")
	}
	if err := c.TLS.Validate(); err != nil {
		problems = append(problems, err)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		switch key := textproto.CanonicalMIMEHeaderKey(name); {
		case slices.Contains(ours, key):
			problem("headers has %s, which every request has", name)
		case name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r) }):
			problem("headers has %q, which is no header's name", name)
		case strings.ContainsFunc(c.Headers[name], func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
			problem("headers has %s, whose value has a line's end or another control character", name)
		}
	}
	if _, err := c.key(); err != nil {
		problems = append(problems, err)
	}
	if c.Format != "json" && c.Format != "ndjson" {
		problem("format is %q; want json or ndjson", c.Format)
	}
	if c.MaxItems < 1 || c.MaxItems > 10_000 {
		problem("max_items is %d; want 1 to 10000", c.MaxItems)
	}
	if c.MaxBytes < 64<<10 || c.MaxBytes > 64<<20 {
		problem("max_bytes is %d bytes; want 64KiB to 64MiB", c.MaxBytes)
	}
	if c.Requests < 1 || c.Requests > 64 {
		problem("requests is %d; want 1 to 64", c.Requests)
	}
	if c.Delay < 0 || c.Timeout < 0 {
		problem("delay or timeout is negative")
	}
	return errors.Join(problems...)
}

// key is the secret's bytes; nil for none.
func (c *Config) key() ([]byte, error) {
	if c.Secret == "" {
		return nil, nil
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(c.Secret, "whsec_"))
	if err != nil || len(key) < 24 || len(key) > 64 {
		return nil, errors.New("secret is wrong; want whsec_ and the base64 of 24 to 64 random bytes")
	}
	return key, nil
}

// CheckSchema says what is wrong with c for events of schema.
func (c *Config) CheckSchema(schema *stream.Schema) error {
	_, err := document.New(schema, "", c.Columns)
	return err
}

// Options are what the pipeline knows and the file's entry does not say.
type Options struct {
	Name string
	Log  *slog.Logger
}

// Sink posts to one receiver.
type Sink struct {
	*bulk.Sink
	cfg  Config
	key  []byte // of the signature; nil: none
	http *http.Client
	host string
	rest rest
}

var _ stream.Upsert = (*Sink)(nil)

// New returns the sink. It touches the files that TLS names, and nothing outside.
func New(cfg Config, o Options) (*Sink, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = cfg.Requests
	// By HTTP/2 a request that is given up leaves its connection to the next one: a dead connection has to be noticed.
	transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: cfg.Timeout / 2, PingTimeout: cfg.Timeout / 2}
	if cfg.TLS != nil {
		t, err := cfg.TLS.Load()
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = t
	}
	key, err := cfg.key()
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, errors.New("url is wrong") // it may hold a secret
	}
	s := &Sink{cfg: cfg, key: key, host: u.Host, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	s.Sink = bulk.New(s, bulk.Options{
		Name: o.Name, Order: bulk.Any, Delay: cfg.Delay, Items: cfg.MaxItems, Bytes: int(cfg.MaxBytes) - cfg.MaxItems - 2, Lanes: cfg.Requests,
		Timeout: sends * cfg.Timeout, Log: o.Log,
	})
	return s, nil
}

// Encoder returns the encoder of one tenure.
func (s *Sink) Encoder(t stream.Tenure) (bulk.Encoder, error) {
	d, err := document.New(t.Schema, t.Partition, s.cfg.Columns)
	return &encoder{d, t.Partition, s.cfg.MaxBytes}, err
}

type encoder struct {
	document  *document.Encoder
	partition string
	most      int64
}

func (e *encoder) Encode(key, body []byte, ev *stream.Event) ([]byte, []byte, error) {
	key = stream.PlaceOf(e.partition, ev).AppendVersion(append(append(key, e.partition...), '/'))
	body = e.document.Append(body, ev)
	if n := len(body) + 2; int64(n) > e.most {
		return key, body, fmt.Errorf("the event has %d bytes; max_bytes is %d", n, e.most)
	}
	return key, body, nil
}

// Idle lets go of the connections.
func (s *Sink) Idle() { s.http.CloseIdleConnections() }

// Probe says why the receiver cannot be reached. It asks with HEAD, and any answer will do: only an event tells whether it takes
// events.
func (s *Sink) Probe(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	defer s.Idle()
	answer, err := s.do(limited, http.MethodHead, nil)
	if err == nil {
		_ = answer.Body.Close()
	}
	return s.late(ctx, err)
}

func (s *Sink) String() string { return "webhook at " + s.host }
