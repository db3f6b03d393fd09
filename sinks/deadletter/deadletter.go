// Package deadletter stores records that could not go on as JSON lines, in the same two phases as every staged sink, and
// reads them back.
//
// A commit's dead letters of one partition are one file, date=<day of its first record>/dead-<pipeline>-<partition>-....jsonl.
// Each line is one dead letter with everything that a replay needs: see Letter. The last line is the file's provenance:
//
//	{"pipeline":"clicks","partition":"clicks-3","epoch":7,"position":"00000000000003e8","stage":"decode","error":"...","value":"{..."}
//	{"provenance":{"pipeline":"clicks", ... "data":2774342718}}
//
// Data is the CRC-32C (Castagnoli, RFC 3720) of all bytes before the last line. Nothing in a file depends on when it was
// written: the same commit makes the same bytes.
package deadletter

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"strings"
	"time"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
)

// Config is the pipeline file's dead_letters.
type Config struct {
	// URL is where the files go: s3://bucket/prefix, file:///folder or a path. No default.
	URL string `yaml:"url"`

	// StopAbove ends the run when too many records become dead letters. Default: it never does.
	StopAbove StopAbove `yaml:"stop_above"`
}

// StopAbove is a stream.DeadLimit.
type StopAbove struct {
	Percent float64       `yaml:"percent"` // of the records in the window
	Window  time.Duration `yaml:"window"`  // default 1m
	Least   int64         `yaml:"least"`   // records in the window before it is judged; default 1000
}

// Limit is what the engine takes.
func (s StopAbove) Limit() stream.DeadLimit { return stream.DeadLimit(s) }

// EnsureDefaults sets what is zero.
func (c *Config) EnsureDefaults() {
	limit := c.StopAbove.Limit()
	limit.EnsureDefaults()
	c.StopAbove = StopAbove(limit)
}

// Validate says what is wrong.
func (c *Config) Validate() error {
	c.EnsureDefaults()
	if err := objects.CheckURL(c.URL); err != nil {
		return fmt.Errorf("url is wrong: %w", err)
	}
	limit := c.StopAbove.Limit()
	if err := limit.Validate(); err != nil {
		return fmt.Errorf("stop_above: %w", err)
	}
	return nil
}

const suffix = ".jsonl"

// full is the size of a file, in bytes, at which the writer wants a commit. It keeps a flood of bad records in files that
// one can still open.
const full = 64 << 20

// Sink writes dead letters to a store and reads them back.
type Sink struct {
	objects.Claims
}

var (
	_ stream.Staged[*stream.DeadLetter] = (*Sink)(nil)
	_ stream.Inspector                  = (*Sink)(nil)
)

// New returns the sink that writes to store; Config.URL is where wire.go opens that.
func New(store objects.Store) *Sink { return &Sink{objects.Claims{Store: store, Suffix: suffix}} }

// Open returns the writer of one tenure.
func (s *Sink) Open(_ context.Context, t stream.Tenure) (stream.StagedWriter[*stream.DeadLetter], error) {
	return &writer{store: s.Store, tenure: t}, nil
}

// writer writes for one tenure. Between two commits it has one upload, if any.
type writer struct {
	store  objects.Store
	tenure stream.Tenure

	upload  objects.Upload // nil: nothing was written since the last commit
	key     string
	lines   int64
	bytes   int64
	crc     uint32
	refused map[stream.Position]uint32 // letters so far of records that a sink refused: see index
	prov    *stream.Provenance         // set by Stage, when the last line is written
}

func (w *writer) Write(letters []*stream.DeadLetter) {
	for _, d := range letters {
		if w.upload == nil {
			w.begin(d.Record)
		}
		l := newLetter(&w.tenure, d, w.index(d))
		w.line(l)
		w.lines++
	}
}

// index numbers the letters of one record. Decoder and processors make one; but several sinks may refuse the same
// record, or one sink several of its events.
func (w *writer) index(d *stream.DeadLetter) uint32 {
	if !strings.HasPrefix(d.Stage, "sink.") {
		return 0
	}
	if w.refused == nil {
		w.refused = map[stream.Position]uint32{}
	}
	n := w.refused[d.Record.Pos]
	w.refused[d.Record.Pos] = n + 1
	return n
}

// line appends the JSON of v. What is written here can always be said in JSON.
func (w *writer) line(v any) {
	text := appendLine(nil, v)
	w.crc = crc32.Update(w.crc, crc32.MakeTable(crc32.Castagnoli), text)
	w.bytes += int64(len(text))
	w.upload.Write(text)
}

// begin names the file by its first record: that, the partition and the epoch make it unique. A log that does not know the
// time puts all its files under one date.
func (w *writer) begin(r *stream.Record) {
	date := "__HIVE_DEFAULT_PARTITION__"
	if t := r.Time.UTC(); !t.IsZero() && t.Year() >= 0 && t.Year() <= 9999 {
		date = t.Format("2006-01-02")
	}
	id := fnv.New64a()
	id.Write([]byte(w.tenure.Pipeline + "\x00" + w.tenure.Partition))
	w.key = fmt.Sprintf("date=%s/dead-%s-%s-%s-%d-%s%s", date, slug(w.tenure.Pipeline), slug(w.tenure.Partition),
		hex.EncodeToString(id.Sum(nil)), w.tenure.Epoch, r.Pos, suffix)
	w.upload = w.store.Begin(w.key)
}

// slug is the part of a name that is fit for a key, for people to read; it need not be unique.
func slug(name string) string {
	text := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' {
			return r
		}
		return '-'
	}, name)
	return text[:min(len(text), 40)]
}

func (w *writer) Upload(ctx context.Context) error {
	if w.upload == nil {
		return nil
	}
	return w.upload.Send(ctx)
}

func (w *writer) Buffered() int64 {
	if w.upload == nil {
		return 0
	}
	return w.upload.Buffered()
}

func (w *writer) Full() bool { return w.bytes >= full }

func (w *writer) Stage(ctx context.Context, p stream.Provenance) ([]stream.Receipt, error) {
	if w.upload == nil {
		return nil, nil
	}
	if w.prov == nil {
		p.Key, p.File, p.Files, p.FileRows, p.Data = w.key, 1, 1, w.lines, w.crc
		w.prov = &p
		w.line(lastLine{p})
	}
	prov, err := json.Marshal(w.prov)
	if err != nil {
		return nil, err
	}
	t, err := w.upload.Seal(ctx, map[string]string{"provenance": string(prov)})
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	receipt := stream.Receipt{Sink: p.Sink, Digest: w.prov.Digest(), Bytes: t.Size, Body: body}
	*w = writer{store: w.store, tenure: w.tenure}
	return []stream.Receipt{receipt}, nil
}

// Discard leaves alone what Stage returned: it may be committed.
func (w *writer) Discard(ctx context.Context) {
	if w.upload != nil {
		w.upload.Discard(ctx)
	}
	*w = writer{store: w.store, tenure: w.tenure}
}

// ErrDamaged says that a file is not as it was written: truncated, edited, copied, or not ours at all. Errors that do not
// wrap it are about reaching the file.
var ErrDamaged = errors.New("damaged file")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrDamaged, fmt.Errorf(format, args...))
}
