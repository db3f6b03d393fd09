package sim

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Schedule is what happens to a pipeline in one run. It is made of a seed, or is what Shrink left of one.
type Schedule struct {
	Seed    uint64
	Shards  int    // at the start
	Records int    // that are written while the steps are taken, in all shards together
	Steps   []Step // in order
	Only    []Call // the calls that go wrong; nil: those that the seed says
}

// Step is one thing that happens, and how long until the next one. A step whose process has ended or whose shard is closed
// does nothing, so that steps can be left out.
type Step struct {
	Kind    StepKind
	Process int           // from 1
	Shard   int           // from 0
	Other   int           // Merge: the other parent
	Into    [2]int        // Split, Merge: the new shards; Merge makes the first
	Sink    string        // SinkFails, SinkIsSlow
	For     time.Duration // SinkFails, SinkIsSlow
	Wait    time.Duration
}

// StepKind says what a Step is.
type StepKind int

const (
	Start      StepKind = iota // a process begins
	Crash                      // kill -9: nothing that a process has not sent leaves it any more
	Stop                       // SIGTERM: drain and end
	Pause                      // SIGSTOP: the process sends nothing, and its leases lapse
	Wake                       // SIGCONT: a process whose leases have lapsed is a zombie now
	Steal                      // another process takes a shard's lease
	Split                      // a shard ends and two follow it
	Merge                      // two shards end and one follows them
	SinkFails                  // every call to a sink fails for some time
	SinkIsSlow                 // every call to a sink takes seconds
	Expire                     // the bucket's lifecycle removes all that is staged
)

func (s Step) String() string {
	text := ""
	switch s.Kind {
	case Start:
		text = fmt.Sprintf("process %d starts", s.Process)
	case Crash:
		text = fmt.Sprintf("process %d is killed", s.Process)
	case Stop:
		text = fmt.Sprintf("process %d is told to stop", s.Process)
	case Pause:
		text = fmt.Sprintf("process %d is paused", s.Process)
	case Wake:
		text = fmt.Sprintf("process %d wakes", s.Process)
	case Steal:
		text = fmt.Sprintf("process %d steals %s", s.Process, shardName(s.Shard))
	case Split:
		text = fmt.Sprintf("%s splits into %s and %s", shardName(s.Shard), shardName(s.Into[0]), shardName(s.Into[1]))
	case Merge:
		text = fmt.Sprintf("%s and %s merge into %s", shardName(s.Shard), shardName(s.Other), shardName(s.Into[0]))
	case SinkFails:
		text = fmt.Sprintf("%s fails for %s", s.Sink, s.For)
	case SinkIsSlow:
		text = fmt.Sprintf("%s is slow for %s", s.Sink, s.For)
	case Expire:
		text = "all staged data expires"
	}
	return fmt.Sprintf("%s; then %s pass", text, s.Wait)
}

// Call is one call from a process to the outside.
type Call struct {
	Process int    // from 1
	Shard   int    // -1: of the whole process
	Name    string // "lake.stage", "commit", "lease"
	Lane    int    // which of the calls of that name that may be under way at once
	N       int    // how many of them there have been, with this one
}

func (c Call) String() string {
	where := fmt.Sprintf("process %d", c.Process)
	if c.Shard >= 0 {
		where += ", " + shardName(c.Shard)
	}
	if c.Lane > 0 {
		return fmt.Sprintf("%s, %s %d of file %d", where, c.Name, c.N, c.Lane)
	}
	return fmt.Sprintf("%s, %s %d", where, c.Name, c.N)
}

// Bounds of a schedule. Every actor has its own nanoseconds in which its calls take effect, so their number is bounded.
const (
	maxProcesses = 40
	maxShards    = 24
)

// NewSchedule makes the schedule of a seed for a pipeline.
func NewSchedule(p *Pipeline, seed uint64) *Schedule {
	g := generator{rng: rand.New(rand.NewPCG(seed, 1)), sinks: p.sinkNames(), spools: p.spoolNames(), alive: map[int]bool{}}
	s := &Schedule{Seed: seed, Shards: 1 + g.rng.IntN(4), Records: 120 + g.rng.IntN(160)}
	for g.shards = range s.Shards {
		g.open = append(g.open, g.shards)
	}
	g.shards = s.Shards
	for range 12 + g.rng.IntN(14) {
		step := g.step()
		step.Wait = time.Duration(g.rng.IntN(7000)) * time.Millisecond
		s.Steps = append(s.Steps, step)
	}
	return s
}

// generator keeps in mind what the schedule so far has made of the world.
type generator struct {
	rng       *rand.Rand
	sinks     []string
	spools    []string     // those that set writes aside
	alive     map[int]bool // true: paused
	processes int
	shards    int
	open      []int
}

func (g *generator) step() Step {
	n := g.rng.IntN(100)
	switch {
	case len(g.alive) > 0 && len(g.spools) > 0 && g.rng.IntN(8) == 0:
		return g.outage()
	case len(g.alive) == 0 || n < 20 && len(g.alive) < 3:
		g.processes++
		g.alive[g.processes] = false
		return Step{Kind: Start, Process: g.processes}
	case n < 30:
		return g.end(Crash)
	case n < 37:
		return g.end(Stop)
	case n < 52:
		p := g.process()
		g.alive[p] = true
		return Step{Kind: Pause, Process: p}
	case n < 66:
		return g.wake()
	case n < 74:
		return Step{Kind: Steal, Process: g.process(), Shard: g.shard()}
	case n < 84 && g.shards+2 <= maxShards:
		return g.split()
	case n < 90 && len(g.open) > 1 && g.shards < maxShards:
		return g.merge()
	case n < 96:
		return Step{Kind: SinkFails, Sink: g.sinks[g.rng.IntN(len(g.sinks))], For: g.seconds(20)}
	case n < 98:
		return Step{Kind: SinkIsSlow, Sink: g.sinks[g.rng.IntN(len(g.sinks))], For: g.seconds(20)}
	}
	return Step{Kind: Expire}
}

