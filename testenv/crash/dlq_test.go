//go:build real

package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-io/millrace/testenv/dynamodb"
)

// replayKills of dlq replay in TestRealDeadLetters.
const replayKills = 12

// What is wrong with the pipeline at first: impressions have no text under items, and the users of carts no number.
const wrongSteps = `decode: { format: json, columns: { region: { path: items, type: string } } }
process:
  - map: { region: 'if(type == "cart", text(int(user)), region)' }
`

// letters is what dlq list --json says.
type letters struct {
	Letters, Open, Replayed int64
	Groups                  []struct {
		Count  int64
		Values map[string]string
	}
}

// TestRealDeadLetters has events that are broken in five ways: no JSON, a column that is declared wrongly, a step that fails, an
// index with another mapping, a table that refuses some keys. All but the first are mended, and the dead letters replayed by a
// process that is killed again and again, beside the running pipeline and newer events of the same users. Then OpenSearch and
// DynamoDB hold what Python computes from the input, as if nothing had ever been wrong; and again after a day of the one and all of the
// other is lost and filled from the lake.
func TestRealDeadLetters(t *testing.T) {
	random := seed(t)
	s := newSinks(t, random)
	s.step = time.Minute
	right, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	wrong := strings.Replace(string(right), "decode: { format: json }\n", wrongSteps, 1)
	s.write(wrong)
	s.ask(http.MethodPut, s.search.URL+"/clicks-2026-03-03", nil,
		`{"settings":{"number_of_replicas":0},"mappings":{"dynamic":"strict","properties":{"_partition":{"type":"keyword"},"_position":{"type":"keyword"}}}}`, nil)
	s.install()
	s.tables.Intercept(func(c dynamodb.Call) dynamodb.Fault {
		if c.Operation == "PutItem" && strings.HasSuffix(c.Key, "7") {
			return dynamodb.Fault{Error: "ValidationException", Message: "no sevens"}
		}
		return dynamodb.Fault{}
	})
	producing, done := context.WithCancel(t.Context())
	var around sync.WaitGroup
	stop := sync.OnceFunc(func() {
		done()
		around.Wait()
	})
	defer stop()
	own := fork(random)
	around.Go(func() { s.produce(producing, own) })
	for range 4 {
		if !s.killAfter(2 * time.Second) {
			t.Fatal("run ended by itself")
		}
	}
	before := s.letters()
	t.Logf("dead letters: %+v", before)
	ways := map[string]int64{}
	for _, g := range before.Groups {
		ways[g.Values["stage"]] += g.Count
	}
	if len(ways) != 4 || before.Open < 1000 {
		t.Fatalf("%d letters of the stages %v; want at least 1000 of 4 stages", before.Open, ways)
	}

	s.tables.Intercept(nil)
	s.ask(http.MethodDelete, s.search.URL+"/clicks-2026-03-03", nil, "", nil)
	s.write(string(right))
	daemon, said := s.command("run", s.file)
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	killed := 0
	for killed < replayKills && s.killReplay(20*time.Millisecond+time.Duration(random.IntN(550))*time.Millisecond) {
		killed++
	}
	<-time.After(time.Second) // newer events of the same users
	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("%v\n%s", err, said)
	}
	if err := daemon.Wait(); err != nil {
		t.Errorf("the pipeline beside the replays: %v\n%s", err, said)
	}
	stop()
	s.env = append(s.env[:len(s.env)-1], "ADMIN="+freeAddress(t))
	s.finishWhen(func(admin string) bool { return settled(admin) && drained(admin) })
	for range 2 { // what came in between
		text, err := s.say("dlq", "replay", "--filter", `stage != "decode" || contains(reason, "region")`)
		if t.Logf("%s", text); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := s.say("dlq", "replay", "--filter", `stage != "decode" || contains(reason, "region")`); err != nil || !strings.Contains(text, "nothing to replay") {
		t.Errorf("%v: %s", err, text)
	}
	after := s.letters()
	t.Logf("killed %d replays; dead letters: %+v", killed, after)
	for _, g := range after.Groups {
		if g.Values["stage"] != "decode" {
			t.Errorf("still open: %+v", g)
		}
	}
	if killed < 2 {
		t.Errorf("only %d replays were killed; the test is about it", killed)
	}
	if text, err := s.say("verify", "--deep"); err != nil {
		t.Errorf("%v\n%s", err, text)
	} else {
		t.Logf("%s", text)
	}
	text, err := s.compare()
	if t.Logf("%s", text); err != nil {
		t.Errorf("sinks.py: %v", err)
	}

	// A day of the index is lost, and every item of the table.
	s.ask(http.MethodDelete, s.search.URL+"/clicks-2026-03-03", nil, "", nil)
	s.call("DeleteTable", `{"TableName":"profiles"}`, nil)
	s.install()
	for _, args := range [][]string{{"--from", "2026-03-03", "--to", "2026-03-04", "--into", "search"}, {"--into", "profiles"}} {
		text, err := s.say(append([]string{"replay"}, args...)...)
		if t.Logf("%s", text); err != nil {
			t.Errorf("replay %v: %v", args, err)
		}
	}
	text, err = s.compare()
	if t.Logf("%s", text); err != nil {
		t.Errorf("sinks.py, after the replays: %v", err)
	}
}

func (s *sinks) write(pipeline string) {
	s.t.Helper()
	if err := os.WriteFile(s.file, []byte(pipeline), 0o666); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sinks) letters() (l letters) {
	s.t.Helper()
	text, err := s.say("dlq", "list", "--json")
	if err == nil {
		err = json.Unmarshal([]byte(text), &l)
	}
	if err != nil {
		s.t.Fatalf("%v\n%s", err, text)
	}
	return l
}

// killReplay kills dlq replay after d; false: it was done.
func (s *sinks) killReplay(d time.Duration) bool {
	s.t.Helper()
	cmd, said := s.command("dlq", "replay", s.file)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			s.t.Fatalf("dlq replay: %v\n%s", err, said)
		}
		s.t.Logf("a replay came to its end: %s", fmt.Sprint(said))
		return false
	case <-time.After(d):
	}
	_ = cmd.Process.Kill()
	<-ended
	return true
}
