package preferred

import (
	"bytes"
	"cmp"
	_ "embed"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

//go:embed preferred.yaml
var builtin []byte

// Kinds of concepts.
const (
	dayTotal   = "day-total"   // a stated total of the day, or else the sum of the samples
	dayValue   = "day-value"   // a value of the day, stated or among samples
	nightValue = "night-value" // a value of the night, stated or the mean of the samples in it
	night      = "night"       // sleep sessions
)

// account is the kind of a source that names no known device.
const account = "account"

// Bounds of a policy file.
const (
	maxPolicyBytes = 256 << 10
	maxConcepts    = 100
	maxList        = 50 // codes, units, words and ranks of one list
)

// Policy says which of several sources is preferred. It is immutable.
type Policy struct {
	Version  string     `yaml:"version"`
	Ranks    [][]string `yaml:"ranks"`
	Kinds    []Kind     `yaml:"kinds"`
	Concepts []Concept  `yaml:"concepts"`

	byInput map[element.Coding][]int // indexes of the concepts, by system and code
}

// Kind is a kind of device with the words that tell it.
type Kind struct {
	Kind  string   `yaml:"kind"`
	Words []string `yaml:"words"`
}

// Concept describes one preferred value.
type Concept struct {
	// Name is the code of the concept in CodeSystem/measures, and Title its display.
	Name  string `yaml:"name"`
	Title string `yaml:"title"`
	Kind  string `yaml:"kind"`
	// Pick is "mean" or "last", of several values of a source that count.
	Pick     string     `yaml:"pick"`
	Codes    []Code     `yaml:"codes"`    // standard codes of the derived Observation
	Unit     string     `yaml:"unit"`     // UCUM code of the derived value
	Text     string     `yaml:"text"`     // unit as people read it; the default is Unit
	Units    []string   `yaml:"units"`    // further UCUM codes of inputs, which mean the same
	Category []string   `yaml:"category"` // codes of Observation.category
	Profile  string     `yaml:"profile"`  // profile of HL7, or ""
	Ranks    [][]string `yaml:"ranks"`    // instead of Policy.Ranks
	Stated   []string   `yaml:"stated"`
	Samples  []string   `yaml:"samples"`
	// Components are the components of a night.
	Components []Code `yaml:"components"`

	own            element.Coding
	stated, inputs []element.Coding
}

// Code is a code of a derived Observation.
type Code struct {
	Code    string `yaml:"code"` // system and code: "loinc 8867-4"
	Display string `yaml:"display"`
	// Inputs are further codes of the component in the inputs.
	Inputs []string `yaml:"inputs"`

	coding element.Coding
	inputs []element.Coding
}

// Builtin returns the built-in policy.
func Builtin() *Policy {
	p, err := parsePolicy(builtin)
	if err != nil {
		panic(err) // a test loads it
	}
	return p
}

// Codes returns the codes in CodeSystem/measures that only preferred values have.
func (p *Policy) Codes() (out []element.Coding) {
	for i := range p.Concepts {
		c := &p.Concepts[i]
		out = append(out, c.own)
		for _, part := range c.Components {
			if part.coding.System == measures {
				out = append(out, part.coding)
			}
		}
	}
	return out
}

// Load reads the policy in a file, or the built-in one if path is empty. An error names
// the concept and the rule.
func Load(path string) (*Policy, error) {
	const op = "preferred.Load"
	raw := builtin
	if path != "" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fhir.Wrap(op, err)
		}
		defer func() { _ = f.Close() }() // only read
		if raw, err = io.ReadAll(io.LimitReader(f, maxPolicyBytes+1)); err != nil {
			return nil, fhir.Wrap(op, err)
		}
		if len(raw) > maxPolicyBytes {
			return nil, fmt.Errorf("preferred-policy: the file has more than %d bytes", maxPolicyBytes)
		}
	}
	p, err := parsePolicy(raw)
	if err != nil {
		return nil, fmt.Errorf("preferred-policy: %w", err)
	}
	return p, nil
}

