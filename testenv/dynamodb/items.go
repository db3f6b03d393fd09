package dynamodb

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/millrace-io/millrace/testenv/awsjson"
)

func (s *Server) operations() map[string]awsjson.Operation {
	return map[string]awsjson.Operation{
		"CreateTable":        awsjson.Do(s.createTable),
		"DescribeTable":      awsjson.Do(s.describeTable),
		"DeleteTable":        awsjson.Do(s.deleteTable),
		"ListTables":         awsjson.Do(s.listTables),
		"UpdateTimeToLive":   awsjson.Do(s.updateTimeToLive),
		"DescribeTimeToLive": awsjson.Do(s.describeTimeToLive),
		"PutItem":            awsjson.Do(s.putItem),
		"GetItem":            awsjson.Do(s.getItem),
		"UpdateItem":         awsjson.Do(s.updateItem),
		"DeleteItem":         awsjson.Do(s.deleteItem),
		"Query":              awsjson.Do(s.query),
		"Scan":               awsjson.Do(s.scan),
		"BatchGetItem":       awsjson.DoInPart(s.batchGetItem),
		"BatchWriteItem":     awsjson.DoInPart(s.batchWriteItem),
		"TransactWriteItems": awsjson.Do(s.transactWriteItems),
	}
}

// placeholders are what expressions refer to.
type placeholders struct {
	ExpressionAttributeNames  map[string]string
	ExpressionAttributeValues map[string]value
}

// scope checks the placeholders' own names.
func (p *placeholders) scope() (*scope, error) {
	if p.ExpressionAttributeNames != nil && len(p.ExpressionAttributeNames) == 0 {
		return nil, invalid("ExpressionAttributeNames must not be empty")
	}
	if p.ExpressionAttributeValues != nil && len(p.ExpressionAttributeValues) == 0 {
		return nil, invalid("ExpressionAttributeValues must not be empty")
	}
	for k := range p.ExpressionAttributeNames {
		if !placeholder(k, "#") {
			return nil, invalid(`ExpressionAttributeNames contains invalid key: Syntax error; key: "%s"`, k)
		}
	}
	for k := range p.ExpressionAttributeValues {
		if !placeholder(k, ":") {
			return nil, invalid(`ExpressionAttributeValues contains invalid key: Syntax error; key: "%s"`, k)
		}
	}
	return &scope{names: p.ExpressionAttributeNames, values: p.ExpressionAttributeValues, used: map[string]bool{}}, nil
}

func placeholder(name, first string) bool {
	rest, ok := strings.CutPrefix(name, first)
	return ok && rest != "" && strings.Trim(rest, letters) == ""
}

// older are the parameters that were before expressions, and those of secondary indexes.
type older struct {
	Expected, AttributeUpdates, KeyConditions, QueryFilter, ScanFilter, AttributesToGet, ConditionalOperator, IndexName json.RawMessage
}

func (o *older) check() error {
	for _, raw := range []json.RawMessage{
		o.Expected, o.AttributeUpdates, o.KeyConditions, o.QueryFilter, o.ScanFilter, o.AttributesToGet, o.ConditionalOperator, o.IndexName,
	} {
		if raw != nil && string(raw) != "null" {
			return invalid("this stand-in has no secondary indexes and no parameters from before expressions (Expected, KeyConditions ...)")
		}
	}
	return nil
}

// itemInput is what PutItem, UpdateItem and DeleteItem have in common, and the parts of a transaction.
type itemInput struct {
	tableInput
	placeholders
	older
	Item, Key                           item
	ConditionExpression                 *string
	UpdateExpression                    *string
	ReturnValues                        string
	ReturnValuesOnConditionCheckFailure string
	ReturnConsumedCapacity              string
}

func (in *itemInput) subject() (string, item) {
	if in.Key != nil {
		return in.name(), in.Key
	}
	return in.name(), in.Item
}

// write is one write that was checked and can be decided.
type write struct {
	table     *table
	key       key
	condition condition // nil: always
	next      func(old item) (item, error)
	update    *update // nil: it is none
	showOld   bool    // when the condition fails
}

// prepare checks a write: all but what depends on the item that is there.
func (s *Server) prepare(in *itemInput, build func(*write) error) (*write, error) {
	if err := in.older.check(); err != nil {
		return nil, err
	}
	scope, err := in.scope()
	if err != nil {
		return nil, err
	}
	w := &write{showOld: in.ReturnValuesOnConditionCheckFailure == "ALL_OLD"}
	if w.condition, err = scope.condition("ConditionExpression", in.ConditionExpression); err != nil {
		return nil, err
	}
	if in.UpdateExpression != nil {
		if w.update, err = scope.update(*in.UpdateExpression); err != nil {
			return nil, err
		}
	}
	if err := scope.done(); err != nil {
		return nil, err
	}
	if w.table, err = s.usable(in.name()); err != nil {
		return nil, err
	}
	return w, build(w)
}

func (in *itemInput) put(w *write) error {
	w.key = w.table.keyOf(in.Item)
	w.next = func(item) (item, error) { return in.Item, nil }
	return w.table.checkItem(in.Item)
}

