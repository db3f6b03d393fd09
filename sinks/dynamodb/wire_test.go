package dynamodb

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/millrace-io/millrace/stream"
	server "github.com/millrace-io/millrace/testenv/dynamodb"
)

// Mutations seen red (line broken -> test):
//
//	signature: the token is not signed -> ASignatureIsTheSDKs
//	parseEndpoint: the standard port stays -> ASignatureIsTheSDKs
//	session.call: no second try -> AnIdleConnectionThatTheServerClosedIsReplaced
//	answer: the trailer stays -> AnAnswerIsReadWhateverItsShape
//	conn.call: what is left of an answer stays -> AnAnswerIsReadWhateverItsShape
//	caller: the token is not looked at -> CredentialsThatCannotStandInAHeaderAreSaid
//	head: Connection: close is not looked at -> AnAnswerIsReadWhateverItsShape
//	session.use: the context is not watched -> ACallEndsWithItsContext
//	newTransport: no RootCAs -> TLSTrustsTheBundleOfTheEnvironment

func TestASignatureIsTheSDKs(t *testing.T) {
	now := time.Date(2026, 3, 2, 23, 59, 59, 0, time.UTC)
	body := []byte(`{"TableName":"profiles"}`)
	for _, at := range []string{"http://127.0.0.1:8000", "https://dynamodb.eu-west-1.amazonaws.com:443", "https://[::1]:444/", "https://localhost/a/b%20c/"} {
		for _, token := range []string{"", "session+token=="} {
			e, err := parseEndpoint(at)
			if err != nil {
				t.Fatal(err)
			}
			c := aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "secret", SessionToken: token}
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, at, bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", contentType)
			r.Header.Set("X-Amz-Target", target+"PutItem")
			sum := sha256.Sum256(body)
			if err := v4.NewSigner().SignHTTP(t.Context(), c, r, hex.EncodeToString(sum[:]), "dynamodb", "eu-west-1", now); err != nil {
				t.Fatal(err)
			}
			m, s := new(signing), newSigner(e, c, "eu-west-1", now)
			for range 2 { // the memory is used again
				ours, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(m.appendHead(nil, s, e, "PutItem", body))))
				if err != nil {
					t.Fatal(err)
				}
				for _, h := range []string{"Authorization", "X-Amz-Date", "X-Amz-Security-Token"} {
					if got, want := ours.Header.Get(h), r.Header.Get(h); got != want {
						t.Errorf("%s, token %q: %s is\n%s; the SDK's is\n%s", at, token, h, got, want)
					}
				}
			}
		}
	}
	if _, err := parseEndpoint("ftp://x"); err == nil {
		t.Error("ftp is taken")
	}
}

// scripted is a wire to a server that reads one request after the other of a connection and answers each with the next text,
// then closes it.
func scripted(t *testing.T, answers ...string) (*wire, *signer) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			in := bufio.NewReader(c)
			for len(answers) > 0 {
				r, err := http.ReadRequest(in)
				if err != nil {
					break
				}
				_, _ = io.Copy(io.Discard, r.Body)
				text := answers[0]
				answers = answers[1:]
				if text == "hang" {
					_, _ = in.ReadByte()
					break
				}
				text, last := strings.CutSuffix(text, "<close>")
				_, _ = io.WriteString(c, text)
				if last {
					break
				}
			}
			_ = c.Close()
		}
	}()
	e, err := parseEndpoint("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{endpoint: e}
	t.Cleanup(func() {
		w.closeIdle()
		_ = l.Close()
		<-done
	})
	return w, newSigner(e, aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}, "r", time.Now())
}

const short = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

