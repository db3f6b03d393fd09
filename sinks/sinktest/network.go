package sinktest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/network"
)

// NetworkBackend is an upsert sink that reaches its real server through a network, over one empty place.
type NetworkBackend struct {
	UpsertBackend // of which Fail, Poison and Delete are not used; New has Stats, as all sinks over package bulk

	Network *network.Proxy

	// Faults are those that come, in order. Default: all.
	Faults []network.Fault

	// Restart kills the server and starts it again, with the same data; nil where it keeps none.
	Restart func(t *testing.T)

	// Calm is another empty place of the same server, without faults. What it holds of the same records is what is expected.
	Calm UpsertBackend
}

// observed is a sink whose state is seen from outside, in /metrics and /readyz.
type observed interface {
	stream.Upsert
	Stats() stream.SinkStats
}

// Mutations seen red (line broken -> sink):
//
//	bulk, landed: a failed request counts as written -> opensearch
//	kafka, Send: the first message of a failed request counts as written -> kafka
//	nats, message: no id -> nats, twice in the stream
//	nats, reason: nobody was late -> nats, the sink's state
//	http, late: nothing is said -> http, the sink's state
//	kinesis, put: a call that failed counts as written -> kinesis

// RunNetwork writes while one fault of the network after the other comes, finds requests under way, and goes. In the end the
// server holds every record as a server does that saw no fault. A sink's requests should time out after some seconds.
func RunNetwork(t *testing.T, b NetworkBackend) {
	const seed = 20
	t.Logf("seed %d", seed)
	s := &upsertSuite{t: t, ctx: t.Context(), b: b.UpsertBackend}
	sink := s.b.New(t, stream.ByPosition).(observed)
	n := &networkSuite{upsertSuite: s, sink: sink, b: b, random: rand.New(rand.NewPCG(seed, 0))}
	for _, partition := range []string{"shard-1", "shard-2"} {
		n.writers = append(n.writers, s.writer(sink, partition, 1))
	}
	defer b.Network.Set(network.Healthy)
	n.write()
	n.flush()
	if b.Faults == nil {
		b.Faults = []network.Fault{network.Latency, network.Reset, network.HalfOpen, network.Bandwidth, network.Refused, network.Sliced, network.Forgotten}
	}
	for _, f := range b.Faults {
		began := time.Now()
		n.fault(f)
		t.Logf("%s: %s", f, time.Since(began).Round(10*time.Millisecond))
	}
	if b.Restart != nil {
		n.killed()
	}
	s.holds(stream.ByPosition, n.written...)
	n.sameAsCalm()
}

// Quick are the faults that take little time: those of a suite that runs whole elsewhere, against real servers.
func Quick() []network.Fault {
	return []network.Fault{network.Reset, network.HalfOpen, network.Refused}
}

// networkSuite is RunNetwork's state.
type networkSuite struct {
	*upsertSuite
	b       NetworkBackend
	sink    observed
	random  *rand.Rand
	writers []*upserts
	next    uint64         // offset
	written []stream.Place // so far
}

// write hands over some records to each of the writers.
func (n *networkSuite) write() {
	for _, w := range n.writers {
		some := 30 + n.random.IntN(30)
		w.write(n.next, some)
		n.written = append(n.written, places(w.partition, n.next, some)...)
		n.next += uint64(some)
	}
}

func (n *networkSuite) flush() {
	n.t.Helper()
	for _, w := range n.writers {
		w.flush()
	}
}

// until waits for something that is to be seen from outside.
func (n *networkSuite) until(what string, seen func(stream.SinkStats) bool) {
	n.t.Helper()
	for end := time.Now().Add(patience); !seen(n.sink.Stats()); time.Sleep(time.Millisecond) { // a real server: there is nothing to wait for
		if time.Now().After(end) {
			n.t.Fatalf("%s is never seen; the sink's state is %+v", what, n.sink.Stats())
		}
	}
}

