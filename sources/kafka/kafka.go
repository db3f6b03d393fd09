// Package kafka reads topics of Apache Kafka and what speaks its protocol.
//
// A run has two clients. One is a member of the consumer group: it owns partitions and stores checkpoints, and fetches
// nothing. The other reads the owned partitions from where the engine says. So a slow recovery, a seek or a fetch error
// never disturbs the membership.
//
// The consumer group is the fence: brokers refuse a commit that carries the generation of a group that went on without
// its sender; ours goes out only as the member that was given the partition. A checkpoint is the group's committed offset with
// the note in its metadata, stored by one request.
//
// Records of transactions are read when they are committed, and never when they are aborted. Their control records take
// offsets that nothing is delivered at: the group's offset is the one behind them, and the note says how far they go, so
// that a log which begins behind a control record is not taken for one that lost something.
//
// What a broker lost is not papered over. The group keeps the leader epoch of the last record with the offset; when a
// partition's leader says that this epoch ended earlier (an unclean election cut the log), or the log ends before the
// offset, the run ends. So it does when a topic is deleted or created again. Kafka deletes a topic's offsets with the
// topic: if that happens while no worker runs, and the topic comes back, the group has no memory of the old one, and the new
// one is read as one that was never seen; millrace verify then finds files that no checkpoint covers.
//
// Verified on Apache Kafka 4.1 by the tests with the tag real: both protocols, TLS, SCRAM, OAUTHBEARER with a token file and
// a token endpoint, kills and restarts. Not run, for want of a cluster: AWS MSK. Its IAM mechanism is tested up to the bytes
// that it sends, signed with credentials of the SDK's chain; no MSK broker has judged them.
//
// Sinks of the same cluster can be part of the commits: transaction.go.
//
// Read kafka.go (a run from start to stop), topics.go (what is read), tenure.go (one partition's life), reader.go (fetching,
// memory), metadata.go (what the group keeps), reread.go (a replay), sasl.go.
package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/stream"
)

const (
	// connectTimeout bounds the first contact; a cluster that fails later is waited for.
	connectTimeout = 15 * time.Second

	// createdGrace is how long a topic may be unknown after it was created.
	createdGrace = 2 * time.Second

	// failedDrain bounds a drain once the run has failed: the engine may be told to give up.
	failedDrain = 30 * time.Second

	// leaveTimeout bounds the good-bye to brokers that do not answer.
	leaveTimeout = 2 * time.Second

	// againPause is before a tenure is begun anew.
	againPause = time.Second

	// lagInterval is between two looks at the ends of the partitions.
	lagInterval = 5 * time.Second
)

// Options are what the pipeline around a source gives it.
type Options struct {
	Pipeline string       // default of Config.Group; not empty
	Dial     Dial         // nil: TCP
	Log      *slog.Logger // nil: none

	// Transactions are joined by sinks; nil: there are none.
	Transactions *Transactions
}

// Source reads the topics of one Config. Every Run is a new member of the group.
type Source struct {
	cfg     Config
	topics  selection
	dial    Dial
	log     *slog.Logger
	contact time.Duration // connectTimeout, shorter in tests

	transactions *Transactions
	trouble      stream.Trouble
}

var (
	_ stream.Source  = (*Source)(nil)
	_ stream.Contact = (*Source)(nil)
)

