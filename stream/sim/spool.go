package sim

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// Spool is the code behind on_stall: spool. It is handed in, since this package imports nothing of ours but stream.
type Spool interface {
	// Open is the sink of one process, over what there is outside of it.
	Open(o *Outside) Spooled

	// Writes reads back what an object that was set aside holds, in its order.
	Writes(object []byte) ([]Write, error)
}

// Spooled is one process's sink that sets writes aside.
type Spooled interface {
	stream.Spool

	// Orphans drains what is older than age and has no owner in the process.
	Orphans(ctx context.Context, age time.Duration) (writes uint64, err error)
}

// Write is one write, as the sink's server gets it.
type Write struct {
	Partition string
	Index     uint32 // of the event among those of its record
	Record    *stream.Record
	Body      []byte // as Outside.Encode made it
}

var (
	// ErrRefused is the outcome of a write that the server will never take.
	ErrRefused = errors.New(refusal)

	// ErrBusy is the outcome of a write that the server does not take now.
	ErrBusy = errors.New("the simulated sink is busy")

	// ErrNotFound says that there is no such object.
	ErrNotFound = errors.New("no such object")
)

// Outside is what the sink of one process finds outside: a server that takes rows by their identity, and a place for objects in two
// phases. An object's key is <sink>/<partition>-<hash>/<name>. It is safe for concurrent use; but of one partition only one
// goroutine writes, one reads objects, and one does the rest, and Publish, Withdraw, Get and Delete may be concurrent for
// different objects.
type Outside struct {
	p      *process
	sink   string
	number int // among the sinks with a spool
	base   int // of its lanes: see Call
}

// Times for the sink: how long a commit waits for the server, how long a write waits for company, and when a request is
// given up. As with those in world.go, none of these timers fires at a moment at which a call of the same shard takes effect.
const (
	StallAfter  = 1800*quantum + 7*lanes + 3
	BulkDelay   = 150*quantum + 11*lanes + 5
	BulkTimeout = 2500*quantum + 13*lanes + 7

	// The spool's own are minutes: a run would be over.
	tendEvery = 9000 * quantum
	orphanAge = 12000 * quantum
)

// Lanes of a spooled sink, beginning with base.
const (
	writeLane = iota
	drainLane
	objectLane  // and those after it: the calls for one object each
	objectLanes = 64
	spoolLanes  = objectLane + objectLanes
)

// spoolName follows a sink's name in the calls to where it sets aside, and in the steps in which that fails.
const spoolName = ".spool"

// Sink is the sink's name.
func (o *Outside) Sink() string { return o.sink }

// Jitter is the random part of a back-off.
func (o *Outside) Jitter(most time.Duration) time.Duration { return o.p.world.jitter(most) }

// Encode appends the key and the body of e's write.
func (o *Outside) Encode(key, body []byte, e *stream.Event) ([]byte, []byte) {
	w := o.p.world
	w.mu.Lock()
	key = append(key, w.records[e.Record.Pos.Offset()].key...)
	w.mu.Unlock()
	return key, strconv.AppendUint(body, w.eventRow(e).sum, 16)
}

// writtenRow is what the server makes of a write. Where the record is not that of the log, the row says something wrong.
func (w *world) writtenRow(wr *Write) row {
	r := row{rowID: rowID{wr.Record.Pos, wr.Index}}
	rec := w.records[wr.Record.Pos.Offset()]
	at, found := slices.BinarySearchFunc(rec.shard.log, wr.Record.Pos, func(r stream.Record, pos stream.Position) int { return r.Pos.Compare(pos) })
	if !found || wr.Partition != rec.shard.name || !sameRecord(&rec.shard.log[at], wr.Record) {
		return r
	}
	r.sum, _ = strconv.ParseUint(string(wr.Body), 16, 64)
	return r
}

// sameRecord ignores what is shorter than a microsecond, as all sinks do.
func sameRecord(a, b *stream.Record) bool {
	same := func(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }
	return same(a.Key, b.Key) && same(a.Value, b.Value) && a.Time.UnixMicro() == b.Time.UnixMicro() &&
		slices.EqualFunc(a.Headers, b.Headers, func(a, b stream.Header) bool { return a.Key == b.Key && same(a.Value, b.Value) })
}

// Send writes some rows in one request and returns the outcome of each, in their order: nil, ErrRefused or ErrBusy. Once one of a
// key is not taken now, neither are the later ones. With an error nothing is known of their effect. No partition: those of the
// orphans.
func (o *Outside) Send(ctx context.Context, partition string, writes []Write) ([]error, error) {
	c := Call{Shard: -1, Name: o.sink + ".write", Lane: o.tending() + 1}
	if partition != "" {
		c.Shard, c.Lane = o.p.world.find(partition).number, o.base+writeLane
	}
	w := o.p.world
	var outcome []error
	err := o.p.call(ctx, c, func() error {
		errs := make([]error, len(writes))
		busy := len(writes)
		if h := w.schedule.chance(c, forSize) ^ uint64(time.Since(w.began)); !w.calm && mix(h)%12 == 0 {
			busy = int(mix(h+1) % uint64(len(writes)))
		}
		waits := map[string]bool{} // keys
		for i := range writes {
			r := w.writtenRow(&writes[i])
			key := w.records[r.pos.Offset()].key
			switch {
			case i >= busy || waits[key] || w.throttles(o.sink, r.rowID):
				errs[i], waits[key] = ErrBusy, true
			case w.refuses(o.sink, r.rowID):
				errs[i] = ErrRefused
			default:
				w.upsert(o.sink, r)
			}
		}
		outcome = errs
		return nil
	})
	if err != nil {
		return nil, err
	}
	return outcome, nil
}

