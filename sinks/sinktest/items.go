package sinktest

import (
	"fmt"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// Events are clicks of a schema: one for each record, over three hours of two days, with every kind of value and nulls.
func Events(schema *stream.Schema) func(from uint64, n int) []*stream.Event {
	return func(from uint64, n int) []*stream.Event {
		b := stream.NewBatch(schema)
		records := make([]stream.Record, n)
		events := make([]*stream.Event, n)
		for i := range n {
			records[i] = *record(from + uint64(i))
			fill(b.Append(&records[i]), schema, from+uint64(i))
		}
		for i := range n {
			events[i] = &b.Events[i] // Append may move them: only now
		}
		return events
	}
}

func fill(e *stream.Event, schema *stream.Schema, n uint64) {
	for i, c := range schema.Columns {
		if (n+uint64(i))%5 == 0 && i != stream.Time && i != stream.ID {
			continue
		}
		e.Values[i] = value(c.Type, n)
	}
	e.Values[stream.ID] = stream.StringValue(fmt.Sprintf("click-%08d", n))
	e.Values[stream.Time] = stream.TimestampValue(clickTime(n).UnixMicro())
	if n%3 == 0 {
		e.Properties = fmt.Sprintf(`{"n":%d}`, n)
	}
}

func clickTime(n uint64) time.Time {
	return time.Date(2010, 12, 1, 22, 0, 0, 0, time.UTC).Add(time.Duration(n%3)*time.Hour + time.Duration(n)*time.Microsecond)
}

func value(t stream.Type, n uint64) stream.Value {
	switch t.Kind {
	case stream.Int:
		return stream.IntValue(int64(n))
	case stream.Float:
		return stream.FloatValue(float64(n) / 8)
	case stream.Bool:
		return stream.BoolValue(n%2 == 0)
	case stream.Timestamp:
		return stream.TimestampValue(clickTime(n).UnixMicro())
	case stream.Decimal:
		return stream.DecimalValue(int64(n % 10))
	case stream.List:
		return stream.ListValue(fmt.Sprintf(`["a","b%d"]`, n))
	case stream.JSON:
		return stream.JSONValue(fmt.Sprintf(`{"n":%d}`, n))
	}
	return stream.StringValue(fmt.Sprintf("text %d", n))
}

// DeadLetters are records that could not go on: one for each record, text and bytes.
func DeadLetters(from uint64, n int) []*stream.DeadLetter {
	letters := make([]*stream.DeadLetter, n)
	for i := range n {
		letters[i] = &stream.DeadLetter{Record: record(from + uint64(i)), Stage: "decode", Err: fmt.Sprintf("line %d: no \"id\"", i)}
	}
	return letters
}

func record(n uint64) *stream.Record {
	r := &stream.Record{
		Key: fmt.Appendf(nil, "user-%d", n%7), Value: fmt.Appendf(nil, `{"n":%d,"text":"ünï\n"}`, n),
		Pos: stream.OffsetPosition(n), Time: clickTime(n),
	}
	switch n % 4 {
	case 1:
		r.Value = []byte{0xff, 0x00, byte(n)}
	case 2:
		r.Headers = []stream.Header{{Key: "trace", Value: []byte("t")}, {Key: "trace", Value: []byte{0xfe}}}
	case 3:
		r.Key, r.Time = nil, time.Time{}
	}
	return r
}
