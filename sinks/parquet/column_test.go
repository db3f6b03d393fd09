package parquet

import (
	"fmt"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/stream"
)

func TestDictionariesAreForColumnsThatRepeat(t *testing.T) {
	long := strings.Repeat("x", 300)
	for name, c := range map[string]struct {
		text    func(i int) string
		indexed bool // at the end
		pages   bool // of indexes
	}{
		"few values":                         {func(i int) string { return fmt.Sprint(i % 50) }, true, true},
		"many values":                        {func(i int) string { return fmt.Sprint(i / 2 % 9000) }, true, true},
		"ids":                                {func(i int) string { return fmt.Sprint("id-", i) }, false, false},
		"ids after values that repeat":       {func(i int) string { return fmt.Sprint(max(i-500, 0)) }, false, false},
		"ids after a page that repeats":      {func(i int) string { return fmt.Sprint("some longer text ", max(i-25_000, i%50)) }, false, true},
		"long values that outgrow all pages": {func(i int) string { return fmt.Sprint(i/2%18_000, long) }, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := New(&memory{}, Config{URL: "memory"})
			if err != nil {
				t.Fatal(err)
			}
			c0 := column{leaf: &leaf{from: fromProperties, maxDef: 1}}
			c0.reset("")
			s.encoding(func(e *encoder) {
				for i := range 120_000 {
					c0.add(e, []*stream.Event{{Properties: c.text(i)}})
					if c0.dict != nil && len(c0.dict.data) > dictionaryBytes+1000 {
						t.Fatalf("the dictionary has %d bytes after %d rows; want at most %d", len(c0.dict.data), i, dictionaryBytes)
					}
				}
			})
			if got := c0.mode == indexed; got != c.indexed {
				t.Errorf("in the end the values are indexed: %t; want %t", got, c.indexed)
			}
			if got := c0.chunk.indexed > 0; got != c.pages {
				t.Errorf("%d of %d pages are of indexes; want some: %t", c0.chunk.indexed, len(c0.pages), c.pages)
			}
			if (c0.dict != nil) != c.pages {
				t.Errorf("a dictionary is kept: %t; want %t", c0.dict != nil, c.pages)
			}
		})
	}
}
