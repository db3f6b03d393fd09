package dynamodb

import (
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"
	"go.uber.org/goleak"
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
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
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

type M = map[string]types.AttributeValue

func S(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }
func N(n any) types.AttributeValue    { return &types.AttributeValueMemberN{Value: fmt.Sprint(n)} }

func TestMainPath(t *testing.T) {
	_, c := start(t, Options{Page: 3})
	table := aws.String("leases")
	if _, err := c.CreateTable(t.Context(), &dynamodb.CreateTableInput{
		TableName: table, BillingMode: types.BillingModePayPerRequest,
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String("id"), AttributeType: types.ScalarAttributeTypeS}},
		KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String("id"), KeyType: types.KeyTypeHash}},
	}); err != nil {
		t.Fatal(err)
	}
	d, err := c.DescribeTable(t.Context(), &dynamodb.DescribeTableInput{TableName: table})
	if err != nil || d.Table.TableStatus != types.TableStatusActive {
		t.Fatal(d, err)
	}
	for i := range 10 {
		if _, err := c.PutItem(t.Context(), &dynamodb.PutItemInput{
			TableName: table, Item: M{"id": S(fmt.Sprint("s", i)), "counter": N(1), "owner": S("a")},
			ConditionExpression: aws.String("attribute_not_exists(id)"),
		}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = c.PutItem(t.Context(), &dynamodb.PutItemInput{
		TableName: table, Item: M{"id": S("s1")},
		ConditionExpression:                 aws.String("attribute_not_exists(id)"),
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	})
	var failed *types.ConditionalCheckFailedException
	if !errors.As(err, &failed) || len(failed.Item) != 3 {
		t.Error(err)
	}
	u, err := c.UpdateItem(t.Context(), &dynamodb.UpdateItemInput{
		TableName: table, Key: M{"id": S("s1")}, UpdateExpression: aws.String("SET #c = #c + :one, #o = :b REMOVE x"),
		ConditionExpression:       aws.String("#o = :a AND (#c < :ten OR size(#o) > :ten)"),
		ExpressionAttributeNames:  map[string]string{"#c": "counter", "#o": "owner"},
		ExpressionAttributeValues: M{":one": N(1), ":a": S("a"), ":b": S("b"), ":ten": N("1e1")},
		ReturnValues:              types.ReturnValueAllNew,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(u.Attributes["counter"].(*types.AttributeValueMemberN).Value)
	n, pages := 0, 0
	for p := dynamodb.NewScanPaginator(c, &dynamodb.ScanInput{TableName: table}); p.HasMorePages(); {
		out, err := p.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n += len(out.Items)
		pages++
	}
	t.Log(n, pages)
	_, err = c.GetItem(t.Context(), &dynamodb.GetItemInput{TableName: aws.String("none"), Key: M{"a": S("b")}})
	t.Log(err)
}
