package nats

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace-io/millrace/stream"
)

var _ stream.Rereader = (*Source)(nil)

// Reread reads what the bucket says is committed. The bucket is only read; the cursors are the server's memory, and are gone soon
// after whoever made them.
func (s *Source) Reread(ctx context.Context, since time.Time, ends map[string]stream.Position, visit func(string, []stream.Record) error) ([]string, error) {
	c, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	bucket, err := c.js.KeyValue(ctx, s.cfg.Bucket)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", s.cfg.Bucket, denied(err))
	}
	r := &run{Source: s, connection: c, table: &table{bucket: bucket}, tenures: map[string]*tenure{}}
	r.ctx, r.fail = context.WithCancelCause(ctx)
	defer r.fail(nil)
	for partition := range ends {
		r.tenures[partition] = nil // so that each has its share of the memory
	}
	return stream.EachPartition(r.ctx, ends, func(ctx context.Context, partition string, end stream.Position) (bool, error) {
		return r.reread(ctx, partition, since, end.Offset(), func(rs []stream.Record) error { return visit(partition, rs) })
	})
}

// reread visits the messages of a partition up to and with sequence end.
func (r *run) reread(ctx context.Context, partition string, since time.Time, end uint64, visit func([]stream.Record) error) (cut bool, err error) {
	var next uint64
	err = r.retry(ctx, "start lookup failed", func(ctx context.Context) error {
		next, cut, err = r.rereadStart(ctx, partition, since, end)
		return err
	})
	if err != nil || next > end {
		return cut, err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	cursor := newReader(r, partition, next, func(_ string, pending uint64) {
		if pending == 0 { // the message at end may have been deleted
			stop(errAllRead)
		}
	})
	defer cursor.close()
	for {
		b, err := cursor.read(ctx)
		if errors.Is(context.Cause(ctx), errAllRead) {
			return cut, nil
		}
		if err != nil {
			return cut, err
		}
		if rs := stream.UpTo(b.records, stream.OffsetPosition(end)); len(rs) > 0 {
			if err := visit(rs); err != nil {
				return cut, err
			}
		}
		if b.last >= end || b.pending == 0 {
			return cut, nil
		}
	}
}

var errAllRead = errors.New("nothing of the partition is left to read")

// rereadStart is the sequence to begin with. cut: it is the stream's first one, and was not always.
func (r *run) rereadStart(ctx context.Context, partition string, since time.Time, end uint64) (next uint64, cut bool, err error) {
	row, err := r.table.Get(ctx, partition)
	if err != nil {
		return 0, false, err
	}
	m, err := parseMark(row.Mark)
	if err != nil {
		return 0, false, err
	}
	if created := r.info.Created.UnixNano(); m.Created != 0 && m.Created != created {
		return 0, false, r.createdAgain()
	}
	first, last, err := r.ends(ctx)
	switch {
	case err != nil:
		return 0, false, err
	case last < end:
		return 0, false, stream.Fatal(fmt.Errorf("stream %q ends at %d, and was committed up to %d: the server lost messages that it had acknowledged", r.cfg.Stream, last, end))
	}
	next = max(first, m.Start)
	if !since.IsZero() {
		at, err := r.firstSince(ctx, since, first)
		if err != nil {
			return 0, false, err
		}
		next = max(next, at)
	}
	return next, next == first && first > max(1, m.Start), nil
}
