package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/millrace-io/millrace/testenv/clicks"
)

// sinksFile is a pipeline that drops nothing, so that every event reaches every sink; or all, to see what reading and parsing
// take alone.
const sinksFile = `name: %s
source:
  kafka: { brokers: ["%s"], topics: [clicks], start: earliest }
decode: { format: json }
process:
  - filter: 'type %s "none"'
sinks:
%sdead_letters: { url: "s3://lake/dead" }
memory: 256MiB
admin: %s
`

// entries of sinks.
const (
	lakeEntry   = `  lake: { parquet: { url: "s3://lake/clicks", partition_by: [date], compression: zstd, compression_level: 3, roll: { size: 128MiB, age: 60s, idle: 20s } } }` + "\n"
	searchEntry = `  search: { opensearch: { url: "%s", index: "clicks-{date}", alias: clicks, replicas: 0 } }` + "\n"
	tableEntry  = `  table: { dynamodb: { table: clicks, key: { pk: %s } } }` + "\n"
	topicEntry  = `  topic: { kafka: { brokers: ["%s"], topic: out, value: %s, transactions: %v } }` + "\n"
)

// sinkCase is one row of the table.
type sinkCase struct {
	name    string
	users   int    // of the events
	key     string // of the table; empty: there is none
	none    bool   // of the events reaches a sink
	lake    bool
	search  bool
	topic   string  // what its messages hold; empty: there is none
	joined  bool    // they are in the transactions of the commits, on the source's broker; markers count as writes there
	cpu     float64 // bar, CPU seconds per million events; of a sink alone, above those of the first row
	rss     int64   // bar, MB; 0: none
	exactly bool    // each event is one write
}

func sinkCases() []sinkCase {
	return []sinkCase{
		{name: "none", users: 1_000_000, lake: true, none: true},
		{name: "parquet", users: 1_000_000, lake: true},
		{name: "opensearch", users: 1_000_000, search: true, cpu: 12, exactly: true},
		{name: "dynamodb, a key each", users: 1_000_000, key: "event_id", cpu: 12, exactly: true},
		{name: "dynamodb, 2,000 users", users: 2000, key: "user", cpu: 12},
		{name: "kafka, json", users: 1_000_000, topic: "json", cpu: 4, exactly: true},
		{name: "kafka, records", users: 1_000_000, topic: "record", cpu: 4, exactly: true},
		{name: "kafka, transactions", users: 1_000_000, topic: "record", joined: true, cpu: 4},
		{name: "three, a key each", users: 1_000_000, lake: true, search: true, key: "event_id", cpu: 25, rss: 600, exactly: true},
		{name: "three, 2,000 users", users: 2000, lake: true, search: true, key: "user", cpu: 25, rss: 600},
	}
}

// sinks measures millrace with each upsert sink, and with three sinks together.
func (o options) sinks(ctx context.Context) error {
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
	fmt.Printf("%-22s %14s %8s %12s %8s %13s %10s %12s %8s\n", "sinks", "CPU-s/million", "of it", "bar", "parquet", "writes/event", "events/s", "peak RSS", "wall")
	base, parquet := 0.0, 0.0
	for _, users := range []int{1_000_000, 2000} {
		broker, addr, err := start(ctx, filepath.Join(dir, "broker"), "-topic", "clicks,out", "-partitions", "4")
		if err != nil {
			return err
		}
		_, err = o.load(ctx, addr, clicks.Config{Seed: 1, Users: users})
		for i, c := range sinkCases() {
			if err != nil || c.users != users || o.only != "" && c.cpu > 0 && !strings.Contains(c.name, o.only) {
				continue
			}
			var f figures
			var writes int64
			if f, writes, err = o.sink(ctx, filepath.Join(dir, fmt.Sprint("bench-", i)), dir, addr, c); err == nil {
				cpu := f.cpu.Seconds() / (float64(o.events) / 1e6)
				if c.none {
					base = cpu
				}
				if c.name == "parquet" {
					parquet = cpu
				}
				c.print(f, cpu, base, parquet, float64(writes)/float64(o.events), o.events)
			}
		}
		stop(broker)
		if err != nil {
			return err
		}
	}
	fmt.Println("load average:", loadAverage())
	return nil
}

