package ingest

import (
	"bytes"

	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// observation is one mapped sample in a batch.
type observation struct {
	mapping.Result
	seq         uint64 // its place in the batch
	preliminary bool
	retracted   bool
	revision    int64
	source      string
	coarse      bool
	joined      bool // stored for two ids of the vendor's: what it leaves out stands
	vendorID    string
}

// rename gives o another identity.
func (obs *observation) rename(id, oldVendorID, vendorID string) {
	if id == obs.ID && oldVendorID == vendorID {
		return
	}
	obs.JSON = bytes.ReplaceAll(obs.JSON, []byte(`"`+obs.ID+`"`), []byte(`"`+id+`"`))
	obs.JSON = bytes.ReplaceAll(obs.JSON, []byte(`"`+oldVendorID+`"`), []byte(`"`+vendorID+`"`))
	obs.ID, obs.Hash = id, store.ContentHash(obs.JSON)
}
