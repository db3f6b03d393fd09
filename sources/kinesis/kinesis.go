// Package kinesis reads a Kinesis data stream. A partition is a shard.
//
// The reading is done by vmware-go-kcl-v2, the leases are ours. That library loses data when it owns shards by itself (it
// starts children before the second parent of a merge has ended, checkpoints without a condition, drops a whole batch for one
// broken aggregate, ends a shard's consumer at any error that is not a throttle, and takes one lease a minute), so it is given
// nothing to decide: see library.go for what it believes, and reader.go for what really happens.
//
// Ownership and checkpoints are rows of a DynamoDB table (package lease): one conditional write fences, renews and commits.
// A shard may be owned when all its parents have ended, so the order of a key holds across splits and merges; both parents of a
// merge are waited for, without a lease. Closed shards are read like open ones.
//
// The position is the sequence number and, for records of an aggregate of the Kinesis Producer Library, their place in it.
// Reading goes on at the last record's own sequence number, not after it: the rest of its aggregate comes, and if the record is
// no longer there, neither may be what followed it. Then the run ends with stream.ErrRetention, unless the row's mark says that
// nothing followed until a time that the stream's retention still covers.
//
// Enhanced fan-out is not offered: SubscribeToShard pushes what it has for five minutes whatever the receiver does with it, so
// the memory of a blocked partition is not bounded by configured bytes, and no server that runs without an account has it.
//
// What the credentials must allow: kinesis:DescribeStreamSummary, ListShards, GetShardIterator, GetRecords on the stream;
// dynamodb:DescribeTable, CreateTable (once), Scan, GetItem, PutItem on the table.
//
// Read kinesis.go (a run from start to stop), shards.go (which shards may be owned), reader.go (one shard's records),
// library.go, table.go, reread.go (a replay).
package kinesis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
	"github.com/aws/smithy-go/logging"
	"github.com/aws/smithy-go/middleware"

	"github.com/millrace-io/millrace/sources/awserr"
	"github.com/millrace-io/millrace/sources/lease"
	"github.com/millrace-io/millrace/stream"
)

const (
	// requestTimeout bounds one call with the SDK's own repetitions; what fails is repeated.
	requestTimeout = 20 * time.Second

	// listInterval is between two listings of the shards.
	listInterval = 15 * time.Second
)

// Options are what the pipeline around a source gives it.
type Options struct {
	Pipeline string                            // default of Config.Table, after "millrace-"; not empty
	AWS      []func(*config.LoadOptions) error // come after the environment; default: none
	Log      *slog.Logger                      // nil: none
}

// Source reads the stream of one Config.
type Source struct {
	cfg  Config
	aws  []func(*config.LoadOptions) error
	log  *slog.Logger
	free atomic.Int64 // see Unowned

	trouble stream.Trouble

	listing time.Duration                 // listInterval, shorter in tests
	through func(lease.Table) lease.Table // tests put faults between a worker and its table; nil: none
}

var (
	_ stream.Source   = (*Source)(nil)
	_ stream.Overview = (*Source)(nil)
	_ stream.Contact  = (*Source)(nil)
)

// New returns a source that has not connected yet. It fails when cfg is not valid.
func New(cfg Config, o Options) (*Source, error) {
	if cfg.Table == "" {
		cfg.Table = "millrace-" + o.Pipeline
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Source{cfg: cfg, aws: o.AWS, log: o.Log, listing: listInterval}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.free.Store(-1)
	return s, nil
}

// String names the stream in errors.
func (s *Source) String() string { return "stream " + s.cfg.Stream }

// Unowned is how many shards are to be read and have no owner, in any process, as of the last look at the table; -1 before the
// first.
func (s *Source) Unowned() int { return int(s.free.Load()) }

// Failing is why Kinesis, or the table, does not answer at present, and since when.
func (s *Source) Failing() (why string, since time.Time) { return s.trouble.Failing() }

// Checkpoints returns what is committed in the table.
func (s *Source) Checkpoints(ctx context.Context) (map[string]stream.Checkpoint, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	found := map[string]stream.Checkpoint{}
	if _, err := c.table.client.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: &c.table.name}); awserr.Code(err) == "ResourceNotFoundException" {
		return found, nil
	}
	rows, err := c.table.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		if r, err = c.table.Get(ctx, r.Partition); err != nil { // the list may be a little old
			return nil, err
		}
		if r.Committed {
			found[r.Partition] = r.Checkpoint
		}
	}
	return found, nil
}

