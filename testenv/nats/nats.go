// Package nats is a NATS server with JetStream in this process: the log of millrace dev, and the server of the tests. In
// process.go it is nats-server itself, the program, for the tests of the real tier.
package nats

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Options of a server. Dir is wanted.
type Options struct {
	// Dir keeps streams and buckets. One server at a time uses it. It outlives the process, however that ends.
	Dir string

	// Addr is host:port to listen on; Silent: none, then the server is reached by InProcessConn only. Default 127.0.0.1:0.
	Addr string

	// Sync says when writes reach the disk. Default SyncAlways.
	Sync Sync

	// MaxPayload is the most bytes of one message, its headers included. Default 8 MiB; of NATS itself it is 1 MiB.
	MaxPayload int32

	// User and Password, if set, are wanted from every connection.
	User, Password string

	// Start bounds how long Start waits for the server to recover Dir. Default 30 s.
	Start time.Duration

	Log *slog.Logger // of the server's warnings and errors, and its notices at debug level; default: none
}

// Silent as Options.Addr opens no port.
const Silent = "silent"

// Sync is when an acknowledged write is safe from what.
type Sync int

const (
	// SyncAlways acknowledges a write after the disk has it: safe when the machine loses power.
	SyncAlways Sync = iota

	// SyncLater acknowledges a write when the operating system has it, and syncs every two minutes, as NATS does by default:
	// safe when the process is killed, but up to two minutes of acknowledged events are lost with the power.
	SyncLater
)

// Server is a running server. InProcessConn connects to it without a port: give it to the client as nats.InProcessServer.
type Server struct {
	*server.Server
	Addr string // host:port; empty when silent
}

// Start returns a server that answers. Close stops it.
func Start(o Options) (*Server, error) {
	opts, err := o.server()
	if err != nil {
		return nil, err
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("start NATS server: %w", err)
	}
	log := &logger{cmp.Or(o.Log, slog.New(slog.DiscardHandler)), make(chan error, 1)}
	s.SetLoggerV2(log, false, false, false)
	go s.Start()
	if err := ready(s, cmp.Or(o.Start, 30*time.Second), log.fatal); err != nil {
		s.Shutdown()
		return nil, fmt.Errorf("start NATS server in %s: %w", o.Dir, err)
	}
	running := &Server{Server: s}
	if a, ok := s.Addr().(*net.TCPAddr); ok {
		running.Addr = a.String()
	}
	return running, nil
}

// ready waits until the server takes connections or gives up.
func ready(s *server.Server, limit time.Duration, fatal <-chan error) error {
	for late := time.Now().Add(limit); time.Now().Before(late); {
		if s.ReadyForConnections(50 * time.Millisecond) {
			return nil
		}
		select {
		case err := <-fatal:
			return err
		default:
		}
	}
	return fmt.Errorf("it is not ready after %v", limit)
}

func (o *Options) server() (*server.Options, error) {
	if o.Dir == "" {
		return nil, errors.New("start NATS server: no folder is given")
	}
	opts := &server.Options{
		ServerName: "millrace", JetStream: true, StoreDir: o.Dir, SyncAlways: o.Sync == SyncAlways,
		MaxPayload: cmp.Or(o.MaxPayload, 8<<20), Username: o.User, Password: o.Password,
		NoSigs: true, DisableJetStreamBanner: true,
		DontListen: o.Addr == Silent,
	}
	if opts.DontListen {
		return opts, nil
	}
	host, text, err := net.SplitHostPort(cmp.Or(o.Addr, "127.0.0.1:0"))
	if err != nil {
		return nil, fmt.Errorf("NATS server address %q: %w", o.Addr, err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return nil, fmt.Errorf("NATS server address %q: %w", o.Addr, err)
	}
	opts.Host, opts.Port = host, cmp.Or(port, server.RANDOM_PORT)
	return opts, nil
}

// URL is what a client connects to; empty when silent.
func (s *Server) URL() string {
	if s.Addr == "" {
		return ""
	}
	return "nats://" + s.Addr
}

// Close stops the server and returns when its files are closed.
func (s *Server) Close() {
	s.Shutdown()
	s.WaitForShutdown()
}

// logger passes the server's words on.
type logger struct {
	log   *slog.Logger
	fatal chan error // the first fatal one
}

func (l *logger) Noticef(format string, v ...any) {
	l.log.Debug("nats server", "text", fmt.Sprintf(format, v...))
}

func (l *logger) Warnf(format string, v ...any) {
	l.log.Warn("nats server", "text", fmt.Sprintf(format, v...))
}

func (l *logger) Errorf(format string, v ...any) {
	l.log.Error("nats server", "text", fmt.Sprintf(format, v...))
}

// Fatalf does not end the process: Start returns the reason.
func (l *logger) Fatalf(format string, v ...any) {
	select {
	case l.fatal <- fmt.Errorf(format, v...):
	default:
	}
}
func (l *logger) Debugf(string, ...any) {}
func (l *logger) Tracef(string, ...any) {}
