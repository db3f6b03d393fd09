package main

import (
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/millrace-io/millrace/cmd/millrace/livepage"
	"github.com/millrace-io/millrace/cmd/millrace/pipelinefile"
	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/sources/collect"
	"github.com/millrace-io/millrace/sources/collect/natslog"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/nats"
	"github.com/millrace-io/millrace/testenv/s3"
)

const devHelp = `the whole loop in one process, with a live page

Usage: millrace dev [--data FILES] [--speed N] [--port N] [--dir D]

HTTP door -> embedded JetStream, every event synced to disk -> engine -> Parquet in an in-process S3 over a folder. No Docker,
no account, no network. Prints "ready http://127.0.0.1:N" when all of it answers. Ctrl-C commits and stops; killed in any
other way it goes on where it was when it is started again on the same folder.

  --data FILES   JSON lines to replay, plain or gzip; commas between names and globs (default: the Online Retail sample that is
                 built in, 7,853 events); none: nothing is replayed
  --speed N      events per second of the replay (default 100; 0: as fast as it goes)
  --port N       of the page, of POST /v1/events and of /tracker.js (default 7070; 0: any free one)
  --dir D        where the log and the lake are (default millrace-data)

Example:
  $ millrace dev
  $ curl -s 127.0.0.1:7070/v1/events -d '{"event_type":"click","event_time":"2026-01-02T03:04:05Z","user_id":"u1"}'

Exit codes: 0 stopped and everything committed, 1 failed or stopped hard, 2 wrong usage.`

// devFiles are the pipeline of dev and the events that it replays.
//
//go:embed dev.yaml sample.jsonl.gz
var devFiles embed.FS

// devFlags are the flags of dev.
type devFlags struct {
	data  string
	speed float64
	port  int
	dir   string
}

func dev(ctx context.Context, c *call) int {
	var f devFlags
	flags := flag.NewFlagSet("dev", flag.ContinueOnError)
	flags.StringVar(&f.data, "data", "", "")
	flags.Float64Var(&f.speed, "speed", 100, "")
	flags.IntVar(&f.port, "port", 7070, "")
	flags.StringVar(&f.dir, "dir", "millrace-data", "")
	rest, err := c.parse(flags)
	switch {
	case err != nil:
		return c.usage("%s", err)
	case len(rest) > 0:
		return c.usage("takes no argument %q", rest[0])
	case f.speed < 0:
		return c.usage("--speed is %g; want 0 or more events per second", f.speed)
	case f.port < 0 || f.port > 65535:
		return c.usage("--port is %d; want 0 to 65535", f.port)
	}
	// The embedded S3 server changes the working directory.
	if f.dir, err = filepath.Abs(f.dir); err != nil {
		return c.fail(err)
	}
	feed, err := openFeed(f.data)
	if err != nil {
		return c.fail(err)
	}
	log := slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	soft, hard, release := stopping(ctx, log)
	defer release()
	d := &devRun{devFlags: f, call: c, log: log, feed: feed}
	if err := d.run(soft, hard); err != nil {
		return c.fail(err)
	}
	return exitOK
}

// devRun is one run of millrace dev.
type devRun struct {
	devFlags
	*call
	log  *slog.Logger
	feed *feed
}

// run starts the servers, the engine and the page, and stops them in the opposite order.
func (d *devRun) run(soft, hard context.Context) error {
	unlock, err := lockFolder(d.dir)
	if err != nil {
		return err
	}
	defer unlock()
	listener, err := listenPort(soft, d.port)
	if err != nil {
		return err
	}
	defer listener.Close()
	bucket, err := s3.Start(soft, filepath.Join(d.dir, "s3"), s3.Options{Log: d.log})
	if err != nil {
		return err
	}
	defer bucket.Close()
	server, err := nats.Start(nats.Options{Dir: filepath.Join(d.dir, "nats"), Log: onlyErrors(d.stderr)})
	if err != nil {
		return err
	}
	defer server.Close()
	clicks, err := natslog.Open(natslog.Config{URL: server.URL(), Stream: "CLICKS"}, 10*time.Second, d.log)
	if err != nil {
		return err
	}
	defer clicks.Close()
	if err := clicks.Create(soft, time.Hour); err != nil {
		return err
	}
	env := bucket.Env(bucket.URL())
	for name, value := range env {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	p, err := d.plan(server.URL())
	if err != nil {
		return err
	}
	return d.serve(soft, hard, p, clicks, listener)
}

// onlyErrors is for a server whose warnings are about a busy machine.
func onlyErrors(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelError}))
}

