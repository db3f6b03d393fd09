package kinesis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
	"github.com/aws/smithy-go/middleware"

	"github.com/millrace-io/millrace/sources/awserr"
	"github.com/millrace-io/millrace/stream"
)

const (
	// shardRate is how many bytes a second a shard gives to all its readers.
	shardRate = 2 << 20

	// nearEnd is how close to the end of the retention a reader that lags looks whether the record it goes on from is still there.
	nearEnd = 10 * time.Minute

	// readTimeout bounds a call that reads, with its answer of up to 10 MB.
	readTimeout = 10 * time.Second

	// Pauses between two failed calls: doubled from the first to the last, half of it random. A throttled call waits a second at
	// least: that is how long a shard counts.
	firstPause    = 200 * time.Millisecond
	throttlePause = time.Second
	lastPause     = 10 * time.Second
)

var errEnding = errors.New("the tenure ends")

// getRecords is the call with all that the SDK does around it.
type getRecords func(context.Context, *kinesis.GetRecordsInput) (*kinesis.GetRecordsOutput, middleware.Metadata, error)

// reader reads a shard for one tenure. The library's goroutine calls guarded and handOver in turn; the tenure's calls close.
type reader struct {
	tenure   *tenure
	token    string          // what the library calls it
	ctx      context.Context // of the delivery
	consumer stream.Consumer
	finished chan struct{} // closed when nothing more will be handed over

	mu     sync.Mutex // held while it reads or hands over
	closed bool       // finished is closed
	ended  bool       // everything of a closed shard was handed over
	err    error      // fails the run

	started   bool
	after     stream.Position // of the last record read, or where to begin
	hasAfter  bool            // else the beginning is the pipeline's
	iterator  string          // empty: to be made
	unsure    bool            // the iterator begins at the record of after, which has not come yet
	records   []stream.Record // read and not handed over
	last      bool            // they are the shard's last
	average   float64         // bytes of a record; a guess at first
	notBefore time.Time       // of the next call
}

// guarded is fetch, for a goroutine that does not survive a panic, and whose errors are final.
func (rd *reader) guarded(ctx context.Context, get getRecords) (more bool, err error) {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	defer func() {
		if p := recover(); p != nil {
			err = stream.Fatal(fmt.Errorf("reading a shard failed in a way that nobody foresaw: %v", p))
		}
		if err != nil {
			rd.finish(err)
		}
	}()
	if rd.closed {
		return false, errEnding
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(rd.ctx, cancel)()
	return rd.fetch(ctx, get)
}

// finish ends the reader. It is called with mu held.
func (rd *reader) finish(err error) {
	if rd.closed {
		return
	}
	rd.closed, rd.records = true, nil
	if rd.ctx.Err() == nil && !errors.Is(err, errEnding) {
		rd.err = err
	}
	close(rd.finished)
}

// close returns when nothing is handed over any more. The context of the delivery has ended.
func (rd *reader) close() {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	rd.finish(errEnding)
}

// abandoned fails the run if the library has stopped reading for a reason of its own: better than a shard that nobody reads.
func (rd *reader) abandoned() {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	rd.finish(stream.Fatal(fmt.Errorf("the client library has stopped reading %s", rd)))
}

// fetch reads until there is an answer without an error; more is false when it is the shard's last. Nothing but the end of the
// tenure and what no repetition mends stops it: errors are repeated, an iterator that expired is made anew.
func (rd *reader) fetch(ctx context.Context, get getRecords) (more bool, err error) {
	if err := rd.start(ctx); err != nil {
		return false, err
	}
	for failures := 0; ; failures++ {
		if err := rd.wait(ctx, time.Until(rd.notBefore)); err != nil {
			return false, err
		}
		err := rd.call(ctx, get)
		rd.tenure.run.trouble.Ended("reading", rd.worth(err))
		var fatal *stream.FatalError
		switch {
		case err == nil:
			return !rd.last, nil
		case rd.ctx.Err() != nil:
			return false, errEnding
		case errors.As(err, &fatal):
			return false, err
		}
		pause := firstPause
		switch awserr.Code(err) {
		case "ExpiredIteratorException":
			rd.iterator = ""
			if failures == 0 {
				continue
			}
		case "InvalidArgumentException":
			rd.iterator = ""
		case "ProvisionedThroughputExceededException", "LimitExceededException", "KMSThrottlingException":
			pause = throttlePause
		}
		pause = min(pause<<min(failures, 8), lastPause)
		if failures == 3 || failures > 0 && failures%32 == 0 {
			rd.tenure.run.log.Warn("reading a shard fails and is repeated", "shard", rd.tenure.Partition(), "error", err, "attempt", failures+1)
		}
		if err := rd.wait(ctx, pause/2+rand.N(pause/2+1)); err != nil {
			return false, err
		}
	}
}

// worth is err if it is worth an operator's look: not of an iterator that has to be made anew, nor once the tenure ends.
func (rd *reader) worth(err error) error {
	if rd.ctx.Err() != nil || awserr.Code(err) == "ExpiredIteratorException" {
		return nil
	}
	return err
}

func (rd *reader) wait(ctx context.Context, d time.Duration) error {
	if d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return errEnding
	}
	return nil
}

