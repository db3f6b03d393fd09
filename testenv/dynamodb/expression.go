package dynamodb

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// reservedWords is Amazon's list: they are no attribute names in expressions.
//
//go:embed reserved.txt
var reservedWords string

func isReserved(name string) bool {
	for word := range strings.SplitSeq(reservedWords, "\n") {
		if strings.EqualFold(word, name) {
			return true
		}
	}
	return false
}

// scope is what the expressions of one request share: the names and values beside them.
type scope struct {
	names  map[string]string
	values map[string]value
	used   map[string]bool // of both
	parsed bool            // some expression was there
	roots  []string        // first names of all paths that were read
}

// done checks that nothing was given in vain.
func (s *scope) done() error {
	for _, c := range []struct {
		what string
		keys []string
	}{
		{"ExpressionAttributeNames", slices.Sorted(maps.Keys(s.names))},
		{"ExpressionAttributeValues", slices.Sorted(maps.Keys(s.values))},
	} {
		var idle []string
		for _, k := range c.keys {
			if !s.used[k] {
				idle = append(idle, k)
			}
		}
		switch {
		case len(c.keys) > 0 && !s.parsed:
			return invalid("%s can only be specified when using expressions", c.what)
		case len(idle) > 0:
			return invalid("Value provided in %s unused in expressions: keys: {%s}", c.what, strings.Join(idle, ", "))
		}
	}
	return nil
}

// step is one step of a path: into a map by name, or into a list by index.
type step struct {
	name  string // empty: index counts
	index int
}

// path is a document path: a.b[3].c.
type path []step

