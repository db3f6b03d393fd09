package kinesis

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	"github.com/vmware/vmware-go-kcl-v2/clientlibrary/checkpoint"
	kclconfig "github.com/vmware/vmware-go-kcl-v2/clientlibrary/config"
	"github.com/vmware/vmware-go-kcl-v2/clientlibrary/interfaces"
	"github.com/vmware/vmware-go-kcl-v2/clientlibrary/partition"
	"github.com/vmware/vmware-go-kcl-v2/clientlibrary/worker"
	"github.com/vmware/vmware-go-kcl-v2/logger"

	"github.com/millrace-io/millrace/stream"
)

// syncInterval is about how often the library looks for something to read, and takes one.
const syncInterval = 20 * time.Millisecond

// library is the library's worker and what it believes: that there is a stream whose shards are our readers, each for one
// tenure. To it a reader is a new shard without parents and without a checkpoint that nobody else wants; it polls it, within 5
// calls a second, and hands what comes to a record processor.
//
// Three things of its are ours: the client, whose middleware answers ListShards and GetShardIterator without a server and
// makes of GetRecords whatever a reader has to do until it has records; the checkpointer, which says yes to everything; and the
// record processor, which hands the records over that the reader holds. So the library sees neither errors nor
// records: what it would do about them loses data.
type library struct {
	worker *worker.Worker

	mu      sync.Mutex
	number  int
	waiting map[string]*reader // by token: what the library calls the shard; it takes them from here
	taken   map[string]*reader // by token, until its goroutine has ended
}

func newLibrary(r *run) (*library, error) {
	l := &library{waiting: map[string]*reader{}, taken: map[string]*reader{}}
	client := kinesis.NewFromConfig(r.sdk, func(o *kinesis.Options) {
		o.Retryer = aws.NopRetryer{} // a reader repeats by itself
		o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
			return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("millrace", l.answer), middleware.Before)
		})
	})
	cfg := kclconfig.NewKinesisClientLibConfigWithCredentials("millrace", r.cfg.Stream, r.sdk.Region, "millrace", r.sdk.Credentials, r.sdk.Credentials).
		WithLogger(quiet{r.log}).
		WithInitialPositionInStream(kclconfig.TRIM_HORIZON).
		WithShardSyncIntervalMillis(int(syncInterval / time.Millisecond)).
		WithIdleTimeBetweenReadsInMillis(int(r.cfg.Poll / time.Millisecond)).
		WithCallProcessRecordsEvenForEmptyRecordList(true).
		WithLeaseRefreshWaitTime(math.MaxInt32) // the lease is renewed elsewhere
	l.worker = worker.NewWorker(processors{l}, cfg).WithKinesis(client).WithCheckpointer(agreeable{l})
	if err := l.worker.Start(); err != nil {
		return nil, stream.Fatal(fmt.Errorf("start the Kinesis client library: %w", err))
	}
	return l, nil
}

// close returns when no goroutine of the library is left. All readers have been closed before.
func (l *library) close() { l.worker.Shutdown() }

// add gives rd to the library.
func (l *library) add(rd *reader) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.number++
	rd.token = fmt.Sprintf("%s#%d", rd.tenure.Partition(), l.number)
	l.waiting[rd.token] = rd
}

// drop takes rd back if the library has not begun with it.
func (l *library) drop(rd *reader) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.waiting, rd.token)
}

// take says yes to a reader that waits, and again when the library renews what it took, every 25 days.
func (l *library) take(token string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rd := l.waiting[token]; rd != nil {
		delete(l.waiting, token)
		l.taken[token] = rd
	}
	return l.taken[token] != nil
}

// forget is told that the library's goroutine for a reader ends, which has been closed before.
func (l *library) forget(token string) {
	l.mu.Lock()
	rd := l.taken[token]
	delete(l.taken, token)
	l.mu.Unlock()
	if rd != nil {
		rd.abandoned()
	}
}

func (l *library) reader(token string) (*reader, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rd := l.taken[token]; rd != nil {
		return rd, nil
	}
	return nil, fmt.Errorf("the library asks for %q, which it was not given", token)
}

// shards is what there is to take.
func (l *library) shards() []types.Shard {
	l.mu.Lock()
	defer l.mu.Unlock()
	var shards []types.Shard
	for _, token := range slices.Sorted(maps.Keys(l.waiting)) {
		shards = append(shards, types.Shard{ShardId: &token, SequenceNumberRange: &types.SequenceNumberRange{StartingSequenceNumber: aws.String("0")}})
	}
	return shards
}

