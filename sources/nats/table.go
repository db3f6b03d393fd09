package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace-io/millrace/sources/lease"
	"github.com/millrace-io/millrace/stream"
)

// table is a key-value bucket as a lease.Table. Its revisions are the sequences of the bucket's stream.
type table struct {
	bucket     jetstream.KeyValue
	partitions []string // of the configuration; List reads these
}

var _ lease.Table = (*table)(nil)

// value is a row as the bucket holds it.
type value struct {
	Owner      string           `json:"owner,omitempty"`
	Run        string           `json:"run,omitempty"`
	Epoch      uint64           `json:"epoch"`
	Renewals   uint64           `json:"renewals"`
	Claim      string           `json:"claim,omitempty"`
	Checkpoint *stream.Position `json:"checkpoint,omitempty"`
	Note       []byte           `json:"note,omitempty"`
	Mark       json.RawMessage  `json:"mark,omitempty"`
}

func encode(r lease.Row) ([]byte, error) {
	v := value{Owner: r.Owner, Run: r.Run, Epoch: r.Epoch, Renewals: r.Renewals, Claim: r.Claim, Mark: r.Mark}
	if r.Committed {
		v.Checkpoint, v.Note = &r.Checkpoint.Pos, r.Checkpoint.Note
	}
	return json.Marshal(v)
}

func decode(partition string, revision uint64, text []byte) (lease.Row, error) {
	var v value
	if err := json.Unmarshal(text, &v); err != nil {
		return lease.Row{}, stream.Fatal(fmt.Errorf("the bucket's entry for partition %s is not one of ours: %w", partition, err))
	}
	r := lease.Row{
		Partition: partition, Owner: v.Owner, Run: v.Run, Epoch: v.Epoch, Renewals: v.Renewals, Claim: v.Claim, Mark: v.Mark,
		Revision: revision,
	}
	if v.Checkpoint != nil {
		r.Committed, r.Checkpoint = true, stream.Checkpoint{Pos: *v.Checkpoint, Note: v.Note}
	}
	return r, nil
}

// keyOf is a partition as a key, whose alphabet is smaller: other bytes become =XX.
func keyOf(partition string) string {
	var b strings.Builder
	for _, c := range []byte(partition) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("._-/", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}

func partitionOf(key string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(key); i++ {
		if key[i] != '=' {
			b.WriteByte(key[i])
			continue
		}
		if i+2 >= len(key) {
			return "", false
		}
		c, err := strconv.ParseUint(key[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		b.WriteByte(byte(c))
		i += 2
	}
	return b.String(), true
}

// readers is how many rows are asked for at a time.
const readers = 16

// List returns the rows of the configured partitions.
func (t *table) List(ctx context.Context) ([]lease.Row, error) { return t.read(ctx, t.partitions) }

func (t *table) read(ctx context.Context, partitions []string) ([]lease.Row, error) {
	rows := make([]lease.Row, len(partitions))
	errs := make([]error, len(partitions))
	slots := make(chan struct{}, readers)
	var reading sync.WaitGroup
	for i, p := range partitions {
		slots <- struct{}{}
		reading.Go(func() {
			defer func() { <-slots }()
			rows[i], errs[i] = t.Get(ctx, p)
		})
	}
	reading.Wait()
	found := rows[:0]
	for i := range rows {
		switch {
		case errs[i] == nil:
			found = append(found, rows[i])
		case !errors.Is(errs[i], lease.ErrNoRow):
			return nil, errs[i]
		}
	}
	return found, nil
}

func (t *table) Get(ctx context.Context, partition string) (lease.Row, error) {
	e, err := t.bucket.Get(ctx, keyOf(partition))
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound): // never written, or deleted
		return lease.Row{}, lease.ErrNoRow
	case err != nil:
		return lease.Row{}, fmt.Errorf("read the lease of %s: %w", partition, denied(err))
	}
	return decode(partition, e.Revision(), e.Value())
}

func (t *table) Create(ctx context.Context, r lease.Row) (uint64, error) {
	return t.write(r, func(key string, text []byte) (uint64, error) { return t.bucket.Create(ctx, key, text) })
}

func (t *table) Update(ctx context.Context, r lease.Row) (uint64, error) {
	return t.write(r, func(key string, text []byte) (uint64, error) { return t.bucket.Update(ctx, key, text, r.Revision) })
}

func (t *table) write(r lease.Row, write func(key string, text []byte) (uint64, error)) (uint64, error) {
	text, err := encode(r)
	if err != nil {
		return 0, stream.Fatal(err)
	}
	revision, err := write(keyOf(r.Partition), text)
	switch {
	case isConflict(err):
		return 0, lease.ErrConflict
	case err != nil:
		return 0, fmt.Errorf("write the lease of %s: %w", r.Partition, denied(err))
	}
	return revision, nil
}

// isConflict knows the answers of a single server and of replicated streams.
func isConflict(err error) bool {
	if errors.Is(err, jetstream.ErrKeyExists) {
		return true
	}
	var api *jetstream.APIError
	return errors.As(err, &api) &&
		(api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// mark is the source's own part of a row.
type mark struct {
	// Created is when the stream was made: sequences of another stream of the same name mean nothing.
	Created int64 `json:"created"` // ns since 1970

	// Start is the first sequence to read where nothing is committed.
	Start uint64 `json:"start"`

	// No message of the partition has a sequence after After, up to and with Clear. A stream's sequences are shared by all its
	// partitions, so this is what tells a quiet partition from one that lost messages.
	After uint64 `json:"after"`
	Clear uint64 `json:"clear"`
}

func parseMark(text []byte) (mark, error) {
	var m mark
	if len(text) == 0 {
		return m, nil
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, stream.Fatal(fmt.Errorf("unknown mark %q: %w", text, err))
	}
	return m, nil
}

func (m mark) encode() []byte {
	text, err := json.Marshal(m)
	if err != nil {
		panic(err) // the struct has no value that JSON cannot say
	}
	return text
}

// known is the last sequence about which a row says that nothing of the partition up to it is missing; ok is false if the
// partition was never read.
func known(r lease.Row, m mark) (sequence uint64, ok bool) {
	switch {
	case r.Committed:
		return m.clearAfter(r.Checkpoint.Pos.Offset()), true
	case m.Start > 0:
		return m.clearAfter(m.Start - 1), true
	}
	return 0, false
}

// clearAfter is up to where there is certainly no message of the partition after the given sequence.
func (m mark) clearAfter(sequence uint64) uint64 {
	if m.After == sequence {
		return max(sequence, m.Clear)
	}
	return sequence
}
