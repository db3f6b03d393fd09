package kinesis

import (
	"context"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sources/awserr"
	"github.com/millrace-io/millrace/sources/lease"
	"github.com/millrace-io/millrace/sources/sourcetest"
	"github.com/millrace-io/millrace/testenv/awsjson"
	"github.com/millrace-io/millrace/testenv/network"
)

var errSevered = errors.New("network is unreachable")

// outside is the network of one worker, with its faults.
type outside struct {
	http.Transport

	mu      sync.Mutex
	severed bool
	refused int           // answers that are errors
	frozen  chan struct{} // not nil while frozen; closed by thaw
}

// RoundTrip makes outside a transport. What is on its way when it is frozen arrives, and the answer waits.
func (o *outside) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := o.pass(r.Context()); err != nil {
		return nil, err
	}
	answer, err := o.Transport.RoundTrip(r)
	if err == nil {
		if answer.StatusCode != http.StatusOK {
			o.set(func() { o.refused++ })
		}
		if err = o.pass(r.Context()); err != nil {
			answer.Body.Close()
			return nil, err
		}
	}
	return answer, err
}

func (o *outside) pass(ctx context.Context) error {
	o.mu.Lock()
	frozen := o.frozen
	o.mu.Unlock()
	if frozen != nil {
		select {
		case <-frozen:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.severed {
		return errSevered
	}
	return nil
}

func (o *outside) set(change func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change()
}

func (o *outside) sever() { o.set(func() { o.severed = true }) }

func (o *outside) freeze() { o.set(func() { o.frozen = make(chan struct{}) }) }

func (o *outside) thaw() {
	o.set(func() {
		close(o.frozen)
		o.frozen = nil
	})
}

// service is a Kinesis and a DynamoDB, whichever they are.
type service struct {
	kinesis, dynamodb string                               // URLs
	trim              func(t *testing.T, l *log, i, n int) // nil: it cannot
	features          func(*sourcetest.Features)           // nil: as Amazon's
}

func (s service) options(client aws.HTTPClient) []func(*config.LoadOptions) error {
	return []func(*config.LoadOptions) error{
		config.WithRegion("us-east-1"), config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider("local", "localsecret", "")),
		config.WithSharedConfigFiles(nil), config.WithSharedCredentialsFiles(nil),
		config.WithServiceOptions(func(service string, o any) {
			switch o := o.(type) {
			case *kinesis.Options:
				o.BaseEndpoint, o.HTTPClient = &s.kinesis, client
			case *dynamodb.Options:
				o.BaseEndpoint, o.HTTPClient = &s.dynamodb, client
			}
		}),
	}
}

func (s service) backend(period time.Duration) sourcetest.Backend {
	b := sourcetest.Backend{
		Features: sourcetest.Features{
			Sharing: sourcetest.Balanced, Retention: s.trim != nil, Resharding: true, Keys: true, Keyed: true, Times: true, Empty: true,
			Binary: true, Largest: 1<<20 - 256, Remote: true, Lapse: period,
		},
		NotOurs: []goleak.Option{ // idle connections, at both ends
			goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
			goleak.IgnoreAnyFunction("net/http.(*conn).serve"), goleak.IgnoreAnyFunction("net/http.(*connReader).backgroundRead"),
		},
		New: func(t *testing.T, partitions int) sourcetest.Log { return newLog(t, s, period, partitions) },
	}
	if s.features != nil {
		s.features(&b.Features)
	}
	return b
}

// log is one stream, with a table of its own.
type log struct {
	service
	name   string
	period time.Duration
	client *kinesis.Client
	tables *dynamodb.Client
	shards []types.Shard // by number
}

func newLog(t *testing.T, s service, period time.Duration, shards int) *log {
	t.Helper()
	transport := &awsjson.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	cfg := must(config.LoadDefaultConfig(t.Context(), s.options(&http.Client{Transport: transport})...))
	l := &log{service: s, name: strings.Map(nameRune, t.Name()), period: period, tables: dynamodb.NewFromConfig(cfg)}
	l.client = kinesis.NewFromConfig(cfg, func(o *kinesis.Options) { o.Retryer = aws.NopRetryer{} }) // nothing is put twice
	if len(l.name) > 100 {
		l.name = l.name[len(l.name)-100:]
	}
	change(t, func() error {
		_, err := l.client.CreateStream(t.Context(), &kinesis.CreateStreamInput{StreamName: &l.name, ShardCount: aws.Int32(int32(shards))})
		return err
	})
	l.learn(t, shards)
	t.Cleanup(func() {
		ctx := context.Background()
		l.client.DeleteStream(ctx, &kinesis.DeleteStreamInput{StreamName: &l.name})
		l.tables.DeleteTable(ctx, &dynamodb.DeleteTableInput{TableName: &l.name})
	})
	return l
}

// change makes a call that changes streams. Only a few changes of one account may be under way at a time.
func change(t *testing.T, call func() error) {
	t.Helper()
	eventually(t, "the service takes the change", func() bool {
		err := call()
		if err != nil && awserr.Code(err) != "LimitExceededException" {
			t.Fatal(err)
		}
		return err == nil
	})
}

func nameRune(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
		return r
	}
	return '_'
}