func parsePolicy(raw []byte) (*Policy, error) {
	p := &Policy{}
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	if err := d.Decode(p); err != nil {
		return nil, err
	}
	if !versionPattern.MatchString(p.Version) {
		return nil, fmt.Errorf("version must be a semantic version, such as 1.0.0")
	}
	if len(p.Concepts) == 0 || len(p.Concepts) > maxConcepts {
		return nil, fmt.Errorf("concepts must have 1 to %d entries", maxConcepts)
	}
	if err := p.checkKinds(); err != nil {
		return nil, err
	}
	p.byInput = map[element.Coding][]int{}
	for i := range p.Concepts {
		c := &p.Concepts[i]
		if err := p.compile(c); err != nil {
			return nil, fmt.Errorf("concept %d (%s): %w", i+1, c.Name, err)
		}
		if slices.ContainsFunc(p.Concepts[:i], func(o Concept) bool { return o.Name == c.Name }) {
			return nil, fmt.Errorf("concept %d: %s is defined twice", i+1, c.Name)
		}
		for _, in := range c.inputs {
			p.byInput[in] = append(p.byInput[in], i)
		}
	}
	return p, nil
}

var (
	versionPattern = regexp.MustCompile(`^[0-9]{1,5}\.[0-9]{1,5}\.[0-9]{1,5}$`)
	namePattern    = regexp.MustCompile(`^preferred-[a-z0-9-]{1,50}$`)
	kindPattern    = regexp.MustCompile(`^[a-z][a-z-]{0,31}$`)
	codePattern    = regexp.MustCompile(`^([a-z][a-z-]{0,31}) ([!-~]{1,120})$`)
	unitPattern    = regexp.MustCompile(`^[!-~]{1,40}$`)
)

func (p *Policy) checkKinds() error {
	for i, k := range p.Kinds {
		if !kindPattern.MatchString(k.Kind) || len(k.Words) == 0 || len(k.Words) > maxList {
			return fmt.Errorf("kinds: entry %d needs a kind in lower-case letters and 1 to %d words", i+1, maxList)
		}
		for _, w := range k.Words {
			if w == "" || w != strings.ToLower(w) || len(words(w)) != 1 {
				return fmt.Errorf("kinds: entry %d: each of words must be one lower-case word", i+1)
			}
		}
	}
	return p.checkRanks(p.Ranks)
}

// checkRanks checks that each kind has one rank.
func (p *Policy) checkRanks(ranks [][]string) error {
	seen := map[string]bool{}
	for _, list := range ranks {
		for _, kind := range list {
			if seen[kind] || len(seen) >= maxList {
				return fmt.Errorf("ranks: each kind must have one place")
			}
			seen[kind] = true
			if kind != account && !slices.ContainsFunc(p.Kinds, func(k Kind) bool { return k.Kind == kind }) {
				return fmt.Errorf("ranks: %q is not one of kinds", kind)
			}
		}
	}
	for _, k := range append([]Kind{{Kind: account}}, p.Kinds...) {
		if !seen[k.Kind] {
			return fmt.Errorf("ranks: %s has no place", k.Kind)
		}
	}
	return nil
}

// compile checks a concept and resolves its codes.
func (p *Policy) compile(c *Concept) (err error) {
	if !namePattern.MatchString(c.Name) {
		return fmt.Errorf("name must be preferred- followed by lower-case letters, digits and hyphens")
	}
	if c.Title == "" || len(c.Title) > 200 {
		return fmt.Errorf("title must have 1 to 200 characters")
	}
	if !slices.Contains([]string{dayTotal, dayValue, nightValue, night}, c.Kind) {
		return fmt.Errorf("kind must be day-total, day-value, night-value or night")
	}
	if !slices.Contains([]string{"", "mean", "last"}, c.Pick) {
		return fmt.Errorf("pick must be mean or last")
	}
	if len(c.Category) == 0 || len(c.Category) > maxList {
		return fmt.Errorf("category needs a code")
	}
	for _, k := range c.Category {
		if !kindPattern.MatchString(k) {
			return fmt.Errorf("category must be codes in lower-case letters")
		}
	}
	if c.Ranks == nil {
		c.Ranks = p.Ranks
	} else if err := p.checkRanks(c.Ranks); err != nil {
		return err
	}
	if len(c.Units) > maxList {
		return fmt.Errorf("units may have %d entries", maxList)
	}
	for _, u := range append([]string{c.Unit}, c.Units...) {
		if !unitPattern.MatchString(u) {
			return fmt.Errorf("unit and units must be UCUM codes")
		}
	}
	c.Text = cmp.Or(c.Text, c.Unit)
	c.own = element.Coding{System: measures, Code: c.Name, Display: c.Title}
	if c.stated, err = codings(c.Stated); err != nil {
		return fmt.Errorf("stated: %w", err)
	}
	samples, err := codings(c.Samples)
	if err != nil {
		return fmt.Errorf("samples: %w", err)
	}
	c.inputs = append(slices.Clone(c.stated), samples...)
	if len(c.inputs) == 0 {
		return fmt.Errorf("it has no inputs; name them in stated or samples")
	}
	for _, list := range [][]Code{c.Codes, c.Components} {
		for i := range list {
			if err := list[i].compile(); err != nil {
				return err
			}
		}
	}
	if len(c.Components) > 0 && c.Kind != night {
		return fmt.Errorf("only a night has components")
	}
	return nil
}

