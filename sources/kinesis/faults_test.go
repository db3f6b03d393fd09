package kinesis

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	dynamotypes "github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	kinesisapi "github.com/aws/aws-sdk-go-v2/service/kinesis"
	"github.com/aws/aws-sdk-go-v2/service/kinesis/types"
	"github.com/aws/smithy-go/middleware"
	"github.com/vmware/vmware-go-kcl-v2/clientlibrary/partition"

	"github.com/millrace-io/millrace/sources/awserr"
	"github.com/millrace-io/millrace/sources/lease"
	"github.com/millrace-io/millrace/sources/sourcetest"
	"github.com/millrace-io/millrace/stream"
	tables "github.com/millrace-io/millrace/testenv/dynamodb"
	"github.com/millrace-io/millrace/testenv/kinesis"
)

// period of the leases of these tests.
const period = 3 * time.Second

// scene is a stream on servers of its own.
type scene struct {
	*log
	server      *kinesis.Server
	tableServer *tables.Server
}

func newScene(t *testing.T, shards int) *scene {
	t.Helper()
	s, server, tableServer := inProcess(t)
	return &scene{newLog(t, s, period, shards), server, tableServer}
}

// play runs a worker.
func (s *scene) play(t *testing.T, hold chan struct{}, change func(*Config)) *sourcetest.Play {
	t.Helper()
	source, _ := s.source(t, &outside{}, change)
	return sourcetest.NewPlay(t, source, hold)
}

func usual(*Config) {}

// put appends texts to a shard, each as one record.
func (s *scene) put(i int, values ...string) {
	for _, v := range values {
		s.server.Put(s.name, s.Partition(i), kinesis.Record{Key: "k", Data: []byte(v)})
	}
}

func numbers(from, to int) (vs []string) {
	for i := from; i < to; i++ {
		vs = append(vs, fmt.Sprint(i))
	}
	return vs
}

