package ingest

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// nights derives the nights of the patient of d again. They follow the segments and the
// row of the night, and no payload has delivered them.
func (r *Remapping) nights(ctx context.Context, d *delivery) error {
	for _, row := range d.pipeline.Mapper.Segments(d.request.Vendor) {
		if !r.includes(row.Of) && !r.includes(row.Metric) {
			continue
		}
		var keys []string
		err := d.pipeline.Store.List(ctx, d.nightPrefix(), func(key string, _ []byte) bool {
			keys = append(keys, strings.Clone(key))
			return true
		})
		if err != nil {
			return fhir.Wrap("ingest.Remap", err)
		}
		for _, key := range keys {
			if err := r.nightsOf(ctx, d, row, key); err != nil {
				return err
			}
		}
	}
	return nil
}

// nightsOf derives the nights of one source again.
func (r *Remapping) nightsOf(ctx context.Context, d *delivery, row mapping.Segments, key string) error {
	nights, err := d.markNights(ctx, row, key, r.request.Since, !r.request.DryRun)
	if err != nil || nights == nil {
		return err
	}
	if r.request.DryRun {
		return r.compareNights(ctx, d, row, nights)
	}
	before := d.summary.ByMetric[row.Of].Updated
	for more := true; more; {
		if more, err = d.updatePeriod(ctx, row, key); err != nil {
			return err
		}
	}
	if n := d.summary.ByMetric[row.Of].Updated - before; n > 0 {
		part := RemapReport{}
		*part.metric(row.Of) = RemapCounts{Read: n, Changed: n}
		r.job.Report.add(&part)
		r.meters.count(ctx, d.request.Vendor, &part)
	}
	return nil
}

// markNights records that all nights of a source are due, from since on. It returns nil
// if the source has no nights that are derived from segments.
func (d *delivery) markNights(ctx context.Context, row mapping.Segments, key string, since time.Time,
	write bool) (*sourceNights, error) {
	if !write {
		return d.tryMark(ctx, row, key, since, false)
	}
	var nights *sourceNights
	err := d.exclusively(ctx, func() (err error) {
		nights, err = d.tryMark(ctx, row, key, since, true)
		return err
	})
	return nights, err
}

// tryMark is one attempt of markNights.
func (d *delivery) tryMark(ctx context.Context, row mapping.Segments, key string, since time.Time,
	write bool) (*sourceNights, error) {
	raw, err := d.pipeline.Store.Get(ctx, key)
	if err != nil || raw == nil {
		return nil, fhir.Wrap("ingest.Remap", err)
	}
	nights := &sourceNights{}
	if err := json.Unmarshal(raw, nights); err != nil {
		return nil, fhir.Wrap("ingest.Remap", err)
	}
	all, err := d.spanOfNights(ctx, row, nights.Source)
	if err != nil || len(nights.Streams) == 0 || all[0] > all[1] {
		return nil, err
	}
	if !since.IsZero() {
		all[0] = max(all[0], since.Unix())
	}
	if all[0] > all[1] {
		return nil, nil
	}
	nights.Due = mergePeriods(append(nights.Due, all))
	if !write {
		return nights, nil
	}
	w, err := nights.stateWrite(key)
	if err != nil {
		return nil, err
	}
	batch := &store.Batch{State: []store.StateWrite{w}}
	d.guard(batch)
	res, err := d.pipeline.Store.Commit(ctx, batch)
	if err == nil {
		d.committed(res.Seq)
	}
	return nights, fhir.Wrap("ingest.Remap", err)
}

// spanOfNights returns the time from the first to the last stored night that is derived
// from segments of a source. The start is after the end if there is none.
func (d *delivery) spanOfNights(ctx context.Context, row mapping.Segments, source string) (period, error) {
	all := period{1, 0}
	prefix := "night/" + sourceHash(source) + "/"
	from, to := time.UnixMicro(series.MinStart).UTC(), time.UnixMicro(series.MaxStart).UTC()
	err := d.find(ctx, row.System, row.Of, from, to, []byte(prefix), func(_ *store.Found, s *storedElements) bool {
		id := s.identifier(d.sourceSystem())
		start, end, ok := s.effective()
		if !ok || !strings.HasPrefix(id, prefix) || strings.Contains(id, statedMark) || s.Status == statusRetracted {
			return true
		}
		if all[0] > all[1] {
			all = period{start.Unix(), end.Unix()}
		}
		all = period{min(all[0], start.Unix()), max(all[1], end.Unix())}
		return true
	})
	return all, err
}

// compareNights is nightsOf for a dry run.
func (r *Remapping) compareNights(ctx context.Context, d *delivery, row mapping.Segments, nights *sourceNights) error {
	part := RemapReport{}
	for len(nights.Due) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		a, err := d.deriveFirstPeriod(ctx, row, nights, d.pipeline.Clock())
		if err != nil {
			return err
		}
		for i := range a.batch.Writes {
			w := &a.batch.Writes[i]
			if w.Resource.Type != "Observation" || statusOf(w.Resource.JSON) == statusRetracted {
				continue
			}
			v, _, err := d.pipeline.Store.Read(ctx, w.Resource.Ref(), 0)
			if fhir.KindOf(err) == fhir.NotFound && err != nil {
				continue // segments that have arrived since
			}
			if err != nil {
				return fhir.Wrap("ingest.Remap", err)
			}
			c := part.metric(row.Of)
			c.Read++
			c.Changed++
			if err := r.describe(d, &KeptObservation{Resource: v}, w.Resource.JSON, false, row.Of, &part); err != nil {
				return err
			}
		}
	}
	r.job.Report.add(&part)
	return nil
}
