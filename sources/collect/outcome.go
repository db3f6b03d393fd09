package collect

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrTooLarge marks the outcome of an event that the log will never take. It is refused; the client is not to send it again.
var ErrTooLarge = errors.New("the event is too large for the log")

// Outcomes is the error of an Append that knows what became of each event, by index: nil says that it is durable.
type Outcomes []error

func (o Outcomes) Error() string {
	failed, first := 0, error(nil)
	for _, err := range o {
		if err == nil {
			continue
		}
		if failed++; first == nil {
			first = err
		}
	}
	return fmt.Sprintf("%d of %d events were not taken: %v", failed, len(o), first)
}

// Results gathers the outcomes of one Append in a log that learns them one by one.
type Results struct {
	mu       sync.Mutex
	outcomes Outcomes
	left     int
	failed   bool
	done     chan struct{}
}

// errUnknown is the outcome of events that the log has said nothing about.
var errUnknown = errors.New("the log has not answered")

// NewResults returns the results of n events, n > 0.
func NewResults(n int) *Results {
	r := &Results{outcomes: make(Outcomes, n), left: n, done: make(chan struct{})}
	for i := range r.outcomes {
		r.outcomes[i] = errUnknown
	}
	return r
}

// Set is the outcome of event i. It is called once for each, from any goroutine, also after Wait.
func (r *Results) Set(i int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outcomes[i] = err
	r.failed = r.failed || err != nil
	if r.left--; r.left == 0 {
		close(r.done)
	}
}

// Wait returns when all outcomes are set or ctx is over: nil if all events are durable, else Outcomes.
func (r *Results) Wait(ctx context.Context) error {
	select {
	case <-r.done:
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left == 0 && !r.failed {
		return nil
	}
	return append(Outcomes(nil), r.outcomes...)
}
