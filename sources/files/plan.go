package files

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// remotePolls is how many polls are between two listings of S3, which cost time and money.
const remotePolls = 10

// scan lists the files that the paths name, by name, each once.
func (r *run) scan(ctx context.Context) error {
	var all []file
	for _, p := range r.cfg.Paths {
		var files []file
		var err error
		if isRemote(p) {
			files, err = r.list(ctx, p)
		} else {
			files, err = find(ctx, p)
		}
		if errors.Is(err, errNoFile) && r.cfg.Follow {
			err = nil // it will come
		}
		if err != nil {
			return err
		}
		all = append(all, files...)
	}
	slices.SortFunc(all, func(a, b file) int { return strings.Compare(a.name, b.name) })
	all = slices.CompactFunc(all, func(a, b file) bool { return a.name == b.name })
	r.found = r.unlinked(all)
	if len(all) == 0 && !r.cfg.Follow {
		return stream.Fatal(fmt.Errorf("paths name no file: %s", strings.Join(r.cfg.Paths, ", ")))
	}
	return nil
}

// list is the last listing of an S3 location, or a new one when that is old.
func (r *run) list(ctx context.Context, location string) ([]file, error) {
	l := r.listings[location]
	if l.at.IsZero() || time.Since(l.at) >= remotePolls*r.cfg.Poll {
		files, err := r.buckets.find(ctx, location)
		if err != nil {
			return nil, err
		}
		l = listing{time.Now(), files}
		r.listings[location] = l
	}
	return l.files, nil
}

type listing struct {
	at    time.Time
	files []file
}

// unlinked leaves out the second name of a file that has two.
func (r *run) unlinked(all []file) []file {
	first := map[string]string{}
	return slices.DeleteFunc(all, func(f file) bool {
		if f.Identity == "" {
			return false
		}
		other, ok := first[f.Identity]
		if !ok {
			first[f.Identity] = f.name
		} else if !r.begun {
			r.log.Warn("file has two names and is read once", "file", f.name, "read_as", other)
		}
		return ok
	})
}

// refresh looks again at the files that a finite run has not finished.
func (r *run) refresh(ctx context.Context) error {
	for i, f := range r.found {
		if f.remote() || r.done[f.name] {
			continue
		}
		now, err := statPath(ctx, f.name)
		if err != nil {
			return fmt.Errorf("a file that was there at the start: %w", err)
		}
		r.found[i].info = now
	}
	return nil
}

// plan finds out what is to be read: due is in the order of names; idle is what was read to its end and may grow.
func (r *run) plan(ctx context.Context) (due, idle []task, err error) {
	if r.cfg.Follow || !r.begun {
		err = r.scan(ctx)
	} else {
		err = r.refresh(ctx)
	}
	if err != nil {
		return nil, nil, err
	}
	stored, err := r.folder.all(r.cache)
	if err != nil {
		return nil, nil, err
	}
	l := &lineage{run: r, stored: stored, at: map[string]string{}, newest: map[string]int{}, taken: map[string]bool{}}
	tasks, err := l.resolve(ctx)
	if err != nil {
		return nil, nil, err
	}
	r.begun = true
	for _, t := range tasks {
		s := stored[t.partition()]
		unchanged := s != nil && s.Seen.equal(t.info)
		switch {
		case r.live[t.partition()] != nil, unchanged && s.Ended, !r.cfg.Follow && r.done[t.name]:
		case unchanged && s.Complete && r.cfg.Follow:
			idle = append(idle, t)
		default:
			due = append(due, t)
		}
	}
	return due, idle, nil
}

// lineage finds out which partition's content each found file has. A file is known by its inode while it is renamed, else by
// its name, and where logs are rotated by what it holds.
type lineage struct {
	*run
	stored map[string]*saved // by partition
	newest map[string]int    // generation by file name; 0: the file was never read
	at     map[string]string // where the content of a partition is now
	taken  map[string]bool   // found files that have a partition, by name
	tasks  []task
}

