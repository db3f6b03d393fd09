package sim

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/millrace-io/millrace/stream"
	"go.uber.org/goleak"
)

// Line broken -> test that went red, in stream/commit.go unless another file is named:
//
//	publish before decide                          -> TestScheduleKeepsThePromise (a file is visible that no commit covers)
//	flush left out                                 -> TestScheduleKeepsThePromise (committed before the upsert sink has it)
//	republish left out of recover                  -> TestScheduleKeepsThePromise (a later record of a key is there, an earlier one not)
//	next.Receipts = nil                            -> TestScheduleKeepsThePromise (the same)
//	the state of the commit before is stored       -> TestScheduleKeepsThePromise (a row is not what its record says)
//	next.Base stays what it was                    -> TestScheduleKeepsThePromise (the same)
//	next.After is that of the range that ended     -> TestScheduleKeepsThePromise (verify)
//	withdraw left out of republish                 -> TestScheduleKeepsThePromise (rows twice)
//	overflow objects of one position share a name  -> TestScheduleKeepsThePromise (one is written over)
//	an overflow object is deleted before decide    -> TestScheduleKeepsThePromise (no progress)
//	flush buries every refusal                     -> TestScheduleKeepsThePromise (dead letters twice)
//	flush buries one refusal of a record           -> TestScheduleKeepsThePromise (a dead letter of the second sink is missing)
//	worker.go  a drain that does not commit        -> TestScheduleKeepsThePromise (a child's rows before its parent's)
//	worker.go  judge keeps siblings of a failed event, where is ignored -> TestScheduleKeepsThePromise (rows that nobody asked for)
//	worker.go  back-off from math/rand/v2          -> TestSeedReplaysExactly
//	worker.go  a due commit is one case of select  -> TestSeedReplaysExactly
//	worker.go  the end is one case of select       -> seed 14 of docs/examples/clicks.yaml had two traces, one in eight runs
//	world.go   reads have the worker's nanosecond  -> TestSeedReplaysExactly, over 300 seeds

func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(1) // with more, Go 1.26's race detector crashes on timers that fire at once in a bubble
	goleak.VerifyTestMain(m)
}

// testPipeline has every kind of part: two staged sinks, one of them for a part of the events, two upsert sinks that refuse
// some rows each, a processor with state, and input of which some is dead, some dropped, and some several events.
func testPipeline(t *testing.T) *Pipeline {
	t.Helper()
	schema, err := stream.NewSchema()
	if err != nil {
		t.Fatal(err)
	}
	states := &stateStore{counts: map[string]int64{}}
	return &Pipeline{
		Name: "test", Schema: schema, Decoder: func() stream.Decoder { return wordDecoder{} },
		Processors: []stream.ProcessorConfig{
			{Name: "process.1.judge", New: func() stream.Processor { return judge{} }},
			{Name: "process.2.count", New: func() stream.Processor { return &counter{store: states} }},
		},
		Sinks: []Sink{
			{Name: "lake"},
			{Name: "even", Where: func(e *stream.Event) bool { return e.Record.Pos.Offset()%2 == 0 }},
			{Name: "search", Upsert: true},
			{Name: "profiles", Upsert: true},
		},
		Input: func(seed uint64, n int) stream.Record {
			word := []string{"click", "click", "click", "bad", "drop", "fail", "click click", "click fail"}[mix(seed^uint64(n))%8]
			return stream.Record{Key: strconv.AppendUint(nil, mix(seed+uint64(n))%17, 10), Value: fmt.Appendf(nil, "%s", word)}
		},
	}
}

// joinedPipeline has a third upsert sink, whose rows are in the commit's transaction. (It is a fence of its own, so the other pipeline
// does without.)
func joinedPipeline(t *testing.T) *Pipeline {
	p := testPipeline(t)
	p.Sinks = append(p.Sinks, Sink{Name: "onward", Upsert: true, Joined: true})
	return p
}

// wordDecoder makes an event of each word.
type wordDecoder struct{}

func (wordDecoder) Decode(r *stream.Record, b *stream.Batch) error {
	for word := range strings.FieldsSeq(string(r.Value)) {
		if word == "bad" {
			return errors.New("does not decode")
		}
		e := b.Append(r)
		e.Values[stream.EventType] = stream.StringValue(word)
		e.Values[stream.User] = stream.StringValue(string(r.Key))
		e.Values[stream.Time] = stream.TimestampValue(r.Time.UnixMicro())
	}
	return nil
}

