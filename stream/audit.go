package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
)

// Audit proves, or disproves, that the published files hold every committed record once. It owns nothing and may run beside the pipeline.
//
// The proof: every file carries its commit's range and counts, and the digest of all commits before (Provenance.Prev).
// The files of one commit and their predecessors' digest give the next digest, down to the one in the checkpoint. A file
// that is missing, copied, edited or from elsewhere breaks that chain at a range that is named.
//
// checkpoints is Source.Checkpoints; inspectors are the staged sinks by name, with the dead letters under DeadLetters.
// With deep, every row's position is read: in its commit's range, ascending in its file, once in its commit.
// The error is about what could not be read at all; what is wrong with the data is in the report.
func Audit(ctx context.Context, pipeline string, checkpoints func(context.Context) (map[string]Checkpoint, error),
	inspectors map[string]Inspector, deep bool,
) (*Report, error) {
	// What is committed before the files are listed must be there; nothing may be there that is not committed afterwards.
	before, err := checkpoints(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the checkpoints: %w", err)
	}
	a := auditor{report: &Report{Pipeline: pipeline, Deep: deep}, commits: map[commitID]*auditedCommit{}, seed: maphash.MakeSeed()}
	for _, name := range slices.Sorted(maps.Keys(inspectors)) {
		if err := a.inspect(ctx, name, inspectors[name], deep); err != nil {
			return nil, fmt.Errorf("read the files of %s: %w", name, err)
		}
	}
	after, err := checkpoints(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the checkpoints: %w", err)
	}
	return a.report, a.judge(before, after, inspectors)
}

// Report is the outcome of an Audit. It is clean when Problems is empty.
type Report struct {
	Pipeline   string            `json:"pipeline"`
	Deep       bool              `json:"deep"`
	Partitions []PartitionReport `json:"partitions"`
	Sinks      []SinkReport      `json:"sinks,omitempty"` // of the upsert sinks, where somebody compared them with the lake
	Problems   []Problem         `json:"problems"`
}

// PartitionReport counts what the files of one partition say.
type PartitionReport struct {
	Partition string           `json:"partition"`
	Committed Position         `json:"committed"`
	Commits   int              `json:"commits"` // that published files
	Files     int              `json:"files"`
	Rows      map[string]int64 `json:"rows"` // by sink
	Read      int64            `json:"read"` // records; Read = Kept + Dropped + Dead
	Kept      int64            `json:"kept"`
	Dropped   int64            `json:"dropped"`
	Dead      int64            `json:"dead"`
}

// ProblemKind classifies a Problem.
type ProblemKind string

const (
	Missing     ProblemKind = "missing"     // committed records that no file holds
	Duplicate   ProblemKind = "duplicate"   // records that are there twice
	Damaged     ProblemKind = "damaged"     // a file that cannot be read, was edited, or contradicts itself
	Uncommitted ProblemKind = "uncommitted" // records that no checkpoint covers
)

// Problem is one thing that is wrong, with the range it concerns where that is known.
type Problem struct {
	Kind      ProblemKind `json:"kind"`
	Sink      string      `json:"sink,omitempty"`
	Partition string      `json:"partition,omitempty"`
	Key       string      `json:"key,omitempty"`   // of the file
	After     *Position   `json:"after,omitempty"` // exclusive
	To        *Position   `json:"to,omitempty"`    // inclusive
	Text      string      `json:"text"`
}

func (p Problem) String() string {
	where := make([]string, 0, 4)
	for _, s := range []string{p.Sink, p.Partition, p.Key} {
		if s != "" {
			where = append(where, s)
		}
	}
	if p.After != nil && p.To != nil {
		where = append(where, fmt.Sprintf("records after %s to %s", p.After, p.To))
	}
	return fmt.Sprintf("%s: %s: %s", p.Kind, strings.Join(where, ", "), p.Text)
}

type commitID struct {
	partition string
	after, to Position
	epoch     uint64
	prev      Digest
}

type auditedCommit struct {
	Provenance // of its first file, for what all have in common
	files      []File
	rows       map[string][]uint64 // hashes of (position, index) by sink
}

type auditor struct {
	report  *Report
	commits map[commitID]*auditedCommit
	seed    maphash.Seed
}

func (a *auditor) problem(p Problem) { a.report.Problems = append(a.report.Problems, p) }

