package decode

import (
	"math/big"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// FuzzTime holds the parsers of the two common layouts against time.Parse. What Go takes beyond the layout is left to it: a
// comma for the point, an hour of one digit, an offset of 24 hours, months in capitals.
func FuzzTime(f *testing.F) {
	for _, s := range []string{
		"2010-12-01T08:26:00Z", "2012-02-29T23:59:59.999999999-23:59", "0000-01-01T00:00:00+00:00", "9999-12-31T23:59:60Z", "2011-02-29T00:00:00Z",
		"2010-12-01T24:00:00Z", "2010-12-01T08:26:00,5Z", "2010-12-01T08:26:00.Z", "1900-02-29T00:00:00Z", "2000-02-29T00:00:00Z",
		"17/May/2015:10:05:03 +0000", "29/Feb/1900:10:05:03 -0930", "31/Apr/0001:10:05:03 +0000", "17/may/2015:10:05:03 +2400",
	} {
		f.Add(s)
	}
	formats := []struct {
		layout string
		strict *regexp.Regexp
		parse  func(string) (int64, bool)
	}{
		{time.RFC3339, regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)$`), rfc3339},
		{accessLog, regexp.MustCompile(`^\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]([01]\d|2[0-3])[0-5]\d$`), clf},
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, format := range formats {
			us, ok := format.parse(s)
			want, err := time.Parse(format.layout, s)
			switch {
			case ok && (err != nil || us != want.UnixMicro()):
				t.Errorf("%q: got %d, want %d (%v)", s, us, want.UnixMicro(), err)
			case !ok && err == nil && format.strict.MatchString(s):
				t.Errorf("%q is not read", s)
			}
		}
	})
}

// FuzzNumber holds the numbers against math/big and strconv.
func FuzzNumber(f *testing.F) {
	for _, s := range []string{
		"0", "-0.0", "1e3", "9223372036854775807", "-9223372036854775808", "9223372036854775808", "1.50", "0.001e3", "1e-400", "4.35", "1e23",
		"18446744073709551616", "10000000000000000000000", "1.00000000000000000000000001", "+007", "1e+", ".5", "5.", "9007199254740993", "123456789e-22",
	} {
		f.Add(s, 2)
	}
	grammar := regexp.MustCompile(`^[+-]?\d+(\.\d+)?([eE][+-]?\d+)?$`)
	f.Fuzz(func(t *testing.T, s string, scale int) {
		n, ok := parseNumber(s)
		if ok != grammar.MatchString(s) {
			t.Fatalf("%q: read %v", s, ok)
		}
		if i := strings.IndexAny(s, "eE"); !ok || i >= 0 && len(s)-i > 5 || len(s) > 1000 {
			return
		}
		want, err := strconv.ParseFloat(s, 64)
		if got, ok := n.float(s); ok != (err == nil) || ok && got != want {
			t.Errorf("%q: got float %v %v, want %v %v", s, got, ok, want, err)
		}
		if scale %= 10; scale < 0 {
			scale = -scale
		}
		r, _ := new(big.Rat).SetString(s)
		r.Mul(r, new(big.Rat).SetInt64(int64([]int{1, 10, 100, 1000, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9}[scale])))
		exact := r.IsInt() && r.Num().IsInt64()
		if got, ok := n.scaled(scale); ok != exact || ok && got != r.Num().Int64() {
			t.Errorf("%q: got %d %v, want %s", s, got, ok, r)
		}
		down := new(big.Int).Div(r.Num(), r.Denom())
		if got, ok := n.scaledDown(scale); !n.long && (ok != down.IsInt64() || ok && got != down.Int64()) {
			t.Errorf("%q: got %d %v, want %s", s, got, ok, down)
		}
	})
}

func TestFloatsAreTheNearest(t *testing.T) {
	const seed = 3
	r := rand.New(rand.NewPCG(seed, seed))
	for range 50_000 {
		s := strconv.FormatUint(r.Uint64()>>r.IntN(64), 10) + "e" + strconv.Itoa(r.IntN(81)-40)
		n, _ := parseNumber(s)
		want, err := strconv.ParseFloat(s, 64)
		if got, ok := n.float(s); !ok || err != nil || got != want {
			t.Fatalf("seed %d: %s: got %v, want %v", seed, s, got, want)
		}
	}
}

func TestPlainStopsAtTheFirstByteThatIsNot(t *testing.T) {
	for c := range 256 {
		for at := range 24 {
			text := []byte(strings.Repeat("x", 24))
			text[at] = byte(c)
			want := at
			if c >= ' ' && c < 0x80 && c != '"' && c != '\\' {
				want = len(text)
			}
			if got := plain(text, 0); got != want {
				t.Errorf("%q: got %d, want %d", text, got, want)
			}
		}
	}
}

// TestAutomatonIsTheListReadSlowly draws lists and agents of three letters.
func TestAutomatonIsTheListReadSlowly(t *testing.T) {
	const seed = 7
	r := rand.New(rand.NewPCG(seed, seed))
	word := func(most int) string {
		b := make([]byte, 1+r.IntN(most))
		for i := range b {
			b[i] = "abc"[r.IntN(3)]
		}
		return string(b)
	}
	for range 300 {
		marks := map[string]bool{} // false for an exception
		for range 1 + r.IntN(6) {
			p := []string{"", "", "^"}[r.IntN(3)] + word(4) + []string{"", "", "$"}[r.IntN(3)]
			marks[p] = r.IntN(3) > 0
		}
		var list strings.Builder
		for p, accepts := range marks {
			if !accepts {
				list.WriteString("!")
			}
			list.WriteString(p + "\n")
		}
		b := newBots(list.String())
		for range 20 {
			agent := word(8)
			if got, want := b.match(agent), slowly(marks, "^"+agent+"$"); got != want {
				t.Fatalf("seed %d: %q against %q: got %v, want %v", seed, agent, list.String(), got, want)
			}
		}
	}
}

// slowly says that somewhere in text the longest pattern that ends there is no exception.
func slowly(marks map[string]bool, text string) bool {
	for end := range len(text) + 1 {
		longest := ""
		for p := range marks {
			if strings.HasSuffix(text[:end], p) && len(p) > len(longest) {
				longest = p
			}
		}
		if longest != "" && marks[longest] {
			return true
		}
	}
	return false
}
