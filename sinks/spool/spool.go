// Package spool keeps one upsert sink's outage from everybody else. While the sink's server does not answer, its writes are
// set aside in files, which are staged and published with the partition's commits; when it is back they are sent in order,
// before anything newer, and the files go.
//
// A file is <sink>/<partition>-<hash>/<first position>-<epoch>.jsonl.zst: a line of JSON for each write, with the record
// that a dead letter would need, compressed with zstd. `zstdcat FILE | head` shows it.
//
// What a partition left that nobody owns any more (a closed shard, a finished file) is drained by Orphans, which runs beside
// the tenures: of those writes only the sink's own rule keeps the order against later ones of other partitions.
//
// A partition is in one of two states. Direct: writes go to the loop of the sink (package bulk). Aside: they wait here, in
// memory while that is little, else in an upload that the next commit publishes; a drain (drain.go) sends the published
// files, oldest first. Once no file is left the partition is direct again, beginning with what waits in memory.
package spool

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
)

const suffix = ".jsonl.zst"

// Options of a spool.
type Options struct {
	Name string // of the sink in the pipeline file

	// StallAfter is how long a commit waits for the sink before its writes are set aside; default 5 s. While the partition's
	// writes are set aside no commit waits.
	StallAfter time.Duration

	Schema *stream.Schema // of the events
	Log    *slog.Logger
}

// EnsureDefaults sets what is zero.
func (o *Options) EnsureDefaults() {
	if o.StallAfter == 0 {
		o.StallAfter = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// Loop is what a spool is put around: the sinks that embed a *bulk.Sink are.
type Loop interface {
	Writer(t stream.Tenure) (*bulk.Writer, error)
	Stats() stream.SinkStats
}

// Sink is an upsert sink with a spool.
type Sink struct {
	loop  Loop
	store objects.Store
	o     Options
	drain chan struct{} // a place for each partition that may drain at once

	mu      sync.Mutex
	writers map[string]*writer // by partition
	stats   stream.SpoolStats  // the counters only
}

var _ stream.Spool = (*Sink)(nil)

// drains is how many partitions drain at once. Each holds drainBytes.
const drains = 4

// New returns the sink that writes through loop and sets aside in store, where it has its own folder.
func New(loop Loop, store objects.Store, o Options) *Sink {
	o.EnsureDefaults()
	return &Sink{loop: loop, store: store, o: o, drain: make(chan struct{}, drains), writers: map[string]*writer{}}
}

// Open returns the writer of one tenure, a stream.SpoolWriter. It finds what earlier owners set aside.
func (s *Sink) Open(ctx context.Context, t stream.Tenure) (stream.UpsertWriter, error) {
	files, err := s.list(ctx, t.Partition)
	if err != nil {
		return nil, fmt.Errorf("list what is set aside: %w", err)
	}
	direct, err := s.loop.Writer(t)
	if err != nil {
		return nil, err
	}
	behind, err := s.loop.Writer(t)
	if err != nil {
		direct.Close()
		return nil, err
	}
	w := newWriter(s, t, direct, behind, files)
	s.mu.Lock()
	s.writers[t.Partition] = w
	s.mu.Unlock()
	return w, nil
}

// folder of a partition's files. The name is for people, the hash makes it unique.
func (s *Sink) folder(partition string) string {
	id := fnv.New64a()
	id.Write([]byte(partition))
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, partition)
	return fmt.Sprintf("%s/%s-%s/", s.o.Name, name[:min(len(name), 40)], hex.EncodeToString(id.Sum(nil)))
}

// list is what is published and not drained, in order.
func (s *Sink) list(ctx context.Context, partition string) ([]file, error) {
	var files []file
	for o, err := range s.store.List(ctx, s.folder(partition)) {
		if err != nil {
			return nil, err
		}
		if strings.HasSuffix(o.Key, suffix) {
			files = append(files, file{o.Key, o.Size, o.Modified})
		}
	}
	return files, nil
}

// Waiting is what is set aside of all partitions, in any process: for verify.
func (s *Sink) Waiting(ctx context.Context) (files int, bytes int64, err error) {
	for o, err := range s.store.List(ctx, s.o.Name+"/") {
		if err != nil {
			return 0, 0, err
		}
		if strings.HasSuffix(o.Key, suffix) {
			files++
			bytes += o.Size
		}
	}
	return files, bytes, nil
}

// file is one that waits to be drained.
type file struct {
	key   string
	bytes int64
	made  time.Time
}

// claim is a receipt's body: a file to publish, or one to remove.
type claim struct {
	Ticket    *objects.Ticket `json:"t,omitempty"`
	Drained   string          `json:"d,omitempty"`
	Partition string          `json:"p"`
}

func readClaim(r stream.Receipt) (c claim, err error) {
	err = json.Unmarshal(r.Body, &c)
	if err == nil && (c.Ticket == nil) == (c.Drained == "") {
		err = errors.New("it has neither a file to publish nor one to remove")
	}
	if err != nil {
		err = stream.Fatal(fmt.Errorf("receipt of %s: %w", r.Sink, err))
	}
	return c, err
}

// Publish makes a file visible, and ready to be drained by whoever owns the partition; or removes one that is drained.
func (s *Sink) Publish(ctx context.Context, r stream.Receipt) error {
	c, err := readClaim(r)
	if err != nil {
		return err
	}
	if c.Drained != "" {
		return s.store.Delete(ctx, c.Drained)
	}
	err = s.store.Publish(ctx, *c.Ticket)
	if errors.Is(err, stream.ErrExpired) {
		if _, gone := s.store.Get(ctx, c.Ticket.Key+drainedSuffix); gone == nil {
			return nil // an orphan that was drained
		}
	}
	if err != nil {
		return err
	}
	if w := s.writer(c.Partition); w != nil {
		w.published(file{c.Ticket.Key, c.Ticket.Size, time.Now()})
	}
	return nil
}

// Withdraw removes a file, staged or published. Its writes may have been sent already: their records are read again, and
// the sink knows them.
func (s *Sink) Withdraw(ctx context.Context, r stream.Receipt) error {
	c, err := readClaim(r)
	if err != nil || c.Drained != "" {
		return err
	}
	if err := s.store.Withdraw(ctx, *c.Ticket); err != nil {
		return err
	}
	if w := s.writer(c.Partition); w != nil {
		w.withdrawn(c.Ticket.Key)
	}
	return nil
}

func (s *Sink) writer(partition string) *writer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writers[partition]
}

// closed forgets w.
func (s *Sink) closed(w *writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writers[w.tenure.Partition] == w {
		delete(s.writers, w.tenure.Partition)
	}
}

// count changes the counters.
func (s *Sink) count(change func(*stream.SpoolStats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.stats)
}

// Stats is the loop's, with the spool's.
func (s *Sink) Stats() stream.SinkStats {
	out := s.loop.Stats()
	s.mu.Lock()
	defer s.mu.Unlock()
	spool := s.stats
	for _, w := range s.writers {
		w.addTo(&spool)
	}
	out.Spool = &spool
	return out
}

// key names a file by its first write.
func (s *Sink) key(t stream.Tenure, first *bulk.Item) string {
	return path.Join(s.folder(t.Partition), fmt.Sprintf("%s-%016x%s", first.Record.Pos, t.Epoch, suffix))
}
