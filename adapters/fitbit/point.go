package fitbit

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

func (p position) String() string {
	where := p.entry
	if where != "" {
		where += ", "
	}
	switch {
	case p.line > 0:
		return where + "line " + strconv.Itoa(p.line)
	case p.member == "" && p.entry != "":
		return where + "item " + strconv.Itoa(p.index)
	case p.member == "":
		return fmt.Sprintf("page %d", p.page)
	}
	return fmt.Sprintf("page %d, %s[%d]", p.page, p.member, p.index)
}

// reject reports an item that is not a Sample.
func (d *decoder) reject(reason, metric, detail string, raw *jsonitem.Node) error {
	r := sample.Reject{Reason: reason, Metric: metric, Where: d.pos.String(), Detail: detail}
	if raw != nil {
		r.Raw, r.VendorID = raw.JSON(), lastSegment(nameOf(raw))
	}
	return d.sink.Reject(&r)
}

// rejectAs reports an item with the VendorID that its Sample would have.
func (d *decoder) rejectAs(bad *rejection, metric, vendorID string, raw *jsonitem.Node) error {
	return d.sink.Reject(&sample.Reject{Reason: bad.reason, Metric: metric, Where: d.pos.String(), Detail: bad.rule,
		Raw: raw.JSON(), VendorID: vendorID})
}

// rejection is the reason for rejecting one item.
type rejection struct{ reason, rule string }

// kebab turns a member name such as dailyVo2Max into a type such as
// daily-vo2-max. It returns "" if s is not a member name.
func kebab(s string) string {
	if s == "" || len(s) > 64 {
		return ""
	}
	var b strings.Builder
	for i, c := range s {
		switch {
		case c >= 'A' && c <= 'Z':
			if i > 0 {
				b.WriteByte('-')
			}
			b.WriteRune(c + 'a' - 'A')
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-':
			b.WriteRune(c)
		default:
			return ""
		}
	}
	return b.String()
}

// splitType returns the type of an item and the member with its content. The
// type is the name of the first object that is not in envelope.
func (d *decoder) splitType(n *jsonitem.Node, envelope ...string) (metric string, body *jsonitem.Node) {
	for i := range n.Members {
		m := &n.Members[i]
		inEnvelope := false
		for _, e := range envelope {
			inEnvelope = inEnvelope || m.Name == e
		}
		if !inEnvelope && m.Value.Kind == '{' {
			if m.Name != d.member {
				d.member, d.metric = m.Name, kebab(m.Name)
			}
			return d.metric, &m.Value
		}
	}
	return d.hint, n
}

const noType = "the body does not state its type; name it with --format google-health:steps " +
	"or in the file name (list_heart-rate.json, dailyRollUp_steps.json)"

// Revisions of the types that have no updateTime. A statement of the API is later
// than that of an archive or of a stored legacy payload, because Google derives
// the values again with newer algorithms.
const (
	revisionArchive = 1
	revisionAPI     = 2
)

// untyped reports an item without the object that holds its data. If a member has the
// name of a type, the item is rejected. Else nothing tells the type of the body.
func (d *decoder) untyped(n *jsonitem.Node) error {
	for i := range n.Members {
		if metric := kebab(n.Members[i].Name); isType(metric) {
			return d.reject(sample.ReasonBadValue, metric, "the data of the item is not an object", n)
		}
	}
	return d.rd.Fail(noType)
}

