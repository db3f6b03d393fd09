package objects_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/millrace-io/millrace/sinks/objects"
	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/faults"
	"github.com/millrace-io/millrace/testenv/network"
	"github.com/millrace-io/millrace/testenv/s3"
)

// faulty starts an S3 server behind a proxy and points the AWS SDK to the proxy.
func faulty(t *testing.T, o faults.Options) (*s3.Server, *faults.Proxy) {
	t.Helper()
	srv := server(t)
	proxy, err := faults.New(srv.URL(), o)
	if err != nil {
		t.Fatal(err)
	}
	front(t, srv, proxy)
	return srv, proxy
}

// front puts h before the server, for the AWS SDK.
func front(t *testing.T, srv *s3.Server, h http.Handler) {
	t.Helper()
	f := httptest.NewServer(h)
	t.Cleanup(f.Close)
	setenv(t, srv.Env(f.URL))
}

// repeat calls fn as the engine does: again, with a new deadline, until it succeeds or no repetition helps.
func repeat(ctx context.Context, fn func(context.Context) error) error {
	var err error
	for range 30 {
		err = attempt(ctx, fn)
		var fatal *stream.FatalError
		if err == nil || errors.As(err, &fatal) || errors.Is(err, stream.ErrExpired) {
			return err
		}
	}
	return err
}

func attempt(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return fn(ctx)
}

// upload sends data to key, repeating what fails, up to the ticket.
func upload(ctx context.Context, s objects.Store, key string, data []byte) (objects.Ticket, error) {
	u := s.Begin(key)
	for len(data) > 0 {
		n := min(len(data), 3<<20)
		u.Write(data[:n])
		data = data[n:]
		if err := repeat(ctx, u.Send); err != nil {
			return objects.Ticket{}, err
		}
	}
	var ticket objects.Ticket
	err := repeat(ctx, func(ctx context.Context) (err error) {
		ticket, err = u.Seal(ctx, nil)
		return err
	})
	return ticket, err
}

func mustUpload(t *testing.T, s objects.Store, key string, data []byte) objects.Ticket {
	t.Helper()
	ticket, err := upload(t.Context(), s, key, data)
	if err != nil {
		t.Fatal(err)
	}
	return ticket
}

func noise(n int, seed byte) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(data)
	return data
}

func holds(t *testing.T, s objects.Store, key string, want []byte) {
	t.Helper()
	var got []byte
	err := repeat(t.Context(), func(ctx context.Context) (err error) {
		got, err = s.Get(ctx, key)
		return err
	})
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%s has %d bytes (error %v); want %d, and the same ones", key, len(got), err, len(want))
	}
}

// unfinished counts the uploads that are neither completed nor aborted.
func unfinished(t *testing.T, srv *s3.Server) int {
	t.Helper()
	bucket := "lake"
	out, err := srv.Client().ListMultipartUploads(t.Context(), &awss3.ListMultipartUploadsInput{Bucket: &bucket})
	if err != nil {
		t.Fatal(err)
	}
	return len(out.Uploads)
}

