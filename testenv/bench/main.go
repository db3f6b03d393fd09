// Command bench measures the job that docs/performance.md describes: JSON events of about 500 bytes from a Kafka broker in
// another process, 4 partitions, through parse, bot filter, map and hash to zstd-3 Parquet on an S3 server in another
// process, exactly once; and in the same run a bare loop without any guarantee, as the reference.
//
//	go run ./testenv/bench                     both corpora: 14 and 20,000 user agents
//	go run ./testenv/bench -corpora 14 -events 500000
//	go run ./testenv/bench -collect -events 400000
//	go run ./testenv/bench -sinks -events 1000000
//	go run ./testenv/bench -fresh              against a real OpenSearch; writes docs/performance-fresh.svg
//	go run ./testenv/bench -dead -seconds 600
//
// It prints, for each: CPU seconds (user + system) per million events, events per second and peak resident memory of the
// measured process alone, and the ratios. Machines differ: quote the ratio.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/testenv/clicks"
)

// options of one benchmark.
type options struct {
	events   int
	corpora  string
	millrace string
	profile  string
	bare     string // brokers: run as the bare loop
	out      string
	collects bool
	clients  int
	stub     string // be a server that answers at once
	sinking  bool
	only     string
	freshly  bool
	dying    bool
	seconds  int
	how      string
	plot     string
	level    string
}

func main() {
	var o options
	flag.IntVar(&o.events, "events", 2_000_000, "events of a corpus")
	flag.StringVar(&o.corpora, "corpora", "14,20000", "numbers of user agents")
	flag.StringVar(&o.millrace, "millrace", "bin/millrace", "the program")
	flag.StringVar(&o.profile, "profile", "", "file for a CPU profile of millrace, taken while it works")
	flag.StringVar(&o.bare, "bare", "", "internal: be the bare loop on this broker")
	flag.StringVar(&o.out, "out", "", "internal: the bare loop's file")
	flag.BoolVar(&o.collects, "collect", false, "measure millrace collect instead: events over HTTP in batches of 20")
	flag.IntVar(&o.clients, "clients", 16, "connections of -collect")
	flag.BoolVar(&o.sinking, "sinks", false, "measure millrace with each upsert sink instead, and with three sinks together")
	flag.StringVar(&o.only, "only", "", "of -sinks: the cases whose name has this in it, beside parquet; -profile is of them")
	flag.BoolVar(&o.freshly, "fresh", false, "measure instead how soon events are in a real OpenSearch")
	flag.StringVar(&o.plot, "plot", "docs/performance-fresh.svg", "file for -fresh's plot")
	flag.BoolVar(&o.dying, "dead", false, "measure instead what a dead OpenSearch does to the lake, and how fast it catches up")
	flag.IntVar(&o.seconds, "seconds", 600, "of -dead: how long it is dead")
	flag.StringVar(&o.how, "how", "hang", "of -dead: hang (takes connections and answers nothing) or refuse (takes none)")
	flag.StringVar(&o.level, "log-level", "warn", "of millrace, in -fresh and -dead")
	flag.StringVar(&o.stub, "stub", "", "internal: be a server that answers at once: opensearch or dynamodb")
	flag.Parse()
	err := error(nil)
	switch {
	case o.bare != "":
		err = bareLoop(o)
	case o.stub != "":
		err = beStub(context.Background(), o.stub)
	case o.dying:
		err = o.dead(context.Background())
	case o.freshly:
		err = o.fresh(context.Background())
	case o.sinking:
		err = o.sinks(context.Background())
	case o.collects:
		err = o.collect(context.Background())
	default:
		err = o.run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (o options) run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"broker", "s3"} {
		if err := build(ctx, dir, name); err != nil {
			return err
		}
	}
	fmt.Printf("%-16s %-9s %14s %12s %12s %10s\n", "corpus", "process", "CPU-s/million", "events/s", "peak RSS", "wall")
	for corpus := range strings.SplitSeq(o.corpora, ",") {
		agents, err := strconv.Atoi(corpus)
		if err != nil {
			return fmt.Errorf("-corpora: %w", err)
		}
		if err := o.corpus(ctx, filepath.Join(dir, corpus), dir, agents); err != nil {
			return err
		}
	}
	return nil
}

// corpus measures both programs on one corpus.
func (o options) corpus(ctx context.Context, dir, bin string, agents int) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	broker, brokerAddr, err := start(ctx, filepath.Join(bin, "broker"), "-topic", "clicks", "-partitions", "4")
	if err != nil {
		return err
	}
	defer stop(broker)
	store, storeURL, err := start(ctx, filepath.Join(bin, "s3"), "-dir", filepath.Join(dir, "s3"))
	if err != nil {
		return err
	}
	defer stop(store)
	bytes, err := o.load(ctx, brokerAddr, clicks.Config{Seed: 1, Agents: agents})
	if err != nil {
		return fmt.Errorf("load the broker: %w", err)
	}
	name := fmt.Sprintf("%d agents", agents)
	fmt.Printf("%-16s %d events of %d bytes on average\n", name, o.events, bytes/o.events)
	bare, err := o.measureBare(ctx, brokerAddr, filepath.Join(dir, "bare.parquet"))
	if err != nil {
		return fmt.Errorf("bare loop: %w", err)
	}
	bare.print(name, "bare loop", o.events)
	ours, err := o.measureMillrace(ctx, dir, brokerAddr, storeURL, agents)
	if err != nil {
		return fmt.Errorf("millrace: %w", err)
	}
	ours.print(name, "millrace", o.events)
	fmt.Printf("%-16s %-9s %14.2f %12.2f %12.2f\n", name, "ratio", ours.cpu.Seconds()/bare.cpu.Seconds(), bare.wall.Seconds()/ours.wall.Seconds(), float64(ours.rss)/float64(bare.rss))
	return nil
}

