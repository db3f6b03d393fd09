package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestVerifyFindsWhatWasDoneToTheFiles harms real files, one at a time, and wants exit code 1 and the file or its range named.
func TestVerifyFindsWhatWasDoneToTheFiles(t *testing.T) {
	for name, c := range map[string]struct {
		deep bool
		harm func(t *testing.T, file, dead string)
		says string
	}{
		"deleted file": {false, func(t *testing.T, file, _ string) { must(t, os.Remove(file)) }, "missing: "},
		"dead letters": {false, func(t *testing.T, _, dead string) { must(t, os.Remove(dead)) }, "missing: "},
		"copied file": {false, func(t *testing.T, file, _ string) {
			write(t, strings.Replace(file, ".parquet", "-copy.parquet", 1), read(t, file))
		}, "-copy.parquet: "},
		"truncated file":   {false, func(t *testing.T, file, _ string) { write(t, file, read(t, file)[:500]) }, "damaged: "},
		"edited footer":    {false, func(t *testing.T, file, _ string) { write(t, file, edit(t, read(t, file), `"read":50`, `"read":49`)) }, "damaged: "},
		"edited page":      {true, func(t *testing.T, file, _ string) { text := read(t, file); text[100] ^= 1; write(t, file, text) }, "damaged: "},
		"edited letter":    {true, func(t *testing.T, _, dead string) { write(t, dead, edit(t, read(t, dead), `"not json`, `"not JSON`)) }, "damaged: "},
		"truncated letter": {false, func(t *testing.T, _, dead string) { text := read(t, dead); write(t, dead, text[:len(text)-10]) }, "damaged: "},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLake(t)
			l.records("a.jsonl", 49)
			must(t, appendTo(filepath.Join(l.dir, "in", "a.jsonl"), "not json\n"))
			l.records("b.jsonl", 30)
			file := l.pipeline(false, "")
			if got := millrace(t.Context(), "", "run", file); got.code != 0 {
				t.Fatalf("%+v", got)
			}
			args := []string{"verify", file}
			if c.deep {
				args = append(args, "--deep")
			}
			if got := millrace(t.Context(), "", args...); got.code != 0 {
				t.Fatalf("not clean before: %+v", got)
			}
			c.harm(t, l.of("a.jsonl", ".parquet"), l.of("a.jsonl", ".jsonl"))
			got := millrace(t.Context(), "", args...)
			if got.code != 1 || !strings.Contains(got.stdout, c.says) || strings.Contains(got.stdout, "b.jsonl,") {
				t.Errorf("%+v; want code 1 and %q", got, c.says)
			}
		})
	}
}

// of is the published file with an ending that has records of an input.
func (l *testLake) of(input, ending string) string {
	l.t.Helper()
	found := ""
	for _, root := range []string{"lake", "lake_dead"} {
		must(l.t, filepath.WalkDir(filepath.Join(l.dir, root), func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() && strings.HasSuffix(path, ending) && bytes.Contains(read(l.t, path), []byte(input)) {
				found = path
			}
			return err
		}))
	}
	if found == "" {
		l.t.Fatalf("no %s file of %s", ending, input)
	}
	return found
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	return text
}

func write(t *testing.T, file string, text []byte) {
	t.Helper()
	must(t, os.WriteFile(file, text, 0o666))
}

func appendTo(file, text string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}

func edit(t *testing.T, text []byte, old, replacement string) []byte {
	t.Helper()
	if !bytes.Contains(text, []byte(old)) {
		t.Fatalf("nothing to edit: %s is not there", old)
	}
	return bytes.ReplaceAll(text, []byte(old), []byte(replacement))
}
