package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/cmd/millrace/pipelinefile"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/stream/sim"
)

// Mutations seen red (line broken -> test):
//   - sim.go, exit code 0 in spite of failures        -> TestSimCatchesABrokenFence
//   - simlines.go, no record is spoiled               -> TestSimInputFitsTheFile
//   - simlines.go, records are not of the seed alone  -> TestSimInputFitsTheFile, TestSimSaysTheSameEveryTime, TestSimTraceShowsWhatHappens
//   - simparts.go, a crash is not noted               -> TestSimNamesTheSeedThatCrashes
//   - stream/sim/fence.go, the fence is skipped       -> TestSimOfEveryExampleIsClean
//   - sinks/spool Flush, fails when the sink stalls   -> TestAStalledSinkHoldsNobodyUp
//
// Of the engine and the spool, seen red by 300 seeds of the file of TestSimOfASpoolIsClean, with made lines or with ones of several events
// (line broken -> what is found). The test has fewer seeds and misses the rarest.
//
//	writer.go   Flush: does not wait                       -> committed before the sink has it, and not set aside
//	writer.go   Flush: keeps nothing of what it withdraws  -> the same
//	writer.go   Stage: what is in memory is not sealed     -> the same
//	commit.go   stage leaves spools out                    -> the same
//	line.go     the index is not read back                 -> the same
//	line.go     the record's time is not read back         -> a row is not what its record says
//	drain.go    newest file first                          -> a row before an earlier one of its key
//	drain.go    a file that is not sent counts as drained  -> the same
//	writer.go   turn: direct while files wait              -> the same
//	writer.go   turn: files that are published do not count -> the same
//	spool.go    Publish does not tell the writer           -> the same
//	commit.go   republish publishes nothing                -> the same, in the lake
//	writer.go   Settled is always true                     -> a file is not drained
//	worker.go   a writer that is not settled is no reason to commit -> the same
//	spool.go    Withdraw does nothing                      -> the same
//	drain.go    a store may take hours to answer           -> the same
//	drain.go    a file goes at once, not with a commit     -> a dead letter is missing
//	drain.go    refusals are forgotten                     -> the same
//	writer.go   Stage takes files whose letters Flush has not returned -> the same
//	commit.go   publish removes with all else              -> the same
//	commit.go   one dead letter for all sinks              -> the same
//	orphans.go  a file with refusals goes                  -> the same
//	orphans.go  a file that is not sent goes               -> the same
//	orphans.go  no mark for what was drained               -> the same
//	drain.go    the drain begins at Open                   -> a dead letter twice
//	writer.go   pack marks nothing as buried               -> the same
//	commit.go   what is set aside counts as a file         -> verify: damaged
//	audit.go    follow left out                            -> the same

// simulation calls sim; its processes are this test binary. Without a limit of time: the machine may be busy.
func simulation(t *testing.T, stdin string, args ...string) outcome {
	t.Helper()
	t.Setenv("MILLRACE_TEST_MAIN", "yes")
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), append([]string{"sim"}, args...), strings.NewReader(stdin), &stdout, &stderr)
	return outcome{code, stdout.String(), stderr.String()}
}

func TestSimOfEveryExampleIsClean(t *testing.T) {
	files, err := filepath.Glob("../../docs/examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range files {
		if filepath.Base(file) == "collect.yaml" { // a collector's file, not a pipeline's
			continue
		}
		got := simulation(t, "", file, "--runs", "10")
		if got.code != exitOK || !strings.Contains(got.stdout, ": clean: 10 schedules, ") {
			t.Errorf("%s: %+v", file, got)
		}
	}
}

// spooled is a file with a staged sink, and two that set writes aside.
const spooled = "../../docs/examples/kafka-to-three-sinks.yaml"

