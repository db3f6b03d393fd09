package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// shrinkRuns bounds the time that shrinking takes.
const shrinkRuns = 4000

// Shrink looks for a smaller schedule that breaks a rule that s breaks: with less that goes wrong, fewer steps, fewer records,
// fewer shards and shorter waits. It returns s, if s keeps the promise.
func (r *Runner) Shrink(s *Schedule) *Schedule {
	quiet := Runner{Pipeline: r.Pipeline, breakage: r.breakage}
	first := quiet.Run(s)
	if len(first.Violations) == 0 {
		return s
	}
	small := *s
	small.Only = append([]Call{}, first.Went...)
	sh := shrinker{runner: &quiet, best: small, left: shrinkRuns}
	for _, v := range first.Violations {
		sh.rules = append(sh.rules, v.Rule)
	}
	if !sh.fails(small) {
		return s
	}
	for before := 0; before != sh.size(); {
		before = sh.size()
		sh.mischiefs()
		sh.steps()
		sh.records()
		sh.shards()
		sh.waits()
	}
	return &sh.best
}

// shrinker holds the smallest schedule so far that fails.
type shrinker struct {
	runner *Runner
	rules  []Rule
	best   Schedule
	left   int // runs
}

// size is what shrinks.
func (s *shrinker) size() int {
	n := len(s.best.Only) + len(s.best.Steps) + s.best.Records + s.best.Shards
	for _, step := range s.best.Steps {
		n += int(step.Wait / time.Millisecond)
	}
	return n
}

func (s *shrinker) fails(candidate Schedule) bool {
	if s.left == 0 {
		return false
	}
	s.left--
	broken := func(v Violation) bool { return slices.Contains(s.rules, v.Rule) }
	return slices.ContainsFunc(s.runner.Run(&candidate).Violations, broken)
}

// try keeps the candidate if it fails.
func (s *shrinker) try(candidate Schedule) bool {
	if !s.fails(candidate) {
		return false
	}
	s.best = candidate
	return true
}

func (s *shrinker) mischiefs() {
	without(s.best.Only, func(fewer []Call) bool {
		c := s.best
		c.Only = fewer
		return s.try(c)
	})
}

func (s *shrinker) steps() {
	without(s.best.Steps, func(fewer []Step) bool {
		c := s.best
		c.Steps = fewer
		return s.try(c)
	})
}

func (s *shrinker) records() {
	for less := s.best.Records / 2; less > 0; {
		c := s.best
		c.Records -= less
		if c.Records < 1 || !s.try(c) {
			less /= 2
		}
	}
}

func (s *shrinker) shards() {
	for n := 1; n < s.best.Shards; n++ {
		c := s.best
		c.Shards = n
		if s.try(c) {
			return
		}
	}
}

// waits tries whole seconds, then less.
func (s *shrinker) waits() {
	for i := range s.best.Steps {
		wait := s.best.Steps[i].Wait
		for _, shorter := range []time.Duration{0, wait / 2, wait.Truncate(time.Second)} {
			if shorter == wait {
				continue
			}
			c := s.best
			c.Steps = slices.Clone(c.Steps)
			c.Steps[i].Wait = shorter
			if s.try(c) {
				break
			}
		}
	}
}

// without leaves out pieces of items, large ones first, as long as keep says that the rest will do.
func without[T any](items []T, keep func(rest []T) bool) {
	for piece := max(len(items)/2, 1); piece > 0 && len(items) > 0; {
		smaller := false
		for from := 0; from < len(items); {
			rest := slices.Concat(items[:from], items[min(from+piece, len(items)):])
			if keep(append([]T{}, rest...)) {
				items, smaller = rest, true
			} else {
				from += piece
			}
		}
		if piece > 1 || !smaller {
			piece /= 2
		}
	}
}

// String is the schedule as a person reads it.
func (s *Schedule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d records in %d shards, %d steps\n", s.Records, s.Shards, len(s.Steps))
	for i, step := range s.Steps {
		fmt.Fprintf(&b, "%4d. %s\n", i+1, step)
	}
	for _, c := range s.Only {
		fmt.Fprintf(&b, "      %s: %s\n", c, s.goesWrong(c))
	}
	return b.String()
}
