package expr

import (
	"hash/maphash"
	"regexp"
	"strings"
	"sync/atomic"

	"github.com/millrace-io/millrace/stream"
)

// Bounds of one matches: at most 65,536 texts of at most 512 bytes. 20,000 user agents need 5 MB.
const (
	verdictSets = 8 << 10 // a power of two
	verdictWays = 8
	verdictText = 512 // bytes; longer texts are not remembered
)

// verdicts remembers what a regular expression said: in a clickstream the same user agents come again and again, and looking
// one up costs a thousandth of matching it. It is safe for concurrent use; all partitions share it.
//
// A text has the ways of one set. The first time it leaves its tag there and only the second time its verdict, so that texts
// which never come again (addresses with a session in them) cost no memory. Tag and verdict are written one after the other
// and may be of different texts for a moment; a verdict holds its whole text, so no other text ever gets it.
type verdicts struct {
	pattern *regexp.Regexp
	seed    maphash.Seed
	sets    []verdictSet
}

type verdictSet struct {
	tags  [verdictWays]atomic.Uint32 // from the hash of the text; 0 is free
	known [verdictWays]atomic.Pointer[verdict]
}

type verdict struct {
	text    string
	matched bool
}

func newVerdicts(pattern *regexp.Regexp, sets int) *verdicts {
	return &verdicts{pattern: pattern, seed: maphash.MakeSeed(), sets: make([]verdictSet, sets)}
}

func (v *verdicts) match(s string) bool {
	if len(s) > verdictText {
		return v.pattern.MatchString(s)
	}
	hash := maphash.String(v.seed, s)
	set, tag := &v.sets[hash&uint64(len(v.sets)-1)], uint32(hash>>32)|1
	free := int(hash >> 24 & (verdictWays - 1))
	for way := range verdictWays {
		switch set.tags[way].Load() {
		case tag:
			if known := set.known[way].Load(); known != nil && known.text == s {
				return known.matched
			}
			matched := v.pattern.MatchString(s)
			set.known[way].Store(&verdict{strings.Clone(s), matched}) // s belongs to the record
			return matched
		case 0:
			free = way
		}
	}
	set.tags[free].Store(tag)
	set.known[free].Store(nil)
	return v.pattern.MatchString(s)
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
	match := newVerdicts(pattern, verdictSets).match
	if prefix, complete := pattern.LiteralPrefix(); complete {
		match = func(s string) bool { return strings.Contains(s, prefix) }
	}
	text := args[0].text
	return code{typ: of(stream.Bool), test: func(e *stream.Event, m *machine) truth {
		s, ok := text(e, m)
		return truthOf(ok && match(s))
	}}
}
