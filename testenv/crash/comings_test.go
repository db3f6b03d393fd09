//go:build real

package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// events is how often a process leaves in a test with comings; each is followed by a new one.
const events = 30

// comings are processes of one pipeline that share its partitions. Some leave, half of them killed, and others come in their place; one
// stays, and is paused for longer than its session or its leases live.
type comings struct {
	millrace
	left chan struct{} // gets a value for each that left; has room for all events

	outages atomic.Int64
	up      sync.RWMutex // locked in an outage: no process is started then
}

// begin starts so many processes and the one that is paused. stopped waits until the last one has left.
func (c *comings) begin(random *rand.Rand, processes int) (stopped func()) {
	var leaving, staying sync.WaitGroup
	for range processes {
		own := fork(random)
		leaving.Go(func() { c.comeAndLeave(own, events/processes) })
	}
	pausing, enough := context.WithCancel(c.t.Context())
	own := fork(random)
	staying.Go(func() { c.pauses(pausing, own) })
	return func() {
		leaving.Wait()
		enough()
		staying.Wait()
	}
}

func (c *comings) comeAndLeave(random *rand.Rand, times int) {
	for n := 0; n < times; {
		c.up.RLock()
		before := c.outages.Load()
		c.up.RUnlock()
		err := c.leaveAfter(500*time.Millisecond+time.Duration(random.IntN(4000))*time.Millisecond, random.IntN(2) == 0)
		if err != nil && c.outages.Load() > before {
			continue // it was not connected yet
		}
		if err != nil {
			c.t.Error(err)
		}
		c.left <- struct{}{}
		n++
	}
}

// outage is f, while which the source's server is not there.
func (c *comings) outage(f func()) {
	c.up.Lock()
	defer c.up.Unlock()
	c.outages.Add(1)
	f()
}

// leaveAfter runs the pipeline for d, then kills it, or stops it softly, which must succeed.
func (m *millrace) leaveAfter(d time.Duration, kill bool) error {
	cmd, said := m.command("run", m.file)
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return fmt.Errorf("run ended by itself: %w\n%s", err, said)
	case <-time.After(d):
	}
	if kill {
		_ = cmd.Process.Kill()
		<-ended
		return nil
	}
	if err := softStop(cmd, ended); err != nil {
		return fmt.Errorf("%w\n%s", err, said)
	}
	return nil
}
