package decode

import (
	"fmt"
	"strings"
	"unicode/utf8"
	"unsafe"

	"github.com/millrace-io/millrace/stream"
)

// lineDecoder is what the decoders of lines share: a line is fields, and each fills its columns or becomes a property.
type lineDecoder struct {
	parser
	field []field
	rest  []byte // the properties so far
}

// field is what one field of a line is for.
type field struct {
	columns []int
	name    string // as JSON text, with a colon behind it
}

func (l *lineDecoder) fields(names []string) []field {
	fields := make([]field, len(names))
	for i, name := range names {
		fields[i].name = string(appendString(nil, strings.ToValidUTF8(name, replacement))) + ":"
		if n := l.root.children.find(name); n != nil {
			fields[i].columns = n.columns
		}
	}
	return fields
}

func (l *lineDecoder) beginLine(r *stream.Record, b *stream.Batch) *stream.Event {
	l.rest = l.rest[:0]
	return l.begin(r, b)
}

func (l *lineDecoder) endLine(e *stream.Event) error {
	if len(l.rest) > 0 {
		l.rest = append(l.rest, '}')
		e.Properties = l.keep(l.rest)
	}
	return l.end(e)
}

// releaseLine lets go of the record, and of memory that only a large one needs.
func (l *lineDecoder) releaseLine() {
	if cap(l.rest) > maxScratch {
		l.rest = nil
	}
	l.release()
}

// put puts one field's text where it belongs.
func (l *lineDecoder) put(f *field, s string) error {
	s, mended := l.fit(s)
	if len(f.columns) == 0 {
		l.property(f)
		l.rest = appendString(l.rest, s)
		return nil
	}
	for _, column := range f.columns {
		if err := l.cellText(column, s, mended); err != nil {
			return err
		}
	}
	return nil
}

// property begins a property.
func (l *lineDecoder) property(f *field) {
	c := byte(',')
	if len(l.rest) == 0 {
		c = '{'
	}
	l.rest = append(append(l.rest, c), f.name...)
}

// cellText is fill for the values of a table, which have no type of their own. Nothing is null, but in a declared column of
// strings.
func (l *lineDecoder) cellText(column int, s string, mended bool) error {
	kind := l.columns[column].Type.Kind
	switch {
	case s == "" && (kind != stream.String || column < stream.WellKnown):
		l.values[column] = stream.Value{}
		return nil
	case kind == stream.Bool && (s == "true" || s == "false"):
		l.values[column] = stream.BoolValue(s == "true")
		return nil
	case kind == stream.List || kind == stream.JSON:
		return l.cellJSON(column, s, mended)
	}
	return l.fill(column, s, mended)
}

// cellJSON fills a column of lists or JSON from a field that has to be JSON text.
func (l *lineDecoder) cellJSON(column int, s string, mended bool) error {
	if mended && identifier(column) {
		return fmt.Errorf("%s: %w", l.columns[column].Name, errMended)
	}
	l.src, l.pos = unsafe.Slice(unsafe.StringData(s), len(s)), 0
	l.space()
	v, err := l.value(0)
	if l.space(); err == nil && l.pos < len(l.src) {
		err = l.want("nothing after the value")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", l.columns[column].Name, err)
	}
	return l.cell(column, v)
}

// fit is s as text that every reader takes: see mend.
func (l *lineDecoder) fit(s string) (text string, mended bool) {
	if strings.IndexByte(s, 0) < 0 && utf8.ValidString(s) {
		return s, false
	}
	l.scratch = l.scratch[:0]
	for _, r := range s {
		if r == 0 {
			r = utf8.RuneError
		}
		l.scratch = utf8.AppendRune(l.scratch, r)
	}
	return l.keep(l.scratch), true
}
