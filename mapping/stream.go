package mapping

import (
	"slices"
	"strings"
	"time"

	"pulsegate/fhir/series"
	"pulsegate/mapping/sample"
)

// holes are the places of an Observation that differ from sample to sample.
type holes struct {
	at      []hole
	numbers int
}

type hole struct {
	kind     series.Slot
	from, to int
}

func (h *holes) add(k series.Slot, from, to int) {
	if h != nil {
		h.at = append(h.at, hole{k, from, to})
	}
}

// number is the place of the next number.
func (h *holes) number(from, to int) {
	if h != nil {
		h.add(series.HoleValue+series.Slot(h.numbers), from, to)
		h.numbers++
	}
}

// parts cuts body, an Observation, at its holes, from meta on.
func (h *holes) parts(body []byte, prefix int) (parts [][]byte, kinds []series.Slot) {
	from := prefix
	for _, x := range h.at {
		parts, kinds = append(parts, body[from:x.from]), append(kinds, x.kind)
		from = x.to
	}
	return append(parts, body[from:]), kinds
}

// Bounds of what Streams remembers, in all and of one metric. The lists are not
// golang-lru caches, because an entry is found by comparing it with a sample,
// not by a key.
const (
	maxStreams  = 2048
	maxLikeness = 128
)

// Streams maps the dense samples of one patient and vendor. It remembers how
// the last ones were mapped, so that of the next only times and numbers have
// to be read. It is for one goroutine.
type Streams struct {
	m               *Mapper
	vendor, patient string
	zone            *time.Location

	last      *likeness
	metrics   map[string][]*likeness
	size      int
	templates map[string]*series.Template

	// the period in which zone has the offset
	from, to int64
	off      int16
}

// Streams begins with nothing remembered.
func (m *Mapper) Streams(vendor, patient string, zone *time.Location) *Streams {
	x := &Streams{m: m, vendor: vendor, patient: patient, zone: zone}
	x.Reset()
	return x
}

// Full reports that much is remembered and Reset is due. Reset makes new
// Templates for streams that had one.
func (x *Streams) Full() bool { return x.size > maxStreams }

// Reset forgets everything.
func (x *Streams) Reset() {
	x.last, x.size = nil, 0
	x.metrics, x.templates = map[string][]*likeness{}, map[string]*series.Template{}
}

// Stream is what samples in one Template and with the same word on their
// device share. It does not change.
type Stream struct {
	Template *series.Template
	Metric   string // the row's
	// SegmentsOf has the meaning of Result.SegmentsOf.
	SegmentsOf string
	Device     DeviceKey
	// Coarse has the meaning of sample.Sample.Coarse.
	Coarse bool
	Vague  bool
	// Known is a sample of it, with device and source only.
	Known *sample.Sample
}

// likeness is everything of a sample but its times and numbers.
type likeness struct {
	like    sample.Sample // a copy
	rule    *rule
	numbers []numeric
	id      series.Identity
	seed    uint64
	zoned   bool // the patient's zone says the offset
	// streams by whether the offset is unsure, and class
	streams [2][series.Long + 1]*Stream
	known   sample.Sample
}

// numeric is one number of a sample.
type numeric struct {
	part int // index in Components, -1 the main value
	quick
	rule *rule
}

