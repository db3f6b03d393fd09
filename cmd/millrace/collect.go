package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/millrace-io/millrace/cmd/millrace/admin"
	"github.com/millrace-io/millrace/cmd/millrace/pipelinefile"
	"github.com/millrace-io/millrace/processors/decode"
	"github.com/millrace-io/millrace/sources/collect"
	"github.com/millrace-io/millrace/stream"
)

const collectHelp = `take events over HTTP and put them into a stream

Usage: millrace collect [--log-format text|json] [--log-level debug|info|warn|error] FILE

POST /v1/events takes a JSON event or an array of them and answers after the stream (Kafka, NATS JetStream or Kinesis) has stored
them; GET /tracker.js is the script for web pages. Prints "ready http://HOST:PORT" when it listens. On SIGTERM or SIGINT it takes
no connection more, answers the requests that are under way, and exits 0. Another signal, a second or more later, stops at
once with exit 1; no event whose request was answered is lost in any case.

  --log-format   text (default) or json, on standard error
  --log-level    debug, info (default), warn or error

The file is checked with millrace lint FILE. Its keys are described in sources/collect/config.go and docs/examples/collect.yaml.

Example:
  $ millrace collect collect.yaml
  $ curl -s 127.0.0.1:8080/v1/events?key=shop-web -d '{"event_type":"click","user_id":"u1"}'

Exit codes: 0 stopped and everything answered, 1 failed or stopped hard, 2 wrong usage.`

func runCollect(ctx context.Context, c *call) int {
	var f runFlags
	flags := flag.NewFlagSet("collect", flag.ContinueOnError)
	flags.StringVar(&f.format, "log-format", "text", "")
	flags.TextVar(&f.level, "log-level", slog.LevelInfo, "")
	path, err := c.oneFile(flags)
	switch {
	case err != nil:
		return c.usage("%s", strings.ReplaceAll(err.Error(), "pipeline file", "file"))
	case f.format != "text" && f.format != "json":
		return c.usage("--log-format is %q; want text or json", f.format)
	}
	text, err := c.text(path)
	if err != nil {
		return c.fail(err)
	}
	p := newCollectPlan(path, text)
	for _, problem := range p.file.Problems() {
		fmt.Fprintln(c.stderr, problem)
	}
	if len(p.file.Problems()) > 0 {
		return exitFail
	}
	log := c.logger(f)
	soft, hard, release := stopping(ctx, log)
	defer release()
	if err := p.run(soft, hard, c.stdout, log); err != nil {
		c.tell(f, log, err)
		return exitFail
	}
	return exitOK
}

// collectFile is what a collector's file says, but for what Value is: that is a package's own.
type collectFile struct {
	Listen string             `yaml:"listen"` // host:port; port 0: any free one
	TLS    *certificate       `yaml:"tls"`    // default: plain HTTP, for the load balancer's other side
	To     pipelinefile.Value `yaml:"to"`     // the log
	Decode pipelinefile.Value `yaml:"decode"` // as in the pipeline file that reads the events
	Admin  string             `yaml:"admin"`  // host:port of /healthz, /readyz, /metrics and /debug/pprof; default none

	// Drain is how long requests that are under way may take when the collector stops. Default 25 s.
	Drain time.Duration `yaml:"drain"`

	// These are collect.Config.
	CORS           collect.CORS                `yaml:"cors"`
	WriteKeys      map[string]collect.WriteKey `yaml:"write_keys"`
	Limits         collect.Limits              `yaml:"limits"`
	TrustedProxies []string                    `yaml:"trusted_proxies"`
	Address        string                      `yaml:"address"`
	Skew           time.Duration               `yaml:"skew"`
	Consent        collect.Consent             `yaml:"consent"`

	door collect.Config
}

// Validate sets the defaults and returns all problems.
func (f *collectFile) Validate() error {
	var problems []error
	if f.Drain == 0 {
		f.Drain = 25 * time.Second
	}
	if f.Listen == "" {
		problems = append(problems, errors.New("listen is missing; want host:port, such as 0.0.0.0:8080"))
	} else if _, _, err := net.SplitHostPort(f.Listen); err != nil {
		problems = append(problems, fmt.Errorf("listen is %q; want host:port, such as 0.0.0.0:8080", f.Listen))
	}
	if _, _, err := net.SplitHostPort(f.Admin); err != nil && f.Admin != "" {
		problems = append(problems, fmt.Errorf("admin is %q; want host:port, such as 127.0.0.1:9600, or port 0 for any free one", f.Admin))
	}
	if f.TLS != nil && (f.TLS.Cert == "" || f.TLS.Key == "") {
		problems = append(problems, errors.New("tls needs cert and key, both PEM files"))
	}
	f.door = collect.Config{
		CORS: f.CORS, WriteKeys: f.WriteKeys, Limits: f.Limits, TrustedProxies: f.TrustedProxies, Address: f.Address, Skew: f.Skew, Consent: f.Consent,
	}
	return errors.Join(append(problems, f.door.Validate())...)
}

// collectPlan is a collector's file made into parts that have not touched the outside. It is of use only when the file has
// no problems.
type collectPlan struct {
	collectFile
	file  *pipelinefile.File
	to    logPlan
	check *check
	names collect.Names
}

// logPlan opens the log.
type logPlan struct {
	at   pipelinefile.Value
	kind string
	open func(ctx context.Context, deadline time.Duration, log *slog.Logger) (eventLog, error)
}

