// Package forms offers the output forms of package uscore to the operation $ehr-bundle
// of package fhir/interaction.
//
// It owns the names of the forms, the searches that select the Observations for them, and
// the selection from dense streams. It reads no store.
package forms

import (
	"strings"

	"pulsegate/fhir/element"
	"pulsegate/fhir/interaction"
	"pulsegate/mapping/uscore"
)

// Vendor describes the author of the data of a vendor.
type Vendor struct {
	Name string // shown to people
	URL  string // of the manufacturer's cloud; empty if the data come from a phone
}

// PhysicalActivity is the name of the form of the Physical Activity guide. The other form
// is interaction.DefaultForm.
const PhysicalActivity = "physical-activity"

// All returns the forms by name. Vendors holds the vendors by code.
func All(vendors map[string]Vendor) map[string]interaction.Form {
	return map[string]interaction.Form{
		interaction.DefaultForm: {
			Query: [][2]string{{"category", element.ObservationCategory + "|vital-signs"}},
			Dense: uscore.Dense,
			Write: func(src *interaction.FormSource) ([]interaction.FormEntry, error) {
				body, query, ok, err := uscore.VitalSign(sourceOf(src, vendors))
				if err != nil || !ok {
					return nil, err
				}
				return []interaction.FormEntry{{FullURL: uscore.FullURL(query), IfNoneExist: query, JSON: body}}, nil
			},
		},
		PhysicalActivity: {
			Transaction: true,
			Query: [][2]string{{"code",
				element.LOINC + "|" + strings.Join(uscore.ActivityCodes(), ","+element.LOINC+"|")}},
			Write: func(src *interaction.FormSource) ([]interaction.FormEntry, error) {
				entries, _, err := uscore.PhysicalActivity(sourceOf(src, vendors))
				out := make([]interaction.FormEntry, 0, len(entries))
				for _, e := range entries {
					out = append(out, interaction.FormEntry{FullURL: e.FullURL, IfNoneExist: e.IfNoneExist,
						JSON: e.JSON})
				}
				return out, err
			},
		},
	}
}

func sourceOf(src *interaction.FormSource, vendors map[string]Vendor) *uscore.Source {
	v := vendors[src.Vendor]
	return &uscore.Source{Observation: src.Observation, Device: src.Device, Vendor: src.Vendor, VendorName: v.Name,
		VendorURL: v.URL, PatientRef: src.Subject, Base: src.Base}
}
