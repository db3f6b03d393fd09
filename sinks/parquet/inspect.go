package parquet

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"sync"

	"github.com/apache/arrow/go/v17/parquet/metadata"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
)

// ErrDamaged says that a file is not as it was written: truncated, edited, or not ours at all. Errors that do not wrap it
// are about reaching the file.
var ErrDamaged = errors.New("damaged file")

var errNotOurs = damaged("no millrace provenance")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrDamaged, fmt.Errorf(format, args...))
}

// readers of footers at once.
const readers = 8

// Inspect reads the published files' footers, and with rows every byte. A Parquet file without provenance of ours is reported
// as damaged, since whoever queries the lake reads its rows too; a file of another pipeline is passed over.
func (s *Sink) Inspect(ctx context.Context, pipeline string, visit func(stream.File) error,
	rows func(f *stream.File, pos stream.Position, index uint32) error,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opened := s.openAll(ctx)
	defer func() {
		cancel()
		for o := range opened {
			o.close()
		}
	}()
	for o := range opened {
		err := o.err
		if err == nil && o.prov.Pipeline == pipeline && rows != nil {
			err = o.checkRows(ctx, rows)
		}
		o.close()
		switch {
		case errors.Is(err, objects.ErrNotFound): // removed since it was listed
		case o.key == "":
			return err
		case err != nil && !errors.Is(err, ErrDamaged):
			return fmt.Errorf("read %s: %w", o.key, err)
		case err != nil || o.prov.Pipeline == pipeline:
			if err := visit(stream.File{Key: o.key, Provenance: o.prov, Err: err}); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// opened is a file whose footer was read.
type opened struct {
	objects.Object
	key  string
	meta *metadata.FileMetaData
	prov stream.Provenance
	end  int64 // of the data, where the footer begins
	err  error
}

func (o *opened) close() {
	if o.Object != nil {
		_ = o.Object.Close()
	}
}

// openAll lists the files and reads their footers, a few at a time. The channel is closed at the end, and has to be read
// until then.
func (s *Sink) openAll(ctx context.Context) <-chan *opened {
	keys, out := make(chan string), make(chan *opened)
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			for key := range keys {
				out <- s.openOne(ctx, key)
			}
		})
	}
	wg.Go(func() {
		defer close(keys)
		for info, err := range s.Store.List(ctx, "") {
			if err != nil {
				out <- &opened{err: fmt.Errorf("list %s: %w", s.Store, err)}
				return
			}
			if !strings.HasSuffix(info.Key, suffix) {
				continue
			}
			select {
			case keys <- info.Key:
			case <-ctx.Done():
				return
			}
		}
	})
	go func() {
		wg.Wait()
		close(out)
	}()
	return out
}

func (s *Sink) openOne(ctx context.Context, key string) *opened {
	o := &opened{key: key}
	if o.Object, o.err = s.Store.Open(ctx, key); o.err != nil {
		return o
	}
	if o.err = o.readFooter(); o.err == nil && o.prov.Key != key {
		o.err = damaged("it says that it is %s: copied or moved", o.prov.Key)
	}
	return o
}

const (
	tailBytes   = 64 << 10 // read at once from the end: footers are mostly smaller
	footerBytes = 64 << 20 // of a larger footer it is a lie
)

// readFooter checks the seal before anything is believed.
func (o *opened) readFooter() error {
	size := o.Size()
	tail, err := readAt(o, max(0, size-tailBytes), size)
	if err != nil {
		return err
	}
	if len(tail) < 8 || string(tail[len(tail)-4:]) != magic {
		return damaged("it has %d bytes and does not end as a Parquet file", size)
	}
	n := int64(binary.LittleEndian.Uint32(tail[len(tail)-8:])) + 8
	if n > size-int64(len(magic)) || n > footerBytes {
		return damaged("its footer of %d bytes does not fit into its %d", n, size)
	}
	o.end = size - n
	footer := tail[max(0, int64(len(tail))-n):]
	if n > int64(len(tail)) {
		if footer, err = readAt(o, o.end, size); err != nil {
			return err
		}
	}
	if err := checkSeal(footer); err != nil {
		return err
	}
	o.meta, o.prov, err = parseFooter(footer[:n-8])
	if err != nil {
		return err
	}
	return o.checkExtent()
}

