package decode

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/millrace-io/millrace/stream"
)

// maxDepth is how deep objects and arrays may be in each other.
const maxDepth = 512

// parser reads JSON in one pass. Errors name the byte where they were found, from 0.
type parser struct {
	row
	src []byte
	pos int

	properties []property // of the objects that are open, the innermost last
	places     map[place]int
	seen       []uint64 // by node with children: number of the last event that had it
	event      uint64   // number of the event
}

func newParser(m *mapping, b *bots) parser {
	return parser{row: row{mapping: m, bots: b}, seen: make([]uint64, m.nodes)}
}

// token is a value that the parser went over. The compiler keeps a struct of at most four fields in registers; one of five
// made an event take three times as long.
type token struct {
	kind       int // its first byte, and '0' for every number
	marks      marks
	start, end int
}

// marks are flags of a token.
type marks int

const (
	escaped marks = 1 << iota // it is a string with escapes
	odd                       // not every reader takes the text that is in it: see mend
)

// jsonDecoder is the decoder of format json.
type jsonDecoder struct{ parser }

var errEmpty = errors.New("the value is empty")

func (d *jsonDecoder) Decode(r *stream.Record, b *stream.Batch) error {
	d.src, d.pos, d.properties = r.Value, 0, d.properties[:0]
	d.space()
	if d.pos == len(d.src) {
		return errEmpty
	}
	var err error
	switch d.src[d.pos] {
	case '{':
		err = d.one(r, b)
	case '[':
		err = d.several(r, b)
	default:
		err = d.want("an object, or an array of objects")
	}
	if d.space(); err == nil && d.pos < len(d.src) {
		err = d.want("nothing after the value")
	}
	d.release()
	return err
}

func (d *jsonDecoder) several(r *stream.Record, b *stream.Batch) error {
	d.pos++
	if d.space(); d.at(']') {
		return errors.New("the array has no event in it")
	}
	for {
		if !d.at('{') {
			return d.want("an object in the array of events")
		}
		if err := d.one(r, b); err != nil {
			return err
		}
		if d.space(); d.at(']') {
			d.pos++
			return nil
		}
		if err := d.comma("a comma or ] after an event"); err != nil {
			return err
		}
	}
}

// one reads the object at pos as one event.
func (d *jsonDecoder) one(r *stream.Record, b *stream.Batch) error {
	e := d.begin(r, b)
	d.event++
	o := object{start: d.pos}
	if err := d.object(&o, d.root, 1); err != nil {
		return err
	}
	if len(d.properties) > 0 {
		e.Properties = d.assemble(&o)
		clear(d.properties) // let go of the record
		d.properties = d.properties[:0]
	}
	return d.end(e)
}

// release lets go of the record, and of memory that only a large one needs.
func (p *parser) release() {
	p.src = nil
	if len(p.properties) > 0 || cap(p.properties) > maxScratch/64 {
		p.properties = nil
	}
	p.places = nil
	if cap(p.scratch) > maxScratch {
		p.scratch = nil
	}
}

// object is one that is open.
type object struct {
	start   int // its first byte
	base    int // where its properties begin
	members int // that were read
}

// object reads the object at pos. What columns take of it goes there, the rest is appended to properties.
func (p *parser) object(o *object, n *node, depth int) error {
	if depth > maxDepth {
		return p.tooDeep()
	}
	p.pos++
	if p.space(); p.at('}') {
		p.pos++
		return nil
	}
	for {
		if err := p.member(o, n, depth); err != nil {
			return err
		}
		o.members++
		if p.space(); p.at('}') {
			p.pos++
			return nil
		}
		if err := p.comma("a comma or } after a member"); err != nil {
			return err
		}
	}
}

// member reads one name and its value.
func (p *parser) member(o *object, n *node, depth int) error {
	key, err := p.key()
	if err != nil {
		return err
	}
	name := p.text(key)
	known := n.children.find(name)
	left := property{name: name, start: key.start, member: o.members, odd: key.marks&odd != 0}
	if known != nil && known.children != nil {
		if err := p.nested(o, known, left, depth); err != nil || len(known.columns) == 0 {
			return err
		}
	}
	v, err := p.value(depth)
	if err != nil {
		return err
	}
	if known == nil {
		left.end = v.end
		left.odd = left.odd || v.marks&odd != 0
		p.remember(o, left)
		return nil
	}
	for _, column := range known.columns {
		if err := p.cell(column, v); err != nil {
			return err
		}
	}
	return nil
}

