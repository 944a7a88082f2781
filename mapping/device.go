package mapping

import (
	"cmp"

	"pulsegate/fhir"
	"pulsegate/mapping/decimal"
	"pulsegate/mapping/sample"
)

// DeviceKey identifies a Device. ID is "" if the sample names no device.
type DeviceKey struct{ ID string }

// deviceKey returns the Device that a sample names, or the one that stands for
// its source.
func (m *Mapper) deviceKey(vendor, patient string, s *sample.Sample) DeviceKey {
	d := &s.Device
	if d.Manufacturer == "" && d.Model == "" && d.Hardware == "" && d.Serial == "" && d.Name == "" &&
		s.Source.Name == "" {
		return DeviceKey{}
	}
	k := make(key, 0, 192).str("Device").str(vendor).str(patient)
	return DeviceKey{m.id(deviceIdentity(k, d, &s.Source))}
}

// Device returns the Device resource of a sample: its identity and names, and the
// versions and facts that the sample states.
func Device(vendor, patient string, k DeviceKey, s *sample.Sample) []byte {
	return device(vendor, patient, k, s, "")
}

// device is Device with the time at which the device was last seen, or "".
func device(vendor, patient string, k DeviceKey, s *sample.Sample, seen string) []byte {
	d := &s.Device
	b := append([]byte(fhir.Prefix("Device", k.ID)), `},"identifier":[{"system":"`+fhir.Canonical+`/identifier/`...)
	b = append(b, vendor...)
	b = append(b, `","value":"`...)
	b = append(b, k.ID...)
	b = append(b, `"}],"status":"active"`...)
	b = appendMember(b, "manufacturer", d.Manufacturer)
	b = appendMember(b, "serialNumber", d.Serial)
	name := d.Name
	if name == "" && d.Model == "" && d.Hardware == "" {
		name = s.Source.Name
	}
	if name != "" {
		b = append(b, `,"deviceName":[{"name":`...)
		b = appendString(b, name)
		b = append(b, `,"type":"user-friendly-name"}]`...)
	}
	b = appendMember(b, "modelNumber", cmp.Or(d.Hardware, d.Model))
	if text := cmp.Or(d.Kind, d.Model); text != "" {
		b = append(b, `,"type":{"text":`...)
		b = appendString(b, text)
		b = append(b, '}')
	}
	b = appendVersions(b, d)
	b = appendProperties(b, d, seen)
	b = append(b, `,"patient":{"reference":"Patient/`...)
	b = append(b, patient...)
	return append(b, `"}}`...)
}

// appendVersions appends the software and firmware versions.
func appendVersions(b []byte, d *sample.Device) []byte {
	n := 0
	for _, v := range [][3]string{{"531975", "MDC_ID_PROD_SPEC_SW", d.Software},
		{"531976", "MDC_ID_PROD_SPEC_FW", d.Firmware}} {
		if v[2] == "" {
			continue
		}
		if n++; n == 1 {
			b = append(b, `,"version":[`...)
		} else {
			b = append(b, ',')
		}
		b = append(b, `{"type":{"coding":[`...)
		b = appendCoding(b, "urn:iso:std:iso:11073:10101", v[0], v[1])
		b = append(b, `]},"value":`...)
		b = appendString(b, v[2])
		b = append(b, '}')
	}
	if n > 0 {
		b = append(b, ']')
	}
	return b
}

// LastSeen is the code of the Device.property with the hour in which the newest
// sample or report of the device was made, in CodeSystem/device-property.
const LastSeen = "last-seen"

// appendProperties appends the battery level, the time last seen and the other
// facts.
func appendProperties(b []byte, d *sample.Device, seen string) []byte {
	n := 0
	open := func() {
		if n++; n == 1 {
			b = append(b, `,"property":[`...)
		} else {
			b = append(b, ',')
		}
	}
	if v, ok := decimal.Parse(d.Battery); ok {
		open()
		b = append(b, `{"type":{"coding":[`...)
		b = appendCoding(b, "urn:iso:std:iso:11073:10101", "67996", "MDC_ATTR_VAL_BATT_CHARGE")
		b = append(b, `]},"valueQuantity":[{"value":`...)
		b = v.Append(b)
		b = append(b, `,"unit":"%",`+ucumSystem+`,"code":"%"}]}`...)
	}
	if seen != "" {
		open()
		b = append(b, `{"type":{"coding":[`...)
		b = appendCoding(b, fhir.Canonical+"/CodeSystem/device-property", LastSeen, "Last seen")
		b = append(b, `]},"valueCode":[{"text":`...)
		b = appendString(b, seen)
		b = append(b, `}]}`...)
	}
	for _, fact := range d.Facts {
		if fact.Name == "" || fact.Value == "" {
			continue
		}
		open()
		b = append(b, `{"type":{"text":`...)
		b = appendString(b, fact.Name)
		b = append(b, `},"valueCode":[{"text":`...)
		b = appendString(b, fact.Value)
		b = append(b, `}]}`...)
	}
	if n > 0 {
		b = append(b, ']')
	}
	return b
}
