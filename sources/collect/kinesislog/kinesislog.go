// Package kinesislog is a Kinesis stream as the collector's log. An event is accepted when PutRecords has given it a sequence
// number.
//
// Events of different requests share calls: while as many calls as are allowed are under way, what comes gathers, and the
// next call takes as much of it as it may (500 records, 5 MiB). Nothing waits for company. Of a call that failed in part, the
// failed records alone are sent again, with back-off and jitter, until their request's deadline.
//
// PutRecords does not promise the order of the records of a call, and a record that is sent again comes after those that
// were not. A client that waits for the answer before it sends the next request has its requests in order.
package kinesislog

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"github.com/millrace-io/millrace/sources/collect"
	source "github.com/millrace-io/millrace/sources/kinesis"
	"github.com/millrace-io/millrace/stream"
)

// Config is the kinesis entry of to in a collector's file. Endpoint, region and credentials come from the SDK's own environment.
type Config struct {
	Stream string `yaml:"stream"` // name or ARN; has to exist

	// Calls are under way at once, at most. Default 8, 1 to 256.
	Calls int `yaml:"calls"`
}

// EnsureDefaults fills in what is not said.
func (c *Config) EnsureDefaults() {
	if c.Calls == 0 {
		c.Calls = 8
	}
}

// Validate sets the defaults and returns all problems.
func (c *Config) Validate() error {
	c.EnsureDefaults()
	var problems []error
	if c.Stream == "" {
		problems = append(problems, errors.New("stream is empty; want the name of a stream, or its ARN"))
	}
	if c.Calls < 1 || c.Calls > 256 {
		problems = append(problems, fmt.Errorf("calls is %d; want 1 to 256", c.Calls))
	}
	return errors.Join(problems...)
}

// What PutRecords takes. A record counts with its partition key.
const (
	maxRecords     = source.MaxCallRecords
	maxCallBytes   = source.MaxCallBytes
	maxRecordBytes = source.DefaultRecordBytes
)

const (
	callTimeout = 10 * time.Second
	firstPause  = 50 * time.Millisecond
	longPause   = 2 * time.Second
)

// client is the calls that are made of *kinesis.Client.
type client interface {
	PutRecords(ctx context.Context, in *kinesis.PutRecordsInput, opts ...func(*kinesis.Options)) (*kinesis.PutRecordsOutput, error)
	DescribeStreamSummary(ctx context.Context, in *kinesis.DescribeStreamSummaryInput, opts ...func(*kinesis.Options)) (*kinesis.DescribeStreamSummaryOutput, error)
}

// Log puts into one stream. It is safe for concurrent use.
type Log struct {
	cfg    Config
	client client
	log    *slog.Logger
	stop   context.Context // ends with Close
	cancel context.CancelFunc
	calls  sync.WaitGroup

	timeout time.Duration // callTimeout, longer in tests

	mu      sync.Mutex
	waiting []*item // in order
	free    int     // calls that may begin
}

var _ collect.Log = (*Log)(nil)

// item is one event on its way.
type item struct {
	over     func() error // why its request does not wait any more; nil: it does
	entry    types.PutRecordsRequestEntry
	attempts int
	last     error // of the last attempt
	done     func(error)
}

func (i *item) size() int { return len(i.entry.Data) + len(*i.entry.PartitionKey) }

// Open reads the SDK's environment. It does not call the stream.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Log, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	sdk, err := config.LoadDefaultConfig(ctx, source.Transport())
	if err != nil {
		return nil, fmt.Errorf("read the AWS configuration: %w", err)
	}
	return newLog(cfg, source.PutClient(sdk), log), nil
}

func newLog(cfg Config, c client, log *slog.Logger) *Log {
	cfg.EnsureDefaults()
	stop, cancel := context.WithCancel(context.Background())
	return &Log{cfg: cfg, client: c, log: log, stop: stop, cancel: cancel, free: cfg.Calls, timeout: callTimeout}
}

// Append returns when every event has its sequence number, is refused, or ctx is over.
func (l *Log) Append(ctx context.Context, events []collect.Event) error {
	results := collect.NewResults(len(events))
	items := make([]*item, 0, len(events))
	for i, e := range events {
		it := &item{over: ctx.Err, entry: types.PutRecordsRequestEntry{Data: e.Value, PartitionKey: aws.String(partitionKey(e.Key))}}
		it.done = func(err error) { results.Set(i, err) }
		if size := it.size(); size > maxRecordBytes {
			it.done(fmt.Errorf("%w: with its key it has %d bytes; Kinesis takes %d", collect.ErrTooLarge, size, maxRecordBytes))
			continue
		}
		items = append(items, it)
	}
	l.enqueue(items)
	err := results.Wait(ctx)
	if ctx.Err() != nil {
		l.forget()
	}
	return err
}

// forget lets go of items whose requests were given up, so that what waits is what the collector counts.
func (l *Log) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := l.waiting[:0]
	for _, it := range l.waiting {
		if err := l.over(it); err != nil {
			it.done(errors.Join(err, it.last))
			continue
		}
		kept = append(kept, it)
	}
	clear(l.waiting[len(kept):])
	l.waiting = kept
}

