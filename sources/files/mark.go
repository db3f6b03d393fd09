package files

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// blockSize is the unit in which a file's bytes are summed.
const blockSize = 64 << 10

// sum is an xxHash64. It tells one file from another by accident, not by intent.
type sum uint64

func (s sum) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%016x", uint64(s)), nil }

func (s *sum) UnmarshalText(text []byte) error {
	var b [8]byte
	if len(text) != 2*len(b) {
		return errors.New("a sum has 16 digits")
	}
	if _, err := hex.Decode(b[:], text); err != nil {
		return err
	}
	*s = 0
	for _, c := range b {
		*s = *s<<8 | sum(c)
	}
	return nil
}

// mark identifies the decompressed bytes before End by their beginning and by the 64 to 128 KiB before End. A file that
// holds other bytes there is not the file that was read.
type mark struct {
	End      int64 `json:"end"`       // bytes; a record begins there, or the file ends
	HeadSize int64 `json:"head_size"` // bytes: the lesser of End and 64 KiB
	Head     sum   `json:"head"`      // of the first HeadSize bytes
	Prev     sum   `json:"prev"`      // of the 64 KiB block before the last one; 0 for none
	Last     sum   `json:"last"`      // of the last block, up to End

	// Open says that the last record had no line break: the file ended there. More bytes must begin with one.
	Open bool `json:"open,omitempty"`
}

// tailStart is where the bytes begin that the sums before offset depend on, apart from the head.
func tailStart(offset int64) int64 { return max(0, (offset/blockSize-1)*blockSize) }

// digest sums a file's bytes as they are consumed.
type digest struct {
	off   int64
	head  sum // of the first block, once it is complete
	prev  sum
	block *xxhash.Digest
}

// newDigest is at offset off, a multiple of blockSize; head is the sum of the first block, for off > 0. The block before off
// is not part of the next mark: it is right from off+blockSize on.
func newDigest(off int64, head sum) *digest {
	return &digest{off: off, head: head, block: xxhash.New()}
}

func (d *digest) write(p []byte) {
	for len(p) > 0 {
		n := min(len(p), int(blockSize-d.off%blockSize))
		d.block.Write(p[:n])
		d.off += int64(n)
		p = p[n:]
		if d.off%blockSize == 0 {
			d.prev = sum(d.block.Sum64())
			d.block.Reset()
			if d.off == blockSize {
				d.head = d.prev
			}
		}
	}
}

func (d *digest) clone() *digest {
	c, block := *d, *d.block
	c.block = &block
	return &c
}

func (d *digest) mark() mark {
	m := mark{End: d.off, HeadSize: min(d.off, blockSize), Head: d.head, Prev: d.prev, Last: sum(d.block.Sum64())}
	if d.off < blockSize {
		m.Head = m.Last
	}
	return m
}
