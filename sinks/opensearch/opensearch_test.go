package opensearch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/sources/trust"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/network"
	standin "github.com/millrace-io/millrace/testenv/opensearch"
)

// Mutations seen red (line broken -> test):
//
//	roundTrip: memory is used again while the client reads it -> ALargeRequestIsHalvedUntilItFits (by the race detector)
//	outcome: 409 of create is refused -> Rules/AReplayChangesNothing
//	outcome: 429 is refused -> Rules/PartialFailureOfEachWriteIsRepeated
//	outcome: a block is refused -> ABlockedIndexLosesNothing
//	version: the index is left out -> EventsOfOneRecordHaveVersionsOfTheirOwn
//	timeOf: no bound -> AWrongClockMakesNoIndex
//	New: no pings -> AConnectionThatTheNetworkForgotIsNotUsedForEver
//	values: a deleted document is removed and not marked -> Rules/DeletedStaysDeleted
//	Encode: Mend creates; its versions are external -> Rules/AMendingReplayWritesOverWhatTheEventsMade
//	script: Mend lets any event of an id change what create made -> AMendingReplayKeepsTheFirstEventOfAnID

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, network.Leftovers()...) }

func newSchema(t testing.TB, declared ...stream.Column) *stream.Schema {
	t.Helper()
	s, err := stream.NewSchema(declared...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// scripts are the sink's, in Go.
func scripts() map[string]func(source, params map[string]any) string {
	out := map[string]func(source, params map[string]any) string{}
	for _, o := range []Options{{}, {Ordering: stream.ByTime}, {Mend: true}, {Ordering: stream.ByTime, Mend: true}} {
		for _, action := range []string{"create", "index", "update", "delete"} {
			out[script(action, o)] = func(source, params map[string]any) string {
				if old, ok := source["_position"]; ok {
					same := o.Mend && old == params["v"] && source["_partition"] == params["p"]
					later := action != "create" && o.Ordering.Later(placeOf(params["p"], params["v"], params["t"]), placeOf(source["_partition"], old, source["_time"]))
					if !same && !later {
						return "none"
					}
				}
				doc := params["doc"].(map[string]any)
				if action != "update" || source["_deleted"] != nil || doc["_deleted"] != nil {
					clear(source)
				}
				for k, v := range doc {
					source[k] = v
				}
				return ""
			}
		}
	}
	return out
}

func placeOf(partition, version, us any) stream.Place {
	p, _ := stream.ParseVersion(version.(string))
	p.Partition = partition.(string)
	if n, ok := us.(json.Number); ok {
		i, _ := n.Int64()
		p.Time = time.UnixMicro(i)
	}
	return p
}

func serve(t *testing.T, o standin.Options) *standin.Server {
	t.Helper()
	o.Scripts = scripts()
	s, err := standin.Serve(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// open returns a sink whose template is there.
func open(t *testing.T, cfg Config, o Options) *Sink {
	t.Helper()
	if o.Schema == nil {
		o.Schema = newSchema(t)
	}
	o.Name = "search"
	if cfg.Index == "" {
		cfg.Index, cfg.Alias = "clicks-{date}", "clicks"
	}
	cfg.Delay = 5 * time.Millisecond
	zero := 0
	cfg.Replicas = &zero
	s, err := New(cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Idle)
	if err := s.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAConnectionThatTheNetworkForgotIsNotUsedForEver(t *testing.T) {
	at, err := url.Parse(serve(t, standin.Options{}).URL())
	if err != nil {
		t.Fatal(err)
	}
	through := httputil.NewSingleHostReverseProxy(at)
	transport := new(http.Transport)
	t.Cleanup(transport.CloseIdleConnections)
	through.Transport = transport
	far := sinktest.NewHTTP2(t, through)
	w := writer(t, open(t, Config{URL: far.URL, TLS: &trust.TLS{CA: far.CA}, Timeout: 300 * time.Millisecond}, Options{}), "p")
	defer w.Close()
	far.Forgets(t, func(ctx context.Context) error {
		w.Write(sinktest.Events(newSchema(t))(0, 10))
		_, err := w.Flush(ctx)
		return err
	})
}

// held is every document that a reader finds.
func held(t *testing.T, s *Sink) []sinktest.Held {
	t.Helper()
	if err := s.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := s.search(t.Context(), "_search", map[string]any{
		"size": 10000, "query": map[string]any{"bool": map[string]any{"must_not": []any{map[string]any{"term": map[string]any{"_deleted": true}}}}},
	})
	if statusOf(err) == http.StatusNotFound {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Hits struct {
			Hits []struct {
				Index  string          `json:"_index"`
				ID     string          `json:"_id"`
				Source json.RawMessage `json:"_source"`
			} `json:"hits"`
		} `json:"hits"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		t.Fatal(err)
	}
	var out []sinktest.Held
	for _, h := range answer.Hits.Hits {
		d := json.NewDecoder(strings.NewReader(string(h.Source)))
		d.UseNumber()
		var source map[string]any
		if err := d.Decode(&source); err != nil {
			t.Fatal(err)
		}
		canonical, _ := json.Marshal(source)
		out = append(out, sinktest.Held{ID: h.Index + "/" + h.ID, Place: placeOf(source["_partition"], source["_position"], nil), Values: string(canonical)})
	}
	return out
}

// shapes are the ways to write that keep the rules of the suite.
func shapes() map[string]struct {
	cfg   Config
	short bool
	shape sinktest.Shape
} {
	return map[string]struct {
		cfg   Config
		short bool
		shape sinktest.Shape
	}{
		"create":          {Config{Index: "clicks-{date}", Alias: "clicks"}, false, sinktest.Identity},
		"externalVersion": {Config{Index: "profiles", ID: "user", Action: "index"}, true, sinktest.Keyed},
		"script":          {Config{Index: "profiles", ID: "user", Action: "index"}, false, sinktest.Keyed},
	}
}

func deletes(e *stream.Event) bool { return e.Values[stream.EventType].Text() == "forget" }

// backend is the suite's view of a server. fail is nil where a proxy does that.
func backend(t *testing.T, cfg Config, short bool, shape sinktest.Shape, fail func(...sinktest.Fault)) sinktest.UpsertBackend {
	schema := newSchema(t)
	as := func(mend bool) func(t *testing.T, o stream.Ordering) stream.Upsert {
		return func(t *testing.T, o stream.Ordering) stream.Upsert {
			options := Options{Schema: schema, Ordering: o, Mend: mend, Short: short && o == stream.ByPosition}
			if shape == sinktest.Keyed {
				options.Delete = deletes
			}
			return open(t, cfg, options)
		}
	}
	b := sinktest.UpsertBackend{
		Schema: schema, Shape: shape, Fail: fail, New: as(false), Mend: as(true),
		Contents: func(t *testing.T) []sinktest.Held { return held(t, open(t, cfg, Options{Schema: schema})) },
		Poison:   func(e *stream.Event) { e.Values[stream.Price] = stream.StringValue("expensive") },
	}
	if shape == sinktest.Keyed {
		b.Delete = func(e *stream.Event) { e.Values[stream.EventType] = stream.StringValue("forget") }
	}
	return b
}

func TestTheStandInKeepsTheRulesOfAnUpsertSink(t *testing.T) {
	for name, s := range shapes() {
		t.Run(name, func(t *testing.T) {
			sinktest.RunUpsert(t, func(t *testing.T) sinktest.UpsertBackend {
				server := serve(t, standin.Options{})
				cfg := s.cfg
				cfg.URL = server.URL()
				return backend(t, cfg, s.short, s.shape, func(faults ...sinktest.Fault) {
					names := map[sinktest.Fault]standin.Fault{
						sinktest.Unavailable: standin.Refuse503, sinktest.LostAnswer: standin.LostAnswer, sinktest.Throttled: standin.Refuse429,
						sinktest.Partial: standin.EverySecond, sinktest.Hang: standin.Hang,
					}
					var out []standin.Fault
					for _, f := range faults {
						out = append(out, names[f])
					}
					server.Fail(out...)
				})
			})
		})
	}
}

// event is one click with a record at an offset, changed by fn.
func event(schema *stream.Schema, offset uint64, fn func(*stream.Event)) []*stream.Event {
	es := sinktest.Events(schema)(offset, 1)
	es[0].Record.Time = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	es[0].Record.Value = []byte("{}")
	es[0].Values[stream.Time] = stream.TimestampValue(es[0].Record.Time.UnixMicro())
	es[0].Values[stream.User] = stream.StringValue("ann")
	if fn != nil {
		fn(es[0])
	}
	return es
}

func writer(t *testing.T, s *Sink, partition string) stream.UpsertWriter {
	t.Helper()
	w, err := s.Open(t.Context(), stream.Tenure{Pipeline: "p", Sink: "search", Partition: partition, Epoch: 1, Schema: s.o.Schema})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func flush(t *testing.T, w stream.UpsertWriter, within time.Duration) ([]*stream.DeadLetter, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	return w.Flush(ctx)
}

func TestAWrongClockMakesNoIndex(t *testing.T) {
	server := serve(t, standin.Options{})
	s := open(t, Config{URL: server.URL()}, Options{})
	w := writer(t, s, "p")
	for i, at := range []time.Time{{}, time.UnixMicro(0), time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 3, 1, 23, 59, 59, 0, time.UTC)} {
		w.Write(event(s.o.Schema, uint64(i), func(e *stream.Event) {
			e.Values[stream.Time] = stream.Value{}
			if !at.IsZero() {
				e.Values[stream.Time] = stream.TimestampValue(at.UnixMicro())
			}
		}))
	}
	if dead, err := flush(t, w, time.Minute); err != nil || len(dead) > 0 {
		t.Fatal(dead, err)
	}
	got := map[string]int{}
	for _, h := range held(t, s) {
		index, _, _ := strings.Cut(h.ID, "/")
		got[index]++
	}
	if len(got) != 2 || got["clicks-2026-03-02"] != 3 || got["clicks-2026-03-01"] != 1 {
		t.Errorf("documents by index: %v; want three by the record's day, and one by its own of the day before", got)
	}
}

func TestABlockedIndexLosesNothing(t *testing.T) {
	server := serve(t, standin.Options{})
	s := open(t, Config{URL: server.URL()}, Options{})
	w := writer(t, s, "p")
	w.Write(event(s.o.Schema, 0, nil))
	if _, err := flush(t, w, time.Minute); err != nil {
		t.Fatal(err)
	}
	for block, want := range map[string]string{"index.blocks.read_only_allow_delete": "disk usage exceeded", "index.blocks.write": "index write"} {
		set := func(v string) {
			if _, err := s.ask(t.Context(), http.MethodPut, "/clicks/_settings", fmt.Appendf(nil, `{%q:%s}`, block, v)); err != nil {
				t.Fatal(err)
			}
		}
		set("true")
		w.Write(event(s.o.Schema, 1, nil))
		dead, err := flush(t, w, 200*time.Millisecond)
		if err == nil || len(dead) > 0 || !strings.Contains(err.Error(), want) {
			t.Errorf("flush with %s returns %d dead letters, %v; want an error that says so, and nothing lost", block, len(dead), err)
		}
		if f := s.Stats().Failing; !strings.Contains(f, "free disk space") {
			t.Errorf("the state is %q", f)
		}
		set("null")
		if _, err := flush(t, w, time.Minute); err != nil {
			t.Error(err)
		}
	}
	if n := len(held(t, s)); n != 2 {
		t.Errorf("%d documents; want 2", n)
	}
}

func TestWhatTheServerNeverTakesIsADeadLetterWithItsReason(t *testing.T) {
	server := serve(t, standin.Options{})
	s := open(t, Config{URL: server.URL(), ID: "id"}, Options{})
	w := writer(t, s, "p")
	for i, change := range []func(*stream.Event){
		func(e *stream.Event) { e.Values[stream.Price] = stream.StringValue("dear") },
		func(e *stream.Event) { e.Values[stream.ID] = stream.Value{} },
		func(e *stream.Event) { e.Values[stream.ID] = stream.StringValue("") },
		func(e *stream.Event) { e.Values[stream.ID] = stream.StringValue(strings.Repeat("x", 513)) },
		nil,
	} {
		w.Write(event(s.o.Schema, uint64(i), change))
	}
	dead, err := flush(t, w, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[uint64]string{}
	for _, d := range dead {
		reasons[d.Record.Pos.Offset()] = d.Err
	}
	for offset, want := range []string{"400 mapper_parsing_exception: failed to parse field [price]", "is empty", "is empty", "more than 512 bytes"} {
		if got := reasons[uint64(offset)]; !strings.Contains(got, want) {
			t.Errorf("event %d: %q; want %q", offset, got, want)
		}
	}
	if len(dead) != 4 || len(held(t, s)) != 1 {
		t.Errorf("%d dead letters, %d documents; want 4 and 1", len(dead), len(held(t, s)))
	}
}

func TestAStrictMappingRefusesAndSaysWhy(t *testing.T) {
	server := serve(t, standin.Options{})
	s := open(t, Config{URL: server.URL(), Index: "other", Columns: []string{"id", "price"}}, Options{})
	strict := `{"mappings":{"dynamic":"strict","properties":{"event_id":{"type":"keyword"}}}}`
	if err := s.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ask(t.Context(), http.MethodPut, "/other", []byte(strict)); err != nil {
		t.Fatal(err)
	}
	s = open(t, Config{URL: server.URL(), Index: "other", Columns: []string{"id", "country"}}, Options{})
	w := writer(t, s, "p")
	w.Write(event(s.o.Schema, 1, func(e *stream.Event) { e.Values[stream.Country] = stream.StringValue("DE") }))
	dead, err := flush(t, w, time.Minute)
	if err != nil || len(dead) != 1 || !strings.Contains(dead[0].Err, "strict_dynamic_mapping_exception") {
		t.Errorf("flush returns %+v, %v; want a dead letter with the reason", dead, err)
	}
}

func TestALargeRequestIsHalvedUntilItFits(t *testing.T) {
	server := serve(t, standin.Options{MaxBody: 20 << 10})
	s := open(t, Config{URL: server.URL()}, Options{})
	w := writer(t, s, "p")
	w.Write(sinktest.Events(s.o.Schema)(0, 500))
	w.Write(event(s.o.Schema, 1000, func(e *stream.Event) { e.Values[stream.URL] = stream.StringValue(strings.Repeat("x", 30<<10)) }))
	dead, err := flush(t, w, time.Minute)
	if err != nil || len(dead) != 1 || !strings.Contains(dead[0].Err, "413") {
		t.Fatalf("flush returns %d dead letters, %v; want the one event that is too large", len(dead), err)
	}
	if n := len(held(t, s)); n != 500 {
		t.Errorf("%d documents; want 500", n)
	}
}

func TestWrongCredentialsEndTheRunWithWhatToDo(t *testing.T) {
	server := serve(t, standin.Options{Users: map[string]string{"admin": "right", "readall": "right"}, ReadOnly: map[string]bool{"readall": true}})
	admin := open(t, Config{URL: server.URL(), User: "admin", Password: "right"}, Options{})
	if err := admin.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]string{"admin": "check user and password", "readall": "allow indices:data/write"} {
		password := "wrong"
		if user == "readall" {
			password = "right"
		}
		cfg := admin.cfg
		cfg.User, cfg.Password = user, password
		s, err := New(cfg, admin.o)
		if err != nil {
			t.Fatal(err)
		}
		w := writer(t, s, "p")
		w.Write(event(s.o.Schema, 0, nil))
		_, err = flush(t, w, 20*time.Second)
		if fatal := (*stream.FatalError)(nil); !errors.As(err, &fatal) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: flush returns %v; want a FatalError with %q", user, err, want)
		}
		if err := s.Probe(t.Context()); user == "admin" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("probe returns %v; want %q", err, want)
		}
		w.Close()
	}
}

func TestProbeFindsWhatIsSetUpWrong(t *testing.T) {
	server := serve(t, standin.Options{})
	cfg := Config{URL: server.URL(), Index: "clicks-{date}", Alias: "clicks"}
	bare := func(cfg Config) *Sink {
		s, err := New(cfg, Options{Name: "search", Schema: newSchema(t)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Idle)
		return s
	}
	probe := func(cfg Config, want string) {
		t.Helper()
		err := bare(cfg).Probe(t.Context())
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("probe returns %v; want %q", err, want)
		}
	}
	probe(cfg, "the index template millrace-clicks is missing: run once with --setup")
	if err := bare(cfg).Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	probe(cfg, "")
	other := cfg
	other.Index = "views-{date}"
	probe(other, "is for [clicks-*] and not for views-*")
	put := func(path, body string) {
		t.Helper()
		if _, err := bare(cfg).ask(t.Context(), http.MethodPut, path, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	put("/clicks-2026-03-02", `{"mappings":{"properties":{"price":{"type":"keyword"}}}}`)
	probe(cfg, "the index clicks-2026-03-02 has price as keyword; the pipeline's column is a double there")
	put("/_data_stream/flow", "")
	probe(Config{URL: server.URL(), Index: "flow"}, "is a data stream")
	probe(Config{URL: "http://127.0.0.1:1", Index: "x"}, "connection refused")
}

func TestEventsOfOneRecordHaveVersionsOfTheirOwn(t *testing.T) {
	server := serve(t, standin.Options{})
	s := open(t, Config{URL: server.URL(), Index: "profiles", ID: "user", Action: "index"}, Options{Short: true})
	w := writer(t, s, "p")
	b := stream.NewBatch(s.o.Schema)
	r := &stream.Record{Value: []byte("[]"), Pos: stream.OffsetPosition(9)}
	for i := range 3 {
		e := b.Append(r)
		e.Values[stream.User] = stream.StringValue("ann")
		e.Values[stream.Quantity] = stream.IntValue(int64(i))
	}
	for i := range b.Events { // each in a request of its own
		w.Write([]*stream.Event{&b.Events[i]})
		if _, err := flush(t, w, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if got := held(t, s); len(got) != 1 || got[0].Place.Index != 2 || !strings.Contains(got[0].Values, `"quantity":2`) {
		t.Errorf("the document is %+v; want the record's last event", got)
	}
	b.Append(r).Index = 1 << indexBits
	last := &b.Events[3]
	last.Values[stream.User] = stream.StringValue("ann")
	w.Write([]*stream.Event{last})
	if dead, err := flush(t, w, time.Minute); err != nil || len(dead) != 1 {
		t.Errorf("an event beyond the versions: %v, %v; want a dead letter", dead, err)
	}
}

func TestAnUpdateKeepsWhatTheEventDoesNotSay(t *testing.T) {
	server := serve(t, standin.Options{})
	s := open(t, Config{URL: server.URL(), Index: "profiles", ID: "user", Action: "update", Columns: []string{"user", "country", "quantity"}}, Options{})
	w := writer(t, s, "p")
	say := func(offset uint64, column int, v stream.Value) {
		w.Write(event(s.o.Schema, offset, func(e *stream.Event) {
			for i := range e.Values {
				e.Values[i] = stream.Value{}
			}
			e.Values[stream.User] = stream.StringValue("ann")
			e.Values[column] = v
		}))
	}
	say(1, stream.Country, stream.StringValue("DE"))
	say(2, stream.Quantity, stream.IntValue(7))
	say(3, stream.Country, stream.StringValue("FR"))
	if dead, err := flush(t, w, time.Minute); err != nil || len(dead) > 0 {
		t.Fatal(dead, err)
	}
	say(1, stream.Country, stream.StringValue("DE"))
	if dead, err := flush(t, w, time.Minute); err != nil || len(dead) > 0 {
		t.Fatal(dead, err)
	}
	if got := held(t, s); len(got) != 1 || !strings.Contains(got[0].Values, `"country":"FR","quantity":7`) {
		t.Errorf("the document is %+v", got)
	}
}

func TestRequestsAreSignedAndCompressed(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKID")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_REGION", "eu-central-1")
	var header http.Header
	server := httpServer(t, func(w http.ResponseWriter, r *http.Request) {
		header = r.Header.Clone()
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"errors":false}`)
	})
	yes := true
	s, err := New(Config{URL: server, Index: "clicks", SigV4: &SigV4{Service: "aoss"}, Gzip: &yes}, Options{Name: "search", Schema: newSchema(t)})
	if err != nil {
		t.Fatal(err)
	}
	w := writer(t, s, "p")
	w.Write(sinktest.Events(s.o.Schema)(0, 100))
	if _, err := flush(t, w, time.Minute); err != nil {
		t.Fatal(err)
	}
	if a := header.Get("Authorization"); !strings.HasPrefix(a, "AWS4-HMAC-SHA256 Credential=AKID/") || !strings.Contains(a, "/eu-central-1/aoss/aws4_request") {
		t.Errorf("Authorization is %q", a)
	}
	if header.Get("X-Amz-Content-Sha256") == "" || header.Get("Content-Encoding") != "gzip" {
		t.Errorf("headers %v", header)
	}
}

func TestADeadNodeIsLeftAlone(t *testing.T) {
	server := serve(t, standin.Options{})
	s := open(t, Config{URLs: []string{server.URL(), server.URL()}}, Options{})
	s.nodes[1].url = "http://127.0.0.1:1"
	w := writer(t, s, "p")
	for i := range uint64(6) {
		w.Write(event(s.o.Schema, i, nil))
		if _, err := flush(t, w, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.Stats(); st.Failed > 1 {
		t.Errorf("%d requests of %d failed; want one", st.Failed, st.Requests)
	}
}

func TestCountAndWalkReadBackARange(t *testing.T) {
	server := serve(t, standin.Options{})
	s := open(t, Config{URL: server.URL()}, Options{})
	w := writer(t, s, "clicks-1")
	w.Write(sinktest.Events(s.o.Schema)(0, 300))
	v := writer(t, s, "clicks-2")
	v.Write(sinktest.Events(s.o.Schema)(0, 10))
	for _, x := range []stream.UpsertWriter{w, v} {
		if _, err := flush(t, x, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		after, to uint64
		first     bool
		want      int64
	}{{0, 299, true, 300}, {0, 299, false, 299}, {99, 199, false, 100}, {299, 400, false, 0}} {
		n, err := s.Count(t.Context(), "clicks-1", stream.OffsetPosition(c.after), stream.OffsetPosition(c.to), c.first)
		if err != nil || n != c.want {
			t.Errorf("after %d to %d: %d, %v; want %d", c.after, c.to, n, err, c.want)
		}
	}
	last, n := "", 0
	err := s.Walk(t.Context(), "clicks-1", func(d Document) error {
		if d.Position <= last {
			t.Errorf("%s comes after %s", d.Position, last)
		}
		last = d.Position
		n++
		return nil
	})
	if err != nil || n != 300 {
		t.Errorf("%d documents, %v", n, err)
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	err := (&Config{URL: "ftp://u:p@h", Index: "Clicks-{day}", Alias: "A", Action: "put", Requests: 99, MaxBytes: 1, SigV4: &SigV4{Service: "s3"}, User: "u"}).Validate()
	for _, want := range []string{"url is", "index is", "index has {day}", "alias is", "action is", "requests is 99", "max_bytes is 1", "sigv4 and user", "sigv4.service", "user and password"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), ":p@") {
		t.Error("a password is in the message")
	}
	for _, c := range []Config{{URL: "http://h", Index: "x", Action: "index"}, {URL: "http://h", Index: "x-{date}", Action: "update", ID: "user"}} {
		if c.Validate() == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}

func TestAMendingReplayKeepsTheFirstEventOfAnID(t *testing.T) {
	mendsTheFirst(t, serve(t, standin.Options{}).URL())
}

// mendsTheFirst: of the events of one id create keeps the first; mended or not, it is that one.
func mendsTheFirst(t *testing.T, url string) {
	cfg := Config{URL: url, Index: "firsts", ID: "user"}
	write := func(o Options, item string) {
		s := open(t, cfg, o)
		w := writer(t, s, "p")
		for _, offset := range []uint64{1, 2} {
			es := sinktest.Events(s.o.Schema)(offset, 1)
			es[0].Values[stream.User] = stream.StringValue("ann")
			es[0].Values[stream.Item] = stream.StringValue(fmt.Sprintf("%s-%d", item, offset))
			w.Write(es)
			if dead, err := flush(t, w, time.Minute); err != nil || len(dead) > 0 {
				t.Fatal(dead, err)
			}
		}
	}
	write(Options{}, "made")
	for _, o := range []stream.Ordering{stream.ByPosition, stream.ByTime} {
		write(Options{Ordering: o, Mend: true}, "mended")
		write(Options{}, "again")
		got := held(t, open(t, cfg, Options{}))
		if len(got) != 1 || !strings.Contains(got[0].Values, "mended-1") {
			t.Errorf("%+v", got)
		}
	}
}
