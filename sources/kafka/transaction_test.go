package kafka

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/broker"
)

// What is done in transactions is tested in sinks/kafka, with a sink, on kfake and on Apache Kafka.

// Mutations seen red:
//
//	Commit: what is shown is the position                    -> TestACommitThatIsTakenBackIsRemembered
//	claim: what is shown begins anew                         -> TestACommitThatIsTakenBackIsRemembered
//	giveBack looks once                                      -> TestATenureThatBeginsAnewWhileItIsGivenBackGoesToo

// marked is what the group says of partition 0.
func (l *topic) marked(t *testing.T) mark {
	t.Helper()
	found, err := l.admin.FetchOffsets(t.Context(), l.name)
	if err != nil {
		t.Fatal(err)
	}
	o, _ := found.Lookup(l.name, 0)
	m, err := parseMark(o.At, o.Metadata)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestACommitThatIsTakenBackIsRemembered(t *testing.T) {
	t.Parallel()
	l := newTopic(t, start(t, broker.Options{}).Addr, session, 1)
	l.add(t, "a", "b", "c", "d", "e")
	commit := func(at uint64) {
		j := work(t, l.source(t, newOutside(), same), failDrain)
		c := j.next()
		c.waitFor(t, 1)
		if err := c.Commit(t.Context(), stream.Checkpoint{Pos: stream.OffsetPosition(at)}); err != nil {
			t.Fatal(err)
		}
		_ = j.stop()
	}
	for _, at := range []uint64{3, 1, 2} { // the engine goes back when staged data is gone
		commit(at)
		if m := l.marked(t); m.next != int64(at)+1 || m.shown != 4 {
			t.Errorf("after a commit of %d: next %d, shown %d; want %d and 4", at, m.next, m.shown, at+1)
		}
	}
	commit(4)
	if m := l.marked(t); m.next != 5 || m.shown != 5 {
		t.Errorf("next %d, shown %d; want 5 and 5", m.next, m.shown)
	}
}

// A transaction may be lost in the middle of the drain; its successor must not live on with a partition that is somebody else's.
func TestATenureThatBeginsAnewWhileItIsGivenBackGoesToo(t *testing.T) {
	t.Parallel()
	l := newTopic(t, start(t, broker.Options{}).Addr, session, 2)
	var moved atomic.Pointer[tenure]
	old := work(t, l.source(t, newOutside(), same), func(j *job) {
		j.drain = func(c *taker) error {
			a := c.Assignment.(*tenure)
			if moved.CompareAndSwap(nil, a) {
				a.run.again(a)
			}
			return errors.New("the transaction is lost")
		}
	})
	old.next()
	old.next()
	work(t, l.source(t, newOutside(), same), failDrain).next() // it is given back by now
	run := moved.Load().run
	if left := run.all(); len(left) != 1 || left[0].partition == moved.Load().partition {
		t.Errorf("the old worker has %d tenures, one of them of %s", len(left), moved.Load())
	}
}
