// Package element holds the FHIR R4 data types that the server itself builds
// or reads, the URLs of the code systems it uses, and the functions that append
// JSON to a byte slice.
//
// It owns: Coding, CodeableConcept, Identifier, Reference, Period, Extension
// and Narrative, each with the elements that this server uses; AppendString and
// AppendHTMLSafe; the constants for code systems.
//
// It does not own: validation of untrusted resources (fhir/r4), which covers
// every element of a type. It imports no other package of this module.
package element

import "slices"

// Coding is the FHIR data type Coding.
type Coding struct {
	System  string `json:"system,omitempty"`
	Code    string `json:"code,omitempty"`
	Display string `json:"display,omitempty"`
}

// Append appends c as JSON and leaves out empty elements. appendString writes
// the strings; the callers differ in how they escape.
func (c Coding) Append(b []byte, appendString func(b []byte, s string) []byte) []byte {
	b = append(b, '{')
	if c.System != "" {
		b = appendString(appendKey(b, "system"), c.System)
	}
	if c.Code != "" {
		b = appendString(appendKey(b, "code"), c.Code)
	}
	if c.Display != "" {
		b = appendString(appendKey(b, "display"), c.Display)
	}
	return append(b, '}')
}

// CodeableConcept is the FHIR data type CodeableConcept.
type CodeableConcept struct {
	Coding []Coding `json:"coding,omitempty"`
	Text   string   `json:"text,omitempty"`
}

// NewConcept returns a CodeableConcept with one Coding and no text.
func NewConcept(system, code string) CodeableConcept {
	return CodeableConcept{Coding: []Coding{{System: system, Code: code}}}
}

// Has reports whether one of the codings of c has this system and code.
func (c *CodeableConcept) Has(system, code string) bool {
	return slices.ContainsFunc(c.Coding, func(have Coding) bool { return have.System == system && have.Code == code })
}

// Identifier is the FHIR data type Identifier.
type Identifier struct {
	System string `json:"system,omitempty"`
	Value  string `json:"value,omitempty"`
}

// Reference is the FHIR data type Reference.
type Reference struct {
	Reference  string      `json:"reference,omitempty"`
	Identifier *Identifier `json:"identifier,omitempty"`
	Display    string      `json:"display,omitempty"`
}

// Period is the FHIR data type Period. Start and End are FHIR dateTimes as
// written; an empty one is an open end.
type Period struct {
	Start string `json:"start,omitempty"`
	End   string `json:"end,omitempty"`
}

// Extension is the FHIR data type Extension. It has either nested extensions or
// one of the values.
type Extension struct {
	URL            string      `json:"url"`
	ValueString    string      `json:"valueString,omitempty"`
	ValueURI       string      `json:"valueUri,omitempty"`
	ValueCanonical string      `json:"valueCanonical,omitempty"`
	Extension      []Extension `json:"extension,omitempty"`
}

// Narrative is the FHIR data type Narrative.
type Narrative struct {
	Status string `json:"status"`
	Div    string `json:"div"` // XHTML
}
