package fitbit

import (
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// missing returns a rejection with the reason ReasonMissing.
func missing(rule string) *rejection { return &rejection{sample.ReasonMissing, rule} }

// variability emits RMSSD and SDNN as separate samples because they are
// different measures.
func variability(p *point) (*rejection, error) {
	found := false
	for _, m := range []struct{ metric, member string }{
		{"heart-rate-variability.rmssd", "rootMeanSquareOfSuccessiveDifferencesMilliseconds"},
		{"heart-rate-variability.sdnn", "standardDeviationMilliseconds"},
	} {
		v, state := p.body.Get(m.member).Decimal()
		if state == jsonitem.Absent {
			continue
		}
		found = true
		if state != jsonitem.Given || strings.HasPrefix(v, "-") {
			if err := p.dec.reject(sample.ReasonBadValue, m.metric, m.member+" is not a positive number",
				p.item); err != nil {
				return nil, err
			}
			continue
		}
		p.sample.Value = sample.Value{Kind: sample.Number, Num: v, Unit: "ms"}
		p.sample.Components = nil
		if m.metric == "heart-rate-variability.rmssd" {
			p.number("lowFrequencyPower", "ms2", "metadata", "lowFrequencyPower")
			p.number("highFrequencyPower", "ms2", "metadata", "highFrequencyPower")
		}
		if err := p.emitAs(m.metric); err != nil {
			return nil, err
		}
	}
	if !found {
		return missing("neither RMSSD nor standard deviation"), nil
	}
	return nil, nil
}

func heartRateZones(p *point) (*rejection, error) {
	if zones := p.body.Get("heartRateZones"); zones != nil {
		for i := range zones.List() {
			z := &zones.List()[i]
			name := enum(z.Get("heartRateZoneType"))
			low, ok1 := number(z, "minBeatsPerMinute")
			high, ok2 := number(z, "maxBeatsPerMinute")
			if name != "" && ok1 && ok2 {
				p.add(name, sample.Value{Kind: sample.Interval, Num: low, High: high, Unit: "bpm"})
			}
		}
	}
	if len(p.sample.Components) == 0 {
		return missing("no heart rate zone with both bounds"), nil
	}
	return nil, p.emit()
}

func respiratorySummary(p *point) (*rejection, error) {
	const unit = "breaths/min"
	if v, ok := number(p.body, "fullSleepStats", "breathsPerMinute"); ok && jsonitem.Float(v) > 0 {
		p.sample.Value = sample.Value{Kind: sample.Number, Num: v, Unit: unit}
		p.number("standardDeviation", unit, "fullSleepStats", "standardDeviation")
		p.number("signalToNoise", "", "fullSleepStats", "signalToNoise")
	}
	for _, s := range []string{"deepSleepStats", "lightSleepStats", "remSleepStats"} {
		if v, ok := number(p.body, s, "breathsPerMinute"); ok && jsonitem.Float(v) > 0 {
			p.add(s, sample.Value{Kind: sample.Number, Num: v, Unit: unit})
		}
	}
	if p.sample.Value.Kind == sample.None && len(p.sample.Components) == 0 {
		p.drop()
		return nil, nil
	}
	return nil, p.emit()
}

// nightTemperature adds the deviation from the baseline, which Google does not
// send.
func nightTemperature(p *point) (*rejection, error) {
	if bad, done := p.value(); bad != nil || done {
		return bad, nil
	}
	p.specComponents()
	if base, ok := number(p.body, "baselineTemperatureCelsius"); ok {
		if dev, ok := jsonitem.Subtract(p.sample.Value.Num, base); ok {
			p.add("deviation", sample.Value{Kind: sample.Number, Num: dev, Unit: "K"})
		}
	}
	return nil, p.emit()
}

// bodyTemperature uses the metric skin-temperature for measurements on the
// skin.
func bodyTemperature(p *point) (*rejection, error) {
	if bad, done := p.value(); bad != nil || done {
		return bad, nil
	}
	p.specComponents()
	switch p.body.Get("measurementLocation").String() {
	case "WRIST", "FINGER", "TOE":
		p.sample.Metric = "skin-temperature"
	}
	return nil, p.emit()
}

func dailyVO2(p *point) (*rejection, error) {
	if bad, done := p.value(); bad != nil || done {
		return bad, nil
	}
	p.specComponents()
	if e := p.body.Get("estimated"); e.IsBool() {
		p.add("estimated", sample.Value{Kind: sample.Boolean, Bool: e.IsTrue()})
		if e.IsTrue() {
			p.sample.Method = "estimated"
		}
	}
	return nil, p.emit()
}

// zoneMinutes makes the zone part of the metric, because two zones may share a
// minute.
func zoneMinutes(p *point) (*rejection, error) {
	zone := enum(p.body.Get("heartRateZone"))
	if zone == "" {
		return missing("heartRateZone is required"), nil
	}
	if bad, done := p.value(); bad != nil || done {
		return bad, nil
	}
	p.sample.Metric += "." + strings.ToLower(strings.ReplaceAll(zone, "_", "-"))
	return nil, p.emit()
}

func activeMinutes(p *point) (*rejection, error) {
	p.levels("activeMinutesByActivityLevel", "activityLevel", "activeMinutes", "min")
	if len(p.sample.Components) == 0 {
		return missing("no activity level"), nil
	}
	return nil, p.emit()
}

// levels adds a component for each entry of a list of enum and amount. proto3
// omits an amount of zero.
func (p *point) levels(list, name, amount, unit string) {
	l := p.body.Get(list)
	if l == nil {
		return
	}
	for i := range l.List() {
		e := &l.List()[i]
		key := enum(e.Get(name))
		if key == "" {
			continue
		}
		if unit == "s" && e.Get(amount) != nil {
			p.duration(key, e.Get(amount))
			continue
		}
		if _, state := e.Get(amount).Decimal(); state == jsonitem.Absent {
			p.add(key, sample.Value{Kind: sample.Number, Num: "0", Unit: unit})
			continue
		}
		p.numberOf(key, unit, e.Get(amount))
	}
}

// sedentary emits the length of the period.
func sedentary(p *point) (*rejection, error) {
	p.sample.Value = sample.Value{Kind: sample.Number, Num: decimal(p.sample.End.Sub(p.sample.Start).Seconds()),
		Unit: "s"}
	return nil, p.emit()
}

func decimal(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// glucose makes the specimen part of the metric, because the codes of FHIR
// differ by specimen.
func glucose(p *point) (*rejection, error) {
	if bad, done := p.value(); bad != nil || done {
		return bad, nil
	}
	p.specComponents()
	specimen, ok := map[string]string{
		"INTERSTITIAL_FLUID": "interstitial", "CAPILLARY_BLOOD": "capillary", "WHOLE_BLOOD": "whole-blood",
		"PLASMA": "plasma", "SERUM": "serum", "TEARS": "tears",
	}[p.body.Get("specimen").String()]
	if !ok {
		switch p.body.Get("measurementSource").String() {
		case "CONTINUOUS_GLUCOSE_MONITORING":
			specimen = "interstitial"
		case "SELF_MONITORING_BLOOD_GLUCOSE":
			specimen = "capillary"
		default:
			specimen = "unspecified"
		}
	}
	p.sample.Metric += "." + specimen
	return nil, p.emit()
}

func hydration(p *point) (*rejection, error) {
	v, ok := number(p.body, "amountConsumed", "milliliters")
	if !ok || strings.HasPrefix(v, "-") {
		return missing("amountConsumed.milliliters is required"), nil
	}
	p.sample.Value = sample.Value{Kind: sample.Number, Num: v, Unit: "mL"}
	return nil, p.emit()
}

// exercise leaves out displayName, notes and route because they are localized
// or private.
func exercise(p *point) (*rejection, error) {
	exerciseType := enum(p.body.Get("exerciseType"))
	if exerciseType == "" {
		return missing("exerciseType is required"), nil
	}
	p.sample.Value = sample.Value{Kind: sample.Code, Text: exerciseType}
	p.duration("activeDuration", p.body.Get("activeDuration"))
	for _, m := range []struct{ name, unit string }{
		{"caloriesKcal", "kcal"}, {"distanceMillimeters", "mm"}, {"steps", "count"},
		{"averageHeartRateBeatsPerMinute", "bpm"}, {"activeZoneMinutes", "min"},
		{"averagePaceSecondsPerMeter", "s/m"}, {"averageSpeedMillimetersPerSecond", "mm/s"},
		{"elevationGainMillimeters", "mm"}, {"runVo2Max", "mL/kg/min"},
	} {
		p.number(m.name, m.unit, "metricsSummary", m.name)
	}
	// An example in Google's documentation has this misspelling.
	p.number("distanceMillimeters", "mm", "metricsSummary", "distanceMillimiters")
	for _, z := range []string{"lightTime", "moderateTime", "vigorousTime", "peakTime"} {
		p.duration(z, p.body.Get("metricsSummary", "heartRateZoneDurations", z))
	}
	if p.sample.End.IsZero() {
		p.exerciseEnd()
	}
	return nil, p.emit()
}

// exerciseEnd computes the end of an exercise without an endTime from its
// active duration. Without a duration the exercise may be in progress and is
// preliminary.
func (p *point) exerciseEnd() {
	if s, ok := seconds(p.body.Get("activeDuration")); ok {
		if f := jsonitem.Float(s); f > 0 && f < 10*86400 {
			p.sample.End = p.sample.Start.Add(time.Duration(f * float64(time.Second)))
			return
		}
	}
	p.sample.Status = sample.Preliminary
}

// medicalDevice sets the device from medicalDeviceInfo.
func (p *point) medicalDevice() {
	info := p.body.Get("medicalDeviceInfo")
	model := info.Get("deviceModel").String()
	if model == "" {
		return
	}
	software := info.Get("featureVersion").String()
	if software == "" {
		software = info.Get("algorithmVersion").String()
	}
	p.sample.Device = sample.Device{
		Name: model, Model: model, Manufacturer: "Fitbit",
		Firmware: info.Get("firmwareVersion").String(), Software: software,
	}
}

// maxWave is the limit for the samples of an ECG: ten minutes at 250 Hz. A
// recording has 30 s.
const maxWave = 150_000

// electrocardiogram emits the waveform as a Series.
func electrocardiogram(p *point) (*rejection, error) {
	class := enum(p.body.Get("resultClassification"))
	if class == "UNREADABLE" {
		p.drop()
		return nil, nil
	}
	hertz, ok1 := number(p.body, "samplingFrequencyHertz")
	scale, ok2 := number(p.body, "millivoltsScalingFactor")
	wave := p.body.Get("waveformSamples")
	hz, factor := jsonitem.Float(hertz), jsonitem.Float(scale)
	if !ok1 || !ok2 || wave == nil || len(wave.List()) == 0 {
		return missing("samplingFrequencyHertz, millivoltsScalingFactor and waveformSamples are required"), nil
	}
	if hz < 1 || hz > 100_000 || factor < 1e-3 || factor > 1e9 || len(wave.List()) > maxWave {
		return &rejection{sample.ReasonBadValue,
			"sampling frequency, scale or length of the recording is out of range"}, nil
	}
	var data strings.Builder
	for i := range wave.List() {
		v, ok := number(&wave.List()[i])
		if !ok {
			v = "E"
		}
		if i > 0 {
			data.WriteByte(' ')
		}
		data.WriteString(v)
	}
	// The samples and their rate determine the duration, even if an end is stated.
	p.sample.End = p.sample.Start.Add(time.Duration(
		float64(len(wave.List())) / hz * float64(time.Second)).Round(time.Millisecond))
	p.medicalDevice()
	p.sample.Value = sample.Value{Kind: sample.Series, Unit: "mV", Series: &sample.SeriesData{
		Period: time.Duration(1e9 / hz), Unit: "mV",
		Factor: strconv.FormatFloat(1/factor, 'f', 16, 64), Data: data.String(),
	}}
	p.code("resultClassification", "resultClassification")
	p.number("beatsPerMinuteAvg", "bpm", "beatsPerMinuteAvg")
	p.number("leadNumber", "", "leadNumber")
	p.number("samplingFrequencyHertz", "Hz", "samplingFrequencyHertz")
	return nil, p.emit()
}

// irregularRhythm counts the windows. proto3 omits a false "positive".
func irregularRhythm(p *point) (*rejection, error) {
	positive, windows := 0, 0
	if w := p.body.Get("alertWindows"); w != nil {
		windows = len(w.List())
		for i := range w.List() {
			if w.List()[i].Get("positive").IsTrue() {
				positive++
			}
		}
	}
	p.medicalDevice()
	p.add("positiveWindows", sample.Value{Kind: sample.Number, Num: strconv.Itoa(positive), Unit: "count"})
	p.add("windows", sample.Value{Kind: sample.Number, Num: strconv.Itoa(windows), Unit: "count"})
	return nil, p.emit()
}
