package collect

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Mutations seen red (line broken -> test):
//   - collect.go, Append has the request's context                 -> TestDeadlineOfTheLogIsAnsweredAndNotTheClientsEnd
//   - collect.go, the answer does not wait for Append              -> TestGoodEventsOfABatchAreAcceptedAndToldApart
//   - collect.go, ErrTooLarge is like any other error              -> TestFatesOfOneBatchAreToldApart
//   - collect.go, every origin is allowed                          -> TestPagesSendFromAllowedOriginsOnly
//   - collect.go, a batch is charged as one event                  -> TestClientsThatSendTooMuchWait
//   - collect.go, the loan is not given back                       -> TestGoodEventsOfABatchAreAcceptedAndToldApart
//   - collect.go, an unknown key is like none                      -> TestWriteKeys
//   - config.go, without Sec-GPC                                   -> TestConsentIsHonoured
//   - config.go, every origin matches by its end                   -> TestPagesSendFromAllowedOriginsOnly
//   - body.go, the budget has no limit                             -> TestBytesUnderWayAreBounded
//   - body.go, the limit is of packed bytes only                   -> TestContentTypesAndEncodings
//   - body.go, a backslash in a text hides nothing                 -> TestGoodEventsOfABatchAreAcceptedAndToldApart, FuzzSplit
//   - enrich.go, pages' own ip and user_agent stay                 -> TestVisitorIsWhoTheRequestComesFrom
//   - enrich.go, every hop is trusted behind a trusted proxy       -> TestVisitorIsWhoTheRequestComesFrom
//   - enrich.go, names with escapes are not read                   -> TestVisitorIsWhoTheRequestComesFrom
//   - enrich.go, an id is of the request and the index only        -> TestIdsOfARequestSentAgainAreTheSame
//   - enrich.go, null is an id                                     -> TestIdsOfARequestSentAgainAreTheSame
//   - enrich.go, the skew is taken off instead of added            -> TestClocksAreCorrected
//   - enrich.go, collected_at and client_time of the client stay   -> TestClocksAreCorrected
//   - limit.go, addresses of IPv6 count whole                      -> TestClientsThatSendTooMuchWait
//   - limit.go, nobody makes room                                  -> TestLimiterRemembersNoMoreThanItMay
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a Log that fails on demand.
type memory struct {
	mu     sync.Mutex
	events []Event
	fail   func(ctx context.Context, events []Event) error // nil: never
}

func (m *memory) Append(ctx context.Context, events []Event) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		if err := m.fail(ctx, events); err != nil {
			return err
		}
	}
	m.events = append(m.events, events...)
	return nil
}

// clock is the collector's in these tests.
var clock = time.Date(2026, 3, 4, 5, 6, 7, 89e6, time.UTC)

// wantUser refuses events without a user; the user is the key.
func wantUser(event []byte) (Facts, error) {
	var e struct {
		User string    `json:"user_id"`
		ID   string    `json:"event_id"`
		Time time.Time `json:"event_time"`
	}
	if err := json.Unmarshal(event, &e); err != nil {
		return Facts{}, errors.New("not a JSON object")
	}
	if e.User == "" {
		return Facts{}, errors.New("no user_id")
	}
	return Facts{Key: e.User, ID: e.ID, Time: e.Time}, nil
}

// scene is a handler before a log in memory.
type scene struct {
	t   *testing.T
	log *memory
	h   *Handler
}

func newScene(t *testing.T, cfg Config) *scene {
	t.Helper()
	s := &scene{t: t, log: &memory{}}
	h, err := New(s.log, cfg, Options{Check: wantUser})
	if err != nil {
		t.Fatal(err)
	}
	h.now = func() time.Time { return clock }
	h.perKey.now, h.perAddr.now = h.now, h.now
	s.h = h
	return s
}

// response is an answer with all that belongs to it.
type response struct {
	status int
	header http.Header
	Answer
}

// send sends a request with some headers: "Name: value".
func (s *scene) send(method, target, body string, headers ...string) response {
	s.t.Helper()
	r := httptest.NewRequestWithContext(s.t.Context(), method, target, strings.NewReader(body))
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		if name == "From" {
			r.RemoteAddr = value
			continue
		}
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	s.h.ServeHTTP(w, r)
	a := response{status: w.Code, header: w.Header()}
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &a.Answer); err != nil {
			s.t.Fatalf("answer %q: %v", w.Body, err)
		}
	}
	return a
}

func (s *scene) post(body string, headers ...string) response {
	s.t.Helper()
	return s.send(http.MethodPost, "/v1/events", body, headers...)
}

// taken is the last event in the log, as an object.
func (s *scene) taken() map[string]any {
	s.t.Helper()
	if len(s.log.events) == 0 {
		s.t.Fatal("nothing is in the log")
	}
	value := s.log.events[len(s.log.events)-1].Value
	var e map[string]any
	if err := json.Unmarshal(value, &e); err != nil {
		s.t.Fatalf("event %s: %v", value, err)
	}
	return e
}

