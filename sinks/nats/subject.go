package nats

import (
	"errors"
	"fmt"
	"strings"

	"github.com/millrace-io/millrace/stream"
)

// word is one of a subject: itself, or a column's value.
type word struct {
	text   string // empty: of the column
	column int
	kind   stream.Type
}

// placeholder is the column that a word stands for.
func placeholder(w string) (column string, ok bool) {
	column, ok = strings.CutPrefix(w, "{")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(column, "}")
}

func checkSubject(subject string) error {
	if subject == "" {
		return errors.New("subject is empty; want where messages go, such as clicks or clicks.{country}")
	}
	for i, w := range strings.Split(subject, ".") {
		column, ok := placeholder(w)
		switch {
		case ok && column != "" && i > 0:
		case w == "" || strings.ContainsAny(w, "{}*> \t\r\n") || i == 0 && w[0] == '$':
			return fmt.Errorf("subject is %q; want words with dots between, such as clicks.{country}: the first one a word, without wildcards", subject)
		}
	}
	return nil
}

// parseSubject finds the columns. The subject is one that checkSubject takes.
func parseSubject(subject string, schema *stream.Schema) ([]word, error) {
	var words []word
	for w := range strings.SplitSeq(subject, ".") {
		column, ok := placeholder(w)
		if !ok {
			words = append(words, word{text: w})
			continue
		}
		i, known := schema.Lookup(column)
		if !known {
			return nil, fmt.Errorf("subject has {%s}, which is no column of the pipeline", column)
		}
		words = append(words, word{column: i, kind: schema.Columns[i].Type})
	}
	return words, nil
}

func appendSubject(b []byte, words []word, ev *stream.Event) []byte {
	for i, w := range words {
		if i > 0 {
			b = append(b, '.')
		}
		if w.text != "" {
			b = append(b, w.text...)
			continue
		}
		from := len(b)
		if v := ev.Values[w.column]; !v.IsNull() {
			b = v.AppendText(b, w.kind)
		}
		if len(b) == from {
			b = append(b, '_')
		}
		for j, c := range b[from:] {
			if c <= ' ' || c == 0x7f || c == '.' || c == '*' || c == '>' {
				b[from+j] = '_'
			}
		}
	}
	return b
}

// takes says that a filter of a stream matches a subject; with placeholders, that it may.
func takes(filter, subject string) bool {
	filters, words := strings.Split(filter, "."), strings.Split(subject, ".")
	for i, f := range filters {
		if f == ">" {
			return i < len(words)
		}
		if i >= len(words) {
			return false
		}
		if _, any := placeholder(words[i]); f != "*" && f != words[i] && !any {
			return false
		}
	}
	return len(filters) == len(words)
}