func readAt(o objects.Object, from, to int64) ([]byte, error) {
	b := make([]byte, to-from)
	n, err := o.ReadAt(b, from)
	if n == len(b) {
		return b, nil
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, damaged("it ends at byte %d of %d", from+int64(n), o.Size())
	}
	return nil, fmt.Errorf("bytes %d to %d: %w", from, to, err)
}

func checkSeal(footer []byte) error {
	at, err := findSeal(footer)
	if err != nil {
		return err
	}
	digits := bytes.Clone(footer[at : at+sealDigits])
	copy(footer[at:], strings.Repeat("0", sealDigits))
	sum := sealOf(footer)
	copy(footer[at:], digits)
	if string(digits) != sum {
		return damaged("its footer was edited")
	}
	return nil
}

// parseFooter reads a footer's metadata.
func parseFooter(footer []byte) (*metadata.FileMetaData, stream.Provenance, error) {
	var m *metadata.FileMetaData
	var p stream.Provenance
	err := guard(func() (err error) {
		if m, err = metadata.NewFileMetaData(footer, nil); err != nil {
			return damaged("footer: %w", err)
		}
		text := m.KeyValueMetadata().FindValue(provenanceKey)
		if text == nil {
			return errNotOurs
		}
		if err := json.Unmarshal([]byte(*text), &p); err != nil {
			return damaged("provenance: %w", err)
		}
		return nil
	})
	return m, p, err
}

// guard makes an error of a panic: Arrow panics on files that contradict themselves.
func guard(fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = damaged("%v", p)
		}
	}()
	return fn()
}

// checkExtent compares the footer with the file around it.
func (o *opened) checkExtent() error {
	if rows := o.meta.NumRows; rows != o.prov.FileRows {
		return damaged("it has %d rows; its provenance says %d", rows, o.prov.FileRows)
	}
	return guard(func() error {
		at := int64(len(magic))
		for _, g := range o.meta.RowGroups {
			for _, c := range g.Columns {
				at += c.MetaData.TotalCompressedSize
			}
		}
		if at != o.end {
			return damaged("its columns have %d bytes, but its footer begins at %d", at, o.end)
		}
		return nil
	})
}

// checkRows reads the whole file.
func (o *opened) checkRows(ctx context.Context, visit func(*stream.File, stream.Position, uint32) error) error {
	if err := o.checkData(ctx); err != nil {
		return err
	}
	f := &stream.File{Key: o.key, Provenance: o.prov}
	var lastPos stream.Position
	var lastIndex uint32
	var rows int64
	err := o.identities(ctx, func(pos stream.Position, index uint32) error {
		p := &o.prov
		if pos.Compare(p.After) <= 0 && !(p.First && pos == stream.Position{}) || pos.Compare(p.To) > 0 {
			return damaged("row %d is at %s, outside of %s to %s", rows, pos, p.After, p.To)
		}
		if c := pos.Compare(lastPos); rows > 0 && (c < 0 || c == 0 && index <= lastIndex) {
			return damaged("row %d at %s, %d is not after the one before, at %s, %d", rows, pos, index, lastPos, lastIndex)
		}
		lastPos, lastIndex = pos, index
		rows++
		if err := visit(f, pos, index); err != nil {
			return damaged("row %d: %w", rows-1, err)
		}
		return nil
	})
	if err == nil && rows != o.prov.FileRows {
		err = damaged("%d rows can be read of %d", rows, o.prov.FileRows)
	}
	return err
}

func (o *opened) checkData(ctx context.Context) error {
	const step = 4 << 20
	sum := uint32(0)
	for at := int64(0); at < o.end; at += step {
		if err := ctx.Err(); err != nil {
			return err
		}
		b, err := readAt(o, at, min(at+step, o.end))
		if err != nil {
			return err
		}
		sum = crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), b)
	}
	if sum != o.prov.Data {
		return damaged("its bytes were changed: their CRC-32C is %08x; its provenance says %08x", sum, o.prov.Data)
	}
	return nil
}
