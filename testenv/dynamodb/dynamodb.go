// Package dynamodb is an Amazon DynamoDB server for tests, in this process. Any SDK talks to it over HTTP; a test reaches behind
// the wire: it moves the clock and makes calls fail.
//
// It keeps what writers depend on as Amazon does: every condition and update expression, exact numbers, key order, paged answers,
// transactions, limits of size, and the errors that say why not. Tables live in memory, and every read is consistent. There are
// no secondary indexes, streams, backups, PartiQL or the parameters that came before expressions: a request with one is refused.
// Nobody checks signatures.
package dynamodb

import (
	"cmp"
	"fmt"
	"sync"
	"time"

	"github.com/millrace-io/millrace/testenv/awsjson"
)

// Options of a server. The zero value is one without tables on a free port.
type Options struct {
	Addr   string        // host:port to listen on; default 127.0.0.1:0
	Region string        // default us-east-1
	Page   int           // most items that one Query or Scan looks at; default: only Amazon's limit, 1 MB
	Settle time.Duration // how long a table is CREATING or DELETING, by the server's clock; default 0
}

// Server is a running server. Its methods are safe for concurrent use.
type Server struct {
	o     Options
	web   *awsjson.Server
	hook  awsjson.Hook[Call]
	clock awsjson.Clock

	mu     sync.Mutex
	tables map[string]*table
	tokens map[string]token // of transactions
	made   int              // tables ever
}

// Call is one call that came over the wire, as Intercept sees it.
type Call struct {
	Operation string // "PutItem"
	Table     string // of a call on several: the first by name; empty: of none
	Key       string // value of the item's hash key, of PutItem, GetItem, UpdateItem and DeleteItem; else empty
	AccessKey string // of the caller, by which a fault aims at one worker
	Before    int    // calls of the operation on this table and key that came before, by anyone
}

// Fault is what happens to a call.
type Fault = awsjson.Fault

const account = "000000000000"

// Start starts a server. Close stops it.
func Start(o Options) (*Server, error) {
	o.Addr = cmp.Or(o.Addr, "127.0.0.1:0")
	o.Region = cmp.Or(o.Region, "us-east-1")
	s := &Server{o: o, tables: map[string]*table{}, tokens: map[string]token{}}
	web, err := awsjson.Start(o.Addr, awsjson.Service{
		Target: "DynamoDB_20120810", Version: "1.0", Namespace: "com.amazonaws.dynamodb.v20120810#", Checksum: true,
		Operations: s.operations(), Fault: s.fault, Now: s.Now,
	})
	if err != nil {
		return nil, fmt.Errorf("start DynamoDB server on %s: %w", o.Addr, err)
	}
	s.web = web
	return s, nil
}

// URL is the endpoint: "http://127.0.0.1:40001".
func (s *Server) URL() string { return s.web.URL() }

// Close ends all connections and waits for all calls.
func (s *Server) Close() error { return s.web.Close() }

// Env is the environment by which an AWS SDK finds the server.
func (s *Server) Env() map[string]string { return env(s.URL(), s.o.Region) }

func env(url, region string) map[string]string {
	return map[string]string{
		"AWS_ENDPOINT_URL_DYNAMODB": url, "AWS_REGION": region,
		"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "localsecret",
	}
}

// Intercept sets the function that decides what becomes of every call from now on; nil: none fails. It is called for one call
// at a time, before the call is done. It may use all methods of the server but Intercept and Seen. What it
// writes may be read after one of those returned.
func (s *Server) Intercept(decide func(Call) Fault) { s.hook.Intercept(decide) }

// Seen says how many calls of an operation came over the wire, those that failed included.
func (s *Server) Seen(operation string) int { return s.hook.Seen(operation) }

// fault says what a call is about and asks the hook.
func (s *Server) fault(r awsjson.Request) Fault {
	name, it := r.Input.(subject).subject()
	hash := ""
	s.mu.Lock()
	if t := s.tables[name]; t != nil && it != nil {
		hash = it[t.hash.name].scalar()
	}
	s.mu.Unlock()
	return s.hook.Fault(r.Operation, name, hash, func(before int) Call {
		return Call{r.Operation, name, hash, r.AccessKey, before}
	})
}

// Now is the server's clock.
func (s *Server) Now() time.Time { return s.clock.Now() }

// SetClock sets how far the server's clock is ahead of the machine's. The Date header, Sweep and Options.Settle go by it.
func (s *Server) SetClock(ahead time.Duration) { s.clock.Set(ahead) }

// Sweep deletes the items whose time to live is over, and says how many. Amazon does it some day; this server only here.
func (s *Server) Sweep() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, t := range s.tables {
		n += t.sweep(s.Now())
	}
	return n
}

// find is the table of a name that is there; the server is locked.
func (s *Server) find(name string) (*table, error) {
	t := s.tables[name]
	if t == nil || t.gone(s.Now()) {
		delete(s.tables, name)
		return nil, notFound(name)
	}
	return t, nil
}

// usable is find for reads and writes.
func (s *Server) usable(name string) (*table, error) {
	t, err := s.find(name)
	if err != nil || t.state(s.Now()) != "ACTIVE" {
		return nil, awsjson.Errorf("ResourceNotFoundException", "Requested resource not found")
	}
	return t, nil
}
