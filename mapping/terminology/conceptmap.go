package terminology

import (
	"cmp"
	"slices"
	"strings"

	"pulsegate/fhir/element"
	"pulsegate/mapping/table"
)

// conceptMap is an R4 ConceptMap.
type conceptMap struct {
	metadata
	Group []group `json:"group,omitempty"`
}

type group struct {
	Source  string    `json:"source,omitempty"`
	Target  string    `json:"target,omitempty"`
	Element []mapFrom `json:"element"`
}

type mapFrom struct {
	Code    string  `json:"code"`
	Display string  `json:"display,omitempty"`
	Target  []mapTo `json:"target"`
}

type mapTo struct {
	Code        string `json:"code,omitempty"`
	Display     string `json:"display,omitempty"`
	Equivalence string `json:"equivalence"`
	Comment     string `json:"comment,omitempty"`
}

// Values of ConceptMap.group.element.target.equivalence.
const (
	equivalent = "equivalent"
	wider      = "wider"
	inexact    = "inexact"
	relatedTo  = "relatedto"
	unmatched  = "unmatched"
)

const doubtfulComment = "Sources disagree about this code. It is emitted only if doubtful codes are switched on."

func conceptMaps(t *table.Table) (out []conceptMap) {
	for _, p := range t.Packs {
		i := slices.IndexFunc(t.Vendors, func(v table.Vendor) bool { return v.Vendor == p.Vendor })
		out = append(out, packMap(t, &t.Vendors[i], p))
	}
	return append(out, unitMap(t))
}

// packMap returns the ConceptMap of one pack.
func packMap(t *table.Table, v *table.Vendor, p *table.Pack) conceptMap {
	all := builtinRows(t, v)
	rows := all
	if p.Tenant {
		rows, all = nil, nil
		for i := range v.Rows {
			all = append(all, &v.Rows[i])
			if v.Rows[i].Pack == p {
				rows = append(rows, &v.Rows[i])
			}
		}
	}
	b := &mapBuilder{table: t, vendor: v, users: usersOf(all), groups: map[string]map[string]*mapFrom{}}
	for _, r := range rows {
		b.addRow(r)
	}
	for i := range t.Replaced {
		if r := &t.Replaced[i]; r.Removed && r.By == p {
			b.add("", r.Metric, r.Name, mapTo{Equivalence: unmatched,
				Comment: "Not mapped: the pack removes the metric."})
		}
	}
	return conceptMap{metadata: newMetadata("ConceptMap", p.Name, p.Version, "Mapping pack "+p.Title,
		"Standard codes of the metrics of "+v.Title+" by the mapping pack "+p.Name+"."), Group: b.list()}
}

// usersOf counts the metrics that have a standard code, by code.
func usersOf(rows []*table.Row) map[string]int {
	users := map[string]int{}
	for _, r := range rows {
		seen := map[string]bool{}
		lists := [][]string{r.Codes}
		for i := range r.Variants {
			lists = append(lists, r.Variants[i].Codes)
		}
		for _, c := range slices.Concat(lists...) {
			if !seen[c] {
				seen[c] = true
				users[c]++
			}
		}
	}
	return users
}

// mapBuilder collects the groups of a ConceptMap.
type mapBuilder struct {
	table  *table.Table
	vendor *table.Vendor
	users  map[string]int
	groups map[string]map[string]*mapFrom // by target system and code
}

// add adds a target of a code. Targets that differ only in their comments become one.
func (b *mapBuilder) add(system, code, display string, to mapTo) {
	if !isCode(code) {
		return
	}
	if b.groups[system] == nil {
		b.groups[system] = map[string]*mapFrom{}
	}
	from := b.groups[system][code]
	if from == nil {
		from = &mapFrom{Code: code, Display: display}
		b.groups[system][code] = from
	}
	for i := range from.Target {
		t := &from.Target[i]
		if t.Code == to.Code && t.Equivalence == to.Equivalence {
			if !strings.Contains(t.Comment, to.Comment) {
				t.Comment = strings.TrimSpace(t.Comment + " " + to.Comment)
			}
			return
		}
	}
	from.Target = append(from.Target, to)
}

// addRow adds the codes of a row and its components.
func (b *mapBuilder) addRow(r *table.Row) {
	found := b.addCodes(r.Metric, r.Name, r.Codes, r.Doubtful, "", b.equivalence(r))
	for i := range r.Variants {
		x := &r.Variants[i]
		if b.addCodes(r.Metric, r.Name, x.Codes, x.Doubtful, condition(&x.When), b.equivalence(r)) {
			found = true
		}
	}
	if b.addCodes(r.Metric, r.Name, r.Series, nil, "For the component with the series.", b.equivalence(r)) {
		found = true
	}
	if !found {
		b.add("", r.Metric, r.Name, mapTo{Equivalence: unmatched})
	}
	for i := range r.Components {
		c := &r.Components[i]
		if !b.addCodes(c.Name, c.Display, c.Codes, c.Doubtful, "As a component of "+r.Name+".",
			func(string) string { return equivalent }) {
			b.add("", c.Name, c.Display, mapTo{Equivalence: unmatched})
		}
	}
}

