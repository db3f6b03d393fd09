package broker

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// sessions ends the membership of processes that were killed while they joined. kfake starts a member's session with the
// answer to its JoinGroup; when the connection is gone by then there is none, and the group would keep a member, and its
// partitions, that nobody ever hears of again. Kafka starts the session in any case. Here such a member has a third of it
// for its SyncGroup: in kfake the others may wait no longer than their own sessions last.
type sessions struct {
	cluster *kfake.Cluster
	client  *kgo.Client
	stop    context.CancelFunc
	stopped chan struct{}

	mu     sync.Mutex
	groups map[string]*group
}

type group struct {
	generation int32              // the newest that a member spoke of
	members    map[string]*member // by id
}

type member struct {
	session time.Duration
	heard   time.Time
	joining bool  // it spoke a JoinGroup last, and waits for an answer while the generation is still
	since   int32 // generation
}

const sessionsInterval = 100 * time.Millisecond

func watchSessions(c *kfake.Cluster, addr string) (*sessions, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DisableClientMetrics())
	if err != nil {
		return nil, err
	}
	s := &sessions{cluster: c, client: client, stopped: make(chan struct{}), groups: map[string]*group{}}
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.JoinGroup, kmsg.SyncGroup, kmsg.Heartbeat}, Count: -1, When: func(req kmsg.Request) bool {
		s.hear(req)
		return false // no fault
	}})
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go s.run(ctx)
	return s, nil
}

func (s *sessions) close() {
	s.stop()
	<-s.stopped
	s.client.Close()
}

// hear notes that a member lives.
func (s *sessions) hear(req kmsg.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r := req.(type) {
	case *kmsg.JoinGroupRequest:
		g := s.groups[r.Group]
		if g == nil {
			g = &group{members: map[string]*member{}}
			s.groups[r.Group] = g
		}
		g.members[r.MemberID] = &member{time.Duration(r.SessionTimeoutMillis) * time.Millisecond, time.Now(), true, g.generation}
	case *kmsg.SyncGroupRequest:
		s.again(r.Group, r.MemberID, r.Generation)
	case *kmsg.HeartbeatRequest:
		s.again(r.Group, r.MemberID, r.Generation)
	}
}

func (s *sessions) again(name, id string, generation int32) {
	g := s.groups[name]
	if g == nil || g.members[id] == nil {
		return
	}
	g.generation = max(g.generation, generation)
	m := g.members[id]
	m.heard, m.joining = time.Now(), false
}

func (s *sessions) run(ctx context.Context) {
	defer close(s.stopped)
	tick := time.NewTicker(sessionsInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, name := range s.names() {
			info := s.cluster.GroupInfo(name)
			if info == nil {
				continue
			}
			for _, id := range s.silent(name, info.Members) {
				s.expel(ctx, name, id)
			}
		}
	}
}

func (s *sessions) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.groups))
}

// silent are the members that had an answer to their JoinGroup and say nothing.
func (s *sessions) silent(name string, members []kfake.GroupMember) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[name]
	var ids []string
	for _, info := range members {
		m := g.members[info.MemberID]
		switch {
		case m == nil || !m.joining: // kfake counts its session
		case m.since == g.generation:
			m.heard = time.Now()
		case time.Since(m.heard) > m.session/3:
			ids = append(ids, info.MemberID)
		}
	}
	return ids
}

func (s *sessions) expel(ctx context.Context, group, id string) {
	m := kmsg.NewLeaveGroupRequestMember()
	m.MemberID = id
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group, req.Members = group, []kmsg.LeaveGroupRequestMember{m}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req.RequestWith(ctx, s.client) // fails on a broker with SASL or TLS: those tests kill nobody
}
