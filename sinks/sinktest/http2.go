package sinktest

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace-io/millrace/testenv/network"
)

// HTTP2 is an HTTP/2 server that is far away. All requests of a client share a connection, which one that is given up leaves to the next.
type HTTP2 struct {
	URL string
	CA  string // file with the certificate to trust

	network *network.Proxy
}

// NewHTTP2 serves h.
func NewHTTP2(t testing.TB, h http.Handler) *HTTP2 {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	n := network.New(t, s.Listener.Addr().String())
	return &HTTP2{"https://" + n.Addr, ca, n}
}

// Forgets checks that a client, whose calls take at most half a second, gives up a connection that the network has forgotten.
func (s *HTTP2) Forgets(t *testing.T, call func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for _, f := range []network.Fault{network.Healthy, network.Forgotten} {
		s.network.Set(f)
		err := call(ctx)
		for err != nil && ctx.Err() == nil {
			err = call(ctx)
		}
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
	}
}
