package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/millrace-io/millrace/stream"
)

// Transactions join sinks that write to the source's cluster with its commits: what such a sink produced since a partition's last
// commit is seen with the next one, or never, by readers that read committed. One value is given to the source and to its sinks.
//
// A partition has a producer of its own. To take over, the new owner's producer takes the transactional id before the checkpoint is
// read: so the last owner's transaction is over by then, and that one can commit nothing any more. A commit adds the group's offset
// to the transaction, with the generation as its fence, and ends it. Whenever it is not certain that a transaction goes on, the
// tenure ends, and another one begins at what the group then says: see run.again.
type Transactions struct {
	// Options returns those of a producer, beside how it connects. nil: no sink takes part.
	Options func() []kgo.Opt

	// Timeout is when the brokers abort a transaction whose producer is silent; readers wait for it so long.
	Timeout time.Duration

	mu        sync.Mutex
	producers map[string]*Producer // by partition
}

func (t *Transactions) on() bool { return t.Options != nil }

// Producer returns what writes in the transactions of a partition that this process owns; nil: it does not.
func (t *Transactions) Producer(partition string) *Producer {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.producers[partition]
}

func (t *Transactions) set(partition string, p *Producer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.producers == nil {
		t.producers = map[string]*Producer{}
	}
	if t.producers[partition] = p; p == nil {
		delete(t.producers, partition)
	}
}

// Producer writes in the transactions of one tenure. Produce and Fail are safe for concurrent use.
type Producer struct {
	id     string // transactional
	client *kgo.Client
	gone   func(error) // is told once that the transaction is lost
	shown  int64       // see Shown

	mu      sync.Mutex
	begun   bool // a transaction
	written bool // it has a message
	failed  error
}

// explicit are versions of the protocol in which a client says itself what a transaction is about to hold. In the later ones
// (KIP-890, part 2) it goes without saying, for which the library has no call that would add offsets.
func explicit() *kversion.Versions {
	v := kversion.Stable()
	v.SetMaxKeyVersion(int16(kmsg.EndTxn), 4)
	v.SetMaxKeyVersion(int16(kmsg.TxnOffsetCommit), 4)
	return v
}

// newProducer takes the partition's transactional id. The last owner's transaction is over when it returns.
func (t *tenure) newProducer(ctx context.Context) (*Producer, error) {
	opts, err := t.run.cfg.options(t.run.conn.dial)
	if err != nil {
		return nil, stream.Fatal(err)
	}
	p := &Producer{id: t.run.cfg.Group + "/" + t.String()}
	p.gone = func(err error) {
		t.run.log.Warn("a transaction is lost; its records are read again", "partition", t.String(), "error", err)
		t.run.again(t)
	}
	join := t.run.transactions
	p.client, err = kgo.NewClient(append(append(opts, join.Options()...), kgo.WithLogger(&logger{t.run.log}),
		kgo.TransactionalID(p.id), kgo.TransactionTimeout(join.Timeout), kgo.MaxVersions(explicit()))...)
	if err != nil {
		return nil, stream.Fatal(err)
	}
	if _, _, err = p.client.ProducerID(ctx); err == nil {
		return p, nil
	}
	p.client.Close()
	if errors.Is(err, kerr.InvalidTransactionTimeout) {
		return nil, stream.Fatal(fmt.Errorf("the brokers take no transactions of %v: set transaction_timeout to their transaction.max.timeout.ms or less: %w", join.Timeout, err))
	}
	return nil, p.denied(err)
}

// denied is err, as a FatalError if it is about who we are and what we may do.
func (p *Producer) denied(err error) error {
	if errors.Is(err, kerr.TransactionalIDAuthorizationFailed) {
		return stream.Fatal(fmt.Errorf("the brokers do not allow it; the user needs WRITE and DESCRIBE on the transactional id %s: %w", p.id, err))
	}
	if f := denied(err); f != nil {
		return f
	}
	return err
}

// Shown is the offset of the source before which every record's messages are seen, by an earlier commit. Such a record comes again when
// the engine goes back behind a commit whose staged data is gone.
func (p *Producer) Shown() int64 { return p.shown }

var errOver = errors.New("the transaction is lost")

// Produce sends m in the partition's transaction, which it begins where there is none, and calls done with the outcome. ctx bounds how
// long m waits to be sent; a message that was given up may be in the transaction, so Fail must follow.
func (p *Producer) Produce(ctx context.Context, m *kgo.Record, done func(error)) {
	if err := p.begin(); err != nil {
		done(err)
		return
	}
	p.client.Produce(ctx, m, func(_ *kgo.Record, err error) {
		if err == nil {
			p.mu.Lock()
			p.written = true
			p.mu.Unlock()
		}
		done(err)
	})
}

func (p *Producer) begin() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed != nil || p.begun {
		return p.failed
	}
	if err := p.client.BeginTransaction(); err != nil {
		return fmt.Errorf("begin a transaction: %w", err)
	}
	p.begun = true
	return nil
}

