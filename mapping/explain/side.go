package explain

import (
	"cmp"
	"strings"
	"time"

	"pulsegate/mapping"
	"pulsegate/mapping/ingest"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/table"
)

// sample explains sample i of o.
func (e *Explainer) sample(o *ingest.KeptObservation, k *ingest.Kept, i int, stored *observation) Sample {
	out := Sample{Sent: k.Sample, RowThen: k.Row, Text: kindOf(o, k, i)}
	var zone *time.Location
	if k.Zone != "" {
		zone, _ = time.LoadLocation(k.Zone) // if it no longer exists, the line of the time says so
	}
	trace, err := e.Pipeline.Mapper.Explain(o.Vendor, &k.Sample, o.Patient, zone)
	if trace.Row == nil {
		out.Lines = append(out.Lines, Line{Part: "Metric", Sent: k.Sample.Metric, Rule: refusal(err)})
		return out
	}
	out.Pack, out.Version, out.Row, out.Trust = trace.Row.Pack.Name, trace.Row.Pack.Version, trace.Row.Metric,
		trace.Row.Trust
	out.Variant, out.Codes = variant(trace.When), trace.Codes
	for i := range trace.Values {
		v := &trace.Values[i]
		value := Value{Component: v.Component}
		for _, n := range v.Numbers {
			value.Numbers = append(value.Numbers, Conversion{Sent: n.Sent, SentUnit: n.SentUnit, Written: n.Written,
				Unit: n.UCUM, Text: equation(&n)})
		}
		out.Values = append(out.Values, value)
	}
	out.Lines = lines(k, &trace, &out, stored, zone)
	return out
}

func refusal(err error) string {
	if err == nil {
		return "the table has no row"
	}
	return err.Error()
}

func kindOf(o *ingest.KeptObservation, k *ingest.Kept, i int) string {
	switch {
	case k.Derived:
		return "Computed from the stored segments of " + cmp.Or(k.Sample.Source.Name, "one source") + "."
	case k.Joined:
		return "Record " + string(rune('1'+i)) + " of those that the Observation joins."
	case len(o.Kept) > 1:
		return "Possibility " + string(rune('1'+i)) + ": the row of the series does not tell which sample made it."
	case k.Rebuilt:
		return "Put together from the row of a series. Zeros at the end of numbers may differ from those sent."
	}
	return ""
}

// variant says when a variant of a row applies.
func variant(w *table.When) string {
	if w == nil {
		return ""
	}
	var parts []string
	if len(w.Units) > 0 {
		parts = append(parts, "in "+strings.Join(w.Units, " or "))
	}
	if w.Channel != "" {
		parts = append(parts, "by the channel "+w.Channel)
	}
	if w.Day != nil {
		parts = append(parts, map[bool]string{true: "of a day", false: "with a time"}[*w.Day])
	}
	return "for values " + strings.Join(parts, ", ")
}

// lines compares the sample, the rule and the stored Observation.
func lines(k *ingest.Kept, t *mapping.Trace, side *Sample, stored *observation, zone *time.Location) []Line {
	s := &k.Sample
	rule := "row " + t.Row.Metric + " of pack " + side.Pack + " " + side.Version
	if side.Variant != "" {
		rule += ", " + side.Variant
	}
	out := []Line{{"Metric", join(s.Metric, labeled("channel ", s.Channel), labeled("format ", k.Format)), rule,
		stored.Code.Text}}
	for _, c := range t.Codes {
		out = append(out, Line{"Code", "", why[c.Why], c.Display + " (" + c.System + " " + c.Code + ")"})
	}
	for i := range t.Values {
		v := &t.Values[i]
		line := Line{Part: cmp.Or(v.Display, v.Component, "Value"), Sent: sent(&v.Sent), Rule: valueRule(v, t),
			Written: stored.value(v, t.Row.Metric)}
		out = append(out, line)
	}
	out = append(out, Line{"Time", sentTime(s), timeRule(s, t, k.Zone, zone), stored.when()},
		Line{"Device", device(s), deviceRule(s, stored), stored.Device.Reference},
		Line{"Id", cmp.Or(labeled("vendor's id ", s.VendorID), "none"), idRules[t.Identity], stored.ID},
		Line{"Status", statuses[s.Status], statusRule(s, stored.Status), stored.Status})
	if s.UserEntered {
		out = append(out, Line{"Performer", "entered by a person", "the patient is the performer",
			stored.performer()})
	}
	if stored.Method.Text != "" {
		from := "the vendor's text"
		if s.Method == "" {
			from = "the method of the row"
		}
		out = append(out, Line{"Method", s.Method, from, stored.Method.Text})
	}
	if s.Note != "" {
		out = append(out, Line{"Note", s.Note, "the vendor's text", stored.note()})
	}
	return out
}

var why = map[string]string{
	mapping.CodeSure:     "sources support this code",
	mapping.CodeDoubtful: "sources support this code doubtfully; doubtful codes are switched on",
	mapping.CodeVendor:   "the vendor's own code",
} // read only

