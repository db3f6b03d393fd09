package kinesis

import (
	"crypto/md5"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// Tag is a name and a value that the Kinesis Producer Library may put beside a record.
type Tag struct{ Key, Value string }

// aggregateMagic begins every aggregate of the Kinesis Producer Library.
const aggregateMagic = "\xf3\x89\x9a\xc2"

// Fields of the library's messages AggregatedRecord, Record and Tag.
const (
	fieldKeys, fieldHashKeys, fieldRecords                protowire.Number = 1, 2, 3
	fieldKeyIndex, fieldHashKeyIndex, fieldData, fieldTag protowire.Number = 1, 2, 3, 4
	fieldTagKey, fieldTagValue                            protowire.Number = 1, 2
)

// Aggregate is the Data of one record that carries many, as the Kinesis Producer Library makes it: the magic bytes, a protobuf
// message, its MD5.
func Aggregate(rs ...Record) []byte {
	var keys, hashKeys []string
	var records []byte
	for _, r := range rs {
		var m []byte
		m = protowire.AppendTag(m, fieldKeyIndex, protowire.VarintType)
		m = protowire.AppendVarint(m, index(&keys, r.Key))
		if r.HashKey != "" {
			m = protowire.AppendTag(m, fieldHashKeyIndex, protowire.VarintType)
			m = protowire.AppendVarint(m, index(&hashKeys, r.HashKey))
		}
		m = appendField(m, fieldData, r.Data)
		for _, t := range r.Tags {
			m = appendField(m, fieldTag, appendField(appendField(nil, fieldTagKey, []byte(t.Key)), fieldTagValue, []byte(t.Value)))
		}
		records = appendField(records, fieldRecords, m)
	}
	var message []byte
	for _, k := range keys {
		message = appendField(message, fieldKeys, []byte(k))
	}
	for _, k := range hashKeys {
		message = appendField(message, fieldHashKeys, []byte(k))
	}
	message = append(message, records...)
	sum := md5.Sum(message)
	return slices.Concat([]byte(aggregateMagic), message, sum[:])
}

func appendField(b []byte, n protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), value)
}

// index is where a key stands in its table; it is put there if it does not.
func index(table *[]string, key string) uint64 {
	i := slices.Index(*table, key)
	if i < 0 {
		i = len(*table)
		*table = append(*table, key)
	}
	return uint64(i)
}
