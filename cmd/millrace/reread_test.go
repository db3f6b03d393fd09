package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/broker"
	"github.com/millrace-io/millrace/testenv/kinesis"
	embedded "github.com/millrace-io/millrace/testenv/nats"
	"github.com/millrace-io/millrace/testenv/opensearch"
)

// Mutations seen red (line broken -> test):
//
//	refillFromSource: nothing is mended; clientsAhead is 0; refill: deletions up to --to only, from --from only -> ReplayFromTheSourceBesideTheDaemon
//	events: what is left is counted in both passes -> ReplayFromTheSourceBesideTheDaemon
//	pass: no lock -> ReplayFromTheSourceBesideTheDaemon (by the race detector)
//	openReread: open dead letters are written; refillFromSource: what the file refuses is not counted -> ReplayFromTheSourceAndTheDeadLetters
//	openReread: nothing committed is nothing to say; events: cut is not told -> ReplayFromTheSourceWantsNoLake
//	stream: UpTo passes all on -> sourcetest: reads again what is committed, beside its owner
//	stream: EachPartition drops errors -> sourcetest: stops reading again

// testLog is a log of three partitions, the last of which stays empty.
type testLog struct {
	yaml   string                              // the source in a pipeline file
	put    func(partition int, line ...string) // appends
	traces func() string                       // who owns what and how far it is committed, and all places where a reader may keep such things
}

