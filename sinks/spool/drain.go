package spool

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
)

// drainBytes is how much of a file is under way at once.
const drainBytes = 1 << 20

// Between two tries of a file.
const (
	minWait = time.Second
	maxWait = time.Minute
)

// answerTime is how long the store may take for one answer. The drain has no deadline of the engine's, and one connection that hangs must
// not be its end.
const answerTime = time.Minute

var errNoAnswer = fmt.Errorf("the store does not answer: %w", context.DeadlineExceeded)

// drainAll sends the published files, oldest first, until the tenure ends.
func (w *writer) drainAll(ctx context.Context) {
	defer close(w.done)
	wait := minWait
	select {
	case <-w.begin:
	case <-ctx.Done():
	}
	for ctx.Err() == nil {
		f, ok := w.oldest()
		if !ok {
			select {
			case <-w.wake:
			case <-ctx.Done():
			}
			continue
		}
		select {
		case w.sink.drain <- struct{}{}:
		case <-ctx.Done():
			return
		}
		err := w.drainOne(ctx, f)
		<-w.sink.drain
		if ctx.Err() != nil {
			return
		}
		w.failing(err)
		if err == nil {
			wait = minWait
			continue
		}
		w.sink.o.Log.Warn("what is set aside cannot be drained; trying again", "sink", w.sink.o.Name, "file", f.key, "error", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, maxWait) // what is before the damage in a file is sent again each time
	}
}

// failing says why the oldest file cannot be drained; nil: it could.
func (w *writer) failing(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state.Failing = ""; err != nil {
		w.state.Failing = err.Error()
	}
}

func (w *writer) oldest() (file, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.files) == 0 {
		return file{}, false
	}
	return w.files[0], true
}

// drainOne sends one file. It is removed with the next commit: that holds the dead letters of its writes, and only then does no
// checkpoint name it any more.
func (w *writer) drainOne(ctx context.Context, f file) error {
	n, err := w.sink.send(ctx, w.behind, f.key)
	if err != nil && !errors.Is(err, objects.ErrNotFound) { // the last owner's commit removed it
		w.behind.Withdraw()
		return err
	}
	w.sink.count(func(s *stream.SpoolStats) { s.Drained += n })
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refused = append(w.refused, w.behind.Refused()...)
	w.drained = append(w.drained, f.key)
	w.files = slices.DeleteFunc(w.files, func(o file) bool { return o.key == f.key })
	return nil
}

// send writes a file's items through w and waits until all are acknowledged.
func (s *Sink) send(ctx context.Context, w *bulk.Writer, key string) (n uint64, err error) {
	reading, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slow := time.AfterFunc(answerTime, func() { cancel(errNoAnswer) })
	defer slow.Stop()
	o, err := s.store.Open(reading, key)
	if err != nil {
		return 0, cmp.Or(context.Cause(reading), err)
	}
	defer o.Close()
	var some []*bulk.Item
	for it, err := range Items(bufio.NewReaderSize(io.NewSectionReader(o, 0, o.Size()), int(min(o.Size(), 1<<20)))) {
		if err != nil {
			return n, fmt.Errorf("read %s: %w", key, cmp.Or(context.Cause(reading), err))
		}
		n++
		if some = append(some, it); len(some) < 500 {
			continue
		}
		slow.Stop() // the sink takes the time that it takes
		w.Put(some)
		some = nil
		if err := w.Wait(ctx, drainBytes); err != nil {
			return n, err
		}
		slow.Reset(answerTime)
	}
	slow.Stop()
	w.Put(some)
	return n, w.Wait(ctx, 0)
}

// Items are the writes of a file, in order. An error is the last.
func Items(file io.Reader) iter.Seq2[*bulk.Item, error] {
	return func(yield func(*bulk.Item, error) bool) {
		unpacker, err := zstd.NewReader(file, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
		if err != nil {
			yield(nil, err)
			return
		}
		defer unpacker.Close()
		lines := bufio.NewReaderSize(unpacker, 64<<10)
		for {
			line, err := lines.ReadBytes('\n')
			if err == io.EOF && len(line) == 0 {
				return
			}
			var it *bulk.Item
			if err == nil {
				it, err = parseItem(line)
			}
			if !yield(it, err) || err != nil {
				return
			}
		}
	}
}
