// Package npm runs the servers of Node.js that stand in for Amazon's in the tests against real servers. testenv/install.sh installs
// them, as package.json and package-lock.json here say.
package npm

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Program is one of the servers.
type Program struct {
	Module string                        // folder below node_modules
	Args   func(ports []string) []string // of node, after "node"; it runs in the module's folder
	Env    func(ports []string) []string // more of the environment; nil: none
	Ports  int                           // how many it listens on; the first is waited for
	Wait   time.Duration                 // for the port; default 2 min
}

// Survive begins the script of a program that throws, and ends, when a client gives a request up.
const Survive = `process.on("uncaughtException", e => console.error(e.message));`

// Server is a running program.
type Server struct {
	Addr string // host:port

	command *exec.Cmd
	words   bytes.Buffer // what it said
	ended   chan struct{}
}

// attempts is how often a program may find that somebody else has taken the port.
const attempts = 3

// Start starts a program and returns when its port takes connections. Close ends it.
func Start(p Program) (*Server, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Module, err)
	}
	dir := filepath.Join(cache, "millrace", "npm", "node_modules", p.Module)
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("start %s: %w; run testenv/install.sh", p.Module, err)
	}
	var failed error
	for range attempts {
		s, err := start(p, dir)
		if err == nil {
			return s, nil
		}
		failed = errors.Join(failed, err)
	}
	return nil, fmt.Errorf("start %s: %w", p.Module, failed)
}

func start(p Program, dir string) (*Server, error) {
	ports, err := freePorts(p.Ports)
	if err != nil {
		return nil, err
	}
	s := &Server{Addr: "127.0.0.1:" + ports[0], command: exec.Command("node", p.Args(ports)...), ended: make(chan struct{})}
	s.command.Dir, s.command.Stdout, s.command.Stderr = dir, &s.words, &s.words
	if p.Env != nil {
		s.command.Env = append(os.Environ(), p.Env(ports)...)
	}
	if err := s.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		s.command.Wait() // its end is all that matters
		close(s.ended)
	}()
	if err := s.ready(cmp.Or(p.Wait, 2*time.Minute)); err != nil {
		s.Close()
		return nil, fmt.Errorf("%w; it said: %s", err, strings.TrimSpace(s.words.String()))
	}
	return s, nil
}

// freePorts are ports that nobody listens on just now.
func freePorts(n int) ([]string, error) {
	var ports []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // after all are found: they differ
		ports = append(ports, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	}
	return ports, nil
}

func (s *Server) ready(limit time.Duration) error {
	late := time.After(limit)
	for {
		conn, err := net.DialTimeout("tcp", s.Addr, time.Second)
		if err == nil {
			conn.Close()
		}
		select {
		case <-s.ended:
			return errors.New("it ended")
		case <-late:
			return fmt.Errorf("its port takes no connections after %v", limit)
		case <-time.After(20 * time.Millisecond):
		}
		if err == nil {
			return nil
		}
	}
}

// URL is the endpoint: "http://127.0.0.1:40001".
func (s *Server) URL() string { return "http://" + s.Addr }

// Close kills the program and waits until it has ended.
func (s *Server) Close() error {
	err := s.command.Process.Kill()
	<-s.ended
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
