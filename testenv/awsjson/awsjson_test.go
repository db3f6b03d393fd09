// The tests guard these lines; each was broken once, and the test named beside it went red:
//
//	fault.go: Before counts an operation, whatever it is about  ->  TestTheHookSeesWhoCallsWhatAndHowOften
//	awsjson.go: a fault with Done does not do the call  ->  TestAFaultIsWhatItSays
//	awsjson.go: Internal... is answered with 400  ->  TestARequestThatIsNoneIsRefused, TestAFaultIsWhatItSays
//	awsjson.go: times are cut, not rounded  ->  TestTimesKeepTheirMilliseconds
//	awsjson.go: Close does not close the connections  ->  the tests end in their time-out
package awsjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type echoInput struct {
	Text string
	At   Time
	Many []string
}

type call struct {
	operation, key string
	before         int
}

// echo is a service with operations that answer and operations that fail.
type echo struct {
	*Server
	t    *testing.T
	hook Hook[call]
	done atomic.Int64 // calls that had an effect
}

func serve(t *testing.T) *echo {
	t.Helper()
	e := &echo{t: t}
	s, err := Start("127.0.0.1:0", Service{
		Target: "Echo_1", Version: "1.1", Namespace: "echo#", Checksum: true,
		Now: func() time.Time { return time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC) },
		Fault: func(r Request) Fault {
			return e.hook.Fault(r.Operation, r.Input.(*echoInput).Text, "", func(before int) call { return call{r.Operation, r.AccessKey, before} })
		},
		Operations: map[string]Operation{
			"Echo": Do(func(in *echoInput) (any, error) {
				e.done.Add(1)
				return in, nil
			}),
			"Fail": Do(func(in *echoInput) (any, error) {
				if in.Text == "" {
					return nil, errors.New("broken")
				}
				return nil, &Error{Type: in.Text, Message: "because", Fields: map[string]any{"More": 1}}
			}),
			"Nothing": Do(func(*echoInput) (any, error) { return nil, nil }),
			"Part": DoInPart(func(in *echoInput, f Fault) (any, error) {
				out := []string{}
				for i, s := range in.Many {
					if f.Fail == nil || f.Fail(i) == "" {
						out = append(out, s)
					}
				}
				return out, nil
			}),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	e.Server = s
	t.Cleanup(func() { s.Close() })
	return e
}

// post returns "cut" when no answer comes.
func (e *echo) post(target, key, body string) (*http.Response, string) {
	e.t.Helper()
	req, err := http.NewRequestWithContext(e.t.Context(), http.MethodPost, e.URL(), strings.NewReader(body))
	if err != nil {
		e.t.Fatal(err)
	}
	req.Header.Set("X-Amz-Target", target)
	if key != "" {
		req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+key+"/20300102/us-east-1/echo/aws4_request, SignedHeaders=host, Signature=0")
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, "cut"
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		e.t.Fatal(err)
	}
	return resp, fmt.Sprint(resp.StatusCode, " ", strings.TrimSpace(string(text)))
}

func TestAnAnswerHasTheHeadersOfAmazon(t *testing.T) {
	e := serve(t)
	resp, text := e.post("Echo_1.Echo", "k", `{"Text": "<é>", "At": 1.7e9}`)
	if text != `200 {"Text":"<é>","At":1700000000.000,"Many":null}` {
		t.Error(text)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/x-amz-json-1.1", "Date": "Wed, 02 Jan 2030 03:04:05 GMT", "X-Amz-Crc32": "595116461",
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s is %q; want %q", name, got, want)
		}
	}
	if id := resp.Header.Get("x-amzn-RequestId"); len(id) != 36 {
		t.Errorf("the request id is %q", id)
	}
	if _, text := e.post("Echo_1.Nothing", "k", "{}"); text != "200 " {
		t.Errorf("nothing is answered %q", text)
	}
}

func TestARequestThatIsNoneIsRefused(t *testing.T) {
	e := serve(t)
	for _, c := range []struct{ target, key, body, want string }{
		{"Echo_1.None", "k", "{}", `400 {"__type":"echo#UnknownOperationException","message":"None is not served"}`},
		{"Echo_2.Echo", "k", "{}", `400 {"__type":"echo#UnknownOperationException"`},
		{"Echo_1.Echo", "", "{}", `400 {"__type":"echo#MissingAuthenticationTokenException"`},
		{"Echo_1.Echo", "k", `{"Text": 5}`, `400 {"__type":"echo#SerializationException"`},
		{"Echo_1.Echo", "k", ``, `400 {"__type":"echo#SerializationException"`},
		{"Echo_1.Fail", "k", `{"Text": "LimitExceededException"}`, `400 {"More":1,"__type":"echo#LimitExceededException","message":"because"}`},
		{"Echo_1.Fail", "k", `{"Text": "InternalServerError"}`, `500 {"More":1,"__type":"echo#InternalServerError","message":"because"}`},
		{"Echo_1.Fail", "k", `{"Text": "ServiceUnavailable"}`, `503 {"More":1,"__type":"echo#ServiceUnavailable","message":"because"}`},
		{"Echo_1.Fail", "k", `{}`, `500 {"__type":"echo#InternalFailure","message":"broken"}`},
	} {
		if _, got := e.post(c.target, c.key, c.body); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s with %q is answered %q; want %q", c.target, c.body, got, c.want)
		}
	}
}

