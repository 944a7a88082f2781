package ingest

import (
	"encoding/json"

	"pulsegate/fhir"
	"pulsegate/mapping/sample"
)

// Kept is the Sample from which a stored Observation was made, so that the mapping can
// be explained and repeated with another version of the metric table.
type Kept struct {
	Sample sample.Sample `json:"sample"`
	Format string        `json:"format,omitempty"` // of the payload
	// Row names the row that mapped the sample, as table.Pack.RowURI returns it.
	Row string `json:"row"`
}

// encode returns the value of the state for k.
func (k *Kept) encode() ([]byte, error) {
	b, err := json.Marshal(k)
	return b, fhir.Wrap("ingest.Kept", err)
}

// decodeKept reads what encode has written.
func decodeKept(b []byte) (*Kept, error) {
	k := &Kept{}
	if err := json.Unmarshal(b, k); err != nil {
		return nil, fhir.Wrap("ingest.Kept", err)
	}
	return k, nil
}
