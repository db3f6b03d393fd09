package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/compress"
	"github.com/apache/arrow/go/v17/parquet/file"
	"github.com/apache/arrow/go/v17/parquet/schema"
	"github.com/klauspost/compress/zstd"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/processors/decode"
	"github.com/millrace-io/millrace/stream"
)

// bareLoop is the job without any guarantee: franz-go, the same parser, arrow's own column writers with one shared zstd
// encoder, one local file. No group, no commit, no upload, no partitions, no dead letters. What millrace costs above it is
// the price of the promise.
func bareLoop(o options) error {
	events, err := stream.NewSchema()
	if err != nil {
		return err
	}
	cfg := decode.Config{Format: "json"}
	if err := cfg.Validate(); err != nil {
		return err
	}
	decoders, err := decode.New(cfg, events)
	if err != nil {
		return err
	}
	compress.RegisterCodec(compress.Codecs.Zstd, newShared())
	out, err := newBareFile(o.out, events)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(o.bare), kgo.ConsumeTopics("clicks"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return err
	}
	defer client.Close()
	decoder, batch := decoders(), stream.NewBatch(events)
	for read := 0; read < o.events; {
		fetches := client.PollFetches(context.Background())
		if err := fetches.Err(); err != nil {
			return err
		}
		for it := fetches.RecordIter(); !it.Done(); read++ {
			r := it.Next()
			record := stream.Record{Key: r.Key, Value: r.Value, Time: r.Timestamp, Pos: stream.OffsetPosition(uint64(r.Offset))}
			if err := decoder.Decode(&record, batch); err != nil {
				return err
			}
			e := &batch.Events[len(batch.Events)-1]
			if e.Values[stream.Bot].Bool() {
				batch.Truncate(len(batch.Events) - 1)
				continue
			}
			hashUser(e)
			if len(batch.Events) == rowGroup {
				if err := out.write(batch); err != nil {
					return err
				}
				batch.Reset()
			}
		}
	}
	if err := out.write(batch); err != nil {
		return err
	}
	return out.close()
}

// hashUser does what the pipeline's map does.
func hashUser(e *stream.Event) {
	sum := sha256.Sum256([]byte(e.Values[stream.User].Text() + "salt"))
	e.Values[stream.User] = stream.StringValue(hex.EncodeToString(sum[:]))
	e.Values[stream.Country] = stream.StringValue(strings.ToUpper(e.Values[stream.Country].Text()))
}

const rowGroup = 64 << 10 // rows

// bareFile writes batches as row groups.
type bareFile struct {
	columns []stream.Column
	out     *os.File
	writer  *file.Writer
	texts   []parquet.ByteArray
	numbers []int64
	floats  []float64
	bools   []bool
	levels  []int16
}

func newBareFile(name string, s *stream.Schema) (*bareFile, error) {
	var fields schema.FieldList
	for _, c := range s.Columns {
		if c.Type.Kind == stream.List {
			c.Type.Kind = stream.String
		}
		physical := map[stream.Kind]parquet.Type{
			stream.String: parquet.Types.ByteArray, stream.Timestamp: parquet.Types.Int64, stream.Int: parquet.Types.Int64,
			stream.Float: parquet.Types.Double, stream.Bool: parquet.Types.Boolean,
		}[c.Type.Kind]
		node, err := schema.NewPrimitiveNode(c.Name, parquet.Repetitions.Optional, physical, -1, -1)
		if err != nil {
			return nil, err
		}
		fields = append(fields, node)
	}
	fields = append(fields, schema.NewByteArrayNode("properties", parquet.Repetitions.Optional, -1))
	root, err := schema.NewGroupNode("events", parquet.Repetitions.Required, fields, -1)
	if err != nil {
		return nil, err
	}
	out, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	properties := []parquet.WriterProperty{
		parquet.WithCompression(compress.Codecs.Zstd), parquet.WithCompressionLevel(3), parquet.WithStats(true),
	}
	for _, unique := range []string{"event_id", "event_time", "properties"} {
		properties = append(properties, parquet.WithDictionaryFor(unique, false))
	}
	return &bareFile{
		columns: s.Columns, out: out,
		writer: file.NewParquetWriter(out, root, file.WithWriterProps(parquet.NewWriterProperties(properties...))),
	}, nil
}

func (f *bareFile) write(b *stream.Batch) error {
	if len(b.Events) == 0 {
		return nil
	}
	group := f.writer.AppendRowGroup()
	for i := range len(f.columns) + 1 {
		if err := f.column(group, i, b.Events); err != nil {
			return fmt.Errorf("column %d: %w", i, err)
		}
	}
	return group.Close()
}

func (f *bareFile) column(group file.SerialRowGroupWriter, i int, events []stream.Event) error {
	f.texts, f.numbers, f.floats, f.bools, f.levels = f.texts[:0], f.numbers[:0], f.floats[:0], f.bools[:0], f.levels[:0]
	for j := range events {
		v := stream.JSONValue(events[j].Properties)
		if i < len(f.columns) {
			v = events[j].Values[i]
		}
		if v.IsNull() {
			f.levels = append(f.levels, 0)
			continue
		}
		f.levels = append(f.levels, 1)
		switch v.Kind() {
		case stream.Int, stream.Timestamp:
			f.numbers = append(f.numbers, v.Int())
		case stream.Float:
			f.floats = append(f.floats, v.Float())
		case stream.Bool:
			f.bools = append(f.bools, v.Bool())
		default:
			f.texts = append(f.texts, parquet.ByteArray(v.Text()))
		}
	}
	column, err := group.NextColumn()
	if err != nil {
		return err
	}
	switch w := column.(type) {
	case *file.ByteArrayColumnChunkWriter:
		_, err = w.WriteBatch(f.texts, f.levels, nil)
	case *file.Int64ColumnChunkWriter:
		_, err = w.WriteBatch(f.numbers, f.levels, nil)
	case *file.Float64ColumnChunkWriter:
		_, err = w.WriteBatch(f.floats, f.levels, nil)
	case *file.BooleanColumnChunkWriter:
		_, err = w.WriteBatch(f.bools, f.levels, nil)
	}
	if err != nil {
		return err
	}
	return column.Close()
}

func (f *bareFile) close() error {
	if err := f.writer.Close(); err != nil {
		return err
	}
	return nil
}

// shared is arrow's zstd codec with one encoder for all pages: arrow v17 makes a new one for every page.
type shared struct {
	compress.Codec
	encoder *zstd.Encoder
}

func newShared() shared {
	codec, err := compress.GetCodec(compress.Codecs.Zstd)
	if err != nil {
		panic(err) // arrow has it
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(3)), zstd.WithZeroFrames(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return shared{codec, encoder}
}

func (s shared) EncodeLevel(dst, src []byte, _ int) []byte { return s.encoder.EncodeAll(src, dst[:0]) }

func (s shared) Encode(dst, src []byte) []byte { return s.encoder.EncodeAll(src, dst[:0]) }
