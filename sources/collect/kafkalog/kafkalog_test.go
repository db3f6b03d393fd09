package kafkalog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sources/collect"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/broker"
)

// Mutations of kafkalog.go seen red (line broken -> test):
//   - every outcome is success                       -> TestOneRefusedEventDoesNotTakeTheOthersWithIt
//   - a record that is too large is like any failure -> TestOneRefusedEventDoesNotTakeTheOthersWithIt
//   - records have no key                            -> TestKeysStayInOrder
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, o broker.Options) *broker.Broker {
	t.Helper()
	o.Topics = []string{"clicks"}
	b, err := broker.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func open(t *testing.T, addr, topic string) *Log {
	t.Helper()
	l, err := New(Config{Brokers: []string{addr}, Topic: topic}, 10*time.Second, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// read returns the records of the topic.
func read(t *testing.T, addr string) []*kgo.Record {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics("clicks"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableClientMetrics())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, n := deadline(t), 0
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, "clicks")
	if err != nil {
		t.Fatal(err)
	}
	ends.Each(func(end kadm.ListedOffset) { n += int(end.Offset) })
	var records []*kgo.Record
	for len(records) < n {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%d records; want %d", len(records), n)
		}
		records = append(records, fetches.Records()...)
	}
	return records
}

func TestKeysStayInOrder(t *testing.T) {
	b := start(t, broker.Options{})
	defer b.Close()
	l := open(t, b.Addr, "clicks")
	if err := l.Probe(deadline(t)); err != nil {
		t.Fatal(err)
	}
	var events []collect.Event
	for i := range 300 {
		events = append(events, collect.Event{Key: fmt.Sprintf("u%d", i%10), Value: fmt.Appendf(nil, "%03d", i)})
	}
	events = append(events, collect.Event{Value: []byte("no key")})
	if err := l.Append(deadline(t), events); err != nil {
		t.Fatal(err)
	}
	last, partition := map[string]string{}, map[string]int32{}
	records := read(t, b.Addr)
	if len(records) != len(events) {
		t.Errorf("%d records of %d events", len(records), len(events))
	}
	for _, r := range records {
		key := string(r.Key)
		if key == "" {
			if r.Key != nil {
				t.Error("an event without a key has an empty one")
			}
			continue
		}
		if p, ok := partition[key]; ok && p != r.Partition || last[key] >= string(r.Value) {
			t.Errorf("key %s: %s in partition %d after %s in %d", key, r.Value, r.Partition, last[key], p)
		}
		last[key], partition[key] = string(r.Value), r.Partition
	}
	if len(partition) != 10 {
		t.Errorf("%d keys; want 10", len(partition))
	}
}

func TestOneRefusedEventDoesNotTakeTheOthersWithIt(t *testing.T) {
	b := start(t, broker.Options{})
	defer b.Close()
	l := open(t, b.Addr, "clicks")
	err := l.Append(deadline(t), []collect.Event{{Key: "a", Value: []byte("a")}, {Key: "a", Value: make([]byte, 1<<20)}, {Key: "a", Value: []byte("b")}})
	var outcomes collect.Outcomes
	if !errors.As(err, &outcomes) || outcomes[0] != nil || !errors.Is(outcomes[1], collect.ErrTooLarge) || outcomes[2] != nil {
		t.Fatalf("%v; want the second event refused as too large", err)
	}
	if n := len(read(t, b.Addr)); n != 2 {
		t.Errorf("%d records; want 2", n)
	}
	if err := l.Append(deadline(t), []collect.Event{{Value: make([]byte, 1_000_000)}}); err != nil {
		t.Errorf("an event of the allowed size: %v", err)
	}
}

func TestAnsweredOnlyAfterTheBrokerDid(t *testing.T) {
	b := start(t, broker.Options{})
	defer b.Close()
	b.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		b.KeepControl()
		answer := r.ResponseKind().(*kmsg.ProduceResponse)
		for _, topic := range r.(*kmsg.ProduceRequest).Topics {
			at := kmsg.NewProduceResponseTopic()
			at.Topic, at.TopicID = topic.Topic, topic.TopicID
			for _, partition := range topic.Partitions {
				p := kmsg.NewProduceResponseTopicPartition()
				p.Partition, p.ErrorCode = partition.Partition, kerr.NotEnoughReplicas.Code
				at.Partitions = append(at.Partitions, p)
			}
			answer.Topics = append(answer.Topics, at)
		}
		return answer, nil, true
	})
	l := open(t, b.Addr, "clicks")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	err := l.Append(ctx, []collect.Event{{Key: "a", Value: []byte("a")}})
	var outcomes collect.Outcomes
	if !errors.As(err, &outcomes) || outcomes[0] == nil {
		t.Errorf("%v; want the event not taken while replicas are missing", err)
	}
}

func TestProbeTellsWhatWaitingMends(t *testing.T) {
	b := start(t, broker.Options{})
	var fatal *stream.FatalError
	if err := open(t, b.Addr, "other").Probe(deadline(t)); !errors.As(err, &fatal) {
		t.Errorf("no such topic: %v; want a fatal error", err)
	}
	l := open(t, b.Addr, "clicks")
	b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := l.Probe(ctx); err == nil || errors.As(err, &fatal) {
		t.Errorf("no broker: %v; want an error that passes", err)
	}
}

// The broker ends and starts again on its folder while clients send: what was accepted is in the topic.
func TestRestartedBrokerLosesNothingThatWasAccepted(t *testing.T) {
	o := broker.Options{Dir: t.TempDir()}
	b := start(t, o)
	o.Addr = b.Addr
	l := open(t, b.Addr, "clicks")
	stop, halt := context.WithCancel(t.Context())
	defer halt()
	var (
		clients  sync.WaitGroup
		mu       sync.Mutex
		accepted []string
	)
	progress := make(chan struct{}, 1)
	for c := range 3 {
		clients.Go(func() {
			for n := 0; stop.Err() == nil; n++ {
				id := fmt.Sprintf("%d-%d", c, n)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				err := l.Append(ctx, []collect.Event{{Key: id, Value: []byte(id)}})
				cancel()
				if err != nil {
					continue // a real client sends it again
				}
				mu.Lock()
				accepted = append(accepted, id)
				mu.Unlock()
				select {
				case progress <- struct{}{}:
				default:
				}
			}
		})
	}
	wait := func(n int) {
		for range n {
			select {
			case <-progress:
			case <-time.After(time.Minute):
				t.Fatal("the clients make no progress")
			}
		}
	}
	for range 2 {
		wait(20)
		b.Close()
		b = start(t, o)
	}
	wait(20)
	halt()
	clients.Wait()
	defer b.Close()
	found := map[string]bool{}
	for _, r := range read(t, b.Addr) {
		found[string(r.Value)] = true
	}
	for _, id := range accepted {
		if !found[id] {
			t.Errorf("%s was accepted and is lost", id)
		}
	}
	t.Logf("%d events accepted over two restarts", len(accepted))
}

func TestConfigNamesEveryProblem(t *testing.T) {
	err := (&Config{Linger: time.Minute, MaxEvent: 5, Brokers: []string{"x"}, Topic: "a b"}).Validate()
	for _, want := range []string{`brokers has "x"`, `topic is "a b"`, "linger is", "max_event is"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	if err := (&Config{Brokers: []string{"x:1"}}).Validate(); err == nil || err.Error() != "topic is empty; want one topic" {
		t.Errorf("%v; want one problem", err)
	}
}
