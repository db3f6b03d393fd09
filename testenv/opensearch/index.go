package opensearch

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// index is one index.
type index struct {
	name     string
	fields   map[string]field
	dynamic  string // "true", "false", "strict"
	limit    int    // of fields
	aliases  map[string]bool
	readOnly bool // index.blocks.read_only_allow_delete
	noWrite  bool // index.blocks.write
	docs     map[string]*doc
}

// doc is a document, or the memory of one that was deleted.
type doc struct {
	source  map[string]any
	version int64
	seq     int64
	deleted bool
	fresh   bool // the last write made it
}

type field struct {
	kind string
	kept bool // enabled: false: anything is kept and nothing is looked at
}

// template is an index template.
type template struct {
	body     json.RawMessage
	patterns []string
	priority int
	aliases  []string
	fields   map[string]field
	dynamic  string
	limit    int
}

type templateBody struct {
	Patterns   any             `json:"index_patterns"`
	Priority   int             `json:"priority"`
	DataStream json.RawMessage `json:"data_stream"`
	Template   struct {
		Aliases  map[string]json.RawMessage `json:"aliases"`
		Mappings mappings                   `json:"mappings"`
		Settings map[string]any             `json:"settings"`
	} `json:"template"`
}

type mappings struct {
	Dynamic    any `json:"dynamic"`
	Properties map[string]struct {
		Type    string `json:"type"`
		Enabled *bool  `json:"enabled"`
	} `json:"properties"`
}

func (m mappings) fields() map[string]field {
	out := map[string]field{}
	for name, p := range m.Properties {
		if p.Type == "" {
			p.Type = "object"
		}
		out[name] = field{p.Type, p.Enabled != nil && !*p.Enabled}
	}
	return out
}

func dynamicOf(v any) string {
	if v == nil {
		return "true"
	}
	return fmt.Sprint(v)
}

func (s *Server) routeTemplate(method, name string, body []byte) (any, *problem) {
	switch method {
	case http.MethodGet:
		t := s.templates[name]
		if t == nil {
			return nil, problemf(http.StatusNotFound, "resource_not_found_exception", "index template matching [%s] not found", name)
		}
		return map[string]any{"index_templates": []any{map[string]any{"name": name, "index_template": t.body}}}, nil
	case http.MethodDelete:
		delete(s.templates, name)
		return map[string]any{"acknowledged": true}, nil
	}
	var in templateBody
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, problemf(http.StatusBadRequest, "x_content_parse_exception", "%s", err)
	}
	t := &template{body: slices.Clone(body), priority: in.Priority, fields: in.Template.Mappings.fields(), dynamic: dynamicOf(in.Template.Mappings.Dynamic), limit: 1000}
	if n, ok := in.Template.Settings["index.mapping.total_fields.limit"]; ok {
		t.limit, _ = strconv.Atoi(fmt.Sprint(n))
	}
	switch p := in.Patterns.(type) {
	case string:
		t.patterns = []string{p}
	case []any:
		for _, one := range p {
			t.patterns = append(t.patterns, fmt.Sprint(one))
		}
	}
	t.aliases = slices.Sorted(maps.Keys(in.Template.Aliases))
	s.templates[name] = t
	return map[string]any{"acknowledged": true}, nil
}

// create makes an index as the template of the highest priority that fits says.
func (s *Server) create(name string) *index {
	ix := &index{name: name, fields: map[string]field{}, dynamic: "true", limit: 1000, aliases: map[string]bool{}, docs: map[string]*doc{}}
	var best *template
	for _, t := range s.templates {
		fits := slices.ContainsFunc(t.patterns, func(p string) bool {
			ok, _ := path.Match(p, name)
			return ok
		})
		if fits && (best == nil || t.priority > best.priority) {
			best = t
		}
	}
	if best != nil {
		ix.fields, ix.dynamic, ix.limit = maps.Clone(best.fields), best.dynamic, best.limit
		for _, a := range best.aliases {
			ix.aliases[a] = true
		}
	}
	s.indices[name] = ix
	return ix
}

