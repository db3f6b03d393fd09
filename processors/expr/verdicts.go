package expr

import (
	"hash/maphash"
	"regexp"
	"strings"
	"sync/atomic"

	"github.com/millrace-io/millrace/stream"
)

// Bounds of one matches: at most 32,768 texts of at most 512 bytes, 18 MB if all are that long. 20,000 user agents fit.
const (
	verdictSlots = 32 << 10 // a power of two
	verdictText  = 512      // bytes; longer texts are not remembered
)

// verdicts remembers what a regular expression said: in a clickstream the same user agents and addresses come again and
// again, and looking one up is far cheaper than matching it. It is safe for concurrent use; all partitions share it.
//
// A text has two slots, side by side. The newer verdict stands in the first one.
type verdicts struct {
	pattern *regexp.Regexp
	seed    maphash.Seed
	slots   []atomic.Pointer[verdict]
}

type verdict struct {
	text    string
	matched bool
}

func newVerdicts(pattern *regexp.Regexp) *verdicts {
	return &verdicts{pattern: pattern, seed: maphash.MakeSeed(), slots: make([]atomic.Pointer[verdict], verdictSlots)}
}

func (v *verdicts) match(s string) bool {
	if len(s) > verdictText {
		return v.pattern.MatchString(s)
	}
	at := maphash.String(v.seed, s) & (verdictSlots - 2)
	first, second := &v.slots[at], &v.slots[at+1]
	known := first.Load()
	if known != nil && known.text == s {
		return known.matched
	}
	if older := second.Load(); older != nil && older.text == s {
		return older.matched
	}
	matched := v.pattern.MatchString(s)
	second.Store(known)
	first.Store(&verdict{strings.Clone(s), matched}) // s belongs to the record
	return matched
}

// matches is a condition on a text; the regular expression (RE2) need not match all of it.
func matches(c *compiler, n *node, args []code) code {
	if !c.literal(n, args[1]) {
		return code{}
	}
	pattern, err := regexp.Compile(args[1].value.Text())
	if err != nil {
		return c.problem(args[1].node.pos, "%v", err)
	}
	match := newVerdicts(pattern).match
	if prefix, complete := pattern.LiteralPrefix(); complete {
		match = func(s string) bool { return strings.Contains(s, prefix) }
	}
	text := args[0].text
	return code{typ: boolType, test: func(e *stream.Event, m *machine) truth {
		s, ok := text(e, m)
		return truthOf(ok && match(s))
	}}
}
