package stream

import "context"

// Lake reads back the committed events, for a Checker. It is what a staged sink that takes all events holds.
type Lake interface {
	// Committed is up to where the events of a partition are in the lake; false: none of them is.
	Committed(partition string) (Position, bool)

	// Events calls visit with every event that the sink was given, of all partitions, those of one file in the order of the
	// log. The event is valid until visit returns. It may be called again.
	Events(ctx context.Context, visit func(partition string, e *Event) error) error

	// Counts is how many events there are by partition, from what the files say about themselves; false: only Events tells.
	Counts() (map[string]int64, bool)

	// Refused says that the sink refused an event of this record for good: it stands in the dead letters.
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
