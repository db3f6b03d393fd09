package kafka

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/sources/trust"
)

// Config is the kafka entry of a pipeline file's source.
type Config struct {
	// Brokers are some of the cluster's host:port; the others are found through them. At least one.
	Brokers []string `yaml:"brokers"`

	// Topics are read together: names, and between slashes patterns, regular expressions (RE2) that match a whole name:
	// [orders, "/clicks-.*/"]. At least one. A topic by name has to exist; a pattern also finds the topics that are created
	// later, and never the brokers' own (__consumer_offsets). See Refresh and Start for what is found while running. A topic
	// that is deleted while it is read ends the run; the next one does without it if it was there by a pattern.
	Topics []string `yaml:"topics"`

	// Refresh is how long a new topic or partition may stay unnoticed, and one that was deleted; 100 ms to 1 h. Default 30 s.
	Refresh time.Duration `yaml:"refresh"`

	// Group is the consumer group, which owns partitions and keeps checkpoints. Default: the pipeline's name.
	Group string `yaml:"group"`

	// Start says where to begin a partition that the group has never seen: earliest (default), latest, or an RFC 3339 time
	// (the first record of that time or later). It is stored in the group at first sight of the partition, so a restart
	// before the first commit begins at the same record. What appears after the group's first run is read from its beginning,
	// whatever Start says, or the records between its creation and its discovery would be lost: a partition that is added to
	// a topic, and a topic that a pattern finds. (A pattern that is made wider finds old topics, and reads them whole.)
	Start string `yaml:"start"`

	// Reset says what to do when records after the checkpoint are no longer in the log: fail (default) ends the run,
	// earliest goes on with the oldest record that is left and logs the range that is lost.
	Reset string `yaml:"reset"`

	// TLS, if present, even if empty, encrypts the connections.
	TLS *trust.TLS `yaml:"tls"`

	// SASL authenticates. Default: none.
	SASL *SASL `yaml:"sasl"`

	Fetch Fetch `yaml:"fetch"`

	// Protocol is how the group shares the partitions: classic (default), where a member divides them cooperatively, or
	// consumer (KIP-848), where the brokers do, from Kafka 4.0 on. All workers of a group want the same one. Brokers that do
	// not take part in consumer end the run: nothing falls back in silence.
	Protocol string `yaml:"protocol"`

	// SessionTimeout is how long a silent worker keeps its partitions before the others take them; 6 s to 30 min unless the
	// brokers allow otherwise. Default 10 s. Brokers hear from a worker three times in it. With protocol consumer it is the
	// brokers' group.consumer.session.timeout.ms (45 s by default), and may not be set here.
	SessionTimeout time.Duration `yaml:"session_timeout"`

	// RebalanceTimeout is how long the group waits for a worker that drains what it gives away, before it goes on without
	// that worker; 1 s to 1 h. Default 60 s.
	RebalanceTimeout time.Duration `yaml:"rebalance_timeout"`

	// Instance makes this worker a static member of the group: restarted under the same name within SessionTimeout it has the
	// same partitions again and the others notice nothing. It must be another one for every worker. With protocol consumer the
	// brokers keep the name of a worker that was killed until its session is over; the next one waits for it. Default: none.
	Instance string `yaml:"instance"`
}

// Fetch bounds the memory of records that the engine has not taken yet. A record larger than the bounds still passes.
type Fetch struct {
	// MaxBytes is the most of one broker's answer, as compressed on the wire. While more than that waits for the engine,
	// decompressed, nothing more is taken from the brokers: two answers wait at most. Default 8 MiB, at least 64 KiB.
	MaxBytes int64 `yaml:"max_bytes" unit:"bytes"`

	// PartitionBytes is the most of one partition in an answer. Default 1 MiB, at most MaxBytes.
	PartitionBytes int64 `yaml:"partition_bytes" unit:"bytes"`
}

// The words of Start, Reset and Protocol.
const (
	earliest = "earliest"
	latest   = "latest"
	fail     = "fail"
	classic  = "classic"
	consumer = "consumer"
)

