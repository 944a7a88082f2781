// Package stream maps dense samples to the columns of series.
//
// A sample of a row with a rate of at least mapping.Options.SeriesFrom becomes a
// series.Template and one row of its columns instead of an Observation. Written
// by the template, the row is byte for byte the Observation that package mapping
// writes for the sample. A sample that does not fit in a series is mapped to an
// Observation with the same id; see the documentation of package mapping.
package stream

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir/series"
	"pulsegate/mapping"
	"pulsegate/mapping/sample"
)

// Limits of a Mapper's cache.
const (
	maxEntries   = 2048 // in all
	maxPerMetric = 128
	// Samples with more components or device facts are not cached.
	maxComponents = 16
	maxFacts      = 64
)

// Mapper maps the samples of one patient and vendor. It caches how the last ones
// were mapped, so that only the times and numbers of the next ones have to be
// read. It is not safe for concurrent use. The cache is not a golang-lru cache,
// because an entry is found by comparing it with a sample, not by a key.
type Mapper struct {
	mapper          *mapping.Mapper
	vendor, patient string
	zone            *time.Location

	last      *entry
	entries   map[string][]*entry // by metric, the most used first
	size      int
	templates map[string]*series.Template
	uncached  mapping.Resolved // of the last sample without an entry

	// zone has the given offset from the Unix second from up to the Unix second
	// to.
	from, to int64
	offset   int16
}

// New returns a Mapper with an empty cache. Zone is the patient's configured zone
// or nil.
func New(m *mapping.Mapper, vendor, patient string, zone *time.Location) *Mapper {
	sm := &Mapper{mapper: m, vendor: vendor, patient: patient, zone: zone}
	sm.Reset()
	return sm
}

// Full reports whether the cache is large enough for a Reset. After a Reset,
// streams get new Templates.
func (m *Mapper) Full() bool { return m.size > maxEntries }

// Reset empties the cache.
func (m *Mapper) Reset() {
	m.last, m.size = nil, 0
	m.entries, m.templates = map[string][]*entry{}, map[string]*series.Template{}
}

// Stream describes the samples that share a Template and a description of their
// device. It is read-only.
type Stream struct {
	Template   *series.Template
	Metric     string // name of the row
	SegmentsOf string // see mapping.Result
	Device     mapping.DeviceKey
	Coarse     bool // see sample.Sample
	Vague      bool // see mapping.Result
	// Described is a sample with the device and the source of the stream only.
	Described *sample.Sample
	// Exemplar is the part that all samples of the stream have.
	Exemplar *Exemplar
}

// entry caches everything about a sample but its times and numbers.
type entry struct {
	sample  sample.Sample // a copy that Place compares with
	dense   bool          // the samples may be rows of a series
	columns []mapping.Column
	// patientZone is set if the times are written with the offset of the
	// patient's zone.
	patientZone bool
	// streams holds the streams by class, and by whether the offset is unsure.
	streams   [2][series.Long + 1]*Stream
	described sample.Sample
	mapping.Resolved
}

// Place reads the times and numbers of s into row and returns the stream of s.
// The numbers are those that an Observation would have. The stream is nil if s
// cannot be a row of a series; Resolve then returns the facts for its Observation.
func (m *Mapper) Place(s *sample.Sample, row *series.Sample) *Stream {
	if !isCacheable(s) {
		return nil
	}
	e := m.last
	if e == nil || !e.matches(s) {
		if e = m.find(s); e == nil {
			return nil
		}
		m.last = e
	}
	if !e.dense {
		return nil
	}
	unsure, ok := m.readTimes(e, s, row)
	if !ok {
		return nil
	}
	for i := range e.columns {
		c := &e.columns[i]
		v := &s.Value
		if c.Component >= 0 {
			v = &s.Components[c.Component].Value
		}
		if row.Values[i], ok = c.Number(v.Num); !ok || c.ZeroAbsent && row.Values[i].Mant == 0 {
			return nil
		}
		if c.Ranged {
			if f := row.Values[i].Float(); f < c.Low || f > c.High {
				return nil
			}
		}
	}
	class := series.Instant
	if row.End != series.NoEnd {
		class = row.Class()
	}
	st := e.streams[unsure][class]
	if st == nil {
		st = m.stream(e, s, class, unsure)
		e.streams[unsure][class] = st
	}
	return st
}

