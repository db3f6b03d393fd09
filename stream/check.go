package stream

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// Lake reads back the committed events, for a Checker. It is what a staged sink that takes all events holds.
type Lake interface {
	// Committed is up to where the events of a partition are in the lake; false: none of them is.
	Committed(partition string) (Position, bool)

	// Events calls visit with every event that the sink was given, of all partitions, those of one file in the order of the
	// log. The event is valid until visit returns. It may be called again.
	Events(ctx context.Context, visit func(partition string, e *Event) error) error

	// Counts is how many events there are by partition, from what the files say about themselves; false: only Events tells, but
	// these are the partitions.
	Counts() (map[string]int64, bool)

	// Refused says that the sink need not have all events of this record, and may have some: it refused one for good, which stands
	// in the dead letters, or they are on their way from there.
	Refused(partition string, pos Position) bool
}

// Checker is implemented by an upsert sink that can be compared with the lake.
type Checker interface {
	// Check compares what readers of the sink find with the lake. Without deep it may count, or look at a sample; with deep
	// it compares everything. What is ahead of the lake is not wrong: an upsert sink is written before the commit.
	Check(ctx context.Context, l Lake, deep bool) (SinkReport, []Problem, error)
}

// SinkReport is what a Checker looked at.
type SinkReport struct {
	Sink     string   `json:"sink"`
	Expected int64    `json:"expected"` // rows that the lake says there are, of those that were looked at
	Found    int64    `json:"found"`    // of them
	How      string   `json:"how"`      // "every id", "a sample of 1 in 16 items"
	Notes    []string `json:"notes,omitempty"`
}

// Problem kinds of a Checker beside Missing.
const (
	Extra   ProblemKind = "extra"   // a row that no committed event made
	Differs ProblemKind = "differs" // a row that has other values than its event
)

// Ahead says that a row, by its _partition and _position, is of an event that need not be in the lake yet. A _position that cannot
// be read is of none.
func Ahead(l Lake, partition, version string) bool {
	place, err := ParseVersion(version)
	if err != nil {
		return false
	}
	to, any := l.Committed(partition)
	return !any || place.Pos.Compare(to) > 0 || l.Refused(partition, place.Pos)
}

// Problems collects what a Checker finds in one sink. The zero value of all but Sink is ready to use.
type Problems struct {
	Sink string

	list   []Problem
	counts map[ProblemKind]int
}

// shown is how many problems of one kind are named; the others are counted.
const shown = 20

// Add adds a problem; the partition may be empty.
func (p *Problems) Add(kind ProblemKind, partition, format string, args ...any) {
	if p.counts == nil {
		p.counts = map[ProblemKind]int{}
	}
	if p.counts[kind]++; p.counts[kind] <= shown {
		p.list = append(p.list, Problem{Kind: kind, Sink: p.Sink, Partition: partition, Text: fmt.Sprintf(format, args...)})
	}
}

// All is the problems that are named, and a line of each kind that has more.
func (p *Problems) All() []Problem {
	out := slices.Clone(p.list)
	for _, kind := range slices.Sorted(maps.Keys(p.counts)) {
		if more := p.counts[kind] - shown; more > 0 {
			out = append(out, Problem{Kind: kind, Sink: p.Sink, Text: fmt.Sprintf("and %d more", more)})
		}
	}
	return out
}