// New returns a source that has not connected yet. It fails when cfg is not valid.
func New(cfg Config, o Options) (*Source, error) {
	cfg.Group = cmp.Or(cfg.Group, o.Pipeline)
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	topics, err := newSelection(cfg.Topics)
	if err != nil {
		return nil, err
	}
	s := &Source{cfg: cfg, topics: topics, dial: o.Dial, log: o.Log, contact: connectTimeout, transactions: o.Transactions}
	if s.dial == nil {
		s.dial = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.transactions == nil {
		s.transactions = new(Transactions)
	}
	return s, nil
}

// Failing is why brokers do not answer at present, and since when.
func (s *Source) Failing() (why string, since time.Time) { return s.trouble.Failing() }

// Checkpoints returns what the group has committed.
func (s *Source) Checkpoints(ctx context.Context) (map[string]stream.Checkpoint, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	marks, err := s.marks(ctx, c.admin)
	if err != nil {
		return nil, err
	}
	found := map[string]stream.Checkpoint{}
	for p, m := range marks {
		if c, ok := m.checkpoint(); ok {
			found[p.String()] = c
		}
	}
	return found, nil
}

// partition is one of the topics' partitions.
type partition struct {
	topic string
	id    int32
}

func (p partition) String() string { return fmt.Sprintf("%s-%d", p.topic, p.id) }

// connection is the client that reads.
type connection struct {
	*kgo.Client
	admin  *kadm.Client
	dial   Dial // with TLS
	topics kadm.TopicDetails
}

// connect makes sure that the brokers answer, let us in and have the topics.
func (s *Source) connect(ctx context.Context) (*connection, error) {
	var last lastError
	dial, err := s.cfg.dialer(s.dial)
	if err != nil {
		return nil, stream.Fatal(err)
	}
	opts, err := s.cfg.options(last.watch(dial))
	if err != nil {
		return nil, stream.Fatal(err)
	}
	opts = append(opts, kgo.WithHooks(&witness{&s.trouble, "reading"}))
	client, err := kgo.NewClient(append(opts, readOptions(s.cfg.Fetch)...)...)
	if err != nil {
		return nil, stream.Fatal(err)
	}
	c := &connection{Client: client, admin: kadm.NewClient(client), dial: dial}
	if c.topics, err = s.find(ctx, c.admin); err != nil {
		c.Close()
		return nil, s.refusal(err, last.get())
	}
	return c, nil
}

// offset is the offset of the first record of time at (milliseconds) or later, -1 for none, or one of the special values'.
func (c *connection) offset(ctx context.Context, of partition, at int64) (int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Partition, p.Timestamp = of.id, at
	topic := kmsg.NewListOffsetsRequestTopic()
	topic.Topic, topic.Partitions = of.topic, []kmsg.ListOffsetsRequestTopicPartition{p}
	req.Topics = []kmsg.ListOffsetsRequestTopic{topic}
	resp, err := req.RequestWith(ctx, c.Client)
	if err != nil {
		return 0, fmt.Errorf("list offsets of %s: %w", of, err)
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return 0, fmt.Errorf("list offsets of %s: the answer does not have it", of)
	}
	answer := resp.Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
		if f := denied(err); f != nil {
			return 0, f
		}
		return 0, fmt.Errorf("list offsets of %s: %w", of, err)
	}
	return answer.Offset, nil
}