// Place puts the times and numbers of s into row and returns its stream; nil
// when s is not a sample of a series: Map says what it is then. The values are
// those that Map writes.
func (x *Streams) Place(s *sample.Sample, row *series.Sample) *Stream {
	if s.VendorID != "" || s.Status != sample.Final || s.Note != "" || s.Day != (sample.Date{}) || s.Start.IsZero() {
		return nil
	}
	e := x.last
	if e == nil || !e.fits(s) {
		if e = x.find(s); e == nil {
			return nil
		}
		x.last = e
	}
	if e.rule == nil {
		return nil
	}
	unsure, ok := x.times(e, s, row)
	if !ok {
		return nil
	}
	for i := range e.numbers {
		n := &e.numbers[i]
		v := &s.Value
		if n.part >= 0 {
			v = &s.Components[n.part].Value
		}
		if row.Values[i], ok = n.number(v.Num); !ok {
			return nil
		}
		r := n.rule
		if r.zeroAbsent && row.Values[i].Mant == 0 {
			return nil
		}
		if r.ranged {
			if f := row.Values[i].Float(); f < r.low || f > r.high {
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
		st = x.stream(e, s, class, unsure)
		e.streams[unsure][class] = st
	}
	return st
}

// fits reports whether s differs from e in times and numbers only. Adapters
// intern, so most comparisons are of pointers.
func (e *likeness) fits(s *sample.Sample) bool {
	o := &e.like
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

// find looks for a likeness of s among those of its metric, or makes one.
func (x *Streams) find(s *sample.Sample) *likeness {
	list := x.metrics[s.Metric]
	for i, e := range list {
		if e.fits(s) {
			if i > 0 { // the usual ones first
				list[i-1], list[i] = e, list[i-1]
			}
			return e
		}
	}
	if x.m.rules[x.vendor][s.Metric] == nil || len(s.Components) > 16 || len(s.Device.Facts) > maxFacts {
		return nil
	}
	if len(list) >= maxLikeness {
		list = nil
	}
	e := x.likeness(s)
	x.size++
	x.metrics[e.like.Metric] = append(list, e)
	return e
}

// likeness makes one; without a rule when samples like s are no series.
func (x *Streams) likeness(s *sample.Sample) *likeness {
	e := &likeness{like: keep(s)}
	r := x.m.rules[x.vendor][s.Metric].choose(s)
	if !r.dense {
		return e
	}
	switch s.Value.Kind {
	case sample.Number:
		if !e.add(-1, r, &s.Value, s.Channel) {
			return e
		}
	case sample.Code: // part of the template, so it must be one of few
		if r.values[s.Value.Text] == nil {
			return e
		}
	case sample.None:
	default:
		return e
	}
	for i := range s.Components {
		c := &s.Components[i]
		switch c.Value.Kind {
		case sample.Number:
			if !e.add(i, r.part(c.Name), &c.Value, s.Channel) {
				return e
			}
		case sample.None, sample.Code, sample.Boolean:
		default:
			return e
		}
	}
	if len(e.numbers) == 0 && s.Value.Kind != sample.Code || len(e.numbers) > series.MaxValues {
		return e
	}
	e.id = x.m.streamIdentity(x.vendor, x.patient, r.row.Metric, s)
	if s.KeyValue {
		e.seed, _ = r.naturalKey(s)
	}
	e.zoned = s.Zone == sample.ZoneInstant && x.zone != nil
	e.known = sample.Sample{Device: e.like.Device, Source: e.like.Source}
	e.rule = r
	return e
}

func (e *likeness) add(part int, r *rule, v *sample.Value, channel string) bool {
	var c conversion
	if r.units != nil {
		var ok bool
		if c, ok = r.conversion(v.Unit, channel); !ok {
			return false
		}
	}
	e.numbers = append(e.numbers, numeric{part, newQuick(c), r})
	return true
}

// keep copies what a likeness is compared by: the adapter uses s again.
func keep(s *sample.Sample) sample.Sample {
	o := sample.Sample{Metric: strings.Clone(s.Metric), Channel: strings.Clone(s.Channel), KeyValue: s.KeyValue,
		Coarse: s.Coarse, UserEntered: s.UserEntered,
		Zone: s.Zone, Method: strings.Clone(s.Method),
		Value: sample.Value{Kind: s.Value.Kind, Unit: strings.Clone(s.Value.Unit)}, Device: s.Device,
		Source: sample.Source{Name: strings.Clone(s.Source.Name)}}
	if s.Value.Kind == sample.Code {
		o.Value.Text = strings.Clone(s.Value.Text)
	}
	d := &o.Device
	for _, p := range []*string{&d.Name, &d.Manufacturer, &d.Model, &d.Hardware, &d.Kind, &d.Serial, &d.Software,
		&d.Firmware, &d.Battery} {
		*p = strings.Clone(*p)
	}
	d.Facts = slices.Clone(d.Facts)
	for i := range d.Facts {
		f := &d.Facts[i]
		f.Name, f.Value, f.Unit = strings.Clone(f.Name), strings.Clone(f.Value), strings.Clone(f.Unit)
	}
	for i := range s.Components {
		c := &s.Components[i]
		o.Components = append(o.Components,
			sample.Component{Name: strings.Clone(c.Name), Value: sample.Value{Kind: c.Value.Kind,
				Unit: strings.Clone(c.Value.Unit), Text: strings.Clone(c.Value.Text), Bool: c.Value.Bool}})
	}
	return o
}

// The times of a series lie well inside what Map takes, so that the offset
// does not matter: from 1900-01-02 to 2200-12-01.
const (
	earliest = series.MinStart + 86400_000000
	latest   = 7286976000_000000
)

// times resolves the times of s as resolve does.
func (x *Streams) times(e *likeness, s *sample.Sample, row *series.Sample) (unsure int, ok bool) {
	row.End, row.EndOff = series.NoEnd, 0
	if s.Zone == sample.ZoneFloating {
		w, err := resolve(s, x.zone)
		if err != nil {
			return 0, false
		}
		row.Start, row.Off = w.start.UnixMicro(), offset(w.start)
		if !w.end.IsZero() {
			row.End, row.EndOff = w.end.UnixMicro(), offset(w.end)
		}
		if w.unsure {
			unsure = 1
		}
	} else {
		if s.Zone == sample.ZoneInstant && x.zone == nil {
			unsure = 1
		}
		row.Start, row.Off = s.Start.UnixMicro(), x.offset(e, s.Start)
		if !s.End.IsZero() {
			row.End, row.EndOff = s.End.UnixMicro(), x.offset(e, s.End)
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

// offset is the offset in minutes that t is written with.
func offset(t time.Time) int16 {
	_, off := t.Zone()
	if off%60 != 0 || off > 14*3600 || off < -14*3600 {
		return 0
	}
	return int16(off / 60)
}

func (x *Streams) offset(e *likeness, t time.Time) int16 {
	if !e.zoned {
		return offset(t)
	}
	sec := t.Unix()
	if sec >= x.from && sec < x.to {
		return x.off
	}
	t = t.In(x.zone)
	x.off, x.from, x.to = offset(t), sec, sec+1
	if start, end := t.ZoneBounds(); !start.IsZero() && !end.IsZero() {
		x.from, x.to = start.Unix(), end.Unix()
	}
	return x.off
}

// stream renders s, cuts out what differs, and finds the template.
func (x *Streams) stream(e *likeness, s *sample.Sample, class series.Class, unsure int) *Stream {
	w := when{start: s.Start, unsure: unsure == 1}
	res := Result{ID: "x", Stream: StreamID(e.id), Device: x.m.deviceKey(x.vendor, x.patient, s)}
	var h holes
	body, err := e.rule.observation(nil, x.vendor, x.patient, s, &w, &res, &h)
	if err != nil { // Map says so
		return nil
	}
	t := &series.Template{Identity: e.id, Class: class, KeyValue: s.KeyValue, Seed: e.seed,
		Patient: strings.Clone(x.patient), Vendor: x.vendor,
		Categories: e.rule.categories, Values: len(e.numbers)}
	t.Parts, t.Holes = h.parts(body, len(`{"resourceType":"Observation","id":"x","meta":{`))
	return &Stream{Template: x.shared(t), Metric: e.rule.row.Metric, SegmentsOf: e.rule.row.SegmentsOf,
		Coarse: s.Coarse, Device: res.Device, Vague: vague(s), Known: &e.known}
}

// shared returns the one template like t.
func (x *Streams) shared(t *series.Template) *series.Template {
	k := key(t.Identity[:]).str(string([]byte{byte(t.Class), byte(t.Seed), byte(t.Seed >> 8), byte(t.Seed >> 16),
		byte(t.Seed >> 24),
		byte(t.Seed >> 32), byte(t.Seed >> 40), byte(t.Seed >> 48), byte(t.Seed >> 56)}))
	if t.KeyValue {
		k = append(k, 1)
	}
	for i := range t.Parts {
		k = k.str(string(t.Parts[i]))
	}
	for _, h := range t.Holes {
		k = append(k, byte(h))
	}
	if old := x.templates[string(k)]; old != nil {
		return old
	}
	x.templates[string(k)] = t
	return t
}
