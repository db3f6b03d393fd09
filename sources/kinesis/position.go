package kinesis

import (
	"encoding/binary"
	"fmt"
	"math/big"

	"github.com/millrace-io/millrace/stream"
)

// place is what a position of ours says: the sequence number (24 bytes, big-endian), which record of the aggregate that has it,
// and how many more there are than one. An ordinary record is the only one of its number.
type place struct {
	sequence [24]byte
	sub      uint32
	more     uint32
}

// parseSequence reads a sequence number: up to 57 decimal digits.
func parseSequence(text string) (s [24]byte, err error) {
	n, ok := new(big.Int).SetString(text, 10)
	if !ok || n.Sign() < 0 || n.BitLen() > 8*len(s) {
		return s, fmt.Errorf("sequence number %q is not one of Kinesis", text)
	}
	n.FillBytes(s[:])
	return s, nil
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
