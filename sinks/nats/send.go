package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/sinks/origin"
	source "github.com/millrace-io/millrace/sources/nats"
	"github.com/millrace-io/millrace/stream"
)

// connection is one connection. It never comes back by itself: after a message that was lost with it, a later one must not
// find a new one.
type connection struct {
	*nats.Conn
	js     jetstream.JetStream
	lost   chan struct{} // closed when it is
	denied atomic.Pointer[error]
	late   atomic.Bool // it was closed because a request had no answer in time
}

// giveUp closes it at the end of a request's context: what is buffered would be sent still.
func (c *connection) giveUp(ctx context.Context) {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		c.late.Store(true)
	}
	c.Close()
}

// maxAcks is more than the loop has under way.
const maxAcks = 1 << 16

func (s *Sink) dial() (*connection, error) {
	c := &connection{lost: make(chan struct{})}
	var err error
	c.Conn, err = s.cfg.connection().Dial(append([]nats.Option{
		nats.ClosedHandler(func(*nats.Conn) { close(c.lost) }),
		nats.ErrorHandler(func(conn *nats.Conn, _ *nats.Subscription, err error) {
			if !errors.Is(err, nats.ErrPermissionViolation) {
				s.o.Log.Debug("nats connection", "sink", s.o.Name, "error", err)
				return
			}
			// Nothing else tells of it: the message has no answer.
			err = stream.Fatal(fmt.Errorf("stream %s: %w; allow the user to publish %s, to subscribe to _INBOX.>, and $JS.API.STREAM.INFO.%[1]s", s.cfg.Stream, err, s.cfg.Subject))
			c.denied.CompareAndSwap(nil, &err)
			conn.Close()
		}),
	}, s.o.Connect...)...)
	if err != nil {
		return nil, err
	}
	if c.js, err = jetstream.New(c.Conn, jetstream.WithPublishAsyncMaxPending(maxAcks)); err != nil {
		c.Close()
		return nil, stream.Fatal(err)
	}
	return c, nil
}

// connected is the connection of all requests.
func (s *Sink) connected() (*connection, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil && !s.conn.IsClosed() {
		return s.conn, nil
	}
	c, err := s.dial()
	if err != nil {
		return nil, err
	}
	s.conn = c
	return c, nil
}

// Send publishes items and waits for the stream's acknowledgements.
func (s *Sink) Send(ctx context.Context, items []*bulk.Item) error {
	c, err := s.connected()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { c.giveUp(ctx) })()
	r := request{s, c, items, make([]jetstream.PubAckFuture, len(items))}
	n, cause := len(items), 0  // how many are published, and which one ended that
	before := map[string]int{} // number of the last message of a key
	for i, it := range items {
		key := s.ordered(it.Key)
		if j, ok := before[key]; ok && key != "" {
			if r.settle(ctx, j); failed(items[j]) {
				n, cause = i, j
				break
			}
		}
		before[key] = i
		if r.publish(ctx, i); failed(it) {
			n, cause = i+1, i
			break
		}
	}
	for i := range items {
		r.settle(ctx, i)
	}
	r.explain(ctx)
	for _, it := range items[n:] {
		it.Err = items[cause].Err
	}
	return nil
}

// request is one of the loop's.
type request struct {
	*Sink
	*connection
	items []*bulk.Item
	acks  []jetstream.PubAckFuture // nil: not published, or settled
}

func failed(it *bulk.Item) bool { return it.Err != nil && !bulk.IsRefused(it.Err) }

func (r *request) publish(ctx context.Context, i int) {
	// Another attempt of the client's would come after later messages.
	ack, err := r.js.PublishMsgAsync(r.message(r.items[i]), jetstream.WithRetryAttempts(0))
	if errors.Is(err, nats.ErrConnectionClosed) {
		err = r.reason(ctx)
	}
	r.items[i].Err = r.meaning(err)
	if err == nil {
		r.acks[i] = ack
	}
}

// settle waits for the answer to a message that is published.
func (r *request) settle(ctx context.Context, i int) {
	if r.acks[i] != nil {
		r.items[i].Err = r.meaning(r.wait(ctx, r.acks[i]))
		r.acks[i] = nil
	}
}

// explain asks why no stream took some messages.
func (r *request) explain(ctx context.Context) {
	var reason error
	for _, it := range r.items {
		if !errors.Is(it.Err, jetstream.ErrNoStreamResponse) {
			continue
		}
		if reason == nil {
			subject, _ := split(it.Key)
			if reason = r.takes(ctx, r.cfg.Stream, subject); reason == nil || !errors.As(reason, new(*stream.FatalError)) {
				return // its leader is away
			}
		}
		it.Err = reason
	}
}

