package redis

import (
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/millrace-io/millrace/sinks/document"
	"github.com/millrace-io/millrace/stream"
)

// layout is what rows are made of.
type layout struct {
	key        column
	columns    []column
	properties bool
}

type column struct {
	name  string
	index int
	kind  stream.Type
}

func newLayout(c *Config, schema *stream.Schema) (*layout, error) {
	l := &layout{properties: len(c.Columns) == 0}
	var problems []error
	find := func(key, name string) column {
		i, ok := schema.Lookup(name)
		if !ok {
			problems = append(problems, fmt.Errorf("%s has %q, which is no column of the pipeline", key, name))
			return column{}
		}
		return column{schema.Columns[i].Name, i, schema.Columns[i].Type}
	}
	if c.Key != "" {
		l.key = find("key", c.Key)
	}
	switch l.key.kind.Kind {
	case stream.Bool, stream.List, stream.JSON:
		problems = append(problems, fmt.Errorf("key is %q of type %s; want a string, a number or a time", c.Key, l.key.kind))
	}
	names := c.Columns
	if len(names) == 0 {
		for _, col := range schema.Columns {
			names = append(names, col.Name)
		}
	}
	for _, name := range names {
		if name == "properties" {
			l.properties = true
			continue
		}
		l.columns = append(l.columns, find("columns", name))
	}
	return l, errors.Join(problems...)
}

// encoder makes the last arguments of the script: when the row ends, whether it is deleted, and its fields and values.
type encoder struct {
	*Sink
	json  *document.Encoder // nil: fields
	value []byte            // scratch
}

func (s *Sink) encoder(partition string) (*encoder, error) {
	e := &encoder{Sink: s}
	var err error
	if s.cfg.Value == "json" {
		e.json, err = document.New(s.o.Schema, partition, s.cfg.Columns)
	}
	return e, err
}

// Encode appends the key with its prefix, and the arguments, each as 5:price.
func (e *encoder) Encode(key, body []byte, ev *stream.Event) ([]byte, []byte, error) {
	v := ev.Values[e.layout.key.index]
	key = append(key, e.cfg.Prefix...)
	before := len(key)
	if key = v.AppendText(key, e.layout.key.kind); len(key) == before {
		return key, body, fmt.Errorf("%s, the key, is empty", e.layout.key.name)
	}
	if err := checkFloat(v, e.layout.key.kind); err != nil {
		return key, body, fmt.Errorf("%s: %w", e.layout.key.name, err)
	}
	e.value = e.value[:0]
	if e.cfg.TTL > 0 {
		e.value = strconv.AppendInt(e.value, e.ends(ev), 10)
	}
	body = appendArgument(body, e.value)
	if e.o.Delete != nil && e.o.Delete(ev) {
		return key, appendArgument(body, "1"), nil
	}
	body = appendArgument(body, "")
	body, err := e.fields(body, ev)
	return key, body, err
}

// fields appends the columns that have values.
func (e *encoder) fields(b []byte, ev *stream.Event) ([]byte, error) {
	for i := range e.layout.columns {
		c := &e.layout.columns[i]
		v := ev.Values[c.index]
		if v.IsNull() {
			continue
		}
		if err := checkFloat(v, c.kind); err != nil {
			return b, fmt.Errorf("%s: %w", c.name, err)
		}
		if e.json == nil {
			e.value = v.AppendText(e.value[:0], c.kind)
			b = appendArgument(appendArgument(b, c.name), e.value)
		}
	}
	if e.json != nil {
		e.value = e.json.Append(e.value[:0], ev)
		return appendArgument(appendArgument(b, "json"), e.value), nil
	}
	if e.layout.properties && ev.Properties != "" {
		b = appendArgument(appendArgument(b, "properties"), ev.Properties)
	}
	return b, nil
}

// ends is a row's end in milliseconds since 1970.
func (e *encoder) ends(ev *stream.Event) int64 {
	us := stream.Place{Time: ev.Record.Time}.Micros()
	if v := ev.Values[stream.Time]; !v.IsNull() {
		us = v.Int()
	}
	return us/1000 + e.cfg.TTL.Milliseconds()
}

var errNumber = errors.New("is no number")

// checkFloat refuses what nobody who reads the row could compute with, as sinks/dynamodb does.
func checkFloat(v stream.Value, t stream.Type) error {
	if t.Kind == stream.Float && !v.IsNull() && (math.IsNaN(v.Float()) || math.IsInf(v.Float(), 0)) {
		return errNumber
	}
	return nil
}

func appendArgument[T string | []byte](b []byte, text T) []byte {
	b = append(strconv.AppendInt(b, int64(len(text)), 10), ':')
	return append(b, text...)
}

var errArguments = errors.New("the write cannot be read: it was made by another version, or is damaged")

// arguments takes a body apart: end and deletion, then fields and values.
func arguments(args []string, body []byte) ([]string, error) {
	text := string(body) // one copy, which all arguments share
	before := len(args)
	for at := 0; at < len(text); {
		n := 0
		for ; at < len(text) && text[at] >= '0' && text[at] <= '9' && n < 1<<31; at++ {
			n = 10*n + int(text[at]-'0')
		}
		if at++; at > len(text) || text[at-1] != ':' || n > len(text)-at {
			return args, errArguments
		}
		args = append(args, text[at:at+n])
		at += n
	}
	if n := len(args) - before; n < 2 || n%2 != 0 {
		return args, errArguments
	}
	return args, nil
}
