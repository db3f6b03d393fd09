package decode_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/millrace-io/millrace/processors/decode"
	"github.com/millrace-io/millrace/stream"
)

// corpus is records to decode again and again.
type corpus []stream.Record

func (c corpus) add(value []byte) corpus {
	return append(c, stream.Record{Value: value, Time: took(), Pos: stream.OffsetPosition(uint64(len(c)))})
}

func corpusOf(t testing.TB, file string) (c corpus) {
	for _, line := range readLines(t, file) {
		c = c.add(line)
	}
	return c
}

func retailLines(t testing.TB) corpus {
	c := corpusOf(t, "testdata/online-retail.csv")
	for i := range c {
		c[i].Headers = []stream.Header{{Key: decode.CSVHeader, Value: c[0].Value}}
	}
	return c[1:]
}

func accessLog(t testing.TB) (c corpus) {
	for _, line := range readLines(t, "testdata/access.log") {
		if line[len(line)-1] == '"' {
			c = c.add(line)
		}
	}
	return c
}

// clicks is seeded events of about 500 bytes, with so many user agents.
func clicks(agents int) (c corpus) {
	r := rand.New(rand.NewPCG(1, 2))
	types := []string{"view", "click", "impression", "cart", "purchase"}
	for i := range 20_000 {
		agent := fmt.Sprintf("Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/%d.0.%d.%d Safari/537.36", 90+i%agents%30, i%agents, 100+i%agents%7)
		if i%agents%14 == 13 {
			agent = fmt.Sprintf("Mozilla/5.0 (compatible; Googlebot/%d.1; +http://www.google.com/bot.html)", i%agents)
		}
		c = c.add(fmt.Appendf(nil, `{"event_id":"%016x","event_type":"%s","event_time":"2026-03-%02dT%02d:%02d:%02d.%03dZ","user_id":"u%07d","session_id":"s%010d",`+
			`"item_id":"%d","url":"https://shop.example/product/%d?ref=home","referrer":"https://shop.example/category/%d","user_agent":"%s","ip":"10.%d.%d.%d",`+
			`"country":"United Kingdom","price":%d.%02d,"currency":"GBP","quantity":%d,"device":{"w":%d,"h":%d,"touch":false},"ab":["a","c%d"],"scroll":0.%d}`,
			r.Uint64(), types[r.IntN(5)], 1+r.IntN(28), r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(1000), r.IntN(1e6), r.IntN(1e9), r.IntN(1e5), r.IntN(1e5),
			r.IntN(100), agent, r.IntN(256), r.IntN(256), r.IntN(256), r.IntN(100), r.IntN(100), 1+r.IntN(9), 1000+r.IntN(1000), 500+r.IntN(500), r.IntN(4), r.IntN(100)))
	}
	return c
}

func benchmark(b *testing.B, cfg decode.Config, c corpus) {
	m := newMaker(b, cfg)
	batch := stream.NewBatch(m.schema)
	size := 0
	for i := range c {
		size += len(c[i].Value)
	}
	run := func(n int) {
		for i := range n {
			if i%512 == 0 {
				batch.Reset()
			}
			if err := m.Decode(&c[i%len(c)], batch); err != nil {
				b.Fatalf("%s: %s", c[i%len(c)].Value, err)
			}
		}
	}
	run(len(c)) // the steady state: memory is there, agents are known
	b.SetBytes(int64(size / len(c)))
	b.ReportAllocs()
	b.ResetTimer()
	run(b.N)
}

func BenchmarkJSONRetail(b *testing.B) {
	benchmark(b, decode.Config{}, corpusOf(b, "testdata/online-retail.jsonl"))
}
func BenchmarkJSONAgents14(b *testing.B)  { benchmark(b, decode.Config{}, clicks(14)) }
func BenchmarkJSONAgents20k(b *testing.B) { benchmark(b, decode.Config{}, clicks(20_000)) }

func BenchmarkCSVRetail(b *testing.B) { benchmark(b, retail(), retailLines(b)) }
func BenchmarkCombined(b *testing.B) {
	benchmark(b, decode.Config{Format: decode.Combined}, accessLog(b))
}

// BenchmarkJSONEscaped has what takes the slow way: escapes, text that is not ASCII, a nested column, numbers in text.
func BenchmarkJSONEscaped(b *testing.B) { benchmark(b, rules(), escaped()) }

func escaped() (c corpus) {
	for i := range 1000 {
		c = c.add(fmt.Appendf(nil, `{"event_id":"%d","query":"caf\u00e9 \"noir\"","country":"Österreich","page":{"url":"\/a\/%d","title":"Füße"},"price":"2.50","i":"%d","x":"\n"}`, i, i, i))
	}
	return c
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	for _, c := range []struct {
		name   string
		config decode.Config
		corpus corpus
	}{
		{"json", decode.Config{}, corpusOf(t, "testdata/online-retail.jsonl")},
		{"clicks", decode.Config{}, clicks(14)[:1000]},
		{"escaped", rules(), escaped()},
		{"csv", retail(), retailLines(t)},
		{"combined", decode.Config{Format: decode.Combined}, accessLog(t)},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMaker(t, c.config)
			batch := stream.NewBatch(m.schema)
			if n := testing.AllocsPerRun(5, func() {
				batch.Reset()
				for i := range c.corpus {
					if err := m.Decode(&c.corpus[i], batch); err != nil {
						t.Fatal(err)
					}
				}
			}); n > 0 {
				t.Errorf("%v allocations for %d events", n, len(c.corpus))
			}
		})
	}
}

// BenchmarkEncodingJSON is what the standard library takes for the same: the well-known fields into a struct, and all of it
// into a map for the rest.
func BenchmarkEncodingJSON(b *testing.B) {
	c := clicks(14)
	type event struct {
		ID        string    `json:"event_id"`
		Type      string    `json:"event_type"`
		Time      time.Time `json:"event_time"`
		User      string    `json:"user_id"`
		Session   string    `json:"session_id"`
		Item      string    `json:"item_id"`
		URL       string    `json:"url"`
		Referrer  string    `json:"referrer"`
		UserAgent string    `json:"user_agent"`
		IP        string    `json:"ip"`
		Country   string    `json:"country"`
		Price     float64   `json:"price"`
		Currency  string    `json:"currency"`
		Quantity  int64     `json:"quantity"`
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		var e event
		var rest map[string]json.RawMessage
		if err := json.Unmarshal(c[i%len(c)].Value, &e); err != nil {
			b.Fatal(err)
		}
		if err := json.Unmarshal(c[i%len(c)].Value, &rest); err != nil {
			b.Fatal(err)
		}
	}
}
