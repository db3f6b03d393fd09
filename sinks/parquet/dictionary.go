package parquet

import (
	"encoding/binary"
	"hash/maphash"
)

// dictionary numbers the different values of a text column in the order in which they came.
type dictionary struct {
	data   []byte   // the values in PLAIN encoding: the dictionary page
	starts []uint32 // of the values in data
	table  []uint64 // open addressing: high half of the hash | number + 1; 0 is free. Its length is a power of two
	seed   maphash.Seed
}

func newDictionary() *dictionary {
	return &dictionary{table: make([]uint64, 16), seed: maphash.MakeSeed()}
}

func (d *dictionary) len() int { return len(d.starts) }

func (d *dictionary) memory() int { return cap(d.data) + 4*cap(d.starts) + 8*cap(d.table) + 96 }

// at returns value i.
func (d *dictionary) at(i uint32) []byte {
	v, _ := cutText(d.data[d.starts[i]:])
	return v
}

// number returns the number of s, which it adds if it is new.
func (d *dictionary) number(s string) uint32 {
	h := maphash.String(d.seed, s)
	mask := uint64(len(d.table) - 1)
	tag := h &^ (1<<32 - 1)
	i := tag >> 32 & mask
	for ; d.table[i] != 0; i = (i + 1) & mask {
		if n := uint32(d.table[i]) - 1; d.table[i]&^(1<<32-1) == tag && string(d.at(n)) == s {
			return n
		}
	}
	n := uint32(len(d.starts))
	d.starts = append(d.starts, uint32(len(d.data)))
	d.data = append(binary.LittleEndian.AppendUint32(d.data, uint32(len(s))), s...)
	d.table[i] = tag | uint64(n+1)
	if 4*len(d.starts) > 3*len(d.table) {
		d.grow()
	}
	return n
}

func (d *dictionary) grow() {
	old := d.table
	d.table = make([]uint64, 2*len(old))
	mask := uint64(len(d.table) - 1)
	for _, entry := range old {
		if entry == 0 {
			continue
		}
		i := entry >> 32 & mask
		for d.table[i] != 0 {
			i = (i + 1) & mask
		}
		d.table[i] = entry
	}
}

// cutText splits the first value off PLAIN-encoded texts.
func cutText(plain []byte) (value, rest []byte) {
	n := binary.LittleEndian.Uint32(plain)
	return plain[4 : 4+n], plain[4+n:]
}
