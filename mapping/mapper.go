package mapping

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"sync"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/mapping/sample"
)

// StreamSystem is the system of the identifier that all Observations of a
// stream share.
const StreamSystem = fhir.Canonical + "/identifier/series"

// Options of a Mapper.
type Options struct {
	// Doubtful emits standard codes whose support is doubtful.
	Doubtful bool
	// SeriesFrom is the rate, in samples a day, from which the samples of a
	// row are given out as series; 0: 24, negative: none is.
	SeriesFrom int
	// Key is the secret under which ids are derived, KeySize bytes; empty:
	// the ids of a store that was written before there was one.
	Key []byte
}

// KeySize is the length of Options.Key.
const KeySize = 32

// seriesFrom is the default of Options.SeriesFrom: a value an hour.
const seriesFrom = 24

// Mapper turns Samples into resources. It is safe for concurrent use.
type Mapper struct {
	opts  Options
	table *Table
	rules map[string]map[string]*rule
	// segments are the rows with SegmentsOf, by vendor.
	segments map[string][]Segments
	macs     sync.Pool
}

// New loads the table folder and compiles it.
func New(dir fs.FS, o Options) (*Mapper, error) {
	if n := len(o.Key); n != 0 && n != KeySize {
		return nil, fhir.Errorf(fhir.Internal, "mapping.New", "the key for ids has %d bytes, not %d", n, KeySize)
	}
	t, err := Load(dir)
	if err != nil {
		return nil, fhir.Wrap("mapping.New", err)
	}
	m := &Mapper{opts: o, table: t}
	if err := m.compile(t); err != nil {
		return nil, fhir.Wrap("mapping.New", err)
	}
	return m, nil
}

// Table is the loaded table.
func (m *Mapper) Table() *Table { return m.table }

// Knows reports whether the table has a file for vendor.
func (m *Mapper) Knows(vendor string) bool { return m.rules[vendor] != nil }

// Categories are the codes of Observation.category of a metric, nil of one
// that has no row. Read only.
func (m *Mapper) Categories(vendor, metric string) []string {
	if r := m.rules[vendor][metric]; r != nil {
		return r.categories
	}
	return nil
}

// Segments is a row whose samples are segments of what another row states.
type Segments struct {
	System, Metric string // the vendor's coding of a segment
	Of             string // the other row
}

// System is the code system of a vendor's own codes.
func (m *Mapper) System(vendor string) string {
	for _, r := range m.rules[vendor] {
		return r.system
	}
	return ""
}

// Segments are the rows of a vendor that have SegmentsOf.
func (m *Mapper) Segments(vendor string) []Segments { return m.segments[vendor] }

// Result of mapping one Sample.
type Result struct {
	// ID and JSON of the Observation; JSON is nil for a row of device facts.
	ID   string
	JSON []byte
	// Hash identifies the content.
	Hash [16]byte
	// Categories are the codes of Observation.category. Read only.
	Categories []string
	Metric     string // the row's
	// Start is when it was measured, for the choice of the latest device
	// facts; for a day its midnight in UTC.
	Start time.Time
	// Device is zero when the sample names neither device nor source.
	Device DeviceKey
	// Stream is the StreamID of a sample of a stream, "" of anything else.
	Stream string
	// SegmentsOf is the row that is made of samples like this one, "" mostly.
	SegmentsOf string
	// Vague: the sample says neither which device measured nor through what
	// it came, so what is known of that from elsewhere stands.
	Vague bool
	// Left lists the components that could not be written. If there are any,
	// Kept is the Sample without them, which the Observation is made of.
	Left []LeftOut
	Kept *sample.Sample
}

// RejectError says why a Sample has no resource; Reason is one of the Reason
// constants of mapping/sample and Rule names the rule, no value.
type RejectError struct{ Reason, Rule string }

func (e *RejectError) Error() string { return e.Reason + ": " + e.Rule }

func reject(reason, rule string) error { return &RejectError{reason, rule} }

// Map maps s of the given vendor for a patient. Buf is appended to and holds
// the JSON (nil is fine). A component that breaks a rule is left out and
// listed in Result.Left. An error is a *RejectError; its Reason is
// sample.DropPlaceholder if the value is a zero that stands for "not
// measured".
func (m *Mapper) Map(buf []byte, vendor string, s *sample.Sample, patient string, zone *time.Location) (Result, error) {
	return m.tolerant(buf, vendor, s, patient, zone, false)
}

// MapLegacy is Map as it was before there were streams: every Observation has
// an id of its own kind.
func (m *Mapper) MapLegacy(buf []byte, vendor string, s *sample.Sample, patient string,
	zone *time.Location) (Result, error) {
	return m.tolerant(buf, vendor, s, patient, zone, true)
}

