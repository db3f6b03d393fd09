package expr

import (
	"fmt"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/stream"
)

// function is one that an expression can call.
type function struct {
	usage  string        // "lower(text)": what messages show
	params []stream.Kind // of the arguments; the last one repeats if more are allowed; Null: build checks the type
	least  int           // arguments
	most   int
	build  func(c *compiler, n *node, args []code) code
}

// functions is everything that can be called.
func functions() map[string]function {
	const text, number, moment, boolean, value = stream.String, stream.Null, stream.Timestamp, stream.Bool, stream.Null
	const many = maxSource
	kinds := func(ks ...stream.Kind) []stream.Kind { return ks }
	return map[string]function{
		"lower":       {"lower(text)", kinds(text), 1, 1, ofText(lower)},
		"upper":       {"upper(text)", kinds(text), 1, 1, ofText(upper)},
		"trim":        {"trim(text)", kinds(text), 1, 1, shared(trim)},
		"concat":      {"concat(text, text, ...)", kinds(text), 2, many, concat},
		"length":      {"length(text)", kinds(text), 1, 1, length},
		"contains":    {"contains(text, part)", kinds(text), 2, 2, test(strings.Contains)},
		"startsWith":  {"startsWith(text, beginning)", kinds(text), 2, 2, test(strings.HasPrefix)},
		"endsWith":    {"endsWith(text, end)", kinds(text), 2, 2, test(strings.HasSuffix)},
		"matches":     {"matches(text, 'regular expression')", kinds(text), 2, 2, matches},
		"replace":     {"replace(text, old, new)", kinds(text), 3, 3, replace},
		"split_part":  {"split_part(text, separator, number)", kinds(text, text, stream.Int), 3, 3, splitPart},
		"host":        {"host(url)", kinds(text), 1, 1, ofMaybe(host)},
		"path":        {"path(url)", kinds(text), 1, 1, shared(urlPath)},
		"param":       {"param(url, name)", kinds(text), 2, 2, param},
		"sha256":      {"sha256(text[, salt])", kinds(text), 1, 2, hash},
		"hmac_sha256": {"hmac_sha256(text, 'key')", kinds(text), 2, 2, keyedHash},
		"coalesce":    {"coalesce(value, value, ...)", kinds(value), 2, many, coalesce},
		"if":          {"if(condition, value, value)", kinds(boolean, value), 3, 3, choose},
		"date":        {"date(time)", kinds(moment), 1, 1, date},
		"hour":        {"hour(time)", kinds(moment), 1, 1, hour},
		"truncate":    {"truncate(time, 'hour')", kinds(moment, text), 2, 2, truncate},
		"timestamp":   {"timestamp(text)", kinds(text), 1, 1, toTimestamp},
		"text":        {"text(value)", kinds(value), 1, 1, toText},
		"int":         {"int(text)", kinds(text), 1, 1, toInt},
		"float":       {"float(text or number)", kinds(value), 1, 1, toFloat},
		"round":       {"round(number[, places])", kinds(number, stream.Int), 1, 2, round},
	}
}

// known finds the function that n calls, and reports one that does not exist.
func (c *compiler) known(n *node) (function, bool) {
	f, ok := c.functions[n.text]
	if !ok {
		names := make([]string, 0, len(c.functions))
		for name := range c.functions {
			names = append(names, name)
		}
		slices.Sort(names)
		c.unknown(n.pos, "function", n.text, names)
	}
	return f, ok
}

func (c *compiler) call(n *node, args []code) code {
	f, ok := c.known(n)
	if !ok {
		return code{}
	}
	if len(args) < f.least || len(args) > f.most {
		return c.problem(n.pos, "%s has %d arguments; want %s", n.text, len(args), f.usage)
	}
	before := len(c.problems)
	for i, x := range args {
		want := f.params[min(i, len(f.params)-1)]
		if want == stream.Null || want == x.typ.Kind {
			continue
		}
		if x.typ.Kind != stream.Null {
			c.problem(x.node.pos, "%s wants %s, and %v is %s; write %s", n.text, describe(code{typ: of(want)}), x.node, describe(x), f.usage)
			continue
		}
		args[i] = c.as(x, of(want))
	}
	if len(c.problems) > before {
		return code{}
	}
	return f.build(c, n, args)
}

// literal requires an argument that is the same for all events, and not null.
func (c *compiler) literal(n *node, x code) bool {
	if x.constant && !x.isNull() {
		return true
	}
	c.problem(x.node.pos, "%s wants a literal here; %v is not", n.text, x.node)
	return false
}

// alloc is n bytes for a text of this evaluation.
func (m *machine) alloc(n int) []byte { return m.arena.Alloc(n) }

