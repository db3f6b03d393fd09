package parquet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	arrow "github.com/apache/arrow/go/v17/parquet"
	reader "github.com/apache/arrow/go/v17/parquet/file"
	"github.com/apache/arrow/go/v17/parquet/schema"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
)

// batchRows are read at once.
const batchRows = 512

// errStop ends the reading when nobody listens any more.
var errStop = errors.New("stop")

// Rows reads the events of a file that this package wrote, in order: their values by columns, which need not be the one they
// were written with (a column that the file lacks is null, one of another type is an error), their properties, index and the
// position of their record, of which nothing else is left. An event is valid until the next. The error, once, is the last.
// The data's checksum is not looked at: Inspect does that.
func Rows(ctx context.Context, o objects.Object, columns *stream.Schema) iter.Seq2[*stream.Event, error] {
	return func(yield func(*stream.Event, error) bool) {
		f := &opened{Object: o}
		err := f.readFooter()
		if err == nil {
			err = f.rows(ctx, columns, func(leaf) bool { return true }, func(e *stream.Event) error {
				if !yield(e, nil) {
					return errStop
				}
				return nil
			})
		}
		if err != nil && !errors.Is(err, errStop) {
			yield(nil, err)
		}
	}
}

// source is what Arrow reads from. It remembers what went wrong there: Arrow does not tell that from damage.
type source struct {
	io.ReaderAt
	err error
}

func (s *source) ReadAt(b []byte, at int64) (int, error) {
	n, err := s.ReaderAt.ReadAt(b, at)
	if n < len(b) && err != io.EOF {
		s.err = err
	}
	return n, err
}

// identities calls fn with every row's position and index.
func (o *opened) identities(ctx context.Context, fn func(stream.Position, uint32) error) error {
	ours := func(f leaf) bool { return f.from == fromPosition || f.from == fromIndex }
	return o.rows(ctx, &stream.Schema{}, ours, func(e *stream.Event) error { return fn(e.Record.Pos, e.Index) })
}

