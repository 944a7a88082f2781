package oura

import (
	"cmp"
	"strings"
	"time"

	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// rejection is a rule that one document breaks.
type rejection struct{ reason, rule string }

func missing(rule string) *rejection { return &rejection{sample.ReasonMissing, rule} }
func badTime(rule string) *rejection { return &rejection{sample.ReasonBadTime, rule} }

// document is one document on its way to Samples.
type document struct {
	d   *decoder
	n   *jsonitem.Node
	typ string
	id  string
	// revision holds the time of the last change. Documents of the current
	// API version do not state it.
	revision int64
	s        sample.Sample // times, status and device that all its samples share
	// left is an error of the sink, when a component was left out.
	left error
}

// emit hands out a sample of metric with what is shared.
func (x *document) emit(metric string, v sample.Value, parts ...sample.Component) error {
	if x.left != nil {
		return x.left
	}
	s := &x.d.out
	*s = x.s
	s.Metric, s.Channel, s.VendorID, s.Revision = metric, "v2", x.id, x.revision
	s.Value, s.Components = v, parts
	x.d.taken++
	return x.d.sink.Sample(s)
}

func ring(serial string) sample.Device {
	return sample.Device{Name: "Oura Ring", Manufacturer: "Oura", Kind: "ring", Serial: serial}
}

// onDay sets the day of a daily document. growing says that the value of the
// present day is not final.
func (x *document) onDay(growing bool) *rejection {
	day, ok := x.n.Get("day").Day()
	if !ok {
		return badTime("day is not a calendar day")
	}
	x.s = sample.Sample{Day: day, Device: ring("")}
	if growing && !x.d.received.IsZero() {
		zone := x.d.zone
		if t, z, ok := instant(x.n.Get("timestamp")); ok && z == sample.ZoneStated {
			zone = t.Location()
		}
		if !before(day, jsonitem.DateOf(x.d.received.In(zone))) {
			x.s.Status = sample.Preliminary
		}
	}
	return nil
}

func before(a, b sample.Date) bool {
	return cmp.Or(cmp.Compare(a.Year, b.Year), cmp.Compare(a.Month, b.Month), cmp.Compare(a.Day, b.Day)) < 0
}

// instant reads a time. Oura prints "+00:00" for UTC, whatever the wearer's
// offset was: then the instant is right and the offset is not stated.
func instant(n *jsonitem.Node) (time.Time, sample.Zone, bool) {
	t, zone, ok := n.Time()
	if _, offset := t.Zone(); ok && zone == sample.ZoneStated && offset == 0 {
		zone = sample.ZoneInstant
	}
	return t, zone, ok
}

// at sets the instant of a document.
func (x *document) at(field string) *rejection {
	if x.n.Get(field) == nil {
		return missing(field + " is required")
	}
	t, zone, ok := instant(x.n.Get(field))
	if !ok {
		return badTime(field + " is not an instant")
	}
	x.s = sample.Sample{Start: t, Zone: zone, Device: ring("")}
	return nil
}

// over sets the period of a document; one of no length is an instant.
func (x *document) over(from, to string) *rejection {
	if bad := x.at(from); bad != nil {
		return bad
	}
	if x.n.Get(to) == nil && (x.typ == "workout" || x.typ == "session") {
		x.s.Status = sample.Preliminary // it has not ended yet
		return nil
	}
	end, _, ok := x.n.Get(to).Time()
	switch {
	case !ok:
		return badTime(to + " is not an instant")
	case end.Before(x.s.Start):
		return badTime(to + " is before " + from)
	case end.Sub(x.s.Start) > 8*24*time.Hour:
		return badTime(from + " and " + to + " are over eight days apart")
	case end.After(x.s.Start):
		x.s.End = end
	}
	return nil
}

// value reads a number. ok is false if there is none; what is there and is no
// finite number in bounds is rejected on its own, and the document goes on.
func (x *document) value(unit string, low, high float64, path ...string) (v sample.Value, ok bool, err error) {
	s, state := x.n.Get(path...).Decimal()
	if state == jsonitem.Absent {
		return v, false, nil
	}
	if f := jsonitem.Float(s); state != jsonitem.Given || f < low || f > high {
		field := strings.Join(path, ".")
		return v, false, x.d.reject(sample.ReasonBadValue, x.typ+"."+field,
			field+" is not a number or is out of range", x.n)
	}
	return sample.Value{Kind: sample.Number, Num: s, Unit: unit}, true, nil
}

// emitField emits one field as its own sample if it is there.
func (x *document) emitField(metric, unit string, low, high float64, parts []sample.Component, path ...string) error {
	v, ok, err := x.value(unit, low, high, path...)
	if err != nil || !ok {
		return err
	}
	return x.emit(metric, v, parts...)
}

// numbers collects number fields of the document as components. What is
// neither null nor a number is left out and reported.
func (x *document) numbers(metric, unit string, fields ...string) []sample.Component {
	var out []sample.Component
	for _, f := range fields {
		switch s, state := x.n.Get(f).Decimal(); state {
		case jsonitem.Given:
			out = append(out, sample.Component{Name: f, Value: sample.Value{Kind: sample.Number, Num: s, Unit: unit}})
		case jsonitem.Bad, jsonitem.NotFinite:
			x.leave(metric, f, f+" is not a number")
		}
	}
	return out
}

// leave reports a component that is left out, while the rest is taken.
func (x *document) leave(metric, component, rule string) {
	err := x.d.sink.Reject(&sample.Reject{Reason: sample.ReasonBadValue, Metric: metric, Component: component,
		Where:  x.d.where(),
		Detail: rule, VendorID: x.id})
	x.left = cmp.Or(x.left, err)
}

// codes collects enum fields of n as components.
func codes(n *jsonitem.Node, fields ...string) []sample.Component {
	var out []sample.Component
	for _, f := range fields {
		if v, ok := code(n.Get(f)); ok {
			out = append(out, sample.Component{Name: f, Value: v})
		}
	}
	return out
}

// code takes an enum name: what has spaces or is long is a person's text.
func code(n *jsonitem.Node) (sample.Value, bool) {
	s := n.String()
	if s == "" || len(s) > 64 {
		return sample.Value{}, false
	}
	for _, c := range s {
		if c != '_' && c != '-' && c != '.' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return sample.Value{}, false
		}
	}
	return sample.Value{Kind: sample.Code, Text: s}, true
}

