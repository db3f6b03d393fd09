package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// Config is the kafka entry of a pipeline file's source.
type Config struct {
	// Brokers are some of the cluster's host:port; the others are found through them. At least one.
	Brokers []string `yaml:"brokers"`

	// Topics are read together, by name. At least one.
	Topics []string `yaml:"topics"`

	// Group is the consumer group, which owns partitions and keeps checkpoints. Default: the pipeline's name.
	Group string `yaml:"group"`

	// Start says where to begin a partition that the group has never seen: earliest (default), latest, or an RFC 3339 time
	// (the first record of that time or later). It is stored in the group at first sight of the partition, so a restart
	// before the first commit begins at the same record. A partition that is added to a topic later is read from its beginning.
	Start string `yaml:"start"`

	// Reset says what to do when records after the checkpoint are no longer in the log: fail (default) ends the run,
	// earliest goes on with the oldest record that is left and logs the range that is lost.
	Reset string `yaml:"reset"`

	// TLS, if present, even if empty, encrypts the connections.
	TLS *TLS `yaml:"tls"`

	// SASL authenticates. Default: none.
	SASL *SASL `yaml:"sasl"`

	Fetch Fetch `yaml:"fetch"`

	// SessionTimeout is how long a silent worker keeps its partitions before the others take them; 6 s to 30 min unless the
	// brokers allow otherwise. Default 10 s. Brokers hear from a worker three times in it.
	SessionTimeout time.Duration `yaml:"session_timeout"`

	// RebalanceTimeout is how long the group waits for a worker that drains what it gives away, before it goes on without
	// that worker; 1 s to 1 h. Default 60 s.
	RebalanceTimeout time.Duration `yaml:"rebalance_timeout"`

	// Instance makes this worker a static member of the group: restarted under the same name within SessionTimeout it has the
	// same partitions again and the others notice nothing. It must be another one for every worker. Default: none.
	Instance string `yaml:"instance"`
}

// TLS says whom to trust and who we are. All files are PEM.
type TLS struct {
	CA       string `yaml:"ca"`       // certificates that sign the brokers'; default: the system's
	Cert     string `yaml:"cert"`     // our certificate; default: none
	Key      string `yaml:"key"`      // its key; wanted with Cert
	Insecure bool   `yaml:"insecure"` // believe any broker; for tests only
}

// SASL is a user that the brokers know.
type SASL struct {
	Mechanism string `yaml:"mechanism"` // plain, scram-sha-256 or scram-sha-512 (default)
	Username  string `yaml:"username"`
	Password  string `yaml:"password"`
}

// Fetch bounds the memory of records that the engine has not taken yet. A record larger than the bounds still passes.
type Fetch struct {
	// MaxBytes is the most of one broker's answer, as compressed on the wire. While more than that waits for the engine,
	// decompressed, nothing more is taken from the brokers: two answers wait at most. Default 8 MiB, at least 64 KiB.
	MaxBytes int64 `yaml:"max_bytes" unit:"bytes"`

	// PartitionBytes is the most of one partition in an answer. Default 1 MiB, at most MaxBytes.
	PartitionBytes int64 `yaml:"partition_bytes" unit:"bytes"`
}

// The words of Start and Reset.
const (
	earliest = "earliest"
	latest   = "latest"
	fail     = "fail"
)

