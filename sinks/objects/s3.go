package objects

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/millrace-io/millrace/sources/awserr"
	"github.com/millrace-io/millrace/stream"
)

// tokenKey names our token in an object's metadata. It alone tells that an object is the one that a ticket stands for:
// tickets outlive processes, and servers differ in how they answer the second complete of one upload.
const tokenKey = "millrace-upload"

// bucket is a Store in S3 or a server that speaks its protocol.
type bucket struct {
	client *s3.Client
	place
	o Options

	// custom: not Amazon's own endpoint. Some such servers ignore If-None-Match on a complete (gofakes3), and some answer 200
	// to the complete of an upload that they do not know when any object has the key (versitygw). So there we look before and
	// after.
	custom        bool
	unconditional atomic.Bool // the server refused If-None-Match as not implemented
}

var _ Store = (*bucket)(nil)

// retryer is the SDK's part of the repetitions. Without attempts that is a second one at once when no answer came, for the
// idle connection that the server closed as we used it. Everything else is the engine's: its back-off is visible in the
// metrics and has no end, and its deadline is meant for one attempt.
func retryer(attempts int) aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.RateLimiter = ratelimit.None
		if attempts > 0 {
			o.MaxAttempts, o.MaxBackoff = attempts, 5*time.Second
			return
		}
		o.MaxAttempts, o.MaxBackoff = 2, 10*time.Millisecond
		o.Retryables = []retry.IsErrorRetryable{retry.NoRetryCanceledError{}, retry.RetryableConnectionError{}}
	})
}

func openBucket(ctx context.Context, p place, o Options) (*bucket, error) {
	cfg, err := config.LoadDefaultConfig(ctx,
		// Checksums in trailers are not understood by many servers. What protects the bytes instead: TLS, or without it the
		// signature over the payload.
		config.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenRequired),
		config.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired),
		config.WithRetryer(func() aws.Retryer { return retryer(o.Attempts) }),
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			t.MaxIdleConnsPerHost = 32 // partitions publish and send at the same time
			// By HTTP/2, which servers other than Amazon's speak, a call that is given up leaves its connection to the next one: a
			// dead connection has to be noticed.
			t.HTTP2 = &http.HTTP2Config{SendPingTimeout: o.PartTimeout / 4, PingTimeout: o.PartTimeout / 4}
		})),
	)
	if err != nil {
		return nil, stream.Fatal(fmt.Errorf("the AWS configuration in the environment or in ~/.aws: %w", err))
	}
	b := &bucket{place: p, o: o}
	b.client = s3.NewFromConfig(cfg, func(o *s3.Options) {
		b.custom = o.BaseEndpoint != nil
		o.UsePathStyle = b.custom
		if o.Region == "" && b.custom {
			o.Region = "us-east-1" // what servers other than Amazon's answer to
		}
	})
	if b.client.Options().Region == "" {
		return nil, stream.Fatal(fmt.Errorf("%s: no region; set AWS_REGION to the bucket's", b))
	}
	if _, err := cfg.Credentials.Retrieve(ctx); err != nil {
		return nil, stream.Fatal(fmt.Errorf("%s: no credentials: %w; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the instance a role", b, err))
	}
	return b, nil
}

func (b *bucket) String() string { return strings.TrimSuffix("s3://"+b.bucket+"/"+b.prefix, "/") }

// key is the whole key in the bucket.
func (b *bucket) key(key string) *string { return aws.String(b.prefix + key) }

func (b *bucket) Publish(ctx context.Context, t Ticket) error {
	if err := b.checkTicket(t); err != nil {
		return err
	}
	if b.custom {
		switch found, err := b.owner(ctx, t); {
		case err != nil, found == ours:
			return err
		case found == somebodys:
			return b.taken(t)
		}
	}
	err := b.complete(ctx, t)
	code := awserr.Code(err)
	switch {
	case err == nil && !b.custom:
		return nil
	case err != nil && code != "NoSuchUpload" && code != "PreconditionFailed" && code != "InvalidPart":
		return b.explain("publish", t.Key, err)
	}
	found, lookErr := b.owner(ctx, t)
	switch {
	case lookErr != nil:
		return lookErr
	case found == ours:
		return nil
	case found == somebodys:
		return b.taken(t)
	case err == nil:
		return fmt.Errorf("publish %s: %s says that it is complete, but it is not there", t.Key, b)
	case code == "PreconditionFailed":
		return fmt.Errorf("publish %s: an object was there and is gone: %w", t.Key, err)
	}
	return fmt.Errorf("publish %s: the upload is gone from %s (%s), and there is no object: %w", t.Key, b, code, stream.ErrExpired)
}

func (b *bucket) taken(t Ticket) error {
	return stream.Fatal(fmt.Errorf("publish %s: an object that is not ours is at %s/%s; move it away", t.Key, b, t.Key))
}

