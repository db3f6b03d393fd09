// Package clicks makes the clickstream of a web shop that does not exist, for benchmarks and fault tests: as many JSON events
// of about 500 bytes as are wanted, the same ones for the same configuration, on every machine.
//
// Every event is a function of its number, so events may be made in any order and by many goroutines, and a test that found
// number 4,711 missing can look at it.
package clicks

import (
	"encoding/hex"
	"strconv"
	"time"
)

// Config says which clickstream. The zero Config is a good one.
type Config struct {
	Seed   uint64        // another seed, another stream; default 0
	Users  int           // how many; default 1,000,000; Zipf-Mandelbrot with exponent 1
	Items  int           // how many; default 50,000; Zipf-Mandelbrot with exponent 1
	Agents int           // user agents, one in seven a bot; default 14; 20,000 is the corpus that defeats small caches
	Start  time.Time     // time of event 0; default 2026-03-02T00:00:00Z
	Step   time.Duration // from one event to the next; default 1 ms
	Broken int           // how many in a million are no JSON; default 0
}

// EnsureDefaults fills in what is zero.
func (c *Config) EnsureDefaults() {
	positive := func(n *int, other int) {
		if *n <= 0 {
			*n = other
		}
	}
	positive(&c.Users, 1_000_000)
	positive(&c.Items, 50_000)
	positive(&c.Agents, 14)
	if c.Start.IsZero() {
		c.Start = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	}
	if c.Step <= 0 {
		c.Step = time.Millisecond
	}
}

// Generator makes events. It is immutable and safe for concurrent use.
type Generator struct {
	cfg    Config
	users  zipf
	items  zipf
	agents []string
}

// New returns the generator of a clickstream.
func New(cfg Config) *Generator {
	cfg.EnsureDefaults()
	return &Generator{
		cfg:    cfg,
		users:  newZipf(1000, cfg.Users), // the first user has 0.014 % of a million users' events
		items:  newZipf(20, cfg.Items),   // the first of 50,000 items has 0.6 %
		agents: Agents(cfg.Agents),
	}
}

// What the numbers drawn for one event are for.
const (
	forType = iota
	forUser
	forItem
	forID
	forDetail
	forBroken
)

// draw is a random number for one purpose in event n.
func (g *Generator) draw(n, purpose uint64) random {
	return random(mix(g.cfg.Seed ^ mix(n<<4|purpose)))
}

// Shares of the event types, in a thousand.
const (
	pageViews   = 550
	impressions = 280
	clicks      = 120
	carts       = 35
	// the rest are purchases: 15
)

// Key is the key of event n, by which it is partitioned: its user id. It is appended to dst.
func (g *Generator) Key(dst []byte, n uint64) []byte {
	return appendUser(dst, g.user(n))
}

func (g *Generator) user(n uint64) uint64 { return g.users.draw(g.draw(n, forUser)) }

func appendUser(dst []byte, user uint64) []byte {
	return strconv.AppendUint(append(dst, 'u'), user, 10)
}

// Broken says whether event n is one that no decoder takes.
func (g *Generator) Broken(n uint64) bool {
	return g.cfg.Broken > 0 && g.draw(n, forBroken).below(1_000_000) < uint64(g.cfg.Broken)
}

// Append appends event n to dst: a JSON object without a line end.
func (g *Generator) Append(dst []byte, n uint64) []byte {
	from := len(dst)
	e := g.event(n)
	dst = e.append(dst)
	if g.Broken(n) {
		dst = spoil(dst, from, g.draw(n, forDetail))
	}
	return dst
}

// spoil makes bytes that are no JSON of those after from: cut off, not begun, of two objects, with a raw control character.
func spoil(dst []byte, from int, r random) []byte {
	size := uint64(len(dst) - from)
	at := from + 1 + int(random(mix(uint64(r))).below(size-1))
	switch r.below(4) {
	case 0:
		return dst[:at]
	case 1:
		return append(dst[:from], dst[at:]...)
	case 2:
		return append(dst, dst[from:]...)
	}
	dst[from+2] = 0 // within the first key
	return dst
}

// event is what one event is made of.
type event struct {
	n              uint64
	id             uint64
	time           time.Time
	user, item     uint64 // ranks, from 1
	items          uint64 // how many there are
	userDetail     random // the same in all events of the user
	itemDetail     random // the same in all events about the item
	detail         random
	session        uint64
	agent, country string
	kind           string
}

func (g *Generator) event(n uint64) event {
	e := event{
		n: n, id: uint64(g.draw(n, forID)), items: uint64(g.cfg.Items),
		time: g.cfg.Start.Add(time.Duration(n) * g.cfg.Step).UTC(),
		user: g.user(n), item: g.items.draw(g.draw(n, forItem)),
		detail: g.draw(n, forDetail), kind: kindOf(g.draw(n, forType).below(1000)),
	}
	e.userDetail = random(mix(g.cfg.Seed ^ mix(^e.user)))
	e.itemDetail = random(mix(^g.cfg.Seed ^ mix(e.item)))
	e.session = mix(uint64(e.userDetail) ^ uint64(e.time.Unix()/1800))
	e.agent = g.agents[e.userDetail.below(uint64(len(g.agents)))]
	e.country = pick(countries(), e.userDetail)
	return e
}

func kindOf(share uint64) string {
	switch {
	case share < pageViews:
		return "page_view"
	case share < pageViews+impressions:
		return "impression"
	case share < pageViews+impressions+clicks:
		return "click"
	case share < pageViews+impressions+clicks+carts:
		return "cart"
	}
	return "purchase"
}

