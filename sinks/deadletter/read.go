package deadletter

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
)

// readers of last lines at once.
const readers = 8

// file is an open file of dead letters.
type file struct {
	objects.Object
	key  string
	prov stream.Provenance
	end  int64 // of the letters, where the last line begins
	err  error // wraps ErrDamaged, objects.ErrNotFound, or is about reaching it
}

func (f *file) close() {
	if f.Object != nil {
		_ = f.Object.Close()
	}
}

// Inspect reads the published files' last lines, and with rows every byte. A file without provenance of ours is reported as
// damaged; one of another pipeline is passed over.
func (s *Sink) Inspect(ctx context.Context, pipeline string, visit func(stream.File) error,
	rows func(f *stream.File, pos stream.Position, index uint32) error,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opened := s.openAll(ctx, "")
	defer func() {
		cancel()
		for f := range opened {
			f.close()
		}
	}()
	for f := range opened {
		err := f.err
		if err == nil && f.prov.Pipeline == pipeline && rows != nil {
			about := &stream.File{Key: f.key, Provenance: f.prov}
			err = f.letters(ctx, func(l *Letter) error {
				if strings.HasPrefix(l.Stage, "sink.") && l.Position.Compare(f.prov.After) <= 0 {
					return nil // of a write that was set aside: refused long after its record was committed
				}
				if err := rows(about, l.Position, l.Index); err != nil {
					return damaged("%w", err)
				}
				return nil
			})
		}
		f.close()
		switch {
		case errors.Is(err, objects.ErrNotFound): // removed since it was listed
		case err != nil && !errors.Is(err, ErrDamaged):
			return fmt.Errorf("read %s: %w", f.key, err)
		case err != nil || f.prov.Pipeline == pipeline:
			if err := visit(stream.File{Key: f.key, Provenance: f.prov, Err: err}); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// Read yields the published dead letters whose file's key begins with prefix ("" for all, "date=2010-12-01/"). A file is
// checked whole before its first letter is yielded. A damaged file, or one that cannot be read, is yielded as an error that
// names it, and the reading goes on with the next unless the caller stops.
func Read(ctx context.Context, store objects.Store, prefix string) iter.Seq2[*Letter, error] {
	return func(yield func(*Letter, error) bool) {
		for info, err := range store.List(ctx, prefix) {
			if err != nil {
				yield(nil, fmt.Errorf("list the dead letters: %w", err))
				return
			}
			if strings.HasSuffix(info.Key, suffix) && !readOne(ctx, store, info.Key, yield) {
				return
			}
		}
	}
}

var errEnough = errors.New("the caller has enough")

// readOne yields one file's letters. False: the caller has enough.
func readOne(ctx context.Context, store objects.Store, key string, yield func(*Letter, error) bool) bool {
	f := open(ctx, store, key)
	defer f.close()
	err := f.err
	if err == nil {
		err = f.letters(ctx, func(*Letter) error { return nil })
	}
	if err == nil {
		err = f.letters(ctx, func(l *Letter) error {
			if !yield(l, nil) {
				return errEnough
			}
			return nil
		})
	}
	switch {
	case err == nil, errors.Is(err, objects.ErrNotFound): // removed since it was listed
		return true
	case errors.Is(err, errEnough):
		return false
	}
	return yield(nil, fmt.Errorf("dead letters in %s: %w", key, err))
}

// openAll lists the files and reads their last lines, a few at a time. The channel is closed at the end, and has to be
// read until then.
func (s *Sink) openAll(ctx context.Context, prefix string) <-chan *file {
	keys, out := make(chan string), make(chan *file)
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			for key := range keys {
				out <- open(ctx, s.Store, key)
			}
		})
	}
	wg.Go(func() {
		defer close(keys)
		for info, err := range s.Store.List(ctx, prefix) {
			if err != nil {
				out <- &file{key: prefix, err: fmt.Errorf("list: %w", err)}
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
	go func() { // ends when the caller has read the last file
		wg.Wait()
		close(out)
	}()
	return out
}

func open(ctx context.Context, store objects.Store, key string) *file {
	f := &file{key: key}
	if f.Object, f.err = store.Open(ctx, key); f.err == nil {
		f.err = f.readLast()
	}
	return f
}

const (
	tailBytes = 16 << 10 // read first from the end; last lines are about 1 KiB
	lastBytes = 16 << 20 // a longer last line is a lie
)

// readLast finds the last line and checks what it says of itself.
func (f *file) readLast() error {
	size := f.Size()
	for n := min(tailBytes, size); ; n = min(8*n, size) {
		tail := make([]byte, n)
		if _, err := f.ReadAt(tail, size-n); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n == 0 || tail[n-1] != '\n' {
			return damaged("its last line does not end: truncated?")
		}
		if at := bytes.LastIndexByte(tail[:n-1], '\n'); at >= 0 || n == size {
			f.end = size - n + int64(at) + 1
			return f.parseLast(tail[at+1:])
		}
		if n >= lastBytes {
			return damaged("its last line is no provenance")
		}
	}
}

func (f *file) parseLast(line []byte) error {
	var last lastLine
	if err := json.Unmarshal(line, &last); err != nil {
		return damaged("its last line is no provenance: %w", err)
	}
	// JSON can say the same in many ways; only ours was written.
	if !bytes.Equal(appendLine(nil, last), line) || last.Provenance.Key == "" {
		return damaged("its last line is no provenance of ours")
	}
	f.prov = last.Provenance
	if f.prov.Key != f.key {
		return damaged("it says that it is %s: copied or moved", f.prov.Key)
	}
	return nil
}

// letters reads all letters, and at the end compares them with what the last line says.
func (f *file) letters(ctx context.Context, each func(*Letter) error) error {
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	r := bufio.NewReaderSize(io.TeeReader(io.NewSectionReader(f, 0, f.end), sum), 64<<10)
	lines, at := int64(0), int64(0)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			break
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		l := new(Letter)
		if err := json.Unmarshal(line, l); err != nil {
			return damaged("line %d: %w", lines+1, err)
		}
		l.At = Ref{Key: f.key, Line: lines, Offset: at, Size: int64(len(line))}
		lines, at = lines+1, at+int64(len(line))
		if err := each(l); err != nil {
			return err
		}
	}
	if lines != f.prov.FileRows || sum.Sum32() != f.prov.Data {
		return damaged("it has %d letters with the checksum %08x; written were %d with %08x", lines, sum.Sum32(), f.prov.FileRows, f.prov.Data)
	}
	return nil
}

// Reader reads letters by where they stand. It is cheap in the order of the files. It is used by one goroutine, and closed.
type Reader struct {
	store  objects.Store
	file   objects.Object // that was read last
	key    string         // of file
	window []byte         // bytes of file
	from   int64          // where window begins
}

// readAhead is the least that a Reader asks for at once, in bytes.
const readAhead = 1 << 20

// NewReader returns a reader of letters that Read found in store.
func NewReader(store objects.Store) *Reader { return &Reader{store: store} }

// Letter reads one letter. The error wraps objects.ErrNotFound when its file was removed.
func (r *Reader) Letter(ctx context.Context, at Ref) (*Letter, error) {
	line, err := r.line(ctx, at)
	if err != nil {
		return nil, fmt.Errorf("dead letter in %s, line %d: %w", at.Key, at.Line+1, err)
	}
	l := &Letter{At: at}
	if err := json.Unmarshal(line, l); err != nil {
		return nil, fmt.Errorf("dead letter in %s, line %d: %w", at.Key, at.Line+1, damaged("%w", err))
	}
	return l, nil
}

func (r *Reader) line(ctx context.Context, at Ref) ([]byte, error) {
	if r.file == nil || r.key != at.Key {
		r.Close()
		file, err := r.store.Open(ctx, at.Key)
		if err != nil {
			return nil, err
		}
		r.file, r.key = file, at.Key
	}
	if at.Offset < r.from || at.Offset+at.Size > r.from+int64(len(r.window)) {
		n := min(max(at.Size, readAhead), r.file.Size()-at.Offset)
		if n < at.Size {
			return nil, damaged("the file is shorter than it was")
		}
		r.window, r.from = slices.Grow(r.window[:0], int(n))[:n], at.Offset
		if _, err := r.file.ReadAt(r.window, at.Offset); err != nil && !errors.Is(err, io.EOF) {
			r.window = nil
			return nil, err
		}
	}
	return r.window[at.Offset-r.from:][:at.Size], nil
}

// Close lets go of the file.
func (r *Reader) Close() {
	if r.file != nil {
		_ = r.file.Close()
	}
	r.file, r.key, r.window = nil, "", nil
}
