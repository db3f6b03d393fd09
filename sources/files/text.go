package files

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// errTorn says that a compressed file ends in the middle.
var errTorn = errors.New("the compressed data ends in the middle")

// format is how a file is compressed, by its first bytes and not by its name.
type format int

const (
	unknown format = iota // too short to tell; read as plain
	plain
	gzipped
	zstandard
)

// detect looks at the first bytes of a file, at most 4.
func detect(head []byte) format {
	magics := []struct {
		bytes  []byte
		format format
	}{
		{[]byte{0x1f, 0x8b, 0x08}, gzipped},
		{[]byte{0x28, 0xb5, 0x2f, 0xfd}, zstandard},
	}
	for n := range byte(16) { // skippable frames
		magics = append(magics, struct {
			bytes  []byte
			format format
		}{[]byte{0x50 + n, 0x2a, 0x4d, 0x18}, zstandard})
	}
	found := plain
	for _, m := range magics {
		if bytes.HasPrefix(head, m.bytes) {
			return m.format
		}
		if bytes.HasPrefix(m.bytes, head) {
			found = unknown
		}
	}
	return found
}

// maxWindow bounds the memory of one zstd stream, in bytes: zstd --long=27.
const maxWindow = 128 << 20

// text reads a file decompressed, from its beginning or, if it is plain, from anywhere.
type text struct {
	format format
	raw    io.ReadCloser
	buffer *bufio.Reader // of raw, when compressed
	failed error         // of raw; the decompressors do not tell it from damage

	gzip *gzip.Reader
	zstd *zstd.Decoder
	open bool // it has begun, and not come to an end of file since
}

// openText begins at off, which is 0 if f is compressed.
func openText(h handle, f format, off int64) (*text, error) {
	t := &text{format: f, raw: h.sequential(off)}
	switch f {
	case gzipped:
		t.buffer, t.gzip = bufio.NewReaderSize(rawReader{t}, 64<<10), new(gzip.Reader)
	case zstandard:
		t.buffer = bufio.NewReaderSize(rawReader{t}, 64<<10)
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			t.raw.Close()
			return nil, err
		}
		t.zstd = d
	}
	return t, nil
}

// rawReader remembers the error of what it reads.
type rawReader struct{ t *text }

func (r rawReader) Read(p []byte) (int, error) {
	n, err := r.t.raw.Read(p)
	if err != nil && err != io.EOF {
		r.t.failed = err
	}
	return n, err
}

func (t *text) close() {
	if t.zstd != nil {
		t.zstd.Close()
	}
	t.raw.Close()
}

// Read returns io.EOF at the end of the file as it is now; it may be called again when the file has grown. errTorn: the
// compressed data is not complete. Any other error: it is damaged, or cannot be read.
func (t *text) Read(p []byte) (int, error) {
	if t.buffer == nil {
		return t.raw.Read(p)
	}
	for {
		if !t.open {
			if err := t.begin(); err != nil {
				return 0, err
			}
		}
		n, err := t.decompress(p)
		switch {
		case t.failed != nil:
			return n, t.failed
		case err == io.EOF: // more members or frames may come later
			t.open = false
		case errors.Is(err, io.ErrUnexpectedEOF):
			return n, errTorn
		case err != nil:
			return n, fmt.Errorf("damaged %s data: %w", t, err)
		}
		if n > 0 {
			return n, nil
		}
	}
}

func (t *text) decompress(p []byte) (int, error) {
	if t.gzip != nil {
		return t.gzip.Read(p)
	}
	return t.zstd.Read(p)
}

// begin opens the next gzip members or zstd frames; io.EOF when there are none.
func (t *text) begin() error {
	if _, err := t.buffer.Peek(1); err != nil {
		return err
	}
	err := error(nil)
	if t.gzip != nil {
		err = t.gzip.Reset(t.buffer)
	} else {
		err = t.zstd.Reset(t.buffer)
	}
	switch {
	case t.failed != nil:
		return t.failed
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errTorn
	case err != nil:
		return fmt.Errorf("damaged %s data: %w", t, err)
	}
	t.open = true
	return nil
}

func (t *text) String() string {
	return [...]string{"unknown", "plain", "gzip", "zstd"}[t.format]
}