// tolerant is observe without the components that it refuses. If nothing is
// left then, the first of them is the reason.
func (m *Mapper) tolerant(buf []byte, vendor string, s *sample.Sample, patient string, zone *time.Location,
	legacy bool) (Result, error) {
	res, err := m.observe(buf, vendor, s, patient, zone, legacy)
	var part *partError
	if err == nil || !errors.As(err, &part) {
		return res, err
	}
	kept, left := m.rules[vendor][s.Metric].choose(s).sift(s)
	if kept.Value.Kind == sample.None && len(kept.Components) == 0 {
		return res, worst(left)
	}
	res, err = m.observe(buf, vendor, kept, patient, zone, legacy)
	if errors.As(err, &part) { // the main series has no possible point
		return res, part.RejectError
	}
	res.Left, res.Kept = left, kept
	return res, err
}

// LegacyID is the id that MapLegacy gives a sample of a stream; "" of
// anything else, or of what Map refuses.
func (m *Mapper) LegacyID(vendor string, s *sample.Sample, patient string, zone *time.Location) string {
	r := m.rules[vendor][s.Metric]
	if r == nil || r.row.Rate <= 0 {
		return ""
	}
	w, err := resolve(s, zone)
	if err != nil || !r.streamed(s, &w) {
		return ""
	}
	return m.observationID(vendor, patient, r.row.Metric, s, &w)
}

func (m *Mapper) observe(buf []byte, vendor string, s *sample.Sample, patient string, zone *time.Location,
	legacy bool) (Result, error) {
	r := m.rules[vendor][s.Metric]
	if r == nil {
		return Result{}, reject(sample.ReasonUnmapped, "the metric table has no row")
	}
	r = r.choose(s)
	res := Result{Metric: r.row.Metric, Categories: r.categories, SegmentsOf: r.row.SegmentsOf}
	w, err := resolve(s, zone)
	if err != nil {
		return Result{}, err
	}
	res.Device, res.Vague = m.deviceKey(vendor, patient, s), vague(s)
	if r.row.Shape == ShapeDevice {
		if res.Device.ID == "" {
			return Result{}, reject(sample.ReasonMissing, "device facts without a device")
		}
		res.Start = w.start
		return res, nil
	}
	if !legacy && r.streamed(s, &w) {
		w.cut()
		id := m.streamIdentity(vendor, patient, r.row.Metric, s)
		k := r.sampleKey(id, s, &w)
		res.ID, res.Stream = k.ID(), StreamID(id)
	} else {
		res.ID = m.observationID(vendor, patient, r.row.Metric, s, &w)
	}
	res.Start = w.start
	from := len(buf)
	b, err := r.observation(buf, vendor, patient, s, &w, &res, nil)
	if err != nil {
		return Result{}, err
	}
	res.JSON = b[from:len(b):len(b)]
	sum := sha256.Sum256(res.JSON)
	copy(res.Hash[:], sum[:16])
	return res, nil
}

func (r *rule) choose(s *sample.Sample) *rule {
	for i := range r.variants {
		v := &r.variants[i]
		if v.when.Day != nil && *v.when.Day != !s.Day.IsZero() || v.when.Channel != "" && v.when.Channel != s.Channel {
			continue
		}
		if v.when.unit(s.Value.Unit) {
			return v.rule
		}
	}
	return r
}

// observation appends the resource; h, unless nil, learns where it differs
// from that of other samples of the stream.
func (r *rule) observation(b []byte, vendor, patient string, s *sample.Sample, w *when, res *Result,
	h *holes) ([]byte, error) {
	b = append(b, `{"resourceType":"Observation","id":"`...)
	b = append(b, res.ID...)
	b = append(b, `","meta":{`...)
	b = append(b, r.head...)
	if w.unsure {
		if len(r.head) > 0 {
			b = append(b, ',')
		}
		b = append(b, `"tag":[{"system":"`+fhir.Canonical+`/CodeSystem/measures","code":"zone-unknown"}]`...)
	}
	b = append(b, `},"identifier":[{"system":"`+fhir.Canonical+`/identifier/`...)
	b = append(b, vendor...)
	b = append(b, `","value":"`...)
	at := len(b)
	b = append(b, res.ID...)
	h.add(series.SlotID, at, len(b))
	b = append(b, `"}`...)
	if res.Stream != "" {
		b = append(b, `,{"system":"`+StreamSystem+`","value":"`...)
		b = append(b, res.Stream...)
		b = append(b, `"}`...)
	}
	if s.VendorID != "" {
		b = append(b, `,{"system":"`+fhir.Canonical+`/identifier/`...)
		b = append(b, vendor...)
		b = append(b, `/source","value":`...)
		b = appendString(b, s.VendorID)
		b = append(b, '}')
	}
	b = append(b, `],"status":"`...)
	b = append(b, status(s.Status)...)
	b = append(b, '"')
	b = append(b, r.category...)
	b = append(b, `,"code":`...)
	b = append(b, r.code...)
	b = append(b, `,"subject":{"reference":"Patient/`...)
	b = append(b, patient...)
	b = append(b, `"},`...)
	at = len(b)
	b = w.append(b)
	h.add(series.SlotEffective, at, len(b))
	if s.UserEntered {
		b = append(b, `,"performer":[{"reference":"Patient/`...)
		b = append(b, patient...)
		b = append(b, `"}]`...)
	}
	var err error
	if b, err = r.value(b, s, h); err != nil {
		return nil, err
	}
	if s.Note != "" {
		b = append(b, `,"note":[{"text":`...)
		b = appendString(b, s.Note)
		b = append(b, `}]`...)
	}
	if method := s.Method; method != "" || r.row.Method != "" {
		if method == "" {
			method = r.row.Method
		}
		b = append(b, `,"method":{"text":`...)
		b = appendString(b, method)
		b = append(b, '}')
	}
	if res.Device.ID != "" {
		b = append(b, `,"device":{"reference":"Device/`...)
		b = append(b, res.Device.ID...)
		b = append(b, `"}`...)
	}
	if b, err = r.components(b, s, h); err != nil {
		return nil, err
	}
	return append(b, '}'), nil
}