// load fills the topic, an event's user choosing its partition.
func (o options) load(ctx context.Context, addr string, cfg clicks.Config) (bytes int, err error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic("clicks"), kgo.MaxBufferedRecords(50_000),
		kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)))
	if err != nil {
		return 0, err
	}
	defer client.Close()
	g := clicks.New(cfg)
	failed := make(chan error, 1)
	for n := range uint64(o.events) {
		value := g.Append(make([]byte, 0, 640), n)
		bytes += len(value)
		client.Produce(ctx, &kgo.Record{Key: g.Key(nil, n), Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
	}
	if err := client.Flush(ctx); err != nil {
		return 0, err
	}
	select {
	case err := <-failed:
		return 0, err
	default:
		return bytes, nil
	}
}

// figures of one finished process.
type figures struct {
	cpu, wall time.Duration
	rss       int64 // bytes
}

func (f figures) print(corpus, process string, events int) {
	millions := float64(events) / 1e6
	fmt.Printf("%-16s %-9s %14.2f %12.0f %9d MB %9.1fs\n", corpus, process, f.cpu.Seconds()/millions, float64(events)/f.wall.Seconds(), f.rss>>20, f.wall.Seconds())
}

func figuresOf(cmd *exec.Cmd, wall time.Duration) figures {
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return figures{cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), wall: wall, rss: usage.Maxrss << 10}
}

func (o options) measureBare(ctx context.Context, broker, out string) (figures, error) {
	self, err := os.Executable()
	if err != nil {
		return figures{}, err
	}
	cmd := exec.CommandContext(ctx, self, "-bare", broker, "-out", out, "-events", strconv.Itoa(o.events))
	cmd.Stderr = os.Stderr
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return figures{}, err
	}
	return figuresOf(cmd, time.Since(began)), nil
}

const pipeline = `name: bench
source:
  kafka: { brokers: ["%s"], topics: [clicks], start: earliest }
decode: { format: json }
process:
  - filter: '!bot'
  - map: { user: 'sha256(user, "salt")', country: upper(country) }
sinks:
  lake:
    parquet: { url: "s3://lake/clicks", partition_by: [date], compression: zstd, compression_level: 3, roll: { size: 128MiB, age: 60s, idle: 20s } }
dead_letters: { url: "s3://lake/dead" }
memory: 256MiB
admin: %s
`

// measureMillrace runs the job to the end: every event processed, then SIGTERM, which commits and publishes all. verify
// then reads every row.
func (o options) measureMillrace(ctx context.Context, dir, broker, store string, agents int) (figures, error) {
	admin, err := freeAddress(ctx)
	if err != nil {
		return figures{}, err
	}
	file := filepath.Join(dir, "bench.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, pipeline, broker, admin), 0o666); err != nil {
		return figures{}, err
	}
	env := append(os.Environ(), storeEnv(store)...)
	f, err := o.runToEnd(ctx, file, admin, env, agents == 14)
	if err != nil {
		return figures{}, err
	}
	verify := exec.CommandContext(ctx, o.millrace, "verify", "--deep", file)
	verify.Env, verify.Stderr = env, os.Stderr
	text, err := verify.Output()
	if err != nil {
		return figures{}, fmt.Errorf("verify: %w\n%s", err, text)
	}
	return f, nil
}

// await polls the metrics until every event is processed.
func (o options) await(ctx context.Context, admin string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("not all of %d events were processed: %w", o.events, ctx.Err())
		}
		if n, err := processed(ctx, admin); err == nil && n >= o.events {
			return nil
		}
	}
}

// processed adds up millrace_records_processed_total.
func processed(ctx context.Context, admin string) (int, error) {
	body, err := get(ctx, "http://"+admin+"/metrics")
	if err != nil {
		return 0, err
	}
	total := 0.0
	for line := range strings.SplitSeq(body, "\n") {
		if strings.HasPrefix(line, "millrace_records_processed_total{") {
			n, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			if err != nil {
				return 0, err
			}
			total += n
		}
	}
	return int(total), nil
}

func get(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	var text strings.Builder
	_, err = bufio.NewReader(response.Body).WriteTo(&text)
	return text.String(), err
}

// saveProfile asks the running millrace for a CPU profile of 5 seconds, once it answers.
func saveProfile(ctx context.Context, admin, file string) {
	for range 100 {
		if n, err := processed(ctx, admin); err == nil && n > 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	body, err := get(ctx, "http://"+admin+"/debug/pprof/profile?seconds=5")
	if err == nil {
		err = os.WriteFile(file, []byte(body), 0o666)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: profile:", err)
	}
}

// start starts a server and returns what it says it is ready at.
func start(ctx context.Context, name string, args ...string) (*exec.Cmd, string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := cmd.Start(); err != nil {
		return nil, "", err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	where, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if err != nil || !ok {
		stop(cmd)
		return nil, "", fmt.Errorf("%s said %q: %v", name, line, err)
	}
	return cmd, where, nil
}

func stop(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

func freeAddress(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
