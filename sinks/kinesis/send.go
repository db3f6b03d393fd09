package kinesis

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/sources/awserr"
	source "github.com/millrace-io/millrace/sources/kinesis"
)

// chunk is the items of one record: one, or, aggregated, some of one key, in order.
type chunk struct {
	items []*bulk.Item
	size  int
}

// Send puts items by as many calls as it takes for no key to be in one twice.
func (s *Sink) Send(ctx context.Context, items []*bulk.Item) error {
	client, err := s.connect()
	if err != nil {
		return err
	}
	for len(items) > 0 {
		chunks, later := s.wave(items)
		s.put(ctx, client, chunks)
		items = proceed(chunks, later)
	}
	return nil
}

// wave is what of items goes into one call, and what comes after it.
func (s *Sink) wave(items []*bulk.Item) (chunks []*chunk, later []*bulk.Item) {
	byKey := map[string]*chunk{}
	closed := map[string]bool{} // keys of later
	size := 0
	for _, it := range items {
		key := string(it.Key)
		n := s.size(it)
		c := byKey[key]
		fits := len(chunks) == 0 || size+len(key)+n <= source.MaxCallBytes
		switch {
		case closed[key] || !fits || c == nil && len(chunks) == source.MaxCallRecords || c != nil && (!s.cfg.Aggregate || c.size+n > aggregateBytes):
			closed[key] = true
			later = append(later, it)
			continue
		case c == nil:
			c = new(chunk)
			byKey[key] = c
			chunks = append(chunks, c)
			n += len(key) + aggregateFrame
		}
		c.items = append(c.items, it)
		c.size += n
		size += n
	}
	return chunks, later
}

// proceed is the items of later that may go: those whose key did not fail. The others share its failure.
func proceed(chunks []*chunk, later []*bulk.Item) []*bulk.Item {
	failed := map[string]error{}
	for _, c := range chunks {
		if last := c.items[len(c.items)-1]; last.Err != nil && !bulk.IsRefused(last.Err) {
			failed[string(last.Key)] = last.Err
		}
	}
	n := 0
	for _, it := range later {
		if it.Err = failed[string(it.Key)]; it.Err == nil {
			later[n] = it
			n++
		}
	}
	return later[:n]
}

// put makes one call. If the service finds something in it that it never takes, and does not say in which record, it goes on
// with halves until that is alone.
func (s *Sink) put(ctx context.Context, client *kinesis.Client, chunks []*chunk) {
	in := &kinesis.PutRecordsInput{Records: make([]types.PutRecordsRequestEntry, len(chunks))}
	in.StreamName, in.StreamARN = source.StreamNamed(s.cfg.Stream)
	for i, c := range chunks {
		in.Records[i] = types.PutRecordsRequestEntry{Data: s.data(c), PartitionKey: aws.String(string(c.items[0].Key))}
	}
	out, err := client.PutRecords(ctx, in)
	switch first := chunks[0]; {
	case err == nil && len(out.Records) != len(chunks):
		err = fmt.Errorf("PutRecords answered for %d of %d records", len(out.Records), len(chunks))
	case !invalid(err):
	case len(chunks) > 1:
		s.put(ctx, client, chunks[:len(chunks)/2])
		s.put(ctx, client, chunks[len(chunks)/2:])
		return
	case len(first.items) > 1:
		half := &chunk{items: first.items[:len(first.items)/2]}
		s.put(ctx, client, []*chunk{half})
		if rest := proceed([]*chunk{half}, first.items[len(first.items)/2:]); len(rest) > 0 {
			s.put(ctx, client, []*chunk{{items: rest}})
		}
		return
	default:
		err = bulk.Refused(err)
	}
	if err != nil && !bulk.IsRefused(err) {
		err = source.Explain("put records into", s.String(), err)
	}
	for i, c := range chunks {
		outcome := err
		if err == nil && out.Records[i].ErrorCode != nil {
			outcome = fmt.Errorf("put a record into %s: %s: %s", s, *out.Records[i].ErrorCode, aws.ToString(out.Records[i].ErrorMessage))
		}
		for _, it := range c.items {
			it.Err = outcome
		}
	}
}

func (s *Sink) data(c *chunk) []byte {
	if s.cfg.Aggregate && (len(c.items) > 1 || s.cfg.Value == "record") {
		return s.aggregate(c.items)
	}
	return c.items[0].Body
}

// invalid says that the service blames what is in a call.
func invalid(err error) bool {
	code := awserr.Code(err)
	return code == "ValidationException" || code == "InvalidArgumentException" || strings.HasPrefix(code, "SerializationException")
}
