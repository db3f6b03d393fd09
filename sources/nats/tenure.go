package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace-io/millrace/sources/lease"
	"github.com/millrace-io/millrace/stream"
)

var errEnding = errors.New("the tenure ends")

// tenure is one partition from its lease until that is given back or lost: the engine's stream.Assignment. lease.Holder runs it.
//
// How it knows that nothing is missing. A stream's limits remove its oldest messages, whatever their subject. If the first
// sequence of the stream, asked for after a message was received, is not above verified+1, then nothing after verified has
// been removed until then, and all the partition's messages after it up to the received one were received. So verified
// moves on with every look, and no commit goes beyond it. A quiet partition receives nothing while the stream goes on:
// there a look that finds nothing pending moves verified to the stream's end, and the row's mark keeps that for the next
// owner. If the first sequence is above verified+1, messages of the partition may be gone: the run ends with ErrRetention,
// also if they were all of other subjects, which nobody can know any more.
type tenure struct {
	*lease.Lease
	run  *run
	mark mark // set by begin

	begun    atomic.Bool   // received and verified are valid
	received atomic.Uint64 // sequence of the last message received, or the one before the first
	moving   sync.Mutex
	verified uint64 // under moving

	lag     sync.Mutex
	cursor  string    // the server's name of the reader's; empty: none yet, and pending is not known
	got     uint64    // messages received from the cursor
	taken   uint64    // of these, by the engine
	pending uint64    // messages after those
	last    time.Time // of the last message that the engine took; zero: none yet
}

func newTenure(r *run, l *lease.Lease) *tenure { return &tenure{Lease: l, run: r} }

// deliver reads and hands over until ctx ends or the consumer has enough.
func (t *tenure) deliver(ctx context.Context, consumer stream.Consumer) (ended bool, err error) {
	if err := t.read(ctx, consumer); err != nil {
		return false, fmt.Errorf("partition %s: %w", t.Partition(), err)
	}
	return false, nil
}

func (t *tenure) read(ctx context.Context, consumer stream.Consumer) error {
	after, ok := consumer.Start()
	if ctx.Err() != nil {
		return errEnding
	}
	next, err := t.begin(ctx, after, ok)
	if err != nil {
		return err
	}
	r := newReader(t.run, t.Partition(), next, t.opened)
	defer r.close()
	for {
		b, err := r.read(ctx)
		if err != nil {
			return err
		}
		t.received.Store(b.last)
		t.sent(b, 0)
		if ctx.Err() != nil {
			return errEnding
		}
		if consumer.Deliver(ctx, b.records) != nil {
			return nil // the consumer knows why; the tenure waits for its end
		}
		t.sent(b, len(b.records))
	}
}

// begin is the sequence to read first.
func (t *tenure) begin(ctx context.Context, after stream.Position, ok bool) (next uint64, err error) {
	if t.mark, err = parseMark(t.Mark()); err != nil {
		return 0, err
	}
	created := t.run.info.Created.UnixNano()
	if t.mark.Created != 0 && t.mark.Created != created {
		return 0, t.run.createdAgain()
	}
	t.mark.Created = created
	err = t.run.retry(ctx, "start lookup failed", func(ctx context.Context) error {
		next, err = t.first(ctx, after, ok)
		return err
	})
	return next, err
}

func (t *tenure) first(ctx context.Context, after stream.Position, ok bool) (next uint64, err error) {
	first, last, err := t.run.ends(ctx)
	if err != nil {
		return 0, err
	}
	if t.mark.Start == 0 {
		if t.mark.Start, err = t.configuredStart(ctx, first, last); err != nil {
			return 0, err
		}
		t.mark.After, t.mark.Clear = t.mark.Start-1, t.mark.Start-1
		t.SetMark(t.mark.encode())
		if err := t.Renew(ctx); err != nil {
			t.mark.Start = 0
			return 0, err
		}
	}
	floor := t.mark.Start - 1
	if ok {
		floor = after.Offset()
	}
	verified := t.mark.clearAfter(floor)
	switch {
	case floor > last:
		return 0, stream.Fatal(fmt.Errorf("the next message is %d, but stream %q ends at %d: the server lost messages that it had acknowledged", floor+1, t.run.cfg.Stream, last))
	case first > verified+1 && t.run.cfg.Reset == fail:
		return 0, t.gone(ctx, verified+1, first-1)
	case first > verified+1:
		t.warn(verified+1, first-1)
		verified = first - 1
	}
	t.moving.Lock()
	t.verified = verified
	t.moving.Unlock()
	t.received.Store(floor)
	t.begun.Store(true)
	return max(floor+1, first), nil
}

// configuredStart is the first sequence that Config.Start means now.
func (t *tenure) configuredStart(ctx context.Context, first, last uint64) (uint64, error) {
	at, err := t.run.cfg.startTime()
	switch {
	case err != nil:
		return 0, stream.Fatal(err)
	case t.run.cfg.Start == earliest:
		return first, nil
	case t.run.cfg.Start == latest:
		return last + 1, nil
	}
	return t.run.firstSince(ctx, at, first)
}

// firstSince is the sequence of the first message that the stream took at a time or later, of any partition. first is the stream's
// first one.
func (r *run) firstSince(ctx context.Context, at time.Time, first uint64) (uint64, error) {
	// The server finds the place for a consumer that starts by time.
	c, err := r.js.CreateConsumer(ctx, r.cfg.Stream, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &at,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: idleCursor,
	})
	if err != nil {
		return 0, fmt.Errorf("find the first message since %v: %w", at, denied(err))
	}
	info := c.CachedInfo()
	dropConsumer(r.connection, r.cfg.Stream, info.Name)
	return max(first, info.Delivered.Stream+1), nil
}

