package table

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"pulsegate/fhir"
	"pulsegate/mapping/decimal"
)

// Limits of a directory of packs.
const (
	maxPacks     = 100
	maxPackBytes = 1 << 20
	maxProblems  = 20 // in one error
)

// reservedPacks lists the names that ConceptMaps of this server have, in addition to the
// vendors.
var reservedPacks = []string{"units"}

// packFile is the content of a tenant's pack.
type packFile struct {
	Pack    string                `yaml:"pack"`
	Version string                `yaml:"version"`
	Vendor  string                `yaml:"vendor"`
	Title   string                `yaml:"title"`
	Codes   map[string]codeSystem `yaml:"codes"`
	Units   map[string]unitFile   `yaml:"units"`
	Shared  yaml.Node             `yaml:"shared"` // holds the YAML anchors, not read
	Rows    []packRow             `yaml:"metrics"`
}

type codeSystem struct {
	URL     string            `yaml:"url"`
	Title   string            `yaml:"title"`
	Publish bool              `yaml:"publish"`
	Codes   map[string]string `yaml:"codes"`
}

type unitFile struct {
	Text    string `yaml:"text"`
	Accepts []struct {
		As    []string `yaml:"as"`
		Times string   `yaml:"times"`
		Plus  string   `yaml:"plus"`
	} `yaml:"accepts"`
}

// packRow is a row of a tenant's pack: the stated fields of a row.
type packRow struct {
	Row    `yaml:",inline"`
	Remove bool `yaml:"remove"`
}

// tenant is a tenant's pack that is being applied.
type tenant struct {
	file  packFile
	pack  *Pack
	nodes []*yaml.Node // of the rows
}

// fail returns an error about a row of the pack.
func (p *tenant) fail(i int, format string, args ...any) error {
	return fmt.Errorf("%s:%d: row %s: %s", p.pack.File, p.nodes[i].Line, p.file.Rows[i].Metric,
		fmt.Sprintf(format, args...))
}

// loadPacks reads the packs in dir and applies them to t. The error lists the problems
// of all packs.
func (t *Table) loadPacks(dir fs.FS) error {
	names, err := fs.Glob(dir, "*.y*ml")
	if err != nil {
		return err
	}
	if len(names) > maxPacks {
		return fmt.Errorf("the directory of packs has %d files; at most %d are read", len(names), maxPacks)
	}
	var packs []*tenant
	var errs []error
	files := map[string]string{}
	for _, name := range names {
		p, problems := readPack(dir, name)
		if len(problems) > 0 {
			errs = append(errs, problems...)
			continue
		}
		if other := files[p.pack.Name]; other != "" {
			errs = append(errs, fmt.Errorf("%s: %s has the pack name %s too", name, other, p.pack.Name))
		}
		files[p.pack.Name] = name
		packs = append(packs, p)
	}
	for _, apply := range []func(*tenant) []error{t.addDefinitions, t.addRows, t.checkRows} {
		for _, p := range packs {
			errs = append(errs, apply(p)...)
		}
	}
	for _, p := range packs {
		t.Packs = append(t.Packs, p.pack)
	}
	if len(errs) > maxProblems {
		errs = append(errs[:maxProblems], fmt.Errorf("%d more problems", len(errs)-maxProblems))
	}
	return errors.Join(errs...)
}

// readPack reads one pack and checks everything that does not depend on the table.
func readPack(dir fs.FS, name string) (*tenant, []error) {
	fail := func(format string, args ...any) (*tenant, []error) {
		return nil, []error{fmt.Errorf("%s: %s", name, fmt.Sprintf(format, args...))}
	}
	if !strings.HasSuffix(name, ".yaml") {
		return fail("the name of a pack ends in .yaml")
	}
	info, err := fs.Stat(dir, name)
	if err != nil {
		return nil, []error{err}
	}
	if !info.Mode().IsRegular() || info.Size() > maxPackBytes {
		return fail("a pack is a file of at most %d bytes", maxPackBytes)
	}
	p := &tenant{}
	root, problems, err := readYAML(dir, name, packShape(), &p.file)
	if err != nil {
		return nil, []error{err}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	f := &p.file
	p.pack = &Pack{Name: f.Pack, Version: f.Version, Vendor: f.Vendor, Title: cmp.Or(f.Title, f.Pack), Tenant: true,
		File: name}
	if slices.Contains(reservedPacks, f.Pack) {
		return fail("pack: the name %s is reserved", f.Pack)
	}
	if rows := member(root, "metrics"); rows != nil {
		for _, n := range rows.Content {
			p.nodes = append(p.nodes, resolve(n))
		}
	}
	return p, nil
}

// addDefinitions adds the codes and units of a pack.
func (t *Table) addDefinitions(p *tenant) (errs []error) {
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", p.pack.File, fmt.Sprintf(format, args...)))
	}
	for _, prefix := range sortedKeys(p.file.Codes) {
		s := p.file.Codes[prefix]
		known := t.systemURL(prefix)
		switch {
		case known == "" && s.URL == "":
			fail("codes.%s: a new code system needs its url", prefix)
			continue
		case known != "" && s.URL != "" && s.URL != known:
			fail("codes.%s: the code system has the url %s", prefix, known)
			continue
		case s.Publish && known != "", s.URL != "" && strings.HasPrefix(s.URL, fhir.Canonical+"/") && known == "":
			fail("codes.%s: this server already publishes the code system, or another pack defines it", prefix)
			continue
		}
		if known == "" {
			t.systems[prefix] = s.URL
			t.Systems = append(t.Systems, System{prefix, s.URL, cmp.Or(s.Title, prefix), s.Publish, p.pack})
			known = s.URL
		}
		for _, code := range sortedKeys(s.Codes) {
			name, c := prefix+" "+code, Code{known, code, s.Codes[code]}
			if old, ok := t.Codes[name]; ok && old != c {
				fail("codes.%s: the code %s has the display %q; a display cannot be overridden", prefix, code,
					old.Display)
				continue
			}
			t.Codes[name] = c
		}
	}
	for _, ucum := range sortedKeys(p.file.Units) {
		if err := t.addUnit(ucum, p.file.Units[ucum], p.pack); err != nil {
			fail("units.%s: %v", ucum, err)
		}
	}
	return errs
}

