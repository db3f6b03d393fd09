package nats

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace-io/millrace/sources/sourcetest"
	"github.com/millrace-io/millrace/stream"
	server "github.com/millrace-io/millrace/testenv/nats"
)

// Mutations seen red (line broken -> test):
//
//	reread: a cursor with nothing pending is waited for, at its beginning or after a message -> ReadingAgainDoesNotWaitForWhatIsDeleted
//	rereadStart: the row's start, or since, does not count -> ReadingAgainBeginsByTimeAndNotBeforeThePipeline
//	rereadStart: the stream's age is not compared -> ReadingAgainAnotherStreamIsAnError
//	rereadStart: nothing is cut -> the suite's "reads again what is left"

// reread is what is committed of partition 0, as it is read again.
func (l *log) reread(t *testing.T, since time.Time) (values, cut []string, err error) {
	t.Helper()
	s := l.source(t, newOutside(), func(*Config) {})
	ends := map[string]stream.Position{}
	for partition, c := range must(s.Checkpoints(t.Context())) {
		ends[partition] = c.Pos
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*second)
	defer cancel()
	cut, err = s.Reread(ctx, since, ends, func(partition string, rs []stream.Record) error {
		for _, r := range rs {
			if partition != l.Partition(0) {
				break
			}
			values = append(values, string(r.Value))
		}
		return nil
	})
	return values, cut, err
}

func (l *log) readsAgain(t *testing.T, since time.Time, want ...string) {
	t.Helper()
	if values, cut, err := l.reread(t, since); !slices.Equal(values, want) || len(cut) > 0 || err != nil {
		t.Errorf("read again %q, cut %q, %v; want %q", values, cut, err, want)
	}
}

func (l *log) carried(t *testing.T, change func(*Config), records int) {
	t.Helper()
	p := sourcetest.NewPlay(t, l.source(t, newOutside(), change), nil)
	p.Has(l.Partition(0), records)
	p.Stop()
}

// The last committed messages may be deleted from the middle: what there is ends the reading, and new messages do not begin it.
func TestReadingAgainDoesNotWaitForWhatIsDeleted(t *testing.T) {
	t.Parallel()
	l := newLog(t, start(t, server.Options{Sync: server.SyncLater}).URL(), second, 2)
	l.numbers(t, 1, 0, 1) // so that the stream begins before partition 0
	want := l.numbers(t, 0, 0, 10)
	l.carried(t, func(*Config) {}, 10)
	s := must(l.js.Stream(t.Context(), l.name))
	for _, sequence := range []uint64{11, 10, 6} {
		if err := s.DeleteMsg(t.Context(), sequence); err != nil {
			t.Fatal(err)
		}
	}
	want = append(want[:4:4], want[5:8]...)
	l.readsAgain(t, time.Time{}, want...)
	l.numbers(t, 0, 10, 12)
	l.readsAgain(t, time.Time{}, want...)
	if err := s.Purge(t.Context(), jetstream.WithPurgeSubject(l.Partition(0))); err != nil {
		t.Fatal(err)
	}
	values, _, err := l.reread(t, time.Time{})
	if len(values) > 0 || err != nil {
		t.Errorf("read again %q, %v of a partition without a message", values, err)
	}
}

func TestReadingAgainBeginsByTimeAndNotBeforeThePipeline(t *testing.T) {
	t.Parallel()
	l := newLog(t, start(t, server.Options{Sync: server.SyncLater}).URL(), second, 1)
	l.numbers(t, 0, 0, 3) // before the pipeline began
	later := func() time.Time {
		now := time.Now()
		eventually(t, "the clock goes on", func() bool { return time.Since(now) > 5*time.Millisecond })
		return time.Now()
	}
	begin := later()
	want := l.numbers(t, 0, 3, 6)
	middle := later()
	want = append(want, l.numbers(t, 0, 6, 9)...)
	l.carried(t, func(c *Config) { c.Start = begin.Format(time.RFC3339Nano) }, 6)
	l.readsAgain(t, time.Time{}, want...)
	l.readsAgain(t, begin.Add(-time.Hour), want...)
	l.readsAgain(t, middle, want[3:]...)
	l.readsAgain(t, later())
}

func TestReadingAgainAnotherStreamIsAnError(t *testing.T) {
	t.Parallel()
	l := newLog(t, start(t, server.Options{Sync: server.SyncLater}).URL(), second, 1)
	l.numbers(t, 0, 0, 5)
	l.carried(t, func(*Config) {}, 5)
	config := must(l.js.Stream(t.Context(), l.name)).CachedInfo().Config
	if err := l.js.DeleteStream(t.Context(), l.name); err != nil {
		t.Fatal(err)
	}
	must(l.js.CreateStream(t.Context(), config))
	l.numbers(t, 0, 0, 9)
	_, _, err := l.reread(t, time.Time{})
	fatal(t, err, "created again")
}
