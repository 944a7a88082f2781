package ingest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// isNight reports whether a metric is derived from segments. Such Observations
// have their own identity rules.
func (d *delivery) isNight(metric string) bool {
	return slices.ContainsFunc(d.pipeline.Mapper.Segments(d.request.Vendor),
		func(s mapping.Segments) bool { return s.Of == metric })
}

// search returns a query for the patient's Observations of one of the vendor's
// codes that overlap a time.
func (d *delivery) search(system, code string, from, to time.Time) (store.Find, error) {
	return d.searchFor([2]string{"code", system + "|" + code}, [2]string{"date", "ge" + from.Format(time.RFC3339)},
		[2]string{"date", "le" + to.Format(time.RFC3339)})
}

// find calls fn for each Observation that matches search and whose JSON
// contains text.
func (d *delivery) find(ctx context.Context, system, code string, from, to time.Time, text []byte,
	fn func(*store.Found, *storedElements) bool) error {
	f, err := d.search(system, code, from, to)
	if err != nil {
		return err
	}
	var failure error
	err = d.pipeline.Store.Find(ctx, f, d.decoder(text, fn, &failure))
	return fhir.Wrap("ingest.find", cmp.Or(err, failure))
}

// decoder returns a function that decodes stored Observations of the vendor for
// fn if their JSON contains text. The function sets failure and ends the search
// if one cannot be decoded.
func (d *delivery) decoder(text []byte, fn func(*store.Found, *storedElements) bool,
	failure *error) func(*store.Found) bool {
	return func(f *store.Found) bool {
		var s storedElements
		if f.Facts.Vendor != d.request.Vendor || !bytes.Contains(f.Resource.JSON, text) {
			return true
		}
		if *failure = json.Unmarshal(f.Resource.JSON, &s); *failure != nil {
			return false
		}
		return fn(f, &s)
	}
}
