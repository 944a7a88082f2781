package preferred

import (
	"encoding/json"
	"slices"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/fhir/series"
	"pulsegate/mapping"
)

const statusRetracted = "entered-in-error"

// source is one device, stream or account of a vendor.
type source struct {
	vendor string
	device string // reference to the Device, or ""
	stream string // the stream of samples without a device, or ""
}

func (s *source) compare(other *source) int {
	return slices.Compare([]string{s.vendor, s.device, s.stream}, []string{other.vendor, other.device, other.stream})
}

// measurement is one input with a number.
type measurement struct {
	source
	codes      []element.Coding
	id         string // "" for a sample of a series
	inStream   string // the stream that the measurement belongs to, or ""
	start, end time.Time
	date       bool // the effective time is a day without a time
	value      float64
	text       string // value as written
	unit       string
	status     string
	components []component
}

type component struct {
	codes []element.Coding
	value float64
	unit  string
}

// span returns the days of the start and of the end, as written.
func (m *measurement) span() (first, last int64) { return dayOf(m.start), dayOf(m.end) }

// isStated reports whether the measurement is a value of a whole day or night: by its code,
// its date, or a period of at least least.
func (m *measurement) isStated(c *Concept, least time.Duration) bool {
	return m.date || c.isStated(m.codes) || m.end.Sub(m.start) >= least
}

// dayOf returns the local day of a time as written, in days since 1970.
func dayOf(t time.Time) int64 {
	_, offset := t.Zone()
	return floorDiv(t.Unix()+int64(offset), 86400)
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// dateOf returns the date of a day in days since 1970.
func dateOf(day int64) string { return time.Unix(day*86400, 0).UTC().Format(time.DateOnly) }

// document holds the elements of an Observation that are read.
type document struct {
	Meta struct {
		Tag []element.Coding `json:"tag"`
	} `json:"meta"`
	Identifier        []element.Identifier `json:"identifier"`
	Status            string               `json:"status"`
	Code              concept              `json:"code"`
	EffectiveDateTime string               `json:"effectiveDateTime"`
	EffectivePeriod   element.Period       `json:"effectivePeriod"`
	ValueQuantity     *quantity            `json:"valueQuantity"`
	Device            element.Reference    `json:"device"`
	Component         []struct {
		Code          concept   `json:"code"`
		ValueQuantity *quantity `json:"valueQuantity"`
	} `json:"component"`
}

type concept struct {
	Coding []element.Coding `json:"coding"`
}

type quantity struct {
	Value  json.Number `json:"value"`
	System string      `json:"system"`
	Code   string      `json:"code"`
	Less   string      `json:"comparator"`
}

// float returns the number, and false if it has none in a UCUM unit.
func (number *quantity) float() (v float64, ok bool) {
	if number == nil || number.System != element.UCUM || number.Less != "" {
		return 0, false
	}
	v, err := number.Value.Float64()
	return v, err == nil
}

// isPreferred reports whether the Observation is a preferred value.
func (d *document) isPreferred() bool {
	return hasCode(d.Meta.Tag, element.Coding{System: measures, Code: Tag})
}

// read parses an Observation of a vendor. It reports false if the Observation has no time
// or no vendor: what a client wrote is not a source. A measurement without a number has the
// unit "".
func read(body []byte, id, vendor string) (m measurement, preferred, ok bool) {
	var d document
	if err := json.Unmarshal(body, &d); err != nil {
		return m, false, false
	}
	m = measurement{source: source{vendor: vendor, device: d.Device.Reference}, codes: d.Code.Coding, id: id,
		status: d.Status}
	for _, i := range d.Identifier {
		if i.System == mapping.StreamSystem {
			m.inStream = i.Value
		}
	}
	if m.device == "" {
		m.stream = m.inStream
	}
	if v, ok := d.ValueQuantity.float(); ok {
		m.value, m.text, m.unit = v, d.ValueQuantity.Value.String(), d.ValueQuantity.Code
	}
	for i := range d.Component {
		c := &d.Component[i]
		if v, ok := c.ValueQuantity.float(); ok {
			m.components = append(m.components, component{c.Code.Coding, v, c.ValueQuantity.Code})
		}
	}
	return m, d.isPreferred(), m.times(&d) && vendor != ""
}

// times reads the clinical time.
func (m *measurement) times(d *document) (ok bool) {
	if d.EffectivePeriod.Start == "" {
		if len(d.EffectiveDateTime) == len(time.DateOnly) {
			t, err := time.Parse(time.DateOnly, d.EffectiveDateTime)
			m.start, m.end, m.date = t, t, true
			return err == nil
		}
		m.start, ok = parseTime(d.EffectiveDateTime)
		m.end = m.start
		return ok
	}
	m.start, ok = parseTime(d.EffectivePeriod.Start)
	if m.end = m.start; !ok || d.EffectivePeriod.End == "" {
		return ok
	}
	m.end, ok = parseTime(d.EffectivePeriod.End)
	return ok && !m.end.Before(m.start)
}

// parseTime parses a time with its written offset.
func parseTime(s string) (time.Time, bool) {
	t, err := time.Parse(time.RFC3339, s)
	_, offset := t.Zone()
	return t.In(time.FixedZone("", offset)), err == nil
}

// specimen returns the measurement of a sample of a template, and whether its value is
// the first value of the series. It tries two values, of which one may be equal to a
// constant of the template.
func specimen(t *series.Template, s series.Sample) (m measurement, ok bool) {
	if t.Values == 0 {
		return m, false
	}
	s.Commit = series.Commit{}
	for mant := range int64(2) {
		s.Values[0] = series.Decimal{Mant: mant + 1}
		var preferred bool
		m, preferred, ok = read(t.Append(nil, &s), "", t.Vendor)
		if !ok || preferred || m.unit == "" || m.value != float64(mant+1) {
			return m, false
		}
	}
	return m, true
}

// fixedZone caches the locations of written offsets.
type fixedZone map[int16]*time.Location

func (zones fixedZone) at(us int64, offset int16) time.Time {
	l := zones[offset]
	if l == nil {
		l = time.FixedZone("", int(offset)*60)
		zones[offset] = l
	}
	return time.UnixMicro(us).In(l)
}

// observationRef returns the reference to an Observation.
func observationRef(id string) string { return fhir.Ref{Type: "Observation", ID: id}.String() }