func fatal(t *testing.T, err error, words ...string) {
	t.Helper()
	var f *stream.FatalError
	if !errors.As(err, &f) {
		t.Fatalf("error %v; want a FatalError", err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func TestErrorsOfReadingAreRepeated(t *testing.T) {
	t.Parallel()
	for _, fault := range []kinesis.Fault{
		{Error: "ProvisionedThroughputExceededException"},
		{Error: "ExpiredIteratorException"},
		{Error: "InternalFailure"},
		{Error: "LimitExceededException"},
		{Cut: true, Done: true},
	} {
		t.Run(fmt.Sprint(fault.Error, fault.Cut), func(t *testing.T) {
			s := newScene(t, 1)
			s.put(0, numbers(0, 10)...)
			s.server.Intercept(func(c kinesis.Call) kinesis.Fault {
				if c.Operation == "GetRecords" && c.Before%3 != 2 {
					return fault
				}
				return kinesis.Fault{}
			})
			p := s.play(t, nil, func(c *Config) { c.Fetch.MaxRecords = 6 })
			if got := p.Has(s.Partition(0), 10).Values(); !slices.Equal(got, numbers(0, 10)) {
				t.Errorf("delivered %q", got)
			}
			p.Stop()
		})
	}
}

func TestIteratorsThatExpireUnderABlockedConsumerAreMadeAnew(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1)
	s.put(0, numbers(0, 5)...)
	p := s.play(t, nil, usual)
	p.Has(s.Partition(0), 5)
	s.server.Expire()
	s.put(0, numbers(5, 10)...)
	if got := p.Has(s.Partition(0), 10).Values(); !slices.Equal(got, numbers(0, 10)) {
		t.Errorf("delivered %q", got)
	}
	p.Stop()
}

// Amazon counts 5 calls and 2 MB a second and shard, for all who read.
func TestReadingStaysWithinAShardsRates(t *testing.T) {
	t.Parallel()
	inside, server, tableServer := inProcessWith(t, kinesis.Options{Limits: true})
	s := &scene{newLog(t, inside, period, 1), server, tableServer}
	for range 50 {
		s.server.Put(s.name, s.Partition(0), kinesis.Record{Key: "k", Data: make([]byte, 100_000)})
	}
	o := &outside{}
	source, _ := s.source(t, o, func(c *Config) { c.Poll = 250 * time.Millisecond })
	p := sourcetest.NewPlay(t, source, nil)
	p.Has(s.Partition(0), 50)
	before := s.server.Seen("GetRecords")
	eventually(t, "it polls", func() bool { return s.server.Seen("GetRecords") > before+8 })
	p.Stop()
	o.set(func() {
		if refused := o.refused - 1; refused > 2 { // the table is created after it is looked up
			t.Errorf("%d of %d calls were refused", refused, s.server.Seen("GetRecords"))
		}
	})
}

// three is an aggregate of three records.
func three() []byte {
	return kinesis.Aggregate(
		kinesis.Record{Key: "a", Data: []byte("1")},
		kinesis.Record{Key: "b", Data: []byte("2"), Tags: []kinesis.Tag{{Key: "t", Value: "v"}}},
		kinesis.Record{Key: "a", Data: nil})
}

func TestRecordsOfAnAggregateHaveKeysAndPositionsOfTheirOwn(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1)
	s.put(0, "before", string(three()), "after")
	p := s.play(t, nil, usual)
	rs := p.Has(s.Partition(0), 5).Records()
	var got []string
	for i, r := range rs {
		got = append(got, fmt.Sprintf("%s=%s%q", r.Key, r.Value, r.Headers))
		if i > 0 && r.Pos.Compare(rs[i-1].Pos) <= 0 {
			t.Errorf("position %v follows %v", r.Pos, rs[i-1].Pos)
		}
	}
	want := []string{`k=before[]`, `a=1[]`, `b=2[{"t" "v"}]`, `a=[]`, `k=after[]`}
	if !slices.Equal(got, want) {
		t.Errorf("delivered %q; want %q", got, want)
	}
	p.Stop()
}

func TestCheckpointInsideAnAggregateGoesOnInside(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 5; n++ {
		s := newScene(t, 1)
		s.put(0, "before", string(three()), "after")
		hold := make(chan struct{})
		close(hold)
		p := s.play(t, hold, func(c *Config) { c.Instance = "a" })
		tape := p.Has(s.Partition(0), 5)
		all := tape.Values()
		if err := tape.CommitFirst(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		p.Cancel()
		p.Result()
		s.put(0, "later")
		p = s.play(t, nil, func(c *Config) { c.Instance = "a" })
		want := append(slices.Clone(all[n:]), "later")
		if got := p.Has(s.Partition(0), len(want)).Values(); !slices.Equal(got, want) {
			t.Errorf("after a commit of %d: delivered %q; want %q", n, got, want)
		}
		p.Stop()
	}
}

func TestBrokenAggregateIsOneDeadLetterAndItsNeighboursLive(t *testing.T) {
	t.Parallel()
	sum := three()
	sum[len(sum)-1] ^= 1
	whole := three()
	for name, broken := range map[string][]byte{"checksum": sum, "cut off": whole[:10], "nothing but magic": whole[:4]} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, 1)
			s.put(0, "before", string(broken), "after")
			p := s.play(t, nil, usual)
			rs := p.Has(s.Partition(0), 3).Records()
			if rs[0].Err != nil || rs[2].Err != nil || string(rs[2].Value) != "after" {
				t.Errorf("the neighbours are %q %v and %q %v", rs[0].Value, rs[0].Err, rs[2].Value, rs[2].Err)
			}
			if rs[1].Err == nil || string(rs[1].Value) != string(broken) || string(rs[1].Key) != "k" {
				t.Errorf("the broken one is %q with error %v; want its bytes and an error", rs[1].Value, rs[1].Err)
			}
			p.Stop()
		})
	}
}

func TestSequenceNumbersKeepTheirOrderAndValue(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"0", "7", "18446744073709551615", "18446744073709551616", "49590338271490256608559692538361571095921575989136588898",
		strings.Repeat("9", 57), "6277101735386680763835789423207666416102355444464034512895",
	} {
		n, err := parseSequence(text)
		if err != nil || sequenceText(n) != text {
			t.Errorf("%s is read as %s, %v", text, sequenceText(n), err)
		}
		pos := place{sequence: n, sub: 2, more: 5}.position()
		if got := placeOf(pos); got.sequence != n || got.sub != 2 || got.more != 5 || readFrom(pos) != n {
			t.Errorf("%s: the position says %+v", text, got)
		}
	}
	for _, text := range []string{"", "-1", "+1", "1e5", "6277101735386680763835789423207666416102355444464034512896", strings.Repeat("9", 60)} {
		if n, err := parseSequence(text); err == nil {
			t.Errorf("%q is read as %s", text, sequenceText(n))
		}
	}
}

