package server

import (
	"context"
	"encoding/json"

	"pulsegate/fhir"
	"pulsegate/mapping/ingest"
)

// addOrganizations creates the Organizations that the Provenance of ingested
// data refers to, unless they exist: one for the operator of this server, under
// the name of its brand, and one for each vendor.
func (s *services) addOrganizations(ctx context.Context) error {
	want := map[string]string{ingest.ServerOrganization: s.brand.brand.Name}
	for _, a := range s.adapters {
		want[ingest.VendorOrganization+a.Vendor()] = a.Name()
	}
	for id, name := range want {
		ref := fhir.Ref{Type: "Organization", ID: id}
		if found, err := exists(ctx, s.store, ref); err != nil {
			return err
		} else if found {
			continue
		}
		body, err := json.Marshal(map[string]any{"resourceType": "Organization", "id": id, "active": true,
			"name": name})
		if err != nil {
			return fhir.Wrap("server.addOrganizations", err)
		}
		if err := s.publish(ctx, ref, body); err != nil {
			return err
		}
	}
	return nil
}