// rows calls fn with every event, of which the columns that keep wants are set.
func (o *opened) rows(ctx context.Context, columns *stream.Schema, keep func(leaf) bool, fn func(*stream.Event) error) error {
	want, err := newLayout(&Config{}, columns)
	if err != nil {
		return err
	}
	src := &source{ReaderAt: o}
	batch, records := stream.NewBatch(columns), make([]stream.Record, batchRows)
	for i := range o.meta.RowGroups {
		var cursors []*cursor
		err := src.guard(func() (err error) {
			cursors, err = o.newCursors(src, i, want, keep)
			return err
		})
		for rest := o.meta.RowGroups[i].NumRows; rest > 0 && err == nil; rest -= batchRows {
			if err = ctx.Err(); err != nil {
				break
			}
			batch.Reset()
			for j := range min(rest, batchRows) {
				batch.Append(&records[j])
			}
			err = src.guard(func() error { return fill(cursors, batch.Events) })
			for j := 0; j < len(batch.Events) && err == nil; j++ {
				err = fn(&batch.Events[j])
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// guard is guard, but tells of the source's own error where there was one.
func (s *source) guard(fn func() error) error {
	err := guard(fn)
	if s.err != nil {
		return s.err
	}
	return err
}

func fill(cursors []*cursor, events []stream.Event) error {
	for _, c := range cursors {
		if err := c.fill(events); err != nil {
			return fmt.Errorf("column %s: %w", c.leaf.name, err)
		}
	}
	return nil
}

// cursor reads one column of a row group.
type cursor struct {
	leaf   leaf
	reader reader.ColumnChunkReader

	// The last batch: levels, and the values that are there.
	defs, reps []int16
	levels     int
	values     int
	texts      []arrow.ByteArray
	int64s     []int64
	int32s     []int32
	doubles    []float64
	bools      []bool

	at, value int // of a list: next level and value
	elements  []listElement
}

// newCursors opens those columns of want in row group i that the file has.
func (o *opened) newCursors(src *source, i int, want *layout, keep func(leaf) bool) ([]*cursor, error) {
	r, err := reader.NewParquetReader(io.NewSectionReader(src, 0, o.end), reader.WithMetadata(o.meta))
	if err != nil {
		return nil, damaged("%w", err)
	}
	g := r.RowGroup(i)
	var cursors []*cursor
	for i, f := range want.leaves {
		if f.from == fromPartition || !keep(f) {
			continue
		}
		c, err := o.newCursor(g, f, want.schema.Column(i))
		if err == nil && c == nil { // it may name a folder
			f.name = "_" + f.name
			c, err = o.newCursor(g, f, want.schema.Column(i))
		}
		if err != nil {
			return nil, err
		}
		if c != nil {
			cursors = append(cursors, c)
		} else if f.from == fromPosition || f.from == fromIndex {
			return nil, damaged("it has no column %s", want.leaves[i].name)
		}
	}
	return cursors, nil
}

// newCursor opens one column; nil when the file has none of its name.
func (o *opened) newCursor(g *reader.RowGroupReader, f leaf, want *schema.Column) (*cursor, error) {
	for i := range o.meta.Schema.NumColumns() {
		c := o.meta.Schema.Column(i)
		if c.ColumnPath()[0] != f.name {
			continue
		}
		if c.PhysicalType() != want.PhysicalType() || !c.LogicalType().Equals(want.LogicalType()) ||
			c.MaxDefinitionLevel() != want.MaxDefinitionLevel() || c.MaxRepetitionLevel() != want.MaxRepetitionLevel() {
			return nil, fmt.Errorf("column %s is of type %s %s in the file; want %s %s", f.name,
				c.PhysicalType(), c.LogicalType(), want.PhysicalType(), want.LogicalType())
		}
		r, err := g.Column(i)
		if err != nil {
			return nil, damaged("column %s: %w", f.name, err)
		}
		return &cursor{leaf: f, reader: r}, nil
	}
	return nil, nil
}

// read reads the next n levels and the values that belong to them.
func (c *cursor) read(n int) error {
	c.defs, c.reps = resize(c.defs, n), resize(c.reps, n)
	var levels int64
	var err error
	switch r := c.reader.(type) {
	case *reader.ByteArrayColumnChunkReader:
		c.texts = resize(c.texts, n)
		levels, c.values, err = r.ReadBatch(int64(n), c.texts, c.defs, c.reps)
	case *reader.Int64ColumnChunkReader:
		c.int64s = resize(c.int64s, n)
		levels, c.values, err = r.ReadBatch(int64(n), c.int64s, c.defs, c.reps)
	case *reader.Int32ColumnChunkReader:
		c.int32s = resize(c.int32s, n)
		levels, c.values, err = r.ReadBatch(int64(n), c.int32s, c.defs, c.reps)
	case *reader.Float64ColumnChunkReader:
		c.doubles = resize(c.doubles, n)
		levels, c.values, err = r.ReadBatch(int64(n), c.doubles, c.defs, c.reps)
	case *reader.BooleanColumnChunkReader:
		c.bools = resize(c.bools, n)
		levels, c.values, err = r.ReadBatch(int64(n), c.bools, c.defs, c.reps)
	}
	if err != nil {
		return damaged("%w", err)
	}
	c.levels = int(levels)
	return nil
}

func resize[T any](s []T, n int) []T { return slices.Grow(s[:0], n)[:n] }

// readRows reads n rows of a column that is no list.
func (c *cursor) readRows(n int) error {
	if err := c.read(n); err != nil {
		return err
	}
	if c.levels != n {
		return damaged("%d values can be read of %d", c.levels, n)
	}
	return nil
}

// fill sets the column of every event.
func (c *cursor) fill(events []stream.Event) error {
	if c.leaf.from == fromList {
		return c.fillLists(events)
	}
	if err := c.readRows(len(events)); err != nil {
		return err
	}
	texts := c.strings()
	next := 0
	for i := range events {
		if c.leaf.maxDef > 0 && c.defs[i] == 0 {
			continue
		}
		if err := c.set(&events[i], next, texts); err != nil {
			return err
		}
		next++
	}
	return nil
}

// strings copies the batch's texts: one allocation for all.
func (c *cursor) strings() []string {
	if c.leaf.physical != text {
		return nil
	}
	all, texts := make([]byte, 0, 1024), make([]string, c.values)
	for _, t := range c.texts[:c.values] {
		all = append(all, t...)
	}
	shared := string(all)
	for i, t := range c.texts[:c.values] {
		texts[i], shared = shared[:len(t)], shared[len(t):]
	}
	return texts
}

// set gives e value number i of the batch.
func (c *cursor) set(e *stream.Event, i int, texts []string) (err error) {
	switch c.leaf.from {
	case fromProperties:
		e.Properties = texts[i]
		return nil
	case fromPosition:
		if e.Record.Pos, err = stream.ParsePosition(texts[i]); err != nil {
			return damaged("%w", err)
		}
		return nil
	case fromIndex:
		e.Index = uint32(c.int32s[i])
		return nil
	}
	v := &e.Values[c.leaf.column]
	switch c.leaf.kind {
	case stream.String:
		*v = stream.StringValue(texts[i])
	case stream.JSON:
		*v = stream.JSONValue(texts[i])
	case stream.Int:
		*v = stream.IntValue(c.int64s[i])
	case stream.Float:
		*v = stream.FloatValue(c.doubles[i])
	case stream.Bool:
		*v = stream.BoolValue(c.bools[i])
	case stream.Timestamp:
		*v = stream.TimestampValue(c.int64s[i])
	case stream.Decimal:
		if c.leaf.physical == int32s {
			*v = stream.DecimalValue(int64(c.int32s[i]))
		} else {
			*v = stream.DecimalValue(c.int64s[i])
		}
	}
	return nil
}

// fillLists reads elements until every event has its own. The first of the next row may be in the batch already.
func (c *cursor) fillLists(events []stream.Event) error {
	for i := range events {
		c.elements = c.elements[:0]
		null, rows := false, 0
		for {
			if c.at == c.levels {
				if err := c.read(batchRows); err != nil {
					return err
				}
				c.at, c.value = 0, 0
			}
			if c.levels == 0 || c.reps[c.at] == 0 && rows == 1 {
				break
			}
			rows = 1
			switch c.defs[c.at] {
			case nullList:
				null = true
			case nullElement:
				c.elements = append(c.elements, listElement{null: true})
			case element:
				c.elements = append(c.elements, listElement{text: string(c.texts[c.value])})
				c.value++
			}
			c.at++
		}
		if rows == 0 {
			return damaged("%d lists can be read of %d", i, len(events))
		}
		if !null {
			events[i].Values[c.leaf.column] = stream.ListValue(string(appendArray(nil, c.elements)))
		}
	}
	return nil
}
