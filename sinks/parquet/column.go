package parquet

import (
	"encoding/binary"
	"math"
	"math/bits"
	"unsafe"

	"github.com/millrace-io/millrace/stream"
)

const (
	pageRows  = 20_000  // a page ends with whichever of the two comes first
	pageBytes = 1 << 20 //

	sampleValues    = 1024    // a text column is plain until so many values tell whether a dictionary pays
	dictionaryBytes = 4 << 20 // a larger dictionary is not continued
)

// mode is how the values of a column are encoded.
type mode uint8

const (
	sampling mode = iota // plain, and maybe indexed after sampleValues
	indexed              // by the dictionary
	asPlain              // to the end of the row group
)

// column buffers one column of one row group: the page that is being filled, and the finished pages.
type column struct {
	leaf *leaf
	mode mode

	// The page that is being filled.
	entries int      // rows; for a list: elements, and lists without any
	defined int      // entries with a value
	mixed   bool     // there are both, with and without: bits says which
	bits    []byte   // one bit for each entry
	levels  []uint8  // of a list: repetition<<2 | definition; empty while all are null
	plain   []byte   // values in PLAIN encoding, but a byte for a bool
	index   []uint32 // of values in the dictionary; none for _partition

	// The row group.
	dict *dictionary
	raw  int64 // bytes of values
	chunk
}

// chunk is what is finished of a column.
type chunk struct {
	pages   []page
	stored  int64 // bytes of pages
	entries int64
	nulls   int64
	indexed int32 // pages of indexes
	stats   bounds
}

// reset starts a row group.
func (c *column) reset(partition string) {
	clear(c.pages) // let go of them
	*c = column{leaf: c.leaf, bits: c.bits[:0], levels: c.levels[:0], plain: c.plain[:0], index: c.index[:0], chunk: chunk{pages: c.pages[:0]}}
	switch {
	case c.leaf.from == fromPartition:
		c.mode, c.dict = indexed, newDictionary()
		c.dict.add(partition)
	case c.leaf.from == fromPosition, c.leaf.physical != text:
		c.mode = asPlain
	}
}

// memory is the heap bytes that c holds beside its own struct.
func (c *column) memory() int64 {
	n := cap(c.bits) + cap(c.levels) + cap(c.plain) + 4*cap(c.index) + cap(c.pages)*int(unsafe.Sizeof(page{})) + c.stats.memory()
	if c.dict != nil {
		n += c.dict.memory()
	}
	return int64(n) + c.stored
}

// chunkRows are taken from one column before the next: the events of a chunk stay in the processor's cache.
const chunkRows = 64

// add appends one row for each of at most chunkRows events. e encodes the pages that get full.
func (c *column) add(e *encoder, events []*stream.Event) {
	if c.leaf.from == fromList {
		for _, ev := range events {
			c.addList(e, &ev.Values[c.leaf.column])
		}
		return
	}
	if room := pageRows - c.entries; room < len(events) {
		c.addRows(e, events[:room])
		c.endPage(e)
		events = events[room:]
	}
	c.addRows(e, events)
	c.endRows(e)
}

// addRows appends rows that fit into the page.
func (c *column) addRows(e *encoder, events []*stream.Event) {
	there := ^uint64(0) // bit i: event i has a value
	switch c.leaf.from {
	case fromPartition: // the only one of its dictionary
	case fromPosition:
		for _, ev := range events {
			at := len(c.plain)
			c.plain = ev.Record.Pos.AppendText(append(c.plain, 0, 0, 0, 0))
			binary.LittleEndian.PutUint32(c.plain[at:], uint32(len(c.plain)-at-4))
			c.raw += int64(len(c.plain) - at)
		}
	case fromIndex:
		for _, ev := range events {
			c.plain = binary.LittleEndian.AppendUint32(c.plain, ev.Index)
		}
		c.raw += int64(4 * len(events))
	case fromProperties:
		texts := e.texts[:0]
		there = 0
		for i, ev := range events {
			if ev.Properties != "" {
				there |= 1 << i
				texts = append(texts, ev.Properties)
			}
		}
		c.addTexts(texts)
	default:
		if c.leaf.physical == text {
			there = c.addTextValues(e, events)
		} else {
			there = c.addNumbers(events)
		}
	}
	c.addBits(there, len(events))
}