// learn waits until the stream is active with so many shards, of those that ever were.
func (l *log) learn(t *testing.T, count int) {
	t.Helper()
	eventually(t, "the stream is active", func() bool {
		out := must(l.client.DescribeStreamSummary(t.Context(), &kinesis.DescribeStreamSummaryInput{StreamName: &l.name}))
		if out.StreamDescriptionSummary.StreamStatus != types.StreamStatusActive {
			return false
		}
		shards := must((&run{Source: &Source{cfg: Config{Stream: l.name}}, connection: &connection{kinesis: l.client}}).listShards(t.Context()))
		if len(shards) < count {
			return false
		}
		for _, s := range shards {
			if !slices.ContainsFunc(l.shards, func(k types.Shard) bool { return *k.ShardId == *s.ShardId }) {
				l.shards = append(l.shards, s)
			}
		}
		return true
	})
}

func (l *log) Partition(i int) string { return *l.shards[i].ShardId }

func (l *log) Append(t *testing.T, i int, ms ...sourcetest.Message) {
	t.Helper()
	for len(ms) > 0 {
		n, size := 0, 0
		for n < len(ms) && n < 500 && size < 4<<20 {
			size += len(ms[n].Value) + len(ms[n].Key)
			n++
		}
		l.put(t, i, ms[:n])
		ms = ms[n:]
	}
}

func (l *log) put(t *testing.T, i int, ms []sourcetest.Message) {
	t.Helper()
	in := &kinesis.PutRecordsInput{StreamName: &l.name}
	for _, m := range ms {
		in.Records = append(in.Records, types.PutRecordsRequestEntry{
			Data: m.Value, PartitionKey: aws.String(string(m.Key)), ExplicitHashKey: l.shards[i].HashKeyRange.StartingHashKey,
		})
	}
	out, err := l.client.PutRecords(t.Context(), in)
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	for _, r := range out.Records {
		if r.ErrorCode != nil || *r.ShardId != l.Partition(i) {
			t.Fatalf("append to %s: %s %s in %s", l.Partition(i), aws.ToString(r.ErrorCode), aws.ToString(r.ErrorMessage), aws.ToString(r.ShardId))
		}
	}
}

// age lets a day pass for what the table knows: only then can records be gone that came later.
func (l *log) age(t *testing.T) {
	t.Helper()
	rows := &table{l.tables, l.name}
	found, err := rows.List(t.Context())
	if err != nil && awserr.Code(err) != "ResourceNotFoundException" {
		t.Fatal(err)
	}
	for _, r := range found {
		if len(r.Mark) == 0 {
			continue
		}
		var m mark
		if err := json.Unmarshal(r.Mark, &m); err != nil {
			t.Fatal(err)
		}
		m.Clear -= (25 * time.Hour).Milliseconds()
		r.Mark = m.encode()
		must(rows.Update(t.Context(), r))
	}
}

func (l *log) Trim(t *testing.T, i, n int) { l.trim(t, l, i, n) }

func (l *log) Split(t *testing.T, i int) {
	from, _ := new(big.Int).SetString(*l.shards[i].HashKeyRange.StartingHashKey, 10)
	to, _ := new(big.Int).SetString(*l.shards[i].HashKeyRange.EndingHashKey, 10)
	middle := from.Add(from, to)
	middle.Rsh(middle, 1)
	change(t, func() error {
		_, err := l.client.SplitShard(t.Context(), &kinesis.SplitShardInput{StreamName: &l.name, ShardToSplit: l.shards[i].ShardId, NewStartingHashKey: aws.String(middle.String())})
		return err
	})
	l.learn(t, len(l.shards)+2)
}

func (l *log) Merge(t *testing.T, i, j int) {
	change(t, func() error {
		_, err := l.client.MergeShards(t.Context(), &kinesis.MergeShardsInput{StreamName: &l.name, ShardToMerge: l.shards[i].ShardId, AdjacentShardToMerge: l.shards[j].ShardId})
		return err
	})
	l.learn(t, len(l.shards)+1)
}

func (l *log) Open(t *testing.T) *sourcetest.Worker {
	t.Helper()
	o := &outside{}
	s, table := l.source(t, o, func(*Config) {})
	return &sourcetest.Worker{Source: s, Sever: o.sever, Freeze: o.freeze, Thaw: o.thaw, LoseReply: table.Lose}
}

// Far implements sourcetest.Remote.
func (l *log) Far(t *testing.T) (*sourcetest.Worker, []*network.Proxy) {
	t.Helper()
	far := *l
	var networks []*network.Proxy
	for _, url := range []*string{&far.kinesis, &far.dynamodb} {
		proxy := network.New(t, strings.TrimPrefix(*url, "http://"))
		*url = "http://" + proxy.Addr
		networks = append(networks, proxy)
	}
	s, _ := far.source(t, &outside{}, func(*Config) {})
	return &sourcetest.Worker{Source: s}, networks
}

// source makes a worker with a change to its configuration.
func (l *log) source(t *testing.T, o *outside, change func(*Config)) (*Source, *sourcetest.Lossy) {
	t.Helper()
	t.Cleanup(o.CloseIdleConnections)
	cfg := Config{Stream: l.name, Table: l.name, Lease: l.period, Poll: 100 * time.Millisecond}
	change(&cfg)
	s, err := New(cfg, Options{Pipeline: "test", AWS: l.options(&http.Client{Transport: o})})
	if err != nil {
		t.Fatal(err)
	}
	s.listing = 200 * time.Millisecond
	lossy := &sourcetest.Lossy{}
	s.through = func(inner lease.Table) lease.Table {
		lossy.Table = inner
		return lossy
	}
	return s, lossy
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for late := time.Now().Add(30 * time.Second); time.Now().Before(late); <-tick.C {
		if cond() {
			return
		}
	}
	t.Fatalf("waited too long until %s", what)
}
