package dynamodb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/awsjson"
	server "github.com/millrace-io/millrace/testenv/dynamodb"
	"github.com/millrace-io/millrace/testenv/network"
)

// Mutations seen red (line broken -> test):
//
//	byPosition: no condition -> Rules/AZombiesLateWriteChangesNothing
//	byTime: partitions are not compared -> Rules/AKeyThatMovedKeepsItsNewestEvent
//	meaning: a failed condition is sent again -> Rules/AReplayChangesNothing (hangs)
//	unprocessed: none is looked for -> Rules/PartialFailureOfEachWriteIsRepeated
//	expires: from now -> TheTimeToLiveCountsFromTheEvent
//	fitsNumber: any -> NumbersAreExactOrRefused
//	Encode: a deleted item is an item -> Rules/DeletedStaysDeleted
//	condition: never for Mend, always -> Rules/AMendingReplayWritesOverWhatTheEventsMade
//	judge: the limit stays -> ATableThatThrottlesIsAskedLess
//	judge: the limit does not count -> APlaceIsLeftForOthersAndWhereTheTableThrottles
//	judge: who waits does not count -> APlaceIsLeftForOthersAndWhereTheTableThrottles (hangs)
//	HTTPStatusCode: always the answer's -> ATableThatThrottlesTheProbeIsNotSetUpWrong

func TestMain(m *testing.M) {
	if os.Getenv(asStub) != "" {
		fmt.Fprintln(os.Stderr, beStub())
		return
	}
	os.Unsetenv("AWS_CA_BUNDLE") // every client would read all of its certificates, for servers that speak plain HTTP
	goleak.VerifyTestMain(m, network.Leftovers()...)
}

