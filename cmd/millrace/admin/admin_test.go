package admin

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/stream"
)

// Mutations seen red:
//   - latest keeps ended tenures: TestMetricsSayWhatTheEngineSays (the scrape fails)
//   - lag -1 is exported: TestMetricsSayWhatTheEngineSays
//   - healthz answers 200 in spite of the error: TestHealthFollowsProgress
//   - readyz passes over Recovered, over a source that fails: TestReadyAfterRecovery
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// engine is a picture of one.
type engine struct {
	stats   stream.Stats
	healthy error
}

func (e *engine) Stats() stream.Stats { return e.stats }
func (e *engine) Healthy() error      { return e.healthy }

var _ Engine = (*stream.Engine)(nil)

func picture() *engine {
	now := time.Unix(1_700_000_000, 0)
	return &engine{stats: stream.Stats{
		Records: 10, Bytes: 5000, Kept: 6, Dropped: 3, Dead: 1,
		DeadByStage: map[string]uint64{"decode": 1}, Rows: map[string]uint64{"lake": 6}, Retries: map[string]uint64{"lake.stage": 2},
		CommitSeconds: stream.Histogram{Bounds: []float64{.1, 1}, Counts: []uint64{2, 1, 1}, Sum: 4.5},
		SourceFailing: "lease table: no answer in time", SourceFailingSince: now.Add(-7 * time.Second),
		StagedBytes: 900, Budget: 1 << 20, Buffered: 77, Unowned: 2,
		Partitions: []stream.PartitionStats{
			{Partition: "clicks-0", Epoch: 3, Recovered: true, LagRecords: 4, LagAge: 2 * time.Second, Watermark: now.Add(-3 * time.Second), LastCommit: now.Add(-time.Minute), Oldest: now.Add(-5 * time.Second)},
			{Partition: "clicks-0", Epoch: 2, LagRecords: 99, LagAge: -1},
			{Partition: "clicks-1\xff", Epoch: 1, LagRecords: -1, LagAge: -1, Retrying: "publish: no route", RetryingSince: now},
		},
	}}
}

func TestMetricsSayWhatTheEngineSays(t *testing.T) {
	c := NewCollector("clicks", picture())
	c.now = func() time.Time { return time.Unix(1_700_000_000, 0) }
	want := `
# HELP millrace_commit_duration_seconds From the decision to commit until everything was published.
# TYPE millrace_commit_duration_seconds histogram
millrace_commit_duration_seconds_bucket{pipeline="clicks",le="0.1"} 2
millrace_commit_duration_seconds_bucket{pipeline="clicks",le="1"} 3
millrace_commit_duration_seconds_bucket{pipeline="clicks",le="+Inf"} 4
millrace_commit_duration_seconds_sum{pipeline="clicks"} 4.5
millrace_commit_duration_seconds_count{pipeline="clicks"} 4
# HELP millrace_lag_records_max The largest partition_lag_records of this process.
# TYPE millrace_lag_records_max gauge
millrace_lag_records_max{pipeline="clicks"} 4
# HELP millrace_partition_lag_records Records between the last delivered one and the end of the partition.
# TYPE millrace_partition_lag_records gauge
millrace_partition_lag_records{partition="clicks-0",pipeline="clicks"} 4
# HELP millrace_partition_oldest_uncommitted_age_seconds How long the oldest uncommitted record is here; 0 when there is none.
# TYPE millrace_partition_oldest_uncommitted_age_seconds gauge
millrace_partition_oldest_uncommitted_age_seconds{partition="clicks-0",pipeline="clicks"} 5
millrace_partition_oldest_uncommitted_age_seconds{partition="clicks-1�",pipeline="clicks"} 0
# HELP millrace_partitions_unowned Partitions that have work and no owner in any process.
# TYPE millrace_partitions_unowned gauge
millrace_partitions_unowned{pipeline="clicks"} 2
# HELP millrace_records_processed_total Processed records by fate: kept, dropped or dead.
# TYPE millrace_records_processed_total counter
millrace_records_processed_total{fate="dead",pipeline="clicks"} 1
millrace_records_processed_total{fate="dropped",pipeline="clicks"} 3
millrace_records_processed_total{fate="kept",pipeline="clicks"} 6
# HELP millrace_source_failing_seconds How long calls to the source's servers fail; 0 while they succeed.
# TYPE millrace_source_failing_seconds gauge
millrace_source_failing_seconds{pipeline="clicks"} 7
`
	err := testutil.CollectAndCompare(c, strings.NewReader(want), "millrace_commit_duration_seconds", "millrace_lag_records_max",
		"millrace_partition_lag_records", "millrace_partitions_unowned", "millrace_source_failing_seconds", "millrace_partition_oldest_uncommitted_age_seconds", "millrace_records_processed_total")
	if err != nil {
		t.Error(err)
	}
}

func TestMetricsFollowPrometheusConventions(t *testing.T) {
	problems, err := testutil.CollectAndLint(NewCollector("clicks", picture()))
	if err != nil || len(problems) > 0 {
		t.Error(err, problems)
	}
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(NewCollector("clicks", picture())); err != nil {
		t.Error(err)
	}
	if _, err := registry.Gather(); err != nil {
		t.Error(err)
	}
}

// get asks the admin pages of e.
func get(t *testing.T, e Engine, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	Handler("clicks", e).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestHealthFollowsProgress(t *testing.T) {
	e := picture()
	if code, body := get(t, e, "/healthz"); code != 200 || body != "ok\n" {
		t.Error(code, body)
	}
	e.healthy = errors.New("partition clicks-0: no progress for 6m0s: publish")
	if code, body := get(t, e, "/healthz"); code != 503 || !strings.Contains(body, "no progress for 6m0s") {
		t.Error(code, body)
	}
}

func TestReadyAfterRecovery(t *testing.T) {
	e := picture()
	if code, body := get(t, e, "/readyz"); code != 503 || !strings.Contains(body, "is being recovered") || !strings.Contains(body, "no route") {
		t.Error(code, body)
	}
	for i := range e.stats.Partitions {
		e.stats.Partitions[i].Recovered = true
	}
	if code, body := get(t, e, "/readyz"); code != 200 || !strings.Contains(body, "no route") {
		t.Error("recovered:", code, body)
	}
	e.stats.Partitions = nil
	if code, body := get(t, e, "/readyz"); code != 503 || !strings.Contains(body, "no partition is assigned") ||
		!strings.Contains(body, "\nthe source fails since 2023-11-14T22:13:13Z: lease table: no answer in time\n") {
		t.Error("nothing assigned:", code, body)
	}
}

func TestServerAnswersAndEnds(t *testing.T) {
	s, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.Serve(Handler("clicks", picture()), slog.New(slog.DiscardHandler))
	}()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]string{"/metrics": "millrace_records_total", "/debug/pprof/": "goroutine", "/healthz": "ok"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Addr()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != 200 || !strings.Contains(string(body), want) {
			t.Errorf("%s: %d %.200s", path, res.StatusCode, body)
		}
	}
	if _, err := Listen(t.Context(), s.Addr()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Error("a second server on the port:", err)
	}
	s.Close()
	<-served
}

func TestCloseBeforeServe(t *testing.T) {
	s, err := Listen(context.Background(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	s.Serve(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
}
