package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// lake is a pipeline over files in a folder.
type testLake struct {
	t   *testing.T
	dir string
}

func newLake(t *testing.T) *testLake {
	l := &testLake{t, t.TempDir()}
	if err := os.Mkdir(filepath.Join(l.dir, "in"), 0o777); err != nil {
		t.Fatal(err)
	}
	return l
}

// records adds a file of n clicks.
func (l *testLake) records(name string, n int) {
	l.t.Helper()
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, `{"event_id":"%s-%d","event_type":"click","event_time":"2026-01-02T03:04:05Z","user_id":"u%d"}`+"\n", name, i, i%7)
	}
	l.write(filepath.Join("in", name), text.String())
}

func (l *testLake) write(name, text string) string {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// pipeline writes a pipeline file; more is added to its end.
func (l *testLake) pipeline(follow bool, more string) string {
	l.t.Helper()
	return l.pipelineTo(filepath.Join(l.dir, "lake"), follow, more)
}

func (l *testLake) pipelineTo(url string, follow bool, more string) string {
	l.t.Helper()
	return l.write("clicks.yaml", fmt.Sprintf(`name: clicks
source:
  files: { paths: ["%[1]s/in"], checkpoints: "%[1]s/checkpoints", follow: %[3]v, poll: 5ms }
sinks:
  lake:
    parquet: { url: "%[2]s", roll: { age: 1h, idle: 1h } }
dead_letters: { url: "%[2]s_dead" }
%[4]s`, l.dir, url, follow, more))
}

// parquetFiles are the published files of the lake.
func (l *testLake) parquetFiles() []string {
	var files []string
	_ = filepath.WalkDir(filepath.Join(l.dir, "lake"), func(path string, d os.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(d.Name(), "_") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".parquet") {
			files = append(files, path)
		}
		return nil
	})
	return files
}

func TestRunUntilEndCommitsEverything(t *testing.T) {
	l := newLake(t)
	l.records("a.jsonl", 100)
	l.records("b.jsonl", 50)
	l.write("in/c.jsonl", "{\"event_id\":\"c\",\"event_type\":\"click\",\"event_time\":\"2026-01-02T03:04:05Z\"}\nnot json\n")
	file := l.pipeline(false, "process:\n  - filter: 'user != \"u3\"'\n")
	got := millrace(t.Context(), "", "run", "--until-end", file)
	if got.code != 0 || got.stdout != "" {
		t.Fatalf("%+v", got)
	}
	got = millrace(t.Context(), "", "verify", "--deep", file)
	want := "clicks: clean: 152 records read = 130 kept + 21 dropped + 1 dead, in 4 files of 3 partitions, every row read\n"
	if got.code != 0 || got.err != "" || !strings.HasPrefix(got.stdout, want) {
		t.Errorf("%+v; want %s", got, want)
	}
	before := l.parquetFiles()
	if got := millrace(t.Context(), "", "run", "--until-end", file); got.code != 0 {
		t.Errorf("again: %+v", got)
	}
	if after := l.parquetFiles(); strings.Join(before, " ") != strings.Join(after, " ") || len(after) == 0 {
		t.Errorf("a second run over the same files changed the lake: %v, then %v", before, after)
	}
}

func TestUntilEndEndsAFollowingSource(t *testing.T) {
	l := newLake(t)
	l.records("a.jsonl", 10)
	if got := millrace(t.Context(), "", "run", l.pipeline(true, ""), "--until-end"); got.code != 0 || len(l.parquetFiles()) == 0 {
		t.Errorf("%+v", got)
	}
}

func TestUntilEndOfAnEndlessSourceIsWrongUsage(t *testing.T) {
	l := newLake(t)
	file := l.write("clicks.yaml", "name: clicks\nsource: { kafka: { brokers: ['127.0.0.1:1'], topics: [clicks] } }\nsinks: { lake: { parquet: { url: lake } } }\n")
	got := millrace(t.Context(), "", "run", "--until-end", file)
	if got.code != 2 || !strings.Contains(got.err, "kafka never does") || strings.Count(got.err, "\n") != 1 {
		t.Errorf("%+v", got)
	}
}

