package fitbit

import (
	"strings"
	"time"

	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

// stageDigit is the digit of a stage in the series.
var stageDigit = map[string]string{
	"DEEP": "1", "LIGHT": "2", "REM": "3", "AWAKE": "4", "ASLEEP": "5", "RESTLESS": "6",
}

// stage is one stretch of a night.
type stage struct {
	kind       string
	start, end time.Time
}

// maxStages bounds the epochs of a night: two days of 30 s.
const maxStages = 2 * 24 * 120

func sleep(p *point) (*rejection, error) {
	stages, ok := p.stages()
	if !ok {
		return &rejection{sample.ReasonBadTime, "a stage has no start and end"}, nil
	}
	if p.s.End.IsZero() && len(stages) > 0 { // no endTime: it may go on
		p.s.End, p.s.Status = stages[len(stages)-1].end, sample.Preliminary
	}
	if !p.s.End.After(p.s.Start) {
		return &rejection{sample.ReasonBadTime, "a night has a length"}, nil
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
		p.s.Value = sample.Value{Kind: sample.Number, Num: asleep, Unit: "min"}
	}
	for _, k := range []string{"DEEP", "LIGHT", "REM", "AWAKE", "RESTLESS"} {
		if m, ok := minutes[k]; ok {
			p.add(strings.ToLower(k), sample.Value{Kind: sample.Number, Num: decimal(m), Unit: "min"})
		}
	}
	p.num("awake", "min", "summary", "minutesAwake")
	for _, m := range []string{"minutesInSleepPeriod", "minutesToFallAsleep", "minutesAfterWakeUp"} {
		p.num(m, "min", "summary", m)
	}
	p.code("type", "type")
	meta := p.body.Get("metadata")
	if meta.Get("nap").IsTrue() {
		p.add("nap", sample.Value{Kind: sample.Boolean, Bool: true})
	}
	if meta != nil && !meta.Get("processed").IsTrue() {
		p.s.Status = sample.Preliminary
	}
	if meta.Get("manuallyEdited").IsTrue() {
		p.s.Method = "manuallyEdited"
	}
	if series := hypnogram(p.s.Start, p.s.End, stages); series != nil {
		p.add("stages", sample.Value{Kind: sample.Series, Series: series})
	}
	if p.s.Value.Kind == sample.None && len(stages) == 0 {
		return none("neither stages nor minutes asleep"), nil
	}
	return nil, p.emit()
}

func (p *point) stages() ([]stage, bool) {
	list := p.body.Get("stages")
	if list == nil {
		return nil, true
	}
	out := make([]stage, 0, len(list.Items))
	for i := range list.Items {
		n := &list.Items[i]
		start, end, _, ok := period(n)
		if !ok {
			return nil, false
		}
		out = append(out, stage{n.Get("type").String(), start, end})
	}
	return out, true
}

// stageMinutes are the summary's, each type once (a repeated type was seen in
// the wild), else they are summed from the stages.
func (p *point) stageMinutes(stages []stage) map[string]float64 {
	out := map[string]float64{}
	if list := p.body.Get("summary", "stagesSummary"); list != nil {
		for i := range list.Items {
			kind := list.Items[i].Get("type").String()
			if _, twice := out[kind]; twice {
				continue
			}
			v, state := list.Items[i].Get("minutes").Decimal()
			if state == jsonitem.Given || state == jsonitem.Absent {
				out[kind] = jsonitem.Float(v)
			}
		}
	}
	if len(out) > 0 {
		return out
	}
	for _, s := range stages {
		out[s.kind] += s.end.Sub(s.start).Minutes()
	}
	return out
}

// hypnogram is the series of stages if they cover the night without a gap on
// a grid of a minute or half a minute; nil otherwise.
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
		digit, ok := stageDigit[s.kind]
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
