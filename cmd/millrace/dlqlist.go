package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/millrace-io/millrace/sinks/deadletter"
	"github.com/millrace-io/millrace/sources/dlq"
)

// groupings are what list can group by, with a letter's value.
var groupings = map[string]func(l *deadletter.Letter) string{
	"stage":     func(l *deadletter.Letter) string { return l.Stage },
	"reason":    func(l *deadletter.Letter) string { return generalReason(l.Error) },
	"partition": func(l *deadletter.Letter) string { return l.Partition },
	"sink":      func(l *deadletter.Letter) string { sink, _ := dlq.Aim(l); return sink },
	"day":       func(l *deadletter.Letter) string { return timeText(letterAt(l), "2006-01-02") },
	"hour":      func(l *deadletter.Letter) string { return timeText(letterAt(l), "2006-01-02T15Z") },
}

var particulars = regexp.MustCompile("\"(?:[^\"\\\\]|\\\\.)*\"|'[^']*'|`[^`]*`|\\b[0-9a-fA-F]*[0-9][0-9a-fA-F]*\\b")

// generalReason is a reason without what is of one letter only.
func generalReason(reason string) string { return particulars.ReplaceAllString(reason, "…") }

func timeText(t time.Time, layout string) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(layout)
}

// letterList is what list prints.
type letterList struct {
	Pipeline   string        `json:"pipeline"`
	Letters    int64         `json:"letters"`
	Open       int64         `json:"open"`       // not replayed; a letter of a run that is not finished counts as replayed
	Replayed   int64         `json:"replayed"`   // what failed again is another letter
	Unreadable int64         `json:"unreadable"` // of the open ones: those that cannot be replayed
	By         []string      `json:"by"`
	Groups     []letterGroup `json:"groups"`
	Runs       []letterRun   `json:"runs"`
}

// letterGroup is letters that are alike.
type letterGroup struct {
	Count   int64             `json:"count"`
	Values  map[string]string `json:"values"` // by what they are grouped by
	First   string            `json:"first,omitempty"`
	Last    string            `json:"last,omitempty"`
	Samples []string          `json:"samples"` // IDs

	exact string // the reason of all letters; empty when they have several
}

type letterRun struct {
	Run     int       `json:"run"`
	Created time.Time `json:"created"`
	Filter  string    `json:"filter,omitempty"`
	Letters int64     `json:"letters"`
	Done    bool      `json:"done"`
}

func dlqList(ctx context.Context, c *call) int {
	flags := flag.NewFlagSet("dlq list", flag.ContinueOnError)
	filter, by := flags.String("filter", "", ""), flags.String("by", "stage,reason", "")
	samples := flags.Int("samples", 1, "")
	all, asJSON := flags.Bool("all", false, ""), flags.Bool("json", false, "")
	path, err := c.oneFile(flags)
	var take func(*deadletter.Letter) bool
	if err == nil {
		take, err = letterFilter(*filter)
	}
	list := letterList{By: strings.Split(*by, ","), Groups: []letterGroup{}, Runs: []letterRun{}}
	for _, name := range list.By {
		if groupings[name] == nil && err == nil {
			err = fmt.Errorf("--by has %q; want some of stage, reason, sink, partition, day, hour", name)
		}
	}
	if err == nil && *samples < 0 {
		err = fmt.Errorf("--samples is %d; want 0 or more", *samples)
	}
	if err != nil {
		return c.usage("%s", err)
	}
	p := c.load(path)
	if p == nil {
		return exitFail
	}
	archive, runs, err := p.openLetters(ctx)
	if err != nil {
		return c.fail(err)
	}
	list.Pipeline = p.file.Name
	for _, r := range runs {
		list.Runs = append(list.Runs, letterRun{r.Number, r.Created, r.Filter, r.Letters, r.Done})
	}
	groups := map[string]*letterGroup{}
	whole := c.letters(ctx, archive, func(l *deadletter.Letter) {
		if !take(l) {
			return
		}
		list.Letters++
		if dlq.Taken(runs, l.At) != nil {
			if list.Replayed++; !*all {
				return
			}
		} else if list.Open++; l.Stage == dlq.Unreadable {
			list.Unreadable++
		}
		list.add(groups, l, *samples)
	})
	for _, g := range groups {
		if _, ok := g.Values["reason"]; ok && g.exact != "" {
			g.Values["reason"] = g.exact
		}
		list.Groups = append(list.Groups, *g)
	}
	slices.SortFunc(list.Groups, func(x, y letterGroup) int {
		value := func(i int) int { return strings.Compare(x.Values[list.By[i]], y.Values[list.By[i]]) }
		c := cmp.Or(value(0), cmp.Compare(y.Count, x.Count))
		for i := 1; i < len(list.By) && c == 0; i++ {
			c = value(i)
		}
		return c
	})
	print := list.print
	if *asJSON {
		print = list.printJSON
	}
	if err := print(c.stdout); err != nil {
		return c.fail(err)
	}
	if !whole {
		return exitFail
	}
	return exitOK
}

