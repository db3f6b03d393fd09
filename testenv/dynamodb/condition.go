package dynamodb

import "slices"

// condition says whether something holds for an item; the item of a missing row is nil.
type condition interface{ holds(item) bool }

type (
	and struct{ a, b condition }
	or  struct{ a, b condition }
	not struct{ a condition }

	// comparison is one of = <> < <= > >=.
	comparison struct {
		op   string
		a, b operand
	}
	between struct{ a, low, high operand }
	in      struct {
		a  operand
		of []operand
	}
	function struct {
		name string
		args []operand
	}
)

// operand is a path, a value, or the size of what a path leads to.
type operand struct {
	path    path // nil: the value
	literal value
	size    bool
}

func (o operand) in(it item) (value, bool) {
	if o.path == nil {
		return o.literal, true
	}
	v, ok := o.path.in(it)
	if !ok || !o.size {
		return v, ok
	}
	n, ok := v.length()
	return count(n), ok
}

func (c and) holds(it item) bool { return c.a.holds(it) && c.b.holds(it) }
func (c or) holds(it item) bool  { return c.a.holds(it) || c.b.holds(it) }
func (c not) holds(it item) bool { return !c.a.holds(it) }

func (c comparison) holds(it item) bool {
	a, okA := c.a.in(it)
	b, okB := c.b.in(it)
	switch {
	case c.op == "<>":
		return okA && okB && !a.equal(b) || okA != okB // what is not there is unequal to what is
	case !okA || !okB:
		return false
	case c.op == "=":
		return a.equal(b)
	}
	return inOrder(c.op, a, b)
}

func inOrder(op string, a, b value) bool {
	if a.kind != b.kind || !a.kind.ordered() {
		return false
	}
	switch n := a.compare(b); op {
	case "<":
		return n < 0
	case "<=":
		return n <= 0
	case ">":
		return n > 0
	default:
		return n >= 0
	}
}

func (c between) holds(it item) bool {
	return comparison{">=", c.a, c.low}.holds(it) && comparison{"<=", c.a, c.high}.holds(it)
}

func (c in) holds(it item) bool {
	return slices.ContainsFunc(c.of, func(o operand) bool { return comparison{"=", c.a, o}.holds(it) })
}

func (c function) holds(it item) bool {
	a, ok := c.args[0].in(it)
	if c.name == "attribute_not_exists" {
		return !ok
	}
	if !ok || c.name == "attribute_exists" {
		return ok
	}
	b, ok := c.args[1].in(it)
	if !ok {
		return false
	}
	switch c.name {
	case "attribute_type":
		return string(a.kind) == b.s
	case "begins_with":
		return a.beginsWith(b)
	default:
		return a.contains(b)
	}
}

// arity is how many operands a function has that is a condition; 0: there is none of the name.
func arity(name string) int {
	switch name {
	case "attribute_exists", "attribute_not_exists":
		return 1
	case "attribute_type", "begins_with", "contains":
		return 2
	}
	return 0
}

// condition parses a condition; "" is none, nil.
func (s *scope) condition(what string, text *string) (condition, error) {
	if text == nil {
		return nil, nil
	}
	var c condition
	err := s.parse(what, *text, func(p *parser) { c = p.or() })
	return c, err
}

func (p *parser) or() condition {
	c := p.and()
	for p.keyword("OR") {
		c = or{c, p.and()}
	}
	return c
}

func (p *parser) and() condition {
	c := p.not()
	for p.keyword("AND") {
		c = and{c, p.not()}
	}
	return c
}

func (p *parser) not() condition {
	if p.keyword("NOT") {
		return not{p.not()}
	}
	return p.primary()
}

func (p *parser) primary() condition {
	open := p.at
	if p.sign("(") {
		c := p.or()
		if p.group == [2]int{open + 1, p.at - 1} {
			p.fail("The expression has redundant parentheses;")
		}
		p.group = [2]int{open, p.at}
		p.want(")")
		return c
	}
	if c := p.function(); c != nil {
		return c
	}
	a := p.operand()
	switch {
	case p.keyword("BETWEEN"):
		low := p.operand()
		if !p.keyword("AND") {
			p.unexpected()
		}
		return p.between(between{a, low, p.operand()})
	case p.keyword("IN"):
		return in{a, p.list()}
	}
	return p.comparison(a)
}

