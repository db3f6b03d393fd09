package bulk

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// stats counts what a sink does.
type stats struct {
	mu   sync.Mutex
	s    stream.SinkStats
	last error // of the requests since the last one that wrote something
}

func (t *stats) begin() { t.s.WriteSeconds = stream.NewHistogram() }

// get is a copy.
func (t *stats) get() stream.SinkStats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.s
	s.WriteSeconds = s.WriteSeconds.Clone()
	return s
}

// waits says that n more writes wait, or with a negative number fewer.
func (t *stats) waits(n int, bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.s.Waiting += n
	t.s.WaitingBytes += bytes
}

// request counts one request: what came of its items, and how long those took from their arrival that are written.
func (t *stats) request(now time.Time, items []*Item, refusals, repeated int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.s.Requests++
	t.s.Refused += uint64(refusals)
	t.s.Repeated += uint64(repeated)
	answered := refusals > 0
	for _, it := range items {
		if it.Err == nil {
			answered = true
			t.s.Written++
			t.s.WriteSeconds.Observe(now.Sub(it.arrived))
		}
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, errSmaller): // of our own making
	case err != nil && !answered:
		t.s.Failed++
		t.last, t.s.Failing = err, err.Error()
		if t.s.FailingSince.IsZero() {
			t.s.FailingSince = now
		}
	case answered:
		t.last, t.s.Failing, t.s.FailingSince, t.s.LastWrite = nil, "", time.Time{}, now
	}
}

// failing is the last error while nothing succeeds, else nil.
func (t *stats) failing() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last
}

// fatal is the last error while nothing succeeds, if no repetition mends it.
func (t *stats) fatal() error {
	err := t.failing()
	if fatal := (*stream.FatalError)(nil); errors.As(err, &fatal) {
		return err
	}
	return nil
}
