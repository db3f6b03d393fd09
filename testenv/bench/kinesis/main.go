// Command kinesis measures the Kinesis source against the in-process servers of testenv.
//
//	go run ./testenv/bench/kinesis             all of it; bin/millrace has to be built
//
// It prints two tables. What reading costs: CPU seconds (user + system) of a process that reads a stream with the source,
// beside one that reads the same bytes with a bare GetRecords loop. What many shards do: four processes of bin/millrace on 256
// shards, from a cold start to all shards read, after a clean stop, after a kill -9, and the memory of one that has all of them idle.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	kinesisapi "github.com/aws/aws-sdk-go-v2/service/kinesis"
	kinesistypes "github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	source "github.com/millrace-io/millrace/sources/kinesis"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/clicks"
	dynamoserver "github.com/millrace-io/millrace/testenv/dynamodb"
	"github.com/millrace-io/millrace/testenv/kinesis"
)

// readShards is how many shards the events of the first table are in: each gives at most 2 MB a second.
const readShards = 32

type options struct {
	events, shards int
	millrace       string
	read           string // internal: be a reader
}

func main() {
	var o options
	flag.IntVar(&o.events, "events", 500_000, "events that are read")
	flag.IntVar(&o.shards, "shards", 256, "shards of the second table")
	flag.StringVar(&o.millrace, "millrace", "bin/millrace", "the program")
	flag.StringVar(&o.read, "read", "", "internal: read with the source, or bare")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := error(nil)
	switch o.read {
	case "source":
		err = readWithSource(ctx, o.events)
	case "bare":
		err = readBare(ctx, o.events)
	default:
		err = o.run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if o.read != "" {
		fmt.Println(peak("self"))
	}
}

// sameMemory lets both readers collect garbage equally often. The source keeps to a shard's rate and to its own bounds, so its heap
// is a fraction of the bare loop's; by Go's default, that goes by the heap, it would collect several times as often. In millrace the
// engine's buffers are on the same heap.
var sameMemory = []string{"GOGC=off", "GOMEMLIMIT=256MiB"}

// world is the servers, and the environment by which a process finds them.
type world struct {
	streams *kinesis.Server
	tables  *dynamoserver.Server
	env     []string
}

func open() (*world, error) {
	streams, err := kinesis.Start(kinesis.Options{})
	if err != nil {
		return nil, err
	}
	tables, err := dynamoserver.Start(dynamoserver.Options{})
	if err != nil {
		return nil, err
	}
	w := &world{streams, tables, os.Environ()}
	for _, env := range []map[string]string{streams.Env(), tables.Env()} {
		for name, value := range env {
			w.env = append(w.env, name+"="+value)
		}
	}
	w.env = append(w.env, "AWS_CA_BUNDLE=")
	return w, nil
}

func (w *world) close() {
	w.streams.Close()
	w.tables.Close()
}

func (o options) run(ctx context.Context) error {
	w, err := open()
	if err != nil {
		return err
	}
	defer w.close()
	if err := o.reading(ctx, w); err != nil {
		return err
	}
	return o.owning(ctx, w)
}

// reading is the first table.
func (o options) reading(ctx context.Context, w *world) error {
	w.streams.CreateStream("clicks", readShards)
	shards := w.streams.Shards("clicks")
	g := clicks.New(clicks.Config{Seed: 1, Agents: 14})
	bytes := 0
	for n := range uint64(o.events) {
		value := g.Append(nil, n)
		bytes += len(value)
		w.streams.Put("clicks", shards[n%readShards].ID, kinesis.Record{Key: string(g.Key(nil, n)), Data: value})
	}
	fmt.Printf("%d events of %d bytes on average, %d shards\n%-14s %14s %10s %10s\n", o.events, bytes/o.events, readShards, "reader", "CPU-s/million", "peak RSS", "wall")
	var cpu [2]float64
	for i, how := range []string{"bare", "source"} {
		cmd := exec.CommandContext(ctx, os.Args[0], "-read", how, "-events", fmt.Sprint(o.events))
		var said strings.Builder
		cmd.Env, cmd.Stderr, cmd.Stdout = append(w.env, sameMemory...), os.Stderr, &said
		began := time.Now()
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", how, err)
		}
		cpu[i] = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds() / float64(o.events) * 1e6
		fmt.Printf("%-14s %14.2f %7s MB %9.1fs\n", how, cpu[i], strings.TrimSpace(said.String()), time.Since(began).Seconds())
	}
	fmt.Printf("%-14s %14.2f\n\n", "ratio", cpu[1]/cpu[0])
	w.streams.DeleteStream("clicks")
	return nil
}

