package admin

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace-io/millrace/sources/collect"
)

// Door is what the admin pages of a collector ask: a *collect.Handler.
type Door interface{ Stats() collect.Stats }

// CollectHandler is the admin pages of one collector. ready says why requests are better sent elsewhere. /healthz has nothing
// to find fault with: what the log does not take is the log's, and a restart does not help.
func CollectHandler(d Door, ready func(context.Context) error) http.Handler {
	mux := pages(newDoorCollector(d))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := ready(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	return mux
}

// doorCollector makes metrics of a door's Stats, anew at every scrape.
type doorCollector struct {
	door Door

	requests, accepted, bytes, refused, appends *prometheus.Desc
	failures, active, inFlight, limit           *prometheus.Desc
}

func newDoorCollector(d Door) *doorCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("millrace_collect_"+name, help, labels, nil)
	}
	return &doorCollector{
		door:     d,
		requests: desc("requests_total", "Requests by status and the reason for it.", "status", "reason"),
		accepted: desc("events_accepted_total", "Events that the log has."),
		bytes:    desc("event_bytes_accepted_total", "Bytes of those, as the log has them."),
		refused:  desc("events_refused_total", "Events that are not in the log, by reason.", "reason"),
		appends:  desc("append_duration_seconds", "How long the log took to store the events of a request, or to fail."),
		failures: desc("append_failures_total", "Requests of which the log did not take all events."),
		active:   desc("requests_active", "Requests that are not answered yet."),
		inFlight: desc("in_flight_bytes", "Bytes of requests that are not answered yet."),
		limit:    desc("in_flight_limit_bytes", "The most that in_flight_bytes may be."),
	}
}

// Describe implements prometheus.Collector.
func (c *doorCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.requests, c.accepted, c.bytes, c.refused, c.appends, c.failures, c.active, c.inFlight, c.limit} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (c *doorCollector) Collect(metrics chan<- prometheus.Metric) {
	s := c.door.Stats()
	out := emitter{metrics}
	for r, n := range s.Requests {
		out.counter(c.requests, n, strconv.Itoa(r.Status), r.Reason)
	}
	out.counter(c.accepted, s.Accepted)
	out.counter(c.bytes, s.AcceptedBytes)
	for reason, n := range s.Refused {
		out.counter(c.refused, n, reason)
	}
	out.histogram(c.appends, s.AppendSeconds)
	out.counter(c.failures, s.AppendErrors)
	out.gauge(c.active, float64(s.Active))
	out.gauge(c.inFlight, float64(s.InFlight))
	out.gauge(c.limit, float64(s.InFlightLimit))
}
