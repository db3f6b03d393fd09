//go:build real

package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/testenv/clicks"
	"github.com/millrace-io/millrace/testenv/dynamodb"
	"github.com/millrace-io/millrace/testenv/opensearch"
)

// Mutations seen red, by verify and by sinks.py (line broken in the program):
//
//	sinks/dynamodb, byTime: the times of two partitions are not compared
//	sinks/spool, Flush: what is withdrawn is not kept

// sinkKills of the process of TestRealCrashThreeSinks.
const sinkKills = 30

// The event times of the generator are not those of the log, so any skew is right.
const sinksPipeline = `name: crash
source:
  kafka: { brokers: ["%[1]s"], topics: [clicks], instance: "${INSTANCE}", session_timeout: 3s, rebalance_timeout: 2s }
decode: { format: json }
sinks:
  lake:
    parquet: { url: "%[2]s/lake", partition_by: [date], roll: { size: 256KiB, age: 200ms, idle: 50ms } }
  search:
    opensearch: { url: "%[3]s", index: "clicks-{date}", alias: clicks, action: create, replicas: 0, max_skew: 87600h, delay: 20ms }
    on_stall: spool
  profiles:
    dynamodb: { table: profiles, key: { pk: user }, delay: 20ms }
    delete: type == "purchase"
    on_stall: spool
spool: { stall_after: 200ms }
dead_letters: { url: "%[2]s/dead" }
admin: "${ADMIN}"
`

// TestRealCrashThreeSinks kills the program that fills a lake, OpenSearch and DynamoDB at once; beside it runs a second process, which is
// paused for longer than its session lives, with what it is about to write. OpenSearch is killed twice, and DynamoDB throttles in
// episodes. Afterwards one hand harms the sinks, and verify says what it did.
func TestRealCrashThreeSinks(t *testing.T) {
	random := seed(t)
	s := newSinks(t, random)
	s.install()
	began := time.Now()
	producing, done := context.WithCancel(t.Context())
	outages := make(chan time.Duration, 2)
	var around sync.WaitGroup
	calm := sync.OnceFunc(func() {
		close(outages)
		done()
		around.Wait()
	})
	defer calm()
	forEvents, forFaults, forPauses := fork(random), fork(random), fork(random)
	around.Go(func() { s.produce(producing, forEvents) })
	around.Go(func() { s.throttle(producing, forFaults) })
	around.Go(func() { s.watchSpool(producing) })
	around.Go(func() { s.outages(outages) })
	first, second := 3+random.IntN(5), 14+random.IntN(5)
	around.Go(func() {
		m := *s.millrace
		m.env = append(slices.Clone(m.env), "INSTANCE=paused")
		m.pauses(producing, forPauses)
	})
	for n := range sinkKills {
		if n == first || n == second {
			outages <- time.Duration(random.IntN(1000)) * time.Millisecond
		}
		if !s.killAfter(200*time.Millisecond + time.Duration(random.IntN(2000))*time.Millisecond) {
			t.Fatal("run ended by itself")
		}
	}
	calm()
	t.Logf("in %v killed the program %d times and OpenSearch before kills %d and %d; DynamoDB refused %d calls and cut %d; at most %d files of search and %d of profiles were set aside",
		time.Since(began).Round(time.Second), sinkKills, first, second, s.refused.Load(), s.cut.Load(), s.aside["search"], s.aside["profiles"])
	if s.refused.Load() == 0 || s.cut.Load() == 0 || s.aside["search"] == 0 || s.aside["profiles"] == 0 {
		t.Error("not all of this was seen; the test is about it")
	}

	s.env = append(s.env[:len(s.env)-1], "ADMIN="+freeAddress(t))
	began = time.Now()
	s.finishWhen(func(admin string) bool { return settled(admin) && drained(admin) })
	t.Logf("all is committed and drained %v later", time.Since(began).Round(100*time.Millisecond))
	if files := s.spooled("*"); len(files) > 0 {
		t.Errorf("these files are set aside at the end: %s", files)
	}
	for _, args := range [][]string{{"verify"}, {"verify", "--deep"}} {
		if text, err := s.say(args...); err != nil || strings.Contains(text, "set aside") {
			t.Errorf("%s: %v\n%s", args, err, text)
		} else {
			t.Logf("%s: %s", args, text)
		}
	}
	compare(t, "json", filepath.Join(s.dir, "lake"), filepath.Join(s.dir, "dead"), []string{s.values})
	text, err := s.compare()
	if t.Logf("%s", text); err != nil {
		t.Fatalf("sinks.py: %v", err)
	}
	s.harm()
}

// sinks is a pipeline of three sinks, and everything around it.
type sinks struct {
	*millrace
	dir            string
	broker         string
	search         *opensearch.Node
	tables         *dynamodb.Server
	values, places string // what went in

	throttled            atomic.Bool
	refused, cut         atomic.Int64
	aside                map[string]int // most files that were seen, by sink
	clickSeed, faultSeed uint64
	step                 time.Duration // between two events
}

