package stream

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Kind is the kind of a Value, and of a Column.
type Kind uint8

const (
	Null      Kind = iota // no value; never a column's kind
	String                // UTF-8 text
	Int                   // 64-bit signed
	Float                 // 64-bit, finite
	Bool                  //
	Timestamp             // microseconds since 1970-01-01T00:00:00Z
	Decimal               // unscaled 64-bit integer; the column has precision and scale
	List                  // of strings, kept as the text of a JSON array of strings
	JSON                  // any JSON value, kept as its text
)

// Type is a column's type. Precision (1 to 18) and Scale (0 to Precision) are those of a Decimal, else 0.
type Type struct {
	Kind             Kind
	Precision, Scale uint8
}

var kindNames = []string{"null", "string", "int", "float", "bool", "timestamp", "decimal", "list", "json"}

// String is the type as the pipeline file writes it: "string", "decimal(9,2)".
func (t Type) String() string {
	if t.Kind == Decimal {
		return fmt.Sprintf("decimal(%d,%d)", t.Precision, t.Scale)
	}
	return kindNames[t.Kind]
}

// ParseType reads what String writes.
func ParseType(s string) (Type, error) {
	var t Type
	if n, _ := fmt.Sscanf(s, "decimal(%d,%d)", &t.Precision, &t.Scale); n == 2 && s == fmt.Sprintf("decimal(%d,%d)", t.Precision, t.Scale) {
		if t.Precision < 1 || t.Precision > 18 || t.Scale > t.Precision {
			return t, fmt.Errorf("%s: want a precision of 1 to 18 and a scale of at most the precision", s)
		}
		t.Kind = Decimal
		return t, nil
	}
	for k, name := range kindNames {
		if Kind(k) != Null && Kind(k) != Decimal && name == s {
			return Type{Kind: Kind(k)}, nil
		}
	}
	return t, fmt.Errorf("unknown type %q; want one of %s, decimal(precision,scale)", s, strings.Join(kindNames[1:6], ", ")+", list, json")
}

// Value is one cell of an Event. The zero Value is null. Text is shared with the record's bytes or the batch's arena and is
// valid until the batch is reset.
type Value struct {
	text string
	num  uint64
	kind Kind
}

func StringValue(s string) Value        { return Value{text: s, kind: String} }
func IntValue(n int64) Value            { return Value{num: uint64(n), kind: Int} }
func FloatValue(f float64) Value        { return Value{num: math.Float64bits(f), kind: Float} }
func TimestampValue(us int64) Value     { return Value{num: uint64(us), kind: Timestamp} }
func DecimalValue(unscaled int64) Value { return Value{num: uint64(unscaled), kind: Decimal} }
func ListValue(array string) Value      { return Value{text: array, kind: List} }
func JSONValue(text string) Value       { return Value{text: text, kind: JSON} }
func BoolValue(b bool) Value {
	if b {
		return Value{num: 1, kind: Bool}
	}
	return Value{kind: Bool}
}

func (v Value) Kind() Kind     { return v.kind }
func (v Value) IsNull() bool   { return v.kind == Null }
func (v Value) Text() string   { return v.text }       // of String, List and JSON
func (v Value) Int() int64     { return int64(v.num) } // of Int, Timestamp (microseconds) and Decimal (unscaled)
func (v Value) Float() float64 { return math.Float64frombits(v.num) }
func (v Value) Bool() bool     { return v.num != 0 }

// Column is one column of the events of a pipeline.
type Column struct {
	Name  string // in sinks, and by default in the input: "event_time"
	Alias string // how the pipeline file may call it too: "time"; empty for none
	Type  Type
}

// The well-known columns come first in every schema, in this order; the columns that a pipeline file declares follow.
// Index Event.Values with them.
const (
	ID = iota
	EventType
	Time     // when it happened, by the client's clock
	Received // when the log took it (Record.Time)
	User
	Anonymous
	Session
	Item
	Items // of an impression
	Recommendation
	Query
	URL
	Referrer
	UserAgent
	IP
	Country
	Region
	Price
	Currency
	Quantity
	Bot       // judged by the user agent
	WellKnown // how many there are
)

func wellKnown() []Column {
	text, list := Type{Kind: String}, Type{Kind: List}
	return []Column{
		{"event_id", "id", text},
		{"event_type", "type", text},
		{"event_time", "time", Type{Kind: Timestamp}},
		{"received_at", "received", Type{Kind: Timestamp}},
		{"user_id", "user", text},
		{"anonymous_id", "anonymous", text},
		{"session_id", "session", text},
		{"item_id", "item", text},
		{"items", "", list},
		{"recommendation_id", "recommendation", text},
		{"query", "", text},
		{"url", "", text},
		{"referrer", "", text},
		{"user_agent", "", text},
		{"ip", "", text},
		{"country", "", text},
		{"region", "", text},
		{"price", "", Type{Kind: Float}},
		{"currency", "", text},
		{"quantity", "", Type{Kind: Int}},
		{"bot", "", Type{Kind: Bool}},
	}
}

// Schema is the columns of a pipeline's events, fixed for a run. The remaining properties of an event are kept beside
// them, as the sinks' JSON column "properties".
type Schema struct {
	Columns []Column
	byName  map[string]int
}

