// Package sourcetest is the specification of a source. A source is right when Run passes for it, in process and on the
// real server alike.
//
// Its consumer is a small engine: it stages what it was given, commits a checkpoint that names the staged file, publishes
// the file, and publishes again what the last owner committed. So a record that is lost, doubled or out of order anywhere
// between two owners shows up in the lake that all workers of a test share.
package sourcetest

import (
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/network"
)

// Backend is one kind of log, for one source. Cases run concurrently and each makes its own log.
type Backend struct {
	Features Features

	// New makes an empty log of so many partitions, with ownership and checkpoints of its own, and removes it with
	// t.Cleanup. It fails t when the server is missing.
	New func(t *testing.T, partitions int) Log

	// NotOurs are goroutines of the server that the backend runs in this process; they do not count as left by the source.
	NotOurs []goleak.Option
}

// Features says what the source does. It selects what the suite expects; nothing is skipped.
type Features struct {
	// Finite: partitions end. Run delivers what the log holds when Run begins, drains each partition with Ended and
	// returns nil. The suite appends nothing while a worker of a finite source runs.
	Finite bool

	Sharing Sharing

	// Retention: Trim works, and a checkpoint older than the oldest record ends Run with stream.ErrRetention.
	Retention bool

	// TellsGaps: the source knows when nothing is missing between a committed record that is gone and the oldest one that is
	// left. Else it takes that for a gap.
	TellsGaps bool

	// Resharding: partitions split and merge; the Log is a Resharder.
	Resharding bool

	// Remote: it reaches its servers over networks and says how they are; the Log is a Remote, the Source a stream.Contact.
	Remote bool

	Keys    bool // Record.Key is Message.Key; else it is nil
	Keyed   bool // the log takes no record without a key; the suite appends none
	Headers bool // Record.Headers are Message.Headers, in order; else there are none
	Times   bool // Record.Time is when the log took the record; else it is zero
	Lag     bool // Assignment.Lag knows the records; else it returns -1

	// Empty: the log can hold a record of 0 bytes. Else appending one leaves no record behind.
	Empty bool

	// Largest is the most bytes of a value that the log takes, as far as the suite goes. 0 is 1 MiB.
	Largest int

	// Binary: values may hold any byte. Else the suite appends JSON texts without line breaks.
	Binary bool

	// Lapse is how long a worker that went silent keeps its partitions. 0 for Exclusive.
	Lapse time.Duration
}

// Sharing is how several workers divide the partitions of one log.
type Sharing int

const (
	Exclusive Sharing = iota // one worker has all partitions; until its Run returned, another one waits or its Run fails
	TakeOver                 // a partition moves only when its owner stopped or vanished
	Balanced                 // and a new worker gets its part from the running ones, by hand-off
)

// Message is one record as it is appended. Its bytes are read-only.
type Message struct {
	Key, Value []byte
	Headers    []stream.Header
}

// Log is one log with its ownership and checkpoints. Partitions are numbered from 0. Methods fail t on errors and are
// called from one goroutine at a time.
type Log interface {
	// Partition is what Assignment.Partition returns for partition i.
	Partition(i int) string

	// Append adds messages to partition i, in order, and returns when a worker can read them.
	Append(t *testing.T, i int, ms ...Message)

	// Trim removes the oldest n records of partition i, counted from the first that was ever appended. It is called only
	// with Features.Retention.
	Trim(t *testing.T, i, n int)

	// Open makes a worker on this log; its Run is called once, or never. Several live at the same time. A worker starts
	// at the oldest record where nothing is committed, and has the shortest time-outs that the server allows.
	Open(t *testing.T) *Worker
}

// Resharder is a Log whose partitions split and merge. What was appended to the old partition comes before what is appended to
// the new ones.
type Resharder interface {
	Log

	// Split ends partition i. Two new ones follow it, with the next numbers.
	Split(t *testing.T, i int)

	// Merge ends partitions i and j, which Split made. A new one follows them, with the next number.
	Merge(t *testing.T, i, j int)
}

// Remote is a Log on servers that a worker may be far from.
type Remote interface {
	Log

	// Far is Open for a worker with networks of its own, one to each server.
	Far(t *testing.T) (*Worker, []*network.Proxy)
}

// Worker is a source as one process has it, with the faults that its outside can have.
type Worker struct {
	Source stream.Source // a stream.Rereader too

	// Sever cuts the worker off from its servers for good, without a word to them: the others see a process that was
	// killed. nil: the source has no servers, and its crash is a Run whose Drains failed.
	Sever func()

	// Freeze makes every outside call of the worker hang, as in a stopped process or behind a dead link; Thaw lets them go
	// on. Both nil: the source has no outside calls that can hang.
	Freeze, Thaw func()

	// LoseReply makes the reply to the next commit get lost: the store has it, and Commit fails or finds that out by itself.
	// nil: cannot happen.
	LoseReply func()
}

// Run runs the suite. Call it from a test of the source's package, whose TestMain verifies that no goroutine is left.
func Run(t *testing.T, b Backend) {
	t.Run("leaves no goroutine", func(t *testing.T) { leavesNoGoroutine(newScene(t, b, 2), b.NotOurs) }) // alone, before the parallel ones
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, atOnce)
	for _, c := range cases() {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			t.Run(c.rule, func(t *testing.T) { c.test(newScene(t, b, c.partitions)) })
		})
	}
}

// atOnce is how many cases run at a time. They mostly wait for time-outs of servers, so it is not the number of processors.
const atOnce = 8
