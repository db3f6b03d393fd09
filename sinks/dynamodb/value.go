package dynamodb

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/sinks/document"
	"github.com/millrace-io/millrace/stream"
)

// appendName appends "name":.
func appendName(b []byte, name string) []byte { return append(document.AppendString(b, name), ':') }

// appendValue appends a value as DynamoDB's JSON has it, nothing for an empty set. Times are RFC 3339 with microseconds, so
// that their order as texts is their order.
func (a *attribute) appendValue(b []byte, v stream.Value) ([]byte, error) {
	switch v.Kind() {
	case stream.String:
		return append(document.AppendString(append(b, `{"S":`...), v.Text()), '}'), nil
	case stream.Timestamp:
		return append(v.AppendText(append(b, `{"S":"`...), a.kind), `"}`...), nil
	case stream.Bool:
		return append(v.AppendText(append(b, `{"BOOL":`...), a.kind), '}'), nil
	case stream.Int, stream.Float, stream.Decimal:
		if err := checkFloat(v, a.kind); err != nil {
			return b, err
		}
		return append(v.AppendText(append(b, `{"N":"`...), a.kind), `"}`...), nil
	}
	if a.set {
		return appendSet(b, v.Text())
	}
	return appendJSON(b, v.Text())
}

// checkFloat refuses what DynamoDB's numbers do not hold.
func checkFloat(v stream.Value, t stream.Type) error {
	if t.Kind != stream.Float {
		return nil
	}
	x := math.Abs(v.Float())
	if x != 0 && x < 1e-130 || x >= 1e126 || math.IsNaN(x) {
		return errNumber
	}
	return nil
}

// appendSet makes a string set of a JSON array of strings. DynamoDB has no empty set, and nothing twice in one.
func appendSet(b []byte, array string) ([]byte, error) {
	var all []string
	if err := json.Unmarshal([]byte(array), &all); err != nil {
		return b, fmt.Errorf("is no list of strings: %w", err)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	if len(all) == 0 {
		return b, nil
	}
	b = append(b, `{"SS":[`...)
	for i, s := range all {
		if i > 0 {
			b = append(b, ',')
		}
		b = document.AppendString(b, s)
	}
	return append(b, `]}`...), nil
}

// appendJSON appends a JSON value, which is valid, as DynamoDB's JSON: lists and maps of typed values, and numbers with all
// their digits.
func appendJSON(b []byte, text string) ([]byte, error) {
	t := transcoder{text: text, out: b}
	if err := t.value(0); err != nil {
		return b, err
	}
	return t.out, nil
}

// transcoder walks over a JSON text. Strings have the same spelling on both sides.
type transcoder struct {
	text string
	at   int
	out  []byte
}

func (t *transcoder) space() {
	for t.at < len(t.text) && strings.IndexByte(" \t\r\n", t.text[t.at]) >= 0 {
		t.at++
	}
}

// next is the next byte that is no space; 0 at the end.
func (t *transcoder) next() byte {
	t.space()
	if t.at == len(t.text) {
		return 0
	}
	return t.text[t.at]
}

var errJSON = fmt.Errorf("is no JSON")

// maxDepth of DynamoDB's documents.
const maxDepth = 32

func (t *transcoder) value(depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("is nested more than %d deep; DynamoDB takes no more", maxDepth)
	}
	switch c := t.next(); {
	case c == '"':
		t.out = append(t.out, `{"S":`...)
		if err := t.string(); err != nil {
			return err
		}
		t.out = append(t.out, '}')
	case c == '{':
		return t.sequence(`{"M":{`, '}', func() error {
			if t.next() != '"' {
				return errJSON
			}
			if err := t.string(); err != nil {
				return err
			}
			if t.next() != ':' {
				return errJSON
			}
			t.at++
			t.out = append(t.out, ':')
			return t.value(depth + 1)
		})
	case c == '[':
		return t.sequence(`{"L":[`, ']', func() error { return t.value(depth + 1) })
	case c == '-' || c >= '0' && c <= '9':
		return t.number()
	default:
		return t.word()
	}
	return nil
}

// sequence copies the elements of an object or an array.
func (t *transcoder) sequence(open string, end byte, element func() error) error {
	t.at++
	t.out = append(t.out, open...)
	for first := true; ; first = false {
		switch c := t.next(); {
		case c == end:
			t.at++
			t.out = append(t.out, end, '}')
			return nil
		case c == ',' && !first:
			t.at++
			t.out = append(t.out, ',')
		case !first || c == 0:
			return errJSON
		}
		if err := element(); err != nil {
			return err
		}
	}
}

func (t *transcoder) string() error {
	from := t.at
	for t.at++; t.at < len(t.text); t.at++ {
		switch t.text[t.at] {
		case '\\':
			t.at++
		case '"':
			t.at++
			t.out = append(t.out, t.text[from:t.at]...)
			return nil
		}
	}
	return errJSON
}

func (t *transcoder) number() error {
	from := t.at
	for t.at < len(t.text) && strings.IndexByte("+-.eE0123456789", t.text[t.at]) >= 0 {
		t.at++
	}
	text := t.text[from:t.at]
	if !fitsNumber(text) {
		return fmt.Errorf("%.60s %w", text, errNumber)
	}
	t.out = append(append(append(t.out, `{"N":"`...), text...), `"}`...)
	return nil
}

// fitsNumber says that DynamoDB holds a number exactly: at most 38 digits between its first and its last that is not zero.
func fitsNumber(text string) bool {
	mantissa, exponent, _ := strings.Cut(strings.ToLower(strings.TrimLeft(text, "+-")), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimLeft(whole+fraction, "0")
	shift := len(digits) - len(fraction) // of the decimal point behind the first digits
	digits = strings.TrimRight(digits, "0")
	if digits == "" {
		return true
	}
	e := 0
	if exponent != "" {
		if _, err := fmt.Sscanf(exponent, "%d", &e); err != nil || e > 1000 || e < -1000 {
			return false
		}
	}
	magnitude := shift + e - 1
	return len(digits) <= 38 && magnitude <= 125 && magnitude >= -130
}

func (t *transcoder) word() error {
	for word, out := range map[string]string{"true": `{"BOOL":true}`, "false": `{"BOOL":false}`, "null": `{"NULL":true}`} {
		if strings.HasPrefix(t.text[t.at:], word) {
			t.at += len(word)
			t.out = append(t.out, out...)
			return nil
		}
	}
	return errJSON
}
