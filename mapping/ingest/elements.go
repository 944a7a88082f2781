package ingest

import (
	"bytes"
	"math"
	"slices"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// storedElements holds the elements that are read from a stored segment or
// night.
type storedElements struct {
	Meta struct {
		Tag []coding `json:"tag"`
	} `json:"meta"`
	Identifier        []element.Identifier `json:"identifier"`
	Status            string               `json:"status"`
	EffectiveDateTime string               `json:"effectiveDateTime"`
	EffectivePeriod   element.Period       `json:"effectivePeriod"`
	Value             struct {
		Coding []coding `json:"coding"`
	} `json:"valueCodeableConcept"`
	Device element.Reference `json:"device"`
}

type coding struct {
	Code string `json:"code"`
}

// effective returns the clinical time with the offsets as written.
func (s *storedElements) effective() (from, to time.Time, ok bool) {
	if s.EffectivePeriod.Start == "" {
		from, ok = parseTime(s.EffectiveDateTime)
		return from, from, ok
	}
	from, ok = parseTime(s.EffectivePeriod.Start)
	to, ok2 := parseTime(s.EffectivePeriod.End)
	return from, to, ok && ok2
}

// parseTime parses a time. Its location is the written offset, not a zone that
// happens to have that offset.
func parseTime(s string) (time.Time, bool) {
	t, err := time.Parse(time.RFC3339, s)
	_, offset := t.Zone()
	return t.In(time.FixedZone("", offset)), err == nil
}

// identifier returns the value of the identifier with the given system.
func (s *storedElements) identifier(system string) string {
	for _, i := range s.Identifier {
		if i.System == system {
			return i.Value
		}
	}
	return ""
}

// zoneUnknown reports whether the offsets may not be the wearer's.
func (s *storedElements) zoneUnknown() bool {
	return slices.ContainsFunc(s.Meta.Tag, func(c coding) bool { return c.Code == "zone-unknown" })
}

// measurement holds the elements that identify the measurement of an
// Observation.
type measurement struct {
	storedElements
	Concept   element.CodeableConcept `json:"valueCodeableConcept"`
	Text      *string                 `json:"valueString"`
	Quantity  *quantity               `json:"valueQuantity"`
	Component []measurement           `json:"component"`
	Code      element.CodeableConcept `json:"code"`
}

// label returns the display or else the code of the first coding.
func label(c *element.CodeableConcept) (name string, displayed bool) {
	if len(c.Coding) == 0 {
		return "", false
	}
	if d := c.Coding[0].Display; d != "" {
		return d, true
	}
	return c.Coding[0].Code, false
}

type quantity struct {
	Value float64 `json:"value"`
	Code  string  `json:"code"`
}

// near reports whether two quantities are equal within a thousandth, because
// channels lose digits in conversions.
func (a *quantity) near(b *quantity) bool {
	return a.Code == b.Code && math.Abs(a.Value-b.Value) <= 1e-3*max(math.Abs(a.Value), math.Abs(b.Value))
}

// equals reports whether both state one measurement: of one type, starting in
// the same second or covering the same time, with the same value. A channel may
// omit the end and components, and may label a code differently.
func (m *measurement) equals(other *measurement) bool {
	from, to, ok := m.effective()
	otherFrom, otherTo, otherOK := other.effective()
	if !ok || !otherOK || from.Unix() != otherFrom.Unix() {
		return false
	}
	if to.Unix() != otherTo.Unix() && m.EffectivePeriod.Start != "" && other.EffectivePeriod.Start != "" {
		return false
	}
	if m.Quantity != nil || other.Quantity != nil {
		return m.Quantity != nil && other.Quantity != nil && m.Quantity.near(other.Quantity)
	}
	if len(m.Concept.Coding) > 0 || len(other.Concept.Coding) > 0 {
		a, labelA := label(&m.Concept)
		b, labelB := label(&other.Concept)
		return a == b || (!labelA || !labelB) && to.After(from)
	}
	if m.Text != nil || other.Text != nil {
		return m.Text != nil && other.Text != nil && *m.Text == *other.Text
	}
	if len(m.Component) == 0 || len(other.Component) == 0 {
		return true // an event without a value
	}
	shared := 0
	for i := range m.Component {
		for j := range other.Component {
			x, y := &m.Component[i], &other.Component[j]
			a, _ := label(&x.Code)
			b, _ := label(&y.Code)
			if a != b || x.Quantity == nil || y.Quantity == nil {
				continue
			}
			if !x.Quantity.near(y.Quantity) {
				return false
			}
			shared++
		}
	}
	return shared > 0
}

// isSameNight reports whether both state one sleep session: the same start and end.
// Channels may determine the stages, and so the sleep, by different versions of an
// algorithm.
func (m *measurement) isSameNight(other *measurement) bool {
	isSleep := func(c element.Coding) bool { return c.Code == sleepDuration }
	if !slices.ContainsFunc(m.Code.Coding, isSleep) || !slices.ContainsFunc(other.Code.Coding, isSleep) {
		return false
	}
	from, to, ok := m.effective()
	otherFrom, otherTo, otherOK := other.effective()
	return ok && otherOK && to.After(from) && from.Unix() == otherFrom.Unix() && to.Unix() == otherTo.Unix()
}

// sleepDuration is the LOINC code of the sleep of a night or nap.
const sleepDuration = "93832-4"

const statusPreliminary = "preliminary"

const statusRetracted = "entered-in-error"

var statusKey = []byte(`],"status":"`)

// statusOf returns the status of an Observation that mapping wrote.
func statusOf(body []byte) string {
	_, rest, ok := bytes.Cut(body, statusKey)
	if !ok {
		return ""
	}
	s, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(s)
}

// withStatus returns a copy of an Observation that mapping wrote with another
// status.
func withStatus(body []byte, status string) []byte {
	at := bytes.Index(body, statusKey)
	if at < 0 {
		return body
	}
	at += len(statusKey)
	end := bytes.IndexByte(body[at:], '"') + at
	out := make([]byte, 0, len(body)+len(status))
	out = append(append(out, body[:at]...), status...)
	return append(out, body[end:]...)
}

// unstamped returns a copy of a stored version without its version id and time.
func unstamped(v *fhir.Resource) []byte {
	p := fhir.Prefix(v.Type, v.ID)
	stamp := fhir.Stamp([]byte(p+"}"), v.Type, v.ID, v.Version, v.LastUpdated)
	rest := v.JSON[len(stamp)-1:]
	return append([]byte(p), bytes.TrimPrefix(rest, []byte(","))...)
}