func (c *column) addTextValues(e *encoder, events []*stream.Event) (there uint64) {
	texts, column, kind := e.texts[:0], c.leaf.column, c.leaf.kind
	for i, ev := range events {
		if v := &ev.Values[column]; v.Kind() == kind { // else null; any other kind would be a bug of the processor that set it
			there |= 1 << i
			texts = append(texts, v.Text())
		}
	}
	c.addTexts(texts)
	return there
}

// addTexts appends values; their levels follow.
func (c *column) addTexts(texts []string) {
	for _, s := range texts {
		c.raw += int64(4 + len(s))
	}
	if c.mode != indexed {
		for _, s := range texts {
			c.plain = append(binary.LittleEndian.AppendUint32(c.plain, uint32(len(s))), s...)
		}
		return
	}
	c.index = c.dict.appendNumbers(c.index, texts)
}

func (c *column) addNumbers(events []*stream.Event) (there uint64) {
	column, kind, dst := c.leaf.column, c.leaf.kind, c.plain
	before := len(dst)
	for i, ev := range events {
		v := &ev.Values[column]
		if v.Kind() != kind {
			continue
		}
		there |= 1 << i
		switch c.leaf.physical {
		case int64s:
			dst = binary.LittleEndian.AppendUint64(dst, uint64(v.Int()))
		case doubles:
			dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(v.Float()))
		case int32s:
			dst = binary.LittleEndian.AppendUint32(dst, uint32(v.Int()))
		case bools:
			b := byte(0)
			if v.Bool() {
				b = 1
			}
			dst = append(dst, b)
		}
	}
	c.plain = dst
	c.raw += int64(len(dst) - before)
	return there
}

// addBits appends the levels of n entries: bit i of there is set if entry i has a value.
func (c *column) addBits(there uint64, n int) {
	there &= 1<<n - 1 // n of 64 too: a shift by that is 0
	defined := bits.OnesCount64(there)
	if !c.mixed && (defined != 0 || c.defined != 0) && (defined != n || c.defined != c.entries) {
		c.mixed = true
		c.bits = appendBits(c.bits[:0], c.entries, byte(min(c.defined, 1)))
	}
	if c.mixed {
		used := c.entries % 8
		if used > 0 {
			c.bits[len(c.bits)-1] |= byte(there << used)
			there >>= 8 - used
			used = 8 - used
		}
		for ; used < n; used += 8 {
			c.bits = append(c.bits, byte(there))
			there >>= 8
		}
	}
	c.entries += n
	c.defined += defined
}

// appendBits appends n equal bits.
func appendBits(dst []byte, n int, bit byte) []byte {
	all := -bit
	for range n / 8 {
		dst = append(dst, all)
	}
	if n%8 > 0 {
		dst = append(dst, all>>(8-n%8))
	}
	return dst
}

// endRows ends the page, the sampling or the dictionary if that is due.
func (c *column) endRows(e *encoder) {
	switch {
	case c.entries >= pageRows, len(c.plain) >= pageBytes, c.mode == indexed && len(c.dict.data) >= dictionaryBytes:
		c.endPage(e)
	case c.mode == sampling && c.defined >= sampleValues:
		c.decide()
	}
}

// Levels of a list's entries.
const (
	nullList    = 0
	emptyList   = 1
	nullElement = 2
	element     = 3
	repeated    = 1 << 2 // of all elements but the first
)

func (c *column) addList(e *encoder, v *stream.Value) {
	if v.Kind() != stream.List {
		c.level(nullList)
		c.endRows(e)
		return
	}
	e.elements = appendElements(e.elements[:0], v.Text())
	if len(e.elements) == 0 {
		c.level(emptyList)
	}
	for i, x := range e.elements {
		level := uint8(nullElement)
		if !x.null {
			c.addTexts([]string{x.text})
			level = element
		}
		if i > 0 {
			level |= repeated
		}
		c.level(level)
	}
	clear(e.elements) // they share the event's bytes
	c.endRows(e)
}

func (c *column) level(l uint8) {
	if l != nullList && len(c.levels) == 0 {
		c.levels = append(c.levels, make([]uint8, c.entries)...) // all were null so far
	}
	if l != nullList || len(c.levels) > 0 {
		c.levels = append(c.levels, l)
	}
	c.entries++
	if l&^repeated == element {
		c.defined++
	}
}

