package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// run is one Source.Run. Its fields belong to the goroutine of that; each place has a goroutine of its own.
type run struct {
	*Source
	assigned func(stream.Assignment) (stream.Consumer, error)

	found  []file // of the last scan
	cache  map[string]cached
	same   map[comparison]bool // what was found out about a file's content
	done   map[string]bool     // names of files that are finished, unless the run follows
	forced map[string]int      // generation of a file whose content was replaced, by name
	gone   map[string]bool     // partitions whose file is gone, which was looked into
	begun  bool                // there was a plan before
	failed []error             // of consumers, while the rest of a finite run goes on

	listings map[string]listing // of S3, by location

	live    map[string]*place // by partition
	results chan result
}

// place is one of the Config.Concurrency places, taken by a task.
type place struct {
	task
	reading  atomic.Pointer[reading] // nil until it reads
	released bool
}

// task is one generation of one file that is to be read.
type task struct {
	file              // where it is now
	origin     string // the file's name when it was first seen: the partition is named after it
	generation int
}

func (t task) partition() string { return partitionName(t.origin, t.generation) }

// verdict is what came of a task.
type verdict int

const (
	handedOff verdict = iota // not finished
	finished                 // nothing is left to read of this file
	held                     // another process has it, or the file is not what it was a moment ago: plan again
	replaced                 // the file holds other content: its next generation is due
)

type result struct {
	place   *place
	verdict verdict
	err     error
}

// run takes places for tasks until all is read, ctx ends, or something fails.
func (r *run) run(ctx context.Context) error {
	own, cancel := context.WithCancel(ctx)
	defer cancel()
	err := errors.Join(r.loop(own), errors.Join(r.failed...))
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil
	}
	cancel()
	for len(r.live) > 0 {
		if e := r.settle(<-r.results); e != nil && err == nil {
			err = e
		}
	}
	return err
}

func (r *run) loop(ctx context.Context) error {
	for ctx.Err() == nil {
		began := time.Now()
		due, idle, err := r.plan(ctx)
		if err != nil {
			return err
		}
		if !r.cfg.Follow && len(due) == 0 && len(r.live) == 0 {
			return nil
		}
		// A large listing is not made all the time.
		if err := r.work(ctx, due, idle, max(r.cfg.Poll, 10*time.Since(began))); err != nil {
			return err
		}
	}
	return nil
}

// work takes tasks until the pause is over. Without following, it goes on until the tasks are done.
func (r *run) work(ctx context.Context, due, idle []task, pause time.Duration) error {
	poll := time.NewTicker(pause)
	defer poll.Stop()
	for {
		due, idle = r.take(ctx, due), r.take(ctx, idle)
		if len(due) > 0 && r.cfg.Follow {
			r.makeRoom()
		}
		select {
		case <-ctx.Done():
			return nil
		case res := <-r.results:
			if err := r.settle(res); err != nil {
				return err
			}
		case <-poll.C:
			for _, p := range r.live {
				if reading := p.reading.Load(); reading != nil {
					reading.tenure.watch()
				}
			}
			if r.cfg.Follow || len(due) == 0 && r.waiting() {
				return nil
			}
		}
		if !r.cfg.Follow && len(due) == 0 && len(r.live) == 0 && !r.waiting() {
			return nil
		}
	}
}

// waiting says that a file is neither finished nor being read here.
func (r *run) waiting() bool {
	reading := map[string]bool{}
	for _, p := range r.live {
		reading[p.name] = true
	}
	for _, f := range r.found {
		if !r.done[f.name] && !reading[f.name] {
			return true
		}
	}
	return false
}

// take starts tasks while there are places, and returns the rest.
func (r *run) take(ctx context.Context, tasks []task) []task {
	for len(tasks) > 0 && len(r.live) < r.cfg.Concurrency {
		t := tasks[0]
		tasks = tasks[1:]
		if r.live[t.partition()] != nil {
			continue
		}
		p := &place{task: t}
		r.live[t.partition()] = p
		go func() { // ends with ctx at the latest; run receives its result
			v, err := r.own(ctx, p)
			r.results <- result{p, v, err}
		}()
	}
	return tasks
}

// settle frees the place of a result.
func (r *run) settle(res result) error {
	t := res.place.task
	delete(r.live, t.partition())
	switch res.verdict {
	case finished:
		r.done[t.name] = true
	case replaced:
		r.forced[t.origin] = t.generation + 1
	}
	var consumer errConsumer
	if errors.As(res.err, &consumer) && !r.cfg.Follow {
		r.done[t.name] = true
		r.failed = append(r.failed, res.err)
		return nil
	}
	return res.err
}

// turn is how many polls a file may keep its place while others wait, after it was written last.
const turn = 30

// makeRoom asks the file that has been without news for the longest time to give its place up.
func (r *run) makeRoom() {
	var longest *place
	var since int64
	for _, p := range r.live {
		if p.released {
			return // one at a time
		}
		reading := p.reading.Load()
		if reading == nil {
			continue
		}
		at := reading.idle.Load()
		if at == 0 {
			continue
		}
		at = min(at, reading.tenure.lastSeen().Modified.UnixNano())
		if longest == nil || at < since {
			longest, since = p, at
		}
	}
	if longest != nil && time.Since(time.Unix(0, since)) > turn*r.cfg.Poll {
		longest.released = true
		close(longest.reading.Load().release)
	}
}

