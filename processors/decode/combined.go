package decode

import (
	"bytes"
	"fmt"

	"github.com/millrace-io/millrace/stream"
)

// The properties of a line of the combined log format, in the order of combinedNames.
const (
	remoteHost = iota
	ident
	remoteUser
	logTime
	method
	path
	protocol
	request // whole, where it is not a method, a path and a protocol
	status
	size
	referrer
	userAgent
	extra // what stands after the user agent
)

func combinedNames() []string {
	return []string{
		"remote_host", "ident", "remote_user", "time", "method", "path", "protocol", "request", "status", "bytes", "referrer", "user_agent", "extra",
	}
}

// combinedDecoder is the decoder of format combined.
//
//	host ident user [time] "request" status bytes "referrer" "user agent"
//
// The common format ends after the bytes.
// Where the log has - or nothing, a property is null.
type combinedDecoder struct {
	lineDecoder
	line []byte
	pos  int
}

func newCombined(m *mapping, b *bots) *combinedDecoder {
	d := &combinedDecoder{lineDecoder: lineDecoder{parser: newParser(m, b)}}
	d.field = d.fields(combinedNames())
	return d
}

func (d *combinedDecoder) Decode(r *stream.Record, b *stream.Batch) error {
	d.line, d.pos = trimLine(r.Value), 0
	err := d.decode(r, b)
	d.line = nil
	d.releaseLine()
	return err
}

func (d *combinedDecoder) decode(r *stream.Record, b *stream.Batch) error {
	if len(d.line) == 0 {
		return errEmpty
	}
	e := d.beginLine(r, b)
	if err := d.client(); err != nil {
		return err
	}
	if err := d.request(); err != nil {
		return err
	}
	if err := d.answer(); err != nil {
		return err
	}
	if err := d.browser(); err != nil {
		return err
	}
	return d.endLine(e)
}

// client reads: host ident user [time]
func (d *combinedDecoder) client() error {
	for _, f := range []int{remoteHost, ident} {
		n := bytes.IndexByte(d.line[d.pos:], ' ')
		if n <= 0 {
			return d.want("host, ident and user with single spaces between")
		}
		if err := d.set(f, d.line[d.pos:d.pos+n]); err != nil {
			return err
		}
		d.pos += n + 1
	}
	// A user's name may have spaces in it.
	n := bytes.Index(d.line[d.pos:], []byte(" ["))
	if n <= 0 {
		return d.want("a user and a time in brackets")
	}
	if err := d.set(remoteUser, d.line[d.pos:d.pos+n]); err != nil {
		return err
	}
	d.pos += n + 2
	n = bytes.Index(d.line[d.pos:], []byte("] "))
	if n < 0 {
		return d.want("a bracket and a space after the time")
	}
	if err := d.set(logTime, d.line[d.pos:d.pos+n]); err != nil {
		return err
	}
	d.pos += n + 2
	return nil
}

// request reads: "GET /path HTTP/1.1"
func (d *combinedDecoder) request() error {
	text, err := d.quoted()
	if err != nil {
		return err
	}
	m, rest, ok := bytes.Cut(text, []byte(" "))
	if !ok || !isMethod(m) || len(rest) == 0 {
		return d.set(request, text)
	}
	p, proto := rest, []byte(nil)
	// A path may have spaces in it; a request of HTTP/0.9 has no protocol.
	if i := bytes.LastIndexByte(rest, ' '); i > 0 && bytes.HasPrefix(rest[i+1:], []byte("HTTP/")) {
		p, proto = rest[:i], rest[i+1:]
	}
	if err := d.set(method, m); err != nil {
		return err
	}
	if err := d.set(path, p); err != nil {
		return err
	}
	return d.set(protocol, proto)
}

// answer reads: status bytes
func (d *combinedDecoder) answer() error {
	for _, f := range []int{status, size} {
		if d.pos == len(d.line) || d.line[d.pos] != ' ' {
			return d.want("a space")
		}
		d.pos++
		n := bytes.IndexByte(d.line[d.pos:], ' ')
		if n < 0 {
			n = len(d.line) - d.pos
		}
		if err := d.number(f, d.line[d.pos:d.pos+n]); err != nil {
			return err
		}
		d.pos += n
	}
	return nil
}

// number puts digits or - where they belong: in the properties without quotes.
func (d *combinedDecoder) number(f int, text []byte) error {
	if len(text) == 1 && text[0] == '-' {
		return nil
	}
	for _, c := range text {
		if !isDigit(c) {
			return d.want("a number or -")
		}
	}
	if len(text) == 0 || len(text) > 1 && text[0] == '0' {
		return d.want("a number or -")
	}
	if len(d.field[f].columns) > 0 {
		return d.put(&d.field[f], view(text))
	}
	d.property(&d.field[f])
	d.rest = append(d.rest, text...)
	return nil
}

// browser reads, where they are: "referrer" "user agent" extra
func (d *combinedDecoder) browser() error {
	for _, f := range []int{referrer, userAgent} {
		if d.pos == len(d.line) {
			return nil
		}
		if d.line[d.pos] != ' ' {
			return d.want("a space")
		}
		d.pos++
		text, err := d.quoted()
		if err != nil {
			return err
		}
		if err := d.set(f, text); err != nil {
			return err
		}
	}
	return d.set(extra, bytes.TrimSpace(d.line[d.pos:]))
}

// set puts a field where it belongs; - and nothing are null.
func (d *combinedDecoder) set(f int, text []byte) error {
	if len(text) == 0 || len(text) == 1 && text[0] == '-' {
		return nil
	}
	return d.put(&d.field[f], view(text))
}

// quoted is the text of the quotes at pos. The servers escape what could end it.
func (d *combinedDecoder) quoted() ([]byte, error) {
	if d.pos == len(d.line) || d.line[d.pos] != '"' {
		return nil, d.want("a quote")
	}
	d.pos++
	start, escaped := d.pos, false
	for ; d.pos < len(d.line); d.pos++ {
		switch d.line[d.pos] {
		case '"':
			text := d.line[start:d.pos]
			d.pos++
			if !escaped {
				return text, nil
			}
			plain := unescapeLog(d.batch.Alloc(len(text))[:0], text) // never longer than text
			return plain, nil
		case '\\':
			escaped = true
			d.pos++
		}
	}
	d.pos = len(d.line)
	return nil, d.want("the quote that ends the text")
}

func (d *combinedDecoder) want(what string) error {
	if d.pos == len(d.line) {
		return fmt.Errorf("byte %d: the line ends here; want %s", d.pos, what)
	}
	return fmt.Errorf("byte %d: want %s", d.pos, what)
}

// isMethod says that b is a token of RFC 9110 in capitals, as all methods in use are.
func isMethod(b []byte) bool {
	for _, c := range b {
		if (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return false
		}
	}
	return len(b) > 0
}

// unescapeLog appends text without the escapes of Apache (\" \\ \n \t ... \xhh) and Nginx (\xHH). A backslash before anything
// else is one.
func unescapeLog(dst, text []byte) []byte {
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			dst = append(dst, text[i])
			continue
		}
		i++
		switch c := text[i]; c {
		case '"', '\\':
			dst = append(dst, c)
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'v':
			dst = append(dst, '\v')
		case 'x':
			if i+2 < len(text) {
				hi, ok1 := hexDigit(text[i+1])
				lo, ok2 := hexDigit(text[i+2])
				if ok1 && ok2 {
					dst = append(dst, hi<<4|lo)
					i += 2
					continue
				}
			}
			dst = append(dst, '\\', 'x')
		default:
			dst = append(dst, '\\', c)
		}
	}
	return dst
}