// makingText is a code that needs the arena.
func makingText(f textFn) code { return code{typ: of(stream.String), text: f, makesText: true} }

// ofText is a function from a text to a text.
func ofText(f func(m *machine, s string) string) func(*compiler, *node, []code) code {
	return func(_ *compiler, _ *node, args []code) code {
		text := args[0].text
		return makingText(func(e *stream.Event, m *machine) (string, bool) {
			s, ok := text(e, m)
			if !ok {
				return "", false
			}
			return f(m, s), true
		})
	}
}

// ofMaybe is ofText for a function that may return null.
func ofMaybe(f func(m *machine, s string) (string, bool)) func(*compiler, *node, []code) code {
	return func(_ *compiler, _ *node, args []code) code {
		text := args[0].text
		return makingText(func(e *stream.Event, m *machine) (string, bool) {
			s, ok := text(e, m)
			if !ok {
				return "", false
			}
			return f(m, s)
		})
	}
}

// shared is a function that returns a part of its argument.
func shared(f func(s string) string) func(*compiler, *node, []code) code {
	return func(_ *compiler, _ *node, args []code) code {
		text := args[0].text
		return code{typ: of(stream.String), text: func(e *stream.Event, m *machine) (string, bool) {
			s, ok := text(e, m)
			return f(s), ok
		}}
	}
}

// test is a condition on two texts.
func test(f func(s, part string) bool) func(*compiler, *node, []code) code {
	return func(_ *compiler, _ *node, args []code) code {
		left, right := args[0].text, args[1].text
		return code{typ: of(stream.Bool), test: func(e *stream.Event, m *machine) truth {
			s, ok := left(e, m)
			part, partOK := right(e, m)
			return truthOf(ok && partOK && f(s, part))
		}}
	}
}

// coalesce is the first argument that is not null.
func coalesce(c *compiler, n *node, args []code) code {
	t, ok := unify(args...)
	if !ok {
		return c.problem(n.pos, "coalesce wants values of one type: %s", describeAll(args))
	}
	if t.Kind == stream.Null {
		return null()
	}
	z := code{typ: t}
	all := make([]code, len(args))
	for i, x := range args {
		all[i] = c.as(x, t)
	}
	z.inherit(all)
	switch {
	case all[0].text != nil:
		z.text = firstOf(all, func(x code) textFn { return x.text })
	case all[0].whole != nil:
		z.whole = firstOf(all, func(x code) wholeFn { return x.whole })
	case all[0].float != nil:
		z.float = firstOf(all, func(x code) floatFn { return x.float })
	case all[0].test != nil:
		z.test = func(e *stream.Event, m *machine) truth {
			for i := range all {
				if t := all[i].test(e, m); t != unknown {
					return t
				}
			}
			return unknown
		}
	}
	return z
}

func firstOf[T any, F ~func(*stream.Event, *machine) (T, bool)](all []code, closure func(code) F) F {
	first, rest := closure(all[0]), closure(all[len(all)-1])
	if len(all) > 2 {
		rest = firstOf(all[1:], closure)
	}
	return func(e *stream.Event, m *machine) (T, bool) {
		if v, ok := first(e, m); ok {
			return v, true
		}
		return rest(e, m)
	}
}

func describeAll(args []code) string {
	each := make([]string, len(args))
	for i, x := range args {
		each[i] = fmt.Sprintf("%v is %s", x.node, describe(x))
	}
	return strings.Join(each, ", ")
}

// choose is if.
func choose(c *compiler, n *node, args []code) code {
	t, ok := unify(args[1:]...)
	if !ok {
		return c.problem(n.pos, "if wants two values of one type: %s", describeAll(args[1:]))
	}
	if t.Kind == stream.Null {
		return null()
	}
	a, b := c.as(args[1], t), c.as(args[2], t)
	z := code{typ: t}
	z.inherit([]code{a, b})
	condition := args[0].test
	switch {
	case a.text != nil:
		z.text = pick(condition, a.text, b.text)
	case a.whole != nil:
		z.whole = pick(condition, a.whole, b.whole)
	case a.float != nil:
		z.float = pick(condition, a.float, b.float)
	case a.test != nil:
		z.test = func(e *stream.Event, m *machine) truth {
			if condition(e, m) == yes {
				return a.test(e, m)
			}
			return b.test(e, m)
		}
	}
	return z
}

func pick[T any, F ~func(*stream.Event, *machine) (T, bool)](condition testFn, a, b F) F {
	return func(e *stream.Event, m *machine) (T, bool) {
		if condition(e, m) == yes {
			return a(e, m)
		}
		return b(e, m)
	}
}
