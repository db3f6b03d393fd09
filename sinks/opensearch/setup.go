package opensearch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	deploy "github.com/millrace-io/millrace/deploy/opensearch"
	"github.com/millrace-io/millrace/stream"
)

// pattern is the names that Index makes.
func (s *Sink) pattern() string { return placeholder.ReplaceAllString(s.cfg.Index, "*") }

// templateName is of the index template and the policy.
func (s *Sink) templateName() string {
	name := s.cfg.Alias
	if name == "" {
		name = strings.Trim(strings.ReplaceAll(s.pattern(), "*", ""), "-._")
	}
	return "millrace-" + name
}

// property is a field of a mapping.
type property map[string]any

// properties are the types of the documents' fields.
func (s *Sink) properties() map[string]property {
	out := map[string]property{
		"_partition": {"type": "keyword"}, "_position": {"type": "keyword"}, "_deleted": {"type": "boolean"}, "_time": {"type": "long"},
	}
	wanted := func(name string) bool { return len(s.cfg.Columns) == 0 || slices.Contains(s.cfg.Columns, name) }
	for _, c := range s.o.Schema.Columns {
		if wanted(c.Name) || c.Alias != "" && wanted(c.Alias) {
			out[c.Name] = propertyOf(c.Type)
		}
	}
	if wanted("properties") {
		out["properties"] = property{"type": "object", "enabled": false} // kept, not searched: nothing of it can explode the mapping
	}
	return out
}

func propertyOf(t stream.Type) property {
	switch t.Kind {
	case stream.Int:
		return property{"type": "long"}
	case stream.Float, stream.Decimal: // a decimal of up to 18 digits is exact in the document, and rounded in the search
		return property{"type": "double"}
	case stream.Bool:
		return property{"type": "boolean"}
	case stream.Timestamp:
		return property{"type": "date", "format": "strict_date_optional_time"}
	case stream.JSON:
		return property{"type": "object", "enabled": false}
	}
	return property{"type": "keyword", "ignore_above": 8191} // longer ones are found by other fields; Lucene refuses 32,766 bytes
}

// Template is the index template that Setup installs: every field has its type, and what is no column makes none.
func (s *Sink) Template() []byte {
	settings := map[string]any{
		"index.number_of_shards": s.cfg.Shards, "index.number_of_replicas": *s.cfg.Replicas,
		"index.refresh_interval": fmt.Sprintf("%dms", s.cfg.RefreshInterval.Milliseconds()),
	}
	body := map[string]any{
		"settings": settings, "mappings": map[string]any{"dynamic": false, "properties": s.properties()},
	}
	if s.cfg.Alias != "" {
		body["aliases"] = map[string]any{s.cfg.Alias: map[string]any{}}
	}
	text, err := json.MarshalIndent(map[string]any{"index_patterns": []string{s.pattern()}, "priority": 200, "template": body}, "", "  ")
	if err != nil {
		panic(err) // of texts and numbers
	}
	return append(text, '\n')
}

// Setup installs the index template and the policy. It is idempotent, and changes no index that is there.
func (s *Sink) Setup(ctx context.Context) error {
	if _, err := s.ask(ctx, http.MethodPut, "/_index_template/"+s.templateName(), s.Template()); err != nil {
		return fmt.Errorf("install the index template %s: %w", s.templateName(), err)
	}
	policy := bytes.ReplaceAll(deploy.Policy, []byte("PATTERN"), []byte(s.pattern()))
	_, err := s.ask(ctx, http.MethodPut, "/_plugins/_ism/policies/"+s.templateName(), policy)
	switch {
	case statusOf(err) == http.StatusConflict: // it is there, perhaps changed by somebody
	case statusOf(err) == http.StatusBadRequest || statusOf(err) == http.StatusNotFound:
		s.o.Log.Warn("the server has no index management; nobody removes old indices", "sink", s.o.Name, "error", err)
	case err != nil:
		return fmt.Errorf("install the ISM policy %s: %w", s.templateName(), err)
	}
	return nil
}

