package dynamodb

import (
	"cmp"
	"hash/fnv"
	"slices"
	"time"

	"github.com/millrace-io/millrace/testenv/awsjson"
)

// table is one table. The server's lock guards it; its items are never changed, only replaced.
type table struct {
	name       string
	id         string
	hash       attribute
	sort       *attribute // nil: the table has none
	billing    string
	throughput throughput
	created    time.Time
	status     string    // CREATING or DELETING until settled
	settled    time.Time // when it is ACTIVE, or gone
	ttl        string    // attribute that says when an item expires; empty: none does
	rows       int
	bytes      int

	byKey map[string]*partition
	order []*partition // as Scan goes: by hash, then key
}

type attribute struct {
	name string
	kind kind
}

// partition is the items of one hash key, by sort key.
type partition struct {
	key   value
	hash  uint64
	items []item
}

func (p *partition) compare(o *partition) int {
	if p.hash != o.hash {
		return cmp.Compare(p.hash, o.hash)
	}
	return p.key.compare(o.key)
}

// scalar is a key's text: as a map has it.
func (v value) scalar() string {
	if v.kind == kindN {
		return v.n.String()
	}
	return v.s
}

// key is an item's place: the sort key is the zero value where the table has none.
type key struct{ hash, sort value }

func (k key) String() string { return k.hash.scalar() + "\x00" + k.sort.scalar() }

// attributes are those of the key.
func (t *table) attributes() []attribute {
	if t.sort == nil {
		return []attribute{t.hash}
	}
	return []attribute{t.hash, *t.sort}
}

// keyOf takes the key out of an item that has one.
func (t *table) keyOf(it item) key {
	k := key{hash: it[t.hash.name]}
	if t.sort != nil {
		k.sort = it[t.sort.name]
	}
	return k
}

// keyItem is the key of an item alone.
func (t *table) keyItem(it item) item {
	out := item{}
	for _, a := range t.attributes() {
		out[a.name] = it[a.name]
	}
	return out
}

// most bytes of keys and items.
const (
	mostHash = 2048
	mostSort = 1024
	mostItem = 400 << 10
)

// checkItem says whether an item can be put.
func (t *table) checkItem(it item) error {
	for _, a := range t.attributes() {
		v, ok := it[a.name]
		switch {
		case !ok:
			return invalid("One or more parameter values were invalid: Missing the key %s in the item", a.name)
		case v.kind != a.kind:
			return invalid("One or more parameter values were invalid: Type mismatch for key %s expected: %s actual: %s", a.name, a.kind, v.kind)
		}
	}
	if itemSize(it) > mostItem {
		return invalid("Item size has exceeded the maximum allowed size")
	}
	return t.checkSizes(it)
}

// checkKey says whether an item is a key of the table and nothing else.
func (t *table) checkKey(it item) error {
	for _, a := range t.attributes() {
		if it[a.name].kind != a.kind {
			return invalid("The provided key element does not match the schema")
		}
	}
	if len(it) != len(t.attributes()) {
		return invalid("The provided key element does not match the schema")
	}
	return t.checkSizes(it)
}

func (t *table) checkSizes(it item) error {
	for _, a := range t.attributes() {
		if v := it[a.name]; v.kind != kindN && v.s == "" {
			return invalid("One or more parameter values are not valid. The AttributeValue for a key attribute cannot contain an empty %s value. Key: %s",
				map[kind]string{kindS: "string", kindB: "binary"}[a.kind], a.name)
		}
	}
	k := t.keyOf(it)
	switch {
	case len(k.hash.scalar()) > mostHash:
		return invalid("One or more parameter values were invalid: Size of hashkey has exceeded the maximum size limit of2048 bytes")
	case len(k.sort.scalar()) > mostSort:
		return invalid("One or more parameter values were invalid: Aggregated size of all range keys has exceeded the size limit of 1024 bytes")
	}
	return nil
}

// find is where an item with a sort key is, or would be.
func (t *table) find(p *partition, sort value) (int, bool) {
	if t.sort == nil {
		return 0, len(p.items) > 0
	}
	return slices.BinarySearchFunc(p.items, sort, func(it item, v value) int { return it[t.sort.name].compare(v) })
}

// get is the item of a key, or nil.
func (t *table) get(k key) item {
	p := t.byKey[k.hash.scalar()]
	if p == nil {
		return nil
	}
	at, ok := t.find(p, k.sort)
	if !ok {
		return nil
	}
	return p.items[at]
}

// put stores an item.
func (t *table) put(it item) {
	k := t.keyOf(it)
	p := t.byKey[k.hash.scalar()]
	if p == nil {
		p = newPartition(k.hash)
		t.byKey[k.hash.scalar()] = p
		at, _ := slices.BinarySearchFunc(t.order, p, (*partition).compare)
		t.order = slices.Insert(t.order, at, p)
	}
	at, ok := t.find(p, k.sort)
	t.bytes += itemSize(it)
	if ok {
		t.bytes -= itemSize(p.items[at])
		p.items[at] = it
		return
	}
	t.rows++
	p.items = slices.Insert(p.items, at, it)
}

// remove deletes the item of a key, if there is one.
func (t *table) remove(k key) {
	p := t.byKey[k.hash.scalar()]
	if p == nil {
		return
	}
	at, ok := t.find(p, k.sort)
	if !ok {
		return
	}
	t.rows--
	t.bytes -= itemSize(p.items[at])
	p.items = slices.Delete(p.items, at, at+1)
	if len(p.items) == 0 {
		delete(t.byKey, k.hash.scalar())
		at, _ := slices.BinarySearchFunc(t.order, p, (*partition).compare)
		t.order = slices.Delete(t.order, at, at+1)
	}
}

func newPartition(key value) *partition {
	h := fnv.New64a()
	h.Write([]byte(key.scalar()))
	return &partition{key: key, hash: h.Sum64()}
}

// state is the table's status.
func (t *table) state(now time.Time) string {
	if now.Before(t.settled) {
		return t.status
	}
	return "ACTIVE"
}

// gone says that a deletion has come to its end.
func (t *table) gone(now time.Time) bool { return t.status == "DELETING" && !now.Before(t.settled) }

// sweep deletes what expired before a time, and says how many items that were.
func (t *table) sweep(now time.Time) int {
	var old []key
	for _, p := range t.order {
		for _, it := range p.items {
			if v, ok := it[t.ttl]; ok && v.kind == kindN && v.compare(count(int(now.Unix()))) < 0 {
				old = append(old, t.keyOf(it))
			}
		}
	}
	for _, k := range old {
		t.remove(k)
	}
	return len(old)
}

func notFound(name string) error {
	return awsjson.Errorf("ResourceNotFoundException", "Requested resource not found: Table: %s not found", name)
}
