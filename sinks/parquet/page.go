package parquet

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
	"runtime"
	"sync"

	"github.com/apache/arrow/go/v17/parquet/compress"
	"github.com/klauspost/compress/zstd"
)

// The Parquet format, https://github.com/apache/parquet-format: Thrift's compact protocol, encodings and page types.
const (
	dataPage       = 0
	dictionaryPage = 2

	plain           = 0
	plainDictionary = 2
	rle             = 3
)

// encoder turns a page's parts into its bytes in the file. It is used by one goroutine at a time.
type encoder struct {
	compress func(dst, src []byte) []byte // appends to dst
	page     []byte                       // scratch: levels and values
	out      []byte                       // scratch: compressed
	texts    []string                     // scratch: of one chunk of a column
	elements []listElement                // scratch: of one list
}

// encoders are shared by all writers, as many as can do work at once: so the number of partitions does not multiply them.
type encoders struct {
	slots chan struct{} // one token for each encoder in use
	mu    sync.Mutex
	idle  []*encoder // the last used is used next
}

func newEncoders() *encoders { return &encoders{slots: make(chan struct{}, runtime.GOMAXPROCS(0))} }

// encoding calls fn with an encoder, and waits while all are in use.
func (s *Sink) encoding(fn func(*encoder)) {
	s.encoders.slots <- struct{}{}
	defer func() { <-s.encoders.slots }()
	e := s.encoders.take()
	if e == nil {
		e = &encoder{compress: newCompress(s.cfg.Compression, s.cfg.CompressionLevel), texts: make([]string, 0, chunkRows)}
	}
	fn(e)
	clear(e.texts[:cap(e.texts)])             // they share the events' bytes
	if cap(e.page)+cap(e.out) > 4*pageBytes { // after a page with a huge value
		e.page, e.out = nil, nil
	}
	s.encoders.give(e)
}

func (p *encoders) take() *encoder {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 {
		return nil
	}
	e := p.idle[len(p.idle)-1]
	p.idle = p.idle[:len(p.idle)-1]
	return e
}

func (p *encoders) give(e *encoder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, e)
}

// zstdWindow is enough for a page, and the default of 8 MiB costs memory for nothing.
const zstdWindow = 1 << 20

func newCompress(name string, level int) func(dst, src []byte) []byte {
	switch name {
	case "zstd":
		// One encoder for all pages: making one costs more than compressing a page.
		z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(zstdWindow), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))
		if err != nil {
			panic(err) // the options are constants
		}
		return func(dst, src []byte) []byte { return z.EncodeAll(src, dst) }
	case "none":
		return func(dst, src []byte) []byte { return append(dst, src...) }
	}
	codec, err := compress.GetCodec(codecs(name))
	if err != nil {
		panic(err) // Validate knows the names
	}
	if level == 0 {
		level = compress.DefaultCompressionLevel
	}
	return func(dst, src []byte) []byte { return append(dst, codec.EncodeLevel(nil, src, level)...) }
}

// page is one page as it stands in the file, header included.
type page struct {
	data []byte
	raw  int // bytes of header and body before compression
}

// finish compresses e.page, which the caller filled, and puts the header before it.
func (e *encoder) finish(kind, values, encoding int) page {
	e.out = e.compress(e.out[:0], e.page)
	var header [64]byte
	h := appendHeader(header[:0], kind, values, encoding, len(e.page), e.out)
	p := page{data: make([]byte, 0, len(h)+len(e.out)), raw: len(h) + len(e.page)}
	p.data = append(append(p.data, h...), e.out...)
	return p
}

// appendHeader appends a PageHeader.
func appendHeader(dst []byte, kind, values, encoding, raw int, body []byte) []byte {
	const i32, structure, stop = 5, 12, 0
	field := func(delta, typ int) { dst = append(dst, byte(delta<<4|typ)) }
	number := func(delta int, n int32) {
		field(delta, i32)
		dst = binary.AppendVarint(dst, int64(n)) // Thrift's zigzag is that of encoding/binary
	}
	number(1, int32(kind))
	number(1, int32(raw))
	number(1, int32(len(body)))
	number(1, int32(crc32.ChecksumIEEE(body)))
	if kind == dictionaryPage {
		field(3, structure) // 7: dictionary_page_header
		number(1, int32(values))
		number(1, int32(encoding))
	} else {
		field(1, structure) // 5: data_page_header
		number(1, int32(values))
		number(1, int32(encoding))
		number(1, rle) // of definition levels
		number(1, rle) // of repetition levels
	}
	return append(dst, stop, stop)
}

// appendRun appends n times the same value, in the hybrid of run lengths and bit packing.
func appendRun(dst []byte, n int, value uint32, width int) []byte {
	dst = binary.AppendUvarint(dst, uint64(n)<<1)
	for range (width + 7) / 8 {
		dst = append(dst, byte(value))
		value >>= 8
	}
	return dst
}

// appendPacked appends the values as one run: of bits, or of one value that all are.
func appendPacked[T uint8 | uint32](dst []byte, values []T, width int) []byte {
	if len(values) == 0 {
		return dst
	}
	if same(values) {
		return appendRun(dst, len(values), uint32(values[0]), width)
	}
	groups := (len(values) + 7) / 8
	dst = binary.AppendUvarint(dst, uint64(groups)<<1|1)
	end := len(dst) + groups*width
	var acc uint64
	n := 0
	for _, v := range values {
		acc |= uint64(v) << n
		n += width
		if n >= 32 {
			dst = binary.LittleEndian.AppendUint32(dst, uint32(acc))
			acc >>= 32
			n -= 32
		}
	}
	for len(dst) < end {
		dst = append(dst, byte(acc))
		acc >>= 8
	}
	return dst[:end]
}

func same[T comparable](values []T) bool {
	for _, v := range values {
		if v != values[0] {
			return false
		}
	}
	return true
}

// widthOf is the bits that numbers below n need.
func widthOf(n int) int { return max(bits.Len(uint(max(n-1, 0))), 1) }

// appendSized appends what fn appends, with its length before it.
func appendSized(dst []byte, fn func([]byte) []byte) []byte {
	at := len(dst)
	dst = fn(append(dst, 0, 0, 0, 0))
	binary.LittleEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	return dst
}