// The engine says that nothing was read yet by the position before the first record.
func TestPositionBeforeARecordBeginsWithIt(t *testing.T) {
	t.Parallel()
	n, _ := parseSequence("49590338271490256608559692538361571095921575989136588800")
	before := place{sequence: n}.position()
	for i := len(before) - 1; ; i-- { // subtract one
		before[i]--
		if before[i] != 0xff {
			break
		}
	}
	if got := readFrom(before); got != n {
		t.Errorf("reading begins at %s; want %s", sequenceText(got), sequenceText(n))
	}
}

func FuzzAggregate(f *testing.F) {
	f.Add(three()[4:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		rs, err := parseAggregate(append(slices.Clone(magic), body...))
		if err != nil && rs != nil {
			t.Error("records and an error")
		}
	})
}

func TestOddKeysAndSizesArrive(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1)
	long := strings.Repeat("ü", 256)
	s.server.Put(s.name, s.Partition(0), kinesis.Record{Key: long}, kinesis.Record{Key: "k", Data: make([]byte, 1<<20)})
	p := s.play(t, nil, usual)
	rs := p.Has(s.Partition(0), 2).Records()
	if string(rs[0].Key) != long || len(rs[0].Value) != 0 || len(rs[1].Value) != 1<<20 {
		t.Errorf("key of %d bytes, values of %d and %d bytes", len(rs[0].Key), len(rs[0].Value), len(rs[1].Value))
	}
	p.Stop()
}

func TestStartIsStoredAtFirstSight(t *testing.T) {
	t.Parallel()
	for _, start := range []string{"latest", "a time", "trim_horizon"} {
		t.Run(start, func(t *testing.T) {
			s := newScene(t, 2)
			s.put(0, "old")
			s.server.SetClock(time.Minute)
			change := func(c *Config) { c.Start, c.Instance = start, "a" }
			if start == "a time" {
				start = s.server.Now().Add(-time.Second).UTC().Format(time.RFC3339)
			}
			hold := make(chan struct{})
			p := s.play(t, hold, change)
			p.Wait(s.Partition(0), "the shard is assigned", func([]stream.Record) bool { return true })
			p.Wait(s.Partition(1), "the shard is assigned", func([]stream.Record) bool { return true })
			p.Cancel()
			p.Result() // committed nothing
			s.server.SetClock(2 * time.Minute)
			s.put(0, "new")
			s.Split(t, 1)
			s.put(2, "child") // of a shard that was never read
			s.server.SetClock(3 * time.Minute)
			p = s.play(t, nil, change)
			want := []string{"new"}
			if start == "trim_horizon" {
				want = []string{"old", "new"}
			}
			if got := p.Has(s.Partition(0), len(want)).Values(); !slices.Equal(got, want) {
				t.Errorf("delivered %q; want %q", got, want)
			}
			p.Has(s.Partition(2), 1)
			p.Stop()
		})
	}
}

func TestQuietShardIsNotTakenForALoss(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1)
	s.put(0, numbers(0, 5)...)
	p := s.play(t, nil, usual)
	p.Has(s.Partition(0), 5)
	eventually(t, "the mark is stored", func() bool { return len(s.row(t, 0).Mark) > 0 })
	p.Stop()
	s.server.Trim(s.name, s.Partition(0), 5)
	s.put(0, "new")
	p = s.play(t, nil, usual)
	if got := p.Has(s.Partition(0), 1).Values(); !slices.Equal(got, []string{"new"}) {
		t.Errorf("delivered %q", got)
	}
	p.Stop()
}

// A worker read everything and knew that nothing more came, but committed less.
func TestMarkOfAnotherRecordSaysNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1)
	s.put(0, numbers(0, 5)...)
	hold := make(chan struct{})
	close(hold)
	p := s.play(t, hold, func(c *Config) { c.Instance = "a" })
	tape := p.Has(s.Partition(0), 5)
	eventually(t, "the mark is stored", func() bool { return len(s.row(t, 0).Mark) > 0 })
	if err := tape.CommitFirst(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	p.Cancel()
	p.Result()
	s.server.Trim(s.name, s.Partition(0), 4)
	err := s.play(t, nil, func(c *Config) { c.Instance = "a" }).Result()
	if !errors.Is(err, stream.ErrRetention) {
		t.Errorf("Run returned %v; want ErrRetention: the fourth record is gone", err)
	}
}

