package server

import (
	"context"
	"encoding/json"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/mapping/ingest"
)

// addOrganizations creates the Organizations that the Provenance of ingested
// data refers to, unless they exist: one for the operator of this server, under
// the name of its brand, and one for each vendor.
func (s *services) addOrganizations(ctx context.Context) error {
	ops, by := operations{s}, admin.Operator{Name: "server"}
	want := map[string]string{ingest.ServerOrganization: s.brand.brand.Name}
	for _, a := range s.adapters {
		want[ingest.VendorOrganization+a.Vendor()] = a.Name()
	}
	for id, name := range want {
		err := ops.publish(ctx, by, fhir.Ref{Type: "Organization", ID: id}, func(current []byte) ([]byte, error) {
			if current != nil {
				return nil, nil
			}
			body, err := json.Marshal(map[string]any{"resourceType": "Organization", "id": id, "active": true,
				"name": name})
			return body, fhir.Wrap("server.addOrganizations", err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
