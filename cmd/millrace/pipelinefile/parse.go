package pipelinefile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// parse reads the one document of the text; nil when there is none to go on with.
func (f *File) parse(text []byte) *yaml.Node {
	if len(text) > MaxSize {
		f.problemAt(1, 1, "the file has %d bytes; want at most %d", len(text), MaxSize)
		return nil
	}
	if !utf8.Valid(text) {
		f.notText(text)
		return nil
	}
	f.lines = strings.Split(string(text), "\n")
	root, err := readNode(text)
	switch {
	case errors.Is(err, io.EOF):
		f.problemAt(1, 1, "the file is empty; want keys such as %s", f.keys)
		return nil
	case err != nil:
		f.syntax(text, err)
		return nil
	}
	return root
}

func (f *File) notText(text []byte) {
	good := 0
	for good < len(text) {
		r, n := utf8.DecodeRune(text[good:])
		if r == utf8.RuneError && n <= 1 {
			break
		}
		good += n
	}
	before := text[:good]
	line := bytes.Count(before, []byte("\n")) + 1
	column := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:]) + 1
	f.problemAt(line, column, "the file is not UTF-8 text")
}

// errSecond says that another document follows.
var errSecond = errors.New("a second document begins here; want one in a file")

// readNode is the root of the text's only document; io.EOF when there is none.
func readNode(text []byte) (root *yaml.Node, err error) {
	defer func() {
		if r := recover(); r != nil { // the library panics on some inputs
			err = fmt.Errorf("yaml: %v", r)
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); err != nil {
		return nil, err
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil, io.EOF
	}
	root = doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, io.EOF
	}
	switch err := dec.Decode(&second); {
	case errors.Is(err, io.EOF):
		return root, nil
	case err != nil:
		return nil, err
	}
	return nil, errSecond
}

var yamlLine = regexp.MustCompile(`^(yaml: )?(line [0-9]+: )?`)

// syntax records an error of the YAML library. Its line numbers are sometimes of the enclosing block, so the line is
// found by reading the file up to each line: the first that makes this very error.
func (f *File) syntax(text []byte, err error) {
	line := 1
	if len(f.lines)*len(text) < 8<<20 { // the search is quadratic
		end := 0
		for i, l := range f.lines {
			end = min(end+len(l)+1, len(text))
			if _, e := readNode(text[:end]); e != nil && e.Error() == err.Error() {
				line = i + 1
				break
			}
		}
	}
	column := len(f.lines[line-1]) - len(strings.TrimLeft(f.lines[line-1], " \t")) + 1
	hint := ""
	if strings.Contains(f.lines[line-1], "${") && strings.Contains(err.Error(), "did not find expected") {
		hint = ": put quotes around ${VAR} inside of {} and []"
	}
	f.problemAt(line, column, "%s%s", syntaxText(err), hint)
}

func syntaxText(err error) string {
	text := yamlLine.ReplaceAllString(err.Error(), "")
	switch {
	case errors.Is(err, errSecond):
		return text
	case strings.Contains(text, "unknown anchor"), strings.Contains(text, "expected alphabetic or numeric"):
		return "not YAML: " + text + ": put quotes around a value that begins with * or &"
	case strings.Contains(text, "cannot start any token"):
		return "not YAML: " + text + ": indent with spaces, not tabs, and put quotes around a value that begins with @, ` or %"
	case strings.Contains(text, "mapping values are not allowed"):
		return "not YAML: " + text + ": check the indentation, and put quotes around a value that has a colon and a space in it"
	}
	return "not YAML: " + text
}

// check walks the tree once: it refuses what the file may not have, and replaces variables.
func (f *File) check(n *yaml.Node, env func(string) (string, bool)) {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		f.problem(n, "anchors and aliases (& and *) are not read; write the value out, or put quotes around it")
		if n.Kind == yaml.AliasNode {
			*n = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Line: n.Line, Column: n.Column}
		}
	}
	if n.Style&yaml.TaggedStyle != 0 {
		f.problem(n, "%s is read as a YAML tag; put quotes around a value that begins with an exclamation mark", n.Tag)
	}
	switch n.Kind {
	case yaml.ScalarNode:
		f.expand(n, env)
	case yaml.SequenceNode:
		for _, item := range n.Content {
			f.check(item, env)
		}
	case yaml.MappingNode:
		f.joinParentheses(n)
		f.checkKeys(n)
		for i := 1; i < len(n.Content); i += 2 {
			f.check(n.Content[i], env)
		}
	}
}

func (f *File) checkKeys(n *yaml.Node) {
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch {
		case key.Kind != yaml.ScalarNode || key.Anchor != "":
			f.problem(key, "a key is %s; want a plain word", kindOf(key))
		case key.Tag == "!!merge":
			f.problem(key, "merge keys (<<) are not read; write the values out")
		case lines[key.Value] != 0:
			f.problem(key, "the key %q is here twice; it was first in line %d", key.Value, lines[key.Value])
		default:
			lines[key.Value] = key.Line
		}
	}
}

func (f *File) expand(n *yaml.Node, env func(string) (string, bool)) {
	if !strings.Contains(n.Value, "$") {
		return
	}
	text, o, problems := expand(n.Value, env)
	for _, p := range problems {
		line, column := f.place(n, p.offset)
		f.problemAt(line, column, "%s", p.text)
	}
	o.unset = len(problems) > 0
	n.Value = text
	f.origins[n] = o
}

// joinParentheses gives back to a value what YAML took for other keys: in { type: decimal(9,2) } the comma is one in
// parentheses. It changes nothing that would be right without it, for such keys have no values.
func (f *File) joinParentheses(n *yaml.Node) {
	for i := 1; n.Style&yaml.FlowStyle != 0 && i < len(n.Content); i += 2 {
		value := n.Content[i]
		if !plain(value) || closed(value.Value) {
			continue
		}
		line := []rune(f.lines[value.Line-1])
		for j := i + 1; j+1 < len(n.Content); j += 2 {
			key, none := n.Content[j], n.Content[j+1]
			end := key.Column - 1 + utf8.RuneCountInString(key.Value)
			if !plain(key) || key.Line != value.Line || none.Tag != "!!null" || none.Value != "" || end > len(line) {
				break
			}
			if text := string(line[value.Column-1 : end]); closed(text) {
				value.Value = text
				n.Content = slices.Delete(n.Content, i+1, j+2)
				break
			}
		}
	}
}

// closed says that a text closes all parentheses that it opens.
func closed(text string) bool { return strings.Count(text, "(") <= strings.Count(text, ")") }

// plain says that a node is a value without quotes.
func plain(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Style == 0 && n.Anchor == "" }
