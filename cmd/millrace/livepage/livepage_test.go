package livepage

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/millrace-io/millrace/stream"
)

func newPage(t *testing.T, stats stream.Stats, files []File) *Page {
	t.Helper()
	p := New(Options{Name: "clicks", Files: func(context.Context) ([]File, error) { return files, nil }})
	p.Show(func() stream.Stats { return stats })
	return p
}

// tap shows the page an event of a user, and a dead letter.
func tap(t *testing.T, p *Page, user string) {
	t.Helper()
	schema, err := stream.NewSchema()
	if err != nil {
		t.Fatal(err)
	}
	b := stream.NewBatch(schema)
	e := b.Append(&stream.Record{Pos: stream.OffsetPosition(7), Time: time.Now()})
	e.Values[stream.User] = stream.StringValue(user)
	dead := &stream.DeadLetter{Record: &stream.Record{Value: []byte("\xff<b>")}, Stage: "decode", Err: "no JSON"}
	p.Tap("clicks.0", []*stream.Event{e}, []*stream.DeadLetter{dead})
}

// live reads one snapshot as a browser does.
func live(t *testing.T, p *Page) (Snapshot, string) {
	t.Helper()
	p.sample(t.Context())
	server := httptest.NewServer(p)
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/live", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	line, err := bufio.NewReader(response.Body).ReadString('\n')
	text, ok := strings.CutPrefix(line, "data: ")
	if err != nil || !ok {
		t.Fatalf("live said %q: %v", line, err)
	}
	var s Snapshot
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	return s, text
}

func TestEmptyPageHasListsAndNoNulls(t *testing.T) {
	_, text := live(t, newPage(t, stream.Stats{}, nil))
	if strings.Contains(text, "null") {
		t.Errorf("the script takes lists only: %s", text)
	}
}

func TestPageShowsTheNewestAndCountsAll(t *testing.T) {
	var files []File
	for i := range 40 {
		files = append(files, File{Key: "k", To: uint64(i), Rows: 2, Bytes: 3})
	}
	p := newPage(t, stream.Stats{Records: 100, Kept: 90, Dropped: 7, Dead: 3, Commits: 4}, files)
	for i := range 30 {
		tap(t, p, strings.Repeat("u", i))
	}
	s, _ := live(t, p)
	if len(s.Files) != recent || s.Files[0].To != 39 || s.FileCount != 40 || s.FileRows != 80 || s.FileBytes != 120 {
		t.Errorf("files: %d listed, first to %d, %d in all with %d rows", len(s.Files), s.Files[0].To, s.FileCount, s.FileRows)
	}
	if len(s.Events) != recent || len(s.Events[0].User) != 29 || s.Events[0].Offset != 7 {
		t.Errorf("events: %d listed, first %+v", len(s.Events), s.Events[0])
	}
	if s.Kept+s.Dropped+s.Dead != s.Records || s.Rate[0] != 100 || s.LatencyMS < 0 {
		t.Errorf("counts: %+v", s)
	}
	if len(s.DeadOnes) != recent || s.DeadOnes[0].Value != `"\xff<b>"` {
		t.Errorf("dead letters: %+v", s.DeadOnes)
	}
}

func TestListingIsRepeatedAfterAFailure(t *testing.T) {
	calls := 0
	p := New(Options{Files: func(context.Context) ([]File, error) {
		if calls++; calls == 1 {
			return nil, errors.New("down")
		}
		return []File{{Key: "k"}}, nil
	}, Log: nil})
	p.Show(func() stream.Stats { return stream.Stats{Commits: 1} })
	p.sample(t.Context())
	if s, _ := live(t, p); s.FileCount != 1 || calls != 2 {
		t.Errorf("%d files after %d listings; want one after two", s.FileCount, calls)
	}
}
