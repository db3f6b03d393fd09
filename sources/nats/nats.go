// Package nats reads a JetStream stream.
//
// A partition is a filter subject: its messages are read in order, by one worker at a time. Divide a stream where it is
// written, so that all events of a key have one subject: let the server map subjects (a mapping of clicks.* to
// clicks.{{partition(8,1)}}.{{wildcard(1)}} hashes the first token into 8 parts, which are read as the partitions
// clicks.0.* to clicks.7.*), or let the publisher append a hash of the key modulo the number of partitions. To change that
// number is to move keys, as in Kafka.
//
// Durable consumers and their acknowledgements are not used: a message that was delivered and not acknowledged comes again
// after a time-out, when later messages of its key are through, so a take-over would break the order per key. Instead a
// worker owns a partition by a lease (see package lease) in a key-value bucket; the row of the lease keeps the checkpoint,
// so that one conditional write fences, renews and commits. Reading is done with pull consumers that acknowledge nothing and
// live in the server's memory: they are cursors, made anew at the sequence after the last one received whenever anything is
// strange. The server numbers what it delivers, so a message that got lost on the way is noticed.
//
// The sequence in the stream is the position. Sequences are shared by all subjects, so gaps are normal; messages that the
// stream's limits removed before they were read are recognised by the stream's first sequence, see tenure.go. Messages that
// somebody deletes from the middle (one by one, by purging a subject, by max_msgs_per_subject) are not missed: that is
// compaction. Streams with work-queue or interest retention are refused: they delete what was delivered.
//
// The key of a record is its header Millrace-Key; without it there is none (a subject says how the publisher divides the
// stream, not what the event is about). The other headers are passed on, by name: NATS does not keep the order of
// different names. The time is when the stream took the message.
//
// Run the servers with sync_interval: always in their jetstream block. Without it JetStream acknowledges a publish when the
// operating system has it, and syncs every two minutes. A server that loses power (a kill alone does no harm) then forgets up
// to two minutes of messages that it acknowledged, and gives their sequences to other messages: here the position is the
// sequence, so a checkpoint would stand behind messages that nobody read. The bucket with the checkpoints forgets as much, so
// what was published for good would be read again. With always, an acknowledgement means that the disk has it, at the price
// of one sync for each batch of publishes. Three replicas of which one always survives do as well; one replica without always
// does not.
//
// Verified on nats-server 2.15 as a process of its own by the tests with the tag real: TLS, users by password and by JWT with a
// credentials file, sync_interval: always, and kills. Not run: a cluster of servers.
//
// Read nats.go (a run from start to stop), tenure.go (one partition's life, what is missing), reader.go (fetching), table.go,
// reread.go (a replay).
package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/millrace-io/millrace/sources/lease"
	"github.com/millrace-io/millrace/stream"
)

// KeyHeader is the header that holds a record's key.
const KeyHeader = "Millrace-Key"

const (
	// dialTimeout bounds a connection attempt to one server.
	dialTimeout = 5 * time.Second

	// requestTimeout bounds one request; what fails is repeated.
	requestTimeout = 5 * time.Second

	// watchInterval is between two looks at the stream's ends; it bounds how old the lag is.
	watchInterval = 2 * time.Second
)

// Options are what the pipeline around a source gives it.
type Options struct {
	Pipeline string        // default of Config.Bucket, after "millrace-"; not empty
	Connect  []nats.Option // come after those of the Config: nats.InProcessServer, a dialer; default: none
	Log      *slog.Logger  // nil: none
}

// Source reads the stream of one Config.
type Source struct {
	cfg     Config
	connect []nats.Option
	log     *slog.Logger

	trouble stream.Trouble

	looks   time.Duration                 // watchInterval, shorter in tests
	through func(lease.Table) lease.Table // tests put faults between a worker and its bucket; nil: none
}

var (
	_ stream.Source  = (*Source)(nil)
	_ stream.Contact = (*Source)(nil)
)

