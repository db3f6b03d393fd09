//go:build real

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/millrace-io/millrace/sources/collect"
)

// Mutations of tracker.js seen red (line broken -> test):
//   - events are sent as application/json             -> TestRealTrackerSendsViewsClicksAndImpressions (a preflight)
//   - without the MutationObserver                    -> TestRealTrackerSendsViewsClicksAndImpressions
//   - the page that goes sends no beacon              -> TestRealTrackerSendsWhatIsLeftWhenThePageGoes
//   - nothing is kept for the next page               -> TestRealTrackerSendsAgainWhatWasNotTaken
//   - 429 counts as taken                             -> TestRealTrackerSendsAgainWhatWasNotTaken
//   - 5xx counts as taken                             -> TestRealTrackerSendsAgainWhatWasNotTaken
//   - consent is there from the beginning             -> TestRealTrackerSendsNothingWithoutConsent
//   - the end of consent leaves what is stored        -> TestRealTrackerSendsNothingWithoutConsent
//   - Do Not Track forbids nothing                    -> TestRealTrackerHonoursDoNotTrack

// shop is a web shop with the tracker in its page, at an origin of its own, and a collector that keeps what it takes.
type shop struct {
	t       *testing.T
	site    *httptest.Server
	tracker *httptest.Server
	script  string // of the tag

	mu       sync.Mutex
	status   int // of answers; 0: the collector's
	attempts int // requests with events
	events   []map[string]any
}

// shopPage has an item that is in view, one far below, and a link away. %s is the script tag.
const shopPage = `<!doctype html><title>Shop</title>%s
<div data-millrace-recommendation="rec-1" data-millrace-query="heart">
<p id="top" data-millrace-impression="85123A"><button id="buy" data-millrace-click="85123A"><b id="inner">White hanging heart</b></button></p>
<div style="height:5000px"></div>
<p id="below" data-millrace-impression="71053">White metal lantern</p>
</div>
<p id="plain">not marked</p>
<a id="away" href="/away">away</a>
<script>addEventListener('DOMContentLoaded', () => setTimeout(() => {
  const p = document.createElement('p'); p.dataset.millraceImpression = 'late'; p.textContent = 'late';
  document.getElementById('top').after(p);
}, 100));</script>`

func newShop(t *testing.T, attributes string) *shop {
	t.Helper()
	s := &shop{t: t}
	s.site = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		if r.URL.Path == "/away" {
			fmt.Fprint(w, "<title>away</title>")
			return
		}
		fmt.Fprintf(w, shopPage, s.script)
	}))
	t.Cleanup(s.site.Close)
	handler, err := collect.New(s, collect.Config{CORS: collect.CORS{Allow: []string{s.site.URL}}, WriteKeys: map[string]collect.WriteKey{"web": {Key: "k"}}}, collect.Options{})
	if err != nil {
		t.Fatal(err)
	}
	mux := doorMux(handler)
	s.tracker = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/events" && s.refuses(w, r) {
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.tracker.Close)
	s.script = fmt.Sprintf(`<script async src="%s/tracker.js" data-key="k" %s></script>`, s.tracker.URL, attributes)
	return s
}

// refuses answers for the collector while it is told to, and counts.
func (s *shop) refuses(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempts++
	if r.Method != http.MethodPost {
		s.t.Errorf("a preflight: %s", r.Method)
	}
	if s.status == 0 {
		return false
	}
	w.Header().Set("Access-Control-Allow-Origin", "*")
	w.WriteHeader(s.status)
	fmt.Fprint(w, "{}")
	return true
}

// Append keeps events: the shop is the collector's log.
func (s *shop) Append(_ context.Context, events []collect.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range events {
		var m map[string]any
		if err := json.Unmarshal(e.Value, &m); err != nil {
			return err
		}
		s.events = append(s.events, m)
	}
	return nil
}

