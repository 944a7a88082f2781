package ingest

import (
	"encoding/json"
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// attempt is one try to commit a batch.
type commitAttempt struct {
	batch   store.Batch
	counts  map[string]Counts
	metrics []string // of the Observations that sb.Writes begins with
	samples int      // in sb.Series
	// The Provenance's targets: streams that have new samples, and what is
	// listed one by one.
	streams []string
	targets []fhir.Ref
	// touched are the segments that sb writes, by source.
	segments map[string]*writtenSegments
	// replaced are stored nights that others in sb take the place of.
	retractions []storedNight
	// channels holds the channels by which the vendor has delivered.
	channels channels
}

func newAttempt() *commitAttempt {
	return &commitAttempt{counts: map[string]Counts{}, segments: map[string]*writtenSegments{}}
}

func (a *commitAttempt) count(metric string, c Counts) {
	x := a.counts[metric]
	x.add(c)
	a.counts[metric] = x
}

func (a *commitAttempt) addStream(id string) {
	if !slices.Contains(a.streams, id) {
		a.streams = append(a.streams, id)
	}
}

// retract takes a stored night back.
func (d *delivery) retract(a *commitAttempt, k *storedNight) {
	a.batch.Writes = append(a.batch.Writes, store.Write{Op: store.Put, Vendor: d.request.Vendor, SkipSame: true,
		Resource: fhir.Resource{Type: k.ref.Type, ID: k.ref.ID, JSON: withStatus(k.json, statusRetracted)}})
	a.metrics = append(a.metrics, k.metric)
	a.targets = append(a.targets, k.ref)
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
