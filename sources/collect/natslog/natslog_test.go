package natslog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sources/collect"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/nats"
)

// serverDir is the variable that makes the test binary a NATS server over a folder, to be killed.
const (
	serverDir  = "MILLRACE_TEST_NATS_DIR"
	serverAddr = "MILLRACE_TEST_NATS_ADDR"
)

// Mutations of natslog.go seen red (line broken -> test):
//   - events have no Nats-Msg-Id                     -> TestKeysStayInOneSubjectAndIdsAreThereOnce
//   - acknowledgements are not waited for            -> TestKilledServerLosesNothingThatWasAccepted
//   - the server's largest message is not known      -> TestEventsThatTheServerNeverTakesAreRefused
//   - the subject is any                             -> TestKeysStayInOneSubjectAndIdsAreThereOnce
func TestMain(m *testing.M) {
	if dir := os.Getenv(serverDir); dir != "" {
		if _, err := nats.Start(nats.Options{Dir: dir, Addr: os.Getenv(serverAddr)}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("ready")
		select {}
	}
	goleak.VerifyTestMain(m)
}

// process is a NATS server in a process of its own.
func process(t *testing.T, dir, addr string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serverDir+"="+dir, serverAddr+"="+addr)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the server said %q: %v", line, err)
	}
	return cmd
}

func kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func open(t *testing.T, cfg Config) *Log {
	t.Helper()
	cfg.Stream = "CLICKS"
	l, err := Open(cfg, 5*time.Second, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// log is one before a server in this process, with the stream.
func log(t *testing.T) *Log {
	t.Helper()
	s, err := nats.Start(nats.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	l := open(t, Config{URL: s.URL()})
	if err := l.Create(deadline(t), time.Hour); err != nil {
		t.Fatal(err)
	}
	return l
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// stored is how often each value is in the stream, and the subject of each key.
func stored(t *testing.T, l *Log) (times map[string]int, subjects map[string]string) {
	t.Helper()
	ctx := deadline(t)
	s, err := l.js.Stream(ctx, "CLICKS")
	if err != nil {
		t.Fatal(err)
	}
	times, subjects = map[string]int{}, map[string]string{}
	for n := s.CachedInfo().State.FirstSeq; n <= s.CachedInfo().State.LastSeq; n++ {
		m, err := s.GetMsg(ctx, n)
		if err != nil {
			t.Fatal(err)
		}
		times[string(m.Data)]++
		key := m.Header.Get("Millrace-Key")
		if old, ok := subjects[key]; ok && old != m.Subject && key != "" {
			t.Errorf("key %s is in %s and %s", key, old, m.Subject)
		}
		subjects[key] = m.Subject
	}
	return times, subjects
}

func TestKeysStayInOneSubjectAndIdsAreThereOnce(t *testing.T) {
	l := log(t)
	var events []collect.Event
	for i := range 100 {
		events = append(events, collect.Event{Key: fmt.Sprintf("u%d", i%10), ID: fmt.Sprint(i), Value: fmt.Append(nil, i)})
	}
	events = append(events, collect.Event{Value: []byte("a")}, collect.Event{Key: "line\r\nend", ID: "x\n", Value: []byte("b")})
	for range 2 {
		if err := l.Append(deadline(t), events); err != nil {
			t.Fatal(err)
		}
	}
	times, subjects := stored(t, l)
	for value, n := range times {
		if n != 1 && value != "a" && value != "b" { // those have no id
			t.Errorf("%s is there %d times", value, n)
		}
	}
	used := map[string]bool{}
	for _, s := range subjects {
		used[s] = true
	}
	if len(times) != 102 || len(used) < 3 {
		t.Errorf("%d values in %v; want 102 in several subjects", len(times), used)
	}
}

func TestEventsThatTheServerNeverTakesAreRefused(t *testing.T) {
	l := log(t)
	large := collect.Event{Value: make([]byte, 9<<20)}
	err := l.Append(deadline(t), []collect.Event{{Value: []byte("a")}, large, {Value: []byte("b")}})
	var outcomes collect.Outcomes
	if !errors.As(err, &outcomes) || outcomes[0] != nil || !errors.Is(outcomes[1], collect.ErrTooLarge) || outcomes[2] != nil {
		t.Errorf("%v; want the second refused", err)
	}
}

func TestNothingIsTakenWithoutAServer(t *testing.T) {
	l := open(t, Config{URL: "nats://" + freeAddress(t)})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	err := l.Append(ctx, []collect.Event{{Value: []byte("a")}, {Value: []byte("b")}})
	var outcomes collect.Outcomes
	if !errors.As(err, &outcomes) || outcomes[0] == nil || outcomes[1] == nil {
		t.Errorf("%v; want both not taken", err)
	}
	var fatal *stream.FatalError
	if err := l.Probe(ctx); err == nil || errors.As(err, &fatal) {
		t.Errorf("probe: %v; want an error that passes", err)
	}
}

func TestProbeTellsWhatWaitingMends(t *testing.T) {
	s, err := nats.Start(nats.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l := open(t, Config{URL: s.URL()})
	var fatal *stream.FatalError
	if err := l.Probe(deadline(t)); !errors.As(err, &fatal) {
		t.Errorf("no stream: %v; want a fatal error", err)
	}
	if err := l.Create(deadline(t), time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := l.Probe(deadline(t)); err != nil {
		t.Error(err)
	}
	wide := open(t, Config{URL: s.URL(), Partitions: 5})
	if err := wide.Probe(deadline(t)); !errors.As(err, &fatal) || !strings.Contains(err.Error(), "clicks.4") {
		t.Errorf("a subject that the stream does not take: %v; want a fatal error that names it", err)
	}
}

func TestFiltersOfAStream(t *testing.T) {
	for filter, want := range map[string]bool{"clicks.1": true, "clicks.*": true, "clicks.>": true, ">": true, "*.1": true, "clicks": false, "clicks.2": false, "clicks.1.>": false, "*": false} {
		if takes(filter, "clicks.1") != want {
			t.Errorf("%s takes clicks.1: %v", filter, !want)
		}
	}
}

// The server is killed with -9 again and again while clients send: what was accepted is in the stream, once if the client
// sent it again under its id.
func TestKilledServerLosesNothingThatWasAccepted(t *testing.T) {
	dir, addr := t.TempDir(), freeAddress(t)
	server := process(t, dir, addr)
	l := open(t, Config{URL: "nats://" + addr})
	if err := l.Create(deadline(t), time.Hour); err != nil {
		t.Fatal(err)
	}
	accepted := make(chan []string, 1)
	stop, halt := context.WithCancel(t.Context())
	progress := make(chan struct{}, 1000)
	go func() { accepted <- client(stop, l, progress) }()
	wait := func(n int) {
		for range n {
			select {
			case <-progress:
			case <-time.After(time.Minute):
				t.Error("the client makes no progress")
				return
			}
		}
	}
	for range 3 {
		wait(20)
		kill(server)
		server = process(t, dir, addr)
	}
	wait(20)
	halt()
	values := <-accepted
	times, _ := stored(t, l)
	for _, value := range values {
		if times[value] != 1 {
			t.Errorf("%s was accepted and is there %d times", value, times[value])
		}
	}
	t.Logf("%d events accepted over three kills", len(values))
}

// client sends batches one after another, each again until it is accepted, and returns what was.
func client(ctx context.Context, l *Log, progress chan<- struct{}) (accepted []string) {
	for n := 0; ctx.Err() == nil; n++ {
		var events []collect.Event
		for i := range 5 {
			id := fmt.Sprintf("%d-%d", n, i)
			events = append(events, collect.Event{Key: fmt.Sprint(i), ID: id, Value: []byte(id)})
		}
		for ctx.Err() == nil {
			try, cancel := context.WithTimeout(ctx, 2*time.Second)
			err := l.Append(try, events)
			cancel()
			if err != nil {
				continue
			}
			for _, e := range events {
				accepted = append(accepted, e.ID)
			}
			select {
			case progress <- struct{}{}:
			default:
			}
			break
		}
	}
	return accepted
}
