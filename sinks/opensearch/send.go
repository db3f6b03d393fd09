package opensearch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/klauspost/compress/gzip"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/stream"
)

// bulkPath asks for no more of the answer than what decides.
const bulkPath = "/_bulk?filter_path=errors,items.*.status,items.*.error,items.*._index"

// Send does one bulk request.
func (s *Sink) Send(ctx context.Context, items []*bulk.Item) error {
	buffer := buffers.Get().(*bytes.Buffer)
	buffer.Reset()
	for _, it := range items {
		buffer.Write(it.Body)
	}
	status, text, free, err := s.roundTrip(ctx, http.MethodPost, bulkPath, buffer.Bytes(), "application/x-ndjson")
	if free {
		buffers.Put(buffer)
	}
	if err != nil {
		return err
	}
	if status == http.StatusOK {
		return judge(items, text)
	}
	return s.whole(status, text)
}

// whole is what an answer means that is about the whole request.
func (s *Sink) whole(status int, text []byte) error {
	err := newAnswerError(status, text)
	switch status {
	case http.StatusRequestEntityTooLarge:
		return fmt.Errorf("%w: %w", bulk.ErrTooLarge, err)
	case http.StatusUnauthorized:
		return stream.Fatal(fmt.Errorf("%w; check user and password, or sigv4 and the credentials in use", err))
	case http.StatusForbidden:
		return stream.Fatal(fmt.Errorf("%w; allow indices:data/write/* and indices:admin/create on %s", err, s.pattern()))
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusMovedPermanently, http.StatusFound:
		return stream.Fatal(fmt.Errorf("%w; this is no OpenSearch that takes bulk requests: check the url", err))
	}
	return err
}

// itemAnswer is one item of a bulk answer.
type itemAnswer struct {
	Index  string          `json:"_index"`
	Status int             `json:"status"`
	Error  json.RawMessage `json:"error"`
}

