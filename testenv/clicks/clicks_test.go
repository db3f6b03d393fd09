package clicks

// Mutations seen red (line broken -> test):
//
//	draw: the seed is left out -> TestTheSameSeedMakesTheSameBytes
//	zipf: ranks below the shift, no rejection -> TestRanksFollowZipf
//	Key: another user than the event's -> TestEventsAreWhatTheConfigSays
//	spoil: one way leaves the event whole -> TestBrokenEventsAreNoJSONAndTheOthersAre
//	chrome: no build numbers -> TestAgentsAreDifferentAndOneInSevenIsABot

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"
)

// digest sums the first events of a configuration.
func digest(cfg Config, events uint64) string {
	g := New(cfg)
	h := sha256.New()
	var b []byte
	for n := range events {
		b = g.Append(b[:0], n)
		h.Write(append(b, '\n'))
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func TestTheSameSeedMakesTheSameBytes(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "df4e22d31063dfff"},
		{Config{Seed: 1}, "4d193249c96838ab"},
		{Config{Agents: 20_000, Users: 1000, Items: 100, Broken: 10_000}, "b3fceb21ca2278ac"},
	} {
		if got := digest(c.cfg, 20_000); got != c.want {
			t.Errorf("%+v: %s; want %s: recorded benchmarks are no longer about the same events", c.cfg, got, c.want)
		}
	}
}

func TestEventsAreWhatTheConfigSays(t *testing.T) {
	const events = 20_000
	g := New(Config{Seed: 7, Users: 5000, Items: 300})
	size, ids, types := 0, map[any]bool{}, map[any]int{}
	last := ""
	for n := range uint64(events) {
		b := g.Append(nil, n)
		size += len(b)
		var e map[string]any
		if err := json.Unmarshal(b, &e); err != nil {
			t.Fatalf("event %d: %v: %s", n, err, b)
		}
		ids[e["event_id"]] = true
		types[e["event_type"]]++
		if key := string(g.Key(nil, n)); e["user_id"] != key {
			t.Fatalf("event %d: the key is %s, the user %v", n, key, e["user_id"])
		}
		at := e["event_time"].(string)
		if _, err := time.Parse("2006-01-02T15:04:05.000Z", at); err != nil || at <= last {
			t.Fatalf("event %d is at %s, after %s (%v)", n, at, last, err)
		}
		last = at
		_, item := e["item_id"]
		_, items := e["items"]
		_, quantity := e["quantity"]
		if kind := e["event_type"]; item == items || items != (kind == "impression") || quantity != (kind == "cart" || kind == "purchase") {
			t.Fatalf("event %d: %s", n, b)
		}
	}
	if mean := size / events; mean < 480 || mean > 550 {
		t.Errorf("an event has %d bytes; want about 500", mean)
	}
	if len(ids) != events {
		t.Errorf("%d ids of %d events", len(ids), events)
	}
	for kind, share := range map[string]float64{"page_view": .55, "impression": .28, "click": .12, "cart": .035, "purchase": .015} {
		if got := float64(types[kind]) / events; math.Abs(got-share) > .01 {
			t.Errorf("%s: a share of %.3f; want %.3f", kind, got, share)
		}
	}
}

func TestRanksFollowZipf(t *testing.T) {
	const draws = 200_000
	for _, z := range []struct{ shift, ranks int }{{0, 1}, {0, 10}, {0, 1000}, {20, 300}, {1000, 50}} {
		law := newZipf(z.shift, z.ranks)
		counts := make([]int, z.ranks+1)
		for n := range uint64(draws) {
			counts[law.draw(random(mix(n)))]++
		}
		weight := 0.0
		for rank := 1; rank <= z.ranks; rank++ {
			weight += 1 / float64(z.shift+rank)
		}
		for rank := 1; rank <= z.ranks; rank++ {
			want := draws / float64(z.shift+rank) / weight
			if diff := math.Abs(float64(counts[rank]) - want); diff > 5*math.Sqrt(want)+1 {
				t.Errorf("shift %d, rank %d of %d: drawn %d times; want %.0f", z.shift, rank, z.ranks, counts[rank], want)
			}
		}
	}
}

func TestAgentsAreDifferentAndOneInSevenIsABot(t *testing.T) {
	isBot := regexp.MustCompile(`(?i)bot|spider`)
	for _, n := range []int{14, 20_000} {
		seen, bots := map[string]bool{}, 0
		for i, a := range Agents(n) {
			if seen[a] {
				t.Fatalf("agent %d is there twice: %s", i, a)
			}
			seen[a] = true
			if quoted, _ := json.Marshal(a); strings.Trim(string(quoted), `"`) != a {
				t.Errorf("agent %d needs escapes: %s", i, a)
			}
			if isBot.MatchString(a) != (i%7 == 6) {
				t.Errorf("agent %d: %s", i, a)
			}
			if isBot.MatchString(a) {
				bots++
			}
		}
		if bots != n/7 {
			t.Errorf("%d of %d are bots", bots, n)
		}
	}
}

func TestBrokenEventsAreNoJSONAndTheOthersAre(t *testing.T) {
	g := New(Config{Broken: 50_000})
	broken := 0
	for n := range uint64(20_000) {
		b := g.Append([]byte("before"), n)
		if !bytes.HasPrefix(b, []byte("before")) {
			t.Fatalf("event %d wrote over what was there", n)
		}
		if json.Valid(b[len("before"):]) == g.Broken(n) {
			t.Fatalf("event %d: broken is %v: %s", n, g.Broken(n), b)
		}
		if g.Broken(n) {
			broken++
		}
	}
	if broken < 900 || broken > 1100 {
		t.Errorf("%d of 20,000 are broken; want about 1,000", broken)
	}
}

func ExampleGenerator_Append() {
	g := New(Config{Seed: 1})
	fmt.Printf("%s\n%s\n", g.Key(nil, 0), g.Append(nil, 0))
	// Output:
	// u137771
	// {"event_id":"ec4c5bee627011b3","event_type":"page_view","event_time":"2026-03-02T00:00:00.000Z","user_id":"u137771","anonymous_id":"636c091e18","session_id":"671f6cb73a","url":"https://shop.example.com/christmas/B35626","referrer":"https://shop.example.com/","user_agent":"Mozilla/5.0 (Linux; Android 15; SM-S918B) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/133.0.0.0 Mobile Safari/537.36","ip":"10.39.48.223","country":"PL","item_id":"B35626","price":922.59,"currency":"PLN","page":{"section":"christmas","position":29,"variant":"b"}}
}

func BenchmarkAppend(b *testing.B) {
	for _, agents := range []int{14, 20_000} {
		b.Run(fmt.Sprintf("agents=%d", agents), func(b *testing.B) {
			g := New(Config{Agents: agents})
			var event []byte
			b.ReportAllocs()
			for n := uint64(0); b.Loop(); n++ {
				event = g.Append(event[:0], n)
				b.SetBytes(int64(len(event)))
			}
		})
	}
}
