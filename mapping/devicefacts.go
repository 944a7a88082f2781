package mapping

import (
	"sort"
	"strings"
	"time"

	"pulsegate/mapping/sample"
)

// fact is one property of a Device and the time of the statement.
type fact struct {
	Value string    `json:"v,omitempty"`
	At    time.Time `json:"at,omitzero"`
}

// learn replaces f by a later statement and reports whether f changed. An empty
// value is ignored. Of two statements with the same time the greater value wins,
// so that the order of delivery does not matter.
func (f *fact) learn(value string, at time.Time) bool {
	if value == "" || f.Value != "" && (at.Before(f.At) || at.Equal(f.At) && value <= f.Value) {
		return false
	}
	if f.Value != value {
		f.Value = strings.Clone(value) // value may point into the payload
	}
	f.At = at
	return true
}

// DeviceFacts collects the latest statement of each fact about one Device. The
// order of the samples does not matter, and a sample without a fact does not
// change it.
type DeviceFacts struct {
	Name         fact `json:"name,omitzero"`
	Manufacturer fact `json:"manufacturer,omitzero"`
	Model        fact `json:"model,omitzero"`
	Hardware     fact `json:"hardware,omitzero"`
	Kind         fact `json:"kind,omitzero"`
	Serial       fact `json:"serial,omitzero"`
	Software     fact `json:"software,omitzero"`
	Firmware     fact `json:"firmware,omitzero"`
	Battery      fact `json:"battery,omitzero"`
	Source       fact `json:"source,omitzero"`
	// Seen is the hour of the newest sample or report, so that a Device gets at most
	// one version per hour for it, and the order of delivery does not matter.
	Seen fact            `json:"seen,omitzero"`
	More map[string]fact `json:"more,omitempty"`
}

// maxFacts limits the number of facts in DeviceFacts.More.
const maxFacts = 64

// Learn adds the statements of s, made at the given time.
func (f *DeviceFacts) Learn(s *sample.Sample, at time.Time) {
	d := &s.Device
	f.Name.learn(d.Name, at)
	f.Manufacturer.learn(d.Manufacturer, at)
	f.Model.learn(d.Model, at)
	f.Hardware.learn(d.Hardware, at)
	f.Kind.learn(d.Kind, at)
	f.Serial.learn(d.Serial, at)
	f.Software.learn(d.Software, at)
	f.Firmware.learn(d.Firmware, at)
	f.Battery.learn(d.Battery, at)
	f.Source.learn(s.Source.Name, at)
	if hour := at.UTC().Truncate(time.Hour); hour.After(f.Seen.At) {
		f.Seen = fact{hour.Format(time.RFC3339), hour}
	}
	for i := range d.Facts {
		f.more(d.Facts[i].Name, fact{d.Facts[i].Value, at})
	}
}

func (f *DeviceFacts) more(name string, stated fact) bool {
	current, ok := f.More[name]
	if name == "" || !ok && len(f.More) >= maxFacts || !current.learn(stated.Value, stated.At) {
		return false
	}
	if f.More == nil {
		f.More = map[string]fact{}
	}
	f.More[strings.Clone(name)] = current
	return true
}

// Merge adds the statements of other and reports whether f changed.
func (f *DeviceFacts) Merge(other *DeviceFacts) bool {
	changed := false
	for _, p := range [][2]*fact{{&f.Name, &other.Name}, {&f.Manufacturer, &other.Manufacturer},
		{&f.Model, &other.Model},
		{&f.Hardware, &other.Hardware}, {&f.Kind, &other.Kind}, {&f.Serial, &other.Serial},
		{&f.Software, &other.Software},
		{&f.Firmware, &other.Firmware}, {&f.Battery, &other.Battery}, {&f.Source, &other.Source},
		{&f.Seen, &other.Seen}} {
		changed = p[0].learn(p[1].Value, p[1].At) || changed
	}
	for name, x := range other.More {
		changed = f.more(name, x) || changed
	}
	return changed
}

// Device returns the Device resource with the facts of f.
func (f *DeviceFacts) Device(vendor, patient string, k DeviceKey) []byte {
	s := sample.Sample{Source: sample.Source{Name: f.Source.Value}, Device: sample.Device{Name: f.Name.Value,
		Manufacturer: f.Manufacturer.Value, Model: f.Model.Value, Hardware: f.Hardware.Value, Kind: f.Kind.Value,
		Serial: f.Serial.Value, Software: f.Software.Value, Firmware: f.Firmware.Value, Battery: f.Battery.Value}}
	for name, x := range f.More {
		s.Device.Facts = append(s.Device.Facts, sample.Fact{Name: name, Value: x.Value})
	}
	sort.Slice(s.Device.Facts, func(i, j int) bool { return s.Device.Facts[i].Name < s.Device.Facts[j].Name })
	return device(vendor, patient, k, &s, f.Seen.Value)
}
