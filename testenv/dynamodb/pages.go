package dynamodb

import (
	"hash/fnv"
	"iter"
	"slices"
)

// pageInput is what Query and Scan have in common.
type pageInput struct {
	tableInput
	placeholders
	older
	FilterExpression       *string
	ProjectionExpression   *string
	ExclusiveStartKey      item
	Limit                  *int
	Select                 string
	ConsistentRead         bool
	ReturnConsumedCapacity string
}

type queryInput struct {
	pageInput
	KeyConditionExpression *string
	ScanIndexForward       *bool
}

type scanInput struct {
	pageInput
	Segment, TotalSegments *int
}

// most bytes of the items that one page looks at.
const mostPage = 1 << 20

// page is one request for a page that was checked.
type page struct {
	scope  *scope
	filter condition
	paths  []path
	roots  []string // attributes in the filter
}

func (in *pageInput) prepare() (*page, error) {
	if err := in.older.check(); err != nil {
		return nil, err
	}
	if in.Limit != nil && *in.Limit < 1 {
		return nil, invalid("1 validation error detected: Value '%d' at 'limit' failed to satisfy constraint: Member must have value greater than or equal to 1", *in.Limit)
	}
	switch in.Select {
	case "", "ALL_ATTRIBUTES", "COUNT", "SPECIFIC_ATTRIBUTES":
	default:
		return nil, invalid("1 validation error detected: Value '%s' at 'select' failed to satisfy constraint", in.Select)
	}
	scope, err := in.scope()
	if err != nil {
		return nil, err
	}
	p := &page{scope: scope}
	if p.filter, err = scope.condition("FilterExpression", in.FilterExpression); err != nil {
		return nil, err
	}
	p.roots = scope.roots
	p.paths, err = scope.paths(in.ProjectionExpression)
	return p, err
}

// fill looks at rows until the page is full.
func (in *pageInput) fill(t *table, p *page, rows iter.Seq[item], most int) map[string]any {
	limit := most
	if in.Limit != nil && (limit == 0 || *in.Limit < limit) {
		limit = *in.Limit
	}
	items, count, looked, bytes := []item{}, 0, 0, 0
	out := map[string]any{}
	for it := range rows {
		looked++
		bytes += itemSize(it)
		if p.filter == nil || p.filter.holds(it) {
			count++
			if in.Select != "COUNT" {
				items = append(items, project(it, p.paths))
			}
		}
		if looked == limit || bytes > mostPage {
			out["LastEvaluatedKey"] = t.keyItem(it)
			break
		}
	}
	out["Count"], out["ScannedCount"] = count, looked
	if in.Select != "COUNT" {
		out["Items"] = items
	}
	charge(out, in.ReturnConsumedCapacity, t, readUnits(bytes, in.ConsistentRead))
	return out
}