// EnsureDefaults fills in what is not said. Group stays empty: its default is the caller's.
func (c *Config) EnsureDefaults() {
	setDefault(&c.Start, earliest)
	setDefault(&c.Reset, fail)
	setDefault(&c.Fetch.MaxBytes, 8<<20)
	setDefault(&c.Fetch.PartitionBytes, min(1<<20, c.Fetch.MaxBytes))
	setDefault(&c.SessionTimeout, 10*time.Second)
	setDefault(&c.RebalanceTimeout, time.Minute)
	if c.SASL != nil {
		setDefault(&c.SASL.Mechanism, "scram-sha-512")
	}
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
	check(len(c.Brokers) > 0, "brokers is empty; want at least one host:port")
	for _, b := range c.Brokers {
		host, port, err := net.SplitHostPort(b)
		check(err == nil && host != "" && port != "", "brokers has %q; want host:port", b)
	}
	check(len(c.Topics) > 0, "topics is empty; want at least one topic")
	for i, t := range c.Topics {
		check(validTopic(t), "topics has %q; want 1 to 249 letters, digits, dots, underscores or hyphens", t)
		check(!slices.Contains(c.Topics[:i], t), "topics has %q twice", t)
	}
	_, err := c.startTime()
	check(err == nil, "start is %q; want earliest, latest or a time like 2006-01-02T15:04:05Z", c.Start)
	check(c.Reset == fail || c.Reset == earliest, "reset is %q; want fail or earliest", c.Reset)
	check(c.Fetch.MaxBytes >= 64<<10 && c.Fetch.MaxBytes <= 1<<30, "fetch.max_bytes is %d; want 64KiB to 1GiB", c.Fetch.MaxBytes)
	check(c.Fetch.PartitionBytes > 0 && c.Fetch.PartitionBytes <= c.Fetch.MaxBytes, "fetch.partition_bytes is %d; want 1 to fetch.max_bytes (%d)", c.Fetch.PartitionBytes, c.Fetch.MaxBytes)
	check(c.SessionTimeout >= time.Second && c.SessionTimeout <= 30*time.Minute, "session_timeout is %v; want 1s to 30m", c.SessionTimeout)
	check(c.RebalanceTimeout >= time.Second && c.RebalanceTimeout <= time.Hour, "rebalance_timeout is %v; want 1s to 1h", c.RebalanceTimeout)
	if c.TLS != nil {
		check((c.TLS.Cert == "") == (c.TLS.Key == ""), "tls.cert and tls.key: one is empty; want both or none")
		check(!c.TLS.Insecure || c.TLS.CA == "", "tls.insecure is true beside tls.ca; want one of them")
	}
	if c.SASL != nil {
		_, err := c.SASL.mechanism()
		check(err == nil, "sasl.mechanism is %q; want plain, scram-sha-256 or scram-sha-512", c.SASL.Mechanism)
		check(c.SASL.Username != "", "sasl.username is empty")
		check(c.SASL.Password != "", "sasl.password is empty")
	}
	return errors.Join(problems...)
}

func validTopic(name string) bool {
	if name == "" || name == "." || name == ".." || len(name) > 249 {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	})
}

// startTime is Start as ListOffsets takes it: milliseconds since 1970, or one of the two special values.
func (c *Config) startTime() (int64, error) {
	switch c.Start {
	case earliest:
		return oldestOffset, nil
	case latest:
		return endOffset, nil
	}
	t, err := time.Parse(time.RFC3339, c.Start)
	return max(0, t.UnixMilli()), err
}

func (s *SASL) mechanism() (sasl.Mechanism, error) {
	switch strings.ToLower(s.Mechanism) {
	case "plain":
		return plain.Auth{User: s.Username, Pass: s.Password}.AsMechanism(), nil
	case "scram-sha-256":
		return scram.Auth{User: s.Username, Pass: s.Password}.AsSha256Mechanism(), nil
	case "scram-sha-512":
		return scram.Auth{User: s.Username, Pass: s.Password}.AsSha512Mechanism(), nil
	}
	return nil, errors.New("unknown mechanism")
}

// config reads the files.
func (t *TLS) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: t.Insecure}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("tls.ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls.ca: %s has no PEM certificate", t.CA)
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("tls.cert: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// Dial opens a connection to a broker, before TLS.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// dialer adds TLS to dial.
func (c *Config) dialer(dial Dial) (Dial, error) {
	if c.TLS == nil {
		return dial, nil
	}
	config, err := c.TLS.config()
	if err != nil {
		return nil, err
	}
	return encrypted(dial, config), nil
}

// options are those of every client of c.
func (c *Config) options(dial Dial) ([]kgo.Opt, error) {
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...), kgo.ClientID("millrace"), kgo.Dialer(dial), kgo.DisableClientMetrics(),
		kgo.RetryBackoffFn(func(n int) time.Duration { return min(100*time.Millisecond<<min(n, 6), 2500*time.Millisecond) }),
	}
	if c.SASL != nil {
		m, err := c.SASL.mechanism()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.SASL(m))
	}
	return opts, nil
}

func encrypted(dial Dial, config *tls.Config) Dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		own := config.Clone()
		own.ServerName, _, _ = net.SplitHostPort(address)
		encrypted := tls.Client(conn, own)
		if err := encrypted.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, fmt.Errorf("TLS with %s: %w", address, err)
		}
		return encrypted, nil
	}
}
