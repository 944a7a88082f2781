package apple

import (
	"bytes"
	"cmp"
	"strconv"
	"strings"
	"time"

	"pulsegate/mapping/sample"
)

const (
	typeSystolic  = "HKQuantityTypeIdentifierBloodPressureSystolic"
	typeDiastolic = "HKQuantityTypeIdentifierBloodPressureDiastolic"
)

// record is the element being read. The decoder reuses it for the next one.
type record struct {
	sample   sample.Sample
	device   *sample.Device
	unit     string
	reason   string // reason for rejection, "" if the record is valid
	detail   string
	where    string
	raw      []byte
	syncID   string // HKMetadataKeySyncIdentifier
	version  int64  // HKMetadataKeySyncVersion: the greater version is the later one
	external string // HKMetadataKeyExternalUUID
}

// reject sets the reason for rejection unless the record already has one.
func (r *record) reject(reason, detail string) {
	if r.reason == "" {
		r.reason, r.detail = reason, detail
	}
}

// begin clears r and reads the attributes that Record and Workout share.
func (d *xmlDecoder) begin(r *record) {
	d.lastTemplate = nil
	comps := r.sample.Components[:0]
	*r = record{raw: r.raw[:0]}
	r.sample.Components = comps
	r.sample.Channel = channelXML
	r.sample.Zone = sample.ZoneInstant
	r.sample.KeyValue = true
	for i := range d.sc.attrs {
		a := &d.sc.attrs[i]
		switch string(a.name) {
		case "sourceName":
			r.sample.Source.Name = d.names.get(d.sc.value(a))
		case "sourceVersion":
			r.sample.Source.Version = d.names.get(d.sc.value(a))
		case "device":
			r.device = d.devices.get(a.raw, func() []byte { return d.sc.value(a) })
			r.sample.Device = *r.device
		case "startDate":
			d.date(r, a, r.sample.Start.IsZero())
		case "endDate":
			d.date(r, a, false)
		}
	}
	if r.sample.Start.IsZero() {
		r.reject(sample.ReasonMissing, "startDate is missing")
	}
	if !r.sample.End.IsZero() && r.sample.End.Before(r.sample.Start) {
		r.reject(sample.ReasonBadTime, "endDate is before startDate")
	}
	if r.sample.End.Equal(r.sample.Start) {
		r.sample.End = time.Time{}
	}
}

// date reads a start or an end date. Exports of version 12 write the end as a
// second startDate.
func (d *xmlDecoder) date(r *record, a *attr, start bool) {
	t, ok := d.clock.parse(d.sc.value(a))
	switch {
	case !ok:
		r.reject(sample.ReasonBadTime, "a date is unreadable")
		t = time.Unix(0, 0)
	case !d.clock.plausible(t):
		r.reject(sample.ReasonBadTime, "a date is before 1900 or in the future")
	}
	if start {
		r.sample.Start = t
	} else {
		r.sample.End = t
	}
}

// keepRaw copies the tag of a record to be rejected while it is in the buffer.
func (d *xmlDecoder) keepRaw(r *record) {
	if r.reason != "" {
		r.where = d.where()
		r.raw = append(r.raw[:0], d.sc.tag()...)
	}
}

// record reads and emits the Record that just started.
func (d *xmlDecoder) record() error {
	r := &d.rec
	d.begin(r)
	var value *attr
	for i := range d.sc.attrs {
		a := &d.sc.attrs[i]
		switch string(a.name) {
		case "type":
			r.sample.Metric = d.names.get(d.sc.value(a))
		case "unit":
			r.unit = d.names.get(d.sc.value(a))
		case "value":
			value = a
		}
	}
	if r.sample.Metric == "" {
		r.reject(sample.ReasonMissing, "type is missing")
	}
	d.recordValue(r, value)
	if r.reason == "" {
		d.addTemplate(r)
	}
	d.keepRaw(r)
	if err := d.recordChildren(r); err != nil {
		return err
	}
	return d.emit(r)
}