func (s *Server) query(in *queryInput) (any, error) {
	p, err := in.prepare()
	if err != nil {
		return nil, err
	}
	if in.KeyConditionExpression == nil {
		return nil, invalid("Either the KeyConditions or KeyConditionExpression parameter must be specified in the request.")
	}
	where, err := p.scope.condition("KeyConditionExpression", in.KeyConditionExpression)
	if err != nil {
		return nil, err
	}
	if err := p.scope.done(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.usable(in.name())
	if err != nil {
		return nil, err
	}
	for _, a := range t.attributes() {
		if slices.Contains(p.roots, a.name) {
			return nil, invalid("Filter Expression can only contain non-primary key attributes: Primary key attribute: %s", a.name)
		}
	}
	hash, err := t.keyCondition(where)
	if err != nil {
		return nil, err
	}
	items, err := in.start(t, hash)
	if err != nil {
		return nil, err
	}
	return in.fill(t, p, func(yield func(item) bool) {
		for it := range items {
			if where.holds(it) && !yield(it) {
				return
			}
		}
	}, s.o.Page), nil
}

// start is the items of a hash key in the order asked for, after ExclusiveStartKey.
func (in *queryInput) start(t *table, hash value) (iter.Seq[item], error) {
	var items []item
	if p := t.byKey[hash.scalar()]; p != nil {
		items = p.items
	}
	forward := in.ScanIndexForward == nil || *in.ScanIndexForward
	if in.ExclusiveStartKey != nil {
		if t.checkKey(in.ExclusiveStartKey) != nil {
			return nil, invalid("The provided starting key is invalid")
		}
		k := t.keyOf(in.ExclusiveStartKey)
		if !k.hash.equal(hash) {
			return nil, invalid("The provided starting key is outside query boundaries based on provided conditions")
		}
		at, found := t.find(&partition{items: items}, k.sort)
		switch {
		case forward && found:
			items = items[at+1:]
		case forward:
			items = items[at:]
		default:
			items = items[:at]
		}
	}
	if forward {
		return slices.Values(items), nil
	}
	return func(yield func(item) bool) {
		for _, it := range slices.Backward(items) {
			if !yield(it) {
				return
			}
		}
	}, nil
}

// keyCondition checks that a condition is one on the key: the hash key equals a value, and the sort key is in one range.
func (t *table) keyCondition(c condition) (hash value, err error) {
	parts := []condition{c}
	if both, ok := c.(and); ok {
		parts = []condition{both.a, both.b}
	}
	seen := map[string]bool{}
	for _, part := range parts {
		if name := notInKeys(part); name != "" {
			return hash, invalid("Invalid operator used in KeyConditionExpression: %s", name)
		}
		path, literals, equal := keyPart(part)
		if len(path) != 1 || len(literals) == 0 {
			return hash, invalid("Query key condition not supported")
		}
		name := path[0].name
		a, ok := t.attribute(name)
		switch {
		case seen[name]:
			return hash, invalid("KeyConditionExpressions must only contain one condition per key")
		case !ok:
			return hash, invalid("Query condition missed key schema element: %s", t.missing(seen))
		case slices.ContainsFunc(literals, func(v value) bool { return v.kind != a.kind }):
			return hash, invalid("One or more parameter values were invalid: Condition parameter type does not match schema type")
		case name == t.hash.name && !equal:
			return hash, invalid("Query key condition not supported")
		case name == t.hash.name:
			hash = literals[0]
		}
		seen[name] = true
	}
	if !seen[t.hash.name] {
		return hash, invalid("Query condition missed key schema element: %s", t.hash.name)
	}
	return hash, nil
}

func (t *table) attribute(name string) (attribute, bool) {
	all := t.attributes()
	i := slices.IndexFunc(all, func(a attribute) bool { return a.name == name })
	if i < 0 {
		return attribute{}, false
	}
	return all[i], true
}

// missing is the first key attribute that has no condition yet.
func (t *table) missing(seen map[string]bool) string {
	for _, a := range t.attributes() {
		if !seen[a.name] {
			return a.name
		}
	}
	return t.hash.name
}

// notInKeys is the operator of a condition that no key condition has; "" for others.
func notInKeys(c condition) string {
	switch c := c.(type) {
	case or:
		return "OR"
	case not:
		return "NOT"
	case in:
		return "IN"
	case comparison:
		if c.op == "<>" {
			return c.op
		}
	case function:
		if c.name != "begins_with" {
			return c.name
		}
	}
	return ""
}

// keyPart takes apart a condition on one attribute; without literals it is none.
func keyPart(c condition) (at path, literals []value, equal bool) {
	var a operand
	var rest []operand
	switch c := c.(type) {
	case comparison:
		a, rest, equal = c.a, []operand{c.b}, c.op == "="
		if equal && a.path == nil {
			a, rest = c.b, []operand{c.a}
		}
	case between:
		a, rest = c.a, []operand{c.low, c.high}
	case function:
		a, rest = c.args[0], c.args[1:]
	}
	for _, o := range rest {
		if o.path != nil || a.size {
			return nil, nil, false
		}
		literals = append(literals, o.literal)
	}
	return a.path, literals, equal
}

func (s *Server) scan(in *scanInput) (any, error) {
	p, err := in.prepare()
	if err != nil {
		return nil, err
	}
	if err := p.scope.done(); err != nil {
		return nil, err
	}
	segment, of, err := in.segment()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.usable(in.name())
	if err != nil {
		return nil, err
	}
	if in.ExclusiveStartKey != nil && t.checkKey(in.ExclusiveStartKey) != nil {
		return nil, invalid("The provided starting key is invalid: The provided key element does not match the schema")
	}
	return in.fill(t, p, func(yield func(item) bool) {
		for it := range t.after(in.ExclusiveStartKey) {
			if segmentOf(it[t.hash.name], of) == segment && !yield(it) {
				return
			}
		}
	}, s.o.Page), nil
}

func (in *scanInput) segment() (segment, of int, err error) {
	switch {
	case in.Segment == nil && in.TotalSegments == nil:
		return 0, 1, nil
	case in.Segment == nil:
		return 0, 0, invalid("The Segment parameter is required but was not present in the request when parameter TotalSegments is present")
	case in.TotalSegments == nil:
		return 0, 0, invalid("The TotalSegments parameter is required but was not present in the request when Segment parameter is present")
	case *in.TotalSegments < 1 || *in.TotalSegments > 1_000_000:
		return 0, 0, invalid("1 validation error detected: Value '%d' at 'totalSegments' failed to satisfy constraint: Member must have value between 1 and 1000000", *in.TotalSegments)
	case *in.Segment < 0 || *in.Segment >= *in.TotalSegments:
		return 0, 0, invalid("The Segment parameter is zero-based and must be less than parameter TotalSegments: Segment: %d is not less than TotalSegments: %d",
			*in.Segment, *in.TotalSegments)
	}
	return *in.Segment, *in.TotalSegments, nil
}

// after is all items of the table in Scan's order, after a key; nil: all.
func (t *table) after(start item) iter.Seq[item] {
	return func(yield func(item) bool) {
		from, skip := 0, 0
		if start != nil {
			k := t.keyOf(start)
			var found bool
			if from, found = slices.BinarySearchFunc(t.order, newPartition(k.hash), (*partition).compare); found {
				at, there := t.find(t.order[from], k.sort)
				skip = at
				if there {
					skip++
				}
			}
		}
		for _, p := range t.order[from:] {
			for _, it := range p.items[skip:] {
				if !yield(it) {
					return
				}
			}
			skip = 0
		}
	}
}

func segmentOf(hash value, of int) int {
	h := fnv.New32a() // not the hash that orders: a segment's items are all over the table
	h.Write([]byte(hash.scalar()))
	return int(h.Sum32() % uint32(of))
}
