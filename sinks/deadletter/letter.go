package deadletter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/millrace-io/millrace/stream"
)

// Letter is one line of a file. Bytes are text where they are valid UTF-8, else base64; what is absent was nil.
type Letter struct {
	Pipeline    string          `json:"pipeline"`
	Partition   string          `json:"partition"`
	Epoch       uint64          `json:"epoch"` // of the tenure that wrote it
	Position    stream.Position `json:"position"`
	Index       uint32          `json:"index,omitempty"` // among the letters of one record
	Stage       string          `json:"stage"`           // "source", "decode", "process.<n>.<name>", "sink.<name>"
	Error       string          `json:"error"`
	Time        string          `json:"time,omitempty"`      // of the record, by the log's clock, RFC 3339; absent when the log does not know
	TimeUnix    *int64          `json:"time_unix,omitempty"` // instead, in microseconds, when its year has not four digits
	Key         *string         `json:"key,omitempty"`
	KeyBase64   []byte          `json:"key_base64,omitempty"`
	Value       *string         `json:"value,omitempty"`
	ValueBase64 []byte          `json:"value_base64,omitempty"`
	Headers     []Header        `json:"headers,omitempty"`

	At Ref `json:"-"` // where Read found it
}

// Ref is where a letter stands. A published file never changes.
type Ref struct {
	Key    string // of the file
	Line   int64  // from 0
	Offset int64  // bytes
	Size   int64  // bytes, with the line break
}

// Header is one of a letter's headers.
type Header struct {
	Key         string  `json:"key"`
	KeyBase64   []byte  `json:"key_base64,omitempty"`
	Value       *string `json:"value,omitempty"`
	ValueBase64 []byte  `json:"value_base64,omitempty"`
}

// lastLine ends a file.
type lastLine struct {
	Provenance stream.Provenance `json:"provenance"`
}

func newLetter(t *stream.Tenure, d *stream.DeadLetter, index uint32) *Letter {
	r := d.Record
	l := &Letter{
		Pipeline: t.Pipeline, Partition: t.Partition, Epoch: t.Epoch, Position: r.Pos, Index: index, Stage: d.Stage, Error: d.Err,
	}
	switch year := r.Time.UTC().Year(); {
	case r.Time.IsZero():
	case year >= 0 && year <= 9999:
		l.Time = r.Time.UTC().Format(time.RFC3339Nano)
	default:
		us := r.Time.UnixMicro()
		l.TimeUnix = &us
	}
	l.Key, l.KeyBase64 = split(r.Key)
	l.Value, l.ValueBase64 = split(r.Value)
	for _, h := range r.Headers {
		out := Header{Key: h.Key}
		if !utf8.ValidString(h.Key) {
			out.Key, out.KeyBase64 = "", []byte(h.Key)
		}
		out.Value, out.ValueBase64 = split(h.Value)
		l.Headers = append(l.Headers, out)
	}
	return l
}

// split says bytes as text or, if they are none, as bytes.
func split(b []byte) (*string, []byte) {
	if b == nil {
		return nil, nil
	}
	if !utf8.Valid(b) {
		return nil, b
	}
	s := string(b)
	return &s, nil
}

// join is the reverse of split.
func join(text *string, b []byte) []byte {
	if text != nil {
		return []byte(*text)
	}
	return b
}

// DeadLetter is the letter as the pipeline wrote it. Its record can be delivered again.
func (l *Letter) DeadLetter() (*stream.DeadLetter, error) {
	r := &stream.Record{Key: join(l.Key, l.KeyBase64), Value: join(l.Value, l.ValueBase64), Pos: l.Position}
	switch {
	case l.Time != "":
		t, err := time.Parse(time.RFC3339Nano, l.Time)
		if err != nil {
			return nil, fmt.Errorf("time: %w", err)
		}
		r.Time = t.UTC()
	case l.TimeUnix != nil:
		r.Time = time.UnixMicro(*l.TimeUnix).UTC()
	}
	for _, h := range l.Headers {
		key := h.Key
		if h.KeyBase64 != nil {
			key = string(h.KeyBase64)
		}
		r.Headers = append(r.Headers, stream.Header{Key: key, Value: join(h.Value, h.ValueBase64)})
	}
	if l.Stage == "source" {
		r.Err = errors.New(l.Error)
	}
	return &stream.DeadLetter{Record: r, Stage: l.Stage, Err: l.Error}, nil
}

// appendLine appends v as one line of JSON, readable: < and & stay as they are.
func appendLine(b []byte, v any) []byte {
	var line bytes.Buffer
	e := json.NewEncoder(&line)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		// No letter or provenance is beyond JSON; but if one were, the position must not be lost with it.
		return append(b, fmt.Sprintf("{\"error\":%q}\n", strings.ToValidUTF8(err.Error(), "?"))...)
	}
	return append(b, line.Bytes()...)
}