func newSinks(t *testing.T, random *rand.Rand) *sinks {
	t.Helper()
	dir := t.TempDir()
	s := &sinks{
		dir: dir, values: filepath.Join(dir, "values.jsonl"), places: filepath.Join(dir, "places.jsonl"), aside: map[string]int{},
		clickSeed: random.Uint64(), faultSeed: random.Uint64(), step: 12 * time.Second,
		millrace: &millrace{t: t, bin: program(t, "cmd/millrace"), file: filepath.Join(dir, "pipeline.yaml")},
	}
	s.broker = server(t, program(t, "testenv/cmd/broker"), "-topic", "clicks", "-partitions", "4")
	node := filepath.Join(dir, "node")
	if err := os.Mkdir(node, 0o777); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.search, err = opensearch.Start(t.Context(), opensearch.NodeOptions{Dir: node}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.search.Kill() })
	if s.tables, err = dynamodb.Start(dynamodb.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.tables.Close() })
	for name, value := range s.tables.Env() {
		s.env = append(s.env, name+"="+value)
	}
	s.env = append(s.env, "INSTANCE=killed", "ADMIN=127.0.0.1:0")
	if err := os.WriteFile(s.file, fmt.Appendf(nil, sinksPipeline, s.broker, dir, s.search.URL), 0o666); err != nil {
		t.Fatal(err)
	}
	return s
}

// install runs with --setup until the pipeline reads, and kills it.
func (s *sinks) install() {
	s.t.Helper()
	admin := freeAddress(s.t)
	cmd, said := s.command("run", "--setup", s.file)
	cmd.Env = append(cmd.Env, "ADMIN="+admin)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	late := time.After(time.Minute)
	for metrics(admin) == "" {
		select {
		case <-time.After(50 * time.Millisecond):
		case err := <-ended:
			s.t.Fatalf("run --setup ended by itself: %v\n%s", err, said)
		case <-late:
			_ = cmd.Process.Kill()
			s.t.Fatalf("run --setup does not begin: %v\n%s", <-ended, said)
		}
	}
	_ = cmd.Process.Kill()
	<-ended
}

