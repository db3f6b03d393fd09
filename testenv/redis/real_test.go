//go:build real

package redis

import (
	"bufio"
	"fmt"
	"net"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ask sends one line and returns the first line of the answer.
func ask(t *testing.T, s *Server, line string) string {
	t.Helper()
	c, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "%s\r\n", line)
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestRealServerKeepsWhatItAcknowledgedThroughAKill(t *testing.T) {
	s, err := Start(t.Context(), Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop() })
	for range 2 {
		ask(t, s, "INCR kept")
		s.Kill()
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := ask(t, s, "INCR kept"); got != ":3\r\n" {
		t.Errorf("the third INCR returns %q", got)
	}
}

func TestRealServerWantsItsPassword(t *testing.T) {
	s, err := Start(t.Context(), Options{Dir: t.TempDir(), Settings: []string{"requirepass right"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	if got := ask(t, s, "AUTH wrong"); got[0] != '-' {
		t.Errorf("a wrong password: %q", got)
	}
	if got := ask(t, s, "AUTH right"); got != "+OK\r\n" {
		t.Errorf("the password: %q", got)
	}
}
