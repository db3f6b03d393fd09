//go:build real

package crash

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/millrace-io/millrace/testenv/network"
	"github.com/millrace-io/millrace/testenv/opensearch"
	"github.com/millrace-io/millrace/testenv/redis"
)

// Mutations seen red (line broken in the program):
//
//	sinks/spool, Flush: a sink that stalls is waited for a hundred times as long
//	sinks/opensearch, New: no timeout
//	cmd/millrace/admin, sinkLines: Failing is not told

const networkPipeline = `name: network
source:
  files: { paths: ["%[1]s/in"], checkpoints: "%[1]s/checkpoints", follow: true, poll: 20ms }
decode: { format: json }
sinks:
  lake:
    parquet: { url: "%[1]s/lake", partition_by: [date], roll: { age: 200ms, idle: 50ms } }
  search:
    opensearch: { url: "%[2]s", index: "clicks-{date}", alias: clicks, replicas: 0, delay: 20ms, timeout: 1s }
    on_stall: spool
  profiles:
    redis: { addresses: ["%[3]s"], key: user, prefix: "profile:" }
spool: { stall_after: 300ms }
admin: "%[4]s"
`

// TestRealHalfOpenSearchHoldsUpNobody loses all answers of OpenSearch, which goes on to take what it is sent. The lake and Redis
// go on, operators are told which sink fails and why, and when the answers come again nothing is missing and nothing doubled.
func TestRealHalfOpenSearchHoldsUpNobody(t *testing.T) {
	b := newBehindNetwork(t)
	cmd, said := b.command("run", "--setup", b.file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }()
	stop := func() error { return errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()) }

	const each = 400
	b.records("a", each)
	b.until("all three sinks have the first records", func() bool { return b.rows() == each && b.documents() == each && b.profiles() == each })
	b.tells("/readyz", `\Aready: 1 partitions\n\z`)

	b.network.Set(network.HalfOpen)
	for i, name := range []string{"b", "c", "d"} { // each in commits of their own, all while the answers are lost
		before := len(b.files())
		b.records(name, each)
		b.until("the lake and Redis have "+name, func() bool { return b.rows() == (i+2)*each && b.profiles() == (i+2)*each })
		if len(b.files()) == before {
			t.Errorf("%s is committed, and no file is published", name)
		}
		b.tells("/readyz", `(?m)^ready: `, `(?m)^sink search fails since \S+, \d+ writes wait: no answer within 1s: `, `(?m)^sink search is behind: [1-9]\d* files with \d+ bytes are set aside`)
		b.tells("/metrics", `millrace_sink_failing_seconds\{pipeline="network",sink="search"\} [^0]`, `millrace_sink_failing_seconds\{pipeline="network",sink="profiles"\} 0\n`,
			`millrace_sink_spooling\{pipeline="network",sink="search"\} 1\n`, `millrace_healthy\{pipeline="network"\} 1\n`)
	}
	if text := b.ask("/readyz"); strings.Contains(text, "profiles") || strings.Contains(text, "lake") {
		t.Errorf("a sink that is well is accused: %s", text)
	}

	b.network.Set(network.Healthy)
	began := time.Now()
	b.records("e", each)
	b.until("the spool is drained", func() bool { return b.documents() == 5*each && b.rows() == 5*each && b.profiles() == 5*each })
	b.tells("/metrics", `millrace_sink_failing_seconds\{pipeline="network",sink="search"\} 0\n`, `millrace_sink_spool_files\{pipeline="network",sink="search"\} 0\n`,
		`millrace_sink_spooling\{pipeline="network",sink="search"\} 0\n`)
	b.tells("/readyz", `\Aready: \d+ partitions\n\z`)
	t.Logf("all was drained %s after the answers came again", time.Since(began).Round(100*time.Millisecond))
	if err := stop(); err != nil {
		t.Fatalf("run: %v\n%s", err, said)
	}
	verify, report := b.command("verify", "--deep", b.file)
	err := verify.Run()
	for _, want := range []string{"2000 records read = 2000 kept", "search: 2000 of 2000 are there, by every id", "profiles: 2000 of 2000 are there, by every row"} {
		if err != nil || !strings.Contains(report.String(), want) {
			t.Errorf("verify: %v\n%s; want %q", err, report, want)
		}
	}
}

