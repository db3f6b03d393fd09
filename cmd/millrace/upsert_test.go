package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/testenv/dynamodb"
	"github.com/millrace-io/millrace/testenv/opensearch"
)

// threeSinks is a lake with OpenSearch and DynamoDB beside it.
type threeSinks struct {
	*testLake
	search *opensearch.Server
	tables *dynamodb.Server
}

func newThreeSinks(t *testing.T) *threeSinks {
	t.Helper()
	os.Unsetenv("AWS_CA_BUNDLE") // every client would read all of its certificates, for servers that speak plain HTTP
	search, err := opensearch.Serve(t.Context(), opensearch.Options{})
	must(t, err)
	t.Cleanup(search.Close)
	tables, err := dynamodb.Start(dynamodb.Options{})
	must(t, err)
	t.Cleanup(func() { _ = tables.Close() })
	for k, v := range tables.Env() {
		t.Setenv(k, v)
	}
	return &threeSinks{newLake(t), search, tables}
}

// pipeline is a file with all three; stall is for OpenSearch.
func (s *threeSinks) pipeline(stall string) string {
	s.t.Helper()
	return s.write("clicks.yaml", fmt.Sprintf(`name: clicks
source:
  files: { paths: ["%[1]s/in"], checkpoints: "%[1]s/checkpoints" }
decode:
  columns: { price: { path: price, type: decimal(9,2) } }
sinks:
  lake:
    parquet: { url: "%[1]s/lake", roll: { age: 1h, idle: 1h } }
  search:
    opensearch: { url: "%[2]s", index: "clicks-{date}", alias: clicks, replicas: 0 }
    on_stall: %[3]s
  profiles:
    dynamodb: { table: profiles, key: { pk: user } }
    where: user != ""
    delete: type == "forget"
spool: { stall_after: 300ms }
`, s.dir, s.search.URL(), stall))
}

// ask sends a request to OpenSearch.
func (s *threeSinks) ask(method, path, body string) []byte {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.search.URL()+path, strings.NewReader(body))
	must(s.t, err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(r)
	must(s.t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	must(s.t, err)
	if answer.StatusCode >= 300 {
		s.t.Fatalf("%s %s: %s", method, path, text)
	}
	return text
}

// call makes a call on DynamoDB, which checks no signatures.
func (s *threeSinks) call(operation, body string) []byte {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.tables.URL(), strings.NewReader(body))
	must(s.t, err)
	r.Header.Set("X-Amz-Target", "DynamoDB_20120810."+operation)
	r.Header.Set("Content-Type", "application/x-amz-json-1.0")
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=local/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(r)
	must(s.t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	must(s.t, err)
	if answer.StatusCode >= 300 {
		s.t.Fatalf("%s: %s", operation, text)
	}
	return text
}

// pricedRecords adds a file of n clicks with prices.
func (s *threeSinks) pricedRecords(name string, n int, more string) {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, `{"event_id":"%s-%d","event_type":"click","event_time":"2026-01-0%dT03:04:05Z","user_id":"u%d","price":%d.5}`+"\n", name, i, 1+i%3, i%40, i)
	}
	s.write(filepath.Join("in", name), b.String()+more)
}

func (s *threeSinks) documents() int {
	var answer struct{ Count int }
	must(s.t, json.Unmarshal(s.ask(http.MethodPost, "/clicks/_count", "{}"), &answer))
	return answer.Count
}

