package lease

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace-io/millrace/stream"
)

const period = 10 * time.Second

var errTable = errors.New("the table does not answer")

// world is a table with its workers, in a bubble of synctest. It checks every write against the rules.
type world struct {
	*testing.T
	names  []string
	random *rand.Rand

	mu       sync.Mutex
	rows     map[string]Row
	revision uint64
	signs    map[string]time.Time       // when the owner wrote last
	acked    map[string]stream.Position // largest that Commit said was stored
	active   map[string]*process        // who works on a partition
	live     map[string]*process        // by name
}

func newWorld(t *testing.T, seed uint64, partitions int) *world {
	w := &world{
		T: t, random: rand.New(rand.NewPCG(seed, 1)), rows: map[string]Row{}, signs: map[string]time.Time{},
		acked: map[string]stream.Position{}, active: map[string]*process{}, live: map[string]*process{},
	}
	for i := range partitions {
		w.names = append(w.names, fmt.Sprint("p", i))
	}
	return w
}

// check is called with every write before it takes effect, with mu held.
func (w *world) check(writer string, old, next Row) {
	now := time.Now()
	switch {
	case old.Ended:
		w.Errorf("%s: written after its end", old.Partition)
	case next.Claim != old.Claim && next.Renewals == old.Renewals:
		claimed := old
		claimed.Claim = next.Claim
		if next.Claim != writer || old.Claim != "" || !reflect.DeepEqual(claimed, next) {
			w.Errorf("%s: %s claims %+v with %+v", old.Partition, writer, old, next)
		}
		return
	case next.Owner != "" && next.Run != old.Run:
		if next.Epoch != old.Epoch+1 || next.Owner != writer {
			w.Errorf("%s: %s takes epoch %d after %d", old.Partition, writer, next.Epoch, old.Epoch)
		}
		if next.Committed != old.Committed || next.Checkpoint.Pos != old.Checkpoint.Pos {
			w.Errorf("%s: the checkpoint changes from %v to %v when the owner changes", old.Partition, old.Checkpoint.Pos, next.Checkpoint.Pos)
		}
		if old.Owner != "" && old.Owner != next.Owner && now.Sub(w.signs[old.Partition]) < period {
			w.Errorf("%s: %s takes from %s, which renewed %v ago", old.Partition, writer, old.Owner, now.Sub(w.signs[old.Partition]))
		}
	case next.Run == old.Run && next.Epoch == old.Epoch+1 && next.Owner == writer: // of a lease that it lost or gave up itself
	case next.Epoch != old.Epoch || old.Owner != writer:
		w.Errorf("%s: %s writes epoch %d in the row of %s, epoch %d", old.Partition, writer, next.Epoch, old.Owner, old.Epoch)
	case next.Checkpoint.Pos.Compare(old.Checkpoint.Pos) < 0:
		w.Errorf("%s: the checkpoint goes back", old.Partition)
	}
	w.signs[old.Partition] = now
}

func (w *world) apply(writer string, r Row) (uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	old := w.rows[r.Partition]
	if old.Revision != r.Revision {
		return 0, ErrConflict
	}
	old.Partition = r.Partition
	w.check(writer, old, r)
	w.revision++
	r.Revision = w.revision
	w.rows[r.Partition] = r
	return r.Revision, nil
}

func (w *world) row(name string) Row {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rows[name]
}

// link is one process's way to the table, with its faults.
type link struct {
	*world
	name string

	mu      sync.Mutex
	frozen  chan struct{} // not nil while every call hangs
	severed bool
	slow    time.Duration
	lose    func(r Row) bool // the reply to this write is lost
}

// travel is one call: a way, what it does at the table, and the way back. A caller that has gone does not call it back.
func (l *link) travel(ctx context.Context, at func() error) error {
	result := make(chan error, 1)
	go func() {
		l.way()
		if l.cut() {
			result <- errTable
			return
		}
		err := at()
		l.way()
		if l.cut() {
			err = errTable
		}
		result <- err
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *link) way() {
	l.mu.Lock()
	slow, frozen := l.slow, l.frozen
	l.mu.Unlock()
	time.Sleep(time.Millisecond + rand.N(slow+1))
	if frozen != nil {
		<-frozen
	}
}

func (l *link) cut() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.severed
}

func (l *link) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

func (l *link) thaw() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.frozen != nil {
		close(l.frozen)
		l.frozen = nil
	}
}

