package tracker

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/goleak"
)

// What the script does is tested in a browser: cmd/millrace/tracker_real_test.go.
//
// Mutations seen red:
//   - tracker.go, the source is served as it is    -> TestScriptIsSmall
//   - tracker.go, one ETag for both encodings      -> TestScriptIsCachedByItsContent

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func get(t *testing.T, h http.Handler, method string, header map[string]string) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "/tracker.js", nil)
	for name, value := range header {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func TestScriptIsSmall(t *testing.T) {
	s, err := minified()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes minified, %d with gzip", len(s.plain), len(s.packed))
	if len(s.plain) >= 5_000 {
		t.Errorf("%d bytes minified; want less than 5 KB", len(s.plain))
	}
	packed, err := gzip.NewReader(bytes.NewReader(s.packed))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(packed); err != nil || !bytes.Equal(text, s.plain) {
		t.Errorf("unpacked it is another script: %v", err)
	}
}

func TestScriptIsCachedByItsContent(t *testing.T) {
	h := Handler()
	tags := map[string]bool{}
	for _, encoding := range []string{"", "gzip"} {
		first := get(t, h, http.MethodGet, map[string]string{"Accept-Encoding": encoding})
		tag := first.Header.Get("ETag")
		tags[tag] = true
		if first.StatusCode != http.StatusOK || first.Header.Get("Content-Encoding") != encoding || first.Header.Get("Vary") != "Accept-Encoding" || tag == "" {
			t.Errorf("%q: status %d, %v", encoding, first.StatusCode, first.Header)
		}
		again := get(t, h, http.MethodGet, map[string]string{"Accept-Encoding": encoding, "If-None-Match": tag})
		if again.StatusCode != http.StatusNotModified {
			t.Errorf("%q again: status %d; want 304", encoding, again.StatusCode)
		}
	}
	if len(tags) != 2 {
		t.Errorf("tags %v; want one for each encoding", tags)
	}
	if r := get(t, h, http.MethodPost, nil); r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: status %d", r.StatusCode)
	}
}
