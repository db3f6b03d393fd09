package opensearch

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// searchBody is the part of a search request that is known.
type searchBody struct {
	Query       map[string]any       `json:"query"`
	Size        *int                 `json:"size"`
	From        int                  `json:"from"`
	Sort        []map[string]any     `json:"sort"`
	SearchAfter []any                `json:"search_after"`
	Source      any                  `json:"_source"`
	Aggs        map[string]aggregate `json:"aggs"`
	Track       any                  `json:"track_total_hits"`
}

// aggregate is one aggregation.
type aggregate struct {
	Terms *struct {
		Field string `json:"field"`
		Size  int    `json:"size"`
	} `json:"terms"`
	Cardinality *struct {
		Field string `json:"field"`
	} `json:"cardinality"`
	DateHistogram *struct {
		Field    string `json:"field"`
		Interval string `json:"fixed_interval"`
	} `json:"date_histogram"`
	Aggs map[string]aggregate `json:"aggs"`
}

// hit is a document that was found.
type hit struct {
	index  string
	id     string
	doc    *doc
	values []any // of the sort
}

func (s *Server) count(path []string, body []byte) (any, *problem) {
	hits, _, p := s.matching(path, body)
	if p != nil {
		return nil, p
	}
	return map[string]any{"count": len(hits), "_shards": map[string]any{"failed": 0}}, nil
}

// matching is the hits of a request, in the order of its sort or of index and id.
func (s *Server) matching(path []string, body []byte) ([]hit, searchBody, *problem) {
	names := ""
	if len(path) > 1 {
		names = path[0]
	}
	found := s.find(names)
	var in searchBody
	if len(found) == 0 && names != "" && !strings.Contains(names, "*") {
		return nil, in, missing(names)
	}
	if len(body) > 0 {
		decoder := json.NewDecoder(strings.NewReader(string(body)))
		decoder.UseNumber()
		if err := decoder.Decode(&in); err != nil {
			return nil, in, problemf(http.StatusBadRequest, "parsing_exception", "%s", err)
		}
	}
	var hits []hit
	for _, ix := range found {
		for _, id := range slices.Sorted(maps.Keys(ix.docs)) {
			d := ix.docs[id]
			ok, p := matches(in.Query, id, d)
			if p != nil {
				return nil, in, p
			}
			if ok && !d.deleted {
				hits = append(hits, hit{index: ix.name, id: id, doc: d})
			}
		}
	}
	return hits, in, nil
}

// matches says whether a document fits a query.
func matches(query map[string]any, id string, d *doc) (bool, *problem) {
	for kind, v := range query {
		body, _ := v.(map[string]any)
		switch kind {
		case "match_all":
		case "ids":
			values, _ := body["values"].([]any)
			if !slices.Contains(values, any(id)) {
				return false, nil
			}
		case "term", "terms", "range", "exists", "prefix":
			if !leaf(kind, body, d) {
				return false, nil
			}
		case "bool":
			ok, p := boolean(body, id, d)
			if !ok || p != nil {
				return false, p
			}
		default:
			return false, problemf(http.StatusBadRequest, "parsing_exception", "unknown query [%s]", kind)
		}
	}
	return true, nil
}

func boolean(body map[string]any, id string, d *doc) (bool, *problem) {
	for occurrence, v := range body {
		clauses, isList := v.([]any)
		if !isList {
			clauses = []any{v}
		}
		for _, c := range clauses {
			query, _ := c.(map[string]any)
			ok, p := matches(query, id, d)
			if p != nil {
				return false, p
			}
			if ok == (occurrence == "must_not") {
				return false, nil
			}
		}
	}
	return true, nil
}

func leaf(kind string, body map[string]any, d *doc) bool {
	if kind == "exists" {
		return d.source[fmt.Sprint(body["field"])] != nil
	}
	for name, want := range body {
		v := d.source[name]
		if v == nil {
			return false
		}
		switch kind {
		case "term":
			if m, ok := want.(map[string]any); ok {
				want = m["value"]
			}
			if compare(v, want) != 0 {
				return false
			}
		case "terms":
			values, _ := want.([]any)
			if !slices.ContainsFunc(values, func(w any) bool { return compare(v, w) == 0 }) {
				return false
			}
		case "prefix":
			if !strings.HasPrefix(fmt.Sprint(v), fmt.Sprint(want)) {
				return false
			}
		case "range":
			bounds, _ := want.(map[string]any)
			for op, bound := range bounds {
				c := compare(v, bound)
				if op == "gt" && c <= 0 || op == "gte" && c < 0 || op == "lt" && c >= 0 || op == "lte" && c > 0 {
					return false
				}
			}
		}
	}
	return true
}

