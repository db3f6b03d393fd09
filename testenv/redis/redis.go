// Package redis starts Redis servers for the tests of the real tier: processes on 127.0.0.1 and free ports, that write
// everything to their append-only file before they answer. testenv/install.sh installs redis-server.
package redis

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/millrace-io/millrace/testenv/authority"
	"github.com/millrace-io/millrace/testenv/child"
)

// patience bounds the start of a server on a machine that is busy with other things.
const patience = time.Minute

// Options of a server. Dir is wanted.
type Options struct {
	// Dir keeps everything of the server. It outlives the process, however that ends.
	Dir string

	// Settings are lines of redis.conf, added to the server's own: requirepass, user, maxmemory. The last line of a name wins.
	Settings []string

	// Cluster makes it a node of a cluster, which the caller puts together.
	Cluster bool

	// TLS makes it speak TLS only, with clients that need no certificate.
	TLS bool
}

// Server is a running server.
type Server struct {
	Addr string // host:port
	CA   string // PEM file of who signed the server's certificate; empty without TLS

	dir     string
	process *child.Process
}

// Start returns a server that answers. Stop or Kill ends it.
func Start(ctx context.Context, o Options) (*Server, error) {
	ports, err := child.Ports(2)
	if err != nil {
		return nil, err
	}
	s := &Server{Addr: fmt.Sprintf("127.0.0.1:%d", ports[0]), dir: o.Dir}
	settings := []string{
		"bind 127.0.0.1",
		fmt.Sprintf("dir %q", o.Dir),
		"daemonize no",
		"save \"\"",
		"appendonly yes",
		"appendfsync always",
		"maxmemory-policy noeviction",
	}
	if o.Cluster {
		settings = append(settings, "cluster-enabled yes", fmt.Sprintf("cluster-port %d", ports[1]), "cluster-node-timeout 2000")
	}
	if o.TLS {
		a, err := authority.New(o.Dir)
		if err != nil {
			return nil, err
		}
		cert, key, _, err := a.Issue("redis")
		if err != nil {
			return nil, err
		}
		s.CA = a.CA
		settings = append(settings, "port 0", fmt.Sprintf("tls-port %d", ports[0]), fmt.Sprintf("tls-cert-file %q", cert), fmt.Sprintf("tls-key-file %q", key),
			fmt.Sprintf("tls-ca-cert-file %q", a.CA), "tls-auth-clients no")
	} else {
		settings = append(settings, fmt.Sprintf("port %d", ports[0]))
	}
	text := strings.Join(append(settings, o.Settings...), "\n") + "\n"
	if err := os.WriteFile(s.path("redis.conf"), []byte(text), 0o600); err != nil {
		return nil, err
	}
	return s, s.Restart(ctx)
}

// Restart starts a server that was stopped or killed, with the same data and address, and returns when it answers.
func (s *Server) Restart(ctx context.Context) error {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return fmt.Errorf("no Redis; run testenv/install.sh: %w", err)
	}
	p, err := child.Start(exec.CommandContext(context.WithoutCancel(ctx), bin, s.path("redis.conf")), s.path("log"))
	if err != nil {
		return err
	}
	s.process = p
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := p.Ready(limited, s.answers); err != nil {
		p.Kill()
		return err
	}
	return nil
}

// Stop ends the server as an operator does.
func (s *Server) Stop() { s.process.Stop() }

// Kill ends the server with KILL.
func (s *Server) Kill() { s.process.Kill() }

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Server) dial(ctx context.Context) (net.Conn, error) {
	if s.CA != "" {
		return (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, "tcp", s.Addr) // only to see whether it is up
	}
	return new(net.Dialer).DialContext(ctx, "tcp", s.Addr)
}

// answers says whether the server is done with loading. One that wants a password first is.
func (s *Server) answers(ctx context.Context) error {
	c, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if end, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(end)
	}
	if _, err := c.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err
	}
	if strings.HasPrefix(line, "+PONG") || strings.HasPrefix(line, "-NOAUTH") {
		return nil
	}
	return errors.New(strings.TrimSpace(line))
}