// split is the subject and the key of a write's key.
func split(key []byte) (subject, own string) {
	subject, own, _ = strings.Cut(string(key), "\n")
	return subject, own
}

// ordered is what a write has an order with; empty for nothing.
func (s *Sink) ordered(key []byte) string {
	subject, own := split(key)
	if own == "" && strings.Contains(s.cfg.Subject, "{") {
		return "\n" + subject
	}
	return own
}

// message is a write as NATS has it.
func (s *Sink) message(it *bulk.Item) *nats.Msg {
	position := stream.Place{Pos: it.Record.Pos, Index: it.Index}.Version()
	subject, key := split(it.Key)
	m := &nats.Msg{Subject: subject, Data: it.Body, Header: nats.Header{
		jetstream.MsgIDHeader:          {strings.Join([]string{s.o.Pipeline, s.o.Name, it.Partition, position}, "/")},
		jetstream.ExpectedStreamHeader: {s.cfg.Stream},
		origin.PipelineHeader:          {s.o.Pipeline},
		origin.PartitionHeader:         {it.Partition},
		origin.PositionHeader:          {position},
	}}
	if key != "" && !strings.ContainsAny(key, "\r\n") {
		m.Header[source.KeyHeader] = []string{key}
	}
	return m
}

// wait returns the answer to one message.
func (c *connection) wait(ctx context.Context, ack jetstream.PubAckFuture) error {
	select {
	case <-ack.Ok():
		return nil
	case err := <-ack.Err():
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-c.lost:
		return c.reason(ctx)
	}
}

// reason is why the connection is lost, to a request with ctx.
func (c *connection) reason(ctx context.Context) error {
	switch denied := c.denied.Load(); {
	case denied != nil:
		return *denied
	case ctx.Err() != nil:
		return ctx.Err()
	case c.late.Load():
		return bulk.ErrLate
	}
	if err := c.LastError(); err != nil {
		return fmt.Errorf("the connection is lost: %w", err)
	}
	return nats.ErrConnectionClosed
}

// Error codes of JetStream for which the client has no names.
const (
	otherStream jetstream.ErrorCode = 10060
	sealed      jetstream.ErrorCode = 10109
)

// meaning is what an error says about a message: refused, fatal, or to be sent again.
func (s *Sink) meaning(err error) error {
	var answer *jetstream.APIError
	code := jetstream.ErrorCode(0)
	if errors.As(err, &answer) {
		code = answer.ErrorCode
	}
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return bulk.Refused(fmt.Errorf("the message is larger than max_payload of the server: %w", err))
	case code == jetstream.JSErrCodeStreamMessageExceedsMaximum:
		return bulk.Refused(fmt.Errorf("the message is larger than max_msg_size of stream %s: %w", s.cfg.Stream, err))
	case code == otherStream:
		return stream.Fatal(fmt.Errorf("%s is a subject of another stream than %s: %w; correct stream or subject", s.cfg.Subject, s.cfg.Stream, err))
	case code == sealed:
		return stream.Fatal(fmt.Errorf("stream %s takes no messages any more: %w", s.cfg.Stream, err))
	}
	return err
}

// takes says why the stream does not take a subject, which may have placeholders.
func (c *connection) takes(ctx context.Context, name, subject string) error {
	ctx, cancel := context.WithTimeout(ctx, c.Opts.Timeout)
	defer cancel()
	go func() { // a request does not notice that its connection goes
		select {
		case <-c.lost:
			cancel()
		case <-ctx.Done():
		}
	}()
	s, err := c.js.Stream(ctx, name)
	switch denied := c.denied.Load(); {
	case denied != nil:
		return *denied
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return stream.Fatal(fmt.Errorf("there is no stream %s; create it", name))
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return stream.Fatal(fmt.Errorf("stream %s: %w; start the server with -js, or allow it for the account", name, err))
	case err != nil:
		return fmt.Errorf("ask for stream %s: %w", name, err)
	}
	filters := s.CachedInfo().Config.Subjects
	if !slices.ContainsFunc(filters, func(filter string) bool { return takes(filter, subject) }) {
		return stream.Fatal(fmt.Errorf("stream %s does not take the subject %s; it takes %s", name, subject, strings.Join(filters, ", ")))
	}
	return nil
}