// New returns a source that has not connected yet. It fails when cfg is not valid.
func New(cfg Config, o Options) (*Source, error) {
	if cfg.Bucket == "" {
		cfg.Bucket = "millrace-" + o.Pipeline
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Source{cfg: cfg, connect: o.Connect, log: o.Log, looks: watchInterval}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s, nil
}

// Failing is why the servers do not answer at present, and since when.
func (s *Source) Failing() (why string, since time.Time) { return s.trouble.Failing() }

// Checkpoints returns what is committed in the bucket, also for partitions that are no longer configured.
func (s *Source) Checkpoints(ctx context.Context) (map[string]stream.Checkpoint, error) {
	c, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	found := map[string]stream.Checkpoint{}
	bucket, err := c.js.KeyValue(ctx, s.cfg.Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return found, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", s.cfg.Bucket, denied(err))
	}
	names, err := s.stored(ctx, c)
	if err != nil {
		return nil, err
	}
	rows, err := (&table{bucket: bucket}).read(ctx, names)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		if r.Committed {
			found[r.Partition] = r.Checkpoint
		}
	}
	return found, nil
}

// stored is the partitions that the bucket has rows of.
func (s *Source) stored(ctx context.Context, c *connection) ([]string, error) {
	prefix := "$KV." + s.cfg.Bucket + "."
	log, err := c.js.Stream(ctx, "KV_"+s.cfg.Bucket)
	if err != nil {
		return nil, fmt.Errorf("list bucket %s: %w", s.cfg.Bucket, denied(err))
	}
	info, err := log.Info(ctx, jetstream.WithSubjectFilter(prefix+">"))
	if err != nil {
		return nil, fmt.Errorf("list bucket %s: %w", s.cfg.Bucket, denied(err))
	}
	var names []string
	for subject := range info.State.Subjects {
		if name, ok := partitionOf(subject[len(prefix):]); ok {
			names = append(names, name)
		}
	}
	return names, nil
}

// connection is one client, with the stream as it was found.
type connection struct {
	*nats.Conn
	js         jetstream.JetStream
	info       *jetstream.StreamInfo
	partitions []string

	again  atomic.Pointer[chan struct{}] // closed and replaced when the connection is back
	failed atomic.Pointer[error]         // why the servers refuse us for good
	hints  atomic.Pointer[nats.Subscription]
}

// reconnected is closed when the connection has been lost and is back.
func (c *connection) reconnected() <-chan struct{} { return *c.again.Load() }

// open makes sure that a server answers, lets us in and has the stream.
func (s *Source) open(ctx context.Context) (*connection, error) {
	opts, err := s.cfg.options()
	if err != nil {
		return nil, stream.Fatal(err)
	}
	c := &connection{}
	first := make(chan struct{})
	c.again.Store(&first)
	fails := func(_ *nats.Conn, err error) { s.trouble.Ended("connection", unanswered(err)) }
	opts = append(opts, nats.ReconnectHandler(func(*nats.Conn) {
		s.trouble.Ended("connection", nil)
		next := make(chan struct{})
		close(*c.again.Swap(&next))
	}), nats.DisconnectErrHandler(fails), nats.ReconnectErrHandler(fails), nats.ErrorHandler(c.asyncError(s.log)))
	if c.Conn, err = nats.Connect(s.cfg.URL, append(opts, s.connect...)...); err != nil {
		return nil, refusal(s.cfg.URL, err)
	}
	if err := s.inspect(ctx, c); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// asyncError keeps a lack of permissions, which requests only see as time-outs.
func (c *connection) asyncError(log *slog.Logger) nats.ErrHandler {
	return func(_ *nats.Conn, sub *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrPermissionViolation) && (sub == nil || sub != c.hints.Load()) {
			err := stream.Fatal(fmt.Errorf("the server does not allow it; the user needs the JetStream API, its inbox, and the bucket's subjects: %w", err))
			c.failed.CompareAndSwap(nil, &err)
			return
		}
		log.Debug("nats connection", "error", err)
	}
}

// refusal says what to do about an error of the first contact.
func refusal(url string, err error) error {
	if f := denied(err); f != err {
		return f
	}
	return fmt.Errorf("NATS server %s does not answer; check url and tls: %w", redact(url), err)
}

// denied is err as a FatalError if it is about who we are, or about a stream or bucket that is gone; else err.
func denied(err error) error {
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked),
		errors.Is(err, nats.ErrAccountAuthExpired), errors.Is(err, nats.ErrPermissionViolation):
		return stream.Fatal(fmt.Errorf("the NATS server refuses the credentials; check credentials, user, token: %w", err))
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return stream.Fatal(fmt.Errorf("the stream or bucket was deleted: %w", err))
	}
	return err
}

// unanswered says in operators' words why a call has no answer, and leaves other errors as they are.
func unanswered(err error) error {
	late := net.Error(nil)
	switch {
	case errors.Is(err, nats.ErrReconnectBufExceeded):
		return errors.New("not connected")
	case errors.Is(err, nats.ErrStaleConnection), errors.Is(err, nats.ErrTimeout), errors.As(err, &late) && late.Timeout():
		return fmt.Errorf("no answer in time: %w", err)
	}
	return err
}

