package spool

import (
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/stream"
)

// line is one write in a file.
type line struct {
	Partition text            `json:"partition"`
	Position  stream.Position `json:"position"`
	Index     uint32          `json:"index,omitempty"`
	Key       text            `json:"key,omitempty"`
	Body      text            `json:"body"`
	Record    record          `json:"record"`
	Buried    bool            `json:"buried,omitempty"` // see bulk.Item
}

// record is what a dead letter of the write needs, and what sinks pass on.
type record struct {
	Time    *int64   `json:"time,omitempty"` // microseconds; absent when the log does not know
	Key     *text    `json:"key,omitempty"`
	Value   *text    `json:"value,omitempty"`
	Headers []header `json:"headers,omitempty"`
}

type header struct {
	Key   text  `json:"key"`
	Value *text `json:"value,omitempty"`
}

// text is bytes: a JSON string where they are UTF-8, else an object with their base64.
type text []byte

type encoded struct {
	Base64 []byte `json:"base64"`
}

func (t text) MarshalJSON() ([]byte, error) {
	if utf8.Valid(t) {
		return json.Marshal(string(t))
	}
	return json.Marshal(encoded{t})
}

func (t *text) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '{' {
		var e encoded
		err := json.Unmarshal(b, &e)
		*t = e.Base64
		return err
	}
	var s string
	err := json.Unmarshal(b, &s)
	*t = text(s)
	return err
}

func optional(b []byte) *text {
	if b == nil {
		return nil
	}
	t := text(b)
	return &t
}

func (t *text) bytes() []byte {
	if t == nil {
		return nil
	}
	return *t
}

func appendItem(b []byte, it *bulk.Item) []byte {
	r := it.Record
	l := line{Partition: text(it.Partition), Position: r.Pos, Index: it.Index, Key: it.Key, Body: it.Body, Record: record{Key: optional(r.Key), Value: optional(r.Value)}, Buried: it.Buried}
	if !r.Time.IsZero() {
		us := r.Time.UnixMicro()
		l.Record.Time = &us
	}
	for _, h := range r.Headers {
		l.Record.Headers = append(l.Record.Headers, header{text(h.Key), optional(h.Value)})
	}
	out, err := json.Marshal(l)
	if err != nil {
		panic(err) // of texts and numbers
	}
	return append(append(b, out...), '\n')
}

func parseItem(b []byte) (*bulk.Item, error) {
	var l line
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, fmt.Errorf("a line is no write: %w", err)
	}
	r := &stream.Record{Pos: l.Position, Key: l.Record.Key.bytes(), Value: l.Record.Value.bytes()}
	if l.Record.Time != nil {
		r.Time = time.UnixMicro(*l.Record.Time).UTC()
	}
	for _, h := range l.Record.Headers {
		r.Headers = append(r.Headers, stream.Header{Key: string(h.Key), Value: h.Value.bytes()})
	}
	return &bulk.Item{Partition: string(l.Partition), Index: l.Index, Record: r, Key: l.Key, Body: l.Body, Buried: l.Buried}, nil
}