// addUnit adds a unit or further spellings of a unit. pack is nil for units.yaml.
func (t *Table) addUnit(ucum string, u unitFile, pack *Pack) error {
	unit, known := t.Units[ucum]
	switch {
	case !known && u.Text == "":
		return errors.New("a new unit needs its text")
	case known && u.Text != "" && u.Text != unit.Text:
		return errors.New("the text of a unit cannot be overridden")
	case !known:
		unit = Unit{Text: u.Text, Accepts: Conversions{}}
	}
	for _, a := range u.Accepts {
		c, ok := decimal.NewConversion(a.Times, a.Plus)
		if !ok {
			return errors.New("times or plus is not a number")
		}
		for _, spelling := range a.As {
			if _, taken := unit.Accepts[spelling]; taken {
				return fmt.Errorf("the spelling %q is already accepted", spelling)
			}
			unit.Accepts[spelling] = c
			unit.Spellings = append(unit.Spellings, Spelling{spelling, a.Times, a.Plus, pack})
		}
	}
	if !known && pack != nil && len(unit.Accepts) == 0 {
		return errors.New("a new unit needs an accepted spelling")
	}
	t.Units[ucum] = unit
	return nil
}

// addRows adds, overrides and removes rows.
func (t *Table) addRows(p *tenant) (errs []error) {
	v := t.vendor(p.pack.Vendor)
	if v == nil {
		return []error{fmt.Errorf("%s: vendor: there is no vendor %s", p.pack.File, p.pack.Vendor)}
	}
	if t.vendor(p.pack.Name) != nil {
		return []error{fmt.Errorf("%s: pack: %s is the name of a built-in pack", p.pack.File, p.pack.Name)}
	}
	for i := range p.file.Rows {
		row := &p.file.Rows[i]
		change := Change{Metric: row.Metric, Kind: ChangeAdd, Fields: statedFields(p.nodes[i])}
		claim := p.pack.Vendor + " " + row.Metric
		if other := t.claims[claim]; other != nil {
			errs = append(errs, p.fail(i, "%s changes this row too; a row is changed by one pack, and once",
				other.File))
			continue
		}
		t.claims[claim] = p.pack
		at := slices.IndexFunc(v.Rows, func(r Row) bool { return r.Metric == row.Metric })
		if of := v.rowNamed(row.Metric); at < 0 && of != nil {
			errs = append(errs, p.fail(i, "this is another name of the row %s; override that row", of.Metric))
			continue
		}
		switch {
		case row.Remove && len(change.Fields) > 1:
			errs = append(errs, p.fail(i, "remove allows no other field"))
			continue
		case row.Remove && at < 0:
			errs = append(errs, p.fail(i, "there is no such row to remove"))
			continue
		case row.Remove:
			change.Kind = ChangeRemove
			t.Replaced = append(t.Replaced, Replaced{v.Rows[at], p.pack, true})
			v.Rows = slices.Delete(v.Rows, at, at+1)
		case at < 0:
			row.Pack = p.pack
			v.Rows = append(v.Rows, row.Row)
		default:
			change.Kind = ChangeOverride
			changed := v.Rows[at].overridden(&row.Row, p.nodes[i])
			if err := keepsIdentity(&v.Rows[at], &changed); err != nil {
				errs = append(errs, p.fail(i, "%v", err))
				continue
			}
			changed.Pack, changed.Base = p.pack, v.Rows[at].Pack
			t.Replaced = append(t.Replaced, Replaced{v.Rows[at], p.pack, false})
			v.Rows[at] = changed
		}
		p.pack.Changes = append(p.pack.Changes, change)
	}
	return errs
}

