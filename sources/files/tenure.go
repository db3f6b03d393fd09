package files

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// tenure is one owner's time with one partition: the assignment that the engine sees.
type tenure struct {
	cfg    *Config
	folder folder
	lock   *lock
	hooks  hooks

	mu    sync.Mutex
	saved saved        // as it is stored
	marks []passedMark // of what was delivered and is not committed, in order
	seen  info         // the file as it was seen last
	gone  bool         // done is closed
	done  chan struct{}

	behind atomic.Bool // there are bytes that are not delivered
}

// passedMark is where the reader was after it delivered the record at pos.
type passedMark struct {
	none bool // no record was delivered before it
	pos  stream.Position
	mark mark
	span span // the bytes before it, of the last Deliver only
}

// hooks let a test stand in for a disk.
type hooks struct {
	stored func() error // called after a checkpoint is stored; its error is Commit's
}

var _ stream.Assignment = (*tenure)(nil)

func (t *tenure) Partition() string     { return t.saved.Partition }
func (t *tenure) Done() <-chan struct{} { return t.done }

func (t *tenure) Epoch() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.saved.Epoch
}

func (t *tenure) Committed() (stream.Checkpoint, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.saved.checkpoint()
}

// Lag does not know records. The age is 0 when all that the file holds is delivered, else the time since the file was last
// written: at least so old is its last record.
func (t *tenure) Lag() (int64, time.Duration) {
	if !t.behind.Load() {
		return -1, 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return -1, max(0, time.Since(t.seen.Modified))
}

func (t *tenure) Commit(ctx context.Context, c stream.Checkpoint) error {
	if err := c.Validate(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	next := t.saved
	next.setCheckpoint(c)
	passed := 0
	for passed < len(t.marks) && (t.marks[passed].none || t.marks[passed].pos.Compare(c.Pos) <= 0) {
		passed++
	}
	if passed > 0 {
		next.Mark = t.marks[passed-1].mark
	}
	if passed < len(t.marks) && t.marks[passed].span.before != nil { // a commit in the middle of what was delivered last
		if m, ok := t.marks[passed].span.markAfter(int64(c.Pos.Offset()), t.cfg); ok {
			next.Mark = m
		}
	}
	next.Seen, next.Complete, next.Partial, next.Ended = t.seen, false, false, false
	if err := t.store(next); err != nil {
		return err
	}
	if passed > 1 {
		t.marks = slices.Delete(t.marks, 0, passed-1) // the last one is for a commit before the next
	}
	return nil
}

// end stores that everything of the file is committed, up to m, and that the partition has no more.
func (t *tenure) end(m mark) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := t.saved
	next.Mark, next.Seen, next.Complete, next.Partial, next.Ended = m, t.seen, true, false, true
	return t.store(next)
}

// pause stores that everything which the file had when it was seen last is committed, but for a line without its end if
// partial.
func (t *tenure) pause(partial bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := t.saved
	next.Seen, next.Complete, next.Partial = t.seen, true, partial
	return t.store(next)
}

// store needs mu.
func (t *tenure) store(next saved) error {
	if err := t.check(); err != nil {
		return err
	}
	if err := t.folder.store(&next); err != nil {
		return err
	}
	t.saved = next
	if t.hooks.stored != nil {
		return t.hooks.stored()
	}
	return nil
}

// check fails with ErrLost when somebody has removed the lock or has the partition in spite of it. It needs mu.
func (t *tenure) check() error {
	if !t.gone && t.lock.held() {
		stored, err := t.folder.load(t.saved.Partition)
		if err != nil {
			return err
		}
		if stored != nil && stored.Epoch == t.saved.Epoch {
			return nil
		}
	}
	if !t.gone {
		t.gone = true
		close(t.done)
	}
	return fmt.Errorf("%s: its lock or checkpoint in %s was taken away: %w", t.saved.Partition, t.folder.dir, stream.ErrLost)
}

// watch closes done if the partition is lost.
func (t *tenure) watch() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.lock.held() {
		t.check() // the error is in done
	}
}

// delivered remembers where the reader is.
func (t *tenure) delivered(last stream.Position, m mark, s span) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.marks); n > 0 {
		t.marks[n-1].span = span{}
	}
	t.marks = append(t.marks, passedMark{pos: last, mark: m, span: s})
}

// started is where the reader begins.
func (t *tenure) started(m mark) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.marks = []passedMark{{none: true, mark: m}}
}

func (t *tenure) saw(i info) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen = i
}

func (t *tenure) lastSeen() info {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen
}
