package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
}

// sourcePlan opens the source.
type sourcePlan struct {
	kind string
	at   pipelinefile.Value
	end  func() // makes the source end at what is there now; nil: it never ends
	open func(ctx context.Context, log *slog.Logger) (stream.Source, error)
}

// sinkPlan opens one staged sink over the store at url.
type sinkPlan struct {
	name      string
	at        pipelinefile.Value // of url
	url       string
	where     func(*stream.Event) bool // nil: every event
	age, idle time.Duration            // when to commit at the latest; 0: the engine's default
	open      func(objects.Store) (inspected[*stream.Event], error)
}

// deadPlan opens the dead letters.
type deadPlan struct {
	at   pipelinefile.Value
	url  string
	open func(objects.Store) inspected[*stream.DeadLetter]
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
	places     []storePlace
}

// storePlace is a store and what wants it.
type storePlace struct {
	store objects.Store
	at    pipelinefile.Value
}

// open connects the parts as far as each does when it is opened.
func (p *plan) open(ctx context.Context, o objects.Options) (*parts, error) {
	log := o.Log
	out := &parts{inspectors: map[string]stream.Inspector{}}
	out.config = stream.Config{
		Name: p.file.Name, Schema: p.schema, Decoder: p.decoder, Processors: p.processors, Memory: p.file.Memory, Log: log,
	}
	for _, s := range p.sinks {
		store, err := out.store(ctx, s.at, s.url, o)
		if err != nil {
			return nil, err
		}
		sink, err := s.open(store)
		if err != nil {
			return nil, s.at.Error(err)
		}
		out.config.Sinks = append(out.config.Sinks, stream.Sink{Name: s.name, Where: s.where, Staged: sink})
		out.inspectors[s.name] = sink
		out.config.CommitAge, out.config.CommitIdle = sooner(out.config.CommitAge, s.age), sooner(out.config.CommitIdle, s.idle)
	}
	store, err := out.store(ctx, p.dead.at, p.dead.url, o)
	if err != nil {
		return nil, err
	}
	dead := p.dead.open(store)
	out.config.DeadLetters, out.inspectors[stream.DeadLetters] = dead, dead
	out.config.Overflow = objects.Overflow(store, p.file.Name)
	if out.source, err = p.source.open(ctx, log); err != nil {
		return nil, p.source.at.Error(err)
	}
	return out, nil
}

func (out *parts) store(ctx context.Context, at pipelinefile.Value, url string, o objects.Options) (objects.Store, error) {
	store, err := objects.Open(ctx, url, o)
	if err != nil {
		return nil, at.Error(err)
	}
	out.places = append(out.places, storePlace{store, at})
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
		err := place.probe(ctx)
		if refused(err) {
			return place.at.Error(err)
		}
		if err != nil {
			out.config.Log.Warn("a sink's place does not answer yet; going on", "url", place.store.String(), "error", err)
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

func (s storePlace) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	return s.store.Probe(ctx)
}

// probe adds to the file's problems what is wrong with the outside.
func (p *plan) probe(ctx context.Context) {
	out, err := p.open(ctx, patient())
	if err != nil {
		p.source.at.Problem("cannot be opened: %s", err)
		return
	}
	for _, place := range out.places {
		if err := place.probe(ctx); err != nil {
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
	return stream.Audit(ctx, p.file.Name, out.source.Checkpoints, out.inspectors, deep)
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

// addSink plans a staged sink. at is the place of its url.
func (p *plan) addSink(s *pipelinefile.Sink, at pipelinefile.Value, sink sinkPlan) {
	sink.name, sink.at = s.Name, at
	if s.Name == stream.DeadLetters {
		at.Problem("belongs to a sink named %s, which is the name of the dead letters; want another one", s.Name)
	}
	if text, ok := s.Where.Text(); ok && p.schema != nil {
		where, err := expr.Predicate(text, p.schema)
		s.Where.Reject(err)
		sink.where = where
	}
	if sink.url != "" {
		if err := objects.CheckURL(sink.url); err != nil {
			at.Problem("is wrong: %s", err)
		}
	}
	p.sinks = append(p.sinks, sink)
}
