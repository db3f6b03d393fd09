package expr

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"net/url"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/millrace-io/millrace/stream"
)

// The oracle evaluates the tree itself, with big numbers and the standard library, and knows nothing of closures, folding,
// arenas and caches. Its values are nil, string, bool, float64, exact numbers (*big.Rat), time.Time and json.RawMessage.

var errOracle = errors.New("fails")

type oracle struct {
	t      *testing.T
	schema *stream.Schema
	event  *stream.Event
}

// typeOf is the static type, which decides how numbers meet.
func (o *oracle) typeOf(n *node) stream.Type {
	x, err := Compile(n.String(), o.schema)
	if err != nil {
		o.t.Fatalf("%v: %v", n, err)
	}
	return x.Type()
}

func (o *oracle) eval(n *node) (any, error) {
	switch n.op {
	case opLiteral:
		return o.fromValue(n.value, stream.Type{Kind: n.value.Kind()}), nil
	case opColumn:
		i, _ := o.schema.Lookup(n.text)
		return o.fromValue(o.event.Values[i], o.schema.Columns[i].Type), nil
	case opPath:
		return o.path(n)
	case opCall:
		if n.text == "if" || n.text == "coalesce" {
			return o.lazy(n)
		}
	case "&&", "||":
		left, err := o.eval(n.args[0])
		if err != nil || (left == true) == (n.op == "||") {
			return left == true, err
		}
		right, err := o.eval(n.args[1])
		return right == true, err
	case "in":
		for _, item := range n.args[1].args {
			equal, err := o.eval(&node{op: "==", args: []*node{n.args[0], item}})
			if err != nil || equal == true {
				return equal, err
			}
		}
		return false, nil
	}
	args := make([]any, len(n.args))
	var failed error
	for i, a := range n.args {
		v, err := o.eval(a)
		if err != nil {
			failed = err
		}
		args[i] = v
	}
	if failed != nil {
		return nil, failed
	}
	switch n.op {
	case opCall:
		return o.call(n, args)
	case "!":
		return args[0] != true, nil
	case opMinus:
		return o.arithmetic("-", &node{op: opLiteral, text: "0", value: stream.IntValue(0)}, n.args[0], new(big.Rat), args[0])
	case "+", "-", "*", "/", "%":
		return o.arithmetic(n.op, n.args[0], n.args[1], args[0], args[1])
	}
	return o.compare(n, args[0], args[1])
}

func (o *oracle) fromValue(v stream.Value, t stream.Type) any {
	if v.IsNull() {
		return nil
	}
	switch t.Kind {
	case stream.Int:
		return new(big.Rat).SetInt64(v.Int())
	case stream.Decimal:
		return new(big.Rat).SetFrac64(v.Int(), power10(t.Scale))
	case stream.Float:
		return v.Float()
	case stream.Bool:
		return v.Bool()
	case stream.Timestamp:
		return time.UnixMicro(v.Int()).UTC()
	}
	return v.Text()
}

func (o *oracle) path(n *node) (any, error) {
	text := o.event.Properties
	if n.text != "properties" {
		i, _ := o.schema.Lookup(n.text)
		text = o.event.Values[i].Text()
	}
	raw := json.RawMessage(text)
	for _, step := range n.args {
		if step.value.Kind() == stream.Int {
			var array []json.RawMessage
			i := step.value.Int()
			if json.Unmarshal(raw, &array) != nil || i >= int64(len(array)) {
				return nil, nil
			}
			raw = array[i]
			continue
		}
		var object map[string]json.RawMessage
		if json.Unmarshal(raw, &object) != nil {
			return nil, nil
		}
		raw = object[step.value.Text()]
	}
	var s string
	switch {
	case len(raw) == 0 || string(raw) == "null":
		return nil, nil
	case json.Unmarshal(raw, &s) == nil:
		return s, nil
	}
	return string(raw), nil
}

