//go:build real

// Package crash kills the real program, again and again, and counts rows afterwards with readers that are not ours.
package crash

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace-io/millrace/testenv/clicks"
)

// kills of every crash test, at the least.
const kills = 50

// program builds one of the repository's commands.
func program(t *testing.T, pkg string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(pkg))
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", out, "../../"+pkg)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, text)
	}
	return out
}

// server starts one of the repository's servers and returns what it is ready at.
func server(t *testing.T, bin string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), bin, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	where, ok := strings.CutPrefix(strings.TrimSpace(line), "ready ")
	if err != nil || !ok {
		t.Fatalf("%s said %q: %v", bin, line, err)
	}
	return where
}

// millrace is the program with a pipeline file and its environment.
type millrace struct {
	t    *testing.T
	bin  string
	file string
	env  []string
}

func (m *millrace) command(args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.Command(m.bin, args...)
	said := new(bytes.Buffer)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), m.env...), said, said
	return cmd, said
}

// killAfter runs the pipeline and kills it after d. It says whether the process was still alive then.
func (m *millrace) killAfter(d time.Duration, args ...string) bool {
	m.t.Helper()
	cmd, said := m.command(append([]string{"run"}, append(args, m.file)...)...)
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			m.t.Fatalf("run ended by itself: %v\n%s", err, said)
		}
		return false
	case <-time.After(d):
	}
	_ = cmd.Process.Kill()
	<-ended
	return true
}

// pauses runs the pipeline in one process, that stands still again and again for longer than its leases and sessions live (SIGSTOP, as a
// machine does that is moved), until ctx ends. A soft stop then has to succeed.
func (m *millrace) pauses(ctx context.Context, random *rand.Rand) {
	m.t.Helper()
	cmd, said := m.command("run", m.file)
	if err := cmd.Start(); err != nil {
		m.t.Error(err)
		return
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	times := 0
	for stop := false; !stop; times++ {
		select {
		case <-time.After(time.Second + time.Duration(random.IntN(2000))*time.Millisecond):
		case <-ctx.Done():
			stop = true
			continue
		case err := <-ended:
			m.t.Errorf("the run that is paused ended by itself: %v\n%s", err, said)
			return
		}
		_ = cmd.Process.Signal(syscall.SIGSTOP)
		<-time.After(3*time.Second + time.Duration(random.IntN(4000))*time.Millisecond)
		_ = cmd.Process.Signal(syscall.SIGCONT)
	}
	if err := softStop(cmd, ended); err != nil {
		m.t.Errorf("the run that was paused: %v\n%s", err, said)
	}
	m.t.Logf("one process was paused %d times", times)
}

// softStop ends a run that commits what it has.
func softStop(cmd *exec.Cmd, ended <-chan error) error {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("soft stop: %w", err)
		}
		return nil
	case <-time.After(3 * time.Minute):
		_ = cmd.Process.Signal(syscall.SIGABRT) // with the goroutines' stacks
		<-ended
		return errors.New("no soft stop in 3 minutes")
	}
}

// verify is millrace verify --deep, which must be clean.
func (m *millrace) verify() {
	m.t.Helper()
	cmd, said := m.command("verify", "--deep", m.file)
	if err := cmd.Run(); err != nil {
		m.t.Errorf("verify: %v\n%s", err, said)
	}
}

// compare counts with Python.
func compare(t *testing.T, kind, lake, dead string, inputs []string) {
	t.Helper()
	python(t, append([]string{kind, lake, dead}, inputs...)...)
}

// python runs compare.py, which must find nothing.
func python(t *testing.T, args ...string) {
	t.Helper()
	text, err := script(t, "compare.py", args...)
	t.Logf("%s", text)
	if err != nil {
		t.Errorf("compare: %v (testenv/install.sh makes the environment)", err)
	}
}

// script runs one of this folder's scripts and returns what it says.
func script(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	python := filepath.Join(cache, "millrace", "venv", "bin", "python")
	text, err := exec.CommandContext(t.Context(), python, append([]string{name}, args...)...).CombinedOutput()
	return string(text), err
}