// find is the indices that a name stands for: an index, an alias, a pattern, several with commas.
func (s *Server) find(names string) []*index {
	var out []*index
	for _, ix := range s.indices {
		for name := range strings.SplitSeq(names, ",") {
			ok, _ := path.Match(name, ix.name)
			if ok || ix.aliases[name] || name == "_all" || name == "" || slices.Contains(s.streams[name], ix.name) {
				out = append(out, ix)
				break
			}
		}
	}
	slices.SortFunc(out, func(a, b *index) int { return strings.Compare(a.name, b.name) })
	return out
}

func missing(name string) *problem {
	return problemf(http.StatusNotFound, "index_not_found_exception", "no such index [%s]", name)
}

func (s *Server) routeIndex(method, name string, body []byte) (any, *problem) {
	found := s.find(name)
	switch method {
	case http.MethodPut:
		if s.indices[name] != nil {
			return nil, problemf(http.StatusBadRequest, "resource_already_exists_exception", "index [%s] already exists", name)
		}
		ix := s.create(name)
		var in struct {
			Mappings *mappings                  `json:"mappings"`
			Aliases  map[string]json.RawMessage `json:"aliases"`
		}
		if len(body) > 0 {
			if err := json.Unmarshal(body, &in); err != nil {
				return nil, problemf(http.StatusBadRequest, "parse_exception", "%s", err)
			}
		}
		if in.Mappings != nil {
			maps.Copy(ix.fields, in.Mappings.fields())
			if in.Mappings.Dynamic != nil {
				ix.dynamic = dynamicOf(in.Mappings.Dynamic)
			}
		}
		for a := range in.Aliases {
			ix.aliases[a] = true
		}
		return map[string]any{"acknowledged": true, "index": name}, nil
	case http.MethodDelete:
		for _, ix := range found {
			delete(s.indices, ix.name)
		}
	}
	if len(found) == 0 {
		return nil, missing(name)
	}
	return map[string]any{"acknowledged": true}, nil
}

func (s *Server) routeAlias(name string) (any, *problem) {
	out := map[string]any{}
	for _, ix := range s.find(name) {
		aliases := map[string]any{}
		for a := range ix.aliases {
			aliases[a] = map[string]any{}
		}
		out[ix.name] = map[string]any{"aliases": aliases}
	}
	if len(out) == 0 {
		return nil, missing(name)
	}
	return out, nil
}

func (s *Server) routeMapping(name string) (any, *problem) {
	out := map[string]any{}
	for _, ix := range s.find(name) {
		properties := map[string]any{}
		for f, t := range ix.fields {
			properties[f] = map[string]any{"type": t.kind}
		}
		out[ix.name] = map[string]any{"mappings": map[string]any{"dynamic": ix.dynamic, "properties": properties}}
	}
	if len(out) == 0 {
		return nil, missing(name)
	}
	return out, nil
}

func (s *Server) routeSettings(name string, body []byte) (any, *problem) {
	var in map[string]any
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, problemf(http.StatusBadRequest, "parse_exception", "%s", err)
	}
	for _, ix := range s.find(name) {
		for k, v := range in {
			switch k {
			case "index.blocks.read_only_allow_delete":
				ix.readOnly = fmt.Sprint(v) == "true"
			case "index.blocks.write":
				ix.noWrite = fmt.Sprint(v) == "true"
			}
		}
	}
	return map[string]any{"acknowledged": true}, nil
}

