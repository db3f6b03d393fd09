package kinesis

import (
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
	"github.com/aws/smithy-go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
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

func iterate(t testing.TB, c *kinesis.Client, stream, shard string, kind types.ShardIteratorType, at string) *string {
	t.Helper()
	in := &kinesis.GetShardIteratorInput{StreamName: &stream, ShardId: &shard, ShardIteratorType: kind}
	if at != "" {
		in.StartingSequenceNumber = &at
	}
	out, err := c.GetShardIterator(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return out.ShardIterator
}

func TestMainPath(t *testing.T) {
	s, c := start(t, Options{ShardPage: 2})
	if _, err := c.CreateStream(t.Context(), &kinesis.CreateStreamInput{StreamName: aws.String("clicks"), ShardCount: aws.Int32(3)}); err != nil {
		t.Fatal(err)
	}
	var rs []types.PutRecordsRequestEntry
	for i := range 100 {
		rs = append(rs, types.PutRecordsRequestEntry{Data: fmt.Append(nil, i), PartitionKey: aws.String(fmt.Sprint("k", i))})
	}
	put, err := c.PutRecords(t.Context(), &kinesis.PutRecordsInput{StreamName: aws.String("clicks"), Records: rs})
	if err != nil || *put.FailedRecordCount != 0 {
		t.Fatal(put, err)
	}
	lower, upper := s.Split("clicks", shardID(0))
	child := s.Merge("clicks", lower, upper)
	t.Log(lower, upper, child)
	var ids []string
	for token := (*string)(nil); ; {
		in := &kinesis.ListShardsInput{NextToken: token}
		if token == nil {
			in.StreamName = aws.String("clicks")
		}
		out, err := c.ListShards(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		for _, sh := range out.Shards {
			ids = append(ids, *sh.ShardId)
			t.Log(*sh.ShardId, aws.ToString(sh.ParentShardId), aws.ToString(sh.AdjacentParentShardId), *sh.SequenceNumberRange.StartingSequenceNumber, aws.ToString(sh.SequenceNumberRange.EndingSequenceNumber))
		}
		if token = out.NextToken; token == nil {
			break
		}
	}
	n := 0
	for _, id := range ids {
		it := iterate(t, c, "clicks", id, types.ShardIteratorTypeTrimHorizon, "")
		out, err := c.GetRecords(t.Context(), &kinesis.GetRecordsInput{ShardIterator: it})
		if err != nil {
			t.Fatal(err)
		}
		n += len(out.Records)
		t.Log(id, len(out.Records), out.NextShardIterator != nil, len(out.ChildShards), *out.MillisBehindLatest)
	}
	if n != 100 {
		t.Error(n)
	}
	_, err = c.DescribeStreamSummary(t.Context(), &kinesis.DescribeStreamSummaryInput{StreamName: aws.String("x")})
	t.Log(err)
}
