package nats

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/millrace-io/millrace/sources/lease"
	"github.com/millrace-io/millrace/sources/trust"
)

// Config is the nats entry of a pipeline file's source.
type Config struct {
	// URL is one or more servers, separated by commas. Default nats://127.0.0.1:4222.
	URL string `yaml:"url"`

	// Stream is the name of the JetStream stream, which has to exist.
	Stream string `yaml:"stream"`

	// Partitions are the subjects that are read, each in order and each by one worker at a time; wildcards are allowed, overlaps
	// are not. Default: the subjects that the stream is configured with. See the package comment for how to divide a stream.
	Partitions []string `yaml:"partitions"`

	// Start says where to begin a partition that was never read: earliest (default), latest, or an RFC 3339 time (the first
	// message of that time or later). It is stored at first sight of the partition.
	Start string `yaml:"start"`

	// Reset says what to do when messages after the checkpoint are no longer in the stream: fail (default) ends the run,
	// earliest goes on with the oldest message that is left and logs the range that is lost.
	Reset string `yaml:"reset"`

	// Bucket is the key-value bucket that keeps ownership and checkpoints. It is created if it does not exist, with as many
	// replicas as the stream has. Default millrace-<pipeline>.
	Bucket string `yaml:"bucket"`

	// Lease is how long a silent worker keeps its partitions before others take them. Default 10 s, at least 500 ms.
	Lease time.Duration `yaml:"lease"`

	// Instance is this worker's name, another one for every worker. A worker that is killed and started again under its name
	// has its partitions back at once instead of after Lease. Default: a new random name for each run.
	Instance string `yaml:"instance"`

	Credentials string `yaml:"credentials"` // file with a user's JWT and key, as nsc writes it; default: none
	User        string `yaml:"user"`        // default: none
	Password    string `yaml:"password"`    // wanted with User
	Token       string `yaml:"token"`       // default: none

	// TLS, if present, even if empty, encrypts the connections.
	TLS *trust.TLS `yaml:"tls"`

	Fetch Fetch `yaml:"fetch"`
}

// Fetch bounds the memory of messages that the engine has not taken yet. A message larger than the bounds still passes.
type Fetch struct {
	// MaxBytes is the most that all partitions of this worker together ask for in advance. Default 16 MiB, at least 64 KiB.
	MaxBytes int64 `yaml:"max_bytes" unit:"bytes"`

	// MaxMessages is the most that one partition asks for at a time. Default 4096, 1 to 65536.
	MaxMessages int `yaml:"max_messages"`
}

// The words of Start and Reset.
const (
	earliest = "earliest"
	latest   = "latest"
	fail     = "fail"
)

