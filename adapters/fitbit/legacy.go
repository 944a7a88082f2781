package fitbit

import (
	"math"
	"strings"
	"time"

	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// minCoverage is the least share of a 5-minute window with usable beats for which
// a heart rate variability counts.
const minCoverage = 0.7

// minConfidence is the least confidence, from 0 to 3, of a heart rate.
const minConfidence = 2

// legacyPoint returns a point for an item of an archive or of a legacy payload.
func (d *decoder) legacyPoint(metric string, n *jsonitem.Node) *point {
	p := &point{dec: d, item: n, body: n, metric: metric}
	p.sample.Metric, p.sample.Channel = metric, d.channel
	if id, state := n.Get("logId").Decimal(); state == jsonitem.Given {
		p.sample.VendorID, p.sample.Revision = id, revisionArchive
	}
	return p
}

// refuse rejects the item of p.
func (p *point) refuse(reason, rule string) error {
	return p.dec.sink.Reject(&sample.Reject{Reason: reason, Metric: p.sample.Metric, Where: p.dec.pos.String(),
		Detail: rule, VendorID: p.sample.VendorID, Raw: p.item.JSON()})
}

// onDate makes p a value of the day in s. Values of days have the identity that
// the API gives them.
func (p *point) onDate(s string) bool {
	t, _, _, ok := reading(s)
	if !ok {
		return false
	}
	p.sample.Day = jsonitem.DateOf(t)
	p.sample.Device, p.sample.Revision = serviceDevice(), revisionArchive
	if !strings.Contains(p.sample.Metric, "/") {
		p.sample.VendorID = isoDay(p.sample.Day)
	}
	if p.dec.unfinished(p.sample.Day) {
		p.sample.Status = sample.Preliminary
	}
	return true
}

const badDay = "the date is not a calendar day"

// startAt sets the start from a clock time of basis b, and marks p as a statement
// that does not know its device.
func (p *point) startAt(s string, b basis) *rejection {
	t, zone, bad := p.dec.instant(s, b)
	if bad != nil {
		return bad
	}
	p.sample.Start, p.sample.Zone, p.sample.Coarse = t, zone, true
	if _, stated, _, _ := reading(s); !stated && zone == sample.ZoneStated {
		p.sample.IANA = p.dec.clock.iana
	}
	return nil
}

// instant reads a clock time of basis b. A stated offset counts more than b.
func (d *decoder) instant(s string, b basis) (time.Time, sample.Zone, *rejection) {
	if s == "" {
		return time.Time{}, 0, missing("the time is required")
	}
	t, stated, utc, ok := reading(s)
	if !ok {
		return t, 0, &rejection{sample.ReasonBadTime, "the time is not a date and a clock time"}
	}
	if stated {
		return t, sample.ZoneStated, nil
	}
	if utc {
		b = inUTC
	}
	t, zone, ok := d.clock.resolve(t, b)
	if !ok {
		return t, 0, &rejection{sample.ReasonUnknownZone, "the zone of the profile skips this clock time"}
	}
	return t, zone, nil
}

// finish emits p, or rejects it.
func (p *point) finish(bad *rejection) error {
	if bad != nil {
		return p.refuse(bad.reason, bad.rule)
	}
	return p.emit()
}

// measured sets the main value to n. dropped is set if n is a zero, which the
// legacy service writes where nothing was measured.
func (p *point) measured(n *jsonitem.Node, unit string) (bad *rejection, dropped bool) {
	v, state := n.Decimal()
	switch {
	case state == jsonitem.Absent:
		return missing("the value is required"), false
	case state != jsonitem.Given || strings.HasPrefix(v, "-"):
		return &rejection{sample.ReasonBadValue, "the value is not a positive number"}, false
	case jsonitem.Float(v) == 0:
		p.dec.sink.Drop(sample.DropPlaceholder, p.sample.Metric, 1)
		return nil, true
	}
	p.sample.Value = sample.Value{Kind: sample.Number, Num: v, Unit: unit}
	return nil, false
}

// daily emits the value n of a day, unless it is a placeholder.
func (d *decoder) daily(metric, unit, day string, n, item *jsonitem.Node) error {
	p := d.legacyPoint(metric, item)
	if !p.onDate(day) {
		return p.refuse(sample.ReasonBadTime, badDay)
	}
	bad, dropped := p.measured(n, unit)
	if dropped {
		return p.sinkErr
	}
	return p.finish(bad)
}

// over emits the value n of the period from at, unless it is a placeholder.
func (d *decoder) over(metric, unit, at string, b basis, length time.Duration, n, item *jsonitem.Node) error {
	p := d.legacyPoint(metric, item)
	bad := p.startAt(at, b)
	if bad == nil {
		p.sample.End = p.sample.Start.Add(length)
		if length == 0 {
			p.sample.End = time.Time{}
		}
		dropped := false
		if bad, dropped = p.measured(n, unit); dropped {
			return nil
		}
	}
	return p.finish(bad)
}

// beat emits a heart rate, unless its confidence is low.
func (d *decoder) beat(at string, b basis, bpm, confidence, item *jsonitem.Node) error {
	p := d.legacyPoint("heart-rate", item)
	if c, state := confidence.Decimal(); state == jsonitem.Given && jsonitem.Float(c) < minConfidence {
		p.drop()
		return nil
	}
	bad := p.startAt(at, b)
	if bad == nil {
		dropped := false
		if bad, dropped = p.measured(bpm, "bpm"); dropped {
			return nil
		}
	}
	return p.finish(bad)
}

// saturation emits an oxygen saturation. 50 is the vendor's mark for an invalid
// measurement.
func (d *decoder) saturation(at string, b basis, value, item *jsonitem.Node) error {
	p := d.legacyPoint("oxygen-saturation", item)
	if v, state := value.Decimal(); state == jsonitem.Given && jsonitem.Float(v) <= 50 {
		p.drop()
		return nil
	}
	bad := p.startAt(at, b)
	if bad == nil {
		bad, _ = p.measured(value, "%")
	}
	return p.finish(bad)
}

// rmssd emits the heart rate variability of five minutes.
func (d *decoder) rmssd(at string, rmssd, coverage, low, high, item *jsonitem.Node) error {
	p := d.legacyPoint("heart-rate-variability.rmssd", item)
	if c, state := coverage.Decimal(); state == jsonitem.Given && jsonitem.Float(c) < minCoverage {
		p.drop()
		return nil
	}
	bad := p.startAt(at, inLocal)
	if bad == nil {
		dropped := false
		if bad, dropped = p.measured(rmssd, "ms"); dropped {
			return nil
		}
		p.numberOf("lowFrequencyPower", "ms2", low)
		p.numberOf("highFrequencyPower", "ms2", high)
	}
	return p.finish(bad)
}

// panel is a component of a daily value.
type panel struct {
	name, unit string
	value      *jsonitem.Node
}

// dailyPanel emits a daily value with components.
func (d *decoder) dailyPanel(metric, unit, day string, value, item *jsonitem.Node, parts ...panel) error {
	p := d.legacyPoint(metric, item)
	if !p.onDate(day) {
		return p.refuse(sample.ReasonBadTime, badDay)
	}
	if value != nil {
		bad, dropped := p.measured(value, unit)
		if dropped {
			return nil
		}
		if bad != nil {
			return p.refuse(bad.reason, bad.rule)
		}
	}
	for _, c := range parts {
		p.numberOf(c.name, c.unit, c.value)
	}
	if p.sample.Value.Kind == sample.None && len(p.sample.Components) == 0 {
		return p.finish(missing("the day has no value"))
	}
	return p.emit()
}

// massUnit returns the unit of a weight: "kg", "lb" or "st". The payloads do not
// state it, but their body mass index does, because it implies the height of the
// wearer. The heights of 1.35 to 2.05 m that are accepted for kg and st, and 1.42 to
// 2.3 m for lb, do not overlap. Without a body mass index the unit is unknown.
func massUnit(weight, bmi string) string {
	w, b := jsonitem.Float(weight), jsonitem.Float(bmi)
	if w <= 0 || b < 5 || b > 120 {
		return ""
	}
	between := func(kg, low, high float64) bool { h := math.Sqrt(kg / b); return h >= low && h <= high }
	switch {
	case between(w, 1.35, 2.05):
		return "kg"
	case between(w*0.45359237, 1.42, 2.3):
		return "lb"
	case between(w*6.35029318, 1.35, 2.05):
		return "st"
	}
	return ""
}

// body emits the weight, the body mass index and the body fat of an entry of the
// weight log. The time 23:59:59 marks an entry with a date only.
func (d *decoder) body(n *jsonitem.Node) error {
	date, at := n.Get("date").String(), n.Get("time").String()
	emit := func(metric, unit string, value *jsonitem.Node) error {
		if d.fromGoogle[metric] {
			d.sink.Drop(sample.DropDuplicate, metric, 1)
			return nil
		}
		p := d.legacyPoint(metric, n)
		var bad *rejection
		if at == "23:59:59" || at == "" {
			id, revision := p.sample.VendorID, p.sample.Revision
			if !p.onDate(date) {
				return p.refuse(sample.ReasonBadTime, badDay)
			}
			p.sample.UserEntered, p.sample.Device = true, sample.Device{}
			p.sample.VendorID, p.sample.Revision, p.sample.Coarse = id, revision, true
		} else {
			bad = p.startAt(date+" "+at, inLocal)
		}
		if bad == nil {
			dropped := false
			if bad, dropped = p.measured(value, unit); dropped {
				return nil
			}
		}
		if bad == nil && unit == "" {
			bad = &rejection{sample.ReasonBadUnit, "weight and body mass index do not tell the unit of the weight"}
		}
		return p.finish(bad)
	}
	if weight := n.Get("weight"); weight != nil {
		w, _ := weight.Decimal()
		b, _ := n.Get("bmi").Decimal()
		if err := emit("weight", massUnit(w, b), weight); err != nil {
			return err
		}
	}
	if bmi := n.Get("bmi"); bmi != nil {
		if err := emit("bmi", "kg/m2", bmi); err != nil {
			return err
		}
	}
	if fat := n.Get("fat"); fat != nil {
		return emit("body-fat", "%", fat)
	}
	if n.Get("weight") == nil {
		return d.legacyPoint("weight", n).refuse(sample.ReasonMissing, "neither weight nor fat")
	}
	return nil
}

// zones emits the minutes, and if given the energy, by heart rate zone.
func (d *decoder) zones(day string, item *jsonitem.Node, parts ...panel) error {
	worn := false
	for _, c := range parts {
		v, state := c.value.Decimal()
		worn = worn || state == jsonitem.Given && jsonitem.Float(v) > 0
	}
	if !worn {
		d.sink.Drop(sample.DropPlaceholder, metricZones, 1)
		return nil
	}
	return d.dailyPanel(metricZones, "", day, nil, item, parts...)
}

const metricZones = "heart-rate-zone-minutes/day"

// vo2 emits an estimate of the VO2 max, which may be a range such as "44-48".
func (d *decoder) vo2(day string, value, item *jsonitem.Node) error {
	p := d.legacyPoint("daily-vo2-max", item)
	if !p.onDate(day) {
		return p.refuse(sample.ReasonBadTime, badDay)
	}
	p.sample.Method = "estimated"
	const unit = "mL/kg/min"
	text := ""
	if value != nil && value.Kind == '"' {
		text = value.Text
	}
	if low, high, ok := strings.Cut(text, "-"); ok && low != "" {
		l, a := (&jsonitem.Node{Kind: '"', Text: low}).Decimal()
		h, b := (&jsonitem.Node{Kind: '"', Text: high}).Decimal()
		if a != jsonitem.Given || b != jsonitem.Given || jsonitem.Float(l) > jsonitem.Float(h) {
			return p.refuse(sample.ReasonBadValue, "the value is neither a number nor a range")
		}
		p.sample.Value = sample.Value{Kind: sample.Interval, Num: l, High: h, Unit: unit}
		return p.emit()
	}
	bad, dropped := p.measured(value, unit)
	if dropped {
		return nil
	}
	return p.finish(bad)
}
