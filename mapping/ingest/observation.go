package ingest

import (
	"bytes"

	"pulsegate/fhir/series"
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
	// kept holds the samples of which obs was made, each encoded.
	kept [][]byte
	// group and row are set if obs was a row of a series. Its samples are made of them
	// when it is written.
	group *seriesGroup
	row   series.Sample
}

// isDeletion reports whether obs says only that the vendor deleted it. It has no
// JSON.
func (obs *observation) isDeletion() bool { return obs.retracted && obs.JSON == nil }

// keptBytes returns the size of the samples of obs.
func (obs *observation) keptBytes() (n int) {
	for _, raw := range obs.kept {
		n += len(raw)
	}
	return n
}

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
