package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/millrace-io/millrace/stream"
)

const (
	// deliverRecords and deliverBytes bound one Deliver.
	deliverRecords = 1024
	deliverBytes   = 1 << 20

	// requestLife is how long a request waits at the server for messages.
	requestLife = 20 * time.Second

	// heartbeat is how often the server says that a request waits. Without a word for two and a half it is lost.
	heartbeat = 2 * time.Second

	// idleCursor is when the server forgets a cursor that nobody asks.
	idleCursor = 30 * time.Second

	// statuses is room for the messages about a request.
	statuses = 64
)

// errReopen says that the cursor has to be made anew.
var errReopen = errors.New("the cursor is gone")

// batch is what is delivered at once.
type batch struct {
	records []stream.Record
	last    uint64 // stream sequence of the last record
	number  uint64 // the cursor's number of the last record
	pending uint64 // messages after it, when it was sent
}

// reader reads one partition from a sequence on. It is used by one goroutine and has none of its own.
//
// The server sends at most what was asked for and not yet received, so memory is bounded by the request. A new one is sent
// when the last is used up.
type reader struct {
	run    *run
	filter string
	opened func(cursor string, pending uint64)
	last   uint64 // stream sequence of the last message received, or the one before the first

	cursor   string // the server's name; empty: there is none
	number   uint64 // of the last message that the cursor delivered
	sub      *nats.Subscription
	messages chan *nats.Msg
	again    <-chan struct{} // closed when the connection was lost since the cursor was made
	ask      nats.Msg

	most         int  // messages in one request
	count, bytes int  // left of the request
	got          bool // the request brought a message
	large        bool // the next message is larger than our share
}

func newReader(r *run, partition string, next uint64, opened func(cursor string, pending uint64)) *reader {
	return &reader{run: r, filter: partition, opened: opened, last: next - 1}
}

// read returns the next messages. It waits for the first, and takes what is there already of the others.
func (r *reader) read(ctx context.Context) (batch, error) {
	for {
		if r.cursor == "" {
			if err := r.run.retry(ctx, "reading a partition failed", r.open); err != nil {
				return batch{}, err
			}
		}
		b, err := r.receive(ctx)
		if errors.Is(err, errReopen) {
			r.run.log.Debug("cursor is made anew", "partition", r.filter, "after", r.last, "error", err)
			r.drop()
			err = nil
		}
		if err != nil || len(b.records) > 0 {
			return b, err
		}
	}
}

// open makes a cursor after the last message.
func (r *reader) open(ctx context.Context) error {
	if err := r.run.refused(); err != nil {
		return err
	}
	again := r.run.reconnected()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // what was asked on a connection that is gone is not answered
		select {
		case <-again:
			cancel()
		case <-ctx.Done():
		}
	}()
	if !r.run.IsConnected() {
		<-ctx.Done()
		return fmt.Errorf("make a cursor for %s: %w", r.filter, nats.ErrDisconnected)
	}
	name := "millrace-" + nuid.Next()
	c, err := r.run.js.CreateConsumer(ctx, r.run.cfg.Stream, jetstream.ConsumerConfig{
		Name: name, FilterSubject: r.filter,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: r.last + 1,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: idleCursor,
	})
	if err != nil {
		return fmt.Errorf("make a cursor for %s: %w", r.filter, denied(err))
	}
	r.most = min(r.run.cfg.Fetch.MaxMessages, r.run.share()/64)
	messages := make(chan *nats.Msg, r.most+statuses)
	sub, err := r.run.ChanSubscribe(nats.NewInbox(), messages)
	if err != nil {
		dropConsumer(r.run.connection, r.run.cfg.Stream, name)
		return err
	}
	r.cursor, r.number, r.sub, r.messages, r.again = name, 0, sub, messages, again
	r.ask = nats.Msg{Subject: "$JS.API.CONSUMER.MSG.NEXT." + r.run.cfg.Stream + "." + r.cursor, Reply: sub.Subject}
	r.count, r.large = 0, false
	r.opened(name, c.CachedInfo().NumPending)
	return nil
}

// drop forgets the cursor, here and at the server.
func (r *reader) drop() {
	if r.cursor == "" {
		return
	}
	r.sub.Unsubscribe() // fails only on a closed connection
	dropConsumer(r.run.connection, r.run.cfg.Stream, r.cursor)
	r.cursor = ""
}

func (r *reader) close() { r.drop() }

// dropConsumer asks the server to forget a cursor, and does not wait: the server does it by itself after idleCursor.
func dropConsumer(c *connection, name, consumer string) {
	c.Publish("$JS.API.CONSUMER.DELETE."+name+"."+consumer, nil)
}

// request is what a pull consumer is asked.
type request struct {
	Expires   time.Duration `json:"expires"`
	Batch     int           `json:"batch"`
	MaxBytes  int           `json:"max_bytes,omitempty"`
	Heartbeat time.Duration `json:"idle_heartbeat"`
}

