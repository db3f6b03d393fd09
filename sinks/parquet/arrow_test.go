package parquet_test

import (
	"io"
	"runtime/debug"
	"testing"
	"time"

	arrow "github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/compress"
	"github.com/apache/arrow/go/v17/parquet/file"
	"github.com/apache/arrow/go/v17/parquet/schema"
	"github.com/klauspost/compress/zstd"

	"github.com/millrace-io/millrace/stream"
)

// sharedZstd is Arrow's codec with one encoder for all pages.
type sharedZstd struct {
	compress.Codec
	z *zstd.Encoder
}

func (s sharedZstd) EncodeLevel(dst, src []byte, _ int) []byte { return s.z.EncodeAll(src, dst[:0]) }

// BenchmarkArrow is the reference for BenchmarkWrite: Arrow's own column writers, one file, without any promise.
func BenchmarkArrow(b *testing.B) {
	events := clicks(b, 200_000, 14)
	b.Run("as-shipped", func(b *testing.B) { benchmarkArrow(b, events) })
	b.Run("shared-zstd", func(b *testing.B) {
		shipped, err := compress.GetCodec(compress.Codecs.Zstd)
		if err != nil {
			b.Fatal(err)
		}
		z, err := zstd.NewWriter(nil, zstd.WithZeroFrames(true))
		if err != nil {
			b.Fatal(err)
		}
		compress.RegisterCodec(compress.Codecs.Zstd, sharedZstd{shipped, z})
		defer compress.RegisterCodec(compress.Codecs.Zstd, shipped)
		benchmarkArrow(b, events)
	})
}

func benchmarkArrow(b *testing.B, events []*stream.Event) {
	columns := clickSchema(b).Columns
	var nodes schema.FieldList
	for _, c := range columns {
		switch c.Type.Kind {
		case stream.Float:
			nodes = append(nodes, schema.NewFloat64Node(c.Name, arrow.Repetitions.Optional, -1))
		case stream.Bool:
			nodes = append(nodes, schema.NewBooleanNode(c.Name, arrow.Repetitions.Optional, -1))
		case stream.Int, stream.Timestamp, stream.Decimal:
			nodes = append(nodes, schema.NewInt64Node(c.Name, arrow.Repetitions.Optional, -1))
		default: // lists as their text: Arrow has no easier way here
			nodes = append(nodes, schema.NewByteArrayNode(c.Name, arrow.Repetitions.Optional, -1))
		}
	}
	for _, name := range []string{"properties", "_partition", "_position"} {
		nodes = append(nodes, schema.NewByteArrayNode(name, arrow.Repetitions.Required, -1))
	}
	root, err := schema.NewGroupNode("event", arrow.Repetitions.Required, nodes, -1)
	if err != nil {
		b.Fatal(err)
	}
	counter := &countingWriter{}
	w := file.NewParquetWriter(counter, root, file.WithWriterProps(arrow.NewWriterProperties(arrow.WithCompression(compress.Codecs.Zstd),
		arrow.WithCompressionLevel(3))))
	batch, used := stream.NewBatch(clickSchema(b)), time.Duration(0)
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	b.ReportAllocs()
	b.ResetTimer()
	var group file.BufferedRowGroupWriter
	rows := 0
	for done := 0; done < b.N; {
		from := done % len(events)
		n := min(512, len(events)-from, b.N-done)
		next := decoded(batch, events[from:from+n])
		began := cpu(b)
		if group == nil {
			group = w.AppendBufferedRowGroup()
		}
		for i := range nodes {
			c, err := group.Column(i)
			if err == nil {
				err = writeArrow(c, i, next, len(columns))
			}
			if err != nil {
				b.Fatal(err)
			}
		}
		if rows += n; rows >= 130_000 {
			if err := group.Close(); err != nil {
				b.Fatal(err)
			}
			group, rows = nil, 0
		}
		if done += n; done == b.N {
			if err := w.Close(); err != nil {
				b.Fatal(err)
			}
		}
		used += cpu(b) - began
	}
	b.ReportMetric(float64(used)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(counter.n)/float64(b.N), "stored-B/op")
}

type countingWriter struct{ n int64 }

func (c *countingWriter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	return io.Discard.Write(b)
}

func writeArrow(c file.ColumnChunkWriter, i int, events []*stream.Event, columns int) error {
	texts, defs := make([]arrow.ByteArray, 0, 512), make([]int16, 0, 512)
	if i >= columns {
		for _, e := range events {
			switch i - columns {
			case 0:
				texts = append(texts, arrow.ByteArray(e.Properties))
			case 1:
				texts = append(texts, arrow.ByteArray("clicks-3"))
			case 2:
				texts = append(texts, e.Record.Pos.AppendText(nil))
			}
		}
		_, err := c.(*file.ByteArrayColumnChunkWriter).WriteBatch(texts, nil, nil)
		return err
	}
	values := func(each func(stream.Value)) {
		for _, e := range events {
			if v := e.Values[i]; v.IsNull() {
				defs = append(defs, 0)
			} else {
				defs = append(defs, 1)
				each(v)
			}
		}
	}
	switch c := c.(type) {
	case *file.ByteArrayColumnChunkWriter:
		values(func(v stream.Value) { texts = append(texts, arrow.ByteArray(v.Text())) })
		_, err := c.WriteBatch(texts, defs, nil)
		return err
	case *file.Int64ColumnChunkWriter:
		var ns []int64
		values(func(v stream.Value) { ns = append(ns, v.Int()) })
		_, err := c.WriteBatch(ns, defs, nil)
		return err
	case *file.Float64ColumnChunkWriter:
		var fs []float64
		values(func(v stream.Value) { fs = append(fs, v.Float()) })
		_, err := c.WriteBatch(fs, defs, nil)
		return err
	case *file.BooleanColumnChunkWriter:
		var bs []bool
		values(func(v stream.Value) { bs = append(bs, v.Bool()) })
		_, err := c.WriteBatch(bs, defs, nil)
		return err
	}
	return nil
}
