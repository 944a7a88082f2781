package mapping

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"hash"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"pulsegate/fhir/series"
	"pulsegate/mapping/sample"
)

var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// key is a length-prefixed list of fields.
type key []byte

func (k key) str(s string) key {
	k = binary.AppendUvarint(k, uint64(len(s)))
	return append(k, s...)
}

// sum returns the first bytes of every name derived from k: HMAC-SHA-256 under
// the secret of the installation, so that nobody else can compute the id of a
// fact.
func (m *Mapper) sum(k key) (out [sha256.Size]byte) {
	if len(m.opts.Key) == 0 {
		return sha256.Sum256(k)
	}
	h, _ := m.macs.Get().(hash.Hash)
	if h == nil {
		h = hmac.New(sha256.New, m.opts.Key)
	}
	h.Reset()
	h.Write(k) // a hash never fails
	h.Sum(out[:0])
	m.macs.Put(h)
	return out
}

func (m *Mapper) id(k key) string {
	sum := m.sum(k)
	return encoding.EncodeToString(sum[:16])
}

func (m *Mapper) observationID(vendor, patient, metric string, s *sample.Sample, w *when) string {
	k := make(key, 0, 256)
	k = k.str("Observation").str(vendor).str(patient).str(metric)
	if s.VendorID != "" {
		return m.id(k.str("id").str(s.VendorID))
	}
	k = k.str("key")
	if w.day {
		k = k.str(w.start.Format("2006-01-02"))
	} else {
		k = binary.BigEndian.AppendUint64(k, uint64(w.start.UnixNano()))
		if !w.end.IsZero() {
			k = binary.BigEndian.AppendUint64(k, uint64(w.end.UnixNano()))
		}
	}
	k = k.str(s.Source.Name)
	k = deviceIdentity(k, &s.Device, &s.Source)
	if s.KeyValue {
		k = valueKey(k, &s.Value)
		for i := range s.Components {
			k = valueKey(k.str(s.Components[i].Name), &s.Components[i].Value)
		}
	}
	return m.id(k)
}

// valueKey adds a value; 62 and 62.0 are one.
func valueKey(k key, v *sample.Value) key {
	k = append(k, byte(v.Kind))
	k = k.str(canonical(v.Num)).str(canonical(v.High)).str(v.Unit).str(v.Text)
	if v.Bool {
		k = append(k, 1)
	}
	if v.Series != nil {
		k = k.str(v.Series.Data)
	}
	return k
}

func canonical(num string) string {
	if strings.Contains(num, ".") && !strings.ContainsAny(num, "eE") {
		return strings.TrimSuffix(strings.TrimRight(num, "0"), ".")
	}
	return num
}

// deviceIdentity adds what identifies the physical device: never a version.
// A serial number is enough by itself: not every sample says the model too.
// Without any of it, the device's name or else the source stands for it.
func deviceIdentity(k key, d *sample.Device, s *sample.Source) key {
	if d.Serial != "" {
		return k.str(d.Manufacturer).str("").str("").str(d.Serial)
	}
	k = k.str(d.Manufacturer).str(d.Model).str(d.Hardware).str("")
	if d.Model == "" && d.Hardware == "" {
		k = k.str(d.Name)
		if d.Name == "" {
			k = k.str(s.Name)
		}
	}
	return k
}

// streamEncoding is that of sample ids, so that an id begins as its stream's.
var streamEncoding = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// StreamID is the value of the identifier that all Observations of a stream
// share.
func StreamID(id series.Identity) string { return streamEncoding.EncodeToString(id[:]) }

// streamed reports whether s is one sample of a stream: of a row with a rate,
// named by its natural key, at an instant that a sample id can hold. cut takes
// from its times what is finer than a sample's.
func (r *rule) streamed(s *sample.Sample, w *when) bool {
	if r.row.Rate <= 0 || s.VendorID != "" || w.day {
		return false
	}
	us := w.start.UnixMicro()
	return us >= series.MinStart && us <= series.MaxStart
}

