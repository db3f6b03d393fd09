package sim

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// record is one record of the log and what has to become of it.
type record struct {
	shard *shard
	key   string
	fate  fate
	rows  map[string][]row   // by sink: those that it has to have, in order
	prev  map[string]*record // by sink: the record before it of the same key that has rows there
	pos   stream.Position

	written time.Time // to the log
}

type fate int

const (
	kept fate = iota
	dropped
	dead
)

// oracle says what a record becomes, by the pipeline's decoder and processors alone. There is one for each shard, so that a
// processor's state is that of a partition read from its start without any fault.
type oracle struct {
	world      *world
	decoder    stream.Decoder
	processors []stream.Processor
	batch      *stream.Batch
}

func newOracle(w *world, shard string) *oracle {
	o := &oracle{world: w, decoder: w.pipeline.Decoder(), batch: stream.NewBatch(w.pipeline.Schema)}
	for _, step := range w.pipeline.Processors {
		p := step.New()
		if s, ok := p.(stream.State); ok {
			_ = s.Restore(context.Background(), stream.Tenure{Pipeline: w.pipeline.Name, Partition: shard, Schema: w.pipeline.Schema}, nil)
		}
		o.processors = append(o.processors, p)
	}
	return o
}

// expect fills in what rec has to become.
func (o *oracle) expect(r *stream.Record, rec *record) {
	w := o.world
	rec.pos, rec.rows, rec.prev = r.Pos, map[string][]row{}, map[string]*record{}
	o.batch.Reset()
	if err := o.decode(r); err != nil {
		o.batch.Reset()
		o.batch.Append(r).Fail("decode", err)
	}
	for _, p := range o.processors {
		_ = p.Process(context.Background(), o.batch) // means of its own are never out of order here
	}
	rec.fate = dropped
	for i := range o.batch.Events {
		e := &o.batch.Events[i]
		if stage, err := e.Failure(); err != nil {
			rec.fate = dead
			o.deadOnce(rec, &stream.DeadLetter{Record: r, Stage: stage, Err: err.Error()})
		} else if e.Alive() && rec.fate == dropped {
			rec.fate = kept
		}
	}
	if rec.fate == kept {
		o.route(r, rec)
	}
	for sink := range rec.rows {
		st := w.sinks[sink]
		rec.prev[sink], st.last[rec.key] = st.last[rec.key], rec
	}
}

// decode makes an error of a panic, as the engine does.
func (o *oracle) decode(r *stream.Record) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the decoder failed on this record: %v", p)
		}
	}()
	return o.decoder.Decode(r, o.batch)
}

// route gives the events of a record to the sinks that want them.
func (o *oracle) route(r *stream.Record, rec *record) {
	w := o.world
	for _, s := range w.pipeline.Sinks {
		for i := range o.batch.Events {
			e := &o.batch.Events[i]
			if !e.Alive() || s.Where != nil && !s.Where(e) {
				continue
			}
			row := w.eventRow(e)
			if s.Upsert && w.refuses(s.Name, row.rowID) {
				o.deadOnce(rec, &stream.DeadLetter{Record: r, Stage: "sink." + s.Name, Err: refusal})
			} else {
				rec.rows[s.Name] = append(rec.rows[s.Name], row)
			}
		}
	}
}

// deadOnce wants a dead letter of a record, unless it has that already: one for its first failure, or one for each sink that
// refuses it.
func (o *oracle) deadOnce(rec *record, d *stream.DeadLetter) {
	r := o.world.deadRow(d)
	if all := rec.rows[stream.DeadLetters]; !slices.ContainsFunc(all, func(other row) bool { return other.rowID == r.rowID }) {
		rec.rows[stream.DeadLetters] = append(all, r)
	}
}

// key is the one by which a record without any is kept in order: its user, or whoever it can be told by.
func (o *oracle) key(r *stream.Record) string {
	o.batch.Reset()
	if err := o.decode(r); err != nil || len(o.batch.Events) == 0 {
		return "?"
	}
	for _, column := range []int{stream.User, stream.Anonymous, stream.Session, stream.IP} {
		if v := o.batch.Events[0].Values[column]; v.Kind() == stream.String {
			return strings.Clone(v.Text())
		}
	}
	return "?"
}