func (e *event) append(b []byte) []byte {
	b = append(b, `{"event_id":"`...)
	b = appendHex(b, e.id, 16)
	b = append(b, `","event_type":"`...)
	b = append(b, e.kind...)
	b = append(b, `","event_time":"`...)
	b = appendTime(b, e.time)
	b = append(b, `","user_id":"`...)
	b = appendUser(b, e.user)
	b = append(b, `","anonymous_id":"`...)
	b = appendHex(b, mix(uint64(e.userDetail)), 10)
	b = append(b, `","session_id":"`...)
	b = appendHex(b, e.session, 10)
	b = append(b, `","url":"https://shop.example.com/`...)
	b = e.appendPage(b)
	b = append(b, `","referrer":"`...)
	b = append(b, pick(referrers(), e.detail)...)
	b = append(b, `","user_agent":"`...)
	b = append(b, e.agent...)
	b = append(b, `","ip":"`...)
	b = appendIP(b, mix(uint64(e.userDetail)+1))
	b = append(b, `","country":"`...)
	b = append(b, e.country...)
	b = e.appendSubject(append(b, '"'))
	b = append(b, `,"page":{"section":"`...)
	b = append(b, pick(sections(), e.itemDetail)...)
	b = append(b, `","position":`...)
	b = strconv.AppendUint(b, e.detail.below(40), 10)
	b = append(b, `,"variant":"`...)
	b = append(b, "ab"[e.userDetail&1])
	return append(b, `"}}`...)
}

// appendPage appends the path of the page that the visitor looks at.
func (e *event) appendPage(b []byte) []byte {
	b = append(b, pick(sections(), e.itemDetail)...)
	if e.kind != "impression" {
		b = appendItem(append(b, '/'), e.item)
	}
	if e.detail.below(8) == 0 {
		b = append(b, `?utm_source=newsletter&utm_campaign=spring`...)
	}
	return b
}

func appendItem(b []byte, item uint64) []byte {
	return strconv.AppendUint(append(b, 'B'), 10_000+item, 10)
}

// appendSubject appends what the event is about: an item with its price, or the items that were shown.
func (e *event) appendSubject(b []byte) []byte {
	if e.kind == "impression" {
		return e.appendShown(b)
	}
	b = append(b, `,"item_id":"`...)
	b = appendItem(b, e.item)
	b = append(b, `","price":`...)
	cents := 99 + 10*e.itemDetail.below(9_900)
	b = strconv.AppendUint(b, cents/100, 10)
	b = append(b, '.', byte('0'+cents/10%10), byte('0'+cents%10))
	b = append(b, `,"currency":"`...)
	b = append(b, currency(e.country)...)
	b = append(b, '"')
	if e.kind == "cart" || e.kind == "purchase" {
		b = append(b, `,"quantity":`...)
		b = append(b, byte('1'+e.detail.below(4)*e.detail.below(3)))
	}
	return b
}

func (e *event) appendShown(b []byte) []byte {
	b = append(b, `,"items":[`...)
	for i := range 4 + e.detail.below(3) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = appendItem(b, 1+(e.item+i*7)%e.items)
		b = append(b, '"')
	}
	b = append(b, `],"recommendation_id":"r`...)
	return append(appendHex(b, mix(e.id), 8), '"')
}

func currency(country string) string {
	switch country {
	case "US":
		return "USD"
	case "GB":
		return "GBP"
	case "PL":
		return "PLN"
	}
	return "EUR"
}

// Lists begin with the commonest and repeat it: picking is uniform.
func countries() []string {
	return []string{"DE", "DE", "DE", "DE", "FR", "FR", "GB", "GB", "US", "US", "AT", "CH", "NL", "PL", "ES", "IT"}
}

func sections() []string {
	return []string{"garden", "kitchen", "toys", "books", "home", "gifts", "christmas", "stationery"}
}

func referrers() []string {
	return []string{
		"", "", "https://shop.example.com/", "https://shop.example.com/search?q=red+mug", "https://www.google.com/",
		"https://www.google.com/", "https://www.bing.com/", "https://m.facebook.com/",
	}
}

// pick is one of a list whose length is a power of two.
func pick(list []string, r random) string { return list[int(r>>8)&(len(list)-1)] }

// appendHex appends the last digits of x.
func appendHex(b []byte, x uint64, digits int) []byte {
	bytes := [8]byte{byte(x >> 56), byte(x >> 48), byte(x >> 40), byte(x >> 32), byte(x >> 24), byte(x >> 16), byte(x >> 8), byte(x)}
	var text [16]byte
	hex.Encode(text[:], bytes[:])
	return append(b, text[16-digits:]...)
}

// appendTime appends 2006-01-02T15:04:05.000Z, for the years up to 9999, three times as fast as the library does.
func appendTime(b []byte, t time.Time) []byte {
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	b = appendTwo(appendTwo(b, year/100), year%100)
	b = appendTwo(append(b, '-'), int(month))
	b = appendTwo(append(b, '-'), day)
	b = appendTwo(append(b, 'T'), hour)
	b = appendTwo(append(b, ':'), minute)
	b = appendTwo(append(b, ':'), second)
	milli := t.Nanosecond() / 1e6
	b = append(b, '.', byte('0'+milli/100))
	return append(appendTwo(b, milli%100), 'Z')
}

func appendTwo(b []byte, n int) []byte { return append(b, byte('0'+n/10), byte('0'+n%10)) }

// appendIP appends an address of 10.0.0.0/8, which is nobody's.
func appendIP(b []byte, x uint64) []byte {
	b = append(b, "10"...)
	for shift := 16; shift >= 0; shift -= 8 {
		b = strconv.AppendUint(append(b, '.'), x>>shift&0xff, 10)
	}
	return b
}