// point reads an item of list or reconcile.
func (d *decoder) point(n *jsonitem.Node) error {
	metric, body := d.splitType(n, "name", "dataPointName", "dataSource")
	if metric == "" && body == n {
		return d.untyped(n)
	}
	if _, ok := ignored[metric]; ok {
		d.sink.Drop(sample.DropIgnored, metric, 1)
		return nil
	}
	spec, ok := types[metric]
	if !ok {
		return d.reject(sample.ReasonUnmapped, metric, "this type is not supported", n)
	}
	p, parts := &d.next, d.next.sample.Components[:0]
	*p = point{dec: d, item: n, body: body, spec: spec, metric: metric}
	p.sample.Components = parts
	p.sample.Metric, p.sample.Channel = metric, "v4"
	if bad := p.times(); bad != nil {
		if spec.timing == onDay { // identified by the day, which could not be read
			return d.rejectAs(bad, metric, "", n)
		}
		return d.rejectAs(bad, metric, lastSegment(nameOf(n)), n)
	}
	p.origin()
	if t, _, ok := body.Get("updateTime").Time(); ok {
		p.sample.Revision = t.UnixMicro()
	} else if p.sample.VendorID != "" && !spec.merged {
		p.sample.Revision = revisionAPI
	}
	read := spec.read
	if read == nil {
		read = readPlain
	}
	bad, err := read(p)
	if err != nil {
		return err
	}
	if bad != nil {
		return d.rejectAs(bad, metric, p.sample.VendorID, n)
	}
	return nil
}

// point is an item that is being turned into a Sample.
type point struct {
	dec        *decoder
	item, body *jsonitem.Node
	spec       typeSpec
	metric     string
	sample     sample.Sample
	sinkErr    error // error of the sink when it was passed a rejected component
}

// emit passes the sample to the sink.
func (p *point) emit() error {
	if p.sinkErr != nil {
		return p.sinkErr
	}
	return p.dec.sink.Sample(&p.sample)
}

// emitAs emits another sample of the same item.
func (p *point) emitAs(metric string) error {
	if p.sinkErr != nil {
		return p.sinkErr
	}
	s := p.sample
	s.Metric = metric
	return p.dec.sink.Sample(&s)
}

// drop counts the item as a measurement of low quality.
func (p *point) drop() {
	p.dec.sink.Drop(sample.DropLowQuality, p.metric, 1)
}

// offset reads an offset such as "-18000s". It also accepts "-07:00", which
// occurs in hand-written data.
func offset(n *jsonitem.Node) (int, bool) {
	s := n.String()
	secs, ok := strings.CutSuffix(s, "s")
	if !ok {
		t, err := time.Parse("-07:00", s)
		_, o := t.Zone()
		return o, err == nil && o >= -18*3600 && o <= 18*3600
	}
	o, err := strconv.Atoi(secs)
	return o, err == nil && o >= -18*3600 && o <= 18*3600
}

// instant reads a time and its offset.
func instant(at, off *jsonitem.Node) (time.Time, sample.Zone, bool) {
	t, zone, ok := at.Time()
	if !ok {
		return t, zone, false
	}
	if off == nil {
		return t, zone, true
	}
	o, ok := offset(off)
	if !ok {
		return t, zone, false
	}
	return jsonitem.In(t, o), sample.ZoneStated, true
}

// period reads startTime, startUtcOffset, endTime and endUtcOffset of n.
func period(n *jsonitem.Node) (start, end time.Time, zone sample.Zone, ok bool) {
	start, zone, ok = instant(n.Get("startTime"), n.Get("startUtcOffset"))
	if !ok {
		return
	}
	off := n.Get("endUtcOffset")
	if off == nil {
		off = n.Get("startUtcOffset")
	}
	end, _, ok = instant(n.Get("endTime"), off)
	return start, end, zone, ok && !end.Before(start) && end.Sub(start) <= 32*24*time.Hour
}

// civil reads {year,month,day}.
func civil(n *jsonitem.Node) (sample.Date, bool) {
	part := func(name string) int {
		s, _ := n.Get(name).Decimal()
		i, err := strconv.Atoi(s)
		if err != nil {
			return 0
		}
		return i
	}
	y, m, day := part("year"), part("month"), part("day")
	t := time.Date(y, time.Month(m), day, 0, 0, 0, 0, time.UTC)
	if y < 1971 || y > 2200 || m < 1 || m > 12 || t.Day() != day {
		return sample.Date{}, false
	}
	return sample.Date{Year: y, Month: time.Month(m), Day: day}, true
}

