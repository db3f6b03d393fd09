// Package pipelinefile reads pipeline files: strictly, and with the place of everything that is wrong.
//
// It knows the frame of a pipeline file (name, source, decode, process, sinks ...) and no source, processor or sink: what
// stands in those places is a Choice, whose kind the caller compares with the ones it knows and whose settings it decodes
// into the Config of a package. Problems of all stages are collected in the File, in the order of the text.
//
// The YAML is a subset that has one meaning: one document; every key once; no anchors, aliases, merge keys and tags, so
// that a line of the file says all that it does. A comma in parentheses belongs to its value also within { and }. In every value (not in keys) ${VAR} stands for an environment variable,
// ${VAR:-default} for one that may be unset or empty, and $$ for a dollar sign.
package pipelinefile

import (
	"cmp"
	"fmt"
	"net"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// minMemory is what the engine wants at least, in bytes.
const minMemory = 1 << 20

// MaxSize is the most bytes of a pipeline file.
const MaxSize = 1 << 20

// File is a pipeline file as far as it could be read. It is used by one goroutine.
type File struct {
	Path        string // as it was named; problems begin with it
	Name        string // of the pipeline
	Sources     []*Choice
	Decode      Value
	Processors  []*Choice // in order
	Sinks       []*Sink   // in order
	DeadLetters Value
	Spool       Value  // where sinks with on_stall: spool set writes aside
	Memory      int64  // bytes of all buffers together; 0: not said
	Admin       string // host:port of the admin server; empty: none

	keys     string // some that the file may have, for messages
	lines    []string
	origins  map[*yaml.Node]origin
	problems []Problem
}

// Sink is one entry of sinks. Kinds has one element unless the file is wrong.
type Sink struct {
	Name   string
	Kinds  []*Choice
	Where  Value // an expression; absent: every event
	Delete Value // an expression: which events remove their row; absent: none
	Stall  Value // of on_stall
	Spool  bool  // on_stall: spool
}

// Problem is one thing that is wrong with a pipeline file.
type Problem struct {
	Path         string // of the file
	Line, Column int    // from 1; columns count characters
	Text         string
}

func (p Problem) String() string {
	return fmt.Sprintf("%s:%d:%d: %s", p.Path, p.Line, p.Column, p.Text)
}

// Problems is everything found so far, in the order of the text.
func (f *File) Problems() []Problem {
	ps := slices.Clone(f.problems)
	slices.SortStableFunc(ps, func(a, b Problem) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column)) })
	return slices.Compact(ps)
}

func (f *File) problemAt(line, column int, format string, args ...any) {
	f.problems = append(f.problems, Problem{Path: f.Path, Line: max(line, 1), Column: max(column, 1), Text: oneLine(fmt.Sprintf(format, args...))})
}

func (f *File) problem(n *yaml.Node, format string, args ...any) {
	f.problemAt(n.Line, n.Column, format, args...)
}

// oneLine keeps a problem on the one line that a reader of problems expects.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// frame is the top level of a pipeline file.
type frame struct {
	Name        string `yaml:"name"`
	Source      Value  `yaml:"source"`
	Decode      Value  `yaml:"decode"`
	Process     Value  `yaml:"process"`
	Sinks       Value  `yaml:"sinks"`
	DeadLetters Value  `yaml:"dead_letters"`
	Spool       Value  `yaml:"spool"`
	Memory      int64  `yaml:"memory" unit:"bytes"`
	Admin       string `yaml:"admin"`
	Tests       Value  `yaml:"tests"`
}

var validName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// Parse reads the text of a pipeline file. env is os.LookupEnv. What is wrong stands in the File's Problems.
func Parse(path string, text []byte, env func(string) (string, bool)) *File {
	f, top := ParseOther(path, text, "name, source and sinks", env)
	if !top.Present() {
		return f
	}
	d := decoder{file: f}
	var fr frame
	d.structure(top.node, "", reflect.ValueOf(&fr).Elem())
	f.Name, f.Memory, f.Admin, f.Decode, f.DeadLetters = fr.Name, fr.Memory, fr.Admin, fr.Decode.or(top, "decode"), fr.DeadLetters.or(top, "dead_letters")
	f.Spool = fr.Spool.or(top, "spool")
	if !d.reported("name") {
		f.checkName(top)
	}
	if memory := top.Child("memory"); memory.Present() && !d.reported("memory") && f.Memory < minMemory {
		memory.Problem("is %d bytes; want at least 1MiB", f.Memory)
	}
	if _, _, err := net.SplitHostPort(f.Admin); err != nil && f.Admin != "" {
		top.Child("admin").Problem("is %q; want host:port, such as 127.0.0.1:9600, or port 0 for any free one", f.Admin)
	}
	if !d.reported("source") {
		f.readSource(fr.Source.or(top, "source"))
	}
	f.readProcess(fr.Process)
	if !d.reported("sinks") {
		f.readSinks(fr.Sinks.or(top, "sinks"))
	}
	if t := fr.Tests; t.Present() && !(t.node.Kind == yaml.SequenceNode && len(t.node.Content) == 0) {
		f.problem(t.key, "tests is not in this version: nothing would run them")
	}
	return f
}

