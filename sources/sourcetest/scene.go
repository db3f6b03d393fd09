package sourcetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// errCrashed is what the consumer of a crashed worker answers to everything.
var errCrashed = errors.New("the worker crashed")

// patience is the deadline of every wait beyond Features.Lapse; a green suite never reaches it.
const patience = 20 * time.Second

// scene is one test: a log, its workers, and the lake that they write to.
type scene struct {
	*testing.T
	Features
	log  Log
	lake *lake

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced by note
	expected [][]Message   // what each partition holds, by index; append-only
	trimmed  []int         // records of each partition that are gone
	byName   map[string]int
	parents  [][]int                   // of each partition
	where    []map[int]stream.Position // where a record was seen first, by index
	tenures  []*tenure                 // all that ever were, in order of assignment
	workers  []*worker
}

func newScene(t *testing.T, b Backend, partitions int) *scene {
	s := &scene{
		T: t, Features: b.Features, log: b.New(t, partitions), lake: newLake(),
		changed: make(chan struct{}), byName: map[string]int{},
	}
	for range partitions {
		s.grow()
	}
	if len(s.byName) != partitions {
		t.Fatalf("%d partitions have %d names", partitions, len(s.byName))
	}
	t.Cleanup(func() {
		for _, w := range s.workers {
			w.stop()
		}
		s.checkKept()
	})
	return s
}

// grow adds the next partition. Call it with mu held, once there are workers.
func (s *scene) grow(parents ...int) {
	i := len(s.expected)
	s.byName[s.log.Partition(i)] = i
	s.expected = append(s.expected, nil)
	s.trimmed = append(s.trimmed, 0)
	s.parents = append(s.parents, parents)
	s.where = append(s.where, map[int]stream.Position{})
}

// split ends partition i and returns the first of the two that follow it.
func (s *scene) split(i int) (first int) {
	s.Helper()
	s.note(func() { // under the lock: a worker may be assigned the new ones at once
		first = len(s.expected)
		s.log.(Resharder).Split(s.T, i)
		s.grow(i)
		s.grow(i)
	})
	return first
}

// merge ends partitions i and j and returns the one that follows them.
func (s *scene) merge(i, j int) (child int) {
	s.Helper()
	s.note(func() {
		child = len(s.expected)
		s.log.(Resharder).Merge(s.T, i, j)
		s.grow(i, j)
	})
	return child
}

// note wakes everybody who waits for a condition.
func (s *scene) note(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.changed)
	s.changed = make(chan struct{})
}

// wait returns when cond holds, and ends the test when it does not in time. cond is called with mu held.
func (s *scene) wait(what string, cond func() bool) {
	s.Helper()
	if !s.waitFor(s.Lapse+patience, cond) {
		s.Fatalf("waited too long until %s; tenures: %s", what, s.describe())
	}
}

func (s *scene) waitFor(d time.Duration, cond func() bool) bool {
	deadline := time.NewTimer(d)
	defer deadline.Stop()
	for {
		s.mu.Lock()
		ok, changed := cond(), s.changed
		s.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-changed:
		case <-deadline.C:
			return false
		}
	}
}

// poll waits for something that does not tell when it changes.
func (s *scene) poll(cond func() bool) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(s.Lapse + patience); time.Now().Before(deadline); <-tick.C {
		if cond() {
			return true
		}
	}
	return false
}

func (s *scene) describe() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b bytes.Buffer
	for _, t := range s.tenures {
		fmt.Fprintf(&b, "\n  %s of worker %d, epoch %d: records %d to %d, committed %d, ended %q", t.Partition(), t.worker.id, t.Epoch(), t.first, t.next, t.done, t.end)
	}
	return b.String()
}

// append adds n generated records to partition i.
func (s *scene) append(i, n int) {
	s.Helper()
	s.appendMessages(i, s.generate(i, n)...)
}

func (s *scene) appendMessages(i int, ms ...Message) {
	s.Helper()
	if s.Keyed {
		for i := range ms {
			if len(ms[i].Key) == 0 {
				ms[i].Key = []byte("any")
			}
		}
	}
	s.note(func() {
		for _, m := range ms {
			if len(m.Value) > 0 || s.Empty {
				s.expected[i] = append(s.expected[i], m)
			}
		}
	})
	s.log.Append(s.T, i, ms...)
}

// generate makes small messages that differ from each other, over a few keys of the partition.
func (s *scene) generate(i, n int) []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	ms := make([]Message, n)
	for j := range ms {
		k := len(s.expected[i]) + j
		ms[j] = Message{
			Key:   fmt.Appendf(nil, "key-%d-%d", i, k%3),
			Value: fmt.Appendf(nil, `{"partition":%d,"record":%d}`, i, k),
		}
	}
	return ms
}

// value makes n bytes that the log can hold.
func (s *scene) value(n int) []byte {
	b := make([]byte, n)
	random := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range b {
		if b[i] = byte(random.Uint32()); !s.Binary {
			b[i] = 'a' + b[i]%26
		}
	}
	if !s.Binary && n >= 2 {
		b[0], b[n-1] = '"', '"'
	}
	return b
}

func (s *scene) trim(i, n int) {
	s.Helper()
	s.log.Trim(s.T, i, n)
	s.trimmed[i] = n
}