// isoDay formats d as YYYY-MM-DD.
func isoDay(d sample.Date) string {
	return fmt.Sprintf("%04d-%02d-%02d", d.Year, int(d.Month), d.Day)
}

// times sets the time of the sample by the type's timing.
func (p *point) times() *rejection {
	switch p.spec.timing {
	case onDay:
		if p.body.Get("date") == nil {
			return &rejection{sample.ReasonMissing, "date is required"}
		}
		var ok bool
		if p.sample.Day, ok = civil(p.body.Get("date")); !ok {
			return &rejection{sample.ReasonBadTime, "date is not a calendar day"}
		}
		if p.dec.unfinished(p.sample.Day) {
			p.sample.Status = sample.Preliminary
		}
	case atInstant:
		sampleTime := p.body.Get("sampleTime")
		if sampleTime.Get("physicalTime") == nil {
			return &rejection{sample.ReasonMissing, "sampleTime.physicalTime is required"}
		}
		var ok bool
		if p.sample.Start, p.sample.Zone,
			ok = instant(sampleTime.Get("physicalTime"), sampleTime.Get("utcOffset")); !ok {
			return &rejection{sample.ReasonBadTime, "sampleTime is not an instant with an offset"}
		}
	case overPeriod:
		interval := p.body.Get("interval")
		if interval.Get("startTime") != nil && interval.Get("endTime") == nil && p.spec.openEnd {
			return p.openEnded(interval)
		}
		if interval.Get("startTime") == nil || interval.Get("endTime") == nil {
			return &rejection{sample.ReasonMissing, "interval.startTime and endTime are required"}
		}
		var ok bool
		if p.sample.Start, p.sample.End, p.sample.Zone, ok = period(interval); !ok {
			return &rejection{sample.ReasonBadTime, "interval is not a period of at most 32 days with offsets"}
		}
	}
	return nil
}

// openEnded sets the start of an interval without an end. The type's reader
// finds the end in the content.
func (p *point) openEnded(interval *jsonitem.Node) *rejection {
	var ok bool
	if p.sample.Start, p.sample.Zone, ok = instant(interval.Get("startTime"), interval.Get("startUtcOffset")); !ok {
		return &rejection{sample.ReasonBadTime, "interval.startTime is not an instant with an offset"}
	}
	return nil
}

// serviceDevice returns the device of values that Google's service derived from
// all sources.
func serviceDevice() sample.Device {
	return sample.Device{Name: "Google Health", Manufacturer: "Google", Kind: "app"}
}

// origin sets device, source and VendorID by the rules under "Identity" in the
// package comment.
func (p *point) origin() {
	p.sample.VendorID = lastSegment(nameOf(p.item))
	source := p.item.Get("dataSource")
	platform := source.Get("platform").String()
	switch {
	case p.spec.merged && p.sample.VendorID != "":
		p.sample.Device = serviceDevice()
	case p.spec.timing == onDay:
		p.sample.VendorID = isoDay(p.sample.Day)
		p.sample.Device = serviceDevice()
		if platform != "" && platform != "FITBIT" {
			p.sample.VendorID += "/" + platform
			p.fromSource(source)
		}
	case source == nil:
		if p.sample.VendorID == "" { // reconcile does not state the source
			p.sample.Coarse = true
			return
		}
		p.sample.Device = serviceDevice()
	default:
		p.fromSource(source)
	}
}

// fromSource sets device, source and UserEntered from a dataSource.
func (p *point) fromSource(source *jsonitem.Node) {
	p.sample.UserEntered = source.Get("recordingMethod").String() == "MANUAL"
	p.sample.Source.Name = source.Get("application", "packageName").String()
	if p.sample.Source.Name == "" {
		p.sample.Source.Name = source.Get("platform").String()
	}
	dev := source.Get("device")
	d := sample.Device{
		Name:         dev.Get("displayName").String(),
		Manufacturer: dev.Get("manufacturer").String(),
		Kind:         deviceTypes[dev.Get("formFactor").String()],
	}
	d.Model = d.Name
	if d.Manufacturer == "" && d.Name != "" && source.Get("platform").String() == "FITBIT" {
		d.Manufacturer = "Fitbit"
	}
	if d.Name+d.Manufacturer+d.Kind == "" {
		if p.sample.UserEntered {
			return // a person is not a device
		}
		d = serviceDevice()
	}
	p.sample.Device = d
}

