package expr

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/millrace-io/millrace/stream"
)

// step is one step of a path: a key, or an index.
type step struct {
	key   string
	index int // -1 for a key
}

// path is a place in a JSON text: the remaining properties, or a column of type json or list.
func (c *compiler) path(n *node) code {
	root := c.column(&node{op: opColumn, pos: n.pos, text: n.text})
	if root.broken {
		return root
	}
	if k := root.typ.Kind; k != stream.JSON && k != stream.List {
		return c.problem(n.pos, "%s is %s; only properties and columns of type json or list have something inside", n.text, describe(root))
	}
	steps := make([]step, len(n.args))
	for i, arg := range n.args {
		steps[i] = step{key: arg.value.Text(), index: -1}
		if arg.value.Kind() == stream.Int {
			steps[i] = step{index: int(min(arg.value.Int(), maxIndex))}
		}
	}
	text := root.text
	return makingText(func(e *stream.Event, m *machine) (string, bool) {
		json, ok := text(e, m)
		if !ok {
			return "", false
		}
		return lookUp(m, json, steps)
	})
}

const maxIndex = 1 << 30

// lookUp is the text of the value at steps. The JSON was checked when the event was decoded; of anything else the result is
// null or some part of it, but never a panic.
func lookUp(m *machine, json string, steps []step) (string, bool) {
	s := skipSpace(json)
	for _, step := range steps {
		var ok bool
		if step.index >= 0 {
			s, ok = element(s, step.index)
		} else {
			s, ok = member(m, s, step.key)
		}
		if !ok {
			return "", false
		}
	}
	s = s[:valueLength(s)]
	switch {
	case s == "null" || s == "":
		return "", false
	case s[0] == '"' && len(s) > 1:
		return unquote(m, s[1:len(s)-1]), true
	}
	return s, true
}

func skipSpace(s string) string {
	for s != "" && (s[0] == ' ' || s[0] == '\n' || s[0] == '\t' || s[0] == '\r') {
		s = s[1:]
	}
	return s
}

// enter goes into an object or array, to its first element.
func enter(s string, open byte) (string, bool) {
	if s == "" || s[0] != open {
		return "", false
	}
	s = skipSpace(s[1:])
	return s, s != "" && s[0] != open+2 // } is { + 2, ] is [ + 2
}

// following is what comes after a value and a comma; false at the end.
func following(s string) (string, bool) {
	s = skipSpace(s[valueLength(s):])
	if s == "" || s[0] != ',' {
		return "", false
	}
	return skipSpace(s[1:]), true
}

// element is the text from element number n of an array on.
func element(s string, n int) (string, bool) {
	s, ok := enter(s, '[')
	for ; ok && n > 0; n-- {
		s, ok = following(s)
	}
	return s, ok
}

// member is the text from the value of a key on.
func member(m *machine, s, key string) (string, bool) {
	s, ok := enter(s, '{')
	for ok && s != "" && s[0] == '"' {
		n := valueLength(s)
		name := s[1:max(n-1, 1)]
		s = skipSpace(s[n:])
		if s == "" || s[0] != ':' {
			return "", false
		}
		s = skipSpace(s[1:])
		if name == key || strings.IndexByte(name, '\\') >= 0 && unquote(m, name) == key {
			return s, true
		}
		s, ok = following(s)
	}
	return "", false
}

// valueLength is the length of the value that s begins with.
func valueLength(s string) int {
	if s == "" {
		return 0
	}
	switch s[0] {
	case '"':
		return stringLength(s)
	case '{', '[':
		return nestedLength(s)
	}
	if i := strings.IndexAny(s, ",}] \n\r\t"); i >= 0 {
		return i
	}
	return len(s)
}

// stringLength is the length of the string that s begins with, with its quotes.
func stringLength(s string) int {
	for i := 1; i < len(s); i++ {
		quote := strings.IndexByte(s[i:], '"')
		if quote < 0 {
			break
		}
		i += quote
		backslashes := 0
		for s[i-1-backslashes] == '\\' { // ends at the opening quote
			backslashes++
		}
		if backslashes%2 == 0 {
			return i + 1
		}
	}
	return len(s)
}

func nestedLength(s string) int {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			i += stringLength(s[i:]) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(s)
}

// unquote resolves the escapes of a JSON string's inside.
func unquote(m *machine, s string) string {
	at := strings.IndexByte(s, '\\')
	if at < 0 {
		return s
	}
	b := append(m.alloc(len(s))[:0], s[:at]...) // \uXXXX is longer than what it stands for
	for i := at; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b = append(b, s[i])
			continue
		}
		i++
		if plain := strings.IndexByte(`"\/bfnrt`, s[i]); plain >= 0 {
			b = append(b, "\"\\/\b\f\n\r\t"[plain])
			continue
		}
		r := utf16At(s[i:])
		i += min(4, len(s)-1-i)
		if utf16.IsSurrogate(r) {
			low := utf16At(strings.TrimPrefix(s[i+1:], `\`))
			if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
				i += 6
			}
		}
		b = utf8.AppendRune(b, r)
	}
	return viewText(b)
}

// utf16At is the code unit that uXXXX at the beginning of s stands for; U+FFFD if there is none.
func utf16At(s string) rune {
	if len(s) < 5 || s[0] != 'u' {
		return utf8.RuneError
	}
	n, err := strconv.ParseUint(s[1:5], 16, 16)
	if err != nil {
		return utf8.RuneError
	}
	return rune(n)
}
