package files

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Sizes in bytes.
const (
	chunkSize = 256 << 10 // read at once; the records of a chunk share it
	leastRoom = 1 << 10   // a chunk with less room is left to its records
	leastSize = 8 << 10   // of a chunk
	keptOfBig = 64 << 10  // of a record that is longer than allowed
)

// splitter cuts a decompressed file into records. A record's position and content follow from the file's bytes alone,
// however they arrive.
type splitter struct {
	src       io.Reader
	max       int // longest record
	quotes    bool
	delimiter byte

	digest *digest // of all bytes before hashed
	hashed int     // in buf

	buf    []byte // what was read; records refer to it, so its bytes never change
	base   int64  // offset of buf[0]
	start  int    // where the next record begins
	scan   int    // bytes before it were searched for the record's end
	quoted bool   // the byte at scan is within quotes
	final  bool   // there is nothing after buf

	long *longRecord // not nil: the record at start is longer than max, and start is in it
}

// longRecord is one that is passed over.
type longRecord struct {
	offset int64
	length int64
	kept   []byte
}

// piece is one record; value is part of the splitter's chunk.
type piece struct {
	offset int64
	value  []byte
	err    error
	open   bool // there was no line break
}

// newSplitter begins at offset base, where src and d are; a record begins there.
func newSplitter(src io.Reader, base int64, d *digest, c *Config) *splitter {
	return &splitter{src: src, base: base, digest: d, max: int(c.MaxRecord), quotes: c.Multiline == CSV, delimiter: c.Delimiter[0]}
}

// consumed is the offset before which everything is delivered or passed over.
func (s *splitter) consumed() int64 { return s.base + int64(s.start) }

// begun is the offset of the next record, though a part of it may be passed over.
func (s *splitter) begun() int64 {
	if s.long != nil {
		return s.long.offset
	}
	return s.consumed()
}

// span is bytes that the splitter has consumed, as long as they are at hand.
type span struct {
	before *digest // at the first byte
	bytes  []byte
}

// since returns what was consumed since the last mark.
func (s *splitter) since() span { return span{s.digest.clone(), s.buf[s.hashed:s.start]} }

// markAfter is the mark behind the record at offset; false if the record is not in the span.
func (s span) markAfter(offset int64, c *Config) (mark, bool) {
	at := offset - s.before.off
	if at < 0 || at >= int64(len(s.bytes)) {
		return mark{}, false
	}
	again := newSplitter(nil, offset, nil, c)
	again.buf, again.final = s.bytes[at:], true
	if _, ok := again.next(); !ok {
		return mark{}, false
	}
	d := s.before.clone()
	d.write(s.bytes[:at+int64(again.start)])
	return d.mark(), true
}

// mark is that of consumed; false within a record.
func (s *splitter) mark() (mark, bool) {
	s.digest.write(s.buf[s.hashed:s.start])
	s.hashed = s.start
	return s.digest.mark(), s.long == nil
}

// pending says that a record has begun whose end is not read yet.
func (s *splitter) pending() bool { return s.start < len(s.buf) || s.long != nil }

// fill reads more, as much as there is and fits. It returns the error of src, once everything before it is in buf.
// expected is how much more there is, about.
func (s *splitter) fill(expected int64) error {
	if cap(s.buf)-len(s.buf) < leastRoom {
		s.grow(expected)
	}
	for len(s.buf) < cap(s.buf) {
		n, err := s.src.Read(s.buf[len(s.buf):cap(s.buf)])
		s.buf = s.buf[:len(s.buf)+n]
		if err != nil {
			return err
		}
	}
	return nil
}

// grow moves what is left to a new chunk.
func (s *splitter) grow(expected int64) {
	s.mark() // the bytes before start are let go
	left := s.buf[s.start:]
	room := max(leastSize, int(min(expected+1, chunkSize)), len(left))
	buf := make([]byte, len(left), len(left)+room)
	copy(buf, left)
	s.base += int64(s.start)
	s.buf, s.scan = buf, s.scan-s.start
	s.start, s.hashed = 0, 0
}

// next returns the next record. False: more has to be read first, or with final there is none.
func (s *splitter) next() (piece, bool) {
	if s.base == 0 && s.start == 0 && s.scan == 0 && !s.skipMark() {
		return piece{}, false
	}
	for {
		if s.long != nil {
			return s.nextLong()
		}
		end := s.find()
		if s.tooLong(end) {
			if p, ok := s.unclosed(fmt.Sprintf("max_record, %d bytes,", s.max)); ok {
				return p, true
			}
			s.long = &longRecord{offset: s.consumed(), kept: bytes.Clone(s.buf[s.start : s.start+min(s.max, keptOfBig)])}
			continue
		}
		if end < 0 {
			return s.rest()
		}
		if p := s.take(end); len(p.value) > 0 {
			return p, true
		}
	}
}

