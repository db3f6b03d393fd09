package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/millrace-io/millrace/cmd/millrace/pipelinefile"
	"github.com/millrace-io/millrace/processors/decode"
	"github.com/millrace-io/millrace/processors/expr"
	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/sinks/spool"
	"github.com/millrace-io/millrace/sources/dlq"
	"github.com/millrace-io/millrace/stream"
)

// plan is a pipeline file made into parts that have not touched the outside. It is of use only when the file has no
// problems.
type plan struct {
	file       *pipelinefile.File
	format     *decode.Config
	schema     *stream.Schema
	decoder    func() stream.Decoder
	processors []stream.ProcessorConfig
	source     sourcePlan
	sinks      []sinkPlan
	dead       deadPlan
	spool      spoolPlan
	mend       bool // the upsert sinks write an event over what it made before; set before they are opened
}

// source is what a pipeline reads, and what a replay reads again.
type source interface {
	stream.Source
	stream.Rereader
}

// sourcePlan opens the source.
type sourcePlan struct {
	kind string
	at   pipelinefile.Value
	end  func() // makes the source end at what is there now; nil: it never ends
	open func(ctx context.Context, log *slog.Logger) (source, error)

	ordering stream.Ordering // of its positions
	short    bool            // they are below 2^53
	joins    *joins          // nil: no sink can be in its commits
}

// sinkPlan opens one sink: a staged one over the store at url, or an upsert one.
type sinkPlan struct {
	name      string
	at        pipelinefile.Value       // of url, or of the kind
	where     func(*stream.Event) bool // nil: every event
	url       string                   // empty for an upsert sink
	age, idle time.Duration            // when to commit at the latest; 0: the engine's default
	open      func(objects.Store) (inspected[*stream.Event], error)
	upsert    func(log *slog.Logger) (upsertSink, error)
	aside     bool                     // on_stall: spool
	joined    bool                     // it is in the source's transactions
	removes   func(*stream.Event) bool // which events remove a row; nil: none does
	once      string                   // why events must not come again out of order; empty: they may
}

// upsertSink is an upsert sink that can be looked at before it is used.
type upsertSink interface {
	stream.Upsert
	spool.Loop
	Probe(ctx context.Context) error
}

// installer is a sink that can set up what it writes to.
type installer interface {
	Setup(ctx context.Context) error
}

// spoolPlan is where writes are set aside.
type spoolPlan struct {
	at         pipelinefile.Value
	url        string
	stallAfter time.Duration
}

// deadPlan opens the dead letters.
type deadPlan struct {
	at    pipelinefile.Value
	url   string
	limit stream.DeadLimit
	open  func(objects.Store) inspected[*stream.DeadLetter]
}

// inspected is what verify can read back: every staged sink.
type inspected[T any] interface {
	stream.Staged[T]
	stream.Inspector
}

// memory is the bytes of all buffers together.
func (p *plan) memory() int64 {
	c := stream.Config{Memory: p.file.Memory}
	c.EnsureDefaults()
	return c.Memory
}

// commitAge is the longest that a record waits for its commit. Where the only sinks that wait for it are those that show nothing before
// it, that is a second.
func (p *plan) commitAge() (age time.Duration) {
	for _, s := range p.sinks {
		age = sooner(age, s.age)
	}
	if j := p.source.joins; age == 0 && j != nil && len(j.sinks) > 0 {
		return time.Second
	}
	c := stream.Config{CommitAge: age}
	c.EnsureDefaults()
	return c.CommitAge
}

// endSource makes the source end when everything that is there now is read; false: it never ends.
func (p *plan) endSource() bool {
	if p.source.end == nil {
		return false
	}
	p.source.end()
	return true
}

// parts is an opened plan: everything that the engine and verify take.
type parts struct {
	config     stream.Config
	source     stream.Source
	inspectors map[string]stream.Inspector
	stores     map[string]objects.Store // of the staged sinks
	letters    *dlq.Archive
	places     []place
	upserts    []upsertPart
	spools     []*spool.Sink
}

// upsertPart is an opened upsert sink.
type upsertPart struct {
	sinkPlan
	sink upsertSink
}

// place is something outside that has to take writes, and what wants it.
type place struct {
	name  string
	at    pipelinefile.Value
	probe func(ctx context.Context) error
}

// open connects the parts as far as each does when it is opened.
func (p *plan) open(ctx context.Context, o objects.Options) (*parts, error) {
	out, err := p.openSinks(ctx, o)
	if err != nil {
		return nil, err
	}
	out.config.DeadLimit = p.dead.limit
	if out.source, err = p.source.open(ctx, o.Log); err != nil {
		return nil, p.source.at.Error(err)
	}
	return out, nil
}

