package collect

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Names are properties of an event, at its top.
type Names struct {
	ID, Time, User, Anonymous, Session, IP, UserAgent string
}

func (n *Names) ensureDefaults() {
	setDefault(&n.ID, "event_id")
	setDefault(&n.Time, "event_time")
	setDefault(&n.User, "user_id")
	setDefault(&n.Anonymous, "anonymous_id")
	setDefault(&n.Session, "session_id")
	setDefault(&n.IP, "ip")
	setDefault(&n.UserAgent, "user_agent")
}

// Properties that the collector writes beside those of Names; what a client says in them is dropped.
const (
	collectedAt = "collected_at" // when the request was here, by the collector's clock
	clientTime  = "client_time"  // the event's time as it came, where it was corrected
	writeKey    = "write_key"    // the name of the key, where keys are wanted
)

// sentProperty is when the client sent the event, by the client's clock. The query's sent_at says it for the whole request.
const sentProperty = "sent_at"

// timeLayout is how the collector writes times.
const timeLayout = "2006-01-02T15:04:05.000Z"

// mostSkew is what a clock that begins at 1970 has, and more.
const mostSkew = 100 * 365 * 24 * time.Hour

// maxAgent is the most bytes of a User-Agent header that are put into every event of a request.
const maxAgent = 1024

// batch is the events of one request on their way through the checks.
type batch struct {
	h       *Handler
	request *request

	events  []Event
	index   []int // of each event in the request
	refused []Refusal
	dropped int

	out     []byte // the values, one after another; room for all of them
	members []member
}

// addedBytes is what an event gets at most, beside the user agent.
const addedBytes = 512

var errNoConsent = errors.New("no consent")

// add checks event i of the request and keeps it if it is good.
func (b *batch) add(i int, raw []byte) {
	stats := &b.h.stats
	if most := b.h.cfg.Limits.Event; int64(len(raw)) > most {
		stats.refuse("size", 1)
		b.refused = append(b.refused, Refusal{i, fmt.Sprintf("the event has %d bytes; at most %d are taken", len(raw), most)})
		return
	}
	facts, err := b.h.opts.Check(raw)
	if err != nil {
		stats.refuse("invalid", 1)
		b.refused = append(b.refused, Refusal{i, err.Error()})
		return
	}
	event, err := b.event(i, raw, facts)
	if errors.Is(err, errNoConsent) {
		stats.refuse("consent", 1)
		b.dropped++
		return
	}
	b.events, b.index = append(b.events, event), append(b.index, i)
}

// event makes what goes to the log: the members of the event as they came, without those that only the collector may
// write, and then those.
func (b *batch) event(i int, raw []byte, facts Facts) (Event, error) {
	s := b.scan(raw)
	consent := b.consent(s, raw)
	if consent == drop {
		return Event{}, errNoConsent
	}
	anonymous := consent == anonymise
	e := Event{Key: facts.Key, ID: facts.ID}
	if anonymous {
		e.Key = ""
	}
	if s.id == nil {
		e.ID = b.newID(i, raw)
	}
	corrected, isCorrected := b.correct(s, raw, facts)

	from := len(b.out)
	b.out = append(b.out, '{')
	for j := range b.members {
		if m := &b.members[j]; !b.cuts(m, s, anonymous, isCorrected) {
			b.separate(from)
			b.out = append(b.out, raw[m.from:m.to]...)
		}
	}
	if s.id == nil {
		b.name(from, b.h.opts.Names.ID)
		b.out = append(append(append(b.out, '"'), e.ID...), '"')
	}
	if isCorrected {
		b.time(from, b.h.opts.Names.Time, corrected)
		b.name(from, clientTime)
		b.out = append(b.out, raw[s.time.value:s.time.to]...)
	}
	b.time(from, collectedAt, b.request.now)
	b.visitor(from, anonymous)
	if b.request.sender.name != "" {
		b.name(from, writeKey)
		b.out = strconv.AppendQuote(b.out, b.request.sender.name) // letters, digits and hyphens
	}
	b.out = append(b.out, '}')
	e.Value = b.out[from:len(b.out):len(b.out)]
	return e, nil
}

