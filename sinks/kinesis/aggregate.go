package kinesis

import (
	"crypto/md5"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/sinks/origin"
	"github.com/millrace-io/millrace/stream"
)

// aggregateBytes is the most of an aggregate, as the producer library has it; a larger event goes alone. A larger record saves
// nothing more, and takes a shard's whole second.
const aggregateBytes = 50 << 10

// magic begins every record in which the producer library packs several of the user's.
const magic = "\xf3\x89\x9a\xc2"

// Fields of the library's messages AggregatedRecord, Record and Tag; see sources/kinesis.
const (
	fieldKeys, fieldRecords            protowire.Number = 1, 3
	fieldKeyIndex, fieldData, fieldTag protowire.Number = 1, 3, 4
	fieldTagKey, fieldTagValue         protowire.Number = 1, 2
)

// Bytes of an aggregate, at most: beside its key and its records, of a record beside its data and its tags, of three tags
// beside their values.
const (
	aggregateFrame = len(magic) + md5.Size + 6
	recordFrame    = 16
	tagsFrame      = len(origin.PipelineHeader) + len(origin.PartitionHeader) + len(origin.PositionHeader) + 3*16
)

// around is the bytes of a record of one event beside its key and its value, at most.
func (c *Config) around() int {
	switch {
	case !c.Aggregate:
		return 0
	case c.Value == "record":
		return aggregateFrame + recordFrame + tagsFrame + 1024 // the values of the tags
	}
	return aggregateFrame + recordFrame
}

// size is the bytes of it in an aggregate, at most.
func (s *Sink) size(it *bulk.Item) int {
	n := len(it.Body) + recordFrame
	if s.cfg.Value == "record" {
		n += tagsFrame + len(s.o.Pipeline) + len(it.Partition) + 2*len(it.Record.Pos) + 9
	}
	return n
}

// aggregate is one record of items, which have one key: then they have one shard too, also when shards split while it is on its way.
func (s *Sink) aggregate(items []*bulk.Item) []byte {
	message := appendField(nil, fieldKeys, items[0].Key)
	var m []byte
	for _, it := range items {
		m = protowire.AppendVarint(protowire.AppendTag(m[:0], fieldKeyIndex, protowire.VarintType), 0)
		m = appendField(m, fieldData, it.Body)
		if s.cfg.Value == "record" {
			m = s.appendTags(m, it)
		}
		message = appendField(message, fieldRecords, m)
	}
	sum := md5.Sum(message)
	return append(append([]byte(magic), message...), sum[:]...)
}

func (s *Sink) appendTags(m []byte, it *bulk.Item) []byte {
	for _, tag := range [][2]string{
		{origin.PipelineHeader, s.o.Pipeline},
		{origin.PartitionHeader, it.Partition},
		{origin.PositionHeader, stream.Place{Pos: it.Record.Pos, Index: it.Index}.Version()},
	} {
		m = appendField(m, fieldTag, appendField(appendField(nil, fieldTagKey, []byte(tag[0])), fieldTagValue, []byte(tag[1])))
	}
	return m
}

func appendField(b []byte, n protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), value)
}
