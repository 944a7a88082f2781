package apple

import (
	"bytes"
	"slices"
	"time"

	"pulsegate/mapping/sample"
)

// Exports are repetitive. Of the 400 bytes of a Record tag, only the dates, the
// value and the address of the device differ from those of an earlier tag.
// Therefore the decoder keeps the tags that the scanner has read as templates:
// literal bytes with slots between them. A tag that matches a template is read by
// comparing bytes and parsing the slots. This way
// the decoder reads 1,280 to 1,470 MB per second of processor time
// (conformance/decisions/0007-imports.md) and allocates nothing.
//
// A tag that differs in one byte, is invalid or spans two buffers is read by the
// scanner. Both ways must give the same samples; FuzzTemplates compares them.
//
// fhir/search has templates, too, for stored resources. They cannot be shared here:
// an adapter may import nothing but mapping/sample, and those templates have JSON
// leaves as slots, while these have attributes of a tag.

const (
	maxTemplates = 64
	maxLiteral   = 4096 // bytes of a tag
)

// slot is the type of a variable part of a template.
type slot uint8

const (
	slotNone    slot = iota // no variable part: the tag ends with "/>" or ">"
	slotPointer             // hexadecimal address of an HKDevice, skipped
	slotCreated             // creationDate, validated and skipped
	slotStart               // startDate
	slotEnd                 // endDate
	slotValue               // a plain decimal
)

// segment is a literal followed by a slot.
type segment struct {
	literal []byte
	slot    slot
}

// tagTemplate is a Record tag that the scanner has read.
type tagTemplate struct {
	segments []segment
	text     []byte // backing array of the literals
	sample   sample.Sample
	device   *sample.Device
}

// addTemplate makes a template of the Record tag that was just read into r. Tags
// with attributes that Apple does not write, or with repeated attributes, are not
// kept.
func (d *xmlDecoder) addTemplate(r *record) {
	tag := d.sc.tag()
	if d.templatesOff || len(tag) > maxLiteral || d.sc.depth != 2 || !d.templatable() {
		return
	}
	t := d.newTemplate()
	t.text = append(t.text[:0], tag...)
	t.segments = t.segments[:0]
	from, started := 0, false
	addSlot := func(at, n int, s slot) {
		t.segments = append(t.segments, segment{t.text[from:at], s})
		from = at + n
	}
	for i := range d.sc.attrs {
		a := &d.sc.attrs[i]
		switch string(a.name) {
		case "creationDate":
			if len(a.raw) == 25 { // otherwise it stays literal
				addSlot(a.at, 25, slotCreated)
			}
		case "startDate":
			s := slotStart
			if started { // version 12 writes the end as a second startDate
				s = slotEnd
			}
			started = true
			addSlot(a.at, 25, s)
		case "endDate":
			addSlot(a.at, 25, slotEnd)
		case "device":
			const before = "&lt;&lt;HKDevice: 0x"
			if bytes.HasPrefix(a.raw, []byte(before)) {
				addSlot(a.at+len(before), hexLen(a.raw[len(before):]), slotPointer)
			}
		case "value":
			if r.sample.Value.Kind == sample.Number {
				if !plainDecimal(a.raw) {
					return
				}
				addSlot(a.at, len(a.raw), slotValue)
			}
		}
	}
	end := len(tag) - 1
	if d.sc.closes {
		end--
	}
	t.sample, t.device = r.sample, r.device
	t.sample.Components = nil
	addSlot(end, 0, slotNone)
	d.templates = append(d.templates, t)
	last := len(d.templates) - 1
	// A tag that spans two buffers may match a template that exists already.
	if slices.ContainsFunc(d.templates[:last], t.equal) {
		d.unusedTemplate, d.templates = t, d.templates[:last]
		return
	}
	d.templates[0], d.templates[last] = d.templates[last], d.templates[0]
}

