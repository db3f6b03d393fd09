package files

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/stream"
)

func TestGrownFileIsReadOnAfterItsEnd(t *testing.T) {
	w := newWorld(t, Config{})
	w.write("in/a", joined(numbered(0, 10)))
	w.finish()
	w.append("in/a", joined(numbered(10, 14)))
	w.finish()
	w.holds("in/a", numbered(0, 14)...)
	if p := w.parts[w.partition("in/a")]; len(p.epochs) != 2 {
		t.Errorf("epochs %v; want a second tenure", p.epochs)
	}
	w.finish()
	if p := w.parts[w.partition("in/a")]; len(p.epochs) != 2 {
		t.Errorf("epochs %v; an unchanged file was assigned again", p.epochs)
	}
}

func TestTouchedFileIsNotReadAgain(t *testing.T) {
	w := newWorld(t, Config{})
	w.write("in/a", joined(numbered(0, 10)))
	w.finish()
	w.write("in/b", joined(numbered(0, 10)))
	w.rename("in/b", "in/a") // same content, other inode and time
	w.finish()
	w.holds("in/a", numbered(0, 10)...)
	w.only("in/a")
}

func TestLastLineThatWentOnIsAnError(t *testing.T) {
	w := newWorld(t, Config{})
	w.write("in/a", "one\ntwo")
	w.finish()
	w.append("in/a", "\nthree\n")
	w.finish()
	w.holds("in/a", "one", "two", "three")

	w.append("in/a", "fou")
	w.finish()
	w.append("in/a", "r\n")
	w.fails("in/a", "had no line break", "byte 17", "on_change")
	w.holds("in/a", "one", "two", "three", "fou")
}

func TestReplacedFileFailsTheRun(t *testing.T) {
	long := strings.Repeat("x", 100)
	for name, change := range map[string]func(w *world){
		"other beginning":    func(w *world) { w.write("in/a", "LINE 0 of this file\n"+joined(numbered(1, 5000))) },
		"other end":          func(w *world) { w.write("in/a", joined(numbered(0, 2999))+"LINE 2999 of this file\n"+long) },
		"shorter":            func(w *world) { w.write("in/a", joined(numbered(0, 2999))) },
		"empty":              func(w *world) { w.write("in/a", "") },
		"compressed garbage": func(w *world) { w.write("in/a", "\x1f\x8b\x08"+long) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Config{})
			w.every = 1000
			w.write("in/a", joined(numbered(0, 3000)))
			w.finish()
			change(w)
			err := w.fails("in/a", "byte")
			if fatal := (*stream.FatalError)(nil); !errors.As(err, &fatal) {
				t.Errorf("%v is not fatal", err)
			}
			w.holds("in/a", numbered(0, 3000)...)
		})
	}
}

func TestReplacedFileIsANewGenerationOnRequest(t *testing.T) {
	w := newWorld(t, Config{OnChange: Restart})
	w.write("in/a", joined(numbered(0, 10)))
	w.finish()
	w.write("in/a", joined(numbered(100, 105)))
	w.finish()
	w.holds("in/a", numbered(0, 10)...)
	w.holds("in/a#2", numbered(100, 105)...)
	w.finish()
	w.append("in/a", "more\n")
	w.finish()
	w.holds("in/a#2", append(numbered(100, 105), "more")...)
	w.only("in/a", "in/a#2")
}

func TestReplacedInTheMiddleIsANewGenerationOnRequest(t *testing.T) {
	w := newWorld(t, Config{OnChange: Restart})
	w.write("in/a", joined(numbered(0, 10)))
	w.crash = func(_ string, n int) bool { return n == 8 }
	w.runFor()
	w.crash = nil
	w.write("in/a", joined(numbered(100, 105)))
	w.finish()
	w.holds("in/a", numbered(0, 6)...)
	w.holds("in/a#2", numbered(100, 105)...)
}

func TestFileThatVanishedUnreadIsALoss(t *testing.T) {
	w := newWorld(t, Config{})
	w.write("in/a", joined(numbered(0, 10)))
	w.write("in/b", "b\n")
	w.crash = func(p string, n int) bool { return strings.HasSuffix(p, "a") && n == 8 }
	w.runFor()
	w.crash = nil
	w.remove("in/a")
	if err := w.fails("in/a", "after byte"); !errors.Is(err, stream.ErrRetention) {
		t.Errorf("%v is not ErrRetention", err)
	}
	w.cfg.OnChange = Restart
	w.finish()
	if w.log.count("file is gone") == 0 {
		t.Errorf("the loss is not logged")
	}
}

