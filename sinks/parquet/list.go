package parquet

import (
	"encoding/json"
	"strings"
)

// listElement is one element of a list value.
type listElement struct {
	text string
	null bool
}

// appendElements splits the text of a JSON array. Its elements are strings by contract; should another be among them, it
// stands as its JSON text, and what is no array is the only element of one, so that nothing is lost.
func appendElements(dst []listElement, array string) []listElement {
	from := len(dst)
	rest, ok := strings.CutPrefix(array, "[")
	for first := true; ok; first = false {
		rest = strings.TrimLeft(rest, " \t\r\n")
		if first && rest == "]" {
			return dst
		}
		if !strings.HasPrefix(rest, `"`) {
			break
		}
		end := strings.IndexAny(rest[1:], `"\`)
		if end < 0 || rest[1+end] == '\\' {
			break
		}
		dst = append(dst, listElement{text: rest[1 : 1+end]})
		switch rest = strings.TrimLeft(rest[2+end:], " \t\r\n"); {
		case rest == "]":
			return dst
		case !strings.HasPrefix(rest, ","):
			ok = false
		default:
			rest = rest[1:]
		}
	}
	return appendAnyElements(dst[:from], array)
}

// appendAnyElements is the slow path: escapes, other types, and what is no array.
func appendAnyElements(dst []listElement, array string) []listElement {
	var raw []json.RawMessage
	if json.Unmarshal([]byte(array), &raw) != nil {
		return append(dst, listElement{text: array})
	}
	for _, r := range raw {
		x := listElement{text: string(r), null: string(r) == "null"}
		if r[0] == '"' && json.Unmarshal(r, &x.text) != nil {
			x.text = string(r)
		}
		dst = append(dst, x)
	}
	return dst
}

// appendArray is the reverse of appendElements.
func appendArray(dst []byte, elements []listElement) []byte {
	dst = append(dst, '[')
	for i, x := range elements {
		if i > 0 {
			dst = append(dst, ',')
		}
		if x.null {
			dst = append(dst, "null"...)
		} else {
			dst = appendQuoted(dst, x.text)
		}
	}
	return append(dst, ']')
}

func appendQuoted(dst []byte, s string) []byte {
	const digits = "0123456789abcdef"
	dst = append(dst, '"')
	for i := range len(s) {
		switch b := s[i]; {
		case b == '"' || b == '\\':
			dst = append(dst, '\\', b)
		case b < 0x20:
			dst = append(dst, '\\', 'u', '0', '0', digits[b>>4], digits[b&15])
		default:
			dst = append(dst, b)
		}
	}
	return append(dst, '"')
}
