package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// buckets of keys, which the open shards share.
const buckets = 64

// shard is one partition of the log, and the row of its lease.
type shard struct {
	number  int
	name    string
	parents []int
	buckets []int
	log     []stream.Record
	closed  bool // it gets no more records

	owner    int // process number; 0: none
	epoch    uint64
	renewed  time.Time
	ended    bool // everything is committed and children may begin
	commit   *stream.Checkpoint
	commits  map[commitID]bool // that were ever stored
	version  int               // of the commit, within the tenure
	verified int               // records of the log that were looked for in the upsert sinks
	judge    *oracle

	transactions map[string]*transaction // of the tenure, by sink
	shown        *stream.Position        // the largest that was ever committed
}

func shardName(n int) string { return fmt.Sprintf("shard-%d", n) }

// shard makes shard n if it is not there yet.
func (w *world) shard(n int) *shard {
	for len(w.shards) <= n {
		i := len(w.shards)
		w.shards = append(w.shards, &shard{number: i, name: shardName(i), closed: true, ended: true, commits: map[commitID]bool{}, transactions: map[string]*transaction{}})
	}
	s := w.shards[n]
	if s.judge == nil {
		s.closed, s.ended, s.judge = false, false, newOracle(w, s.name)
	}
	return s
}

func (w *world) byName(name string) *shard {
	i := slices.IndexFunc(w.shards, func(s *shard) bool { return s.name == name })
	if i < 0 {
		return nil
	}
	return w.shards[i]
}

func (s *shard) committed() stream.Position {
	if s.commit == nil {
		return stream.Position{}
	}
	return s.commit.Pos
}

// finished says that every record is committed and, if no more will come, the end is known.
func (s *shard) finished() bool {
	all := len(s.log) == 0 || s.commit != nil && s.commit.Pos == s.log[len(s.log)-1].Pos
	return all && (s.ended || !s.closed)
}

// isOpen says that shard n exists and gets records.
func (w *world) isOpen(n int) bool { return n >= 0 && n < len(w.shards) && !w.shards[n].closed }

func (w *world) split(parent int, into [2]int) {
	if !w.isOpen(parent) {
		return
	}
	p := w.shards[parent]
	half := len(p.buckets) / 2
	w.follow(into[0], p.buckets[:half], parent)
	w.follow(into[1], p.buckets[half:], parent)
	w.count.Splits++
}

func (w *world) merge(a, b, into int) {
	if !w.isOpen(a) || !w.isOpen(b) {
		return
	}
	w.follow(into, slices.Concat(w.shards[a].buckets, w.shards[b].buckets), a, b)
	w.count.Merges++
}

// follow opens a shard after its parents, which get no more records.
func (w *world) follow(n int, keys []int, parents ...int) {
	child := w.shard(n)
	child.parents, child.buckets = parents, keys
	for _, p := range parents {
		w.shards[p].closed = true
	}
}

// write appends records number from to to-1 to the shards of their keys.
func (w *world) write(from, to int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n := from; n < to; n++ {
		r := w.pipeline.Input(w.schedule.Seed, n)
		r.Pos, r.Time = stream.OffsetPosition(uint64(n)), time.Now()
		rec := &record{written: r.Time}
		if len(r.Key) > 0 {
			rec.key = string(r.Key)
		} else {
			rec.key = w.keys.key(&r)
		}
		bucket := int(hashText(rec.key) % buckets)
		s := w.shards[slices.IndexFunc(w.shards, func(s *shard) bool { return !s.closed && slices.Contains(s.buckets, bucket) })]
		s.log = append(s.log, r)
		w.records = append(w.records, rec)
		rec.shard = s
		s.judge.expect(&s.log[len(s.log)-1], rec)
		w.count.Events++
	}
}

// steal gives a lease to another process, which finds it at its next look.
func (w *world) steal(n int, thief *process) {
	if thief == nil || thief.isDead() || n >= len(w.shards) {
		return
	}
	if s := w.shards[n]; s.owner != 0 && s.owner != thief.number {
		s.owner, s.epoch, s.renewed = thief.number, s.epoch+1, time.Now()
		w.count.Steals++
	}
}

// mayBegin says that all parents have ended.
func (w *world) mayBegin(s *shard) bool {
	return w.breakage.earlyChildren || !slices.ContainsFunc(s.parents, func(p int) bool { return !w.shards[p].ended })
}

// source is the world's log in one process.
type source struct{ p *process }

var _ stream.Source = (*source)(nil)