var idRules = map[string]string{
	mapping.ByVendorID:   "derived from the vendor's id",
	mapping.ByNaturalKey: "derived from metric, time, source and device, because the vendor states no id",
	mapping.ByStream:     "derived from the stream (metric, source, device) and the time",
} // read only

var statuses = map[sample.Status]string{sample.Final: "final", sample.Preliminary: "may still change",
	sample.Retracted: "deleted by the vendor"} // read only

func statusRule(s *sample.Sample, stored string) string {
	switch {
	case stored == "amended":
		return "amended, because it has changed since it was final"
	case stored == "entered-in-error" && s.Status != sample.Retracted:
		return "retracted later"
	}
	return ""
}

func join(parts ...string) string {
	var out []string
	for _, p := range parts {
		if p != "" {
			out = append(out, p)
		}
	}
	return strings.Join(out, ", ")
}

func labeled(label, text string) string {
	if text == "" {
		return ""
	}
	return label + text
}

// valueRule says how a value is mapped.
func valueRule(v *mapping.ValueFact, t *mapping.Trace) string {
	var parts []string
	for i := range v.Numbers {
		parts = append(parts, equation(&v.Numbers[i]))
	}
	switch v.Sent.Kind {
	case sample.Code, sample.Text:
		parts = append(parts, "the code or text of the vendor")
	case sample.Boolean:
		parts = append(parts, "as sent")
	case sample.Series:
		if len(parts) > 0 {
			parts[0] = "factor " + parts[0]
		}
		parts = append(parts, "the points as sent")
	}
	if v.Component != "" {
		if len(v.Codes) == 0 {
			parts = append(parts, "a component that the row does not list keeps the vendor's name and unit")
		}
		for _, c := range v.Codes {
			if c.Why != mapping.CodeVendor {
				parts = append(parts, "code "+c.Code+" "+c.Display)
			}
		}
	}
	return strings.Join(parts, "; ")
}

// sent returns a value as the vendor sent it.
func sent(v *sample.Value) string {
	switch v.Kind {
	case sample.Number:
		return strings.TrimSpace(v.Num + " " + v.Unit)
	case sample.Interval:
		return strings.TrimSpace(v.Num + " to " + v.High + " " + v.Unit)
	case sample.Boolean:
		return map[bool]string{true: "true", false: "false"}[v.Bool]
	case sample.Series:
		if v.Series != nil {
			return series(v.Series.Data, v.Series.Period.Seconds(), v.Series.Unit)
		}
	}
	return v.Text
}

func sentTime(s *sample.Sample) string {
	if !s.Day.IsZero() {
		return time.Date(s.Day.Year, s.Day.Month, s.Day.Day, 0, 0, 0, 0, time.UTC).Format(time.DateOnly)
	}
	layout := time.RFC3339Nano
	switch s.Zone {
	case sample.ZoneFloating:
		layout = "2006-01-02T15:04:05.999999999"
	case sample.ZoneInstant:
		layout = time.RFC3339Nano
	}
	out := s.Start.Format(layout)
	if !s.End.IsZero() {
		out += " to " + s.End.Format(layout)
	}
	return join(out, labeled("zone ", s.IANA))
}

// timeRule says which offset is written.
func timeRule(s *sample.Sample, t *mapping.Trace, name string, zone *time.Location) string {
	rule := ""
	switch {
	case !s.Day.IsZero():
		return "a day of the wearer, which has no offset"
	case s.Zone == sample.ZoneStated:
		rule = "the vendor states the offset"
	case zone == nil && name != "":
		rule = "the patient's zone was " + name + ", which is not known any more"
	case s.Zone == sample.ZoneInstant && zone == nil:
		rule = "the vendor states only the instant, and the patient had no zone"
	case s.Zone == sample.ZoneInstant:
		rule = "the vendor states only the instant; written in the patient's zone " + name
	case zone == nil:
		rule = "the vendor states only the local time, and the patient had no zone"
	default:
		rule = "the vendor states only the local time; the offset is that of the patient's zone " + name
	}
	if t.Effective.Unsure {
		rule += "; marked, because the local time may not be the wearer's"
	}
	return rule
}

func device(s *sample.Sample) string {
	d := &s.Device
	return join(d.Name, d.Manufacturer, cmp.Or(d.Model, d.Hardware), labeled("serial number ", d.Serial),
		labeled("software ", d.Software), labeled("firmware ", d.Firmware), labeled("source ", s.Source.Name))
}

func deviceRule(s *sample.Sample, stored *observation) string {
	d := &s.Device
	switch {
	case stored.Device.Reference == "":
		return "no device and no source is named"
	case d.Serial != "":
		return "identified by the serial number"
	case d.Model != "" || d.Hardware != "":
		return "identified by manufacturer and model"
	case d.Name != "":
		return "identified by its name"
	case s.Source.Name != "":
		return "the source stands for the device"
	}
	return "kept from another statement of the measurement"
}
