package expr

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/millrace-io/millrace/stream"
)

// hash is SHA-256 of the salt, if there is one, and the text behind it, as hexadecimal text.
func hash(_ *compiler, _ *node, args []code) code {
	text := args[0].text
	if len(args) == 1 {
		return makingText(func(e *stream.Event, m *machine) (string, bool) {
			s, ok := text(e, m)
			if !ok {
				return "", false
			}
			return m.hex(sha256.Sum256(viewBytes(s))), true
		})
	}
	salt := args[1].text
	return makingText(func(e *stream.Event, m *machine) (string, bool) {
		s, ok := text(e, m)
		before, saltOK := salt(e, m)
		if !ok || !saltOK {
			return "", false
		}
		return m.hex(sha256.Sum256(m.join(before, s))), true
	})
}

// keyedHash is HMAC-SHA-256 (RFC 2104) as hexadecimal text.
func keyedHash(c *compiler, n *node, args []code) code {
	if !c.literal(n, args[1]) {
		return code{}
	}
	inner, outer := pads(args[1].value.Text())
	text := args[0].text
	return makingText(func(e *stream.Event, m *machine) (string, bool) {
		s, ok := text(e, m)
		if !ok {
			return "", false
		}
		var second [sha256.BlockSize + sha256.Size]byte
		copy(second[:], outer)
		first := sha256.Sum256(m.join(inner, s))
		copy(second[sha256.BlockSize:], first[:])
		return m.hex(sha256.Sum256(second[:])), true
	})
}

// pads are the two blocks that HMAC begins its sums with.
func pads(key string) (inner, outer string) {
	if len(key) > sha256.BlockSize {
		sum := sha256.Sum256([]byte(key))
		key = string(sum[:])
	}
	var i, o [sha256.BlockSize]byte
	copy(i[:], key)
	o = i
	for n := range i {
		i[n] ^= 0x36
		o[n] ^= 0x5c
	}
	return string(i[:]), string(o[:])
}

// join is a and b in one piece, until the next join.
func (m *machine) join(a, b string) []byte {
	m.scratch = append(append(m.scratch[:0], a...), b...)
	return m.scratch
}

func (m *machine) hex(sum [sha256.Size]byte) string {
	b := m.alloc(2 * len(sum))
	hex.Encode(b, sum[:])
	return viewText(b)
}
