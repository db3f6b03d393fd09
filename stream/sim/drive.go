package sim

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// drive takes the schedule's steps, lets one process finish the work, and checks what has come of it.
func (w *world) drive() {
	written := 0
	for i, step := range w.schedule.Steps {
		if w.violated() {
			break
		}
		w.do(step)
		upTo := (i + 1) * w.schedule.Records / len(w.schedule.Steps)
		w.write(written, upTo)
		written = upTo
		w.sleep(step.Wait)
	}
	w.write(written, w.schedule.Records)
	if !w.violated() {
		w.settle()
	}
	w.killAll()
	w.late.Wait()
	if !w.violated() {
		w.check()
	}
}

// sleep lets time pass, up to a moment that is the schedule's own.
func (w *world) sleep(d time.Duration) { time.Sleep(w.instant(d, 0)) }

func (w *world) do(s Step) {
	w.mu.Lock()
	p := w.processes[s.Process]
	w.trace.add(time.Since(w.began), s.String)
	w.mu.Unlock()
	switch {
	case s.Kind == Start && p == nil:
		w.start(s.Process)
	case s.Kind <= Wake && p != nil:
		w.signal(p, s.Kind)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	until := time.Now().Add(s.For)
	switch s.Kind {
	case Steal:
		w.steal(s.Shard, p)
	case Split:
		w.split(s.Shard, s.Into)
	case Merge:
		w.merge(s.Shard, s.Other, s.Into[0])
	case SinkFails:
		w.fails[s.Sink] = until
	case SinkIsSlow:
		w.slow[s.Sink] = until
	case Expire:
		w.expire(func(int) bool { return true })
	}
}

// signal is what an operator or the system does to a process.
func (w *world) signal(p *process, kind StepKind) {
	switch kind {
	case Crash:
		p.told = true
		w.kill(p)
	case Stop:
		p.told = true
		p.soft()
	case Pause:
		p.pause()
	case Wake:
		w.wake(p)
	}
}

func (w *world) kill(p *process) {
	w.mu.Lock()
	p.die()
	w.mu.Unlock()
	<-p.ended
}

func (w *world) wake(p *process) {
	if !p.wake() || p.isDead() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	for shard, epoch := range p.held {
		if w.shards[shard].epoch != epoch {
			w.count.Zombies++
			return
		}
	}
}

// settle ends all mischief, leaves one process, and waits until that has done everything.
func (w *world) settle() {
	w.mu.Lock()
	w.calm = true
	w.trace.add(time.Since(w.began), func() string { return "nothing goes wrong any more" })
	w.mu.Unlock()
	all := w.running()
	for _, p := range all {
		w.wake(p)
	}
	for _, p := range all {
		if p.told || p != all[len(all)-1] {
			p.soft()
			w.await(p)
		}
	}
	recovered := time.Now().Add(leaseTime + 30*time.Second) // every lease is held, every back-off over, what was committed published
	for limit := time.Now().Add(patience); !w.done() || time.Now().Before(recovered); {
		if !time.Now().Before(limit) {
			w.stuck()
			return
		}
		if len(w.running()) == 0 {
			w.start(w.next())
		}
		w.sleep(time.Second)
	}
	for _, p := range w.running() {
		p.soft()
		w.await(p)
	}
}

// await waits for the end of a process that was told to stop. It has to be a good one.
func (w *world) await(p *process) {
	timer := time.NewTimer(w.instant(patience, 0))
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
		w.stuck()
		return
	}
	w.sleep(0)
	if p.err != nil && !p.isDead() && !errors.Is(p.err, stream.ErrExpired) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.violate(Stuck, "", "", stream.Position{}, "process %d does not stop cleanly: %v", p.number, p.err)
	}
}

// running are the processes that have not ended, in the order in which they began.
func (w *world) running() []*process {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ps []*process
	for n := 1; n <= maxProcesses; n++ {
		p := w.processes[n]
		if p == nil {
			continue
		}
		select {
		case <-p.ended:
		default:
			ps = append(ps, p)
		}
	}
	return ps
}

// next is the number of a process that is not in the schedule.
func (w *world) next() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 1
	for w.processes[n] != nil || slices.ContainsFunc(w.schedule.Steps, func(s Step) bool { return s.Kind == Start && s.Process == n }) {
		n++
	}
	return n
}

// killAll ends what a violation has left.
func (w *world) killAll() {
	for _, p := range w.running() {
		p.wake()
		w.kill(p)
	}
}

// stuck says which shard is not finished.
func (w *world) stuck() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, sh := range w.shards {
		if !sh.finished() {
			w.violate(Stuck, "", sh.name, sh.committed(), "no progress for %s although nothing goes wrong any more", patience)
		}
	}
	w.checkDrained()
	if len(w.violations) == 0 {
		w.violate(Stuck, "", "", stream.Position{}, "a process does not end within %s of being told to", patience)
	}
}

// done says that every record is committed, every closed shard ended, and nothing set aside.
func (w *world) done() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.violations) > 0 || !slices.ContainsFunc(w.shards, func(s *shard) bool { return !s.finished() }) && w.drained()
}

// check is what can only be known at the end. What can be known earlier was checked when it happened: see check.go.
func (w *world) check() {
	w.mu.Lock()
	w.checkMissing()
	w.checkDrained()
	w.mu.Unlock()
	inspectors := map[string]stream.Inspector{}
	for _, s := range w.pipeline.Sinks {
		if !s.Upsert {
			inspectors[s.Name] = w.sinks[s.Name]
		}
	}
	inspectors[stream.DeadLetters] = w.sinks[stream.DeadLetters]
	report, err := stream.Audit(context.Background(), w.pipeline.Name, (&source{&process{world: w}}).Checkpoints, inspectors, true)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.violate(Unverified, "", "", stream.Position{}, "verify cannot read what was written: %v", err)
		return
	}
	w.checkReport(report)
}
