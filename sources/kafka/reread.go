package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace-io/millrace/stream"
)

var _ stream.Rereader = (*Source)(nil)

// Reread reads what the group has committed, without being a member of it.
func (s *Source) Reread(ctx context.Context, since time.Time, ends map[string]stream.Position, visit func(string, []stream.Record) error) ([]string, error) {
	from, err := s.rereadFrom(since)
	if err != nil {
		return nil, err
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	marks, err := s.marks(ctx, conn.admin)
	if err != nil {
		return nil, err
	}
	partitions := map[string]partition{}
	for p, m := range marks {
		topic, none := conn.topics[p.topic], kadm.TopicID{}
		if topic.ID != none && m.topic != none && topic.ID != m.topic {
			return nil, s.createdAgain(p.topic)
		}
		partitions[p.String()] = p
	}
	r := &run{Source: s, conn: conn, reader: newReader(conn.Client, s.cfg.Fetch.MaxBytes)}
	closing, closed := context.WithCancel(ctx)
	var loop sync.WaitGroup
	defer loop.Wait()
	defer closed()
	loop.Go(func() { r.reader.loop(closing) })
	return stream.EachPartition(ctx, ends, func(ctx context.Context, name string, end stream.Position) (bool, error) {
		p, ok := partitions[name]
		if !ok {
			return false, errors.New("the group has no offset of it any more")
		}
		return r.reread(ctx, p, from, int64(end.Offset()), func(rs []stream.Record) error { return visit(name, rs) })
	})
}

// rereadFrom is since as ListOffsets takes it, but not before the pipeline's own beginning. Where Start was latest nobody knows when
// that was.
func (s *Source) rereadFrom(since time.Time) (int64, error) {
	start, err := s.cfg.startTime()
	switch {
	case err != nil:
		return 0, stream.Fatal(err)
	case !since.IsZero():
		return max(start, since.UnixMilli()), nil
	case start == endOffset:
		return 0, errors.New("source.kafka.start is latest, and the group does not keep where that was; say from when to read")
	}
	return start, nil
}

// reread visits the records of p up to and with offset end.
func (r *run) reread(ctx context.Context, p partition, from, end int64, visit func([]stream.Record) error) (cut bool, err error) {
	var next int64
	look := func(ctx context.Context) (err error) {
		next, cut, err = r.rereadStart(ctx, p, from, end)
		return err
	}
	if err := r.retry(ctx, "offset lookup failed", look); err != nil {
		return false, err
	}
	q := r.reader.open(p, next, func(int64) {})
	defer r.reader.close(q)
	for next <= end {
		b, err := r.reader.take(ctx, q)
		switch {
		case err != nil:
			return cut, err
		case errors.Is(b.err, kerr.OffsetOutOfRange): // what is next was removed just now
			if err := r.retry(ctx, "offset lookup failed", look); err != nil {
				return cut, err
			}
			r.reader.seek(q, next)
			continue
		case b.err != nil:
			return cut, cmp.Or(denied(b.err), fmt.Errorf("fetch at offset %d: %w", next, b.err))
		}
		if rs := stream.UpTo(b.records, stream.OffsetPosition(uint64(end))); len(rs) > 0 {
			if err := visit(rs); err != nil {
				return cut, err
			}
		}
		next = b.next
	}
	return cut, nil
}

// rereadStart is the offset to begin with, end+1 for none. cut: it is the oldest one, and was not always.
func (r *run) rereadStart(ctx context.Context, p partition, from, end int64) (next int64, cut bool, err error) {
	oldest, err := r.conn.offset(ctx, p, oldestOffset)
	if err != nil {
		return 0, false, err
	}
	tail, err := r.conn.offset(ctx, p, endOffset)
	if err != nil {
		return 0, false, err
	}
	if tail <= end {
		return 0, false, stream.Fatal(fmt.Errorf("the log ends at offset %d, and was committed up to %d: the brokers lost records", tail, end))
	}
	next = oldest
	if from != oldestOffset {
		if next, err = r.conn.offset(ctx, p, from); err != nil {
			return 0, false, err
		}
	}
	if next < 0 || next > end { // nothing that the pipeline has is that new
		return end + 1, oldest > end, nil
	}
	return next, next == oldest && oldest > 0, nil
}
