package kinesis

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sinks/origin"
	"github.com/millrace-io/millrace/sinks/sinktest"
	source "github.com/millrace-io/millrace/sources/kinesis"
	"github.com/millrace-io/millrace/sources/sourcetest"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/awsjson"
	tables "github.com/millrace-io/millrace/testenv/dynamodb"
	server "github.com/millrace-io/millrace/testenv/kinesis"
	"github.com/millrace-io/millrace/testenv/network"
)

// Mutations seen red (line broken -> test):
//
//	New: Order Any -> Rules/AStormOfFaultsLosesNothing (order), plain and aggregated
//	put: what fails within an answer is taken for written -> Rules/PartialFailureOfEachWriteIsRepeated
//	put: what is invalid is not looked for -> LargeEventsAreSentOrAreDeadLettersByTheStreamsLimit
//	wave: a key goes on in a call after it had to wait -> AggregatesOfSeveralCallsKeepTheOrder
//	wave: an aggregate has no limit -> AnAggregateHasOneKeyAndIsSmall
//	proceed: a key goes on after it failed -> AggregatesOfSeveralCallsKeepTheOrder
//	aggregate: a wrong checksum, no tags -> TheSourceReadsWhatTheSinkAggregates
//	New: no pings -> AConnectionThatTheNetworkForgotIsNotUsedForEver
//	Encode: a new key each time -> EventsWithoutAKeyGoToAllShardsAndComeAgainWithTheSameKey

func TestMain(m *testing.M) {
	os.Unsetenv("AWS_CA_BUNDLE") // every client would read all of its certificates, for servers that speak plain HTTP
	goleak.VerifyTestMain(m, network.Leftovers()...)
}

