package bulk

import (
	"cmp"
	"context"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// Writer is one tenure's side of a Sink. Write, Flush, Withdraw and Close are called from one goroutine.
type Writer struct {
	sink      *Sink
	partition string
	encoder   Encoder
	numbers   uint64 // of items so far

	key, body []byte         // scratch
	record    *stream.Record // the last event's
	copied    *stream.Record // what was kept of it
	arena     []byte
	byLane    [][]*Item // scratch

	mu      sync.Mutex
	pending int   // items that are not settled
	bytes   int64 // that they hold
	refused []*stream.DeadLetter
	settled chan struct{} // has an element when pending may be small enough; capacity 1
	ended   bool
}

var _ stream.UpsertWriter = (*Writer)(nil)

func newWriter(s *Sink, partition string, e Encoder) *Writer {
	return &Writer{sink: s, partition: partition, encoder: e, settled: make(chan struct{}, 1), byLane: make([][]*Item, len(s.lanes))}
}

// overhead is about what an item costs beside its bytes.
const overhead = 256

// Size is the heap bytes of the item, about.
func (it *Item) Size() int64 {
	return int64(len(it.Key)+len(it.Body)+len(it.Record.Value)+len(it.Record.Key)) + overhead
}

// Write encodes events and puts their writes where the lanes find them.
func (w *Writer) Write(events []*stream.Event) { w.put(w.Encode(events)) }

// Encode makes the items of events without sending them. What cannot be encoded is refused.
func (w *Writer) Encode(events []*stream.Event) []*Item {
	items := make([]*Item, 0, len(events))
	slab := make([]Item, len(events))
	now := time.Now()
	for i, e := range events {
		var err error
		w.key, w.body, err = w.encoder.Encode(w.key[:0], w.body[:0], e)
		if err != nil {
			w.refuse(w.copyOf(e.Record), err)
			continue
		}
		if len(w.body) == 0 {
			continue
		}
		it := &slab[i]
		it.Partition, it.Index, it.Record = w.partition, e.Index, w.copyOf(e.Record)
		it.Key, it.Body = w.keep(w.key), w.keep(w.body)
		it.arrived = now
		items = append(items, it)
	}
	w.record, w.copied = nil, nil // the batch that it is of is used again
	return items
}

// Put writes items that Encode made or Withdraw took back, here or in another process. The caller gives them up.
func (w *Writer) Put(items []*Item) {
	for _, it := range items {
		it.older, it.again, it.passes = nil, false, false
		if it.arrived.IsZero() {
			it.arrived = time.Now()
		}
	}
	w.put(items)
}

func (w *Writer) put(items []*Item) {
	if len(items) == 0 {
		return
	}
	var bytes int64
	for _, it := range items {
		it.writer, it.number = w, w.numbers
		w.numbers++
		it.size = it.Size()
		it.hash = w.sink.hash(it)
		bytes += it.size
	}
	w.mu.Lock()
	w.pending += len(items)
	w.bytes += bytes
	w.mu.Unlock()
	w.sink.stats.waits(len(items), bytes)
	w.sink.distribute(items, w.byLane)
}

// hash is of what it has an order with: the writes of its key, or of its partition.
func (s *Sink) hash(it *Item) uint64 {
	if s.o.Order == LogOrder {
		return maphash.String(s.seed, it.Partition)
	}
	return maphash.Bytes(s.seed, it.Key)
}

// distribute gives items to the lanes: by key, or, where keys do not matter, all to the next one.
func (s *Sink) distribute(items []*Item, byLane [][]*Item) {
	if s.o.Order == Any {
		s.mu.Lock()
		l := s.lanes[s.next%len(s.lanes)]
		s.next++
		s.mu.Unlock()
		l.add(items)
		return
	}
	for _, it := range items {
		i := it.hash % uint64(len(s.lanes))
		byLane[i] = append(byLane[i], it)
	}
	for i, some := range byLane {
		if len(some) > 0 {
			s.lanes[i].add(some)
			clear(some)
			byLane[i] = some[:0]
		}
	}
}

// keep copies b to memory that lives as long as an item of it does.
func (w *Writer) keep(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	const block = 64 << 10
	if len(w.arena)+len(b) > cap(w.arena) {
		w.arena = make([]byte, 0, max(block, len(b)))
	}
	from := len(w.arena)
	w.arena = append(w.arena, b...)
	return w.arena[from:len(w.arena):len(w.arena)]
}

// copyOf keeps a record, once for all its events: for a dead letter, and for sinks that pass it on.
func (w *Writer) copyOf(r *stream.Record) *stream.Record {
	if r == w.record {
		return w.copied
	}
	c := &stream.Record{Pos: r.Pos, Time: r.Time, Key: w.keep(r.Key), Value: w.keep(r.Value)}
	if r.Key != nil && c.Key == nil {
		c.Key = []byte{}
	}
	if r.Value != nil && c.Value == nil {
		c.Value = []byte{}
	}
	for _, h := range r.Headers {
		c.Headers = append(c.Headers, stream.Header{Key: h.Key, Value: slices.Clone(h.Value)})
	}
	w.record, w.copied = r, c
	return c
}

func (w *Writer) refuse(r *stream.Record, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refused = append(w.refused, &stream.DeadLetter{Record: r, Stage: "sink." + w.sink.o.Name, Err: err.Error()})
}

// Buffered is the bytes of what is not acknowledged.
func (w *Writer) Buffered() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes
}

