package sim

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/stream"
)

// store is where one sink's data is: uploads that nobody sees, files that everybody sees, and rows by identity.
type store struct {
	name    string
	staged  map[string]file
	visible map[string]file
	rows    map[rowID]int // in visible files
	upserts map[rowID]uint64
	last    map[string]*record // by key: the last record that has rows for this sink
}

func newStore(name string) *store {
	return &store{name, map[string]file{}, map[string]file{}, map[rowID]int{}, map[rowID]uint64{}, map[string]*record{}}
}

// rowID is a row's identity in one sink.
type rowID struct {
	pos   stream.Position
	index uint32
}

// row is what a sink keeps of an event or a dead letter: who it is, and a sum of all that it says.
type row struct {
	rowID
	sum uint64
}

// before is the order of the log.
func (r row) before(other row) bool {
	return cmp.Or(r.pos.Compare(other.pos), cmp.Compare(r.index, other.index)) < 0
}

// file is an upload, and after its publication a file.
type file struct {
	prov stream.Provenance
	rows []row
	by   int // the process that made it
}

// commitID names a commit within its shard.
type commitID struct {
	epoch uint64
	to    stream.Position
}

// sinkOf is the sink that a call is to, if it is to one. A sink's name may have dots.
func sinkOf(c Call) string { return strings.TrimSuffix(c.Name, path.Ext(c.Name)) }

// staged is a sink with the two phases of multipart uploads. T is *stream.Event or *stream.DeadLetter.
type staged[T any] struct {
	p    *process
	name string
	row  func(T) row
}

func (s *staged[T]) call(ctx context.Context, partition, what string, lane int, fn effect) error {
	n := -1
	if sh := s.p.world.find(partition); sh != nil {
		n = sh.number
	}
	return s.p.call(ctx, Call{Shard: n, Name: s.name + "." + what, Lane: lane}, fn)
}

// find is a shard by name, for those who do not hold the lock.
func (w *world) find(name string) *shard {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.byName(name)
}

func (s *staged[T]) Open(ctx context.Context, t stream.Tenure) (stream.StagedWriter[T], error) {
	if err := s.call(ctx, t.Partition, "open", 0, func() error { return nil }); err != nil {
		return nil, err
	}
	return &stagedWriter[T]{sink: s, tenure: t}, nil
}

// ticket is the body of a receipt.
type ticket struct {
	Key, Upload, Shard string
	Lane               int
	Padding            string `json:",omitempty"`
}

// files of one sink in one commit, at most: the lanes of the receipts follow from it.
const filesPerCommit = 3

func (s *staged[T]) ticket(r stream.Receipt) (t ticket, err error) {
	if err := json.Unmarshal(r.Body, &t); err != nil {
		return t, stream.Fatal(err)
	}
	return t, nil
}

func (s *staged[T]) Publish(ctx context.Context, r stream.Receipt) error {
	t, err := s.ticket(r)
	if err != nil {
		return err
	}
	return s.call(ctx, t.Shard, "publish", t.Lane, func() error {
		st := s.p.world.sinks[s.name]
		f, ok := st.staged[t.Upload]
		if _, there := st.visible[t.Key]; there {
			return nil
		}
		if !ok {
			return stream.ErrExpired
		}
		delete(st.staged, t.Upload)
		if f.by != s.p.number {
			s.p.world.count.HalfCommits++
		}
		s.p.world.show(st, t.Key, f)
		return nil
	})
}

func (s *staged[T]) Withdraw(ctx context.Context, r stream.Receipt) error {
	t, err := s.ticket(r)
	if err != nil {
		return err
	}
	return s.call(ctx, t.Shard, "withdraw", t.Lane, func() error {
		st := s.p.world.sinks[s.name]
		delete(st.staged, t.Upload)
		s.p.world.hide(st, t.Key)
		return nil
	})
}

// stagedWriter writes for one tenure.
type stagedWriter[T any] struct {
	sink     *staged[T]
	tenure   stream.Tenure
	rows     []row
	parts    int              // that are uploaded
	open     []string         // uploads whose receipts Stage has not returned
	receipts []stream.Receipt // of a Stage that has not succeeded
}

func (m *stagedWriter[T]) Write(items []T) {
	for _, item := range items {
		m.rows = append(m.rows, m.sink.row(item))
	}
}

// Upload sends a part when there are enough rows for it. What the part holds does not matter here: the rows stay in m.
func (m *stagedWriter[T]) Upload(ctx context.Context) error {
	for len(m.rows)-m.parts*part >= part {
		if err := m.sink.call(ctx, m.tenure.Partition, "upload", 0, func() error { return nil }); err != nil {
			return err
		}
		m.parts++
	}
	return nil
}

func (m *stagedWriter[T]) Buffered() int64 { return int64(100 * (len(m.rows) - m.parts*part)) }
func (m *stagedWriter[T]) Full() bool      { return len(m.rows) >= full }

