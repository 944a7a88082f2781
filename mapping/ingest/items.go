package ingest

import (
	"context"
	"encoding/json"
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// addItems adds the quarantined items of b. An item that is already stored
// keeps its FirstSeen.
func (d *delivery) addItems(ctx context.Context, b *batch, sb *store.Batch) error {
	byKey := map[string]*Item{}
	var order []*Item
	for _, copied := range b.items { // another attempt needs the unchanged items
		item := &copied
		if err := d.stripUncovered(ctx, item); err != nil {
			return err
		}
		if first := byKey[item.key()]; first != nil {
			first.Count++
			continue
		}
		byKey[item.key()] = item
		order = append(order, item)
	}
	for _, item := range b.overrun {
		order = append(order, &item)
	}
	for _, item := range order {
		old, err := d.pipeline.Store.Get(ctx, item.key())
		if err != nil {
			return fhir.Wrap("ingest.quarantine", err)
		}
		if old != nil {
			var stored Item
			if err := json.Unmarshal(old, &stored); err != nil {
				return fhir.Wrap("ingest.quarantine", err)
			}
			if stored.Count >= item.Count {
				continue
			}
			item.FirstSeen = stored.FirstSeen
		}
		v, err := json.Marshal(item)
		if err != nil {
			return fhir.Wrap("ingest.quarantine", err)
		}
		sb.State = append(sb.State, store.StateWrite{Key: item.key(), Value: v})
		if item.VendorID != "" {
			s := subjectID(item.Vendor, item.Metric, item.VendorID)
			sb.State = append(sb.State, store.StateWrite{Key: prefixOpen + item.Patient + "/" + s + "/" + item.ID,
				Value: []byte("1")})
			if d.openItems != nil && !slices.Contains(d.openItems[s], item.ID) {
				d.openItems[s] = append(d.openItems[s], item.ID)
			}
		}
	}
	return nil
}

// stripUncovered removes the vendor's bytes from an item if the consent does
// not cover its categories, and leaves a count. The category of a metric
// without a row is unknown, so only a consent to all categories covers it.
func (d *delivery) stripUncovered(ctx context.Context, item *Item) error {
	ok, err := d.covered(ctx, d.pipeline.Mapper.Categories(item.Vendor, item.Metric))
	if err != nil || ok {
		return err
	}
	item.Raw, item.Sample, item.Where, item.VendorID = nil, nil, "", ""
	item.Detail = "counted without raw bytes: the consent does not cover it"
	item.ID = itemID(item.Vendor, item.Format, item.Metric, item.Reason, "uncovered", d.digest)
	return nil
}

// releaseResolved removes the items from quarantine that an Observation in b
// resolves, such as a night that was incomplete in an earlier payload. Items of
// b itself stay.
func (d *delivery) releaseResolved(ctx context.Context, b *batch, a *commitAttempt) error {
	held := map[string]bool{}
	for i := range b.items {
		held[b.items[i].ID] = true
	}
	for i := range b.observations {
		obs := &b.observations[i]
		if obs.vendorID == "" {
			continue
		}
		if err := d.loadOpenItems(ctx); err != nil {
			return err
		}
		if len(d.openItems) == 0 {
			return nil
		}
		for _, s := range subjectIDs(d.request.Vendor, obs) {
			for _, id := range d.openItems[s] {
				if !held[id] {
					a.batch.State = append(a.batch.State,
						store.StateWrite{Key: prefixQuarantine + d.request.Patient + "/" + id},
						store.StateWrite{Key: prefixOpen + d.request.Patient + "/" + s + "/" + id})
					held[id] = true
				}
			}
		}
	}
	return nil
}

// loadOpenItems lists the quarantined items with a vendor's id, once per
// delivery.
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
