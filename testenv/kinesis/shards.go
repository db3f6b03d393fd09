package kinesis

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-io/millrace/testenv/awsjson"
)

type wireRange struct{ StartingHashKey, EndingHashKey string }

type wireShard struct {
	ShardId               string
	ParentShardId         string `json:",omitempty"`
	AdjacentParentShardId string `json:",omitempty"`
	HashKeyRange          wireRange
	SequenceNumberRange   struct {
		StartingSequenceNumber string
		EndingSequenceNumber   string `json:",omitempty"`
	}
}

func (sh *shard) hashKeys() wireRange { return wireRange{sh.from.String(), sh.to.String()} }

func (s *stream) wire(shards []*shard) []wireShard {
	out := []wireShard{}
	for _, sh := range shards {
		w := wireShard{ShardId: sh.id, ParentShardId: sh.parent, AdjacentParentShardId: sh.adjacent, HashKeyRange: sh.hashKeys()}
		w.SequenceNumberRange.StartingSequenceNumber = s.sequence(sh.first, sh.index)
		if sh.ending > 0 {
			w.SequenceNumberRange.EndingSequenceNumber = s.sequence(sh.ending, sh.index)
		}
		out = append(out, w)
	}
	return out
}

// page is the shards after an id, and whether there are more.
func (s *Server) page(shards []*shard, after string, limit int) ([]*shard, bool) {
	from, _ := slices.BinarySearchFunc(shards, after+"\x00", func(sh *shard, id string) int { return cmp.Compare(sh.id, id) })
	left := shards[from:]
	n := s.o.ShardPage
	if limit > 0 {
		n = min(n, limit)
	}
	return left[:min(n, len(left))], n < len(left)
}

type shardFilter struct {
	Type, ShardId string
	Timestamp     *awsjson.Time
}

type listShardsInput struct {
	streamInput
	NextToken, ExclusiveStartShardId string
	MaxResults                       int
	StreamCreationTimestamp          *awsjson.Time
	ShardFilter                      *shardFilter
}

func (in *listShardsInput) subject() (stream, shard string) {
	if t, err := parseToken(in.NextToken); err == nil {
		return t.stream, ""
	}
	return in.streamInput.subject()
}

// token is a NextToken of ListShards.
type token struct {
	stream, after string
	number        int // of the stream
	made          int64
	filter        string // JSON
}

const tokenLife = 5 * time.Minute

func (t token) String() string {
	filter := base64.RawURLEncoding.EncodeToString([]byte(t.filter))
	return seal(fmt.Sprintf("%s/%d/%s/%d/%s", t.stream, t.number, t.after, t.made, filter))
}

func parseToken(text string) (t token, err error) {
	parts, ok := unseal(text, 5)
	if !ok {
		return t, invalidArgument("Invalid NextToken.")
	}
	t.stream, t.after = parts[0], parts[2]
	t.number, _ = strconv.Atoi(parts[1]) // the seal says that all is as String wrote it
	t.made, _ = strconv.ParseInt(parts[3], 10, 64)
	filter, _ := base64.RawURLEncoding.DecodeString(parts[4])
	t.filter = string(filter)
	return t, nil
}

// resume makes the input of the first page, and after it, of a NextToken.
func (s *Server) resume(in *listShardsInput) error {
	if in.NextToken == "" {
		return nil
	}
	if in.name() != "" || in.ExclusiveStartShardId != "" || in.StreamCreationTimestamp != nil {
		return invalidArgument("NextToken and StreamName cannot be provided together.")
	}
	t, err := parseToken(in.NextToken)
	if err != nil {
		return err
	}
	st, now, err := s.find(t.stream)
	switch {
	case err != nil:
		return err
	case st.number != t.number:
		return notFound(t.stream)
	case now.UnixMilli()-t.made > tokenLife.Milliseconds():
		return awsjson.Errorf("ExpiredNextTokenException", "The NextToken has expired.")
	}
	in.StreamName, in.ExclusiveStartShardId = t.stream, t.after
	if t.filter != "" {
		return json.Unmarshal([]byte(t.filter), &in.ShardFilter)
	}
	return nil
}

