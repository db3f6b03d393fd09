package stream

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Place is where in the log an event comes from: its identity, and what says which of two events is the later one.
type Place struct {
	Partition string
	Pos       Position
	Index     uint32    // among the events of its record
	Time      time.Time // of the record, by the log's clock; zero when the log does not know
}

// PlaceOf is e's place in a partition.
func PlaceOf(partition string, e *Event) Place {
	return Place{Partition: partition, Pos: e.Record.Pos, Index: e.Index, Time: e.Record.Time}
}

// AppendVersion appends position and index as one text, whose order is log order: "00000000000003e8-00000000".
func (p Place) AppendVersion(b []byte) []byte {
	// The dash is before all hexadecimal digits, so that a position whose trailing zeros are left out still comes first.
	b = append(p.Pos.AppendText(b), '-')
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, "0123456789abcdef"[p.Index>>shift&15])
	}
	return b
}

// Version is AppendVersion as a string.
func (p Place) Version() string { return string(p.AppendVersion(nil)) }

// ParseVersion reads back what Version wrote: a Place with the position and the index.
func ParseVersion(version string) (p Place, err error) {
	pos, index, ok := strings.Cut(version, "-")
	n, wrong := strconv.ParseUint(index, 16, 32)
	if p.Pos, err = ParsePosition(pos); err != nil || !ok || wrong != nil {
		return Place{}, fmt.Errorf("%q is no position and index", version)
	}
	p.Index = uint32(n)
	return p, nil
}

// Micros is the place's time in microseconds since 1970, 0 for none.
func (p Place) Micros() int64 {
	if p.Time.IsZero() {
		return 0
	}
	return p.Time.UnixMicro()
}

// Ordering says which of two events of one key is the later one. Within a partition that is the position's order. A key's
// events may come from several partitions: after a reshard, after a topic got more partitions, from several files.
type Ordering int

const (
	// ByPosition: a key's positions grow over all its partitions. Kinesis: sequence numbers do through splits and merges. NATS:
	// the partitions of a stream share its sequence.
	ByPosition Ordering = iota

	// ByTime: positions of two partitions say nothing. The time at which the log took the records decides, and for equal times
	// the partition's name. Kafka, files.
	ByTime
)

// Later says that a is later than b. Every sink whose rows have the newest event's values asks its server this question,
// in the server's language; this is what it has to mean.
func (o Ordering) Later(a, b Place) bool {
	version := cmp.Or(a.Pos.Compare(b.Pos), cmp.Compare(a.Index, b.Index))
	if o == ByPosition || a.Partition == b.Partition {
		return version > 0
	}
	return cmp.Or(cmp.Compare(a.Micros(), b.Micros()), strings.Compare(a.Partition, b.Partition)) > 0
}
