package spool

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
)

// writer is one tenure's side. The engine's methods are called from one goroutine; the drain has another.
type writer struct {
	sink   *Sink
	tenure stream.Tenure
	direct *bulk.Writer // new writes
	behind *bulk.Writer // the drain's

	// Owned by the engine's goroutine.
	begun    bool         // the drain has: see turn
	aside    bool         // new writes are set aside
	memory   []*bulk.Item // set aside, not in the upload
	held     int64        // bytes of memory
	upload   objects.Upload
	packer   *zstd.Encoder            // into upload
	packed   int64                    // writes in upload
	dead     []*stream.DeadLetter     // of new writes; Flush returns them
	buried   map[stream.Position]bool // their records, and those of what Flush has returned since the last commit
	going    []string                 // drained files that go with the next commit: that has their dead letters
	receipts []stream.Receipt

	mu      sync.Mutex
	state   stream.SpoolStats // Spooling and Failing only
	files   []file            // published and not drained, in order
	known   map[string]bool   // all that were published in this tenure
	refused []*stream.DeadLetter
	drained []string // files whose dead letters are in refused

	begin chan struct{} // closed when the drain may begin
	wake  chan struct{} // capacity 1: there is a file
	stop  context.CancelFunc
	done  chan struct{} // closed when the drain has ended
}

var _ stream.SpoolWriter = (*writer)(nil)

func newWriter(s *Sink, t stream.Tenure, direct, behind *bulk.Writer, files []file) *writer {
	ctx, stop := context.WithCancel(context.Background())
	w := &writer{
		sink: s, tenure: t, direct: direct, behind: behind, files: files, known: map[string]bool{},
		begin: make(chan struct{}), wake: make(chan struct{}, 1), stop: stop, done: make(chan struct{}),
	}
	w.setAside(len(files) > 0)
	for _, f := range files {
		w.known[f.key] = true
	}
	go w.drainAll(ctx)
	return w
}

// setAside changes the state.
func (w *writer) setAside(aside bool) {
	w.aside = aside
	w.mu.Lock()
	w.state.Spooling = aside
	w.mu.Unlock()
}

// memoryBytes is how much may wait in memory: more is written to the file.
const memoryBytes = 1 << 20

func (w *writer) Write(events []*stream.Event) {
	if w.turn(); !w.aside {
		w.direct.Write(events)
		return
	}
	w.keep(w.direct.Encode(events))
}

// keep sets items aside.
func (w *writer) keep(items []*bulk.Item) {
	for _, it := range items {
		w.held += it.Size()
	}
	w.memory = append(w.memory, items...)
	w.sink.count(func(s *stream.SpoolStats) { s.Spooled += uint64(len(items)) })
}

// turn changes the state where it has to. The engine's first Write or Flush begins the drain: what the last owner committed is
// published by then, so of the files that it had drained none is left to be drained again. What an earlier owner set aside goes before new writes; when nothing older waits
// in files any more, new writes are direct, and before them what waits in memory.
func (w *writer) turn() {
	if !w.begun {
		w.begun = true
		close(w.begin)
	}
	waiting := w.waiting()
	if !w.aside && waiting > 0 {
		w.setAside(true)
	}
	if !w.aside || waiting > 0 || w.upload != nil {
		return
	}
	w.direct.Put(w.memory)
	w.memory, w.held = nil, 0
	w.setAside(false)
	w.sink.o.Log.Info("the sink takes writes again, and what was set aside is drained", "sink", w.sink.o.Name, "partition", w.tenure.Partition)
}

// waiting is the files that are not drained.
func (w *writer) waiting() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.files)
}

// Upload packs what is too much for memory.
func (w *writer) Upload(ctx context.Context) error {
	if w.held > memoryBytes {
		w.pack()
	}
	if w.upload == nil {
		return nil
	}
	return w.upload.Send(ctx)
}

// pack moves what is in memory to the upload, compressed. What is refused of it comes back in a later commit; where a record is buried in
// this one already, it makes no dead letter.
func (w *writer) pack() {
	if len(w.memory) == 0 {
		return
	}
	w.collect()
	if w.upload == nil {
		w.upload = w.sink.store.Begin(w.sink.key(w.tenure, w.memory[0]))
		packer, err := zstd.NewWriter(w.upload, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(256<<10), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(err) // of options that never change
		}
		w.packer = packer
	}
	var line []byte
	for _, it := range w.memory {
		it.Buried = it.Buried || w.buried[it.Record.Pos]
		line = appendItem(line[:0], it)
		_, _ = w.packer.Write(line) // an Upload's Write does not fail
	}
	w.packed += int64(len(w.memory))
	w.memory, w.held = nil, 0
}

