package stream

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Rereader is a Source whose log can be read once more by somebody who owns nothing: a replay.
type Rereader interface {
	// Reread calls visit with the records of the partitions in ends, those of one partition in log order and by one call at a
	// time: up to and with the partition's end, from the first one that the log took at since or later. A zero since, and a log that
	// does not know when it took a record, begin with the oldest record that is left. Records that are before the beginning of the
	// pipeline (the source's start) are never visited.
	//
	// Nothing is owned and nothing is stored, so owners of the partitions notice nothing. An error of visit ends it and is returned.
	// Records are visit's, as a Consumer's. cut names the partitions, sorted, whose log may no longer have everything from since on.
	Reread(ctx context.Context, since time.Time, ends map[string]Position, visit func(partition string, rs []Record) error) (cut []string, err error)
}

// rereads is how many partitions are read at once.
const rereads = 64

// EachPartition calls read for all partitions in ends, several at once, and returns those of which it says that they are cut. The
// first error ends the others' context, and is returned. It is what the Reread of every source has in common.
func EachPartition(ctx context.Context, ends map[string]Position, read func(ctx context.Context, partition string, end Position) (cut bool, err error)) ([]string, error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var mu sync.Mutex
	var cut []string
	var reading sync.WaitGroup
	slots := make(chan struct{}, rereads)
	for partition, end := range ends {
		slots <- struct{}{}
		reading.Go(func() {
			defer func() { <-slots }()
			is, err := read(ctx, partition, end)
			if err != nil {
				fail(fmt.Errorf("partition %s: %w", partition, err))
			}
			if is {
				mu.Lock()
				defer mu.Unlock()
				cut = append(cut, partition)
			}
		})
	}
	reading.Wait()
	slices.Sort(cut)
	return cut, context.Cause(ctx)
}

// UpTo is the records of rs up to and with end, which are in log order.
func UpTo(rs []Record, end Position) []Record {
	for len(rs) > 0 && rs[len(rs)-1].Pos.Compare(end) > 0 {
		rs = rs[:len(rs)-1]
	}
	return rs
}
