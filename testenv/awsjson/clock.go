package awsjson

import (
	"sync/atomic"
	"time"
)

// Clock is a server's clock, which a test can move. Its methods are safe for concurrent use.
type Clock struct{ ahead atomic.Int64 }

// Now is the machine's time and what the clock is ahead of it.
func (c *Clock) Now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// Set sets how far the clock is ahead of the machine's; less than zero: behind.
func (c *Clock) Set(ahead time.Duration) { c.ahead.Store(int64(ahead)) }

// After is when a change has come to its end that takes d: for 0 at once, even if the clock is set back.
func (c *Clock) After(d time.Duration) time.Time {
	if d == 0 {
		return time.Time{}
	}
	return c.Now().Add(d)
}