func (in *itemInput) delete(w *write) error {
	w.key = w.table.keyOf(in.Key)
	w.next = func(item) (item, error) { return nil, nil }
	return w.table.checkKey(in.Key)
}

// look is a ConditionCheck: it changes nothing.
func (in *itemInput) look(w *write) error {
	w.key = w.table.keyOf(in.Key)
	w.next = func(old item) (item, error) { return old, nil }
	return w.table.checkKey(in.Key)
}

func (in *itemInput) change(w *write) error {
	w.key = w.table.keyOf(in.Key)
	if w.update == nil {
		w.update = &update{}
	}
	for _, p := range w.update.paths() {
		for _, a := range w.table.attributes() {
			if p[0].name == a.name {
				return invalid("One or more parameter values were invalid: Cannot update attribute %s. This attribute is part of the key", a.name)
			}
		}
	}
	w.next = func(old item) (item, error) {
		if old == nil {
			old = in.Key
		}
		new, err := w.update.apply(old)
		if err == nil && itemSize(new) > mostItem {
			err = invalid("Item size to update has exceeded the maximum allowed size")
		}
		return new, err
	}
	return w.table.checkKey(in.Key)
}

// decide returns the item before and after a write, without writing.
func (w *write) decide() (old, new item, err error) {
	old = w.table.get(w.key)
	if w.condition != nil && !w.condition.holds(old) {
		failed := awsjson.Errorf("ConditionalCheckFailedException", "The conditional request failed")
		if w.showOld && old != nil {
			failed.Fields = map[string]any{"Item": old}
		}
		return old, nil, failed
	}
	new, err = w.next(old)
	return old, new, err
}

// store writes what decide returned.
func (w *write) store(new item) {
	if new == nil {
		w.table.remove(w.key)
	} else {
		w.table.put(new)
	}
}

// writeItem is PutItem, UpdateItem and DeleteItem.
func (s *Server) writeItem(in *itemInput, build func(*write) error, returns ...string) (any, error) {
	if in.ReturnValues != "" && in.ReturnValues != "NONE" && !slices.Contains(returns, in.ReturnValues) {
		return nil, invalid("ReturnValues can only be %s or NONE", strings.Join(returns, ", "))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w, err := s.prepare(in, build)
	if err != nil {
		return nil, err
	}
	old, new, err := w.decide()
	if err != nil {
		return nil, err
	}
	w.store(new)
	out := map[string]any{}
	if shown := w.shown(in.ReturnValues, old, new); len(shown) > 0 {
		out["Attributes"] = shown
	}
	charge(out, in.ReturnConsumedCapacity, w.table, float64(max(1, (max(itemSize(old), itemSize(new))+1023)>>10)))
	return out, nil
}

// shown is what ReturnValues asks for.
func (w *write) shown(returns string, old, new item) item {
	switch returns {
	case "ALL_OLD":
		return old
	case "ALL_NEW":
		return new
	case "UPDATED_OLD":
		return project(old, append([]path{}, w.update.paths()...))
	case "UPDATED_NEW":
		return project(new, append([]path{}, w.update.paths()...))
	}
	return nil
}

// charge says what a call cost, if it is asked.
func charge(out map[string]any, asked string, t *table, units float64) {
	if asked == "TOTAL" || asked == "INDEXES" {
		out["ConsumedCapacity"] = map[string]any{"TableName": t.name, "CapacityUnits": units}
	}
}

func (s *Server) putItem(in *itemInput) (any, error) { return s.writeItem(in, in.put, "ALL_OLD") }

func (s *Server) deleteItem(in *itemInput) (any, error) { return s.writeItem(in, in.delete, "ALL_OLD") }

func (s *Server) updateItem(in *itemInput) (any, error) {
	return s.writeItem(in, in.change, "ALL_OLD", "ALL_NEW", "UPDATED_OLD", "UPDATED_NEW")
}

type getItemInput struct {
	tableInput
	placeholders
	older
	Key                    item
	ProjectionExpression   *string
	ConsistentRead         bool
	ReturnConsumedCapacity string
}

func (in *getItemInput) subject() (string, item) { return in.name(), in.Key }

// paths parses a projection; nil: there is none.
func (s *scope) paths(text *string) ([]path, error) {
	if text == nil {
		return nil, nil
	}
	return s.projection(*text)
}

func (s *Server) getItem(in *getItemInput) (any, error) {
	if err := in.older.check(); err != nil {
		return nil, err
	}
	scope, err := in.scope()
	if err != nil {
		return nil, err
	}
	paths, err := scope.paths(in.ProjectionExpression)
	if err != nil {
		return nil, err
	}
	if err := scope.done(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.usable(in.name())
	if err != nil {
		return nil, err
	}
	if err := t.checkKey(in.Key); err != nil {
		return nil, err
	}
	out := map[string]any{}
	it := t.get(t.keyOf(in.Key))
	if it != nil {
		out["Item"] = project(it, paths)
	}
	charge(out, in.ReturnConsumedCapacity, t, readUnits(itemSize(it), in.ConsistentRead))
	return out, nil
}

// readUnits is one for each 4 KB, half of it where the read need not be consistent.
func readUnits(bytes int, consistent bool) float64 {
	units := float64(max(1, (bytes+4095)>>12))
	if !consistent {
		units /= 2
	}
	return units
}
