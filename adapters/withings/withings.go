package withings

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

const format = "api"

// adapter implements adapters.Adapter for answers of the Withings API.
type adapter struct{}

// New returns the adapter of the Withings API.
func New() adapters.Adapter { return &adapter{} }

// Vendor returns "withings".
func (*adapter) Vendor() string { return "withings" }

// Name returns "Withings".
func (*adapter) Name() string { return "Withings" }

// Formats returns the only format.
func (*adapter) Formats() []adapters.Format {
	return []adapters.Format{{Name: format, Extensions: []string{".json"},
		Summary: "Withings API: answers of getmeas, sleep getsummary and getactivity"}}
}

// lists holds the lists of items in the body of an answer, with their readers.
var lists = map[string]func(*item) error{
	"measuregrps": (*item).group, "series": (*item).night, "activities": (*item).day,
}

// Detect recognizes an answer by its envelope and the name of its list.
func (*adapter) Detect(_ string, head []byte) (string, bool) {
	head = bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")), " \t\r\n")
	if !bytes.HasPrefix(head, []byte("{")) || !bytes.Contains(head, []byte(`"body"`)) {
		return "", false
	}
	for name := range lists {
		if bytes.Contains(head, []byte(`"`+name+`"`)) {
			return format, true
		}
	}
	return "", false
}

// Decode reads one payload.
func (*adapter) Decode(ctx context.Context, in adapters.Input, sink adapters.Sink) error {
	if in.Format != "" && in.Format != format {
		return adapters.ErrUnknownFormat
	}
	d := &decoder{sink: sink, rd: jsonitem.NewReader(ctx, in.Body, sink.Progress), received: in.Received}
	return jsonitem.Payload(format, d.answers())
}

// decoder holds the state of one Decode.
type decoder struct {
	sink     adapters.Sink
	rd       *jsonitem.Reader
	received time.Time
	found    bool // a list was found in the answer
	zone     *jsonitem.Node
}

// answers reads the answers of the payload.
func (d *decoder) answers() error {
	for n := 0; ; n++ {
		more, err := d.rd.Next()
		switch {
		case err != nil:
			return err
		case !more && n == 0:
			return d.rd.Fail("the body is empty")
		case !more:
			return nil
		}
		d.found, d.zone = false, nil
		if err := d.rd.Object(d.top); err != nil {
			return err
		}
		if !d.found {
			return d.rd.Fail("the answer has no measuregrps, series or activities")
		}
	}
}

// top reads a member of an answer.
func (d *decoder) top(name string) error {
	switch {
	case name == "status":
		n, err := d.rd.Item()
		if err == nil && n.Text != "0" {
			return d.rd.Fail("the service answered with an error")
		}
		return err
	case name == "body" && d.rd.Kind() == '{':
		return d.rd.Object(d.member)
	}
	return d.rd.Skip()
}

// member reads a member of the body of an answer.
func (d *decoder) member(name string) (err error) {
	switch read := lists[name]; {
	case name == "timezone":
		d.zone, err = d.rd.Item()
		return err
	case read == nil || d.rd.Kind() != '[':
		return d.rd.Skip()
	default:
		d.found = true
		return d.rd.Array(func(i int) error {
			it := &item{decoder: d, where: fmt.Sprintf("%s[%d]", name, i)}
			n, err := d.rd.Item()
			switch {
			case errors.Is(err, jsonitem.ErrTooLarge), errors.Is(err, jsonitem.ErrTooDeep):
				return it.reject(sample.ReasonTooLarge, "", "", err.Error())
			case err != nil:
				return err
			}
			if it.node = n; n.Kind != '{' {
				return it.reject(sample.ReasonBadValue, "", "", "an item must be an object")
			}
			return read(it)
		})
	}
}

// item is a group of measures, a night or a day that is being turned into samples.
type item struct {
	*decoder
	node  *jsonitem.Node
	where string
	base  sample.Sample // identity, times and device of all samples of the item
	count int           // samples and rejects so far
}

