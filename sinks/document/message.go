package document

import (
	"errors"
	"fmt"

	"github.com/millrace-io/millrace/stream"
)

// Messages makes the messages of one tenure, for the sinks that append to a log. It serves one goroutine.
type Messages struct {
	key      int // column; -1: the record's key
	kind     stream.Type
	document *Encoder // nil: the record's value
}

// CheckMessages says what is wrong with a value and columns, whatever the schema is.
func CheckMessages(value string, columns []string) error {
	switch {
	case value != "json" && value != "record":
		return fmt.Errorf("value is %q; want json or record", value)
	case value == "record" && len(columns) > 0:
		return errors.New("columns are of value json; value record is the bytes as they came")
	}
	return nil
}

// NewMessages returns what makes messages whose key is a column's text, by name or alias, or without one the record's key. Their
// value is json, the object that New says of the columns, or record, the bytes as they came.
func NewMessages(schema *stream.Schema, partition, key, value string, columns []string) (*Messages, error) {
	m := &Messages{key: -1}
	if key != "" {
		i, ok := schema.Lookup(key)
		if !ok {
			return nil, fmt.Errorf("key is %q, which is no column of the pipeline", key)
		}
		m.key, m.kind = i, schema.Columns[i].Type
	}
	if value == "record" {
		return m, nil
	}
	var err error
	m.document, err = New(schema, partition, columns)
	return m, err
}

// AppendKey appends ev's key; of an event without one, nothing.
func (m *Messages) AppendKey(b []byte, ev *stream.Event) []byte {
	if m.key < 0 {
		return append(b, ev.Record.Key...)
	}
	return ev.Values[m.key].AppendText(b, m.kind)
}

// AppendValue appends ev's value.
func (m *Messages) AppendValue(b []byte, ev *stream.Event) []byte {
	if m.document == nil {
		return append(b, ev.Record.Value...)
	}
	return m.document.Append(b, ev)
}
