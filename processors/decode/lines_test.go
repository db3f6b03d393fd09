package decode_test

import (
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/processors/decode"
	"github.com/millrace-io/millrace/stream"
)

// retail is the config of the Online Retail files.
func retail() decode.Config {
	return decode.Config{
		Format: decode.CSV,
		Fields: map[string]string{"time": "InvoiceDate", "user": "CustomerID", "item": "StockCode", "session": "InvoiceNo", "quantity": "Quantity"},
		Time:   decode.Time{Layouts: []string{time.DateTime}, Zone: "UTC"},
		Columns: map[string]decode.Column{
			"country": {Path: "Country", Type: "string"},
			"price":   {Path: "UnitPrice", Type: "decimal(9,2)"},
		},
	}
}

func withHeader(line, header string) *stream.Record {
	return &stream.Record{Value: []byte(line), Time: took(), Headers: []stream.Header{{Key: "x"}, {Key: decode.CSVHeader, Value: []byte(header)}}}
}

func TestCSVRules(t *testing.T) {
	c := rules()
	c.Format = decode.CSV
	m := newMaker(t, c)
	const header = "\ufeffs,i,f,b,t,d,l,j,user_id,page.url,\"more, or \"\"less\"\"\"\r\n"
	for _, c := range []struct{ name, in, want string }{
		{
			"every type", `x,7,2.5,true,2010-07-01 08:26:00,2.5,"[""a"",1]","{""k"":1}",17850.0,/a,m` + "\r\n",
			`user_id=17850.0 b=true d=2.50 f=2.5 i=7 j={"k":1} l=["a","1"] page_url=/a s=x t=2010-07-01T07:26:00.000000Z properties={"more, or \"less\"":"m"}`,
		},
		{"empty is null, but in a declared column of text", `,,,,,,,,,,`, `page_url= s= properties={"more, or \"less\"":""}`},
		{"quotes", `"a ""b"", c",,,,,,,,"",,"d` + "\n" + `e	"`, `page_url= s=a "b", c properties={"more, or \"less\"":"d\ne\t"}`},
		{"leading zeros and a plus", `,007,+1.50,,,,,,,,`, `f=1.5 i=7 page_url= s= properties={"more, or \"less\"":""}`},
		{"invalid UTF-8 and NUL", "a\xff\x00,,,,,,,,,,\xa3", "page_url= s=a\ufffd\ufffd properties={\"more, or \\\"less\\\"\":\"\ufffd\"}"},
		{"invalid UTF-8 in an identifier", ",,,,,,,,\xa3,,", "error: user_id: invalid UTF-8, half of a surrogate pair or a NUL character in an identifier"},
		{"invalid UTF-8 in a list", ",,,,,,\"[\"\"a\xff\"\"]\",,,,", "l=[\"a\ufffd\"] page_url= s= properties={\"more, or \\\"less\\\"\":\"\"}"},
		{"not a number", `,seven,,,,,,,,,`, `error: i: "seven" is not an int`},
		{"not a bool", `,,,yes,,,,,,,`, `error: b: "yes" is not a bool`},
		{"not a list", `,,,,,,a,,,,`, `error: l: byte 0 is "a"; want a value`},
		{"a list of something else", `,,,,,,"[true]",,,,`, `error: l: an array with another kind of value in it is not a list of strings`},
		{"two values in a field of JSON", `,,,,,,,1 2,,,`, `error: j: byte 2 is "2"; want nothing after the value`},
		{"too few fields", `a,b`, `error: the line has 2 fields; want 11`},
		{"too many fields", `,,,,,,,,,,,`, `error: the line has 12 fields; want 11`},
		{"a quote inside a field", `a,b"c,`, `error: byte 3, field 2: a quote in a field that does not begin with one`},
		{"text after a quote", `a,"b"c,`, `error: byte 5, field 2: text after the quote that ends a field`},
		{"no last quote", `a,"b,c`, `error: byte 6, field 2: the quote that ends a field is missing`},
		{"empty line", "\n", `error: the value is empty`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := m.show(withHeader(c.in, header)); got != c.want {
				t.Errorf("%s\n got %s\nwant %s", c.in, got, c.want)
			}
		})
	}
}

