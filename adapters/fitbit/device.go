package fitbit

import (
	"strings"

	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// device reads a paired device. The MAC address stays out: the pairing's id
// names the device well enough.
func (d *decoder) device(n *jsonitem.Node) error {
	const metric = "paired-device"
	id := lastSegment(n.Get("name").String())
	if id == "" {
		return d.reject(sample.ReasonMissing, metric, "name is required", n)
	}
	p := &point{d: d, item: n, body: n, metric: metric}
	p.s.Metric, p.s.Channel, p.s.VendorID = metric, "v4", id
	if sync := n.Get("lastSyncTime"); sync != nil {
		t, zone, ok := sync.Time()
		if !ok {
			return d.reject(sample.ReasonBadTime, metric, "lastSyncTime is no instant", n)
		}
		p.s.Start, p.s.Zone = t, zone
	} else if !d.received.IsZero() {
		p.s.Start, p.s.Zone = d.received.UTC(), sample.ZoneInstant
	} else {
		return d.reject(sample.ReasonMissing, metric, "lastSyncTime is required", n)
	}
	model := n.Get("deviceVersion").String()
	p.s.Device = sample.Device{
		Name: model, Model: model, Manufacturer: "Fitbit", Serial: id,
		Kind: map[string]string{"TRACKER": "band", "SCALE": "scale"}[n.Get("deviceType").String()],
	}
	if level, ok := number(n, "batteryLevel"); ok && jsonitem.Float(level) >= 0 && jsonitem.Float(level) <= 100 {
		p.s.Device.Battery = level
		p.s.Value = sample.Value{Kind: sample.Number, Num: level, Unit: "%"}
	}
	p.code("batteryStatus", "batteryStatus")
	for _, name := range []string{"deviceType", "batteryStatus", "lastSyncTime"} {
		if v := n.Get(name).String(); v != "" {
			p.s.Device.Facts = append(p.s.Device.Facts, sample.Fact{Name: name, Value: v})
		}
	}
	if f := n.Get("features"); f != nil {
		var names []string
		for i := range f.Items {
			if v := enum(&f.Items[i]); v != "" {
				names = append(names, v)
			}
		}
		if len(names) > 0 {
			p.s.Device.Facts = append(p.s.Device.Facts, sample.Fact{Name: "features", Value: strings.Join(names, " ")})
		}
	}
	return p.emit()
}
