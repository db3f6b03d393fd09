package files

import (
	"context"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/millrace-io/millrace/stream"
)

var _ stream.Rereader = (*Source)(nil)

// Reread reads what the folder of checkpoints says is committed, and changes nothing there. Lines have no time of their own, so each
// file is read from its beginning. A file is a partition's if it holds what was read of it, wherever log rotation has moved it.
func (s *Source) Reread(ctx context.Context, _ time.Time, ends map[string]stream.Position, visit func(string, []stream.Record) error) ([]string, error) {
	stored, err := s.folder.all(map[string]cached{})
	if err != nil {
		return nil, err
	}
	cfg := s.cfg
	cfg.Follow = true // a file that is not there is no error
	again := New(cfg, s.pipeline, s.log)
	again.buckets.open = s.buckets.open
	l := &lineage{run: &run{Source: again, listings: map[string]listing{}}}
	if err := l.scan(ctx); err != nil {
		return nil, err
	}
	where := map[string]*file{}
	for partition := range ends {
		if where[partition], err = l.content(ctx, stored[partition]); err != nil {
			return nil, err
		}
	}
	return stream.EachPartition(ctx, ends, func(ctx context.Context, partition string, end stream.Position) (bool, error) {
		f := where[partition]
		if f == nil {
			return true, nil
		}
		return false, l.reread(ctx, *f, end, func(rs []stream.Record) error { return visit(partition, rs) })
	})
}

// content is the file that holds what was read of a partition: the one that was read, or what log rotation has made of it; nil if
// none does.
func (l *lineage) content(ctx context.Context, s *saved) (*file, error) {
	if s == nil {
		return nil, nil
	}
	candidates, err := siblings(ctx, s)
	if err != nil {
		return nil, err
	}
	for _, f := range l.found {
		beside := path.Dir(f.name) == path.Dir(s.Name) && strings.HasPrefix(f.name, s.Name)
		if beside || f.name == s.Path || f.Identity != "" && f.Identity == s.Seen.Identity {
			candidates = append(candidates, f)
		}
	}
	for _, f := range candidates {
		if is, err := l.compare(ctx, f, s.Mark); is || err != nil {
			return &f, err
		}
	}
	return nil, nil
}

// reread visits the records of a file up to and with end.
func (r *run) reread(ctx context.Context, f file, end stream.Position, visit func([]stream.Record) error) error {
	file, err := r.open(ctx, f)
	if err != nil {
		return err
	}
	rd := &reader{file: file, cfg: &r.cfg}
	defer rd.close()
	if err := rd.detect(); err != nil {
		return err
	}
	if err := rd.seek(ctx, 0); err != nil {
		return err
	}
	rd.begin()
	var failed error // of the read after what is cut now
	for {
		rs, err := rd.records(end)
		if err != nil {
			return err
		}
		if len(rs) > 0 {
			if err := visit(rs); err != nil {
				return err
			}
			if rs[len(rs)-1].Pos == end {
				return nil
			}
			continue
		}
		switch {
		case failed != nil:
			return fmt.Errorf("%s cannot be read after byte %d: %w", f.name, rd.split.consumed(), failed)
		case rd.split.final:
			return fmt.Errorf("%s: %w: no record begins at byte %d, up to which it was committed", f.name, errChanged, end.Offset())
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		if err := rd.split.fill(chunkSize); err == io.EOF {
			rd.split.final = true
		} else {
			failed = err
		}
	}
}

// records is a batch of what is read and not past end.
func (r *reader) records(end stream.Position) (rs []stream.Record, err error) {
	for size := 0; len(rs) < batchRecords && size < batchBytes; {
		p, ok := r.split.next()
		if !ok {
			return rs, nil
		}
		if r.cfg.Header == CSV && r.header == nil {
			if err := r.setHeader(p); err != nil {
				return nil, err
			}
			continue
		}
		pos := stream.OffsetPosition(uint64(p.offset))
		if pos.Compare(end) > 0 {
			r.split.final = true
			return rs, nil
		}
		rs = append(rs, stream.Record{Value: p.value, Headers: r.header, Pos: pos, Err: p.err})
		size += len(p.value)
	}
	return rs, nil
}
