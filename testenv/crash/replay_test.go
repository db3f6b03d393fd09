//go:build real

package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// sourceKills of replay --source in TestRealReplayFromTheSource.
const sourceKills = 12

// TestRealReplayFromTheSource reads Apache Kafka again into a node of OpenSearch and a table, beside the running pipeline: killed
// while new events come, then to fill what was lost, then by a mended file. Python, which knows only what went in, compares.
func TestRealReplayFromTheSource(t *testing.T) {
	random := seed(t)
	s := newSinks(t, random)
	s.broker = startKafka(t, filepath.Join(s.dir, "kafka"), 1).seeds[0]
	s.step = 5 * time.Minute
	pipeline := fmt.Sprintf(sinksPipeline, s.broker, s.dir, s.search.URL)
	s.write(pipeline)
	s.install()
	d := s.daemon()
	members := s.members()
	producing, done := context.WithCancel(t.Context())
	var feeding sync.WaitGroup
	own := fork(random)
	feeding.Go(func() { s.produce(producing, own) })
	killed := 0
	for n := range 10 * sourceKills {
		into := []string{"search", "profiles"}[n%2]
		if s.killSourceReplay(into, 50*time.Millisecond+time.Duration(random.IntN(1500))*time.Millisecond) {
			killed++
		}
		if killed == sourceKills {
			break
		}
	}
	done()
	feeding.Wait()
	d.settle()
	if now := s.members(); now != members {
		t.Errorf("the groups were\n%s\nand are\n%s", members, now)
	}
	if killed < sourceKills {
		t.Errorf("only %d replays were killed; the test is about it", killed)
	}
	s.clean("after the kills")

	// A day of the index is lost, and every item of the table.
	d.stop()
	var indices map[string]any
	s.ask(http.MethodGet, s.search.URL+"/_alias/clicks", nil, "", &indices)
	days := slices.Sorted(maps.Keys(indices))
	lost, next := days[1], days[2]
	s.ask(http.MethodDelete, s.search.URL+"/"+lost, nil, "", nil)
	s.call("DeleteTable", `{"TableName":"profiles"}`, nil)
	s.install()
	d = s.daemon()
	members = s.members()
	for _, args := range [][]string{
		{"--from", strings.TrimPrefix(lost, "clicks-"), "--to", strings.TrimPrefix(next, "clicks-"), "--into", "search"}, {"--into", "profiles"},
	} {
		text, err := s.say(append([]string{"replay", "--source"}, args...)...)
		if t.Logf("%s", text); err != nil || !strings.Contains(text, " 0 refused") {
			t.Errorf("replay --source %v: %v", args, err)
		}
	}
	if now := s.members(); now != members {
		t.Errorf("the groups were\n%s\nand are\n%s", members, now)
	}
	s.clean("after the replays")

	// The mapping is mended.
	d.stop()
	s.write(strings.Replace(pipeline, "sinks:", "process:\n  - map: { country: '\"XX\"' }\nsinks:", 1))
	d = s.daemon()
	text, err := s.say("replay", "--source", "--into", "search")
	if t.Logf("%s", text); err != nil {
		t.Error(err)
	}
	var all, mended struct{ Count int }
	s.ask(http.MethodPost, s.search.URL+"/clicks/_refresh", nil, "", nil)
	s.ask(http.MethodPost, s.search.URL+"/clicks/_count", nil, "{}", &all)
	s.ask(http.MethodPost, s.search.URL+"/clicks/_count", nil, `{"query":{"term":{"country":"XX"}}}`, &mended)
	if mended != all || all.Count == 0 {
		t.Errorf("%d of %d documents are mended", mended.Count, all.Count)
	}
	d.stop()
}

// clean wants verify and Python to find nothing wrong.
func (s *sinks) clean(when string) {
	s.t.Helper()
	if text, err := s.say("verify", "--deep"); err != nil {
		s.t.Errorf("verify %s: %v\n%s", when, err, text)
	}
	text, err := s.compare()
	if s.t.Logf("%s: %s", when, text); err != nil {
		s.t.Errorf("sinks.py %s: %v", when, err)
	}
}

// members is who is in which group, and in which generation.
func (s *sinks) members() string {
	s.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.broker))
	if err != nil {
		s.t.Fatal(err)
	}
	defer client.Close()
	groups, err := kadm.NewClient(client).DescribeGroups(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	var b strings.Builder
	for _, g := range groups.Sorted() {
		fmt.Fprintln(&b, g.Group, g.State)
		for _, m := range g.Members {
			fmt.Fprintln(&b, m.MemberID)
		}
	}
	return b.String()
}

// running is the pipeline in a process that lives while others replay.
type running struct {
	*sinks
	cmd   *exec.Cmd
	said  *bytes.Buffer
	admin string
}

func (s *sinks) daemon() *running {
	s.t.Helper()
	d := &running{sinks: s, admin: freeAddress(s.t)}
	d.cmd, d.said = s.command("run", s.file)
	d.cmd.Env = append(d.cmd.Env, "ADMIN="+d.admin)
	if err := d.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = d.cmd.Process.Kill() })
	d.settle()
	return d
}

// settle waits until all partitions are owned, read and committed.
func (d *running) settle() {
	d.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	late := time.After(2 * time.Minute)
	for quiet := 0; quiet < 5; {
		select {
		case <-tick.C:
		case <-late:
			d.t.Fatalf("not all is read and committed\n%s\n%s", metrics(d.admin), d.said)
		}
		if quiet++; !settled(d.admin) || !drained(d.admin) {
			quiet = 0
		}
	}
}

func (d *running) stop() {
	d.t.Helper()
	if err := errors.Join(d.cmd.Process.Signal(syscall.SIGTERM), d.cmd.Wait()); err != nil {
		d.t.Fatalf("the pipeline: %v\n%s", err, d.said)
	}
}

// killSourceReplay kills a replay after d; false: it was done.
func (s *sinks) killSourceReplay(into string, d time.Duration) bool {
	s.t.Helper()
	cmd, said := s.command("replay", "--source", "--into", into, s.file)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil && !strings.Contains(said.String(), "committed nothing yet") {
			s.t.Fatalf("replay --source: %v\n%s", err, said)
		}
		return false
	case <-time.After(d):
	}
	_ = cmd.Process.Kill()
	<-ended
	return true
}