func TestRenamedFileIsTheSamePartition(t *testing.T) {
	w := newWorld(t, Config{})
	w.write("in/a", joined(numbered(0, 10)))
	w.crash = func(_ string, n int) bool { return n == 8 }
	w.runFor()
	w.crash = nil
	w.rename("in/a", "in/b")
	w.finish()
	w.holds("in/a", numbered(0, 10)...)
	w.append("in/b", "more\n")
	w.finish()
	w.holds("in/a", append(numbered(0, 10), "more")...)
	w.only("in/a")
}

func TestNewFileWithAnOldInodeIsNotTheOldFile(t *testing.T) {
	w := newWorld(t, Config{})
	for range 5 { // an inode is given again at once, mostly
		w.write("in/a", "same\n")
		w.finish()
		w.remove("in/a")
		w.write("in/b", "same\nand more\n")
		w.finish()
		w.holds("in/b", "same", "and more")
		w.remove("in/b")
		w.remove("checkpoints")
		w.parts = map[string]*part{}
	}
}

func TestFileWithTwoNamesIsReadOnce(t *testing.T) {
	w := newWorld(t, Config{})
	w.write("in/a", joined(numbered(0, 10)))
	if err := os.Link(w.path("in/a"), w.path("in/b")); err != nil {
		t.Fatal(err)
	}
	w.finish()
	w.holds("in/a", numbered(0, 10)...)
	w.only("in/a")
}

func TestNameThatLooksLikeAGenerationIsTold(t *testing.T) {
	w := newWorld(t, Config{OnChange: Restart})
	w.write("in/a", "one\n")
	w.write("in/a#2", "other\n")
	w.finish()
	w.write("in/a", "two\n")
	w.finish()
	w.holds("in/a", "one")
	w.holds("in/a#2", "two")
	w.holds("in/a#2#1", "other")
}