// createdAgain says what to do about a stream that is not the one that the bucket's sequences are of.
func (s *Source) createdAgain() error {
	return stream.Fatal(fmt.Errorf("stream %q was deleted and created again since the last run, so the stored sequences mean nothing; "+
		"delete bucket %s to start anew", s.cfg.Stream, s.cfg.Bucket))
}

// verify moves verified to the received sequence. The stream's first one was asked for after that.
func (t *tenure) verify(received, first uint64) error {
	t.moving.Lock()
	verified := t.verified
	if first <= verified+1 {
		t.verified = max(verified, received)
		t.moving.Unlock()
		return nil
	}
	t.moving.Unlock()
	if t.run.cfg.Reset == fail {
		return t.gone(t.run.ctx, verified+1, first-1)
	}
	t.warn(verified+1, first-1)
	t.moving.Lock()
	defer t.moving.Unlock()
	t.verified = max(received, first-1)
	return nil
}

func (t *tenure) warn(from, to uint64) {
	t.run.log.Warn("messages are gone that may not have been read", "partition", t.Partition(), "from", from, "to", to)
}

// gone is the error for messages that were removed before they were read: of this partition, and of all others that no
// worker reads at the moment, so that the operator sees them at once.
func (t *tenure) gone(ctx context.Context, from, to uint64) error {
	lost := []string{fmt.Sprintf("%s: sequences %d to %d", t.Partition(), from, to)}
	rows, err := t.run.table.List(ctx)
	if err != nil {
		rows = nil
	}
	for _, r := range rows {
		m, err := parseMark(r.Mark)
		if err != nil || r.Partition == t.Partition() || t.run.reads(r) {
			continue
		}
		if k, ok := known(r, m); ok && k < to {
			lost = append(lost, fmt.Sprintf("%s: sequences %d to %d", r.Partition, k+1, to))
		}
	}
	slices.Sort(lost)
	return stream.Fatal(fmt.Errorf("%w: %s; set reset to earliest to go on without them", stream.ErrRetention, strings.Join(lost, ", ")))
}

// reads says that some worker is past the beginning of the row's partition, so that its mark is old news.
func (r *run) reads(row lease.Row) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tenures[row.Partition]
	if t == nil {
		return row.Owner != ""
	}
	return t.begun.Load()
}

// measure learns the lag, and whether the partition is quiet up to the stream's last sequence, which was asked for before.
func (t *tenure) measure(last uint64) {
	t.lag.Lock()
	name, got, taken := t.cursor, t.got, t.taken
	t.lag.Unlock()
	if name == "" {
		return
	}
	received := t.received.Load()
	ctx, cancel := context.WithTimeout(t.run.ctx, requestTimeout)
	defer cancel()
	c, err := t.run.js.Consumer(ctx, t.run.cfg.Stream, name)
	if err != nil {
		return // the reader makes a new cursor
	}
	info := c.CachedInfo()
	t.lag.Lock()
	same := t.cursor == name && t.got == got && t.taken == taken
	if same {
		t.pending = info.NumPending + info.Delivered.Consumer - min(taken, info.Delivered.Consumer)
	}
	t.lag.Unlock()
	if !same || info.NumPending > 0 || info.Delivered.Consumer != got || t.received.Load() != received {
		return
	}
	t.moving.Lock()
	t.verified = max(t.verified, last)
	t.moving.Unlock()
	m := t.mark
	m.After, m.Clear = received, max(received, last)
	t.SetMark(m.encode())
}

// opened notes a new cursor after the last message received, with so many messages to come.
func (t *tenure) opened(name string, pending uint64) {
	t.lag.Lock()
	defer t.lag.Unlock()
	t.cursor, t.got, t.taken, t.pending = name, 0, 0, pending
}

// sent notes that the engine has taken the first n records of b.
func (t *tenure) sent(b batch, n int) {
	t.lag.Lock()
	defer t.lag.Unlock()
	left := uint64(len(b.records) - n)
	t.got, t.taken, t.pending = b.number, b.number-left, b.pending+left
	if n > 0 {
		t.last = b.records[n-1].Time
	}
}

// Lag is as of the last message or the last look, whichever is newer.
func (t *tenure) Lag() (records int64, age time.Duration) {
	t.lag.Lock()
	defer t.lag.Unlock()
	switch {
	case t.cursor == "":
		return -1, -1
	case t.pending == 0:
		return 0, 0
	case t.last.IsZero():
		return int64(t.pending), -1
	}
	return int64(t.pending), max(0, time.Since(t.last))
}

// Commit stores c, once it is sure that nothing before c.Pos was missed.
func (t *tenure) Commit(ctx context.Context, c stream.Checkpoint) error {
	t.moving.Lock()
	verified := t.verified
	t.moving.Unlock()
	if c.Pos.Offset() > verified {
		received := t.received.Load()
		first, _, err := t.run.ends(ctx)
		if err != nil {
			return fmt.Errorf("commit of %s: %w", t.Partition(), err)
		}
		if err := t.verify(received, first); err != nil {
			return err
		}
	}
	return t.Lease.Commit(ctx, c)
}
