// Package livepage shows a running pipeline in a browser: plain HTML, one small script, one stream of JSON snapshots.
//
//	/         the page
//	/live     server-sent events, a Snapshot a second
package livepage

import (
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/millrace-io/millrace/stream"
)

//go:embed index.html live.js live.css
var assets embed.FS

const (
	history = 120 // seconds of the chart
	recent  = 12  // events, dead letters and files that the page lists
	excerpt = 400 // bytes of a dead letter's payload
)

// Options of a Page.
type Options struct {
	Name  string                                    // of the pipeline
	Files func(ctx context.Context) ([]File, error) // what is published, newest last; called when a commit was made
	Log   *slog.Logger                              // default: none
}

// File is one published file.
type File struct {
	Sink      string `json:"sink"`
	Key       string `json:"key"`
	Partition string `json:"partition"`
	After     uint64 `json:"after"` // offsets: the file's commit covers all records after After up to To
	To        uint64 `json:"to"`
	Rows      int64  `json:"rows"`
	Bytes     int64  `json:"bytes"`

	Published time.Time `json:"-"`
}

// Snapshot is what the page shows.
type Snapshot struct {
	Name    string  `json:"name"`
	Seconds int64   `json:"seconds"` // since the start
	Rate    []int64 `json:"rate"`    // records in each of the last seconds, newest last
	Records uint64  `json:"records"`
	Kept    uint64  `json:"kept"`
	Dropped uint64  `json:"dropped"`
	Dead    uint64  `json:"dead"`

	LagRecords int64   `json:"lag_records"` // -1: unknown
	LatencyMS  float64 `json:"latency_ms"`  // from the log to the sinks, median of the last second; -1: nothing arrived
	CommitAge  float64 `json:"commit_age"`  // seconds since the last commit; -1: none yet
	Waiting    float64 `json:"waiting"`     // seconds that the oldest uncommitted record waits; 0: none does
	Commits    uint64  `json:"commits"`
	CommitMS   float64 `json:"commit_ms"` // mean duration
	Buffered   int64   `json:"buffered"`  // bytes
	Budget     int64   `json:"budget"`    // bytes

	Partitions []Partition  `json:"partitions"`
	Files      []File       `json:"files"` // newest first
	FileCount  int          `json:"file_count"`
	FileRows   int64        `json:"file_rows"`
	FileBytes  int64        `json:"file_bytes"`
	Events     []Event      `json:"events"` // newest first
	DeadOnes   []DeadLetter `json:"dead_letters"`
}

// Partition is one tenure's line.
type Partition struct {
	Name      string `json:"name"`
	Epoch     uint64 `json:"epoch"`
	Delivered uint64 `json:"delivered"`
	Committed uint64 `json:"committed"`
	Lag       int64  `json:"lag"`
	Retrying  string `json:"retrying,omitempty"`
}

// Event is one of the last events.
type Event struct {
	Time      string `json:"time"`
	Type      string `json:"type"`
	User      string `json:"user"`
	Item      string `json:"item"`
	Detail    string `json:"detail"`
	Partition string `json:"partition"`
	Offset    uint64 `json:"offset"`
}

// DeadLetter is one of the last dead letters.
type DeadLetter struct {
	Partition string `json:"partition"`
	Offset    uint64 `json:"offset"`
	Stage     string `json:"stage"`
	Error     string `json:"error"`
	Value     string `json:"value"` // its beginning
}

// Page collects snapshots. Its methods are safe for concurrent use.
type Page struct {
	opts    Options
	stats   func() stream.Stats
	started time.Time

	mu        sync.Mutex
	rate      []int64
	records   uint64 // at the last sample
	commits   uint64 // at the last listing
	latencies []time.Duration
	latency   float64
	events    []Event
	dead      []DeadLetter
	files     []File
	current   []byte        // the last snapshot as JSON
	changed   chan struct{} // closed and replaced with each snapshot
}

// New returns a page that shows nothing until Run.
func New(opts Options) *Page {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Page{opts: opts, started: time.Now(), latency: -1, changed: make(chan struct{}), commits: ^uint64(0)}
}

// Tap is the engine's Config.Tap.
func (p *Page) Tap(partition string, kept []*stream.Event, dead []*stream.DeadLetter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(kept); n > 0 && !kept[n-1].Record.Time.IsZero() && len(p.latencies) < 1000 {
		p.latencies = append(p.latencies, time.Since(kept[n-1].Record.Time))
	}
	for _, e := range kept[max(0, len(kept)-recent):] {
		p.events = push(p.events, show(partition, e))
	}
	for _, d := range dead[max(0, len(dead)-recent):] {
		p.dead = push(p.dead, DeadLetter{partition, d.Record.Pos.Offset(), d.Stage, d.Err, text(d.Record.Value)})
	}
}

// push adds v at the end and forgets the oldest.
func push[T any](list []T, v T) []T {
	if len(list) >= recent {
		list = slices.Delete(list, 0, 1)
	}
	return append(list, v)
}

