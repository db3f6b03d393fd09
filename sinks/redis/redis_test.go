package redis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/rueidis"
	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/sources/trust"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/network"
)

// Mutations seen red (line broken -> test):
//
//	script.lua: no comparison -> Rules/AReplayChangesNothing
//	script.lua: partitions are not compared -> Rules/AKeyThatMovedKeepsItsNewestEvent
//	script.lua: equal times are later, or never -> EqualTimesAreOrderedByThePartitionsBytes
//	script.lua: Lua's own < -> RealRedisOrdersEqualTimesByThePartitionsBytes, with LC_ALL=en_US.UTF-8
//	script.lua: no event is past its end -> ARowEndsAfterItsEventAndDoesNotComeBack
//	script.lua: no PERSIST, no PEXPIRE -> AMarkGoesAndARowAfterItStays
//	script.lua: nothing is mended, by any event -> Rules/AMendingReplayWritesOverWhatTheEventsMade
//	script.lua: old fields stay -> Rules/DeletedStaysDeleted, ANewerEventReplacesAllOfARow
//	script.lua: DEL before HSET -> RealRedisThatIsFullTakesTheWritesOnceItHasRoom
//	script.lua: the position is written first -> RealRedisSaysWhoMayNotAndWhatToDo
//	ends: the log's time counts -> ARowEndsAfterItsEventAndDoesNotComeBack
//	checkFloat: all floats are numbers -> WhatIsNoRowIsADeadLetterWithItsReason
//	Send: no second run -> AServerThatForgotTheScriptGetsItAgain
//	Send: nothing is cut -> Rules/CloseDuringAWriteEndsAtOnce
//	run: nobody was late -> AServerThatDoesNotAnswerIsSaidToBeLate
//	connect: nothing is cut -> CloseEndsAtOnceWhileAServerDoesNotAnswerTheFirstWord
//	meaning: WRONGTYPE is sent again -> WhatIsNoRowIsADeadLetterWithItsReason
//	scan: the prefix is a pattern; judge: nothing is ahead, no row ended -> ACheckFindsWhatWasDoneByHand

// A cluster's client asks for its map up to a second after a connection ended, even once it is closed; it can connect no more then.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, append(network.Leftovers(), goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"))...)
}