// deviceTypes maps form factors to device types.
var deviceTypes = map[string]string{
	"FITNESS_BAND": "band", "WATCH": "watch", "PHONE": "phone", "RING": "ring", "CHEST_STRAP": "strap",
	"SCALE": "scale", "TABLET": "tablet", "HEAD_MOUNTED": "headset", "SMART_DISPLAY": "display",
}

// nameOf returns the resource name of an item, or "".
func nameOf(n *jsonitem.Node) string {
	name := n.Get("name")
	if name == nil {
		name = n.Get("dataPointName")
	}
	return name.String()
}

// lastSegment returns the id at the end of a resource name, or "".
func lastSegment(name string) string {
	id := name[strings.LastIndexByte(name, '/')+1:]
	if id == "" || id == name || len(id) > 128 {
		return ""
	}
	return id
}

// number reads a decimal member; ok is false if it is absent or not finite.
func number(n *jsonitem.Node, path ...string) (string, bool) {
	s, state := n.Get(path...).Decimal()
	return s, state == jsonitem.Given
}

// number adds a component if the member is a number. "NaN" and infinities are
// absent numbers in proto3; other values are rejected.
func (p *point) number(name, unit string, path ...string) {
	p.numberOf(name, unit, p.body.Get(path...))
}

// numberOf adds the number n as a component.
func (p *point) numberOf(name, unit string, n *jsonitem.Node) {
	switch s, state := n.Decimal(); state {
	case jsonitem.Given:
		p.add(name, sample.Value{Kind: sample.Number, Num: s, Unit: unit})
	case jsonitem.Bad:
		p.rejectComponent(name, "it is not a number")
	}
}

// rejectComponent reports a component that is left out of the sample.
func (p *point) rejectComponent(name, rule string) {
	err := p.dec.sink.Reject(&sample.Reject{Reason: sample.ReasonBadValue, Metric: p.sample.Metric, Component: name,
		Where:  p.dec.pos.String(),
		Detail: rule, VendorID: p.sample.VendorID})
	p.sinkErr = cmp.Or(p.sinkErr, err)
}

// code adds a component if the member is an enum name.
func (p *point) code(name string, path ...string) {
	if s := enum(p.body.Get(path...)); s != "" {
		p.add(name, sample.Value{Kind: sample.Code, Text: s})
	}
}

// duration adds a duration such as "2640s" as a component in seconds.
func (p *point) duration(name string, n *jsonitem.Node) {
	if s, ok := seconds(n); ok {
		p.add(name, sample.Value{Kind: sample.Number, Num: s, Unit: "s"})
	} else if n != nil {
		p.rejectComponent(name, "it is not a duration")
	}
}

// add adds a component unless there is one with the same name.
func (p *point) add(name string, v sample.Value) {
	for _, c := range p.sample.Components {
		if c.Name == name {
			return
		}
	}
	p.sample.Components = append(p.sample.Components, sample.Component{Name: name, Value: v})
}

// seconds reads a protobuf Duration as seconds.
func seconds(n *jsonitem.Node) (string, bool) {
	s, ok := strings.CutSuffix(n.String(), "s")
	if !ok {
		return "", false
	}
	return number(&jsonitem.Node{Kind: '"', Text: s})
}

// enum reads an enum name of letters, digits and underscores. Unspecified
// values count as absent.
func enum(n *jsonitem.Node) string {
	s := n.String()
	if s == "" || len(s) > 80 || strings.HasSuffix(s, "_UNSPECIFIED") {
		return ""
	}
	for _, c := range s {
		if c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return ""
		}
	}
	return s
}
