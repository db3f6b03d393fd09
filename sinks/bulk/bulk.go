// Package bulk is the loop that the upsert sinks share. It collects the encoded writes of all partitions, sends them in
// requests of bounded size within a bounded delay, judges every write's outcome by itself, repeats what may succeed
// later, keeps the order per key, and gives back what the server refused for good.
//
// A sink brings a Target: how an event becomes bytes (Encoder), and how some of those become one request (Send). Read
// this file, then lane.go (what is sent when), then writer.go (one tenure's side).
package bulk

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// Target is the outside of one sink. Send is called by several goroutines at once.
type Target interface {
	// Encoder returns what encodes the events of one tenure. An error is about the tenure's schema, and Fatal.
	Encoder(t stream.Tenure) (Encoder, error)

	// Send writes items in one request and sets Err of those that were not written. They are in the order in which they have
	// to take effect; with Newest and OneByOne no key is there twice. A returned error is about all of them: nothing is
	// known of their effect, and they are sent again, unless it wraps ErrTooLarge. A FatalError is passed on to the engine.
	Send(ctx context.Context, items []*Item) error

	// Idle is called when the last tenure has ended: connections that wait for work may go. Send may be called again.
	Idle()
}

// Encoder encodes the events of one tenure, from one goroutine.
type Encoder interface {
	// Encode appends the key and the body of e's write to the two slices and returns them. No body: e asks for no write. An
	// error is final for the event and sends its record to the dead letters.
	Encode(key, body []byte, e *stream.Event) ([]byte, []byte, error)
}

// Item is one write. A Target reads it and sets Err.
type Item struct {
	Partition string
	Index     uint32         // of the event among those of its record
	Record    *stream.Record // what the event was made of: a copy
	Key       []byte         // writes of one key keep their order, as Options.Order says
	Body      []byte         // as the Encoder made it
	Buried    bool           // the sink refused another write of the record, in an earlier commit: its refusal makes no dead letter

	// Err is how the write ended: nil, written or there already; a Refused error, never; any other, not yet.
	Err error

	writer  *Writer
	number  uint64 // in the order of the writer's writes
	hash    uint64 // of Key, with LogOrder of Partition
	size    int64  // heap bytes, about
	block   *block // that it is in; nil: memory of its own
	arrived time.Time
	older   *Item // of the same key; written with this one: see Newest
	again   bool  // it was sent before
	passes  bool  // its key is held, but it is its turn
}

// ErrTooLarge says that the server takes no request of this size. The items are sent again in smaller ones; an item that is
// too large by itself is refused.
var ErrTooLarge = errors.New("the request is too large for the server")

// ErrLate says that a connection was given up because a request had no answer in time: this one, or another one on it.
var ErrLate = errors.New("the connection was given up")

// refused is an outcome that no repetition changes.
type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

// Refused says that the server will never take this write. Its record becomes a dead letter with the error's text.
func Refused(err error) error { return refused{err} }

// IsRefused says that err is one of Refused's.
func IsRefused(err error) bool {
	var r refused
	return errors.As(err, &r)
}

// Order is what a sink's writes of one key mean to each other.
type Order int

const (
	Any      Order = iota // nothing: every write has a key of its own
	Newest                // a later write replaces the earlier ones: of those that wait, only the newest is sent
	OneByOne              // all are sent, one after the other, never two in one request
	InTurn                // all are sent; a request may hold several, and the Target keeps their order: once one fails, so do the later ones
	LogOrder              // as InTurn, for all writes of a partition of the source, whatever their keys
)

// Options of a loop.
type Options struct {
	Name    string        // of the sink in the pipeline file: "sink.<name>" is the stage of its dead letters
	Order   Order         //
	Delay   time.Duration // longest that a write waits for company; default 100 ms
	Items   int           // most writes of one request; default 1,000
	Bytes   int           // most bytes of the bodies of one request; a larger body goes alone; default 4 MiB
	Lanes   int           // requests at once; a key, with LogOrder a partition, is always in the same lane; default 4
	Timeout time.Duration // of one request; default 30 s

	// Jitter is the random part of a back-off, as stream.Config's.
	Jitter func(most time.Duration) time.Duration
	Log    *slog.Logger
}

// EnsureDefaults sets what is zero.
func (o *Options) EnsureDefaults() {
	if o.Delay == 0 {
		o.Delay = 100 * time.Millisecond
	}
	if o.Items == 0 {
		o.Items = 1000
	}
	if o.Bytes == 0 {
		o.Bytes = 4 << 20
	}
	if o.Lanes == 0 {
		o.Lanes = 4
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Jitter == nil {
		o.Jitter = func(most time.Duration) time.Duration { return rand.N(most) }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// Sink is the loop around one Target. It is a stream.Upsert.
type Sink struct {
	target Target
	o      Options
	seed   maphash.Seed
	lanes  []*lane

	mu      sync.Mutex
	writers int            // open
	stop    chan struct{}  // closed when the lanes have to end
	running sync.WaitGroup // the lanes
	next    int            // lane of the next writes without an order

	stats stats
}

var _ stream.Upsert = (*Sink)(nil)

// New returns the loop around target. It sends from the first Open on.
func New(target Target, o Options) *Sink {
	o.EnsureDefaults()
	s := &Sink{target: target, o: o, seed: maphash.MakeSeed()}
	s.stats.begin()
	for range o.Lanes {
		s.lanes = append(s.lanes, newLane(s))
	}
	return s
}

// Open returns the writer of one tenure, a *Writer.
func (s *Sink) Open(_ context.Context, t stream.Tenure) (stream.UpsertWriter, error) {
	return s.Writer(t)
}

// Writer is Open for those who want the concrete type.
func (s *Sink) Writer(t stream.Tenure) (*Writer, error) {
	encoder, err := s.target.Encoder(t)
	if err != nil {
		return nil, stream.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writers++; s.writers == 1 {
		s.stop = make(chan struct{})
		for _, l := range s.lanes {
			stop := s.stop
			s.running.Go(func() { l.run(stop) })
		}
	}
	return newWriter(s, t.Partition, encoder), nil
}

// closed is called once for each writer, when nothing of it is left in the lanes.
func (s *Sink) closed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writers--; s.writers > 0 {
		return
	}
	close(s.stop)
	s.running.Wait()
	s.target.Idle()
}

// Stats is the sink's state.
func (s *Sink) Stats() stream.SinkStats { return s.stats.get() }

// waiting says what a writer waits for.
func (s *Sink) waiting(n int, err error) error {
	if last := s.stats.failing(); last != nil {
		err = last
	}
	return fmt.Errorf("%d writes are not acknowledged: %w", n, err)
}