func TestResetGoesOnAfterALoss(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1)
	s.put(0, numbers(0, 5)...)
	p := s.play(t, nil, usual)
	p.Has(s.Partition(0), 5)
	p.Stop()
	s.put(0, numbers(5, 10)...)
	s.Trim(t, 0, 7)
	fatal(t, s.play(t, nil, usual).Result(), s.Partition(0), "after sequence number", "reset")
	p = s.play(t, nil, func(c *Config) { c.Reset = trimHorizon })
	if got := p.Has(s.Partition(0), 3).Values(); !slices.Equal(got, numbers(7, 10)) {
		t.Errorf("delivered %q", got)
	}
	p.Stop()
}

// A worker that lags by nearly the whole retention may be overtaken by it between two calls.
func TestLossInTheRunIsNoticed(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1)
	s.put(0, numbers(0, 100)...)
	s.server.SetClock(24*time.Hour - time.Minute)
	hold := make(chan struct{})
	p := s.play(t, hold, func(c *Config) { c.Fetch.MaxRecords = 10 })
	p.Has(s.Partition(0), 10)
	s.server.Trim(s.name, s.Partition(0), 50)
	close(hold)
	if err := p.Result(); !errors.Is(err, stream.ErrRetention) {
		t.Errorf("Run returned %v; want ErrRetention", err)
	}
}

func TestShardThatIsGoneBeforeItsEndIsALoss(t *testing.T) {
	t.Parallel()
	l := &shardList{missed: map[string]int{}, warned: map[string]bool{}}
	shard := func(name, parent string) types.Shard {
		s := types.Shard{ShardId: &name}
		if parent != "" {
			s.ParentShardId = &parent
		}
		return s
	}
	rows := []lease.Row{{Partition: "a", Committed: true, Checkpoint: stream.Checkpoint{Pos: place{sequence: [24]byte{23: 7}}.position()}}}
	listed := []types.Shard{shard("b", "a")}
	var err error
	for n := 1; n <= 3; n++ {
		if err != nil {
			t.Fatalf("listing %d: %v", n, err)
		}
		err = l.set(listed, rows, true, nil)
		if ready := l.ready(rows); len(ready) != 0 {
			t.Errorf("listing %d: %q is ready before its parent has ended", n, ready)
		}
	}
	if !errors.Is(err, stream.ErrRetention) || !strings.Contains(err.Error(), "shard a, after sequence number 7") {
		t.Errorf("%v; want ErrRetention that names the shard and the place", err)
	}
	l = &shardList{missed: map[string]int{}, warned: map[string]bool{}}
	warned := 0
	for range 5 {
		if err := l.set(listed, rows, false, func(string) { warned++ }); err != nil {
			t.Fatal(err)
		}
	}
	if ready := l.ready(rows); warned != 1 || len(ready) != 1 {
		t.Errorf("with reset: %d warnings, %q ready", warned, ready)
	}
	if ready := l.ready(nil); len(ready) != 1 {
		t.Errorf("a child of a parent that nobody knows is not ready: %q", ready)
	}
}

// row is that of a shard.
func (s *scene) row(t *testing.T, i int) lease.Row {
	t.Helper()
	r, err := (&table{s.tables, s.name}).Get(t.Context(), s.Partition(i))
	if err != nil && !errors.Is(err, lease.ErrNoRow) && awserr.Code(err) != "ResourceNotFoundException" {
		t.Fatal(err)
	}
	return r
}

// What a worker does not know it does not write over: a paused one may have missed a new owner, a claim, or the row's end.
func TestWriteOverWhatIsNotKnownIsRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1)
	writesOnlyOverWhatIsKnown(t, s.log)
}

