//go:build real

package crash

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/testenv/dynamodb"
	"github.com/millrace-io/millrace/testenv/kinesis"
	embedded "github.com/millrace-io/millrace/testenv/nats"
)

const samePipeline = `name: same
source:
  %s
decode: { format: json }
process:
  - filter: 'type != "impression" && !bot'
  - map: { country: upper(country) }
sinks:
  lake:
    parquet: { url: "%[2]s/lake", partition_by: [date], roll: { age: 300ms, idle: 100ms } }
dead_letters: { url: "%[2]s/dead" }
admin: "${ADMIN}"
`

// TestRealSameRowsFromEverySource puts the Online Retail sample into four logs, and reads each with the same pipeline but for its
// source.
func TestRealSameRowsFromEverySource(t *testing.T) {
	dir := t.TempDir()
	bin := program(t, "cmd/millrace")
	events := sample(t)
	var lakes []string
	for _, log := range []struct {
		name string
		fill func(t *testing.T, events [][]byte) (source string, env []string)
		lag  string // the metric by which it is seen that all was read
		args []string
	}{
		{"files", fillFiles, "", []string{"run", "--until-end"}},
		{"kafka", fillKafka, "millrace_partition_lag_records{", nil},
		{"nats", fillNATS, "millrace_partition_lag_records{", nil},
		{"kinesis", fillKinesis, "millrace_partition_lag_seconds{", nil},
	} {
		source, env := log.fill(t, events)
		place := filepath.Join(dir, log.name)
		file := filepath.Join(dir, log.name+".yaml")
		if err := os.WriteFile(file, fmt.Appendf(nil, samePipeline, source, place), 0o666); err != nil {
			t.Fatal(err)
		}
		m := &millrace{t: t, bin: bin, file: file, env: append(env, "ADMIN="+freeAddress(t))}
		if log.args != nil {
			cmd, said := m.command(append(log.args, file)...)
			if err := cmd.Run(); err != nil {
				t.Fatalf("%s: %v\n%s", log.name, err, said)
			}
		} else {
			m.finishWhen(func(admin string) bool { return caughtUp(admin, log.lag, 2) })
		}
		m.verify()
		lakes = append(lakes, filepath.Join(place, "lake"))
	}
	python(t, append([]string{"same"}, lakes...)...)
}

// sample is the events that millrace dev replays.
func sample(t *testing.T) [][]byte {
	t.Helper()
	packed, err := os.ReadFile("../../cmd/millrace/sample.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	text, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	var events [][]byte
	for lines := bufio.NewScanner(text); lines.Scan(); {
		events = append(events, bytes.Clone(lines.Bytes()))
	}
	if len(events) != 7853 {
		t.Fatalf("the sample has %d events; want 7853", len(events))
	}
	return events
}

func fillFiles(t *testing.T, events [][]byte) (source string, env []string) {
	dir := t.TempDir()
	for i := range 2 {
		half := bytes.Join(events[i*len(events)/2:(i+1)*len(events)/2], []byte("\n"))
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i, ".jsonl")), append(half, '\n'), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf(`files: { paths: ["%s/*.jsonl"], checkpoints: "%s" }`, dir, t.TempDir()), nil
}

func fillKafka(t *testing.T, events [][]byte) (source string, env []string) {
	broker := server(t, program(t, "testenv/cmd/broker"), "-topic", "clicks", "-partitions", "2")
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.DefaultProduceTopic("clicks"), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, e := range events {
		client.Produce(t.Context(), &kgo.Record{Value: e}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := client.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`kafka: { brokers: ["%s"], topics: [clicks] }`, broker), nil
}

func fillNATS(t *testing.T, events [][]byte) (source string, env []string) {
	s, err := embedded.Start(embedded.Options{Dir: t.TempDir(), Sync: embedded.SyncLater})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	conn, err := nats.Connect(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "CLICKS", Subjects: []string{"clicks.0", "clicks.1"}}); err != nil {
		t.Fatal(err)
	}
	for i, e := range events {
		if _, err := js.PublishAsync(fmt.Sprint("clicks.", i%2), e, jetstream.WithStallWait(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(time.Minute):
		t.Fatal("NATS does not take the events")
	}
	return fmt.Sprintf(`nats: { url: "%s", stream: CLICKS }`, s.URL()), nil
}

func fillKinesis(t *testing.T, events [][]byte) (source string, env []string) {
	streams, err := kinesis.Start(kinesis.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { streams.Close() })
	tables, err := dynamodb.Start(dynamodb.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tables.Close() })
	streams.CreateStream("clicks", 2)
	shards := streams.Shards("clicks")
	for i, e := range events {
		streams.Put("clicks", shards[i%2].ID, kinesis.Record{Key: "k", Data: e})
	}
	for _, more := range []map[string]string{streams.Env(), tables.Env()} {
		for name, value := range more {
			env = append(env, name+"="+value)
		}
	}
	return `kinesis: { stream: clicks }`, env
}
