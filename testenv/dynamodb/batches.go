package dynamodb

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/millrace-io/millrace/testenv/awsjson"
)

// most of one call.
const (
	mostGets       = 100
	mostGetBytes   = 16 << 20
	mostWrites     = 25
	mostTransacted = 100
)

type keysAndAttributes struct {
	placeholders
	older
	Keys                 []item
	ProjectionExpression *string `json:",omitempty"`
	ConsistentRead       bool
}

type batchGetItemInput struct {
	RequestItems map[string]keysAndAttributes
}

func (in *batchGetItemInput) subject() (string, item) { return firstKey(in.RequestItems), nil }

func firstKey[V any](m map[string]V) string {
	keys := slices.Sorted(maps.Keys(m))
	if len(keys) == 0 {
		return ""
	}
	return keys[0]
}

// gets is one table's part of a BatchGetItem.
type gets struct {
	table *table
	name  string // as the caller wrote it
	of    keysAndAttributes
	paths []path
}

func (s *Server) gets(in *batchGetItemInput) ([]gets, error) {
	var out []gets
	n := 0
	for _, name := range slices.Sorted(maps.Keys(in.RequestItems)) {
		g, err := s.getsOf(name, in.RequestItems[name])
		if err != nil {
			return nil, err
		}
		out = append(out, g)
		n += len(g.of.Keys)
	}
	switch {
	case n == 0:
		return nil, invalid("1 validation error detected: Value '{}' at 'requestItems' failed to satisfy constraint: Member must have length greater than or equal to 1")
	case n > mostGets:
		return nil, invalid("Too many items requested for the BatchGetItem call")
	}
	return out, nil
}

func (s *Server) getsOf(name string, of keysAndAttributes) (g gets, err error) {
	if err := of.older.check(); err != nil {
		return g, err
	}
	scope, err := of.scope()
	if err != nil {
		return g, err
	}
	if len(of.Keys) == 0 {
		return g, invalid("1 validation error detected: Value '[]' at 'requestItems.%s.member.keys' failed to satisfy constraint: "+
			"Member must have length greater than or equal to 1", name)
	}
	g = gets{name: name, of: of}
	if g.paths, err = scope.paths(of.ProjectionExpression); err != nil {
		return g, err
	}
	if err := scope.done(); err != nil {
		return g, err
	}
	if g.table, err = s.usable((&tableInput{name}).name()); err != nil {
		return g, err
	}
	return g, distinct(g.table, of.Keys)
}

// distinct checks keys, and that none is there twice.
func distinct(t *table, keys []item) error {
	seen := map[string]bool{}
	for _, k := range keys {
		if err := t.checkKey(k); err != nil {
			return err
		}
		text := t.keyOf(k).String()
		if seen[text] {
			return invalid("Provided list of item keys contains duplicates")
		}
		seen[text] = true
	}
	return nil
}

func (s *Server) batchGetItem(in *batchGetItemInput, f Fault) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tables, err := s.gets(in)
	if err != nil {
		return nil, err
	}
	responses, left := map[string][]item{}, map[string]keysAndAttributes{}
	n, size := 0, 0
	for _, g := range tables {
		responses[g.name] = []item{}
		var undone []item
		for _, k := range g.of.Keys {
			it := g.table.get(g.table.keyOf(k))
			failed := f.Fail != nil && f.Fail(n) != ""
			n++
			if failed || size+itemSize(it) > mostGetBytes {
				undone = append(undone, k)
				continue
			}
			size += itemSize(it)
			if it != nil {
				responses[g.name] = append(responses[g.name], project(it, g.paths))
			}
		}
		if undone != nil {
			g.of.Keys = undone
			left[g.name] = g.of
		}
	}
	return map[string]any{"Responses": responses, "UnprocessedKeys": left}, nil
}

type writeRequest struct {
	PutRequest    *struct{ Item item } `json:",omitempty"`
	DeleteRequest *struct{ Key item }  `json:",omitempty"`
}

type batchWriteItemInput struct {
	RequestItems map[string][]writeRequest
}

func (in *batchWriteItemInput) subject() (string, item) { return firstKey(in.RequestItems), nil }

// batched is one write of a BatchWriteItem.
type batched struct {
	write
	name string // of the table, as the caller wrote it
	raw  writeRequest
}

func (s *Server) batched(in *batchWriteItemInput) ([]batched, error) {
	var out []batched
	for _, name := range slices.Sorted(maps.Keys(in.RequestItems)) {
		t, err := s.usable((&tableInput{name}).name())
		if err != nil {
			return nil, err
		}
		seen := map[string]bool{}
		for _, r := range in.RequestItems[name] {
			w := batched{write{table: t}, name, r}
			if err := w.read(); err != nil {
				return nil, err
			}
			if seen[w.key.String()] {
				return nil, invalid("Provided list of item keys contains duplicates")
			}
			seen[w.key.String()] = true
			out = append(out, w)
		}
	}
	if len(out) < 1 || len(out) > mostWrites {
		return nil, invalid("1 validation error detected: Value at 'requestItems' failed to satisfy constraint: Member must have length between 1 and %d", mostWrites)
	}
	return out, nil
}

func (w *batched) read() error {
	switch {
	case w.raw.PutRequest != nil && w.raw.DeleteRequest == nil:
		in := &itemInput{Item: w.raw.PutRequest.Item}
		return in.put(&w.write)
	case w.raw.DeleteRequest != nil && w.raw.PutRequest == nil:
		in := &itemInput{Key: w.raw.DeleteRequest.Key}
		return in.delete(&w.write)
	}
	return invalid("Supplied AttributeValue has more than one datatypes set, must contain exactly one of the supported datatypes")
}

