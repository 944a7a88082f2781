// Package sample makes small valid resources of all types from the tables of
// fhir/definitions, for tests of other packages.
//
// It owns sample values of the primitive types and the composition of resources with
// only the elements that R4 and its invariants require, and places of the caller's choice.
package sample

import (
	"strings"

	"pulsegate/fhir/definitions"
)

// primitives holds a valid value of each primitive type.
var primitives = map[definitions.Primitive]string{ // read only
	definitions.Boolean: "true", definitions.Integer: "-7", definitions.PositiveInt: "7",
	definitions.UnsignedInt: "0", definitions.Decimal: "1.50", definitions.String: `"text"`,
	definitions.Markdown: `"*text*"`, definitions.Code: `"a-code"`, definitions.ID: `"id-1"`,
	definitions.URI: `"http://a.test/x"`, definitions.URL: `"http://a.test/x"`,
	definitions.Canonical: `"http://a.test/x|1"`, definitions.OID: `"urn:oid:1.2.3"`,
	definitions.UUID:   `"urn:uuid:53fefa32-fcbb-4ff8-8a92-55ee120877b7"`,
	definitions.Base64: `"aGVsbG8="`, definitions.Date: `"2024-02-29"`, definitions.DateTime: `"2026-03-01"`,
	definitions.Instant: `"2026-03-01T08:00:00Z"`, definitions.Time: `"08:30:00"`,
	definitions.LanguageTag: `"en"`, definitions.MediaType: `"text/plain"`, definitions.Currency: `"EUR"`,
	definitions.XHTML: `"<div xmlns=\"http://www.w3.org/1999/xhtml\">text</div>"`,
}

// Minimal returns an object with the elements that st requires, and with extra as the
// value of the member name unless it is empty. The name may begin with an underscore. An
// object without required elements has one that is optional.
func Minimal(st *definitions.Structure, name, extra string) string {
	var members []member
	if extra != "" {
		members = []member{{name, extra}}
	}
	return object(st, members)
}

// member is a member of an object with its value in JSON.
type member struct{ name, value string }

// object returns an object with members and the other elements that st requires.
func object(st *definitions.Structure, members []member) string {
	var out []string
	if st.Kind == definitions.Resource {
		out = append(out, `"resourceType":"`+st.Name+`"`)
	}
	done := uint64(0)
	for _, x := range members {
		out = append(out, `"`+x.name+`":`+x.value)
		done |= 1 << st.LookupString(strings.TrimPrefix(x.name, "_")).Element
	}
	for i := range st.Members {
		m := &st.Members[i]
		if bit := uint64(1) << m.Element; st.Required&bit != 0 && done&bit == 0 {
			done |= bit
			out = append(out, `"`+m.Name+`":`+List(m, Value(m)))
		}
	}
	if len(out) == 0 {
		for i := range st.Members {
			if m := &st.Members[i]; m.Name != "id" && m.Name != "extension" && m.Name != "modifierExtension" {
				return `{"` + m.Name + `":` + List(m, Value(m)) + "}"
			}
		}
		return `{"extension":[{"url":"http://a.test","valueCode":"c"}]}`
	}
	return "{" + strings.Join(out, ",") + "}"
}

// List returns a value of a member, in an array if the member is repeated.
func List(m *definitions.Member, s string) string {
	if m.Many {
		return "[" + s + "]"
	}
	return s
}

// Value returns a valid value of a member, without the array of a repeated one.
func Value(m *definitions.Member) string {
	switch {
	case m.Codes != nil && m.Primitive == definitions.Code:
		return `"` + m.Codes.Systems[0].Codes[0] + `"`
	case m.Codes != nil:
		s := &m.Codes.Systems[0]
		coding := `{"system":"` + s.URL + `","code":"` + s.Codes[0] + `"}`
		if m.Structure.Name == "CodeableConcept" {
			return `{"coding":[` + coding + `]}`
		}
		return coding
	case m.Primitive != definitions.NotPrimitive:
		return primitives[m.Primitive]
	case m.Structure == nil:
		return `{"resourceType":"Basic","id":"b","code":{"text":"x"}}`
	case m.Structure.Name == "Reference":
		if m.Targets != nil {
			return `{"reference":"` + m.Targets.Names()[0] + `/1"}`
		}
		return `{"reference":"Basic/1"}`
	case m.Structure.Name == "Extension":
		return `{"url":"http://a.test","valueCode":"c"}`
	}
	return Minimal(m.Structure, "", "")
}

