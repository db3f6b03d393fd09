package parquet

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/millrace-io/millrace/stream"
)

// writer writes for one tenure. Between two commits it has one open file for each folder.
type writer struct {
	sink   *Sink
	layout *layout
	tenure stream.Tenure
	random string // of this tenure, in all its keys: a zombie never meets another's file

	files   map[string]*file // by appendID
	numbers int              // files that were opened so far
	held    int64            // memory of files
	full    bool
	staging []*file // the files, once Stage was called: their numbers are fixed
	err     error   // of Write, which cannot tell

	// Scratch of Write.
	id, lastID []byte
	last       *file // of lastID
	owners     []*file
	touched    []*file
	grouped    []*stream.Event
}

func newWriter(s *Sink, l *layout, t stream.Tenure) *writer {
	return &writer{sink: s, layout: l, tenure: t, random: strings.ToLower(rand.Text())[:16], files: map[string]*file{}}
}

// Write shreds events into the columns of their files, compresses the pages that are full, and hands full row groups to the
// uploads.
func (w *writer) Write(events []*stream.Event) {
	if len(events) == 0 {
		return
	}
	w.group(events)
	w.sink.encoding(func(e *encoder) {
		for _, f := range w.touched {
			f.add(e, f.batch)
			f.batch = nil
			w.account(e, f)
		}
	})
	clear(w.grouped)
	w.touched, w.owners = w.touched[:0], w.owners[:0]
}

// group sets the batch of every file that gets some of the events, in order.
func (w *writer) group(events []*stream.Event) {
	for _, ev := range events {
		f := w.owner(ev)
		if f.events == 0 {
			w.touched = append(w.touched, f)
		}
		f.events++
		w.owners = append(w.owners, f)
	}
	if len(w.touched) == 1 {
		w.last.batch, w.last.events = events, 0
		return
	}
	w.grouped = slices.Grow(w.grouped[:0], len(events))[:len(events)]
	rest := w.grouped
	for _, f := range w.touched {
		f.batch, rest = rest[:0:f.events], rest[f.events:]
		f.events = 0
	}
	for i, f := range w.owners {
		f.batch = append(f.batch, events[i])
	}
}

// owner is the file that ev belongs to, opened if need be.
func (w *writer) owner(ev *stream.Event) *file {
	w.id = appendID(w.id[:0], w.layout.folders, ev)
	if w.last != nil && bytes.Equal(w.id, w.lastID) {
		return w.last
	}
	f := w.files[string(w.id)]
	if f == nil {
		w.numbers++
		key := fmt.Sprintf("%s%s-%s-%d-%d-%s%s", path(w.layout.folders, ev), plainName(w.tenure.Partition), ev.Record.Pos, w.tenure.Epoch,
			w.numbers, w.random, suffix)
		f = newFile(w.layout, w.sink.Store.Begin(key), key, w.tenure.Partition)
		w.files[string(w.id)] = f
	}
	w.last, w.lastID = f, append(w.lastID[:0], w.id...)
	return f
}

// plainName is a partition's name as it may stand in any file's name. Other partitions may get the same: the rest of the
// key tells them apart.
func plainName(partition string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '-'
	}, partition)
	return "p" + name[max(0, len(name)-80):] // the end of a path says more; and no name begins with a dot
}

// account ends the row group of f if it is full, and keeps the books.
func (w *writer) account(e *encoder, f *file) {
	held, group, size := f.measure()
	if group >= w.sink.cfg.RowGroup {
		w.err = cmp.Or(w.err, stream.Fatal(f.endGroup(e, w.tenure.Partition)))
		held, _, size = f.measure()
	}
	w.held += held - f.held
	f.held = held
	w.full = w.full || size >= w.sink.cfg.Roll.Size
}

// Upload sends what the uploads have in full parts.
func (w *writer) Upload(ctx context.Context) error {
	if w.err != nil {
		return w.err
	}
	for _, f := range w.files {
		if f.groups == 0 {
			continue
		}
		err := f.upload.Send(ctx)
		held, _, _ := f.measure()
		w.held += held - f.held
		f.held = held
		if err != nil {
			return fmt.Errorf("send %s: %w", f.key, err)
		}
	}
	return nil
}

func (w *writer) Buffered() int64 { return w.held }

func (w *writer) Full() bool { return w.full }

// sealers at once: a commit of many hours has many files.
const sealers = 8

// Stage ends all files and seals them.
func (w *writer) Stage(ctx context.Context, p stream.Provenance) ([]stream.Receipt, error) {
	if w.err != nil || len(w.files) == 0 {
		return nil, w.err
	}
	if w.staging == nil {
		for _, f := range w.files {
			w.staging = append(w.staging, f)
		}
		slices.SortFunc(w.staging, func(a, b *file) int { return strings.Compare(a.key, b.key) })
	}
	if err := w.seal(ctx, p); err != nil {
		return nil, err
	}
	receipts := make([]stream.Receipt, len(w.staging))
	for i, f := range w.staging {
		var err error
		if receipts[i], err = f.receipt(); err != nil {
			return nil, stream.Fatal(err)
		}
	}
	w.files, w.staging, w.last, w.held, w.full = map[string]*file{}, nil, nil, 0, false
	return receipts, nil
}

// seal ends and seals the files that are not sealed yet, a few at a time. One that fails does not stop the others: where
// one request in five fails, few files are left for the next attempt.
func (w *writer) seal(ctx context.Context, p stream.Provenance) error {
	failed := make(chan error, len(w.staging))
	var wg sync.WaitGroup
	defer wg.Wait()
	limit := make(chan struct{}, sealers)
	for i, f := range w.staging {
		if f.sealed != nil {
			continue
		}
		limit <- struct{}{}
		p.File, p.Files = i+1, len(w.staging)
		var err error
		w.sink.encoding(func(e *encoder) { err = f.finish(e, p) })
		if err != nil {
			return stream.Fatal(err)
		}
		wg.Go(func() {
			defer func() { <-limit }()
			if err := f.seal(ctx); err != nil {
				failed <- err
			}
		})
	}
	wg.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// Discard removes what was not staged completely.
func (w *writer) Discard(ctx context.Context) {
	var wg sync.WaitGroup
	limit := make(chan struct{}, sealers)
	for _, f := range w.files {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			f.upload.Discard(ctx)
		})
	}
	wg.Wait()
	w.files, w.staging, w.last, w.held = nil, nil, nil, 0
}