// Fail gives the transaction up. What was produced in it is never seen; the source reads its records again.
func (p *Producer) Fail(err error) {
	p.mu.Lock()
	first := p.failed == nil
	if first {
		p.failed = fmt.Errorf("%w: %w", errOver, err)
	}
	p.mu.Unlock()
	if first {
		p.client.Close()
		p.gone(err)
	}
}

// holds says whether there is a transaction, and whether it has a message.
func (p *Producer) holds() (begun, written bool) {
	if p == nil {
		return false, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.begun, p.written
}

// end ends the transaction. After an error nobody knows whether it did.
func (p *Producer) end(ctx context.Context, how kgo.TransactionEndTry) error {
	if err := p.client.EndTransaction(ctx, how); err != nil {
		return fmt.Errorf("end the transaction: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun, p.written = false, false
	return nil
}

// Abort ends the transaction. What was produced in it is never seen.
func (p *Producer) Abort(ctx context.Context) {
	if begun, _ := p.holds(); begun {
		if err := p.end(ctx, kgo.TryAbort); err != nil {
			p.Fail(err)
		}
	}
}

// close ends the producer. Readers do not have to wait until a transaction that it leaves times out.
func (p *Producer) close() {
	p.mu.Lock()
	open := p.begun && p.failed == nil
	p.failed = errOver
	p.mu.Unlock()
	if open {
		ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
		defer cancel()
		_ = p.client.EndTransaction(ctx, kgo.TryAbort)
	}
	p.client.Close()
}

// sendWithin sends f in the transaction, and ends that: this is the decision. After an error that leaves open whether it was made the
// tenure is over, and its successor finds out. A transaction of which all was refused is of no use, and f goes without one.
func (t *tenure) sendWithin(f *flight) {
	defer close(f.done)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-t.gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	_, written := t.producer.holds()
	if written {
		if f.err = t.addOffset(ctx, f.mark, f.metadata); f.err == nil {
			f.err = t.producer.end(ctx, kgo.TryCommit)
		}
	} else {
		f.err = t.producer.end(ctx, kgo.TryAbort)
	}
	var fatal *stream.FatalError
	switch {
	case f.err == nil && !written:
		alone := t.sendAlone(f.mark, f.metadata)
		<-alone.done
		f.err = alone.err
	case f.err == nil || errors.As(f.err, &fatal):
	case t.isGone():
		f.err = fmt.Errorf("%w: %w", stream.ErrLost, f.err)
	default:
		t.producer.Fail(f.err)
		f.err = fmt.Errorf("%w: %w", stream.ErrLost, f.err)
	}
}

// addOffset puts m into the transaction. While the group is between two generations it waits for the new one. That the group goes on
// without this member has to be learned here: its client says so in a callback, which may wait for this commit.
func (t *tenure) addOffset(ctx context.Context, m mark, metadata string) error {
	p := t.producer
	id, epoch, err := p.client.ProducerID(ctx)
	if err != nil {
		return err
	}
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = p.id, id, epoch, t.run.cfg.Group
	added, err := add.RequestWith(ctx, p.client)
	if err == nil {
		err = kerr.ErrorForCode(added.ErrorCode)
	}
	if err != nil {
		return fmt.Errorf("add the group to the transaction: %w", p.denied(err))
	}
	for {
		err := t.offerOffset(ctx, id, epoch, m, metadata)
		if err == nil || !behind(err) {
			if out(err) {
				t.lose()
			}
			return err
		}
		select {
		case <-time.After(generationPause):
		case <-ctx.Done():
			return err
		}
	}
}

// generationPause is between two looks at what the group's generation is.
const generationPause = 50 * time.Millisecond

// behind says that the group has gone on to another generation, or is about to. If this member does so as well it can commit; else it
// is out.
func behind(err error) bool {
	return isAny(err, kerr.IllegalGeneration, kerr.StaleMemberEpoch, kerr.RebalanceInProgress, kerr.ConcurrentTransactions)
}

func (t *tenure) offerOffset(ctx context.Context, id int64, epoch int16, m mark, metadata string) error {
	member, generation := t.run.group.GroupMetadata()
	if err := t.notOut(member); err != nil { // of a newer generation than ours we would have been told
		return err
	}
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch = t.producer.id, id, epoch
	req.Group, req.MemberID, req.Generation = t.run.cfg.Group, member, generation
	if t.run.cfg.Instance != "" {
		req.InstanceID = &t.run.cfg.Instance
	}
	p := kmsg.NewTxnOffsetCommitRequestTopicPartition()
	p.Partition, p.Offset, p.LeaderEpoch, p.Metadata = t.id, m.clear, m.leader, &metadata
	topic := kmsg.NewTxnOffsetCommitRequestTopic()
	topic.Topic, topic.Partitions = t.topic, append(topic.Partitions, p)
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, t.producer.client)
	if err != nil {
		return fmt.Errorf("add the offset to the transaction: %w", t.producer.denied(err))
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return errors.New("add the offset to the transaction: the answer does not have the partition")
	}
	switch err := kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode); {
	case err == nil:
		return nil
	case errors.Is(err, kerr.OffsetMetadataTooLarge):
		return metadataTooLarge(err)
	default:
		return fmt.Errorf("add the offset to the transaction: %w", t.producer.denied(err))
	}
}
