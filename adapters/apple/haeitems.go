package apple

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/valyala/fastjson"

	"pulsegate/mapping/sample"
)

// maxPending is the number of midnight rows after which a metric counts as
// aggregated by day.
const maxPending = 1000

// metric reads one metric: its name, its units and its rows.
func (h *haeDecoder) metric() error {
	r := &rows{decoder: h}
	var early []byte // rows that precede the name or the units
	hasName, hasUnits := false, false
	err := h.object(func(key string) error {
		switch key {
		case "name", "units":
			v, err := h.value()
			if err != nil {
				return err
			}
			s, err := jsontext.AppendUnquote(nil, v)
			if err != nil {
				s = nil // a value that is not a string counts as absent
			}
			if key == "name" {
				r.name, hasName = h.names.get(s), true
			} else {
				r.units, hasUnits = h.names.get(s), true
			}
			return nil
		case "data":
			if hasName && hasUnits {
				return h.listOf(key, func() error { return h.item(r.metric(), r.row) })
			}
			v, err := h.value()
			early = bytes.Clone(v)
			return err
		}
		return h.skip()
	})
	if err != nil {
		return err
	}
	if early != nil {
		if err := r.early(early); err != nil {
			return err
		}
	}
	return r.end()
}

// early reads the rows that preceded the name or the units of their metric.
func (r *rows) early(b []byte) error {
	var p fastjson.Parser
	v, err := p.ParseBytes(b)
	if err != nil || v.Type() != fastjson.TypeArray {
		if err == nil && v.Type() == fastjson.TypeNull {
			return nil
		}
		return r.decoder.reject(sample.ReasonBadValue, r.metric(), "data is not a list", nil)
	}
	for _, x := range v.GetArray() {
		if err := r.decoder.parsed(r.metric(), x.MarshalTo(nil), r.row); err != nil {
			return err
		}
	}
	return nil
}

// metric returns the name of the metric if it is in snake_case, and "" otherwise:
// other texts are never copied from a payload.
func (r *rows) metric() string {
	if n := len(r.name); n == 0 || n > 64 {
		return ""
	}
	for _, c := range r.name {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return ""
		}
	}
	return r.name
}

// row reads one row of the metric.
func (r *rows) row(v *fastjson.Value) error {
	if r.metric() == "" {
		return &itemError{sample.ReasonUnmapped, "the metric has no name in snake_case"}
	}
	h := r.decoder
	if r.name == "sleep_analysis" {
		if v.Exists("value") {
			return h.sleepSegment(v)
		}
		return h.sleepNight(v, r.units)
	}
	s := &sample.Sample{Metric: r.name, Channel: channelHAE,
		Source: sample.Source{Name: h.names.get(v.GetStringBytes("source"))}}
	if err := h.span(s, v, "date", "endDate"); err != nil {
		return err
	}
	if err := r.values(s, v); err != nil {
		return err
	}
	if s.Value.Kind == sample.None && len(s.Components) == 0 {
		return &itemError{sample.ReasonMissing, "no value"}
	}
	r.markMean(s)
	return r.put(s)
}

// span sets Start and End. The start may also be named startDate or start, the end
// may also be named end.
func (h *haeDecoder) span(s *sample.Sample, v *fastjson.Value, start, end string) error {
	var ok bool
	var err error
	for _, key := range []string{start, "startDate", "start"} {
		if s.Start, ok, err = h.date(v, key); ok || err != nil {
			break
		}
	}
	if err != nil {
		return err
	}
	if !ok {
		return &itemError{sample.ReasonMissing, "no date"}
	}
	for _, key := range []string{end, "end"} {
		if s.End, ok, err = h.date(v, key); ok || err != nil {
			break
		}
	}
	switch {
	case err != nil:
		return err
	case !ok || s.End.Equal(s.Start):
		s.End = time.Time{}
	case s.End.Before(s.Start):
		return &itemError{sample.ReasonBadTime, "the end is before the start"}
	}
	return nil
}

// haeNumbers lists the number members of a row with the names of their
// components.
var haeNumbers = [][2]string{
	{"systolic", "systolic"}, {"diastolic", "diastolic"},
	{"Unspecified", "unspecified"}, {"Protection Used", "protectionUsed"}, {"Protection Not Used", "protectionNotUsed"},
}

// values sets the value and the components of s from the members of a row.
func (r *rows) values(s *sample.Sample, v *fastjson.Value) error {
	for _, key := range []string{"qty", "Avg"} {
		n, err := num(v, key)
		if err != nil {
			return err
		}
		if n != "" {
			s.Value = number(n, r.units)
		}
	}
	add := func(key, name string) error {
		n, err := r.decoder.componentNumber(v, s.Metric, key, name)
		if err == nil && n != "" && n != s.Value.Num {
			s.Components = append(s.Components, sample.Component{Name: name, Value: number(n, r.units)})
		}
		return err
	}
	for _, k := range [][2]string{{"Min", "min"}, {"Max", "max"}} {
		if err := add(k[0], k[1]); err != nil {
			return err
		}
	}
	for _, k := range haeNumbers {
		if err := add(k[0], k[1]); err != nil {
			return err
		}
	}
	for _, key := range []string{"mealTime", "reason", "value", "context", "motionContext"} {
		addCode(s, key, str(v, key))
	}
	return nil
}