func newSchema(t testing.TB, declared ...stream.Column) *stream.Schema {
	t.Helper()
	s, err := stream.NewSchema(declared...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// startCluster is a server in this process that says it is a cluster of one.
func startCluster(t testing.TB) *miniredis.Miniredis {
	t.Helper()
	m := miniredis.NewMiniRedis()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

// start is a server in this process that is none.
func start(t testing.TB) *miniredis.Miniredis {
	t.Helper()
	m := startCluster(t)
	m.Server().SetPreHook(func(c *server.Peer, command string, _ ...string) bool {
		if command == "CLUSTER" {
			c.WriteError("ERR This instance has cluster support disabled")
		}
		return command == "CLUSTER"
	})
	return m
}

func open(t testing.TB, p *proxy, cfg Config, o Options) *Sink {
	t.Helper()
	if o.Schema == nil {
		o.Schema = newSchema(t)
	}
	o.Name, o.dial = "search", p.dial
	cfg.Addresses = []string{p.listener.Addr().String()}
	if cfg.Key == "" {
		cfg.Key = "user"
	}
	cfg.Delay = 5 * time.Millisecond
	s, err := New(cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Idle)
	return s
}

// client is a connection to the server itself, past the proxy.
func client(t testing.TB, address string) rueidis.Client {
	t.Helper()
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{address}, DisableCache: true, ForceSingleClient: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// rows are all of the server's, by key, marks too.
func rows(t testing.TB, address string) map[string]map[string]string {
	t.Helper()
	c := client(t, address)
	keys, err := c.Do(t.Context(), c.B().Keys().Pattern("*").Build()).AsStrSlice()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string]string{}
	for _, key := range keys {
		if out[key], err = c.Do(t.Context(), c.B().Hgetall().Key(key).Build()).AsStrMap(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func held(t testing.TB, address, prefix string) []sinktest.Held {
	t.Helper()
	var out []sinktest.Held
	for key, row := range rows(t, address) {
		if !strings.HasPrefix(key, prefix) || row["_deleted"] != "" {
			continue
		}
		text, _ := json.Marshal(row)
		h := sinktest.Held{ID: key, Values: string(text)}
		h.Place, _ = stream.ParseVersion(row["_position"])
		h.Place.Partition = row["_partition"]
		out = append(out, h)
	}
	return out
}

func deletes(e *stream.Event) bool { return e.Values[stream.EventType].Text() == "forget" }

// backend is the suite's view of the keys with a prefix.
func backend(t *testing.T, address, prefix string) sinktest.UpsertBackend {
	p := newProxy(t, address)
	schema := newSchema(t)
	return sinktest.UpsertBackend{
		Schema: schema, Shape: sinktest.Keyed, Fail: p.Set,
		New: func(t *testing.T, o stream.Ordering) stream.Upsert {
			return open(t, p, Config{Prefix: prefix}, Options{Schema: schema, Ordering: o, Delete: deletes})
		},
		Mend: func(t *testing.T, o stream.Ordering) stream.Upsert {
			return open(t, p, Config{Prefix: prefix}, Options{Schema: schema, Ordering: o, Delete: deletes, Mend: true})
		},
		Contents: func(t *testing.T) []sinktest.Held { return held(t, address, prefix) },
		Poison:   func(e *stream.Event) { e.Values[stream.Price] = stream.FloatValue(math.NaN()) },
		Delete:   func(e *stream.Event) { e.Values[stream.EventType] = stream.StringValue("forget") },
	}
}

func TestTheServerInProcessKeepsTheRulesOfAnUpsertSink(t *testing.T) {
	for name, start := range map[string]func(testing.TB) *miniredis.Miniredis{"alone": start, "cluster": startCluster} {
		t.Run(name, func(t *testing.T) {
			sinktest.RunUpsert(t, func(t *testing.T) sinktest.UpsertBackend { return backend(t, start(t).Addr(), "profile:") })
		})
	}
}

// now is the time of the first events.
var now = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)

// event is one click of ann, changed by fn.
func event(s *Sink, offset uint64, fn func(*stream.Event)) []*stream.Event {
	es := sinktest.Events(s.o.Schema)(offset, 1)
	es[0].Record.Time = now
	es[0].Values[stream.Time] = stream.TimestampValue(now.UnixMicro())
	es[0].Values[stream.User] = stream.StringValue("ann")
	es[0].Properties = ""
	if fn != nil {
		fn(es[0])
	}
	return es
}

// at sets an event's own time.
func at(when time.Time) func(*stream.Event) {
	return func(e *stream.Event) { e.Values[stream.Time] = stream.TimestampValue(when.UnixMicro()) }
}

func writer(t testing.TB, s *Sink, partition string) stream.UpsertWriter {
	t.Helper()
	w, err := s.Open(t.Context(), stream.Tenure{Pipeline: "p", Sink: "search", Partition: partition, Epoch: 1, Schema: s.o.Schema})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func flush(t testing.TB, w stream.UpsertWriter) []*stream.DeadLetter {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	dead, err := w.Flush(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return dead
}

// put writes one event and waits for it.
func put(t testing.TB, w stream.UpsertWriter, events []*stream.Event) {
	t.Helper()
	w.Write(events)
	if dead := flush(t, w); len(dead) > 0 {
		t.Fatalf("dead letter: %s", dead[0].Err)
	}
}

func fatal(t testing.TB, err error, want string) {
	t.Helper()
	if f := (*stream.FatalError)(nil); !errors.As(err, &f) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v; want a FatalError with %q", err, want)
	}
}

func TestARowHasItsColumnsAsTextAndItsPlace(t *testing.T) {
	m := start(t)
	p := newProxy(t, m.Addr())
	schema := newSchema(
		t, stream.Column{Name: "amount", Type: stream.Type{Kind: stream.Decimal, Precision: 18, Scale: 2}},
		stream.Column{Name: "tags", Type: stream.Type{Kind: stream.List}},
	)
	column := func(name string) int {
		i, _ := schema.Lookup(name)
		return i
	}
	change := func(e *stream.Event) {
		clear(e.Values)
		e.Values[stream.User] = stream.StringValue("ann")
		e.Values[stream.Time] = stream.TimestampValue(now.UnixMicro())
		e.Values[stream.Quantity] = stream.IntValue(9223372036854775807)
		e.Values[stream.Price] = stream.FloatValue(1.5)
		e.Values[stream.Country] = stream.StringValue("")
		e.Values[stream.URL] = stream.StringValue("a\x00\r\nü\xff:3:x")
		e.Values[column("amount")] = stream.DecimalValue(-150)
		e.Values[column("tags")] = stream.ListValue(`["a","b"]`)
		e.Properties = `{"section":"toys"}`
	}
	const version = "0000000000000007-00000000"
	all := map[string]string{
		"user_id": "ann", "event_time": "2026-03-02T10:00:00.000000Z", "quantity": "9223372036854775807", "price": "1.5", "country": "",
		"url": "a\x00\r\nü\xff:3:x", "amount": "-1.50", "tags": `["a","b"]`, "properties": `{"section":"toys"}`, "_partition": "p", "_position": version,
	}
	byTime := map[string]string{"price": "1.5", "_partition": "p", "_position": version, "_time": fmt.Sprint(now.UnixMicro())}
	asJSON := map[string]string{"json": `{"user_id":"ann","price":1.5,"_partition":"p","_position":"` + version + `"}`, "_partition": "p", "_position": version}
	for _, c := range []struct {
		cfg   Config
		order stream.Ordering
		want  map[string]string
	}{
		{Config{Prefix: "all:"}, stream.ByPosition, all},
		{Config{Prefix: "some:", Columns: []string{"price"}}, stream.ByTime, byTime},
		{Config{Prefix: "json:", Columns: []string{"user", "price"}, Value: "json"}, stream.ByPosition, asJSON},
	} {
		s := open(t, p, c.cfg, Options{Schema: schema, Ordering: c.order})
		put(t, writer(t, s, "p"), event(s, 7, change))
		if got := rows(t, m.Addr())[c.cfg.Prefix+"ann"]; fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: the row is\n%q; want\n%q", c.cfg.Prefix, got, c.want)
		}
	}
}

func TestANewerEventReplacesAllOfARow(t *testing.T) {
	m := start(t)
	p := newProxy(t, m.Addr())
	m.HSet("ann", "stray", "by hand", "_deleted", "1")
	wide, narrow := open(t, p, Config{}, Options{}), open(t, p, Config{Columns: []string{"user", "url"}}, Options{})
	put(t, writer(t, wide, "p"), event(wide, 1, nil))
	if row := rows(t, m.Addr())["ann"]; row["stray"] != "" || row["_deleted"] != "" || row["event_id"] == "" {
		t.Errorf("after the first event: %q", row)
	}
	w := writer(t, narrow, "p")
	put(t, w, event(narrow, 2, nil))
	if row := rows(t, m.Addr())["ann"]; len(row) != 4 {
		t.Errorf("of two columns: %q", row)
	}
	m.HSet("ann", "url", "by hand")
	put(t, w, event(narrow, 2, nil))
	if got := m.HGet("ann", "url"); got != "by hand" {
		t.Errorf("an equal event writes %q", got)
	}
}

func TestEqualTimesAreOrderedByThePartitionsBytes(t *testing.T) { equalTimes(t, start(t).Addr()) }

func equalTimes(t *testing.T, address string) {
	s := open(t, newProxy(t, address), Config{}, Options{Ordering: stream.ByTime})
	for _, partition := range []string{"Topic-1", "alpha-0", "Topic-1"} {
		put(t, writer(t, s, partition), event(s, 1, nil))
	}
	if got := rows(t, address)["ann"]["_partition"]; got != "alpha-0" {
		t.Errorf("of equal times that of %s is the later one; want alpha-0", got)
	}
}

// travel sets the server's clock, and lets end what ends.
func travel(m *miniredis.Miniredis, from, to time.Time) {
	m.SetTime(to)
	m.FastForward(to.Sub(from))
}

func TestARowEndsAfterItsEventAndDoesNotComeBack(t *testing.T) {
	m := start(t)
	m.SetTime(now)
	p := newProxy(t, m.Addr())
	s := open(t, p, Config{TTL: time.Hour, Tombstones: time.Minute}, Options{})
	w := writer(t, s, "p")

	put(t, w, event(s, 10, at(now.Add(-10*time.Minute))))
	if got := m.TTL("ann"); got != 50*time.Minute {
		t.Errorf("a row of ten minutes ago lives %s; want 50m", got)
	}
	put(t, w, event(s, 11, func(e *stream.Event) { // the log's time where the event has none
		e.Values[stream.Time] = stream.Value{}
		e.Record.Time = now.Add(-20 * time.Minute)
	}))
	if got := m.TTL("ann"); got != 40*time.Minute {
		t.Errorf("a row of a record of twenty minutes ago lives %s; want 40m", got)
	}

	put(t, w, event(s, 12, at(now.Add(-2*time.Hour)))) // the newest, and past its end
	ended := rows(t, m.Addr())["ann"]
	if ended["_deleted"] != "1" || ended["user_id"] != "" || m.TTL("ann") != time.Minute {
		t.Errorf("a row past its end is %q for %s; want a mark for 1m", ended, m.TTL("ann"))
	}
	put(t, w, event(s, 11, nil)) // a replay of what would still live
	if row := rows(t, m.Addr())["ann"]; row["_deleted"] != "1" {
		t.Errorf("what a newer event ended comes back: %q", row)
	}
	travel(m, now, now.Add(2*time.Minute))
	if all := rows(t, m.Addr()); len(all) != 0 {
		t.Errorf("the mark stays: %q", all)
	}

	put(t, w, event(s, 13, nil))
	travel(m, now.Add(2*time.Minute), now.Add(time.Hour+time.Second))
	put(t, w, event(s, 13, nil)) // a replay
	if row := rows(t, m.Addr())["ann"]; row["user_id"] != "" {
		t.Errorf("a row that ended in its time comes back: %q", row)
	}
}

func TestAMarkGoesAndARowAfterItStays(t *testing.T) {
	m := start(t)
	m.SetTime(now)
	p := newProxy(t, m.Addr())
	s := open(t, p, Config{Tombstones: time.Minute}, Options{Delete: deletes})
	w := writer(t, s, "p")
	forget := func(e *stream.Event) { e.Values[stream.EventType] = stream.StringValue("forget") }
	put(t, w, event(s, 1, nil))
	put(t, w, event(s, 2, forget))
	want := map[string]string{"_deleted": "1", "_partition": "p", "_position": "0000000000000002-00000000"}
	if row := rows(t, m.Addr())["ann"]; fmt.Sprint(row) != fmt.Sprint(want) {
		t.Errorf("deleted, the row is %q; want %q", row, want)
	}
	put(t, w, event(s, 3, nil))
	travel(m, now, now.Add(time.Hour))
	if row := rows(t, m.Addr())["ann"]; row["user_id"] != "ann" {
		t.Errorf("the row after the mark ended with it: %q", row)
	}
	put(t, w, event(s, 4, forget))
	travel(m, now.Add(time.Hour), now.Add(2*time.Hour))
	if all := rows(t, m.Addr()); len(all) != 0 {
		t.Errorf("the mark stays: %q", all)
	}
}

func TestWhatIsNoRowIsADeadLetterWithItsReason(t *testing.T) {
	m := start(t)
	p := newProxy(t, m.Addr())
	s := open(t, p, Config{Prefix: "profile:"}, Options{})
	if err := m.Set("profile:text", "by hand"); err != nil {
		t.Fatal(err)
	}
	w := writer(t, s, "p")
	user := func(text string) func(*stream.Event) {
		return func(e *stream.Event) { e.Values[stream.User] = stream.StringValue(text) }
	}
	price := func(x float64) func(*stream.Event) {
		return func(e *stream.Event) { e.Values[stream.Price] = stream.FloatValue(x) }
	}
	for i, c := range []struct {
		change func(*stream.Event)
		want   string
	}{
		{func(e *stream.Event) { e.Values[stream.User] = stream.Value{} }, "user_id, the key, is empty"},
		{user(""), "user_id, the key, is empty"},
		{user("text"), "key profile:text: WRONGTYPE"},
		{price(math.NaN()), "price: is no number"},
		{price(math.Inf(-1)), "price: is no number"},
	} {
		w.Write(event(s, uint64(i), c.change))
		dead := flush(t, w)
		if len(dead) != 1 || !strings.Contains(dead[0].Err, c.want) || dead[0].Stage != "sink.search" {
			t.Errorf("%q: %+v", c.want, dead)
		}
	}
	put(t, w, event(s, 9, nil))
	if got, _ := m.Get("profile:text"); got != "by hand" || m.HGet("profile:ann", "user_id") != "ann" {
		t.Errorf("text is %q, and ann is %q", got, m.HGet("profile:ann", "user_id"))
	}
	it := w.(interface {
		Encode([]*stream.Event) []*bulk.Item
	}).Encode(event(s, 10, nil))[0]
	for _, damaged := range []string{"5:abc", "x", "0:", "0:0:1:a", "99999999999999999999:a", "0"} {
		it.Body = []byte(damaged)
		if _, err := s.arguments(it); !errors.Is(err, errArguments) {
			t.Errorf("%q is read: %v", damaged, err)
		}
	}
}

func TestAServerThatForgotTheScriptGetsItAgain(t *testing.T) {
	m := start(t)
	p := newProxy(t, m.Addr())
	s := open(t, p, Config{}, Options{})
	w := writer(t, s, "p")
	c := client(t, m.Addr())
	for i := range uint64(3) {
		put(t, w, event(s, i, nil))
		if err := c.Do(t.Context(), c.B().ScriptFlush().Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	if got := m.HGet("ann", "_position"); got != "0000000000000002-00000000" {
		t.Errorf("the row is at %s", got)
	}
}

func TestWhatIsSetUpWrongIsSaid(t *testing.T) {
	m := start(t)
	m.RequireUserAuth("millrace", "right")
	p := newProxy(t, m.Addr())
	for want, cfg := range map[string]Config{
		"check username and password": {Username: "millrace", Password: "wrong"},
		"NOAUTH":                      {},
	} {
		s := open(t, p, cfg, Options{})
		fatal(t, s.Probe(t.Context()), want)
		w := writer(t, s, "p")
		w.Write(event(s, 1, nil))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		_, err := w.Flush(ctx)
		cancel()
		fatal(t, err, want)
		w.Close()
	}
	good := open(t, p, Config{Username: "millrace", Password: "right"}, Options{})
	if err := good.Probe(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCloseEndsAtOnceWhileAServerDoesNotAnswerTheFirstWord(t *testing.T) {
	p := newProxy(t, "127.0.0.1:1") // nobody is there
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := open(t, p, Config{}, Options{})
	s.o.dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, l.Addr().String())
	}
	w := writer(t, s, "p")
	for i := range uint64(50) { // all lanes have something
		w.Write(event(s, i, func(e *stream.Event) { e.Values[stream.User] = stream.StringValue(fmt.Sprint(i)) }))
	}
	if _, err := l.Accept(); err != nil { // somebody waits for an answer
		t.Fatal(err)
	}
	began := time.Now()
	w.Close()
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("Close took %s", took)
	}
}

// A request that has no answer in time takes the connection from the others; that is not what went wrong.
func TestAServerThatDoesNotAnswerIsSaidToBeLate(t *testing.T) {
	p := newProxy(t, start(t).Addr())
	p.Set(slices.Repeat([]sinktest.Fault{sinktest.Hang}, 1000)...)
	s := open(t, p, Config{Timeout: 100 * time.Millisecond}, Options{})
	w := writer(t, s, "p")
	for i := range uint64(32) { // on all lanes
		w.Write(event(s, i, func(e *stream.Event) { e.Values[stream.User] = stream.StringValue(fmt.Sprint("user-", i)) }))
	}
	for seen := uint64(0); seen < 12; time.Sleep(time.Millisecond) { // a real client
		now := s.Stats()
		if now.Failed > seen && !strings.HasPrefix(now.Failing, "no answer within 100ms") {
			t.Fatalf("the sink fails with %q", now.Failing)
		}
		seen = now.Failed
	}
	p.Set()
	if dead := flush(t, w); len(dead) > 0 {
		t.Fatal(dead)
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	err := (&Config{Username: "u", Database: -1, Value: "xml", TTL: time.Millisecond, Tombstones: -1, Delay: -1, Timeout: -1}).Validate()
	for _, want := range []string{"addresses is empty", "password is empty", "database is -1", "key is missing", "value is", "ttl is 1ms", "tombstones is", "delay is", "timeout is"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	err = (&Config{Key: "user", Addresses: []string{"a:1", "redis://x:1", "b", ":6379"}, TLS: &trust.TLS{Cert: "c"}}).Validate()
	for _, want := range []string{`"redis://x:1"`, `"b"`, `":6379"`, "tls.cert"} {
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), `"a:1"`) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	for want, c := range map[string]Config{
		`key has "nope"`:              {Key: "nope"},
		`key is "items" of type list`: {Key: "items"},
		`columns has "nope"`:          {Key: "user", Columns: []string{"nope"}},
	} {
		if err := c.CheckSchema(newSchema(t)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
}