func TestCSVHeaderNamesTheFields(t *testing.T) {
	m := newMaker(t, decode.Config{Format: decode.CSV})
	for _, c := range []struct{ line, header, want string }{
		{"1,2", "user_id,x", `user_id=1 properties={"x":"2"}`},
		{"3,4", "user_id,x", `user_id=3 properties={"x":"4"}`},
		{"5,6", "x,user_id", `user_id=6 properties={"x":"5"}`},
		{"7,8", "", `error: nothing names the fields of the line: set csv.columns, or read files whose first line names them`},
		{"7,8", "\"x", `error: the line that names the fields: byte 2, field 1: the quote that ends a field is missing`},
		{"9,0", "user_id,x", `user_id=9 properties={"x":"0"}`},
	} {
		if got := m.show(withHeader(c.line, c.header)); got != c.want {
			t.Errorf("%s under %s\n got %s\nwant %s", c.line, c.header, got, c.want)
		}
	}
	if got := m.show(&stream.Record{Value: []byte("1,2"), Time: took()}); !strings.HasPrefix(got, "error: nothing names") {
		t.Errorf("without a header: %s", got)
	}
	m = newMaker(t, decode.Config{Format: decode.CSV, CSV: decode.Lines{Columns: []string{"user_id", "x"}, Delimiter: ";"}})
	if got, want := m.show(&stream.Record{Value: []byte(`1;"2;"`), Time: took()}), `user_id=1 properties={"x":"2;"}`; got != want {
		t.Errorf("named by the config: got %s, want %s", got, want)
	}
}

