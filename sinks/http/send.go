package http

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/stream"
)

const (
	// sends is how many time-outs a batch has that is sent in halves; what is left then is a batch of its own.
	sends = 4

	// mostRest is the longest that a receiver's Retry-After is heard.
	mostRest = 10 * time.Minute

	// mostAnswer is the bytes of an answer that a dead letter shows.
	mostAnswer = 300
)

// rest is until when the receiver wants no requests.
type rest struct {
	mu    sync.Mutex
	until time.Time
	why   error
}

// ask puts the end of the rest off.
func (r *rest) ask(until time.Time, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if until.After(r.until) {
		r.until, r.why = until, why
	}
}

// wait returns when the rest is over; before that, when ctx is, with why there is one.
func (r *rest) wait(ctx context.Context) error {
	r.mu.Lock()
	left, why := time.Until(r.until), r.why
	r.mu.Unlock()
	if left <= 0 {
		return nil
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			return ctx.Err()
		}
		return why
	}
}

// Send posts items in one request, or, when some are refused, in halves.
func (s *Sink) Send(ctx context.Context, items []*bulk.Item) error {
	err := s.post(ctx, items)
	if errors.Is(err, bulk.ErrTooLarge) {
		return err // from now on requests are smaller
	}
	s.settle(ctx, items, err)
	return nil
}

// settle gives items the outcome of the request that they were in.
func (s *Sink) settle(ctx context.Context, items []*bulk.Item, err error) {
	if len(items) > 1 && (bulk.IsRefused(err) || errors.Is(err, bulk.ErrTooLarge)) {
		for _, half := range [][]*bulk.Item{items[:len(items)/2], items[len(items)/2:]} {
			s.settle(ctx, half, s.post(ctx, half))
		}
		return
	}
	if errors.Is(err, bulk.ErrTooLarge) {
		err = bulk.Refused(err)
	}
	for _, it := range items {
		it.Err = err
	}
}

// post makes one request.
func (s *Sink) post(ctx context.Context, items []*bulk.Item) error {
	if err := s.rest.wait(ctx); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	answer, err := s.do(limited, http.MethodPost, s.body(items))
	if err != nil {
		return s.late(ctx, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, mostAnswer))
	if err != nil && answer.StatusCode/100 != 2 {
		text = nil // the status says enough
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10)) // so that the connection serves again
	return s.meaning(answer, text)
}

// late says of a request that ran out of its own time, not of ctx, how long that was.
func (s *Sink) late(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("no answer within %s: %w", s.cfg.Timeout, err)
	}
	return err
}

// body is that of a request, before compression.
func (s *Sink) body(items []*bulk.Item) []byte {
	var b []byte
	if s.cfg.Format == "ndjson" {
		for _, it := range items {
			b = append(append(b, it.Body...), '\n')
		}
		return b
	}
	b = append(b, '[')
	for i, it := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, it.Body...)
	}
	return append(b, ']')
}

// do makes a request; one without a body is not signed.
func (s *Sink) do(ctx context.Context, method string, body []byte) (*http.Response, error) {
	id := sha256.Sum256(body)
	if s.cfg.Gzip && body != nil {
		body = compressed(body)
	}
	r, err := http.NewRequestWithContext(ctx, method, s.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return nil, stream.Fatal(fmt.Errorf("%s: %w", s, hidden(err)))
	}
	for name, value := range s.cfg.Headers {
		r.Header.Set(name, value)
	}
	r.Header.Set("User-Agent", "millrace")
	if body != nil {
		s.describe(r.Header, "msg_"+hex.EncodeToString(id[:16]), strconv.FormatInt(time.Now().Unix(), 10), body)
	}
	answer, err := s.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s, hidden(err))
	}
	return answer, nil
}

// describe sets the headers that say what body is.
func (s *Sink) describe(h http.Header, id, timestamp string, body []byte) {
	h.Set("Content-Type", map[string]string{"json": "application/json", "ndjson": "application/x-ndjson"}[s.cfg.Format])
	if s.cfg.Gzip {
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", timestamp)
	if s.key != nil {
		h.Set("Webhook-Signature", sign(s.key, id, timestamp, body))
	}
}

// sign is the signature of Standard Webhooks, version 1.
func sign(key []byte, id, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func compressed(body []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(body) // memory takes all
	_ = w.Close()
	return b.Bytes()
}

// hidden is err without the URL, which may hold a secret.
func hidden(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// meaning is what an answer says about a request: nil, refused, too large, fatal, or to be sent again.
func (s *Sink) meaning(answer *http.Response, text []byte) error {
	code := answer.StatusCode
	err := fmt.Errorf("%s answers %s%s", s, strings.TrimSpace(answer.Status), quoted(text))
	fatal := func(todo string) error { return stream.Fatal(fmt.Errorf("%w; %s", err, todo)) }
	switch {
	case code/100 == 2:
		return nil
	case code/100 == 3:
		return fatal("redirects are not followed: correct url" + target(answer))
	case code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusProxyAuthRequired:
		return fatal("check headers, and secret if the receiver checks signatures")
	case code == http.StatusNotFound, code == http.StatusMethodNotAllowed, code == http.StatusGone:
		return fatal("correct url")
	case code == http.StatusUnsupportedMediaType:
		return fatal("change format or gzip")
	case code == http.StatusRequestEntityTooLarge:
		return fmt.Errorf("%w: %w", bulk.ErrTooLarge, err)
	case code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests, code/100 != 4:
		if pause := retryAfter(answer.Header.Get("Retry-After"), time.Now()); pause > 0 {
			s.rest.ask(time.Now().Add(min(pause, mostRest)), err)
		}
		return err
	}
	return bulk.Refused(err)
}

// target is where a redirect leads, without what may be a secret.
func target(answer *http.Response) string {
	u, err := answer.Location()
	if err != nil {
		return ""
	}
	return fmt.Sprintf("; it leads to %s://%s", u.Scheme, u.Host)
}

// quoted is the beginning of an answer.
func quoted(text []byte) string {
	words := strings.TrimSpace(strings.ToValidUTF8(string(text), "\ufffd"))
	if words == "" {
		return ""
	}
	return fmt.Sprintf(": %q", words)
}

// retryAfter reads the header: seconds, or a time.
func retryAfter(text string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return at.Sub(now)
	}
	return 0
}