const good = `{"user_id":"u1"}`

func zipped(text string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	return b.String()
}

func small() Config {
	return Config{Limits: Limits{Body: 1 << 10, Event: 1 << 8, Batch: 3}}
}

func TestGoodEventsOfABatchAreAcceptedAndToldApart(t *testing.T) {
	for _, c := range []struct {
		name, body string
		status     int
		accepted   int
		says       string
	}{
		{"one", good, 200, 1, ""},
		{"batch", `[{"user_id":"u1"},{"user_id":"u2"}]`, 200, 2, ""},
		{"one bad", `{"user":"u1"}`, 400, 0, "no user_id"},
		{"mixed", ` [{"user_id":"u1"}, 7, {"user_id":"u2"}]`, 207, 2, "not a JSON object"},
		{"a bracket in a text", `[{"user_id":"]}\"[","x":"\\"}, {"user_id":"u2"}]`, 200, 2, ""},
		{"broken array", `[{"user_id":"u1"}`, 400, 0, "not a JSON array"},
		{"array and more", `[{"user_id":"u1"}] 7`, 400, 0, "not a JSON array"},
		{"no comma", `[{"user_id":"u1"} {"user_id":"u2"}]`, 400, 0, "want a comma"},
		{"comma at the end", `[{"user_id":"u1"},]`, 400, 0, "not a JSON array"},
		{"text without an end", `[{"user_id":"u1]`, 400, 0, "not a JSON array"},
		{"broken event", `{"user_id":`, 400, 0, "not a JSON object"},
		{"two events", good + good, 400, 0, "not a JSON object"},
		{"array in an array", "[[" + good + "]]", 400, 0, "not a JSON object"},
		{"empty", " ", 400, 0, "empty"},
		{"empty array", "[ ]", 400, 0, "empty"},
		{"too many", `[{"user_id":"1"},{"user_id":"2"},{"user_id":"3"},{"user_id":"4"}]`, 400, 0, "at most 3"},
		{"large event", `[{"user_id":"` + strings.Repeat("x", 300) + `"},` + good + `]`, 207, 1, "at most 256"},
		{"large body", `{"user_id":"` + strings.Repeat("x", 2000) + `"}`, 413, 0, "1024 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t, small())
			a := s.post(c.body)
			said, _ := json.Marshal(a.Answer)
			if a.status != c.status || a.Accepted != c.accepted || len(s.log.events) != c.accepted || !strings.Contains(string(said), c.says) {
				t.Errorf("status %d, %s, %d in the log; want %d, %d accepted, saying %q", a.status, said, len(s.log.events), c.status, c.accepted, c.says)
			}
			if used := s.h.budget.used.Load(); used != 0 {
				t.Errorf("%d bytes stay borrowed", used)
			}
		})
	}
}

func TestContentTypesAndEncodings(t *testing.T) {
	bomb := zipped(`{"user_id":"` + strings.Repeat("x", 1<<20) + `"}`)
	if len(bomb) > 1<<11 {
		t.Fatalf("the bomb has %d bytes", len(bomb))
	}
	for _, c := range []struct {
		name, body string
		status     int
		headers    []string
	}{
		{"json", good, 200, []string{"Content-Type: application/json"}},
		{"beacon", good, 200, []string{"Content-Type: text/plain;charset=UTF-8"}},
		{"curl", good, 200, []string{"Content-Type: application/x-www-form-urlencoded"}},
		{"any json", good, 200, []string{"Content-Type: application/cloudevents+json"}},
		{"lines", good + "\n\r\n" + good + "\n", 200, []string{"Content-Type: application/x-ndjson"}},
		{"a broken line", good + "\n{\n", 207, []string{"Content-Type: application/x-ndjson"}},
		{"multipart", good, 415, []string{"Content-Type: multipart/form-data; boundary=x"}},
		{"xml", good, 415, []string{"Content-Type: text/xml"}},
		{"no type", good, 415, []string{"Content-Type: ;"}},
		{"latin 1", good, 415, []string{"Content-Type: application/json; charset=iso-8859-1"}},
		{"gzip", zipped(good), 200, []string{"Content-Encoding: gzip"}},
		{"two members", zipped("["+good+",") + zipped(good+"]"), 200, []string{"Content-Encoding: gzip"}},
		{"no gzip", good, 400, []string{"Content-Encoding: gzip"}},
		{"half a gzip", zipped(good)[:20], 400, []string{"Content-Encoding: gzip"}},
		{"bomb", bomb, 413, []string{"Content-Encoding: gzip"}},
		{"brotli", good, 415, []string{"Content-Encoding: br"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := small()
			cfg.Limits.Body = 1 << 11
			s := newScene(t, cfg)
			if a := s.post(c.body, c.headers...); a.status != c.status {
				t.Errorf("status %d, %+v; want %d", a.status, a.Answer, c.status)
			}
		})
	}
}

