package server

import (
	"context"
	"encoding/json"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/mapping/ingest"
)

// openOrganizations makes the Organizations that the Provenance of ingested
// data names, where they are not there yet: the one behind this server, under
// the name of its brand, and each vendor's.
func (m *Main) openOrganizations(ctx context.Context) error {
	o, by := operator{m}, admin.Operator{Name: "server"}
	want := map[string]string{ingest.ServerOrganization: m.brand.Name}
	for _, a := range m.adapters {
		want[ingest.VendorOrganization+a.Vendor()] = a.Name()
	}
	for id, name := range want {
		there, err := m.known(ctx, fhir.Ref{Type: "Organization", ID: id})
		if err != nil {
			return err
		}
		if there {
			continue
		}
		body, err := json.Marshal(map[string]any{"resourceType": "Organization", "id": id, "active": true,
			"name": name})
		if err != nil {
			return fhir.Wrap("server.openOrganizations", err)
		}
		if _, err := o.put(ctx, o.request(by), "Organization", id, body); err != nil {
			return err
		}
	}
	return nil
}
