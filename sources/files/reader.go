package files

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/millrace-io/millrace/stream"
)

// errChanged says that a file no longer holds what was read of it.
var errChanged = errors.New("the file's content has changed")

// reader reads one open file from a place in its decompressed bytes.
type reader struct {
	file   handle
	cfg    *Config
	format format
	short  int64 // bytes of a file whose format is unknown
	text   *text
	off    int64 // where text is
	digest *digest
	split  *splitter // set by begin
	header []stream.Header
}

// detect finds out the format.
func (r *reader) detect() error {
	var head [4]byte
	n, err := r.file.ReadAt(head[:], 0)
	if err != nil && err != io.EOF {
		return err
	}
	r.format, r.short = detect(head[:n]), int64(n)
	return nil
}

// open is the text from an offset on. Of a file that is too short to tell its format it is no more than what was there then: as
// soon as there is more, it may turn out to be compressed.
func (r *reader) open(off int64) (*text, error) {
	t, err := openText(r.file, r.format, off)
	if err == nil && r.format == unknown {
		t.raw = limited{io.LimitReader(t.raw, r.short-off), t.raw}
	}
	return t, err
}

// limited is the beginning of a file.
type limited struct {
	io.Reader
	io.Closer
}

func (r *reader) compressed() bool { return r.format == gzipped || r.format == zstandard }

func (r *reader) close() {
	if r.text != nil {
		r.text.close()
	}
	r.file.Close()
}

// seek goes to an offset and sums what the next mark depends on. errChanged when the file ends before.
func (r *reader) seek(ctx context.Context, offset int64) error {
	if r.text != nil {
		r.text.close()
		r.text = nil
	}
	from, head := int64(0), sum(0)
	if !r.compressed() && offset > 2*blockSize {
		var err error
		if head, err = r.head(); err != nil {
			return err
		}
		from = tailStart(offset)
	}
	t, err := r.open(from)
	if err != nil {
		return err
	}
	r.text, r.off, r.digest = t, from, newDigest(from, head)
	return r.forward(ctx, offset)
}

// head sums the first block of a plain file.
func (r *reader) head() (sum, error) {
	block := make([]byte, blockSize)
	if _, err := r.file.ReadAt(block, 0); err == io.EOF {
		return 0, errChanged
	} else if err != nil {
		return 0, err
	}
	d := newDigest(0, 0)
	d.write(block)
	return d.head, nil
}

// forward passes over the bytes before offset.
func (r *reader) forward(ctx context.Context, offset int64) error {
	buf := make([]byte, min(chunkSize, offset-r.off))
	for r.off < offset {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.text.Read(buf[:min(int64(len(buf)), offset-r.off)])
		r.digest.write(buf[:n])
		r.off += int64(n)
		if err == io.EOF || errors.Is(err, errTorn) {
			return fmt.Errorf("%w: it has %d bytes; %d were read before", errChanged, r.off, offset)
		}
		if err != nil {
			return fmt.Errorf("at byte %d: %w", r.off, err)
		}
	}
	return nil
}

// verify goes to the mark and checks that the bytes before it are those that were read. errChanged if not.
func (r *reader) verify(ctx context.Context, m mark) error {
	if err := r.seek(ctx, m.End); err != nil {
		return err
	}
	found := r.digest.mark()
	found.Open = m.Open
	if m.End > 0 && found != m {
		return fmt.Errorf("%w before byte %d", errChanged, m.End)
	}
	return nil
}

// ended says that nothing follows a verified mark. errChanged when a last line without a line break has gone on: it was
// delivered, and what it is now was not.
func (r *reader) ended(ctx context.Context, m mark) (bool, error) {
	var next [2]byte
	n, err := io.ReadFull(r.text, next[:])
	switch {
	case n == 0 && err == io.EOF:
		return true, nil
	case n > 0 && m.Open && !lineBreak(next[:n]):
		return false, fmt.Errorf("%w: its last line had no line break when it was read, and has gone on since at byte %d", errChanged, m.End)
	}
	return false, r.seek(ctx, m.End) // whoever reads on meets an error of this read again
}

func lineBreak(next []byte) bool {
	return next[0] == '\n' || next[0] == '\r' && (len(next) == 1 || next[1] == '\n')
}

// begin makes the splitter where the reader is, at the beginning of a record.
func (r *reader) begin() {
	r.split = newSplitter(r.text, r.off, r.digest, r.cfg)
}

// readHeader finds the first line of a file that is read from a later place.
func (r *reader) readHeader() error {
	t, err := r.open(0)
	if err != nil {
		return err
	}
	defer t.close()
	s := newSplitter(t, 0, newDigest(0, 0), r.cfg)
	for {
		if p, ok := s.next(); ok {
			return r.setHeader(p)
		}
		if s.final {
			return fmt.Errorf("%w: it has no header line", errChanged)
		}
		if err := s.fill(chunkSize); err == io.EOF {
			s.final = true
		} else if err != nil {
			return err
		}
	}
}

func (r *reader) setHeader(p piece) error {
	if p.err != nil {
		return fmt.Errorf("the header line: %w", p.err)
	}
	r.header = []stream.Header{{Key: CSVHeader, Value: append([]byte(nil), p.value...)}}
	return nil
}