// Buffered counts what waits here and in the loop.
func (w *writer) Buffered() int64 {
	n := w.direct.Buffered() + w.behind.Buffered() + w.held
	if w.upload != nil {
		n += w.upload.Buffered()
	}
	return n
}

// Full wants a commit when the drain has nothing left but what is not committed.
func (w *writer) Full() bool { return w.upload != nil && w.waiting() == 0 }

// Flush waits for the sink as long as it may, then sets aside what is not acknowledged. Only a tenure that ends makes it fail.
func (w *writer) Flush(ctx context.Context) ([]*stream.DeadLetter, error) {
	if w.turn(); !w.aside {
		limited, cancel := context.WithTimeout(ctx, w.sink.o.StallAfter)
		err := w.direct.Wait(limited, 0)
		cancel()
		if ctx.Err() != nil && err != nil {
			return w.letters(), err
		}
		if err != nil {
			w.sink.o.Log.Warn("the sink does not take writes; they are set aside until it does", "sink", w.sink.o.Name,
				"partition", w.tenure.Partition, "error", err)
			w.setAside(true)
			w.keep(w.direct.Withdraw())
		}
	}
	return w.letters(), nil
}

// letters are what was refused, of new writes and of drained ones. The files of these can go with the commit that this is for, and not
// before: a crash would lose the letters that are in no commit.
func (w *writer) letters() []*stream.DeadLetter {
	w.collect()
	w.mu.Lock()
	defer w.mu.Unlock()
	dead := append(w.dead, w.refused...)
	w.dead = nil
	w.going = append(w.going, w.drained...)
	w.refused, w.drained = nil, nil
	return dead
}

// collect takes what was refused of new writes.
func (w *writer) collect() {
	for _, d := range w.direct.Refused() {
		if w.buried == nil {
			w.buried = map[stream.Position]bool{}
		}
		w.buried[d.Record.Pos] = true
		w.dead = append(w.dead, d)
	}
}

// Stage seals what is set aside since the last commit, and tells which drained files can go with it.
func (w *writer) Stage(ctx context.Context, p stream.Provenance) ([]stream.Receipt, error) {
	if w.aside {
		w.pack()
	}
	if w.packer != nil {
		if err := w.packer.Close(); err != nil { // to memory
			return nil, err
		}
		w.packer = nil
	}
	if w.upload != nil {
		t, err := w.upload.Seal(ctx, map[string]string{"writes": fmt.Sprint(w.packed)})
		if err != nil {
			return nil, err
		}
		r, err := w.receipt(p, claim{Ticket: &t}, t.Size)
		if err != nil {
			return nil, err
		}
		w.receipts = append(w.receipts, r)
		w.upload, w.packed = nil, 0
	}
	for _, key := range w.going {
		r, err := w.receipt(p, claim{Drained: key}, 0)
		if err != nil {
			return nil, err
		}
		w.receipts = append(w.receipts, r)
	}
	rs := w.receipts
	w.receipts, w.going, w.buried = nil, nil, nil
	return rs, nil
}

func (w *writer) receipt(p stream.Provenance, c claim, bytes int64) (stream.Receipt, error) {
	c.Partition = w.tenure.Partition
	body, err := json.Marshal(c)
	return stream.Receipt{Sink: p.Sink, Bytes: bytes, Body: body, Aside: true, Removes: c.Drained != ""}, err
}

// Discard removes what was not committed.
func (w *writer) Discard(ctx context.Context) {
	if w.upload != nil {
		w.upload.Discard(ctx)
	}
	w.upload, w.packer, w.memory, w.held = nil, nil, nil, 0
}

// Settled says that nothing is set aside, and that no file waits for a commit to go with.
func (w *writer) Settled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.state.Spooling && len(w.drained) == 0 && len(w.going) == 0 && len(w.files) == 0
}

// Close ends both writers and the drain.
func (w *writer) Close() {
	w.stop()
	<-w.done
	w.behind.Close()
	w.direct.Close()
	w.sink.closed(w)
}

// published tells the drain of a file, once: a publish that is repeated must not bring back one that is drained.
func (w *writer) published(f file) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known[f.key] {
		return
	}
	w.known[f.key] = true
	w.files = append(w.files, f)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// withdrawn forgets a file.
func (w *writer) withdrawn(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.files = slices.DeleteFunc(w.files, func(f file) bool { return f.key == key })
	delete(w.known, key)
}

// addTo adds the partition's part to the sink's.
func (w *writer) addTo(s *stream.SpoolStats) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.Spooling = s.Spooling || w.state.Spooling
	s.Failing = cmp.Or(s.Failing, w.state.Failing)
	for _, f := range w.files {
		s.Files++
		s.Bytes += f.bytes
		if s.Oldest.IsZero() || f.made.Before(s.Oldest) {
			s.Oldest = f.made
		}
	}
}