// Discard aborts the uploads that no receipt tells of.
func (m *stagedWriter[T]) Discard(ctx context.Context) {
	if len(m.open) == 0 {
		return
	}
	_ = m.sink.call(ctx, m.tenure.Partition, "discard", 0, func() error {
		for _, upload := range m.open {
			delete(m.sink.p.world.sinks[m.sink.name].staged, upload)
		}
		return nil
	})
}

// Stage makes up to three files, so that a commit has several.
func (m *stagedWriter[T]) Stage(ctx context.Context, p stream.Provenance) ([]stream.Receipt, error) {
	if len(m.rows) == 0 {
		return nil, nil
	}
	count := min(filesPerCommit, 1+len(m.rows)/8)
	for i := len(m.receipts); i < count; i++ {
		rows := slices.Clone(m.rows[i*len(m.rows)/count : (i+1)*len(m.rows)/count])
		r, upload, err := m.stageFile(ctx, p, i, count, rows)
		if err != nil {
			return nil, err
		}
		m.receipts, m.open = append(m.receipts, r), append(m.open, upload)
	}
	rs := m.receipts
	m.receipts, m.open, m.rows, m.parts = nil, nil, nil, 0
	return rs, nil
}

func (m *stagedWriter[T]) stageFile(ctx context.Context, p stream.Provenance, i, count int, rows []row) (r stream.Receipt, upload string, err error) {
	w := m.sink.p.world
	p.File, p.Files, p.FileRows = i+1, count, int64(len(rows))
	var receipt stream.Receipt
	var id string
	err = m.sink.call(ctx, p.Partition, "stage", 0, func() error {
		st := w.sinks[m.sink.name]
		w.count.Staged++
		id = fmt.Sprintf("upload-%d", w.count.Staged)
		p.Key = fmt.Sprintf("%s/%s-%s-%s", m.sink.name, p.Partition, p.To, id)
		st.staged[id] = file{p, rows, m.sink.p.number}
		if w.breakage.earlyPublish {
			w.show(st, p.Key, st.staged[id])
		}
		t := ticket{Key: p.Key, Upload: id, Shard: p.Partition, Lane: 1 + slices.Index(w.order, m.sink.name)*filesPerCommit + i}
		if mix(w.schedule.Seed^p.To.Offset())%5 == 0 {
			t.Padding = strings.Repeat("x", stream.NoteLimit) // must go to the overflow
		}
		body, err := json.Marshal(t)
		receipt = stream.Receipt{Sink: m.sink.name, Digest: p.Digest(), Body: body}
		return err
	})
	if err != nil {
		return stream.Receipt{}, "", err
	}
	return receipt, id, nil
}

// Inspect reads the visible files.
func (st *store) Inspect(_ context.Context, _ string, visit func(stream.File) error, rows func(*stream.File, stream.Position, uint32) error) error {
	for _, key := range slices.Sorted(maps.Keys(st.visible)) {
		f := stream.File{Key: key, Provenance: st.visible[key].prov}
		if key != f.Provenance.Key {
			f.Err = fmt.Errorf("copied from %s", f.Provenance.Key)
		}
		for _, r := range st.visible[key].rows {
			late := st.name == stream.DeadLetters && r.index > 0 && r.pos.Compare(f.Provenance.After) <= 0 // of a write that was set aside
			if rows != nil && f.Err == nil && !late {
				f.Err = rows(&f, r.pos, r.index)
			}
		}
		if err := visit(f); err != nil {
			return err
		}
	}
	return nil
}

// expire removes what is staged and old.
func (w *world) expire(of func(process int) bool) {
	for _, st := range w.sinks {
		maps.DeleteFunc(st.staged, func(_ string, f file) bool { return of(f.by) })
	}
	for _, b := range w.buckets {
		maps.DeleteFunc(b.staged, func(_ string, o *object) bool { return of(o.by) })
	}
	w.count.Expired++
}

// upsert is a sink whose rows are keyed by their identity.
type upsert struct {
	p      *process
	name   string
	joined bool
}

func (s upsert) Open(ctx context.Context, t stream.Tenure) (stream.UpsertWriter, error) {
	sh := s.p.world.find(t.Partition)
	call := Call{Shard: sh.number, Name: s.name + ".open"}
	var shown *stream.Position
	if err := s.p.call(ctx, call, func() error { shown = sh.shown; return nil }); err != nil {
		return nil, err
	}
	return &upsertWriter{sink: s, shard: sh.number, epoch: t.Epoch, shown: shown}, nil
}

type upsertWriter struct {
	sink    upsert
	shard   int
	epoch   uint64
	shown   *stream.Position // when the tenure began
	waiting []pendingRow
}

// pendingRow is a row that is not acknowledged, with what a dead letter of it would say.
type pendingRow struct {
	row
	record *stream.Record
}

