package stream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// Decoder turns records into events. One decoder serves one partition, from one goroutine; it may keep scratch memory and
// bounded caches but no state that changes what a record becomes.
type Decoder interface {
	// Decode appends the events of r to b: one, or several if the record holds an array. An error is final for the record,
	// which becomes a dead letter of stage "decode"; what was appended before is taken back. r.Value is not nil-checked:
	// an empty value is an error like any other.
	Decode(r *Record, b *Batch) error
}

// Processor changes, drops or fails events in place. One processor serves one partition, from one goroutine.
// It is a function of the events and, if it is a State, of that: no wall clock, no random numbers, so that a replay makes the same bytes.
type Processor interface {
	// Process handles every event of b that is Alive. An error for one event is Event.Fail and final for its record. A
	// returned error is about the processor's own means (a Lambda that does not answer): the engine calls Process again with
	// the same, unchanged batch, so a processor changes events only when it can no longer fail.
	Process(ctx context.Context, b *Batch) error
}

// State is implemented by a Processor that keeps something between events. The engine commits it with the position: a new
// owner restores exactly what the last commit saw. It is used from the worker's goroutine.
type State interface {
	// Restore is called once, before the first event, with what the last commit's Snapshot returned; nil for none.
	Restore(ctx context.Context, t Tenure, reference []byte) error

	// Snapshot makes the state after all events so far durable and returns a reference to it, at most 256 bytes, for the
	// Note. It may be called again for the same state when a commit is retried.
	Snapshot(ctx context.Context) (reference []byte, err error)
}

// Tenure names for whom a sink opens a writer.
type Tenure struct {
	Pipeline  string
	Sink      string // name of the sink in the pipeline file; DeadLetters for the dead letters
	Partition string
	Epoch     uint64
	Schema    *Schema
}

// DeadLetters is the sink name under which dead letters are counted and stored.
const DeadLetters = "dead_letters"

// Staged is a sink in two phases: data is made durable but invisible (Stage), and visible only after the commit (Publish).
// T is *Event for a sink of the pipeline file and *DeadLetter for the dead letters. Methods are safe for concurrent use.
//
// Errors of all methods: a FatalError ends the run; ErrExpired from Publish makes the engine read the records again; any
// other error is retried with back-off for ever, each attempt with a deadline on its context.
type Staged[T any] interface {
	// Open returns the writer of one tenure. It touches the outside as little as it can; a missing bucket may come up later.
	Open(ctx context.Context, t Tenure) (StagedWriter[T], error)

	// Publish makes one receipt's data visible. It is idempotent, and the only method that another process may call for
	// this one's data: already published is success. ErrExpired if the staged data is gone and was never published.
	Publish(ctx context.Context, r Receipt) error

	// Withdraw undoes a receipt, staged or published, so that its records can be written again. Nothing there is success.
	Withdraw(ctx context.Context, r Receipt) error
}

// StagedWriter writes for one tenure, from one goroutine. Between two commits it is called Write, Upload, Write, Upload ...
// Stage; then it starts anew.
type StagedWriter[T any] interface {
	// Write copies what it needs of items and returns; it works in memory only and cannot fail.
	Write(items []T)

	// Upload moves what is ready out of memory (a full part, a full row group); it returns at once when nothing is. After an
	// error it is called again and goes on where it was.
	Upload(ctx context.Context) error

	// Buffered is the heap bytes that this writer holds and that Stage would free.
	Buffered() int64

	// Full says that the writer wants a commit: a file has reached its roll size.
	Full() bool

	// Stage makes everything written since the last Stage durable and invisible. It returns a receipt per file, none when nothing
	// was written. p is about the whole commit; the writer adds what is about each file and stores it in it. After an error it
	// is called again with the same p and goes on where it was.
	Stage(ctx context.Context, p Provenance) ([]Receipt, error)

	// Discard ends the writer and removes what was staged and not committed, as far as it can in the context's time.
	// Receipts that Stage returned and that were committed are not touched. The writer is not used any more.
	Discard(ctx context.Context)
}

// Upsert is a sink whose writes are keyed and replayable. It is written ahead of the commit.
type Upsert interface {
	// Open returns the writer of one tenure.
	Open(ctx context.Context, t Tenure) (UpsertWriter, error)
}

// UpsertWriter writes for one tenure, from one goroutine.
type UpsertWriter interface {
	// Write copies what it needs and returns; the writer sends it within its own delay (default 200 ms) in the background.
	Write(events []*Event)

	// Buffered is the heap bytes not yet acknowledged.
	Buffered() int64

	// Flush returns when all that was written is acknowledged. What the server refused for good comes back as dead letters.
	// After an error it is called again and goes on where it was; refusals are returned once.
	Flush(ctx context.Context) ([]*DeadLetter, error)

	// Close ends the writer. After it returns nothing is sent any more.
	Close()
}