func (c *Code) compile() (err error) {
	if c.coding, err = codingOf(c.Code); err != nil {
		return err
	}
	c.coding.Display = c.Display
	if c.inputs, err = codings(c.Inputs); err != nil {
		return err
	}
	c.inputs = append(c.inputs, element.Coding{System: c.coding.System, Code: c.coding.Code})
	return nil
}

func codings(list []string) (out []element.Coding, err error) {
	if len(list) > maxList {
		return nil, fmt.Errorf("a list may have %d codes", maxList)
	}
	for _, s := range list {
		c, err := codingOf(s)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// codingOf resolves a system and code: loinc is LOINC, and any other system one of this
// server's CodeSystems.
func codingOf(s string) (element.Coding, error) {
	m := codePattern.FindStringSubmatch(s)
	if m == nil {
		return element.Coding{}, fmt.Errorf("a code must be a system and a code, such as loinc 8867-4")
	}
	system := fhir.Canonical + "/CodeSystem/" + m[1]
	if m[1] == "loinc" {
		system = element.LOINC
	}
	return element.Coding{System: system, Code: m[2]}, nil
}

// measures is the CodeSystem of this project's own concepts.
const measures = fhir.Canonical + "/CodeSystem/measures"

// Tag is the code in CodeSystem/measures that meta.tag of every preferred value has.
const Tag = "preferred"

// words splits a text into lower-case words.
func words(s string) []string {
	return strings.FieldsFunc(strings.ToLower(s), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
}

// kindOf returns the kind of a device with a text of its type, names and model.
func (p *Policy) kindOf(text string) string {
	have := words(text)
	for _, k := range p.Kinds {
		for _, w := range k.Words {
			if slices.ContainsFunc(have, func(h string) bool { return strings.HasPrefix(h, w) }) {
				return k.Kind
			}
		}
	}
	return account
}

// rank returns the place of a kind, from 0.
func (c *Concept) rank(kind string) int {
	return slices.IndexFunc(c.Ranks, func(list []string) bool { return slices.Contains(list, kind) })
}

// accepts reports whether a value in a UCUM unit can be used as it is.
func (c *Concept) accepts(unit string) bool { return unit == c.Unit || slices.Contains(c.Units, unit) }

// isStated reports whether one of the codes states a value of a day or night.
func (c *Concept) isStated(codes []element.Coding) bool {
	return slices.ContainsFunc(codes, func(have element.Coding) bool { return hasCode(c.stated, have) })
}

func hasCode(list []element.Coding, code element.Coding) bool {
	return slices.ContainsFunc(list, func(c element.Coding) bool {
		return c.System == code.System && c.Code == code.Code
	})
}

// explain returns the policy in words. It describes the winner only: another source may
// be hidden from the reader.
func (p *Policy) explain(c *Concept, d *derived) string {
	var order []string
	for _, list := range c.Ranks {
		order = append(order, strings.Join(list, " or "))
	}
	how := map[string]string{dayTotal: "a total that the source states before the sum of its samples, ",
		dayValue:   "a value that the source states for the day before its samples, ",
		nightValue: "a value that the source states for the night before the mean of its samples in the night, ",
		night:      "sessions that overlap or follow within 90 minutes are one night, "}[c.Kind]
	return "One source is used, by policy " + p.Version + ": " + strings.Join(order, " before ") + "; " + how +
		"then the more complete source. Used here: " + d.how + " of the kind " + d.kind + "."
}
