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
	"pulsegate/mapping/decimal"
	"pulsegate/mapping/sample"
)

// encoding is the base32 of ids: lower case, without padding.
var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// key is a list of length-prefixed fields, from which ids are derived.
type key []byte

func (k key) str(s string) key {
	k = binary.AppendUvarint(k, uint64(len(s)))
	return append(k, s...)
}

// sum returns the hash of k: HMAC-SHA-256 under the secret of the installation,
// so that ids cannot be computed from facts about a person.
func (m *Mapper) sum(k key) (out [sha256.Size]byte) {
	if len(m.opts.Key) == 0 {
		return sha256.Sum256(k)
	}
	h, _ := m.macs.Get().(hash.Hash)
	if h == nil {
		h = hmac.New(sha256.New, m.opts.Key)
	}
	h.Reset()
	h.Write(k) // never returns an error
	h.Sum(out[:0])
	m.macs.Put(h)
	return out
}

func (m *Mapper) id(k key) string {
	sum := m.sum(k)
	return encoding.EncodeToString(sum[:16])
}

// observationID returns the id of an Observation that is not a sample of a
// stream. e may be nil for a sample with an id of the vendor's.
func (m *Mapper) observationID(r *Resolved, s *sample.Sample, e *Effective) string {
	if s.VendorID != "" {
		return m.id(objectKey(r.vendor, r.patient, r.rule.row.Metric, s.VendorID))
	}
	k := make(key, 0, 256)
	k = k.str("Observation").str(r.vendor).str(r.patient).str(r.rule.row.Metric).str("key")
	if e.Day {
		k = k.str(e.Start.Format(time.DateOnly))
	} else {
		k = binary.BigEndian.AppendUint64(k, uint64(e.Start.UnixNano()))
		if !e.End.IsZero() {
			k = binary.BigEndian.AppendUint64(k, uint64(e.End.UnixNano()))
		}
	}
	k = k.str(s.Source.Name)
	k = deviceIdentity(k, &s.Device, &s.Source)
	if s.KeyValue {
		k = valueKey(k, &s.Value)
		for i := range s.Components {
			if c := &s.Components[i]; !c.Derived {
				k = valueKey(k.str(c.Name), &c.Value)
			}
		}
	}
	return m.id(k)
}

// valueKey appends a value. 62 and 62.0 are the same value.
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

// canonical returns num without trailing zeros in its fraction.
func canonical(num string) string {
	if strings.Contains(num, ".") && !strings.ContainsAny(num, "eE") {
		return strings.TrimSuffix(strings.TrimRight(num, "0"), ".")
	}
	return num
}

// deviceIdentity appends the fields that identify the physical device. Versions
// never count. A serial number identifies a device without its model, because
// not every sample states the model. A device without model, hardware and serial
// number is identified by its name, or else by the source.
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

// streamEncoding is the encoding of sample ids, so that the id of a sample starts
// with the StreamID.
var streamEncoding = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// StreamID returns the value of the identifier that all Observations of a stream
// share.
func StreamID(id series.Identity) string { return streamEncoding.EncodeToString(id[:]) }

// streamIdentity returns the identity of a stream: the natural key without the
// time and the value.
func (m *Mapper) streamIdentity(vendor, patient, metric string, s *sample.Sample) (id series.Identity) {
	k := make(key, 0, 256).str("Stream").str(vendor).str(patient).str(metric).str(s.Source.Name)
	sum := m.sum(deviceIdentity(k, &s.Device, &s.Source))
	copy(id[:], sum[:])
	return id
}

// CoarseStreams returns the streams in which a coarse channel stores samples of
// a metric: first the stream without a source, then the one with the name of the
// source.
func (m *Mapper) CoarseStreams(vendor, patient, metric, source string) []series.Identity {
	out := []series.Identity{m.streamIdentity(vendor, patient, metric, &sample.Sample{})}
	if source != "" {
		out = append(out, m.streamIdentity(vendor, patient, metric,
			&sample.Sample{Source: sample.Source{Name: source}}))
	}
	return out
}

// SourceDevice returns the Device of samples that state only the name of their
// source.
func (m *Mapper) SourceDevice(vendor, patient, source string) DeviceKey {
	return m.deviceKey(vendor, patient, &sample.Sample{Source: sample.Source{Name: source}})
}

// sampleKey returns the id of one sample of a stream, whether or not a series can
// hold the sample.
func (r *rule) sampleKey(id series.Identity, s *sample.Sample, e *Effective) series.Key {
	t := series.Template{Identity: id, KeyValue: s.KeyValue}
	row := series.Sample{Start: e.Start.UnixMicro(), End: series.NoEnd}
	if !e.End.IsZero() {
		row.End = e.End.UnixMicro()
	}
	if s.KeyValue {
		seed, nums := r.naturalKey(s)
		k := key(binary.BigEndian.AppendUint64(nil, seed))
		for _, d := range nums {
			if v, ok := d.Trimmed().Short(); ok && t.Values < series.MaxValues {
				row.Values[t.Values] = v
				t.Values++
			} else { // a series cannot hold it
				k = k.str(string(d.Trimmed().Append(nil)))
			}
		}
		if t.Seed = seed; len(k) > 8 {
			t.Seed = xxhash.Sum64(k)
		}
	}
	return t.Key(&row)
}

// naturalKey returns the content of a sample that is part of its id: its
// converted numbers and a hash of the rest.
func (r *rule) naturalKey(s *sample.Sample) (seed uint64, nums []decimal.Decimal) {
	k := make(key, 0, 128)
	add := func(value *rule, v *sample.Value) {
		k = append(k, byte(v.Kind))
		switch v.Kind {
		case sample.Number, sample.Interval:
			unit := value.ucum
			if value.units == nil {
				unit = v.Unit
			}
			k = k.str(unit)
			nums = append(nums, value.converted(v.Num, v.Unit, s.Channel))
			if v.Kind == sample.Interval {
				nums = append(nums, value.converted(v.High, v.Unit, s.Channel))
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
			add(r.component(c.Name), &c.Value)
		}
	}
	return xxhash.Sum64(k), nums
}

// converted returns a number in the unit of r. For a number that the mapping
// rejects, any result will do.
func (r *rule) converted(num, unit, channel string) decimal.Decimal {
	d, ok := decimal.Parse(num)
	if !ok {
		return decimal.Zero
	}
	if c, ok := r.conversion(unit, channel); ok {
		d = c.Apply(d)
	}
	return d
}