// peak is the most memory that a process had so far, in MB. What the system says of ended children counts the parent's before
// they began.
func peak(process string) int {
	text, err := os.ReadFile("/proc/" + process + "/status")
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(text)) {
		var kb int
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kb); n == 1 {
			return kb >> 10
		}
	}
	return -1
}

// discard is a consumer that counts.
type discard struct {
	stream.Assignment
	count *atomic.Int64
	last  stream.Position
}

func (d *discard) Start() (stream.Position, bool) { return stream.Position{}, false }
func (d *discard) Deliver(_ context.Context, rs []stream.Record) error {
	d.last = rs[len(rs)-1].Pos
	d.count.Add(int64(len(rs)))
	return nil
}
func (d *discard) Abort() {}
func (d *discard) Drain(ctx context.Context, _ stream.Why) error {
	return d.Commit(ctx, stream.Checkpoint{Pos: d.last})
}

func readWithSource(ctx context.Context, events int) error {
	s, err := source.New(source.Config{Stream: "clicks"}, source.Options{Pipeline: "bench-read"})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var count atomic.Int64
	go func() {
		for ctx.Err() == nil && count.Load() < int64(events) {
			time.Sleep(20 * time.Millisecond)
		}
		cancel()
	}()
	return s.Run(ctx, func(a stream.Assignment) (stream.Consumer, error) { return &discard{Assignment: a, count: &count}, nil })
}

// readBare reads every shard to its end, and keeps nothing: what the SDK costs.
func readBare(ctx context.Context, events int) error {
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return err
	}
	client := kinesisapi.NewFromConfig(cfg)
	shards, err := client.ListShards(ctx, &kinesisapi.ListShardsInput{StreamName: aws.String("clicks")})
	if err != nil {
		return err
	}
	if len(shards.Shards) != readShards {
		return fmt.Errorf("%d shards are listed; want %d", len(shards.Shards), readShards)
	}
	var count atomic.Int64
	errs := make([]error, len(shards.Shards))
	var reading sync.WaitGroup
	for i, shard := range shards.Shards {
		reading.Go(func() { errs[i] = readShard(ctx, client, shard.ShardId, &count) })
	}
	reading.Wait()
	if n := count.Load(); n != int64(events) {
		errs = append(errs, fmt.Errorf("read %d events; want %d", n, events))
	}
	return errors.Join(errs...)
}

func readShard(ctx context.Context, client *kinesisapi.Client, shard *string, count *atomic.Int64) error {
	at, err := client.GetShardIterator(ctx, &kinesisapi.GetShardIteratorInput{
		StreamName: aws.String("clicks"), ShardId: shard, ShardIteratorType: kinesistypes.ShardIteratorTypeTrimHorizon,
	})
	if err != nil {
		return err
	}
	for iterator := at.ShardIterator; ; {
		out, err := client.GetRecords(ctx, &kinesisapi.GetRecordsInput{ShardIterator: iterator, Limit: aws.Int32(2000)})
		if err != nil {
			return err
		}
		count.Add(int64(len(out.Records)))
		if len(out.Records) == 0 {
			return nil
		}
		iterator = out.NextShardIterator
	}
}

// period of the leases of the second table.
const period = 10 * time.Second