func TestNothingIsAcceptedBeforeTheLogHasIt(t *testing.T) {
	s := newScene(t, Config{})
	s.log.fail = func(context.Context, []Event) error { return errors.New("down") }
	a := s.post(good)
	if a.status != http.StatusServiceUnavailable || a.Accepted != 0 || a.header.Get("Retry-After") == "" || a.Retry != nil {
		t.Errorf("status %d, %+v, %v; want 503 that asks to send all again", a.status, a.Answer, a.header)
	}
}

func TestFatesOfOneBatchAreToldApart(t *testing.T) {
	s := newScene(t, Config{})
	s.log.fail = func(context.Context, []Event) error {
		return Outcomes{nil, errors.New("shard is busy"), ErrTooLarge}
	}
	a := s.post(`[{"user_id":"a"}, {"user":"bad"}, {"user_id":"b"}, {"user_id":"c"}]`)
	said, _ := json.Marshal(a.Answer)
	if a.status != http.StatusServiceUnavailable || a.Accepted != 1 || len(a.Retry) != 1 || a.Retry[0] != 2 || len(a.Refused) != 2 || a.Refused[1].Index != 3 {
		t.Errorf("status %d, %s; want 503, one accepted, 2 to send again, 1 and 3 refused", a.status, said)
	}
	s.log.fail = func(context.Context, []Event) error { return Outcomes{nil, ErrTooLarge} }
	if a := s.post(`[{"user_id":"a"}, {"user_id":"b"}]`); a.status != http.StatusMultiStatus || a.Accepted != 1 {
		t.Errorf("status %d, %+v; want 207", a.status, a.Answer)
	}
}

func TestDeadlineOfTheLogIsAnsweredAndNotTheClientsEnd(t *testing.T) {
	s := newScene(t, Config{Limits: Limits{Deadline: 20 * time.Millisecond}})
	s.log.fail = func(ctx context.Context, _ []Event) error {
		<-ctx.Done()
		return ctx.Err()
	}
	if a := s.post(good); a.status != http.StatusServiceUnavailable {
		t.Errorf("status %d; want 503", a.status)
	}
	// A page that is gone does not take its last events with it.
	s = newScene(t, Config{})
	s.log.fail = func(ctx context.Context, _ []Event) error { return ctx.Err() }
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	s.h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(gone, http.MethodPost, "/v1/events", strings.NewReader(good)))
	if len(s.log.events) != 1 {
		t.Error("the event of a closed page is not in the log")
	}
}

func TestMethods(t *testing.T) {
	s := newScene(t, Config{})
	for method, status := range map[string]int{"GET": 405, "HEAD": 405, "PUT": 405, "DELETE": 405, "OPTIONS": 204} {
		if a := s.send(method, "/v1/events", ""); a.status != status || a.header.Get("Allow") != "POST, OPTIONS" {
			t.Errorf("%s: status %d, %v; want %d", method, a.status, a.header, status)
		}
	}
}

func TestPagesSendFromAllowedOriginsOnly(t *testing.T) {
	cfg := Config{CORS: CORS{Allow: []string{"https://shop.example", "https://*.shops.example", "http://localhost:*"}}}
	for origin, ok := range map[string]bool{
		"https://shop.example": true, "https://SHOP.example": true, "http://shop.example": false, "https://shop.example:8443": false,
		"https://shop.example.evil.example": false, "https://evilshop.example": false,
		"https://a.shops.example": true, "https://a.b.shops.example": true, "https://shops.example": false, "https://ashops.example": false,
		"http://localhost": true, "http://localhost:3000": true, "https://localhost:3000": false,
		"http://collect.example": true, // the collector's own
		"null":                   false, "://": false,
	} {
		s := newScene(t, cfg)
		a := s.send(http.MethodPost, "http://collect.example/v1/events", good, "Origin: "+origin)
		if (a.status == 200) != ok || (a.status == 403) == ok || (len(s.log.events) == 1) != ok {
			t.Errorf("%s: status %d; want allowed %v", origin, a.status, ok)
		}
		if (a.header.Get("Access-Control-Allow-Origin") == origin) != ok || a.header.Get("Vary") != "Origin" {
			t.Errorf("%s: %v", origin, a.header)
		}
		pre := s.send(http.MethodOptions, "http://collect.example/v1/events", "", "Origin: "+origin, "Access-Control-Request-Method: POST")
		if (pre.status == 204) != ok || (pre.header.Get("Access-Control-Allow-Headers") != "") != ok {
			t.Errorf("%s: preflight status %d, %v", origin, pre.status, pre.header)
		}
	}
	s := newScene(t, Config{CORS: CORS{Allow: []string{"*"}}})
	if a := s.post(good, "Origin: null"); a.status != 200 {
		t.Errorf("*: status %d", a.status)
	}
	if a := newScene(t, cfg).post(good); a.status != 200 {
		t.Errorf("no page: status %d", a.status)
	}
}

