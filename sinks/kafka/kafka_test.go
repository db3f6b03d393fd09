package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sinks/origin"
	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/broker"
	"github.com/millrace-io/millrace/testenv/network"
)

// Mutations seen red (line broken -> test):
//
//	Send: no position header -> Rules/AReplayChangesNothing
//	Encode: the size is not looked at -> WhatIsTooLargeIsADeadLetter
//	meaning: a message that is too large is sent again -> WhatIsTooLargeIsADeadLetter
//	reason: what the client says counts; nobody was late -> ASinkWithoutAnswersSaysWhy
//	New: Order Any -> Rules/EveryWriteArrivesOnceWithAllItSays
//	New: Order InTurn -> RepeatsDropNothingThatIsNew
//	New: messages without a key go to any partition -> RepeatsDropNothingThatIsNew

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "8"); err != nil { // sessions that lapse are waited for
		panic(err)
	}
	goleak.VerifyTestMain(m, network.Leftovers()...)
}

// faulty makes connections on which requests to produce fail as planned.
type faulty struct{ sinktest.Faults }

func (f *faulty) dial(ctx context.Context, network, host string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, host)
	return &faultyConn{Conn: c, f: f}, err
}

type faultyConn struct {
	net.Conn
	f    *faulty
	deaf atomic.Bool // what the broker answers is lost
}

// Write looks at whole requests: the client writes each at once. Bytes 4 and 5 are the kind; 0 is to produce.
func (c *faultyConn) Write(b []byte) (int, error) {
	if len(b) < 6 || binary.BigEndian.Uint16(b[4:]) != 0 {
		return c.Conn.Write(b)
	}
	fault, ok := c.f.Next()
	switch {
	case !ok:
		return c.Conn.Write(b)
	case fault == sinktest.LostAnswer:
		c.deaf.Store(true)
		return c.Conn.Write(b)
	case fault == sinktest.Hang:
		return len(b), nil // no answer comes
	}
	_ = c.Conn.Close()
	return 0, errors.New("the connection is cut")
}

func (c *faultyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.deaf.Load() {
		_ = c.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

func newSchema(t testing.TB) *stream.Schema {
	t.Helper()
	s, err := stream.NewSchema()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func connect(t testing.TB, address string) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.FetchMaxWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// messages are all of a topic, partition after partition.
func messages(t testing.TB, address, topic string) []*kgo.Record {
	t.Helper()
	c := connect(t, address)
	defer c.Close()
	ends, err := kadm.NewClient(c).ListEndOffsets(t.Context(), topic)
	if err != nil || ends.Error() != nil {
		t.Fatal(err, ends.Error())
	}
	left := map[int32]int64{}
	from := map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
			from[o.Partition] = kgo.NewOffset().AtStart()
		}
	})
	c.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: from})
	var out []*kgo.Record
	for len(left) > 0 {
		fetches := c.PollFetches(t.Context())
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			out = append(out, r)
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	return out
}

