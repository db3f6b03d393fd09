// Package awsjson is what the servers of testenv/kinesis and testenv/dynamodb have in common: Amazon's JSON protocol over HTTP,
// and a hook that makes calls fail as Amazon's do.
package awsjson

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Service is what a Server serves. All fields but Checksum and Namespace are wanted.
type Service struct {
	Target     string               // what X-Amz-Target has before the dot: "Kinesis_20131202"
	Version    string               // of the protocol: "1.0" or "1.1"
	Namespace  string               // before the name of an error in its __type, with the "#"; default none
	Checksum   bool                 // answers have an X-Amz-Crc32 header
	Operations map[string]Operation // by name
	Fault      func(Request) Fault  // what becomes of a call; called after its input was decoded
	Now        func() time.Time     // the server's clock, for the Date header
}

// Operation is one of a service's operations. Do and DoInPart make it.
type Operation struct {
	input func() any
	do    func(any, Fault) (any, error)
}

// Do makes an Operation of a function. What it returns is the answer's body: anything that encoding/json encodes, an Appender,
// or nil for an empty body. Of its errors an *Error is sent as it is, any other as InternalFailure.
func Do[In any](do func(*In) (any, error)) Operation {
	return DoInPart(func(in *In, _ Fault) (any, error) { return do(in) })
}

// DoInPart is Do for an operation on many records that heeds Fault.Fail.
func DoInPart[In any](do func(*In, Fault) (any, error)) Operation {
	return Operation{
		input: func() any { return new(In) },
		do:    func(in any, f Fault) (any, error) { return do(in.(*In), f) },
	}
}

// Appender is an answer that writes its own JSON, for speed.
type Appender interface{ AppendJSON([]byte) []byte }

// Request is one call as Service.Fault sees it.
type Request struct {
	Operation string
	AccessKey string // of the caller; nobody checks the signature
	Input     any    // a pointer to the operation's input
}

// Error is an error that a client of the service sees.
type Error struct {
	Type    string         // "ResourceNotFoundException"
	Message string         // default the Type
	Fields  map[string]any // more members of the body; default none
}

func (e *Error) Error() string { return e.Type + ": " + e.Message }

// Errorf makes an Error.
func Errorf(kind, format string, args ...any) *Error {
	return &Error{Type: kind, Message: fmt.Sprintf(format, args...)}
}

// status is what Amazon answers with: 500 and 503 are tried again by its clients whatever the name says.
func (e *Error) status() int {
	switch {
	case strings.HasPrefix(e.Type, "Internal"):
		return http.StatusInternalServerError
	case strings.HasPrefix(e.Type, "ServiceUnavailable"):
		return http.StatusServiceUnavailable
	}
	return http.StatusBadRequest
}

// Time is a time as the protocol writes it: seconds since 1970 with milliseconds.
type Time struct{ time.Time }

// MarshalJSON writes 1700000000.123.
func (t Time) MarshalJSON() ([]byte, error) { return AppendTime(nil, t.UnixMilli()), nil }

// UnmarshalJSON reads what MarshalJSON wrote, and any other JSON number.
func (t *Time) UnmarshalJSON(b []byte) error {
	seconds, err := strconv.ParseFloat(string(b), 64)
	if err != nil {
		return fmt.Errorf("time %s: want a number of seconds", b)
	}
	t.Time = time.UnixMilli(int64(seconds*1000 + 0.5))
	return nil
}

// AppendTime appends milliseconds since 1970 as a Time.
func AppendTime(b []byte, ms int64) []byte {
	return strconv.AppendFloat(b, float64(ms)/1000, 'f', 3, 64)
}

// Server is a running server. Close stops it.
type Server struct {
	service Service
	http    http.Server
	url     string
	serving sync.WaitGroup
	calls   sync.RWMutex // read-locked by each call
	bodies  sync.Pool
}

// Start serves s on addr, host:port; port 0 is a free one.
func Start(addr string, s Service) (*Server, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	server := &Server{service: s, url: "http://" + l.Addr().String()}
	server.bodies.New = func() any { return new(bytes.Buffer) }
	server.http = http.Server{Handler: server, ReadHeaderTimeout: time.Minute}
	server.serving.Go(func() { server.http.Serve(l) })
	return server, nil
}

