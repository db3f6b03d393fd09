package redis

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
)

func TestACheckFindsWhatWasDoneByHand(t *testing.T) {
	m := start(t)
	m.SetTime(now)
	p := newProxy(t, m.Addr())
	s := open(t, p, Config{Prefix: "p[x]*:", TTL: time.Hour}, Options{Delete: deletes})
	w := writer(t, s, "p")
	l := &sinktest.Lake{Partition: "p", To: 100, Dead: 50}
	user := func(name string, change func(*stream.Event)) func(*stream.Event) {
		return func(e *stream.Event) {
			e.Values[stream.User] = stream.StringValue(name)
			if change != nil {
				change(e)
			}
		}
	}
	forget := func(e *stream.Event) { e.Values[stream.EventType] = stream.StringValue("forget") }
	write := func(offset uint64, change func(*stream.Event)) {
		t.Helper()
		events := event(s, offset, change)
		put(t, w, events)
		if offset <= l.To {
			l.Written = append(l.Written, events...)
		}
	}
	for i, name := range []string{"a", "b", "c", "d", "e", "ahead", "gone", "late"} {
		write(uint64(i), user(name, nil))
	}
	write(20, user("gone", forget))
	write(21, user("late", at(now.Add(-2*time.Hour))))
	write(22, user("soon", at(now.Add(-50*time.Minute))))
	write(101, user("ahead", nil))
	write(102, user("new", nil))
	l.Written = append(l.Written, event(s, 50, user("refused", nil))...)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(m.Set("px:other", "of others, which the prefix as a pattern would match"))
	check := func(deep bool, expected, found int64, want ...string) {
		t.Helper()
		r, problems, err := s.Check(t.Context(), l, deep)
		must(err)
		var got []string
		for _, p := range problems {
			got = append(got, string(p.Kind)+" "+p.Text)
		}
		slices.Sort(got)
		for i := range max(len(got), len(want)) {
			if i >= len(got) || i >= len(want) || !strings.HasPrefix(got[i], want[i]) {
				t.Fatalf("problems:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
		if deep && (r.Expected != expected || r.Found != found) {
			t.Errorf("%d of %d are there", r.Found, r.Expected)
		}
	}
	check(true, 7, 7)
	check(false, 0, 0)

	m.Del("p[x]*:a")
	m.HSet("p[x]*:b", "url", "by hand")
	m.HDel("p[x]*:c", "event_id")
	m.Del("p[x]*:d")
	must(m.Set("p[x]*:d", "text"))
	m.HSet("p[x]*:gone", "user_id", "gone", "_position", "0000000000000014-00000000")
	m.HDel("p[x]*:gone", "_deleted")
	m.HSet("p[x]*:stray", "x", "y")
	harm := []string{
		`differs row "p[x]*:b" differs from its newest event, at 0000000000000001-00000000: url is "by hand" and should be `,
		`differs row "p[x]*:c" differs from its newest event, at 0000000000000002-00000000: event_id is not there and should be "`,
		`differs row "p[x]*:d" is no hash`,
		`differs row "p[x]*:gone" is there, and its newest event, at 0000000000000014-00000000, deletes it`,
		`extra row "p[x]*:stray" is of no committed event`,
		`missing row "p[x]*:a", of the event at 0000000000000000-00000000, is not there`,
	}
	check(true, 7, 3, harm...)

	m.SetTime(now.Add(2 * time.Hour)) // and nothing ends
	_, problems, err := s.Check(t.Context(), l, true)
	must(err)
	if !slices.ContainsFunc(problems, func(p stream.Problem) bool { return strings.Contains(p.Text, `row "p[x]*:e" of the event at`) }) {
		t.Errorf("a row that should have ended is fine: %v", problems)
	}
	m.FastForward(2 * time.Hour)
	check(true, 0, 0, `differs row "p[x]*:d" of the event at 0000000000000003-00000000 is there after its end`, harm[3], harm[4])
}