// throttles says that a sink does not take a row for some seconds while it takes others: one in a hundred.
func (w *world) throttles(sink string, id rowID) bool {
	h := mix(w.schedule.Seed ^ hashText(sink) ^ id.pos.Offset()<<9 ^ uint64(id.index))
	rec := w.records[id.pos.Offset()]
	return h%100 == 0 && !w.calm && time.Since(rec.written) < time.Duration(h>>32%15_000)*time.Millisecond
}

// bucket is where a sink's writes are set aside.
type bucket struct {
	spool   Spool
	made    map[string]*object // by upload: all that ever were
	staged  map[string]*object // those that are not visible, and neither gone
	visible map[string]*object // by key
	numbers map[string]int     // by key: for the lanes of the calls
}

// object is one of a bucket's.
type object struct {
	key    string
	upload string
	data   []byte
	made   time.Time
	by     int // the process
	rows   []rowID
}

func newBucket(s Spool) *bucket {
	return &bucket{s, map[string]*object{}, map[string]*object{}, map[string]*object{}, map[string]int{}}
}

// Object is a line of a listing.
type Object struct {
	Key      string
	Size     int64
	Modified time.Time
}

// tendingKey is in the context of whoever drains orphans: its calls are other actors than those of the partitions' owners.
type tendingKey struct{}

// tending is the lane of the calls of whoever drains orphans.
func (o *Outside) tending() int { return 1 + 2*o.number }

// object is a call about an object or, for a listing, about those of a shard or all.
func (o *Outside) object(ctx context.Context, key, what string, lane int, fn func(b *bucket) error) error {
	w := o.p.world
	c := Call{Shard: -1, Name: o.sink + spoolName + "." + what, Lane: o.tending()}
	if ctx.Value(tendingKey{}) == nil {
		sh, number := o.find(key)
		if lane == objectLane {
			lane += number % objectLanes
		}
		if c.Shard, c.Lane = sh.number, 0; lane > 0 {
			c.Lane = o.base + lane
		}
	}
	return o.p.call(ctx, c, func() error { return fn(w.buckets[o.sink]) })
}

// find is the shard of a key, and the number of its object.
func (o *Outside) find(key string) (*shard, int) {
	w := o.p.world
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.shardOf(key), w.buckets[o.sink].numbers[strings.TrimSuffix(key, ".drained")]
}

func (w *world) shardOf(key string) *shard {
	folder := strings.Split(key, "/")[1]
	return w.byName(folder[:strings.LastIndexByte(folder, '-')])
}

// Stage makes an object durable and invisible, and returns its upload's name.
func (o *Outside) Stage(ctx context.Context, key string, data []byte) (upload string, err error) {
	w := o.p.world
	data = bytes.Clone(data)
	var name string
	err = o.object(ctx, key, "stage", 0, func(b *bucket) error {
		made := &object{key: key, data: data, by: o.p.number}
		writes, err := b.spool.Writes(data)
		if err != nil {
			w.violate(Wrong, o.sink, "", stream.Position{}, "%s cannot be read: %v", key, err)
		}
		for i := range writes {
			made.rows = append(made.rows, rowID{writes[i].Record.Pos, writes[i].Index})
		}
		w.count.Aside += len(writes)
		w.asides++
		made.upload = fmt.Sprintf("aside-%d", w.asides)
		b.numbers[key] = w.asides
		b.made[made.upload], b.staged[made.upload] = made, made
		name = made.upload
		return nil
	})
	if err != nil {
		return "", err
	}
	return name, nil
}

// Discard removes an upload.
func (o *Outside) Discard(ctx context.Context, key, upload string) error {
	return o.object(ctx, key, "discard", 0, func(b *bucket) error {
		delete(b.staged, upload)
		return nil
	})
}

// Publish makes an object visible. Visible already is success; stream.ErrExpired if it is neither.
func (o *Outside) Publish(ctx context.Context, key, upload string) error {
	w := o.p.world
	return o.object(ctx, key, "publish", objectLane, func(b *bucket) error {
		made := b.staged[upload]
		switch there := b.visible[key]; {
		case there != nil && there.upload == upload:
			return nil
		case there != nil:
			w.violate(Twice, o.sink, w.shardOf(key).name, stream.Position{}, "%s is set aside twice", key)
			return stream.Fatal(fmt.Errorf("%s is somebody else's", key))
		case made == nil:
			return stream.ErrExpired
		}
		delete(b.staged, upload)
		made.made = time.Now()
		b.visible[key] = made
		if made.by != o.p.number {
			w.count.HalfCommits++
		}
		return nil
	})
}