// start asks the consumer where to begin, which may take until the last owner's commit is published.
func (rd *reader) start(ctx context.Context) error {
	if rd.started {
		return nil
	}
	rd.started = true
	rd.after, rd.hasAfter = rd.consumer.Start()
	if ctx.Err() != nil {
		return errEnding
	}
	return rd.tenure.readMark()
}

// call makes one call, and an iterator before it if there is none.
func (rd *reader) call(ctx context.Context, get getRecords) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	if rd.iterator == "" {
		if err := rd.open(ctx); err != nil {
			return err
		}
	}
	out, answer, err := get(ctx, &kinesis.GetRecordsInput{ShardIterator: &rd.iterator, Limit: aws.Int32(rd.limit())})
	if errors.Is(err, context.DeadlineExceeded) {
		rd.average = float64(rd.tenure.run.share()) / max(1, float64(rd.limit()/2)) // half as many: the network may be too slow for so much
	}
	if err != nil {
		return explain("read", rd.String(), err)
	}
	return rd.accept(out, answer)
}

// String names the shard in errors.
func (rd *reader) String() string {
	return fmt.Sprintf("shard %s of %s", rd.tenure.Partition(), rd.tenure.run)
}

// limit is how many records to ask for.
func (rd *reader) limit() int32 {
	run := rd.tenure.run
	return int32(min(max(1, float64(run.share())/max(rd.average, 256)), float64(run.cfg.Fetch.MaxRecords)))
}

// open makes an iterator.
func (rd *reader) open(ctx context.Context) error {
	run := rd.tenure.run
	shard := rd.tenure.Partition()
	in := &kinesis.GetShardIteratorInput{StreamName: &run.cfg.Stream, ShardId: &shard, ShardIteratorType: types.ShardIteratorTypeTrimHorizon}
	switch {
	case rd.hasAfter:
		in.ShardIteratorType = types.ShardIteratorTypeAtSequenceNumber
		in.StartingSequenceNumber = aws.String(sequenceText(readFrom(rd.after)))
	case !run.origin.Start.IsZero():
		in.ShardIteratorType, in.Timestamp = types.ShardIteratorTypeAtTimestamp, &run.origin.Start
	}
	out, err := run.kinesis.GetShardIterator(ctx, in)
	if rd.hasAfter && awserr.Code(err) == "InvalidArgumentException" { // the service does not know the number any more
		if err := rd.missing(time.Now()); err != nil {
			return err
		}
		in.ShardIteratorType, in.StartingSequenceNumber = types.ShardIteratorTypeTrimHorizon, nil
		rd.unsure = false
		out, err = run.kinesis.GetShardIterator(ctx, in)
	} else if err == nil {
		rd.unsure = rd.hasAfter
	}
	if err != nil {
		return explain("read", rd.String(), err)
	}
	rd.iterator = aws.ToString(out.ShardIterator)
	return nil
}

