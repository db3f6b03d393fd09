package objects

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/millrace-io/millrace/sources/awserr"
	"github.com/millrace-io/millrace/stream"
)

// multipart is one multipart upload. Parts are sent by goroutines, InFlight at most; all else happens in the caller's.
type multipart struct {
	b     *bucket
	key   string
	token string

	id    string  // S3's name of the upload; empty before it is created
	parts []*part // all but the last are full
	open  bool    // the last part may still grow

	// sending outlives the call of Send that started a part, and ends with the upload.
	sending context.Context
	stop    context.CancelFunc
	running int
	ended   chan *part // has room for all that run

	failed error // for good
}

// part is one part of an upload.
type part struct {
	number int32
	data   []byte // nil once the server has it
	size   int64
	state  partState
	etag   string // valid when sent
	err    error  // of the last attempt; read after the part came back through ended
}

type partState int

const (
	waiting partState = iota
	underWay
	sent
)

func (b *bucket) Begin(key string) Upload {
	return &multipart{b: b, key: key, token: rand.Text(), ended: make(chan *part, b.o.InFlight)}
}

func (u *multipart) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		last := u.growing()
		room := int(u.b.o.PartSize) - len(last.data)
		k := min(room, len(p))
		last.data = append(grow(last.data, k, int(u.b.o.PartSize)), p[:k]...)
		p = p[k:]
		u.open = k < room
	}
	return n, nil
}

// grow makes room for n more bytes without more than limit in all.
func grow(b []byte, n, limit int) []byte {
	if len(b)+n <= cap(b) {
		return b
	}
	return append(make([]byte, 0, min(max(2*cap(b), len(b)+n), limit)), b...)
}

// growing is the part that takes the next byte.
func (u *multipart) growing() *part {
	if !u.open {
		u.parts = append(u.parts, &part{number: int32(len(u.parts)) + 1})
		u.open = true
	}
	return u.parts[len(u.parts)-1]
}

func (u *multipart) Buffered() int64 {
	u.collect()
	n := int64(0)
	for _, p := range u.parts {
		n += int64(cap(p.data))
	}
	return n
}

// collect takes in the parts that ended in the meantime.
func (u *multipart) collect() {
	for {
		select {
		case p := <-u.ended:
			u.back(p)
		default:
			return
		}
	}
}

// back takes a part in that has ended.
func (u *multipart) back(p *part) {
	u.running--
	p.state = waiting
	if p.err == nil {
		p.state, p.size, p.data = sent, int64(len(p.data)), nil
	}
}

// failure is the error of a part that came back with one. The next attempt forgets it.
func (u *multipart) failure() error {
	var err error
	for _, p := range u.parts {
		if p.state != waiting || p.err == nil {
			continue
		}
		if err == nil || errors.Is(p.err, stream.ErrExpired) {
			err = p.err
		}
		p.err = nil
	}
	if errors.Is(err, stream.ErrExpired) {
		u.failed = err
	}
	return err
}

func (u *multipart) Send(ctx context.Context) error {
	full := len(u.parts)
	if u.open {
		full--
	}
	return u.send(ctx, full, nil)
}

// send starts the first n parts and returns when all of them are under way or sent.
func (u *multipart) send(ctx context.Context, n int, meta map[string]string) error {
	u.collect()
	if err := u.failure(); err != nil || u.failed != nil {
		return cmp.Or(u.failed, err)
	}
	if n == 0 {
		return nil
	}
	if err := u.create(ctx, meta); err != nil {
		return err
	}
	for _, p := range u.parts[:n] {
		if p.state != waiting {
			continue
		}
		for u.running == cap(u.ended) {
			if err := u.wait(ctx); err != nil {
				return err
			}
		}
		u.start(p)
	}
	return nil
}

// wait takes in one part that ends.
func (u *multipart) wait(ctx context.Context) error {
	select {
	case p := <-u.ended:
		u.back(p)
		return u.failure()
	case <-ctx.Done():
		return fmt.Errorf("send %s/%s: %d of its parts are still on the way: %w", u.b, u.key, u.running, ctx.Err())
	}
}

func (u *multipart) create(ctx context.Context, meta map[string]string) error {
	if u.id != "" {
		return nil
	}
	if err := checkKey(u.key); err != nil {
		return err
	}
	// If the answer is lost, the upload that was made stays behind for the bucket's lifecycle.
	out, err := u.b.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket: &u.b.bucket, Key: u.b.key(u.key), Metadata: encodeMetadata(u.token, meta),
	})
	if err != nil {
		return u.b.explain("begin", u.key, err)
	}
	u.id = aws.ToString(out.UploadId)
	u.sending, u.stop = context.WithCancel(context.WithoutCancel(ctx))
	return nil
}

