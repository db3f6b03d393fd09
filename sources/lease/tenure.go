package lease

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/millrace-io/millrace/stream"
)

const (
	// deliverGrace is how long an ending tenure waits for a Deliver that does not heed its context before it drains.
	deliverGrace = time.Second

	// failedDrain bounds a drain once the run has failed: the engine may be told to give up.
	failedDrain = 30 * time.Second

	// goodbye bounds a release that nobody answers; then the lease runs out by itself.
	goodbye = 3 * time.Second
)

// Holder is what a source's run does with the leases that it is granted.
type Holder struct {
	Soft context.Context         // the run's own: its end is a soft stop
	Run  context.Context         // ends with Soft, or when the run fails
	Fail context.CancelCauseFunc // ends Run

	Assigned func(stream.Assignment) (stream.Consumer, error) // the engine's
	Log      *slog.Logger
}

// Hold carries one tenure from its assignment until l is given back or lost. a is l as the engine sees it.
//
// deliver reads the partition and hands it to the consumer, beginning with its Start. It returns true when everything of a
// partition that has ended was handed over; false when ctx has ended or the consumer wants no more. An error fails the run.
func (h *Holder) Hold(l *Lease, a stream.Assignment, deliver func(ctx context.Context, c stream.Consumer) (ended bool, err error)) {
	defer l.Lapse()
	consumer, err := h.Assigned(a)
	if err != nil {
		h.Fail(err)
		h.giveBack(context.Background(), l, (*Lease).Release)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var delivering sync.WaitGroup
	defer delivering.Wait()
	delivered := make(chan bool, 1)
	delivering.Go(func() {
		ended, err := deliver(ctx, consumer)
		if err != nil && ctx.Err() == nil {
			h.Fail(err)
		}
		delivered <- ended && err == nil
	})
	ended := h.until(l, delivered)
	cancel()
	h.end(l, consumer, ended, delivered)
}

// until returns when the tenure is to end: true if that is because the partition has.
func (h *Holder) until(l *Lease, delivered chan bool) (ended bool) {
	select {
	case ended = <-delivered:
		delivered <- ended // for who waits for the end of the delivery
		if ended {
			return true
		}
	case <-l.Done():
		return false
	case <-l.Wanted():
		return false
	case <-h.Run.Done():
		return false
	}
	select { // the consumer has enough
	case <-l.Done():
	case <-l.Wanted():
	case <-h.Run.Done():
	}
	return false
}

// end drains the tenure, or aborts it when the lease is lost already.
func (h *Holder) end(l *Lease, consumer stream.Consumer, ended bool, delivered <-chan bool) {
	select {
	case <-delivered: // so no Deliver begins after Drain
	case <-l.Done():
	case <-time.After(deliverGrace):
	}
	if l.isLost() {
		consumer.Abort()
		return
	}
	why, back := stream.Handoff, (*Lease).Release
	if ended {
		why, back = stream.Ended, (*Lease).End
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go h.boundDrain(ctx, l, cancel)
	if consumer.Drain(ctx, why) != nil {
		consumer.Abort()
		return
	}
	h.giveBack(ctx, l, back)
}

func (h *Holder) giveBack(ctx context.Context, l *Lease, back func(*Lease, context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, goodbye)
	defer cancel()
	if err := back(l, ctx); err != nil && !errors.Is(err, stream.ErrLost) {
		h.Log.Warn("partition was not released; others wait for its lease", "partition", l.Partition(), "error", err)
	}
}

// boundDrain gives a drain up when the lease is lost, and a while after the run has failed.
func (h *Holder) boundDrain(ctx context.Context, l *Lease, giveUp context.CancelFunc) {
	defer giveUp()
	select {
	case <-h.Run.Done():
	case <-l.Done():
		return
	case <-ctx.Done():
		return
	}
	var late <-chan time.Time
	if h.Soft.Err() == nil {
		late = time.After(failedDrain)
	}
	select {
	case <-late:
	case <-l.Done():
	case <-ctx.Done():
	}
}
