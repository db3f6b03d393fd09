package broker

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A member that was killed while its JoinGroup waited must not keep its partitions for ever.
func TestMemberKilledWhileItJoinsLosesItsSession(t *testing.T) {
	b, err := Start(Options{Topics: []string{"clicks"}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	opts := []kgo.Opt{
		kgo.SeedBrokers(b.Addr), kgo.ConsumerGroup("g"), kgo.ConsumeTopics("clicks"), kgo.DisableClientMetrics(),
		kgo.SessionTimeout(2 * time.Second), kgo.HeartbeatInterval(100 * time.Millisecond), kgo.RebalanceTimeout(10 * time.Second),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
	}
	first, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := b.WaitGroupStable(ctx, "g", 1); err != nil {
		t.Fatal(err)
	}

	// The second member's connection breaks when the broker has its join, before it is answered.
	killed := make(chan struct{})
	joins := 0
	b.ControlKey(int16(kmsg.JoinGroup), func(kmsg.Request) (kmsg.Response, error, bool) {
		b.KeepControl()
		if joins++; joins == 2 { // the first one asks for a member id
			close(killed)
		}
		return nil, nil, false
	})
	dead, end := context.WithCancel(t.Context())
	second, err := kgo.NewClient(append(opts, kgo.WithContext(dead))...)
	if err != nil {
		t.Fatal(err)
	}
	<-killed
	end()
	second.Close()
	if _, err := b.WaitGroupStable(ctx, "g", 1); err != nil {
		t.Errorf("the dead member stays: %+v", b.GroupInfo("g"))
	}
}
