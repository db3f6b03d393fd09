package sim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// Times of the simulated world. Those of the engine end some actors further on in the quantum than they began, so that none of
// its timers fires at a moment at which a call of the same shard takes effect.
const (
	quantum    = 1 << 20                // ns; about a millisecond. Each actor has its own nanosecond of it.
	leaseTime  = 8000 * quantum         // a lease that was not renewed for so long may be taken
	leaseTick  = 1000 * quantum         // between two looks at the leases
	pollEvery  = 300 * quantum          // between two reads at the end of a shard
	commitAge  = 3000*quantum + 3*lanes // see stream.Config
	commitIdle = 1500*quantum + 3*lanes //
	deadline   = 4000*quantum + 5*lanes // of one call
	patience   = 3 * time.Hour          // that the last process has to finish the work

	full = 40 // rows of a full file
	part = 12 // rows of a part that is uploaded ahead of the commit

	lanes    = quantum / (maxProcesses + 1) / (maxShards + 1) // nanoseconds for the calls of one process and shard
	lateLane = lanes / 2                                      // the late effect of a call is an actor of its own
	readLane = lateLane - 1

	mostSpools = 6
	tendLane   = readLane - mostSpools // and those after it: of the ticks at which a process looks for orphans
)

var errRefused = errors.New("the simulator lets this call fail")

// world is everything outside of the processes: the log, the leases, the sinks' stores. Faults come from the schedule.
//
// Whatever happens in it happens at a moment of the bubble's clock at which nothing else happens: each actor, that is each of
// the calls that may be under way at once, has its own nanosecond within a quantum. So the order of all effects follows from
// the schedule alone, and not from how the Go runtime orders goroutines and timers.
type world struct {
	pipeline *Pipeline
	schedule *Schedule
	breakage breakage
	began    time.Time
	keys     *oracle                // reads the keys of records that have none
	late     sync.WaitGroup         // effects that nobody waits for
	lateAt   map[time.Duration]bool // when

	mu         sync.Mutex
	shards     []*shard
	records    []*record // by sequence number
	sinks      map[string]*store
	order      []string           // names of sinks, the dead letters last
	buckets    map[string]*bucket // of the sinks that set writes aside
	objects    map[string][]byte  // of the overflow
	asides     int                // objects that were set aside
	processes  map[int]*process
	fails      map[string]time.Time // until when a sink fails
	slow       map[string]time.Time
	calm       bool // the end: nothing goes wrong any more
	went       []Call
	trace      trace
	count      Counts
	violations []Violation
}

// breakage is what the simulator's own tests break on purpose. Every field stands for one rule of the commit protocol.
type breakage struct {
	noFence       bool // Assignment.Commit takes the commit of an owner whose lease has been taken
	earlyPublish  bool // staged files are visible before the commit
	loseReceipts  bool // the checkpoint does not hold the receipts
	earlyChildren bool // children are assigned before their parents have ended
	skipFlush     bool // the upsert sinks acknowledge what they have not stored
	openForever   bool // a new owner goes on with the last one's transaction
}

func newWorld(p *Pipeline, s *Schedule, b breakage, keepTrace bool) *world {
	w := &world{
		pipeline: p, schedule: s, breakage: b, began: time.Now(), lateAt: map[time.Duration]bool{},
		sinks: map[string]*store{}, order: append(p.sinkNames(), stream.DeadLetters), buckets: map[string]*bucket{}, objects: map[string][]byte{}, processes: map[int]*process{},
		fails: map[string]time.Time{}, slow: map[string]time.Time{},
	}
	w.trace.keep = keepTrace
	w.keys = newOracle(w, "")
	for _, name := range w.order {
		w.sinks[name] = newStore(name)
	}
	for _, s := range p.Sinks {
		if s.Spool != nil {
			w.buckets[s.Name] = newBucket(s.Spool)
		}
	}
	for n := range s.Shards {
		sh := w.shard(n)
		for bucket := n; bucket < buckets; bucket += s.Shards {
			sh.buckets = append(sh.buckets, bucket)
		}
	}
	return w
}

// violate notes that the promise is broken. It is called under the lock.
func (w *world) violate(rule Rule, sink, shard string, pos stream.Position, format string, args ...any) {
	if len(w.violations) < 20 {
		w.violations = append(w.violations, Violation{Rule: rule, Sink: sink, Shard: shard, Position: pos, Text: fmt.Sprintf(format, args...)})
	}
}

