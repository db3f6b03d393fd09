package dynamodb

import (
	"cmp"
	"maps"
	"math/big"
	"slices"
	"strings"
)

// update is what an UpdateExpression does.
type update struct {
	set         []assignment
	remove      []path
	add, remain []change // remain: members that DELETE takes from a set
}

// assignment is one path = source of SET.
type assignment struct {
	path path
	from source
}

// change is one path and value of ADD or DELETE.
type change struct {
	path path
	v    value
}

// source is the right side of an assignment, evaluated on the item as it was before the update.
type source interface {
	of(item) (value, error)
}

type (
	plain      operand
	arithmetic struct {
		a, b source
		op   string
	}
	ifNotExists struct {
		path path
		or   source
	}
	listAppend struct{ a, b source }
)

func count(n int) value { return value{kind: kindN, n: number{big.NewInt(int64(n)), 0}} }

var (
	errMissing = invalid("The provided expression refers to an attribute that does not exist in the item")
	errKind    = invalid("An operand in the update expression has an incorrect data type")
	errPath    = invalid("The document path provided in the update expression is invalid for update")
)

func (s plain) of(it item) (value, error) {
	v, ok := operand(s).in(it)
	if !ok {
		return v, errMissing
	}
	return v, nil
}

func (s ifNotExists) of(it item) (value, error) {
	if v, ok := s.path.in(it); ok {
		return v, nil
	}
	return s.or.of(it)
}

// both evaluates two sources, which must be of one type.
func both(a, b source, it item, want kind) (x, y value, err error) {
	if x, err = a.of(it); err != nil {
		return x, y, err
	}
	if y, err = b.of(it); err != nil {
		return x, y, err
	}
	if x.kind != want || y.kind != want {
		return x, y, errKind
	}
	return x, y, nil
}

func (s arithmetic) of(it item) (value, error) {
	x, y, err := both(s.a, s.b, it, kindN)
	if err != nil {
		return x, err
	}
	do := number.plus
	if s.op == "-" {
		do = number.minus
	}
	n, err := do(x.n, y.n)
	return value{kind: kindN, n: n}, err
}

func (s listAppend) of(it item) (value, error) {
	x, y, err := both(s.a, s.b, it, kindL)
	return value{kind: kindL, l: slices.Concat(x.l, y.l)}, err
}

// update parses an UpdateExpression.
func (s *scope) update(text string) (*update, error) {
	u := &update{}
	err := s.parse("UpdateExpression", text, func(p *parser) {
		seen := map[string]bool{}
		for p.peek().kind != tokEnd {
			section := strings.ToUpper(p.peek().text)
			read := p.section(u, section)
			if read == nil {
				p.unexpected()
			}
			if seen[section] {
				p.fail(`The "%s" section can only be used once in an update expression;`, section)
			}
			seen[section] = true
			p.next()
			for read(); p.sign(","); {
				read()
			}
		}
		p.apart(u.paths())
	})
	return u, err
}

// section is how an element of a section is read; nil: there is no such section.
func (p *parser) section(u *update, name string) func() {
	switch name {
	case "SET":
		return func() {
			at := p.path()
			p.want("=")
			u.set = append(u.set, assignment{at, p.sum()})
		}
	case "REMOVE":
		return func() { u.remove = append(u.remove, p.path()) }
	case "ADD":
		return func() { u.add = append(u.add, p.change("ADD")) }
	case "DELETE":
		return func() { u.remain = append(u.remain, p.change("DELETE")) }
	}
	return nil
}

func (p *parser) change(op string) change {
	c := change{p.path(), p.value()}
	if c.v.kind.member() == "" && (op != "ADD" || c.v.kind != kindN) {
		p.fail("Incorrect operand type for operator or function; operator: %s, operand type: %s", op, c.v.kind.word())
	}
	return c
}

// word is the name of a type in the errors of ADD and DELETE.
func (k kind) word() string {
	switch k {
	case kindS:
		return "STRING"
	case kindN:
		return "NUMBER"
	case kindB:
		return "BINARY"
	case kindBool:
		return "BOOLEAN"
	case kindM:
		return "MAP"
	case kindL:
		return "LIST"
	}
	return string(k)
}

// sum reads a source, or two with + or - between them.
func (p *parser) sum() source {
	a := p.source()
	for _, op := range []string{"+", "-"} {
		if p.sign(op) {
			b := p.source()
			p.numbers(op, a, b)
			return arithmetic{a, b, op}
		}
	}
	return a
}

func (p *parser) numbers(op string, sources ...source) {
	for _, s := range sources {
		if o, ok := s.(plain); ok && o.path == nil && o.literal.kind != kindN {
			p.wrongType("operator or function", op, o.literal)
		}
	}
}

