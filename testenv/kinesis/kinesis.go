// Package kinesis is an Amazon Kinesis Data Streams server for tests, in this process. Any SDK talks to it over HTTP; a test
// reaches behind the wire: it puts records into a shard by name, splits, trims, moves the clock, and makes calls fail.
//
// It keeps what readers depend on as Amazon does: shards with both parents, children after parents, sequence numbers that grow
// over the whole stream, iterators that expire, retention, paged lists. Streams live in memory. There is no encryption,
// no enhanced fan-out, no tag and no policy; nobody checks signatures.
package kinesis

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-io/millrace/testenv/awsjson"
)

// Options of a server. The zero value is one without streams on a free port.
type Options struct {
	Addr   string // host:port to listen on; default 127.0.0.1:0
	Region string // default us-east-1

	ShardPage  int           // most shards of one answer of ListShards and DescribeStream; default 100, Amazon's is 1,000
	Settle     time.Duration // how long a stream is CREATING, UPDATING or DELETING, by the server's clock; default 0
	MaxRecord  int           // most bytes of a record, with its key; default 1 MiB
	MaxRequest int           // most bytes of the records of one PutRecords, with their keys; default 5 MiB; Amazon lately allows 10
	ShardBytes int           // a shard forgets its oldest records beyond so many bytes; default 0: by time only, as Amazon
	Limits     bool          // refuse what is beyond Amazon's rates per shard; default: all rates are allowed
}

// Server is a running server. Its methods are safe for concurrent use. Those that take a stream or shard panic when there is
// none of the name: a mistake in the test.
type Server struct {
	o     Options
	web   *awsjson.Server
	hook  awsjson.Hook[Call]
	clock awsjson.Clock

	mu      sync.Mutex // locked before a stream's, never after
	streams map[string]*stream
	made    int       // streams ever
	created time.Time // when the last one was

	round atomic.Int64 // calls of Expire
}

// Call is one call that came over the wire, as Intercept sees it.
type Call struct {
	Operation string // "GetRecords"
	Stream    string // empty: of no stream, or nobody knows of which
	Shard     string // of GetRecords, GetShardIterator, SplitShard, MergeShards and their like; else empty
	AccessKey string // of the caller, by which a fault aims at one worker
	Before    int    // calls of the operation on this stream and shard that came before, by anyone
}

// Fault is what happens to a call.
type Fault = awsjson.Fault

const account = "000000000000"

