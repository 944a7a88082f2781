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
func (d *delivery) readSessions(ctx context.Context, of mapping.Segments, n *sourceNights, p period) (sessionWindow, error) {
	before, after := int64(marginSeconds), int64(marginSeconds)
	for {
		from, to := time.Unix(p[0]-before, 0).UTC(), time.Unix(p[1]+after, 0).UTC()
		segs, err := d.readSegments(ctx, of, n, from, to)
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
func (d *delivery) readSegments(ctx context.Context, of mapping.Segments, n *sourceNights, from,
	to time.Time) (segs []sleep.Segment, err error) {
	one := func(_ *store.Found, s *storedElements) bool {
		g, ok := n.segment(s)
		if ok {
			if g.Start, g.End, ok = s.effective(); ok {
				segs = append(segs, g)
			}
		}
		return len(segs) < maxSegments
	}
	fast, ok := d.pipeline.Store.(store.Columnar)
	if !ok {
		err = d.find(ctx, of.System, of.Metric, from, to, nil, one)
		return segs, err
	}
	f, err := d.search(of.System, of.Metric, from, to)
	if err != nil {
		return nil, err
	}
	likes := map[*series.Template]*sleep.Segment{} // nil: of another source
	zones := map[int16]*time.Location{}
	at := func(us int64, off int16) time.Time {
		if zones[off] == nil {
			zones[off] = time.FixedZone("", int(off)*60)
		}
		return time.UnixMicro(us).In(zones[off])
	}
	var bad error
	err = fast.FindRuns(ctx, f, d.decoder(nil, one, &bad), func(x *store.Run) bool {
		if x.Template.Vendor != d.request.Vendor {
			return true
		}
		var cols *series.Columns
		if cols, bad = x.Load(); bad != nil {
			return false
		}
		like, seen := likes[x.Template]
		if !seen {
			first := cols.At(x.From)
			first.Commit = series.Commit{}
			var s storedElements
			if bad = json.Unmarshal(x.Template.Append(nil, &first), &s); bad != nil {
				return false
			}
			if g, ok := n.segment(&s); ok {
				like = &g
			}
			likes[x.Template] = like
		}
		for i := x.From; like != nil && i < x.To && len(segs) < maxSegments; i++ {
			if s := cols.At(i); s.End != series.NoEnd {
				g := *like
				g.Start, g.End = at(s.Start, s.Off), at(s.End, s.EndOff)
				segs = append(segs, g)
			}
		}
		return len(segs) < maxSegments
	})
	return segs, fhir.Wrap("ingest.segments", cmp.Or(err, bad))
}

// segment is s without its times; ok is false when it is not one of the
// source.
func (n *sourceNights) segment(s *storedElements) (g sleep.Segment, ok bool) {
	if s.Status == statusRetracted || !slices.Contains(n.Streams, s.identifier(mapping.StreamSystem)) &&
		!slices.Contains(n.Streams, s.Device.Reference) {
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
