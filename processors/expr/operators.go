package expr

import (
	"cmp"
	"math"
	"math/bits"

	"github.com/millrace-io/millrace/stream"
)

func (c *compiler) comparison(n *node, args []code) code {
	ordered := n.op != "==" && n.op != "!="
	if x, other := args[0], args[1]; x.isNull() || other.isNull() {
		if ordered {
			return c.problem(n.pos, "%s with null is always false; want == or !=", n.op)
		}
		return nullComparison(n.op, x, other)
	}
	t, ok := unify(args...)
	if !ok {
		return c.problem(n.pos, "%v is %s and %v is %s; they cannot be compared%s", args[0].node, describe(args[0]), args[1].node, describe(args[1]), timeHint(args))
	}
	switch t.Kind {
	case stream.String:
		if i, s := args[0].column, args[1]; i > 0 && s.constant && !ordered {
			return code{typ: of(stream.Bool), test: equalColumn(i-1, s.value.Text(), n.op == "==")}
		}
		return code{typ: of(stream.Bool), test: compare(n.op, args[0].text, args[1].text)}
	case stream.Float:
		return code{typ: of(stream.Bool), test: compare(n.op, c.as(args[0], t).float, c.as(args[1], t).float)}
	case stream.Int, stream.Timestamp:
		return code{typ: of(stream.Bool), test: compare(n.op, args[0].whole, args[1].whole)}
	case stream.Decimal:
		return code{typ: of(stream.Bool), test: compareScaled(n.op, c.decimal(args[0]), c.decimal(args[1]))}
	case stream.Bool:
		if !ordered {
			return code{typ: of(stream.Bool), test: compare(n.op, truths(args[0].test), truths(args[1].test))}
		}
	}
	return c.problem(n.pos, "%v is %s; %s does not apply, only == null and != null", args[0].node, describe(args[0]), n.op)
}

// timeHint says how a time is written.
func timeHint(args []code) string {
	a, b := args[0].typ.Kind, args[1].typ.Kind
	if a == stream.Timestamp && b == stream.String || a == stream.String && b == stream.Timestamp {
		return `; write timestamp("2006-01-02T15:04:05Z")`
	}
	return ""
}

// isNull says that x is null for every event.
func (x code) isNull() bool { return x.constant && x.value.IsNull() }

// null is the code that is always null. No other code is of kind Null.
func null() code { return constant(stream.Type{}, stream.Value{}) }

// nullComparison is == or != with what is always null.
func nullComparison(op string, x, other code) code {
	if x.isNull() {
		x = other
	}
	null, want := x.nullTest(), op == "=="
	return code{typ: of(stream.Bool), test: func(e *stream.Event, m *machine) truth { return truthOf(null(e, m) == want) }}
}

// nullTest evaluates x for being null only.
func (x code) nullTest() func(*stream.Event, *machine) bool {
	switch {
	case x.column > 0:
		i := x.column - 1
		return func(e *stream.Event, _ *machine) bool { return e.Values[i].IsNull() }
	case x.text != nil:
		return func(e *stream.Event, m *machine) bool { _, ok := x.text(e, m); return !ok }
	case x.whole != nil:
		return func(e *stream.Event, m *machine) bool { _, ok := x.whole(e, m); return !ok }
	case x.float != nil:
		return func(e *stream.Event, m *machine) bool { _, ok := x.float(e, m); return !ok }
	case x.test != nil:
		return func(e *stream.Event, m *machine) bool { return x.test(e, m) == unknown }
	}
	return func(*stream.Event, *machine) bool { return true }
}

// equalColumn is the commonest condition of all, column == "text", in one closure.
func equalColumn(column int, text string, want bool) testFn {
	return func(e *stream.Event, _ *machine) truth {
		v := &e.Values[column]
		return truthOf((v.Text() == text && !v.IsNull()) == want)
	}
}

// truths makes bools comparable.
func truths(test testFn) func(*stream.Event, *machine) (truth, bool) {
	return func(e *stream.Event, m *machine) (truth, bool) {
		t := test(e, m)
		return t, t != unknown
	}
}

// compare makes a comparison of two closures that return the zero value beside false.
func compare[T cmp.Ordered](op string, left, right func(*stream.Event, *machine) (T, bool)) testFn {
	switch op {
	case "==":
		return func(e *stream.Event, m *machine) truth {
			a, aok := left(e, m)
			b, bok := right(e, m)
			return truthOf(aok == bok && (a == b || !aok))
		}
	case "!=":
		return func(e *stream.Event, m *machine) truth {
			a, aok := left(e, m)
			b, bok := right(e, m)
			return truthOf(aok != bok || aok && a != b)
		}
	case ">", ">=":
		return compare(map[string]string{">": "<", ">=": "<="}[op], right, left)
	case "<":
		return func(e *stream.Event, m *machine) truth {
			a, aok := left(e, m)
			b, bok := right(e, m)
			return truthOf(aok && bok && a < b)
		}
	}
	return func(e *stream.Event, m *machine) truth {
		a, aok := left(e, m)
		b, bok := right(e, m)
		return truthOf(aok && bok && a <= b)
	}
}