// partitionKey is what Kinesis takes as one: 1 to 256 characters.
func partitionKey(key string) string {
	if key == "" {
		return rand.Text()
	}
	return source.PartitionKey(key)
}

// enqueue lets items wait for a call, and begins as many calls as may be.
func (l *Log) enqueue(items []*item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, items...)
	for l.free > 0 && len(l.waiting) > 0 {
		batch := l.take()
		if len(batch) == 0 {
			return
		}
		l.free--
		l.calls.Go(func() { l.run(batch) })
	}
}

// take is the items of the next call; empty when none is left whose request still waits. l.mu is held.
func (l *Log) take() (batch []*item) {
	bytes := 0
	for len(l.waiting) > 0 && len(batch) < maxRecords {
		it := l.waiting[0]
		if err := l.over(it); err != nil {
			it.done(errors.Join(err, it.last))
		} else if bytes += it.size(); bytes > maxCallBytes {
			return batch
		} else {
			batch = append(batch, it)
		}
		l.waiting[0] = nil
		l.waiting = l.waiting[1:]
	}
	if len(l.waiting) == 0 {
		l.waiting = nil // let go of what was appended to
	}
	return batch
}

// over says why an item is not to be sent any more.
func (l *Log) over(it *item) error {
	if err := it.over(); err != nil {
		return err
	}
	return l.stop.Err()
}

// run makes one call, lets the next one begin, and sees to what failed.
func (l *Log) run(batch []*item) {
	failed, attempts := l.put(batch)
	l.mu.Lock()
	l.free++
	l.mu.Unlock()
	l.enqueue(nil)
	if len(failed) == 0 {
		return
	}
	pause := time.NewTimer(pauseAfter(attempts))
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-l.stop.Done():
	}
	l.enqueue(failed)
}

// pauseAfter is half of it fixed, half of it chance.
func pauseAfter(attempts int) time.Duration {
	pause := min(firstPause<<min(attempts-1, 10), longPause)
	return pause/2 + mathrand.N(pause/2)
}

// put makes one call and returns the items to be sent again, and how often the one that was sent most has been.
func (l *Log) put(batch []*item) (failed []*item, attempts int) {
	in := &kinesis.PutRecordsInput{Records: make([]types.PutRecordsRequestEntry, len(batch))}
	in.StreamName, in.StreamARN = source.StreamNamed(l.cfg.Stream)
	for i, it := range batch {
		in.Records[i] = it.entry
	}
	ctx, cancel := context.WithTimeout(l.stop, l.timeout)
	defer cancel()
	out, err := l.client.PutRecords(ctx, in)
	if err == nil && len(out.Records) != len(batch) {
		err = fmt.Errorf("PutRecords answered for %d of %d records", len(out.Records), len(batch))
	}
	for i, it := range batch {
		switch {
		case err != nil && refused(err):
			it.done(err)
			continue
		case err != nil:
			it.last = err
		case out.Records[i].ErrorCode != nil:
			it.last = fmt.Errorf("%s: %s", *out.Records[i].ErrorCode, aws.ToString(out.Records[i].ErrorMessage))
		default:
			it.done(nil)
			continue
		}
		it.attempts++
		attempts = max(attempts, it.attempts)
		failed = append(failed, it)
	}
	if len(failed) > 0 {
		l.log.Debug("kinesis records are sent again", "records", len(failed), "of", len(batch), "attempt", attempts, "error", failed[0].last)
	}
	return failed, attempts
}

// refused says that the service blames the call, so that the same call fails again.
func refused(err error) bool {
	var throttled *types.ProvisionedThroughputExceededException
	var limited *types.LimitExceededException
	if errors.As(err, &throttled) || errors.As(err, &limited) {
		return false
	}
	var answer interface{ HTTPStatusCode() int }
	if !errors.As(err, &answer) {
		return false
	}
	code := answer.HTTPStatusCode()
	return code >= 400 && code < 500 && code != http.StatusRequestTimeout && code != http.StatusTooManyRequests && !isThrottle(err)
}

// isThrottle says that an error asks for a pause. Throttling comes with status 400, under several names.
func isThrottle(err error) bool {
	var named interface{ ErrorCode() string }
	return errors.As(err, &named) && (strings.Contains(named.ErrorCode(), "Throttl") || named.ErrorCode() == "RequestExpired")
}

// Probe says why the stream cannot be written at present; a stream.FatalError if waiting does not help. It needs the
// permission kinesis:DescribeStreamSummary.
func (l *Log) Probe(ctx context.Context) error {
	in := &kinesis.DescribeStreamSummaryInput{}
	in.StreamName, in.StreamARN = source.StreamNamed(l.cfg.Stream)
	out, err := l.client.DescribeStreamSummary(ctx, in)
	if err != nil {
		err = fmt.Errorf("ask for stream %s: %w", l.cfg.Stream, err)
		if refused(err) {
			return stream.Fatal(err)
		}
		return err
	}
	switch status := out.StreamDescriptionSummary.StreamStatus; status {
	case types.StreamStatusActive, types.StreamStatusUpdating:
		return nil
	default:
		return fmt.Errorf("stream %s is %s", l.cfg.Stream, status)
	}
}

// Close gives up what is not stored, and returns when nothing is under way.
func (l *Log) Close() {
	l.cancel()
	l.calls.Wait()
}
