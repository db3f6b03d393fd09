package objects_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
)

func isFatal(err error) bool {
	var fatal *stream.FatalError
	return errors.As(err, &fatal)
}

// staged lists the names under _staging/.
func staged(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "_staging"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestFolderPublishGoesOnAfterACrashAtEachStep(t *testing.T) {
	link := func(t *testing.T, dir string, ticket objects.Ticket) {
		if err := os.Link(filepath.Join(dir, "_staging", ticket.Upload), filepath.Join(dir, "d", "k")); err != nil {
			t.Fatal(err)
		}
	}
	steps := map[string]func(t *testing.T, dir string, ticket objects.Ticket){
		"before anything": func(*testing.T, string, objects.Ticket) {},
		"folder is made":  func(t *testing.T, dir string, _ objects.Ticket) { os.Mkdir(filepath.Join(dir, "d"), 0o777) },
		"linked": func(t *testing.T, dir string, k objects.Ticket) {
			os.Mkdir(filepath.Join(dir, "d"), 0o777)
			link(t, dir, k)
		},
		"linked and name removed": func(t *testing.T, dir string, k objects.Ticket) {
			os.Mkdir(filepath.Join(dir, "d"), 0o777)
			link(t, dir, k)
			os.Remove(filepath.Join(dir, "_staging", k.Upload))
		},
	}
	for name, crash := range steps {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			ticket := mustUpload(t, open(t, dir), "d/k", noise(3<<20, 1))
			crash(t, dir, ticket)
			s := open(t, dir)
			for range 2 {
				if err := s.Publish(t.Context(), ticket); err != nil {
					t.Fatal(err)
				}
			}
			holds(t, s, "d/k", noise(3<<20, 1))
			if names := staged(t, dir); len(names) > 0 {
				t.Errorf("staged after Publish: %v", names)
			}
			if err := s.Withdraw(t.Context(), ticket); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Get(t.Context(), "d/k"); !errors.Is(err, objects.ErrNotFound) {
				t.Fatal("after Withdraw get returns", err)
			}
		})
	}
}

func TestFolderTellsItsFileFromOneOfTheSameSize(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	ticket := mustUpload(t, s, "k", noise(1000, 1))
	if err := s.Publish(t.Context(), ticket); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "k"), noise(1000, 2), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(t.Context(), ticket); !isFatal(err) {
		t.Errorf("publish returns %v; want a FatalError", err)
	}
	if err := s.Withdraw(t.Context(), ticket); err != nil {
		t.Error(err)
	}
	holds(t, s, "k", noise(1000, 2))
}

func TestLeftoversAreSweptButNeverWhatACommitMayName(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	u := s.Begin("unsealed")
	u.Write(noise(2<<20, 1))
	if err := u.Send(t.Context()); err != nil {
		t.Fatal(err)
	}
	ticket := mustUpload(t, s, "sealed", noise(2<<20, 2))
	if n := len(staged(t, dir)); n != 2 {
		t.Fatalf("%d staged files; want 2", n)
	}
	objects.Sweep(s, time.Now().Add(23*time.Hour))
	if n := len(staged(t, dir)); n != 2 {
		t.Fatalf("after 23 hours %d staged files are left; want 2", n)
	}
	objects.Sweep(s, time.Now().Add(10*365*24*time.Hour))
	if names := staged(t, dir); !slices.Equal(names, []string{ticket.Upload}) {
		t.Fatalf("after 10 years these are left: %v; want the sealed one", names)
	}
	if err := s.Publish(t.Context(), ticket); err != nil {
		t.Fatal(err)
	}
	// The writer of the other was not dead after all: it finds out, and nothing of it is ever visible.
	if _, err := u.Seal(t.Context(), nil); !errors.Is(err, stream.ErrExpired) {
		t.Errorf("seal returns %v; want ErrExpired", err)
	}
	u.Discard(t.Context())
}

func TestAFullDiskEndsTheRunAndSpoilsNothing(t *testing.T) {
	s := open(t, t.TempDir())
	u := s.Begin("k")
	defer u.Discard(t.Context())
	u.Write(noise(2<<20, 1))
	if err := u.Send(t.Context()); err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	file := objects.SwapFile(u, full)
	u.Write(noise(2<<20, 2))
	for range 2 {
		err := u.Send(t.Context())
		if !errors.Is(err, syscall.ENOSPC) || !isFatal(err) || !strings.Contains(err.Error(), "make room") {
			t.Fatalf("send returns %v; want a full disk", err)
		}
	}
	// What an attempt leaves that fails half-way.
	file.WriteAt(noise(3<<20, 9), 2<<20)
	file.Seek(1<<20, io.SeekCurrent)
	objects.SwapFile(u, file)
	ticket, err := u.Seal(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(t.Context(), ticket); err != nil {
		t.Fatal(err)
	}
	holds(t, s, "k", append(noise(2<<20, 1), noise(2<<20, 2)...))
}

func TestFolderErrorsSayWhetherToWait(t *testing.T) {
	s := open(t, t.TempDir())
	cases := []struct {
		err   error
		fatal bool
		word  string
	}{
		{syscall.ENOSPC, true, "make room"},
		{syscall.EDQUOT, true, "make room"},
		{syscall.EIO, false, ""},
		{syscall.ESTALE, false, ""},
		{syscall.EROFS, true, "writable"},
		{syscall.EACCES, true, "needs to write"},
		{syscall.EPERM, true, "needs to write"},
		{syscall.ENOTDIR, true, ""},
		{syscall.ENAMETOOLONG, true, ""},
	}
	for _, c := range cases {
		err := objects.ExplainFolder(s, &fs.PathError{Op: "write", Path: "x", Err: c.err})
		if isFatal(err) != c.fatal || !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%v becomes %v; want fatal: %t, with %q", c.err, err, c.fatal, c.word)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, filepath.Join(file, "below")} {
		s := open(t, dir)
		if err := s.Probe(t.Context()); !isFatal(err) {
			t.Errorf("probe of %s returns %v; want a FatalError", dir, err)
		}
		if _, err := upload(t.Context(), s, "k", []byte("x")); !isFatal(err) {
			t.Errorf("upload to %s returns %v; want a FatalError", dir, err)
		}
	}
}

func TestLocationsAreRefusedWithAReason(t *testing.T) {
	for _, bad := range []string{"", "s3://", "s3:///x", "s3://b/../x", "s3://b//x", "s3://user:pw@b/x", "gs://b/x", "file://host/x", "file://relative"} {
		if err := objects.CheckURL(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
		if _, err := objects.Open(t.Context(), bad, objects.Options{}); !isFatal(err) {
			t.Errorf("open of %q returns %v; want a FatalError", bad, err)
		}
	}
	for _, good := range []string{"s3://b", "s3://b/", "s3://b/p/q/", "file:///tmp/x", "out", "./out", "/abs"} {
		if err := objects.CheckURL(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	if _, err := objects.Open(t.Context(), "out", objects.Options{PartSize: 1, InFlight: -1}); !isFatal(err) || !strings.Contains(err.Error(), "part_size") || !strings.Contains(err.Error(), "in_flight") {
		t.Errorf("open with bad options returns %v; want both named", err)
	}
}
