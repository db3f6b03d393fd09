package kinesis

import (
	"bytes"
	"crypto/md5"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/millrace-io/millrace/stream"
)

// magic begins every record into which the Kinesis Producer Library packed several of the user's.
var magic = []byte{0xf3, 0x89, 0x9a, 0xc2}

// appendRecords appends what one Kinesis record holds: itself, or the records of an aggregate, each with its own position. An
// aggregate that cannot be read becomes one record with an error, so its neighbours are not touched. Values share r's bytes.
//
// The producer library puts a record again, on its own, when its key does not belong to the shard that the aggregate went to;
// the Java library then drops the copy in the aggregate by the shard's hash range. That is not done here: other producers
// aggregate without regard to the range, and what they wrote would be lost.
func appendRecords(rs []stream.Record, r *types.Record) ([]stream.Record, error) {
	sequence, err := parseSequence(*r.SequenceNumber)
	if err != nil {
		return rs, err
	}
	whole := stream.Record{Key: []byte(*r.PartitionKey), Value: r.Data, Pos: place{sequence: sequence}.position()}
	if r.ApproximateArrivalTimestamp != nil {
		whole.Time = r.ApproximateArrivalTimestamp.UTC()
	}
	if !bytes.HasPrefix(r.Data, magic) {
		return append(rs, whole), nil
	}
	parts, err := parseAggregate(r.Data)
	if err != nil {
		whole.Err = fmt.Errorf("aggregate of the Kinesis Producer Library: %w", err)
		return append(rs, whole), nil
	}
	for i, p := range parts {
		p.Time, p.Pos = whole.Time, place{sequence, uint32(i), uint32(len(parts) - 1)}.position()
		rs = append(rs, p)
	}
	return rs, nil
}

// parseAggregate reads magic, AggregatedRecord, MD5 of that:
//
//	message AggregatedRecord {
//	  repeated string partition_key_table = 1;
//	  repeated string explicit_hash_key_table = 2;
//	  repeated Record records = 3;
//	}
//	message Tag { required string key = 1; optional string value = 2; }
//	message Record {
//	  required uint64 partition_key_index = 1;
//	  optional uint64 explicit_hash_key_index = 2;
//	  required bytes data = 3;
//	  repeated Tag tags = 4;
//	}
func parseAggregate(data []byte) ([]stream.Record, error) {
	if len(data) < len(magic)+md5.Size {
		return nil, errors.New("it is cut off")
	}
	body, sum := data[len(magic):len(data)-md5.Size], data[len(data)-md5.Size:]
	if md5.Sum(body) != [md5.Size]byte(sum) {
		return nil, errors.New("its checksum is wrong")
	}
	var keys [][]byte
	var records []aggregated
	err := eachField(body, func(number protowire.Number, value []byte, _ uint64) error {
		switch number {
		case 1:
			keys = append(keys, value)
		case 3:
			r, err := parseAggregated(value)
			if err != nil {
				return fmt.Errorf("record %d: %w", len(records), err)
			}
			records = append(records, r)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	rs := make([]stream.Record, len(records))
	for i, r := range records {
		if r.key >= uint64(len(keys)) {
			return nil, fmt.Errorf("record %d has key %d of %d", i, r.key, len(keys))
		}
		rs[i] = stream.Record{Key: keys[r.key], Value: r.data, Headers: r.tags}
	}
	return rs, nil
}

// aggregated is one record of an aggregate.
type aggregated struct {
	key  uint64 // index
	data []byte
	tags []stream.Header
}

func parseAggregated(message []byte) (r aggregated, err error) {
	hasKey := false
	r.data = []byte{} // a record without bytes may leave the field out
	err = eachField(message, func(number protowire.Number, value []byte, n uint64) error {
		switch number {
		case 1:
			r.key, hasKey = n, true
		case 3:
			r.data = value
		case 4:
			var tag stream.Header
			err := eachField(value, func(number protowire.Number, value []byte, _ uint64) error {
				switch number {
				case 1:
					tag.Key = string(value)
				case 2:
					tag.Value = value
				}
				return nil
			})
			r.tags = append(r.tags, tag)
			return err
		}
		return nil
	})
	if err == nil && !hasKey {
		err = errors.New("it has no key")
	}
	return r, err
}

// eachField calls f for the fields of a message that are bytes or an integer.
func eachField(message []byte, f func(number protowire.Number, value []byte, n uint64) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		var value []byte
		var integer uint64
		switch kind {
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(message)
		case protowire.VarintType:
			integer, n = protowire.ConsumeVarint(message)
		default:
			n = protowire.ConsumeFieldValue(number, kind, message)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		if err := f(number, value, integer); err != nil {
			return err
		}
	}
	return nil
}
