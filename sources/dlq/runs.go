package dlq

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-io/millrace/sinks/deadletter"
	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
)

// Archive is the dead letters of one pipeline and the account of their replays. It is safe for concurrent use.
type Archive struct {
	store    objects.Store
	pipeline string
}

// New returns the archive of a pipeline in the store of its dead letters. It touches nothing yet.
func New(store objects.Store, pipeline string) *Archive { return &Archive{store, pipeline} }

// Run is one replay.
type Run struct {
	Number   int       `json:"run"` // from 1
	Pipeline string    `json:"pipeline"`
	Created  time.Time `json:"created"`
	Filter   string    `json:"filter,omitempty"` // as the operator wrote it
	Letters  int64     `json:"letters"`
	Files    []Lines   `json:"files"`   // in the order of their keys
	Creator  string    `json:"creator"` // random: two processes may have the same idea

	Done bool `json:"-"` // every letter was read and what came of it committed

	archive *Archive
}

// Lines are letters of one file.
type Lines struct {
	Key    string     `json:"key"`
	Ranges [][2]int64 `json:"lines"` // first and last, from 0, ascending
}

func (l *Lines) add(line int64) {
	if n := len(l.Ranges); n > 0 && l.Ranges[n-1][1] == line-1 {
		l.Ranges[n-1][1] = line
		return
	}
	l.Ranges = append(l.Ranges, [2]int64{line, line})
}

// Has says that a letter is on the run's list.
func (r *Run) Has(at deadletter.Ref) bool {
	i, ok := slices.BinarySearchFunc(r.Files, at.Key, func(l Lines, key string) int { return strings.Compare(l.Key, key) })
	if !ok {
		return false
	}
	ranges := r.Files[i].Ranges
	j, exact := slices.BinarySearchFunc(ranges, at.Line, func(r [2]int64, line int64) int { return int(min(1, max(-1, r[0]-line))) })
	return exact || j > 0 && at.Line <= ranges[j-1][1]
}

// Taken says in which run a letter is; nil: in none.
func Taken(runs []*Run, at deadletter.Ref) *Run {
	for _, r := range runs {
		if r.Has(at) {
			return r
		}
	}
	return nil
}

// Open says that a letter can be replayed and was not. runs are all of them.
func Open(runs []*Run, l *deadletter.Letter) bool {
	return l.Stage != Unreadable && Taken(runs, l.At) == nil
}

const (
	listSuffix = ".json"
	doneSuffix = ".done"
)

func (a *Archive) folder() string { return path.Join(a.pipeline, "_millrace", "dlq") + "/" }

func (a *Archive) base(run int) string { return fmt.Sprintf("%s%06d", a.folder(), run) }

// Runs are all runs, in the order of their numbers.
func (a *Archive) Runs(ctx context.Context) ([]*Run, error) {
	var runs []*Run
	done := map[int]bool{}
	for o, err := range a.store.List(ctx, a.folder()) {
		if err != nil {
			return nil, fmt.Errorf("list the replays: %w", err)
		}
		name := strings.TrimPrefix(o.Key, a.folder())
		if number, ok := runNumber(name, doneSuffix); ok {
			done[number] = true
		}
		number, ok := runNumber(name, listSuffix)
		if !ok {
			continue
		}
		r := &Run{archive: a}
		if err := a.read(ctx, o.Key, r); err != nil {
			return nil, err
		}
		if r.Number != number || r.Pipeline != a.pipeline {
			return nil, fmt.Errorf("%s: is of run %d of %s", o.Key, r.Number, r.Pipeline)
		}
		runs = append(runs, r)
	}
	for _, r := range runs {
		r.Done = done[r.Number]
	}
	slices.SortFunc(runs, func(x, y *Run) int { return x.Number - y.Number })
	return runs, nil
}

func runNumber(name, suffix string) (int, bool) {
	digits, ok := strings.CutSuffix(name, suffix)
	n, err := strconv.Atoi(digits)
	return n, ok && err == nil
}

// read reads one of our objects.
func (a *Archive) read(ctx context.Context, key string, v any) error {
	text, err := a.store.Get(ctx, key)
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// Letters yields the pipeline's dead letters as deadletter.Read does: a damaged file is an error, after which it goes on.
func (a *Archive) Letters(ctx context.Context) iter.Seq2[*deadletter.Letter, error] {
	return a.lettersOf(ctx, "")
}

func (a *Archive) lettersOf(ctx context.Context, prefix string) iter.Seq2[*deadletter.Letter, error] {
	return func(yield func(*deadletter.Letter, error) bool) {
		for l, err := range deadletter.Read(ctx, a.store, prefix) {
			if err == nil && l.Pipeline != a.pipeline {
				continue
			}
			if !yield(l, err) {
				return
			}
		}
	}
}

// Begin makes a run of the letters that no run has, that can be replayed, and that take takes; nil when there are none. filter
// is what take is known as. A damaged file is told to damaged and left out.
func (a *Archive) Begin(ctx context.Context, filter string, take func(*deadletter.Letter) bool, damaged func(error)) (*Run, error) {
	for {
		runs, err := a.Runs(ctx)
		if err != nil {
			return nil, err
		}
		r := &Run{Number: 1, Pipeline: a.pipeline, Created: time.Now().UTC().Truncate(time.Second), Filter: filter, Creator: rand.Text(), archive: a}
		if n := len(runs); n > 0 {
			r.Number = runs[n-1].Number + 1
		}
		if err := r.fill(ctx, runs, take, damaged); err != nil || r.Letters == 0 {
			return nil, err
		}
		created, err := create(ctx, a.store, a.base(r.Number)+listSuffix, r)
		if err != nil || created {
			return r, err
		}
		damaged = func(error) {} // told already
	}
}

func (r *Run) fill(ctx context.Context, runs []*Run, take func(*deadletter.Letter) bool, damaged func(error)) error {
	for l, err := range r.archive.Letters(ctx) {
		if errors.Is(err, deadletter.ErrDamaged) {
			damaged(err)
			continue
		}
		if err != nil {
			return err
		}
		if !Open(runs, l) || !take(l) {
			continue
		}
		if n := len(r.Files); n == 0 || r.Files[n-1].Key != l.At.Key {
			r.Files = append(r.Files, Lines{Key: l.At.Key})
		}
		r.Files[len(r.Files)-1].add(l.At.Line)
		r.Letters++
	}
	return nil
}

// Finish records that there is nothing left to do.
func (r *Run) Finish(ctx context.Context) error {
	if err := r.archive.store.Put(ctx, r.archive.base(r.Number)+doneSuffix, []byte("{}\n")); err != nil {
		return fmt.Errorf("record the end of run %d: %w", r.Number, err)
	}
	r.Done = true
	return nil
}

// create makes an object where there is none; false: another one is there. It may be called again with the same value when
// an answer was lost: a value tells its creator from others.
func create(ctx context.Context, store objects.Store, key string, v any) (bool, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return false, err
	}
	u := store.Begin(key)
	u.Write(append(text, '\n'))
	ticket, err := u.Seal(ctx, nil)
	if err == nil {
		err = store.Publish(ctx, ticket)
	}
	if err == nil {
		return true, nil
	}
	u.Discard(context.WithoutCancel(ctx))
	there, getErr := store.Get(ctx, key)
	var fatal *stream.FatalError
	switch {
	case getErr == nil && bytes.Equal(there, append(text, '\n')):
		return true, nil
	case getErr == nil && errors.As(err, &fatal):
		return false, nil
	}
	return false, fmt.Errorf("create %s: %w", key, err)
}