// Resolve returns the facts about s that an Observation is made of. It returns
// the cached ones if Place was called with s last. They are valid until the next
// call.
func (m *Mapper) Resolve(s *sample.Sample) *mapping.Resolved {
	if e := m.last; isCacheable(s) && e != nil && e.matches(s) {
		return &e.Resolved
	}
	m.uncached = m.mapper.Resolve(m.vendor, m.patient, s)
	return &m.uncached
}

// isCacheable reports whether samples like s may be rows of a series.
func isCacheable(s *sample.Sample) bool {
	return s.VendorID == "" && s.Status == sample.Final && s.Note == "" && s.Day == (sample.Date{}) && !s.Start.IsZero()
}

// matches reports whether s differs from the sample of e in times and numbers
// only. Adapters intern strings, so most comparisons compare pointers.
func (e *entry) matches(s *sample.Sample) bool {
	o := &e.sample
	if s.Metric != o.Metric || s.Value.Kind != o.Value.Kind || s.Value.Kind == sample.Code &&
		s.Value.Text != o.Value.Text || s.Value.Unit != o.Value.Unit || s.Zone != o.Zone ||
		len(s.Components) != len(o.Components) ||
		s.Channel != o.Channel || s.KeyValue != o.KeyValue || s.Coarse != o.Coarse ||
		s.UserEntered != o.UserEntered || s.Method != o.Method || s.Source.Name != o.Source.Name {
		return false
	}
	d, k := &s.Device, &o.Device
	if d.Name != k.Name || d.Manufacturer != k.Manufacturer || d.Model != k.Model || d.Hardware != k.Hardware ||
		d.Kind != k.Kind ||
		d.Serial != k.Serial || d.Software != k.Software || d.Firmware != k.Firmware || d.Battery != k.Battery ||
		len(d.Facts) != len(k.Facts) {
		return false
	}
	for i := range d.Facts {
		if d.Facts[i] != k.Facts[i] {
			return false
		}
	}
	for i := range s.Components {
		a, b := &s.Components[i], &o.Components[i]
		if a.Name != b.Name || a.Value.Kind != b.Value.Kind || a.Value.Unit != b.Value.Unit ||
			a.Value.Text != b.Value.Text || a.Value.Bool != b.Value.Bool {
			return false
		}
	}
	return true
}

// find returns the entry of s, and adds it to the cache if there is none. It
// returns nil if s cannot be cached.
func (m *Mapper) find(s *sample.Sample) *entry {
	list := m.entries[s.Metric]
	for i, e := range list {
		if e.matches(s) {
			if i > 0 {
				list[i-1], list[i] = e, list[i-1]
			}
			return e
		}
	}
	if len(s.Components) > maxComponents || len(s.Device.Facts) > maxFacts {
		return nil
	}
	resolved := m.mapper.Resolve(m.vendor, m.patient, s)
	if !resolved.Mapped() {
		return nil
	}
	e := m.newEntry(s, resolved)
	if len(list) >= maxPerMetric {
		list = nil
	}
	m.size++
	m.entries[e.sample.Metric] = append(list, e)
	return e
}

func (m *Mapper) newEntry(s *sample.Sample, resolved mapping.Resolved) *entry {
	e := &entry{sample: clone(s), Resolved: resolved}
	if e.columns, e.dense = e.Columns(s); e.dense {
		e.patientZone = s.Zone == sample.ZoneInstant && m.zone != nil
		e.described = sample.Sample{Device: e.sample.Device, Source: e.sample.Source}
	}
	return e
}

// clone copies the fields of s that matches compares. The adapter reuses s.
func clone(s *sample.Sample) sample.Sample {
	c := sample.Sample{Metric: strings.Clone(s.Metric), Channel: strings.Clone(s.Channel), KeyValue: s.KeyValue,
		Coarse: s.Coarse, UserEntered: s.UserEntered,
		Zone: s.Zone, Method: strings.Clone(s.Method),
		Value: sample.Value{Kind: s.Value.Kind, Unit: strings.Clone(s.Value.Unit)}, Device: s.Device,
		Source: sample.Source{Name: strings.Clone(s.Source.Name)}}
	if s.Value.Kind == sample.Code {
		c.Value.Text = strings.Clone(s.Value.Text)
	}
	d := &c.Device
	for _, field := range []*string{&d.Name, &d.Manufacturer, &d.Model, &d.Hardware, &d.Kind, &d.Serial, &d.Software,
		&d.Firmware, &d.Battery} {
		*field = strings.Clone(*field)
	}
	d.Facts = slices.Clone(d.Facts)
	for i := range d.Facts {
		fact := &d.Facts[i]
		fact.Name, fact.Value, fact.Unit = strings.Clone(fact.Name), strings.Clone(fact.Value), strings.Clone(fact.Unit)
	}
	for i := range s.Components {
		from := &s.Components[i]
		c.Components = append(c.Components,
			sample.Component{Name: strings.Clone(from.Name), Value: sample.Value{Kind: from.Value.Kind,
				Unit: strings.Clone(from.Value.Unit), Text: strings.Clone(from.Value.Text), Bool: from.Value.Bool}})
	}
	return c
}

