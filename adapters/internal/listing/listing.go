// Package listing decodes the most common form of a vendor's API: answers that hold lists
// of objects under their names, each of which becomes a few Samples. An adapter states
// the lists and reads one Item at a time. It is independent of vendors.
package listing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// Spec describes the answers of an API.
type Spec struct {
	Format string // name of the format, which is also the channel of its samples
	// Body is the member that holds the lists, or "" if the answer itself does.
	Body string
	// Check returns the rule that a member of the answer breaks, or "". It may be nil.
	Check func(name string, n *jsonitem.Node) string
	// Lists holds a function for each list that reads one item.
	Lists map[string]func(*Item) error
}

// Detect recognizes an answer by the names of its members.
func (s *Spec) Detect(head []byte) bool {
	head = bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")), " \t\r\n")
	has := func(name string) bool { return name == "" || bytes.Contains(head, []byte(`"`+name+`"`)) }
	if !bytes.HasPrefix(head, []byte("{")) || !has(s.Body) || has("resourceType") {
		return false
	}
	for name := range s.Lists {
		if has(name) {
			return true
		}
	}
	return false
}

// Decode reads a payload, which is one answer or several in sequence.
func (s *Spec) Decode(ctx context.Context, in adapters.Input, sink adapters.Sink) error {
	if in.Format != "" && in.Format != s.Format {
		return adapters.ErrUnknownFormat
	}
	d := &decoder{Spec: s, sink: &jsonitem.Watch{Sink: sink}, rd: jsonitem.NewReader(ctx, in.Body, sink.Progress),
		in: &in}
	return jsonitem.Payload(s.Format, d.answers())
}

// decoder holds the state of one Decode.
type decoder struct {
	*Spec
	sink  *jsonitem.Watch
	rd    *jsonitem.Reader
	in    *adapters.Input
	found bool                      // the answer has one of the lists
	facts map[string]*jsonitem.Node // scalar members next to the lists
}

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
		d.found, d.facts = false, map[string]*jsonitem.Node{}
		read := d.member
		if d.Body != "" {
			read = d.top
		}
		if err := d.rd.Object(read); err != nil {
			return err
		}
		if err := d.misread(); err != nil {
			return err
		}
		if !d.found {
			return d.rd.Fail("the answer has no known list")
		}
	}
}

// misread rejects the facts that an item read as another type than they have.
func (d *decoder) misread() error {
	for _, name := range slices.Sorted(maps.Keys(d.facts)) {
		if d.facts[name].Misread() == "" {
			continue
		}
		err := d.sink.Reject(&sample.Reject{Reason: sample.ReasonBadValue, Where: d.Format + " answer",
			Detail: "a member next to the lists has a wrong type"})
		if err != nil {
			return err
		}
	}
	return nil
}

// top reads a member of an answer whose lists are in Body.
func (d *decoder) top(name string) error {
	switch kind := d.rd.Kind(); {
	case name == d.Body && kind == '{':
		return d.rd.Object(d.member)
	case kind == '{' || kind == '[':
		return d.rd.Skip()
	}
	_, err := d.scalar(name)
	return err
}

// scalar reads a member that is neither an object nor an array, and checks it.
func (d *decoder) scalar(name string) (*jsonitem.Node, error) {
	n, err := d.rd.Item()
	if err == nil && d.Check != nil {
		if rule := d.Check(name, n); rule != "" {
			return nil, d.rd.Fail(rule)
		}
	}
	return n, err
}

// maxFacts bounds the members that are kept for the items of a list.
const maxFacts = 64

// member reads a member next to the lists.
func (d *decoder) member(name string) error {
	kind, read := d.rd.Kind(), d.Lists[name]
	switch {
	case kind == '[' && read != nil:
		d.found = true
		return d.rd.Array(func(i int) error { return d.item(name, i, read) })
	case kind == '{' || kind == '[':
		if len(d.facts) < maxFacts {
			d.facts[name] = &jsonitem.Node{Kind: kind} // tells that the fact has a wrong type
		}
		return d.rd.Skip()
	}
	n, err := d.scalar(name)
	if err == nil && len(d.facts) < maxFacts {
		d.facts[name] = n
	}
	return err
}

func (d *decoder) item(list string, i int, read func(*Item) error) error {
	it := &Item{decoder: d, list: list, index: i, Received: d.in.Received}
	n, err := d.rd.Item()
	switch {
	case errors.Is(err, jsonitem.ErrTooLarge), errors.Is(err, jsonitem.ErrTooDeep):
		return it.Reject(sample.ReasonTooLarge, "", "", err.Error())
	case err != nil:
		return err
	}
	if it.Node = n; n.Kind != '{' {
		return it.Reject(sample.ReasonBadValue, "", "", "an item must be an object")
	}
	return d.sink.Item(n, it.where, func() error {
		err := read(it)
		if err == nil && !it.some {
			it.Drop(sample.DropPlaceholder, list)
		}
		return err
	})
}

// where returns the position of the item.
func (it *Item) where() string { return fmt.Sprintf("%s[%d]", it.list, it.index) }

