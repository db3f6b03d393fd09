package sim

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// trace is what took effect in the world, in order.
type trace struct {
	keep    bool // the entries, for people
	entries []entry
	sum     uint64 // of all calls, in whatever order they came
}

type entry struct {
	at   time.Duration // since the beginning of the run
	who  Call          // the zero Call: the schedule
	text string
}

// add notes a step of the schedule.
func (t *trace) add(at time.Duration, text func() string) {
	if t.keep {
		t.entries = append(t.entries, entry{at, Call{}, text()})
	}
}

// traced notes what became of a call. It is called under the lock.
func (w *world) traced(c Call, m mischief, err error) {
	at := time.Since(w.began)
	outcome := m.String()
	if m == fine && err != nil {
		outcome = err.Error()
	}
	h := mix(uint64(at)) ^ hashText(c.Name) ^ mix(uint64(c.Process)<<40^uint64(c.Shard+1)<<32^uint64(c.Lane)<<24^uint64(c.N)) ^ hashText(outcome)
	w.trace.sum += mix(h)
	if w.trace.keep {
		w.trace.entries = append(w.trace.entries, entry{at, c, outcome})
	}
}

// lines are the trace as a person reads it.
func (t *trace) lines() []string {
	slices.SortStableFunc(t.entries, func(a, b entry) int { return cmp.Or(cmp.Compare(a.at, b.at), compareCalls(a.who, b.who)) })
	var lines []string
	for _, e := range t.entries {
		if e.who == (Call{}) {
			lines = append(lines, fmt.Sprintf("%12.6fs  %s", e.at.Seconds(), e.text))
			continue
		}
		lines = append(lines, fmt.Sprintf("%12.6fs  %s: %s", e.at.Seconds(), e.who, e.text))
	}
	return lines
}
