package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/millrace-io/millrace/testenv/dynamodb"
	"github.com/millrace-io/millrace/testenv/opensearch"
)

// stub answers writes at once and keeps nothing, with as little processor time as one can: it shares the cores with what is
// measured. All else goes to a stand-in of testenv, which knows templates and tables.
type stub struct {
	isWrite func(head []byte) bool
	answer  func(body []byte) []byte // to a write
	behind  http.Handler

	writes atomic.Int64
	dead   atomic.Bool // takes connections and requests, and answers none

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// beStub is the process of a stub. "GET /taken" is how many writes it took.
func beStub(ctx context.Context, kind string) error {
	s, err := newStub(ctx, kind)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("ready http://%s\n", l.Addr())
	return s.serve(l)
}

func newStub(ctx context.Context, kind string) (*stub, error) {
	s := &stub{conns: map[net.Conn]bool{}}
	var at string
	switch kind {
	case "opensearch":
		server, err := opensearch.Serve(ctx, opensearch.Options{ISM: true})
		if err != nil {
			return nil, err
		}
		at = server.URL()
		s.isWrite = func(head []byte) bool { return bytes.HasPrefix(head, []byte("POST /_bulk")) }
		s.answer = func(body []byte) []byte {
			n := bytes.Count(body, []byte("\n")) / 2
			s.writes.Add(int64(n))
			const item = `,{"create":{"_index":"clicks-2026-03-02","status":201}}`
			return []byte(`{"errors":false,"items":[` + strings.Repeat(item, n)[min(1, n):] + `]}`)
		}
	case "dynamodb":
		server, err := dynamodb.Start(dynamodb.Options{})
		if err != nil {
			return nil, err
		}
		at = server.URL()
		s.isWrite = func(head []byte) bool { return bytes.Contains(head, []byte("DynamoDB_20120810.PutItem")) }
		s.answer = func([]byte) []byte {
			s.writes.Add(1)
			return []byte("{}")
		}
	default:
		return nil, fmt.Errorf("-stub is %q; want opensearch or dynamodb", kind)
	}
	to, err := url.Parse(at)
	if err != nil {
		return nil, err
	}
	s.behind = httputil.NewSingleHostReverseProxy(to)
	return s, nil
}

func (s *stub) serve(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.conns[c] = true
		s.mu.Unlock()
		go func() {
			_ = s.talk(c) // ends with the client
			_ = c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		}()
	}
}

// cut ends all connections.
func (s *stub) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
}

// talk answers one request after the other.
func (s *stub) talk(c net.Conn) error {
	in := bufio.NewReaderSize(c, 64<<10)
	var head, body, out []byte
	for {
		length := 0
		for head = head[:0]; !bytes.HasSuffix(head, []byte("\r\n\r\n")); {
			line, err := in.ReadSlice('\n')
			if err != nil {
				return err
			}
			head = append(head, line...)
			if n, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
				if length, err = strconv.Atoi(string(bytes.TrimSpace(n))); err != nil {
					return err
				}
			}
		}
		if s.dead.Load() {
			_, err := io.Copy(io.Discard, in) // until the client gives up
			return err
		}
		if !s.isWrite(head) {
			if err := s.pass(c, io.MultiReader(bytes.NewReader(head), in)); err != nil {
				return err
			}
			continue
		}
		if cap(body) < length {
			body = make([]byte, length)
		}
		if _, err := io.ReadFull(in, body[:length]); err != nil {
			return err
		}
		text := s.answer(body[:length])
		out = append(out[:0], "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "...)
		out = append(append(strconv.AppendInt(out, int64(len(text)), 10), "\r\n\r\n"...), text...)
		if _, err := c.Write(out); err != nil {
			return err
		}
	}
}

// pass answers a request that is no write.
func (s *stub) pass(c net.Conn, in io.Reader) error {
	r, err := http.ReadRequest(bufio.NewReader(in))
	if err != nil {
		return err
	}
	to := httptest.NewRecorder()
	if r.URL.Path == "/taken" {
		fmt.Fprint(to, s.writes.Load())
	} else {
		s.behind.ServeHTTP(to, r)
	}
	answer := to.Result()
	answer.Request, answer.ContentLength = r, int64(to.Body.Len())
	return answer.Write(c)
}
