package dynamodb

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// value is an attribute value. It is never changed: who changes one makes a new one.
type value struct {
	kind kind
	s    string           // of S; of B its bytes
	n    number           // of N
	b    bool             // of BOOL
	m    map[string]value // of M
	l    []value          // of L; of a set its members, in order
}

type item = map[string]value

// kind is the name of a type.
type kind string

// The types.
const (
	kindS    kind = "S"
	kindN    kind = "N"
	kindB    kind = "B"
	kindBool kind = "BOOL"
	kindNull kind = "NULL"
	kindM    kind = "M"
	kindL    kind = "L"
	kindSS   kind = "SS"
	kindNS   kind = "NS"
	kindBS   kind = "BS"
)

// member is the type of a set's members; "" for what is no set.
func (k kind) member() kind {
	switch k {
	case kindSS, kindNS, kindBS:
		return k[:1]
	}
	return ""
}

func (k kind) known() bool {
	switch k {
	case kindS, kindN, kindB, kindBool, kindNull, kindM, kindL, kindSS, kindNS, kindBS:
		return true
	}
	return false
}

// ordered says that values of the type can be compared with less.
func (k kind) ordered() bool { return k == kindS || k == kindN || k == kindB }

// UnmarshalJSON reads {"S": "text"} and its like.
func (v *value) UnmarshalJSON(b []byte) error {
	var one map[kind]json.RawMessage
	if err := json.Unmarshal(b, &one); err != nil {
		return err
	}
	for k, raw := range one {
		if string(raw) == "null" {
			delete(one, k)
		}
	}
	switch len(one) {
	case 0:
		return invalid("Supplied AttributeValue is empty, must contain exactly one of the supported datatypes")
	case 1:
	default:
		return invalid("Supplied AttributeValue has more than one datatypes set, must contain exactly one of the supported datatypes")
	}
	for k, raw := range one {
		v.kind = k
		return v.decode(raw)
	}
	return nil
}

func (v *value) decode(raw json.RawMessage) error {
	switch v.kind {
	case kindS:
		return json.Unmarshal(raw, &v.s)
	case kindN:
		var s string
		err := json.Unmarshal(raw, &s)
		if err == nil {
			v.n, err = parseNumber(s)
		}
		return err
	case kindB:
		var data []byte
		err := json.Unmarshal(raw, &data)
		v.s = string(data)
		return err
	case kindBool:
		return json.Unmarshal(raw, &v.b)
	case kindNull:
		var null bool
		err := json.Unmarshal(raw, &null)
		if err == nil && !null {
			err = invalid("One or more parameter values were invalid: Null attribute value types must have the value of true")
		}
		return err
	case kindM:
		return json.Unmarshal(raw, &v.m)
	case kindL:
		return json.Unmarshal(raw, &v.l)
	case kindSS, kindNS, kindBS:
		return v.decodeSet(raw)
	}
	return invalid("Supplied AttributeValue is empty, must contain exactly one of the supported datatypes")
}

func (v *value) decodeSet(raw json.RawMessage) error {
	var members []json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return err
	}
	if len(members) == 0 {
		return invalid("One or more parameter values were invalid: An %s set  may not be empty", map[kind]string{kindSS: "string", kindNS: "number", kindBS: "binary"}[v.kind])
	}
	for _, raw := range members {
		m := value{kind: v.kind.member()}
		if err := m.decode(raw); err != nil {
			return err
		}
		if !v.insert(m) {
			return v.duplicates(members)
		}
	}
	return nil
}

func (v *value) duplicates(members []json.RawMessage) error {
	if v.kind == kindNS {
		return invalid("Input collection contains duplicates")
	}
	var all []string
	for _, m := range members {
		all = append(all, strings.Trim(string(m), `"`))
	}
	return invalid("One or more parameter values were invalid: Input collection [%s] contains duplicates.", strings.Join(all, ", "))
}

// insert puts a member into a set that nobody else has yet; false when it is there already.
func (v *value) insert(m value) bool {
	at, found := slices.BinarySearchFunc(v.l, m, value.compare)
	if !found {
		v.l = slices.Insert(v.l, at, m)
	}
	return !found
}