func TestWriteKeys(t *testing.T) {
	cfg := Config{WriteKeys: map[string]WriteKey{"web": {Key: "w1"}, "shop": {Key: "s1", Server: true}}}
	for _, c := range []struct {
		target, header string
		status         int
		name           any
	}{
		{"/v1/events", "X: x", 401, nil},
		{"/v1/events?key=other", "X: x", 401, nil},
		{"/v1/events?key=w1", "X: x", 200, "web"},
		{"/v1/events", "X-Write-Key: w1", 200, "web"},
		{"/v1/events", "Authorization: bearer s1", 200, "shop"},
		{"/v1/events", "Authorization: Basic s1", 401, nil},
	} {
		s := newScene(t, cfg)
		a := s.send(http.MethodPost, c.target, `{"user_id":"u","write_key":"mine"}`, c.header)
		if a.status != c.status || (a.header.Get("WWW-Authenticate") == "") != (c.status == 200) {
			t.Errorf("%s %s: status %d; want %d", c.target, c.header, a.status, c.status)
		}
		if c.status == 200 && s.taken()["write_key"] != c.name {
			t.Errorf("%s %s: event %v", c.target, c.header, s.taken())
		}
	}
}

func TestClientsThatSendTooMuchWait(t *testing.T) {
	cfg := Config{
		WriteKeys: map[string]WriteKey{"web": {Key: "w"}, "shop": {Key: "s", Server: true}},
		Limits:    Limits{PerAddress: Rate{PerSecond: 2, Burst: 4}, PerKey: Rate{PerSecond: 10, Burst: 20}},
	}
	s := newScene(t, cfg)
	three := "[" + good + "," + good + "," + good + "]"
	from := func(key, address string) response {
		t.Helper()
		return s.send(http.MethodPost, "/v1/events?key="+key, three, "From: "+address)
	}
	statuses := func(want int, as ...response) {
		t.Helper()
		for i, a := range as {
			if a.status != want || (want == 429) != (a.header.Get("Retry-After") != "") {
				t.Errorf("%d: status %d, %v; want %d", i, a.status, a.header, want)
			}
		}
	}
	statuses(200, from("w", "1.1.1.1:1"), from("w", "1.1.1.1:2")) // 6 of 4: two are owed
	refused := from("w", "1.1.1.1:3")
	statuses(429, refused)
	if refused.header.Get("Retry-After") != "2" { // three tokens at two a second
		t.Errorf("Retry-After %s; want 2", refused.header.Get("Retry-After"))
	}
	statuses(200, from("w", "[2001:db8::1]:1"), from("w", "[2001:db8::ff:1]:1"))
	statuses(429, from("w", "[2001:db8::2:1]:1")) // one network
	statuses(200, from("s", "1.1.1.1:4"), from("s", "1.1.1.1:4"), from("s", "1.1.1.1:4"), from("s", "1.1.1.1:4"), from("s", "1.1.1.1:4"), from("s", "1.1.1.1:4"), from("s", "1.1.1.1:4"))
	statuses(429, from("s", "1.1.1.1:4"))
	later := clock.Add(2 * time.Second)
	s.h.perKey.now, s.h.perAddr.now = func() time.Time { return later }, func() time.Time { return later }
	statuses(200, from("w", "1.1.1.1:5"), from("s", "1.1.1.1:4"))
	if n := s.h.Stats().Requests[Result{429, "rate_address"}]; n != 2 {
		t.Errorf("%d requests counted as too many of an address; want 2", n)
	}
}

func TestLimiterRemembersNoMoreThanItMay(t *testing.T) {
	now := clock
	l := newLimiter[int](Rate{PerSecond: 1, Burst: 2}, func() time.Time { return now })
	l.most = 10
	for key := range 100 {
		if wait := l.admit(key); wait != 0 || len(l.buckets) > 10 {
			t.Fatalf("key %d waits %s, %d buckets", key, wait, len(l.buckets))
		}
	}
	now = now.Add(time.Minute)
	l.admit(1000)
	if len(l.buckets) != 1 {
		t.Errorf("%d buckets; want the new one only, the others are full", len(l.buckets))
	}
}

