package kafka

import (
	"context"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/stream"
)

const (
	// fetchWait is how long a broker waits for a record before it answers with none.
	fetchWait = 500 * time.Millisecond

	// deliverBytes and deliverRecords bound one Deliver.
	deliverBytes, deliverRecords = 1 << 20, 4096

	// recordOverhead is what a record takes beside its bytes.
	recordOverhead = 160

	// stuckAfter is how long full queues stand still until the longest is dropped, to be fetched again.
	stuckAfter = 250 * time.Millisecond
)

func readOptions(f Fetch) []kgo.Opt {
	return []kgo.Opt{
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // not delivered, but they say how far the log is known
		kgo.FetchMaxBytes(int32(f.MaxBytes)),
		kgo.FetchMaxPartitionBytes(int32(f.PartitionBytes)),
		kgo.FetchMaxWait(fetchWait),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), // a lost range is an error, never a jump
		kgo.WithPools(&recordPool{}),
	}
}

// recordPool keeps the client's record structs; ours are made of them at once.
type recordPool struct{ pool sync.Pool }

func (p *recordPool) GetRecords(n int) []kgo.Record {
	if rs, ok := p.pool.Get().(*[]kgo.Record); ok && cap(*rs) >= n {
		return (*rs)[:0]
	}
	return make([]kgo.Record, 0, n)
}

func (p *recordPool) PutRecords(rs []kgo.Record) { p.pool.Put(&rs) }

// reader fetches for all partitions and queues what came, within limit bytes. When one consumer is so slow that its queue
// holds up the others, the queue is dropped and fetched again later.
type reader struct {
	client *kgo.Client
	limit  int64 // bytes

	mu       sync.Mutex
	queues   map[partition]*queue
	queued   int64         // bytes in all queues
	moved    chan struct{} // closed and replaced when queued falls
	commands []func()      // for the loop, which alone tells the client what to read
	wake     context.CancelFunc
}

// queue is what was fetched of one partition and not yet delivered. Its fields are under reader.mu.
type queue struct {
	partition
	batches []batch
	bytes   int64
	closed  bool
	dropped bool  // the client does not read it; next is where to go on
	next    int64 // offset after the last queued record
	seen    func(end int64)
	ready   chan struct{} // holds a value when batches or dropped changed
}

// batch is one Deliver, or control records, or an error that ended the reading.
type batch struct {
	records []stream.Record
	bytes   int64
	first   int64 // offset of the first record
	next    int64 // offset after the last record
	leader  int32 // leader epoch of all records; -1: unknown
	err     error
}

func newReader(client *kgo.Client, limit int64) *reader {
	return &reader{client: client, limit: limit, queues: map[partition]*queue{}, moved: make(chan struct{})}
}

// open begins to read p at offset next. seen hears of the partition's end.
func (r *reader) open(p partition, next int64, seen func(end int64)) *queue {
	q := &queue{partition: p, next: next, seen: seen, ready: make(chan struct{}, 1)}
	r.do(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if !q.closed {
			r.queues[p] = q
			r.resume(q)
		}
	})
	return q
}

// close ends the reading of q.
func (r *reader) close(q *queue) {
	r.mu.Lock()
	r.empty(q)
	q.closed = true
	r.mu.Unlock()
	r.do(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.queues[q.partition] == q {
			delete(r.queues, q.partition)
			r.client.RemoveConsumePartitions(map[string][]int32{q.topic: {q.id}})
		}
	})
}

// seek drops what is queued and goes on at offset next.
func (r *reader) seek(q *queue, next int64) {
	r.mu.Lock()
	r.empty(q)
	q.next = next
	r.mu.Unlock()
	r.do(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if !q.closed {
			r.client.RemoveConsumePartitions(map[string][]int32{q.topic: {q.id}})
			r.empty(q)
			q.next = next
			r.resume(q)
		}
	})
}

// resume makes the client read q from q.next. The loop calls it, with mu held.
func (r *reader) resume(q *queue) {
	q.dropped = false
	r.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{q.topic: {q.id: kgo.NewOffset().At(q.next)}})
}

// empty forgets what is queued. mu is held.
func (r *reader) empty(q *queue) {
	r.queued -= q.bytes
	q.batches, q.bytes = nil, 0
	r.signal()
}

func (r *reader) signal() {
	close(r.moved)
	r.moved = make(chan struct{})
}

// do has the loop call f before the next poll.
func (r *reader) do(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.commands = append(r.commands, f)
	if r.wake != nil {
		r.wake()
	}
	r.signal()
}

