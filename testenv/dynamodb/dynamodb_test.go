// The tests guard these lines; each was broken once, and the test named beside it went red:
//
//	number.go: 39 digits are taken  ->  TestAnUpdateHasItsLimits, TestAnswersAreThoseOfTheFile
//	number.go: a zero too few after the point  ->  TestAnswersAreThoseOfTheFile
//	value.go: sets are compared as texts  ->  TestAnswersAreThoseOfTheFile
//	condition.go: what is missing is not unequal  ->  TestAnswersAreThoseOfTheFile
//	condition.go: values of two types are in order  ->  TestAnswersAreThoseOfTheFile
//	condition.go: OR binds as strongly as AND  ->  TestAnswersAreThoseOfTheFile, TestPagesAreAsSmallAsTheOptionSays
//	expression.go: names and values may be given in vain  ->  TestAnswersAreThoseOfTheFile
//	expression.go: reserved words are names  ->  TestAnswersAreThoseOfTheFile
//	expression.go: one path may lie in another  ->  TestAnswersAreThoseOfTheFile
//	update.go: SET sees what it has set  ->  TestAnswersAreThoseOfTheFile
//	update.go: REMOVE moves the elements that it has yet to remove  ->  TestAnswersAreThoseOfTheFile
//	update.go: DELETE leaves an empty set  ->  TestAnswersAreThoseOfTheFile
//	items.go: a failed condition does not show the item  ->  TestAFailedConditionShowsTheItemThatIsThere, TestATransactionIsAllOrNothing
//	items.go: an update changes the key  ->  TestAnswersAreThoseOfTheFile
//	items.go: an update makes an item of any size  ->  TestAnUpdateHasItsLimits
//	batches.go: a transaction with a failed part is done  ->  TestATransactionIsAllOrNothing
//	batches.go: a transaction has two parts on one item  ->  TestATransactionIsAllOrNothing
//	batches.go: tokens are kept for ever  ->  TestATransactionsTokenIsForgottenInTime
//	pages.go: a page has no limit of bytes  ->  TestAPageEndsAfterAMegabyte
//	pages.go: each segment is all of the table  ->  TestAnswersAreThoseOfTheFile
//	pages.go: a page begins with the last item of the one before  ->  TestAnswersAreThoseOfTheFile
//	table.go: everything has expired  ->  TestItemsAreSweptWhenTheirTimeIsOver
//	dynamodb.go: a table that is CREATING is read  ->  TestATableSettles
package dynamodb

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"
	"go.uber.org/goleak"

	"github.com/millrace-io/millrace/testenv/awsjson"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t testing.TB, o Options) (*Server, *dynamodb.Client) {
	t.Helper()
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, client(t, s.URL(), "local")
}

// client never tries again, so that a test sees each answer.
func client(t testing.TB, url, accessKey string) *dynamodb.Client {
	t.Helper()
	transport := &awsjson.Transport{Transport: http.Transport{MaxIdleConnsPerHost: 64}}
	t.Cleanup(transport.CloseIdleConnections)
	return dynamodb.New(dynamodb.Options{
		BaseEndpoint: &url, Region: "us-east-1", Retryer: aws.NopRetryer{}, HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(accessKey, "secret", ""),
	})
}

// code is the name of an AWS error; "" for nil.
func code(err error) string {
	var api smithy.APIError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &api):
		return api.ErrorCode()
	}
	return err.Error()
}

// refused checks the name of an error.
func refused(t *testing.T, what string, err error, want string) {
	t.Helper()
	if got := code(err); got != want {
		t.Errorf("%s: error %q; want %q", what, got, want)
	}
}

