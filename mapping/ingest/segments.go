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

const (
	// piece is the time in seconds whose nights one commit makes again: some
	// hundred Observations.
	pieceSeconds = 400 * secondsPerDay
	// around is the time in seconds that is read before and after a piece, for
	// sessions that reach into it and others that end on the same days.
	marginSeconds = 5 * secondsPerDay
	// days beside a piece on which a session that it touches may end.
	daySeconds = 2 * secondsPerDay
	// near a piece lie all sessions of these days, wherever the days begin.
	reachSeconds = daySeconds + secondsPerDay + 15*3600
	// maxAround bounds how much more is read where sessions go on and on.
	maxMargin = 40 * secondsPerDay
	// maxSegments bounds the segments that are read for a piece. A piece with
	// more is made shorter, down to a day.
	maxSegments = 200_000
)

// errDense is returned beside the sessions of the first maxSegments segments
// where there are more.
var errTooManySegments = errors.New("too many segments for one piece of nights")

// surroundings of a piece are the sessions of a source from some days before it
// to some days behind it.
type sessionWindow struct {
	sessions []sleep.Session
	from, to time.Time
}

// sessions reads the segments of a source around p.
func (d *delivery) readSessions(ctx context.Context, row mapping.Segments, nights *sourceNights, p period) (sessionWindow, error) {
	before, after := int64(marginSeconds), int64(marginSeconds)
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
		// A session at an edge may go on beyond it. That matters only when it
		// reaches the days that are made again.
		cut := false
		if len(out) > 0 {
			first, last := &out[0], &out[len(out)-1]
			if before < maxMargin && first.Start.Sub(from) <= sleep.Gap && first.End.Unix() >= p[0]-reachSeconds {
				before, cut = 2*before, true
			}
			if after < maxMargin && to.Sub(last.End) <= sleep.Gap && last.Start.Unix() <= p[1]+reachSeconds {
				after, cut = 2*after, true
			}
		}
		if !cut {
			return sessionWindow{out, from, to}, nil
		}
	}
}

// segments returns the segments of a source that overlap a time. It reads the
// columns of a store that has them, without making Observations.
func (d *delivery) readSegments(ctx context.Context, row mapping.Segments, nights *sourceNights, from,
	to time.Time) (segs []sleep.Segment, err error) {
	add := func(_ *store.Found, s *storedElements) bool {
		g, ok := nights.segment(s)
		if ok {
			if g.Start, g.End, ok = s.effective(); ok {
				segs = append(segs, g)
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
	segmentOf := map[*series.Template]*sleep.Segment{} // nil: of another source
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
		var cols *series.Columns
		if cols, failure = run.Load(); failure != nil {
			return false
		}
		common, seen := segmentOf[run.Template]
		if !seen {
			first := cols.At(run.From)
			first.Commit = series.Commit{}
			var s storedElements
			if failure = json.Unmarshal(run.Template.Append(nil, &first), &s); failure != nil {
				return false
			}
			if g, ok := nights.segment(&s); ok {
				common = &g
			}
			segmentOf[run.Template] = common
		}
		for i := run.From; common != nil && i < run.To && len(segs) < maxSegments; i++ {
			if s := cols.At(i); s.End != series.NoEnd {
				g := *common
				g.Start, g.End = at(s.Start, s.Off), at(s.End, s.EndOff)
				segs = append(segs, g)
			}
		}
		return len(segs) < maxSegments
	})
	return segs, fhir.Wrap("ingest.segments", cmp.Or(err, failure))
}

// segment is s without its times; ok is false when it is not one of the
// source.
func (nights *sourceNights) segment(s *storedElements) (g sleep.Segment, ok bool) {
	if s.Status == statusRetracted || !slices.Contains(nights.Streams, s.identifier(mapping.StreamSystem)) &&
		!slices.Contains(nights.Streams, s.Device.Reference) {
		return g, false
	}
	g = sleep.Segment{Sure: !s.zoneUnknown(), Device: s.Device.Reference}
	for _, c := range s.Value.Coding {
		if g.Stage, ok = sleep.StageOf(c.Code); ok {
			return g, true
		}
	}
	return g, false
}