func (l *lineage) resolve(ctx context.Context) ([]task, error) {
	byIdentity := map[string][]*saved{}
	for _, s := range l.stored {
		l.newest[s.Name] = max(l.newest[s.Name], s.Generation)
		if id := s.Seen.Identity; id != "" && !s.Replaced {
			byIdentity[id] = append(byIdentity[id], s)
		}
	}
	for partition, p := range l.live {
		l.at[partition] = p.name
	}
	steps := []func() error{
		func() error { return l.byInode(ctx, byIdentity) },
		func() error { return l.byContent(ctx) },
		func() error { return l.orphans(ctx) },
		func() error { l.byName(); return nil },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(l.tasks, func(a, b task) int {
		return cmp.Or(strings.Compare(a.origin, b.origin), cmp.Compare(a.generation, b.generation))
	})
	return l.tasks, nil
}

// assign says that the file has the partition's content.
func (l *lineage) assign(f file, s *saved) {
	if l.at[s.Partition] != f.name && f.name != s.Name {
		l.log.Debug("file was renamed", "file", f.name, "partition", s.Partition)
	}
	l.at[s.Partition] = f.name
	l.taken[f.name] = true
	l.tasks = append(l.tasks, task{f, s.Name, s.Generation})
}

// byInode assigns files that are still the ones that were read, under whatever name.
func (l *lineage) byInode(ctx context.Context, byIdentity map[string][]*saved) error {
	for _, f := range l.found {
		candidates := byIdentity[f.Identity]
		slices.SortFunc(candidates, func(a, b *saved) int { // its own name first, then the latest
			own := func(s *saved) int {
				if s.Name == f.name {
					return 0
				}
				return 1
			}
			return cmp.Or(cmp.Compare(own(a), own(b)), cmp.Compare(b.Generation, a.Generation), strings.Compare(a.Name, b.Name))
		})
		for _, s := range candidates {
			if l.live[s.Partition] != nil {
				l.taken[f.name] = true // whoever reads it sees what becomes of it
				break
			}
			if l.at[s.Partition] != "" || l.forced[s.Name] > s.Generation {
				continue
			}
			same, err := l.holds(ctx, f, s)
			if err != nil {
				return err
			}
			if same {
				l.assign(f, s)
				break
			}
		}
	}
	return nil
}

// Bounds of what is compared by content alone.
const (
	leastAlike = 1 << 10     // bytes: two files may well begin with the same header
	copying    = time.Minute // a copy that is not written to for so long is complete
)

// byContent assigns what a log rotation has copied or compressed: a new file beside the old one, with the old one's name and
// something appended, that holds what was read of it. As long as the old file is there too, it is a copy: it is not read.
func (l *lineage) byContent(ctx context.Context) error {
	if !l.cfg.Follow {
		return nil
	}
	for _, f := range l.found {
		if l.taken[f.name] || l.newest[f.name] > 0 || f.remote() {
			continue
		}
		for _, partition := range slices.Sorted(maps.Keys(l.stored)) {
			s := l.stored[partition]
			if s.Replaced || s.Mark.End < leastAlike || path.Dir(s.Name) != path.Dir(f.name) || !strings.HasPrefix(f.name, s.Name) {
				continue
			}
			same, err := l.holds(ctx, f, s)
			if err != nil {
				return err
			}
			if !same {
				if time.Since(f.Modified) > copying || l.at[s.Partition] == "" {
					continue
				}
				begins, err := l.begins(ctx, f, s)
				if err != nil {
					return err
				}
				if begins {
					l.taken[f.name] = true // it may be about to become one
				}
				continue
			}
			if l.at[s.Partition] == "" {
				l.assign(f, s)
			} else {
				l.taken[f.name] = true
				l.log.Debug("file is a copy of another one and is not read", "file", f.name, "partition", s.Partition)
			}
			break
		}
	}
	return nil
}

// orphans looks for the files of partitions that have not ended and are at no path of ours: renamed to where the paths do
// not reach. A file that is nowhere is a loss, which ends the run or is logged.
func (l *lineage) orphans(ctx context.Context) error {
	for _, partition := range slices.Sorted(maps.Keys(l.stored)) {
		s := l.stored[partition]
		read := s.Committed || s.Mark.End > 0
		if s.Ended || !read || l.at[partition] != "" || !l.cfg.matches(s.Path) || l.gone[partition] || l.done[s.Path] {
			continue
		}
		f, err := l.sibling(ctx, s)
		if err != nil {
			return err
		}
		if f != nil {
			l.assign(*f, s)
			continue
		}
		if l.here(s.Path) {
			continue // byName takes it
		}
		if s.Complete && !s.Partial {
			l.gone[partition] = true // all of it was read
			continue
		}
		if lock, err := l.folder.lock(partition); errors.Is(err, errHeld) {
			continue
		} else if err != nil {
			return err
		} else {
			lock.release()
		}
		if l.cfg.OnChange == Fail {
			return fmt.Errorf("%s is gone and was not read to its end: %w after byte %d; bring it back, name where it is now in paths, "+
				"or set on_change to restart to go on without", s.Path, stream.ErrRetention, s.Mark.End)
		}
		l.gone[partition] = true
		l.log.Warn("file is gone and was not read to its end", "file", s.Path, "partition", partition, "read", s.Mark.End)
	}
	return nil
}

func (l *lineage) here(name string) bool {
	_, ok := slices.BinarySearchFunc(l.found, name, func(f file, name string) int { return strings.Compare(f.name, name) })
	return ok
}

// sibling is the partition's file under another name in its folder; nil if it is not there.
func (l *lineage) sibling(ctx context.Context, s *saved) (*file, error) {
	files, err := siblings(ctx, s)
	for _, f := range files {
		if same, err := l.holds(ctx, f, s); same || err != nil {
			return &f, err
		}
	}
	return nil, err
}

// siblings are the files in the folder of the partition's file that have its identity.
func siblings(ctx context.Context, s *saved) (files []file, err error) {
	if s.Seen.Identity == "" || isRemote(s.Path) {
		return nil, nil
	}
	dir := filepath.Dir(filepath.FromSlash(s.Path))
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		f := file{name: filepath.ToSlash(filepath.Join(dir, e.Name()))}
		if f.info, err = statPath(ctx, f.name); err == nil && f.Identity == s.Seen.Identity {
			files = append(files, f)
		}
	}
	return files, nil
}

