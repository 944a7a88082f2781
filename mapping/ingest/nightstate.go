package ingest

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// sourceNights is the state of the nights of one source.
type sourceNights struct {
	Source string `json:"source"`
	// Streams name the segments of the source among all of the patient: by
	// stream, or by device where a segment is in none.
	Streams []string `json:"streams"`
	// Due are the periods in which segments were written and nights are not
	// made again yet.
	Due []period `json:"due,omitempty"`
	// Open are the nights that were preliminary when they were made.
	Open []period `json:"open,omitempty"`
}

// period is from and to, Unix seconds.
type period [2]int64

const secondsPerDay = 24 * 3600

func (d *delivery) nightPrefix() string {
	return prefixNight + d.request.Patient + "/" + d.request.Vendor + "/"
}

// due adds to a the state that says which nights have to be made again: it is
// in one commit with the segments, so that a crash in between loses no night.
func (d *delivery) addDueNights(ctx context.Context, a *commitAttempt) error {
	for _, source := range slices.Sorted(maps.Keys(a.segments)) {
		x := a.segments[source]
		key := d.nightPrefix() + sourceHash(source)
		raw, err := d.pipeline.Store.Get(ctx, key)
		if err != nil {
			return fhir.Wrap("ingest.due", err)
		}
		n := sourceNights{Source: source}
		if raw != nil {
			if err := json.Unmarshal(raw, &n); err != nil {
				return fhir.Wrap("ingest.due", err)
			}
		}
		for _, s := range x.streams {
			if !slices.Contains(n.Streams, s) {
				n.Streams = append(n.Streams, s)
			}
		}
		n.Due = mergePeriods(append(n.Due, x.due...))
		w, err := n.stateWrite(key)
		if err != nil {
			return err
		}
		a.batch.State = append(a.batch.State, w)
	}
	return nil
}

func (n *sourceNights) stateWrite(key string) (store.StateWrite, error) {
	raw, err := json.Marshal(n)
	return store.StateWrite{Key: key, Value: raw}, fhir.Wrap("ingest.nights", err)
}

// touch collects the segments of one source that a commit writes.
type writtenSegments struct {
	streams []string
	due     []period
}

func (a *commitAttempt) segmentsOf(source, stream string) *writtenSegments {
	x := a.segments[source]
	if x == nil {
		x = &writtenSegments{}
		a.segments[source] = x
	}
	if !slices.Contains(x.streams, stream) {
		x.streams = append(x.streams, stream)
	}
	return x
}

// touch notes the time of a segment that is a document.
func (a *commitAttempt) addSegment(o *observation, body []byte) {
	stream := o.Stream
	if stream == "" {
		stream = "Device/" + o.Device.ID
	}
	var s storedElements
	if json.Unmarshal(body, &s) != nil {
		return
	}
	if from, to, ok := s.effective(); ok {
		x := a.segmentsOf(o.source, stream)
		x.due = append(x.due, period{from.Unix(), to.Unix()})
	}
}

// touchSamples notes the times of segments that are samples.
func (a *commitAttempt) addSegments(g *seriesGroup, c *series.Columns) {
	x := a.segmentsOf(g.source, mapping.StreamID(g.template.Identity))
	for i := range c.Len() {
		s := c.At(i)
		p := period{s.Start / 1e6, s.Start / 1e6}
		if s.End != series.NoEnd {
			p[1] = s.End/1e6 + 1
		}
		if n := len(x.due); n > 0 && p[0] >= x.due[n-1][0] && p[0] <= x.due[n-1][1]+mergeGap {
			x.due[n-1][1] = max(x.due[n-1][1], p[1])
			continue
		}
		x.due = append(x.due, p)
	}
}

const (
	// apart is the longest pause in seconds between two periods that are
	// merged.
	mergeGap = 3 * secondsPerDay
	// maxPeriods bounds the periods of a source: nights of that many weeks,
	// with as long a pause between any two.
	maxPeriods = 1024
)

// merged are the periods in order, those that lie close together as one.
func mergePeriods(ps []period) []period {
	slices.SortFunc(ps, func(a, b period) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) })
	for gap := int64(mergeGap); ; gap *= 2 {
		out := ps[:0]
		for _, p := range ps {
			if n := len(out); n > 0 && p[0] <= out[n-1][1]+gap {
				out[n-1][1] = max(out[n-1][1], p[1])
				continue
			}
			out = append(out, p)
		}
		if ps = out; len(ps) <= maxPeriods {
			return ps
		}
	}
}
