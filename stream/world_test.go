package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// world is everything outside of the engine's processes, in memory: a log, the leases, an object store, a key-value
// store and a state store. It is for tests of single rules, which look into the engine's notes and change what is stored; package sim
// has the world in which everything goes wrong.
type world struct {
	mu     sync.Mutex
	rng    *rand.Rand
	faults int // one call in so many fails, half of those after the effect; 0: none

	log      [][]Record // by partition
	leases   []lease
	staged   map[string]memFile
	visible  map[string]memFile
	upserted map[string]int // writes by identity
	states   map[string]int64
	objects  map[string][]byte
	serial   int

	drainTime  time.Duration // that a source gives a drain; 0: for ever
	violations []string
}

type lease struct {
	owner   *process
	epoch   uint64
	renewed time.Time
	commit  *Checkpoint
}

type memFile struct {
	prov Provenance
	rows []memRow
}

type memRow struct {
	pos   Position
	index uint32
	text  string
}

const leaseTime = 10 * time.Second

func newWorld(seed uint64, partitions, records, faults int) *world {
	w := &world{
		rng: rand.New(rand.NewPCG(seed, 1)), faults: faults, log: make([][]Record, partitions), leases: make([]lease, partitions),
		staged: map[string]memFile{}, visible: map[string]memFile{}, upserted: map[string]int{}, states: map[string]int64{}, objects: map[string][]byte{},
	}
	for p := range w.log {
		for i := range records {
			w.log[p] = append(w.log[p], Record{Value: fmt.Appendf(nil, "%d/%d", p, i), Pos: OffsetPosition(uint64(i)), Time: time.UnixMicro(int64(i+1) * 1e6)})
		}
	}
	return w
}

var errInjected = errors.New("injected")

// process is one run of the program. Its outside calls pass through call.
type process struct {
	world *world
	mu    sync.Mutex
	dead  bool
}

// call runs effect in the world unless the process is dead, with faults before or after the effect.
func (p *process) call(_ context.Context, effect func(w *world) error) error {
	w := p.world
	w.mu.Lock()
	defer w.mu.Unlock()
	p.mu.Lock()
	dead := p.dead
	p.mu.Unlock()
	if dead {
		return errInjected
	}
	fault := 0
	if w.faults > 0 && w.rng.IntN(w.faults) == 0 {
		fault = 1 + w.rng.IntN(2)
	}
	if fault == 1 {
		return errInjected
	}
	if err := effect(w); err != nil {
		return err
	}
	if fault == 2 {
		return errInjected
	}
	return nil
}

func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = true
}

// memSource is the world's log as a Source of one process.
type memSource struct {
	p     *process
	batch int
}