// decimal is x, an exact number, with the scale it has.
func (c *compiler) decimal(x code) code {
	if x.exact != nil {
		return c.as(x, decimal18(x.exact.scale))
	}
	return x
}

// compareScaled compares exact numbers of two scales, without overflow.
func compareScaled(op string, x, y code) testFn {
	scale := max(x.typ.Scale, y.typ.Scale)
	x, y = rescaleConstant(x, scale), rescaleConstant(y, scale)
	if x.typ.Scale == y.typ.Scale {
		return compare(op, x.whole, y.whole)
	}
	left, right, holds := x.whole, y.whole, sign(op)
	a, b := power10(scale-x.typ.Scale), power10(scale-y.typ.Scale)
	return func(e *stream.Event, m *machine) truth {
		i, iok := left(e, m)
		j, jok := right(e, m)
		if !iok || !jok {
			return truthOf((iok == jok) == (op == "==") && (op == "==" || op == "!="))
		}
		return truthOf(holds(compareProducts(i, a, j, b)))
	}
}

// rescaleConstant gives a literal the other side's scale, if it fits.
func rescaleConstant(x code, scale uint8) code {
	if !x.constant {
		return x
	}
	scaled, fits := multiply(x.value.Int(), power10(scale-x.typ.Scale))
	if !fits {
		return x
	}
	return constant(decimal18(scale), stream.DecimalValue(scaled))
}

// sign says whether a comparison holds, by the sign of the difference.
func sign(op string) func(int) bool {
	switch op {
	case "==":
		return func(d int) bool { return d == 0 }
	case "!=":
		return func(d int) bool { return d != 0 }
	case "<":
		return func(d int) bool { return d < 0 }
	case "<=":
		return func(d int) bool { return d <= 0 }
	case ">":
		return func(d int) bool { return d > 0 }
	}
	return func(d int) bool { return d >= 0 }
}

// compareProducts is the sign of i*a - j*b.
func compareProducts(i, a, j, b int64) int {
	ihigh, ilow := product(i, a)
	jhigh, jlow := product(j, b)
	return cmp.Or(cmp.Compare(ihigh, jhigh), cmp.Compare(ilow, jlow))
}

// product is a*b in 128 bits, two's complement.
func product(a, b int64) (high int64, low uint64) {
	h, l := bits.Mul64(uint64(a), uint64(b))
	return int64(h) - a>>63&b - b>>63&a, l
}

// multiply is a*b and whether it fits.
func multiply(a, b int64) (int64, bool) {
	high, low := product(a, b)
	return int64(low), high == int64(low)>>63
}

// list is the right side of in.
func (c *compiler) list(items []code) code {
	for _, x := range items {
		if !x.constant {
			return c.problem(x.node.pos, "%v is not the same for all events; a list has only literals", x.node)
		}
	}
	return code{items: items, constant: true}
}

// membership is x in [items].
func (c *compiler) membership(n *node, x code, items []code) code {
	if len(items) == 0 {
		return c.problem(n.args[1].pos, "the list is empty; want at least one value")
	}
	tests := make([]testFn, len(items))
	texts := map[string]bool{}
	for i, item := range items {
		tests[i] = c.comparison(&node{op: "==", pos: item.node.pos}, []code{x, item}).test
		if item.typ.Kind == stream.String {
			texts[item.value.Text()] = true
		}
	}
	if len(texts) == len(items) && len(texts) > 4 {
		text := c.as(x, of(stream.String)).text
		return code{typ: of(stream.Bool), test: func(e *stream.Event, m *machine) truth {
			s, ok := text(e, m)
			return truthOf(ok && texts[s])
		}}
	}
	return code{typ: of(stream.Bool), test: func(e *stream.Event, m *machine) truth {
		for _, test := range tests {
			if test(e, m) == yes {
				return yes
			}
		}
		return no
	}}
}