// nested reads the value at pos, of a node with children. If the node is a column too, pos stays where it was.
func (p *parser) nested(o *object, n *node, left property, depth int) error {
	if p.seen[n.number] == p.event {
		// The name is there twice, and the last one wins.
		for _, column := range n.below {
			p.values[column] = stream.Value{}
		}
		p.forget(o, left.name)
	}
	p.seen[n.number] = p.event
	inner := object{start: p.pos, base: len(p.properties)}
	if p.at('{') {
		if err := p.object(&inner, n, depth+1); err != nil {
			return err
		}
		if inner.members > 0 {
			left.text = p.assemble(&inner)
			left.taken = left.text == ""
		}
		p.properties = p.properties[:inner.base]
	} else {
		v, err := p.value(depth)
		if err != nil {
			return err
		}
		left.odd = left.odd || v.marks&odd != 0
	}
	left.end = p.pos
	if len(n.columns) > 0 {
		p.pos = inner.start
		return nil
	}
	if !left.taken {
		p.remember(o, left)
	}
	return nil
}

// cell puts a value into a column.
func (p *parser) cell(column int, v token) error {
	kind := p.columns[column].Type.Kind
	if v.kind == 'n' {
		p.values[column] = stream.Value{}
		return nil
	}
	if kind == stream.JSON {
		p.values[column] = stream.JSONValue(p.raw(v))
		return nil
	}
	switch v.kind {
	case '"':
		return p.fill(column, p.text(v), v.marks&odd != 0)
	case '0':
		literal := view(p.src[v.start:v.end])
		if kind == stream.String {
			p.values[column] = stream.StringValue(literal)
			return nil
		}
		n, _ := parseNumber(literal)
		return p.number(column, n, literal)
	case '[':
		if kind == stream.List {
			return p.list(column, v)
		}
		return p.wrong(column, "an array")
	case '{':
		return p.wrong(column, "an object")
	}
	if kind != stream.Bool {
		return p.wrong(column, view(p.src[v.start:v.end]))
	}
	p.values[column] = stream.BoolValue(v.kind == 't')
	return nil
}

// list puts an array of strings into a column. Numbers in it become strings, as in a column of strings.
func (p *parser) list(column int, v token) error {
	if v.marks&odd != 0 && identifier(column) {
		return fmt.Errorf("%s: %w", p.columns[column].Name, errMended)
	}
	after := p.pos
	defer func() { p.pos = after }()
	text := append(p.scratch[:0], '[')
	same := v.marks&odd == 0
	for p.pos = v.start + 1; ; p.pos++ {
		p.space()
		if p.at(']') {
			break
		}
		item, err := p.value(0)
		if err != nil {
			return err
		}
		switch item.kind {
		case '"':
			text = mend(text, p.src[item.start:item.end])
		case '0':
			text = append(append(append(text, '"'), p.src[item.start:item.end]...), '"')
			same = false
		default:
			return p.wrong(column, "an array with another kind of value in it")
		}
		if p.space(); p.at(']') {
			break
		}
		text = append(text, ',')
	}
	p.scratch = append(text, ']')
	if same {
		p.values[column] = stream.ListValue(view(p.src[v.start:v.end]))
		return nil
	}
	p.values[column] = stream.ListValue(p.keep(p.scratch))
	return nil
}

// text is the text of a string.
func (p *parser) text(v token) string {
	inner := p.src[v.start+1 : v.end-1]
	if v.marks == 0 {
		return view(inner)
	}
	p.scratch = unescape(p.scratch[:0], inner)
	return p.keep(p.scratch)
}

// raw is a value as JSON text.
func (p *parser) raw(v token) string {
	if v.marks&odd == 0 {
		return view(p.src[v.start:v.end])
	}
	p.scratch = mend(p.scratch[:0], p.src[v.start:v.end])
	return p.keep(p.scratch)
}

// key reads a member's name and goes on to its value.
func (p *parser) key() (token, error) {
	if !p.at('"') {
		return token{}, p.want("a name in quotes")
	}
	key, err := p.quoted()
	if err != nil {
		return key, err
	}
	if p.space(); !p.at(':') {
		return key, p.want("a colon after a name")
	}
	p.pos++
	p.space()
	return key, nil
}

