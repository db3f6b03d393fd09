package kafka

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/sources/sourcetest"
	"github.com/millrace-io/millrace/sources/trust"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/broker"
)

// deadline of every wait; a green run never reaches it.
const deadline = time.Minute

// job is a Run whose consumers keep what they get.
type job struct {
	t       *testing.T
	cancel  context.CancelFunc
	ran     chan error
	tenures chan *taker
	take    func(*taker, []stream.Record) error // nil: take everything
	drain   func(*taker) error                  // nil: commit the last record
}

// taker is one tenure's consumer.
type taker struct {
	stream.Assignment
	job *job

	mu     sync.Mutex
	values []string
	last   stream.Position

	aborted atomic.Bool
}

func work(t *testing.T, s *Source, change func(*job)) *job {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	j := &job{t: t, cancel: cancel, ran: make(chan error, 1), tenures: make(chan *taker, 100)}
	if change != nil {
		change(j)
	}
	go func() {
		j.ran <- s.Run(ctx, func(a stream.Assignment) (stream.Consumer, error) {
			c := &taker{Assignment: a, job: j}
			j.tenures <- c
			return c, nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		j.result()
	})
	return j
}

func (j *job) stop() error {
	j.cancel()
	return j.result()
}

func (j *job) result() error {
	select {
	case err := <-j.ran:
		j.ran <- err
		return err
	case <-time.After(deadline):
		j.t.Error("Run does not return")
		return errors.New("Run does not return")
	}
}

func (j *job) next() *taker {
	j.t.Helper()
	select {
	case c := <-j.tenures:
		return c
	case err := <-j.ran:
		j.ran <- err
		j.t.Fatalf("Run returned %v before an assignment", err)
	case <-time.After(deadline):
		j.t.Fatal("no assignment")
	}
	return nil
}

func wait(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(deadline); !cond(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited too long until %s", what)
		}
	}
}

func (c *taker) Start() (stream.Position, bool) {
	cp, ok := c.Committed()
	return cp.Pos, ok
}

func (c *taker) Deliver(_ context.Context, rs []stream.Record) error {
	if c.job.take != nil {
		if err := c.job.take(c, rs); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range rs {
		c.values = append(c.values, string(r.Value))
		c.last = r.Pos
	}
	return nil
}

func (c *taker) Drain(ctx context.Context, _ stream.Why) error {
	if c.job.drain != nil {
		return c.job.drain(c)
	}
	if len(c.got()) == 0 {
		return nil
	}
	return c.Commit(ctx, c.checkpoint())
}

func (c *taker) Abort() { c.aborted.Store(true) }

func (c *taker) got() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.values...)
}

func (c *taker) checkpoint() stream.Checkpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	return stream.Checkpoint{Pos: c.last, Note: []byte("note")}
}

func (c *taker) waitFor(t *testing.T, n int) {
	t.Helper()
	wait(t, fmt.Sprintf("%d records are delivered", n), func() bool { return len(c.got()) >= n })
}

func (l *topic) add(t *testing.T, values ...string) {
	t.Helper()
	ms := make([]sourcetest.Message, len(values))
	for i, v := range values {
		ms[i].Value = []byte(v)
	}
	l.Append(t, 0, ms...)
}

func failDrain(j *job) { j.drain = func(*taker) error { return errors.New("drain fails") } }

func same(*Config) {}