func (p path) String() string {
	var parts []string
	for _, s := range p {
		if s.name == "" {
			parts = append(parts, fmt.Sprintf("[%d]", s.index))
		} else {
			parts = append(parts, s.name)
		}
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// in looks the path up.
func (p path) in(it item) (value, bool) {
	v := value{kind: kindM, m: it}
	for _, s := range p {
		next, ok := v.child(s)
		if !ok {
			return value{}, false
		}
		v = next
	}
	return v, true
}

func (v value) child(s step) (value, bool) {
	switch {
	case s.name != "" && v.kind == kindM:
		c, ok := v.m[s.name]
		return c, ok
	case s.name == "" && v.kind == kindL && s.index < len(v.l):
		return v.l[s.index], true
	}
	return value{}, false
}

// parser reads one expression. It gives up by a panic with a syntaxError, which parse catches.
type parser struct {
	*scope
	what   string // "ConditionExpression"
	text   string
	tokens []tok
	at     int
	group  [2]int // tokens of the last condition in parentheses that was read: the first and the last
}

type tok struct {
	kind tokKind
	text string
	pos  int // in the expression
}

type tokKind int

const (
	tokEnd tokKind = iota
	tokWord
	tokName   // #name
	tokValue  // :value
	tokNumber // within [ ]
	tokSign
)

type syntaxError struct{ error }

// parse runs read on an expression and returns what it panicked with.
func (s *scope) parse(what, text string, read func(*parser)) (err error) {
	s.parsed = true
	defer func() {
		if r := recover(); r != nil {
			failed, ok := r.(syntaxError)
			if !ok {
				panic(r)
			}
			err = failed.error
		}
	}()
	p := &parser{scope: s, what: what, text: text}
	if text == "" {
		p.fail("The expression can not be empty;")
	}
	p.lex()
	read(p)
	if p.peek().kind != tokEnd {
		p.unexpected()
	}
	return nil
}

func (p *parser) fail(format string, args ...any) {
	panic(syntaxError{invalid("Invalid %s: %s", p.what, fmt.Sprintf(format, args...))})
}

// unexpected says where the syntax breaks.
func (p *parser) unexpected() {
	t := p.peek()
	if t.kind == tokEnd {
		t.text = "<EOF>"
	}
	from, to := 0, len(p.text)
	if p.at > 0 {
		from = p.tokens[p.at-1].pos
	}
	if p.at+1 < len(p.tokens) {
		to = p.tokens[p.at+1].pos + len(p.tokens[p.at+1].text)
	}
	p.fail(`Syntax error; token: "%s", near: "%s"`, t.text, strings.TrimSpace(p.text[from:to]))
}

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789"

func (p *parser) lex() {
	for i := 0; i < len(p.text); {
		rest := p.text[i:]
		n := len(rest) - len(strings.TrimLeft(rest, letters))
		kind := tokWord
		switch c := rest[0]; {
		case strings.IndexByte(" \t\r\n", c) >= 0:
			i++
			continue
		case c == '#' || c == ':':
			kind, n = map[byte]tokKind{'#': tokName, ':': tokValue}[c], len(rest)-len(strings.TrimLeft(rest[1:], letters))
		case n > 0 && c >= '0' && c <= '9':
			kind = tokNumber
		case n > 0:
		case strings.HasPrefix(rest, "<>") || strings.HasPrefix(rest, "<=") || strings.HasPrefix(rest, ">="):
			kind, n = tokSign, 2
		case strings.IndexByte("=<>(),.[]+-", c) >= 0:
			kind, n = tokSign, 1
		default:
			p.fail(`Syntax error; token: "%c", near: "%s"`, c, rest)
		}
		p.tokens = append(p.tokens, tok{kind, rest[:n], i})
		i += n
	}
	p.tokens = append(p.tokens, tok{kind: tokEnd, pos: len(p.text)})
}

func (p *parser) peek() tok { return p.tokens[p.at] }

func (p *parser) next() tok {
	t := p.peek()
	if t.kind != tokEnd {
		p.at++
	}
	return t
}

// sign takes a sign if it is next.
func (p *parser) sign(s string) bool {
	ok := p.peek().kind == tokSign && p.peek().text == s
	if ok {
		p.at++
	}
	return ok
}

func (p *parser) want(s string) {
	if !p.sign(s) {
		p.unexpected()
	}
}

// keyword takes a word if it is next, in whatever case.
func (p *parser) keyword(w string) bool {
	ok := p.isKeyword(w)
	if ok {
		p.at++
	}
	return ok
}

func (p *parser) isKeyword(w string) bool {
	return p.peek().kind == tokWord && strings.EqualFold(p.peek().text, w)
}

// call takes the name of a function and the parenthesis after it.
func (p *parser) call() (string, bool) {
	if p.peek().kind != tokWord || p.tokens[p.at+1].text != "(" {
		return "", false
	}
	name := p.next().text
	p.next()
	return name, true
}

// path reads a document path.
func (p *parser) path() path {
	out := path{p.name()}
	p.roots = append(p.roots, out[0].name)
	for {
		switch {
		case p.sign("."):
			out = append(out, p.name())
		case p.sign("["):
			n, err := strconv.Atoi(p.peek().text)
			if err != nil || p.peek().kind != tokNumber {
				p.unexpected()
			}
			p.next()
			p.want("]")
			out = append(out, step{index: n})
		default:
			return out
		}
	}
}

func (p *parser) name() step {
	switch t := p.peek(); t.kind {
	case tokWord:
		if isReserved(t.text) {
			p.fail("Attribute name is a reserved keyword; reserved keyword: %s", t.text)
		}
		p.next()
		return step{name: t.text}
	case tokName:
		name, ok := p.names[t.text]
		if !ok {
			p.fail("An expression attribute name used in the document path is not defined; attribute name: %s", t.text)
		}
		p.used[t.text] = true
		p.next()
		return step{name: name}
	}
	p.unexpected()
	return step{}
}

// value reads a :value.
func (p *parser) value() value {
	t := p.peek()
	if t.kind != tokValue {
		p.unexpected()
	}
	v, ok := p.values[t.text]
	if !ok {
		p.fail("An expression attribute value used in expression is not defined; attribute value: %s", t.text)
	}
	p.used[t.text] = true
	p.next()
	return v
}

// projection reads paths with commas between them.
func (s *scope) projection(text string) ([]path, error) {
	var out []path
	err := s.parse("ProjectionExpression", text, func(p *parser) {
		for {
			out = append(out, p.path())
			if !p.sign(",") {
				break
			}
		}
		p.apart(out)
	})
	return out, err
}

// apart checks that no two paths are the same, and that none lies in another.
func (p *parser) apart(paths []path) {
	for i, a := range paths {
		for _, b := range paths[:i] {
			n := min(len(a), len(b))
			if slices.Equal(a[:n], b[:n]) {
				p.fail("Two document paths overlap with each other; must remove or rewrite one of these paths; path one: %s, path two: %s", b, a)
			}
		}
	}
}

// project is the parts of an item that the paths name; all of it without paths.
func project(it item, paths []path) item {
	if paths == nil {
		return it
	}
	out, _ := pick(value{kind: kindM, m: it}, paths)
	return out.m
}

// pick keeps what paths lead to. Kept elements of a list move together.
func pick(v value, paths []path) (value, bool) {
	if slices.ContainsFunc(paths, func(p path) bool { return len(p) == 0 }) {
		return v, true
	}
	out := value{kind: v.kind, m: map[string]value{}}
	heads := map[step][]path{}
	for _, p := range paths {
		heads[p[0]] = append(heads[p[0]], p[1:])
	}
	found := false
	for _, head := range slices.SortedFunc(maps.Keys(heads), func(a, b step) int { return a.index - b.index }) {
		child, ok := v.child(head)
		if !ok {
			continue
		}
		if child, ok = pick(child, heads[head]); !ok {
			continue
		}
		found = true
		if head.name != "" {
			out.m[head.name] = child
		} else {
			out.l = append(out.l, child)
		}
	}
	return out, found
}
