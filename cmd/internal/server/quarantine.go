package server

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/mapping/ingest"
)

func item(x *ingest.Item, raw bool) admin.QuarantineItem {
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

// Quarantine lists what could not become a resource.
func (o operator) Quarantine(ctx context.Context, op admin.Operator, patient string) (admin.Quarantine, error) {
	out := admin.Quarantine{Items: []admin.QuarantineItem{}}
	err := o.m.pipeline.List(ctx, patient, func(x *ingest.Item) bool {
		out.Items = append(out.Items, item(x, false))
		return true
	})
	if err != nil {
		return out, err
	}
	told := []string{patient}
	for _, x := range out.Items {
		told = append(told, x.Patient)
	}
	return out, o.recordAll(ctx, o.request(op), "quarantine list",
		slices.DeleteFunc(told, func(id string) bool { return id == "" }))
}

// ShowQuarantine shows one item with its payload.
func (o operator) ShowQuarantine(ctx context.Context, op admin.Operator, id string) (admin.QuarantineItem, error) {
	x, err := o.m.pipeline.Get(ctx, id)
	if err != nil {
		return admin.QuarantineItem{}, err
	}
	// The trail names the look before the payload is out.
	if err := o.record(ctx, o.request(op), "quarantine show", x.Patient); err != nil {
		return admin.QuarantineItem{}, err
	}
	return item(&x, true), nil
}

// RetryQuarantine maps everything again.
func (o operator) RetryQuarantine(ctx context.Context, op admin.Operator) (admin.Retried, error) {
	rq := o.request(op)
	var out admin.Retried
	if err := o.record(ctx, rq, "quarantine retry", ""); err != nil {
		return out, err
	}
	count := func(x *ingest.Item) bool { out.Items++; return true }
	err := o.m.pipeline.List(ctx, "", count)
	if err != nil {
		return out, err
	}
	if out.Summary, err = o.m.pipeline.Retry(ctx, rq.Caller); err != nil {
		return out, err
	}
	out.LeftByReason = map[string]int{}
	return out, o.m.pipeline.List(ctx, "", func(x *ingest.Item) bool {
		out.Left++
		out.LeftByReason[x.Reason]++
		return true
	})
}

// zoneOf reads the patient's configured zone: the standard timezone extension
// of Patient.
func (m *Main) zoneOf(ctx context.Context, patient string) (*time.Location, error) {
	r, _, err := m.store.Read(ctx, fhir.Ref{Type: "Patient", ID: patient}, 0)
	if err != nil || r.Deleted {
		return nil, err
	}
	name := timezone(r.JSON)
	if name == "" {
		return nil, nil
	}
	// An unknown name is as good as none: the payload then goes by the rules
	// for an unknown zone.
	if l, err := time.LoadLocation(name); err == nil {
		return l, nil
	}
	return nil, nil
}

// timezone is the value of the timezone extension, "" if there is none.
func timezone(patient []byte) string {
	var p struct {
		Extension []struct {
			URL       string `json:"url"`
			ValueCode string `json:"valueCode"`
		} `json:"extension"`
	}
	if err := json.Unmarshal(patient, &p); err != nil {
		return ""
	}
	for _, e := range p.Extension {
		if e.URL == timezoneURL {
			return e.ValueCode
		}
	}
	return ""
}
