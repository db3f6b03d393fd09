package kinesis

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/millrace-io/millrace/testenv/awsjson"
)

type modeDetails struct{ StreamMode string }

type createStreamInput struct {
	StreamName        string
	ShardCount        *int
	StreamModeDetails *modeDetails
}

func (in *createStreamInput) subject() (stream, shard string) { return in.StreamName, "" }

func (s *Server) createStream(in *createStreamInput) (any, error) {
	mode, shards := "PROVISIONED", 0
	if in.StreamModeDetails != nil {
		mode = in.StreamModeDetails.StreamMode
	}
	switch {
	case len(in.StreamName) < 1 || len(in.StreamName) > 128 || strings.Trim(in.StreamName, nameLetters) != "":
		return nil, invalid("Value '%s' at 'streamName' failed to satisfy constraint: Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+",
			in.StreamName)
	case mode == "ON_DEMAND":
		shards = 4
	case in.ShardCount == nil || *in.ShardCount < 1 || *in.ShardCount > 100_000:
		return nil, invalid("Value at 'shardCount' failed to satisfy constraint: Member must be between 1 and 100000")
	default:
		shards = *in.ShardCount
	}
	return nil, s.create(in.StreamName, shards, mode, s.o.Settle)
}

const nameLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"

func (s *Server) deleteStream(in *streamInput) (any, error) {
	st, _, err := s.stream(in)
	if err != nil {
		return nil, err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.status != "DELETING" {
		st.status, st.settled = "DELETING", s.clock.After(s.o.Settle)
	}
	return nil, nil
}

// described is what both descriptions have.
type described struct {
	StreamName, StreamARN, StreamStatus string
	StreamModeDetails                   modeDetails
	RetentionPeriodHours                int
	StreamCreationTimestamp             awsjson.Time
	EnhancedMonitoring                  []map[string][]string
	EncryptionType                      string
}

func (s *stream) describe(now time.Time) described {
	return described{
		s.name, s.arn, s.state(now),
		modeDetails{s.mode},
		int(s.retention / time.Hour),
		awsjson.Time{Time: s.created},
		[]map[string][]string{{"ShardLevelMetrics": {}}},
		"NONE",
	}
}

type describeStreamInput struct {
	streamInput
	ExclusiveStartShardId string
	Limit                 int
}

func (s *Server) describeStream(in *describeStreamInput) (any, error) {
	st, now, err := s.stream(&in.streamInput)
	if err != nil {
		return nil, err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	page, more := s.page(st.shards, in.ExclusiveStartShardId, in.Limit)
	return map[string]any{"StreamDescription": struct {
		described
		Shards        []wireShard
		HasMoreShards bool
	}{st.describe(now), st.wire(page), more}}, nil
}

func (s *Server) describeStreamSummary(in *streamInput) (any, error) {
	st, now, err := s.stream(in)
	if err != nil {
		return nil, err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	return map[string]any{"StreamDescriptionSummary": struct {
		described
		OpenShardCount, ConsumerCount, MaxRecordSizeInKiB int
	}{st.describe(now), len(st.open), 0, s.o.MaxRecord >> 10}}, nil
}

type listStreamsInput struct {
	ExclusiveStartStreamName, NextToken string
	Limit                               int
}

func (in *listStreamsInput) subject() (stream, shard string) { return "", "" }

type listStreamsOutput struct {
	StreamNames     []string
	StreamSummaries []described
	HasMoreStreams  bool
	NextToken       string `json:",omitempty"`
}

func (s *Server) listStreams(in *listStreamsInput) (any, error) {
	after := cmp.Or(in.NextToken, in.ExclusiveStartStreamName) // the token is the last name
	limit := cmp.Or(in.Limit, 100)
	s.mu.Lock()
	names := slices.Sorted(maps.Keys(s.streams))
	s.mu.Unlock()
	out := listStreamsOutput{StreamNames: []string{}}
	for _, name := range names {
		st, now, err := s.find(name)
		if name <= after || err != nil {
			continue
		}
		if len(out.StreamNames) == limit {
			out.HasMoreStreams, out.NextToken = true, out.StreamNames[limit-1]
			break
		}
		out.StreamNames = append(out.StreamNames, name)
		st.mu.Lock()
		out.StreamSummaries = append(out.StreamSummaries, st.describe(now))
		st.mu.Unlock()
	}
	return out, nil
}

type retentionInput struct {
	streamInput
	RetentionPeriodHours int
}

// a stream keeps records for 24 to 8,760 hours.
const (
	leastHours = 24
	mostHours  = 8760
)

func (s *Server) retain(in *retentionInput, allowed func(current int) bool) (any, error) {
	return s.change(&in.streamInput, func(st *stream, now time.Time) (any, error) {
		current := int(st.retention / time.Hour)
		if h := in.RetentionPeriodHours; h < leastHours || h > mostHours || !allowed(current) {
			return nil, invalidArgument("Requested retention period (%d hours) for stream %s is not between %d and %d, or is on the wrong side of the existing one (%d hours).",
				h, st.name, leastHours, mostHours, current)
		}
		st.retention, st.aged = time.Duration(in.RetentionPeriodHours)*time.Hour, time.Time{}
		return nil, nil
	})
}

func (s *Server) increaseRetention(in *retentionInput) (any, error) {
	return s.retain(in, func(current int) bool { return in.RetentionPeriodHours >= current })
}

func (s *Server) decreaseRetention(in *retentionInput) (any, error) {
	return s.retain(in, func(current int) bool { return in.RetentionPeriodHours <= current })
}
