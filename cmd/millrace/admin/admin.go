// Package admin serves what operators and orchestrators ask a running pipeline: /healthz, /readyz, /metrics and
// /debug/pprof.
package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/millrace-io/millrace/stream"
)

// Engine is what the server asks: a *stream.Engine.
type Engine interface {
	Stats() stream.Stats
	Healthy() error
}

// Server answers on one address.
type Server struct {
	listener net.Listener
	http     *http.Server
}

// Listen takes the address, host:port; port 0 lets the system choose. The server answers only after Serve.
func Listen(ctx context.Context, address string) (*Server, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &Server{listener: l, http: &http.Server{ReadHeaderTimeout: 10 * time.Second}}, nil
}

// Addr is the address with the port that was chosen.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Serve answers until Close; run it in a goroutine of its own.
func (s *Server) Serve(h http.Handler, log *slog.Logger) {
	s.http.Handler, s.http.ErrorLog = h, slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		log.Error("the admin server ended", "error", err)
	}
}

// Close ends Serve and frees the address.
func (s *Server) Close() {
	_ = s.http.Close() // of sockets that nobody waits for
	_ = s.listener.Close()
}

// Handler is the admin pages of one pipeline.
func Handler(pipeline string, e Engine) http.Handler {
	mux := pages(NewCollector(pipeline, e))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { healthz(w, e) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { readyz(w, e) })
	return mux
}

// pages are those that every admin server has: metrics and profiles.
func pages(c prometheus.Collector) *http.ServeMux {
	registry := prometheus.NewRegistry()
	registry.MustRegister(c, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// healthz fails when a partition that has work makes no progress: restart it, or look at what it waits for.
func healthz(w http.ResponseWriter, e Engine) {
	if err := e.Healthy(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// readyz fails until this process has partitions and all that their last owners committed is published.
func readyz(w http.ResponseWriter, e Engine) {
	stats := e.Stats()
	var waiting, retrying []string
	for _, p := range stats.Partitions {
		if !p.Recovered {
			waiting = append(waiting, "partition "+p.Partition+" is being recovered")
		}
		if p.Retrying != "" {
			retrying = append(retrying, fmt.Sprintf("partition %s retries since %s: %s", p.Partition, p.RetryingSince.UTC().Format(time.RFC3339), p.Retrying))
		}
	}
	if stats.SourceFailing != "" {
		retrying = append(retrying, fmt.Sprintf("the source fails since %s: %s", stats.SourceFailingSince.UTC().Format(time.RFC3339), stats.SourceFailing))
	}
	retrying = append(retrying, sinkLines(stats.Sinks)...)
	if len(stats.Partitions) == 0 {
		waiting = append(waiting, "no partition is assigned to this process")
	}
	if len(waiting) > 0 {
		http.Error(w, strings.Join(append(waiting, retrying...), "\n"), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintf(w, "ready: %d partitions\n", len(stats.Partitions))
	if stats.Unowned > 0 {
		fmt.Fprintf(w, "%d partitions have no owner in any process\n", stats.Unowned)
	}
	for _, line := range retrying {
		fmt.Fprintln(w, line)
	}
}

// sinkLines tell of upsert sinks that do not take writes, and of what is set aside.
func sinkLines(sinks map[string]stream.SinkStats) []string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(sinks)) {
		s := sinks[name]
		if s.Failing != "" {
			lines = append(lines, fmt.Sprintf("sink %s fails since %s, %d writes wait: %s", name, s.FailingSince.UTC().Format(time.RFC3339), s.Waiting, s.Failing))
		}
		if s.Spool != nil && (s.Spool.Spooling || s.Spool.Files > 0) {
			line := fmt.Sprintf("sink %s is behind: %d files with %d bytes are set aside", name, s.Spool.Files, s.Spool.Bytes)
			if s.Spool.Failing != "" {
				line += ", and cannot be drained: " + s.Spool.Failing
			}
			lines = append(lines, line)
		}
	}
	return lines
}