func TestOneStreamFillsThreeSinksAndVerifyComparesThem(t *testing.T) {
	s := newThreeSinks(t)
	s.pricedRecords("a.jsonl", 300, `{"event_type":"forget","event_time":"2026-01-02T03:04:05Z","user_id":"u3"}`+"\n")
	s.pricedRecords("b.jsonl", 200, "not json\n")
	file := s.pipeline("block")
	got := millrace(t.Context(), "", "run", "--until-end", file)
	if got.code != 1 || !strings.Contains(got.err, "run once with --setup") {
		t.Fatalf("without template and table: %+v", got)
	}
	if got = millrace(t.Context(), "", "run", "--setup", "--until-end", file); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	if n := s.documents(); n != 501 {
		t.Errorf("%d documents; want 501", n)
	}
	for _, args := range [][]string{{"verify", file}, {"verify", "--deep", file}} {
		got = millrace(t.Context(), "", args...)
		if got.code != 0 || !strings.Contains(got.stdout, "search: 501 of 501 are there") {
			t.Errorf("%v: %+v", args, got)
		}
	}
	if !strings.Contains(got.stdout, "profiles: 40 of 40 are there, by every item") {
		t.Errorf("%+v", got)
	}
	if got = millrace(t.Context(), "", "lint", "--probe", file); got.code != 0 {
		t.Errorf("lint --probe: %+v", got)
	}
}

// TestVerifyFindsWhatWasDoneByHand harms the sinks, one at a time.
func TestVerifyFindsWhatWasDoneByHand(t *testing.T) {
	s := newThreeSinks(t)
	s.pricedRecords("a.jsonl", 300, "")
	file := s.pipeline("block")
	if got := millrace(t.Context(), "", "run", "--setup", "--until-end", file); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	var found struct {
		Hits struct {
			Hits []struct {
				Index  string          `json:"_index"`
				ID     string          `json:"_id"`
				Source json.RawMessage `json:"_source"`
			} `json:"hits"`
		} `json:"hits"`
	}
	must(t, json.Unmarshal(s.ask(http.MethodPost, "/clicks/_search", `{"size":1}`), &found))
	victim := found.Hits.Hits[0]
	document := "/" + victim.Index + "/_doc/" + strings.ReplaceAll(victim.ID, "/", "%2F")
	for name, c := range map[string]struct {
		harm, mend func()
		deep       bool
		want       string
	}{
		"a document is deleted": {
			func() { s.ask(http.MethodDelete, document, "") },
			func() { s.ask(http.MethodPut, document, string(victim.Source)) }, false, "missing: search",
		},
		"a document is added": {
			func() {
				s.ask(http.MethodPut, "/clicks-2026-01-01/_doc/mine", strings.Replace(string(victim.Source), "-00000000", "-00000007", 1))
			},
			func() { s.ask(http.MethodDelete, "/clicks-2026-01-01/_doc/mine", "") }, false, "extra: search",
		},
		"a document that is no event is added": {
			func() { s.ask(http.MethodPut, "/clicks-2026-01-01/_doc/by-hand", `{"event_type":"click"}`) },
			func() { s.ask(http.MethodDelete, "/clicks-2026-01-01/_doc/by-hand", "") }, false, "extra: search",
		},
		"a document is there twice": {
			func() { s.ask(http.MethodPut, "/clicks-2026-01-01/_doc/twin", string(victim.Source)) },
			func() { s.ask(http.MethodDelete, "/clicks-2026-01-01/_doc/twin", "") }, false, "duplicate: search",
		},
		"an item is edited": {
			func() { s.price("u7", "1") }, func() { s.price("u7", "287.5") }, true, `differs: profiles`,
		},
		"an item is added": {
			func() {
				s.call("PutItem", `{"TableName":"profiles","Item":{"user_id":{"S":"nobody"}}}`)
			},
			func() { s.call("DeleteItem", `{"TableName":"profiles","Key":{"user_id":{"S":"nobody"}}}`) }, true, "extra: profiles",
		},
		"an item is deleted": {
			func() { s.call("DeleteItem", `{"TableName":"profiles","Key":{"user_id":{"S":"u9"}}}`) }, nil, true, "missing: profiles",
		},
	} {
		args := []string{"verify", file}
		if c.deep {
			args = append(args, "--deep")
		}
		if got := millrace(t.Context(), "", args...); got.code != 0 && name != "an item is deleted" {
			if !strings.Contains(got.stdout, "u9") {
				t.Fatalf("%s: not clean before: %+v", name, got)
			}
		}
		c.harm()
		got := millrace(t.Context(), "", args...)
		if got.code != 1 || !strings.Contains(got.stdout, c.want) {
			t.Errorf("%s: %+v; want code 1 and %q", name, got, c.want)
		}
		if c.mend != nil {
			c.mend()
		}
	}
}

