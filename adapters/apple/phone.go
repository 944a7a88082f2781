package apple

import (
	"cmp"
	"context"
	"errors"
	"strconv"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// phoneDecoder is the part that the formats written by apps on the phone share: the
// companion format, Open Wearables and FHIR Observations.
type phoneDecoder struct {
	format, channel string
	sink            *jsonitem.Watch
	rd              *jsonitem.Reader
	clock           *clock
	entries         entries

	section string // list or member being read
	index   int    // element of the list
	metric  string // type of the item being read, or ""
	id      string // UUID of the item being read, or ""
	sinkErr error  // error of the sink when it was passed a rejected component
}

func newPhoneDecoder(ctx context.Context, in adapters.Input, format, channel string, sink adapters.Sink) *phoneDecoder {
	d := &phoneDecoder{format: format, channel: channel, sink: &jsonitem.Watch{Sink: sink},
		clock: newClock(in.Received)}
	reported := int64(0)
	d.rd = jsonitem.NewReader(ctx, in.Body, func(n int64) {
		if n-reported >= progressStep {
			reported = n
			sink.Progress(n)
		}
	})
	d.entries = entries{clock: d.clock, names: newInterner(4096), values: newNumberStrings(), reject: d.rejectComponent}
	return d
}

func (d *phoneDecoder) where() string { return d.section + "[" + strconv.Itoa(d.index) + "]" }

// rejectComponent reports a component that is left out of a sample. An error of the
// sink is kept in d.sinkErr and ends the decoding after the item.
func (d *phoneDecoder) rejectComponent(metric, component, rule string) {
	err := d.sink.Reject(&sample.Reject{Reason: sample.ReasonBadValue, Metric: metric, Component: component,
		Where: d.where(), Detail: rule, VendorID: d.id})
	d.sinkErr = cmp.Or(d.sinkErr, err)
}

// list reads an array of items. Null counts as an empty array.
func (d *phoneDecoder) list(section string, read func(*jsonitem.Node) error) error {
	if d.rd.Kind() == 'n' {
		return d.rd.Skip()
	}
	return d.rd.Array(func(i int) error {
		d.section, d.index = section, i
		n, err := d.rd.Item()
		return d.item(n, err, read)
	})
}

// nodes reads the items of an array that was read as a whole.
func (d *phoneDecoder) nodes(section string, list *jsonitem.Node, read func(*jsonitem.Node) error) error {
	if list == nil {
		return nil
	}
	if list.Kind != '[' {
		return d.rd.Fail(section + " is not an array")
	}
	for i := range list.List() {
		d.section, d.index = section, i
		if err := d.item(&list.List()[i], nil, read); err != nil {
			return err
		}
	}
	return nil
}

// item passes an item to read. An itemError of read rejects the item.
func (d *phoneDecoder) item(n *jsonitem.Node, err error, read func(*jsonitem.Node) error) error {
	d.metric, d.id = "", ""
	switch {
	case errors.Is(err, jsonitem.ErrTooLarge), errors.Is(err, jsonitem.ErrTooDeep):
		return d.reject(&itemError{sample.ReasonTooLarge, err.Error()}, nil)
	case err != nil:
		return err
	case n.Kind != '{':
		return d.reject(missing("the item is not an object"), n)
	}
	return d.sink.Item(n, d.where, func() error {
		err := cmp.Or(read(n), d.sinkErr)
		var bad *itemError
		if errors.As(err, &bad) {
			return d.reject(bad, n)
		}
		return err
	})
}

func (d *phoneDecoder) reject(bad *itemError, raw *jsonitem.Node) error {
	r := sample.Reject{Reason: bad.reason, Metric: d.metric, Where: d.where(), Detail: bad.rule, VendorID: d.id}
	if raw != nil {
		r.Raw = raw.JSON()
	}
	return d.sink.Reject(&r)
}

// begin returns the record of an item of a type.
func (d *phoneDecoder) begin(metric, id string) *record {
	d.metric, d.id = metric, id
	return &record{sample: sample.Sample{Metric: metric, Channel: d.channel, VendorID: id, SharedID: id != ""}}
}

// typeOf reads the type of an item.
func typeOf(n *jsonitem.Node) (string, error) {
	metric := n.String()
	switch {
	case metric == "":
		return "", missing("type is missing")
	case !isType(metric):
		return "", &itemError{sample.ReasonUnmapped, "type is not an identifier of a HealthKit type"}
	}
	return metric, nil
}

// span sets the times of r. The zone is that of the start.
func (d *phoneDecoder) span(r *record, start, end *jsonitem.Node) error {
	if start == nil {
		return missing("the start is missing")
	}
	var ok bool
	if r.sample.Start, r.sample.Zone, ok = start.Time(); !ok || r.sample.Zone == sample.ZoneFloating {
		return badTime("the start is not an instant with an offset")
	}
	if end != nil {
		t, zone, ok := end.Time()
		if !ok || zone == sample.ZoneFloating {
			return badTime("the end is not an instant with an offset")
		}
		r.sample.End = t
	}
	if !d.clock.plausible(r.sample.Start) || !r.sample.End.IsZero() && !d.clock.plausible(r.sample.End) {
		return badTime("a time is before 1900 or in the future")
	}
	if r.sample.End.IsZero() {
		return nil
	}
	if r.sample.End.Before(r.sample.Start) {
		return badTime("the end is before the start")
	}
	if r.sample.End.Equal(r.sample.Start) {
		r.sample.End = time.Time{}
	}
	return nil
}

// metadata reads the members of an object of metadata. Values are strings, numbers,
// booleans, or quantities as objects with value and unit.
func (d *phoneDecoder) metadata(r *record, n *jsonitem.Node) {
	if n == nil {
		return
	}
	for i := range n.Fields() {
		if v, ok := metadataText(&n.Members[i].Value); ok {
			d.entries.add(r, []byte(n.Members[i].Name), []byte(v))
		}
	}
}

// metadataText returns a value of metadata as an export writes it.
func metadataText(n *jsonitem.Node) (string, bool) {
	switch n.Kind {
	case '[':
		n.Refuse()
	case '"', '0':
		return n.Text, true
	case 't':
		return "1", true
	case 'f':
		return "0", true
	case '{':
		num, state := n.Get("value").Decimal()
		if state != jsonitem.Given {
			n.Refuse()
		}
		return num + " " + n.Get("unit").String(), state == jsonitem.Given
	}
	return "", false
}

// number reads a number member. An absent one is "".
func (d *phoneDecoder) number(n *jsonitem.Node, what string) (string, error) {
	num, state := n.Decimal()
	switch state {
	case jsonitem.Absent, jsonitem.Given:
		return num, nil
	}
	return "", badValue(what + " is not a finite decimal")
}

// part adds a component with a number. A number that cannot be read is rejected
// alone.
func (d *phoneDecoder) part(r *record, name string, n *jsonitem.Node, unit string) {
	switch num, state := n.Decimal(); state {
	case jsonitem.Absent:
	case jsonitem.Given:
		r.component(name, number(num, unit))
	default:
		d.rejectComponent(r.sample.Metric, name, "the value is not a finite decimal")
	}
}

// words adds a component with the texts of an array, joined by commas.
func words(r *record, name string, list *jsonitem.Node) {
	out := ""
	if list != nil {
		for i := range list.List() {
			if w := list.List()[i].String(); w != "" {
				if out != "" {
					out += ", "
				}
				out += w
			}
		}
	}
	textPart(r, name, out)
}

func textPart(r *record, name, s string) {
	if s != "" {
		r.component(name, text(s))
	}
}

func codePart(r *record, name, s string) {
	if s != "" {
		r.component(name, code(s))
	}
}

// category sets the value of a category from its integer.
func (d *phoneDecoder) category(r *record, n *jsonitem.Node) error {
	num, state := n.Decimal()
	if state == jsonitem.Absent && enumOf[r.sample.Metric[min(len(prefixCategory), len(r.sample.Metric)):]] == "" {
		return nil
	}
	i, err := strconv.Atoi(num)
	if state != jsonitem.Given || err != nil {
		return badValue("the value of a category is not an integer")
	}
	name, ok := categoryName(r.sample.Metric, i)
	if !ok {
		return badValue("the category has no such value")
	}
	if name != "" {
		r.sample.Value = code(name)
	}
	return nil
}

// header collects the arrays that precede the header of a body. They are read as a
// whole, so their size is limited.
type header struct {
	names []string
	early []*jsonitem.Node
}

// keep reads the next value as one of the arrays.
func (h *header) keep(d *phoneDecoder, name string) error {
	n, err := d.member("what precedes the header of the body")
	if err != nil {
		return err
	}
	h.names, h.early = append(h.names, name), append(h.early, n)
	return nil
}

// member reads a member of the body as a whole. what describes it in the error for
// one that is too large.
func (d *phoneDecoder) member(what string) (*jsonitem.Node, error) {
	n, err := d.rd.Item()
	switch {
	case errors.Is(err, jsonitem.ErrTooLarge):
		return nil, d.rd.Fail(what + " is larger than 16 MiB")
	case errors.Is(err, jsonitem.ErrTooDeep):
		return nil, d.rd.Fail(what + " is nested deeper than 32 levels")
	}
	return n, err
}
