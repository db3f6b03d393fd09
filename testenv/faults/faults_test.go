package faults_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/testenv/faults"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// proxied returns a client's view of a server that counts the requests it sees.
func proxied(t *testing.T, o faults.Options) (*faults.Proxy, *atomic.Int64, func(method, query string) string) {
	t.Helper()
	seen := new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen.Add(1)
		fmt.Fprintf(w, "%s %s", r.Host, body)
	}))
	t.Cleanup(server.Close)
	p, err := faults.New(server.URL, o)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(p)
	t.Cleanup(front.Close)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return p, seen, func(method, query string) string {
		req, err := http.NewRequestWithContext(t.Context(), method, front.URL+"/lake/k?"+query, strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "signed"
		resp, err := client.Do(req)
		if err != nil {
			return "reset"
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return fmt.Sprint(resp.StatusCode, " ", string(text))
	}
}

func TestAFaultIsWhatItsNameSays(t *testing.T) {
	p, seen, do := proxied(t, faults.Options{Delay: time.Millisecond})
	cases := []struct {
		fault  faults.Fault
		answer string
		effect int64
	}{
		{faults.None, "200 signed body", 1},
		{faults.Internal, "500 ", 0},
		{faults.SlowDown, "503 ", 0},
		{faults.Reset, "reset", 0},
		{faults.LostAnswer, "reset", 1},
		{faults.FailAfter, "500 ", 1},
		{faults.Slow, "200 signed body", 1},
	}
	for _, c := range cases {
		seen.Store(0)
		p.Order(faults.Operation("UploadPart"), c.fault)
		if got := do(http.MethodPost, "uploads"); got != "200 signed body" { // matches no order
			t.Errorf("another operation is answered %q", got)
		}
		if got := do(http.MethodPut, "partNumber=1&uploadId=x"); !strings.HasPrefix(got, c.answer) {
			t.Errorf("%s: answered %q; want %q", c.fault, got, c.answer)
		}
		if n := seen.Load() - 1; n != c.effect {
			t.Errorf("%s: the server saw %d requests; want %d", c.fault, n, c.effect)
		}
	}
	if n := p.Seen("UploadPart"); n != len(cases) {
		t.Errorf("%d parts seen; want %d", n, len(cases))
	}
}

func TestTheSameSeedMakesTheSameFaults(t *testing.T) {
	answers := func(seed uint64) string {
		_, _, do := proxied(t, faults.Options{Rate: 0.5, Seed: seed, Delay: time.Millisecond})
		var all strings.Builder
		for range 40 {
			all.WriteString(do(http.MethodPut, "") + "\n")
		}
		return all.String()
	}
	a, b, c := answers(1), answers(1), answers(2)
	if a != b || a == c {
		t.Errorf("seed 1: %q\nagain:  %q\nseed 2: %q", a, b, c)
	}
	if n := strings.Count(a, "200 signed body"); n < 10 || n > 36 {
		t.Errorf("%d of 40 requests are answered; want about half, and the slow ones", n)
	}
}
