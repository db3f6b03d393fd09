//go:build real

package kinesis

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"github.com/millrace-io/millrace/testenv/npm"
)

// Why kinesis-local answers otherwise, in more than one step.
const (
	validated = "kinesis-local: InvalidArgumentException; Amazon and kinesalite check the members of a request first: ValidationException"
	foreign   = "kinesis-local: ResourceNotFoundException; Amazon and kinesalite: InvalidArgumentException"
)

// TestRealStandInsAgree runs one script of calls against this server and two that others wrote, and compares what was answered.
func TestRealStandInsAgree(t *testing.T) {
	_, ours := start(t, Options{ShardPage: 2})
	want := play(t, ours)
	for _, other := range []struct {
		name    string
		start   func() (*npm.Server, error)
		differs map[string]string // step: why the answers are not the same
	}{
		{"kinesalite", Kinesalite, map[string]string{
			"a token with a name":     "kinesalite lets it pass; Amazon: InvalidArgumentException",
			"scale":                   "kinesalite has no UpdateShardCount",
			"hash keys after scaling": "kinesalite has no UpdateShardCount",
			"split a closed shard":    "kinesalite splits it again (its issue 109 quotes Amazon's InvalidArgumentException)",
		}},
		{"kinesis-local", Local, map[string]string{
			"put without a key":            validated,
			"put by a key of 257":          validated,
			"put too much":                 validated,
			"put too many":                 "kinesis-local has no limit of 500 records",
			"at a number of another shard": foreign,
			"at no number":                 foreign,
			"the horizon with a number":    "kinesis-local ignores the number",
			"a broken iterator":            "kinesis-local fails with a 500",
			"hash keys after scaling":      "kinesis-local splits one shard; Amazon makes all even",
			"split a closed shard":         "kinesis-local: ResourceInUseException; Amazon: InvalidArgumentException",
		}},
	} {
		t.Run(other.name, func(t *testing.T) {
			s, err := other.start()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
			compare(t, want, play(t, client(t, s.URL(), "local")), other.differs)
		})
	}
}

// compare reports the steps whose answers differ, and the differences that there are none of.
func compare(t *testing.T, want, got []answer, differs map[string]string) {
	t.Helper()
	if len(want) != len(got) {
		t.Fatalf("%d answers; want %d", len(got), len(want))
	}
	for i, w := range want {
		why, known := differs[w.step]
		if same := w.text == got[i].text; same == known {
			t.Errorf("%s: the other answers %q; ours %q (known difference: %q)", w.step, got[i].text, w.text, why)
		}
	}
}

// answer is what matters of a step's outcome, as a text.
type answer struct{ step, text string }

// script collects the answers of one server.
type script struct {
	t       *testing.T
	c       *kinesis.Client
	answers []answer
}

func (s *script) note(step string, text any, err error) {
	if err != nil {
		text = "error " + code(err)
	}
	s.answers = append(s.answers, answer{step, fmt.Sprint(text)})
}

func play(t *testing.T, c *kinesis.Client) []answer {
	s := &script{t: t, c: c}
	s.streams()
	s.records()
	s.iterators()
	s.reshard()
	s.refusals()
	return s.answers
}

// active waits for the stream.
func (s *script) active() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	for {
		out, err := s.c.DescribeStreamSummary(ctx, &kinesis.DescribeStreamSummaryInput{StreamName: name})
		if err != nil {
			s.t.Fatal(err)
		}
		if out.StreamDescriptionSummary.StreamStatus == types.StreamStatusActive {
			return
		}
	}
}

var name = aws.String("clicks")

func (s *script) streams() {
	_, err := s.c.CreateStream(s.t.Context(), &kinesis.CreateStreamInput{StreamName: name, ShardCount: aws.Int32(3)})
	s.note("create", "", err)
	s.active()
	_, err = s.c.CreateStream(s.t.Context(), &kinesis.CreateStreamInput{StreamName: name, ShardCount: aws.Int32(3)})
	s.note("create again", "", err)
	_, err = s.c.DescribeStreamSummary(s.t.Context(), &kinesis.DescribeStreamSummaryInput{StreamName: aws.String("none")})
	s.note("describe none", "", err)
	sum, err := s.c.DescribeStreamSummary(s.t.Context(), &kinesis.DescribeStreamSummaryInput{StreamName: name})
	d := sum.StreamDescriptionSummary
	s.note("describe", fmt.Sprint(*d.OpenShardCount, *d.RetentionPeriodHours, *d.StreamName, time.Since(*d.StreamCreationTimestamp).Abs() < time.Hour), err)
	list, err := s.c.ListStreams(s.t.Context(), &kinesis.ListStreamsInput{})
	s.note("list streams", list.StreamNames, err)
	s.shards("shards")
}

