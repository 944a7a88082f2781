package ingest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
	"pulsegate/mapping/sleep"
)

// Lengths of the periods for which nights are derived, in seconds.
const (
	// maxPeriod is the longest period for which one commit derives the nights,
	// some hundred Observations.
	maxPeriod = 400 * secondsPerDay
	// readMargin is the time before and after a period that is read too, for
	// sessions that reach into it and for others that end on the same days.
	readMargin = 5 * secondsPerDay
	// maxMargin limits readMargin, which grows while sessions continue.
	maxMargin = 40 * secondsPerDay
	// dayMargin is the time before and after a period in which sessions of its
	// days may end.
	dayMargin = 2 * secondsPerDay
	// sessionMargin is the time before and after a period that contains all
	// sessions of these days, in every zone.
	sessionMargin = dayMargin + secondsPerDay + 15*3600
)

// maxSegments limits the number of segments that are read for one period. A
// period with more segments is shortened, down to one day.
const maxSegments = 200_000

// errTooManySegments is returned together with the sessions of the first
// maxSegments segments.
var errTooManySegments = errors.New("the period has too many segments")

// sessionWindow holds the sessions of a source from some days before a period
// to some days after it.
type sessionWindow struct {
	sessions []sleep.Session
	from, to time.Time
}

// readSessions returns the sessions of a source around p.
func (d *delivery) readSessions(ctx context.Context, row mapping.Segments, nights *sourceNights,
	p period) (sessionWindow, error) {
	before, after := int64(readMargin), int64(readMargin)
	for {
		from, to := time.Unix(p[0]-before, 0).UTC(), time.Unix(p[1]+after, 0).UTC()
		segs, err := d.readSegments(ctx, row, nights, from, to)
		if err != nil {
			return sessionWindow{}, err
		}
		out := sleep.Sessions(segs)
		if len(segs) >= maxSegments {
			return sessionWindow{out, from, to}, errTooManySegments
		}
		// A session at an edge may continue beyond it. That matters only if the
		// session reaches the days whose nights are derived.
		cut := false
		if len(out) > 0 {
			first, last := &out[0], &out[len(out)-1]
			if before < maxMargin && first.Start.Sub(from) <= sleep.Gap && first.End.Unix() >= p[0]-sessionMargin {
				before, cut = 2*before, true
			}
			if after < maxMargin && to.Sub(last.End) <= sleep.Gap && last.Start.Unix() <= p[1]+sessionMargin {
				after, cut = 2*after, true
			}
		}
		if !cut {
			return sessionWindow{out, from, to}, nil
		}
	}
}

// readSegments returns the segments of a source that overlap a time. If the
// store has columns, it reads them without building Observations.
func (d *delivery) readSegments(ctx context.Context, row mapping.Segments, nights *sourceNights, from,
	to time.Time) (segs []sleep.Segment, err error) {
	add := func(_ *store.Found, s *storedElements) bool {
		seg, ok := nights.segment(s)
		if ok {
			if seg.Start, seg.End, ok = s.effective(); ok {
				segs = append(segs, seg)
			}
		}
		return len(segs) < maxSegments
	}
	columnar, ok := d.pipeline.Store.(store.Columnar)
	if !ok {
		err = d.find(ctx, row.System, row.Metric, from, to, nil, add)
		return segs, err
	}
	f, err := d.search(row.System, row.Metric, from, to)
	if err != nil {
		return nil, err
	}
	segmentOf := map[*series.Template]*sleep.Segment{} // nil for another source
	zones := map[int16]*time.Location{}
	at := func(us int64, off int16) time.Time {
		if zones[off] == nil {
			zones[off] = time.FixedZone("", int(off)*60)
		}
		return time.UnixMicro(us).In(zones[off])
	}
	var failure error
	err = columnar.FindRuns(ctx, f, d.decoder(nil, add, &failure), func(run *store.Run) bool {
		if run.Template.Vendor != d.request.Vendor {
			return true
		}
		var columns *series.Columns
		if columns, failure = run.Load(); failure != nil {
			return false
		}
		common, seen := segmentOf[run.Template]
		if !seen {
			first := columns.At(run.From)
			first.Commit = series.Commit{}
			var s storedElements
			if failure = json.Unmarshal(run.Template.Append(nil, &first), &s); failure != nil {
				return false
			}
			if seg, ok := nights.segment(&s); ok {
				common = &seg
			}
			segmentOf[run.Template] = common
		}
		for i := run.From; common != nil && i < run.To && len(segs) < maxSegments; i++ {
			if s := columns.At(i); s.End != series.NoEnd {
				seg := *common
				seg.Start, seg.End = at(s.Start, s.Off), at(s.End, s.EndOff)
				segs = append(segs, seg)
			}
		}
		return len(segs) < maxSegments
	})
	return segs, fhir.Wrap("ingest.segments", cmp.Or(err, failure))
}

// segment returns s without its times. It reports false if s is not a segment
// of the source.
func (nights *sourceNights) segment(s *storedElements) (seg sleep.Segment, ok bool) {
	if s.Status == statusRetracted || !slices.Contains(nights.Streams, s.identifier(mapping.StreamSystem)) &&
		!slices.Contains(nights.Streams, s.Device.Reference) {
		return seg, false
	}
	seg = sleep.Segment{ZoneKnown: !s.zoneUnknown(), Device: s.Device.Reference}
	for _, c := range s.Value.Coding {
		if seg.Stage, ok = sleep.StageOf(c.Code); ok {
			return seg, true
		}
	}
	return seg, false
}
