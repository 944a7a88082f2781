package apple

import (
	"bytes"
	"slices"
	"time"

	"pulsegate/mapping/sample"
)

// An export repeats itself: of the 400 bytes of a Record tag all but the
// dates, the value and the device's address are those of one of the tags
// before. So the scanner's reading of a tag is kept as the literal bytes
// between what changes (holes), and a tag that begins the same is read by
// comparing them. Whatever differs in a byte, is rejected or spans two
// buffers goes the long way through the scanner: both ways must agree, and a
// fuzz test holds them to it.

const (
	maxLearned = 64
	maxLiteral = 4096
)

// hole is a place of a learned tag where tags differ.
type hole uint8

const (
	holeEnd     hole = iota // the tag ends, with "/>" or ">"
	holePointer             // hexadecimal address of an HKDevice, passed over
	holeCreated             // creationDate, passed over
	holeStart               // startDate
	holeStop                // endDate
	holeValue               // a plain decimal
)

// piece is a literal and the hole behind it.
type piece struct {
	literal []byte
	hole    hole
}

// learned is a Record tag that was read the long way.
type learned struct {
	pieces []piece
	text   []byte // the literals' bytes
	s      sample.Sample
	device *sample.Device
}

// learn keeps the Record tag that was just read into r. A tag with an
// attribute that Apple does not write, or with one twice, is not kept.
func (d *xmlDecoder) learn(r *record) {
	tag := d.sc.tag()
	if d.plodding || len(tag) > maxLiteral || d.sc.depth != 2 {
		return
	}
	if !d.usual() {
		return
	}
	l := d.oldest()
	l.text = append(l.text[:0], tag...)
	l.pieces = l.pieces[:0]
	from, started := 0, false
	cut := func(at, n int, h hole) {
		l.pieces = append(l.pieces, piece{l.text[from:at], h})
		from = at + n
	}
	for i := range d.sc.attrs {
		a := &d.sc.attrs[i]
		switch string(a.name) {
		case "creationDate":
			if len(a.raw) == 25 { // else it stays literal
				cut(a.at, 25, holeCreated)
			}
		case "startDate":
			h := holeStart
			if started { // version 12 writes the end so
				h = holeStop
			}
			started = true
			cut(a.at, 25, h)
		case "endDate":
			cut(a.at, 25, holeStop)
		case "device":
			const before = "&lt;&lt;HKDevice: 0x"
			if bytes.HasPrefix(a.raw, []byte(before)) {
				cut(a.at+len(before), hexLen(a.raw[len(before):]), holePointer)
			}
		case "value":
			if r.s.Value.Kind == sample.Number {
				if !plainDecimal(a.raw) {
					return
				}
				cut(a.at, len(a.raw), holeValue)
			}
		}
	}
	end := len(tag) - 1
	if d.sc.closes {
		end--
	}
	l.s, l.device = r.s, r.device
	l.s.Components = nil
	cut(end, 0, holeEnd)
	d.learned = append(d.learned, l)
	last := len(d.learned) - 1
	if slices.ContainsFunc(d.learned[:last], l.like) { // it was only cut by the buffer's end
		d.spare, d.learned = l, d.learned[:last]
		return
	}
	d.learned[0], d.learned[last] = d.learned[last], d.learned[0]
}

