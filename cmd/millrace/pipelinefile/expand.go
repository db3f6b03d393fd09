package pipelinefile

import (
	"fmt"
	"regexp"
	"strings"
)

// origin remembers how a value was written before its variables were replaced.
type origin struct {
	text   string // as written
	pieces []piece
	unset  bool // a variable has no value, or what looks like one is none
}

// piece is a run of the new text: copied from the old one, or the value of a variable.
type piece struct {
	from, to int // in the new text; bytes
	old      int // where it begins in the old text
	variable bool
}

// before is the place in the old text that a place in the new one comes from: of a variable, where it begins.
func (o origin) before(offset int) int {
	for _, p := range o.pieces {
		if offset >= p.to {
			continue
		}
		if p.variable {
			return p.old
		}
		return p.old + max(offset-p.from, 0)
	}
	return len(o.text)
}

var variable = regexp.MustCompile(`^\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}`)

// expansionError is a problem at a byte of the text.
type expansionError struct {
	offset int
	text   string
}

// expand replaces ${VAR}, ${VAR:-default} and $$. A dollar sign before anything else is a dollar sign.
func expand(s string, env func(string) (string, bool)) (string, origin, []expansionError) {
	var out strings.Builder
	var problems []expansionError
	o := origin{text: s}
	emit := func(text string, old int, variable bool) {
		from := out.Len()
		out.WriteString(text)
		o.pieces = append(o.pieces, piece{from: from, to: out.Len(), old: old, variable: variable})
	}
	for at := 0; at < len(s); {
		dollar := strings.IndexByte(s[at:], '$')
		if dollar < 0 {
			emit(s[at:], at, false)
			break
		}
		if dollar > 0 {
			emit(s[at:at+dollar], at, false)
			at += dollar
		}
		switch m := variable.FindStringSubmatch(s[at:]); {
		case strings.HasPrefix(s[at:], "$$"):
			emit("$", at, true)
			at += 2
		case m != nil:
			value, ok := env(m[1])
			if value == "" && m[2] != "" {
				value, ok = m[3], true
			}
			if !ok {
				problems = append(problems, expansionError{at, fmt.Sprintf("the environment variable %s is not set; set it, or write ${%s:-default}", m[1], m[1])})
			}
			emit(value, at, true)
			at += len(m[0])
		case strings.HasPrefix(s[at:], "${"):
			problems = append(problems, expansionError{at, "want ${VAR} or ${VAR:-default} after the dollar sign, or $$ for a dollar sign itself"})
			emit("$", at, false)
			at++
		default:
			emit("$", at, false)
			at++
		}
	}
	return out.String(), o, problems
}
