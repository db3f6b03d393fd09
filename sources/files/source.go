// Package files reads records from files: lines and CSV, plain, gzip or zstd, on local disks and in S3.
//
// Each file is a partition, named as the configured paths name it. A record's position is the offset of its first byte in
// the decompressed file, so a file that is compressed later, or renamed, is still the same partition. A record is a line,
// without its line break; empty lines and the byte order mark of UTF-8 are passed over, everything else is kept as it is.
//
// Which bytes of a file were read is remembered as sums of its beginning and of what is just before the position. A file
// that has grown is read on. One that holds other content is never read on and never read again in silence: the run
// fails, or by configuration, and where a followed file is rotated, the new content is a new generation with a partition of
// its own: "access.log", then "access.log#2". A file is known by its inode and time of birth while it is renamed, and a
// followed one by its content when log rotation copies or compresses it beside itself.
//
// What it cannot know: lines that were written and truncated away between two polls; lines that a writer adds to a file that
// was renamed to where the paths do not reach, later than 5 polls after its last line; and that a compressed file is damaged
// before the decompressor notices, which for gzip may be at its end, with records delivered that were never in it. The run
// fails then, and nothing of the file is read after that.
package files

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
)

// Source reads the files that its paths name. Several sources, in one process or many, that use the same folder of
// checkpoints share the files among them.
type Source struct {
	cfg      Config
	pipeline string
	folder   folder
	buckets  buckets
	hooks    hooks
	log      *slog.Logger
}

var _ stream.Source = (*Source)(nil)

// New returns the source of a pipeline; cfg is valid. It touches nothing yet. A nil log is none.
func New(cfg Config, pipeline string, log *slog.Logger) *Source {
	cfg.EnsureDefaults()
	if cfg.Checkpoints == "" {
		cfg.Checkpoints = filepath.Join(".millrace", pipeline)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	open := func(ctx context.Context, url string) (objects.Store, error) {
		return objects.Open(ctx, url, objects.Options{Log: log})
	}
	return &Source{
		cfg: cfg, pipeline: pipeline, folder: folder{cfg.Checkpoints}, log: log,
		buckets: buckets{open: open, log: log},
	}
}

// Checkpoints reads the folder. A folder that is not there has none.
func (s *Source) Checkpoints(context.Context) (map[string]stream.Checkpoint, error) {
	all, err := s.folder.all(map[string]cached{})
	if err != nil {
		return nil, err
	}
	found := map[string]stream.Checkpoint{}
	for partition, saved := range all {
		if c, ok := saved.checkpoint(); ok {
			found[partition] = c
		}
	}
	return found, nil
}

// Run reads files until ctx ends or, unless it follows, until all are read.
func (s *Source) Run(ctx context.Context, assigned func(stream.Assignment) (stream.Consumer, error)) error {
	if err := s.folder.ensure(); err != nil {
		return err
	}
	before, err := s.folder.sign(about{Pipeline: s.pipeline, Paths: s.cfg.Paths})
	if err != nil {
		return fmt.Errorf("checkpoint folder %s: %w", s.folder.dir, err)
	}
	if before != nil {
		s.log.Warn("checkpoint folder was used for other paths or by another pipeline; positions of files that both name are shared",
			"folder", s.folder.dir, "pipeline_before", before.Pipeline, "paths_before", before.Paths)
	}
	r := &run{
		Source: s, assigned: assigned, cache: map[string]cached{}, same: map[comparison]bool{},
		live: map[string]*place{}, results: make(chan result), done: map[string]bool{}, forced: map[string]int{},
		gone: map[string]bool{}, listings: map[string]listing{},
	}
	return r.run(ctx)
}
