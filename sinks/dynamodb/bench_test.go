package dynamodb

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
)

// BenchmarkSink is the whole way of an event to a server that answers at once, which runs in the same process and counts too:
// conditional writes where each event has a key of its own, and where keys come again as often as Newest sees them.
func BenchmarkSink(b *testing.B) {
	stub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header()["Content-Type"] = []string{"application/x-amz-json-1.0"}
		_, _ = io.WriteString(w, "{}")
	}))
	defer stub.Close()
	environment(b, map[string]string{"AWS_ENDPOINT_URL_DYNAMODB": stub.URL, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"})
	schema, err := stream.NewSchema()
	if err != nil {
		b.Fatal(err)
	}
	for _, users := range []int{1 << 30, 2000} {
		b.Run(fmt.Sprintf("users=%d", users), func(b *testing.B) {
			s, err := New(Config{Table: "profiles", Key: Key{PK: "user"}}, Options{Name: "search", Schema: schema})
			if err != nil {
				b.Fatal(err)
			}
			w, err := s.Writer(stream.Tenure{Partition: "p", Schema: schema})
			if err != nil {
				b.Fatal(err)
			}
			defer w.Close()
			n := 0
			for b.Loop() {
				events := sinktest.Events(schema)(uint64(n), 512)
				for _, e := range events {
					e.Values[stream.User] = stream.StringValue(fmt.Sprint(n % users))
					n++
				}
				w.Write(events)
				if w.Buffered() > 16<<20 {
					if err := w.Wait(b.Context(), 8<<20); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/event")
			b.ReportMetric(float64(s.Stats().Written)/float64(n), "writes/event")
		})
	}
}
