// Package lease decides which of several workers owns a partition, with nothing but a table that can compare and swap.
//
// There is one row per partition. Whoever owns the partition renews the row, a few times in each lease period; every
// write has the condition that the row is still as the writer knows it, so a worker that was paused past its ownership can
// neither renew nor commit. No wall clocks are compared: a worker takes a partition from another only after it has seen the
// row unchanged for a whole period on its own monotonic clock, and an owner that could not renew stops by itself before
// anybody can have seen that.
//
// A worker that has too little claims partitions by writing its name into their rows. The owner sees that, drains, commits
// and releases. A claim that is not answered stays a claim: nothing is taken from a worker that renews.
//
// Read worker.go (who looks at the table, and when), balance.go (who should have what) and lease.go (one ownership).
package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/millrace-io/millrace/stream"
)

var (
	// ErrConflict is a table's answer when the row is not what the writer knows, or there already. Nothing was written.
	ErrConflict = errors.New("the row was changed by another worker")

	// ErrNoRow is a table's answer to Get of a partition that it does not have.
	ErrNoRow = errors.New("no such row")

	errReleased = errors.New("the lease was given back")
)

// Row is what the table keeps for one partition.
type Row struct {
	Partition string
	Owner     string // worker; empty: nobody
	Run       string // which run of that worker
	Epoch     uint64 // how many owners the partition has had
	Renewals  uint64 // grows with every write of an owner: the sign of life
	Claim     string // the worker that wants the partition, or, once it has no owner, for whom it is kept
	Ended     bool   // there are no further records

	Committed  bool              // Checkpoint is valid
	Checkpoint stream.Checkpoint //
	Mark       []byte            // the source's own, at most some hundred bytes

	// Revision is the table's, not stored in the row: every write of the row makes it larger.
	Revision uint64
}

// Table keeps rows. Its methods are safe for concurrent use. An error that is not one of the named ones, nor a FatalError,
// leaves open whether the write happened or will happen; it is repeated.
type Table interface {
	// List returns all rows. What it returns may be a little old; then conditional writes fail.
	List(ctx context.Context) ([]Row, error)

	// Get returns one row, or ErrNoRow. It may be a little old too.
	Get(ctx context.Context, partition string) (Row, error)

	// Create writes a row where there is none, and returns its revision; else ErrConflict.
	Create(ctx context.Context, r Row) (revision uint64, err error)

	// Update replaces the row that has r.Revision, and returns the new one; else ErrConflict.
	Update(ctx context.Context, r Row) (revision uint64, err error)
}

// Lease is one tenure of one partition in this process. It is a stream.Assignment but for the lag. Whoever was granted it
// ends it with Release, End or Lapse, also when it is lost. Its methods are safe for concurrent use.
type Lease struct {
	worker *Worker
	taken  Row // as this tenure found it, with its own epoch

	done   chan struct{}   // closed when ownership is gone
	ctx    context.Context // ends with done
	cancel context.CancelFunc
	wanted chan struct{} // closed when another worker should have the partition
	token  chan struct{} // held by who writes

	mu      sync.Mutex
	row     Row // as last written or read; changed by the token's holder only
	refused string
	mark    []byte    // not yet written; nil: none
	renewed time.Time // when the last successful write was sent
	stop    *time.Timer
	lost    error // not nil once done is closed
	leaving bool  // wanted is closed
}

