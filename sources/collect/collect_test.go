package collect

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// memory is a Log that fails on demand.
type memory struct {
	events []Event
	err    error
}

func (m *memory) Append(_ context.Context, events []Event) error {
	if m.err != nil {
		return m.err
	}
	m.events = append(m.events, events...)
	return nil
}

// wantUser refuses events without a user; the user is the key.
func wantUser(event []byte) (string, error) {
	var e struct {
		User string `json:"user_id"`
	}
	if err := json.Unmarshal(event, &e); err != nil {
		return "", errors.New("not a JSON object")
	}
	if e.User == "" {
		return "", errors.New("no user_id")
	}
	return e.User, nil
}

func post(t *testing.T, log *memory, body string) (int, Answer, http.Header) {
	t.Helper()
	h := New(log, Options{MaxBody: 1000, MaxEvent: 100, MaxBatch: 3, Check: wantUser})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/events", strings.NewReader(body)))
	var a Answer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		t.Fatalf("answer %q: %v", w.Body, err)
	}
	return w.Code, a, w.Header()
}

func TestGoodEventsOfABatchAreAcceptedAndToldApart(t *testing.T) {
	for _, c := range []struct {
		name, body string
		status     int
		accepted   int
		says       string
	}{
		{"one", `{"user_id":"u1"}`, 200, 1, ""},
		{"batch", `[{"user_id":"u1"},{"user_id":"u2"}]`, 200, 2, ""},
		{"one bad", `{"user":"u1"}`, 400, 0, "no user_id"},
		{"mixed", ` [{"user_id":"u1"}, 7, {"user_id":"u2"}]`, 207, 2, "not a JSON object"},
		{"broken array", `[{"user_id":"u1"}`, 400, 0, "not a JSON array"},
		{"broken event", `{"user_id":`, 400, 0, "not a JSON object"},
		{"empty", " ", 400, 0, "empty"},
		{"empty array", "[]", 400, 0, "empty"},
		{"too many", `[{"user_id":"1"},{"user_id":"2"},{"user_id":"3"},{"user_id":"4"}]`, 400, 0, "at most 3"},
		{"large event", `{"user_id":"` + strings.Repeat("x", 200) + `"}`, 400, 0, "at most 100"},
		{"large body", `{"user_id":"` + strings.Repeat("x", 2000) + `"}`, 413, 0, "1000 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			log := &memory{}
			status, a, _ := post(t, log, c.body)
			said, _ := json.Marshal(a)
			if status != c.status || a.Accepted != c.accepted || len(log.events) != c.accepted || !strings.Contains(string(said), c.says) {
				t.Errorf("status %d, %s, %d in the log; want %d, %d accepted, saying %q", status, said, len(log.events), c.status, c.accepted, c.says)
			}
		})
	}
}

func TestNothingIsAcceptedBeforeTheLogHasIt(t *testing.T) {
	status, a, header := post(t, &memory{err: errors.New("down")}, `{"user_id":"u1"}`)
	if status != http.StatusServiceUnavailable || a.Accepted != 0 || header.Get("Retry-After") == "" {
		t.Errorf("status %d, %+v, Retry-After %q; want 503 that asks to send again", status, a, header.Get("Retry-After"))
	}
}

func TestOtherMethodsAreRefused(t *testing.T) {
	w := httptest.NewRecorder()
	New(&memory{}, Options{}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/events", nil))
	if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != http.MethodPost {
		t.Errorf("status %d, Allow %q", w.Code, w.Header().Get("Allow"))
	}
}
