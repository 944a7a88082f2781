package rest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir/internal/fixtures"
)

// packedParameters returns the SearchParameters of a package of HL7 by id.
func packedParameters(t *testing.T, file string) map[string][]byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if b, err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		var res struct{ ResourceType, ID string }
		if path.Ext(h.Name) == ".json" && json.Unmarshal(b, &res) == nil && res.ResourceType == "SearchParameter" {
			out[res.ID] = b
		}
	}
}

// ownOfUSCore has a search for each parameter that US Core defines itself, and the
// resource that it must find. R4 has none of these codes.
var ownOfUSCore = map[string][3]string{ // read only; id: type, elements, search
	"us-core-careteam-role": {"CareTeam",
		`"subject":{"reference":"Patient/p1"},"participant":[{"role":[{"coding":[{"system":"http://snomed.info/sct","code":"17561000"}]}]}]`,
		"role=http://snomed.info/sct|17561000"},
	"us-core-condition-asserted-date": {"Condition", `"subject":{"reference":"Patient/p1"},"extension":[{` +
		`"url":"http://hl7.org/fhir/StructureDefinition/condition-assertedDate","valueDateTime":"2026-02-03"}]`,
		"asserted-date=2026-02"},
	"us-core-encounter-discharge-disposition": {"Encounter", `"status":"finished","class":{"code":"AMB"},"subject":{"reference":"Patient/p1"},` +
		`"hospitalization":{"dischargeDisposition":{"coding":[{"system":"urn:d","code":"01"}]}}`,
		"discharge-disposition=urn:d|01"},
	"us-core-ethnicity": {"Patient", `"extension":[{"url":"http://hl7.org/fhir/us/core/StructureDefinition/us-core-ethnicity",` +
		`"extension":[{"url":"ombCategory","valueCoding":{"system":"urn:oid:2.16.840.1.113883.6.238","code":"2135-2"}},` +
		`{"url":"text","valueString":"Hispanic"}]}]`, "ethnicity=2135-2"},
	"us-core-goal-description": {"Goal", `"lifecycleStatus":"active","subject":{"reference":"Patient/p1"},` +
		`"description":{"coding":[{"system":"urn:g","code":"walk"}]}`, "description=urn:g|walk"},
	"us-core-patient-gender-identity": {"Patient", `"extension":[{"url":"http://hl7.org/fhir/us/core/StructureDefinition/us-core-genderIdentity",` +
		`"valueCodeableConcept":{"coding":[{"system":"urn:i","code":"x"}]}}]`, "gender-identity=x"},
	"us-core-race": {"Patient", `"extension":[{"url":"http://hl7.org/fhir/us/core/StructureDefinition/us-core-race",` +
		`"extension":[{"url":"ombCategory","valueCoding":{"system":"urn:oid:2.16.840.1.113883.6.238","code":"2028-9"}},` +
		`{"url":"text","valueString":"Asian"}]}]`, "race=2028-9"},
}

// refusedOfUSCore has the element for which the answer gives the reason. US Core 6.1.0 names
// the choice element Extension.value[x] by its JSON name valueDateTime, which is no FHIRPath:
// in an expression, a choice element has its name without the type (R4 fhirpath.html#poly). 7.0.0 has mended it.
var refusedOfUSCore = map[string]string{ // read only
	"us_core_610.tgz us-core-condition-asserted-date": "SearchParameter.expression",
}

// TestUSCoreParameters writes all SearchParameters of US Core's releases as resources. Those
// that are derived from R4's parameters document expectations, and R4's answer the
// searches; the others find what they are about, before and after the index is built.
func TestUSCoreParameters(t *testing.T) {
	root := fixtures.Dir(t, "r4")
	for _, file := range []string{"us_core_610.tgz", "us_core_700.tgz", "us_core_900.tgz"} {
		t.Run(file, func(t *testing.T) {
			d := openDefinable(t, vfs.NewMem())
			defer d.close()
			d.put("Patient/p1", `{"resourceType":"Patient","id":"p1"}`, 201)
			n := 0
			for id, own := range ownOfUSCore {
				d.put(own[0]+"/"+id, `{"resourceType":"`+own[0]+`","id":"`+id+`",`+own[1]+`}`, 201)
			}
			all := packedParameters(t, filepath.Join(root, file))
			for id, body := range all {
				a := d.do("all", "PUT", "/SearchParameter/"+id, string(body))
				if element := refusedOfUSCore[file+" "+id]; element != "" {
					if a.status != 422 || !strings.Contains(string(a.body), element) {
						t.Errorf("%s: %d %s", id, a.status, a.body)
					}
					delete(all, id)
					continue
				}
				if a.status != 201 {
					t.Errorf("%s: %d %s", id, a.status, a.body)
					continue
				}
				var p struct {
					Code, Type, URL string
					Base            []string
				}
				if err := json.Unmarshal(body, &p); err != nil {
					t.Fatal(err)
				}
				d.finds("all", "SearchParameter?url="+p.URL, "SearchParameter/"+id)
				for _, base := range p.Base {
					value := map[string]string{"date": "2026", "token": "x", "reference": "Patient/x", "string": "x"}[p.Type]
					if p.Code == "questionnaire" {
						value = "http://x.test/q"
					}
					if a := d.do("all", "GET", "/"+base+"?"+p.Code+"="+value, ""); a.status != 200 {
						t.Errorf("%s: %d %s", id, a.status, a.body)
					}
				}
				if own, ok := ownOfUSCore[id]; ok {
					n++
					d.finds("all", own[0]+"?"+own[2], own[0]+"/"+id)
				}
			}
			if len(all) < 100 || n < 6 {
				t.Errorf("%d SearchParameters, %d of US Core itself", len(all), n)
			}
			d.reindex()
			for id, own := range ownOfUSCore {
				if all[id] != nil {
					d.finds("all", own[0]+"?"+own[2], own[0]+"/"+id)
					d.finds("all", own[0]+"?"+strings.Split(own[2], "=")[0]+"=1999")
				}
			}
		})
	}
}
