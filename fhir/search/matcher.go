package search

// TemplateCache remembers what was found out about the latest shapes of resources. It
// is of one goroutine, and the zero TemplateCache is empty.
type TemplateCache[X any] struct {
	known  []known[X] // the latest first
	misses int
	leaves []Leaf
}

type known[X any] struct {
	shape *Template
	x     X
}

const (
	maxShapes      = 8
	maxShapeMisses = 256 // in excess of hits
)

// Find is what was found out about resources of the shape of json, and its
// leaves, which are valid until the next call.
func (m *TemplateCache[X]) Find(json []byte) (x X, leaves []Leaf, ok bool) {
	for i := range m.known {
		k := m.known[i]
		if m.leaves, ok = k.shape.Read(json, m.leaves); !ok {
			continue
		}
		if i > 0 {
			copy(m.known[1:], m.known[:i])
			m.known[0] = k
		}
		m.misses = max(0, m.misses-1)
		return k.x, m.leaves, true
	}
	return x, nil, false
}

// Learn asks fn about the shape of a resource that Find does not know, and
// remembers what it says, if it is sure. Resources that have little in common
// cost no more than being parsed: in the end nothing is learned from them.
func (m *TemplateCache[X]) Learn(json []byte, fn func(s *Template, leaves []Leaf) (X, bool)) {
	if m.misses == maxShapeMisses {
		m.known = nil
		return
	}
	m.misses++
	s := TemplateOf(json)
	if s == nil {
		return
	}
	leaves, ok := s.Read(json, nil)
	if !ok {
		return
	}
	x, ok := fn(s, leaves)
	if !ok {
		return
	}
	if len(m.known) < maxShapes {
		m.known = append(m.known, known[X]{})
	}
	copy(m.known[1:], m.known)
	m.known[0] = known[X]{s, x}
}

// Matcher asks one query of many resources of its type. It remembers what the
// query comes to on a shape, so that most are not parsed. It is of one
// goroutine.
type Matcher struct {
	q      *Query
	sel    *Selection
	shapes TemplateCache[*judged]
}

// judged is what a query comes to on resources of one shape: the clauses that
// its parts decide are decided, the rest is asked of the leaves.
type judged struct {
	never   bool
	rest    []*Clause
	readers []*Reader // parallel to rest
	vals    Values
}

// NewMatcher returns a Matcher of q, whose Selection is sel.
func NewMatcher(q *Query, sel *Selection) *Matcher { return &Matcher{q: q, sel: sel} }

// Match reports whether a resource satisfies every clause: Match of its
// ExtractFor. What is no JSON object satisfies none.
func (m *Matcher) Match(json []byte) bool {
	if j, leaves, ok := m.shapes.Find(json); ok {
		return j.match(leaves)
	}
	v, err := Extractor{}.ExtractFor(m.sel, json)
	if err != nil {
		return false
	}
	m.shapes.Learn(json, func(s *Template, leaves []Leaf) (*judged, bool) { return m.judge(s, leaves, v) })
	return Match(m.q, v)
}

func (j *judged) match(leaves []Leaf) bool {
	if j.never {
		return false
	}
	for i, c := range j.rest {
		j.vals.ByParam[c.Param.Code] = j.readers[i].Values(leaves)
		if !MatchClause(c, &j.vals) {
			return false
		}
	}
	return true
}

// judge decides on a shape, one of whose resources has the leaves and the
// values v; false when the leaves cannot answer what its parts do not decide.
func (m *Matcher) judge(s *Template, leaves []Leaf, v *Values) (*judged, bool) {
	j := &judged{vals: Values{ByParam: map[string][]Value{}}}
	for i := range m.q.Clauses {
		c := &m.q.Clauses[i]
		holes := s.under(c.Param)
		if holes == 0 {
			j.never = j.never || !MatchClause(c, v)
			continue
		}
		r := s.Reader(c.Param, v.ByParam[c.Param.Code], leaves)
		if r == nil {
			return nil, false
		}
		j.rest, j.readers = append(j.rest, c), append(j.readers, r)
	}
	return j, true
}

// Reader makes the value of one parameter out of the leaves of a shape.
type Reader struct {
	code   string
	at, to int // the leaf, and that of a period's end, or -1
	v      [1]Value
}

// Reader returns the Reader of a parameter, of which the resource with the
// leaves has the values have; nil when resources of the shape need not have
// one value, made of leaves alone.
func (s *Template) Reader(p *Param, have []Value, leaves []Leaf) *Reader {
	r := &Reader{code: p.Code, at: -1, to: -1}
	used := 1
	switch p.Code {
	case "_id":
		r.at = s.Only(SlotID)
	case "_lastUpdated":
		r.at = s.Only(SlotUpdated)
	case "date":
		if r.at = s.Only(SlotEffective); r.at < 0 {
			r.at, r.to, used = s.Only(SlotStart), s.Only(SlotEnd), 2
			if r.to < 0 {
				return nil
			}
		}
	case "value-quantity", "combo-value-quantity":
		r.at = s.Only(SlotValue)
	}
	// A leaf beside those used may add a value.
	if r.at < 0 || len(have) != 1 || s.under(p) != used {
		return nil
	}
	r.v[0] = have[0]
	if again := r.Values(leaves); len(again) != 1 || again[0] != have[0] {
		return nil
	}
	return r
}

// Values are the parameter's values in a resource with the leaves: one, or
// none when the text is not of its type. They are valid until the next call.
func (r *Reader) Values(leaves []Leaf) []Value {
	v := &r.v[0]
	ok := false
	switch {
	case r.code == "_id":
		v.Code = string(leaves[r.at])
		ok = v.Code != ""
	case r.code == "value-quantity" || r.code == "combo-value-quantity":
		var num number
		num, ok = parseNumber(string(leaves[r.at]))
		v.Num, v.NumLo, v.NumHi = num.num, num.lo, num.hi
	case r.to >= 0:
		*v, ok = between(leaves[r.at], leaves[r.to])
	default:
		var d instant
		d, ok = parseInstant(string(leaves[r.at]))
		*v = d.value()
	}
	if !ok {
		return nil
	}
	return r.v[:]
}

// under is how many holes lie under what a parameter looks at.
func (s *Template) under(p *Param) int {
	t := index()[p.ResourceType]
	holes := 0
	for i := range s.holes {
		n := t.root
		for step := 0; n != nil; step++ {
			for k := range n.leaves {
				if t.params[n.leaves[k].slot].Code == p.Code {
					holes++
				}
			}
			if step == len(s.holes[i].path) {
				break
			}
			n = n.kids[s.holes[i].path[step]]
		}
	}
	return holes
}
