package bulk

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Back-off after a request or a write that failed: doubled from the first to the last, half of it random.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 10 * time.Second
)

// lane sends one request after the other. All writes of a key are in one lane, so their order is this lane's business.
type lane struct {
	sink *Sink
	wake chan struct{} // capacity 1

	mu     sync.Mutex
	queue  []*Item          // in order of arrival
	popped int              // items that left the front of queue, less those that came back there
	at     map[uint64]int   // with Newest, by hash: where in queue a key's write is, popped included
	bytes  int              // of the bodies in queue
	again  []*Item          // sent before and not settled; they go first, from due on
	due    time.Time        //
	held   map[uint64]*hold // by hash: keys whose next write has to wait
	hurry  bool             // send what is there without waiting for company
	flight *flight          // nil: no request is under way
	paused time.Time        // nothing is sent until then
	halted int              // nothing is sent while somebody withdraws

	// How much the server takes, owned by run.
	items    int // at most, of one request; smaller while the server throttles, or while larger ones have no answer in time
	most     int // bytes, at most; smaller after ErrTooLarge
	failures int // requests in a row with something to repeat
}

// hold keeps later writes of a key back while an earlier one is not settled.
type hold struct {
	again int     // items of the key in lane.again, or under way from there
	chain []*Item // that wait
}

// flight is a request under way.
type flight struct {
	ctx    context.Context
	cancel context.CancelFunc
	items  []*Item
	landed chan struct{}
}

func newLane(s *Sink) *lane {
	return &lane{sink: s, wake: make(chan struct{}, 1), held: map[uint64]*hold{}, at: map[uint64]int{}, items: s.o.Items, most: s.o.Bytes}
}

// add queues items.
func (l *lane) add(items []*Item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, it := range items {
		l.bytes += len(it.Body)
		if l.sink.o.Order == Newest && l.takesPlace(it) {
			continue
		}
		l.queue = append(l.queue, it)
	}
	l.poke()
}

// takesPlace puts it where an earlier write of its key waits, which it replaces; else it notes where it will be.
func (l *lane) takesPlace(it *Item) bool {
	if i, ok := l.at[it.hash]; ok {
		if old := l.queue[i-l.popped]; it.replaces(old) {
			it.link(old)
			it.arrived, it.passes = old.arrived, old.passes
			l.bytes -= len(old.Body)
			l.queue[i-l.popped] = it
			return true
		}
	}
	l.at[it.hash] = l.popped + len(l.queue)
	return false
}

// pop takes n items off the front of the queue.
func (l *lane) pop(n int) {
	if l.sink.o.Order == Newest {
		for i, it := range l.queue[:n] {
			if l.at[it.hash] == l.popped+i {
				delete(l.at, it.hash)
			}
		}
	}
	clear(l.queue[:n])
	l.queue = l.queue[n:]
	l.popped += n
}

// pushFront puts items before the queue.
func (l *lane) pushFront(items []*Item) {
	l.queue = slices.Insert(l.queue, 0, items...)
	l.popped -= len(items)
	for _, it := range items {
		l.bytes += len(it.Body)
	}
}

// hasten sends what is queued without delay.
func (l *lane) hasten() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hurry = true
	l.poke()
}

func (l *lane) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run sends until stop is closed.
func (l *lane) run(stop <-chan struct{}) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		f, wait := l.take(time.Now())
		if f != nil {
			l.send(f)
			continue
		}
		timer.Reset(wait)
		select {
		case <-l.wake:
		case <-timer.C:
		case <-stop:
			return
		}
	}
}

// take chooses the items of the next request, or says how long there is none.
func (l *lane) take(now time.Time) (*flight, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.halted > 0 {
		return nil, time.Hour
	}
	if wait := l.paused.Sub(now); wait > 0 {
		return nil, wait
	}
	wait := time.Hour
	if len(l.queue) > 0 {
		wait = l.queue[0].arrived.Add(l.sink.o.Delay).Sub(now)
		if l.hurry || len(l.queue) >= l.items || l.bytes >= l.most {
			wait = 0
		}
	} else {
		l.hurry = false
	}
	dueAgain := false
	if len(l.again) > 0 {
		w := l.due.Sub(now)
		dueAgain = w <= 0
		wait = min(wait, w)
	}
	if wait > 0 {
		return nil, wait
	}
	c := choice{lane: l, byKey: map[uint64]int{}}
	if dueAgain {
		c.fromAgain()
	}
	c.fromQueue()
	if len(c.items) == 0 { // all that waits is held by what is not due yet
		return nil, max(l.due.Sub(now), time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), l.sink.o.Timeout)
	l.flight = &flight{ctx: ctx, cancel: cancel, items: c.items, landed: make(chan struct{})}
	return l.flight, 0
}

// choice is a request in the making, under the lane's lock.
type choice struct {
	*lane
	items []*Item
	size  int            // of their bodies
	byKey map[uint64]int // number in items of the first one with that hash, where a key may be there once
}

func (c *choice) full(next *Item) bool {
	return len(c.items) > 0 && (len(c.items) >= c.lane.items || c.size+len(next.Body) > c.most)
}

