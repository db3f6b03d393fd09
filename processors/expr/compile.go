package expr

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace-io/millrace/stream"
)

// The closures that an expression becomes, by the kind of the result. The bool is false, and the value zero, for null. m is
// nil in a predicate that makes no texts.
type (
	textFn  func(e *stream.Event, m *machine) (string, bool)  // String, List, JSON
	wholeFn func(e *stream.Event, m *machine) (int64, bool)   // Int, Timestamp, Decimal
	floatFn func(e *stream.Event, m *machine) (float64, bool) // Float
	testFn  func(e *stream.Event, m *machine) truth           // Bool
	valueFn func(e *stream.Event, m *machine) stream.Value
)

// truth is a bool or null.
type truth uint8

const (
	no truth = iota
	yes
	unknown // null
)

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// code is a compiled node. One of the closures is set, by the kind of typ; none of them for Null.
type code struct {
	typ   stream.Type
	text  textFn
	whole wholeFn
	float floatFn
	test  testFn

	node      *node
	constant  bool
	value     stream.Value // of a constant
	exact     *exact       // of a float literal
	items     []code       // of a list
	column    int          // of a bare column, from 1
	makesText bool         // needs an arena
	fallible  *fallible    // why a predicate cannot have it; nil: it cannot fail
	broken    bool         // a problem was reported
}

// fallible is a part of an expression that fails for some events.
type fallible struct {
	node *node
	why  string
}

// exact is a literal such as 1.19 as a decimal.
type exact struct {
	unscaled int64
	scale    uint8
}

// of is a type without precision.
func of(k stream.Kind) stream.Type { return stream.Type{Kind: k} }

// decimal18 is the type of computed decimals.
func decimal18(scale uint8) stream.Type {
	return stream.Type{Kind: stream.Decimal, Precision: 18, Scale: scale}
}

// compiler collects problems as it goes, so that all of them are shown at once.
type compiler struct {
	src       string
	schema    *stream.Schema
	functions map[string]function
	problems  []error
}

// problem reports one and returns a code that nobody complains about again.
func (c *compiler) problem(pos int, format string, args ...any) code {
	c.problems = append(c.problems, errorAt(c.src, pos, format, args...))
	return code{broken: true}
}

// failure is the error of an event, about the operator at pos.
func (c *compiler) failure(pos int, text string) error { return errorAt(c.src, pos, "%s", text) }

// mayFail marks a code as one that fails for some events.
func mayFail(n *node, x code, why string) code {
	x.fallible = &fallible{n, why}
	return x
}

func (c *compiler) compile(n *node) code {
	args := make([]code, len(n.args))
	constants, broken := 0, false
	for i, a := range n.args {
		args[i] = c.compile(a)
		broken = broken || args[i].broken
		if args[i].constant {
			constants++
		}
	}
	if broken {
		if n.op == opCall {
			c.known(n)
		}
		return code{broken: true}
	}
	before := len(c.problems)
	x := c.build(n, args)
	x.node = n
	if len(c.problems) > before {
		return code{broken: true}
	}
	x.inherit(args)
	if constants == len(args) && constants > 0 && n.op != opPath && n.op != opList {
		return c.fold(n, x)
	}
	return x
}

// inherit takes over what is true of the whole if it is true of a part.
func (x *code) inherit(args []code) {
	for _, a := range args {
		x.makesText = x.makesText || a.makesText
		if x.fallible == nil {
			x.fallible = a.fallible
		}
	}
}

// fold computes what depends on no event.
func (c *compiler) fold(n *node, x code) code {
	m := machine{arena: stream.NewBatch(c.schema)}
	v := x.store(x.typ)(nil, &m)
	if m.err != nil {
		c.problems = append(c.problems, m.err)
		return code{broken: true}
	}
	folded := constant(x.typ, v)
	folded.node = n
	return folded
}