// ParseOther reads a file that is no pipeline file as strictly as one. The value is the file's top, absent when there is
// none to go on with; keys are some that it may have, for messages.
func ParseOther(path string, text []byte, keys string, env func(string) (string, bool)) (*File, Value) {
	f := &File{Path: path, keys: keys, origins: map[*yaml.Node]origin{}}
	root := f.parse(text)
	if root == nil {
		return f, Value{file: f}
	}
	f.check(root, env)
	if root.Kind != yaml.MappingNode {
		f.problem(root, "the file is %s; want keys such as %s", kindOf(root), keys)
		return f, Value{file: f}
	}
	return f, Value{file: f, node: root, key: root}
}

// Has says that a text is a file with a key at its top, whatever else is wrong with it.
func Has(text []byte, key string) bool {
	root, err := readNode(text)
	if err != nil || root.Kind != yaml.MappingNode {
		return false
	}
	for i := 0; i < len(root.Content); i += 2 {
		if root.Content[i].Value == key {
			return true
		}
	}
	return false
}

func (f *File) checkName(top Value) {
	at := top.Child("name")
	switch {
	case !at.Present():
		at.Problem("is missing; want the pipeline's name, such as clicks")
	case len(f.Name) > 64:
		at.Problem("has %d characters; want at most 64", len(f.Name))
	case !validName.MatchString(f.Name):
		at.Problem("is %q; want letters, digits, '-', '_' and '.' only, such as clicks", f.Name)
	case strings.Trim(f.Name, ".") == "":
		at.Problem("is %q; want at least one letter or digit", f.Name)
	}
}

func (f *File) readSource(v Value) {
	if !v.Present() {
		v.Problem("is missing; want one source")
		return
	}
	f.Sources = v.Choices()
	if len(f.Sources) > 1 {
		f.problem(f.Sources[1].key, "two sources, %s and %s; want exactly one", f.Sources[0].Kind, f.Sources[1].Kind)
	}
}

func (f *File) readProcess(v Value) {
	if !v.Present() {
		return
	}
	if v.node.Kind != yaml.SequenceNode {
		v.Problem("is %s; want a list of processors, each on a line of its own that begins with a dash", kindOf(v.node))
		return
	}
	for i, n := range v.node.Content {
		entry := Value{file: f, node: n, key: n, path: fmt.Sprintf("process.%d", i+1)}
		found := entry.Choices()
		if len(found) > 1 {
			f.problem(found[1].key, "two processors in one entry, %s and %s; begin a line with a dash for each", found[0].Kind, found[1].Kind)
		}
		f.Processors = append(f.Processors, found...)
	}
}

func (f *File) readSinks(v Value) {
	if !v.Present() {
		v.Problem("is missing; want at least one sink, by name")
		return
	}
	if v.node.Kind != yaml.MappingNode {
		v.Problem("is %s; want sinks by name", kindOf(v.node))
		return
	}
	if len(v.node.Content) == 0 {
		v.Problem("is empty; want at least one sink, by name")
	}
	for _, entry := range v.children() {
		f.readSink(entry)
	}
}

// readSink reads one entry of sinks: settings that every sink has, and one key that says the kind.
func (f *File) readSink(entry Value) {
	absent := func(key string) Value { return Value{file: f, key: entry.key, path: entry.path + "." + key} }
	s := &Sink{Name: entry.key.Value, Where: absent("where"), Delete: absent("delete"), Stall: absent("on_stall")}
	if !validName.MatchString(s.Name) {
		f.problem(entry.key, "sinks.%s: the name has to be of letters, digits, '-', '_' and '.' only, at most 64", s.Name)
	}
	f.Sinks = append(f.Sinks, s)
	own := []string{"where", "delete", "on_stall"}
	for _, c := range entry.Choices() {
		switch c.Kind {
		case "where":
			s.Where = c.Value
		case "delete":
			s.Delete = c.Value
		case "on_stall":
			s.Stall, s.Spool = c.Value, c.onStall()
		default:
			s.Kinds = append(s.Kinds, c)
		}
	}
	if len(s.Kinds) > 1 {
		s.Kinds = slices.DeleteFunc(s.Kinds, func(c *Choice) bool {
			near := nearest(c.Kind, own)
			if near != "" {
				f.problem(c.key, "unknown key %q in %s; did you mean %q?", c.Kind, entry.path, near)
			}
			return near != ""
		})
	}
	switch n := len(s.Kinds); {
	case n == 0 && entry.node.Kind == yaml.MappingNode:
		f.problem(entry.key, "%s has no kind; want one, such as parquet", entry.path)
	case n > 1:
		f.problem(s.Kinds[1].key, "%s has two kinds, %s and %s; give each a name of its own", entry.path, s.Kinds[0].Kind, s.Kinds[1].Kind)
	}
}

// onStall says whether a sink that does not answer has its writes set aside.
func (c *Choice) onStall() (spool bool) {
	text, ok := c.Text()
	if ok && text != "spool" && text != "block" {
		c.Problem("is %q; want block or spool", text)
	}
	return text == "spool"
}
