package sinktest

import (
	"context"
	"errors"
	"sync"

	"github.com/millrace-io/millrace/sinks/objects"
)

var errFault = errors.New("fault on order")

// fault is what happens to one call.
type fault int

const (
	none   fault = iota
	before       // it fails and has no effect
	after        // it has its effect, and the answer is lost
	hang         // it does not answer until its context ends
)

// faultyStore fails calls as planned: "send", "seal", "publish", "withdraw".
type faultyStore struct {
	objects.Store
	mu      sync.Mutex
	plans   map[string][]fault
	uploads map[*faultyUpload]bool // neither sealed with an answer nor discarded
}

// plan sets the fates of the next calls of one kind.
func (s *faultyStore) plan(call string, faults ...fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.plans == nil {
		s.plans = map[string][]fault{}
	}
	s.plans[call] = faults
}

func (s *faultyStore) next(call string) fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.plans[call]
	if len(p) == 0 {
		return none
	}
	s.plans[call] = p[1:]
	return p[0]
}

func (s *faultyStore) do(ctx context.Context, call string, fn func() error) error {
	f := s.next(call)
	switch f {
	case before:
		return errFault
	case hang:
		<-ctx.Done()
		return ctx.Err()
	}
	err := fn()
	if err == nil && f == after {
		return errFault
	}
	return err
}

// open counts the uploads that were begun and whose end nobody was told.
func (s *faultyStore) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.uploads)
}

func (s *faultyStore) Begin(key string) objects.Upload {
	u := &faultyUpload{Upload: s.Store.Begin(key), s: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.uploads == nil {
		s.uploads = map[*faultyUpload]bool{}
	}
	s.uploads[u] = true
	return u
}

func (s *faultyStore) ended(u *faultyUpload) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.uploads, u)
}

func (s *faultyStore) Publish(ctx context.Context, t objects.Ticket) error {
	return s.do(ctx, "publish", func() error { return s.Store.Publish(ctx, t) })
}

func (s *faultyStore) Withdraw(ctx context.Context, t objects.Ticket) error {
	return s.do(ctx, "withdraw", func() error { return s.Store.Withdraw(ctx, t) })
}

type faultyUpload struct {
	objects.Upload
	s *faultyStore
}

func (u *faultyUpload) Send(ctx context.Context) error {
	return u.s.do(ctx, "send", func() error { return u.Upload.Send(ctx) })
}

func (u *faultyUpload) Seal(ctx context.Context, meta map[string]string) (t objects.Ticket, err error) {
	err = u.s.do(ctx, "seal", func() (err error) {
		t, err = u.Upload.Seal(ctx, meta)
		return err
	})
	if err == nil {
		u.s.ended(u)
	}
	return t, err
}

func (u *faultyUpload) Discard(ctx context.Context) {
	u.Upload.Discard(ctx)
	u.s.ended(u)
}
