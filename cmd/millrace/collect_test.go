package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace-io/millrace/sources/collect"
	"github.com/millrace-io/millrace/testenv/broker"
	"github.com/millrace-io/millrace/testenv/kinesis"
	"github.com/millrace-io/millrace/testenv/nats"
)

// Mutations seen red (line broken -> test):
//   - door.go, Close instead of Shutdown             -> TestSignalAnswersWhatIsUnderWay
//   - door.go, a second signal does not end the wait -> TestSecondSignalStopsTheCollectorAtOnce (does not end)
//   - door.go, without ReadTimeout                   -> TestCollectSpeaksHTTPByTheRules
//   - door.go, without MaxHeaderBytes                -> TestCollectSpeaksHTTPByTheRules
//   - door.go, headers and bodies have an hour       -> TestSilentClientsDoNotKeepOthersOut
//   - certificate.go, changed files are not read     -> TestCollectSpeaksTLSAndReadsRenewedCertificates
//   - certificate.go, half a renewal leaves none     -> TestCollectSpeaksTLSAndReadsRenewedCertificates
//   - collect.go, a stream that is not there passes  -> TestStreamThatIsNotThereStopsTheCollector (does not end)
//   - collect.go, a collector that stops is ready    -> TestSignalAnswersWhatIsUnderWay

// collector is millrace collect as a process of its own.
type collector struct {
	*process
	address, admin string
}

// startCollector starts it with a file: where the events go, and more lines.
func startCollector(t *testing.T, to, more string) *collector {
	t.Helper()
	file := filepath.Join(t.TempDir(), "collect.yaml")
	write(t, file, fmt.Appendf(nil, "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nto: { %s }\n%s\n", to, more))
	p := start(t, "collect", file)
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		p.exit()
	})
	admin := p.await(`admin server listens.*address=(\S+)`)[1]
	return &collector{p, p.await(`collecting.*address=(\S+)`)[1], admin}
}

// post sends one request and returns status, answer and headers.
func (c *collector) post(path, body string, headers ...string) (int, collect.Answer, http.Header) {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, "http://"+c.address+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	var a collect.Answer
	if err := json.NewDecoder(response.Body).Decode(&a); err != nil {
		c.t.Fatal(err)
	}
	return response.StatusCode, a, response.Header
}

// clickStream is a NATS server in this process with the stream CLICKS; to is what a collector's file says of it.
func clickStream(t *testing.T) (to string, messages func() []*jetstream.RawStreamMsg) {
	t.Helper()
	s, err := nats.Start(nats.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	conn, err := client.Connect(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	log, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "CLICKS", Subjects: []string{"clicks.*"}})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("nats: { url: %q, stream: CLICKS }", s.URL()), func() (ms []*jetstream.RawStreamMsg) {
		info, err := log.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for n := uint64(1); n <= info.State.LastSeq; n++ {
			m, err := log.GetMsg(t.Context(), n)
			if err != nil {
				t.Fatal(err)
			}
			ms = append(ms, m)
		}
		return ms
	}
}

