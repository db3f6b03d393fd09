package dynamodb

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/smithy-go/encoding/httpbinding"
)

// endpoint is where a table's service is.
type endpoint struct {
	url           *url.URL
	address       string // host:port
	host          string // as the Host header says it, which is without the standard port where it is signed
	path          string
	canonicalPath string // as a signature says it
}

func parseEndpoint(text string) (endpoint, error) {
	u, err := url.Parse(text)
	if err == nil && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		err = fmt.Errorf("%q is no http or https URL", text)
	}
	if err != nil {
		return endpoint{}, err
	}
	path := cmp.Or(u.EscapedPath(), "/")
	standard := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	return endpoint{
		url: u, address: net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), standard)),
		host: strings.TrimSuffix(u.Host, ":"+standard), path: path, canonicalPath: httpbinding.EscapePath(path, false),
	}, nil
}

// transport makes calls.
type transport interface {
	session() calls
	closeIdle()
}

// newTransport takes the proxy and the certificates from settings, for as many calls at once.
func newTransport(e endpoint, settings *http.Transport, most int) transport {
	if settings.Proxy == nil {
		settings.Proxy = http.ProxyFromEnvironment
	}
	if proxy, err := settings.Proxy(&http.Request{URL: e.url}); proxy != nil || err != nil {
		settings.MaxIdleConns, settings.MaxIdleConnsPerHost, settings.DisableCompression = 0, most, true
		settings.ForceAttemptHTTP2 = false // DynamoDB has none
		return &viaProxy{e, &http.Client{Transport: settings}}
	}
	w := &wire{endpoint: e}
	if e.url.Scheme == "https" {
		w.tls = &tls.Config{MinVersion: tls.VersionTLS12}
		if t := settings.TLSClientConfig; t != nil {
			w.tls.RootCAs = t.RootCAs
		}
	}
	return w
}

// calls follow each other, all with the same context.
type calls interface {
	// call makes one call and returns the answer's status and body.
	call(ctx context.Context, s *signer, operation string, body []byte) (int, []byte, error)
	end()
}

// wire is HTTP/1.1 as far as calls of DynamoDB need it: POSTs with a body in memory to one endpoint, over connections that stay
// open. net/http takes more processor time for a write than all else together: see BenchmarkSink.
type wire struct {
	endpoint
	tls *tls.Config // nil: none

	mu   sync.Mutex
	idle []*conn
}

// conn is one connection. One call at a time uses it.
type conn struct {
	net.Conn
	r      *bufio.Reader
	out    []byte // scratch
	sign   signing
	reused bool // a call was answered before
}

// errSilent says that a connection ended before the answer's first byte.
var errSilent = errors.New("the server closed the connection without an answer")

// maxAnswer is more than any call's answer has: 16 MB of items, and their JSON.
const maxAnswer = 64 << 20

// session is calls on one connection, while it lasts.
type session struct {
	*wire
	conn *conn
	stop func() bool // ends the context's watch over conn
}

func (w *wire) session() calls { return &session{wire: w} }

// call makes one call. Where the server closed a connection that was idle, the call goes out again on a new one: every call
// here may be repeated.
func (l *session) call(ctx context.Context, s *signer, operation string, body []byte) (int, []byte, error) {
	if l.conn == nil {
		l.use(ctx, l.take())
	}
	for {
		if l.conn == nil {
			c, err := l.dial(ctx)
			if err != nil {
				return 0, nil, err
			}
			l.use(ctx, c)
		}
		c := l.conn
		status, text, keep, err := c.call(l.endpoint, s, operation, body)
		if keep {
			c.reused = true
			return status, text, nil
		}
		l.drop()
		if errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
			return 0, nil, cmp.Or(ctx.Err(), context.DeadlineExceeded)
		}
		if !c.reused || !errors.Is(err, errSilent) {
			return status, text, err
		}
	}
}

// use makes c, which may be nil, the session's connection.
func (l *session) use(ctx context.Context, c *conn) {
	if l.conn = c; c == nil {
		return
	}
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	l.stop = context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
}

func (l *session) drop() {
	l.stop()
	_ = l.conn.Close()
	l.conn = nil
}

// end gives the connection back.
func (l *session) end() {
	if l.conn == nil {
		return
	}
	if !l.stop() { // its deadline may change at any time
		_ = l.conn.Close()
		return
	}
	l.put(l.conn)
}

// take is an idle connection, nil where there is none.
func (w *wire) take() *conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.idle)
	if n == 0 {
		return nil
	}
	c := w.idle[n-1]
	w.idle = w.idle[:n-1]
	return c
}

func (w *wire) put(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.idle = append(w.idle, c)
}

func (w *wire) closeIdle() {
	for c := w.take(); c != nil; c = w.take() {
		_ = c.Close()
	}
}

