//go:build real

package kafka

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-io/millrace/sources/sourcetest"
	"github.com/millrace-io/millrace/sources/trust"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/authority"
	"github.com/millrace-io/millrace/testenv/kafka"
)

// realSession is how long Apache Kafka keeps a silent member, here: of a classic group as we ask for, of a consumer group as
// testenv/kafka sets it.
const realSession = 5 * time.Second

func realBroker(t *testing.T, settings ...string) (b *kafka.Broker, dir string) {
	t.Helper()
	dir = t.TempDir()
	b, err := kafka.Start(t.Context(), kafka.Options{Dir: dir, Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	return b, dir
}

func restart(t *testing.T, b *kafka.Broker) {
	t.Helper()
	if err := b.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestRealKafka(t *testing.T) {
	b, dir := realBroker(t, "listener.name.sasl_ssl.oauthbearer.connections.max.reauth.ms=2000")
	for _, protocol := range []string{classic, consumer} {
		t.Run("TestContractOnKafka/"+protocol, func(t *testing.T) { sourcetest.Run(t, backend(b.Plain, protocol, realSession)) })
	}
	t.Run("rules", func(t *testing.T) { everyBroker(t, b.Plain) })
	t.Run("topic created again between runs", func(t *testing.T) { createdAgainBetweenRuns(t, newTopic(t, b.Plain, realSession, 1)) })
	t.Run("users", func(t *testing.T) { usersAreLetIn(t, b, dir) })
	t.Run("tokens are renewed", func(t *testing.T) { tokensAreRenewed(t, b) })
}

func TestRealBrokersWithoutProtocolConsumerEndTheRun(t *testing.T) {
	b, _ := realBroker(t, "group.coordinator.rebalance.protocols=classic")
	l := newTopic(t, b.Plain, realSession, 1)
	l.protocol = consumer
	fallsBack(t, l)
}

func TestRealFaults(t *testing.T) {
	b, _ := realBroker(t)
	for _, protocol := range []string{classic, consumer} {
		t.Run("killed broker/"+protocol, func(t *testing.T) { killedIsWaitedFor(t, b, protocol) })
	}
	logWasCut(t, b)
}

// Kafka deletes a topic's offsets with the topic. What the package comment says about that is checked here.
func createdAgainBetweenRuns(t *testing.T, l *topic) {
	l.add(t, "old")
	j := work(t, l.source(t, newOutside(), same), nil)
	j.next().waitFor(t, 1)
	j.stop()
	if _, ok := l.checkpoint(t); !ok {
		t.Fatal("nothing is committed")
	}
	old, err := l.admin.FetchOffsets(t.Context(), l.name)
	if err != nil {
		t.Fatal(err)
	}
	l.remove(t)
	wait(t, "the group has no offsets", func() bool {
		found, err := l.admin.FetchOffsets(t.Context(), l.name)
		return err == nil && len(found.Offsets()) == 0
	})
	l.create(t, l.name)
	l.client = newProducer(t, l.addr)
	l.produce(t, l.name, 0, "new")
	wait(t, "the coordinator, which may not know the new topic yet, has the old offsets", func() bool { // as of one that was down
		return l.admin.CommitAllOffsets(t.Context(), l.name, old.Offsets()) == nil
	})
	if err := work(t, l.source(t, newOutside(), same), nil).result(); err == nil || !strings.Contains(err.Error(), "deleted and created again") {
		t.Errorf("%v; want a word on the topic", err)
	}
}

func killedIsWaitedFor(t *testing.T, b *kafka.Broker, protocol string) {
	l := newTopic(t, b.Plain, realSession, 1)
	l.protocol = protocol
	l.add(t, "a", "b")
	j := work(t, l.source(t, newOutside(), same), nil)
	a := j.next()
	a.waitFor(t, 2)
	if err := a.Commit(t.Context(), a.checkpoint()); err != nil {
		t.Fatal(err)
	}
	b.Kill()
	restart(t, b)
	l.add(t, "c")
	newest := a
	wait(t, "the new record is delivered", func() bool {
		select {
		case newest = <-j.tenures:
		default:
		}
		got := newest.got()
		return len(got) > 0 && got[len(got)-1] == "c"
	})
	if err := j.stop(); err != nil {
		t.Error(err)
	}
	if c, ok := l.checkpoint(t); !ok || c.Pos != stream.OffsetPosition(2) {
		t.Errorf("checkpoint %v, %v; want 2", c.Pos, ok)
	}
}

// shorten leaves n batches of the topic's log, as a disk does that lost the rest.
func (l *topic) shorten(t *testing.T, in string, n int) {
	t.Helper()
	file := filepath.Join(in, l.name+"-0", "00000000000000000000.log")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	for range n { // base offset (8 bytes), length of the rest (4 bytes)
		size += 12 + int(binary.BigEndian.Uint32(data[size+8:]))
	}
	if err := os.Truncate(file, int64(size)); err != nil {
		t.Fatal(err)
	}
}

func logWasCut(t *testing.T, b *kafka.Broker) {
	for _, c := range []struct {
		rule    string
		running bool
		refill  int
	}{
		{rule: "the log is shorter"},
		{rule: "others took the place of records", refill: 4},
		{rule: "the log is cut while it is read", running: true},
	} {
		t.Run(c.rule, func(t *testing.T) {
			l := newTopic(t, b.Plain, realSession, 1)
			for range 4 {
				l.add(t, "acknowledged")
			}
			j := work(t, l.source(t, newOutside(), same), nil)
			a := j.next()
			a.waitFor(t, 4)
			if err := a.Commit(t.Context(), a.checkpoint()); err != nil {
				t.Fatal(err)
			}
			if !c.running {
				j.stop()
			}
			b.Kill()
			l.shorten(t, b.Data, 2)
			restart(t, b)
			for range c.refill {
				l.add(t, "another")
			}
			if !c.running {
				j = work(t, l.source(t, newOutside(), same), nil)
			}
			err := j.result()
			var fatal *stream.FatalError
			if !errors.As(err, &fatal) || !strings.Contains(err.Error(), "offsets 2 to 3 of the log") {
				t.Errorf("%v; want what is lost", err)
			}
		})
	}
}

// unsigned is a token that nobody signed, which brokers believe that are told so.
func unsigned(t *testing.T, life time.Duration) string {
	t.Helper()
	part := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	now := time.Now()
	return part(map[string]any{"alg": "none"}) + "." + part(map[string]any{"sub": "millrace", "iat": now.Add(-time.Minute).Unix(), "exp": now.Add(life).Unix()}) + "."
}

// identity is an identity provider that knows one client, and says that its tokens live so long.
func identity(t *testing.T, life time.Duration) (server *httptest.Server, asked *atomic.Int64, ca string) {
	t.Helper()
	a, err := authority.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cert, key, _, err := a.Issue("identity")
	if err != nil {
		t.Fatal(err)
	}
	config, err := (&trust.TLS{Cert: cert, Key: key}).Load()
	if err != nil {
		t.Fatal(err)
	}
	asked = new(atomic.Int64)
	server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if id, secret, _ := r.BasicAuth(); id != "millrace" || secret != "right" {
			http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":%d}`, unsigned(t, time.Hour), int(life.Seconds()))
	}))
	server.TLS = config
	server.StartTLS()
	t.Cleanup(server.Close)
	return server, asked, a.CA
}

func usersAreLetIn(t *testing.T, b *kafka.Broker, dir string) {
	l := newTopic(t, b.Plain, realSession, 1)
	l.add(t, "a")
	provider, _, ca := identity(t, time.Hour)
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	trusted := &trust.TLS{CA: b.CA}
	grant := SASL{Mechanism: "oauthbearer", TokenURL: provider.URL, TokenTLS: &trust.TLS{CA: ca}, ClientID: "millrace", ClientSecret: "right"}
	refused := grant
	refused.ClientSecret = "wrong"
	for _, c := range []struct {
		rule string
		addr string
		tls  *trust.TLS
		sasl *SASL
		want string // of the error; empty: none
	}{
		{"TLS", b.TLS, trusted, nil, ""},
		{"TLS of an unknown authority", b.TLS, &trust.TLS{}, nil, "certificate signed by unknown authority"},
		{"SCRAM", b.SASL, trusted, &SASL{Username: kafka.User, Password: kafka.Password}, ""},
		{"SCRAM with a wrong password", b.SASL, trusted, &SASL{Username: kafka.User, Password: "wrong"}, "the brokers refuse the credentials; check sasl"},
		{"SCRAM of another kind", b.SASL, trusted, &SASL{Mechanism: "scram-sha-256", Username: kafka.User, Password: kafka.Password}, "the brokers refuse the credentials; check sasl"},
		{"a token from a file", b.SASL, trusted, &SASL{Mechanism: "oauthbearer", TokenFile: file("token", unsigned(t, time.Hour)+"\n")}, ""},
		{"a token that expired", b.SASL, trusted, &SASL{Mechanism: "oauthbearer", TokenFile: file("expired", unsigned(t, -30*time.Second))}, "check"},
		{"no token file", b.SASL, trusted, &SASL{Mechanism: "oauthbearer", TokenFile: filepath.Join(dir, "none")}, "sasl.token_file: open"},
		{"a token from an endpoint", b.SASL, trusted, &grant, ""},
		{"an endpoint that refuses", b.SASL, trusted, &refused, "sasl.token_url: 401 Unauthorized invalid_client"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			s := l.dialing(t, nil, func(cfg *Config) { cfg.Brokers, cfg.TLS, cfg.SASL = []string{c.addr}, c.tls, c.sasl })
			s.contact = 5 * time.Second
			j := work(t, s, failDrain)
			if c.want != "" {
				if err := j.result(); err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v; want %q", err, c.want)
				}
				return
			}
			j.next().waitFor(t, 1)
			if err := j.stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

func tokensAreRenewed(t *testing.T, b *kafka.Broker) {
	l := newTopic(t, b.Plain, realSession, 1)
	provider, asked, ca := identity(t, 2*time.Second)
	j := work(t, l.dialing(t, nil, func(c *Config) {
		c.Brokers, c.TLS = []string{b.SASL}, &trust.TLS{CA: b.CA}
		c.SASL = &SASL{Mechanism: "oauthbearer", TokenURL: provider.URL, TokenTLS: &trust.TLS{CA: ca}, ClientID: "millrace", ClientSecret: "right"}
	}), nil)
	a := j.next()
	for n := range 4 {
		before := asked.Load()
		wait(t, "another token is asked for", func() bool { return asked.Load() > before })
		l.add(t, fmt.Sprint(n))
	}
	a.waitFor(t, 4)
	if err := j.stop(); err != nil {
		t.Error(err)
	}
	if c, ok := l.checkpoint(t); !ok || c.Pos != stream.OffsetPosition(3) {
		t.Errorf("checkpoint %v, %v; want 3", c.Pos, ok)
	}
}
