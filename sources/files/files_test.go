package files

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sources/sourcetest"
	"github.com/millrace-io/millrace/testenv/s3"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childOf); dir != "" {
		if err := child(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var ignored []goleak.Option
	for _, name := range s3.Leftovers() {
		ignored = append(ignored, goleak.IgnoreAnyFunction(name))
	}
	goleak.VerifyTestMain(m, ignored...)
}

// folderLog is the log of the suite: one file per partition.
type folderLog struct {
	dir    string
	follow bool
}

func (l *folderLog) Partition(i int) string {
	return filepath.ToSlash(filepath.Join(l.dir, "logs", fmt.Sprintf("part-%d.jsonl", i)))
}

func (l *folderLog) Append(t *testing.T, i int, ms ...sourcetest.Message) {
	t.Helper()
	var b bytes.Buffer
	for _, m := range ms {
		b.Write(m.Value)
		b.WriteByte('\n')
	}
	appendTo(t, l.Partition(i), b.String())
}

func (l *folderLog) Trim(t *testing.T, _, _ int) { t.Fatal("a file is not trimmed") }

func (l *folderLog) Open(*testing.T) *sourcetest.Worker {
	s := New(Config{Paths: []string{filepath.Join(l.dir, "logs")}, Follow: l.follow, Checkpoints: filepath.Join(l.dir, "checkpoints"), Poll: 5 * time.Millisecond}, "test", nil)
	loose := make(chan struct{}, 1)
	s.hooks.stored = func() error {
		select {
		case <-loose:
			return fmt.Errorf("the disk answered with an error after it wrote")
		default:
			return nil
		}
	}
	return &sourcetest.Worker{Source: s, LoseReply: func() { loose <- struct{}{} }}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o666)
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func newFolderLog(follow bool) func(t *testing.T, partitions int) sourcetest.Log {
	return func(t *testing.T, partitions int) sourcetest.Log {
		l := &folderLog{t.TempDir(), follow}
		if err := os.Mkdir(filepath.Join(l.dir, "logs"), 0o777); err != nil {
			t.Fatal(err)
		}
		for i := range partitions {
			appendTo(t, l.Partition(i), "")
		}
		return l
	}
}

func TestFiniteSourcePassesTheSuite(t *testing.T) {
	sourcetest.Run(t, sourcetest.Backend{Features: sourcetest.Features{Finite: true, Sharing: sourcetest.Exclusive}, New: newFolderLog(false)})
}

func TestFollowingSourcePassesTheSuite(t *testing.T) {
	sourcetest.Run(t, sourcetest.Backend{Features: sourcetest.Features{Sharing: sourcetest.TakeOver}, New: newFolderLog(true)})
}