func (s *shop) answer(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

// of is the events of a type, in order, and how many requests there were.
func (s *shop) of(kind string) (events []map[string]any, attempts int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e["event_type"] == kind {
			events = append(events, e)
		}
	}
	return events, s.attempts
}

// wait returns the events of a type when there are n.
func (s *shop) wait(kind string, n int) []map[string]any {
	s.t.Helper()
	s.until(func() bool {
		events, _ := s.of(kind)
		return len(events) >= n
	})
	events, _ := s.of(kind)
	if len(events) != n {
		s.t.Errorf("%d events %s; want %d", len(events), kind, n)
	}
	return events
}

func (s *shop) until(condition func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); {
		if time.Now().After(deadline) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.t.Fatalf("waited in vain; %d requests, events %v", s.attempts, s.events)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// chromium is a browser with one tab; its pages share what they store.
func chromium(t *testing.T, flags ...chromedp.ExecAllocatorOption) context.Context {
	t.Helper()
	options := slices.Concat(chromedp.DefaultExecAllocatorOptions[:], []chromedp.ExecAllocatorOption{
		chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1000, 800),
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
	}, flags)
	alloc, stop := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stop)
	tab, closeTab := chromedp.NewContext(alloc)
	t.Cleanup(closeTab)
	tab, cancel := context.WithTimeout(tab, 3*time.Minute)
	t.Cleanup(cancel)
	return tab
}

// visit opens a page and waits for the tracker.
func visit(t *testing.T, tab context.Context, url string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		_, err := chromedp.Run(tab, chromedp.Navigate(url))
		if err == nil {
			break
		}
		if !strings.Contains(err.Error(), "ERR_ABORTED") || time.Now().After(deadline) { // a click's navigation came between
			t.Fatalf("open %s: %v (testenv/install.sh installs chromium)", url, err)
		}
	}
	for !evaluate[bool](t, tab, "!!window.millrace") {
		if time.Now().After(deadline) {
			t.Fatal("the tracker never started")
		}
		<-time.After(20 * time.Millisecond)
	}
}

func evaluate[T any](t *testing.T, tab context.Context, script string) T {
	t.Helper()
	v, err := chromedp.Run(tab, chromedp.Evaluate[T](script))
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return v
}

func click(t *testing.T, tab context.Context, selector string) {
	t.Helper()
	if _, err := chromedp.Run(tab, chromedp.Click(selector)); err != nil {
		t.Fatalf("click %s: %v", selector, err)
	}
}

func TestRealTrackerSendsViewsClicksAndImpressions(t *testing.T) {
	s := newShop(t, "")
	tab := chromium(t)
	visit(t, tab, s.site.URL+"/?q=1")
	click(t, tab, "#inner")
	evaluate[bool](t, tab, "document.getElementById('plain').click(), true") // without scrolling to it

	view := s.wait("page_view", 1)[0]
	if view["url"] != s.site.URL+"/?q=1" || view["title"] != "Shop" || view["write_key"] != "web" || view["ip"] != "127.0.0.1" || !strings.Contains(view["user_agent"].(string), "Chrome") {
		t.Errorf("page view %v", view)
	}
	one := s.wait("click", 1)[0]
	if one["item_id"] != "85123A" || one["recommendation_id"] != "rec-1" || one["query"] != "heart" || one["anonymous_id"] != view["anonymous_id"] || one["session_id"] != view["session_id"] {
		t.Errorf("click %v after %v", one, view)
	}
	seen := s.wait("impression", 2) // what is in view, and what came later
	if seen[0]["item_id"] != "85123A" || seen[1]["item_id"] != "late" || seen[1]["recommendation_id"] != "rec-1" {
		t.Errorf("impressions %v", seen)
	}
	evaluate[bool](t, tab, "document.getElementById('below').scrollIntoView(), true")
	if seen = s.wait("impression", 3); seen[2]["item_id"] != "71053" {
		t.Errorf("impressions %v", seen)
	}
	evaluate[bool](t, tab, "scrollTo(0, 0), history.pushState({}, '', '/second'), millrace.identify(7), millrace.track('add_to_cart', {item_id: 'i', price: 2.5}), true")
	cart := s.wait("add_to_cart", 1)[0]
	if views := s.wait("page_view", 2); views[1]["url"] != s.site.URL+"/second" || cart["user_id"] != "7" || cart["price"] != 2.5 {
		t.Errorf("views %v, cart %v", views, cart)
	}
	// The same visitor comes again.
	visit(t, tab, s.site.URL+"/third")
	if again := s.wait("page_view", 3)[2]; again["anonymous_id"] != view["anonymous_id"] || again["session_id"] != view["session_id"] || again["event_id"] == view["event_id"] {
		t.Errorf("%v after %v; want the same visitor and session", again, view)
	}
	s.wait("click", 1) // not marked: not sent
}

