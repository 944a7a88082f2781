// Package sleep makes nights of segments of sleep. It knows no vendor format,
// no FHIR and no store: ingest hands it every stored segment of one source.
//
// # Sessions
//
// The segments of one source are one session while the gap between them is at
// most Gap. Overlapping segments count once, and the more precise stage wins:
// deep, REM, core, awake, unspecified, in that order. Time in bed is a union of
// its own. A session starts with its first segment and ends with its last.
//
// # Names
//
// A session's name is the day of waking, with /2, /3 for further sessions that
// end on that day, in order of their start. The day is that of the offset of
// the last segment whose offset is the wearer's; without one, that of UTC. The
// names follow from the set of segments alone, so the order in which the
// segments arrived does not matter, and a night keeps its name when its start
// moves.
package sleep

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/mapping/sample"
)

const (
	// Gap is the longest pause within a session.
	Gap = 90 * time.Minute
	// MaxSegment is the longest segment that counts: what is longer is a
	// mistake of its source.
	MaxSegment = 24 * time.Hour
)

// Stage of sleep, in the order of precedence where segments overlap.
type Stage uint8

// Stages.
const (
	Deep Stage = iota
	REM
	Core
	Awake
	Unspecified
	InBed
	stages
)

var names = [stages]string{"deep", "rem", "core", "awake", "unspecified", "inBed"}

// StageOf knows the words of Apple's export and of Health Auto Export.
func StageOf(word string) (Stage, bool) {
	switch word {
	case "HKCategoryValueSleepAnalysisInBed", "In Bed", "InBed", "0":
		return InBed, true
	case "HKCategoryValueSleepAnalysisAsleep", "HKCategoryValueSleepAnalysisAsleepUnspecified", "Asleep",
		"Unspecified", "1":
		return Unspecified, true
	case "HKCategoryValueSleepAnalysisAwake", "Awake", "2":
		return Awake, true
	case "HKCategoryValueSleepAnalysisAsleepCore", "Core", "3":
		return Core, true
	case "HKCategoryValueSleepAnalysisAsleepDeep", "Deep", "4":
		return Deep, true
	case "HKCategoryValueSleepAnalysisAsleepREM", "REM", "5":
		return REM, true
	}
	return 0, false
}

// Segment is one interval of sleep.
type Segment struct {
	// Start and End carry the offset that they were written with.
	Start, End time.Time
	// Sure: the offset is the wearer's.
	Sure  bool
	Stage Stage
	// Device refers to what measured it; "" unknown.
	Device string
}

// Counts reports whether g takes part in a session.
func (g *Segment) Counts() bool {
	length := g.End.Sub(g.Start)
	return length > 0 && length <= MaxSegment && g.Stage < stages
}

func (g *Segment) compare(o *Segment) int {
	sure := func(s *Segment) int {
		if s.Sure {
			return 1
		}
		return 0
	}
	_, a := g.End.Zone()
	_, b := o.End.Zone()
	return cmp.Or(g.Start.Compare(o.Start), g.End.Compare(o.End), cmp.Compare(g.Stage, o.Stage),
		cmp.Compare(sure(g), sure(o)),
		cmp.Compare(a, b), cmp.Compare(g.Device, o.Device))
}

// Session is one night or nap.
type Session struct {
	// Segments are in order of their start.
	Segments []Segment
	Start    time.Time
	End      time.Time
	// Sure: the offsets of Start and End are the wearer's.
	Sure bool
	// Day is the day of waking, Name that day with the session's number
	// behind it from the second on.
	Day, Name string
}

// Sessions joins segments to sessions, in order of their start. It sorts segs
// and keeps them.
func Sessions(segs []Segment) []Session {
	segs = slices.DeleteFunc(segs, func(g Segment) bool { return !g.Counts() })
	slices.SortFunc(segs, func(a, b Segment) int { return a.compare(&b) })
	var out []Session
	from := 0
	for i := range segs {
		if n := len(out); n == 0 || segs[i].Start.Sub(out[n-1].End) > Gap {
			out = append(out, Session{Start: segs[i].Start, End: segs[i].End})
			from = i
		}
		x := &out[len(out)-1]
		x.Segments = segs[from : i+1 : i+1]
		if segs[i].End.After(x.End) {
			x.End = segs[i].End
		}
	}
	seen := map[string]int{}
	for i := range out {
		x := &out[i]
		x.place()
		x.Day = x.End.Format(time.DateOnly)
		x.Name = x.Day
		if seen[x.Day]++; seen[x.Day] > 1 {
			x.Name += "/" + strconv.Itoa(seen[x.Day])
		}
	}
	return out
}

// place gives start and end their offsets.
func (x *Session) place() {
	first, last := x.Segments[0], Segment{}
	for _, g := range x.Segments {
		if g.Sure {
			last = g
		}
	}
	if x.Sure = last.Sure; !x.Sure {
		x.Start, x.End = x.Start.UTC(), x.End.UTC()
		return
	}
	x.End = x.End.In(last.End.Location())
	if !first.Sure {
		x.Start = x.Start.In(last.End.Location())
	}
}

// Sample is the session as a sample of the row "night".
func (x *Session) Sample() sample.Sample {
	sum := x.totals()
	var present [stages]bool
	for i := range x.Segments {
		present[x.Segments[i].Stage] = true
	}
	s := sample.Sample{Zone: sample.ZoneInstant, Start: x.Start, End: x.End}
	if x.Sure {
		s.Zone = sample.ZoneStated
	}
	if present[Deep] || present[REM] || present[Core] || present[Unspecified] {
		s.Value = minutes(sum[Deep] + sum[REM] + sum[Core] + sum[Unspecified])
	}
	for st, name := range names {
		if present[st] {
			s.Components = append(s.Components, sample.Component{Name: name, Value: minutes(sum[st])})
		}
	}
	return s
}

// Device returns the device of the last segment that names one.
func (x *Session) Device() string {
	for _, g := range slices.Backward(x.Segments) {
		if g.Device != "" {
			return g.Device
		}
	}
	return ""
}

// totals counts each moment of a session once; in bed is counted by itself.
func (x *Session) totals() (sum [stages]time.Duration) {
	type edge struct {
		at    time.Time
		stage Stage
		delta int
	}
	edges := make([]edge, 0, 2*len(x.Segments))
	for i := range x.Segments {
		g := &x.Segments[i]
		edges = append(edges, edge{g.Start, g.Stage, 1}, edge{g.End, g.Stage, -1})
	}
	slices.SortFunc(edges, func(a, b edge) int { return a.at.Compare(b.at) })
	var open [stages]int
	for i, e := range edges {
		if i > 0 {
			span := e.at.Sub(edges[i-1].at)
			for st := range InBed {
				if open[st] > 0 {
					sum[st] += span
					break
				}
			}
			if open[InBed] > 0 {
				sum[InBed] += span
			}
		}
		open[e.stage] += e.delta
	}
	return sum
}

// minutes is a duration in minutes, to a thousandth, without zeros at the end.
func minutes(d time.Duration) sample.Value {
	s := strconv.FormatFloat(d.Minutes(), 'f', 3, 64)
	return sample.Value{Kind: sample.Number, Num: strings.TrimSuffix(strings.TrimRight(s, "0"), "."), Unit: "min"}
}