// grant is what one look at the leases brought.
type grant struct {
	lost  []int
	taken []*assignment
}

// Run looks at the leases again and again. After the end of ctx it goes on to renew until every tenure is drained.
func (s *source) Run(ctx context.Context, assigned func(stream.Assignment) (stream.Consumer, error)) error {
	var tenures sync.WaitGroup
	defer tenures.Wait()
	held := map[int]*assignment{}
	for {
		g := s.look(held, ctx.Err() != nil)
		for _, n := range g.lost {
			held[n].lose()
		}
		for _, a := range g.taken {
			held[a.shard] = a
			c, err := assigned(a)
			if err != nil {
				return err // of a name that is no text; the names are ours
			}
			tenures.Go(func() { s.tenure(ctx, a, c) })
		}
		for n, a := range held {
			if a.over() {
				delete(held, n)
			}
		}
		s.remember(held)
		if ctx.Err() != nil && len(held) == 0 || s.p.isDead() {
			return nil
		}
		s.pause(ctx)
	}
}

// remember lets wake know what the process believes to own.
func (s *source) remember(held map[int]*assignment) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	clear(s.p.held)
	for n, a := range held {
		s.p.held[n] = a.epoch
	}
}

// pause is the time between two looks.
func (s *source) pause(ctx context.Context) {
	stopped := ctx.Done()
	if ctx.Err() != nil {
		stopped = nil
	}
	timer := time.NewTimer(leaseTick)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-stopped:
	case <-s.p.gone:
	}
}

// look renews what is held and takes what is free. When its reply is lost, the next look finds what it did.
func (s *source) look(held map[int]*assignment, stopping bool) grant {
	mine := map[int]uint64{}
	for n, a := range held {
		mine[n] = a.epoch
	}
	var g grant
	w := s.p.world
	err := s.p.call(context.Background(), Call{Shard: -1, Name: "lease"}, func() error {
		for _, sh := range w.shards {
			epoch, ours := mine[sh.number]
			switch {
			case ours && sh.epoch == epoch && sh.owner == s.p.number:
				sh.renewed = time.Now()
			case ours:
				g.lost = append(g.lost, sh.number)
			case !stopping && s.mayTake(sh):
				g.taken = append(g.taken, s.grab(sh))
			}
		}
		return nil
	})
	if err != nil {
		return grant{}
	}
	return g
}

func (s *source) mayTake(sh *shard) bool {
	w := s.p.world
	if sh.ended || !w.mayBegin(sh) {
		return false
	}
	return sh.owner == 0 || sh.owner == s.p.number || time.Since(sh.renewed) >= leaseTime
}

// grab makes a tenure. The epoch of a lease that was granted already, but whose reply was lost, may as well grow once more.
func (s *source) grab(sh *shard) *assignment {
	sh.owner, sh.epoch, sh.renewed, sh.version = s.p.number, sh.epoch+1, time.Now(), 0
	if !s.p.world.breakage.openForever {
		clear(sh.transactions)
	}
	a := &assignment{p: s.p, shard: sh.number, epoch: sh.epoch, done: make(chan struct{}), ended: make(chan struct{})}
	if sh.commit != nil {
		c := *sh.commit
		a.committed = &c
	}
	return a
}

// tenure delivers one shard until the end of the process, of the shard, or of ownership.
func (s *source) tenure(ctx context.Context, a *assignment, c stream.Consumer) {
	defer close(a.ended)
	own, cancel := context.WithCancel(ctx)
	a.mu.Lock()
	a.cancel = cancel
	lost := a.isLost
	a.mu.Unlock()
	if lost {
		cancel()
	}
	defer cancel()
	why := s.deliver(own, a, c)
	if a.lostAlready() {
		c.Abort()
		return
	}
	if err := c.Drain(context.WithoutCancel(ctx), why); err != nil {
		return // ownership lapses
	}
	s.release(a, why)
}

// deliver ends when ctx does, when the engine refuses, or at the end of a shard that is closed.
func (s *source) deliver(ctx context.Context, a *assignment, c stream.Consumer) stream.Why {
	after, ok := c.Start()
	for ctx.Err() == nil {
		rs, end := s.read(ctx, a, after, ok)
		switch {
		case ctx.Err() != nil:
		case end:
			return stream.Ended
		case len(rs) == 0:
			s.poll(ctx)
		default:
			if c.Deliver(ctx, rs) != nil {
				return stream.Handoff
			}
			after, ok = rs[len(rs)-1].Pos, true
		}
	}
	return stream.Handoff
}