func TestBytesUnderWayAreBounded(t *testing.T) {
	cfg := Config{Limits: Limits{Body: 1 << 10, InFlight: 16 << 10}}
	s := newScene(t, cfg)
	waiting, release := make(chan struct{}), make(chan struct{})
	s.h.log = logFunc(func(context.Context, []Event) error {
		waiting <- struct{}{}
		<-release
		return nil
	})
	var under sync.WaitGroup
	statuses := make(chan int, 100)
	busy := 0
	for n := 0; busy == 0 && n < 100; n++ {
		under.Go(func() { statuses <- s.post(good).status })
		select {
		case <-waiting:
		case status := <-statuses:
			if status != http.StatusServiceUnavailable {
				t.Fatalf("status %d; want 503", status)
			}
			busy++
		}
	}
	stats := s.h.Stats()
	if busy == 0 || stats.InFlight > 16<<10 || stats.Active == 0 || stats.Requests[Result{503, "busy"}] != 1 {
		t.Errorf("%d refused, %+v", busy, stats)
	}
	close(release)
	under.Wait()
	if used := s.h.budget.used.Load(); used != 0 {
		t.Errorf("%d bytes stay borrowed", used)
	}
}

type logFunc func(context.Context, []Event) error

func (f logFunc) Append(ctx context.Context, events []Event) error { return f(ctx, events) }