// visitor adds where the event comes from, unless a server sent it: then the event itself says so, or nobody knows.
func (b *batch) visitor(from int, anonymous bool) {
	if anonymous || b.request.sender.server {
		return
	}
	if address := b.h.cfg.shown(b.request.address); address.IsValid() {
		b.name(from, b.h.opts.Names.IP)
		b.out = append(address.AppendTo(append(b.out, '"')), '"')
	}
	if b.request.agent != "" {
		b.name(from, b.h.opts.Names.UserAgent)
		b.out = append(b.out, b.request.agent...)
	}
}

// cuts says that a member does not stay.
func (b *batch) cuts(m *member, s scanned, anonymous, corrected bool) bool {
	names := &b.h.opts.Names
	switch string(m.name) {
	case collectedAt, clientTime, writeKey:
		return true
	case names.ID:
		return s.id == nil
	case names.Time:
		return corrected
	case names.IP, names.UserAgent:
		return anonymous || !b.request.sender.server
	case names.User, names.Anonymous, names.Session:
		return anonymous
	}
	return false
}

func (b *batch) separate(from int) {
	if len(b.out) > from+1 {
		b.out = append(b.out, ',')
	}
}

// name begins a member. Names need no escapes: see Config.Validate and the program's own check of Names.
func (b *batch) name(from int, name string) {
	b.separate(from)
	b.out = append(append(append(b.out, '"'), name...), '"', ':')
}

func (b *batch) time(from int, name string, t time.Time) {
	b.name(from, name)
	b.out = append(t.UTC().AppendFormat(append(b.out, '"'), timeLayout), '"')
}

// member is one name and its value in an object, by the places of its bytes.
type member struct {
	name            []byte // without quotes and escapes
	from, value, to int
}

// scanned are the members that the collector looks at: of each name the last one, which is the one that counts. nil: it is
// not there, or null.
type scanned struct {
	id, time, sent, consent *member
}

// scan finds the members of an object that is known to be JSON.
func (b *batch) scan(raw []byte) (s scanned) {
	b.members = b.members[:0]
	for i := skipSpace(raw, 1); i < len(raw) && raw[i] == '"'; {
		m := member{from: i}
		end := skipString(raw, i)
		m.name = plainName(raw[i:end])
		m.value = skipSpace(raw, skipSpace(raw, end)+1)
		m.to = skipValue(raw, m.value)
		b.members = append(b.members, m)
		if i = skipSpace(raw, m.to); i < len(raw) && raw[i] == ',' {
			i = skipSpace(raw, i+1)
		}
	}
	for j := range b.members {
		m := &b.members[j]
		last := m
		if string(raw[m.value:m.to]) == "null" {
			last = nil
		}
		switch string(m.name) {
		case b.h.opts.Names.ID:
			s.id = last
		case b.h.opts.Names.Time:
			s.time = last
		case sentProperty:
			s.sent = last
		case b.h.cfg.Consent.Property:
			s.consent = last
		}
	}
	return s
}

func plainName(quoted []byte) []byte {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1]
	}
	var name string
	_ = json.Unmarshal(quoted, &name) // the check has read it
	return []byte(name)
}

// consent says what becomes of an event.
func (b *batch) consent(s scanned, raw []byte) string {
	c := &b.h.cfg.Consent
	no := c.Missing == denied
	if s.consent != nil {
		no = denies(raw[s.consent.value:s.consent.to])
	}
	if no || b.request.denied && !b.request.sender.server {
		return c.Denied
	}
	return ""
}

func denies(value []byte) bool {
	switch strings.ToLower(strings.Trim(string(value), `"`)) {
	case "false", "0", "no", "denied", "":
		return true
	}
	return false
}

