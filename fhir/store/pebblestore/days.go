package pebblestore

import (
	"io"
	"math"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/search"
)

// setBits merges what is written to one row of table W: a bit that is set in one
// value is set in the row. No other table has merged rows. Pebble stores the name
// with the store and refuses to open it with a merger of another name.
var setBits = &pebble.Merger{
	Name: "pulsegate.setbits",
	Merge: func(_, value []byte) (pebble.ValueMerger, error) {
		return mergedBits(append([]byte(nil), value...)), nil
	},
}

func (m mergedBits) MergeNewer(value []byte) error { m.or(value); return nil }
func (m mergedBits) MergeOlder(value []byte) error { m.or(value); return nil }

func (m mergedBits) or(value []byte) {
	for i := range min(len(m), len(value)) {
		m[i] |= value[i]
	}
}

// Finish implements pebble.ValueMerger.
func (m mergedBits) Finish(bool) ([]byte, io.Closer, error) { return m, nil, nil }

// slots are the quarters of a day.
type slots [slotBytes]byte

func (s *slots) set(i int64) { s[i/8] |= 1 << (i % 8) }

func (s *slots) has(i int64) bool { return s[i/8]&(1<<(i%8)) != 0 }

func (s *slots) or(o *slots) {
	for i := range s {
		s[i] |= o[i]
	}
}

// dayBits is the value of a W row: where documents begin, and where samples do.
type dayBits struct{ docs, samples slots }

// sampleDay is a day of a series write.
type sampleDay struct {
	day  int64
	bits slots
}

// sampleDays are the days on which samples begin, in order. starts are sorted.
func sampleDays(starts []int64) (out []sampleDay) {
	end := int64(math.MinInt64) // of the slot before, Unix microseconds
	for _, us := range starts {
		if us < end {
			continue
		}
		day, slot := dayOf(floorMS(us))
		if len(out) == 0 || out[len(out)-1].day != day {
			out = append(out, sampleDay{day: day})
		}
		out[len(out)-1].bits.set(slot)
		end = (day*dayMS + (slot+1)*slotMS) * 1000
	}
	return out
}

// decodeDayBits reads a W value; an absent one has no bits.
func decodeDayBits(v []byte) (b dayBits, err error) {
	if len(v) != 0 && len(v) != 2*slotBytes {
		return b, errRow
	}
	copy(b.docs[:], v)
	if len(v) > 0 {
		copy(b.samples[:], v[slotBytes:])
	}
	return b, nil
}

// mergedBits implements pebble.ValueMerger. It never fails, since an error
// would end the compaction; decodeDayBits refuses a row of another length.
type mergedBits []byte

const cachedDays = 1 << 15 // rows that a dayWriter remembers

// dayWriter writes W rows. It remembers what it has written and does not write it
// again.
type dayWriter struct{ written map[string]dayBits }

func newDayWriter() dayWriter { return dayWriter{written: map[string]dayBits{}} }

// document sets the bits of a document.
func (w *dayWriter) document(b *pebble.Batch, typ string, p *place, values *search.Values) error {
	if dateParam(typ) == "" {
		return nil
	}
	day, slot := dayOf(p.start) // 0 when it is undated
	var bits dayBits
	bits.docs.set(slot)
	k := dayKey(daysPrefix(typ, p.bucket), day)
	if err := w.set(b, dayRunKey(k, p.code, p.patient, tabDoc), &bits); err != nil {
		return err
	}
	for _, h := range otherCodes(typ, values, p.code) {
		if err := w.set(b, dayRunKey(k, h, p.patient, tabCode), &bits); err != nil {
			return err
		}
	}
	return nil
}

// samples sets the bits of the samples of a series at p, whose code has other
// codings.
func (w *dayWriter) samples(b *pebble.Batch, p *place, others [][8]byte, days []sampleDay) error {
	pre := daysPrefix("Observation", p.bucket)
	for i := range days {
		bits := dayBits{samples: days[i].bits}
		k := dayKey(pre, days[i].day)
		if err := w.set(b, dayRunKey(k, p.code, p.patient, tabDoc), &bits); err != nil {
			return err
		}
		for _, h := range others {
			if err := w.set(b, dayRunKey(k, h, p.patient, tabCode), &bits); err != nil {
				return err
			}
		}
	}
	return nil
}

// set adds bits to a row. Nothing is read for it: Pebble merges what is written
// to one row (see setBits).
func (w *dayWriter) set(b *pebble.Batch, key []byte, bits *dayBits) error {
	have := w.written[string(key)]
	now := have
	now.docs.or(&bits.docs)
	now.samples.or(&bits.samples)
	if now == have {
		return nil
	}
	w.written[string(key)] = now
	return b.Merge(key, append(bits.docs[:], bits.samples[:]...), nil)
}

// trim forgets the rows when they are many. It is called between groups: what a
// group has written is not yet there to be read.
func (w *dayWriter) trim() {
	if len(w.written) > cachedDays {
		clear(w.written)
	}
}

// reset forgets all rows, because a batch with some of them was not committed.
func (w *dayWriter) reset() { clear(w.written) }