// templatable reports whether the tag has only attributes that Apple writes, each
// once, except for startDate, which version 12 writes twice.
func (d *xmlDecoder) templatable() bool {
	seen, starts := uint(0), 0
	for i := range d.sc.attrs {
		n := slices.Index(recordAttributes, string(d.sc.attrs[i].name))
		if n < 0 {
			return false
		}
		if n == 0 {
			starts++
		} else if seen&(1<<n) != 0 {
			return false
		}
		seen |= 1 << n
	}
	return starts == 1 || starts == 2 && seen&2 == 0
}

var recordAttributes = []string{"startDate", "endDate", "type", "unit", "value", "sourceName", "sourceVersion",
	"device", "creationDate"}

// equal reports whether two templates match the same tags.
func (t *tagTemplate) equal(other *tagTemplate) bool {
	return slices.EqualFunc(t.segments, other.segments,
		func(a, b segment) bool { return a.slot == b.slot && bytes.Equal(a.literal, b.literal) })
}

// newTemplate returns an empty template. If there are maxTemplates, it removes the
// least recently used one and reuses its memory.
func (d *xmlDecoder) newTemplate() *tagTemplate {
	if t := d.unusedTemplate; t != nil {
		d.unusedTemplate = nil
		return t
	}
	if len(d.templates) < maxTemplates {
		return &tagTemplate{}
	}
	t := d.templates[maxTemplates-1]
	d.templates = d.templates[:maxTemplates-1]
	return t
}

// templatedRecords reads and emits Records for as long as they match a template.
func (d *xmlDecoder) templatedRecords() error {
	for {
		d.sc.space()
		i := 0
		for ; i < len(d.templates); i++ {
			if d.matchRecord(d.templates[i]) {
				break
			}
		}
		if i == len(d.templates) {
			return nil
		}
		if i > 0 { // the next Record is likely of the same type
			t := d.templates[i]
			copy(d.templates[1:i+1], d.templates[:i])
			d.templates[0] = t
		}
		if err := d.tick(); err != nil {
			return err
		}
		if d.sc.depth == 2 {
			if err := d.recordChildren(&d.rec); err != nil {
				return err
			}
		}
		if err := d.emit(&d.rec); err != nil {
			return err
		}
	}
}

// matchRecord reads the tag at the start of the buffer into d.rec if it matches t
// and is valid. An element with children is left open.
func (d *xmlDecoder) matchRecord(t *tagTemplate) bool {
	b := d.sc.buf[d.sc.pos:d.sc.end]
	i := 0
	var start, end moment
	var num []byte
	for k := range t.segments {
		seg := &t.segments[k]
		if !bytes.HasPrefix(b[i:], seg.literal) {
			return false
		}
		i += len(seg.literal)
		rest, ok := b[i:], true
		switch seg.slot {
		case slotPointer:
			i += hexLen(rest)
		case slotCreated:
			_, ok = d.clock.moment(rest)
			i += 25
		case slotStart:
			start, ok = d.clock.moment(rest)
			i += 25
		case slotEnd:
			end, ok = d.clock.moment(rest)
			i += 25
		case slotValue:
			num = rest[:decimalLen(rest)]
			ok = len(num) > 0 && len(num) <= 40 && plainDecimal(num)
			i += len(num)
		}
		if !ok {
			return false
		}
	}
	closed := len(b)-i >= 2 && b[i] == '/' && b[i+1] == '>'
	if !closed && (i >= len(b) || b[i] != '>') || start.zone == nil || end.zone != nil && end.sec < start.sec {
		return false
	}
	d.fillRecord(t, start, end, num)
	d.sc.start = d.sc.pos
	d.sc.pos += i + 1
	if closed {
		d.sc.pos++
		return true
	}
	return d.sc.push(recordName) == nil // cannot fail at depth 1
}

var recordName, listName = []byte("Record"), []byte("HeartRateVariabilityMetadataList")

