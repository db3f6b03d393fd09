package opensearch

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/stream"
)

var _ stream.Checker = (*Sink)(nil)

// shown is how many problems of one kind are named.
const shown = 20

// Check compares the documents with the lake. Those of action create by their number in each partition, and where that is wrong,
// or with deep, by their ids; those that are kept up to date by where they come from: all with deep, else a sample.
func (s *Sink) Check(ctx context.Context, l stream.Lake, deep bool) (stream.SinkReport, []stream.Problem, error) {
	r := stream.SinkReport{Sink: s.o.Name}
	if err := s.Refresh(ctx); err != nil {
		return r, nil, fmt.Errorf("refresh: %w", err)
	}
	if s.cfg.Action != "create" || s.cfg.ID != "" {
		return s.checkKept(ctx, l, deep, r)
	}
	strangers, err := s.strangers(ctx)
	if err != nil {
		return r, nil, fmt.Errorf("look for documents without _partition: %w", err)
	}
	r, problems, err := s.checkEvents(ctx, l, deep, r)
	return r, append(strangers, problems...), err
}

// checkEvents compares the documents of action create that say where they come from.
func (s *Sink) checkEvents(ctx context.Context, l stream.Lake, deep bool, r stream.SinkReport) (stream.SinkReport, []stream.Problem, error) {
	counts, ok := l.Counts()
	if !ok || deep {
		return s.checkIDs(ctx, l, nil, r)
	}
	wrong := map[string]bool{}
	for _, partition := range slices.Sorted(maps.Keys(counts)) {
		to, _ := l.Committed(partition)
		n, err := s.Count(ctx, partition, stream.Position{}, to, true)
		if err != nil {
			return r, nil, fmt.Errorf("count the documents of %s: %w", partition, err)
		}
		r.Expected += counts[partition]
		r.Found += n
		if n != counts[partition] {
			wrong[partition] = true
		}
	}
	r.How = "their number in each partition"
	if len(wrong) == 0 {
		return r, nil, nil
	}
	_, problems, err := s.checkIDs(ctx, l, wrong, r)
	return r, problems, err
}

