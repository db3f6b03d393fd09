package opensearch

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/sinks/sinktest"
	"github.com/millrace-io/millrace/stream"
	standin "github.com/millrace-io/millrace/testenv/opensearch"
)

// Mutations seen red (line broken -> test):
//
//	judge: the position is not compared, a mark is as good as a document, what is ahead differs -> ACheckOfWhatIsKeptUpToDate
//	kept: documents of no event are not looked for; strangers: partitions are not looked at -> ACheckOfWhatIsKeptUpToDate

func TestACheckOfWhatIsKeptUpToDateFindsWhatWasDoneByHand(t *testing.T) {
	server := serve(t, standin.Options{})
	s := open(t, Config{URL: server.URL(), Index: "profiles", ID: "user", Action: "index"}, Options{Delete: deletes})
	w := writer(t, s, "p")
	l := &sinktest.Lake{Partition: "p", To: 100, Dead: 50}
	write := func(offset uint64, name, kind string) {
		events := event(s.o.Schema, offset, func(e *stream.Event) {
			e.Values[stream.User], e.Values[stream.EventType] = stream.StringValue(name), stream.StringValue(kind)
		})
		if offset != l.Dead {
			w.Write(events)
		}
		if offset <= l.To {
			l.Written = append(l.Written, events...)
		}
	}
	for i, name := range []string{"a", "b", "c", "gone", "back", "ahead"} {
		write(uint64(i), name, "click")
	}
	write(20, "gone", "forget")
	write(21, "back", "forget")
	write(22, "back", "click")
	write(50, "refused", "click")
	write(101, "ahead", "click")
	write(102, "new", "click")
	if dead, err := flush(t, w, time.Minute); err != nil || len(dead) > 0 {
		t.Fatal(dead, err)
	}
	check := func(want ...string) {
		t.Helper()
		r, problems, err := s.Check(t.Context(), l, true)
		if err != nil {
			t.Fatal(err)
		}
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
		if r.Expected != 6 || len(want) == 0 && r.Found != 6 {
			t.Errorf("%d of %d are there", r.Found, r.Expected)
		}
	}
	check()
	put := func(id, source string) {
		t.Helper()
		if _, err := s.ask(t.Context(), http.MethodPut, "/profiles/_doc/"+id, []byte(source)); err != nil {
			t.Fatal(err)
		}
	}
	from := func(partition string, offset uint64) string {
		return fmt.Sprintf(`"_partition":%q,"_position":"%016x-00000000"`, partition, offset)
	}
	put("new2", "{"+from("q", 7)+"}") // of a partition that begins
	check()
	if _, err := s.ask(t.Context(), http.MethodDelete, "/profiles/_doc/a", nil); err != nil {
		t.Fatal(err)
	}
	put("b", "{"+from("p", 0)+"}")
	put("c", "{"+from("p", 2)+`,"_deleted":true}`)
	put("gone", "{"+from("p", 20)+"}")
	put("stray", "{"+from("p", 9)+"}")
	put("odd", `{"_partition":"q","_position":"?"}`)
	put("mine", `{"user_id":"mine"}`)
	check(
		`differs document "b" is of p at 0000000000000000-00000000; the newest event is at 0000000000000001-00000000`,
		`differs document "c" is of p at 0000000000000002-00000000`,
		`differs document "gone" is of p at 0000000000000014-00000000`,
		"extra document mine of profiles does not say which event it is of",
		"extra document odd of profiles is of no committed event",
		"extra document stray of profiles is of no committed event",
		`missing document "a", of the event at 0000000000000000-00000000, is not there`,
	)
}