func newSchema(t testing.TB, declared ...stream.Column) *stream.Schema {
	t.Helper()
	s, err := stream.NewSchema(declared...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func start(t testing.TB) *server.Server {
	t.Helper()
	s, err := server.Start(server.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// environment makes the SDK find a server.
func environment(t testing.TB, env map[string]string) {
	for k, v := range env {
		t.Setenv(k, v)
	}
}

// open returns a sink whose table is there.
func open(t testing.TB, cfg Config, o Options) *Sink {
	t.Helper()
	if o.Schema == nil {
		o.Schema = newSchema(t)
	}
	o.Name = "search"
	if cfg.Table == "" {
		cfg.Table = "profiles"
	}
	if cfg.Key.PK == "" {
		cfg.Key.PK = "user"
	}
	cfg.Delay = 5 * time.Millisecond
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

// plain is an attribute value as JSON would say it.
func plain(v types.AttributeValue) any {
	switch v := v.(type) {
	case *types.AttributeValueMemberS:
		return v.Value
	case *types.AttributeValueMemberN:
		return json.Number(v.Value)
	case *types.AttributeValueMemberBOOL:
		return v.Value
	case *types.AttributeValueMemberNULL:
		return nil
	case *types.AttributeValueMemberSS:
		return v.Value
	case *types.AttributeValueMemberL:
		out := []any{}
		for _, e := range v.Value {
			out = append(out, plain(e))
		}
		return out
	case *types.AttributeValueMemberM:
		out := map[string]any{}
		for k, e := range v.Value {
			out[k] = plain(e)
		}
		return out
	}
	return fmt.Sprintf("%T", v)
}

// items is the whole table.
func items(t testing.TB, s *Sink) []map[string]any {
	t.Helper()
	client, err := s.client()
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]any
	pages := dynamodb.NewScanPaginator(client, &dynamodb.ScanInput{TableName: &s.cfg.Table})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range page.Items {
			one := map[string]any{}
			for k, v := range it {
				one[k] = plain(v)
			}
			out = append(out, one)
		}
	}
	return out
}

func held(t testing.TB, s *Sink) []sinktest.Held {
	t.Helper()
	var out []sinktest.Held
	for _, it := range items(t, s) {
		if it["_deleted"] == true {
			continue
		}
		text, _ := json.Marshal(it)
		p, _ := stream.ParseVersion(it["_position"].(string))
		p.Partition = it["_partition"].(string)
		out = append(out, sinktest.Held{ID: fmt.Sprint(it["user_id"], it["_id"]), Place: p, Values: string(text)})
	}
	return out
}

func deletes(e *stream.Event) bool { return e.Values[stream.EventType].Text() == "forget" }

// shapes are the ways to write that keep the rules of the suite.
func shapes() map[string]struct {
	key   Key
	shape sinktest.Shape
} {
	return map[string]struct {
		key   Key
		shape sinktest.Shape
	}{
		"conditional": {Key{PK: "user"}, sinktest.Keyed},
		"batches":     {Key{PK: "user", SK: "_id"}, sinktest.Identity},
	}
}

// backend is the suite's view of a table. The environment names the server.
func backend(t *testing.T, table string, key Key, shape sinktest.Shape, fail func(...sinktest.Fault)) sinktest.UpsertBackend {
	schema := newSchema(t)
	cfg := Config{Table: table, Key: key}
	as := func(mend bool) func(t *testing.T, o stream.Ordering) stream.Upsert {
		return func(t *testing.T, o stream.Ordering) stream.Upsert {
			options := Options{Schema: schema, Ordering: o, Mend: mend}
			if shape == sinktest.Keyed {
				options.Delete = deletes
			}
			return open(t, cfg, options)
		}
	}
	b := sinktest.UpsertBackend{
		Schema: schema, Shape: shape, Fail: fail, New: as(false), Mend: as(true),
		Contents: func(t *testing.T) []sinktest.Held { return held(t, open(t, cfg, Options{Schema: schema})) },
		Poison:   func(e *stream.Event) { e.Properties = `{"n":1e400}` },
	}
	if shape == sinktest.Keyed {
		b.Delete = func(e *stream.Event) { e.Values[stream.EventType] = stream.StringValue("forget") }
	}
	return b
}

// failing lets the next writes fail as the suite says.
func failing(s *server.Server) func(...sinktest.Fault) {
	return func(faults ...sinktest.Fault) {
		s.Intercept(func(c server.Call) server.Fault {
			if c.Operation != "PutItem" && c.Operation != "BatchWriteItem" || len(faults) == 0 {
				return server.Fault{}
			}
			f := faults[0]
			faults = faults[1:]
			switch f {
			case sinktest.Unavailable:
				return server.Fault{Cut: true}
			case sinktest.LostAnswer:
				return server.Fault{Cut: true, Done: true}
			case sinktest.Throttled:
				return server.Fault{Error: "ThrottlingException"}
			case sinktest.Hang:
				return server.Fault{Hang: make(chan struct{})}
			}
			if c.Operation == "PutItem" {
				return server.Fault{Error: "ProvisionedThroughputExceededException"}
			}
			return server.Fault{Fail: func(i int) string {
				if i%2 == 0 {
					return "busy"
				}
				return ""
			}}
		})
	}
}

func TestTheServerInProcessKeepsTheRulesOfAnUpsertSink(t *testing.T) {
	for name, s := range shapes() {
		t.Run(name, func(t *testing.T) {
			sinktest.RunUpsert(t, func(t *testing.T) sinktest.UpsertBackend {
				srv := start(t)
				environment(t, srv.Env())
				return backend(t, "profiles", s.key, s.shape, failing(srv))
			})
		})
	}
}

// event is one click of a user, changed by fn.
func event(s *Sink, offset uint64, fn func(*stream.Event)) []*stream.Event {
	es := sinktest.Events(s.o.Schema)(offset, 1)
	es[0].Record.Time = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	es[0].Values[stream.Time] = stream.TimestampValue(es[0].Record.Time.UnixMicro())
	es[0].Values[stream.User] = stream.StringValue("ann")
	es[0].Properties = ""
	if fn != nil {
		fn(es[0])
	}
	return es
}

func writer(t testing.TB, s *Sink, partition string) stream.UpsertWriter {
	t.Helper()
	w, err := s.Open(t.Context(), stream.Tenure{Pipeline: "p", Sink: "search", Partition: partition, Epoch: 1, Schema: s.o.Schema})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func flush(t testing.TB, w stream.UpsertWriter) []*stream.DeadLetter {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	dead, err := w.Flush(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return dead
}

func TestNumbersAreExactOrRefused(t *testing.T) {
	environment(t, start(t).Env())
	s := open(t, Config{Sets: []string{"tags"}}, Options{Schema: newSchema(
		t, stream.Column{Name: "amount", Type: stream.Type{Kind: stream.Decimal, Precision: 18, Scale: 2}},
		stream.Column{Name: "tags", Type: stream.Type{Kind: stream.List}}, stream.Column{Name: "raw", Type: stream.Type{Kind: stream.JSON}},
	)})
	column := func(name string) int {
		i, _ := s.o.Schema.Lookup(name)
		return i
	}
	w := writer(t, s, "p")
	const big = "12345678901234567890123456789012345678" // 38 digits
	w.Write(event(s, 1, func(e *stream.Event) {
		e.Values[stream.Quantity] = stream.IntValue(9223372036854775807)
		e.Values[column("amount")] = stream.DecimalValue(-100000000000000001)
		e.Values[column("tags")] = stream.ListValue(`["b","a","b"]`)
		e.Values[column("raw")] = stream.JSONValue(`{"n":` + big + `,"list":[1.50,"ünï\n",true,null,{}],"":{"a b":-0.0}}`)
		e.Values[stream.Country] = stream.StringValue("")
		e.Values[stream.URL] = stream.StringValue("\x00\"\\ü")
		e.Properties = `{ "select" : [ ] , "size":"1" }`
	}))
	if dead := flush(t, w); len(dead) > 0 {
		t.Fatalf("dead letter: %s", dead[0].Err)
	}
	text, _ := json.Marshal(items(t, s)[0])
	for _, want := range []string{
		`"quantity":9223372036854775807`, `"amount":-1000000000000000.01`, `"tags":["a","b"]`, big, `"list":[1.5,"ünï\n",true,null,{}]`, `"":{"a b":0}`,
		`"country":""`, `"url":"\u0000\"\\ü"`, `"properties":{"select":[],"size":"1"}`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s is not in the item %s", want, text)
		}
	}
	for i, bad := range []string{`{"n":123456789012345678901234567890123456789}`, `{"n":1e126}`, `{"n":1e-131}`, `{"n":` + strings.Repeat(`[`, 40) + strings.Repeat(`]`, 40) + `}`} {
		w.Write(event(s, uint64(10+i), func(e *stream.Event) { e.Properties = bad }))
		if dead := flush(t, w); len(dead) != 1 || !strings.Contains(dead[0].Err, "properties: ") {
			t.Errorf("%s: %v; want a dead letter", bad, dead)
		}
	}
	w.Write(event(s, 20, func(e *stream.Event) { e.Values[stream.Price] = stream.FloatValue(1e300) }))
	if dead := flush(t, w); len(dead) != 1 || !strings.Contains(dead[0].Err, "price: ") {
		t.Errorf("1e300: %v; want a dead letter", dead)
	}
}

func TestWhatIsNoItemIsADeadLetterWithItsReason(t *testing.T) {
	environment(t, start(t).Env())
	s := open(t, Config{}, Options{})
	w := writer(t, s, "p")
	for i, c := range []struct {
		change func(*stream.Event)
		want   string
	}{
		{func(e *stream.Event) { e.Values[stream.User] = stream.Value{} }, "user_id, a part of the table's key, is empty"},
		{func(e *stream.Event) { e.Values[stream.User] = stream.StringValue("") }, "is empty"},
		{func(e *stream.Event) { e.Values[stream.User] = stream.StringValue(strings.Repeat("x", 2049)) }, "has 2049 bytes"},
		{func(e *stream.Event) { e.Values[stream.URL] = stream.StringValue(strings.Repeat("x", 410<<10)) }, "Item size has exceeded"},
		{func(e *stream.Event) { e.Values[stream.URL] = stream.StringValue(strings.Repeat("x", 900<<10)) }, "up to 400 KB"},
	} {
		w.Write(event(s, uint64(i), c.change))
		dead := flush(t, w)
		if len(dead) != 1 || !strings.Contains(dead[0].Err, c.want) || dead[0].Stage != "sink.search" {
			t.Errorf("%q: %+v", c.want, dead)
		}
	}
	w.Write(event(s, 9, nil))
	if dead := flush(t, w); len(dead) > 0 || len(items(t, s)) != 1 {
		t.Errorf("a good event after them: %v", dead)
	}
}

func TestTheTimeToLiveCountsFromTheEvent(t *testing.T) {
	srv := start(t)
	environment(t, srv.Env())
	timeToLive(t)
	srv.SetClock(10 * 365 * 24 * time.Hour)
	if n := srv.Sweep(); n != 1 {
		t.Errorf("%d items go; want 1", n)
	}
}

// timeToLive is what holds on servers that know one; an item is left in the end.
func timeToLive(t *testing.T) {
	t.Helper()
	s := open(t, Config{TTL: &TTL{After: time.Hour}}, Options{})
	for range 2 { // a second Setup changes nothing
		if err := s.Probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Setup(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	w := writer(t, s, "p")
	w.Write(event(s, 1, nil))
	flush(t, w)
	want := json.Number(fmt.Sprint(time.Date(2026, 3, 2, 11, 0, 0, 0, time.UTC).Unix()))
	if got := items(t, s)[0]["expires_at"]; got != want {
		t.Errorf("expires_at is %v; want %v", got, want)
	}
	other := s.cfg
	other.TTL = &TTL{After: time.Hour, Attribute: "ends_at"}
	o, err := New(other, s.o)
	if err == nil {
		err = o.Probe(t.Context())
	}
	if err == nil || !strings.Contains(err.Error(), "its time to live is not the attribute ends_at") {
		t.Errorf("another attribute: %v", err)
	}
}

func TestATableThatThrottlesIsAskedLess(t *testing.T) {
	srv := start(t)
	environment(t, srv.Env())
	s := open(t, Config{}, Options{})
	var mu sync.Mutex
	throttled := 0
	srv.Intercept(func(c server.Call) server.Fault {
		mu.Lock()
		defer mu.Unlock()
		if c.Operation == "PutItem" && throttled < 50 {
			throttled++
			return server.Fault{Error: "ProvisionedThroughputExceededException"}
		}
		return server.Fault{}
	})
	w := writer(t, s, "p")
	for i := range uint64(200) {
		w.Write(event(s, i, func(e *stream.Event) { e.Values[stream.User] = stream.StringValue(fmt.Sprint("user-", i)) }))
	}
	least := s.cfg.Requests
	done := make(chan struct{})
	go func() {
		defer close(done)
		flush(t, w)
	}()
	for alive := true; alive; {
		least = min(least, s.pace.allowed())
		select {
		case <-done:
			alive = false
		default:
		}
	}
	if least == s.cfg.Requests {
		t.Errorf("%d requests at once are allowed all the time", least)
	}
	if n := len(items(t, s)); n != 200 {
		t.Errorf("%d items; want 200", n)
	}
}

func TestAPlaceIsLeftForOthersAndWhereTheTableThrottles(t *testing.T) {
	p := newPace(4)
	for range 4 {
		if err := p.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if !p.judge(false, 1000) {
		t.Error("a place is left though nobody waits")
	}
	if p.judge(true, 1) {
		t.Error("a place is kept though the table throttles")
	}
	p.leave()
	p.leave()
	if !p.judge(false, 1) {
		t.Error("a place is left though the limit is kept")
	}
	p = newPace(1)
	if err := p.enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	entered := make(chan error)
	go func() { entered <- p.enter(t.Context()) }()
	for p.judge(false, 1000) { // until the other one waits
		runtime.Gosched()
	}
	if !p.judge(false, 1) {
		t.Error("a place is left after one write")
	}
	p.leave()
	if err := <-entered; err != nil {
		t.Error(err)
	}
}

// A status of 400 would end the run before anything is read: it says that the pipeline is set up wrong.
func TestATableThatThrottlesTheProbeIsNotSetUpWrong(t *testing.T) {
	srv := start(t)
	environment(t, srv.Env())
	s := open(t, Config{}, Options{})
	srv.Intercept(func(server.Call) server.Fault { return server.Fault{Error: "ThrottlingException"} })
	err := s.Probe(t.Context())
	var answer interface{ HTTPStatusCode() int }
	if !errors.As(err, &answer) || answer.HTTPStatusCode() != http.StatusTooManyRequests {
		t.Errorf("%v; want an error with status 429", err)
	}
}

func TestAHotKeyDoesNotStopTheOthers(t *testing.T) {
	srv := start(t)
	environment(t, srv.Env())
	s := open(t, Config{}, Options{})
	hot := true
	srv.Intercept(func(c server.Call) server.Fault {
		if c.Operation == "PutItem" && c.Key == "hot" && hot {
			return server.Fault{Error: "ThrottlingException", Message: "Throughput exceeds the current capacity of a partition"}
		}
		return server.Fault{}
	})
	w := writer(t, s, "p")
	for i := range uint64(300) {
		user := fmt.Sprint("user-", i)
		if i%3 == 0 {
			user = "hot"
		}
		w.Write(event(s, i, func(e *stream.Event) { e.Values[stream.User] = stream.StringValue(user) }))
	}
	for end := time.Now().Add(20 * time.Second); len(items(t, s)) < 200; {
		if time.Now().After(end) {
			t.Fatalf("%d items while one key is throttled; want the 200 others", len(items(t, s)))
		}
	}
	srv.Intercept(nil)
	flush(t, w)
	for _, h := range held(t, s) {
		if strings.HasPrefix(h.ID, "hot") && h.Place.Pos.Offset() != 297 {
			t.Errorf("the hot item is of %s; want its newest event", h.Place.Version())
		}
	}
}

func TestWhatIsSetUpWrongIsSaid(t *testing.T) {
	srv := start(t)
	environment(t, srv.Env())
	schema := newSchema(t)
	sink := func(cfg Config) *Sink {
		s, err := New(cfg, Options{Name: "search", Schema: schema})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Idle)
		return s
	}
	fatal := func(err error, want string) {
		t.Helper()
		if f := (*stream.FatalError)(nil); !errors.As(err, &f) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want a FatalError with %q", err, want)
		}
	}
	s := sink(Config{Table: "nope", Key: Key{PK: "user"}})
	fatal(s.Probe(t.Context()), "create the table")
	w := writer(t, s, "p")
	w.Write(event(s, 1, nil))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := w.Flush(ctx)
	fatal(err, "create the table")

	open(t, Config{Table: "profiles"}, Options{})
	other := sink(Config{Table: "profiles", Key: Key{PK: "quantity"}})
	fatal(other.Probe(t.Context()), "has the key HASH user_id (S); the pipeline writes HASH quantity (N)")
	w = writer(t, other, "p")
	w.Write(event(other, 1, func(e *stream.Event) {
		e.Values[stream.Quantity] = stream.IntValue(1)
		e.Values[stream.User] = stream.Value{}
	}))
	_, err = w.Flush(ctx)
	fatal(err, "key has to name the table's own key")
	fatal(sink(Config{Table: "profiles", Key: Key{PK: "user"}, TTL: &TTL{After: time.Hour}}).Probe(t.Context()), "time to live")

	for code, want := range map[string]string{"UnrecognizedClientException": "check AWS_ACCESS_KEY_ID", "AccessDeniedException": "allow dynamodb:PutItem"} {
		srv.Intercept(func(server.Call) server.Fault { return awsjson.Fault{Error: code} })
		fatal(sink(Config{Table: "profiles", Key: Key{PK: "user"}}).Probe(t.Context()), want)
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	err := (&Config{Key: Key{SK: "x"}, TTL: &TTL{}, Requests: 5000, Delay: -1}).Validate()
	for _, want := range []string{"table is empty", "key.pk is missing", "ttl.after", "requests is 5000", "negative"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	schema := newSchema(t)
	for want, c := range map[string]Config{
		"key.pk has \"nope\"":                        {Key: Key{PK: "nope"}},
		"key.pk is \"items\" of type list":           {Key: Key{PK: "items"}},
		"columns has \"nope\"":                       {Key: Key{PK: "user"}, Columns: []string{"nope"}},
		"sets has \"user\", which is no list column": {Key: Key{PK: "user"}, Sets: []string{"user"}},
	} {
		if err := c.CheckSchema(schema); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
}
