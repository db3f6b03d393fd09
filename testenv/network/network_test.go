package network

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, Leftovers()...) }

// server answers each line with the same line, and counts the bytes that it got.
type server struct {
	net.Listener
	got atomic.Int64
}

func serve(t *testing.T) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Listener: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.echo(c)
		}
	}()
	return s
}

func (s *server) echo(c net.Conn) {
	defer c.Close()
	buffer := make([]byte, 4096)
	for {
		n, err := c.Read(buffer)
		s.got.Add(int64(n))
		if err != nil {
			return
		}
		if _, err := c.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// ask sends a line of n bytes and returns how long its echo took.
func ask(t *testing.T, c net.Conn, n int) time.Duration {
	t.Helper()
	began := time.Now()
	line := strings.Repeat("x", n-1) + "\n"
	if _, err := io.WriteString(c, line); err != nil {
		t.Fatal(err)
	}
	if got, err := bufio.NewReaderSize(c, n).ReadString('\n'); got != line || err != nil {
		t.Fatalf("%d of %d bytes come back, %v", len(got), n, err)
	}
	return time.Since(began)
}

// opened are connections from before and after the fault began.
func opened(t *testing.T, f Fault) (s *server, p *Proxy, conns map[string]net.Conn) {
	t.Helper()
	s = serve(t)
	p = New(t, s.Addr().String())
	before := dial(t, p)
	ask(t, before, 10)
	p.Set(f)
	return s, p, map[string]net.Conn{"before": before, "after": dial(t, p)}
}

func TestLatencyAndBandwidthTakeTheirTimeAndEnd(t *testing.T) {
	for fault, least := range map[Fault]time.Duration{Latency: 200 * time.Millisecond, Bandwidth: 250 * time.Millisecond} {
		_, p, conns := opened(t, fault)
		for when, c := range conns {
			if took := ask(t, c, 10_000); took < least {
				t.Errorf("%s, on a connection from %s: %s; want at least %s", fault, when, took, least)
			}
		}
		p.Set(Healthy)
		for when, c := range conns {
			if took := ask(t, c, 10_000); took > 150*time.Millisecond {
				t.Errorf("after %s, on a connection from %s: %s", fault, when, took)
			}
		}
	}
}

func TestAResetComesInTheMiddleOfARequest(t *testing.T) {
	s, p, conns := opened(t, Reset)
	for when, c := range conns {
		_, err := c.Write(bytes.Repeat([]byte("x"), 10_000))
		for err == nil {
			_, err = c.Read(make([]byte, 4096))
		}
		if when == "after" && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("a connection from after the fault began ends with %v; want a reset", err)
		}
	}
	if got := s.got.Load(); got > 10+2*ResetAfter {
		t.Errorf("the server got %d bytes on two connections; want no more than %d on each", got, ResetAfter)
	}
	p.Set(Healthy)
	ask(t, dial(t, p), 10_000)
}

func TestAHalfOpenConnectionCarriesRequestsAndNoAnswers(t *testing.T) {
	s, p, conns := opened(t, HalfOpen)
	for when, c := range conns {
		before := s.got.Load()
		if _, err := c.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(10 * time.Second); s.got.Load() < before+1000; time.Sleep(time.Millisecond) { // a real network
			if time.Now().After(end) {
				t.Fatalf("the server got %d bytes on a connection from %s", s.got.Load()-before, when)
			}
		}
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := c.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("on a connection from %s there are %d bytes, %v; want a deadline", when, n, err)
		}
	}
	p.Set(Healthy)
	for when, c := range conns {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := c.Read(make([]byte, 10)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a connection from %s goes on with %d bytes after it lost some, %v", when, n, err)
		}
	}
	ask(t, dial(t, p), 10_000)
}

func TestSilentConnectionsCarryNothing(t *testing.T) {
	s, p, conns := opened(t, Silent)
	was := s.got.Load()
	for when, c := range conns {
		if _, err := c.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if n, err := c.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) || s.got.Load() != was {
			t.Errorf("on a connection from %s there are %d bytes, %v; the server got %d", when, n, err, s.got.Load()-was)
		}
	}
	p.Set(Healthy)
	ask(t, dial(t, p), 1000)
}

func TestForgottenConnectionsAreSilentAndNewOnesAreWell(t *testing.T) {
	s, p, conns := opened(t, Forgotten)
	was := s.got.Load()
	old := conns["before"]
	if _, err := old.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	ask(t, conns["after"], 1000)
	_ = old.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := old.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) || s.got.Load() != was+1000 {
		t.Errorf("the old connection has %d bytes, %v; the server got %d bytes in all", n, err, s.got.Load()-was)
	}
	p.Set(Healthy)
	ask(t, conns["after"], 1000)
	_ = old.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := old.Read(make([]byte, 10)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the old connection goes on with %d bytes, %v", n, err)
	}
}

func TestSlicedAnswersAreWhole(t *testing.T) {
	_, _, conns := opened(t, Sliced)
	for _, c := range conns {
		ask(t, c, 10_000)
		if _, err := c.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1000)); err != nil || n > 500 {
			t.Errorf("the first piece has %d bytes, %v", n, err)
		}
	}
}

func TestNobodyListensWhileConnectionsAreRefused(t *testing.T) {
	s := serve(t)
	p := New(t, s.Addr().String())
	c := dial(t, p)
	ask(t, c, 10)
	for range 2 {
		p.Set(Refused)
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("an open connection: %v", err)
		}
		if _, err := net.Dial("tcp", p.Addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a new connection: %v", err)
		}
		p.Set(Latency)
		c = dial(t, p)
		if took := ask(t, c, 10); took < 200*time.Millisecond {
			t.Errorf("an answer takes %s", took)
		}
	}
}
