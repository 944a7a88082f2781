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

// named gives nights that the source states as a whole the identity under
// which the store has them: what overlaps in time is one night, also when it
// begins at another hour now. A night that is made of segments stands.
func (d *delivery) resolveNights(ctx context.Context, obs []observation, a *commitAttempt) ([]observation, error) {
	for _, of := range d.pipeline.Mapper.Segments(d.request.Vendor) {
		isNight := func(o observation) bool { return o.Metric == of.Of }
		if !slices.ContainsFunc(obs, isNight) {
			continue
		}
		var out []observation
		var told []storedNight // of this batch
		for i := range obs {
			if o := &obs[i]; isNight(*o) {
				keep, err := d.resolveNight(ctx, of, o, out, &told, a)
				if err != nil {
					return nil, err
				}
				if !keep {
					continue
				}
			}
			out = append(out, obs[i])
		}
		obs = out
	}
	return obs, nil
}

// tell finds the night that o is. It is false when o has nothing to say.
func (d *delivery) resolveNight(ctx context.Context, of mapping.Segments, o *observation, before []observation, told *[]storedNight,
	a *commitAttempt) (keep bool, err error) {
	var s storedElements
	if err := json.Unmarshal(o.JSON, &s); err != nil {
		return false, fhir.Wrap("ingest.tell", err)
	}
	vendorID := s.identifier(fhir.Canonical + "/identifier/" + d.request.Vendor + "/source")
	at := strings.Index(vendorID, wholeMark)
	from, to, ok := s.effective()
	if !ok || at < 0 || strings.Count(vendorID, "/") < 3 {
		return true, nil
	}
	prefix := vendorID[:strings.Index(vendorID, "/")+1]
	prefix += vendorID[len(prefix):][:strings.Index(vendorID[len(prefix):], "/")+1]
	all, err := d.storedNights(ctx, of, prefix, from, to)
	if err != nil {
		return false, err
	}
	several, err := d.severalSources(ctx, of, o, from, to, a)
	if err != nil || several {
		return !several, err
	}
	overlaps := func(k *storedNight) bool {
		return k.status != statusRetracted && (k.from.Before(to) && from.Before(k.to) || k.from.Equal(from))
	}
	same := -1
	for i := range all {
		switch k := &all[i]; {
		case !overlaps(k):
		case !k.whole:
			a.count(o.Metric, Counts{Unchanged: 1})
			return false, nil
		case same < 0:
			same = i
		default: // two parts of a night have become one
			a.retractions = append(a.retractions, *k)
		}
	}
	this := storedNight{ref: fhir.Ref{Type: "Observation", ID: o.ID}, vendorID: vendorID, from: from, to: to}
	if same >= 0 {
		this.ref, this.vendorID = all[same].ref, all[same].vendorID
	} else {
		for i := range *told {
			if k := &(*told)[i]; strings.HasPrefix(k.vendorID, prefix) && overlaps(k) {
				this.ref, this.vendorID = k.ref, k.vendorID
				break
			}
		}
	}
	o.rename(this.ref.ID, vendorID, this.vendorID)
	for i := range before {
		if before[i].ID == o.ID { // the payload states it twice: its last word counts
			a.count(o.Metric, Counts{Dropped: 1})
			o.seq, before[i] = before[i].seq, *o
			*told = append(*told, this)
			return false, nil
		}
	}
	*told = append(*told, this)
	return true, nil
}

// severalSources reports whether o, a night that a source states as a whole,
// is of several ("Watch|Phone"), and the segments of one of them say it.
// Otherwise it is remembered that there are such nights.
func (d *delivery) severalSources(ctx context.Context, of mapping.Segments, o *observation, from, to time.Time,
	a *commitAttempt) (bool, error) {
	parts := strings.Split(o.source, "|")
	if len(parts) < 2 || len(parts) > 16 {
		return false, nil
	}
	for _, part := range parts {
		all, err := d.storedNights(ctx, of, "night/"+sourceHash(part)+"/", from, to)
		if err != nil {
			return false, err
		}
		for i := range all {
			if k := &all[i]; !k.whole && k.status != statusRetracted && k.from.Before(to) && from.Before(k.to) {
				a.count(o.Metric, Counts{Unchanged: 1})
				return true, nil
			}
		}
	}
	key := d.nightPrefix() + sourceHash(o.source)
	raw, err := d.pipeline.Store.Get(ctx, key)
	if err != nil || raw != nil {
		return false, fhir.Wrap("ingest.tell", err)
	}
	w, err := (&sourceNights{Source: o.source}).stateWrite(key)
	if err == nil && !slices.ContainsFunc(a.batch.State, func(s store.StateWrite) bool { return s.Key == key }) {
		a.batch.State = append(a.batch.State, w)
	}
	return false, err
}

// joint are the nights that were stated as a whole of several sources, this one
// among them.
func (d *delivery) jointNights(ctx context.Context, of mapping.Segments, source string, from,
	to time.Time) (out []storedNight, err error) {
	var prefixes []string
	var bad error
	err = d.pipeline.Store.List(ctx, d.nightPrefix(), func(_ string, raw []byte) bool {
		var n sourceNights
		if bad = json.Unmarshal(raw, &n); bad != nil {
			return false
		}
		if parts := strings.Split(n.Source, "|"); len(parts) > 1 && slices.Contains(parts, source) {
			prefixes = append(prefixes, "night/"+sourceHash(n.Source)+"/")
		}
		return true
	})
	if err == nil {
		err = bad
	}
	for _, p := range prefixes {
		if err == nil {
			var some []storedNight
			some, err = d.storedNights(ctx, of, p, from, to)
			out = append(out, slices.DeleteFunc(some, func(k storedNight) bool { return !k.whole })...)
		}
	}
	return out, fhir.Wrap("ingest.nights", err)
}
