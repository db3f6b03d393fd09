// Package document makes the JSON object of an event, for the sinks that write JSON: OpenSearch, streams, webhooks, Redis.
//
//	{"event_id":"e1","event_type":"click","event_time":"2026-03-02T10:00:00.000000Z","price":1.50,
//	 "properties":{"section":"toys"},"_partition":"clicks-3","_position":"00000000000003e8-00000000"}
//
// Columns stand under their names in the schema's order; nulls are left out. Times are RFC 3339 with microseconds, in UTC;
// decimals are numbers with all digits of their scale; lists and JSON are as they came. The two last fields are the event's
// identity: partition, and position with index (stream.Place.Version), whose text order is log order.
package document

import (
	"fmt"
	"unicode/utf8"

	"github.com/millrace-io/millrace/stream"
)

// Encoder encodes the events of one tenure, from one goroutine.
type Encoder struct {
	columns    []column
	properties bool
	partition  []byte // ,"_partition":"..."
}

type column struct {
	index int
	name  []byte // "event_id":
	kind  stream.Type
}

// New returns an encoder of the named columns, by name or alias; of none named, all columns and the properties. "properties"
// names those. It fails on a name that the schema has not.
func New(schema *stream.Schema, partition string, names []string) (*Encoder, error) {
	e := &Encoder{properties: len(names) == 0}
	e.partition = AppendString([]byte(`,"_partition":`), partition)
	if len(names) == 0 {
		for _, c := range schema.Columns {
			names = append(names, c.Name)
		}
	}
	for _, name := range names {
		if name == "properties" {
			e.properties = true
			continue
		}
		i, ok := schema.Lookup(name)
		if !ok {
			return nil, fmt.Errorf("columns has %q, which is no column of the pipeline", name)
		}
		c := schema.Columns[i]
		e.columns = append(e.columns, column{i, append(AppendString(nil, c.Name), ':'), c.Type})
	}
	return e, nil
}

// Append appends ev's object to b.
func (e *Encoder) Append(b []byte, ev *stream.Event) []byte {
	b = append(b, '{')
	first := len(b)
	for i := range e.columns {
		c := &e.columns[i]
		v := ev.Values[c.index]
		if v.IsNull() {
			continue
		}
		if len(b) > first {
			b = append(b, ',')
		}
		b = AppendValue(append(b, c.name...), v, c.kind)
	}
	if e.properties && ev.Properties != "" {
		if len(b) > first {
			b = append(b, ',')
		}
		b = append(append(b, `"properties":`...), ev.Properties...)
	}
	partition := e.partition
	if len(b) == first {
		partition = partition[1:]
	}
	b = append(append(b, partition...), `,"_position":"`...)
	place := stream.Place{Pos: ev.Record.Pos, Index: ev.Index}
	return append(place.AppendVersion(b), `"}`...)
}

// AppendValue appends one value, of a column of type t, as JSON.
func AppendValue(b []byte, v stream.Value, t stream.Type) []byte {
	switch v.Kind() {
	case stream.Null:
		return append(b, "null"...)
	case stream.String:
		return AppendString(b, v.Text())
	case stream.Timestamp:
		return append(v.AppendText(append(b, '"'), t), '"')
	default: // numbers, bools and JSON are the text that they are
		return v.AppendText(b, t)
	}
}

// AppendString appends s as a JSON string. What is no UTF-8 becomes U+FFFD.
func AppendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
			b = append(append(b, s[from:i]...), "\ufffd"...)
		} else {
			b = append(b, s[from:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			case '\r':
				b = append(b, '\\', 'r')
			case '\t':
				b = append(b, '\\', 't')
			default:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
		}
		i++
		from = i
	}
	return append(append(b, s[from:]...), '"')
}