func (o *oracle) lazy(n *node) (any, error) {
	if n.text == "if" {
		condition, err := o.eval(n.args[0])
		if err != nil {
			return nil, err
		}
		chosen := n.args[2]
		if condition == true {
			chosen = n.args[1]
		}
		v, err := o.eval(chosen)
		return o.widen(v, chosen, o.typeOf(n), err)
	}
	for _, a := range n.args {
		v, err := o.eval(a)
		if err != nil || v != nil {
			return o.widen(v, a, o.typeOf(n), err)
		}
	}
	return nil, nil
}

// widen makes a number of type t, which it fits.
func (o *oracle) widen(v any, n *node, t stream.Type, err error) (any, error) {
	if err != nil || v == nil {
		return v, err
	}
	switch t.Kind {
	case stream.Float:
		return asFloat(v, o.typeOf(n)), nil
	case stream.Decimal:
		return within64(asExact(v, n), t.Scale)
	}
	return v, nil
}

func asFloat(v any, t stream.Type) float64 {
	if f, ok := v.(float64); ok {
		return f
	}
	unit := power10(t.Scale)
	whole := new(big.Rat).Mul(v.(*big.Rat), new(big.Rat).SetInt64(unit))
	return float64(whole.Num().Int64()) / float64(unit)
}

// asExact is an exact number, of a literal the one that is written.
func asExact(v any, n *node) *big.Rat {
	if r, ok := v.(*big.Rat); ok {
		return r
	}
	r, _ := new(big.Rat).SetString(n.text)
	return r
}

func isExactLiteral(n *node) bool {
	return n.op == opLiteral && n.value.Kind() == stream.Float && literal(n).exact != nil
}

// meet says whether two operands meet as floats, and the scale if not.
func (o *oracle) meet(a, b *node) (float bool, scale uint8) {
	ta, tb := o.typeOf(a), o.typeOf(b)
	decimal := ta.Kind == stream.Decimal || tb.Kind == stream.Decimal
	isFloat := func(n *node, t stream.Type) bool {
		return t.Kind == stream.Float && !(decimal && isExactLiteral(n))
	}
	scaleOf := func(n *node, t stream.Type) uint8 {
		if t.Kind == stream.Float {
			return literal(n).exact.scale
		}
		return t.Scale
	}
	if isFloat(a, ta) || isFloat(b, tb) {
		return true, 0
	}
	return false, max(scaleOf(a, ta), scaleOf(b, tb))
}

func (o *oracle) arithmetic(op string, a, b *node, x, y any) (any, error) {
	if x == nil || y == nil {
		return nil, nil
	}
	float, scale := o.meet(a, b)
	if float || op == "/" {
		p, q := asFloat(x, o.typeOf(a)), asFloat(y, o.typeOf(b))
		switch op {
		case "+":
			return p + q, nil
		case "-":
			return p - q, nil
		case "*":
			return p * q, nil
		}
		if q == 0 {
			return nil, errOracle
		}
		if op == "/" {
			return p / q, nil
		}
		return math.Mod(p, q), nil
	}
	p, q, z := asExact(x, a), asExact(y, b), new(big.Rat)
	_, err := within64(p, scale)
	_, err2 := within64(q, scale)
	if op != "*" && (err != nil || err2 != nil) { // the operands are brought to one scale
		return nil, errOracle
	}
	switch op {
	case "+":
		z.Add(p, q)
	case "-":
		z.Sub(p, q)
	case "*":
		z.Mul(p, q)
		return within64(z, o.productScale(a, b))
	case "%":
		if q.Sign() == 0 {
			return nil, errOracle
		}
		quotient := new(big.Rat).Quo(p, q)
		whole := new(big.Int).Quo(quotient.Num(), quotient.Denom()) // towards zero
		z.Sub(p, new(big.Rat).Mul(q, new(big.Rat).SetInt(whole)))
	}
	return within64(z, scale)
}

func (o *oracle) productScale(a, b *node) uint8 {
	scale := uint8(0)
	for _, n := range []*node{a, b} {
		if t := o.typeOf(n); t.Kind == stream.Float {
			scale += literal(n).exact.scale
		} else {
			scale += t.Scale
		}
	}
	return scale
}