// openSinks connects everything but the source.
func (p *plan) openSinks(ctx context.Context, o objects.Options) (*parts, error) {
	log := o.Log
	out := &parts{inspectors: map[string]stream.Inspector{}, stores: map[string]objects.Store{}}
	out.config = stream.Config{
		Name: p.file.Name, Schema: p.schema, Decoder: p.decoder, Processors: p.processors, Memory: p.file.Memory, CommitAge: p.commitAge(), Log: log,
	}
	for _, s := range p.sinks {
		open := out.openStaged
		if s.upsert != nil {
			open = p.openUpsert(out)
		}
		if err := open(ctx, s, o); err != nil {
			return nil, err
		}
	}
	store, err := out.store(ctx, p.dead.at, p.dead.url, o)
	if err != nil {
		return nil, err
	}
	dead := p.dead.open(store)
	out.config.DeadLetters, out.inspectors[stream.DeadLetters] = dead, dead
	out.config.Overflow = objects.Overflow(store, p.file.Name)
	out.letters = dlq.New(store, p.file.Name)
	return out, nil
}

func (out *parts) openStaged(ctx context.Context, s sinkPlan, o objects.Options) error {
	store, err := out.store(ctx, s.at, s.url, o)
	if err != nil {
		return err
	}
	sink, err := s.open(store)
	if err != nil {
		return s.at.Error(err)
	}
	out.config.Sinks = append(out.config.Sinks, stream.Sink{Name: s.name, Where: s.where, Staged: sink})
	out.inspectors[s.name], out.stores[s.name] = sink, store
	out.config.CommitIdle = sooner(out.config.CommitIdle, s.idle)
	return nil
}

// openUpsert opens upsert sinks, with a spool where the file wants one.
func (p *plan) openUpsert(out *parts) func(context.Context, sinkPlan, objects.Options) error {
	return func(ctx context.Context, s sinkPlan, o objects.Options) error {
		sink, err := s.upsert(o.Log)
		if err != nil {
			return s.at.Error(err)
		}
		out.upserts = append(out.upserts, upsertPart{s, sink})
		out.places = append(out.places, place{s.name, s.at, sink.Probe})
		var written stream.Upsert = sink
		if s.aside {
			store, err := out.store(ctx, p.spool.at, p.spool.url, o)
			if err != nil {
				return err
			}
			aside := spool.New(sink, store, spool.Options{Name: s.name, StallAfter: p.spool.stallAfter, Schema: p.schema, Log: o.Log})
			out.spools = append(out.spools, aside)
			written = aside
		}
		out.config.Sinks = append(out.config.Sinks, stream.Sink{Name: s.name, Where: s.where, Upsert: written})
		return nil
	}
}

// setup installs what the sinks write to.
func (out *parts) setup(ctx context.Context) error {
	for _, u := range out.upserts {
		if s, ok := u.sink.(installer); ok {
			if err := s.Setup(ctx); err != nil {
				return u.at.Error(err)
			}
		}
	}
	return nil
}

func (out *parts) store(ctx context.Context, at pipelinefile.Value, url string, o objects.Options) (objects.Store, error) {
	store, err := objects.Open(ctx, url, o)
	if err != nil {
		return nil, at.Error(err)
	}
	out.places = append(out.places, place{store.String(), at, store.Probe})
	return store, nil
}

// sooner is the smaller of two durations that are set.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// probeTimeout bounds the look at one place.
const probeTimeout = 30 * time.Second

// check finds out before anything is read whether the pipeline can write. Places that cannot be reached at present are no
// reason to give up: the engine tries again for as long as it takes.
func (out *parts) check(ctx context.Context) error {
	for _, place := range out.places {
		err := place.look(ctx)
		if refused(err) {
			return place.at.Error(err)
		}
		if err != nil {
			out.config.Log.Warn("a sink's place does not answer yet; going on", "place", place.name, "error", err)
		}
	}
	return nil
}

// refused says that a place will not change its mind. Servers other than Amazon's have codes of their own for keys that
// they do not know (versitygw: 404 XAdminUserNotFound), so any answer that blames the request counts.
func refused(err error) bool {
	var fatal *stream.FatalError
	if errors.As(err, &fatal) {
		return true
	}
	var answer interface{ HTTPStatusCode() int }
	if !errors.As(err, &answer) {
		return false
	}
	code := answer.HTTPStatusCode()
	return code >= 400 && code < 500 && code != http.StatusRequestTimeout && code != http.StatusTooManyRequests
}

func (p place) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	return p.probe(ctx)
}

