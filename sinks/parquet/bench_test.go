package parquet_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/sinks/parquet"
	"github.com/millrace-io/millrace/stream"
)

// discard is a store that keeps nothing but counts.
type discard struct {
	objects.Store // nil: nothing else is called
	bytes         int64
}

func (d *discard) String() string                                { return "discard:" }
func (d *discard) Begin(key string) objects.Upload               { return &discardUpload{d: d, key: key} }
func (d *discard) Publish(context.Context, objects.Ticket) error { return nil }

type discardUpload struct {
	d   *discard
	key string
	n   int64
}

func (u *discardUpload) Write(b []byte) (int, error) {
	u.n += int64(len(b))
	u.d.bytes += int64(len(b))
	return len(b), nil
}
func (u *discardUpload) Send(context.Context) error { return nil }
func (u *discardUpload) Buffered() int64            { return 0 }
func (u *discardUpload) Discard(context.Context)    {}
func (u *discardUpload) Seal(context.Context, map[string]string) (objects.Ticket, error) {
	return objects.Ticket{Key: u.key, Size: u.n}, nil
}

// clickSchema is the well-known columns and four more.
func clickSchema(t testing.TB) *stream.Schema {
	t.Helper()
	s, err := stream.NewSchema(
		stream.Column{Name: "campaign", Type: stream.Type{Kind: stream.String}},
		stream.Column{Name: "description", Type: stream.Type{Kind: stream.String}},
		stream.Column{Name: "basket", Type: stream.Type{Kind: stream.Decimal, Precision: 9, Scale: 2}},
		stream.Column{Name: "device", Type: stream.Type{Kind: stream.String}},
	)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// clicks are n events of about 500 bytes of JSON, seeded, as a shop has them: unique ids, sessions of several clicks, a few
// thousand items and users, user agents as many as asked for.
func clicks(t testing.TB, n, agents int) []*stream.Event {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(r, 1.1, 10, 3999)
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	schema := clickSchema(t)
	agentNames := make([]string, agents)
	for i := range agentNames {
		agentNames[i] = fmt.Sprintf("Mozilla/5.0 (%s) AppleWebKit/537.%d (KHTML, like Gecko) Chrome/%d.0.%d.%d Safari/537.36",
			pick("Windows NT 10.0; Win64; x64", "X11; Linux x86_64", "Macintosh; Intel Mac OS X 10_15_7", "Linux; Android 13; SM-G991B"),
			r.IntN(99), 80+r.IntN(50), r.IntN(9999), r.IntN(999))
	}
	type session struct {
		id, anonymous, user, agent, ip, country, region string
	}
	sessions := make([]session, 500)
	begin := func() session {
		s := session{
			id: fmt.Sprintf("s-%016x", r.Uint64()), anonymous: fmt.Sprintf("a-%016x", r.Uint64()), agent: agentNames[r.IntN(agents)],
			ip:      fmt.Sprintf("%d.%d.%d.%d", 1+r.IntN(220), r.IntN(256), r.IntN(256), r.IntN(256)),
			country: pick("United Kingdom", "Germany", "France", "EIRE", "Spain", "Netherlands"), region: pick("eu-west-1", "eu-central-1"),
		}
		if r.IntN(3) == 0 {
			s.user = fmt.Sprint(12000 + r.IntN(6000))
		}
		return s
	}
	for i := range sessions {
		sessions[i] = begin()
	}
	batch := stream.NewBatch(schema)
	records := make([]stream.Record, n)
	start := time.Date(2010, 12, 1, 8, 0, 0, 0, time.UTC)
	for i := range n {
		records[i].Pos = stream.OffsetPosition(uint64(i))
		e := batch.Append(&records[i])
		v := e.Values
		text := func(c int, s string) { v[c] = stream.StringValue(s) }
		s := &sessions[r.IntN(len(sessions))]
		if r.IntN(12) == 0 {
			*s = begin()
		}
		at := start.Add(time.Duration(i) * 500 * time.Microsecond).Add(time.Duration(r.IntN(900)) * time.Millisecond)
		item := fmt.Sprint(10000 + zipf.Uint64())
		text(stream.ID, fmt.Sprintf("%08x-%04x-4%03x-9%03x-%012x", r.Uint32(), r.IntN(1<<16), r.IntN(1<<12), r.IntN(1<<12), r.Uint64()>>16))
		text(stream.EventType, pick("view", "view", "view", "impression", "click", "add_to_cart", "purchase"))
		v[stream.Time] = stream.TimestampValue(at.UnixMilli() * 1000)
		v[stream.Received] = stream.TimestampValue(start.Add(time.Duration(i)*500*time.Microsecond).UnixMilli() * 1000)
		if s.user != "" {
			text(stream.User, s.user)
		}
		text(stream.Anonymous, s.anonymous)
		text(stream.Session, s.id)
		text(stream.Item, item)
		if v[stream.EventType].Text() == "impression" {
			v[stream.Items] = stream.ListValue(fmt.Sprintf(`["%d","%d","%d"]`, 10000+zipf.Uint64(), 10000+zipf.Uint64(), 10000+zipf.Uint64()))
			text(stream.Recommendation, fmt.Sprintf("r-%012x", r.Uint64()>>16))
		}
		if r.IntN(10) == 0 {
			text(stream.Query, pick("white hanging heart", "lunch bag", "cake stand", "alarm clock bakelike", "jumbo bag red"))
		}
		text(stream.URL, "https://shop.example.com/p/"+item+"?utm_source="+pick("google", "newsletter", "direct")+"&pos="+fmt.Sprint(r.IntN(40)))
		text(stream.Referrer, pick("https://www.google.com/", "https://shop.example.com/c/"+fmt.Sprint(r.IntN(60)), "https://shop.example.com/"))
		text(stream.UserAgent, s.agent)
		text(stream.IP, s.ip)
		text(stream.Country, s.country)
		text(stream.Region, s.region)
		v[stream.Price] = stream.FloatValue(float64(zipf.Uint64()%2000) / 100)
		text(stream.Currency, "GBP")
		v[stream.Quantity] = stream.IntValue(int64(1 + r.IntN(12)))
		v[stream.Bot] = stream.BoolValue(r.IntN(50) == 0)
		text(stream.WellKnown, pick("spring", "summer", "none"))
		text(stream.WellKnown+1, "ITEM NUMBER "+item+" OF THE CATALOGUE")
		v[stream.WellKnown+2] = stream.DecimalValue(int64(r.IntN(50000)))
		text(stream.WellKnown+3, pick("mobile", "desktop", "tablet"))
		e.Properties = fmt.Sprintf(`{"viewport":"%dx%d","scroll":%d,"ab":"%s","load_ms":%d}`, 300+10*r.IntN(120), 600+10*r.IntN(60), r.IntN(100),
			pick("A", "B"), r.IntN(3000))
	}
	events := make([]*stream.Event, n)
	for i := range events {
		events[i] = &batch.Events[i]
	}
	return events
}

// cpu is what the process has used: a quieter measure than time where others run beside.
func cpu(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkWrite is the whole sink: shred, encode, compress, footer. The unit, op, is an event.
func BenchmarkWrite(b *testing.B) {
	const n = 200_000
	corpora := map[int][]*stream.Event{14: clicks(b, n, 14), 20_000: clicks(b, n, 20_000)}
	for _, agents := range []int{14, 20_000} {
		for _, compression := range []string{"zstd", "snappy", "none"} {
			b.Run(fmt.Sprintf("agents=%d/%s", agents, compression), func(b *testing.B) {
				benchmarkWrite(b, corpora[agents], parquet.Config{Compression: compression})
			})
		}
	}
	b.Run("agents=14/zstd/100-interleaved-hours", func(b *testing.B) {
		events := clicks(b, n, 14)
		for i, e := range events {
			e.Values[stream.Time] = stream.TimestampValue(e.Values[stream.Time].Int() + int64(i%100)*3_600_000_000)
		}
		benchmarkWrite(b, events, parquet.Config{PartitionBy: []string{"date", "hour"}})
	})
}

func benchmarkWrite(b *testing.B, events []*stream.Event, cfg parquet.Config) {
	store := &discard{}
	sink := newSink(b, store, cfg)
	w, err := sink.Open(b.Context(), stream.Tenure{Pipeline: "clicks", Sink: "lake", Partition: "clicks-3", Epoch: 1, Schema: clickSchema(b)})
	if err != nil {
		b.Fatal(err)
	}
	stage := func() {
		if _, err := w.Stage(b.Context(), stream.Provenance{Pipeline: "clicks", Partition: "clicks-3", To: stream.OffsetPosition(1 << 40)}); err != nil {
			b.Fatal(err)
		}
	}
	most, used := int64(0), time.Duration(0)
	batch := stream.NewBatch(clickSchema(b))
	defer debug.SetGCPercent(debug.SetGCPercent(1000)) // the events of the benchmark are no garbage of the sink's
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; {
		from := done % len(events)
		n := min(512, len(events)-from, b.N-done)
		next := decoded(batch, events[from:from+n])
		began := cpu(b)
		w.Write(next)
		if err := w.Upload(b.Context()); err != nil {
			b.Fatal(err)
		}
		most = max(most, w.Buffered())
		if done += n; w.Full() || done == b.N {
			stage()
		}
		used += cpu(b) - began
	}
	b.ReportMetric(float64(used)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(store.bytes)/float64(b.N), "stored-B/op")
	b.ReportMetric(float64(most)/(1<<20), "MiB-held")
}

// decoded copies events into batch, as they are when a decoder is done with them: fresh, texts side by side.
func decoded(batch *stream.Batch, events []*stream.Event) []*stream.Event {
	batch.Reset()
	share := func(s string) string {
		b := batch.Alloc(len(s))
		copy(b, s)
		return unsafe.String(unsafe.SliceData(b), len(b))
	}
	for _, from := range events {
		e := batch.Append(from.Record)
		copy(e.Values, from.Values)
		e.Properties = share(from.Properties)
		for i, v := range e.Values {
			switch v.Kind() {
			case stream.String:
				e.Values[i] = stream.StringValue(share(v.Text()))
			case stream.List:
				e.Values[i] = stream.ListValue(share(v.Text()))
			}
		}
	}
	out := make([]*stream.Event, len(events))
	for i := range out {
		out[i] = &batch.Events[i]
	}
	return out
}
