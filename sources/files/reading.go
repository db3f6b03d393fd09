package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// Bounds of one Deliver, the same as of the engine's batches: then a commit is always about whole ones, and its mark is exact.
const (
	batchRecords = 512
	batchBytes   = 1 << 20
)

// quietPolls is how long a file that was renamed or removed must not grow until it counts as complete: its writer may still
// have it open.
const quietPolls = 5

// reading delivers one file's records to one consumer.
type reading struct {
	*reader
	tenure   *tenure
	consumer stream.Consumer
	path     string // of the file; by now something else may be there
	away     bool   // the file is not where its name says: it was renamed
	log      *slog.Logger

	after stream.Position
	all   bool // there is no after
	met   bool // the record at after was passed, or need not be there

	batch   []stream.Record
	bytes   int
	typical int  // records of a batch
	open    bool // the last record had no line break
	torn    bool // the compressed data ended in the middle

	release chan struct{} // closed when somebody else needs the place
	waited  bool          // it stopped when there was nothing more to read
	idle    atomic.Int64  // since when the reader waits for more, as Unix nanoseconds; 0: it does not
}

// run delivers until the file ends, which it returns, or ctx does.
func (r *reading) run(ctx context.Context) (ended bool, err error) {
	if err := r.start(ctx); err != nil {
		return false, err
	}
	for {
		if err := r.deliverRead(ctx); err != nil {
			return false, err
		}
		if r.split.final {
			return r.met, r.missed()
		}
		err := r.split.fill(r.unread())
		if err == nil {
			continue
		}
		if err := r.deliverRead(ctx); err != nil {
			return false, err
		}
		if more, err := r.atEnd(ctx, err); !more || err != nil {
			return false, err
		}
	}
}

// start goes to where the consumer wants to begin. The reader is at the mark of the checkpoint.
func (r *reading) start(ctx context.Context) error {
	after, ok := r.consumer.Start()
	r.after, r.all = after, !ok
	if committed, has := r.tenure.Committed(); has != ok || after != committed.Pos {
		if err := r.seek(ctx, startOffset(after, ok)); err != nil {
			return err
		}
	}
	r.tenure.started(r.digest.mark())
	if r.cfg.Header == CSV && r.off > 0 {
		if err := r.readHeader(); err != nil {
			return err
		}
	}
	r.begin()
	r.met = !ok || after != stream.OffsetPosition(after.Offset()) || r.off > int64(after.Offset())
	return nil
}

// missed is the error about a file that has no record where the last one was.
func (r *reading) missed() error {
	if r.met {
		return nil
	}
	return stream.Fatal(fmt.Errorf("%s: %w: no record begins at byte %d, where the last one was that was read; "+
		"restore it, or remove its checkpoint from %s to read it from the beginning", r.path, errChanged, r.after.Offset(), r.tenure.folder.dir))
}

// startOffset is where a record may begin that is after the position. The engine's positions are those of records, or just
// before one; the latter do not end with zeros.
func startOffset(after stream.Position, ok bool) int64 {
	if !ok {
		return 0
	}
	offset := int64(after.Offset())
	if after == stream.OffsetPosition(after.Offset()) {
		return offset
	}
	return offset + 1
}

// unread is about how many bytes follow.
func (r *reading) unread() int64 {
	if r.compressed() {
		return chunkSize
	}
	return max(0, r.tenure.lastSeen().Size-r.position())
}

// position is where the text is.
func (r *reading) position() int64 { return r.split.base + int64(len(r.split.buf)) }

// deliverRead delivers all records that are read.
func (r *reading) deliverRead(ctx context.Context) error {
	for {
		p, ok := r.split.next()
		if !ok {
			return r.flush(ctx)
		}
		r.open = p.open
		if r.cfg.Header == CSV && r.header == nil {
			if err := r.setHeader(p); err != nil {
				return stream.Fatal(fmt.Errorf("%s: %w", r.path, err))
			}
			continue
		}
		pos := stream.OffsetPosition(uint64(p.offset))
		if !r.all && pos.Compare(r.after) <= 0 {
			r.met = r.met || pos == r.after
			continue
		}
		if !r.met {
			return r.missed()
		}
		if r.batch == nil {
			r.batch = make([]stream.Record, 0, min(batchRecords, r.typical+r.typical/4+1))
		}
		r.batch = append(r.batch, stream.Record{Value: p.value, Headers: r.header, Pos: pos, Err: p.err})
		if r.bytes += len(p.value); len(r.batch) == batchRecords || r.bytes >= batchBytes {
			if err := r.flush(ctx); err != nil {
				return err
			}
		}
	}
}

// errConsumer marks an error of the consumer: it is about one partition.
type errConsumer struct{ error }

func (e errConsumer) Unwrap() error { return e.error }

// flush hands the batch over.
func (r *reading) flush(ctx context.Context) error {
	if len(r.batch) == 0 {
		return ctx.Err()
	}
	batch := r.batch
	r.typical, r.batch, r.bytes = len(batch), nil, 0
	// Before, because the consumer may commit the batch at once; the records are the consumer's from then on.
	span := r.split.since()
	if m, ok := r.mark(); ok {
		r.tenure.delivered(batch[len(batch)-1].Pos, m, span)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := r.consumer.Deliver(ctx, batch); err != nil {
		return errConsumer{err}
	}
	return nil
}

func (r *reading) mark() (mark, bool) {
	m, ok := r.split.mark()
	m.Open = r.open && m.End > 0
	return m, ok
}

// atEnd deals with what kept fill from reading on: the end of the file as it is now, or an error. It returns false when the
// tenure has to end; with split.final the file is complete.
func (r *reading) atEnd(ctx context.Context, cause error) (more bool, err error) {
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case cause != io.EOF && !errors.Is(cause, errTorn):
		return false, r.unreadable(cause)
	case r.shrunk():
		return r.truncated()
	case r.follows():
		return r.wait(ctx, cause)
	case cause != io.EOF:
		return false, r.unreadable(cause)
	}
	r.split.final = true
	return true, nil
}