// outage is of a sink that sets writes aside, or now and then of where it does.
func (g *generator) outage() Step {
	s := Step{Kind: SinkFails, Sink: g.spools[g.rng.IntN(len(g.spools))], For: g.seconds(40)}
	if g.rng.IntN(6) == 0 {
		s.Sink, s.For = s.Sink+spoolName, g.seconds(15)
	}
	return s
}

func (g *generator) seconds(most int) time.Duration {
	return time.Duration(1+g.rng.IntN(most)) * time.Second
}

func (g *generator) process() int {
	var ps []int
	for p := range g.alive {
		ps = append(ps, p)
	}
	slices.Sort(ps)
	return ps[g.rng.IntN(len(ps))]
}

func (g *generator) shard() int { return g.open[g.rng.IntN(len(g.open))] }

func (g *generator) end(how StepKind) Step {
	p := g.process()
	delete(g.alive, p)
	return Step{Kind: how, Process: p}
}

// wake wakes a sleeper if there is one.
func (g *generator) wake() Step {
	for p := 1; p <= g.processes; p++ {
		if paused, ok := g.alive[p]; ok && paused {
			g.alive[p] = false
			return Step{Kind: Wake, Process: p}
		}
	}
	return Step{Kind: Steal, Process: g.process(), Shard: g.shard()}
}

func (g *generator) split() Step {
	s := Step{Kind: Split, Shard: g.shard(), Into: [2]int{g.shards, g.shards + 1}}
	g.replace(s.Into[:], s.Shard)
	return s
}

// merge joins two shards that are neighbours in the list of open ones, which need not be neighbours in the keys.
func (g *generator) merge() Step {
	i := g.rng.IntN(len(g.open) - 1)
	s := Step{Kind: Merge, Shard: g.open[i], Other: g.open[i+1], Into: [2]int{g.shards, -1}}
	g.replace(s.Into[:1], s.Shard, s.Other)
	return s
}

func (g *generator) replace(children []int, parents ...int) {
	g.open = slices.DeleteFunc(g.open, func(s int) bool { return slices.Contains(parents, s) })
	g.open = append(g.open, children...)
	g.shards += len(children)
}

// mischief is what goes wrong with one call.
type mischief int

const (
	fine       mischief = iota
	refused             // fails before its effect
	replyLost           // fails after its effect
	hangs               // has no effect, and no answer until the deadline
	late                // no answer until the deadline; the effect comes after it, when nobody waits for it any more
	diesBefore          // the process is killed instead of the effect
	diesAfter           // the process is killed after the effect
	outage              // the sink fails at this time
	mischiefs           // how many there are
)

func (m mischief) String() string {
	return [...]string{"ok", "refused", "reply lost", "hangs", "takes effect late", "process killed before it", "process killed after it", "sink fails"}[m]
}

// odds of each mischief, in a thousand calls. Calls that happen all the time go wrong less often.
func odds(name string) [mischiefs]int {
	switch name {
	case "lease":
		return [mischiefs]int{refused: 20, replyLost: 20, diesBefore: 1}
	case "read":
		return [mischiefs]int{refused: 5, diesBefore: 1}
	case "commit":
		return [mischiefs]int{refused: 30, replyLost: 40, hangs: 10, late: 15, diesBefore: 12, diesAfter: 20}
	}
	if strings.HasSuffix(name, ".publish") {
		return [mischiefs]int{refused: 30, replyLost: 25, hangs: 6, late: 10, diesBefore: 4, diesAfter: 8}
	}
	return [mischiefs]int{refused: 30, replyLost: 25, hangs: 6, late: 10, diesBefore: 3, diesAfter: 3}
}

// chance is a random number that is a function of the seed, the call and what it is for: not of the order in which calls are made.
func (s *Schedule) chance(c Call, purpose uint64) uint64 {
	h := mix(s.Seed ^ mix(uint64(c.Process)<<40^uint64(c.Shard+1)<<32^uint64(c.Lane)<<24^uint64(c.N)) ^ purpose<<56)
	for i := range len(c.Name) {
		h = mix(h ^ uint64(c.Name[i]))
	}
	return h
}

// mix is the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// What the numbers drawn for one call are for.
const (
	forMischief = iota
	forDelay
	forReply
	forSize
)

// goesWrong says what the seed has in store for a call.
func (s *Schedule) goesWrong(c Call) mischief {
	if s.Only != nil && !slices.Contains(s.Only, c) {
		return fine
	}
	n := int(s.chance(c, forMischief) % 1000)
	for m, share := range odds(c.Name) {
		if n < share {
			return mischief(m)
		}
		n -= share
	}
	return fine
}

// delay is how long a call is under way: mostly some milliseconds, now and then a second.
func (s *Schedule) delay(c Call, purpose uint64) time.Duration {
	h := s.chance(c, purpose)
	d := time.Duration(1+h%40) * time.Millisecond
	if h>>32%12 == 0 {
		d += time.Duration(h>>40%900) * time.Millisecond
	}
	return d
}

func compareCalls(a, b Call) int {
	return cmp.Or(cmp.Compare(a.Process, b.Process), cmp.Compare(a.Shard, b.Shard), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Lane, b.Lane), cmp.Compare(a.N, b.N))
}