// correct is the event's time by the collector's clock, where the client's clock is known to be wrong: the event happened as
// long before it was sent as the client says, whatever its clock shows.
func (b *batch) correct(s scanned, raw []byte, facts Facts) (t time.Time, corrected bool) {
	sent := b.request.sent
	if s.sent != nil {
		if own, err := parseTime(strings.Trim(string(raw[s.sent.value:s.sent.to]), `"`)); err == nil {
			sent = own
		}
	}
	if sent.IsZero() || s.time == nil || facts.Time.IsZero() {
		return t, false
	}
	skew := b.request.now.Sub(sent)
	if skew.Abs() <= b.h.cfg.Skew || skew.Abs() > mostSkew { // the way here took a part of it; no clock is that wrong
		return t, false
	}
	t = facts.Time.Add(skew)
	return t, t.Year() >= 1 && t.Year() <= 9999
}

// parseTime reads RFC 3339, or milliseconds since 1970.
func parseTime(s string) (time.Time, error) {
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.UnixMilli(ms), nil
	}
	return time.Parse(time.RFC3339, s)
}

// sentAt is the query's sent_at.
func sentAt(r *http.Request) (time.Time, error) {
	text := r.URL.Query().Get(sentProperty)
	if text == "" {
		return time.Time{}, nil
	}
	t, err := parseTime(text)
	if err != nil {
		return t, refuse(http.StatusBadRequest, "body", "sent_at is %q; want milliseconds since 1970, or a time such as 2026-01-02T03:04:05Z", text)
	}
	return t, nil
}

var idText = base32.StdEncoding.WithPadding(base32.NoPadding)

// newID is an id for event i, which has none. The bytes are part of it, so that a client that gives all its requests one
// name does not make one event of many.
func (b *batch) newID(i int, raw []byte) string {
	if !b.request.repeated {
		return rand.Text()
	}
	h := sha256.New()
	h.Write(binary.AppendUvarint([]byte(b.request.sender.name+"\x00"+b.request.id+"\x00"), uint64(i)))
	h.Write(raw)
	return idText.EncodeToString(h.Sum(nil)[:16])
}

// requestID is the client's name for the request, or a new one.
func requestID(r *http.Request) string {
	for _, id := range []string{r.Header.Get("Idempotency-Key"), r.Header.Get("X-Request-Id")} {
		if validID(id) {
			return id
		}
	}
	return rand.Text()
}

func repeatable(r *http.Request) bool {
	return validID(r.Header.Get("Idempotency-Key")) || validID(r.Header.Get("X-Request-Id"))
}

// validID says that a name may stand in answers and logs.
func validID(id string) bool {
	return id != "" && len(id) <= 128 && !strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' })
}

// agentOf is the request's user agent as JSON; empty for none.
func agentOf(r *http.Request) string {
	agent := r.UserAgent()
	if agent == "" {
		return ""
	}
	text, _ := json.Marshal(strings.ToValidUTF8(agent[:min(len(agent), maxAgent)], "\uFFFD"))
	return string(text)
}

func bearer(authorization string) string {
	scheme, token, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// client is the address that a request came from. Behind trusted proxies it is the last one in X-Forwarded-For that is not
// a trusted proxy itself: what stands before that, anybody can have written.
func client(r *http.Request, trusted []netip.Prefix) netip.Addr {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	address := at.Addr().Unmap().WithZone("")
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && trusts(trusted, address); i-- {
		hop, ok := parseHop(strings.TrimSpace(hops[i]))
		if !ok {
			break
		}
		address = hop
	}
	return address
}

// parseHop reads an address, with or without a port.
func parseHop(s string) (netip.Addr, bool) {
	if at, err := netip.ParseAddrPort(s); err == nil {
		return at.Addr().Unmap().WithZone(""), true
	}
	a, err := netip.ParseAddr(strings.Trim(s, "[]"))
	return a.Unmap().WithZone(""), err == nil
}

func trusts(trusted []netip.Prefix, a netip.Addr) bool {
	for _, p := range trusted {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
