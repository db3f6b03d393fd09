package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
	"unicode/utf8"
)

var (
	errDraining = errors.New("the partition is being drained")
	errStopped  = errors.New("the partition was stopped before its records were committed")
)

// worker is one tenure: it owns the partition's writers, counters and commits. All work is done in its goroutine (run);
// the source's goroutines only hand over.
type worker struct {
	engine     *Engine
	cfg        *Config
	assignment Assignment
	tenure     Tenure
	ctx        context.Context // ends with the tenure, or the engine's hard stop
	cancel     context.CancelCauseFunc

	inbox     chan []Record // unbuffered: what is accepted is being processed
	drain     chan Why
	draining  chan struct{} // closed by the first Drain
	drainOnce sync.Once
	pressure  chan struct{} // the budget wants this worker to commit
	recovered chan struct{} // closed when start is known
	done      chan struct{} // closed when run has returned
	err       error         // why it ended, nil after a drain; read after done

	start    Position // valid after recovered, if hasStart
	hasStart bool

	// Owned by run.
	decoder    Decoder
	processors []Processor
	sinks      []openSink
	dead       StagedWriter[*DeadLetter]
	batch      *Batch
	kept       []*Event
	routed     []*Event // kept, for one sink's where
	failed     []*DeadLetter
	buried     map[refusal]bool // since the last commit
	open       Provenance       // the range that the next files cover; To is the last processed record
	pending    bool             // there are processed records after the last commit
	note       *note            // what the last commit stored
	overflows  []string         // overflow objects that no note names any more
	oldest     time.Time        // arrival of the first uncommitted record
	newest     time.Time        // arrival of the last record
	watermark  int64            // microseconds

	mu       sync.Mutex
	public   PartitionStats
	busy     string
	progress time.Time
}

// refusal is a record and a sink that refuses it, or some of its events.
type refusal struct {
	sink string
	pos  Position
}

// openSink is a sink with this tenure's writer.
type openSink struct {
	Sink
	staged StagedWriter[*Event]
	upsert UpsertWriter
	aside  SpoolWriter // upsert, if it is one
}

// stager is what has files to stage: a staged sink, or the spool of an upsert one.
type stager interface {
	Upload(ctx context.Context) error
	Full() bool
	Stage(ctx context.Context, p Provenance) ([]Receipt, error)
	Discard(ctx context.Context)
}

// stager is nil for an upsert sink without a spool.
func (s *openSink) stager() stager {
	switch {
	case s.staged != nil:
		return s.staged
	case s.aside != nil:
		return s.aside
	}
	return nil
}

func (e *Engine) newWorker(a Assignment) (*worker, error) {
	if !utf8.ValidString(a.Partition()) {
		return nil, errors.New("its name is not UTF-8, and every file would say another one; rename it") // a file's name may be so
	}
	w := &worker{
		engine: e, cfg: &e.cfg, assignment: a,
		tenure:   Tenure{Pipeline: e.cfg.Name, Partition: a.Partition(), Epoch: a.Epoch(), Schema: e.cfg.Schema},
		inbox:    make(chan []Record),
		drain:    make(chan Why, 1),
		draining: make(chan struct{}), pressure: make(chan struct{}, 1), recovered: make(chan struct{}), done: make(chan struct{}),
		decoder: e.cfg.Decoder(), batch: NewBatch(e.cfg.Schema), progress: time.Now(),
	}
	w.ctx, w.cancel = context.WithCancelCause(e.hard)
	w.public = PartitionStats{Partition: a.Partition(), Epoch: a.Epoch(), Assigned: time.Now()}
	for _, p := range e.cfg.Processors {
		w.processors = append(w.processors, p.New())
	}
	return w, nil
}

// Start waits until what the last owner committed is published.
func (w *worker) Start() (Position, bool) {
	select {
	case <-w.recovered:
		return w.start, w.hasStart
	case <-w.done:
		return Position{}, false
	}
}

