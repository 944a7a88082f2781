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
	whole    bool   // stated by the source as a whole, not made of segments
	status   string
	from, to time.Time
	json     []byte
}

// toldMark tells nights that a source states as a whole from those that are
// made of segments: night/HASH/DAY/hHOUR.
const wholeMark = "/h"

// stated are the stored nights whose id of the vendor's has the prefix.
func (d *delivery) storedNights(ctx context.Context, of mapping.Segments, prefix string, from,
	to time.Time) (out []storedNight, err error) {
	system := fhir.Canonical + "/identifier/" + d.request.Vendor + "/source"
	err = d.find(ctx, of.System, of.Of, from, to, []byte(prefix), func(f *store.Found, s *storedElements) bool {
		k := storedNight{ref: f.Resource.Ref(), metric: of.Of, vendorID: s.identifier(system), status: s.Status}
		name, ok := strings.CutPrefix(k.vendorID, prefix)
		if !ok {
			return true
		}
		k.day, _, _ = strings.Cut(name, "/")
		k.whole = strings.Contains(name, wholeMark)
		if k.from, k.to, ok = s.effective(); ok {
			k.json = unstamped(&f.Resource)
			out = append(out, k)
		}
		return true
	})
	return out, err
}
