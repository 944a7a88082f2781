package mapping

import (
	"encoding/json"
	"fmt"

	"pulsegate/fhir"
)

// ucum is the system of units.
const ucum = `"system":"http://unitsofmeasure.org"`

// rule is how one row (or component, or variant) is written: everything that
// does not depend on the sample is JSON already.
type rule struct {
	row        *Row
	head       []byte // meta ... up to and with "status":" is per sample; this is meta's inside
	category   []byte // ,"category":[...]
	categories []string
	code       []byte // {"coding":[...],"text":...}
	series     []byte // code of the SampledData component
	quantity   []byte // ,"unit":...,"system":...,"code":...
	ucum       string
	units      map[string]conversion
	scale      map[string]conversion
	low, high  float64
	ranged     bool
	zeroAbsent bool              // zero stands for "not measured"
	concept    bool              // a text is written as a CodeableConcept
	required   []string          // components that are written without a value, too
	values     map[string][]byte // vendor enum -> CodeableConcept
	system     string            // vendor's code system
	parts      map[string]*rule  // components
	variants   []variantRule
	dense      bool // its samples are given out as series
}

type variantRule struct {
	when When
	rule *rule
}

func (m *Mapper) compile(t *Table) error {
	m.rules, m.segments = map[string]map[string]*rule{}, map[string][]Segments{}
	for i := range t.Vendors {
		v := &t.Vendors[i]
		rows := map[string]*rule{}
		for j := range v.Rows {
			r := &v.Rows[j]
			c, err := m.compileRow(t, v, r)
			if err != nil {
				return fmt.Errorf("%s: row %s: %w", v.Vendor, r.Metric, err)
			}
			for _, name := range append([]string{r.Metric}, r.Also...) {
				rows[name] = c
			}
			if r.SegmentsOf != "" {
				m.segments[v.Vendor] = append(m.segments[v.Vendor],
					Segments{System: c.system, Metric: r.Metric, Of: r.SegmentsOf})
			}
		}
		m.rules[v.Vendor] = rows
	}
	return nil
}

func (m *Mapper) compileRow(t *Table, v *Vendor, r *Row) (*rule, error) {
	base, err := m.compilePart(t, v, &Component{Name: r.Metric, Display: r.Name, Codes: r.Codes, Doubtful: r.Doubtful,
		Unit: r.Unit, Scale: r.Scale, Range: r.Range, Zero: r.Zero, Values: r.Values})
	if err != nil {
		return nil, err
	}
	base.row = r
	from := m.opts.SeriesFrom
	if from == 0 {
		from = seriesFrom
	}
	base.dense = r.Rate > 0 && from > 0 && r.Rate >= from
	if r.Profile != "" {
		base.head = []byte(`"profile":["http://hl7.org/fhir/StructureDefinition/` + r.Profile + `"]`)
	}
	base.category = append(base.category,
		`,"category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":`...)
	base.category = appendString(base.category, r.Category)
	base.categories = []string{r.Category}
	if r.Refined != "" {
		base.category = append(base.category,
			`}]},{"coding":[{"system":"`+fhir.Canonical+`/CodeSystem/observation-category","code":`...)
		base.category = appendString(base.category, r.Refined)
		base.categories = append(base.categories, r.Refined)
	}
	base.category = append(base.category, `}]}]`...)
	if r.Shape == ShapeSampled {
		base.series = m.concept(t, v, r.Metric, r.Name, r.Series, nil)
	}
	base.parts = map[string]*rule{}
	for i := range r.Components {
		p, err := m.compilePart(t, v, &r.Components[i])
		if err != nil {
			return nil, fmt.Errorf("component %s: %w", r.Components[i].Name, err)
		}
		base.parts[r.Components[i].Name] = p
		if r.Components[i].Required {
			base.required = append(base.required, r.Components[i].Name)
		}
	}
	for i := range r.Variants {
		x := &r.Variants[i]
		c := &Component{Name: r.Metric, Display: r.Name, Codes: x.Codes, Doubtful: x.Doubtful, Unit: x.Unit,
			Scale: r.Scale, Range: x.Range, Zero: r.Zero, Values: r.Values}
		if c.Unit == "" {
			c.Unit = r.Unit
		}
		if c.Range == nil {
			c.Range = r.Range
		}
		p, err := m.compilePart(t, v, c)
		if err != nil {
			return nil, fmt.Errorf("variant %d: %w", i+1, err)
		}
		p.dense, p.row, p.head, p.category, p.categories, p.series, p.parts, p.required = base.dense, r, base.head,
			base.category, base.categories, base.series, base.parts, base.required
		base.variants = append(base.variants, variantRule{x.When, p})
	}
	return base, nil
}