// Values returns valid values of a member: all codes of its binding, and a reference to
// each of its targets.
func Values(m *definitions.Member) []string {
	out := []string{Value(m)}
	switch {
	case m.Codes != nil && m.Primitive == definitions.Code:
		for _, s := range m.Codes.Systems {
			for _, c := range s.Codes {
				out = append(out, `"`+c+`"`)
			}
		}
	case m.Targets != nil:
		for _, t := range m.Targets.Names() {
			out = append(out, `{"reference":"`+t+`/1"}`)
		}
	}
	return out
}

// Place is an element in a resource and its value in JSON.
type Place struct {
	// Path has the names of the members from the root of the resource.
	Path []string
	// Values has one value, or several for a path with a repeated element: the first
	// such element is then repeated.
	Values []string
}

// With returns an object with values at some places and what st requires besides. It
// returns false if st has no such place, if a place is not repeated and has several
// values, or if two places begin with the same member.
func With(st *definitions.Structure, places ...Place) (string, bool) {
	var members []member
	for _, p := range places {
		m := st.LookupString(p.Path[0])
		if m == nil {
			return "", false
		}
		values, ok := below(m, p)
		if !ok {
			return "", false
		}
		for _, x := range members {
			if st.LookupString(x.name).Element == m.Element {
				return "", false
			}
		}
		members = append(members, member{m.Name, List(m, strings.Join(values, ","))})
	}
	return object(st, members), true
}

// below returns the values of the member with which a place begins.
func below(m *definitions.Member, p Place) ([]string, bool) {
	if len(p.Path) == 1 {
		return p.Values, m.Many || len(p.Values) == 1
	}
	if m.Structure == nil {
		return nil, false
	}
	sets := [][]string{p.Values}
	if m.Many {
		sets = nil
		for _, v := range p.Values {
			sets = append(sets, []string{v})
		}
	}
	var out []string
	for _, values := range sets {
		s, ok := With(m.Structure, Place{p.Path[1:], values})
		if !ok {
			return nil, false
		}
		out = append(out, s)
	}
	return out, true
}

// Member returns the member of st at the end of a path, or nil.
func Member(st *definitions.Structure, path []string) *definitions.Member {
	var m *definitions.Member
	for _, name := range path {
		if st == nil {
			return nil
		}
		if m = st.LookupString(name); m == nil {
			return nil
		}
		st = m.Structure
	}
	return m
}

// demanded holds, for the types of which the required elements alone violate an invariant,
// what is replaced in their text, and by what.
var demanded = map[string][2]string{ // read only
	"AllergyIntolerance": {`}`, `,"verificationStatus":{"coding":[{"system":"http://terminology.hl7.org/` +
		`CodeSystem/allergyintolerance-verification","code":"entered-in-error"}]}}`},
	"Appointment":                {`"arrived"`, `"proposed"`},
	"AppointmentResponse":        {`}`, `,"participantType":[{"text":"x"}]}`},
	"CapabilityStatement":        {`"capability"`, `"requirements","description":"x","rest":[{"mode":"server"}]`},
	"Consent":                    {`}`, `,"patient":{"reference":"Patient/1"},"policyRule":{"text":"x"}}`},
	"EventDefinition":            {`"data-access-ended"`, `"named-event","name":"x"`},
	"ImmunizationRecommendation": {`"forecastStatus"`, `"vaccineCode":[{"text":"x"}],"forecastStatus"`},
	"InsurancePlan":              {`}`, `,"name":"x"}`},
	"Linkage":                    {`"item":[`, `"item":[{"type":"source","resource":{"reference":"Basic/1"}},`},
	"MolecularSequence":          {`-7`, `1`},
	"Organization":               {`}`, `,"name":"x"}`},
	"RequestGroup":               {`"participant":[`, `"resource":{"reference":"Task/1"},"participant":[`},
	"StructureDefinition": {`}`, `,"differential":{"element":[{"id":"http://a.test/x",` +
		`"path":"http://a.test/x"}]}}`},
	"TerminologyCapabilities": {`"capability"`, `"requirements","description":"x"`},
}

// Resource returns the smallest valid resource of a type with the values, or false if the
// type has no such elements.
func Resource(typ, id string, places ...Place) (string, bool) {
	body, ok := With(definitions.R4().Structure(typ), places...)
	if !ok {
		return "", false
	}
	switch d := demanded[typ]; {
	case typ == "Appointment" && !strings.Contains(body, `"actor"`):
		return Resource(typ, id, append(places, Place{Path: []string{"participant", "actor"},
			Values: []string{`{"reference":"Device/1"}`}})...)
	case d[0] == "}": // at the end of the resource
		body = strings.TrimSuffix(body, "}") + d[1]
	case d[0] != "":
		body = strings.ReplaceAll(body, d[0], d[1])
	}
	return strings.Replace(body, `"resourceType":"`+typ+`"`, `"resourceType":"`+typ+`","id":"`+id+`"`, 1), true
}
