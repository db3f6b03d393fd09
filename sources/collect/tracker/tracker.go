// Package tracker is the script that web pages send their events with.
//
// A page needs one line, and marks what it wants to know of:
//
//	<script async src="https://collect.shop.example/tracker.js" data-key="shop-web"></script>
//
//	<ul data-millrace-recommendation="rec-42">
//	  <li data-millrace-impression="85123A"><a data-millrace-click="85123A" href="/85123A">White hanging heart</a></li>
//	</ul>
//
// That sends page_view when the page opens (and when history.pushState moves it), click when a marked element or anything in
// it is clicked, and impression when half of a marked element, or half a window of it, was visible for a second. An event has
// an event_id, event_time, anonymous_id, session_id (30 minutes without an event end it), url, referrer; clicks and impressions also
// what the element or the next one around it says in data-millrace-item (or the mark's own value), data-millrace-recommendation
// and data-millrace-query, as item_id, recommendation_id and query. Elements that are added later count too.
//
// The script tag may say more:
//
//	data-key="..."          the write key
//	data-url="..."          where to send; default: /v1/events beside the script
//	data-consent="wait"     send and store nothing until millrace.consent(true); the answer is remembered
//	data-page-views="off"   no page views but those of millrace.page()
//	data-dnt="ignore"       send in spite of Global Privacy Control and Do Not Track; without it either of them is a no
//
// And the page may call millrace.track(type, {...}), millrace.page({...}), millrace.identify(userID), millrace.consent(true or
// false) and millrace.flush(). consent(false) forgets the ids and everything that is not sent yet.
//
// Events go in batches of 20, after 2 seconds, and when the page is hidden or left, by sendBeacon; all as text/plain, which
// needs no preflight. What was not taken (no network, 429, 5xx) is sent again with back-off, and kept for the next page:
// the newest 200 events, 256 KB at most. It keeps its event_id, so readers can tell what came twice. What sendBeacon took is
// the browser's: it is not sent again.
package tracker

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tdewolff/minify/v2"
	"github.com/tdewolff/minify/v2/js"
)

//go:embed tracker.js
var source string

// script is what is served: minified once, when it is first asked for.
type script struct {
	plain, packed []byte
	tag           string
}

func minified() (*script, error) {
	m := minify.New()
	m.AddFunc("text/javascript", js.Minify)
	text, err := m.String("text/javascript", source)
	if err != nil {
		return nil, fmt.Errorf("minify tracker.js: %w", err)
	}
	var packed bytes.Buffer
	w, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	_, _ = w.Write([]byte(text)) // to memory
	_ = w.Close()
	return &script{[]byte(text), packed.Bytes(), fmt.Sprintf("%x", sha256.Sum256([]byte(text)))[:16]}, nil
}

// Handler serves the script. Browsers ask once an hour whether there is a new one.
func Handler() http.Handler {
	prepared := sync.OnceValues(minified)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := prepared()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		s.serve(w, r)
	})
}

func (s *script) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "want GET", http.StatusMethodNotAllowed)
		return
	}
	h.Set("Content-Type", "text/javascript; charset=utf-8")
	h.Set("Cache-Control", "public, max-age=3600, stale-while-revalidate=86400")
	h.Set("Cross-Origin-Resource-Policy", "cross-origin") // for pages that ask for it by COEP
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Vary", "Accept-Encoding")
	body, tag := s.plain, s.tag
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		body, tag = s.packed, s.tag+"-gzip"
	}
	h.Set("ETag", `"`+tag+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}