func (m *Mapper) compilePart(t *Table, v *Vendor, c *Component) (*rule, error) {
	p := &rule{system: systemURL(v), zeroAbsent: c.Zero == zeroAbsent, concept: c.Shape == ShapeCodeable,
		code: m.concept(t, v, c.Name, c.Display, c.Codes, c.Doubtful)}
	if c.Unit != "" {
		u := t.units[c.Unit]
		p.units, p.ucum = u.accepts, c.Unit
		p.quantity = append(p.quantity, `,"unit":`...)
		p.quantity = appendString(p.quantity, u.text)
		p.quantity = append(p.quantity, `,`+ucum+`,"code":`...)
		p.quantity = appendString(p.quantity, c.Unit)
	}
	if len(c.Range) == 2 {
		p.low, p.high, p.ranged = c.Range[0], c.Range[1], true
	}
	for ch, f := range c.Scale {
		x, ok := newConversion(f, "")
		if !ok {
			return nil, fmt.Errorf("scale of %s is no number", ch)
		}
		if p.scale == nil {
			p.scale = map[string]conversion{}
		}
		p.scale[ch] = x
	}
	p.values = map[string][]byte{}
	for code, display := range c.Values {
		p.values[code] = appendConcept(nil, p.system, code, display)
	}
	return p, nil
}

func systemURL(v *Vendor) string { return fhir.Canonical + "/CodeSystem/" + v.System }

// concept writes the CodeableConcept of a row: standard codes in order, then
// the vendor's.
func (m *Mapper) concept(t *Table, v *Vendor, local, display string, codes, doubtful []string) []byte {
	if m.opts.Doubtful {
		codes = append(codes[:len(codes):len(codes)], doubtful...)
	}
	b := []byte(`{"coding":[`)
	for _, c := range codes {
		k := t.codes[c]
		b = appendCoding(b, k.System, k.Code, k.Display)
		b = append(b, ',')
	}
	b = appendCoding(b, systemURL(v), local, display)
	b = append(b, `],"text":`...)
	b = appendString(b, display)
	return append(b, '}')
}

func appendCoding(b []byte, system, code, display string) []byte {
	b = append(b, `{"system":`...)
	b = appendString(b, system)
	b = append(b, `,"code":`...)
	b = appendString(b, code)
	if display != "" {
		b = append(b, `,"display":`...)
		b = appendString(b, display)
	}
	return append(b, '}')
}

func appendConcept(b []byte, system, code, display string) []byte {
	if !isCode(code) {
		b = append(b, `{"text":`...)
		b = appendString(b, code)
		return append(b, '}')
	}
	b = append(b, `{"coding":[`...)
	b = appendCoding(b, system, code, display)
	b = append(b, `],"text":`...)
	if display == "" {
		display = code
	}
	b = appendString(b, display)
	return append(b, '}')
}

// isCode: FHIR code, no leading, trailing or double white space.
func isCode(s string) bool {
	space := true
	for i := 0; i < len(s); i++ {
		sp := s[i] == ' '
		if s[i] < ' ' || sp && space {
			return false
		}
		space = sp
	}
	return !space && len(s) <= 128
}

// appendString writes a JSON string. FHIR strings hold no control characters
// but tab, CR and LF; others become a space.
func appendString(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f || c == '<' || c == '>' || c == '&' {
			return appendSlow(b, s)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

func appendSlow(b []byte, s string) []byte {
	clean := make([]rune, 0, len(s))
	for _, r := range s {
		if r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0x7f {
			r = ' '
		}
		clean = append(clean, r)
	}
	q, err := json.Marshal(string(clean))
	if err != nil { // a string always marshals
		return append(b, `""`...)
	}
	return append(b, q...)
}
