package lease

import (
	"cmp"
	"math/rand/v2"
)

// place is one partition as one worker sees it.
type place struct {
	row     Row
	lease   *Lease // not nil: this worker has it
	leaving bool   // the lease is being handed off
	ending  bool   // the lease is lost, and its tenure has not ended yet
	own     bool   // the row is an earlier run's of this worker, or a take of ours whose answer was lost
	silent  bool   // the row has not changed for a period
}

// plan is what a worker should do.
type plan struct {
	leave  []*Lease          // hand off to who claims them
	refuse map[*Lease]string // claims that would leave this worker with too little, by claimer
	take   []Row
	claim  []Row
}

// balance decides what worker me should do so that in the end every worker has within one of the others. All workers decide
// by the same rule: a partition moves only from one that has at least two more.
func balance(me string, places []place) plan {
	rand.Shuffle(len(places), func(i, j int) { places[i], places[j] = places[j], places[i] }) // so that workers meet rarely
	p := plan{refuse: map[*Lease]string{}}
	has := map[string]int{me: 0}
	var free []Row
	for _, x := range places {
		if holder := x.holder(me); holder != "" {
			has[holder]++
		} else if !x.ending {
			free = append(free, x.row)
		}
		if x.mustTake(me) {
			p.take = append(p.take, x.row)
		}
	}
	for _, x := range places {
		if x.lease == nil || x.leaving || x.ending || x.row.Claim == "" || x.row.Claim == me {
			continue
		}
		if has[me]-has[x.row.Claim] < 2 {
			p.refuse[x.lease] = x.row.Claim
			continue
		}
		p.leave = append(p.leave, x.lease)
		has[me]--
		has[x.row.Claim]++
	}
	fair := (len(places) + len(has) - 1) / len(has)
	for _, r := range free {
		if has[me] < fair {
			p.take = append(p.take, r)
			has[me]++
		}
	}
	for {
		i := richest(me, has, places)
		if i < 0 {
			return p
		}
		victim := &places[i].row
		p.claim = append(p.claim, *victim)
		has[victim.Owner]--
		has[me]++
		victim.Claim = me
	}
}

// holder is who has the partition, or will have it once hand-offs are done; empty: it is free to take.
func (x *place) holder(me string) string {
	r := &x.row
	switch {
	case x.lease != nil && x.leaving && !x.ending:
		return cmp.Or(r.Claim, me)
	case x.lease != nil && !x.ending:
		return me // whether it goes to the claimer is not decided yet
	case x.own:
		return me
	case x.silent:
		return ""
	case r.Claim != "":
		return r.Claim
	}
	return r.Owner
}

// mustTake says that the partition is this worker's, whatever the others have.
func (x *place) mustTake(me string) bool {
	return x.lease == nil && (x.own || x.row.Owner == "" && x.row.Claim == me && !x.silent)
}

// richest finds a partition that me should claim: of the worker that has most, if that is at least two more.
func richest(me string, has map[string]int, places []place) int {
	found := -1
	for i, x := range places {
		r := &x.row
		if x.lease != nil || x.own || x.silent || r.Owner == "" || r.Claim != "" || has[r.Owner]-has[me] < 2 {
			continue
		}
		if found < 0 || has[r.Owner] > has[places[found].row.Owner] {
			found = i
		}
	}
	return found
}
