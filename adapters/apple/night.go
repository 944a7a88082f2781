package apple

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	"pulsegate/mapping/sample"
)

const (
	nightGap    = 90 * 60 // seconds between two sessions
	maxSegment  = 24 * 3600
	maxSegments = 1 << 20
)

// stage of sleep, in the order of precedence where segments overlap.
type stage uint8

const (
	stageDeep stage = iota
	stageREM
	stageCore
	stageAwake
	stageUnspecified
	stageInBed
	stages
)

var stageNames = [stages]string{"deep", "rem", "core", "awake", "unspecified", "inBed"}

// stageOf knows the words of the export and of Health Auto Export.
func stageOf(s string) (stage, bool) {
	switch s {
	case "HKCategoryValueSleepAnalysisInBed", "In Bed", "InBed", "0":
		return stageInBed, true
	case "HKCategoryValueSleepAnalysisAsleep", "HKCategoryValueSleepAnalysisAsleepUnspecified", "Asleep", "Unspecified", "1":
		return stageUnspecified, true
	case "HKCategoryValueSleepAnalysisAwake", "Awake", "2":
		return stageAwake, true
	case "HKCategoryValueSleepAnalysisAsleepCore", "Core", "3":
		return stageCore, true
	case "HKCategoryValueSleepAnalysisAsleepDeep", "Deep", "4":
		return stageDeep, true
	case "HKCategoryValueSleepAnalysisAsleepREM", "REM", "5":
		return stageREM, true
	}
	return 0, false
}

// segment is one interval of sleep, compact because years of them are held.
type segment struct {
	start int64 // Unix seconds
	len   int32
	ctx   int16
	stage stage
}

// sleepContext is what many segments share.
type sleepContext struct {
	iana   string
	zone   sample.Zone
	offset int
	device *sample.Device
}

// nights collects sleep segments and makes one sample of each session.
type nights struct {
	channel  string
	bySource map[string][]segment
	contexts []sleepContext
	count    int
	lost     int // segments over the limits
}

func newNights(channel string) *nights {
	return &nights{channel: channel, bySource: map[string][]segment{}}
}

// add takes the segment that s states.
func (n *nights) add(s *sample.Sample, device *sample.Device) {
	st, ok := stageOf(s.Value.Text)
	length := s.End.Sub(s.Start) / time.Second
	if !ok || s.End.IsZero() || length <= 0 {
		return
	}
	_, offset := s.Start.Zone()
	ctx := n.context(sleepContext{s.IANA, s.Zone, offset, device})
	if length > maxSegment || n.count >= maxSegments || ctx < 0 {
		n.lost++
		return
	}
	n.count++
	n.bySource[s.Source.Name] = append(n.bySource[s.Source.Name], segment{s.Start.Unix(), int32(length), int16(ctx), st})
}

// context numbers c; the last ones are the likely ones.
func (n *nights) context(c sleepContext) int {
	for i := len(n.contexts) - 1; i >= 0; i-- {
		if n.contexts[i] == c {
			return i
		}
	}
	if len(n.contexts) >= 4096 {
		return -1
	}
	n.contexts = append(n.contexts, c)
	return len(n.contexts) - 1
}

type session struct {
	source   string
	segments []segment
	end      int64
}

// emit hands out all sessions, sorted by start and source. A session that
// ended less than the gap before asOf may go on: it is preliminary.
func (n *nights) emit(c *clock, asOf time.Time, out func(*sample.Sample) error) error {
	var all []session
	for _, source := range slices.Sorted(maps.Keys(n.bySource)) {
		all = append(all, split(source, n.bySource[source])...)
	}
	slices.SortStableFunc(all, func(a, b session) int {
		return cmp.Or(cmp.Compare(a.segments[0].start, b.segments[0].start), cmp.Compare(a.source, b.source))
	})
	seen := map[string]int{}
	for _, s := range all {
		x := n.sample(s, c)
		wake := x.End
		if x.Zone != sample.ZoneStated {
			wake = wake.UTC()
		}
		x.VendorID = "night/" + short(s.source) + "/" + wake.Format(time.DateOnly)
		if seen[x.VendorID]++; seen[x.VendorID] > 1 {
			x.VendorID += "/" + strconv.Itoa(seen[x.VendorID])
		}
		if !asOf.IsZero() && asOf.Unix()-s.end < nightGap {
			x.Status = sample.Preliminary
		}
		if err := out(x); err != nil {
			return err
		}
	}
	return nil
}

// split orders the segments and cuts them where the gap is too long.
func split(source string, segs []segment) []session {
	slices.SortFunc(segs, func(a, b segment) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.len, b.len), cmp.Compare(a.stage, b.stage), cmp.Compare(a.ctx, b.ctx))
	})
	var out []session
	for i, s := range segs {
		if len(out) == 0 || s.start-out[len(out)-1].end > nightGap {
			out = append(out, session{source: source, segments: segs[i:i:i], end: s.start})
		}
		last := &out[len(out)-1]
		last.segments = segs[i-len(last.segments) : i+1]
		last.end = max(last.end, s.start+int64(s.len))
	}
	return out
}

// totals counts each second of a session once; in bed is counted by itself.
func totals(segs []segment) (sum [stages]int64) {
	type edge struct {
		at    int64
		stage stage
		delta int
	}
	edges := make([]edge, 0, 2*len(segs))
	for _, s := range segs {
		edges = append(edges, edge{s.start, s.stage, 1}, edge{s.start + int64(s.len), s.stage, -1})
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Compare(a.at, b.at) })
	var open [stages]int
	for i, e := range edges {
		if i > 0 {
			span := e.at - edges[i-1].at
			for st := range stageInBed {
				if open[st] > 0 {
					sum[st] += span
					break
				}
			}
			if open[stageInBed] > 0 {
				sum[stageInBed] += span
			}
		}
		open[e.stage] += e.delta
	}
	return sum
}

func (n *nights) sample(s session, c *clock) *sample.Sample {
	sum := totals(s.segments)
	var present [stages]bool
	ctx := n.contexts[s.segments[0].ctx]
	for _, g := range s.segments {
		present[g.stage] = true
		// The zone of waking wins; a segment without one does not unset it.
		if x := n.contexts[g.ctx]; x.zone == sample.ZoneStated || ctx.zone != sample.ZoneStated {
			x.device = cmp.Or(x.device, ctx.device)
			ctx = x
		}
	}
	loc := c.zone(ctx.offset)
	if l := c.iana(ctx.iana); ctx.iana != "" && l != nil {
		loc = l
	}
	x := &sample.Sample{
		Metric: "night", Channel: n.channel, Zone: ctx.zone, IANA: ctx.iana, Source: sample.Source{Name: s.source},
		Start: inOffset(c, time.Unix(s.segments[0].start, 0), loc), End: inOffset(c, time.Unix(s.end, 0), loc),
	}
	if ctx.device != nil {
		x.Device = *ctx.device
	}
	if present[stageDeep] || present[stageREM] || present[stageCore] || present[stageUnspecified] {
		asleep := sum[stageDeep] + sum[stageREM] + sum[stageCore] + sum[stageUnspecified]
		x.Value = number(minutes(asleep), "min")
	}
	for st, name := range stageNames {
		if present[st] {
			x.Components = append(x.Components, sample.Component{Name: name, Value: number(minutes(sum[st]), "min")})
		}
	}
	return x
}

// inOffset gives t the offset of loc at that instant, as a fixed zone.
func inOffset(c *clock, t time.Time, loc *time.Location) time.Time {
	_, offset := t.In(loc).Zone()
	return t.In(c.zone(offset))
}