// Flush returns when all that was written is acknowledged, with what was refused.
func (w *Writer) Flush(ctx context.Context) ([]*stream.DeadLetter, error) {
	err := w.Wait(ctx, 0)
	return w.Refused(), err
}

// Wait returns when at most bytes are not acknowledged. A FatalError when the server refuses requests for a reason that no
// repetition mends; else the context's, with what fails at present.
func (w *Writer) Wait(ctx context.Context, bytes int64) error {
	for _, l := range w.sink.lanes {
		l.hasten()
	}
	for {
		w.mu.Lock()
		pending, done := w.pending, w.bytes <= bytes
		w.mu.Unlock()
		if done {
			return nil
		}
		if err := w.sink.stats.fatal(); err != nil {
			return w.sink.waiting(pending, err)
		}
		select {
		case <-w.settled:
		case <-ctx.Done():
			return w.sink.waiting(pending, ctx.Err())
		}
	}
}

// Refused returns what was refused since the last call.
func (w *Writer) Refused() []*stream.DeadLetter {
	w.mu.Lock()
	defer w.mu.Unlock()
	dead := w.refused
	w.refused = nil
	return dead
}

// settle takes it, and the older ones that it was written with, off the writer's account.
func (w *Writer) settle(it *Item) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ; it != nil; it = it.older {
		w.pending--
		w.bytes -= it.size
	}
	w.poke()
}

// poke wakes Wait.
func (w *Writer) poke() {
	select {
	case w.settled <- struct{}{}:
	default:
	}
}

// Withdraw takes back everything that is not acknowledged, in the order of its writing. Of requests that were under way
// the effect is unknown. After it returns nothing of this writer is sent.
func (w *Writer) Withdraw() []*Item {
	var items []*Item
	for _, l := range w.sink.lanes {
		for _, it := range l.withdraw(w) {
			for ; it != nil; it = it.older {
				items = append(items, it)
			}
		}
	}
	slices.SortFunc(items, func(a, b *Item) int { return cmp.Compare(a.number, b.number) })
	w.mu.Lock()
	bytes := w.bytes
	w.pending, w.bytes = 0, 0
	w.mu.Unlock()
	w.sink.stats.waits(-len(items), -bytes)
	return items
}

// Close ends the writer. After it returns nothing of it is sent.
func (w *Writer) Close() {
	if w.ended {
		return
	}
	w.ended = true
	w.Withdraw()
	w.sink.closed()
}
