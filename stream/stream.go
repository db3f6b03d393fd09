// Package stream is the contract between sources, processors and sinks, and the engine that carries records from one
// source to all sinks exactly once.
//
// Read this file first, then event.go (what a record becomes), sink.go (where it goes), worker.go and commit.go (the
// promise). The package imports only the standard library; everything else in this repository points at it.
//
// The promise: every record that a source delivered is, after any crash, rebalance or reshard, reflected exactly once
// in every sink, or stands in the dead letters with its position, stage and error. Order per key is kept.
package stream

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Position is a place in one partition. Comparing two positions of one partition as bytes gives log order, and a record
// that is delivered again has the same position.
//
// Kafka: the offset (8 bytes, big-endian). NATS: the stream sequence (8 bytes). Files: byte offset in the decompressed
// file (8 bytes). Kinesis: sequence number (24 bytes), sub-record index (4), number of sub-records - 1 (4).
// The zero Position is a valid place (Kafka's offset 0); "nothing yet" is said apart (a bool beside it, or First).
type Position [32]byte

// OffsetPosition makes a Position of a 64-bit offset or sequence.
func OffsetPosition(n uint64) Position {
	var p Position
	binary.BigEndian.PutUint64(p[:8], n)
	return p
}

// Offset returns what OffsetPosition was given.
func (p Position) Offset() uint64 { return binary.BigEndian.Uint64(p[:8]) }

// before is the largest position below p; the zero Position for itself.
func (p Position) before() Position {
	if p == (Position{}) {
		return p
	}
	for i := len(p) - 1; ; i-- {
		p[i]--
		if p[i] != 0xff {
			return p
		}
	}
}

// Compare is -1, 0 or 1 as p is before, at or after q in the log.
func (p Position) Compare(q Position) int { return bytes.Compare(p[:], q[:]) }

// String is the one text form of a position, in files, logs and dead letters alike: lower-case hexadecimal without
// trailing zero bytes, at least 16 digits, so that text order is log order.
func (p Position) String() string {
	var text [64]byte
	return string(p.AppendText(text[:0]))
}

// AppendText appends String to b.
func (p Position) AppendText(b []byte) []byte {
	n := len(p)
	for n > 8 && p[n-1] == 0 {
		n--
	}
	return hex.AppendEncode(b, p[:n])
}

// MarshalText makes JSON show a position as its String.
func (p Position) MarshalText() ([]byte, error) { return p.AppendText(nil), nil }

// UnmarshalText reads what MarshalText wrote.
func (p *Position) UnmarshalText(text []byte) error {
	q, err := ParsePosition(string(text))
	*p = q
	return err
}

// ParsePosition reads what String wrote.
func ParsePosition(s string) (Position, error) {
	var p Position
	if len(s) < 16 || len(s) > 64 {
		return p, fmt.Errorf("position %q has %d digits; want 16 to 64", s, len(s))
	}
	if _, err := hex.Decode(p[:], []byte(s)); err != nil {
		return Position{}, fmt.Errorf("position %q: %w", s, err)
	}
	return p, nil
}

// Header is one of a record's headers. Its bytes are read-only.
type Header struct {
	Key   string
	Value []byte
}

// Record is one message as the source delivered it. Its bytes are read-only and shared; whoever keeps them copies them.
type Record struct {
	Key     []byte // nil when the log has no key
	Value   []byte
	Headers []Header
	Pos     Position
	Time    time.Time // when the log took the record, by the log's clock; zero when the log does not know (files)
	Err     error     // not nil: the source could not decode it; the record becomes a dead letter of stage "source"
}

// Checkpoint is what one commit stores, atomically.
type Checkpoint struct {
	Pos  Position // every record of the partition up to and with Pos is done
	Note []byte   // the engine's; at most NoteLimit bytes; a source stores and returns it unread
}

// NoteLimit is the most bytes that Checkpoint.Note has. Kafka's offset metadata holds 4,096 with the source's own part.
const NoteLimit = 3 << 10

// Validate says that the note is too long, which no repetition mends. A source asks before it stores c.
func (c Checkpoint) Validate() error {
	if len(c.Note) > NoteLimit {
		return Fatal(fmt.Errorf("the note has %d bytes; at most %d fit", len(c.Note), NoteLimit))
	}
	return nil
}

