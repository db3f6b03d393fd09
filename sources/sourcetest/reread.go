package sourcetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// reread is what one Reread of everything committed brought, and what it must not have changed.
func (s *scene) reread(since time.Time) (read map[int][]stream.Record, cut []string) {
	s.Helper()
	before := s.checkpoints()
	read, cut, err := s.rereadTo(before, since, nil)
	if err != nil {
		s.Fatalf("Reread: %v", err)
	}
	if after := s.checkpoints(); !maps.EqualFunc(before, after, func(a, b stream.Checkpoint) bool { return a.Pos == b.Pos && string(a.Note) == string(b.Note) }) {
		s.Errorf("the checkpoints were %v, and are %v after a Reread", before, after)
	}
	return read, cut
}

// rereadTo reads up to those checkpoints again. each is called with every record's index among those of its partition.
func (s *scene) rereadTo(to map[string]stream.Checkpoint, since time.Time, each func(n int) error) (map[int][]stream.Record, []string, error) {
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	ends := map[string]stream.Position{}
	for partition, c := range to {
		ends[partition] = c.Pos
	}
	read := map[int][]stream.Record{}
	var mu sync.Mutex
	cut, err := s.log.Open(s.T).Source.(stream.Rereader).Reread(ctx, since, ends, func(partition string, rs []stream.Record) error {
		mu.Lock()
		defer mu.Unlock()
		s.mu.Lock()
		i, ok := s.byName[partition]
		s.mu.Unlock()
		if !ok {
			return fmt.Errorf("no partition is called %q", partition)
		}
		for _, r := range rs {
			read[i] = append(read[i], r)
			if each != nil {
				if err := each(len(read[i]) - 1); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return read, cut, err
}

// checkReread wants the records from index from up to index to, at the positions that they had.
func (s *scene) checkReread(read map[int][]stream.Record, i, from, to int) {
	s.Helper()
	if len(read[i]) != to-from {
		s.Fatalf("%d records of %s were read again; want %d to %d", len(read[i]), s.log.Partition(i), from, to-1)
	}
	for n, r := range read[i] {
		if err := s.compare(r, s.expected[i][from+n]); err != nil {
			s.Errorf("%s, read again: record %d: %v", s.log.Partition(i), from+n, err)
		}
		if at := s.position(i, from+n); r.Pos != at {
			s.Errorf("%s, read again: record %d is at %s; it was at %s", s.log.Partition(i), from+n, r.Pos, at)
		}
	}
}

// readsAgain reads beside an owner, who must not notice. One partition has no record.
func readsAgain(s *scene) {
	s.append(0, 30)
	s.append(1, 1200)
	var w *worker
	want := [2]int{28, 1197}
	if s.Finite {
		s.run(script{every: 7})
		want = [2]int{30, 1200}
	} else {
		w = s.start(script{every: 7})
		s.wait("every due commit", func() bool {
			return s.last(0, w) != nil && s.last(1, w) != nil && s.last(0, w).done == want[0] && s.last(1, w).done == want[1]
		})
	}
	read, cut := s.reread(time.Time{})
	s.checkReread(read, 0, 0, want[0])
	s.checkReread(read, 1, 0, want[1])
	if len(read[2]) > 0 || len(cut) > 0 {
		s.Errorf("%d records of an empty partition; cut: %q", len(read[2]), cut)
	}
	if s.Times {
		read, _ = s.reread(time.Now().Add(-time.Hour))
		s.checkReread(read, 1, 0, want[1])
		if read, _ = s.reread(time.Now().Add(time.Hour)); len(read) > 0 {
			s.Errorf("%d partitions have records of the future", len(read))
		}
	}
	if w == nil {
		return
	}
	s.append(0, 5)
	s.delivered(w, 0)
	if n := len(w.tenures()); n > 3 || s.last(0, w).end != "" {
		s.Errorf("the owner has had %d tenures of 3 partitions: %s", n, s.describe())
	}
	if err := w.stop(); err != nil {
		s.Errorf("Run: %v", err)
	}
}

// stopsReadingAgain: an error of visit and the context's end stop it.
func stopsReadingAgain(s *scene) {
	s.append(0, 30)
	s.append(1, 30)
	s.run(script{})
	if _, _, err := s.rereadTo(s.checkpoints(), time.Time{}, func(n int) error {
		if n == 10 {
			return errTest
		}
		return nil
	}); !errors.Is(err, errTest) {
		s.Errorf("Reread returned %v; want the error of visit", err)
	}
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	ends := map[string]stream.Position{}
	for partition, c := range s.checkpoints() {
		ends[partition] = c.Pos
	}
	if _, err := s.log.Open(s.T).Source.(stream.Rereader).Reread(ctx, time.Time{}, ends, func(string, []stream.Record) error { return nil }); err == nil {
		s.Error("Reread returned nil when its context had ended")
	}
}

// readsWhatIsLeft: what is gone from the log is told where the source can know it, and the rest is read.
func readsWhatIsLeft(s *scene) {
	s.append(0, 30)
	s.append(1, 30)
	s.run(script{})
	if s.Retention {
		s.trim(0, 12)
	}
	read, cut := s.reread(time.Time{})
	s.checkReread(read, 0, s.trimmed[0], 30)
	if s.TellsGaps && !slices.Contains(cut, s.log.Partition(0)) {
		s.Errorf("cut is %q, and the first 12 records of %s are gone", cut, s.log.Partition(0))
	}
	s.append(0, 1)
	if s.Retention {
		s.trim(0, 30)
	}
	if read, _ = s.reread(time.Time{}); len(read[0]) != 30-s.trimmed[0] {
		s.Errorf("%d records were read again; %d are gone", len(read[0]), s.trimmed[0])
	}
}

func readsAgainAfterResharding(s *scene) {
	if s.fixed() {
		return
	}
	s.append(0, 20)
	w := s.start(script{every: 1})
	s.delivered(w, 0)
	left := s.split(0)
	s.append(left, 10)
	s.append(left+1, 10)
	s.delivered(w, left)
	s.delivered(w, left+1)
	child := s.merge(left, left+1)
	s.append(child, 10)
	s.delivered(w, child)
	if err := w.stop(); err != nil {
		s.Errorf("Run: %v", err)
	}
	read, _ := s.reread(time.Time{})
	s.checkReread(read, 0, 0, 20)
	for _, i := range []int{left, left + 1, child} {
		s.checkReread(read, i, 0, 10)
	}
}
