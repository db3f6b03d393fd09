package decode

import (
	_ "embed"
	"hash/maphash"
	"strings"
	"sync/atomic"
)

// crawlers is the list of what crawlers call themselves; its head says where it is from and how it is written.
//
//go:embed crawlers.txt
var crawlers string

// bots judges user agents. All decoders of a pipeline share one; it is safe for concurrent use.
//
// The list is one automaton (Aho and Corasick 1975) over lower-case bytes, so a verdict costs one table look-up for each byte
// of the agent however long the list is. Verdicts are kept in a table of fixed size, without the agents' text.
type bots struct {
	class [256]uint8 // of a byte: equal for bytes that no pattern tells apart
	width int        // how many classes there are, with those of begin and end
	next  []uint32   // by state and class; states are multiplied by width already

	seed     maphash.Seed
	verdicts []atomic.Uint64 // by hash: the hash, and in its lowest bit the verdict
}

// maxVerdicts times 8 bytes is the memory of the verdicts of one pipeline. A second agent with the same place only costs the
// automaton's time. One with the same hash would get the other's verdict: a chance of 1 in 2^63 for each new agent.
const maxVerdicts = 1 << 16

// Symbols around an agent, which patterns can be tied to, are classes of their own.
const (
	other = iota // every byte that is in no pattern
	begin
	end
	firstByte
)

// found is the state of every match; it is left by no byte.
const found = 1

func newBots(list string) *bots {
	b := &bots{seed: maphash.MakeSeed(), verdicts: make([]atomic.Uint64, maxVerdicts)}
	var patterns []string
	for line := range strings.Lines(list) {
		if line = strings.TrimRight(line, "\r\n"); line != "" && line[0] != '#' {
			patterns = append(patterns, strings.ToLower(line))
		}
	}
	b.build(patterns)
	return b
}

// judge says that an agent calls itself a crawler, a library or a tool.
func (b *bots) judge(agent string) bool {
	hash := maphash.String(b.seed, agent)
	place := &b.verdicts[hash>>48]
	if known := place.Load(); known|1 == hash|1 {
		return known&1 != 0
	}
	bot := b.match(agent)
	hash &^= 1
	if bot {
		hash |= 1
	}
	place.Store(hash)
	return bot
}

func (b *bots) match(agent string) bool {
	state := b.next[begin]
	for i := range len(agent) {
		state = b.next[state+uint32(b.class[agent[i]])]
		if state == uint32(found*b.width) {
			return true
		}
	}
	return b.next[state+end] == uint32(found*b.width)
}

// trieNode is a state while the automaton is built. Child 0 is none: the root is nobody's child.
type trieNode struct {
	children []int
	fail     int
	accepts  bool // this is a whole pattern, or ends with one
	excepted bool // this is an exception: it does not count that a pattern is its end
}

func (b *bots) build(patterns []string) {
	b.width = firstByte
	for _, pattern := range patterns {
		for _, c := range []byte(trim(pattern)) {
			if b.class[c] == other {
				b.class[c] = uint8(b.width)
				b.width++
			}
		}
	}
	for c := 'A'; c <= 'Z'; c++ {
		b.class[c] = b.class[c-'A'+'a']
	}
	states := []trieNode{{children: make([]int, b.width)}, {}}
	for _, pattern := range patterns {
		at := 0
		for _, class := range b.symbols(pattern) {
			if states[at].children[class] == 0 {
				states[at].children[class] = len(states)
				states = append(states, trieNode{children: make([]int, b.width)})
			}
			at = states[at].children[class]
		}
		states[at].excepted = pattern[0] == '!'
		states[at].accepts = !states[at].excepted
	}
	b.connect(states)
}

// connect makes the automaton of the trie: breadth first, so that where a state falls back to is complete before it.
func (b *bots) connect(states []trieNode) {
	queue := []int{0}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		s := &states[at]
		for class, child := range s.children {
			back := 0
			if at != 0 {
				back = states[s.fail].children[class]
			}
			if child == 0 {
				s.children[class] = back
				continue
			}
			c := &states[child]
			c.fail = back
			c.accepts = c.accepts || !c.excepted && states[back].accepts
			queue = append(queue, child)
		}
	}
	b.next = make([]uint32, len(states)*b.width)
	for at := range states {
		for class := range b.width {
			next := found
			if at != found {
				if next = states[at].children[class]; states[next].accepts {
					next = found
				}
			}
			b.next[at*b.width+class] = uint32(next * b.width)
		}
	}
}

// trim is a pattern without its marks.
func trim(pattern string) string {
	pattern = strings.TrimPrefix(strings.TrimPrefix(pattern, "!"), "^")
	return strings.TrimSuffix(pattern, "$")
}

// symbols is a pattern in classes.
func (b *bots) symbols(pattern string) []uint8 {
	var classes []uint8
	if strings.HasPrefix(strings.TrimPrefix(pattern, "!"), "^") {
		classes = append(classes, begin)
	}
	for _, c := range []byte(trim(pattern)) {
		classes = append(classes, b.class[c])
	}
	if strings.HasSuffix(pattern, "$") {
		classes = append(classes, end)
	}
	return classes
}
