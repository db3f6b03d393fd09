// Package dlq brings dead letters back: it keeps the account of what was replayed, and is the source of what is to be.
//
// A replay is a Run. It has a number and a fixed list of letters, those that no run before it has, so a letter is replayed
// once whoever asks for it how often. A run whose process died is gone on with, from its checkpoints, before the next begins.
//
// Where a letter goes (see Aim):
//
//   - One that no sink has seen, of stage decode or process, goes through the pipeline into all sinks. Its files and
//     checkpoint are of a partition of their own, "dlq-000003/all/clicks-3".
//   - One that a sink refused goes through the pipeline into that sink alone, since the others have it. The checkpoint is that of
//     "dlq-000003/sink.search/clicks-3".
//   - One that the source could not read (stage source) is not replayed: its bytes are no record.
//
// A sink that is written ahead of the commit is given the event as one of clicks-3, with the position that it had: a position
// says which of two events of a key is the later one, and that does not change by a detour.
//
// Everything is kept beside the dead letters, in <pipeline>/_millrace/dlq/ of their store:
//
//	000003.json                        the run's list
//	000003/<partition>/00000002.json   its checkpoints, numbered
//	000003.done                        there is nothing left to do
//
// A store has no compare-and-swap, but it refuses to publish an object where another one is. So a list and a checkpoint are
// objects that are created and never replaced, and the number that is free next is the fence: who finds it taken has lost.
package dlq

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/millrace-io/millrace/sinks/deadletter"
)

// Unreadable is the stage of letters that are not replayed.
const Unreadable = "source"

const sinkStage = "sink."

// replayed is the name of a partition of a run.
var replayed = regexp.MustCompile(`^dlq-(\d{6,})/(?:all|sink\.([^/]+))/((?s).+)$`)

// Partition is where a run reads letters of a partition of the source, for one sink, or for all of them when sink is empty.
func Partition(run int, sink, origin string) string {
	to := "all"
	if sink != "" {
		to = sinkStage + sink
	}
	return fmt.Sprintf("dlq-%06d/%s/%s", run, to, origin)
}

// ParsePartition reads what Partition wrote; false for a partition that is no run's.
func ParsePartition(partition string) (run int, sink, origin string, ok bool) {
	m := replayed.FindStringSubmatch(partition)
	if m == nil {
		return 0, "", "", false
	}
	run, err := strconv.Atoi(m[1])
	return run, m[2], m[3], err == nil
}

// Origin is the partition of the source that the records of a partition are of: its own name, or what a run replays.
func Origin(partition string) string {
	if _, _, origin, ok := ParsePartition(partition); ok {
		return origin
	}
	return partition
}

// Aim says which sink a letter's record has not reached; empty: none has it. partition is the source's. A letter of a run that
// failed again aims where its run did.
func Aim(l *deadletter.Letter) (sink, partition string) {
	_, sink, _, _ = ParsePartition(l.Partition)
	if sink == "" && strings.HasPrefix(l.Stage, sinkStage) {
		sink = strings.TrimPrefix(l.Stage, sinkStage)
	}
	return sink, Origin(l.Partition)
}
