package kinesis

import (
	"encoding/binary"
	"fmt"
	"math/big"
	"math/bits"
	"strconv"

	"github.com/millrace-io/millrace/stream"
)

// place is what a position of ours says: the sequence number (24 bytes, big-endian), which record of the aggregate that has it,
// and how many more there are than one. An ordinary record is the only one of its number.
type place struct {
	sequence [24]byte
	sub      uint32
	more     uint32
}

// digits is how many decimal digits fit into a word with room to spare, and shift is that power of ten.
const (
	digits = 18
	shift  = 1_000_000_000_000_000_000
)

// parseSequence reads a sequence number: a decimal number below 2^192. It is called for every record.
func parseSequence(text string) (s [24]byte, err error) {
	var n [3]uint64 // the least significant first
	first := min(len(text), (len(text)+digits-1)%digits+1)
	for part, rest := text[:first], text[first:]; ; part, rest = rest[:digits], rest[digits:] {
		value, err := strconv.ParseUint(part, 10, 64)
		if err != nil || !mulAdd(&n, shift, value) {
			return s, fmt.Errorf("sequence number %q is not one of Kinesis", text)
		}
		if rest == "" {
			break
		}
	}
	for i, word := range n {
		binary.BigEndian.PutUint64(s[16-8*i:], word)
	}
	return s, nil
}

// mulAdd makes n*factor+more of n; false when it does not fit.
func mulAdd(n *[3]uint64, factor, more uint64) bool {
	for i := range n {
		high, low := bits.Mul64(n[i], factor)
		sum, carry := bits.Add64(low, more, 0)
		n[i], more = sum, high+carry
	}
	return more == 0
}

// sequenceText writes what parseSequence reads.
func sequenceText(s [24]byte) string { return new(big.Int).SetBytes(s[:]).String() }

func (p place) position() (pos stream.Position) {
	copy(pos[:24], p.sequence[:])
	binary.BigEndian.PutUint32(pos[24:], p.sub)
	binary.BigEndian.PutUint32(pos[28:], p.more)
	return pos
}

func placeOf(pos stream.Position) (p place) {
	copy(p.sequence[:], pos[:24])
	p.sub, p.more = binary.BigEndian.Uint32(pos[24:]), binary.BigEndian.Uint32(pos[28:])
	return p
}

// readFrom is the sequence number of the record that reading after pos begins with: its own, since more records of its aggregate
// may follow, and since the record's presence shows that nothing after it is gone. A position that lies just before a record
// (the engine makes these of the first one) stands for that record.
func readFrom(pos stream.Position) [24]byte {
	p := placeOf(pos)
	if p.sub != ^uint32(0) {
		return p.sequence
	}
	n := new(big.Int).SetBytes(p.sequence[:])
	n.Add(n, big.NewInt(1)).FillBytes(p.sequence[:])
	return p.sequence
}