// MarshalJSON writes what UnmarshalJSON reads.
func (v value) MarshalJSON() ([]byte, error) { return v.append(nil), nil }

func (v value) append(b []byte) []byte {
	b = append(b, `{"`...)
	b = append(b, v.kind...)
	b = append(b, `":`...)
	switch v.kind {
	case kindNull:
		b = append(b, "true"...)
	case kindBool:
		b = fmt.Appendf(b, "%t", v.b)
	case kindM:
		b = appendItem(b, v.m)
	case kindL:
		b = appendList(b, v.l, value.append)
	case kindSS, kindNS, kindBS:
		b = appendList(b, v.l, value.appendScalar)
	default:
		b = v.appendScalar(b)
	}
	return append(b, '}')
}

func (v value) appendScalar(b []byte) []byte {
	switch v.kind {
	case kindN:
		return append(append(append(b, '"'), v.n.String()...), '"')
	case kindB:
		return append(base64.StdEncoding.AppendEncode(append(b, '"'), []byte(v.s)), '"')
	}
	return appendString(b, v.s)
}

func appendString(b []byte, s string) []byte {
	quoted, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("encode %q: %v", s, err)) // never: it is a string
	}
	return append(b, quoted...)
}

func appendList(b []byte, l []value, one func(value, []byte) []byte) []byte {
	b = append(b, '[')
	for i, v := range l {
		if i > 0 {
			b = append(b, ',')
		}
		b = one(v, b)
	}
	return append(b, ']')
}

func appendItem(b []byte, it item) []byte {
	b = append(b, '{')
	for i, name := range slices.Sorted(maps.Keys(it)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, name), ':')
		b = it[name].append(b)
	}
	return append(b, '}')
}

// compare orders two values of one type that has an order: numbers by size, texts and binaries by their bytes.
func (v value) compare(o value) int {
	if v.kind == kindN {
		return v.n.compare(o.n)
	}
	return cmp.Compare(v.s, o.s)
}

func (v value) equal(o value) bool {
	if v.kind != o.kind {
		return false
	}
	switch v.kind {
	case kindBool:
		return v.b == o.b
	case kindM:
		return maps.EqualFunc(v.m, o.m, value.equal)
	case kindL, kindSS, kindNS, kindBS:
		return slices.EqualFunc(v.l, o.l, value.equal)
	case kindNull:
		return true
	}
	return v.compare(o) == 0
}

// length is what the function size returns.
func (v value) length() (int, bool) {
	switch v.kind {
	case kindS:
		return utf8.RuneCountInString(v.s), true
	case kindB:
		return len(v.s), true
	case kindM:
		return len(v.m), true
	case kindL, kindSS, kindNS, kindBS:
		return len(v.l), true
	}
	return 0, false
}

// contains is the function of that name: a part of a text or binary, a member of a set or list.
func (v value) contains(o value) bool {
	switch {
	case v.kind == kindL:
		return slices.ContainsFunc(v.l, o.equal)
	case v.kind.member() != "":
		return v.kind.member() == o.kind && slices.ContainsFunc(v.l, o.equal)
	}
	return v.kind == o.kind && (v.kind == kindS || v.kind == kindB) && strings.Contains(v.s, o.s)
}

func (v value) beginsWith(o value) bool {
	return v.kind == o.kind && (v.kind == kindS || v.kind == kindB) && strings.HasPrefix(v.s, o.s)
}

// size is what Amazon counts of a value's bytes.
func (v value) size() int {
	n := 0
	switch v.kind {
	case kindS, kindB:
		return len(v.s)
	case kindN:
		return v.n.size()
	case kindM:
		return 3 + itemSize(v.m) + len(v.m)
	case kindL:
		n = 3 + len(v.l)
	case kindBool, kindNull:
		return 1
	}
	for _, m := range v.l {
		n += m.size()
	}
	return n
}

func itemSize(it item) int {
	n := 0
	for name, v := range it {
		n += len(name) + v.size()
	}
	return n
}

// String is the value as error messages show it: {S:text}.
func (v value) String() string {
	var b bytes.Buffer
	b.Write(v.append(nil))
	return strings.ReplaceAll(b.String(), `"`, "")
}