// checkRows checks the rows that a pack has changed, after all packs were applied.
func (t *Table) checkRows(p *tenant) (errs []error) {
	v := t.vendor(p.pack.Vendor)
	if v == nil {
		return nil
	}
	names := map[string]string{}
	for i := range v.Rows {
		for _, name := range append([]string{v.Rows[i].Metric}, v.Rows[i].Also...) {
			if other, ok := names[name]; ok && (v.Rows[i].Pack == p.pack) {
				errs = append(errs, fmt.Errorf("%s: row %s: the name %s belongs to the row %s", p.pack.File,
					v.Rows[i].Metric, name, other))
			}
			names[name] = v.Rows[i].Metric
		}
	}
	for i := range p.file.Rows {
		metric := p.file.Rows[i].Metric
		at := slices.IndexFunc(v.Rows, func(r Row) bool { return r.Metric == metric && r.Pack == p.pack })
		if at >= 0 {
			if err := t.checkRow(v, &v.Rows[at]); err != nil {
				errs = append(errs, p.fail(i, "%v", err))
			}
		}
	}
	for _, c := range p.pack.Changes {
		for i := range v.Rows {
			if c.Kind == ChangeRemove && v.Rows[i].SegmentsOf == c.Metric {
				errs = append(errs, fmt.Errorf("%s: row %s: the row %s is derived into it, so it cannot be removed",
					p.pack.File, c.Metric, v.Rows[i].Metric))
			}
		}
	}
	return errs
}

// overridden returns r with the fields that a row of a pack states. Components are
// overridden by name, field by field; all other lists and mappings are replaced.
func (r *Row) overridden(by *Row, node *yaml.Node) Row {
	out := *r
	override(&out, by, node)
	if components := member(node, "components"); components != nil {
		out.Components = slices.Clone(r.Components)
		for i, n := range components.Content {
			c := &by.Components[i]
			at := slices.IndexFunc(out.Components, func(old Component) bool { return old.Name == c.Name })
			if at < 0 {
				out.Components = append(out.Components, *c)
				continue
			}
			override(&out.Components[at], c, resolve(n))
		}
	}
	return out
}

// override copies the fields that node states from by to out.
func override[T any](out, by *T, node *yaml.Node) {
	to, from := reflect.ValueOf(out).Elem(), reflect.ValueOf(by).Elem()
	for i := range to.NumField() {
		if name := to.Type().Field(i).Tag.Get("yaml"); name != "-" && member(node, name) != nil {
			to.Field(i).Set(from.Field(i))
		}
	}
}

// statedFields returns the fields that a row states, without metric.
func statedFields(node *yaml.Node) (out []string) {
	for i := 0; i+1 < len(node.Content); i += 2 {
		if name := node.Content[i].Value; name != "metric" {
			out = append(out, name)
		}
	}
	return out
}

// keepsIdentity returns an error if the override of a row would give samples that are
// stored already other ids, or none: see package mapping, "Identity".
func keepsIdentity(old, changed *Row) error {
	switch {
	case !slices.Equal(old.Also, changed.Also):
		return errors.New("also cannot be overridden: it decides which samples are one metric")
	case (old.Rate > 0) != (changed.Rate > 0):
		return errors.New("whether a row has a rate cannot be overridden: it decides how the ids of samples are made")
	case (old.Shape == ShapeDevice) != (changed.Shape == ShapeDevice):
		return errors.New("the shape device cannot be overridden: its samples are no Observations")
	case old.Rate == 0:
		return nil
	case old.Unit != changed.Unit || !sameMap(old.Scale, changed.Scale):
		return errors.New("unit and scale of a row with a rate cannot be overridden: converted numbers are part of ids")
	case !slices.EqualFunc(old.Variants, changed.Variants, func(x, y Variant) bool {
		return reflect.DeepEqual(x.When, y.When) && x.Unit == y.Unit
	}):
		return errors.New("variants of a row with a rate can be overridden only in codes and ranges: " +
			"converted numbers are part of ids")
	}
	for i := range changed.Components {
		c, before := &changed.Components[i], Component{}
		at := slices.IndexFunc(old.Components, func(o Component) bool { return o.Name == c.Name })
		if at >= 0 {
			before = old.Components[at]
		}
		if before.Unit != c.Unit || !sameMap(before.Scale, c.Scale) {
			return fmt.Errorf("component %s: unit and scale of a row with a rate cannot be overridden: "+
				"converted numbers are part of ids", c.Name)
		}
	}
	return nil
}

// sameMap reports whether two mappings are equal; nil equals an empty one.
func sameMap(a, b map[string]string) bool {
	return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b)
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
