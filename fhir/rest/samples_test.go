package rest

import (
	"encoding/json"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/definitions"
	"pulsegate/fhir/definitions/sample"
	"pulsegate/fhir/search"
)

func referenceTo(ref string) string { return `{"reference":"` + ref + `"}` }

// patientCase is a resource that names patients, the first one by the parameter code.
type patientCase struct {
	typ, id, code string
	patients      []string
	body          string
}

// patientCases returns resources of every type that needs a consent: one for each search
// parameter that puts the type into a Patient's compartment, and one with two patients
// where the element is repeated.
func patientCases(t *testing.T) (out []patientCase) {
	t.Helper()
	for _, typ := range fhir.Types {
		codes := search.Compartment(typ)["Patient"]
		if !access.NeedsConsent(typ) || len(codes) == 0 {
			continue
		}
		if _, single := access.PatientParam(typ); single { // other parameters name no subject
			codes = access.PatientCodes(typ)
		}
		before := len(out)
		for _, code := range codes {
			p, ok := search.Lookup(typ, code)
			if !ok {
				t.Fatalf("%s has no parameter %s", typ, code)
			}
			for i := range p.Paths {
				path := &p.Paths[i]
				m := sample.Member(definitions.R4().Structure(typ), path.Steps)
				if m == nil || m.Targets != nil && !m.Targets.Has("Patient") {
					continue
				}
				id := strings.ToLower(typ) + "-" + code
				named := func(id string, patients ...string) bool {
					refs := []string{}
					for _, p := range patients {
						refs = append(refs, referenceTo("Patient/"+p))
					}
					body, ok := sample.Resource(typ, id, sample.Place{Path: path.Steps, Values: refs})
					if ok && strings.Contains(body, `"Patient/1"`) && len(patients) == 1 && patients[0] == "p1" {
						return false // another element names a patient, too
					}
					if ok {
						out = append(out, patientCase{typ: typ, id: id, code: code, patients: []string{"p2", "p3"},
							body: strings.ReplaceAll(body, "Patient/1", "Patient/p2")})
					}
					return ok
				}
				if named(id, "p1") {
					out[len(out)-1].patients = []string{"p1"}
					named(id+"-2", "p2", "p3")
				} else if named(id, "p3") {
					out[len(out)-1].patients = []string{"p3", "p2"}
				} else {
					continue
				}
				break
			}
		}
		if len(out) == before {
			t.Errorf("%s: no resource that names a patient", typ)
		}
	}
	return out
}

// TestSamplesAreValid tests that a minimal resource of every type is valid.
func TestSamplesAreValid(t *testing.T) {
	d, err := validator()
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range fhir.Types {
		body, ok := sample.Resource(typ, "x")
		if !ok {
			t.Errorf("%s: the elements that invariants demand do not exist", typ)
			continue
		}
		if !json.Valid([]byte(body)) {
			t.Errorf("%s: no JSON: %s", typ, body)
		}
		if _, err := d.Resource(typ, []byte(body), "x"); err != nil {
			t.Errorf("%s: %v: %s", typ, err, body)
		}
	}
	for _, c := range patientCases(t) {
		if _, err := d.Resource(c.typ, []byte(c.body), c.id); err != nil {
			t.Errorf("%s: %v: %s", c.id, err, c.body)
		}
	}
	t.Log(len(patientCases(t)), "cases")
}
