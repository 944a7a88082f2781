package ingest

import (
	"encoding/json"
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// commitAttempt is one attempt to commit a batch.
type commitAttempt struct {
	batch   store.Batch
	counts  map[string]Counts
	metrics []string // of the Observations, the first elements of batch.Writes
	samples int      // in batch.Series
	// streams and targets are the targets of the Provenance: the streams that
	// have new samples, and single resources.
	streams []string
	targets []fhir.Ref
	// rows holds the metrics of the rows that mapped the targets. Retractions are not
	// mapped.
	rows []string
	// segments holds the segments in batch, by source.
	segments map[string]*writtenSegments
	// retractions holds the stored Observations that others in batch replace.
	retractions []retraction
	channels    channels
	// sweeping is set if all Observations in batch are retractions of a sweep.
	sweeping bool
}

func newAttempt() *commitAttempt {
	return &commitAttempt{counts: map[string]Counts{}, segments: map[string]*writtenSegments{}}
}

func (a *commitAttempt) count(metric string, c Counts) {
	sum := a.counts[metric]
	sum.add(c)
	a.counts[metric] = sum
}

// addStream adds a stream to the targets of the Provenance.
func (a *commitAttempt) addStream(id string) {
	if !slices.Contains(a.streams, id) {
		a.streams = append(a.streams, id)
	}
}

// addRow adds the row of a metric to the entities of the Provenance.
func (a *commitAttempt) addRow(metric string) {
	if !slices.Contains(a.rows, metric) {
		a.rows = append(a.rows, metric)
	}
}

// retraction is a stored Observation that is no longer true.
type retraction struct {
	ref    fhir.Ref
	metric string
	json   []byte // without the version
}

// retract adds a write that sets the status of a stored Observation to
// entered-in-error.
func (d *delivery) retract(a *commitAttempt, r *retraction) {
	a.batch.Writes = append(a.batch.Writes, store.Write{Op: store.Put, Vendor: d.request.Vendor, SkipSame: true,
		Resource: fhir.Resource{Type: r.ref.Type, ID: r.ref.ID, JSON: withStatus(r.json, statusRetracted)}})
	a.metrics = append(a.metrics, r.metric)
	a.targets = append(a.targets, r.ref)
}

// writtenSegments collects the segments of one source that a commit writes.
type writtenSegments struct {
	streams []string
	due     []period
}

// segmentsOf returns the segments of source that a writes, and adds stream to
// their streams.
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

// addSegment records the time of a segment that is a document.
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

// addSegments records the times of segments that are samples.
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