func writesOnlyOverWhatIsKnown(t *testing.T, l *log) {
	t.Helper()
	rows := &table{l.tables, l.name}
	if err := rows.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	mine := lease.Row{
		Partition: "p", Owner: "me", Run: "r", Epoch: 1, Renewals: 1, Claim: "you", Mark: []byte(`{"m":1}`), Committed: true,
		Checkpoint: stream.Checkpoint{Pos: place{sequence: [24]byte{1, 23: 9}, sub: 3, more: 7}.position(), Note: []byte{0, 255}},
	}
	mine.Revision = must(rows.Create(t.Context(), mine))
	if _, err := rows.Create(t.Context(), mine); !errors.Is(err, lease.ErrConflict) {
		t.Errorf("a row that is there is made again: %v", err)
	}
	theirs := mine
	theirs.Owner, theirs.Epoch, theirs.Ended = "you", 2, true
	theirs.Revision = must(rows.Update(t.Context(), theirs))
	if _, err := rows.Update(t.Context(), mine); !errors.Is(err, lease.ErrConflict) {
		t.Errorf("an old row is written over a new one: %v", err)
	}
	if got := must(rows.Get(t.Context(), "p")); !reflect.DeepEqual(got, theirs) {
		t.Errorf("the row is %+v; want %+v", got, theirs)
	}
	if got := must(rows.List(t.Context())); len(got) != 1 || !reflect.DeepEqual(got[0], theirs) {
		t.Errorf("listed %+v", got)
	}
}

func TestWhatCannotWorkEndsWithAWordOnWhatToDo(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1)
	s.server.CreateStream("other", 1)
	fatal(t, s.play(t, nil, func(c *Config) { c.Stream = "nothing" }).Result(), "stream nothing", "does not exist", "AWS_REGION")

	p := s.play(t, nil, usual)
	p.Wait(s.Partition(0), "the shard is assigned", func([]stream.Record) bool { return true })
	fatal(t, s.play(t, nil, func(c *Config) { c.Stream = "other" }).Result(), "belongs to stream", "another pipeline has the same name")
	p.Stop()

	_, err := s.tables.CreateTable(t.Context(), &dynamodb.CreateTableInput{
		TableName: aws.String("foreign"), BillingMode: dynamotypes.BillingModePayPerRequest,
		AttributeDefinitions: []dynamotypes.AttributeDefinition{{AttributeName: aws.String("ShardID"), AttributeType: dynamotypes.ScalarAttributeTypeS}},
		KeySchema:            []dynamotypes.KeySchemaElement{{AttributeName: aws.String("ShardID"), KeyType: dynamotypes.KeyTypeHash}},
	})
	if err != nil {
		t.Fatal(err)
	}
	fatal(t, s.play(t, nil, func(c *Config) { c.Table = "foreign" }).Result(), "table foreign has another key", "set table")

	s.server.DeleteStream(s.name)
	s.server.CreateStream(s.name, 1)
	fatal(t, s.play(t, nil, usual).Result(), "deleted and created again", "delete table")
}

func TestDeniedCallNamesActionAndResource(t *testing.T) {
	t.Parallel()
	for _, operation := range []string{"DescribeStreamSummary", "ListShards", "GetShardIterator", "GetRecords"} {
		t.Run(operation, func(t *testing.T) {
			s := newScene(t, 1)
			s.server.Intercept(func(c kinesis.Call) kinesis.Fault {
				if c.Operation == operation {
					return kinesis.Fault{Error: "AccessDeniedException", Message: "User is not authorized"}
				}
				return kinesis.Fault{}
			})
			fatal(t, s.play(t, nil, usual).Result(), "AccessDeniedException", "allow kinesis:"+operation, "stream "+s.name)
		})
	}
}

func TestDeniedTableNamesActionAndResource(t *testing.T) {
	t.Parallel()
	for _, operation := range []string{"DescribeTable", "CreateTable", "PutItem", "Scan"} {
		t.Run(operation, func(t *testing.T) {
			s := newScene(t, 1)
			s.tableServer.Intercept(func(c tables.Call) tables.Fault {
				if c.Operation == operation {
					return tables.Fault{Error: "AccessDeniedException", Message: "User is not authorized"}
				}
				return tables.Fault{}
			})
			fatal(t, s.play(t, nil, usual).Result(), "AccessDeniedException", "allow dynamodb:"+operation, "table "+s.name)
		})
	}
}

// Nothing that is decided compares a wall clock with another one: a worker whose clock is an hour off, in either direction, is as
// good as any. What jumps here is everybody else's.
func TestClocksThatJumpDoNoHarm(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1)
	p := s.play(t, nil, usual)
	for i, ahead := range []time.Duration{0, time.Hour, -time.Hour, 0} {
		s.server.SetClock(ahead)
		s.tableServer.SetClock(ahead)
		s.put(0, numbers(5*i, 5*i+5)...)
		p.Has(s.Partition(0), 5*i+5)
	}
	tape := p.Has(s.Partition(0), 20)
	if got := tape.Values(); !slices.Equal(got, numbers(0, 20)) || tape.Epoch() != 1 {
		t.Errorf("epoch %d delivered %q; want the first owner to have all", tape.Epoch(), got)
	}
	p.Stop()
}