// judge sets what came of each item.
func judge(items []*bulk.Item, text []byte) error {
	if bytes.HasPrefix(text, []byte(`{"errors":false`)) {
		return nil // nearly always
	}
	var answer struct {
		Errors *bool                   `json:"errors"`
		Items  []map[string]itemAnswer `json:"items"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return fmt.Errorf("the answer to a bulk request cannot be read: %w", err)
	}
	if answer.Errors != nil && !*answer.Errors {
		return nil
	}
	if len(answer.Items) != len(items) {
		return fmt.Errorf("the answer to a bulk request is about %d writes of %d", len(answer.Items), len(items))
	}
	for i, one := range answer.Items {
		for action, a := range one {
			items[i].Err = outcome(action, a)
		}
	}
	return nil
}

// outcome is what an item's answer means: nil, Refused, or sent again.
func outcome(action string, a itemAnswer) error {
	if a.Status < 300 {
		return nil
	}
	reason := reasonOf(a.Error)
	err := fmt.Errorf("%d %s", a.Status, reason)
	switch {
	case a.Status == http.StatusConflict && action == "update":
		return err // two updates of one document at once; the next attempt finds the other one's
	case a.Status == http.StatusConflict: // it is there already, or a later one is
		return nil
	case strings.Contains(reason, "cluster_block_exception"):
		return fmt.Errorf("%w; %s takes no writes: free disk space, or lift the block", err, a.Index) // and until then nothing is lost
	case a.Status == http.StatusForbidden, a.Status == http.StatusUnauthorized:
		return stream.Fatal(fmt.Errorf("%w; allow indices:data/write/* on %s", err, a.Index))
	case strings.HasPrefix(reason, "index_not_found"), strings.HasPrefix(reason, "invalid_index_name"), strings.Contains(reason, "no write index"):
		return stream.Fatal(fmt.Errorf("%w; correct index, or allow the server to create it", err))
	case strings.HasPrefix(reason, "validation_exception"): // the cluster's limit of shards
		return fmt.Errorf("%w; remove old indices, or raise cluster.max_shards_per_node", err)
	case a.Status == http.StatusTooManyRequests, a.Status >= 500:
		return err
	}
	return bulk.Refused(err)
}

// reasonText bounds how much of a server's words is kept: a reason may quote the document.
const reasonText = 400

// reasonOf is an error of OpenSearch in one line, with its causes.
func reasonOf(text json.RawMessage) string {
	var e struct {
		Type   string          `json:"type"`
		Reason string          `json:"reason"`
		Cause  json.RawMessage `json:"caused_by"`
	}
	if json.Unmarshal(text, &e) != nil || e.Type == "" {
		return short(string(text))
	}
	out := e.Type + ": " + e.Reason
	if len(e.Cause) > 0 {
		out += ": " + reasonOf(e.Cause)
	}
	return short(out)
}

func short(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > reasonText {
		s = strings.ToValidUTF8(s[:reasonText], "") + "..."
	}
	return s
}

// answerError is an answer that is about a whole request.
type answerError struct {
	status int
	reason string
}

func newAnswerError(status int, text []byte) *answerError {
	var body struct {
		Error json.RawMessage `json:"error"`
	}
	if json.Unmarshal(text, &body) == nil && len(body.Error) > 0 {
		return &answerError{status, reasonOf(body.Error)}
	}
	return &answerError{status, short(string(text))}
}

func (e *answerError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("%d %s %s", e.status, http.StatusText(e.status), e.reason))
}

// HTTPStatusCode is the answer's.
func (e *answerError) HTTPStatusCode() int { return e.status }

// statusOf is the status of an answerError, else 0.
func statusOf(err error) int {
	var a *answerError
	if errors.As(err, &a) {
		return a.status
	}
	return 0
}

// Requests reuse their memory. Both pools are of no more than one element for each request at once.
var (
	buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}
	zippers = sync.Pool{New: func() any { z, _ := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed); return z }}
)

// deadFor is how long a node that does not answer is left alone while there are others.
const deadFor = 10 * time.Second

// node chooses one that is not known to be dead.
func (s *Sink) node() *node {
	n := s.next.Add(1)
	now := time.Now().UnixNano()
	for i := range s.nodes {
		if c := &s.nodes[(n+uint64(i))%uint64(len(s.nodes))]; c.dead.Load() < now {
			return c
		}
	}
	return &s.nodes[n%uint64(len(s.nodes))]
}

// lent is a request's body while the client may read it: also after the answer, if that came before all was sent.
type lent struct {
	bytes []byte
	open  atomic.Int32 // readers that are not closed
}

func (l *lent) reader() (io.ReadCloser, error) {
	l.open.Add(1)
	return &loan{Reader: bytes.NewReader(l.bytes), of: l}, nil
}

// loan is one reader of it.
type loan struct {
	*bytes.Reader
	of   *lent
	once sync.Once
}

func (l *loan) Close() error {
	l.once.Do(func() { l.of.open.Add(-1) })
	return nil
}

// roundTrip sends a request and reads its answer, whatever its status. After a connection error nothing is known. free: nobody
// reads the body any more.
func (s *Sink) roundTrip(ctx context.Context, method, path string, body []byte, kind string) (status int, text []byte, free bool, err error) {
	var zipped *bytes.Buffer
	sent := &lent{bytes: body}
	defer func() {
		free = sent.open.Load() == 0
		if free && zipped != nil {
			buffers.Put(zipped)
		}
	}()
	if s.gzip && len(body) > 1<<10 {
		zipped = buffers.Get().(*bytes.Buffer)
		zipped.Reset()
		z := zippers.Get().(*gzip.Writer)
		z.Reset(zipped)
		_, _ = z.Write(body) // to memory
		_ = z.Close()
		zippers.Put(z)
		body = zipped.Bytes()
		sent.bytes = body
	}
	n := s.node()
	r, err := http.NewRequestWithContext(ctx, method, n.url+path, http.NoBody)
	if err != nil {
		return 0, nil, false, stream.Fatal(err)
	}
	if len(body) > 0 {
		r.Header.Set("Content-Type", kind)
		r.ContentLength, r.GetBody = int64(len(body)), sent.reader
		r.Body, _ = sent.reader()
	}
	if zipped != nil {
		r.Header.Set("Content-Encoding", "gzip")
	}
	if err := s.authorize(ctx, r, body); err != nil {
		return 0, nil, false, err
	}
	answer, err := s.http.Do(r)
	if err != nil {
		if ctx.Err() == nil {
			n.dead.Store(time.Now().Add(deadFor).UnixNano())
		}
		return 0, nil, false, err
	}
	defer answer.Body.Close()
	text, err = io.ReadAll(answer.Body)
	return answer.StatusCode, text, false, err
}

// authorize says who asks.
func (s *Sink) authorize(ctx context.Context, r *http.Request, body []byte) error {
	if s.cfg.User != "" {
		r.SetBasicAuth(s.cfg.User, s.cfg.Password)
	}
	if s.cfg.SigV4 == nil {
		return nil
	}
	cfg, err := s.aws()
	if err != nil {
		return fmt.Errorf("AWS configuration: %w", err)
	}
	region := s.cfg.SigV4.Region
	if region == "" {
		region = cfg.Region
	}
	if region == "" {
		return stream.Fatal(errors.New("sigv4 has no region: set sigv4.region or AWS_REGION"))
	}
	credentials, err := cfg.Credentials.Retrieve(ctx)
	if err != nil {
		return fmt.Errorf("AWS credentials: %w", err)
	}
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	r.Header.Set("X-Amz-Content-Sha256", hash) // aoss wants it, es does not mind
	return v4.NewSigner().SignHTTP(ctx, credentials, r, hash, s.cfg.SigV4.Service, region, time.Now())
}

func loadAWS() (aws.Config, error) { return config.LoadDefaultConfig(context.Background()) }