// Deliver hands rs to the worker's goroutine; it blocks while that is busy.
func (w *worker) Deliver(ctx context.Context, rs []Record) error {
	if len(rs) == 0 {
		return nil
	}
	select {
	case <-w.draining:
		return errDraining
	default:
	}
	select {
	case w.inbox <- rs:
		return nil
	case <-w.draining:
		return errDraining
	case <-w.done:
		return w.reason()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Drain commits what was delivered and ends the worker.
func (w *worker) Drain(ctx context.Context, why Why) error {
	w.drainOnce.Do(func() {
		close(w.draining)
		w.drain <- why
	})
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		w.end(errStopped)
		return ctx.Err()
	}
}

// Abort ends the worker without a commit.
func (w *worker) Abort() { w.end(ErrLost) }

func (w *worker) end(why error) {
	w.cancel(why)
	<-w.done
}

// reason is why the worker ended, never nil.
func (w *worker) reason() error {
	if w.err != nil {
		return w.err
	}
	return errStopped
}

// run is the worker's goroutine, from the assignment to the end of the tenure.
func (w *worker) run() {
	defer close(w.done)
	lost := make(chan struct{})
	go func() {
		defer close(lost)
		select {
		case <-w.assignment.Done():
			w.cancel(ErrLost)
		case <-w.ctx.Done():
		}
	}()
	w.err = w.work()
	w.cancel(errStopped)
	<-lost
	w.closeSinks()
}

func (w *worker) work() error {
	w.working("recovering")
	if err := w.openSinks(); err != nil {
		return err
	}
	if err := w.recover(); err != nil {
		return err
	}
	close(w.recovered)
	for {
		w.working("")
		if more, err := w.next(); err != nil || !more {
			return err
		}
	}
}

// next does one thing, and says whether there may be another. The end goes before all else, and a commit whose age has come before
// more records: a select takes any of what is ready.
func (w *worker) next() (more bool, err error) {
	if w.ctx.Err() != nil {
		return false, context.Cause(w.ctx)
	}
	var due <-chan time.Time
	if w.pending {
		wait := min(time.Until(w.oldest.Add(w.cfg.CommitAge)), w.cfg.CommitIdle)
		if wait <= 0 {
			return true, w.commit()
		}
		due = time.After(wait)
	} else if !w.settled() {
		due = time.After(w.cfg.CommitIdle)
	}
	select {
	case <-w.ctx.Done():
		return false, context.Cause(w.ctx)
	case rs := <-w.inbox:
		w.working("processing")
		return true, w.process(rs)
	case <-w.pressure:
		return true, w.commit()
	case <-due:
		w.pending = true
		return true, w.commit()
	case <-w.drain:
		return false, w.commit()
	}
}

// settled says that no sink has something set aside.
func (w *worker) settled() bool {
	for _, s := range w.sinks {
		if s.aside != nil && !s.aside.Settled() {
			return false
		}
	}
	return true
}

func (w *worker) openSinks() error {
	tenure := func(sink string) Tenure {
		t := w.tenure
		t.Sink = sink
		return t
	}
	for _, s := range w.cfg.Sinks {
		open := openSink{Sink: s}
		err := w.attempt(s.Name+".open", func(ctx context.Context) (err error) {
			if s.Staged != nil {
				open.staged, err = s.Staged.Open(ctx, tenure(s.Name))
			} else {
				open.upsert, err = s.Upsert.Open(ctx, tenure(s.Name))
				open.aside, _ = open.upsert.(SpoolWriter)
			}
			return err
		})
		if err != nil {
			return err
		}
		w.sinks = append(w.sinks, open)
	}
	return w.attempt(DeadLetters+".open", func(ctx context.Context) (err error) {
		w.dead, err = w.cfg.DeadLetters.Open(ctx, tenure(DeadLetters))
		return err
	})
}

// closeSinks lets go of what was not committed. The tenure's context has ended, so cleaning up has its own time.
func (w *worker) closeSinks() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), 5*time.Second)
	defer cancel()
	for _, s := range w.sinks {
		if s.upsert != nil {
			s.upsert.Close()
		}
		if st := s.stager(); st != nil {
			st.Discard(ctx)
		}
	}
	if w.dead != nil {
		w.dead.Discard(ctx)
	}
}

// Bounds of one batch: enough to spread the cost per batch, little enough to stay in the processor's cache.
const (
	batchRecords = 512
	batchBytes   = 1 << 20
)

// process takes rs through decoder, processors and sinks, batch by batch.
func (w *worker) process(rs []Record) error {
	w.newest = time.Now()
	for len(rs) > 0 {
		n, bytes := 0, 0
		for n < len(rs) && n < batchRecords && bytes < batchBytes {
			bytes += len(rs[n].Value)
			n++
		}
		if err := w.processBatch(rs[:n], bytes); err != nil {
			return err
		}
		if err := w.makeRoom(); err != nil {
			return err
		}
		rs = rs[n:]
	}
	return nil
}

