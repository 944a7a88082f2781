package ingest

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// sourceNights is the stored state of the nights of one source.
type sourceNights struct {
	Source string `json:"source"`
	// Streams identifies the segments of the source: by stream, or by device for
	// segments that are in no stream.
	Streams []string `json:"streams"`
	// Due holds the periods in which segments were written and nights have not
	// been derived since.
	Due []period `json:"due,omitempty"`
	// Open holds the nights that were preliminary when they were derived.
	Open []period `json:"open,omitempty"`
}

func (d *delivery) nightPrefix() string {
	return prefixNight + d.request.Patient + "/" + d.request.Vendor + "/"
}

// addDueNights adds the state that says which nights must be derived again. It
// is committed together with the segments, so that no night is lost in a crash.
func (d *delivery) addDueNights(ctx context.Context, a *commitAttempt) error {
	for _, source := range slices.Sorted(maps.Keys(a.segments)) {
		segments := a.segments[source]
		key := d.nightPrefix() + sourceHash(source)
		raw, err := d.pipeline.Store.Get(ctx, key)
		if err != nil {
			return fhir.Wrap("ingest.nights", err)
		}
		nights := sourceNights{Source: source}
		if raw != nil {
			if err := json.Unmarshal(raw, &nights); err != nil {
				return fhir.Wrap("ingest.nights", err)
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
