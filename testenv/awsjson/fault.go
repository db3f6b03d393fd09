package awsjson

import (
	"context"
	"sync"
	"time"
)

// Fault is what happens to one call. The zero value: it is done and answered. First comes the wait, of Delay or Hang or both;
// then the call is done, if it is; then Cut or Error replaces the answer.
type Fault struct {
	Delay time.Duration   // the call waits so long, or until the caller gives up
	Hang  <-chan struct{} // the call waits until this is closed, or until the caller gives up

	Error   string // answered instead: "ProvisionedThroughputExceededException"; its status is Amazon's
	Message string // of Error; default Error
	Cut     bool   // the connection is cut instead of an answer
	Done    bool   // the call is done all the same before Error or Cut: a lost answer

	// Fail fails some records of a call on many: it returns the error code of the i-th, or "". PutRecords reports the code,
	// BatchWriteItem and BatchGetItem return the item as unprocessed.
	Fail func(i int) string
}

// wait is false when the caller gave up.
func (f Fault) wait(ctx context.Context) bool {
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-ctx.Done():
			return false
		}
	}
	if f.Hang != nil {
		select {
		case <-f.Hang:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// Hook decides what becomes of each call, C, and counts them. Its methods are safe for concurrent use.
type Hook[C any] struct {
	mu     sync.Mutex
	decide func(C) Fault
	seen   map[string]int // by operation
	about  map[subject]int
}

type subject struct{ operation, name, part string }

// Intercept sets the function that decides on every call from now on; nil: none fails. It is called for one call at a time,
// before the call is done. It may use the server's own methods, but not Intercept and Seen. What it writes may be read after
// Seen or Intercept returned.
func (h *Hook[C]) Intercept(decide func(C) Fault) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.decide = decide
}

// Seen says how many calls of an operation came, those that failed included.
func (h *Hook[C]) Seen(operation string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen[operation]
}

// Fault counts a call and decides on it. The call is of one operation on one part of one named thing; call gets how many of
// those came before.
func (h *Hook[C]) Fault(operation, name, part string, call func(before int) C) Fault {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seen == nil {
		h.seen, h.about = map[string]int{}, map[subject]int{}
	}
	s := subject{operation, name, part}
	before := h.about[s]
	h.about[s]++
	h.seen[operation]++
	if h.decide == nil {
		return Fault{}
	}
	return h.decide(call(before))
}
