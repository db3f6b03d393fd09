package lease

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// Config is what one worker does.
type Config struct {
	// Worker is this worker's name, another one for every worker that lives. One that is started again under its old name has
	// its partitions back at once. Default: random.
	Worker string

	// Period is how long a silent owner keeps a partition. It is renewed four times in it. Default 10 s, at least 500 ms.
	Period time.Duration

	// Poll is between two looks at the table. Default a quarter of Period, at most 1 s.
	Poll time.Duration

	// Looked is told how each look at the table ended. Default: nobody is.
	Looked func(error)

	Log *slog.Logger // default: none
}

// EnsureDefaults sets what is zero.
func (c *Config) EnsureDefaults() {
	if c.Worker == "" {
		c.Worker = rand.Text()
	}
	if c.Period == 0 {
		c.Period = 10 * time.Second
	}
	if c.Poll == 0 {
		c.Poll = min(c.Period/4, time.Second)
	}
	if c.Looked == nil {
		c.Looked = func(error) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// Validate lists every problem.
func (c *Config) Validate() error {
	c.EnsureDefaults()
	var problems []error
	if c.Period < 500*time.Millisecond {
		problems = append(problems, fmt.Errorf("lease is %v; want at least 500ms", c.Period))
	}
	if c.Poll < 0 {
		problems = append(problems, fmt.Errorf("poll is %v; want a positive time", c.Poll))
	}
	return errors.Join(problems...)
}

// The parts of a period: an owner renews in the first quarter, tries each time for a fifth, and gives up after four fifths.
// What is left is for the end of its work, before others can take over.
func (c *Config) renewal() time.Duration  { return c.Period / 4 }
func (c *Config) attempt() time.Duration  { return c.Period / 5 }
func (c *Config) patience() time.Duration { return c.Period * 4 / 5 }

// Worker is one process among those that share a table.
type Worker struct {
	table Table
	cfg   Config
	run   string
	wake  chan struct{}

	seen map[string]sighting // by partition; only Run's goroutine uses it

	mu     sync.Mutex
	held   map[string]*Lease // granted and not ended, by partition
	lapsed map[string]uint64 // epochs of ours that must run out, by partition
	failed error             // ends Run
	closed bool              // Run has returned, or is about to
	keeps  sync.WaitGroup
}

// sighting is since when a row is as it is, by this worker's clock.
type sighting struct {
	run             string
	epoch, renewals uint64
	since           time.Time
}

// New returns a worker that does nothing before Run.
func New(t Table, cfg Config) (*Worker, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Worker{
		table: t, cfg: cfg, run: rand.Text(), wake: make(chan struct{}, 1),
		seen: map[string]sighting{}, held: map[string]*Lease{}, lapsed: map[string]uint64{},
	}, nil
}

// Run takes its fair part of the partitions until ctx ends (nil) or something fails for good. partitions says which there
// are to own, given all rows. granted is told each lease; calls may be concurrent and must not block. After Run the leases
// that were granted are still renewed until they are ended: see Wait.
func (w *Worker) Run(ctx context.Context, partitions func([]Row) []string, granted func(*Lease)) error {
	defer w.close()
	failures := 0
	for {
		err := w.look(ctx, partitions, granted)
		w.cfg.Looked(err)
		if err := w.failure(err); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		pause := jitter(w.cfg.Poll)
		if err == nil {
			failures = 0
		} else if failures++; failures == 1 || failures%64 == 0 {
			w.cfg.Log.Warn("lease table does not answer", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		case <-w.wake:
			select { // others have news too
			case <-ctx.Done():
				return nil
			case <-time.After(jitter(w.cfg.Poll / 20)):
			}
		}
	}
}

// Wait returns when every lease has ended. Call it after Run.
func (w *Worker) Wait() { w.keeps.Wait() }

func (w *Worker) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
}

// stopping says that the worker's partitions are for whoever comes first.
func (w *Worker) stopping() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closed
}

// failure is what ends Run: err if no repetition mends it, or what a lease found out.
func (w *Worker) failure(err error) error {
	var fatal *stream.FatalError
	if errors.As(err, &fatal) {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// Saw is a hint that a row has changed, for tables that can tell: a hand-off then does not wait for the next look.
func (w *Worker) Saw(r Row) {
	w.mu.Lock()
	held := w.held[r.Partition]
	w.mu.Unlock()
	free := r.Owner == "" && held == nil && !r.Ended
	claimed := r.Claim != "" && held != nil
	taken := held != nil && r.Run != w.run
	if free || claimed || taken {
		w.Again()
	}
}

// Again makes Run look soon: there may be partitions that were not there before.
func (w *Worker) Again() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// look reads the table once and does what follows from it.
func (w *Worker) look(ctx context.Context, partitions func([]Row) []string, granted func(*Lease)) error {
	asked := time.Now()
	rows, err := w.list(ctx)
	if err != nil {
		return err
	}
	all := w.arrange(rows, partitions(rows), asked, time.Now())
	p := balance(w.cfg.Worker, all)
	for _, l := range p.leave {
		l.leave()
	}
	for l, claimer := range p.refuse {
		l.refuse(claimer)
	}
	return errors.Join(
		atOnce(p.take, func(r Row) error { return w.take(ctx, r, granted) }),
		atOnce(p.claim, func(r Row) error { return w.claim(ctx, r) }),
	)
}

func (w *Worker) list(ctx context.Context) ([]Row, error) {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Period/2)
	defer cancel()
	return w.table.List(ctx)
}

// arrange tells what each partition's row means to this worker. The table was asked and has answered at the given times.
func (w *Worker) arrange(rows []Row, names []string, asked, answered time.Time) []place {
	byName := make(map[string]Row, len(rows))
	for _, r := range rows {
		byName[r.Partition] = r
	}
	places := make([]place, 0, len(names))
	for _, name := range names {
		r := byName[name]
		r.Partition = name
		p := place{row: r, silent: w.silent(r, asked, answered)}
		w.mu.Lock()
		p.lease = w.held[name]
		p.own = p.lease == nil && r.Owner == w.cfg.Worker && w.lapsed[name] != r.Epoch
		w.mu.Unlock()
		if p.lease != nil {
			p.lease.look(r)
			p.leaving, p.ending = p.lease.isLeaving(), p.lease.isLost()
		}
		if !r.Ended {
			places = append(places, p)
		}
	}
	return places
}

// silent says that the row has not changed for a whole period.
func (w *Worker) silent(r Row, asked, answered time.Time) bool {
	s, ok := w.seen[r.Partition]
	if !ok || s.run != r.Run || s.epoch != r.Epoch || s.renewals != r.Renewals {
		w.seen[r.Partition] = sighting{r.Run, r.Epoch, r.Renewals, answered}
		return false
	}
	return asked.Sub(s.since) >= w.cfg.Period
}

// take makes this worker the owner of r.
func (w *Worker) take(ctx context.Context, r Row, granted func(*Lease)) error {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.attempt())
	defer cancel()
	write := w.table.Update
	if r.Revision == 0 {
		write = w.table.Create
	}
	r.Owner, r.Run, r.Claim = w.cfg.Worker, w.run, ""
	r.Epoch++
	r.Renewals++
	sent := time.Now()
	revision, err := write(ctx, r)
	if errors.Is(err, ErrConflict) {
		w.Again()
		return nil
	}
	if err != nil {
		return fmt.Errorf("take partition %s: %w", r.Partition, err) // if it happened, the next look finds a row of ours
	}
	r.Revision = revision
	w.grant(newLease(w, r, sent), granted)
	return nil
}

func (w *Worker) grant(l *Lease, granted func(*Lease)) {
	w.mu.Lock()
	w.held[l.Partition()] = l
	delete(w.lapsed, l.Partition())
	w.mu.Unlock()
	w.cfg.Log.Debug("partition is taken", "partition", l.Partition(), "epoch", l.Epoch())
	w.keeps.Go(l.keep)
	granted(l)
}

// claim asks the owner of r for it.
func (w *Worker) claim(ctx context.Context, r Row) error {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.attempt())
	defer cancel()
	r.Claim = w.cfg.Worker
	if _, err := w.table.Update(ctx, r); err != nil && !errors.Is(err, ErrConflict) {
		return fmt.Errorf("claim partition %s: %w", r.Partition, err)
	}
	return nil
}

// forget ends the worker's part of a lease.
func (w *Worker) forget(l *Lease) {
	released := errors.Is(l.reason(), errReleased)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held[l.Partition()] != l {
		return
	}
	delete(w.held, l.Partition())
	if released {
		w.lapsed[l.Partition()] = l.Epoch()
	}
	w.Again()
}

// taker says who has r now. A worker with our own name ends the run: each of the two would take from the other for ever.
func (w *Worker) taker(r Row) error {
	if r.Owner != w.cfg.Worker || r.Run == w.run {
		return fmt.Errorf("worker %q has it with epoch %d", r.Owner, r.Epoch)
	}
	err := fmt.Errorf("another worker has the instance name %q; give each its own", r.Owner)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = stream.Fatal(err)
	w.Again()
	return err
}

// writers is how many writes are on their way at a time.
const writers = 16

func atOnce(rows []Row, write func(Row) error) error {
	errs := make([]error, len(rows))
	slots := make(chan struct{}, writers)
	var writing sync.WaitGroup
	for i, r := range rows {
		slots <- struct{}{}
		writing.Go(func() {
			defer func() { <-slots }()
			errs[i] = write(r)
		})
	}
	writing.Wait()
	return errors.Join(errs...)
}
