package kinesis

import (
	"cmp"
	"crypto/md5"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/millrace-io/millrace/testenv/awsjson"
)

// entry is a record as PutRecord and PutRecords have it.
type entry struct {
	Data            []byte
	PartitionKey    string
	ExplicitHashKey *string
}

func (e *entry) size() int { return len(e.Data) + len(e.PartitionKey) }

// hash checks a record, the i-th of many or an only one (-1), and says where it belongs.
func (s *Server) hash(e *entry, i int) (hashKey, error) {
	keyLength := utf8.RuneCountInString(e.PartitionKey)
	switch {
	case e.Data == nil:
		return hashKey{}, invalidMember(i, "data", "not be null")
	case keyLength < 1 || keyLength > 256:
		return hashKey{}, invalidMember(i, "partitionKey", "have length between 1 and 256")
	case e.size() > s.o.MaxRecord:
		return hashKey{}, invalidMember(i, "data", fmt.Sprintf("have length less than or equal to %d", s.o.MaxRecord))
	case e.ExplicitHashKey == nil:
		return md5.Sum([]byte(e.PartitionKey)), nil
	}
	h, ok := parseHashKey(*e.ExplicitHashKey)
	if !ok {
		return h, invalidArgument("Invalid ExplicitHashKey. ExplicitHashKey must be in the range: [0, 2^128-1]. Specified value was %s", *e.ExplicitHashKey)
	}
	return h, nil
}

func invalidMember(i int, name, must string) error {
	if i >= 0 {
		name = fmt.Sprintf("records.%d.member.%s", i+1, name)
	}
	return invalid("Value at '%s' failed to satisfy constraint: Member must %s", name, must)
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
	h, err := s.hash(&in.entry, -1)
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
		if out[i], err = s.hash(&rs[i], i); err != nil {
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