// inspect collects one sink's files by commit.
func (a *auditor) inspect(ctx context.Context, sink string, in Inspector, deep bool) error {
	visit := func(f File) error {
		if f.Err == nil && f.Provenance.Sink != sink {
			f.Err = fmt.Errorf("its provenance is of the sink %q", f.Provenance.Sink)
		}
		if f.Err != nil {
			a.problem(Problem{Kind: Damaged, Sink: sink, Partition: f.Provenance.Partition, Key: f.Key, Text: f.Err.Error()})
			return nil
		}
		c := a.commit(f.Provenance)
		c.files = append(c.files, f)
		return nil
	}
	var rows func(*File, Position, uint32) error
	if deep {
		rows = func(f *File, pos Position, index uint32) error {
			p := f.Provenance
			if pos.Compare(p.After) <= 0 && !(p.First && pos == Position{}) || pos.Compare(p.To) > 0 {
				return fmt.Errorf("row at position %s is outside of the file's range %s to %s", pos, p.After, p.To)
			}
			c := a.commit(p)
			c.rows[sink] = append(c.rows[sink], maphash.Comparable(a.seed, rowID{pos, index}))
			return nil
		}
	}
	return in.Inspect(ctx, a.report.Pipeline, visit, rows)
}

type rowID struct {
	pos   Position
	index uint32
}

func (a *auditor) commit(p Provenance) *auditedCommit {
	id := commitID{p.Partition, p.After, p.To, p.Epoch, p.Prev}
	c := a.commits[id]
	if c == nil {
		c = &auditedCommit{Provenance: p, rows: map[string][]uint64{}}
		a.commits[id] = c
	}
	return c
}

// judge walks every partition's commits in order.
func (a *auditor) judge(before, after map[string]Checkpoint, inspectors map[string]Inspector) error {
	partitions := map[string][]*auditedCommit{}
	for name := range before {
		partitions[name] = nil
	}
	for _, c := range a.commits {
		partitions[c.Partition] = append(partitions[c.Partition], c)
	}
	for _, name := range slices.Sorted(maps.Keys(partitions)) {
		commits := partitions[name]
		slices.SortFunc(commits, func(x, y *auditedCommit) int {
			return cmp.Or(x.To.Compare(y.To), x.After.Compare(y.After), cmp.Compare(x.Epoch, y.Epoch), slices.Compare(x.Prev[:], y.Prev[:]))
		})
		follow(commits)
		w := walk{auditor: a, partition: name, first: true, inspectors: inspectors}
		var err error
		if w.old, err = committedNote(before, name); err == nil {
			w.new, err = committedNote(after, name)
		}
		if err != nil {
			return fmt.Errorf("partition %s: %w", name, err)
		}
		w.all(commits, after[name])
	}
	return nil
}

// follow puts commits in order whose range and epoch are the same, by what each says of those before it. Commits without any record
// are such: they have the dead letters of what was set aside.
func follow(commits []*auditedCommit) {
	same := func(x, y *auditedCommit) bool { return x.After == y.After && x.To == y.To && x.Epoch == y.Epoch }
	for i := 1; i < len(commits)-1; i++ {
		if !same(commits[i], commits[i+1]) {
			continue
		}
		chain := commits[i-1].chain()
		for j := i; j < len(commits) && same(commits[i], commits[j]); j++ {
			if commits[j].Prev == chain {
				commits[i], commits[j] = commits[j], commits[i]
				break
			}
		}
	}
}

// chain is the digest of all commits up to and with c.
func (c *auditedCommit) chain() Digest {
	digests := make([]Digest, len(c.files))
	for i, f := range c.files {
		digests[i] = f.Provenance.Digest()
	}
	return ChainDigest(c.Prev, digests)
}

// committedNote is the note of one partition's checkpoint, nil when there is none.
func committedNote(checkpoints map[string]Checkpoint, partition string) (*note, error) {
	c, ok := checkpoints[partition]
	if !ok || len(c.Note) == 0 {
		return nil, nil
	}
	return decodeNote(c.Note)
}

// walk is the proof for one partition.
type walk struct {
	*auditor
	partition  string
	inspectors map[string]Inspector
	old, new   *note // the checkpoint's before and after the files were listed; nil for none

	first bool     // no commit was seen yet
	to    Position // end of the last commit
	chain Digest   // after the last commit
	bad   bool     // the chain is broken already; digests say nothing any more
	out   PartitionReport
}

func (w *walk) problem(kind ProblemKind, after, to Position, format string, args ...any) {
	w.auditor.problem(Problem{Kind: kind, Partition: w.partition, After: &after, To: &to, Text: fmt.Sprintf(format, args...)})
}

func (w *walk) all(commits []*auditedCommit, checkpoint Checkpoint) {
	w.out = PartitionReport{Partition: w.partition, Committed: checkpoint.Pos, Rows: map[string]int64{}}
	for _, c := range commits {
		w.one(c)
	}
	w.end()
	if n := w.new; n != nil {
		w.out.Read += n.Read
		w.out.Kept += n.Kept
		w.out.Dropped += n.Dropped
		w.out.Dead += n.Dead
	}
	w.report.Partitions = append(w.report.Partitions, w.out)
}

