package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/millrace-io/millrace/processors/decode"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/stream/sim"
)

const simHelp = `run a pipeline under seeded faults, in no time

Usage: millrace sim [--seed N] [--runs K] [--data FILE] [--shrink | --trace] [--json] FILE

Runs the pipeline of FILE in a world that is made up: the engine, the decoder, the processors, the conditions of the sinks and what
sets aside the writes of those with on_stall: spool are the real ones; the source, the sinks' stores and the clock are not. No server is asked and no file is written. Of the source
only the kind counts. What goes wrong follows from the seed: crashes, zombies (paused past their lease, then woken), stolen leases, splits,
merges, lost replies, late effects, failing and slow sinks, outages that are set aside, staged data that expires. All the time, and at
the end of each run, the promise is checked: every record once in every sink that it is for, or in the dead letters; in order per key;
nothing visible that is not committed; nothing committed that is neither in a sink nor set aside; all drained at the end; and verify
finds nothing.

  --seed N      the first seed; default 1. A seed makes the same run each time.
  --runs K      how many seeds; default 1000
  --data FILE   lines of your own as the records; default: made to fit decode, some of them spoiled
  --shrink      of the first seed that fails, look for the smallest schedule that still does, and print it
  --trace       print all that happens in the run of the one seed
  --json        print the outcome as JSON

Example:
  $ millrace sim clicks.yaml --seed 1 --runs 10000
  clicks: clean: 10000 schedules, 1989794 records, 32008 crashes, 3400 zombies, 5786 steals, ... 0 violations, 400.8 s

Exit codes: 0 clean, 1 the promise was broken or the file has problems, 2 wrong usage.`

// maxSimRuns is the most schedules of one call: their outcomes are kept until the end.
const maxSimRuns = 10_000_000

// simFlags are the flags of sim.
type simFlags struct {
	seed   uint64
	runs   int
	data   string
	shrink bool
	trace  bool
	json   bool
	part   int // run every part-th seed and print lines for the process that asked; 0: be that process
	file   string
	text   []byte // of the file, if it is standard input
}

func simulate(ctx context.Context, c *call) int {
	f, err := c.simFlags()
	if err != nil {
		return c.usage("%s", err)
	}
	if f.file == "-" { // for every process
		if f.text, err = io.ReadAll(c.stdin); err != nil {
			return c.fail(err)
		}
		c.stdin = bytes.NewReader(f.text)
	}
	p := c.load(f.file)
	if p == nil {
		return exitFail
	}
	pipeline, err := p.simulated(f.data)
	if err != nil {
		return c.fail(err)
	}
	runner := &sim.Runner{Pipeline: pipeline}
	switch {
	case f.part > 0:
		return c.simPart(runner, f)
	case f.trace:
		return c.simTrace(runner, f)
	}
	return c.simAll(ctx, runner, f)
}

func (c *call) simFlags() (f simFlags, err error) {
	flags := flag.NewFlagSet("sim", flag.ContinueOnError)
	flags.Uint64Var(&f.seed, "seed", 1, "")
	flags.IntVar(&f.runs, "runs", 1000, "")
	flags.StringVar(&f.data, "data", "", "")
	flags.BoolVar(&f.shrink, "shrink", false, "")
	flags.BoolVar(&f.trace, "trace", false, "")
	flags.BoolVar(&f.json, "json", false, "")
	flags.IntVar(&f.part, "part", 0, "")
	if f.file, err = c.oneFile(flags); err != nil {
		return f, err
	}
	set := map[string]bool{}
	flags.Visit(func(fl *flag.Flag) { set[fl.Name] = true })
	switch {
	case f.runs < 1 || f.runs > maxSimRuns:
		err = fmt.Errorf("--runs is %d; want 1 to %d", f.runs, maxSimRuns)
	case f.trace && set["runs"] && f.runs != 1:
		err = errors.New("--trace shows one seed; leave --runs out")
	case f.trace && f.shrink:
		err = errors.New("--trace and --shrink are two things; want one")
	case f.trace && f.json:
		err = errors.New("--trace is for people; leave --json out")
	}
	return f, err
}