func (m *upsertWriter) Write(events []*stream.Event) {
	for _, e := range events {
		r := *e.Record
		m.waiting = append(m.waiting, pendingRow{m.sink.p.world.eventRow(e), &r})
	}
}
func (m *upsertWriter) Buffered() int64 { return int64(100 * len(m.waiting)) }
func (m *upsertWriter) Close()          {}

// rowsPerCall of an upsert sink. A call may store a part of them before it fails.
const rowsPerCall = 10

func (m *upsertWriter) Flush(ctx context.Context) ([]*stream.DeadLetter, error) {
	var dead []*stream.DeadLetter
	w := m.sink.p.world
	for len(m.waiting) > 0 {
		some := slices.Clone(m.waiting[:min(rowsPerCall, len(m.waiting))])
		err := m.sink.p.call(ctx, Call{Shard: m.shard, Name: m.sink.name + ".flush"}, func() error {
			sh := w.shards[m.shard]
			if m.sink.joined && sh.epoch != m.epoch {
				return stream.ErrLost // somebody has taken over the producer
			}
			for _, r := range some {
				switch {
				case w.breakage.skipFlush || w.refuses(m.sink.name, r.rowID):
				case m.sink.joined && m.shown != nil && r.pos.Compare(*m.shown) <= 0: // a commit was taken back
				case m.sink.joined:
					sh.add(m.sink.name, r.row)
				default:
					w.upsert(m.sink.name, r.row)
				}
			}
			return nil
		})
		if err != nil {
			return dead, err
		}
		for _, r := range some {
			if w.refuses(m.sink.name, r.rowID) {
				dead = append(dead, &stream.DeadLetter{Record: r.record, Stage: "sink." + m.sink.name, Err: refusal})
			}
		}
		m.waiting = m.waiting[len(some):]
	}
	return dead, nil
}

// transaction is what a tenure has written to one sink, in order, since its last commit; and all that it ever has: a request that comes
// again changes nothing, however late.
type transaction struct {
	rows []row
	ever map[rowID]bool
}

func (s *shard) add(sink string, r row) {
	t := s.transactions[sink]
	if t == nil {
		t = &transaction{ever: map[rowID]bool{}}
		s.transactions[sink] = t
	}
	if !t.ever[r.rowID] {
		t.ever[r.rowID] = true
		t.rows = append(t.rows, r)
	}
}

// showJoined ends the transaction of a commit up to pos: all that is in it is visible.
func (w *world) showJoined(sh *shard, pos stream.Position) {
	for _, sink := range w.order {
		t := sh.transactions[sink]
		if t == nil {
			continue
		}
		for _, r := range t.rows {
			if r.pos.Compare(pos) > 0 {
				w.violate(Uncommitted, sink, sh.name, r.pos, "it is visible with the commit up to %s", pos)
			}
			if _, again := w.sinks[sink].upserts[r.rowID]; again {
				w.checkRow(w.sinks[sink], sh, r, true, "a transaction")
			}
			w.upsert(sink, r)
		}
		t.rows = nil
	}
}

// refusal is what an upsert sink says to a row that it will never take.
const refusal = "the simulated sink does not take this row"

// refuses says that a sink refuses a row for good: one in twenty, and often all of a record's.
func (w *world) refuses(sink string, id rowID) bool {
	if id.index > 0 && mix(w.schedule.Seed^id.pos.Offset())%2 == 0 {
		id.index = 0
	}
	return mix(w.schedule.Seed^hashText(sink)^id.pos.Offset()<<8^uint64(id.index))%20 == 0
}

// overflow keeps receipts that do not fit into a note.
type overflow struct{ p *process }

// call finds the shard by the position in the object's name: <partition>-<position>-<random>.json.
func (o overflow) call(ctx context.Context, name, what string, fn effect) error {
	pos, err := stream.ParsePosition(strings.Split(name, "-")[1])
	if err != nil {
		return stream.Fatal(err)
	}
	w := o.p.world
	w.mu.Lock()
	n := w.records[pos.Offset()].shard.number
	w.mu.Unlock()
	return o.p.call(ctx, Call{Shard: n, Name: "overflow." + what}, fn)
}

func (o overflow) Put(ctx context.Context, name string, data []byte) error {
	return o.call(ctx, name, "put", func() error {
		w := o.p.world
		if old, there := w.objects[name]; there && !bytes.Equal(old, data) {
			w.violate(Wrong, "", "", stream.Position{}, "the overflow object %s is written over, and a checkpoint may name it", name)
		}
		w.objects[name] = data
		return nil
	})
}

func (o overflow) Get(ctx context.Context, name string) ([]byte, error) {
	var data []byte
	err := o.call(ctx, name, "get", func() error {
		var ok bool
		if data, ok = o.p.world.objects[name]; !ok {
			return errors.New("no such object")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

func (o overflow) Delete(ctx context.Context, name string) error {
	return o.call(ctx, name, "delete", func() error { delete(o.p.world.objects, name); return nil })
}