func TestCSVListOfIdentifiersIsNotMended(t *testing.T) {
	m := newMaker(t, decode.Config{Format: decode.CSV})
	got := m.show(withHeader("\"[\"\"a\xff\"\"]\"", "items"))
	if want := "error: items: invalid UTF-8, half of a surrogate pair or a NUL character in an identifier"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestCSVOfOnlineRetail(t *testing.T) {
	m := newMaker(t, retail())
	lines := readLines(t, "testdata/online-retail.csv")
	for i, line := range lines[1:] {
		got := m.show(withHeader(string(line), string(lines[0])))
		if strings.HasPrefix(got, "error") || !strings.Contains(got, "event_time=2010-12-") || !strings.Contains(got, "price=") {
			t.Errorf("%s: %s", line, got)
		}
		if i == 0 {
			want := `event_time=2010-12-01T08:26:00.000000Z user_id=17850.0 session_id=536365 item_id=84406B country=United Kingdom price=2.75 quantity=8 properties={"Description":"CREAM CUPID HEARTS COAT HANGER"}`
			if got != want {
				t.Errorf("got %s\nwant %s", got, want)
			}
		}
	}
}

func TestCombinedRules(t *testing.T) {
	m := newMaker(t, decode.Config{
		Format:  decode.Combined,
		Columns: map[string]decode.Column{"status": {Type: "int"}, "bytes": {Type: "int"}, "verb": {Path: "method", Type: "string"}},
	})
	const start = `1.2.3.4 - - [17/May/2015:10:05:03 +0200] `
	const at = `event_time=2015-05-17T08:05:03.000000Z`
	for _, c := range []struct{ name, in, want string }{
		{
			"combined", start + `"GET /a?b=c HTTP/1.1" 200 17 "http://x/" "Mozilla/5.0 (X11)"` + "\n",
			at + ` url=/a?b=c referrer=http://x/ user_agent=Mozilla/5.0 (X11) ip=1.2.3.4 bot=false bytes=17 status=200 verb=GET properties={"protocol":"HTTP/1.1"}`,
		},
		{"common", start + `"GET / HTTP/1.0" 304 -`, at + ` url=/ ip=1.2.3.4 status=304 verb=GET properties={"protocol":"HTTP/1.0"}`},
		{"- is null", `- - - [17/May/2015:10:05:03 +0200] "-" - - "-" "-"`, at},
		{"a user with spaces", `::1 id a b [17/May/2015:10:05:03 +0200] "-" 408 0 "" ""`, at + ` user_id=a b ip=::1 bytes=0 status=408 properties={"ident":"id"}`},
		{
			"escapes", start + `"GET /\"\\\x41\xc3\xa9\n\q HTTP/1.1" 200 1 "-" "a\"b"`,
			at + " url=/\"\\Aé\n\\q user_agent=a\"b ip=1.2.3.4 bot=false bytes=1 status=200 verb=GET properties={\"protocol\":\"HTTP/1.1\"}",
		},
		{"a TLS handshake", start + `"\x16\x03\x01\x00\xee" 400 226 "-" "-"`, at + " ip=1.2.3.4 bytes=226 status=400 properties={\"request\":\"\\u0016\\u0003\\u0001\ufffd\ufffd\"}"},
		{"a path with spaces", start + `"GET /a b HTTP/1.1" 200 1`, at + ` url=/a b ip=1.2.3.4 bytes=1 status=200 verb=GET properties={"protocol":"HTTP/1.1"}`},
		{"HTTP/0.9", start + `"GET /a" 200 1`, at + ` url=/a ip=1.2.3.4 bytes=1 status=200 verb=GET`},
		{"no method", start + `"a b c" 400 1`, at + ` ip=1.2.3.4 bytes=1 status=400 properties={"request":"a b c"}`},
		{"more fields", start + `"GET / HTTP/1.1" 200 1 "-" "-" "10.0.0.1" 0.005`, at + ` url=/ ip=1.2.3.4 bytes=1 status=200 verb=GET properties={"protocol":"HTTP/1.1","extra":"\"10.0.0.1\" 0.005"}`},
		{"a crawler", start + `"GET / HTTP/1.1" 200 1 "-" "Googlebot/2.1"`, at + ` url=/ user_agent=Googlebot/2.1 ip=1.2.3.4 bot=true bytes=1 status=200 verb=GET properties={"protocol":"HTTP/1.1"}`},
		{"RFC 3339", `- - - [2015-05-17T10:05:03+02:00] "-" 200 1`, at + ` bytes=1 status=200`},

		{"empty", "", `error: the value is empty`},
		{"one word", "x", `error: byte 0: want host, ident and user with single spaces between`},
		{"no time", `1.2.3.4 - - "GET / HTTP/1.1" 200 1`, `error: byte 10: want a user and a time in brackets`},
		{"no bracket", `1.2.3.4 - - [17/May/2015`, `error: byte 13: want a bracket and a space after the time`},
		{"no such time", `1.2.3.4 - - [17/Mai/2015:10:05:03 +0200] "-" 200 1`, `error: event_time: "17/Mai/2015:10:05:03 +0200" is not a time`},
		{"no request", start + `GET`, `error: byte 41: want a quote`},
		{"a request that is cut off", start + `"GET /`, `error: byte 47: the line ends here; want the quote that ends the text`},
		{"an agent that is cut off", start + `"-" 200 1 "-" "Mozil\`, `error: byte 62: the line ends here; want the quote that ends the text`},
		{"no status", start + `"-"`, `error: byte 44: the line ends here; want a space`},
		{"status is a word", start + `"-" OK 1`, `error: byte 45: want a number or -`},
		{"bytes with a zero in front", start + `"-" 200 01`, `error: byte 49: want a number or -`},
		{"text after a quote", start + `"-"x`, `error: byte 44: want a space`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := m.show(&stream.Record{Value: []byte(c.in), Time: took()}); got != c.want {
				t.Errorf("%s\n got %s\nwant %s", c.in, got, c.want)
			}
		})
	}
}

func TestCombinedKeepsNumbersInTheProperties(t *testing.T) {
	m := newMaker(t, decode.Config{Format: decode.Combined})
	got := m.show(&stream.Record{Value: []byte(`- - - [17/May/2015:10:05:03 +0000] "-" 200 17`)})
	if want := `event_time=2015-05-17T10:05:03.000000Z properties={"status":200,"bytes":17}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestRealAccessLog(t *testing.T) {
	m := newMaker(t, decode.Config{Format: decode.Combined})
	b := stream.NewBatch(m.schema)
	lines := readLines(t, "testdata/access.log")
	records := make([]stream.Record, len(lines))
	var bad []string
	for i, line := range lines {
		records[i].Value = line
		n := len(b.Events)
		if err := m.Decode(&records[i], b); err != nil {
			bad = append(bad, err.Error())
			b.Truncate(n)
		}
	}
	bots := 0
	for i := range b.Events {
		v := b.Events[i].Values
		if v[stream.IP].IsNull() || v[stream.URL].IsNull() || v[stream.Time].IsNull() || strings.Contains(b.Events[i].Properties, "request") {
			t.Errorf("%s: not all of it was read", b.Events[i].Record.Value)
		}
		if v[stream.Bot].Bool() {
			bots++
		}
	}
	if len(bad) != 1 || bad[0] != "byte 182: the line ends here; want the quote that ends the text" {
		t.Errorf("got errors %q; want one for the line that is cut off", bad)
	}
	if want := 59; bots != want {
		t.Errorf("got %d events of crawlers, want %d", bots, want)
	}
}
