package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Mutations seen red (line broken -> test):
//
//	inPlace: the partition of the run; only: where is left out; run: Finish left out -> DeadLettersAreListedMendedAndReplayedOnce
//	only: the other sinks too -> AReplayIsGivenToTheSinksThatItIsForOnly
//	refusals: what was replayed counts; checkpoints: without the runs; lake: events of the run's partition -> DeadLettersAreListedMendedAndReplayedOnce
//	verdict: what went to one sink is counted again -> DeadLettersAreListedMendedAndReplayedOnce
//	processBatch: what tolerate says is passed over -> TooManyDeadLettersStopTheRun
//	refusals: letters on their way are not among them; Ahead: neither -> VerifyBesideAReplayThatIsNotFinishedIsClean
//	showPayload: bytes that are no text as text; generalReason: numbers stay -> LettersAreShownForPeople

// brokenPipeline is a pipeline with three sinks as it was first, or mended.
func (s *threeSinks) brokenPipeline(mended bool) string {
	s.t.Helper()
	price, quantity, where := "price", "int(properties.qty)", `user != ""`
	if mended {
		price, quantity, where = "amount", `if(matches(properties.qty, "^[0-9]+$"), int(properties.qty), 0)`, `user != "" && length(user) < 100`
	}
	return s.write("clicks.yaml", fmt.Sprintf(`name: clicks
source:
  files: { paths: ["%[1]s/in"], checkpoints: "%[1]s/checkpoints" }
decode:
  columns: { price: { path: %[3]s, type: decimal(9,2) } }
process:
  - map: { quantity: '%[4]s' }
sinks:
  lake:
    parquet: { url: "%[1]s/lake", roll: { age: 1h, idle: 1h } }
  search:
    opensearch: { url: "%[2]s", index: "clicks-{date}", alias: clicks, replicas: 0 }
  profiles:
    dynamodb: { table: profiles, key: { pk: user } }
    where: '%[5]s'
`, s.dir, s.search.URL(), price, quantity, where))
}

// brokenRecords are 1,000 events, each broken in one of 5 ways, among as many good ones.
func (s *threeSinks) brokenRecords() {
	s.t.Helper()
	var b bytes.Buffer
	click := func(id string, day int, user, price, qty string) {
		fmt.Fprintf(&b, `{"event_id":%q,"event_type":"click","event_time":"2026-01-0%dT03:04:05Z","user_id":%q,"query":"shoes","price":%s,"amount":7.25,"qty":%q}`+"\n",
			id, day, user, price, qty)
	}
	for i := range 1000 {
		click(fmt.Sprint("good-", i), 1+i%3, fmt.Sprint("u", i%40), "3.5", "2")
		id := fmt.Sprint("bad-", i)
		switch i % 5 {
		case 0:
			fmt.Fprintf(&b, "%s is no JSON\n", id)
		case 1:
			click(id, 1, "u1", `"n/a"`, "2")
		case 2:
			click(id, 1, "u2", "3.5", "two")
		case 3:
			click(id, 9, "u3", "3.5", "2") // the index of this day takes no such field
		case 4:
			click(id, 1, strings.Repeat("u", 3000), "3.5", "2") // longer than a key may be
		}
	}
	s.write(filepath.Join("in", "a.jsonl"), b.String())
}

// dlqRun calls dlq and wants success.
func dlqRun(t *testing.T, args ...string) string {
	t.Helper()
	got := millrace(t.Context(), "", append([]string{"dlq"}, args...)...)
	if got.code != 0 {
		t.Fatalf("dlq %v: %+v", args, got)
	}
	return got.stdout
}

func wantIn(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in:\n%s", part, text)
		}
	}
}

