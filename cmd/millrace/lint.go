package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/millrace-io/millrace/cmd/millrace/pipelinefile"
)

const lintHelp = `check pipeline files and collectors' files, every problem at once

Usage: millrace lint [--probe] FILE...

Prints each problem as file:line:column: what is wrong, and what would be right. It reads nothing but the files and the
environment variables that they name.

  --probe   also ask the servers: can the source's checkpoints be read, can the sinks be written?

Example:
  $ millrace lint clicks.yaml
  clicks.yaml:3:12: unknown key "broker" in source.kafka; did you mean "brokers"?

A file named - is standard input. Exit codes: 0 no problems, 1 problems, 2 wrong usage.`

func lint(ctx context.Context, c *call) int {
	flags := flag.NewFlagSet("lint", flag.ContinueOnError)
	probe := flags.Bool("probe", false, "")
	files, err := c.parse(flags)
	switch {
	case err != nil:
		return c.usage("%s", err)
	case len(files) == 0:
		return c.usage("no pipeline file is named")
	}
	code := exitOK
	for _, path := range files {
		if !c.lintFile(ctx, path, *probe) {
			code = exitFail
		}
	}
	return code
}

// lintFile says whether the file has no problems.
func (c *call) lintFile(ctx context.Context, path string, probe bool) bool {
	text, err := c.text(path)
	if err != nil {
		c.fail(err)
		return false
	}
	problems := lintText(ctx, path, text, probe)
	for _, problem := range problems {
		fmt.Fprintln(c.stdout, problem)
	}
	if len(problems) == 0 {
		fmt.Fprintf(c.stdout, "%s: no problems\n", path)
	}
	return len(problems) == 0
}

// lintText is what is wrong with a file: a collector's if it says what to listen on and names no source, else a pipeline's.
func lintText(ctx context.Context, path string, text []byte, probe bool) []pipelinefile.Problem {
	if pipelinefile.Has(text, "listen") && !pipelinefile.Has(text, "source") {
		p := newCollectPlan(path, text)
		if probe && len(p.file.Problems()) == 0 {
			p.probeTo(ctx)
		}
		return p.file.Problems()
	}
	file := pipelinefile.Parse(path, text, os.LookupEnv)
	p := newPlan(file)
	if probe && len(file.Problems()) == 0 {
		p.probe(ctx)
	}
	return file.Problems()
}
