package nats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sinks/origin"
	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
	server "github.com/millrace-io/millrace/testenv/nats"
	"github.com/millrace-io/millrace/testenv/network"
)

// Mutations seen red (line broken -> test):
//
//	Send: the message of the key before is not waited for -> Rules/ThrottledRequestsAreRepeated (order)
//	Send: what is not published is taken for written -> Rules/AStormOfFaultsLosesNothing
//	message: no id -> AReplayWithinTheDuplicateWindowIsStoredOnce
//	message: the id is without the sink -> TwoSinksOfAStreamDoNotTakeEachOthersMessagesForRepeats
//	message: any stream may take it -> WhatNoRepetitionMendsSaysWhatToDo
//	meaning: a message that is too large is sent again -> WhatTheStreamFindsTooLargeIsADeadLetter (hangs)
//	reason: nobody was late -> AServerThatDoesNotAnswerIsSaidToBeLate

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, network.Leftovers()...) }

// faulty makes connections on which publishes fail as planned.
type faulty struct{ sinktest.Faults }

// Dial makes faulty a nats.CustomDialer.
func (f *faulty) Dial(network, address string) (net.Conn, error) {
	c, err := net.DialTimeout(network, address, 5*time.Second)
	return &faultyConn{Conn: c, f: f}, err
}

// faultyConn looks at whole writes: the client writes whole messages, as many as there are.
type faultyConn struct {
	net.Conn
	f    *faulty
	deaf atomic.Bool // what the server answers is lost
	hung atomic.Bool // what is written is lost
}

func (c *faultyConn) Write(b []byte) (int, error) {
	if c.hung.Load() {
		return len(b), nil
	}
	if !bytes.Contains(b, []byte("Nats-Msg-Id")) {
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
		c.hung.Store(true)
		return len(b), nil
	case fault == sinktest.Throttled:
		return len(b), c.refuse(b, 1)
	case fault == sinktest.Partial:
		return len(b), c.refuse(b, 2)
	}
	_ = c.Conn.Close()
	return 0, errors.New("the connection is cut")
}

