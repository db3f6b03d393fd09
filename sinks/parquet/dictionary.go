package parquet

import (
	"encoding/binary"
	"hash/maphash"
)

// dictionary numbers the different values of a text column in the order in which they came.
type dictionary struct {
	data  []byte   // the values in PLAIN encoding: the dictionary page
	ends  []uint32 // of the values in data
	slots []slot   // open addressing; the length is a power of two
	seed  maphash.Seed
}

// slot has all that a look-up needs before it compares: larger dictionaries are not in the processor's cache.
type slot struct {
	tag    uint32 // upper half of the hash
	number uint32 // of the value, from 1; 0 is a free slot
	start  uint32 // of the value in data, behind its length
	size   uint32
}

func newDictionary() *dictionary {
	return &dictionary{slots: make([]slot, 16), seed: maphash.MakeSeed()}
}

func (d *dictionary) len() int { return len(d.ends) }

func (d *dictionary) memory() int { return cap(d.data) + 4*cap(d.ends) + 16*cap(d.slots) + 96 }

// at returns value i.
func (d *dictionary) at(i uint32) []byte {
	start := uint32(0)
	if i > 0 {
		start = d.ends[i-1]
	}
	return d.data[start+4 : d.ends[i]]
}

// appendNumbers appends the number of each of at most chunkRows texts, new ones included.
func (d *dictionary) appendNumbers(dst []uint32, texts []string) []uint32 {
	var first [chunkRows]slot // where each text would be, fetched one after the other so that cache misses overlap
	var tags [chunkRows]uint32
	mask := uint32(len(d.slots) - 1)
	for i, s := range texts {
		tags[i] = uint32(maphash.String(d.seed, s) >> 32)
		first[i] = d.slots[tags[i]&mask]
	}
	for i, s := range texts {
		if x := &first[i]; x.number != 0 && x.tag == tags[i] && x.size == uint32(len(s)) && string(d.data[x.start:x.start+x.size]) == s {
			dst = append(dst, x.number-1)
		} else {
			dst = append(dst, d.number(tags[i], s))
		}
	}
	return dst
}

func (d *dictionary) add(s string) uint32 { return d.number(uint32(maphash.String(d.seed, s)>>32), s) }

// number returns the number of s, which it adds if it is new.
func (d *dictionary) number(tag uint32, s string) uint32 {
	mask := uint32(len(d.slots) - 1)
	i := tag & mask
	for ; d.slots[i].number != 0; i = (i + 1) & mask {
		if x := &d.slots[i]; x.tag == tag && x.size == uint32(len(s)) && string(d.data[x.start:x.start+x.size]) == s {
			return x.number - 1
		}
	}
	d.data = append(binary.LittleEndian.AppendUint32(d.data, uint32(len(s))), s...)
	d.ends = append(d.ends, uint32(len(d.data)))
	d.slots[i] = slot{tag: tag, number: uint32(len(d.ends)), start: uint32(len(d.data) - len(s)), size: uint32(len(s))}
	if 3*len(d.ends) > 2*len(d.slots) {
		d.grow()
	}
	return uint32(len(d.ends) - 1)
}

func (d *dictionary) grow() {
	old := d.slots
	d.slots = make([]slot, 2*len(old))
	mask := uint32(len(d.slots) - 1)
	for _, x := range old {
		if x.number == 0 {
			continue
		}
		i := x.tag & mask
		for d.slots[i].number != 0 {
			i = (i + 1) & mask
		}
		d.slots[i] = x
	}
}

// cutText splits the first value off PLAIN-encoded texts.
func cutText(plain []byte) (value, rest []byte) {
	n := binary.LittleEndian.Uint32(plain)
	return plain[4 : 4+n], plain[4+n:]
}
