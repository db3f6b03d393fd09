package expr

import (
	"math"
	"strconv"
	"strings"

	"github.com/millrace-io/millrace/stream"
)

func toInt(c *compiler, n *node, args []code) code {
	text, failure := args[0].text, c.failure(n.pos, "int: the text is not a whole number of 64 bits")
	z := code{typ: of(stream.Int), whole: func(e *stream.Event, m *machine) (int64, bool) {
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
		return code{typ: of(stream.Float), float: c.as(x, of(stream.Float)).float}
	}
	if x.typ.Kind != stream.String {
		return c.problem(x.node.pos, "float wants a string or a number, and %v is %s", x.node, describe(x))
	}
	failure := c.failure(n.pos, "float: the text is not a decimal number within the range of floats")
	z := code{typ: of(stream.Float), float: func(e *stream.Event, m *machine) (float64, bool) {
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
	z := code{typ: of(stream.Int)}
	if len(args) == 2 {
		if !c.literal(n, args[1]) {
			return code{}
		}
		i := args[1].value.Int()
		if i < 0 || i > 18 {
			return c.problem(args[1].node.pos, "round to %d places; want 0 to 18", i)
		}
		places = uint8(i)
		z.typ = decimal18(places)
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
		y := c.as(x, decimal18(places))
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
