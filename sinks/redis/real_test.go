//go:build real

package redis

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/sources/trust"
	"github.com/millrace-io/millrace/stream"
	server "github.com/millrace-io/millrace/testenv/redis"
)

func startReal(t *testing.T, settings ...string) *server.Server {
	t.Helper()
	s, err := server.Start(t.Context(), server.Options{Dir: t.TempDir(), Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop() })
	return s
}

// do sends a command past the proxy.
func do(t *testing.T, address string, words ...string) rueidis.RedisResult {
	t.Helper()
	c := client(t, address)
	answer := c.Do(t.Context(), c.B().Arbitrary(words...).Build())
	if err := answer.Error(); err != nil {
		t.Fatalf("%s: %v", words, err)
	}
	return answer
}

func TestRealRedisKeepsTheRulesOfAnUpsertSink(t *testing.T) {
	s := startReal(t)
	n := 0
	sinktest.RunUpsert(t, func(t *testing.T) sinktest.UpsertBackend {
		n++
		return backend(t, s.Addr, fmt.Sprintf("profile-%d:", n))
	})
}

// TestRealRedisKilledInMidWriteLosesNothing kills the server again and again while a writer writes and nobody flushes.
func TestRealRedisKilledInMidWriteLosesNothing(t *testing.T) {
	srv := startReal(t)
	s := open(t, newProxy(t, srv.Addr), Config{Prefix: "profile:"}, Options{})
	w := writer(t, s, "p")
	const users, kills = 500, 4
	n := uint64(0)
	write := func() {
		events := sinktest.Events(s.o.Schema)(n, users)
		for i, e := range events {
			e.Values[stream.User] = stream.StringValue(fmt.Sprint("user-", i))
		}
		w.Write(events)
		n += users
	}
	for range kills {
		for range 5 {
			write()
			if err := s.Probe(t.Context()); err != nil { // a round trip, so that the writes are under way
				t.Fatal(err)
			}
		}
		srv.Kill()
		write()
		if err := srv.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if dead, err := w.Flush(ctx); err != nil || len(dead) > 0 {
		t.Fatal(dead, err)
	}
	srv.Kill() // what was acknowledged stays
	if err := srv.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := rows(t, srv.Addr)
	if len(all) != users {
		t.Errorf("%d rows; want %d", len(all), users)
	}
	for i := range uint64(users) {
		place := stream.Place{Pos: stream.OffsetPosition(n - users + i)}
		if got := all[fmt.Sprint("profile:user-", i)]["_position"]; got != place.Version() {
			t.Fatalf("user-%d is at %q; want %q", i, got, place.Version())
		}
	}
}

func TestRealRedisSaysWhoMayNotAndWhatToDo(t *testing.T) {
	srv := startReal(t, "requirepass right", "user reader on >secret ~profile:* +@read +@connection", "user stranger on >secret ~other:* +@all",
		"user half on >secret ~profile:* +@all -pexpireat", "user exact on >secret ~profile:* +@connection +eval +evalsha +@hash +time +pexpire +pexpireat +persist +scan")
	p := newProxy(t, srv.Addr)
	try := func(cfg Config) error {
		cfg.Prefix, cfg.TTL = "profile:", 24*time.Hour
		s := open(t, p, cfg, Options{})
		probed := s.Probe(t.Context())
		w := writer(t, s, "p")
		w.Write(event(s, 1, at(time.Now())))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := w.Flush(ctx)
		w.Close()
		if probed != nil && err == nil {
			t.Errorf("%+v: it is written, and the probe says %v", cfg, probed)
		}
		return err
	}
	fatal(t, try(Config{}), "NOAUTH")
	fatal(t, try(Config{Password: "wrong"}), "WRONGPASS")
	fatal(t, try(Config{Username: "nobody", Password: "right"}), "check username and password")
	fatal(t, try(Config{Username: "reader", Password: "secret"}), "allow it: ACL SETUSER reader ~profile:*")
	fatal(t, try(Config{Username: "stranger", Password: "secret"}), "allow it: ACL SETUSER stranger ~profile:*")
	fatal(t, try(Config{Password: "right", Database: 99}), "no database 99")
	fatal(t, try(Config{Username: "half", Password: "secret"}), "allow it")
	if err := try(Config{Username: "exact", Password: "secret"}); err != nil {
		t.Errorf("the rights that the error names are not enough: %v", err)
	}
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{srv.Addr}, Password: "right", DisableCache: true, ForceSingleClient: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// What half had begun is done: the row has its end.
	if ms, err := c.Do(t.Context(), c.B().Pttl().Key("profile:ann").Build()).AsInt64(); err != nil || ms <= 0 {
		t.Errorf("the row ends in %d ms, %v", ms, err)
	}
}

// The server inherits the locale of whoever runs the tests: with LC_ALL=en_US.UTF-8 Lua's own < has alpha before Topic.
func TestRealRedisOrdersEqualTimesByThePartitionsBytes(t *testing.T) {
	equalTimes(t, startReal(t).Addr)
}

func TestRealRedisAloneIsNoCluster(t *testing.T) {
	a, b := startReal(t), startReal(t)
	s, err := New(Config{Addresses: []string{a.Addr, b.Addr}, Key: "user"}, Options{Name: "search", Schema: newSchema(t)})
	if err != nil {
		t.Fatal(err)
	}
	fatal(t, s.Probe(t.Context()), "want one address")
}

func TestRealRedisIsWrittenOverTLSIfItIsTrusted(t *testing.T) {
	srv, err := server.Start(t.Context(), server.Options{Dir: t.TempDir(), TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Stop)
	with := func(how *trust.TLS) *Sink {
		s, err := New(Config{Addresses: []string{srv.Addr}, Key: "user", TLS: how}, Options{Name: "search", Schema: newSchema(t)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Idle)
		return s
	}
	trusting := with(&trust.TLS{CA: srv.CA})
	if err := trusting.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	put(t, writer(t, trusting, "p"), event(trusting, 1, nil))
	for name, how := range map[string]*trust.TLS{"of an unknown authority": {}, "without TLS": nil} {
		if err := with(how).Probe(t.Context()); err == nil {
			t.Errorf("%s: it is fine", name)
		}
	}
}

func TestRealRedisThatIsFullTakesTheWritesOnceItHasRoom(t *testing.T) {
	srv := startReal(t)
	p := newProxy(t, srv.Addr)
	s := open(t, p, Config{}, Options{})
	w := writer(t, s, "p")
	put(t, w, event(s, 1, nil))
	do(t, srv.Addr, "CONFIG", "SET", "maxmemory", "1mb")
	before := fmt.Sprint(rows(t, srv.Addr))
	w.Write(event(s, 2, nil))
	w.Write(event(s, 3, func(e *stream.Event) { e.Values[stream.User] = stream.StringValue("bob") }))
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if dead, err := w.Flush(ctx); err == nil || len(dead) > 0 || !strings.Contains(err.Error(), "OOM") {
		t.Fatalf("a server that is full: %v, %v", dead, err)
	}
	if now := fmt.Sprint(rows(t, srv.Addr)); now != before {
		t.Errorf("a refused write left\n%s\nof\n%s", now, before)
	}
	do(t, srv.Addr, "CONFIG", "SET", "maxmemory", "0")
	if dead := flush(t, w); len(dead) > 0 {
		t.Fatal(dead)
	}
	if all := rows(t, srv.Addr); len(all) != 2 || all["ann"]["_position"] != "0000000000000002-00000000" {
		t.Errorf("afterwards: %q", all)
	}
}

func TestRealRedisEndsRowsByItsClock(t *testing.T) {
	srv := startReal(t)
	s := open(t, newProxy(t, srv.Addr), Config{TTL: 2 * time.Second}, Options{})
	w := writer(t, s, "p")
	put(t, w, event(s, 1, at(time.Now())))
	put(t, w, event(s, 2, func(e *stream.Event) {
		at(time.Now().Add(-time.Minute))(e)
		e.Values[stream.User] = stream.StringValue("bob")
	}))
	all := rows(t, srv.Addr)
	if all["ann"]["user_id"] != "ann" || all["bob"]["_deleted"] != "1" {
		t.Fatalf("the rows are %q", all)
	}
	for end := time.Now().Add(20 * time.Second); len(rows(t, srv.Addr)) > 1; time.Sleep(50 * time.Millisecond) { // a real clock
		if time.Now().After(end) {
			t.Fatalf("the rows are still %q", rows(t, srv.Addr))
		}
	}
	put(t, w, event(s, 1, at(time.Now().Add(-3*time.Second))))
	if row := rows(t, srv.Addr)["ann"]; row["user_id"] != "" {
		t.Errorf("a replay brings back %q", row)
	}
}

// TestRealClusterTakesTheRowsOnAllItsNodes writes to three nodes, of which the sink is told one.
func TestRealClusterTakesTheRowsOnAllItsNodes(t *testing.T) {
	var nodes []*server.Server
	for i := range 3 {
		n, err := server.Start(t.Context(), server.Options{Dir: t.TempDir(), Cluster: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Stop() })
		nodes = append(nodes, n)
		do(t, n.Addr, "CLUSTER", "ADDSLOTSRANGE", fmt.Sprint(i*5461), fmt.Sprint(min(16383, (i+1)*5461-1+i/2)))
	}
	for _, n := range nodes[1:] {
		host, port, _ := strings.Cut(n.Addr, ":")
		bus := do(t, n.Addr, "CONFIG", "GET", "cluster-port")
		words, err := bus.AsStrMap()
		if err != nil {
			t.Fatal(err)
		}
		do(t, nodes[0].Addr, "CLUSTER", "MEET", host, port, words["cluster-port"])
	}
	for _, n := range nodes {
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) { // nodes gossip
			info, err := do(t, n.Addr, "CLUSTER", "INFO").ToString()
			if err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3") {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("no cluster: %s, %v", info, err)
			}
		}
	}
	s, err := New(Config{Addresses: []string{nodes[1].Addr}, Key: "user", Prefix: "profile:"}, Options{Name: "search", Schema: newSchema(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Idle)
	if err := s.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := writer(t, s, "p")
	l := &sinktest.Lake{Partition: "p", To: 1000, Dead: 5000}
	for i := range uint64(300) {
		events := event(s, i, func(e *stream.Event) { e.Values[stream.User] = stream.StringValue(fmt.Sprint("user-", i)) })
		l.Written = append(l.Written, events...)
		w.Write(events)
	}
	if dead := flush(t, w); len(dead) > 0 {
		t.Fatal(dead[0].Err)
	}
	for _, n := range nodes {
		if size, err := do(t, n.Addr, "DBSIZE").AsInt64(); err != nil || size < 50 {
			t.Errorf("a node has %d rows, %v", size, err)
		}
	}
	r, problems, err := s.Check(t.Context(), l, true)
	if err != nil || len(problems) > 0 || r.Found != 300 {
		t.Errorf("the check says %+v, %v, %v", r, problems, err)
	}
	other, err := New(Config{Addresses: []string{nodes[1].Addr}, Key: "user", Database: 1}, Options{Name: "search", Schema: newSchema(t)})
	if err != nil {
		t.Fatal(err)
	}
	fatal(t, other.Probe(t.Context()), "no database 1")
}

// BenchmarkRealSink is the whole way of an event, of 512 users, to a server that writes its file without waiting for the disk.
func BenchmarkRealSink(b *testing.B) {
	srv, err := server.Start(b.Context(), server.Options{Dir: b.TempDir(), Settings: []string{"appendfsync everysec"}})
	if err != nil {
		b.Fatal(err)
	}
	defer srv.Stop()
	schema := newSchema(b)
	s, err := New(Config{Addresses: []string{srv.Addr}, Key: "user", Prefix: "profile:"}, Options{Name: "search", Schema: schema})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Idle()
	w := writer(b, s, "p").(*bulk.Writer)
	defer w.Close()
	events := sinktest.Events(schema)(0, 512)
	for i, e := range events {
		e.Values[stream.User] = stream.StringValue(fmt.Sprint("user-", i))
	}
	n := 0
	for b.Loop() {
		for i, e := range events {
			e.Record.Pos = stream.OffsetPosition(uint64(n + i))
		}
		w.Write(events)
		n += len(events)
		if err := w.Wait(b.Context(), 0); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/event")
}