type judge struct{}

func (judge) Process(_ context.Context, b *stream.Batch) error {
	for i := range b.Events {
		switch e := &b.Events[i]; e.Values[stream.EventType].Text() {
		case "fail":
			e.Fail("process.1.judge", errors.New("fails"))
		case "drop":
			e.Drop()
		}
	}
	return nil
}

// counter numbers the events of a partition: a state that is not of the position shows in the rows.
type counter struct {
	store *stateStore
	name  string
	count int64
}

type stateStore struct {
	mu     sync.Mutex
	counts map[string]int64
}

func (c *counter) Process(_ context.Context, b *stream.Batch) error {
	for i := range b.Events {
		if e := &b.Events[i]; e.Alive() {
			c.count++
			e.Values[stream.Quantity] = stream.IntValue(c.count)
		}
	}
	return nil
}

func (c *counter) Restore(_ context.Context, t stream.Tenure, reference []byte) error {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	c.name, c.count = t.Partition, c.store.counts[string(reference)]
	return nil
}

func (c *counter) Snapshot(context.Context) ([]byte, error) {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	reference := fmt.Sprintf("%s=%d", c.name, c.count)
	c.store.counts[reference] = c.count
	return []byte(reference), nil
}

func TestScheduleKeepsThePromise(t *testing.T) {
	runs := 150
	if testing.Short() {
		runs = 30
	}
	for _, p := range []*Pipeline{testPipeline(t), joinedPipeline(t)} {
		r := &Runner{Pipeline: p}
		var sum Counts
		for seed := range uint64(runs) {
			result := r.Run(NewSchedule(r.Pipeline, seed))
			for _, v := range result.Violations {
				t.Errorf("%d sinks, seed %d: %s", len(p.Sinks), seed, v)
			}
			sum.Add(result.Counts)
		}
		t.Logf("%d sinks: %+v", len(p.Sinks), sum)
	}
}

func TestSeedReplaysExactly(t *testing.T) {
	seeds, times := 20, 5
	if testing.Short() {
		seeds, times = 5, 3
	}
	r := &Runner{Pipeline: testPipeline(t)}
	var all sync.WaitGroup
	for seed := range uint64(seeds) {
		first := r.Run(NewSchedule(r.Pipeline, seed))
		for range times {
			all.Go(func() { // at once, in one process
				again := r.Run(NewSchedule(r.Pipeline, seed))
				if again.Sum != first.Sum || again.Counts != first.Counts {
					t.Errorf("seed %d: %x %+v; first it was %x %+v", seed, again.Sum, again.Counts, first.Sum, first.Counts)
				}
			})
		}
	}
	all.Wait()
}

// TestBrokenEngineIsCaught breaks one rule of the commit protocol each, and wants the schedules to notice.
func TestBrokenEngineIsCaught(t *testing.T) {
	const within = 1000 // schedules
	for name, broken := range map[string]breakage{
		"a fenced commit is taken":            {noFence: true},
		"staged files are visible":            {earlyPublish: true},
		"the checkpoint holds no receipts":    {loseReceipts: true},
		"children begin before parents ended": {earlyChildren: true},
		"an upsert sink is behind a commit":   {skipFlush: true},
		"a transaction outlives its owner":    {openForever: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Runner{Pipeline: testPipeline(t), breakage: broken}
			if broken.openForever {
				r.Pipeline = joinedPipeline(t)
			}
			for seed := range uint64(within) {
				if v := r.Run(NewSchedule(r.Pipeline, seed)).Violations; len(v) > 0 {
					t.Logf("seed %d: %s", seed, v[0])
					return
				}
			}
			t.Errorf("%d schedules did not notice", within)
		})
	}
}

func TestShrinkFindsASmallScheduleThatFails(t *testing.T) {
	r := &Runner{Pipeline: testPipeline(t), breakage: breakage{noFence: true}}
	s := NewSchedule(r.Pipeline, 17)
	before := r.Run(s)
	small := r.Shrink(s)
	after := r.Run(small)
	t.Logf("%s%v", small, after.Violations)
	if len(before.Violations) == 0 || len(after.Violations) == 0 {
		t.Fatalf("violations before: %v, after: %v; want both", before.Violations, after.Violations)
	}
	if len(small.Steps) > 6 || len(small.Only) > 6 || small.Records > 30 {
		t.Errorf("%d steps, %d calls that go wrong, %d records; want a handful:\n%s", len(small.Steps), len(small.Only), small.Records, small)
	}
}
