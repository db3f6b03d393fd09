package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each file in testdata/lint has a pipeline file, a line of dashes and what lint says about it.
func TestLintNamesEveryProblem(t *testing.T) {
	t.Setenv("BROKER", "127.0.0.1:9092")
	files, err := filepath.Glob("testdata/lint/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata", err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			text, want, ok := strings.Cut(string(data), "----\n")
			if !ok {
				t.Fatal("no line of dashes")
			}
			got := millrace(t.Context(), text, "lint", "-")
			code := 1
			if want == "-: no problems\n" {
				code = 0
			}
			if got.stdout != want || got.err != "" || got.code != code {
				t.Errorf("code %d, standard error %q\ngot\n%s\nwant\n%s", got.code, got.err, got.stdout, want)
			}
		})
	}
}

func TestLintLooksAtEveryFile(t *testing.T) {
	dir := t.TempDir()
	good, bad, none := filepath.Join(dir, "good.yaml"), filepath.Join(dir, "bad.yaml"), filepath.Join(dir, "none.yaml")
	for path, text := range map[string]string{
		good: "name: a\nsource: { files: { paths: [in] } }\nsinks: { lake: { parquet: { url: lake } } }\n",
		bad:  "name: a\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	got := millrace(t.Context(), "", "lint", bad, none, good)
	if got.code != 1 || !strings.Contains(got.stdout, bad+":1:1: source is missing") || !strings.Contains(got.stdout, good+": no problems\n") || !strings.Contains(got.err, none) {
		t.Errorf("%+v", got)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Error("lint made files:", entries)
	}
}