func TestEventsStayAsTheyCame(t *testing.T) {
	s := newScene(t, Config{})
	s.post(`{ "user_id" : "u1", "price": 1.50, "n":1e400 ,"x":{"a":[1, 2 ,"}"]},"t":"\ud83d\u00e9","event_id":"e1" }`, "User-Agent: "+`a "b" \`, "X-Request-Id: r1")
	want := `{"user_id" : "u1","price": 1.50,"n":1e400,"x":{"a":[1, 2 ,"}"]},"t":"\ud83d\u00e9","event_id":"e1",` +
		`"collected_at":"2026-03-04T05:06:07.089Z","ip":"192.0.2.1","user_agent":"a \"b\" \\"}`
	e := s.log.events[0]
	if string(e.Value) != want || e.Key != "u1" || e.ID != "e1" {
		t.Errorf("key %q, id %q\ngot  %s\nwant %s", e.Key, e.ID, e.Value, want)
	}
}

func TestVisitorIsWhoTheRequestComesFrom(t *testing.T) {
	for _, c := range []struct {
		name      string
		cfg       Config
		headers   []string
		ip, agent any
	}{
		{"direct", Config{}, []string{"From: 9.9.9.9:1", "X-Forwarded-For: 1.2.3.4"}, "9.9.9.9", nil},
		{"proxy", Config{TrustedProxies: []string{"10.0.0.0/8"}}, []string{"From: 10.1.1.1:1", "X-Forwarded-For: 6.6.6.6, 1.2.3.4", "X-Forwarded-For: 10.2.2.2"}, "1.2.3.4", nil},
		{"proxy with a port", Config{TrustedProxies: []string{"::1"}}, []string{"From: [::1]:1", "X-Forwarded-For: [2001:db8::1%eth0]:99"}, "2001:db8::1", nil},
		{"a proxy that nobody trusts", Config{TrustedProxies: []string{"10.0.0.0/8"}}, []string{"From: 11.1.1.1:1", "X-Forwarded-For: 1.2.3.4"}, "11.1.1.1", nil},
		{"trusted only", Config{TrustedProxies: []string{"10.0.0.0/8"}}, []string{"From: 10.1.1.1:1", "X-Forwarded-For: 10.3.3.3"}, "10.3.3.3", nil},
		{"nonsense", Config{TrustedProxies: []string{"10.0.0.0/8"}}, []string{"From: 10.1.1.1:1", "X-Forwarded-For: 1.2.3.4, unknown"}, "10.1.1.1", nil},
		{"mapped", Config{}, []string{"From: [::ffff:9.9.9.9]:1"}, "9.9.9.9", nil},
		{"masked", Config{Address: "masked"}, []string{"From: 9.9.9.9:1"}, "9.9.9.0", nil},
		{"masked 6", Config{Address: "masked"}, []string{"From: [2001:db8:1:2::3]:1"}, "2001:db8:1::", nil},
		{"none", Config{Address: "none"}, []string{"From: 9.9.9.9:1", "User-Agent: a"}, nil, "a"},
		{"not UTF-8", Config{}, []string{"From: 9.9.9.9:1", "User-Agent: a\xff"}, "9.9.9.9", "a\uFFFD"},
		{"a long agent", Config{}, []string{"From: 9.9.9.9:1", "User-Agent: " + strings.Repeat("a", 5000)}, "9.9.9.9", strings.Repeat("a", 1024)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t, c.cfg)
			s.post(`{"ip":"6.6.6.6","user_id":"u","\u0069p":"7.7.7.7","user_agent":"me"}`, c.headers...)
			if e := s.taken(); e["ip"] != c.ip || e["user_agent"] != c.agent {
				t.Errorf("ip %v, user_agent %v; want %v, %v", e["ip"], e["user_agent"], c.ip, c.agent)
			}
		})
	}
	cfg := Config{WriteKeys: map[string]WriteKey{"shop": {Key: "s", Server: true}}}
	s := newScene(t, cfg)
	s.send(http.MethodPost, "/v1/events?key=s", `{"ip":"6.6.6.6","user_id":"u"}`, "User-Agent: go")
	if e := s.taken(); e["ip"] != "6.6.6.6" || e["user_agent"] != nil {
		t.Errorf("of a server: %v; want its own word", e)
	}
}

func TestClocksAreCorrected(t *testing.T) {
	// The client's clock is an hour slow: it sends at 04:06:07 what happened ten seconds before.
	const event = `"user_id":"u","event_time":"2026-03-04T04:05:57+00:00","client_time":"mine","collected_at":"mine"`
	const corrected = "2026-03-04T05:05:57.089Z"
	for _, c := range []struct {
		name, query, more string
		time, client      any
	}{
		{"said by the request", "?sent_at=2026-03-04T04:06:07Z", "", corrected, "2026-03-04T04:05:57+00:00"},
		{"in milliseconds", "?sent_at=1772597167000", "", corrected, "2026-03-04T04:05:57+00:00"},
		{"said by the event", "?sent_at=2026-03-04T05:06:07Z", `,"sent_at":"2026-03-04T04:06:07Z"`, corrected, "2026-03-04T04:05:57+00:00"},
		{"as a number", "", `,"sent_at":1772597167000`, corrected, "2026-03-04T04:05:57+00:00"},
		{"not said", "", "", "2026-03-04T04:05:57+00:00", nil},
		{"not to be read", "", `,"sent_at":"noon"`, "2026-03-04T04:05:57+00:00", nil},
		{"right", "?sent_at=2026-03-04T05:06:04Z", "", "2026-03-04T04:05:57+00:00", nil},
		{"no clock is that wrong", "?sent_at=-99999999999999", "", "2026-03-04T04:05:57+00:00", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t, Config{})
			a := s.send(http.MethodPost, "/v1/events"+c.query, "{"+event+c.more+"}")
			if a.status != 200 {
				t.Fatalf("status %d %+v", a.status, a.Answer)
			}
			if e := s.taken(); e["event_time"] != c.time || e["client_time"] != c.client || e["collected_at"] != "2026-03-04T05:06:07.089Z" {
				t.Errorf("%v; want event_time %v, client_time %v", e, c.time, c.client)
			}
		})
	}
	s := newScene(t, Config{})
	if a := s.send(http.MethodPost, "/v1/events?sent_at=noon", good); a.status != 400 {
		t.Errorf("sent_at=noon: status %d", a.status)
	}
	s.send(http.MethodPost, "/v1/events?sent_at=2026-03-04T04:06:07Z", `{"user_id":"u","event_time":"9999-12-31T23:59:59Z"}`)
	if e := s.taken(); e["event_time"] != "9999-12-31T23:59:59Z" {
		t.Errorf("corrected beyond all years: %v", e)
	}
	s.send(http.MethodPost, "/v1/events?sent_at=2026-03-04T04:06:07Z", good)
	if e := s.taken(); e["event_time"] != nil {
		t.Errorf("an event without a time has one: %v", e)
	}
}

func TestIdsOfARequestSentAgainAreTheSame(t *testing.T) {
	s := newScene(t, Config{})
	body := `[{"user_id":"u"},{"user_id":"u"},{"user_id":"u","event_id":"mine"},{"event_id":null,"user_id":"u"},{"user_id":"v"}]`
	ids := func(body string, headers ...string) []string {
		t.Helper()
		s.log.events = nil
		if a := s.post(body, headers...); a.status != 200 {
			t.Fatalf("status %d, %+v", a.status, a.Answer)
		}
		var ids []string
		for _, e := range s.log.events {
			var got struct {
				ID string `json:"event_id"`
			}
			if err := json.Unmarshal(e.Value, &got); err != nil || got.ID != e.ID || bytes.Count(e.Value, []byte("event_id")) != 1 {
				t.Errorf("event %s with id %q: %v", e.Value, e.ID, err)
			}
			ids = append(ids, got.ID)
		}
		return ids
	}
	all := map[string]int{}
	count := func(ids []string) {
		for _, id := range ids {
			all[id]++
		}
	}
	first := ids(body, "Idempotency-Key: k1", "X-Request-Id: r1")
	count(first)
	count(ids(body, "Idempotency-Key: k1", "X-Request-Id: r2"))
	if len(all) != 5 || first[2] != "mine" {
		t.Errorf("the same request twice has the ids %v; want five", all)
	}
	count(ids(body, "X-Request-Id: r1"))
	if len(all) != 5+4 {
		t.Errorf("another request id: %d ids; want four new ones", len(all))
	}
	count(ids(body))
	count(ids(body, "X-Request-Id: with space"))
	if len(all) != 5+4+4+4 {
		t.Errorf("without a request id: %d ids; want new ones each time", len(all))
	}
	// A client that gives all its requests one name.
	count(ids(`{"user_id":"w"}`, "Idempotency-Key: k1"))
	if len(all) != 18 {
		t.Errorf("%d ids; want another one for another event", len(all))
	}
}

func TestRequestsHaveAnId(t *testing.T) {
	s := newScene(t, Config{})
	if id := s.post(good, "X-Request-Id: r-1").header.Get("X-Request-Id"); id != "r-1" {
		t.Errorf("id %q; want the client's", id)
	}
	one, other := s.post(good).header.Get("X-Request-Id"), s.send("GET", "/v1/events", "", "X-Request-Id: "+strings.Repeat("r", 200)).header.Get("X-Request-Id")
	if len(one) < 20 || len(other) > 40 || one == other {
		t.Errorf("ids %q, %q; want new ones", one, other)
	}
}

func TestConsentIsHonoured(t *testing.T) {
	const who = `"user_id":"u","anonymous_id":"a","session_id":"s","user_agent":"me"`
	drops, masks, asks := Config{}, Config{Consent: Consent{Denied: "anonymise"}}, Config{Consent: Consent{Missing: "denied"}}
	signals := Config{Consent: Consent{Signals: true}, WriteKeys: map[string]WriteKey{"web": {Key: "w"}, "shop": {Key: "s", Server: true}}}
	for _, c := range []struct {
		name    string
		cfg     Config
		event   string
		headers []string
		status  int
		kept    bool
	}{
		{"not said", drops, "{" + who + "}", nil, 200, true},
		{"null", drops, "{" + who + `,"consent":null}`, nil, 200, true},
		{"yes", drops, "{" + who + `,"consent":true}`, nil, 200, true},
		{"no", drops, "{" + who + `,"consent":false}`, nil, 200, false},
		{"denied", drops, `{"consent":"Denied",` + who + `}`, nil, 200, false},
		{"the last one counts", drops, `{"consent":false,` + who + `,"consent":true}`, nil, 200, true},
		{"another property", Config{Consent: Consent{Property: "ok"}}, "{" + who + `,"consent":false,"ok":1}`, nil, 200, true},
		{"asked and not said", asks, "{" + who + "}", nil, 200, false},
		{"asked and said", asks, "{" + who + `,"consent":"granted"}`, nil, 200, true},
		{"signals are not asked for", drops, "{" + who + "}", []string{"DNT: 1"}, 200, true},
		{"do not track", signals, "{" + who + "}", []string{"DNT: 1", "X-Write-Key: w"}, 200, false},
		{"global privacy control", signals, "{" + who + "}", []string{"Sec-GPC: 1", "X-Write-Key: w"}, 200, false},
		{"a server has no signals", signals, "{" + who + "}", []string{"Sec-GPC: 1", "X-Write-Key: s"}, 200, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t, c.cfg)
			a := s.post(c.event, c.headers...)
			if a.status != c.status || (len(s.log.events) == 1) != c.kept || a.Accepted+a.Dropped != 1 || (a.Dropped == 0) != c.kept {
				t.Errorf("status %d, %+v, %d in the log; want kept %v", a.status, a.Answer, len(s.log.events), c.kept)
			}
		})
	}
	s := newScene(t, masks)
	s.post("{" + who + `,"consent":"no","item_id":"i"}`)
	e := s.taken()
	if s.log.events[0].Key != "" || e["item_id"] != "i" {
		t.Errorf("key %q, event %v", s.log.events[0].Key, e)
	}
	for _, name := range []string{"user_id", "anonymous_id", "session_id", "ip", "user_agent"} {
		if e[name] != nil {
			t.Errorf("the event of a visitor who did not agree has %s", name)
		}
	}
}

func TestNamesOfPropertiesAreTheFiles(t *testing.T) {
	log := &memory{}
	h, err := New(log, Config{}, Options{Names: Names{ID: "uuid", Time: "ts", IP: "address"}, Check: func([]byte) (Facts, error) {
		return Facts{ID: "1", Time: clock.Add(-time.Hour)}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	h.now = func() time.Time { return clock }
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/events?sent_at=2026-03-04T04:06:07.089Z", strings.NewReader(`{"uuid":1,"ts":0,"ip":"kept","address":""}`))
	h.ServeHTTP(httptest.NewRecorder(), r)
	want := `{"uuid":1,"ip":"kept","ts":"2026-03-04T05:06:07.089Z","client_time":0,"collected_at":"2026-03-04T05:06:07.089Z","address":"192.0.2.1"}`
	if len(log.events) != 1 || string(log.events[0].Value) != want {
		t.Errorf("got  %v\nwant %s", log.events, want)
	}
}

func TestEverythingIsCounted(t *testing.T) {
	s := newScene(t, small())
	s.post(`[{"user_id":"u"},{},{"user_id":"u","consent":false}]`)
	s.post(strings.Repeat(" ", 2000))
	s.post(`{"user_id":"` + strings.Repeat("x", 300) + `"}`)
	s.send(http.MethodOptions, "/v1/events", "")
	stats := s.h.Stats()
	want := map[Result]uint64{{207, "events"}: 1, {413, "body"}: 1, {400, "events"}: 1, {204, "preflight"}: 1}
	for r, n := range want {
		if stats.Requests[r] != n {
			t.Errorf("%d requests %v; want %d", stats.Requests[r], r, n)
		}
	}
	if len(stats.Requests) != len(want) || stats.Accepted != 1 || stats.AcceptedBytes != uint64(len(s.log.events[0].Value)) || stats.Active != 0 || stats.Appends != 1 {
		t.Errorf("%+v", stats)
	}
	for reason, n := range stats.Refused {
		if n != 1 {
			t.Errorf("%d events refused as %s; want 1", n, reason)
		}
	}
}

func TestConfigNamesEveryProblem(t *testing.T) {
	cfg := Config{
		CORS:           CORS{Allow: []string{"shop.example", "https://shop.example/", "https://*", "ftp://x", "http://x:1:*", "https://a.*.example", "https://ok.example"}},
		WriteKeys:      map[string]WriteKey{"a b": {Key: "1"}, "b": {}, "c": {Key: "1"}, "d": {Key: "x y"}},
		TrustedProxies: []string{"10.0.0.0/33", "10.0.0.1"},
		Address:        "half",
		Limits: Limits{
			Body: 1, Event: 1, Batch: -1, Headers: 1, InFlight: 1, Connections: -1, Deadline: 1, Receive: 1,
			PerKey: Rate{PerSecond: -1}, PerAddress: Rate{Burst: -1, PerSecond: 1},
		},
		Consent: Consent{Missing: "maybe", Denied: "keep"},
	}
	err := cfg.Validate()
	if err == nil {
		t.Fatal("no problem")
	}
	for _, want := range []string{
		"cors.allow[0] is", "cors.allow[1] is", "cors.allow[2] is", "cors.allow[3] is", "cors.allow[4] is", "cors.allow[5] is",
		"write_keys.a b:", "write_keys.b.key is empty", "write_keys.c.key is that of a b too", "write_keys.d.key has spaces",
		"trusted_proxies[0] is", "address is", "limits.body is", "limits.event is", "limits.batch is", "limits.headers is", "limits.in_flight is",
		"limits.connections is", "limits.deadline is", "limits.receive is", "limits.per_key.per_second is", "limits.per_address.burst is",
		"consent.missing is", "consent.denied is",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no problem says %q", want)
		}
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != 25 { // per_key.burst follows from its rate
		t.Errorf("%d problems\n%v", n, err)
	}
	if err := new(Config).Validate(); err != nil {
		t.Errorf("the zero Config: %v", err)
	}
}

// Whatever is accepted is JSON by itself, and splitting finds in every JSON array what encoding/json finds.
func FuzzSplit(f *testing.F) {
	for _, seed := range []string{`[{"user_id":"u"},7]`, `[{"a":"]\""},[1,[2]],"x",null,true,-1.5e3]`, `[{"a":1}`, `[}`, `["`, `[,]`, " [ ] ", `[{]`, `{"user_id":"u","\u0069p":{}}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		events, err := split([]byte(text), false)
		var want []json.RawMessage
		if json.Unmarshal([]byte(text), &want) == nil && len(want) > 0 && strings.HasPrefix(strings.TrimSpace(text), "[") {
			if err != nil || len(events) != len(want) {
				t.Fatalf("%q: %d events, %v; want %d", text, len(events), err, len(want))
			}
			for i := range want {
				if !bytes.Equal(events[i], bytes.TrimSpace(want[i])) {
					t.Errorf("%q: event %d is %q; want %q", text, i, events[i], want[i])
				}
			}
		}
		log := &memory{}
		h, err := New(log, Config{}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/events", strings.NewReader(text)))
		for _, e := range log.events {
			if !json.Valid(e.Value) {
				t.Errorf("%q became %q, which is not JSON", text, e.Value)
			}
		}
	})
}

func BenchmarkHandler(b *testing.B) {
	event := `{"event_type":"page_view","event_id":"0123456789abcdef","event_time":"2026-03-04T05:06:07Z","user_id":"u1","url":"https://shop.example/` + strings.Repeat("x", 300) + `"}`
	body := "[" + strings.Repeat(event+",", 19) + event + "]"
	h, err := New(logFunc(func(context.Context, []Event) error { return nil }), Config{}, Options{Check: func([]byte) (Facts, error) { return Facts{ID: "1"}, nil }})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/v1/events", strings.NewReader(body)))
	}
}
