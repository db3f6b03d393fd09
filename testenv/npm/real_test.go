//go:build real

package npm

import (
	"net"
	"strings"
	"testing"
)

func TestRealAProgramThatEndsIsReportedWithItsWords(t *testing.T) {
	_, err := Start(Program{Module: "dynalite", Ports: 1, Args: func([]string) []string {
		return []string{"-e", `console.error("no luck"); process.exit(3)`}
	}})
	if err == nil || !strings.Contains(err.Error(), "no luck") {
		t.Errorf("error %v", err)
	}
}

func TestRealCloseEndsTheProgram(t *testing.T) {
	s, err := Start(Program{Module: "dynalite", Ports: 1, Args: func(ports []string) []string {
		return []string{"-e", `require("net").createServer().listen(+process.argv[1], "127.0.0.1")`, ports[0]}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", s.Addr); err == nil {
		c.Close()
		t.Error("its port still takes connections")
	}
}