// probe adds to the file's problems what is wrong with the outside.
func (p *plan) probe(ctx context.Context) {
	out, err := p.open(ctx, patient())
	if err != nil {
		p.source.at.Problem("cannot be opened: %s", err)
		return
	}
	for _, place := range out.places {
		if err := place.look(ctx); err != nil {
			place.at.Problem("cannot be written: %s", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if _, err := out.source.Checkpoints(ctx); err != nil {
		p.source.at.Problem("does not answer: %s", err)
	}
}

// patient is for reading without an engine that repeats what fails.
func patient() objects.Options {
	return objects.Options{Attempts: 8, Log: slog.New(slog.DiscardHandler)}
}

// audit compares what the sinks hold with what was committed.
func (p *plan) audit(ctx context.Context, deep bool) (*stream.Report, error) {
	out, err := p.open(ctx, patient())
	if err != nil {
		return nil, err
	}
	r, err := stream.Audit(ctx, p.file.Name, out.checkpoints, out.inspectors, deep)
	if err != nil || len(out.upserts) == 0 {
		return r, err
	}
	return r, p.auditUpserts(ctx, out, deep, r)
}

// checkpoints is what was committed, by the source's partitions and by those of replays.
func (out *parts) checkpoints(ctx context.Context) (map[string]stream.Checkpoint, error) {
	all, err := out.letters.Checkpoints(ctx)
	if err != nil {
		return nil, err
	}
	read, err := out.source.Checkpoints(ctx)
	maps.Copy(all, read)
	return all, err
}

// checkPlaces refuses sinks that would find each other's files.
func (p *plan) checkPlaces() {
	type named struct {
		name, place string
	}
	var seen []named
	check := func(name, url string, at pipelinefile.Value) {
		if url == "" {
			return
		}
		place := cleanURL(url)
		i := slices.IndexFunc(seen, func(n named) bool { return inside(n.place, place) || inside(place, n.place) })
		if i >= 0 {
			at.Problem("is %q, which has files in common with %s; want a place of its own", url, seen[i].name)
		}
		seen = append(seen, named{name, place})
	}
	for _, s := range p.sinks {
		check("sinks."+s.name, s.url, s.at)
	}
	check("dead_letters", p.dead.url, p.dead.at)
	if slices.ContainsFunc(p.sinks, func(s sinkPlan) bool { return s.aside }) {
		check("spool", p.spool.url, p.spool.at)
	}
}

// cleanURL is a location in one spelling, with a slash at the end.
func cleanURL(url string) string {
	if rest, ok := strings.CutPrefix(url, "s3://"); ok {
		return "s3://" + path.Clean(rest) + "/"
	}
	folder := strings.TrimPrefix(url, "file://")
	if abs, err := filepath.Abs(folder); err == nil {
		folder = abs
	}
	return strings.TrimSuffix(folder, "/") + "/"
}

// inside says that a listing of outer shows what is in inner. Names that begin with an underscore or a dot are hidden.
func inside(inner, outer string) bool {
	rest, ok := strings.CutPrefix(inner, outer)
	return ok && !strings.HasPrefix(rest, "_") && !strings.HasPrefix(rest, ".") && !strings.Contains(rest, "/_") && !strings.Contains(rest, "/.")
}

// join is a location below another one.
func join(url, name string) string {
	return fmt.Sprintf("%s/%s", strings.TrimRight(url, "/"), name)
}

// lake is the first sink that has a place for files; nil: none has.
func (p *plan) lake() *sinkPlan {
	for i := range p.sinks {
		if p.sinks[i].url != "" {
			return &p.sinks[i]
		}
	}
	return nil
}

// staged says that there is a staged sink, whose url may be wrong.
func (p *plan) staged() bool {
	return slices.ContainsFunc(p.sinks, func(s sinkPlan) bool { return s.upsert == nil })
}

// addSink plans a staged sink. at is the place of its url.
func (p *plan) addSink(s *pipelinefile.Sink, at pipelinefile.Value, sink sinkPlan) {
	if s.Spool {
		s.Stall.Problem("is spool, which is for sinks that are written ahead of the commit; %s stages its files already", s.Name)
	}
	if sink.url != "" {
		if err := objects.CheckURL(sink.url); err != nil {
			at.Problem("is wrong: %s", err)
		}
	}
	p.add(s, at, sink)
}

// addUpsert plans an upsert sink.
func (p *plan) addUpsert(s *pipelinefile.Sink, c *pipelinefile.Choice, sink sinkPlan) {
	sink.aside = s.Spool
	p.add(s, c.Value, sink)
}

func (p *plan) add(s *pipelinefile.Sink, at pipelinefile.Value, sink sinkPlan) {
	sink.name, sink.at = s.Name, at
	if s.Name == stream.DeadLetters {
		at.Problem("belongs to a sink named %s, which is the name of the dead letters; want another one", s.Name)
	}
	sink.where = p.predicate(s.Where)
	p.sinks = append(p.sinks, sink)
}

// predicate compiles an expression; nil where there is none.
func (p *plan) predicate(v pipelinefile.Value) func(*stream.Event) bool {
	text, ok := v.Text()
	if !ok || p.schema == nil {
		return nil
	}
	is, err := expr.Predicate(text, p.schema)
	v.Reject(err)
	return is
}

// removes is which events remove their row, for a sink that can.
func (p *plan) removes(s *pipelinefile.Sink, can bool) func(*stream.Event) bool {
	if s.Delete.Present() && !can {
		s.Delete.Problem("is for sinks that keep one row for a key; %s has a row for each event", s.Name)
	}
	return p.predicate(s.Delete)
}