// eventLog is what every log of the collector is.
type eventLog interface {
	collect.Log
	Probe(ctx context.Context) error
	Close()
}

// newCollectPlan makes a plan of a collector's file. What is wrong stands in the file's problems.
func newCollectPlan(path string, text []byte) *collectPlan {
	p := &collectPlan{}
	file, top := pipelinefile.ParseOther(path, text, "listen, to and cors", os.LookupEnv)
	p.file = file
	if !top.Present() {
		return p
	}
	top.Into(&p.collectFile)
	format, schema, decoder := wireDecode(top.Child("decode"))
	if format.Format != decode.JSON {
		top.Child("decode").Child("format").Problem("is %q; want json, the only format that the collector takes", format.Format)
	}
	if schema != nil {
		p.check = newCheck(schema, decoder)
		p.names = p.eventNames(top.Child("decode"), format, schema)
	}
	to := top.Child("to")
	if !to.Present() {
		to.Problem("is missing; want the stream: kafka, nats or kinesis")
		return p
	}
	for i, c := range to.Choices() {
		if i > 0 {
			c.Problem("is a second stream; want exactly one")
			continue
		}
		p.to = wireLog(c)
	}
	return p
}

// eventNames are the properties that the collector reads and writes by itself: they have to be at the top of an event. Those
// of the visitor are only taken out, where consent.denied says so.
func (p *collectPlan) eventNames(at pipelinefile.Value, format *decode.Config, schema *stream.Schema) collect.Names {
	var names collect.Names
	fields := map[int]*string{
		stream.ID: &names.ID, stream.Time: &names.Time, stream.User: &names.User, stream.Anonymous: &names.Anonymous,
		stream.Session: &names.Session, stream.IP: &names.IP, stream.UserAgent: &names.UserAgent,
	}
	for name, path := range format.Fields {
		column, _ := schema.Lookup(name)
		field := fields[column]
		if field == nil {
			continue
		}
		visitor := column == stream.User || column == stream.Anonymous || column == stream.Session
		plain := !strings.ContainsAny(path, ".\"\\") && !strings.ContainsFunc(path, func(r rune) bool { return r < ' ' })
		if !plain && (!visitor || p.door.Consent.Anonymises()) {
			at.Child("fields").Child(name).Problem("is %q; the collector needs a property at the top of the event, without dots, quotes and backslashes", path)
		}
		*field = path
	}
	return names
}

// run serves until soft ends; the end of hard ends it at once.
func (p *collectPlan) run(soft, hard context.Context, stdout io.Writer, log *slog.Logger) error {
	limitMemory(p.door.Limits.InFlight)
	encrypted, err := p.TLS.config(log)
	if err != nil {
		return err
	}
	events, err := p.to.open(soft, p.door.Limits.Deadline, log)
	if err != nil {
		return p.to.at.Error(err)
	}
	defer events.Close()
	if err := p.probe(soft, events, log); err != nil {
		return err
	}
	handler, err := collect.New(events, p.door, collect.Options{Check: p.check.event, Names: p.names, Log: log})
	if err != nil {
		return err
	}
	server, err := listenAdmin(soft, p.Admin)
	if err != nil {
		return err
	}
	if server != nil {
		var served sync.WaitGroup
		served.Go(func() { server.Serve(admin.CollectHandler(handler, p.ready(soft, events)), log) })
		defer served.Wait()
		defer server.Close()
		log.Info("admin server listens", "address", server.Addr())
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(soft, "tcp", p.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	scheme := "http"
	if encrypted != nil {
		scheme = "https"
	}
	fmt.Fprintf(stdout, "ready %s://%s\n", scheme, listener.Addr())
	log.Info("collecting", "address", listener.Addr().String(), "to", p.to.kind)
	door := newDoor(listener, doorMux(handler), p.door.Limits, log)
	door.drain, door.server.TLSConfig = p.Drain, encrypted
	err = door.serve(soft, hard)
	s := handler.Stats()
	log.Info("stopped", "accepted", s.Accepted, "refused", s.Refused["invalid"]+s.Refused["size"], "without_consent", s.Refused["consent"])
	return err
}

// probe finds out whether the log will never take an event. One that cannot be reached at present is no reason to give up.
func (p *collectPlan) probe(ctx context.Context, events eventLog, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	err := events.Probe(ctx)
	var fatal *stream.FatalError
	if errors.As(err, &fatal) {
		return p.to.at.Error(err)
	}
	if err != nil {
		log.Warn("the stream does not answer yet; going on", "error", err)
	}
	return nil
}

// probeTo adds to the file's problems what is wrong with the log.
func (p *collectPlan) probeTo(ctx context.Context) {
	events, err := p.to.open(ctx, p.door.Limits.Deadline, slog.New(slog.DiscardHandler))
	if err != nil {
		p.to.at.Problem("cannot be opened: %s", err)
		return
	}
	defer events.Close()
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if err := events.Probe(ctx); err != nil {
		p.to.at.Problem("does not answer: %s", err)
	}
}

// readyTimeout bounds a look at the log by /readyz.
const readyTimeout = 2 * time.Second

// ready says why requests are better sent to another process; nil: they are not.
func (p *collectPlan) ready(soft context.Context, events eventLog) func(context.Context) error {
	return func(ctx context.Context) error {
		if soft.Err() != nil {
			return errors.New("stopping")
		}
		ctx, cancel := context.WithTimeout(ctx, readyTimeout)
		defer cancel()
		return events.Probe(ctx)
	}
}
