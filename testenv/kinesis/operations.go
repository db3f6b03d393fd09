package kinesis

import (
	"cmp"
	"crypto/md5"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

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
		st.status, st.settled = "UPDATING", until(now, s.o.Settle)
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
	st, now, err := s.stream(in)
	if err != nil {
		return nil, err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.status != "DELETING" {
		st.status, st.settled = "DELETING", until(now, s.o.Settle)
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
		s.name, s.arn, s.state(now), modeDetails{s.mode}, int(s.retention / time.Hour), awsjson.Time{Time: s.created},
		[]map[string][]string{{"ShardLevelMetrics": {}}}, "NONE",
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
	s.mu.Lock()
	defer s.mu.Unlock()
	return iterator{st.name, st.number, sh.id, from, now.UnixMilli(), s.round}
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
	s.mu.Lock()
	old := it.round != s.round
	s.mu.Unlock()
	switch {
	case st.number != it.number:
		return invalidArgument("Invalid ShardIterator.") // of a stream of the name that was deleted
	case sh == nil:
		return noShard(it.shard, it.stream)
	case old || now.UnixMilli()-it.made > iteratorLife.Milliseconds():
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

// entry is a record as PutRecord and PutRecords have it.
type entry struct {
	Data            []byte
	PartitionKey    string
	ExplicitHashKey *string
}

func (e *entry) size() int { return len(e.Data) + len(e.PartitionKey) }

// hash checks a record and says where it belongs.
func (s *Server) hash(e *entry, at string) (hashKey, error) {
	switch n := utf8.RuneCountInString(e.PartitionKey); {
	case e.Data == nil:
		return hashKey{}, invalid("Value null at '%sdata' failed to satisfy constraint: Member must not be null", at)
	case n < 1 || n > 256:
		return hashKey{}, invalid("Value at '%spartitionKey' failed to satisfy constraint: Member must have length between 1 and 256", at)
	case e.size() > s.o.MaxRecord:
		return hashKey{}, invalid("Value at '%sdata' failed to satisfy constraint: Member must have length less than or equal to %d", at, s.o.MaxRecord)
	case e.ExplicitHashKey == nil:
		return md5.Sum([]byte(e.PartitionKey)), nil
	}
	h, ok := parseHashKey(*e.ExplicitHashKey)
	if !ok {
		return h, invalidArgument("Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. Specified value was %s", *e.ExplicitHashKey)
	}
	return h, nil
}

type putRecordInput struct {
	streamInput
	entry
	SequenceNumberForOrdering string
}

type putRecordOutput struct {
	SequenceNumber string `json:",omitempty"`
	ShardId        string `json:",omitempty"`
	ErrorCode      string `json:",omitempty"`
	ErrorMessage   string `json:",omitempty"`
}

func (s *Server) putRecord(in *putRecordInput) (any, error) {
	h, err := s.hash(&in.entry, "")
	if err != nil {
		return nil, err
	}
	st, now, err := s.usable(&in.streamInput)
	if err != nil {
		return nil, err
	}
	defer st.mu.Unlock()
	return s.put(st, &in.entry, h, now)
}

// put stores one record; st is locked.
func (s *Server) put(st *stream, e *entry, h hashKey, now time.Time) (putRecordOutput, error) {
	sh := st.route(h)
	if s.o.Limits && !sh.limits.put(e.size(), now) {
		return putRecordOutput{}, tooFast(sh, st)
	}
	counter := st.put(sh, e.PartitionKey, e.Data, now, s.o.ShardBytes)
	return putRecordOutput{SequenceNumber: st.sequence(counter, sh.index), ShardId: sh.id}, nil
}

type putRecordsInput struct {
	streamInput
	Records []entry
}

type putRecordsOutput struct {
	FailedRecordCount int
	Records           []putRecordOutput
}

// mostPut is the most records of one PutRecords.
const mostPut = 500

// hashes checks all records: one bad one fails the call.
func (s *Server) hashes(rs []entry) ([]hashKey, error) {
	if len(rs) < 1 || len(rs) > mostPut {
		return nil, invalid("Value at 'records' failed to satisfy constraint: Member must have length between 1 and %d", mostPut)
	}
	size := 0
	out := make([]hashKey, len(rs))
	for i := range rs {
		var err error
		if out[i], err = s.hash(&rs[i], fmt.Sprintf("records.%d.member.", i+1)); err != nil {
			return nil, err
		}
		size += rs[i].size()
	}
	if size > s.o.MaxRequest {
		return nil, invalidArgument("Records size exceeds %d MB limit", s.o.MaxRequest>>20)
	}
	return out, nil
}

func (s *Server) putRecords(in *putRecordsInput, f Fault) (any, error) {
	hashes, err := s.hashes(in.Records)
	if err != nil {
		return nil, err
	}
	st, now, err := s.usable(&in.streamInput)
	if err != nil {
		return nil, err
	}
	defer st.mu.Unlock()
	out := putRecordsOutput{Records: make([]putRecordOutput, len(in.Records))}
	for i := range in.Records {
		code := ""
		if f.Fail != nil {
			code = f.Fail(i)
		}
		r := putRecordOutput{ErrorCode: code, ErrorMessage: cmp.Or(f.Message, code)}
		if code == "" {
			if r, err = s.put(st, &in.Records[i], hashes[i], now); err != nil {
				known := err.(*awsjson.Error)
				r = putRecordOutput{ErrorCode: known.Type, ErrorMessage: known.Message}
			}
		}
		if r.ErrorCode != "" {
			out.FailedRecordCount++
		}
		out.Records[i] = r
	}
	return out, nil
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
		st.retention = time.Duration(in.RetentionPeriodHours) * time.Hour
		return nil, nil
	})
}

func (s *Server) increaseRetention(in *retentionInput) (any, error) {
	return s.retain(in, func(current int) bool { return in.RetentionPeriodHours >= current })
}

func (s *Server) decreaseRetention(in *retentionInput) (any, error) {
	return s.retain(in, func(current int) bool { return in.RetentionPeriodHours <= current })
}
