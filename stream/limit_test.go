package stream

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// Mutations seen red: Least is not looked at; the window never moves; a step is not emptied before it is used again.

func TestTheDeadLimitLooksAtItsWindowOnly(t *testing.T) {
	type add struct {
		at            time.Duration
		records, dead int64
	}
	bad := &DeadLetter{Stage: "decode", Err: "no id"}
	start := time.Unix(1_800_000_000, 0)
	for _, c := range []struct {
		name  string
		limit DeadLimit
		adds  []add
		stops int // number of the add that fails, from 1; 0: none
	}{
		{"no limit", DeadLimit{}, []add{{0, 5000, 5000}}, 0},
		{"at the limit", DeadLimit{Percent: 10}, []add{{0, 1000, 100}, {time.Second, 1000, 101}}, 2},
		{"too few to tell", DeadLimit{Percent: 10}, []add{{0, 500, 500}, {time.Second, 499, 499}, {2 * time.Second, 1, 1}}, 3},
		{"what is old is forgotten", DeadLimit{Percent: 10, Window: time.Minute, Least: 100}, []add{{0, 1000, 90}, {61 * time.Second, 100, 9}, {70 * time.Second, 100, 13}}, 3},
		{"good ones hide bad ones of the same window", DeadLimit{Percent: 10, Least: 100}, []add{{0, 10_000, 0}, {30 * time.Second, 100, 100}, {69 * time.Second, 100, 100}}, 3},
		{"sinks refuse", DeadLimit{Percent: 10, Least: 100}, []add{{0, 200, 0}, {time.Second, 0, 21}}, 2},
		{"a good batch never stops it", DeadLimit{Percent: 10, Least: 100}, []add{{0, 90, 90}, {time.Second, 10, 0}}, 0},
	} {
		c.limit.EnsureDefaults()
		r := &deadRate{DeadLimit: c.limit}
		for i, a := range c.adds {
			var last *DeadLetter
			if a.dead > 0 {
				last = bad
			}
			err := r.add(start.Add(a.at), a.records, a.dead, last)
			if (err != nil) != (i+1 == c.stops) {
				t.Errorf("%s: add %d: %v; want the limit at %d", c.name, i+1, err, c.stops)
			}
			if err != nil && (!errors.Is(err, ErrTooManyDead) || !strings.Contains(err.Error(), "at stage decode: no id")) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
}
