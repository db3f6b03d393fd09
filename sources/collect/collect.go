// Package collect takes events over HTTP and answers only after the log has them.
//
//	POST /v1/events   one JSON event, an array of them, or one a line (application/x-ndjson)
//
// Read collect.go (a request from its first header to the answer), then body.go (bytes within limits), enrich.go (what is
// added to an event), and config.go. The logs are in packages of their own: kafkalog, natslog, kinesislog. The script for web
// pages is in package tracker.
//
// # Answers
//
// The body of every answer is an Answer: how many events were accepted, and by index which were refused and why, so that what
// would become a dead letter is refused while somebody is listening.
//
//	200  all were accepted
//	207  some were; the refused ones are named and would be refused again
//	400  none were, or the body is not what it should be
//	401  no write key, or an unknown one         403  a page of an origin that is not in cors.allow
//	405  not POST or OPTIONS                     408  the body did not arrive in time
//	413  the body is too large                   431  the headers are too large
//	415  a content type, charset or encoding that is not read
//	429  too many events of this key or address  503  the log does not take events, or too many bytes are under way
//
// 429 and 503 have Retry-After in seconds, and mean: send it again later. After a 503 some events may be durable all the same.
// If the log knows which, retry names the others; without retry, send all.
//
// # What is taken
//
// A body without a content type, of application/json (or any +json), text/plain (what navigator.sendBeacon sends without a
// preflight), application/x-www-form-urlencoded (what curl -d says) is JSON; charset utf-8 only. Content-Encoding is identity or
// gzip, whose size is limited after it is unpacked. Bytes that are not UTF-8 go as they came where the decoder mends them, and
// are refused in an id.
//
// # Sending again
//
// An event with an event_id keeps it. One without gets one: a digest of the request's Idempotency-Key (or X-Request-Id), its
// index and its bytes, if the client sent that header, so that a request sent again has the same ids; else a random one. JetStream
// drops an id that it has seen within the stream's duplicate window; behind Kafka and Kinesis it is for the readers.
package collect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"time"
)

// Event is one accepted event on its way to the log.
type Event struct {
	Key   string // decides the partition; empty for any
	ID    string // of the event: its own or the one that the collector gave it; empty: none
	Value []byte // JSON; the log may keep it
}

// Log is where accepted events go.
type Log interface {
	// Append returns when all events are durable. It is called from many goroutines, each with a deadline. The events of a
	// key go in their order. An error that is no Outcomes says that none is known to be durable. The handler bounds the
	// bytes that are under way in calls that have not returned; a log that keeps more after that bounds it itself.
	Append(ctx context.Context, events []Event) error
}

// Facts are what a check found out about an event.
type Facts struct {
	Key  string    // decides the partition
	ID   string    // its event_id; empty: none
	Time time.Time // its event_time, if it has one
}

// Options are what the program around a Handler gives it.
type Options struct {
	// Check says what is wrong with an event, or what is known of it. It is called from many goroutines. Default: any JSON
	// object is good, and nothing is known.
	Check func(event []byte) (Facts, error)

	// Names are the properties in which an event has what the collector reads and writes. Default: the columns' names.
	Names Names

	Log *slog.Logger // nil: none
}

// Handler serves POST /v1/events.
type Handler struct {
	cfg     Config
	opts    Options
	log     Log
	origins []origin
	proxies []netip.Prefix
	keys    map[string]sender // by write key
	perKey  *limiter[string]
	perAddr *limiter[netip.Addr]
	budget  budget
	now     func() time.Time
	stats   recorder
}

// sender is who has a write key.
type sender struct {
	name   string // empty when no keys are wanted
	server bool   // its events' own ip and user agent are believed
}

