package spool

import (
	"context"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/stream"
)

// drainedSuffix marks a file that was drained while a checkpoint may still name it.
const drainedSuffix = ".drained"

const (
	// OrphanAge is how old a file has to be before somebody who does not own its partition drains it: longer than a partition
	// is ever without an owner.
	OrphanAge = 10 * time.Minute

	tendEvery = time.Minute
)

// Tend drains orphans from time to time, until ctx ends.
func (s *Sink) Tend(ctx context.Context) {
	for tick := time.NewTicker(tendEvery); ; {
		if _, err := s.Orphans(ctx, OrphanAge); err != nil && ctx.Err() == nil {
			s.o.Log.Warn("what nobody owns any more cannot be drained; trying again", "sink", s.o.Name, "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return
		}
	}
}

// Orphans drains the files of partitions that have no writer here and that are older than age, in order, and says how many
// writes it sent. It gives up at the first that the sink does not take. A file of which writes are refused for good stays, for
// an owner's commit, or for an operator: only a commit makes dead letters.
func (s *Sink) Orphans(ctx context.Context, age time.Duration) (writes uint64, err error) {
	keys, err := s.orphans(ctx, age)
	if err != nil || len(keys) == 0 {
		return 0, err
	}
	if s.loop.Stats().Failing != "" { // one look whether it is back
		limited, cancel := context.WithTimeout(ctx, s.o.StallAfter)
		defer cancel()
		ctx = limited
	}
	w, err := s.loop.Writer(stream.Tenure{Sink: s.o.Name, Schema: s.o.Schema})
	if err != nil {
		return 0, err
	}
	defer w.Close()
	for _, key := range keys {
		n, err := s.orphan(ctx, w, key)
		if err != nil {
			return writes, err
		}
		writes += n
	}
	return writes, nil
}

// orphans are the files of partitions that have no writer here and that are older than age, in order.
func (s *Sink) orphans(ctx context.Context, age time.Duration) (keys []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	for o, err := range s.store.List(ctx, s.o.Name+"/") {
		if err != nil {
			return nil, err
		}
		if strings.HasSuffix(o.Key, suffix) && time.Since(o.Modified) >= age && !s.owned(path.Dir(o.Key)+"/") {
			keys = append(keys, o.Key)
		}
	}
	return keys, nil
}

func (s *Sink) orphan(ctx context.Context, w *bulk.Writer, key string) (uint64, error) {
	n, err := s.send(ctx, w, key)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", key, err)
	}
	if dead := w.Refused(); len(dead) > 0 {
		s.o.Log.Error("writes of a file that nobody owns are refused; it stays", "sink", s.o.Name, "file", key, "writes", len(dead), "error", dead[0].Err)
		return 0, nil
	}
	s.count(func(c *stream.SpoolStats) { c.Drained += n })
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	if err := s.store.Put(ctx, key+drainedSuffix, nil); err != nil {
		return n, err
	}
	return n, s.store.Delete(ctx, key)
}

// owned says that a folder's partition has a writer here.
func (s *Sink) owned(folder string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for partition := range s.writers {
		if s.folder(partition) == folder {
			return true
		}
	}
	return false
}
