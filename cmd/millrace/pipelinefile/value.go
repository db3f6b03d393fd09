package pipelinefile

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Value is one value of a pipeline file, present or not.
type Value struct {
	file *File
	node *yaml.Node // nil when absent
	key  *yaml.Node // what names it: the place of problems about what is missing
	path string     // "source.kafka"
}

// Present says that the file has the value.
func (v Value) Present() bool { return v.node != nil }

// or is v, or an absent value that knows its place.
func (v Value) or(parent Value, name string) Value {
	if v.Present() {
		return v
	}
	return parent.Child(name)
}

// Problem records a problem of v. The text follows v's path: "is 5; want at least 6".
func (v Value) Problem(format string, args ...any) {
	v.file.problem(v.place(), "%s", strings.TrimSpace(v.path+" "+fmt.Sprintf(format, args...)))
}

// Error places an error that a part made of v returned: path:line:column: key path: text. It is not recorded.
func (v Value) Error(err error) error {
	at := v.place()
	return fmt.Errorf("%s:%d:%d: %s: %w", v.file.Path, at.Line, at.Column, v.path, err)
}

// place is where problems of v are.
func (v Value) place() *yaml.Node {
	if v.node == nil {
		return v.key
	}
	return v.node
}

// Reject records what the caller found wrong with v: each error that is joined in err by itself. An error with the methods
// Offset() int and Text() string is about the character at that byte of v's text, or of that under a key of v if it begins
// with the key. Another one that begins with a key path below v ("roll.size is 0; want ...") is about that key.
func (v Value) Reject(err error) { v.reject(err, nil) }

func (v Value) reject(err error, silent []string) {
	if err == nil {
		return
	}
	if parts := split(err); parts != nil {
		for _, part := range parts {
			v.reject(part, silent)
		}
		return
	}
	var placed interface {
		Offset() int
		Text() string
	}
	if at := v.scalar(err); errors.As(err, &placed) && at.Present() {
		line, column := v.file.place(at.node, placed.Offset())
		v.file.problemAt(line, column, "%s: %s", at.path, placed.Text())
		return
	}
	v.rejectKey(err.Error(), silent)
}

// split takes apart what errors.Join joined; nil for any other error, those that wrap several included.
func split(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	var lines []string
	for _, one := range joined.Unwrap() {
		lines = append(lines, one.Error())
	}
	if strings.Join(lines, "\n") != err.Error() {
		return nil
	}
	return joined.Unwrap()
}

// scalar is the text that an error with an offset is about: v, or the value under the key that the error begins with.
func (v Value) scalar(err error) Value {
	at := v
	if v.Present() && v.node.Kind == yaml.MappingNode {
		first, _, _ := strings.Cut(err.Error(), " ")
		at = v.Child(first)
	}
	if at.Present() && at.node.Kind != yaml.ScalarNode {
		at.node = nil
	}
	return at
}

// rejectKey records a problem whose text begins with a key path below v, if it does.
func (v Value) rejectKey(text string, silent []string) {
	first, rest, _ := strings.Cut(text, " ")
	first = strings.TrimSuffix(first, ":")
	names := keyPath(first)
	switch {
	case first == "is" || first == "has":
		v.Problem("%s", text)
		return
	case len(names) == 0 || !keyLike(first):
		v.Problem("is wrong: %s", text)
		return
	}
	empty := strings.HasPrefix(rest, "is empty") || strings.Contains(rest, `""`)
	if slices.ContainsFunc(silent, func(s string) bool { return within(first, s) || empty && within(s, first) }) {
		return // it follows from one that is told already
	}
	at := v
	for _, name := range names {
		if at = at.Child(name); !at.Present() {
			break
		}
	}
	at.path = strings.TrimPrefix(v.path+"."+first, ".")
	at.Problem("%s", rest)
}

// Text is the text of a single value.
func (v Value) Text() (string, bool) {
	if !v.Present() {
		return "", false
	}
	d := decoder{file: v.file}
	var s string
	ok := d.text(v.node, v.path, &s)
	return s, ok
}

