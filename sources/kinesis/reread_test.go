package kinesis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/kinesis"
)

// Mutations seen red (line broken -> test):
//
//	Reread: the stored start does not count; nothing is cut; read: the tip is not the end -> ReadingAgainBeginsByTimeAndNotBeforeThePipeline
//	Reread: the service is asked for the future -> ReadingAgainBeginsByTimeAndNotBeforeThePipeline, the suite's "reads again ... beside its owner"
//	Reread: the stream's age is not compared -> ReadingAgainAnotherStreamIsAnError
//	read: an iterator that failed is used again -> ErrorsOfReadingAgainAreRepeated
//	failed: as much is asked for again -> ReadingAgainAsksForLessOfASlowNetwork

// reread is what is committed, as it is read again.
func (s *scene) reread(t *testing.T, since time.Time) (values, cut []string, err error) {
	t.Helper()
	source, _ := s.source(t, &outside{}, usual)
	ends := map[string]stream.Position{}
	for partition, c := range must(source.Checkpoints(t.Context())) {
		ends[partition] = c.Pos
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cut, err = source.Reread(ctx, since, ends, func(_ string, rs []stream.Record) error {
		for _, r := range rs {
			values = append(values, string(r.Value))
		}
		return nil
	})
	return values, cut, err
}

func (s *scene) readsAgain(t *testing.T, since time.Time, want ...string) {
	t.Helper()
	if values, cut, err := s.reread(t, since); !slices.Equal(values, want) || len(cut) > 0 || err != nil {
		t.Errorf("read again %q, cut %q, %v; want %q", values, cut, err, want)
	}
}

// The stored start bounds it, times are of the service's clock, and what the retention has removed is told.
func TestReadingAgainBeginsByTimeAndNotBeforeThePipeline(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1)
	s.put(0, "before the pipeline")
	s.server.SetClock(time.Minute)
	p := s.play(t, nil, func(c *Config) { c.Start = "latest" })
	p.Wait(s.Partition(0), "the shard is assigned", func([]stream.Record) bool { return true })
	s.server.SetClock(2 * time.Minute)
	s.put(0, "1", "2")
	s.server.SetClock(10 * time.Minute)
	middle := s.server.Now()
	s.put(0, "3")
	p.Has(s.Partition(0), 3)
	p.Stop()
	s.readsAgain(t, time.Time{}, "1", "2", "3")
	s.readsAgain(t, middle.Add(-time.Minute), "3")
	s.readsAgain(t, middle.Add(time.Hour))
	s.server.SetClock(26 * time.Hour)
	values, cut, err := s.reread(t, time.Time{})
	if err != nil || len(values) > 0 || !slices.Equal(cut, []string{s.Partition(0)}) {
		t.Errorf("after the retention: %q, cut %q, %v", values, cut, err)
	}
}

// A commit may end inside an aggregate, and so does the reading.
func TestReadingAgainEndsInsideAnAggregate(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1)
	s.server.Put(s.name, s.Partition(0), kinesis.Record{Key: "any", Data: kinesis.Aggregate(
		kinesis.Record{Key: "a", Data: []byte("1")}, kinesis.Record{Key: "b", Data: []byte("2")}, kinesis.Record{Key: "c", Data: []byte("3")})})
	hold := make(chan struct{})
	p := s.play(t, hold, usual)
	tape := p.Has(s.Partition(0), 3)
	if err := tape.CommitFirst(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	s.readsAgain(t, time.Time{}, "1", "2")
}

// Errors are repeated and an iterator that expires is made anew, where the reading was.
func TestErrorsOfReadingAgainAreRepeated(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1)
	s.put(0, numbers(0, 5)...)
	p := s.play(t, nil, usual)
	p.Has(s.Partition(0), 5)
	p.Stop()
	reads := 0
	s.server.Intercept(func(c kinesis.Call) kinesis.Fault {
		if c.Operation != "GetRecords" {
			return kinesis.Fault{}
		}
		switch reads++; reads {
		case 1:
			s.server.Expire()
		case 2:
			return kinesis.Fault{Error: "InternalFailure"}
		}
		return kinesis.Fault{}
	})
	s.readsAgain(t, time.Time{}, numbers(0, 5)...)
	if reads < 3 {
		t.Errorf("%d reads", reads)
	}
}

func TestReadingAgainAnotherStreamIsAnError(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1)
	s.put(0, numbers(0, 5)...)
	p := s.play(t, nil, usual)
	p.Has(s.Partition(0), 5)
	p.Stop()
	s.server.SetClock(time.Minute)
	s.server.DeleteStream(s.name)
	s.server.CreateStream(s.name, 1)
	s.put(0, numbers(0, 9)...)
	_, _, err := s.reread(t, time.Time{})
	fatal(t, err, "created again")
}

func TestReadingAgainAsksForLessOfASlowNetwork(t *testing.T) {
	t.Parallel()
	rd := &rereader{limit: 3, iterator: "i"}
	rd.failed(errors.New("another one"))
	if rd.limit != 3 || rd.iterator != "" {
		t.Errorf("after an error that is not about time: limit %d, iterator %q", rd.limit, rd.iterator)
	}
	for _, want := range []int32{1, 1} {
		if rd.failed(fmt.Errorf("GetRecords: %w", context.DeadlineExceeded)); rd.limit != want {
			t.Errorf("limit %d; want %d", rd.limit, want)
		}
	}
}
