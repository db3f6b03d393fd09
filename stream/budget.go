package stream

import "sync"

// budget shares Config.Memory among the workers. It never refuses: whoever holds the most is told to commit, and the
// others wait until there is room.
type budget struct {
	limit int64 // bytes

	mu     sync.Mutex
	total  int64
	shares map[*worker]int64
	change chan struct{} // closed and replaced when total falls
}

func newBudget(limit int64) *budget {
	return &budget{limit: limit, shares: map[*worker]int64{}, change: make(chan struct{})}
}

// set says that w holds n bytes now; 0 forgets it.
func (b *budget) set(w *worker, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.shares[w]
	b.total += n - old
	if b.shares[w] = n; n == 0 {
		delete(b.shares, w)
	}
	if n < old {
		close(b.change)
		b.change = make(chan struct{})
	}
}

// over returns nil while all fits. Otherwise it returns the worker that has to commit, and a channel that is closed when
// somebody has freed memory.
func (b *budget) over() (victim *worker, change <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.total <= b.limit {
		return nil, nil
	}
	most := int64(-1)
	for w, n := range b.shares {
		if n > most {
			victim, most = w, n
		}
	}
	return victim, b.change
}

func (b *budget) used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.total
}