// Withdraw removes an object, staged or visible.
func (o *Outside) Withdraw(ctx context.Context, key, upload string) error {
	return o.object(ctx, key, "withdraw", objectLane, func(b *bucket) error {
		delete(b.staged, upload)
		if there := b.visible[key]; there != nil && there.upload == upload {
			delete(b.visible, key)
		}
		return nil
	})
}

// Put writes a visible object at once.
func (o *Outside) Put(ctx context.Context, key string, data []byte) error {
	return o.object(ctx, key, "put", objectLane, func(b *bucket) error {
		b.visible[key] = &object{key: key, data: bytes.Clone(data), made: time.Now(), by: o.p.number}
		return nil
	})
}

// Delete removes a visible object.
func (o *Outside) Delete(ctx context.Context, key string) error {
	return o.object(ctx, key, "delete", objectLane, func(b *bucket) error {
		delete(b.visible, key)
		return nil
	})
}

// Get reads a small object; ErrNotFound.
func (o *Outside) Get(ctx context.Context, key string) ([]byte, error) {
	return o.read(ctx, key, "get", objectLane)
}

// Read reads an object that is drained; ErrNotFound.
func (o *Outside) Read(ctx context.Context, key string) ([]byte, error) {
	return o.read(ctx, key, "read", drainLane)
}

func (o *Outside) read(ctx context.Context, key, what string, lane int) ([]byte, error) {
	var data []byte
	err := o.object(ctx, key, what, lane, func(b *bucket) error {
		there := b.visible[key]
		if there == nil {
			return ErrNotFound
		}
		data = there.data
		return nil
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// List is the visible objects whose key begins with prefix, in key order.
func (o *Outside) List(ctx context.Context, prefix string) ([]Object, error) {
	var all []Object
	err := o.object(ctx, prefix, "list", 0, func(b *bucket) error {
		var found []Object
		for _, key := range slices.Sorted(maps.Keys(b.visible)) {
			if there := b.visible[key]; strings.HasPrefix(key, prefix) {
				found = append(found, Object{key, int64(len(there.data)), there.made})
			}
		}
		all = found
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// tend drains orphans from time to time, as a process does beside the engine.
func (p *process) tend(ctx context.Context, number int, s Spooled) {
	ctx = context.WithValue(ctx, tendingKey{}, true)
	own := Call{Process: p.number, Shard: -1, Lane: tendLane + number}
	for {
		timer := time.NewTimer(p.world.instant(tendEvery, own.actor()))
		select {
		case <-timer.C:
			_, _ = s.Orphans(ctx, orphanAge) // tried again at the next tick
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// setAside says that a row waits in an object that is visible, or that the receipts name: it will be, or is known to be gone.
func (b *bucket) setAside(id rowID, receipts string) bool {
	for _, o := range b.visible {
		if slices.Contains(o.rows, id) {
			return true
		}
	}
	for upload, o := range b.made {
		if slices.Contains(o.rows, id) && strings.Contains(receipts, strconv.Quote(upload)) {
			return true
		}
	}
	return false
}

// drained says that all is drained that can be.
func (w *world) drained() bool {
	for sink, b := range w.buckets {
		for _, o := range b.visible {
			if len(o.rows) > 0 && !w.stays(sink, o) {
				return false
			}
		}
	}
	return true
}

// stays says that an object has to stay, for an operator: nobody owns its shard any more, and all of it is sent but what the sink
// refuses.
func (w *world) stays(sink string, o *object) bool {
	refused := 0
	for _, id := range o.rows {
		if w.refuses(sink, id) {
			refused++
		} else if _, there := w.sinks[sink].upserts[id]; !there {
			return false
		}
	}
	return refused > 0 && w.shardOf(o.key).ended
}

// staying is the rows of dead letters that are not there yet since an object stays.
func (w *world) staying() map[rowID]bool {
	ids := map[rowID]bool{}
	for sink, b := range w.buckets {
		for _, o := range b.visible {
			for _, id := range o.rows {
				if w.refuses(sink, id) && w.stays(sink, o) {
					ids[rowID{id.pos, w.refusalIndex(sink)}] = true
				}
			}
		}
	}
	return ids
}

// checkDrained names what is still set aside at the end.
func (w *world) checkDrained() {
	for _, sink := range slices.Sorted(maps.Keys(w.buckets)) {
		b := w.buckets[sink]
		for _, key := range slices.Sorted(maps.Keys(b.visible)) {
			if o := b.visible[key]; len(o.rows) > 0 && !w.stays(sink, o) {
				first := slices.MinFunc(o.rows, func(a, b rowID) int { return cmp.Or(a.pos.Compare(b.pos), cmp.Compare(a.index, b.index)) })
				w.violate(Stuck, sink, w.shardOf(key).name, first.pos, "%s is not drained although the sink takes writes", key)
			}
		}
	}
}
