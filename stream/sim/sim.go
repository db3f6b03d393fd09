// Package sim runs a pipeline in a world that is all made up, again and again, and lets go wrong in it what can: crashes,
// zombies, stolen leases, splits and merges, lost replies, sinks that fail or are slow. After each run it says whether the promise was kept.
//
// Real are the engine (package stream, unchanged), the decoder and the processors of the user's pipeline file, the conditions of
// its sinks, and the code that sets aside and drains the writes of a sink with on_stall: spool (Spool, handed in, with the loop
// of the upsert sinks below it). Made up are the source, the sinks' servers and stores, the dead letters and the clock: nothing outside
// of the process is touched.
//
// Read schedule.go first (what happens), then world.go (how a call takes effect or not), source.go, sinks.go and spool.go (what
// there is outside of a process), check.go (what has to come of it), and shrink.go.
//
// # One seed, one run
//
// A seed makes the same run every time, on every machine. The engine uses goroutines and package time, so a run takes place
// in a bubble of testing/synctest, whose clock goes on only when every goroutine waits for something. Three things make it repeatable:
//
//   - What goes wrong with a call, and how long it takes, is a function of the seed and of which call it is (Call), not of
//     a stream of random numbers that is drawn from in the order of calls.
//   - Every actor has its own nanosecond in each quantum of the clock, at which its calls take effect. No two effects share a
//     moment, so it does not matter in which order the Go runtime wakes goroutines or fires timers of one moment (it does that at random).
//     What goroutines do within a moment is to process records and to set out with the next calls.
//   - Where the engine itself was free to choose, it is so no more: the random part of its back-off comes from stream.Config.Jitter,
//     and where a select had several things to take, the end goes first, and then a commit that is due.
//
// So neither GOMAXPROCS nor preemption change a run, and many runs may go on in one process at once. What is left to chance: the names of
// overflow objects (crypto/rand), which nothing depends on. Whoever hands a Spool in gives each partition a loop of its own: which writes
// of two partitions meet in one lane is up to the Go runtime.
//
// # What is not simulated
//
// The code of the sources and of the sinks but the spool's: they have suites of their own (sourcetest, sinktest) and the crash tests.
// An upsert sink takes rows by their identity; that of a key's rows the newest wins is its server's rule. Memory that runs short, and the
// parts of a large file: the records of a run never fill them. Retention: the log keeps everything. A fatal error, after which a run
// ends by itself. The dead letters of an ended shard's writes that were set aside and refused: such a file stays, for an operator.
package sim

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/millrace-io/millrace/stream"
)

// Pipeline is what is simulated. It is read only, and may be used by many runs at once; what its functions return is used by one.
type Pipeline struct {
	Name       string
	Schema     *stream.Schema
	Decoder    func() stream.Decoder
	Processors []stream.ProcessorConfig
	Sinks      []Sink // at least one

	// Input is record n of the run with a seed: Value, and Key and Headers if the log would have any. Position and time are
	// filled in. The same arguments give the same record.
	Input func(seed uint64, n int) stream.Record
}

// Sink stands for a sink of the pipeline file.
type Sink struct {
	Name   string
	Where  func(*stream.Event) bool // nil: every event
	Upsert bool                     // written ahead of the commit, by identity; else in two phases

	// Joined: what an upsert sink is written is in a transaction that the commit ends, and nobody sees it before. It cannot be set aside.
	Joined bool

	// Spool is what sets the writes of an upsert sink aside while its server does not take them: on_stall: spool. nil: the
	// commit waits.
	Spool Spool
}

func (p *Pipeline) sinkNames() []string {
	names := make([]string, 0, len(p.Sinks)+1)
	for _, s := range p.Sinks {
		names = append(names, s.Name)
	}
	return names
}

func (p *Pipeline) spoolNames() []string {
	var names []string
	for _, s := range p.Sinks {
		if s.Spool != nil {
			names = append(names, s.Name)
		}
	}
	return names
}

// Counts is what happened in a run, or in many.
type Counts struct {
	Events      int `json:"events"` // records of the log
	Crashes     int `json:"crashes"`
	Zombies     int `json:"zombies"` // processes that woke after another one had taken a shard of theirs
	Steals      int `json:"steals"`
	Splits      int `json:"splits"`
	Merges      int `json:"merges"`
	LostReplies int `json:"lost_replies"`
	Commits     int `json:"commits"`
	Fenced      int `json:"fenced"`       // commits that were refused
	Staged      int `json:"staged"`       // files
	HalfCommits int `json:"half_commits"` // files that another process published than had staged them: half commits
	Expired     int `json:"expired"`      // times that all staged data was removed
	Aside       int `json:"aside"`        // writes that were set aside
}

