package nats

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t testing.TB, o Options) *Server {
	t.Helper()
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func connect(t testing.TB, s *Server) jetstream.JetStream {
	t.Helper()
	opts := []nats.Option{}
	if s.Addr == "" {
		opts = append(opts, nats.InProcessServer(s))
	}
	nc, err := nats.Connect(s.URL(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1024))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// A folder as a killed process leaves it: copied while the server runs, and nothing is closed.
func TestAcknowledgedMessagesSurviveTheEndOfTheProcess(t *testing.T) {
	for name, addr := range map[string]string{"listening": "", "silent": Silent} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			js := connect(t, start(t, Options{Dir: dir, Addr: addr}))
			if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
				t.Fatal(err)
			}
			bucket, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "B"})
			if err != nil {
				t.Fatal(err)
			}
			var revision uint64
			for i := range 50 {
				if _, err := js.Publish(t.Context(), "s", fmt.Append(nil, i)); err != nil {
					t.Fatal(err)
				}
				if revision, err = bucket.Update(t.Context(), "k", fmt.Append(nil, i), revision); err != nil {
					t.Fatal(err)
				}
			}
			abandoned := t.TempDir()
			if err := os.CopyFS(abandoned, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			js = connect(t, start(t, Options{Dir: abandoned}))
			s, err := js.Stream(t.Context(), "S")
			if err != nil {
				t.Fatal(err)
			}
			for i := range 50 {
				if m, err := s.GetMsg(t.Context(), uint64(i+1)); err != nil || string(m.Data) != fmt.Sprint(i) {
					t.Fatalf("message %d: %v, %v", i, m, err)
				}
			}
			if bucket, err = js.KeyValue(t.Context(), "B"); err != nil {
				t.Fatal(err)
			}
			if e, err := bucket.Get(t.Context(), "k"); err != nil || string(e.Value()) != "49" || e.Revision() != revision {
				t.Errorf("the key is %v, %v; want 49 with revision %d", e, err, revision)
			}
			if ack, err := js.Publish(t.Context(), "s", nil); err != nil || ack.Sequence != 51 {
				t.Errorf("the next message: %v, %v; want sequence 51", ack, err)
			}
		})
	}
}

// What a crash cut in half was not acknowledged, and does not keep the server from starting.
func TestHalfWrittenMessageIsForgotten(t *testing.T) {
	dir := t.TempDir()
	s := start(t, Options{Dir: dir})
	js := connect(t, s)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := js.Publish(t.Context(), "s", make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	abandoned := t.TempDir()
	if err := os.CopyFS(abandoned, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	cut := 0
	err := filepath.WalkDir(abandoned, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".blk") {
			info, err := d.Info()
			if err != nil {
				return err
			}
			cut++
			return os.Truncate(path, info.Size()-500)
		}
		return err
	})
	if err != nil || cut != 1 {
		t.Fatalf("cut %d files: %v", cut, err)
	}
	js = connect(t, start(t, Options{Dir: abandoned}))
	stream, err := js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	if state := stream.CachedInfo().State; state.Msgs != 9 {
		t.Errorf("%d messages are there; want the 9 whole ones", state.Msgs)
	}
	if _, err := js.Publish(t.Context(), "s", []byte("after")); err != nil {
		t.Error(err)
	}
}

func TestMessageOfAMebibytePasses(t *testing.T) {
	js := connect(t, start(t, Options{Dir: t.TempDir()}))
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	m := &nats.Msg{Subject: "s", Data: make([]byte, 1<<20), Header: nats.Header{"Millrace-Key": {"k"}}}
	if _, err := js.PublishMsg(t.Context(), m); err != nil {
		t.Error(err)
	}
}

func TestSilentServerOpensNoPort(t *testing.T) {
	s := start(t, Options{Dir: t.TempDir(), Addr: Silent})
	if s.Addr != "" || s.URL() != "" || s.Server.Addr() != nil {
		t.Errorf("it listens on %q, %v", s.Addr, s.Server.Addr())
	}
	connect(t, s)
}

func TestPasswordIsWanted(t *testing.T) {
	s := start(t, Options{Dir: t.TempDir(), User: "u", Password: "p"})
	if _, err := nats.Connect(s.URL()); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("without a password: %v", err)
	}
	nc, err := nats.Connect(s.URL(), nats.UserInfo("u", "p"))
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
}

func TestStartSaysWhyItFails(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]Options{
		"no folder":              {},
		"missing port":           {Dir: t.TempDir(), Addr: "localhost"},
		"invalid syntax":         {Dir: t.TempDir(), Addr: "localhost:http"},
		"address already in use": {Dir: t.TempDir(), Addr: taken.Addr().String()},
		"directory":              {Dir: filepath.Join(file, "sub")},
	} {
		s, err := Start(o)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v; want one that says %q", err, want)
		}
	}
}

func TestServerIsQuiet(t *testing.T) {
	var text strings.Builder
	s, err := Start(Options{Dir: t.TempDir(), Log: slog.New(slog.NewTextHandler(&text, nil))})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if text.Len() > 0 {
		t.Errorf("a start and a stop say %q", text.String())
	}
}

// go test ./testenv/nats -run - -bench .
func BenchmarkPublish(b *testing.B) {
	for name, sync := range map[string]Sync{"always": SyncAlways, "later": SyncLater} {
		b.Run("one by one/"+name, func(b *testing.B) {
			js := benched(b, sync)
			for range b.N {
				if _, err := js.Publish(b.Context(), "s", make([]byte, 500)); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("1024 on their way/"+name, func(b *testing.B) {
			js := benched(b, sync)
			for range b.N {
				if _, err := js.PublishAsync("s", make([]byte, 500), jetstream.WithStallWait(time.Minute)); err != nil {
					b.Fatal(err)
				}
			}
			<-js.PublishAsyncComplete()
		})
		b.Run("500 in an atomic batch/"+name, func(b *testing.B) {
			js := benched(b, sync)
			for left := b.N; left > 0; left -= 500 {
				if err := publishBatch(b.Context(), js.Conn(), "s", min(500, left), make([]byte, 500)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// publishBatch is one write to the disk for all of its messages: the group commit of JetStream (ADR-50), from server 2.12 on.
func publishBatch(ctx context.Context, nc *nats.Conn, subject string, n int, data []byte) error {
	id := nuid.Next()
	for i := 1; i < n; i++ {
		m := &nats.Msg{Subject: subject, Data: data, Header: nats.Header{"Nats-Batch-Id": {id}, "Nats-Batch-Sequence": {strconv.Itoa(i)}}}
		if err := nc.PublishMsg(m); err != nil {
			return err
		}
	}
	m := &nats.Msg{Subject: subject, Data: data, Header: nats.Header{
		"Nats-Batch-Id": {id}, "Nats-Batch-Sequence": {strconv.Itoa(n)}, "Nats-Batch-Commit": {"1"},
	}}
	ack, err := nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return err
	}
	if !strings.Contains(string(ack.Data), fmt.Sprintf(`"count":%d`, n)) {
		return fmt.Errorf("batch of %d: %s", n, ack.Data)
	}
	return nil
}

func benched(b *testing.B, sync Sync) jetstream.JetStream {
	b.Helper()
	js := connect(b, start(b, Options{Dir: b.TempDir(), Sync: sync}))
	if _, err := js.CreateStream(b.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, AllowAtomicPublish: true}); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	return js
}
