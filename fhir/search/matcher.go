package search

// TemplateCache caches one result per template, most recently used first. It is
// not safe for concurrent use. The zero TemplateCache is empty and ready to use.
//
// It is not a golang-lru cache, because an entry is found by comparing its
// template with a resource, not by a key.
type TemplateCache[X any] struct {
	entries []cacheEntry[X] // most recently used first
	misses  int
	leaves  []Leaf
}

type cacheEntry[X any] struct {
	template *Template
	value    X
}

const (
	maxTemplates = 8
	maxMisses    = 256 // more misses than hits
)

// Find returns the result cached for the template of json, and the leaves of
// json, which are valid until the next call.
func (m *TemplateCache[X]) Find(json []byte) (x X, leaves []Leaf, ok bool) {
	for i := range m.entries {
		k := m.entries[i]
		if m.leaves, ok = k.template.Read(json, m.leaves); !ok {
			continue
		}
		if i > 0 {
			copy(m.entries[1:], m.entries[:i])
			m.entries[0] = k
		}
		m.misses = max(0, m.misses-1)
		return k.value, m.leaves, true
	}
	return x, nil, false
}

// Learn calls fn with the template of a resource that Find has not found, and
// caches its result if fn returns true. After maxMisses more misses than hits it
// stops, so that resources without common templates cost only their parsing.
func (m *TemplateCache[X]) Learn(json []byte, fn func(s *Template, leaves []Leaf) (X, bool)) {
	if m.misses == maxMisses {
		m.entries = nil
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
	if len(m.entries) < maxTemplates {
		m.entries = append(m.entries, cacheEntry[X]{})
	}
	copy(m.entries[1:], m.entries)
	m.entries[0] = cacheEntry[X]{s, x}
}

// Matcher matches many resources of one type against a query. It caches the
// evaluation of the query per template, so that most resources are not parsed.
// It is not safe for concurrent use.
type Matcher struct {
	query *Query
	sel   *Selection
	cache TemplateCache[*evaluation]
}

// evaluation is a query partially evaluated for a template. Only the clauses that
// depend on leaves are left.
type evaluation struct {
	never   bool // a clause is false for all resources with the template
	rest    []*Clause
	readers []*Reader // parallel to rest
	vals    Values
}

// NewMatcher returns a Matcher for q. The Selection must be the one of q.
func NewMatcher(q *Query, sel *Selection) *Matcher { return &Matcher{query: q, sel: sel} }

// Match reports whether a resource satisfies every clause. Its result equals that
// of the function Match for the values of ExtractFor. A text that is not a JSON
// object does not match.
func (m *Matcher) Match(json []byte) bool {
	if j, leaves, ok := m.cache.Find(json); ok {
		return j.match(leaves)
	}
	v, err := Extractor{}.ExtractFor(m.sel, json)
	if err != nil {
		return false
	}
	m.cache.Learn(json, func(s *Template, leaves []Leaf) (*evaluation, bool) { return m.evaluate(s, leaves, v) })
	return Match(m.query, v)
}

func (j *evaluation) match(leaves []Leaf) bool {
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

// evaluate evaluates the query for a template. The leaves and the values v are
// those of one resource with the template. It returns false if a clause depends
// on leaves in a way that no Reader supports.
func (m *Matcher) evaluate(s *Template, leaves []Leaf, v *Values) (*evaluation, bool) {
	j := &evaluation{vals: Values{ByParam: map[string][]Value{}}}
	for i := range m.query.Clauses {
		c := &m.query.Clauses[i]
		computed := false
		slots := 0
		c.params(func(p *Param) {
			computed = computed || p.Expression != nil
			slots += s.slotsUnder(p)
		})
		if computed || slots > 0 && c.Any != nil {
			return nil, false
		}
		if slots == 0 {
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

// Reader computes the value of one parameter from the leaves of a template.
type Reader struct {
	code   string
	at, to int // indexes of the leaf and, for a period, of the leaf with its end; or -1
	value  [1]Value
}

// Reader returns a Reader for p. The resource with the given leaves has the
// values have under p. Reader returns nil if other resources with the template
// might have more than one value, or a value that depends on more than the
// leaves.
func (s *Template) Reader(p *Param, have []Value, leaves []Leaf) *Reader {
	r := &Reader{code: p.Code, at: -1, to: -1}
	used := 1
	switch p.Code {
	case "_id":
		r.at = s.Only(SlotID)
	case "_lastUpdated":
		r.at = s.Only(slotUpdated)
	case "date":
		if r.at = s.Only(SlotEffective); r.at < 0 {
			r.at, r.to, used = s.Only(slotStart), s.Only(slotEnd), 2
			if r.to < 0 {
				return nil
			}
		}
	case "value-quantity", "combo-value-quantity":
		r.at = s.Only(SlotValue)
	}
	// Any other slot of the parameter might add a value.
	if r.at < 0 || len(have) != 1 || s.slotsUnder(p) != used {
		return nil
	}
	r.value[0] = have[0]
	if again := r.Values(leaves); len(again) != 1 || again[0] != have[0] {
		return nil
	}
	return r
}

// Values returns the value of the parameter in a resource with the leaves, or
// nothing if the text is not valid for the type. The result is valid until the
// next call.
func (r *Reader) Values(leaves []Leaf) []Value {
	v := &r.value[0]
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
	return r.value[:]
}

// slotsUnder returns the number of slots in the elements that a parameter reads.
func (s *Template) slotsUnder(p *Param) int {
	t := p.in
	slots := 0
	for i := range s.slots {
		n := t.root
		for step := 0; n != nil; step++ {
			for k := range n.leaves {
				if t.params[n.leaves[k].slot].Code == p.Code {
					slots++
				}
			}
			if step == len(s.slots[i].path) {
				break
			}
			n = n.children[s.slots[i].path[step]]
		}
	}
	return slots
}
