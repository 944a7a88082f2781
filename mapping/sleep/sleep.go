// Package sleep derives nights from segments of sleep. It does not depend on
// vendor formats, FHIR or the store: package ingest passes it all stored segments
// of one source.
//
// # Sessions
//
// The segments of one source belong to one session if the gaps between them are at
// most Gap. A moment that several segments cover counts once, for the most precise
// stage: deep, REM, core, awake, unspecified, in that order. Time in bed is the union
// of its own segments. A session starts with its first segment and ends with its
// last.
//
// # Names
//
// The name of a session is the day of waking, followed by /2 or /3 for further
// sessions that end on that day, in order of their start. The day is determined with
// the offset of the last segment that states the wearer's offset, or else in UTC.
// Names depend on the set of segments only. So the order in which segments arrive
// does not matter, and a night keeps its name if its start moves.
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
	// maxSegment is the longest segment that counts. Longer ones are errors of
	// their source.
	maxSegment = 24 * time.Hour
)

// Stage is a stage of sleep. Where segments overlap, the lowest Stage counts.
type Stage uint8

// Stages of sleep.
const (
	Deep Stage = iota
	REM
	Core
	Awake
	Unspecified
	InBed
	stageCount
)

var stageNames = [stageCount]string{"deep", "rem", "core", "awake", "unspecified", "inBed"}

// StageOf returns the stage that Apple's export or Health Auto Export calls
// word.
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
	// ZoneKnown is set if the offset is the wearer's.
	ZoneKnown bool
	Stage     Stage
	// Device is a reference to the Device that measured the segment, or "".
	Device string
}

// Counts reports whether seg can be part of a session.
func (seg *Segment) Counts() bool {
	length := seg.End.Sub(seg.Start)
	return length > 0 && length <= maxSegment && seg.Stage < stageCount
}

// compare orders all segments in one way, so that sessions do not depend on the
// order of their delivery.
func (seg *Segment) compare(other *Segment) int {
	known := func(s *Segment) int {
		if s.ZoneKnown {
			return 1
		}
		return 0
	}
	_, offset := seg.End.Zone()
	_, otherOffset := other.End.Zone()
	return cmp.Or(seg.Start.Compare(other.Start), seg.End.Compare(other.End), cmp.Compare(seg.Stage, other.Stage),
		cmp.Compare(known(seg), known(other)),
		cmp.Compare(offset, otherOffset), cmp.Compare(seg.Device, other.Device))
}

// Session is one night or nap.
type Session struct {
	// Segments are in order of their start.
	Segments []Segment
	Start    time.Time
	End      time.Time
	// ZoneKnown is set if the offsets of Start and End are the wearer's.
	ZoneKnown bool
	// Day is the day of waking. Name is Day, followed by the number of the session
	// from the second one on.
	Day, Name string
}

// Sessions joins segments into sessions, in order of their start. It sorts
// segments and keeps them.
func Sessions(segments []Segment) []Session {
	segments = slices.DeleteFunc(segments, func(seg Segment) bool { return !seg.Counts() })
	slices.SortFunc(segments, func(a, b Segment) int { return a.compare(&b) })
	var out []Session
	from := 0
	for i := range segments {
		if n := len(out); n == 0 || segments[i].Start.Sub(out[n-1].End) > Gap {
			out = append(out, Session{Start: segments[i].Start, End: segments[i].End})
			from = i
		}
		session := &out[len(out)-1]
		session.Segments = segments[from : i+1 : i+1]
		if segments[i].End.After(session.End) {
			session.End = segments[i].End
		}
	}
	seen := map[string]int{}
	for i := range out {
		session := &out[i]
		session.setOffsets()
		session.Day = session.End.Format(time.DateOnly)
		session.Name = session.Day
		if seen[session.Day]++; seen[session.Day] > 1 {
			session.Name += "/" + strconv.Itoa(seen[session.Day])
		}
	}
	return out
}

// setOffsets sets the offsets of Start and End.
func (s *Session) setOffsets() {
	first, last := s.Segments[0], Segment{}
	for _, seg := range s.Segments {
		if seg.ZoneKnown {
			last = seg
		}
	}
	if s.ZoneKnown = last.ZoneKnown; !s.ZoneKnown {
		s.Start, s.End = s.Start.UTC(), s.End.UTC()
		return
	}
	s.End = s.End.In(last.End.Location())
	if !first.ZoneKnown {
		s.Start = s.Start.In(last.End.Location())
	}
}

// Sample returns the session as a sample of the row "night".
func (s *Session) Sample() sample.Sample {
	sum := s.totals()
	var present [stageCount]bool
	for i := range s.Segments {
		present[s.Segments[i].Stage] = true
	}
	out := sample.Sample{Zone: sample.ZoneInstant, Start: s.Start, End: s.End}
	if s.ZoneKnown {
		out.Zone = sample.ZoneStated
	}
	if present[Deep] || present[REM] || present[Core] || present[Unspecified] {
		out.Value = minutes(sum[Deep] + sum[REM] + sum[Core] + sum[Unspecified])
	}
	for st, name := range stageNames {
		if present[st] {
			out.Components = append(out.Components, sample.Component{Name: name, Value: minutes(sum[st])})
		}
	}
	return out
}

// Device returns the device of the last segment that names one.
func (s *Session) Device() string {
	for _, seg := range slices.Backward(s.Segments) {
		if seg.Device != "" {
			return seg.Device
		}
	}
	return ""
}

// totals returns the time in each stage. Each moment of a session counts for
// one stage only. Time in bed is counted separately.
func (s *Session) totals() (sum [stageCount]time.Duration) {
	type edge struct {
		at    time.Time
		stage Stage
		delta int
	}
	edges := make([]edge, 0, 2*len(s.Segments))
	for i := range s.Segments {
		seg := &s.Segments[i]
		edges = append(edges, edge{seg.Start, seg.Stage, 1}, edge{seg.End, seg.Stage, -1})
	}
	slices.SortFunc(edges, func(a, b edge) int { return a.at.Compare(b.at) })
	var open [stageCount]int
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

// minutes returns a duration in minutes, to a thousandth and without trailing
// zeros.
func minutes(d time.Duration) sample.Value {
	s := strconv.FormatFloat(d.Minutes(), 'f', 3, 64)
	return sample.Value{Kind: sample.Number, Num: strings.TrimSuffix(strings.TrimRight(s, "0"), "."), Unit: "min"}
}
