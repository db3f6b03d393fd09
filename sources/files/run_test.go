package files

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-io/millrace/stream"
)

func TestFilesAreTakenInTheOrderOfTheirNames(t *testing.T) {
	w := newWorld(t, Config{Concurrency: 1, Paths: []string{"in/**/*.log"}})
	var want []string
	for _, day := range []string{"2010/12/01", "2010/12/02", "2011/01/01"} {
		if err := os.MkdirAll(w.path("in/"+day), 0o777); err != nil {
			t.Fatal(err)
		}
		w.write("in/"+day+"/a.log", day+"\n")
		w.write("in/"+day+"/a.txt", "not this\n")
		want = append(want, w.partition("in/"+day+"/a.log"))
	}
	var got []string
	err := w.source().Run(t.Context(), func(a stream.Assignment) (stream.Consumer, error) {
		got = append(got, a.Partition())
		return w.assign(a)
	})
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, order %v; want %v", err, got, want)
	}
}

func TestNewFilesAreFound(t *testing.T) {
	w := newWorld(t, Config{Follow: true})
	w.start()
	w.write("in/a", "a\n")
	w.delivered("in/a", 1)
	if err := os.Mkdir(w.path("in/sub"), 0o777); err != nil {
		t.Fatal(err)
	}
	w.write("in/sub/b", "b\n")
	w.delivered("in/sub/b", 1)
	w.append("in/a", "c")
	w.append("in/sub/b", "d\n")
	w.delivered("in/sub/b", 2)
	w.append("in/a", "c\n")
	w.delivered("in/a", 2)
	w.write("in/.hidden", "x\n")
	w.write("in/_temporary", "x\n")
	w.write("in/c", "c\n")
	w.delivered("in/c", 1)
	w.only("in/a", "in/sub/b", "in/c")
}

func TestFollowedFilesShareFewPlaces(t *testing.T) {
	w := newWorld(t, Config{Follow: true, Concurrency: 2})
	var names []string
	for i := range 7 {
		names = append(names, fmt.Sprintf("in/%d", i))
		w.write(names[i], "first\n")
	}
	stop := w.start()
	for _, name := range names {
		w.delivered(name, 1)
	}
	for i := len(names) - 1; i >= 0; i-- {
		w.append(names[i], "second\n")
	}
	for _, name := range names {
		w.delivered(name, 2)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		w.holds(name, "first", "second")
	}
}

func TestTwoSourcesShareTheFiles(t *testing.T) {
	w := newWorld(t, Config{Concurrency: 1})
	w.every = 10
	for i := range 10 {
		w.write(fmt.Sprintf("in/%d", i), joined(numbered(0, 100)))
	}
	second := make(chan error, 1)
	go func() { second <- w.run(t.Context()) }()
	w.finish()
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		w.holds(fmt.Sprintf("in/%d", i), numbered(0, 100)...)
	}
}

func TestNoFileIsAnError(t *testing.T) {
	w := newWorld(t, Config{Paths: []string{"in/*.log"}})
	w.fails("paths name no file", "in/*.log")
	w = newWorld(t, Config{Paths: []string{"in/a"}})
	if err := w.fails("in/a"); !errors.Is(err, errNoFile) {
		t.Errorf("%v is not errNoFile", err)
	}
	w = newWorld(t, Config{Paths: []string{"in/pipe"}})
	if err := syscall.Mkfifo(w.path("in/pipe"), 0o666); err != nil {
		t.Fatal(err)
	}
	w.fails("in/pipe", "not a regular file")
}

func TestCheckpointFolderThatCannotBeWrittenIsNamed(t *testing.T) {
	w := newWorld(t, Config{})
	w.write("in/a", "a\n")
	w.write("checkpoints", "a file")
	err := w.fails(w.cfg.Checkpoints, "set checkpoints")
	if fatal := (*stream.FatalError)(nil); !errors.As(err, &fatal) {
		t.Errorf("%v is not fatal", err)
	}
}

func TestDamagedCheckpointIsNamed(t *testing.T) {
	w := newWorld(t, Config{})
	w.write("in/a", "a\n")
	w.finish()
	path := w.source().folder.path(w.partition("in/a"), ".json")
	if err := os.WriteFile(path, []byte("{"), 0o666); err != nil {
		t.Fatal(err)
	}
	w.fails(path, "damaged")
}

