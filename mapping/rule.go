package mapping

import (
	"fmt"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/mapping/decimal"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/table"
)

// ucumSystem is the system member of a Quantity with a UCUM code.
const ucumSystem = `"system":"` + element.UCUM + `"`

// rule is a compiled row, variant or component of the metric table. The parts
// of an Observation that do not depend on the sample are already JSON.
type rule struct {
	row          *table.Row
	entities     []byte // see RowEntities; only in the rule of a row
	meta         []byte // members of meta
	category     []byte // ,"category":[...]
	categories   []string
	code         []byte // {"coding":[...],"text":...}
	codes        []CodeFact
	sampledCode  []byte // code of the component with SampledData
	sampledCodes []CodeFact
	quantity     []byte // ,"unit":...,"system":...,"code":...
	ucum         string
	unitText     string            // for display
	units        table.Conversions // nil for a component that has no row
	scale        map[string]decimal.Conversion
	low, high    float64
	ranged       bool              // low and high are set
	zeroAbsent   bool              // 0 means that nothing was measured
	concept      bool              // free text is written as a CodeableConcept
	required     []string          // components that are written even without a value
	values       map[string][]byte // vendor code -> CodeableConcept
	system       string            // CodeSystem of the vendor
	components   map[string]*rule
	variants     []variant
	dense        bool        // the rate of the row is at least Options.SeriesFrom
	when         *table.When // of a variant
}

// variant is a rule that replaces the rule of its row for some samples.
type variant struct {
	when table.When
	rule *rule
}

func (m *Mapper) compile() error {
	m.rules, m.segments = map[string]map[string]*rule{}, map[string][]Segments{}
	for i := range m.table.Vendors {
		v := &m.table.Vendors[i]
		rules := map[string]*rule{}
		for j := range v.Rows {
			row := &v.Rows[j]
			r, err := m.compileRow(v, row)
			if err != nil {
				return fmt.Errorf("%s: row %s: %w", v.Vendor, row.Metric, err)
			}
			for _, name := range append([]string{row.Metric}, row.Also...) {
				rules[name] = r
			}
			if row.SegmentsOf != "" {
				m.segments[v.Vendor] = append(m.segments[v.Vendor],
					Segments{System: r.system, Metric: row.Metric, Of: row.SegmentsOf})
			}
		}
		m.rules[v.Vendor] = rules
	}
	return nil
}

func (m *Mapper) compileRow(v *table.Vendor, row *table.Row) (*rule, error) {
	base, err := m.compileComponent(v, &table.Component{Name: row.Metric, Display: row.Name, Codes: row.Codes,
		Doubtful: row.Doubtful, Unit: row.Unit, Scale: row.Scale, Range: row.Range, Zero: row.Zero, Values: row.Values})
	if err != nil {
		return nil, err
	}
	base.row, base.entities = row, m.rowEntities(v.Vendor, row)
	from := m.opts.SeriesFrom
	if from == 0 {
		from = defaultSeriesFrom
	}
	base.dense = row.Rate > 0 && from > 0 && row.Rate >= from
	base.compileProfiles(row)
	base.compileCategory(row)
	if row.Shape == table.ShapeSampled {
		base.sampledCode, base.sampledCodes = m.concept(v, row.Metric, row.Name, row.Series, nil)
	}
	base.components = map[string]*rule{}
	for i := range row.Components {
		c := &row.Components[i]
		r, err := m.compileComponent(v, c)
		if err != nil {
			return nil, fmt.Errorf("component %s: %w", c.Name, err)
		}
		base.components[c.Name] = r
		if c.Required {
			base.required = append(base.required, c.Name)
		}
	}
	for i := range row.Variants {
		r, err := m.compileVariant(v, base, &row.Variants[i])
		if err != nil {
			return nil, fmt.Errorf("variant %d: %w", i+1, err)
		}
		base.variants = append(base.variants, variant{row.Variants[i].When, r})
	}
	return base, nil
}

func (r *rule) compileProfiles(row *table.Row) {
	var urls []string
	if row.Profile != "" {
		urls = append(urls, element.StructureDefinition+row.Profile)
	}
	for i, url := range append(urls, row.Profiles...) {
		if i == 0 {
			r.meta = append(r.meta, `"profile":[`...)
		} else {
			r.meta = append(r.meta, ',')
		}
		r.meta = appendString(r.meta, url)
	}
	if len(r.meta) > 0 {
		r.meta = append(r.meta, ']')
	}
}