// logs are the four sources, each over a stand-in in this process.
var logs = map[string]func(*threeSinks) testLog{
	"files": func(s *threeSinks) testLog {
		return testLog{
			fmt.Sprintf(`files: { paths: ["%[1]s/in"], checkpoints: "%[1]s/checkpoints", follow: true, poll: 5ms }`, s.dir),
			func(partition int, lines ...string) {
				f, err := os.OpenFile(filepath.Join(s.dir, "in", fmt.Sprint(partition)), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
				must(s.t, err)
				_, err = f.WriteString(strings.Join(lines, ""))
				must(s.t, err)
				must(s.t, f.Close())
			},
			func() string {
				var b strings.Builder
				files, err := os.ReadDir(filepath.Join(s.dir, "checkpoints"))
				must(s.t, err)
				for _, f := range files {
					text, err := os.ReadFile(filepath.Join(s.dir, "checkpoints", f.Name()))
					must(s.t, err)
					info, err := f.Info()
					must(s.t, err)
					fmt.Fprintln(&b, f.Name(), info.ModTime(), string(text))
				}
				return b.String()
			},
		}
	},
	"kafka": func(s *threeSinks) testLog {
		b, err := broker.Start(broker.Options{Topics: []string{"clicks"}, Partitions: 3})
		must(s.t, err)
		s.t.Cleanup(b.Close)
		return kafkaLog(s.t, b.Addr)
	},
	"nats": func(s *threeSinks) testLog {
		server, err := embedded.Start(embedded.Options{Dir: s.t.TempDir(), Sync: embedded.SyncLater})
		must(s.t, err)
		s.t.Cleanup(server.Close)
		conn, err := nats.Connect(server.URL())
		must(s.t, err)
		s.t.Cleanup(conn.Close)
		js, err := jetstream.New(conn)
		must(s.t, err)
		log, err := js.CreateStream(s.t.Context(), jetstream.StreamConfig{Name: "CLICKS", Subjects: []string{"clicks.0", "clicks.1", "clicks.2"}})
		must(s.t, err)
		return testLog{
			fmt.Sprintf(`nats: { url: %q, stream: CLICKS }`, server.URL()),
			func(partition int, lines ...string) {
				for _, line := range lines {
					_, err := js.Publish(s.t.Context(), fmt.Sprintf("clicks.%d", partition), []byte(line))
					must(s.t, err)
				}
			},
			func() string {
				var b strings.Builder
				for name := range js.StreamNames(s.t.Context()).Name() {
					fmt.Fprintln(&b, name)
				}
				info, err := log.Info(s.t.Context())
				must(s.t, err)
				fmt.Fprintln(&b, info.State.Consumers, "cursors")
				bucket, err := js.KeyValue(s.t.Context(), "millrace-clicks")
				must(s.t, err)
				for partition := range 3 {
					e, err := bucket.Get(s.t.Context(), fmt.Sprintf("clicks.%d", partition))
					must(s.t, err)
					b.WriteString(without(s.t, e.Value(), "renewals", "mark"))
				}
				return b.String()
			},
		}
	},
	"kinesis": func(s *threeSinks) testLog {
		server, err := kinesis.Start(kinesis.Options{})
		must(s.t, err)
		s.t.Cleanup(func() { _ = server.Close() })
		s.t.Setenv("AWS_ENDPOINT_URL_KINESIS", server.URL())
		server.CreateStream("clicks", 3)
		shards := server.Shards("clicks")
		return testLog{
			`kinesis: { stream: clicks, poll: 50ms }`,
			func(partition int, lines ...string) {
				for _, line := range lines {
					server.Put("clicks", shards[partition].ID, kinesis.Record{Key: "any", Data: []byte(line)})
				}
			},
			func() string {
				b := string(s.call("ListTables", `{}`))
				var rows struct{ Items []json.RawMessage }
				must(s.t, json.Unmarshal(s.call("Scan", `{"TableName":"millrace-clicks"}`), &rows))
				for _, row := range rows.Items {
					b += without(s.t, row, "renewals", "revision", "mark")
				}
				return b
			},
		}
	},
}

// kafkaLog is a topic of three partitions at a broker, whichever that is.
func kafkaLog(t *testing.T, addr string) testLog {
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableClientMetrics())
	must(t, err)
	t.Cleanup(client.Close)
	admin := kadm.NewClient(client)
	return testLog{
		fmt.Sprintf(`kafka: { brokers: [%q], topics: [clicks] }`, addr),
		func(partition int, lines ...string) {
			var rs []*kgo.Record
			for _, line := range lines {
				rs = append(rs, &kgo.Record{Topic: "clicks", Partition: int32(partition), Value: []byte(line)})
			}
			must(t, client.ProduceSync(t.Context(), rs...).FirstErr())
		},
		func() string {
			groups, err := admin.DescribeGroups(t.Context())
			must(t, err)
			var b strings.Builder
			for _, g := range groups.Sorted() {
				fmt.Fprintln(&b, g.Group, g.State)
				for _, m := range g.Members {
					assigned, _ := m.Assigned.AsConsumer()
					fmt.Fprintln(&b, m.MemberID, assigned)
				}
				offsets, err := admin.FetchOffsets(t.Context(), g.Group)
				must(t, err)
				for _, o := range offsets.Sorted() {
					fmt.Fprintln(&b, o.Partition, o.At, o.Metadata)
				}
			}
			return b.String()
		},
	}
}

// without is a JSON object without some of its members.
func without(t *testing.T, object []byte, members ...string) string {
	var all map[string]json.RawMessage
	must(t, json.Unmarshal(object, &all))
	for _, m := range members {
		delete(all, m)
	}
	text, err := json.Marshal(all)
	must(t, err)
	return string(text) + "\n"
}

// again is a pipeline over one log, with a lake and two sinks.
type again struct {
	*threeSinks
	testLog
	file    string
	outside *parts // for questions
}

func newAgain(t *testing.T, open func(*threeSinks) testLog) *again {
	a := &again{threeSinks: newThreeSinks(t)}
	a.testLog = open(a.threeSinks)
	a.mapping("XX")
	var err error
	a.outside, err = (&call{stderr: io.Discard}).load(a.file).open(t.Context(), patient())
	must(t, err)
	return a
}