func TestCollectPutsEventsIntoJetStream(t *testing.T) {
	to, messages := clickStream(t)
	c := startCollector(t, to, `decode: { fields: { user: customer.id, time: ts } }
write_keys: { web: { key: w } }
trusted_proxies: [127.0.0.1]`)
	c.eventually(c.admin, "/healthz", "^ok")
	c.eventually(c.admin, "/readyz", "^ready")
	body := `[{"event_type":"click","event_id":"e1","ts":"2026-01-02T03:04:05Z","customer":{"id":"u1"}},{"event_type":"click","ts":"yesterday"}]`
	for range 2 { // the client has not seen the first answer
		status, a, header := c.post("/v1/events?key=w&sent_at=2026-01-02T03:04:06Z", body, "X-Forwarded-For: 8.8.8.8", "User-Agent: Tea/1", "X-Request-Id: r1")
		if status != 207 || a.Accepted != 1 || len(a.Refused) != 1 || !strings.Contains(a.Refused[0].Error, "yesterday") || header.Get("X-Request-Id") != "r1" {
			t.Fatalf("%d %+v %v", status, a, header)
		}
	}
	ms := messages()
	if len(ms) != 1 {
		t.Fatalf("%d messages; want the event once", len(ms))
	}
	var e map[string]any
	if err := json.Unmarshal(ms[0].Data, &e); err != nil {
		t.Fatal(err)
	}
	if ms[0].Header.Get("Millrace-Key") != "u1" || e["client_time"] != "2026-01-02T03:04:05Z" || e["ts"] == e["client_time"] || e["ip"] != "8.8.8.8" ||
		e["user_agent"] != "Tea/1" || e["write_key"] != "web" || e["event_id"] != "e1" {
		t.Errorf("%v %s", ms[0].Header, ms[0].Data)
	}
	c.eventually(c.admin, "/metrics", `millrace_collect_events_accepted_total 2`)
	c.eventually(c.admin, "/metrics", `millrace_collect_requests_total\{reason="events",status="207"\} 2`)
	c.eventually(c.admin, "/metrics", `millrace_collect_events_refused_total\{reason="invalid"\} 2`)
	c.eventually(c.admin, "/metrics", `millrace_collect_append_duration_seconds_count 2`)
	if response, err := http.Get("http://" + c.address + "/tracker.js"); err != nil || response.StatusCode != 200 {
		t.Errorf("tracker.js: %v", err)
	} else {
		response.Body.Close()
	}
	c.signal(syscall.SIGTERM)
	if code := c.exit(); code != 0 {
		t.Errorf("exit code %d\n%s", code, c.log.String())
	}
}

// Records fail one by one, and a whole call, before Kinesis has them all; 100 events are 100 records.
func TestCollectPutsEventsIntoKinesis(t *testing.T) {
	s, err := kinesis.Start(kinesis.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	s.CreateStream("clicks", 2)
	s.Intercept(func(c kinesis.Call) kinesis.Fault {
		switch {
		case c.Operation == "PutRecords" && c.Before == 0:
			return kinesis.Fault{Error: "ProvisionedThroughputExceededException"}
		case c.Operation == "PutRecords" && c.Before < 4:
			return kinesis.Fault{Fail: func(i int) string {
				if i%2 == 0 {
					return "ProvisionedThroughputExceededException"
				}
				return ""
			}}
		}
		return kinesis.Fault{}
	})
	for name, value := range s.Env() {
		t.Setenv(name, value)
	}
	c := startCollector(t, "kinesis: { stream: clicks }", "")
	var events []string
	for i := range 100 {
		events = append(events, fmt.Sprintf(`{"user_id":"u%d"}`, i))
	}
	if status, a, _ := c.post("/v1/events", "["+strings.Join(events, ",")+"]"); status != 200 || a.Accepted != 100 {
		t.Errorf("%d %+v", status, a)
	}
	total := 0
	for _, shard := range s.Shards("clicks") {
		if total += shard.Records; shard.Records == 0 {
			t.Errorf("shard %s is empty", shard.ID)
		}
	}
	if total != 100 || s.Seen("PutRecords") != 5 {
		t.Errorf("%d records after %d calls; want 100 after 5", total, s.Seen("PutRecords"))
	}
	c.eventually(c.admin, "/readyz", "^ready")
}

// talk sends bytes and returns what comes back until the server closes or wait is over.
func (c *collector) talk(wait time.Duration, parts ...string) string {
	c.t.Helper()
	conn, err := net.Dial("tcp", c.address)
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(wait))
	for _, part := range parts {
		if _, err := io.WriteString(conn, part); err != nil {
			break // it has closed
		}
	}
	text, _ := io.ReadAll(conn)
	return string(text)
}