func (w *worker) processBatch(rs []Record, bytes int) error {
	w.failed = w.failed[:0]
	w.batch.Reset()
	w.decode(rs)
	for i, p := range w.processors {
		if err := w.attempt(w.cfg.Processors[i].Name, func(ctx context.Context) error { return p.Process(ctx, w.batch) }); err != nil {
			return err
		}
	}
	w.judge(rs, bytes)
	if w.cfg.Tap != nil {
		w.cfg.Tap(w.tenure.Partition, w.kept, w.failed)
	}
	if err := w.tolerate(len(rs), w.failed); err != nil {
		return err
	}
	w.write()
	return w.upload()
}

// tolerate fails when too many records become dead letters.
func (w *worker) tolerate(records int, dead []*DeadLetter) error {
	var last *DeadLetter
	if len(dead) > 0 {
		last = dead[len(dead)-1]
	}
	return w.engine.dead.add(time.Now(), int64(records), int64(len(dead)), last)
}

// decode fills the batch. A record that cannot be decoded stands in it as one failed event.
func (w *worker) decode(rs []Record) {
	for i := range rs {
		before := len(w.batch.Events)
		stage, err := "source", rs[i].Err
		if err == nil {
			stage, err = "decode", w.decodeOne(&rs[i])
		}
		if err != nil {
			w.batch.Truncate(before)
			w.batch.Append(&rs[i]).Fail(stage, err)
		}
	}
}

// decodeOne turns a panic, which is a bug of ours, into a dead letter: one odd record must not stop a partition for ever.
func (w *worker) decodeOne(r *Record) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the decoder failed on this record: %v", p)
		}
	}()
	return w.decoder.Decode(r, w.batch)
}

// judge settles each record's fate: dead if any of its events failed, kept if any is alive, else dropped.
func (w *worker) judge(rs []Record, bytes int) {
	w.kept = w.kept[:0]
	events := w.batch.Events
	var kept, dropped int64
	for i := range rs {
		n := 0
		for n < len(events) && events[n].Record == &rs[i] {
			n++
		}
		var alive bool
		var failure *Event
		for j := range events[:n] {
			alive = alive || events[j].Alive()
			if events[j].err != nil && failure == nil {
				failure = &events[j]
			}
		}
		switch {
		case failure != nil:
			w.failed = append(w.failed, &DeadLetter{Record: &rs[i], Stage: failure.stage, Err: failure.err.Error()})
		case alive:
			kept++
			for j := range events[:n] {
				if events[j].Alive() {
					w.kept = append(w.kept, &events[j])
				}
			}
		default:
			dropped++
		}
		events = events[n:]
	}
	w.account(rs, bytes, kept, dropped)
}

func (w *worker) account(rs []Record, bytes int, kept, dropped int64) {
	if !w.pending {
		w.pending, w.oldest = true, w.newest
	}
	dead := int64(len(w.failed))
	if w.open.First && w.open.Read == 0 {
		w.open.After = rs[0].Pos.before()
	}
	w.open.To = rs[len(rs)-1].Pos
	w.open.Read += int64(len(rs))
	w.open.Kept += kept
	w.open.Dropped += dropped
	w.open.Dead += dead
	for _, e := range w.kept {
		if v := e.Values[Time]; !v.IsNull() {
			w.watermark = max(w.watermark, min(v.Int(), w.bound(e.Record)))
		}
	}
	w.engine.count(func(s *Stats) {
		s.Records += uint64(len(rs))
		s.Bytes += uint64(bytes)
		s.Kept += uint64(kept)
		s.Dropped += uint64(dropped)
		s.Dead += uint64(dead)
		for _, d := range w.failed {
			s.DeadByStage[d.Stage]++
		}
	})
}

// bound keeps a client's clock that runs ahead from moving the watermark past the time at which the log took the record.
func (w *worker) bound(r *Record) int64 {
	if r.Time.IsZero() {
		return w.newest.UnixMicro()
	}
	return r.Time.UnixMicro()
}

// write hands the batch to every sink.
func (w *worker) write() {
	rows := w.rows()
	for _, s := range w.sinks {
		events := w.kept
		if s.Where != nil {
			w.routed = w.routed[:0]
			for _, e := range w.kept {
				if s.Where(e) {
					w.routed = append(w.routed, e)
				}
			}
			events = w.routed
		}
		if len(events) == 0 {
			continue
		}
		if s.upsert != nil {
			s.upsert.Write(events)
		} else {
			s.staged.Write(events)
			rows[s.Name] += int64(len(events))
		}
		w.engine.count(func(c *Stats) { c.Rows[s.Name] += uint64(len(events)) })
	}
	w.bury(w.failed)
}