func TestVerifyNamesWhatIsMissing(t *testing.T) {
	l := newLake(t)
	l.records("a.jsonl", 20)
	file := l.pipeline(false, "")
	if got := millrace(t.Context(), "", "verify", file); got.code != 0 || got.stdout != "clicks: clean: nothing was committed yet\n" {
		t.Errorf("before the first run: %+v", got)
	}
	if got := millrace(t.Context(), "", "run", file); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	for _, f := range l.parquetFiles() {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	got := millrace(t.Context(), "", "verify", file)
	if got.code != 1 || !regexp.MustCompile(`(?m)^clicks: 1 problem: .*\nmissing: .*a\.jsonl, records after [0-9a-f]+ to [0-9a-f]+: `).MatchString(got.stdout) {
		t.Errorf("%+v", got)
	}
	if got := millrace(t.Context(), "", "verify", "--json", l.pipelineTo(filepath.Join(l.dir, "other"), false, "")); got.code != 1 {
		t.Errorf("another lake: %+v", got)
	}
	file = l.pipeline(false, "")
	got = millrace(t.Context(), "", "verify", "--json", file)
	var report struct {
		Clean    bool
		Problems []struct{ Kind, Partition string }
	}
	if err := json.Unmarshal([]byte(got.stdout), &report); err != nil || got.code != 1 || report.Clean || len(report.Problems) != 1 || report.Problems[0].Kind != "missing" {
		t.Errorf("%v %+v", err, got)
	}
	got = millrace(t.Context(), "", "verify", filepath.Join(l.dir, "none.yaml"))
	if got.code != 2 || strings.Count(got.err, "\n") != 1 {
		t.Errorf("no such file: %+v", got)
	}
}

func TestProblemsOfThePipelineFileStopTheRun(t *testing.T) {
	got := millrace(t.Context(), "name: clicks\nsorce: {}\nsinks: { lake: { parquet: { uri: x } } }\n", "run", "-")
	want := "-:2:1: unknown key \"sorce\"; did you mean \"source\"?\n-:3:29: unknown key \"uri\" in sinks.lake.parquet; did you mean \"url\"?\n"
	if got.code != 1 || got.stdout != "" || got.err != want {
		t.Errorf("%+v; want %s", got, want)
	}
	got = millrace(t.Context(), "", "run", filepath.Join(t.TempDir(), "none.yaml"))
	if got.code != 1 || !strings.Contains(got.err, "none.yaml") || strings.Count(got.err, "\n") != 1 {
		t.Errorf("no such file: %+v", got)
	}
}

// s3Answering points the AWS SDK to a server that answers every request with h.
func s3Answering(t *testing.T, h http.HandlerFunc) {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	t.Setenv("AWS_ENDPOINT_URL_S3", srv.URL)
	t.Setenv("AWS_REGION", "us-east-1")
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
}

func refusal(status int, code, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, message)
	}
}

func TestUnusablePlacesFailBeforeAnythingIsRead(t *testing.T) {
	for name, c := range map[string]struct {
		server http.HandlerFunc
		url    func(dir string) string
		want   string
	}{
		"bucket missing":      {refusal(404, "NoSuchBucket", "The specified bucket does not exist"), nil, "NoSuchBucket"},
		"credentials refused": {refusal(403, "InvalidAccessKeyId", "The key does not exist"), nil, "InvalidAccessKeyId"},
		"access denied":       {refusal(403, "AccessDenied", "Access Denied"), nil, "AccessDenied"},
		"unknown key":         {refusal(404, "XAdminUserNotFound", "No user exists with the provided access key ID."), nil, "XAdminUserNotFound"},
		"a file in the way":   {nil, func(dir string) string { return filepath.Join(dir, "in", "a.jsonl") }, "is a file; want a folder"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLake(t)
			l.records("a.jsonl", 3)
			url := "s3://lake/clicks"
			if c.server != nil {
				s3Answering(t, c.server)
			} else {
				url = c.url(l.dir)
			}
			got := millrace(t.Context(), "", "run", l.pipelineTo(url, false, ""))
			if got.code != 1 || strings.Count(got.err, "\n") != 1 || !strings.Contains(got.err, c.want) || !strings.Contains(got.err, "clicks.yaml:6:") {
				t.Errorf("%+v; want one line with %s", got, c.want)
			}
			probe := millrace(t.Context(), "", "lint", "--probe", filepath.Join(l.dir, "clicks.yaml"))
			if probe.code != 1 || !strings.Contains(probe.stdout, c.want) {
				t.Errorf("lint --probe: %+v", probe)
			}
			if checkpoints, _ := os.ReadDir(filepath.Join(l.dir, "checkpoints")); len(checkpoints) > 0 {
				t.Error("the source was opened:", checkpoints)
			}
		})
	}
}