// find lists the topics. One that was created just now may be unknown to a broker for a moment.
func (s *Source) find(ctx context.Context, admin *kadm.Client) (kadm.TopicDetails, error) {
	ctx, cancel := context.WithTimeout(ctx, s.contact)
	defer cancel()
	for began := time.Now(); ; {
		topics, err := s.topics.list(kadm.WithAuthorizedOps(ctx), admin) // or the client would answer from memory
		if err != nil {
			return nil, err
		}
		err = s.missing(topics)
		if err == nil || time.Since(began) > createdGrace {
			return topics, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

func (s *Source) missing(topics kadm.TopicDetails) error {
	for _, name := range s.topics.names {
		err := topics[name].Err
		switch {
		case errors.Is(err, kerr.UnknownTopicOrPartition) || !topics.Has(name):
			return stream.Fatal(fmt.Errorf("topic %q does not exist; create it or fix topics", name))
		case err != nil:
			return fmt.Errorf("topic %q: %w", name, err)
		}
	}
	if len(topics) == 0 {
		s.log.Warn("no topic matches yet", "topics", s.cfg.Topics)
	}
	return nil
}

// refusal says what to do about an error of the first contact.
func (s *Source) refusal(err, dialed error) error {
	var fatal *stream.FatalError
	if errors.As(err, &fatal) {
		return err
	}
	if f := denied(err); f != nil {
		return f
	}
	return fmt.Errorf("no use of brokers %s; check brokers, tls and sasl: %w", strings.Join(s.cfg.Brokers, ", "), cmp.Or(dialed, err))
}

// denied is err as a FatalError if it is about who we are and what we may do; else nil.
func denied(err error) error {
	switch {
	case isAny(err, kerr.SaslAuthenticationFailed, kerr.UnsupportedSaslMechanism, kerr.IllegalSaslState):
		return stream.Fatal(fmt.Errorf("the brokers refuse the credentials; check sasl: %w", err))
	case isAny(err, kerr.TopicAuthorizationFailed, kerr.GroupAuthorizationFailed, kerr.ClusterAuthorizationFailed):
		return stream.Fatal(fmt.Errorf("the brokers do not allow it; the user needs READ and DESCRIBE on the topics and READ on the group: %w", err))
	}
	return nil
}

// lastError keeps why the last connection failed, which a deadline hides.
type lastError struct {
	mu  sync.Mutex
	err error
}

func (l *lastError) watch(dial Dial) Dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		l.mu.Lock()
		defer l.mu.Unlock()
		if !errors.Is(err, context.Canceled) && (err == nil || ctx.Err() == nil || l.err == nil) { // an attempt that was cut off says nothing
			l.err = err
		}
		return conn, err
	}
}

func (l *lastError) get() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// marks are the group's, of the configured topics, by partition. Partitions that it never saw are left out. With kadm.RequireStable those
// are marked that a transaction is about to change.
func (s *Source) marks(ctx context.Context, admin *kadm.Client) (map[partition]mark, error) {
	found, err := admin.FetchOffsets(ctx, s.cfg.Group)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return nil, fmt.Errorf("fetch offsets of group %s: %w", s.cfg.Group, cmp.Or(denied(err), err))
	}
	marks := map[partition]mark{}
	for topic, offsets := range found {
		if !s.topics.has(topic) {
			continue
		}
		for id, o := range offsets {
			p := partition{topic, id}
			if errors.Is(o.Err, kerr.UnstableOffsetCommit) {
				marks[p] = mark{unstable: true}
				continue
			}
			if o.Err != nil {
				return nil, fmt.Errorf("fetch offset of %s: %w", p, cmp.Or(denied(o.Err), o.Err))
			}
			if o.At < 0 {
				continue
			}
			m, err := parseMark(o.At, o.Metadata)
			if err != nil {
				return nil, stream.Fatal(fmt.Errorf("partition %s of group %s: %w", p, s.cfg.Group, err))
			}
			m.leader = o.LeaderEpoch
			marks[p] = m
		}
	}
	return marks, nil
}

// run is one Run.
type run struct {
	*Source
	assigned func(stream.Assignment) (stream.Consumer, error)
	conn     *connection
	reader   *reader
	group    *kgo.Client

	ctx  context.Context // ends when the run stops or fails, with the reason as its cause
	fail context.CancelCauseFunc

	mu       sync.Mutex
	stopping bool
	tenures  map[partition]*tenure
	known    kadm.TopicDetails // that we subscribe to, as they were when we first saw them
}