// take waits for the next batch of q.
func (r *reader) take(ctx context.Context, q *queue) (batch, error) {
	for {
		r.mu.Lock()
		if len(q.batches) > 0 {
			b := q.batches[0]
			q.batches[0] = batch{}
			q.batches = q.batches[1:]
			q.bytes -= b.bytes
			r.queued -= b.bytes
			r.signal()
			r.mu.Unlock()
			return b, nil
		}
		back := q.dropped
		r.mu.Unlock()
		if back {
			r.do(func() {
				r.mu.Lock()
				defer r.mu.Unlock()
				if q.dropped && !q.closed {
					r.resume(q)
				}
			})
		}
		select {
		case <-q.ready:
		case <-ctx.Done():
			return batch{}, context.Cause(ctx)
		}
	}
}

// loop fetches until ctx ends.
func (r *reader) loop(ctx context.Context) {
	for ctx.Err() == nil {
		r.obey()
		if !r.room(ctx) {
			continue
		}
		poll, cancel := context.WithCancel(ctx)
		r.mu.Lock()
		if r.wake = cancel; len(r.commands) > 0 {
			cancel()
		}
		r.mu.Unlock()
		r.client.PollFetches(poll).EachPartition(r.enqueue)
		cancel()
	}
	r.obey()
}

// obey does the commands.
func (r *reader) obey() {
	r.mu.Lock()
	commands := r.commands
	r.commands, r.wake = nil, nil
	r.mu.Unlock()
	for _, f := range commands {
		f()
	}
}

// room waits until the queues have room and says whether to poll. It comes back early for commands, and when it made room
// by dropping the longest queue because nobody takes anything.
func (r *reader) room(ctx context.Context) bool {
	r.mu.Lock()
	if r.queued < r.limit {
		r.mu.Unlock()
		return true
	}
	moved := r.moved
	r.mu.Unlock()
	stuck := time.NewTimer(stuckAfter)
	defer stuck.Stop()
	select {
	case <-moved:
	case <-ctx.Done():
	case <-stuck.C:
		r.drop()
	}
	return false
}

// drop makes room at the cost of the longest queue.
func (r *reader) drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	var longest *queue
	for _, q := range r.queues {
		if longest == nil || q.bytes > longest.bytes {
			longest = q
		}
	}
	if r.queued < r.limit || longest == nil || longest.bytes == 0 || longest.batches[0].err != nil {
		return
	}
	first := longest.batches[0]
	longest.next = first.first
	r.empty(longest)
	longest.dropped = true
	r.client.RemoveConsumePartitions(map[string][]int32{longest.topic: {longest.id}})
	longest.tell()
}

func (q *queue) tell() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// enqueue takes what one answer has of one partition.
func (r *reader) enqueue(f kgo.FetchTopicPartition) {
	batches := convert(f.Records)
	r.mu.Lock()
	defer r.mu.Unlock()
	q := r.queues[partition{f.Topic, f.Partition}]
	if q == nil || q.closed || q.dropped {
		return
	}
	for _, b := range batches {
		q.batches = append(q.batches, b)
		q.bytes += b.bytes
		r.queued += b.bytes
		q.next = b.next
	}
	if f.Err != nil {
		q.batches = append(q.batches, batch{err: f.Err, next: q.next})
	} else {
		q.seen(f.HighWatermark)
	}
	q.tell()
}

// convert makes records of the client's, which go back to their pool. Keys, values and headers are shared. A batch has one
// leader epoch and, in place of records, none if they are control records.
func convert(in []*kgo.Record) []batch {
	var out []batch
	for len(in) > 0 {
		n, bytes, head := 0, int64(0), in[0]
		for n < len(in) && n < deliverRecords && (n == 0 || bytes < deliverBytes) && alike(head, in[n]) {
			bytes += int64(len(in[n].Key)+len(in[n].Value)) + recordOverhead
			n++
		}
		b := batch{bytes: bytes, first: head.Offset, next: in[n-1].Offset + 1, leader: head.LeaderEpoch}
		if !head.Attrs.IsControl() {
			b.records = make([]stream.Record, n)
			for i, k := range in[:n] {
				fill(&b.records[i], k)
			}
		}
		for _, k := range in[:n] {
			k.Recycle()
		}
		out = append(out, b)
		in = in[n:]
	}
	return out
}

// alike says that two records may be in one batch.
func alike(a, b *kgo.Record) bool {
	return a.LeaderEpoch == b.LeaderEpoch && a.Attrs.IsControl() == b.Attrs.IsControl()
}

func fill(r *stream.Record, k *kgo.Record) {
	r.Key, r.Value, r.Time, r.Pos = k.Key, k.Value, k.Timestamp, stream.OffsetPosition(uint64(k.Offset))
	if len(k.Headers) > 0 {
		r.Headers = make([]stream.Header, len(k.Headers))
		for j, h := range k.Headers {
			r.Headers[j] = stream.Header{Key: h.Key, Value: h.Value}
		}
	}
}