// refill asks for messages when all that were asked for are here.
func (r *reader) refill() error {
	if r.count > 0 && r.bytes > 0 {
		return nil
	}
	q := request{Expires: requestLife, Heartbeat: heartbeat, Batch: r.most, MaxBytes: r.run.share()}
	if r.large {
		q.Batch, q.MaxBytes = 1, 0
	}
	text, err := json.Marshal(q)
	if err != nil {
		return stream.Fatal(err)
	}
	r.count, r.bytes, r.got, r.large = q.Batch, q.MaxBytes, false, false
	if q.MaxBytes == 0 {
		r.bytes = 1 << 30
	}
	r.ask.Data = text
	if err := r.run.PublishMsg(&r.ask); err != nil {
		return fmt.Errorf("%w: %w", errReopen, err)
	}
	return nil
}

// receive waits for a message and takes what else is there.
func (r *reader) receive(ctx context.Context) (b batch, err error) {
	silence := time.NewTimer(5 * heartbeat / 2)
	defer silence.Stop()
	for {
		if err := r.refill(); err != nil {
			return b, err
		}
		select {
		case m := <-r.messages:
			if err := r.take(m, &b, 0); err != nil {
				return b, err
			}
			if len(b.records) > 0 {
				if err := r.rest(&b); err != nil {
					return b, err
				}
				return b, r.refill() // so that messages come while these are handed over
			}
			silence.Reset(5 * heartbeat / 2)
		case <-silence.C:
			return b, fmt.Errorf("%w: no heartbeat", errReopen)
		case <-r.again:
			return b, fmt.Errorf("%w: the connection was lost", errReopen)
		case <-ctx.Done():
			return b, ctx.Err()
		}
	}
}

// rest adds what has arrived already.
func (r *reader) rest(b *batch) error {
	size := 0
	for len(b.records) < deliverRecords && size < deliverBytes {
		select {
		case m := <-r.messages:
			size += len(m.Data)
			if err := r.take(m, b, len(r.messages)); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	return nil
}

// take appends a message to b, or heeds one about the request. more are waiting.
func (r *reader) take(m *nats.Msg, b *batch, more int) error {
	if len(m.Data) == 0 && m.Header != nil {
		if status := m.Header.Get("Status"); status != "" {
			return r.status(status, m.Header.Get("Description"))
		}
	}
	meta, ok := parseReply(m.Reply)
	if !ok {
		return fmt.Errorf("%w: message with reply %q", errReopen, m.Reply)
	}
	if meta.number != r.number+1 || meta.sequence <= r.last {
		return fmt.Errorf("%w: message %d with sequence %d follows %d with %d", errReopen, meta.number, meta.sequence, r.number, r.last)
	}
	r.number, r.last, r.got = meta.number, meta.sequence, true
	r.count--
	r.bytes -= m.Size()
	if len(b.records) == cap(b.records) {
		b.records = slices.Grow(b.records, min(deliverRecords-len(b.records), 1+max(more, len(b.records))))
	}
	rec := stream.Record{Value: m.Data, Pos: stream.OffsetPosition(meta.sequence), Time: time.Unix(0, meta.nanos).UTC()}
	if m.Header != nil {
		rec.Key, rec.Headers = headers(m.Header)
	}
	b.records = append(b.records, rec)
	b.last, b.number, b.pending = meta.sequence, meta.number, meta.pending
	return nil
}

// status heeds a message about the request.
func (r *reader) status(code, text string) error {
	switch {
	case code == "100": // a heartbeat
		return nil
	case code == "404" || code == "408": // it is over
		r.count = 0
		return nil
	case code == "409" && strings.Contains(text, "MaxBytes"):
		r.count, r.large = 0, !r.got
		return nil
	}
	return fmt.Errorf("%w: %s %s", errReopen, code, text)
}

// headers are the message's, by name, without the key and those of an atomic batch.
func headers(h nats.Header) (key []byte, rest []stream.Header) {
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		switch {
		case name == KeyHeader:
			key = []byte(h.Get(name))
			continue
		case strings.HasPrefix(name, "Nats-Batch-"): // how it was published
			continue
		}
		for _, v := range h[name] {
			rest = append(rest, stream.Header{Key: name, Value: []byte(v)})
		}
	}
	return key, rest
}

// reply is what the subject that a message is to be acknowledged on says about it.
type reply struct {
	sequence uint64 // in the stream
	number   uint64 // of the consumer's delivery
	nanos    int64  // when the stream took it, since 1970
	pending  uint64 // messages after it
}

// parseReply reads $JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<number>.<nanos>.<pending>, or the longer form with
// domain and account after ACK, and possibly a token at the end.
func parseReply(s string) (r reply, ok bool) {
	rest, ok := strings.CutPrefix(s, "$JS.ACK.")
	if !ok {
		return r, false
	}
	skip := 3 // stream, consumer, delivered
	if strings.Count(rest, ".") > 6 {
		skip = 5
	}
	for range skip {
		_, rest, ok = strings.Cut(rest, ".")
		if !ok {
			return r, false
		}
	}
	var n [4]uint64
	for i := range n {
		token, after, _ := strings.Cut(rest, ".")
		if n[i], ok = parseNumber(token); !ok {
			return r, false
		}
		rest = after
	}
	return reply{sequence: n[0], number: n[1], nanos: int64(n[2]), pending: n[3]}, true
}

func parseNumber(s string) (n uint64, ok bool) {
	for i := range len(s) {
		d := uint64(s[i] - '0')
		if d > 9 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, len(s) > 0
}
