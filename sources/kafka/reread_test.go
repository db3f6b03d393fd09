package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/broker"
)

// Mutations seen red (line broken -> test):
//
//	rereadStart: since does not count -> rules: reading again begins by time
//	rereadFrom: the pipeline's start does not count; latest is the beginning -> rules: reading again begins by time
//	rereadStart: the end of the log is not looked at -> ReadingAgainAnotherTopicIsAnError (does not end)
//	Reread: topic ids are not compared -> ReadingAgainAnotherTopicIsAnError
//	rereadStart: nothing is cut; reread: what is removed in between ends it -> ReadingAgainGoesOnBehindWhatIsRemoved
//	reread: control records do not count -> rules: transactions are read again as they were read (does not end)

// carried has all that is in the topic committed.
func (l *topic) carried(t *testing.T, records int) {
	t.Helper()
	j := work(t, l.source(t, newOutside(), same), nil)
	a := j.next()
	a.waitFor(t, records)
	a.caughtUp(t)
	if err := j.stop(); err != nil {
		t.Fatal(err)
	}
}

// reread is what was committed, as it is read again. A nil visit takes everything.
func (l *topic) reread(t *testing.T, since time.Time, change func(*Config), visit func(value string)) (values, cut []string, err error) {
	t.Helper()
	s := l.source(t, newOutside(), change)
	committed, err := s.Checkpoints(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ends := map[string]stream.Position{}
	for partition, c := range committed {
		ends[partition] = c.Pos
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	cut, err = s.Reread(ctx, since, ends, func(_ string, rs []stream.Record) error {
		for _, r := range rs {
			values = append(values, string(r.Value))
			if visit != nil {
				visit(string(r.Value))
			}
		}
		return nil
	})
	return values, cut, err
}

func (l *topic) readsAgain(t *testing.T, since time.Time, want string) {
	t.Helper()
	if values, cut, err := l.reread(t, since, same, nil); fmt.Sprint(values) != want || len(cut) > 0 || err != nil {
		t.Errorf("read again %v, cut %v, %v; want %v", values, cut, err, want)
	}
}

// transactionsAreReadAgain: what is behind the end, control records and aborted ones among it, is neither read nor waited for.
func transactionsAreReadAgain(t *testing.T, l *topic) {
	l.transaction(t, kgo.TryAbort, "aborted")
	l.transaction(t, kgo.TryCommit, "committed")
	l.add(t, "plain")
	l.transaction(t, kgo.TryCommit, "last")
	l.transaction(t, kgo.TryAbort, "aborted")
	l.carried(t, 3)
	l.readsAgain(t, time.Time{}, "[committed plain last]")
	finish := l.begin(t, "open")
	l.readsAgain(t, time.Time{}, "[committed plain last]")
	finish(kgo.TryCommit)
	l.readsAgain(t, time.Time{}, "[committed plain last]")
	end := kadm.Offsets{} // an operator sets it behind a control record
	end.AddOffset(l.name, 0, int64(l.end(t)), -1)
	if err := l.admin.CommitAllOffsets(t.Context(), l.name, end); err != nil {
		t.Fatal(err)
	}
	l.readsAgain(t, time.Time{}, "[committed plain last open]")
}

// readAgainByTime: what begins is the first record that is not older, whatever comes behind it.
func readAgainByTime(t *testing.T, l *topic) {
	then := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	for i, late := range []time.Duration{0, 10, 5, 20} {
		r := &kgo.Record{Topic: l.name, Value: fmt.Append(nil, i), Timestamp: then.Add(late * time.Second)}
		if err := l.client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	l.carried(t, 4)
	for since, want := range map[time.Duration]string{-10: "[0 1 2 3]", 1: "[1 2 3]", 10: "[1 2 3]", 11: "[3]", 21: "[]"} {
		l.readsAgain(t, then.Add(since*time.Second), want)
	}
	// The pipeline's own beginning bounds it.
	config := func(start string) func(*Config) { return func(c *Config) { c.Start = start } }
	if values, _, err := l.reread(t, time.Time{}, config(then.Add(11*time.Second).Format(time.RFC3339)), nil); fmt.Sprint(values) != "[3]" || err != nil {
		t.Errorf("read again %v, %v, before the start", values, err)
	}
	if values, _, err := l.reread(t, then, config(then.Add(11*time.Second).Format(time.RFC3339)), nil); fmt.Sprint(values) != "[3]" || err != nil {
		t.Errorf("read again %v, %v, before the start and since a time before it", values, err)
	}
	if _, _, err := l.reread(t, time.Time{}, config(latest), nil); err == nil {
		t.Error("from the beginning, which is not known, without a word")
	}
	if values, _, err := l.reread(t, then.Add(time.Second), config(latest), nil); fmt.Sprint(values) != "[1 2 3]" || err != nil {
		t.Errorf("read again %v, %v", values, err)
	}
}

// What retention removes while it is read is told, and the rest is read.
func TestReadingAgainGoesOnBehindWhatIsRemoved(t *testing.T) {
	t.Parallel()
	l := newTopic(t, start(t, broker.Options{}).Addr, session, 1)
	var all []string
	for i := range 3000 {
		all = append(all, fmt.Sprintf("%04d %01000d", i, 0))
	}
	for some := range slices.Chunk(all, 50) { // a batch is not cut
		l.add(t, some...)
	}
	l.carried(t, 3000)
	small := func(c *Config) { c.Fetch = Fetch{MaxBytes: 64 << 10, PartitionBytes: 64 << 10} }
	values, cut, err := l.reread(t, time.Time{}, small, func(value string) {
		if value == all[10] {
			l.Trim(t, 0, 2990)
		}
	})
	if err != nil || len(cut) != 1 || len(values) < 20 || len(values) >= 3000 || values[len(values)-1] != all[2999] || values[len(values)-10] != all[2990] {
		t.Errorf("%d values, cut %v, %v", len(values), cut, err)
	}
}

// What cannot be what was committed is not read, and not waited for.
func TestReadingAgainAnotherTopicIsAnError(t *testing.T) {
	t.Parallel()
	l := newTopic(t, start(t, broker.Options{}).Addr, session, 1)
	l.add(t, "a", "b")
	l.carried(t, 2)
	s := l.source(t, newOutside(), same)
	beyond := map[string]stream.Position{l.Partition(0): stream.OffsetPosition(7)}
	_, err := s.Reread(t.Context(), time.Time{}, beyond, func(string, []stream.Record) error { return nil })
	if fatal := (*stream.FatalError)(nil); !errors.As(err, &fatal) {
		t.Errorf("beyond the end of the log: %v", err)
	}
	kept, err := l.admin.FetchOffsets(t.Context(), l.name)
	if err != nil {
		t.Fatal(err)
	}
	l.remove(t)
	wait(t, "the topic is there again", func() bool {
		_, err := l.admin.CreateTopic(t.Context(), 1, 1, nil, l.name)
		return err == nil || errors.Is(err, kerr.TopicAlreadyExists)
	})
	l.client = newProducer(t, l.addr)
	l.add(t, "x", "y", "z")
	read := false
	_, err = s.Reread(t.Context(), time.Time{}, map[string]stream.Position{l.Partition(0): stream.OffsetPosition(1)}, func(string, []stream.Record) error {
		read = true
		return nil
	})
	if err == nil || read {
		t.Errorf("a topic that was created again: %v; read: %v", err, read)
	}
	if err := kadm.NewClient(l.client).CommitAllOffsets(t.Context(), l.name, kept.Offsets()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.reread(t, time.Time{}, same, nil); err == nil || !strings.Contains(err.Error(), "created again") {
		t.Errorf("a topic that was created again, with the old one's offsets: %v", err)
	}
}