// eventRow sums all that a sink could write of an event.
func (w *world) eventRow(e *stream.Event) row {
	text := make([]byte, 0, 512)
	for i, v := range e.Values {
		text = append(v.AppendText(append(text, byte(v.Kind()), 0), w.pipeline.Schema.Columns[i].Type), 0)
	}
	return row{rowID{e.Record.Pos, e.Index}, sum(append(text, e.Properties...))}
}

// deadRow sums a dead letter. Its index is 0, or says which sink has refused the record.
func (w *world) deadRow(d *stream.DeadLetter) row {
	text := slices.Concat([]byte(d.Stage), []byte{0}, []byte(d.Err), []byte{0}, d.Record.Value)
	index := uint32(0)
	if sink, ok := strings.CutPrefix(d.Stage, "sink."); ok {
		index = w.refusalIndex(sink)
	}
	return row{rowID{d.Record.Pos, index}, sum(text)}
}

func (w *world) refusalIndex(sink string) uint32 { return uint32(1 + slices.Index(w.order, sink)) }

// sum is the same in every process: what is set aside holds it, and its size is in the trace.
func sum(text []byte) uint64 {
	h := uint64(len(text))
	for ; len(text) >= 8; text = text[8:] {
		h = mix(h ^ binary.LittleEndian.Uint64(text))
	}
	for _, c := range text {
		h = mix(h ^ uint64(c))
	}
	return h
}

// show makes a file visible, and checks the promise as far as it can be told at this moment: the file is committed, each of its rows
// is wanted, there for the first time and in order, and nothing of an earlier record of its key is still to come.
func (w *world) show(st *store, key string, f file) {
	st.visible[key] = f
	sh := w.byName(f.prov.Partition)
	if !sh.commits[commitID{f.prov.Epoch, f.prov.To}] {
		w.violate(Uncommitted, st.name, sh.name, f.prov.To, "%s is visible, and no commit of its owner (epoch %d) covers it", key, f.prov.Epoch)
	}
	for i, r := range f.rows {
		st.rows[r.rowID]++
		w.checkRow(st, sh, r, st.rows[r.rowID] > 1, key)
		if st.name == stream.DeadLetters {
			continue // an upsert sink refuses a record after later ones have failed to decode
		}
		if i > 0 && r.before(f.rows[i-1]) {
			w.violate(Order, st.name, sh.name, r.pos, "%s has its rows out of order", key)
		}
		p := w.records[r.pos.Offset()].prev[st.name]
		if p == nil || w.shown(st, p) || p.shard == sh && (f.prov.First || p.pos.Compare(f.prov.After) > 0) {
			continue // the files of one commit are published in any order
		}
		w.violate(Order, st.name, sh.name, r.pos, "it is visible in %s before record %s of %s, which is earlier and has the same key %q", key, p.pos, p.shard.name, p.key)
	}
}

// hide takes a file back.
func (w *world) hide(st *store, key string) {
	for _, r := range st.visible[key].rows {
		st.rows[r.rowID]--
	}
	delete(st.visible, key)
}

// shown says that all of a record's rows are in a sink.
func (w *world) shown(st *store, r *record) bool {
	for _, want := range r.rows[st.name] {
		if _, ok := st.upserts[want.rowID]; !ok && st.rows[want.rowID] == 0 {
			return false
		}
	}
	return true
}

// checkRow holds one row against what has to become of its record.
func (w *world) checkRow(st *store, sh *shard, r row, again bool, where string) {
	rec := w.records[r.pos.Offset()]
	switch wants := rec.rows[st.name]; {
	case rec.shard != sh:
		w.violate(Wrong, st.name, sh.name, r.pos, "%s has a row of %s", where, rec.shard.name)
	case again && len(wants) > 0:
		w.violate(Twice, st.name, sh.name, r.pos, "it is there twice; the second time in %s", where)
	case !slices.ContainsFunc(wants, func(want row) bool { return want.rowID == r.rowID }):
		w.violate(Wrong, st.name, sh.name, r.pos, "%s has a row of it, index %d, that it should not have", where, r.index)
	case !slices.Contains(wants, r):
		w.violate(Wrong, st.name, sh.name, r.pos, "its row in %s is not what the record says", where)
	}
}

