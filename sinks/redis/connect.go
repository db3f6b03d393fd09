package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// dialer is net.Dialer.DialContext.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// link is a client whose connections can be cut. The client itself waits for the answers to what it has sent, whatever the
// context.
type link struct {
	rueidis.Client

	late  atomic.Bool // it was cut because a request had no answer in time
	mu    sync.Mutex
	conns map[net.Conn]struct{}
	end   context.CancelFunc // what is being dialled
}

var errCut = errors.New("the connection was given up")

// connect makes a client, which connects at once. It ends with ctx.
func (s *Sink) connect(ctx context.Context) (*link, error) {
	life, end := context.WithCancel(context.Background())
	l := &link{conns: map[net.Conn]struct{}{}, end: end}
	stop := context.AfterFunc(ctx, l.cut)
	options := s.options
	options.DialCtxFn = func(ctx context.Context, address string, d *net.Dialer, t *tls.Config) (net.Conn, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(life, cancel)()
		return l.dial(ctx, address, s.dialer(d, t))
	}
	client, err := rueidis.NewClient(options)
	stop()
	if err != nil {
		l.cut()
		return nil, s.meaning(fmt.Errorf("connect to %s: %w", s, err))
	}
	l.Client = client
	return l, nil
}

func (s *Sink) dialer(d *net.Dialer, t *tls.Config) dialer {
	switch {
	case s.o.dial != nil:
		return s.o.dial
	case t != nil:
		return (&tls.Dialer{NetDialer: d, Config: t}).DialContext
	}
	return d.DialContext
}

func (l *link) dial(ctx context.Context, address string, dial dialer) (net.Conn, error) {
	c, err := dial(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		_ = c.Close()
		return nil, errCut
	}
	out := &conn{Conn: c, link: l}
	l.conns[out] = struct{}{}
	return out, nil
}

// cut ends all connections at once, and lets no new ones come.
func (l *link) cut() {
	l.mu.Lock()
	conns := l.conns
	l.conns = nil
	l.mu.Unlock()
	if conns == nil {
		return
	}
	l.end()
	for c := range conns {
		_ = c.Close()
	}
}

// giveUp cuts all connections at the end of a request's context.
func (l *link) giveUp(ctx context.Context) {
	l.overdue(ctx)
	l.cut()
}

// overdue says that a request's time is over, and notes that for the other requests on the link. The client tells it before
// the context does.
func (l *link) overdue(ctx context.Context) bool {
	end, ok := ctx.Deadline()
	over := ok && !time.Now().Before(end)
	if over {
		l.late.Store(true)
	}
	return over
}

// close ends the client and all its connections.
func (l *link) close() {
	l.cut()
	l.Client.Close()
}

// conn is a connection of a link.
type conn struct {
	net.Conn
	link *link
}

func (c *conn) Close() error {
	c.link.mu.Lock()
	delete(c.link.conns, c)
	c.link.mu.Unlock()
	return c.Conn.Close()
}

// connected returns the link of all requests, made when it is wanted.
func (s *Sink) connected(ctx context.Context) (*link, error) {
	select {
	case s.connecting <- struct{}{}:
		defer func() { <-s.connecting }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.mu.Lock()
	l := s.link
	s.mu.Unlock()
	if l != nil {
		return l, nil
	}
	l, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.link = l
	s.mu.Unlock()
	return l, nil
}

// drop closes a link; the next request connects anew.
func (s *Sink) drop(l *link) {
	s.mu.Lock()
	if s.link == l {
		s.link = nil
	}
	s.mu.Unlock()
	l.close()
}

// Idle closes the connections.
func (s *Sink) Idle() {
	s.mu.Lock()
	l := s.link
	s.link = nil
	s.mu.Unlock()
	if l != nil {
		l.close()
	}
}