// behindNetwork is a pipeline whose OpenSearch is behind a network of the test's.
type behindNetwork struct {
	*millrace
	dir, admin string
	network    *network.Proxy
	node       *opensearch.Node
	redis      rueidis.Client
}

func newBehindNetwork(t *testing.T) *behindNetwork {
	t.Helper()
	dir := t.TempDir()
	b := &behindNetwork{
		dir: dir, admin: freeAddress(t), millrace: &millrace{t: t, bin: program(t, "cmd/millrace"), file: filepath.Join(dir, "pipeline.yaml")},
	}
	for _, name := range []string{"in", "node", "redis"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if b.node, err = opensearch.Start(t.Context(), opensearch.NodeOptions{Dir: filepath.Join(dir, "node")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.node.Stop)
	profiles, err := redis.Start(t.Context(), redis.Options{Dir: filepath.Join(dir, "redis"), Settings: []string{"appendfsync everysec"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(profiles.Stop)
	if b.redis, err = rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{profiles.Addr}, DisableCache: true, ForceSingleClient: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.redis.Close)
	b.network = network.New(t, strings.TrimPrefix(b.node.URL, "http://"))
	if err := os.WriteFile(b.file, fmt.Appendf(nil, networkPipeline, dir, "http://"+b.network.Addr, profiles.Addr, b.admin), 0o666); err != nil {
		t.Fatal(err)
	}
	return b
}

// records adds a file of n clicks of as many users.
func (b *behindNetwork) records(name string, n int) {
	b.t.Helper()
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, `{"event_id":"%s-%d","event_type":"click","event_time":"2026-01-0%dT03:04:05Z","user_id":"%[1]s%[2]d"}`+"\n", name, i, 1+i%3)
	}
	// In one go: a file is read from when it has its name.
	path := filepath.Join(b.dir, name)
	if err := errors.Join(os.WriteFile(path, []byte(text.String()), 0o666), os.Rename(path, filepath.Join(b.dir, "in", name+".jsonl"))); err != nil {
		b.t.Fatal(err)
	}
}

// rows are the lake's, once all of them are committed; before it is 0.
func (b *behindNetwork) rows() int {
	text, n := b.ask("/metrics"), 0
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		switch {
		case strings.HasPrefix(name, "millrace_partition_oldest_uncommitted_age_seconds{") && value != "0":
			return 0
		case name == `millrace_sink_rows_total{pipeline="network",sink="lake"`:
			_, _ = fmt.Sscan(value, &n)
		}
	}
	return n
}

// files are those of the lake that its readers see.
func (b *behindNetwork) files() []string {
	b.t.Helper()
	files, err := filepath.Glob(filepath.Join(b.dir, "lake", "date=*", "*.parquet"))
	if err != nil {
		b.t.Fatal(err)
	}
	return files
}

// documents are those of OpenSearch, asked past the network.
func (b *behindNetwork) documents() int {
	response, err := http.Post(b.node.URL+"/clicks/_refresh", "", nil)
	if err != nil {
		b.t.Fatal(err)
	}
	response.Body.Close()
	var answer struct{ Count int }
	text := get(b.node.URL + "/clicks/_count")
	_ = json.Unmarshal([]byte(text), &answer) // the alias is there with the first document
	return answer.Count
}

func (b *behindNetwork) profiles() int {
	n, err := b.redis.Do(b.t.Context(), b.redis.B().Dbsize().Build()).AsInt64()
	if err != nil {
		b.t.Fatal(err)
	}
	return int(n)
}

// ask is a page of the program's admin server; empty where there is none.
func (b *behindNetwork) ask(path string) string { return get("http://" + b.admin + path) }

func get(url string) string {
	response, err := http.Get(url)
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return string(text)
}

// until waits for what the servers are to have.
func (b *behindNetwork) until(what string, there func() bool) {
	b.t.Helper()
	for end := time.Now().Add(20 * time.Second); !there(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("never: %s; there are %d rows, %d documents and %d profiles\n%s", what, b.rows(), b.documents(), b.profiles(), b.ask("/readyz"))
		}
	}
}

// tells waits until a page of the admin server says all of it.
func (b *behindNetwork) tells(path string, patterns ...string) {
	b.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; <-time.After(20 * time.Millisecond) {
		text, missing := b.ask(path), ""
		for _, p := range patterns {
			if !regexp.MustCompile(p).MatchString(text) {
				missing = p
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("%s never says %s, but\n%s", path, missing, text)
		}
	}
}