// upsert stores a row. The first time that it is there, no earlier record of its key may be missing. What is set aside of a shard
// that has ended may come after its children's rows: across partitions the sink's own rule keeps the order.
func (w *world) upsert(sink string, r row) {
	st := w.sinks[sink]
	rec := w.records[r.pos.Offset()]
	w.checkRow(st, rec.shard, r, false, sink)
	if _, there := st.upserts[r.rowID]; !there {
		if p := rec.prev[sink]; p != nil && !w.shown(st, p) && (w.buckets[sink] == nil || p.shard == rec.shard) {
			w.violate(Order, sink, rec.shard.name, r.pos, "it is written before record %s of %s, which is earlier and has the same key %q", p.pos, p.shard.name, p.key)
		}
	}
	st.upserts[r.rowID] = r.sum
}

// checkCommit is the rule that no sink is behind a commit, and that a note fits everywhere.
func (w *world) checkCommit(sh *shard, c stream.Checkpoint) {
	if len(c.Note) > stream.NoteLimit {
		w.violate(Unverified, "", sh.name, c.Pos, "the note has %d bytes", len(c.Note))
	}
	receipts := ""
	for ; sh.verified < len(sh.log) && sh.log[sh.verified].Pos.Compare(c.Pos) <= 0; sh.verified++ {
		rec := w.records[sh.log[sh.verified].Pos.Offset()]
		for _, s := range w.pipeline.Sinks {
			if !s.Upsert || w.shown(w.sinks[s.Name], rec) {
				continue
			}
			if receipts == "" {
				receipts = w.receipts(c.Note)
			}
			if !w.shownOrAside(s.Name, rec, receipts) {
				w.violate(Behind, s.Name, sh.name, rec.pos, "it is committed (up to %s) before the sink has it, and it is not set aside", c.Pos)
			}
		}
	}
}

// shownOrAside says that each of a record's rows is in a sink, or in its spool.
func (w *world) shownOrAside(sink string, rec *record, receipts string) bool {
	b := w.buckets[sink]
	return b != nil && !slices.ContainsFunc(rec.rows[sink], func(want row) bool {
		_, there := w.sinks[sink].upserts[want.rowID]
		return !there && !b.setAside(want.rowID, receipts)
	})
}

// receipts is the text of a note, with that of the object that holds its receipts if they are not in it.
func (w *world) receipts(note []byte) string {
	var fields struct{ Overflow string }
	_ = json.Unmarshal(note, &fields) // it is the engine's
	return string(note) + string(w.objects[fields.Overflow])
}

// checkMissing looks for every row that has to be there.
func (w *world) checkMissing() {
	staying := w.staying()
	for _, rec := range w.records {
		for _, sink := range slices.Sorted(maps.Keys(rec.rows)) {
			st := w.sinks[sink]
			for _, want := range rec.rows[sink] {
				if _, upserted := st.upserts[want.rowID]; !upserted && st.rows[want.rowID] == 0 && (sink != stream.DeadLetters || !staying[want.rowID]) {
					w.violate(Missing, sink, rec.shard.name, rec.pos, "it is missing")
				}
			}
		}
	}
}

// checkReport holds what verify says against what the oracle knows.
func (w *world) checkReport(r *stream.Report) {
	for _, p := range r.Problems {
		var pos stream.Position
		if p.To != nil {
			pos = *p.To
		}
		w.violate(Unverified, p.Sink, p.Partition, pos, "verify: %s", p)
	}
	for _, p := range r.Partitions {
		var want [3]int64
		sh := w.byName(p.Partition)
		for _, r := range sh.log {
			want[w.records[r.Pos.Offset()].fate]++
		}
		if got := [3]int64{p.Kept, p.Dropped, p.Dead}; got != want || p.Read != int64(len(sh.log)) {
			w.violate(Unverified, "", sh.name, p.Committed, "%d records read are %d kept, %d dropped, %d dead by the files; want %d: %d, %d, %d",
				p.Read, got[0], got[1], got[2], len(sh.log), want[0], want[1], want[2])
		}
	}
}

// withoutReceipts is a note as an engine would write it that forgets what it has staged.
func withoutReceipts(note []byte) []byte {
	var fields map[string]json.RawMessage
	if json.Unmarshal(note, &fields) != nil {
		return note
	}
	delete(fields, "receipts")
	delete(fields, "overflow")
	text, err := json.Marshal(fields)
	if err != nil {
		return note
	}
	return text
}

func hashText(s string) uint64 {
	h := uint64(14695981039346656037) // FNV-1a: the same in every process
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return mix(h)
}

func compareViolations(a, b Violation) int {
	return cmp.Or(cmp.Compare(a.Shard, b.Shard), bytes.Compare(a.Position[:], b.Position[:]), cmp.Compare(a.Sink, b.Sink))
}
