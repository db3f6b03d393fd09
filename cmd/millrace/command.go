package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/cmd/millrace/pipelinefile"
)

// The exit codes of every command. verify has its own meaning for them.
const (
	exitOK    = 0
	exitFail  = 1
	exitUsage = 2
)

// command is one word after millrace. Its help begins with one line that sums it up.
type command struct {
	name string
	help string
	run  func(ctx context.Context, c *call) int
}

// commands in the order of the help.
func commands() []command {
	return []command{
		{"dev", devHelp, dev},
		{"run", runHelp, runPipeline},
		{"collect", collectHelp, runCollect},
		{"lint", lintHelp, lint},
		{"verify", verifyHelp, verify},
		{"dlq", dlqHelp, dlqCommand},
		{"replay", replayHelp, replayInto},
		{"sim", simHelp, simulate},
		{"version", versionHelp, version},
	}
}

// call is one call of a command.
type call struct {
	name   string
	args   []string
	stdin  io.Reader
	stdout io.Writer // results only
	stderr io.Writer
}

// run is the program: it returns the exit code. The end of ctx is a request to stop softly, as SIGTERM is.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &call{name: "millrace", args: args, stdin: stdin, stdout: stdout, stderr: stderr}
	if len(args) == 0 {
		return c.usage("no command; want one of %s", commandNames())
	}
	if slices.Contains([]string{"help", "-h", "-help", "--help"}, args[0]) {
		c.args = args[1:]
		return help(c)
	}
	for _, cmd := range commands() {
		if cmd.name == args[0] {
			c.name, c.args = "millrace "+cmd.name, args[1:]
			if wantsHelp(c.args) {
				fmt.Fprintln(stdout, cmd.help)
				return exitOK
			}
			return cmd.run(ctx, c)
		}
	}
	return c.usage("unknown command %q; want one of %s", args[0], commandNames())
}

func commandNames() string {
	var names []string
	for _, cmd := range commands() {
		names = append(names, cmd.name)
	}
	return strings.Join(append(names, "help"), ", ")
}

func help(c *call) int {
	if len(c.args) > 1 {
		return c.usage("help takes one command")
	}
	if len(c.args) == 0 {
		fmt.Fprint(c.stdout, "millrace carries a clickstream from a log to its sinks, every record exactly once.\n\nUsage: millrace COMMAND ...\n\n")
		for _, cmd := range commands() {
			first, _, _ := strings.Cut(cmd.help, "\n")
			fmt.Fprintf(c.stdout, "  %-9s %s\n", cmd.name, first)
		}
		fmt.Fprint(c.stdout, "\nmillrace help COMMAND tells more, with an example. Exit codes: 0 done, 1 failed, 2 wrong usage.\n")
		return exitOK
	}
	for _, cmd := range commands() {
		if cmd.name == c.args[0] {
			fmt.Fprintln(c.stdout, cmd.help)
			return exitOK
		}
	}
	return c.usage("unknown command %q; want one of %s", c.args[0], commandNames())
}

func wantsHelp(args []string) bool {
	return slices.ContainsFunc(args, func(a string) bool { return a == "-h" || a == "-help" || a == "--help" })
}

// usage tells how the command was called wrongly.
func (c *call) usage(format string, args ...any) int {
	about := c.name
	if name, ok := strings.CutPrefix(c.name, "millrace "); ok {
		about = "millrace help " + name
	} else {
		about += " help"
	}
	fmt.Fprintf(c.stderr, "%s: %s; see %s\n", c.name, fmt.Sprintf(format, args...), about)
	return exitUsage
}

// fail tells on one line why the command failed.
func (c *call) fail(err error) int {
	fmt.Fprintf(c.stderr, "%s: %s\n", c.name, oneLine(err))
	return exitFail
}

// oneLine is an error's text on one line.
func oneLine(err error) string {
	lines := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' })
	return strings.Join(lines, "; ")
}

// parse reads flags, which may stand before and after other arguments, and returns those.
func (c *call) parse(flags *flag.FlagSet) ([]string, error) {
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	var rest []string
	args := c.args
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		done := len(args) - flags.NArg()
		if done > 0 && args[done-1] == "--" {
			return append(rest, flags.Args()...), nil
		}
		if flags.NArg() == 0 {
			return rest, nil
		}
		rest = append(rest, flags.Arg(0))
		args = flags.Args()[1:]
	}
}

// oneFile parses the arguments of a command that takes one pipeline file.
func (c *call) oneFile(flags *flag.FlagSet) (string, error) {
	files, err := c.parse(flags)
	switch {
	case err != nil:
		return "", err
	case len(files) == 0:
		return "", errors.New("no pipeline file is named")
	case len(files) > 1:
		return "", fmt.Errorf("%d pipeline files are named; want one", len(files))
	}
	return files[0], nil
}

// read reads a pipeline file; "-" is standard input.
func (c *call) read(path string) (*pipelinefile.File, error) {
	text, err := c.text(path)
	if err != nil {
		return nil, err
	}
	return pipelinefile.Parse(path, text, os.LookupEnv), nil
}

// text is that of a file; "-" is standard input.
func (c *call) text(path string) ([]byte, error) {
	in := c.stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		in = file
	}
	return io.ReadAll(io.LimitReader(in, pipelinefile.MaxSize+1))
}

// load reads a pipeline file and makes a plan of it. What is wrong is told on standard error; then the plan is nil.
func (c *call) load(path string) *plan {
	file, err := c.read(path)
	if err != nil {
		c.fail(err)
		return nil
	}
	p := newPlan(file)
	problems := file.Problems()
	for _, problem := range problems {
		fmt.Fprintln(c.stderr, problem)
	}
	if len(problems) > 0 {
		return nil
	}
	return p
}
