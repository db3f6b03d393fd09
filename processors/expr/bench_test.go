package expr

import (
	"fmt"
	"math"
	"regexp"
	"testing"

	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/clicks"
)

// conditions of the kinds that stand in pipeline files.
func conditions() []string {
	return []string{
		`type == "page_view"`,
		`type != "impression" && !bot`,
		`type in ["click", "cart", "purchase"]`,
		`type in ["a", "b", "c", "d", "e", "f", "click", "page_view"]`,
		`price * quantity > 100`,
		`cost >= 19.99`,
		`time >= timestamp("2010-01-01T00:00:00Z")`,
		`contains(user_agent, "bot")`,
		`matches(user_agent, '(?i)bot|crawler|spider|curl')`,
		`lower(country) == "de"`,
		`host(url) == "shop.example.com"`,
		`properties.page.section == "garden"`,
		`param(url, "utm") != null`,
	}
}

func BenchmarkPredicate(b *testing.B) {
	schema := testSchema(b)
	for _, src := range conditions() {
		b.Run(src, func(b *testing.B) {
			where, err := Predicate(src, schema)
			if err != nil {
				b.Fatal(err)
			}
			e := click(b, stream.NewBatch(schema))
			b.ReportAllocs()
			for b.Loop() {
				where(e)
			}
		})
	}
}

func TestConditionsAllocateNothing(t *testing.T) {
	schema := testSchema(t)
	for _, src := range conditions() {
		where, err := Predicate(src, schema)
		if err != nil {
			t.Fatal(err)
		}
		e := click(t, stream.NewBatch(schema))
		where(e) // the arena and the verdicts
		where(e)
		least := math.Inf(1) // under -race a sync.Pool forgets one in four
		for range 20 {
			least = min(least, testing.AllocsPerRun(3, func() { where(e) }))
		}
		if least > 0 {
			t.Errorf("%s: %v allocations", src, least)
		}
	}
}

// BenchmarkMap is per event, in batches of 512.
func BenchmarkMap(b *testing.B) {
	schema := testSchema(b)
	for _, value := range []string{
		`user`, `sha256(user)`, `sha256(user, "salt")`, `hmac_sha256(user, "key")`, `upper(country)`, `concat(user, "-", country)`, `date(time)`, `host(url)`,
	} {
		b.Run(value, func(b *testing.B) {
			factory, err := Map("process.1.map", []Assignment{{"title", value}}, schema)
			if err != nil {
				b.Fatal(err)
			}
			benchmarkProcessor(b, factory(), schema)
		})
	}
	b.Run("three columns", func(b *testing.B) {
		factory, err := Map("process.1.map", []Assignment{{"user", `hmac_sha256(user, "key")`}, {"country", `upper(country)`}, {"price", `round(price * quantity, 2)`}}, schema)
		if err != nil {
			b.Fatal(err)
		}
		benchmarkProcessor(b, factory(), schema)
	})
}

func BenchmarkFilter(b *testing.B) {
	schema := testSchema(b)
	factory, err := Filter("process.1.filter", `type != "impression" && !bot`, schema)
	if err != nil {
		b.Fatal(err)
	}
	benchmarkProcessor(b, factory(), schema)
}

const batchEvents = 512

// benchmarkProcessor includes what filling the arena of a batch that is reused costs, but not the events.
func benchmarkProcessor(b *testing.B, p stream.Processor, schema *stream.Schema) {
	b.Helper()
	batch := stream.NewBatch(schema)
	records := make([]stream.Record, batchEvents)
	model := append([]stream.Value(nil), click(b, batch).Values...)
	b.ReportAllocs()
	for n := 0; n < b.N; n += batchEvents {
		b.StopTimer()
		batch.Reset()
		for i := range records {
			copy(batch.Append(&records[i]).Values, model)
		}
		b.StartTimer()
		if err := p.Process(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMatches looks user agents up as they come in the two corpora; sets=1 remembers nearly nothing, which shows what a
// verdict costs.
func BenchmarkMatches(b *testing.B) {
	pattern := regexp.MustCompile(`(?i)bot|crawler|spider|slurp|curl|wget|headless|python-requests`)
	for _, n := range []int{14, 20_000} {
		for _, sets := range []int{verdictSets, 1} {
			b.Run(fmt.Sprintf("agents=%d/sets=%d", n, sets), func(b *testing.B) {
				v, agents := newVerdicts(pattern, sets), clicks.Agents(n)
				for range 2 {
					for _, a := range agents {
						v.match(a)
					}
				}
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					v.match(agents[i%len(agents)])
				}
			})
		}
	}
}
