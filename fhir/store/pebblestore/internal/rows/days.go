package rows

import (
	"io"
	"math"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/search"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
)

// Merger merges the values written to one row of table W: a bit that is set in any
// value is set in the row. No other table has merged rows. Pebble stores the name
// of the merger in the store and refuses to open it with another one.
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

// Slots is a bit set of the quarters of a day.
type Slots [keys.SlotBytes]byte

func (s *Slots) Set(i int64) { s[i/8] |= 1 << (i % 8) }

func (s *Slots) Has(i int64) bool { return s[i/8]&(1<<(i%8)) != 0 }

func (s *Slots) Or(o *Slots) {
	for i := range s {
		s[i] |= o[i]
	}
}

// DayBits is the value of a W row: the slots in which documents and samples begin.
type DayBits struct{ Documents, Samples Slots }

// SampleDay is one day of a series write.
type SampleDay struct {
	Day   int64
	Slots Slots
}

// SampleDays returns the days on which samples begin, in order. starts must be
// sorted, in Unix microseconds.
func SampleDays(starts []int64) (out []SampleDay) {
	end := int64(math.MinInt64) // end of the current slot in Unix microseconds
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

// DecodeDayBits decodes a W value. A nil value has no bits.
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

// mergedBits implements pebble.ValueMerger. It never fails, since an error would
// end the compaction. DecodeDayBits refuses a row of another length.
type mergedBits []byte

const cachedDays = 1 << 15 // rows that Days remembers

// Days remembers W rows that are stored, so that their bits are not written again.
type Days struct{ bits map[string]DayBits }

// NewDays returns a Days that remembers no rows.
func NewDays() *Days { return &Days{bits: map[string]DayBits{}} }

// Add remembers the rows of a writer whose batch was applied.
func (d *Days) Add(w *DayWriter) {
	if len(d.bits) > cachedDays {
		clear(d.bits)
	}
	for k, v := range w.own {
		d.bits[k] = v
	}
}

// DayWriter writes the W rows of one batch. It leaves out bits that it has written or
// that are stored.
type DayWriter struct {
	known *Days
	below *DayWriter
	own   map[string]DayBits
}

// Writer returns a writer for a batch. below, if not nil, is the writer of a batch
// that is applied before this one.
func (d *Days) Writer(below *DayWriter) DayWriter { return DayWriter{known: d, below: below} }

// Over replaces the writer of the batch that is applied before.
func (w *DayWriter) Over(below *DayWriter) { w.below = below }

func (w *DayWriter) have(key []byte) DayBits {
	for at := w; at != nil; at = at.below {
		if v, ok := at.own[string(key)]; ok {
			return v
		}
	}
	return w.known.bits[string(key)]
}

// PutDocument sets the bits of a document at p.
func (w *DayWriter) PutDocument(b *pebble.Batch, typ string, p *keys.Location, values *search.Values) error {
	if keys.DateParam(typ) == "" {
		return nil
	}
	day, slot := keys.DayOf(p.Start) // 0 for undated documents
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

// PutSamples sets the bits of the samples of a series at p, whose code has the
// other codings.
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

// set adds bits to a row. It need not read the row, because Merger merges the
// values.
func (w *DayWriter) set(b *pebble.Batch, key []byte, bits *DayBits) error {
	have := w.have(key)
	now := have
	now.Documents.Or(&bits.Documents)
	now.Samples.Or(&bits.Samples)
	if now == have {
		return nil
	}
	if w.own == nil {
		w.own = map[string]DayBits{}
	}
	w.own[string(key)] = now
	return b.Merge(key, append(bits.Documents[:], bits.Samples[:]...), nil)
}