// simulated is the plan without its outside.
func (p *plan) simulated(data string) (*sim.Pipeline, error) {
	s := &sim.Pipeline{Name: p.file.Name, Schema: p.schema, Decoder: p.decoder, Processors: p.processors}
	for _, sink := range p.sinks {
		simulated := sim.Sink{Name: sink.name, Where: sink.where, Upsert: sink.upsert != nil, Joined: sink.joined}
		if sink.aside {
			simulated.Spool = simSpool{p.schema}
		}
		s.Sinks = append(s.Sinks, simulated)
	}
	s.Input = newSimLines(p.format, p.schema).record
	if data != "" {
		input, err := simData(data, p.format)
		if err != nil {
			return nil, err
		}
		s.Input = input
	}
	return s, s.Validate()
}

// simData takes the records from the lines of a file: from a place that the seed says, again and again.
func simData(path string, format *decode.Config) (func(seed uint64, n int) stream.Record, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimRight(string(text), "\r\n"), "\n")
	var headers []stream.Header
	if format.WantsHeader() {
		headers = []stream.Header{{Key: decode.CSVHeader, Value: []byte(strings.TrimRight(lines[0], "\r"))}}
		lines = lines[1:]
	}
	if len(lines) == 0 || len(lines) == 1 && lines[0] == "" {
		return nil, fmt.Errorf("%s has no records", path)
	}
	return func(seed uint64, n int) stream.Record {
		i := (seed*7919 + uint64(n)) % uint64(len(lines))
		return stream.Record{Value: []byte(strings.TrimRight(lines[i], "\r")), Headers: headers}
	}, nil
}

// simLine is what a part prints: that it begins a seed, and what came of it.
type simLine struct {
	Seed       uint64
	Done       bool
	Counts     sim.Counts
	Violations []sim.Violation
	Sum        uint64
}

// simPart runs every part-th seed. See simAll.
func (c *call) simPart(r *sim.Runner, f simFlags) int {
	out := bufio.NewWriter(c.stdout)
	lines := json.NewEncoder(out)
	for i := 0; i < f.runs; i += f.part {
		seed := f.seed + uint64(i)
		begin := lines.Encode(simLine{Seed: seed})
		if err := errors.Join(begin, out.Flush()); err != nil { // whoever reads must know the seed before it can crash the process
			return c.fail(err)
		}
		result := r.Run(sim.NewSchedule(r.Pipeline, seed))
		if err := lines.Encode(simLine{seed, true, result.Counts, result.Violations, result.Sum}); err != nil {
			return c.fail(err)
		}
	}
	if err := out.Flush(); err != nil {
		return c.fail(err)
	}
	return exitOK
}

// simTrace prints one run.
func (c *call) simTrace(r *sim.Runner, f simFlags) int {
	r.Trace = true
	result := r.Run(sim.NewSchedule(r.Pipeline, f.seed))
	for _, line := range result.Trace {
		fmt.Fprintln(c.stdout, line)
	}
	for _, v := range result.Violations {
		fmt.Fprintln(c.stdout, v)
	}
	if len(result.Violations) > 0 {
		return exitFail
	}
	return exitOK
}

// simReport is the outcome of sim.
type simReport struct {
	Clean    bool         `json:"clean"`
	Pipeline string       `json:"pipeline"`
	Seed     uint64       `json:"seed"`
	Runs     int          `json:"schedules"`
	Counts   sim.Counts   `json:"counts"`
	Digest   string       `json:"digest"`   // of all traces: the same for the same program, file, seeds and data
	Failed   int          `json:"failed"`   // schedules
	Failures []simFailure `json:"failures"` // the first ones
	Smallest []string     `json:"smallest,omitempty"`
	Seconds  float64      `json:"seconds"`
}