const pipeline = `name: bench
source: { kinesis: { stream: many, lease: 10s } }
decode: { format: json }
sinks: { lake: { parquet: { url: "%s" } } }
`

// owning is the second table.
func (o options) owning(ctx context.Context, w *world) error {
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "many.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, pipeline, filepath.Join(dir, "lake")), 0o666); err != nil {
		return err
	}
	w.streams.CreateStream("many", o.shards)
	client := dynamodb.New(dynamodb.Options{BaseEndpoint: aws.String(w.tables.URL()), Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("local", "localsecret", "")})
	fmt.Printf("%d shards, leases of %v\n", o.shards, period)

	began := time.Now()
	var workers []*exec.Cmd
	defer func() {
		for _, cmd := range workers {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}()
	for range 4 {
		cmd, err := o.worker(ctx, w, file)
		if err != nil {
			return err
		}
		workers = append(workers, cmd)
	}
	step := func(what string, owners int) error {
		owned, equal, shares, err := o.settled(ctx, client, began, owners)
		fmt.Printf("%-22s all are owned %5.1fs   in equal parts %5.1fs   shards a worker: %v\n", what, owned.Seconds(), equal.Seconds(), shares)
		return err
	}
	if err := step("cold start", 4); err != nil {
		return err
	}
	began = time.Now()
	if err := workers[0].Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := step("one stops", 3); err != nil {
		return err
	}
	if err := workers[0].Wait(); err != nil {
		return err
	}
	workers = workers[1:]
	began = time.Now()
	_ = workers[0].Process.Kill()
	_ = workers[0].Wait()
	workers = workers[1:]
	if err := step("one is killed", 2); err != nil {
		return err
	}
	began = time.Now()
	if err := workers[0].Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := step("another stops", 1); err != nil {
		return err
	}
	if err := workers[0].Wait(); err != nil {
		return err
	}
	last := workers[1]
	time.Sleep(period) // at rest
	memory := peak(strconv.Itoa(last.Process.Pid))
	_ = last.Process.Signal(syscall.SIGTERM)
	if err := last.Wait(); err != nil {
		return err
	}
	workers = nil
	fmt.Printf("peak memory of the one with all, idle: %d MB\n", memory)
	return nil
}

func (o options) worker(ctx context.Context, w *world, file string) (*exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, o.millrace, "run", "--log-level", "error", file)
	cmd.Env, cmd.Stderr = w.env, os.Stderr
	return cmd, cmd.Start()
}

// settled waits until so many workers have the shards, within one of each other. At a cold start shards are owned by fewer first.
func (o options) settled(ctx context.Context, client *dynamodb.Client, began time.Time, owners int) (owned, equal time.Duration, shares []int, err error) {
	for time.Since(began) < 2*time.Minute && ctx.Err() == nil {
		by, err := ownedBy(ctx, client)
		equal = time.Since(began)
		shares = slices.Sorted(maps.Values(by))
		total := 0
		for _, n := range shares {
			total += n
		}
		if err == nil && total == o.shards && len(by) <= owners {
			if owned == 0 {
				owned = equal
			}
			if len(by) == owners && fair(shares) {
				return owned, equal, shares, nil
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return owned, equal, shares, errors.New("it takes too long")
}

func fair(sorted []int) bool { return sorted[len(sorted)-1]-sorted[0] <= 1 }

// ownedBy counts the shards of each worker's run.
func ownedBy(ctx context.Context, client *dynamodb.Client) (map[string]int, error) {
	by := map[string]int{}
	var from map[string]types.AttributeValue
	for {
		out, err := client.Scan(ctx, &dynamodb.ScanInput{TableName: aws.String("millrace-bench"), ExclusiveStartKey: from})
		if err != nil {
			return nil, err
		}
		for _, item := range out.Items {
			if run, ok := item["run"].(*types.AttributeValueMemberS); ok {
				by[run.Value]++
			}
		}
		if from = out.LastEvaluatedKey; len(from) == 0 {
			return by, nil
		}
	}
}
