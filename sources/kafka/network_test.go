package kafka

import (
	"context"
	"net"
	"testing"

	"github.com/millrace-io/millrace/testenv/broker"
	"github.com/millrace-io/millrace/testenv/network"
)

// A worker notices that its connections are dead while its session lives.
func TestConnectionsThatTheNetworkForgotCostNoPartition(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{})
	l := newTopic(t, b.Addr, session, 1)
	proxy := network.New(t, b.Addr)
	l.add(t, "a")
	j := work(t, l.dialing(t, func(ctx context.Context, kind, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, kind, proxy.Addr)
	}, same), nil)
	a := j.next()
	a.waitFor(t, 1)
	proxy.Set(network.Forgotten)
	l.add(t, "b")
	a.waitFor(t, 2)
	if err := a.Commit(t.Context(), a.checkpoint()); err != nil {
		t.Error(err)
	}
	select {
	case again := <-j.tenures:
		t.Errorf("the partition is assigned again, with epoch %d", again.Epoch())
	default:
	}
}