// produce sends events, a few of them broken, until ctx ends, and writes what the log took to both files. A user's events are
// in one partition, but for one in eight, as after a topic got more partitions.
func (s *sinks) produce(ctx context.Context, random *rand.Rand) {
	client, err := kgo.NewClient(kgo.SeedBrokers(s.broker), kgo.DefaultProduceTopic("clicks"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		s.t.Error(err)
		return
	}
	defer client.Close()
	var values, places bytes.Buffer
	g := clicks.New(clicks.Config{Seed: s.clickSeed, Step: s.step, Users: 2000, Broken: 2000})
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	for n := uint64(0); ctx.Err() == nil; {
		now := time.Now().Truncate(time.Millisecond)
		var batch []*kgo.Record
		for range 20 {
			r := &kgo.Record{Key: g.Key(nil, n), Value: g.Append(nil, n), Timestamp: now}
			home := fnv.New32a()
			home.Write(r.Key)
			if r.Partition = int32(home.Sum32() % 4); random.IntN(8) == 0 {
				r.Partition = random.Int32N(4)
			}
			batch = append(batch, r)
			n++
		}
		// Without the test's context: what is sent is acknowledged or an error, never in between.
		if err := client.ProduceSync(context.WithoutCancel(ctx), batch...).FirstErr(); err != nil {
			s.t.Error(err)
			return
		}
		for _, r := range batch {
			fmt.Fprintf(&values, "%s\n", r.Value)
			place, err := json.Marshal(map[string]any{
				"partition": fmt.Sprintf("clicks-%d", r.Partition), "offset": r.Offset, "time": r.Timestamp.UnixMilli(), "value": string(r.Value),
			})
			if err != nil {
				s.t.Error(err)
			}
			fmt.Fprintf(&places, "%s\n", place)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	if err := errors.Join(os.WriteFile(s.values, values.Bytes(), 0o666), os.WriteFile(s.places, places.Bytes(), 0o666)); err != nil {
		s.t.Error(err)
	}
}

// throttle lets DynamoDB refuse calls in episodes, and cut some connections before or after the effect, until ctx ends.
func (s *sinks) throttle(ctx context.Context, random *rand.Rand) {
	faults := rand.New(rand.NewPCG(s.faultSeed, 0))
	s.tables.Intercept(func(c dynamodb.Call) dynamodb.Fault {
		switch {
		case c.Operation == "PutItem" && faults.IntN(300) == 0:
			s.cut.Add(1)
			return dynamodb.Fault{Cut: true, Done: faults.IntN(2) == 0}
		case (c.Operation == "PutItem" || c.Operation == "DescribeTable") && s.throttled.Load():
			s.refused.Add(1)
			return dynamodb.Fault{Error: "ProvisionedThroughputExceededException"}
		}
		return dynamodb.Fault{}
	})
	defer s.tables.Intercept(nil)
	for ctx.Err() == nil {
		s.throttled.Store(!s.throttled.Load())
		select {
		case <-time.After(500*time.Millisecond + time.Duration(random.IntN(2000))*time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// outages kills OpenSearch, each time for at least as long as it says, and starts it again with its data and port.
func (s *sinks) outages(all <-chan time.Duration) {
	for d := range all {
		s.search.Kill()
		<-time.After(d)
		if err := s.search.Restart(s.t.Context()); err != nil {
			s.t.Error(err)
			return
		}
	}
}

// watchSpool counts the files that are set aside, until ctx ends.
func (s *sinks) watchSpool(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		for _, sink := range []string{"search", "profiles"} {
			s.aside[sink] = max(s.aside[sink], len(s.spooled(sink)))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (s *sinks) spooled(sink string) []string {
	files, err := filepath.Glob(filepath.Join(s.dir, "lake", "_spool", sink, "*", "*.jsonl.zst"))
	if err != nil {
		s.t.Error(err)
	}
	return files
}

// drained says that both sinks' spools are empty and that their writes are direct again.
func drained(admin string) bool {
	empty := 0
	for line := range strings.Lines(metrics(admin)) {
		if strings.HasPrefix(line, "millrace_sink_spool_files{") || strings.HasPrefix(line, "millrace_sink_spooling{") {
			if !strings.HasSuffix(line, " 0\n") {
				return false
			}
			empty++
		}
	}
	return empty == 4
}

// say is what the program says to args and the file.
func (s *sinks) say(args ...string) (string, error) {
	cmd, said := s.command(append(args, s.file)...)
	err := cmd.Run()
	return said.String(), err
}

// compare compares with Python.
func (s *sinks) compare() (string, error) {
	return script(s.t, "sinks.py", s.search.URL, "clicks", s.tables.URL(), "profiles", s.places)
}

// harm deletes a document, adds one and edits an item, which verify and Python have to tell.
func (s *sinks) harm() {
	var found struct {
		Hits struct {
			Hits []struct {
				Index  string `json:"_index"`
				ID     string `json:"_id"`
				Source struct {
					Event    string `json:"event_id"`
					Position string `json:"_position"`
				} `json:"_source"`
			} `json:"hits"`
		} `json:"hits"`
	}
	s.ask(http.MethodPost, s.search.URL+"/clicks/_search", nil, `{"size":1}`, &found)
	victim := found.Hits.Hits[0]
	s.ask(http.MethodDelete, s.search.URL+"/"+victim.Index+"/_doc/"+victim.ID, nil, "", nil)
	s.ask(http.MethodPut, s.search.URL+"/"+victim.Index+"/_doc/by-hand", nil, `{"event_id":"by-hand","event_type":"click"}`, nil)
	var page struct {
		Items []struct {
			User struct{ S string } `json:"user_id"`
		}
	}
	s.call("Scan", `{"TableName":"profiles","FilterExpression":"attribute_exists(price)"}`, &page)
	user := page.Items[0].User.S
	s.call("UpdateItem", fmt.Sprintf(`{"TableName":"profiles","Key":{"user_id":{"S":%q}},"UpdateExpression":"SET price = :p","ExpressionAttributeValues":{":p":{"N":"0.01"}}}`, user), nil)

	text, err := s.say("verify", "--deep")
	s.t.Logf("after the harm: %s", text)
	tells(s.t, "verify", text, err, "missing: search", victim.Source.Position, "extra: search", "by-hand", "differs: profiles", `"`+user+`"`, "price")
	text, err = s.compare()
	s.t.Logf("%s", text)
	tells(s.t, "sinks.py", text, err, "missing: document "+victim.Source.Event, "extra: document by-hand", "differs: item "+user)
}

// tells says that a command failed and named everything.
func tells(t *testing.T, command, text string, err error, names ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s finds nothing wrong", command)
	}
	for _, name := range names {
		if !strings.Contains(text, name) {
			t.Errorf("%s does not name %s", command, name)
		}
	}
}

// call makes a call on DynamoDB, which checks no signatures.
func (s *sinks) call(operation, body string, answer any) {
	s.t.Helper()
	s.ask(http.MethodPost, s.tables.URL(), http.Header{
		"X-Amz-Target": {"DynamoDB_20120810." + operation}, "Content-Type": {"application/x-amz-json-1.0"},
		"Authorization": {"AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0"},
	}, body, answer)
}

// ask sends a request that has to succeed, and reads the answer where one is wanted.
func (s *sinks) ask(method, url string, header http.Header, body string, answer any) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for name, value := range header {
		r.Header[name] = value
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= 300 {
		err = fmt.Errorf("%s", text)
	}
	if err == nil && answer != nil {
		err = json.Unmarshal(text, answer)
	}
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, url, err)
	}
}
