package kinesis

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/millrace-io/millrace/testenv/awsjson"
)

type getShardIteratorInput struct {
	streamInput
	ShardId        string
	Type           string `json:"ShardIteratorType"`
	SequenceNumber string `json:"StartingSequenceNumber"`
	Timestamp      *awsjson.Time
}

func (in *getShardIteratorInput) subject() (stream, shard string) { return in.name(), in.ShardId }

func (s *Server) getShardIterator(in *getShardIteratorInput) (any, error) {
	switch in.Type {
	case "AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER", "TRIM_HORIZON", "LATEST", "AT_TIMESTAMP":
	default:
		return nil, invalid("Value '%s' at 'shardIteratorType' failed to satisfy constraint: Member must satisfy enum value set: "+
			"[AFTER_SEQUENCE_NUMBER, LATEST, AT_TIMESTAMP, AT_SEQUENCE_NUMBER, TRIM_HORIZON]", in.Type)
	}
	st, now, err := s.usable(&in.streamInput)
	if err != nil {
		return nil, err
	}
	defer st.mu.Unlock()
	sh := st.find(in.ShardId)
	if sh == nil {
		return nil, noShard(in.ShardId, st.name)
	}
	from, err := st.start(sh, in, now)
	if err != nil {
		return nil, err
	}
	return map[string]string{"ShardIterator": s.iterator(st, sh, from, now).String()}, nil
}

func (s *Server) iterator(st *stream, sh *shard, from uint64, now time.Time) iterator {
	return iterator{st.name, st.number, sh.id, from, now.UnixMilli(), s.round.Load()}
}

type getRecordsInput struct {
	streamInput
	ShardIterator string
	Limit         *int
}

func (in *getRecordsInput) subject() (stream, shard string) {
	it, _ := parseIterator(in.ShardIterator)
	return it.stream, it.shard
}

type childShard struct {
	ShardId      string
	ParentShards []string
	HashKeyRange wireRange
}

// getRecordsOutput writes itself: it is most of what the server sends.
type getRecordsOutput struct {
	stream   *stream
	index    int
	records  []record
	next     string
	behind   int64
	children []childShard
}

func (s *Server) getRecords(in *getRecordsInput) (any, error) {
	limit := mostRecords
	if in.Limit != nil {
		limit = *in.Limit
	}
	if limit < 1 || limit > mostRecords {
		return nil, invalid("Value '%d' at 'limit' failed to satisfy constraint: Member must have value between 1 and 10000", limit)
	}
	it, ok := parseIterator(in.ShardIterator)
	if !ok {
		return nil, invalidArgument("Invalid ShardIterator.")
	}
	st, now, err := s.usable(&streamInput{StreamName: it.stream, StreamARN: in.StreamARN})
	if err != nil {
		return nil, err
	}
	defer st.mu.Unlock()
	sh := st.find(it.shard)
	if err := s.check(it, st, sh, now); err != nil {
		return nil, err
	}
	return s.read(st, sh, it.from, limit, now)
}

// check says whether an iterator is still good.
func (s *Server) check(it iterator, st *stream, sh *shard, now time.Time) error {
	switch {
	case st.number != it.number:
		return invalidArgument("Invalid ShardIterator.") // of a stream of the name that was deleted
	case sh == nil:
		return noShard(it.shard, it.stream)
	case it.round != s.round.Load() || now.UnixMilli()-it.made > iteratorLife.Milliseconds():
		return expired(it.made, now.UnixMilli())
	}
	return nil
}

func (s *Server) read(st *stream, sh *shard, from uint64, limit int, now time.Time) (any, error) {
	if s.o.Limits && !sh.limits.get(now) {
		return nil, tooFast(sh, st)
	}
	rs, next, more := sh.read(from, limit)
	out := &getRecordsOutput{stream: st, index: sh.index, records: rs, behind: sh.behind(next, now)}
	if s.o.Limits {
		n := 0
		for i := range rs {
			n += rs[i].size()
		}
		sh.limits.read(n, now)
	}
	if more {
		out.next = s.iterator(st, sh, next, now).String()
		return out, nil
	}
	for _, c := range sh.children {
		parents := []string{c.parent}
		if c.adjacent != "" {
			parents = append(parents, c.adjacent)
		}
		out.children = append(out.children, childShard{c.id, parents, c.hashKeys()})
	}
	return out, nil
}

func tooFast(sh *shard, st *stream) error {
	return awsjson.Errorf("ProvisionedThroughputExceededException", "Rate exceeded for shard %s in stream %s under account %s.", sh.id, st.name, account)
}

// AppendJSON writes the answer. Only keys can need an escape.
func (o *getRecordsOutput) AppendJSON(b []byte) []byte {
	b = append(b, `{"Records":[`...)
	for i := range o.records {
		if i > 0 {
			b = append(b, ',')
		}
		b = o.appendRecord(b, &o.records[i])
	}
	b = append(b, `],"MillisBehindLatest":`...)
	b = strconv.AppendInt(b, o.behind, 10)
	if o.next != "" {
		b = append(b, `,"NextShardIterator":"`...)
		b = append(b, o.next...)
		b = append(b, '"')
	}
	if o.children != nil {
		b = append(b, `,"ChildShards":`...)
		b = append(b, quote(o.children)...)
	}
	return append(b, '}')
}

func (o *getRecordsOutput) appendRecord(b []byte, r *record) []byte {
	b = append(b, `{"SequenceNumber":"`...)
	b = o.stream.appendSequence(b, r.counter, o.index)
	b = append(b, `","ApproximateArrivalTimestamp":`...)
	b = awsjson.AppendTime(b, r.at)
	b = append(b, `,"PartitionKey":`...)
	b = appendString(b, r.key)
	b = append(b, `,"Data":"`...)
	b = base64.StdEncoding.AppendEncode(b, r.data)
	return append(b, `"}`...)
}

func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' || s[i] == '"' || s[i] == '\\' {
			return append(b, quote(s)...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// quote is the JSON of strings and structs of strings, which never fails.
func quote(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode %v: %v", v, err))
	}
	return b
}
