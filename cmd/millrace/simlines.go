package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/millrace-io/millrace/processors/decode"
	"github.com/millrace-io/millrace/stream"
	"github.com/millrace-io/millrace/testenv/clicks"
)

// simLines makes input that fits a decode entry: every column that is read from the input has its property, most of the time with
// a value of its type. A part of the records is spoiled, so that there are dead letters.
type simLines struct {
	cfg     *decode.Config
	columns []simColumn // in the order of the paths
	header  []string    // of CSV
	agents  []string
}

type simColumn struct {
	index int // in the schema
	path  string
	kind  stream.Type
}

func newSimLines(cfg *decode.Config, schema *stream.Schema) *simLines {
	l := &simLines{cfg: cfg, agents: clicks.Agents(14)}
	paths := cfg.Paths(schema)
	for i, c := range schema.Columns {
		if path, ok := paths[i]; ok {
			l.columns = append(l.columns, simColumn{i, path, c.Type})
		}
	}
	slices.SortFunc(l.columns, func(a, b simColumn) int { return strings.Compare(a.path, b.path) })
	l.header = cfg.CSV.Columns
	if len(l.header) == 0 {
		for _, c := range l.columns {
			l.header = append(l.header, c.path)
		}
		l.header = slices.Compact(l.header)
	}
	return l
}

// record is record n of a seed.
func (l *simLines) record(seed uint64, n int) stream.Record {
	rng := rand.New(rand.NewPCG(seed, uint64(n)))
	var r stream.Record
	switch l.cfg.Format {
	case decode.CSV:
		r.Value = l.csv(l.properties(rng, n), l.header)
		if l.cfg.WantsHeader() {
			r.Headers = []stream.Header{{Key: decode.CSVHeader, Value: l.csv(nil, l.header)}}
		}
	case decode.Combined:
		r.Value = l.combined(rng, n)
	default:
		r.Value = l.json(rng, n)
	}
	if rng.IntN(12) == 0 {
		r.Value = r.Value[:rng.IntN(len(r.Value)+1)]
	}
	return r
}

// properties are values by path. Now and then one is missing, or of another type.
func (l *simLines) properties(rng *rand.Rand, n int) map[string]any {
	all := map[string]any{}
	for _, c := range l.columns {
		switch v := l.value(rng, n, c); {
		case rng.IntN(400) == 0:
			all[c.path] = "?"
		case rng.IntN(5) > 0 || c.index == stream.EventType || c.index == stream.User || c.index == stream.Time:
			all[c.path] = v
		}
	}
	return all
}

// value is a likely value of a column: few users and items, so that keys come again.
func (l *simLines) value(rng *rand.Rand, n int, c simColumn) any {
	switch c.index {
	case stream.ID:
		return fmt.Sprintf("e%d", n)
	case stream.EventType:
		return pickOne(rng, "page_view", "page_view", "impression", "click", "click", "cart", "purchase")
	case stream.Time:
		return time.Date(2026, 3, 2, 0, 0, n, 0, time.UTC).Format(time.RFC3339)
	case stream.User, stream.Anonymous, stream.Session:
		return fmt.Sprintf("u%d", rng.IntN(20))
	case stream.Item:
		return fmt.Sprintf("B%d", 10_000+rng.IntN(50))
	case stream.UserAgent:
		return l.agents[rng.IntN(len(l.agents))]
	case stream.IP:
		return fmt.Sprintf("10.0.0.%d", 1+rng.IntN(20))
	case stream.Country:
		return pickOne(rng, "DE", "fr", "GB", "us")
	}
	return valueOf(rng, n, c.kind)
}

func valueOf(rng *rand.Rand, n int, t stream.Type) any {
	switch t.Kind {
	case stream.Int:
		return rng.IntN(600)
	case stream.Float:
		return float64(rng.IntN(10_000)) / 100
	case stream.Bool:
		return rng.IntN(2) == 0
	case stream.Timestamp:
		return time.Date(2026, 3, 2, 0, 0, n, 0, time.UTC).Format(time.RFC3339)
	case stream.Decimal:
		digits := fmt.Sprint(1 + rng.IntN(9))
		if t.Scale == t.Precision {
			digits = "0"
		}
		return json.Number(digits + "." + strings.Repeat("5", max(1, int(t.Scale))))
	case stream.List:
		return []string{fmt.Sprintf("B%d", rng.IntN(50)), fmt.Sprintf("B%d", rng.IntN(50))}
	case stream.JSON:
		return map[string]any{"n": rng.IntN(10)}
	}
	return fmt.Sprintf("s%d", rng.IntN(30))
}

func pickOne(rng *rand.Rand, from ...string) string { return from[rng.IntN(len(from))] }

// json is an object, and now and then an array of some.
func (l *simLines) json(rng *rand.Rand, n int) []byte {
	if rng.IntN(10) > 0 {
		return marshal(l.object(rng, n))
	}
	return marshal([]any{l.object(rng, n), l.object(rng, n)})
}

func (l *simLines) object(rng *rand.Rand, n int) map[string]any {
	top := map[string]any{"section": pickOne(rng, "garden", "toys", "books")}
	all := l.properties(rng, n)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		put(top, strings.Split(path, "."), all[path])
	}
	return top
}

// put sets a property of an object within objects. One that is there already, and is no object, stays.
func put(object map[string]any, path []string, value any) {
	if len(path) == 1 {
		object[path[0]] = value
		return
	}
	inner, ok := object[path[0]].(map[string]any)
	if !ok {
		if _, taken := object[path[0]]; taken {
			return
		}
		inner = map[string]any{}
		object[path[0]] = inner
	}
	put(inner, path[1:], value)
}

func marshal(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // of texts, numbers, lists and objects only
	}
	return text
}

// csv is a line of fields; without values it is the header.
func (l *simLines) csv(values map[string]any, header []string) []byte {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	w.Comma = rune(l.cfg.CSV.Delimiter[0])
	fields := slices.Clone(header)
	for i, name := range header {
		if values == nil {
			break
		}
		fields[i] = ""
		if v, ok := values[name]; ok {
			fields[i] = csvText(v)
		}
	}
	if err := w.Write(fields); err != nil {
		panic(err) // of a delimiter that Validate lets through only if it can be one
	}
	w.Flush()
	return bytes.TrimRight(b.Bytes(), "\n")
}

func csvText(v any) string {
	switch v := v.(type) {
	case []string, map[string]any:
		return string(marshal(v))
	default:
		return fmt.Sprint(v)
	}
}

// combined is a line of an access log.
func (l *simLines) combined(rng *rand.Rand, n int) []byte {
	user := pickOne(rng, "-", "-", "ann", "bob", "eve")
	at := time.Date(2026, 3, 2, 0, 0, n, 0, time.UTC).Format("02/Jan/2006:15:04:05 -0700")
	status := pickOne(rng, "200", "200", "200", "304", "404", "500")
	return fmt.Appendf(nil, `10.0.0.%d - %s [%s] "GET /toys/B%d HTTP/1.1" %s %d "https://shop.example.com/" "%s"`,
		1+rng.IntN(20), user, at, 10_000+rng.IntN(50), status, rng.IntN(90_000), l.agents[rng.IntN(len(l.agents))])
}
