package collect

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Config is what a collector's file says about requests. The zero value takes events from anywhere but pages of other
// origins.
type Config struct {
	CORS CORS `yaml:"cors"`

	// WriteKeys by name. If there are any, every request needs one of the keys. The name stands in the event as write_key.
	WriteKeys map[string]WriteKey `yaml:"write_keys"`

	Limits Limits `yaml:"limits"`

	// TrustedProxies are the networks whose X-Forwarded-For is believed: 10.0.0.0/8. Default none: the address of an event
	// is that of the connection.
	TrustedProxies []string `yaml:"trusted_proxies"`

	// Address says what an event has of the visitor's address: full (default), masked (IPv4 /24, IPv6 /48) or none.
	Address string `yaml:"address"`

	// Skew is how far the client's clock may be off before event_time is corrected; the way to the collector counts too.
	// Default 5 s.
	Skew time.Duration `yaml:"skew"`

	Consent Consent `yaml:"consent"`
}

// CORS says which pages may send events.
type CORS struct {
	// Allow are origins: https://shop.example, https://*.shop.example (not shop.example itself), http://localhost:* (any port), or
	// "*" for all. A page's request from another origin is refused, also a beacon, which browsers send without asking. Pages
	// of the collector's own origin are always allowed, and so are clients that are no browsers.
	Allow []string `yaml:"allow"`
}

// WriteKey is one key that clients send. It is an address, not a secret, where it stands in a page.
type WriteKey struct {
	Key string `yaml:"key"`

	// Server says that the key is known to servers only: the ip and user_agent in their events are believed, and they
	// have no limit per address. Default false: both are those of the request.
	Server bool `yaml:"server"`
}

// Limits bound what clients can make the collector do.
type Limits struct {
	Body    int64 `yaml:"body" unit:"bytes"`    // of a request, unpacked; default 5 MiB
	Event   int64 `yaml:"event" unit:"bytes"`   // of an event as it came; default 1 MiB, or Body
	Batch   int   `yaml:"batch"`                // events of a request; default 500
	Headers int64 `yaml:"headers" unit:"bytes"` // of a request; default 16 KiB

	// PerKey and PerAddress are rates of events. Default: none, for the right ones depend on the site, and a wrong
	// trusted_proxies would make all visitors one address. Addresses of IPv6 count by their first 64 bits.
	PerKey     Rate `yaml:"per_key"`
	PerAddress Rate `yaml:"per_address"`

	// InFlight is the most bytes of all requests that are not answered yet; what is beyond is answered 503. An event counts
	// twice: as it came and as it goes to the log. Default 32 MiB.
	InFlight int64 `yaml:"in_flight" unit:"bytes"`

	// Connections are taken at once; others wait in the system's queue. Default 4096.
	Connections int `yaml:"connections"`

	// Deadline for the log to take a request's events; then the answer is 503. Default 10 s.
	Deadline time.Duration `yaml:"deadline"`

	// Receive is how long a request may take to arrive. Default 30 s.
	Receive time.Duration `yaml:"receive"`
}

// Rate is a token bucket. A batch is taken whole when there is a token; what it takes beyond is paid back first.
type Rate struct {
	PerSecond int `yaml:"per_second"` // events; 0: no limit
	Burst     int `yaml:"burst"`      // events that may come at once; default 10 seconds' worth
}

// Consent says what becomes of events of visitors who did not agree.
type Consent struct {
	// Property of an event that says it: false, "false", "no", "denied", 0 and "" are a no. Default consent.
	Property string `yaml:"property"`

	// Missing is what an event without the property means: granted (default) or denied.
	Missing string `yaml:"missing"`

	// Denied is what becomes of an event without consent: drop (default), or anonymise, which takes user_id, anonymous_id,
	// session_id, ip and user_agent out of it.
	Denied string `yaml:"denied"`

	// Signals counts the headers Sec-GPC: 1 and DNT: 1 as a no. Default false; tracker.js honours them by itself.
	Signals bool `yaml:"signals"`
}

// The words of Address and Consent.
const (
	full      = "full"
	shortened = "masked"
	none      = "none"
	granted   = "granted"
	denied    = "denied"
	drop      = "drop"
	anonymise = "anonymise"
)

