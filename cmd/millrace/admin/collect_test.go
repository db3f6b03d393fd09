package admin

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/millrace-io/millrace/sources/collect"
	"github.com/millrace-io/millrace/stream"
)

// door is a picture of one.
type door collect.Stats

func (d door) Stats() collect.Stats { return collect.Stats(d) }

var _ Door = (*collect.Handler)(nil)

func busyDoor() door {
	return door{
		Requests: map[collect.Result]uint64{{Status: 200, Reason: "ok"}: 5, {Status: 429, Reason: "rate_key"}: 2, {Status: 429, Reason: "rate_address"}: 1},
		Accepted: 9, AcceptedBytes: 900, Refused: map[string]uint64{"invalid": 1, "consent": 0}, Appends: 5, AppendErrors: 1,
		AppendSeconds: stream.Histogram{Bounds: []float64{.1, 1}, Counts: []uint64{3, 1, 1}, Sum: 3},
		Active:        2, InFlight: 10, InFlightLimit: 100,
	}
}

func TestMetricsOfACollector(t *testing.T) {
	c := newDoorCollector(busyDoor())
	want := `
# HELP millrace_collect_append_duration_seconds How long the log took to store the events of a request, or to fail.
# TYPE millrace_collect_append_duration_seconds histogram
millrace_collect_append_duration_seconds_bucket{le="0.1"} 3
millrace_collect_append_duration_seconds_bucket{le="1"} 4
millrace_collect_append_duration_seconds_bucket{le="+Inf"} 5
millrace_collect_append_duration_seconds_sum 3
millrace_collect_append_duration_seconds_count 5
# HELP millrace_collect_events_refused_total Events that are not in the log, by reason.
# TYPE millrace_collect_events_refused_total counter
millrace_collect_events_refused_total{reason="consent"} 0
millrace_collect_events_refused_total{reason="invalid"} 1
# HELP millrace_collect_in_flight_bytes Bytes of requests that are not answered yet.
# TYPE millrace_collect_in_flight_bytes gauge
millrace_collect_in_flight_bytes 10
# HELP millrace_collect_requests_total Requests by status and the reason for it.
# TYPE millrace_collect_requests_total counter
millrace_collect_requests_total{reason="ok",status="200"} 5
millrace_collect_requests_total{reason="rate_address",status="429"} 1
millrace_collect_requests_total{reason="rate_key",status="429"} 2
`
	err := testutil.CollectAndCompare(c, strings.NewReader(want), "millrace_collect_append_duration_seconds", "millrace_collect_events_refused_total",
		"millrace_collect_in_flight_bytes", "millrace_collect_requests_total")
	if err != nil {
		t.Error(err)
	}
	if problems, err := testutil.CollectAndLint(c); err != nil || len(problems) > 0 {
		t.Error(err, problems)
	}
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(c); err != nil {
		t.Error(err)
	}
	if _, err := registry.Gather(); err != nil {
		t.Error(err)
	}
}

func TestCollectorIsReadyWhenItsLogIs(t *testing.T) {
	for _, away := range []error{nil, errors.New("no such topic")} {
		h := CollectHandler(busyDoor(), func(context.Context) error { return away })
		for path, want := range map[string]bool{"/healthz": true, "/readyz": away == nil, "/metrics": true} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
			if (w.Code == http.StatusOK) != want {
				t.Errorf("%s with %v: status %d, %s", path, away, w.Code, w.Body)
			}
		}
	}
}
