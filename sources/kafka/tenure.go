package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
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

// settleTimeout bounds settle when a tenure ends.
const settleTimeout = time.Second

var errEnding = errors.New("the tenure ends")

// tenure is one partition from its assignment until it is given back or lost: the engine's stream.Assignment.
//
// live runs it; drain and abort end it, from the group's callbacks or from the run's end, whichever comes first.
type tenure struct {
	partition
	run        *run
	member     string // as whom we own it
	generation uint64

	// Set by claim, before the engine sees the tenure.
	epoch    uint64
	mark     mark
	producer *Producer // nil without transactions
	shown    int64     // mark's, and later that of the last commit; the engine's goroutine has it

	ctx    context.Context // ends when the tenure stops delivering
	cancel context.CancelFunc
	lived  chan struct{} // closed when live returned

	mu        sync.Mutex
	ending    bool
	consumer  stream.Consumer // nil until the engine has accepted
	delivered int64           // offset after the last record that was handed over, or where reading began
	leaders   []leader        // of what was received since the last commit, ascending

	end  sync.Once
	gone chan struct{} // closed when ownership is gone
	lost sync.Once

	committing chan struct{} // holds a token while nobody commits
	flight     *flight       // a commit that is not answered yet; the token's holder has it
	stored     *mark         // what the group has; nil: unknown, since a commit failed; the token's holder has it

	next, tail atomic.Int64 // offsets after the last one that was read, records or not, and after the last one in the partition; tail -1: unknown
	last       atomic.Int64 // time of the last delivered record, ns since 1970; 0: none yet
}

// leader is the leader epoch of the records from an offset on.
type leader struct {
	from  int64
	epoch int32
}

func newTenure(r *run, p partition, member string, generation int32) *tenure {
	t := &tenure{partition: p, run: r, member: member, generation: uint64(max(0, generation)), lived: make(chan struct{}), gone: make(chan struct{}), committing: make(chan struct{}, 1)}
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
	t.begun(next)
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
		t.received(b)
		if len(b.records) > 0 {
			if consumer.Deliver(t.ctx, b.records) != nil {
				return nil // the consumer knows why; the tenure waits for its end
			}
			t.last.Store(b.records[len(b.records)-1].Time.UnixNano())
		}
		t.next.Store(b.next)
	}
}

// begun notes where reading begins.
func (t *tenure) begun(next int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.delivered = next
	if next == t.mark.clear {
		t.delivered = t.mark.next
	}
	t.next.Store(next)
}

// received notes what a commit wants to know about b, before it can come.
func (t *tenure) received(b batch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(b.records) > 0 {
		t.delivered = b.next
	}
	if n := len(t.leaders); n == 0 || t.leaders[n-1].epoch != b.leader {
		t.leaders = append(t.leaders, leader{b.first, b.leader})
	}
}

// claim writes the tenure's epoch into the group before anything else happens. So every owner has a larger one than all
// before it, also a static member that comes back within a generation and a group that was deleted; and where a new
// partition begins is decided once.
func (t *tenure) claim(marks func() (map[partition]mark, error)) error {
	if err := t.join(); err != nil {
		return err
	}
	all, err := marks()
	if err != nil {
		return err
	}
	m, seen := all[t.partition]
	topic := t.run.topic(t.topic)
	id := topic.ID
	var none kadm.TopicID
	if seen && m.topic != none && id != none && m.topic != id {
		return t.run.createdAgain(t.topic)
	}
	if !seen {
		err := t.run.retry(t.ctx, "start offset lookup failed", func(ctx context.Context) error {
			if t.isNew(all) {
				m.next, err = t.run.conn.offset(ctx, t.partition, oldestOffset)
			} else {
				m.next, err = t.configuredStart(ctx)
			}
			return err
		})
		if err != nil {
			return err
		}
		m.known = max(t.id+1, int32(len(topic.Partitions)))
		m.clear, m.shown, m.leader = m.next, m.next, -1
	}
	m.topic, m.epoch = id, max(m.epoch+1, t.generation)
	t.mark, t.epoch, t.shown = m, m.epoch, m.shown
	if t.producer != nil {
		t.producer.shown = m.shown
	}
	return t.run.retry(t.ctx, "claim of a partition failed", func(ctx context.Context) error { return t.store(ctx, m) })
}