// listed is all shards, page by page.
func (s *script) listed() []types.Shard {
	s.t.Helper()
	var all []types.Shard
	in := &kinesis.ListShardsInput{StreamName: name, MaxResults: aws.Int32(2)}
	for in != nil {
		out, err := s.c.ListShards(s.t.Context(), in)
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, out.Shards...)
		in = nil
		if out.NextToken != nil {
			in = &kinesis.ListShardsInput{NextToken: out.NextToken, MaxResults: aws.Int32(2)}
		}
	}
	return all
}

func (s *script) shards(step string) {
	s.t.Helper()
	var lines []string
	for _, sh := range s.listed() {
		lines = append(lines, fmt.Sprint(*sh.ShardId, " ", aws.ToString(sh.ParentShardId), "+", aws.ToString(sh.AdjacentParentShardId), " ",
			*sh.HashKeyRange.StartingHashKey, "-", *sh.HashKeyRange.EndingHashKey, " closed ", sh.SequenceNumberRange.EndingSequenceNumber != nil))
	}
	s.note(step, strings.Join(lines, "\n"), nil)
}

// ranges notes the hash keys of the open shards, whatever their names.
func (s *script) ranges(step string) {
	var open []string
	for _, sh := range s.listed() {
		if sh.SequenceNumberRange.EndingSequenceNumber == nil {
			open = append(open, *sh.HashKeyRange.StartingHashKey+"-"+*sh.HashKeyRange.EndingHashKey)
		}
	}
	slices.Sort(open)
	s.note(step, strings.Join(open, " "), nil)
}

func (s *script) records() {
	for _, c := range []struct {
		step string
		in   kinesis.PutRecordInput
	}{
		{"put by key", kinesis.PutRecordInput{PartitionKey: aws.String("user-1"), Data: []byte("a")}},
		{"put by a key of letters", kinesis.PutRecordInput{PartitionKey: aws.String("ключ \"\\"), Data: []byte("b")}},
		{"put by hash key", kinesis.PutRecordInput{PartitionKey: aws.String("x"), ExplicitHashKey: aws.String("0"), Data: []byte{0, 255}}},
		{"put by the last hash key", kinesis.PutRecordInput{
			PartitionKey: aws.String("x"), ExplicitHashKey: aws.String("340282366920938463463374607431768211455"), Data: []byte("d"),
		}},
		{"put beyond the last hash key", kinesis.PutRecordInput{
			PartitionKey: aws.String("x"), ExplicitHashKey: aws.String("340282366920938463463374607431768211456"), Data: []byte("d"),
		}},
		{"put nothing", kinesis.PutRecordInput{PartitionKey: aws.String("empty"), Data: []byte{}}},
		{"put without a key", kinesis.PutRecordInput{PartitionKey: aws.String(""), Data: []byte("e")}},
		{"put by a key of 256", kinesis.PutRecordInput{PartitionKey: aws.String(strings.Repeat("k", 256)), Data: []byte("f")}},
		{"put by a key of 257", kinesis.PutRecordInput{PartitionKey: aws.String(strings.Repeat("k", 257)), Data: []byte("f")}},
		{"put too much", kinesis.PutRecordInput{PartitionKey: aws.String("big"), Data: make([]byte, 1<<20+1)}},
	} {
		c.in.StreamName = name
		out, err := s.c.PutRecord(s.t.Context(), &c.in)
		shard := ""
		if err == nil {
			shard = *out.ShardId
		}
		s.note(c.step, shard, err)
	}
	s.batch("put many", 500)
}

func (s *script) batch(step string, n int) {
	var rs []types.PutRecordsRequestEntry
	for i := range n {
		rs = append(rs, types.PutRecordsRequestEntry{PartitionKey: aws.String(fmt.Sprint("k", i)), Data: fmt.Append(nil, i)})
	}
	out, err := s.c.PutRecords(s.t.Context(), &kinesis.PutRecordsInput{StreamName: name, Records: rs})
	text := ""
	if err == nil {
		text = fmt.Sprint(*out.FailedRecordCount)
		for _, r := range out.Records {
			text += " " + (*r.ShardId)[len("shardId-00000000000"):]
		}
	}
	s.note(step, text, err)
}

