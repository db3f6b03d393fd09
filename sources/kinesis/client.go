package kinesis

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"github.com/millrace-io/millrace/stream"
)

// This file is for those who put records: the collector and the sink.

// What PutRecords takes everywhere. A record counts with its partition key. A stream may be set to take records of up to
// MaxRecordBytes; by default it takes DefaultRecordBytes.
const (
	MaxCallRecords     = 500
	MaxCallBytes       = 5 << 20
	DefaultRecordBytes = 1 << 20
	MaxRecordBytes     = 10 << 20
)

// PutClient returns a client that makes each call once: the SDK would repeat the records of a call that are stored already.
func PutClient(cfg aws.Config, options ...func(*kinesis.Options)) *kinesis.Client {
	return kinesis.NewFromConfig(cfg, append(options, func(o *kinesis.Options) {
		o.Retryer, o.HTTPClient = aws.NopRetryer{}, patient{o.HTTPClient}
	})...)
}

// patient sends a copy of the body. The SDK closes its own as soon as an answer comes; if net/http has not seen the body's end by
// then, it drops the connection with the answer, and what is stored would be put again.
type patient struct{ kinesis.HTTPClient }

// Do implements kinesis.HTTPClient.
func (p patient) Do(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Body = io.NopCloser(bytes.NewReader(body))
	return p.HTTPClient.Do(r)
}

// Transport is the SDK's own, but for connections from which nothing comes any more. By HTTP/2 all calls share one, and a call
// that is given up leaves it to the next one: a dead connection has to be noticed.
func Transport() func(*config.LoadOptions) error {
	return config.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.HTTP2 = &http.HTTP2Config{SendPingTimeout: requestTimeout / 4, PingTimeout: requestTimeout / 4}
	}))
}

// PartitionKey makes what Kinesis takes as one, 1 to 256 characters, of a key that is not empty.
func PartitionKey(key string) string {
	const most = 256
	if len(key) > most { // bytes are at least as many as characters
		sum := sha256.Sum256([]byte(key))
		return hex.EncodeToString(sum[:])
	}
	return strings.ToValidUTF8(key, "\uFFFD")
}

// StreamNamed is a stream's name, or its ARN, as calls have it: one of the two is nil.
func StreamNamed(text string) (name, arn *string) {
	if strings.HasPrefix(text, "arn:") {
		return nil, &text
	}
	return &text, nil
}

// Explain says what an error of a call on a resource means. What no repetition mends is a FatalError that says what to do.
func Explain(doing, resource string, err error) error { return explain(doing, resource, err) }

// Records returns what a Kinesis record holds: itself, or the records of an aggregate of the producer library, each with its own
// position. Of an aggregate that cannot be read it is one with an Err.
func Records(r *types.Record) ([]stream.Record, error) { return appendRecords(nil, r) }
