// Package collect takes events over HTTP and answers only after the log has them.
//
//	POST /v1/events   one JSON event, or an array of them
//
// The answer counts what was accepted and tells, by index, what was refused and why: 200 if all were accepted, 207 if
// some, 400 if none. What would become a dead letter is refused here, while somebody is listening. 413 is a body that is
// too large, 503 with Retry-After a log that does not take events at present: then none of the batch is known to be
// accepted, and the client sends it again.
package collect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"
)

// Event is one accepted event on its way to the log.
type Event struct {
	Key   string // decides the partition; empty for any
	Value []byte // JSON
}

// Log is where accepted events go.
type Log interface {
	// Append returns when all events are durable. After an error some may be. It is called from many goroutines.
	Append(ctx context.Context, events []Event) error
}

// Options of a Handler.
type Options struct {
	MaxBody  int64         // bytes of a request; default 5 MiB
	MaxEvent int           // bytes of an event; default 1 MiB
	MaxBatch int           // events of a request; default 500
	Deadline time.Duration // for the log to take a request's events; default 10 s

	// Check says what is wrong with an event, or what its key is. It is called from many goroutines.
	Check func(event []byte) (key string, err error)

	Log *slog.Logger
}

// EnsureDefaults sets what is zero.
func (o *Options) EnsureDefaults() {
	if o.MaxBody == 0 {
		o.MaxBody = 5 << 20
	}
	if o.MaxEvent == 0 {
		o.MaxEvent = 1 << 20
	}
	if o.MaxBatch == 0 {
		o.MaxBatch = 500
	}
	if o.Deadline == 0 {
		o.Deadline = 10 * time.Second
	}
	if o.Check == nil {
		o.Check = func([]byte) (string, error) { return "", nil }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// Handler serves POST /v1/events.
type Handler struct {
	log  Log
	opts Options
}

// New returns a handler that appends to log.
func New(log Log, opts Options) *Handler {
	opts.EnsureDefaults()
	return &Handler{log: log, opts: opts}
}

// Answer is the body of every response.
type Answer struct {
	Accepted int       `json:"accepted"`
	Refused  []Refusal `json:"refused,omitempty"`
	Error    string    `json:"error,omitempty"` // about the whole request
}

// Refusal is one event that was not accepted.
type Refusal struct {
	Index int    `json:"index"` // in the request, from 0
	Error string `json:"error"`
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		answer(w, http.StatusMethodNotAllowed, Answer{Error: "want POST"})
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.opts.MaxBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		answer(w, http.StatusRequestEntityTooLarge, Answer{Error: fmt.Sprintf("the body has more than %d bytes; send smaller batches", h.opts.MaxBody)})
		return
	case err != nil:
		answer(w, http.StatusBadRequest, Answer{Error: "the body did not arrive whole"})
		return
	}
	raw, err := split(body)
	if err == nil && len(raw) > h.opts.MaxBatch {
		err = fmt.Errorf("the batch has %d events; at most %d are taken", len(raw), h.opts.MaxBatch)
	}
	if err != nil {
		answer(w, http.StatusBadRequest, Answer{Error: err.Error()})
		return
	}
	h.take(r.Context(), w, raw)
}

// take appends what is good of a batch.
func (h *Handler) take(ctx context.Context, w http.ResponseWriter, raw []json.RawMessage) {
	events, refused := h.check(raw)
	if len(events) > 0 {
		ctx, cancel := context.WithTimeout(ctx, h.opts.Deadline)
		defer cancel()
		if err := h.log.Append(ctx, events); err != nil {
			h.opts.Log.Warn("the log does not take events", "error", err)
			w.Header().Set("Retry-After", "1")
			answer(w, http.StatusServiceUnavailable, Answer{Error: "the log does not take events at present; send them again"})
			return
		}
	}
	status := http.StatusOK
	switch {
	case len(refused) > 0 && len(events) == 0:
		status = http.StatusBadRequest
	case len(refused) > 0:
		status = http.StatusMultiStatus
	}
	answer(w, status, Answer{Accepted: len(events), Refused: refused})
}

func (h *Handler) check(raw []json.RawMessage) (events []Event, refused []Refusal) {
	for i, value := range raw {
		key, err := "", error(nil)
		if len(value) > h.opts.MaxEvent {
			err = fmt.Errorf("the event has %d bytes; at most %d are taken", len(value), h.opts.MaxEvent)
		} else {
			key, err = h.opts.Check(value)
		}
		if err != nil {
			refused = append(refused, Refusal{Index: i, Error: err.Error()})
			continue
		}
		events = append(events, Event{Key: key, Value: value})
	}
	return events, refused
}

// split takes a body apart into events. An array that breaks off is refused whole: nobody can tell what was meant.
func split(body []byte) ([]json.RawMessage, error) {
	body = bytes.TrimSpace(body)
	switch {
	case len(body) == 0:
		return nil, errors.New("the body is empty; want a JSON event or an array of them")
	case body[0] == '[':
		var raw []json.RawMessage
		if err := json.Unmarshal(body, &raw); err != nil {
			return nil, fmt.Errorf("the body is not a JSON array: %w", err)
		}
		if len(raw) == 0 {
			return nil, errors.New("the array is empty; want at least one event")
		}
		return raw, nil
	default:
		return []json.RawMessage{body}, nil
	}
}

func answer(w http.ResponseWriter, status int, a Answer) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(a) // nobody is left to tell
}
