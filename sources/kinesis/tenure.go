package kinesis

import (
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/sources/lease"
	"github.com/millrace-io/millrace/stream"
)

// tenure is one shard from its lease until that is given back or lost: the engine's stream.Assignment. lease.Holder runs it.
type tenure struct {
	*lease.Lease
	run  *run
	mark mark // of the row, then what the reader learned; the reader's goroutine uses it

	behind  atomic.Int64 // ms between the last record read and the shard's end, when it was read; -1: not known
	heardAt atomic.Int64 // when that was, ns since 1970
	pending atomic.Int64 // records read and not taken by the engine
	ended   atomic.Bool  // the shard has
}

var _ stream.Assignment = (*tenure)(nil)

// deliver reads and hands over until ctx ends, the consumer has enough, or the shard has ended.
func (t *tenure) deliver(ctx context.Context, consumer stream.Consumer) (ended bool, err error) {
	rd := &reader{tenure: t, ctx: ctx, consumer: consumer, finished: make(chan struct{}), average: 1 << 10}
	t.run.kcl.add(rd)
	select {
	case <-rd.finished:
	case <-ctx.Done():
	}
	t.run.kcl.drop(rd)
	rd.close()
	t.ended.Store(rd.ended)
	return rd.ended, rd.err
}

// readMark takes over what the last owner learned.
func (t *tenure) readMark() error {
	text := t.Mark()
	if len(text) == 0 {
		return nil
	}
	if err := json.Unmarshal(text, &t.mark); err != nil {
		return stream.Fatal(fmt.Errorf("shard %s: unknown mark %q: %w", t.Partition(), text, err))
	}
	return nil
}

// clear notes that nothing follows after until now. The next renewal stores it.
func (t *tenure) clear(after stream.Position, now time.Time) {
	t.mark = mark{After: after, Clear: now.UnixMilli()}
	t.SetMark(t.mark.encode())
}

// heard notes how far behind the shard's end an answer was.
func (t *tenure) heard(behind time.Duration, records int) {
	t.pending.Store(int64(records))
	t.heardAt.Store(time.Now().UnixNano())
	t.behind.Store(behind.Milliseconds())
}

// Lag is how far the last record that the engine took was behind the shard's end. Kinesis does not count records.
func (t *tenure) Lag() (records int64, age time.Duration) {
	behind := t.behind.Load()
	switch {
	case behind < 0:
		return -1, -1
	case behind == 0 && t.pending.Load() == 0:
		return -1, 0
	}
	return -1, time.Duration(behind)*time.Millisecond + time.Since(time.Unix(0, t.heardAt.Load()))
}