// EnsureDefaults fills in what is not said. Group stays empty: its default is the caller's.
func (c *Config) EnsureDefaults() {
	setDefault(&c.Start, earliest)
	setDefault(&c.Reset, fail)
	setDefault(&c.Fetch.MaxBytes, 8<<20)
	setDefault(&c.Fetch.PartitionBytes, min(1<<20, c.Fetch.MaxBytes))
	setDefault(&c.Refresh, 30*time.Second)
	setDefault(&c.Protocol, classic)
	if c.Protocol != consumer {
		setDefault(&c.SessionTimeout, 10*time.Second)
	}
	setDefault(&c.RebalanceTimeout, time.Minute)
	if c.SASL != nil {
		setDefault(&c.SASL.Mechanism, scram512)
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
	if _, err := newSelection(c.Topics); err != nil {
		problems = append(problems, err)
	}
	_, err := c.startTime()
	check(err == nil, "start is %q; want earliest, latest or a time like 2006-01-02T15:04:05Z", c.Start)
	check(c.Reset == fail || c.Reset == earliest, "reset is %q; want fail or earliest", c.Reset)
	check(c.Fetch.MaxBytes >= 64<<10 && c.Fetch.MaxBytes <= 1<<30, "fetch.max_bytes is %d; want 64KiB to 1GiB", c.Fetch.MaxBytes)
	check(c.Fetch.PartitionBytes > 0 && c.Fetch.PartitionBytes <= c.Fetch.MaxBytes, "fetch.partition_bytes is %d; want 1 to fetch.max_bytes (%d)", c.Fetch.PartitionBytes, c.Fetch.MaxBytes)
	check(c.Refresh >= 100*time.Millisecond && c.Refresh <= time.Hour, "refresh is %v; want 100ms to 1h", c.Refresh)
	check(c.Protocol == classic || c.Protocol == consumer, "protocol is %q; want classic or consumer", c.Protocol)
	if c.Protocol == consumer {
		check(c.SessionTimeout == 0, "session_timeout is %v beside protocol consumer, where the brokers' group.consumer.session.timeout.ms says it; remove it", c.SessionTimeout)
	} else {
		check(c.SessionTimeout >= time.Second && c.SessionTimeout <= 30*time.Minute, "session_timeout is %v; want 1s to 30m", c.SessionTimeout)
	}
	check(c.RebalanceTimeout >= time.Second && c.RebalanceTimeout <= time.Hour, "rebalance_timeout is %v; want 1s to 1h", c.RebalanceTimeout)
	for _, err := range []error{c.TLS.Validate(), c.SASL.validate(c.TLS != nil)} {
		if err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
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

// Dial opens a connection to a broker, before TLS.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// dialer adds TLS to dial.
func (c *Config) dialer(dial Dial) (Dial, error) {
	if c.TLS == nil {
		return dial, nil
	}
	config, err := c.TLS.Load()
	if err != nil {
		return nil, err
	}
	return encrypted(dial, config), nil
}

// answerTimeout bounds the wait for an answer, beside what a request may wait at the broker. When it is over the connection is given up:
// one that the network forgot is to be noticed while the session lives, so half of that is the most.
const answerTimeout = 5 * time.Second

// options are those of every client of c.
func (c *Config) options(dial Dial) ([]kgo.Opt, error) {
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...), kgo.ClientID("millrace"), kgo.Dialer(dial), kgo.DisableClientMetrics(),
		kgo.RetryBackoffFn(func(n int) time.Duration { return min(100*time.Millisecond<<min(n, 6), 2500*time.Millisecond) }),
		kgo.MetadataMaxAge(c.Refresh), kgo.MetadataMinAge(min(c.Refresh, 2500*time.Millisecond)),
	}
	opts = append(opts, kgo.RequestTimeoutOverhead(min(cmp.Or(c.SessionTimeout/2, answerTimeout), answerTimeout)))
	if c.SASL != nil {
		m, err := c.SASL.client()
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
