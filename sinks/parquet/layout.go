package parquet

import (
	"fmt"
	"slices"

	arrow "github.com/apache/arrow/go/v17/parquet"
	"github.com/apache/arrow/go/v17/parquet/compress"
	"github.com/apache/arrow/go/v17/parquet/schema"

	"github.com/millrace-io/millrace/stream"
)

// Columns that every file has after those of the schema.
const (
	propertiesColumn = "properties" // what no column took, JSON text; null for none
	partitionColumn  = "_partition" // of the source
	positionColumn   = "_position"  // stream.Position.String of the record
	indexColumn      = "_index"     // number among the events of its record, from 0
)

// physical is how a column's values are stored.
type physical uint8

const (
	text    physical = iota // BYTE_ARRAY
	int64s                  // INT64
	int32s                  // INT32: decimals of at most 9 digits
	doubles                 // DOUBLE
	bools                   // BOOLEAN
)

// origin is where a leaf's values come from.
type origin uint8

const (
	fromValue origin = iota
	fromList
	fromProperties
	fromPartition
	fromPosition
	fromIndex
)

// leaf is one column of a file.
type leaf struct {
	name     string // in the file
	from     origin
	column   int         // in stream.Schema, of fromValue and fromList
	kind     stream.Kind // of that column
	physical physical
	maxDef   uint8 // definition level of a value: 0 required, 1 optional, 3 list element
	pruned   bool  // minimum and maximum are kept
}

// layout is what the files of one schema have in common.
type layout struct {
	leaves  []leaf
	schema  *schema.Schema
	props   *arrow.WriterProperties
	folders []folder
}

// newLayout fails when the events cannot be partitioned as configured.
func newLayout(cfg *Config, s *stream.Schema) (*layout, error) {
	folders, err := newFolders(cfg.PartitionBy, s)
	if err != nil {
		return nil, err
	}
	l := &layout{folders: folders}
	var nodes schema.FieldList
	add := func(f leaf, n schema.Node, err error) error {
		l.leaves, nodes = append(l.leaves, f), append(nodes, n)
		return err
	}
	for i, c := range s.Columns {
		f, n, err := columnLeaf(i, c, storedName(folders, c.Name))
		if err := add(f, n, err); err != nil {
			return nil, fmt.Errorf("column %s: %w", c.Name, err)
		}
	}
	for _, f := range []leaf{
		{name: propertiesColumn, from: fromProperties, maxDef: 1},
		{name: partitionColumn, from: fromPartition, pruned: true},
		{name: positionColumn, from: fromPosition, pruned: true},
	} {
		rep := arrow.Repetitions.Required
		if f.maxDef > 0 {
			rep = arrow.Repetitions.Optional
		}
		n, err := textNode(f.name, rep)
		if err := add(f, n, err); err != nil {
			return nil, fmt.Errorf("column %s: %w", f.name, err)
		}
	}
	index := leaf{name: indexColumn, from: fromIndex, physical: int32s, pruned: true}
	_ = add(index, schema.NewInt32Node(indexColumn, arrow.Repetitions.Required, -1), nil)
	root, err := schema.NewGroupNode("event", arrow.Repetitions.Required, nodes, -1)
	if err != nil {
		return nil, err
	}
	l.schema = schema.NewSchema(root)
	// Version 1 of the format, as Spark writes: any reader of the last ten years reads it.
	l.props = arrow.NewWriterProperties(arrow.WithVersion(arrow.V1_0), arrow.WithCompression(codecs(cfg.Compression)),
		arrow.WithCreatedBy("millrace version 1.0.0 (build arrow-go-17.0.0)"))
	return l, nil
}

func codecs(compression string) compress.Compression {
	switch compression {
	case "zstd":
		return compress.Codecs.Zstd
	case "snappy":
		return compress.Codecs.Snappy
	case "gzip":
		return compress.Codecs.Gzip
	}
	return compress.Codecs.Uncompressed
}

// storedName keeps a column in the file apart from the column that engines make of the path.
func storedName(folders []folder, name string) string {
	if slices.ContainsFunc(folders, func(f folder) bool { return f.name == name }) {
		return "_" + name
	}
	return name
}

func textNode(name string, rep arrow.Repetition) (schema.Node, error) {
	return schema.NewPrimitiveNodeLogical(name, rep, schema.StringLogicalType{}, arrow.Types.ByteArray, 0, -1)
}

// columnLeaf is how a column of the schema is stored. JSON is stored as plain text: Arrow before version 19 reads Parquet's JSON type
// as bytes, and Athena wants to be told; text is text everywhere.
func columnLeaf(i int, c stream.Column, name string) (leaf, schema.Node, error) {
	f := leaf{name: name, column: i, kind: c.Type.Kind, maxDef: 1, pruned: true}
	optional := arrow.Repetitions.Optional
	switch c.Type.Kind {
	case stream.String, stream.JSON:
		f.pruned = c.Type.Kind == stream.String
		n, err := textNode(name, optional)
		return f, n, err
	case stream.Int:
		f.physical = int64s
		return f, schema.NewInt64Node(name, optional, -1), nil
	case stream.Float:
		f.physical = doubles
		return f, schema.NewFloat64Node(name, optional, -1), nil
	case stream.Bool:
		f.physical = bools
		return f, schema.NewBooleanNode(name, optional, -1), nil
	case stream.Timestamp:
		f.physical = int64s
		n, err := schema.NewPrimitiveNodeLogical(name, optional, schema.NewTimestampLogicalType(true, schema.TimeUnitMicros), arrow.Types.Int64, 0, -1)
		return f, n, err
	case stream.Decimal:
		f.physical = int64s
		stored := arrow.Types.Int64
		if c.Type.Precision <= 9 {
			f.physical, stored = int32s, arrow.Types.Int32
		}
		n, err := schema.NewPrimitiveNodeLogical(name, optional,
			schema.NewDecimalLogicalType(int32(c.Type.Precision), int32(c.Type.Scale)), stored, 0, -1)
		return f, n, err
	case stream.List:
		f.from, f.maxDef = fromList, 3
		element, err := textNode("element", optional)
		if err != nil {
			return f, nil, err
		}
		n, err := schema.ListOfWithName(name, element, optional, -1)
		return f, n, err
	}
	return f, nil, fmt.Errorf("a column of type %s cannot be stored", c.Type)
}

// isOurs says that the stored name of a folder's column would be that of one of ours.
func isOurs(folder string) bool {
	return slices.Contains([]string{partitionColumn, positionColumn, indexColumn}, "_"+folder)
}