func (l *link) List(ctx context.Context) ([]Row, error) {
	var rows []Row
	err := l.travel(ctx, func() error {
		l.world.mu.Lock()
		defer l.world.mu.Unlock()
		rows = slices.Collect(maps.Values(l.rows))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return rows, nil
}

func (l *link) Get(ctx context.Context, partition string) (Row, error) {
	var row Row
	err := l.travel(ctx, func() error {
		l.world.mu.Lock()
		defer l.world.mu.Unlock()
		r, ok := l.rows[partition]
		if !ok {
			return ErrNoRow
		}
		row = r
		return nil
	})
	if err != nil {
		return Row{}, err
	}
	return row, nil
}

func (l *link) Create(ctx context.Context, r Row) (uint64, error) { return l.Update(ctx, r) }

func (l *link) Update(ctx context.Context, r Row) (uint64, error) {
	var revision uint64
	err := l.travel(ctx, func() (err error) {
		revision, err = l.apply(l.name, r)
		l.mu.Lock()
		lost := l.lose != nil && l.lose(r)
		l.mu.Unlock()
		if lost {
			return errTable
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	return revision, nil
}

// process is one worker and what it does with its leases.
type process struct {
	*link
	worker   *Worker
	cancel   context.CancelFunc
	dead     chan struct{} // closed by crash
	drains   time.Duration // how long a drain takes at most
	stubborn bool          // does not answer claims
	soft     chan struct{} // closed when everything is to be drained
	ran      chan struct{}
	err      error // of Run
	tenures  sync.WaitGroup
}

func (w *world) start(name string, change ...func(*process)) *process {
	w.Helper()
	p := &process{link: &link{world: w, name: name, slow: 20 * time.Millisecond}, dead: make(chan struct{}), soft: make(chan struct{}), ran: make(chan struct{}), drains: 100 * time.Millisecond}
	for _, c := range change {
		c(p)
	}
	var err error
	if p.worker, err = New(p.link, Config{Worker: name, Period: period}); err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	w.live[name] = p
	go func() {
		defer close(p.ran)
		p.err = p.worker.Run(ctx, func([]Row) []string { return w.names }, func(l *Lease) { p.tenures.Go(func() { p.tenure(l) }) })
		close(p.soft)
		p.tenures.Wait()
		p.worker.Wait()
	}()
	return p
}

// tenure commits now and then, as long as it may.
func (p *process) tenure(l *Lease) {
	name := l.Partition()
	p.world.mu.Lock()
	if other := p.active[name]; other != nil {
		p.Errorf("%s: granted to %s while %s works on it", name, p.name, other.name)
	}
	p.active[name] = p
	c, _ := l.Committed()
	if c.Pos.Compare(p.acked[name]) < 0 {
		p.Errorf("%s: %s starts at %v, but %v was committed", name, p.name, c.Pos, p.acked[name])
	}
	p.world.mu.Unlock()
	ended := false
	end := func() {
		if ended {
			return
		}
		ended = true
		p.world.mu.Lock()
		defer p.world.mu.Unlock()
		delete(p.active, name)
	}
	wanted := l.Wanted()
	if p.stubborn {
		wanted = nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // the engine aborts at once
		select {
		case <-l.Done():
		case <-p.dead:
		case <-ctx.Done():
		}
		cancel()
	}()
	for {
		select {
		case <-time.After(rand.N(period / 4)):
			p.commit(ctx, l, &c)
		case <-wanted:
			p.drain(ctx, l, &c, end)
			return
		case <-p.soft:
			p.drain(ctx, l, &c, end)
			return
		case <-ctx.Done():
			end()
			l.Lapse()
			return
		}
	}
}

func (p *process) drain(ctx context.Context, l *Lease, c *stream.Checkpoint, end func()) {
	p.link.mu.Lock()
	drains := p.drains
	p.link.mu.Unlock()
	select {
	case <-time.After(rand.N(drains + 1)):
	case <-ctx.Done():
	}
	ok := p.commit(ctx, l, c)
	end()
	if !ok {
		l.Lapse()
		return
	}
	if err := l.Release(context.WithoutCancel(ctx)); err != nil && !errors.Is(err, stream.ErrLost) && !p.cut() {
		p.Logf("release of %s by %s: %v", l.Partition(), p.name, err)
	}
}

// commit repeats the commit of the next position until it is decided.
func (p *process) commit(ctx context.Context, l *Lease, c *stream.Checkpoint) bool {
	next := stream.Checkpoint{Pos: stream.OffsetPosition(c.Pos.Offset() + 1), Note: []byte(p.name)}
	for {
		err := l.Commit(ctx, next)
		if err == nil {
			*c = next
			p.world.mu.Lock()
			defer p.world.mu.Unlock()
			p.acked[l.Partition()] = next.Pos
			return true
		}
		if errors.Is(err, stream.ErrLost) || ctx.Err() != nil {
			return false
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return false
		}
	}
}

func (p *process) stop() {
	p.cancel()
	<-p.ran
	p.thaw()
	p.forget()
}

// crash ends the process without a word to the table.
func (p *process) crash() {
	p.set(func() { p.severed = true })
	close(p.dead)
	p.cancel()
	p.thaw()
	<-p.ran
	p.forget()
}

func (p *process) forget() {
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	if p.live[p.name] == p {
		delete(p.live, p.name)
	}
}

// share is how many partitions each live worker works on, and how many nobody does.
func (w *world) share() (by map[string]int, nobody int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	by = map[string]int{}
	for name := range w.live {
		by[name] = 0
	}
	for _, name := range w.names {
		if p := w.active[name]; p != nil {
			by[p.name]++
		} else {
			nobody++
		}
	}
	return by, nobody
}

// fair fails the test unless every live worker has within one of the others, and everything is owned.
func (w *world) fair(when string) {
	w.Helper()
	by, nobody := w.share()
	counts := slices.Sorted(maps.Values(by))
	if nobody > 0 || len(counts) > 0 && counts[len(counts)-1]-counts[0] > 1 {
		w.Errorf("%s: %v, nobody has %d", when, by, nobody)
	}
}

// owned waits until somebody works on everything and says how long that took.
func (w *world) owned(limit time.Duration) time.Duration {
	w.Helper()
	began := time.Now()
	for {
		_, nobody := w.share()
		if nobody == 0 {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			w.Errorf("after %v nobody works on %d partitions", limit, nobody)
			return time.Since(began)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (w *world) end() {
	for _, name := range slices.Sorted(maps.Keys(w.live)) {
		w.live[name].stop()
	}
	time.Sleep(period) // what is still on its way arrives
	synctest.Wait()
}

func (w *world) pick() *process {
	names := slices.Sorted(maps.Keys(w.live))
	if len(names) == 0 {
		return nil
	}
	return w.live[names[w.random.IntN(len(names))]]
}
