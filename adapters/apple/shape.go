package apple

import (
	"bytes"
	"encoding/binary"
	"math/bits"

	"pulsegate/mapping/sample"
)

// An export repeats itself: the records of one type follow one another, and
// but for dates and values their attributes are the same bytes. A shape is
// what the elements of one name had so far, so that the next one is compared
// with the last instead of read anew. It changes no result: only a text that
// was read to its closing quote is kept, and only equal bytes match.

const (
	maxShapes = 16
	maxSlots  = 16
	maxMemo   = 512
)

// attrKey names the attributes that records are made of.
type attrKey uint8

const (
	keyOther attrKey = iota
	keyType
	keyUnit
	keySourceName
	keySourceVersion
	keyDevice
	keyKey
	keyValue
	keyStartDate
	keyEndDate
	keyCreationDate
	keyTime
	keyBPM
)

func attrKeyOf(name []byte) attrKey {
	switch string(name) {
	case "type":
		return keyType
	case "unit":
		return keyUnit
	case "sourceName":
		return keySourceName
	case "sourceVersion":
		return keySourceVersion
	case "device":
		return keyDevice
	case "key":
		return keyKey
	case "value":
		return keyValue
	case "startDate":
		return keyStartDate
	case "endDate":
		return keyEndDate
	case "creationDate":
		return keyCreationDate
	case "time":
		return keyTime
	case "bpm":
		return keyBPM
	}
	return keyOther
}

// varies says that a value is hardly ever that of the element before.
func (k attrKey) varies() bool { return k >= keyStartDate }

// memo is the last text of one attribute, and what was made of its value.
type memo struct {
	text  []byte // name="value"
	name  int    // length of the name
	value int    // where the value begins
	plain bool
	key   attrKey

	known  bool // str is the value, decoded
	str    string
	device *sample.Device
}

func (m *memo) keep(text []byte, value int, plain bool) {
	m.text = append(m.text[:0], text...)
	m.value, m.plain, m.known, m.device = value, plain, false, nil
}

// shape is the attributes that elements of one name had, in their order.
type shape struct {
	name  []byte
	slots []memo
}

// match finds the slot whose name begins b, from *at on; an attribute may be
// absent, so two are tried behind it. same: the whole text is that of the
// slot.
func (sh *shape) match(b []byte, at *int) (m *memo, same bool) {
	for i := *at; i < len(sh.slots) && i < *at+3; i++ {
		m := &sh.slots[i]
		if len(b) < m.value || !bytes.Equal(b[:m.value], m.text[:m.value]) {
			continue
		}
		*at = i + 1
		return m, len(m.text) > m.value && len(b) >= len(m.text) && bytes.Equal(b[m.value:len(m.text)], m.text[m.value:])
	}
	return nil, false
}

// slot is the place of an attribute that was not foreseen; head is its name
// and all to the opening quote. nil: there is no more room, or the slot may
// have served this very element, by an attribute that stands there twice.
func (sh *shape) slot(name, head []byte, at *int) *memo {
	for i := range sh.slots {
		m := &sh.slots[i]
		if !bytes.Equal(m.text[:m.name], name) {
			continue
		}
		if i < *at {
			return nil
		}
		*at = i + 1
		if m.text[m.value-1] != head[len(head)-1] {
			m.keep(head, len(head), false)
		}
		return m
	}
	if len(sh.slots) == maxSlots || len(head) > maxMemo {
		return nil
	}
	sh.slots = append(sh.slots, memo{text: bytes.Clone(head), name: len(name), value: len(head), key: attrKeyOf(name)})
	*at = len(sh.slots)
	return &sh.slots[len(sh.slots)-1]
}

// shapes are those of a document.
type shapes struct {
	all  []*shape
	last int
}

// at finds the shape of the name that b begins with.
func (s *shapes) at(b []byte) *shape {
	for n := range s.all {
		i := s.last + n
		if i >= len(s.all) {
			i -= len(s.all)
		}
		sh := s.all[i]
		if l := len(sh.name); len(b) > l && !nameByte[b[l]] && bytes.Equal(b[:l], sh.name) {
			s.last = i
			return sh
		}
	}
	return nil
}

func (s *shapes) learn(name []byte) *shape {
	if len(s.all) == maxShapes || len(name) > maxMemo {
		return nil
	}
	// All slots at once: pointers to them stay good.
	s.all = append(s.all, &shape{name: bytes.Clone(name), slots: make([]memo, 0, maxSlots)})
	return s.all[len(s.all)-1]
}

const (
	lows  = 0x0101010101010101
	highs = 0x8080808080808080
)

// zeros marks the lowest zero byte of x by its high bit; marks above it mean
// nothing.
func zeros(x uint64) uint64 { return (x - lows) &^ x & highs }

// specials marks what may need decoding, "\n" and "\t" among it; the lowest
// mark is right.
func specials(w uint64) uint64 {
	return (w-lows*' ')&^w&highs | w&highs | zeros(w^lows*'&') | zeros(w^lows*'<')
}

// valueEnd finds the quote that ends a value, -1 if there is none. plain: all
// before it can be used as it is, for certain.
func valueEnd(b []byte, quote byte) (end int, plain bool) {
	q := lows * uint64(quote)
	for i := 0; i+8 <= len(b); i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		found, odd := zeros(w^q), specials(w)
		if found != 0 {
			n := bits.TrailingZeros64(found)
			return i + n/8, odd&(1<<n-1) == 0
		}
		if odd != 0 {
			n := bytes.IndexByte(b[i:], quote)
			if n < 0 {
				return -1, false
			}
			return i + n, false
		}
	}
	return bytes.IndexByte(b, quote), false
}

// isPlain reports whether a text can be used as it is.
func isPlain(b []byte) bool {
	for len(b) >= 8 && specials(binary.LittleEndian.Uint64(b)) == 0 {
		b = b[8:]
	}
	for _, c := range b {
		if special[c] {
			return false
		}
	}
	return true
}
