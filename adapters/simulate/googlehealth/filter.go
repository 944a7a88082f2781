package googlehealth

import (
	"strings"
	"time"
)

// Limits of a filter.
const (
	maxFilter     = 2048
	maxConditions = 16
)

// condition compares the time of a point with a bound.
type condition struct {
	upper bool      // the point's time is before the bound, otherwise at or after it
	bound time.Time // an instant, or a civil time expressed in UTC
}

// filter is a conjunction of disjunctions, because OR binds more tightly than AND
// in AIP-160.
type filter struct {
	groups [][]condition
	civil  bool
}

// holds reports whether a point with these times matches.
func (f *filter) holds(physical, civil time.Time) bool {
	at := physical
	if f.civil {
		at = civil
	}
	for _, group := range f.groups {
		matched := false
		for _, c := range group {
			matched = matched || at.Before(c.bound) == c.upper
		}
		if !matched {
			return false
		}
	}
	return true
}

// bounds returns times that include every match; a zero time means no bound. They
// are exact to a day, because civil bounds are treated as UTC.
func (f *filter) bounds() (from, to time.Time) {
	for _, group := range f.groups {
		if len(group) != 1 {
			continue
		}
		c := group[0]
		if c.upper && (to.IsZero() || c.bound.Before(to)) {
			to = c.bound
		}
		if !c.upper && c.bound.After(from) {
			from = c.bound
		}
	}
	return from, to
}

// filterMember describes a member that a filter of a type may use.
type filterMember struct {
	civil   bool
	date    bool // the literal is a date without a time
	noUpper bool
	or      bool
}

// filterMembers returns the members for a type by the table of the list method.
func filterMembers(t *dataType) map[string]filterMember {
	name := t.snake()
	switch {
	case t.name == "sleep":
		return map[string]filterMember{
			name + ".interval.end_time":       {or: true},
			name + ".interval.civil_end_time": {or: true, civil: true},
		}
	case t.name == "electrocardiogram":
		return map[string]filterMember{name + ".interval.start_time": {noUpper: true}}
	case t.name == "food", t.name == "food-measurement-unit":
		return nil
	case t.kind == daily:
		return map[string]filterMember{name + ".date": {civil: true, date: true}}
	case t.kind == sampled:
		return map[string]filterMember{
			name + ".sample_time.physical_time": {},
			name + ".sample_time.civil_time":    {civil: true},
		}
	case t.kind == session:
		return map[string]filterMember{name + ".interval.civil_start_time": {civil: true}}
	}
	return map[string]filterMember{
		name + ".interval.start_time":       {},
		name + ".interval.civil_start_time": {civil: true},
	}
}

// parseFilter parses a filter of list and reconcile.
func parseFilter(t *dataType, text string) (*filter, *apiError) {
	f := &filter{}
	if strings.TrimSpace(text) == "" {
		return f, nil
	}
	if len(text) > maxFilter {
		return nil, badFilter("", "the filter is too long")
	}
	lex := filterLexer{rest: text}
	first, or := true, false
	for count := 0; ; count++ {
		c, member, bad := lex.condition(filterMembers(t))
		if bad != nil {
			return nil, bad
		}
		if !first && member.civil != f.civil {
			return nil, badFilter("", "physical and civil times cannot be combined")
		}
		if count == maxConditions {
			return nil, badFilter("", "the filter has too many conditions")
		}
		if or {
			last := len(f.groups) - 1
			f.groups[last] = append(f.groups[last], c)
		} else {
			f.groups = append(f.groups, []condition{c})
		}
		f.civil, first = member.civil, false
		switch word := lex.word(); {
		case word == "" && lex.rest == "":
			return f, nil
		case word == "AND":
			or = false
		case word == "OR" && member.or:
			or = true
		default:
			return nil, badFilter("", "expected AND between conditions")
		}
	}
}

// filterLexer splits a filter into words, operators and literals.
type filterLexer struct{ rest string }

func (l *filterLexer) skip() { l.rest = strings.TrimLeft(l.rest, " \t\r\n") }

// word returns the letters, digits, dots and underscores at the start.
func (l *filterLexer) word() string {
	l.skip()
	n := 0
	for n < len(l.rest) && (l.rest[n] == '_' || l.rest[n] == '.' || l.rest[n] >= '0' && l.rest[n] <= '9' ||
		l.rest[n]|0x20 >= 'a' && l.rest[n]|0x20 <= 'z') {
		n++
	}
	w := l.rest[:n]
	l.rest = l.rest[n:]
	l.skip()
	return w
}

// operator returns the comparison operator at the start, or "".
func (l *filterLexer) operator() string {
	for _, op := range []string{">=", "<=", "!=", "<", ">", "=", ":"} {
		if rest, ok := strings.CutPrefix(l.rest, op); ok {
			l.rest = rest
			l.skip()
			return op
		}
	}
	return ""
}

// literal returns the quoted text at the start.
func (l *filterLexer) literal() (string, bool) {
	if l.rest == "" || l.rest[0] != '"' && l.rest[0] != '\'' {
		return "", false
	}
	end := strings.IndexByte(l.rest[1:], l.rest[0])
	if end < 0 {
		return "", false
	}
	s := l.rest[1 : 1+end]
	l.rest = l.rest[end+2:]
	return s, true
}

// condition parses one comparison.
func (l *filterLexer) condition(members map[string]filterMember) (condition, filterMember, *apiError) {
	name := l.word()
	if name == "" {
		return condition{}, filterMember{}, badFilter("", "expected a member")
	}
	member, ok := members[name]
	if !ok {
		return condition{}, member, badFilter("INVALID_DATA_POINT_FILTER_DATA_TYPE_MEMBER",
			"Member '"+name+"' is not supported for filtering.")
	}
	op := l.operator()
	if op != ">=" && (op != "<" || member.noUpper) {
		return condition{}, member, badFilter("", "the operator is not supported for member '"+name+"'")
	}
	text, ok := l.literal()
	if !ok {
		return condition{}, member, badFilter("", "expected a quoted time")
	}
	bound, ok := member.parse(text)
	if !ok {
		return condition{}, member, badFilter("", "the time has the wrong format for member '"+name+"'")
	}
	return condition{upper: op == "<", bound: bound}, member, nil
}

// parse reads a literal of the member.
func (m filterMember) parse(text string) (time.Time, bool) {
	layouts := []string{time.RFC3339Nano}
	switch {
	case m.date:
		layouts = []string{time.DateOnly}
	case m.civil:
		layouts = []string{time.DateOnly, "2006-01-02T15:04:05", "2006-01-02T15:04"}
	}
	for _, layout := range layouts {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}
