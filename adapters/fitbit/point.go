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

func (p place) String() string {
	if p.member == "" {
		return fmt.Sprintf("page %d", p.page)
	}
	return fmt.Sprintf("page %d, %s[%d]", p.page, p.member, p.index)
}

func (d *decoder) reject(why, metric, detail string, raw *jsonitem.Node) error {
	r := sample.Reject{Reason: why, Metric: metric, Where: d.place.String(), Detail: detail}
	if raw != nil {
		r.Raw, r.VendorID = raw.JSON(), lastSegment(nameOf(raw))
	}
	return d.sink.Reject(&r)
}

// rejection is a rule that one item breaks.
type rejection struct{ reason, rule string }

// kebab turns dailyVo2Max into daily-vo2-max; "" if s is no member name.
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

// typed finds the member that names the type of an item.
func (d *decoder) typed(n *jsonitem.Node, envelope ...string) (metric string, body *jsonitem.Node) {
	for i := range n.Members {
		m := &n.Members[i]
		other := false
		for _, e := range envelope {
			other = other || m.Name == e
		}
		if !other && m.Value.Kind == '{' {
			if m.Name != d.member {
				d.member, d.metric = m.Name, kebab(m.Name)
			}
			return d.metric, &m.Value
		}
	}
	return d.hint, n
}

const noType = "no type in the body: name it by --format google-health:steps or by the file name (list_heart-rate.json, dailyRollUp_steps.json)"

// point reads an item of list or reconcile.
func (d *decoder) point(n *jsonitem.Node) error {
	metric, body := d.typed(n, "name", "dataPointName", "dataSource")
	if metric == "" && body == n {
		return d.rd.Fail(noType)
	}
	spec, ok := types[metric]
	if !ok {
		return d.reject(sample.ReasonUnmapped, metric, "no such type is read here", n)
	}
	p, parts := &d.next, d.next.s.Components[:0]
	*p = point{d: d, item: n, body: body, spec: spec, metric: metric}
	p.s.Components = parts
	p.s.Metric, p.s.Channel = metric, "v4"
	if bad := p.times(); bad != nil {
		return d.reject(bad.reason, metric, bad.rule, n)
	}
	p.origin()
	if t, _, ok := body.Get("updateTime").Time(); ok {
		p.s.Revision = t.UnixMicro()
	}
	read := spec.read
	if read == nil {
		read = plain
	}
	bad, err := read(p)
	if err != nil {
		return err
	}
	if bad != nil {
		return d.reject(bad.reason, metric, bad.rule, n)
	}
	return nil
}

// point is one item on its way to a Sample.
type point struct {
	d          *decoder
	item, body *jsonitem.Node
	spec       spec
	metric     string
	s          sample.Sample
	left       error // of the sink, when a component was left out
}

func (p *point) emit() error {
	if p.left != nil {
		return p.left
	}
	return p.d.sink.Sample(&p.s)
}

// emitAs hands out a further sample of the same item.
func (p *point) emitAs(metric string) error {
	if p.left != nil {
		return p.left
	}
	s := p.s
	s.Metric = metric
	return p.d.sink.Sample(&s)
}

func (p *point) drop() {
	p.d.sink.Drop(sample.DropLowQuality, p.metric, 1)
}

// offset reads "-18000s", and "-07:00" that some hand-made data has.
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

// instant reads a time and its offset beside it.
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

// period reads startTime, startUtcOffset, endTime, endUtcOffset of n.
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

func isoDay(d sample.Date) string {
	return fmt.Sprintf("%04d-%02d-%02d", d.Year, int(d.Month), d.Day)
}

func (p *point) times() *rejection {
	switch p.spec.when {
	case onDay:
		if p.body.Get("date") == nil {
			return &rejection{sample.ReasonMissing, "date is required"}
		}
		var ok bool
		if p.s.Day, ok = civil(p.body.Get("date")); !ok {
			return &rejection{sample.ReasonBadTime, "date is no calendar day"}
		}
		if p.d.unfinished(p.s.Day) {
			p.s.Status = sample.Preliminary
		}
	case atInstant:
		st := p.body.Get("sampleTime")
		if st.Get("physicalTime") == nil {
			return &rejection{sample.ReasonMissing, "sampleTime.physicalTime is required"}
		}
		var ok bool
		if p.s.Start, p.s.Zone, ok = instant(st.Get("physicalTime"), st.Get("utcOffset")); !ok {
			return &rejection{sample.ReasonBadTime, "sampleTime is no instant with an offset"}
		}
	case overPeriod:
		iv := p.body.Get("interval")
		if iv.Get("startTime") != nil && iv.Get("endTime") == nil && p.spec.openEnd {
			return p.openEnded(iv)
		}
		if iv.Get("startTime") == nil || iv.Get("endTime") == nil {
			return &rejection{sample.ReasonMissing, "interval.startTime and endTime are required"}
		}
		var ok bool
		if p.s.Start, p.s.End, p.s.Zone, ok = period(iv); !ok {
			return &rejection{sample.ReasonBadTime, "interval is no period of at most 32 days with offsets"}
		}
	}
	return nil
}