// recordValue sets the value: a number for types with a unit, else a code.
func (d *xmlDecoder) recordValue(r *record, a *attr) {
	isNumber := r.unit != "" || strings.HasPrefix(r.sample.Metric, "HKQuantityTypeIdentifier")
	switch {
	case a == nil && isNumber:
		r.reject(sample.ReasonMissing, "value is missing")
	case a == nil:
	case isNumber:
		num, ok := decimal(d.sc.value(a))
		if !ok {
			r.reject(sample.ReasonBadValue, "value is not a decimal")
			return
		}
		r.sample.Value = number(d.values.get(num), r.unit)
	default:
		if v := bytes.TrimSpace(d.sc.value(a)); len(v) > 0 && string(v) != notApplicable {
			r.sample.Value = code(d.names.get(v))
		}
	}
}

// recordChildren reads the children of a Record. It does not call children, to
// save the closure for every Record.
func (d *xmlDecoder) recordChildren(r *record) error {
	for depth := d.sc.depth; ; {
		ok, err := d.plainChild(r)
		if err != nil {
			return err
		}
		kind := tokenEnd
		if !ok {
			kind, err = d.next()
		}
		switch {
		case err != nil:
			return err
		case kind == tokenEnd && d.sc.depth < depth:
			return nil
		case kind != tokenStart:
		case string(d.sc.name) == "MetadataEntry":
			d.metadata(r)
		case string(d.sc.name) == "HeartRateVariabilityMetadataList":
			d.sink.Drop(sample.DropIgnored, "HeartRateVariabilityMetadataList", 1)
			if err := d.skip(); err != nil {
				return err
			}
		}
	}
}

// metadata reads one MetadataEntry of r. Keys of other apps are ignored.
func (d *xmlDecoder) metadata(r *record) {
	k, v := d.attr("key"), d.attr("value")
	if k == nil || v == nil {
		return
	}
	d.entries.add(r, d.sc.value(k), d.sc.value(v))
}

// vendorID qualifies the id of a record by its source, because two apps may use
// the same id. An external UUID may stand for a whole session, so the start is
// added.
func (d *xmlDecoder) vendorID(r *record) string {
	if r.syncID == "" && r.external == "" {
		return ""
	}
	src, ok := d.ids.Get(r.sample.Source.Name)
	if !ok {
		src = hashName(r.sample.Source.Name)
		d.ids.Add(r.sample.Source.Name, src)
	}
	if r.syncID != "" {
		return "sync/" + src + "/" + r.syncID
	}
	return "uuid/" + src + "/" + r.external + "/" + strconv.FormatInt(r.sample.Start.Unix(), 10)
}

// revision returns the date of the export, which orders the statements of several
// exports.
func (d *xmlDecoder) revision() int64 {
	if d.exported.IsZero() {
		return 0
	}
	return d.exported.UnixMicro()
}

// rejectComponent reports a component that is left out of a sample. An error of
// the sink is kept in d.sinkErr and ends the decoding after the element.
func (d *xmlDecoder) rejectComponent(metric, component, rule string) {
	err := d.sink.Reject(&sample.Reject{Reason: sample.ReasonBadValue, Metric: metric, Component: component,
		Where: d.where(), Detail: rule})
	d.sinkErr = cmp.Or(d.sinkErr, err)
}

// emit passes a finished record to the sink.
func (d *xmlDecoder) emit(r *record) error {
	if d.sinkErr != nil {
		return d.sinkErr
	}
	if r.reason != "" {
		return d.sink.Reject(&sample.Reject{Reason: r.reason, Metric: r.sample.Metric, Where: r.where, Detail: r.detail,
			Raw: r.raw})
	}
	if r.sample.VendorID = d.vendorID(r); r.sample.VendorID != "" {
		r.sample.KeyValue = false
		if r.sample.Revision = r.version; r.version == 0 {
			r.sample.Revision = d.revision()
		}
	}
	switch r.sample.Metric {
	case typeSystolic, typeDiastolic:
		out, duplicate := d.bp.half(r)
		if duplicate {
			d.sink.Drop(sample.DropDuplicate, r.sample.Metric, 1)
		}
		if out == nil {
			return nil
		}
		return d.sink.Sample(out)
	}
	return d.sink.Sample(&r.sample)
}