func TestRealTrackerSendsWhatIsLeftWhenThePageGoes(t *testing.T) {
	s := newShop(t, `data-page-views="off"`)
	tab := chromium(t)
	visit(t, tab, s.site.URL)
	click(t, tab, "#buy")
	click(t, tab, "#away") // before the two seconds of a batch are over
	s.wait("click", 1)
	if _, attempts := s.of(""); attempts != 1 {
		t.Errorf("%d requests; want the one of the page that goes", attempts)
	}
}

func TestRealTrackerSendsAgainWhatWasNotTaken(t *testing.T) {
	s := newShop(t, `data-page-views="off"`)
	s.answer(http.StatusTooManyRequests)
	tab := chromium(t)
	visit(t, tab, s.site.URL)
	evaluate[bool](t, tab, "millrace.track('first'), millrace.flush(), true")
	s.until(func() bool { _, attempts := s.of(""); return attempts > 0 })
	s.answer(0)
	s.wait("first", 1)

	s.answer(http.StatusServiceUnavailable)
	_, before := s.of("")
	evaluate[bool](t, tab, "for (let i = 0; i < 300; i++) millrace.track('many', {n: i}); true")
	s.until(func() bool { _, attempts := s.of(""); return attempts >= before+2 })
	click(t, tab, "#away") // what the collector does not take is kept for the next page
	s.answer(0)
	visit(t, tab, s.site.URL)
	s.until(func() bool {
		events, _ := s.of("many")
		return len(events) > 0 && events[len(events)-1]["n"] == 299.0
	})
	ids := map[any]bool{}
	events, _ := s.of("many")
	for _, e := range events {
		ids[e["event_id"]] = true
	}
	if len(events) > 200 || len(events) < 197 || len(ids) != len(events) { // an impression may be among them
		t.Errorf("%d events, %d ids; want the newest 200, each once", len(events), len(ids))
	}
	s.until(func() bool {
		return evaluate[float64](t, tab, "Object.keys(localStorage).filter(k => k.includes('queue')).length") == 0
	})
}

func TestRealTrackerSendsNothingWithoutConsent(t *testing.T) {
	s := newShop(t, `data-consent="wait"`)
	tab := chromium(t)
	visit(t, tab, s.site.URL)
	click(t, tab, "#buy")
	const stored = "Object.keys(localStorage).join()"
	settled(t, tab)
	if _, attempts := s.of(""); attempts != 0 || evaluate[string](t, tab, stored) != "" {
		t.Errorf("before consent: %d requests, stored %q", attempts, evaluate[string](t, tab, stored))
	}
	evaluate[bool](t, tab, "millrace.consent(true), true")
	s.wait("page_view", 1)
	s.wait("impression", 2)
	visit(t, tab, s.site.URL+"/again") // the answer is remembered
	s.wait("page_view", 2)

	evaluate[bool](t, tab, "millrace.track('forgotten'), millrace.consent(false), true")
	if kept := evaluate[string](t, tab, stored); kept != "millrace.consent" {
		t.Errorf("after the end of consent %q is stored", kept)
	}
	_, before := s.of("")
	visit(t, tab, s.site.URL+"/no")
	click(t, tab, "#buy")
	settled(t, tab)
	if _, after := s.of(""); after != before {
		t.Errorf("%d requests after the end of consent", after-before)
	}
}