func TestRotatedFileIsReadToItsEndFirst(t *testing.T) {
	w := newWorld(t, Config{Follow: true, Paths: []string{"in/access.log"}})
	w.cfg.Poll = 60 * time.Millisecond // the writer's next line must come within quietPolls of them
	w.write("in/access.log", joined(numbered(0, 5)))
	stop := w.start()
	w.delivered("in/access.log", 5)
	log, err := os.OpenFile(w.path("in/access.log"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	w.rename("in/access.log", "in/access.log.1")
	w.write("in/access.log", joined(numbered(100, 103)))
	for i, line := range []string{"late\n", "later\n", "last"} { // the writer has not reopened yet
		w.delivered("in/access.log", 5+i)
		log.WriteString(line)
	}
	w.delivered("in/access.log#2", 3)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.holds("in/access.log", append(numbered(0, 5), "late", "later", "last")...)
	w.holds("in/access.log#2", numbered(100, 103)...)
	w.only("in/access.log", "in/access.log#2")
	w.readAgain() // the first one is where the paths do not reach
}

func TestRotatedFilesThatThePathsNameAreNotReadAgain(t *testing.T) {
	w := newWorld(t, Config{Follow: true, Paths: []string{"in/*"}})
	w.write("in/access.log", joined(numbered(0, 100)))
	stop := w.start()
	w.delivered("in/access.log", 100)
	for n := range 3 {
		if n > 0 {
			w.rename("in/access.log.1", "in/access.log.2")
		}
		w.rename("in/access.log", "in/access.log.1")
		w.append("in/access.log.1", "late\n")
		w.write("in/access.log", joined(numbered(1000*n, 1000*n+100)))
		w.delivered(partitionName("in/access.log", n+2), 100)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.readAgain()
	w.start()
	w.append("in/access.log", "new\n")
	w.delivered("in/access.log#4", 101)
	w.holds("in/access.log", append(numbered(0, 100), "late")...)
	w.only("in/access.log", "in/access.log#2", "in/access.log#3", "in/access.log#4")
}

func TestRotationWhileNobodyReadsIsFollowed(t *testing.T) {
	for _, paths := range []string{"in/access.log", "in/access*"} {
		w := newWorld(t, Config{Follow: true, Paths: []string{paths}})
		w.write("in/access.log", joined(numbered(0, 50)))
		stop := w.start()
		w.delivered("in/access.log", 50)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		w.append("in/access.log", joined(numbered(50, 60)))
		w.rename("in/access.log", "in/access.log.1")
		w.write("in/access.log", joined(numbered(100, 103)))
		stop = w.start()
		w.delivered("in/access.log#2", 3)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		w.holds("in/access.log", numbered(0, 60)...)
		w.holds("in/access.log#2", numbered(100, 103)...)
		w.only("in/access.log", "in/access.log#2")
	}
}

func TestTruncatedFileIsANewGeneration(t *testing.T) {
	w := newWorld(t, Config{Follow: true, Paths: []string{"in/access.log"}})
	w.write("in/access.log", joined(numbered(0, 5)))
	stop := w.start()
	w.delivered("in/access.log", 5)
	w.write("in/access.log", joined(numbered(100, 102)))
	w.delivered("in/access.log#2", 2)
	w.write("in/access.log", joined(numbered(200, 250))) // grows beyond what was read
	w.delivered("in/access.log#3", 50)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.holds("in/access.log", numbered(0, 5)...)
	w.holds("in/access.log#2", numbered(100, 102)...)
	w.holds("in/access.log#3", numbered(200, 250)...)
}

func TestRewrittenWhileItsEndIsDelivered(t *testing.T) {
	w := newWorld(t, Config{Follow: true, Paths: []string{"in/access.log"}})
	w.write("in/access.log", joined(numbered(0, 5)))
	w.crash = func(partition string, n int) bool { // after the end was read, before the reader looks for more
		if partition == w.partition("in/access.log") && n == 5 {
			w.write("in/access.log", joined(numbered(100, 150)))
		}
		return false
	}
	stop := w.start()
	w.delivered("in/access.log#2", 50)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.holds("in/access.log", numbered(0, 5)...)
	w.holds("in/access.log#2", numbered(100, 150)...)
}

func TestCopyAndTruncateReadsNothingTwice(t *testing.T) {
	w := newWorld(t, Config{Follow: true, Paths: []string{"in/*"}})
	w.write("in/access.log", joined(numbered(0, 200)))
	stop := w.start()
	w.delivered("in/access.log", 200)
	w.write("in/access.log.1", joined(numbered(0, 120))) // the copy is under way
	w.append("in/access.log", "seen by the copy only\n")
	w.write("in/access.log.1", joined(numbered(0, 200))+"seen by the copy only\n")
	w.delivered("in/access.log", 201)
	w.write("in/access.log", joined(numbered(500, 510)))
	w.delivered("in/access.log#2", 10)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.holds("in/access.log", append(numbered(0, 200), "seen by the copy only")...)
	w.holds("in/access.log#2", numbered(500, 510)...)
	w.only("in/access.log", "in/access.log#2")
	w.readAgain()
}

func TestWhatWasTruncatedUnreadIsFoundInTheCopy(t *testing.T) {
	w := newWorld(t, Config{Follow: true, Paths: []string{"in/*"}})
	w.write("in/access.log", joined(numbered(0, 200)))
	stop := w.start()
	w.delivered("in/access.log", 200)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.write("in/access.log.1", joined(numbered(0, 250)))
	w.write("in/access.log", joined(numbered(500, 510)))
	stop = w.start()
	w.delivered("in/access.log#2", 10)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.holds("in/access.log", numbered(0, 250)...)
	w.holds("in/access.log#2", numbered(500, 510)...)
	w.only("in/access.log", "in/access.log#2")
}

func TestFileCompressedByRotationIsTheSamePartition(t *testing.T) {
	w := newWorld(t, Config{Follow: true, Paths: []string{"in/*"}})
	w.write("in/access.log", joined(numbered(0, 200)))
	stop := w.start()
	w.delivered("in/access.log", 200)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.write("in/access.log.1.gz", gzipOf(t, joined(numbered(0, 230))))
	w.remove("in/access.log")
	w.write("in/access.log", joined(numbered(500, 510)))
	stop = w.start()
	w.delivered("in/access.log#2", 10)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.holds("in/access.log", numbered(0, 230)...)
	w.holds("in/access.log#2", numbered(500, 510)...)
	w.only("in/access.log", "in/access.log#2")
	w.readAgain()
}

func TestRemovedFileIsReadToItsEnd(t *testing.T) {
	w := newWorld(t, Config{Follow: true, Paths: []string{"in/*"}})
	w.block = make(chan struct{})
	w.every = 1000
	w.write("in/a", joined(numbered(0, 50_000)))
	stop := w.start()
	w.wait("it is assigned", func() bool { return len(w.part(w.partition("in/a")).epochs) > 0 })
	w.remove("in/a")
	close(w.block)
	w.ended("in/a")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.holds("in/a", numbered(0, 50_000)...)
}

func TestTruncationOfUnreadBytesIsALoss(t *testing.T) {
	for _, follow := range []bool{false, true} {
		w := newWorld(t, Config{Follow: follow})
		w.block = make(chan struct{})
		w.every = 1000
		w.write("in/a", joined(numbered(0, 100_000)))
		failed := make(chan error, 1)
		go func() { failed <- w.run(t.Context()) }()
		w.wait("it is assigned", func() bool { return len(w.part(w.partition("in/a")).epochs) > 0 })
		w.write("in/a", "")
		close(w.block)
		err := <-failed
		if fatal := (*stream.FatalError)(nil); !errors.As(err, &fatal) || !strings.Contains(err.Error(), "truncated") {
			t.Errorf("follow %v: Run returned %v", follow, err)
		}
	}
}