// Item is one object of a list.
type Item struct {
	Node     *jsonitem.Node
	Base     sample.Sample // identity, times and device of all its samples
	Received time.Time     // time of receipt of the payload

	decoder *decoder
	list    string
	index   int
	some    bool // it gave a sample, a reject or a drop
}

// Fact returns a scalar member that precedes the list, or nil.
func (it *Item) Fact(name string) *jsonitem.Node { return it.decoder.facts[name] }

// Drop counts the item as left out on purpose.
func (it *Item) Drop(reason, metric string) {
	it.some = true
	it.decoder.sink.Drop(reason, metric, 1)
}

// Reject reports that the item cannot be read, or only the component if it is not "".
func (it *Item) Reject(reason, metric, component, rule string) error {
	it.some = true
	r := sample.Reject{Reason: reason, Metric: metric, Component: component, Detail: rule,
		Where: it.where(), VendorID: it.Base.VendorID}
	if it.Node != nil && component == "" {
		r.Raw = it.Node.JSON()
	}
	return it.decoder.sink.Reject(&r)
}

// Emit emits a sample of the item, unless it has neither a value nor components.
func (it *Item) Emit(metric string, v sample.Value, parts ...sample.Component) error {
	if v.Kind == sample.None && len(parts) == 0 {
		return nil
	}
	it.some = true
	s := it.Base
	s.Metric, s.Channel, s.Value, s.Components = metric, it.decoder.Format, v, parts
	return it.decoder.sink.Sample(&s)
}

// Field is a number field of an object and its unit.
type Field struct{ Name, Unit string }

// Number reads a field. If it is absent, the Value is zero. If it is not a number, it is
// rejected.
func (it *Item) Number(n *jsonitem.Node, f Field, metric, component string) (sample.Value, error) {
	s, state := n.Get(f.Name).Decimal()
	switch state {
	case jsonitem.Absent:
		return sample.Value{}, nil
	case jsonitem.Given:
		return sample.Value{Kind: sample.Number, Num: s, Unit: f.Unit}, nil
	}
	return sample.Value{}, it.Reject(sample.ReasonBadValue, metric, component, f.Name+" is not a number")
}

// Each emits fields as samples, whose metrics are prefix and the names.
func (it *Item) Each(n *jsonitem.Node, prefix string, fields ...Field) error {
	for _, f := range fields {
		v, err := it.Number(n, f, prefix+f.Name, "")
		if err == nil {
			err = it.Emit(prefix+f.Name, v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Panel emits a sample with fields as components. main is its value if it has a name.
func (it *Item) Panel(n *jsonitem.Node, metric string, main Field, fields ...Field) error {
	var value sample.Value
	var err error
	if main.Name != "" {
		value, err = it.Number(n, main, metric, "")
	}
	var parts []sample.Component
	for _, f := range fields {
		if err != nil {
			return err
		}
		var v sample.Value
		if v, err = it.Number(n, f, metric, f.Name); v.Kind == sample.Number {
			parts = append(parts, sample.Component{Name: f.Name, Value: v})
		}
	}
	if err != nil {
		return err
	}
	return it.Emit(metric, value, parts...)
}

// At returns a time in Unix seconds with the offset of an IANA zone, and states the zone
// in Base. If there is no such zone, the time is an instant without the wearer's offset.
func (it *Item) At(n, zone *jsonitem.Node) (time.Time, bool) {
	t, ok := Unix(n)
	it.Base.Zone = sample.ZoneInstant
	if loc := Location(zone); loc != nil {
		_, offset := t.In(loc).Zone()
		it.Base.Zone, it.Base.IANA, t = sample.ZoneStated, loc.String(), jsonitem.In(t, offset)
	}
	return t, ok
}

// OnDay sets the day of Base, which is Preliminary if the day is not over in the zone at
// receipt.
func (it *Item) OnDay(n, zone *jsonitem.Node) (ok bool) {
	now := it.Received
	if loc := Location(zone); loc != nil {
		now, it.Base.IANA = now.In(loc), loc.String()
	}
	if it.Base.Day, ok = n.Day(); ok && n.String() >= now.Format(time.DateOnly) {
		it.Base.Status = sample.Preliminary
	}
	return ok
}

// Unix reads a time in Unix seconds, from 1971 to 2200.
func Unix(n *jsonitem.Node) (time.Time, bool) {
	s, _ := n.Decimal()
	secs, err := strconv.ParseInt(s, 10, 64)
	t := time.Unix(secs, 0).UTC()
	return t, err == nil && t.Year() >= 1971 && t.Year() <= 2200
}

// Location returns the IANA zone of a name, or nil if there is none.
func Location(n *jsonitem.Node) *time.Location {
	name := n.String()
	if len(name) > 64 || !strings.Contains(name, "/") && name != "UTC" {
		return nil
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return nil
	}
	return loc
}

// Text returns the text of a field of the item if it has at most limit bytes, or "".
func (it *Item) Text(field string, limit int) string {
	if s := it.Node.Get(field).String(); len(s) <= limit {
		return s
	}
	return ""
}
