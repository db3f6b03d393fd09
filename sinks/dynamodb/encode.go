package dynamodb

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/millrace-io/millrace/sinks/document"
	"github.com/millrace-io/millrace/stream"
)

// encoder makes an item's attributes, as the value of Item in DynamoDB's JSON.
type encoder struct {
	*layout
	o         Options
	partition string
	value     []byte // scratch
}

// Limits of DynamoDB, in bytes.
const (
	maxPartitionKey = 2048
	maxSortKey      = 1024
	maxItem         = 400 << 10
)

// Encode appends the item. The key is the table's.
func (e *encoder) Encode(key, body []byte, ev *stream.Event) ([]byte, []byte, error) {
	place := stream.PlaceOf(e.partition, ev)
	body = append(body, '{')
	key, body, err := e.key(key, body, &e.pk, ev, place, maxPartitionKey)
	if err != nil {
		return key, body, err
	}
	if e.sk.column != noColumn {
		key, body = append(key, 0), append(body, ',')
		if key, body, err = e.key(key, body, &e.sk, ev, place, maxSortKey); err != nil {
			return key, body, err
		}
	}
	if e.o.Delete != nil && e.o.Delete(ev) {
		body = append(body, `,"_deleted":{"BOOL":true}`...)
	} else if body, err = e.attributes(body, ev); err != nil {
		return key, body, err
	}
	if e.ttl != nil {
		body = append(appendName(append(body, ','), e.ttl.Attribute), `{"N":"`...)
		body = append(strconv.AppendInt(body, e.expires(ev), 10), `"}`...)
	}
	body = append(document.AppendString(append(body, `,"_partition":{"S":`...), e.partition), `},"_position":{"S":"`...)
	body = append(place.AppendVersion(body), `"},"_time":{"N":"`...)
	body = append(strconv.AppendInt(body, place.Micros(), 10), `"}}`...)
	if len(body) > 2*maxItem { // an item has less bytes than its JSON, but not half; in between the server knows
		return key, body, fmt.Errorf("the item has %d bytes of JSON; DynamoDB takes items of up to 400 KB", len(body))
	}
	return key, body, nil
}

// key appends one attribute of the key, to the key's text and to the item.
func (e *encoder) key(key, body []byte, a *attribute, ev *stream.Event, place stream.Place, limit int) ([]byte, []byte, error) {
	before := len(key)
	if a.column == identityColumn {
		key = place.AppendVersion(append(append(key, e.partition...), ':'))
	} else {
		key = ev.Values[a.column].AppendText(key, a.kind)
	}
	switch n := len(key) - before; {
	case n == 0:
		return key, body, fmt.Errorf("%s, a part of the table's key, is empty", a.name)
	case n > limit:
		return key, body, fmt.Errorf("%s, a part of the table's key, has %d bytes; DynamoDB takes %d", a.name, n, limit)
	}
	body = append(append(body, a.prefix...), `{"`...)
	if keyType(a.kind) == "N" {
		if err := checkFloat(ev.Values[a.column], a.kind); err != nil {
			return key, body, fmt.Errorf("%s: %w", a.name, err)
		}
		return key, append(append(append(body, `N":"`...), key[before:]...), `"}`...), nil
	}
	return key, append(document.AppendString(append(body, `S":`...), string(key[before:])), '}'), nil
}

// attributes appends the columns that have values.
func (e *encoder) attributes(b []byte, ev *stream.Event) ([]byte, error) {
	for i := range e.columns {
		a := &e.columns[i]
		v := ev.Values[a.column]
		if v.IsNull() {
			continue
		}
		var err error
		if e.value, err = a.appendValue(e.value[:0], v); err != nil {
			return b, fmt.Errorf("%s: %w", a.name, err)
		}
		if len(e.value) > 0 {
			b = append(append(append(b, ','), a.prefix...), e.value...)
		}
	}
	if e.properties && ev.Properties != "" {
		var err error
		if b, err = appendJSON(append(b, `,"properties":`...), ev.Properties); err != nil {
			return b, fmt.Errorf("properties: %w", err)
		}
	}
	return b, nil
}

// expires is an item's end in seconds since 1970.
func (e *encoder) expires(ev *stream.Event) int64 {
	us := stream.Place{Time: ev.Record.Time}.Micros()
	if v := ev.Values[stream.Time]; !v.IsNull() {
		us = v.Int()
	}
	return us/1e6 + int64(e.ttl.After.Seconds())
}

var errNumber = errors.New("is beyond DynamoDB's numbers: up to 38 digits, from 1e-130 to 9.99e125")