// NewSchema is the well-known columns followed by the declared ones. A declared column with the name or alias of a
// well-known one replaces its type. It fails on a name that is taken twice or that sinks reserve ("properties", or a
// leading underscore).
func NewSchema(declared ...Column) (*Schema, error) {
	s := &Schema{Columns: wellKnown(), byName: map[string]int{}}
	for i, c := range s.Columns {
		s.byName[c.Name] = i
		if c.Alias != "" {
			s.byName[c.Alias] = i
		}
	}
	seen := map[int]bool{}
	for _, c := range declared {
		if c.Name == "" || c.Name == "properties" || c.Name[0] == '_' {
			return nil, fmt.Errorf("column name %q is reserved", c.Name)
		}
		i, ok := s.byName[c.Name]
		if ok && seen[i] {
			return nil, fmt.Errorf("column %q is declared twice", c.Name)
		}
		if ok && (i == Time || i == Received || i == Bot) && c.Type != s.Columns[i].Type {
			return nil, fmt.Errorf("column %q is always of type %s", c.Name, s.Columns[i].Type)
		}
		if !ok {
			i = len(s.Columns)
			s.Columns = append(s.Columns, c)
			s.byName[c.Name] = i
		}
		s.Columns[i].Type = c.Type
		seen[i] = true
	}
	return s, nil
}

// SchemaOf is a schema of nothing but some columns, for expressions over rows that are no events. The well-known indexes do not
// hold for it.
func SchemaOf(columns ...Column) *Schema {
	s := &Schema{Columns: columns, byName: map[string]int{}}
	for i, c := range columns {
		s.byName[c.Name] = i
	}
	return s
}

// Lookup finds a column by name or alias.
func (s *Schema) Lookup(name string) (int, bool) {
	i, ok := s.byName[name]
	return i, ok
}

// Event is one decoded click: what a record became, on its way to the sinks.
type Event struct {
	Values     []Value // by column, len(Schema.Columns)
	Properties string  // what no column took, as the text of a JSON object; empty for none
	Record     *Record // what it was made of
	Index      uint32  // number among the events of its record, from 0; with the position it is the event's identity

	dropped bool
	stage   string
	err     error
}

// Drop takes the event out of the stream on purpose (a filter). It counts as dropped.
func (e *Event) Drop() { e.dropped = true }

// Fail sends the event's record to the dead letters, as an error of the named stage ("decode", "process.2.hash").
// All events of the record share that fate, so that a replay of the dead letter makes nothing twice.
func (e *Event) Fail(stage string, err error) { e.stage, e.err = stage, err }

// Failure is what Fail was given; nil if it was not called.
func (e *Event) Failure() (stage string, err error) { return e.stage, e.err }

// Alive is false after Drop or Fail; processors pass over such events.
func (e *Event) Alive() bool { return !e.dropped && e.err == nil }

// Batch is the events of a run of records of one partition. It is reused: all that it holds is valid until Reset.
// A Batch is used by one goroutine.
type Batch struct {
	Schema *Schema
	Events []Event // in log order

	values []Value
	arena  []byte
}

// NewBatch returns an empty batch.
func NewBatch(schema *Schema) *Batch { return &Batch{Schema: schema} }

// Reset empties the batch and keeps its memory.
func (b *Batch) Reset() {
	clear(b.Events) // let go of records and texts
	clear(b.values)
	b.Events, b.values, b.arena = b.Events[:0], b.values[:0], b.arena[:0]
}

// Append adds an event of r with all values null and the next index among r's events. The pointer is valid until the next Append.
func (b *Batch) Append(r *Record) *Event {
	columns := len(b.Schema.Columns)
	if len(b.values)+columns > cap(b.values) {
		// Events that are there keep the old array.
		b.values = make([]Value, 0, max(2*cap(b.values), 64*columns))
	}
	from := len(b.values)
	b.values = b.values[:from+columns]
	index := uint32(0)
	if n := len(b.Events); n > 0 && b.Events[n-1].Record == r {
		index = b.Events[n-1].Index + 1
	}
	b.Events = append(b.Events, Event{Values: b.values[from : from+columns : from+columns], Record: r, Index: index})
	return &b.Events[len(b.Events)-1]
}

// Truncate takes back the events from number n on. A decoder that fails in the middle of a record uses it.
func (b *Batch) Truncate(n int) {
	for i := n; i < len(b.Events); i++ {
		clear(b.Events[i].Values)
		b.Events[i] = Event{}
	}
	b.Events = b.Events[:n]
}

// Alloc returns n bytes of the batch's arena, of any content, valid until Reset.
func (b *Batch) Alloc(n int) []byte {
	if len(b.arena)+n > cap(b.arena) {
		b.arena = make([]byte, 0, max(n, 2*cap(b.arena), 4<<10)) // texts that are there keep the old array
	}
	from := len(b.arena)
	b.arena = b.arena[:from+n]
	return b.arena[from : from+n : from+n]
}

// AppendText appends v, of a column of type t, to dst as a person would write it: RFC 3339 with microseconds, decimals
// with their scale, nothing for null.
func (v Value) AppendText(dst []byte, t Type) []byte {
	switch v.kind {
	case String, List, JSON:
		return append(dst, v.text...)
	case Int:
		return strconv.AppendInt(dst, v.Int(), 10)
	case Float:
		return strconv.AppendFloat(dst, v.Float(), 'g', -1, 64)
	case Bool:
		return strconv.AppendBool(dst, v.Bool())
	case Timestamp:
		return appendTimestamp(dst, v.Int())
	case Decimal:
		return appendDecimal(dst, v.Int(), int(t.Scale))
	}
	return dst
}
