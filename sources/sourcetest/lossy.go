package sourcetest

import (
	"context"
	"errors"
	"sync"

	"github.com/millrace-io/millrace/sources/lease"
)

// Lossy is a lease table whose next commit is stored and answered with an error, once Lose was called.
type Lossy struct {
	lease.Table

	mu   sync.Mutex
	lose bool
	last map[string]lease.Row
}

// Lose is a Worker's LoseReply.
func (t *Lossy) Lose() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lose = true
}

// Update implements lease.Table.
func (t *Lossy) Update(ctx context.Context, r lease.Row) (uint64, error) {
	revision, err := t.Table.Update(ctx, r)
	t.mu.Lock()
	defer t.mu.Unlock()
	commit := r.Checkpoint.Pos != t.last[r.Partition].Checkpoint.Pos
	if t.last == nil {
		t.last = map[string]lease.Row{}
	}
	t.last[r.Partition] = r
	if err == nil && commit && t.lose {
		t.lose = false
		return 0, errors.New("the reply is lost")
	}
	return revision, err
}
