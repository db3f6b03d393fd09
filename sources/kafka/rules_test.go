package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/broker"
)

// everyBroker runs the rules that hold on kfake and on Apache Kafka alike.
func everyBroker(t *testing.T, addr string) {
	for _, c := range []struct {
		rule string
		test func(*testing.T, *topic)
	}{
		{"only committed transactions are read", onlyCommitted},
		{"control records at the end are no loss", controlRecordsAreNoLoss},
		{"an aborted transaction at the end is no loss", abortedIsNoLoss},
		{"an added partition is found and read from its beginning", addedPartition},
		{"a partition added between two runs is read from its beginning", partitionAddedBetweenRuns},
		{"a pattern finds a new topic and reads it from its beginning", newTopicIsFound},
		{"a pattern starts where it is told in what is there at first", patternStarts},
		{"a pattern that matches nothing waits", patternWaits},
		{"a topic that is created again ends the run", createdAgain},
		{"a topic that is deleted ends the run", deleted},
		{"the group is of the configured protocol", protocolIsSpoken},
		{"the leader epoch is stored with the offset", leaderEpochIsStored},
		{"a static member comes back after a stop and after a kill", staticMember},
		{"transactions are read again as they were read", transactionsAreReadAgain},
		{"reading again begins by time", readAgainByTime},
	} {
		for _, protocol := range []string{classic, consumer} {
			t.Run(c.rule+"/"+protocol, func(t *testing.T) {
				t.Parallel()
				l := newTopic(t, addr, session, 1)
				l.protocol = protocol
				c.test(t, l)
			})
		}
	}
}

func TestEveryBroker(t *testing.T) {
	everyBroker(t, start(t, broker.Options{}).Addr)
}

// transaction is a producer's, to a topic of one partition.
func (l *topic) transaction(t *testing.T, end kgo.TransactionEndTry, values ...string) {
	t.Helper()
	l.begin(t, values...)(end)
}

