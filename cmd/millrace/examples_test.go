package main

import (
	"bytes"
	"path/filepath"
	"testing"
)

func TestExamplesHaveNoProblems(t *testing.T) {
	files, err := filepath.Glob("../../docs/examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	var out, errors bytes.Buffer
	if code := run(t.Context(), append([]string{"lint"}, files...), nil, &out, &errors); code != exitOK {
		t.Errorf("exit code %d\n%s%s", code, &out, &errors)
	}
}
