package files

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/stream"
)

var errCrash = errors.New("the consumer crashed")

// world is a folder of input and what pipelines made of it.
type world struct {
	*testing.T
	dir string // the working directory of the configured paths
	cfg Config
	log *logLines

	mu      sync.Mutex
	changed chan struct{}
	parts   map[string]*part
	crash   func(partition string, delivered int) bool // the consumer fails at this record and stores nothing more
	every   int                                        // records between commits; 0: when drained
	block   chan struct{}                              // not nil: Deliver waits for it
}

// part is what was committed of a partition.
type part struct {
	lines     []string
	errs      []string
	headers   []string
	positions []stream.Position
	epochs    []uint64
	whys      []stream.Why
	delivered int // by the newest tenure, committed or not
}

func newWorld(t *testing.T, cfg Config) *world {
	w := &world{T: t, dir: t.TempDir(), cfg: cfg, changed: make(chan struct{}), parts: map[string]*part{}, every: 3, log: &logLines{}}
	if err := os.Mkdir(w.path("in"), 0o777); err != nil {
		t.Fatal(err)
	}
	if cfg.Paths == nil {
		w.cfg.Paths = []string{"in"}
	}
	for i, p := range w.cfg.Paths {
		if !isRemote(p) {
			w.cfg.Paths[i] = w.path(p)
		}
	}
	w.cfg.Poll = 2 * time.Millisecond
	w.cfg.Checkpoints = w.path("checkpoints")
	if err := w.cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(name, text string) {
	w.Helper()
	if err := os.WriteFile(w.path(name), []byte(text), 0o666); err != nil {
		w.Fatal(err)
	}
}

func (w *world) append(name, text string) {
	w.Helper()
	appendTo(w.T, w.path(name), text)
}

func (w *world) rename(from, to string) {
	w.Helper()
	if err := os.Rename(w.path(from), w.path(to)); err != nil {
		w.Fatal(err)
	}
}

func (w *world) remove(name string) {
	w.Helper()
	if err := os.RemoveAll(w.path(name)); err != nil {
		w.Fatal(err)
	}
}

func (w *world) source() *Source {
	return New(w.cfg, "test", slog.New(slog.NewTextHandler(w.log, nil)))
}

// run is one process's life.
func (w *world) run(ctx context.Context) error {
	return w.source().Run(ctx, w.assign)
}

// finish runs a finite source to its end.
func (w *world) finish() {
	w.Helper()
	if err := w.runFor(); err != nil {
		w.Fatalf("Run: %v", err)
	}
}

func (w *world) runFor() error {
	ctx, cancel := context.WithTimeout(w.Context(), 20*time.Second)
	defer cancel()
	err := w.run(ctx)
	if ctx.Err() != nil {
		w.Fatal("Run does not return")
	}
	return err
}

// start runs a following source; stop ends it and returns its error.
func (w *world) start() (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.run(ctx) }()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() {
			cancel()
			select {
			case err = <-done:
			case <-time.After(20 * time.Second):
				w.Error("Run does not return")
			}
		})
		return err
	}
	w.Cleanup(func() { stop() })
	return stop
}

func (w *world) part(partition string) *part {
	p := w.parts[partition]
	if p == nil {
		p = &part{}
		w.parts[partition] = p
	}
	return p
}

// wake makes wait look again; mu is held.
func (w *world) wake() {
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *world) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wake()
}

// wait returns when cond, called with mu held, is true.
func (w *world) wait(what string, cond func() bool) {
	w.Helper()
	deadline := time.After(30 * time.Second) // a busy disk takes a second for a checkpoint
	for {
		w.mu.Lock()
		ok, changed := cond(), w.changed
		w.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			w.Fatalf("waited too long until %s; %s\n%s", what, w.describe(), w.log)
		}
	}
}

func (w *world) describe() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	for name, p := range w.parts {
		fmt.Fprintf(&b, "\n  %s: %d committed, %d delivered, epochs %v, ended %v", strings.TrimPrefix(name, w.dir), len(p.lines), p.delivered, p.epochs, p.whys)
	}
	return b.String()
}

// delivered waits until so many records are delivered by the partition's newest tenure.
func (w *world) delivered(name string, n int) {
	w.Helper()
	w.wait(fmt.Sprintf("%d records of %s are delivered", n, name), func() bool { return w.part(w.partition(name)).delivered >= n })
}

// ended waits until the partition was drained with Ended.
func (w *world) ended(name string) {
	w.Helper()
	w.wait(name+" has ended", func() bool { return slices.Contains(w.part(w.partition(name)).whys, stream.Ended) })
}