// Spool is an Upsert whose writers may set writes aside that the server does not take at present: their Open returns a
// SpoolWriter. Publish and Withdraw are a Staged sink's, for the receipts of those.
type Spool interface {
	Upsert
	Publish(ctx context.Context, r Receipt) error
	Withdraw(ctx context.Context, r Receipt) error
}

// SpoolWriter is an UpsertWriter whose Flush also returns when writes are set aside. The engine stages these with the commit.
type SpoolWriter interface {
	UpsertWriter

	// Upload, Full, Stage and Discard are a StagedWriter's, for what is set aside. Stage's receipts are Aside.
	Upload(ctx context.Context) error
	Full() bool
	Stage(ctx context.Context, p Provenance) ([]Receipt, error)
	Discard(ctx context.Context)

	// Settled is false while something is set aside, or waits for a commit to be removed. The engine then commits from time to
	// time even when no record arrives.
	Settled() bool
}

// DeadLetter is a record that could not go on, with all that a replay needs.
type DeadLetter struct {
	Record *Record // the original bytes
	Stage  string  // "source", "decode", "process.<n>.<name>", "sink.<name>"
	Err    string
}

// Receipt is one staged file's claim ticket. It is stored in the Note until the file is published.
type Receipt struct {
	Sink   string          `json:"s"` // who publishes it
	Digest Digest          `json:"d"` // of the file's Provenance
	Bytes  int64           `json:"n"` // the file's size
	Body   json.RawMessage `json:"b"` // the sink's own: key, upload id, part tags

	// Aside: what is published is no part of what the sinks hold, and may be removed later; no file's Provenance counts it.
	Aside bool `json:"a,omitempty"`

	// Removes: its Publish removes something, and is called when all other receipts of the commit are published. So a commit
	// that has to be taken back, since staged data is gone, has removed nothing, and its Withdraw has nothing to bring back.
	Removes bool `json:"x,omitempty"`
}

// Digest is a SHA-256 sum.
type Digest [sha256.Size]byte

func (d Digest) String() string               { return hex.EncodeToString(d[:]) }
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }
func (d *Digest) UnmarshalText(text []byte) error {
	if len(text) != 2*len(d) {
		return fmt.Errorf("digest of %d digits; want %d", len(text), 2*len(d))
	}
	_, err := hex.Decode(d[:], text)
	return err
}

// Provenance is what every file that a commit publishes says about itself, in its footer and in the object's metadata.
// With the last checkpoint it proves that nothing is missing and nothing is there twice: see Audit.
type Provenance struct {
	Pipeline  string `json:"pipeline"`
	Sink      string `json:"sink"`
	Partition string `json:"partition"`
	Epoch     uint64 `json:"epoch"`

	// The commit: all records after After up to and with To. A commit that makes no file (all records were dropped) hands
	// its range on to the next, so the ranges of the files touch.
	First   bool             `json:"first,omitempty"` // there was no file before; After is just before the first record
	After   Position         `json:"after"`
	To      Position         `json:"to"`
	Read    int64            `json:"read"` // records; Read = Kept + Dropped + Dead
	Kept    int64            `json:"kept"`
	Dropped int64            `json:"dropped"`
	Dead    int64            `json:"dead"`
	Rows    map[string]int64 `json:"rows"` // events by sink that the commit's files hold together; sinks without any are left out
	Prev    Digest           `json:"prev"` // ChainDigest of all commits before; zero for the first

	// The file, filled in by the sink.
	Key      string `json:"key"`       // within the sink's location
	File     int    `json:"file"`      // 1 to Files
	Files    int    `json:"files"`     // of this sink in this commit
	FileRows int64  `json:"file_rows"` //
	Data     uint32 `json:"data"`      // CRC-32C of the file's bytes before its footer
}

// Digest sums the canonical JSON form of p.
func (p Provenance) Digest() Digest {
	text, err := json.Marshal(p)
	if err != nil {
		panic(err) // the struct has no value that JSON cannot say
	}
	return sha256.Sum256(text)
}

// ChainDigest sums the digest of all earlier commits and those of this commit's files, in ascending order.
func ChainDigest(prev Digest, files []Digest) Digest {
	h := sha256.New()
	h.Write(prev[:])
	for _, d := range sortedDigests(files) {
		h.Write(d[:])
	}
	return Digest(h.Sum(nil))
}

// File is one published file as an Inspector found it.
type File struct {
	Key        string
	Provenance Provenance
	Err        error // not nil: the file cannot be read or contradicts itself; Provenance may be empty
}

// Inspector reads back what a staged sink published. Every staged sink has one; verify uses it.
type Inspector interface {
	// Inspect calls visit for every published file of the pipeline, in any order, from one goroutine. With rows it also reads
	// the file's rows, checks what the footer says about them, and calls rows(file, position, index) for each, in file order.
	Inspect(ctx context.Context, pipeline string, visit func(File) error, rows func(f *File, pos Position, index uint32) error) error
}