// severalEvents is a file of records with up to three events each, so that a sink refuses more than one of a record.
func severalEvents(t *testing.T) string {
	t.Helper()
	var lines strings.Builder
	for i := range 300 {
		event := fmt.Sprintf(`{"id":"e%d","type":"click","user":"u%d"}`, i, i*7%17)
		switch i * 5 % 7 {
		case 0, 1:
			fmt.Fprintf(&lines, "[%s,%s]\n", event, event)
		case 2:
			fmt.Fprintf(&lines, "[%s,%s,%s]\n", event, event, event)
		case 3:
			fmt.Fprintln(&lines, event[:20])
		default:
			fmt.Fprintln(&lines, event)
		}
	}
	path := filepath.Join(t.TempDir(), "several.jsonl")
	if err := os.WriteFile(path, []byte(lines.String()), 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSimOfASpoolIsClean(t *testing.T) {
	runs := "150"
	if testing.Short() {
		runs = "40"
	}
	for _, args := range [][]string{nil, {"--data", severalEvents(t)}} {
		got := simulation(t, "", append([]string{spooled, "--runs", runs, "--json"}, args...)...)
		var report simReport
		if err := json.Unmarshal([]byte(got.stdout), &report); err != nil {
			t.Fatalf("%v: %+v", err, got)
		}
		if !report.Clean || report.Counts.Aside < 1000 {
			t.Errorf("%d of %s schedules broke the promise, %d writes were set aside: %v", report.Failed, runs, report.Counts.Aside, report.Failures)
		}
	}
}

func TestSimOfASpoolSaysTheSameEveryTime(t *testing.T) {
	var digests [2]string
	for i := range digests {
		var report simReport
		got := simulation(t, "", spooled, "--json", "--seed", "50", "--runs", "40")
		if err := json.Unmarshal([]byte(got.stdout), &report); err != nil {
			t.Fatalf("%v: %+v", err, got)
		}
		digests[i] = report.Digest
	}
	if digests[0] != digests[1] {
		t.Errorf("digests %v", digests)
	}
}

// TestAStalledSinkHoldsNobodyUp: while one sink fails for minutes, and nothing else goes wrong, the lake gets all records.
func TestAStalledSinkHoldsNobodyUp(t *testing.T) {
	text, err := os.ReadFile(spooled)
	if err != nil {
		t.Fatal(err)
	}
	outage := func(text string) (lake int, aside int) {
		p := newPlan(pipelinefile.Parse("x.yaml", []byte(text), os.LookupEnv))
		if problems := p.file.Problems(); len(problems) > 0 {
			t.Fatal(problems)
		}
		pipeline, err := p.simulated("")
		if err != nil {
			t.Fatal(err)
		}
		steps := []sim.Step{
			{Kind: sim.SinkFails, Sink: "search", For: 10 * time.Minute, Wait: time.Second},
			{Kind: sim.Start, Process: 1, Wait: 20 * time.Second},
		}
		for range 6 {
			steps = append(steps, sim.Step{Kind: sim.SinkIsSlow, Wait: 30 * time.Second}) // of no sink: time passes
		}
		runner := sim.Runner{Pipeline: pipeline, Trace: true}
		result := runner.Run(&sim.Schedule{Seed: 1, Shards: 2, Records: 200, Steps: steps, Only: []sim.Call{}})
		for _, v := range result.Violations {
			t.Error(v)
		}
		for _, line := range result.Trace {
			if strings.Contains(line, "nothing goes wrong any more") {
				break
			}
			if strings.Contains(line, "lake.publish") && strings.HasSuffix(line, ": ok") {
				lake++
			}
		}
		return lake, result.Counts.Aside
	}
	if lake, aside := outage(string(text)); lake < 10 || aside < 100 {
		t.Errorf("%d files reach the lake while the other sink is away, %d of its writes are set aside", lake, aside)
	}
	if lake, aside := outage(strings.ReplaceAll(string(text), "on_stall: spool", "on_stall: block")); lake > 0 || aside > 0 {
		t.Errorf("%d files reach the lake although the commit waits for the other sink, %d of its writes are set aside", lake, aside)
	}
}

func TestSimSaysTheSameEveryTime(t *testing.T) {
	text, err := os.ReadFile("../../docs/examples/clicks.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var reports [2]simReport
	for i := range reports {
		got := simulation(t, string(text), "--json", "--seed", "7", "--runs", "9", "-")
		if err := json.Unmarshal([]byte(got.stdout), &reports[i]); err != nil {
			t.Fatalf("%v: %+v", err, got)
		}
		reports[i].Seconds = 0
	}
	one, other := fmt.Sprint(reports[0]), fmt.Sprint(reports[1])
	if one != other || !reports[0].Clean || reports[0].Counts.Commits == 0 {
		t.Errorf("%s\n%s", one, other)
	}
}

func TestSimTraceShowsWhatHappens(t *testing.T) {
	var traces [2]string
	for i := range traces {
		got := simulation(t, "", "--trace", "--seed", "2", "../../docs/examples/clicks.yaml")
		if got.code != exitOK || !strings.Contains(got.stdout, "process 1 starts") || !strings.Contains(got.stdout, "lake.publish") {
			t.Errorf("%+v", got)
		}
		traces[i] = got.stdout
	}
	if traces[0] != traces[1] {
		t.Error("the second trace of a seed is not the first")
	}
}

func TestSimTakesLinesOfYourOwn(t *testing.T) {
	data := filepath.Join(t.TempDir(), "clicks.jsonl")
	lines := `{"event_type":"click","user_id":"ann"}` + "\n" + `{"event_type":"purchase","user_id":"bob"}` + "\nno JSON\n"
	if err := os.WriteFile(data, []byte(lines), 0o666); err != nil {
		t.Fatal(err)
	}
	if got := simulation(t, "", "--runs", "5", "--data", data, "../../docs/examples/clicks.yaml"); got.code != exitOK {
		t.Errorf("%+v", got)
	}
	if got := simulation(t, "", "--data", data+"x", "../../docs/examples/clicks.yaml"); got.code != exitFail || !strings.Contains(got.err, "no such file") {
		t.Errorf("%+v", got)
	}
	if err := os.WriteFile(data, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if got := simulation(t, "", "--data", data, "../../docs/examples/clicks.yaml"); got.code != exitFail || !strings.Contains(got.err, "no records") {
		t.Errorf("%+v", got)
	}
}

// TestSimCatchesABrokenFence builds the program with a source that takes the commits of zombies.
func TestSimCatchesABrokenFence(t *testing.T) {
	program := filepath.Join(t.TempDir(), "millrace")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-tags", "brokenfence", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	sim := func(args ...string) (string, int) {
		cmd := exec.CommandContext(t.Context(), program, append([]string{"sim", "../../docs/examples/clicks.yaml"}, args...)...)
		out, err := cmd.Output()
		if _, isExit := err.(*exec.ExitError); err != nil && !isExit {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	out, code := sim("--runs", "120", "--json")
	var report simReport
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if code != exitFail || report.Clean || len(report.Failures) == 0 {
		t.Fatalf("exit code %d: 120 schedules did not notice: %s", code, out)
	}
	first := report.Failures[0]
	seed := strconv.FormatUint(first.Seed, 10)
	if out, code := sim("--seed", seed, "--trace"); code != exitFail || !strings.HasSuffix(out, first.Violations[len(first.Violations)-1].String()+"\n") {
		t.Errorf("the trace of seed %s ends with exit code %d, and not with what was found before: %s", seed, code, out[max(0, len(out)-500):])
	}
	out, code = sim("--seed", seed, "--runs", "1", "--shrink")
	if code != exitFail || !strings.Contains(out, "smallest schedule") || !strings.Contains(out, " 1. ") || strings.Contains(out, " 9. ") {
		t.Errorf("exit code %d, no small schedule: %s", code, out)
	}
}

// crashingPart is what this test binary does in place of sim --part when it is told to: seed 4 ends it as a panic would.
func crashingPart(args []string) {
	c := &call{args: args[1:], stdout: os.Stdout, stderr: os.Stderr}
	f, err := c.simFlags()
	if err != nil {
		panic(err)
	}
	lines := json.NewEncoder(os.Stdout)
	for i := 0; i < f.runs; i += f.part {
		seed := f.seed + uint64(i)
		if lines.Encode(simLine{Seed: seed}) != nil {
			os.Exit(exitFail)
		}
		if seed == 4 {
			panic("a bug of the engine")
		}
		if lines.Encode(simLine{Seed: seed, Done: true, Counts: sim.Counts{Events: 1}}) != nil {
			os.Exit(exitFail)
		}
	}
	os.Exit(exitOK)
}

func TestSimNamesTheSeedThatCrashes(t *testing.T) {
	t.Setenv("MILLRACE_TEST_MAIN", "crash")
	c := &call{name: "millrace sim", stderr: new(bytes.Buffer)}
	lines, err := c.simParts(t.Context(), simFlags{seed: 1, runs: 9, file: "x.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range lines {
		crashed := len(l.Violations) == 1 && l.Violations[0].Rule == sim.Crashed && strings.Contains(l.Violations[0].Text, "a bug of the engine")
		if seed := uint64(i + 1); l.Seed != seed || crashed != (seed == 4) || !crashed && l.Counts.Events != 1 {
			t.Errorf("seed %d: %+v", seed, l)
		}
	}
}

// TestSimInputFitsTheFile: most records of every format decode, and some do not.
func TestSimInputFitsTheFile(t *testing.T) {
	for name, decode := range map[string]string{
		"json":        `{ format: json, fields: { user: who.id }, columns: { amount: { path: order.amount, type: "decimal(9,2)" }, tags: { type: list }, rest: { path: order, type: json } } }`,
		"csv":         `{ format: csv, csv: { columns: [at, who, n], delimiter: ";" }, fields: { time: at, user: who }, columns: { n: { type: int } } }`,
		"csv, header": `{ format: csv, fields: { time: InvoiceDate }, columns: { n: { type: bool }, m: { type: json } } }`,
		"combined":    `{ format: combined, columns: { status: { type: int } } }`,
	} {
		text := "name: x\nsource: { files: { paths: [\"x\"], checkpoints: y } }\ndecode: " + decode + "\nsinks: { lake: { parquet: { url: lake } } }\n"
		p := newPlan(pipelinefile.Parse("x.yaml", []byte(text), os.LookupEnv))
		if problems := p.file.Problems(); len(problems) > 0 {
			t.Fatalf("%s: %v", name, problems)
		}
		pipeline, err := p.simulated("")
		if err != nil {
			t.Fatal(err)
		}
		decoder, batch := p.decoder(), stream.NewBatch(p.schema)
		failed := map[string]int{}
		dead := 0
		for n := range 1000 {
			r := pipeline.Input(5, n)
			batch.Reset()
			if err := decoder.Decode(&r, batch); err != nil {
				dead++
				failed[err.Error()]++
			}
			if again := pipeline.Input(5, n); !slices.Equal(again.Value, r.Value) {
				t.Errorf("%s: record %d is %s, then %s", name, n, r.Value, again.Value)
			}
		}
		if dead < 20 || dead > 250 {
			t.Errorf("%s: %d of 1000 records do not decode; want a share: %v", name, dead, failed)
		}
	}
}
