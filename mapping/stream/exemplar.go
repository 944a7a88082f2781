package stream

import (
	"bytes"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"pulsegate/fhir/series"
	"pulsegate/mapping"
	"pulsegate/mapping/decimal"
	"pulsegate/mapping/sample"
)

// Exemplar is a sample of a series without its times and numbers. With them, which the
// series has, it is the sample again. It is not safe for concurrent use.
type Exemplar struct {
	// Sample has neither times nor numbers. What Place does not compare is absent too:
	// the battery, the revision, the version of the source, and the zone's name.
	Sample sample.Sample `json:"sample"`
	// Numbers says how the numbers of the series were converted, by column.
	Numbers []Number `json:"numbers,omitempty"`
	// Shape is the Shape of the Observations of the samples.
	Shape uint64 `json:"shape,string"`

	conversions []decimal.Conversion // of Numbers; made by the first Rebuild
}

// Number says where a number of a sample was and how it was converted.
type Number struct {
	// Component is the index of the component plus 1, or 0 for the main value.
	Component int `json:"component,omitzero"`
	// Times and Plus are those of decimal.NewConversion.
	Times string `json:"times,omitzero"`
	Plus  string `json:"plus,omitzero"`
}

// newExemplar returns the Exemplar of the samples of e with a template.
func newExemplar(e *entry, t *series.Template) *Exemplar {
	x := &Exemplar{Sample: e.sample}
	x.Sample.Device.Battery = ""
	for i := range e.columns {
		c := &e.columns[i]
		n := Number{Component: c.Component + 1}
		n.Times, n.Plus = c.Conversion().Text()
		x.Numbers = append(x.Numbers, n)
	}
	row := series.Sample{End: series.NoEnd}
	if _, shape, ok := Row(t.Append(nil, &row)); ok {
		x.Shape = shape
	}
	return x
}

// Rebuild returns the sample of a row, or false if the row is not one of x. Mapped as it
// was, it has the Observation of the row. These are not as the vendor wrote them:
//
//   - Zeros at the end of a number may be missing or added; see
//     decimal.Conversion.Invert.
//   - Times have microseconds, and the offset that they are written with. If the sample
//     stated none, that is the offset of the patient's zone.
//   - An end that equals the start is missing.
func (x *Exemplar) Rebuild(row *series.Sample) (sample.Sample, bool) {
	s := x.Sample
	s.Components = append([]sample.Component(nil), s.Components...)
	s.Start = x.time(row.Start, row.Off)
	if row.End != series.NoEnd {
		s.End = x.time(row.End, row.EndOff)
	}
	if !x.prepare() {
		return s, false
	}
	for i, n := range x.Numbers {
		stored, ok := decimal.Parse(string(row.Values[i].Append(nil)))
		if !ok {
			return s, false
		}
		sent, ok := x.conversions[i].Invert(stored)
		if !ok {
			return s, false
		}
		if n.Component == 0 {
			s.Value.Num = sent.String()
		} else {
			s.Components[n.Component-1].Value.Num = sent.String()
		}
	}
	return s, true
}

// prepare makes the conversions. It reports false if x is damaged.
func (x *Exemplar) prepare() bool {
	if x.conversions != nil || len(x.Numbers) == 0 {
		return true
	}
	if len(x.Numbers) > series.MaxValues {
		return false
	}
	var list []decimal.Conversion
	for _, n := range x.Numbers {
		conv, ok := decimal.NewConversion(n.Times, n.Plus)
		if !ok || n.Component < 0 || n.Component > len(x.Sample.Components) {
			return false
		}
		list = append(list, conv)
	}
	x.conversions = list
	return true
}

// time returns a time as the sample has it. A floating time is a local time.
func (x *Exemplar) time(us int64, off int16) time.Time {
	if x.Sample.Zone == sample.ZoneFloating {
		return time.UnixMicro(us + int64(off)*60e6).UTC()
	}
	return time.UnixMicro(us).In(time.FixedZone("", int(off)*60))
}

// Row returns the row of a series for which an Observation stands, and the shape that
// the Observation has without the row: Observations of one template have one shape.
// The Observation has no version and is as package mapping writes it; other JSON has no
// row.
func Row(observation []byte) (row series.Sample, shape uint64, ok bool) {
	row.End = series.NoEnd
	r := reader{rest: observation, hash: xxhash.New()}
	if !r.through(`"id":"`, false) {
		return row, 0, false
	}
	id := r.until('"')
	if !r.through(`"identifier":[{"system":"`, true) || !r.through(`"value":"`, true) || r.until('"') != id ||
		!r.through(`"effective`, true) {
		return row, 0, false
	}
	switch {
	case r.skip(`DateTime":"`):
		ok = readTime(r.until('"'), &row.Start, &row.Off)
	case r.skip(`Period":{"start":"`):
		ok = readTime(r.until('"'), &row.Start, &row.Off) && r.skip(`","end":"`) &&
			readTime(r.until('"'), &row.End, &row.EndOff) && r.skip(`"}`)
	}
	if !ok {
		return row, 0, false
	}
	r.skip(`"`)
	for n := 0; r.through(`"valueQuantity":{"value":`, true); n++ {
		if n == series.MaxValues {
			return row, 0, false
		}
		d, parsed := decimal.Parse(r.number())
		if !parsed {
			return row, 0, false
		}
		if row.Values[n], parsed = d.Short(); !parsed {
			return row, 0, false
		}
	}
	r.add(r.rest)
	return row, r.hash.Sum64(), true
}

// reader reads an Observation and hashes what all Observations of a template share.
// Members are found as text: quotes in strings are escaped.
type reader struct {
	rest []byte
	hash *xxhash.Digest
}

func (r *reader) add(b []byte) {
	_, _ = r.hash.Write(b) // never returns an error
	_, _ = r.hash.Write([]byte{0})
}

// through moves behind text. It reports false, and does not move, if there is none.
func (r *reader) through(text string, shared bool) bool {
	i := bytes.Index(r.rest, []byte(text))
	if i < 0 {
		return false
	}
	i += len(text)
	if shared {
		r.add(r.rest[:i])
	}
	r.rest = r.rest[i:]
	return true
}

func (r *reader) skip(text string) bool {
	rest, ok := bytes.CutPrefix(r.rest, []byte(text))
	r.rest = rest
	return ok
}

// until returns the text up to end.
func (r *reader) until(end byte) string {
	i := max(bytes.IndexByte(r.rest, end), 0)
	text := string(r.rest[:i])
	r.rest = r.rest[i:]
	return text
}

func (r *reader) number() string {
	n := len(r.rest) - len(bytes.TrimLeft(r.rest, "-.0123456789"))
	text := string(r.rest[:n])
	r.rest = r.rest[n:]
	return text
}

func readTime(text string, us *int64, off *int16) bool {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || !strings.Contains(text, "T") {
		return false
	}
	*us, *off = t.UnixMicro(), mapping.Offset(t)
	return true
}
