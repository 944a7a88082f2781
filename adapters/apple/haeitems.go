package apple

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/valyala/fastjson"

	"pulsegate/mapping/sample"
)

// maxHeld rows are looked at to see whether a metric is aggregated by day.
const maxHeld = 1000

func (h *haeDecoder) metric() error {
	r := &rows{h: h}
	var late []byte // data that came before name and units
	named, united := false, false
	err := h.object(func(key string) error {
		switch key {
		case "name", "units":
			v, err := h.value()
			if err != nil {
				return err
			}
			s, err := jsontext.AppendUnquote(nil, v)
			if err != nil {
				s = nil // null or no string: as if absent
			}
			if key == "name" {
				r.name, named = h.names.get(s), true
			} else {
				r.units, united = h.names.get(s), true
			}
			return nil
		case "data":
			if named && united {
				return h.array(func() error { return h.item(r.metric(), r.row) })
			}
			v, err := h.value()
			late = bytes.Clone(v)
			return err
		}
		return h.skip()
	})
	if err != nil {
		return err
	}
	if late != nil {
		if err := r.late(late); err != nil {
			return err
		}
	}
	return r.end()
}

// late reads rows that were kept until the metric's name was known.
func (r *rows) late(b []byte) error {
	var p fastjson.Parser
	v, err := p.ParseBytes(b)
	if err != nil || v.Type() != fastjson.TypeArray {
		return nil // null, or no list: no rows
	}
	for _, x := range v.GetArray() {
		if err := r.h.parsed(r.metric(), x.MarshalTo(nil), r.row); err != nil {
			return err
		}
	}
	return nil
}

// metric is the name if it looks like one; others are never repeated.
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

func (r *rows) row(v *fastjson.Value) error {
	if r.metric() == "" {
		return &badItem{sample.ReasonUnmapped, "the metric has no name in snake_case"}
	}
	h := r.h
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
		return &badItem{sample.ReasonMissing, "no value"}
	}
	r.average(s)
	return r.put(s)
}

// span fills Start and End; the start may also be named startDate or start.
func (h *haeDecoder) span(s *sample.Sample, v *fastjson.Value, start, end string) error {
	var ok bool
	var err error
	for _, key := range []string{start, "startDate", "start"} {
		if s.Start, ok, err = h.when(v, key); ok || err != nil {
			break
		}
	}
	if err != nil {
		return err
	}
	if !ok {
		return &badItem{sample.ReasonMissing, "no date"}
	}
	for _, key := range []string{end, "end"} {
		if s.End, ok, err = h.when(v, key); ok || err != nil {
			break
		}
	}
	switch {
	case err != nil:
		return err
	case !ok || s.End.Equal(s.Start):
		s.End = time.Time{}
	case s.End.Before(s.Start):
		return &badItem{sample.ReasonBadTime, "the end is before the start"}
	}
	return nil
}

// haeNumbers are the members of a row that are numbers, and the components
// that they become.
var haeNumbers = [][2]string{
	{"systolic", "systolic"}, {"diastolic", "diastolic"},
	{"Unspecified", "unspecified"}, {"Protection Used", "protectionUsed"}, {"Protection Not Used", "protectionNotUsed"},
}

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
		n, err := r.h.part(v, s.Metric, key, name)
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
		return &badItem{sample.ReasonMissing, "no value"}
	}
	if err := h.span(s, v, "startDate", "endDate"); err != nil {
		return err
	}
	return h.sink.Sample(s)
}