func TestRunSaysWhatIsWrongAtTheFirstContact(t *testing.T) {
	t.Parallel()
	users := start(t, broker.Options{Extra: []kfake.Opt{kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-512", "millrace", "right"), kfake.SeedTopics(1, "clicks")}})
	open := start(t, broker.Options{Topics: []string{"clicks"}})
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, c := range []struct {
		rule  string
		cfg   Config
		want  string
		fatal bool
	}{
		{"missing topic", Config{Brokers: []string{open.Addr}, Topics: []string{"clicks", "orders"}}, `topic "orders" does not exist; create it or fix topics`, true},
		{"nobody there", Config{Brokers: []string{closed.Addr().String()}, Topics: []string{"clicks"}}, "connection refused", false},
		{"wrong password", Config{Brokers: []string{users.Addr}, Topics: []string{"clicks"}, SASL: &SASL{Username: "millrace", Password: "wrong"}}, "check brokers, tls and sasl", false},
		{"no password", Config{Brokers: []string{users.Addr}, Topics: []string{"clicks"}}, "check brokers, tls and sasl", false},
		{"TLS to a plain port", Config{Brokers: []string{open.Addr}, Topics: []string{"clicks"}, TLS: &trust.TLS{}}, "TLS with 127.0.0.1", false},
	} {
		t.Run(c.rule, func(t *testing.T) {
			s, err := New(c.cfg, Options{Pipeline: "p"})
			if err != nil {
				t.Fatal(err)
			}
			s.contact = time.Second
			err = work(t, s, nil).result()
			var fatal *stream.FatalError
			if err == nil || !strings.Contains(err.Error(), c.want) || errors.As(err, &fatal) != c.fatal {
				t.Errorf("%v (fatal: %v); want %q (fatal: %v)", err, errors.As(err, &fatal), c.want, c.fatal)
			}
		})
	}
}

func TestRunSpeaksTLSAndSCRAM(t *testing.T) {
	t.Parallel()
	ca, server := certificate(t)
	for _, mechanism := range []string{"plain", "scram-sha-256", "scram-sha-512"} {
		b := start(t, broker.Options{Topics: []string{"clicks"}, Extra: []kfake.Opt{kfake.EnableSASL(), kfake.Superuser(strings.ToUpper(mechanism), "millrace", "right"), kfake.TLS(server)}})
		s, err := New(Config{Brokers: []string{b.Addr}, Topics: []string{"clicks"}, TLS: &trust.TLS{CA: ca}, SASL: &SASL{Mechanism: mechanism, Username: "millrace", Password: "right"}}, Options{Pipeline: "p"})
		if err != nil {
			t.Fatal(err)
		}
		j := work(t, s, nil)
		j.next()
		if err := j.stop(); err != nil {
			t.Errorf("%s: %v", mechanism, err)
		}
	}
}

func TestRefusedCredentialsAreFatal(t *testing.T) {
	t.Parallel()
	for _, code := range []*kerr.Error{kerr.SaslAuthenticationFailed, kerr.TopicAuthorizationFailed, kerr.GroupAuthorizationFailed} {
		var fatal *stream.FatalError
		if err := (&Source{}).refusal(fmt.Errorf("request: %w", code), nil); !errors.As(err, &fatal) || !errors.Is(err, code) {
			t.Errorf("%v is not fatal: %v", code, err)
		}
	}
}

func TestGroupThatRefusesUsEndsTheRun(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{})
	for code, want := range map[*kerr.Error]string{kerr.GroupAuthorizationFailed: "READ on the group", kerr.InvalidSessionTimeout: "session_timeout", kerr.InconsistentGroupProtocol: "group of its own"} {
		t.Run(code.Message, func(t *testing.T) {
			l := newTopic(t, b.Addr, session, 1)
			b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.JoinGroup}, Group: l.name, Err: code, Count: -1})
			if err := work(t, l.source(t, newOutside(), same), nil).result(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v; want %q", err, want)
			}
		})
	}
}

// certificate makes a self-signed one for 127.0.0.1.
func certificate(t *testing.T) (file string, server *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

func TestCommitErrorsSayWhatTheEngineDoes(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{})
	for _, c := range []struct {
		code  *kerr.Error
		lost  bool
		fatal bool
	}{
		{kerr.RebalanceInProgress, false, false},
		{kerr.NotCoordinator, false, false},
		{kerr.CoordinatorLoadInProgress, false, false},
		{kerr.UnknownServerError, false, false},
		{kerr.IllegalGeneration, true, false},
		{kerr.UnknownMemberID, true, false},
		{kerr.FencedInstanceID, true, false},
		{kerr.OffsetMetadataTooLarge, false, true},
		{kerr.GroupAuthorizationFailed, false, true},
		{kerr.TopicAuthorizationFailed, false, true},
	} {
		t.Run(c.code.Message, func(t *testing.T) {
			l := newTopic(t, b.Addr, session, 1)
			l.add(t, "a", "b")
			j := work(t, l.source(t, newOutside(), same), failDrain)
			a := j.next()
			a.waitFor(t, 2)
			fault := b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Group: l.name, Err: c.code, Count: -1})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err := a.Commit(ctx, a.checkpoint())
			var fatal *stream.FatalError
			if err == nil || errors.Is(err, stream.ErrLost) != c.lost || errors.As(err, &fatal) != c.fatal {
				t.Errorf("%v; want lost %v, fatal %v", err, c.lost, c.fatal)
			}
			fault.Remove()
			if c.lost {
				wait(t, "Done is closed", a.Assignment.(*tenure).isGone)
				if err := a.Commit(t.Context(), a.checkpoint()); !errors.Is(err, stream.ErrLost) {
					t.Errorf("commit after the loss: %v", err)
				}
				return
			}
			if err := a.Commit(t.Context(), a.checkpoint()); err != nil {
				t.Errorf("again: %v", err)
			}
		})
	}
}