// inspect finds the stream and divides it.
func (s *Source) inspect(ctx context.Context, c *connection) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	if c.js, err = jetstream.New(c.Conn); err != nil {
		return stream.Fatal(err)
	}
	found, err := c.js.Stream(ctx, s.cfg.Stream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return stream.Fatal(fmt.Errorf("stream %q does not exist; create it (nats stream add %s --subjects 'clicks.*') or fix stream", s.cfg.Stream, s.cfg.Stream))
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount), errors.Is(err, nats.ErrNoResponders):
		return stream.Fatal(fmt.Errorf("NATS server %s has no JetStream; start it with -js, or allow it for the account: %w", redact(s.cfg.URL), err))
	case err != nil:
		if failed := c.failed.Load(); failed != nil {
			return *failed
		}
		return fmt.Errorf("NATS server %s: look up stream %s: %w", redact(s.cfg.URL), s.cfg.Stream, err)
	}
	c.info = found.CachedInfo()
	config := c.info.Config
	if config.Retention != jetstream.LimitsPolicy {
		return stream.Fatal(fmt.Errorf("stream %q has %v retention and deletes what was delivered; want limits retention", s.cfg.Stream, config.Retention))
	}
	subjects := config.Subjects
	if len(subjects) == 0 { // a mirror, or one that only has sources
		subjects = []string{">"}
	}
	c.partitions = s.cfg.Partitions
	if len(c.partitions) == 0 {
		c.partitions = subjects
	}
	for _, p := range c.partitions {
		if !slices.ContainsFunc(subjects, func(subject string) bool { return overlap(p, subject) }) {
			return stream.Fatal(fmt.Errorf("partition %q is not in stream %q, which has %q; fix partitions", p, s.cfg.Stream, subjects))
		}
	}
	return nil
}

// openTable opens the bucket, and creates it if there is none.
func (s *Source) openTable(ctx context.Context, c *connection) (lease.Table, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	bucket, err := c.js.KeyValue(ctx, s.cfg.Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		bucket, err = c.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: s.cfg.Bucket, Description: "ownership and checkpoints of a Millrace pipeline", Replicas: c.info.Config.Replicas,
		})
		if errors.Is(err, jetstream.ErrBucketExists) {
			bucket, err = c.js.KeyValue(ctx, s.cfg.Bucket)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", s.cfg.Bucket, denied(err))
	}
	status, err := bucket.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", s.cfg.Bucket, denied(err))
	}
	if status.TTL() > 0 {
		return nil, stream.Fatal(fmt.Errorf("bucket %s forgets its entries after %v; checkpoints must stay: remove its TTL", s.cfg.Bucket, status.TTL()))
	}
	var t lease.Table = &table{bucket: bucket, partitions: c.partitions}
	if s.through != nil {
		t = s.through(t)
	}
	return t, nil
}

// run is one Run.
type run struct {
	*Source
	*connection
	table  lease.Table
	worker *lease.Worker
	holder lease.Holder

	ctx  context.Context // ends when the run stops or fails, with the reason as its cause
	fail context.CancelCauseFunc

	mu      sync.Mutex
	tenures map[string]*tenure // by partition
	living  sync.WaitGroup
}