// fault writes before a fault comes, while it is there, and after it went.
func (n *networkSuite) fault(f network.Fault) {
	n.t.Helper()
	n.write()
	n.b.Network.Set(f)
	before := n.sink.Stats()
	n.write()
	switch f {
	case network.HalfOpen, network.Refused:
		n.outage(f)
	case network.Reset:
		n.until("a write that is sent again", func(now stream.SinkStats) bool { return now.Repeated > before.Repeated })
	default:
		n.flush()
	}
	n.b.Network.Set(network.Healthy)
	n.recovered(f.String())
}

// outage checks what a sink says while it has no answers.
func (n *networkSuite) outage(f network.Fault) {
	n.t.Helper()
	clear := map[network.Fault]*regexp.Regexp{
		network.HalfOpen: regexp.MustCompile("no answer within "), network.Refused: regexp.MustCompile("connection refused|does not answer"),
	}[f]
	var now stream.SinkStats
	n.until(fmt.Sprintf("that the sink fails with %q", clear), func(s stream.SinkStats) bool { // an open connection may end in other words
		now = s
		return clear.MatchString(s.Failing)
	})
	n.t.Logf("%s: the sink says %q", f, now.Failing)
	if now.FailingSince.IsZero() || now.Waiting == 0 || now.WaitingBytes == 0 {
		n.t.Errorf("%s: the sink's state is %+v; want since when it fails, and how much waits", f, now)
	}
	n.write()
	for _, w := range n.writers {
		ctx, cancel := context.WithTimeout(n.ctx, 100*time.Millisecond)
		dead, err := w.w.Flush(ctx)
		cancel()
		if fatal := (*stream.FatalError)(nil); err == nil || errors.As(err, &fatal) || len(dead) > 0 {
			n.t.Fatalf("%s: flush returns %d dead letters, %v; want an error that passes", f, len(dead), err)
		}
	}
}

// recovered checks that all is written after a fault, and that nothing is left of it to be seen.
func (n *networkSuite) recovered(after string) {
	n.t.Helper()
	n.write()
	n.flush()
	now := n.sink.Stats()
	if now.Failing != "" || !now.FailingSince.IsZero() || now.Waiting != 0 || now.WaitingBytes != 0 || now.Refused != 0 {
		n.t.Fatalf("after %s all is written, and the sink's state is %+v", after, now)
	}
}

// killed kills the server while requests are under way.
func (n *networkSuite) killed() {
	n.t.Helper()
	before := n.sink.Stats().Written
	n.write()
	n.until("a write", func(now stream.SinkStats) bool { return now.Written > before })
	n.write()
	n.b.Restart(n.t)
	n.recovered("a kill")
}

// sameAsCalm compares all that is there with what a writer leaves that met no fault.
func (n *networkSuite) sameAsCalm() {
	n.t.Helper()
	calm := &upsertSuite{t: n.t, ctx: n.ctx, b: n.b.Calm}
	sink := calm.b.New(n.t, stream.ByPosition)
	writers := map[string]*upserts{}
	for _, p := range n.written {
		w := writers[p.Partition]
		if w == nil {
			w = calm.writer(sink, p.Partition, 1)
			writers[p.Partition] = w
		}
		w.write(p.Pos.Offset(), 1)
	}
	for _, w := range writers {
		w.flush()
	}
	got, want := n.contents(n.b.Contents(n.t)), n.contents(calm.b.Contents(n.t))
	if len(got) != len(want) {
		n.t.Fatalf("the server holds %d; without faults it held %d", len(got), len(want))
	}
	for i := range want {
		if got[i].Values != want[i].Values {
			n.t.Errorf("the server holds\n%s\nwithout faults it held\n%s", got[i].Values, want[i].Values)
		}
	}
}

// contents are in the order of their events, without the repeats that a log may have.
func (n *networkSuite) contents(all []Held) []Held {
	if n.b.Shape == Log {
		all = n.withoutRepeats(all)
	}
	slices.SortFunc(all, func(a, b Held) int {
		return cmp.Or(strings.Compare(a.Place.Partition, b.Place.Partition), strings.Compare(a.Place.Version(), b.Place.Version()))
	})
	return all
}