func (s *source) poll(ctx context.Context) {
	timer := time.NewTimer(pollEvery)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// read returns some records after a position, and whether none will come any more.
func (s *source) read(ctx context.Context, a *assignment, after stream.Position, ok bool) (rs []stream.Record, end bool) {
	var got []stream.Record
	var ended bool
	w := s.p.world
	most := 1 + int(w.schedule.chance(Call{Process: s.p.number, Shard: a.shard, N: int(after.Offset())}, forSize)%30)
	err := s.p.call(ctx, Call{Shard: a.shard, Name: "read"}, func() error {
		sh := w.shards[a.shard]
		from := 0
		if ok {
			from = sort.Search(len(sh.log), func(i int) bool { return sh.log[i].Pos.Compare(after) > 0 })
		}
		to := min(len(sh.log), from+most)
		got = slices.Clone(sh.log[from:to])
		ended = sh.closed && from == len(sh.log)
		return nil
	})
	if err != nil {
		return nil, false
	}
	return got, ended
}

// release says that the lease is free, or that the shard has ended. It is tried until it is done or another owner is there.
func (s *source) release(a *assignment, why stream.Why) {
	w := s.p.world
	for !s.p.isDead() {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		err := s.p.call(ctx, Call{Shard: a.shard, Name: "release"}, func() error {
			sh := w.shards[a.shard]
			if sh.epoch != a.epoch || sh.owner != s.p.number {
				return stream.ErrLost
			}
			sh.owner = 0
			if why == stream.Ended {
				sh.ended = true
			}
			return nil
		})
		cancel()
		if err == nil || errors.Is(err, stream.ErrLost) {
			return
		}
	}
}

// Checkpoints is what stands in the leases.
func (s *source) Checkpoints(context.Context) (map[string]stream.Checkpoint, error) {
	w := s.p.world
	w.mu.Lock()
	defer w.mu.Unlock()
	all := map[string]stream.Checkpoint{}
	for _, sh := range w.shards {
		if sh.commit != nil {
			all[sh.name] = *sh.commit
		}
	}
	return all, nil
}

// assignment is one tenure.
type assignment struct {
	p         *process
	shard     int
	epoch     uint64
	committed *stream.Checkpoint
	done      chan struct{} // closed when ownership is lost
	ended     chan struct{} // closed when the tenure is over

	mu      sync.Mutex
	isLost  bool
	cancel  context.CancelFunc // nil before the tenure has begun
	commits int
}

func (a *assignment) lose() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.isLost {
		return
	}
	a.isLost = true
	close(a.done)
	if a.cancel != nil {
		a.cancel()
	}
}

func (a *assignment) lostAlready() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.isLost
}

func (a *assignment) over() bool {
	select {
	case <-a.ended:
		return true
	default:
		return false
	}
}

func (a *assignment) Partition() string           { return shardName(a.shard) }
func (a *assignment) Epoch() uint64               { return a.epoch }
func (a *assignment) Done() <-chan struct{}       { return a.done }
func (a *assignment) Lag() (int64, time.Duration) { return -1, -1 }
func (a *assignment) Committed() (stream.Checkpoint, bool) {
	if a.committed == nil {
		return stream.Checkpoint{}, false
	}
	return *a.committed, true
}

// Commit writes the row of the lease if that still is this tenure's, and if no later commit of this tenure is there: what was
// under way for long must not put an old checkpoint over a new one.
func (a *assignment) Commit(ctx context.Context, c stream.Checkpoint) error {
	a.mu.Lock()
	a.commits++
	version := a.commits
	a.mu.Unlock()
	w := a.p.world
	return a.p.call(ctx, Call{Shard: a.shard, Name: "commit"}, func() error {
		sh := w.shards[a.shard]
		switch {
		case (sh.epoch != a.epoch || sh.owner != a.p.number) && !w.breakage.noFence && !fenceSkipped:
			w.count.Fenced++
			return stream.ErrLost
		case version < sh.version && sh.epoch == a.epoch:
			return nil
		}
		if w.breakage.loseReceipts {
			c.Note = withoutReceipts(c.Note)
		}
		w.showJoined(sh, c.Pos)
		if sh.shown == nil || c.Pos.Compare(*sh.shown) > 0 {
			sh.shown = &c.Pos
		}
		w.checkCommit(sh, c)
		sh.commit, sh.version = &c, version
		sh.commits[commitID{a.epoch, c.Pos}] = true
		w.count.Commits++
		return nil
	})
}
