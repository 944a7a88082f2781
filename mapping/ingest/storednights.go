package ingest

import (
	"context"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// storedNight is a stored night of one source.
type storedNight struct {
	retraction
	vendorID string
	day      string // day of waking
	stated   bool   // stated by the source as a whole, not derived from segments
	status   string
	from, to time.Time
}

// statedMark distinguishes the vendor's ids of nights that a source states as a
// whole (night/HASH/DAY/hHOUR) from those of nights that are derived from
// segments.
const statedMark = "/h"

// storedNights returns the stored nights in a time whose vendor's id has the
// prefix.
func (d *delivery) storedNights(ctx context.Context, row mapping.Segments, prefix string, from,
	to time.Time) (out []storedNight, err error) {
	system := fhir.Canonical + "/identifier/" + d.request.Vendor + "/source"
	err = d.find(ctx, row.System, row.Of, from, to, []byte(prefix), func(f *store.Found, s *storedElements) bool {
		night := storedNight{retraction: retraction{ref: f.Resource.Ref(), metric: row.Of},
			vendorID: s.identifier(system), status: s.Status}
		name, ok := strings.CutPrefix(night.vendorID, prefix)
		if !ok {
			return true
		}
		night.day, _, _ = strings.Cut(name, "/")
		night.stated = strings.Contains(name, statedMark)
		if night.from, night.to, ok = s.effective(); ok {
			night.json = unstamped(&f.Resource)
			out = append(out, night)
		}
		return true
	})
	return out, err
}
