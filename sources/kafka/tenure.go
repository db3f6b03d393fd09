package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/stream"
)

// Timestamps of ListOffsets with a meaning of their own.
const (
	endOffset    int64 = -1
	oldestOffset int64 = -2
)

// deliverGrace is how long an ending tenure waits for a Deliver that does not heed its context before it drains.
const deliverGrace = time.Second

var errEnding = errors.New("the tenure ends")

// tenure is one partition from its assignment until it is given back or lost: the engine's stream.Assignment.
//
// live runs it; drain and abort end it, from the group's callbacks or from the run's end, whichever comes first.
type tenure struct {
	partition
	run        *run
	generation uint64

	// Set by claim, before the engine sees the tenure.
	epoch uint64
	mark  mark

	ctx    context.Context // ends when the tenure stops delivering
	cancel context.CancelFunc
	lived  chan struct{} // closed when live returned

	mu       sync.Mutex
	ending   bool
	consumer stream.Consumer // nil until the engine has accepted

	end  sync.Once
	gone chan struct{} // closed when ownership is gone
	lost sync.Once

	committing chan struct{} // holds a token while nobody commits
	flight     *flight       // a commit that is not answered yet; the token's holder has it

	next, tail atomic.Int64 // offsets after the last delivered record and after the last one in the partition; tail -1: unknown
	last       atomic.Int64 // time of the last delivered record, ns since 1970; 0: none yet
}

func newTenure(r *run, p partition, generation uint64) *tenure {
	t := &tenure{partition: p, run: r, generation: generation, lived: make(chan struct{}), gone: make(chan struct{}), committing: make(chan struct{}, 1)}
	t.ctx, t.cancel = context.WithCancel(r.ctx)
	t.tail.Store(-1)
	t.committing <- struct{}{}
	return t
}

// live is the tenure's goroutine: claim, recover, read, deliver.
func (t *tenure) live(marks func() (map[partition]mark, error)) {
	defer close(t.lived)
	if err := t.deliver(marks); err != nil && t.ctx.Err() == nil && !t.isGone() {
		t.run.fail(fmt.Errorf("partition %s: %w", t, err))
	}
}

func (t *tenure) deliver(marks func() (map[partition]mark, error)) error {
	if err := t.claim(marks); err != nil {
		return err
	}
	consumer, err := t.accept()
	if err != nil {
		return err
	}
	next, err := t.begin(consumer.Start())
	if err != nil {
		return err
	}
	t.next.Store(next)
	q := t.run.reader.open(t.partition, next, t.sawEnd)
	defer t.run.reader.close(q)
	for {
		b, err := t.run.reader.take(t.ctx, q)
		if err != nil {
			return err
		}
		if b.err != nil {
			if next, err = t.past(b.next, b.err); err != nil {
				return err
			}
			t.run.reader.seek(q, next)
			continue
		}
		if t.ctx.Err() != nil {
			return errEnding
		}
		if consumer.Deliver(t.ctx, b.records) != nil {
			return nil // the consumer knows why; the tenure waits for its end
		}
		t.next.Store(b.next)
		t.last.Store(b.records[len(b.records)-1].Time.UnixNano())
	}
}

// claim writes the tenure's epoch into the group before anything else happens. So every owner has a larger one than all
// before it, also a static member that comes back within a generation and a group that was deleted; and where a new
// partition begins is decided once.
func (t *tenure) claim(marks func() (map[partition]mark, error)) error {
	all, err := marks()
	if err != nil {
		return err
	}
	m, seen := all[t.partition]
	id := t.run.conn.topics[t.topic].ID
	var none kadm.TopicID
	if seen && m.topic != none && id != none && m.topic != id {
		return stream.Fatal(fmt.Errorf("topic %q was deleted and created again since the last commit, so the stored offset %d means nothing; delete the offsets of group %s to start anew", t.topic, m.next, t.run.cfg.Group))
	}
	if !seen {
		err := t.run.retry(t.ctx, "start offset lookup failed", func(ctx context.Context) error {
			if t.isNew(all) {
				m.next, err = t.offset(ctx, oldestOffset)
			} else {
				m.next, err = t.configuredStart(ctx)
			}
			return err
		})
		if err != nil {
			return err
		}
		m.known = max(t.id+1, int32(len(t.run.conn.topics[t.topic].Partitions)))
	}
	m.topic, m.epoch = id, max(m.epoch+1, t.generation)
	t.mark, t.epoch = m, m.epoch
	return t.run.retry(t.ctx, "claim of a partition failed", func(ctx context.Context) error { return t.store(ctx, m) })
}

// isNew says that the partition was added to a topic that the group reads already. Whatever Start says, none of its
// records is old: the producers used it before we could know it.
func (t *tenure) isNew(all map[partition]mark) bool {
	for p, m := range all {
		if p.topic == t.topic && m.known > 0 && m.known <= t.id {
			return true
		}
	}
	return false
}