func (s *Server) listShards(in *listShardsInput) (any, error) {
	if err := s.resume(in); err != nil {
		return nil, err
	}
	st, now, err := s.stream(&in.streamInput)
	if err != nil {
		return nil, err
	}
	if in.StreamCreationTimestamp != nil && in.StreamCreationTimestamp.UnixMilli() != st.created.UnixMilli() {
		return nil, notFound(st.name)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	shards, filter := st.shards, ""
	if in.ShardFilter != nil {
		if shards, err = st.filter(in.ShardFilter, now); err != nil {
			return nil, err
		}
		b, err := json.Marshal(in.ShardFilter)
		if err != nil {
			return nil, err
		}
		filter = string(b)
	}
	page, more := s.page(shards, in.ExclusiveStartShardId, in.MaxResults)
	out := map[string]any{"Shards": st.wire(page)}
	if more {
		out["NextToken"] = token{st.name, page[len(page)-1].id, st.number, now.UnixMilli(), filter}.String()
	}
	return out, nil
}

// filter is the shards that ListShards is asked for.
func (s *stream) filter(f *shardFilter, now time.Time) ([]*shard, error) {
	if (f.Timestamp == nil) == strings.HasSuffix(f.Type, "_TIMESTAMP") {
		return nil, invalidArgument("ShardFilter of type %s: a Timestamp belongs to AT_TIMESTAMP and FROM_TIMESTAMP.", f.Type)
	}
	horizon := now.Add(-s.retention)
	var want func(*shard) bool
	switch f.Type {
	case "AFTER_SHARD_ID":
		want = func(sh *shard) bool { return sh.id > f.ShardId }
	case "AT_TRIM_HORIZON":
		want = func(sh *shard) bool { return sh.openAt(horizon) || sh.opened.After(horizon) && sh.parent == "" }
	case "FROM_TRIM_HORIZON":
		want = func(*shard) bool { return true }
	case "AT_LATEST":
		want = func(sh *shard) bool { return sh.ending == 0 }
	case "AT_TIMESTAMP":
		want = func(sh *shard) bool { return sh.openAt(f.Timestamp.Time) }
	case "FROM_TIMESTAMP":
		want = func(sh *shard) bool { return sh.ending == 0 || !sh.closed.Before(f.Timestamp.Time) }
	default:
		return nil, invalid("Value '%s' at 'shardFilter.type' failed to satisfy constraint", f.Type)
	}
	var out []*shard
	for _, sh := range s.shards {
		if want(sh) {
			out = append(out, sh)
		}
	}
	return out, nil
}

func (sh *shard) openAt(t time.Time) bool {
	return !sh.opened.After(t) && (sh.ending == 0 || sh.closed.After(t))
}

type splitShardInput struct {
	streamInput
	ShardToSplit, NewStartingHashKey string
}

func (in *splitShardInput) subject() (stream, shard string) { return in.name(), in.ShardToSplit }

func (s *Server) splitShard(in *splitShardInput) (any, error) {
	return s.change(&in.streamInput, func(st *stream, now time.Time) (any, error) {
		_, _, err := st.splitAt(in.ShardToSplit, in.NewStartingHashKey, now)
		return nil, err
	})
}

// openShard is a shard that can be split or merged.
func (s *stream) openShard(id string) (*shard, error) {
	sh := s.find(id)
	if sh == nil {
		return nil, noShard(id, s.name)
	}
	if sh.ending > 0 {
		return nil, invalidArgument("Shard %s in stream %s under account %s has already been merged or split, and thus is not eligible for merging or splitting.",
			id, s.name, account)
	}
	return sh, nil
}

func (s *stream) splitAt(id, key string, now time.Time) (lower, upper *shard, err error) {
	sh, err := s.openShard(id)
	if err != nil {
		return nil, nil, err
	}
	at, ok := parseHashKey(key)
	if !ok || at.compare(sh.from) <= 0 || at.compare(sh.from.plus(1)) <= 0 || at.compare(sh.to) >= 0 {
		return nil, nil, invalidArgument("NewStartingHashKey %s used in SplitShard() on shard %s in stream %s under account %s is not both greater than one plus "+
			"the shard's StartingHashKey %s and less than the shard's EndingHashKey %s.", key, id, s.name, account, sh.from, sh.to)
	}
	lower, upper = s.split(sh, at, now)
	return lower, upper, nil
}

type mergeShardsInput struct {
	streamInput
	ShardToMerge, AdjacentShardToMerge string
}

func (in *mergeShardsInput) subject() (stream, shard string) { return in.name(), in.ShardToMerge }

func (s *Server) mergeShards(in *mergeShardsInput) (any, error) {
	return s.change(&in.streamInput, func(st *stream, now time.Time) (any, error) {
		_, err := st.mergeBoth(in.ShardToMerge, in.AdjacentShardToMerge, now)
		return nil, err
	})
}

func (s *stream) mergeBoth(a, b string, now time.Time) (*shard, error) {
	one, err := s.openShard(a)
	if err != nil {
		return nil, err
	}
	two, err := s.openShard(b)
	if err != nil {
		return nil, err
	}
	if !one.touches(two) {
		return nil, invalidArgument("Shards %s and %s in stream %s under account %s are not an adjacent pair of shards eligible for merging", a, b, s.name, account)
	}
	return s.merge(one, two, now), nil
}

type updateShardCountInput struct {
	streamInput
	TargetShardCount int
	ScalingType      string
}

func (s *Server) updateShardCount(in *updateShardCountInput) (any, error) {
	if in.ScalingType != "UNIFORM_SCALING" {
		return nil, invalid("Value '%s' at 'scalingType' failed to satisfy constraint: Member must satisfy enum value set: [UNIFORM_SCALING]", in.ScalingType)
	}
	return s.change(&in.streamInput, func(st *stream, now time.Time) (any, error) {
		current := len(st.open)
		if in.TargetShardCount < (current+1)/2 || in.TargetShardCount > 2*current {
			return nil, invalidArgument("UpdateShardCount cannot scale from %d shards to %d: the target is between half and twice of the open shards.",
				current, in.TargetShardCount)
		}
		st.scale(in.TargetShardCount, now)
		return map[string]any{"StreamName": st.name, "StreamARN": st.arn, "CurrentShardCount": current, "TargetShardCount": in.TargetShardCount}, nil
	})
}