func TestAFaultIsWhatItSays(t *testing.T) {
	const answered = `200 {"Text":"","At":`
	closed := make(chan struct{})
	close(closed)
	for _, c := range []struct {
		name   string
		fault  Fault
		want   string
		effect int64
	}{
		{"none", Fault{}, answered, 1},
		{"error", Fault{Error: "ExpiredIteratorException"}, `400 {"__type":"echo#ExpiredIteratorException","message":"ExpiredIteratorException"}`, 0},
		{"error with a text", Fault{Error: "InternalFailure", Message: "m"}, `500 {"__type":"echo#InternalFailure","message":"m"}`, 0},
		{"error after the effect", Fault{Error: "InternalFailure", Done: true}, `500 `, 1},
		{"cut", Fault{Cut: true}, "cut", 0},
		{"lost answer", Fault{Cut: true, Done: true}, "cut", 1},
		{"late", Fault{Delay: time.Millisecond, Hang: closed}, answered, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := serve(t)
			e.hook.Intercept(func(call) Fault { return c.fault })
			if _, got := e.post("Echo_1.Echo", "k", "{}"); !strings.HasPrefix(got, c.want) || e.done.Load() != c.effect {
				t.Errorf("answered %q after %d effects; want %q after %d", got, e.done.Load(), c.want, c.effect)
			}
		})
	}
}

func TestFailPicksRecords(t *testing.T) {
	e := serve(t)
	e.hook.Intercept(func(call) Fault {
		return Fault{Fail: func(i int) string { return []string{"", "x"}[i%2] }}
	})
	if _, got := e.post("Echo_1.Part", "k", `{"Many": ["a", "b", "c", "d"]}`); got != `200 ["a","c"]` {
		t.Error(got)
	}
}

func TestTheHookSeesWhoCallsWhatAndHowOften(t *testing.T) {
	e := serve(t)
	var seen []call
	e.post("Echo_1.Echo", "worker-a", `{"Text": "x"}`)
	e.hook.Intercept(func(c call) Fault {
		seen = append(seen, c)
		return Fault{}
	})
	e.post("Echo_1.Echo", "worker-b", `{"Text": "x"}`)
	e.post("Echo_1.Echo", "worker-a", `{"Text": "y"}`)
	e.post("Echo_1.Nothing", "worker-a", `{"Text": "x"}`)
	want := []call{{"Echo", "worker-b", 1}, {"Echo", "worker-a", 0}, {"Nothing", "worker-a", 0}}
	if n := e.hook.Seen("Echo"); n != 3 || !slices.Equal(seen, want) {
		t.Errorf("seen %v and %d calls; want %v and 3", seen, n, want)
	}
}

func TestCloseEndsCallsThatHang(t *testing.T) {
	e := serve(t)
	arrived := make(chan struct{})
	e.hook.Intercept(func(call) Fault {
		close(arrived)
		return Fault{Hang: make(chan struct{})}
	})
	answer := make(chan string, 1)
	go func() {
		_, text := e.post("Echo_1.Echo", "k", "{}")
		answer <- text
	}()
	<-arrived
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if got := <-answer; got != "cut" || e.done.Load() != 0 {
		t.Errorf("answered %q after %d effects", got, e.done.Load())
	}
}

func TestTimesKeepTheirMilliseconds(t *testing.T) {
	for _, ms := range []int64{0, 1, 1001, 1_700_000_000_001, 1_700_000_000_999, 4_102_444_800_123} {
		b, err := json.Marshal(Time{time.UnixMilli(ms)})
		var back Time
		if err != nil || json.Unmarshal(b, &back) != nil || back.UnixMilli() != ms {
			t.Errorf("%d ms is written %s and read as %d, %v", ms, b, back.UnixMilli(), err)
		}
	}
	if err := json.Unmarshal([]byte(`"yesterday"`), new(Time)); err == nil {
		t.Error("a text is read as a time")
	}
}