// Run owns its part of the partitions until ctx ends.
func (s *Source) Run(ctx context.Context, assigned func(stream.Assignment) (stream.Consumer, error)) error {
	c, err := s.open(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer c.Close()
	r := &run{Source: s, connection: c, tenures: map[string]*tenure{}}
	r.ctx, r.fail = context.WithCancelCause(ctx)
	defer r.fail(nil)
	r.holder = lease.Holder{Soft: ctx, Run: r.ctx, Fail: r.fail, Assigned: assigned, Log: s.log}
	if err := r.own(); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	var loops sync.WaitGroup
	loops.Go(r.watch)
	if err := r.worker.Run(r.ctx, func([]lease.Row) []string { return c.partitions }, r.begin); err != nil {
		r.fail(err)
	}
	r.living.Wait()
	r.worker.Wait()
	loops.Wait()
	if err := context.Cause(r.ctx); err != context.Cause(ctx) { // what came first
		return err
	}
	return nil
}

// own prepares the worker, which hears of every change of the bucket as an ordinary subscriber: that makes hand-offs quick.
func (r *run) own() (err error) {
	if r.table, err = r.openTable(r.ctx, r.connection); err != nil {
		return err
	}
	r.worker, err = lease.New(r.table, lease.Config{Worker: r.cfg.Instance, Period: r.cfg.Lease, Poll: r.cfg.Lease / 4, Looked: func(err error) { r.trouble.Ended("leases", unanswered(err)) }, Log: r.log})
	if err != nil {
		return stream.Fatal(err)
	}
	prefix := "$KV." + r.cfg.Bucket + "."
	hints, err := r.Subscribe(prefix+">", func(m *nats.Msg) {
		if name, ok := partitionOf(m.Subject[len(prefix):]); ok {
			if row, err := decode(name, 0, m.Data); err == nil {
				r.worker.Saw(row)
			}
		}
	})
	if err != nil {
		return fmt.Errorf("watch bucket %s: %w", r.cfg.Bucket, err)
	}
	r.hints.Store(hints)
	return nil
}

// begin starts the tenure of a lease.
func (r *run) begin(l *lease.Lease) {
	t := newTenure(r, l)
	r.mu.Lock()
	r.tenures[l.Partition()] = t
	r.mu.Unlock()
	r.living.Go(func() {
		r.holder.Hold(l, t, t.deliver)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.tenures[l.Partition()] == t {
			delete(r.tenures, l.Partition())
		}
	})
}

// share is how many bytes one partition may ask for.
func (r *run) share() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(16<<10, int(r.cfg.Fetch.MaxBytes)/max(1, len(r.tenures)))
}

// retry calls f until it succeeds, fails for good, or ctx ends.
func (r *run) retry(ctx context.Context, failure string, f func(context.Context) error) error {
	for n := 0; ; n++ {
		attempt, cancel := context.WithTimeout(ctx, requestTimeout)
		err := f(attempt)
		cancel()
		var fatal *stream.FatalError
		if err == nil || errors.As(err, &fatal) || errors.Is(err, stream.ErrLost) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if n == 0 || n%32 == 0 {
			r.log.Warn(failure, "error", err, "attempt", n+1)
		}
		select {
		case <-time.After(min(50*time.Millisecond<<min(n, 6), 2*time.Second)):
		case <-ctx.Done():
		}
	}
}

// ends asks for the stream's first and last sequence. An empty stream that had messages has first = last + 1.
func (r *run) ends(ctx context.Context) (first, last uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	found, err := r.js.Stream(ctx, r.cfg.Stream)
	if err != nil {
		return 0, 0, fmt.Errorf("look up stream %s: %w", r.cfg.Stream, denied(err))
	}
	info := found.CachedInfo()
	if !info.Created.Equal(r.info.Created) {
		return 0, 0, stream.Fatal(fmt.Errorf("stream %q was deleted and created again while it was read", r.cfg.Stream))
	}
	return max(1, info.State.FirstSeq), info.State.LastSeq, nil
}

// watch looks at the stream every now and then: for messages that are gone before they were read, for the lag, and for
// servers that refuse us.
func (r *run) watch() {
	tick := time.NewTicker(r.looks)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			return
		}
		if err := r.refused(); err != nil {
			r.fail(err)
			return
		}
		r.mu.Lock()
		tenures := make([]*tenure, 0, len(r.tenures))
		for _, t := range r.tenures {
			tenures = append(tenures, t)
		}
		r.mu.Unlock()
		r.look(tenures)
	}
}

func (r *run) look(tenures []*tenure) {
	tenures = slices.DeleteFunc(tenures, func(t *tenure) bool { return !t.begun.Load() })
	received := make([]uint64, len(tenures))
	for i, t := range tenures {
		received[i] = t.received.Load()
	}
	first, last, err := r.ends(r.ctx)
	r.trouble.Ended("stream", unanswered(err))
	var gone *stream.FatalError
	if errors.As(err, &gone) {
		r.fail(err)
		return
	}
	if err != nil {
		r.log.Debug("stream does not answer", "error", err)
		return
	}
	for i, t := range tenures {
		if err := t.verify(received[i], first); err != nil {
			r.fail(err)
			return
		}
		t.measure(last)
	}
}

// refused is why no repetition will help; nil if it may.
func (c *connection) refused() error {
	if failed := c.failed.Load(); failed != nil {
		return *failed
	}
	if c.IsClosed() {
		return stream.Fatal(fmt.Errorf("the NATS servers ended the connection: %w", c.LastError()))
	}
	return nil
}
