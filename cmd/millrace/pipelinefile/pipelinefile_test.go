package pipelinefile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// Mutations seen red (line broken -> test or its file):
//   - parse.go, doubled keys pass                       -> frame.txt, two-sources.txt
//   - parse.go, without joinParentheses                 -> parentheses.txt
//   - expand.go, before points past the dollar sign     -> expressions.txt
//   - place.go, a value ends with its line              -> expressions.txt
//   - value.go, follow-up problems are told             -> types.txt
//   - decode.go, negative durations pass                -> negative.txt

// brew is a Config with a field of each kind that packages may have.
type brew struct {
	Name    string            `yaml:"name"`
	Hot     bool              `yaml:"hot"`
	Cups    int               `yaml:"cups"`
	Share   float64           `yaml:"share"`
	Steep   time.Duration     `yaml:"steep"`
	Size    int64             `yaml:"size" unit:"bytes"`
	Herbs   []string          `yaml:"herbs"`
	Labels  map[string]string `yaml:"labels"`
	Pot     pot               `yaml:"pot"`
	Lid     *pot              `yaml:"lid"`
	Shelves map[string]pot    `yaml:"shelves"`
	Row     []pot             `yaml:"row"`
	Ignored string
}

type pot struct {
	Color string `yaml:"color"`
	Width int64  `yaml:"width" unit:"bytes"`
}

// Validate finds fault with zero values.
func (b *brew) Validate() error {
	var problems []error
	if b.Name == "" {
		problems = append(problems, errors.New("name is empty; want a name"))
	}
	if b.Pot.Color == "clear" {
		problems = append(problems, errors.New("pot.color is clear; want any other"))
	}
	for name, p := range b.Shelves {
		if p.Color == "" {
			problems = append(problems, fmt.Errorf("shelves.%s.color is empty; want a color", name))
		}
	}
	for i, p := range b.Row {
		if p.Color == "" {
			problems = append(problems, fmt.Errorf("row[%d].color is empty; want a color", i))
		}
	}
	return errors.Join(problems...)
}

// badLetter is an expression's error: the letter Z is wrong wherever it stands.
type badLetter int

func (e badLetter) Error() string { return "1:1: the letter Z" }
func (e badLetter) Text() string  { return "the letter Z" }
func (e badLetter) Offset() int   { return int(e) }

func environment(name string) (string, bool) {
	v, ok := map[string]string{"PORT": "9092", "EMPTY": "", "SECRET": "s$$3${PORT}", "LONG": "a long value Z"}[name]
	return v, ok
}

// problems reads a pipeline file as a program with a source "tea", a processor "stir" and a sink "cup" would.
func problems(path, text string) []Problem {
	f := Parse(path, []byte(text), environment)
	for _, c := range f.Sources {
		switch {
		case c.Is("tea"):
			c.Into(new(brew))
		case c.Is("coffee"):
			c.Into(new(brew))
		default:
			c.Unknown("source", "cocoa")
		}
	}
	for _, c := range f.Processors {
		if !c.Is("stir") {
			c.Unknown("processor")
			continue
		}
		rejectLetters(c.Value)
	}
	for _, s := range f.Sinks {
		for _, c := range s.Kinds {
			if !c.Is("cup") {
				c.Unknown("sink")
				continue
			}
			c.Into(new(pot))
		}
		if s.Where.Present() {
			rejectLetters(s.Where)
		}
	}
	return f.Problems()
}

func rejectLetters(v Value) {
	if text, ok := v.Text(); ok {
		if i := strings.IndexByte(text, 'Z'); i >= 0 {
			v.Reject(badLetter(i))
		}
	}
}

// Each file in testdata has a pipeline file, a line of dashes and the problems that it has.
func TestEveryProblemIsFoundAtItsPlace(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
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
			var got strings.Builder
			for _, p := range problems("f", text) {
				fmt.Fprintln(&got, p)
			}
			if got.String() != want {
				t.Errorf("got\n%s\nwant\n%s", got.String(), want)
			}
		})
	}
}

func TestValuesArriveAsTheyAreWritten(t *testing.T) {
	f := Parse("f", []byte(`
name: tea-1
source:
  tea:
    name: ${SECRET}$$x
    hot: true
    cups: ${PORT}
    share: 0.5
    steep: ${STEEP:-90s}
    size: 2KiB
    herbs: [1.10, "${EMPTY:-none}", 'it''s']
    labels: {a: yes, b: 2010-12-01, "c d": ""}
    pot: {color: "${EMPTY}"}
    lid: {width: 3MB}
    shelves: {top: {color: decimal(9,2)}}
    row: [{color: $5}]
sinks: {a: {cup: {}}}
memory: 64MiB
admin: 127.0.0.1:0
tests: []
`), environment)
	var got brew
	f.Sources[0].Into(&got)
	want := brew{
		Name: "s$$3${PORT}$x", Hot: true, Cups: 9092, Share: 0.5, Steep: 90 * time.Second, Size: 2048,
		Herbs: []string{"1.10", "none", "it's"}, Labels: map[string]string{"a": "yes", "b": "2010-12-01", "c d": ""},
		Lid: &pot{Width: 3e6}, Shelves: map[string]pot{"top": {Color: "decimal(9,2)"}}, Row: []pot{{Color: "$5"}},
	}
	if len(f.Problems()) > 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("problems %v\ngot  %+v\nwant %+v", f.Problems(), got, want)
	}
	if f.Name != "tea-1" || f.Memory != 64<<20 || f.Admin != "127.0.0.1:0" || f.Sinks[0].Name != "a" || f.DeadLetters.Present() {
		t.Errorf("frame: %+v", f)
	}
}

// What is wrong with a file is never a panic, and each problem stands at a place that the file has.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.txt")
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		text, _, _ := strings.Cut(string(data), "----\n")
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		lines := strings.Split(text, "\n")
		for _, p := range problems("f", text) {
			if p.Line < 1 || p.Line > len(lines)+1 || p.Column < 1 || p.Text == "" || strings.ContainsAny(p.Text, "\n\r") {
				t.Errorf("problem %+v", p)
			}
		}
	})
}

func TestNearestNameIsTheOneThatWasMeant(t *testing.T) {
	names := []string{"brokers", "topics", "start", "tls", "sasl"}
	for word, want := range map[string]string{
		"broker": "brokers", "Brokers": "brokers", "topisc": "topics", "sttart": "start", "tsl": "tls", "zone": "", "x": "", "": "",
	} {
		if got := nearest(word, names); got != want {
			t.Errorf("nearest(%q) = %q; want %q", word, got, want)
		}
	}
}

func TestSizesNeedAUnit(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "7B": 7, "1KB": 1000, "2MB": 2e6, "3GB": 3e9, "1KiB": 1024, "128MiB": 128 << 20, "8GiB": 8 << 30,
		"128": -1, "128mb": -1, "128 MiB": -1, "-1B": -1, "1.5GiB": -1, "": -1, "9223372036854775807GiB": -1, "MiB": -1,
	} {
		got, ok := parseBytes(text)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("parseBytes(%q) = %d, %v; want %d", text, got, ok, want)
		}
	}
}
