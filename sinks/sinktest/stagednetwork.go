package sinktest

import (
	"context"
	"errors"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/faults"
	"github.com/millrace-io/millrace/testenv/network"
)

// Far is an S3 server that is far away.
type Far struct {
	*network.Proxy               // the network to it
	Requests       *faults.Proxy // at its door: it knows what has arrived
}

// NewFar puts a network before the S3 server at url.
func NewFar(t testing.TB, url string) *Far {
	t.Helper()
	door, err := faults.New(url, faults.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(door)
	t.Cleanup(s.Close)
	return &Far{network.New(t, s.Listener.Addr().String()), door}
}

// Mutations seen red (line broken in sinks/objects):
//
//	owner: no object is ours -> lost answers of a complete
//	back: a failed part counts as sent
//	start: a part may stand still for ever -> forgotten
//	wait: the deadline is not heeded; complete, abort: nor there
//	explain: without "no answer in time"; the SDK's words
//	Withdraw: what is published stays

// RunStagedNetwork checks a sink whose bucket is far away. b's Store is past the network; the AWS SDK's environment leads through it.
// The faults fs come, in order; none: all.
//
// It commits while one fault of the network after the other comes, finds a request under way, and goes: one that stages,
// and one that publishes. In the end what is committed is there once, and nothing else. No call takes longer than it is given, and
// what it returns says what is wrong.
func RunStagedNetwork[T any](t *testing.T, b Backend[T], far *Far, fs ...network.Fault) {
	s := &suite[T]{t: t, ctx: t.Context(), b: b}
	store, err := objects.Open(s.ctx, b.Store.String(), objects.Options{PartTimeout: time.Second})
	s.check(err, "open the store")
	s.sink = b.New(t, store)
	n := &stagedNetwork[T]{suite: s, far: far}
	defer far.Set(network.Healthy)
	w := s.tenure(s.sink, 1)
	if len(fs) == 0 {
		fs = []network.Fault{network.Latency, network.Bandwidth, network.Sliced, network.Reset, network.HalfOpen, network.Refused, network.Forgotten}
	}
	for _, f := range append([]network.Fault{network.Healthy}, fs...) {
		began := time.Now()
		n.commit(w, f)
		t.Logf("%s: %s", f, time.Since(began).Round(10*time.Millisecond))
	}
	n.abandon(w)
	n.takenBack()
	s.holds(0, int(n.next))
}

// stagedNetwork is RunStagedNetwork's state.
type stagedNetwork[T any] struct {
	*suite[T]
	far  *Far
	next uint64 // offset
}

// perCommit is the records of one commit.
const perCommit = 40

// commit stages and publishes one commit. The fault comes when the first request is under way that stages, goes when it is staged, and
// comes again when the first one is under way that publishes.
func (n *stagedNetwork[T]) commit(w *tenure[T], f network.Fault) {
	n.t.Helper()
	w.write(n.next, perCommit)
	before := n.keys()
	var rs []stream.Receipt
	n.during(f, "UploadPart", func(ctx context.Context) (err error) {
		rs, err = w.w.Stage(ctx, w.commit(n.next, perCommit))
		return err
	})
	if now := n.keys(); !slices.Equal(now, before) {
		n.t.Fatalf("%s: before the commit there are %d objects more", f, len(now)-len(before))
	}
	n.during(f, "CompleteMultipartUpload", func(ctx context.Context) error { return n.sink.Publish(ctx, rs[0]) })
	n.publish(n.sink, rs)
	n.next += perCommit
}

// during makes calls until one succeeds, the first of which meets the fault. That stays until a call succeeds, or, where none can, for
// two calls.
func (n *stagedNetwork[T]) during(f network.Fault, operation string, call func(ctx context.Context) error) {
	n.t.Helper()
	err := n.hit(f, operation, call)
	if err != nil {
		n.t.Logf("%s: the sink says %q", f, err)
	}
	for tries := 1; err != nil; tries++ {
		n.clear(f, err)
		if n.hopeless(f) && tries == 2 {
			n.far.Set(network.Healthy)
		}
		if tries > 50 {
			n.t.Fatalf("%s: %s never succeeds: %v", f, operation, err)
		}
		err = n.bounded(f, call)
	}
	n.far.Set(network.Healthy)
}

// hit makes a call that meets the fault: when its first request of an operation has arrived at the server, and goes on there.
func (n *stagedNetwork[T]) hit(f network.Fault, operation string, call func(ctx context.Context) error) error {
	n.t.Helper()
	arrived, goOn := n.far.Requests.Hold(n.ctx, faults.Operation(operation))
	for range 50 {
		ended := make(chan error, 1)
		go func() { ended <- n.bounded(f, call) }()
		select {
		case <-arrived:
			n.far.Set(f)
			goOn()
			return <-ended
		case err := <-ended: // on a busy machine it had no time to get there
			n.clear(network.Healthy, err)
		}
	}
	n.t.Fatalf("%s: no %s arrives", f, operation)
	return nil
}

// hopeless says that no call can succeed while the fault is there.
func (n *stagedNetwork[T]) hopeless(f network.Fault) bool {
	return f == network.Reset || f == network.HalfOpen || f == network.Refused
}

// bounded makes a call that is given so much time as the fault needs, and checks that it takes no more.
func (n *stagedNetwork[T]) bounded(f network.Fault, call func(ctx context.Context) error) error {
	given := 150 * time.Millisecond
	if f == network.Latency || f == network.Bandwidth {
		given = 5 * time.Second
	}
	ctx, cancel := context.WithTimeout(n.ctx, given)
	defer cancel()
	began := time.Now()
	err := call(ctx)
	if took := time.Since(began); took > given+2*time.Second {
		n.t.Errorf("%s: a call that is given %s takes %s", f, given, took)
	}
	return err
}

var reasons = regexp.MustCompile(`no answer in time|on the way|stood still|connection refused|reset|broken|closed|EOF`)

// clear checks that an error is one that passes, and says where it happened, and what.
func (n *stagedNetwork[T]) clear(f network.Fault, err error) {
	n.t.Helper()
	if err == nil {
		n.t.Fatalf("%s: the call succeeds", f)
	}
	if fatal := (*stream.FatalError)(nil); errors.As(err, &fatal) || errors.Is(err, stream.ErrExpired) {
		n.t.Fatalf("%s: %v; want an error that passes", f, err)
	}
	if text := err.Error(); !strings.Contains(text, n.b.Store.String()) || !reasons.MatchString(text) || strings.Contains(text, "RequestID: ,") {
		n.t.Errorf("%s: the error is %q; want the place and what is wrong, and nothing else", f, err)
	}
}

// abandon stages what is never committed: the tenure ends while there are no answers.
func (n *stagedNetwork[T]) abandon(w *tenure[T]) {
	n.t.Helper()
	w.write(n.next, perCommit)
	n.clear(network.HalfOpen, n.hit(network.HalfOpen, "UploadPart", func(ctx context.Context) error {
		_, err := w.w.Stage(ctx, w.commit(n.next, perCommit))
		return err
	}))
	_ = n.bounded(network.HalfOpen, func(ctx context.Context) error {
		w.w.Discard(ctx)
		return nil
	})
	n.far.Set(network.Healthy)
}

// takenBack withdraws a commit that is published, while there are no answers.
func (n *stagedNetwork[T]) takenBack() {
	n.t.Helper()
	w := n.tenure(n.sink, 2)
	w.write(n.next, perCommit)
	rs := w.stage(n.next, perCommit)
	n.publish(n.sink, rs)
	withdraw := func(ctx context.Context) error { return n.sink.Withdraw(ctx, rs[0]) }
	n.clear(network.HalfOpen, n.hit(network.HalfOpen, "AbortMultipartUpload", withdraw))
	n.far.Set(network.Healthy)
	for _, r := range rs {
		n.check(n.sink.Withdraw(n.ctx, r), "withdraw")
	}
	w.w.Discard(n.ctx)
}