func ok[T any](out T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

type M = map[string]types.AttributeValue

func S(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }
func N(n any) types.AttributeValue    { return &types.AttributeValueMemberN{Value: fmt.Sprint(n)} }

// leases makes the table of most tests, with hash key id.
func leases(t testing.TB, c *dynamodb.Client) {
	t.Helper()
	ok(c.CreateTable(t.Context(), create("leases", types.AttributeDefinition{AttributeName: aws.String("id"), AttributeType: types.ScalarAttributeTypeS})))(t)
}

// create is a request for a table with these keys.
func create(name string, keys ...types.AttributeDefinition) *dynamodb.CreateTableInput {
	in := &dynamodb.CreateTableInput{TableName: &name, BillingMode: types.BillingModePayPerRequest, AttributeDefinitions: keys}
	for i, k := range keys {
		in.KeySchema = append(in.KeySchema, types.KeySchemaElement{AttributeName: k.AttributeName, KeyType: []types.KeyType{types.KeyTypeHash, types.KeyTypeRange}[i]})
	}
	return in
}

var lease = aws.String("leases")

func put(t testing.TB, c *dynamodb.Client, it M) {
	t.Helper()
	ok(c.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: lease, Item: it}))(t)
}

// get is an item as a text.
func get(t testing.TB, c *dynamodb.Client, id string) string {
	t.Helper()
	return showItem(ok(c.GetItem(t.Context(), &dynamodb.GetItemInput{TableName: lease, Key: M{"id": S(id)}}))(t).Item)
}

func TestAFailedConditionShowsTheItemThatIsThere(t *testing.T) {
	_, c := start(t, Options{})
	leases(t, c)
	put(t, c, M{"id": S("a"), "token": N(7)})
	for show, want := range map[types.ReturnValuesOnConditionCheckFailure]string{"": "{}", "NONE": "{}", "ALL_OLD": `{id="a" token=7}`} {
		_, errPut := c.PutItem(t.Context(), &dynamodb.PutItemInput{
			TableName: lease, Item: M{"id": S("a")}, ConditionExpression: aws.String("attribute_not_exists(id)"), ReturnValuesOnConditionCheckFailure: show,
		})
		_, errDelete := c.DeleteItem(t.Context(), &dynamodb.DeleteItemInput{
			TableName: lease, Key: M{"id": S("a")}, ConditionExpression: aws.String("attribute_not_exists(id)"), ReturnValuesOnConditionCheckFailure: show,
		})
		_, errUpdate := c.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{
			TableName: lease, Key: M{"id": S("a")}, ConditionExpression: aws.String("attribute_not_exists(id)"), ReturnValuesOnConditionCheckFailure: show,
		})
		for _, err := range []error{errPut, errDelete, errUpdate} {
			var failed *types.ConditionalCheckFailedException
			if !errors.As(err, &failed) || showItem(failed.Item) != want {
				t.Errorf("%q: error %v with %v; want %s", show, err, failed, want)
			}
		}
	}
	if got := get(t, c, "a"); got != `{id="a" token=7}` {
		t.Errorf("the item is %s", got)
	}
}

func TestAnUpdateHasItsLimits(t *testing.T) {
	_, c := start(t, Options{})
	leases(t, c)
	put(t, c, M{"id": S("a"), "v": S(strings.Repeat("x", 300<<10))})
	_, err := c.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{
		TableName: lease, Key: M{"id": S("a")}, UpdateExpression: aws.String("SET w = :w"), ExpressionAttributeValues: M{":w": S(strings.Repeat("x", 100<<10))},
	})
	refused(t, "beyond 400 KB", err, "ValidationException")
	put(t, c, M{"id": S("n"), "v": N("9" + strings.Repeat("0", 37))})
	add := func(n string) error {
		_, err := c.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{
			TableName: lease, Key: M{"id": S("n")}, UpdateExpression: aws.String("SET v = v + :n"), ExpressionAttributeValues: M{":n": N(n)},
		})
		return err
	}
	refused(t, "38 digits", add("1"), "")
	if got := get(t, c, "n"); got != `{id="n" v=9`+strings.Repeat("0", 36)+`1}` {
		t.Errorf("the sum is %s", got)
	}
	refused(t, "39 digits", add("0.1"), "ValidationException")
}