// complete asks for the upload to become the object.
func (b *bucket) complete(ctx context.Context, t Ticket) error {
	in := &s3.CompleteMultipartUploadInput{
		Bucket: &b.bucket, Key: b.key(t.Key), UploadId: &t.Upload,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: make([]types.CompletedPart, len(t.Parts))},
	}
	for i := range t.Parts {
		in.MultipartUpload.Parts[i] = types.CompletedPart{ETag: &t.Parts[i], PartNumber: aws.Int32(int32(i) + 1)}
	}
	if !b.unconditional.Load() {
		in.IfNoneMatch = aws.String("*")
	}
	_, err := b.client.CompleteMultipartUpload(ctx, in)
	if awserr.Code(err) == "NotImplemented" && in.IfNoneMatch != nil {
		b.unconditional.Store(true)
		in.IfNoneMatch = nil
		_, err = b.client.CompleteMultipartUpload(ctx, in)
	}
	return err
}

// owner of an object.
type owner int

const (
	nobodys owner = iota // there is none
	ours
	somebodys
)

// owner says whose object is at the ticket's key.
func (b *bucket) owner(ctx context.Context, t Ticket) (owner, error) {
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.bucket, Key: b.key(t.Key)})
	switch {
	case isNotFound(err):
		return nobodys, nil
	case err != nil:
		return nobodys, b.explain("look at", t.Key, err)
	case out.Metadata[tokenKey] == t.Token:
		return ours, nil
	}
	return somebodys, nil
}

func (b *bucket) Withdraw(ctx context.Context, t Ticket) error {
	if err := b.checkTicket(t); err != nil {
		return err
	}
	if err := b.abort(ctx, t.Key, t.Upload); err != nil {
		return err
	}
	found, err := b.owner(ctx, t)
	if err != nil || found != ours {
		return err
	}
	return b.Delete(ctx, t.Key)
}

// abort removes an upload; not there is success.
func (b *bucket) abort(ctx context.Context, key, upload string) error {
	_, err := b.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &b.bucket, Key: b.key(key), UploadId: &upload})
	if awserr.Code(err) == "NoSuchUpload" {
		return nil
	}
	return b.explain("abort the upload of", key, err)
}

func (b *bucket) checkTicket(t Ticket) error {
	if t.Upload == "" || len(t.Parts) == 0 || t.Token == "" {
		return stream.Fatal(fmt.Errorf("the receipt of %s is not of %s; was the sink's url changed since the last commit?", t.Key, b))
	}
	return checkKey(t.Key)
}

func (b *bucket) Put(ctx context.Context, key string, data []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	_, err := b.client.PutObject(ctx, &s3.PutObjectInput{Bucket: &b.bucket, Key: b.key(key), Body: bytes.NewReader(data)})
	return b.explain("put", key, err)
}

func (b *bucket) Get(ctx context.Context, key string) ([]byte, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.bucket, Key: b.key(key)})
	if err != nil {
		return nil, b.explain("get", key, err)
	}
	defer out.Body.Close()
	data, err := io.ReadAll(out.Body)
	return data, b.explain("get", key, err)
}

func (b *bucket) Delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	_, err := b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.bucket, Key: b.key(key)})
	if isNotFound(err) {
		return nil
	}
	return b.explain("delete", key, err)
}

func (b *bucket) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		pages := s3.NewListObjectsV2Paginator(b.client, &s3.ListObjectsV2Input{Bucket: &b.bucket, Prefix: b.key(prefix)})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(Info{}, b.explain("list", prefix, err))
				return
			}
			for _, o := range page.Contents {
				key := strings.TrimPrefix(aws.ToString(o.Key), b.prefix)
				if hidden(key, len(prefix)) || strings.HasSuffix(key, "/") { // the latter are consoles' folders
					continue
				}
				if !yield(Info{Key: key, Size: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified), Version: aws.ToString(o.ETag)}, nil) {
					return
				}
			}
		}
	}
}

// Probe begins an upload and removes it: that needs the bucket, the region, the credentials and the right to write, and
// nobody sees it.
func (b *bucket) Probe(ctx context.Context) error {
	const key = "_millrace/probe"
	out, err := b.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &b.bucket, Key: b.key(key)})
	if err != nil {
		return b.explain("write to", key, err)
	}
	return b.abort(ctx, key, aws.ToString(out.UploadId))
}

func (b *bucket) Open(ctx context.Context, key string) (Object, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.bucket, Key: b.key(key)})
	if err != nil {
		return nil, b.explain("open", key, err)
	}
	meta := map[string]string{}
	for k, v := range out.Metadata {
		if k != tokenKey {
			meta[k] = decodeMetadata(v)
		}
	}
	return &remoteObject{ctx: ctx, b: b, key: key, size: aws.ToInt64(out.ContentLength), etag: out.ETag, meta: meta}, nil
}

// fetch reads the bytes from off to end of the version of an object that has the entity tag.
func (b *bucket) fetch(ctx context.Context, key string, etag *string, into []byte, off int64) error {
	span := "bytes=" + strconv.FormatInt(off, 10) + "-" + strconv.FormatInt(off+int64(len(into))-1, 10)
	out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.bucket, Key: b.key(key), Range: &span, IfMatch: etag})
	if err != nil {
		return b.explain("read", key, err)
	}
	defer out.Body.Close()
	if _, err := io.ReadFull(out.Body, into); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // the caller's end of file is elsewhere
		}
		return b.explain("read", key, err)
	}
	return nil
}