func newLease(w *Worker, row Row, sent time.Time) *Lease {
	l := &Lease{worker: w, taken: row, row: row, renewed: sent, done: make(chan struct{}), wanted: make(chan struct{}), token: make(chan struct{}, 1)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.mu.Lock() // expire may be called at once
	defer l.mu.Unlock()
	l.stop = time.AfterFunc(time.Until(sent.Add(w.cfg.patience())), l.expire)
	return l
}

// Partition is the row's.
func (l *Lease) Partition() string { return l.taken.Partition }

// Epoch is this tenure's fencing token.
func (l *Lease) Epoch() uint64 { return l.taken.Epoch }

// Committed is what the last owner left.
func (l *Lease) Committed() (stream.Checkpoint, bool) { return l.taken.Checkpoint, l.taken.Committed }

// Mark is what the last owner's SetMark left; nil for none.
func (l *Lease) Mark() []byte { return l.taken.Mark }

// Done is closed when ownership is gone: taken, released, or not renewed in time.
func (l *Lease) Done() <-chan struct{} { return l.done }

// Wanted is closed when another worker should have the partition: drain it, then Release.
func (l *Lease) Wanted() <-chan struct{} { return l.wanted }

// Commit stores c. See stream.Assignment.
func (l *Lease) Commit(ctx context.Context, c stream.Checkpoint) error {
	err := c.Validate()
	if err == nil {
		err = l.write(ctx, func(r *Row) { r.Checkpoint, r.Committed = c, true })
	}
	if err != nil {
		return fmt.Errorf("commit of %s: %w", l.Partition(), err)
	}
	return nil
}

// SetMark changes the row's Mark with the next write, whichever that is.
func (l *Lease) SetMark(mark []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mark = mark
}

// Renew writes the row now, with its mark.
func (l *Lease) Renew(ctx context.Context) error { return l.write(ctx, func(*Row) {}) }

// Release gives the partition back, with everything that was committed: others take it at once. ErrLost if it was lost
// before; after another error nobody takes it before a lease period has passed.
func (l *Lease) Release(ctx context.Context) error { return l.giveBack(ctx, func(*Row) {}) }

// End is Release of a partition that has no further records: nobody takes it again.
func (l *Lease) End(ctx context.Context) error {
	return l.giveBack(ctx, func(r *Row) { r.Ended, r.Claim = true, "" })
}

// Lapse ends the tenure and leaves the row as it is: nobody, this worker included, takes the partition before a lease
// period has passed.
func (l *Lease) Lapse() {
	l.lose(errReleased)
	l.worker.forget(l)
}

func (l *Lease) giveBack(ctx context.Context, change func(*Row)) error {
	defer l.Lapse()
	kept := ""
	if l.isLeaving() && !l.worker.stopping() {
		kept = l.claimer()
	}
	for pause := l.worker.cfg.attempt() / 16; ; pause = min(2*pause, l.worker.cfg.attempt()) {
		err := l.write(ctx, func(r *Row) {
			r.Owner, r.Run, r.Claim = "", "", kept
			change(r)
		})
		if err == nil || errors.Is(err, stream.ErrLost) {
			return err
		}
		select {
		case <-time.After(jitter(pause)):
		case <-ctx.Done():
			return err
		case <-l.done:
			return stream.ErrLost
		}
	}
}

// write changes the row as its owner. Every write is a sign of life.
func (l *Lease) write(ctx context.Context, change func(*Row)) error {
	ctx, cancel := context.WithTimeout(ctx, l.worker.cfg.attempt()) // so that a commit without an answer lets renewals pass
	defer cancel()
	select {
	case l.token <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-l.done:
		return stream.ErrLost
	}
	defer func() { <-l.token }()
	for {
		if l.isLost() {
			return stream.ErrLost
		}
		next, mark := l.next(change)
		sent := time.Now()
		revision, err := l.worker.table.Update(ctx, next)
		if err == nil {
			next.Revision = revision
			l.wrote(next, mark, sent)
			if next.Owner == "" { // before the next writer has the token
				l.lose(errReleased)
			}
			return nil
		}
		if !errors.Is(err, ErrConflict) {
			return err
		}
		// A claim, the late effect of an earlier write of ours, or the end.
		if err := l.reread(ctx); err != nil {
			return err
		}
	}
}

// next is the row to write, and the mark that it takes along.
func (l *Lease) next(change func(*Row)) (Row, []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.row
	r.Renewals++
	if r.Claim == l.refused {
		r.Claim = ""
	}
	if l.mark != nil {
		r.Mark = l.mark
	}
	change(&r)
	return r, l.mark
}

func (l *Lease) wrote(r Row, mark []byte, sent time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.row, l.renewed, l.refused = r, sent, ""
	if string(l.mark) == string(mark) {
		l.mark = nil
	}
	if l.lost == nil && l.stop.Stop() { // else it fires, or has fired
		l.stop.Reset(time.Until(sent.Add(l.worker.cfg.patience())))
	}
}

// reread finds out whose the row is after a write that met another one. It does not prolong the lease: when the write of
// ours that it may find was sent is not known.
func (l *Lease) reread(ctx context.Context) error {
	for {
		r, err := l.worker.table.Get(ctx, l.Partition())
		if errors.Is(err, ErrNoRow) {
			l.lose(fmt.Errorf("the row of partition %s was deleted", l.Partition()))
			return stream.ErrLost
		}
		if err != nil {
			return err
		}
		l.mu.Lock()
		known := l.row.Revision
		l.mu.Unlock()
		if r.Revision > known {
			return l.saw(r)
		}
		select { // the answer is older than the conflict
		case <-time.After(jitter(l.worker.cfg.attempt() / 16)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// saw takes over what the table has, if it is newer; ErrLost if that is somebody else's. The token's holder calls it.
func (l *Lease) saw(r Row) error {
	if !l.owns(r) {
		l.lose(l.worker.taker(r))
		return stream.ErrLost
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.row = r
	return nil
}

func (l *Lease) owns(r Row) bool {
	return r.Run == l.taken.Run && r.Epoch == l.taken.Epoch && r.Owner == l.taken.Owner
}

// look is told what a List returned.
func (l *Lease) look(r Row) {
	l.mu.Lock()
	known := l.row.Revision
	l.mu.Unlock()
	if r.Revision > known && !l.owns(r) {
		l.lose(l.worker.taker(r))
	}
}

// refuse takes worker's claim out of the row with the next write.
func (l *Lease) refuse(worker string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused = worker
}

// leave asks for the hand-off.
func (l *Lease) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.leaving {
		l.leaving = true
		close(l.wanted)
	}
}

func (l *Lease) isLeaving() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leaving
}

func (l *Lease) claimer() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.row.Claim
}

func (l *Lease) isLost() bool { return l.reason() != nil }

// reason is why ownership is gone; nil while it is not.
func (l *Lease) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

func (l *Lease) lose(reason error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost != nil {
		return
	}
	l.lost = reason
	l.stop.Stop()
	l.cancel()
	close(l.done)
	if !errors.Is(reason, errReleased) {
		l.worker.cfg.Log.Warn("partition is lost", "partition", l.Partition(), "epoch", l.Epoch(), "reason", reason)
	}
}

// expire stops the owner before another one can have waited for a whole period.
func (l *Lease) expire() {
	l.lose(fmt.Errorf("the lease could not be renewed for %v", l.worker.cfg.patience()))
}

// keep renews until the tenure ends.
func (l *Lease) keep() {
	interval := l.worker.cfg.renewal()
	failures := 0
	for {
		l.mu.Lock()
		due := l.renewed.Add(interval)
		l.mu.Unlock()
		pause := time.Until(due)
		if failures > 0 {
			pause = interval / 16 << min(failures, 3)
		}
		select {
		case <-time.After(jitter(pause)):
		case <-l.done:
			return
		}
		if err := l.Renew(l.ctx); err != nil {
			if failures++; failures == 1 && !l.isLost() {
				l.worker.cfg.Log.Warn("lease renewal failed", "partition", l.Partition(), "error", err)
			}
			continue
		}
		failures = 0
	}
}

// jitter takes off up to a fifth, so that workers that started together do not stay together.
func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d - rand.N(d/5+1)
}