// contributors are scores, whatever their names say.
func (x *document) contributors(metric string) []sample.Component {
	var out []sample.Component
	c := x.n.Get("contributors")
	if c == nil {
		return nil
	}
	seen := map[string]bool{}
	for i := range c.Members {
		name := plainName(c.Members[i].Name)
		s, state := c.Members[i].Value.Decimal()
		switch {
		case name == "" || seen[name] || state == jsonitem.Absent:
		case state != jsonitem.Given:
			x.leave(metric, name, name+" is not a number")
		default:
			seen[name] = true
			out = append(out, sample.Component{Name: name,
				Value: sample.Value{Kind: sample.Number, Num: s, Unit: "score"}})
		}
	}
	return out
}

// maxPoints bounds a series: eight days of 10 s.
const maxPoints = 8 * 8640

// series reads {interval, items, timestamp}. Nulls are E.
func series(n *jsonitem.Node, unit string) (*sample.SeriesData, *rejection) {
	every, state := n.Get("interval").Decimal()
	secs := jsonitem.Float(every)
	if state != jsonitem.Given || secs < 0.001 || secs > 86400 {
		return nil, &rejection{sample.ReasonBadValue, "interval is not a number of seconds"}
	}
	items := n.Get("items")
	if items == nil || len(items.Items) == 0 {
		return nil, nil
	}
	if len(items.Items) > maxPoints {
		return nil, &rejection{sample.ReasonTooLarge, "a series has too many items"}
	}
	var data strings.Builder
	some := false
	for i := range items.Items {
		v, state := items.Items[i].Decimal()
		if state == jsonitem.Given {
			some = true
		} else {
			v = "E"
		}
		if i > 0 {
			data.WriteByte(' ')
		}
		data.WriteString(v)
	}
	if !some {
		return nil, nil
	}
	return &sample.SeriesData{Period: time.Duration(secs * float64(time.Second)), Unit: unit, Data: data.String()}, nil
}

// emitSeries emits a series of the document from its own timestamp, which
// must be within a day of the document's start (the sandbox has others).
func (x *document) emitSeries(metric, unit, field string) error {
	n := x.n.Get(field)
	if n == nil || x.left != nil {
		return x.left
	}
	data, bad := series(n, unit)
	if data == nil && bad == nil {
		return nil
	}
	start, zone, ok := instant(n.Get("timestamp"))
	if bad == nil && !ok {
		bad = badTime("timestamp of the series is not an instant")
	}
	near := x.s.Start
	if near.IsZero() {
		near = time.Date(x.s.Day.Year, x.s.Day.Month, x.s.Day.Day, 12, 0, 0, 0, time.UTC)
	}
	if bad == nil && (start.Sub(near) > 36*time.Hour || near.Sub(start) > 36*time.Hour) {
		bad = badTime("the series begins more than a day off its document")
	}
	if bad != nil {
		return x.d.reject(bad.reason, metric, bad.rule, n)
	}
	s := x.s
	s.Metric, s.Channel, s.VendorID, s.Revision = metric, "v2", x.id, x.revision
	s.Day, s.Start, s.Zone = sample.Date{}, start, zone
	points := strings.Count(data.Data, " ") + 1
	s.End = start.Add(time.Duration(points) * data.Period)
	s.Value = sample.Value{Kind: sample.Series, Unit: unit, Series: data}
	x.d.taken++
	return x.d.sink.Sample(&s)
}

// digits turns a text of one digit an epoch into a series; ok is false if it
// has anything else.
func digits(n *jsonitem.Node, lowest, highest byte, period time.Duration) (sample.Value, bool) {
	text := n.String()
	if text == "" || len(text) > maxPoints {
		return sample.Value{}, false
	}
	data := make([]byte, 0, 2*len(text))
	for i := range len(text) {
		if text[i] < lowest || text[i] > highest {
			return sample.Value{}, false
		}
		if i > 0 {
			data = append(data, ' ')
		}
		data = append(data, text[i])
	}
	return sample.Value{Kind: sample.Series, Series: &sample.SeriesData{Period: period, Data: string(data)}}, true
}
