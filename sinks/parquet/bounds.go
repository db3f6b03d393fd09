package parquet

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math"

	"github.com/apache/arrow/go/v17/parquet/metadata"
)

// longestBound is the longest minimum or maximum that is stored, in bytes. A cut one would be wrong for engines that
// answer min() from it, so a longer one is left out.
const longestBound = 256

// bounds is the least and the greatest value of a column chunk, in PLAIN encoding without length.
type bounds struct {
	seen        bool
	least, most []byte
}

func (b *bounds) memory() int { return cap(b.least) + cap(b.most) }

// observe takes in PLAIN-encoded values; bools have a byte each.
func (b *bounds) observe(p physical, values []byte) {
	if len(values) == 0 {
		return
	}
	switch p {
	case text:
		least, rest := cutText(values)
		most := least
		for len(rest) > 0 {
			var v []byte
			v, rest = cutText(rest)
			if bytes.Compare(v, least) < 0 {
				least = v
			} else if bytes.Compare(v, most) > 0 {
				most = v
			}
		}
		b.merge(least, most, bytes.Compare)
	case int64s:
		observeNumbers(b, values, 8, func(v []byte) int64 { return int64(binary.LittleEndian.Uint64(v)) })
	case int32s:
		observeNumbers(b, values, 4, func(v []byte) int32 { return int32(binary.LittleEndian.Uint32(v)) })
	case doubles:
		observeNumbers(b, values, 8, func(v []byte) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(v)) })
	case bools:
		observeNumbers(b, values, 1, func(v []byte) byte { return v[0] })
	}
}

func observeNumbers[T cmp.Ordered](b *bounds, values []byte, size int, decode func([]byte) T) {
	least, most := 0, 0
	low, high := decode(values), decode(values)
	for i := size; i < len(values); i += size {
		v := decode(values[i:])
		if v < low {
			least, low = i, v
		}
		if v > high {
			most, high = i, v
		}
	}
	b.merge(values[least:least+size], values[most:most+size], func(x, y []byte) int { return cmp.Compare(decode(x), decode(y)) })
}

func (b *bounds) merge(least, most []byte, compare func(x, y []byte) int) {
	if !b.seen || compare(least, b.least) < 0 {
		b.least = append(b.least[:0], least...)
	}
	if !b.seen || compare(most, b.most) > 0 {
		b.most = append(b.most[:0], most...)
	}
	b.seen = true
}

// statistics are the bounds as the footer has them.
func (c *column) statistics() metadata.EncodedStatistics {
	s := metadata.EncodedStatistics{Signed: c.leaf.physical != text, HasNullCount: true, NullCount: c.nulls}
	if !c.stats.seen {
		return s
	}
	if c.leaf.physical == doubles { // the format: zero has two signs, and a reader may look for either
		c.stats.least, c.stats.most = signedZero(c.stats.least, math.Copysign(0, -1)), signedZero(c.stats.most, 0)
	}
	s.Min, s.HasMin = bytes.Clone(c.stats.least), len(c.stats.least) <= longestBound
	s.Max, s.HasMax = bytes.Clone(c.stats.most), len(c.stats.most) <= longestBound
	return s
}

func signedZero(v []byte, zero float64) []byte {
	if math.Float64frombits(binary.LittleEndian.Uint64(v)) != 0 {
		return v
	}
	return binary.LittleEndian.AppendUint64(nil, math.Float64bits(zero))
}
