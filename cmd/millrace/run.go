package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/millrace-io/millrace/cmd/millrace/admin"
	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
)

const runHelp = `run a pipeline file as a daemon

Usage: millrace run [--setup] [--until-end] [--log-format text|json] [--log-level debug|info|warn|error] FILE

Runs until SIGTERM or SIGINT: then it reads no more, commits what it has read, and exits 0. Another signal, a second or more
later, stops at once with exit 1; what was not committed is read again by the next run.

  --setup        first install what the sinks write to, where it is not there: index templates, tables
  --until-end    end when everything that the source has now is read and committed; only for a source that ends (files)
  --log-format   text (default) or json, on standard error
  --log-level    debug, info (default), warn or error

The memory key of the file bounds the buffers. Unless GOMEMLIMIT is set, the Go heap is held to 1.25 times that plus 128 MiB.

Example:
  $ millrace run clicks.yaml
  $ millrace run --until-end backfill.yaml && millrace verify backfill.yaml

Exit codes: 0 stopped and everything committed, 1 failed or stopped hard, 2 wrong usage.`

// runFlags are the flags of run.
type runFlags struct {
	untilEnd bool
	setup    bool
	format   string
	level    slog.Level
}

func runPipeline(ctx context.Context, c *call) int {
	var f runFlags
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	flags.BoolVar(&f.untilEnd, "until-end", false, "")
	flags.BoolVar(&f.setup, "setup", false, "")
	flags.StringVar(&f.format, "log-format", "text", "")
	flags.TextVar(&f.level, "log-level", slog.LevelInfo, "")
	path, err := c.oneFile(flags)
	switch {
	case err != nil:
		return c.usage("%s", err)
	case f.format != "text" && f.format != "json":
		return c.usage("--log-format is %q; want text or json", f.format)
	}
	p := c.load(path)
	if p == nil {
		return exitFail
	}
	if f.untilEnd && !p.endSource() {
		return c.usage("--until-end needs a source that ends (files); %s never does", p.file.Sources[0].Kind)
	}
	log := c.logger(f)
	soft, hard, release := stopping(ctx, log)
	defer release()
	if err := p.run(soft, hard, log, f.setup); err != nil {
		c.tell(f, log, err)
		return exitFail
	}
	return exitOK
}

func (c *call) logger(f runFlags) *slog.Logger {
	options := &slog.HandlerOptions{Level: f.level}
	if f.format == "json" {
		return slog.New(slog.NewJSONHandler(c.stderr, options))
	}
	return slog.New(slog.NewTextHandler(c.stderr, options))
}

// tell says why the run failed: as a line for people, or as a line of the log where machines read it.
func (c *call) tell(f runFlags, log *slog.Logger, err error) {
	if f.format == "json" {
		log.Error("the run failed", "error", oneLine(err))
		return
	}
	c.fail(err)
}

// run carries records until the source ends or soft does; the end of hard ends it at once. With setup, what the sinks write
// to is installed first.
func (p *plan) run(soft, hard context.Context, log *slog.Logger, setup bool) error {
	limitMemory(p.memory())
	server, err := listenAdmin(soft, p.file.Admin)
	if err != nil {
		return err
	}
	if server != nil {
		defer server.Close()
	}
	parts, err := p.open(soft, objects.Options{Log: log})
	if err == nil && setup {
		err = parts.setup(soft)
	}
	if err == nil {
		err = parts.check(soft)
	}
	if soft.Err() != nil { // nothing was read yet
		return context.Cause(hard)
	}
	if err != nil {
		return err
	}
	engine, err := stream.New(parts.config)
	if err != nil {
		return err
	}
	if server != nil {
		var served sync.WaitGroup
		served.Go(func() { server.Serve(admin.Handler(p.file.Name, engine), log) })
		defer served.Wait()
		defer server.Close()
		log.Info("admin server listens", "address", server.Addr())
	}
	log.Info("running", "pipeline", p.file.Name, "source", p.source.kind)
	err = parts.carry(soft, hard, engine)
	s := engine.Stats()
	log.Info("stopped", "records", s.Records, "kept", s.Kept, "dropped", s.Dropped, "dead", s.Dead, "commits", s.Commits)
	return err
}

// carry runs the engine, and beside it what drains the spools of partitions that nobody owns. A source that ends leaves such
// partitions behind: what is set aside of them goes at the end, as far as the sinks take it.
func (out *parts) carry(soft, hard context.Context, engine *stream.Engine) error {
	ctx, stop := context.WithCancel(soft)
	var tending sync.WaitGroup
	for _, s := range out.spools {
		tending.Go(func() { s.Tend(ctx) })
	}
	err := engine.Run(soft, hard, out.source)
	stop()
	tending.Wait()
	if err != nil || soft.Err() != nil {
		return err
	}
	for _, s := range out.spools {
		limited, cancel := context.WithTimeout(soft, lastDrain)
		if _, err := s.Orphans(limited, 0); err != nil {
			out.config.Log.Warn("writes are still set aside; the next run goes on", "error", err)
		}
		cancel()
	}
	return nil
}

// lastDrain bounds the drain after a source has ended, for each sink.
const lastDrain = time.Minute

// limitMemory makes the collector work harder before the process outgrows what the pipeline file allows. Beside the
// buffers there are the batches under way, the clients' own buffers and the collector's slack: a quarter of the buffers and
// 128 MiB. GOMEMLIMIT, where set, has the last word.
func limitMemory(buffers int64) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(buffers + buffers/4 + 128<<20)
	}
}

// listenAdmin takes the admin address; nil when the file has none.
func listenAdmin(ctx context.Context, address string) (*admin.Server, error) {
	if address == "" {
		return nil, nil
	}
	s, err := admin.Listen(ctx, address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("admin: %w: another process has the port, perhaps this pipeline's; stop it, or set admin to another port (0 takes any free one)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	return s, nil
}

// signalGrace is how long after the first signal another one counts as the same: supervisors, timeout(1) among them, tell a
// process and then its group.
const signalGrace = time.Second

var errSecondSignal = errors.New("stopped at once by a second signal; what was not committed is read again by the next run")

// stopping turns signals into the end of contexts: the first one ends soft, the second one hard, and a third one has the
// system's meaning. release gives the signals back.
func stopping(ctx context.Context, log *slog.Logger) (soft, hard context.Context, release func()) {
	soft, stopSoft := context.WithCancel(ctx)
	hard, stopHard := context.WithCancelCause(context.WithoutCancel(ctx))
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	finished := make(chan struct{})
	var first time.Time // when the first signal came
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case s := <-signals:
				if soft.Err() != nil && time.Since(first) < signalGrace {
					continue
				}
				if soft.Err() != nil {
					signal.Stop(signals)
					stopHard(errSecondSignal)
					return
				}
				first = time.Now() // before anybody who reads the log can send another one
				log.Info("stopping: what was read is committed; a second signal stops at once", "signal", s.String())
				stopSoft()
			case <-finished:
				return
			}
		}
	})
	return soft, hard, func() {
		signal.Stop(signals)
		close(finished)
		watch.Wait()
		stopSoft()
		stopHard(nil)
	}
}
