package expr

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/millrace-io/millrace/stream"
)

// Bounds of an expression, against stack overflow.
const (
	maxSource = 16 << 10 // bytes
	maxDepth  = 100      // of brackets and prefixes
)

// node is one node of the tree. Op is one of the names below or the operator itself.
type node struct {
	op    string
	pos   int          // byte of the source: of the operator, or of the first character
	text  string       // name of a column, function or a path's root; a number as it was written
	value stream.Value // of a literal
	args  []*node      // of a path: the steps, literals of kind String or Int
}

const (
	opLiteral = "literal"
	opColumn  = "column"
	opPath    = "path"
	opList    = "list"
	opCall    = "call"
	opMinus   = "minus" // the prefix
)

// Binding strength of operators.
const (
	bindOr = 1 + iota
	bindAnd
	bindComparison
	bindSum
	bindProduct
	bindPrefix
	bindPrimary
)

func binding(op string) int {
	switch op {
	case "||":
		return bindOr
	case "&&":
		return bindAnd
	case "==", "!=", "<", "<=", ">", ">=", "in":
		return bindComparison
	case "+", "-":
		return bindSum
	case "*", "/", "%":
		return bindProduct
	case "!", opMinus:
		return bindPrefix
	}
	return bindPrimary
}

func (n *node) String() string { return string(n.appendTo(nil)) }

// appendTo writes n so that parsing it again makes the same tree.
func (n *node) appendTo(b []byte) []byte {
	switch n.op {
	case opLiteral:
		return n.appendLiteral(b)
	case opColumn:
		return append(b, n.text...)
	case opPath:
		b = append(b, n.text...)
		for _, step := range n.args {
			b = append(step.appendLiteral(append(b, '[')), ']')
		}
		return b
	case opList:
		return n.appendArgs(b, '[', ']')
	case opCall:
		return n.appendArgs(append(b, n.text...), '(', ')')
	case "!":
		return n.args[0].appendWithin(append(b, '!'), bindPrefix)
	case opMinus:
		if n.args[0].op == opLiteral { // -5 is one literal
			return append(n.args[0].appendTo(append(b, "-("...)), ')')
		}
		return n.args[0].appendWithin(append(b, '-'), bindPrefix)
	}
	left, right := binding(n.op), binding(n.op)+1
	if left == bindComparison {
		left++
	}
	b = n.args[0].appendWithin(b, left)
	b = append(append(append(b, ' '), n.op...), ' ')
	return n.args[1].appendWithin(b, right)
}

// appendWithin puts n in brackets where it binds less than is needed.
func (n *node) appendWithin(b []byte, least int) []byte {
	if binding(n.op) >= least {
		return n.appendTo(b)
	}
	return append(n.appendTo(append(b, '(')), ')')
}

func (n *node) appendArgs(b []byte, open, end byte) []byte {
	b = append(b, open)
	for i, a := range n.args {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = a.appendTo(b)
	}
	return append(b, end)
}

func (n *node) appendLiteral(b []byte) []byte {
	switch n.value.Kind() {
	case stream.Null:
		return append(b, "null"...)
	case stream.String:
		return append(append(append(b, '"'), escaper().Replace(n.value.Text())...), '"')
	case stream.Bool:
		return strconv.AppendBool(b, n.value.Bool())
	}
	return append(b, n.text...)
}

