package dynamodb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"

	"github.com/millrace-io/millrace/sinks/bulk"
	"github.com/millrace-io/millrace/sinks/document"
	"github.com/millrace-io/millrace/stream"
)

// connection is what the SDK's environment says.
type connection struct {
	client      *dynamodb.Client
	endpoint    endpoint
	transport   transport
	region      string
	credentials aws.CredentialsProvider
}

// load reads the environment and ~/.aws.
func (s *Sink) load() (*connection, error) {
	ctx := context.Background() // no call goes out
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, stream.Fatal(fmt.Errorf("the AWS configuration in the environment or in ~/.aws: %w", err))
	}
	if cfg.Region == "" {
		return nil, stream.Fatal(fmt.Errorf("%s: no region; set AWS_REGION to the table's", s))
	}
	c := &connection{client: dynamodb.NewFromConfig(cfg), region: cfg.Region, credentials: cfg.Credentials}
	where := aws.ToString(c.client.Options().BaseEndpoint)
	if where == "" {
		e, err := dynamodb.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, dynamodb.EndpointParameters{Region: &cfg.Region})
		if err != nil {
			return nil, stream.Fatal(fmt.Errorf("%s: no endpoint for region %s: %w", s, cfg.Region, err))
		}
		where = e.URI.String()
	}
	if c.endpoint, err = parseEndpoint(where); err != nil {
		return nil, stream.Fatal(fmt.Errorf("%s: the endpoint: %w", s, err))
	}
	settings := http.DefaultTransport.(*http.Transport).Clone()
	if b, ok := cfg.HTTPClient.(*awshttp.BuildableClient); ok { // it knows AWS_CA_BUNDLE
		settings = b.GetTransport()
	}
	c.transport = newTransport(c.endpoint, settings, s.cfg.Requests)
	return c, nil
}

// batchItems is the most items of one BatchWriteItem.
const batchItems = 25

// Send writes items: each by a conditional PutItem, many at once, or in batches.
func (s *Sink) Send(ctx context.Context, items []*bulk.Item) error {
	call, err := s.caller(ctx)
	if err != nil {
		return err
	}
	left := &queue{items: items, size: 1}
	if s.layout.identity {
		left.size = batchItems
	}
	var running sync.WaitGroup
	defer running.Wait()
	for some := left.next(); len(some) > 0; some = left.next() {
		if err := s.pace.enter(ctx); err != nil {
			for ; len(some) > 0; some = left.next() {
				for _, it := range some {
					it.Err = err
				}
			}
			return nil
		}
		running.Go(func() { call.work(ctx, some, left) })
	}
	return nil
}

// work writes items, and what is left, in the place that was entered for them and as long as it may.
func (c caller) work(ctx context.Context, items []*bulk.Item, left *queue) {
	defer c.pace.leave()
	c.calls = c.transport.session()
	defer c.calls.end()
	for n := 1; len(items) > 0 && c.pace.judge(c.write(ctx, items), n); n++ {
		items = left.next()
	}
}

// queue is what is left of the items of one Send.
type queue struct {
	size int // of one call

	mu    sync.Mutex
	items []*bulk.Item
}

// next takes the items of the next call, none at the end.
func (q *queue) next() []*bulk.Item {
	q.mu.Lock()
	defer q.mu.Unlock()
	some := q.items[:min(q.size, len(q.items))]
	q.items = q.items[len(some):]
	return some
}

// caller makes calls for some minutes, with one set of credentials.
type caller struct {
	*Sink
	*connection
	calls  calls
	signer *signer
}

func (s *Sink) caller(ctx context.Context) (caller, error) {
	c, err := s.connect()
	if err != nil {
		return caller{}, err
	}
	credentials, err := c.credentials.Retrieve(ctx)
	if err != nil {
		return caller{}, fmt.Errorf("AWS credentials: %w", err)
	}
	if !headerSafe(credentials.AccessKeyID) || !headerSafe(credentials.SessionToken) {
		return caller{}, stream.Fatal(errors.New("AWS credentials: the access key or the session token has a line end or another control character in it"))
	}
	return caller{s, c, c.transport.session(), newSigner(c.endpoint, credentials, c.region, time.Now())}, nil
}