// read notes what an iterator of a kind gives, until nothing comes.
func (s *script) read(step string, in kinesis.GetShardIteratorInput) []types.Record {
	in.StreamName = name
	it, err := s.c.GetShardIterator(s.t.Context(), &in)
	if err != nil {
		s.note(step, "", err)
		return nil
	}
	var all []types.Record
	next := it.ShardIterator
	for next != nil {
		out, err := s.c.GetRecords(s.t.Context(), &kinesis.GetRecordsInput{ShardIterator: next, Limit: aws.Int32(50)})
		if err != nil {
			s.note(step, "", err)
			return nil
		}
		all = append(all, out.Records...)
		if next = out.NextShardIterator; len(out.Records) == 0 {
			break
		}
	}
	var text []string
	for _, r := range all {
		text = append(text, fmt.Sprintf("%s=%x", *r.PartitionKey, r.Data))
	}
	if !slices.IsSortedFunc(all, func(a, b types.Record) int { return compareNumbers(*a.SequenceNumber, *b.SequenceNumber) }) {
		text = append(text, "out of order")
	}
	s.note(step, strings.Join(text, " "), nil)
	return all
}

func compareNumbers(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

func (s *script) iterators() {
	first := aws.String("shardId-000000000000")
	all := s.read("from the trim horizon", kinesis.GetShardIteratorInput{ShardId: first, ShardIteratorType: types.ShardIteratorTypeTrimHorizon})
	s.read("the second shard", kinesis.GetShardIteratorInput{
		ShardId: aws.String("shardId-000000000001"), ShardIteratorType: types.ShardIteratorTypeTrimHorizon,
	})
	s.read("the latest", kinesis.GetShardIteratorInput{ShardId: first, ShardIteratorType: types.ShardIteratorTypeLatest})
	number := all[len(all)/2].SequenceNumber
	s.read("at a number", kinesis.GetShardIteratorInput{
		ShardId: first, ShardIteratorType: types.ShardIteratorTypeAtSequenceNumber, StartingSequenceNumber: number,
	})
	s.read("after a number", kinesis.GetShardIteratorInput{
		ShardId: first, ShardIteratorType: types.ShardIteratorTypeAfterSequenceNumber, StartingSequenceNumber: number,
	})
	s.read("after the last number", kinesis.GetShardIteratorInput{
		ShardId: first, ShardIteratorType: types.ShardIteratorTypeAfterSequenceNumber, StartingSequenceNumber: all[len(all)-1].SequenceNumber,
	})
	s.read("at a number of another shard", kinesis.GetShardIteratorInput{
		ShardId: aws.String("shardId-000000000001"), ShardIteratorType: types.ShardIteratorTypeAtSequenceNumber, StartingSequenceNumber: number,
	})
	s.read("at no number", kinesis.GetShardIteratorInput{
		ShardId: first, ShardIteratorType: types.ShardIteratorTypeAtSequenceNumber, StartingSequenceNumber: aws.String("12"),
	})
	s.read("without a number", kinesis.GetShardIteratorInput{ShardId: first, ShardIteratorType: types.ShardIteratorTypeAfterSequenceNumber})
	s.read("the horizon with a number", kinesis.GetShardIteratorInput{
		ShardId: first, ShardIteratorType: types.ShardIteratorTypeTrimHorizon, StartingSequenceNumber: number,
	})
	s.read("at an early time", kinesis.GetShardIteratorInput{
		ShardId: first, ShardIteratorType: types.ShardIteratorTypeAtTimestamp, Timestamp: aws.Time(time.Now().Add(-time.Hour)),
	})
	s.read("at a later time", kinesis.GetShardIteratorInput{
		ShardId: first, ShardIteratorType: types.ShardIteratorTypeAtTimestamp, Timestamp: aws.Time(time.Now().Add(time.Hour)),
	})
	s.read("without a time", kinesis.GetShardIteratorInput{ShardId: first, ShardIteratorType: types.ShardIteratorTypeAtTimestamp})
	s.read("of no shard", kinesis.GetShardIteratorInput{ShardId: aws.String("shardId-000000000009"), ShardIteratorType: types.ShardIteratorTypeLatest})
	_, err := s.c.GetRecords(s.t.Context(), &kinesis.GetRecordsInput{ShardIterator: aws.String("nonsense")})
	s.note("a broken iterator", "", err)
}

func (s *script) reshard() {
	ctx := s.t.Context()
	_, err := s.c.SplitShard(ctx, &kinesis.SplitShardInput{
		StreamName: name, ShardToSplit: aws.String("shardId-000000000000"), NewStartingHashKey: aws.String("1000"),
	})
	s.note("split", "", err)
	s.active()
	s.shards("shards after a split")
	s.batch("put after a split", 100)
	parent := s.read("the parent", kinesis.GetShardIteratorInput{
		ShardId: aws.String("shardId-000000000000"), ShardIteratorType: types.ShardIteratorTypeTrimHorizon,
	})
	child := s.read("the upper child", kinesis.GetShardIteratorInput{
		ShardId: aws.String("shardId-000000000004"), ShardIteratorType: types.ShardIteratorTypeTrimHorizon,
	})
	s.note("children come after", compareNumbers(*parent[len(parent)-1].SequenceNumber, *child[0].SequenceNumber) < 0, nil)
	s.read("the latest of a closed shard", kinesis.GetShardIteratorInput{
		ShardId: aws.String("shardId-000000000000"), ShardIteratorType: types.ShardIteratorTypeLatest,
	})
	_, err = s.c.SplitShard(ctx, &kinesis.SplitShardInput{
		StreamName: name, ShardToSplit: aws.String("shardId-000000000003"), NewStartingHashKey: aws.String("2000"),
	})
	s.note("split outside", "", err)
	_, err = s.c.MergeShards(ctx, &kinesis.MergeShardsInput{
		StreamName: name, ShardToMerge: aws.String("shardId-000000000003"), AdjacentShardToMerge: aws.String("shardId-000000000002"),
	})
	s.note("merge strangers", "", err)
	_, err = s.c.MergeShards(ctx, &kinesis.MergeShardsInput{
		StreamName: name, ShardToMerge: aws.String("shardId-000000000004"), AdjacentShardToMerge: aws.String("shardId-000000000001"),
	})
	s.note("merge", "", err)
	s.active()
	s.shards("shards after a merge")
	s.batch("put after a merge", 100)
	s.read("the merged shard", kinesis.GetShardIteratorInput{
		ShardId: aws.String("shardId-000000000005"), ShardIteratorType: types.ShardIteratorTypeTrimHorizon,
	})
	s.read("a parent of it", kinesis.GetShardIteratorInput{
		ShardId: aws.String("shardId-000000000004"), ShardIteratorType: types.ShardIteratorTypeTrimHorizon,
	})
}

func (s *script) refusals() {
	ctx := s.t.Context()
	s.active()
	_, err := s.c.IncreaseStreamRetentionPeriod(ctx, &kinesis.IncreaseStreamRetentionPeriodInput{StreamName: name, RetentionPeriodHours: aws.Int32(48)})
	s.note("keep longer", "", err)
	s.active()
	_, err = s.c.IncreaseStreamRetentionPeriod(ctx, &kinesis.IncreaseStreamRetentionPeriodInput{StreamName: name, RetentionPeriodHours: aws.Int32(25)})
	s.note("keep longer, but shorter", "", err)
	_, err = s.c.DecreaseStreamRetentionPeriod(ctx, &kinesis.DecreaseStreamRetentionPeriodInput{StreamName: name, RetentionPeriodHours: aws.Int32(24)})
	s.note("keep shorter", "", err)
	s.active()
	out, err := s.c.ListShards(ctx, &kinesis.ListShardsInput{StreamName: name, MaxResults: aws.Int32(1)})
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = s.c.ListShards(ctx, &kinesis.ListShardsInput{StreamName: name, NextToken: out.NextToken})
	s.note("a token with a name", "", err)
	after, err := s.c.ListShards(ctx, &kinesis.ListShardsInput{
		StreamName: name, ExclusiveStartShardId: aws.String("shardId-000000000003"), MaxResults: aws.Int32(1),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.note("shards after one", *after.Shards[0].ShardId, nil)
	// From here on a stand-in may do what it should refuse.
	s.batch("put too many", 501)
	_, err = s.c.UpdateShardCount(ctx, &kinesis.UpdateShardCountInput{
		StreamName: name, TargetShardCount: aws.Int32(4), ScalingType: types.ScalingTypeUniformScaling,
	})
	s.note("scale", "", err)
	s.active()
	s.ranges("hash keys after scaling")
	_, err = s.c.SplitShard(ctx, &kinesis.SplitShardInput{
		StreamName: name, ShardToSplit: aws.String("shardId-000000000000"), NewStartingHashKey: aws.String("500"),
	})
	s.note("split a closed shard", "", err)
	s.active()
	it := iterate(s.t, s.c, *name, "shardId-000000000005", types.ShardIteratorTypeTrimHorizon, "")
	_, err = s.c.DeleteStream(ctx, &kinesis.DeleteStreamInput{StreamName: name})
	s.note("delete", "", err)
	for err == nil {
		_, err = s.c.DescribeStreamSummary(ctx, &kinesis.DescribeStreamSummaryInput{StreamName: name})
	}
	s.note("describe what is gone", "", err)
	_, err = s.c.GetRecords(ctx, &kinesis.GetRecordsInput{ShardIterator: it})
	s.note("read what is gone", "", err)
	_, err = s.c.PutRecord(ctx, &kinesis.PutRecordInput{StreamName: name, PartitionKey: aws.String("k"), Data: []byte("x")})
	s.note("put into what is gone", "", err)
}
