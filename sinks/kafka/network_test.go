//go:build real

package kafka

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/millrace-io/millrace/sinks/origin"
	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/kafka"
	"github.com/millrace-io/millrace/testenv/network"
)

func TestRealKafkaLosesNothingOnABadNetwork(t *testing.T) {
	b, err := kafka.Start(t.Context(), kafka.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	proxy := network.New(t, b.Plain)
	// The broker names its own address in the metadata, which is not the proxy's.
	through := func(ctx context.Context, kind, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, kind, proxy.Addr)
	}
	admin := connect(t, b.Plain)
	defer admin.Close()
	over := func(topic string, dial func(context.Context, string, string) (net.Conn, error)) sinktest.UpsertBackend {
		forever := "-1" // the events are of 2010: the broker would remove them at its first look
		if _, err := kadm.NewClient(admin).CreateTopic(t.Context(), 3, 1, map[string]*string{"retention.ms": &forever}, topic); err != nil {
			t.Fatal(err)
		}
		return sinktest.UpsertBackend{
			Schema: newSchema(t), Shape: sinktest.Log,
			New: func(t *testing.T, _ stream.Ordering) stream.Upsert {
				s, err := New(Config{Brokers: []string{b.Plain}, Topic: topic, Key: "user", Timeout: 2 * time.Second}, Options{Name: "search", Pipeline: "clicks", dial: dial})
				if err != nil {
					t.Fatal(err)
				}
				return s
			},
			Contents: func(t *testing.T) []sinktest.Held { return held(t, b.Plain, topic) },
		}
	}
	faulty := over("faulty", through)
	sinktest.RunNetwork(t, sinktest.NetworkBackend{
		UpsertBackend: faulty, Calm: over("calm", nil), Network: proxy,
		Restart: func(t *testing.T) {
			b.Kill()
			if err := b.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	})
	// What readers of the topic have for it finds every repeat, and takes nothing else for one.
	var repeats Repeats
	fresh := map[string]bool{}
	all := messages(t, b.Plain, "faulty")
	for _, m := range all {
		if !repeats.Repeated(m) {
			fresh[string(header(m, origin.PartitionHeader))+" "+string(header(m, origin.PositionHeader))] = true
		}
	}
	t.Logf("%d messages, of which %d are repeats", len(all), len(all)-len(fresh))
	if want := len(messages(t, b.Plain, "calm")); len(fresh) != want {
		t.Errorf("a reader that drops repeats has %d messages; want %d", len(fresh), want)
	}
}
