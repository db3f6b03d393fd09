package expr

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

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
			c.problem(x.node.pos, "%s wants %s, and %v is %s; write %s", n.text, describe(code{typ: stream.Type{Kind: want}}), x.node, describe(x), f.usage)
			continue
		}
		args[i] = c.as(x, stream.Type{Kind: want})
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
func makingText(f textFn) code { return code{typ: textType, text: f, makesText: true} }

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
		return code{typ: textType, text: func(e *stream.Event, m *machine) (string, bool) {
			s, ok := text(e, m)
			return f(s), ok
		}}
	}
}

// test is a condition on two texts.
func test(f func(s, part string) bool) func(*compiler, *node, []code) code {
	return func(_ *compiler, _ *node, args []code) code {
		left, right := args[0].text, args[1].text
		return code{typ: boolType, test: func(e *stream.Event, m *machine) truth {
			s, ok := left(e, m)
			part, partOK := right(e, m)
			return truthOf(ok && partOK && f(s, part))
		}}
	}
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
	return code{typ: intType, whole: func(e *stream.Event, m *machine) (int64, bool) {
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
	return code{typ: textType, text: func(e *stream.Event, m *machine) (string, bool) {
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

// hash is SHA-256 of the salt, if there is one, and the text behind it, as hexadecimal text.
func hash(_ *compiler, _ *node, args []code) code {
	text := args[0].text
	if len(args) == 1 {
		return makingText(func(e *stream.Event, m *machine) (string, bool) {
			s, ok := text(e, m)
			if !ok {
				return "", false
			}
			return m.hex(sha256.Sum256(viewBytes(s))), true
		})
	}
	salt := args[1].text
	return makingText(func(e *stream.Event, m *machine) (string, bool) {
		s, ok := text(e, m)
		before, saltOK := salt(e, m)
		if !ok || !saltOK {
			return "", false
		}
		return m.hex(sha256.Sum256(m.join(before, s))), true
	})
}

// keyedHash is HMAC-SHA-256 (RFC 2104) as hexadecimal text.
func keyedHash(c *compiler, n *node, args []code) code {
	if !c.literal(n, args[1]) {
		return code{}
	}
	inner, outer := pads(args[1].value.Text())
	text := args[0].text
	return makingText(func(e *stream.Event, m *machine) (string, bool) {
		s, ok := text(e, m)
		if !ok {
			return "", false
		}
		var second [sha256.BlockSize + sha256.Size]byte
		copy(second[:], outer)
		first := sha256.Sum256(m.join(inner, s))
		copy(second[sha256.BlockSize:], first[:])
		return m.hex(sha256.Sum256(second[:])), true
	})
}

// pads are the two blocks that HMAC begins its sums with.
func pads(key string) (inner, outer string) {
	if len(key) > sha256.BlockSize {
		sum := sha256.Sum256([]byte(key))
		key = string(sum[:])
	}
	var i, o [sha256.BlockSize]byte
	copy(i[:], key)
	o = i
	for n := range i {
		i[n] ^= 0x36
		o[n] ^= 0x5c
	}
	return string(i[:]), string(o[:])
}

// join is a and b in one piece, until the next join.
func (m *machine) join(a, b string) []byte {
	m.scratch = append(append(m.scratch[:0], a...), b...)
	return m.scratch
}

func (m *machine) hex(sum [sha256.Size]byte) string {
	b := m.alloc(2 * len(sum))
	hex.Encode(b, sum[:])
	return viewText(b)
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

// date is the UTC date as text, 2006-01-02.
func date(_ *compiler, _ *node, args []code) code {
	whole := args[0].whole
	return makingText(func(e *stream.Event, m *machine) (string, bool) {
		us, ok := whole(e, m)
		if !ok {
			return "", false
		}
		const room = len("-290308-12-21")
		return viewText(time.UnixMicro(us).UTC().AppendFormat(m.alloc(room)[:0], time.DateOnly)), true
	})
}

// hour is the UTC hour of the day, 0 to 23.
func hour(_ *compiler, _ *node, args []code) code {
	whole := args[0].whole
	return code{typ: intType, whole: func(e *stream.Event, m *machine) (int64, bool) {
		us, ok := whole(e, m)
		return floorMod(us, dayUnit) / hourUnit, ok
	}}
}

// Units of a timestamp.
const (
	secondUnit = 1_000_000
	minuteUnit = 60 * secondUnit
	hourUnit   = 60 * minuteUnit
	dayUnit    = 24 * hourUnit
)

func floorMod(a, b int64) int64 { return (a%b + b) % b }

// truncate is the beginning of the second, minute, hour, day, week (Monday), month or year, in UTC.
func truncate(c *compiler, n *node, args []code) code {
	if !c.literal(n, args[1]) {
		return code{}
	}
	down := truncation(args[1].value.Text())
	if down == nil {
		return c.problem(args[1].node.pos, "unknown unit %v; want second, minute, hour, day, week, month or year", args[1].node)
	}
	whole := args[0].whole
	return code{typ: stream.Type{Kind: stream.Timestamp}, whole: func(e *stream.Event, m *machine) (int64, bool) {
		us, ok := whole(e, m)
		if !ok {
			return 0, false
		}
		return down(us), true
	}}
}

func truncation(unit string) func(us int64) int64 {
	to := func(unit, offset int64) func(int64) int64 {
		return func(us int64) int64 { return us - floorMod(us-offset, unit) }
	}
	switch unit {
	case "second":
		return to(secondUnit, 0)
	case "minute":
		return to(minuteUnit, 0)
	case "hour":
		return to(hourUnit, 0)
	case "day":
		return to(dayUnit, 0)
	case "week":
		return to(7*dayUnit, 4*dayUnit) // 1970-01-05 was a Monday
	case "month":
		return func(us int64) int64 {
			year, month, _ := time.UnixMicro(us).UTC().Date()
			return time.Date(year, month, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
		}
	case "year":
		return func(us int64) int64 {
			return time.Date(time.UnixMicro(us).UTC().Year(), 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
		}
	}
	return nil
}

// toTimestamp reads RFC 3339.
func toTimestamp(c *compiler, n *node, args []code) code {
	text, failure := args[0].text, c.failure(n.pos, "timestamp: the text is not a time as RFC 3339 writes it, 2006-01-02T15:04:05Z")
	z := code{typ: stream.Type{Kind: stream.Timestamp}, whole: func(e *stream.Event, m *machine) (int64, bool) {
		s, ok := text(e, m)
		if !ok {
			return 0, false
		}
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			m.fail(failure)
		}
		return t.UnixMicro(), true
	}}
	return mayFail(n, z, "not every text is a time")
}

// toText writes any value as the sinks do that only have texts.
func toText(c *compiler, n *node, args []code) code {
	x := args[0]
	if x.typ.Kind == stream.Null {
		return null()
	}
	if x.text != nil {
		return code{typ: textType, text: x.text}
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

func toInt(c *compiler, n *node, args []code) code {
	text, failure := args[0].text, c.failure(n.pos, "int: the text is not a whole number of 64 bits")
	z := code{typ: intType, whole: func(e *stream.Event, m *machine) (int64, bool) {
		s, ok := text(e, m)
		if !ok {
			return 0, false
		}
		i, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			m.fail(failure)
		}
		return i, true
	}}
	return mayFail(n, z, "not every text is a number")
}

func toFloat(c *compiler, n *node, args []code) code {
	x := args[0]
	if x.typ.Kind == stream.Null {
		return null()
	}
	if isNumber(x.typ) {
		return code{typ: floatType, float: c.as(x, floatType).float}
	}
	if x.typ.Kind != stream.String {
		return c.problem(x.node.pos, "float wants a string or a number, and %v is %s", x.node, describe(x))
	}
	failure := c.failure(n.pos, "float: the text is not a decimal number within the range of floats")
	z := code{typ: floatType, float: func(e *stream.Event, m *machine) (float64, bool) {
		s, ok := x.text(e, m)
		if !ok {
			return 0, false
		}
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || strings.Trim(s, "+-.0123456789eE") != "" {
			m.fail(failure)
		}
		return f, true
	}}
	return mayFail(n, z, "not every text is a number")
}

// round is the nearest int, or the nearest decimal with so many places; half away from zero, of the number as it is written.
func round(c *compiler, n *node, args []code) code {
	x, places := args[0], uint8(0)
	if x.typ.Kind == stream.Null {
		return null()
	}
	if !isNumber(x.typ) {
		return c.problem(x.node.pos, "round wants a number, and %v is %s", x.node, describe(x))
	}
	z := code{typ: intType}
	if len(args) == 2 {
		if !c.literal(n, args[1]) {
			return code{}
		}
		i := args[1].value.Int()
		if i < 0 || i > 18 {
			return c.problem(args[1].node.pos, "round to %d places; want 0 to 18", i)
		}
		places = uint8(i)
		z.typ = stream.Type{Kind: stream.Decimal, Precision: 18, Scale: places}
	}
	failure := c.failure(n.pos, "round: the result is beyond 64 bits")
	if x.typ.Kind == stream.Float {
		float := x.float
		z.whole = func(e *stream.Event, m *machine) (int64, bool) {
			f, ok := float(e, m)
			if !ok {
				return 0, false
			}
			v, fits := roundFloat(f, places)
			if !fits {
				m.fail(failure)
			}
			return v, true
		}
		return mayFail(n, z, "overflow")
	}
	if x.typ.Scale <= places {
		y := c.as(x, stream.Type{Kind: stream.Decimal, Precision: 18, Scale: places})
		z.whole = y.whole
		z.inherit([]code{y})
		return z
	}
	whole, unit := x.whole, power10(x.typ.Scale-places)
	z.whole = func(e *stream.Event, m *machine) (int64, bool) {
		i, ok := whole(e, m)
		return divideRound(i, unit), ok
	}
	return z
}

// divideRound is i/unit to the nearest, half away from zero.
func divideRound(i, unit int64) int64 {
	q, r := i/unit, i%unit
	switch {
	case r >= unit-r && r > 0:
		q++
	case -r >= unit+r && r < 0:
		q--
	}
	return q
}

// roundFloat rounds the shortest decimal text of f, which is what a person sees: 1.005 becomes 1.01, although the float is
// a little less than that.
func roundFloat(f float64, places uint8) (int64, bool) {
	if math.IsInf(f, 0) || math.IsNaN(f) {
		return 0, false
	}
	var room [32]byte
	text := strconv.AppendFloat(room[:0], f, 'e', -1, 64) // -d.ddde+xx
	mantissa, exponent, _ := strings.Cut(viewText(text), "e")
	shift, _ := strconv.Atoi(exponent)
	var digits int64
	negative, fraction := false, false
	for _, c := range []byte(mantissa) {
		switch {
		case c == '-':
			negative = true
		case c == '.':
			fraction = true
		default:
			digits = 10*digits + int64(c-'0')
			if fraction {
				shift--
			}
		}
	}
	if negative {
		digits = -digits
	}
	switch shift += int(places); {
	case digits == 0 || shift < -18:
		return 0, true
	case shift > 18:
		return 0, false
	case shift < 0:
		return divideRound(digits, power10(uint8(-shift))), true
	}
	return multiply(digits, power10(uint8(shift)))
}