// Probe says what is in the way of writing. An error about the way things are set up has an HTTPStatusCode below 500 or is
// Fatal; all others are about a server that does not answer at present.
func (s *Sink) Probe(ctx context.Context) error {
	if _, err := s.ask(ctx, http.MethodGet, "/", nil); err != nil {
		if code := statusOf(err); code == http.StatusUnauthorized || code == http.StatusForbidden {
			return s.whole(code, []byte(err.Error()))
		}
		return fmt.Errorf("%s: %w", s.nodes[0].url, err)
	}
	for _, name := range []string{s.cfg.Index, s.cfg.Alias} {
		if name == "" || strings.Contains(name, "{") {
			continue
		}
		if _, err := s.ask(ctx, http.MethodGet, "/_data_stream/"+name, nil); err == nil {
			return stream.Fatal(fmt.Errorf("%s is a data stream, which finds a repeated document only within its newest backing index "+
				"and doubles it after a rollover; want indices by day, such as %s-{date}, under an alias", name, name))
		}
	}
	if err := s.probeTemplate(ctx); err != nil {
		return err
	}
	return s.probeMapping(ctx)
}

// errNoTemplate says what to do.
var errNoTemplate = errors.New("run once with --setup, or see deploy/opensearch")

func (s *Sink) probeTemplate(ctx context.Context) error {
	text, err := s.ask(ctx, http.MethodGet, "/_index_template/"+s.templateName(), nil)
	if statusOf(err) == http.StatusNotFound {
		return stream.Fatal(fmt.Errorf("the index template %s is missing: %w", s.templateName(), errNoTemplate))
	}
	if err != nil {
		return fmt.Errorf("read the index template: %w", err)
	}
	var answer struct {
		Templates []struct {
			Template struct {
				Patterns []string `json:"index_patterns"`
				Template struct {
					Mappings mapping                    `json:"mappings"`
					Aliases  map[string]json.RawMessage `json:"aliases"`
				} `json:"template"`
			} `json:"index_template"`
		} `json:"index_templates"`
	}
	if err := json.Unmarshal(text, &answer); err != nil || len(answer.Templates) == 0 {
		return fmt.Errorf("the index template %s cannot be read: %w", s.templateName(), err)
	}
	t := answer.Templates[0].Template
	if !slices.Contains(t.Patterns, s.pattern()) {
		return stream.Fatal(fmt.Errorf("the index template %s is for %v and not for %s: %w", s.templateName(), t.Patterns, s.pattern(), errNoTemplate))
	}
	if _, ok := t.Template.Aliases[s.cfg.Alias]; s.cfg.Alias != "" && !ok {
		return stream.Fatal(fmt.Errorf("the index template %s does not give the alias %s: %w", s.templateName(), s.cfg.Alias, errNoTemplate))
	}
	return s.contradiction("the index template "+s.templateName(), t.Template.Mappings)
}

// mapping is the part of a mapping that can contradict the columns.
type mapping struct {
	Properties map[string]struct {
		Type string `json:"type"`
	} `json:"properties"`
}

// fits says which other types hold a type's values as well.
func fits(want, have string) bool {
	if have == want || have == "" && want == "object" {
		return true
	}
	also := map[string][]string{
		"keyword": {"text", "wildcard", "constant_keyword", "match_only_text"}, "long": {"unsigned_long"},
		"double": {"float", "scaled_float", "half_float"}, "object": {"flat_object", "flattened", "nested"}, "date": {"date_nanos"},
	}
	return slices.Contains(also[want], have)
}

// contradiction says which column a mapping has as something else.
func (s *Sink) contradiction(where string, m mapping) error {
	want := s.properties()
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(m.Properties)) {
		have := m.Properties[name].Type
		if w, ok := want[name]; ok && !fits(fmt.Sprint(w["type"]), have) {
			problems = append(problems, fmt.Errorf("%s has %s as %s; the pipeline's column is a %s there", where, name, have, w["type"]))
		}
	}
	for _, name := range []string{"_partition", "_position"} {
		if _, ok := m.Properties[name]; !ok {
			problems = append(problems, fmt.Errorf("%s has no field %s, which verify asks for", where, name))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return stream.Fatal(fmt.Errorf("%w: %w", err, errNoTemplate))
	}
	return nil
}

// probeMapping looks at the indices that are there.
func (s *Sink) probeMapping(ctx context.Context) error {
	text, err := s.ask(ctx, http.MethodGet, "/"+s.pattern()+"/_mapping", nil)
	if statusOf(err) == http.StatusNotFound {
		return nil // none yet
	}
	if err != nil {
		return fmt.Errorf("read the mappings: %w", err)
	}
	var answer map[string]struct {
		Mappings mapping `json:"mappings"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return fmt.Errorf("the mappings cannot be read: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(answer)) {
		if err := s.contradiction("the index "+name, answer[name].Mappings); err != nil {
			return err
		}
	}
	return nil
}
