// Mutations seen red, one line broken at a time:
//
//	json.go        a second object on a path does not clear the first's columns    TestJSONRules/duplicate_object_on_a_path
//	json.go        no limit of depth                                               TestJSONRules/too_deep
//	json.go        bytes after the value are passed over                           TestJSONRules/trailing_bytes
//	json.go        a leading zero is a number                                      TestJSONRules/leading_zero
//	json.go        a path's object is no column itself                             TestFieldsNameWhereColumnsComeFrom
//	properties.go  an earlier property of the same name stays                      TestJSONRules/duplicate_with_an_escape
//	properties.go  the same, among very many                                       TestManyPropertiesKeepTheLastOfEachName
//	properties.go  neighbours are copied with what is between them                 TestJSONRules/the_rest
//	row.go         identifiers are mended                                          TestJSONRules/invalid_UTF-8_in_an_identifier
//	row.go         decimals of any precision                                       TestJSONRules/decimal_with_too_many_digits
//	row.go         errors with all of the payload                                  TestJSONRules/no_more_than_48_bytes_of_the_payload
//	row.go         no time is no error                                             TestTimeIsTheRecordsWhenTheEventHasNone
//	text.go        \u0000 is a character like any other                            TestJSONRules/NUL, FuzzJSON
//	text.go        UTF-8 is not checked                                            TestJSONRules/invalid_UTF-8
//	text.go        eight bytes at once without backslash, or control characters    TestPlainStopsAtTheFirstByteThatIsNot
//	text.go        two second halves are a pair                                    TestJSONRules/two_second_halves
//	number.go      fractions are cut off                                           TestJSONRules/fraction_for_an_int, FuzzNumber
//	number.go      more than 64 bits wrap                                          FuzzNumber
//	number.go      times before 1970 are rounded towards 1970                      TestJSONRules/milliseconds
//	number.go      float without strconv up to 10^40                               TestFloatsAreTheNearest
//	clock.go       any year                                                        TestJSONRules/year_10000
//	clock.go       every fourth year is a leap year                                FuzzTime
//	clock.go       offsets the other way round                                     TestJSONRules/RFC_3339, TestCombinedRules
//	mapping.go     a name is found by its hash alone                               TestJSONRules
//	lines.go       text is not mended                                              TestCSVRules/invalid_UTF-8_and_NUL
//	lines.go       empty text in a well-known column                               TestCSVRules/empty_is_null,_but_in_a_declared_column_of_text
//	csv.go         the first header is kept for ever                               TestCSVHeaderNamesTheFields
//	csv.go         text after the quote that ends a field                          TestCSVRules/text_after_a_quote
//	csv.go         fields too many                                                 TestCSVRules/too_many_fields
//	combined.go    an escaped quote ends the text                                  TestCombinedRules/escapes
//	combined.go    any first word is a method                                      TestCombinedRules/no_method
//	bots.go        exceptions do not count                                         TestPatterns, TestAutomatonIsTheListReadSlowly
//	bots.go        the verdict of another agent in the same place                  TestVerdictsAreSharedByGoroutines
//	config.go      columns in the order of a map                                   TestSchemaIsTheSameEveryTime
package decode_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/processors/decode"
	"github.com/millrace-io/millrace/stream"
)

// took is when the log took the records of most tests.
func took() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 6789, time.UTC) }

// maker is a decoder with its schema.
type maker struct {
	schema *stream.Schema
	stream.Decoder
}

func newMaker(t testing.TB, c decode.Config) maker {
	t.Helper()
	schema, err := c.Schema()
	if err != nil {
		t.Fatal(err)
	}
	make, err := decode.New(c, schema)
	if err != nil {
		t.Fatal(err)
	}
	return maker{schema, make()}
}

// show decodes one record and writes its events as name=value lines, without the columns that every test has.
func (m maker) show(r *stream.Record) string {
	b := stream.NewBatch(m.schema)
	if err := m.Decode(r, b); err != nil {
		return "error: " + err.Error()
	}
	var events []string
	for i := range b.Events {
		e := &b.Events[i]
		var cells []string
		for j, c := range m.schema.Columns {
			v := e.Values[j]
			if v.IsNull() || j == stream.Received || j == stream.Time && v == e.Values[stream.Received] {
				continue
			}
			cells = append(cells, c.Name+"="+string(v.AppendText(nil, c.Type)))
		}
		if e.Properties != "" {
			cells = append(cells, "properties="+e.Properties)
		}
		events = append(events, strings.Join(cells, " "))
	}
	return strings.Join(events, "\n")
}