// within64 fails for a number whose unscaled form is beyond 64 bits.
func within64(r *big.Rat, scale uint8) (any, error) {
	unscaled := new(big.Rat).Mul(r, new(big.Rat).SetInt64(power10(scale)))
	if !unscaled.IsInt() || !unscaled.Num().IsInt64() {
		return nil, errOracle
	}
	return r, nil
}

func (o *oracle) compare(n *node, x, y any) (any, error) {
	if x == nil || y == nil {
		equal := x == nil && y == nil
		return equal && n.op == "==" || !equal && n.op == "!=", nil
	}
	order := 0
	switch a := x.(type) {
	case string:
		order = strings.Compare(a, y.(string))
	case bool:
		if a != y.(bool) {
			order = 1
		}
	case time.Time:
		order = a.Compare(y.(time.Time))
	default:
		if float, _ := o.meet(n.args[0], n.args[1]); !float {
			order = asExact(x, n.args[0]).Cmp(asExact(y, n.args[1]))
			break
		}
		p, q := asFloat(x, o.typeOf(n.args[0])), asFloat(y, o.typeOf(n.args[1]))
		if math.IsNaN(p) || math.IsNaN(q) {
			return n.op == "!=", nil
		}
		order = map[bool]int{p > q: 1, p < q: -1}[true]
	}
	return map[string]bool{
		"==": order == 0, "!=": order != 0, "<": order < 0, "<=": order <= 0, ">": order > 0, ">=": order >= 0,
	}[n.op], nil
}

func (o *oracle) call(n *node, args []any) (any, error) {
	if slices.Contains(args, nil) {
		switch n.text {
		case "contains", "startsWith", "endsWith", "matches":
			return false, nil
		}
		return nil, nil
	}
	text := func(i int) string { return args[i].(string) }
	switch n.text {
	case "lower":
		return strings.ToLower(text(0)), nil
	case "upper":
		return strings.ToUpper(text(0)), nil
	case "trim":
		return strings.TrimSpace(text(0)), nil
	case "length":
		return new(big.Rat).SetInt64(int64(utf8.RuneCountInString(text(0)))), nil
	case "concat":
		var b strings.Builder
		for i := range args {
			b.WriteString(text(i))
		}
		return b.String(), nil
	case "contains":
		return strings.Contains(text(0), text(1)), nil
	case "startsWith":
		return strings.HasPrefix(text(0), text(1)), nil
	case "endsWith":
		return strings.HasSuffix(text(0), text(1)), nil
	case "matches":
		return regexp.MustCompile(text(1)).MatchString(text(0)), nil
	case "replace":
		if text(1) == "" {
			return text(0), nil
		}
		return strings.ReplaceAll(text(0), text(1), text(2)), nil
	case "split_part":
		return o.splitPart(text(0), text(1), int(args[2].(*big.Rat).Num().Int64())), nil
	case "host", "path", "param":
		return o.url(n.text, args)
	case "sha256":
		salt := ""
		if len(args) == 2 {
			salt = text(1)
		}
		sum := sha256.Sum256([]byte(salt + text(0)))
		return hex.EncodeToString(sum[:]), nil
	case "hmac_sha256":
		h := hmac.New(sha256.New, []byte(text(1)))
		h.Write([]byte(text(0)))
		return hex.EncodeToString(h.Sum(nil)), nil
	case "date":
		return args[0].(time.Time).Format("2006-01-02"), nil
	case "hour":
		return new(big.Rat).SetInt64(int64(args[0].(time.Time).Hour())), nil
	case "truncate":
		return o.truncate(args[0].(time.Time), text(1)), nil
	case "timestamp":
		t, err := time.Parse(time.RFC3339, text(0))
		if err != nil {
			return nil, errOracle
		}
		return time.UnixMicro(t.UnixMicro()).UTC(), nil
	case "text":
		return o.show(args[0], o.typeOf(n.args[0]))
	case "int":
		i, err := strconv.ParseInt(text(0), 10, 64)
		if err != nil {
			return nil, errOracle
		}
		return new(big.Rat).SetInt64(i), nil
	case "float":
		return o.float(n, args[0])
	case "round":
		return o.round(n, args)
	}
	o.t.Fatalf("the oracle does not know %s", n.text)
	return nil, nil
}

