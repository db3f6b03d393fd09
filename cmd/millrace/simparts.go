package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace-io/millrace/stream/sim"
)

// progressEvery is the time between two lines of progress.
const progressEvery = 10 * time.Second

// simParts runs the seeds in one process for each core and returns what came of them, in the order of the seeds. Processes, since
// a panic in the engine ends its process: then that seed has failed, and another process goes on with the next one.
func (c *call) simParts(ctx context.Context, f simFlags) ([]simLine, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	all := &simResults{lines: make([]simLine, f.runs), first: f.seed}
	parts := min(runtime.NumCPU(), f.runs)
	errs := make([]error, parts)
	var wg sync.WaitGroup
	for i := range parts {
		wg.Go(func() {
			if errs[i] = c.simFrom(ctx, f, i, parts, all); errs[i] != nil {
				cancel()
			}
		})
	}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		wg.Wait()
	}()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			done, failed := all.progress()
			fmt.Fprintf(c.stderr, "%s: %d of %d schedules, %d broke the promise\n", c.name, done, f.runs, failed)
		case <-finished:
			return all.lines, errors.Join(errs...)
		}
	}
}

// simResults collects what all parts print.
type simResults struct {
	first uint64 // seed

	mu     sync.Mutex
	lines  []simLine // by seed
	done   int
	failed int
}

func (r *simResults) add(l simLine) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines[l.Seed-r.first] = l
	r.done++
	if len(l.Violations) > 0 {
		r.failed++
	}
}

func (r *simResults) progress() (done, failed int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done, r.failed
}

// simFrom runs seed number from and every step-th after it, in as many processes as it takes.
func (c *call) simFrom(ctx context.Context, f simFlags, from, step int, all *simResults) error {
	for from < f.runs {
		last, begun, err := c.simProcess(ctx, f, from, step, all)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !begun:
			return fmt.Errorf("a process that runs schedules ended without any: %w", err)
		}
		crash := sim.Violation{Rule: sim.Crashed, Text: err.Error()}
		all.add(simLine{Seed: last, Done: true, Violations: []sim.Violation{crash}})
		from = int(last-f.seed) + step
	}
	return nil
}

// simProcess runs one process. When that fails, it says at which seed.
func (c *call) simProcess(ctx context.Context, f simFlags, from, step int, all *simResults) (last uint64, begun bool, err error) {
	program, err := os.Executable()
	if err != nil {
		return 0, false, err
	}
	args := []string{"sim", "--part", strconv.Itoa(step), "--seed", strconv.FormatUint(f.seed+uint64(from), 10), "--runs", strconv.Itoa(f.runs - from)}
	if f.data != "" {
		args = append(args, "--data", f.data)
	}
	cmd := exec.CommandContext(ctx, program, append(args, "--", f.file)...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=400")
	cmd.Stdin = bytes.NewReader(f.text)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, false, err
	}
	if err := cmd.Start(); err != nil {
		return 0, false, err
	}
	last, begun = gather(out, all)
	if err := cmd.Wait(); err != nil {
		return last, begun, fmt.Errorf("the process crashed: %s (%w)", panicOf(complaint.String()), err)
	}
	return last, begun, nil
}

// gather reads what a part prints until its end. It returns the seed that was begun last.
func gather(out io.Reader, all *simResults) (last uint64, begun bool) {
	lines := json.NewDecoder(out)
	for {
		var l simLine
		if err := lines.Decode(&l); err != nil {
			_, _ = io.Copy(io.Discard, out)
			return last, begun
		}
		last, begun = l.Seed, true
		if l.Done {
			all.add(l)
		}
	}
}

// panicOf is the line of a crash that says most.
func panicOf(text string) string {
	lines := strings.Split(text, "\n")
	for _, line := range lines {
		if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			return line
		}
	}
	return lines[0]
}
