package kinesis

import (
	"strings"
	"time"

	"github.com/millrace-io/millrace/testenv/awsjson"
)

func (s *Server) operations() map[string]awsjson.Operation {
	return map[string]awsjson.Operation{
		"CreateStream":                  awsjson.Do(s.createStream),
		"DeleteStream":                  awsjson.Do(s.deleteStream),
		"DescribeStream":                awsjson.Do(s.describeStream),
		"DescribeStreamSummary":         awsjson.Do(s.describeStreamSummary),
		"ListStreams":                   awsjson.Do(s.listStreams),
		"ListShards":                    awsjson.Do(s.listShards),
		"GetShardIterator":              awsjson.Do(s.getShardIterator),
		"GetRecords":                    awsjson.Do(s.getRecords),
		"PutRecord":                     awsjson.Do(s.putRecord),
		"PutRecords":                    awsjson.DoInPart(s.putRecords),
		"SplitShard":                    awsjson.Do(s.splitShard),
		"MergeShards":                   awsjson.Do(s.mergeShards),
		"UpdateShardCount":              awsjson.Do(s.updateShardCount),
		"IncreaseStreamRetentionPeriod": awsjson.Do(s.increaseRetention),
		"DecreaseStreamRetentionPeriod": awsjson.Do(s.decreaseRetention),
	}
}

// subject is an operation's input: it says which stream and shard it is about.
type subject interface{ subject() (stream, shard string) }

// streamInput names a stream by either of its names.
type streamInput struct{ StreamName, StreamARN string }

func (in *streamInput) name() string {
	if in.StreamName != "" {
		return in.StreamName
	}
	_, name, _ := strings.Cut(in.StreamARN, ":stream/")
	return name
}

func (in *streamInput) subject() (stream, shard string) { return in.name(), "" }

// stream finds the stream that an operation is about.
func (s *Server) stream(in *streamInput) (*stream, time.Time, error) {
	name := in.name()
	if name == "" {
		return nil, time.Time{}, invalidArgument("Either StreamName or StreamARN is required.")
	}
	st, now, err := s.find(name)
	if err == nil && in.StreamARN != "" && in.StreamARN != st.arn {
		return nil, now, invalidArgument("StreamARN %s is not that of stream %s.", in.StreamARN, name)
	}
	return st, now, err
}

// change finds a stream, and locked does something with its shards, after which it is UPDATING for a while.
func (s *Server) change(in *streamInput, locked func(*stream, time.Time) (any, error)) (any, error) {
	st, now, err := s.stream(in)
	if err != nil {
		return nil, err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if state := st.state(now); state != "ACTIVE" {
		return nil, awsjson.Errorf("ResourceInUseException", "Stream %s under account %s not ACTIVE, instead in state %s", st.name, account, state)
	}
	out, err := locked(st, now)
	if err == nil {
		st.status, st.settled = "UPDATING", s.clock.After(s.o.Settle)
	}
	return out, err
}

// usable is a stream that can be read and written. The caller unlocks it.
func (s *Server) usable(in *streamInput) (*stream, time.Time, error) {
	st, now, err := s.stream(in)
	if err != nil {
		return nil, now, err
	}
	st.mu.Lock()
	if state := st.state(now); state == "CREATING" || state == "DELETING" {
		st.mu.Unlock()
		return nil, now, notFound(st.name)
	}
	return st, now, nil
}

func invalid(format string, args ...any) error {
	return awsjson.Errorf("ValidationException", "1 validation error detected: "+format, args...)
}