// mapping writes the pipeline file, whose events are all of one country.
func (a *again) mapping(country string) {
	a.file = a.write("clicks.yaml", fmt.Sprintf(`name: clicks
source:
  %[2]s
decode:
  columns: { price: { path: price, type: decimal(9,2) } }
process:
  - map: { country: '%[4]q' }
sinks:
  lake:
    parquet: { url: "%[1]s/lake", roll: { age: 1h, idle: 20ms } }
  search:
    opensearch: { url: "%[3]s", index: "clicks-{date}", alias: clicks, replicas: 0, max_skew: 87600h }
  profiles:
    dynamodb: { table: profiles, key: { pk: user } }
    where: user != ""
    delete: type == "forget"
`, a.dir, a.yaml, a.search.URL(), country))
}

// clicks appends 20 lines for each of 6 days, 2 of which are of users who want to be forgotten, those of a user to one partition.
func (a *again) clicks() {
	var own [2][]string
	for i, line := range forgetful(600) {
		if i%5 == 4 {
			own[i%2] = append(own[i%2], line)
		}
	}
	a.put(0, own[0]...)
	a.put(1, own[1]...)
}

// daemon runs the pipeline until stop is called, which wants it to end well.
func (a *again) daemon() (stop func()) {
	ctx, cancel := context.WithCancel(a.t.Context())
	var got outcome
	var running sync.WaitGroup
	running.Go(func() { got = millrace(ctx, "", "run", "--setup", a.file) })
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		if got.code != 0 {
			a.t.Errorf("the pipeline beside the replays: %+v", got)
		}
	})
	a.t.Cleanup(stop)
	return stop
}

// eventually waits for what the daemon does in its own time.
func (a *again) eventually(what string, cond func() bool) {
	a.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !cond(); <-tick.C {
		if time.Now().After(deadline) {
			a.t.Fatalf("waited too long until %s", what)
		}
	}
}

// committed waits until the files and the checkpoints know of so many records.
func (a *again) committed(records int64) {
	a.t.Helper()
	a.eventually(fmt.Sprintf("%d records are committed", records), func() bool {
		r, err := stream.Audit(a.t.Context(), "clicks", a.outside.checkpoints, a.outside.inspectors, false)
		must(a.t, err)
		read := int64(0)
		for _, p := range r.Partitions {
			read += p.Read
		}
		return read == records && len(r.Problems) == 0
	})
}

// onMore has a record come to each partition, and waits until the daemon has committed so many: then it owns them all.
func (a *again) onMore(records int64) {
	a.t.Helper()
	for partition := range 3 {
		a.put(partition, forgetful(1)...)
	}
	a.committed(records)
}

// replays calls replay --source beside the daemon, which must not notice.
func (a *again) replays(want string, args ...string) {
	a.t.Helper()
	before := a.traces()
	got := millrace(a.t.Context(), "", append([]string{"replay", "--source", a.file}, args...)...)
	if got.code != 0 || !strings.Contains(got.stdout, want) || !strings.Contains(got.err, ": 1 record left to dlq replay") {
		a.t.Fatalf("replay --source %v: %+v; want %q", args, got, want)
	}
	a.eventually("nothing is left of the replay", func() bool { return a.traces() == before })
}

func (a *again) emptyTable() {
	a.t.Helper()
	var rows struct{ Items []map[string]json.RawMessage }
	must(a.t, json.Unmarshal(a.call("Scan", `{"TableName":"profiles"}`), &rows))
	for _, row := range rows.Items {
		a.call("DeleteItem", fmt.Sprintf(`{"TableName":"profiles","Key":{"user_id":%s}}`, row["user_id"]))
	}
}

// stopped is a replay that is told to stop while the sink does not answer.
func (a *again) stopped(args ...string) {
	a.t.Helper()
	before, bulks := a.traces(), a.search.Counts().Bulks
	a.search.Fail(opensearch.Hang)
	defer a.search.Fail()
	ctx, cancel := context.WithCancel(a.t.Context())
	var got outcome
	var running sync.WaitGroup
	running.Go(func() { got = millrace(ctx, "", append([]string{"replay", "--source", a.file}, args...)...) })
	a.eventually("the replay writes", func() bool { return a.search.Counts().Bulks > bulks })
	cancel()
	running.Wait()
	if got.code != 1 || !strings.Contains(got.err, "stopped before the end; start it again") {
		a.t.Errorf("%+v", got)
	}
	a.eventually("nothing is left of the replay", func() bool { return a.traces() == before })
}

