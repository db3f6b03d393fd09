package stream

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// DeadLimit stops a run in which too many records become dead letters: what is wrong then is the pipeline or its input as a
// whole, and no operator wants to find a day of it in the dead letters. What was not committed is read again by the next run,
// so what the window holds is mostly not lost to the dead letters.
type DeadLimit struct {
	Percent float64       // of the window's records, that may fail; 0: no limit
	Window  time.Duration // default 1 min
	Least   int64         // records that the window has before it is judged; default 1000
}

// EnsureDefaults sets what is zero.
func (l *DeadLimit) EnsureDefaults() {
	if l.Window == 0 {
		l.Window = time.Minute
	}
	if l.Least == 0 {
		l.Least = 1000
	}
}

// Validate says what is wrong.
func (l *DeadLimit) Validate() error {
	l.EnsureDefaults()
	var problems []error
	if l.Percent < 0 || l.Percent >= 100 {
		problems = append(problems, fmt.Errorf("percent is %g; want 0 to less than 100", l.Percent))
	}
	if l.Window < time.Second {
		problems = append(problems, fmt.Errorf("window is %s; want at least 1s", l.Window))
	}
	if l.Least < 1 {
		problems = append(problems, fmt.Errorf("least is %d; want at least 1", l.Least))
	}
	return errors.Join(problems...)
}

// ErrTooManyDead says that a run ended by its DeadLimit.
var ErrTooManyDead = errors.New("too many records become dead letters")

// deadRate counts the records of a window that moves in steps. It is safe for concurrent use.
type deadRate struct {
	DeadLimit
	mu    sync.Mutex
	steps [deadSteps]struct{ number, records, dead int64 }
}

const deadSteps = 12

// add counts some records, and fails once too many of the window are dead. last is one of those.
func (r *deadRate) add(now time.Time, records, dead int64, last *DeadLetter) error {
	if r.Percent == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	number := now.UnixNano() / int64(r.Window/deadSteps)
	step := &r.steps[number%deadSteps]
	if step.number != number {
		step.number, step.records, step.dead = number, 0, 0
	}
	step.records += records
	step.dead += dead
	records, dead = 0, 0
	for _, s := range r.steps {
		if s.number > number-deadSteps {
			records += s.records
			dead += s.dead
		}
	}
	percent := 100 * float64(dead) / float64(max(records, 1))
	if last == nil || records < r.Least || percent <= r.Percent {
		return nil
	}
	return fmt.Errorf("%w: %d of the last %d records (%.1f %%) in %s, and stop_above is %g %%; the last one at stage %s: %s; "+
		"what was not committed yet is read again by the next run", ErrTooManyDead, dead, records, percent, r.Window, r.Percent, last.Stage, last.Err)
}