func TestDeadLettersAreListedMendedAndReplayedOnce(t *testing.T) {
	s := newThreeSinks(t)
	s.brokenRecords()
	file := s.brokenPipeline(false)
	s.ask(http.MethodPut, "/clicks-2026-01-09", `{"mappings":{"dynamic":"strict","properties":{"_partition":{"type":"keyword"},"_position":{"type":"keyword"}}}}`)
	if got := millrace(t.Context(), "", "run", "--setup", "--until-end", file); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	list := dlqRun(t, "list", file)
	wantIn(t, list, "clicks: 1000 dead letters: 1000 open, 0 replayed", "200    decode", "200    process.1.map", "200    sink.search", "200    sink.profiles")
	var counts letterList
	must(t, json.Unmarshal([]byte(dlqRun(t, "list", "--json", "--by", "sink,stage", "--samples", "2", file)), &counts))
	if len(counts.Groups) != 4 || counts.Open != 1000 || len(counts.Groups[0].Samples) != 2 {
		t.Errorf("list --json: %+v", counts)
	}
	wantIn(t, dlqRun(t, "list", "--filter", `sink == "search" && properties.event_type == "click"`, file), "200 dead letters")
	wantIn(t, dlqRun(t, "show", file, counts.Groups[2].Samples[0]), "stage      sink.profiles", "state      open", `  "event_type": "click",`)
	if raw := dlqRun(t, "show", "--raw", file, counts.Groups[2].Samples[0]); !json.Valid([]byte(raw)) {
		t.Errorf("show --raw: %q", raw)
	}

	// Nothing is mended, and nothing is changed by asking.
	wantIn(t, dlqRun(t, "replay", "--dry-run", file), "1000 dead letters would be replayed", "dead again")
	file = s.brokenPipeline(true)
	s.ask(http.MethodDelete, "/clicks-2026-01-09", "")
	dry := dlqRun(t, "replay", "--dry-run", file)
	wantIn(t, dry, "400    all sinks  kept", "200    all sinks  dead again  decode", "200    search     kept", "200    profiles   kept")

	wantIn(t, dlqRun(t, "replay", "--filter", `startsWith(stage, "process")`, file),
		"run 1: to all sinks: 200 letters = 200 kept + 0 dropped + 0 dead again")
	wantIn(t, dlqRun(t, "replay", file),
		"run 2: 800 letters", "run 2: to all sinks: 400 letters = 200 kept + 0 dropped + 200 dead again",
		"run 2: to search: 200 letters = 200 kept", "run 2: to profiles: 200 letters = 200 kept")
	wantIn(t, dlqRun(t, "list", file), "clicks: 1200 dead letters: 200 open, 1000 replayed", "200    decode", "dlq-000002/")
	wantIn(t, dlqRun(t, "list", "--all", file), "400    decode", "200    sink.search")
	// 1000 good ones, 400 that came by replay, and 400 that only one sink had refused.
	verify := func() {
		t.Helper()
		got := millrace(t.Context(), "", "verify", "--deep", file)
		if got.code != 0 {
			t.Fatalf("%+v", got)
		}
		wantIn(t, got.stdout, "clicks: clean: 2000 records read = 1400 kept + 0 dropped + 600 dead",
			"dead letters replayed: 600 to all sinks = 400 kept + 0 dropped + 200 dead again, 400 to one sink", "search: 1800 of 1800 are there",
			"dlq-000001/all/", "dlq-000002/sink.search/")
	}
	verify()
	before := s.snapshot()
	wantIn(t, dlqRun(t, "replay", "--filter", `stage != "decode"`, file), "nothing to replay")
	if after := s.snapshot(); after != before {
		t.Error("a second replay changed something")
	}

	// Every event is where it is in the log, whichever way it came, so that a sink is filled again from the lake too.
	if n := strings.Count(string(s.ask(http.MethodPost, "/clicks/_search", `{"size":10000}`)), `"_partition":"dlq-`); n > 0 {
		t.Errorf("%d documents are of a replay's partition", n)
	}
	s.ask(http.MethodDelete, "/clicks-2026-01-01", "")
	s.replay("events written, 0 refused", "--into", "search", file)
	verify()

	// What fails again is a letter like any other.
	wantIn(t, dlqRun(t, "replay", file), "run 3: to all sinks: 200 letters = 0 kept + 0 dropped + 200 dead again")
	wantIn(t, dlqRun(t, "list", file), "1400 dead letters: 200 open, 1200 replayed")

	// A document of a replay is as good as any: verify misses it.
	s.ask(http.MethodPost, "/clicks/_refresh", "")
	var found struct {
		Hits struct {
			Hits []struct {
				Index string `json:"_index"`
				ID    string `json:"_id"`
			}
		}
	}
	must(t, json.Unmarshal(s.ask(http.MethodPost, "/clicks-2026-01-09/_search", `{"size":1}`), &found))
	victim := found.Hits.Hits[0]
	s.ask(http.MethodDelete, "/"+victim.Index+"/_doc/"+strings.ReplaceAll(victim.ID, "/", "%2F"), "")
	if got := millrace(t.Context(), "", "verify", file); got.code != 1 || !strings.Contains(got.stdout, "missing: search") {
		t.Errorf("a replayed document is gone, and verify says %+v", got)
	}
}