func (w *walk) one(c *auditedCommit) {
	settled := w.old != nil && !w.old.First && c.To.Compare(w.old.After) <= 0
	if w.new == nil || w.new.First || c.To.Compare(w.new.After) > 0 {
		w.problem(Uncommitted, c.After, c.To, "%d files are visible, such as %s, but no checkpoint covers them", len(c.files), c.files[0].Key)
		return
	}
	w.link(c)
	if complete := w.complete(c); settled || complete {
		w.rows(c)
	}
	for _, f := range c.files {
		w.out.Rows[f.Provenance.Sink] += f.Provenance.FileRows
	}
	if c.Read != c.Kept+c.Dropped+c.Dead {
		w.problem(Damaged, c.After, c.To, "%d records read are not %d kept + %d dropped + %d dead", c.Read, c.Kept, c.Dropped, c.Dead)
	}
	w.first, w.to, w.chain = false, c.To, c.chain()
	w.out.Commits++
	w.out.Files += len(c.files)
	w.out.Read += c.Read
	w.out.Kept += c.Kept
	w.out.Dropped += c.Dropped
	w.out.Dead += c.Dead
}

// link checks that c follows what came before it.
func (w *walk) link(c *auditedCommit) {
	switch {
	case w.first && c.First:
		if c.Prev != (Digest{}) {
			w.problem(Damaged, c.After, c.To, "the first commit names one before it")
		}
	case w.first:
		w.problem(Missing, Position{}, c.After, "no file holds them")
	case c.First, c.After.Compare(w.to) < 0:
		w.problem(Duplicate, c.After, minPosition(c.To, w.to), "%s repeats records of an earlier commit", c.files[0].Key)
	case c.After.Compare(w.to) > 0:
		w.problem(Missing, w.to, c.After, "no file holds them")
	case c.Prev != w.chain && !w.bad:
		w.problem(Damaged, c.After, c.To, "the commits before it are not those that it was made after: one of their files was edited, removed or added")
	}
	w.bad = false
}

// complete checks that all files of c are there, once.
func (w *walk) complete(c *auditedCommit) bool {
	var missing []string
	twice := false
	for _, sink := range slices.Sorted(maps.Keys(c.Rows)) {
		if w.inspectors[sink] == nil {
			continue // no longer in the pipeline file
		}
		seen, rows, files := map[int]string{}, int64(0), 1
		for _, f := range c.files {
			p := f.Provenance
			if p.Sink != sink {
				continue
			}
			if other := seen[p.File]; other != "" {
				w.problem(Duplicate, c.After, c.To, "%s is there again as %s", other, f.Key)
				twice = true
				continue
			}
			seen[p.File], files = f.Key, p.Files
			rows += p.FileRows
		}
		if len(seen) < files || rows != c.Rows[sink] {
			missing = append(missing, fmt.Sprintf("%s has %d of %d rows in %d of %d files", sink, rows, c.Rows[sink], len(seen), files))
		}
	}
	if missing != nil && w.inFlight(c) {
		return false
	}
	if missing != nil {
		w.problem(Missing, c.After, c.To, "%s%s", strings.Join(missing, ", "), w.hint(c.To))
	}
	w.bad = missing != nil || twice
	return !w.bad
}

// inFlight says that c was being published while the files were listed.
func (w *walk) inFlight(c *auditedCommit) bool {
	return w.old == nil || w.old.First || c.To.Compare(w.old.After) > 0 || c.To == w.old.After && w.new.After != w.old.After
}

// hint tells of the commit that a start of the pipeline finishes.
func (w *walk) hint(to Position) string {
	if w.new != nil && w.new.After == to && (len(w.new.Receipts) > 0 || w.new.Overflow != "") {
		return "; it is the last commit: the next start of the pipeline publishes it, or reads its records again"
	}
	return ""
}

// rows checks that no row of c is there twice.
func (w *walk) rows(c *auditedCommit) {
	for sink, hashes := range c.rows {
		slices.Sort(hashes)
		if n := len(hashes) - len(slices.Compact(hashes)); n > 0 {
			w.problem(Duplicate, c.After, c.To, "%s holds %d rows twice", sink, n)
		}
	}
	c.rows = nil
}

// end compares the last file with the checkpoint.
func (w *walk) end() {
	switch n := w.old; {
	case n == nil || n.First: // nothing with files is committed
	case w.first:
		w.problem(Missing, Position{}, n.After, "no file holds them%s", w.hint(n.After))
	case w.to.Compare(n.After) < 0:
		if w.new.After == n.After {
			w.problem(Missing, w.to, n.After, "no file holds them%s", w.hint(n.After))
		}
	case w.to == n.After && w.chain != n.Chain && !w.bad && w.new.After == n.After:
		w.problem(Damaged, w.to, n.After, "the files are not those that were committed: one was edited, removed or added")
	}
}

func minPosition(p, q Position) Position {
	if p.Compare(q) < 0 {
		return p
	}
	return q
}

// ErrNotClean says that an Audit found problems.
var ErrNotClean = errors.New("not clean")

// Err is nil for a clean report, else wraps ErrNotClean with the number of problems.
func (r *Report) Err() error {
	if len(r.Problems) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d problems", ErrNotClean, len(r.Problems))
}