// connection is the clients of one run.
type connection struct {
	sdk     aws.Config
	kinesis *kinesis.Client
	table   *table
}

func (s *Source) connect(ctx context.Context) (*connection, error) {
	sdk := logging.LoggerFunc(func(_ logging.Classification, format string, v ...any) {
		s.log.Debug("aws sdk", "text", fmt.Sprintf(format, v...))
	})
	cfg, err := config.LoadDefaultConfig(ctx, append([]func(*config.LoadOptions) error{config.WithLogger(sdk), Transport()}, s.aws...)...)
	if err != nil {
		return nil, stream.Fatal(fmt.Errorf("the AWS configuration in the environment or in ~/.aws: %w", err))
	}
	if cfg.Region == "" {
		return nil, stream.Fatal(fmt.Errorf("%s: no region; set AWS_REGION to the stream's", s))
	}
	if _, err := cfg.Credentials.Retrieve(ctx); err != nil {
		return nil, stream.Fatal(fmt.Errorf("%s: no credentials: %w; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the instance a role", s, err))
	}
	return &connection{cfg, kinesis.NewFromConfig(cfg), &table{dynamodb.NewFromConfig(cfg), s.cfg.Table}}, nil
}

// run is one Run.
type run struct {
	*Source
	*connection
	table  lease.Table // the connection's, or what tests put before it
	origin origin
	worker *lease.Worker
	holder lease.Holder
	kcl    *library
	shards shardList

	created   int64        // of the stream, ms since 1970
	retention atomic.Int64 // of the stream, ns

	ctx   context.Context // ends when the run stops or fails, with the reason as its cause
	fail  context.CancelCauseFunc
	ended chan struct{} // a shard has

	living  sync.WaitGroup
	tenures atomic.Int64 // that live
}

// Run owns its part of the shards until ctx ends.
func (s *Source) Run(ctx context.Context, assigned func(stream.Assignment) (stream.Consumer, error)) error {
	r := &run{Source: s, ended: make(chan struct{}, 1)}
	r.shards = shardList{missed: map[string]int{}, warned: map[string]bool{}}
	r.ctx, r.fail = context.WithCancelCause(ctx)
	defer r.fail(nil)
	r.holder = lease.Holder{Soft: ctx, Run: r.ctx, Fail: r.fail, Assigned: assigned, Log: s.log}
	err := r.open()
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	var loops sync.WaitGroup
	loops.Go(r.watch)
	if err := r.worker.Run(r.ctx, r.partitions, r.begin); err != nil {
		r.fail(err)
	}
	r.living.Wait()
	r.worker.Wait()
	loops.Wait()
	r.kcl.close()
	if err := context.Cause(r.ctx); err != context.Cause(ctx) { // what came first
		return err
	}
	return nil
}

// open finds the stream and the table, and starts the library.
func (r *run) open() (err error) {
	if r.connection, err = r.connect(r.ctx); err != nil {
		return err
	}
	r.table = r.connection.table
	if r.through != nil {
		r.table = r.through(r.table)
	}
	if err := r.openStream(); err != nil {
		return err
	}
	if err := r.bounded(r.ctx, r.refresh); err != nil {
		return err
	}
	r.worker, err = lease.New(r.table, lease.Config{Worker: r.cfg.Instance, Period: r.cfg.Lease, Looked: func(err error) { r.trouble.Ended("leases", err) }, Log: r.log})
	if err != nil {
		return stream.Fatal(err)
	}
	r.kcl, err = newLibrary(r)
	return err
}