func (w *world) violated() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.violations) > 0
}

// instant is the first moment of an actor's own after some time.
func (w *world) instant(after time.Duration, actor int64) time.Duration {
	now := time.Since(w.began)
	at := (now+after)/quantum*quantum + time.Duration(actor)
	if at <= now {
		at += quantum
	}
	return at - now
}

// actor is the nanosecond of a call; 0 is the schedule's. A shard's source reads while its worker does something else.
func (c Call) actor() int64 {
	lane := c.Lane
	if c.Name == "read" {
		lane = readLane
	}
	return int64((c.Process*(maxShards+1)+c.Shard+1)*lanes + lane)
}

// process is one run of the program.
type process struct {
	world  *world
	number int
	soft   context.CancelFunc
	hard   context.CancelFunc
	gone   chan struct{} // closed when it is killed
	ended  chan struct{} // closed when the engine has returned
	err    error         // of the engine; read after ended
	told   bool          // to stop, or killed

	mu     sync.Mutex
	dead   bool
	paused chan struct{} // not nil while paused; closed at waking
	calls  map[Call]int  // by call without N
	held   map[int]uint64
}

// effect is what a call does in the world, under its lock. It must change nothing that its caller uses unless the call succeeds: a late
// effect comes when the caller has gone on.
type effect func() error

// call makes one outside call: on the way, effect, way back. Everything that a process does to the world passes through here.
// A dead process reaches nothing, a paused one waits.
func (p *process) call(ctx context.Context, c Call, fn effect) error {
	if err := p.awake(ctx); err != nil {
		return err
	}
	c = p.numbered(c)
	w := p.world
	m, extra := w.fate(c)
	if m == hangs || m == late {
		w.unanswered(c, m, fn)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.gone:
			return errRefused
		}
	}
	if err := p.travel(ctx, c, w.schedule.delay(c, forDelay)+extra); err != nil {
		return err
	}
	err := p.take(c, m, fn)
	if h := w.schedule.chance(c, forReply); h%4 != 0 || errors.Is(err, errRefused) {
		return err
	}
	if lost := p.travel(ctx, c, w.schedule.delay(c, forReply)); lost != nil {
		return lost
	}
	return err
}

// numbered counts the calls of one name.
func (p *process) numbered(c Call) Call {
	c.Process = p.number
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls[c]++
	c.N = p.calls[c]
	return c
}

// fate is what goes wrong with a call, and how much longer it takes.
func (w *world) fate(c Call) (mischief, time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.calm {
		return fine, 0
	}
	extra := time.Duration(0)
	if now := time.Now(); w.slow[sinkOf(c)].After(now) {
		extra = time.Duration(w.schedule.chance(c, forSize)%3000) * time.Millisecond
	}
	m := w.schedule.goesWrong(c)
	if m != fine {
		w.went = append(w.went, c)
	}
	return m, extra
}

// travel takes a request or a reply some time; it ends at a moment that is the actor's own. A paused process goes on after it
// is woken.
func (p *process) travel(ctx context.Context, c Call, d time.Duration) error {
	for {
		timer := time.NewTimer(p.world.instant(d, c.actor()))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-p.gone:
			timer.Stop()
			return errRefused
		}
		if p.pausing() == nil {
			return nil
		}
		if err := p.awake(ctx); err != nil {
			return err
		}
		d = 0
	}
}

// awake waits while the process is paused.
func (p *process) awake(ctx context.Context) error {
	for paused := p.pausing(); paused != nil; paused = p.pausing() {
		select {
		case <-paused:
		case <-ctx.Done():
			return ctx.Err()
		case <-p.gone:
			return errRefused
		}
	}
	return nil
}

// pausing is closed when the pause ends; nil for none.
func (p *process) pausing() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.paused
}

// take lets the call take effect, or whatever happens to it instead.
func (p *process) take(c Call, m mischief, fn effect) error {
	w := p.world
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case p.isDead():
		return errRefused
	case w.fails[sinkOf(c)].After(time.Now()) && !w.calm:
		m = outage
	}
	err := errRefused
	switch m {
	case diesBefore:
		p.dieAt(c)
	case refused, outage:
	default:
		err = fn()
	}
	switch m {
	case replyLost:
		w.count.LostReplies++
		err = errRefused
	case diesAfter:
		p.dieAt(c)
		err = errRefused
	}
	w.traced(c, m, err)
	return err
}