func (s *Server) routeDocument(method, name, id string, body []byte) (any, *problem) {
	found := s.find(name)
	for _, ix := range found {
		d := ix.docs[id]
		if d == nil || d.deleted {
			continue
		}
		if method == http.MethodDelete {
			s.seq++
			d.deleted, d.source, d.version, d.seq = true, nil, d.version+1, s.seq
			return map[string]any{"result": "deleted"}, nil
		}
		if method == http.MethodGet {
			return map[string]any{"_index": ix.name, "_id": id, "_version": d.version, "_seq_no": d.seq, "_primary_term": 1, "found": true, "_source": d.source}, nil
		}
	}
	if method == http.MethodPut {
		op := operation{kind: "index", index: name, id: id}
		_, p := s.write(op, body)
		return map[string]any{"_id": id}, p
	}
	if len(found) == 0 {
		return nil, missing(name)
	}
	return nil, &problem{status: http.StatusNotFound, kind: "not_found", reason: fmt.Sprintf("[%s] is not there", id)}
}

// check finds what the mapping refuses in a document, and adds fields where it is dynamic.
func (ix *index) check(id string, source map[string]any) *problem {
	for _, name := range slices.Sorted(maps.Keys(source)) {
		v := source[name]
		if slices.Contains([]string{"_id", "_index", "_source", "_routing", "_version", "_seq_no", "_field_names"}, name) {
			return problemf(http.StatusBadRequest, "mapper_parsing_exception", "Field [%s] is a metadata field and cannot be added inside a document. Use the index API request parameters.", name)
		}
		f, known := ix.fields[name]
		switch {
		case !known && ix.dynamic == "strict":
			return problemf(http.StatusBadRequest, "strict_dynamic_mapping_exception", "mapping set to strict, dynamic introduction of [%s] within [_doc] is not allowed", name)
		case !known && ix.dynamic == "true" && v != nil:
			if len(ix.fields) >= ix.limit {
				return problemf(http.StatusBadRequest, "illegal_argument_exception", "Limit of total fields [%d] has been exceeded", ix.limit)
			}
			ix.fields[name] = field{kind: guess(v)}
		case known:
			if cause := f.refuses(v); cause != "" {
				return &problem{
					status: http.StatusBadRequest, kind: "mapper_parsing_exception",
					reason: fmt.Sprintf("failed to parse field [%s] of type [%s] in document with id '%s'. Preview of field's value: '%v'", name, f.kind, id, v),
					cause:  &problem{kind: "illegal_argument_exception", reason: cause},
				}
			}
		}
	}
	return nil
}

func guess(v any) string {
	switch v := v.(type) {
	case bool:
		return "boolean"
	case json.Number:
		if strings.ContainsAny(v.String(), ".eE") {
			return "float"
		}
		return "long"
	case map[string]any:
		return "object"
	case string:
		if _, err := time.Parse(time.RFC3339Nano, v); err == nil {
			return "date"
		}
	}
	return "text"
}

// refuses says why a field of this type does not take v; empty: it does.
func (f field) refuses(v any) string {
	if list, ok := v.([]any); ok {
		for _, one := range list {
			if cause := f.refuses(one); cause != "" {
				return cause
			}
		}
		return ""
	}
	if v == nil || f.kept {
		return ""
	}
	_, object := v.(map[string]any)
	if object != (f.kind == "object" || f.kind == "flat_object") {
		return "object mapping does not fit [" + f.kind + "]"
	}
	text := fmt.Sprint(v)
	var err error
	switch f.kind {
	case "long", "integer", "short":
		_, err = strconv.ParseFloat(text, 64)
	case "double", "float", "scaled_float":
		_, err = strconv.ParseFloat(text, 64)
	case "boolean":
		if text != "true" && text != "false" && text != "" {
			//lint:ignore ST1005 the server's words
			err = fmt.Errorf("Failed to parse value [%s] as only [true] or [false] are allowed.", text)
		}
	case "date":
		_, err = time.Parse(time.RFC3339Nano, text)
		if _, isMillis := v.(json.Number); isMillis {
			err = nil
		}
	}
	if err != nil {
		return fmt.Sprintf("For input string: %q", text)
	}
	return ""
}
