package stream

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"time"
)

func appendTimestamp(dst []byte, us int64) []byte {
	t := time.UnixMicro(us).UTC()
	year, month, day := t.Date()
	if year < 0 || year > 9999 {
		return t.AppendFormat(dst, "2006-01-02T15:04:05.000000Z")
	}
	hour, minute, second := t.Clock()
	// Digit by digit: a document has several times, and AppendFormat takes three times as long.
	dst = append(appendDigits(dst, year, 1000), '-')
	dst = append(appendDigits(dst, int(month), 10), '-')
	dst = append(appendDigits(dst, day, 10), 'T')
	dst = append(appendDigits(dst, hour, 10), ':')
	dst = append(appendDigits(dst, minute, 10), ':')
	dst = append(appendDigits(dst, second, 10), '.')
	return append(appendDigits(dst, t.Nanosecond()/1000, 100_000), 'Z')
}

// appendDigits appends n, which is not negative, from its digit of that unit on.
func appendDigits(dst []byte, n, unit int) []byte {
	for ; unit > 0; unit /= 10 {
		dst = append(dst, byte('0'+n/unit%10))
	}
	return dst
}

func appendDecimal(dst []byte, unscaled int64, scale int) []byte {
	if unscaled < 0 {
		dst = append(dst, '-')
	}
	u := uint64(unscaled)
	if unscaled < 0 {
		u = -u
	}
	digits := strconv.AppendUint(nil, u, 10)
	for len(digits) <= scale {
		digits = append([]byte{'0'}, digits...)
	}
	dst = append(dst, digits[:len(digits)-scale]...)
	if scale > 0 {
		dst = append(append(dst, '.'), digits[len(digits)-scale:]...)
	}
	return dst
}

func sortedDigests(ds []Digest) []Digest {
	ds = slices.Clone(ds)
	slices.SortFunc(ds, func(a, b Digest) int { return slices.Compare(a[:], b[:]) })
	return ds
}

// digestOf names a partition where its own name may hold any character.
func digestOf(partition string) string {
	sum := sha256.Sum256([]byte(partition))
	return hex.EncodeToString(sum[:8])
}