// A replay for one sink is given to no other: not every sink takes an event twice.
func TestAReplayIsGivenToTheSinksThatItIsForOnly(t *testing.T) {
	s := newThreeSinks(t)
	c := &call{stderr: io.Discard}
	p := c.load(s.pipeline("spool"))
	parts, err := p.openSinks(t.Context(), patient())
	must(t, err)
	for sink, want := range map[string]string{"": "lake search profiles", "search": "search", "profiles": "profiles"} {
		cfg, err := parts.only(sink)
		must(t, err)
		var names []string
		for _, s := range cfg.Sinks {
			names = append(names, s.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("letters for %q go to %s", sink, got)
		}
	}
	if _, err := parts.only("gone"); err == nil || !strings.Contains(err.Error(), `"gone", which the pipeline file no longer has`) {
		t.Errorf("%v", err)
	}
}

// upserts is everything that OpenSearch and DynamoDB hold, as one text.
func (s *threeSinks) upserts() string {
	s.t.Helper()
	return string(s.ask(http.MethodPost, "/clicks/_search", `{"size":10000,"sort":[{"_id":"asc"}]}`)) + string(s.call("Scan", `{"TableName":"profiles"}`))
}

// snapshot is everything that the sinks hold, as one text.
func (s *threeSinks) snapshot() string {
	s.t.Helper()
	var b strings.Builder
	must(s.t, filepath.WalkDir(s.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s %x\n", path, text)
		return err
	}))
	return b.String() + s.upserts()
}

// A replay was killed when OpenSearch had its events and nothing was committed: they are not extra, and the next replay goes on.
func TestVerifyBesideAReplayThatIsNotFinishedIsClean(t *testing.T) {
	s := newThreeSinks(t)
	s.brokenRecords()
	file := s.brokenPipeline(false)
	if got := millrace(t.Context(), "", "run", "--setup", "--until-end", file); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	file = s.brokenPipeline(true)
	wantIn(t, dlqRun(t, "replay", "--filter", `startsWith(stage, "process")`, file), "200 letters = 200 kept")
	account := filepath.Join(s.dir, "lake", "_dead_letters", "clicks", "_millrace", "dlq", "000001")
	must(t, os.Remove(account+".done"))
	must(t, os.RemoveAll(account))
	removed := 0
	must(t, filepath.WalkDir(filepath.Join(s.dir, "lake"), func(path string, d os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".parquet") {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil && bytes.Contains(text, []byte(`"partition":"dlq-000001/all/`)) {
			removed++
			err = os.Remove(path)
		}
		return err
	}))
	if removed == 0 {
		t.Fatal("the replay has no file in the lake")
	}
	got := millrace(t.Context(), "", "verify", "--deep", file)
	if got.code != 0 {
		t.Fatalf("%+v", got)
	}
	wantIn(t, dlqRun(t, "list", file), "replay 1 of 200 letters is not finished")
	wantIn(t, dlqRun(t, "replay", "--filter", `stage == "none"`, file), "run 1: going on", "200 letters = 200 kept", "nothing to replay")
	got = millrace(t.Context(), "", "verify", "--deep", file)
	if got.code != 0 || !strings.Contains(got.stdout, "dead letters replayed: 200 to all sinks = 200 kept") {
		t.Errorf("%+v", got)
	}
}

