package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/sinks/spool"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/stream/sim"
)

// simSpool is on_stall: spool in the simulator: the spool and the loop of the upsert sinks are the real ones, over a server and
// a bucket that are not.
type simSpool struct{ schema *stream.Schema }

func (s simSpool) Open(o *sim.Outside) sim.Spooled {
	loop := &simLoop{o: o, sinks: map[string]*bulk.Sink{}}
	return spool.New(loop, simStore{o}, spool.Options{Name: o.Sink(), StallAfter: sim.StallAfter, Schema: s.schema})
}

func (simSpool) Writes(object []byte) ([]sim.Write, error) {
	var all []sim.Write
	for it, err := range spool.Items(bytes.NewReader(object)) {
		if err != nil {
			return nil, err
		}
		all = append(all, simWrite(it))
	}
	return all, nil
}

func simWrite(it *bulk.Item) sim.Write {
	return sim.Write{Partition: it.Partition, Index: it.Index, Record: it.Record, Body: it.Body}
}

// simLoop has a loop with one lane for each partition, where a real sink's partitions share some: which writes of two partitions
// meet in a request is up to the Go runtime, and then a seed would not make the same run again.
type simLoop struct {
	o *sim.Outside

	mu    sync.Mutex
	sinks map[string]*bulk.Sink // by partition; "" is that of the orphans
}

func (l *simLoop) Writer(t stream.Tenure) (*bulk.Writer, error) { return l.sink(t.Partition).Writer(t) }

func (l *simLoop) sink(partition string) *bulk.Sink {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sinks[partition] == nil {
		l.sinks[partition] = bulk.New(simTarget{l.o, partition}, bulk.Options{
			Name: l.o.Sink(), Order: bulk.InTurn, Lanes: 1, Items: simItems, Delay: sim.BulkDelay, Timeout: sim.BulkTimeout, Jitter: l.o.Jitter,
		})
	}
	return l.sinks[partition]
}

// simItems is more than a run has records, even while the loop makes its requests smaller: how they are cut follows from nothing
// that is left to chance.
const simItems = 16_000

// Stats says whether any of the loops fails; the spool asks nothing else.
func (l *simLoop) Stats() (all stream.SinkStats) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sinks {
		if failing := s.Stats().Failing; failing != "" {
			all.Failing = failing
		}
	}
	return all
}

// simTarget is the server.
type simTarget struct {
	o         *sim.Outside
	partition string
}

func (t simTarget) Encoder(stream.Tenure) (bulk.Encoder, error) { return simEncoder(t), nil }
func (t simTarget) Idle()                                       {}

func (t simTarget) Send(ctx context.Context, items []*bulk.Item) error {
	writes := make([]sim.Write, len(items))
	for i, it := range items {
		writes[i] = simWrite(it)
	}
	outcome, err := t.o.Send(ctx, t.partition, writes)
	for i, err := range outcome {
		if items[i].Err = err; errors.Is(err, sim.ErrRefused) {
			items[i].Err = bulk.Refused(err)
		}
	}
	return err
}

type simEncoder simTarget

func (e simEncoder) Encode(key, body []byte, ev *stream.Event) ([]byte, []byte, error) {
	key, body = e.o.Encode(key, body, ev)
	return key, body, nil
}

// simStore is where writes are set aside.
type simStore struct{ o *sim.Outside }

var _ objects.Store = simStore{}

func (s simStore) Begin(key string) objects.Upload {
	return &simUpload{o: s.o, ticket: objects.Ticket{Key: key}}
}

func (s simStore) Publish(ctx context.Context, t objects.Ticket) error {
	return s.o.Publish(ctx, t.Key, t.Upload)
}

func (s simStore) Withdraw(ctx context.Context, t objects.Ticket) error {
	return s.o.Withdraw(ctx, t.Key, t.Upload)
}

func (s simStore) Put(ctx context.Context, key string, data []byte) error {
	return s.o.Put(ctx, key, data)
}
func (s simStore) Delete(ctx context.Context, key string) error { return s.o.Delete(ctx, key) }
func (s simStore) Probe(context.Context) error                  { return nil }
func (s simStore) String() string                               { return "simulated" }

func (s simStore) Get(ctx context.Context, key string) ([]byte, error) {
	data, err := s.o.Get(ctx, key)
	return data, simMissing(err)
}

func (s simStore) Open(ctx context.Context, key string) (objects.Object, error) {
	data, err := s.o.Read(ctx, key)
	if err != nil {
		return nil, simMissing(err)
	}
	return simObject{bytes.NewReader(data)}, nil
}

func simMissing(err error) error {
	if errors.Is(err, sim.ErrNotFound) {
		return fmt.Errorf("%w: %w", objects.ErrNotFound, err)
	}
	return err
}

func (s simStore) List(ctx context.Context, prefix string) iter.Seq2[objects.Info, error] {
	return func(yield func(objects.Info, error) bool) {
		all, err := s.o.List(ctx, prefix)
		if err != nil {
			yield(objects.Info{}, err)
			return
		}
		for _, o := range all {
			if !yield(objects.Info{Key: o.Key, Size: o.Size, Modified: o.Modified}, nil) {
				return
			}
		}
	}
}

type simObject struct{ *bytes.Reader }

func (simObject) Metadata() map[string]string { return nil }
func (simObject) Close() error                { return nil }

// simUpload goes out whole when it is sealed: the writes of a run are too few for parts.
type simUpload struct {
	o      *sim.Outside
	data   bytes.Buffer
	ticket objects.Ticket
}

func (u *simUpload) Write(b []byte) (int, error) { return u.data.Write(b) }
func (u *simUpload) Send(context.Context) error  { return nil }
func (u *simUpload) Buffered() int64             { return int64(u.data.Len()) }

func (u *simUpload) Seal(ctx context.Context, _ map[string]string) (objects.Ticket, error) {
	if u.ticket.Upload != "" {
		return u.ticket, nil
	}
	upload, err := u.o.Stage(ctx, u.ticket.Key, u.data.Bytes())
	if err != nil {
		return objects.Ticket{}, err
	}
	u.ticket.Upload, u.ticket.Size = upload, int64(u.data.Len())
	return u.ticket, nil
}

func (u *simUpload) Discard(ctx context.Context) {
	if u.ticket.Upload != "" {
		_ = u.o.Discard(ctx, u.ticket.Key, u.ticket.Upload) // what is left is invisible
	}
}
