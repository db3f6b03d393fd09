package document_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/millrace-io/millrace/sinks/document"
	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
)

// Mutations seen red (line broken -> test):
//
//	AppendString: control characters stand as they are; a broken byte is passed on -> StringsAreAsEncodingJSONHasThem
//	Append: no comma before the properties; a null is written -> ADocumentHasWhatTheEventHas

func schema(t testing.TB) *stream.Schema {
	t.Helper()
	s, err := stream.NewSchema(
		stream.Column{Name: "amount", Type: stream.Type{Kind: stream.Decimal, Precision: 9, Scale: 2}},
		stream.Column{Name: "tags", Type: stream.Type{Kind: stream.List}},
		stream.Column{Name: "extra", Type: stream.Type{Kind: stream.JSON}},
	)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestADocumentHasWhatTheEventHas(t *testing.T) {
	s := schema(t)
	for _, names := range [][]string{nil, {"id", "amount"}, {"properties"}, {"country", "properties"}} {
		e, err := document.New(s, `clicks/"α" 3`, names)
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range sinktest.Events(s)(0, 50) {
			text := e.Append(nil, ev)
			var got map[string]any
			d := json.NewDecoder(strings.NewReader(string(text)))
			d.UseNumber()
			if err := d.Decode(&got); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			want := map[string]string{}
			all := names
			if names == nil {
				all = []string{"properties"}
				for _, c := range s.Columns {
					all = append(all, c.Name)
				}
			}
			for _, name := range all {
				if name == "properties" {
					if ev.Properties != "" {
						want[name] = ev.Properties
					}
					continue
				}
				i, _ := s.Lookup(name)
				if v := ev.Values[i]; !v.IsNull() {
					want[s.Columns[i].Name] = string(document.AppendValue(nil, v, s.Columns[i].Type))
				}
			}
			want["_partition"], want["_position"] = `"clicks/\"α\" 3"`, `"`+ev.Record.Pos.String()+`-00000000"`
			if len(got) != len(want) {
				t.Errorf("%s has %d fields; want %d", text, len(got), len(want))
			}
			for name, v := range want {
				raw, _ := json.Marshal(got[name])
				var compact any
				if json.Unmarshal([]byte(v), &compact) == nil {
					if w, _ := json.Marshal(compact); !strings.Contains(v, ".") && string(w) != string(raw) {
						t.Errorf("%s is %s; want %s", name, raw, w)
					}
				}
				if !strings.Contains(string(text), v) {
					t.Errorf("%s lacks %s of %s", text, v, name)
				}
			}
		}
	}
	if _, err := document.New(s, "p", []string{"nope"}); err == nil {
		t.Error("an unknown column is accepted")
	}
}

func TestStringsAreAsEncodingJSONHasThem(t *testing.T) {
	for _, s := range []string{"", "plain", "ünï", "a\"b\\c\nd\re\tf\x00\x1f", "\xff", "ok\xc3", "\u2028é\U0001F600", "�"} {
		text := document.AppendString(nil, s)
		if !utf8.Valid(text) { // which encoding/json would mend in silence
			t.Errorf("%q becomes %q", s, text)
		}
		var back string
		if err := json.Unmarshal(text, &back); err != nil {
			t.Errorf("%q becomes %s: %v", s, text, err)
		}
		if want := strings.ToValidUTF8(s, "\ufffd"); back != want {
			t.Errorf("%q comes back as %q", s, back)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	s := schema(b)
	e, err := document.New(s, "clicks-3", nil)
	if err != nil {
		b.Fatal(err)
	}
	events := sinktest.Events(s)(0, 512)
	var out []byte
	for i := 0; b.Loop(); i++ {
		out = e.Append(out[:0], events[i%len(events)])
	}
	b.SetBytes(int64(len(out)))
}