// openEnded takes the start of an interval without an end, which the type's
// reader finds in the content.
func (p *point) openEnded(iv *jsonitem.Node) *rejection {
	var ok bool
	if p.s.Start, p.s.Zone, ok = instant(iv.Get("startTime"), iv.Get("startUtcOffset")); !ok {
		return &rejection{sample.ReasonBadTime, "interval.startTime is no instant with an offset"}
	}
	return nil
}

// service is the device of what Google's service derived from all sources.
func service() sample.Device {
	return sample.Device{Name: "Google Health", Manufacturer: "Google", Kind: "app"}
}

// origin fills device, source and vendor id, by the rules in the package
// comment.
func (p *point) origin() {
	p.s.VendorID = lastSegment(nameOf(p.item))
	src := p.item.Get("dataSource")
	platform := src.Get("platform").String()
	switch {
	case p.spec.merged && p.s.VendorID != "":
		p.s.Device = service()
	case p.spec.when == onDay:
		p.s.VendorID = isoDay(p.s.Day)
		p.s.Device = service()
		if platform != "" && platform != "FITBIT" {
			p.s.VendorID += "/" + platform
			p.listed(src)
		}
	case src == nil:
		if p.s.VendorID == "" { // of the merged stream: list says of which source
			p.s.Coarse = true
			return
		}
		p.s.Device = service()
	default:
		p.listed(src)
	}
}

// listed takes device, source and hand entry from a dataSource.
func (p *point) listed(src *jsonitem.Node) {
	p.s.UserEntered = src.Get("recordingMethod").String() == "MANUAL"
	p.s.Source.Name = src.Get("application", "packageName").String()
	if p.s.Source.Name == "" {
		p.s.Source.Name = src.Get("platform").String()
	}
	dev := src.Get("device")
	d := sample.Device{
		Name:         dev.Get("displayName").String(),
		Manufacturer: dev.Get("manufacturer").String(),
		Kind:         kinds[dev.Get("formFactor").String()],
	}
	d.Model = d.Name
	if d.Manufacturer == "" && d.Name != "" && src.Get("platform").String() == "FITBIT" {
		d.Manufacturer = "Fitbit"
	}
	if d.Name+d.Manufacturer+d.Kind == "" {
		if p.s.UserEntered {
			return // a person is no device
		}
		d = service()
	}
	p.s.Device = d
}

var kinds = map[string]string{
	"FITNESS_BAND": "band", "WATCH": "watch", "PHONE": "phone", "RING": "ring", "CHEST_STRAP": "strap",
	"SCALE": "scale", "TABLET": "tablet", "HEAD_MOUNTED": "headset", "SMART_DISPLAY": "display",
}

// nameOf is the resource name of an item, "" if it has none.
func nameOf(n *jsonitem.Node) string {
	name := n.Get("name")
	if name == nil {
		name = n.Get("dataPointName")
	}
	return name.String()
}

// lastSegment is the id at the end of a resource name, "" if there is none.
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

// num adds a component if the member is a number. "NaN" and infinities are
// proto3's absent numbers; anything else is left out and reported.
func (p *point) num(name, unit string, path ...string) {
	p.part(name, unit, p.body.Get(path...))
}

func (p *point) part(name, unit string, n *jsonitem.Node) {
	switch s, state := n.Decimal(); state {
	case jsonitem.Given:
		p.add(name, sample.Value{Kind: sample.Number, Num: s, Unit: unit})
	case jsonitem.Bad:
		p.leave(name, "it is no number")
	}
}

// leave reports a component that is left out, while the rest is taken.
func (p *point) leave(name, rule string) {
	err := p.d.sink.Reject(&sample.Reject{Reason: sample.ReasonBadValue, Metric: p.s.Metric, Component: name,
		Where:  p.d.place.String(),
		Detail: rule, VendorID: p.s.VendorID})
	p.left = cmp.Or(p.left, err)
}

// code adds a component if the member is a name.
func (p *point) code(name string, path ...string) {
	if s := enum(p.body.Get(path...)); s != "" {
		p.add(name, sample.Value{Kind: sample.Code, Text: s})
	}
}

// secs adds a duration ("2640s") as seconds.
func (p *point) secs(name string, n *jsonitem.Node) {
	if s, ok := seconds(n); ok {
		p.add(name, sample.Value{Kind: sample.Number, Num: s, Unit: "s"})
	} else if n != nil {
		p.leave(name, "it is no duration")
	}
}

func (p *point) add(name string, v sample.Value) {
	for _, c := range p.s.Components {
		if c.Name == name {
			return
		}
	}
	p.s.Components = append(p.s.Components, sample.Component{Name: name, Value: v})
}

// seconds reads a protobuf Duration.
func seconds(n *jsonitem.Node) (string, bool) {
	s, ok := strings.CutSuffix(n.String(), "s")
	if !ok {
		return "", false
	}
	return number(&jsonitem.Node{Kind: '"', Text: s})
}

// enum reads an enum name: letters, digits and underscores; what the vendor
// leaves unspecified is none.
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
