package ingest

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
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

func (d *delivery) nightPrefix() string {
	return prefixNight + d.request.Patient + "/" + d.request.Vendor + "/"
}

// due adds to a the state that says which nights have to be made again: it is
// in one commit with the segments, so that a crash in between loses no night.
func (d *delivery) addDueNights(ctx context.Context, a *commitAttempt) error {
	for _, source := range slices.Sorted(maps.Keys(a.segments)) {
		segments := a.segments[source]
		key := d.nightPrefix() + sourceHash(source)
		raw, err := d.pipeline.Store.Get(ctx, key)
		if err != nil {
			return fhir.Wrap("ingest.due", err)
		}
		nights := sourceNights{Source: source}
		if raw != nil {
			if err := json.Unmarshal(raw, &nights); err != nil {
				return fhir.Wrap("ingest.due", err)
			}
		}
		for _, s := range segments.streams {
			if !slices.Contains(nights.Streams, s) {
				nights.Streams = append(nights.Streams, s)
			}
		}
		nights.Due = mergePeriods(append(nights.Due, segments.due...))
		w, err := nights.stateWrite(key)
		if err != nil {
			return err
		}
		a.batch.State = append(a.batch.State, w)
	}
	return nil
}

func (nights *sourceNights) stateWrite(key string) (store.StateWrite, error) {
	raw, err := json.Marshal(nights)
	return store.StateWrite{Key: key, Value: raw}, fhir.Wrap("ingest.nights", err)
}
