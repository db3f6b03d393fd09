package expr

import (
	"strings"

	"github.com/millrace-io/millrace/stream"
)

// splitURL is authority (null if there is none), path and query of a URL reference (RFC 3986, appendix B).
func splitURL(s string) (authority string, absolute bool, path, query string) {
	s, _, _ = strings.Cut(s, "#")
	s, query, _ = strings.Cut(s, "?")
	if i := strings.IndexByte(s, ':'); i > 0 && strings.IndexByte(s[:i], '/') < 0 && isScheme(s[:i]) {
		s = s[i+1:]
	}
	rest, absolute := strings.CutPrefix(s, "//")
	if !absolute {
		return "", false, s, query
	}
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		return rest[:i], true, rest[i:], query
	}
	return rest, true, "/", query
}

func isScheme(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isLetter(c) && (i == 0 || !isDigit(c) && c != '+' && c != '-' && c != '.') || c == '_' {
			return false
		}
	}
	return true
}

// host is the host of a URL without user and port, in lower case; null if it has none.
func host(m *machine, s string) (string, bool) {
	authority, _, _, _ := splitURL(s)
	h := authority[strings.LastIndexByte(authority, '@')+1:]
	if end := strings.IndexByte(h, ']'); strings.HasPrefix(h, "[") && end > 0 {
		h = h[1:end]
	} else if i := strings.IndexByte(h, ':'); i >= 0 {
		h = h[:i]
	}
	return lower(m, h), h != ""
}

// urlPath is the path of a URL as it is written.
func urlPath(s string) string {
	_, _, path, _ := splitURL(s)
	return path
}

// param is the first query parameter of a name, decoded; null if there is none.
func param(_ *compiler, _ *node, args []code) code {
	text, name := args[0].text, args[1].text
	return makingText(func(e *stream.Event, m *machine) (string, bool) {
		s, ok := text(e, m)
		key, keyOK := name(e, m)
		if !ok || !keyOK {
			return "", false
		}
		return findParam(m, s, key)
	})
}

func findParam(m *machine, s, key string) (string, bool) {
	_, _, _, query := splitURL(s)
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		name, value, _ := strings.Cut(pair, "=")
		if pair != "" && (name == key || unescape(m, name) == key) {
			return unescape(m, value), true
		}
	}
	return "", false
}

// unescape decodes + and %XX; what is not an escape stays.
func unescape(m *machine, s string) string {
	at := strings.IndexAny(s, "+%")
	if at < 0 {
		return s
	}
	b := append(m.alloc(len(s))[:0], s[:at]...)
	for i := at; i < len(s); i++ {
		switch {
		case s[i] == '+':
			b = append(b, ' ')
		case s[i] == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			b = append(b, fromHex(s[i+1])<<4|fromHex(s[i+2]))
			i += 2
		default:
			b = append(b, s[i])
		}
	}
	return validText(b)
}

func isHex(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }

func fromHex(c byte) byte {
	if isDigit(c) {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}
