//go:build real

package crash

import (
	"context"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"github.com/millrace-io/millrace/testenv/awsjson"
	"github.com/millrace-io/millrace/testenv/clicks"
	"github.com/millrace-io/millrace/testenv/dynamodb"
	standin "github.com/millrace-io/millrace/testenv/kinesis"
	"github.com/millrace-io/millrace/testenv/npm"
)

const kinesisPipeline = `name: crash
source:
  kinesis: { stream: clicks, lease: 2s }
decode: { format: json }
sinks:
  lake:
    parquet: { url: "%[1]s/lake", partition_by: [date, hour], roll: { size: 256KiB, age: 300ms, idle: 100ms } }
dead_letters: { url: "%[1]s/dead" }
admin: "${ADMIN}"
`

// TestRealCrashKinesis has processes come and leave that share a stream of kinesalite, with leases in dynalite, over a split and a merge.
func TestRealCrashKinesis(t *testing.T) {
	dir := t.TempDir()
	random := seed(t)
	s := &stream{T: t, transport: &awsjson.Transport{}, url: standIn(t, standin.Kinesalite), input: filepath.Join(dir, "input.jsonl")}
	env := []string{
		"AWS_ENDPOINT_URL_KINESIS=" + s.url, "AWS_ENDPOINT_URL_DYNAMODB=" + standIn(t, dynamodb.Dynalite),
		"AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=local", "AWS_SECRET_ACCESS_KEY=localsecret",
	}
	s.create()
	file := filepath.Join(dir, "pipeline.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, kinesisPipeline, dir), 0o666); err != nil {
		t.Fatal(err)
	}
	bin := program(t, "cmd/millrace")
	producing, done := context.WithCancel(t.Context())
	defer done()
	var feeding sync.WaitGroup
	feeding.Go(func() { s.produce(producing) })

	c, stopped := begin(millrace{t: t, bin: bin, file: file, env: env}, random)
	c.leave(events / 4)
	s.split()
	c.leave(events / 2)
	s.merge()
	stopped()
	done()
	feeding.Wait()

	c.prove(func(admin string) bool { return caughtUp(admin, "millrace_partition_lag_seconds{", len(s.open())) }, dir, s.input)
	if shards := s.shards(); len(shards) != 5 {
		t.Errorf("the stream has had %d shards; want 5: two, two halves of one, and these merged", len(shards))
	}
}

func standIn(t *testing.T, start func() (*npm.Server, error)) string {
	t.Helper()
	s, err := start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.URL()
}

// stream is the stream "clicks" and who writes to it.
type stream struct {
	*testing.T
	url, input string
	transport  *awsjson.Transport
}

func (s *stream) client() *kinesis.Client {
	return kinesis.New(kinesis.Options{
		BaseEndpoint: &s.url, Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("local", "localsecret", ""),
		Retryer: aws.NopRetryer{}, HTTPClient: &http.Client{Transport: s.transport}, // nothing is put twice
	})
}

func (s *stream) create() {
	s.Helper()
	_, err := s.client().CreateStream(s.Context(), &kinesis.CreateStreamInput{StreamName: aws.String("clicks"), ShardCount: aws.Int32(2)})
	if err != nil {
		s.Fatal(err)
	}
	s.active()
}

// active waits until the stream takes changes.
func (s *stream) active() {
	s.Helper()
	for late := time.Now().Add(time.Minute); time.Now().Before(late); <-time.After(10 * time.Millisecond) {
		out, err := s.client().DescribeStreamSummary(s.Context(), &kinesis.DescribeStreamSummaryInput{StreamName: aws.String("clicks")})
		if err == nil && out.StreamDescriptionSummary.StreamStatus == types.StreamStatusActive {
			return
		}
	}
	s.Error("the stream does not become active")
}

func (s *stream) shards() []types.Shard {
	s.Helper()
	out, err := s.client().ListShards(s.Context(), &kinesis.ListShardsInput{StreamName: aws.String("clicks")})
	if err != nil {
		s.Error(err)
		return nil
	}
	return out.Shards
}

// open are the shards that take records.
func (s *stream) open() []types.Shard {
	s.Helper()
	return slices.DeleteFunc(s.shards(), func(x types.Shard) bool { return x.SequenceNumberRange.EndingSequenceNumber != nil })
}

func (s *stream) split() {
	s.Helper()
	shard := s.open()[0]
	from, _ := new(big.Int).SetString(*shard.HashKeyRange.StartingHashKey, 10)
	to, _ := new(big.Int).SetString(*shard.HashKeyRange.EndingHashKey, 10)
	middle := from.Rsh(from.Add(from, to), 1).String()
	_, err := s.client().SplitShard(s.Context(), &kinesis.SplitShardInput{StreamName: aws.String("clicks"), ShardToSplit: shard.ShardId, NewStartingHashKey: &middle})
	if err != nil {
		s.Error("split:", err)
	}
	s.active()
}

func (s *stream) merge() {
	s.Helper()
	halves := slices.DeleteFunc(s.open(), func(x types.Shard) bool { return x.ParentShardId == nil })
	if len(halves) != 2 {
		s.Errorf("%d shards have a parent; want two halves", len(halves))
		return
	}
	_, err := s.client().MergeShards(s.Context(), &kinesis.MergeShardsInput{StreamName: aws.String("clicks"), ShardToMerge: halves[0].ShardId, AdjacentShardToMerge: halves[1].ShardId})
	if err != nil {
		s.Error("merge:", err)
	}
	s.active()
}

// produce puts events, a few of them broken, until ctx ends, and writes what the stream took to the input file.
func (s *stream) produce(ctx context.Context) {
	out, err := os.Create(s.input)
	if err != nil {
		s.Error(err)
		return
	}
	defer out.Close()
	client := s.client()
	g := clicks.New(clicks.Config{Seed: 1, Step: time.Second, Broken: 2000})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := uint64(0); ctx.Err() == nil; {
		in := &kinesis.PutRecordsInput{StreamName: aws.String("clicks")}
		for range 20 {
			in.Records = append(in.Records, types.PutRecordsRequestEntry{PartitionKey: aws.String(string(g.Key(nil, n))), Data: g.Append(nil, n)})
			n++
		}
		// Without the test's context: what is sent is taken or refused, never in between.
		answer, err := client.PutRecords(context.WithoutCancel(ctx), in)
		if err != nil {
			s.Error("put:", err)
			return
		}
		for i, r := range answer.Records {
			if r.ErrorCode == nil { // else, while a shard is split or merged, it was not taken
				fmt.Fprintf(out, "%s\n", in.Records[i].Data)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}