func TestATransactionIsAllOrNothing(t *testing.T) {
	_, c := start(t, Options{})
	leases(t, c)
	put(t, c, M{"id": S("a"), "n": N(1)})
	put(t, c, M{"id": S("gone")})
	transact := func(token *string, items ...types.TransactWriteItem) error {
		_, err := c.TransactWriteItems(t.Context(), &dynamodb.TransactWriteItemsInput{TransactItems: items, ClientRequestToken: token})
		return err
	}
	putB := types.TransactWriteItem{Put: &types.Put{TableName: lease, Item: M{"id": S("b")}}}
	addA := types.TransactWriteItem{
		Update: &types.Update{TableName: lease, Key: M{"id": S("a")}, UpdateExpression: aws.String("ADD n :one"), ExpressionAttributeValues: M{":one": N(1)}},
	}
	remove := types.TransactWriteItem{Delete: &types.Delete{TableName: lease, Key: M{"id": S("gone")}}}
	check := types.TransactWriteItem{ConditionCheck: &types.ConditionCheck{
		TableName: lease, Key: M{"id": S("c")}, ConditionExpression: aws.String("attribute_exists(id)"),
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	}}
	err := transact(nil, putB, addA, remove, check)
	var cancelled *types.TransactionCanceledException
	if !errors.As(err, &cancelled) || !strings.HasSuffix(cancelled.ErrorMessage(), "[None, None, None, ConditionalCheckFailed]") {
		t.Fatalf("error %v", err)
	}
	if r := cancelled.CancellationReasons; len(r) != 4 || *r[0].Code != "None" || *r[3].Code != "ConditionalCheckFailed" ||
		*r[3].Message != "The conditional request failed" {
		t.Errorf("the reasons are %+v", r)
	}
	if a, b, gone := get(t, c, "a"), get(t, c, "b"), get(t, c, "gone"); a != `{id="a" n=1}` || b != "{}" || gone == "{}" {
		t.Errorf("after a cancelled transaction there are %s, %s, %s", a, b, gone)
	}
	put(t, c, M{"id": S("c"), "x": S("y")})
	refused(t, "all hold", transact(aws.String("token"), putB, addA, remove, check), "")
	refused(t, "the same again", transact(aws.String("token"), putB, addA, remove, check), "")
	refused(t, "another with the token", transact(aws.String("token"), putB), "IdempotentParameterMismatchException")
	if a, b, gone := get(t, c, "a"), get(t, c, "b"), get(t, c, "gone"); a != `{id="a" n=2}` || b != `{id="b"}` || gone != "{}" {
		t.Errorf("after the transaction there are %s, %s, %s", a, b, gone)
	}
	refused(t, "two on one item", transact(nil, putB, types.TransactWriteItem{
		Delete: &types.Delete{TableName: lease, Key: M{"id": S("b")}},
	}), "ValidationException")
	refused(t, "nothing", transact(nil, types.TransactWriteItem{}), "ValidationException")
	refused(t, "101 parts", transact(nil, slices.Repeat([]types.TransactWriteItem{putB}, 101)...), "ValidationException")
	bad := types.TransactWriteItem{
		Update: &types.Update{TableName: lease, Key: M{"id": S("c")}, UpdateExpression: aws.String("ADD x :one"), ExpressionAttributeValues: M{":one": N(1)}},
	}
	if err := transact(nil, bad); !errors.As(err, &cancelled) || *cancelled.CancellationReasons[0].Code != "ValidationError" {
		t.Errorf("an update of a text by a number: %v", err)
	}
	failing := types.TransactWriteItem{Put: &types.Put{
		TableName: lease, Item: M{"id": S("c")}, ConditionExpression: aws.String("attribute_not_exists(id)"),
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	}}
	if err := transact(nil, failing); !errors.As(err, &cancelled) || showItem(cancelled.CancellationReasons[0].Item) != `{id="c" x="y"}` {
		t.Errorf("a failed condition does not show the item: %v", err)
	}
}

