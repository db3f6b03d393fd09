package expr

import (
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/millrace-io/millrace/stream"
)

func TestPredicateRefusesWhatCanFail(t *testing.T) {
	schema := testSchema(t)
	for src, want := range map[string]string{
		`price / quantity > 1`:                      `1:7: price / quantity can fail (division by zero), and here that could not be reported; compute it in a map before`,
		`quantity + 1 > 1`:                          `1:10: quantity + 1 can fail (overflow: the result is beyond 64 bits), and here that could not be reported; compute it in a map before`,
		`type == "x" && int(user) > 1`:              `1:16: int(user) can fail (not every text is a number), and here that could not be reported; compute it in a map before`,
		`coalesce(cost, rate) == 1`:                 `1:10: cost can fail (it can overflow), and here that could not be reported; compute it in a map before`,
		`round(price) == 1`:                         `1:1: round(price) can fail (overflow), and here that could not be reported; compute it in a map before`,
		`text(price * 1e300) == "x"`:                `1:1: text(price * 1e300) can fail (the number may not be finite), and here that could not be reported; compute it in a map before`,
		`timestamp(user) < time`:                    `1:1: timestamp(user) can fail (not every text is a time), and here that could not be reported; compute it in a map before`,
		`if(bot, -quantity, 1) == 1`:                `1:9: -quantity can fail (overflow: the result is beyond 64 bits), and here that could not be reported; compute it in a map before`,
		`type`:                                      `1:1: type is a string; want a condition, true or false`,
		`typ == "x"`:                                `1:1: unknown column "typ"; did you mean "type"?`,
		`replace(url, "/", "//") == "x"`:            `1:1: replace(url, "/", "//") can fail (it can make a text too long), and here that could not be reported; compute it in a map before`,
		`replace(url, "/", "-") == "x"`:             "",
		`price / 2 > 1`:                             "",
		`quantity % 2 == 0`:                         "",
		`price * quantity > 100`:                    "",
		`cost > 9.999 || cost < rate`:               "",
		`1 + 1 == 2`:                                "",
		`float(cost) * 1e300 > 1`:                   "",
		`lower(properties.s) == "x"`:                "",
		`time >= timestamp("2010-12-01T00:00:00Z")`: "",
	} {
		_, err := Predicate(src, schema)
		if got := fmt.Sprint(err); got != want && (err != nil || want != "") {
			t.Errorf("%s\n got %s\nwant %s", src, got, want)
		}
	}
}

