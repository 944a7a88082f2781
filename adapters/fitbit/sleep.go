package fitbit

import (
	"strings"
	"time"

	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// stageDigit maps the stages to their digits in the series.
var stageDigit = map[string]string{
	"DEEP": "1", "LIGHT": "2", "REM": "3", "AWAKE": "4", "ASLEEP": "5", "RESTLESS": "6",
}

// stage is one section of a night.
type stage struct {
	typ        string
	start, end time.Time
}

// maxStages is the limit for the epochs of a night: two days at 30 s.
const maxStages = 2 * 24 * 120

// sleep reads a night.
func sleep(p *point) (*rejection, error) {
	stages, ok := p.stages()
	if !ok {
		return &rejection{sample.ReasonBadTime, "a stage has no start and end"}, nil
	}
	if p.sample.End.IsZero() && len(stages) > 0 { // without an endTime the night may be in progress
		p.sample.End, p.sample.Status = stages[len(stages)-1].end, sample.Preliminary
	}
	if !p.sample.End.After(p.sample.Start) {
		return &rejection{sample.ReasonBadTime, "the night has no duration"}, nil
	}
	minutes := p.stageMinutes(stages)
	asleep, given := number(p.body, "summary", "minutesAsleep")
	if !given && len(minutes) > 0 {
		sum := 0.0
		for _, k := range []string{"DEEP", "LIGHT", "REM", "ASLEEP"} {
			sum += minutes[k]
		}
		asleep, given = decimal(sum), true
	}
	if given {
		p.sample.Value = sample.Value{Kind: sample.Number, Num: asleep, Unit: "min"}
	}
	for _, k := range []string{"DEEP", "LIGHT", "REM", "AWAKE", "RESTLESS"} {
		if m, ok := minutes[k]; ok {
			p.add(strings.ToLower(k), sample.Value{Kind: sample.Number, Num: decimal(m), Unit: "min"})
		}
	}
	p.number("awake", "min", "summary", "minutesAwake")
	for _, m := range []string{"minutesInSleepPeriod", "minutesToFallAsleep", "minutesAfterWakeUp"} {
		p.number(m, "min", "summary", m)
	}
	p.code("type", "type")
	meta := p.body.Get("metadata")
	if meta.Get("nap").IsTrue() {
		p.add("nap", sample.Value{Kind: sample.Boolean, Bool: true})
	}
	if meta != nil && !meta.Get("processed").IsTrue() {
		p.sample.Status = sample.Preliminary
	}
	if meta.Get("manuallyEdited").IsTrue() {
		p.sample.Method = "manuallyEdited"
	}
	if series := hypnogram(p.sample.Start, p.sample.End, stages); series != nil {
		p.add("stages", sample.Value{Kind: sample.Series, Series: series})
	}
	if p.sample.Value.Kind == sample.None && len(stages) == 0 {
		return missing("neither stages nor minutes asleep"), nil
	}
	return nil, p.emit()
}

// stages returns the stages of a night. ok is false if one lacks its times.
func (p *point) stages() ([]stage, bool) {
	list := p.body.Get("stages")
	if list == nil {
		return nil, true
	}
	out := make([]stage, 0, len(list.List()))
	for i := range list.List() {
		n := &list.List()[i]
		start, end, _, ok := period(n)
		if !ok {
			return nil, false
		}
		out = append(out, stage{n.Get("type").String(), start, end})
	}
	return out, true
}

// stageMinutes returns the minutes per stage of the summary, or the sums of the
// stages if there is no summary. Some summaries repeat a stage; the first entry
// counts.
func (p *point) stageMinutes(stages []stage) map[string]float64 {
	out := map[string]float64{}
	if list := p.body.Get("summary", "stagesSummary"); list != nil {
		for i := range list.List() {
			typ := list.List()[i].Get("type").String()
			if _, ok := out[typ]; ok {
				continue
			}
			v, state := list.List()[i].Get("minutes").Decimal()
			if state == jsonitem.Given || state == jsonitem.Absent {
				out[typ] = jsonitem.Float(v)
			}
		}
	}
	if len(out) > 0 {
		return out
	}
	for _, s := range stages {
		out[s.typ] += s.end.Sub(s.start).Minutes()
	}
	return out
}

// hypnogram returns the series of the stages if they cover the night without
// gaps on a grid of 1 minute or 30 s. Otherwise it returns nil.
func hypnogram(start, end time.Time, stages []stage) *sample.SeriesData {
	if len(stages) == 0 || !stages[0].start.Equal(start) || !stages[len(stages)-1].end.Equal(end) {
		return nil
	}
	epoch := time.Minute
	at := start
	for _, s := range stages {
		length := s.end.Sub(s.start)
		if !s.start.Equal(at) || length <= 0 || length%(30*time.Second) != 0 {
			return nil
		}
		if length%time.Minute != 0 {
			epoch = 30 * time.Second
		}
		at = s.end
	}
	if end.Sub(start)/epoch > maxStages {
		return nil
	}
	var data strings.Builder
	for _, s := range stages {
		digit, ok := stageDigit[s.typ]
		if !ok {
			digit = "E"
		}
		for range int(s.end.Sub(s.start) / epoch) {
			if data.Len() > 0 {
				data.WriteByte(' ')
			}
			data.WriteString(digit)
		}
	}
	return &sample.SeriesData{Period: epoch, Data: data.String()}
}
