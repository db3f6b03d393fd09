package kafka

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/sources/trust"
)

// Connection is how a client that is no source reaches the brokers: the collector's producer.
type Connection struct {
	Brokers []string
	Topic   string
	TLS     *trust.TLS
	SASL    *SASL
}

func (c *Connection) config() *Config {
	return &Config{Brokers: c.Brokers, Topics: []string{c.Topic}, TLS: c.TLS, SASL: c.SASL}
}

// Validate returns all problems, by the keys brokers, topics, tls and sasl.
func (c *Connection) Validate() error {
	cfg := c.config()
	var problem error
	if !validTopic(c.Topic) { // nor a pattern
		problem = fmt.Errorf("topics has %q; want 1 to 249 letters, digits, dots, underscores or hyphens", c.Topic)
		cfg.Topics = []string{"any"}
	}
	return errors.Join(cfg.Validate(), problem)
}

// Options are those of a client that connects so, and tells log about trouble.
func (c *Connection) Options(log *slog.Logger) ([]kgo.Opt, error) {
	cfg := c.config()
	cfg.EnsureDefaults()
	dial, err := cfg.dialer((&net.Dialer{Timeout: 10 * time.Second}).DialContext)
	if err != nil {
		return nil, err
	}
	opts, err := cfg.options(dial)
	return append(opts, kgo.WithLogger(&logger{log})), err
}
