package mapping

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

//go:embed table
var embedded embed.FS

// Builtin is the table that this build carries, as a folder.
func Builtin() fs.FS {
	sub, err := fs.Sub(embedded, "table")
	if err != nil {
		return embedded
	}
	return sub
}

// Trust says how well the row's standard codes are supported by sources.
const (
	TrustSure     = "sure"
	TrustDoubtful = "doubtful"
	TrustLocal    = "local"
)

// Shapes of a row.
const (
	ShapeQuantity   = "quantity"   // valueQuantity (a Range for an interval)
	ShapeCodeable   = "codeable"   // valueCodeableConcept
	ShapeComponents = "components" // no value of its own
	ShapeSampled    = "sampled"    // SampledData in a component
	ShapeEvent      = "event"      // that it happened is the statement
	ShapeDevice     = "device"     // facts of the Device only, no Observation
)

// Code is a standard code of the dictionary.
type Code struct{ System, Code, Display string }

// Component is the row of one component.
type Component struct {
	Name     string            `yaml:"name"`
	Display  string            `yaml:"display"`
	Codes    []string          `yaml:"codes"`
	Doubtful []string          `yaml:"doubtful"`
	Unit     string            `yaml:"unit"`
	Scale    map[string]string `yaml:"scale"`
	Range    []float64         `yaml:"range"`
	Zero     string            `yaml:"zero"`     // see zeroAbsent
	Required bool              `yaml:"required"` // the profile wants it: without a value it states that this is absent
	Shape    string            `yaml:"shape"`    // "codeable": free text is written as a CodeableConcept
	Values   map[string]string `yaml:"values"`
}

// zeroAbsent is the value of Row.Zero and Component.Zero where the vendor
// writes 0 for what was not measured.
const zeroAbsent = "absent"

// When is the condition of a Variant; all that is given must hold.
type When struct {
	Units   []string `yaml:"units"`
	Day     *bool    `yaml:"day"`
	Channel string   `yaml:"channel"`
}

// Variant replaces a row's codes and unit where When fits.
type Variant struct {
	When     When      `yaml:"when"`
	Codes    []string  `yaml:"codes"`
	Doubtful []string  `yaml:"doubtful"`
	Unit     string    `yaml:"unit"`
	Range    []float64 `yaml:"range"`
}

// Row is one metric of one vendor.
type Row struct {
	Metric     string            `yaml:"metric"`
	Also       []string          `yaml:"also"`
	Name       string            `yaml:"name"`
	Trust      string            `yaml:"trust"`
	Codes      []string          `yaml:"codes"`
	Doubtful   []string          `yaml:"doubtful"`
	Category   string            `yaml:"category"`
	Refined    string            `yaml:"refined"` // a finer category of our own, beside Category
	Profile    string            `yaml:"profile"`
	Shape      string            `yaml:"shape"`
	Rate       int               `yaml:"rate"`       // typical samples a day of one source; 0: no stream
	SegmentsOf string            `yaml:"segmentsOf"` // the row that is made of all stored samples of this one
	Unit       string            `yaml:"unit"`
	Scale      map[string]string `yaml:"scale"`
	Range      []float64         `yaml:"range"`
	Zero       string            `yaml:"zero"` // see zeroAbsent
	Method     string            `yaml:"method"`
	Values     map[string]string `yaml:"values"`
	Series     []string          `yaml:"series"`
	Components []Component       `yaml:"components"`
	Variants   []Variant         `yaml:"variants"`
}

// Vendor is one vendor's file.
type Vendor struct {
	Vendor string    `yaml:"vendor"`
	System string    `yaml:"system"` // of the vendor's own codes, relative to fhir.Canonical
	Title  string    `yaml:"title"`
	Shared yaml.Node `yaml:"shared"` // anchors only
	Rows   []Row     `yaml:"metrics"`
}

// Table is the loaded metric table.
type Table struct {
	Vendors []Vendor
	codes   map[string]Code // "loinc 8867-4"
	units   map[string]unit
}

type unit struct {
	text    string
	accepts map[string]conversion
}

