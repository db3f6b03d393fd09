package kinesis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"github.com/millrace-io/millrace/sources/awserr"
	"github.com/millrace-io/millrace/stream"
)

var _ stream.Rereader = (*Source)(nil)

// rereadPause is between two reads of a shard: of the 5 a second that a shard answers, its owner takes up to 4. So is half of the bytes.
const rereadPause = time.Second

// Reread reads what the table says is committed. The table is only read. Shards are read side by side, children beside their
// parents: visit's order is that within a shard. The client library is for owners, and has no part in it.
func (s *Source) Reread(ctx context.Context, since time.Time, ends map[string]stream.Position, visit func(string, []stream.Record) error) ([]string, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	r := &run{Source: s, connection: c, ctx: ctx}
	summary, now, err := r.describe(ctx)
	if err != nil {
		return nil, err
	}
	if r.origin, err = c.table.origin(ctx); err != nil {
		return nil, err
	}
	if at := summary.StreamCreationTimestamp; at != nil && r.origin.Created != at.UnixMilli() {
		return nil, r.createdAgain()
	}
	shards, err := r.listShards(ctx)
	if err != nil {
		return nil, err
	}
	listed := map[string]bool{}
	for _, shard := range shards {
		listed[*shard.ShardId] = true
	}
	if r.origin.Start.After(since) {
		since = r.origin.Start
	}
	if since.After(now) { // the service refuses such a time
		return nil, nil
	}
	horizon := now.Add(-time.Duration(aws.ToInt32(summary.RetentionPeriodHours)) * time.Hour)
	cut := horizon.After(since) && horizon.UnixMilli() > r.origin.Created
	return stream.EachPartition(ctx, ends, func(ctx context.Context, shard string, end stream.Position) (bool, error) {
		if !listed[shard] {
			return cut, nil
		}
		rd := &rereader{run: r, shard: shard, since: since, cut: cut, limit: int32(s.cfg.Fetch.MaxRecords)}
		err := rd.readTo(ctx, end, func(rs []stream.Record) error { return visit(shard, rs) })
		return rd.cut, err
	})
}

// rereader is a place in a shard that nobody owns.
type rereader struct {
	run   *run
	shard string
	since time.Time // zero: from the oldest record

	iterator string          // empty: to be made
	after    stream.Position // of the last record read
	any      bool            // there is one
	cut      bool            // records may be gone that are not read yet
	toll     time.Duration   // what the last read took of the shard's rate, twice
	limit    int32           // records of a read; fewer after one that had no answer in time
}

// readTo visits the records up to and with end.
func (rd *rereader) readTo(ctx context.Context, end stream.Position, visit func([]stream.Record) error) error {
	for failures := 0; ; {
		rs, last, err := rd.read(ctx)
		var fatal *stream.FatalError
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &fatal):
			return err
		case err != nil:
			failures++
			rd.run.log.Warn("reading a shard again fails and is repeated", "shard", rd.shard, "error", err, "attempt", failures)
			if err := pause(ctx, min(throttlePause<<min(failures, 8), lastPause)); err != nil {
				return err
			}
			continue
		}
		failures = 0
		if of := stream.UpTo(rs, end); len(of) > 0 {
			if err := visit(of); err != nil {
				return err
			}
		}
		if last || len(rs) > 0 && rs[len(rs)-1].Pos.Compare(end) >= 0 {
			return nil
		}
		if err := pause(ctx, max(rereadPause, rd.toll)); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// read makes one call. last: nothing follows, now or ever. After an error it begins after the last record anew.
func (rd *rereader) read(ctx context.Context) (rs []stream.Record, last bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	if rd.iterator == "" {
		if err := rd.open(ctx); err != nil {
			return nil, false, err
		}
	}
	out, err := rd.run.kinesis.GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: &rd.iterator, Limit: &rd.limit})
	if err != nil {
		rd.failed(err)
		return nil, false, explain("read", rd.String(), err)
	}
	size := 0
	for i := range out.Records {
		size += len(out.Records[i].Data)
		if rs, err = appendRecords(rs, &out.Records[i]); err != nil {
			return nil, false, stream.Fatal(fmt.Errorf("read %s: %w", rd, err))
		}
	}
	for rd.any && len(rs) > 0 && rs[0].Pos.Compare(rd.after) <= 0 {
		rs = rs[1:]
	}
	if len(rs) > 0 {
		rd.after, rd.any = rs[len(rs)-1].Pos, true
	}
	rd.iterator, rd.toll = aws.ToString(out.NextShardIterator), 2*time.Duration(size)*time.Second/shardRate
	return rs, out.NextShardIterator == nil || len(out.Records) == 0 && aws.ToInt64(out.MillisBehindLatest) == 0, nil
}

// failed makes the next read begin anew, and ask for half as much if the network may be too slow for so much.
func (rd *rereader) failed(err error) {
	rd.iterator = ""
	if errors.Is(err, context.DeadlineExceeded) {
		rd.limit = max(1, rd.limit/2)
	}
}

// String names the shard in errors.
func (rd *rereader) String() string { return fmt.Sprintf("shard %s of %s", rd.shard, rd.run) }

func (rd *rereader) open(ctx context.Context) error {
	in := &kinesis.GetShardIteratorInput{StreamName: &rd.run.cfg.Stream, ShardId: &rd.shard, ShardIteratorType: types.ShardIteratorTypeTrimHorizon}
	switch {
	case rd.any:
		in.ShardIteratorType = types.ShardIteratorTypeAfterSequenceNumber
		in.StartingSequenceNumber = aws.String(sequenceText(placeOf(rd.after).sequence))
	case !rd.since.IsZero():
		in.ShardIteratorType, in.Timestamp = types.ShardIteratorTypeAtTimestamp, &rd.since
	}
	out, err := rd.run.kinesis.GetShardIterator(ctx, in)
	if rd.any && awserr.Code(err) == "InvalidArgumentException" { // the service does not know the number any more
		rd.cut = true
		in.ShardIteratorType, in.StartingSequenceNumber = types.ShardIteratorTypeTrimHorizon, nil
		out, err = rd.run.kinesis.GetShardIterator(ctx, in)
	}
	if err != nil {
		return explain("read", rd.String(), err)
	}
	rd.iterator = aws.ToString(out.ShardIterator)
	return nil
}