// holdJoin lets the member's next JoinGroup wait for release.
func holdJoin(b *broker.Broker, member string) (joining, release chan struct{}) {
	joining, release = make(chan struct{}), make(chan struct{})
	b.ControlKey(int16(kmsg.JoinGroup), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.KeepControl()
		if req.(*kmsg.JoinGroupRequest).MemberID == member {
			b.DropControl()
			b.SleepControl(func() {
				close(joining)
				<-release
			})
		}
		return nil, nil, false
	})
	return joining, release
}

func TestCommitThatTimedOutIsNotOvertaken(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{})
	l := newTopic(t, b.Addr, session, 1)
	l.add(t, strings.Split("abcdefghijkl", "")...)
	a := work(t, l.source(t, newOutside(), same), failDrain).next()
	a.waitFor(t, 12)

	// A second worker makes the group rebalance, and the first one's join gets no answer: no commit can be sent meanwhile.
	first := b.GroupInfo(l.name).Members[0].MemberID
	joining, release := holdJoin(b, first)
	work(t, l.source(t, newOutside(), same), nil)
	<-joining
	for n := range uint64(11) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		if err := a.Commit(ctx, stream.Checkpoint{Pos: stream.OffsetPosition(n)}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("commit while the group rebalances: %v", err)
		}
		cancel()
	}
	close(release)
	if err := a.Commit(t.Context(), a.checkpoint()); err != nil {
		t.Fatal(err)
	}
	found, err := l.source(t, newOutside(), same).Checkpoints(t.Context())
	if err != nil || found[a.Partition()].Pos != stream.OffsetPosition(11) {
		t.Errorf("checkpoint %v, %v; want the last one", found, err)
	}
}

func TestReplyLostInACrashIsFoundByTheHeir(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{})
	l := newTopic(t, b.Addr, session, 1)
	l.add(t, "a", "b")
	o := newOutside()
	j := work(t, l.source(t, o, same), failDrain)
	a := j.next()
	a.waitFor(t, 2)
	o.loseReply(func() { go o.sever() })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := a.Commit(ctx, a.checkpoint()); err == nil {
		t.Error("a commit without a reply succeeded")
	}
	heir := work(t, l.source(t, newOutside(), same), nil).next()
	if c, ok := heir.Committed(); !ok || c.Pos != a.last || heir.Epoch() <= a.Epoch() {
		t.Errorf("the heir found %v, %v with epoch %d after %d", c, ok, heir.Epoch(), a.Epoch())
	}
	if err := j.stop(); err != nil {
		t.Errorf("Run of the severed worker: %v", err)
	}
}

// letGo has the group do without a member.
func (l *topic) letGo(t *testing.T, member string) {
	t.Helper()
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = l.name
	req.Members = append(req.Members, kmsg.LeaveGroupRequestMember{MemberID: member})
	if _, err := req.RequestWith(t.Context(), l.client); err != nil {
		t.Fatal(err)
	}
}

func TestMemberThatWasKickedOutComesBack(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{})
	l := newTopic(t, b.Addr, session, 1)
	l.add(t, "a", "b")
	j := work(t, l.source(t, newOutside(), same), nil)
	a := j.next()
	a.waitFor(t, 2)
	if err := a.Commit(t.Context(), a.checkpoint()); err != nil {
		t.Fatal(err)
	}
	l.letGo(t, b.GroupInfo(l.name).Members[0].MemberID)
	again := j.next()
	l.add(t, "c")
	again.waitFor(t, 1)
	if got := again.got(); got[0] != "c" || again.Epoch() <= a.Epoch() {
		t.Errorf("delivered %v with epoch %d after %d", got, again.Epoch(), a.Epoch())
	}
	if err := a.Commit(t.Context(), a.checkpoint()); !errors.Is(err, stream.ErrLost) {
		t.Errorf("commit of the lost tenure in the member's new generation: %v", err)
	}
	if !a.aborted.Load() {
		t.Error("the lost tenure was not aborted")
	}
}

