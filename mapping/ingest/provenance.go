package ingest

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// Ids of the Organizations that a Provenance names: the organization of this
// server and the vendors. The server creates them when it starts.
const (
	ServerOrganization = "pulsegate"
	VendorOrganization = "vendor-" // followed by the vendor's code
)

// provenance adds the Provenance of everything in a. The targets of new samples
// are their streams, not the samples.
func (d *delivery) provenance(a *commitAttempt) {
	first := ""
	if len(a.batch.Series) > 0 {
		w := &a.batch.Series[0]
		s := w.Columns.At(0)
		k := w.Template.Key(&s)
		first = k.ID()
	} else if len(a.batch.Writes) > 0 {
		first = a.batch.Writes[0].Resource.ID
	}
	id := itemID("Provenance", d.request.Patient, d.digest,
		d.pipeline.Clock().UTC().Format(time.RFC3339Nano)+"/"+strconv.Itoa(d.commits)+"/"+first)
	a.batch.Writes = append(a.batch.Writes, store.Write{Op: store.Put, Vendor: d.request.Vendor, Expect: store.Absent,
		Resource: fhir.Resource{Type: "Provenance", ID: id, JSON: d.provenanceJSON(id, a)}})
}

func (d *delivery) provenanceJSON(id string, a *commitAttempt) []byte {
	b := make([]byte, 0, 1024+64*len(a.targets)+128*len(a.streams))
	b = append(b, fhir.Prefix("Provenance", id)...)
	// The patient is a target too, because in R4 a Provenance is in the
	// compartment of a patient only by its targets.
	b = append(b, `},"target":[{"reference":"Patient/`...)
	b = append(b, d.request.Patient...)
	b = append(b, `"}`...)
	// The order must not depend on how the samples are stored.
	slices.Sort(a.streams)
	slices.SortFunc(a.targets, func(x, y fhir.Ref) int {
		return cmp.Or(cmp.Compare(x.Type, y.Type),
			cmp.Compare(x.ID, y.ID))
	})
	for _, s := range a.streams {
		b = append(b, `,{"type":"Observation","identifier":{"system":"`+mapping.StreamSystem+`","value":"`...)
		b = append(b, s...)
		b = append(b, `"}}`...)
	}
	for i := range a.targets {
		b = append(b, `,{"reference":"`...)
		b = append(b, a.targets[i].Type...)
		b = append(b, '/')
		b = append(b, a.targets[i].ID...)
		b = append(b, `"}`...)
	}
	b = append(b, `],"recorded":"`...)
	b = d.pipeline.Clock().UTC().AppendFormat(b, fhir.InstantLayout)
	b = append(b, `","activity":{"coding":[{"system":"`+element.ISO21089Lifecycle...)
	switch {
	case a.sweeping:
		b = append(b, `","code":"deprecate"}],"text":"retracted, because the vendor no longer holds it"}`...)
	case d.remap != "":
		b = append(b, `","code":"transform","display":"Transform/Translate Record Lifecycle Event"}],"text":"stored samples mapped to FHIR again with another version of the mapping pack"}`...)
	default:
		b = append(b, `","code":"transform","display":"Transform/Translate Record Lifecycle Event"}],"text":"vendor payload mapped to FHIR"}`...)
	}
	// US Core Provenance: the vendor is the author, this server is the
	// transmitter, and its software assembled the data on behalf of the server.
	b = append(b, `,"agent":[{"type":{"coding":[{"system":"`+element.ProvenanceParticipantType+
		`","code":"author","display":"Author"}]},"who":{"reference":"Organization/`+VendorOrganization...)
	b = append(b, d.request.Vendor...)
	b = append(b, `","identifier":{"system":"`+fhir.Canonical+`/CodeSystem/vendor","value":"`...)
	b = append(b, d.request.Vendor...)
	b = append(b, `"},"display":"`...)
	b = append(b, d.request.Vendor...)
	b = append(b, `"}},{"type":{"coding":[{"system":"`+element.HL7+
		`us/core/CodeSystem/us-core-provenance-participant-type","code":"transmitter","display":"Transmitter"}]},"who":{"reference":"Organization/`+ServerOrganization+`","display":"Pulsegate"}}`...)
	b = append(b, `,{"type":{"coding":[{"system":"`+element.ProvenanceParticipantType+
		`","code":"assembler","display":"Assembler"}]},"who":{"display":"Pulsegate"},"onBehalfOf":{"reference":"Organization/`+ServerOrganization+`"}}],"entity":[{"role":"source","what":{"identifier":{"system":"`+fhir.Canonical+`/identifier/`...)
	b = append(b, d.digestName()...)
	b = append(b, `","value":"`...)
	b = append(b, d.digest...)
	b = append(b, `"}}}`...)
	slices.Sort(a.rows) // the order of metrics, which does not depend on the secret
	for _, metric := range a.rows {
		b = append(b, d.pipeline.Mapper.RowEntities(d.request.Vendor, metric)...)
	}
	b = d.request.Origin.appendEntity(b)
	return append(b, `]}`...)
}

// digestName returns the name of the digest that identifies the payload or the
// retraction, or of the id of the job that maps stored samples again.
func (d *delivery) digestName() string {
	switch {
	case d.retracting:
		return "retraction-sha256"
	case d.remap != "":
		return "remap-job"
	}
	return "payload-sha256-64k"
}

// appendEntity appends the entity of a Provenance that says how the payload
// arrived: the link as identifier and the channel as display.
func (origin *Origin) appendEntity(b []byte) []byte {
	if *origin == (Origin{}) {
		return b
	}
	b = append(b, `,{"role":"source","what":{`...)
	if origin.Link != "" {
		b = append(b, `"identifier":{"system":"`+fhir.Canonical+`/identifier/link","value":"`...)
		b = append(b, origin.Link...)
		b = append(b, `"}`...)
	}
	if origin.Link != "" && origin.Channel != "" {
		b = append(b, ',')
	}
	if origin.Channel != "" {
		b = append(b, `"display":"`...)
		b = append(b, origin.Channel...)
		b = append(b, '"')
	}
	return append(b, `}}`...)
}
