package server

import (
	"context"
	"slices"

	"pulsegate/cmd/internal/admin"
	"pulsegate/mapping/ingest"
)

// quarantineItem converts an item for the command line, with its payload if raw.
func quarantineItem(x *ingest.Item, raw bool) admin.QuarantineItem {
	out := admin.QuarantineItem{ID: x.ID, Patient: x.Patient, Vendor: x.Vendor, Format: x.Format, Metric: x.Metric,
		Component: x.Component, Reason: x.Reason, Where: x.Where, Detail: x.Detail, Count: x.Count,
		FirstSeen: x.FirstSeen}
	if raw {
		out.Raw = string(x.Raw)
		if len(x.Raw) == 0 {
			out.Raw = string(x.Sample)
		}
	}
	return out
}

// Quarantine lists the items that could not become resources.
func (ops operations) Quarantine(ctx context.Context, op admin.Operator, patient string) (admin.Quarantine, error) {
	out := admin.Quarantine{Items: []admin.QuarantineItem{}}
	err := ops.pipeline.List(ctx, patient, func(x *ingest.Item) bool {
		out.Items = append(out.Items, quarantineItem(x, false))
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
	count := func(x *ingest.Item) bool { out.Items++; return true }
	err := ops.pipeline.List(ctx, "", count)
	if err != nil {
		return out, err
	}
	if out.Summary, err = ops.pipeline.Retry(ctx, rq.Caller); err != nil {
		return out, err
	}
	out.LeftByReason = map[string]int{}
	return out, ops.pipeline.List(ctx, "", func(x *ingest.Item) bool {
		out.Left++
		out.LeftByReason[x.Reason]++
		return true
	})
}