func TestRemovedCheckpointsEndTheTenure(t *testing.T) {
	for what, remove := range map[string]func(w *world){
		"folder": func(w *world) { w.rename("checkpoints", "elsewhere") }, // in one step, as no removal is
		"lock":   func(w *world) { os.Remove(w.source().folder.path(w.partition("in/a"), ".lock")) },
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t, Config{Follow: true})
			w.write("in/a", "a\n")
			a, ended := w.startOne()
			w.delivered("in/a", 1)
			remove(w)
			select {
			case <-a.Done():
			case <-time.After(10 * time.Second):
				t.Fatal("Done is not closed")
			}
			if err := a.Commit(t.Context(), stream.Checkpoint{}); !errors.Is(err, stream.ErrLost) {
				t.Errorf("Commit: %v", err)
			}
			if err := <-ended; !errors.Is(err, stream.ErrLost) || !strings.Contains(err.Error(), w.cfg.Checkpoints) {
				t.Errorf("Run: %v", err)
			}
		})
	}
}

func TestLockHasOneHolder(t *testing.T) {
	f := folder{t.TempDir()}
	var holders, turns atomic.Int64
	var wg sync.WaitGroup
	deadline := time.Now().Add(3 * time.Second) // those who try hold each other up
	for range 4 {
		wg.Go(func() {
			for turns.Load() < 1000 && time.Now().Before(deadline) {
				l, err := f.lock("p")
				if errors.Is(err, errHeld) {
					runtime.Gosched()
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if holders.Add(1) != 1 {
					t.Error("two hold the lock")
				}
				for range turns.Add(1) % 40 { // the others try meanwhile
					runtime.Gosched()
				}
				holders.Add(-1)
				l.release()
			}
		})
	}
	wg.Wait()
	if turns.Load() < 10 {
		t.Errorf("the lock changed hands %d times only", turns.Load())
	}
}

// startOne runs a source until its first assignment.
func (w *world) startOne() (stream.Assignment, chan error) {
	assigned, ended := make(chan stream.Assignment, 1), make(chan error, 1)
	go func() {
		ended <- w.source().Run(w.Context(), func(a stream.Assignment) (stream.Consumer, error) {
			c, err := w.assign(a)
			assigned <- a
			return c, err
		})
	}()
	select {
	case a := <-assigned:
		return a, ended
	case <-time.After(10 * time.Second):
		w.Fatal("nothing is assigned")
		return nil, nil
	}
}

func TestOvertakenCheckpointEndsTheTenure(t *testing.T) {
	w := newWorld(t, Config{Follow: true})
	w.write("in/a", "a\n")
	a, ended := w.startOne()
	s := w.source()
	saved, err := s.folder.load(a.Partition())
	if err != nil {
		t.Fatal(err)
	}
	saved.Epoch++
	if err := s.folder.store(saved); err != nil {
		t.Fatal(err)
	}
	if err := a.Commit(t.Context(), stream.Checkpoint{}); !errors.Is(err, stream.ErrLost) {
		t.Fatalf("Commit: %v", err)
	}
	if err := <-ended; !errors.Is(err, stream.ErrLost) {
		t.Errorf("Run: %v", err)
	}
}

func TestCommitThatCannotBeStoredIsRepeated(t *testing.T) {
	f := folder{t.TempDir()}
	lock, err := f.lock("p")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.release()
	old := saved{Partition: "p", Epoch: 1}
	if err := f.store(&old); err != nil {
		t.Fatal(err)
	}
	a := &tenure{cfg: config(nil), folder: f, lock: lock, saved: old, done: make(chan struct{})}
	obstacle := f.path("p", ".json.new")
	if err := os.Mkdir(obstacle, 0o777); err != nil {
		t.Fatal(err)
	}
	c := stream.Checkpoint{Pos: stream.OffsetPosition(7), Note: []byte("n")}
	var fatal *stream.FatalError
	if err := a.Commit(t.Context(), c); err == nil || errors.Is(err, stream.ErrLost) || errors.As(err, &fatal) {
		t.Errorf("Commit: %v; want an error that is retried", err)
	}
	os.Remove(obstacle)
	if err := a.Commit(t.Context(), c); err != nil {
		t.Error(err)
	}
	if got, err := f.load("p"); err != nil || got.Position != c.Pos {
		t.Errorf("stored %v, %v", got, err)
	}
}

func TestFolderOfAnotherPipelineIsNoted(t *testing.T) {
	w := newWorld(t, Config{})
	w.write("in/a", "a\n")
	w.finish()
	w.finish()
	if w.log.count("used for other paths") != 0 {
		t.Error("the same pipeline is taken for another one")
	}
	w.cfg.Paths = []string{w.path("in/a")}
	w.finish()
	if w.log.count("used for other paths") != 1 {
		t.Error("other paths are not noted")
	}
}

func TestPatterns(t *testing.T) {
	for _, test := range []struct {
		pattern, name string
		want          bool
	}{
		{"a/*.log", "a/x.log", true},
		{"a/*.log", "a/b/x.log", false},
		{"a/**/*.log", "a/x.log", true},
		{"a/**/*.log", "a/b/c/x.log", true},
		{"a/**", "a/b/c", true},
		{"**", "a", true},
		{"**/b/**/c", "a/b/c", true},
		{"**/b/**/c", "b/x/y/c", true},
		{"**/b/**/c", "b/x/y/d", false},
		{"a/*", "a/.x", false},
		{"a/.*", "a/.x", true},
		{"a/**", "a/_x/y", false},
		{"a/_*/y", "a/_x/y", true},
		{"a/[0-9]?", "a/1x", true},
		{"a/b", "a/b", true},
		{"a/b", "a", false},
	} {
		if got := match(segments(test.pattern), segments(test.name)); got != test.want {
			t.Errorf("%s matches %s: %v", test.pattern, test.name, got)
		}
		for i := range test.name {
			if dir := test.name[:i]; test.want && i > 0 && test.name[i] == '/' && !couldMatch(segments(test.pattern), segments(dir)) {
				t.Errorf("%s: %s is not looked into", test.pattern, dir)
			}
		}
	}
}

func TestConfigListsEveryProblem(t *testing.T) {
	c := Config{
		Paths: []string{"", "a/[", "s3://b*/x", "http://x"}, Poll: -1, Checkpoints: "s3://x", Concurrency: -1, Header: "yes",
		Multiline: "json", Delimiter: "\n", MaxRecord: -1, OnChange: "never",
	}
	err := c.Validate()
	for _, key := range []string{
		"paths[0] ", "paths[1] ", "paths[2] ", "paths[3] ", "poll ", "checkpoints ", "concurrency ", "header ", "multiline ",
		"delimiter ", "max_record ", "on_change ",
	} {
		if !slices.ContainsFunc(strings.Split(err.Error(), "\n"), func(line string) bool { return strings.HasPrefix(line, key) }) {
			t.Errorf("%q is not about %s", err, key)
		}
	}
	if err := new(Config).Validate(); err == nil || !strings.HasPrefix(err.Error(), "paths is empty") {
		t.Errorf("%v", err)
	}
}

// TestLinesArriveOnceWhateverHappens is the promise: random content, formats, crashes and growth.
func TestLinesArriveOnceWhateverHappens(t *testing.T) {
	random := newRandom(t)
	for round := range 15 {
		w := newWorld(t, Config{Concurrency: 1 + random.IntN(3)})
		w.every = 1 + random.IntN(300)
		want := map[string][]string{}
		for f := range 3 {
			name := fmt.Sprintf("in/%d", f)
			for range 1 + random.IntN(1000) {
				want[name] = append(want[name], strings.Repeat(string(rune('a'+random.IntN(26))), 1+random.IntN(1<<random.IntN(12))))
			}
			content := joined(want[name])
			switch random.IntN(4) {
			case 0:
				content = gzipOf(t, content)
			case 1:
				content = zstdOf(t, content)
			case 2:
				content = content[:len(content)-1]
			}
			w.write(name, content)
		}
		budget := 0
		w.crash = func(string, int) bool { budget--; return budget == 0 }
		for range 1 + random.IntN(6) {
			budget = 1 + random.IntN(1500)
			w.runFor()
		}
		budget = -1
		w.finish()
		for name := range want {
			w.holds(name, want[name]...)
		}
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
}

// childOf is the environment variable that makes the test binary a pipeline on that folder.
const childOf = "MILLRACE_FILES_TEST_CHILD"

// TestKilledProcessesReadEverythingOnce kills pipelines that share a folder, at random moments, until all is read.
func TestKilledProcessesReadEverythingOnce(t *testing.T) {
	random := newRandom(t)
	dir := t.TempDir()
	for _, sub := range []string{"in", "staged", "published"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string][]string{}
	for f := range 4 {
		name := fmt.Sprintf("%d.log", f)
		want[name] = numbered(0, 4000+random.IntN(1000))
		content := joined(want[name])
		if f == 1 {
			content = gzipOf(t, content)
		}
		if err := os.WriteFile(filepath.Join(dir, "in", name), []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	start := func() (*exec.Cmd, chan error) {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), childOf+"="+dir)
		c.Stderr = os.Stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- c.Wait() }()
		return c, done
	}
	kills := 0
	for finished := false; !finished; {
		a, aDone := start()
		b, bDone := start()
		limit := time.Duration(20+random.IntN(150)) * time.Millisecond
		if kills > 40 {
			limit = 20 * time.Second
		}
		timer := time.NewTimer(limit)
		select {
		case err := <-aDone:
			if err != nil {
				t.Fatal(err)
			}
			finished = true
		case <-timer.C:
			a.Process.Kill()
			<-aDone
			kills++
		}
		b.Process.Kill()
		<-bDone
		kills++
	}
	t.Logf("%d kills", kills)
	if _, done := start(); (<-done) != nil { // publishes what the last one had committed
		t.Fatal("the last run failed")
	}
	got := map[string][]string{}
	entries, err := os.ReadDir(filepath.Join(dir, "published"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name, _, _ := strings.Cut(e.Name(), "@")
		content, err := os.ReadFile(filepath.Join(dir, "published", e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got[name] = append(got[name], strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")...)
	}
	for name := range want {
		if !slices.Equal(got[name], want[name]) {
			t.Errorf("%s: %d lines are published; want %d", name, len(got[name]), len(want[name]))
		}
	}
}

// child is a pipeline in a process of its own.
func child(dir string) error {
	s := New(Config{Paths: []string{filepath.Join(dir, "in")}, Checkpoints: filepath.Join(dir, "checkpoints"), Poll: 5 * time.Millisecond, Concurrency: 2}, "child", nil)
	checkpoints, err := s.Checkpoints(context.Background())
	if err != nil {
		return err
	}
	for _, c := range checkpoints { // an engine does that when it is assigned; here it is for the last run, which has nothing to read
		if err := publish(dir, string(c.Note)); err != nil {
			return err
		}
	}
	return s.Run(context.Background(), func(a stream.Assignment) (stream.Consumer, error) {
		c, ok := a.Committed()
		if ok {
			if err := publish(dir, string(c.Note)); err != nil {
				return nil, err
			}
		}
		return &stager{Assignment: a, dir: dir}, nil
	})
}

func publish(dir, id string) error {
	err := os.Rename(filepath.Join(dir, "staged", id), filepath.Join(dir, "published", id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// stager commits every 50 records.
type stager struct {
	stream.Assignment
	dir     string
	pending []stream.Record
}

func (s *stager) Start() (stream.Position, bool) {
	c, ok := s.Committed()
	return c.Pos, ok
}

func (s *stager) Deliver(ctx context.Context, rs []stream.Record) error {
	for _, r := range rs {
		if s.pending = append(s.pending, r); len(s.pending) == 50 {
			if err := s.commit(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *stager) commit(ctx context.Context) error {
	if len(s.pending) == 0 {
		return nil
	}
	id := fmt.Sprintf("%s@%s-%d", filepath.Base(s.Partition()), s.pending[0].Pos, s.Epoch())
	file, err := os.Create(filepath.Join(s.dir, "staged", id))
	if err != nil {
		return err
	}
	b := bufio.NewWriter(file)
	for _, r := range s.pending {
		b.Write(r.Value)
		b.WriteByte('\n')
	}
	if err := errors.Join(b.Flush(), file.Close()); err != nil {
		return err
	}
	if err := s.Commit(ctx, stream.Checkpoint{Pos: s.pending[len(s.pending)-1].Pos, Note: []byte(id)}); err != nil {
		return err
	}
	s.pending = nil
	return publish(s.dir, id)
}

func (s *stager) Drain(ctx context.Context, _ stream.Why) error { return s.commit(ctx) }
func (s *stager) Abort()                                        {}
