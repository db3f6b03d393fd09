package files

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// Mutations seen red (line broken -> test):
//
//	content: what a file holds is not compared; Reread: a file that is not there is an error -> ReadingAgainTakesNoOtherContent
//	content: no siblings -> RotatedFileIsReadToItsEndFirst; nothing beside -> ReadingAgainFindsWhatRotationHasCompressedSince
//	reread: the end is not the end; records: what is behind it is read -> ReadingAgainEndsWhereItWasCommitted
//	records: no header -> HeaderLineIsNoRecordAndOnEachOne; no errors -> LongRecordIsPassedOverWhole

// readAgain wants a Reread to bring what was committed of all partitions, but of those that are gone, and to change nothing.
func (w *world) readAgain(gone ...string) {
	w.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.folder()
	source := w.source()
	committed, err := source.Checkpoints(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	ends := map[string]stream.Position{}
	for partition, c := range committed {
		ends[partition] = c.Pos
	}
	ctx, cancel := context.WithTimeout(w.Context(), 20*time.Second)
	defer cancel()
	var mu sync.Mutex
	read := map[string]*part{}
	cut, err := source.Reread(ctx, time.Time{}, ends, func(partition string, rs []stream.Record) error {
		mu.Lock()
		defer mu.Unlock()
		if read[partition] == nil {
			read[partition] = &part{}
		}
		for _, r := range rs {
			read[partition].add(r)
		}
		return nil
	})
	if err != nil {
		w.Fatalf("Reread: %v", err)
	}
	for i := range gone {
		gone[i] = w.partition(gone[i])
	}
	if !slices.Equal(cut, gone) {
		w.Errorf("cut is %q; want %q", cut, gone)
	}
	for partition, p := range w.parts {
		again := cmp.Or(read[partition], &part{})
		if slices.Contains(gone, partition) {
			p = &part{}
		}
		if fmt.Sprint(again.lines, again.errs, again.headers, again.positions) != fmt.Sprint(p.lines, p.errs, p.headers, p.positions) {
			w.Errorf("%s: %d lines were read again, %.300q; want %d, %.300q", partition, len(again.lines), again.lines, len(p.lines), p.lines)
		}
	}
	if after := w.folder(); after != before {
		w.Errorf("the folder of checkpoints changed from\n%s\nto\n%s", before, after)
	}
}

// folder is all that the folder of checkpoints holds.
func (w *world) folder() string {
	w.Helper()
	entries, err := os.ReadDir(w.cfg.Checkpoints)
	if err != nil {
		w.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		text, err := os.ReadFile(w.path("checkpoints/" + e.Name()))
		if err != nil {
			w.Fatal(err)
		}
		info, err := e.Info()
		if err != nil {
			w.Fatal(err)
		}
		fmt.Fprintln(&b, e.Name(), info.ModTime(), string(text))
	}
	return b.String()
}

// A file whose content is another one by now is not read under the old one's name, and one that is gone is told.
func TestReadingAgainTakesNoOtherContent(t *testing.T) {
	w := newWorld(t, Config{})
	w.write("in/a", joined(numbered(0, 100)))
	w.write("in/b", joined(numbered(0, 50)))
	w.write("in/c", joined(numbered(0, 20)))
	w.finish()
	w.readAgain()
	w.write("in/a", joined(numbered(1000, 1200)))
	w.remove("in/c")
	w.readAgain("in/a", "in/c")
	w.remove("in")
	w.readAgain("in/a", "in/b", "in/c")
}

// What was written after the commit is not read again, and a last line without an end is as it was.
func TestReadingAgainEndsWhereItWasCommitted(t *testing.T) {
	w := newWorld(t, Config{})
	w.write("in/a", joined(numbered(0, 2000))+"no end")
	w.finish()
	w.readAgain()
	w.append("in/a", "\n"+joined(numbered(2000, 2010)))
	w.readAgain()
}

// Log rotation compresses what was read to its end long ago, and nobody reads it then.
func TestReadingAgainFindsWhatRotationHasCompressedSince(t *testing.T) {
	w := newWorld(t, Config{Follow: true, Paths: []string{"in/*"}})
	w.write("in/access.log", joined(numbered(0, 200)))
	stop := w.start()
	w.delivered("in/access.log", 200)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.write("in/access.log.2.gz", gzipOf(t, joined(numbered(0, 200))))
	w.remove("in/access.log")
	w.readAgain()
	w.write("in/access.log", joined(numbered(500, 800)))
	w.readAgain()
}
