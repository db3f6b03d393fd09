// The tests guard these lines; each was broken once, and the test named beside it went red:
//
//	stream.go: a merge forgets the adjacent parent  ->  TestShardsAreListedByPagesWithTheClosedOnes
//	stream.go: the counter of sequence numbers stands still  ->  TestAnIteratorBeginsWhereItsTypeSays and three more
//	stream.go: a closed shard ends before its last record  ->  TestAClosedShardEndsWithItsChildren
//	stream.go: an answer has no limit of bytes  ->  TestAnAnswerHasAtMostTenMegabytes
//	stream.go: a shard has no limit of bytes  ->  TestAShardForgetsWhatIsBeyondItsBytes
//	stream.go: closed shards stay for ever  ->  TestRetentionForgetsRecordsAndClosedShards
//	stream.go: records stay for ever  ->  TestRetentionForgetsRecordsAndClosedShards
//	stream.go: how far behind is measured at the newest record  ->  TestReadersAreToldHowFarBehindTheyAre
//	iterator.go: a number of another shard is taken  ->  TestAnIteratorBeginsWhereItsTypeSays
//	iterator.go: a number that was never given out is taken  ->  TestAnIteratorBeginsWhereItsTypeSays
//	iterator.go: a time to come is taken  ->  TestAnIteratorBeginsWhereItsTypeSays
//	iterator.go: AFTER_SEQUENCE_NUMBER begins at the number  ->  TestAnIteratorBeginsWhereItsTypeSays
//	shards.go: NextToken goes with StreamName  ->  TestANextTokenStandsAlone
//	read.go: Expire is not heeded  ->  TestIteratorsExpire
//	read.go: iterators do not age  ->  TestIteratorsExpire
//	read.go: an iterator of a deleted stream reads its successor  ->  TestAStreamOfTheSameNameIsAnother
//	put.go: PutRecords has no limit of bytes  ->  TestPutHasTheLimitsOfAmazon
//	shards.go: a closed shard is split  ->  TestReshardingIsRefusedWhereAmazonDoes, TestAMistakeInATestPanics
//	operations.go: a stream that is CREATING takes records  ->  TestAStreamSettles
//	kinesis.go: a stream that follows has smaller numbers when the clock goes back  ->  TestAStreamOfTheSameNameIsAnother
//	kinesis.go: Trim counts from what is left  ->  TestATrimmedNumberGivesTheTrimHorizon
//	limits.go: reads have no limit of bytes  ->  TestRatesAreThoseOfAmazon, TestWhatIsTooFastIsRefused
//	limits.go: writes have no limit of records  ->  TestRatesAreThoseOfAmazon
//	awsjson/clock.go: a change that takes no time is undone when the clock goes back  ->  TestWhatIsTooFastIsRefused
//	aggregate.go: the MD5 is that of a part  ->  TestAnAggregateIsOneOfTheProducerLibrary
package kinesis

import (
	"crypto/md5"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
	"github.com/aws/smithy-go"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/millrace-io/millrace/testenv/awsjson"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clicks is the stream of most tests, zero and one are shards of it.
var (
	clicks = aws.String("clicks")
	zero   = aws.String(shardID(0))
	one    = aws.String(shardID(1))
)

func start(t testing.TB, o Options) (*Server, *kinesis.Client) {
	t.Helper()
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, client(t, s.URL(), "local")
}

// client never tries again, so that a test sees each answer.
func client(t testing.TB, url, accessKey string) *kinesis.Client {
	t.Helper()
	transport := &awsjson.Transport{Transport: http.Transport{MaxIdleConnsPerHost: 64}}
	t.Cleanup(transport.CloseIdleConnections)
	return kinesis.New(kinesis.Options{
		BaseEndpoint: &url, Region: "us-east-1", Retryer: aws.NopRetryer{}, HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(accessKey, "secret", ""),
	})
}

// code is the name of an AWS error; "" for nil.
func code(err error) string {
	var api smithy.APIError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &api):
		return api.ErrorCode()
	}
	return err.Error()
}

// refused checks the name of an error.
func refused(t *testing.T, what string, err error, want string) {
	t.Helper()
	if got := code(err); got != want {
		t.Errorf("%s: error %q; want %q", what, got, want)
	}
}