func TestATransactionsTokenIsForgottenInTime(t *testing.T) {
	s, c := start(t, Options{})
	leases(t, c)
	add := func() {
		t.Helper()
		ok(c.TransactWriteItems(t.Context(), &dynamodb.TransactWriteItemsInput{ClientRequestToken: aws.String("token"), TransactItems: []types.TransactWriteItem{
			{Update: &types.Update{
				TableName: lease, Key: M{"id": S("a")}, UpdateExpression: aws.String("ADD n :one"), ExpressionAttributeValues: M{":one": N(1)},
			}},
		}}))(t)
	}
	add()
	s.SetClock(tokenLife - time.Minute)
	add()
	s.SetClock(tokenLife + time.Minute)
	add()
	if got := get(t, c, "a"); got != `{id="a" n=2}` {
		t.Errorf("the item is %s", got)
	}
}

func TestItemsAreSweptWhenTheirTimeIsOver(t *testing.T) {
	s, c := start(t, Options{})
	leases(t, c)
	enable := func(on bool) error {
		_, err := c.UpdateTimeToLive(t.Context(), &dynamodb.UpdateTimeToLiveInput{
			TableName: lease, TimeToLiveSpecification: &types.TimeToLiveSpecification{AttributeName: aws.String("until"), Enabled: &on},
		})
		return err
	}
	status := func() types.TimeToLiveStatus {
		return ok(c.DescribeTimeToLive(t.Context(), &dynamodb.DescribeTimeToLiveInput{TableName: lease}))(t).TimeToLiveDescription.TimeToLiveStatus
	}
	put(t, c, M{"id": S("a"), "until": N(time.Now().Add(time.Hour).Unix())})
	put(t, c, M{"id": S("b"), "until": S("never")})
	put(t, c, M{"id": S("c")})
	s.SetClock(2 * time.Hour)
	if n := s.Sweep(); n != 0 || status() != types.TimeToLiveStatusDisabled {
		t.Errorf("%d items are swept without a time to live", n)
	}
	refused(t, "enable", enable(true), "")
	refused(t, "enable again", enable(true), "ValidationException")
	s.SetClock(0)
	if n := s.Sweep(); n != 0 || status() != types.TimeToLiveStatusEnabled {
		t.Errorf("%d items are swept before their time", n)
	}
	s.SetClock(2 * time.Hour)
	if n := s.Sweep(); n != 1 || get(t, c, "a") != "{}" || get(t, c, "b") == "{}" || get(t, c, "c") == "{}" {
		t.Errorf("%d items are swept", n)
	}
	refused(t, "disable", enable(false), "")
	refused(t, "disable again", enable(false), "ValidationException")
}

func TestPagesAreAsSmallAsTheOptionSays(t *testing.T) {
	_, c := start(t, Options{Page: 3})
	ok(c.CreateTable(t.Context(), create("leases",
		types.AttributeDefinition{AttributeName: aws.String("id"), AttributeType: types.ScalarAttributeTypeS},
		types.AttributeDefinition{AttributeName: aws.String("n"), AttributeType: types.ScalarAttributeTypeN})))(t)
	for i := range 20 {
		put(t, c, M{"id": S(fmt.Sprint("p", i%2)), "n": N(i)})
	}
	pages, found := 0, map[string]bool{}
	for p := dynamodb.NewScanPaginator(c, &dynamodb.ScanInput{TableName: lease}); p.HasMorePages(); pages++ {
		for _, it := range ok(p.NextPage(t.Context()))(t).Items {
			found[showItem(it)] = true
		}
	}
	if pages != 7 || len(found) != 20 {
		t.Errorf("a scan of 20 items finds %d on %d pages", len(found), pages)
	}
	pages = 0
	var order []string
	for p := dynamodb.NewQueryPaginator(c, &dynamodb.QueryInput{
		TableName: lease, KeyConditionExpression: aws.String("id = :id AND n > :n"), ScanIndexForward: aws.Bool(false), ExpressionAttributeValues: M{":id": S("p1"), ":n": N(4)},
	}); p.HasMorePages(); pages++ {
		for _, it := range ok(p.NextPage(t.Context()))(t).Items {
			order = append(order, show(it["n"]))
		}
	}
	if got := strings.Join(order, " "); got != "19 17 15 13 11 9 7 5" || pages != 3 {
		t.Errorf("a query backward finds %s on %d pages", got, pages)
	}
}

