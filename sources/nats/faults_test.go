package nats

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace-io/millrace/sources/lease"
	"github.com/millrace-io/millrace/sources/sourcetest"
	"github.com/millrace-io/millrace/sources/trust"
	"github.com/millrace-io/millrace/stream"
	server "github.com/millrace-io/millrace/testenv/nats"
)

func numbers(from, to int) (ms []sourcetest.Message, vs []string) {
	for i := from; i < to; i++ {
		ms = append(ms, sourcetest.Message{Value: fmt.Appendf(nil, "%d", i)})
		vs = append(vs, fmt.Sprint(i))
	}
	return ms, vs
}

func (l *log) numbers(t *testing.T, partition, from, to int) []string {
	t.Helper()
	ms, vs := numbers(from, to)
	l.Append(t, partition, ms...)
	return vs
}

func fatal(t *testing.T, err error, words ...string) {
	t.Helper()
	var f *stream.FatalError
	if !errors.As(err, &f) {
		t.Fatalf("error %v; want a FatalError", err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

const second = time.Second

// A server that restarts forgets its cursors. The port stays, so the clients come back.
func TestServerRestartNeitherSkipsNorDoubles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := server.Start(server.Options{Dir: dir, Sync: server.SyncLater})
	if err != nil {
		t.Fatal(err)
	}
	l := newLog(t, s.URL(), 4*second, 1)
	p := sourcetest.NewPlay(t, l.source(t, newOutside(), func(*Config) {}), nil)
	var want []string
	for i := range 3 {
		want = append(want, l.numbers(t, 0, 300*i, 300*i+300)...)
		if i < 2 { // at the end of the third, records may be on their way
			p.Has(l.Partition(0), 1+400*i) // and a server that is not there at first ends the run
		}
		s.Close()
		if s, err = server.Start(server.Options{Dir: dir, Addr: s.Addr, Sync: server.SyncLater}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the publisher is back", func() bool { return l.js.Conn().IsConnected() })
	}
	t.Cleanup(s.Close)
	want = append(want, l.numbers(t, 0, 900, 1000)...)
	got := p.Has(l.Partition(0), 1000)
	if !slices.Equal(got.Values(), want) {
		t.Errorf("delivered %d records, not those that were appended in their order", len(got.Values()))
	}
	p.Stop()
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for late := time.Now().Add(20 * time.Second); !cond(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("waited too long until %s", what)
		}
	}
}

func TestBrokenConnectionsNeitherSkipNorDouble(t *testing.T) {
	t.Parallel()
	l := newLog(t, start(t, server.Options{Sync: server.SyncLater}).URL(), 10*second, 1)
	want := l.numbers(t, 0, 0, 3000)
	o := newOutside()
	p := sourcetest.NewPlay(t, l.source(t, o, func(c *Config) { c.Fetch.MaxMessages = 50 }), nil)
	for i := range 8 {
		p.Has(l.Partition(0), 300*i+1)
		o.cut()
	}
	got := p.Has(l.Partition(0), 3000)
	if !slices.Equal(got.Values(), want) {
		t.Error("not the records that were appended in their order")
	}
	p.Stop()
}

func TestCursorThatSomebodyDeletesIsMadeAnew(t *testing.T) {
	t.Parallel()
	l := newLog(t, start(t, server.Options{Sync: server.SyncLater}).URL(), 10*second, 1)
	want := l.numbers(t, 0, 0, 10)
	p := sourcetest.NewPlay(t, l.source(t, newOutside(), func(*Config) {}), nil)
	p.Has(l.Partition(0), 10)
	for i := 1; i <= 3; i++ {
		for c := range must(l.js.Stream(t.Context(), l.name)).ConsumerNames(t.Context()).Name() {
			if err := l.js.DeleteConsumer(t.Context(), l.name, c); err != nil {
				t.Fatal(err)
			}
		}
		want = append(want, l.numbers(t, 0, 10*i, 10*i+10)...)
		if got := p.Has(l.Partition(0), 10*i+10); !slices.Equal(got.Values(), want) {
			t.Fatalf("delivered %q; want %q", got.Values(), want)
		}
	}
	p.Stop()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Messages that the client dropped, or that were cut off, show in the cursor's numbers.
func TestReaderNoticesWhatGotLostOnTheWay(t *testing.T) {
	t.Parallel()
	reply := func(number, sequence uint64) *nats.Msg {
		return &nats.Msg{Data: []byte("x"), Reply: fmt.Sprintf("$JS.ACK.S.C.1.%d.%d.1700000000000000000.0", sequence, number)}
	}
	for name, m := range map[string]*nats.Msg{
		"a message is missing":      reply(3, 13),
		"a message comes again":     reply(1, 11),
		"the sequence goes back":    reply(2, 10),
		"not a cursor's message":    {Data: []byte("x"), Reply: "_INBOX.1"},
		"the cursor was deleted":    status("409", "Consumer Deleted"),
		"nobody serves the request": status("503", ""),
	} {
		r := &reader{last: 10, number: 0, count: 9, bytes: 999}
		var b batch
		if err := r.take(reply(1, 11), &b, 0); err != nil {
			t.Fatal(err)
		}
		if err := r.take(m, &b, 0); !errors.Is(err, errReopen) || len(b.records) != 1 || r.last != 11 {
			t.Errorf("%s: error %v, %d records, last %d; want the cursor made anew after 11", name, err, len(b.records), r.last)
		}
	}
}

func status(code, text string) *nats.Msg {
	return &nats.Msg{Header: nats.Header{"Status": {code}, "Description": {text}}}
}

func TestMessageLargerThanTheBoundPasses(t *testing.T) {
	t.Parallel()
	l := newLog(t, start(t, server.Options{Sync: server.SyncLater}).URL(), 10*second, 1)
	l.Append(t, 0, sourcetest.Message{Value: []byte("small")}, sourcetest.Message{Value: make([]byte, 1<<20)}, sourcetest.Message{Value: make([]byte, 2<<20)}, sourcetest.Message{Value: []byte("last")})
	p := sourcetest.NewPlay(t, l.source(t, newOutside(), func(c *Config) { c.Fetch.MaxBytes = 64 << 10 }), nil)
	var sizes []int
	for _, v := range p.Has(l.Partition(0), 4).Values() {
		sizes = append(sizes, len(v))
	}
	if !slices.Equal(sizes, []int{5, 1 << 20, 2 << 20, 4}) {
		t.Errorf("sizes %v", sizes)
	}
	p.Stop()
}

// The engine holds the first records while the rest of the stream is removed.
func TestBlockedPartitionHoldsBoundedMemoryAndNoticesALossInTheRun(t *testing.T) {
	t.Parallel()
	l := newLog(t, start(t, server.Options{Sync: server.SyncLater}).URL(), 10*second, 1)
	l.numbers(t, 0, 0, 2000)
	s := l.source(t, newOutside(), func(c *Config) { c.Fetch.MaxMessages = 100 })
	s.looks = 50 * time.Millisecond
	hold := make(chan struct{})
	p := sourcetest.NewPlay(t, s, hold)
	held := p.Has(l.Partition(0), 1)
	l.Trim(t, 0, 1900)
	fatal(t, p.Result(), l.Partition(0), "sequences", "to 1900")
	if err := p.Result(); !errors.Is(err, stream.ErrRetention) {
		t.Errorf("Run returned %v; want ErrRetention", err)
	}
	if n := len(held.Values()); n > 100 {
		t.Errorf("%d records were delivered past the bound", n)
	}
}

func TestCommitDoesNotPassALoss(t *testing.T) {
	t.Parallel()
	l := newLog(t, start(t, server.Options{Sync: server.SyncLater}).URL(), 10*second, 1)
	l.numbers(t, 0, 0, 500)
	s := l.source(t, newOutside(), func(c *Config) { c.Fetch.MaxMessages = 100 })
	s.looks = time.Hour
	hold := make(chan struct{})
	p := sourcetest.NewPlay(t, s, hold)
	held := p.Has(l.Partition(0), 1)
	l.Trim(t, 0, 450)
	close(hold)
	p.Wait(l.Partition(0), "a record after the loss", func(rs []stream.Record) bool { return len(rs) > 0 && rs[len(rs)-1].Pos.Offset() == 500 })
	if err := held.CommitAll(t.Context()); !errors.Is(err, stream.ErrRetention) {
		t.Errorf("commit past the loss: %v; want ErrRetention", err)
	}
	p.Cancel()
	p.Result()
	if c, err := l.source(t, newOutside(), func(*Config) {}).Checkpoints(t.Context()); err != nil || len(c) > 0 {
		t.Errorf("checkpoints %v, %v; want none", c, err)
	}
}

// Retention removes what is before the checkpoint of one partition and long after that of the other, which is quiet.
func TestQuietPartitionIsNotTakenForALoss(t *testing.T) {
	t.Parallel()
	l := newLog(t, start(t, server.Options{Sync: server.SyncLater}).URL(), second, 2)
	l.numbers(t, 0, 0, 5)
	s := l.source(t, newOutside(), func(*Config) {})
	s.looks = 20 * time.Millisecond
	p := sourcetest.NewPlay(t, s, nil)
	quiet := p.Has(l.Partition(0), 5)
	if err := quiet.CommitAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 5 { // in the run
		l.numbers(t, 1, 20*i, 20*i+20)
		p.Has(l.Partition(1), 20*i+20)
		eventually(t, "the look that finds it quiet", func() bool { return clear(t, l) >= uint64(5+20*i+20) })
		l.Trim(t, 1, 20*i+20)
	}
	p.Stop()
	l.numbers(t, 0, 5, 6) // and across runs
	p = sourcetest.NewPlay(t, l.source(t, newOutside(), func(*Config) {}), nil)
	if got := p.Has(l.Partition(0), 1).Values(); !slices.Equal(got, []string{"5"}) {
		t.Errorf("delivered %q; want the one new record", got)
	}
	p.Stop()
}

// row is that of partition 0.
func row(t *testing.T, l *log) lease.Row {
	t.Helper()
	bucket, err := l.js.KeyValue(t.Context(), l.name)
	if err != nil {
		return lease.Row{}
	}
	r, err := (&table{bucket: bucket}).Get(t.Context(), l.Partition(0))
	if err != nil && !errors.Is(err, lease.ErrNoRow) {
		t.Fatal(err)
	}
	return r
}

// clear is up to where the stored mark knows that there is nothing.
func clear(t *testing.T, l *log) uint64 { return must(parseMark(row(t, l).Mark)).Clear }

func started(t *testing.T, l *log) bool { return must(parseMark(row(t, l).Mark)).Start > 0 }

// A worker received everything and knew that nothing more came, but committed nothing.
func TestReceivedIsNotCommitted(t *testing.T) {
	t.Parallel()
	l := newLog(t, start(t, server.Options{Sync: server.SyncLater}).URL(), second, 1)
	l.numbers(t, 0, 0, 5)
	named := func(c *Config) { c.Instance = "a" }
	s := l.source(t, newOutside(), named)
	s.looks = 20 * time.Millisecond
	hold := make(chan struct{})
	close(hold) // only the drain is refused: the records may come in several batches
	p := sourcetest.NewPlay(t, s, hold)
	p.Has(l.Partition(0), 5)
	eventually(t, "the mark is stored", func() bool { return started(t, l) && clear(t, l) >= 5 })
	p.Stop()
	if owner := row(t, l).Owner; owner != "a" {
		t.Errorf("after a drain that failed the owner is %q; want the lease to run out", owner)
	}
	l.Trim(t, 0, 3)
	fatal(t, sourcetest.NewPlay(t, l.source(t, newOutside(), named), nil).Result(), "sequences 1 to 3")
}

func TestResetGoesOnAfterALoss(t *testing.T) {
	t.Parallel()
	l := newLog(t, start(t, server.Options{Sync: server.SyncLater}).URL(), 10*second, 1)
	l.numbers(t, 0, 0, 5)
	p := sourcetest.NewPlay(t, l.source(t, newOutside(), func(*Config) {}), nil)
	p.Has(l.Partition(0), 5)
	p.Stop()
	want := l.numbers(t, 0, 5, 10)
	l.Trim(t, 0, 7)
	p = sourcetest.NewPlay(t, l.source(t, newOutside(), func(*Config) {}), nil)
	fatal(t, p.Result(), "sequences 6 to 7", "reset")
	p = sourcetest.NewPlay(t, l.source(t, newOutside(), func(c *Config) { c.Reset = "earliest" }), nil)
	if got := p.Has(l.Partition(0), 3).Values(); !slices.Equal(got, want[2:]) {
		t.Errorf("delivered %q; want %q", got, want[2:])
	}
	p.Stop()
}

func TestStartIsStoredAtFirstSight(t *testing.T) {
	t.Parallel()
	url := start(t, server.Options{Sync: server.SyncLater}).URL()
	between := time.Time{}
	for _, c := range []struct{ name, start string }{{"latest", "latest"}, {"a time", ""}} {
		t.Run(c.name, func(t *testing.T) {
			l := newLog(t, url, second, 1)
			l.numbers(t, 0, 0, 3)
			s := must(l.js.Stream(t.Context(), l.name))
			last := must(s.GetMsg(t.Context(), 3)).Time
			eventually(t, "the clock goes on", func() bool { return time.Since(last) > 5*time.Millisecond })
			between = time.Now()
			if c.start == "" {
				eventually(t, "the clock goes on", func() bool { return time.Since(between) > 5*time.Millisecond })
				c.start = between.Format(time.RFC3339Nano)
				l.numbers(t, 0, 3, 5)
			}
			stops := func() error { // a run that commits nothing
				p := sourcetest.NewPlay(t, l.source(t, newOutside(), func(cfg *Config) { cfg.Start = c.start; cfg.Instance = "a" }), make(chan struct{}))
				eventually(t, "the start is stored", func() bool { return started(t, l) })
				p.Cancel()
				return p.Result()
			}
			if err := stops(); err != nil {
				t.Fatal(err)
			}
			if c.start == "latest" {
				l.numbers(t, 0, 3, 5)
			}
			p := sourcetest.NewPlay(t, l.source(t, newOutside(), func(cfg *Config) { cfg.Start = c.start; cfg.Instance = "a" }), nil)
			if got := p.Has(l.Partition(0), 2).Values(); !slices.Equal(got, []string{"3", "4"}) {
				t.Errorf("delivered %q; want the records since the first run", got)
			}
			p.Stop()
		})
	}
}

func TestKilledWorkerHasItsPartitionsBackAtOnce(t *testing.T) {
	t.Parallel()
	l := newLog(t, start(t, server.Options{Sync: server.SyncLater}).URL(), 30*second, 2)
	l.numbers(t, 0, 0, 5)
	o := newOutside()
	named := func(c *Config) { c.Instance = "laptop" }
	hold := make(chan struct{})
	dead := sourcetest.NewPlay(t, l.source(t, o, named), hold)
	dead.Has(l.Partition(0), 1)
	o.sever()
	began := time.Now()
	p := sourcetest.NewPlay(t, l.source(t, newOutside(), named), nil)
	p.Has(l.Partition(0), 5)
	if took := time.Since(began); took > 15*second {
		t.Errorf("it took %v with a lease of 30s", took)
	}
	p.Stop()
}

func TestShutdownAndArrivalMovePartitionsAtOnce(t *testing.T) {
	t.Parallel()
	l := newLog(t, start(t, server.Options{Sync: server.SyncLater}).URL(), 30*second, 4)
	a := sourcetest.NewPlay(t, l.source(t, newOutside(), func(*Config) {}), nil)
	for i := range 4 {
		a.Wait(l.Partition(i), "a has everything", func([]stream.Record) bool { return true })
	}
	b := sourcetest.NewPlay(t, l.source(t, newOutside(), func(*Config) {}), nil)
	began := time.Now()
	eventually(t, "b has its half", func() bool { return b.Seen() == 2 })
	a.Stop()
	eventually(t, "b has everything", func() bool { return b.Seen() == 4 })
	if took := time.Since(began); took > 15*second {
		t.Errorf("two hand-overs took %v with a lease of 30s", took)
	}
	b.Stop()
}

func TestTwoWorkersOfOneNameEnd(t *testing.T) {
	t.Parallel()
	l := newLog(t, start(t, server.Options{Sync: server.SyncLater}).URL(), 2*second, 1)
	named := func(c *Config) { c.Instance = "twin" }
	a := sourcetest.NewPlay(t, l.source(t, newOutside(), named), nil)
	a.Wait(l.Partition(0), "the first has it", func([]stream.Record) bool { return true })
	b := sourcetest.NewPlay(t, l.source(t, newOutside(), named), nil)
	fatal(t, a.Result(), `"twin"`)
	b.Wait(l.Partition(0), "the second has it", func([]stream.Record) bool { return true })
	b.Stop()
}

func TestHeadersComeByName(t *testing.T) {
	t.Parallel()
	l := newLog(t, start(t, server.Options{Sync: server.SyncLater}).URL(), 10*second, 1)
	m := &nats.Msg{Subject: l.Partition(0), Data: []byte("v"), Header: nats.Header{KeyHeader: {"k"}, "b": {"3"}, "a": {"1", "2"}, "Nats-Batch-X": {"4"}}}
	if _, err := l.js.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	p := sourcetest.NewPlay(t, l.source(t, newOutside(), func(*Config) {}), nil)
	r := p.Has(l.Partition(0), 1).Records()[0]
	if got := fmt.Sprintf("%s %s", r.Key, r.Headers); got != "k [{a 1} {a 2} {b 3}]" {
		t.Errorf("key and headers %s", got)
	}
	p.Stop()
}

func TestSilentServerIsReadInTheProcess(t *testing.T) {
	t.Parallel()
	s := start(t, server.Options{Addr: server.Silent, Sync: server.SyncLater})
	connect := []nats.Option{nats.InProcessServer(s)}
	nc, err := nats.Connect("", connect...)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	l := &log{name: "S", js: must(jetstream.New(nc)), sequences: make([][]uint64, 1)}
	if _, err := l.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"S.*"}}); err != nil {
		t.Fatal(err)
	}
	want := l.numbers(t, 0, 0, 100)
	source, err := New(Config{Stream: "S"}, Options{Pipeline: "clicks", Connect: connect})
	if err != nil {
		t.Fatal(err)
	}
	p := sourcetest.NewPlay(t, source, nil)
	if got := p.Has("S.*", 100).Values(); !slices.Equal(got, want) {
		t.Errorf("delivered %d records", len(got))
	}
	p.Stop()
	if c, err := source.Checkpoints(t.Context()); err != nil || c["S.*"].Pos != stream.OffsetPosition(100) {
		t.Errorf("checkpoints %v, %v; want 100 for the wildcard partition", c, err)
	}
}