func TestReplayFromTheSourceBesideTheDaemon(t *testing.T) {
	for name, open := range logs {
		t.Run(name, func(t *testing.T) {
			a := newAgain(t, open)
			a.clicks()
			a.put(1, "no JSON\n")
			a.put(2)
			stop := a.daemon()
			a.committed(121)
			before := a.upserts()
			a.replays("search: 120 events written, 0 refused", "--into", "search")
			a.replays("profiles: 120 events written, 0 refused", "--into", "profiles")
			a.replays("profiles: 30 events written", "--from", "2026-01-02", "--to", "2026-01-03", "--into", "profiles")
			if a.upserts() != before {
				t.Error("a replay of what is there changed something")
			}
			if got := millrace(t.Context(), "", "verify", "--deep", a.file); got.code != 0 {
				t.Errorf("%+v", got)
			}

			// The clock of a client was ahead of the log's, and the log took its record before --from.
			ahead := time.Now().Add(12 * time.Hour)
			a.put(0, fmt.Sprintf(`{"event_id":"ahead","event_type":"click","event_time":%q,"user_id":"ahead"}`+"\n", ahead.Format(time.RFC3339)))
			a.committed(122)
			before = a.upserts()
			a.replays("search: 1 event written, 0 refused", "--from", ahead.Add(-time.Hour).Format(time.RFC3339), "--into", "search")

			// A day of documents is lost, and the first replay is stopped.
			a.ask(http.MethodDelete, "/clicks-2026-01-03", "")
			a.stopped("--into", "search")
			a.replays("search: 20 events written", "--from", "2026-01-03", "--to", "2026-01-04", "--into", "search")
			if a.upserts() != before {
				t.Error("what was filled again is not what was there before")
			}

			// The mapping is mended. The daemon writes what comes from then on.
			stop()
			a.mapping("DE")
			a.daemon()
			a.onMore(125)
			a.replays("search: 124 events written, 0 refused", "--into", "search")
			a.replays("profiles: 124 events written, 0 refused", "--into", "profiles")
			if mended := a.upserts(); strings.Count(mended, `"country":"DE"`) != 124 || strings.Contains(mended, `"XX"`) {
				t.Errorf("%d documents have the mended country; rows that have not: %v", strings.Count(mended, `"country":"DE"`), strings.Contains(mended, `"XX"`))
			}
			// The lake has the old values, which are not newer.
			mended := a.upserts()
			a.replay("profiles: 124 events written", "--into", "profiles", a.file)
			if a.upserts() != mended {
				t.Error("a replay from the lake undid what was mended")
			}

			// Days 1 to 5 into an empty table: what day 6 deleted is not brought back.
			a.emptyTable()
			a.replays("profiles: 105 events written", "--to", "2026-01-06", "--into", "profiles")
			for i := 549; i < 600; i += 50 {
				item := string(a.call("GetItem", fmt.Sprintf(`{"TableName":"profiles","Key":{"user_id":{"S":"u%d"}}}`, i%40)))
				if !strings.Contains(item, "_deleted") {
					t.Errorf("u%d was deleted on day 6, and is back: %s", i%40, item)
				}
			}
		})
	}
}

