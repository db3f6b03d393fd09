package expr

import (
	"strings"
	"unicode"
	"unicode/utf8"
	"unsafe"

	"github.com/millrace-io/millrace/stream"
)

// viewText is b as a text, without a copy; b is not written any more.
func viewText(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// viewBytes is s as bytes that are only read.
func viewBytes(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

func lower(m *machine, s string) string { return mapRunes(m, s, 'A', 'Z', unicode.ToLower) }
func upper(m *machine, s string) string { return mapRunes(m, s, 'a', 'z', unicode.ToUpper) }

// mapRunes maps each character. first to last are the ASCII letters that change, by their bit 5.
func mapRunes(m *machine, s string, first, last byte, change func(rune) rune) string {
	at := 0
	for at < len(s) && s[at] < utf8.RuneSelf && (s[at] < first || s[at] > last) {
		at++
	}
	if at == len(s) {
		return s
	}
	if !isASCII(s[at:]) {
		return mapUnicode(m, s, change)
	}
	b := m.alloc(len(s))
	copy(b, s)
	for i := at; i < len(b); i++ {
		if c := b[i]; first <= c && c <= last {
			b[i] = c ^ 0x20
		}
	}
	return viewText(b)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func mapUnicode(m *machine, s string, change func(rune) rune) string {
	size := 0
	for _, r := range s {
		size += utf8.RuneLen(change(r))
	}
	b := m.alloc(size)[:0]
	for _, r := range s {
		b = utf8.AppendRune(b, change(r))
	}
	return viewText(b)
}

func trim(s string) string { return strings.TrimSpace(s) }

func concat(_ *compiler, _ *node, args []code) code {
	return makingText(func(e *stream.Event, m *machine) (string, bool) {
		var few [4]string
		parts, size, whole := few[:0], 0, true
		for i := range args {
			s, ok := args[i].text(e, m)
			parts = append(parts, s)
			size += len(s)
			whole = whole && ok
		}
		if !whole {
			return "", false
		}
		b := m.alloc(size)[:0]
		for _, s := range parts {
			b = append(b, s...)
		}
		return viewText(b), true
	})
}

func length(_ *compiler, _ *node, args []code) code {
	text := args[0].text
	return code{typ: of(stream.Int), whole: func(e *stream.Event, m *machine) (int64, bool) {
		s, ok := text(e, m)
		return int64(utf8.RuneCountInString(s)), ok
	}}
}

// maxText is the most bytes that replace makes: in a few steps it could make any number of a small event.
const maxText = 1 << 20

func replace(c *compiler, n *node, args []code) code {
	text, from, to := args[0].text, args[1].text, args[2].text
	failure := c.failure(n.pos, "replace: the result is longer than 1 MiB")
	z := makingText(func(e *stream.Event, m *machine) (string, bool) {
		s, ok := text(e, m)
		before, beforeOK := from(e, m)
		after, afterOK := to(e, m)
		if !ok || !beforeOK || !afterOK {
			return "", false
		}
		r, fits := replaceAll(m, s, before, after)
		if !fits {
			m.fail(failure)
		}
		return r, true
	})
	if args[1].constant && args[2].constant && len(args[1].value.Text()) >= len(args[2].value.Text()) {
		return z
	}
	return mayFail(n, z, "it can make a text too long")
}

// replaceAll leaves s alone if from is empty.
func replaceAll(m *machine, s, from, to string) (text string, fits bool) {
	if from == "" {
		return s, true
	}
	n := strings.Count(s, from)
	if n == 0 {
		return s, true
	}
	size := len(s) + n*(len(to)-len(from))
	if size > maxText && size > len(s) {
		return "", false
	}
	b := m.alloc(size)[:0]
	for {
		before, after, found := strings.Cut(s, from)
		b = append(b, before...)
		if !found {
			return viewText(b), true
		}
		b = append(b, to...)
		s = after
	}
}

// splitPart counts parts from 1, or from the end with -1; null if there are not so many.
func splitPart(c *compiler, n *node, args []code) code {
	if !c.literal(n, args[2]) {
		return code{}
	}
	part := args[2].value.Int()
	if part == 0 {
		return c.problem(args[2].node.pos, "split_part counts from 1, or from the end with -1; got 0")
	}
	text, separator := args[0].text, args[1].text
	return code{typ: of(stream.String), text: func(e *stream.Event, m *machine) (string, bool) {
		s, ok := text(e, m)
		by, byOK := separator(e, m)
		if !ok || !byOK {
			return "", false
		}
		return partOf(s, by, part)
	}}
}

func partOf(s, by string, n int64) (string, bool) {
	if by == "" {
		return s, n == 1 || n == -1
	}
	for ; n > 1; n-- {
		i := strings.Index(s, by)
		if i < 0 {
			return "", false
		}
		s = s[i+len(by):]
	}
	for ; n < -1; n++ {
		i := strings.LastIndex(s, by)
		if i < 0 {
			return "", false
		}
		s = s[:i]
	}
	if n == 1 {
		s, _, _ = strings.Cut(s, by)
		return s, true
	}
	if i := strings.LastIndex(s, by); i >= 0 {
		s = s[i+len(by):]
	}
	return s, true
}

// toText writes any value as the sinks do that only have texts.
func toText(c *compiler, n *node, args []code) code {
	x := args[0]
	if x.typ.Kind == stream.Null {
		return null()
	}
	if x.text != nil {
		return code{typ: of(stream.String), text: x.text}
	}
	value, t := x.store(x.typ), x.typ
	z := makingText(func(e *stream.Event, m *machine) (string, bool) {
		v := value(e, m)
		if v.IsNull() {
			return "", false
		}
		m.scratch = v.AppendText(m.scratch[:0], t)
		b := m.alloc(len(m.scratch))
		copy(b, m.scratch)
		return viewText(b), true
	})
	if t.Kind == stream.Float && x.column == 0 {
		return mayFail(n, z, "the number may not be finite")
	}
	return z
}

// validText is b as a text of valid UTF-8.
func validText(b []byte) string {
	if utf8.Valid(b) {
		return viewText(b)
	}
	return strings.ToValidUTF8(string(b), string(utf8.RuneError))
}
