package sourcetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// errHeld is the answer of a consumer that is held.
var errHeld = errors.New("the consumer is held and commits nothing")

// Play is a run of a source whose consumers keep what they are given, for the tests of one source's own rules.
type Play struct {
	*testing.T
	Cancel context.CancelFunc // a soft stop

	ran     chan error
	hold    chan struct{}
	changed chan struct{}

	mu    sync.Mutex
	tapes map[string]*Tape // the newest tenure's, by partition
}

// Tape is the consumer of one tenure. It commits what it was given when it is drained.
type Tape struct {
	stream.Assignment

	hold    chan struct{}
	changed chan struct{}

	mu      sync.Mutex
	records []stream.Record
}

// NewPlay runs s until it is stopped or the test ends. If hold is not nil, Deliver blocks until it is closed, and Drain fails.
func NewPlay(t *testing.T, s stream.Source, hold chan struct{}) *Play {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &Play{T: t, Cancel: cancel, ran: make(chan error, 1), hold: hold, changed: make(chan struct{}, 1), tapes: map[string]*Tape{}}
	go func() { p.ran <- s.Run(ctx, p.assigned) }()
	t.Cleanup(func() {
		cancel()
		if hold != nil {
			select {
			case <-hold:
			default:
				close(hold)
			}
		}
		select {
		case err := <-p.ran:
			p.ran <- err
		case <-time.After(patience):
			t.Error("Run does not return")
		}
	})
	return p
}

func (p *Play) assigned(a stream.Assignment) (stream.Consumer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := &Tape{Assignment: a, hold: p.hold, changed: p.changed}
	p.tapes[a.Partition()] = t
	return t, nil
}

// Seen is how many partitions it was assigned so far.
func (p *Play) Seen() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.tapes)
}

// Wait returns the partition's tape when cond holds of its records.
func (p *Play) Wait(partition, what string, cond func(rs []stream.Record) bool) *Tape {
	p.Helper()
	late := time.After(patience)
	for {
		p.mu.Lock()
		t := p.tapes[partition]
		p.mu.Unlock()
		if t != nil && cond(t.Records()) {
			return t
		}
		select {
		case <-p.changed:
		case <-time.After(10 * time.Millisecond):
		case err := <-p.ran:
			p.ran <- err
			p.Fatalf("waiting until %s: Run returned %v", what, err)
		case <-late:
			p.Fatalf("waited too long until %s", what)
		}
	}
}

// Has waits until the partition's tape has n records.
func (p *Play) Has(partition string, n int) *Tape {
	p.Helper()
	return p.Wait(partition, fmt.Sprintf("%s has %d records", partition, n), func(rs []stream.Record) bool { return len(rs) >= n })
}

// Stop stops softly; an error of Run fails the test.
func (p *Play) Stop() {
	p.Helper()
	p.Cancel()
	if err := p.Result(); err != nil {
		p.Fatalf("Run: %v", err)
	}
}

// Result waits for the end of Run and returns its error.
func (p *Play) Result() error {
	p.Helper()
	select {
	case err := <-p.ran:
		p.ran <- err
		return err
	case <-time.After(patience):
		p.Fatal("Run does not return")
		return nil
	}
}

// Records are those that it was given, in order.
func (t *Tape) Records() []stream.Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.records[:len(t.records):len(t.records)]
}

// Values are the records' values.
func (t *Tape) Values() []string {
	var vs []string
	for _, r := range t.Records() {
		vs = append(vs, string(r.Value))
	}
	return vs
}

// CommitFirst commits the first n records.
func (t *Tape) CommitFirst(ctx context.Context, n int) error {
	return t.Commit(ctx, stream.Checkpoint{Pos: t.Records()[n-1].Pos})
}

// CommitAll commits what it was given so far.
func (t *Tape) CommitAll(ctx context.Context) error {
	if n := len(t.Records()); n > 0 {
		return t.CommitFirst(ctx, n)
	}
	return nil
}

// Start implements stream.Consumer.
func (t *Tape) Start() (stream.Position, bool) {
	c, ok := t.Committed()
	t.tell()
	return c.Pos, ok
}

// Deliver implements stream.Consumer.
func (t *Tape) Deliver(ctx context.Context, rs []stream.Record) error {
	t.mu.Lock()
	t.records = append(t.records, rs...)
	t.mu.Unlock()
	t.tell()
	if t.hold != nil {
		select {
		case <-t.hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Drain implements stream.Consumer.
func (t *Tape) Drain(ctx context.Context, _ stream.Why) error {
	if t.hold != nil {
		return errHeld
	}
	return t.CommitAll(ctx)
}

// Abort implements stream.Consumer.
func (t *Tape) Abort() {}

func (t *Tape) tell() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}
