package kinesislog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/sources/collect"
	"github.com/millrace-io/millrace/stream"
)

// Mutations of kinesislog.go seen red (line broken -> test):
//   - a call takes 10 MiB                            -> TestCallsHoldWhatKinesisTakes
//   - stored records are sent again too              -> TestOnlyFailedRecordsAreSentAgain
//   - throttling counts as a refusal                 -> TestWholeCallsAreSentAgainUnlessTheyAreRefused
//   - nothing counts as a refusal                    -> TestWholeCallsAreSentAgainUnlessTheyAreRefused
//   - the SDK repeats calls by itself                -> TestWholeCallsAreSentAgainUnlessTheyAreRefused
//   - given-up events wait on                        -> TestGivenUpEventsDoNotWait
//   - records of 2 MiB are sent                      -> TestRecordsThatKinesisNeverTakesAreRefused
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// record is one that the service was sent.
type record struct {
	Data         []byte
	PartitionKey string
}

// service speaks as much of Kinesis' protocol as the log does. The SDK is the real one.
type service struct {
	t *testing.T

	mu     sync.Mutex
	calls  [][]record
	stored []record
	active int
	most   int // calls at once
	state  string

	fail func(call int, r record) string          // an error code for one record; empty: stored
	deny func(call int) (status int, code string) // an error for a whole call; 0: none
	hold func(ctx context.Context, call int)      // before a call is looked at
}