func (o *oracle) splitPart(s, by string, n int) any {
	parts := []string{s}
	if by != "" {
		parts = strings.Split(s, by)
	}
	if n < 0 {
		n += len(parts) + 1
	}
	if n < 1 || n > len(parts) {
		return nil
	}
	return parts[n-1]
}

// url asks net/url, which is stricter: the generator's addresses are ones that it takes.
func (o *oracle) url(function string, args []any) (any, error) {
	s := args[0].(string)
	if !strings.Contains(s, "//") && function != "param" && !strings.HasPrefix(s, "/") {
		s = "./" + s // no scheme
		if function == "path" {
			s, _, _ = strings.Cut(args[0].(string), "#")
			s, _, _ = strings.Cut(s, "?")
			return s, nil
		}
	}
	u, err := url.Parse(s)
	if err != nil {
		o.t.Fatalf("%s: %v", s, err)
	}
	switch function {
	case "host":
		if h := strings.ToLower(u.Hostname()); h != "" {
			return h, nil
		}
		return nil, nil
	case "path":
		if p := u.EscapedPath(); p != "" || u.Host == "" {
			return p, nil
		}
		return "/", nil
	}
	if values := u.Query()[args[1].(string)]; values != nil {
		return values[0], nil
	}
	return nil, nil
}