func (r *rule) compileCategory(row *table.Row) {
	r.category = append(r.category,
		`,"category":[{"coding":[{"system":"`+element.ObservationCategory+`","code":`...)
	r.category = appendString(r.category, row.Category)
	r.categories = []string{row.Category}
	if row.Refined != "" {
		r.category = append(r.category,
			`}]},{"coding":[{"system":"`+fhir.Canonical+`/CodeSystem/observation-category","code":`...)
		r.category = appendString(r.category, row.Refined)
		r.categories = append(r.categories, row.Refined)
	}
	r.category = append(r.category, `}]}]`...)
}

func (m *Mapper) compileVariant(v *table.Vendor, base *rule, replaced *table.Variant) (*rule, error) {
	row := base.row
	c := &table.Component{Name: row.Metric, Display: row.Name, Codes: replaced.Codes, Doubtful: replaced.Doubtful,
		Unit: replaced.Unit, Scale: row.Scale, Range: replaced.Range, Zero: row.Zero, Values: row.Values}
	if c.Unit == "" {
		c.Unit = row.Unit
	}
	if c.Range == nil {
		c.Range = row.Range
	}
	r, err := m.compileComponent(v, c)
	if err != nil {
		return nil, err
	}
	r.row, r.dense = row, base.dense
	r.meta, r.category, r.categories = base.meta, base.category, base.categories
	r.sampledCode, r.components, r.required = base.sampledCode, base.components, base.required
	r.sampledCodes, r.when = base.sampledCodes, &replaced.When
	return r, nil
}

func (m *Mapper) compileComponent(v *table.Vendor, c *table.Component) (*rule, error) {
	r := &rule{system: v.SystemURL(), zeroAbsent: c.Zero == table.ZeroAbsent,
		concept: c.Shape == table.ShapeCodeable}
	r.code, r.codes = m.concept(v, c.Name, c.Display, c.Codes, c.Doubtful)
	if c.Unit != "" {
		unit := m.table.Units[c.Unit]
		r.units, r.ucum, r.unitText = unit.Accepts, c.Unit, unit.Text
		r.quantity = append(r.quantity, `,"unit":`...)
		r.quantity = appendString(r.quantity, unit.Text)
		r.quantity = append(r.quantity, `,`+ucumSystem+`,"code":`...)
		r.quantity = appendString(r.quantity, c.Unit)
	}
	if len(c.Range) == 2 {
		r.low, r.high, r.ranged = c.Range[0], c.Range[1], true
	}
	for channel, factor := range c.Scale {
		conv, ok := decimal.NewConversion(factor, "")
		if !ok {
			return nil, fmt.Errorf("the scale of %s is not a number", channel)
		}
		if r.scale == nil {
			r.scale = map[string]decimal.Conversion{}
		}
		r.scale[channel] = conv
	}
	r.values = map[string][]byte{}
	for code, display := range c.Values {
		r.values[code] = appendConcept(nil, r.system, code, display)
	}
	return r, nil
}

// concept returns the CodeableConcept of a row or component: the standard codes
// in order, followed by the vendor's code.
func (m *Mapper) concept(v *table.Vendor, local, display string, codes, doubtful []string) ([]byte, []CodeFact) {
	var facts []CodeFact
	add := func(why string, names []string) {
		for _, name := range names {
			c := m.table.Codes[name]
			facts = append(facts, CodeFact{c.System, c.Code, c.Display, why})
		}
	}
	add(CodeSure, codes)
	if m.opts.Doubtful {
		add(CodeDoubtful, doubtful)
	}
	facts = append(facts, CodeFact{v.SystemURL(), local, display, CodeVendor})
	b := []byte(`{"coding":[`)
	for i := range facts {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendCoding(b, facts[i].System, facts[i].Code, facts[i].Display)
	}
	b = append(b, `],"text":`...)
	b = appendString(b, display)
	return append(b, '}'), facts
}

// choose returns the rule for s: the first variant that matches, or else r.
func (r *rule) choose(s *sample.Sample) *rule {
	for i := range r.variants {
		if v := &r.variants[i]; v.when.Matches(s.Value.Unit, s.Channel, !s.Day.IsZero()) {
			return v.rule
		}
	}
	return r
}

// component returns the rule of a component. A component that has no row keeps
// its value as the vendor wrote it.
func (r *rule) component(name string) *rule {
	if c := r.components[name]; c != nil {
		return c
	}
	return &rule{system: r.system}
}

// conversion returns the conversion from a unit as sent to the unit of r,
// including the scale of the channel.
func (r *rule) conversion(unit, channel string) (decimal.Conversion, bool) {
	c, ok := r.units.From(unit)
	if !ok {
		return c, false
	}
	if scale, scaled := r.scale[channel]; scaled {
		c = c.After(scale)
	}
	return c, true
}

// plausible reports whether d lies within the range of r.
func (r *rule) plausible(d decimal.Decimal) bool {
	if !r.ranged {
		return true
	}
	f := d.Float64()
	return f >= r.low && f <= r.high
}