func TestCollectSpeaksHTTPByTheRules(t *testing.T) {
	to, messages := clickStream(t)
	c := startCollector(t, to, "limits: { receive: 1s, headers: 4KiB, body: 64KiB, in_flight: 1MiB, connections: 50 }")
	const event = `{"user_id":"u1"}`
	const length = "Content-Length: 16\r\n"
	head := func(more string) string { return "POST /v1/events HTTP/1.1\r\nHost: c\r\n" + more + "\r\n" }
	last := "Connection: close\r\n"
	accepted := 0
	for _, test := range []struct {
		name     string
		parts    []string
		want     string // first words of the answer
		accepted int
	}{
		{"1.0", []string{"POST /v1/events HTTP/1.0\r\n" + length + "\r\n" + event}, "HTTP/1.0 200", 1},
		{"1.0 without a length", []string{"POST /v1/events HTTP/1.0\r\n\r\n" + event}, "HTTP/1.0 400", 0},
		{"chunked", []string{head(last + "Transfer-Encoding: chunked\r\n"), "8\r\n" + event[:8] + "\r\n", "8\r\n" + event[8:] + "\r\n0\r\n\r\n"}, "HTTP/1.1 200", 1},
		{"chunks without an end", []string{head("Transfer-Encoding: chunked\r\n"), "8\r\n" + event[:8] + "\r\n"}, "HTTP/1.1 408", 0},
		{"keep-alive", []string{head(length) + event, head(length+last) + event}, "HTTP/1.1 200", 2},
		{"expect", []string{head(length + last + "Expect: 100-continue\r\n"), event}, "HTTP/1.1 100 Continue", 1},
		{"no host", []string{"POST /v1/events HTTP/1.1\r\n" + length + "\r\n" + event}, "HTTP/1.1 400", 0},
		{"head", []string{"HEAD /v1/events HTTP/1.1\r\nHost: c\r\n" + last + "\r\n"}, "HTTP/1.1 405", 0},
		{"another path", []string{"POST /v2 HTTP/1.1\r\nHost: c\r\n" + length + last + "\r\n" + event}, "HTTP/1.1 404", 0},
		{"large headers", []string{head("X: " + strings.Repeat("x", 16<<10) + "\r\n")}, "HTTP/1.1 431", 0},
		{"a length and nothing", []string{head("Content-Length: 60000\r\n"), event}, "HTTP/1.1 408", 0},
		{"a length that is too large", []string{head(last + "Content-Length: 100000\r\n")}, "HTTP/1.1 413", 0},
		{"chunks that are too large", []string{head(last + "Transfer-Encoding: chunked\r\n"), "18000\r\n" + strings.Repeat(" ", 0x18000) + "\r\n0\r\n\r\n"}, "HTTP/1.1 413", 0},
		{"slow headers", []string{"POST /v1/events HTTP/1.1\r\nHost: c\r\nX: "}, "", 0},
		{"no HTTP", []string{"\x16\x03\x01\x00\x00\r\n\r\n"}, "HTTP/1.1 400", 0},
	} {
		got := c.talk(20*time.Second, test.parts...)
		if !strings.HasPrefix(got, test.want) || test.want == "" && got != "" && !strings.HasPrefix(got, "HTTP/1.1 408") {
			t.Errorf("%s: %.300q; want %q", test.name, got, test.want)
		}
		accepted += test.accepted
		if n := len(messages()); n != accepted {
			t.Fatalf("%s: %d events in the stream; want %d", test.name, n, accepted)
		}
	}
}

