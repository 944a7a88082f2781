package mapping

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"strings"

	"pulsegate/mapping/sample"
)

var encoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// key is a length-prefixed list of fields.
type key []byte

func (k key) str(s string) key {
	k = binary.AppendUvarint(k, uint64(len(s)))
	return append(k, s...)
}

func (k key) id() string {
	sum := sha256.Sum256(k)
	return encoding.EncodeToString(sum[:16])
}

func observationID(vendor, patient, metric string, s *sample.Sample, w *when) string {
	k := make(key, 0, 256)
	k = k.str("Observation").str(vendor).str(patient).str(metric)
	if s.VendorID != "" {
		return k.str("id").str(s.VendorID).id()
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
	return k.id()
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
