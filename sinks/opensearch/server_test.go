package opensearch

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
)

func httpServer(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// BenchmarkSink is the whole way of an event through the sink to a server that answers at once, which runs in the same process
// and counts too. Divide by the events for the cost of one.
func BenchmarkSink(b *testing.B) {
	server := httpServer(b, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"errors":false}`)
	})
	schema, err := stream.NewSchema()
	if err != nil {
		b.Fatal(err)
	}
	s, err := New(Config{URL: server, Index: "clicks-{date}"}, Options{Name: "search", Schema: schema})
	if err != nil {
		b.Fatal(err)
	}
	w, err := s.Writer(stream.Tenure{Partition: "p", Schema: schema})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	events := sinktest.Events(schema)(0, 512)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w.Write(events)
		if w.Buffered() > 8<<20 {
			if err := w.Wait(b.Context(), 4<<20); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/512, "ns/event")
}
