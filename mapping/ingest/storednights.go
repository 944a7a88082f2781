package ingest

import (
	"context"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// known is a stored night of one source.
type storedNight struct {
	ref      fhir.Ref
	metric   string
	vendorID string
	day      string // of waking
	stated   bool   // stated by the source as a whole, not made of segments
	status   string
	from, to time.Time
	json     []byte
}

// toldMark tells nights that a source states as a whole from those that are
// made of segments: night/HASH/DAY/hHOUR.
const statedMark = "/h"

// stated are the stored nights whose id of the vendor's has the prefix.
func (d *delivery) storedNights(ctx context.Context, row mapping.Segments, prefix string, from,
	to time.Time) (out []storedNight, err error) {
	system := fhir.Canonical + "/identifier/" + d.request.Vendor + "/source"
	err = d.find(ctx, row.System, row.Of, from, to, []byte(prefix), func(f *store.Found, s *storedElements) bool {
		night := storedNight{ref: f.Resource.Ref(), metric: row.Of, vendorID: s.identifier(system), status: s.Status}
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
