package dynamodb

import (
	"math/big"
	"strconv"
	"strings"

	"github.com/millrace-io/millrace/testenv/awsjson"
)

// number is an exact decimal, m * 10^e. m has no trailing zeros; zero is 0 * 10^0.
type number struct {
	m *big.Int
	e int
}

// What a number may be.
const (
	mostDigits  = 38
	mostPower   = 125  // of ten, of its first digit
	leastPower  = -130 // likewise
	mostNumeral = 1000 // bytes of its text, lest a request cost much; nothing beyond is in range
)

func parseNumber(text string) (number, error) {
	bad := invalid("The parameter cannot be converted to a numeric value: %s", text)
	if text == "" {
		bad = invalid("The parameter cannot be converted to a numeric value")
	}
	if len(text) > mostNumeral {
		return number{}, bad
	}
	mantissa, power, hasPower := strings.Cut(strings.ToLower(text), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimLeft(whole, "+-") + fraction
	if digits == "" || strings.Trim(digits, "0123456789") != "" || len(whole)-len(strings.TrimLeft(whole, "+-")) > 1 {
		return number{}, bad
	}
	e := -len(fraction)
	if hasPower {
		n, err := strconv.ParseInt(power, 10, 32)
		if err != nil {
			return number{}, bad
		}
		e += int(n)
	}
	m, _ := new(big.Int).SetString(digits, 10)
	if strings.HasPrefix(whole, "-") {
		m.Neg(m)
	}
	return newNumber(m, e)
}

// newNumber makes m canonical and checks that it is in range.
func newNumber(m *big.Int, e int) (number, error) {
	if m.Sign() == 0 {
		return number{new(big.Int), 0}, nil
	}
	digits := new(big.Int).Abs(m).String()
	kept := strings.TrimRight(digits, "0")
	if cut := len(digits) - len(kept); cut > 0 {
		m = new(big.Int).Quo(m, tenTo(cut))
		e += cut
	}
	switch first := len(kept) + e - 1; {
	case len(kept) > mostDigits:
		return number{}, invalid("Attempting to store more than 38 significant digits in a Number")
	case first > mostPower:
		return number{}, invalid("Number overflow. Attempting to store a number with magnitude larger than supported range")
	case first < leastPower:
		return number{}, invalid("Number underflow. Attempting to store a number with magnitude smaller than supported range")
	}
	return number{m, e}, nil
}

func tenTo(n int) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil) }

// aligned are the mantissas of two numbers at the smaller of their exponents.
func aligned(a, b number) (x, y *big.Int, e int) {
	e = min(a.e, b.e)
	at := func(n number) *big.Int {
		if n.e == e {
			return n.m
		}
		return new(big.Int).Mul(n.m, tenTo(n.e-e))
	}
	return at(a), at(b), e
}

func (n number) compare(o number) int {
	x, y, _ := aligned(n, o)
	return x.Cmp(y)
}

func (n number) plus(o number) (number, error) {
	x, y, e := aligned(n, o)
	return newNumber(new(big.Int).Add(x, y), e)
}

func (n number) minus(o number) (number, error) {
	return n.plus(number{new(big.Int).Neg(o.m), o.e})
}

// String writes the number out, without an exponent, as Amazon does.
func (n number) String() string {
	digits := n.m.String()
	if n.e >= 0 {
		return digits + strings.Repeat("0", n.e)
	}
	sign := ""
	if n.m.Sign() < 0 {
		sign, digits = "-", digits[1:]
	}
	if missing := 1 - n.e - len(digits); missing > 0 {
		digits = strings.Repeat("0", missing) + digits
	}
	return sign + digits[:len(digits)+n.e] + "." + digits[len(digits)+n.e:]
}

// size is what Amazon counts: about a byte for two digits.
func (n number) size() int { return (len(n.m.Text(10))+1)/2 + 1 }

func invalid(format string, args ...any) error {
	return awsjson.Errorf("ValidationException", format, args...)
}
