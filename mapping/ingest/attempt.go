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
	sum := a.counts[metric]
	sum.add(c)
	a.counts[metric] = sum
}

func (a *commitAttempt) addStream(id string) {
	if !slices.Contains(a.streams, id) {
		a.streams = append(a.streams, id)
	}
}

// retract takes a stored night back.
func (d *delivery) retract(a *commitAttempt, r *storedNight) {
	a.batch.Writes = append(a.batch.Writes, store.Write{Op: store.Put, Vendor: d.request.Vendor, SkipSame: true,
		Resource: fhir.Resource{Type: r.ref.Type, ID: r.ref.ID, JSON: withStatus(r.json, statusRetracted)}})
	a.metrics = append(a.metrics, r.metric)
	a.targets = append(a.targets, r.ref)
}

// touch collects the segments of one source that a commit writes.
type writtenSegments struct {
	streams []string
	due     []period
}

func (a *commitAttempt) segmentsOf(source, stream string) *writtenSegments {
	segments := a.segments[source]
	if segments == nil {
		segments = &writtenSegments{}
		a.segments[source] = segments
	}
	if !slices.Contains(segments.streams, stream) {
		segments.streams = append(segments.streams, stream)
	}
	return segments
}

// touch notes the time of a segment that is a document.
func (a *commitAttempt) addSegment(obs *observation, body []byte) {
	stream := obs.Stream
	if stream == "" {
		stream = "Device/" + obs.Device.ID
	}
	var s storedElements
	if json.Unmarshal(body, &s) != nil {
		return
	}
	if from, to, ok := s.effective(); ok {
		segments := a.segmentsOf(obs.source, stream)
		segments.due = append(segments.due, period{from.Unix(), to.Unix()})
	}
}

// touchSamples notes the times of segments that are samples.
func (a *commitAttempt) addSegments(group *seriesGroup, c *series.Columns) {
	segments := a.segmentsOf(group.source, mapping.StreamID(group.template.Identity))
	for i := range c.Len() {
		s := c.At(i)
		p := period{s.Start / 1e6, s.Start / 1e6}
		if s.End != series.NoEnd {
			p[1] = s.End/1e6 + 1
		}
		if n := len(segments.due); n > 0 && p[0] >= segments.due[n-1][0] && p[0] <= segments.due[n-1][1]+mergeGap {
			segments.due[n-1][1] = max(segments.due[n-1][1], p[1])
			continue
		}
		segments.due = append(segments.due, p)
	}
}
