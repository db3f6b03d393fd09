//go:build real

package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRealBrokerKeepsWhatItAcknowledgedThroughAKill(t *testing.T) {
	b, err := Start(t.Context(), Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	client := connect(t, kgo.SeedBrokers(b.Plain), kgo.DefaultProduceTopic("clicks"))
	if _, err := kadm.NewClient(client).CreateTopic(t.Context(), 1, 1, nil, "clicks"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := client.ProduceSync(t.Context(), kgo.StringRecord("kept")).FirstErr(); err != nil {
			t.Fatal(err)
		}
		b.Kill()
		if err := b.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ends, err := kadm.NewClient(client).ListEndOffsets(t.Context(), "clicks")
	if end, _ := ends.Lookup("clicks", 0); err != nil || end.Offset != 2 {
		t.Errorf("the partition ends at %d, %v; want 2", end.Offset, err)
	}
}

func TestRealBrokerWantsTLSAndAUser(t *testing.T) {
	b, err := Start(t.Context(), Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	pem, err := os.ReadFile(b.CA)
	if err != nil {
		t.Fatal(err)
	}
	trusted := &tls.Config{RootCAs: x509.NewCertPool()}
	trusted.RootCAs.AppendCertsFromPEM(pem)
	user := kgo.SASL(scram.Auth{User: User, Pass: Password}.AsSha512Mechanism())
	for _, c := range []struct {
		rule string
		opts []kgo.Opt
		ok   bool
	}{
		{"TLS", []kgo.Opt{kgo.SeedBrokers(b.TLS), kgo.DialTLSConfig(trusted)}, true},
		{"TLS of an unknown authority", []kgo.Opt{kgo.SeedBrokers(b.TLS), kgo.DialTLSConfig(&tls.Config{RootCAs: x509.NewCertPool()})}, false},
		{"a user", []kgo.Opt{kgo.SeedBrokers(b.SASL), kgo.DialTLSConfig(trusted), user}, true},
		{"no user", []kgo.Opt{kgo.SeedBrokers(b.SASL), kgo.DialTLSConfig(trusted)}, false},
	} {
		if err := connect(t, append(c.opts, kgo.RequestRetries(0))...).Ping(t.Context()); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.rule, err)
		}
	}
}

func TestRealAClusterThatDoesNotStartLeavesNoProcess(t *testing.T) {
	dir := t.TempDir()
	if _, err := StartCluster(t.Context(), Options{Dir: dir, Settings: []string{"ssl.keystore.location=/nowhere"}}, 3); err == nil {
		t.Fatal("brokers start without their certificate")
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(commands) == 0 {
		t.Fatal("no list of processes", err)
	}
	for _, file := range commands {
		if text, _ := os.ReadFile(file); strings.Contains(string(text), dir) {
			t.Errorf("%s lives on", file)
		}
	}
}

func TestRealMissingJarsSayWhatInstallsThem(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	if _, err := Start(context.Background(), Options{Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "testenv/install.sh") {
		t.Errorf("%v; want a word on testenv/install.sh", err)
	}
}

func connect(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append(opts, kgo.DisableClientMetrics())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}