// accept gives the tenure to the engine, unless it ends already.
func (t *tenure) accept() (stream.Consumer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ending {
		return nil, errEnding
	}
	c, err := t.run.assigned(t)
	if err != nil {
		return nil, err
	}
	t.consumer = c
	return c, nil
}

// begin is the offset to read first.
func (t *tenure) begin(after stream.Position, ok bool) (next int64, err error) {
	err = t.run.retry(t.ctx, "offset lookup failed", func(ctx context.Context) error {
		switch _, committed := t.mark.checkpoint(); {
		case ok:
			next = int64(after.Offset()) + 1
		case committed:
			next, err = t.configuredStart(ctx)
		default:
			next = t.mark.next
		}
		if err == nil {
			next, err = t.within(ctx, next)
		}
		return err
	})
	return next, err
}

// within checks that the log still has what comes at next, and says where to go on.
func (t *tenure) within(ctx context.Context, next int64) (int64, error) {
	oldest, err := t.offset(ctx, oldestOffset)
	if err != nil {
		return 0, err
	}
	end, err := t.offset(ctx, endOffset)
	if err != nil {
		return 0, err
	}
	t.sawEnd(end)
	switch {
	case next > end:
		return 0, stream.Fatal(fmt.Errorf("the next record is %d, but the log ends before %d: the brokers lost records, or the topic was created again", next, end))
	case next >= oldest:
		return next, nil
	case t.run.cfg.Reset == earliest:
		t.run.log.Warn("records are gone before they were read", "partition", t.String(), "from", next, "to", oldest-1)
		return oldest, nil
	}
	return 0, stream.Fatal(fmt.Errorf("%w: offsets %d to %d; set reset to earliest to go on without them", stream.ErrRetention, next, oldest-1))
}

// past is where to go on after a fetch at offset next failed.
func (t *tenure) past(next int64, failure error) (after int64, err error) {
	if !errors.Is(failure, kerr.OffsetOutOfRange) {
		if f := denied(failure); f != nil {
			return 0, f
		}
		return 0, fmt.Errorf("fetch at offset %d: %w", next, failure)
	}
	err = t.run.retry(t.ctx, "offset lookup failed", func(ctx context.Context) error {
		after, err = t.within(ctx, next)
		return err
	})
	return after, err
}

// configuredStart is what Config.Start means now.
func (t *tenure) configuredStart(ctx context.Context) (int64, error) {
	at, err := t.run.cfg.startTime()
	if err != nil {
		return 0, stream.Fatal(err)
	}
	offset, err := t.offset(ctx, at)
	if err == nil && offset < 0 { // nothing is that new
		return t.offset(ctx, endOffset)
	}
	return offset, err
}

// offset is the offset of the first record of time at (milliseconds) or later, -1 for none, or one of the special values'.
func (t *tenure) offset(ctx context.Context, at int64) (int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Partition, p.Timestamp = t.id, at
	topic := kmsg.NewListOffsetsRequestTopic()
	topic.Topic, topic.Partitions = t.topic, []kmsg.ListOffsetsRequestTopicPartition{p}
	req.Topics = []kmsg.ListOffsetsRequestTopic{topic}
	resp, err := req.RequestWith(ctx, t.run.conn.Client)
	if err != nil {
		return 0, fmt.Errorf("list offsets of %s: %w", t, err)
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return 0, fmt.Errorf("list offsets of %s: the answer does not have it", t)
	}
	answer := resp.Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
		if f := denied(err); f != nil {
			return 0, f
		}
		return 0, fmt.Errorf("list offsets of %s: %w", t, err)
	}
	return answer.Offset, nil
}

// drain ends the tenure while the partition is still owned. Every caller waits until it has ended.
func (t *tenure) drain(ctx context.Context) {
	t.finish(func(c stream.Consumer) {
		select {
		case <-t.lived: // so no Deliver begins after Drain
		case <-time.After(deliverGrace):
		case <-t.gone:
		}
		if t.isGone() {
			c.Abort()
			return
		}
		c.Drain(ctx, stream.Handoff) // what it could not commit is read again by the next owner
	})
}

// abort ends the tenure of a partition that belongs to somebody else already.
func (t *tenure) abort() {
	t.lose()
	t.finish(func(c stream.Consumer) { c.Abort() })
}

func (t *tenure) finish(last func(stream.Consumer)) {
	t.end.Do(func() {
		t.cancel()
		t.mu.Lock()
		t.ending = true
		consumer := t.consumer
		t.mu.Unlock()
		if consumer != nil {
			last(consumer)
		}
		t.lose()
		<-t.lived
		t.run.forget(t)
	})
}

func (t *tenure) lose() { t.lost.Do(func() { close(t.gone) }) }

func (t *tenure) isGone() bool {
	select {
	case <-t.gone:
		return true
	default:
		return false
	}
}

