package kinesis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/millrace-io/millrace/sources/awserr"
	"github.com/millrace-io/millrace/sources/lease"
	"github.com/millrace-io/millrace/stream"
)

// The attributes of an item. partition is the table's key.
const (
	partitionAttr = "partition"
	revisionAttr  = "revision"
)

// streamItem is the key of the item that says which stream the table belongs to. No shard is called so.
const streamItem = "@stream"

// tablePoll is between two looks at a table that is being created.
const tablePoll = 500 * time.Millisecond

// table is a DynamoDB table as a lease.Table: an item for each shard. Every write has the condition that the item's revision is the
// one that the writer knows, so nobody writes over what he has not seen.
type table struct {
	client *dynamodb.Client
	name   string
}

var _ lease.Table = (*table)(nil)

// String names the table in errors.
func (t *table) String() string { return "table " + t.name }

// open makes sure that the table is there, and ours. It is created if it does not exist.
func (t *table) open(ctx context.Context) error {
	for {
		out, err := t.client.DescribeTable(ctx, &dynamodb.DescribeTableInput{TableName: &t.name})
		switch {
		case awserr.Code(err) == "ResourceNotFoundException":
			if err := t.create(ctx); err != nil {
				return err
			}
		case err != nil:
			return explain("look up", t.String(), err)
		case out.Table.TableStatus == types.TableStatusActive, out.Table.TableStatus == types.TableStatusUpdating:
			return t.checkKey(out.Table)
		case out.Table.TableStatus != types.TableStatusCreating:
			return stream.Fatal(fmt.Errorf("%s is %s; want it active", t, out.Table.TableStatus))
		}
		select {
		case <-time.After(tablePoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (t *table) create(ctx context.Context) error {
	_, err := t.client.CreateTable(ctx, &dynamodb.CreateTableInput{
		TableName:            &t.name,
		AttributeDefinitions: []types.AttributeDefinition{{AttributeName: aws.String(partitionAttr), AttributeType: types.ScalarAttributeTypeS}},
		KeySchema:            []types.KeySchemaElement{{AttributeName: aws.String(partitionAttr), KeyType: types.KeyTypeHash}},
		BillingMode:          types.BillingModePayPerRequest,
	})
	if code := awserr.Code(err); code == "ResourceInUseException" { // another worker was quicker
		return nil
	}
	if err != nil {
		return explain("create", t.String(), err)
	}
	return nil
}

func (t *table) checkKey(d *types.TableDescription) error {
	if len(d.KeySchema) == 1 && aws.ToString(d.KeySchema[0].AttributeName) == partitionAttr {
		for _, a := range d.AttributeDefinitions {
			if aws.ToString(a.AttributeName) == partitionAttr && a.AttributeType == types.ScalarAttributeTypeS {
				return nil
			}
		}
	}
	return stream.Fatal(fmt.Errorf("%s has another key than %q of type S: it is not a lease table of Millrace; "+
		"set table to another name (the KCL's own tables cannot be shared)", t, partitionAttr))
}

// origin is the stream that a table belongs to, and where the pipeline began with it.
type origin struct {
	ARN     string
	Created int64     // ms since 1970: a stream that was made anew has another one
	Start   time.Time // zero: the oldest record
}

// claimStream stores o if the table belongs to no stream yet, and returns what is stored.
func (t *table) claimStream(ctx context.Context, o origin) (origin, error) {
	item := map[string]types.AttributeValue{
		partitionAttr: text(streamItem), "stream": text(o.ARN), "created": number(o.Created),
	}
	if !o.Start.IsZero() {
		item["start"] = text(o.Start.UTC().Format(time.RFC3339Nano))
	}
	_, err := t.client.PutItem(ctx, &dynamodb.PutItemInput{
		TableName: &t.name, Item: item, ConditionExpression: aws.String("attribute_not_exists(#p)"),
		ExpressionAttributeNames: map[string]string{"#p": partitionAttr},
	})
	if err == nil {
		return o, nil
	}
	if !isConflict(err) {
		return o, explain("write to", t.String(), err)
	}
	return t.origin(ctx)
}

// origin is what claimStream stored.
func (t *table) origin(ctx context.Context) (o origin, err error) {
	found, err := t.get(ctx, streamItem)
	if err != nil {
		return o, err
	}
	f := fields{item: found}
	o = origin{ARN: f.text("stream"), Created: int64(f.number("created"))}
	if at := f.text("start"); at != "" {
		if o.Start, err = time.Parse(time.RFC3339Nano, at); err != nil {
			return o, stream.Fatal(fmt.Errorf("the start in %s: %w", t, err))
		}
	}
	return o, f.err
}

// List leaves out what is not a shard's. It reads what a replica has, at half the price: a row that is a little old makes a
// conditional write fail, and nothing else.
func (t *table) List(ctx context.Context) ([]lease.Row, error) {
	var rows []lease.Row
	var from map[string]types.AttributeValue
	for {
		out, err := t.client.Scan(ctx, &dynamodb.ScanInput{TableName: &t.name, ExclusiveStartKey: from})
		if err != nil {
			return nil, explain("read", t.String(), err)
		}
		for _, item := range out.Items {
			r, err := decode(item)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", t, err)
			}
			if r.Partition != streamItem {
				rows = append(rows, r)
			}
		}
		if from = out.LastEvaluatedKey; len(from) == 0 {
			return rows, nil
		}
	}
}

func (t *table) Get(ctx context.Context, partition string) (lease.Row, error) {
	item, err := t.get(ctx, partition)
	if err != nil {
		return lease.Row{}, err
	}
	return decode(item)
}

func (t *table) get(ctx context.Context, partition string) (map[string]types.AttributeValue, error) {
	out, err := t.client.GetItem(ctx, &dynamodb.GetItemInput{
		TableName: &t.name, Key: map[string]types.AttributeValue{partitionAttr: text(partition)}, ConsistentRead: aws.Bool(true),
	})
	if err != nil {
		return nil, explain("read from", t.String(), err)
	}
	if len(out.Item) == 0 {
		return nil, lease.ErrNoRow
	}
	return out.Item, nil
}

func (t *table) Create(ctx context.Context, r lease.Row) (uint64, error) {
	return t.put(ctx, r, &dynamodb.PutItemInput{
		ConditionExpression: aws.String("attribute_not_exists(#p)"), ExpressionAttributeNames: map[string]string{"#p": partitionAttr},
	})
}

func (t *table) Update(ctx context.Context, r lease.Row) (uint64, error) {
	return t.put(ctx, r, &dynamodb.PutItemInput{
		ConditionExpression: aws.String("#r = :r"), ExpressionAttributeNames: map[string]string{"#r": revisionAttr},
		ExpressionAttributeValues: map[string]types.AttributeValue{":r": number(r.Revision)},
	})
}

func (t *table) put(ctx context.Context, r lease.Row, in *dynamodb.PutItemInput) (uint64, error) {
	r.Revision++
	in.TableName, in.Item = &t.name, encode(r)
	_, err := t.client.PutItem(ctx, in)
	switch {
	case isConflict(err):
		return 0, lease.ErrConflict
	case err != nil:
		return 0, explain("write the lease of "+r.Partition+" to", t.String(), err)
	}
	return r.Revision, nil
}

func isConflict(err error) bool {
	var failed *types.ConditionalCheckFailedException
	return errors.As(err, &failed)
}

func encode(r lease.Row) map[string]types.AttributeValue {
	item := map[string]types.AttributeValue{
		partitionAttr: text(r.Partition), revisionAttr: number(r.Revision), "epoch": number(r.Epoch), "renewals": number(r.Renewals),
	}
	for name, value := range map[string]string{"owner": r.Owner, "run": r.Run, "claim": r.Claim} {
		if value != "" {
			item[name] = text(value)
		}
	}
	if r.Ended {
		item["ended"] = &types.AttributeValueMemberBOOL{Value: true}
	}
	if r.Committed {
		item["checkpoint"] = text(r.Checkpoint.Pos.String())
		if len(r.Checkpoint.Note) > 0 {
			item["note"] = &types.AttributeValueMemberB{Value: r.Checkpoint.Note}
		}
	}
	if len(r.Mark) > 0 {
		item["mark"] = text(string(r.Mark))
	}
	return item
}

func decode(item map[string]types.AttributeValue) (lease.Row, error) {
	f := fields{item: item}
	r := lease.Row{Partition: f.text(partitionAttr)}
	if r.Partition == streamItem {
		return r, nil
	}
	r.Owner, r.Run, r.Claim = f.text("owner"), f.text("run"), f.text("claim")
	r.Epoch, r.Renewals, r.Revision = f.number("epoch"), f.number("renewals"), f.number(revisionAttr)
	if ended, ok := item["ended"].(*types.AttributeValueMemberBOOL); ok {
		r.Ended = ended.Value
	}
	if at := f.text("checkpoint"); at != "" {
		pos, err := stream.ParsePosition(at)
		f.fail(err)
		r.Committed, r.Checkpoint.Pos = true, pos
	}
	if note, ok := item["note"].(*types.AttributeValueMemberB); ok {
		r.Checkpoint.Note = note.Value
	}
	if m := f.text("mark"); m != "" {
		r.Mark = []byte(m)
	}
	if f.err != nil {
		return r, stream.Fatal(fmt.Errorf("the item of %q is not one of ours: %w", r.Partition, f.err))
	}
	return r, nil
}

// fields reads an item's attributes and keeps the first error.
type fields struct {
	item map[string]types.AttributeValue
	err  error
}

func (f *fields) fail(err error) {
	if f.err == nil {
		f.err = err
	}
}

// text is empty for an attribute that is not there.
func (f *fields) text(name string) string {
	v, ok := f.item[name].(*types.AttributeValueMemberS)
	if !ok {
		if f.item[name] != nil {
			f.fail(fmt.Errorf("%s is not a text", name))
		}
		return ""
	}
	return v.Value
}

func (f *fields) number(name string) uint64 {
	v, ok := f.item[name].(*types.AttributeValueMemberN)
	if !ok {
		f.fail(fmt.Errorf("%s is not a number", name))
		return 0
	}
	n, err := strconv.ParseUint(v.Value, 10, 64)
	f.fail(err)
	return n
}

func text(s string) types.AttributeValue { return &types.AttributeValueMemberS{Value: s} }

func number[T int64 | uint64](n T) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: fmt.Sprint(n)}
}
