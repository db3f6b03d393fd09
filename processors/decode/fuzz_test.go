package decode_test

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/millrace-io/millrace/processors/decode"
	"github.com/millrace-io/millrace/stream"
)

// FuzzJSON holds the decoder against encoding/json and a slow reading of the rules: the same cells and properties, or an
// error where the rules have one.
func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"event_id":"e","price":2.50,"items":["x",1],"page":{"url":"/a","meta":{"id":7}},"x":{"y":[1e3,null]},"j":[{}]}`))
	f.Add([]byte(`[{"event_time":"2010-12-01T08:26:00.123Z","i":"-3.0","d":1.25,"b":true,"t":1659304800025,"l":[],"s":"\ud83d\u0000\n"}, {}]`))
	f.Add([]byte("{\"x\":\"\xff\",\"user_id\":17850.0,\"page\":{\"k\":1,\"url\":\"b\"},\"page.url\":\"c\",\"\\u0073\":\"d\"}"))
	f.Add([]byte(`{"page":{"url":"/a","x":1},"page":{"meta":{"id":"1e2"}},"x":1,"x":2}`))
	f.Add([]byte(`{"t":"2010-07-01 08:26:00","f":1e-400,"q":-0}`))
	m := newMaker(f, rules())
	f.Fuzz(func(t *testing.T, in []byte) {
		b := stream.NewBatch(m.schema)
		err := m.Decode(&stream.Record{Value: bytes.Clone(in), Time: took()}, b)
		if err != nil && longestPiece(err.Error(), in) > 64 {
			t.Fatalf("the error has too much of the payload in it: %s", err)
		}
		want, werr := reference(in)
		if errors.Is(werr, errUnsure) {
			return
		}
		if (err == nil) != (werr == nil) {
			t.Fatalf("%q\n got error %v\nwant error %v", in, err, werr)
		}
		if err != nil {
			return
		}
		if len(b.Events) != len(want) {
			t.Fatalf("%q: got %d events, want %d", in, len(b.Events), len(want))
		}
		for i := range b.Events {
			checkTexts(t, m.schema, &b.Events[i])
			if got := plain(t, m.schema, &b.Events[i]); !reflect.DeepEqual(got, want[i]) {
				t.Fatalf("%q\n got %v\nwant %v", in, got, want[i])
			}
		}
	})
}

// longestPiece is the length of the longest piece of in that is in s.
func longestPiece(s string, in []byte) (longest int) {
	for i := range s {
		for i+longest < len(s) && bytes.Contains(in, []byte(s[i:i+longest+1])) {
			longest++
		}
	}
	return longest
}

// checkTexts says that what a sink gets is UTF-8 without NUL, and JSON where it should be.
func checkTexts(t *testing.T, s *stream.Schema, e *stream.Event) {
	t.Helper()
	for j, v := range e.Values {
		if !utf8.ValidString(v.Text()) || strings.Contains(v.Text(), "\x00") {
			t.Fatalf("%s is %q", s.Columns[j].Name, v.Text())
		}
		if (v.Kind() == stream.JSON || v.Kind() == stream.List) && !json.Valid([]byte(v.Text())) {
			t.Fatalf("%s is %q", s.Columns[j].Name, v.Text())
		}
		if !v.IsNull() && v.Kind() != s.Columns[j].Type.Kind {
			t.Fatalf("%s is of kind %v", s.Columns[j].Name, v.Kind())
		}
	}
	if p := e.Properties; p != "" && (p[0] != '{' || !json.Valid([]byte(p)) || !utf8.ValidString(p) || strings.Contains(strings.ReplaceAll(p, `\\`, ``), `\u0000`)) {
		t.Fatalf("properties are %q", p)
	}
}

// plain is an event as Go values.
func plain(t *testing.T, s *stream.Schema, e *stream.Event) map[string]any {
	t.Helper()
	event := map[string]any{}
	for j, c := range s.Columns {
		v := e.Values[j]
		switch {
		case v.IsNull() || j == stream.Received || j == stream.Bot:
		case v.Kind() == stream.Float:
			event[c.Name] = v.Float()
		case v.Kind() == stream.JSON || v.Kind() == stream.List:
			event[c.Name] = parse(t, v.Text())
		default:
			event[c.Name] = string(v.AppendText(nil, c.Type))
		}
	}
	if e.Properties != "" {
		event["properties"] = parse(t, e.Properties)
	}
	return event
}

func parse(t *testing.T, text string) any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return v
}

// errUnsure says that the reference does not tell what the decoder should do.
var errUnsure = errors.New("unsure")

// reference decodes with encoding/json as rules says.
func reference(in []byte) ([]map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(in))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("trailing bytes")
	}
	if doubled(in) {
		return nil, errUnsure
	}
	all, ok := v.([]any)
	if !ok {
		all = []any{v}
	}
	if len(all) == 0 {
		return nil, errors.New("no event")
	}
	var events []map[string]any
	for _, one := range all {
		object, ok := one.(map[string]any)
		if !ok {
			return nil, errors.New("not an object")
		}
		e, err := referenceEvent(object)
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, nil
}

// doubled says that a name is in one object twice, or that there is deep nesting: the rules then have errors of their own.
// A name that is mended counts as any other.
func doubled(in []byte) bool {
	if strings.Count(string(in), "[")+strings.Count(string(in), "{") > 500 {
		return true
	}
	d := json.NewDecoder(bytes.NewReader(in))
	var object func() bool
	object = func() bool {
		token, err := d.Token()
		if err != nil {
			return false
		}
		names := map[string]bool{}
		switch token {
		case json.Delim('{'):
			for d.More() {
				name, err := d.Token()
				if err != nil {
					return false
				}
				if key := mended(name.(string)); names[key] {
					return true
				} else {
					names[key] = true
				}
				if object() {
					return true
				}
			}
			_, _ = d.Token()
		case json.Delim('['):
			for d.More() {
				if object() {
					return true
				}
			}
			_, _ = d.Token()
		}
		return false
	}
	return object()
}

func mended(s string) string { return strings.ReplaceAll(s, "\x00", "\ufffd") }

func mendedValue(v any) any {
	switch v := v.(type) {
	case string:
		return mended(v)
	case []any:
		all := []any{}
		for _, item := range v {
			all = append(all, mendedValue(item))
		}
		return all
	case map[string]any:
		all := map[string]any{}
		for name, item := range v {
			all[mended(name)] = mendedValue(item)
		}
		return all
	}
	return v
}

func referenceEvent(object map[string]any) (map[string]any, error) {
	c := rules()
	s, err := c.Schema()
	if err != nil {
		return nil, err
	}
	rest := mendedValue(object).(map[string]any)
	event := map[string]any{}
	for i, column := range s.Columns {
		path := column.Name
		if p := c.Columns[column.Name].Path; p != "" {
			path = p
		}
		if i == stream.Received || i == stream.Bot {
			continue
		}
		values := take(rest, strings.Split(path, "."))
		if literal, ok := rest[path]; ok && strings.Contains(path, ".") {
			delete(rest, path)
			values = append(values, literal)
		}
		if len(values) > 1 {
			return nil, errUnsure
		}
		if len(values) == 0 || values[0] == nil {
			continue
		}
		v, err := referenceCell(column.Type, values[0])
		if err != nil {
			return nil, err
		}
		if i < stream.Query && strings.Contains(fmt.Sprint(v), "\ufffd") {
			return nil, errUnsure // mended or not, this cannot be told here
		}
		event[column.Name] = v
	}
	if event["event_time"] == nil {
		event["event_time"] = string(stream.TimestampValue(took().UnixMicro()).AppendText(nil, stream.Type{Kind: stream.Timestamp}))
	}
	if len(rest) > 0 {
		event["properties"] = rest
	}
	return event, nil
}

// take removes what is at path, and the objects that are empty then.
func take(object map[string]any, path []string) []any {
	v, ok := object[path[0]]
	if !ok {
		return nil
	}
	if len(path) == 1 {
		delete(object, path[0])
		return []any{v}
	}
	inner, ok := v.(map[string]any)
	if !ok {
		return nil
	}
	taken := take(inner, path[1:])
	if len(taken) > 0 && len(inner) == 0 {
		delete(object, path[0])
	}
	return taken
}

func referenceCell(t stream.Type, v any) (any, error) {
	wrong := fmt.Errorf("%v is not %s", v, t)
	text, isText := v.(string)
	literal, isNumber := v.(json.Number)
	switch t.Kind {
	case stream.JSON:
		return v, nil
	case stream.Bool:
		if b, ok := v.(bool); ok {
			return strconv.FormatBool(b), nil
		}
		return nil, wrong
	case stream.List:
		array, ok := v.([]any)
		if !ok {
			return nil, wrong
		}
		list := []any{}
		for _, item := range array {
			switch item := item.(type) {
			case string:
				list = append(list, item)
			case json.Number:
				list = append(list, item.String())
			default:
				return nil, wrong
			}
		}
		return list, nil
	case stream.String:
		if isNumber {
			return literal.String(), nil
		}
		if !isText {
			return nil, wrong
		}
		return text, nil
	}
	if !isText && !isNumber {
		return nil, wrong
	}
	if isNumber {
		text = literal.String()
	}
	if t.Kind == stream.Timestamp {
		if isText {
			if at, err := time.Parse(time.RFC3339, text); err == nil {
				if !strictRFC3339(text) {
					return nil, errUnsure
				}
				return referenceTime(at.UnixMicro(), at.Year())
			}
			london, err := time.LoadLocation("Europe/London")
			if err != nil {
				return nil, err
			}
			if at, err := time.ParseInLocation(time.DateTime, text, london); err == nil {
				return referenceTime(at.UnixMicro(), at.UTC().Year())
			}
		}
	}
	r, err := referenceNumber(text)
	if err != nil {
		return nil, err
	}
	ten := func(n int64) *big.Rat {
		return new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(n), nil))
	}
	switch t.Kind {
	case stream.Timestamp:
		r.Mul(r, ten(3))
		us := new(big.Int).Div(r.Num(), r.Denom()) // towards minus infinity, as the denominator is positive
		if !us.IsInt64() {
			return nil, wrong
		}
		return referenceTime(us.Int64(), time.UnixMicro(us.Int64()).UTC().Year())
	case stream.Int:
		if !r.IsInt() || !r.Num().IsInt64() {
			return nil, wrong
		}
		return r.Num().String(), nil
	case stream.Decimal:
		if scaled := new(big.Rat).Mul(r, ten(int64(t.Scale))); !scaled.IsInt() || new(big.Int).Abs(scaled.Num()).Cmp(ten(int64(t.Precision)).Num()) >= 0 {
			return nil, wrong
		}
		return r.FloatString(int(t.Scale)), nil
	}
	x, err := strconv.ParseFloat(text, 64)
	return x, err
}

// strictRFC3339 is false for what only Go reads: see FuzzTime.
func strictRFC3339(s string) bool {
	offset := len(s) - len("+00:00")
	return len(s) > 19 && s[10] == 'T' && s[13] == ':' && !strings.Contains(s, ",") && (s[len(s)-1] == 'Z' || s[offset+1:offset+3] < "24" && s[offset+4:] < "60")
}

func referenceTime(us int64, year int) (any, error) {
	if us < -62_135_596_800_000_000 || us > 253_402_300_799_999_999 {
		return nil, fmt.Errorf("year %d", year)
	}
	return string(stream.TimestampValue(us).AppendText(nil, stream.Type{Kind: stream.Timestamp})), nil
}

func referenceNumber(s string) (*big.Rat, error) {
	if strings.ContainsAny(s, "_xXoObBpPnNiI/") || !strings.ContainsAny(s, "0123456789") || strings.Contains(s, ".e") || strings.Contains(s, ".E") ||
		strings.HasSuffix(s, ".") || strings.HasPrefix(strings.TrimLeft(s, "+-"), ".") {
		return nil, errors.New("not a number")
	}
	if i := strings.IndexAny(s, "eE"); i >= 0 && len(s)-i > 5 {
		return nil, errUnsure // it takes too much memory
	}
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return nil, errors.New("not a number")
	}
	return r, nil
}

// FuzzCSV holds the decoder against encoding/csv.
func FuzzCSV(f *testing.F) {
	for _, line := range []string{`a,b`, `"a ""b"", c",,d`, `a"b`, `"a"b`, `"a`, ` "a"`, "\xff,\x00\t", `""`, "a\r", `"a,` + "\r", ``} {
		f.Add(line)
	}
	makers := map[int]maker{}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.Contains(line, "\n") {
			return
		}
		r := csv.NewReader(strings.NewReader(line))
		want, werr := r.Read()
		if len(makers) > 1000 {
			clear(makers)
		}
		n := max(1, len(want))
		if _, ok := makers[n]; !ok {
			var names []string
			for i := range n {
				names = append(names, "p"+strconv.Itoa(i))
			}
			makers[n] = newMaker(t, decode.Config{Format: decode.CSV, CSV: decode.Lines{Columns: names}})
		}
		b := stream.NewBatch(makers[n].schema)
		err := makers[n].Decode(&stream.Record{Value: []byte(line), Time: took()}, b)
		if werr != nil && err == nil || werr == nil && err != nil {
			t.Fatalf("%q: got error %v, want %v", line, err, werr)
		}
		if err != nil {
			return
		}
		checkTexts(t, makers[n].schema, &b.Events[0])
		got := parse(t, b.Events[0].Properties).(map[string]any)
		for i := range want {
			if text := strings.Map(func(r rune) rune { return r }, mended(want[i])); got["p"+strconv.Itoa(i)] != text {
				t.Fatalf("%q, field %d: got %q, want %q", line, i, got["p"+strconv.Itoa(i)], text)
			}
		}
	})
}