// addCodes adds targets with a comment. It reports whether there are any.
func (b *mapBuilder) addCodes(code, display string, codes, doubtful []string, comment string,
	equivalence func(name string) string) bool {
	for _, name := range codes {
		c := b.table.Codes[name]
		b.add(c.System, code, display, mapTo{c.Code, c.Display, equivalence(name), comment})
	}
	for _, name := range doubtful {
		c := b.table.Codes[name]
		b.add(c.System, code, display, mapTo{c.Code, c.Display, inexact,
			strings.TrimSpace(doubtfulComment + " " + comment)})
	}
	return len(codes)+len(doubtful) > 0
}

// equivalence returns the relation of r to its standard codes, by name.
func (b *mapBuilder) equivalence(r *table.Row) func(name string) string {
	return func(name string) string {
		if b.users[name] > 1 || len(r.Codes) > 1 && r.Profile != "" && table.Profiles[r.Profile].Code == name {
			return wider
		}
		return equivalent
	}
}

// condition describes a When for people.
func condition(w *table.When) string {
	var parts []string
	if len(w.Units) > 0 {
		parts = append(parts, "if the unit is "+strings.Join(w.Units, " or "))
	}
	if w.Day != nil && *w.Day {
		parts = append(parts, "for the value of a day")
	} else if w.Day != nil {
		parts = append(parts, "for a value with a time")
	}
	if w.Channel != "" {
		parts = append(parts, "if it came as "+w.Channel)
	}
	if len(parts) == 0 {
		return ""
	}
	s := strings.Join(parts, " and ") + "."
	return strings.ToUpper(s[:1]) + s[1:]
}

// list returns the groups, sorted; that of codes without a target comes last. A code that
// has a target in another group is not unmatched.
func (b *mapBuilder) list() (out []group) {
	for system, elements := range b.groups {
		if system != "" {
			for code := range elements {
				delete(b.groups[""], code)
			}
		}
	}
	for system, elements := range b.groups {
		if len(elements) > 0 {
			out = append(out, group{Source: b.vendor.SystemURL(), Target: system, Element: sortedElements(elements)})
		}
	}
	slices.SortFunc(out, func(x, y group) int {
		return cmp.Or(cmp.Compare(boolOrder(x.Target == ""), boolOrder(y.Target == "")),
			strings.Compare(x.Target, y.Target))
	})
	return out
}

func boolOrder(b bool) int {
	if b {
		return 1
	}
	return 0
}

func sortedElements(elements map[string]*mapFrom) (out []mapFrom) {
	for _, from := range elements {
		slices.SortStableFunc(from.Target, func(a, b mapTo) int { return strings.Compare(a.Code, b.Code) })
		out = append(out, *from)
	}
	slices.SortFunc(out, func(a, b mapFrom) int { return strings.Compare(a.Code, b.Code) })
	return out
}

// unitMap returns the ConceptMap from the spellings of units to UCUM.
func unitMap(t *table.Table) conceptMap {
	elements := map[string]*mapFrom{}
	used := map[*table.Pack]bool{}
	for code, u := range t.Units {
		for _, s := range u.Spellings {
			if s.Pack != nil {
				used[s.Pack] = true
			}
			if !isCode(s.As) {
				continue
			}
			if elements[s.As] == nil {
				elements[s.As] = &mapFrom{Code: s.As}
			}
			to := mapTo{Code: code, Display: u.Text, Equivalence: equivalent}
			if s.Times != "" || s.Plus != "" {
				to.Equivalence, to.Comment = relatedTo, formula(&s)
			}
			elements[s.As].Target = append(elements[s.As].Target, to)
		}
	}
	version := versionWith(t.UnitsVersion, tenantPacks(t, func(p *table.Pack) bool { return used[p] }))
	return conceptMap{metadata: newMetadata("ConceptMap", "units", version, "Spellings of units",
		"UCUM units of the spellings that vendors use, with the exact conversion. A spelling may stand for several "+
			"units; the row of the metric decides. The molar mass in HealthKit's units of amounts of substance is ignored."),
		Group: []group{{Target: element.UCUM, Element: sortedElements(elements)}}}
}

// formula describes a conversion.
func formula(s *table.Spelling) string {
	out := "value"
	if s.Times != "" {
		out += " * " + s.Times
	}
	if s.Plus != "" {
		out += " + " + s.Plus
	}
	return out
}
