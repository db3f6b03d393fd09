package redis

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/stream"
)

var _ stream.Checker = (*Sink)(nil)

const page = 500 // rows that are asked for at once

// expected is the newest event of a key, and the row that it makes.
type expected = bulk.Expected[wanted]

// wanted is what the script makes of a write.
type wanted struct {
	fields  map[string]string
	ends    int64 // milliseconds since 1970; 0: never
	deleted bool
}

// Check computes the rows anew from the lake and compares them with the server's: of a sample of the keys, or, with deep, of
// all; then it also looks for rows with the prefix that no event made. It holds the rows of the keys that it looks at.
func (s *Sink) Check(ctx context.Context, l stream.Lake, deep bool) (stream.SinkReport, []stream.Problem, error) {
	r := stream.SinkReport{Sink: s.o.Name, How: fmt.Sprintf("a sample of 1 in %d rows", bulk.SampleOf)}
	if deep {
		r.How = "every row"
	}
	want, err := s.expect(ctx, l, deep)
	if err != nil {
		return r, nil, err
	}
	c := checking{Sink: s, lake: l, want: want, report: &r, problems: stream.Problems{Sink: s.o.Name}}
	if c.link, err = s.connect(ctx); err != nil {
		return r, nil, err
	}
	defer c.link.close()
	defer context.AfterFunc(ctx, c.link.cut)()
	if err := c.get(ctx); err != nil {
		return r, nil, err
	}
	if deep {
		if err := c.scan(ctx); err != nil {
			return r, nil, err
		}
	}
	if c.others > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("%d keys are of others; give the sink a prefix of its own", c.others))
	}
	return r, c.problems.All(), nil
}

// expect is the rows that should be there, by key.
func (s *Sink) expect(ctx context.Context, l stream.Lake, deep bool) (map[string]expected, error) {
	encoder := func(partition string) (bulk.Encoder, error) { return s.encoder(partition) }
	return bulk.Expect(ctx, l, s.o.Ordering, deep, encoder, func(place stream.Place, _ *stream.Event, body []byte) (wanted, error) {
		return s.wanted(place, body)
	})
}

func (s *Sink) wanted(place stream.Place, body []byte) (wanted, error) {
	args, err := arguments(nil, body)
	if err != nil {
		return wanted{}, err
	}
	w := wanted{deleted: args[1] == "1", fields: map[string]string{"_partition": place.Partition, "_position": place.Version()}}
	if args[0] != "" {
		if w.ends, err = strconv.ParseInt(args[0], 10, 64); err != nil {
			return wanted{}, err
		}
	}
	if s.o.Ordering == stream.ByTime {
		w.fields["_time"] = strconv.FormatInt(place.Micros(), 10)
	}
	for i := 2; i < len(args); i += 2 {
		w.fields[args[i]] = args[i+1]
	}
	return w, nil
}

// checking is one Check under way.
type checking struct {
	*Sink
	link     *link
	lake     stream.Lake
	want     map[string]expected
	report   *stream.SinkReport
	problems stream.Problems
	others   int // keys without a prefix that are none of ours
}

// get looks at the keys that are wanted.
func (c *checking) get(ctx context.Context) error {
	for some := range slices.Chunk(slices.Sorted(maps.Keys(c.want)), page) {
		before, err := c.now(ctx)
		if err != nil {
			return err
		}
		have, err := c.rows(ctx, some)
		if err != nil {
			return err
		}
		after, err := c.now(ctx)
		if err != nil {
			return err
		}
		for i, key := range some {
			c.judge(key, c.want[key], have[i], before, after)
		}
	}
	return nil
}

// row is a key's: no fields where there is none, and an error where it is no hash.
type row struct {
	fields map[string]string
	err    error
}

func (r row) there() bool { return r.err != nil || len(r.fields) > 0 }

// rows are those of keys, in their order.
func (c *checking) rows(ctx context.Context, keys []string) ([]row, error) {
	calls := make(rueidis.Commands, 0, len(keys))
	for _, key := range keys {
		calls = append(calls, c.link.B().Hgetall().Key(key).Build())
	}
	out := make([]row, len(keys))
	for i, answer := range c.link.DoMulti(ctx, calls...) {
		out[i].fields, out[i].err = answer.AsStrMap()
		if err := out[i].err; err != nil && !strings.HasPrefix(err.Error(), "WRONGTYPE") {
			return nil, c.meaning(fmt.Errorf("read %s: %w", keys[i], err))
		}
	}
	return out, nil
}

