package decode

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/millrace-io/millrace/stream"
)

// csvDecoder is the decoder of format csv: RFC 4180, and as strict about quotes as encoding/csv is.
type csvDecoder struct {
	lineDecoder
	delimiter byte
	fixed     bool   // the pipeline file names the columns
	header    []byte // that fields was made of

	cut   []cut
	inner []byte // the fields that had quotes, without them
}

// cut is one field of a line.
type cut struct {
	text   string
	quoted bool // text is yet to be taken from inner, from start to end
	start  int
	end    int
}

var (
	errQuote     = errors.New("a quote in a field that does not begin with one")
	errAfter     = errors.New("text after the quote that ends a field")
	errUnended   = errors.New("the quote that ends a field is missing")
	errNoColumns = errors.New("nothing names the fields of the line: set csv.columns, or read files whose first line names them")
)

func newCSV(c *Lines, m *mapping, b *bots) *csvDecoder {
	d := &csvDecoder{lineDecoder: lineDecoder{parser: newParser(m, b)}, delimiter: c.Delimiter[0], fixed: len(c.Columns) > 0}
	if d.fixed {
		d.field = d.fields(c.Columns)
	}
	return d
}

func (d *csvDecoder) Decode(r *stream.Record, b *stream.Batch) error {
	err := d.line(r, b)
	clear(d.cut) // let go of the record
	d.releaseLine()
	if cap(d.inner) > maxScratch {
		d.inner = nil
	}
	return err
}

func (d *csvDecoder) line(r *stream.Record, b *stream.Batch) error {
	line := trimLine(r.Value)
	if len(line) == 0 {
		return errEmpty
	}
	if err := d.names(r); err != nil {
		return err
	}
	if err := d.split(line); err != nil {
		return err
	}
	if len(d.cut) != len(d.field) {
		return fmt.Errorf("the line has %d fields; want %d", len(d.cut), len(d.field))
	}
	e := d.beginLine(r, b)
	for i := range d.cut {
		if err := d.put(&d.field[i], d.text(&d.cut[i])); err != nil {
			return err
		}
	}
	return d.endLine(e)
}

// text is the text of a field. One that had quotes is copied to the batch.
func (d *csvDecoder) text(c *cut) string {
	if c.quoted {
		return d.keep(d.inner[c.start:c.end])
	}
	return c.text
}

// names makes sure that the fields are those of r.
func (d *csvDecoder) names(r *stream.Record) error {
	if d.fixed {
		return nil
	}
	var header []byte
	for i := range r.Headers {
		if r.Headers[i].Key == CSVHeader {
			header = r.Headers[i].Value
		}
	}
	if d.field != nil && bytes.Equal(header, d.header) {
		return nil
	}
	line := bytes.TrimPrefix(trimLine(header), []byte("\xef\xbb\xbf"))
	if len(line) == 0 {
		return errNoColumns
	}
	if err := d.split(line); err != nil {
		return fmt.Errorf("the line that names the fields: %w", err)
	}
	var names []string
	for i := range d.cut {
		c := &d.cut[i]
		if c.quoted {
			c.text = view(d.inner[c.start:c.end])
		}
		names = append(names, c.text)
	}
	d.field = d.fields(names)
	d.header = bytes.Clone(header)
	return nil
}

// split cuts a line into fields.
func (d *csvDecoder) split(line []byte) error {
	d.cut, d.inner = d.cut[:0], d.inner[:0]
	for i := 0; ; i++ {
		if i < len(line) && line[i] == '"' {
			end, err := d.quotedField(line, i+1)
			if err != nil {
				return fmt.Errorf("byte %d, field %d: %w", end, len(d.cut)+1, err)
			}
			i = end
		} else {
			n := bytes.IndexByte(line[i:], d.delimiter)
			if n < 0 {
				n = len(line) - i
			}
			if q := bytes.IndexByte(line[i:i+n], '"'); q >= 0 {
				return fmt.Errorf("byte %d, field %d: %w", i+q, len(d.cut)+1, errQuote)
			}
			d.cut = append(d.cut, cut{text: view(line[i : i+n])})
			i += n
		}
		if i == len(line) {
			return nil
		}
	}
}

// quotedField cuts the field whose text begins at i, and returns where the line goes on.
func (d *csvDecoder) quotedField(line []byte, i int) (end int, err error) {
	start := len(d.inner)
	for {
		q := bytes.IndexByte(line[i:], '"')
		if q < 0 {
			return len(line), errUnended
		}
		d.inner = append(d.inner, line[i:i+q]...)
		if i += q + 1; i == len(line) || line[i] == d.delimiter {
			d.cut = append(d.cut, cut{quoted: true, start: start, end: len(d.inner)})
			return i, nil
		}
		if line[i] != '"' {
			return i, errAfter
		}
		d.inner = append(d.inner, '"')
		i++
	}
}

// trimLine is a record without the end of its line.
func trimLine(b []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
}
