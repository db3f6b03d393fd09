//go:build real

package crash

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace-io/millrace/testenv/clicks"
	natsd "github.com/millrace-io/millrace/testenv/nats"
)

const natsPipeline = `name: crash
source:
  nats: { url: "%[1]s", stream: CLICKS, lease: 2s }
decode: { format: json }
sinks:
  lake:
    parquet: { url: "%[2]s/lake", partition_by: [date, hour], roll: { size: 256KiB, age: 300ms, idle: 100ms } }
dead_letters: { url: "%[2]s/dead" }
admin: "${ADMIN}"
`

// TestRealCrashNATS has processes come and leave, and kills nats-server in the middle.
func TestRealCrashNATS(t *testing.T) {
	dir := t.TempDir()
	random := seed(t)
	node := filepath.Join(dir, "node")
	if err := os.Mkdir(node, 0o777); err != nil {
		t.Fatal(err)
	}
	s, err := natsd.StartProcess(t.Context(), natsd.ProcessOptions{Dir: node})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Kill() })
	file := filepath.Join(dir, "pipeline.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, natsPipeline, s.URL, dir), 0o666); err != nil {
		t.Fatal(err)
	}
	publisher := newPublisher(t, s.URL, filepath.Join(dir, "input.jsonl"))
	producing, done := context.WithCancel(t.Context())
	defer done()
	var feeding sync.WaitGroup
	feeding.Go(func() { publisher.publish(producing) })

	bin := program(t, "cmd/millrace")
	c, stopped := begin(millrace{t: t, bin: bin, file: file}, random)
	c.leave(events / 2)
	c.outage(func() {
		s.Kill()
		if err := s.Restart(t.Context()); err != nil {
			t.Error(err)
		}
	})
	stopped()
	done()
	feeding.Wait()

	c.prove(settled, dir, publisher.file)
}

// publisher writes events to a stream, a few of them broken, and what was acknowledged to a file.
type publisher struct {
	t      *testing.T
	stream jetstream.JetStream
	file   string
}

func newPublisher(t *testing.T, url, file string) *publisher {
	t.Helper()
	conn, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	p := &publisher{t: t, file: file}
	if p.stream, err = jetstream.New(conn); err != nil {
		t.Fatal(err)
	}
	subjects := []string{"clicks.0", "clicks.1", "clicks.2", "clicks.3"}
	if _, err := p.stream.CreateStream(t.Context(), jetstream.StreamConfig{Name: "CLICKS", Subjects: subjects, Duplicates: 5 * time.Minute}); err != nil {
		t.Fatal(err)
	}
	return p
}

// publish repeats what was not acknowledged; the stream knows it by its id.
func (p *publisher) publish(ctx context.Context) {
	out, err := os.Create(p.file)
	if err != nil {
		p.t.Error(err)
		return
	}
	defer out.Close()
	g := clicks.New(clicks.Config{Seed: 3, Step: time.Second, Broken: 2000})
	for n := uint64(0); ctx.Err() == nil; n++ {
		value := g.Append(nil, n)
		for end := time.Now().Add(3 * time.Minute); ; {
			limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			_, err = p.stream.Publish(limited, fmt.Sprint("clicks.", n%4), value, jetstream.WithMsgID(fmt.Sprint(n)), jetstream.WithRetryAttempts(0))
			cancel()
			if err == nil {
				break
			}
			if time.Now().After(end) {
				p.t.Errorf("the stream takes no message: %v", err)
				return
			}
		}
		fmt.Fprintf(out, "%s\n", value)
	}
}