// own reads one file as its partition's owner.
func (r *run) own(ctx context.Context, p *place) (verdict, error) {
	t := p.task
	lock, err := r.folder.lock(t.partition())
	if errors.Is(err, errHeld) {
		return held, nil
	}
	if err != nil {
		return held, err
	}
	defer lock.release()
	state, err := r.folder.load(t.partition())
	if err != nil {
		return held, err
	}
	if next, err := r.folder.load(partitionName(t.origin, t.generation+1)); next != nil || err != nil {
		return held, err // another process was faster
	}
	if state == nil {
		state = &saved{Partition: t.partition(), Name: t.origin, Generation: t.generation}
	}
	if state.Ended && state.Seen.equal(t.info) {
		return finished, nil
	}
	file, err := r.open(ctx, t.file)
	if errors.Is(err, fs.ErrNotExist) && r.cfg.Follow {
		return held, nil
	}
	if err != nil {
		return held, err
	}
	rd := &reader{file: file, cfg: &r.cfg}
	defer rd.close()
	return r.verified(ctx, p, rd, state, lock)
}

func (r *run) open(ctx context.Context, f file) (handle, error) {
	if f.remote() {
		return r.buckets.openFile(ctx, f)
	}
	return openLocal(f.name)
}

// verified goes on when the file holds what was read of it before.
func (r *run) verified(ctx context.Context, p *place, rd *reader, state *saved, lock *lock) (verdict, error) {
	seen, err := rd.file.stat() // before anything is read: what is written from now on counts as new
	if err != nil {
		return held, err
	}
	if seen.Identity != p.Identity {
		return held, nil // replaced since it was found
	}
	if err := rd.detect(); err != nil {
		return held, err
	}
	err = rd.verify(ctx, state.Mark)
	ended := false
	if err == nil && state.Ended {
		ended, err = rd.ended(ctx, state.Mark)
	}
	switch {
	case errors.Is(err, errChanged):
		return r.changed(p.task, state, err)
	case ctx.Err() != nil:
		return handedOff, nil
	case err != nil:
		return held, stream.Fatal(fmt.Errorf("%s cannot be read up to byte %d, where it is to go on: %w", p.name, state.Mark.End, err))
	case ended:
		state.Seen = seen
		return finished, r.folder.store(state)
	}
	state.Epoch++
	state.Path, state.Seen, state.Complete, state.Partial, state.Ended = p.name, seen, false, false, false
	if err := r.folder.store(state); err != nil {
		return held, err
	}
	t := &tenure{cfg: &r.cfg, folder: r.folder, lock: lock, hooks: r.hooks, saved: *state, seen: seen, done: make(chan struct{})}
	return r.serve(ctx, p, rd, t)
}

// changed decides about a file whose content is not what was read of it.
func (r *run) changed(t task, state *saved, cause error) (verdict, error) {
	rotated := state.Ended && r.cfg.Follow && !t.remote()
	if !rotated && r.cfg.OnChange == Fail {
		return held, stream.Fatal(fmt.Errorf("%s: %w; its content up to byte %d was delivered as partition %s; "+
			"restore it, take it out of paths, or set on_change to restart to read it from its beginning as a new generation",
			t.name, cause, state.Mark.End, state.Partition))
	}
	if !rotated {
		r.log.Warn("file's content has changed; it is read as a new generation", "file", t.name, "partition", state.Partition, "cause", cause)
	}
	if !state.Ended {
		state.Ended, state.Replaced = true, true
		if err := r.folder.store(state); err != nil {
			return held, err
		}
	}
	return replaced, nil
}

// patience is how long a Deliver that does not heed its context may go on before Drain is called beside it.
const patience = 100 * time.Millisecond

// serve delivers the file to a consumer of its own.
func (r *run) serve(ctx context.Context, p *place, rd *reader, t *tenure) (verdict, error) {
	consumer, err := r.assigned(t)
	if err != nil {
		return held, err
	}
	reading := &reading{
		reader: rd, tenure: t, consumer: consumer, path: p.name, away: p.name != p.origin,
		log: r.log, release: make(chan struct{}),
	}
	p.reading.Store(reading)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	type end struct {
		ended bool
		err   error
	}
	read := make(chan end, 1)
	go func() {
		ended, err := reading.run(ctx)
		read <- end{ended, err}
	}()

	var e end
	select {
	case e = <-read:
	case <-t.done:
		stop()
		consumer.Abort()
		<-read
		return held, r.lost(t)
	case <-ctx.Done():
		select {
		case e = <-read:
		case <-time.After(patience):
			err := r.drain(ctx, consumer, t, stream.Handoff)
			<-read
			return handedOff, err
		}
	}
	var refused errConsumer
	if ctx.Err() != nil && (errors.Is(e.err, ctx.Err()) || errors.As(e.err, &refused)) {
		e = end{} // the run ends; what was not taken is read again
	}
	if e.err == nil && e.ended {
		return r.finish(ctx, reading)
	}
	err = r.drain(ctx, consumer, t, stream.Handoff)
	if err == nil && e.err == nil && reading.waited {
		err = t.pause(reading.split.pending())
	}
	return handedOff, errors.Join(e.err, err)
}

func (r *run) finish(ctx context.Context, reading *reading) (verdict, error) {
	t := reading.tenure
	if err := r.drain(ctx, reading.consumer, t, stream.Ended); err != nil {
		return held, err
	}
	m, _ := reading.mark()
	return finished, t.end(m)
}

// drain ends a tenure. The run's end must not cut it short.
func (r *run) drain(ctx context.Context, consumer stream.Consumer, t *tenure, why stream.Why) error {
	err := consumer.Drain(context.WithoutCancel(ctx), why)
	select {
	case <-t.done:
		return r.lost(t)
	default:
	}
	if err != nil {
		return errConsumer{fmt.Errorf("%s: %w", t.Partition(), err)}
	}
	return nil
}

func (r *run) lost(t *tenure) error {
	return fmt.Errorf("%s: its lock or checkpoint was removed from %s while it was read; leave the folder alone while a pipeline runs: %w",
		t.Partition(), r.folder.dir, stream.ErrLost)
}