// seed of this run; MILLRACE_SEED repeats one.
func seed(t *testing.T) *rand.Rand {
	t.Helper()
	n := uint64(time.Now().UnixNano())
	if s := os.Getenv("MILLRACE_SEED"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("MILLRACE_SEED=%d", n)
	return rand.New(rand.NewPCG(n, 0))
}

// fork is for another goroutine.
func fork(random *rand.Rand) *rand.Rand { return rand.New(rand.NewPCG(random.Uint64(), 0)) }

const filesPipeline = `name: crash
source:
  files: { paths: ["%[1]s/in/*"], checkpoints: "%[1]s/checkpoints", concurrency: 2 }
decode:
  format: csv
  fields: { time: InvoiceDate, user: CustomerID, item: StockCode, session: InvoiceNo, quantity: Quantity, price: UnitPrice, country: Country }
  time: { layouts: ["2006-01-02 15:04:05"], zone: UTC }
  columns: { description: { path: Description, type: string } }
sinks:
  lake:
    parquet: { url: "%[2]s/lake", partition_by: [date, hour], roll: { size: 64KiB, age: 50ms, idle: 50ms } }
dead_letters: { url: "%[2]s/dead" }
`

// retail is a folder of Online Retail days, with as many copies of them as it takes to have work for all kills.
type retail struct {
	t      *testing.T
	folder string
	copies int
	names  []string
}

func newRetail(t *testing.T, folder string) *retail {
	t.Helper()
	if err := os.MkdirAll(folder, 0o777); err != nil {
		t.Fatal(err)
	}
	r := &retail{t: t, folder: folder}
	r.write("broken.csv", []byte("InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"+
		"1,A,no such day,1,2010-13-01 08:26:00,2.55,17850.0,France\n"+
		"2,B,not a number,many,2010-12-01 08:26:00,2.55,17850.0,France\n"+
		"3,C,fine,1,2010-12-01 08:26:00,2.55,17850.0,France\n"))
	return r
}

func (r *retail) write(name string, data []byte) {
	r.t.Helper()
	name = filepath.Join(r.folder, name)
	if err := os.WriteFile(name, data, 0o666); err != nil {
		r.t.Fatal(err)
	}
	r.names = append(r.names, name)
}

// add copies the days so many times more.
func (r *retail) add(copies int) {
	r.t.Helper()
	days, err := filepath.Glob("../data/online-retail/*.csv.gz")
	if err != nil || len(days) == 0 {
		r.t.Fatalf("no test data: %v", err)
	}
	for range copies {
		r.copies++
		for _, day := range days {
			data, err := os.ReadFile(day)
			if err != nil {
				r.t.Fatal(err)
			}
			r.write(fmt.Sprintf("%03d-%s", r.copies, filepath.Base(day)), data)
		}
	}
}

// TestRealCrashFiles kills the program over the Online Retail files, to a folder.
func TestRealCrashFiles(t *testing.T) {
	dir := t.TempDir()
	input := newRetail(t, filepath.Join(dir, "in"))
	m := &millrace{t: t, bin: program(t, "cmd/millrace"), file: filepath.Join(dir, "pipeline.yaml")}
	if err := os.WriteFile(m.file, fmt.Appendf(nil, filesPipeline, dir, dir), 0o666); err != nil {
		t.Fatal(err)
	}
	m.crashToTheEnd(seed(t), input)
	m.verify()
	compare(t, "csv", filepath.Join(dir, "lake"), filepath.Join(dir, "dead"), input.names)
}

// TestRealCrashFilesToFailingS3 is the same to an S3 server that fails one request in five, some of them after the effect.
func TestRealCrashFilesToFailingS3(t *testing.T) {
	dir := t.TempDir()
	input := newRetail(t, filepath.Join(dir, "in"))
	url := server(t, program(t, "testenv/cmd/s3"), "-dir", filepath.Join(dir, "s3"), "-fault-rate", "0.2")
	m := &millrace{t: t, bin: program(t, "cmd/millrace"), file: filepath.Join(dir, "pipeline.yaml"), env: s3env(url)}
	if err := os.WriteFile(m.file, fmt.Appendf(nil, filesPipeline, dir, "s3://lake"), 0o666); err != nil {
		t.Fatal(err)
	}
	m.crashToTheEnd(seed(t), input)
	m.verify()
	objects := filepath.Join(dir, "s3", "objects", "lake")
	compare(t, "csv", filepath.Join(objects, "lake"), filepath.Join(objects, "dead"), input.names)
}

func s3env(url string) []string {
	return []string{"AWS_ENDPOINT_URL_S3=" + url, "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=local", "AWS_SECRET_ACCESS_KEY=localsecret"}
}

// crashToTheEnd kills runs over finite files at random moments, with more files whenever all were read, then lets one
// run finish.
func (m *millrace) crashToTheEnd(random *rand.Rand, input *retail) {
	m.t.Helper()
	for killed := 0; killed < kills; {
		if m.killAfter(30*time.Millisecond+time.Duration(random.IntN(500))*time.Millisecond, "--until-end") {
			killed++
		} else {
			input.add(5)
		}
	}
	cmd, said := m.command("run", "--until-end", m.file)
	if err := cmd.Run(); err != nil {
		m.t.Fatalf("the last run: %v\n%s", err, said)
	}
}

const brokerPipeline = `name: crash
source:
  kafka: { brokers: ["%s"], topics: [clicks], session_timeout: 3s, rebalance_timeout: 2s }
decode: { format: json }
sinks:
  lake:
    parquet: { url: "s3://lake/lake", partition_by: [date, hour], roll: { size: 256KiB, age: 300ms, idle: 100ms } }
dead_letters: { url: "s3://lake/dead" }
admin: "${ADMIN}"
`

// TestRealCrashBroker kills two processes that share a group, over an S3 server that fails one request in five.
func TestRealCrashBroker(t *testing.T) {
	dir := t.TempDir()
	random := seed(t)
	broker := server(t, program(t, "testenv/cmd/broker"), "-topic", "clicks", "-partitions", "4")
	url := server(t, program(t, "testenv/cmd/s3"), "-dir", filepath.Join(dir, "s3"), "-fault-rate", "0.2")
	file := filepath.Join(dir, "pipeline.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, brokerPipeline, broker), 0o666); err != nil {
		t.Fatal(err)
	}
	bin := program(t, "cmd/millrace")
	input := filepath.Join(dir, "input.jsonl")
	producing, done := context.WithCancel(t.Context())
	defer done()
	var feeding sync.WaitGroup
	feeding.Go(func() { produce(t, producing, input, broker) })

	var workers sync.WaitGroup
	for range 2 {
		own := fork(random)
		workers.Go(func() {
			m := &millrace{t: t, bin: bin, file: file, env: append(s3env(url), "ADMIN=127.0.0.1:0")}
			for range kills / 2 {
				m.killAfter(200*time.Millisecond + time.Duration(own.IntN(4000))*time.Millisecond)
			}
		})
	}
	workers.Wait()
	done()
	feeding.Wait()

	last := &millrace{t: t, bin: bin, file: file, env: append(s3env(url), "ADMIN="+freeAddress(t))}
	last.finish()
	last.verify()
	objects := filepath.Join(dir, "s3", "objects", "lake")
	compare(t, "json", filepath.Join(objects, "lake"), filepath.Join(objects, "dead"), []string{input})
}

// produce sends events, a few of them broken, until ctx ends, and writes what was acknowledged to a file.
func produce(t *testing.T, ctx context.Context, file string, seeds ...string) {
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.DefaultProduceTopic("clicks"))
	if err != nil {
		t.Error(err)
		return
	}
	defer client.Close()
	out, err := os.Create(file)
	if err != nil {
		t.Error(err)
		return
	}
	defer out.Close()
	g := clicks.New(clicks.Config{Seed: 1, Step: time.Second, Broken: 2000})
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for n := uint64(0); ctx.Err() == nil; {
		var batch []*kgo.Record
		for range 20 {
			batch = append(batch, &kgo.Record{Key: g.Key(nil, n), Value: g.Append(nil, n)})
			n++
		}
		// Without the test's context: what is sent is acknowledged or an error, never in between.
		if err := client.ProduceSync(context.WithoutCancel(ctx), batch...).FirstErr(); err != nil {
			t.Error(err)
			return
		}
		for _, r := range batch {
			fmt.Fprintf(out, "%s\n", r.Value)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// finish runs the pipeline until nothing is left to read or to commit, and stops it softly.
func (m *millrace) finish() {
	m.t.Helper()
	m.finishWhen(settled)
}

func (m *millrace) finishWhen(settled func(admin string) bool) {
	m.t.Helper()
	cmd, said := m.command("run", m.file)
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	admin := strings.TrimPrefix(m.env[len(m.env)-1], "ADMIN=")
	deadline := time.Now().Add(3 * time.Minute)
	for quiet := 0; quiet < 5; {
		if time.Now().After(deadline) {
			state := metrics(admin)
			_ = cmd.Process.Signal(syscall.SIGABRT) // with the goroutines' stacks
			_ = cmd.Wait()
			m.t.Fatalf("not all was read in 5 minutes\n%s\n%s", state, said)
		}
		<-time.After(200 * time.Millisecond)
		if settled(admin) {
			quiet++
		} else {
			quiet = 0
		}
	}
	if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil {
		m.t.Fatalf("the last run: %v\n%s", err, said)
	}
}

// settled says that all four partitions of a topic are here and done with.
func settled(admin string) bool { return caughtUp(admin, "millrace_partition_lag_records{", 4) }

// caughtUp says that so many partitions are here, without lag by the given metric and without uncommitted records, and that none
// waits for an owner.
func caughtUp(admin, lag string, partitions int) bool {
	caught := 0
	for line := range strings.Lines(metrics(admin)) {
		value := strings.TrimSpace(line[strings.LastIndexByte(strings.TrimSpace(line), ' ')+1:])
		switch {
		case strings.HasPrefix(line, lag) && value == "0":
			caught++
		case strings.HasPrefix(line, "millrace_partition_oldest_uncommitted_age_seconds{") && value != "0",
			strings.HasPrefix(line, "millrace_partitions_unowned{") && value != "0":
			return false
		}
	}
	return caught == partitions
}

// metrics is what the admin server says; empty when it does not answer.
func metrics(admin string) string {
	response, err := http.Get("http://" + admin + "/metrics")
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return ""
	}
	return string(text)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// events is how often a process leaves in a test with comings; each is followed by a new one.
const events = 30

// comings are processes of one pipeline that share its partitions. Some leave, half of them killed, and others come in their place; one
// stays, and is paused for longer than its session or its leases live.
type comings struct {
	millrace
	left chan struct{} // has a value for each that left

	outages atomic.Int64
	up      sync.RWMutex // locked in an outage: no process is started then
}

// begin starts three processes and the one that is paused. stopped waits until the last one has left.
func begin(m millrace, random *rand.Rand) (c *comings, stopped func()) {
	const processes = 3
	m.env = append(slices.Clone(m.env), "ADMIN=127.0.0.1:0")
	c = &comings{millrace: m, left: make(chan struct{}, events)}
	var leaving, staying sync.WaitGroup
	for range processes {
		own := fork(random)
		leaving.Go(func() { c.comeAndLeave(own, events/processes) })
	}
	pausing, enough := context.WithCancel(c.t.Context())
	own := fork(random)
	staying.Go(func() { c.pauses(pausing, own) })
	return c, func() {
		leaving.Wait()
		enough()
		staying.Wait()
	}
}

func (c *comings) comeAndLeave(random *rand.Rand, times int) {
	for n := 0; n < times; {
		c.up.RLock()
		before := c.outages.Load()
		c.up.RUnlock()
		err := c.leaveAfter(500*time.Millisecond+time.Duration(random.IntN(4000))*time.Millisecond, random.IntN(2) == 0)
		if err != nil && c.outages.Load() > before {
			continue // it was not connected yet
		}
		if err != nil {
			c.t.Error(err)
		}
		c.left <- struct{}{}
		n++
	}
}

// prove reads all that is left, and compares the lake in dir with what went in.
func (c *comings) prove(settled func(admin string) bool, dir string, inputs ...string) {
	c.t.Helper()
	m := c.millrace
	m.env = append(slices.Clone(m.env), "ADMIN="+freeAddress(c.t))
	m.finishWhen(settled)
	m.verify()
	compare(c.t, "json", filepath.Join(dir, "lake"), filepath.Join(dir, "dead"), inputs)
}

// leave waits until n more have left.
func (c *comings) leave(n int) {
	for range n {
		<-c.left
	}
}

// outage is f, while which the source's server is not there.
func (c *comings) outage(f func()) {
	c.up.Lock()
	defer c.up.Unlock()
	c.outages.Add(1)
	f()
}

// leaveAfter runs the pipeline for d, then kills it, or stops it softly, which must succeed.
func (m *millrace) leaveAfter(d time.Duration, kill bool) error {
	cmd, said := m.command("run", m.file)
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return fmt.Errorf("run ended by itself: %w\n%s", err, said)
	case <-time.After(d):
	}
	if kill {
		_ = cmd.Process.Kill()
		<-ended
		return nil
	}
	if err := softStop(cmd, ended); err != nil {
		return fmt.Errorf("%w\n%s", err, said)
	}
	return nil
}
