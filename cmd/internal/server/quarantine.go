package server

import (
	"context"
	"slices"

	"pulsegate/cmd/internal/admin"
	"pulsegate/mapping/ingest"
)

// quarantineItem converts an item for the command line, with its payload if raw.
func quarantineItem(it *ingest.Item, raw bool) admin.QuarantineItem {
	out := admin.QuarantineItem{ID: it.ID, Patient: it.Patient, Vendor: it.Vendor, Format: it.Format, Metric: it.Metric,
		Component: it.Component, Reason: it.Reason, Where: it.Where, Detail: it.Detail, Count: it.Count,
		FirstSeen: it.FirstSeen}
	if raw {
		out.Raw = string(it.Raw)
		if len(it.Raw) == 0 {
			out.Raw = string(it.Sample)
		}
	}
	return out
}

// Quarantine lists the items that could not become resources.
func (ops operations) Quarantine(ctx context.Context, op admin.Operator, patient string) (admin.Quarantine, error) {
	out := admin.Quarantine{Items: []admin.QuarantineItem{}}
	err := ops.pipeline.List(ctx, patient, func(it *ingest.Item) bool {
		out.Items = append(out.Items, quarantineItem(it, false))
		return true
	})
	if err != nil {
		return out, err
	}
	disclosed := []string{patient}
	for _, it := range out.Items {
		disclosed = append(disclosed, it.Patient)
	}
	return out, ops.recordAll(ctx, ops.request(op), "quarantine list",
		slices.DeleteFunc(disclosed, func(id string) bool { return id == "" }))
}

// ShowQuarantine returns one item with its payload.
func (ops operations) ShowQuarantine(ctx context.Context, op admin.Operator, id string) (admin.QuarantineItem, error) {
	it, err := ops.pipeline.Get(ctx, id)
	if err != nil {
		return admin.QuarantineItem{}, err
	}
	// Record the access before the payload is disclosed.
	if err := ops.record(ctx, ops.request(op), "quarantine show", it.Patient); err != nil {
		return admin.QuarantineItem{}, err
	}
	return quarantineItem(&it, true), nil
}

// RetryQuarantine maps all items again with the current metric table.
func (ops operations) RetryQuarantine(ctx context.Context, op admin.Operator) (admin.Retried, error) {
	rq := ops.request(op)
	var out admin.Retried
	if err := ops.record(ctx, rq, "quarantine retry", ""); err != nil {
		return out, err
	}
	count := func(it *ingest.Item) bool { out.Items++; return true }
	err := ops.pipeline.List(ctx, "", count)
	if err != nil {
		return out, err
	}
	if out.Summary, err = ops.pipeline.Retry(ctx, rq.Caller); err != nil {
		return out, err
	}
	out.LeftByReason = map[string]int{}
	return out, ops.pipeline.List(ctx, "", func(it *ingest.Item) bool {
		out.Left++
		out.LeftByReason[it.Reason]++
		return true
	})
}
