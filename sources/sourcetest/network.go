package sourcetest

import (
	"context"
	"errors"
	"regexp"
	"time"

	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/network"
)

// Mutations seen red (line broken in a source, or in package lease):
//
//	kinesis: neither the table's condition nor the lease's own end refuses a late commit, of which one is enough
//	  -> a worker that is cut off is replaced
//	a silent owner is not replaced -> the same
//	Failing says nothing; what succeeds again is not heard -> goes on when the answers are there again
//	a call that reads has no time-out; no pings -> gives up connections that are dead

// remote is a scene with one worker behind a network.
type remote struct {
	*scene
	networks []*network.Proxy
	worker   *worker
}

// newRemote returns nil for a source without a network.
func newRemote(s *scene) *remote {
	if !s.Remote {
		return nil
	}
	far, networks := s.log.(Remote).Far(s.T)
	r := &remote{s, networks, nil}
	s.Cleanup(func() { r.set(network.Healthy) }) // before the workers are stopped
	r.worker = s.startWorker(far, script{every: 10})
	r.records()
	s.settled()
	return r
}

// set makes the same of all networks.
func (r *remote) set(f network.Fault) {
	r.Helper()
	for _, n := range r.networks {
		n.Set(f)
	}
}

// records appends some to every partition.
func (r *remote) records() {
	r.Helper()
	for i := range r.expected {
		r.append(i, 20)
	}
}

// meets lets the worker meet a fault that finds records on their way and goes; until waits while it is there.
func (r *remote) meets(f network.Fault, until func()) {
	r.Helper()
	began := time.Now()
	r.records()
	r.set(f)
	r.records()
	until()
	r.set(network.Healthy)
	r.records()
	r.settled()
	r.well()
	r.Logf("%s: %s", f, time.Since(began).Round(10*time.Millisecond))
}

// failing is what the source says of its servers.
func (r *remote) failing() (string, time.Time) { return r.worker.Source.(stream.Contact).Failing() }

var reasons = map[network.Fault]*regexp.Regexp{
	network.HalfOpen: regexp.MustCompile("no answer in time"), network.Silent: regexp.MustCompile("no answer in time"),
	network.Refused: regexp.MustCompile("connection refused"),
}

// says waits until the source says what is wrong with the network.
func (r *remote) says(f network.Fault) {
	r.Helper()
	var why string
	var since time.Time
	if !r.poll(func() bool { why, since = r.failing(); return reasons[f].MatchString(why) }) || since.IsZero() {
		r.Fatalf("%s: the source fails since %s with %q; want %q", f, since, why, reasons[f])
	}
	r.Logf("%s: the source says %q", f, why)
}

// well waits until the source has no complaint.
func (r *remote) well() {
	r.Helper()
	if !r.poll(func() bool { why, _ := r.failing(); return why == "" }) {
		why, since := r.failing()
		r.Errorf("the network is well again, and the source fails since %s: %s", since, why)
	}
}

// livesOnABadNetwork is about faults that a source lives with, or gets over while they last.
func livesOnABadNetwork(s *scene, faults ...network.Fault) {
	r := newRemote(s)
	if r == nil {
		return
	}
	for _, f := range faults {
		r.meets(f, func() {
			switch f {
			case network.HalfOpen, network.Refused:
				r.says(f)
			case network.Reset: // in the middle of a request: some pass
				s.waitFor(500*time.Millisecond, func() bool { return s.lake.count(0) == len(s.expected[0]) })
			default:
				s.settled()
			}
		})
	}
	if err := r.worker.stop(); err != nil {
		s.Errorf("Run: %v", err)
	}
}

// isCutOff: another worker takes over from one that the network has cut off, and gives back what it has when that is there again.
func isCutOff(s *scene) {
	r := newRemote(s)
	if r == nil {
		return
	}
	old := s.tenure(r.worker, 0)
	s.append(0, 5) // read, and not committed
	s.delivered(r.worker, 0)
	r.worker.gone.Store(true)
	r.set(network.Silent)
	near := s.start(script{every: 10})
	r.records()
	for i := range s.expected {
		s.delivered(near, i)
	}
	s.wait("the new owner has committed", func() bool { return s.last(0, near).commits > 0 })
	r.says(network.Silent)
	r.set(network.Healthy)
	lost := s.poll(func() bool { // other errors until the worker finds out
		ctx, cancel := context.WithTimeout(s.Context(), time.Second)
		defer cancel()
		err := old.Assignment.Commit(ctx, stream.Checkpoint{Pos: s.position(0, 22), Note: []byte("late")})
		if err == nil {
			s.Errorf("the late commit succeeds")
		}
		return err == nil || errors.Is(err, stream.ErrLost)
	})
	if !lost {
		s.Errorf("the late commit never fails with ErrLost")
	}
	s.wait("the tenure that was cut off ends", func() bool { return old.end == "aborted" || old.end == "failed to drain" })
	if err := near.stop(); err != nil {
		s.Errorf("Run of the other worker: %v", err)
	}
	r.records()
	for i := range s.expected {
		s.delivered(r.worker, i)
	}
	r.well()
	if err := r.worker.stop(); err != nil {
		s.Errorf("Run: %v", err)
	}
	s.settled()
}