// Start starts a server. Close stops it.
func Start(o Options) (*Server, error) {
	o.Addr = cmp.Or(o.Addr, "127.0.0.1:0")
	o.Region = cmp.Or(o.Region, "us-east-1")
	o.ShardPage = cmp.Or(o.ShardPage, 100)
	o.MaxRecord = cmp.Or(o.MaxRecord, 1<<20)
	o.MaxRequest = cmp.Or(o.MaxRequest, 5<<20)
	s := &Server{o: o, streams: map[string]*stream{}}
	web, err := awsjson.Start(o.Addr, awsjson.Service{
		Target: "Kinesis_20131202", Version: "1.1", Operations: s.operations(), Fault: s.fault, Now: s.Now,
	})
	if err != nil {
		return nil, fmt.Errorf("start Kinesis server on %s: %w", o.Addr, err)
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
		"AWS_ENDPOINT_URL_KINESIS": url, "AWS_REGION": region,
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
	stream, shard := r.Input.(subject).subject()
	return s.hook.Fault(r.Operation, stream, shard, func(before int) Call {
		return Call{r.Operation, stream, shard, r.AccessKey, before}
	})
}

// Now is the server's clock.
func (s *Server) Now() time.Time { return s.clock.Now() }

// SetClock sets how far the server's clock is ahead of the machine's. Arrival times, the age of iterators, retention and the
// Date header go by it.
func (s *Server) SetClock(ahead time.Duration) { s.clock.Set(ahead) }

// Expire makes all iterators expire that were handed out until now.
func (s *Server) Expire() { s.round.Add(1) }

// CreateStream makes a stream at once, ACTIVE, with so many even shards.
func (s *Server) CreateStream(name string, shards int) {
	must(s.create(name, shards, "PROVISIONED", 0))
}

// DeleteStream deletes a stream at once.
func (s *Server) DeleteStream(name string) {
	st, _ := s.must(name)
	s.forget(st)
}

func (s *Server) forget(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams[st.name] == st {
		delete(s.streams, st.name)
	}
}

// Record is one record to put.
type Record struct {
	Key     string // partition key
	HashKey string // explicit hash key, a decimal number; empty: the MD5 of Key decides
	Data    []byte // the server copies it
	Tags    []Tag  // of Aggregate only
}

// Put appends records to an open shard, whatever their keys, and returns their sequence numbers. No limit holds.
func (s *Server) Put(stream, shard string, rs ...Record) []string {
	st, now := s.must(stream)
	st.mu.Lock()
	defer st.mu.Unlock()
	sh := st.must(shard)
	if sh.ending > 0 {
		panic(fmt.Sprintf("kinesis: shard %s of stream %s is closed", shard, stream))
	}
	numbers := make([]string, len(rs))
	for i, r := range rs {
		numbers[i] = st.sequence(st.put(sh, r.Key, slices.Clone(r.Data), now, s.o.ShardBytes), sh.index)
	}
	return numbers
}

// Split splits an open shard in the middle and returns its children.
func (s *Server) Split(stream, shard string) (lower, upper string) {
	st, now := s.must(stream)
	st.mu.Lock()
	defer st.mu.Unlock()
	sh := st.must(shard)
	middle := sh.from.big()
	middle.Add(middle, sh.to.big()).Rsh(middle, 1)
	a, b, err := st.splitAt(shard, hashOf(middle).plus(1).String(), now)
	must(err)
	return a.id, b.id
}

// Merge merges two neighbours and returns their child; a is the parent, b the adjacent parent.
func (s *Server) Merge(stream, a, b string) string {
	st, now := s.must(stream)
	st.mu.Lock()
	defer st.mu.Unlock()
	child, err := st.mergeBoth(a, b, now)
	must(err)
	return child.id
}

// Trim makes the n oldest records that a shard ever had go, as retention does.
func (s *Server) Trim(stream, shard string, n int) {
	st, _ := s.must(stream)
	st.mu.Lock()
	defer st.mu.Unlock()
	sh := st.must(shard)
	if n > sh.trimmed {
		sh.drop(min(n-sh.trimmed, len(sh.records)))
	}
}

// Shard is one shard as the server has it.
type Shard struct {
	ID, Parent, Adjacent string
	Open                 bool
	Records              int // that are left
}

// Shards returns the shards of a stream that are listed, by id.
func (s *Server) Shards(stream string) []Shard {
	st, _ := s.must(stream)
	st.mu.Lock()
	defer st.mu.Unlock()
	var out []Shard
	for _, sh := range st.shards {
		out = append(out, Shard{sh.id, sh.parent, sh.adjacent, sh.ending == 0, len(sh.records)})
	}
	return out
}

// must returns a stream that is there.
func (s *Server) must(name string) (*stream, time.Time) {
	st, now, err := s.find(name)
	must(err)
	return st, now
}

func (s *stream) must(id string) *shard {
	sh := s.find(id)
	if sh == nil {
		must(noShard(id, s.name))
	}
	return sh
}

func must(err error) {
	if err != nil {
		panic("kinesis: " + err.Error())
	}
}

// create adds a stream that is CREATING for a while.
func (s *Server) create(name string, shards int, mode string, settle time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.Now()
	if old := s.streams[name]; old != nil && !old.gone(now) {
		return awsjson.Errorf("ResourceInUseException", "Stream %s under account %s already exists.", name, account)
	}
	s.made++
	s.created = later(s.created, now)
	st := &stream{
		name: name, number: s.made, created: s.created, mode: mode, status: "CREATING", settled: s.clock.After(settle), retention: 24 * time.Hour,
		arn: fmt.Sprintf("arn:aws:kinesis:%s:%s:stream/%s", s.o.Region, account, name),
	}
	for i := range shards {
		from, to := part(i, shards)
		st.add(from, to, now)
	}
	s.streams[name] = st
	return nil
}

// later is now in whole milliseconds, but after last: no two streams have the same sequence numbers.
func later(last, now time.Time) time.Time {
	now = now.Truncate(time.Millisecond)
	if now.After(last) {
		return now
	}
	return last.Add(time.Millisecond)
}

// find returns a stream, aged to the present.
func (s *Server) find(name string) (*stream, time.Time, error) {
	s.mu.Lock()
	st, now := s.streams[name], s.Now()
	s.mu.Unlock()
	if st == nil {
		return nil, now, notFound(name)
	}
	if st.gone(now) {
		s.forget(st)
		return nil, now, notFound(name)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.age(now)
	return st, now, nil
}

// gone says that a deletion has come to its end.
func (s *stream) gone(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status == "DELETING" && !now.Before(s.settled)
}

// state is the stream's status.
func (s *stream) state(now time.Time) string {
	if now.Before(s.settled) {
		return s.status
	}
	return "ACTIVE"
}
