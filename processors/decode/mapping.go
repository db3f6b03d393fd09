package decode

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/stream"
)

// mapping says which property becomes which columns. All formats share it; it does not change after compile.
type mapping struct {
	columns []stream.Column
	root    *node
	nodes   int // how many there are; they are numbered from 0
	clock   clock
}

// node is a property, or the record itself.
type node struct {
	number   int
	columns  []int  // that this property fills
	children *table // what is in it, by name; nil for a property that is taken as a whole or not at all
	below    []int  // columns that its children fill, at any depth
}

func compile(c *Config, s *stream.Schema) (*mapping, error) {
	for name := range c.Columns {
		if _, ok := s.Lookup(name); !ok {
			return nil, fmt.Errorf("the schema is not this config's: it has no column %q", name)
		}
	}
	m := &mapping{columns: s.Columns}
	if err := m.clock.set(&c.Time, c.Format); err != nil {
		return nil, err
	}
	paths := c.Paths(s)
	m.root = m.newNode()
	children := map[*node]map[string]*node{}
	child := func(parent *node, name string) *node {
		if children[parent] == nil {
			children[parent] = map[string]*node{}
		}
		n := children[parent][name]
		if n == nil {
			n = m.newNode()
			children[parent][name] = n
		}
		return n
	}
	for _, i := range slices.Sorted(maps.Keys(paths)) {
		literal := child(m.root, paths[i])
		literal.columns = append(literal.columns, i)
		if !strings.Contains(paths[i], ".") || c.Format != JSON {
			continue
		}
		n := m.root
		for name := range strings.SplitSeq(paths[i], ".") {
			n = child(n, name)
			n.below = append(n.below, i)
		}
		n.below = n.below[:len(n.below)-1] // it is the column itself
		n.columns = append(n.columns, i)
	}
	for n, named := range children {
		n.children = newTable(named)
	}
	return m, nil
}

func (m *mapping) newNode() *node {
	m.nodes++
	return &node{number: m.nodes - 1}
}

// table finds a node by name: a hash of length, first, middle and last byte, with a multiplier that is chosen so that no
// two names of a usual mapping meet. It is about twice as fast as a Go map of strings: BenchmarkLookup.
type table struct {
	entries    []entry
	slots      []int16 // number of the first entry, -1 for none
	multiplier uint32
	shift      int
}

type entry struct {
	name string
	node *node
	next int16 // the next entry in this slot, -1 for none
}

func newTable(named map[string]*node) *table {
	t := &table{}
	for _, name := range slices.Sorted(maps.Keys(named)) {
		t.entries = append(t.entries, entry{name: name, node: named[name]})
	}
	width := bits.Len(uint(len(t.entries))) + 2 // at most a quarter full
	t.slots = make([]int16, 1<<width)
	t.shift = 32 - width
	best := len(t.entries) + 1
	multiplier := uint32(0x9e3779b1)
	for range 2000 {
		if meet := t.place(multiplier); meet < best {
			best, t.multiplier = meet, multiplier
		}
		if best == 0 {
			break
		}
		multiplier = multiplier*1664525 + 1013904223 | 1
	}
	t.place(t.multiplier)
	return t
}

// place fills the slots and returns how many names meet another one.
func (t *table) place(multiplier uint32) (meet int) {
	t.multiplier = multiplier
	for i := range t.slots {
		t.slots[i] = -1
	}
	for i := range t.entries {
		slot := &t.slots[t.slot(t.entries[i].name)]
		if *slot >= 0 {
			meet++
		}
		t.entries[i].next = *slot
		*slot = int16(i)
	}
	return meet
}

func (t *table) slot(name string) uint32 {
	n := uint32(len(name))
	if n == 0 {
		return 0
	}
	h := n | uint32(name[0])<<8 | uint32(name[n/2])<<16 | uint32(name[n-1])<<24
	return h * t.multiplier >> t.shift
}

// find returns nil for a name that no column comes from.
func (t *table) find(name string) *node {
	for i := t.slots[t.slot(name)]; i >= 0; {
		e := &t.entries[i]
		if e.name == name {
			return e.node
		}
		i = e.next
	}
	return nil
}