func TestWhatCannotWorkEndsWithAWordOnWhatToDo(t *testing.T) {
	t.Parallel()
	s := start(t, server.Options{Sync: server.SyncLater, User: "clicks", Password: "secret"})
	url := strings.Replace(s.URL(), "//", "//clicks:secret@", 1)
	l := newLog(t, url, 10*second, 1)
	ctx := t.Context()
	for _, c := range []jetstream.StreamConfig{
		{Name: "QUEUE", Subjects: []string{"queue"}, Retention: jetstream.WorkQueuePolicy},
		{Name: "INTEREST", Subjects: []string{"interest"}, Retention: jetstream.InterestPolicy},
	} {
		if _, err := l.js.CreateStream(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	forgetful := must(l.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "forgetful", TTL: time.Hour}))
	_ = forgetful
	foreign := must(l.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "foreign"}))
	must(foreign.Put(ctx, l.Partition(0), []byte("not JSON")))
	for name, c := range map[string]struct {
		change func(*Config)
		words  []string
	}{
		"no stream":        {func(c *Config) { c.Stream = "NONE" }, []string{"NONE", "does not exist", "create it"}},
		"work queue":       {func(c *Config) { c.Stream = "QUEUE" }, []string{"QUEUE", "want limits retention"}},
		"interest":         {func(c *Config) { c.Stream = "INTEREST" }, []string{"want limits retention"}},
		"no such subject":  {func(c *Config) { c.Partitions = []string{"else.*"} }, []string{"else.*", "fix partitions"}},
		"bucket with TTL":  {func(c *Config) { c.Bucket = "forgetful" }, []string{"forgetful", "remove its TTL"}},
		"foreign bucket":   {func(c *Config) { c.Bucket = "foreign" }, []string{l.Partition(0), "not one of ours"}},
		"wrong password":   {func(c *Config) { c.URL = s.URL(); c.User, c.Password = "clicks", "wrong" }, []string{"refuses the credentials"}},
		"no credentials":   {func(c *Config) { c.URL = s.URL(); c.Credentials = filepath.Join(t.TempDir(), "none") }, []string{"credentials", "no such file"}},
		"no CA":            {func(c *Config) { c.TLS = &trust.TLS{CA: filepath.Join(t.TempDir(), "none")} }, []string{"tls.ca"}},
		"CA without a key": {func(c *Config) { c.TLS = &trust.TLS{CA: emptyFile(t)} }, []string{"no PEM certificate"}},
	} {
		t.Run(name, func(t *testing.T) {
			fatal(t, sourcetest.NewPlay(t, l.source(t, newOutside(), c.change), nil).Result(), c.words...)
		})
	}
}