// New returns a handler that appends to log. It fails when cfg is not valid.
func New(log Log, cfg Config, o Options) (*Handler, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if o.Check == nil {
		o.Check = anyObject
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Names.ensureDefaults()
	h := &Handler{
		cfg: cfg, opts: o, log: log, origins: cfg.origins(), proxies: cfg.proxies(), keys: map[string]sender{},
		perKey:  newLimiter[string](cfg.Limits.PerKey, time.Now),
		perAddr: newLimiter[netip.Addr](cfg.Limits.PerAddress, time.Now),
		budget:  budget{limit: cfg.Limits.InFlight}, now: time.Now, stats: newRecorder(),
	}
	for name, k := range cfg.WriteKeys {
		h.keys[k.Key] = sender{name, k.Server}
	}
	return h, nil
}

func anyObject(event []byte) (Facts, error) {
	if !json.Valid(event) || event[0] != '{' {
		return Facts{}, errors.New("not a JSON object")
	}
	return Facts{}, nil
}

// Answer is the body of every response.
type Answer struct {
	Accepted int       `json:"accepted"`
	Dropped  int       `json:"dropped,omitempty"` // for want of the visitor's consent
	Refused  []Refusal `json:"refused,omitempty"`
	Retry    []int     `json:"retry,omitempty"` // indices that the log did not take; with status 503
	Error    string    `json:"error,omitempty"` // about the whole request
}

// Refusal is one event that was not accepted.
type Refusal struct {
	Index int    `json:"index"` // in the request, from 0
	Error string `json:"error"`
}

// refusal is a request that is not served.
type refusal struct {
	status int
	reason string        // of the metrics
	wait   time.Duration // Retry-After; 0: none
	text   string
}

func (r *refusal) Error() string { return r.text }

func refuse(status int, reason, format string, args ...any) *refusal {
	return &refusal{status: status, reason: reason, text: fmt.Sprintf(format, args...)}
}

// busy asks the client to come again.
func busy(status int, reason string, wait time.Duration, text string) *refusal {
	return &refusal{status, reason, max(wait, time.Second), text}
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.stats.begin()
	defer h.stats.end()
	header := w.Header()
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cache-Control", "no-store")
	header.Add("Vary", "Origin")
	id := requestID(r)
	header.Set("X-Request-Id", id)
	preflight, err := h.admit(header, r)
	if err == nil && preflight {
		h.stats.request(http.StatusNoContent, "preflight")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	var a Answer
	if err == nil {
		a, err = h.serve(r, id)
	}
	h.reply(w, id, a, err)
}

// admit looks at the method, and at the page that asks.
func (h *Handler) admit(header http.Header, r *http.Request) (preflight bool, err error) {
	if origin := r.Header.Get("Origin"); origin != "" {
		if !h.allows(origin, r.Host) {
			return false, refuse(http.StatusForbidden, "origin", "pages of %s may not send events here; see cors.allow", origin)
		}
		header.Set("Access-Control-Allow-Origin", origin)
		header.Set("Access-Control-Expose-Headers", "Retry-After, X-Request-Id")
	}
	switch r.Method {
	case http.MethodPost:
		return false, nil
	case http.MethodOptions:
		header.Set("Allow", "POST, OPTIONS")
		header.Set("Access-Control-Allow-Methods", "POST")
		header.Set("Access-Control-Allow-Headers", "Authorization, Content-Encoding, Content-Type, Idempotency-Key, X-Request-Id, X-Write-Key")
		header.Set("Access-Control-Max-Age", "7200")
		return true, nil
	}
	header.Set("Allow", "POST, OPTIONS")
	return false, refuse(http.StatusMethodNotAllowed, "method", "want POST")
}

// request is what is known of a request beside its events.
type request struct {
	id       string // from the client if repeatable
	repeated bool   // the client named the request, and will name it so again
	sender   sender
	address  netip.Addr
	agent    string
	denied   bool      // the browser signals that the visitor does not want to be tracked
	now      time.Time // when the body was here
	sent     time.Time // when the client sent it, by the client's clock; zero: not said
}

// serve takes the events of one request.
func (h *Handler) serve(r *http.Request, id string) (Answer, error) {
	format, err := formatOf(r.Header)
	if err != nil {
		return Answer{}, err
	}
	from, err := h.sender(r)
	if err != nil {
		return Answer{}, err
	}
	q := request{id: id, repeated: repeatable(r), sender: from, address: client(r, h.proxies), agent: agentOf(r), denied: h.cfg.Consent.signalled(r.Header)}
	if err := h.limit(&q); err != nil {
		return Answer{}, err
	}
	loan := loan{budget: &h.budget}
	defer loan.release()
	body, err := h.read(r, format, &loan)
	if err != nil {
		return Answer{}, err
	}
	defer body.free()
	q.now = h.now()
	if q.sent, err = sentAt(r); err != nil {
		return Answer{}, err
	}
	raw, err := split(body.bytes, format.lines)
	if err == nil && len(raw) > h.cfg.Limits.Batch {
		err = fmt.Errorf("the batch has %d events; at most %d are taken", len(raw), h.cfg.Limits.Batch)
	}
	if err != nil {
		return Answer{}, refuse(http.StatusBadRequest, "body", "%s", err)
	}
	h.charge(&q, len(raw)-1)
	return h.take(r.Context(), &q, raw, &loan)
}

// sender is who has the request's write key: the query's key, for beacons can set no header, X-Write-Key, or the bearer's token.
func (h *Handler) sender(r *http.Request) (sender, error) {
	if len(h.keys) == 0 {
		return sender{}, nil
	}
	key := r.URL.Query().Get("key")
	if key == "" {
		key = r.Header.Get("X-Write-Key")
	}
	if key == "" {
		key = bearer(r.Header.Get("Authorization"))
	}
	s, known := h.keys[key]
	switch {
	case key == "":
		return s, refuse(http.StatusUnauthorized, "key", "want a write key: ?key=..., or the header X-Write-Key")
	case !known:
		return s, refuse(http.StatusUnauthorized, "key", "the write key is not known here")
	}
	return s, nil
}

// limit takes the request's first event from the rates; the others are charged when they have been counted.
func (h *Handler) limit(q *request) error {
	if !q.sender.server {
		if wait := h.perAddr.admit(network(q.address)); wait > 0 {
			return busy(http.StatusTooManyRequests, "rate_address", wait, "too many events of this address; send them again later")
		}
	}
	if wait := h.perKey.admit(q.sender.name); wait > 0 {
		return busy(http.StatusTooManyRequests, "rate_key", wait, "too many events of this write key; send them again later")
	}
	return nil
}

func (h *Handler) charge(q *request, n int) {
	if !q.sender.server {
		h.perAddr.charge(network(q.address), n)
	}
	h.perKey.charge(q.sender.name, n)
}

// take appends what is good of a batch.
func (h *Handler) take(ctx context.Context, q *request, raw [][]byte, loan *loan) (Answer, error) {
	room := len(raw) * (addedBytes + len(q.agent))
	for _, event := range raw {
		room += len(event)
	}
	if !loan.grow(int64(room)) {
		return Answer{}, busy(http.StatusServiceUnavailable, "busy", 0, tooMuch)
	}
	b := batch{h: h, request: q, out: make([]byte, 0, room)}
	for i, event := range raw {
		b.add(i, event)
	}
	a := Answer{Dropped: b.dropped, Refused: b.refused}
	if len(b.events) == 0 {
		return a, nil
	}
	// A page that is closed takes its connection with it, but not its last events.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.cfg.Limits.Deadline)
	defer cancel()
	began := h.now()
	err := h.log.Append(ctx, b.events)
	h.stats.append(h.now().Sub(began), err == nil)
	return h.fates(a, &b, err)
}

// fates tells what became of the events of a batch.
func (h *Handler) fates(a Answer, b *batch, err error) (Answer, error) {
	var outcomes Outcomes
	switch {
	case err == nil:
		outcomes = make(Outcomes, len(b.events))
	case !errors.As(err, &outcomes) || len(outcomes) != len(b.events):
		h.opts.Log.Warn("the log does not take events", "request_id", b.request.id, "events", len(b.events), "error", err)
		return a, busy(http.StatusServiceUnavailable, "log", 0, notTaken)
	}
	bytes := 0
	for i, fate := range outcomes {
		switch {
		case fate == nil:
			a.Accepted++
			bytes += len(b.events[i].Value)
		case errors.Is(fate, ErrTooLarge):
			h.stats.refuse("size", 1)
			a.Refused = append(a.Refused, Refusal{b.index[i], fate.Error()})
		default:
			a.Retry = append(a.Retry, b.index[i])
		}
	}
	h.stats.accept(a.Accepted, bytes)
	if len(a.Retry) > 0 {
		h.opts.Log.Warn("the log took a part of the events", "request_id", b.request.id, "events", len(outcomes), "retry", len(a.Retry), "error", err)
		return a, busy(http.StatusServiceUnavailable, "log", 0, notTaken)
	}
	return a, nil
}

const (
	notTaken = "the log does not take events at present; send them again"
	tooMuch  = "too many events are under way; send them again later"
)

// reply writes the answer.
func (h *Handler) reply(w http.ResponseWriter, id string, a Answer, err error) {
	status, reason := http.StatusOK, "ok"
	var r *refusal
	switch {
	case errors.As(err, &r):
		status, reason, a.Error = r.status, r.reason, r.text
		if r.wait > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int((r.wait+time.Second-1)/time.Second)))
		}
		if status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
	case len(a.Refused) > 0 && a.Accepted+a.Dropped == 0:
		status, reason = http.StatusBadRequest, "events"
	case len(a.Refused) > 0:
		status, reason = http.StatusMultiStatus, "events"
	}
	h.stats.request(status, reason)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(a) // nobody is left to tell
}
