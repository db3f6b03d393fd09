package decode

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// replacement is written where text cannot be kept.
const replacement = "\uFFFD"

// quoted goes over the string at pos.
func (p *parser) quoted() (token, error) {
	src := p.src
	v := token{kind: '"', start: p.pos}
	i := plain(src, p.pos+1)
	if i < len(src) && src[i] == '"' {
		p.pos = i + 1
		v.end = i + 1
		return v, nil
	}
	high := false
	for i < len(src) && src[i] != '"' {
		switch c := src[i]; {
		case c == '\\':
			r, size := escape(src[i:])
			if size == 0 {
				p.pos = i + 1
				return v, p.want("an escape of JSON after the backslash")
			}
			v.marks |= escaped
			if r == unfit {
				v.marks |= odd
			}
			i += size
		case c < ' ':
			p.pos = i
			return v, p.want("no control character in a string")
		default:
			high = true
			for i < len(src) && src[i] >= utf8.RuneSelf {
				i++
			}
		}
		i = plain(src, i)
	}
	p.pos = i
	if i == len(src) {
		return v, p.want("the quote that ends a string")
	}
	p.pos++
	v.end = p.pos
	if high && !utf8.Valid(src[v.start:v.end]) {
		v.marks |= odd
	}
	return v, nil
}

// plain is where the first byte from i on is that is not just a character of a JSON string: a quote, a backslash, a control
// character, or part of a character that is not ASCII. It looks at eight bytes at once.
func plain(src []byte, i int) int {
	const (
		ones  = 0x0101010101010101
		highs = 0x80 * ones
	)
	for ; i+8 <= len(src); i += 8 {
		w := binary.LittleEndian.Uint64(src[i:])
		quote, backslash := w^('"'*ones), w^('\\'*ones)
		// The lowest bit that is set is right: a borrow goes upwards only from a byte that was found.
		if found := ((w - ' '*ones) | (quote - ones) | (backslash - ones) | w) & highs; found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
	}
	for i < len(src) && src[i] >= ' ' && src[i] < utf8.RuneSelf && src[i] != '"' && src[i] != '\\' {
		i++
	}
	return i
}

// unfit stands for a character that not every reader takes: half of a surrogate pair, or NUL.
const unfit rune = -1

// escape reads the escape at the beginning of s. Its size is 0 if it is none.
func escape(s []byte) (r rune, size int) {
	if len(s) < 2 {
		return 0, 0
	}
	switch s[1] {
	case '"', '\\', '/':
		return rune(s[1]), 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
	default:
		return 0, 0
	}
	first, ok := unit(s)
	switch {
	case !ok:
		return 0, 0
	case first == 0:
		return unfit, 6
	case first < 0xd800 || first >= 0xe000:
		return first, 6
	}
	second, ok := unit(s[6:])
	if !ok || first >= 0xdc00 || second < 0xdc00 || second >= 0xe000 {
		return unfit, 6
	}
	return (first-0xd800)<<10 | (second - 0xdc00) + 0x10000, 12
}

// unit reads the UTF-16 unit of an escape with four hexadecimal digits.
func unit(s []byte) (u rune, ok bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	for _, c := range s[2:6] {
		d, ok := hexDigit(c)
		if !ok {
			return 0, false
		}
		u = u<<4 | rune(d)
	}
	return u, true
}

func hexDigit(c byte) (d byte, ok bool) {
	switch {
	case isDigit(c):
		return c - '0', true
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}

// unescape appends the text of a JSON string to dst. What is unfit becomes the replacement character.
func unescape(dst, s []byte) []byte {
	for i := 0; i < len(s); {
		next := plain(s, i)
		dst = append(dst, s[i:next]...)
		if i = next; i == len(s) {
			break
		}
		if s[i] != '\\' {
			r, size := utf8.DecodeRune(s[i:])
			dst = utf8.AppendRune(dst, r)
			i += size
			continue
		}
		r, size := escape(s[i:])
		dst = utf8.AppendRune(dst, r) // the replacement character for unfit
		i += size
	}
	return dst
}

// mend appends valid JSON text to dst, with the replacement character for what not every reader takes: bytes that are not
// UTF-8, halves of surrogate pairs, and the character NUL. (Spark and Arrow take only UTF-8, PostgreSQL and Redshift no NUL,
// strict JSON parsers no half pairs.)
func mend(dst, s []byte) []byte {
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case c == '\\':
			r, size := escape(s[i:])
			if r == unfit {
				dst = append(dst, replacement...)
			} else {
				dst = append(dst, s[i:i+size]...)
			}
			i += size
		case c < utf8.RuneSelf:
			dst = append(dst, c)
			i++
		default:
			r, size := utf8.DecodeRune(s[i:])
			dst = utf8.AppendRune(dst, r)
			i += size
		}
	}
	return dst
}

// appendString appends s, which is UTF-8, as a JSON string.
func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	from := 0
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(dst, s[from:]...), '"')
}
