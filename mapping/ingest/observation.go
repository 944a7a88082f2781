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
func (o *observation) rename(id, was, vendorID string) {
	if id == o.ID && was == vendorID {
		return
	}
	o.JSON = bytes.ReplaceAll(o.JSON, []byte(`"`+o.ID+`"`), []byte(`"`+id+`"`))
	o.JSON = bytes.ReplaceAll(o.JSON, []byte(`"`+was+`"`), []byte(`"`+vendorID+`"`))
	o.ID, o.Hash = id, store.ContentHash(o.JSON)
}