// Run joins the group and hands over the partitions that it is given, until ctx ends.
func (s *Source) Run(ctx context.Context, assigned func(stream.Assignment) (stream.Consumer, error)) error {
	conn, err := s.connect(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer conn.Close()
	r := &run{Source: s, assigned: assigned, conn: conn, reader: newReader(conn.Client, s.cfg.Fetch.MaxBytes), tenures: map[partition]*tenure{}, known: conn.topics}
	r.ctx, r.fail = context.WithCancelCause(ctx)
	defer r.fail(nil)

	closing, closed := context.WithCancel(context.Background())
	defer closed()
	if err := r.join(closing); err != nil {
		return err
	}
	var loops sync.WaitGroup
	loops.Go(func() { r.reader.loop(closing) })
	loops.Go(func() { r.watchGroup(closing) })
	loops.Go(r.watchLag)
	loops.Go(r.follow)

	<-r.ctx.Done()
	err = r.release(ctx)
	member, _ := r.group.GroupMetadata()
	closed()
	r.group.Close()
	loops.Wait()
	r.leave(member)
	return err
}

// leave tells the group, through the connection that reads: the member's own may wait for a rebalance, and a member that
// vanishes in one holds up the others.
func (r *run) leave(member string) {
	var goodbye kmsg.Request
	switch {
	case member == "":
		return
	case r.cfg.Protocol == consumer:
		goodbye = r.consumerLeaves(member)
	case r.cfg.Instance == "": // static members stay
		goodbye = r.classicLeaves(member)
	default:
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	if _, err := r.conn.Request(ctx, goodbye); err != nil {
		r.log.Debug("leave failed; the group forgets this member after its session", "group", r.cfg.Group, "error", err)
	}
}

func (r *run) classicLeaves(member string) kmsg.Request {
	m := kmsg.NewLeaveGroupRequestMember()
	m.MemberID, m.Reason = member, kmsg.StringPtr("the run ended")
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group, req.MemberID, req.Members = r.cfg.Group, member, []kmsg.LeaveGroupRequestMember{m} // MemberID: before Kafka 2.4
	return req
}

// consumerLeaves: a static member says that it may come back, without which its name stays taken until its session is over.
func (r *run) consumerLeaves(member string) kmsg.Request {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Group, req.MemberID, req.MemberEpoch = r.cfg.Group, member, -1
	if r.cfg.Instance != "" {
		req.MemberEpoch, req.InstanceID = -2, &r.cfg.Instance
	}
	return req
}

// join makes the member. Topics are paused in it for good: it owns, the reader reads.
func (r *run) join(ctx context.Context) error {
	opts, err := r.cfg.options(r.conn.dial)
	if err != nil {
		return stream.Fatal(err)
	}
	names := slices.Sorted(maps.Keys(r.known))
	opts = append(opts,
		kgo.WithContext(ctx),
		kgo.WithLogger(&logger{r.log}),
		kgo.WithHooks(&witness{&r.trouble, "consumer group"}),
		kgo.ConsumerGroup(r.cfg.Group),
		kgo.ConsumeTopics(names...),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.DisableAutoCommit(),
		kgo.RebalanceTimeout(r.cfg.RebalanceTimeout),
		kgo.OnPartitionsAssigned(func(_ context.Context, c *kgo.Client, ps map[string][]int32) { r.own(c, ps) }),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, ps map[string][]int32) { r.giveBack(ps) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, ps map[string][]int32) { r.lose(ps) }),
	)
	if r.cfg.Protocol == consumer {
		opts = append(opts, kgo.ServerSideBalancer())
	} else {
		opts = append(opts, kgo.SessionTimeout(r.cfg.SessionTimeout), kgo.HeartbeatInterval(r.cfg.SessionTimeout/4))
	}
	if r.cfg.Instance != "" {
		opts = append(opts, kgo.InstanceID(r.cfg.Instance))
	}
	r.mu.Lock() // no partition is assigned before group is set
	defer r.mu.Unlock()
	if r.group, err = kgo.NewClient(opts...); err != nil {
		return stream.Fatal(err)
	}
	r.group.PauseFetchTopics(names...)
	return nil
}

// own begins the tenures of what the group assigned. They connect, recover and read on their own: the group waits for nobody.
//
// It is called in every generation, with what is new. A member that the group let go, and that learns it when it joins again, keeps what
// it had, as far as its client is concerned; in between it may have been another's.
func (r *run) own(group *kgo.Client, assigned map[string][]int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping {
		return
	}
	member, generation := group.GroupMetadata()
	for _, t := range r.tenures {
		if t.member != member || t.isGone() {
			r.replace(t)
		}
	}
	var all []partition
	for topic, ids := range assigned {
		for _, id := range ids {
			all = append(all, partition{topic, id})
		}
	}
	marks := sync.OnceValues(func() (map[partition]mark, error) { return r.stored(all...) })
	for _, p := range all {
		if r.tenures[p] != nil { // the client assigns again what belongs to another topic of the same name
			r.fail(r.createdAgain(p.topic))
			return
		}
		t := newTenure(r, p, member, generation)
		r.tenures[p] = t
		if r.transactions.on() {
			go t.live(t.offsets)
		} else {
			go t.live(marks)
		}
	}
}

// stored reads the marks until it succeeds or the run ends. No transaction is about to change those of all.
func (r *run) stored(all ...partition) (marks map[partition]mark, err error) {
	err = r.retry(r.ctx, "offset fetch failed", func(ctx context.Context) error {
		if err := r.agreed(ctx); err != nil {
			return err
		}
		if marks, err = r.marks(kadm.RequireStable(ctx), r.conn.admin); err != nil {
			return err
		}
		unstable := false
		for _, m := range marks {
			unstable = unstable || m.unstable
		}
		for _, p := range all {
			if m, seen := marks[p]; m.unstable || !seen && unstable { // what is known of the others says where a new one begins
				return fmt.Errorf("a transaction is about to store the offset of %s in group %s", p, r.cfg.Group)
			}
		}
		return nil
	})
	return marks, err
}