// EnsureDefaults fills in what is not said. Bucket stays empty: its default is the caller's.
func (c *Config) EnsureDefaults() {
	setDefault(&c.URL, nats.DefaultURL)
	setDefault(&c.Start, earliest)
	setDefault(&c.Reset, fail)
	setDefault(&c.Lease, 10*time.Second)
	setDefault(&c.Fetch.MaxBytes, 16<<20)
	setDefault(&c.Fetch.MaxMessages, 4096)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate sets the defaults and returns all problems.
func (c *Config) Validate() error {
	c.EnsureDefaults()
	var problems []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	for _, text := range strings.Split(c.URL, ",") {
		u, err := url.Parse(strings.TrimSpace(text))
		check(err == nil && u.Host != "" && slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme), "url has %q; want nats://host:port", redact(text))
	}
	check(c.Stream != "", "stream is empty; want the name of a JetStream stream")
	check(!strings.ContainsAny(c.Stream, " \t\r\n.*>/\\"), "stream is %q; want a name without spaces, dots, slashes and wildcards", c.Stream)
	for i, p := range c.Partitions {
		check(validSubject(p), "partitions has %q; want a subject like clicks.3 or clicks.3.>", p)
		for _, q := range c.Partitions[:i] {
			check(!overlap(p, q), "partitions has %q and %q, which overlap; a message has one partition", q, p)
		}
	}
	_, err := c.startTime()
	check(err == nil, "start is %q; want earliest, latest or a time like 2006-01-02T15:04:05Z", c.Start)
	check(c.Reset == fail || c.Reset == earliest, "reset is %q; want fail or earliest", c.Reset)
	check(validBucket(c.Bucket), "bucket is %q; want letters, digits, hyphens and underscores", c.Bucket)
	if err := (&lease.Config{Period: c.Lease}).Validate(); err != nil {
		problems = append(problems, err)
	}
	check((c.User == "") == (c.Password == ""), "user and password: one is empty; want both or none")
	ways := 0
	for _, way := range []string{c.Credentials, c.User, c.Token} {
		if way != "" {
			ways++
		}
	}
	check(ways <= 1, "credentials, user and token: more than one is set; want one of them")
	if err := c.TLS.Validate(); err != nil {
		problems = append(problems, err)
	}
	check(c.Fetch.MaxBytes >= 64<<10 && c.Fetch.MaxBytes <= 1<<30, "fetch.max_bytes is %d; want 64KiB to 1GiB", c.Fetch.MaxBytes)
	check(c.Fetch.MaxMessages >= 1 && c.Fetch.MaxMessages <= 65536, "fetch.max_messages is %d; want 1 to 65536", c.Fetch.MaxMessages)
	return errors.Join(problems...)
}

// startTime is Start if it is a time, else the zero time.
func (c *Config) startTime() (time.Time, error) {
	if c.Start == earliest || c.Start == latest {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339, c.Start)
}

func validBucket(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	})
}

func validSubject(s string) bool {
	tokens := strings.Split(s, ".")
	for i, t := range tokens {
		wild := strings.ContainsAny(t, "*>")
		if t == "" || strings.ContainsAny(t, " \t\r\n") || wild && len(t) > 1 || t == ">" && i < len(tokens)-1 {
			return false
		}
	}
	return true
}

// overlap says that a subject can match both filters.
func overlap(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(as), len(bs)) {
		switch {
		case i >= len(as) || i >= len(bs):
			return false
		case as[i] == ">" || bs[i] == ">":
			return true
		case as[i] != bs[i] && as[i] != "*" && bs[i] != "*":
			return false
		}
	}
	return true
}

// redact takes passwords out of a list of URLs.
func redact(list string) string {
	texts := strings.Split(list, ",")
	for i, text := range texts {
		u, err := url.Parse(strings.TrimSpace(text))
		if err != nil {
			texts[i] = "(not a URL)"
			continue
		}
		if u.User != nil {
			u.User = url.User("xxxxx")
		}
		texts[i] = u.String()
	}
	return strings.Join(texts, ",")
}

// options are those of the connection, without its handlers.
func (c *Config) options() ([]nats.Option, error) {
	opts := []nats.Option{
		nats.Name("millrace"),
		nats.Timeout(dialTimeout),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, 500*time.Millisecond),
		nats.ReconnectBufSize(-1), // a write that fails is better than one that happens later
		nats.PingInterval(max(time.Second, min(c.Lease/2, 20*time.Second))),
		nats.MaxPingsOutstanding(2),
		nats.FlusherTimeout(dialTimeout),
	}
	if c.Credentials != "" {
		if _, err := os.ReadFile(c.Credentials); err != nil {
			return nil, fmt.Errorf("credentials: %w", err)
		}
		opts = append(opts, nats.UserCredentials(c.Credentials))
	}
	if c.User != "" {
		opts = append(opts, nats.UserInfo(c.User, c.Password))
	}
	if c.Token != "" {
		opts = append(opts, nats.Token(c.Token))
	}
	if c.TLS != nil {
		config, err := c.TLS.Load()
		if err != nil {
			return nil, err
		}
		opts = append(opts, nats.Secure(config))
	}
	return opts, nil
}