// join takes the partition's transactional id, where there are transactions.
func (t *tenure) join() error {
	if !t.run.transactions.on() {
		return nil
	}
	return t.run.retry(t.ctx, "transactional id cannot be taken", func(ctx context.Context) (err error) {
		if t.producer, err = t.newProducer(ctx); err == nil {
			t.run.transactions.set(t.String(), t.producer)
		}
		return err
	})
}

// offsets are the group's, read for this tenure alone.
func (t *tenure) offsets() (map[partition]mark, error) { return t.run.stored(t.partition) }

// leave ends the producer. No sink writes any more.
func (t *tenure) leave() {
	if t.producer != nil {
		t.run.transactions.set(t.String(), nil)
		t.producer.close()
	}
}

// isNew says that the partition was added to a topic that the group reads already, or that a pattern found its topic when the
// group read others already. Whatever Start says, none of its records is old: the producers used it before we could know it.
func (t *tenure) isNew(all map[partition]mark) bool {
	found := t.run.topics.matches(t.topic) && len(all) > 0
	for p, m := range all {
		if p.topic != t.topic {
			continue
		}
		if m.known > 0 && m.known <= t.id {
			return true
		}
		found = false
	}
	return found
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
		if err := t.uncut(ctx); err != nil {
			return err
		}
		switch _, committed := t.mark.checkpoint(); {
		case ok && int64(after.Offset())+1 == t.mark.next, !ok && !committed:
			next = t.mark.clear
		case ok:
			next = int64(after.Offset()) + 1
		default:
			next, err = t.configuredStart(ctx)
		}
		if err == nil {
			next, err = t.within(ctx, next)
		}
		return err
	})
	return next, err
}

// uncut makes sure that the log before the mark is the one that was read: its leader epoch must not have ended earlier. A
// leader that knows nothing of the epoch says nothing.
func (t *tenure) uncut(ctx context.Context) error {
	if t.mark.leader < 0 {
		return nil
	}
	var req kadm.OffsetForLeaderEpochRequest
	req.Add(t.topic, t.id, t.mark.leader)
	answers, err := t.run.conn.admin.OffsetForLeaderEpoch(ctx, req)
	answer, ok := answers[t.topic][t.id]
	switch {
	case err == nil && ok && answer.Err == nil:
		if answer.EndOffset >= 0 && answer.EndOffset < t.mark.clear {
			return t.cut(answer.EndOffset, t.mark.clear)
		}
		return nil
	case err == nil && !ok:
		err = errors.New("the answer does not have it")
	case err == nil:
		err = answer.Err
	}
	return fmt.Errorf("end of leader epoch %d of %s: %w", t.mark.leader, t, cmp.Or(denied(err), err))
}

// cut is the error about a log that ends, or goes on otherwise, at offset from, where it was read up to offset next.
func (t *tenure) cut(from, next int64) error {
	return stream.Fatal(fmt.Errorf("the brokers lost records that were read already: offsets %d to %d of the log are gone or are others now (an unclean leader election, or a lost disk). "+
		"To go on, set the offset of group %s to %d (kafka-consumer-groups.sh --reset-offsets --to-offset %d); "+
		"the sinks keep what they have of these positions, and verify names them where they come twice", from, next-1, t.run.cfg.Group, from, from))
}

