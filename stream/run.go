package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// EnsureDefaults sets what is zero.
func (c *Config) EnsureDefaults() {
	if c.Memory == 0 {
		c.Memory = 256 << 20
	}
	if c.CommitAge == 0 {
		c.CommitAge = time.Minute
	}
	if c.CommitIdle == 0 {
		c.CommitIdle = 20 * time.Second
	}
	if c.Deadline == 0 {
		c.Deadline = time.Minute
	}
	if c.StallAfter == 0 {
		c.StallAfter = 5 * time.Minute
	}
	c.DeadLimit.EnsureDefaults()
	if c.Jitter == nil {
		c.Jitter = func(most time.Duration) time.Duration { return rand.N(most) }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// Validate lists every problem.
func (c *Config) Validate() error {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Name == "" {
		problem("name is empty; want the pipeline's name")
	}
	if c.Schema == nil || c.Decoder == nil {
		problem("decode is missing")
	}
	if c.Memory < 1<<20 {
		problem("memory is %d bytes; want at least 1 MiB", c.Memory)
	}
	if c.CommitAge < 0 || c.CommitIdle < 0 || c.Deadline < 0 || c.StallAfter < 0 {
		problem("a duration is negative")
	}
	if err := c.DeadLimit.Validate(); err != nil {
		problem("dead_letters.stop_above: %w", err)
	}
	if len(c.Sinks) == 0 {
		problem("sinks is empty; want at least one")
	}
	if c.DeadLetters == nil {
		problem("dead_letters is missing")
	}
	names := map[string]bool{DeadLetters: true}
	for _, s := range c.Sinks {
		if names[s.Name] || s.Name == "" {
			problem("sinks.%s is named twice, or like something of ours", s.Name)
		}
		names[s.Name] = true
		if (s.Staged == nil) == (s.Upsert == nil) {
			problem("sinks.%s is neither staged nor upsert, or both", s.Name)
		}
	}
	return errors.Join(problems...)
}

// Engine runs one pipeline: a worker for each partition that the source assigns. Its methods are safe for concurrent use.
type Engine struct {
	cfg    Config
	budget *budget
	dead   *deadRate

	soft     context.Context // ends the reading
	hard     context.Context // ends every worker at once
	hardStop context.CancelCauseFunc
	softStop context.CancelFunc

	mu        sync.Mutex
	workers   map[*worker]bool
	counts    Stats // the counters only
	overview  Overview
	contact   Contact
	undrained int // partitions with uncommitted records that a stop left behind
	running   sync.WaitGroup
}

// New checks cfg and returns an engine that is not yet running.
func New(cfg Config) (*Engine, error) {
	cfg.EnsureDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	e := &Engine{cfg: cfg, budget: newBudget(cfg.Memory), dead: &deadRate{DeadLimit: cfg.DeadLimit}, workers: map[*worker]bool{}}
	e.counts = Stats{
		DeadByStage: map[string]uint64{}, Rows: map[string]uint64{}, Retries: map[string]uint64{},
		CommitSeconds: NewHistogram(),
	}
	return e, nil
}

// Run carries records from src to the sinks until src ends or soft does: then every partition is drained, committed and
// published. The end of hard stops at once and loses nothing that was committed. Run is called once. It returns the error
// that ended the run: nil after a complete drain, a FatalError's cause, the source's error, or what was left undone.
func (e *Engine) Run(soft, hard context.Context, src Source) error {
	e.soft, e.softStop = context.WithCancel(soft)
	e.hard, e.hardStop = context.WithCancelCause(hard)
	defer e.softStop()
	defer e.hardStop(nil)

	e.mu.Lock()
	e.overview, _ = src.(Overview)
	e.contact, _ = src.(Contact)
	e.mu.Unlock()
	err := src.Run(e.soft, e.assigned)
	e.abortAll()
	e.running.Wait()
	if cause := context.Cause(e.hard); cause != nil {
		return cause
	}
	if err == nil && e.undrained > 0 {
		err = fmt.Errorf("%d partitions were not drained; their records after the last commit are read again by the next run", e.undrained)
	}
	return err
}

// assigned opens the worker of one tenure.
func (e *Engine) assigned(a Assignment) (Consumer, error) {
	w, err := e.newWorker(a)
	if err != nil {
		return nil, fmt.Errorf("partition %s: %w", a.Partition(), err)
	}
	e.mu.Lock()
	e.workers[w] = true
	e.mu.Unlock()
	e.running.Go(func() {
		w.run()
		e.budget.set(w, 0)
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.workers, w)
		e.ended(w)
	})
	return w, nil
}

// ended stops the run if w failed for good, and notes what a stop left uncommitted. It is called under the lock.
func (e *Engine) ended(w *worker) {
	switch {
	case w.err == nil || errors.Is(w.err, ErrLost) || e.hard.Err() != nil:
	case errors.Is(w.err, errStopped):
		if w.pending {
			e.undrained++
		}
	default:
		e.hardStop(fmt.Errorf("partition %s: %w", w.tenure.Partition, w.err))
		e.softStop()
	}
}

// abortAll ends the workers that the source left behind.
func (e *Engine) abortAll() {
	e.mu.Lock()
	left := slices.Collect(maps.Keys(e.workers))
	e.mu.Unlock()
	for _, w := range left {
		w.end(errStopped)
	}
}

// count changes the counters under the lock.
func (e *Engine) count(change func(*Stats)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change(&e.counts)
}