func TestAnAnswerIsReadWhateverItsShape(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		status int
		text   string
		kept   bool
		err    string
	}{
		"length":             {"HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 2\r\n\r\n{}", 200, "{}", true, ""},
		"chunked":            {"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n1;x=y\r\n!\r\n0\r\nTrailer: z\r\n\r\n", 400, "{}!", true, ""},
		"until it closes":    {"HTTP/1.1 200 OK\r\n\r\n{}<close>", 200, "{}", false, ""},
		"close is announced": {"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 2\r\n\r\n{}<close>", 200, "{}", false, ""},
		"HTTP/1.0":           {"HTTP/1.0 500 Oh\r\nContent-Length: 0\r\n\r\n<close>", 500, "", false, ""},
		"a hint before":      {"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + short, 200, "{}", true, ""},
		"more than it says":  {short + "HTTP/1.1 200 OK\r\n", 200, "{}", false, ""},
		"no HTTP":            {"SSH-2.0-OpenSSH_9.2\r\n<close>", 0, "", false, "is no HTTP/1.1"},
		"a cut body":         {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}<close>", 0, "", false, "read the answer: unexpected EOF"},
		"a cut head":         {"HTTP/1.1 200 OK\r\nConte<close>", 0, "", false, "read the answer's head: EOF"},
		"a wrong length":     {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n<close>", 0, "", false, "its Content-Length"},
		"too long":           {"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n<close>", 0, "", false, "the answer has 99999999999 bytes"},
		"none":               {"<close>", 0, "", false, "without an answer"},
	} {
		t.Run(name, func(t *testing.T) {
			w, s := scripted(t, c.answer, short)
			for _, want := range []struct {
				status    int
				text, err string
			}{{c.status, c.text, c.err}, {200, "{}", ""}} {
				calls := w.session()
				status, text, err := calls.call(t.Context(), s, "PutItem", []byte("{}"))
				calls.end()
				if status != want.status || string(text) != want.text || (err == nil) != (want.err == "") || err != nil && !strings.Contains(err.Error(), want.err) {
					t.Fatalf("%d %q, %v; want %+v", status, text, err, want)
				}
				if want.status == c.status && want.text == c.text && len(w.idle) == 1 != c.kept && c.answer != short {
					t.Errorf("%d connections are kept", len(w.idle))
				}
				c.answer = short
			}
		})
	}
}

func TestAnIdleConnectionThatTheServerClosedIsReplaced(t *testing.T) {
	w, s := scripted(t, short+"<close>", short+"<close>", short+"<close>")
	for range 3 {
		calls := w.session()
		if status, _, err := calls.call(t.Context(), s, "PutItem", nil); status != http.StatusOK || err != nil {
			t.Errorf("%d, %v", status, err)
		}
		calls.end()
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	w, s := scripted(t, short, "hang", "hang")
	for _, c := range []struct {
		end  func(ctx context.Context) (context.Context, context.CancelFunc)
		want error
	}{
		{context.WithCancel, nil},
		{func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 20*time.Millisecond)
		}, context.DeadlineExceeded},
		{func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(20*time.Millisecond, cancel)
			return ctx, cancel
		}, context.Canceled},
	} {
		ctx, cancel := c.end(t.Context())
		calls := w.session()
		if _, _, err := calls.call(ctx, s, "PutItem", nil); !errors.Is(err, c.want) {
			t.Errorf("%v; want %v", err, c.want)
		}
		calls.end()
		cancel()
	}
	if len(w.idle) > 0 {
		t.Error("a connection with half a call is kept")
	}
}

func TestCredentialsThatCannotStandInAHeaderAreSaid(t *testing.T) {
	environment(t, start(t).Env())
	environment(t, map[string]string{"AWS_SESSION_TOKEN": "token\r\nX-Other: 1"})
	s, err := New(Config{Table: "profiles", Key: Key{PK: "user"}}, Options{Name: "search", Schema: newSchema(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Idle)
	w := writer(t, s, "p")
	w.Write(event(s, 1, nil))
	_, err = w.Flush(t.Context())
	if f := (*stream.FatalError)(nil); !errors.As(err, &f) || !strings.Contains(err.Error(), "a line end") {
		t.Errorf("%v; want a FatalError about the line end", err)
	}
}

// front is an HTTPS server before a table, and its certificate's file.
func front(t *testing.T) (*httptest.Server, string) {
	t.Helper()
	s := start(t)
	environment(t, s.Env())
	behind := &http.Transport{}
	t.Cleanup(behind.CloseIdleConnections)
	f := httptest.NewTLSServer(forward(t, s, behind))
	t.Cleanup(f.Close)
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw}), 0o666); err != nil {
		t.Fatal(err)
	}
	return f, bundle
}

// forward passes requests on to s, whoever they are for.
func forward(t *testing.T, s *server.Server, through http.RoundTripper) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to, err := url.Parse(s.URL())
		if err != nil {
			t.Error(err)
		}
		r.URL.Scheme, r.URL.Host, r.RequestURI = to.Scheme, to.Host, ""
		answer, err := through.RoundTrip(r)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer answer.Body.Close()
		w.Header()["X-Amz-Crc32"] = answer.Header["X-Amz-Crc32"]
		w.WriteHeader(answer.StatusCode)
		_, _ = io.Copy(w, answer.Body)
	})
}

func TestTLSTrustsTheBundleOfTheEnvironment(t *testing.T) {
	f, bundle := front(t)
	environment(t, map[string]string{"AWS_ENDPOINT_URL_DYNAMODB": f.URL, "AWS_CA_BUNDLE": bundle})
	s := open(t, Config{}, Options{})
	w := writer(t, s, "p")
	w.Write(event(s, 1, nil))
	flush(t, w)
	if n := len(items(t, s)); n != 1 {
		t.Errorf("%d items; want 1", n)
	}
}

func TestAProxyIsUsedWhereThereIsOne(t *testing.T) {
	s := start(t)
	environment(t, s.Env())
	behind := &http.Transport{}
	t.Cleanup(behind.CloseIdleConnections)
	seen := 0
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen++
		if r.RequestURI != "http://dynamodb.example/" {
			t.Errorf("the proxy is asked for %q", r.RequestURI)
		}
		forward(t, s, behind).ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	at, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	sink := open(t, Config{}, Options{})
	c, err := sink.connect()
	if err != nil {
		t.Fatal(err)
	}
	if c.endpoint, err = parseEndpoint("http://dynamodb.example"); err != nil {
		t.Fatal(err)
	}
	c.transport = newTransport(c.endpoint, &http.Transport{Proxy: http.ProxyURL(at)}, 8)
	w := writer(t, sink, "p")
	for i := range uint64(3) {
		w.Write(event(sink, i, nil))
		flush(t, w)
	}
	if seen != 3 || len(items(t, sink)) != 1 {
		t.Errorf("%d calls over the proxy; want 3", seen)
	}
}
