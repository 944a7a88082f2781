package uscore

import (
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// Version is the version of US Core in meta.profile, unless Source.Version names another
// one.
const Version = "9.0.0"

// Source holds an Observation with the resources that describe where it comes from.
type Source struct {
	// Observation is required. Device is the resource that it names as device, and
	// Provenance the one that has it as a target; both may be nil.
	Observation, Device, Provenance []byte
	// Vendor is the code of the vendor that the Observation comes from, or "" if a
	// client wrote it. VendorName is shown to people, and VendorURL is the URL of the
	// manufacturer's cloud, empty if the data did not come from one.
	Vendor, VendorName, VendorURL string
	// PatientRef is the reference to the patient at the receiver.
	PatientRef string

	// Base is the base URL of the FHIR API of this server. It identifies the
	// transmitter, and gives an Observation without an identifier one.
	Base string
	// Version is the version of US Core in meta.profile, and Version by default.
	Version string
	// Revision counts the values that this Observation had at the receiver before; the
	// package comment describes its use.
	Revision int
}

// observation holds the elements that the forms read.
type observation struct {
	ResourceType string `json:"resourceType"`
	ID           string `json:"id"`
	Meta         struct {
		LastUpdated string           `json:"lastUpdated"`
		Tag         []element.Coding `json:"tag"`
	} `json:"meta"`
	ImplicitRules     string                    `json:"implicitRules"`
	ModifierExtension []json.RawMessage         `json:"modifierExtension"`
	Identifier        []element.Identifier      `json:"identifier"`
	Status            string                    `json:"status"`
	Category          []element.CodeableConcept `json:"category"`
	Code              element.CodeableConcept   `json:"code"`
	Subject           element.Reference         `json:"subject"`
	Performer         []element.Reference       `json:"performer"`
	EffectiveDateTime string                    `json:"effectiveDateTime"`
	EffectivePeriod   *element.Period           `json:"effectivePeriod"`
	value
	Note      []note                   `json:"note"`
	BodySite  *element.CodeableConcept `json:"bodySite"`
	Method    *element.CodeableConcept `json:"method"`
	Component []component              `json:"component"`
}

// value holds the value of an Observation or a component. The types that no form
// writes are left out.
type value struct {
	ValueQuantity        *quantity                `json:"valueQuantity,omitempty"`
	ValueCodeableConcept *element.CodeableConcept `json:"valueCodeableConcept,omitempty"`
	DataAbsentReason     *element.CodeableConcept `json:"dataAbsentReason,omitempty"`
}

type component struct {
	ModifierExtension []json.RawMessage       `json:"modifierExtension,omitempty"`
	Code              element.CodeableConcept `json:"code"`
	value
}

// quantity is the FHIR data type Quantity. Value keeps the digits as written.
type quantity struct {
	Value      json.Number `json:"value,omitempty"`
	Comparator string      `json:"comparator,omitempty"`
	Unit       string      `json:"unit,omitempty"`
	System     string      `json:"system,omitempty"`
	Code       string      `json:"code,omitempty"`
}

// in reports whether q is a number in one of the UCUM units.
func (q *quantity) in(units []string) bool {
	return q != nil && q.Value != "" && q.Comparator == "" && q.System == element.UCUM && slices.Contains(units, q.Code)
}

// withUnit returns q with a unit for people, which US Core requires.
func (q *quantity) withUnit() *quantity {
	out := *q
	if out.Unit == "" {
		out.Unit = out.Code
	}
	return &out
}

// note is the FHIR data type Annotation without its author.
type note struct {
	Time string `json:"time,omitempty"`
	Text string `json:"text"`
}

// form is an Observation in an output form, with its elements in the order of R4.
type form struct {
	ResourceType      string                    `json:"resourceType"`
	ID                string                    `json:"id,omitempty"`
	Meta              meta                      `json:"meta"`
	Contained         []any                     `json:"contained,omitempty"`
	Identifier        []element.Identifier      `json:"identifier"`
	Status            string                    `json:"status"`
	Category          []element.CodeableConcept `json:"category"`
	Code              element.CodeableConcept   `json:"code"`
	Subject           element.Reference         `json:"subject"`
	EffectiveDateTime string                    `json:"effectiveDateTime,omitempty"`
	EffectivePeriod   *element.Period           `json:"effectivePeriod,omitempty"`
	Performer         []element.Reference       `json:"performer"`
	value
	Note      []note                   `json:"note,omitempty"`
	BodySite  *element.CodeableConcept `json:"bodySite,omitempty"`
	Method    *element.CodeableConcept `json:"method,omitempty"`
	Device    *element.Reference       `json:"device,omitempty"`
	HasMember []element.Reference      `json:"hasMember,omitempty"`
	Component []component              `json:"component,omitempty"`
}

type meta struct {
	Profile []string         `json:"profile"`
	Tag     []element.Coding `json:"tag,omitempty"`
}

// patientSupplied marks data that a patient supplied (US Core, Writing Vital Signs).
func patientSupplied() element.Coding {
	return element.Coding{System: element.HL7 + "us/core/CodeSystem/us-core-tags", Code: "patient-supplied",
		Display: "Patient Supplied"}
}

// read parses the Observation of src.
func (src *Source) read(op string) (*observation, error) {
	if src.PatientRef == "" {
		return nil, fhir.Errorf(fhir.Internal, op, "PatientRef is required")
	}
	var o observation
	if err := unmarshal(op, "Observation", src.Observation, &o); err != nil {
		return nil, err
	}
	if o.ResourceType != "Observation" {
		return nil, fhir.Errorf(fhir.Invalid, op, "the resource is not an Observation")
	}
	return &o, nil
}

// unmarshal parses a resource. Its error contains no bytes of the resource.
func unmarshal(op, typ string, body []byte, into any) error {
	if err := json.Unmarshal(body, into); err != nil {
		return fhir.Errorf(fhir.Invalid, op, "the %s is not a JSON resource of R4", typ)
	}
	return nil
}

func marshal(op string, f any) ([]byte, error) {
	b, err := json.Marshal(f)
	if err != nil {
		return nil, fhir.Errorf(fhir.Internal, op, "the resource could not be written")
	}
	return b, nil
}

// plain reports whether no element of o may change the meaning of others.
func (o *observation) plain() bool {
	return o.ImplicitRules == "" && len(o.ModifierExtension) == 0 &&
		!slices.ContainsFunc(o.Component, func(c component) bool { return len(c.ModifierExtension) > 0 })
}

// derived reports whether this server derived o from several sources.
func (o *observation) derived() bool {
	return slices.ContainsFunc(o.Meta.Tag, func(c element.Coding) bool {
		return c.System == fhir.Canonical+"/CodeSystem/measures" && c.Code == "preferred"
	})
}

// supplied reports whether the patient supplied o: it comes from a vendor or was derived
// from such values, or the patient is its only performer.
func (o *observation) supplied(vendor string) bool {
	if slices.ContainsFunc(o.Performer, func(r element.Reference) bool { return r.Reference != o.Subject.Reference }) {
		return false
	}
	return vendor != "" || o.derived() || len(o.Performer) > 0
}

// complete reports whether no later version of o is to be expected.
func (o *observation) complete() bool {
	return o.Status == "final" || o.Status == "amended" || o.Status == "corrected"
}

func (o *observation) inCategory(code string) bool {
	return slices.ContainsFunc(o.Category, func(c element.CodeableConcept) bool {
		return c.Has(element.ObservationCategory, code)
	})
}

// identifier returns the identifier of o at receivers: its first one, which in ingested
// data has the system of the vendor.
func (src *Source) identifier(o *observation) (element.Identifier, bool) {
	var id element.Identifier
	for _, have := range o.Identifier {
		if have.System != "" && have.Value != "" {
			id = have
			break
		}
	}
	if id.Value == "" {
		if src.Base == "" || o.ID == "" {
			return id, false
		}
		id = element.Identifier{System: element.URI, Value: src.Base + "/Observation/" + o.ID}
	}
	if src.Revision > 0 {
		id.Value += "/_history/" + strconv.Itoa(src.Revision)
	}
	return id, true
}

// searchEscaper escapes the separators in a search value (R4 search.html#escaping).
var searchEscaper = strings.NewReplacer(`\`, `\\`, "$", `\$`, ",", `\,`, "|", `\|`)

// criteria returns the query that finds id at a receiver.
func criteria(id element.Identifier) string {
	return "identifier=" + url.QueryEscape(searchEscaper.Replace(id.System)+"|"+searchEscaper.Replace(id.Value))
}

// base returns the elements that both forms share.
func (src *Source) base(o *observation, id element.Identifier, profile string) *form {
	patient := element.Reference{Reference: src.PatientRef}
	f := &form{ResourceType: "Observation", Meta: meta{[]string{profile}, []element.Coding{patientSupplied()}},
		Identifier: []element.Identifier{id}, Status: o.Status, Code: o.Code, Subject: patient,
		EffectiveDateTime: o.EffectiveDateTime, EffectivePeriod: o.EffectivePeriod,
		Performer: []element.Reference{patient}, Method: o.Method}
	for _, n := range o.Note {
		if n.Text != "" {
			f.Note = append(f.Note, n)
		}
	}
	return f
}
