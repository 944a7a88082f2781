package ingest

import (
	"context"
	"encoding/hex"
	"encoding/json"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
	"pulsegate/mapping/sample"
)

// leave accounts for the components that mapping left out of s. Each that
// breaks a rule is held in quarantine with the whole sample, so that a retry
// can complete the Observation; a zero that stands for "not measured" is
// counted only.
func (d *delivery) quarantineLeftOut(s *sample.Sample, res *mapping.Result) error {
	var raw json.RawMessage
	for _, x := range res.Left {
		if x.Reason == sample.DropPlaceholder {
			d.batch.count(res.Metric, Counts{LeftOut: 1})
			continue
		}
		if raw == nil {
			b, err := json.Marshal(s)
			if raw = b; err != nil || len(b) > d.limits.KeepRaw {
				raw = json.RawMessage{}
			}
		}
		it := d.item(x.Reason, res.Metric, "", componentDetail(x.Component, x.Rule))
		it.Component, it.VendorID = x.Component, s.VendorID
		if it.Component == "" {
			it.Component = "series"
		}
		it.Observation, it.Content = res.ID, hex.EncodeToString(res.Hash[:])
		if len(raw) > 0 {
			it.Sample = raw
		} else {
			it.Detail += "; too large to keep"
		}
		it.ID = itemID(it.Vendor, it.Format, it.Metric, it.Reason, it.Component, res.ID, string(raw))
		if err := d.quarantine(it); err != nil {
			return err
		}
	}
	return nil
}

func componentDetail(component, rule string) string {
	if component == "" {
		return rule
	}
	return "component " + component + ": " + rule
}

// restated reports whether the Observation that it was left out of is another
// one by now: then what is held is out of date.
func (d *delivery) isOutdated(ctx context.Context, it *Item) (bool, error) {
	heads, err := d.pipeline.Store.Heads(ctx, []fhir.Ref{{Type: "Observation", ID: it.Observation}})
	if err != nil {
		return false, fhir.Wrap("ingest.Retry", err)
	}
	h := heads[0]
	return h.Version == 0 || h.Deleted || hex.EncodeToString(h.Hash[:]) != it.Content, nil
}

// complete writes the Observation of a held component anew, now with the
// component. Where the component is part of the Observation's identity, the
// incomplete one is retracted.
func (d *delivery) completeObservation(ctx context.Context, it *Item, s *sample.Sample) (done bool, err error) {
	if stale, err := d.isOutdated(ctx, it); err != nil || stale {
		return stale, err
	}
	res, err := d.pipeline.Mapper.Map(nil, d.request.Vendor, s, d.request.Patient, d.zone)
	if err != nil || len(res.Left) > 0 {
		return false, nil
	}
	if res.ID != it.Observation {
		old := *s
		old.Components = nil
		for _, c := range s.Components {
			if c.Name != it.Component {
				old.Components = append(old.Components, c)
			}
		}
		was, err := d.pipeline.Mapper.Map(nil, d.request.Vendor, &old, d.request.Patient, d.zone)
		if err != nil || was.ID != it.Observation {
			return false, nil
		}
		old.Status = sample.Retracted
		if err := d.Sample(&old); err != nil {
			return false, err
		}
	}
	return true, d.Sample(s)
}

// roomOpen holds, for items with a vendor's id, PATIENT/SUBJECT/ITEM, so that
// they can be found when the thing they were about becomes readable.
const prefixOpen = "ingest/open/"

// subject returns the identity shared by an item and an Observation with the
// same id of the vendor.
func subjectID(vendor, metric, vendorID string) string {
	return itemID("subject", vendor, metric, vendorID)
}

// subjectsOf are the subjects that an Observation settles: its own metric, and
// the document that the metric is a field of ("sleep" of "sleep.average_hrv").
func subjectIDs(vendor string, o *observation) []string {
	out := []string{subjectID(vendor, o.Metric, o.vendorID)}
	for i := range len(o.Metric) {
		if o.Metric[i] == '.' {
			return append(out, subjectID(vendor, o.Metric[:i], o.vendorID))
		}
	}
	return out
}

// openItems lists the quarantined items with a subject, once a run.
func (d *delivery) loadOpenItems(ctx context.Context) error {
	if d.openItems != nil {
		return nil
	}
	open := map[string][]string{}
	prefix := prefixOpen + d.request.Patient + "/"
	err := d.pipeline.Store.List(ctx, prefix, func(key string, _ []byte) bool {
		if rest := key[len(prefix):]; len(rest) > idLength {
			s := rest[:idLength]
			open[s] = append(open[s], rest[idLength+1:])
		}
		return true
	})
	if err != nil {
		return fhir.Wrap("ingest.quarantine", err)
	}
	d.openItems = open
	return nil
}

// idLength is the length of an item's id: 16 bytes in base32.
const idLength = 26

// settled removes from quarantine what earlier payloads could not say of the
// Observations in b: a night in progress that is complete now. Items of this
// batch stay.
func (d *delivery) releaseResolved(ctx context.Context, b *batch, a *commitAttempt) error {
	held := map[string]bool{}
	for i := range b.items {
		held[b.items[i].ID] = true
	}
	for i := range b.obs {
		o := &b.obs[i]
		if o.vendorID == "" {
			continue
		}
		if err := d.loadOpenItems(ctx); err != nil {
			return err
		}
		if len(d.openItems) == 0 {
			return nil
		}
		for _, s := range subjectIDs(d.request.Vendor, o) {
			for _, id := range d.openItems[s] {
				if !held[id] {
					a.batch.State = append(a.batch.State, store.StateWrite{Key: prefixQuarantine + d.request.Patient + "/" + id},
						store.StateWrite{Key: prefixOpen + d.request.Patient + "/" + s + "/" + id})
					held[id] = true
				}
			}
		}
	}
	return nil
}