func addCode(s *sample.Sample, name, v string) {
	if v != "" {
		s.Components = append(s.Components, sample.Component{Name: name, Value: code(v)})
	}
}

func addText(s *sample.Sample, name, v string) {
	if v != "" {
		s.Components = append(s.Components, sample.Component{Name: name, Value: text(v)})
	}
}

func (h *haeDecoder) sleepSegment(v *fastjson.Value) error {
	s := &sample.Sample{
		Metric: "sleep_analysis", Channel: channelHAE,
		Source: sample.Source{Name: h.names.get(v.GetStringBytes("source"))},
		Value:  code(str(v, "value")),
	}
	if s.Value.Text == "" {
		return &itemError{sample.ReasonMissing, "no value"}
	}
	if err := h.span(s, v, "startDate", "endDate"); err != nil {
		return err
	}
	return h.sink.Sample(s)
}

// sleepNight reads an aggregated night. nightParts describes its members.
func (h *haeDecoder) sleepNight(v *fastjson.Value, units string) error {
	source := str(v, "source")
	if source == "" {
		source = str(v, "sleepSource")
	}
	s := &sample.Sample{Metric: "night", Channel: channelHAE, Source: sample.Source{Name: source}}
	for _, keys := range [][2]string{{"sleepStart", "sleepEnd"}, {"inBedStart", "inBedEnd"}} {
		var period sample.Sample
		if v.Get(keys[0]) == nil || v.Get(keys[0]).Type() == fastjson.TypeNull {
			continue
		}
		if err := h.span(&period, v, keys[0], keys[1]); err != nil {
			return err
		}
		if period.End.IsZero() {
			period.End = period.Start
		}
		if s.Start.IsZero() || period.Start.Before(s.Start) {
			s.Start = period.Start
		}
		if period.End.After(s.End) {
			s.End = period.End
		}
	}
	if s.Start.IsZero() {
		return &itemError{sample.ReasonMissing, "no sleepStart"}
	}
	if err := h.nightParts(s, v, units); err != nil {
		return err
	}
	if s.Value.Kind == sample.None && len(s.Components) == 0 {
		h.sink.Drop(sample.DropPlaceholder, s.Metric, 1)
		return nil
	}
	s.VendorID = "night/" + hashName(source) + "/" + s.End.Format(time.DateOnly) + "/h" + s.Start.Format("15")
	return h.sink.Sample(s)
}

func (h *haeDecoder) ecg(v *fastjson.Value) error {
	s := &sample.Sample{Metric: metricECG, Channel: channelHAE,
		Source: sample.Source{Name: h.names.get(v.GetStringBytes("source"))}}
	if err := h.span(s, v, "start", "end"); err != nil {
		return err
	}
	freq, err := num(v, "samplingFrequency")
	if err != nil {
		return err
	}
	rate, _ := sampleRate(freq)
	if rate == 0 {
		return &itemError{sample.ReasonMissing, "no samplingFrequency"}
	}
	var data []byte
	unit := ""
	for i, m := range v.GetArray("voltageMeasurements") {
		n, err := num(m, "voltage")
		if err != nil {
			return err
		}
		u, ok := ecgUnit(str(m, "units"))
		if n == "" || !ok || i > 0 && u != unit {
			return &itemError{sample.ReasonBadUnit,
				"a voltage without a value, or in another unit than microvolt or millivolt"}
		}
		unit = u
		if i > 0 {
			data = append(data, ' ')
		}
		data = append(data, n...)
	}
	if len(data) == 0 {
		return &itemError{sample.ReasonMissing, "no voltages"}
	}
	s.Value = sample.Value{Kind: sample.Series, Series: &sample.SeriesData{
		Period: periodOf(rate), Unit: unit, Data: string(data),
	}}
	addText(s, "classification", str(v, "classification"))
	addText(s, "severity", str(v, "severity"))
	if s.End.IsZero() { // the voltages and their rate determine the duration
		s.End = s.Start.Add(time.Duration(len(v.GetArray("voltageMeasurements"))) * s.Value.Series.Period)
	}
	bpm, err := h.componentNumber(v, s.Metric, "averageHeartRate", "averageHeartRate")
	if err != nil {
		return err
	}
	if bpm != "" {
		s.Components = append(s.Components, sample.Component{Name: "averageHeartRate", Value: number(bpm, "count/min")})
	}
	s.Components = append(s.Components, sample.Component{Name: "samplingFrequency", Value: number(freq, "Hz")})
	return h.sink.Sample(s)
}