// plan is that of dev.yaml.
func (d *devRun) plan(natsURL string) (*plan, error) {
	text, err := devFiles.ReadFile("dev.yaml")
	if err != nil {
		return nil, err
	}
	env := func(name string) (string, bool) {
		if name == "MILLRACE_NATS" {
			return natsURL, true
		}
		return os.LookupEnv(name)
	}
	file := pipelinefile.Parse("dev.yaml", text, env)
	p := newPlan(file)
	for _, problem := range file.Problems() {
		return nil, errors.New(problem.String())
	}
	return p, nil
}

// serve runs the engine with the door and the page before it, until soft ends.
func (d *devRun) serve(soft, hard context.Context, p *plan, clicks *natslog.Log, listener net.Listener) error {
	limitMemory(p.memory())
	parts, err := p.open(soft, objects.Options{Log: d.log})
	if err != nil {
		return err
	}
	page := livepage.New(livepage.Options{Name: p.file.Name, Files: parts.published, Log: d.log})
	parts.config.Tap = page.Tap
	engine, err := stream.New(parts.config)
	if err != nil {
		return err
	}
	page.Show(engine.Stats)

	var beside sync.WaitGroup
	defer beside.Wait()
	// The door closes first: what it accepted is in the log, and the engine commits what it has read.
	doors, closeDoors := context.WithCancel(soft)
	defer closeDoors()
	events, err := collect.New(clicks, devDoor(), collect.Options{Check: newCheck(p.schema, p.decoder).event, Log: d.log})
	if err != nil {
		return err
	}
	mux := doorMux(events)
	mux.Handle("/", page)
	web := &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return doors },
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
	beside.Go(func() { _ = web.Serve(listener) })
	beside.Go(func() { page.Run(doors) })
	beside.Go(func() {
		if err := d.feed.run(doors, clicks, d.speed); err != nil && doors.Err() == nil {
			d.log.Error("the replay stopped", "error", err)
		}
	})
	beside.Go(func() {
		<-doors.Done()
		ctx, cancel := context.WithTimeout(hard, 5*time.Second)
		defer cancel()
		_ = web.Shutdown(ctx) // what takes longer is cut off
		_ = web.Close()
	})

	url := "http://" + listener.Addr().String()
	fmt.Fprintln(d.stdout, "ready", url)
	fmt.Fprintf(d.stderr, "page   %s\npost   curl -s %s/v1/events -d '{\"event_type\":\"click\",\"user_id\":\"you\"}'\nlake   %s\nstop   ctrl-C\n",
		url, url, filepath.Join(d.dir, "s3", "objects", "lake", "clicks"))
	return engine.Run(soft, hard, parts.source)
}

// devDoor lets pages that are served on this machine send events, whatever their port.
func devDoor() collect.Config {
	return collect.Config{CORS: collect.CORS{Allow: []string{"http://localhost:*", "http://127.0.0.1:*"}}}
}

// published lists the lake for the page.
func (out *parts) published(ctx context.Context) ([]livepage.File, error) {
	var files []livepage.File
	for _, sink := range out.config.Sinks {
		if sink.Staged == nil {
			continue
		}
		listed := map[string]objects.Info{}
		for info, err := range out.stores[sink.Name].List(ctx, "") {
			if err != nil {
				return nil, err
			}
			listed[info.Key] = info
		}
		err := out.inspectors[sink.Name].Inspect(ctx, out.config.Name, func(f stream.File) error {
			p, info := f.Provenance, listed[f.Key]
			files = append(files, livepage.File{
				Sink: sink.Name, Key: f.Key, Partition: p.Partition, After: p.After.Offset(), To: p.To.Offset(), Rows: p.FileRows,
				Bytes: info.Size, Published: info.Modified,
			})
			return nil
		}, nil)
		if err != nil {
			return nil, err
		}
	}
	livepage.SortFiles(files)
	return files, nil
}

// lockFolder makes dir and keeps other processes out of it.
func lockFolder(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fmt.Errorf("--dir: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return nil, fmt.Errorf("--dir: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("%s is in use by another millrace dev; stop it, or choose another --dir", dir)
	}
	return func() { file.Close() }, nil
}

func listenPort(ctx context.Context, port int) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("port %d is in use; stop what uses it, or choose another one with --port (0 takes any free one)", port)
	}
	return l, err
}