// URL is the endpoint: "http://127.0.0.1:40001".
func (s *Server) URL() string { return s.url }

// Close ends all connections and waits for all calls. Those that hang by a Fault end without an answer.
func (s *Server) Close() error {
	err := s.http.Close()
	s.serving.Wait()
	s.calls.Lock()
	defer s.calls.Unlock()
	return err
}

// maxBody is more than any request may have.
const maxBody = 64 << 20

// ServeHTTP answers one call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.calls.RLock()
	defer s.calls.RUnlock()
	body := s.bodies.Get().(*bytes.Buffer)
	defer s.bodies.Put(body)
	body.Reset()
	if _, err := body.ReadFrom(io.LimitReader(r.Body, maxBody)); err != nil { // net/http sees that a caller gave up only when all is read
		panic(http.ErrAbortHandler)
	}
	req, op, err := s.request(r, body.Bytes())
	if err != nil {
		s.refuse(w, err)
		return
	}
	f := s.service.Fault(req)
	if !f.wait(r.Context()) {
		panic(http.ErrAbortHandler)
	}
	s.answer(w, req, op, f)
}

// answer does the call, unless the fault says otherwise, and replies.
func (s *Server) answer(w http.ResponseWriter, req Request, op Operation, f Fault) {
	var out any
	var err error
	if f.Done || !f.Cut && f.Error == "" {
		out, err = op.do(req.Input, f)
	}
	if f.Cut {
		panic(http.ErrAbortHandler)
	}
	if f.Error != "" {
		err = &Error{Type: f.Error, Message: f.Message}
	}
	if err != nil {
		s.refuse(w, err)
		return
	}
	b := s.bodies.Get().(*bytes.Buffer)
	defer s.bodies.Put(b)
	b.Reset()
	if err := encode(b, out); err != nil {
		s.refuse(w, err)
		return
	}
	s.reply(w, http.StatusOK, b.Bytes())
}

func encode(b *bytes.Buffer, out any) error {
	switch out := out.(type) {
	case nil:
		return nil
	case Appender:
		b.Write(out.AppendJSON(b.AvailableBuffer()))
		return nil
	}
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	return e.Encode(out)
}

// request says what is called, and by whom.
func (s *Server) request(r *http.Request, body []byte) (Request, Operation, error) {
	target, name, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	op, ok := s.service.Operations[name]
	if r.Method != http.MethodPost || target != s.service.Target || !ok {
		return Request{}, op, Errorf("UnknownOperationException", "%s is not served", name)
	}
	_, credential, ok := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	if !ok {
		return Request{}, op, Errorf("MissingAuthenticationTokenException", "Missing Authentication Token")
	}
	key, _, _ := strings.Cut(credential, "/")
	in := op.input()
	if err := json.Unmarshal(body, in); err != nil {
		var known *Error
		if errors.As(err, &known) {
			return Request{}, op, known
		}
		return Request{}, op, Errorf("SerializationException", "%v", err)
	}
	return Request{name, key, in}, op, nil
}

func (s *Server) refuse(w http.ResponseWriter, err error) {
	var known *Error
	if !errors.As(err, &known) {
		known = Errorf("InternalFailure", "%v", err)
	}
	body := map[string]any{"__type": s.service.Namespace + known.Type, "message": known.Message}
	if known.Message == "" {
		body["message"] = known.Type
	}
	for k, v := range known.Fields {
		body[k] = v
	}
	text, err := json.Marshal(body)
	if err != nil {
		panic(fmt.Sprintf("encode %v: %v", known, err)) // its Fields are ours
	}
	s.reply(w, known.status(), text)
}

func (s *Server) reply(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/x-amz-json-"+s.service.Version)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Date", s.service.Now().UTC().Format(http.TimeFormat))
	h["x-amzn-RequestId"] = []string{requestID()}
	if s.service.Checksum {
		h.Set("X-Amz-Crc32", strconv.FormatUint(uint64(crc32.ChecksumIEEE(body)), 10))
	}
	w.WriteHeader(status)
	w.Write(body)
}

func requestID() string {
	var id [16]byte
	rand.Read(id[:]) // never fails
	text := hex.EncodeToString(id[:])
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}