// refuse has the server answer every n-th message as it does when it has no room: the message becomes the answer.
func (c *faultyConn) refuse(b []byte, n int) error {
	const busy = `{"type":"io.nats.jetstream.api.v1.pub_ack_response","error":{"code":503,"err_code":10023,"description":"insufficient resources"},"stream":"S","seq":0}`
	for i := 0; len(b) > 0; {
		line, rest, _ := bytes.Cut(b, []byte("\r\n"))
		words := strings.Fields(string(line))
		if words[0] != "HPUB" {
			if _, err := c.Conn.Write(b[:len(line)+2]); err != nil {
				return err
			}
			b = rest
			continue
		}
		size, err := strconv.Atoi(words[4])
		if err != nil {
			return err
		}
		whole := b[:len(line)+2+size+2]
		if i++; i%n == 0 {
			whole = fmt.Appendf(nil, "PUB %s %d\r\n%s\r\n", words[2], len(busy), busy)
		}
		if _, err := c.Conn.Write(whole); err != nil {
			return err
		}
		b = rest[size+2:]
	}
	return nil
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

func start(t testing.TB, o server.Options) *server.Server {
	t.Helper()
	o.Dir, o.Sync = t.TempDir(), server.SyncLater
	s, err := server.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func connect(t testing.TB, url string, options ...nats.Option) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func create(t testing.TB, js jetstream.JetStream, c jetstream.StreamConfig) {
	t.Helper()
	if _, err := js.CreateStream(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// messages are all of a stream.
func messages(t testing.TB, js jetstream.JetStream, name string) []*jetstream.RawStreamMsg {
	t.Helper()
	s, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	var out []*jetstream.RawStreamMsg
	for n := uint64(1); n <= s.CachedInfo().State.LastSeq; n++ {
		m, err := s.GetMsg(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}

// backend is a stream of a server; it keeps message ids for window.
func backend(t *testing.T, url, name string, window time.Duration, options ...nats.Option) sinktest.UpsertBackend {
	f := new(faulty)
	js := connect(t, url, options...)
	create(t, js, jetstream.StreamConfig{Name: name, Subjects: []string{name + ".>"}, Duplicates: window})
	return sinktest.UpsertBackend{
		Schema: newSchema(t), Shape: sinktest.Log, Fail: f.Set,
		New: func(t *testing.T, _ stream.Ordering) stream.Upsert {
			s, err := New(Config{URL: url, Stream: name, Subject: name + ".{user}", Key: "user"}, Options{
				Name: "search", Pipeline: "clicks", Connect: append([]nats.Option{nats.SetCustomDialer(f)}, options...),
			})
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
		Poison:   func(e *stream.Event) { e.Values[stream.URL] = stream.StringValue(strings.Repeat("x", 9<<20)) },
		Contents: func(t *testing.T) []sinktest.Held { return held(t, js, name) },
	}
}

func held(t *testing.T, js jetstream.JetStream, name string) []sinktest.Held {
	t.Helper()
	var out []sinktest.Held
	for _, m := range messages(t, js, name) {
		h := sinktest.Held{ID: strings.TrimPrefix(m.Subject, name+"."), Values: string(m.Data)}
		h.Place, _ = stream.ParseVersion(m.Header.Get(origin.PositionHeader))
		h.Place.Partition = m.Header.Get(origin.PartitionHeader)
		out = append(out, h)
	}
	return out
}

func TestTheServerInProcessKeepsTheRulesOfAnUpsertSink(t *testing.T) {
	s := start(t, server.Options{})
	streams := 0
	sinktest.RunUpsert(t, func(t *testing.T) sinktest.UpsertBackend {
		streams++
		return backend(t, s.URL(), fmt.Sprintf("out-%d", streams), 100*time.Millisecond) // so that most repeats are outside of it
	})
}

// writes is one life of a sink that writes n events of ten users to clicks.<user>.
func writes(t *testing.T, cfg Config, n int, options ...nats.Option) ([]*stream.DeadLetter, error) {
	t.Helper()
	s, err := New(cfg, Options{Name: "out", Pipeline: "clicks", Connect: options})
	if err != nil {
		t.Fatal(err)
	}
	schema := newSchema(t)
	w, err := s.Writer(stream.Tenure{Partition: "p", Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for from := 0; from < n; from += 10 {
		events := sinktest.Events(schema)(uint64(from), min(10, n-from))
		for i, e := range events {
			e.Values[stream.User] = stream.StringValue(fmt.Sprint(i))
		}
		w.Write(events)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return w.Flush(ctx)
}

func TestAReplayWithinTheDuplicateWindowIsStoredOnce(t *testing.T) {
	s := start(t, server.Options{})
	js := connect(t, s.URL())
	create(t, js, jetstream.StreamConfig{Name: "S", Subjects: []string{"clicks.*"}, Duplicates: time.Minute})
	f := new(faulty)
	cfg := Config{URL: s.URL(), Stream: "S", Subject: "clicks.{user}"}
	for range 2 {
		f.Set(sinktest.LostAnswer, sinktest.Throttled, sinktest.Partial, sinktest.LostAnswer)
		if _, err := writes(t, cfg, 500, nats.SetCustomDialer(f)); err != nil {
			t.Fatal(err)
		}
	}
	all := messages(t, js, "S")
	last := map[string]string{}
	for _, m := range all {
		position := m.Header.Get(origin.PositionHeader)
		if position <= last[m.Subject] {
			t.Fatalf("%s comes after %s", position, last[m.Subject])
		}
		last[m.Subject] = position
	}
	if len(all) != 500 {
		t.Errorf("%d messages; want 500", len(all))
	}
}

// Two sinks of a pipeline may share a stream: what the one wrote is no repeat of the other's.
func TestTwoSinksOfAStreamDoNotTakeEachOthersMessagesForRepeats(t *testing.T) {
	ids := map[string]bool{}
	for _, name := range []string{"a", "b"} {
		s, err := New(Config{Stream: "S", Subject: "s"}, Options{Name: name, Pipeline: "clicks"})
		if err != nil {
			t.Fatal(err)
		}
		w, err := s.Writer(stream.Tenure{Partition: "p", Schema: newSchema(t)})
		if err != nil {
			t.Fatal(err)
		}
		ids[s.message(w.Encode(sinktest.Events(newSchema(t))(0, 1))[0]).Header.Get(jetstream.MsgIDHeader)] = true
		w.Close()
	}
	if len(ids) != 2 {
		t.Errorf("the ids are %v", ids)
	}
}

// The sink closes the connection when it waited long enough, to all requests on it; that is not what went wrong.
func TestAServerThatDoesNotAnswerIsSaidToBeLate(t *testing.T) {
	s := start(t, server.Options{})
	create(t, connect(t, s.URL()), jetstream.StreamConfig{Name: "S", Subjects: []string{"clicks.*"}})
	f := new(faulty)
	f.Set(slices.Repeat([]sinktest.Fault{sinktest.Hang}, 10_000)...)
	sink, err := New(Config{URL: s.URL(), Stream: "S", Subject: "clicks.{user}", Timeout: 50 * time.Millisecond}, Options{Name: "out", Connect: []nats.Option{nats.SetCustomDialer(f)}})
	if err != nil {
		t.Fatal(err)
	}
	schema := newSchema(t)
	var writers []stream.UpsertWriter
	for i := range 8 { // on all lanes
		w, err := sink.Writer(stream.Tenure{Partition: fmt.Sprint(i), Schema: schema})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		w.Write(sinktest.Events(schema)(0, 20))
		writers = append(writers, w)
	}
	for seen := uint64(0); seen < 12; time.Sleep(time.Millisecond) { // a real client
		now := sink.Stats()
		if now.Failed > seen && !strings.HasPrefix(now.Failing, "no answer within 50ms") {
			t.Fatalf("the sink fails with %q", now.Failing)
		}
		seen = now.Failed
	}
	f.Set()
	for _, w := range writers {
		if dead, err := w.Flush(t.Context()); err != nil || len(dead) > 0 {
			t.Fatal(len(dead), err)
		}
	}
}

func fatal(t *testing.T, err error, word string) {
	t.Helper()
	if f := (*stream.FatalError)(nil); !errors.As(err, &f) || !strings.Contains(err.Error(), word) {
		t.Errorf("the error is %v; want a fatal one with %q", err, word)
	}
}

func TestWhatNoRepetitionMendsSaysWhatToDo(t *testing.T) {
	s := start(t, server.Options{})
	js := connect(t, s.URL())
	create(t, js, jetstream.StreamConfig{Name: "S", Subjects: []string{"clicks.>"}})
	create(t, js, jetstream.StreamConfig{Name: "OTHER", Subjects: []string{"views.>"}})
	for _, c := range []struct{ rule, stream, subject, probe, write string }{
		{"no stream", "NOPE", "nope.{user}", "there is no stream NOPE; create it", "there is no stream NOPE; create it"},
		{"another stream's subject", "S", "views.{user}", "does not take the subject views.{user}; it takes clicks.>", "correct stream or subject"},
		{"no stream's subject", "S", "buys.{user}", "does not take the subject buys.{user}", "does not take the subject buys."},
	} {
		t.Run(c.rule, func(t *testing.T) {
			cfg := Config{URL: s.URL(), Stream: c.stream, Subject: c.subject}
			sink, err := New(cfg, Options{Name: "out"})
			if err != nil {
				t.Fatal(err)
			}
			fatal(t, sink.Probe(t.Context()), c.probe)
			_, err = writes(t, cfg, 30)
			fatal(t, err, c.write)
		})
	}
	sink, err := New(Config{URL: s.URL(), Stream: "S", Subject: "clicks.{country}"}, Options{Name: "out"})
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Probe(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAWrongPasswordIsFatalAndAServerThatIsAwayIsNot(t *testing.T) {
	s := start(t, server.Options{User: "u", Password: "right"})
	cfg := Config{URL: s.URL(), Stream: "S", Subject: "s", User: "u", Password: "wrong"}
	sink, err := New(cfg, Options{Name: "out"})
	if err != nil {
		t.Fatal(err)
	}
	fatal(t, sink.Probe(t.Context()), "check credentials, user, token")
	_, err = writes(t, cfg, 10)
	fatal(t, err, "check credentials, user, token")
	s.Close()
	if err := sink.Probe(t.Context()); err == nil || errors.As(err, new(*stream.FatalError)) {
		t.Errorf("a server that is away: %v", err)
	}
}

func TestWhatTheStreamFindsTooLargeIsADeadLetter(t *testing.T) {
	s := start(t, server.Options{})
	js := connect(t, s.URL())
	create(t, js, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, MaxMsgSize: 100})
	dead, err := writes(t, Config{URL: s.URL(), Stream: "S", Subject: "s"}, 3)
	if err != nil || len(dead) != 3 || !strings.Contains(dead[0].Err, "max_msg_size of stream S") {
		t.Errorf("%d dead letters, %v", len(dead), err)
	}
}

func TestWordsOfASubjectHoldWhatASubjectMay(t *testing.T) {
	schema := newSchema(t)
	words, err := parseSubject("clicks.{country}.{user}", schema)
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]string{
		"DE": "clicks.DE._", "a.b": "clicks.a_b._", "*": "clicks._._", "a > b\r\n": "clicks.a___b__._", "": "clicks._._", "Zürich": "clicks.Zürich._",
	} {
		e := sinktest.Events(schema)(0, 1)[0]
		e.Values[stream.Country], e.Values[stream.User] = stream.StringValue(value), stream.Value{}
		if got := string(appendSubject(nil, words, e)); got != want {
			t.Errorf("%q becomes %s; want %s", value, got, want)
		}
	}
	e := sinktest.Events(schema)(0, 1)[0]
	e.Values[stream.Country] = stream.StringValue(strings.Repeat("x", 5000))
	if _, _, err := (&encoder{subject: words}).Encode(nil, nil, e); err == nil {
		t.Error("a subject that would end the connection is sent")
	}
}

func TestFiltersTakeSubjectsWithPlaceholders(t *testing.T) {
	for _, c := range []struct {
		filter, subject string
		want            bool
	}{
		{"clicks.>", "clicks.{user}", true},
		{"clicks.*", "clicks.{user}", true},
		{"clicks.DE", "clicks.{country}", true},
		{"clicks.DE", "clicks.FR", false},
		{"clicks.*", "clicks.{country}.{user}", false},
		{"clicks.>", "clicks", false},
		{"*.DE", "clicks.{country}", true},
		{"clicks", "clicks", true},
	} {
		if got := takes(c.filter, c.subject); got != c.want {
			t.Errorf("%s takes %s: %t", c.filter, c.subject, got)
		}
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	err := (&Config{URL: "http://x", Stream: "a b", Subject: "{user}.x", Value: "xml", Delay: -1, MaxPending: 5000, User: "u"}).Validate()
	for _, want := range []string{"url has", "stream is", "subject is", "value is", "delay or timeout", "max_pending is 5000", "user and password"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	for _, subject := range []string{"", "a..b", "a.*", "$JS.x", "a.{}", "a.x{user}"} {
		if checkSubject(subject) == nil {
			t.Errorf("subject %q is accepted", subject)
		}
	}
	if err := (&Config{Subject: "a.{nope}", Columns: []string{"none"}}).CheckSchema(newSchema(t)); err == nil ||
		!strings.Contains(err.Error(), "{nope}") || !strings.Contains(err.Error(), `"none"`) {
		t.Errorf("unknown columns: %v", err)
	}
}