func (c *choice) add(it *Item) {
	if c.sink.o.Order == Newest || c.sink.o.Order == OneByOne {
		c.byKey[it.hash] = len(c.items)
	}
	c.items = append(c.items, it)
	c.size += len(it.Body)
}

// fromAgain takes what has to be repeated, or the newest write of its key instead.
func (c *choice) fromAgain() {
	n := 0
	for _, it := range c.again {
		if h := c.held[it.hash]; c.sink.o.Order == Newest && h != nil && len(h.chain) > 0 && h.chain[0].replaces(it) {
			newer := h.chain[0]
			newer.link(it)
			newer.again = true
			h.chain = h.chain[1:]
			c.again[n] = newer
			it = newer
		}
		if c.full(it) {
			break
		}
		c.add(it)
		n++
	}
	clear(c.again[:n])
	c.again = c.again[n:]
}

// replaces says that it is a later write of the same key as the other one. Of writes of two partitions nobody knows here
// which is the later one; the server judges, so both are sent. A replay of the lake writes in the order of its files.
func (it *Item) replaces(other *Item) bool {
	return it.writer == other.writer && bytes.Equal(it.Key, other.Key) &&
		cmp.Or(it.Record.Pos.Compare(other.Record.Pos), cmp.Compare(it.Index, other.Index)) > 0
}

// link makes it stand for older too.
func (it *Item) link(older *Item) {
	last := it
	for last.older != nil {
		last = last.older
	}
	last.older = older
}

// fromQueue fills the request up. Writes whose key is held are put aside, so that the others go on.
func (c *choice) fromQueue() {
	n := 0
	for ; n < len(c.queue); n++ {
		it := c.queue[n]
		if c.sink.o.Order != Any && c.aside(it) {
			c.lane.bytes -= len(it.Body)
			continue
		}
		if c.full(it) {
			break
		}
		it.passes = false
		c.lane.bytes -= len(it.Body)
		c.add(it)
	}
	c.pop(n)
}

// aside says that it is not sent by itself now: it waits behind an earlier write of its key, or replaces one.
func (c *choice) aside(it *Item) bool {
	if h := c.held[it.hash]; h != nil && !it.passes {
		h.chain = c.chained(h.chain, it)
		return true
	}
	i, there := c.byKey[it.hash]
	if !there {
		return false
	}
	first := c.items[i]
	if c.sink.o.Order == Newest && it.replaces(first) {
		it.link(first)
		it.again = first.again
		c.items[i] = it
		c.size += len(it.Body) - len(first.Body)
		return true
	}
	it.passes = false
	h := c.hold(it)
	h.chain = slices.Insert(h.chain, 0, it) // if it was its turn, the others came later
	return true
}

// chained puts it behind those that wait; of a key whose newest write is enough only that stays.
func (c *choice) chained(chain []*Item, it *Item) []*Item {
	if n := len(chain); c.sink.o.Order == Newest && n > 0 && it.replaces(chain[n-1]) {
		it.link(chain[n-1])
		chain[n-1] = it
		return chain
	}
	return append(chain, it)
}

// send does one request and settles its items.
func (l *lane) send(f *flight) {
	defer f.cancel()
	for _, it := range f.items {
		it.Err = nil
	}
	err := l.sink.target.Send(f.ctx, f.items)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.landed(f, err)
	l.flight = nil
	close(f.landed)
	l.poke()
}

// landed judges every item of a request, under the lock.
func (l *lane) landed(f *flight, err error) {
	if errors.Is(err, ErrTooLarge) {
		err = l.shrink(f, err)
	}
	var repeat []*Item
	var last error
	refusals := 0
	for _, it := range f.items {
		if err != nil {
			it.Err = err
		}
		it.Err = l.late(f, it.Err)
		if it.again {
			l.hold(it).again--
		}
		switch refusal := (refused{}); {
		case it.Err == nil:
		case errors.As(it.Err, &refusal):
			refusals++
			if it.older != nil { // perhaps the write before it is taken
				repeat = append(repeat, it.older)
				it.older = nil
			}
			if !it.Buried {
				it.writer.refuse(it.Record, refusal.error)
			}
		default:
			last = it.Err
			repeat = append(repeat, it)
			it.writer.poke() // a fatal error has to be told
		}
	}
	now := time.Now()
	l.sink.stats.request(now, f.items, refusals, len(repeat), last)
	l.settle(f.items)
	l.backOff(now, f, repeat, last)
	l.putBack(repeat)
	l.release(f.items)
}

// late says of an answer that did not come how long it was waited for: operators read it.
func (l *lane) late(f *flight, err error) error {
	end, _ := f.ctx.Deadline()
	if isLate(err) && (errors.Is(err, ErrLate) || !time.Now().Before(end)) { // a client may look before the context's timer does
		return fmt.Errorf("no answer within %s: %w", l.sink.o.Timeout, err)
	}
	return err
}

// isLate says that there was no answer in time.
func isLate(err error) bool {
	return errors.Is(err, ErrLate) || errors.Is(err, context.DeadlineExceeded)
}

