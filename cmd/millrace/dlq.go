package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/millrace-io/millrace/processors/expr"
	"github.com/millrace-io/millrace/sinks/deadletter"
	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/sources/dlq"
	"github.com/millrace-io/millrace/stream"
)

const dlqHelp = `look at dead letters, and put them through the pipeline again, once

Usage: millrace dlq list [--filter EXPR] [--by COLUMNS] [--samples N] [--all] [--json] FILE
       millrace dlq show [--raw] FILE ID
       millrace dlq replay [--filter EXPR] [--dry-run] FILE

list counts the letters that were not replayed, in groups: a stage, a reason (numbers and quoted texts in it left out), and
the ID of one of them.
show prints one letter whole, its payload readable.
replay puts letters through the pipeline as FILE says it now. One that no sink has seen goes to all sinks, one that a sink refused
to that sink alone. What fails again is a dead letter again. A letter is replayed once: a second replay has nothing to do,
and one that was killed is gone on with by the next. It may run beside the pipeline.

  --filter    which letters: an expression like a sink's where, over stage, sink, reason, partition, position, time, key, value
              and, if the value is a JSON object, properties
  --by        what to group by, of stage, reason, sink, partition, day, hour; default stage,reason
  --samples   how many IDs of each group; default 1
  --all       count replayed letters too
  --raw       print the payload alone, byte for byte
  --dry-run   say what would become of the letters, and change nothing; sinks are not asked
  --json      print the counts as JSON

Example:
  $ millrace dlq list clicks.yaml
  clicks: 200 dead letters: 200 open, 0 replayed
  COUNT  STAGE   FIRST                 LAST                  REASON                              SAMPLE
  200    decode  2026-01-05T10:00:00Z  2026-01-05T10:03:20Z  price: "n/a" is not a decimal(9,2)  clicks-3@00000000000003e8
  $ millrace dlq replay --filter 'stage == "decode" && startsWith(reason, "price")' clicks.yaml

Exit codes: 0 done, 1 failed, 2 wrong usage.`

func dlqCommand(ctx context.Context, c *call) int {
	if len(c.args) == 0 {
		return c.usage("want list, show or replay")
	}
	word := c.args[0]
	c.args = c.args[1:]
	switch word {
	case "list":
		return dlqList(ctx, c)
	case "show":
		return dlqShow(ctx, c)
	case "replay":
		return dlqReplay(ctx, c)
	}
	return c.usage("unknown word %q; want list, show or replay", word)
}

// openLetters opens the dead letters and nothing else, and reads which of them were replayed.
func (p *plan) openLetters(ctx context.Context) (*dlq.Archive, []*dlq.Run, error) {
	store, err := objects.Open(ctx, p.dead.url, patient())
	if err != nil {
		return nil, nil, p.dead.at.Error(err)
	}
	archive := dlq.New(store, p.file.Name)
	runs, err := archive.Runs(ctx)
	return archive, runs, err
}

// damaged tells of a file that is left out.
func (c *call) damaged(err error) {
	fmt.Fprintf(c.stderr, "%s: left out: %s\n", c.name, oneLine(err))
}

// Columns of a letter, for filters.
const (
	letterStage = iota
	letterSink
	letterReason
	letterPartition
	letterPosition
	letterTime
	letterKey
	letterValue
	letterColumns
)

func letterSchema() *stream.Schema {
	text := stream.Type{Kind: stream.String}
	columns := make([]stream.Column, letterColumns)
	for i, name := range []string{"stage", "sink", "reason", "partition", "position", "time", "key", "value"} {
		columns[i] = stream.Column{Name: name, Type: text}
	}
	columns[letterTime].Type = stream.Type{Kind: stream.Timestamp}
	return stream.SchemaOf(columns...)
}

// letterFilter compiles a filter; an empty one takes all letters.
func letterFilter(text string) (func(*deadletter.Letter) bool, error) {
	if text == "" {
		return func(*deadletter.Letter) bool { return true }, nil
	}
	is, err := expr.Predicate(text, letterSchema())
	if err != nil {
		return nil, fmt.Errorf("--filter: %w", err)
	}
	return func(l *deadletter.Letter) bool { return is(letterEvent(l)) }, nil
}

// letterEvent is a letter as a row that a filter sees. Keys and values that are no UTF-8 are null.
func letterEvent(l *deadletter.Letter) *stream.Event {
	sink, _ := dlq.Aim(l)
	e := &stream.Event{Values: make([]stream.Value, letterColumns)}
	e.Values[letterStage], e.Values[letterReason] = stream.StringValue(l.Stage), stream.StringValue(l.Error)
	e.Values[letterPartition], e.Values[letterPosition] = stream.StringValue(l.Partition), stream.StringValue(l.Position.String())
	if sink != "" {
		e.Values[letterSink] = stream.StringValue(sink)
	}
	if t := letterAt(l); !t.IsZero() {
		e.Values[letterTime] = stream.TimestampValue(t.UnixMicro())
	}
	if l.Key != nil {
		e.Values[letterKey] = stream.StringValue(*l.Key)
	}
	if l.Value != nil {
		e.Values[letterValue] = stream.StringValue(*l.Value)
		if isObject(*l.Value) {
			e.Properties = *l.Value
		}
	}
	return e
}

// letterAt is when the log took a letter's record; zero when it does not know.
func letterAt(l *deadletter.Letter) time.Time {
	d, err := l.DeadLetter()
	if err != nil {
		return time.Time{}
	}
	return d.Record.Time
}

// letterID names a letter on the command line.
func letterID(l *deadletter.Letter) string {
	id := l.Partition + "@" + l.Position.String()
	if l.Index > 0 {
		id += fmt.Sprintf("#%d", l.Index)
	}
	return id
}

// letters calls visit with every letter. It says whether all could be read; what could not was told.
func (c *call) letters(ctx context.Context, archive *dlq.Archive, visit func(*deadletter.Letter)) bool {
	whole := true
	for l, err := range archive.Letters(ctx) {
		switch {
		case errors.Is(err, deadletter.ErrDamaged):
			c.damaged(err)
			whole = false
		case err != nil:
			c.fail(err)
			return false
		default:
			visit(l)
		}
	}
	return whole
}

func dlqShow(ctx context.Context, c *call) int {
	flags := flag.NewFlagSet("dlq show", flag.ContinueOnError)
	raw := flags.Bool("raw", false, "")
	args, err := c.parse(flags)
	if err == nil && len(args) != 2 {
		err = errors.New("want a pipeline file and a letter's ID, as list prints it")
	}
	if err != nil {
		return c.usage("%s", err)
	}
	p := c.load(args[0])
	if p == nil {
		return exitFail
	}
	archive, runs, err := p.openLetters(ctx)
	if err != nil {
		return c.fail(err)
	}
	found := 0
	c.letters(ctx, archive, func(l *deadletter.Letter) {
		if letterID(l) != args[1] {
			return
		}
		if found++; *raw {
			_, _ = c.stdout.Write(payload(l))
			return
		}
		if found > 1 {
			fmt.Fprintln(c.stdout)
		}
		showLetter(c.stdout, l, dlq.Taken(runs, l.At))
	})
	if found == 0 {
		return c.fail(fmt.Errorf("no dead letter has the ID %q", args[1]))
	}
	return exitOK
}