func (o *oracle) truncate(t time.Time, unit string) time.Time {
	y, m, d := t.Date()
	switch unit {
	case "second":
		return t.Truncate(time.Second)
	case "minute":
		return time.Date(y, m, d, t.Hour(), t.Minute(), 0, 0, time.UTC)
	case "hour":
		return time.Date(y, m, d, t.Hour(), 0, 0, 0, time.UTC)
	case "week":
		return time.Date(y, m, d-(int(t.Weekday())+6)%7, 0, 0, 0, 0, time.UTC)
	case "month":
		return time.Date(y, m, 1, 0, 0, 0, 0, time.UTC)
	case "year":
		return time.Date(y, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
}

func (o *oracle) float(n *node, v any) (any, error) {
	s, ok := v.(string)
	if !ok {
		return asFloat(v, o.typeOf(n.args[0])), nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !regexp.MustCompile(`^[-+.0-9eE]*$`).MatchString(s) {
		return nil, errOracle
	}
	return f, nil
}

func (o *oracle) round(n *node, args []any) (any, error) {
	places := uint8(0)
	if len(args) == 2 {
		places = uint8(args[1].(*big.Rat).Num().Int64())
	}
	r, _ := args[0].(*big.Rat)
	if f, isFloat := args[0].(float64); isFloat {
		var ok bool
		if r, ok = new(big.Rat).SetString(strconv.FormatFloat(f, 'g', -1, 64)); !ok {
			return nil, errOracle
		}
	}
	unit := new(big.Rat).SetInt64(power10(places))
	scaled := new(big.Rat).Mul(r, unit)
	half := big.NewRat(int64(scaled.Sign()), 2)
	up := new(big.Rat).Add(scaled, half)
	whole := new(big.Rat).SetInt(new(big.Int).Quo(up.Num(), up.Denom()))
	return within64(whole.Quo(whole, unit), places)
}

// show writes a value as a column of type t would be written.
func (o *oracle) show(v any, t stream.Type) (any, error) {
	switch v := v.(type) {
	case nil:
		return "null", nil
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) {
			return nil, errOracle
		}
		return strconv.FormatFloat(v, 'g', -1, 64), nil
	case bool:
		return strconv.FormatBool(v), nil
	case time.Time:
		return v.Format("2006-01-02T15:04:05.000000Z"), nil
	case *big.Rat:
		return v.FloatString(int(t.Scale)), nil
	}
	return v.(string), nil
}

// maker makes random expressions of a wanted kind.
type maker struct{ *rand.Rand }

func (g maker) pick(all ...string) string { return all[g.IntN(len(all))] }

func (g maker) text(depth int) string {
	if depth <= 0 || g.IntN(4) == 0 {
		return g.pick("type", "user", "country", "region", "url", "referrer", "title", "user_agent", `"a"`, `"ÄB"`, `""`, `"1.5"`, `"-42"`,
			"`it's`", "properties.s", "properties.page.section", "properties.n", "properties.page.deep[1].x", "properties.none", "page.tags[1]",
			`"2010-12-01T23:59:59.5Z"`, "items[0]", "properties.obj", `properties["a\"b"]`, "properties.nil", "page")
	}
	d := depth - 1
	a, b, c := g.text(d), g.text(d), g.text(d)
	address := g.pick("url", "referrer", `"https://A.b:80?x=1&x=2"`, `"//h"`, `"a/b"`, `""`)
	return g.pick(
		"lower("+a+")", "upper("+a+")", "trim("+a+")", "concat("+a+", "+b+")", "concat("+a+", "+b+", "+c+", "+a+", "+b+")",
		"replace("+a+", "+b+", "+c+")", fmt.Sprintf("split_part(%s, %s, %d)", a, g.pick(`"/"`, `"a"`, b), []int{1, 2, -1, -2}[g.IntN(4)]),
		"host("+address+")", "path("+address+")", "param("+address+", "+g.pick(`"q"`, `"utm"`, `"x"`, `"empty"`, `"none"`)+")",
		"sha256("+a+")", "sha256("+a+", "+b+")", "hmac_sha256("+a+", "+g.pick(`"key"`, `""`, `"`+strings.Repeat("k", 80)+`"`)+")",
		"coalesce("+a+", "+b+", "+c+")", "if("+g.condition(d)+", "+a+", "+b+")", "if("+g.condition(d)+", null, "+b+")",
		"date("+g.moment(d)+")", "text("+g.number(d)+")", "text("+g.condition(d)+")", "text("+g.moment(d)+")", "text("+a+")",
	)
}

func (g maker) number(depth int) string {
	if depth <= 0 || g.IntN(4) == 0 {
		return g.pick("quantity", "price", "cost", "rate", "score", "depth", "0", "1", "-3", "2.5", "0.005", "-1.19", "1e3", "7", "9223372036854775807",
			"100000000000000000", "1e300", "-9223372036854775808", "0.0")
	}
	d := depth - 1
	a, b := g.number(d), g.number(d)
	return g.pick(
		"("+a+") + ("+b+")", a+" - ("+b+")", "("+a+") * ("+b+")", "("+a+") / ("+b+")", "("+a+") % ("+b+")", "-("+a+")", "coalesce("+a+", "+b+")",
		"if("+g.condition(d)+", "+a+", "+b+")", "round("+a+")", fmt.Sprintf("round(%s, %d)", a, g.IntN(5)), "int("+g.text(d)+")", "float("+g.text(d)+")",
		"float("+a+")", "length("+g.text(d)+")", "hour("+g.moment(d)+")",
	)
}

func (g maker) moment(depth int) string {
	if depth <= 0 || g.IntN(3) == 0 {
		return g.pick("time", "received", `timestamp("1969-12-31T23:59:59.999999Z")`, `timestamp("2024-02-29T12:00:00+02:00")`, `timestamp("0001-01-01T00:00:00Z")`)
	}
	d := depth - 1
	return g.pick("truncate("+g.moment(d)+", "+g.pick(`"second"`, `"minute"`, `"hour"`, `"day"`, `"week"`, `"month"`, `"year"`)+")",
		"timestamp("+g.text(d)+")", "coalesce("+g.moment(d)+", "+g.moment(d)+")", "if("+g.condition(d)+", "+g.moment(d)+", "+g.moment(d)+")")
}

func (g maker) condition(depth int) string {
	if depth <= 0 || g.IntN(5) == 0 {
		return g.pick("bot", "active", "true", "false", `type == "page_view"`, "region == null", "quantity > 2")
	}
	d := depth - 1
	equal, order := g.pick("==", "!="), g.pick("==", "!=", "<", "<=", ">", ">=")
	a, b := g.condition(d), g.condition(d)
	return g.pick(
		"("+a+") && ("+b+")", "("+a+") || ("+b+")", "!("+a+")", "("+a+") "+equal+" ("+b+")",
		g.text(d)+" "+order+" "+g.text(d), "("+g.number(d)+") "+order+" ("+g.number(d)+")", g.moment(d)+" "+order+" "+g.moment(d),
		g.text(d)+" "+equal+" null", "null "+equal+" ("+g.number(d)+")", g.text(d)+` in ["a", "page_view", null]`,
		g.text(d)+` in ["a", "b", "c", "d", "17850", "de"]`, "("+g.number(d)+") in [1, 6, 19.99, -1.5]",
		"contains("+g.text(d)+", "+g.text(d)+")", "startsWith("+g.text(d)+", "+g.text(d)+")", "endsWith("+g.text(d)+", "+g.text(d)+")",
		"matches("+g.text(d)+", "+g.pick("`^[0-9]+$`", "'(?i)B'", "'a'", "''")+")",
		"coalesce("+a+", "+b+")", "if("+a+", "+b+", "+g.condition(d)+")",
	)
}

func (g maker) expression(depth int) string {
	return []func(int) string{g.text, g.number, g.moment, g.condition}[g.IntN(4)](depth)
}

// event is click with some values changed.
func (g maker) event(t *testing.T, b *stream.Batch) *stream.Event {
	e := click(t, b)
	e.Properties = strings.Replace(e.Properties, `,"s":"second"`, "", 1) // the oracle takes the last of a doubled key
	for i := range e.Values {
		if g.IntN(6) == 0 {
			e.Values[i] = stream.Value{}
		}
	}
	if g.IntN(4) == 0 {
		e.Values[stream.Quantity] = stream.IntValue([]int64{0, 1, -1, math.MaxInt64, math.MinInt64}[g.IntN(5)])
		e.Values[stream.Price] = stream.FloatValue([]float64{0, -1, 1e-300, 0.1, 1e18, math.MaxFloat64}[g.IntN(6)])
	}
	return e
}

func TestExpressionsAgreeWithANaiveInterpreter(t *testing.T) {
	schema := testSchema(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	g := maker{rand.New(rand.NewPCG(seed, 1))}
	compiled := 0
	for range 3000 {
		b := stream.NewBatch(schema)
		src := g.expression(1 + g.IntN(3))
		x, err := Compile(src, schema)
		if err != nil {
			continue // a constant part that fails, or a scale beyond 18
		}
		compiled++
		for range 5 {
			e := g.event(t, b)
			before := slices.Clone(e.Values)
			agree(t, x, e, b)
			if !slices.Equal(before, e.Values) {
				t.Fatalf("%s changed the event", src)
			}
		}
	}
	if compiled < 1500 {
		t.Errorf("only %d of 3,000 expressions were valid", compiled)
	}
}

// agree compares the compiled expression with the oracle, and with itself after printing.
func agree(t *testing.T, x *Expr, e *stream.Event, b *stream.Batch) {
	t.Helper()
	defer func() {
		if p := recover(); p != nil {
			t.Fatalf("%v: %v\n%s", x, p, debug.Stack())
		}
	}()
	o := &oracle{t, b.Schema, e}
	want := "error"
	v, err := o.eval(x.tree)
	if err == nil {
		var s any
		if s, err = o.show(v, x.Type()); err == nil {
			want = s.(string)
		}
	}
	got := "error"
	if v, err := x.Eval(e, b); err == nil {
		got = show(v, x.Type())
	}
	if got != want && strings.Trim(got, "-0.") != strings.Trim(want, "-0.") { // -0 is 0
		t.Fatalf("%v\n got %s\nwant %s\nprice %v, quantity %v", x, got, want, show(e.Values[stream.Price], of(stream.Float)), show(e.Values[stream.Quantity], of(stream.Int)))
	}
	again, err := Compile(x.String(), b.Schema)
	if err != nil || again.String() != x.String() {
		t.Fatalf("%v printed and compiled again: %v, %v", x, again, err)
	}
}

// sameTree compares all but the positions.
func sameTree(a, b *node) bool {
	return a.op == b.op && a.text == b.text && a.value == b.value && slices.EqualFunc(a.args, b.args, sameTree)
}

func FuzzParse(f *testing.F) {
	for line := range strings.Lines(valuesText) {
		src, _, _ := strings.Cut(line, " => ")
		f.Add(src)
	}
	schema := testSchema(f)
	b := stream.NewBatch(schema)
	e := click(f, b)
	f.Fuzz(func(t *testing.T, src string) {
		tree, err := parse(src)
		if err != nil {
			var at *Error
			if !errors.As(err, &at) || at.Offset() < 0 || at.Offset() > len(src) {
				t.Fatalf("%q: %#v", src, err)
			}
			return
		}
		again, err := parse(tree.String())
		if err != nil || !sameTree(tree, again) {
			t.Fatalf("%q became %q: %v", src, tree.String(), err)
		}
		if x, err := Compile(src, schema); err == nil {
			v, err := x.Eval(e, b)
			if err == nil && v.Kind() == stream.String && utf8.ValidString(src) && !utf8.ValidString(v.Text()) {
				t.Fatalf("%q is %q, not UTF-8", src, v.Text())
			}
		}
	})
}

// FuzzPath takes any JSON apart beside encoding/json.
func FuzzPath(f *testing.F) {
	f.Add(`{"a":{"b":[1,"x\u00e9"]}}`, "a", 0)
	f.Add(`{"a" : [ {"k\"":"\ud83d\ude00\ud83d"} , null ] }`, "k\"", 1)
	f.Fuzz(func(t *testing.T, text, key string, index int) {
		m := machine{arena: stream.NewBatch(testSchema(t))}
		steps := []step{{key: "a", index: -1}, {index: max(index, 0)}, {key: key, index: -1}}
		for n := range len(steps) + 1 {
			got, ok := lookUp(&m, text, steps[:n])
			if !json.Valid([]byte(text)) {
				continue // no panic is all that is promised
			}
			want, wantOK, doubled := naiveLookUp([]byte(text), steps[:n])
			if !doubled && (got != want || ok != wantOK) {
				t.Fatalf("%q at %v: %q %v; want %q %v", text, steps[:n], got, ok, want, wantOK)
			}
		}
	})
}

// naiveLookUp reads token by token. doubled: a key on the way is there twice, or a text is not valid UTF-8.
func naiveLookUp(raw []byte, steps []step) (text string, ok, doubled bool) {
	for _, step := range steps {
		raw = bytes.TrimSpace(raw)
		if step.index >= 0 {
			var array []json.RawMessage
			if json.Unmarshal(raw, &array) != nil || step.index >= len(array) {
				return "", false, false
			}
			raw = array[step.index]
			continue
		}
		var object map[string]json.RawMessage
		if json.Unmarshal(raw, &object) != nil || object == nil {
			return "", false, false
		}
		if len(object) != members(raw) || !utf8.Valid(raw) {
			return "", false, true
		}
		if raw, ok = object[step.key]; !ok {
			return "", false, false
		}
	}
	raw = bytes.TrimSpace(raw)
	var s string
	switch {
	case string(raw) == "null":
		return "", false, false
	case json.Unmarshal(raw, &s) == nil:
		return s, true, !utf8.Valid(raw)
	}
	return string(raw), true, false
}

// members counts the members of an object.
func members(raw []byte) int {
	d := json.NewDecoder(bytes.NewReader(raw))
	_, _ = d.Token()
	n := 0
	for d.More() {
		_, _ = d.Token()
		var v json.RawMessage
		_ = d.Decode(&v)
		n++
	}
	return n
}
