// Package table loads the metric table: which vendor metric becomes which
// code, unit, category and profile.
//
// The table is one YAML file per vendor with one row per metric. codes.yaml
// holds the display of every standard code, and units.yaml holds every UCUM
// unit with the vendor spellings that are accepted for it and their exact
// conversions. table.schema.json describes the vendor files; the package's test
// validates them against it. Load checks the rules that a JSON Schema cannot
// express.
package table

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"

	"gopkg.in/yaml.v3"

	"pulsegate/fhir"
	"pulsegate/mapping/decimal"
)

//go:embed *.yaml
var builtin embed.FS

// Names of the files that are not vendor files.
const (
	unitsFile = "units.yaml"
	codesFile = "codes.yaml"
)

// Builtin returns the tables that are compiled into the binary.
func Builtin() fs.FS { return builtin }

// Values of Row.Trust: how well sources support the standard codes of a row.
const (
	TrustSure     = "sure"
	TrustDoubtful = "doubtful"
	TrustLocal    = "local"
)

// Values of Row.Shape.
const (
	ShapeQuantity   = "quantity"   // valueQuantity, or valueRange for an interval
	ShapeCodeable   = "codeable"   // valueCodeableConcept
	ShapeComponents = "components" // components without a main value
	ShapeSampled    = "sampled"    // SampledData in a component
	ShapeEvent      = "event"      // an occurrence, with or without a value
	ShapeDevice     = "device"     // facts about the Device, no Observation
)

// Code is a standard code from codes.yaml.
type Code struct{ System, Code, Display string }

// Component describes one component of a row's Observation.
type Component struct {
	Name     string            `yaml:"name"`
	Display  string            `yaml:"display"`
	Codes    []string          `yaml:"codes"`
	Doubtful []string          `yaml:"doubtful"`
	Unit     string            `yaml:"unit"`
	Scale    map[string]string `yaml:"scale"`
	Range    []float64         `yaml:"range"`
	Zero     string            `yaml:"zero"` // ZeroAbsent or ""
	// Required is set if the profile demands the component. Without a value it
	// is written with a dataAbsentReason.
	Required bool `yaml:"required"`
	// Shape is ShapeCodeable if free text is written as a CodeableConcept.
	Shape  string            `yaml:"shape"`
	Values map[string]string `yaml:"values"`
}

// ZeroAbsent is the value of Row.Zero and Component.Zero if the vendor writes 0
// for a value that was not measured.
const ZeroAbsent = "absent"

// When is the condition of a Variant. All fields that are set must hold.
type When struct {
	Units   []string `yaml:"units"`
	Day     *bool    `yaml:"day"`
	Channel string   `yaml:"channel"`
}

// Variant replaces the codes, the unit and the range of a row for the samples
// that match When.
type Variant struct {
	When     When      `yaml:"when"`
	Codes    []string  `yaml:"codes"`
	Doubtful []string  `yaml:"doubtful"`
	Unit     string    `yaml:"unit"`
	Range    []float64 `yaml:"range"`
}

// Row describes one metric of one vendor.
type Row struct {
	// Pack is the pack that the row comes from. If a pack overrides a row of
	// another one, it is the overriding pack.
	Pack     *Pack    `yaml:"-"`
	Metric   string   `yaml:"metric"`
	Also     []string `yaml:"also"`
	Name     string   `yaml:"name"`
	Trust    string   `yaml:"trust"`
	Codes    []string `yaml:"codes"`
	Doubtful []string `yaml:"doubtful"`
	Category string   `yaml:"category"`
	// Refined is a finer category from this project's CodeSystem, written in
	// addition to Category.
	Refined string `yaml:"refined"`
	Profile string `yaml:"profile"`
	Shape   string `yaml:"shape"`
	// Rate is the typical number of samples per day from one source. A row with
	// a rate is a stream.
	Rate int `yaml:"rate"`
	// SegmentsOf names the row that is derived from all stored samples of this
	// row.
	SegmentsOf string            `yaml:"segmentsOf"`
	Unit       string            `yaml:"unit"`
	Scale      map[string]string `yaml:"scale"`
	Range      []float64         `yaml:"range"`
	Zero       string            `yaml:"zero"` // ZeroAbsent or ""
	Method     string            `yaml:"method"`
	Values     map[string]string `yaml:"values"`
	Series     []string          `yaml:"series"`
	Components []Component       `yaml:"components"`
	Variants   []Variant         `yaml:"variants"`
}

