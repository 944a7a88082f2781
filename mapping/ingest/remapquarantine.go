package ingest

import (
	"context"
	"encoding/json"
	"strings"

	"pulsegate/fhir"
)

// quarantine tries the items of the vendor in quarantine again, patient by patient. It
// comes before the samples: an item for a component names the content of the
// Observation that lacks it.
func (r *Remapping) quarantine(ctx context.Context) error {
	patient := r.request.Patient
	for {
		if r.request.Patient == "" {
			var err error
			if patient, err = r.pipeline.nextQuarantined(ctx, patient); err != nil || patient == "" {
				return err
			}
		}
		if err := r.items(ctx, patient); err != nil || r.request.Patient != "" {
			return err
		}
		r.notify()
	}
}

// nextQuarantined returns the first patient after the given one with items in
// quarantine, or "".
func (p *Pipeline) nextQuarantined(ctx context.Context, after string) (next string, err error) {
	from := prefixQuarantine
	if after != "" {
		from += after + "0" // the character after a slash
	}
	err = p.Store.ListFrom(ctx, prefixQuarantine, from, func(key string, _ []byte) bool {
		next, _, _ = strings.Cut(strings.Clone(key[len(prefixQuarantine):]), "/")
		return false
	})
	return next, fhir.Wrap("ingest.Remap", err)
}

// items tries the items of one patient again, in chunks of bounded size.
func (r *Remapping) items(ctx context.Context, patient string) error {
	from := ""
	for {
		var items []Item
		var failure error
		err := r.pipeline.Store.ListFrom(ctx, prefixQuarantine+patient+"/", prefixQuarantine+patient+"/"+from,
			func(_ string, raw []byte) bool {
				var item Item
				if failure = json.Unmarshal(raw, &item); failure != nil {
					return false
				}
				if item.Vendor == r.request.Vendor && r.includes(item.Metric) &&
					(item.Sample != nil || item.Raw != nil) &&
					item.ID != from {
					items = append(items, item)
				}
				return len(items) < remapBatch
			})
		if err == nil {
			err = failure
		}
		if err != nil || len(items) == 0 {
			return fhir.Wrap("ingest.Remap", err)
		}
		from = items[len(items)-1].ID
		if err := r.retry(ctx, patient, items); err != nil {
			return err
		}
	}
}

// retry tries items of one patient again and counts them.
func (r *Remapping) retry(ctx context.Context, patient string, items []Item) error {
	released := 0
	var err error
	if r.request.DryRun {
		released, err = r.countMapped(ctx, patient, items)
	} else {
		for start := 0; start < len(items) && err == nil; {
			end := start
			for end < len(items) && items[end].Format == items[start].Format {
				end++
			}
			var n int
			_, n, err = r.pipeline.retry(ctx, items[start:end], r.request.Caller)
			released += n
			start = end
		}
	}
	if k := fhir.KindOf(err); err != nil && (k == fhir.Forbidden || k == fhir.NotFound || k == fhir.Gone) {
		err = nil // the patient or the consent is gone
	}
	r.job.Report.Items += len(items)
	r.job.Report.Released += released
	return err
}

// countMapped returns how many of the items would become resources.
func (r *Remapping) countMapped(ctx context.Context, patient string, items []Item) (n int, err error) {
	d, err := r.delivery(ctx, patient)
	if err != nil {
		return 0, err
	}
	for i := range items {
		item := &items[i]
		t, ok, err := d.samplesOf(ctx, item)
		if err != nil {
			return n, err
		}
		for j := range t.samples {
			res, err := d.pipeline.Mapper.Map(nil, d.request.Vendor, &t.samples[j], d.request.Patient, d.zone)
			ok = ok && err == nil && (item.Component == "" || len(res.Left) == 0)
		}
		if ok && len(t.samples) > 0 {
			n++
		}
	}
	return n, nil
}