// A member that was let go may learn it when it joins again, from an answer that its client keeps to itself; it then takes for its own all
// along what another one had meanwhile.
func TestMemberThatWasKickedOutBetweenTwoGenerationsBeginsAnew(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{})
	l := newTopic(t, b.Addr, session, 1)
	l.add(t, "a", "b")
	j := work(t, l.source(t, newOutside(), same), nil)
	a := j.next()
	a.waitFor(t, 2)
	member := b.GroupInfo(l.name).Members[0].MemberID
	joining, release := holdJoin(b, member)
	other := work(t, l.source(t, newOutside(), same), nil)
	<-joining
	l.letGo(t, member)
	meanwhile := other.next()
	meanwhile.waitFor(t, 2)
	if err := other.stop(); err != nil {
		t.Fatal(err)
	}
	committed := make(chan error, 1)
	go func() { committed <- a.Commit(t.Context(), a.checkpoint()) }() // waits until the group is stable
	close(release)
	again := j.next()
	l.add(t, "c")
	again.waitFor(t, 1)
	if got := again.got(); got[0] != "c" || again.Epoch() <= meanwhile.Epoch() {
		t.Errorf("delivered %v with epoch %d after %d", got, again.Epoch(), meanwhile.Epoch())
	}
	if err := <-committed; !errors.Is(err, stream.ErrLost) {
		t.Errorf("commit of the lost tenure as the new member: %v", err)
	}
	if !a.aborted.Load() {
		t.Error("the lost tenure was not aborted")
	}
}

// Nobody else reads a partition whose owner was told wrongly that it is out.
func TestTenureThatACommitFoundLostIsReplacedInTheNextGeneration(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{})
	l := newTopic(t, b.Addr, session, 1)
	l.add(t, "a", "b")
	j := work(t, l.source(t, newOutside(), same), failDrain)
	a := j.next()
	a.waitFor(t, 2)
	b.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Group: l.name, Err: kerr.UnknownMemberID, Count: 1})
	if err := a.Commit(t.Context(), a.checkpoint()); !errors.Is(err, stream.ErrLost) {
		t.Fatalf("%v; want ErrLost", err)
	}
	work(t, l.source(t, newOutside(), same), failDrain) // another member: another generation
	j.next().waitFor(t, 2)
}

func TestRetentionThatOvertakesTheReaderIsNoSilentJump(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{})
	for _, reset := range []string{fail, earliest} {
		t.Run(reset, func(t *testing.T) {
			l := newTopic(t, b.Addr, session, 1)
			big := strings.Repeat("x", 60<<10)
			for range 8 {
				l.add(t, big)
			}
			release := make(chan struct{})
			first := make(chan struct{})
			var once sync.Once
			j := work(t, l.source(t, newOutside(), func(c *Config) { c.Reset, c.Fetch = reset, Fetch{MaxBytes: 64 << 10, PartitionBytes: 1 << 10} }), func(j *job) {
				j.take = func(*taker, []stream.Record) error {
					once.Do(func() { close(first) })
					<-release
					return nil
				}
			})
			a := j.next()
			<-first
			for range 8 {
				l.add(t, "late")
			}
			l.Trim(t, 0, 12)
			close(release)
			if reset == earliest {
				wait(t, "the last record is delivered", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return a.last.Offset() == 15 })
				return
			}
			err := j.result()
			if !errors.Is(err, stream.ErrRetention) || !strings.Contains(err.Error(), "to 11") {
				t.Errorf("%v; want ErrRetention with the range", err)
			}
			if a.last.Offset() > 11 {
				t.Errorf("delivered offset %d past the gap", a.last.Offset())
			}
		})
	}
}

func TestCheckpointBeyondTheLogIsAnError(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{})
	l := newTopic(t, b.Addr, session, 1)
	l.add(t, "a")
	l.commit(t, 7, "")
	if err := work(t, l.source(t, newOutside(), same), nil).result(); err == nil || !strings.Contains(err.Error(), "lost records that were read already: offsets 1 to 6") {
		t.Errorf("%v; want an error about what is lost", err)
	}
}