func (p *parser) source() source {
	if p.sign("(") {
		s := p.sum()
		p.want(")")
		return s
	}
	if p.peek().kind == tokValue {
		return plain{literal: p.value()}
	}
	name, ok := p.call()
	if !ok {
		return plain{path: p.path()}
	}
	var s source
	switch name {
	case "if_not_exists":
		at := p.path()
		p.want(",")
		s = ifNotExists{at, p.source()}
	case "list_append":
		a := p.source()
		p.want(",")
		s = listAppend{a, p.source()}
	default:
		p.fail("Invalid function name; function: %s", name)
	}
	p.want(")")
	return s
}

// paths is what the update writes to.
func (u *update) paths() []path {
	var out []path
	for _, a := range u.set {
		out = append(out, a.path)
	}
	out = append(out, u.remove...)
	for _, c := range slices.Concat(u.add, u.remain) {
		out = append(out, c.path)
	}
	return out
}

// apply returns the item after the update.
func (u *update) apply(old item) (item, error) {
	v := value{kind: kindM, m: old}
	var err error
	for _, a := range u.set {
		x, err := a.from.of(old)
		if err != nil {
			return nil, err
		}
		if v, err = v.with(a.path, x); err != nil {
			return nil, err
		}
	}
	for _, c := range u.add {
		if v, err = v.change(c, add); err != nil {
			return nil, err
		}
	}
	for _, c := range u.remain {
		if v, err = v.change(c, subtract); err != nil {
			return nil, err
		}
	}
	for _, p := range slices.SortedFunc(slices.Values(u.remove), laterFirst) {
		if v, err = v.without(p); err != nil {
			return nil, err
		}
	}
	return v.m, nil
}

// laterFirst makes elements of a list go from its end on, so that the others keep their index.
func laterFirst(a, b path) int {
	return -slices.CompareFunc(a, b, func(x, y step) int { return cmp.Or(cmp.Compare(x.name, y.name), cmp.Compare(x.index, y.index)) })
}

// with is v with x at a path whose parent is there.
func (v value) with(p path, x value) (value, error) {
	if len(p) == 0 {
		return x, nil
	}
	child, ok := v.child(p[0])
	if !ok && len(p) > 1 {
		return v, errPath
	}
	child, err := child.with(p[1:], x)
	if err != nil {
		return v, err
	}
	switch s := p[0]; {
	case s.name != "" && v.kind == kindM:
		m := maps.Clone(v.m)
		if m == nil {
			m = item{}
		}
		m[s.name] = child
		return value{kind: kindM, m: m}, nil
	case s.name == "" && v.kind == kindL:
		l := slices.Clone(v.l)
		if s.index < len(l) {
			l[s.index] = child
		} else {
			l = append(l, child) // wherever beyond the end
		}
		return value{kind: kindL, l: l}, nil
	}
	return v, errPath
}

// without is v less what is at a path.
func (v value) without(p path) (value, error) {
	child, ok := v.child(p[0])
	switch {
	case len(p) > 1 && !ok:
		return v, errPath
	case len(p) > 1:
		child, err := child.without(p[1:])
		if err != nil {
			return v, err
		}
		return v.with(p[:1], child)
	case !ok && (p[0].name != "" && v.kind != kindM || p[0].name == "" && v.kind != kindL):
		return v, errPath
	case !ok:
		return v, nil
	case p[0].name != "":
		m := maps.Clone(v.m)
		delete(m, p[0].name)
		return value{kind: kindM, m: m}, nil
	}
	return value{kind: kindL, l: slices.Delete(slices.Clone(v.l), p[0].index, p[0].index+1)}, nil
}

// change puts what do makes of the old value at a path; nothing where do leaves nothing.
func (v value) change(c change, do func(old value, there bool, by value) (value, bool, error)) (value, error) {
	old, there := c.path.in(v.m)
	x, left, err := do(old, there, c.v)
	switch {
	case err != nil:
		return v, err
	case left:
		return v.with(c.path, x)
	case there:
		return v.without(c.path)
	}
	return v, nil
}

// add is ADD: to a number, or members to a set.
func add(old value, there bool, by value) (value, bool, error) {
	switch {
	case !there:
		return by, true, nil
	case old.kind != by.kind:
		return old, false, errKind
	case by.kind == kindN:
		n, err := old.n.plus(by.n)
		return value{kind: kindN, n: n}, true, err
	}
	out := value{kind: old.kind, l: slices.Clone(old.l)}
	for _, m := range by.l {
		out.insert(m)
	}
	return out, true, nil
}

// subtract is DELETE: members from a set, which goes when it is empty.
func subtract(old value, there bool, by value) (value, bool, error) {
	switch {
	case !there:
		return old, false, nil
	case old.kind != by.kind:
		return old, false, errKind
	}
	out := value{kind: old.kind}
	for _, m := range old.l {
		if !slices.ContainsFunc(by.l, m.equal) {
			out.l = append(out.l, m)
		}
	}
	return out, len(out.l) > 0, nil
}
