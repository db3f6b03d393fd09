package dlq

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/millrace-io/millrace/stream"
)

// saved is one checkpoint of one partition of a run.
type saved struct {
	Partition string          `json:"partition"`
	Number    uint64          `json:"number"` // from 1; of the object
	Epoch     uint64          `json:"epoch"`  // Number of the owner's first
	Owner     string          `json:"owner"`  // random
	Committed bool            `json:"committed"`
	Position  stream.Position `json:"position"`
	Note      []byte          `json:"note,omitempty"`
	Ended     bool            `json:"ended,omitempty"` // every letter is committed
}

func (s *saved) checkpoint() (stream.Checkpoint, bool) {
	return stream.Checkpoint{Pos: s.Position, Note: s.Note}, s.Committed
}

// checkpoints is where those of one partition are.
func (r *Run) checkpoints(partition string) string {
	digest := sha256.Sum256([]byte(partition))
	return r.archive.base(r.Number) + "/" + hex.EncodeToString(digest[:12]) + "/"
}

func checkpointKey(folder string, number uint64) string {
	return fmt.Sprintf("%s%08d.json", folder, number)
}

// Checkpoints is what the runs committed, by partition. A pipeline's audit counts them with the source's own.
func (a *Archive) Checkpoints(ctx context.Context) (map[string]stream.Checkpoint, error) {
	last := map[string]string{} // key by folder
	for o, err := range a.store.List(ctx, a.folder()) {
		if err != nil {
			return nil, fmt.Errorf("list the replays' checkpoints: %w", err)
		}
		if strings.Count(strings.TrimPrefix(o.Key, a.folder()), "/") == 2 {
			last[path.Dir(o.Key)] = o.Key // a listing is in order
		}
	}
	found := map[string]stream.Checkpoint{}
	for _, key := range last {
		s := new(saved)
		if err := a.read(ctx, key, s); err != nil {
			return nil, err
		}
		if c, ok := s.checkpoint(); ok {
			found[s.Partition] = c
		}
	}
	return found, nil
}

// tenure is one owner's time with one partition of a run.
type tenure struct {
	run    *Run
	folder string

	mu    sync.Mutex
	saved saved // as it is stored
	lost  bool  // done is closed
	done  chan struct{}
	left  int64 // letters that are not delivered
}

var _ stream.Assignment = (*tenure)(nil)

// claim takes a partition from whoever has it.
func (r *Run) claim(ctx context.Context, partition string) (*tenure, error) {
	t := &tenure{run: r, folder: r.checkpoints(partition), done: make(chan struct{})}
	for {
		last := ""
		for o, err := range r.archive.store.List(ctx, t.folder) {
			if err != nil {
				return nil, fmt.Errorf("list the checkpoints of %s: %w", partition, err)
			}
			last = o.Key
		}
		next := saved{Partition: partition}
		if last != "" {
			if err := r.archive.read(ctx, last, &next); err != nil {
				return nil, err
			}
			if next.Partition != partition || checkpointKey(t.folder, next.Number) != last {
				return nil, stream.Fatal(fmt.Errorf("%s: is checkpoint %d of %s", last, next.Number, next.Partition))
			}
		}
		t.saved = next
		if next.Ended {
			return t, nil
		}
		next.Number++
		next.Epoch, next.Owner = next.Number, rand.Text()
		created, err := create(ctx, r.archive.store, checkpointKey(t.folder, next.Number), &next)
		if err != nil {
			return nil, err
		}
		if created {
			t.saved = next
			return t, nil
		}
	}
}

func (t *tenure) Partition() string     { return t.saved.Partition }
func (t *tenure) Done() <-chan struct{} { return t.done }

func (t *tenure) Epoch() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.saved.Epoch
}

func (t *tenure) Committed() (stream.Checkpoint, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.saved.checkpoint()
}

// Lag is in letters; their age is of no interest.
func (t *tenure) Lag() (int64, time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.left, -1
}

func (t *tenure) delivered(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left -= int64(n)
}

func (t *tenure) Commit(ctx context.Context, c stream.Checkpoint) error {
	if err := c.Validate(); err != nil {
		return err
	}
	return t.store(ctx, func(s *saved) { s.Committed, s.Position, s.Note = true, c.Pos, c.Note })
}

// end stores that the partition has no more.
func (t *tenure) end(ctx context.Context) error {
	return t.store(ctx, func(s *saved) { s.Ended = true })
}

func (t *tenure) store(ctx context.Context, change func(*saved)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lost {
		return t.taken()
	}
	next := t.saved
	next.Number++
	change(&next)
	created, err := create(ctx, t.run.archive.store, checkpointKey(t.folder, next.Number), &next)
	if err != nil {
		return err
	}
	if !created {
		t.lost = true
		close(t.done)
		return t.taken()
	}
	t.saved = next
	return nil
}

func (t *tenure) taken() error {
	return fmt.Errorf("%s: another replay has taken it over: %w", t.saved.Partition, stream.ErrLost)
}
