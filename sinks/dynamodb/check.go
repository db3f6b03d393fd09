package dynamodb

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/stream"
)

var _ stream.Checker = (*Sink)(nil)

// expected is the newest event of a key, and the item that it makes, in DynamoDB's JSON.
type expected = bulk.Expected[map[string]any]

// Check computes the items anew from the lake and compares them with the table's: of a sample of the keys, or, with deep, of all;
// then it also looks for items that no event made. It holds the items of the keys that it looks at.
func (s *Sink) Check(ctx context.Context, l stream.Lake, deep bool) (stream.SinkReport, []stream.Problem, error) {
	r := stream.SinkReport{Sink: s.o.Name, How: fmt.Sprintf("a sample of 1 in %d items", bulk.SampleOf)}
	if deep {
		r.How = "every item"
	}
	want, err := s.expect(ctx, l, deep)
	if err != nil {
		return r, nil, err
	}
	c := checking{Sink: s, lake: l, want: want, report: &r, problems: stream.Problems{Sink: s.o.Name}}
	if deep {
		err = c.scan(ctx)
	} else {
		err = c.get(ctx)
	}
	return r, c.problems.All(), err
}

// expect is the items that should be there, by key.
func (s *Sink) expect(ctx context.Context, l stream.Lake, deep bool) (map[string]expected, error) {
	encoder := func(partition string) (bulk.Encoder, error) { return s.Encoder(stream.Tenure{Partition: partition}) }
	return bulk.Expect(ctx, l, s.o.Ordering, deep, encoder, func(_ stream.Place, _ *stream.Event, body []byte) (map[string]any, error) {
		return decodeItem(body)
	})
}

// decodeItem reads an item and gives all its numbers one spelling.
func decodeItem(text []byte) (map[string]any, error) {
	var item map[string]any
	if err := json.Unmarshal(text, &item); err != nil {
		return nil, err
	}
	normal(item)
	return item, nil
}

// normal gives what is the same one spelling: the server writes numbers its own way, and sets in its own order.
func normal(v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			switch text, isText := e.(string); {
			case k == "N" && isText && len(v) == 1:
				v[k] = normalNumber(text)
			case k == "SS" && len(v) == 1:
				set, _ := e.([]any)
				slices.SortFunc(set, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
			default:
				normal(e)
			}
		}
	case []any:
		for _, e := range v {
			normal(e)
		}
	}
}

// normalNumber is a decimal number as digits and exponent, without zeros at either end.
func normalNumber(text string) string {
	sign := ""
	if strings.HasPrefix(text, "-") {
		sign = "-"
	}
	mantissa, exponent, _ := strings.Cut(strings.ToLower(strings.TrimLeft(text, "+-")), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	e := 0
	if exponent != "" {
		_, _ = fmt.Sscanf(exponent, "%d", &e) // a number that DynamoDB took
	}
	e -= len(fraction)
	digits := strings.TrimLeft(whole+fraction, "0")
	short := strings.TrimRight(digits, "0")
	if short == "" {
		return "0"
	}
	return fmt.Sprintf("%s%se%d", sign, short, e+len(digits)-len(short))
}

// checking is one Check under way.
type checking struct {
	*Sink
	lake     stream.Lake
	want     map[string]expected // that were not found yet
	report   *stream.SinkReport
	problems stream.Problems
}

// keyOf is an item's key as the encoder writes it.
func (c *checking) keyOf(item map[string]any) string {
	text := func(a attribute) string {
		v, _ := item[a.name].(map[string]any)
		return scalar(v)
	}
	key := text(c.layout.pk)
	if c.layout.sk.column != noColumn {
		key += "\x00" + text(c.layout.sk)
	}
	return key
}

// judge compares one item of the table.
func (c *checking) judge(item map[string]any) {
	key := c.keyOf(item)
	text := func(name string) string {
		v, _ := item[name].(map[string]any)
		return scalar(v)
	}
	partition := text("_partition")
	ahead := stream.Ahead(c.lake, partition, text("_position"))
	want, expected := c.want[key]
	delete(c.want, key)
	switch {
	case !expected && ahead:
		return
	case !expected:
		c.problems.Add(stream.Extra, partition, "item %q is of no committed event", key)
		return
	}
	c.report.Expected++
	normal(item)
	have, _ := json.Marshal(item)
	wanted, _ := json.Marshal(want.Row)
	if !ahead && !bytes.Equal(have, wanted) {
		c.problems.Add(stream.Differs, want.Place.Partition, "item %q differs from its newest event, at %s: %s", key, want.Place.Version(), difference(item, want.Row))
		return
	}
	c.report.Found++
}

// difference names the attributes that differ.
func difference(have, want map[string]any) string {
	all := maps.Clone(have)
	maps.Copy(all, want)
	var out []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		a, _ := json.Marshal(have[name])
		b, _ := json.Marshal(want[name])
		if !bytes.Equal(a, b) {
			out = append(out, fmt.Sprintf("%s is %.100s and should be %.100s", name, a, b))
		}
	}
	return strings.Join(out, ", ")
}

// missing are the keys that no item was found for.
func (c *checking) missing() {
	for _, key := range slices.Sorted(maps.Keys(c.want)) {
		c.report.Expected++
		c.problems.Add(stream.Missing, c.want[key].Place.Partition, "item %q, of the event at %s, is not there", key, c.want[key].Place.Version())
	}
}

// scan looks at the whole table.
func (c *checking) scan(ctx context.Context) error {
	from := json.RawMessage(nil)
	for {
		request := map[string]any{"TableName": c.cfg.Table, "ConsistentRead": true}
		if from != nil {
			request["ExclusiveStartKey"] = from
		}
		var page struct {
			Items []map[string]any
			Last  json.RawMessage `json:"LastEvaluatedKey"`
		}
		if err := c.ask(ctx, "Scan", request, &page); err != nil {
			return err
		}
		for _, item := range page.Items {
			c.judge(item)
		}
		if from = page.Last; len(from) == 0 {
			break
		}
	}
	c.missing()
	return nil
}

// get looks at the keys that are wanted.
func (c *checking) get(ctx context.Context) error {
	for some := range slices.Chunk(slices.Sorted(maps.Keys(c.want)), 100) {
		var keys []any
		for _, key := range some {
			one := map[string]any{}
			for _, a := range []attribute{c.layout.pk, c.layout.sk} {
				if a.column != noColumn {
					one[a.name] = c.want[key].Row[a.name]
				}
			}
			keys = append(keys, one)
		}
		for len(keys) > 0 {
			var answer struct {
				Responses   map[string][]map[string]any
				Unprocessed map[string]struct{ Keys []any } `json:"UnprocessedKeys"`
			}
			request := map[string]any{"RequestItems": map[string]any{c.cfg.Table: map[string]any{"Keys": keys, "ConsistentRead": true}}}
			if err := c.ask(ctx, "BatchGetItem", request, &answer); err != nil {
				return err
			}
			for _, item := range answer.Responses[c.cfg.Table] {
				c.judge(item)
			}
			keys = answer.Unprocessed[c.cfg.Table].Keys
		}
	}
	c.missing()
	return nil
}

func (c *checking) ask(ctx context.Context, operation string, request, answer any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	call, err := c.caller(ctx) // again for each: a table's scan takes longer than a signature lives
	if err != nil {
		return err
	}
	defer call.calls.end()
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	text, err := call.do(ctx, operation, body)
	if err != nil {
		return fmt.Errorf("table %s: %w", c.Sink, err)
	}
	return json.Unmarshal(text, answer)
}
