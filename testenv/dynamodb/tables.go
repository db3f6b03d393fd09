package dynamodb

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/testenv/awsjson"
)

// subject is an operation's input: it says which table it is about, and which item by its key or whole; nil: of none.
type subject interface{ subject() (string, item) }

// tableInput names a table, by its ARN too.
type tableInput struct{ TableName string }

func (in *tableInput) name() string {
	if _, name, ok := strings.Cut(in.TableName, ":table/"); ok {
		return name
	}
	return in.TableName
}

func (in *tableInput) subject() (string, item) { return in.name(), nil }

type keyElement struct{ AttributeName, KeyType string }

type definition struct {
	AttributeName string
	AttributeType kind
}

type throughput struct{ ReadCapacityUnits, WriteCapacityUnits int }

type createTableInput struct {
	tableInput
	AttributeDefinitions                          []definition
	KeySchema                                     []keyElement
	BillingMode                                   string
	ProvisionedThroughput                         *throughput
	GlobalSecondaryIndexes, LocalSecondaryIndexes []struct{}
	StreamSpecification                           *struct{ StreamEnabled bool }
}

func (in *createTableInput) check() error {
	provisioned := in.BillingMode == "" || in.BillingMode == "PROVISIONED"
	switch {
	case len(in.TableName) < 3 || len(in.TableName) > 255 || strings.Trim(in.TableName, letters+".-") != "":
		return invalid("TableName must be at least 3 characters long and at most 255 characters long, of a-z, A-Z, 0-9, '_', '-' and '.'")
	case len(in.GlobalSecondaryIndexes) > 0 || len(in.LocalSecondaryIndexes) > 0:
		return invalid("this stand-in has no secondary indexes")
	case in.StreamSpecification != nil && in.StreamSpecification.StreamEnabled:
		return invalid("this stand-in has no streams")
	case !provisioned && in.BillingMode != "PAY_PER_REQUEST":
		return invalid("1 validation error detected: Value '%s' at 'billingMode' failed to satisfy constraint: "+
			"Member must satisfy enum value set: [PROVISIONED, PAY_PER_REQUEST]", in.BillingMode)
	case provisioned && in.ProvisionedThroughput == nil:
		return invalid("One or more parameter values were invalid: ReadCapacityUnits and WriteCapacityUnits must both be specified when BillingMode is PROVISIONED")
	case !provisioned && in.ProvisionedThroughput != nil:
		return invalid("One or more parameter values were invalid: Neither ReadCapacityUnits nor WriteCapacityUnits can be specified when BillingMode is PAY_PER_REQUEST")
	case provisioned && min(in.ProvisionedThroughput.ReadCapacityUnits, in.ProvisionedThroughput.WriteCapacityUnits) < 1:
		return invalid("1 validation error detected: Value at 'provisionedThroughput' failed to satisfy constraint: Member must have value greater than or equal to 1")
	}
	return nil
}

// keys are the attributes of the table's key, as the schema says.
func (in *createTableInput) keys() (hash attribute, sort *attribute, err error) {
	if len(in.KeySchema) < 1 || len(in.KeySchema) > 2 || in.KeySchema[0].KeyType != "HASH" {
		return hash, nil, invalid("Invalid KeySchema: The first KeySchemaElement is not a HASH key type")
	}
	if len(in.KeySchema) == 2 && (in.KeySchema[1].KeyType != "RANGE" || in.KeySchema[0].AttributeName == in.KeySchema[1].AttributeName) {
		return hash, nil, invalid("Invalid KeySchema: The second KeySchemaElement is not a RANGE key type")
	}
	if len(in.AttributeDefinitions) != len(in.KeySchema) {
		return hash, nil, invalid("One or more parameter values were invalid: Number of attributes in KeySchema does not exactly match number of attributes defined in AttributeDefinitions")
	}
	var found []attribute
	for _, k := range in.KeySchema {
		i := slices.IndexFunc(in.AttributeDefinitions, func(d definition) bool { return d.AttributeName == k.AttributeName })
		if i < 0 {
			return hash, nil, invalid("One or more parameter values were invalid: Some index key attributes are not defined in AttributeDefinitions. Keys: [%s]", k.AttributeName)
		}
		if !in.AttributeDefinitions[i].AttributeType.ordered() {
			return hash, nil, invalid("1 validation error detected: Value '%s' at 'attributeType' failed to satisfy constraint: "+
				"Member must satisfy enum value set: [B, N, S]", in.AttributeDefinitions[i].AttributeType)
		}
		found = append(found, attribute{k.AttributeName, in.AttributeDefinitions[i].AttributeType})
	}
	if len(found) == 2 {
		sort = &found[1]
	}
	return found[0], sort, nil
}

