package http

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/network"
)

// Mutations seen red (line broken -> test):
//
//	settle: no halves -> OnlyTheEventsThatAreRefusedAreDeadLetters
//	Send: a batch that is too large is halved, and the next one is as large -> ABatchThatIsTooLargeIsHalvedAndThoseAfterItAreSmaller
//	post: no rest -> RetryAfterIsWaitedFor, AFlushDuringARestSaysWhyAndEndsInTime
//	do: the body is not compressed; a new id each time -> Rules; ARepeatedRequestHasItsIDAndOthersHaveNot
//	sign: without the timestamp -> TheSignatureIsThatOfStandardWebhooks
//	hidden: the error as it is -> ErrorsHoldNoSecrets
//	meaning: 404 is about the events; 429 is -> WhatNoRepetitionMendsSaysWhatToDo; RetryAfterIsWaitedFor
//	New: no pings -> AConnectionThatTheNetworkForgotIsNotUsedForEver
//	New: redirects are followed -> WhatNoRepetitionMendsSaysWhatToDo
//	Encode: any size -> EventsOfMoreThanMaxBytesAreDeadLetters

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, network.Leftovers()...) }

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func newSchema(t testing.TB) *stream.Schema {
	t.Helper()
	s, err := stream.NewSchema()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// receiver is a program as the package's comment describes it: it checks signatures, and drops repeats by the event's id.
type receiver struct {
	*httptest.Server
	sinktest.Faults

	mu       sync.Mutex
	events   map[string]sinktest.Held                                                  // by event_id
	answer   func(r *http.Request, events []json.RawMessage) (status int, text string) // nil: 200
	retry    string                                                                    // Retry-After of answer's
	requests []request
	problems []string
}

type request struct {
	id     string
	events int
	at     time.Time
}

func newReceiver(t testing.TB) *receiver {
	t.Helper()
	v := &receiver{events: map[string]sinktest.Held{}}
	v.Server = httptest.NewServer(http.HandlerFunc(v.serve))
	t.Cleanup(func() {
		v.CloseClientConnections()
		v.Close()
		for _, p := range v.problems {
			t.Error(p)
		}
	})
	return v
}

func (v *receiver) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client went
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	fault, fails := v.Next()
	switch {
	case !fails:
	case fault == sinktest.Unavailable:
		http.Error(w, "restarting", http.StatusServiceUnavailable)
		return
	case fault == sinktest.Throttled, fault == sinktest.Partial: // an answer is about all events
		http.Error(w, "slow down", http.StatusTooManyRequests)
		return
	case fault == sinktest.Hang:
		v.mu.Unlock()
		<-r.Context().Done()
		v.mu.Lock()
		return
	}
	v.check(r, body)
	events := v.parse(r, body)
	v.requests = append(v.requests, request{r.Header.Get("webhook-id"), len(events), time.Now()})
	if v.answer != nil {
		if status, text := v.answer(r, events); status != http.StatusOK {
			if v.retry != "" {
				w.Header().Set("Retry-After", v.retry)
			}
			http.Error(w, text, status)
			return
		}
	}
	for _, e := range events {
		v.take(e)
	}
	if fault == sinktest.LostAnswer {
		panic(http.ErrAbortHandler)
	}
}

func (v *receiver) problem(format string, args ...any) {
	v.problems = append(v.problems, fmt.Sprintf(format, args...))
}

// check is how a receiver checks a signature.
func (v *receiver) check(r *http.Request, body []byte) {
	key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp"), body)
	if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); r.Header.Get("webhook-signature") != want {
		v.problem("the signature is %s; want %s", r.Header.Get("webhook-signature"), want)
	}
}

func (v *receiver) parse(r *http.Request, body []byte) (events []json.RawMessage) {
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err == nil {
			body, err = io.ReadAll(z)
		}
		if err != nil {
			v.problem("gzip: %v", err)
		}
	}
	switch kind := r.Header.Get("Content-Type"); kind {
	case "application/json":
		if err := json.Unmarshal(body, &events); err != nil {
			v.problem("%v: %s", err, body)
		}
	case "application/x-ndjson":
		for line := range bytes.Lines(body) {
			events = append(events, bytes.TrimSpace(line))
		}
	default:
		v.problem("the content is of type %q", kind)
	}
	return events
}