func TestAPageEndsAfterAMegabyte(t *testing.T) {
	_, c := start(t, Options{})
	leases(t, c)
	for i := range 5 {
		put(t, c, M{"id": S(fmt.Sprint(i)), "v": S(strings.Repeat("x", 300<<10))})
	}
	out := ok(c.Scan(t.Context(), &dynamodb.ScanInput{TableName: lease}))(t)
	if len(out.Items) != 4 || out.LastEvaluatedKey == nil {
		t.Errorf("a page has %d items of 300 KB", len(out.Items))
	}
	got := ok(c.BatchGetItem(t.Context(), &dynamodb.BatchGetItemInput{RequestItems: map[string]types.KeysAndAttributes{"leases": {
		Keys: []M{{"id": S("0")}}, ProjectionExpression: aws.String("#v"), ExpressionAttributeNames: map[string]string{"#v": "id"},
	}}}))(t)
	if showItem(got.Responses["leases"][0]) != `{id="0"}` {
		t.Errorf("a projected item is %v", got.Responses["leases"])
	}
}

func TestABatchMayStayUnprocessed(t *testing.T) {
	s, c := start(t, Options{})
	leases(t, c)
	s.Intercept(func(call Call) Fault {
		if call.Before > 0 {
			return Fault{}
		}
		return Fault{Fail: func(i int) string {
			if i == 1 {
				return "ProvisionedThroughputExceededException"
			}
			return ""
		}}
	})
	written := ok(c.BatchWriteItem(t.Context(), &dynamodb.BatchWriteItemInput{RequestItems: map[string][]types.WriteRequest{"leases": {
		{PutRequest: &types.PutRequest{Item: M{"id": S("a")}}}, {PutRequest: &types.PutRequest{Item: M{"id": S("b"), "bytes": &types.AttributeValueMemberB{Value: []byte{0, 255}}}}},
	}}}))(t)
	if left := written.UnprocessedItems["leases"]; len(left) != 1 || show(left[0].PutRequest.Item["bytes"]) != "00ff" {
		t.Fatalf("unprocessed are %+v", left)
	}
	if get(t, c, "a") == "{}" || get(t, c, "b") != "{}" {
		t.Error("the wrong item is written")
	}
	ok(c.BatchWriteItem(t.Context(), &dynamodb.BatchWriteItemInput{RequestItems: written.UnprocessedItems}))(t)
	request := map[string]types.KeysAndAttributes{"leases": {Keys: []M{{"id": S("a")}, {"id": S("b")}}, ProjectionExpression: aws.String("id"), ConsistentRead: aws.Bool(true)}}
	read := ok(c.BatchGetItem(t.Context(), &dynamodb.BatchGetItemInput{RequestItems: request}))(t)
	left := read.UnprocessedKeys["leases"]
	if len(read.Responses["leases"]) != 1 || len(left.Keys) != 1 || show(left.Keys[0]["id"]) != `"b"` ||
		aws.ToString(left.ProjectionExpression) != "id" || !*left.ConsistentRead {
		t.Fatalf("read %v, unprocessed are %+v", read.Responses, left)
	}
	read = ok(c.BatchGetItem(t.Context(), &dynamodb.BatchGetItemInput{RequestItems: read.UnprocessedKeys}))(t)
	if len(read.UnprocessedKeys) != 0 || showItem(read.Responses["leases"][0]) != `{id="b"}` {
		t.Errorf("the rest is %v", read.Responses)
	}
}