type unitsFile struct {
	Units map[string]struct {
		Text    string `yaml:"text"`
		Accepts []struct {
			As    []string `yaml:"as"`
			Times string   `yaml:"times"`
			Plus  string   `yaml:"plus"`
		} `yaml:"accepts"`
	} `yaml:"units"`
}

type codesFile struct {
	Systems map[string]struct {
		URL   string            `yaml:"url"`
		Codes map[string]string `yaml:"codes"`
	} `yaml:"systems"`
}

// Load reads a table folder: table.schema.json, units.yaml, codes.yaml and
// one file a vendor. An error names the file, the line or row, and the rule.
func Load(dir fs.FS) (*Table, error) {
	sch, err := readSchema(dir, "table.schema.json")
	if err != nil {
		return nil, err
	}
	t := &Table{codes: map[string]Code{}, units: map[string]unit{}}
	var uf unitsFile
	if err := readYAML(dir, "units.yaml", nil, &uf); err != nil {
		return nil, err
	}
	for ucum, u := range uf.Units {
		x := unit{text: u.Text, accepts: map[string]conversion{}}
		for _, a := range u.Accepts {
			c, ok := newConversion(a.Times, a.Plus)
			if !ok {
				return nil, fmt.Errorf("units.yaml: unit %s: times or plus is no number", ucum)
			}
			for _, as := range a.As {
				x.accepts[as] = c
			}
		}
		t.units[ucum] = x
	}
	var cf codesFile
	if err := readYAML(dir, "codes.yaml", nil, &cf); err != nil {
		return nil, err
	}
	for name, s := range cf.Systems {
		for code, display := range s.Codes {
			t.codes[name+" "+code] = Code{s.URL, code, display}
		}
	}
	names, err := fs.Glob(dir, "*.yaml")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if name == "units.yaml" || name == "codes.yaml" {
			continue
		}
		var v Vendor
		if err := readYAML(dir, name, sch, &v); err != nil {
			return nil, err
		}
		if v.Vendor+".yaml" != name {
			return nil, fmt.Errorf("%s: the file of vendor %s is named %s.yaml", name, v.Vendor, v.Vendor)
		}
		if err := t.check(name, &v); err != nil {
			return nil, err
		}
		t.Vendors = append(t.Vendors, v)
	}
	return t, nil
}

