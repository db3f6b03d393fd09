package awsjson

import (
	"bytes"
	"io"
	"net/http"
)

// Transport is for SDK clients that must not try again. The SDK closes a request's body as soon as an answer comes; if net/http has
// not yet seen the body's end, it closes the connection, and the answer is lost: "use of closed network connection". A server in
// the same process is fast enough for that, once in 20,000 calls. Clients with the SDK's own retries need no Transport.
type Transport struct{ http.Transport }

// RoundTrip sends a copy of the body, which the SDK does not close.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body.Close()
	r = r.Clone(r.Context())
	r.Body = io.NopCloser(bytes.NewReader(body))
	return t.Transport.RoundTrip(r)
}
