package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/millrace-io/millrace/sources/dlq"
	"github.com/millrace-io/millrace/stream"
)

const verifyHelp = `prove that nothing is missing and nothing is there twice

Usage: millrace verify [--deep] [--json] FILE

Reads what the files hold and compares it with what the source's checkpoints say was committed, and what OpenSearch and
DynamoDB hold with the events in the files. It changes nothing and may run beside the pipeline.

  --deep    also read every row and check its position; compare every document and every item, not counts and a sample
  --json    print the report as JSON

Example:
  $ millrace verify --deep clicks.yaml
  clicks: clean: 12000 records read = 11990 kept + 7 dropped + 3 dead, in 24 files of 4 partitions, every row read

Exit codes: 0 clean; 1 gaps, duplicates or damage, each named with its range; 2 could not check, or wrong usage.`

// exitUnchecked is verify's exit code when it cannot tell.
const exitUnchecked = 2

func verify(ctx context.Context, c *call) int {
	flags := flag.NewFlagSet("verify", flag.ContinueOnError)
	deep, asJSON := flags.Bool("deep", false, ""), flags.Bool("json", false, "")
	path, err := c.oneFile(flags)
	if err != nil {
		return c.usage("%s", err)
	}
	p := c.load(path)
	if p == nil {
		return exitUnchecked
	}
	report, err := p.audit(ctx, *deep)
	if err != nil {
		c.fail(fmt.Errorf("could not check: %w", err))
		return exitUnchecked
	}
	print := printReport
	if *asJSON {
		print = printJSON
	}
	if err := print(c.stdout, report); err != nil {
		c.fail(err)
		return exitUnchecked
	}
	if len(report.Problems) > 0 {
		return exitFail
	}
	return exitOK
}

// printJSON prints the report with the answer first.
func printJSON(w io.Writer, r *stream.Report) error {
	if r.Problems == nil {
		r.Problems = []stream.Problem{} // a list for every reader
	}
	if r.Partitions == nil {
		r.Partitions = []stream.PartitionReport{}
	}
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(struct {
		Clean bool `json:"clean"`
		*stream.Report
	}{len(r.Problems) == 0, r})
}

// printReport prints the answer in a line, each problem in a line, and a table of the partitions.
func printReport(w io.Writer, r *stream.Report) error {
	fmt.Fprintln(w, verdict(r))
	for _, p := range r.Problems {
		fmt.Fprintln(w, p)
	}
	for _, s := range r.Sinks {
		fmt.Fprintf(w, "%s: %d of %d are there, by %s\n", s.Sink, s.Found, s.Expected, s.How)
		for _, note := range s.Notes {
			fmt.Fprintf(w, "%s: %s\n", s.Sink, note)
		}
	}
	if len(r.Partitions) == 0 {
		return nil
	}
	sinks := map[string]bool{}
	for _, p := range r.Partitions {
		for sink := range p.Rows {
			sinks[sink] = true
		}
	}
	names := slices.Sorted(maps.Keys(sinks))
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "PARTITION\tCOMMITTED\tFILES\tREAD\tKEPT\tDROPPED\tDEAD")
	for _, name := range names {
		fmt.Fprintf(t, "\tROWS %s", name)
	}
	fmt.Fprintln(t)
	for _, p := range r.Partitions {
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%d\t%d", strings.ToValidUTF8(p.Partition, "?"), p.Committed, p.Files, p.Read, p.Kept, p.Dropped, p.Dead)
		for _, name := range names {
			fmt.Fprint(t, "\t", strconv.FormatInt(p.Rows[name], 10))
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

func verdict(r *stream.Report) string {
	var read, again stream.PartitionReport
	files, oneSink := 0, int64(0)
	for _, p := range r.Partitions {
		files += p.Files
		sum := &read
		if _, sink, _, replayed := dlq.ParsePartition(p.Partition); replayed {
			if sum = &again; sink != "" { // the other sinks have it from the source
				oneSink += p.Read
				continue
			}
		}
		sum.Read += p.Read
		sum.Kept += p.Kept
		sum.Dropped += p.Dropped
		sum.Dead += p.Dead
	}
	answer := "clean"
	if n := len(r.Problems); n > 0 {
		answer = count(n, "problem")
	} else if len(r.Partitions) == 0 {
		return r.Pipeline + ": clean: nothing was committed yet"
	}
	how := "no row read (--deep reads them)"
	if r.Deep {
		how = "every row read"
	}
	text := fmt.Sprintf("%s: %s: %s read = %d kept + %d dropped + %d dead, in %s of %s, %s", r.Pipeline, answer,
		count(read.Read, "record"), read.Kept, read.Dropped, read.Dead, count(files, "file"), count(len(r.Partitions), "partition"), how)
	if again.Read+oneSink > 0 {
		text += fmt.Sprintf("\ndead letters replayed: %d to all sinks = %d kept + %d dropped + %d dead again, %d to one sink",
			again.Read, again.Kept, again.Dropped, again.Dead, oneSink)
	}
	return text
}

func count[N int | int64](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