func status(s sample.Status) string {
	switch s {
	case sample.Preliminary:
		return "preliminary"
	case sample.Retracted:
		return "entered-in-error"
	}
	return "final"
}

var absent = []byte(`,"dataAbsentReason":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/data-absent-reason","code":"unknown","display":"Unknown"}]}`)

// value appends the main value as the row's shape wants it.
func (r *rule) value(b []byte, s *sample.Sample, h *holes) ([]byte, error) {
	v := &s.Value
	ok := true
	switch r.row.Shape {
	case ShapeQuantity:
		if v.Kind == sample.None {
			if len(s.Components) == 0 && s.Status != sample.Retracted {
				return nil, reject(sample.ReasonMissing, "the row wants a value")
			}
			return append(b, absent...), nil
		}
		ok = v.Kind == sample.Number || v.Kind == sample.Interval && r.row.Profile == ""
	case ShapeCodeable:
		if v.Kind == sample.None {
			if len(s.Components) == 0 && s.Status != sample.Retracted {
				return nil, reject(sample.ReasonMissing, "the row wants a code")
			}
			return append(b, absent...), nil
		}
		ok = v.Kind == sample.Code || v.Kind == sample.Text
	case ShapeSampled:
		if ok = v.Kind == sample.Series || v.Kind == sample.None && s.Status == sample.Retracted; ok {
			return b, nil // in a component
		}
	case ShapeComponents:
		if ok = v.Kind == sample.None; ok {
			if len(s.Components) == 0 && s.Status != sample.Retracted {
				return nil, reject(sample.ReasonMissing, "the row wants components")
			}
			return b, nil
		}
	case ShapeEvent:
		ok = v.Kind != sample.Series
	}
	if !ok {
		return nil, reject(sample.ReasonBadValue, "the row's shape does not take this kind of value")
	}
	return r.appendValue(b, v, s.Channel, h)
}

// part is the rule of a component; one without a row keeps what the vendor
// wrote.
func (r *rule) part(name string) *rule {
	if p := r.parts[name]; p != nil {
		return p
	}
	return &rule{system: r.system}
}

func has(components []sample.Component, name string) bool {
	for i := range components {
		if c := &components[i]; c.Name == name && c.Value.Kind != sample.None {
			return true
		}
	}
	return false
}

func (r *rule) components(b []byte, s *sample.Sample, h *holes) ([]byte, error) {
	n := 0
	open := func() {
		if n++; n == 1 {
			b = append(b, `,"component":[{"code":`...)
		} else {
			b = append(b, `,{"code":`...)
		}
	}
	var err error
	if r.row.Shape == ShapeSampled && s.Value.Kind == sample.Series {
		open()
		b = append(b, r.series...)
		if b, err = r.appendValue(b, &s.Value, s.Channel, h); err != nil {
			return nil, err // a *partError if only points are wrong
		}
		b = append(b, '}')
	}
	for i := range s.Components {
		c := &s.Components[i]
		if c.Value.Kind == sample.None {
			continue
		}
		open()
		p := r.part(c.Name)
		if p.code == nil {
			b = append(b, `{"coding":[`...)
			b = appendCoding(b, r.system, c.Name, "")
			b = append(b, `]}`...)
		} else {
			b = append(b, p.code...)
		}
		if b, err = p.appendValue(b, &c.Value, s.Channel, h); err != nil {
			return nil, ofPart(c.Name, err)
		}
		b = append(b, '}')
	}
	for _, name := range r.required {
		if !has(s.Components, name) {
			open()
			b = append(b, r.parts[name].code...)
			b = append(b, absent...)
			b = append(b, '}')
		}
	}
	if n > 0 {
		b = append(b, ']')
	}
	return b, nil
}