// compare orders numbers as numbers and all else as texts.
func compare(a, b any) int {
	x, errX := strconv.ParseFloat(fmt.Sprint(a), 64)
	y, errY := strconv.ParseFloat(fmt.Sprint(b), 64)
	_, textA := a.(string)
	_, textB := b.(string)
	if errX == nil && errY == nil && !textA && !textB {
		return cmp.Compare(x, y)
	}
	return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
}

func (s *Server) search(path []string, body []byte) (any, *problem) {
	hits, in, p := s.matching(path, body)
	if p != nil {
		return nil, p
	}
	total := len(hits)
	aggregations := map[string]any{}
	for name, a := range in.Aggs {
		aggregations[name] = a.of(hits)
	}
	hits = sorted(hits, in)
	size := 10
	if in.Size != nil {
		size = *in.Size
	}
	hits = hits[min(in.From, len(hits)):]
	hits = hits[:min(size, len(hits))]
	list := []any{}
	for _, h := range hits {
		one := map[string]any{"_index": h.index, "_id": h.id}
		if in.Source != false {
			one["_source"] = h.doc.source
		}
		if h.values != nil {
			one["sort"] = h.values
		}
		list = append(list, one)
	}
	out := map[string]any{"timed_out": false, "hits": map[string]any{"total": map[string]any{"value": total, "relation": "eq"}, "hits": list}}
	if len(aggregations) > 0 {
		out["aggregations"] = aggregations
	}
	return out, nil
}

// sorted orders hits as asked, and leaves out what is not after search_after.
func sorted(hits []hit, in searchBody) []hit {
	if len(in.Sort) == 0 {
		return hits
	}
	var descending []bool
	for _, s := range in.Sort {
		for name, how := range s {
			if m, ok := how.(map[string]any); ok {
				how = m["order"]
			}
			descending = append(descending, how == "desc")
			for i := range hits {
				v := hits[i].doc.source[name]
				switch name {
				case "_id":
					v = hits[i].id
				case "_index":
					v = hits[i].index
				}
				hits[i].values = append(hits[i].values, v)
			}
		}
	}
	order := func(a, b []any) int {
		for i := range a {
			c := compare(a[i], b[i])
			if descending[i] {
				c = -c
			}
			if c != 0 {
				return c
			}
		}
		return 0
	}
	slices.SortStableFunc(hits, func(a, b hit) int { return order(a.values, b.values) })
	if in.SearchAfter != nil {
		hits = slices.DeleteFunc(hits, func(h hit) bool { return order(h.values, in.SearchAfter) <= 0 })
	}
	return hits
}

// of is an aggregation's value.
func (a aggregate) of(hits []hit) any {
	groups := map[string][]hit{}
	group := func(field string, key func(any) string) {
		for _, h := range hits {
			values, isList := h.doc.source[field].([]any)
			if !isList && h.doc.source[field] != nil {
				values = []any{h.doc.source[field]}
			}
			for _, v := range values {
				groups[key(v)] = append(groups[key(v)], h)
			}
		}
	}
	text := func(v any) string { return fmt.Sprint(v) }
	switch {
	case a.Cardinality != nil:
		group(a.Cardinality.Field, text)
		return map[string]any{"value": len(groups)}
	case a.DateHistogram != nil: // by the minute, the hour, the day: a prefix of RFC 3339
		length := map[string]int{"1s": 19, "1m": 16, "1h": 13, "1d": 10}[a.DateHistogram.Interval]
		group(a.DateHistogram.Field, func(v any) string { return fmt.Sprint(v)[:min(length, len(fmt.Sprint(v)))] })
		return map[string]any{"buckets": a.buckets(groups, 0)}
	case a.Terms != nil:
		group(a.Terms.Field, text)
		return map[string]any{"buckets": a.buckets(groups, max(a.Terms.Size, 10))}
	}
	return map[string]any{"doc_count": len(hits)}
}

// buckets are the groups: the largest ones first with a limit, else in the order of their keys.
func (a aggregate) buckets(groups map[string][]hit, limit int) []any {
	keys := slices.Sorted(maps.Keys(groups))
	if limit > 0 {
		slices.SortStableFunc(keys, func(x, y string) int { return cmp.Compare(len(groups[y]), len(groups[x])) })
		keys = keys[:min(limit, len(keys))]
	}
	out := []any{}
	for _, k := range keys {
		b := map[string]any{"key": k, "key_as_string": k, "doc_count": len(groups[k])}
		for name, sub := range a.Aggs {
			b[name] = sub.of(groups[k])
		}
		out = append(out, b)
	}
	return out
}