func (v *receiver) take(event json.RawMessage) {
	var e struct {
		ID        string `json:"event_id"`
		Partition string `json:"_partition"`
		Position  string `json:"_position"`
	}
	if err := json.Unmarshal(event, &e); err != nil || e.ID == "" {
		v.problem("%v: %s", err, event)
	}
	if _, ok := v.events[e.ID]; ok {
		return
	}
	h := sinktest.Held{ID: e.ID, Values: string(event)}
	h.Place, _ = stream.ParseVersion(e.Position)
	h.Place.Partition = e.Partition
	v.events[e.ID] = h
}

// held is what it has.
func (v *receiver) held(*testing.T) []sinktest.Held {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Collect(maps.Values(v.events))
}

func (v *receiver) newSink(t testing.TB, cfg Config) *Sink {
	t.Helper()
	return newSink(t, v.URL, cfg)
}

// newSink posts to the receiver at url.
func newSink(t testing.TB, url string, cfg Config) *Sink {
	t.Helper()
	cfg.URL, cfg.Secret = url+"/hooks/of-whom-it-may-concern", secret
	if cfg.Delay == 0 {
		cfg.Delay = 5 * time.Millisecond
	}
	s, err := New(cfg, Options{Name: "search"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Idle)
	return s
}

// poisoned answers 422 to batches with an event about the path /poison.
func poisoned(_ *http.Request, events []json.RawMessage) (int, string) {
	for _, e := range events {
		if bytes.Contains(e, []byte("/poison")) {
			return http.StatusUnprocessableEntity, "no such page: /poison"
		}
	}
	return http.StatusOK, ""
}

func TestAReceiverThatDropsRepeatsKeepsTheRulesOfAnUpsertSink(t *testing.T) {
	for name, cfg := range map[string]Config{"json": {}, "ndjson, compressed": {Format: "ndjson", Gzip: true, MaxItems: 30}} {
		t.Run(name, func(t *testing.T) {
			sinktest.RunUpsert(t, func(t *testing.T) sinktest.UpsertBackend {
				v := newReceiver(t)
				v.answer = poisoned
				return sinktest.UpsertBackend{
					Schema: newSchema(t), Shape: sinktest.Identity, Fail: v.Set,
					New:      func(t *testing.T, _ stream.Ordering) stream.Upsert { return v.newSink(t, cfg) },
					Poison:   func(e *stream.Event) { e.Values[stream.URL] = stream.StringValue("https://shop.example/poison") },
					Contents: v.held,
				}
			})
		})
	}
}

// write writes n events at once and flushes.
func write(t *testing.T, s *Sink, n int, change func(i int, e *stream.Event)) ([]*stream.DeadLetter, error) {
	t.Helper()
	schema := newSchema(t)
	w, err := s.Writer(stream.Tenure{Partition: "p", Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	events := sinktest.Events(schema)(0, n)
	for i, e := range events {
		e.Values[stream.ID] = stream.StringValue(fmt.Sprint("e", i))
		change(i, e)
	}
	w.Write(events)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return w.Flush(ctx)
}

func nothing(int, *stream.Event) {}

// The example of Standard Webhooks' own libraries.
func TestTheSignatureIsThatOfStandardWebhooks(t *testing.T) {
	key, err := (&Config{Secret: secret}).key()
	if err != nil {
		t.Fatal(err)
	}
	got := sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("%s; want %s", got, want)
	}
}

func TestOnlyTheEventsThatAreRefusedAreDeadLetters(t *testing.T) {
	v := newReceiver(t)
	v.answer = poisoned
	dead, err := write(t, v.newSink(t, Config{Requests: 1}), 100, func(i int, e *stream.Event) {
		if i == 3 || i == 4 || i == 70 {
			e.Values[stream.URL] = stream.StringValue("https://shop.example/poison")
		}
	})
	if err != nil || len(dead) != 3 || len(v.events) != 97 {
		t.Fatalf("%d dead letters, %d events, %v; want 3 and 97", len(dead), len(v.events), err)
	}
	for i, at := range []uint64{3, 4, 70} {
		if dead[i].Record.Pos.Offset() != at || !strings.Contains(dead[i].Err, `answers 422 Unprocessable Entity: "no such page: /poison"`) {
			t.Errorf("dead letter %d is of %s: %s", i, dead[i].Record.Pos, dead[i].Err)
		}
	}
	if len(v.requests) > 3*2*7 {
		t.Errorf("%d requests found them", len(v.requests))
	}
}

func TestABatchThatIsTooLargeIsHalvedAndThoseAfterItAreSmaller(t *testing.T) {
	v := newReceiver(t)
	tooLarge := 0
	v.answer = func(_ *http.Request, events []json.RawMessage) (int, string) {
		if len(events) > 10 || len(events[0]) > 10_000 {
			tooLarge++
			return http.StatusRequestEntityTooLarge, "too large"
		}
		return http.StatusOK, ""
	}
	s := v.newSink(t, Config{Requests: 1})
	dead, err := write(t, s, 300, func(i int, e *stream.Event) {
		if i == 150 {
			e.Values[stream.URL] = stream.StringValue(strings.Repeat("x", 20_000))
		}
	})
	if err != nil || len(dead) != 1 || len(v.events) != 299 {
		t.Errorf("%d dead letters, %d events, %v; want 1 and 299", len(dead), len(v.events), err)
	}
	before := tooLarge
	if _, err := write(t, s, 300, nothing); err != nil || tooLarge > before {
		t.Errorf("%d requests more are too large, %v", tooLarge-before, err)
	}
}

func TestEventsOfMoreThanMaxBytesAreDeadLetters(t *testing.T) {
	v := newReceiver(t)
	dead, err := write(t, v.newSink(t, Config{MaxBytes: 64 << 10}), 10, func(i int, e *stream.Event) {
		e.Values[stream.URL] = stream.StringValue(strings.Repeat("x", i*10_000))
	})
	if err != nil || len(dead) != 3 || len(v.events) != 7 {
		t.Errorf("%d dead letters, %d events, %v; want 3 and 7", len(dead), len(v.events), err)
	}
}

func TestRetryAfterIsWaitedFor(t *testing.T) {
	v := newReceiver(t)
	v.retry = "1"
	v.answer = func(*http.Request, []json.RawMessage) (int, string) {
		if len(v.requests) == 1 {
			return http.StatusTooManyRequests, "slow down"
		}
		return http.StatusOK, ""
	}
	if dead, err := write(t, v.newSink(t, Config{}), 10, nothing); err != nil || len(dead) > 0 {
		t.Fatal(len(dead), err)
	}
	if len(v.requests) != 2 || v.requests[1].at.Sub(v.requests[0].at) < 990*time.Millisecond {
		t.Errorf("the requests are %v; want two, a second apart", v.requests)
	}
}

func TestRetryAfterIsSecondsOrATime(t *testing.T) {
	now := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"7": 7 * time.Second, "Mon, 02 Mar 2026 10:01:30 GMT": 90 * time.Second, "": 0, "soon": 0, "-3": 0,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("%q is %s; want %s", text, got, want)
		}
	}
}