// write writes some items in one call, and says whether it was throttled.
func (c caller) write(ctx context.Context, items []*bulk.Item) (throttled bool) {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	var err error
	if c.layout.identity {
		*buffer = c.appendBatch((*buffer)[:0], items)
		var answer []byte
		if answer, err = c.do(ctx, "BatchWriteItem", *buffer); err == nil {
			return c.unprocessed(answer, items)
		}
	} else {
		*buffer = c.appendPut((*buffer)[:0], items[0])
		_, err = c.do(ctx, "PutItem", *buffer)
	}
	var a *answerError
	if errors.As(err, &a) {
		throttled = a.throttled()
		err = c.meaning(a)
	}
	if len(items) > 1 && bulk.IsRefused(err) { // one of them is wrong, and DynamoDB does not say which
		for _, it := range items {
			throttled = c.write(ctx, []*bulk.Item{it}) || throttled
		}
		return throttled
	}
	for _, it := range items {
		it.Err = err
	}
	return throttled
}

var buffers = sync.Pool{New: func() any { return new([]byte) }}

// conditions by what stream.Ordering.Later means. #v is _position, #p _partition, #t _time.
const (
	byPosition = `"ConditionExpression":"attribute_not_exists(#v) OR #v < :v","ExpressionAttributeNames":{"#v":"_position"},` +
		`"ExpressionAttributeValues":{":v":{"S":"`
	byTime = `"ConditionExpression":"attribute_not_exists(#v) OR (#p = :p AND #v < :v) OR (#p <> :p AND (#t < :t OR (#t = :t AND #p < :p)))",` +
		`"ExpressionAttributeNames":{"#v":"_position","#p":"_partition","#t":"_time"},"ExpressionAttributeValues":{":v":{"S":"`
)

// appendPut appends the call that writes it if it is later than what is there.
func (s *Sink) appendPut(b []byte, it *bulk.Item) []byte {
	place := stream.Place{Partition: it.Partition, Pos: it.Record.Pos, Index: it.Index, Time: it.Record.Time}
	b = document.AppendString(append(b, `{"TableName":`...), s.cfg.Table)
	b = append(append(append(b, `,"Item":`...), it.Body...), ',')
	if s.o.Ordering == stream.ByPosition {
		b = append(b, s.condition(byPosition)...)
		return append(place.AppendVersion(b), `"}}}`...)
	}
	b = append(b, s.condition(byTime)...)
	b = append(place.AppendVersion(b), `"},":p":{"S":`...)
	b = append(document.AppendString(b, it.Partition), `},":t":{"N":"`...)
	return append(strconv.AppendInt(b, place.Micros(), 10), `"}}}`...)
}

// condition is c, or, for Options.Mend, what also lets the event through that made the item.
func (s *Sink) condition(c string) string {
	if s.o.Mend {
		return strings.Replace(c, "#v < :v", "#v <= :v", 1)
	}
	return c
}

func (s *Sink) appendBatch(b []byte, items []*bulk.Item) []byte {
	b = append(document.AppendString(append(b, `{"RequestItems":{`...), s.cfg.Table), `:[`...)
	for i, it := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, `{"PutRequest":{"Item":`...), it.Body...), `}}`...)
	}
	return append(b, `]}}`...)
}

var errUnprocessed = errors.New("the table has no capacity for it now (UnprocessedItems)")

