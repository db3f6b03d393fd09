package kinesis

import (
	"encoding/base64"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-io/millrace/testenv/awsjson"
)

// iterator is what a shard iterator says. Clients see a text that tells them nothing, as Amazon's does.
type iterator struct {
	stream string
	number int // of the stream
	shard  string
	from   uint64 // counter of the first record that it returns
	made   int64  // in milliseconds
	round  int64  // of Expire
}

// iteratorLife is how long an iterator is good for.
const iteratorLife = 5 * time.Minute

func (it iterator) String() string {
	return seal(fmt.Sprintf("%s/%d/%s/%d/%d/%d", it.stream, it.number, it.shard, it.from, it.made, it.round))
}

func parseIterator(text string) (it iterator, ok bool) {
	parts, ok := unseal(text, 6)
	if !ok {
		return it, false
	}
	it.stream, it.shard = parts[0], parts[2]
	it.number, _ = strconv.Atoi(parts[1]) // the seal says that all are numbers
	it.from, _ = strconv.ParseUint(parts[3], 10, 64)
	it.made, _ = strconv.ParseInt(parts[4], 10, 64)
	it.round, _ = strconv.ParseInt(parts[5], 10, 64)
	return it, true
}

// seal makes an opaque text, unseal takes it apart.
func seal(text string) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s/%08x", text, crc32.ChecksumIEEE([]byte(text))))
}

func unseal(text string, n int) ([]string, bool) {
	b, err := base64.StdEncoding.DecodeString(text)
	at := strings.LastIndexByte(string(b), '/')
	if err != nil || at < 0 || seal(string(b[:at])) != text {
		return nil, false
	}
	parts := strings.Split(string(b[:at]), "/")
	return parts, len(parts) == n
}

func expired(made, now int64) error {
	const layout = "Mon Jan 02 15:04:05 UTC 2006"
	return awsjson.Errorf("ExpiredIteratorException", "Iterator expired. The iterator was created at time %s while right now it is %s"+
		" which is further in the future than the tolerated delay of %d milliseconds.",
		time.UnixMilli(made).UTC().Format(layout), time.UnixMilli(now).UTC().Format(layout), iteratorLife.Milliseconds())
}

func invalidArgument(format string, args ...any) error {
	return awsjson.Errorf("InvalidArgumentException", format, args...)
}

// start is the counter of the first record that an iterator of a kind returns.
func (s *stream) start(sh *shard, in *getShardIteratorInput, now time.Time) (uint64, error) {
	numbered := in.Type == "AT_SEQUENCE_NUMBER" || in.Type == "AFTER_SEQUENCE_NUMBER"
	if numbered != (in.SequenceNumber != "") {
		return 0, invalidArgument("Must either specify (1) AT_SEQUENCE_NUMBER or AFTER_SEQUENCE_NUMBER and StartingSequenceNumber or "+
			"(2) TRIM_HORIZON or LATEST and no StartingSequenceNumber. Request specified %s and %s.",
			in.Type, map[bool]string{true: "no StartingSequenceNumber", false: "also a StartingSequenceNumber"}[numbered])
	}
	switch in.Type {
	case "AT_SEQUENCE_NUMBER":
		return s.numbered(sh, in.SequenceNumber)
	case "AFTER_SEQUENCE_NUMBER":
		counter, err := s.numbered(sh, in.SequenceNumber)
		return counter + 1, err
	case "LATEST":
		return s.last + 1, nil
	case "AT_TIMESTAMP":
		return s.timed(sh, in.Timestamp, now)
	}
	return sh.first, nil
}

func (s *stream) numbered(sh *shard, text string) (uint64, error) {
	counter, index, ok := s.parseSequence(text)
	if ok && index != sh.index {
		return 0, invalidArgument("Invalid StartingSequenceNumber. It encodes %s, while it was used in a call to a shard with %s", shardID(index), sh.id)
	}
	if !ok || counter < sh.first || counter > s.last || sh.ending > 0 && counter > sh.ending {
		return 0, invalidArgument("StartingSequenceNumber %s used in GetShardIterator on shard %s in stream %s under account %s is invalid.",
			text, sh.id, s.name, account)
	}
	return counter, nil
}

func (s *stream) timed(sh *shard, at *awsjson.Time, now time.Time) (uint64, error) {
	if at == nil {
		return 0, invalidArgument("Must specify timestampInMillis parameter for iterator of type AT_TIMESTAMP. Current request has no timestamp parameter.")
	}
	ms := at.UnixMilli()
	if ms > now.UnixMilli() {
		return 0, invalidArgument("The timestampInMillis parameter cannot be greater than the currentTimestampInMillis. "+
			"timestampInMillis: %d, currentTimestampInMillis: %d", ms, now.UnixMilli())
	}
	if i := sh.since(ms); i < len(sh.records) {
		return sh.records[i].counter, nil
	}
	return s.last + 1, nil
}