// Source reads one log and hands its partitions to the engine.
type Source interface {
	// Run owns partitions until ctx ends, and calls assigned once for each tenure: one owner's time with one partition.
	// A partition is assigned only after all its parents have Ended, and never twice at once. Calls of assigned may be
	// concurrent for different partitions. If assigned fails, Run releases everything and returns that error.
	//
	// When ctx ends, Run stops reading, calls Drain(Handoff) on every Consumer, releases ownership and returns nil. A finite
	// source returns nil when every partition has Ended. Any other return is an error; ErrRetention when records between
	// the committed position and the oldest one that is left are gone. Run returns only when no goroutine of its own is left.
	Run(ctx context.Context, assigned func(Assignment) (Consumer, error)) error

	// Checkpoints returns what is committed, by partition, without owning anything. Verify calls it.
	Checkpoints(ctx context.Context) (map[string]Checkpoint, error)
}

// Overview is what a Source may tell beside its contract.
type Overview interface {
	// Unowned is how many partitions have work and no owner, in any process; -1: not known yet. It is safe for concurrent use.
	Unowned() int
}

// Contact is what a Source may tell of its servers beside its contract.
type Contact interface {
	// Failing is why calls to the servers fail at present, and since when; empty and zero while they succeed. It is safe for
	// concurrent use.
	Failing() (why string, since time.Time)
}

// Assignment is one tenure of one partition in this process. The source implements it; all methods are safe for
// concurrent use.
type Assignment interface {
	// Partition names the partition within the source, the same at every owner: "clicks-3", "logs/2010-12-01.csv.gz".
	Partition() string

	// Epoch is the fencing token: larger for every later owner of the partition.
	Epoch() uint64

	// Committed is what the last owner left; false when nobody ever committed.
	Committed() (Checkpoint, bool)

	// Commit stores c for this tenure, atomically. It fails with ErrLost, and stores nothing, when another owner has taken
	// the partition. After any other error the outcome is unknown and the engine calls Commit again with the same c: a
	// commit that turns out to be stored already is success. Positions never go back within a tenure (its first may be before
	// Committed: see Consumer.Start); the same position may be committed again with another Note.
	Commit(ctx context.Context, c Checkpoint) error

	// Done is closed when ownership is gone.
	Done() <-chan struct{}

	// Lag is how far the last delivered record is behind the end of the partition: in records, and in time since it was
	// written. -1 where the source cannot know.
	Lag() (records int64, age time.Duration)
}

// Consumer is the engine's side of one tenure. The source calls Start once, then Deliver from one goroutine at a time;
// Drain and Abort end the tenure and may be called while Deliver blocks.
type Consumer interface {
	// Start says where to deliver from: all records after the returned position, at which there need not be a record. False:
	// from where the source is configured to start. It is mostly what Committed returned, but earlier after staged data was
	// lost, so a source asks here and never seeks to Committed by itself. Start blocks while what the last owner committed is
	// published; call it from the goroutine that delivers.
	Start() (after Position, ok bool)

	// Deliver hands over records in log order. The engine owns the slice and its bytes from then on. Blocking is the
	// back-pressure, on this partition only. An error says that the tenure is over (ErrLost, or the engine stops):
	// the source stops delivering and goes on to Drain or Abort.
	Deliver(ctx context.Context, rs []Record) error

	// Drain commits everything that was delivered, while the partition is still owned, and ends the tenure. The source
	// releases the partition (Handoff) or records its end (Ended) only after Drain returned nil; on an error it lets
	// ownership lapse without recording anything. No Deliver may start after Drain.
	Drain(ctx context.Context, why Why) error

	// Abort ends the tenure of a partition that is lost already. After it returns this tenure writes to no sink any more.
	Abort()
}

// Why a tenure is drained.
type Why int

const (
	Handoff Why = iota // another owner, or a later run, continues: rebalance, shutdown
	Ended              // the partition has no further records, ever: a closed shard, the end of a finite file
)

var (
	// ErrLost says that another owner has the partition. The tenure ends without a trace; the new owner continues from
	// the last commit.
	ErrLost = errors.New("partition is owned by another worker")

	// ErrRetention says that records after the committed position are no longer in the log. The run ends: going on would be
	// a silent loss. It is wrapped with the range.
	ErrRetention = errors.New("records after the checkpoint are no longer in the log")

	// ErrExpired says that staged data is gone (an upload that the bucket's lifecycle removed) and was never published.
	// The engine reads its records again from the source.
	ErrExpired = errors.New("staged data is gone")
)

// FatalError marks an error that no retry mends (wrong credentials, a bucket that does not exist). The run ends with it
// and nothing is committed past it.
type FatalError struct{ Err error }

func (e *FatalError) Error() string { return e.Err.Error() }
func (e *FatalError) Unwrap() error { return e.Err }

// Fatal wraps err as a FatalError; nil stays nil.
func Fatal(err error) error {
	if err == nil {
		return nil
	}
	return &FatalError{err}
}
