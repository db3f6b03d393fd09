package kafka

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/broker"
)

// BenchmarkRead is the source alone, with a consumer that drops everything: 500 B records from a broker in this process,
// whose share the CPU profile shows apart (kfake).
func BenchmarkRead(b *testing.B) {
	server, err := broker.Start(broker.Options{Topics: []string{"clicks"}, Partitions: 4, Extra: []kfake.Opt{kfake.SyntheticFetch(kfake.SyntheticBatch{Records: 1000, RecordBytes: 500})}})
	if err != nil {
		b.Fatal(err)
	}
	defer server.Close()
	s, err := New(Config{Brokers: []string{server.Addr}, Topics: []string{"clicks"}}, Options{Pipeline: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	var left atomic.Int64
	left.Store(int64(b.N))
	b.SetBytes(500)
	b.ReportAllocs()
	b.ResetTimer()
	err = s.Run(ctx, func(a stream.Assignment) (stream.Consumer, error) { return &counter{left: &left, end: cancel}, nil })
	if err != nil {
		b.Fatal(err)
	}
}

type counter struct {
	left *atomic.Int64
	end  func()
}

func (c *counter) Start() (stream.Position, bool)          { return stream.Position{}, false }
func (c *counter) Drain(context.Context, stream.Why) error { return nil }
func (c *counter) Abort()                                  {}
func (c *counter) Deliver(_ context.Context, rs []stream.Record) error {
	if c.left.Add(-int64(len(rs))) <= 0 {
		c.end()
	}
	return nil
}
