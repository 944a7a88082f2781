package uscore

import (
	"slices"

	"pulsegate/fhir/element"
)

// Ids of the contained resources.
const (
	deviceID     = "device"
	provenanceID = "provenance"
)

// device is a contained Device. Serial numbers and identifiers of the source are left
// out.
type device struct {
	ResourceType string                   `json:"resourceType"`
	ID           string                   `json:"id"`
	Manufacturer string                   `json:"manufacturer,omitempty"`
	DeviceName   []deviceName             `json:"deviceName"`
	ModelNumber  string                   `json:"modelNumber,omitempty"`
	Type         *element.CodeableConcept `json:"type,omitempty"`
}

type deviceName struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// provenance is a contained Provenance of the resource that contains it.
type provenance struct {
	ResourceType string              `json:"resourceType"`
	ID           string              `json:"id"`
	Target       []element.Reference `json:"target"`
	Recorded     string              `json:"recorded"`
	Agent        []agent             `json:"agent"`
}

type agent struct {
	Type element.CodeableConcept `json:"type"`
	Who  element.Reference       `json:"who"`
}

// contain adds the contained Device and Provenance.
func (src *Source) contain(op string, f *form, o *observation) error {
	if src.Device != nil {
		var d device
		if err := unmarshal(op, "Device", src.Device, &d); err != nil {
			return err
		}
		if d.named() {
			d.ResourceType, d.ID = "Device", deviceID
			f.Contained = append(f.Contained, &d)
			f.Device = &element.Reference{Reference: "#" + deviceID}
		}
	}
	p, err := src.provenance(op, o)
	if p != nil {
		f.Contained = append(f.Contained, p)
	}
	return err
}

// named gives d a deviceName, which US Core requires, and reports whether it has one.
func (d *device) named() bool {
	d.DeviceName = slices.DeleteFunc(d.DeviceName, func(n deviceName) bool { return n.Name == "" || n.Type == "" })
	switch {
	case len(d.DeviceName) > 0:
	case d.ModelNumber != "":
		d.DeviceName = []deviceName{{d.ModelNumber, "model-name"}}
	case d.Manufacturer != "":
		d.DeviceName = []deviceName{{d.Manufacturer, "manufacturer-name"}}
	}
	return len(d.DeviceName) > 0
}

// transmitter is the display of the transmitter if the Provenance names none.
const transmitter = "Pulsegate"

// provenance returns the contained Provenance. The author is the vendor, this server for
// derived values, or the patient for data of a client. The transmitter is this server. It
// returns nil if the time of the recording is unknown.
func (src *Source) provenance(op string, o *observation) (*provenance, error) {
	var from struct {
		Recorded string
		Agent    []agent
	}
	if src.Provenance != nil {
		if err := unmarshal(op, "Provenance", src.Provenance, &from); err != nil {
			return nil, err
		}
	}
	recorded := from.Recorded
	if recorded == "" {
		recorded = o.Meta.LastUpdated
	}
	if recorded == "" {
		return nil, nil
	}
	author := element.Reference{Reference: src.PatientRef}
	switch {
	case o.derived():
		author = element.Reference{Display: transmitter, Identifier: location(src.Base)}
	case src.Vendor != "":
		author = element.Reference{Display: src.VendorName}
		if author.Display == "" {
			author.Display = src.Vendor
		}
		author.Identifier = location(src.VendorURL)
	}
	sender := element.Reference{Display: transmitter, Identifier: location(src.Base)}
	for _, a := range from.Agent {
		if slices.ContainsFunc(a.Type.Coding, func(c element.Coding) bool { return c.Code == "transmitter" }) &&
			a.Who.Display != "" {
			sender.Display = a.Who.Display
		}
	}
	return &provenance{ResourceType: "Provenance", ID: provenanceID,
		Target: []element.Reference{{Reference: "#"}}, Recorded: recorded,
		Agent: []agent{participant("author", "Author", author), participant("transmitter", "Transmitter", sender)}}, nil
}

// location returns the identifier of an organization with this URL, or nil.
func location(url string) *element.Identifier {
	if url == "" {
		return nil
	}
	return &element.Identifier{System: element.URI, Value: url}
}

func participant(code, display string, who element.Reference) agent {
	return agent{element.CodeableConcept{Coding: []element.Coding{{System: element.ProvenanceParticipantType,
		Code:    code,
		Display: display}}}, who}
}