func (w *when) cut() {
	w.start = w.start.Truncate(time.Microsecond)
	if !w.end.IsZero() {
		if w.end = w.end.Truncate(time.Microsecond); w.end.Equal(w.start) {
			w.end = time.Time{}
		}
	}
}

// streamIdentity is the natural key without time and value.
func (m *Mapper) streamIdentity(vendor, patient, metric string, s *sample.Sample) (id series.Identity) {
	k := make(key, 0, 256).str("Stream").str(vendor).str(patient).str(metric).str(s.Source.Name)
	sum := m.sum(deviceIdentity(k, &s.Device, &s.Source))
	copy(id[:], sum[:])
	return id
}

// CoarseStreams are the streams in which a coarse channel may have the samples
// of a stream: by the name of the source, and without any.
func (m *Mapper) CoarseStreams(vendor, patient, metric, source string) []series.Identity {
	out := []series.Identity{m.streamIdentity(vendor, patient, metric, &sample.Sample{})}
	if source != "" {
		out = append(out, m.streamIdentity(vendor, patient, metric,
			&sample.Sample{Source: sample.Source{Name: source}}))
	}
	return out
}

// SourceDevice is the Device of what is known by the name of its source only.
func (m *Mapper) SourceDevice(vendor, patient, source string) DeviceKey {
	return m.deviceKey(vendor, patient, &sample.Sample{Source: sample.Source{Name: source}})
}

// sampleKey is the id of one sample of a stream, whether or not it can be
// stored in a series.
func (r *rule) sampleKey(id series.Identity, s *sample.Sample, w *when) series.Key {
	t := series.Template{Identity: id, KeyValue: s.KeyValue}
	row := series.Sample{Start: w.start.UnixMicro(), End: series.NoEnd}
	if !w.end.IsZero() {
		row.End = w.end.UnixMicro()
	}
	if s.KeyValue {
		seed, nums := r.naturalKey(s)
		k := key(binary.BigEndian.AppendUint64(nil, seed))
		for _, d := range nums {
			if v, ok := d.trimmed().short(); ok && t.Values < series.MaxValues {
				row.Values[t.Values] = v
				t.Values++
			} else { // no series has it
				k = k.str(string(d.trimmed().append(nil)))
			}
		}
		if t.Seed = seed; len(k) > 8 {
			t.Seed = xxhash.Sum64(k)
		}
	}
	return t.Key(&row)
}

// naturalKey is what of a sample's content is part of its key: its numbers,
// as converted, and a hash of the rest.
func (r *rule) naturalKey(s *sample.Sample) (seed uint64, nums []decimal) {
	k := make(key, 0, 128)
	add := func(p *rule, v *sample.Value) {
		k = append(k, byte(v.Kind))
		switch v.Kind {
		case sample.Number, sample.Interval:
			unit := p.ucum
			if p.units == nil {
				unit = v.Unit
			}
			k = k.str(unit)
			nums = append(nums, p.converted(v.Num, v.Unit, s.Channel))
			if v.Kind == sample.Interval {
				nums = append(nums, p.converted(v.High, v.Unit, s.Channel))
			}
		case sample.Boolean:
			if v.Bool {
				k = append(k, 1)
			}
		case sample.Series:
			if v.Series != nil {
				k = k.str(v.Series.Data)
			}
		default:
			k = k.str(v.Text)
		}
	}
	add(r, &s.Value)
	for i := range s.Components {
		if c := &s.Components[i]; c.Value.Kind != sample.None {
			k = k.str(c.Name)
			add(r.part(c.Name), &c.Value)
		}
	}
	return xxhash.Sum64(k), nums
}

// converted is a number in the rule's unit; of one that will be refused,
// anything.
func (r *rule) converted(num, unit, channel string) decimal {
	d, ok := parseDecimal(num)
	if !ok {
		return decimal{digits: "0"}
	}
	if c, ok := r.conversion(unit, channel); ok {
		d = c.apply(d)
	}
	return d
}