// function reads a condition that is a function; nil: it is none.
func (p *parser) function() condition {
	start := p.at
	name, ok := p.call()
	if !ok || name == "size" {
		p.at = start
		return nil
	}
	want := arity(name)
	if want == 0 {
		p.fail("Invalid function name; function: %s", name)
	}
	args := []operand{p.operand()}
	for p.sign(",") {
		args = append(args, p.operand())
	}
	p.want(")")
	if len(args) != want {
		p.operands(name, len(args))
	}
	p.checkFunction(name, args)
	return function{name, args}
}

func (p *parser) checkFunction(name string, args []operand) {
	if name != "begins_with" && name != "contains" && args[0].path == nil {
		p.fail("Operator or function requires a document path; operator or function: %s", name)
	}
	if len(args) < 2 || args[1].path != nil {
		return
	}
	v := args[1].literal
	wrong := name == "begins_with" && v.kind != kindS && v.kind != kindB || name == "attribute_type" && v.kind != kindS
	if wrong {
		p.wrongType("operator or function", name, v)
	}
	if name == "attribute_type" && !kind(v.s).known() {
		p.fail("Invalid attribute type name found; type: %s, valid types: {B,NULL,SS,BOOL,L,BS,N,NS,S,M}", v.s)
	}
}

func (p *parser) operands(name string, n int) {
	p.fail("Incorrect number of operands for operator or function; operator or function: %s, number of operands: %d", name, n)
}

func (p *parser) wrongType(what, op string, v value) {
	p.fail("Incorrect operand type for operator or function; %s: %s, operand type: %s", what, op, v.kind)
}

// operand reads a path, a value, or size(path).
func (p *parser) operand() operand {
	if p.peek().kind == tokValue {
		return operand{literal: p.value()}
	}
	name, ok := p.call()
	if !ok {
		return operand{path: p.path()}
	}
	if name != "size" {
		p.misused(name)
	}
	o := operand{path: p.path(), size: true}
	n := 1
	for ; p.sign(","); n++ {
		p.operand()
	}
	p.want(")")
	if n != 1 {
		p.operands(name, n)
	}
	return o
}

func (p *parser) list() []operand {
	p.want("(")
	out := []operand{p.operand()}
	for p.sign(",") {
		out = append(out, p.operand())
	}
	p.want(")")
	if len(out) > 100 {
		p.operands("IN", len(out))
	}
	return out
}

func isComparator(s string) bool {
	switch s {
	case "=", "<>", "<", "<=", ">", ">=":
		return true
	}
	return false
}

func (p *parser) misused(function string) {
	p.fail("The function is not allowed to be used this way in an expression; function: %s", function)
}

func (p *parser) comparison(a operand) condition {
	op := p.peek().text
	if a.size && !isComparator(op) {
		p.misused("size")
	}
	if !isComparator(op) {
		p.unexpected()
	}
	p.next()
	b := p.operand()
	if a.path != nil && a.size == b.size && slices.Equal(a.path, b.path) {
		p.fail("The first operand must be distinct from the remaining operands for this operator or function; operator: %s, first operand: %s", op, a.path)
	}
	if op != "=" && op != "<>" {
		p.checkOrdered(op, a, b)
	}
	return comparison{op, a, b}
}

func (p *parser) checkOrdered(op string, operands ...operand) {
	for _, o := range operands {
		if o.path == nil && !o.literal.kind.ordered() {
			p.wrongType("operator", op, o.literal)
		}
	}
}

func (p *parser) between(c between) condition {
	p.checkOrdered("BETWEEN", c.a, c.low, c.high)
	if c.low.path != nil || c.high.path != nil {
		return c
	}
	low, high := c.low.literal, c.high.literal
	if low.kind != high.kind {
		p.fail("The BETWEEN operator requires same data type for lower and upper bounds; lower bound operand: AttributeValue: %s, "+
			"upper bound operand: AttributeValue: %s", low, high)
	}
	if low.compare(high) > 0 {
		p.fail("The BETWEEN operator requires upper bound to be greater than or equal to lower bound; lower bound operand: AttributeValue: %s, "+
			"upper bound operand: AttributeValue: %s", low, high)
	}
	return c
}