func TestFaultsAreAimedAtAWorkerAndAnItem(t *testing.T) {
	s, a := start(t, Options{})
	b := client(t, s.URL(), "worker-b")
	leases(t, a)
	var last Call
	s.Intercept(func(call Call) Fault {
		last = call
		switch {
		case call.AccessKey == "worker-b" && call.Key == "x" && call.Before == 1:
			return Fault{Cut: true, Done: true}
		case call.Operation == "Scan":
			return Fault{Error: "InternalServerError"}
		}
		return Fault{}
	})
	add := func(c *dynamodb.Client, id string) error {
		_, err := c.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{
			TableName: lease, Key: M{"id": S(id)}, UpdateExpression: aws.String("ADD n :one"), ExpressionAttributeValues: M{":one": N(1)},
		})
		return err
	}
	refused(t, "the first", add(a, "x"), "")
	refused(t, "of another item", add(b, "y"), "")
	if err := add(b, "x"); err == nil {
		t.Error("a lost answer arrives")
	}
	if n := s.Seen("UpdateItem"); n != 3 { // before last is read: a cut connection tells the race detector nothing
		t.Errorf("%d updates are counted", n)
	}
	if want := (Call{"UpdateItem", "leases", "x", "worker-b", 1}); last != want {
		t.Errorf("the call was %+v; want %+v", last, want)
	}
	if got := get(t, a, "x"); got != `{id="x" n=2}` {
		t.Errorf("after a lost answer the item is %s", got)
	}
	_, err := a.Scan(t.Context(), &dynamodb.ScanInput{TableName: lease})
	refused(t, "scan", err, "InternalServerError")
}

func TestATableSettles(t *testing.T) {
	s, c := start(t, Options{Settle: time.Minute})
	leases(t, c)
	status := func() types.TableStatus {
		return ok(c.DescribeTable(t.Context(), &dynamodb.DescribeTableInput{TableName: lease}))(t).Table.TableStatus
	}
	scan := func() error {
		_, err := c.Scan(t.Context(), &dynamodb.ScanInput{TableName: lease})
		return err
	}
	remove := func() error {
		_, err := c.DeleteTable(t.Context(), &dynamodb.DeleteTableInput{TableName: lease})
		return err
	}
	if got := status(); got != types.TableStatusCreating {
		t.Errorf("it is %s", got)
	}
	refused(t, "scan while CREATING", scan(), "ResourceNotFoundException")
	refused(t, "delete while CREATING", remove(), "ResourceInUseException")
	s.SetClock(time.Minute)
	refused(t, "scan", scan(), "")
	refused(t, "delete", remove(), "")
	if got := status(); got != types.TableStatusDeleting {
		t.Errorf("it is %s", got)
	}
	refused(t, "scan while DELETING", scan(), "ResourceNotFoundException")
	s.SetClock(2 * time.Minute)
	refused(t, "delete what is gone", remove(), "ResourceNotFoundException")
	leases(t, c)
}