var byteOrderMark = []byte{0xef, 0xbb, 0xbf}

// skipMark passes over the byte order mark of UTF-8; false when there are too few bytes to tell.
func (s *splitter) skipMark() bool {
	switch {
	case bytes.HasPrefix(s.buf, byteOrderMark):
		s.start, s.scan = len(byteOrderMark), len(byteOrderMark)
	case bytes.HasPrefix(byteOrderMark, s.buf) && !s.final:
		return false
	}
	return true
}

// find returns the index of the line break that ends the record at start, -1 when it is not read yet.
func (s *splitter) find() int {
	for {
		rest := s.buf[s.scan:]
		if s.quoted {
			i := bytes.IndexByte(rest, '"')
			switch {
			case i < 0:
				s.scan = len(s.buf)
				return -1
			case i+1 == len(rest) && !s.final:
				s.scan += i
				return -1
			case i+1 < len(rest) && rest[i+1] == '"':
				s.scan += i + 2
			default:
				s.scan += i + 1
				s.quoted = false
			}
			continue
		}
		end := bytes.IndexByte(rest, '\n')
		if s.quotes {
			line := rest
			if end >= 0 {
				line = rest[:end]
			}
			if i := s.quote(line); i >= 0 {
				s.scan += i + 1
				s.quoted = true
				continue
			}
		}
		if end < 0 {
			s.scan = len(s.buf)
			return -1
		}
		return s.scan + end
	}
}

// quote returns the index of the first quote at a field's beginning in line, which is at scan; -1 for none.
func (s *splitter) quote(line []byte) int {
	for from := 0; ; {
		i := bytes.IndexByte(line[from:], '"')
		if i < 0 {
			return -1
		}
		i += from
		if at := s.scan + i; at == s.start || s.buf[at-1] == s.delimiter {
			return i
		}
		from = i + 1
	}
}

// take cuts the record that ends before end, where a line break is.
func (s *splitter) take(end int) piece {
	p := piece{offset: s.consumed(), value: trimReturn(s.buf[s.start:end:end])}
	s.begin(end + 1)
	return p
}

// begin sets where the next record begins.
func (s *splitter) begin(start int) { s.start, s.scan, s.quoted = start, start, false }

func trimReturn(line []byte) []byte {
	if n := len(line); n > 0 && line[n-1] == '\r' {
		return line[: n-1 : n-1]
	}
	return line
}

// rest cuts what is after the last line break of a file.
func (s *splitter) rest() (piece, bool) {
	if !s.final || s.start == len(s.buf) {
		return piece{}, false
	}
	if s.quoted {
		if p, ok := s.unclosed("the end of the file"); ok {
			return p, true
		}
	}
	p := piece{offset: s.consumed(), value: trimReturn(s.buf[s.start:len(s.buf):len(s.buf)]), open: true}
	s.begin(len(s.buf))
	return p, len(p.value) > 0
}

var errQuote = errors.New("a quoted field is not closed")

// unclosed cuts the first line of a record whose quote does not end before what limit names. False when it has but one line.
func (s *splitter) unclosed(limit string) (piece, bool) {
	end := bytes.IndexByte(s.buf[s.start:], '\n')
	if !s.quotes || end < 0 || end > s.max {
		return piece{}, false
	}
	p := s.take(s.start + end)
	p.err = fmt.Errorf("%w before %s; only the line at byte %d is taken for it", errQuote, limit, p.offset)
	return p, true
}

// tooLong says that the record exceeds max, for sure. end is where its line break is, or -1.
func (s *splitter) tooLong(end int) bool {
	switch {
	case end >= 0:
		return len(trimReturn(s.buf[s.start:end])) > s.max
	case s.final:
		return len(trimReturn(s.buf[s.start:])) > s.max
	}
	return len(s.buf)-s.start > s.max+1 // the last byte may be a \r
}

var errLong = errors.New("record is longer than max_record")

// nextLong passes over a long record and returns what was kept of it.
func (s *splitter) nextLong() (piece, bool) {
	l := s.long
	end := bytes.IndexByte(s.buf[s.start:], '\n')
	if end < 0 {
		l.length += int64(len(s.buf) - s.start)
		s.begin(len(s.buf))
		if !s.final {
			return piece{}, false
		}
	} else {
		l.length += int64(end)
		s.begin(s.start + end + 1)
	}
	s.long = nil
	err := fmt.Errorf("%w: %d bytes at byte %d, %d are allowed; the first %d are kept", errLong, l.length, l.offset, s.max, len(l.kept))
	return piece{offset: l.offset, value: l.kept, err: err, open: end < 0}, true
}