// Partition is "topic-3".
func (t *tenure) Partition() string { return t.String() }

// Epoch grows with every owner; see claim.
func (t *tenure) Epoch() uint64 { return t.epoch }

// Committed is what the group had when the tenure began.
func (t *tenure) Committed() (stream.Checkpoint, bool) { return t.mark.checkpoint() }

// Done is closed when the partition is given back or lost.
func (t *tenure) Done() <-chan struct{} { return t.gone }

// Lag counts offsets, so it is a little high where a topic is compacted or transactional.
func (t *tenure) Lag() (int64, time.Duration) {
	tail, next, last := t.tail.Load(), t.next.Load(), t.last.Load()
	switch {
	case tail < 0:
		return -1, -1
	case tail <= next:
		return 0, 0
	case last == 0:
		return tail - next, -1
	}
	return tail - next, max(0, time.Since(time.Unix(0, last)))
}

func (t *tenure) sawEnd(end int64) {
	for {
		old := t.tail.Load()
		if end <= old || t.tail.CompareAndSwap(old, end) {
			return
		}
	}
}

// Commit stores c in the group.
func (t *tenure) Commit(ctx context.Context, c stream.Checkpoint) error {
	m := mark{next: int64(c.Pos.Offset()) + 1, committed: true, epoch: t.epoch, topic: t.mark.topic, known: t.mark.known, note: c.Note}
	if err := t.store(ctx, m); err != nil {
		return fmt.Errorf("commit of %s: %w", t, err)
	}
	return nil
}

// flight is a commit on its way.
type flight struct {
	next     int64
	metadata string
	done     chan struct{}
	err      error // once done
}

// store sends m and waits for the answer. When ctx ends first, the request is left alone: cancelling it would cut the
// connection, and the broker could see it after a later one. The next call waits for it.
func (t *tenure) store(ctx context.Context, m mark) error {
	metadata, err := m.metadata()
	if err != nil {
		return stream.Fatal(err)
	}
	select {
	case <-t.committing:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { t.committing <- struct{}{} }()
	if f := t.flight; f != nil {
		err := t.land(ctx)
		if t.flight != nil {
			return err
		}
		if f.next == m.next && f.metadata == metadata && err == nil {
			return nil
		}
	}
	if err := t.notLost(); err != nil {
		return err
	}
	t.flight = t.send(m.next, metadata)
	return t.land(ctx)
}

func (t *tenure) notLost() error {
	if t.isGone() {
		return stream.ErrLost
	}
	return nil
}

// land waits for the answer to the flight, and forgets it. When ctx ends first the flight stays.
func (t *tenure) land(ctx context.Context) error {
	f := t.flight
	select {
	case <-f.done:
		t.flight = nil
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send starts the request. It waits while the group is between two generations, and ends at the latest with the client.
func (t *tenure) send(next int64, metadata string) *flight {
	f := &flight{next: next, metadata: metadata, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	sent := make(chan struct{})
	go func() {
		select {
		case <-t.gone:
			cancel()
		case <-sent:
		case <-f.done:
		}
	}()
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		// The request has its generation by now. If it is a newer one than ours, we were told to end before.
		if err := t.notLost(); err != nil {
			return err
		}
		close(sent)
		for i := range req.Topics {
			for j := range req.Topics[i].Partitions {
				req.Topics[i].Partitions[j].Metadata = &metadata
			}
		}
		return nil
	})
	go t.run.group.CommitOffsets(ctx, map[string]map[int32]kgo.EpochOffset{t.topic: {t.id: {Epoch: -1, Offset: next}}},
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
			f.err = t.outcome(resp, err)
			cancel()
			close(f.done)
		})
	return f
}

// outcome is what an answer means for the engine.
func (t *tenure) outcome(resp *kmsg.OffsetCommitResponse, err error) error {
	if err == nil && len(resp.Topics) == 0 {
		err = errors.New("the answer does not have the partition")
	}
	if err == nil {
		for _, topic := range resp.Topics {
			for _, p := range topic.Partitions {
				err = errors.Join(err, kerr.ErrorForCode(p.ErrorCode))
			}
		}
	}
	if err == nil {
		return nil
	}
	for _, e := range []error{kerr.IllegalGeneration, kerr.UnknownMemberID, kerr.FencedInstanceID, kerr.FencedMemberEpoch} {
		if errors.Is(err, e) {
			t.lose()
			return fmt.Errorf("%w: %w", stream.ErrLost, err)
		}
	}
	switch f := denied(err); {
	case f != nil:
		return f
	case t.isGone():
		return stream.ErrLost
	case errors.Is(err, kerr.OffsetMetadataTooLarge):
		return stream.Fatal(fmt.Errorf("the brokers refuse the note; set their offset.metadata.max.bytes to %d or more: %w", metadataLimit, err))
	}
	return err
}