// follows says that the file may grow. An object in S3 does not.
func (r *reading) follows() bool { return r.cfg.Follow && !isRemote(r.path) }

func (r *reading) unreadable(cause error) error {
	var fatal *stream.FatalError
	if errors.As(cause, &fatal) {
		return cause
	}
	err := fmt.Errorf("%s cannot be read after byte %d of its decompressed content: %w; what is before is delivered", r.path, r.position(), cause)
	if r.compressed() {
		return stream.Fatal(fmt.Errorf("%w; replace the file by a whole one that begins the same, or take it out of paths", err))
	}
	return err
}

// shrunk says that the file ends before where it ended when it was seen last.
func (r *reading) shrunk() bool {
	return !r.compressed() && r.position() < r.tenure.lastSeen().Size
}

// truncated ends the generation if nothing is known to be lost, or if it may be.
func (r *reading) truncated() (bool, error) {
	lost := r.tenure.lastSeen().Size - r.position()
	if lost > 0 && r.cfg.OnChange == Fail {
		return false, stream.Fatal(fmt.Errorf("%s was truncated while it was read: %d bytes after byte %d are gone; "+
			"set on_change to restart to go on with what it holds now", r.path, lost, r.position()))
	}
	r.log.Warn("file was truncated; what it holds from now on is a new generation", "file", r.path, "read", r.position(), "lost_bytes", max(0, lost))
	r.split.final = true
	return true, nil
}

// wait returns true when there is more, or with split.final when there will not be any.
func (r *reading) wait(ctx context.Context, cause error) (bool, error) {
	r.torn = cause != io.EOF
	r.idle.Store(time.Now().UnixNano())
	r.tenure.behind.Store(false)
	defer r.idle.Store(0)
	probe, err := r.probeRead()
	if err != nil {
		return false, err
	}
	poll := time.NewTicker(r.cfg.Poll)
	defer poll.Stop()
	grown := false
	for quiet := 0; ; quiet++ {
		seen, err := r.file.stat()
		if err != nil {
			return false, err
		}
		last := r.tenure.lastSeen()
		switch change := !seen.equal(last); {
		case change && seen.Size < last.Size:
			return r.truncated()
		case change && r.torn: // each attempt reads it all: wait until its writer has paused
			r.tenure.saw(seen)
			grown, quiet = true, 0
		case change || grown && quiet > 1:
			return r.grown(ctx, seen, probe)
		}
		if quiet > quietPolls && !grown {
			if away, err := r.isAway(ctx); away || err != nil {
				return r.left(cause, err)
			}
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			r.waited = true
			return false, ctx.Err()
		case <-r.release:
			r.waited = true
			return false, nil
		}
	}
}

// left ends a file that was renamed or removed, and that nobody writes to any more.
func (r *reading) left(cause, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	if cause != io.EOF {
		return false, r.unreadable(cause)
	}
	r.split.final = true
	return true, nil
}

// isAway says that the file is no longer where its name says.
func (r *reading) isAway(ctx context.Context) (bool, error) {
	if r.away {
		return true, nil
	}
	now, err := statPath(ctx, r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return err == nil && now.Identity != r.tenure.lastSeen().Identity, err
}

// probeSize is how many bytes before the end of a plain file are compared when it has grown.
const probeSize = 1 << 10

// probe is the last bytes before the position as the file has them now.
func (r *reading) probe() ([]byte, error) {
	if r.compressed() {
		return nil, nil
	}
	end := r.position()
	probe := make([]byte, min(end, probeSize))
	n, err := r.file.ReadAt(probe, end-int64(len(probe)))
	if err != nil && err != io.EOF {
		return nil, err
	}
	return probe[:n], nil
}

// probeRead is probe as they were read: the file may be another since.
func (r *reading) probeRead() ([]byte, error) {
	probe, err := r.probe()
	if err != nil || r.compressed() {
		return nil, err
	}
	read := r.split.buf[max(0, len(r.split.buf)-probeSize):]
	want := int(min(r.position(), probeSize))
	return append(probe[:min(len(probe), want-len(read))], read...), nil
}

// grown reads on, unless what is before the end is no longer what it was.
func (r *reading) grown(ctx context.Context, seen info, probe []byte) (bool, error) {
	now, err := r.probe()
	if err != nil {
		return false, err
	}
	if !bytes.Equal(now, probe) {
		r.log.Warn("file was written anew; what it holds now is a new generation", "file", r.path, "read", r.position())
		r.split.final = true
		return true, nil
	}
	r.tenure.saw(seen)
	r.tenure.behind.Store(true)
	if r.format == unknown || r.torn {
		return true, r.reopen(ctx)
	}
	return true, nil
}

// reopen is for what cannot be read on where it is: a file whose format was unknown, or compressed data that ended in the
// middle.
func (r *reading) reopen(ctx context.Context) error {
	if err := r.detect(); err != nil {
		return err
	}
	if err := r.seek(ctx, r.split.begun()); err != nil {
		return err
	}
	r.begin()
	return nil
}
