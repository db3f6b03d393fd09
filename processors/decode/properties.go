package decode

// property is a member of an object that no column took, or not all of it.
type property struct {
	name       string // without escapes
	start, end int    // in the record: the name's quote, the end of the value
	text       string // what is left of the value, if not all of it
	member     int    // number among the members of its object
	names      uint64 // a bit for each name up to this one
	odd        bool   // see token
	taken      bool   // nothing is left of it, or a later one has its name
}

// place tells where a property of an object with very many is.
type place struct {
	object int // its first byte
	name   string
}

// few properties are searched one by one.
const few = 64

// remember appends a property to those of o, instead of an earlier one of that name: the last one wins.
func (p *parser) remember(o *object, left property) {
	bit := nameBit(left.name)
	if n := len(p.properties); n > o.base {
		before := p.properties[n-1].names
		if before&bit != 0 || n-o.base >= few {
			p.forget(o, left.name)
		}
		bit |= before
	}
	left.names = bit
	if len(p.properties)-o.base >= few {
		p.places[place{o.start, left.name}] = len(p.properties)
	}
	p.properties = append(p.properties, left)
}

// forget takes the property of that name from o's, if it is there.
func (p *parser) forget(o *object, name string) {
	all := p.properties[o.base:]
	if len(all) < few {
		for i := range all {
			if all[i].name == name {
				all[i].taken = true
			}
		}
		return
	}
	if p.places == nil {
		p.places = map[place]int{}
	}
	if len(all) == few {
		for i := range all {
			p.places[place{o.start, all[i].name}] = o.base + i
		}
	}
	if i, ok := p.places[place{o.start, name}]; ok {
		p.properties[i].taken = true
	}
}

func nameBit(name string) uint64 {
	n := len(name)
	if n == 0 {
		return 1
	}
	return 1 << ((uint(n) + 7*uint(name[0]) + 13*uint(name[n/2]) + 31*uint(name[n-1])) % 64)
}

// assemble is the text of an object of o's properties, which ends at pos; empty if there are none. It is o's own text if
// nothing was taken from it.
func (p *parser) assemble(o *object) string {
	all := p.properties[o.base:]
	whole := len(all) == o.members
	for i := range all {
		whole = whole && all[i].plain()
	}
	if whole {
		return view(p.src[o.start:p.pos])
	}
	text := append(p.scratch[:0], '{')
	for i := 0; i < len(all); {
		l := &all[i]
		i++
		if l.taken {
			continue
		}
		if len(text) > 1 {
			text = append(text, ',')
		}
		switch {
		case l.plain():
			// Neighbours are copied together, with the comma between them.
			end := l.end
			for ; i < len(all) && all[i].plain() && all[i].member == all[i-1].member+1; i++ {
				end = all[i].end
			}
			text = append(text, p.src[l.start:end]...)
		case l.text == "":
			text = mend(text, p.src[l.start:l.end])
		default:
			text = append(appendString(text, l.name), ':')
			text = append(text, l.text...)
		}
	}
	p.scratch = append(text, '}')
	if len(text) == 1 {
		return ""
	}
	return p.keep(p.scratch)
}

func (l *property) plain() bool { return !l.odd && !l.taken && l.text == "" }
