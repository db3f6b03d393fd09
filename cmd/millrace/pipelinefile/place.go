package pipelinefile

import (
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const (
	blockStyle = yaml.LiteralStyle | yaml.FoldedStyle
	quoteStyle = yaml.SingleQuotedStyle | yaml.DoubleQuotedStyle
)

// place is the line and column of a byte of a scalar's value. It walks the file's text and the value side by side, and
// answers with the scalar's beginning where they differ in a way that it does not follow (an escape such as \u0041).
func (f *File) place(n *yaml.Node, offset int) (line, column int) {
	value := n.Value
	if o, ok := f.origins[n]; ok {
		value, offset = o.text, o.before(offset)
	}
	w := walk{lines: f.lines, style: n.Style}
	w.open(n)
	for at := 0; at < min(offset, len(value)); {
		r, size := utf8.DecodeRuneInString(value[at:])
		if !w.step(r) {
			return n.Line, n.Column
		}
		at += size
	}
	return w.line + 1, w.column + 1
}

// walk is a place in the file's text, in a scalar.
type walk struct {
	lines        []string
	style        yaml.Style
	line, column int    // from 0; columns are characters
	indent       int    // where the lines of a block begin
	text         []rune // of the line
}

// open moves to the first character of the value.
func (w *walk) open(n *yaml.Node) {
	if w.style&blockStyle == 0 {
		w.moveTo(n.Line-1, n.Column-1)
		if w.style&quoteStyle != 0 {
			w.column++
		}
		return
	}
	for _, l := range w.lines[min(n.Line, len(w.lines)):] {
		if t := strings.TrimLeft(l, " "); strings.TrimSpace(t) != "" {
			w.indent = len(l) - len(t)
			break
		}
	}
	w.moveTo(n.Line, w.indent)
}

func (w *walk) moveTo(line, column int) {
	w.line, w.column, w.text = line, column, nil
	if line < len(w.lines) {
		w.text = []rune(strings.TrimSuffix(w.lines[line], "\r"))
	}
}

// peek is the character at the place or ahead of it; 0 after the end of the line.
func (w *walk) peek(ahead int) rune {
	if i := w.column + ahead; i >= 0 && i < len(w.text) {
		return w.text[i]
	}
	return 0
}

// step goes over one character of the value; false when the text does not have it there.
func (w *walk) step(r rune) bool {
	switch c := w.peek(0); {
	case c == 0 && (r == '\n' || r == ' ') && w.line < len(w.lines):
		w.moveTo(w.line+1, w.indent)
		for w.style&blockStyle == 0 && (w.peek(0) == ' ' || w.peek(0) == '\t') {
			w.column++
		}
	case w.style&yaml.SingleQuotedStyle != 0 && c == '\'' && r == '\'':
		w.column += 2 // it is doubled
	case w.style&yaml.DoubleQuotedStyle != 0 && c == '\\':
		w.column += 2
		return w.peek(-1) == r && (r == '"' || r == '\\' || r == '/')
	case c == r:
		w.column++
	default:
		return false
	}
	return true
}