// value goes over the value at pos, which is in depth objects and arrays.
func (p *parser) value(depth int) (token, error) {
	start := p.pos
	if start == len(p.src) {
		return token{}, p.want("a value")
	}
	switch c := p.src[start]; c {
	case '"':
		return p.quoted()
	case '{':
		m, err := p.skipObject(depth + 1)
		return token{kind: int(c), marks: m, start: start, end: p.pos}, err
	case '[':
		m, err := p.skipArray(depth + 1)
		return token{kind: int(c), marks: m, start: start, end: p.pos}, err
	case 't':
		return p.word("true")
	case 'f':
		return p.word("false")
	case 'n':
		return p.word("null")
	default:
		return p.numeral()
	}
}

func (p *parser) skipObject(depth int) (m marks, err error) {
	if depth > maxDepth {
		return 0, p.tooDeep()
	}
	p.pos++
	if p.space(); p.at('}') {
		p.pos++
		return 0, nil
	}
	for {
		key, err := p.key()
		if err != nil {
			return 0, err
		}
		v, err := p.value(depth)
		if err != nil {
			return 0, err
		}
		m |= (key.marks | v.marks) & odd
		if p.space(); p.at('}') {
			p.pos++
			return m, nil
		}
		if err := p.comma("a comma or } after a member"); err != nil {
			return 0, err
		}
	}
}

func (p *parser) skipArray(depth int) (m marks, err error) {
	if depth > maxDepth {
		return 0, p.tooDeep()
	}
	p.pos++
	if p.space(); p.at(']') {
		p.pos++
		return 0, nil
	}
	for {
		v, err := p.value(depth)
		if err != nil {
			return 0, err
		}
		m |= v.marks & odd
		if p.space(); p.at(']') {
			p.pos++
			return m, nil
		}
		if err := p.comma("a comma or ] after an element"); err != nil {
			return 0, err
		}
	}
}

func (p *parser) word(word string) (token, error) {
	end := p.pos + len(word)
	if end > len(p.src) || view(p.src[p.pos:end]) != word {
		return token{}, p.want("a value")
	}
	v := token{kind: int(word[0]), start: p.pos, end: end}
	p.pos = end
	return v, nil
}

func (p *parser) numeral() (token, error) {
	start := p.pos
	if p.at('-') {
		p.pos++
	}
	first := p.pos
	if !p.digits() {
		if first > start {
			return token{}, p.want("a digit after the sign")
		}
		return token{}, p.want("a value")
	}
	if p.src[first] == '0' && p.pos > first+1 {
		p.pos = first + 1
		return token{}, p.want("no digit after a leading zero")
	}
	if p.at('.') {
		p.pos++
		if !p.digits() {
			return token{}, p.want("a digit after the point")
		}
	}
	if p.at('e') || p.at('E') {
		p.pos++
		if p.at('-') || p.at('+') {
			p.pos++
		}
		if !p.digits() {
			return token{}, p.want("a digit in the exponent")
		}
	}
	return token{kind: '0', start: start, end: p.pos}, nil
}

func (p *parser) digits() bool {
	from := p.pos
	for p.pos < len(p.src) && isDigit(p.src[p.pos]) {
		p.pos++
	}
	return p.pos > from
}

func (p *parser) at(c byte) bool { return p.pos < len(p.src) && p.src[p.pos] == c }

func (p *parser) space() {
	for p.pos < len(p.src) {
		switch p.src[p.pos] {
		case ' ', '\n', '\r', '\t':
			p.pos++
		default:
			return
		}
	}
}

// comma goes on to what is after the comma.
func (p *parser) comma(want string) error {
	if !p.at(',') {
		return p.want(want)
	}
	p.pos++
	p.space()
	return nil
}

func (p *parser) want(what string) error {
	if p.pos >= len(p.src) {
		return fmt.Errorf("byte %d: the value ends here; want %s", p.pos, what)
	}
	return fmt.Errorf("byte %d is %s; want %s", p.pos, strconv.QuoteToASCII(view(p.src[p.pos:p.pos+1])), what)
}

func (p *parser) tooDeep() error {
	return fmt.Errorf("byte %d: more than %d objects and arrays in each other", p.pos, maxDepth)
}