func TestStreamThatIsDeletedInTheRunEndsIt(t *testing.T) {
	t.Parallel()
	s := newScene(t, 1)
	p := s.play(t, nil, usual)
	p.Wait(s.Partition(0), "the shard is assigned", func([]stream.Record) bool { return true })
	s.server.DeleteStream(s.name)
	fatal(t, p.Result(), "does not exist or was deleted")
}

// What nobody foresaw must not kill the process, which other partitions share.
func TestAnswersThatAreLateAreAskedForInHalves(t *testing.T) {
	t.Parallel()
	rd := &reader{
		tenure: &tenure{Lease: &lease.Lease{}, run: &run{Source: &Source{cfg: Config{Fetch: Fetch{MaxRecords: 10_000, MaxBytes: 32 << 20}}}}},
		ctx:    t.Context(), started: true, iterator: "i", average: 100,
	}
	var asked []int32
	get := func(_ context.Context, in *kinesisapi.GetRecordsInput) (out *kinesisapi.GetRecordsOutput, m middleware.Metadata, err error) {
		asked = append(asked, *in.Limit)
		if *in.Limit > 100 {
			return nil, m, context.DeadlineExceeded
		}
		return &kinesisapi.GetRecordsOutput{}, m, nil
	}
	for range 20 {
		if rd.call(t.Context(), get) == nil {
			break
		}
	}
	if n := len(asked); n != 8 || asked[0] != 10_000 || asked[n-1] > 100 || asked[n-1] < 50 {
		t.Errorf("records are asked for %d times, %v; want half as many each time", n, asked)
	}
}

func TestPanicWhileReadingIsAnError(t *testing.T) {
	t.Parallel()
	rd := &reader{tenure: &tenure{run: &run{Source: &Source{cfg: Config{Fetch: Fetch{MaxRecords: 1}}}}}, ctx: t.Context(), started: true, iterator: "i", finished: make(chan struct{})}
	_, err := rd.guarded(t.Context(), func(context.Context, *kinesisapi.GetRecordsInput) (*kinesisapi.GetRecordsOutput, middleware.Metadata, error) {
		panic("odd")
	})
	fatal(t, err, "odd")
	<-rd.finished
}

// The library must not stop reading by itself, and renews its lease after 25 days.
func TestReaderThatTheLibraryGivesUpFailsTheRun(t *testing.T) {
	t.Parallel()
	l := &library{waiting: map[string]*reader{}, taken: map[string]*reader{}}
	rd := &reader{tenure: &tenure{Lease: &lease.Lease{}, run: &run{Source: &Source{}}}, ctx: t.Context(), finished: make(chan struct{})}
	l.add(rd)
	shard := &partition.ShardStatus{ID: rd.token, Mux: &sync.RWMutex{}}
	for range 2 { // taken, and renewed
		if err := (agreeable{l}).GetLease(shard, "w"); err != nil {
			t.Fatal(err)
		}
	}
	if err := (agreeable{l}).RemoveLeaseOwner(rd.token); err != nil {
		t.Fatal(err)
	}
	<-rd.finished
	fatal(t, rd.err, "stopped reading")
	if err := (agreeable{l}).GetLease(shard, "w"); err == nil {
		t.Error("a reader that is over is taken again")
	}
}

func TestShardsWithoutAnOwnerAreCounted(t *testing.T) {
	t.Parallel()
	s := newScene(t, 3)
	source, _ := s.source(t, &outside{}, usual)
	if n := source.Unowned(); n != -1 {
		t.Errorf("%d before the first look; want -1", n)
	}
	p := sourcetest.NewPlay(t, source, nil)
	for i := range 3 {
		p.Wait(s.Partition(i), "the shard is assigned", func([]stream.Record) bool { return true })
	}
	eventually(t, "all are owned", func() bool { return source.Unowned() == 0 })
	p.Stop()
	l := &shardList{shards: []types.Shard{{ShardId: aws.String("a")}, {ShardId: aws.String("b")}, {ShardId: aws.String("c"), ParentShardId: aws.String("b")}}}
	if n := l.unowned([]lease.Row{{Partition: "a", Owner: "w"}}); n != 1 {
		t.Errorf("%d; want b alone: a has an owner, c waits for b", n)
	}
}
