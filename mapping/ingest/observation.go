package ingest

import (
	"bytes"

	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// observation is one mapped sample in a batch.
type observation struct {
	mapping.Result
	seq         uint64 // position in the batch
	preliminary bool
	retracted   bool
	revision    int64
	source      string
	coarse      bool
	vendorID    string
	shared      bool // see sample.Sample.SharedID
	// joined is set if the Observation is stored for two ids of the vendor's.
	// Components that obs lacks are then kept.
	joined bool
}

// isDeletion reports whether obs says only that the vendor deleted it. It has no
// JSON.
func (obs *observation) isDeletion() bool { return obs.retracted && obs.JSON == nil }

// rename gives obs another id and another id of the vendor's.
func (obs *observation) rename(id, oldVendorID, vendorID string) {
	if id == obs.ID && oldVendorID == vendorID {
		return
	}
	if obs.isDeletion() {
		obs.ID = id
		return
	}
	obs.JSON = bytes.ReplaceAll(obs.JSON, []byte(`"`+obs.ID+`"`), []byte(`"`+id+`"`))
	obs.JSON = bytes.ReplaceAll(obs.JSON, []byte(`"`+oldVendorID+`"`), []byte(`"`+vendorID+`"`))
	obs.ID, obs.Hash = id, store.ContentHash(obs.JSON)
}