// answer is the middleware of the library's client.
func (l *library) answer(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (
	out middleware.InitializeOutput, metadata middleware.Metadata, err error,
) {
	switch p := in.Parameters.(type) {
	case *kinesis.ListShardsInput:
		out.Result = &kinesis.ListShardsOutput{Shards: l.shards()}
	case *kinesis.GetShardIteratorInput:
		out.Result = &kinesis.GetShardIteratorOutput{ShardIterator: p.ShardId}
	case *kinesis.GetRecordsInput:
		rd, err := l.reader(*p.ShardIterator)
		if err != nil {
			return out, metadata, err
		}
		more, err := rd.guarded(ctx, func(ctx context.Context, p *kinesis.GetRecordsInput) (*kinesis.GetRecordsOutput, middleware.Metadata, error) {
			out, metadata, err := next.HandleInitialize(ctx, middleware.InitializeInput{Parameters: p})
			if err != nil { // as the client does around this middleware
				err = &smithy.OperationError{ServiceID: kinesis.ServiceID, OperationName: "GetRecords", Err: err}
			}
			result, _ := out.Result.(*kinesis.GetRecordsOutput)
			return result, metadata, err
		})
		result := &kinesis.GetRecordsOutput{MillisBehindLatest: aws.Int64(rd.tenure.behind.Load())}
		if more {
			result.NextShardIterator = p.ShardIterator
		}
		out.Result = result
		return out, metadata, err
	default:
		err = fmt.Errorf("the library calls %T, which it has no reason to", p)
	}
	return out, metadata, err
}

// processors makes the record processors.
type processors struct{ kcl *library }

func (p processors) CreateProcessor() interfaces.IRecordProcessor {
	return &processor{kcl: p.kcl}
}

// processor is one reader as the library's goroutine sees it.
type processor struct {
	kcl    *library
	reader *reader
}

func (p *processor) Initialize(in *interfaces.InitializationInput) {
	p.reader, _ = p.kcl.reader(in.ShardId) // it was taken
}

// ProcessRecords is called after each GetRecords.
func (p *processor) ProcessRecords(*interfaces.ProcessRecordsInput) { p.reader.handOver() }

// Shutdown is called at the end of a shard and when the worker stops; then the readers have been closed before.
func (p *processor) Shutdown(in *interfaces.ShutdownInput) {
	if in.ShutdownReason == interfaces.TERMINATE {
		p.reader.end()
	}
}

// agreeable is a checkpointer that keeps nothing.
type agreeable struct{ kcl *library }

var _ checkpoint.Checkpointer = agreeable{}

func (a agreeable) Init() error { return nil }

func (a agreeable) GetLease(shard *partition.ShardStatus, owner string) error {
	if !a.kcl.take(shard.ID) {
		return checkpoint.ErrLeaseNotAcquired{}
	}
	shard.SetLeaseOwner(owner)
	return nil
}

func (a agreeable) RemoveLeaseOwner(shard string) error {
	a.kcl.forget(shard)
	return nil
}

func (a agreeable) FetchCheckpoint(*partition.ShardStatus) error {
	return checkpoint.ErrSequenceIDNotFound
}

func (a agreeable) CheckpointSequence(*partition.ShardStatus) error { return nil }
func (a agreeable) RemoveLeaseInfo(string) error                    { return nil }
func (a agreeable) GetLeaseOwner(string) (string, error)            { return "", nil }
func (a agreeable) ClaimShard(*partition.ShardStatus, string) error { return nil }
func (a agreeable) ListActiveWorkers(map[string]*partition.ShardStatus) (map[string][]*partition.ShardStatus, error) {
	return nil, nil
}

// quiet passes the library's words on for who debugs: what matters is said elsewhere.
type quiet struct{ log *slog.Logger }

func (q quiet) say(format string, args ...any) {
	if q.log.Enabled(context.Background(), slog.LevelDebug) {
		q.log.Debug("kinesis client library", "text", fmt.Sprintf(format, args...))
	}
}
func (q quiet) Debugf(format string, args ...any)      { q.say(format, args...) }
func (q quiet) Infof(format string, args ...any)       { q.say(format, args...) }
func (q quiet) Warnf(format string, args ...any)       { q.say(format, args...) }
func (q quiet) Errorf(format string, args ...any)      { q.say(format, args...) }
func (q quiet) Fatalf(format string, args ...any)      { q.say(format, args...) }
func (q quiet) Panicf(format string, args ...any)      { q.say(format, args...) }
func (q quiet) WithFields(logger.Fields) logger.Logger { return q }
