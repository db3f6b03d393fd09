package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
)

func TestVerifyComparesRedisWithTheLake(t *testing.T) {
	m := miniredis.NewMiniRedis()
	must(t, m.Start())
	t.Cleanup(m.Close)
	m.Server().SetPreHook(func(c *server.Peer, command string, _ ...string) bool {
		if command != "CLUSTER" {
			return false
		}
		c.WriteError("ERR This instance has cluster support disabled")
		return true
	})
	l := newLake(t)
	var b strings.Builder
	for i := range 300 {
		fmt.Fprintf(&b, `{"event_id":"e-%d","event_type":"click","event_time":"2026-01-0%dT03:04:05Z","user_id":"u%d","price":%d.5}`+"\n", i, 1+i%3, i%40, i)
	}
	b.WriteString(`{"event_type":"forget","event_time":"2026-01-02T03:04:05Z","user_id":"u3"}` + "\n")
	l.write("in/a.jsonl", b.String())
	file := l.write("clicks.yaml", fmt.Sprintf(`name: clicks
source:
  files: { paths: ["%[1]s/in"], checkpoints: "%[1]s/checkpoints" }
decode:
  columns: { price: { path: price, type: decimal(9,2) } }
sinks:
  lake:
    parquet: { url: "%[1]s/lake", roll: { age: 1h, idle: 1h } }
  profiles:
    redis: { addresses: ["%[2]s"], key: user, prefix: "profile:" }
    delete: type == "forget"
`, l.dir, m.Addr()))
	if got := millrace(t.Context(), "", "run", "--until-end", file); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	if m.HGet("profile:u7", "price") != "287.50" || m.HGet("profile:u3", "_deleted") != "1" {
		t.Errorf("u7 costs %s, u3 has the mark %q", m.HGet("profile:u7", "price"), m.HGet("profile:u3", "_deleted"))
	}
	if got := millrace(t.Context(), "", "verify", "--deep", file); got.code != 0 || !strings.Contains(got.stdout, "profiles: 39 of 39 are there, by every row") {
		t.Errorf("%+v", got)
	}
	if got := millrace(t.Context(), "", "lint", "--probe", file); got.code != 0 {
		t.Errorf("lint --probe: %+v", got)
	}
	m.HSet("profile:u7", "price", "1")
	m.Del("profile:u8")
	m.HSet("profile:nobody", "x", "y")
	got := millrace(t.Context(), "", "verify", "--deep", file)
	for _, want := range []string{"differs: profiles", "missing: profiles", "extra: profiles"} {
		if got.code != 1 || !strings.Contains(got.stdout, want) {
			t.Errorf("%+v; want %q", got, want)
		}
	}
}