func emptyFile(t *testing.T) string {
	name := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestServerThatIsNotThereIsSaidInTime(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	s, err := New(Config{URL: "nats://user:secret@" + listener.Addr().String(), Stream: "S"}, Options{Pipeline: "p"})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	err = s.Run(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "does not answer") || strings.Contains(err.Error(), "secret") {
		t.Errorf("Run: %v", err)
	}
	if took := time.Since(began); took > 8*second {
		t.Errorf("it took %v", took)
	}
}

func TestStreamThatIsDeletedEndsTheRun(t *testing.T) {
	t.Parallel()
	l := newLog(t, start(t, server.Options{Sync: server.SyncLater}).URL(), 10*second, 1)
	l.numbers(t, 0, 0, 5)
	s := l.source(t, newOutside(), func(*Config) {})
	s.looks = 50 * time.Millisecond
	p := sourcetest.NewPlay(t, s, nil)
	p.Has(l.Partition(0), 5)
	if err := l.js.DeleteStream(t.Context(), l.name); err != nil {
		t.Fatal(err)
	}
	fatal(t, p.Result(), l.name, "deleted")
}

func TestStreamMadeAnewIsNotReadAtOldSequences(t *testing.T) {
	t.Parallel()
	l := newLog(t, start(t, server.Options{Sync: server.SyncLater}).URL(), 10*second, 1)
	l.numbers(t, 0, 0, 5)
	p := sourcetest.NewPlay(t, l.source(t, newOutside(), func(*Config) {}), nil)
	p.Has(l.Partition(0), 5)
	p.Stop()
	if err := l.js.DeleteStream(t.Context(), l.name); err != nil {
		t.Fatal(err)
	}
	if _, err := l.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: l.name, Subjects: []string{l.Partition(0)}}); err != nil {
		t.Fatal(err)
	}
	l.numbers(t, 0, 0, 50)
	fatal(t, sourcetest.NewPlay(t, l.source(t, newOutside(), func(*Config) {}), nil).Result(), "created again", "delete bucket")
}