// backend is a topic of a broker.
func backend(t *testing.T, address, topic string) sinktest.UpsertBackend {
	f := new(faulty)
	schema := newSchema(t)
	return sinktest.UpsertBackend{
		Schema: schema, Shape: sinktest.Log, Fail: f.Set,
		New: func(t *testing.T, _ stream.Ordering) stream.Upsert {
			s, err := New(Config{Brokers: []string{address}, Topic: topic, Key: "user", MaxMessage: 100_000}, Options{Name: "search", Pipeline: "clicks", dial: f.dial})
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
		Poison:   func(e *stream.Event) { e.Values[stream.URL] = stream.StringValue(strings.Repeat("x", 200_000)) },
		Contents: func(t *testing.T) []sinktest.Held { return held(t, address, topic) },
	}
}

func held(t *testing.T, address, topic string) []sinktest.Held {
	t.Helper()
	var out []sinktest.Held
	for _, m := range messages(t, address, topic) {
		h := sinktest.Held{ID: string(m.Key), Values: string(m.Value)}
		h.Place, _ = stream.ParseVersion(string(header(m, origin.PositionHeader)))
		h.Place.Partition = string(header(m, origin.PartitionHeader))
		out = append(out, h)
	}
	return out
}

func TestTheBrokerInProcessKeepsTheRulesOfAnUpsertSink(t *testing.T) {
	b, err := broker.Start(broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	topics := 0
	sinktest.RunUpsert(t, func(t *testing.T) sinktest.UpsertBackend {
		topics++
		topic := fmt.Sprintf("out-%d", topics)
		if err := b.CreateTopic(topic, 3, nil); err != nil {
			t.Fatal(err)
		}
		return backend(t, b.Addr, topic)
	})
}

// The client gives its records up with its own words, to all requests; the sink says what went wrong.
func TestASinkWithoutAnswersSaysWhy(t *testing.T) {
	b, err := broker.Start(broker.Options{Topics: []string{"out"}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for want, dial := range map[string]func(context.Context, string, string) (net.Conn, error){
		"no answer within 400ms": func(ctx context.Context, network, host string) (net.Conn, error) {
			f := new(faulty)
			f.Set(slices.Repeat([]sinktest.Fault{sinktest.Hang}, 1000)...)
			return f.dial(ctx, network, host)
		},
		"no broker is reached": func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no way") },
	} {
		schema := newSchema(t)
		s, err := New(Config{Brokers: []string{b.Addr}, Topic: "out", Timeout: 400 * time.Millisecond}, Options{Name: "search", dial: dial})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 8 { // on all lanes
			w, err := s.Writer(stream.Tenure{Partition: fmt.Sprint(i), Schema: schema})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			w.Write(sinktest.Events(schema)(0, 20))
		}
		for seen := uint64(0); seen < 8; time.Sleep(time.Millisecond) { // a real client
			now := s.Stats()
			if now.Failed > seen && !strings.HasPrefix(now.Failing, want) {
				t.Fatalf("the sink fails with %q; want %q", now.Failing, want)
			}
			seen = now.Failed
		}
	}
}

func TestProbeAndWritesSayWhatIsWrong(t *testing.T) {
	b, err := broker.Start(broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s, err := New(Config{Brokers: []string{b.Addr}, Topic: "nope"}, Options{Name: "search"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "there is no topic nope; create it") {
		t.Errorf("probe returns %v", err)
	}
}

func TestAProbeWaitsForATopicThatWasJustCreatedAndLooksAtItsSize(t *testing.T) {
	b, err := broker.Start(broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	c := connect(t, b.Addr)
	defer c.Close()
	asked := make(chan struct{}, 100)
	b.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.KeepControl()
		if topics := req.(*kmsg.MetadataRequest).Topics; len(topics) == 1 && topics[0].Topic != nil && *topics[0].Topic == "late" {
			asked <- struct{}{}
		}
		return nil, nil, false
	})
	s, err := New(Config{Brokers: []string{b.Addr}, Topic: "late"}, Options{Name: "search"})
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan error, 1)
	go func() { said <- s.Probe(t.Context()) }()
	<-asked
	small := "20000"
	if _, err := kadm.NewClient(c).CreateTopic(t.Context(), 1, 1, map[string]*string{"max.message.bytes": &small}, "late"); err != nil {
		t.Fatal(err)
	}
	want := "topic late takes 20000 bytes; set max_message to 18976 or less, or its max.message.bytes to 1001024 or more"
	if err := <-said; err == nil || err.Error() != want {
		t.Errorf("probe returns %v; want %s", err, want)
	}
}

// A message is too large by itself, or with the headers that say where it comes from.
func TestWhatIsTooLargeIsADeadLetter(t *testing.T) {
	b, err := broker.Start(broker.Options{Topics: []string{"out"}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	schema := newSchema(t)
	for _, c := range []struct {
		partition string
		value     int // bytes
		want      string
	}{
		{"p", 4 << 10, "max_message is 2048"},
		{strings.Repeat("p", 4<<10), 1, kerr.MessageTooLarge.Message},
	} {
		s, err := New(Config{Brokers: []string{b.Addr}, Topic: "out", MaxMessage: 2 << 10, Value: "record"}, Options{Name: "out"})
		if err != nil {
			t.Fatal(err)
		}
		w, err := s.Writer(stream.Tenure{Partition: c.partition, Schema: schema})
		if err != nil {
			t.Fatal(err)
		}
		events := sinktest.Events(schema)(0, 1)
		events[0].Record.Value = make([]byte, c.value)
		w.Write(events)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		dead, err := w.Flush(ctx)
		cancel()
		w.Close()
		if err != nil || len(dead) != 1 {
			t.Errorf("flush returns %d dead letters and %v; want one", len(dead), err)
		} else if !strings.Contains(dead[0].Err, c.want) {
			t.Errorf("the dead letter says %s; want %s", dead[0].Err, c.want)
		}
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	err := (&Config{Value: "xml", Delay: -1, Timeout: -1, MaxMessage: 5}).Validate()
	for _, want := range []string{"topic is empty", "brokers", "value is", "delay is", "timeout is", "max_message is 5"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	if err := (&Config{Key: "nope"}).CheckSchema(newSchema(t)); err == nil {
		t.Error("an unknown key column is accepted")
	}
}

func ExampleRepeats() {
	message := func(partition, position string) *kgo.Record {
		return &kgo.Record{Headers: []kgo.RecordHeader{
			{Key: origin.PartitionHeader, Value: []byte(partition)}, {Key: origin.PositionHeader, Value: []byte(position)},
		}}
	}
	var seen Repeats
	fmt.Println(seen.Repeated(message("clicks-0", "0000000000000007-00000000")))
	fmt.Println(seen.Repeated(message("clicks-1", "0000000000000007-00000000")))
	fmt.Println(seen.Repeated(message("clicks-0", "0000000000000007-00000001")))
	fmt.Println(seen.Repeated(message("clicks-0", "0000000000000007-00000000")))
	// Output:
	// false
	// false
	// false
	// true
}

// BenchmarkSink is the whole way of an event to a broker in this process, which counts too.
func BenchmarkSink(b *testing.B) {
	srv, err := broker.Start(broker.Options{Topics: []string{"out"}})
	if err != nil {
		b.Fatal(err)
	}
	defer srv.Close()
	s, err := New(Config{Brokers: []string{srv.Addr}, Topic: "out"}, Options{Name: "search"})
	if err != nil {
		b.Fatal(err)
	}
	schema := newSchema(b)
	w, err := s.Writer(stream.Tenure{Partition: "p", Schema: schema})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	events := sinktest.Events(schema)(0, 512)
	n := 0
	for b.Loop() {
		w.Write(events)
		n += len(events)
		if w.Buffered() > 16<<20 {
			if err := w.Wait(b.Context(), 8<<20); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/event")
}

// A reader with Repeats has every event once, in order for each partition of the source, whatever the keys.
func TestRepeatsDropNothingThatIsNew(t *testing.T) {
	b, err := broker.Start(broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, key := range []string{"user", "country"} { // the second is null: messages without a key
		t.Run(key, func(t *testing.T) {
			if err := b.CreateTopic(key, 3, nil); err != nil {
				t.Fatal(err)
			}
			f := new(faulty)
			schema := newSchema(t)
			run := func(faults ...sinktest.Fault) {
				f.Set(faults...)
				s, err := New(Config{Brokers: []string{b.Addr}, Topic: key, Key: key, Delay: time.Microsecond}, Options{Name: "out", dial: f.dial})
				if err != nil {
					t.Fatal(err)
				}
				w, err := s.Writer(stream.Tenure{Partition: "p", Schema: schema})
				if err != nil {
					t.Fatal(err)
				}
				defer w.Close()
				for n := range uint64(200) {
					events := sinktest.Events(schema)(n*10, 10)
					for i, e := range events {
						e.Values[stream.User], e.Values[stream.Country] = stream.StringValue(fmt.Sprint(i)), stream.Value{}
					}
					w.Write(events)
				}
				if _, err := w.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			run(sinktest.LostAnswer, sinktest.Unavailable, sinktest.LostAnswer)
			run() // all of it once more
			var seen Repeats
			fresh := 0
			last := map[int32]string{}
			for _, m := range messages(t, b.Addr, key) {
				if seen.Repeated(m) {
					continue
				}
				fresh++
				position := string(header(m, origin.PositionHeader))
				if position < last[m.Partition] {
					t.Fatalf("%s comes after %s", position, last[m.Partition])
				}
				last[m.Partition] = position
			}
			if len(last) < 2 {
				t.Errorf("all messages are in %d partition; want them spread", len(last))
			}
			if fresh != 2000 {
				t.Errorf("a reader has %d messages; want 2000", fresh)
			}
		})
	}
}