// position is where the record was seen.
func (s *scene) position(i, index int) stream.Position {
	s.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.where[i][index]
	if !ok {
		s.Fatalf("record %d of partition %d was never delivered", index, i)
	}
	return p
}

// last is the newest tenure of partition i of worker w (nil: of any); nil if there is none. Call it with mu held.
func (s *scene) last(i int, w *worker) *tenure {
	for n := len(s.tenures) - 1; n >= 0; n-- {
		if t := s.tenures[n]; t.partition == i && (w == nil || t.worker == w) {
			return t
		}
	}
	return nil
}

// owns says whether w has partition i. Call it with mu held.
func (s *scene) owns(w *worker, i int) bool {
	t := s.last(i, nil)
	return t != nil && t.worker == w && t.end == ""
}

// tenure waits until worker w has partition i, and returns its tenure.
func (s *scene) tenure(w *worker, i int) *tenure {
	s.Helper()
	s.wait("worker "+strconv.Itoa(w.id)+" has "+s.log.Partition(i), func() bool { return s.last(i, w) != nil })
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last(i, w)
}

// delivered waits until worker w (nil: any) was given everything of partition i in its newest tenure.
func (s *scene) delivered(w *worker, i int) *tenure {
	s.Helper()
	var t *tenure
	s.wait("everything of "+s.log.Partition(i)+" is delivered", func() bool {
		t = s.last(i, w)
		return t != nil && t.next == len(s.expected[i])
	})
	return t
}

// settled waits until the lake holds everything, and checks that it holds it once and in order.
func (s *scene) settled() {
	s.Helper()
	s.wait("every record is committed", func() bool {
		for i := range s.expected {
			if s.lake.count(i) < len(s.expected[i]) {
				return false
			}
		}
		return true
	})
	s.checkLake()
}

func (s *scene) checkLake() {
	s.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.expected {
		for n, index := range s.lake.rows(i) {
			if index != n {
				s.Fatalf("row %d of %s in the lake is record %d: lost, doubled or out of order", n, s.log.Partition(i), index)
			}
		}
	}
}

// checkKept compares all records again: a source must not reuse what it handed over.
func (s *scene) checkKept() {
	for _, t := range s.tenures {
		for n, r := range t.kept {
			if err := s.compare(r, s.expected[t.partition][t.first+n]); err != nil {
				s.Errorf("%s: record %d changed after it was delivered: %v", t.Partition(), t.first+n, err)
				return
			}
		}
	}
}

func (s *scene) compare(r stream.Record, m Message) error {
	switch {
	case r.Err != nil:
		return fmt.Errorf("the record has an error: %w", r.Err)
	case !bytes.Equal(r.Value, m.Value):
		return fmt.Errorf("value of %d bytes %.60q; want %d bytes %.60q", len(r.Value), r.Value, len(m.Value), m.Value)
	case s.Keys && (!bytes.Equal(r.Key, m.Key) || (r.Key == nil) != (m.Key == nil)):
		return fmt.Errorf("key %q; want %q", r.Key, m.Key)
	case !s.Keys && r.Key != nil:
		return fmt.Errorf("key %q; want none", r.Key)
	case !s.Headers && len(r.Headers) > 0:
		return fmt.Errorf("%d headers; want none", len(r.Headers))
	case s.Headers && len(r.Headers) != len(m.Headers):
		return fmt.Errorf("%d headers; want %d", len(r.Headers), len(m.Headers))
	case s.Times && (time.Since(r.Time) > time.Hour || time.Since(r.Time) < -time.Minute):
		return fmt.Errorf("time %v is not when the log took it", r.Time)
	case !s.Times && !r.Time.IsZero():
		return fmt.Errorf("time %v; want none", r.Time)
	}
	for i := range r.Headers {
		if r.Headers[i].Key != m.Headers[i].Key || !bytes.Equal(r.Headers[i].Value, m.Headers[i].Value) {
			return fmt.Errorf("header %d is %q; want %q", i, r.Headers[i], m.Headers[i])
		}
	}
	return nil
}

// checkpoints asks a worker that runs nothing.
func (s *scene) checkpoints() map[string]stream.Checkpoint {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	found, err := s.log.Open(s.T).Source.Checkpoints(ctx)
	if err != nil {
		s.Fatalf("checkpoints: %v", err)
	}
	return found
}

// lake is what the workers' commits made visible. It outlives every worker.
type lake struct {
	mu     sync.Mutex
	staged map[string]file
	files  map[int][]file // by partition, in order of publishing
	seen   map[string]bool
}

type file struct {
	partition int
	records   []int // indexes
}

func newLake() *lake {
	return &lake{staged: map[string]file{}, files: map[int][]file{}, seen: map[string]bool{}}
}

func (l *lake) stage(id string, f file) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.staged[id] = f
}

// publish is idempotent; it reports whether the id is one that was staged.
func (l *lake) publish(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := l.staged[id]
	if ok && !l.seen[id] {
		l.seen[id] = true
		l.files[f.partition] = append(l.files[f.partition], f)
	}
	return ok
}

func (l *lake) rows(partition int) []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	var rows []int
	for _, f := range l.files[partition] {
		rows = append(rows, f.records...)
	}
	return rows
}

func (l *lake) count(partition int) int { return len(l.rows(partition)) }