// decide ends the sampling: a dictionary pays when values repeat. A column of which hardly any value is there twice (ids,
// free text) is not hashed any more.
func (c *column) decide() {
	d, index := newDictionary(), make([]uint32, 0, 2*sampleValues)
	for rest := c.plain; len(rest) > 0; {
		var s []byte
		s, rest = cutText(rest)
		index = append(index, d.add(string(s)))
	}
	if 100*d.len() > 98*len(index) {
		c.mode = asPlain
		return
	}
	c.mode, c.dict, c.index = indexed, d, index
	c.plain = c.plain[:0]
}

// pays says that the dictionary is worth its bytes so far.
func (c *column) pays() bool {
	return c.leaf.from == fromPartition || int64(len(c.dict.data)) < min(c.raw*3/4, dictionaryBytes)
}

// endPage encodes the page. It ends the dictionary if that does not pay: before the first page without a trace.
func (c *column) endPage(e *encoder) {
	if c.mode == indexed && c.indexed == 0 && !c.pays() {
		c.unindex()
	}
	if c.mode == sampling {
		c.mode = asPlain // a dictionary that begins in the middle would be legal, but is unheard of
	}
	e.page = c.appendLevels(e.page[:0])
	encoding := plain
	if c.mode == indexed {
		encoding = plainDictionary
		e.page = c.appendIndex(e.page)
		c.chunk.indexed++
	} else {
		e.page = c.appendPlain(e.page)
		if c.leaf.pruned {
			c.stats.observe(c.leaf.physical, c.plain)
		}
	}
	p := e.finish(dataPage, c.entries, encoding)
	c.pages = append(c.pages, p)
	c.stored += int64(len(p.data))
	c.chunk.entries += int64(c.entries)
	c.nulls += int64(c.entries - c.defined)
	if c.mode == indexed && !c.pays() {
		c.mode = asPlain
	}
	c.entries, c.defined, c.mixed = 0, 0, false
	c.bits, c.levels, c.plain, c.index = c.bits[:0], c.levels[:0], c.plain[:0], c.index[:0]
}

// unindex goes back from indexes to plain values.
func (c *column) unindex() {
	for _, i := range c.index {
		s := c.dict.at(i)
		c.plain = append(binary.LittleEndian.AppendUint32(c.plain, uint32(len(s))), s...)
	}
	c.mode, c.dict, c.index = asPlain, nil, c.index[:0]
}

func (c *column) appendLevels(dst []byte) []byte {
	switch {
	case c.leaf.maxDef == 0:
		return dst
	case c.leaf.from == fromList:
		return c.appendListLevels(dst)
	}
	return appendSized(dst, func(dst []byte) []byte {
		if !c.mixed {
			return appendRun(dst, c.entries, uint32(min(c.defined, 1)), 1)
		}
		return append(binary.AppendUvarint(dst, uint64(len(c.bits))<<1|1), c.bits...)
	})
}

func (c *column) appendListLevels(dst []byte) []byte {
	part := func(width int, of func(uint8) uint8) {
		dst = appendSized(dst, func(dst []byte) []byte {
			if len(c.levels) == 0 {
				return appendRun(dst, c.entries, 0, width)
			}
			levels := make([]uint8, len(c.levels))
			for i, l := range c.levels {
				levels[i] = of(l)
			}
			return appendPacked(dst, levels, width)
		})
	}
	part(1, func(l uint8) uint8 { return l / repeated })
	part(2, func(l uint8) uint8 { return l &^ repeated })
	return dst
}

func (c *column) appendIndex(dst []byte) []byte {
	width := widthOf(c.dict.len())
	dst = append(dst, byte(width))
	if c.leaf.from == fromPartition {
		return appendRun(dst, c.defined, 0, width)
	}
	return appendPacked(dst, c.index, width)
}

func (c *column) appendPlain(dst []byte) []byte {
	if c.leaf.physical != bools {
		return append(dst, c.plain...)
	}
	for i, b := range c.plain {
		if i%8 == 0 {
			dst = append(dst, 0)
		}
		dst[len(dst)-1] |= b << (i % 8)
	}
	return dst
}
