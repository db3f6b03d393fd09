package dynamodb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"

	"github.com/millrace-io/millrace/sources/awserr"
	"github.com/millrace-io/millrace/stream"
)

// explain is an error of the SDK in the words of the short path.
func (s *Sink) explain(operation string, err error) error {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return fmt.Errorf("table %s: %w", s, awserr.Unanswered(err))
	}
	status := 500
	var answer interface{ HTTPStatusCode() int }
	if errors.As(err, &answer) {
		status = answer.HTTPStatusCode()
	}
	return s.meaning(&answerError{operation, status, api.ErrorCode(), api.ErrorMessage()})
}

// Probe says what is in the way of writing: no such table, another key, a time to live that is off.
func (s *Sink) Probe(ctx context.Context) error {
	out, err := s.describe(ctx)
	if err != nil {
		return s.explain("DescribeTable", err)
	}
	if err := s.checkKey(out.Table); err != nil {
		return stream.Fatal(err)
	}
	if s.cfg.TTL == nil {
		return nil
	}
	client, err := s.client()
	if err != nil {
		return err
	}
	ttl, err := client.DescribeTimeToLive(ctx, &dynamodb.DescribeTimeToLiveInput{TableName: &s.cfg.Table})
	switch {
	case awserr.Code(err) == "UnknownOperationException": // dynalite has no time to live
		return nil
	case err != nil:
		return s.explain("DescribeTimeToLive", err)
	}
	d := ttl.TimeToLiveDescription
	if d == nil || d.TimeToLiveStatus != types.TimeToLiveStatusEnabled || aws.ToString(d.AttributeName) != s.cfg.TTL.Attribute {
		return stream.Fatal(fmt.Errorf("table %s: its time to live is not the attribute %s; enable it, or run once with --setup", s, s.cfg.TTL.Attribute))
	}
	return nil
}

// keySchema is the key as the columns make it.
func (s *Sink) keySchema() (schema []types.KeySchemaElement, attributes []types.AttributeDefinition) {
	add := func(a attribute, kind types.KeyType) {
		if a.column == noColumn {
			return
		}
		schema = append(schema, types.KeySchemaElement{AttributeName: aws.String(a.name), KeyType: kind})
		attributes = append(attributes, types.AttributeDefinition{AttributeName: aws.String(a.name), AttributeType: types.ScalarAttributeType(keyType(a.kind))})
	}
	add(s.layout.pk, types.KeyTypeHash)
	add(s.layout.sk, types.KeyTypeRange)
	return schema, attributes
}

// checkKey compares the table's key with the columns.
func (s *Sink) checkKey(t *types.TableDescription) error {
	say := func(schema []types.KeySchemaElement, attributes []types.AttributeDefinition) string {
		text := ""
		for _, k := range schema {
			kind := "?"
			for _, a := range attributes {
				if aws.ToString(a.AttributeName) == aws.ToString(k.AttributeName) {
					kind = string(a.AttributeType)
				}
			}
			text += fmt.Sprintf(" %s %s (%s)", k.KeyType, aws.ToString(k.AttributeName), kind)
		}
		return text
	}
	want, have := say(s.keySchema()), say(t.KeySchema, t.AttributeDefinitions)
	if want != have {
		return fmt.Errorf("table %s has the key%s; the pipeline writes%s", s, have, want)
	}
	return nil
}

// Setup creates the table if it is not there, on demand, and enables its time to live. It is idempotent, and changes no
// table's key.
func (s *Sink) Setup(ctx context.Context) error {
	client, err := s.client()
	if err != nil {
		return err
	}
	if _, err = s.describe(ctx); awserr.Code(err) == "ResourceNotFoundException" {
		schema, attributes := s.keySchema()
		_, err = client.CreateTable(ctx, &dynamodb.CreateTableInput{
			TableName: &s.cfg.Table, KeySchema: schema, AttributeDefinitions: attributes, BillingMode: types.BillingModePayPerRequest,
		})
		if err == nil || awserr.Code(err) == "ResourceInUseException" {
			err = dynamodb.NewTableExistsWaiter(client, func(o *dynamodb.TableExistsWaiterOptions) { o.MinDelay = 100 * time.Millisecond }).
				Wait(ctx, &dynamodb.DescribeTableInput{TableName: &s.cfg.Table}, 5*time.Minute)
		}
	}
	if err != nil {
		return s.explain("CreateTable", err)
	}
	if s.cfg.TTL == nil || s.Probe(ctx) == nil {
		return nil
	}
	_, err = client.UpdateTimeToLive(ctx, &dynamodb.UpdateTimeToLiveInput{
		TableName:               &s.cfg.Table,
		TimeToLiveSpecification: &types.TimeToLiveSpecification{AttributeName: &s.cfg.TTL.Attribute, Enabled: aws.Bool(true)},
	})
	if err != nil && awserr.Code(err) != "UnknownOperationException" {
		return s.explain("UpdateTimeToLive", err)
	}
	return nil
}