// expire removes all uploads as the bucket's lifecycle does.
func expire(t *testing.T, srv *s3.Server) {
	t.Helper()
	bucket := "lake"
	out, err := srv.Client().ListMultipartUploads(t.Context(), &awss3.ListMultipartUploadsInput{Bucket: &bucket})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Uploads) == 0 {
		t.Fatal("there is no upload to expire")
	}
	for _, u := range out.Uploads {
		_, err := srv.Client().AbortMultipartUpload(t.Context(), &awss3.AbortMultipartUploadInput{Bucket: &bucket, Key: u.Key, UploadId: u.UploadId})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestEveryCallSurvivesEveryFault(t *testing.T) {
	_, proxy := faulty(t, faults.Options{Delay: time.Millisecond})
	s := open(t, "s3://lake/x")
	all := []faults.Fault{faults.Internal, faults.SlowDown, faults.Reset, faults.LostAnswer, faults.FailAfter, faults.Slow}
	n := byte(0)
	for _, operation := range []string{"CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "HeadObject", "AbortMultipartUpload", "DeleteObject"} {
		for _, fault := range all {
			t.Run(fmt.Sprintf("%s %s", operation, fault), func(t *testing.T) {
				n++
				key, data := fmt.Sprintf("k%d", n), noise(100, n)
				if operation == "UploadPart" {
					data = noise(9<<20, n)
				}
				proxy.Order(faults.Operation(operation), fault, fault, fault) // more than the SDK's own attempts
				ticket := mustUpload(t, s, key, data)
				if err := repeat(t.Context(), func(ctx context.Context) error { return s.Publish(ctx, ticket) }); err != nil {
					t.Fatal("publish:", err)
				}
				holds(t, s, key, data)
				if err := repeat(t.Context(), func(ctx context.Context) error { return s.Withdraw(ctx, ticket) }); err != nil {
					t.Fatal("withdraw:", err)
				}
				if _, err := s.Get(t.Context(), key); !errors.Is(err, objects.ErrNotFound) {
					t.Fatal("after Withdraw get returns", err)
				}
			})
		}
	}
}

func TestOneRequestInFiveFailsAndNothingIsLostOrDoubled(t *testing.T) {
	const seed = 7
	t.Log("seed", seed)
	_, proxy := faulty(t, faults.Options{Rate: 0.2, Seed: seed, Delay: time.Millisecond})
	s := open(t, "s3://lake/x")
	want := map[string][]byte{}
	for i := range 25 {
		key, data := fmt.Sprintf("k%02d", i), noise(rand.New(rand.NewPCG(seed, uint64(i))).IntN(12<<20), byte(i))
		ticket := mustUpload(t, s, key, data)
		for range 2 { // the second as the owner after a crash
			if err := repeat(t.Context(), func(ctx context.Context) error { return s.Publish(ctx, ticket) }); err != nil {
				t.Fatal("publish:", err)
			}
		}
		want[key] = data
		if i%5 == 0 {
			if err := repeat(t.Context(), func(ctx context.Context) error { return s.Withdraw(ctx, ticket) }); err != nil {
				t.Fatal("withdraw:", err)
			}
			delete(want, key)
		}
	}
	got := 0
	err := repeat(t.Context(), func(ctx context.Context) error {
		got = 0
		for o, err := range s.List(ctx, "") {
			if err != nil {
				return err
			}
			if want[o.Key] == nil {
				t.Errorf("%s is there", o.Key)
			}
			got++
		}
		return nil
	})
	if err != nil || got != len(want) {
		t.Fatalf("%d objects (error %v); want %d", got, err, len(want))
	}
	for key, data := range want {
		holds(t, s, key, data)
	}
	if counts := proxy.Counts(); len(counts) < 6 {
		t.Errorf("faults met: %v; want all kinds", counts)
	}
}

func TestSendDoesNotWaitForTheNetwork(t *testing.T) {
	srv, proxy := faulty(t, faults.Options{Delay: time.Hour})
	s := open(t, "s3://lake/x")
	u := s.Begin("k")
	proxy.Order(faults.Operation("UploadPart"), faults.Slow, faults.Slow)
	u.Write(noise(17<<20, 1))
	if err := u.Send(t.Context()); err != nil {
		t.Fatal("send:", err)
	}
	if n := u.Buffered(); n < 17<<20 || n > 18<<20 {
		t.Errorf("%d bytes are buffered; want what is under way and 1 MiB", n)
	}
	// Both places are taken: memory stays bounded, and the deadline is kept.
	u.Write(noise(8<<20, 2))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := u.Send(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("send of a third part returns %v; want the deadline's error", err)
	}
	if _, err := u.Seal(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("seal returns %v; want the deadline's error", err)
	}
	u.Discard(t.Context())
	if n := unfinished(t, srv); n != 0 {
		t.Errorf("after Discard %d uploads are left", n)
	}
}

func TestAPartThatHangsIsSentAgain(t *testing.T) {
	_, proxy := faulty(t, faults.Options{Delay: time.Hour})
	s, err := objects.Open(t.Context(), "s3://lake/x", objects.Options{PartTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	proxy.Order(faults.Operation("UploadPart"), faults.Slow, faults.Slow)
	data := noise(9<<20, 1)
	ticket := mustUpload(t, s, "k", data)
	if err := s.Publish(t.Context(), ticket); err != nil {
		t.Fatal(err)
	}
	holds(t, s, "k", data)
}

// Not network.Reset: toxiproxy may hang when it has to change what a connection carries whose server is gone.
func TestAPartThatIsCutInItsMiddleIsSentAgain(t *testing.T) {
	srv := server(t)
	far := sinktest.NewFar(t, srv.URL())
	direct := open(t, "s3://lake/x")
	setenv(t, srv.Env("http://"+far.Addr))
	s, err := objects.Open(t.Context(), "s3://lake/x", objects.Options{PartTimeout: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range []network.Fault{network.Refused, network.HalfOpen} {
		u := s.Begin(f.String())
		data := noise(9<<20, byte(i))
		u.Write(data)
		arrived, goOn := far.Requests.Hold(t.Context(), faults.Operation("UploadPart"))
		if err := u.Send(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-arrived
		far.Set(f)
		goOn()
		_, err := u.Seal(t.Context(), nil)
		if f != network.HalfOpen && err == nil || err != nil && !strings.Contains(err.Error(), " of s3://lake/x/"+f.String()) {
			t.Errorf("%s: seal returns %v; want what became of the part", f, err)
		}
		far.Set(network.Healthy)
		var ticket objects.Ticket
		if err := repeat(t.Context(), func(ctx context.Context) (err error) {
			ticket, err = u.Seal(ctx, nil)
			return err
		}); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		if err := repeat(t.Context(), func(ctx context.Context) error { return s.Publish(ctx, ticket) }); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		holds(t, direct, f.String(), data)
	}
}

func TestAConnectionThatTheNetworkForgotIsNotUsedForEver(t *testing.T) {
	far := sinktest.NewHTTP2(t, slow(1<<20))
	setenv(t, (&s3.Server{}).Env(far.URL))
	t.Setenv("AWS_ACCESS_KEY_ID", "x")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "x")
	t.Setenv("AWS_CA_BUNDLE", far.CA)
	s, err := objects.Open(t.Context(), "s3://lake/x", objects.Options{PartTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	far.Forgets(t, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		return s.Put(ctx, "k", []byte("v"))
	})
}

// slow reads so much of a part in 10 ms, and answers whatever an upload asks.
type slow int64

func (s slow) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := io.CopyN(io.Discard, r.Body, int64(s)); err != nil {
			break
		}
		<-tick.C
	}
	w.Header().Set("ETag", `"e"`)
	fmt.Fprint(w, "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
}

func TestAPartThatTakesLongAndMovesIsNotGivenUp(t *testing.T) {
	front(t, &s3.Server{}, slow(300<<10))
	t.Setenv("AWS_ACCESS_KEY_ID", "x")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "x")
	const timeout = 400 * time.Millisecond
	s, err := objects.Open(t.Context(), "s3://lake/x", objects.Options{PartTimeout: timeout, PartSize: 20 << 20})
	if err != nil {
		t.Fatal(err)
	}
	u := s.Begin("k")
	u.Write(noise(20<<20, 1))
	began := time.Now()
	if _, err := u.Seal(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took <= timeout {
		t.Errorf("it took %s; want a part that takes longer than the %s of one that stands still", took, timeout)
	}
}

func TestDiscardLeavesNoUpload(t *testing.T) {
	srv, _ := faulty(t, faults.Options{})
	s := open(t, "s3://lake/x")
	for _, size := range []int{100, 9 << 20, 40 << 20} {
		u := s.Begin("k")
		u.Write(noise(size, 1))
		if err := u.Send(t.Context()); err != nil {
			t.Fatal(err)
		}
		u.Discard(t.Context())
		if n := unfinished(t, srv); n != 0 {
			t.Errorf("after Discard of %d bytes %d uploads are left", size, n)
		}
	}
	if err := s.Probe(t.Context()); err != nil || unfinished(t, srv) != 0 {
		t.Errorf("after Probe (%v) %d uploads are left", err, unfinished(t, srv))
	}
}

func TestAnObjectThatIsReplacedWhileItIsReadIsNotMixed(t *testing.T) {
	_, proxy := faulty(t, faults.Options{})
	s := open(t, "s3://lake/x")
	if err := s.Put(t.Context(), "k", noise(4<<20, 1)); err != nil {
		t.Fatal(err)
	}
	o, err := s.Open(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	p := make([]byte, 8)
	for _, off := range []int64{4<<20 - 8, 4<<20 - 500<<10} { // a footer, and what it points to
		if _, err := o.ReadAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	if n := proxy.Seen("GetObject"); n != 1 {
		t.Errorf("the end of the object took %d requests; want 1", n)
	}
	if err := s.Put(t.Context(), "k", noise(4<<20, 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := o.ReadAt(p, 0); err == nil {
		t.Error("a read of what is there now succeeds")
	}
}

func TestAnUploadThatTheLifecycleRemoved(t *testing.T) {
	srv, _ := faulty(t, faults.Options{})
	s := open(t, "s3://lake/x")
	ticket := mustUpload(t, s, "sealed", noise(9<<20, 1))
	expire(t, srv)
	if err := s.Publish(t.Context(), ticket); !errors.Is(err, stream.ErrExpired) {
		t.Errorf("publish returns %v; want ErrExpired", err)
	}
	if err := s.Withdraw(t.Context(), ticket); err != nil {
		t.Errorf("withdraw: %v", err)
	}

	u := s.Begin("unsealed")
	u.Write(noise(9<<20, 1))
	if err := u.Send(t.Context()); err != nil {
		t.Fatal(err)
	}
	for u.Buffered() > 2<<20 { // until the part has arrived
		time.Sleep(time.Millisecond)
	}
	expire(t, srv)
	_, err := u.Seal(t.Context(), nil)
	for range 10 { // the server answers before it has read the part, and its answer may be lost with the connection; the engine tries again too
		if errors.Is(err, stream.ErrExpired) {
			break
		}
		_, err = u.Seal(t.Context(), nil)
	}
	if !errors.Is(err, stream.ErrExpired) {
		t.Errorf("seal returns %v; want ErrExpired", err)
	}
	u.Discard(t.Context())
}

// script answers CompleteMultipartUpload with codes, "200" included, instead of the server; "" lets it through.
type script struct {
	next    http.Handler
	answers []string
	asked   atomic.Int64
	headers []http.Header
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || !r.URL.Query().Has("uploadId") {
		s.next.ServeHTTP(w, r)
		return
	}
	i := int(s.asked.Add(1)) - 1
	s.headers = append(s.headers, r.Header)
	if i >= len(s.answers) || s.answers[i] == "" {
		s.next.ServeHTTP(w, r)
		return
	}
	io.Copy(io.Discard, r.Body)
	code := s.answers[i]
	status := map[string]int{
		"200": 200, "NoSuchUpload": 404, "PreconditionFailed": 412, "ConditionalRequestConflict": 409, "NotImplemented": 501, "InvalidPart": 400,
	}[code]
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	if status == 200 {
		fmt.Fprint(w, `<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>`)
		return
	}
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>scripted</Message></Error>", code)
}

// What servers answer to a complete, and what there is: see the table of servers in the design document.
func TestPublishByWhatIsThereAndNotByTheAnswerAlone(t *testing.T) {
	const done, theirs = "done", "theirs"
	cases := []struct {
		name    string
		amazon  bool
		before  string // what is at the key
		answers []string
		want    string // "", "fatal", "expired", "again"
	}{
		{"amazon: first complete", true, "", []string{""}, ""},
		{"amazon: second complete answers 200", true, done, []string{"200"}, ""},
		{"amazon: second complete answers NoSuchUpload", true, done, []string{"NoSuchUpload"}, ""},
		{"amazon: second complete answers PreconditionFailed", true, done, []string{"PreconditionFailed"}, ""},
		{"amazon: somebody else's object", true, theirs, []string{"PreconditionFailed"}, "fatal"},
		{"amazon: somebody else's object and no upload", true, theirs, []string{"NoSuchUpload"}, "fatal"},
		{"amazon: no upload and no object", true, "", []string{"NoSuchUpload"}, "expired"},
		{"amazon: parts are gone", true, "", []string{"InvalidPart"}, "expired"},
		{"amazon: conflict with another complete", true, "", []string{"ConditionalRequestConflict"}, "again"},
		{"amazon: object was there and is gone", true, "", []string{"PreconditionFailed"}, "again"},
		{"custom: first complete", false, "", []string{""}, ""},
		{"custom: no condition on complete", false, "", []string{"NotImplemented", ""}, ""},
		{"custom: done already is seen without asking", false, done, []string{"NoSuchUpload"}, ""},
		{"custom: somebody else's object is seen without asking", false, theirs, []string{"200"}, "fatal"},
		{"custom: 200 without an object", false, "", []string{"200"}, "again"},
		{"custom: no upload and no object", false, "", []string{"NoSuchUpload"}, "expired"},
	}
	srv := server(t)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			proxy, err := faults.New(srv.URL(), faults.Options{})
			if err != nil {
				t.Fatal(err)
			}
			between := &script{next: proxy, answers: c.answers}
			front(t, srv, between)
			s := open(t, "s3://lake")
			if c.amazon {
				objects.AsAmazon(s)
			}
			key := fmt.Sprintf("k%d", i)
			ticket := mustUpload(t, s, key, noise(100, 1))
			setenv(t, srv.Env(srv.URL()))
			direct := open(t, "s3://lake")
			switch c.before {
			case done:
				err = direct.Publish(t.Context(), ticket)
			case theirs:
				err = direct.Put(t.Context(), key, []byte("theirs"))
			}
			if err != nil {
				t.Fatal(err)
			}
			err = s.Publish(t.Context(), ticket)
			var fatal *stream.FatalError
			got := "again"
			switch {
			case err == nil:
				got = ""
			case errors.As(err, &fatal):
				got = "fatal"
			case errors.Is(err, stream.ErrExpired):
				got = "expired"
			}
			if got != c.want {
				t.Fatalf("publish returns %v (%q); want %q", err, got, c.want)
			}
			if c.want == "" {
				holds(t, direct, key, noise(100, 1))
			}
			if c.before == theirs {
				holds(t, direct, key, []byte("theirs"))
			}
			if n := between.asked.Load(); strings.Contains(c.name, "without asking") != (n == 0) {
				t.Errorf("the server was asked %d times to complete", n)
			}
			for j, h := range between.headers {
				if (h.Get("If-None-Match") == "*") == (j > 0 && c.answers[j-1] == "NotImplemented") {
					t.Errorf("complete %d has If-None-Match %q", j, h.Get("If-None-Match"))
				}
			}
		})
	}
}

func TestErrorsThatNoRetryMendsSayWhatToDo(t *testing.T) {
	cases := []struct {
		status int
		code   string
		region string
		want   []string // nil: not fatal
	}{
		{404, "NoSuchBucket", "", []string{"s3://lake", "NoSuchBucket", "create the bucket lake"}},
		{403, "AccessDenied", "", []string{"s3://lake", "AccessDenied", "s3:PutObject"}},
		{403, "InvalidAccessKeyId", "", []string{"s3://lake", "AWS_ACCESS_KEY_ID"}},
		{403, "SignatureDoesNotMatch", "", []string{"s3://lake", "AWS_SECRET_ACCESS_KEY"}},
		{400, "ExpiredToken", "", []string{"s3://lake", "session token"}},
		{301, "PermanentRedirect", "eu-west-1", []string{"s3://lake", "eu-west-1", "AWS_REGION"}},
		{400, "AuthorizationHeaderMalformed", "", []string{"s3://lake", "AWS_REGION", "us-east-1"}},
		{400, "KMS.DisabledException", "", []string{"key that encrypts"}},
		{403, "SomethingNew", "", []string{"s3://lake", "SomethingNew", "credentials"}},
		{500, "InternalError", "", nil},
		{503, "SlowDown", "", nil},
		{503, "ServiceUnavailable", "", nil},
		{400, "RequestTimeout", "", nil},
		{429, "TooManyRequests", "", nil},
	}
	for _, c := range cases {
		t.Run(c.code, func(t *testing.T) {
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				if c.region != "" {
					w.Header().Set("x-amz-bucket-region", c.region)
				}
				w.Header().Set("Content-Type", "application/xml")
				w.WriteHeader(c.status)
				fmt.Fprintf(w, "<Error><Code>%s</Code><Message>Its message.</Message></Error>", c.code)
			})
			front(t, &s3.Server{}, h)
			t.Setenv("AWS_ACCESS_KEY_ID", "x")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "x")
			s := open(t, "s3://lake/x")
			for call, err := range map[string]error{
				"probe": s.Probe(t.Context()),
				"put":   s.Put(t.Context(), "k", nil),
			} {
				var fatal *stream.FatalError
				if errors.As(err, &fatal) != (c.want != nil) || err == nil {
					t.Fatalf("%s returns %v; want fatal: %t", call, err, c.want != nil)
				}
				for _, word := range c.want {
					if !strings.Contains(err.Error(), word) {
						t.Errorf("%s says %q; want it to have %q", call, err, word)
					}
				}
				if strings.Contains(err.Error(), "\n") {
					t.Errorf("%s says more than one line: %q", call, err)
				}
			}
		})
	}
}

func TestWrongSecretAndMissingBucketAreFatal(t *testing.T) {
	srv := server(t)
	fatal := func(err error, word string) {
		t.Helper()
		var f *stream.FatalError
		if !errors.As(err, &f) || !strings.Contains(err.Error(), word) {
			t.Errorf("error is %v; want a FatalError with %q", err, word)
		}
	}
	missing := open(t, "s3://nowhere/x")
	_, err := upload(t.Context(), missing, "k", noise(100, 1))
	fatal(err, "create the bucket nowhere")
	fatal(missing.Probe(t.Context()), "create the bucket nowhere")
	for _, err := range missing.List(t.Context(), "") {
		fatal(err, "create the bucket nowhere")
	}

	ticket := mustUpload(t, open(t, "s3://lake"), "k", noise(100, 1))
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
	wrong := open(t, "s3://lake")
	_, err = upload(t.Context(), wrong, "k", noise(100, 1))
	fatal(err, "AWS_SECRET_ACCESS_KEY")
	fatal(wrong.Publish(t.Context(), ticket), "credentials") // HEAD answers without a code
	_, err = wrong.Open(t.Context(), "k")
	fatal(err, "credentials")

	setenv(t, srv.Env(srv.URL()))
	t.Setenv("AWS_REGION", "eu-west-1")
	fatal(open(t, "s3://lake").Probe(t.Context()), "AWS_REGION")

	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	_, err = objects.Open(t.Context(), "s3://lake", objects.Options{})
	fatal(err, "AWS_ACCESS_KEY_ID")
}

func TestAServerThatIsAwayIsNotFatal(t *testing.T) {
	srv := server(t)
	s := open(t, "s3://lake")
	ticket := mustUpload(t, s, "k", noise(100, 1))
	gone := httptest.NewServer(nil)
	gone.Close()
	setenv(t, srv.Env(gone.URL))
	err := open(t, "s3://lake").Publish(t.Context(), ticket)
	var fatal *stream.FatalError
	if err == nil || errors.As(err, &fatal) || errors.Is(err, stream.ErrExpired) {
		t.Fatalf("publish returns %v; want an error that is repeated", err)
	}
}