// commit stores an offset as an operator does.
func (l *topic) commit(t *testing.T, at int64, metadata string) {
	t.Helper()
	offsets := kadm.Offsets{}
	offsets.Add(kadm.Offset{Topic: l.name, Partition: 0, At: at, LeaderEpoch: -1, Metadata: metadata})
	if err := l.admin.CommitAllOffsets(t.Context(), l.name, offsets); err != nil {
		t.Fatal(err)
	}
}

func TestTopicThatWasCreatedAgainIsAnError(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{})
	l := newTopic(t, b.Addr, session, 1)
	l.add(t, "a")
	text, err := mark{committed: true, epoch: 3, topic: kadm.TopicID{1, 2, 3}}.metadata()
	if err != nil {
		t.Fatal(err)
	}
	l.commit(t, 1, text)
	if err := work(t, l.source(t, newOutside(), same), nil).result(); err == nil || !strings.Contains(err.Error(), "deleted and created again") {
		t.Errorf("%v; want an error about the topic", err)
	}
}

func TestOffsetOfAnotherProgramIsTakenOver(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{})
	l := newTopic(t, b.Addr, session, 1)
	l.add(t, "a", "b", "c")
	l.commit(t, 2, "somebody's")
	a := work(t, l.source(t, newOutside(), same), nil).next()
	a.waitFor(t, 1)
	if c, ok := a.Committed(); !ok || c.Pos != stream.OffsetPosition(1) || len(c.Note) != 0 || a.got()[0] != "c" {
		t.Errorf("committed %v, %v; delivered %v", c, ok, a.got())
	}
}

func TestStartIsDecidedAtFirstSight(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{})
	then := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	for _, c := range []struct {
		start string
		want  []string // of the first run, and, as it commits nothing, of the second
	}{
		{earliest, []string{"old", "new", "later"}},
		{latest, []string{"later"}},
		{then.Format(time.RFC3339), []string{"new", "later"}},
		{then.Add(9 * time.Hour).Format(time.RFC3339), []string{"later"}},
	} {
		t.Run(c.start, func(t *testing.T) {
			l := newTopic(t, b.Addr, session, 1)
			old := &kgo.Record{Topic: l.name, Value: []byte("old"), Timestamp: then.Add(-time.Second)}
			recent := &kgo.Record{Topic: l.name, Value: []byte("new"), Timestamp: then}
			if err := l.client.ProduceSync(t.Context(), old, recent).FirstErr(); err != nil {
				t.Fatal(err)
			}
			config := func(cfg *Config) { cfg.Start = c.start }
			for n := range 2 {
				j := work(t, l.source(t, newOutside(), config), failDrain)
				a := j.next()
				if n == 0 {
					l.add(t, "later")
				}
				a.waitFor(t, len(c.want))
				if got := a.got(); fmt.Sprint(got) != fmt.Sprint(c.want) {
					t.Errorf("run %d delivered %v; want %v", n+1, got, c.want)
				}
				j.stop()
			}
		})
	}
}

func TestStaticMemberKeepsItsPartitionsOverARestart(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{})
	l := newTopic(t, b.Addr, session, 1)
	config := func(c *Config) { c.Instance = "one" }
	var last uint64
	var generation int32
	for range 3 {
		l.add(t, "a")
		j := work(t, l.source(t, newOutside(), config), failDrain)
		a := j.next()
		a.waitFor(t, 1)
		if a.Epoch() <= last {
			t.Errorf("epoch %d after %d, without a commit and within a generation", a.Epoch(), last)
		}
		last = a.Epoch()
		if g := b.GroupInfo(l.name).Epoch; generation != 0 && g != generation {
			t.Errorf("the restart moved the group from generation %d to %d", generation, g)
		} else {
			generation = g
		}
		j.stop()
	}
}

