package server

import (
	"bytes"
	"context"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/store"
	"pulsegate/mapping/ingest"
)

// phoneMade receives phone-made Observations. It implements interaction.Receiver.
type phoneMade struct{ pipeline *ingest.Pipeline }

// Vendor and format of phone-made Observations.
const (
	phoneVendor = "apple"
	phoneFormat = "healthkit-fhir"
)

// request returns the delivery of one Observation.
func (m phoneMade) request(patient string) ingest.Request {
	return ingest.Request{Patient: patient, Vendor: phoneVendor, Format: phoneFormat,
		Origin: ingest.Origin{Channel: "fhir"}}
}

// Repair implements interaction.Receiver.
func (m phoneMade) Repair(ctx context.Context, patient string, body []byte) (interaction.Repaired, error) {
	req := m.request(patient)
	req.Body = bytes.NewReader(body)
	r, err := m.pipeline.Repair(ctx, req)
	return interaction.Repaired{Vendor: phoneVendor, Barred: r.Barred, Deletion: r.Deletion,
		Resource: fhir.Resource{Type: "Observation", ID: r.ID, JSON: r.JSON}}, err
}

// Receive implements interaction.Receiver.
func (m phoneMade) Receive(ctx context.Context, by audit.Caller, patient string, body []byte,
	changes bool, tie interaction.Tie) (string, bool, error) {
	req := m.request(patient)
	req.Caller, req.KeepStored, req.Again = by, !changes, tie.Again
	req.Bind = func(b *store.Batch) {
		b.Guards, b.Touches = append(b.Guards, tie.Guards...), append(b.Touches, tie.Guards...)
	}
	return m.pipeline.Receive(ctx, req, body)
}

// ReceiveAll implements interaction.Receiver.
func (m phoneMade) ReceiveAll(ctx context.Context, by audit.Caller, patient string, ids []string, bodies [][]byte,
	changes bool) ([]audit.DataRef, error) {
	req := m.request(patient)
	req.Caller, req.KeepStored = by, !changes
	received, err := m.pipeline.ReceiveAll(ctx, req, ids, bodies)
	out := make([]audit.DataRef, len(received))
	for i, r := range received {
		if r.ID != "" {
			out[i] = audit.DataRef{Ref: fhir.Ref{Type: "Observation", ID: r.ID}, Version: r.Version}
		}
	}
	return out, err
}