// unanswered is a call that hangs: it has no effect at all or, if it is late, has it after its deadline, whatever has become of its
// process.
func (w *world) unanswered(c Call, m mischief, fn effect) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m == hangs {
		w.traced(c, m, nil)
		return
	}
	wait := w.instant(deadline+time.Duration(w.schedule.chance(c, forSize)%20_000)*time.Millisecond, c.actor()+lateLane)
	for w.lateAt[time.Since(w.began)+wait] { // by another one of this actor
		wait += quantum
	}
	w.lateAt[time.Since(w.began)+wait] = true
	w.late.Go(func() {
		time.Sleep(wait)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.count.LostReplies++
		w.traced(c, late, fn())
	})
}

func (p *process) isDead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

// dieAt is a kill -9 at some call. Now and then nobody goes on for so long that the bucket's lifecycle removes what the process had
// staged, committed or not.
func (p *process) dieAt(c Call) {
	p.die()
	if p.world.schedule.chance(c, forSize)%4 == 0 {
		p.world.expire(func(by int) bool { return by == p.number })
	}
}

// die is a kill -9.
func (p *process) die() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return
	}
	p.dead = true
	close(p.gone)
	p.hard()
	p.soft()
	p.world.count.Crashes++
}

func (p *process) pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paused == nil && !p.dead {
		p.paused = make(chan struct{})
	}
}

// wake ends a pause. It says whether there was one.
func (p *process) wake() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paused == nil {
		return false
	}
	close(p.paused)
	p.paused = nil
	return true
}

// start begins a process.
func (w *world) start(number int) {
	p := &process{
		world: w, number: number, gone: make(chan struct{}), ended: make(chan struct{}),
		calls: map[Call]int{}, held: map[int]uint64{},
	}
	cfg, spools := p.config()
	engine, err := stream.New(cfg)
	if err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.violate(Stuck, "", "", stream.Position{}, "the engine does not take the pipeline: %v", err)
		return
	}
	soft, softStop := context.WithCancel(context.Background())
	hard, hardStop := context.WithCancel(context.Background())
	p.soft, p.hard = softStop, hardStop
	w.mu.Lock()
	w.processes[number] = p
	w.mu.Unlock()
	go func() {
		defer close(p.ended)
		tending, stop := context.WithCancel(soft)
		var all sync.WaitGroup
		for i, s := range spools {
			all.Go(func() { p.tend(tending, i, s) })
		}
		p.err = engine.Run(soft, hard, &source{p})
		stop()
		all.Wait()
	}()
}

// jitter is random by the seed and the time.
func (w *world) jitter(most time.Duration) time.Duration {
	return time.Duration(mix(w.schedule.Seed^uint64(time.Since(w.began))) % uint64(most))
}

// config is the user's pipeline over the simulated world, and those of its sinks that set writes aside.
func (p *process) config() (stream.Config, []Spooled) {
	w := p.world
	cfg := stream.Config{
		Name: w.pipeline.Name, Schema: w.pipeline.Schema, Decoder: w.pipeline.Decoder,
		DeadLetters: &staged[*stream.DeadLetter]{p, stream.DeadLetters, w.deadRow}, Overflow: overflow{p},
		CommitAge: commitAge, CommitIdle: commitIdle, Deadline: deadline,
		Jitter: w.jitter,
	}
	var spools []Spooled
	for _, step := range w.pipeline.Processors {
		cfg.Processors = append(cfg.Processors, p.remote(step))
	}
	for _, s := range w.pipeline.Sinks {
		sink := stream.Sink{Name: s.Name, Where: s.Where}
		switch {
		case s.Spool != nil:
			spool := s.Spool.Open(&Outside{p, s.Name, len(spools), w.pipeline.spoolLane(len(spools))})
			spools = append(spools, spool)
			sink.Upsert = spool
		case s.Upsert:
			sink.Upsert = upsert{p, s.Name, s.Joined}
		default:
			sink.Staged = &staged[*stream.Event]{p, s.Name, w.eventRow}
		}
		cfg.Sinks = append(cfg.Sinks, sink)
	}
	return cfg, spools
}