func TestFailureIsALineOfTheLogForMachines(t *testing.T) {
	l := newLake(t)
	l.records("a.jsonl", 3)
	got := millrace(t.Context(), "", "run", "--log-format", "json", l.pipelineTo(filepath.Join(l.dir, "in", "a.jsonl"), false, ""))
	if got.code != 1 {
		t.Errorf("%+v", got)
	}
	for line := range strings.Lines(got.err) {
		var entry struct{ Level, Error string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Level == "ERROR" && !strings.Contains(entry.Error, "want a folder") {
			t.Errorf("%v: %s", err, line)
		}
	}
}

func TestAdminPortInUseIsSaidSo(t *testing.T) {
	busy, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	l := newLake(t)
	got := millrace(t.Context(), "", "run", l.pipeline(false, "admin: "+busy.Addr().String()+"\n"))
	if got.code != 1 || strings.Count(got.err, "\n") != 1 || !strings.Contains(got.err, "address already in use") || !strings.Contains(got.err, "another port") {
		t.Errorf("%+v", got)
	}
}

func TestEndOfContextIsASoftStop(t *testing.T) {
	l := newLake(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := millrace(ctx, "", "run", l.pipeline(true, "")); got.code != 0 {
		t.Errorf("%+v", got)
	}
}

// process is the program in a process of its own.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines *bufio.Scanner // of standard error
	log   strings.Builder
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	p := &process{t: t, cmd: exec.CommandContext(ctx, os.Args[0], args...)}
	p.cmd.Env = append(os.Environ(), "MILLRACE_TEST_MAIN=yes")
	p.cmd.WaitDelay = 10 * time.Second
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewScanner(stderr)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// await reads the log up to a line that matches and returns its groups.
func (p *process) await(pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	for p.lines.Scan() {
		fmt.Fprintln(&p.log, p.lines.Text())
		if m := re.FindStringSubmatch(p.lines.Text()); m != nil {
			return m
		}
	}
	p.t.Fatalf("no line %s in\n%s", pattern, p.log.String())
	return nil
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// exit waits for the end and returns the exit code.
func (p *process) exit() int {
	for p.lines.Scan() {
		fmt.Fprintln(&p.log, p.lines.Text())
	}
	_ = p.cmd.Wait() // the code says it
	return p.cmd.ProcessState.ExitCode()
}

// eventually asks the admin server until its answer matches.
func (p *process) eventually(address, path, pattern string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	body := ""
	for ctx.Err() == nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
		if err != nil {
			p.t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			continue
		}
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if body = string(text); regexp.MustCompile(pattern).MatchString(body) {
			return
		}
	}
	p.t.Fatalf("%s never said %s, but\n%s", path, pattern, body)
}

func TestSignalDrainsAndCommits(t *testing.T) {
	for _, s := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		l := newLake(t)
		l.records("a.jsonl", 200)
		file := l.pipeline(true, "admin: 127.0.0.1:0\n")
		p := start(t, "run", file)
		address := p.await(`admin server listens.*address=(\S+)`)[1]
		p.eventually(address, "/readyz", `^ready: 1 partition`)
		p.eventually(address, "/metrics", `millrace_records_processed_total\{fate="kept",pipeline="clicks"\} 200`)
		p.eventually(address, "/healthz", `^ok`)
		if files := l.parquetFiles(); len(files) > 0 {
			t.Errorf("visible before the commit: %v", files)
		}
		p.signal(s)
		if code := p.exit(); code != 0 || len(l.parquetFiles()) == 0 {
			t.Errorf("%v: exit code %d, files %v\n%s", s, code, l.parquetFiles(), p.log.String())
		}
		if got := millrace(t.Context(), "", "verify", "--deep", file); got.code != 0 || !strings.Contains(got.stdout, "200 records read = 200 kept") {
			t.Errorf("%+v", got)
		}
	}
}

func TestSecondSignalStopsAtOnce(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	s3Answering(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "_millrace/probe") {
			fmt.Fprint(w, "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")
			return
		}
		select { // everything else is never answered
		case <-hang:
		case <-r.Context().Done():
		}
	})
	l := newLake(t)
	l.records("a.jsonl", 10)
	p := start(t, "run", l.pipelineTo("s3://lake/clicks", true, "admin: 127.0.0.1:0\n"))
	address := p.await(`admin server listens.*address=(\S+)`)[1]
	p.eventually(address, "/metrics", `fate="kept",pipeline="clicks"\} 10`)
	p.signal(syscall.SIGTERM)
	p.await(`a second signal stops at once`)
	p.signal(syscall.SIGTERM) // of a supervisor that tells the process and its group
	<-time.After(signalGrace)
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != 1 || !strings.Contains(p.log.String(), "millrace run: stopped at once by a second signal") {
		t.Errorf("exit code %d\n%s", code, p.log.String())
	}
}
