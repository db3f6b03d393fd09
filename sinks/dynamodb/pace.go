package dynamodb

import (
	"context"
	"sync"
	"time"
)

// pace bounds the writes of one table that are under way at once, over all partitions. A table that throttles gets fewer, and
// more again with each write that succeeds: additive increase, multiplicative decrease, as TCP does it.
type pace struct {
	most int

	mu      sync.Mutex
	limit   float64
	flying  int
	cut     time.Time     // when the limit was lowered last
	waiting int           // for room
	freed   chan struct{} // closed and replaced when there may be room and somebody waits
}

const (
	cutEvery = 100 * time.Millisecond // how often the limit is lowered at most: the answers to one burst count once
	inTurn   = 16                     // how many writes follow each other in one place while others wait
)

func newPace(most int) *pace {
	return &pace{most: most, limit: float64(most), freed: make(chan struct{})}
}

// enter waits for a place, for one write after the other.
func (p *pace) enter(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.flying >= max(1, int(p.limit)) {
		freed := p.freed
		p.waiting++
		p.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
		}
		p.mu.Lock()
		p.waiting--
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	p.flying++
	return nil
}

// judge ends a write, the n-th in its place, and says that another one may follow there. If not, the place has to be left.
func (p *pace) judge(throttled bool, n int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !throttled {
		p.limit = min(float64(p.most), p.limit+1/max(1, p.limit))
	} else if now := time.Now(); now.Sub(p.cut) > cutEvery {
		p.limit, p.cut = max(1, p.limit*0.7), now
	}
	return p.flying <= max(1, int(p.limit)) && (p.waiting == 0 || n < inTurn)
}

// leave gives up a place.
func (p *pace) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flying--
	if p.waiting > 0 {
		close(p.freed)
		p.freed = make(chan struct{})
	}
}

// allowed is how many writes may be under way.
func (p *pace) allowed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(1, int(p.limit))
}