func TestBrokerRestartIsWaitedFor(t *testing.T) {
	t.Parallel()
	o := broker.Options{Dir: t.TempDir()}
	b, err := broker.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	l := newTopic(t, b.Addr, session, 1)
	l.add(t, "a", "b")
	j := work(t, l.source(t, newOutside(), same), nil)
	a := j.next()
	a.waitFor(t, 2)
	if err := a.Commit(t.Context(), a.checkpoint()); err != nil {
		t.Fatal(err)
	}
	b.Close()
	o.Addr = b.Addr
	start(t, o)
	l.add(t, "c", "d")
	got := a
	wait(t, "the new records are delivered", func() bool {
		select {
		case got = <-j.tenures:
		default:
		}
		all := got.got()
		return len(all) > 0 && all[len(all)-1] == "d"
	})
	if err := j.stop(); err != nil {
		t.Error(err)
	}
	found, err := l.source(t, newOutside(), same).Checkpoints(t.Context())
	if err != nil || found[a.Partition()].Pos != stream.OffsetPosition(3) {
		t.Errorf("checkpoint %v, %v", found, err)
	}
}

func TestStopLeavesTheGroupAtOnce(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{Extra: []kfake.Opt{kfake.BrokerConfigs(map[string]string{"group.consumer.session.timeout.ms": "60000"})}})
	for rule, config := range map[string]func(*Config){
		"classic":           func(c *Config) { c.SessionTimeout, c.RebalanceTimeout = time.Minute, time.Minute },
		"consumer":          func(c *Config) { c.Protocol, c.SessionTimeout = consumer, 0 },
		"consumer by name":  func(c *Config) { c.Protocol, c.SessionTimeout, c.Instance = consumer, 0, "one" },
		"classic by a name": func(c *Config) { c.SessionTimeout, c.RebalanceTimeout, c.Instance = time.Minute, time.Minute, "one" },
	} {
		t.Run(rule, func(t *testing.T) {
			l := newTopic(t, b.Addr, session, 1)
			for range 2 { // the second one would wait a minute for a member that did not leave
				j := work(t, l.source(t, newOutside(), config), nil)
				j.next()
				j.stop()
			}
		})
	}
}

func TestStopIsBoundedWhenTheBrokerIsGone(t *testing.T) {
	t.Parallel()
	b, err := broker.Start(broker.Options{Topics: []string{"clicks"}, Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Brokers: []string{b.Addr}, Topics: []string{"clicks"}, SessionTimeout: session}, Options{Pipeline: "p"})
	if err != nil {
		t.Fatal(err)
	}
	j := work(t, s, nil)
	j.next()
	b.Close()
	began := time.Now()
	if err := j.stop(); err != nil || time.Since(began) > 2*leaveTimeout {
		t.Errorf("Run returned %v after %v", err, time.Since(began))
	}
}

func TestBlockedPartitionHoldsBoundedMemory(t *testing.T) {
	t.Parallel()
	b := start(t, broker.Options{})
	l := newTopic(t, b.Addr, session, 2)
	const limit = 256 << 10
	release := make(chan struct{})
	j := work(t, l.source(t, newOutside(), func(c *Config) { c.Fetch = Fetch{MaxBytes: limit, PartitionBytes: 64 << 10} }), func(j *job) {
		j.take = func(c *taker, _ []stream.Record) error {
			if c.Partition() == l.Partition(0) {
				<-release
			}
			return nil
		}
	})
	takers := map[string]*taker{}
	for range 2 {
		c := j.next()
		takers[c.Partition()] = c
	}
	var ms []sourcetest.Message
	for n := range 100 {
		ms = append(ms, sourcetest.Message{Value: fmt.Appendf(nil, "%06d%s", n, strings.Repeat(" ", 16<<10))})
	}
	for i := range 2 {
		for n := 0; n < len(ms); n += 4 { // batches are fetched whole
			l.Append(t, i, ms[n:n+4]...)
		}
	}
	takers[l.Partition(1)].waitFor(t, len(ms))
	r := takers[l.Partition(0)].Assignment.(*tenure).run.reader
	r.mu.Lock()
	if r.queued > 2*limit+2*(65<<10) { // an answer may be one batch longer in each partition
		t.Errorf("%d bytes are queued with a limit of %d", r.queued, limit)
	}
	r.mu.Unlock()
	close(release)
	blocked := takers[l.Partition(0)]
	blocked.waitFor(t, len(ms))
	for n, v := range blocked.got() {
		if v[:6] != fmt.Sprintf("%06d", n) {
			t.Fatalf("record %d of the blocked partition is %q", n, v[:6])
		}
	}
}
