package fitbit

import (
	"strings"

	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// device reads a paired device. It leaves out the MAC address because the id of
// the pairing identifies the device.
func (d *decoder) device(n *jsonitem.Node) error {
	const metric = "paired-device"
	id := lastSegment(n.Get("name").String())
	if id == "" {
		return d.reject(sample.ReasonMissing, metric, "name is required", n)
	}
	p := &point{dec: d, item: n, body: n, metric: metric}
	p.sample.Metric, p.sample.Channel, p.sample.VendorID = metric, "v4", id
	if sync := n.Get("lastSyncTime"); sync != nil {
		t, zone, ok := sync.Time()
		if !ok {
			return d.reject(sample.ReasonBadTime, metric, "lastSyncTime is not an instant", n)
		}
		p.sample.Start, p.sample.Zone = t, zone
	} else if !d.received.IsZero() {
		p.sample.Start, p.sample.Zone = d.received.UTC(), sample.ZoneInstant
	} else {
		return d.reject(sample.ReasonMissing, metric, "lastSyncTime is required", n)
	}
	return p.paired(id, n.Get("deviceType").String(), n.Get("batteryStatus"))
}

// paired sets the device of p, with the battery, and emits it.
func (p *point) paired(id, deviceType string, battery *jsonitem.Node) error {
	n := p.item
	model := n.Get("deviceVersion").String()
	p.sample.Device = sample.Device{
		Name: model, Model: model, Manufacturer: "Fitbit", Serial: id,
		Kind: map[string]string{"TRACKER": "band", "SCALE": "scale"}[deviceType],
	}
	if level, ok := number(n, "batteryLevel"); ok && jsonitem.Float(level) >= 0 && jsonitem.Float(level) <= 100 {
		p.sample.Device.Battery = level
		p.sample.Value = sample.Value{Kind: sample.Number, Num: level, Unit: "%"}
	}
	if c := enum(battery); c != "" {
		p.add("batteryStatus", sample.Value{Kind: sample.Code, Text: c})
	}
	for _, f := range []sample.Fact{{Name: "deviceType", Value: deviceType},
		{Name: "batteryStatus", Value: battery.String()},
		{Name: "lastSyncTime", Value: n.Get("lastSyncTime").String()}} {
		if f.Value != "" {
			p.sample.Device.Facts = append(p.sample.Device.Facts, f)
		}
	}
	if f := n.Get("features"); f != nil {
		var names []string
		for i := range f.List() {
			if v := enum(&f.List()[i]); v != "" {
				names = append(names, v)
			}
		}
		if len(names) > 0 {
			p.sample.Device.Facts = append(p.sample.Device.Facts,
				sample.Fact{Name: "features", Value: strings.Join(names, " ")})
		}
	}
	return p.emit()
}
