package opensearch_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/testenv/opensearch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// step is a request and what of the answer has to be so.
type step struct {
	method, path, body string
	status             int
	want               []string // in the answer, without spaces
	not                []string
}

// script asks what the sink asks, and what its tests do to it. The stand-in and the real server give the same answers: see
// TestTheStandInAnswersAsTheScriptSays and TestRealOpenSearchAnswersAsTheScriptSays.
func script() []step {
	bulk := func(lines ...string) string { return strings.Join(lines, "\n") + "\n" }
	return []step{
		{"GET", "/_index_template/nope", "", 404, []string{`resource_not_found_exception`}, nil},
		{"PUT", "/_index_template/t", `{"index_patterns":["day-*"],"priority":200,"template":{"aliases":{"days":{}},"settings":{"index.number_of_replicas":0},"mappings":{"dynamic":false,"properties":{"id":{"type":"keyword"},"price":{"type":"double"},"n":{"type":"long"},"at":{"type":"date"},"bot":{"type":"boolean"},"raw":{"type":"object","enabled":false},"_partition":{"type":"keyword"},"_position":{"type":"keyword"}}}}}`, 200, []string{`"acknowledged":true`}, nil},
		{"GET", "/_index_template/t", "", 200, []string{`"index_patterns":["day-*"]`, `"days":{}`, `"type":"double"`}, nil},
		{
			"POST", "/_bulk", bulk(
				`{"create":{"_index":"day-2026-03-02","_id":"a"}}`, `{"id":"a","price":1.5,"n":1,"at":"2026-03-02T10:00:00.000001Z","bot":false,"raw":{"x":[1]},"more":{"deep":1},"_partition":"p","_position":"0001-0"}`,
				`{"create":{"_index":"day-2026-03-02","_id":"b"}}`, `{"id":"b","price":"dear"}`,
				`{"create":{"_index":"day-2026-03-02","_id":"c"}}`, `{"id":"c","at":"yesterday"}`,
				`{"create":{"_index":"day-2026-03-03","_id":"d"}}`, `{"id":"d","n":2,"_partition":"p","_position":"0002-0"}`,
				`{"create":{"_index":"day-2026-03-02","_id":"e"}}`, `{"id":"e","bot":"perhaps"}`,
				`{"create":{"_index":"day-2026-03-02","_id":"f"}}`, `{"_index":"x"}`), 200,
			[]string{`"errors":true`, `"status":201`, `failedtoparsefield[price]oftype[double]`, `failedtoparsefield[at]oftype[date]`, `failedtoparsefield[bot]oftype[boolean]`, `isametadatafield`},
			nil,
		},
		{"POST", "/_bulk", bulk(`{"create":{"_index":"day-2026-03-02","_id":"a"}}`, `{"id":"a"}`), 200, []string{`"status":409`, `version_conflict_engine_exception`}, nil},
		{"POST", "/_bulk?filter_path=errors,items.*.status,items.*.error", bulk(`{"index":{"_index":"day-2026-03-02","_id":"g"}}`, `{"id":"g"}`), 200, []string{`{"errors":false`}, nil},
		{"POST", "/_bulk", bulk(`{"create":{"_index":"day-2026-03-02","_id":"`+strings.Repeat("x", 513)+`"}}`, `{}`), 400, []string{`action_request_validation_exception`, `istoolong`}, nil},
		{"POST", "/_bulk", bulk(`{"create":{"_index":"Day","_id":"a"}}`, `{}`), 200, []string{`invalid_index_name_exception`}, nil},
		{"POST", "/_bulk", `{"create":{"_index":"x"}}`, 400, []string{`terminatedbyanewline`}, nil},
		{"POST", "/_bulk", bulk(`"create"`, `{}`), 400, []string{`Malformedaction/metadataline[1]`}, nil},
		{"POST", "/days/_refresh", "", 200, nil, nil},
		{"POST", "/days/_count", `{"query":{"bool":{"filter":[{"term":{"_partition":"p"}},{"range":{"_position":{"gt":"0001-0","lte":"0002-f"}}}]}}}`, 200, []string{`"count":1`}, nil},
		{"POST", "/days/_search", `{"size":1,"track_total_hits":false,"_source":["_position"],"query":{"term":{"_partition":"p"}},"sort":[{"_position":"asc"},{"_index":"asc"}]}`, 200, []string{`"_id":"a"`, `"sort":["0001-0","day-2026-03-02"]`}, []string{`"_id":"d"`}},
		{"POST", "/days/_search", `{"size":1,"query":{"term":{"_partition":"p"}},"sort":[{"_position":"asc"},{"_index":"asc"}],"search_after":["0001-0","day-2026-03-02"]}`, 200, []string{`"_id":"d"`}, []string{`"_id":"a"`}},
		{"POST", "/days/_search", `{"size":0,"aggs":{"n":{"terms":{"field":"id"}},"c":{"cardinality":{"field":"id"}}}}`, 200, []string{`"key":"a"`, `"c":{"value":3}`}, nil},
		{"POST", "/nope/_count", "", 404, []string{`index_not_found_exception`}, nil},
		{"GET", "/day-*/_mapping", "", 200, []string{`"day-2026-03-02":{"mappings":{"dynamic":"false"`, `"price":{"type":"double"}`}, []string{`"more"`}},

		{"POST", "/_bulk", bulk(`{"index":{"_index":"v","_id":"a","version_type":"external","version":9223372036854775806}}`, `{"n":1}`), 200, []string{`"status":201`}, nil},
		{"POST", "/_bulk", bulk(`{"index":{"_index":"v","_id":"a","version_type":"external","version":5}}`, `{"n":2}`), 200, []string{`"status":409`}, nil},
		{"POST", "/_bulk", bulk(`{"index":{"_index":"v","_id":"a","version_type":"external","version":9223372036854775806}}`, `{"n":2}`), 200, []string{`"status":409`}, nil},
		{"GET", "/v/_doc/a", "", 200, []string{`"_source":{"n":1}`}, nil},
		{"POST", "/_bulk", bulk(`{"update":{"_index":"v","_id":"zz"}}`, `{"doc":{"n":2}}`), 200, []string{`"status":404`, `document_missing_exception`}, nil},
		{"POST", "/_bulk", bulk(`{"update":{"_index":"v","_id":"z"}}`, `{"doc":{"n":2},"doc_as_upsert":true}`), 200, []string{`"status":201`}, nil},
		{"POST", "/_bulk", bulk(`{"delete":{"_index":"v","_id":"z"}}`), 200, []string{`"errors":false`}, nil},
		{"GET", "/v/_doc/z", "", 404, nil, nil},

		{"PUT", "/v/_settings", `{"index.blocks.read_only_allow_delete":true}`, 200, nil, nil},
		{"POST", "/_bulk", bulk(`{"create":{"_index":"v","_id":"h"}}`, `{}`), 200, []string{`"status":429`, `cluster_block_exception`}, nil},
		{"PUT", "/v/_settings", `{"index.blocks.read_only_allow_delete":null}`, 200, nil, nil},
		{"PUT", "/v/_settings", `{"index.blocks.write":true}`, 200, nil, nil},
		{"POST", "/_bulk", bulk(`{"create":{"_index":"v","_id":"h"}}`, `{}`), 200, []string{`"status":403`, `cluster_block_exception`}, nil},

		{"PUT", "/strict", `{"mappings":{"dynamic":"strict","properties":{"id":{"type":"keyword"}}}}`, 200, nil, nil},
		{"POST", "/_bulk", bulk(`{"create":{"_index":"strict","_id":"a"}}`, `{"id":"a","other":1}`), 200, []string{`strict_dynamic_mapping_exception`}, nil},
		{"PUT", "/_index_template/l", `{"index_patterns":["limited"],"template":{"settings":{"index.mapping.total_fields.limit":2}}}`, 200, nil, nil},
		{"POST", "/_bulk", bulk(`{"create":{"_index":"limited","_id":"a"}}`, `{"a":1,"b":2,"c":3}`), 200, []string{`"status":400`, `Limitoftotalfields[2]hasbeenexceeded`}, nil},
		{"PUT", "/_plugins/_ism/policies/p", `{}`, 400, []string{`nohandlerfound`}, nil},
		{"GET", "/_data_stream/flow", "", 404, nil, nil},
	}
}

// play asks the script's questions of the server at url.
func play(t *testing.T, ctx context.Context, url string) {
	client := new(http.Client)
	defer client.CloseIdleConnections()
	for i, s := range script() {
		r, err := http.NewRequestWithContext(ctx, s.method, url+s.path, strings.NewReader(s.body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		var compact bytes.Buffer
		if json.Compact(&compact, text) != nil {
			compact.Write(text)
		}
		flat := strings.ReplaceAll(compact.String(), " ", "")
		about := fmt.Sprintf("step %d, %s %s %.80s", i, s.method, s.path, s.body)
		if answer.StatusCode != s.status {
			t.Errorf("%s: status %d; want %d: %s", about, answer.StatusCode, s.status, text)
		}
		for _, want := range s.want {
			if !strings.Contains(flat, want) {
				t.Errorf("%s: %s is not in %s", about, want, flat)
			}
		}
		for _, not := range s.not {
			if strings.Contains(flat, not) {
				t.Errorf("%s: %s is in %s", about, not, flat)
			}
		}
	}
}

func TestTheStandInAnswersAsTheScriptSays(t *testing.T) {
	s, err := opensearch.Serve(t.Context(), opensearch.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	play(t, t.Context(), s.URL())
}