// settled waits until everything that the page would send is sent: an impression takes a second, a batch two more, and
// leaving sends the rest at once.
func settled(t *testing.T, tab context.Context) {
	t.Helper()
	evaluate[bool](t, tab, "millrace.flush(), true")
	<-time.After(3500 * time.Millisecond)
	evaluate[bool](t, tab, "dispatchEvent(new Event('pagehide')), true")
}

func TestRealTrackerHonoursDoNotTrack(t *testing.T) {
	const signal = "Object.defineProperty(Navigator.prototype, '%s', {get: () => %s});"
	for name, value := range map[string]string{"doNotTrack": "'1'", "globalPrivacyControl": "true"} {
		s := newShop(t, "")
		s.script = "<script>" + fmt.Sprintf(signal, name, value) + "</script>" + s.script
		tab := chromium(t)
		visit(t, tab, s.site.URL)
		click(t, tab, "#buy")
		evaluate[bool](t, tab, "millrace.consent(true), millrace.track('x'), true")
		settled(t, tab)
		if _, attempts := s.of(""); attempts != 0 || evaluate[string](t, tab, "Object.keys(localStorage).join()") != "" {
			t.Errorf("%s: %d requests", name, attempts)
		}
		s.script = strings.Replace(s.script, `data-key`, `data-dnt="ignore" data-key`, 1)
		visit(t, tab, s.site.URL)
		s.wait("page_view", 1)
	}
}

// TestRealClickEndsAsARowInTheLake is the whole way: a page of a shop, a click in a browser, the collector of millrace dev,
// JetStream, the engine, a Parquet file, and pyarrow's word for what is in it.
func TestRealClickEndsAsARowInTheLake(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "millrace")
	if text, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, text)
	}
	dir := filepath.Join(t.TempDir(), "data")
	d := startDev(t, bin, dir, "--data", "none")
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, shopPage, fmt.Sprintf(`<script async src="%s/tracker.js"></script>`, d.url))
	}))
	defer site.Close()
	tab := chromium(t)
	visit(t, tab, site.URL)
	click(t, tab, "#buy")
	lake := filepath.Join(dir, "s3", "objects", "lake", "clicks")
	for deadline := time.Now().Add(time.Minute); ; {
		rows := lakeRows(t, lake)
		i := slices.IndexFunc(rows, func(r map[string]any) bool { return r["event_type"] == "click" })
		if i >= 0 {
			r := rows[i]
			if r["item_id"] != "85123A" || r["recommendation_id"] != "rec-1" || r["anonymous_id"] == nil || r["session_id"] == nil || r["ip"] != "127.0.0.1" ||
				r["url"] != site.URL+"/" || r["event_id"] == nil || !strings.Contains(r["user_agent"].(string), "Chrome") {
				t.Errorf("row %v", r)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no click among the rows %v", rows)
		}
		<-time.After(500 * time.Millisecond)
	}
}

const readLake = `import glob, json, sys, pyarrow.parquet as pq
for name in glob.glob(sys.argv[1] + "/**/*.parquet", recursive=True):
    for row in pq.ParquetFile(name).read().to_pylist():
        print(json.dumps(row, default=str))`

// lakeRows is what pyarrow reads of all files below a folder.
func lakeRows(t *testing.T, folder string) (rows []map[string]any) {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	python := filepath.Join(cache, "millrace", "venv", "bin", "python")
	out, err := exec.CommandContext(t.Context(), python, "-c", readLake, folder).Output()
	if err != nil {
		t.Fatalf("read the lake: %v (testenv/install.sh installs pyarrow)", err)
	}
	for line := range strings.Lines(string(out)) {
		var row map[string]any
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row)
	}
	return rows
}
