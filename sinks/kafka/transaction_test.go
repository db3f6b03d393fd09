package kafka

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/sources/kafka"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/broker"
)

// Mutations seen red (line broken -> test), in sources/kafka/transaction.go unless another file is named:
//
//	close: no abort -> what a stop cannot commit holds up no reader
//	sendWithin: the offset is not in the transaction -> messages are shown with their commit, and others
//	sendWithin: after an unknown outcome the tenure goes on -> a commit that nobody heard is none
//	sendWithin: a transaction without messages is left open -> nothing but such messages is a commit too
//	newProducer: the id is taken with the first message -> a worker that was cut off in its commit is not waited for
//	behind: a member that is out is waited for -> a worker that is let go in its commit begins anew (hangs; on Apache Kafka too)
//	newProducer: the later versions of the protocol -> all
//	newProducer, denied: what no repetition mends is repeated -> TestTransactionsThatTheBrokersDoNotTakeEndTheRun (hangs)
//	Produce: nothing is ever written -> messages are shown with their commit, and others
//	tenure.go  claim: the checkpoint is read before the id is taken -> a worker that was cut off in its commit is not waited for
//	kafka.go   again: no successor -> a commit that nobody heard is none
//	the sink's sendWithin: the end of the context is not heeded -> a message without an answer is given up with its transaction
//	the sink's sendWithin: what is shown is written again, or not tried -> a commit that is taken back shows nothing twice
//	the sink's Encoder: producers are not used -> all
//	find, Probe: topics from the client's memory -> TestTopicMayBeUnknownForAMoment, TestAProbeWaitsForATopicThatWasJustCreated...
//	Probe: no look at the size -> TestAProbeWaitsForATopicThatWasJustCreatedAndLooksAtItsSize
//
// Not seen, since one of two fences is left: the offset goes without the member's generation (the producer's epoch), offsets that a
// transaction is about to change are read (the id is taken before), a commit goes as another member than the tenure's (which is
// replaced), and a member that is out begins anew at once (the new owner loses a transaction by it, and reads again). A rebalance in the middle of a commit that is not waited for, and a
// message that failed and is sent again in its transaction: the tenure ends and begins anew all the same.

// inTransactions is what holds on every broker.
func inTransactions(t *testing.T, address string) {
	for name, test := range map[string]func(*pipe){
		"messages are shown with their commit":                         shownWithTheCommit,
		"a killed worker's messages are never shown":                   killed,
		"a worker that was cut off shows nothing more":                 cutOff,
		"a worker that was cut off in its commit is not waited for":    cutOffInCommit,
		"a message without an answer is given up with its transaction": unanswered,
		"a commit whose answer is lost is one":                         lostAnswer,
		"a commit that nobody heard is none":                           lostCommit,
		"a transaction that timed out is written again":                timedOut,
		"a message that the topic does not take is a dead letter":      refused,
		"nothing but such messages is a commit too":                    allRefused,
		"partitions move while messages flow":                          moved,
		"a worker that is let go in its commit begins anew":            letGo,
		"records that make no message are committed without":           dropped,
		"what a stop cannot commit holds up no reader":                 stoppedHard,
		"what is of another source is in no transaction":               ofAnotherSource,
		"a commit that is taken back shows nothing twice":              takenBack,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newPipe(t, address))
		})
	}
}