// unprocessed marks the items that a batch did not write: those that have the keys that the answer names.
func (c caller) unprocessed(answer []byte, items []*bulk.Item) (throttled bool) {
	var out struct {
		Unprocessed map[string][]struct {
			Put struct {
				Item map[string]map[string]any
			} `json:"PutRequest"`
		} `json:"UnprocessedItems"`
	}
	if err := json.Unmarshal(answer, &out); err != nil {
		for _, it := range items {
			it.Err = fmt.Errorf("the answer of BatchWriteItem cannot be read: %w", err)
		}
		return false
	}
	left := map[string]bool{}
	for _, one := range out.Unprocessed[c.cfg.Table] {
		key := scalar(one.Put.Item[c.layout.pk.name])
		if c.layout.sk.column != noColumn {
			key += "\x00" + scalar(one.Put.Item[c.layout.sk.name])
		}
		left[key] = true
	}
	for _, it := range items {
		if left[string(it.Key)] {
			it.Err = errUnprocessed
		}
	}
	return len(left) > 0
}

func scalar(v map[string]any) string {
	for _, text := range v {
		return fmt.Sprint(text)
	}
	return ""
}

// do makes one call. An answer that is no success is an *answerError.
func (c caller) do(ctx context.Context, operation string, body []byte) ([]byte, error) {
	status, text, err := c.calls.call(ctx, c.signer, operation, body)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, newAnswerError(operation, status, text)
	}
	return text, nil
}

// answerError is an answer that is no success.
type answerError struct {
	operation string
	status    int
	code      string // ConditionalCheckFailedException
	message   string
}

func newAnswerError(operation string, status int, text []byte) *answerError {
	var body struct {
		Type    string `json:"__type"`
		Message string `json:"message"`
		Upper   string `json:"Message"`
	}
	_ = json.Unmarshal(text, &body) // a proxy's answer is none
	a := &answerError{operation: operation, status: status, message: body.Message + body.Upper}
	if _, code, ok := strings.Cut(body.Type, "#"); ok {
		a.code = code
	} else {
		a.code = body.Type
	}
	if a.code == "" {
		a.code = http.StatusText(status)
	}
	return a
}

func (a *answerError) Error() string {
	return strings.TrimSuffix(fmt.Sprintf("%s: %d %s: %s", a.operation, a.status, a.code, a.message), ": ")
}

// HTTPStatusCode is the answer's. To what it throttles Amazon answers 400; here that is 429, as the request is not to blame.
func (a *answerError) HTTPStatusCode() int {
	if a.throttled() {
		return http.StatusTooManyRequests
	}
	return a.status
}

func (a *answerError) throttled() bool {
	switch a.code {
	case "ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded", "Throttling":
		return true
	}
	return a.status == http.StatusTooManyRequests
}

// meaning is what an answer says about the write: nil, refused, fatal, or to be sent again.
func (s *Sink) meaning(a *answerError) error {
	fatal := func(todo string) error { return stream.Fatal(fmt.Errorf("table %s: %w; %s", s, a, todo)) }
	switch a.code {
	case "ConditionalCheckFailedException": // an equal or later event is there
		return nil
	case "ResourceNotFoundException":
		return fatal("create the table, or correct its name or AWS_REGION; run with --setup creates it")
	case "AccessDeniedException", "AccessDenied":
		return fatal("allow dynamodb:PutItem and dynamodb:BatchWriteItem on it")
	case "UnrecognizedClientException", "InvalidSignatureException", "IncompleteSignatureException", "MissingAuthenticationTokenException",
		"MissingAuthenticationToken", "InvalidClientTokenId", "SignatureDoesNotMatch":
		return fatal("check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile or role in use, and the machine's clock")
	case "ValidationException":
		if strings.Contains(a.message, "key") && !strings.Contains(a.message, "size") && !strings.Contains(a.message, "Size") {
			return fatal("key has to name the table's own key; see millrace lint --probe")
		}
		return bulk.Refused(a)
	case "ItemCollectionSizeLimitExceededException", "SerializationException":
		return bulk.Refused(a)
	}
	if a.status == http.StatusRequestEntityTooLarge {
		return bulk.Refused(a)
	}
	return a // throttled, busy, expired credentials that are renewed
}