// shrink makes requests smaller from now on. A single item that is too large is refused.
func (l *lane) shrink(f *flight, err error) error {
	if len(f.items) == 1 {
		f.items[0].Err = Refused(err)
		return nil
	}
	size := 0
	for _, it := range f.items {
		size += len(it.Body)
	}
	l.most = max(1, min(l.most, size)/2)
	return errSmaller
}

// errSmaller is why the items of a request that was too large are not written yet.
var errSmaller = errors.New("the request was too large and is split")

// settle takes what is written or refused off the writers' accounts.
func (l *lane) settle(items []*Item) {
	count, bytes := 0, int64(0)
	for _, it := range items {
		if it.Err != nil && !IsRefused(it.Err) {
			continue
		}
		n, freed := it.writer.settle(it)
		count, bytes = count+n, bytes+freed
	}
	l.sink.stats.waits(-count, -bytes)
}

// backOff decides when to go on. A server that refuses all or most of a request is left alone for a while; where it refuses a
// few, only those wait, in smaller requests.
func (l *lane) backOff(now time.Time, f *flight, repeat []*Item, err error) {
	switch {
	case len(repeat) == 0:
		l.failures = 0
		l.items = min(l.sink.o.Items, l.items+max(1, min(l.items, l.sink.o.Items/16)))
		l.due = now
		return
	case errors.Is(err, errSmaller), errors.Is(err, context.Canceled), err == nil:
		l.due = now
		return
	}
	pause := min(firstPause<<min(l.failures, 16), lastPause)
	pause = pause/2 + l.sink.o.Jitter(pause/2)
	l.failures++
	l.due = now.Add(pause)
	if 2*len(repeat) > len(f.items) {
		l.paused = l.due
	}
	if isLate(err) { // the network may be too slow for so much: the same once more would be late again
		l.items = max(1, min(l.items, len(f.items))/2)
	} else {
		l.items = max(1, min(l.items, l.sink.o.Items/16), l.items/2)
	}
	if l.failures == 1 || pause > lastPause/2 {
		l.sink.o.Log.Warn("writes fail and are repeated", "sink", l.sink.o.Name, "writes", len(repeat), "error", err)
	}
}

// putBack queues what has to be sent again, before all else.
func (l *lane) putBack(repeat []*Item) {
	for _, it := range repeat {
		it.again = true
		if l.sink.o.Order != Any {
			l.hold(it).again++
		}
	}
	l.again = append(repeat, l.again...)
}

// hold is the hold of it's key, made where there is none.
func (l *lane) hold(it *Item) *hold {
	h := l.held[it.hash]
	if h == nil {
		h = new(hold)
		if l.sink.o.Order != Any {
			l.held[it.hash] = h
		}
	}
	return h
}

// release lets the next writes go whose key is not held any more.
func (l *lane) release(items []*Item) {
	if len(l.held) == 0 {
		return
	}
	var next []*Item
	for _, it := range items {
		h := l.held[it.hash]
		if h == nil || h.again > 0 {
			continue
		}
		n := min(1, len(h.chain))
		if l.sink.o.Order == InTurn || l.sink.o.Order == LogOrder {
			n = len(h.chain)
		}
		for _, free := range h.chain[:n] {
			free.passes = n < len(h.chain) // the hold stays for the others
		}
		next = append(next, h.chain[:n]...)
		if h.chain = h.chain[n:]; len(h.chain) == 0 {
			delete(l.held, it.hash)
		}
	}
	l.pushFront(next)
}

// withdraw removes the items of w, and waits for a request that has some. Older ones hang on newer ones.
func (l *lane) withdraw(w *Writer) []*Item {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.halted++ // else what a cancelled request gives back is under way again at once
	defer func() {
		l.halted--
		l.poke()
	}()
	for l.flight != nil && slices.ContainsFunc(l.flight.items, func(it *Item) bool { return it.writer == w }) {
		f := l.flight
		f.cancel()
		l.mu.Unlock()
		<-f.landed
		l.mu.Lock()
	}
	var out []*Item
	freed := map[uint64]bool{} // keys whose turn it was
	mine := func(it *Item) bool {
		if it.writer != w {
			return false
		}
		out = append(out, it)
		freed[it.hash] = freed[it.hash] || it.passes || it.again
		return true
	}
	for _, it := range l.queue {
		if it.writer == w {
			l.bytes -= len(it.Body)
		}
	}
	l.queue = slices.DeleteFunc(l.queue, mine)
	clear(l.at) // of another writer's items a later write may be sent as well
	for _, it := range l.again {
		if h := l.held[it.hash]; h != nil && it.writer == w {
			h.again--
		}
	}
	l.again = slices.DeleteFunc(l.again, mine)
	for _, h := range l.held {
		h.chain = slices.DeleteFunc(h.chain, mine)
	}
	l.free(freed)
	return out
}

// free lets the writes go that waited behind some that were withdrawn.
func (l *lane) free(keys map[uint64]bool) {
	for hash := range keys {
		h := l.held[hash]
		if h == nil || h.again > 0 {
			continue
		}
		l.pushFront(h.chain)
		delete(l.held, hash)
	}
}
