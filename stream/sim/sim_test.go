package sim

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/millrace-io/millrace/stream"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testPipeline has every kind of part: two staged sinks, one of them for a part of the events, an upsert sink that refuses
// some rows, a processor with state, and input of which some is dead, some dropped, and some several events.
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
		},
		Input: func(seed uint64, n int) stream.Record {
			word := []string{"click", "click", "click", "bad", "drop", "fail", "click click", "click fail"}[mix(seed^uint64(n))%8]
			return stream.Record{Key: strconv.AppendUint(nil, mix(seed+uint64(n))%17, 10), Value: fmt.Appendf(nil, "%s", word)}
		},
	}
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
	runs := 300
	if testing.Short() {
		runs = 50
	}
	r := &Runner{Pipeline: testPipeline(t)}
	var sum Counts
	for seed := range uint64(runs) {
		result := r.Run(NewSchedule(r.Pipeline, seed))
		for _, v := range result.Violations {
			t.Errorf("seed %d: %s", seed, v)
		}
		sum.Add(result.Counts)
	}
	t.Logf("%+v", sum)
}