func (c *compiler) build(n *node, args []code) code {
	switch n.op {
	case opLiteral:
		return literal(n)
	case opColumn:
		return c.column(n)
	case opPath:
		return c.path(n)
	case opList:
		return c.list(args)
	case opCall:
		return c.call(n, args)
	case "!":
		return c.not(n, args[0])
	case "&&", "||":
		return c.logic(n, args)
	case "in":
		return c.membership(n, args[0], args[1].items)
	case opMinus:
		zero := constant(of(stream.Int), stream.IntValue(0))
		zero.node = n
		return c.arithmetic(n, []code{zero, args[0]})
	case "+", "-", "*", "/", "%":
		return c.arithmetic(n, args)
	}
	return c.comparison(n, args)
}

// constant is the code of a value of type t; null is of every type.
func constant(t stream.Type, v stream.Value) code {
	x := code{typ: t, constant: true, value: v}
	some := !v.IsNull()
	switch t.Kind {
	case stream.String, stream.List, stream.JSON:
		s := v.Text()
		x.text = func(*stream.Event, *machine) (string, bool) { return s, some }
	case stream.Int, stream.Timestamp, stream.Decimal:
		i := v.Int()
		x.whole = func(*stream.Event, *machine) (int64, bool) { return i, some }
	case stream.Float:
		f := v.Float()
		x.float = func(*stream.Event, *machine) (float64, bool) { return f, some }
	case stream.Bool:
		t := truthOf(v.Bool())
		if !some {
			t = unknown
		}
		x.test = func(*stream.Event, *machine) truth { return t }
	}
	return x
}

func literal(n *node) code {
	x := constant(of(n.value.Kind()), n.value)
	whole, fraction, _ := strings.Cut(n.text, ".")
	if u, err := strconv.ParseInt(whole+fraction, 10, 64); n.value.Kind() == stream.Float && err == nil && len(fraction) <= 18 {
		x.exact = &exact{u, uint8(len(fraction))}
	}
	return x
}

func (c *compiler) column(n *node) code {
	if n.text == "properties" {
		return code{typ: of(stream.JSON), text: func(e *stream.Event, _ *machine) (string, bool) {
			return e.Properties, e.Properties != ""
		}}
	}
	i, ok := c.schema.Lookup(n.text)
	if !ok {
		return c.unknown(n.pos, "column", n.text, columnNames(c.schema))
	}
	x := code{typ: c.schema.Columns[i].Type, column: i + 1}
	switch x.typ.Kind {
	case stream.String, stream.List, stream.JSON:
		x.text = func(e *stream.Event, _ *machine) (string, bool) { v := &e.Values[i]; return v.Text(), !v.IsNull() }
	case stream.Int, stream.Timestamp, stream.Decimal:
		x.whole = func(e *stream.Event, _ *machine) (int64, bool) { v := &e.Values[i]; return v.Int(), !v.IsNull() }
	case stream.Float:
		x.float = func(e *stream.Event, _ *machine) (float64, bool) { v := &e.Values[i]; return v.Float(), !v.IsNull() }
	case stream.Bool:
		x.test = func(e *stream.Event, _ *machine) truth {
			v := &e.Values[i]
			if v.IsNull() {
				return unknown
			}
			return truthOf(v.Bool())
		}
	}
	return x
}

func columnNames(s *stream.Schema) []string {
	names := []string{"properties"}
	for _, c := range s.Columns {
		names = append(names, c.Name)
		if c.Alias != "" {
			names = append(names, c.Alias)
		}
	}
	return names
}

// unknown reports a name that does not exist, with the nearest one that does.
func (c *compiler) unknown(pos int, what, name string, names []string) code {
	if near := nearest(name, names); near != "" {
		return c.problem(pos, "unknown %s %q; did you mean %q?", what, name, near)
	}
	if what == "column" {
		return c.problem(pos, "unknown column %q; declare it under decode.columns, or write properties.%s", name, name)
	}
	slices.Sort(names)
	return c.problem(pos, "unknown %s %q; want one of %s", what, name, strings.Join(names, ", "))
}