// A row of a partition that nobody knows may be of the first events of a new one. It is told, and is no problem.
func TestVerifyTellsOfRowsOfUnknownPartitions(t *testing.T) {
	s := newThreeSinks(t)
	s.pricedRecords("a.jsonl", 50, "")
	file := s.pipeline("block")
	if got := millrace(t.Context(), "", "run", "--setup", "--until-end", file); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	s.ask(http.MethodPut, "/clicks-2026-01-01/_doc/x", `{"event_type":"click","_partition":"in/new.jsonl","_position":"0000000000000000-00000000"}`)
	s.call("PutItem", `{"TableName":"profiles","Item":{"user_id":{"S":"x"},"_partition":{"S":"in/new.jsonl"},"_position":{"S":"0000000000000000-00000000"}}}`)
	got := millrace(t.Context(), "", "verify", "--deep", file)
	if got.code != 0 {
		t.Fatalf("%+v", got)
	}
	wantIn(t, got.stdout, `search: 1 row of partitions that have committed nothing, such as "in/new.jsonl"`, `profiles: 1 row of partitions`)
	s.ask(http.MethodPut, "/clicks-2026-01-01/_doc/y", `{"event_type":"click","_partition":"in/other.jsonl","_position":"?"}`)
	if got := millrace(t.Context(), "", "verify", file); got.code != 1 || !strings.Contains(got.stdout, "extra: search, in/other.jsonl") {
		t.Errorf("%+v", got)
	}
}

// price edits an item by hand.
func (s *threeSinks) price(user, n string) {
	s.call("UpdateItem", fmt.Sprintf(`{"TableName":"profiles","Key":{"user_id":{"S":%q}},"UpdateExpression":"SET price = :p","ExpressionAttributeValues":{":p":{"N":%q}}}`, user, n))
}

func TestADeadSearchIsSetAsideAndTheOthersGoOn(t *testing.T) {
	s := newThreeSinks(t)
	s.pricedRecords("a.jsonl", 100, "")
	file := s.pipeline("spool")
	if got := millrace(t.Context(), "", "run", "--setup", "--until-end", file); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	faults := make([]opensearch.Fault, 1000)
	for i := range faults {
		faults[i] = opensearch.Refuse503
	}
	s.search.Fail(faults...)
	s.pricedRecords("b.jsonl", 150, "")
	if got := millrace(t.Context(), "", "run", "--until-end", file); got.code != 0 || !strings.Contains(got.err, "set aside") {
		t.Fatalf("%+v", got)
	}
	if n := s.documents(); n != 100 {
		t.Fatalf("%d documents during the outage", n)
	}
	got := millrace(t.Context(), "", "verify", "--deep", file)
	if got.code != 0 || !strings.Contains(got.stdout, "search: 100 of 250 are there") || !strings.Contains(got.stdout, "1 file with") {
		t.Errorf("during the outage: %+v", got)
	}
	s.search.Fail()
	s.pricedRecords("b.jsonl", 151, "") // one more, so that b.jsonl's partition has an owner again
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for s.documents() < 251 && ctx.Err() == nil {
		if got := millrace(ctx, "", "run", "--until-end", file); got.code != 0 {
			t.Fatalf("%+v", got)
		}
	}
	got = millrace(t.Context(), "", "verify", "--deep", file)
	if got.code != 0 || !strings.Contains(got.stdout, "search: 251 of 251 are there, by every id") {
		t.Errorf("after the outage: %+v", got)
	}
}
