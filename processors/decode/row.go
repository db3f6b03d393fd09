package decode

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unsafe"

	"github.com/millrace-io/millrace/stream"
)

// row fills the cells of one event at a time, for all formats.
type row struct {
	*mapping
	bots   *bots
	batch  *stream.Batch
	values []stream.Value // of the current event

	scratch []byte // for texts whose length is not known beforehand
}

// maxScratch is how much memory is kept from one record to the next, in bytes.
const maxScratch = 64 << 10

func (w *row) begin(r *stream.Record, b *stream.Batch) *stream.Event {
	w.batch = b
	e := b.Append(r)
	w.values = e.Values
	return e
}

// end fills what does not come from the properties.
func (w *row) end(e *stream.Event) error {
	// A broker hands on any number that a producer gave for a time.
	received := e.Record.Time
	known := !received.IsZero() && received.Unix() >= minTime/1_000_000 && received.Unix() <= maxTime/1_000_000
	if known {
		w.values[stream.Received] = stream.TimestampValue(received.UnixMicro())
	}
	if w.values[stream.Time].IsNull() {
		if !known {
			return errors.New("event_time: missing, and the source has no time of its own")
		}
		w.values[stream.Time] = w.values[stream.Received]
	}
	if agent := w.values[stream.UserAgent]; agent.Kind() == stream.String && agent.Text() != "" {
		w.values[stream.Bot] = stream.BoolValue(w.bots.judge(agent.Text()))
	}
	return nil
}

// keep copies b to the batch.
func (w *row) keep(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	kept := w.batch.Alloc(len(b))
	copy(kept, b)
	return view(kept)
}

// view is b as a string without a copy: of a record's bytes, which nobody writes, or of the batch's.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// identifier says that a column names something, so that two names must not become one when a text is mended.
func identifier(column int) bool {
	switch column {
	case stream.ID, stream.User, stream.Anonymous, stream.Session, stream.Item, stream.Items, stream.Recommendation:
		return true
	}
	return false
}

var errMended = errors.New("invalid UTF-8, half of a surrogate pair or a NUL character in an identifier")

// fill puts a text into a column; mended says that it is not quite what the record has.
func (w *row) fill(column int, s string, mended bool) error {
	c := &w.columns[column]
	switch c.Type.Kind {
	case stream.String:
		if mended && identifier(column) {
			return fmt.Errorf("%s: %w", c.Name, errMended)
		}
		w.values[column] = stream.StringValue(s)
		return nil
	case stream.Timestamp:
		if us, ok := w.clock.text(s); ok {
			return w.timestamp(column, us, s)
		}
	case stream.Int, stream.Float, stream.Decimal:
		if n, ok := parseNumber(s); ok {
			return w.number(column, n, s)
		}
	}
	return w.wrong(column, strconv.Quote(short(s)))
}

// number puts a numeral into a column that is not of text.
func (w *row) number(column int, n number, s string) error {
	c := &w.columns[column]
	switch c.Type.Kind {
	case stream.Int:
		if i, ok := n.scaled(0); ok {
			w.values[column] = stream.IntValue(i)
			return nil
		}
		return fmt.Errorf("%s: %s is not a whole number of 64 bits", c.Name, short(s))
	case stream.Float:
		if f, ok := n.float(s); ok {
			w.values[column] = stream.FloatValue(f)
			return nil
		}
		return fmt.Errorf("%s: %s is beyond a 64-bit float", c.Name, short(s))
	case stream.Decimal:
		if d, ok := n.scaled(int(c.Type.Scale)); ok && fits(d, c.Type.Precision) {
			w.values[column] = stream.DecimalValue(d)
			return nil
		}
		return fmt.Errorf("%s: %s does not fit into %s", c.Name, short(s), c.Type)
	case stream.Timestamp:
		return w.timestamp(column, w.clock.number(n), s)
	}
	return w.wrong(column, short(s))
}

func (w *row) timestamp(column int, us int64, s string) error {
	if !inRange(us) {
		return fmt.Errorf("%s: %s is not in the years 1 to 9999", w.columns[column].Name, strconv.Quote(short(s)))
	}
	w.values[column] = stream.TimestampValue(us)
	return nil
}

// wrong is the error for a value that a column's type does not take.
func (w *row) wrong(column int, what string) error {
	c := &w.columns[column]
	name := c.Type.String()
	switch c.Type.Kind {
	case stream.Int:
		name = "an int"
	case stream.Timestamp:
		name = "a time"
	case stream.List:
		name = "a list of strings"
	case stream.JSON:
		name = "JSON"
	default:
		name = "a " + name
	}
	return fmt.Errorf("%s: %s is not %s", c.Name, what, name)
}

// fits says that a number has at most that many digits.
func fits(n int64, digits uint8) bool {
	limit := int64(1)
	for range digits {
		limit *= 10
	}
	return n < limit && n > -limit
}

// short is as much of a payload as an error tells.
func short(s string) string {
	const most = 48
	if len(s) > most {
		s = s[:most-3] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