func (w *world) partition(name string) string {
	if isRemote(name) {
		return name
	}
	return filepath.ToSlash(w.path(name))
}

// holds checks what was committed of a partition, all in all.
func (w *world) holds(name string, lines ...string) {
	w.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	got := w.part(w.partition(name)).lines
	if slices.Equal(got, lines) {
		return
	}
	same := 0
	for same < min(len(got), len(lines)) && got[same] == lines[same] {
		same++
	}
	w.Errorf("%s: %d lines; want %d; they differ from line %d on: %.100q; want %.100q",
		name, len(got), len(lines), same, got[same:min(same+3, len(got))], lines[same:min(same+3, len(lines))])
}

// only checks which partitions there are.
func (w *world) only(names ...string) {
	w.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for p, part := range w.parts {
		if len(part.epochs) > 0 && !slices.ContainsFunc(names, func(n string) bool { return w.partition(n) == p }) {
			w.Errorf("partition %s was read too: %q", p, part.lines)
		}
	}
}

// fails checks that a run ends with an error that says all of this.
func (w *world) fails(texts ...string) error {
	w.Helper()
	err := w.runFor()
	if err == nil {
		w.Fatalf("Run returned nil; want an error with %q", texts)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			w.Errorf("the error %q does not say %q", err, text)
		}
	}
	return err
}

type collector struct {
	stream.Assignment
	w       *world
	pending []stream.Record
	crashed bool
	taking  sync.Mutex
}

func (w *world) assign(a stream.Assignment) (stream.Consumer, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.part(a.Partition())
	if n := len(p.epochs); n > 0 && p.epochs[n-1] >= a.Epoch() {
		w.Errorf("%s: epoch %d after %d", a.Partition(), a.Epoch(), p.epochs[n-1])
	}
	p.epochs = append(p.epochs, a.Epoch())
	w.wake()
	p.delivered = len(p.lines)
	return &collector{Assignment: a, w: w}, nil
}

func (c *collector) Start() (stream.Position, bool) {
	committed, ok := c.Committed()
	return committed.Pos, ok
}

func (c *collector) Deliver(ctx context.Context, rs []stream.Record) error {
	if c.w.block != nil {
		select {
		case <-c.w.block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.taking.Lock() // the source drains beside a Deliver that takes long
	defer c.taking.Unlock()
	defer c.w.tell()
	for _, r := range rs {
		c.w.mu.Lock()
		p := c.w.part(c.Partition())
		p.delivered++
		c.crashed = c.crashed || c.w.crash != nil && c.w.crash(c.Partition(), p.delivered)
		c.w.mu.Unlock()
		if c.crashed {
			return errCrash
		}
		c.pending = append(c.pending, r)
		if c.w.every > 0 && len(c.pending) >= c.w.every {
			if err := c.commit(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *collector) commit(ctx context.Context) error {
	if len(c.pending) == 0 {
		return nil
	}
	if err := c.Commit(ctx, stream.Checkpoint{Pos: c.pending[len(c.pending)-1].Pos, Note: []byte("note")}); err != nil {
		return err
	}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	p := c.w.part(c.Partition())
	for _, r := range c.pending {
		p.add(r)
	}
	c.pending = nil
	return nil
}

func (p *part) add(r stream.Record) {
	header, problem := "", ""
	if len(r.Headers) > 0 {
		header = string(r.Headers[0].Value)
	}
	if r.Err != nil {
		problem = r.Err.Error()
	}
	p.lines, p.positions = append(p.lines, string(r.Value)), append(p.positions, r.Pos)
	p.headers, p.errs = append(p.headers, header), append(p.errs, problem)
}

func (c *collector) Drain(ctx context.Context, why stream.Why) error {
	c.taking.Lock()
	defer c.taking.Unlock()
	if c.crashed {
		return errCrash
	}
	err := c.commit(ctx)
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if err == nil {
		p := c.w.part(c.Partition())
		p.whys = append(p.whys, why)
	}
	c.w.wake()
	return err
}

func (c *collector) Abort() {}

// logLines keeps a log for the messages of a failing test, and for tests of what it says.
type logLines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logLines) count(text string) int { return strings.Count(l.String(), text) }

// newRandom is seeded by the time, and says with what.
func newRandom(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// numbered makes lines.
func numbered(from, to int) []string {
	var lines []string
	for i := from; i < to; i++ {
		lines = append(lines, fmt.Sprintf("line %d of this file", i))
	}
	return lines
}

func joined(lines []string) string { return strings.Join(lines, "\n") + "\n" }
