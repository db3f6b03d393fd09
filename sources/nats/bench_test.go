package nats

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace-io/millrace/stream"
	server "github.com/millrace-io/millrace/testenv/nats"
)

// Both read one partition of 200-byte messages; the server is in the same process and shares its processors.
// go test ./sources/nats -run - -bench . -benchtime 1000000x

func filled(b *testing.B, header nats.Header) (l *log) {
	b.Helper()
	s, err := server.Start(server.Options{Dir: b.TempDir(), Sync: server.SyncLater})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(s.Close)
	nc, err := nats.Connect(s.URL())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4096))
	if err != nil {
		b.Fatal(err)
	}
	l = &log{url: s.URL(), name: "bench", period: 10 * time.Second, js: js}
	if _, err := js.CreateStream(b.Context(), jetstream.StreamConfig{Name: l.name, Subjects: []string{"bench.*"}}); err != nil {
		b.Fatal(err)
	}
	value := make([]byte, 200)
	for i := range b.N {
		m := &nats.Msg{Subject: "bench.0", Data: fmt.Appendf(value[:0], "%0200d", i), Header: header}
		if _, err := js.PublishMsgAsync(m); err != nil {
			b.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	b.ReportAllocs()
	b.ResetTimer()
	return l
}

func BenchmarkSource(b *testing.B)       { benchmarkSource(b, nil) }
func BenchmarkSourceOfKeys(b *testing.B) { benchmarkSource(b, nats.Header{KeyHeader: {"a key"}}) }

func benchmarkSource(b *testing.B, header nats.Header) {
	l := filled(b, header)
	source, err := New(Config{URL: l.url, Stream: l.name}, Options{Pipeline: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	c := &counter{left: b.N, done: cancel}
	if err := source.Run(ctx, func(stream.Assignment) (stream.Consumer, error) { return c, nil }); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/c.took.Seconds(), "msgs/s")
}

// counter is a consumer that only counts.
type counter struct {
	left  int
	began time.Time
	took  time.Duration
	done  context.CancelFunc
}

func (c *counter) Start() (stream.Position, bool) {
	c.began = time.Now()
	return stream.Position{}, false
}

func (c *counter) Deliver(_ context.Context, rs []stream.Record) error {
	if c.left -= len(rs); c.left <= 0 {
		c.took = time.Since(c.began)
		c.done()
	}
	return nil
}
func (c *counter) Drain(context.Context, stream.Why) error { return nil }
func (c *counter) Abort()                                  {}

// BenchmarkOrderedConsumer is the bare loop with the client's own ordered consumer.
func BenchmarkOrderedConsumer(b *testing.B) {
	l := filled(b, nil)
	c, err := l.js.OrderedConsumer(b.Context(), l.name, jetstream.OrderedConsumerConfig{FilterSubjects: []string{"bench.*"}})
	if err != nil {
		b.Fatal(err)
	}
	messages, err := c.Messages(jetstream.PullMaxMessages(4096))
	if err != nil {
		b.Fatal(err)
	}
	defer messages.Stop()
	began := time.Now()
	for range b.N {
		if _, err := messages.Next(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "msgs/s")
}
