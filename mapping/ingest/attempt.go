package ingest

import (
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
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