func newSchema(t testing.TB) *stream.Schema {
	t.Helper()
	s, err := stream.NewSchema()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func start(t testing.TB, o server.Options) *server.Server {
	t.Helper()
	s, err := server.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	environment(t, s.URL())
	return s
}

// environment makes the SDK find a server.
func environment(t testing.TB, url string) {
	for k, v := range map[string]string{
		"AWS_ENDPOINT_URL_KINESIS": url, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "localsecret",
	} {
		t.Setenv(k, v)
	}
}

func newClient(t testing.TB, url string) *kinesis.Client {
	transport := new(http.Transport)
	t.Cleanup(transport.CloseIdleConnections)
	return kinesis.New(kinesis.Options{
		BaseEndpoint: &url, Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("local", "localsecret", ""),
		HTTPClient: &http.Client{Transport: transport},
	})
}

func newSink(t testing.TB, cfg Config) *Sink {
	t.Helper()
	s, err := New(cfg, Options{Name: "search", Pipeline: "clicks"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Idle)
	return s
}

// raw are the records of a stream, shard after shard.
func raw(t testing.TB, client *kinesis.Client, name string) []types.Record {
	t.Helper()
	shards, err := client.ListShards(t.Context(), &kinesis.ListShardsInput{StreamName: &name})
	if err != nil {
		t.Fatal(err)
	}
	var out []types.Record
	for _, shard := range shards.Shards {
		it, err := client.GetShardIterator(t.Context(), &kinesis.GetShardIteratorInput{StreamName: &name, ShardId: shard.ShardId, ShardIteratorType: types.ShardIteratorTypeTrimHorizon})
		if err != nil {
			t.Fatal(err)
		}
		for next := it.ShardIterator; next != nil; {
			got, err := client.GetRecords(t.Context(), &kinesis.GetRecordsInput{ShardIterator: next})
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, got.Records...)
			if next = got.NextShardIterator; len(got.Records) == 0 {
				break
			}
		}
	}
	return out
}

// records are what is in them, one by one.
func records(t testing.TB, client *kinesis.Client, name string) []stream.Record {
	t.Helper()
	var out []stream.Record
	for _, r := range raw(t, client, name) {
		some, err := source.Records(&r)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range some {
			if one.Err != nil {
				t.Fatal(one.Err)
			}
		}
		out = append(out, some...)
	}
	return out
}

// placeOf is where a document says that it comes from.
func placeOf(t testing.TB, document []byte) (p stream.Place) {
	t.Helper()
	var d struct {
		Partition string `json:"_partition"`
		Position  string `json:"_position"`
	}
	if err := json.Unmarshal(document, &d); err != nil {
		t.Fatal(err)
	}
	p, _ = stream.ParseVersion(d.Position)
	p.Partition = d.Partition
	return p
}

// backend is a stream that is there.
func backend(t *testing.T, client *kinesis.Client, cfg Config, fail func(...sinktest.Fault)) sinktest.UpsertBackend {
	cfg.Key, cfg.MaxRecord, cfg.Delay = "user", 100_000, 5*time.Millisecond
	return sinktest.UpsertBackend{
		Schema: newSchema(t), Shape: sinktest.Log, Fail: fail,
		New:    func(t *testing.T, _ stream.Ordering) stream.Upsert { return newSink(t, cfg) },
		Poison: func(e *stream.Event) { e.Values[stream.URL] = stream.StringValue(strings.Repeat("x", 200_000)) },
		Contents: func(t *testing.T) []sinktest.Held {
			var out []sinktest.Held
			for _, r := range records(t, client, cfg.Stream) {
				out = append(out, sinktest.Held{ID: string(r.Key), Place: placeOf(t, r.Value), Values: string(r.Value)})
			}
			return out
		},
	}
}

// faulty decides on calls that put records.
func faulty(s *server.Server, faults ...sinktest.Fault) {
	var fates sinktest.Faults
	fates.Set(faults...)
	s.Intercept(func(c server.Call) server.Fault {
		if c.Operation != "PutRecords" {
			return server.Fault{}
		}
		f, fails := fates.Next()
		if !fails {
			return server.Fault{}
		}
		switch f {
		case sinktest.LostAnswer:
			return server.Fault{Cut: true, Done: true}
		case sinktest.Throttled:
			return server.Fault{Error: "ProvisionedThroughputExceededException"}
		case sinktest.Partial:
			return server.Fault{Fail: func(i int) string {
				return []string{"", "ProvisionedThroughputExceededException", "", "InternalFailure"}[i%4]
			}}
		case sinktest.Hang:
			return server.Fault{Hang: make(chan struct{}), Cut: true}
		}
		return server.Fault{Error: "InternalFailure"}
	})
}

func TestTheServerInProcessKeepsTheRulesOfAnUpsertSink(t *testing.T) {
	for name, cfg := range map[string]Config{"plain": {}, "aggregate": {Aggregate: true}} {
		t.Run(name, func(t *testing.T) {
			sinktest.RunUpsert(t, func(t *testing.T) sinktest.UpsertBackend {
				s := start(t, server.Options{})
				s.CreateStream("out", 3)
				cfg.Stream = "out"
				return backend(t, newClient(t, s.URL()), cfg, func(faults ...sinktest.Fault) { faulty(s, faults...) })
			})
		})
	}
}

// write writes n events of ten users, of one record key each, and flushes.
func write(t *testing.T, s *Sink, n int, change func(i int, e *stream.Event)) []*stream.DeadLetter {
	t.Helper()
	schema := newSchema(t)
	w, err := s.Writer(stream.Tenure{Partition: "p", Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	events := sinktest.Events(schema)(0, n)
	for i, e := range events {
		e.Record.Key = fmt.Appendf(nil, "user-%d", i%10)
		change(i, e)
	}
	w.Write(events)
	dead, err := w.Flush(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return dead
}

func nothing(int, *stream.Event) {}

// Some keys have more than a record holds, and there are more keys than a call holds.
func TestAggregatesOfSeveralCallsKeepTheOrder(t *testing.T) {
	s := start(t, server.Options{})
	s.CreateStream("out", 2)
	faulty(s, sinktest.Partial, sinktest.Throttled, sinktest.Partial, sinktest.Partial, sinktest.LostAnswer, sinktest.Partial)
	dead := write(t, newSink(t, Config{Stream: "out", Aggregate: true}), 6000, func(i int, e *stream.Event) {
		if i%2 == 0 {
			e.Record.Key = fmt.Appendf(nil, "other-%d", i)
		} else if i%30 == 1 {
			e.Values[stream.URL] = stream.StringValue(strings.Repeat("x", 20_000))
		}
	})
	last := map[string]string{}
	seen := map[string]bool{}
	for _, r := range records(t, newClient(t, s.URL()), "out") {
		version := placeOf(t, r.Value).Version()
		if !seen[version] && version < last[string(r.Key)] {
			t.Fatalf("of %s, %s comes after %s", r.Key, version, last[string(r.Key)])
		}
		seen[version] = true
		last[string(r.Key)] = version
	}
	if len(seen) != 6000 || len(dead) > 0 {
		t.Errorf("%d events, %d dead letters; want 6000 and none", len(seen), len(dead))
	}
}

func TestAnAggregateHasOneKeyAndIsSmall(t *testing.T) {
	s := start(t, server.Options{})
	s.CreateStream("out", 2)
	write(t, newSink(t, Config{Stream: "out", Aggregate: true}), 5000, nothing)
	all := raw(t, newClient(t, s.URL()), "out")
	if len(all) > 500 {
		t.Errorf("%d records for 5000 events of 10 keys", len(all))
	}
	count := 0
	for _, r := range all {
		if len(r.Data) > aggregateBytes {
			t.Errorf("an aggregate has %d bytes", len(r.Data))
		}
		some, err := source.Records(&r)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range some {
			if string(one.Key) != *r.PartitionKey {
				t.Errorf("an aggregate of %s has a record of %s", *r.PartitionKey, one.Key)
			}
		}
		count += len(some)
	}
	if count != 5000 {
		t.Errorf("%d events; want 5000", count)
	}
}

// The source is the other end: it takes aggregates apart, and their tags are its headers.
func TestTheSourceReadsWhatTheSinkAggregates(t *testing.T) {
	s := start(t, server.Options{})
	s.CreateStream("out", 1)
	db, err := tables.Start(tables.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	write(t, newSink(t, Config{Stream: "out", Aggregate: true, Value: "record"}), 300, nothing)
	src, err := source.New(source.Config{Stream: "out", Table: "checkpoints"}, source.Options{Pipeline: "reader", AWS: []func(*config.LoadOptions) error{
		config.WithServiceOptions(func(_ string, o any) {
			transport := new(awsjson.Transport)
			t.Cleanup(transport.CloseIdleConnections)
			switch o := o.(type) {
			case *kinesis.Options:
				o.HTTPClient = &http.Client{Transport: transport}
			case *dynamodb.Options:
				o.BaseEndpoint, o.HTTPClient = aws.String(db.URL()), &http.Client{Transport: transport}
			}
		}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	play := sourcetest.NewPlay(t, src, nil)
	tape := play.Has(s.Shards("out")[0].ID, 300)
	last := map[string]string{}
	for _, r := range tape.Records() {
		h := map[string]string{}
		for _, one := range r.Headers {
			h[one.Key] = string(one.Value)
		}
		if h[origin.PipelineHeader] != "clicks" || h[origin.PartitionHeader] != "p" || h[origin.PositionHeader] <= last[string(r.Key)] {
			t.Fatalf("headers %v after %s", h, last[string(r.Key)])
		}
		last[string(r.Key)] = h[origin.PositionHeader]
	}
	play.Stop()
}

func TestLargeEventsAreSentOrAreDeadLettersByTheStreamsLimit(t *testing.T) {
	large := func(i int, e *stream.Event) {
		e.Values[stream.URL] = stream.StringValue(strings.Repeat("x", []int{10, 900_000, 3 << 20}[i%3]))
	}
	for _, c := range []struct {
		rule      string
		o         server.Options
		cfg       Config
		dead, all int
	}{
		{"of 1 MiB", server.Options{}, Config{}, 2, 4},
		{"of 10 MiB", server.Options{MaxRecord: 10 << 20, MaxRequest: 10 << 20}, Config{MaxRecord: 10 << 20}, 0, 6},
		{"of 1 MiB that the file has larger", server.Options{}, Config{MaxRecord: 10 << 20}, 2, 4},
		{"aggregated", server.Options{}, Config{Aggregate: true}, 2, 4},
	} {
		t.Run(c.rule, func(t *testing.T) {
			s := start(t, c.o)
			s.CreateStream("out", 1)
			c.cfg.Stream = "out"
			dead := write(t, newSink(t, c.cfg), 6, large)
			if all := records(t, newClient(t, s.URL()), "out"); len(dead) != c.dead || len(all) != c.all {
				t.Errorf("%d dead letters and %d events; want %d and %d", len(dead), len(all), c.dead, c.all)
			}
		})
	}
}

func TestEventsWithoutAKeyGoToAllShardsAndComeAgainWithTheSameKey(t *testing.T) {
	s := start(t, server.Options{})
	s.CreateStream("out", 4)
	for range 2 {
		write(t, newSink(t, Config{Stream: "out", Key: "country"}), 100, func(_ int, e *stream.Event) { e.Values[stream.Country] = stream.Value{} })
	}
	keys := map[string]int{}
	for _, r := range records(t, newClient(t, s.URL()), "out") {
		keys[string(r.Key)]++
	}
	for _, n := range keys {
		if n != 2 || len(keys) != 100 {
			t.Fatalf("%d keys, one %d times; want 100 keys, each twice", len(keys), n)
		}
	}
	for _, shard := range s.Shards("out") {
		if shard.Records == 0 {
			t.Errorf("shard %s has none", shard.ID)
		}
	}
}

func TestWhatNoRepetitionMendsSaysWhatToDo(t *testing.T) {
	s := start(t, server.Options{})
	s.CreateStream("out", 1)
	fatal := func(err error, word string) {
		t.Helper()
		if f := (*stream.FatalError)(nil); !errors.As(err, &f) || !strings.Contains(err.Error(), word) {
			t.Errorf("the error is %v; want a fatal one with %q", err, word)
		}
	}
	put := func(cfg Config) error {
		schema := newSchema(t)
		w, err := newSink(t, cfg).Writer(stream.Tenure{Partition: "p", Schema: schema})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		w.Write(sinktest.Events(schema)(0, 20))
		_, err = w.Flush(t.Context())
		return err
	}
	const gone = "it does not exist or was deleted; check its name, and that AWS_REGION is its region"
	fatal(newSink(t, Config{Stream: "nope"}).Probe(t.Context()), gone)
	fatal(put(Config{Stream: "nope"}), gone)
	fatal(newSink(t, Config{Stream: "out", MaxRecord: 10 << 20}).Probe(t.Context()), "takes records of 1024 KiB; max_record is 10485760 bytes")
	s.Intercept(func(server.Call) server.Fault { return server.Fault{Error: "AccessDeniedException"} })
	fatal(newSink(t, Config{Stream: "out"}).Probe(t.Context()), "allow kinesis:DescribeStreamSummary on stream out")
	fatal(put(Config{Stream: "out"}), "allow kinesis:PutRecords on stream out")
	s.Intercept(nil)
	if err := newSink(t, Config{Stream: "out"}).Probe(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	err := (&Config{Value: "xml", Delay: -1, MaxRecord: 5}).Validate()
	for _, want := range []string{"stream is empty", "value is", "delay or timeout", "max_record is 5"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	for name, ok := range map[string]bool{"clicks": true, "arn:aws:kinesis:eu-west-1:000000000000:stream/clicks": true, "a b": false, "arn:x": false} {
		if err := (&Config{Stream: name}).Validate(); (err == nil) != ok {
			t.Errorf("stream %s: %v", name, err)
		}
	}
	if err := (&Config{Key: "nope"}).CheckSchema(newSchema(t)); err == nil {
		t.Error("an unknown key column is accepted")
	}
}