// FuzzCSVColumns puts text into columns of every type.
func FuzzCSVColumns(f *testing.F) {
	c := rules()
	c.Format = decode.CSV
	for name := range c.Columns {
		if path := c.Columns[name].Path; path != "" {
			c.Columns[name] = decode.Column{Path: name, Type: c.Columns[name].Type}
		}
	}
	c.CSV.Columns = slices.Sorted(maps.Keys(c.Columns))
	f.Add(`true,2.5,1e3,7,{},"[""a"",1]",7,/a,x,2010-07-01 08:26:00`)
	f.Add(`,,,,,,,,,`)
	m := newMaker(f, c)
	f.Fuzz(func(t *testing.T, line string) {
		b := stream.NewBatch(m.schema)
		if err := m.Decode(&stream.Record{Value: []byte(line), Time: took()}, b); err == nil {
			checkTexts(t, m.schema, &b.Events[0])
		}
	})
}

// FuzzCombined has no reference: no panic, and only good text.
func FuzzCombined(f *testing.F) {
	for _, line := range readLines(f, "testdata/access.log")[:20] {
		f.Add(string(line))
	}
	f.Add(`1.2.3.4 - a b [17/May/2015:10:05:03 +0200] "\x16\x03\"\\ \x" 400 226 "\xff" "-" "x"`)
	m := newMaker(f, decode.Config{Format: decode.Combined, Columns: map[string]decode.Column{"status": {Type: "int"}, "path": {Type: "json"}}})
	f.Fuzz(func(t *testing.T, line string) {
		b := stream.NewBatch(m.schema)
		if err := m.Decode(&stream.Record{Value: []byte(line), Time: took()}, b); err == nil {
			checkTexts(t, m.schema, &b.Events[0])
		}
	})
}
