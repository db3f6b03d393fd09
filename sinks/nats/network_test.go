//go:build real

package nats

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/network"
)

func TestRealNATSServerLosesNothingOnABadNetwork(t *testing.T) {
	s := realServer(t)
	proxy := network.New(t, strings.TrimPrefix(s.URL, "nats://"))
	js := connect(t, s.URL, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	over := func(url, name string) sinktest.UpsertBackend {
		create(t, js, jetstream.StreamConfig{Name: name, Subjects: []string{name + ".>"}, Duplicates: 5 * time.Minute})
		return sinktest.UpsertBackend{
			Schema: newSchema(t), Shape: sinktest.Log,
			New: func(t *testing.T, _ stream.Ordering) stream.Upsert {
				s, err := New(Config{URL: url, Stream: name, Subject: name + ".{user}", Key: "user", Timeout: 2 * time.Second}, Options{Name: "search", Pipeline: "clicks"})
				if err != nil {
					t.Fatal(err)
				}
				return s
			},
			Contents: func(t *testing.T) []sinktest.Held { return held(t, js, name) },
		}
	}
	sinktest.RunNetwork(t, sinktest.NetworkBackend{
		UpsertBackend: over("nats://"+proxy.Addr, "faulty"), Calm: over(s.URL, "calm"), Network: proxy,
		Restart: func(t *testing.T) {
			s.Kill()
			if err := s.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			for !js.Conn().IsConnected() {
				time.Sleep(time.Millisecond)
			}
		},
	})
	// All is within the duplicate window, so the stream itself has dropped what came again.
	if got, want := len(messages(t, js, "faulty")), len(messages(t, js, "calm")); got != want {
		t.Errorf("the stream has %d messages; want %d", got, want)
	}
}