// Add adds other to c.
func (c *Counts) Add(other Counts) {
	c.Events += other.Events
	c.Crashes += other.Crashes
	c.Zombies += other.Zombies
	c.Steals += other.Steals
	c.Splits += other.Splits
	c.Merges += other.Merges
	c.LostReplies += other.LostReplies
	c.Commits += other.Commits
	c.Fenced += other.Fenced
	c.Staged += other.Staged
	c.HalfCommits += other.HalfCommits
	c.Expired += other.Expired
	c.Aside += other.Aside
}

// Rule is the part of the promise that was broken.
type Rule string

const (
	Missing     Rule = "missing"     // a row that has to be there is not, at the end
	Twice       Rule = "twice"       // a row is there twice, at any moment
	Wrong       Rule = "wrong"       // a row that nothing asked for, or that says something else than its record
	Order       Rule = "order"       // a record is visible before an earlier one of its key; with a spool, of its key and shard
	Uncommitted Rule = "uncommitted" // a file or a row of a transaction is visible that no commit covers, at any moment: a zombie's
	Behind      Rule = "behind"      // a commit covers a record that an upsert sink has not got, and its spool neither
	Unverified  Rule = "unverified"  // verify finds a problem, or its counts are not right
	Stuck       Rule = "stuck"       // the work does not end, or a process does not, or it ends with an error
	Crashed     Rule = "crashed"     // the engine panics
)

// Violation is one way in which the promise was broken.
type Violation struct {
	Rule     Rule            `json:"rule"`
	Sink     string          `json:"sink,omitempty"`
	Shard    string          `json:"partition,omitempty"`
	Position stream.Position `json:"position"`
	Text     string          `json:"text"`
}

func (v Violation) String() string {
	var where []string
	if v.Shard != "" {
		where = append(where, v.Shard, "record "+v.Position.String())
	}
	if v.Sink != "" {
		where = append(where, "sink "+v.Sink)
	}
	if where == nil {
		return v.Text
	}
	return strings.Join(where, ", ") + ": " + v.Text
}

// Result is what came of a run.
type Result struct {
	Counts     Counts
	Violations []Violation // at most 20; empty: the promise was kept
	Went       []Call      // what went wrong
	Trace      []string    // what took effect, in order, if it was asked for
	Sum        uint64      // of the whole trace; the same for the same schedule
}

// Runner runs schedules of a pipeline. It is safe for concurrent use.
type Runner struct {
	Pipeline *Pipeline
	Trace    bool // keep what happens, for people

	breakage breakage
}

// Run runs one schedule.
//
// synctest wants a test. It asks nothing of it but where to report a failure, and no failure is reported to it here, so the zero T
// does; TestRunNeedsNoTestBinary sees to it that this stays so.
func (r *Runner) Run(s *Schedule) (result *Result) {
	result = new(Result)
	defer func() { // synctest's word for goroutines that wait for each other for ever
		if p := recover(); p != nil {
			result.Violations = append(result.Violations, Violation{Rule: Stuck, Text: fmt.Sprintf("the run ended with a panic: %v", p)})
		}
	}()
	synctest.Test(new(testing.T), func(*testing.T) {
		w := newWorld(r.Pipeline, s, r.breakage, r.Trace)
		w.drive()
		w.mu.Lock()
		defer w.mu.Unlock()
		slices.SortFunc(w.went, compareCalls)
		slices.SortStableFunc(w.violations, compareViolations)
		*result = Result{Counts: w.count, Violations: w.violations, Went: w.went, Trace: w.trace.lines(), Sum: w.trace.sum}
	})
	return result
}

// Validate says whether the pipeline can be simulated.
func (p *Pipeline) Validate() error {
	if len(p.Sinks) == 0 {
		return errors.New("the pipeline has no sink")
	}
	spools := len(p.spoolNames())
	if p.spoolLane(spools) > tendLane || spools >= mostSpools {
		return fmt.Errorf("the pipeline has %d sinks, %d of them with a spool; the simulator has no room for so many", len(p.Sinks), spools)
	}
	return nil
}

// spoolLane is the first lane of spool number n. Before them are those of the receipts.
func (p *Pipeline) spoolLane(n int) int { return 1 + (len(p.Sinks)+1)*filesPerCommit + n*spoolLanes }