func show(partition string, e *stream.Event) Event {
	cell := func(column int) string { return string([]byte(e.Values[column].Text())) }
	out := Event{
		Type: cell(stream.EventType), User: cell(stream.User), Item: cell(stream.Item), Detail: cell(stream.Country),
		Partition: partition, Offset: e.Record.Pos.Offset(),
	}
	if out.User == "" {
		out.User = cell(stream.Anonymous)
	}
	if v := e.Values[stream.Time]; !v.IsNull() {
		out.Time = time.UnixMicro(v.Int()).UTC().Format("2006-01-02 15:04:05")
	}
	if v := e.Values[stream.Price]; v.Kind() == stream.Float {
		out.Detail = fmt.Sprintf("%s %.2f", out.Detail, v.Float())
	}
	return out
}

func text(value []byte) string {
	if len(value) > excerpt {
		value = value[:excerpt]
	}
	if !utf8.Valid(value) {
		return fmt.Sprintf("%q", value)
	}
	return string(value)
}

// Show sets where the numbers come from. It is called once, before Run.
func (p *Page) Show(stats func() stream.Stats) { p.stats = stats }

// SortFiles puts the newest last.
func SortFiles(files []File) {
	slices.SortFunc(files, func(a, b File) int { return cmp.Or(a.Published.Compare(b.Published), cmp.Compare(a.Key, b.Key)) })
}

// Run makes a snapshot each second until ctx ends.
func (p *Page) Run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		p.sample(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p *Page) sample(ctx context.Context) {
	stats := p.stats()
	if stats.Commits != p.commits {
		if files, err := p.opts.Files(ctx); err != nil {
			p.opts.Log.Warn("the page cannot list the lake", "error", err)
		} else {
			p.files, p.commits = files, stats.Commits
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate = append(p.rate, int64(stats.Records-p.records))
	p.rate = p.rate[max(0, len(p.rate)-history):]
	p.records = stats.Records
	p.latency = median(p.latencies)
	p.latencies = p.latencies[:0]
	body, err := json.Marshal(p.snapshot(stats))
	if err != nil {
		p.opts.Log.Warn("the page cannot show the state", "error", err)
		return
	}
	p.current = body
	close(p.changed)
	p.changed = make(chan struct{})
}

// median in milliseconds; -1 for none.
func median(ds []time.Duration) float64 {
	if len(ds) == 0 {
		return -1
	}
	slices.Sort(ds)
	return float64(ds[len(ds)/2].Microseconds()) / 1000
}

func (p *Page) snapshot(stats stream.Stats) Snapshot {
	now := time.Now()
	s := Snapshot{
		Name: p.opts.Name, Seconds: int64(now.Sub(p.started).Seconds()), Rate: p.rate, Records: stats.Records, Kept: stats.Kept,
		Dropped: stats.Dropped, Dead: stats.Dead, LatencyMS: p.latency, CommitAge: -1, Commits: stats.Commits,
		Buffered: stats.Buffered, Budget: stats.Budget, FileCount: len(p.files), Partitions: []Partition{},
		Events: newestFirst(p.events), DeadOnes: newestFirst(p.dead), Files: newestFirst(p.files[max(0, len(p.files)-recent):]),
	}
	if stats.Commits > 0 {
		s.CommitMS = 1000 * stats.CommitSeconds.Sum / float64(stats.Commits)
	}
	for _, f := range p.files {
		s.FileRows += f.Rows
		s.FileBytes += f.Bytes
	}
	for _, t := range stats.Partitions {
		s.Partitions = append(s.Partitions, Partition{t.Partition, t.Epoch, t.Delivered.Offset(), t.Committed.Offset(), t.LagRecords, t.Retrying})
		s.LagRecords += max(0, t.LagRecords)
		if !t.Oldest.IsZero() {
			s.Waiting = max(s.Waiting, now.Sub(t.Oldest).Seconds())
		}
		if age := now.Sub(t.LastCommit).Seconds(); !t.LastCommit.IsZero() && (s.CommitAge < 0 || age < s.CommitAge) {
			s.CommitAge = age
		}
	}
	return s
}

func newestFirst[T any](list []T) []T {
	list = append([]T{}, list...) // an empty list in JSON, never null
	slices.Reverse(list)
	return list
}

// ServeHTTP serves the page.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/live" {
		p.live(w, r)
		return
	}
	w.Header().Set("Content-Security-Policy", "default-src 'self'")
	http.FileServerFS(assets).ServeHTTP(w, r)
}

// live sends snapshots until the client leaves.
func (p *Page) live(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	for {
		p.mu.Lock()
		body, changed := p.current, p.changed
		p.mu.Unlock()
		if body != nil {
			if _, err := fmt.Fprintf(w, "data: %s\n\n", body); err != nil {
				return
			}
			if err := http.NewResponseController(w).Flush(); err != nil {
				return
			}
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}