func TestLettersAreShownForPeople(t *testing.T) {
	var b bytes.Buffer
	showPayload(&b, []byte{0xff, 0, 'a'}, false)
	showPayload(&b, []byte("a\x1b[2J\nb"), true)
	showPayload(&b, []byte(`{"a":[1]}`), true)
	showPayload(&b, nil, false)
	want := "value      3 bytes, no text:\n00000000  ff 00 61                                          |..a|\n" +
		"value      7 bytes, text:\na?[2J\nb\n" + "value      9 bytes, JSON:\n{\n  \"a\": [\n    1\n  ]\n}\n" + "value      empty\n"
	if b.String() != want {
		t.Errorf("shown:\n%s\nwant:\n%s", b.String(), want)
	}
	for reason, want := range map[string]string{
		`price: "12,50" is not a decimal(9,2)`: "price: … is not a decimal(…,…)", "doc 'a\\'b' at 1.5": "doc …b' at ….…", "no such thing": "no such thing",
	} {
		if got := generalReason(reason); got != want {
			t.Errorf("%q in general is %q; want %q", reason, got, want)
		}
	}
}

func TestDLQSaysWhatIsWrong(t *testing.T) {
	l := newLake(t)
	file := l.pipeline(false, "")
	for _, c := range []struct {
		want string
		args []string
		code int
	}{
		{"want list, show or replay", nil, 2},
		{`unknown word "lst"`, []string{"lst", file}, 2},
		{"--filter: 1:1: unknown column \"stag\"; did you mean \"stage\"?", []string{"list", "--filter", "stag == 'x'", file}, 2},
		{"want a condition, true or false", []string{"replay", "--filter", "stage", file}, 2},
		{`--by has "colour"`, []string{"list", "--by", "colour", file}, 2},
		{"want a pipeline file and a letter's ID", []string{"show", file}, 2},
		{`no dead letter has the ID "x@0000000000000000"`, []string{"show", file, "x@0000000000000000"}, 1},
		{"no such file", []string{"list", "nowhere.yaml"}, 1},
	} {
		got := millrace(t.Context(), "", append([]string{"dlq"}, c.args...)...)
		if got.code != c.code || !strings.Contains(got.err, c.want) {
			t.Errorf("dlq %v: %+v; want code %d and %q", c.args, got, c.code, c.want)
		}
	}
	wantIn(t, dlqRun(t, "list", file), "clicks: 0 dead letters: 0 open, 0 replayed")
	wantIn(t, dlqRun(t, "replay", file), "nothing to replay")
}

func TestTooManyDeadLettersStopTheRun(t *testing.T) {
	l := newLake(t)
	l.records("a.jsonl", 2000)
	file := l.pipeline(false, "")
	text, err := os.ReadFile(file)
	must(t, err)
	limited := func(limit string) string {
		return l.write("limited.yaml", strings.Replace(string(text), "_dead\" }", "_dead\", stop_above: "+limit+" }", 1))
	}
	file = limited("{ percent: 5, window: 1m, least: 100 }")
	if got := millrace(t.Context(), "", "run", "--until-end", file); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	bad := strings.Repeat("no json\n", 200)
	l.write(filepath.Join("in", "b.jsonl"), bad)
	got := millrace(t.Context(), "", "run", "--until-end", file)
	if got.code != 1 {
		t.Fatalf("%+v", got)
	}
	wantIn(t, got.err, "too many records become dead letters: 200 of the last 200 records (100.0 %) in 1m0s, and stop_above is 5 %; the last one at stage decode")
	wantIn(t, dlqRun(t, "list", file), "0 dead letters") // nothing of it was committed
	file = limited("{ percent: 5, least: 1000 }")
	if got := millrace(t.Context(), "", "run", "--until-end", file); got.code != 0 {
		t.Fatalf("with a limit that is not reached: %+v", got)
	}
	wantIn(t, dlqRun(t, "list", file), "200 dead letters: 200 open")
	for limit, want := range map[string]string{
		"{ percent: 100 }": "percent is 100; want 0 to less than 100", "{ percent: 5, window: 1ms }": "window is 1ms", "{ least: 5 }": "has no percent", "{ percent: 5, least: -1 }": "least is -1",
	} {
		if got := millrace(t.Context(), "", "lint", limited(limit)); got.code != 1 || !strings.Contains(got.stdout, want) {
			t.Errorf("%s: %+v", limit, got)
		}
	}
}
