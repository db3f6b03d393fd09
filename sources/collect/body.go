package collect

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
)

// format is how a body is written.
type format struct {
	gzip  bool
	lines bool // one event a line
}

// formatOf reads Content-Type and Content-Encoding.
func formatOf(h http.Header) (f format, err error) {
	switch encoding := strings.ToLower(h.Get("Content-Encoding")); encoding {
	case "", "identity":
	case "gzip", "x-gzip":
		f.gzip = true
	default:
		return f, refuse(http.StatusUnsupportedMediaType, "type", "the content encoding %q is not read; want gzip or none", encoding)
	}
	text := h.Get("Content-Type")
	if text == "" {
		return f, nil
	}
	kind, parameters, err := mime.ParseMediaType(text)
	if err != nil {
		return f, refuse(http.StatusUnsupportedMediaType, "type", "the content type %q is not one", text)
	}
	if charset := parameters["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") {
		return f, refuse(http.StatusUnsupportedMediaType, "type", "the charset %q is not read; want utf-8", charset)
	}
	switch kind {
	case "application/x-ndjson", "application/jsonl", "application/x-jsonlines":
		f.lines = true
	case "application/json", "text/plain", "application/x-www-form-urlencoded":
	default:
		if !strings.HasSuffix(kind, "+json") {
			return f, refuse(http.StatusUnsupportedMediaType, "type", "the content type %q is not read; want application/json, text/plain or application/x-ndjson", kind)
		}
	}
	return f, nil
}

// body is the bytes of a request, in a buffer that is used again after free.
type body struct {
	bytes  []byte
	buffer *bytes.Buffer
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

const (
	step       = 4 << 10  // bytes that are read at once
	keptBuffer = 16 << 10 // larger buffers are not kept
)

func (b *body) free() {
	if b.buffer.Cap() <= keptBuffer {
		buffers.Put(b.buffer)
	}
}

// read reads the body, unpacked. It borrows memory as the bytes arrive, so that a client that is slow, or that says a length
// and sends nothing, holds next to none.
func (h *Handler) read(r *http.Request, f format, loan *loan) (*body, error) {
	limit := h.cfg.Limits.Body
	tooLarge := refuse(http.StatusRequestEntityTooLarge, "body", "the body has more than %d bytes; send smaller batches", limit)
	if r.ContentLength > limit {
		return nil, tooLarge
	}
	in := io.Reader(io.LimitReader(r.Body, limit+1))
	if f.gzip {
		unpacked, err := gzip.NewReader(in)
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "body", "the body is not gzip: %s", err)
		}
		defer unpacked.Close()
		in = unpacked
	}
	b := &body{buffer: buffers.Get().(*bytes.Buffer)}
	b.buffer.Reset()
	err := b.fill(in, limit, loan)
	var known *refusal
	switch {
	case err == nil:
		b.bytes = b.buffer.Bytes()
		return b, nil
	case errors.Is(err, errTooLarge):
		err = tooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = refuse(http.StatusRequestTimeout, "slow", "the body took longer than %s", h.cfg.Limits.Receive)
	case !errors.As(err, &known):
		err = refuse(http.StatusBadRequest, "body", "the body did not arrive whole")
	}
	b.free()
	return nil, err
}

var errTooLarge = errors.New("more bytes than allowed")

// fill reads to the end.
func (b *body) fill(in io.Reader, limit int64, loan *loan) error {
	for held := 0; ; {
		b.buffer.Grow(step)
		if grown := b.buffer.Cap(); grown > held {
			if !loan.grow(int64(grown - held)) {
				return busy(http.StatusServiceUnavailable, "busy", 0, tooMuch)
			}
			held = grown
		}
		n, err := in.Read(b.buffer.AvailableBuffer()[:step])
		b.buffer.Write(b.buffer.AvailableBuffer()[:n])
		switch {
		case int64(b.buffer.Len()) > limit:
			return errTooLarge
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// budget is the bytes that all requests together may hold.
type budget struct {
	limit int64
	used  atomic.Int64
}

// loan is one request's share of the budget.
type loan struct {
	budget *budget
	bytes  int64
}

// grow borrows n bytes more. False: they are not there.
func (l *loan) grow(n int64) bool {
	if l.budget.used.Add(n) > l.budget.limit {
		l.budget.used.Add(-n)
		return false
	}
	l.bytes += n
	return true
}

func (l *loan) release() { l.budget.used.Add(-l.bytes) }

// split takes a body apart into events, which may be anything: the check looks at each. An array that breaks off is refused
// whole: nobody can tell what was meant.
func split(body []byte, lines bool) ([][]byte, error) {
	body = bytes.TrimSpace(body)
	if len(body) == 0 {
		return nil, errors.New("the body is empty; want a JSON event or an array of them")
	}
	if lines {
		var events [][]byte
		for line := range bytes.Lines(body) {
			if line = bytes.TrimSpace(line); len(line) > 0 {
				events = append(events, line)
			}
		}
		return events, nil
	}
	if body[0] != '[' {
		return [][]byte{body}, nil
	}
	return splitArray(body)
}

func splitArray(body []byte) ([][]byte, error) {
	var events [][]byte
	i := skipSpace(body, 1)
	if i < len(body) && body[i] == ']' {
		return nil, errors.New("the array is empty; want at least one event")
	}
	for {
		end := skipValue(body, i)
		if end == i || end == len(body) {
			return nil, fmt.Errorf("the body is not a JSON array: it breaks off at byte %d", end)
		}
		events = append(events, body[i:end])
		i = skipSpace(body, end)
		switch {
		case i < len(body) && body[i] == ',':
			i = skipSpace(body, i+1)
		case i == len(body)-1 && body[i] == ']':
			return events, nil
		default:
			return nil, fmt.Errorf("the body is not a JSON array: want a comma, or ] and nothing after it, at byte %d", i)
		}
	}
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// skipString is the end of the string that begins at i; len(b) if it has none.
func skipString(b []byte, i int) int {
	for i++; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}

// skipValue is the end of the JSON value at i. Where that is none, it is some place at or after i: whoever uses the value
// checks it.
func skipValue(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			i = skipString(b, i)
		case '{', '[':
			depth++
			i++
		case '}', ']':
			if depth == 0 {
				return i
			}
			depth--
			i++
		case ',', ' ', '\n', '\t', '\r':
			if depth == 0 {
				return i
			}
			i++
			continue
		default:
			i++
			continue
		}
		if depth == 0 {
			return i
		}
	}
	return len(b)
}