func readYAML(dir fs.FS, name string, sch *schema, into any) error {
	raw, err := fs.ReadFile(dir, name)
	if err != nil {
		return err
	}
	if sch != nil {
		var n yaml.Node
		if err := yaml.Unmarshal(raw, &n); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := sch.validate(&n, path.Base(name)); err != nil {
			return err
		}
	}
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// check holds the rules that a schema cannot say.
func (t *Table) check(file string, v *Vendor) error {
	seen := map[string]bool{}
	for i := range v.Rows {
		r := &v.Rows[i]
		fail := func(format string, args ...any) error {
			return fmt.Errorf("%s: row %s: %s", file, r.Metric, fmt.Sprintf(format, args...))
		}
		for _, m := range append([]string{r.Metric}, r.Also...) {
			if seen[m] {
				return fail("%s has two rows", m)
			}
			seen[m] = true
		}
		want := TrustLocal
		if len(r.Codes) > 0 && !strings.HasPrefix(r.Codes[0], "measures ") {
			want = TrustSure
		} else if len(r.Doubtful) > 0 {
			want = TrustDoubtful
		}
		if r.Trust != want {
			return fail("trust is %s, but its codes make it %s", r.Trust, want)
		}
		if r.Shape == ShapeQuantity && r.Unit == "" {
			return fail("a quantity needs a unit")
		}
		if r.SegmentsOf != "" && !slices.ContainsFunc(v.Rows, func(o Row) bool { return o.Metric == r.SegmentsOf }) {
			return fail("segmentsOf names no row")
		}
		if err := rateRule(r); err != nil {
			return fail("%v", err)
		}
		if err := rangeRule(r); err != nil {
			return fail("%v", err)
		}
		if err := t.known(r.Unit, r.Codes, r.Doubtful, r.Series); err != nil {
			return fail("%v", err)
		}
		for j := range r.Components {
			c := &r.Components[j]
			if err := t.known(c.Unit, c.Codes, c.Doubtful); err != nil {
				return fail("component %s: %v", c.Name, err)
			}
		}
		for j := range r.Variants {
			x := &r.Variants[j]
			if err := t.known(x.Unit, x.Codes, x.Doubtful); err != nil {
				return fail("variant %d: %v", j+1, err)
			}
		}
		if err := profileRule(r); err != nil {
			return fail("%v", err)
		}
	}
	return nil
}

// rangeRule wants what is possible stated wherever there is a unit, so that an
// absurd number is never published.
func rangeRule(r *Row) error {
	if r.Unit != "" && len(r.Range) != 2 {
		return fmt.Errorf("a unit needs a range")
	}
	for i := range r.Components {
		if c := &r.Components[i]; c.Unit != "" && len(c.Range) != 2 {
			return fmt.Errorf("component %s: a unit needs a range", c.Name)
		}
	}
	return nil
}

// rateRule: a stream is made of numbers, or of codes that the row knows.
func rateRule(r *Row) error {
	switch {
	case r.Rate == 0:
		return nil
	case r.Rate < 0 || r.Rate > 86400*1000:
		return fmt.Errorf("rate is not a number of samples a day")
	case r.Shape == ShapeQuantity:
		return nil
	case r.Shape == ShapeCodeable && len(r.Values) == 0:
		return fmt.Errorf("a rate of codes wants their values")
	case r.Shape != ShapeComponents && r.Shape != ShapeCodeable:
		return fmt.Errorf("a rate is for quantities, codes and components")
	}
	for i := range r.Components {
		if r.Components[i].Unit == "" {
			return fmt.Errorf("a rate wants numbers only, component %s has no unit", r.Components[i].Name)
		}
	}
	return nil
}

func (t *Table) known(u string, lists ...[]string) error {
	if _, ok := t.units[u]; !ok && u != "" {
		return fmt.Errorf("unit %s is not in units.yaml", u)
	}
	for _, l := range lists {
		for _, c := range l {
			if _, ok := t.codes[c]; !ok {
				return fmt.Errorf("code %s is not in codes.yaml", c)
			}
		}
	}
	return nil
}

// profiles are the base vital-signs profiles: the code each fixes and the
// UCUM codes it allows (FHIR R4, vital signs profiles; ucum-bodyweight,
// ucum-bodylength, ucum-bodytemp).
var profiles = map[string]struct {
	code  string
	units []string
}{
	"heartrate":  {"loinc 8867-4", []string{"/min"}},
	"resprate":   {"loinc 9279-1", []string{"/min"}},
	"oxygensat":  {"loinc 2708-6", []string{"%"}},
	"bodytemp":   {"loinc 8310-5", []string{"Cel", "[degF]"}},
	"bodyheight": {"loinc 8302-2", []string{"cm", "[in_i]"}},
	"bodyweight": {"loinc 29463-7", []string{"g", "kg", "[lb_av]"}},
	"bmi":        {"loinc 39156-5", []string{"kg/m2"}},
	"bp":         {"loinc 85354-9", []string{"mm[Hg]"}},
}

func profileRule(r *Row) error {
	if r.Profile == "" {
		for name, p := range profiles {
			if slices.Contains(r.Codes, p.code) {
				return fmt.Errorf("code %s needs the profile %s", p.code, name)
			}
		}
		return nil
	}
	p, ok := profiles[r.Profile]
	if !ok {
		return fmt.Errorf("profile %s is not a base vital-signs profile", r.Profile)
	}
	if !slices.Contains(r.Codes, p.code) {
		return fmt.Errorf("profile %s fixes %s", r.Profile, p.code)
	}
	if r.Unit != "" && !slices.Contains(p.units, r.Unit) {
		return fmt.Errorf("profile %s does not allow the unit %s", r.Profile, r.Unit)
	}
	if r.Category != "vital-signs" {
		return fmt.Errorf("profile %s wants the category vital-signs", r.Profile)
	}
	return nil
}
