package ingest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"

	"pulsegate/adapters"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/mapping/sample"
)

// Retry maps all items in quarantine with the current table. Items that become
// resources leave quarantine in a separate commit after the resources. After a
// crash between the two commits the item is tried again, which changes nothing.
func (p *Pipeline) Retry(ctx context.Context, by audit.Caller) (Summary, error) {
	var total Summary
	var items []Item
	err := p.List(ctx, "", func(item *Item) bool {
		if item.Sample != nil || item.Raw != nil {
			items = append(items, *item)
		}
		return true
	})
	if err != nil {
		return total, err
	}
	for from := 0; from < len(items); {
		to := from
		for to < len(items) && to-from < 1000 && items[to].Patient == items[from].Patient &&
			items[to].Vendor == items[from].Vendor && items[to].Format == items[from].Format {
			to++
		}
		sum, _, err := p.retry(ctx, items[from:to], by)
		total.Add(sum)
		if err != nil && fhir.KindOf(err) != fhir.Forbidden && fhir.KindOf(err) != fhir.NotFound {
			return total, err
		}
		from = to
	}
	return total, nil
}

// retry tries items of one patient, vendor and format. It returns the number of those
// that left quarantine.
func (p *Pipeline) retry(ctx context.Context, items []Item, by audit.Caller) (_ Summary, done int, err error) {
	began := p.Clock()
	var d *delivery
	ctx, span := startSpan(ctx)
	defer func() { endSpan(span, d, err) }()
	if d, err = p.begin(ctx, Request{Patient: items[0].Patient, Vendor: items[0].Vendor, Caller: by}); err != nil {
		return Summary{}, 0, err
	}
	d.format = items[0].Format
	var ids []byte
	for i := range items {
		ids = append(ids, items[i].ID...)
	}
	digest := sha256.Sum256(ids)
	d.digest = hex.EncodeToString(digest[:])
	var released []store.StateWrite
	err = d.decodeAndCommit(ctx, func(ctx context.Context) error {
		for i := range items {
			ok, err := d.retryItem(ctx, &items[i])
			if err != nil {
				return err
			}
			if ok {
				done++
				item := &items[i]
				released = append(released, store.StateWrite{Key: item.key()})
				if item.VendorID != "" {
					released = append(released, store.StateWrite{Key: prefixOpen + item.Patient + "/" +
						subjectID(item.Vendor, item.Metric, item.VendorID) + "/" + item.ID})
				}
			}
		}
		return nil
	})
	d.summary.Seconds = p.Clock().Sub(began).Seconds()
	if err != nil {
		err = d.recordFailure(ctx, err, "")
	}
	if err != nil || len(released) == 0 {
		return d.summary, 0, err
	}
	event := d.auditEvent(audit.Operator, audit.Success)
	event.Interaction, event.Extra = "quarantine-release", [][2]string{{"items", strconv.Itoa(len(released))}}
	_, err = audit.Commit(ctx, p.Store, p.Audit, &store.Batch{State: released}, event)
	return d.summary, done, fhir.Wrap("ingest.Retry", err)
}

// retryItem tries one item and reports whether all of it became resources. What
// is rejected again is already in quarantine.
func (d *delivery) retryItem(ctx context.Context, item *Item) (ok bool, err error) {
	t, ok, err := d.samplesOf(ctx, item)
	if err != nil || !ok {
		return false, err
	}
	if item.Component != "" && len(t.samples) == 1 {
		return d.completeObservation(ctx, item, &t.samples[0])
	}
	for i := range t.samples {
		if _, err := d.pipeline.Mapper.Map(nil, d.request.Vendor, &t.samples[i], d.request.Patient,
			d.zone); err != nil {
			return false, nil
		}
	}
	for i := range t.samples {
		if err := d.Sample(&t.samples[i]); err != nil {
			return false, err
		}
	}
	return len(t.samples) > 0, nil
}

// samplesOf returns the samples of an item. It reports false if the item cannot be read.
func (d *delivery) samplesOf(ctx context.Context, item *Item) (t *collector, ok bool, err error) {
	t = &collector{}
	if item.Sample != nil {
		var s sample.Sample
		if json.Unmarshal(item.Sample, &s) != nil {
			return t, false, nil
		}
		t.samples = append(t.samples, s)
		return t, true, nil
	}
	in := adapters.Input{Format: item.Format, Hint: strings.Split(item.Metric, ".")[0],
		Body: bytes.NewReader(item.Raw), Zone: d.zone, Received: item.FirstSeen}
	if d.adapter.Decode(ctx, in, t) != nil || t.rejected {
		return t, false, ctx.Err()
	}
	return t, true, nil
}

// completeObservation writes the Observation of a component in quarantine
// again, with the component. If the component is part of the Observation's id,
// the incomplete Observation is retracted.
func (d *delivery) completeObservation(ctx context.Context, item *Item, s *sample.Sample) (done bool, err error) {
	if stale, err := d.isOutdated(ctx, item); err != nil || stale {
		return stale, err
	}
	res, err := d.pipeline.Mapper.Map(nil, d.request.Vendor, s, d.request.Patient, d.zone)
	if err != nil || len(res.Left) > 0 {
		return false, nil
	}
	if res.ID != item.Observation {
		partial := *s
		partial.Components = nil
		for _, c := range s.Components {
			if c.Name != item.Component {
				partial.Components = append(partial.Components, c)
			}
		}
		mapped, err := d.pipeline.Mapper.Map(nil, d.request.Vendor, &partial, d.request.Patient, d.zone)
		if err != nil || mapped.ID != item.Observation {
			return false, nil
		}
		partial.Status = sample.Retracted
		if err := d.Sample(&partial); err != nil {
			return false, err
		}
	}
	return true, d.Sample(s)
}

// isOutdated reports whether the Observation that a component was left out of
// has changed since, so that the item is outdated.
func (d *delivery) isOutdated(ctx context.Context, item *Item) (bool, error) {
	heads, err := d.pipeline.Store.Heads(ctx, []fhir.Ref{{Type: "Observation", ID: item.Observation}})
	if err != nil {
		return false, fhir.Wrap("ingest.Retry", err)
	}
	h := heads[0]
	return h.Version == 0 || h.Deleted || hex.EncodeToString(h.Hash[:]) != item.Content, nil
}

// collector is an adapters.Sink that keeps the samples of one item.
type collector struct {
	samples  []sample.Sample
	rejected bool
}

func (t *collector) Sample(s *sample.Sample) error {
	kept := *s
	kept.Components = append([]sample.Component(nil), s.Components...)
	kept.Device.Facts = append([]sample.Fact(nil), s.Device.Facts...)
	kept.Value.Series = cloneSeries(s.Value.Series)
	for i := range kept.Components {
		kept.Components[i].Value.Series = cloneSeries(kept.Components[i].Value.Series)
	}
	t.samples = append(t.samples, kept)
	return nil
}

func cloneSeries(s *sample.SeriesData) *sample.SeriesData {
	if s == nil {
		return nil
	}
	clone := *s
	return &clone
}

func (t *collector) Reject(*sample.Reject) error { t.rejected = true; return nil }

func (t *collector) Drop(string, string, int) {}

func (t *collector) Progress(int64) {}
