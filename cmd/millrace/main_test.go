package main

import (
	"bytes"
	"context"
	"flag"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/testenv/network"
)

// Mutations seen red (line broken -> test):
//   - run.go, what check returns is dropped             -> TestUnusablePlacesFailBeforeAnythingIsRead (does not end)
//   - run.go, a second signal is like the first         -> TestSecondSignalStopsAtOnce (does not end)
//   - run.go, the first signal ends hard too            -> TestSignalDrainsAndCommits
//   - plan.go, refused knows FatalErrors only           -> TestUnusablePlacesFailBeforeAnythingIsRead/unknown_key (does not end)
//   - wire.go, --until-end leaves follow as it is       -> TestUntilEndEndsAFollowingSource (does not end)
//   - wire.go, without checkPlaces                      -> TestLintNamesEveryProblem/places.txt
//   - verify.go, exit code 0 in spite of problems       -> TestVerifyNamesWhatIsMissing

// TestMain lets the test binary be the program itself, for tests that need a process of their own.
func TestMain(m *testing.M) {
	switch os.Getenv("MILLRACE_TEST_MAIN") {
	case "yes":
		main()
	case "crash":
		crashingPart(os.Args[1:])
	}
	goleak.VerifyTestMain(m, network.Leftovers()...)
}

// outcome is what a call of the program left.
type outcome struct {
	code        int
	stdout, err string
}

// patience is how long a call may take before it is told to stop.
const patience = 20 * time.Second

// millrace calls the program in this process.
func millrace(ctx context.Context, stdin string, args ...string) outcome {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	code := run(ctx, args, strings.NewReader(stdin), &stdout, &stderr)
	return outcome{code, stdout.String(), stderr.String()}
}

func TestWrongUsageIsOneLineAndExitCode2(t *testing.T) {
	for args, want := range map[string]string{
		"":                           "no command",
		"fly":                        `unknown command "fly"`,
		"help fly":                   `unknown command "fly"`,
		"help run lint":              "one command",
		"run":                        "no pipeline file is named",
		"run a.yaml b.yaml":          "2 pipeline files",
		"run --until a.yaml":         "not defined: -until",
		"run --log-format xml a":     `--log-format is "xml"; want text or json`,
		"run a --log-level loud":     "-log-level",
		"run a.yaml --log-format":    "needs an argument",
		"lint":                       "no pipeline file is named",
		"lint --all a.yaml":          "not defined: -all",
		"verify":                     "no pipeline file is named",
		"verify --json --deep=x a":   "deep",
		"version now":                "no arguments",
		"sim":                        "no pipeline file is named",
		"sim --runs 0 a.yaml":        "--runs is 0",
		"sim --seed -1 a.yaml":       "-seed",
		"sim --trace --runs 2 a":     "--trace shows one seed",
		"sim --trace --shrink a":     "want one",
		"sim --trace --json a":       "leave --json out",
		"run -- --until-end another": "2 pipeline files",
	} {
		got := millrace(t.Context(), "", strings.Fields(args)...)
		if got.code != 2 || got.stdout != "" || strings.Count(got.err, "\n") != 1 || !strings.Contains(got.err, want) {
			t.Errorf("millrace %s: %+v; want %q", args, got, want)
		}
	}
}

func TestHelpShowsAnExampleAndEveryFlag(t *testing.T) {
	for _, cmd := range commands() {
		for _, args := range [][]string{{"help", cmd.name}, {cmd.name, "--help"}, {cmd.name, "x", "-h"}} {
			got := millrace(t.Context(), "", args...)
			if got.code != 0 || got.err != "" || !strings.Contains(got.stdout, "Example:\n  $ millrace "+cmd.name) {
				t.Errorf("%v: %+v", args, got)
			}
		}
	}
	for _, args := range [][]string{{"help"}, {"--help"}, {"-h"}} {
		got := millrace(t.Context(), "", args...)
		for _, cmd := range commands() {
			if got.code != 0 || !strings.Contains(got.stdout, "\n  "+cmd.name) {
				t.Errorf("%v: %+v", args, got)
			}
		}
	}
}

func TestVersionSaysWhatRuns(t *testing.T) {
	got := millrace(t.Context(), "", "version")
	if got.code != 0 || !regexp.MustCompile(`^millrace \S+ (\S+ )?go\S+ \w+/\w+\n$`).MatchString(got.stdout) {
		t.Errorf("%+v", got)
	}
}

func TestFlagsStandBeforeAndAfterFiles(t *testing.T) {
	for args, want := range map[string]string{
		"a -x b": "x a b", "-x a b": "x a b", "a b -x": "x a b", "a -- -x b": " a -x b", "-x=false a": " a", "": " ", "-- -x": " -x",
	} {
		flags := flag.NewFlagSet("", flag.ContinueOnError)
		x := flags.Bool("x", false, "")
		rest, err := (&call{args: strings.Fields(args), stderr: io.Discard}).parse(flags)
		got := " " + strings.Join(rest, " ")
		if *x {
			got = "x" + got
		}
		if err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", args, got, err, want)
		}
	}
}