// Clients that connect and say nothing take no connection away for longer than they may.
func TestSilentClientsDoNotKeepOthersOut(t *testing.T) {
	to, _ := clickStream(t)
	c := startCollector(t, to, "limits: { receive: 1s, connections: 3 }")
	for range 3 {
		conn, err := net.Dial("tcp", c.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "POST /v1/events HTTP/1.1\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	if status, a, _ := c.post("/v1/events", `{"user_id":"u1"}`); status != 200 {
		t.Errorf("%d %+v", status, a)
	}
}

// slowBroker is a broker that answers a produce request only when release is closed.
func slowBroker(t *testing.T) (to string, b *broker.Broker, asked, release chan struct{}) {
	t.Helper()
	b, err := broker.Start(broker.Options{Topics: []string{"clicks"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	asked, release = make(chan struct{}), make(chan struct{})
	b.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		b.SleepControl(func() {
			close(asked)
			select {
			case <-release:
			case <-t.Context().Done():
			}
		})
		return nil, nil, false
	})
	return fmt.Sprintf("kafka: { brokers: [%q], topic: clicks }", b.Addr), b, asked, release
}

func TestSignalAnswersWhatIsUnderWay(t *testing.T) {
	to, b, asked, release := slowBroker(t)
	c := startCollector(t, to, "")
	answered := make(chan int)
	go func() {
		status, _, _ := c.post("/v1/events", `{"user_id":"u1"}`)
		answered <- status
	}()
	<-asked
	c.signal(syscall.SIGTERM)
	c.eventually(c.admin, "/readyz", "^stopping")
	for { // until nobody listens
		conn, err := net.Dial("tcp", c.address)
		if err != nil {
			break
		}
		conn.Close()
		<-time.After(10 * time.Millisecond)
	}
	close(release)
	if status := <-answered; status != 200 {
		t.Errorf("the request that was under way: status %d", status)
	}
	if code := c.exit(); code != 0 {
		t.Errorf("exit code %d\n%s", code, c.log.String())
	}
	if values := topic(t, b.Addr, 1); !strings.Contains(values[0], `"user_id":"u1"`) {
		t.Errorf("%v", values)
	}
}

// topic is the first n values of the topic clicks.
func topic(t *testing.T, addr string, n int) (values []string) {
	t.Helper()
	consumer, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics("clicks"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableClientMetrics())
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for len(values) < n && ctx.Err() == nil {
		for _, r := range consumer.PollFetches(ctx).Records() {
			values = append(values, string(r.Value))
		}
	}
	return values
}

func TestSecondSignalStopsTheCollectorAtOnce(t *testing.T) {
	to, _, asked, _ := slowBroker(t)
	c := startCollector(t, to, "limits: { deadline: 5m }\ndrain: 5m")
	conn, err := net.Dial("tcp", c.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /v1/events HTTP/1.1\r\nHost: c\r\nContent-Length: 16\r\n\r\n{\"user_id\":\"u1\"}"); err != nil {
		t.Fatal(err)
	}
	<-asked
	c.signal(syscall.SIGTERM)
	c.await(`a second signal stops at once`)
	<-time.After(signalGrace)
	c.signal(syscall.SIGTERM)
	if code := c.exit(); code != 1 || !strings.Contains(c.log.String(), "millrace collect: stopped at once by a second signal") {
		t.Errorf("exit code %d\n%s", code, c.log.String())
	}
	if line, _ := bufio.NewReader(conn).ReadString('\n'); strings.Contains(line, "200") {
		t.Errorf("the event was accepted: %s", line)
	}
}

func TestCollectGoesOnWhileTheStreamIsAway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	c := startCollector(t, fmt.Sprintf("nats: { url: %q, stream: CLICKS }", "nats://"+addr), "limits: { deadline: 2s }")
	if !strings.Contains(c.log.String(), "the stream does not answer yet") {
		t.Errorf("no word of the stream:\n%s", c.log.String())
	}
	c.eventually(c.admin, "/readyz", "not connected")
	status, a, header := c.post("/v1/events", `{"user_id":"u1"}`)
	if status != 503 || a.Accepted != 0 || header.Get("Retry-After") == "" {
		t.Errorf("%d %+v %v; want 503", status, a, header)
	}
	s, err := nats.Start(nats.Options{Dir: t.TempDir(), Addr: addr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	conn, err := client.Connect(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "CLICKS", Subjects: []string{"clicks.*"}}); err != nil {
		t.Fatal(err)
	}
	c.eventually(c.admin, "/readyz", "^ready")
	if status, a, _ := c.post("/v1/events", `{"user_id":"u1"}`); status != 200 {
		t.Errorf("%d %+v; want success once the stream is there", status, a)
	}
}

func TestStreamThatIsNotThereStopsTheCollector(t *testing.T) {
	s, err := nats.Start(nats.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	got := millrace(t.Context(), fmt.Sprintf("listen: 127.0.0.1:0\nto:\n  nats: { url: %q, stream: CLICKS }\n", s.URL()), "collect", "-")
	if got.code != 1 || got.stdout != "" || !strings.Contains(got.err, "millrace collect: -:3:9: to.nats: stream CLICKS") {
		t.Errorf("%+v; want the place of the stream", got)
	}
	got = millrace(t.Context(), "listen: 127.0.0.1:0\n", "collect", "-")
	if got.code != 1 || got.err != "-:1:1: to is missing; want the stream: kafka, nats or kinesis\n" {
		t.Errorf("%+v", got)
	}
}

func TestCollectSpeaksTLSAndReadsRenewedCertificates(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certificates(t, dir, 1)
	certificates(t, other, 2)
	to, _ := clickStream(t)
	c := startCollector(t, to, fmt.Sprintf("tls: { cert: %q, key: %q }", cert, key))
	first := read(t, cert)
	if serial := c.postOverTLS(first); serial != 1 {
		t.Errorf("certificate %d; want the first", serial)
	}
	second := read(t, filepath.Join(other, "cert.pem"))
	write(t, cert, second)
	if serial := c.postOverTLS(first); serial != 1 {
		t.Errorf("certificate %d in the middle of a renewal; want the old one", serial)
	}
	write(t, key, read(t, filepath.Join(other, "key.pem")))
	must(t, os.Chtimes(key, time.Time{}, time.Now().Add(time.Second))) // clocks of file systems are coarse
	if serial := c.postOverTLS(second); serial != 2 {
		t.Errorf("certificate %d; want the renewed one", serial)
	}
	got := millrace(t.Context(), "listen: 127.0.0.1:0\nto: { "+to+" }\ntls: { cert: none.pem, key: none.pem }\n", "collect", "-")
	if got.code != 1 || got.stdout != "" || !strings.Contains(got.err, "tls: stat none.pem") {
		t.Errorf("%+v", got)
	}
}

// postOverTLS sends an event to a server that has to show one certificate, and returns its serial number.
func (c *collector) postOverTLS(trusted []byte) int64 {
	c.t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(trusted)
	over := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true, ForceAttemptHTTP2: true}}
	response, err := over.Post("https://"+c.address+"/v1/events", "", strings.NewReader(`{"user_id":"u1"}`))
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != 200 || response.ProtoMajor != 2 {
		c.t.Errorf("status %d over %s", response.StatusCode, response.Proto)
	}
	return response.TLS.PeerCertificates[0].SerialNumber.Int64()
}

// The stream goes away and comes back on its folder while clients send, each again what was not taken: all that was accepted
// is there, once. That a server is killed with -9 is tested in sources/collect/natslog.
func TestNothingAcceptedIsLostOverRestartsOfTheStream(t *testing.T) {
	o := nats.Options{Dir: t.TempDir()}
	s, err := nats.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Close() }()
	o.Addr = s.Addr
	conn, err := client.Connect(s.URL(), client.MaxReconnects(-1), client.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	log, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "CLICKS", Subjects: []string{"clicks.*"}, Duplicates: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	c := startCollector(t, fmt.Sprintf("nats: { url: %q, stream: CLICKS }", s.URL()), "limits: { deadline: 1s }")
	stop := make(chan struct{})
	progress := make(chan struct{})
	accepted := make(chan []string, 3)
	for n := range cap(accepted) {
		go func() { accepted <- c.shopper(n, stop, progress) }()
	}
	for range 3 {
		for range 20 {
			<-progress
		}
		s.Close()
		if s, err = nats.Start(o); err != nil {
			t.Fatal(err)
		}
	}
	<-progress
	close(stop)
	times := map[string]int{}
	var all []string
	for range cap(accepted) {
		all = append(all, <-accepted...)
	}
	info, err := log.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for n := uint64(1); n <= info.State.LastSeq; n++ {
		m, err := log.GetMsg(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		times[m.Header.Get("Nats-Msg-Id")]++
	}
	for _, id := range all {
		if times[id] != 1 {
			t.Errorf("event %s was accepted and is there %d times", id, times[id])
		}
	}
	t.Logf("%d events accepted over three restarts", len(all))
}

// shopper sends events until stop, each until it is accepted, and returns their ids.
func (c *collector) shopper(number int, stop <-chan struct{}, progress chan<- struct{}) (accepted []string) {
	for n := 0; ; n++ {
		id := fmt.Sprintf("%d-%d", number, n)
		for {
			response, err := http.Post("http://"+c.address+"/v1/events", "", strings.NewReader(fmt.Sprintf(`{"event_id":%q,"user_id":"u%d"}`, id, number)))
			if err != nil {
				c.t.Error(err)
				return accepted
			}
			response.Body.Close()
			if response.StatusCode == 200 {
				break
			}
			select {
			case <-stop:
				return accepted
			case <-time.After(20 * time.Millisecond):
			}
		}
		accepted = append(accepted, id)
		select {
		case progress <- struct{}{}:
		case <-stop:
			return accepted
		}
	}
}

// certificates writes a certificate of 127.0.0.1 and its key.
func certificates(t *testing.T, dir string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	write(t, filepath.Join(dir, "cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(t, filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}
