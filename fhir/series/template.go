package series

import (
	"encoding/binary"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// Slot names a position in a template that each sample fills.
type Slot uint8

const (
	// SlotID holds the sample's id as a value of Observation.identifier.
	// Resource.id is not part of the template.
	SlotID Slot = iota
	// SlotEffective holds the member effectiveDateTime or effectivePeriod with
	// its name and without a comma.
	SlotEffective
	// SlotValue + i holds the number from value column i.
	SlotValue
)

// Template holds everything that the samples of a series have in common.
type Template struct {
	Identity Identity
	Class    Class // of all samples
	// KeyValue makes the values and Seed part of a sample's id. It is set for
	// streams in which several samples with different values may share one
	// instant.
	KeyValue bool
	Seed     uint64

	Patient    string
	Vendor     string
	Categories []string // codes of Observation.category
	// Values is the number of value columns.
	Values int
	// Parts are the canonical bytes of the Observation after `"meta":{`, split
	// at the slots. Parts[i] precedes Slots[i]; the last part ends the resource.
	Parts [][]byte
	Slots []Slot
}

// Check returns the part of a sample's id that distinguishes it from others at
// the same instant. It hashes the end and, if KeyValue is set, the values
// without trailing zeros in their fractions. It is 0 for an instant without
// KeyValue.
func (t *Template) Check(s *Sample) uint32 {
	if s.End == NoEnd && !t.KeyValue {
		return 0
	}
	var buf [160]byte
	b := buf[:0]
	if s.End != NoEnd {
		b = binary.BigEndian.AppendUint64(b, uint64(s.End))
	}
	if t.KeyValue {
		b = binary.BigEndian.AppendUint64(b, t.Seed)
		for i := range t.Values {
			b = append(b, 0)
			b = s.Values[i].trimmed().Append(b)
		}
	}
	return uint32(xxhash.Sum64(b))
}

// Key returns the key of a sample, from which its id is made.
func (t *Template) Key(s *Sample) Key { return Key{t.Identity, s.Start, t.Check(s)} }

// Append appends the sample's Observation in canonical form. If the sample has a
// Commit, the Observation is stamped with version 1.
func (t *Template) Append(b []byte, s *Sample) []byte {
	k := t.Key(s)
	var buf [idLen]byte
	id := k.AppendID(buf[:0])
	b = append(b, `{"resourceType":"Observation","id":"`...)
	b = append(b, id...)
	b = append(b, `","meta":{`...)
	if s.Commit.Seq != 0 {
		b = append(b, `"versionId":"1","lastUpdated":"`...)
		b = appendInstant(b, s.Commit.Updated)
		b = append(b, '"')
		if t.Parts[0][0] != '}' {
			b = append(b, ',')
		}
	}
	for i, slot := range t.Slots {
		b = append(b, t.Parts[i]...)
		switch slot {
		case SlotID:
			b = append(b, id...)
		case SlotEffective:
			b = s.appendEffective(b)
		default:
			b = s.Values[slot-SlotValue].Append(b)
		}
	}
	return append(b, t.Parts[len(t.Slots)]...)
}

func (s *Sample) appendEffective(b []byte) []byte {
	if s.End == NoEnd {
		b = append(b, `"effectiveDateTime":"`...)
		b = appendTime(b, s.Start, s.Off)
		return append(b, '"')
	}
	b = append(b, `"effectivePeriod":{"start":"`...)
	b = appendTime(b, s.Start, s.Off)
	b = append(b, `","end":"`...)
	b = appendTime(b, s.End, s.EndOff)
	return append(b, `"}`...)
}

// appendTime appends a FHIR dateTime with an offset from UTC in minutes. It
// writes milliseconds or microseconds only if the instant has them.
func appendTime(b []byte, us int64, off int16) []byte {
	sec, frac := floorDiv(us+int64(off)*60e6, 1e6)
	b = appendSeconds(b, sec)
	switch {
	case frac == 0:
	case frac%1000 == 0:
		b = append(b, '.')
		b = appendInt(b, int(frac/1000), 3)
	default:
		b = append(b, '.')
		b = appendInt(b, int(frac), 6)
	}
	if off == 0 {
		return append(b, 'Z')
	}
	minutes := int(off)
	if minutes < 0 {
		b, minutes = append(b, '-'), -minutes
	} else {
		b = append(b, '+')
	}
	b = appendTwo(b, minutes/60)
	b = append(b, ':')
	return appendTwo(b, minutes%60)
}

// appendInstant appends Unix milliseconds in the layout fhir.InstantLayout.
func appendInstant(b []byte, ms int64) []byte {
	sec, frac := floorDiv(ms, 1000)
	b = append(appendSeconds(b, sec), '.')
	return append(appendInt(b, int(frac), 3), 'Z')
}

// appendSeconds appends Unix seconds as a date and time without an offset.
func appendSeconds(b []byte, sec int64) []byte {
	days, clock := floorDiv(sec, 86400)
	y, m, d := civil(days)
	b = append(appendInt(b, y, 4), '-')
	b = append(appendTwo(b, m), '-')
	b = append(appendTwo(b, d), 'T')
	b = append(appendTwo(b, int(clock/3600)), ':')
	b = append(appendTwo(b, int(clock/60%60)), ':')
	return appendTwo(b, int(clock%60))
}

// floorDiv returns the quotient rounded down and the remainder, which is not
// negative.
func floorDiv(v, by int64) (quotient, rest int64) {
	quotient, rest = v/by, v%by
	if rest < 0 {
		quotient, rest = quotient-1, rest+by
	}
	return quotient, rest
}

// civil returns the proleptic Gregorian date of a day number since 1970-01-01
// (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
// civil_from_days).
func civil(days int64) (y, m, d int) {
	days += 719468
	era := days / 146097
	if days < 0 {
		era = (days - 146096) / 146097
	}
	doe := days - era*146097
	yoe := (doe - doe/1460 + doe/36524 - doe/146096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	d = int(doy - (153*mp+2)/5 + 1)
	m = int(mp + 3)
	if m > 12 {
		m -= 12
	}
	y = int(yoe + era*400)
	if m <= 2 {
		y++
	}
	return y, m, d
}

func appendTwo(b []byte, v int) []byte { return append(b, byte('0'+v/10), byte('0'+v%10)) }

func appendInt(b []byte, v, width int) []byte {
	if v < 0 || v >= 1e6 {
		return strconv.AppendInt(b, int64(v), 10)
	}
	var digits [6]byte
	for i := width - 1; i >= 0; i-- {
		digits[i] = byte('0' + v%10)
		v /= 10
	}
	return append(b, digits[:width]...)
}