// accept takes what came.
func (rd *reader) accept(out *kinesis.GetRecordsOutput, answer middleware.Metadata) error {
	now := serverTime(answer)
	behind := time.Duration(aws.ToInt64(out.MillisBehindLatest)) * time.Millisecond
	tip := behind == 0 && len(out.Records) == 0
	rd.iterator, rd.last = aws.ToString(out.NextShardIterator), out.NextShardIterator == nil
	if err := rd.check(out.Records, tip, now); err != nil {
		return err
	}
	size, err := rd.unpack(out.Records)
	if err != nil {
		return stream.Fatal(fmt.Errorf("read %s: %w", rd, err))
	}
	if n := float64(len(out.Records)); n > 0 {
		rd.average += (float64(size)/n - rd.average) / 2
	}
	rd.notBefore = time.Now().Add(time.Duration(size) * time.Second / shardRate)
	rd.tenure.heard(behind, len(rd.records))
	if tip && rd.hasAfter {
		rd.tenure.clear(rd.after, now)
	}
	if keep := time.Duration(rd.tenure.run.retention.Load()); rd.hasAfter && !rd.last && keep > nearEnd && behind > keep-nearEnd {
		rd.iterator = ""
	}
	return nil
}

// check finds out, with the first answer of an iterator that begins at a record read before, whether that is still there.
func (rd *reader) check(records []types.Record, tip bool, now time.Time) error {
	if !rd.unsure || len(records) == 0 && !tip && !rd.last {
		return nil
	}
	rd.unsure = false
	if len(records) > 0 {
		first, err := parseSequence(aws.ToString(records[0].SequenceNumber))
		if err == nil && first == readFrom(rd.after) {
			return nil
		}
	}
	return rd.missing(now)
}

// missing is about the record of after, which is no longer in the shard: an error if others may be gone that were never read.
func (rd *reader) missing(now time.Time) error {
	t := rd.tenure
	horizon := now.Add(-time.Duration(t.run.retention.Load()))
	if t.mark.After == rd.after && t.mark.Clear >= horizon.UnixMilli() {
		return nil
	}
	from := sequenceText(placeOf(rd.after).sequence)
	if t.run.cfg.Reset != fail {
		t.run.log.Warn("records are gone that may not have been read", "shard", t.Partition(), "after", from, "before", horizon)
		return nil
	}
	return stream.Fatal(fmt.Errorf("%w: shard %s, after sequence number %s and before about %s; set reset to %s to go on without them",
		stream.ErrRetention, t.Partition(), from, horizon.UTC().Format(time.RFC3339), trimHorizon))
}

// unpack appends what is new in records, and returns their size in bytes.
func (rd *reader) unpack(records []types.Record) (size int, err error) {
	rs := make([]stream.Record, 0, len(records))
	for i := range records {
		size += len(records[i].Data)
		if rs, err = appendRecords(rs, &records[i]); err != nil {
			return size, err
		}
	}
	if rd.hasAfter {
		for len(rs) > 0 && rs[0].Pos.Compare(rd.after) <= 0 {
			rs = rs[1:]
		}
	}
	if len(rs) > 0 {
		rd.after, rd.hasAfter = rs[len(rs)-1].Pos, true
	}
	rd.records = rs
	return size, nil
}

// handOver gives the consumer what was read.
func (rd *reader) handOver() {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	rs := rd.records
	if rd.closed || len(rs) == 0 {
		return
	}
	rd.records = nil
	if rd.ctx.Err() != nil || rd.consumer.Deliver(rd.ctx, rs) != nil {
		rd.finish(errEnding) // the consumer knows why; the tenure waits for its end
		return
	}
	rd.tenure.pending.Store(0)
}

// end notes that the shard's last records were handed over.
func (rd *reader) end() {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	if !rd.closed {
		rd.ended = true
		rd.finish(errEnding)
	}
}

// mark is the source's own part of a row: the shard has no record after After that arrived before Clear.
type mark struct {
	After stream.Position `json:"after"`
	Clear int64           `json:"clear"` // ms since 1970, by the service's clock
}

func (m mark) encode() []byte {
	text, err := json.Marshal(m)
	if err != nil {
		panic(err) // the struct has no value that JSON cannot say
	}
	return text
}