// Into decodes v into the struct that cfg points to, and calls its Validate if it has one. False: there were problems, now
// recorded. An absent value leaves cfg to its defaults.
func (v Value) Into(cfg any) bool {
	before := len(v.file.problems)
	d := decoder{file: v.file}
	if v.Present() {
		d.into(v.node, v.path, cfg)
	}
	if c, ok := cfg.(interface{ Validate() error }); ok {
		silent := make([]string, len(d.seen))
		for i, s := range d.seen {
			silent[i] = strings.TrimPrefix(strings.TrimPrefix(s, v.path), ".")
		}
		if !slices.Contains(silent, "") { // else it is not even a mapping
			v.reject(c.Validate(), silent)
		}
	}
	return len(v.file.problems) == before && len(d.seen) == 0
}

// Child is the value under a key or at an index from 0, present or not. The place of an absent one is that of the last
// value above it that is there.
func (v Value) Child(name string) Value {
	c := Value{file: v.file, key: v.key, path: strings.TrimPrefix(v.path+"."+name, ".")}
	if v.node == nil {
		return c
	}
	switch v.node.Kind {
	case yaml.MappingNode:
		for _, sub := range v.children() {
			if sub.key.Value == name {
				return sub
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(v.node.Content) {
			c.node, c.key = v.node.Content[i], v.node.Content[i]
		}
	}
	return c
}

// Children is the values of a mapping, in order, each key once. False: it is no mapping, which is recorded.
func (v Value) Children() ([]Value, bool) {
	d := decoder{file: v.file}
	if !v.Present() || !d.want(v.node, v.path, yaml.MappingNode, "keys and values") {
		return nil, false
	}
	return v.children(), true
}

// Key is the name of a value among Children.
func (v Value) Key() string { return v.key.Value }

func (v Value) children() []Value {
	var cs []Value
	seen := map[string]bool{}
	for i := 0; i+1 < len(v.node.Content); i += 2 {
		key := v.node.Content[i]
		if key.Kind != yaml.ScalarNode || seen[key.Value] {
			continue // reported by check
		}
		seen[key.Value] = true
		cs = append(cs, Value{file: v.file, node: v.node.Content[i+1], key: key, path: strings.TrimPrefix(v.path+"."+key.Value, ".")})
	}
	return cs
}

// Choices is the entries of a mapping whose keys say what they are. What else it is becomes a problem.
func (v Value) Choices() []*Choice {
	if v.node.Kind != yaml.MappingNode {
		v.Problem("is %s; want the kind and its settings, such as kind: {...}", kindOf(v.node))
		return nil
	}
	if len(v.node.Content) == 0 {
		v.Problem("is empty; want the kind and its settings, such as kind: {...}")
	}
	var cs []*Choice
	for _, sub := range v.children() {
		cs = append(cs, &Choice{Value: sub, Kind: sub.key.Value})
	}
	return cs
}

// Choice is a value whose key says what it is: kafka: {...}.
type Choice struct {
	Value
	Kind  string
	asked []string
}

// Is says whether the file says this kind. What was asked is what Unknown suggests, so that the names stand in one place:
// the cases of the caller's switch.
func (c *Choice) Is(kind string) bool {
	c.asked = append(c.asked, kind)
	return c.Kind == kind
}

// Unknown records that no kind was the right one. later names those that other versions have.
func (c *Choice) Unknown(what string, later ...string) {
	switch near := nearest(c.Kind, append(slices.Clone(c.asked), later...)); {
	case slices.Contains(later, c.Kind):
		c.file.problem(c.key, "%s: the %s %s is not in this version; want %s", c.path, what, c.Kind, oneOf(c.asked))
	case near != "":
		c.file.problem(c.key, "%s: unknown %s %q; did you mean %q?", c.path, what, c.Kind, near)
	default:
		c.file.problem(c.key, "%s: unknown %s %q; want %s", c.path, what, c.Kind, oneOf(c.asked))
	}
}

// keyLike says that a word is a key path and not the first word of a sentence: it is written as keys are.
func keyLike(word string) bool {
	return word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.[]/") == ""
}

// keyPath splits "columns.price.type" and "topics[1].x" into names.
func keyPath(word string) []string {
	return strings.FieldsFunc(word, func(r rune) bool { return r == '.' || r == '[' || r == ']' })
}

// within says that a key path is another one or below it.
func within(path, other string) bool {
	rest, ok := strings.CutPrefix(path, other)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}
