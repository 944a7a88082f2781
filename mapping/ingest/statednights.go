package ingest

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// resolveNights gives stated nights the identity under which the store has
// them. Nights that overlap in time are one night, even if it now starts at
// another hour. A night that is derived from segments takes precedence.
func (d *delivery) resolveNights(ctx context.Context, list []observation, a *commitAttempt) ([]observation, error) {
	for _, row := range d.pipeline.Mapper.Segments(d.request.Vendor) {
		isNight := func(obs observation) bool { return obs.Metric == row.Of }
		if !slices.ContainsFunc(list, isNight) {
			continue
		}
		var out []observation
		var resolved []storedNight // nights of this batch
		for i := range list {
			obs := list[i] // a copy, because another attempt needs the batch unchanged
			if isNight(obs) {
				keep, err := d.resolveNight(ctx, row, &obs, out, &resolved, a)
				if err != nil {
					return nil, err
				}
				if !keep {
					continue
				}
			}
			out = append(out, obs)
		}
		list = out
	}
	return list, nil
}

// resolveNight gives obs, a stated night, the identity of the stored night or
// of the night in the batch that it overlaps. It reports whether obs must be
// added to earlier.
func (d *delivery) resolveNight(ctx context.Context, row mapping.Segments, obs *observation, earlier []observation,
	resolved *[]storedNight,
	a *commitAttempt) (keep bool, err error) {
	var s storedElements
	if err := json.Unmarshal(obs.JSON, &s); err != nil {
		return false, fhir.Wrap("ingest.nights", err)
	}
	vendorID := s.identifier(fhir.Canonical + "/identifier/" + d.request.Vendor + "/source")
	at := strings.Index(vendorID, statedMark)
	from, to, ok := s.effective()
	if !ok || at < 0 || strings.Count(vendorID, "/") < 3 {
		return true, nil
	}
	prefix := vendorID[:strings.Index(vendorID, "/")+1]
	prefix += vendorID[len(prefix):][:strings.Index(vendorID[len(prefix):], "/")+1]
	stored, err := d.storedNights(ctx, row, prefix, from, to)
	if err != nil {
		return false, err
	}
	several, err := d.severalSources(ctx, row, obs, from, to, a)
	if err != nil || several {
		return !several, err
	}
	overlaps := func(night *storedNight) bool {
		return night.status != statusRetracted &&
			(night.from.Before(to) && from.Before(night.to) || night.from.Equal(from))
	}
	match := -1
	for i := range stored {
		switch night := &stored[i]; {
		case !overlaps(night):
		case !night.stated:
			a.count(obs.Metric, Counts{Unchanged: 1})
			return false, nil
		case match < 0:
			match = i
		default: // obs covers two stored nights
			a.retractions = append(a.retractions, night.retraction)
		}
	}
	target := storedNight{retraction: retraction{ref: fhir.Ref{Type: "Observation", ID: obs.ID}}, vendorID: vendorID,
		from: from, to: to}
	if match >= 0 {
		target.ref, target.vendorID = stored[match].ref, stored[match].vendorID
	} else {
		for i := range *resolved {
			if night := &(*resolved)[i]; strings.HasPrefix(night.vendorID, prefix) && overlaps(night) {
				target.ref, target.vendorID = night.ref, night.vendorID
				break
			}
		}
	}
	obs.rename(target.ref.ID, vendorID, target.vendorID)
	for i := range earlier {
		if earlier[i].ID == obs.ID { // the payload states the night twice; the last one counts
			a.count(obs.Metric, Counts{Dropped: 1})
			obs.seq, earlier[i] = earlier[i].seq, *obs
			*resolved = append(*resolved, target)
			return false, nil
		}
	}
	*resolved = append(*resolved, target)
	return true, nil
}

// severalSources reports whether obs is a stated night of several sources
// ("Watch|Phone") and a night is derived from the segments of one of them.
// Otherwise it records that the source has such nights.
func (d *delivery) severalSources(ctx context.Context, row mapping.Segments, obs *observation, from, to time.Time,
	a *commitAttempt) (bool, error) {
	parts := strings.Split(obs.source, "|")
	if len(parts) < 2 || len(parts) > 16 {
		return false, nil
	}
	for _, part := range parts {
		stored, err := d.storedNights(ctx, row, "night/"+sourceHash(part)+"/", from, to)
		if err != nil {
			return false, err
		}
		for i := range stored {
			if night := &stored[i]; !night.stated && night.status != statusRetracted && night.from.Before(to) &&
				from.Before(night.to) {
				a.count(obs.Metric, Counts{Unchanged: 1})
				return true, nil
			}
		}
	}
	key := d.nightPrefix() + sourceHash(obs.source)
	raw, err := d.pipeline.Store.Get(ctx, key)
	if err != nil || raw != nil {
		return false, fhir.Wrap("ingest.nights", err)
	}
	w, err := (&sourceNights{Source: obs.source}).stateWrite(key)
	if err == nil && !slices.ContainsFunc(a.batch.State, func(s store.StateWrite) bool { return s.Key == key }) {
		a.batch.State = append(a.batch.State, w)
	}
	return false, err
}

// jointNights returns the stated nights of several sources of which source is
// one.
func (d *delivery) jointNights(ctx context.Context, row mapping.Segments, source string, from,
	to time.Time) (out []storedNight, err error) {
	var prefixes []string
	var failure error
	err = d.pipeline.Store.List(ctx, d.nightPrefix(), func(_ string, raw []byte) bool {
		var nights sourceNights
		if failure = json.Unmarshal(raw, &nights); failure != nil {
			return false
		}
		if parts := strings.Split(nights.Source, "|"); len(parts) > 1 && slices.Contains(parts, source) {
			prefixes = append(prefixes, "night/"+sourceHash(nights.Source)+"/")
		}
		return true
	})
	if err == nil {
		err = failure
	}
	for _, p := range prefixes {
		if err == nil {
			var nights []storedNight
			nights, err = d.storedNights(ctx, row, p, from, to)
			out = append(out, slices.DeleteFunc(nights, func(k storedNight) bool { return !k.stated })...)
		}
	}
	return out, fhir.Wrap("ingest.nights", err)
}
