package sourcetest

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// That a partition is assigned only after all its parents have ended is checked at every assignment: see worker.assign.

// fixed is what the cases of this file come to where partitions never split.
func (s *scene) fixed() bool {
	if s.Resharding {
		return false
	}
	for i := range s.expected {
		s.append(i, 20)
	}
	s.run(script{every: 7})
	s.settled()
	return true
}

func reshards(s *scene) {
	if s.fixed() {
		return
	}
	s.append(0, 20)
	w := s.start(script{every: 7})
	s.delivered(w, 0)
	s.append(0, 10)
	left := s.split(0)
	s.append(left, 10)
	s.append(left+1, 10)
	s.delivered(w, left)
	s.delivered(w, left+1)
	child := s.merge(left, left+1)
	s.append(child, 10)
	s.delivered(w, child)
	s.append(child, 10)
	s.delivered(w, child)
	if err := w.stop(); err != nil {
		s.Errorf("Run: %v", err)
	}
	s.settled()
}

// reshardsUnseen has two generations come and go between two runs, and one partition that is as it was.
func reshardsUnseen(s *scene) {
	if s.fixed() {
		return
	}
	s.append(0, 20)
	s.append(1, 20)
	s.crashedRun(7, nil)
	s.append(0, 10)
	left := s.split(0)
	s.append(left, 10)
	child := s.merge(left, left+1) // one parent was never written to
	s.append(child, 10)
	w := s.start(script{every: 3})
	s.delivered(w, child)
	s.delivered(w, 1)
	if err := w.stop(); err != nil {
		s.Errorf("Run: %v", err)
	}
	s.settled()
	w = s.start(script{})
	s.append(child, 10)
	s.delivered(w, child)
	w.stop()
	s.settled()
}

// waitsForParent holds one of two parents while the other one ends. That the child waits is checked when it is assigned.
func waitsForParent(s *scene, held int) {
	if s.fixed() {
		return
	}
	s.append(held, 5)
	release := make(chan struct{})
	w := s.start(script{taken: func(ctx context.Context, t *tenure) error {
		if t.partition == held {
			return holding(1, release)(ctx, t)
		}
		return nil
	}})
	s.wait("the held parent is read", func() bool { t := s.last(held, w); return t != nil && t.next > 0 })
	s.append(1-held, 5)
	child := s.merge(0, 1)
	s.append(child, 5)
	s.wait("the other parent ends", func() bool { t := s.last(1-held, nil); return t != nil && t.end == "drained" })
	s.waitFor(s.Lapse/2, func() bool { return s.last(child, nil) != nil }) // time enough for a source that does not wait
	close(release)
	s.delivered(w, child)
	if err := w.stop(); err != nil {
		s.Errorf("Run: %v", err)
	}
	s.settled()
}

// crashEnding runs a worker that vanishes when a partition ends, before or after the commit of its end, then one that goes on.
func (s *scene) crashEnding(commit bool) {
	s.Helper()
	w := s.start(script{every: 4, drain: func(ctx context.Context, t *tenure, why stream.Why) error {
		if why == stream.Ended && commit && t.done < t.next {
			if err := t.commit(ctx, t.next); err != nil {
				return err
			}
		}
		return t.crashAt(0, 0)
	}})
	s.wait("the worker crashes", func() bool { return w.crashed() })
	w.crash()
	heir := s.start(script{every: 1}) // so that all is committed without a drain
	s.settled()
	if err := heir.stop(); err != nil {
		s.Errorf("Run: %v", err)
	}
	s.checkLake()
}

func crashBeforeEnd(s *scene) { crashAtSplit(s, false) }
func crashAtEnd(s *scene)     { crashAtSplit(s, true) }

func crashAtSplit(s *scene, commit bool) {
	if s.fixed() {
		return
	}
	s.append(0, 10)
	left := s.split(0)
	s.append(left, 10)
	s.append(left+1, 10)
	s.crashEnding(commit)
}

func crashAtMerge(s *scene) {
	if s.fixed() {
		return
	}
	s.append(0, 10)
	s.append(1, 10)
	child := s.merge(0, 1)
	s.append(child, 10)
	s.crashEnding(true)
}

// churnResharding is seeded, as churn is.
func churnResharding(s *scene) {
	if s.fixed() {
		return
	}
	seed := uint64(time.Now().UnixNano())
	s.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	open := [][]int{{0}, {1}} // partitions that are written to; those of one group were split from one
	var live []*worker
	for range 8 {
		for _, group := range open {
			for _, i := range group {
				s.append(i, 1+random.IntN(30))
			}
		}
		switch group := random.IntN(len(open)); len(open[group]) {
		case 1:
			first := s.split(open[group][0])
			open[group] = []int{first, first + 1}
		case 2:
			open[group] = []int{s.merge(open[group][0], open[group][1])}
		}
		if len(live) < 2 || random.IntN(2) == 0 && len(live) < 3 {
			live = append(live, s.start(script{every: 1 + random.IntN(20)}))
			continue
		}
		if random.IntN(3) == 0 {
			live[0].crash()
		} else if err := live[0].stop(); err != nil {
			s.Errorf("Run: %v", err)
		}
		live = live[1:]
	}
	last := s.start(script{every: 1})
	for _, w := range append(live, last) {
		if w == last {
			s.settled()
		}
		if err := w.stop(); err != nil {
			s.Errorf("Run: %v", err)
		}
	}
	s.checkLake()
}