// begin leaves the transaction open until the function that it returns is called.
func (l *topic) begin(t *testing.T, values ...string) (end func(kgo.TransactionEndTry)) {
	t.Helper()
	producer, err := kgo.NewClient(kgo.SeedBrokers(l.addr), kgo.TransactionalID(l.name), kgo.DefaultProduceTopic(l.name), kgo.DisableClientMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(producer.Close)
	if err := producer.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for _, v := range values {
		if err := producer.ProduceSync(t.Context(), kgo.StringRecord(v)).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	return func(how kgo.TransactionEndTry) {
		if err := producer.EndTransaction(t.Context(), how); err != nil {
			t.Fatal(err)
		}
	}
}

func onlyCommitted(t *testing.T, l *topic) {
	l.transaction(t, kgo.TryAbort, "aborted")
	l.transaction(t, kgo.TryCommit, "committed")
	l.add(t, "plain")
	j := work(t, l.source(t, newOutside(), same), nil)
	a := j.next()
	a.waitFor(t, 2)
	if got := fmt.Sprint(a.got()); got != "[committed plain]" {
		t.Errorf("delivered %v", got)
	}
	if err := j.stop(); err != nil {
		t.Error(err)
	}
	l.add(t, "more") // resume behind a control record
	again := work(t, l.source(t, newOutside(), same), nil).next()
	again.waitFor(t, 1)
	if got := fmt.Sprint(again.got()); got != "[more]" {
		t.Errorf("after the resume: %v", got)
	}
}

// caughtUp waits until a has no lag, which counts offsets.
func (c *taker) caughtUp(t *testing.T) {
	t.Helper()
	wait(t, "the partition has no lag", func() bool {
		records, _ := c.Lag()
		return records == 0
	})
}

func (l *topic) end(t *testing.T) int {
	t.Helper()
	ends, err := l.admin.ListEndOffsets(t.Context(), l.name)
	if err != nil {
		t.Fatal(err)
	}
	end, _ := ends.Lookup(l.name, 0)
	return int(end.Offset)
}

func (l *topic) checkpoint(t *testing.T) (stream.Checkpoint, bool) {
	t.Helper()
	found, err := l.source(t, newOutside(), same).Checkpoints(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, ok := found[l.Partition(0)]
	return c, ok
}

func controlRecordsAreNoLoss(t *testing.T, l *topic) {
	l.transaction(t, kgo.TryCommit, "a", "b")
	l.transaction(t, kgo.TryAbort, "c")
	j := work(t, l.source(t, newOutside(), same), nil)
	a := j.next()
	a.waitFor(t, 2)
	a.caughtUp(t)
	if err := j.stop(); err != nil {
		t.Fatal(err)
	}
	l.Trim(t, 0, l.end(t)) // as retention does, also to control records
	if c, ok := l.checkpoint(t); !ok || c.Pos != stream.OffsetPosition(1) {
		t.Errorf("checkpoint %v, %v; want the last record's, 1", c.Pos, ok)
	}
	j = work(t, l.source(t, newOutside(), same), nil)
	again := j.next()
	l.add(t, "d")
	again.waitFor(t, 1)
	if c, ok := again.Committed(); !ok || c.Pos != stream.OffsetPosition(1) || again.got()[0] != "d" {
		t.Errorf("committed %v, %v; delivered %v", c.Pos, ok, again.got())
	}
	if err := j.stop(); err != nil {
		t.Error(err)
	}
}

// Nothing is ever committed here, so the source alone can say how far it is.
func abortedIsNoLoss(t *testing.T, l *topic) {
	l.transaction(t, kgo.TryAbort, "a", "b")
	j := work(t, l.source(t, newOutside(), same), nil)
	j.next().caughtUp(t)
	if err := j.stop(); err != nil {
		t.Fatal(err)
	}
	l.Trim(t, 0, l.end(t))
	if c, ok := l.checkpoint(t); ok {
		t.Errorf("checkpoint %v, of nothing", c.Pos)
	}
	j = work(t, l.source(t, newOutside(), same), nil)
	again := j.next()
	l.add(t, "c")
	again.waitFor(t, 1)
	if err := j.stop(); err != nil {
		t.Error(err)
	}
}

// produce writes to another partition or topic, which the producer has to find first.
func (l *topic) produce(t *testing.T, name string, partition int32, value string) {
	t.Helper()
	wait(t, "the producer knows the partition", func() bool {
		l.client.ForceMetadataRefresh()
		return l.client.ProduceSync(t.Context(), &kgo.Record{Topic: name, Partition: partition, Value: []byte(value)}).FirstErr() == nil
	})
}

func (l *topic) grow(t *testing.T, partitions int) {
	t.Helper()
	if _, err := l.admin.CreatePartitions(t.Context(), partitions, l.name); err != nil {
		t.Fatal(err)
	}
}

func (l *topic) create(t *testing.T, name string) {
	t.Helper()
	if _, err := l.admin.CreateTopic(t.Context(), 1, 1, nil, name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.admin.DeleteTopics(context.Background(), name) })
}

// tenureOf waits for the tenure of a partition.
func (j *job) tenureOf(partition string) *taker {
	j.t.Helper()
	for {
		if c := j.next(); c.Partition() == partition {
			return c
		}
	}
}

func fromLatest(c *Config) { c.Start = latest }

func addedPartition(t *testing.T, l *topic) {
	l.add(t, "old")
	j := work(t, l.source(t, newOutside(), fromLatest), nil)
	first := j.next()
	l.add(t, "new")
	first.waitFor(t, 1)
	l.grow(t, 2)
	l.produce(t, l.name, 1, "added")
	j.tenureOf(l.Partition(1)).waitFor(t, 1)
	if got := fmt.Sprint(first.got()); got != "[new]" {
		t.Errorf("the first partition delivered %v", got)
	}
}

func partitionAddedBetweenRuns(t *testing.T, l *topic) {
	l.add(t, "old")
	j := work(t, l.source(t, newOutside(), fromLatest), nil)
	a := j.next()
	l.add(t, "new")
	a.waitFor(t, 1)
	j.stop()
	l.grow(t, 2)
	l.produce(t, l.name, 1, "added")
	work(t, l.source(t, newOutside(), fromLatest), nil).tenureOf(l.Partition(1)).waitFor(t, 1)
}

func (l *topic) byPattern(c *Config) { c.Topics, c.Start = []string{"/" + l.name + "(-.*)?/"}, latest }

func newTopicIsFound(t *testing.T, l *topic) {
	j := work(t, l.source(t, newOutside(), l.byPattern), nil)
	first := j.next()
	l.add(t, "first")
	first.waitFor(t, 1)
	l.create(t, l.name+"-while-running")
	l.create(t, "other-"+l.name)
	l.produce(t, l.name+"-while-running", 0, "a")
	found := j.tenureOf(l.name + "-while-running-0")
	found.waitFor(t, 1)
	if err := j.stop(); err != nil {
		t.Error(err)
	}
	l.create(t, l.name+"-between-runs")
	l.produce(t, l.name+"-between-runs", 0, "b")
	work(t, l.source(t, newOutside(), l.byPattern), nil).tenureOf(l.name+"-between-runs-0").waitFor(t, 1)
	names := []string{}
	for c := range must(l.source(t, newOutside(), l.byPattern).Checkpoints(t.Context())) {
		names = append(names, c)
	}
	if slices.Sort(names); !slices.Equal(names, []string{l.Partition(0), l.name + "-while-running-0"}) {
		t.Errorf("checkpoints of %v", names)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func patternStarts(t *testing.T, l *topic) {
	l.create(t, l.name+"-second")
	l.add(t, "old")
	l.produce(t, l.name+"-second", 0, "old")
	j := work(t, l.source(t, newOutside(), l.byPattern), nil)
	tenures := []*taker{j.next(), j.next()}
	l.add(t, "new")
	l.produce(t, l.name+"-second", 0, "new")
	for _, c := range tenures {
		c.waitFor(t, 1)
		if got := fmt.Sprint(c.got()); got != "[new]" {
			t.Errorf("%s delivered %v", c.Partition(), got)
		}
	}
}

func patternWaits(t *testing.T, l *topic) {
	j := work(t, l.source(t, newOutside(), func(c *Config) { c.Topics = []string{"/" + l.name + "-later/"} }), nil)
	l.create(t, l.name+"-later")
	l.produce(t, l.name+"-later", 0, "a")
	j.tenureOf(l.name+"-later-0").waitFor(t, 1)
}

func (l *topic) remove(t *testing.T) {
	t.Helper()
	if _, err := l.admin.DeleteTopic(t.Context(), l.name); err != nil {
		t.Fatal(err)
	}
}

func createdAgain(t *testing.T, l *topic) {
	for range 3 {
		l.add(t, "old")
	}
	j := work(t, l.source(t, newOutside(), same), nil)
	a := j.next()
	a.waitFor(t, 3)
	l.remove(t)
	wait(t, "the topic is there again", func() bool {
		_, err := l.admin.CreateTopic(t.Context(), 1, 1, nil, l.name)
		return err == nil || errors.Is(err, kerr.TopicAlreadyExists)
	})
	l.client = newProducer(t, l.addr) // the other one waits for the old topic
	for range 6 {                     // also where the old one was read up to
		l.produce(t, l.name, 0, "another topic's")
	}
	err := j.result()
	var fatal *stream.FatalError
	if !errors.As(err, &fatal) || !strings.Contains(err.Error(), "deleted and created again") && !strings.Contains(err.Error(), "was deleted while it was read") {
		t.Errorf("%v; want a word on the topic", err)
	}
	if got := a.got(); slices.Contains(got, "another topic's") {
		t.Errorf("delivered %v", got)
	}
}

func deleted(t *testing.T, l *topic) {
	l.add(t, "old")
	j := work(t, l.source(t, newOutside(), same), failDrain)
	j.next().waitFor(t, 1)
	l.remove(t)
	if err := j.result(); err == nil || !strings.Contains(err.Error(), "was deleted while it was read") {
		t.Errorf("%v; want a word on the topic", err)
	}
}

func protocolIsSpoken(t *testing.T, l *topic) {
	work(t, l.source(t, newOutside(), same), nil).next()
	wait(t, "the group is listed", func() bool {
		groups, err := l.admin.ListGroupsByType(t.Context(), []string{l.protocol})
		return err == nil && slices.Contains(groups.Groups(), l.name)
	})
}

func leaderEpochIsStored(t *testing.T, l *topic) {
	l.add(t, "a")
	j := work(t, l.source(t, newOutside(), same), nil)
	j.next().waitFor(t, 1)
	if err := j.stop(); err != nil {
		t.Fatal(err)
	}
	found, err := l.admin.FetchOffsets(t.Context(), l.name)
	if o, ok := found.Lookup(l.name, 0); err != nil || !ok || o.At != 1 || o.LeaderEpoch < 0 {
		t.Errorf("the group has %+v, %v; want offset 1 with a leader epoch", o.Offset, err)
	}
}

func staticMember(t *testing.T, l *topic) {
	named := func(c *Config) { c.Instance = "one" }
	l.add(t, "a")
	j := work(t, l.source(t, newOutside(), named), nil)
	j.next().waitFor(t, 1)
	if err := j.stop(); err != nil {
		t.Fatal(err)
	}
	o := newOutside()
	killed := work(t, l.source(t, o, named), failDrain).next()
	o.sever()
	l.add(t, "b")
	back := work(t, l.source(t, newOutside(), named), nil).next()
	back.waitFor(t, 1)
	if got := back.got(); got[0] != "b" || back.Epoch() <= killed.Epoch() {
		t.Errorf("delivered %v with epoch %d after %d", got, back.Epoch(), killed.Epoch())
	}
}

// cut makes the broker say that the leader epoch of what was read ended at an offset; -1: that it does not know.
func cut(b *broker.Broker, end *atomic.Int64) {
	b.ControlKey(int16(kmsg.OffsetForLeaderEpoch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.KeepControl()
		asked := req.(*kmsg.OffsetForLeaderEpochRequest)
		resp := asked.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
		for _, topic := range asked.Topics {
			rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
			rt.Topic = topic.Topic
			for _, p := range topic.Partitions {
				rp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
				rp.Partition, rp.LeaderEpoch, rp.EndOffset = p.Partition, p.LeaderEpoch, end.Load()
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
}

// The log is as long as before, so only the leader epoch says that it is another one.
func TestLogThatWasCutAndRefilledIsAnError(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{})
	l := newTopic(t, b.Addr, session, 1)
	l.add(t, "a", "b", "c")
	j := work(t, l.source(t, newOutside(), same), nil)
	j.next().waitFor(t, 3)
	j.stop()
	var end atomic.Int64
	end.Store(2)
	cut(b, &end)
	j = work(t, l.source(t, newOutside(), same), nil)
	err := j.result()
	var fatal *stream.FatalError
	if !errors.As(err, &fatal) || !strings.Contains(err.Error(), "offsets 2 to 2 of the log") || !strings.Contains(err.Error(), "--to-offset 2") {
		t.Errorf("%v; want what is lost and what to do", err)
	}
	end.Store(-1)
	again := work(t, l.source(t, newOutside(), same), nil).next()
	l.add(t, "d")
	again.waitFor(t, 1)
}

func TestLogThatIsCutWhileItIsReadIsAnError(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{})
	l := newTopic(t, b.Addr, session, 1)
	l.add(t, "a", "b", "c")
	j := work(t, l.source(t, newOutside(), same), failDrain)
	j.next().waitFor(t, 3)
	var end atomic.Int64
	end.Store(1)
	cut(b, &end)
	if err := b.MoveTopicPartition(l.name, 0, 0); err != nil { // a new leader epoch
		t.Fatal(err)
	}
	if err := j.result(); err == nil || !strings.Contains(err.Error(), "offsets 1 to 2 of the log") {
		t.Errorf("%v; want what is lost", err)
	}
}

// The control record may come before the engine's commit, or after it, when the source alone stores that it was there.
func TestControlRecordOfAnotherLeaderIsNoLoss(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{})
	for rule, early := range map[string]bool{"before the commit": false, "after the commit": true} {
		t.Run(rule, func(t *testing.T) {
			l := newTopic(t, b.Addr, session, 1)
			l.add(t, "a")
			j := work(t, l.source(t, newOutside(), same), func(j *job) {
				j.drain = func(c *taker) error {
					if early {
						return nil
					}
					return c.Commit(t.Context(), c.checkpoint())
				}
			})
			a := j.next()
			a.waitFor(t, 1)
			if early {
				if err := a.Commit(t.Context(), a.checkpoint()); err != nil {
					t.Fatal(err)
				}
			}
			end := l.begin(t, "aborted")
			if err := b.MoveTopicPartition(l.name, 0, 0); err != nil { // a new leader epoch
				t.Fatal(err)
			}
			end(kgo.TryAbort)
			wait(t, "the control record is read", func() bool { return a.Assignment.(*tenure).next.Load() == int64(l.end(t)) })
			if err := j.stop(); err != nil {
				t.Fatal(err)
			}
			j = work(t, l.source(t, newOutside(), same), nil)
			again := j.next()
			l.add(t, "b")
			again.waitFor(t, 1)
			if err := j.stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTopicMayBeUnknownForAMoment(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{})
	l := newTopic(t, b.Addr, session, 1)
	l.add(t, "a")
	looks := 0
	b.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		asked := req.(*kmsg.MetadataRequest)
		b.KeepControl()
		if len(asked.Topics) != 1 || asked.Topics[0].Topic == nil || *asked.Topics[0].Topic != l.name {
			return nil, nil, false
		}
		if looks++; looks > 2 {
			b.DropControl()
			return nil, nil, false
		}
		resp := asked.ResponseKind().(*kmsg.MetadataResponse)
		topic := kmsg.NewMetadataResponseTopic()
		topic.Topic, topic.ErrorCode = &l.name, kerr.UnknownTopicOrPartition.Code
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	work(t, l.source(t, newOutside(), func(c *Config) { c.Refresh = time.Minute }), nil).next().waitFor(t, 1) // however long the client remembers
}

// The client falls back to classic when its first join is refused, and tries for ever when that is not the first answer.
func TestBrokersWithoutProtocolConsumerEndTheRun(t *testing.T) {
	t.Parallel()
	for _, first := range []*kerr.Error{kerr.UnsupportedVersion, kerr.CoordinatorNotAvailable} {
		t.Run(first.Message, func(t *testing.T) {
			b := start(t, broker.Options{})
			b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.ConsumerGroupHeartbeat}, Err: first, Count: 1})
			b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.ConsumerGroupHeartbeat}, Err: kerr.UnsupportedVersion, Count: -1})
			l := newTopic(t, b.Addr, session, 1)
			l.protocol = consumer
			fallsBack(t, l)
		})
	}
}

func fallsBack(t *testing.T, l *topic) {
	t.Helper()
	l.add(t, "a")
	j := work(t, l.source(t, newOutside(), same), nil)
	err := j.result()
	var fatal *stream.FatalError
	if !errors.As(err, &fatal) || !strings.Contains(err.Error(), "set protocol to classic") {
		t.Errorf("%v; want a word on the protocol", err)
	}
	select {
	case c := <-j.tenures:
		t.Errorf("%s was assigned", c.Partition())
	default:
	}
}

func TestCommitKnowsTheLeaderEpochOfItsPosition(t *testing.T) {
	m := &tenure{mark: mark{next: 5, clear: 6, leader: 3}, run: &run{}}
	m.begun(6)
	if at := []int32{m.leaderAt(5), m.leaderAt(4)}; !slices.Equal(at, []int32{3, -1}) {
		t.Errorf("before anything is read: %v", at)
	}
	m.received(batch{first: 6, next: 10, leader: 3})
	m.received(batch{first: 10, next: 20, leader: 5})
	m.received(batch{first: 20, next: 30, leader: 5})
	if at := []int32{m.leaderAt(9), m.leaderAt(10), m.leaderAt(29)}; !slices.Equal(at, []int32{3, 5, 5}) {
		t.Errorf("leader epochs %v", at)
	}
	m.committedTo(10)
	if m.leaderAt(9) != 3 {
		t.Error("the same commit has another leader epoch the second time")
	}
	if m.committedTo(11); len(m.leaders) != 1 {
		t.Errorf("%d leader epochs are kept", len(m.leaders))
	}
}

func TestBatchHasOneLeaderEpochAndNoControlRecords(t *testing.T) {
	var in []*kgo.Record
	for n, epoch := range []int32{1, 1, 2, 2} {
		in = append(in, &kgo.Record{Offset: int64(n), LeaderEpoch: epoch, Value: []byte("v"), Timestamp: time.Now()})
	}
	got := convert(in)
	if len(got) != 2 || got[0].leader != 1 || got[0].first != 0 || got[0].next != 2 || got[1].leader != 2 || got[1].first != 2 || len(got[1].records) != 2 {
		t.Errorf("%+v", got)
	}
}