func (it *item) reject(reason, metric, component, rule string) error {
	it.count++
	r := sample.Reject{Reason: reason, Metric: metric, Component: component, Where: it.where, Detail: rule,
		VendorID: it.base.VendorID}
	if it.node != nil && component == "" {
		r.Raw = it.node.JSON()
	}
	return it.sink.Reject(&r)
}

// emit emits a sample of the item, unless it holds nothing.
func (it *item) emit(metric string, v sample.Value, parts ...sample.Component) error {
	if v.Kind == sample.None && len(parts) == 0 {
		return nil
	}
	it.count++
	s := it.base
	s.Metric, s.Channel, s.Value, s.Components = metric, format, v, parts
	return it.sink.Sample(&s)
}

// done counts an item without values.
func (it *item) done(metric string) error {
	if it.count == 0 {
		it.sink.Drop(sample.DropPlaceholder, metric, 1)
	}
	return nil
}

// number reads a field as a number. It is the zero Value if there is none.
func (it *item) number(n *jsonitem.Node, metric, component, field, unit string) (sample.Value, error) {
	s, state := n.Get(field).Decimal()
	switch state {
	case jsonitem.Absent:
		return sample.Value{}, nil
	case jsonitem.Given:
		return sample.Value{Kind: sample.Number, Num: s, Unit: unit}, nil
	}
	return sample.Value{}, it.reject(sample.ReasonBadValue, metric, component, field+" is not a number")
}

// fields emits number fields as samples named after them, given as pairs of field and
// unit.
func (it *item) fields(n *jsonitem.Node, prefix string, pairs ...[2]string) error {
	for _, p := range pairs {
		v, err := it.number(n, prefix+p[0], "", p[0], p[1])
		if err == nil {
			err = it.emit(prefix+p[0], v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// parts returns number fields as components, given as pairs of field and unit.
func (it *item) parts(n *jsonitem.Node, metric string, pairs ...[2]string) (out []sample.Component, err error) {
	for _, p := range pairs {
		v, err := it.number(n, metric, p[0], p[0], p[1])
		if err != nil {
			return nil, err
		}
		if v.Kind == sample.Number {
			out = append(out, sample.Component{Name: p[0], Value: v})
		}
	}
	return out, nil
}

// identify sets the id, the revision and the device. It reports whether the id is valid.
func (it *item) identify(field string) bool {
	it.base.VendorID, _ = it.node.Get(field).Decimal()
	if at, ok := unix(it.node.Get("modified")); ok {
		it.base.Revision = at.UnixMicro()
	}
	it.base.Device = sample.Device{Name: "Withings", Manufacturer: "Withings"}
	if m := it.node.Get("model").String(); m != "" && len(m) <= 64 {
		it.base.Device.Name, it.base.Device.Model = m, m
	}
	for _, name := range []string{"deviceid", "hash_deviceid"} {
		if id := it.node.Get(name).String(); id != "" && len(id) <= 128 {
			it.base.Device.Serial = id
		}
	}
	return it.base.VendorID != "" && !strings.ContainsAny(it.base.VendorID, ".eE-")
}

// unix reads a time in Unix seconds.
func unix(n *jsonitem.Node) (time.Time, bool) {
	s, _ := n.Decimal()
	secs, err := strconv.ParseInt(s, 10, 64)
	t := time.Unix(secs, 0).UTC()
	return t, err == nil && t.Year() >= 1971 && t.Year() <= 2200
}

// location returns an IANA zone, or nil if the name is not one.
func location(n *jsonitem.Node) *time.Location {
	name := n.String()
	if len(name) > 64 || !strings.Contains(name, "/") && name != "UTC" {
		return nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil
	}
	return zone
}

// at reads the time of a field in a zone.
func (it *item) at(field string, zone *time.Location) (time.Time, bool) {
	t, ok := unix(it.node.Get(field))
	it.base.Zone = sample.ZoneInstant
	if zone != nil {
		_, offset := t.In(zone).Zone()
		it.base.Zone, it.base.IANA, t = sample.ZoneStated, zone.String(), jsonitem.In(t, offset)
	}
	return t, ok
}