// within checks that the log still has what comes at next, and says where to go on.
func (t *tenure) within(ctx context.Context, next int64) (int64, error) {
	oldest, err := t.run.conn.offset(ctx, t.partition, oldestOffset)
	if err != nil {
		return 0, err
	}
	end, err := t.run.conn.offset(ctx, t.partition, endOffset)
	if err != nil {
		return 0, err
	}
	t.sawEnd(end)
	switch {
	case next > end:
		return 0, t.cut(end, next)
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
	var lost *kgo.ErrDataLoss
	switch {
	case errors.As(failure, &lost):
		return 0, t.cut(lost.ResetTo, lost.ConsumedTo)
	case errors.Is(failure, kerr.UnknownTopicID):
		return next, t.sameTopic()
	case !errors.Is(failure, kerr.OffsetOutOfRange):
		return 0, cmp.Or(denied(failure), fmt.Errorf("fetch at offset %d: %w", next, failure))
	}
	err = t.run.retry(t.ctx, "offset lookup failed", func(ctx context.Context) error {
		after, err = t.within(ctx, next)
		return err
	})
	return after, err
}

// sameTopic asks whether the topic is still the one that is read.
func (t *tenure) sameTopic() error {
	return t.run.retry(t.ctx, "topic lookup failed", func(ctx context.Context) error {
		found, err := t.run.conn.admin.ListTopics(ctx, t.topic)
		if err != nil {
			return err
		}
		return t.run.changed(t.topic, found)
	})
}

// configuredStart is what Config.Start means now.
func (t *tenure) configuredStart(ctx context.Context) (int64, error) {
	at, err := t.run.cfg.startTime()
	if err != nil {
		return 0, stream.Fatal(err)
	}
	offset, err := t.run.conn.offset(ctx, t.partition, at)
	if err == nil && offset < 0 { // nothing is that new
		return t.run.conn.offset(ctx, t.partition, endOffset)
	}
	return offset, err
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
		limited, cancel := context.WithTimeout(ctx, settleTimeout)
		defer cancel()
		_ = t.settle(limited) // the next owner reads the control records again
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
		t.leave()
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

// Lag counts offsets, so it is a little high where a topic is compacted, and in the middle of transactions.
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
	next := int64(c.Pos.Offset()) + 1
	clear := t.clearAfter(next)
	m := mark{next: next, clear: clear, shown: max(t.shown, next), leader: t.leaderAt(clear - 1), committed: true, epoch: t.epoch, topic: t.mark.topic, known: t.mark.known, note: c.Note}
	if err := t.store(ctx, m); err != nil {
		return fmt.Errorf("commit of %s: %w", t, err)
	}
	t.shown = m.shown
	t.committedTo(next)
	return nil
}

// clearAfter is the first offset from next on that may hold a record.
func (t *tenure) clearAfter(next int64) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if next != t.delivered {
		return next
	}
	return max(next, t.next.Load())
}

// leaderAt is the leader epoch of the record at offset, of the last owner's if this one read nothing yet.
func (t *tenure) leaderAt(offset int64) int32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range slices.Backward(t.leaders) {
		if l.from <= offset {
			return l.epoch
		}
	}
	if offset == t.mark.clear-1 {
		return t.mark.leader
	}
	return -1
}

// committedTo forgets the leader epochs that no later commit can ask for.
func (t *tenure) committedTo(next int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.leaders) > 1 && t.leaders[1].from < next {
		t.leaders = t.leaders[1:]
	}
}

// settle stores how far the log is known to hold no record after the last commit, if everything that was delivered is committed.
// The control records there come with no Commit of the engine's.
func (t *tenure) settle(ctx context.Context) error {
	select {
	case <-t.committing:
	default:
		return nil // the engine commits
	}
	defer t.release()
	if t.flight != nil || t.stored == nil {
		return nil // the engine's commit comes again
	}
	m := *t.stored
	if m.clear = t.clearAfter(m.next); m.clear <= t.stored.clear {
		return nil
	}
	m.leader = t.leaderAt(m.clear - 1)
	return t.launch(ctx, m)
}

// flight is a commit on its way.
type flight struct {
	mark     mark
	metadata string
	done     chan struct{}
	err      error // once done
}

