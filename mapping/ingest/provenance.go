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

// Ids of the Organizations that a Provenance names: the one behind this server,
// and by its code each vendor's. The server makes them at its start.
const (
	ServerOrganization = "pulsegate"
	VendorOrganization = "vendor-" // and the vendor's code
)

// provenance adds the Provenance of everything in a. New samples are not
// listed one by one: their target is their stream.
func (r *run) provenance(a *attempt) {
	first := ""
	if len(a.sb.Series) > 0 {
		w := &a.sb.Series[0]
		s := w.Columns.At(0)
		k := w.Template.Key(&s)
		first = k.ID()
	} else if len(a.sb.Writes) > 0 {
		first = a.sb.Writes[0].Resource.ID
	}
	id := itemID("Provenance", r.q.Patient, r.digest,
		r.p.Clock().UTC().Format(time.RFC3339Nano)+"/"+strconv.Itoa(r.batches)+"/"+first)
	a.sb.Writes = append(a.sb.Writes, store.Write{Op: store.Put, Vendor: r.q.Vendor, Expect: store.Absent,
		Resource: fhir.Resource{Type: "Provenance", ID: id, JSON: r.provenanceJSON(id, a)}})
}

func (r *run) provenanceJSON(id string, a *attempt) []byte {
	b := make([]byte, 0, 1024+64*len(a.listed)+128*len(a.streams))
	b = append(b, fhir.Prefix("Provenance", id)...)
	// The patient is a target too: R4 finds a Provenance in a patient's
	// compartment by its targets only.
	b = append(b, `},"target":[{"reference":"Patient/`...)
	b = append(b, r.q.Patient...)
	b = append(b, `"}`...)
	// In one order, whichever way the samples were stored.
	slices.Sort(a.streams)
	slices.SortFunc(a.listed, func(x, y fhir.Ref) int {
		return cmp.Or(cmp.Compare(x.Type, y.Type),
			cmp.Compare(x.ID, y.ID))
	})
	for _, s := range a.streams {
		b = append(b, `,{"type":"Observation","identifier":{"system":"`+mapping.StreamSystem+`","value":"`...)
		b = append(b, s...)
		b = append(b, `"}}`...)
	}
	for i := range a.listed {
		b = append(b, `,{"reference":"`...)
		b = append(b, a.listed[i].Type...)
		b = append(b, '/')
		b = append(b, a.listed[i].ID...)
		b = append(b, `"}`...)
	}
	b = append(b, `],"recorded":"`...)
	b = r.p.Clock().UTC().AppendFormat(b, fhir.InstantLayout)
	b = append(b, `","activity":{"coding":[{"system":"`+element.ISO21089Lifecycle+`","code":"transform","display":"Transform/Translate Record Lifecycle Event"}],"text":"vendor payload mapped to FHIR"}`...)
	// US Core Provenance: the vendor is the author; this server transmits, and
	// its software assembled what it transmits on its behalf.
	b = append(b, `,"agent":[{"type":{"coding":[{"system":"`+element.ProvenanceParticipantType+
		`","code":"author","display":"Author"}]},"who":{"reference":"Organization/`+VendorOrganization...)
	b = append(b, r.q.Vendor...)
	b = append(b, `","identifier":{"system":"`+fhir.Canonical+`/CodeSystem/vendor","value":"`...)
	b = append(b, r.q.Vendor...)
	b = append(b, `"},"display":"`...)
	b = append(b, r.q.Vendor...)
	b = append(b, `"}},{"type":{"coding":[{"system":"`+element.HL7+`us/core/CodeSystem/us-core-provenance-participant-type","code":"transmitter","display":"Transmitter"}]},"who":{"reference":"Organization/`+ServerOrganization+`","display":"Pulsegate"}}`...)
	b = append(b, `,{"type":{"coding":[{"system":"`+element.ProvenanceParticipantType+
		`","code":"assembler","display":"Assembler"}]},"who":{"display":"Pulsegate"},"onBehalfOf":{"reference":"Organization/`+ServerOrganization+`"}}],"entity":[{"role":"source","what":{"identifier":{"system":"`+fhir.Canonical+`/identifier/payload-sha256-64k","value":"`...)
	b = append(b, r.digest...)
	return append(b, `"}}}]}`...)
}