// EnsureDefaults fills in what is not said.
func (c *Config) EnsureDefaults() {
	setDefault(&c.Limits.Body, 5<<20)
	setDefault(&c.Limits.Event, min(1<<20, c.Limits.Body))
	setDefault(&c.Limits.Batch, 500)
	setDefault(&c.Limits.Headers, 16<<10)
	setDefault(&c.Limits.InFlight, 32<<20)
	setDefault(&c.Limits.Connections, 4096)
	setDefault(&c.Limits.Deadline, 10*time.Second)
	setDefault(&c.Limits.Receive, 30*time.Second)
	setDefault(&c.Limits.PerKey.Burst, 10*c.Limits.PerKey.PerSecond)
	setDefault(&c.Limits.PerAddress.Burst, 10*c.Limits.PerAddress.PerSecond)
	setDefault(&c.Address, full)
	setDefault(&c.Skew, 5*time.Second)
	setDefault(&c.Consent.Property, "consent")
	setDefault(&c.Consent.Missing, granted)
	setDefault(&c.Consent.Denied, drop)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate sets the defaults and returns all problems.
func (c *Config) Validate() error {
	c.EnsureDefaults()
	var problems []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	for i, text := range c.CORS.Allow {
		_, err := parseOrigin(text)
		check(err == nil, "cors.allow[%d] is %q; want an origin such as https://shop.example, https://*.shop.example, http://localhost:* or *", i, text)
	}
	owner := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.WriteKeys)) {
		key := c.WriteKeys[name].Key
		check(validName(name), "write_keys.%s: the name has to be of letters, digits, '-' and '_'", name)
		check(key == "" || validID(key), "write_keys.%s.key has spaces, or more than 128 characters", name)
		check(key != "", "write_keys.%s.key is empty; want a text that clients send", name)
		check(key == "" || owner[key] == "", "write_keys.%s.key is that of %s too; want one of its own", name, owner[key])
		owner[key] = name
	}
	for i, text := range c.TrustedProxies {
		_, err := parseNetwork(text)
		check(err == nil, "trusted_proxies[%d] is %q; want a network such as 10.0.0.0/8, or an address", i, text)
	}
	l := &c.Limits
	check(l.Body >= 1<<10 && l.Body <= 64<<20, "limits.body is %d bytes; want 1KiB to 64MiB", l.Body)
	check(l.Event >= 1<<8 && l.Event <= l.Body, "limits.event is %d bytes; want 256B to limits.body (%d)", l.Event, l.Body)
	check(l.Batch >= 1 && l.Batch <= 10_000, "limits.batch is %d; want 1 to 10000", l.Batch)
	check(l.Headers >= 4<<10 && l.Headers <= 1<<20, "limits.headers is %d bytes; want 4KiB to 1MiB", l.Headers)
	check(l.InFlight >= 4*l.Body && l.InFlight <= 16<<30, "limits.in_flight is %d bytes; want 4 times limits.body (%d) to 16GiB", l.InFlight, 4*l.Body)
	check(l.Connections >= 1, "limits.connections is %d; want at least 1", l.Connections)
	check(l.Deadline >= 10*time.Millisecond && l.Deadline <= 5*time.Minute, "limits.deadline is %s; want 10ms to 5m", l.Deadline)
	check(l.Receive >= time.Second && l.Receive <= time.Hour, "limits.receive is %s; want 1s to 1h", l.Receive)
	for name, r := range map[string]Rate{"per_key": l.PerKey, "per_address": l.PerAddress} {
		check(r.PerSecond >= 0, "limits.%s.per_second is %d; want 0 (no limit) or more", name, r.PerSecond)
		check(r.Burst >= 0 && (r.PerSecond == 0 || r.Burst > 0), "limits.%s.burst is %d; want at least 1", name, r.Burst)
	}
	check(slices.Contains([]string{full, shortened, none}, c.Address), "address is %q; want full, masked or none", c.Address)
	check(c.Consent.Missing == granted || c.Consent.Missing == denied, "consent.missing is %q; want granted or denied", c.Consent.Missing)
	check(c.Consent.Denied == drop || c.Consent.Denied == anonymise, "consent.denied is %q; want drop or anonymise", c.Consent.Denied)
	return errors.Join(problems...)
}

func validName(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
}

// shown is what an event has of an address.
func (c *Config) shown(a netip.Addr) netip.Addr {
	switch {
	case c.Address == none || !a.IsValid():
		return netip.Addr{}
	case c.Address == shortened && a.Is4():
		return masked(a, 24)
	case c.Address == shortened:
		return masked(a, 48)
	}
	return a
}

// Anonymises says that events without consent are kept, without their visitor.
func (c *Consent) Anonymises() bool { return c.Denied == anonymise }

// signalled says that the browser sends a no.
func (c *Consent) signalled(h http.Header) bool {
	return c.Signals && (h.Get("Sec-GPC") == "1" || h.Get("DNT") == "1")
}

func parseNetwork(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}

// proxies are TrustedProxies, once Validate has found no fault.
func (c *Config) proxies() (ps []netip.Prefix) {
	for _, text := range c.TrustedProxies {
		p, _ := parseNetwork(text)
		ps = append(ps, p)
	}
	return ps
}

// origins are CORS.Allow, once Validate has found no fault.
func (c *Config) origins() (os []origin) {
	for _, text := range c.CORS.Allow {
		o, _ := parseOrigin(text)
		os = append(os, o)
	}
	return os
}

// origin is one entry of CORS.Allow.
type origin struct {
	any     bool
	scheme  string
	host    string // in lower case; of below, with the dot in front
	below   bool   // any host that ends so
	port    string
	anyPort bool
}

func parseOrigin(s string) (o origin, err error) {
	if s == "*" {
		return origin{any: true}, nil
	}
	text, anyPort := strings.CutSuffix(s, ":*")
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return o, err
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "", text != u.Scheme+"://"+u.Host:
		return o, errors.New("not an origin")
	}
	o = origin{scheme: u.Scheme, host: strings.ToLower(u.Hostname()), port: u.Port(), anyPort: anyPort}
	if rest, ok := strings.CutPrefix(o.host, "*."); ok {
		o.host, o.below = "."+rest, true
	}
	if o.host == "." || strings.Contains(o.host, "*") || anyPort && o.port != "" {
		return o, errors.New("not an origin")
	}
	return o, nil
}

func (o *origin) matches(u *url.URL) bool {
	if o.any {
		return true
	}
	host := strings.ToLower(u.Hostname())
	return u.Scheme == o.scheme && (o.anyPort || u.Port() == o.port) && (host == o.host || o.below && strings.HasSuffix(host, o.host))
}

// allows says that pages of an origin may send events to the host that they name.
func (h *Handler) allows(text, host string) bool {
	u, err := url.Parse(text)
	if err != nil {
		return false
	}
	if u.Host != "" && strings.EqualFold(u.Host, host) {
		return true
	}
	return slices.ContainsFunc(h.origins, func(o origin) bool { return o.matches(u) })
}