func (list *letterList) add(groups map[string]*letterGroup, l *deadletter.Letter, samples int) {
	values := map[string]string{}
	key := ""
	for _, name := range list.By {
		values[name] = groupings[name](l)
		key += values[name] + "\x00"
	}
	g := groups[key]
	if g == nil {
		g = &letterGroup{Values: values, exact: l.Error, Samples: []string{}}
		groups[key] = g
	}
	if g.Count++; g.exact != l.Error {
		g.exact = ""
	}
	if at := timeText(letterAt(l), time.RFC3339); at != "" {
		if g.First == "" || at < g.First {
			g.First = at
		}
		g.Last = max(g.Last, at)
	}
	if len(g.Samples) < samples {
		g.Samples = append(g.Samples, letterID(l))
	}
}

func (list *letterList) printJSON(w io.Writer) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(list)
}

// reasonWidth is how much of a reason a table shows, in bytes.
const reasonWidth = 100

func (list *letterList) print(w io.Writer) error {
	fmt.Fprintf(w, "%s: %s: %d open, %d replayed\n", list.Pipeline, count(list.Letters, "dead letter"), list.Open, list.Replayed)
	if list.Unreadable > 0 {
		fmt.Fprintf(w, "%d of the open ones the source could not read (stage source): they are not replayed\n", list.Unreadable)
	}
	for _, r := range list.Runs {
		if !r.Done {
			fmt.Fprintf(w, "replay %d of %s is not finished; the next replay goes on with it\n", r.Run, count(r.Letters, "letter"))
		}
	}
	if len(list.Groups) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "COUNT")
	for _, name := range list.By {
		if name != "reason" {
			fmt.Fprint(t, "\t", strings.ToUpper(name))
		}
	}
	fmt.Fprint(t, "\tFIRST\tLAST")
	reasons := slices.Contains(list.By, "reason")
	if reasons {
		fmt.Fprint(t, "\tREASON")
	}
	fmt.Fprintln(t, "\tSAMPLE")
	for _, g := range list.Groups {
		fmt.Fprint(t, g.Count)
		for _, name := range list.By {
			if name != "reason" {
				fmt.Fprint(t, "\t", printable(cmp.Or(g.Values[name], "-")))
			}
		}
		fmt.Fprintf(t, "\t%s\t%s", cmp.Or(g.First, "-"), cmp.Or(g.Last, "-"))
		if reasons {
			fmt.Fprint(t, "\t", shorten(printable(g.Values["reason"]), reasonWidth))
		}
		fmt.Fprintln(t, "\t"+printable(strings.Join(g.Samples, " ")))
	}
	return t.Flush()
}

// printable keeps a text of unknown origin from changing the terminal, and on one line.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}

func shorten(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most] + "…"
}

func payload(l *deadletter.Letter) []byte {
	if l.Value != nil {
		return []byte(*l.Value)
	}
	return l.ValueBase64
}

func isObject(text string) bool {
	return strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), "{") && json.Valid([]byte(text))
}

// showLetter prints one letter for people.
func showLetter(w io.Writer, l *deadletter.Letter, run *dlq.Run) {
	state := "open"
	switch {
	case run != nil && run.Done:
		state = fmt.Sprintf("replayed by run %d of %s", run.Number, run.Created.Format(time.RFC3339))
	case run != nil:
		state = fmt.Sprintf("in run %d, which is not finished", run.Number)
	case l.Stage == dlq.Unreadable:
		state = "open; the source could not read it, so it is not replayed"
	}
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-10s %s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	line("id", "%s", letterID(l))
	line("stage", "%s", l.Stage)
	line("reason", "%s", l.Error)
	line("time", "%s", cmp.Or(timeText(letterAt(l), time.RFC3339Nano), "not known to the log"))
	line("state", "%s", state)
	line("file", "%s, line %d", l.At.Key, l.At.Line+1)
	line("key", "%s", bytesText(l.Key, l.KeyBase64))
	for _, h := range l.Headers {
		line("header", "%s: %s", h.Key+string(h.KeyBase64), bytesText(h.Value, h.ValueBase64))
	}
	showPayload(w, payload(l), l.Value != nil)
}

// bytesText is a key or a header's value on one line.
func bytesText(text *string, b []byte) string {
	switch {
	case text != nil:
		return *text
	case b != nil:
		return "hex " + hex.EncodeToString(b)
	}
	return "none"
}

func showPayload(w io.Writer, b []byte, isText bool) {
	var pretty bytes.Buffer
	switch {
	case len(b) == 0:
		fmt.Fprintln(w, "value      empty")
	case json.Valid(b) && json.Indent(&pretty, b, "", "  ") == nil:
		fmt.Fprintf(w, "value      %s, JSON:\n%s\n", count(len(b), "byte"), pretty.Bytes())
	case isText:
		fmt.Fprintf(w, "value      %s, text:\n", count(len(b), "byte"))
		for line := range strings.Lines(string(b)) {
			fmt.Fprintln(w, printable(strings.TrimRight(line, "\r\n")))
		}
	default:
		fmt.Fprintf(w, "value      %s, no text:\n%s", count(len(b), "byte"), hex.Dump(b))
	}
}
