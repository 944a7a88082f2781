package mapping

import (
	"bytes"
	"sort"
	"strings"
	"time"

	"pulsegate/mapping/sample"
)

// fact is one thing known of a Device, and since when.
type fact struct {
	Value string    `json:"v,omitempty"`
	At    time.Time `json:"at,omitzero"`
}

// learn takes a later word; an empty one never empties. Of two at one instant
// the greater stands, so that the order in which they come does not matter.
func (f *fact) learn(value string, at time.Time) bool {
	if value == "" || f.Value != "" && (at.Before(f.At) || at.Equal(f.At) && value <= f.Value) {
		return false
	}
	if f.Value != value {
		f.Value = strings.Clone(value) // not the payload's buffer
	}
	f.At = at
	return true
}

// DeviceFacts gathers what samples say of one Device: of each fact the latest
// word. Order does not matter, and a sample that lacks a fact leaves it.
type DeviceFacts struct {
	Name         fact            `json:"name,omitzero"`
	Manufacturer fact            `json:"manufacturer,omitzero"`
	Model        fact            `json:"model,omitzero"`
	Hardware     fact            `json:"hardware,omitzero"`
	Kind         fact            `json:"kind,omitzero"`
	Serial       fact            `json:"serial,omitzero"`
	Software     fact            `json:"software,omitzero"`
	Firmware     fact            `json:"firmware,omitzero"`
	Battery      fact            `json:"battery,omitzero"`
	Source       fact            `json:"source,omitzero"`
	More         map[string]fact `json:"more,omitempty"`
}

// maxFacts bounds the further facts of one Device.
const maxFacts = 64

// Learn adds what s says, as of at.
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
	for i := range d.Facts {
		f.more(d.Facts[i].Name, fact{d.Facts[i].Value, at})
	}
}

func (f *DeviceFacts) more(name string, o fact) bool {
	was, known := f.More[name]
	if name == "" || !known && len(f.More) >= maxFacts || !was.learn(o.Value, o.At) {
		return false
	}
	if f.More == nil {
		f.More = map[string]fact{}
	}
	f.More[strings.Clone(name)] = was
	return true
}

// Merge adds what o knows and reports whether that was news.
func (f *DeviceFacts) Merge(o *DeviceFacts) bool {
	news := false
	for _, p := range [][2]*fact{{&f.Name, &o.Name}, {&f.Manufacturer, &o.Manufacturer}, {&f.Model, &o.Model},
		{&f.Hardware, &o.Hardware}, {&f.Kind, &o.Kind}, {&f.Serial, &o.Serial}, {&f.Software, &o.Software},
		{&f.Firmware, &o.Firmware}, {&f.Battery, &o.Battery}, {&f.Source, &o.Source}} {
		news = p[0].learn(p[1].Value, p[1].At) || news
	}
	for name, x := range o.More {
		news = f.more(name, x) || news
	}
	return news
}

// Device writes the Device of which f is known.
func (f *DeviceFacts) Device(vendor, patient string, k DeviceKey) []byte {
	s := sample.Sample{Source: sample.Source{Name: f.Source.Value}, Device: sample.Device{Name: f.Name.Value,
		Manufacturer: f.Manufacturer.Value, Model: f.Model.Value, Hardware: f.Hardware.Value, Kind: f.Kind.Value,
		Serial: f.Serial.Value, Software: f.Software.Value, Firmware: f.Firmware.Value, Battery: f.Battery.Value}}
	for name, x := range f.More {
		s.Device.Facts = append(s.Device.Facts, sample.Fact{Name: name, Value: x.Value})
	}
	sort.Slice(s.Device.Facts, func(i, j int) bool { return s.Device.Facts[i].Name < s.Device.Facts[j].Name })
	return Device(vendor, patient, k, &s)
}

// vague reports that s says neither which device measured nor through what it
// came: a merged stream, or the vendor's service standing for it.
func vague(s *sample.Sample) bool {
	d := &s.Device
	return d.Model == "" && d.Hardware == "" && d.Serial == "" && (s.Source.Name == "" || s.Coarse) && !s.UserEntered
}

const (
	deviceOpen    = `,"device":{"reference":"Device/`
	performerOpen = `,"performer":[{"reference":"Patient/`
)

// KeepSource returns body, an Observation of Map's making, with the device and
// performer of known, an earlier version of it. Without a device in known,
// kept is false and body comes back as it is. Quotes inside a JSON string are
// escaped, so what is looked for can only be a member.
func KeepSource(body, known []byte) (out []byte, kept bool) {
	device := part(known, deviceOpen, "}")
	performer := part(known, performerOpen, "]")
	if device == nil && performer == nil {
		return body, false
	}
	out = cut(cut(body, part(body, deviceOpen, "}")), part(body, performerOpen, "]"))
	at := bytes.LastIndexByte(out, '}')
	if i := bytes.Index(out, []byte(`,"component":[`)); i >= 0 {
		at = i
	}
	out = insert(out, at, device)
	if performer != nil {
		out = insert(out, effectiveEnd(out), performer)
	}
	return out, true
}

func part(b []byte, open, end string) []byte {
	i := bytes.Index(b, []byte(open))
	if i < 0 {
		return nil
	}
	j := bytes.Index(b[i:], []byte(end))
	if j < 0 {
		return nil
	}
	return b[i : i+j+len(end)]
}

func cut(b, piece []byte) []byte {
	if piece == nil {
		return b
	}
	before, after, _ := bytes.Cut(b, piece)
	return append(bytes.Clone(before), after...)
}

func insert(b []byte, at int, piece []byte) []byte {
	out := make([]byte, 0, len(b)+len(piece))
	return append(append(append(out, b[:at]...), piece...), b[at:]...)
}

// effectiveEnd is the place behind effective[x], where performer stands.
func effectiveEnd(b []byte) int {
	for open, end := range map[string]string{`,"effectiveDateTime":"`: `"`, `,"effectivePeriod":{`: `}`} {
		if i := bytes.Index(b, []byte(open)); i >= 0 {
			i += len(open)
			return i + bytes.Index(b[i:], []byte(end)) + 1
		}
	}
	return bytes.LastIndexByte(b, '}')
}
