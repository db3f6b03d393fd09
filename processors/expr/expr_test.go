package expr

// Mutations seen red (line broken -> test):
//
//	compare ==: null equals nothing -> TestExpressionsMeanWhatTheDocumentationSays
//	compare !=: null is no different from a value -> ..MeanWhatTheDocumentationSays, TestExpressionsAgreeWithANaiveInterpreter
//	not: !null is null -> ..MeanWhatTheDocumentationSays, ..AgreeWithANaiveInterpreter
//	membership: null in a long list is forgotten -> ..MeanWhatTheDocumentationSays
//	add, multiply, product: no overflow check, unsigned instead of signed -> ..MeanWhatTheDocumentationSays, ..AgreeWithANaiveInterpreter
//	exactArithmetic: bringing to one scale is not checked -> ..AgreeWithANaiveInterpreter
//	floatArithmetic: division by zero passes -> TestFilterKeepsTrueDropsTheRestAndFailsWhatFails
//	storeFloat: what is not finite is stored -> ..MeanWhatTheDocumentationSays
//	as: an int that became a float keeps its int closure -> ..MeanWhatTheDocumentationSays
//	unify: a decimal literal makes floats of decimals -> ..MeanWhatTheDocumentationSays, TestMapAssignsInOrder
//	inherit: a part that can fail does not count -> TestPredicateRefusesWhatCanFail
//	inherit: a part that makes texts does not count -> TestConditionsAllocateNothing
//	Eval: an error stays for the next event -> ..AgreeWithANaiveInterpreter
//	Predicate: the arena is not reset -> TestPredicateKeepsNoTexts
//	filter, mapping: dropped events are evaluated -> TestFilterKeeps.., TestProcessorsPassOverEventsThatAreGone
//	filter: the error is not taken, the stage not named -> TestFilterKeepsTrueDropsTheRestAndFailsWhatFails
//	mapping: precision and scale of a decimal column are not checked -> TestMapFailsTheEventOfABadValue, TestMapRefuses..
//	verdicts: the tag alone decides -> TestVerdictsTellTextsOfOneTagApart
//	verdicts: the text is not copied -> TestVerdictsKeepNothingOfTheRecord
//	verdicts: long texts are remembered -> TestVerdictsRememberWhatComesTwice
//	parser: depth is not bounded -> TestLongExpressionsCompileAtOnce
//	parser: comparisons chain; printer: too few brackets -> ..MeanWhatTheDocumentationSays, FuzzParse
//	paths: escaped quotes, brackets within texts, escaped keys -> ..MeanWhatTheDocumentationSays, FuzzPath
//	unescape: invalid UTF-8 passes -> ..MeanWhatTheDocumentationSays, FuzzParse
//	replace: no bound -> ..MeanWhatTheDocumentationSays
//	hmac: inner and outer swapped, long keys not hashed; rounding half down; truncation before 1970 -> ..AgreeWithANaiveInterpreter

import (
	_ "embed"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/stream"
)

//go:embed testdata/values.txt
var valuesText string