// rules is a config with a column of every type.
func rules() decode.Config {
	return decode.Config{
		Time: decode.Time{Layouts: []string{time.DateTime}, Zone: "Europe/London"},
		Columns: map[string]decode.Column{
			"s": {Type: "string"}, "i": {Type: "int"}, "f": {Type: "float"}, "b": {Type: "bool"}, "t": {Type: "timestamp"},
			"d": {Type: "decimal(9,2)"}, "l": {Type: "list"}, "j": {Type: "json"},
			"page_url": {Path: "page.url", Type: "string"}, "page_id": {Path: "page.meta.id", Type: "int"},
		},
	}
}

func deep(n int) string { return strings.Repeat(`[`, n) + strings.Repeat(`]`, n) }

func TestJSONRules(t *testing.T) {
	m := newMaker(t, rules())
	for _, c := range []struct{ name, in, want string }{
		{
			"the well-known columns", `{"event_id":"e","event_type":"view","user_id":"u","anonymous_id":"a","session_id":"s","item_id":"i","items":["x","y"],"recommendation_id":"r","query":"q","url":"/","referrer":"/r","ip":"::1","country":"UK","region":"eu","price":2.50,"currency":"GBP","quantity":3}`,
			`event_id=e event_type=view user_id=u anonymous_id=a session_id=s item_id=i items=["x","y"] recommendation_id=r query=q url=/ referrer=/r ip=::1 country=UK region=eu price=2.5 currency=GBP quantity=3`,
		},
		{"white space", " \t\r\n{ \"s\" : \"x\" , \"i\" : 1 } \n", "i=1 s=x"},
		{"empty object", `{}`, ""},
		{"null", `{"s":null,"i":null,"f":null,"b":null,"t":null,"d":null,"l":null,"j":null,"event_time":null}`, ""},
		{"empty string is a string", `{"s":"","user_id":""}`, "user_id= s="},
		{"array of events", `[{"s":"a"},{"s":"b"} , {}]`, "s=a\ns=b\n"},

		{"empty value", ``, "error: the value is empty"},
		{"only space", " \n", "error: the value is empty"},
		{"empty array", `[ ]`, "error: the array has no event in it"},
		{"number as event", `7`, `error: byte 0 is "7"; want an object, or an array of objects`},
		{"null as event", `null`, `error: byte 0 is "n"; want an object, or an array of objects`},
		{"number among events", `[{},7]`, `error: byte 4 is "7"; want an object in the array of events`},
		{"trailing bytes", `{} x`, `error: byte 3 is "x"; want nothing after the value`},
		{"two values", "{}\n{}", `error: byte 3 is "{"; want nothing after the value`},
		{"trailing comma", `{"s":"x",}`, `error: byte 9 is "}"; want a name in quotes`},
		{"cut off", `{"s":"x`, `error: byte 7: the value ends here; want the quote that ends a string`},
		{"no value", `{"s":}`, `error: byte 5 is "}"; want a value`},
		{"no colon", `{"s" 1}`, `error: byte 5 is "1"; want a colon after a name`},
		{"no comma", `{"s":"x" "i":1}`, `error: byte 9 is "\""; want a comma or } after a member`},
		{"array open", `{"x":[1`, `error: byte 7: the value ends here; want a comma or ] after an element`},
		{"wrong word", `{"b":trUe}`, `error: byte 5 is "t"; want a value`},
		{"leading zero", `{"x":01}`, `error: byte 6 is "1"; want no digit after a leading zero`},
		{"bare point", `{"x":1.}`, `error: byte 7 is "}"; want a digit after the point`},
		{"bare sign", `{"x":-}`, `error: byte 6 is "}"; want a digit after the sign`},
		{"bare exponent", `{"x":1e+}`, `error: byte 8 is "}"; want a digit in the exponent`},
		{"byte order mark", "\ufeff{}", `error: byte 0 is "\xef"; want an object, or an array of objects`},
		{"control character", "{\"s\":\"a\x01\"}", `error: byte 7 is "\x01"; want no control character in a string`},
		{"raw NUL", "{\"x\":\"a\x00\"}", `error: byte 7 is "\x00"; want no control character in a string`},
		{"wrong escape", `{"s":"\x"}`, `error: byte 7 is "x"; want an escape of JSON after the backslash`},
		{"short escape", `{"s":"\u12"}`, `error: byte 7 is "u"; want an escape of JSON after the backslash`},

		{"deepest", `{"x":` + deep(511) + `}`, `properties={"x":` + deep(511) + `}`},
		{"too deep", `{"x":` + deep(512) + `}`, `error: byte 516: more than 512 objects and arrays in each other`},
		{"too deep objects", strings.Repeat(`{"x":`, 513), `error: byte 2560: more than 512 objects and arrays in each other`},

		{"escapes", `{"s":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00é"}`, "s=\"\\/\b\f\n\r\té😀é"},
		{"half of a surrogate pair", `{"s":"a\ud83d!","x":"\ude00"}`, "s=a\ufffd! properties={\"x\":\"\ufffd\"}"},
		{"two first halves", `{"s":"\ud83d\ud83d\ude00"}`, "s=\ufffd😀"},
		{"two second halves", `{"s":"\ude00\ude00"}`, "s=\ufffd\ufffd"},
		{"NUL", `{"s":"a\u0000","x":"\u0000b"}`, "s=a\ufffd properties={\"x\":\"\ufffdb\"}"},
		{"invalid UTF-8", "{\"s\":\"a\xff\xfeb\",\"x\":[{\"y\xc3\":\"\xe2\x82\"}]}", "s=a\ufffd\ufffdb properties={\"x\":[{\"y\ufffd\":\"\ufffd\ufffd\"}]}"},
		{"invalid UTF-8 in an identifier", "{\"user_id\":\"caf\xe9\"}", "error: user_id: invalid UTF-8, half of a surrogate pair or a NUL character in an identifier"},
		{"NUL in a list of identifiers", `{"items":["a\u0000"]}`, "error: items: invalid UTF-8, half of a surrogate pair or a NUL character in an identifier"},
		{"invalid UTF-8 in a name", "{\"\xff\":1,\"y\":2}", "properties={\"\ufffd\":1,\"y\":2}"},
		{"an honest replacement character", `{"user_id":"\ufffd"}`, "user_id=\ufffd"},

		{"number for a string", `{"user_id":17850.0,"s":-1e400}`, "user_id=17850.0 s=-1e400"},
		{"string for a number", `{"i":"-42","f":"2.50","d":"2.50","quantity":"6"}`, "quantity=6 d=2.50 f=2.5 i=-42"},
		{
			"whole numbers", `[{"i":3.0},{"i":1e3},{"i":1200e-2},{"i":-0},{"i":9223372036854775807},{"i":-9223372036854775808}]`,
			"i=3\ni=1000\ni=12\ni=0\ni=9223372036854775807\ni=-9223372036854775808",
		},
		{"int beyond 64 bits", `{"i":9223372036854775808}`, "error: i: 9223372036854775808 is not a whole number of 64 bits"},
		{"negative int beyond 64 bits", `{"i":-9223372036854775809}`, "error: i: -9223372036854775809 is not a whole number of 64 bits"},
		{"int with 40 digits", `{"i":1` + strings.Repeat("0", 39) + `1}`, "error: i: 10000000000000000000000000000000000000001 is not a whole number of 64 bits"},
		{"fraction for an int", `{"i":1.5}`, "error: i: 1.5 is not a whole number of 64 bits"},
		{"float beyond 64 bits", `{"price":1e400}`, "error: price: 1e400 is beyond a 64-bit float"},
		{"float below 64 bits", `{"price":1e-400}`, "price=0"},
		{"numbers beyond all types stay as they came", `{"x":1e400,"y":123456789012345678901234567890}`, `properties={"x":1e400,"y":123456789012345678901234567890}`},
		{"decimal", `[{"d":2.5},{"d":-0.01},{"d":2.5500e0},{"d":25e-1},{"d":9999999.99}]`, "d=2.50\nd=-0.01\nd=2.55\nd=2.50\nd=9999999.99"},
		{"decimal with too many decimals", `{"d":2.555}`, "error: d: 2.555 does not fit into decimal(9,2)"},
		{"decimal with too many digits", `{"d":10000000}`, "error: d: 10000000 does not fit into decimal(9,2)"},
		{"decimal beyond 64 bits", `{"d":1e30}`, "error: d: 1e30 does not fit into decimal(9,2)"},

		{"text for a float", `{"price":"abc"}`, `error: price: "abc" is not a float`},
		{"empty text for a float", `{"price":""}`, `error: price: "" is not a float`},
		{"text of infinity", `{"price":"Inf"}`, `error: price: "Inf" is not a float`},
		{"hexadecimal", `{"i":"0x10"}`, `error: i: "0x10" is not an int`},
		{"bool for a string", `{"s":true}`, `error: s: true is not a string`},
		{"bool for an int", `{"quantity":false}`, `error: quantity: false is not an int`},
		{"object for a string", `{"s":{"a":1}}`, `error: s: an object is not a string`},
		{"array for a decimal", `{"d":[1]}`, `error: d: an array is not a decimal(9,2)`},
		{"string for a bool", `{"b":"true"}`, `error: b: "true" is not a bool`},
		{"number for a bool", `{"b":1}`, `error: b: 1 is not a bool`},
		{"bool", `[{"b":true},{"b":false}]`, "b=true\nb=false"},
		{"string for a list", `{"l":"x"}`, `error: l: "x" is not a list of strings`},
		{"number for a list", `{"l":1}`, `error: l: 1 is not a list of strings`},
		{"object in a list", `{"l":["a",{}]}`, `error: l: an array with another kind of value in it is not a list of strings`},
		{"null in a list", `{"l":[null]}`, `error: l: an array with another kind of value in it is not a list of strings`},
		{"lists", `[{"l":[]},{"l":[ "a" , "b\n" ]},{"l":["a",1,2.0]},{"l":["\ud800",1]}]`, "l=[]\nl=[ \"a\" , \"b\\n\" ]\nl=[\"a\",\"1\",\"2.0\"]\nl=[\"\ufffd\",\"1\"]"},
		{"JSON", `[{"j":{"a":[1, 2]}},{"j":"x"},{"j":1e999},{"j":true},{"j":"\u0000"}]`, "j={\"a\":[1, 2]}\nj=\"x\"\nj=1e999\nj=true\nj=\"\ufffd\""},
		{"no more than 48 bytes of the payload", `{"i":"` + strings.Repeat("é", 100) + `"}`, `error: i: "` + strings.Repeat("é", 22) + `?..." is not an int`},

		{"RFC 3339", `{"t":"2010-12-01T08:26:00+01:00"}`, "t=2010-12-01T07:26:00.000000Z"},
		{"seventh digit of a fraction", `{"t":"2010-12-01T08:26:00.1234569Z"}`, "t=2010-12-01T08:26:00.123456Z"},
		{"layout in a zone", `{"t":"2010-07-01 08:26:00"}`, "t=2010-07-01T07:26:00.000000Z"},
		{
			"milliseconds", `[{"t":1659304800025},{"t":"1659304800025"},{"t":1659304800025.5},{"t":-0.0001},{"t":1.6593048e12}]`,
			"t=2022-07-31T22:00:00.025000Z\nt=2022-07-31T22:00:00.025000Z\nt=2022-07-31T22:00:00.025500Z\nt=1969-12-31T23:59:59.999999Z\nt=2022-07-31T22:00:00.000000Z",
		},
		{"year 9999", `{"event_time":"9999-12-31T23:59:59.999999Z"}`, "event_time=9999-12-31T23:59:59.999999Z"},
		{"year 10000", `{"event_time":"9999-12-31T23:59:59-01:00"}`, `error: event_time: "9999-12-31T23:59:59-01:00" is not in the years 1 to 9999`},
		{"year 0", `{"t":"0000-12-31T23:59:59Z"}`, `error: t: "0000-12-31T23:59:59Z" is not in the years 1 to 9999`},
		{"year 1", `{"t":"0001-01-01T00:00:00Z"}`, "t=0001-01-01T00:00:00.000000Z"},
		{"nanoseconds taken for milliseconds", `{"event_time":1659304800025000000}`, `error: event_time: "1659304800025000000" is not in the years 1 to 9999`},
		{"a time beyond 64 bits", `{"t":1e300}`, `error: t: "1e300" is not in the years 1 to 9999`},
		{"no time", `{"event_time":"yesterday"}`, `error: event_time: "yesterday" is not a time`},
		{"empty time", `{"event_time":""}`, `error: event_time: "" is not a time`},
		{"bool for a time", `{"event_time":true}`, `error: event_time: true is not a time`},
		{"no such day", `{"t":"2011-02-29T00:00:00Z"}`, `error: t: "2011-02-29T00:00:00Z" is not a time`},

		{"the rest", `{"a":1,"s":"x","b2":[1, 2],"c":{"d":null}}`, `s=x properties={"a":1,"b2":[1, 2],"c":{"d":null}}`},
		{"the rest is sliced", `{"a" : 1, "b2":2}`, `properties={"a" : 1, "b2":2}`},
		{"the column's alias is not read", `{"id":"x"}`, `properties={"id":"x"}`},
		{"columns that are not read", `{"received_at":"x","bot":1}`, `properties={"received_at":"x","bot":1}`},
		{"escaped name", `{"\u0073":"x","\u0000\"":1,"i":1}`, "i=1 s=x properties={\"\ufffd\\\"\":1}"},
		{"empty name", `{"":1}`, `properties={"":1}`},
		{"nested column", `{"page":{"url":"/a","title":"T","meta":{"id":7,"k":1}},"z":0}`, `page_id=7 page_url=/a properties={"page":{"title":"T","meta":{"k":1}},"z":0}`},
		{"nothing is left of an object", `{"page":{"url":"/a","meta":{"id":7}}}`, `page_id=7 page_url=/a`},
		{"nothing was taken from an object", `{"page":{ "x":1 },"s":"y","z":{}}`, `s=y properties={"page":{ "x":1 },"z":{}}`},
		{"empty object on a path", `{"page":{},"s":""}`, `s= properties={"page":{}}`},
		{"another type on a path", `{"page":"x","s":""}`, `s= properties={"page":"x"}`},
		{"a name with the dots in it", `{"page.url":"/a","page.meta.id":7}`, `page_id=7 page_url=/a`},

		{"duplicate: the last wins", `{"s":"a","s":"b"}`, `s=b`},
		{"duplicate null", `{"s":"a","s":null}`, ``},
		{"duplicate with an escape", `{"x":1,"y":2,"\u0078":3}`, `properties={"y":2,"\u0078":3}`},
		{"duplicate object on a path", `{"page":{"url":"/a","meta":{"id":7},"x":1},"page":{"url":"/b"}}`, `page_url=/b`},
		{"duplicate path of another type", `{"page":{"url":"/a","x":1},"page":[]}`, `properties={"page":[]}`},
		{"duplicates in what is kept", `{"x":{"a":1,"a":2}}`, `properties={"x":{"a":1,"a":2}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := m.show(&stream.Record{Value: []byte(c.in), Time: took()}); got != c.want {
				t.Errorf("%.80s\n got %s\nwant %s", c.in, got, c.want)
			}
		})
	}
}

func TestTimeIsTheRecordsWhenTheEventHasNone(t *testing.T) {
	m := newMaker(t, decode.Config{})
	for _, c := range []struct {
		name, in string
		took     time.Time
		want     string
	}{
		{"event and record", `{"event_time":"2010-12-01T08:26:00Z"}`, took(), "2010-12-01T08:26:00.000000Z 2026-01-02T03:04:05.000006Z"},
		{"record only", `{}`, took(), "2026-01-02T03:04:05.000006Z 2026-01-02T03:04:05.000006Z"},
		{"event only", `{"event_time":"2010-12-01T08:26:00Z"}`, time.Time{}, "2010-12-01T08:26:00.000000Z "},
		{"none", `{}`, time.Time{}, "event_time: missing, and the source has no time of its own"},
		{"a record's time that cannot be", `{}`, time.UnixMilli(1 << 62), "event_time: missing, and the source has no time of its own"},
		{"before 1970", `{}`, time.Date(1960, 1, 1, 0, 0, 0, 0, time.UTC), "1960-01-01T00:00:00.000000Z 1960-01-01T00:00:00.000000Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := stream.NewBatch(m.schema)
			got := ""
			if err := m.Decode(&stream.Record{Value: []byte(c.in), Time: c.took}, b); err != nil {
				got = err.Error()
			} else {
				at, us := b.Events[0].Values, stream.Type{Kind: stream.Timestamp}
				got = string(at[stream.Time].AppendText(nil, us)) + " " + string(at[stream.Received].AppendText(nil, us))
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestUnitOfNumbers(t *testing.T) {
	for unit, in := range map[string]string{"s": "1659304800.025", "ms": "1659304800025", "us": "1659304800025000", "ns": "1659304800025000999"} {
		m := newMaker(t, decode.Config{Time: decode.Time{Unit: unit}})
		got := m.show(&stream.Record{Value: []byte(`{"event_time":` + in + `}`)})
		if want := "event_time=2022-07-31T22:00:00.025000Z"; got != want {
			t.Errorf("%s: got %s, want %s", unit, got, want)
		}
	}
}

func TestFieldsNameWhereColumnsComeFrom(t *testing.T) {
	m := newMaker(t, decode.Config{
		Fields:  map[string]string{"user": "who.id", "time": "ts", "item_id": "sku"},
		Columns: map[string]decode.Column{"raw": {Path: "who", Type: "json"}, "price": {Path: "ts", Type: "decimal(18,0)"}, "sku2": {Path: "sku", Type: "string"}},
	})
	in := `{"who":{"id":7,"n":"x"},"ts":1659304800025,"sku":"a","user_id":"other"}`
	want := `event_time=2022-07-31T22:00:00.025000Z user_id=7 item_id=a price=1659304800025 raw={"id":7,"n":"x"} sku2=a properties={"user_id":"other"}`
	if got := m.show(&stream.Record{Value: []byte(in), Time: took()}); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestManyPropertiesKeepTheLastOfEachName(t *testing.T) {
	m := newMaker(t, decode.Config{})
	var in, want []string
	for i := range 300 {
		in = append(in, fmt.Sprintf(`"k%d":%d`, i%150, i))
		if i >= 150 {
			want = append(want, in[i])
		}
	}
	text := "{" + strings.Join(in, ",") + "}"
	got := m.show(&stream.Record{Value: []byte("[" + text + "," + text + "]"), Time: took()})
	one := "properties={" + strings.Join(want, ",") + "}"
	if got != one+"\n"+one {
		t.Errorf("got %s", got)
	}
}

func TestLargeEvent(t *testing.T) {
	m := newMaker(t, decode.Config{})
	text := strings.Repeat("0123456789abcdef", 1<<16)
	got := m.show(&stream.Record{Value: []byte(`{"query":"` + text + `","x":"` + text + `"}`), Time: took()})
	if want := "query=" + text + ` properties={"x":"` + text + `"}`; got != want {
		t.Errorf("got %d bytes, want %d", len(got), len(want))
	}
	many := `{"` + strings.Repeat(`x":1,"`, 200_000) + `":0}`
	if got := m.show(&stream.Record{Value: []byte(many), Time: took()}); got != `properties={"x":1,"":0}` {
		t.Errorf("got %.100s", got)
	}
}

func TestBotIsJudgedByTheUserAgent(t *testing.T) {
	m := newMaker(t, decode.Config{})
	for in, want := range map[string]string{
		`{"user_agent":"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"}`: "true",
		`{"user_agent":"curl\/7.68.0"}`: "true",
		`{"user_agent":"Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0"}`: "false",
		`{"user_agent":"","bot":true}`: "",
		`{"bot":true}`:                 "",
	} {
		for range 2 { // the second time it is known
			b := stream.NewBatch(m.schema)
			if err := m.Decode(&stream.Record{Value: []byte(in), Time: took()}, b); err != nil {
				t.Fatal(err)
			}
			if got := string(b.Events[0].Values[stream.Bot].AppendText(nil, stream.Type{Kind: stream.Bool})); got != want {
				t.Errorf("%s: got %q, want %q", in, got, want)
			}
		}
	}
}

// readLines reads the lines of a file, which may be compressed.
func readLines(t testing.TB, name string) [][]byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(name, ".gz") {
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		var plain bytes.Buffer
		if _, err := plain.ReadFrom(z); err != nil {
			t.Fatal(err)
		}
		data = plain.Bytes()
	}
	var lines [][]byte
	s := bufio.NewScanner(bytes.NewReader(data))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		lines = append(lines, bytes.Clone(s.Bytes()))
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}