// usual says whether the tag has only attributes that Apple writes, each
// once; but for startDate, which version 12 writes twice.
func (d *xmlDecoder) usual() bool {
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

// like compares what two tags have in common with all that are like them.
func (l *learned) like(o *learned) bool {
	return slices.EqualFunc(l.pieces, o.pieces,
		func(a, b piece) bool { return a.hole == b.hole && bytes.Equal(a.literal, b.literal) })
}

// oldest takes a place for a new tag: the last one's when all are taken.
func (d *xmlDecoder) oldest() *learned {
	if l := d.spare; l != nil {
		d.spare = nil
		return l
	}
	if len(d.learned) < maxLearned {
		return &learned{}
	}
	l := d.learned[maxLearned-1]
	d.learned = d.learned[:maxLearned-1]
	return l
}

// again reads Records for as long as they are like earlier ones.
func (d *xmlDecoder) again() error {
	for {
		d.sc.space()
		i := 0
		for ; i < len(d.learned); i++ {
			if d.match(d.learned[i]) {
				break
			}
		}
		if i == len(d.learned) {
			return nil
		}
		if i > 0 { // the next one is likely of the same kind
			l := d.learned[i]
			copy(d.learned[1:i+1], d.learned[:i])
			d.learned[0] = l
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

// match reads the tag at the head of the buffer into d.rec, if it is like l
// and there is nothing to reject. An element that goes on is open then.
func (d *xmlDecoder) match(l *learned) bool {
	b := d.sc.buf[d.sc.pos:d.sc.end]
	i := 0
	var start, stop moment
	var num []byte
	for k := range l.pieces {
		p := &l.pieces[k]
		if !bytes.HasPrefix(b[i:], p.literal) {
			return false
		}
		i += len(p.literal)
		rest, ok := b[i:], true
		switch p.hole {
		case holePointer:
			i += hexLen(rest)
		case holeCreated:
			_, ok = d.clock.moment(rest)
			i += 25
		case holeStart:
			start, ok = d.clock.moment(rest)
			i += 25
		case holeStop:
			stop, ok = d.clock.moment(rest)
			i += 25
		case holeValue:
			num = rest[:decimalLen(rest)]
			ok = len(num) > 0 && len(num) <= 40 && plainDecimal(num)
			i += len(num)
		}
		if !ok {
			return false
		}
	}
	closed := len(b)-i >= 2 && b[i] == '/' && b[i+1] == '>'
	if !closed && (i >= len(b) || b[i] != '>') || start.zone == nil || stop.zone != nil && stop.sec < start.sec {
		return false
	}
	d.fillRecord(l, start, stop, num)
	d.sc.start = d.sc.pos
	d.sc.pos += i + 1
	if closed {
		d.sc.pos++
		return true
	}
	return d.sc.push(recordName) == nil // at depth 1 there is room
}

var recordName, listName = []byte("Record"), []byte("HeartRateVariabilityMetadataList")

// fillRecord sets what differs from the last record, all of it if that was
// of another kind.
func (d *xmlDecoder) fillRecord(l *learned, start, stop moment, num []byte) {
	r := &d.rec
	if d.last != l {
		comps, raw := r.s.Components, r.raw
		*r = record{s: l.s, device: l.device, raw: raw}
		r.s.Components = comps
		d.last = l
	}
	r.syncID, r.version, r.external = "", 0, ""
	s := &r.s
	s.Components = s.Components[:0]
	s.Zone, s.KeyValue = sample.ZoneInstant, true
	s.VendorID, s.IANA, s.Method, s.UserEntered, s.Revision = "", "", "", false, 0
	s.Start, s.End = start.time(), time.Time{}
	if stop.zone != nil && stop.sec != start.sec {
		s.End = stop.time()
	}
	if num != nil {
		s.Value.Num = d.values.get(num)
	}
}

// child reads the next child of a Record, or its end, if it is written as
// Apple does; ok is false if it must go the long way.
func (d *xmlDecoder) child(r *record) (ok bool, err error) {
	s := d.sc
	if s.closes || d.plodding {
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
		key, val, n := pair(b, entry, "\" value=\"")
		if n == 0 {
			return false, nil
		}
		s.start = s.pos
		s.pos += n
		d.entry(r, key, val)
	case bytes.HasPrefix(b, []byte(list)):
		if s.push(listName) != nil {
			return false, nil
		}
		s.start = s.pos
		s.pos += len(list)
		d.sink.Drop(sample.DropIgnored, string(listName), 1)
		d.beats()
		return true, d.skip()
	default:
		return false, nil
	}
	return true, d.tick()
}

// beats passes over the beats of a list; what is left goes the long way.
func (d *xmlDecoder) beats() {
	s := d.sc
	for !d.plodding {
		s.space()
		_, _, n := pair(s.buf[s.pos:s.end], "<InstantaneousBeatsPerMinute bpm=\"", "\" time=\"")
		if n == 0 {
			return
		}
		s.pos += n
	}
}

// pair reads an empty element of two attributes at the head of b; n is its
// length, 0 if it is written otherwise or its values are not plain.
func pair(b []byte, before, between string) (x, y []byte, n int) {
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

// plain is what stands at the head of b before a quote or a special byte.
func plain(b []byte) []byte {
	for i, c := range b {
		if c == '"' || special[c] {
			return b[:i]
		}
	}
	return b
}

func hexLen(b []byte) int {
	for i, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return i
		}
	}
	return len(b)
}

func decimalLen(b []byte) int {
	for i, c := range b {
		if (c < '0' || c > '9') && c != '.' && c != '-' {
			return i
		}
	}
	return len(b)
}