func (s *Server) createTable(in *createTableInput) (any, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	hash, sort, err := in.keys()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.find(in.name()); err == nil {
		return nil, awsjson.Errorf("ResourceInUseException", "Table already exists: %s", in.name())
	}
	s.made++
	now := s.Now()
	t := &table{
		name: in.name(), id: fmt.Sprintf("00000000-0000-0000-0000-%012d", s.made), hash: hash, sort: sort, byKey: map[string]*partition{},
		billing: cmp.Or(in.BillingMode, "PROVISIONED"), created: now, status: "CREATING", settled: s.clock.After(s.o.Settle),
	}
	if in.ProvisionedThroughput != nil {
		t.throughput = *in.ProvisionedThroughput
	}
	s.tables[t.name] = t
	d := s.describe(t)
	d.TableStatus = "CREATING" // says Amazon, however soon it is ACTIVE
	return map[string]any{"TableDescription": d}, nil
}

type tableDescription struct {
	TableName, TableId, TableArn, TableStatus string
	AttributeDefinitions                      []definition
	KeySchema                                 []keyElement
	CreationDateTime                          awsjson.Time
	ItemCount, TableSizeBytes                 int
	ProvisionedThroughput                     struct {
		throughput
		NumberOfDecreasesToday int
	}
	BillingModeSummary *billing `json:",omitempty"`
}

type billing struct{ BillingMode string }

func (s *Server) describe(t *table) tableDescription {
	d := tableDescription{
		TableName: t.name, TableId: t.id, TableArn: fmt.Sprintf("arn:aws:dynamodb:%s:%s:table/%s", s.o.Region, account, t.name),
		TableStatus: t.state(s.Now()), CreationDateTime: awsjson.Time{Time: t.created}, ItemCount: t.rows, TableSizeBytes: t.bytes,
	}
	for i, a := range t.attributes() {
		d.AttributeDefinitions = append(d.AttributeDefinitions, definition{a.name, a.kind})
		d.KeySchema = append(d.KeySchema, keyElement{a.name, []string{"HASH", "RANGE"}[i]})
	}
	d.ProvisionedThroughput.throughput = t.throughput
	if t.billing != "PROVISIONED" {
		d.BillingModeSummary = &billing{t.billing}
	}
	return d
}

func (s *Server) describeTable(in *tableInput) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.find(in.name())
	if err != nil {
		return nil, err
	}
	return map[string]any{"Table": s.describe(t)}, nil
}

func (s *Server) deleteTable(in *tableInput) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.find(in.name())
	if err != nil {
		return nil, err
	}
	now := s.Now()
	if state := t.state(now); state != "ACTIVE" {
		return nil, awsjson.Errorf("ResourceInUseException", "Attempt to change a resource which is still in use: Table is being %s: %s",
			map[string]string{"CREATING": "created", "DELETING": "deleted"}[state], t.name)
	}
	t.status, t.settled = "DELETING", s.clock.After(s.o.Settle)
	d := s.describe(t)
	d.TableStatus = "DELETING"
	return map[string]any{"TableDescription": d}, nil
}

type listTablesInput struct {
	ExclusiveStartTableName string
	Limit                   *int
}

func (in *listTablesInput) subject() (string, item) { return "", nil }

func (s *Server) listTables(in *listTablesInput) (any, error) {
	limit := 100
	if in.Limit != nil {
		limit = *in.Limit
	}
	if limit < 1 || limit > 100 {
		return nil, invalid("1 validation error detected: Value '%d' at 'limit' failed to satisfy constraint: Member must have value between 1 and 100", limit)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	names := []string{}
	out := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(s.tables)) {
		if _, err := s.find(name); err != nil || name <= in.ExclusiveStartTableName {
			continue
		}
		if len(names) == limit {
			out["LastEvaluatedTableName"] = names[limit-1]
			break
		}
		names = append(names, name)
	}
	out["TableNames"] = names
	return out, nil
}

type ttlSpecification struct {
	AttributeName string
	Enabled       bool
}

type updateTimeToLiveInput struct {
	tableInput
	TimeToLiveSpecification ttlSpecification
}

func (s *Server) updateTimeToLive(in *updateTimeToLiveInput) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.usable(in.name())
	if err != nil {
		return nil, err
	}
	ttl := in.TimeToLiveSpecification
	switch {
	case ttl.AttributeName == "":
		return nil, invalid("TimeToLiveSpecification.AttributeName must have length between 1 and 255")
	case ttl.Enabled && t.ttl != "":
		return nil, invalid("TimeToLive is already enabled")
	case !ttl.Enabled && t.ttl != ttl.AttributeName:
		return nil, invalid("TimeToLive is already disabled")
	}
	t.ttl = ""
	if ttl.Enabled {
		t.ttl = ttl.AttributeName
	}
	return map[string]any{"TimeToLiveSpecification": ttl}, nil
}

func (s *Server) describeTimeToLive(in *tableInput) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.find(in.name())
	if err != nil {
		return nil, err
	}
	out := map[string]string{"TimeToLiveStatus": "DISABLED"}
	if t.ttl != "" {
		out = map[string]string{"TimeToLiveStatus": "ENABLED", "AttributeName": t.ttl}
	}
	return map[string]any{"TimeToLiveDescription": out}, nil
}