// print prints a row. "of it" is what the sinks take: what is above reading and parsing alone.
func (c sinkCase) print(f figures, cpu, base, parquet, writes float64, events int) {
	bar, rss, ratio := "", fmt.Sprintf("%d MB", f.rss>>20), ""
	switch {
	case c.rss > 0:
		bar, rss = fmt.Sprintf("%v in all", c.cpu), fmt.Sprintf("%d/%d MB", f.rss>>20, c.rss)
	case c.cpu > 0:
		bar = fmt.Sprintf("%v of it", c.cpu)
	}
	if parquet > 0 {
		ratio = fmt.Sprintf("x %.2f", cpu/parquet)
	}
	fmt.Printf("%-22s %14.2f %8.2f %12s %8s %13.3f %10.0f %12s %7.1fs\n", c.name, cpu, cpu-base, bar, ratio, writes, float64(events)/f.wall.Seconds(), rss, f.wall.Seconds())
}

// sink runs one pipeline over the whole topic, with servers of its own, and returns how many writes they took.
func (o options) sink(ctx context.Context, dir, bin, broker string, c sinkCase) (figures, int64, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return figures{}, 0, err
	}
	self, err := os.Executable()
	if err != nil {
		return figures{}, 0, err
	}
	var servers []*exec.Cmd
	defer func() {
		for _, s := range servers {
			stop(s)
		}
	}()
	launch := func(name string, args ...string) (at string) {
		if err == nil {
			var cmd *exec.Cmd
			if cmd, at, err = start(ctx, name, args...); err == nil {
				servers = append(servers, cmd)
			}
		}
		return at
	}
	kept, entries, env := "!=", "", os.Environ()
	if c.none {
		kept = "=="
	}
	var counted []string // stubs whose writes count
	env = append(env, storeEnv(launch(filepath.Join(bin, "s3"), "-dir", filepath.Join(dir, "s3")))...)
	if c.lake {
		entries += lakeEntry
	}
	if c.search {
		at := launch(self, "-stub", "opensearch")
		entries, counted = entries+fmt.Sprintf(searchEntry, at), append(counted, at)
	}
	if c.key != "" {
		at := launch(self, "-stub", "dynamodb")
		entries, counted = entries+fmt.Sprintf(tableEntry, c.key), append(counted, at)
		env = append(env, "AWS_ENDPOINT_URL_DYNAMODB="+at)
	}
	out := ""
	if c.topic != "" {
		if out = broker; !c.joined {
			out = launch(filepath.Join(bin, "broker"), "-topic", "out", "-partitions", "4")
		}
		entries += fmt.Sprintf(topicEntry, out, c.topic, c.joined)
	}
	admin, addressErr := freeAddress(ctx)
	if err != nil || addressErr != nil {
		return figures{}, 0, fmt.Errorf("start the servers: %w", errors.Join(err, addressErr))
	}
	file := filepath.Join(dir, "bench.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, sinksFile, filepath.Base(dir), broker, kept, entries, admin), 0o666); err != nil {
		return figures{}, 0, err
	}
	f, err := o.runToEnd(ctx, file, admin, env, o.only != "" && strings.Contains(c.name, o.only))
	if err != nil {
		return figures{}, 0, fmt.Errorf("%s: %w", c.name, err)
	}
	var writes int64
	for _, at := range counted {
		n, err := taken(ctx, at)
		if err != nil {
			return figures{}, 0, err
		}
		writes += n
	}
	if out != "" {
		if writes, err = offsets(ctx, out, "out"); err != nil {
			return figures{}, 0, err
		}
	}
	if want := int64(o.events * max(1, len(counted))); c.exactly && writes != want {
		return figures{}, 0, fmt.Errorf("%s: %d writes; want %d", c.name, writes, want)
	}
	return f, writes, nil
}

func storeEnv(url string) []string {
	return []string{"AWS_ENDPOINT_URL_S3=" + url, "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=local", "AWS_SECRET_ACCESS_KEY=localsecret", "AWS_CA_BUNDLE="}
}

// taken is how many writes a stub took.
func taken(ctx context.Context, at string) (int64, error) {
	text, err := get(ctx, at+"/taken")
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

// runToEnd runs millrace until every event is processed, then ends it with SIGTERM, which commits and publishes all.
func (o options) runToEnd(ctx context.Context, file, admin string, env []string, profiled bool) (figures, error) {
	cmd := exec.CommandContext(ctx, o.millrace, "run", "--setup", "--log-level", "warn", file)
	cmd.Stderr, cmd.Env = os.Stderr, env
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return figures{}, err
	}
	if o.profile != "" && profiled {
		go saveProfile(ctx, admin, o.profile)
	}
	waiting, end := context.WithCancel(ctx)
	defer end()
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Wait()
		end()
	}()
	waited := o.await(waiting, admin)
	_ = cmd.Process.Signal(syscall.SIGTERM) // to one that may have ended
	if err := <-ended; err != nil {
		return figures{}, err
	}
	return figuresOf(cmd, time.Since(began)), waited
}