// A series holds times from 1900-01-02 to 2200-12-01. They lie so far within the
// range that mapping accepts that the offset does not matter.
const (
	earliest = series.MinStart + 86400_000000
	latest   = 7286976000_000000
)

// readTimes reads the times of s into row, with the result of
// mapping.ResolveEffective. It reports false if a series cannot hold them. unsure
// is 1 if the offset may not be the wearer's, and otherwise 0.
func (m *Mapper) readTimes(e *entry, s *sample.Sample, row *series.Sample) (unsure int, ok bool) {
	row.End, row.EndOff = series.NoEnd, 0
	if s.Zone == sample.ZoneFloating {
		effective, err := mapping.ResolveEffective(s, m.zone)
		if err != nil {
			return 0, false
		}
		row.Start, row.Off = effective.Start.UnixMicro(), mapping.Offset(effective.Start)
		if !effective.End.IsZero() {
			row.End, row.EndOff = effective.End.UnixMicro(), mapping.Offset(effective.End)
		}
		if effective.Unsure {
			unsure = 1
		}
	} else {
		if s.Zone == sample.ZoneInstant && m.zone == nil {
			unsure = 1
		}
		row.Start, row.Off = s.Start.UnixMicro(), m.offsetOf(e, s.Start)
		if !s.End.IsZero() {
			row.End, row.EndOff = s.End.UnixMicro(), m.offsetOf(e, s.End)
			if s.End.Before(s.Start) {
				return 0, false
			}
		}
	}
	if row.End == row.Start {
		row.End, row.EndOff = series.NoEnd, 0
	}
	return unsure, row.Start > earliest && row.Start < latest && row.End < latest
}

// offsetOf returns the offset in minutes that t is written with. It caches the
// period in which the patient's zone has one offset.
func (m *Mapper) offsetOf(e *entry, t time.Time) int16 {
	if !e.patientZone {
		return mapping.Offset(t)
	}
	sec := t.Unix()
	if sec >= m.from && sec < m.to {
		return m.offset
	}
	t = t.In(m.zone)
	m.offset, m.from, m.to = mapping.Offset(t), sec, sec+1
	if start, end := t.ZoneBounds(); !start.IsZero() && !end.IsZero() {
		m.from, m.to = start.Unix(), end.Unix()
	}
	return m.offset
}

// stream returns a new Stream for samples like s, or nil if s has no Observation.
func (m *Mapper) stream(e *entry, s *sample.Sample, class series.Class, unsure int) *Stream {
	t, ok := e.Template(s, class, unsure == 1, len(e.columns))
	if !ok {
		return nil
	}
	return &Stream{Template: m.shared(t), Metric: e.Metric(), SegmentsOf: e.SegmentsOf(), Coarse: s.Coarse,
		Device: e.Device, Vague: e.Vague, Described: &e.described, Exemplar: newExemplar(e, t)}
}

// shared returns the cached template that equals t, or caches t.
func (m *Mapper) shared(t *series.Template) *series.Template {
	key := append([]byte(nil), t.Identity[:]...)
	key = append(key, byte(t.Class))
	key = binary.LittleEndian.AppendUint64(key, t.Seed)
	if t.KeyValue {
		key = append(key, 1)
	}
	for _, part := range t.Parts {
		key = binary.AppendUvarint(key, uint64(len(part)))
		key = append(key, part...)
	}
	for _, slot := range t.Slots {
		key = append(key, byte(slot))
	}
	if old := m.templates[string(key)]; old != nil {
		return old
	}
	m.templates[string(key)] = t
	return t
}