func start(t *testing.T, s *service, cfg Config) *Log {
	t.Helper()
	s.t = t
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL_KINESIS": server.URL, "AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
	} {
		t.Setenv(name, value)
	}
	cfg.Stream = "clicks"
	l, err := Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l.timeout = time.Minute // a busy machine is slow with 5 MiB of JSON
	t.Cleanup(l.Close)
	return l
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	_, call, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	switch call {
	case "PutRecords":
		s.put(w, r)
	case "DescribeStreamSummary":
		if s.state == "" {
			refuse(w, 400, "ResourceNotFoundException")
			return
		}
		fmt.Fprintf(w, `{"StreamDescriptionSummary":{"StreamName":"clicks","StreamStatus":%q}}`, s.state)
	default:
		s.t.Errorf("a call of %s", call)
	}
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"__type":%q,"message":"told so"}`, code)
}

func (s *service) put(w http.ResponseWriter, r *http.Request) {
	var in struct {
		StreamName string
		Records    []record
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.StreamName != "clicks" {
		s.t.Errorf("PutRecords: %v, stream %q", err, in.StreamName)
	}
	s.mu.Lock()
	s.calls = append(s.calls, in.Records)
	call := len(s.calls)
	s.active++
	s.most = max(s.most, s.active)
	s.mu.Unlock()
	if s.hold != nil {
		s.hold(r.Context(), call)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
	if s.deny != nil {
		if status, code := s.deny(call); status != 0 {
			refuse(w, status, code)
			return
		}
	}
	var out struct {
		FailedRecordCount int
		Records           []map[string]string
	}
	for _, rec := range in.Records {
		code := ""
		if s.fail != nil {
			code = s.fail(call, rec)
		}
		if code != "" {
			out.FailedRecordCount++
			out.Records = append(out.Records, map[string]string{"ErrorCode": code, "ErrorMessage": "told so"})
			continue
		}
		s.stored = append(s.stored, rec)
		out.Records = append(out.Records, map[string]string{"SequenceNumber": fmt.Sprint(len(s.stored)), "ShardId": "shardId-000000000000"})
	}
	_ = json.NewEncoder(w).Encode(out)
}

// events of some size, numbered.
func events(n, size int) []collect.Event {
	es := make([]collect.Event, n)
	for i := range es {
		es[i] = collect.Event{Key: fmt.Sprintf("u%d", i%7), Value: append(bytes.Repeat([]byte{'x'}, size-4), fmt.Sprintf("%04d", i)...)}
	}
	return es
}

// times is how often each value is stored.
func (s *service) times() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	times := map[string]int{}
	for _, r := range s.stored {
		times[string(r.Data)]++
	}
	return times
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// await returns when a condition holds.
func await(t *testing.T, condition func() bool) {
	t.Helper()
	for ctx := deadline(t); !condition(); {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			t.Fatal("waited in vain")
		}
	}
}

func TestCallsHoldWhatKinesisTakes(t *testing.T) {
	for _, c := range []struct{ events, size, calls int }{{1, 10, 1}, {500, 10, 1}, {501, 10, 2}, {12, 1 << 19, 2}, {6, 1<<20 - 2, 2}, {5, 1<<20 - 2, 1}} {
		s := &service{}
		l := start(t, s, Config{})
		if err := l.Append(deadline(t), events(c.events, c.size)); err != nil {
			t.Fatal(err)
		}
		if len(s.calls) != c.calls || len(s.stored) != c.events {
			t.Errorf("%+v: %d calls, %d stored", c, len(s.calls), len(s.stored))
		}
		for _, call := range s.calls {
			size := 0
			for _, r := range call {
				size += len(r.Data) + len(r.PartitionKey)
			}
			if len(call) > 500 || size > 5<<20 {
				t.Errorf("a call of %d records and %d bytes", len(call), size)
			}
		}
	}
}

func TestOnlyFailedRecordsAreSentAgain(t *testing.T) {
	s := &service{}
	s.fail = func(call int, r record) string {
		if call <= 3 && r.PartitionKey == "u3" {
			return "ProvisionedThroughputExceededException"
		}
		return ""
	}
	if err := start(t, s, Config{}).Append(deadline(t), events(70, 10)); err != nil {
		t.Fatal(err)
	}
	if len(s.calls) != 4 || len(s.calls[1]) != 10 || len(s.calls[3]) != 10 {
		t.Errorf("calls %d; want one of 70 records and three of 10", len(s.calls))
	}
	for value, n := range s.times() {
		if n != 1 {
			t.Errorf("%s is stored %d times", value, n)
		}
	}
	if len(s.stored) != 70 {
		t.Errorf("%d stored; want 70", len(s.stored))
	}
}

func TestWholeCallsAreSentAgainUnlessTheyAreRefused(t *testing.T) {
	s := &service{}
	s.deny = func(call int) (int, string) {
		return []int{500, 400, 400, 0}[min(call, 4)-1], []string{"InternalFailure", "ThrottlingException", "ProvisionedThroughputExceededException", ""}[min(call, 4)-1]
	}
	var told bytes.Buffer
	l := start(t, s, Config{})
	l.log = slog.New(slog.NewTextHandler(&told, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if err := l.Append(deadline(t), events(3, 10)); err != nil || len(s.calls) != 4 {
		t.Errorf("%v after %d calls; want success with the fourth", err, len(s.calls))
	}
	if n := strings.Count(told.String(), "are sent again"); n != 3 { // else the SDK repeats calls by itself
		t.Errorf("%d of the calls were repeated by the log; want 3\n%s", n, told.String())
	}
	s = &service{deny: func(int) (int, string) { return 400, "AccessDeniedException" }}
	err := start(t, s, Config{}).Append(deadline(t), events(3, 10))
	var outcomes collect.Outcomes
	if !errors.As(err, &outcomes) || len(s.calls) != 1 || !strings.Contains(err.Error(), "AccessDenied") {
		t.Errorf("%v after %d calls; want an end with the first", err, len(s.calls))
	}
}

func TestDeadlineTellsWhichRecordsAreStored(t *testing.T) {
	s := &service{fail: func(_ int, r record) string {
		if r.PartitionKey == "u1" {
			return "InternalFailure"
		}
		return ""
	}}
	l := start(t, s, Config{})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := l.Append(ctx, events(3, 10))
	var outcomes collect.Outcomes
	if !errors.As(err, &outcomes) || outcomes[0] != nil || outcomes[1] == nil || outcomes[2] != nil {
		t.Errorf("%v; want the second event not taken", err)
	}
}

func TestRequestsShareCallsWhileOthersAreUnderWay(t *testing.T) {
	release := make(chan struct{})
	s := &service{}
	s.hold = func(ctx context.Context, call int) {
		if call <= 2 {
			select {
			case <-release:
			case <-ctx.Done():
			}
		}
	}
	l := start(t, s, Config{Calls: 2})
	var requests sync.WaitGroup
	for range 2 {
		requests.Go(func() {
			if err := l.Append(deadline(t), events(1, 10)); err != nil {
				t.Error(err)
			}
		})
	}
	await(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.calls) == 2
	})
	for range 20 {
		requests.Go(func() {
			if err := l.Append(deadline(t), events(20, 10)); err != nil {
				t.Error(err)
			}
		})
	}
	await(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.waiting) == 400
	})
	close(release)
	requests.Wait()
	if len(s.calls) != 3 || len(s.calls[2]) != 400 || s.most != 2 {
		t.Errorf("%d calls, %d at once; want the 400 waiting events in the third", len(s.calls), s.most)
	}
}

func TestGivenUpEventsDoNotWait(t *testing.T) {
	s := &service{hold: func(ctx context.Context, _ int) { <-ctx.Done() }}
	l := start(t, s, Config{Calls: 1})
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := l.Append(ctx, events(10, 10)); err == nil {
			t.Error("success of a call that hangs")
		}
		cancel()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) != 0 {
		t.Errorf("%d events wait for nobody", len(l.waiting))
	}
}

func TestRecordsThatKinesisNeverTakesAreRefused(t *testing.T) {
	s := &service{}
	err := start(t, s, Config{}).Append(deadline(t), []collect.Event{{Key: "u", Value: make([]byte, 1<<20)}, {Key: "u", Value: make([]byte, 1<<20-1)}})
	var outcomes collect.Outcomes
	if !errors.As(err, &outcomes) || !errors.Is(outcomes[0], collect.ErrTooLarge) || outcomes[1] != nil || len(s.stored) != 1 {
		t.Errorf("%v, %d stored; want the first refused and the second stored", err, len(s.stored))
	}
}

func TestEveryKeyIsOneThatKinesisTakes(t *testing.T) {
	long := strings.Repeat("k", 300)
	for key, want := range map[string]int{"u1": 2, "": 26, long: 64} {
		if got := partitionKey(key); len(got) != want {
			t.Errorf("key of %d bytes became %q", len(key), got)
		}
	}
	one, other := partitionKey(""), partitionKey("")
	if one == other {
		t.Error("events without a key have one; want any shard")
	}
	if again := partitionKey(strings.Clone(long)); again != partitionKey(long) || partitionKey("\xff") != "\uFFFD" {
		t.Error("want the same for the same key, and UTF-8 for all")
	}
}

func TestProbeTellsWhatWaitingMends(t *testing.T) {
	s := &service{}
	l := start(t, s, Config{})
	var fatal *stream.FatalError
	if err := l.Probe(deadline(t)); !errors.As(err, &fatal) {
		t.Errorf("no such stream: %v; want a fatal error", err)
	}
	s.state = "CREATING"
	if err := l.Probe(deadline(t)); err == nil || errors.As(err, &fatal) {
		t.Errorf("a stream that is made: %v; want an error that passes", err)
	}
	s.state = "ACTIVE"
	if err := l.Probe(deadline(t)); err != nil {
		t.Error(err)
	}
}