func escaper() *strings.Replacer {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`)
}

// token is one word of the source.
type token struct {
	kind tokenKind
	pos  int
	text string // as written; of a text, its content
}

type tokenKind uint8

const (
	tokenEnd tokenKind = iota
	tokenName
	tokenInt
	tokenFloat
	tokenText
	tokenSign
)

func (t token) String() string {
	switch t.kind {
	case tokenEnd:
		return "the end"
	case tokenText:
		return "the text " + strconv.Quote(t.text)
	}
	return strconv.Quote(t.text)
}

type parser struct {
	src   string
	at    int   // where the next token begins
	token token // the one at hand
	depth int
	err   *Error // the first; from then on the token is the end
}

func parse(src string) (*node, error) {
	if len(src) > maxSource {
		return nil, errorAt("", 0, "the expression has %d bytes; want at most %d", len(src), maxSource)
	}
	p := &parser{src: src}
	for i, r := range src {
		if r == utf8.RuneError && !strings.HasPrefix(src[i:], string(utf8.RuneError)) {
			return nil, errorAt(src, i, "the expression is not valid UTF-8")
		}
	}
	p.next()
	n := p.binary(bindOr)
	if p.err == nil && p.token.kind != tokenEnd {
		p.fail(p.token.pos, "want an operator or the end, found %v", p.token)
	}
	if p.err != nil {
		return nil, p.err
	}
	return n, nil
}

func (p *parser) fail(pos int, format string, args ...any) {
	if p.err == nil {
		p.err = errorAt(p.src, pos, format, args...)
	}
	p.token = token{kind: tokenEnd, pos: pos}
	p.at = len(p.src)
}

func (p *parser) isSign(text string) bool { return p.token.kind == tokenSign && p.token.text == text }

// operator is the binary operator at hand, if it binds with the given strength.
func (p *parser) operator(strength int) (string, bool) {
	isIn := p.token.kind == tokenName && p.token.text == "in"
	if !isIn && p.token.kind != tokenSign {
		return "", false
	}
	return p.token.text, binding(p.token.text) == strength && p.token.text != "!"
}

// binary parses operators of the given strength and above.
func (p *parser) binary(strength int) *node {
	if strength == bindPrefix {
		return p.prefix()
	}
	left := p.binary(strength + 1)
	for compared := false; ; compared = strength == bindComparison {
		op, ok := p.operator(strength)
		if !ok {
			return left
		}
		if compared {
			p.fail(p.token.pos, "comparisons do not chain; join two with &&")
			return left
		}
		n := &node{op: op, pos: p.token.pos, args: []*node{left, nil}}
		p.next()
		if op == "in" {
			n.args[1] = p.list()
		} else {
			n.args[1] = p.binary(strength + 1)
		}
		left = n
	}
}

func (p *parser) prefix() *node {
	pos := p.token.pos
	switch {
	case p.isSign("!"):
		p.next()
		return &node{op: "!", pos: pos, args: []*node{p.deeper(p.prefix)}}
	case p.isSign("-"):
		p.next()
		if p.token.kind == tokenInt || p.token.kind == tokenFloat {
			return p.number("-", pos)
		}
		return &node{op: opMinus, pos: pos, args: []*node{p.deeper(p.prefix)}}
	}
	return p.primary()
}

// deeper guards the stack.
func (p *parser) deeper(parse func() *node) *node {
	if p.depth++; p.depth > maxDepth {
		p.fail(p.token.pos, "the expression is nested too deeply; want at most %d levels", maxDepth)
	}
	n := parse()
	p.depth--
	return n
}

func (p *parser) primary() *node {
	t := p.token
	switch {
	case t.kind == tokenInt || t.kind == tokenFloat:
		return p.number("", t.pos)
	case t.kind == tokenText:
		p.next()
		return &node{op: opLiteral, pos: t.pos, value: stream.StringValue(t.text)}
	case t.kind == tokenName && t.text != "in":
		p.next()
		return p.named(t)
	case p.isSign("("):
		p.next()
		n := p.deeper(func() *node { return p.binary(bindOr) })
		p.want(")", "to close the bracket")
		return n
	case p.isSign("["):
		p.fail(t.pos, "a list stands only after in")
	}
	p.fail(t.pos, "want a value, found %v", t)
	return &node{op: opLiteral, pos: t.pos}
}

func (p *parser) want(sign, why string) {
	if !p.isSign(sign) {
		p.fail(p.token.pos, "want %q %s, found %v", sign, why, p.token)
		return
	}
	p.next()
}

// named parses what begins with a name.
func (p *parser) named(t token) *node {
	switch {
	case t.text == "null":
		return &node{op: opLiteral, pos: t.pos}
	case t.text == "true" || t.text == "false":
		return &node{op: opLiteral, pos: t.pos, value: stream.BoolValue(t.text == "true")}
	case p.isSign("("):
		p.next()
		return &node{op: opCall, pos: t.pos, text: t.text, args: p.values(")")}
	case p.isSign(".") || p.isSign("["):
		return p.path(t)
	}
	return &node{op: opColumn, pos: t.pos, text: t.text}
}

func (p *parser) path(root token) *node {
	n := &node{op: opPath, pos: root.pos, text: root.text}
	for p.isSign(".") || p.isSign("[") {
		bracket := p.token.text == "["
		p.next()
		t := p.token
		switch {
		case !bracket && t.kind == tokenName, bracket && t.kind == tokenText:
			n.args = append(n.args, &node{op: opLiteral, pos: t.pos, value: stream.StringValue(t.text)})
			p.next()
		case bracket && t.kind == tokenInt:
			n.args = append(n.args, p.number("", t.pos))
		case bracket:
			p.fail(t.pos, `want a key in quotes or an index, as in properties["utm source"] or properties.tags[0], found %v`, t)
		default:
			p.fail(t.pos, `want a key after the dot, found %v; other keys are written properties["utm source"]`, t)
		}
		if bracket {
			p.want("]", "to close the step")
		}
	}
	return n
}

// list parses what follows in.
func (p *parser) list() *node {
	n := &node{op: opList, pos: p.token.pos}
	if !p.isSign("[") {
		p.fail(p.token.pos, `want a list after in, such as ["a", "b"], found %v`, p.token)
		return n
	}
	p.next()
	n.args = p.values("]")
	return n
}

// values parses values up to the closing sign.
func (p *parser) values(end string) []*node {
	var args []*node
	for !p.isSign(end) && p.err == nil {
		args = append(args, p.deeper(func() *node { return p.binary(bindOr) }))
		if !p.isSign(end) {
			p.want(",", "or "+strconv.Quote(end)+" after a value")
		}
	}
	p.want(end, "at the end of the values")
	return args
}

// number parses the number at hand behind a sign.
func (p *parser) number(sign string, pos int) *node {
	t := p.token
	n := &node{op: opLiteral, pos: pos, text: sign + t.text}
	if t.kind == tokenInt {
		i, err := strconv.ParseInt(n.text, 10, 64)
		if err != nil {
			p.fail(pos, "%s is beyond 64 bits", n.text)
		}
		n.value, n.text = stream.IntValue(i), strconv.FormatInt(i, 10)
	} else {
		f, err := strconv.ParseFloat(n.text, 64)
		if err != nil || math.IsInf(f, 0) {
			p.fail(pos, "%s is beyond the range of floats", n.text)
		}
		n.value = stream.FloatValue(f)
	}
	p.next()
	return n
}

// next reads the next token.
func (p *parser) next() {
	if p.err != nil {
		return
	}
	p.at += len(p.src[p.at:]) - len(strings.TrimLeft(p.src[p.at:], " \t\r\n"))
	p.token = token{kind: tokenEnd, pos: p.at}
	if p.at == len(p.src) {
		return
	}
	switch c := p.src[p.at]; {
	case isLetter(c):
		p.take(tokenName, p.span(func(c byte) bool { return isLetter(c) || isDigit(c) }))
	case isDigit(c):
		p.readNumber()
	case c == '"' || c == '\'' || c == '`':
		p.readText(c)
	default:
		p.readSign()
	}
}