// Vendor holds the file of one vendor.
type Vendor struct {
	Vendor string `yaml:"vendor"`
	// Version is the semantic version of the pack: the first number counts changes
	// that need a new mapping of stored data, the second one new rows, the third one
	// texts.
	Version string    `yaml:"version"`
	System  string    `yaml:"system"` // last segment of the URL of the vendor's CodeSystem
	Title   string    `yaml:"title"`
	Shared  yaml.Node `yaml:"shared"` // holds the YAML anchors, not read
	Rows    []Row     `yaml:"metrics"`
}

// Pack identifies a mapping pack: a versioned file with rows for one vendor.
type Pack struct {
	Name    string // of the pack; a built-in pack has the code of its vendor
	Version string
}

// URL returns the canonical URL of the ConceptMap that publishes the pack, without
// the version.
func (p *Pack) URL() string { return fhir.Canonical + "/ConceptMap/" + p.Name }

// RowURI names a row of the pack: the canonical URL of its ConceptMap with the version,
// and the row as the fragment.
func (p *Pack) RowURI(metric string) string { return p.URL() + "|" + p.Version + "#" + metric }

// SystemURL returns the URL of the CodeSystem with the vendor's own codes.
func (v *Vendor) SystemURL() string { return fhir.Canonical + "/CodeSystem/" + v.System }

// Table is the loaded metric table.
type Table struct {
	Vendors []Vendor
	Units   map[string]Unit // by UCUM code
	Codes   map[string]Code // by system and code: "loinc 8867-4"
}

// Unit is a UCUM unit that Observations carry.
type Unit struct {
	Text    string // shown to people
	Accepts Conversions
}

// Load reads the tables in dir: units.yaml, codes.yaml and one file per vendor.
// An error names the file, the line or row, and the rule.
func Load(dir fs.FS) (*Table, error) {
	t := &Table{Units: map[string]Unit{}, Codes: map[string]Code{}}
	if err := t.loadUnits(dir); err != nil {
		return nil, err
	}
	if err := t.loadCodes(dir); err != nil {
		return nil, err
	}
	names, err := fs.Glob(dir, "*.yaml")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if name == unitsFile || name == codesFile {
			continue
		}
		var v Vendor
		if err := readYAML(dir, name, &v); err != nil {
			return nil, err
		}
		if v.Vendor+".yaml" != name {
			return nil, fmt.Errorf("%s: the file of vendor %s must be named %s.yaml", name, v.Vendor, v.Vendor)
		}
		pack := &Pack{Name: v.Vendor, Version: v.Version}
		for i := range v.Rows {
			v.Rows[i].Pack = pack
		}
		if err := t.check(name, &v); err != nil {
			return nil, err
		}
		t.Vendors = append(t.Vendors, v)
	}
	return t, nil
}

func (t *Table) loadUnits(dir fs.FS) error {
	var file struct {
		Units map[string]struct {
			Text    string `yaml:"text"`
			Accepts []struct {
				As    []string `yaml:"as"`
				Times string   `yaml:"times"`
				Plus  string   `yaml:"plus"`
			} `yaml:"accepts"`
		} `yaml:"units"`
	}
	if err := readYAML(dir, unitsFile, &file); err != nil {
		return err
	}
	for ucum, u := range file.Units {
		unit := Unit{Text: u.Text, Accepts: Conversions{}}
		for _, a := range u.Accepts {
			c, ok := decimal.NewConversion(a.Times, a.Plus)
			if !ok {
				return fmt.Errorf("%s: unit %s: times or plus is not a number", unitsFile, ucum)
			}
			for _, spelling := range a.As {
				unit.Accepts[spelling] = c
			}
		}
		t.Units[ucum] = unit
	}
	return nil
}

func (t *Table) loadCodes(dir fs.FS) error {
	var file struct {
		Systems map[string]struct {
			URL   string            `yaml:"url"`
			Codes map[string]string `yaml:"codes"`
		} `yaml:"systems"`
	}
	if err := readYAML(dir, codesFile, &file); err != nil {
		return err
	}
	for name, s := range file.Systems {
		for code, display := range s.Codes {
			t.Codes[name+" "+code] = Code{s.URL, code, display}
		}
	}
	return nil
}

func readYAML(dir fs.FS, name string, into any) error {
	raw, err := fs.ReadFile(dir, name)
	if err != nil {
		return err
	}
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
