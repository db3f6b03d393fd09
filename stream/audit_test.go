package stream

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// audited is a world in which one process did all the work.
func audited(t *testing.T) *world {
	t.Helper()
	w := newWorld(11, 2, 200, 0)
	w.settle(t, nil)
	return w
}

func (w *world) audit(t *testing.T, deep bool) *Report {
	t.Helper()
	report, err := Audit(t.Context(), "test", (&memSource{p: &process{world: w}}).Checkpoints, w.inspectors(), deep)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// pick is the key of one sink's file of log-0: the first, a middle one or the last by position.
func (w *world) pick(sink, which string) string {
	var keys []string
	for key, f := range w.visible {
		if strings.HasPrefix(key, sink+"/log-0") && f.prov.FileRows > 1 {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b string) int { return w.visible[a].prov.To.Compare(w.visible[b].prov.To) })
	switch which {
	case "first":
		return keys[0]
	case "middle":
		return keys[len(keys)/2]
	}
	return keys[len(keys)-1]
}

func TestAuditFindsWhatWasDoneToTheFiles(t *testing.T) {
	for name, c := range map[string]struct {
		deep bool
		harm func(*world)
		kind ProblemKind
	}{
		"first file deleted":       {false, func(w *world) { delete(w.visible, w.pick("lake", "first")) }, Missing},
		"middle file deleted":      {false, func(w *world) { delete(w.visible, w.pick("lake", "middle")) }, Missing},
		"last file deleted":        {false, func(w *world) { delete(w.visible, w.pick("lake", "last")) }, Missing},
		"dead-letter file deleted": {false, func(w *world) { delete(w.visible, w.pick(DeadLetters, "middle")) }, Missing},
		"whole commit deleted": {false, func(w *world) {
			to := w.visible[w.pick("lake", "middle")].prov.To
			for key, f := range w.visible {
				if f.prov.To == to && f.prov.Partition == "log-0" {
					delete(w.visible, key)
				}
			}
		}, Missing},
		"last commit deleted": {false, func(w *world) {
			to := w.visible[w.pick("lake", "last")].prov.To
			for key, f := range w.visible {
				if f.prov.To == to && f.prov.Partition == "log-0" {
					delete(w.visible, key)
				}
			}
		}, Missing},
		"partition deleted": {false, func(w *world) {
			for key, f := range w.visible {
				if f.prov.Partition == "log-0" {
					delete(w.visible, key)
				}
			}
		}, Missing},
		"file copied": {false, func(w *world) { w.visible["lake/copy"] = w.visible[w.pick("lake", "middle")] }, Damaged},
		"file copied and its key edited": {false, func(w *world) {
			f := w.visible[w.pick("lake", "middle")]
			f.prov.Key = "lake/copy"
			w.visible["lake/copy"] = f
		}, Duplicate},
		"range edited": {false, func(w *world) {
			key := w.pick("lake", "middle")
			f := w.visible[key]
			f.prov.To = OffsetPosition(f.prov.To.Offset() - 1)
			w.visible[key] = f
		}, Missing},
		"count edited": {false, func(w *world) {
			key := w.pick("lake", "last")
			f := w.visible[key]
			f.prov.Read++
			f.prov.Kept++
			w.visible[key] = f
		}, Damaged},
		"row twice in one commit": {true, func(w *world) {
			key := w.pick("lake", "middle")
			f := w.visible[key]
			f.rows[1] = f.rows[0]
			w.visible[key] = f
		}, Duplicate},
		"row of elsewhere": {true, func(w *world) {
			key := w.pick("lake", "middle")
			f := w.visible[key]
			f.rows[0].pos = OffsetPosition(100000)
			w.visible[key] = f
		}, Damaged},
		"published without a commit": {false, func(w *world) {
			w.leases[0].commit = nil
		}, Uncommitted},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := audited(t)
				if r := w.audit(t, true); len(r.Problems) > 0 {
					t.Fatal("not clean before:", r.Problems)
				}
				c.harm(w)
				r := w.audit(t, c.deep)
				found := slices.ContainsFunc(r.Problems, func(p Problem) bool { return p.Kind == c.kind })
				if !found || r.Err() == nil {
					t.Errorf("found %v; want a problem of kind %s", r.Problems, c.kind)
				}
				for _, p := range r.Problems {
					if strings.Contains(p.String(), "log-1") {
						t.Errorf("blames the other partition: %s", p)
					}
				}
			})
		})
	}
}

func TestAuditBesideARunningPipelineIsClean(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(11, 3, 3000, 0)
		r := w.start(t, nil)
		for range 200 {
			w.mu.Lock()
			w.faults = 4 // calls are repeated, so that a commit takes some time
			w.mu.Unlock()
			if report := w.audit(t, true); len(report.Problems) > 0 && !onlyUnpublished(report) {
				t.Fatal(report.Problems)
			}
			time.Sleep(37 * time.Millisecond)
		}
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		if report := w.audit(t, true); len(report.Problems) > 0 {
			t.Error(report.Problems)
		}
	})
}

// onlyUnpublished says that nothing is wrong but commits whose publishing is being repeated at this moment.
func onlyUnpublished(r *Report) bool {
	return !slices.ContainsFunc(r.Problems, func(p Problem) bool { return !strings.Contains(p.Text, "it is the last commit") })
}

// listed is an Inspector of a list.
type listed []File

func (l listed) Inspect(_ context.Context, _ string, visit func(File) error, _ func(*File, Position, uint32) error) error {
	for _, f := range l {
		if err := visit(f); err != nil {
			return err
		}
	}
	return nil
}

// TestAuditFollowsCommitsWithoutRecords: an idle partition commits the dead letters of what was set aside, more than once at one position.
func TestAuditFollowsCommitsWithoutRecords(t *testing.T) {
	var files listed
	var chain Digest
	commit := func(epoch uint64, after, to Position, first bool) {
		p := Provenance{
			Pipeline: "test", Sink: DeadLetters, Partition: "log-0", Epoch: epoch, First: first, After: after, To: to,
			Rows: map[string]int64{DeadLetters: 1}, Prev: chain, Key: fmt.Sprint(len(files)), File: 1, Files: 1, FileRows: 1,
		}
		if after != to {
			p.Read, p.Dead = 1, 1
		}
		files = append(files, File{Key: p.Key, Provenance: p})
		chain = ChainDigest(chain, []Digest{p.Digest()})
	}
	at := OffsetPosition(7)
	commit(1, OffsetPosition(6), at, true)
	for i := range 12 {
		commit(1+uint64(i)/6, at, at, false)
	}
	n := note{After: at, Chain: chain}
	checkpoints := func(context.Context) (map[string]Checkpoint, error) {
		return map[string]Checkpoint{"log-0": {Pos: at, Note: n.encode()}}, nil
	}
	audit := func(files listed) []Problem {
		report, err := Audit(t.Context(), "test", checkpoints, map[string]Inspector{DeadLetters: files}, false)
		if err != nil {
			t.Fatal(err)
		}
		return report.Problems
	}
	if problems := audit(files); len(problems) > 0 {
		t.Error(problems)
	}
	for i := range files {
		if problems := audit(slices.Concat(files[:i], files[i+1:])); len(problems) == 0 {
			t.Errorf("file %d was removed, and nothing is found", i)
		}
	}
}
