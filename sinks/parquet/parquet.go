// Package parquet is the lake: a staged sink that writes events as Parquet files, in folders by partition, and reads back
// what it published.
//
// Reading order: this file (Config, Sink), layout.go (which columns a file has), writer.go (the life of a commit), file.go
// (one file), column.go (one column of one row group, where the time goes), page.go (bytes on disk); inspect.go and rows.go
// read them again.
//
// Arrow's schema, metadata and reader are used as they are. Its column writers are not: they build a dictionary for every
// column, a zstd encoder for every page, and buffers of fixed size for every column of every open file. Here rows go into
// columns that start at a few bytes and grow by need, pages are compressed as soon as they are full, and the encoders are
// shared by all files of the sink.
//
// What files hold, for whoever reads them: data pages of version 1, PLAIN and PLAIN_DICTIONARY encodings, CRC-32 of each page,
// minimum and maximum of every column but JSON. There are no bloom filters: Arrow for Go v17 can neither write nor read them.
package parquet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
)

// Config is one lake.
type Config struct {
	// URL is the folder of the files: s3://bucket/prefix, file:///folder or a path. Required.
	URL string `yaml:"url"`

	// PartitionBy names the folders' columns, outermost first: date=2010-12-01/hour=08/. "date" (YYYY-MM-DD) and "hour" (00 to
	// 23) are those of event_time in UTC; anything else is a column, by name or alias, of any type but list and json. Values
	// are escaped as Hive does; null and the empty string are __HIVE_DEFAULT_PARTITION__; very long values are cut and get a
	// hash. A file holds a column that names its folder under another name, with an underscore before it, because engines
	// differ in what they make of a column that is in the file and in the path.
	// Default: [date]; an empty list: no folders.
	PartitionBy []string `yaml:"partition_by"`

	// Compression of pages: zstd, snappy, gzip or none. Default: zstd.
	Compression string `yaml:"compression"`

	// CompressionLevel is 1 to 22 for zstd (in effect four levels: 1-2, 3-6, 7-9, 10-22), 1 to 9 for gzip. Default: 3 and 6.
	CompressionLevel int `yaml:"compression_level"`

	Roll Roll `yaml:"roll"`

	// RowGroup bounds a row group, in bytes before compression and dictionaries. Default: 64 MiB; at least 64 KiB. In memory a
	// row group takes what is left after compression. When the memory budget of the pipeline is smaller than what is open,
	// the engine commits before a row group is full.
	RowGroup int64 `yaml:"row_group" unit:"bytes"`
}

// Roll says when files are closed and become visible. All files of a partition of the source are closed together, by a
// commit of the engine.
type Roll struct {
	// Size of one file, in bytes as stored; a file ends a little over it. Default: 128 MiB; at least 64 KiB.
	Size int64 `yaml:"size" unit:"bytes"`

	// Age is the longest that an event waits until it is visible. Zero: the engine's default, 60 s.
	Age time.Duration `yaml:"age"`

	// Idle closes files when nothing arrived for so long. Zero: the engine's default, 20 s.
	Idle time.Duration `yaml:"idle"`
}

const minBytes = 64 << 10 // of a file and of a row group: smaller ones are all overhead

// EnsureDefaults sets what is zero.
func (c *Config) EnsureDefaults() {
	if c.PartitionBy == nil {
		c.PartitionBy = []string{dateFolder}
	}
	if c.Compression == "" {
		c.Compression = "zstd"
	}
	if c.CompressionLevel == 0 {
		c.CompressionLevel = map[string]int{"zstd": 3, "gzip": 6}[c.Compression]
	}
	if c.Roll.Size == 0 {
		c.Roll.Size = 128 << 20
	}
	if c.RowGroup == 0 {
		c.RowGroup = 64 << 20
	}
}

// Validate sets the defaults and lists every problem.
func (c *Config) Validate() error {
	c.EnsureDefaults()
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.URL == "" {
		problem("url is empty; want s3://bucket/prefix, file:///folder or a path")
	}
	for i, name := range c.PartitionBy {
		if name == "" || slices.Contains(c.PartitionBy[:i], name) {
			problem("partition_by has %q twice or empty; want the names of different columns", name)
		}
	}
	if most, ok := map[string]int{"zstd": 22, "gzip": 9, "snappy": 0, "none": 0}[c.Compression]; !ok {
		problem("compression is %q; want zstd, snappy, gzip or none", c.Compression)
	} else if c.CompressionLevel < 0 || c.CompressionLevel > most {
		problem("compression_level is %d; want 0 to %d with %s", c.CompressionLevel, most, c.Compression)
	}
	if c.Roll.Size < minBytes {
		problem("roll.size is %d bytes; want at least 64KiB", c.Roll.Size)
	}
	if c.Roll.Age < 0 {
		problem("roll.age is %s; want 0 or more", c.Roll.Age)
	}
	if c.Roll.Idle < 0 {
		problem("roll.idle is %s; want 0 or more", c.Roll.Idle)
	}
	if c.RowGroup < minBytes {
		problem("row_group is %d bytes; want at least 64KiB", c.RowGroup)
	}
	return errors.Join(problems...)
}

// CheckSchema says what is wrong with c for events of schema: problems that Validate cannot see.
func (c *Config) CheckSchema(schema *stream.Schema) error {
	_, err := newLayout(c, schema)
	return err
}

// Sink writes Parquet files to a store. Its memory beside the writers' own (Buffered) is that of the page encoders: at most
// one for each processor, about 6 MiB each with zstd at its default level, several times that at levels from 7 on.
type Sink struct {
	cfg Config
	objects.Claims
	encoders *encoders
}

var (
	_ stream.Staged[*stream.Event] = (*Sink)(nil)
	_ stream.Inspector             = (*Sink)(nil)
)

// New returns the sink that writes to store; Config.URL is where wire.go opens that.
func New(store objects.Store, cfg Config) (*Sink, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Sink{cfg: cfg, Claims: objects.Claims{Store: store, Suffix: suffix}, encoders: newEncoders()}, nil
}

// Open returns the writer of one tenure. It fails, for good, when a column to partition by is not in the schema.
func (s *Sink) Open(_ context.Context, t stream.Tenure) (stream.StagedWriter[*stream.Event], error) {
	l, err := newLayout(&s.cfg, t.Schema)
	if err != nil {
		return nil, stream.Fatal(fmt.Errorf("sink %s: %w", t.Sink, err))
	}
	return newWriter(s, l, t), nil
}