func TestTablesAreRefusedWhereAmazonDoes(t *testing.T) {
	_, c := start(t, Options{})
	id := types.AttributeDefinition{AttributeName: aws.String("id"), AttributeType: types.ScalarAttributeTypeS}
	other := types.AttributeDefinition{AttributeName: aws.String("other"), AttributeType: types.ScalarAttributeTypeN}
	for what, change := range map[string]func(*dynamodb.CreateTableInput){
		"a short name":          func(in *dynamodb.CreateTableInput) { in.TableName = aws.String("ab") },
		"a name with a space":   func(in *dynamodb.CreateTableInput) { in.TableName = aws.String("a b c") },
		"no throughput":         func(in *dynamodb.CreateTableInput) { in.BillingMode = types.BillingModeProvisioned },
		"a mode that is none":   func(in *dynamodb.CreateTableInput) { in.BillingMode = "FREE" },
		"throughput on demand":  func(in *dynamodb.CreateTableInput) { in.ProvisionedThroughput = units(1) },
		"a definition too many": func(in *dynamodb.CreateTableInput) { in.AttributeDefinitions = append(in.AttributeDefinitions, other) },
		"another's definition":  func(in *dynamodb.CreateTableInput) { in.AttributeDefinitions[0] = other },
		"a key of no type":      func(in *dynamodb.CreateTableInput) { in.AttributeDefinitions[0].AttributeType = "BOOL" },
		"a sort key alone":      func(in *dynamodb.CreateTableInput) { in.KeySchema[0].KeyType = types.KeyTypeRange },
		"throughput of 0":       func(in *dynamodb.CreateTableInput) { in.BillingMode, in.ProvisionedThroughput = "", units(0) },
		"a stream": func(in *dynamodb.CreateTableInput) {
			in.StreamSpecification = &types.StreamSpecification{StreamEnabled: aws.Bool(true)}
		},
		"a global index": func(in *dynamodb.CreateTableInput) {
			in.GlobalSecondaryIndexes = []types.GlobalSecondaryIndex{{IndexName: aws.String("i"), KeySchema: in.KeySchema, Projection: &types.Projection{}}}
		},
	} {
		in := create("leases", id)
		change(in)
		_, err := c.CreateTable(t.Context(), in)
		refused(t, what, err, "ValidationException")
	}
	in := create("leases", id, other)
	in.BillingMode, in.ProvisionedThroughput = types.BillingModeProvisioned, units(5)
	ok(c.CreateTable(t.Context(), in))(t)
	d := ok(c.DescribeTable(t.Context(), &dynamodb.DescribeTableInput{
		TableName: aws.String("arn:aws:dynamodb:us-east-1:000000000000:table/leases"),
	}))(t).Table
	if *d.ProvisionedThroughput.ReadCapacityUnits != 5 || len(d.KeySchema) != 2 || d.CreationDateTime.IsZero() ||
		*d.TableArn != "arn:aws:dynamodb:us-east-1:000000000000:table/leases" {
		t.Errorf("the table is %+v", d)
	}
}

func units(n int64) *types.ProvisionedThroughput {
	return &types.ProvisionedThroughput{ReadCapacityUnits: &n, WriteCapacityUnits: &n}
}

func TestWhatThisServerHasNotIsRefused(t *testing.T) {
	_, c := start(t, Options{})
	leases(t, c)
	_, err := c.PutItem(t.Context(), &dynamodb.PutItemInput{
		TableName: lease, Item: M{"id": S("a")}, Expected: map[string]types.ExpectedAttributeValue{"id": {Exists: aws.Bool(false)}},
	})
	refused(t, "Expected", err, "ValidationException")
	_, err = c.Query(t.Context(), &dynamodb.QueryInput{
		TableName: lease, IndexName: aws.String("i"), KeyConditionExpression: aws.String("id = :a"), ExpressionAttributeValues: M{":a": S("a")},
	})
	refused(t, "an index", err, "ValidationException")
	_, err = c.Scan(t.Context(), &dynamodb.ScanInput{TableName: lease, AttributesToGet: []string{"id"}})
	refused(t, "AttributesToGet", err, "ValidationException")
}