func (s *Server) batchWriteItem(in *batchWriteItemInput, f Fault) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	writes, err := s.batched(in)
	if err != nil {
		return nil, err
	}
	left := map[string][]writeRequest{}
	for i, w := range writes {
		if f.Fail != nil && f.Fail(i) != "" {
			left[w.name] = append(left[w.name], w.raw)
			continue
		}
		_, new, err := w.decide()
		if err != nil {
			return nil, err
		}
		w.store(new)
	}
	return map[string]any{"UnprocessedItems": left}, nil
}

// transactItem is one of a transaction's parts; exactly one is set.
type transactItem struct {
	Put, Update, Delete, ConditionCheck *itemInput
}

type transactWriteItemsInput struct {
	TransactItems      []transactItem
	ClientRequestToken string
}

func (in *transactWriteItemsInput) subject() (string, item) {
	if len(in.TransactItems) == 0 {
		return "", nil
	}
	if one, _ := in.TransactItems[0].part(); one != nil {
		return one.name(), nil
	}
	return "", nil
}

// part is the one that is set, and how it is built; nil: not exactly one is.
func (i *transactItem) part() (in *itemInput, build func(*write) error) {
	set := slices.DeleteFunc([]*itemInput{i.Put, i.Update, i.Delete, i.ConditionCheck}, func(p *itemInput) bool { return p == nil })
	if len(set) != 1 {
		return nil, nil
	}
	in = set[0]
	switch in {
	case i.Put:
		return in, in.put
	case i.Update:
		return in, in.change
	case i.Delete:
		return in, in.delete
	}
	return in, in.look
}

// token is what a transaction with a ClientRequestToken was; the same again within ten minutes does nothing.
type token struct {
	request string
	at      time.Time
}

const tokenLife = 10 * time.Minute

// repeated says whether a transaction was done already.
func (s *Server) repeated(in *transactWriteItemsInput, request string) (bool, error) {
	old, ok := s.tokens[in.ClientRequestToken]
	switch {
	case !ok || s.Now().Sub(old.at) > tokenLife:
		return false, nil
	case old.request != request:
		return false, awsjson.Errorf("IdempotentParameterMismatchException", "Request parameters do not match those of the first call with the token")
	}
	return true, nil
}

func (s *Server) transactWriteItems(in *transactWriteItemsInput) (any, error) {
	if n := len(in.TransactItems); n < 1 || n > mostTransacted {
		return nil, invalid("1 validation error detected: Value at 'transactItems' failed to satisfy constraint: Member must have length between 1 and %d", mostTransacted)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	request, err := json.Marshal(in.TransactItems)
	if err != nil {
		return nil, err
	}
	if done, err := s.repeated(in, string(request)); done || err != nil {
		return map[string]any{}, err
	}
	writes, err := s.transacted(in.TransactItems)
	if err != nil {
		return nil, err
	}
	after, err := decideAll(writes)
	if err != nil {
		return nil, err
	}
	for i, w := range writes {
		w.store(after[i])
	}
	if in.ClientRequestToken != "" {
		maps.DeleteFunc(s.tokens, func(_ string, old token) bool { return s.Now().Sub(old.at) > tokenLife })
		s.tokens[in.ClientRequestToken] = token{string(request), s.Now()}
	}
	return map[string]any{}, nil
}

// transacted checks the parts of a transaction.
func (s *Server) transacted(parts []transactItem) ([]*write, error) {
	var out []*write
	seen := map[string]bool{}
	for i := range parts {
		in, build := parts[i].part()
		if in == nil {
			return nil, invalid("TransactItems can only contain one of Check, Put, Update or Delete")
		}
		w, err := s.prepare(in, build)
		if err != nil {
			return nil, err
		}
		id := w.table.name + "\x00" + w.key.String()
		if seen[id] {
			return nil, invalid("Transaction request cannot include multiple operations on one item")
		}
		seen[id] = true
		out = append(out, w)
	}
	return out, nil
}

// decideAll is decide for all writes: one that fails cancels all.
func decideAll(writes []*write) ([]item, error) {
	after := make([]item, len(writes))
	reasons := make([]map[string]any, len(writes))
	codes := make([]string, len(writes))
	failed := false
	for i, w := range writes {
		_, new, err := w.decide()
		after[i] = new
		reasons[i] = map[string]any{"Code": "None"}
		if err != nil {
			failed = true
			reasons[i] = reason(err)
		}
		codes[i] = fmt.Sprint(reasons[i]["Code"])
	}
	if !failed {
		return after, nil
	}
	return nil, &awsjson.Error{
		Type:    "TransactionCanceledException",
		Message: "Transaction cancelled, please refer cancellation reasons for specific reasons [" + strings.Join(codes, ", ") + "]",
		Fields:  map[string]any{"CancellationReasons": reasons},
	}
}

// reason is an error as CancellationReasons have it.
func reason(err error) map[string]any {
	known, ok := err.(*awsjson.Error)
	if !ok {
		return map[string]any{"Code": "ValidationError", "Message": err.Error()}
	}
	out := map[string]any{"Code": "ValidationError", "Message": known.Message}
	if known.Type == "ConditionalCheckFailedException" {
		out["Code"] = "ConditionalCheckFailed"
	}
	for k, v := range known.Fields {
		out[k] = v
	}
	return out
}