func (s *memSource) Run(ctx context.Context, assigned func(Assignment) (Consumer, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	owned := make(map[int]*memAssignment)
	failed := make(chan error, 1)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		for partition := range s.p.world.log {
			if a := owned[partition]; a != nil {
				select {
				case <-a.ended:
					delete(owned, partition)
				default:
					s.renew(a)
					continue
				}
			}
			if a := s.take(partition); a != nil {
				owned[partition] = a
				wg.Go(func() {
					if err := s.tenure(ctx, a, assigned); err != nil {
						select {
						case failed <- err:
						default:
						}
					}
				})
			}
		}
		select {
		case <-tick.C:
		case err := <-failed:
			cancel()
			wg.Wait()
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *memSource) take(partition int) *memAssignment {
	var a *memAssignment
	_ = s.p.call(context.Background(), func(w *world) error {
		l := &w.leases[partition]
		if l.owner != nil && time.Since(l.renewed) < leaseTime {
			return nil
		}
		l.owner, l.epoch, l.renewed = s.p, l.epoch+1, time.Now()
		a = &memAssignment{p: s.p, partition: partition, epoch: l.epoch, done: make(chan struct{}), ended: make(chan struct{})}
		if l.commit != nil {
			c := *l.commit
			a.committed = &c
		}
		return nil
	})
	return a
}

func (s *memSource) renew(a *memAssignment) {
	w := s.p.world
	w.mu.Lock()
	defer w.mu.Unlock()
	l := &w.leases[a.partition]
	if l.epoch == a.epoch && l.owner == s.p {
		l.renewed = time.Now()
		return
	}
	a.lose()
}

func (s *memSource) tenure(ctx context.Context, a *memAssignment, assigned func(Assignment) (Consumer, error)) error {
	defer close(a.ended)
	c, err := assigned(a)
	if err != nil {
		return err
	}
	after, ok := c.Start()
	next := 0
	if ok {
		next = int(after.Offset()) + 1
		if after.before().Offset() != after.Offset()-1 { // just before a record
			next = int(after.Offset()) + 1
		}
	}
	log := s.p.world.log[a.partition]
	for next < len(log) {
		n := min(s.batch, len(log)-next)
		rs := append([]Record(nil), log[next:next+n]...)
		if err := c.Deliver(ctx, rs); err != nil {
			break
		}
		next += n
	}
	select {
	case <-ctx.Done():
	case <-a.done:
		c.Abort()
		return nil
	}
	drain := context.WithoutCancel(ctx)
	s.p.world.mu.Lock()
	limit := s.p.world.drainTime
	s.p.world.mu.Unlock()
	if limit > 0 {
		var cancel context.CancelFunc
		drain, cancel = context.WithTimeout(drain, limit)
		defer cancel()
	}
	if err := c.Drain(drain, Handoff); err != nil {
		return nil // ownership lapses
	}
	return s.p.call(context.Background(), func(w *world) error {
		if l := &w.leases[a.partition]; l.epoch == a.epoch {
			l.owner = nil
		}
		return nil
	})
}

func (s *memSource) Checkpoints(context.Context) (map[string]Checkpoint, error) {
	w := s.p.world
	w.mu.Lock()
	defer w.mu.Unlock()
	all := map[string]Checkpoint{}
	for i, l := range w.leases {
		if l.commit != nil {
			all[fmt.Sprintf("log-%d", i)] = *l.commit
		}
	}
	return all, nil
}

type memAssignment struct {
	p         *process
	partition int
	epoch     uint64
	committed *Checkpoint
	done      chan struct{}
	ended     chan struct{}
	lost      sync.Once
}

func (a *memAssignment) lose()                       { a.lost.Do(func() { close(a.done) }) }
func (a *memAssignment) Partition() string           { return fmt.Sprintf("log-%d", a.partition) }
func (a *memAssignment) Epoch() uint64               { return a.epoch }
func (a *memAssignment) Done() <-chan struct{}       { return a.done }
func (a *memAssignment) Lag() (int64, time.Duration) { return -1, -1 }
func (a *memAssignment) Committed() (Checkpoint, bool) {
	if a.committed == nil {
		return Checkpoint{}, false
	}
	return *a.committed, true
}

func (a *memAssignment) Commit(ctx context.Context, c Checkpoint) error {
	return a.p.call(ctx, func(w *world) error {
		l := &w.leases[a.partition]
		if l.epoch != a.epoch {
			return ErrLost
		}
		if len(c.Note) > NoteLimit {
			w.violations = append(w.violations, fmt.Sprintf("note of %d bytes", len(c.Note)))
		}
		w.checkUpserts(a.partition, l.commit, c)
		l.commit = &c
		return nil
	})
}

// checkUpserts is the invariant that no sink is behind a commit.
func (w *world) checkUpserts(partition int, last *Checkpoint, c Checkpoint) {
	from := 0
	if last != nil {
		from = int(last.Pos.Offset()) + 1
	}
	for i := from; i <= int(c.Pos.Offset()); i++ {
		if fate(i) == "kept" && !refused(i) && w.upserted[fmt.Sprintf("log-%d/%s/0", partition, OffsetPosition(uint64(i)))] == 0 {
			w.violations = append(w.violations, fmt.Sprintf("commit of log-%d to %d before the upsert sink has record %d", partition, c.Pos.Offset(), i))
		}
	}
}

// fate of record number i: the test decoder and processor decide by it.
func fate(i int) string {
	switch {
	case i%13 == 5:
		return "dead" // does not decode
	case i%17 == 3:
		return "failed" // in a processor
	case i%7 == 2:
		return "dropped"
	default:
		return "kept"
	}
}

// refused by the upsert sink, for good.
func refused(i int) bool { return i%19 == 1 }

type testDecoder struct{}

func (testDecoder) Decode(r *Record, b *Batch) error {
	if fate(int(r.Pos.Offset())) == "dead" {
		return errors.New("does not decode")
	}
	e := b.Append(r)
	e.Values[ID] = StringValue(string(r.Value))
	e.Values[Time] = TimestampValue(r.Time.UnixMicro())
	return nil
}

// testProcessor drops, fails and counts; its state is the number of kept events.
type testProcessor struct {
	p    *process
	name string
	kept int64
}

func (t *testProcessor) Process(_ context.Context, b *Batch) error {
	for i := range b.Events {
		e := &b.Events[i]
		if !e.Alive() {
			continue
		}
		switch fate(int(e.Record.Pos.Offset())) {
		case "failed":
			e.Fail("process.1.test", errors.New("fails"))
		case "dropped":
			e.Drop()
		default:
			t.kept++
		}
	}
	return nil
}

func (t *testProcessor) Restore(ctx context.Context, tenure Tenure, ref []byte) error {
	t.name = tenure.Partition
	return t.p.call(ctx, func(w *world) error {
		t.kept = w.states[string(ref)]
		return nil
	})
}

func (t *testProcessor) Snapshot(ctx context.Context) ([]byte, error) {
	var ref []byte
	err := t.p.call(ctx, func(w *world) error {
		w.serial++
		ref = fmt.Appendf(nil, "%s#%d", t.name, w.serial)
		w.states[string(ref)] = t.kept
		return nil
	})
	return ref, err
}

// memStaged is a staged sink in the world; T is *Event or *DeadLetter.
type memStaged[T any] struct {
	p    *process
	name string
	row  func(T) memRow
	size int // rows of a full file
}

func (s *memStaged[T]) Open(_ context.Context, t Tenure) (StagedWriter[T], error) {
	return &memWriter[T]{sink: s, tenure: t}, nil
}

type memReceipt struct {
	Key, Upload, Padding string
}

func (s *memStaged[T]) Publish(ctx context.Context, r Receipt) error {
	var m memReceipt
	if err := json.Unmarshal(r.Body, &m); err != nil {
		return Fatal(err)
	}
	return s.p.call(ctx, func(w *world) error {
		f, ok := w.staged[m.Upload]
		if !ok {
			if _, there := w.visible[m.Key]; there {
				return nil
			}
			return ErrExpired
		}
		delete(w.staged, m.Upload)
		w.visible[m.Key] = f
		return nil
	})
}

func (s *memStaged[T]) Withdraw(ctx context.Context, r Receipt) error {
	var m memReceipt
	if err := json.Unmarshal(r.Body, &m); err != nil {
		return Fatal(err)
	}
	return s.p.call(ctx, func(w *world) error {
		delete(w.staged, m.Upload)
		delete(w.visible, m.Key)
		return nil
	})
}

// Inspect makes the sink an Inspector.
func (s *memStaged[T]) Inspect(_ context.Context, _ string, visit func(File) error, rows func(*File, Position, uint32) error) error {
	w := s.p.world
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, mf := range w.visible {
		if !strings.HasPrefix(key, s.name+"/") {
			continue
		}
		f := File{Key: key, Provenance: mf.prov}
		if key != f.Provenance.Key {
			f.Err = fmt.Errorf("copied from %s", f.Provenance.Key)
		}
		for _, r := range mf.rows {
			if rows != nil && f.Err == nil {
				f.Err = rows(&f, r.pos, r.index)
			}
		}
		if err := visit(f); err != nil {
			return err
		}
	}
	return nil
}

type memWriter[T any] struct {
	sink   *memStaged[T]
	tenure Tenure
	rows   []memRow
	staged []Receipt // of a Stage that has not succeeded
}

func (m *memWriter[T]) Write(items []T) {
	for _, item := range items {
		m.rows = append(m.rows, m.sink.row(item))
	}
}
func (m *memWriter[T]) Upload(context.Context) error { return nil }
func (m *memWriter[T]) Buffered() int64              { return int64(100 * len(m.rows)) }
func (m *memWriter[T]) Full() bool                   { return len(m.rows) >= m.sink.size }
func (m *memWriter[T]) Discard(context.Context)      {}

// Stage makes two files of more than one row, so that a commit has several.
func (m *memWriter[T]) Stage(ctx context.Context, p Provenance) ([]Receipt, error) {
	if len(m.rows) == 0 {
		return nil, nil
	}
	parts := [][]memRow{m.rows}
	if len(m.rows) > 1 {
		parts = [][]memRow{m.rows[:1], m.rows[1:]}
	}
	for len(m.staged) < len(parts) {
		i := len(m.staged)
		err := m.sink.p.call(ctx, func(w *world) error {
			w.serial++
			upload := fmt.Sprintf("u%d", w.serial)
			key := fmt.Sprintf("%s/%s-%s-%s", m.sink.name, m.tenure.Partition, p.To, upload)
			p.Key, p.File, p.Files, p.FileRows = key, i+1, len(parts), int64(len(parts[i]))
			w.staged[upload] = memFile{prov: p, rows: append([]memRow(nil), parts[i]...)}
			padding := ""
			if w.serial%5 == 0 {
				padding = strings.Repeat("x", NoteLimit) // must go to the overflow
			}
			body, _ := json.Marshal(memReceipt{key, upload, padding})
			m.staged = append(m.staged, Receipt{Sink: m.sink.name, Digest: p.Digest(), Body: body})
			return nil
		})
		if err != nil && len(m.staged) == i {
			return nil, err
		}
	}
	rs := m.staged
	m.staged, m.rows = nil, nil
	return rs, nil
}

type memUpsert struct{ p *process }

func (s *memUpsert) Open(_ context.Context, t Tenure) (UpsertWriter, error) {
	return &memUpsertWriter{p: s.p, tenure: t}, nil
}

type memUpsertWriter struct {
	p       *process
	tenure  Tenure
	waiting []memRow
}

func (m *memUpsertWriter) Write(events []*Event) {
	for _, e := range events {
		m.waiting = append(m.waiting, memRow{e.Record.Pos, e.Index, string(e.Record.Value)})
	}
}
func (m *memUpsertWriter) Buffered() int64 { return int64(100 * len(m.waiting)) }
func (m *memUpsertWriter) Close()          {}
func (m *memUpsertWriter) Flush(ctx context.Context) ([]*DeadLetter, error) {
	var dead []*DeadLetter
	for len(m.waiting) > 0 {
		r := m.waiting[0]
		if refused(int(r.pos.Offset())) {
			dead = append(dead, &DeadLetter{Record: &Record{Pos: r.pos, Value: []byte(r.text)}, Stage: "sink." + m.tenure.Sink, Err: "refused"})
			m.waiting = m.waiting[1:]
			continue
		}
		if err := m.p.call(ctx, func(w *world) error {
			w.upserted[fmt.Sprintf("%s/%s/%d", m.tenure.Partition, r.pos, r.index)]++
			return nil
		}); err != nil {
			return dead, err
		}
		m.waiting = m.waiting[1:]
	}
	return dead, nil
}

type memOverflow struct{ p *process }

func (o memOverflow) Put(ctx context.Context, name string, data []byte) error {
	return o.p.call(ctx, func(w *world) error { w.objects[name] = data; return nil })
}

func (o memOverflow) Get(ctx context.Context, name string) (data []byte, err error) {
	err = o.p.call(ctx, func(w *world) error {
		var ok bool
		if data, ok = w.objects[name]; !ok {
			return errors.New("no such object")
		}
		return nil
	})
	return data, err
}

func (o memOverflow) Delete(ctx context.Context, name string) error {
	return o.p.call(ctx, func(w *world) error { delete(w.objects, name); return nil })
}

// even selects half of the records, for a sink with a where.
func even(e *Event) bool { return e.Record.Pos.Offset()%2 == 0 }

func eventRow(e *Event) memRow { return memRow{e.Record.Pos, e.Index, string(e.Record.Value)} }
func deadRow(d *DeadLetter) memRow {
	index := uint32(0) // as the sink for dead letters: another one for each sink that refuses
	if d.Stage == "sink.kv2" {
		index = 1
	}
	return memRow{d.Record.Pos, index, d.Stage + " " + string(d.Record.Value)}
}

// engine is a pipeline with two staged sinks, an upsert sink, dead letters and state, in process p.
func (p *process) engine(t *testing.T, change func(*Config)) *Engine {
	t.Helper()
	schema, err := NewSchema()
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Name: "test", Schema: schema, Decoder: func() Decoder { return testDecoder{} },
		Processors: []ProcessorConfig{{"process.1.test", func() Processor { return &testProcessor{p: p} }}},
		Sinks: []Sink{
			{Name: "lake", Staged: &memStaged[*Event]{p: p, name: "lake", row: eventRow, size: 60}},
			{Name: "even", Where: even, Staged: &memStaged[*Event]{p: p, name: "even", row: eventRow, size: 1000}},
			{Name: "kv", Upsert: &memUpsert{p}},
		},
		DeadLetters: &memStaged[*DeadLetter]{p: p, name: DeadLetters, row: deadRow, size: 1000},
		Overflow:    memOverflow{p},
		Memory:      1 << 20, CommitAge: 3 * time.Second, CommitIdle: 2 * time.Second, Deadline: 4 * time.Second,
	}
	if change != nil {
		change(&cfg)
	}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (w *world) inspectors() map[string]Inspector {
	p := &process{world: w}
	return map[string]Inspector{
		"lake":      &memStaged[*Event]{p: p, name: "lake"},
		"even":      &memStaged[*Event]{p: p, name: "even"},
		DeadLetters: &memStaged[*DeadLetter]{p: p, name: DeadLetters},
	}
}

// done says that every record is committed and published.
func (w *world) done() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, l := range w.leases {
		if l.commit == nil || int(l.commit.Pos.Offset()) != len(w.log[i])-1 {
			return false
		}
	}
	return true
}

// check holds the world against the promise.
func (w *world) check(t *testing.T) {
	t.Helper()
	for _, v := range w.violations {
		t.Error(v)
	}
	for p, log := range w.log {
		partition := fmt.Sprintf("log-%d", p)
		for i := range log {
			f, pos := fate(i), OffsetPosition(uint64(i))
			want := map[string]int{"lake": 0, "even": 0, DeadLetters: 0}
			if f == "kept" {
				want["lake"] = 1
				want["even"] = 1 - i%2
				if refused(i) {
					want[DeadLetters] = 1
				} else if w.upserted[fmt.Sprintf("%s/%s/0", partition, pos)] == 0 {
					t.Errorf("%s record %d is not in the upsert sink", partition, i)
				}
			}
			if f == "dead" || f == "failed" {
				want[DeadLetters] = 1
			}
			for sink, n := range want {
				if got := w.countRows(sink, partition, pos); got != n {
					t.Errorf("%s record %d (%s) is %d times in %s; want %d", partition, i, f, got, sink, n)
				}
			}
		}
	}
	src := &memSource{p: &process{world: w}}
	report, err := Audit(t.Context(), "test", src.Checkpoints, w.inspectors(), true)
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range report.Problems {
		t.Errorf("audit: %s", problem)
	}
	for _, p := range report.Partitions {
		if p.Read != p.Kept+p.Dropped+p.Dead || p.Read != int64(len(w.log[0])) {
			t.Errorf("audit: %s read %d = %d kept + %d dropped + %d dead; want %d", p.Partition, p.Read, p.Kept, p.Dropped, p.Dead, len(w.log[0]))
		}
	}
	w.checkStates(t)
}

func (w *world) countRows(sink, partition string, pos Position) (n int) {
	for key, f := range w.visible {
		if strings.HasPrefix(key, sink+"/") && f.prov.Partition == partition {
			for _, r := range f.rows {
				if r.pos == pos {
					n++
				}
			}
		}
	}
	return n
}

// checkStates is the invariant that state and position move together.
func (w *world) checkStates(t *testing.T) {
	t.Helper()
	for p, l := range w.leases {
		n, err := decodeNote(l.commit.Note)
		if err != nil {
			t.Fatal(err)
		}
		want := int64(0)
		for i := range int(l.commit.Pos.Offset()) + 1 {
			if fate(i) == "kept" {
				want++
			}
		}
		if got := w.states[string(n.State["process.1.test"])]; got != want {
			t.Errorf("log-%d: the committed state counts %d events; want %d", p, got, want)
		}
	}
}
