package trust

// Mutations seen red: what was broken -> the test that went red.
//
//	any server is believed                  -> TestOnlyWhoIsTrustedIsTalkedTo
//	the CA is not used                      -> TestOnlyWhoIsTrustedIsTalkedTo
//	our certificate is not shown            -> TestOnlyWhoIsTrustedIsTalkedTo
//	insecure beside a CA is fine            -> TestValidateNamesEveryProblem

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace-io/millrace/testenv/authority"
)

func TestValidateNamesEveryProblem(t *testing.T) {
	err := (&TLS{Cert: "c", CA: "x", Insecure: true}).Validate()
	for _, want := range []string{"tls.cert and tls.key", "tls.insecure"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want a word on %s", err, want)
		}
	}
	for _, fine := range []*TLS{nil, {}, {CA: "x", Cert: "c", Key: "k"}, {Insecure: true}} {
		if err := fine.Validate(); err != nil {
			t.Errorf("%+v: %v", fine, err)
		}
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]TLS{
		"tls.ca: open":           {CA: empty + ".not"},
		"has no PEM certificate": {CA: empty},
		"tls.cert":               {Cert: empty, Key: empty},
	} {
		if _, err := c.Load(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v; want %q", c, err, want)
		}
	}
}

// The server wants a certificate of its clients, and both sides are signed by one authority.
func TestOnlyWhoIsTrustedIsTalkedTo(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	cert, key := issue(t, ours, "client")
	strangeCert, strangeKey := issue(t, theirs, "client")
	address := serve(t, ours)
	for _, c := range []struct {
		rule string
		tls  TLS
		ok   bool
	}{
		{"both know each other", TLS{CA: ours.CA, Cert: cert, Key: key}, true},
		{"another authority signed the server", TLS{CA: theirs.CA, Cert: cert, Key: key}, false},
		{"the system does not know the server", TLS{Cert: cert, Key: key}, false},
		{"any server is believed", TLS{Insecure: true, Cert: cert, Key: key}, true},
		{"no certificate of ours", TLS{CA: ours.CA}, false},
		{"another authority signed ours", TLS{CA: ours.CA, Cert: strangeCert, Key: strangeKey}, false},
	} {
		if err := talk(t, address, c.tls); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.rule, err)
		}
	}
}

func newAuthority(t *testing.T) *authority.Authority {
	t.Helper()
	a, err := authority.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func issue(t *testing.T, a *authority.Authority, name string) (cert, key string) {
	t.Helper()
	cert, key, _, err := a.Issue(name)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// serve says "hello" to every client whose certificate a signed.
func serve(t *testing.T, a *authority.Authority) (address string) {
	t.Helper()
	cert, key := issue(t, a, "server")
	config, err := (&TLS{CA: a.CA, Cert: cert, Key: key}).Load()
	if err != nil {
		t.Fatal(err)
	}
	config.ClientCAs, config.ClientAuth = config.RootCAs, tls.RequireAndVerifyClientCert
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("hello")) // fails for a client that is refused
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-served
	})
	return l.Addr().String()
}

func talk(t *testing.T, address string, c TLS) error {
	t.Helper()
	config, err := c.Load()
	if err != nil {
		t.Fatal(err)
	}
	config.ServerName = "127.0.0.1"
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = tls.Client(conn, config).Read(make([]byte, 5))
	return err
}
