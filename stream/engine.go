package stream

import (
	"context"
	"log/slog"
	"time"
)

// Config is a pipeline ready to run. cmd/millrace/wire.go makes it of a pipeline file.
type Config struct {
	Name    string // of the pipeline; part of every file's provenance
	Schema  *Schema
	Decoder func() Decoder // called once per tenure

	Processors []ProcessorConfig // in order

	Sinks       []Sink // at least one
	DeadLetters Staged[*DeadLetter]
	Overflow    Overflow // for receipts that outgrow the Note

	DeadLimit DeadLimit // when to give up

	Memory     int64         // bytes of all buffers together; default 256 MiB
	CommitAge  time.Duration // longest that a record waits for its commit; default 60 s
	CommitIdle time.Duration // commit when nothing arrived for so long; default 20 s
	Deadline   time.Duration // of one attempt of one outside call; default 60 s
	StallAfter time.Duration // work without progress for so long makes Healthy fail; default 5 min

	// Tap sees every batch after the processors, before the sinks: the live page, millrace tap. It must be quick, and copy
	// what it keeps. nil: none.
	Tap func(partition string, kept []*Event, dead []*DeadLetter)

	// Jitter is the random part of a back-off: a duration from 0 to less than most. The simulator takes it from its seed. Safe for
	// concurrent use; nil: math/rand/v2.
	Jitter func(most time.Duration) time.Duration

	Log *slog.Logger
}

// ProcessorConfig makes one step's processor for each tenure. A Processor that is a State too has it kept with the position.
type ProcessorConfig struct {
	Name string // unique: "process.<number from 1>.<kind>"
	New  func() Processor
}

// Sink is one entry of the pipeline file's sinks. Either Staged or Upsert is set.
type Sink struct {
	Name   string
	Where  func(*Event) bool // nil: every event
	Staged Staged[*Event]
	Upsert Upsert
}

// Overflow keeps receipts that do not fit into the Note. Names have no slashes.
type Overflow interface {
	Put(ctx context.Context, name string, data []byte) error
	Get(ctx context.Context, name string) ([]byte, error)
	Delete(ctx context.Context, name string) error
}

// Stats is the state of a running engine, for the metrics, the health checks and the live page. Counters count from the
// start of the process.
type Stats struct {
	Records, Bytes      uint64            // delivered by the source
	Kept, Dropped, Dead uint64            // records by fate; they add up to the records that were processed
	DeadByStage         map[string]uint64 // records
	Rows                map[string]uint64 // events handed to each sink
	Retries             map[string]uint64 // failed attempts by call: "lake.stage", "lake.publish", "commit"
	Commits             uint64
	CommitSeconds       Histogram // from the decision to commit until everything was published
	StagedBytes         uint64    // of published files
	Budget, Buffered    int64     // bytes: Config.Memory, and what is in use of it
	Unowned             int       // partitions without an owner, in any process; -1: the source does not know
	Partitions          []PartitionStats
	SourceFailing       string               // why the source's servers cannot be used at present; empty while they can, or if it cannot tell
	SourceFailingSince  time.Time            // zero while they can
	Sinks               map[string]SinkStats // of the upsert sinks that have some
}

// SinkStats is how the writes of one upsert sink go, over all partitions. Counters count from the start of the process.
type SinkStats struct {
	Requests, Failed           uint64    // a request fails as a whole, or for each of its writes
	Written, Refused, Repeated uint64    // writes: taken, refused for good, sent again
	Waiting                    int       // writes that are not acknowledged
	WaitingBytes               int64     // heap that they hold
	LastWrite                  time.Time // when the server last took or refused a write; zero before the first
	Failing                    string    // the last error while nothing succeeds; empty else
	FailingSince               time.Time
	WriteSeconds               Histogram // from a write's arrival at the sink to its acknowledgement
	Spool                      *SpoolStats
}

// SpoolStats is what of a sink's writes is set aside; a sink without a spool has none.
type SpoolStats struct {
	Spooling bool      // of some partition, new writes are set aside
	Spooled  uint64    // writes that were set aside so far
	Drained  uint64    // writes that came back from the spool so far
	Files    int       // that wait
	Bytes    int64     // of those files
	Oldest   time.Time // when the oldest of them was made; zero when none waits
	Failing  string    // why one of them could not be drained; empty once it could
}

// Histogram counts durations: Counts[i] are those of at most Bounds[i] seconds, not cumulative; the last count has no bound.
type Histogram struct {
	Bounds []float64
	Counts []uint64
	Sum    float64 // seconds
}

// PartitionStats is one tenure's state.
type PartitionStats struct {
	Partition     string
	Epoch         uint64
	Assigned      time.Time
	Recovered     bool          // what the last owner committed is published
	Delivered     Position      // last processed record; zero before the first
	Committed     Position      // zero before the first commit
	LastCommit    time.Time     // zero before the first of this tenure
	Oldest        time.Time     // when the oldest uncommitted record arrived here; zero for none
	Watermark     time.Time     // zero before the first event
	LagRecords    int64         // -1: the source cannot know
	LagAge        time.Duration // -1: the source cannot know
	Buffered      int64         // bytes
	Retrying      string        // the call that fails at present, with its last error; empty for none
	RetryingSince time.Time
}