// strangers are documents that say nothing of where they come from: somebody else put them there.
func (s *Sink) strangers(ctx context.Context) ([]stream.Problem, error) {
	text, err := s.search(ctx, "_search", map[string]any{
		"size": shown + 1, "_source": false,
		"query": map[string]any{"bool": map[string]any{"must_not": []any{map[string]any{"exists": map[string]any{"field": "_partition"}}}}},
	})
	if statusOf(err) == 404 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var answer struct {
		Hits struct {
			Hits []struct {
				ID    string `json:"_id"`
				Index string `json:"_index"`
			} `json:"hits"`
		} `json:"hits"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, err
	}
	var problems []stream.Problem
	for i, h := range answer.Hits.Hits {
		p := stream.Problem{Kind: stream.Extra, Sink: s.o.Name, Text: fmt.Sprintf("document %s of %s does not say which event it is of", h.ID, h.Index)}
		if i == shown {
			p.Text = "and more"
		}
		problems = append(problems, p)
	}
	return problems, nil
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

func parseIdentity(version string) (i identity, err error) {
	pos, index, _ := strings.Cut(version, "-")
	if i.pos, err = stream.ParsePosition(pos); err == nil {
		_, err = fmt.Sscanf(index, "%08x", &i.index)
	}
	return i, err
}

// checkIDs compares every document of the partitions, of all if nil, with every event. It holds 36 bytes for an event.
func (s *Sink) checkIDs(ctx context.Context, l stream.Lake, only map[string]bool, r stream.SinkReport) (stream.SinkReport, []stream.Problem, error) {
	want := map[string][]identity{}
	err := l.Events(ctx, func(partition string, e *stream.Event) error {
		if only == nil || only[partition] {
			want[partition] = append(want[partition], identity{e.Record.Pos, e.Index})
		}
		return nil
	})
	if err != nil {
		return r, nil, err
	}
	if only == nil {
		r = stream.SinkReport{Sink: r.Sink, How: "every id"}
	}
	var problems problemList
	for _, partition := range slices.Sorted(maps.Keys(want)) {
		ids := want[partition]
		slices.SortFunc(ids, identity.compare)
		m := merge{sink: s, l: l, partition: partition, want: ids, problems: &problems}
		if m.to, _ = l.Committed(partition); true {
			if err := s.Walk(ctx, partition, m.document); err != nil {
				return r, nil, fmt.Errorf("read the documents of %s: %w", partition, err)
			}
			m.rest()
		}
		if only == nil {
			r.Expected += int64(len(ids))
			r.Found += m.found
		}
	}
	return r, problems.named(s.o.Name), nil
}

// merge walks the events and the documents of one partition side by side.
type merge struct {
	sink      *Sink
	l         stream.Lake
	partition string
	to        stream.Position
	want      []identity // that are left
	last      identity
	any       bool
	found     int64
	problems  *problemList
}

func (m *merge) document(d Document) error {
	id, err := parseIdentity(d.Position)
	if err != nil {
		m.problems.add(stream.Extra, m.partition, "document %s of %s has no position of ours: %q", d.ID, d.Index, d.Position)
		return nil
	}
	for len(m.want) > 0 && m.want[0].compare(id) < 0 {
		m.missing(m.want[0])
		m.want = m.want[1:]
	}
	switch {
	case m.any && m.last == id:
		m.problems.add(stream.Duplicate, m.partition, "%s is there again as document %s of %s", id, d.ID, d.Index)
	case len(m.want) > 0 && m.want[0] == id:
		m.want = m.want[1:]
		m.found++
	case id.pos.Compare(m.to) > 0: // ahead of the lake
	default:
		m.problems.add(stream.Extra, m.partition, "document %s of %s is of no committed event", d.ID, d.Index)
	}
	m.last, m.any = id, true
	return nil
}

func (m *merge) missing(id identity) {
	if m.l.Refused(m.partition, id.pos) {
		m.found++ // it stands in the dead letters
		return
	}
	m.problems.add(stream.Missing, m.partition, "the event at %s has no document", id)
}

func (m *merge) rest() {
	for _, id := range m.want {
		m.missing(id)
	}
}

// problemList keeps the first problems of each kind and counts the others.
type problemList struct {
	list []stream.Problem
	more map[stream.ProblemKind]int
}

func (p *problemList) add(kind stream.ProblemKind, partition, format string, args ...any) {
	if p.more == nil {
		p.more = map[stream.ProblemKind]int{}
	}
	if p.more[kind]++; p.more[kind] <= shown {
		p.list = append(p.list, stream.Problem{Kind: kind, Partition: partition, Text: fmt.Sprintf(format, args...)})
	}
}

// named is the problems with the sink's name, and a line for those that are left out.
func (p *problemList) named(sink string) []stream.Problem {
	for _, kind := range slices.Sorted(maps.Keys(p.more)) {
		if more := p.more[kind] - shown; more > 0 {
			p.list = append(p.list, stream.Problem{Kind: kind, Text: fmt.Sprintf("and %d more", more)})
		}
	}
	for i := range p.list {
		p.list[i].Sink = sink
	}
	return p.list
}

// sampleOf is one in how many documents a check without deep looks at, where they are kept up to date.
const sampleOf = 16

// expected is the newest event of a document.
type expected struct {
	place   stream.Place
	deleted bool
}

// checkKept compares where documents come from that have ids of their own.
func (s *Sink) checkKept(ctx context.Context, l stream.Lake, deep bool, r stream.SinkReport) (stream.SinkReport, []stream.Problem, error) {
	seed := maphash.MakeSeed()
	r.How = fmt.Sprintf("a sample of 1 in %d documents", sampleOf)
	if deep {
		r.How = "every document"
	}
	want := map[string]expected{}
	encoders := map[string]*encoder{}
	err := l.Events(ctx, func(partition string, e *stream.Event) error {
		enc := encoders[partition]
		if enc == nil {
			var err error
			if enc, err = newEncoder(&s.cfg, s.o, stream.Tenure{Partition: partition, Schema: s.o.Schema}); err != nil {
				return err
			}
			encoders[partition] = enc
		}
		place := stream.PlaceOf(partition, e)
		id, err := enc.appendID(nil, e, place)
		if err != nil || l.Refused(partition, e.Record.Pos) || !deep && maphash.Bytes(seed, id)%sampleOf != 0 {
			return nil //nolint:nilerr // without an id it stands in the dead letters
		}
		old, there := want[string(id)]
		newer := s.o.Ordering.Later(place, old.place)
		if s.cfg.Action == "create" {
			newer = false // the first one stays; which one that was depends on the order of their arrival
		}
		if !there || newer {
			want[string(id)] = expected{place, s.cfg.Action == "delete" || s.o.Delete != nil && s.o.Delete(e)}
		}
		return nil
	})
	if err != nil {
		return r, nil, err
	}
	var problems problemList
	ids := slices.Sorted(maps.Keys(want))
	for some := range slices.Chunk(ids, 500) {
		found, err := s.byID(ctx, some)
		if err != nil {
			return r, nil, err
		}
		for _, id := range some {
			s.judgeKept(l, id, want[id], found[id], &r, &problems)
		}
	}
	if deep {
		n, err := s.countAll(ctx)
		if err != nil {
			return r, nil, err
		}
		if n > int64(len(ids)) {
			r.Notes = append(r.Notes, fmt.Sprintf("%d documents are of events that the lake has not", n-int64(len(ids))))
		}
	}
	return r, problems.named(s.o.Name), nil
}

// keptDocument is the part of a document that says where it comes from.
type keptDocument struct {
	there     bool
	Partition string `json:"_partition"`
	Position  string `json:"_position"`
	Deleted   bool   `json:"_deleted"`
}

func (s *Sink) judgeKept(l stream.Lake, id string, want expected, got keptDocument, r *stream.SinkReport, problems *problemList) {
	r.Expected++
	version := want.place.Version()
	switch {
	case !got.there:
		problems.add(stream.Missing, want.place.Partition, "document %q, of the event at %s, is not there", id, version)
		return
	case got.Partition == want.place.Partition && got.Position == version && got.Deleted == want.deleted:
	case s.cfg.Action == "create": // another event of the same id came first
	default:
		i, err := parseIdentity(got.Position)
		to, _ := l.Committed(got.Partition)
		if err != nil || i.pos.Compare(to) <= 0 {
			problems.add(stream.Differs, want.place.Partition, "document %q is of %s at %s; the newest event is at %s", id, got.Partition, got.Position, version)
			return
		}
	}
	r.Found++
}

// byID reads documents with their tombstones.
func (s *Sink) byID(ctx context.Context, ids []string) (map[string]keptDocument, error) {
	text, err := s.search(ctx, "_search", map[string]any{
		"size": len(ids), "query": map[string]any{"ids": map[string]any{"values": ids}}, "_source": []string{"_partition", "_position", "_deleted"},
	})
	found := map[string]keptDocument{}
	if statusOf(err) == 404 {
		return found, nil
	}
	if err != nil {
		return nil, err
	}
	var answer struct {
		Hits struct {
			Hits []struct {
				ID     string       `json:"_id"`
				Source keptDocument `json:"_source"`
			} `json:"hits"`
		} `json:"hits"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, err
	}
	for _, h := range answer.Hits.Hits {
		h.Source.there = true
		found[h.ID] = h.Source
	}
	return found, nil
}

func (s *Sink) countAll(ctx context.Context) (int64, error) {
	text, err := s.search(ctx, "_count", map[string]any{"query": map[string]any{"match_all": map[string]any{}}})
	if statusOf(err) == 404 {
		return 0, nil
	}
	var answer struct {
		Count int64 `json:"count"`
	}
	if err == nil {
		err = json.Unmarshal(text, &answer)
	}
	return answer.Count, err
}
