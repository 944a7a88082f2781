package preferred

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"strconv"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/mapping"
)

// encoding is the base32 of ids, as in package mapping.
var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// id returns the id of a preferred value. It does not depend on the source.
func (e *Engine) id(patient string, c *Concept, day int64, nth int) string {
	return e.hash("Preferred", patient, c.Name, dateOf(day), strconv.Itoa(nth))
}

func (e *Engine) hash(parts ...string) string {
	var k []byte
	for _, p := range parts {
		k = append(binary.AppendUvarint(k, uint64(len(p))), p...)
	}
	sum := sha256.Sum256(k)
	if len(e.opts.Key) > 0 {
		h := hmac.New(sha256.New, e.opts.Key)
		h.Write(k) // never returns an error
		h.Sum(sum[:0])
	}
	return encoding.EncodeToString(sum[:16])
}

// render returns the Observation of a preferred value. The patterns of the Observations
// that mapping writes apply: the same order of elements and the same precision.
func (p *Policy) render(id, patient, status string, c *Concept, d *derived) []byte {
	b := []byte(fhir.Prefix("Observation", id))
	if c.Profile != "" {
		b = append(b, `"profile":["`+element.StructureDefinition+c.Profile+`"],`...)
	}
	b = append(b, `"tag":[`...)
	b = appendCoding(b, element.Coding{System: measures, Code: Tag, Display: "Preferred value"})
	b = append(b, `]},"identifier":[{"system":"`+fhir.Canonical+`/identifier/preferred","value":"`+id+`"}]`...)
	b = append(b, `,"status":"`+status+`","category":[`...)
	for i, code := range c.Category {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"coding":[`...)
		b = append(appendCoding(b, element.Coding{System: categorySystem(code), Code: code}), `]}`...)
	}
	b = append(b, `],"code":{"coding":[`...)
	for i := range c.Codes {
		b = append(appendCoding(b, c.Codes[i].coding), ',')
	}
	b = append(appendCoding(b, c.own), `],"text":`...)
	b = append(element.AppendString(b, c.Title), `},"subject":{"reference":"Patient/`+patient+`"}`...)
	if c.Kind == night {
		b = append(b, `,"effectivePeriod":{"start":"`+timeOf(d.start)+`","end":"`+timeOf(d.end)+`"}`...)
	} else {
		b = append(b, `,"effectiveDateTime":"`+dateOf(d.day)+`"`...)
	}
	b = c.appendQuantity(append(b, ','), d.value)
	b = append(b, `,"method":{"text":`...)
	b = append(element.AppendString(b, p.explain(c, d)), '}')
	if d.device != "" {
		b = append(b, `,"device":{"reference":`...)
		b = append(element.AppendString(b, d.device), '}')
	}
	b = appendInputs(b, d)
	n := 0
	for i, v := range d.components {
		if v == "" {
			continue
		}
		if n++; n == 1 {
			b = append(b, `,"component":[`...)
		} else {
			b = append(b, ',')
		}
		b = append(b, `{"code":{"coding":[`...)
		b = append(appendCoding(b, c.Components[i].coding), `]},`...)
		b = append(c.appendQuantity(b, v), '}')
	}
	if n > 0 {
		b = append(b, ']')
	}
	return append(b, '}')
}

func (c *Concept) appendQuantity(b []byte, value string) []byte {
	b = append(b, `"valueQuantity":{"value":`+value...)
	b = element.AppendString(append(b, `,"unit":`...), c.Text)
	b = append(b, `,"system":"`+element.UCUM+`","code":`...)
	return append(element.AppendString(b, c.Unit), '}')
}

// categorySystem returns the system of a category: HL7's, or this project's for sleep.
func categorySystem(code string) string {
	if code == "sleep" {
		return fhir.Canonical + "/CodeSystem/observation-category"
	}
	return element.ObservationCategory
}

func appendCoding(b []byte, c element.Coding) []byte { return c.Append(b, element.AppendString) }

// appendInputs appends derivedFrom: Observations, and the streams of samples.
func appendInputs(b []byte, d *derived) []byte {
	sep := `,"derivedFrom":[`
	for _, id := range d.ids {
		b = append(b, sep+`{"reference":"`+observationRef(id)+`"}`...)
		sep = ","
	}
	for _, s := range d.streams {
		b = append(b, sep+streamRef(s)...)
		sep = ","
	}
	if sep == "," {
		b = append(b, ']')
	}
	return b
}

// streamRef returns the logical reference to the samples of a stream.
func streamRef(stream string) string {
	return `{"type":"Observation","identifier":{"system":"` + mapping.StreamSystem + `","value":"` + stream + `"}}`
}

// timeOf writes a time with its offset, and with milliseconds if it has them.
func timeOf(t time.Time) string {
	if t.Nanosecond() == 0 {
		return t.Format(time.RFC3339)
	}
	return t.Format("2006-01-02T15:04:05.000Z07:00")
}

// statusOf returns the status of a stored Observation.
func statusOf(body []byte) string {
	var d struct {
		Status string `json:"status"`
	}
	if err := json.Unmarshal(body, &d); err != nil {
		return ""
	}
	return d.Status
}

// timing returns the concept and the days of a stored preferred value.
func (p *Policy) timing(body []byte) (concept int, day int64, ok bool) {
	var d document
	if err := json.Unmarshal(body, &d); err != nil {
		return 0, 0, false
	}
	var m measurement
	if !m.times(&d) {
		return 0, 0, false
	}
	for i := range p.Concepts {
		if hasCode(d.Code.Coding, p.Concepts[i].own) {
			return i, dayOf(m.end), true
		}
	}
	return 0, 0, false
}