func testSchema(t testing.TB) *stream.Schema {
	t.Helper()
	s, err := stream.NewSchema(
		stream.Column{Name: "cost", Type: stream.Type{Kind: stream.Decimal, Precision: 9, Scale: 2}},
		stream.Column{Name: "rate", Type: stream.Type{Kind: stream.Decimal, Precision: 18, Scale: 6}},
		stream.Column{Name: "score", Type: of(stream.Float)},
		stream.Column{Name: "depth", Type: of(stream.Int)},
		stream.Column{Name: "page", Type: stream.Type{Kind: stream.JSON}},
		stream.Column{Name: "active", Type: of(stream.Bool)},
		stream.Column{Name: "title", Type: of(stream.String)},
	)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// click is an event with a bit of everything; bot, region and currency are null.
func click(t testing.TB, b *stream.Batch) *stream.Event {
	t.Helper()
	e := b.Append(&stream.Record{})
	set := func(name string, v stream.Value) {
		i, ok := b.Schema.Lookup(name)
		if !ok {
			t.Fatalf("no column %s", name)
		}
		e.Values[i] = v
	}
	set("id", stream.StringValue("e-1"))
	set("type", stream.StringValue("page_view"))
	set("time", stream.TimestampValue(1291193160123456)) // 2010-12-01T08:46:00.123456Z, a Wednesday
	set("user", stream.StringValue("17850"))
	set("items", stream.ListValue(`["85123A", "71053"]`))
	set("url", stream.StringValue("https://me@Shop.Example.com:8443/a/b%20c?q=red+mug&utm=x%C3%A4&empty=&bad=%zz%ff#top"))
	set("referrer", stream.StringValue("/start"))
	set("user_agent", stream.StringValue("Mozilla/5.0 (compatible; Googlebot/2.1)"))
	set("country", stream.StringValue("de"))
	set("price", stream.FloatValue(2.55))
	set("quantity", stream.IntValue(6))
	set("cost", stream.DecimalValue(1999))
	set("rate", stream.DecimalValue(-1_500_000))
	set("score", stream.FloatValue(1.005))
	set("page", stream.JSONValue(`{"section":"garden","tags":["a","b"],"n":7}`))
	set("active", stream.BoolValue(true))
	set("title", stream.StringValue("  Größe ÄÖ ß  "))
	e.Properties = ` { "page" : {"section":"caf\u00e9 \ud83d\ude00\n", "deep":[1,{"x":"y"},[2]]}, "n":-1.5e3,"t":true,"nil":null, "a\"b":"k", "s":"x","s":"second", "obj":{"k":"}"} } `
	return e
}

func show(v stream.Value, t stream.Type) string {
	if v.IsNull() {
		return "null"
	}
	return string(v.AppendText(nil, t))
}

// script reads the lines of a testdata file: "left => right".
func script(t *testing.T, text string, visit func(line int, left, right string)) {
	t.Helper()
	for i, line := range strings.Split(text, "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		left, right, ok := strings.Cut(line, " => ")
		if !ok {
			t.Fatalf("line %d has no =>", i+1)
		}
		visit(i+1, left, right)
	}
}

func TestExpressionsMeanWhatTheDocumentationSays(t *testing.T) {
	b := stream.NewBatch(testSchema(t))
	e := click(t, b)
	script(t, valuesText, func(line int, src, want string) {
		if got := outcome(src, e, b); got != want {
			t.Errorf("line %d: %s\n got %s\nwant %s", line, src, got, want)
		}
	})
}

// outcome is the value or the error of an expression, as the script writes them.
func outcome(src string, e *stream.Event, b *stream.Batch) string {
	x, err := Compile(src, b.Schema)
	if err != nil {
		return "error " + strings.ReplaceAll(err.Error(), "\n", " / ")
	}
	v, err := x.Eval(e, b)
	if err != nil {
		return "error " + err.Error()
	}
	text := strings.ReplaceAll(show(v, x.Type()), "\n", `\n`)
	if strings.TrimSpace(text) != text {
		return "|" + text + "|"
	}
	return text
}

func TestLongExpressionsCompileAtOnce(t *testing.T) {
	schema := testSchema(t)
	for _, src := range []string{
		"1" + strings.Repeat("+1", maxSource/2-1),
		"depth" + strings.Repeat("+depth", maxSource/6-1),
		strings.Repeat("-", maxDepth-1) + "depth",
		"bot" + strings.Repeat("||bot", maxSource/5-1),
		"type in [" + strings.Repeat("'', ", maxSource/4-4) + "'']",
		"concat(type" + strings.Repeat(",type", maxSource/5-4) + ")",
	} {
		x, err := Compile(src, schema)
		if err != nil {
			t.Fatalf("%.20s: %v", src, err)
		}
		b := stream.NewBatch(schema)
		if _, err := x.Eval(click(t, b), b); err != nil {
			t.Errorf("%.20s: %v", src, err)
		}
	}
	for _, src := range []string{
		strings.Repeat("(", maxDepth+1) + "1" + strings.Repeat(")", maxDepth+1), strings.Repeat("!", maxDepth+1) + "bot",
		strings.Repeat("(", 5000), strings.Repeat("!", 5000), strings.Repeat("lower(", 2000), strings.Repeat("a in [", 2000), strings.Repeat(" ", maxSource) + "1",
	} {
		if _, err := Compile(src, schema); err == nil {
			t.Errorf("%.20s was accepted", src)
		}
	}
}