// What no sink has is left to dlq replay; what only this sink refused is tried again; what the file refuses only now is told.
func TestReplayFromTheSourceAndTheDeadLetters(t *testing.T) {
	s := newThreeSinks(t)
	s.brokenRecords()
	file := s.brokenPipeline(false)
	s.ask(http.MethodPut, "/clicks-2026-01-09", `{"mappings":{"dynamic":"strict","properties":{"_partition":{"type":"keyword"},"_position":{"type":"keyword"}}}}`)
	if got := millrace(t.Context(), "", "run", "--setup", "--until-end", file); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	s.replay("profiles: 1200 events written, 200 refused", "--source", "--into", "profiles", file)

	text, err := os.ReadFile(file)
	must(t, err)
	worse := s.write("worse.yaml", strings.Replace(string(text), "decimal(9,2)", "decimal(2,2)", 1))
	got := millrace(t.Context(), "", "replay", "--source", "--into", "search", worse)
	if got.code != 1 || !strings.Contains(got.stdout, "search: 0 events written, 1400 refused") {
		t.Errorf("%+v", got)
	}
	wantIn(t, got.err, "600 records left to dlq replay", "1400 refusals that are not among the dead letters, such as: decode: price")

	file = s.brokenPipeline(true)
	s.ask(http.MethodDelete, "/clicks-2026-01-09", "")
	got = millrace(t.Context(), "", "replay", "--source", "--into", "search", file)
	if got.code != 0 || !strings.Contains(got.stdout, "search: 1400 events written, 0 refused") {
		t.Errorf("%+v", got)
	}
	wantIn(t, got.err, "600 records left to dlq replay")
	for _, verify := range [][]string{{"verify", file}, {"verify", "--deep", file}} {
		if got := millrace(t.Context(), "", verify...); got.code != 0 && !strings.Contains(got.stdout, "differs: ") || strings.Contains(got.stdout, "extra: ") {
			t.Errorf("%v: %+v", verify, got)
		}
	}
	wantIn(t, dlqRun(t, "replay", file), "run 1: to all sinks: 600 letters = 400 kept + 0 dropped + 200 dead again")
	s.replay("search: 1800 events written, 0 refused", "--source", "--into", "search", file)
	if got := millrace(t.Context(), "", "verify", file); got.code != 0 {
		t.Errorf("%+v", got)
	}
}

// A pipeline without a lake has its log.
func TestReplayFromTheSourceWantsNoLake(t *testing.T) {
	s := newThreeSinks(t)
	s.forgetfulRecords()
	file := s.write("clicks.yaml", fmt.Sprintf(`name: clicks
source:
  files: { paths: ["%[1]s/in"], checkpoints: "%[1]s/checkpoints" }
sinks:
  search:
    opensearch: { url: "%[2]s", index: "clicks-{date}", alias: clicks, replicas: 0 }
dead_letters: { url: "%[1]s/dead" }
`, s.dir, s.search.URL()))
	got := millrace(t.Context(), "", "replay", "--source", "--into", "search", file)
	if got.code != 1 || !strings.Contains(got.err, "run once with --setup") {
		t.Errorf("%+v", got)
	}
	if got := millrace(t.Context(), "", "run", "--setup", "--until-end", file); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	s.ask(http.MethodDelete, "/clicks-2026-01-03", "")
	if got := millrace(t.Context(), "", "replay", "--into", "search", file); got.code != 1 || !strings.Contains(got.err, "replay --source") {
		t.Errorf("from the lake: %+v", got)
	}
	s.replay("search: 600 events written, 0 refused", "--source", "--into", "search", file)
	if n := s.documents(); n != 600 {
		t.Errorf("%d documents; want 600", n)
	}
	// A file is gone, and so are its events; the others are written.
	s.write(filepath.Join("in", "b.jsonl"), forgetful(1)[0])
	if got := millrace(t.Context(), "", "run", "--until-end", file); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	must(t, os.Remove(filepath.Join(s.dir, "in", "a.jsonl")))
	got = millrace(t.Context(), "", "replay", "--source", "--from", "2026-01-01", "--into", "search", file)
	if got.code != 0 || !strings.Contains(got.stdout, "search: 1 event written") {
		t.Errorf("%+v", got)
	}
	wantIn(t, got.err, "the log may no longer have all of what came since 2025-12-31T00:00:00Z, a day before --from, and what it has removed is not written: ", "in/a.jsonl")
	must(t, os.RemoveAll(filepath.Join(s.dir, "checkpoints")))
	got = millrace(t.Context(), "", "replay", "--source", "--into", "search", file)
	if got.code != 1 || !strings.Contains(got.err, "has committed nothing yet") {
		t.Errorf("%+v", got)
	}
}