func (w *wire) dial(ctx context.Context) (*conn, error) {
	var dialer interface {
		DialContext(ctx context.Context, network, address string) (net.Conn, error)
	} = &net.Dialer{}
	if w.tls != nil {
		dialer = &tls.Dialer{Config: w.tls}
	}
	c, err := dialer.DialContext(ctx, "tcp", w.address)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, r: bufio.NewReader(c)}, nil
}

// call makes one call. The connection can be used again if keep says so.
func (c *conn) call(e endpoint, s *signer, operation string, body []byte) (status int, text []byte, keep bool, err error) {
	c.out = append(c.sign.appendHead(c.out[:0], s, e, operation, body), body...)
	_, wrote := c.Write(c.out)
	status, text, keep, err = c.answer() // even if the request was not taken as a whole: it may say why
	if err != nil && wrote != nil {
		err = fmt.Errorf("%w: %w", err, wrote)
	}
	if err != nil {
		err = fmt.Errorf("%s at %s: %w", operation, e.host, err)
	}
	return status, text, keep && wrote == nil && c.r.Buffered() == 0, err // what is left is no answer to the next call
}

// answer reads one.
func (c *conn) answer() (status int, text []byte, keep bool, err error) {
	if _, err := c.r.Peek(1); err != nil {
		return 0, nil, false, fmt.Errorf("%w: %w", errSilent, err)
	}
	h := head{}
	for status < 200 { // 1xx announce another one
		if h, err = c.head(); err != nil {
			return 0, nil, false, err
		}
		status = h.status
	}
	switch {
	case h.chunked:
		if text, err = io.ReadAll(io.LimitReader(httputil.NewChunkedReader(c.r), maxAnswer)); err == nil {
			err = c.trailer()
		}
	case h.length > maxAnswer:
		err = fmt.Errorf("the answer has %d bytes", h.length)
	case h.length >= 0:
		text = make([]byte, h.length)
		_, err = io.ReadFull(c.r, text)
	default:
		h.close = true
		text, err = io.ReadAll(io.LimitReader(c.r, maxAnswer))
	}
	if err != nil {
		return 0, nil, false, fmt.Errorf("read the answer: %w", err)
	}
	return status, text, !h.close, nil
}

// head is what an answer's head says.
type head struct {
	status  int
	length  int // of the body; -1: it ends with the connection
	chunked bool
	close   bool
}

var (
	contentLength    = []byte("Content-Length")
	transferEncoding = []byte("Transfer-Encoding")
	connectionHeader = []byte("Connection")
)

func (c *conn) head() (head, error) {
	h := head{length: -1}
	line, err := c.line()
	if err != nil {
		return h, err
	}
	version, rest, _ := bytes.Cut(line, []byte(" "))
	code, _, _ := bytes.Cut(rest, []byte(" "))
	h.close = string(version) != "HTTP/1.1"
	if h.status, err = strconv.Atoi(string(code)); err != nil || h.status < 100 || !bytes.HasPrefix(version, []byte("HTTP/1.")) {
		return h, fmt.Errorf("%.60q is no HTTP/1.1", line)
	}
	for {
		line, err := c.line()
		if err != nil || len(line) == 0 {
			return h, err
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, contentLength):
			if h.length, err = strconv.Atoi(string(value)); err != nil || h.length < 0 {
				return h, fmt.Errorf("its Content-Length is %.60q", value)
			}
		case bytes.EqualFold(name, transferEncoding):
			h.chunked = true
		case bytes.EqualFold(name, connectionHeader):
			h.close = h.close || bytes.EqualFold(value, []byte("close"))
		}
	}
}

// line reads one without its end. It is valid until the next read.
func (c *conn) line() ([]byte, error) {
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return nil, fmt.Errorf("read the answer's head: %w", err)
	}
	return bytes.TrimRight(line, "\r\n"), nil
}

// trailer reads what is behind the last chunk.
func (c *conn) trailer() error {
	for {
		line, err := c.line()
		if err != nil || len(line) == 0 {
			return err
		}
	}
}

// viaProxy is the transport where the environment wants a proxy before the endpoint, which is net/http's business.
type viaProxy struct {
	endpoint
	http *http.Client
}

func (p *viaProxy) session() calls { return p }

func (p *viaProxy) end() {}

func (p *viaProxy) closeIdle() { p.http.CloseIdleConnections() }

// call is session's.
func (p *viaProxy) call(ctx context.Context, s *signer, operation string, body []byte) (int, []byte, error) {
	head := new(signing).appendHead(nil, s, p.endpoint, operation, body)
	r, err := http.ReadRequest(bufio.NewReader(io.MultiReader(bytes.NewReader(head), bytes.NewReader(body))))
	if err != nil {
		return 0, nil, err
	}
	r = r.WithContext(ctx)
	r.URL, r.RequestURI = p.url, ""
	answer, err := p.http.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	return answer.StatusCode, text, err
}
