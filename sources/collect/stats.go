package collect

import (
	"maps"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// Stats is a picture of a Handler.
type Stats struct {
	Requests      map[Result]uint64
	Accepted      uint64            // events that the log has
	AcceptedBytes uint64            // of those, as the log has them
	Refused       map[string]uint64 // events that it has not: by "invalid", "size", "consent"
	Appends       uint64            // calls of the log
	AppendErrors  uint64            // of those that failed, if only for some events
	AppendSeconds stream.Histogram  // how long the log took, failures included
	Active        int64             // requests that are not answered yet
	InFlight      int64             // bytes of them
	InFlightLimit int64
}

// Result is how a request was answered.
type Result struct {
	Status int
	Reason string // "ok", "preflight", "events", "body", "slow", "type", "method", "origin", "key", "rate_key", "rate_address", "busy" or "log"
}

// Stats returns a copy of the handler's state.
func (h *Handler) Stats() Stats {
	r := &h.stats
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.Stats
	s.Requests, s.Refused = maps.Clone(s.Requests), maps.Clone(s.Refused)
	s.AppendSeconds.Counts = slices.Clone(s.AppendSeconds.Counts)
	s.Active, s.InFlight, s.InFlightLimit = r.active.Load(), h.budget.used.Load(), h.budget.limit
	return s
}

// recorder counts.
type recorder struct {
	mu sync.Mutex
	Stats
	active atomic.Int64
}

func newRecorder() recorder {
	bounds := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	return recorder{Stats: Stats{
		Requests: map[Result]uint64{}, Refused: map[string]uint64{"invalid": 0, "size": 0, "consent": 0},
		AppendSeconds: stream.Histogram{Bounds: bounds, Counts: make([]uint64, len(bounds)+1)},
	}}
}

func (r *recorder) begin() { r.active.Add(1) }
func (r *recorder) end()   { r.active.Add(-1) }

func (r *recorder) request(status int, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Requests[Result{status, reason}]++
}

func (r *recorder) accept(events, bytes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Accepted += uint64(events)
	r.AcceptedBytes += uint64(bytes)
}

func (r *recorder) refuse(reason string, events int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Refused[reason] += uint64(events)
}

func (r *recorder) append(took time.Duration, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Appends++
	if !ok {
		r.AppendErrors++
	}
	h := &r.AppendSeconds
	h.Counts[sort.SearchFloat64s(h.Bounds, took.Seconds())]++
	h.Sum += took.Seconds()
}