func TestAFlushDuringARestSaysWhyAndEndsInTime(t *testing.T) {
	v := newReceiver(t)
	v.retry = "3600"
	v.answer = func(*http.Request, []json.RawMessage) (int, string) {
		return http.StatusServiceUnavailable, "closed on Mondays"
	}
	s := v.newSink(t, Config{})
	w, err := s.Writer(stream.Tenure{Partition: "p", Schema: newSchema(t)})
	if err != nil {
		t.Fatal(err)
	}
	w.Write(sinktest.Events(newSchema(t))(0, 10))
	for end := time.Now().Add(20 * time.Second); s.Stats().Failed == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond) // there is nothing to wait for
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := w.Flush(ctx); err == nil || !strings.Contains(err.Error(), "closed on Mondays") {
		t.Errorf("flush returns %v", err)
	}
	w.Close()
	if len(v.requests) != 1 {
		t.Errorf("%d requests; want 1", len(v.requests))
	}
}

func TestWhatNoRepetitionMendsSaysWhatToDo(t *testing.T) {
	elsewhere := newReceiver(t)
	for status, want := range map[int]string{
		301: "redirects are not followed: correct url; it leads to " + elsewhere.URL,
		308: "redirects are not followed",
		401: "check headers, and secret",
		403: "check headers, and secret",
		404: "correct url",
		405: "correct url",
		410: "correct url",
		415: "change format or gzip",
	} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			to := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", elsewhere.URL+"/secret")
				http.Error(w, "no", status)
			})
			v := newReceiver(t)
			v.Config.Handler = to
			dead, err := write(t, v.newSink(t, Config{}), 10, nothing)
			if f := (*stream.FatalError)(nil); !errors.As(err, &f) || !strings.Contains(err.Error(), want) || len(dead) > 0 {
				t.Errorf("%d dead letters, %v; want a fatal error with %q", len(dead), err, want)
			}
		})
	}
	if len(elsewhere.requests) > 0 {
		t.Error("a redirect is followed")
	}
}

