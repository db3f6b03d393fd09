//go:build real

package nats

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace-io/millrace/sinks/origin"
	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
	server "github.com/millrace-io/millrace/testenv/nats"
)

func realServer(t *testing.T, settings ...string) *server.Process {
	t.Helper()
	s, err := server.StartProcess(t.Context(), server.ProcessOptions{Dir: t.TempDir(), Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func TestRealNATSServerKeepsTheRulesOfAnUpsertSink(t *testing.T) {
	s := realServer(t)
	streams := 0
	sinktest.RunUpsert(t, func(t *testing.T) sinktest.UpsertBackend {
		streams++
		return backend(t, s.URL, fmt.Sprintf("out-%d", streams), 100*time.Millisecond)
	})
}

func TestRealUserWithoutPermissionToPublishIsTold(t *testing.T) {
	s := realServer(t, `authorization { users: [
		{ user: admin, password: right }
		{ user: reader, password: right, permissions: { publish: ["$JS.API.>"], subscribe: [">"] } }
	] }`)
	create(t, connect(t, s.URL, nats.UserInfo("admin", "right")), jetstream.StreamConfig{Name: "S", Subjects: []string{"clicks.>"}})
	_, err := writes(t, Config{URL: s.URL, Stream: "S", Subject: "clicks.{user}", User: "reader", Password: "right"}, 20)
	fatal(t, err, "allow the user to publish clicks.{user}")
}

// The process is killed while messages are on their way; a reader that drops repeats has each once, in order.
func TestRealNothingIsLostWhenTheServerIsKilled(t *testing.T) {
	s := realServer(t)
	js := connect(t, s.URL, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	create(t, js, jetstream.StreamConfig{Name: "S", Subjects: []string{"clicks.*"}})
	sink, err := New(Config{URL: s.URL, Stream: "S", Subject: "clicks.{user}", Timeout: 5 * time.Second}, Options{Name: "out", Pipeline: "clicks"})
	if err != nil {
		t.Fatal(err)
	}
	schema := newSchema(t)
	w, err := sink.Writer(stream.Tenure{Partition: "p", Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	const each = 2000
	for n := range uint64(3) {
		w.Write(sinktest.Events(schema)(n*each, each))
		for sink.Stats().Written == n*each { // until some are there
			time.Sleep(time.Millisecond)
		}
		s.Kill()
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if dead, err := w.Flush(t.Context()); err != nil || len(dead) > 0 {
			t.Fatal(len(dead), err)
		}
	}
	for !js.Conn().IsConnected() {
		time.Sleep(time.Millisecond)
	}
	var seen origin.Repeats
	fresh := 0
	for _, m := range messages(t, js, "S") {
		if !seen.Repeated(m.Header.Get(origin.PipelineHeader), m.Header.Get(origin.PartitionHeader), m.Header.Get(origin.PositionHeader)) {
			fresh++
		}
	}
	if fresh != 3*each {
		t.Errorf("a reader has %d messages; want %d", fresh, 3*each)
	}
}
