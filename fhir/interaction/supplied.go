package interaction

import (
	"bytes"
	"encoding/json"
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/element"
)

// Writes of people follow US Core 9, "Writing Vital Signs": an Observation of a patient
// or a patient's designee gets the tag patient-supplied, which later versions keep, and a
// vital sign must conform to its profile. Backends are trusted to tag what a patient
// supplied through them, as the guide requires of them.

// supply returns res with the tag patient-supplied if the caller is a patient or a
// designee, or if the version before has the tag. Only $meta-delete by somebody else takes
// the tag away: it is the explicit reconciliation of the guide. kept is set if the tag
// comes from the version before, so that the new version tells about it.
func (s *Service) supply(rq *Request, op string, res *fhir.Resource, old *stored) (kept bool, err error) {
	if res.Type != "Observation" {
		return false, nil
	}
	side := rq.Principal.PatientSide()
	if !side && (!old.live() || old.reconciled || !suppliedByPatient(old)) {
		return false, nil
	}
	next, changed, err := withMeta(res.JSON, &suppliedTag, addMeta)
	if err != nil || !changed {
		return false, fhir.Wrap(op, err)
	}
	res.JSON = next
	return !side, nil
}

// suppliedTag adds the tag patient-supplied. It is read only.
var suppliedTag = metaChange{Tag: []rawCoding{{
	raw: json.RawMessage(`{"system":"` + access.PatientSupplied.System + `","code":"` + access.PatientSupplied.Code +
		`","display":"Patient Supplied"}`),
	Coding: element.Coding{System: access.PatientSupplied.System, Code: access.PatientSupplied.Code}}}}

// suppliedByPatient reports whether a stored version has the tag patient-supplied.
func suppliedByPatient(old *stored) bool {
	return bytes.Contains(old.res.JSON, []byte(access.PatientSupplied.Code)) &&
		slices.Contains(old.facts.Tokens("_tag"), access.PatientSupplied)
}

// vitalSigns maps the LOINC codes that R4 and US Core prescribe for a vital sign to its
// profile. All others must conform to the profile of all vital signs.
var vitalSigns = map[string]string{ // read only
	"8867-4":  usCore + "heart-rate",
	"9279-1":  usCore + "respiratory-rate",
	"8310-5":  usCore + "body-temperature",
	"8302-2":  usCore + "body-height",
	"29463-7": usCore + "body-weight",
	"39156-5": usCore + "bmi",
	"85354-9": usCore + "blood-pressure",
	"59408-5": usCore + "pulse-oximetry",
	"2708-6":  element.StructureDefinition + "oxygensat",
	"9843-4":  element.StructureDefinition + "headcircum",
}

const usCore = element.HL7 + "us/core/StructureDefinition/us-core-"

// mustConform returns an error unless a vital sign that a person writes conforms to the
// profiles of its codes. Other Observations, and those of backends, are held only to the
// profiles that they claim.
func (s *Service) mustConform(rq *Request, op string, res *fhir.Resource) error {
	check, ok := s.Validator.(Checker)
	if !ok || res.Type != "Observation" || rq.Principal == nil || !rq.Principal.Grant.Person {
		return nil
	}
	var o struct {
		Category []element.CodeableConcept `json:"category"`
		Code     element.CodeableConcept   `json:"code"`
	}
	if err := json.Unmarshal(res.JSON, &o); err != nil {
		return fhir.Wrap(op, err)
	}
	if !slices.ContainsFunc(o.Category, func(c element.CodeableConcept) bool {
		return c.Has(element.ObservationCategory, "vital-signs")
	}) {
		return nil
	}
	profiles := []string{usCore + "vital-signs"}
	for _, c := range o.Code.Coding {
		if p := vitalSigns[c.Code]; p != "" && c.System == element.LOINC && !slices.Contains(profiles, p) {
			profiles = append(profiles, p)
		}
	}
	problems, _, err := check.Check(res.Type, res.Sendable(), profiles)
	if err != nil || len(problems) == 0 {
		return err
	}
	for i := range problems { // the positions are those of the canonical form
		problems[i].Line, problems[i].Column = 0, 0
	}
	return &fhir.Error{Kind: fhir.Unprocessable, Op: op, Issues: problems}
}
