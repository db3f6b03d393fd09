package kinesis

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"github.com/millrace-io/millrace/sources/lease"
	"github.com/millrace-io/millrace/stream"
)

// shardList is the shards of the stream as they were last listed: open ones, and closed ones for as long as their records are kept.
type shardList struct {
	mu     sync.Mutex
	shards []types.Shard
	missed map[string]int // listings in a row without a shard that has a row and has not ended
	warned map[string]bool
}

// ready are the shards that may be owned: those whose parents have ended, or are unknown because they are gone for long. lease.Worker
// calls it with the rows as they are.
func (l *shardList) ready(rows []lease.Row) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := make(map[string]lease.Row, len(rows))
	for _, r := range rows {
		known[r.Partition] = r
	}
	listed := make(map[string]bool, len(l.shards))
	for _, s := range l.shards {
		listed[*s.ShardId] = true
	}
	var names []string
	for _, s := range l.shards {
		done := func(parent *string) bool {
			if parent == nil {
				return true
			}
			row, ok := known[*parent]
			return row.Ended || !listed[*parent] && (!ok || l.warned[*parent])
		}
		if done(s.ParentShardId) && done(s.AdjacentParentShardId) {
			names = append(names, *s.ShardId)
		}
	}
	return names
}

// unowned counts those that are ready and that no worker has.
func (l *shardList) unowned(rows []lease.Row) int {
	free := map[string]bool{}
	for _, name := range l.ready(rows) {
		free[name] = true
	}
	for _, r := range rows {
		if r.Owner != "" || r.Ended {
			delete(free, r.Partition)
		}
	}
	return len(free)
}

// refresh lists the shards anew. It fails with ErrRetention when a shard has gone that was not read to its end.
func (r *run) refresh(ctx context.Context) error {
	rows, err := r.table.List(ctx) // before the listing: what has a row was listed once
	if err != nil {
		return err
	}
	shards, err := r.listShards(ctx)
	if err != nil {
		return err
	}
	return r.shards.set(shards, rows, r.cfg.Reset == fail, func(name string) {
		r.log.Warn("a shard is gone that was not read to its end; its last records are lost", "shard", name)
	})
}

func (l *shardList) set(shards []types.Shard, rows []lease.Row, strict bool, warn func(name string)) error {
	listed := make(map[string]bool, len(shards))
	for _, s := range shards {
		listed[*s.ShardId] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shards = shards
	for _, row := range rows {
		switch {
		case row.Ended:
		case listed[row.Partition]:
			delete(l.missed, row.Partition)
		default:
			if l.missed[row.Partition]++; l.missed[row.Partition] < 3 { // listings may be a little old
				continue
			}
			if strict {
				return stream.Fatal(fmt.Errorf("%w: shard %s, after %s, to its end: the shard is no longer in the stream; set reset to %s to go on without them",
					stream.ErrRetention, row.Partition, describe(row), trimHorizon))
			}
			if !l.warned[row.Partition] {
				l.warned[row.Partition] = true
				warn(row.Partition)
			}
		}
	}
	return nil
}

// describe is where a row's partition was read to.
func describe(r lease.Row) string {
	if !r.Committed {
		return "its beginning"
	}
	return "sequence number " + sequenceText(placeOf(r.Checkpoint.Pos).sequence)
}

func (r *run) listShards(ctx context.Context) ([]types.Shard, error) {
	var shards []types.Shard
	in := &kinesis.ListShardsInput{StreamName: &r.cfg.Stream}
	for {
		out, err := r.kinesis.ListShards(ctx, in)
		if err != nil {
			return nil, explain("list the shards of", r.String(), err)
		}
		shards = append(shards, out.Shards...)
		if aws.ToString(out.NextToken) == "" {
			break
		}
		in = &kinesis.ListShardsInput{NextToken: out.NextToken} // a token excludes the name
	}
	slices.SortFunc(shards, func(a, b types.Shard) int { return strings.Compare(*a.ShardId, *b.ShardId) })
	return slices.CompactFunc(shards, func(a, b types.Shard) bool { return *a.ShardId == *b.ShardId }), nil
}

// watch lists the shards every now and then, and soon after one has ended, which has children.
func (r *run) watch() {
	for {
		pause := r.listing
		err := r.bounded(r.ctx, r.look)
		r.trouble.Ended("shards", err)
		if r.failsWith(err) {
			return
		}
		if err != nil && r.ctx.Err() == nil {
			r.log.Warn("the shards cannot be listed; tried again", "error", err)
			pause = min(pause, 2*time.Second)
		}
		select {
		case <-time.After(pause):
		case <-r.ended:
		case <-r.ctx.Done():
			return
		}
	}
}

// look is one round of watch.
func (r *run) look(ctx context.Context) error {
	summary, _, err := r.describe(ctx)
	if err != nil {
		return err
	}
	if got := summary.StreamCreationTimestamp; got != nil && got.UnixMilli() != r.created {
		return stream.Fatal(fmt.Errorf("stream %q was deleted and created again while it was read", r.cfg.Stream))
	}
	r.retention.Store(int64(aws.ToInt32(summary.RetentionPeriodHours)) * int64(time.Hour))
	if err := r.refresh(ctx); err != nil {
		return err
	}
	r.worker.Again()
	return nil
}