func TestMessagesInTransactions(t *testing.T) {
	b, err := broker.Start(broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	inTransactions(t, b.Addr)
}

// slow commits only when it must.
var slow = settings{age: time.Hour}

func shownWithTheCommit(p *pipe) {
	w := p.work(slow)
	p.produce(60)
	p.until("that all is written", func() bool { return p.written() == 60 })
	if n, at := p.shown(), p.offsets(); n > 0 || at > 0 {
		p.t.Errorf("before the commit %d messages are shown, and the group is at %d", n, at)
	}
	if err := w.stop(); err != nil {
		p.t.Fatal(err)
	}
	p.check()
	if at := p.offsets(); at != 60 {
		p.t.Errorf("the group is at %d of 60", at)
	}
}

func killed(p *pipe) {
	w := p.work(slow)
	p.produce(60)
	p.until("that all is written", func() bool { return p.written() == 60 })
	w.kill()
	p.produce(40)
	w = p.work(settings{age: 50 * time.Millisecond})
	p.check()
	if n := p.written(); n != 160 {
		p.t.Errorf("%d messages are written; want those of the killed worker too", n)
	}
	if err := w.stop(); err != nil {
		p.t.Error(err)
	}
}

func cutOff(p *pipe) {
	w := p.work(slow)
	p.produce(60)
	p.until("that all is written", func() bool { return p.written() == 60 })
	w.wire.set(func(int16) fate { return freeze })
	next := p.work(settings{age: 50 * time.Millisecond})
	p.check()
	w.wire.heal()
	p.produce(20)
	if err := w.stop(); err != nil {
		p.t.Logf("the worker that was cut off: %v", err)
	}
	p.check()
	if err := next.stop(); err != nil {
		p.t.Error(err)
	}
	p.check()
}

const endTxn = int16(kmsg.EndTxn)

// The group's offset is in the transaction already: until that has an end nobody knows where to go on.
func cutOffInCommit(p *pipe) {
	w := p.work(settings{age: 300 * time.Millisecond})
	reached := make(chan struct{})
	var once sync.Once
	var over atomic.Bool
	w.wire.set(func(key int16) fate {
		if key == endTxn {
			over.Store(true)
			once.Do(func() { close(reached) })
		}
		if over.Load() {
			return freeze
		}
		return pass
	})
	p.produce(60)
	<-reached
	next := p.work(settings{age: 50 * time.Millisecond})
	p.check()
	w.wire.heal()
	_ = w.stop()
	if err := next.stop(); err != nil {
		p.t.Error(err)
	}
	p.check()
}

// once has one request of the kind that ends a transaction meet its fate; then somebody takes the transactional id.
func (p *pipe) once(w *worker, of fate) (met chan struct{}) {
	met = make(chan struct{})
	var mu sync.Mutex
	ends := 0
	w.wire.set(func(key int16) fate {
		if key != endTxn {
			return pass
		}
		mu.Lock()
		ends++
		n := ends
		mu.Unlock()
		if n == 1 {
			return of
		}
		if n == 2 {
			for i := range inPartitions {
				p.take(fmt.Sprintf("%s/%s-%d", p.in, p.in, i))
			}
			close(met)
		}
		return pass
	})
	return met
}

// take ends what goes on under a transactional id.
func (p *pipe) take(id string) {
	c, err := kgo.NewClient(kgo.SeedBrokers(p.address), kgo.TransactionalID(id))
	if err != nil {
		p.t.Error(err)
		return
	}
	defer c.Close()
	if _, _, err := c.ProducerID(p.t.Context()); err != nil {
		p.t.Error(err)
	}
}

func lostAnswer(p *pipe) { p.commitMeets(deafen, 60) }
func lostCommit(p *pipe) { p.commitMeets(cut, 120) }

func (p *pipe) commitMeets(of fate, written int) {
	p.keys = 1 // one partition
	w := p.work(settings{age: 300 * time.Millisecond})
	met := p.once(w, of)
	p.produce(60)
	<-met
	p.check()
	if n := p.written(); n != written {
		p.t.Errorf("%d messages are written for 60; want %d", n, written)
	}
	p.produce(20)
	p.check()
	if err := w.stop(); err != nil {
		p.t.Error(err)
	}
	p.check()
}

func unanswered(p *pipe) {
	w := p.work(settings{age: 50 * time.Millisecond, answer: 500 * time.Millisecond})
	var once sync.Once
	w.wire.set(func(key int16) (of fate) {
		if key == int16(kmsg.Produce) {
			once.Do(func() { of = freeze })
		}
		return of
	})
	p.produce(60)
	p.check()
	w.wire.heal() // what was frozen comes at last
	if err := w.stop(); err != nil {
		p.t.Error(err)
	}
	p.check()
}

func timedOut(p *pipe) {
	w := p.work(settings{age: 50 * time.Millisecond, timeout: time.Second})
	frozen := make(chan struct{}, 100)
	w.wire.set(func(key int16) fate {
		if key != endTxn {
			return pass
		}
		frozen <- struct{}{}
		return freeze
	})
	p.produce(60)
	<-frozen
	p.until("that the brokers end the transactions", p.settled)
	if n := p.shown(); n > 0 {
		p.t.Errorf("%d messages are shown before a commit", n)
	}
	w.wire.heal()
	p.produce(20)
	p.check()
	if err := w.stop(); err != nil {
		p.t.Error(err)
	}
	p.check()
}

// settled says that readers wait for no transaction.
func (p *pipe) settled() bool {
	p.t.Helper()
	ends, err := p.admin().ListEndOffsets(p.t.Context(), p.out)
	stable, err2 := p.admin().ListCommittedOffsets(p.t.Context(), p.out)
	if err := errors.Join(err, err2, ends.Error(), stable.Error()); err != nil {
		p.t.Fatal(err)
	}
	settled := true
	ends.Each(func(o kadm.ListedOffset) {
		s, _ := stable.Lookup(o.Topic, o.Partition)
		settled = settled && s.Offset == o.Offset
	})
	return settled
}

// apart is a key of the source's partition of key 0, in another one of the sink's: a batch is refused as a whole.
func apart() []byte {
	to := kgo.StickyKeyPartitioner(nil).ForTopic("")
	in := func(key []byte, n int) int { return to.Partition(&kgo.Record{Key: key}, n) }
	zero, key := []byte("0"), []byte("a")
	for in(key, inPartitions) != in(zero, inPartitions) || in(key, outPartitions) == in(zero, outPartitions) {
		key[0]++
	}
	return key
}

// large adds a message that the topic does not take, however it is compressed.
func (p *pipe) large() string {
	p.t.Helper()
	noise := make([]byte, 50_000)
	random := rand.New(rand.NewPCG(1, uint64(len(p.sent))))
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	p.must(nil, p.client.ProduceSync(p.t.Context(), &kgo.Record{Topic: p.in, Key: apart(), Value: noise}).FirstErr())
	p.sent = append(p.sent, string(noise))
	return string(noise)
}

func refused(p *pipe) {
	w := p.work(settings{age: 300 * time.Millisecond})
	p.produce(30)
	p.until("that all is written", func() bool { return p.written() == 30 })
	noise := p.large()
	p.until("that it is refused", func() bool { return w.engine.Stats().Sinks["out"].Refused == 1 })
	p.produce(30)
	p.check(noise)
	if err := w.stop(); err != nil {
		p.t.Error(err)
	}
	if n := w.engine.Stats().Rows[stream.DeadLetters]; n != 1 {
		p.t.Errorf("%d dead letters; want one", n)
	}
	if n, at := p.written(), p.offsets(); n != 60 || at != 61 {
		p.t.Errorf("%d messages are written, and the group is at %d; want 60 and 61", n, at)
	}
}

func allRefused(p *pipe) {
	p.large()
	w := p.work(settings{age: 100 * time.Millisecond})
	p.until("the commit", func() bool { return p.offsets() == 1 })
	open, err := p.admin().ListTransactions(p.t.Context(), nil, []string{"Ongoing"})
	for id := range open {
		if strings.HasPrefix(id, p.in+"/") {
			err = errors.Join(err, fmt.Errorf("transaction %s goes on", id))
		}
	}
	if err != nil {
		p.t.Error(err)
	}
	if err := w.stop(); err != nil {
		p.t.Error(err)
	}
	if n := w.engine.Stats().Rows[stream.DeadLetters]; n != 1 {
		p.t.Errorf("%d dead letters; want one", n)
	}
}

func moved(p *pipe) {
	fast := settings{age: 20 * time.Millisecond}
	first := p.work(fast)
	for range 20 {
		p.produce(10)
	}
	second := p.work(fast)
	p.until("that the second has a partition", func() bool {
		p.produce(10)
		return second.engine.Stats().Records > 0
	})
	if err := first.stop(); err != nil {
		p.t.Error(err)
	}
	p.produce(50)
	p.check()
	if err := second.stop(); err != nil {
		p.t.Error(err)
	}
	p.check()
}

// A member that the group let go hears it from its client when its partition is given back, which waits for the commit: that one has to
// find out by itself.
func letGo(p *pipe) {
	fast := settings{age: 50 * time.Millisecond}
	w := p.work(fast)
	p.until("that the worker has the partitions", func() bool { return p.offsets() == 0 })
	w.wire.set(func(key int16) fate {
		if key == int16(kmsg.TxnOffsetCommit) {
			return freeze
		}
		return pass
	})
	p.produce(60)
	p.until("that all is written", func() bool { return p.written() >= 60 })
	other := p.work(fast)
	p.until("that one of them is to be given back", func() bool { g := p.group(); return g.State == "Stable" && len(g.Members) == 2 })
	other.kill()
	p.empty()
	w.wire.heal()
	p.check()
	p.produce(20)
	p.check()
	if err := w.stop(); err != nil {
		p.t.Error(err)
	}
	p.check()
}

func (p *pipe) group() kadm.DescribedGroup {
	p.t.Helper()
	groups, err := p.admin().DescribeGroups(p.t.Context(), p.in)
	if err != nil || groups.Error() != nil {
		p.t.Fatal(err, groups.Error())
	}
	return groups[p.in]
}

// empty removes the members of the group.
func (p *pipe) empty() {
	p.t.Helper()
	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Group = p.in
	for _, m := range p.group().Members {
		leave.Members = append(leave.Members, kmsg.LeaveGroupRequestMember{MemberID: m.MemberID})
	}
	p.must(leave.RequestWith(p.t.Context(), p.client))
}

func dropped(p *pipe) {
	w := p.work(settings{age: 50 * time.Millisecond, where: func(*stream.Event) bool { return false }})
	p.produce(20)
	p.until("the commit", func() bool { return p.offsets() == 20 })
	if err := w.stop(); err != nil {
		p.t.Error(err)
	}
	if n := p.written(); n > 0 {
		p.t.Errorf("%d messages", n)
	}
}

func stoppedHard(p *pipe) {
	w := p.work(slow)
	p.produce(60)
	p.until("that all is written", func() bool { return p.written() == 60 })
	w.hard()
	_ = w.stop()
	p.until("that readers wait for no transaction of the worker that has stopped", p.settled)
	if n := p.shown(); n > 0 {
		p.t.Errorf("%d messages are shown of a worker that committed nothing", n)
	}
}

// A replay of dead letters has tenures of its own, which no commit of the source holds.
func ofAnotherSource(p *pipe) {
	cfg := Config{Brokers: []string{p.address}, Topic: p.out, Value: "record", Transactions: true}
	transactions := new(kafka.Transactions)
	Join(transactions, &cfg)
	sink, err := New(cfg, Options{Name: "out", Pipeline: "clicks", Transactions: transactions})
	if err != nil {
		p.t.Fatal(err)
	}
	w, err := sink.Writer(stream.Tenure{Partition: "dlq-000001/all/" + p.in + "-0", Schema: newSchema(p.t)})
	if err != nil {
		p.t.Fatal(err)
	}
	defer w.Close()
	w.Write(sinktest.Events(newSchema(p.t))(0, 10))
	if _, err := w.Flush(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	if n := p.shown(); n != 10 {
		p.t.Errorf("%d of 10 messages are shown", n)
	}
}

// vanishing is a staged sink in whose first process nothing can be published, and in whose second what the first has left is gone.
type vanishing struct {
	second bool
	asked  chan struct{} // closed at the first try
	once   sync.Once
}

func (v *vanishing) Open(context.Context, stream.Tenure) (stream.StagedWriter[*stream.Event], error) {
	return &vanishingWriter{}, nil
}

func (v *vanishing) Publish(context.Context, stream.Receipt) (err error) {
	if !v.second {
		err = errors.New("not now")
	}
	v.once.Do(func() {
		close(v.asked)
		if v.second {
			err = stream.ErrExpired
		}
	})
	return err
}

func (v *vanishing) Withdraw(context.Context, stream.Receipt) error { return nil }

type vanishingWriter struct{ rows int64 }

func (w *vanishingWriter) Write(events []*stream.Event) { w.rows += int64(len(events)) }
func (w *vanishingWriter) Upload(context.Context) error { return nil }
func (w *vanishingWriter) Buffered() int64              { return 0 }
func (w *vanishingWriter) Full() bool                   { return false }
func (w *vanishingWriter) Discard(context.Context)      {}
func (w *vanishingWriter) Stage(_ context.Context, p stream.Provenance) ([]stream.Receipt, error) {
	if w.rows == 0 {
		return nil, nil
	}
	p.File, p.Files, p.FileRows, w.rows = 1, 1, w.rows, 0
	return []stream.Receipt{{Sink: "beside", Digest: p.Digest(), Body: []byte("{}")}}, nil
}

func takenBack(p *pipe) {
	p.keys = 1
	first := &vanishing{asked: make(chan struct{})}
	w := p.work(settings{age: 300 * time.Millisecond, beside: first})
	p.produce(40)
	noise := p.large()
	<-first.asked
	w.kill()
	shown := p.shown()
	p.produce(20)
	w = p.work(settings{age: 100 * time.Millisecond, beside: &vanishing{second: true, asked: make(chan struct{})}})
	p.check(noise)
	if err := w.stop(); err != nil {
		p.t.Error(err)
	}
	if n := w.engine.Stats().Records; int(n) < shown+20 {
		p.t.Errorf("the second worker reads %d records; want the %d of the commit that was taken back again", n, shown)
	}
	letters := int64(0)
	err := p.letters().Inspect(p.t.Context(), "clicks", func(f stream.File) error {
		letters += f.Provenance.FileRows
		return f.Err
	}, nil)
	if err != nil || letters != 1 {
		p.t.Errorf("%d dead letters, %v; want one", letters, err)
	}
}

// What no repetition mends ends the run, with what to do about it.
func TestTransactionsThatTheBrokersDoNotTakeEndTheRun(t *testing.T) {
	for want, c := range map[string]struct {
		timeout time.Duration
		fault   *kerr.Error
	}{
		"set transaction_timeout to their transaction.max.timeout.ms or less": {48 * time.Hour, nil},
		"the user needs WRITE and DESCRIBE on the transactional id":           {0, kerr.TransactionalIDAuthorizationFailed},
	} {
		b, err := broker.Start(broker.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		if c.fault != nil {
			b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, Err: c.fault, Count: -1})
		}
		t.Run(want, func(t *testing.T) {
			p := newPipe(t, b.Addr)
			w := p.work(settings{age: time.Second, timeout: c.timeout})
			err := <-w.done
			w.done <- err
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("the run ends with %v; want %q", err, want)
			}
		})
	}
}
