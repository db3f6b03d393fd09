//go:build real

package nats

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/millrace-io/millrace/sources/sourcetest"
	"github.com/millrace-io/millrace/sources/trust"
	"github.com/millrace-io/millrace/testenv/authority"
	server "github.com/millrace-io/millrace/testenv/nats"
)

func realServer(t *testing.T, o server.ProcessOptions) *server.Process {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := server.StartProcess(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// encrypted is the setting of a server with a certificate, and whom to trust then.
func encrypted(t *testing.T) (setting string, trusted *trust.TLS) {
	t.Helper()
	a, err := authority.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cert, key, _, err := a.Issue("server")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("tls { cert_file: %q, key_file: %q }", cert, key), &trust.TLS{CA: a.CA}
}

// operator is the settings of a server whose users are known by what an operator signed, and the credentials of one of them,
// as nsc writes them. Stranger is a user of an account that the server does not know.
func operator(t *testing.T) (settings []string, user, stranger string) {
	t.Helper()
	key := func(create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		pair := must(create())
		return pair, must(pair.PublicKey())
	}
	op, opName := key(nkeys.CreateOperator)
	account, accountName := key(nkeys.CreateAccount)
	_, systemName := key(nkeys.CreateAccount)
	other, _ := key(nkeys.CreateAccount)

	claims := jwt.NewAccountClaims(accountName)
	claims.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: -1, MemoryStorage: -1, Streams: -1, Consumer: -1}
	settings = []string{
		"operator: " + must(jwt.NewOperatorClaims(opName).Encode(op)),
		"system_account: " + systemName,
		"resolver: MEMORY",
		fmt.Sprintf("resolver_preload: { %s: %s, %s: %s }", accountName, must(claims.Encode(op)), systemName, must(jwt.NewAccountClaims(systemName).Encode(op))),
	}
	credentials := func(name string, account nkeys.KeyPair) string {
		pair, public := key(nkeys.CreateUser)
		text := must(jwt.FormatUserConfig(must(jwt.NewUserClaims(public).Encode(account)), must(pair.Seed())))
		file := filepath.Join(t.TempDir(), name+".creds")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	return settings, credentials("user", account), credentials("stranger", other)
}

// The server is as operators run it: TLS, users by JWT, and every write synced.
func TestRealContractOnNATSServer(t *testing.T) {
	setting, trusted := encrypted(t)
	users, user, _ := operator(t)
	s := realServer(t, server.ProcessOptions{Settings: append(users, setting)})
	sourcetest.Run(t, backend(s.URL, 3*time.Second, func(c *Config) { c.TLS, c.Credentials = trusted, user }))
}

func TestRealServerLetsInWhomItKnows(t *testing.T) {
	setting, trusted := encrypted(t)
	_, strangers := encrypted(t)
	users, user, stranger := operator(t)
	byToken := realServer(t, server.ProcessOptions{Settings: append(users, setting)})
	byPassword := realServer(t, server.ProcessOptions{Settings: []string{setting, `authorization { user: clicks, password: "right" }`}})
	for _, c := range []struct {
		rule  string
		s     *server.Process
		right func(*Config)
		wrong map[string]func(*Config)
	}{
		{"credentials", byToken, func(c *Config) { c.TLS, c.Credentials = trusted, user }, map[string]func(*Config){
			"refuses the credentials": func(c *Config) { c.Credentials = stranger },
			"unknown authority":       func(c *Config) { c.TLS = strangers },
		}},
		{"password", byPassword, func(c *Config) { c.TLS, c.User, c.Password = trusted, "clicks", "right" }, map[string]func(*Config){
			"refuses the credentials": func(c *Config) { c.Password = "wrong" },
			"check url and tls":       func(c *Config) { c.TLS = nil },
		}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			l := newLogFor(t, c.s.URL, 10*second, 1, c.right)
			want := l.numbers(t, 0, 0, 10)
			p := sourcetest.NewPlay(t, l.source(t, newOutside(), func(*Config) {}), nil)
			if got := p.Has(l.Partition(0), 10).Values(); !slices.Equal(got, want) {
				t.Errorf("delivered %v", got)
			}
			p.Stop()
			for word, change := range c.wrong {
				err := sourcetest.NewPlay(t, l.source(t, newOutside(), change), nil).Result()
				if err == nil || !strings.Contains(err.Error(), word) {
					t.Errorf("%v; want %q", err, word)
				}
			}
		})
	}
}

func TestRealServerWithoutJetStreamIsNamed(t *testing.T) {
	s := realServer(t, server.ProcessOptions{NoJetStream: true})
	source, err := New(Config{URL: s.URL, Stream: "CLICKS"}, Options{Pipeline: "p"})
	if err != nil {
		t.Fatal(err)
	}
	fatal(t, sourcetest.NewPlay(t, source, nil).Result(), "has no JetStream; start it with -js")
}

// publish sends numbers until ctx ends, each until it is acknowledged; the server drops what comes again. It returns how many.
func (l *log) publish(ctx context.Context) int {
	for n := 0; ; n++ {
		for {
			_, err := l.js.Publish(context.WithoutCancel(ctx), l.Partition(0), []byte(strconv.Itoa(n)), jetstream.WithMsgID(strconv.Itoa(n)), jetstream.WithRetryAttempts(0))
			if err == nil {
				break
			}
		}
		if ctx.Err() != nil {
			return n + 1
		}
	}
}

func TestRealAcknowledgedMessagesSurviveKills(t *testing.T) {
	s := realServer(t, server.ProcessOptions{})
	l := newLog(t, s.URL, 30*second, 1)
	p := sourcetest.NewPlay(t, l.source(t, newOutside(), func(*Config) {}), nil)
	ctx, cancel := context.WithCancel(t.Context())
	published := make(chan int)
	go func() { published <- l.publish(ctx) }()
	for n := range 3 {
		p.Has(l.Partition(0), 100*(n+1))
		s.Kill()
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	total := <-published
	got := p.Has(l.Partition(0), total).Values()
	for n, v := range got {
		if v != strconv.Itoa(n) {
			t.Fatalf("message %d is %s: lost, doubled or out of order", n, v)
		}
	}
	if len(got) != total {
		t.Errorf("%d messages; %d were acknowledged", len(got), total)
	}
	p.Stop()
}
