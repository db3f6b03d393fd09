package stream

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Trouble is what fails at present of the calls to a source's servers. A Source that keeps one is a Contact. The zero value
// is ready: nothing fails. It is safe for concurrent use.
type Trouble struct {
	mu   sync.Mutex
	kind map[string]failing
}

// failing is a kind of call that has not succeeded for a while.
type failing struct {
	since time.Time
	why   string
}

// Ended notes how a call of a kind ended: with nil nothing of the kind fails any more. A call that was cancelled says nothing.
func (t *Trouble) Ended(kind string, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		delete(t.kind, kind)
		return
	}
	if t.kind == nil {
		t.kind = map[string]failing{}
	}
	f, fails := t.kind[kind]
	if !fails {
		f.since = time.Now()
	}
	f.why = kind + ": " + err.Error()
	t.kind[kind] = f
}

// Failing is a Contact's: the last error of each kind of call that has not succeeded since, and since when the first of them
// fails.
func (t *Trouble) Failing() (why string, since time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var reasons []string
	for _, kind := range slices.Sorted(maps.Keys(t.kind)) {
		f := t.kind[kind]
		reasons = append(reasons, f.why)
		if since.IsZero() || f.since.Before(since) {
			since = f.since
		}
	}
	return strings.Join(reasons, "; "), since
}