// simFailure is one seed that breaks the promise.
type simFailure struct {
	Seed       uint64          `json:"seed"`
	Violations []sim.Violation `json:"violations"`
	Replay     string          `json:"replay"`
}

// shownFailures is how many seeds that fail are printed.
const shownFailures = 10

// simAll runs all seeds in processes of their own, one for each core, and prints what came of them.
func (c *call) simAll(ctx context.Context, r *sim.Runner, f simFlags) int {
	began := time.Now()
	results, err := c.simParts(ctx, f)
	if err != nil {
		return c.fail(err)
	}
	report := simReport{Pipeline: r.Pipeline.Name, Seed: f.seed, Runs: f.runs, Failures: []simFailure{}}
	digest := uint64(0)
	for i, result := range results {
		report.Counts.Add(result.Counts)
		digest = digest*31 + result.Sum
		report.Digest = fmt.Sprintf("%016x", digest)
		if len(result.Violations) == 0 {
			continue
		}
		report.Failed++
		if report.Failed <= shownFailures {
			seed := f.seed + uint64(i)
			report.Failures = append(report.Failures, simFailure{seed, result.Violations, f.replay(seed)})
		}
	}
	report.Clean = report.Failed == 0
	if f.shrink && !report.Clean {
		report.Smallest = c.simShrink(r, report.Failures[0].Seed)
	}
	report.Seconds = time.Since(began).Seconds()
	print := (*simReport).print
	if f.json {
		print = (*simReport).printJSON
	}
	if err := print(&report, c.stdout); err != nil {
		return c.fail(err)
	}
	if !report.Clean {
		return exitFail
	}
	return exitOK
}

// replay is the command that shows one seed.
func (f simFlags) replay(seed uint64) string {
	data := ""
	if f.data != "" {
		data = " --data " + f.data
	}
	return fmt.Sprintf("millrace sim %s --seed %d%s --trace", f.file, seed, data)
}

// simShrink is the smallest schedule, with what it breaks.
func (c *call) simShrink(r *sim.Runner, seed uint64) []string {
	fmt.Fprintf(c.stderr, "%s: shrinking seed %d\n", c.name, seed)
	small := r.Shrink(sim.NewSchedule(r.Pipeline, seed))
	lines := strings.Split(strings.TrimRight(small.String(), "\n"), "\n")
	for _, v := range r.Run(small).Violations {
		lines = append(lines, v.String())
	}
	return lines
}

func (r *simReport) printJSON(w io.Writer) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(r)
}

func (r *simReport) print(w io.Writer) error {
	answer := "clean"
	if !r.Clean {
		answer = fmt.Sprintf("%s of %d broke the promise", count(r.Failed, "schedule"), r.Runs)
	}
	n := r.Counts
	_, err := fmt.Fprintf(w, "%s: %s: %d schedules, %d records, %d crashes, %d zombies, %d steals, %d splits, %d merges, %d lost replies, "+
		"%d commits, %d half commits, %d fenced commits, %d writes set aside, %d violations, %.1f s\n", r.Pipeline, answer, r.Runs, n.Events, n.Crashes, n.Zombies, n.Steals,
		n.Splits, n.Merges, n.LostReplies, n.Commits, n.HalfCommits, n.Fenced, n.Aside, r.Failed, r.Seconds)
	for _, f := range r.Failures {
		fmt.Fprintf(w, "seed %d: %s\n", f.Seed, f.Violations[0])
		if more := len(f.Violations) - 1; more > 0 {
			fmt.Fprintf(w, "  and %d more\n", more)
		}
		fmt.Fprintf(w, "  replay: %s\n", f.Replay)
	}
	if more := r.Failed - len(r.Failures); more > 0 {
		fmt.Fprintf(w, "and %s more\n", count(more, "schedule"))
	}
	if len(r.Smallest) > 0 {
		fmt.Fprintf(w, "the smallest schedule found that breaks it like seed %d:\n", r.Failures[0].Seed)
		for _, line := range r.Smallest {
			fmt.Fprintf(w, "  %s\n", line)
		}
	}
	return err
}