// openStream makes sure that the table is about this stream, and learns where the pipeline began.
func (r *run) openStream() error {
	var summary *types.StreamDescriptionSummary
	var now time.Time
	for summary == nil || summary.StreamStatus == types.StreamStatusCreating {
		err := r.bounded(r.ctx, func(ctx context.Context) (err error) {
			summary, now, err = r.describe(ctx)
			return err
		})
		if err != nil {
			return err
		}
		if summary.StreamStatus == types.StreamStatusCreating {
			select {
			case <-time.After(tablePoll):
			case <-r.ctx.Done():
				return r.ctx.Err()
			}
		}
	}
	if summary.StreamStatus == types.StreamStatusDeleting {
		return stream.Fatal(fmt.Errorf("%s is being deleted", r))
	}
	r.retention.Store(int64(aws.ToInt32(summary.RetentionPeriodHours)) * int64(time.Hour))
	if summary.StreamCreationTimestamp != nil {
		r.created = summary.StreamCreationTimestamp.UnixMilli()
	}
	return r.bounded(r.ctx, func(ctx context.Context) error { return r.openTable(ctx, aws.ToString(summary.StreamARN), now) })
}

func (r *run) openTable(ctx context.Context, arn string, now time.Time) error {
	start, err := r.cfg.startTime()
	if err != nil {
		return stream.Fatal(err)
	}
	if r.cfg.Start == latest {
		start = now
	}
	if err := r.connection.table.open(ctx); err != nil {
		return err
	}
	want := origin{ARN: arn, Created: r.created, Start: start}
	if r.origin, err = r.connection.table.claimStream(ctx, want); err != nil {
		return err
	}
	switch {
	case r.origin.ARN != want.ARN:
		return stream.Fatal(fmt.Errorf("%s belongs to stream %s, this pipeline reads %s: another pipeline has the same name; rename one of them, or set table",
			r.connection.table, r.origin.ARN, arn))
	case r.origin.Created != want.Created:
		return r.createdAgain()
	}
	return nil
}

// createdAgain says what to do about a stream that is not the one that the table's sequence numbers are of.
func (r *run) createdAgain() error {
	return stream.Fatal(fmt.Errorf("stream %q was deleted and created again since the last run, so the stored sequence numbers mean nothing; "+
		"delete %s to start anew", r.cfg.Stream, r.connection.table))
}

// partitions is what lease.Worker may own.
func (r *run) partitions(rows []lease.Row) []string {
	r.free.Store(int64(r.shards.unowned(rows)))
	return r.shards.ready(rows)
}

// begin starts the tenure of a lease.
func (r *run) begin(l *lease.Lease) {
	r.tenures.Add(1)
	r.living.Go(func() {
		defer r.tenures.Add(-1)
		t := &tenure{Lease: l, run: r}
		t.behind.Store(-1)
		r.holder.Hold(l, t, t.deliver)
		if t.ended.Load() {
			select {
			case r.ended <- struct{}{}:
			default:
			}
		}
	})
}

// share is how many bytes one shard may read in advance.
func (r *run) share() int64 { return max(64<<10, r.cfg.Fetch.MaxBytes/max(1, r.tenures.Load())) }

// describe looks the stream up, at a time of the service's clock.
func (r *run) describe(ctx context.Context) (*types.StreamDescriptionSummary, time.Time, error) {
	out, err := r.kinesis.DescribeStreamSummary(ctx, &kinesis.DescribeStreamSummaryInput{StreamName: &r.cfg.Stream})
	if err != nil {
		return nil, time.Time{}, explain("look up", r.String(), err)
	}
	return out.StreamDescriptionSummary, serverTime(out.ResultMetadata), nil
}

// bounded gives a call or two a deadline.
func (r *run) bounded(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return f(ctx)
}

// failsWith ends the run if no repetition mends err.
func (r *run) failsWith(err error) bool {
	var fatal *stream.FatalError
	if !errors.As(err, &fatal) {
		return false
	}
	r.fail(err)
	return true
}

// serverTime is the clock of who answered, in whole seconds, rounded down; our own if it did not say. Times that are stored are of this
// clock, so a worker whose clock is wrong does no harm.
func serverTime(answer middleware.Metadata) time.Time {
	if at, ok := awsmiddleware.GetServerTime(answer); ok {
		return at
	}
	return time.Now().Truncate(time.Second)
}
