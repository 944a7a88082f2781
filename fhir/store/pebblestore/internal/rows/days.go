package rows

import (
	"io"
	"math"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/search"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
)

// setBits merges what is written to one row of table W: a bit that is set in one
// value is set in the row. No other table has merged rows. Pebble stores the name
// with the store and refuses to open it with a merger of another name.
var Merger = &pebble.Merger{
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
type Slots [keys.SlotBytes]byte

func (s *Slots) Set(i int64) { s[i/8] |= 1 << (i % 8) }

func (s *Slots) Has(i int64) bool { return s[i/8]&(1<<(i%8)) != 0 }

func (s *Slots) Or(o *Slots) {
	for i := range s {
		s[i] |= o[i]
	}
}

// dayBits is the value of a W row: where documents begin, and where samples do.
type DayBits struct{ Documents, Samples Slots }

// sampleDay is a day of a series write.
type SampleDay struct {
	Day   int64
	Slots Slots
}

// sampleDays are the days on which samples begin, in order. starts are sorted.
func SampleDays(starts []int64) (out []SampleDay) {
	end := int64(math.MinInt64) // of the slot before, Unix microseconds
	for _, us := range starts {
		if us < end {
			continue
		}
		day, slot := keys.DayOf(keys.FloorMS(us))
		if len(out) == 0 || out[len(out)-1].Day != day {
			out = append(out, SampleDay{Day: day})
		}
		out[len(out)-1].Slots.Set(slot)
		end = (day*keys.DayMS + (slot+1)*keys.SlotMS) * 1000
	}
	return out
}

// decodeDayBits reads a W value; an absent one has no bits.
func DecodeDayBits(v []byte) (b DayBits, err error) {
	if len(v) != 0 && len(v) != 2*keys.SlotBytes {
		return b, fault.ErrRow
	}
	copy(b.Documents[:], v)
	if len(v) > 0 {
		copy(b.Samples[:], v[keys.SlotBytes:])
	}
	return b, nil
}

// mergedBits implements pebble.ValueMerger. It never fails, since an error
// would end the compaction; decodeDayBits refuses a row of another length.
type mergedBits []byte

const cachedDays = 1 << 15 // rows that a dayWriter remembers

// dayWriter writes W rows. It remembers what it has written and does not write it
// again.
type DayWriter struct{ written map[string]DayBits }

func NewDayWriter() DayWriter { return DayWriter{written: map[string]DayBits{}} }

// document sets the bits of a document.
func (w *DayWriter) PutDocument(b *pebble.Batch, typ string, p *keys.Location, values *search.Values) error {
	if keys.DateParam(typ) == "" {
		return nil
	}
	day, slot := keys.DayOf(p.Start) // 0 when it is undated
	var bits DayBits
	bits.Documents.Set(slot)
	k := keys.DayKey(keys.DayPrefix(typ, p.Bucket), day)
	if err := w.set(b, keys.DayRunKey(k, p.Code, p.Patient, keys.TableDocument), &bits); err != nil {
		return err
	}
	for _, h := range OtherCodes(typ, values, p.Code) {
		if err := w.set(b, keys.DayRunKey(k, h, p.Patient, keys.TableCode), &bits); err != nil {
			return err
		}
	}
	return nil
}

// samples sets the bits of the samples of a series at p, whose code has other
// codings.
func (w *DayWriter) PutSamples(b *pebble.Batch, p *keys.Location, others [][8]byte, days []SampleDay) error {
	pre := keys.DayPrefix("Observation", p.Bucket)
	for i := range days {
		bits := DayBits{Samples: days[i].Slots}
		k := keys.DayKey(pre, days[i].Day)
		if err := w.set(b, keys.DayRunKey(k, p.Code, p.Patient, keys.TableDocument), &bits); err != nil {
			return err
		}
		for _, h := range others {
			if err := w.set(b, keys.DayRunKey(k, h, p.Patient, keys.TableCode), &bits); err != nil {
				return err
			}
		}
	}
	return nil
}

// set adds bits to a row. Nothing is read for it: Pebble merges what is written
// to one row (see setBits).
func (w *DayWriter) set(b *pebble.Batch, key []byte, bits *DayBits) error {
	have := w.written[string(key)]
	now := have
	now.Documents.Or(&bits.Documents)
	now.Samples.Or(&bits.Samples)
	if now == have {
		return nil
	}
	w.written[string(key)] = now
	return b.Merge(key, append(bits.Documents[:], bits.Samples[:]...), nil)
}

// trim forgets the rows when they are many. It is called between groups: what a
// group has written is not yet there to be read.
func (w *DayWriter) Trim() {
	if len(w.written) > cachedDays {
		clear(w.written)
	}
}

// reset forgets all rows, because a batch with some of them was not committed.
func (w *DayWriter) Reset() { clear(w.written) }