// fillRecord sets d.rec from a template and its slots. If the last record came
// from the same template, only the fields that may have changed are set.
func (d *xmlDecoder) fillRecord(t *tagTemplate, start, end moment, num []byte) {
	r := &d.rec
	if d.lastTemplate != t {
		comps, raw := r.sample.Components, r.raw
		*r = record{sample: t.sample, device: t.device, raw: raw}
		r.sample.Components = comps
		d.lastTemplate = t
	}
	r.syncID, r.version, r.external = "", 0, ""
	s := &r.sample
	s.Components = s.Components[:0]
	s.Zone, s.KeyValue = sample.ZoneInstant, true
	s.VendorID, s.IANA, s.Method, s.UserEntered, s.Revision = "", "", "", false, 0
	s.Start, s.End = start.time(), time.Time{}
	if end.zone != nil && end.sec != start.sec {
		s.End = end.time()
	}
	if num != nil {
		s.Value.Num = d.values.get(num)
	}
}

// plainChild reads the next child of a Record, or its end tag, if it is written
// exactly as Apple writes it. If ok is false, the scanner must read it.
func (d *xmlDecoder) plainChild(r *record) (ok bool, err error) {
	s := d.sc
	if s.closes || d.templatesOff {
		return false, nil
	}
	s.space()
	b := s.buf[s.pos:s.end]
	const end, entry, list = "</Record>", "<MetadataEntry key=\"", "<HeartRateVariabilityMetadataList>"
	switch {
	case bytes.HasPrefix(b, []byte(end)):
		if s.pop(recordName) != nil {
			return false, nil
		}
		s.start = s.pos
		s.pos += len(end)
	case bytes.HasPrefix(b, []byte(entry)):
		key, val, n := emptyElement(b, entry, "\" value=\"")
		if n == 0 {
			return false, nil
		}
		s.start = s.pos
		s.pos += n
		d.entries.add(r, key, val)
	case bytes.HasPrefix(b, []byte(list)):
		if s.push(listName) != nil {
			return false, nil
		}
		s.start = s.pos
		s.pos += len(list)
		d.sink.Drop(sample.DropIgnored, string(listName), 1)
		d.skipBeats()
		return true, d.skip()
	default:
		return false, nil
	}
	return true, d.tick()
}

// skipBeats skips the beats of a list that are written as Apple writes them.
// The scanner reads the others.
func (d *xmlDecoder) skipBeats() {
	s := d.sc
	for !d.templatesOff {
		s.space()
		_, _, n := emptyElement(s.buf[s.pos:s.end], "<InstantaneousBeatsPerMinute bpm=\"", "\" time=\"")
		if n == 0 {
			return
		}
		s.pos += n
	}
}

// emptyElement reads an empty element with two attributes at the start of b.
// The length n is 0 if the element is written differently or if a value needs
// decoding.
func emptyElement(b []byte, before, between string) (x, y []byte, n int) {
	if !bytes.HasPrefix(b, []byte(before)) {
		return nil, nil, 0
	}
	i := len(before)
	x = plain(b[i:])
	i += len(x)
	if !bytes.HasPrefix(b[i:], []byte(between)) {
		return nil, nil, 0
	}
	i += len(between)
	y = plain(b[i:])
	i += len(y)
	const after = "\"/>"
	if !bytes.HasPrefix(b[i:], []byte(after)) {
		return nil, nil, 0
	}
	return x, y, i + len(after)
}

// plain returns the bytes of b before the first quote or special byte.
func plain(b []byte) []byte {
	for i, c := range b {
		if c == '"' || special[c] {
			return b[:i]
		}
	}
	return b
}

// hexLen returns the number of hexadecimal digits at the start of b.
func hexLen(b []byte) int {
	for i, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return i
		}
	}
	return len(b)
}

// decimalLen returns the number of bytes at the start of b that may belong to a
// decimal.
func decimalLen(b []byte) int {
	for i, c := range b {
		if (c < '0' || c > '9') && c != '.' && c != '-' {
			return i
		}
	}
	return len(b)
}