// agreed makes sure that the group speaks the configured protocol: the client falls back to classic without a word.
func (r *run) agreed(ctx context.Context) error {
	if r.cfg.Protocol != consumer {
		return nil
	}
	described, err := r.conn.admin.DescribeConsumerGroups(ctx, r.cfg.Group)
	if err == nil {
		err = described[r.cfg.Group].Err
	}
	switch {
	case errors.Is(err, kerr.GroupIDNotFound), errors.Is(err, kerr.UnsupportedVersion):
		return r.noConsumer(err)
	case err != nil:
		return fmt.Errorf("describe group %s: %w", r.cfg.Group, cmp.Or(denied(err), err))
	}
	return nil
}

func (r *run) noConsumer(err error) error {
	return stream.Fatal(fmt.Errorf("the brokers run group %s by the classic protocol; protocol consumer needs Kafka 4.0 or later with consumer among group.coordinator.rebalance.protocols: set protocol to classic: %w", r.cfg.Group, err))
}

// retry calls f until it succeeds, fails for good, or ctx ends.
func (r *run) retry(ctx context.Context, failure string, f func(context.Context) error) error {
	for n := 0; ; n++ {
		attempt, cancel := context.WithTimeout(ctx, connectTimeout)
		err := f(attempt)
		cancel()
		var fatal *stream.FatalError
		if err == nil || errors.As(err, &fatal) || errors.Is(err, stream.ErrLost) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r.log.Warn(failure, "error", err, "attempt", n+1)
		select {
		case <-time.After(min(50*time.Millisecond<<min(n, 6), 2*time.Second)):
		case <-ctx.Done():
		}
	}
}

// find returns the tenures of ps.
func (r *run) find(ps map[string][]int32) []*tenure {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []*tenure
	for topic, ids := range ps {
		for _, id := range ids {
			if t := r.tenures[partition{topic, id}]; t != nil {
				found = append(found, t)
			}
		}
	}
	return found
}

func (r *run) forget(t *tenure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tenures[t.partition] == t {
		delete(r.tenures, t.partition)
	}
}

// again begins a tenure anew, at what the group says, if the partition is still our own.
func (r *run) again(t *tenure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping || r.tenures[t.partition] != t {
		go t.abort()
		return
	}
	r.replace(t)
}

// replace puts t's successor in its place. The caller has mu.
func (r *run) replace(t *tenure) {
	member, generation := r.group.GroupMetadata()
	next := newTenure(r, t.partition, member, generation)
	r.tenures[t.partition] = next
	go func() {
		t.abort()
		select {
		case <-time.After(againPause):
		case <-next.ctx.Done():
		}
		next.live(next.offsets)
	}()
}

// giveBack drains what moves to another worker; the group waits for it.
func (r *run) giveBack(ps map[string][]int32) {
	for all := r.find(ps); len(all) > 0; all = r.find(ps) { // one may have been begun again
		r.drain(context.Background(), all)
	}
}

func (r *run) drain(ctx context.Context, tenures []*tenure) {
	var drains sync.WaitGroup
	for _, t := range tenures {
		drains.Go(func() { t.drain(ctx) })
	}
	drains.Wait()
}

// lose ends what is gone already.
func (r *run) lose(ps map[string][]int32) {
	for all := r.find(ps); len(all) > 0; all = r.find(ps) {
		var aborts sync.WaitGroup
		for _, t := range all {
			aborts.Go(t.abort)
		}
		aborts.Wait()
	}
}

// release drains everything while the group membership lives, and returns what Run returns. A drain that failed is the
// consumer's own affair; it knows.
func (r *run) release(ctx context.Context) error {
	r.mu.Lock()
	r.stopping = true
	all := slices.Collect(maps.Values(r.tenures))
	r.mu.Unlock()
	failure := context.Cause(r.ctx)
	if ctx.Err() != nil && errors.Is(failure, context.Cause(ctx)) {
		r.drain(context.Background(), all)
		return nil
	}
	limited, cancel := context.WithTimeout(context.Background(), failedDrain)
	defer cancel()
	r.drain(limited, all)
	return failure
}

