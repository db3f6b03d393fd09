package opensearch

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/millrace-io/millrace/stream"
)

// readers is the name under which the documents are found.
func (s *Sink) readers() string {
	if s.cfg.Alias != "" {
		return s.cfg.Alias
	}
	return s.pattern()
}

// Refresh makes all that was written visible to Count and Walk.
func (s *Sink) Refresh(ctx context.Context) error {
	_, err := s.ask(ctx, http.MethodPost, "/"+s.readers()+"/_refresh", nil)
	if statusOf(err) == http.StatusNotFound {
		return nil
	}
	return err
}

// Count is how many documents come from a range of a partition: after after, which is not of it, up to to; first: from the
// partition's beginning. Deleted ones do not count.
func (s *Sink) Count(ctx context.Context, partition string, after, to stream.Position, first bool) (int64, error) {
	text, err := s.search(ctx, "_count", map[string]any{"query": rangeQuery(partition, after, to, first)})
	if statusOf(err) == http.StatusNotFound {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var answer struct {
		Count int64 `json:"count"`
	}
	err = json.Unmarshal(text, &answer)
	return answer.Count, err
}

// rangeQuery finds the documents of a range. _position is position-index; the largest index closes a position.
func rangeQuery(partition string, after, to stream.Position, first bool) map[string]any {
	bounds := map[string]any{"lte": to.String() + "-ffffffff"}
	if !first {
		bounds["gt"] = after.String() + "-ffffffff"
	}
	return map[string]any{"bool": map[string]any{
		"filter": []any{
			map[string]any{"term": map[string]any{"_partition": partition}},
			map[string]any{"range": map[string]any{"_position": bounds}},
		},
		"must_not": []any{map[string]any{"term": map[string]any{"_deleted": true}}},
	}}
}

// Document is one that Walk found.
type Document struct {
	Index, ID           string
	Partition, Position string // Position as stream.Place.Version says it
}

// walkPage is the documents of one request of Walk.
const walkPage = 5000

// Walk calls visit for every document of a partition, in the order of the log.
func (s *Sink) Walk(ctx context.Context, partition string, visit func(Document) error) error {
	after := []any(nil)
	for {
		body := map[string]any{
			"size": walkPage, "track_total_hits": false, "_source": []string{"_position"},
			"query": map[string]any{"bool": map[string]any{
				"filter":   []any{map[string]any{"term": map[string]any{"_partition": partition}}},
				"must_not": []any{map[string]any{"term": map[string]any{"_deleted": true}}},
			}},
			"sort": []any{map[string]any{"_position": "asc"}, map[string]any{"_index": "asc"}},
		}
		if after != nil {
			body["search_after"] = after
		}
		text, err := s.search(ctx, "_search", body)
		if statusOf(err) == http.StatusNotFound {
			return nil
		}
		if err != nil {
			return err
		}
		var answer struct {
			Hits struct {
				Hits []struct {
					Index  string `json:"_index"`
					ID     string `json:"_id"`
					Sort   []any  `json:"sort"`
					Source struct {
						Position string `json:"_position"`
					} `json:"_source"`
				} `json:"hits"`
			} `json:"hits"`
		}
		if err := json.Unmarshal(text, &answer); err != nil {
			return fmt.Errorf("the answer to a search cannot be read: %w", err)
		}
		for _, h := range answer.Hits.Hits {
			if err := visit(Document{h.Index, h.ID, partition, h.Source.Position}); err != nil {
				return err
			}
			after = h.Sort
		}
		if len(answer.Hits.Hits) < walkPage {
			return nil
		}
	}
}

func (s *Sink) search(ctx context.Context, what string, body any) ([]byte, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return s.ask(ctx, http.MethodPost, "/"+strings.Join([]string{s.readers(), what}, "/")+"?ignore_unavailable=true", text)
}