func (h *haeDecoder) notification(v *fastjson.Value) error {
	s := &sample.Sample{Metric: "heartRateNotification", Channel: channelHAE,
		Source: sample.Source{Name: h.names.get(v.GetStringBytes("source"))}}
	if err := h.span(s, v, "start", "end"); err != nil {
		return err
	}
	threshold, err := h.componentNumber(v, s.Metric, "threshold", "threshold")
	if err != nil {
		return err
	}
	if threshold != "" {
		s.Components = append(s.Components, sample.Component{Name: "threshold", Value: number(threshold, "count/min")})
	}
	var low, high extreme
	unit := ""
	for _, x := range v.GetArray("heartRate") {
		n, err := h.componentNumber(x, s.Metric, "hr", "heartRate")
		if err != nil {
			return err
		}
		low.min(n)
		high.max(n)
		unit = str(x, "units")
	}
	if low.text != "" {
		s.Components = append(s.Components, sample.Component{
			Name: "heartRate", Value: sample.Value{Kind: sample.Interval, Num: low.text, High: high.text, Unit: unit},
		})
	}
	return h.sink.Sample(s)
}

// extreme keeps the smallest or the largest of several numbers as it was written.
type extreme struct {
	text  string
	value float64
}

func (e *extreme) min(n string) { e.keep(n, func(f float64) bool { return f < e.value }) }
func (e *extreme) max(n string) { e.keep(n, func(f float64) bool { return f > e.value }) }

func (e *extreme) keep(n string, better func(float64) bool) {
	f, err := strconv.ParseFloat(n, 64)
	if err == nil && (e.text == "" || better(f)) {
		e.text, e.value = n, f
	}
}

func (h *haeDecoder) stateOfMind(v *fastjson.Value) error {
	s := &sample.Sample{Metric: "stateOfMind", Channel: channelHAE, VendorID: str(v, "id")}
	if err := h.span(s, v, "start", "end"); err != nil {
		return err
	}
	valence, err := num(v, "valence")
	if err != nil {
		return err
	}
	if valence != "" {
		s.Value = number(valence, "")
	}
	addCode(s, "kind", mindKind(str(v, "kind")))
	for _, key := range []string{"labels", "associations"} {
		var words []string
		for _, x := range v.GetArray(key) {
			words = append(words, string(x.GetStringBytes()))
		}
		addText(s, key, strings.Join(words, ", "))
	}
	class, err := h.componentNumber(v, s.Metric, "valenceClassification", "valenceClassification")
	if err != nil {
		return err
	}
	if class != "" {
		s.Components = append(s.Components, sample.Component{Name: "valenceClassification", Value: number(class, "")})
	}
	return h.sink.Sample(s)
}

func (h *haeDecoder) symptom(v *fastjson.Value) error { return h.experience(v, "symptom", "severity") }

func (h *haeDecoder) cycle(v *fastjson.Value) error { return h.experience(v, "cycleTracking", "value") }

// experience reads a symptom or an event of the cycle. If its name and value are
// those of a category of HealthKit, it is a sample of that category, as in the other
// channels; else the name is a value of the metric other.
func (h *haeDecoder) experience(v *fastjson.Value, other, member string) error {
	word := str(v, member)
	metric := categoryNamed(str(v, "name"))
	value, ok := categoryValueNamed(metric, word)
	if metric == "" || !ok && (word != "" || enumOf[metric[len(prefixCategory):]] != "") {
		return h.namedItem(v, other, "name", func(s *sample.Sample) { addCode(s, member, word) })
	}
	return h.namedItem(v, metric, "name", func(s *sample.Sample) {
		s.KeyValue = false
		if s.Value = code(value); value == "" {
			s.Value = sample.Value{}
		}
	})
}

func (h *haeDecoder) medication(v *fastjson.Value) error {
	return h.namedItem(v, "medication", "displayText", func(s *sample.Sample) {
		s.Value.Kind = sample.Text
		addCode(s, "status", str(v, "status"))
		addCode(s, "form", str(v, "form"))
		addText(s, "dosage", str(v, "dosage"))
	})
}

// namedItem reads an item with a name as its value. The function more adds the
// other members.
func (h *haeDecoder) namedItem(v *fastjson.Value, metric, key string, more func(*sample.Sample)) error {
	s := &sample.Sample{
		Metric: metric, Channel: channelHAE, Source: sample.Source{Name: h.names.get(v.GetStringBytes("source"))},
		UserEntered: v.GetBool("userEntered"), Value: code(str(v, key)),
	}
	if s.Value.Text == "" {
		return &itemError{sample.ReasonMissing, "no " + key}
	}
	// Two symptoms may begin at the same instant.
	s.KeyValue = true
	if err := h.span(s, v, "date", "end"); err != nil {
		return err
	}
	more(s)
	return h.sink.Sample(s)
}