// start sends one part in the background. Its goroutine ends with the request, at the latest when that stands still for PartTimeout,
// or with Discard.
func (u *multipart) start(p *part) {
	p.state = underWay
	u.running++
	ctx, cancel := context.WithCancelCause(u.sending)
	limit := u.b.o.PartTimeout
	still := time.AfterFunc(limit, func() { cancel(fmt.Errorf("it stood still for %s", limit)) })
	go func() {
		defer cancel(nil)
		defer still.Stop()
		p.etag, p.err = u.b.sendPart(ctx, u.key, u.id, p.number, &moving{bytes.NewReader(p.data), func() { still.Reset(limit) }})
		u.ended <- p
	}()
}

// moving is what is sent of a part. A network that is slow is not dead: the same part once more would take as long.
type moving struct {
	io.ReadSeeker // not a *bytes.Reader, which would write all at once
	moved         func()
}

func (m *moving) Read(p []byte) (int, error) {
	m.moved()
	return m.ReadSeeker.Read(p)
}

func (b *bucket) sendPart(ctx context.Context, key, upload string, number int32, data io.ReadSeeker) (string, error) {
	out, err := b.client.UploadPart(ctx, &s3.UploadPartInput{
		Bucket: &b.bucket, Key: b.key(key), UploadId: &upload, PartNumber: &number, Body: data,
	})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return "", fmt.Errorf("send part %d of %s/%s: %w", number, b, key, cause)
	}
	if awserr.Code(err) == "NoSuchUpload" {
		return "", fmt.Errorf("send part %d of %s: the upload was removed from %s before it was complete (by a lifecycle rule?): %w",
			number, key, b, stream.ErrExpired)
	}
	if err != nil {
		return "", b.explain(fmt.Sprintf("send part %d of", number), key, err)
	}
	return aws.ToString(out.ETag), nil
}

func (u *multipart) Seal(ctx context.Context, meta map[string]string) (Ticket, error) {
	if u.failed != nil {
		return Ticket{}, u.failed
	}
	if len(u.parts) == 0 {
		u.growing() // an object has at least one part, if an empty one
	}
	if len(u.parts) > maxParts {
		return Ticket{}, stream.Fatal(fmt.Errorf("%s has more than %d parts of %d bytes; set a larger part size or roll earlier", u.key, maxParts, u.b.o.PartSize))
	}
	if err := u.send(ctx, len(u.parts), meta); err != nil {
		return Ticket{}, err
	}
	for u.running > 0 {
		if err := u.wait(ctx); err != nil {
			return Ticket{}, err
		}
	}
	t := Ticket{Key: u.key, Upload: u.id, Token: u.token, Parts: make([]string, len(u.parts))}
	for i, p := range u.parts {
		t.Parts[i] = p.etag
		t.Size += p.size
	}
	u.stop()
	return t, nil
}

func (u *multipart) Discard(ctx context.Context) {
	u.failed = errors.New("the upload was discarded")
	defer func() { u.parts, u.open = nil, false }()
	if u.id == "" {
		return
	}
	u.stop()
	for u.running > 0 {
		u.back(<-u.ended) // they were told to stop
	}
	var err error
	for range 3 { // a server may still be busy with a part that we gave up
		if err = u.b.abort(ctx, u.key, u.id); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		u.b.o.Log.Debug("an upload is left to the bucket's lifecycle", "key", u.key, "error", err)
	}
}

// metadataLimit is S3's limit for an object's metadata, keys and values together, in bytes.
const metadataLimit = 2 << 10

// encodeMetadata makes meta fit for headers, with our token. What does not fit any more is left out, the last keys first.
func encodeMetadata(token string, meta map[string]string) map[string]string {
	out := map[string]string{tokenKey: token}
	size := len(tokenKey) + len(token)
	for _, k := range slices.Sorted(maps.Keys(meta)) {
		v := meta[k]
		if strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' || r == '%' }) {
			v = url.PathEscape(v)
		}
		if size += len(k) + len(v); size > metadataLimit {
			break
		}
		out[k] = v
	}
	return out
}

// decodeMetadata reads what encodeMetadata made of a value.
func decodeMetadata(v string) string {
	if s, err := url.PathUnescape(v); err == nil {
		return s
	}
	return v // not ours
}
