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
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"gopkg.in/yaml.v3"

	"pulsegate/fhir"
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
	Pack *Pack `yaml:"-"`
	// Base is the built-in pack whose row Pack overrides, or nil.
	Base     *Pack    `yaml:"-"`
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
	// Profiles holds the URLs of further profiles that Observations claim.
	Profiles []string `yaml:"profiles"`
	Shape    string   `yaml:"shape"`
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

// SystemURL returns the URL of the CodeSystem with the vendor's own codes.
func (v *Vendor) SystemURL() string { return fhir.Canonical + "/CodeSystem/" + v.System }

// Table is the loaded metric table.
type Table struct {
	Vendors []Vendor
	Units   map[string]Unit // by UCUM code
	Codes   map[string]Code // by system and code: "loinc 8867-4"
	// Packs lists the packs in force: the built-in ones by vendor, then those of the
	// tenant by file name.
	Packs []*Pack
	// Systems lists the code systems that packs of the tenant define.
	Systems []System
	// Replaced lists the built-in rows that packs of the tenant override or remove.
	Replaced []Replaced
	// UnitsVersion is the version of units.yaml.
	UnitsVersion string

	systems map[string]string // URL by prefix
	claims  map[string]*Pack  // by vendor and metric: the pack that changes the row
}

// Replaced is a built-in row that a pack of the tenant overrides or removes.
type Replaced struct {
	Row
	By      *Pack
	Removed bool
}

// Unit is a UCUM unit that Observations carry.
type Unit struct {
	Text      string // shown to people
	Accepts   Conversions
	Spellings []Spelling
}

// Spelling is a spelling of a unit that is accepted: value * Times + Plus.
type Spelling struct {
	As          string
	Times, Plus string // decimals or quotients; "" is 1 and 0
	Pack        *Pack  // nil for units.yaml
}

// Load reads the tables in dir: units.yaml, codes.yaml and one file per vendor.
// An error names the file, the line or row, and the rule.
func Load(dir fs.FS) (*Table, error) { return LoadPacks(dir, nil) }

// LoadPacks is Load with the tenant's packs in a second directory, which may be nil.
// The error lists the problems of all packs.
func LoadPacks(dir, packs fs.FS) (*Table, error) {
	t := &Table{Units: map[string]Unit{}, Codes: map[string]Code{}, systems: map[string]string{},
		claims: map[string]*Pack{}}
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
		if err := t.loadVendor(dir, name); err != nil {
			return nil, err
		}
	}
	if packs != nil {
		if err := t.loadPacks(packs); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t *Table) loadVendor(dir fs.FS, name string) error {
	var v Vendor
	_, problems, err := readYAML(dir, name, vendorShape(), &v)
	if err != nil {
		return err
	}
	if len(problems) > 0 {
		return problems[0]
	}
	if v.Vendor+".yaml" != name {
		return fmt.Errorf("%s: the file of vendor %s must be named %s.yaml", name, v.Vendor, v.Vendor)
	}
	pack := &Pack{Name: v.Vendor, Version: v.Version, Vendor: v.Vendor, Title: v.Title}
	for i := range v.Rows {
		v.Rows[i].Pack = pack
	}
	if err := t.check(name, &v); err != nil {
		return err
	}
	t.Vendors, t.Packs = append(t.Vendors, v), append(t.Packs, pack)
	return nil
}

// vendor returns the vendor with the given code, or nil.
func (t *Table) vendor(code string) *Vendor {
	for i := range t.Vendors {
		if t.Vendors[i].Vendor == code {
			return &t.Vendors[i]
		}
	}
	return nil
}

// rowNamed returns the row for a name of a metric, or nil.
func (v *Vendor) rowNamed(metric string) *Row {
	for i := range v.Rows {
		if r := &v.Rows[i]; r.Metric == metric || slices.Contains(r.Also, metric) {
			return r
		}
	}
	return nil
}

// Row returns the row for a metric of a vendor, by any of its names, or nil.
func (t *Table) Row(vendor, metric string) *Row {
	if v := t.vendor(vendor); v != nil {
		return v.rowNamed(metric)
	}
	return nil
}

// systemURL returns the URL of the code system with a prefix, or "".
func (t *Table) systemURL(prefix string) string { return t.systems[prefix] }

func (t *Table) loadUnits(dir fs.FS) error {
	var file struct {
		Version string              `yaml:"version"`
		Units   map[string]unitFile `yaml:"units"`
	}
	if _, _, err := readYAML(dir, unitsFile, nil, &file); err != nil {
		return err
	}
	if t.UnitsVersion = file.Version; !versionPattern.MatchString(t.UnitsVersion) {
		return fmt.Errorf("%s: version: must match %s", unitsFile, versionPattern)
	}
	for _, ucum := range sortedKeys(file.Units) {
		if err := t.addUnit(ucum, file.Units[ucum], nil); err != nil {
			return fmt.Errorf("%s: unit %s: %w", unitsFile, ucum, err)
		}
	}
	return nil
}

func (t *Table) loadCodes(dir fs.FS) error {
	var file struct {
		Systems map[string]codeSystem `yaml:"systems"`
	}
	if _, _, err := readYAML(dir, codesFile, nil, &file); err != nil {
		return err
	}
	for name, s := range file.Systems {
		t.systems[name] = s.URL
		for code, display := range s.Codes {
			t.Codes[name+" "+code] = Code{s.URL, code, display}
		}
	}
	return nil
}

// readYAML decodes a file, which has one document. If the document has problems by s,
// they are returned and into is not set. s may be nil; unknown fields are refused in any
// case.
func readYAML(dir fs.FS, name string, s shape, into any) (root *yaml.Node, problems []error, err error) {
	raw, err := fs.ReadFile(dir, name)
	if err != nil {
		return nil, nil, err
	}
	fail := func(err error) (*yaml.Node, []error, error) { return nil, nil, fmt.Errorf("%s: %w", name, err) }
	var doc, more yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(raw))
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return fail(errors.New("the file is empty"))
	case err != nil:
		return fail(err)
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return fail(errors.New("the file has more than one document"))
	}
	if root = doc.Content[0]; s != nil {
		if problems = checkShape(name, root, s); len(problems) > 0 {
			return nil, problems, nil
		}
	}
	strict := yaml.NewDecoder(bytes.NewReader(raw))
	strict.KnownFields(true)
	if err := strict.Decode(into); err != nil {
		return fail(err)
	}
	return root, nil, nil
}