func TestPredicateIsConcurrent(t *testing.T) {
	schema := testSchema(t)
	where, err := Predicate(`sha256(lower(user_agent), "s") != "x" && matches(user_agent, '(?i)(google|bing)bot') && contains(properties.page.section, "é")`, schema)
	if err != nil {
		t.Fatal(err)
	}
	e := click(t, stream.NewBatch(schema))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if !where(e) {
					t.Error("the condition is false")
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestPredicateKeepsNoTexts(t *testing.T) {
	schema := testSchema(t)
	where, err := Predicate(`upper(user_agent) == "x"`, schema)
	if err != nil {
		t.Fatal(err)
	}
	e := click(t, stream.NewBatch(schema))
	e.Values[stream.UserAgent] = stream.StringValue(strings.Repeat("a", 3000))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 10_000 {
		where(e)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 20<<20 { // under -race a sync.Pool forgets one in four
		t.Errorf("%d bytes for 10,000 events of 3,000", n)
	}
}

func TestFilterKeepsTrueDropsTheRestAndFailsWhatFails(t *testing.T) {
	schema := testSchema(t)
	factory, err := Filter("process.1.filter", `12 / quantity > 2`, schema)
	if err != nil {
		t.Fatal(err)
	}
	b := stream.NewBatch(schema)
	for _, q := range []stream.Value{stream.IntValue(3), stream.IntValue(12), {}, stream.IntValue(0)} {
		click(t, b).Values[stream.Quantity] = q
	}
	dropped := click(t, b)
	dropped.Values[stream.Quantity] = stream.IntValue(0)
	dropped.Drop()
	f := factory().(*filter)
	if err := f.Process(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"", "", "", "process.1.filter", ""} {
		if got := stageOf(&b.Events[i]); got != want {
			t.Errorf("event %d failed at %q; want %q", i, got, want)
		}
	}
	for i, want := range []string{"true true <nil>", "false false <nil>", "false false <nil>", "false true 1:4: division by zero"} {
		e := &b.Events[i]
		keep, err := f.judge(e)
		if got := fmt.Sprint(e.Alive(), keep, err); got != want {
			t.Errorf("event %d: %s; want %s", i, got, want)
		}
	}
}

// stageOf is where an event failed; empty for an event that did not. Only the engine needs to know.
func stageOf(e *stream.Event) string {
	stage, _ := e.Failure()
	return stage
}

func TestProcessorsPassOverEventsThatAreGone(t *testing.T) {
	schema := testSchema(t)
	b := stream.NewBatch(schema)
	gone := click(t, b)
	gone.Drop()
	factory, err := Map("process.1.map", []Assignment{{"user", `"x"`}}, schema)
	if err != nil {
		t.Fatal(err)
	}
	if err := factory().Process(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if got := gone.Values[stream.User].Text(); got != "17850" {
		t.Errorf("user is %s", got)
	}
}

func TestMapAssignsInOrder(t *testing.T) {
	schema := testSchema(t)
	factory, err := Map("process.2.map", []Assignment{
		{"user", `sha256(user, "salt")`},
		{"title", `concat(split_part(user, "", 1), "!")`}, // sees the new user
		{"country", `upper(country)`},
		{"cost", `quantity`},
		{"price", `round(price * 2, 2)`},
		{"score", `cost`},
		{"query", `null`},
		{"rate", `1.5`},
		{"page", `properties`},
		{"region", `properties.page.section`},
	}, schema)
	if err != nil {
		t.Fatal(err)
	}
	b := stream.NewBatch(schema)
	e := click(t, b)
	if err := factory().Process(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	const user = "7adc9b15b8cc6e0ff60a9a5dbba2a09f5bf3ab6b1c5ba6a8bbe0c9d1ab3d8ea6"
	for name, want := range map[string]string{
		"country": "DE", "cost": "6.00", "price": "5.1", "score": "6", "query": "null", "rate": "1.500000",
		"page": strings.ReplaceAll(e.Properties, "\n", `\n`), "region": `café 😀\n`, "title": show(e.Values[stream.User], of(stream.String)) + "!",
	} {
		i, _ := schema.Lookup(name)
		if got := strings.ReplaceAll(show(e.Values[i], schema.Columns[i].Type), "\n", `\n`); got != want {
			t.Errorf("%s is %s; want %s", name, got, want)
		}
	}
	if got := e.Values[stream.User].Text(); len(got) != 64 || got == user {
		t.Errorf("user is %s", got)
	}
}

func TestMapFailsTheEventOfABadValue(t *testing.T) {
	schema := testSchema(t)
	for src, want := range map[string]string{
		`quantity * 10000000`:                  "cost: the number does not fit into decimal(9,2)",
		`quantity * 9223372036854775807`:       "cost: 1:10: overflow: the result is beyond 64 bits",
		`1000000000000000000 * (quantity - 5)`: "cost: 1:21: the number is beyond 64 bits",
	} {
		factory, err := Map("process.2.map", []Assignment{{"cost", src}}, schema)
		if err != nil {
			t.Fatal(err)
		}
		b := stream.NewBatch(schema)
		click(t, b)
		p := factory().(*mapping)
		if err := p.Process(t.Context(), b); err != nil || b.Events[0].Alive() {
			t.Errorf("%s: alive after %v", src, err)
		}
		if got := stageOf(&b.Events[0]); got != "process.2.map" {
			t.Errorf("%s: failed at %q", src, got)
		}
		if got := fmt.Sprint(p.set(&b.Events[0])); got != want {
			t.Errorf("%s: %s\nwant %s", src, got, want)
		}
	}
}

func TestMapRefusesWhatDoesNotFitItsColumn(t *testing.T) {
	schema := testSchema(t)
	_, err := Map("process.2.map", []Assignment{
		{"usr", `user`},
		{"margin", `price`},
		{"user", `typ`},
		{"user", `quantity`},
		{"quantity", `price`},
		{"cost", `price`},
		{"cost", `cost * 1.19`},
		{"time", `user`},
		{"score", `user`},
		{"items", `user`},
		{"bot", `"x"`},
		{"cost", `100000000000000000000.5`},
	}, schema)
	want := []string{
		`usr is no column; did you mean "user"? New columns are declared under decode.columns`,
		`margin is no column; declare it under decode.columns, with a type`,
		`user 1:1: unknown column "typ"; did you mean "type"?`,
		`user is given twice`,
		`user 1:1: quantity is an int; the column is a string; write text(...)`,
		`quantity 1:1: price is a float; the column is an int; write round(...)`,
		`cost 1:1: price is a float; the column is a decimal(9,2); write round(..., 2)`,
		`cost is given twice`,
		`cost 1:6: cost * 1.19 is a decimal(18,4); the column is a decimal(9,2); write round(..., 2)`,
		`time 1:1: user is a string; the column is a timestamp; write timestamp(...)`,
		`score 1:1: user is a string; the column is a float; write int(...) or float(...)`,
		`items 1:1: user is a string; the column is a list`,
		`bot 1:1: "x" is a string; the column is a bool`,
		`cost is given twice`,
		`cost 1:1: 100000000000000000000.5 is a float; the column is a decimal(9,2); write round(..., 2)`,
	}
	if got := fmt.Sprint(err); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s", got)
	}
	var one *AssignmentError
	var placed *Error
	if !errors.As(err, &one) || one.Index != 0 || one.Column != "usr" || errors.As(one, &placed) {
		t.Errorf("the first problem is %+v", one)
	}
	if _, err := Map("process.2.map", nil, schema); err == nil {
		t.Error("no assignments were accepted")
	}
}

func TestVerdictsAreThoseOfThePattern(t *testing.T) {
	pattern := regexp.MustCompile(`1|7{2}`)
	v := newVerdicts(pattern, 2) // 16 texts: hardly any stays
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 5000 {
				s := strconv.Itoa(i * (worker + 1) % 40)
				if got, want := v.match(s), pattern.MatchString(s); got != want {
					t.Errorf("%s: %v; want %v", s, got, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestVerdictsRememberWhatComesTwice(t *testing.T) {
	v := newVerdicts(regexp.MustCompile(`a`), verdictSets)
	long := strings.Repeat("a", verdictText+1)
	for _, s := range []string{"once", "twice", "twice a", "twice", "twice a", long, long} {
		v.match(s)
	}
	v.pattern = regexp.MustCompile(`^[^a]*$`) // says the opposite
	for s, want := range map[string]bool{"once": true, "twice": false, "twice a": true, long: false} {
		if got := v.match(s); got != want {
			t.Errorf("%.10s: %v; want %v", s, got, want)
		}
	}
}

func TestVerdictsTellTextsOfOneTagApart(t *testing.T) {
	v := newVerdicts(regexp.MustCompile(`a`), 1)
	v.match("a")
	for way := range verdictWays {
		v.sets[0].known[way].Store(&verdict{"b", false})
	}
	if !v.match("a") {
		t.Error("a text got the verdict of another one")
	}
}

func TestVerdictsKeepNothingOfTheRecord(t *testing.T) {
	v := newVerdicts(regexp.MustCompile(`a`), 1)
	record := []byte("aaaa")
	v.match(viewText(record))
	v.match(viewText(record))
	copy(record, "bbbb") // the batch was reset
	v.pattern = regexp.MustCompile(`b`)
	if !v.match("aaaa") {
		t.Error("the verdict is gone with the record")
	}
}