func TestACallSaysWhatItCost(t *testing.T) {
	_, c := start(t, Options{})
	leases(t, c)
	item := M{"id": S("a"), "v": S(strings.Repeat("x", 5000))}
	wrote := ok(c.PutItem(t.Context(), &dynamodb.PutItemInput{
		TableName: lease, Item: item, ReturnConsumedCapacity: types.ReturnConsumedCapacityTotal,
	}))(t)
	read := ok(c.GetItem(t.Context(), &dynamodb.GetItemInput{
		TableName: lease, Key: M{"id": S("a")}, ReturnConsumedCapacity: types.ReturnConsumedCapacityTotal,
	}))(t)
	sure := ok(c.Scan(t.Context(), &dynamodb.ScanInput{
		TableName: lease, ConsistentRead: aws.Bool(true), ReturnConsumedCapacity: types.ReturnConsumedCapacityTotal,
	}))(t)
	if w, r, s := *wrote.ConsumedCapacity.CapacityUnits, *read.ConsumedCapacity.CapacityUnits, *sure.ConsumedCapacity.CapacityUnits; w != 5 || r != 1 || s != 2 {
		t.Errorf("5 KB cost %v to write, %v to read, %v to read for sure", w, r, s)
	}
	d := ok(c.DescribeTable(t.Context(), &dynamodb.DescribeTableInput{TableName: lease}))(t).Table
	if *d.ItemCount != 1 || *d.TableSizeBytes != 5004 {
		t.Errorf("the table has %d items of %d bytes", *d.ItemCount, *d.TableSizeBytes)
	}
}

func TestTheEnvironmentLeadsTheSDKHere(t *testing.T) {
	s, _ := start(t, Options{Region: "eu-west-1"})
	if env := s.Env(); env["AWS_ENDPOINT_URL_DYNAMODB"] != s.URL() || env["AWS_REGION"] != "eu-west-1" ||
		env["AWS_ACCESS_KEY_ID"] == "" || env["AWS_SECRET_ACCESS_KEY"] == "" {
		t.Errorf("the environment is %v", env)
	}
}

// Numbers come back as they went, sums and differences are exact, and order is that of the numbers.
func FuzzNumbersAreExact(f *testing.F) {
	for _, s := range []string{"0", "-1.50", "1e-130", "99999999999999999999999999999999999999", "123.456e10"} {
		f.Add(s, "0.1")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		x, errX := parseNumber(a)
		y, errY := parseNumber(b)
		if errX != nil || errY != nil {
			return
		}
		again, err := parseNumber(x.String())
		if err != nil || again.compare(x) != 0 {
			t.Fatalf("%s is written %s and read as %s, %v", a, x, again, err)
		}
		if sum, err := x.plus(y); err == nil {
			if back, err := sum.minus(y); err != nil || back.compare(x) != 0 {
				t.Errorf("%s + %s - %s is %s, %v", x, y, y, back, err)
			}
			if got, want := sum.compare(x), y.m.Sign(); got != want {
				t.Errorf("%s + %s is %s, which is %d of the first", x, y, sum, got)
			}
		}
	})
}

// Workers that take the same lease by a condition, for the race detector: each step is taken once.
func TestOneOfManyTakesALease(t *testing.T) {
	_, c := start(t, Options{})
	leases(t, c)
	put(t, c, M{"id": S("a"), "token": N(0)})
	const workers, steps = 4, 25
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := map[int]int{}
	for range workers {
		wg.Go(func() {
			for step := range steps {
				_, err := c.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{
					TableName: lease, Key: M{"id": S("a")}, UpdateExpression: aws.String("SET #t = #t + :one"), ConditionExpression: aws.String("#t = :seen"),
					ExpressionAttributeNames: map[string]string{"#t": "token"}, ExpressionAttributeValues: M{":one": N(1), ":seen": N(step)},
				})
				mu.Lock()
				if err == nil {
					won[step]++
				} else if code(err) != "ConditionalCheckFailedException" {
					t.Error(err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for step, n := range won {
		if n != 1 {
			t.Errorf("step %d was taken %d times", step, n)
		}
	}
	if len(won) != steps {
		t.Errorf("%d of %d steps were taken", len(won), steps)
	}
}
