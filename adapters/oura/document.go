package oura

import (
	"cmp"
	"strings"
	"time"

	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// rejection is the reason for rejecting one document.
type rejection struct{ reason, rule string }

func missing(rule string) *rejection { return &rejection{sample.ReasonMissing, rule} }
func badTime(rule string) *rejection { return &rejection{sample.ReasonBadTime, rule} }

// document is a document that is being turned into Samples.
type document struct {
	dec  *decoder
	node *jsonitem.Node
	typ  string
	id   string
	// revision is the time of the last change in Unix microseconds. Documents of
	// the current API version do not state it.
	revision int64
	sample   sample.Sample // times, status and device of all samples of the document
	sinkErr  error         // error of the sink when it was passed a rejected component
}

// emit emits a sample with the times, the status and the device of the
// document.
func (doc *document) emit(metric string, v sample.Value, parts ...sample.Component) error {
	if doc.sinkErr != nil {
		return doc.sinkErr
	}
	s := &doc.dec.out
	*s = doc.sample
	s.Metric, s.Channel, s.VendorID, s.Revision = metric, "v2", doc.id, doc.revision
	s.Value, s.Components = v, parts
	doc.dec.outcomes++
	return doc.dec.sink.Sample(s)
}

// ring returns the device of a ring.
func ring(serial string) sample.Device {
	return sample.Device{Name: "Oura Ring", Manufacturer: "Oura", Kind: "ring", Serial: serial}
}

// onDay sets the day of a daily document. If growing is set, the value of a day
// that was not over at receipt is preliminary.
func (doc *document) onDay(growing bool) *rejection {
	day, ok := doc.node.Get("day").Day()
	if !ok {
		return badTime("day is not a calendar day")
	}
	doc.sample = sample.Sample{Day: day, Device: ring("")}
	if growing && !doc.dec.received.IsZero() {
		zone := doc.dec.zone
		if t, z, ok := instant(doc.node.Get("timestamp")); ok && z == sample.ZoneStated {
			zone = t.Location()
		}
		if !before(day, jsonitem.DateOf(doc.dec.received.In(zone))) {
			doc.sample.Status = sample.Preliminary
		}
	}
	return nil
}

func before(a, b sample.Date) bool {
	return cmp.Or(cmp.Compare(a.Year, b.Year), cmp.Compare(a.Month, b.Month), cmp.Compare(a.Day, b.Day)) < 0
}

// instant reads a time. Oura prints "+00:00" for UTC whether or not it is the
// wearer's offset, so such an offset does not count as stated.
func instant(n *jsonitem.Node) (time.Time, sample.Zone, bool) {
	t, zone, ok := n.Time()
	if _, offset := t.Zone(); ok && zone == sample.ZoneStated && offset == 0 {
		zone = sample.ZoneInstant
	}
	return t, zone, ok
}

// at sets the instant of a document.
func (doc *document) at(field string) *rejection {
	if doc.node.Get(field) == nil {
		return missing(field + " is required")
	}
	t, zone, ok := instant(doc.node.Get(field))
	if !ok {
		return badTime(field + " is not an instant")
	}
	doc.sample = sample.Sample{Start: t, Zone: zone, Device: ring("")}
	return nil
}

// over sets the period of a document. A period without length is an instant.
func (doc *document) over(from, to string) *rejection {
	if bad := doc.at(from); bad != nil {
		return bad
	}
	if doc.node.Get(to) == nil && (doc.typ == "workout" || doc.typ == "session") {
		doc.sample.Status = sample.Preliminary // in progress
		return nil
	}
	end, _, ok := doc.node.Get(to).Time()
	switch {
	case !ok:
		return badTime(to + " is not an instant")
	case end.Before(doc.sample.Start):
		return badTime(to + " is before " + from)
	case end.Sub(doc.sample.Start) > 8*24*time.Hour:
		return badTime(from + " and " + to + " are over eight days apart")
	case end.After(doc.sample.Start):
		doc.sample.End = end
	}
	return nil
}

// value reads a number; ok is false if there is none. A value that is not a
// finite number between low and high is rejected, and the rest of the document
// is still read.
func (doc *document) value(unit string, low, high float64, path ...string) (v sample.Value, ok bool, err error) {
	s, state := doc.node.Get(path...).Decimal()
	if state == jsonitem.Absent {
		return v, false, nil
	}
	if f := jsonitem.Float(s); state != jsonitem.Given || f < low || f > high {
		field := strings.Join(path, ".")
		return v, false, doc.dec.reject(sample.ReasonBadValue, doc.typ+"."+field,
			field+" is not a number or is out of range", doc.node)
	}
	return sample.Value{Kind: sample.Number, Num: s, Unit: unit}, true, nil
}

// emitField emits one field as a separate sample if it is present.
func (doc *document) emitField(metric, unit string, low, high float64, parts []sample.Component, path ...string) error {
	v, ok, err := doc.value(unit, low, high, path...)
	if err != nil || !ok {
		return err
	}
	return doc.emit(metric, v, parts...)
}

// numbers returns number fields of the document as components. Values that are
// neither null nor a number are rejected.
func (doc *document) numbers(metric, unit string, fields ...string) []sample.Component {
	var out []sample.Component
	for _, f := range fields {
		switch s, state := doc.node.Get(f).Decimal(); state {
		case jsonitem.Given:
			out = append(out, sample.Component{Name: f, Value: sample.Value{Kind: sample.Number, Num: s, Unit: unit}})
		case jsonitem.Bad, jsonitem.NotFinite:
			doc.rejectComponent(metric, f, f+" is not a number")
		}
	}
	return out
}

// rejectComponent reports a component that is left out of a sample.
func (doc *document) rejectComponent(metric, component, rule string) {
	err := doc.dec.sink.Reject(&sample.Reject{Reason: sample.ReasonBadValue, Metric: metric, Component: component,
		Where:  doc.dec.where(),
		Detail: rule, VendorID: doc.id})
	doc.sinkErr = cmp.Or(doc.sinkErr, err)
}

// codes returns enum fields of n as components.
func codes(n *jsonitem.Node, fields ...string) []sample.Component {
	var out []sample.Component
	for _, f := range fields {
		if v, ok := code(n.Get(f)); ok {
			out = append(out, sample.Component{Name: f, Value: v})
		}
	}
	return out
}

// code reads an enum name. Long texts and texts with spaces may be written by a
// person and are not read.
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

// contributors returns the contributors of a score as components. All of them
// are scores, including those named after a measurement.
func (doc *document) contributors(metric string) []sample.Component {
	var out []sample.Component
	c := doc.node.Get("contributors")
	if c == nil {
		return nil
	}
	seen := map[string]bool{}
	for i := range c.Fields() {
		name := plainName(c.Members[i].Name)
		s, state := c.Members[i].Value.Decimal()
		switch {
		case name == "" || seen[name] || state == jsonitem.Absent:
		case state != jsonitem.Given:
			doc.rejectComponent(metric, name, name+" is not a number")
		default:
			seen[name] = true
			out = append(out, sample.Component{Name: name,
				Value: sample.Value{Kind: sample.Number, Num: s, Unit: "score"}})
		}
	}
	return out
}

// maxPoints is the limit for the points of a series: eight days at 10 s.
const maxPoints = 8 * 8640

// series reads {interval, items, timestamp}. Nulls become "E".
func series(n *jsonitem.Node, unit string) (*sample.SeriesData, *rejection) {
	every, state := n.Get("interval").Decimal()
	secs := jsonitem.Float(every)
	if state != jsonitem.Given || secs < 0.001 || secs > 86400 {
		return nil, &rejection{sample.ReasonBadValue, "interval is not a number of seconds"}
	}
	items := n.Get("items")
	if items == nil || len(items.List()) == 0 {
		return nil, nil
	}
	if len(items.List()) > maxPoints {
		return nil, &rejection{sample.ReasonTooLarge, "a series has too many items"}
	}
	var data strings.Builder
	hasValue := false
	for i := range items.List() {
		v, state := items.List()[i].Decimal()
		if state == jsonitem.Given {
			hasValue = true
		} else {
			v = "E"
		}
		if i > 0 {
			data.WriteByte(' ')
		}
		data.WriteString(v)
	}
	if !hasValue {
		return nil, nil
	}
	return &sample.SeriesData{Period: time.Duration(secs * float64(time.Second)), Unit: unit, Data: data.String()}, nil
}

// emitSeries emits a series of the document with its own timestamp, which must
// be at most 36 hours from the start of the document. Series of Oura's sandbox
// are years off.
func (doc *document) emitSeries(metric, unit, field string) error {
	n := doc.node.Get(field)
	if n == nil || doc.sinkErr != nil {
		return doc.sinkErr
	}
	data, bad := series(n, unit)
	if data == nil && bad == nil {
		return nil
	}
	start, zone, ok := instant(n.Get("timestamp"))
	if bad == nil && !ok {
		bad = badTime("timestamp of the series is not an instant")
	}
	anchor := doc.sample.Start
	if anchor.IsZero() {
		anchor = time.Date(doc.sample.Day.Year, doc.sample.Day.Month, doc.sample.Day.Day, 12, 0, 0, 0, time.UTC)
	}
	if bad == nil && (start.Sub(anchor) > 36*time.Hour || anchor.Sub(start) > 36*time.Hour) {
		bad = badTime("the series begins more than 36 hours from its document")
	}
	if bad != nil {
		return doc.dec.reject(bad.reason, metric, bad.rule, n)
	}
	s := doc.sample
	s.Metric, s.Channel, s.VendorID, s.Revision = metric, "v2", doc.id, doc.revision
	s.Day, s.Start, s.Zone = sample.Date{}, start, zone
	points := strings.Count(data.Data, " ") + 1
	s.End = start.Add(time.Duration(points) * data.Period)
	s.Value = sample.Value{Kind: sample.Series, Unit: unit, Series: data}
	doc.dec.outcomes++
	return doc.dec.sink.Sample(&s)
}

// digits turns a text with one digit per epoch into a series. ok is false if
// the text has other characters.
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