func TestARepeatedRequestHasItsIDAndOthersHaveNot(t *testing.T) {
	v := newReceiver(t)
	v.Set(sinktest.LostAnswer)
	s := v.newSink(t, Config{Requests: 1})
	for range 2 {
		if _, err := write(t, s, 10, nothing); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := write(t, s, 11, nothing); err != nil {
		t.Fatal(err)
	}
	if r := v.requests; len(r) != 4 || r[0].id != r[1].id || r[0].id != r[2].id || r[0].id == r[3].id || !strings.HasPrefix(r[0].id, "msg_") {
		t.Errorf("the requests are %v", r)
	}
}

func TestErrorsHoldNoSecrets(t *testing.T) {
	v := newReceiver(t)
	s := v.newSink(t, Config{Headers: map[string]string{"Authorization": "Bearer of-whom"}})
	if err := s.Probe(t.Context()); err != nil {
		t.Errorf("a receiver that answers: %v", err)
	}
	v.Close()
	err := s.Probe(t.Context())
	if err == nil || strings.Contains(err.Error(), "of-whom") || strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), s.host) {
		t.Errorf("the error is %v", err)
	}
}

func TestHeadersAreThoseOfTheFile(t *testing.T) {
	v := newReceiver(t)
	v.answer = func(r *http.Request, _ []json.RawMessage) (int, string) {
		if r.Header.Get("Authorization") != "Bearer x" || r.Header.Get("User-Agent") != "millrace" || r.Method != http.MethodPost {
			return http.StatusBadRequest, fmt.Sprint(r.Header)
		}
		return http.StatusOK, ""
	}
	if dead, err := write(t, v.newSink(t, Config{Headers: map[string]string{"authorization": "Bearer x"}}), 1, nothing); err != nil || len(dead) > 0 {
		t.Error(err, dead[0].Err)
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	err := (&Config{
		Secret: "short", Format: "xml", MaxItems: -1, MaxBytes: 5, Delay: -1, Requests: 100,
		Headers: map[string]string{"webhook-id": "x", "a b": "x", "x": "a\nb"},
	}).Validate()
	for _, want := range []string{
		"url is missing", "secret is wrong", "format is", "max_items is", "max_bytes is 5", "delay or timeout", "requests is 100",
		"headers has webhook-id, which every request has", `headers has "a b"`, "headers has x, whose value",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "short") {
		t.Error("the secret is in the error")
	}
	for _, u := range []string{"ftp://x", "https://", "https://u:p@x", "::"} {
		if err := (&Config{URL: u}).Validate(); err == nil || strings.Contains(err.Error(), "u:p") {
			t.Errorf("url %s: %v", u, err)
		}
	}
	if err := (&Config{Columns: []string{"nope"}}).CheckSchema(newSchema(t)); err == nil {
		t.Error("an unknown column is accepted")
	}
}
