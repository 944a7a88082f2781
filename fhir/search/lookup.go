package search

// lookup finds the values of a long list. A clause that a join has become may have
// thousands of ids.
type lookup struct {
	typ   ParamType
	refs  map[[2]string]struct{} // type and id; for tokens system and code
	codes map[string]struct{}    // codes of any system, URIs
}

// minLookup is the number of values from which a lookup is faster than a comparison
// with each value.
const minLookup = 12

// Index prepares a clause with many values for matching. It is called once, before the
// clause is shared. Clauses with few values, prefixes or modifiers are left unchanged.
func (c *Clause) Index() {
	if len(c.Values) < minLookup || c.Modifier != NoModifier && c.Modifier != ModType && c.Modifier != ModNot {
		return
	}
	l := &lookup{typ: c.Param.Type, refs: map[[2]string]struct{}{}, codes: map[string]struct{}{}}
	for i := range c.Values {
		if !l.add(&c.Values[i]) {
			return
		}
	}
	c.lookup = l
}

func (l *lookup) add(v *Value) bool {
	switch {
	case v.Prefix != EQ:
		return false
	case l.typ == TypeReference:
		if v.RefType != "" {
			l.refs[[2]string{v.RefType, v.RefID}] = struct{}{}
		}
		if v.Code != "" {
			l.codes[v.Code] = struct{}{}
		}
		return true
	case l.typ == TypeToken && v.Code != "":
		if v.HasSystem {
			l.refs[[2]string{v.System, v.Code}] = struct{}{}
		} else {
			l.codes[v.Code] = struct{}{}
		}
		return true
	}
	return false
}

// has reports whether a value of a resource is in the list.
func (l *lookup) has(v *Value) bool {
	if l.typ == TypeReference {
		if v.HasSystem {
			return false // a logical reference
		}
		if v.RefType != "" {
			_, ok := l.refs[[2]string{v.RefType, v.RefID}]
			return ok
		}
		_, ok := l.codes[v.Code]
		return ok
	}
	_, ok := l.codes[v.Code]
	if !ok {
		_, ok = l.refs[[2]string{v.System, v.Code}]
	}
	return ok
}