// sleepNight reads an aggregated night. "asleep" is sleep without a stage
// where stages are given, the whole sleep in old versions.
func (h *haeDecoder) sleepNight(v *fastjson.Value, units string) error {
	source := str(v, "source")
	if source == "" {
		source = str(v, "sleepSource")
	}
	s := &sample.Sample{Metric: "night", Channel: channelHAE, Source: sample.Source{Name: source}}
	for _, keys := range [][2]string{{"sleepStart", "sleepEnd"}, {"inBedStart", "inBedEnd"}} {
		var x sample.Sample
		if v.Get(keys[0]) == nil || v.Get(keys[0]).Type() == fastjson.TypeNull {
			continue
		}
		if err := h.span(&x, v, keys[0], keys[1]); err != nil {
			return err
		}
		if x.End.IsZero() {
			x.End = x.Start
		}
		if s.Start.IsZero() || x.Start.Before(s.Start) {
			s.Start = x.Start
		}
		if x.End.After(s.End) {
			s.End = x.End
		}
	}
	if s.Start.IsZero() {
		return &badItem{sample.ReasonMissing, "no sleepStart"}
	}
	if err := h.nightParts(s, v, units); err != nil {
		return err
	}
	if s.Value.Kind == sample.None && len(s.Components) == 0 {
		h.sink.Drop(sample.DropPlaceholder, s.Metric, 1)
		return nil
	}
	s.VendorID = "night/" + short(source) + "/" + s.End.Format(time.DateOnly) + "/h" + s.Start.Format("15")
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
		return &badItem{sample.ReasonMissing, "no samplingFrequency"}
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
			return &badItem{sample.ReasonBadUnit,
				"a voltage without a value, or in another unit than microvolt or millivolt"}
		}
		unit = u
		if i > 0 {
			data = append(data, ' ')
		}
		data = append(data, n...)
	}
	if len(data) == 0 {
		return &badItem{sample.ReasonMissing, "no voltages"}
	}
	s.Value = sample.Value{Kind: sample.Series, Series: &sample.SeriesData{
		Period: time.Duration(math.Round(float64(time.Second) / rate)), Unit: unit, Data: string(data),
	}}
	addText(s, "classification", str(v, "classification"))
	addText(s, "severity", str(v, "severity"))
	if s.End.IsZero() { // as long as its voltages
		s.End = s.Start.Add(time.Duration(len(v.GetArray("voltageMeasurements"))) * s.Value.Series.Period)
	}
	bpm, err := h.part(v, s.Metric, "averageHeartRate", "averageHeartRate")
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
	threshold, err := h.part(v, s.Metric, "threshold", "threshold")
	if err != nil {
		return err
	}
	if threshold != "" {
		s.Components = append(s.Components, sample.Component{Name: "threshold", Value: number(threshold, "count/min")})
	}
	var low, high span
	unit := ""
	for _, x := range v.GetArray("heartRate") {
		n, err := h.part(x, s.Metric, "hr", "heartRate")
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

// span keeps the smallest or largest number as it was written.
type span struct {
	text string
	f    float64
}

func (s *span) min(n string) { s.keep(n, func(f float64) bool { return f < s.f }) }
func (s *span) max(n string) { s.keep(n, func(f float64) bool { return f > s.f }) }

func (s *span) keep(n string, better func(float64) bool) {
	f, err := strconv.ParseFloat(n, 64)
	if err == nil && (s.text == "" || better(f)) {
		s.text, s.f = n, f
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
	addCode(s, "kind", str(v, "kind"))
	for _, key := range []string{"labels", "associations"} {
		var words []string
		for _, x := range v.GetArray(key) {
			words = append(words, string(x.GetStringBytes()))
		}
		addText(s, key, strings.Join(words, ", "))
	}
	class, err := h.part(v, s.Metric, "valenceClassification", "valenceClassification")
	if err != nil {
		return err
	}
	if class != "" {
		s.Components = append(s.Components, sample.Component{Name: "valenceClassification", Value: number(class, "")})
	}
	return h.sink.Sample(s)
}

func (h *haeDecoder) symptom(v *fastjson.Value) error {
	return h.named(v, "symptom", "name", func(s *sample.Sample) { addCode(s, "severity", str(v, "severity")) })
}

func (h *haeDecoder) cycle(v *fastjson.Value) error {
	return h.named(v, "cycleTracking", "name", func(s *sample.Sample) { addCode(s, "value", str(v, "value")) })
}

func (h *haeDecoder) medication(v *fastjson.Value) error {
	return h.named(v, "medication", "displayText", func(s *sample.Sample) {
		s.Value.Kind = sample.Text
		addCode(s, "status", str(v, "status"))
		addCode(s, "form", str(v, "form"))
		addText(s, "dosage", str(v, "dosage"))
	})
}

// named reads an item whose value is a name.
func (h *haeDecoder) named(v *fastjson.Value, metric, key string, more func(*sample.Sample)) error {
	s := &sample.Sample{
		Metric: metric, Channel: channelHAE, Source: sample.Source{Name: h.names.get(v.GetStringBytes("source"))},
		UserEntered: v.GetBool("userEntered"), Value: code(str(v, key)),
	}
	if s.Value.Text == "" {
		return &badItem{sample.ReasonMissing, "no " + key}
	}
	// Two symptoms may begin at one instant.
	s.KeyValue = true
	if err := h.span(s, v, "date", "end"); err != nil {
		return err
	}
	more(s)
	return h.sink.Sample(s)
}
