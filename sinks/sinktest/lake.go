package sinktest

import (
	"context"

	"github.com/millrace-io/millrace/stream"
)

// Lake is what was committed of one partition, for the test of a stream.Checker.
type Lake struct {
	Partition string
	Written   []*stream.Event
	To        uint64 // offset up to which it is committed
	Dead      uint64 // offset of a record that the sink refused
}

var _ stream.Lake = (*Lake)(nil)

// Committed implements stream.Lake.
func (l *Lake) Committed(partition string) (stream.Position, bool) {
	return stream.OffsetPosition(l.To), partition == l.Partition
}

// Events implements stream.Lake.
func (l *Lake) Events(_ context.Context, visit func(string, *stream.Event) error) error {
	for _, e := range l.Written {
		if err := visit(l.Partition, e); err != nil {
			return err
		}
	}
	return nil
}

// Counts implements stream.Lake.
func (l *Lake) Counts() (map[string]int64, bool) {
	return map[string]int64{l.Partition: int64(len(l.Written))}, false
}

// Refused implements stream.Lake.
func (l *Lake) Refused(_ string, pos stream.Position) bool { return pos.Offset() == l.Dead }