// byName assigns the rest: a file that has its name's newest generation, or the one after it.
func (l *lineage) byName() {
	for _, f := range l.found {
		if l.taken[f.name] {
			continue
		}
		generation := max(1, l.newest[f.name], l.forced[f.name])
		partition := partitionName(f.name, generation)
		s := l.stored[partition]
		switch {
		case l.live[partition] != nil, s != nil && l.at[partition] != "" && !s.Ended:
			continue // its content is elsewhere, and is read to its end first
		case s != nil && l.at[partition] != "":
			generation++
		}
		l.tasks = append(l.tasks, task{f, f.name, generation})
	}
}

// comparison is a file as it was seen and what it was compared with.
type comparison struct {
	name, partition string
	info
	mark
}

// holds says that a file holds what was read of a partition.
func (l *lineage) holds(ctx context.Context, f file, s *saved) (bool, error) {
	if f.info.equal(s.Seen) {
		return true, nil
	}
	if f.name == s.Name && f.Identity == s.Seen.Identity && f.Size >= s.Seen.Size {
		return true, nil // its owner looks closer
	}
	c := comparison{f.name, s.Partition, f.info, s.Mark}
	if same, ok := l.same[c]; ok {
		return same, nil
	}
	same, err := l.compare(ctx, f, s.Mark)
	if err == nil {
		l.same[c] = same
	}
	return same, err
}

func (l *lineage) compare(ctx context.Context, f file, m mark) (bool, error) {
	r, err := l.read(ctx, f)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer r.close()
	if !r.compressed() && f.Size < m.End {
		return false, nil
	}
	err = r.verify(ctx, m)
	if errors.Is(err, errChanged) {
		return false, nil
	}
	return err == nil, err
}

// begins says that a file begins as the one that a partition is read from, as far as it goes.
func (l *lineage) begins(ctx context.Context, f file, s *saved) (bool, error) {
	own, err := l.prefix(ctx, file{name: l.at[s.Partition]})
	if err != nil {
		return false, err
	}
	copied, err := l.prefix(ctx, f)
	return bytes.HasPrefix(own, copied), err
}

// prefix is a file's first bytes, at most leastAlike; none if it cannot be decompressed yet.
func (l *lineage) prefix(ctx context.Context, f file) ([]byte, error) {
	r, err := l.read(ctx, f)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer r.close()
	first := make([]byte, leastAlike)
	if err := r.seek(ctx, 0); err != nil {
		return nil, err
	}
	n, err := io.ReadFull(r.text, first)
	if err != nil && err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, errTorn) {
		return nil, err
	}
	return first[:n], nil
}

func (l *lineage) read(ctx context.Context, f file) (*reader, error) {
	file, err := l.open(ctx, f)
	if err != nil {
		return nil, err
	}
	r := &reader{file: file, cfg: &l.cfg}
	if err := r.detect(); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}
