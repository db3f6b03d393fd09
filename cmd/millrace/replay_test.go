package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Mutations seen red (line broken -> test):
//
//	refill: deletions up to --to only, not first; no flush; span: --to is taken -> ReplayFillsASinkAgainAndChangesNothingElse
//	bulk, replaces: the position is not compared -> ReplayFillsASinkAgainAndChangesNothingElse

// forgetfulRecords adds a file of clicks of 6 days for 40 users, and what some of them forget.
func (s *threeSinks) forgetfulRecords() {
	s.t.Helper()
	s.write(filepath.Join("in", "a.jsonl"), strings.Join(forgetful(600), ""))
}

// forgetful are lines of n clicks, 100 a day, and every 50th is about a user who wants to be forgotten.
func forgetful(n int) (lines []string) {
	for i := range n {
		kind := "click"
		if i%50 == 49 {
			kind = "forget"
		}
		lines = append(lines, fmt.Sprintf(`{"event_id":"e-%d","event_type":%q,"event_time":"2026-01-0%dT03:04:05Z","user_id":"u%d","price":%d.5}`+"\n", i, kind, 1+i/100, i%40, i))
	}
	return lines
}

func (s *threeSinks) replay(want string, args ...string) {
	s.t.Helper()
	got := millrace(s.t.Context(), "", append([]string{"replay"}, args...)...)
	if got.code != 0 || !strings.Contains(got.stdout, want) {
		s.t.Fatalf("replay %v: %+v; want %q", args, got, want)
	}
}

func TestReplayFillsASinkAgainAndChangesNothingElse(t *testing.T) {
	s := newThreeSinks(t)
	s.forgetfulRecords()
	file := s.pipeline("spool")
	if got := millrace(t.Context(), "", "run", "--setup", "--until-end", file); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	before := s.snapshot()
	s.replay("search: 600 events written, 0 refused", "--into", "search", file)
	s.replay("profiles: 110 events written", "--from", "2026-01-02", "--to", "2026-01-03", "--into", "profiles", file)
	if s.snapshot() != before {
		t.Error("a replay of what is there changed something")
	}

	// A day of documents is lost, and a table.
	s.ask(http.MethodDelete, "/clicks-2026-01-03", "")
	s.call("DeleteTable", `{"TableName":"profiles"}`)
	if got := millrace(t.Context(), "", "replay", "--into", "profiles", file); got.code != 1 || !strings.Contains(got.err, "--setup") {
		t.Errorf("without the table: %+v", got)
	}
	if got := millrace(t.Context(), "", "run", "--setup", "--until-end", file); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	s.replay("search: 100 events written", "--from", "2026-01-03T03:04:05Z", "--to", "2026-01-04T03:04:05Z", "--into", "search", file)
	s.replay("profiles: 600 events written", "--into", "profiles", file)
	if got := millrace(t.Context(), "", "verify", "--deep", file); got.code != 0 {
		t.Errorf("%+v", got)
	}
	if s.snapshot() != before {
		t.Error("what was filled again is not what was there before")
	}

	// Days 1 to 5 into an empty table: what day 6 deleted is not brought back.
	s.call("DeleteTable", `{"TableName":"profiles"}`)
	if got := millrace(t.Context(), "", "run", "--setup", "--until-end", file); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	s.replay("profiles: 502 events written", "--to", "2026-01-06", "--into", "profiles", file)
	for i := 549; i < 600; i += 50 {
		item := string(s.call("GetItem", fmt.Sprintf(`{"TableName":"profiles","Key":{"user_id":{"S":"u%d"}}}`, i%40)))
		if !strings.Contains(item, "_deleted") {
			t.Errorf("u%d was deleted on day 6, and is back: %s", i%40, item)
		}
	}
}

func TestReplaySaysWhatIsWrong(t *testing.T) {
	s := newThreeSinks(t)
	s.pricedRecords("a.jsonl", 10, "")
	file := s.pipeline("block")
	text, err := os.ReadFile(file)
	must(t, err)
	log := s.write("log.yaml", strings.Replace(string(text), "  search:", "  log:\n    nats: { url: \"nats://127.0.0.1:1\", stream: CLICKS, subject: clicks }\n  search:", 1))
	merge := s.write("merge.yaml", strings.Replace(string(text), "index: \"clicks-{date}\", alias: clicks", "index: clicks, action: update, id: user", 1))
	for _, c := range []struct {
		want string
		args []string
		code int
	}{
		{"--into is missing", []string{file}, 2},
		{`"yesterday" is no time`, []string{"--from", "yesterday", "--into", "search", file}, 2},
		{"--from is not before --to", []string{"--from", "2026-01-02", "--to", "2026-01-02", "--into", "search", file}, 2},
		{`there is no sink "serach"; want one of search, profiles`, []string{"--into", "serach", file}, 1},
		{"lake is written in files", []string{"--into", "lake", file}, 1},
		{"log is not replayed into: its readers would get every event again", []string{"--into", "log", log}, 1},
		{"search is not replayed into: it adds fields", []string{"--into", "search", merge}, 1},
		{"run once with --setup", []string{"--into", "search", file}, 1},
		{"--from is not before --to", []string{"--source", "--from", "2026-01-02", "--to", "2026-01-02", "--into", "search", file}, 2},
		{"lake is written in files", []string{"--source", "--into", "lake", file}, 1},
		{"log is not replayed into: its readers would get every event again", []string{"--source", "--into", "log", log}, 1},
		{"search is not replayed into: it adds fields", []string{"--source", "--into", "search", merge}, 1},
	} {
		got := millrace(t.Context(), "", append([]string{"replay"}, c.args...)...)
		if got.code != c.code || !strings.Contains(got.err, c.want) {
			t.Errorf("replay %v: %+v; want code %d and %q", c.args, got, c.code, c.want)
		}
	}
}
