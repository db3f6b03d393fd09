package decode

import (
	"math"
	"math/bits"
	"strconv"
)

// number is what a numeral says, exactly: mantissa * 10^exponent.
type number struct {
	mantissa uint64 // without trailing zeros
	exponent int
	negative bool
	long     bool // it has more digits than the mantissa holds; only parseFloat reads it
}

const (
	maxDigits   = 19      // that always fit into the mantissa
	maxExponent = 100_000 // more is told apart from nothing else
)

// parseNumber reads the numerals of JSON, and what tables have beside them: a plus sign, leading zeros.
func parseNumber(s string) (n number, ok bool) {
	i := 0
	if i < len(s) && (s[i] == '-' || s[i] == '+') {
		n.negative = s[i] == '-'
		i++
	}
	zeros, digits := 0, 0 // zeros that are not in the mantissa yet; digits that are
	add := func(d byte) {
		switch {
		case d == 0:
			if n.mantissa != 0 {
				zeros++
			}
		case digits+zeros+1 > maxDigits || n.long:
			n.long = true
		default:
			for ; zeros > 0; zeros-- {
				n.mantissa *= 10
				digits++
			}
			n.mantissa = 10*n.mantissa + uint64(d)
			digits++
		}
	}
	from := i
	for ; i < len(s) && isDigit(s[i]); i++ {
		add(s[i] - '0')
	}
	if i == from {
		return n, false
	}
	fraction := 0
	if i < len(s) && s[i] == '.' {
		i++
		from = i
		for ; i < len(s) && isDigit(s[i]); i++ {
			add(s[i] - '0')
		}
		if fraction = i - from; fraction == 0 {
			return n, false
		}
	}
	n.exponent = zeros - fraction
	if n.mantissa == 0 {
		n.exponent = 0
	}
	if i == len(s) {
		return n, true
	}
	e, ok := parseExponent(s[i:])
	n.exponent += e
	return n, ok
}

func parseExponent(s string) (e int, ok bool) {
	if s[0] != 'e' && s[0] != 'E' {
		return 0, false
	}
	s = s[1:]
	sign := 1
	if s != "" && (s[0] == '-' || s[0] == '+') {
		if s[0] == '-' {
			sign = -1
		}
		s = s[1:]
	}
	for i := range len(s) {
		if !isDigit(s[i]) {
			return 0, false
		}
		e = min(10*e+int(s[i]-'0'), maxExponent)
	}
	return sign * e, s != ""
}

// scaled is n * 10^scale; false if that is no whole number of 64 bits with a sign.
func (n number) scaled(scale int) (int64, bool) {
	if n.mantissa == 0 {
		return 0, !n.long
	}
	e := n.exponent + scale
	if n.long || e < 0 || e > maxDigits {
		return 0, false
	}
	hi, u := uint64(0), n.mantissa
	for ; e > 0; e-- {
		if hi, u = bits.Mul64(u, 10); hi != 0 {
			return 0, false
		}
	}
	switch {
	case n.negative && u <= 1<<63:
		return -int64(u), true
	case !n.negative && u <= math.MaxInt64:
		return int64(u), true
	}
	return 0, false
}

// scaledDown is n * 10^scale without its fraction, towards minus infinity as time.Time has it; false if it is too large.
func (n number) scaledDown(scale int) (int64, bool) {
	e := n.exponent + scale
	if n.long || e >= 0 || n.mantissa == 0 {
		return n.scaled(scale)
	}
	u, rest := n.mantissa, false
	for ; e < 0 && u != 0; e++ {
		rest = rest || u%10 != 0
		u /= 10
	}
	if n.negative && rest {
		u++
	}
	return number{mantissa: u, negative: n.negative}.scaled(0)
}

// float is the float that is nearest to the numeral s, which n was read from; false beyond the largest.
func (n number) float(s string) (float64, bool) {
	if n.mantissa >= 1<<53 || n.long || n.exponent < -22 || n.exponent > 22 {
		f, err := strconv.ParseFloat(s, 64)
		return f, err == nil
	}
	// Both factors are exact, so the result is rounded once (Clinger 1990).
	f, power := float64(n.mantissa), 1.0
	for range max(n.exponent, -n.exponent) {
		power *= 10
	}
	if n.exponent < 0 {
		f /= power
	} else {
		f *= power
	}
	if n.negative {
		f = -f
	}
	return f, true
}

func isDigit(c byte) bool { return c-'0' <= 9 }