// now is the server's time in milliseconds since 1970.
func (c *checking) now(ctx context.Context) (int64, error) {
	parts, err := c.link.Do(ctx, c.link.B().Time().Build()).AsIntSlice()
	if err != nil || len(parts) != 2 {
		return 0, c.meaning(fmt.Errorf("ask %s for its time: %w", c.Sink, err))
	}
	return parts[0]*1000 + parts[1]/1000, nil
}

// ahead says that a row is of an event that is not in the lake yet.
func (c *checking) ahead(fields map[string]string) bool {
	return stream.Ahead(c.lake, fields["_partition"], fields["_position"])
}

// judge compares one row, read between two times, with its newest event.
func (c *checking) judge(key string, want expected, have row, before, after int64) {
	ended := func(now int64) bool { return want.Row.ends != 0 && want.Row.ends <= now }
	live := have.there() && have.fields["_deleted"] == ""
	differs := func(format string, args ...any) {
		c.problems.Add(stream.Differs, want.Place.Partition, "row %q "+format, append([]any{key}, args...)...)
	}
	switch {
	case have.err == nil && c.ahead(have.fields):
		if !want.Row.deleted && !ended(after) {
			c.report.Expected++
			c.report.Found++
		}
		return
	case want.Row.deleted && live:
		differs("is there, and its newest event, at %s, deletes it", want.Place.Version())
		return
	case ended(before) && live:
		differs("of the event at %s is there after its end", want.Place.Version())
		return
	case want.Row.deleted, ended(after): // nothing, or a mark
		return
	}
	c.report.Expected++
	switch {
	case !have.there():
		c.problems.Add(stream.Missing, want.Place.Partition, "row %q, of the event at %s, is not there", key, want.Place.Version())
	case have.err != nil:
		differs("is no hash")
	case !maps.Equal(have.fields, want.Row.fields):
		differs("differs from its newest event, at %s: %s", want.Place.Version(), difference(have.fields, want.Row.fields))
	default:
		c.report.Found++
	}
}

// difference names the fields that differ.
func difference(have, want map[string]string) string {
	say := func(row map[string]string, name string) string {
		if v, there := row[name]; there {
			return fmt.Sprintf("%.100q", v)
		}
		return "not there"
	}
	all := maps.Clone(have)
	maps.Copy(all, want)
	var out []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if a, b := say(have, name), say(want, name); a != b {
			out = append(out, fmt.Sprintf("%s is %s and should be %s", name, a, b))
		}
	}
	return strings.Join(out, ", ")
}

// scan looks for rows that no event made, on every node: SCAN may name a key twice, and so do a node and its replica.
func (c *checking) scan(ctx context.Context) error {
	looked := map[string]bool{}
	for _, node := range c.link.Nodes() {
		for cursor := uint64(0); ; {
			scan := node.B().Scan().Cursor(cursor).Match(literal(c.cfg.Prefix) + "*").Count(page).Build()
			found, err := node.Do(ctx, scan).AsScanEntry()
			if err != nil {
				return c.meaning(fmt.Errorf("list the keys of %s: %w", c.Sink, err))
			}
			var keys []string
			for _, key := range found.Elements {
				if _, wanted := c.want[key]; !wanted && !looked[key] {
					looked[key] = true
					keys = append(keys, key)
				}
			}
			if err := c.extra(ctx, keys); err != nil {
				return err
			}
			if cursor = found.Cursor; cursor == 0 {
				break
			}
		}
	}
	return nil
}

// extra judges keys that no event of the lake is about.
func (c *checking) extra(ctx context.Context, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	have, err := c.rows(ctx, keys)
	if err != nil {
		return err
	}
	for i, key := range keys {
		fields := have[i].fields
		switch ours := fields["_position"] != ""; {
		case !have[i].there(), ours && c.ahead(fields):
		case !ours && c.cfg.Prefix == "":
			c.others++
		default:
			c.problems.Add(stream.Extra, fields["_partition"], "row %q is of no committed event", key)
		}
	}
	return nil
}

// literal is text as a pattern that matches only itself.
func literal(text string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(text)
}
