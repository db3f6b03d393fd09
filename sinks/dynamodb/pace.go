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

	mu     sync.Mutex
	limit  float64
	flying int
	cut    time.Time     // when the limit was lowered last
	freed  chan struct{} // closed and replaced when there may be room
}

// cutEvery is how often the limit is lowered at most: the answers to one burst count once.
const cutEvery = 100 * time.Millisecond

func newPace(most int) *pace {
	return &pace{most: most, limit: float64(most), freed: make(chan struct{})}
}

// enter waits for room for one write.
func (p *pace) enter(ctx context.Context) error {
	for {
		p.mu.Lock()
		if p.flying < max(1, int(p.limit)) {
			p.flying++
			p.mu.Unlock()
			return nil
		}
		freed := p.freed
		p.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// leave ends a write.
func (p *pace) leave(throttled bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flying--
	switch now := time.Now(); {
	case !throttled:
		p.limit = min(float64(p.most), p.limit+1/max(1, p.limit))
	case now.Sub(p.cut) > cutEvery:
		p.limit, p.cut = max(1, p.limit*0.7), now
	}
	close(p.freed)
	p.freed = make(chan struct{})
}

// allowed is how many writes may be under way.
func (p *pace) allowed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(1, int(p.limit))
}