// bury writes dead letters.
func (w *worker) bury(dead []*DeadLetter) {
	if len(dead) == 0 {
		return
	}
	w.dead.Write(dead)
	w.rows()[DeadLetters] += int64(len(dead))
	w.engine.count(func(c *Stats) { c.Rows[DeadLetters] += uint64(len(dead)) })
}

func (w *worker) rows() map[string]int64 {
	if w.open.Rows == nil {
		w.open.Rows = map[string]int64{}
	}
	return w.open.Rows
}

// upload moves full parts out of memory.
func (w *worker) upload() error {
	for _, s := range w.sinks {
		st := s.stager()
		if st == nil {
			continue
		}
		if err := w.attempt(s.Name+".upload", st.Upload); err != nil {
			return err
		}
	}
	return w.attempt(DeadLetters+".upload", w.dead.Upload)
}

// makeRoom commits when a file is full or the budget asks for it, and waits while others have to.
func (w *worker) makeRoom() error {
	if err := w.awaitUpserts(); err != nil {
		return err
	}
	buffered, full := w.dead.Buffered(), w.dead.Full()
	for _, s := range w.sinks {
		if s.upsert != nil {
			buffered += s.upsert.Buffered()
		} else {
			buffered += s.staged.Buffered()
		}
		if st := s.stager(); st != nil {
			full = full || st.Full()
		}
	}
	w.engine.budget.set(w, buffered)
	w.update(func(p *PartitionStats) {
		p.Delivered, p.Oldest, p.Buffered = w.open.To, w.oldest, buffered
		p.Watermark = microTime(w.watermark)
	})
	if full {
		return w.commit()
	}
	for {
		victim, change := w.engine.budget.over()
		switch {
		case victim == nil:
			return nil
		case victim == w:
			return w.commit()
		}
		select {
		case victim.pressure <- struct{}{}:
		default: // told already
		}
		w.working("waiting for memory that " + victim.tenure.Partition + " holds")
		select {
		case <-change:
		case <-w.pressure:
			return w.commit()
		case <-w.ctx.Done():
			return context.Cause(w.ctx)
		}
	}
}

// upsertShare is the part of the budget that one writer of an upsert sink may hold before its worker waits for it. Waiting
// frees that memory as a commit would, but the other sinks' files stay as large as they are meant to be.
const upsertShare = 8

// awaitUpserts is the back-pressure of upsert sinks that are slower than the source.
func (w *worker) awaitUpserts() error {
	for i := range w.sinks {
		s := &w.sinks[i]
		if s.upsert == nil || s.upsert.Buffered() <= w.cfg.Memory/upsertShare {
			continue
		}
		w.working("waiting for " + s.Name)
		if err := w.flushSink(s); err != nil {
			return err
		}
		w.working("processing")
	}
	return nil
}

func microTime(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// Back-off between two attempts of an outside call: doubled from the first to the last, half of it random.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 10 * time.Second
)

// attempt calls fn until it succeeds, for ever, each time with a deadline. It gives up when the tenure ends, and on errors
// that no repetition mends.
func (w *worker) attempt(call string, fn func(ctx context.Context) error) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := w.once(fn)
		if err == nil {
			if pause > firstPause {
				w.update(func(p *PartitionStats) { p.Retrying, p.RetryingSince = "", time.Time{} })
				w.cfg.Log.Info("call succeeds again", "partition", w.tenure.Partition, "call", call)
			}
			return nil
		}
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		var fatal *FatalError
		if errors.As(err, &fatal) || errors.Is(err, ErrLost) || errors.Is(err, ErrExpired) {
			return fmt.Errorf("%s: %w", call, err)
		}
		w.retrying(call, err, pause)
		select {
		case <-time.After(pause/2 + w.cfg.Jitter(pause/2)):
		case <-w.ctx.Done():
			return context.Cause(w.ctx)
		}
	}
}

func (w *worker) once(fn func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(w.ctx, w.cfg.Deadline)
	defer cancel()
	return fn(ctx)
}

func (w *worker) retrying(call string, err error, pause time.Duration) {
	w.engine.count(func(s *Stats) { s.Retries[call]++ })
	w.update(func(p *PartitionStats) {
		p.Retrying = fmt.Sprintf("%s: %v", call, err)
		if p.RetryingSince.IsZero() {
			p.RetryingSince = time.Now()
		}
	})
	if pause == firstPause || pause == lastPause {
		w.cfg.Log.Warn("call fails and is repeated", "partition", w.tenure.Partition, "call", call, "error", err)
	}
}