// nearest is the name that was probably meant; empty if none is near.
func nearest(name string, names []string) string {
	best, near := 1+max(1, len(name)/3), ""
	for _, candidate := range names {
		if d := distance(strings.ToLower(name), strings.ToLower(candidate)); d < best && d < len(name) {
			best, near = d, candidate
		}
	}
	return near
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// wantCondition reports an expression that is not true or false.
func (x code) wantCondition(src string) error {
	if x.typ.Kind == stream.Bool {
		return nil
	}
	return errorAt(src, x.node.pos, "%v is %s; want a condition, true or false", x.node, describe(x))
}

// wantInfallible reports an expression that can fail.
func (x code) wantInfallible(src string) error {
	if x.fallible == nil {
		return nil
	}
	n := x.fallible.node
	return errorAt(src, n.pos, "%v can fail (%s), and here that could not be reported; compute it in a map before", n, x.fallible.why)
}

// describe is a type in a sentence.
func describe(x code) string {
	switch k := x.typ.Kind; {
	case k == stream.Null:
		return "null"
	case k == stream.Int:
		return "an int"
	case k == stream.String && x.node != nil && x.node.op == opPath:
		return "a string (paths are texts; see int and float)"
	}
	return "a " + x.typ.String()
}

func isNumber(t stream.Type) bool {
	return t.Kind == stream.Int || t.Kind == stream.Float || t.Kind == stream.Decimal
}

func (c *compiler) not(n *node, x code) code {
	if x.typ.Kind != stream.Bool {
		return c.problem(n.pos, "! wants a bool; %v is %s", x.node, describe(x))
	}
	test := x.test
	return code{typ: of(stream.Bool), test: func(e *stream.Event, m *machine) truth { return truthOf(test(e, m) != yes) }}
}

func (c *compiler) logic(n *node, args []code) code {
	for _, x := range args {
		if x.typ.Kind != stream.Bool {
			return c.problem(x.node.pos, "%s wants a bool on both sides; %v is %s", n.op, x.node, describe(x))
		}
	}
	left, right := args[0].test, args[1].test
	if n.op == "&&" {
		return code{typ: of(stream.Bool), test: func(e *stream.Event, m *machine) truth {
			return truthOf(left(e, m) == yes && right(e, m) == yes)
		}}
	}
	return code{typ: of(stream.Bool), test: func(e *stream.Event, m *machine) truth {
		return truthOf(left(e, m) == yes || right(e, m) == yes)
	}}
}

// unify finds the type that all codes fit.
func unify(args ...code) (stream.Type, bool) {
	t := stream.Type{}
	float := false
	for _, x := range args {
		// A literal such as 1.19 does not make floats of decimals.
		float = float || x.typ.Kind == stream.Float && x.exact == nil
	}
	for _, x := range args {
		with := x.typ
		if x.exact != nil && !float && hasDecimal(args) {
			with = decimal18(x.exact.scale)
		}
		var ok bool
		if t, ok = join(t, with); !ok {
			return t, false
		}
	}
	return t, true
}

func hasDecimal(args []code) bool {
	return slices.ContainsFunc(args, func(x code) bool { return x.typ.Kind == stream.Decimal })
}

// join is the type that values of both types fit.
func join(a, b stream.Type) (stream.Type, bool) {
	switch {
	case a == b || b.Kind == stream.Null:
		return a, true
	case a.Kind == stream.Null:
		return b, true
	case !isNumber(a) || !isNumber(b):
		return a, false
	case a.Kind == stream.Float || b.Kind == stream.Float:
		return of(stream.Float), true
	}
	return decimal18(max(a.Scale, b.Scale)), true
}

// as makes x of type t, which unify found or the caller checked.
func (c *compiler) as(x code, t stream.Type) code {
	if x.typ == t {
		return x
	}
	y := x
	y.typ, y.column = t, 0
	switch from := x.typ.Kind; {
	case from == stream.Null:
		y = constant(t, stream.Value{})
		y.node = x.node
	case from == stream.Int && t.Kind == stream.Float:
		whole := x.whole
		y.whole = nil
		y.float = func(e *stream.Event, m *machine) (float64, bool) { i, ok := whole(e, m); return float64(i), ok }
	case from == stream.Decimal && t.Kind == stream.Float:
		whole, unit := x.whole, float64(power10(x.typ.Scale))
		y.whole = nil
		y.float = func(e *stream.Event, m *machine) (float64, bool) { i, ok := whole(e, m); return float64(i) / unit, ok }
	case from == stream.Float && t.Kind == stream.Decimal:
		literal := constant(decimal18(x.exact.scale), stream.DecimalValue(x.exact.unscaled))
		literal.node = x.node
		return c.as(literal, t)
	case t.Kind == stream.Decimal && t.Scale > x.typ.Scale:
		y = c.scaleUp(y, x.whole, t.Scale-x.typ.Scale)
	}
	if y.constant {
		y = c.refold(y)
	}
	return y
}

// refold keeps a converted constant a constant.
func (c *compiler) refold(x code) code {
	x.exact = nil
	return c.fold(x.node, x)
}

func (c *compiler) scaleUp(x code, whole wholeFn, by uint8) code {
	unit := power10(by)
	overflow := c.failure(x.node.pos, "the number is beyond 64 bits")
	x.whole = func(e *stream.Event, m *machine) (int64, bool) {
		i, ok := whole(e, m)
		scaled, fits := multiply(i, unit)
		if !fits {
			m.fail(overflow)
		}
		return scaled, ok
	}
	return mayFail(x.node, x, "it can overflow")
}

func power10(n uint8) int64 {
	p := int64(1)
	for range n {
		p *= 10
	}
	return p
}

// store makes values of type t, which x fits (see fits).
func (x code) store(t stream.Type) valueFn {
	switch t.Kind {
	case stream.String:
		return storeText(x.text, stream.StringValue)
	case stream.List:
		return storeText(x.text, stream.ListValue)
	case stream.JSON:
		return storeText(x.text, stream.JSONValue)
	case stream.Int:
		return storeWhole(x.whole, stream.IntValue)
	case stream.Timestamp:
		return storeWhole(x.whole, stream.TimestampValue)
	case stream.Decimal:
		return storeWhole(x.whole, stream.DecimalValue)
	case stream.Float:
		return storeFloat(x.float)
	case stream.Bool:
		test := x.test
		return func(e *stream.Event, m *machine) stream.Value {
			t := test(e, m)
			if t == unknown {
				return stream.Value{}
			}
			return stream.BoolValue(t == yes)
		}
	}
	return func(*stream.Event, *machine) stream.Value { return stream.Value{} }
}

func storeText(text textFn, value func(string) stream.Value) valueFn {
	return func(e *stream.Event, m *machine) stream.Value {
		if s, ok := text(e, m); ok {
			return value(s)
		}
		return stream.Value{}
	}
}

func storeWhole(whole wholeFn, value func(int64) stream.Value) valueFn {
	return func(e *stream.Event, m *machine) stream.Value {
		if i, ok := whole(e, m); ok {
			return value(i)
		}
		return stream.Value{}
	}
}

var errNotFinite = fmt.Errorf("the result is not a finite number")

func storeFloat(float floatFn) valueFn {
	return func(e *stream.Event, m *machine) stream.Value {
		f, ok := float(e, m)
		if !ok {
			return stream.Value{}
		}
		if math.IsInf(f, 0) || math.IsNaN(f) {
			m.fail(errNotFinite)
		}
		return stream.FloatValue(f)
	}
}