// watchGroup ends the run when the group will never have us.
func (r *run) watchGroup(ctx context.Context) {
	for ctx.Err() == nil {
		for _, e := range r.group.PollFetches(ctx).Errors() {
			if errors.Is(e.Err, kgo.ErrClientClosed) {
				return
			}
			if ctx.Err() != nil {
				return
			}
			var session *kgo.ErrGroupSession
			switch f := denied(e.Err); {
			case f != nil:
				r.fail(f)
			case errors.Is(e.Err, kerr.InvalidSessionTimeout):
				r.fail(stream.Fatal(fmt.Errorf("the brokers refuse session_timeout %v; their group.min.session.timeout.ms and group.max.session.timeout.ms bound it", r.cfg.SessionTimeout)))
			case errors.Is(e.Err, kerr.FencedInstanceID):
				r.fail(stream.Fatal(fmt.Errorf("another worker of group %s has the instance name %q; give each its own", r.cfg.Group, r.cfg.Instance)))
			case errors.Is(e.Err, kerr.InconsistentGroupProtocol):
				r.fail(stream.Fatal(fmt.Errorf("group %s has members of another kind of program; give the pipeline a group of its own: %w", r.cfg.Group, e.Err)))
			case errors.Is(e.Err, kerr.UnsupportedVersion) && r.cfg.Protocol == consumer:
				r.fail(r.noConsumer(e.Err))
			case errors.As(e.Err, &session):
				r.log.Warn("group session failed; joining again", "group", r.cfg.Group, "error", e.Err)
			}
		}
	}
}

// watchLag keeps the ends of the partitions fresh that are blocked or idle (answers to fetches tell it for the others), and
// stores what is known of a quiet partition's end.
func (r *run) watchLag() {
	tick := time.NewTicker(lagInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			return
		}
		limited, cancel := context.WithTimeout(r.ctx, lagInterval)
		if tenures := r.all(); len(tenures) > 0 {
			r.look(limited, tenures)
		}
		cancel()
	}
}

func (r *run) look(ctx context.Context, tenures []*tenure) {
	var topics []string
	for _, t := range tenures {
		topics = append(topics, t.topic)
	}
	slices.Sort(topics)
	ends, _ := r.conn.admin.ListEndOffsets(ctx, slices.Compact(topics)...) // fails: the ends stay old
	for _, t := range tenures {
		if end, ok := ends.Lookup(t.topic, t.id); ok && end.Err == nil {
			t.sawEnd(end.Offset)
		}
		if err := t.settle(ctx); err != nil {
			r.log.Debug("the offset after the last control record is not stored", "partition", t.String(), "error", err)
		}
	}
}

func (r *run) all() []*tenure {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Values(r.tenures))
}

// witness notes how a client's requests and connections end.
type witness struct {
	trouble *stream.Trouble
	kind    string
}

var (
	_ kgo.HookBrokerE2E     = (*witness)(nil)
	_ kgo.HookBrokerConnect = (*witness)(nil)
)

// OnBrokerE2E implements kgo.HookBrokerE2E.
func (w *witness) OnBrokerE2E(broker kgo.BrokerMetadata, _ int16, e2e kgo.BrokerE2E) {
	w.ended(broker, e2e.Err())
}

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (w *witness) OnBrokerConnect(broker kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil { // a connection alone is no answer
		w.ended(broker, err)
	}
}

func (w *witness) ended(broker kgo.BrokerMetadata, err error) {
	what := net.Error(nil)
	switch {
	case err == nil:
	case errors.Is(err, net.ErrClosed): // by the client
		return
	case errors.As(err, &what) && what.Timeout():
		err = fmt.Errorf("broker %s:%d: no answer in time: %w", broker.Host, broker.Port, err)
	case what != nil, errors.Is(err, io.EOF):
		err = fmt.Errorf("broker %s:%d: %w", broker.Host, broker.Port, err)
	default: // another request of the connection failed, and has told why
		return
	}
	w.trouble.Ended(w.kind, err)
}

// logger passes on what the client says about trouble; the rest is for debugging.
type logger struct{ log *slog.Logger }

func (l *logger) Level() kgo.LogLevel {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		return kgo.LogLevelDebug
	}
	return kgo.LogLevelError
}

func (l *logger) Log(level kgo.LogLevel, msg string, fields ...any) {
	to := slog.LevelDebug
	if level == kgo.LogLevelError {
		to = slog.LevelWarn
	}
	l.log.Log(context.Background(), to, "kafka client: "+msg, fields...)
}