func (c *compiler) arithmetic(n *node, args []code) code {
	op := n.op
	if op == opMinus {
		op = "-"
	}
	for _, x := range args {
		if !isNumber(x.typ) && x.typ.Kind != stream.Null {
			return c.problem(n.pos, "%s wants numbers; %v is %s%s", op, x.node, describe(x), hint(op, x))
		}
	}
	t, _ := unify(args...)
	switch {
	case t.Kind == stream.Null:
		return null()
	case op == "/":
		t = of(stream.Float)
	case t.Kind != stream.Float:
		return c.exactArithmetic(n, op, c.decimal(c.as(args[0], orInt(args[0].typ))), c.decimal(c.as(args[1], orInt(args[1].typ))))
	}
	return c.floatArithmetic(n, op, c.as(args[0], t), c.as(args[1], t))
}

func hint(op string, x code) string {
	if op == "+" && x.typ.Kind == stream.String {
		return "; texts are joined with concat"
	}
	return ""
}

// orInt is the type to compute with.
func orInt(t stream.Type) stream.Type {
	if t.Kind == stream.Null {
		return of(stream.Int)
	}
	return t
}

func (c *compiler) floatArithmetic(n *node, op string, x, y code) code {
	left, right := x.float, y.float
	z := code{typ: of(stream.Float)}
	switch op {
	case "+":
		z.float = func(e *stream.Event, m *machine) (float64, bool) {
			a, aok := left(e, m)
			b, bok := right(e, m)
			return orNull(a+b, aok && bok)
		}
		return z
	case "-":
		z.float = func(e *stream.Event, m *machine) (float64, bool) {
			a, aok := left(e, m)
			b, bok := right(e, m)
			return orNull(a-b, aok && bok)
		}
		return z
	case "*":
		z.float = func(e *stream.Event, m *machine) (float64, bool) {
			a, aok := left(e, m)
			b, bok := right(e, m)
			return orNull(a*b, aok && bok)
		}
		return z
	}
	divide := func(a, b float64) float64 { return a / b }
	if op == "%" {
		divide = math.Mod
	}
	byZero := c.failure(n.pos, divisionByZero)
	z.float = func(e *stream.Event, m *machine) (float64, bool) {
		a, aok := left(e, m)
		b, bok := right(e, m)
		if !aok || !bok {
			return 0, false
		}
		if b == 0 {
			m.fail(byZero)
		}
		return divide(a, b), true
	}
	if y.constant && y.value.Float() != 0 {
		return z
	}
	return mayFail(n, z, divisionByZero)
}

// orNull is v, or null as the closures return it.
func orNull[T int64 | float64](v T, ok bool) (T, bool) {
	if !ok {
		return 0, false
	}
	return v, true
}

// exactArithmetic computes with ints and decimals: 64 bits, checked.
func (c *compiler) exactArithmetic(n *node, op string, x, y code) code {
	scale, leftUnit, rightUnit := max(x.typ.Scale, y.typ.Scale), int64(1), int64(1)
	if op == "*" {
		scale = x.typ.Scale + y.typ.Scale
	} else {
		leftUnit, rightUnit = power10(scale-x.typ.Scale), power10(scale-y.typ.Scale)
	}
	if scale > 18 {
		return c.problem(n.pos, "the product has %d decimal places; want at most 18: round one side", scale)
	}
	z := code{typ: of(stream.Int)}
	if x.typ.Kind == stream.Decimal || y.typ.Kind == stream.Decimal {
		z.typ = decimal18(scale)
	}
	calculate, why := add, overflow
	switch op {
	case "-":
		calculate = subtract
	case "*":
		calculate = multiply
	case "%":
		calculate, why = remainder, divisionByZero
	}
	left, right := x.whole, y.whole
	failed, beyond := c.failure(n.pos, why), c.failure(n.pos, overflow)
	z.whole = func(e *stream.Event, m *machine) (int64, bool) {
		a, aok := left(e, m)
		b, bok := right(e, m)
		if !aok || !bok {
			return 0, false
		}
		a, aok = multiply(a, leftUnit)
		b, bok = multiply(b, rightUnit)
		v, ok := calculate(a, b)
		switch {
		case !aok || !bok:
			m.fail(beyond)
		case !ok:
			m.fail(failed)
		}
		return v, true
	}
	if op == "%" && y.constant && y.value.Int() != 0 && leftUnit == rightUnit {
		return z
	}
	return mayFail(n, z, why)
}

const (
	overflow       = "overflow: the result is beyond 64 bits"
	divisionByZero = "division by zero"
)

func add(a, b int64) (int64, bool) {
	s := a + b
	return s, (a^s)&(b^s) >= 0
}

func subtract(a, b int64) (int64, bool) {
	d := a - b
	return d, (a^b)&(a^d) >= 0
}

func remainder(a, b int64) (int64, bool) {
	if b == 0 {
		return 0, false
	}
	return a % b, true
}