func isLetter(c byte) bool { return c == '_' || 'a' <= c|0x20 && c|0x20 <= 'z' }
func isDigit(c byte) bool  { return '0' <= c && c <= '9' }

// span is how many bytes from here on are of a class.
func (p *parser) span(class func(byte) bool) int {
	n := 0
	for p.at+n < len(p.src) && class(p.src[p.at+n]) {
		n++
	}
	return n
}

func (p *parser) take(kind tokenKind, n int) {
	p.token = token{kind: kind, pos: p.at, text: p.src[p.at : p.at+n]}
	p.at += n
}

func (p *parser) readNumber() {
	from, kind := p.at, tokenInt
	p.at += p.span(isDigit)
	rest := p.src[p.at:]
	if len(rest) > 1 && rest[0] == '.' && isDigit(rest[1]) {
		kind = tokenFloat
		p.at++
		p.at += p.span(isDigit)
	}
	if n := exponent(p.src[p.at:]); n > 0 {
		kind = tokenFloat
		p.at += n
	}
	if p.at < len(p.src) && isLetter(p.src[p.at]) {
		p.fail(from, "%q is neither a number nor a name", p.src[from:p.at+p.span(func(c byte) bool { return isLetter(c) || isDigit(c) })])
		return
	}
	n := p.at - from
	p.at = from
	p.take(kind, n)
}

// exponent is the length of the exponent that s begins with.
func exponent(s string) int {
	if s == "" || s[0]|0x20 != 'e' {
		return 0
	}
	n := 1
	if n < len(s) && (s[n] == '+' || s[n] == '-') {
		n++
	}
	digits := n
	for n < len(s) && isDigit(s[n]) {
		n++
	}
	if n == digits {
		return 0
	}
	return n
}

func (p *parser) readText(quote byte) {
	from := p.at
	var text []byte
	for i := from + 1; i < len(p.src); i++ {
		c := p.src[i]
		switch {
		case c == quote:
			p.token = token{kind: tokenText, pos: from, text: string(text)}
			p.at = i + 1
			return
		case c == '\\' && quote != '`':
			i++
			escaped := strings.IndexByte(`\'"nrt`, safeByte(p.src, i))
			if escaped < 0 {
				p.fail(i-1, `unknown escape; want \\ for a backslash, or the text in backquotes`)
				return
			}
			text = append(text, "\\'\"\n\r\t"[escaped])
		default:
			text = append(text, c)
		}
	}
	p.fail(from, "the text has no closing %c", quote)
}

// safeByte is s[i], or 0 after the end.
func safeByte(s string, i int) byte {
	if i < len(s) {
		return s[i]
	}
	return 0
}

func (p *parser) readSign() {
	rest := p.src[p.at:]
	two := rest[:min(2, len(rest))]
	switch {
	case slices.Contains([]string{"==", "!=", "<=", ">=", "&&", "||"}, two):
		p.take(tokenSign, 2)
	case strings.IndexByte("<>!+-*/%()[],.", rest[0]) >= 0:
		p.take(tokenSign, 1)
	case strings.IndexByte("=&|", rest[0]) >= 0:
		p.fail(p.at, "unknown sign %q; did you mean %q?", rest[:1], rest[:1]+rest[:1])
	default:
		r, _ := utf8.DecodeRuneInString(rest)
		p.fail(p.at, "unknown sign %q", r)
	}
}