func (t *tenure) release() { t.committing <- struct{}{} }

// store sends m and waits for the answer. When ctx ends first, the request is left alone: cancelling it would cut the
// connection, and the broker could see it after a later one. The next call waits for it.
func (t *tenure) store(ctx context.Context, m mark) error {
	select {
	case <-t.committing:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer t.release()
	if f := t.flight; f != nil {
		err := t.land(ctx)
		if t.flight != nil {
			return err
		}
		if metadata, _ := m.metadata(); err == nil && f.mark.clear == m.clear && f.metadata == metadata {
			return nil
		}
	}
	return t.launch(ctx, m)
}

// launch sends m. The caller holds the token, and nothing is in flight.
func (t *tenure) launch(ctx context.Context, m mark) error {
	metadata, err := m.metadata()
	if err != nil {
		return stream.Fatal(err)
	}
	if err := t.notLost(); err != nil {
		return err
	}
	t.flight = t.send(m, metadata)
	return t.land(ctx)
}

func (t *tenure) notLost() error {
	if t.isGone() {
		return stream.ErrLost
	}
	return nil
}

// notOut is notLost for a request of this member.
func (t *tenure) notOut(member string) error {
	if member != t.member {
		t.lose()
	}
	return t.notLost()
}

// land waits for the answer to the flight, and forgets it. When ctx ends first the flight stays.
func (t *tenure) land(ctx context.Context) error {
	f := t.flight
	select {
	case <-f.done:
		t.flight, t.stored = nil, nil
		if f.err == nil {
			t.stored = &f.mark
		}
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send starts the request, within the transaction if there is one.
func (t *tenure) send(m mark, metadata string) *flight {
	if begun, _ := t.producer.holds(); !begun {
		return t.sendAlone(m, metadata)
	}
	f := &flight{mark: m, metadata: metadata, done: make(chan struct{})}
	go t.sendWithin(f)
	return f
}

// sendAlone starts the request. It waits while the group is between two generations, and ends at the latest with the client.
//
// With the consumer protocol the client sends again what the brokers refused because the member moved on to a new epoch; so
// there a tenure that is over cancels also what was sent. Whatever is on its way then has an old epoch.
func (t *tenure) sendAlone(m mark, metadata string) *flight {
	f := &flight{mark: m, metadata: metadata, done: make(chan struct{})}
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
		// The request has its generation by now. If it is a newer one than ours, we were told to end before, or were another member.
		if err := t.notOut(req.MemberID); err != nil {
			return err
		}
		if t.run.cfg.Protocol == classic {
			close(sent)
		}
		for i := range req.Topics {
			for j := range req.Topics[i].Partitions {
				req.Topics[i].Partitions[j].Metadata = &metadata
			}
		}
		return nil
	})
	go t.run.group.CommitOffsets(ctx, map[string]map[int32]kgo.EpochOffset{t.topic: {t.id: {Epoch: m.leader, Offset: m.clear}}},
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
	if out(err) || errors.Is(err, kerr.IllegalGeneration) { // the request has waited for the next one
		t.lose()
		return fmt.Errorf("%w: %w", stream.ErrLost, err)
	}
	switch f := denied(err); {
	case f != nil:
		return f
	case t.isGone():
		return stream.ErrLost
	case errors.Is(err, kerr.OffsetMetadataTooLarge):
		return metadataTooLarge(err)
	}
	return err
}

// out says that the group has no such member any more.
func out(err error) bool {
	return isAny(err, kerr.UnknownMemberID, kerr.FencedInstanceID, kerr.FencedMemberEpoch)
}

func isAny(err error, of ...*kerr.Error) bool {
	return slices.ContainsFunc(of, func(e *kerr.Error) bool { return errors.Is(err, e) })
}

func metadataTooLarge(err error) error {
	return stream.Fatal(fmt.Errorf("the brokers refuse the note; set their offset.metadata.max.bytes to %d or more: %w", metadataLimit, err))
}
