package nats

import (
	"github.com/nats-io/nats.go"

	"github.com/millrace-io/millrace/sources/trust"
	"github.com/millrace-io/millrace/stream"
)

// Connection is how a client that is no source reaches the servers: the collector's publisher, the sink. The fields are those of Config.
type Connection struct {
	URL, Stream                        string
	Credentials, User, Password, Token string
	TLS                                *trust.TLS
}

func (c *Connection) config() *Config {
	return &Config{URL: c.URL, Stream: c.Stream, Credentials: c.Credentials, User: c.User, Password: c.Password, Token: c.Token, TLS: c.TLS}
}

// Validate returns all problems, by the keys of Config.
func (c *Connection) Validate() error { return c.config().Validate() }

// Connect returns a connection that comes back by itself whenever it is lost, and that need not be there yet.
func (c *Connection) Connect(more ...nats.Option) (*nats.Conn, error) {
	cfg := c.config()
	cfg.EnsureDefaults()
	opts, err := cfg.options()
	if err != nil {
		return nil, err
	}
	return nats.Connect(cfg.URL, append(append(opts, nats.RetryOnFailedConnect(true)), more...)...)
}

// Dial is Connect once: the connection is there, and once it is lost it stays closed. An error says what to do; it is a
// FatalError if the servers refuse who we are.
func (c *Connection) Dial(more ...nats.Option) (*nats.Conn, error) {
	cfg := c.config()
	cfg.EnsureDefaults()
	opts, err := cfg.options()
	if err != nil {
		return nil, stream.Fatal(err)
	}
	conn, err := nats.Connect(cfg.URL, append(append(opts, nats.NoReconnect()), more...)...)
	if err != nil {
		return nil, refusal(cfg.URL, err)
	}
	return conn, nil
}