func ok[T any](out T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

func iterate(t testing.TB, c *kinesis.Client, stream, shard string, kind types.ShardIteratorType, at string) *string {
	t.Helper()
	in := &kinesis.GetShardIteratorInput{StreamName: &stream, ShardId: &shard, ShardIteratorType: kind}
	if at != "" {
		in.StartingSequenceNumber = &at
	}
	return ok(c.GetShardIterator(t.Context(), in))(t).ShardIterator
}

func get(t testing.TB, c *kinesis.Client, it *string, limit int32) *kinesis.GetRecordsOutput {
	t.Helper()
	return ok(c.GetRecords(t.Context(), &kinesis.GetRecordsInput{ShardIterator: it, Limit: &limit}))(t)
}

// texts are the records' data.
func texts(rs []types.Record) string {
	var out []string
	for _, r := range rs {
		out = append(out, string(r.Data))
	}
	return strings.Join(out, " ")
}

// numbered are n records with their numbers as data.
func numbered(n int) []Record {
	var rs []Record
	for i := range n {
		rs = append(rs, Record{Key: fmt.Sprint("k", i), Data: fmt.Append(nil, i)})
	}
	return rs
}

// shards is ListShards to its end.
func shards(t testing.TB, c *kinesis.Client, in kinesis.ListShardsInput) (all []types.Shard, pages int) {
	t.Helper()
	for {
		out := ok(c.ListShards(t.Context(), &in))(t)
		all, pages = append(all, out.Shards...), pages+1
		if out.NextToken == nil {
			return all, pages
		}
		in = kinesis.ListShardsInput{NextToken: out.NextToken, MaxResults: in.MaxResults}
	}
}

func ids(shards []types.Shard) string {
	var out []string
	for _, sh := range shards {
		out = append(out, strings.TrimLeft((*sh.ShardId)[len("shardId-"):], "0"))
	}
	return strings.Join(out, " ")
}

func TestAStreamIsDescribedByEitherOfItsNames(t *testing.T) {
	s, c := start(t, Options{ShardPage: 2})
	before := time.Now().Truncate(time.Millisecond)
	ok(c.CreateStream(t.Context(), &kinesis.CreateStreamInput{StreamName: clicks, ShardCount: aws.Int32(3)}))(t)
	s.Split("clicks", shardID(0))
	d := ok(c.DescribeStreamSummary(t.Context(), &kinesis.DescribeStreamSummaryInput{StreamName: clicks}))(t).StreamDescriptionSummary
	if *d.OpenShardCount != 4 || *d.RetentionPeriodHours != 24 || d.StreamStatus != types.StreamStatusActive || d.StreamCreationTimestamp.Before(before) {
		t.Errorf("the summary is %+v", d)
	}
	if want := "arn:aws:kinesis:us-east-1:000000000000:stream/clicks"; *d.StreamARN != want {
		t.Errorf("the ARN is %s; want %s", *d.StreamARN, want)
	}
	var all []types.Shard
	in := &kinesis.DescribeStreamInput{StreamARN: d.StreamARN}
	for more := true; more; {
		out := ok(c.DescribeStream(t.Context(), in))(t).StreamDescription
		all = append(all, out.Shards...)
		in.ExclusiveStartShardId, more = all[len(all)-1].ShardId, *out.HasMoreShards
	}
	if got := ids(all); got != " 1 2 3 4" {
		t.Errorf("the shards are %q", got)
	}
	_, err := c.DescribeStream(t.Context(), &kinesis.DescribeStreamInput{StreamARN: aws.String("arn:aws:kinesis:us-east-1:000000000000:stream/none")})
	refused(t, "an ARN of no stream", err, "ResourceNotFoundException")
	_, err = c.DescribeStream(t.Context(), &kinesis.DescribeStreamInput{
		StreamName: clicks, StreamARN: aws.String("arn:aws:kinesis:eu-west-1:000000000000:stream/clicks"),
	})
	refused(t, "a name and another's ARN", err, "InvalidArgumentException")
	_, err = c.DescribeStream(t.Context(), &kinesis.DescribeStreamInput{})
	refused(t, "no name", err, "InvalidArgumentException")
}

func TestEachOperationTakesAnARN(t *testing.T) {
	s, c := start(t, Options{})
	s.CreateStream("clicks", 2)
	ctx := t.Context()
	arn := ok(c.DescribeStreamSummary(ctx, &kinesis.DescribeStreamSummaryInput{StreamName: clicks}))(t).StreamDescriptionSummary.StreamARN
	ok(c.PutRecord(ctx, &kinesis.PutRecordInput{StreamARN: arn, PartitionKey: aws.String("k"), ExplicitHashKey: aws.String("0"), Data: []byte("x")}))(t)
	ok(c.PutRecords(ctx, &kinesis.PutRecordsInput{
		StreamARN: arn, Records: []types.PutRecordsRequestEntry{{PartitionKey: aws.String("k"), ExplicitHashKey: aws.String("0"), Data: []byte("y")}},
	}))(t)
	it := ok(c.GetShardIterator(ctx, &kinesis.GetShardIteratorInput{
		StreamARN: arn, ShardId: zero, ShardIteratorType: types.ShardIteratorTypeTrimHorizon,
	}))(t).ShardIterator
	if got := texts(ok(c.GetRecords(ctx, &kinesis.GetRecordsInput{StreamARN: arn, ShardIterator: it}))(t).Records); got != "x y" {
		t.Errorf("read %q", got)
	}
	ok(c.MergeShards(ctx, &kinesis.MergeShardsInput{StreamARN: arn, ShardToMerge: zero, AdjacentShardToMerge: one}))(t)
	ok(c.SplitShard(ctx, &kinesis.SplitShardInput{StreamARN: arn, ShardToSplit: aws.String(shardID(2)), NewStartingHashKey: aws.String("77")}))(t)
	ok(c.UpdateShardCount(ctx, &kinesis.UpdateShardCountInput{
		StreamARN: arn, TargetShardCount: aws.Int32(2), ScalingType: types.ScalingTypeUniformScaling,
	}))(t)
	ok(c.IncreaseStreamRetentionPeriod(ctx, &kinesis.IncreaseStreamRetentionPeriodInput{StreamARN: arn, RetentionPeriodHours: aws.Int32(25)}))(t)
	ok(c.DecreaseStreamRetentionPeriod(ctx, &kinesis.DecreaseStreamRetentionPeriodInput{StreamARN: arn, RetentionPeriodHours: aws.Int32(24)}))(t)
	if got, _ := shards(t, c, kinesis.ListShardsInput{StreamARN: arn}); len(got) != 8 {
		t.Errorf("the shards are %q", ids(got))
	}
	ok(c.DeleteStream(ctx, &kinesis.DeleteStreamInput{StreamARN: arn}))(t)
}

func TestStreamsAreListedByPages(t *testing.T) {
	s, c := start(t, Options{})
	for _, name := range []string{"b", "d", "a", "c", "e"} {
		s.CreateStream(name, 1)
	}
	s.DeleteStream("c")
	var got []string
	for p := kinesis.NewListStreamsPaginator(c, &kinesis.ListStreamsInput{Limit: aws.Int32(2)}); p.HasMorePages(); {
		out := ok(p.NextPage(t.Context()))(t)
		got = append(got, strings.Join(out.StreamNames, " "))
	}
	if want := []string{"a b", "d e"}; !slices.Equal(got, want) {
		t.Errorf("listed %q; want %q", got, want)
	}
	out := ok(c.ListStreams(t.Context(), &kinesis.ListStreamsInput{ExclusiveStartStreamName: aws.String("b"), Limit: aws.Int32(1)}))(t)
	if !*out.HasMoreStreams || out.StreamNames[0] != "d" || *out.StreamSummaries[0].StreamName != "d" {
		t.Errorf("after b come %v", out.StreamNames)
	}
}

func TestBadStreamsAreNotCreated(t *testing.T) {
	s, c := start(t, Options{})
	s.CreateStream("clicks", 1)
	for _, in := range []struct {
		name   string
		shards *int32
		want   string
	}{
		{"clicks", aws.Int32(1), "ResourceInUseException"},
		{"a name", aws.Int32(1), "ValidationException"},
		{"x", aws.Int32(0), "ValidationException"},
		{"x", nil, "ValidationException"},
	} {
		_, err := c.CreateStream(t.Context(), &kinesis.CreateStreamInput{StreamName: &in.name, ShardCount: in.shards})
		refused(t, in.name, err, in.want)
	}
	ok(c.CreateStream(t.Context(), &kinesis.CreateStreamInput{
		StreamName: aws.String("more"), StreamModeDetails: &types.StreamModeDetails{StreamMode: types.StreamModeOnDemand},
	}))(t)
	if got := len(s.Shards("more")); got != 4 {
		t.Errorf("%d shards on demand; want 4", got)
	}
}

func TestShardsAreListedByPagesWithTheClosedOnes(t *testing.T) {
	s, c := start(t, Options{ShardPage: 2})
	s.CreateStream("clicks", 3)
	lower, upper := s.Split("clicks", shardID(1))
	merged := s.Merge("clicks", upper, shardID(2))
	all, pages := shards(t, c, kinesis.ListShardsInput{StreamName: clicks})
	if ids(all) != " 1 2 3 4 5" || pages != 3 {
		t.Errorf("listed %q on %d pages", ids(all), pages)
	}
	if _, pages := shards(t, c, kinesis.ListShardsInput{StreamName: clicks, MaxResults: aws.Int32(1)}); pages != 6 {
		t.Errorf("one by one on %d pages", pages)
	}
	if after, _ := shards(t, c, kinesis.ListShardsInput{StreamName: clicks, ExclusiveStartShardId: &lower}); ids(after) != "4 5" {
		t.Errorf("after %s come %q", lower, ids(after))
	}
	last := all[5]
	if *last.ShardId != merged || *last.ParentShardId != upper || *last.AdjacentParentShardId != shardID(2) ||
		*all[3].ParentShardId != shardID(1) || all[3].AdjacentParentShardId != nil {
		t.Errorf("the family is not right: %+v, %+v", last, all[3])
	}
	for _, sh := range all {
		end := sh.SequenceNumberRange.EndingSequenceNumber
		if closed := slices.Contains([]string{shardID(1), shardID(2), upper}, *sh.ShardId); closed != (end != nil) {
			t.Errorf("shard %s is closed: %t; its last number is %v", *sh.ShardId, closed, end)
		}
	}
	if *all[4].SequenceNumberRange.EndingSequenceNumber >= *last.SequenceNumberRange.StartingSequenceNumber {
		t.Error("a child begins before its parent ends")
	}
}

func TestANextTokenStandsAlone(t *testing.T) {
	s, c := start(t, Options{ShardPage: 1})
	s.CreateStream("clicks", 3)
	first := ok(c.ListShards(t.Context(), &kinesis.ListShardsInput{StreamName: clicks}))(t)
	list := func(in kinesis.ListShardsInput) error {
		in.NextToken = first.NextToken
		_, err := c.ListShards(t.Context(), &in)
		return err
	}
	refused(t, "with a name", list(kinesis.ListShardsInput{StreamName: clicks}), "InvalidArgumentException")
	refused(t, "with a shard", list(kinesis.ListShardsInput{ExclusiveStartShardId: zero}), "InvalidArgumentException")
	s.SetClock(tokenLife - time.Minute)
	refused(t, "in time", list(kinesis.ListShardsInput{}), "")
	s.SetClock(tokenLife + time.Minute)
	refused(t, "too late", list(kinesis.ListShardsInput{}), "ExpiredNextTokenException")
	_, err := c.ListShards(t.Context(), &kinesis.ListShardsInput{NextToken: aws.String("nonsense")})
	refused(t, "nonsense", err, "InvalidArgumentException")
	s.DeleteStream("clicks")
	refused(t, "of no stream", list(kinesis.ListShardsInput{}), "ResourceNotFoundException")
}

func TestShardsAreFiltered(t *testing.T) {
	s, c := start(t, Options{ShardPage: 2})
	s.CreateStream("clicks", 2)
	s.SetClock(time.Hour)
	s.Split("clicks", shardID(0))
	created := ok(c.DescribeStreamSummary(t.Context(), &kinesis.DescribeStreamSummaryInput{StreamName: clicks}))(t).StreamDescriptionSummary.StreamCreationTimestamp
	for _, f := range []struct {
		types.ShardFilter
		want string
	}{
		{types.ShardFilter{Type: types.ShardFilterTypeAtLatest}, "1 2 3"},
		{types.ShardFilter{Type: types.ShardFilterTypeFromTrimHorizon}, " 1 2 3"},
		{types.ShardFilter{Type: types.ShardFilterTypeAtTrimHorizon}, " 1"},
		{types.ShardFilter{Type: types.ShardFilterTypeAfterShardId, ShardId: one}, "2 3"},
		{types.ShardFilter{Type: types.ShardFilterTypeAtTimestamp, Timestamp: aws.Time(created.Add(time.Minute))}, " 1"},
		{types.ShardFilter{Type: types.ShardFilterTypeFromTimestamp, Timestamp: aws.Time(s.Now().Add(time.Minute))}, "1 2 3"},
	} {
		if got, _ := shards(t, c, kinesis.ListShardsInput{StreamName: clicks, ShardFilter: &f.ShardFilter}); ids(got) != f.want {
			t.Errorf("%s: %q; want %q", f.Type, ids(got), f.want)
		}
	}
	_, err := c.ListShards(t.Context(), &kinesis.ListShardsInput{
		StreamName: clicks, ShardFilter: &types.ShardFilter{Type: types.ShardFilterTypeAtTimestamp},
	})
	refused(t, "without a time", err, "InvalidArgumentException")
	other := created.Add(-time.Hour)
	_, err = c.ListShards(t.Context(), &kinesis.ListShardsInput{StreamName: clicks, StreamCreationTimestamp: &other})
	refused(t, "of an earlier stream", err, "ResourceNotFoundException")
}

func TestAnIteratorBeginsWhereItsTypeSays(t *testing.T) {
	s, c := start(t, Options{})
	s.CreateStream("clicks", 2)
	s.SetClock(-time.Hour)
	numbers := s.Put("clicks", shardID(0), numbered(3)...)
	s.SetClock(0)
	numbers = append(numbers, s.Put("clicks", shardID(0), Record{Key: "k", Data: []byte("3")})...)
	other := s.Put("clicks", shardID(1), Record{Key: "k", Data: []byte("other")})[0]
	for _, i := range []struct {
		kind       types.ShardIteratorType
		number     string
		at         time.Time
		want, code string
	}{
		{kind: types.ShardIteratorTypeTrimHorizon, want: "0 1 2 3"},
		{kind: types.ShardIteratorTypeLatest},
		{kind: types.ShardIteratorTypeAtSequenceNumber, number: numbers[1], want: "1 2 3"},
		{kind: types.ShardIteratorTypeAfterSequenceNumber, number: numbers[1], want: "2 3"},
		{kind: types.ShardIteratorTypeAfterSequenceNumber, number: numbers[3]},
		{kind: types.ShardIteratorTypeAtTimestamp, at: time.Now().Add(-2 * time.Hour), want: "0 1 2 3"},
		{kind: types.ShardIteratorTypeAtTimestamp, at: time.Now().Add(-time.Minute), want: "3"},
		{kind: types.ShardIteratorTypeAtTimestamp, at: time.Now().Add(time.Minute), code: "InvalidArgumentException"},
		{kind: types.ShardIteratorTypeAtTimestamp, code: "InvalidArgumentException"},
		{kind: types.ShardIteratorTypeAtSequenceNumber, code: "InvalidArgumentException"},
		{kind: types.ShardIteratorTypeLatest, number: numbers[0], code: "InvalidArgumentException"},
		{kind: types.ShardIteratorTypeAtSequenceNumber, number: other, code: "InvalidArgumentException"},
		{kind: types.ShardIteratorTypeAtSequenceNumber, number: "0", code: "InvalidArgumentException"},
		{kind: types.ShardIteratorTypeAtSequenceNumber, number: numbers[3][:30] + "999999" + numbers[3][36:], code: "InvalidArgumentException"},
		{kind: "YESTERDAY", code: "ValidationException"},
	} {
		what := fmt.Sprintf("%s %s %s", i.kind, i.number, i.at)
		in := &kinesis.GetShardIteratorInput{StreamName: clicks, ShardId: zero, ShardIteratorType: i.kind}
		if i.number != "" {
			in.StartingSequenceNumber = &i.number
		}
		if !i.at.IsZero() {
			in.Timestamp = &i.at
		}
		out, err := c.GetShardIterator(t.Context(), in)
		if refused(t, what, err, i.code); err == nil {
			if got := texts(get(t, c, out.ShardIterator, 10).Records); got != i.want {
				t.Errorf("%s: read %q; want %q", what, got, i.want)
			}
		}
	}
	for stream, shard := range map[string]string{"clicks": shardID(7), "none": shardID(0)} {
		_, err := c.GetShardIterator(t.Context(), &kinesis.GetShardIteratorInput{
			StreamName: &stream, ShardId: &shard, ShardIteratorType: types.ShardIteratorTypeLatest,
		})
		refused(t, stream+" "+shard, err, "ResourceNotFoundException")
	}
}

func TestLatestSeesWhatComesAfterTheIterator(t *testing.T) {
	s, c := start(t, Options{})
	s.CreateStream("clicks", 1)
	s.Put("clicks", shardID(0), numbered(3)...)
	it := iterate(t, c, "clicks", *zero, types.ShardIteratorTypeLatest, "")
	s.Put("clicks", shardID(0), Record{Key: "k", Data: []byte("new")})
	if got := texts(get(t, c, it, 10).Records); got != "new" {
		t.Errorf("read %q", got)
	}
}

func TestATrimmedNumberGivesTheTrimHorizon(t *testing.T) {
	s, c := start(t, Options{})
	s.CreateStream("clicks", 1)
	numbers := s.Put("clicks", shardID(0), numbered(5)...)
	running := iterate(t, c, "clicks", *zero, types.ShardIteratorTypeTrimHorizon, "")
	s.Trim("clicks", shardID(0), 3)
	s.Trim("clicks", shardID(0), 3) // of all that ever were, so nothing more goes
	for what, it := range map[string]*string{
		"at":      iterate(t, c, "clicks", *zero, types.ShardIteratorTypeAtSequenceNumber, numbers[1]),
		"after":   iterate(t, c, "clicks", *zero, types.ShardIteratorTypeAfterSequenceNumber, numbers[0]),
		"running": running,
	} {
		if got := texts(get(t, c, it, 10).Records); got != "3 4" {
			t.Errorf("%s: read %q; want the two that are left", what, got)
		}
	}
}

func TestReadersAreToldHowFarBehindTheyAre(t *testing.T) {
	s, c := start(t, Options{})
	s.CreateStream("clicks", 1)
	for i := range 3 {
		s.SetClock(time.Duration(i) * time.Hour)
		s.Put("clicks", shardID(0), numbered(1)...)
	}
	s.SetClock(3 * time.Hour)
	it := iterate(t, c, "clicks", *zero, types.ShardIteratorTypeTrimHorizon, "")
	const slack = 30 * time.Minute // the machine may be slow
	for _, want := range []time.Duration{2 * time.Hour, time.Hour} {
		out := get(t, c, it, 1)
		if got := time.Duration(*out.MillisBehindLatest) * time.Millisecond; got < want || got > want+slack {
			t.Errorf("%v behind; want %v", got, want)
		}
		if arrived := time.Until(*out.Records[0].ApproximateArrivalTimestamp); arrived > 2*time.Hour-want || arrived < 2*time.Hour-want-slack {
			t.Errorf("it arrived %v from now; want %v", arrived, 2*time.Hour-want)
		}
		it = out.NextShardIterator
	}
	for range 2 { // the last record, then nothing
		out := get(t, c, it, 10)
		if *out.MillisBehindLatest != 0 {
			t.Errorf("with %d records it is %d ms behind", len(out.Records), *out.MillisBehindLatest)
		}
		it = out.NextShardIterator
	}
}

func TestAClosedShardEndsWithItsChildren(t *testing.T) {
	s, c := start(t, Options{})
	s.CreateStream("clicks", 2)
	s.Put("clicks", shardID(0), numbered(3)...)
	child := s.Merge("clicks", shardID(1), shardID(0))
	it := iterate(t, c, "clicks", *zero, types.ShardIteratorTypeTrimHorizon, "")
	out := get(t, c, it, 2)
	if out.NextShardIterator == nil || out.ChildShards != nil {
		t.Fatal("it ends before its last record")
	}
	out = get(t, c, out.NextShardIterator, 2)
	if out.NextShardIterator != nil || len(out.ChildShards) != 1 || *out.ChildShards[0].ShardId != child || *out.MillisBehindLatest != 0 {
		t.Errorf("the end is %+v", out)
	}
	if got := out.ChildShards[0].ParentShards; !slices.Equal(got, []string{shardID(1), shardID(0)}) {
		t.Errorf("the child's parents are %v", got)
	}
	if out := get(t, c, iterate(t, c, "clicks", *one, types.ShardIteratorTypeLatest, ""), 2); out.NextShardIterator != nil {
		t.Error("a closed shard without records does not end")
	}
}

func TestAnAnswerHasAtMostTenMegabytes(t *testing.T) {
	s, c := start(t, Options{})
	s.CreateStream("clicks", 1)
	for range 12 {
		s.Put("clicks", shardID(0), Record{Key: "k", Data: make([]byte, 1<<20-1)})
	}
	out := get(t, c, iterate(t, c, "clicks", *zero, types.ShardIteratorTypeTrimHorizon, ""), 10_000)
	if len(out.Records) != 10 {
		t.Errorf("%d records of 1 MiB in an answer", len(out.Records))
	}
	if out = get(t, c, out.NextShardIterator, 10_000); len(out.Records) != 2 {
		t.Errorf("%d records in the second", len(out.Records))
	}
	for _, limit := range []int32{0, 10_001} {
		_, err := c.GetRecords(t.Context(), &kinesis.GetRecordsInput{ShardIterator: out.NextShardIterator, Limit: &limit})
		refused(t, fmt.Sprint("limit ", limit), err, "ValidationException")
	}
}

func TestIteratorsExpire(t *testing.T) {
	s, c := start(t, Options{})
	s.CreateStream("clicks", 1)
	read := func(it *string) error {
		_, err := c.GetRecords(t.Context(), &kinesis.GetRecordsInput{ShardIterator: it})
		return err
	}
	it := iterate(t, c, "clicks", *zero, types.ShardIteratorTypeLatest, "")
	s.SetClock(iteratorLife - time.Minute)
	refused(t, "in time", read(it), "")
	s.SetClock(iteratorLife + time.Minute)
	refused(t, "too late", read(it), "ExpiredIteratorException")
	it = iterate(t, c, "clicks", *zero, types.ShardIteratorTypeLatest, "")
	refused(t, "a new one", read(it), "")
	s.Expire()
	refused(t, "told to expire", read(it), "ExpiredIteratorException")
	refused(t, "nonsense", read(aws.String("bm9uc2Vuc2U=")), "InvalidArgumentException")
}

func TestAStreamOfTheSameNameIsAnother(t *testing.T) {
	s, c := start(t, Options{})
	s.CreateStream("clicks", 1)
	old := s.Put("clicks", shardID(0), numbered(1)...)[0]
	it := iterate(t, c, "clicks", *zero, types.ShardIteratorTypeTrimHorizon, "")
	created := ok(c.DescribeStreamSummary(t.Context(), &kinesis.DescribeStreamSummaryInput{StreamName: clicks}))(t).StreamDescriptionSummary.StreamCreationTimestamp
	ok(c.DeleteStream(t.Context(), &kinesis.DeleteStreamInput{StreamName: clicks}))(t)
	_, err := c.GetRecords(t.Context(), &kinesis.GetRecordsInput{ShardIterator: it})
	refused(t, "of no stream", err, "ResourceNotFoundException")
	s.SetClock(-time.Hour) // even then
	s.CreateStream("clicks", 1)
	_, err = c.GetRecords(t.Context(), &kinesis.GetRecordsInput{ShardIterator: it})
	refused(t, "of the old stream", err, "InvalidArgumentException")
	_, err = c.GetShardIterator(t.Context(), &kinesis.GetShardIteratorInput{
		StreamName: clicks, ShardId: zero, ShardIteratorType: types.ShardIteratorTypeAtSequenceNumber, StartingSequenceNumber: &old,
	})
	refused(t, "the old number", err, "InvalidArgumentException")
	if got := s.Put("clicks", shardID(0), numbered(1)...)[0]; got <= old {
		t.Errorf("the new stream's numbers begin at %s, the old one's at %s", got, old)
	}
	if again := ok(c.DescribeStreamSummary(t.Context(), &kinesis.DescribeStreamSummaryInput{StreamName: clicks}))(t).StreamDescriptionSummary.StreamCreationTimestamp; !again.After(*created) {
		t.Errorf("created at %v, and again at %v", created, again)
	}
}

func TestAKeysHashSaysItsShard(t *testing.T) {
	s, c := start(t, Options{})
	s.CreateStream("clicks", 7)
	all, _ := shards(t, c, kinesis.ListShardsInput{StreamName: clicks})
	for i := range 100 {
		key := fmt.Sprint("key ", i, " é")
		out := ok(c.PutRecord(t.Context(), &kinesis.PutRecordInput{StreamName: clicks, PartitionKey: &key, Data: []byte{}}))(t)
		sum := md5.Sum([]byte(key))
		hash := new(big.Int).SetBytes(sum[:])
		sh := all[slices.IndexFunc(all, func(sh types.Shard) bool { return *sh.ShardId == *out.ShardId })]
		if hash.Cmp(number(*sh.HashKeyRange.StartingHashKey)) < 0 || hash.Cmp(number(*sh.HashKeyRange.EndingHashKey)) > 0 {
			t.Errorf("key %q with hash %v went into %v", key, hash, sh)
		}
		exact := *all[i%7].HashKeyRange.EndingHashKey
		if out := ok(c.PutRecord(t.Context(), &kinesis.PutRecordInput{
			StreamName: clicks, PartitionKey: &key, ExplicitHashKey: &exact, Data: []byte{},
		}))(t); *out.ShardId != *all[i%7].ShardId {
			t.Errorf("hash key %s went into %s; want %s", exact, *out.ShardId, *all[i%7].ShardId)
		}
	}
}

func number(s string) *big.Int {
	n, _ := new(big.Int).SetString(s, 10)
	return n
}

func TestSequenceNumbersGrowOverTheWholeStream(t *testing.T) {
	s, c := start(t, Options{})
	s.CreateStream("clicks", 4)
	last := ""
	for i := range 4 {
		rs := make([]types.PutRecordsRequestEntry, 50)
		for j := range rs {
			rs[j] = types.PutRecordsRequestEntry{PartitionKey: aws.String(fmt.Sprint(i, j)), Data: []byte("x")}
		}
		out := ok(c.PutRecords(t.Context(), &kinesis.PutRecordsInput{StreamName: clicks, Records: rs}))(t)
		for _, r := range out.Records {
			if len(*r.SequenceNumber) != 56 || *r.SequenceNumber <= last {
				t.Fatalf("%s comes after %s", *r.SequenceNumber, last)
			}
			last = *r.SequenceNumber
		}
		s.Split("clicks", shardID(i))
	}
}

func TestPutHasTheLimitsOfAmazon(t *testing.T) {
	s, c := start(t, Options{})
	s.CreateStream("clicks", 1)
	entry := func(key, data int) types.PutRecordsRequestEntry {
		return types.PutRecordsRequestEntry{PartitionKey: aws.String(strings.Repeat("é", key)), Data: make([]byte, data)}
	}
	for _, p := range []struct {
		what string
		n    int
		e    types.PutRecordsRequestEntry
		want string
	}{
		{"500 records", 500, entry(1, 1), ""},
		{"501 records", 501, entry(1, 1), "ValidationException"},
		{"an empty record", 1, entry(1, 0), ""},
		{"a key of 256 letters", 1, entry(256, 1), ""},
		{"a key of 257 letters", 1, entry(257, 1), "ValidationException"},
		{"no key", 1, entry(0, 1), "ValidationException"},
		{"1 MiB with the key", 1, entry(10, 1<<20-20), ""},
		{"a byte more", 1, entry(10, 1<<20-19), "ValidationException"},
		{"5 MiB with the keys", 5, entry(10, 1<<20-20), ""},
		{"more than 5 MiB", 6, entry(1, 900<<10), "InvalidArgumentException"},
	} {
		_, err := c.PutRecords(t.Context(), &kinesis.PutRecordsInput{StreamName: clicks, Records: slices.Repeat([]types.PutRecordsRequestEntry{p.e}, p.n)})
		refused(t, p.what, err, p.want)
	}
	_, err := c.PutRecord(t.Context(), &kinesis.PutRecordInput{
		StreamName: clicks, PartitionKey: aws.String("k"), ExplicitHashKey: aws.String("340282366920938463463374607431768211456"), Data: []byte("x"),
	})
	refused(t, "a hash key too large", err, "InvalidArgumentException")
	_, err = c.PutRecord(t.Context(), &kinesis.PutRecordInput{StreamName: aws.String("none"), PartitionKey: aws.String("k"), Data: []byte("x")})
	refused(t, "no stream", err, "ResourceNotFoundException")
}

func TestWhatIsPutIsRead(t *testing.T) {
	s, c := start(t, Options{})
	s.CreateStream("clicks", 1)
	for _, key := range []string{"plain", `quote " and \`, "é\u2028", "\x01"} {
		data := []byte("\x00\xff" + key)
		number := ok(c.PutRecord(t.Context(), &kinesis.PutRecordInput{StreamName: clicks, PartitionKey: &key, Data: data}))(t).SequenceNumber
		r := get(t, c, iterate(t, c, "clicks", *zero, types.ShardIteratorTypeAtSequenceNumber, *number), 1).Records[0]
		if *r.PartitionKey != key || string(r.Data) != string(data) || *r.SequenceNumber != *number {
			t.Errorf("put %q, read %q, %q", key, *r.PartitionKey, r.Data)
		}
	}
}

func TestReshardingIsRefusedWhereAmazonDoes(t *testing.T) {
	s, c := start(t, Options{})
	s.CreateStream("clicks", 3)
	ctx := t.Context()
	split := func(shard int, key string) error {
		_, err := c.SplitShard(ctx, &kinesis.SplitShardInput{StreamName: clicks, ShardToSplit: aws.String(shardID(shard)), NewStartingHashKey: &key})
		return err
	}
	merge := func(a, b int) error {
		_, err := c.MergeShards(ctx, &kinesis.MergeShardsInput{
			StreamName: clicks, ShardToMerge: aws.String(shardID(a)), AdjacentShardToMerge: aws.String(shardID(b)),
		})
		return err
	}
	scale := func(n int32) error {
		_, err := c.UpdateShardCount(ctx, &kinesis.UpdateShardCountInput{
			StreamName: clicks, TargetShardCount: &n, ScalingType: types.ScalingTypeUniformScaling,
		})
		return err
	}
	refused(t, "split at the first key", split(0, "0"), "InvalidArgumentException")
	refused(t, "split at the second key", split(0, "1"), "InvalidArgumentException")
	refused(t, "split at another's key", split(0, "340282366920938463463374607431768211455"), "InvalidArgumentException")
	refused(t, "split at no key", split(0, "x"), "InvalidArgumentException")
	refused(t, "split what is not there", split(9, "5"), "ResourceNotFoundException")
	refused(t, "merge strangers", merge(0, 2), "InvalidArgumentException")
	refused(t, "merge a shard with itself", merge(2, 2), "InvalidArgumentException")
	refused(t, "merge what is not there", merge(0, 9), "ResourceNotFoundException")
	refused(t, "split", split(0, "2"), "")
	refused(t, "split again", split(0, "2"), "InvalidArgumentException")
	refused(t, "merge a closed shard", merge(0, 1), "InvalidArgumentException")
	refused(t, "scale by more than two", scale(9), "InvalidArgumentException")
	refused(t, "scale to less than half", scale(1), "InvalidArgumentException")
}

func TestScalingMakesEvenShards(t *testing.T) {
	s, c := start(t, Options{})
	s.CreateStream("clicks", 3)
	for _, n := range []int32{5, 10, 7, 4, 2, 1} {
		out := ok(c.UpdateShardCount(t.Context(), &kinesis.UpdateShardCountInput{
			StreamName: clicks, TargetShardCount: &n, ScalingType: types.ScalingTypeUniformScaling,
		}))(t)
		if *out.TargetShardCount != n {
			t.Errorf("the target is %d; want %d", *out.TargetShardCount, n)
		}
		var open []types.Shard
		all, _ := shards(t, c, kinesis.ListShardsInput{StreamName: clicks})
		for _, sh := range all {
			if sh.SequenceNumberRange.EndingSequenceNumber == nil {
				open = append(open, sh)
			} else if !slices.ContainsFunc(all, func(c types.Shard) bool {
				return aws.ToString(c.ParentShardId) == *sh.ShardId || aws.ToString(c.AdjacentParentShardId) == *sh.ShardId
			}) {
				t.Errorf("closed shard %s has no child", *sh.ShardId)
			}
		}
		slices.SortFunc(open, func(a, b types.Shard) int {
			return number(*a.HashKeyRange.StartingHashKey).Cmp(number(*b.HashKeyRange.StartingHashKey))
		})
		for i, sh := range open {
			if from, to := part(i, int(n)); len(open) != int(n) || *sh.HashKeyRange.StartingHashKey != from.String() || *sh.HashKeyRange.EndingHashKey != to.String() {
				t.Fatalf("of %d shards the %d. has %+v", len(open), i, *sh.HashKeyRange)
			}
		}
	}
}

func TestRetentionForgetsRecordsAndClosedShards(t *testing.T) {
	s, c := start(t, Options{})
	s.CreateStream("clicks", 1)
	s.Put("clicks", shardID(0), numbered(2)...)
	s.SetClock(10 * time.Hour)
	s.Put("clicks", shardID(0), Record{Key: "k", Data: []byte("later")})
	child, _ := s.Split("clicks", shardID(0))
	s.SetClock(25 * time.Hour)
	out := get(t, c, iterate(t, c, "clicks", *zero, types.ShardIteratorTypeTrimHorizon, ""), 10)
	if got := texts(out.Records); got != "later" {
		t.Errorf("after 25 hours there is %q", got)
	}
	ok(c.IncreaseStreamRetentionPeriod(t.Context(), &kinesis.IncreaseStreamRetentionPeriodInput{
		StreamName: clicks, RetentionPeriodHours: aws.Int32(48),
	}))(t)
	s.SetClock(35 * time.Hour)
	if all, _ := shards(t, c, kinesis.ListShardsInput{StreamName: clicks}); len(all) != 3 {
		t.Errorf("a closed shard is gone before its time: %q", ids(all))
	}
	_, err := c.DecreaseStreamRetentionPeriod(t.Context(), &kinesis.DecreaseStreamRetentionPeriodInput{
		StreamName: clicks, RetentionPeriodHours: aws.Int32(23),
	})
	refused(t, "less than a day", err, "InvalidArgumentException")
	_, err = c.IncreaseStreamRetentionPeriod(t.Context(), &kinesis.IncreaseStreamRetentionPeriodInput{
		StreamName: clicks, RetentionPeriodHours: aws.Int32(47),
	})
	refused(t, "an increase that is none", err, "InvalidArgumentException")
	ok(c.DecreaseStreamRetentionPeriod(t.Context(), &kinesis.DecreaseStreamRetentionPeriodInput{
		StreamName: clicks, RetentionPeriodHours: aws.Int32(24),
	}))(t)
	all, _ := shards(t, c, kinesis.ListShardsInput{StreamName: clicks})
	if ids(all) != "1 2" || *all[0].ShardId != child || *all[0].ParentShardId != *zero {
		t.Errorf("after its time there are %q", ids(all))
	}
	_, err = c.GetShardIterator(t.Context(), &kinesis.GetShardIteratorInput{
		StreamName: clicks, ShardId: zero, ShardIteratorType: types.ShardIteratorTypeTrimHorizon,
	})
	refused(t, "a shard that is gone", err, "ResourceNotFoundException")
}

func TestAShardForgetsWhatIsBeyondItsBytes(t *testing.T) {
	s, c := start(t, Options{ShardBytes: 10_000})
	s.CreateStream("clicks", 1)
	var numbers []string
	for range 1000 {
		numbers = append(numbers, s.Put("clicks", shardID(0), Record{Key: "k", Data: make([]byte, 99)})...)
	}
	if left := s.Shards("clicks")[0].Records; left < 50 || left > 100 {
		t.Errorf("%d records of 100 bytes are left", left)
	}
	out := get(t, c, iterate(t, c, "clicks", *zero, types.ShardIteratorTypeTrimHorizon, ""), 10_000)
	if got := *out.Records[len(out.Records)-1].SequenceNumber; got != numbers[999] {
		t.Errorf("the last one is %s; want %s", got, numbers[999])
	}
}

func TestAStreamSettles(t *testing.T) {
	s, c := start(t, Options{Settle: time.Minute})
	ctx := t.Context()
	status := func() types.StreamStatus {
		return ok(c.DescribeStreamSummary(ctx, &kinesis.DescribeStreamSummaryInput{StreamName: clicks}))(t).StreamDescriptionSummary.StreamStatus
	}
	put := func() error {
		_, err := c.PutRecord(ctx, &kinesis.PutRecordInput{StreamName: clicks, PartitionKey: aws.String("k"), Data: []byte("x")})
		return err
	}
	split := func(shard *string, key string) error {
		_, err := c.SplitShard(ctx, &kinesis.SplitShardInput{StreamName: clicks, ShardToSplit: shard, NewStartingHashKey: &key})
		return err
	}
	ok(c.CreateStream(ctx, &kinesis.CreateStreamInput{StreamName: clicks, ShardCount: aws.Int32(1)}))(t)
	if got := status(); got != types.StreamStatusCreating {
		t.Errorf("it is %s", got)
	}
	refused(t, "put while CREATING", put(), "ResourceNotFoundException")
	refused(t, "split while CREATING", split(zero, "500"), "ResourceInUseException")
	s.SetClock(time.Minute)
	refused(t, "put", put(), "")
	refused(t, "split", split(zero, "500"), "")
	if got := status(); got != types.StreamStatusUpdating {
		t.Errorf("it is %s", got)
	}
	refused(t, "put while UPDATING", put(), "")
	refused(t, "split while UPDATING", split(one, "100"), "ResourceInUseException")
	s.SetClock(2 * time.Minute)
	refused(t, "split again", split(one, "100"), "")
	ok(c.DeleteStream(ctx, &kinesis.DeleteStreamInput{StreamName: clicks}))(t)
	if got := status(); got != types.StreamStatusDeleting {
		t.Errorf("it is %s", got)
	}
	refused(t, "put while DELETING", put(), "ResourceNotFoundException")
	s.SetClock(3 * time.Minute)
	_, err := c.DescribeStreamSummary(ctx, &kinesis.DescribeStreamSummaryInput{StreamName: clicks})
	refused(t, "gone", err, "ResourceNotFoundException")
	ok(c.CreateStream(ctx, &kinesis.CreateStreamInput{StreamName: clicks, ShardCount: aws.Int32(1)}))(t)
}

func TestFaultsAreAimedAtAWorkerAndAShard(t *testing.T) {
	s, a := start(t, Options{})
	b := client(t, s.URL(), "worker-b")
	s.CreateStream("clicks", 2)
	var seen []Call
	s.Intercept(func(call Call) Fault {
		seen = append(seen, call)
		if call.AccessKey == "worker-b" && call.Shard == shardID(1) && call.Operation == "GetRecords" && call.Before < 2 {
			return Fault{Error: "ProvisionedThroughputExceededException"}
		}
		return Fault{}
	})
	read := func(c *kinesis.Client, shard string) string {
		_, err := c.GetRecords(t.Context(), &kinesis.GetRecordsInput{ShardIterator: iterate(t, c, "clicks", shard, types.ShardIteratorTypeLatest, "")})
		return code(err)
	}
	got := []string{read(a, *one), read(b, *zero), read(b, *one), read(b, *one)}
	if want := []string{"", "", "ProvisionedThroughputExceededException", ""}; !slices.Equal(got, want) {
		t.Errorf("answered %q; want %q", got, want)
	}
	if n := s.Seen("GetRecords"); n != 4 {
		t.Errorf("%d calls of GetRecords are counted", n)
	}
	if want := (Call{"GetRecords", "clicks", *one, "worker-b", 2}); seen[len(seen)-1] != want {
		t.Errorf("the last call was %+v; want %+v", seen[len(seen)-1], want)
	}
}

func TestAPutCanLoseItsAnswerOrSomeOfItsRecords(t *testing.T) {
	s, c := start(t, Options{})
	s.CreateStream("clicks", 1)
	put := func(data ...string) (*kinesis.PutRecordsOutput, error) {
		var rs []types.PutRecordsRequestEntry
		for _, d := range data {
			rs = append(rs, types.PutRecordsRequestEntry{PartitionKey: aws.String("k"), Data: []byte(d)})
		}
		return c.PutRecords(t.Context(), &kinesis.PutRecordsInput{StreamName: clicks, Records: rs})
	}
	s.Intercept(func(call Call) Fault {
		if call.Operation != "PutRecords" {
			return Fault{}
		}
		return [...]Fault{
			{Cut: true, Done: true},
			{Error: "InternalFailure"},
			{Fail: func(i int) string {
				return []string{"", "ProvisionedThroughputExceededException", "InternalFailure"}[i]
			}},
		}[call.Before]
	})
	if _, err := put("lost answer"); err == nil || code(err) == "InternalFailure" {
		t.Errorf("a lost answer is error %v", err)
	}
	_, err := put("never")
	refused(t, "a failure", err, "InternalFailure")
	var response interface{ HTTPStatusCode() int }
	if !errors.As(err, &response) || response.HTTPStatusCode() != 500 {
		t.Errorf("a failure's status is that of %v", err)
	}
	out := ok(put("a", "b", "c"))(t)
	if *out.FailedRecordCount != 2 || out.Records[0].SequenceNumber == nil ||
		*out.Records[1].ErrorCode != "ProvisionedThroughputExceededException" || out.Records[1].SequenceNumber != nil ||
		*out.Records[2].ErrorCode != "InternalFailure" {
		t.Errorf("answered %+v", out)
	}
	if got := texts(get(t, c, iterate(t, c, "clicks", *zero, types.ShardIteratorTypeTrimHorizon, ""), 10).Records); got != "lost answer a" {
		t.Errorf("there is %q", got)
	}
}

func TestACallHangsUntilItIsLetGo(t *testing.T) {
	s, c := start(t, Options{})
	s.CreateStream("clicks", 1)
	release, arrived := make(chan struct{}), make(chan struct{})
	s.Intercept(func(Call) Fault {
		close(arrived)
		return Fault{Hang: release}
	})
	answer := make(chan error, 1)
	go func() {
		_, err := c.DescribeStreamSummary(t.Context(), &kinesis.DescribeStreamSummaryInput{StreamName: clicks})
		answer <- err
	}()
	<-arrived
	select {
	case err := <-answer:
		t.Errorf("it is answered at once: %v", err)
	default:
	}
	close(release)
	if err := <-answer; err != nil {
		t.Error(err)
	}
}

func TestRatesAreThoseOfAmazon(t *testing.T) {
	now := time.Now()
	var l limits
	for i := range 6 {
		if l.get(now) != (i < 5) {
			t.Errorf("call %d of one second", i+1)
		}
	}
	if now = now.Add(time.Second); !l.get(now) {
		t.Error("the next second")
	}
	l.read(10<<20, now)
	if l.get(now.Add(3 * time.Second)) {
		t.Error("3 s after 10 MB")
	}
	if !l.get(now.Add(5 * time.Second)) {
		t.Error("5 s after 10 MB")
	}
	taken := 0
	for range 2000 {
		if l.put(10, now) {
			taken++
		}
	}
	if taken != 1000 {
		t.Errorf("%d small records in one second", taken)
	}
	taken, now = 0, now.Add(time.Minute)
	for range 20 {
		if l.put(100<<10, now) {
			taken++
		}
	}
	if taken != 10 {
		t.Errorf("%d records of 100 KiB in one second", taken)
	}
}

func TestWhatIsTooFastIsRefused(t *testing.T) {
	s, c := start(t, Options{Limits: true})
	s.CreateStream("clicks", 1)
	rs := slices.Repeat([]types.PutRecordsRequestEntry{{PartitionKey: aws.String("k"), Data: make([]byte, 300<<10)}}, 10)
	out := ok(c.PutRecords(t.Context(), &kinesis.PutRecordsInput{StreamName: clicks, Records: rs}))(t)
	if *out.FailedRecordCount != 7 || *out.Records[9].ErrorCode != "ProvisionedThroughputExceededException" {
		t.Errorf("%d of 10 records of 300 KiB failed", *out.FailedRecordCount)
	}
	for range 10 {
		s.Put("clicks", shardID(0), Record{Key: "k", Data: make([]byte, 1<<20)})
	}
	it := iterate(t, c, "clicks", *zero, types.ShardIteratorTypeTrimHorizon, "")
	read := func() error {
		_, err := c.GetRecords(t.Context(), &kinesis.GetRecordsInput{ShardIterator: it})
		return err
	}
	refused(t, "the first 10 MB", read(), "")
	s.SetClock(-time.Hour) // so that nothing is paid for, however slow the machine is
	refused(t, "the next", read(), "ProvisionedThroughputExceededException")
	s.SetClock(time.Minute)
	refused(t, "later", read(), "")
}

func TestTheEnvironmentLeadsTheSDKHere(t *testing.T) {
	s, _ := start(t, Options{Region: "eu-west-1"})
	if env := s.Env(); env["AWS_ENDPOINT_URL_KINESIS"] != s.URL() || env["AWS_REGION"] != "eu-west-1" ||
		env["AWS_ACCESS_KEY_ID"] == "" || env["AWS_SECRET_ACCESS_KEY"] == "" {
		t.Errorf("the environment is %v", env)
	}
}

func TestAMistakeInATestPanics(t *testing.T) {
	s, _ := start(t, Options{})
	s.CreateStream("clicks", 1)
	s.Split("clicks", shardID(0))
	for what, do := range map[string]func(){
		"no stream":      func() { s.Put("none", shardID(0)) },
		"no shard":       func() { s.Trim("clicks", shardID(9), 1) },
		"a closed shard": func() { s.Put("clicks", shardID(0), Record{}) },
		"split again":    func() { s.Split("clicks", shardID(0)) },
		"strangers":      func() { s.Merge("clicks", shardID(1), shardID(1)) },
		"created twice":  func() { s.CreateStream("clicks", 1) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", what)
				}
			}()
			do()
		}()
	}
}

// An aggregate as the library's readers take it apart, by the fields' numbers.
func TestAnAggregateIsOneOfTheProducerLibrary(t *testing.T) {
	b := Aggregate(
		Record{Key: "a", Data: []byte("1")},
		Record{Key: "b", HashKey: "7", Data: []byte("2"), Tags: []Tag{{"t", "v"}}},
		Record{Key: "a", HashKey: "7", Data: nil},
	)
	message := b[4 : len(b)-md5.Size]
	if sum := md5.Sum(message); string(b[:4]) != "\xf3\x89\x9a\xc2" || string(b[len(b)-md5.Size:]) != string(sum[:]) {
		t.Fatalf("the frame of %x is not right", b)
	}
	var got []string
	for len(message) > 0 {
		field, value := take(t, &message)
		text := string(value)
		if field == 3 {
			text = ""
			for len(value) > 0 {
				f, v := take(t, &value)
				text += fmt.Sprintf("%d=%q ", f, v)
			}
		}
		got = append(got, fmt.Sprintf("%d: %s", field, text))
	}
	want := []string{"1: a", "1: b", "2: 7", `3: 1="0" 3="1" `, `3: 1="1" 2="0" 3="2" 4="\n\x01t\x12\x01v" `, `3: 1="0" 2="0" 3="" `}
	if !slices.Equal(got, want) {
		t.Errorf("it has %q; want %q", got, want)
	}
}

// take takes one field off a message; a number as its digits.
func take(t *testing.T, b *[]byte) (protowire.Number, []byte) {
	t.Helper()
	field, kind, n := protowire.ConsumeTag(*b)
	if n < 0 {
		t.Fatal(protowire.ParseError(n))
	}
	*b = (*b)[n:]
	var value []byte
	if kind == protowire.VarintType {
		var v uint64
		v, n = protowire.ConsumeVarint(*b)
		value = fmt.Append(nil, v)
	} else {
		value, n = protowire.ConsumeBytes(*b)
	}
	if n < 0 {
		t.Fatal(protowire.ParseError(n))
	}
	*b = (*b)[n:]
	return field, value
}

// Writers, readers, splits, trims and expiry at once, for the race detector: every record is read once, and in order per shard.
func TestManyAtOnceLoseNothing(t *testing.T) {
	s, c := start(t, Options{ShardPage: 3})
	s.CreateStream("clicks", 4)
	const writers, batches, size = 4, 20, 25
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for b := range batches {
				rs := make([]types.PutRecordsRequestEntry, size)
				for i := range rs {
					rs[i] = types.PutRecordsRequestEntry{PartitionKey: aws.String(fmt.Sprint(w, i)), Data: fmt.Append(nil, w, b, i)}
				}
				if _, err := c.PutRecords(t.Context(), &kinesis.PutRecordsInput{StreamName: clicks, Records: rs}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 4 {
		s.Split("clicks", shardID(i))
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, sh := range s.Shards("clicks") {
		last := ""
		for it := iterate(t, c, "clicks", sh.ID, types.ShardIteratorTypeTrimHorizon, ""); it != nil; {
			out := get(t, c, it, 30)
			for _, r := range out.Records {
				if *r.SequenceNumber <= last || seen[string(r.Data)] {
					t.Errorf("%s at %s comes after %s, or again", r.Data, *r.SequenceNumber, last)
				}
				last, seen[string(r.Data)] = *r.SequenceNumber, true
			}
			if it = out.NextShardIterator; len(out.Records) == 0 {
				break
			}
		}
	}
	if len(seen) != writers*batches*size {
		t.Errorf("%d records are read; %d were written", len(seen), writers*batches*size)
	}
}

// go test ./testenv/kinesis -run - -bench .
//
// Records of 200 bytes, 500 a call. The SDK's own work is in it: it shares the machine with the server.
func BenchmarkPutRecords(b *testing.B) {
	s, c := start(b, Options{ShardBytes: 16 << 20})
	s.CreateStream("clicks", 16)
	rs := make([]types.PutRecordsRequestEntry, mostPut)
	for i := range rs {
		rs[i] = types.PutRecordsRequestEntry{PartitionKey: aws.String(fmt.Sprint("user-", i)), Data: make([]byte, 200)}
	}
	for b.Loop() {
		ok(c.PutRecords(b.Context(), &kinesis.PutRecordsInput{StreamName: clicks, Records: rs}))(b)
	}
	b.ReportMetric(float64(b.N*mostPut)/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkGetRecords(b *testing.B) {
	s, c := start(b, Options{})
	s.CreateStream("clicks", 1)
	const n = 5000
	for range n {
		s.Put("clicks", shardID(0), Record{Key: "user", Data: make([]byte, 200)})
	}
	it := iterate(b, c, "clicks", *zero, types.ShardIteratorTypeTrimHorizon, "")
	for b.Loop() {
		ok(c.GetRecords(b.Context(), &kinesis.GetRecordsInput{ShardIterator: it}))(b)
	}
	b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "records/s")
}

// The server alone: what it does for a call, without HTTP and SDK.
func BenchmarkServer(b *testing.B) {
	s, _ := start(b, Options{ShardBytes: 16 << 20})
	s.CreateStream("clicks", 256)
	var body strings.Builder
	body.WriteString(`{"StreamName":"clicks","Records":[`)
	for i := range mostPut {
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"PartitionKey":"user-%d","Data":"%s"}`, i, strings.Repeat("QUJD", 67))
	}
	body.WriteString(`]}`)
	text := []byte(body.String())
	b.Run("put", func(b *testing.B) {
		for b.Loop() {
			var in putRecordsInput
			if err := json.Unmarshal(text, &in); err != nil {
				b.Fatal(err)
			}
			ok(s.putRecords(&in, Fault{}))(b)
		}
		b.ReportMetric(float64(b.N*mostPut)/b.Elapsed().Seconds(), "records/s")
	})
	b.Run("get", func(b *testing.B) {
		var out []byte
		s.CreateStream("one", 1)
		s.Put("one", shardID(0), slices.Repeat([]Record{{Key: "user", Data: make([]byte, 200)}}, 5000)...)
		st, now := s.must("one")
		it := s.iterator(st, st.shards[0], 0, now).String()
		for b.Loop() {
			got := ok(s.getRecords(&getRecordsInput{ShardIterator: it}))(b)
			out = got.(*getRecordsOutput).AppendJSON(out[:0])
		}
		b.ReportMetric(float64(b.N*5000)/b.Elapsed().Seconds(), "records/s")
	})
	b.Run("poll an empty shard", func(b *testing.B) {
		st, now := s.must("clicks")
		it := s.iterator(st, st.shards[255], st.last+1, now).String()
		for b.Loop() {
			ok(s.getRecords(&getRecordsInput{ShardIterator: it}))(b)
		}
	})
}
