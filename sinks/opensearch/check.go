package opensearch

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/stream"
)

var _ stream.Checker = (*Sink)(nil)

// Check compares the documents with the lake. Those of action create by their number in each partition, and where that is wrong,
// or with deep, by their ids; those that are kept up to date by where they come from: all with deep, else a sample.
func (s *Sink) Check(ctx context.Context, l stream.Lake, deep bool) (stream.SinkReport, []stream.Problem, error) {
	r := stream.SinkReport{Sink: s.o.Name}
	if err := s.Refresh(ctx); err != nil {
		return r, nil, fmt.Errorf("refresh: %w", err)
	}
	c := checking{Sink: s, lake: l, report: &r, problems: stream.Problems{Sink: s.o.Name}}
	if err := c.strangers(ctx); err != nil {
		return r, nil, fmt.Errorf("look for documents without _partition: %w", err)
	}
	check := c.events
	if s.cfg.Action != "create" || s.cfg.ID != "" {
		check = c.kept
	}
	err := check(ctx, deep)
	return r, c.problems.All(), err
}

// checking is one Check under way.
type checking struct {
	*Sink
	lake     stream.Lake
	report   *stream.SinkReport
	problems stream.Problems
}

// events compares the documents that are an event each.
func (c *checking) events(ctx context.Context, deep bool) error {
	counts, ok := c.lake.Counts()
	if !ok || deep {
		c.report.How = "every id"
		return c.ids(ctx, nil)
	}
	c.report.How = "their number in each partition"
	wrong := map[string]bool{}
	for _, partition := range slices.Sorted(maps.Keys(counts)) {
		to, _ := c.lake.Committed(partition)
		n, err := c.Count(ctx, partition, stream.Position{}, to, true)
		if err != nil {
			return fmt.Errorf("count the documents of %s: %w", partition, err)
		}
		c.report.Expected += counts[partition]
		c.report.Found += n
		if n != counts[partition] {
			wrong[partition] = true
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return c.ids(ctx, wrong)
}

// strangers adds the documents that say nothing of where they come from, since somebody else put them there, and looks at those of
// partitions that the lake does not know: they may be of its first events.
func (c *checking) strangers(ctx context.Context) error {
	hits, err := c.hits(ctx, map[string]any{
		"size": 1000, "_source": false,
		"query": map[string]any{"bool": map[string]any{"must_not": []any{map[string]any{"exists": map[string]any{"field": "_partition"}}}}},
	})
	for _, h := range hits {
		c.problems.Add(stream.Extra, "", "document %s of %s does not say which event it is of", h.ID, h.Index)
	}
	if err != nil {
		return err
	}
	counts, _ := c.lake.Counts()
	hits, err = c.hits(ctx, map[string]any{
		"size": 1000, "_source": []string{"_partition", "_position"},
		"query": map[string]any{"bool": map[string]any{
			"filter":   []any{map[string]any{"exists": map[string]any{"field": "_partition"}}},
			"must_not": []any{map[string]any{"terms": map[string]any{"_partition": slices.AppendSeq([]string{}, maps.Keys(counts))}}},
		}},
	})
	for _, h := range hits {
		if !stream.Ahead(c.lake, h.Source.Partition, h.Source.Position) {
			c.problems.Add(stream.Extra, h.Source.Partition, "document %s of %s is of no committed event", h.ID, h.Index)
		}
	}
	return err
}

// identity is where a document comes from.
type identity struct {
	pos   stream.Position
	index uint32
}

func (i identity) compare(o identity) int {
	if c := i.pos.Compare(o.pos); c != 0 {
		return c
	}
	return int(int64(i.index) - int64(o.index))
}

func (i identity) String() string { return stream.Place{Pos: i.pos, Index: i.index}.Version() }

// ids compares every document of some partitions, whose documents are counted already, with every event; of all partitions if nil.
// It holds 36 bytes for an event.
func (c *checking) ids(ctx context.Context, only map[string]bool) error {
	want := map[string][]identity{}
	err := c.lake.Events(ctx, func(partition string, e *stream.Event) error {
		if only == nil || only[partition] {
			want[partition] = append(want[partition], identity{e.Record.Pos, e.Index})
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, partition := range slices.Sorted(maps.Keys(want)) {
		ids := want[partition]
		slices.SortFunc(ids, identity.compare)
		m := merge{checking: c, partition: partition, want: ids}
		if err := c.Walk(ctx, partition, m.document); err != nil {
			return fmt.Errorf("read the documents of %s: %w", partition, err)
		}
		m.rest()
		if only == nil {
			c.report.Expected += int64(len(ids))
			c.report.Found += m.found
		}
	}
	return nil
}

// merge walks the events and the documents of one partition side by side.
type merge struct {
	*checking
	partition string
	want      []identity // that are left
	last      identity
	any       bool
	found     int64
}

func (m *merge) document(d Document) error {
	place, err := stream.ParseVersion(d.Position)
	id := identity{place.Pos, place.Index}
	if err != nil {
		m.problems.Add(stream.Extra, m.partition, "document %s of %s has no position of ours: %q", d.ID, d.Index, d.Position)
		return nil
	}
	for len(m.want) > 0 && m.want[0].compare(id) < 0 {
		m.missing(m.want[0])
		m.want = m.want[1:]
	}
	switch {
	case m.any && m.last == id:
		m.problems.Add(stream.Duplicate, m.partition, "%s is there again as document %s of %s", id, d.ID, d.Index)
	case len(m.want) > 0 && m.want[0] == id:
		m.want = m.want[1:]
		m.found++
	case stream.Ahead(m.lake, m.partition, d.Position):
	default:
		m.problems.Add(stream.Extra, m.partition, "document %s of %s is of no committed event", d.ID, d.Index)
	}
	m.last, m.any = id, true
	return nil
}

func (m *merge) missing(id identity) {
	if m.lake.Refused(m.partition, id.pos) {
		m.found++ // it stands in the dead letters
		return
	}
	m.problems.Add(stream.Missing, m.partition, "the event at %s has no document", id)
}

func (m *merge) rest() {
	for _, id := range m.want {
		m.missing(id)
	}
}

// kept compares where documents come from that have ids of their own.
func (c *checking) kept(ctx context.Context, deep bool) error {
	c.report.How = fmt.Sprintf("a sample of 1 in %d documents", bulk.SampleOf)
	if deep {
		c.report.How = "every document"
	}
	encoder := func(partition string) (bulk.Encoder, error) {
		return newEncoder(&c.cfg, c.o, stream.Tenure{Partition: partition, Schema: c.o.Schema})
	}
	// Of several events with one id, action create keeps the one that arrived first. judge takes any.
	want, err := bulk.Expect(ctx, c.lake, c.o.Ordering, deep, encoder, func(_ stream.Place, e *stream.Event, _ []byte) (deleted bool, _ error) {
		return c.cfg.Action == "delete" || c.o.Delete != nil && c.o.Delete(e), nil
	})
	if err != nil {
		return err
	}
	ids := slices.Sorted(maps.Keys(want))
	for some := range slices.Chunk(ids, 500) {
		found, err := c.byID(ctx, some)
		if err != nil {
			return err
		}
		for _, id := range some {
			c.judge(id, want[id], found[id])
		}
	}
	if !deep {
		return nil
	}
	counts, _ := c.lake.Counts()
	for _, partition := range slices.Sorted(maps.Keys(counts)) {
		err := c.Walk(ctx, partition, func(d Document) error {
			if _, known := want[d.ID]; !known && !stream.Ahead(c.lake, partition, d.Position) {
				c.problems.Add(stream.Extra, partition, "document %s of %s is of no committed event", d.ID, d.Index)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("read the documents of %s: %w", partition, err)
		}
	}
	return nil
}

// hit is a document that a search found; without an ID, none.
type hit struct {
	ID     string `json:"_id"`
	Index  string `json:"_index"`
	Source struct {
		Partition string `json:"_partition"`
		Position  string `json:"_position"`
		Deleted   bool   `json:"_deleted"`
	} `json:"_source"`
}

// judge compares a document with the newest event of its id, which may have deleted it.
func (c *checking) judge(id string, want bulk.Expected[bool], h hit) {
	c.report.Expected++
	version := want.Place.Version()
	switch got := h.Source; {
	case h.ID == "":
		c.problems.Add(stream.Missing, want.Place.Partition, "document %q, of the event at %s, is not there", id, version)
		return
	case got.Partition == want.Place.Partition && got.Position == version && got.Deleted == want.Row:
	case c.cfg.Action == "create": // another event of the same id came first
	case stream.Ahead(c.lake, got.Partition, got.Position):
	default:
		c.problems.Add(stream.Differs, want.Place.Partition, "document %q is of %s at %s; the newest event is at %s", id, got.Partition, got.Position, version)
		return
	}
	c.report.Found++
}

// byID reads documents with their tombstones.
func (s *Sink) byID(ctx context.Context, ids []string) (map[string]hit, error) {
	hits, err := s.hits(ctx, map[string]any{
		"size": len(ids), "query": map[string]any{"ids": map[string]any{"values": ids}}, "_source": []string{"_partition", "_position", "_deleted"},
	})
	found := map[string]hit{}
	for _, h := range hits {
		found[h.ID] = h
	}
	return found, err
}

// hits are the documents that a search finds; none where there is no index yet.
func (s *Sink) hits(ctx context.Context, search map[string]any) ([]hit, error) {
	text, err := s.search(ctx, "_search", search)
	if statusOf(err) == 404 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var answer struct {
		Hits struct{ Hits []hit }
	}
	err = json.Unmarshal(text, &answer)
	return answer.Hits.Hits, err
}
