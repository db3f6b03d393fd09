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

	key, body []byte           // scratch
	byLane    [][]*Item        // scratch
	blocks    []*block         // by lane: that are being filled
	copied    []*stream.Record // by lane: whose copy is the last of the block's

	mu      sync.Mutex
	pending int   // items that are not settled
	bytes   int64 // that they hold
	refused []*stream.DeadLetter
	settled chan struct{} // has an element when pending may be small enough; capacity 1
	ended   bool
}

var _ stream.UpsertWriter = (*Writer)(nil)

func newWriter(s *Sink, partition string, e Encoder) *Writer {
	return &Writer{sink: s, partition: partition, encoder: e, settled: make(chan struct{}, 1), byLane: make([][]*Item, len(s.lanes)), blocks: make([]*block, len(s.lanes)), copied: make([]*stream.Record, len(s.lanes))}
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
	now := time.Now()
	for _, e := range events {
		var err error
		w.key, w.body, err = w.encoder.Encode(w.key[:0], w.body[:0], e)
		if err != nil {
			w.refuse(e.Record, err)
			continue
		}
		if len(w.body) == 0 {
			continue
		}
		it := w.item(e, w.key, w.body)
		it.arrived = now
		items = append(items, it)
	}
	clear(w.copied) // the batch that they are of is used again
	return items
}

// Put writes items that Encode made or Withdraw took back, here or in another process. The caller gives them up.
func (w *Writer) Put(items []*Item) {
	for _, it := range items {
		it.older, it.again, it.passes, it.block = nil, false, false, nil
		if it.arrived.IsZero() {
			it.arrived = time.Now()
		}
		it.hash = w.sink.hash(it.Partition, it.Key)
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
		bytes += it.size
	}
	w.mu.Lock()
	for _, it := range items {
		if it.block != nil {
			it.block.live++
		}
	}
	w.pending += len(items)
	w.bytes += bytes
	w.mu.Unlock()
	w.sink.stats.waits(len(items), bytes)
	w.sink.distribute(items, w.byLane)
}

// hash is of what it has an order with: the writes of its key, or of its partition.
func (s *Sink) hash(partition string, key []byte) uint64 {
	if s.o.Order == LogOrder {
		return maphash.String(s.seed, partition)
	}
	return maphash.Bytes(s.seed, key)
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

// block is the memory of some items of one writer and one lane. The first that has to wait for long keeps all of it, so all of it counts
// until the last one is settled; blocks are small, and a lane settles its items about in turn.
type block struct {
	items   []Item // these three have their capacity from the beginning
	records []stream.Record
	bytes   []byte

	live    int   // items that are not settled; this and settled under the writer's mu
	settled int64 // size of those that are
}

const (
	blockItems = 12
	blockBytes = 16 << 10
)

// item copies what it is made of. The copy of a record serves its events: for dead letters, and for sinks that pass it on.
func (w *Writer) item(e *stream.Event, key, body []byte) *Item {
	r, hash, lane := e.Record, w.sink.hash(w.partition, key), uint64(0)
	if w.sink.o.Order != Any {
		lane = hash % uint64(len(w.blocks))
	}
	b := w.blocks[lane]
	if size := len(key) + len(body) + len(r.Key) + len(r.Value); b == nil || len(b.items) == blockItems || len(b.bytes)+size > cap(b.bytes) {
		b = &block{items: make([]Item, 0, blockItems), records: make([]stream.Record, 0, blockItems), bytes: make([]byte, 0, max(blockBytes, size))}
		w.blocks[lane], w.copied[lane] = b, nil
	}
	if r != w.copied[lane] {
		b.records = append(b.records, stream.Record{Pos: r.Pos, Time: r.Time, Key: b.keep(r.Key), Value: b.keep(r.Value), Headers: cloned(r.Headers)})
		w.copied[lane] = r
	}
	b.items = append(b.items, Item{Partition: w.partition, Index: e.Index, Record: &b.records[len(b.records)-1], Body: b.keep(body), hash: hash, block: b})
	it := &b.items[len(b.items)-1]
	if len(key) > 0 {
		it.Key = b.keep(key)
	}
	return it
}

// keep copies p.
func (b *block) keep(p []byte) []byte {
	if p == nil {
		return nil
	}
	from := len(b.bytes)
	b.bytes = append(b.bytes, p...)
	return b.bytes[from:len(b.bytes):len(b.bytes)]
}

func cloned(headers []stream.Header) (out []stream.Header) {
	for _, h := range headers {
		out = append(out, stream.Header{Key: h.Key, Value: slices.Clone(h.Value)})
	}
	return out
}

func (w *Writer) refuse(r *stream.Record, err error) {
	r = &stream.Record{Pos: r.Pos, Time: r.Time, Key: slices.Clone(r.Key), Value: slices.Clone(r.Value), Headers: cloned(r.Headers)}
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
	clear(w.blocks) // the next write may be long in coming
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

// settle takes it, and the older ones that it was written with, off the writer's account. It returns how many, and the bytes that are
// free now.
func (w *Writer) settle(it *Item) (n int, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for it != nil {
		n++
		b, done := it.block, it
		it, done.older = it.older, nil // or a block would keep all before it
		if b == nil {
			bytes += done.size
			continue
		}
		b.live--
		if b.settled += done.size; b.live == 0 {
			bytes += b.settled
			b.settled = 0
		}
	}
	w.pending -= n
	w.bytes -= bytes
	w.poke()
	return n, bytes
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
	clear(w.blocks) // nobody settles what is withdrawn
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
