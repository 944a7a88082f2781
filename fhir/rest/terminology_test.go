package rest

import (
	"encoding/json"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/store"
	"pulsegate/fhir/terminology"
)

// terminologyWorld is a world with a code system and a concept map.
func terminologyWorld(w *world) {
	w.t.Helper()
	for ref, rest := range map[fhir.Ref]string{
		{Type: "CodeSystem", ID: "animals"}: `"url":"urn:animals","version":"1","name":"Animals","status":"active","content":"complete","caseSensitive":true,"valueSet":"urn:all","property":[{"code":"legs","type":"integer"}],"concept":[{"code":"animal","display":"Animal","property":[{"code":"notSelectable","valueBoolean":true}],"concept":[{"code":"bird","display":"Bird","definition":"It flies.","designation":[{"language":"de","value":"Vogel"}],"property":[{"code":"legs","valueInteger":2}],"concept":[{"code":"owl","display":"Owl"}]},{"code":"cat","display":"Cat"}]}]`,
		{Type: "CodeSystem", ID: "part"}:    `"url":"urn:part","status":"active","content":"fragment","concept":[{"code":"a"}]`,
		{Type: "ConceptMap", ID: "m"}:       `"url":"urn:map","version":"1","status":"active","sourceUri":"urn:all","group":[{"source":"urn:animals","target":"urn:latin","element":[{"code":"cat","target":[{"code":"felis","display":"Felis","equivalence":"wider"}]},{"code":"owl","target":[{"equivalence":"unmatched"}]}]}]`,
	} {
		if _, err := w.store.Commit(w.t.Context(),
			&store.Batch{Writes: []store.Write{{Resource: fhir.Resource{Type: ref.Type,
				ID: ref.ID, JSON: []byte(fhir.Prefix(ref.Type, ref.ID) + "}," + rest + "}")}}}}); err != nil {
			w.t.Fatal(err)
		}
	}
	held, err := terminology.New(w.t.Context(), w.store, w.service.Base)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(held.Close)
	w.service.Terminology = held
}

// asked calls an operation and returns its answer, held to R4, in short: of a Parameters
// resource "name=value ...", of a ValueSet its codes.
func (w *world) asked(path, body string) string {
	w.t.Helper()
	method := "GET"
	if body != "" {
		method = "POST"
	}
	a := w.want(200, "all", method, path, body)
	d, err := validator()
	if err != nil {
		w.t.Fatal(err)
	}
	typ, _ := a.json["resourceType"].(string)
	if problems, _, err := d.Check(typ, a.body, nil); err != nil || len(problems) > 0 {
		w.t.Errorf("%s: not R4: %v %s\n%s", path, err,
			r4.OutcomeJSON(&fhir.Error{Issues: problems, Kind: fhir.Invalid}), a.body)
	}
	var out []string
	if typ == "ValueSet" {
		var v struct {
			Expansion struct {
				Total    int
				Contains []struct{ Code string }
			}
		}
		if err := json.Unmarshal(a.body, &v); err != nil {
			w.t.Fatal(err)
		}
		for _, c := range v.Expansion.Contains {
			out = append(out, c.Code)
		}
		return strings.Join(out, " ")
	}
	var parts func(list any)
	parts = func(list any) {
		xs, _ := list.([]any)
		for _, x := range xs {
			m, _ := x.(map[string]any)
			name, _ := m["name"].(string)
			if m["part"] != nil {
				out = append(out, name+"{")
				parts(m["part"])
				out = append(out, "}")
				continue
			}
			for k, v := range m {
				if strings.HasPrefix(k, "value") {
					b, err := json.Marshal(v)
					if err != nil {
						w.t.Fatal(err)
					}
					out = append(out, name+"="+strings.Trim(string(b), `"`))
				}
			}
		}
	}
	parts(a.json["parameter"])
	return strings.Join(out, " ")
}

func TestTerminologyOperations(t *testing.T) {
	w := newWorld(t, drivers["pebble"](t))
	w.want(415, "all", "GET", "/ValueSet/$expand?url=urn:all", "") // without a Terminology
	terminologyWorld(w)
	const inSet, inSystem = "/ValueSet/$validate-code?url=urn:all&", "/CodeSystem/$validate-code?url=urn:animals&"
	for path, want := range map[string]string{
		"/ValueSet/$expand?url=urn:all":                                                      "animal bird owl cat",
		"/ValueSet/$expand?url=urn:all&filter=VOGEL":                                         "bird",
		"/ValueSet/$expand?url=urn:all&filter=bi":                                            "bird",
		"/ValueSet/$expand?url=urn:all&offset=1&count=2":                                     "bird owl",
		"/ValueSet/$expand?url=urn:all&count=0":                                              "",
		"/ValueSet/$expand?url=http://hl7.org/fhir/ValueSet/administrative-gender":           "female male other unknown",
		inSet + "system=urn:animals&code=owl":                                                "result=true display=Owl",
		inSet + "system=urn:animals&code=owl&display=owl":                                    "result=true display=Owl",
		inSet + "system=urn:animals&code=bird&display=Vogel":                                 "result=true display=Bird",
		inSet + "system=urn:animals&code=owl&display=Cat":                                    "result=false message=The code is valid, but its display is another one. display=Owl",
		inSet + "coding=urn:animals|dog":                                                     "result=false message=The code is not in the value set.",
		inSet + "system=urn:other&code=owl":                                                  "result=false message=The code is not in the value set.",
		inSet + "coding=urn:animals|animal&abstract=false":                                   "result=false message=The code only groups others and cannot be chosen. display=Animal",
		inSystem + "code=owl":                                                                "result=true display=Owl",
		inSystem + "code=dog":                                                                "result=false message=The code system does not have the code.",
		inSystem + "code=animal&abstract=false":                                              "result=false message=The code only groups others and cannot be chosen. display=Animal",
		"/CodeSystem/$validate-code?coding=urn:animals|owl":                                  "result=true display=Owl",
		"/CodeSystem/animals/$validate-code?code=cat":                                        "result=true display=Cat",
		"/CodeSystem/$lookup?system=urn:animals&code=bird&property=legs":                     "name=Animals version=1 display=Bird property{ code=legs value=2 }",
		"/CodeSystem/$lookup?coding=urn:animals|owl":                                         "name=Animals version=1 display=Owl property{ code=parent value=bird }",
		"/CodeSystem/$lookup?coding=urn:animals|bird&property=definition&property=child":     "name=Animals version=1 display=Bird property{ code=definition value=It flies. } property{ code=child value=owl }",
		"/CodeSystem/$subsumes?system=urn:animals&codeA=animal&codeB=owl":                    "outcome=subsumes",
		"/CodeSystem/$subsumes?system=urn:animals&codeA=owl&codeB=bird":                      "outcome=subsumed-by",
		"/CodeSystem/$subsumes?codingA=urn:animals|owl&codingB=urn:animals|cat":              "outcome=not-subsumed",
		"/CodeSystem/animals/$subsumes?codeA=owl&codeB=owl":                                  "outcome=equivalent",
		"/ConceptMap/$translate?url=urn:map&system=urn:animals&code=cat":                     `result=true match{ equivalence=wider concept={"code":"felis","display":"Felis","system":"urn:latin"} source=urn:map }`,
		"/ConceptMap/$translate?coding=urn:animals|cat&targetsystem=urn:latin":               `result=true match{ equivalence=wider concept={"code":"felis","display":"Felis","system":"urn:latin"} source=urn:map }`,
		"/ConceptMap/m/$translate?coding=urn:latin|felis&reverse=true":                       `result=true match{ equivalence=narrower concept={"code":"cat","system":"urn:animals"} source=urn:map }`,
		"/ConceptMap/m/$translate?coding=urn:animals|owl":                                    "result=false message=No concept map that the server holds translates the code. match{ equivalence=unmatched source=urn:map }",
		"/ConceptMap/$translate?url=urn:map&coding=urn:animals|cat&source=urn:other":         "result=false message=No concept map that the server holds translates the code.",
		"/ConceptMap/$translate?url=urn:map&coding=urn:animals|cat&targetsystem=urn:nothing": "result=false message=No concept map that the server holds translates the code.",
	} {
		if got := w.asked(path, ""); got != want {
			t.Errorf("%s: %s\nwant %s", path, got, want)
		}
	}
	w.terminologyByPOST()
	w.badTerminology()
	w.hiddenTerminology()
	if w.audited("expand?url=urn:all") == 0 && w.audited("operation") == 0 {
		t.Error("no AuditEvent")
	}
}

func (w *world) terminologyByPOST() {
	w.t.Helper()
	for _, c := range [][3]string{
		{"/ValueSet/$expand", parametersOf(`{"name":"url","valueUri":"urn:all"}`,
			`{"name":"count","valueInteger":2}`), "animal bird"},
		{"/ValueSet/$expand", parametersOf(
			`{"name":"valueSet","resource":{"resourceType":"ValueSet","status":"active","compose":{"include":[{"system":"urn:animals","filter":[{"property":"concept","op":"is-a","value":"bird"}]}]}}}`), "bird owl"},
		{"/ValueSet/$validate-code", parametersOf(`{"name":"url","valueUri":"urn:all"}`,
			`{"name":"codeableConcept","valueCodeableConcept":{"coding":[{"system":"urn:x","code":"y"},{"system":"urn:animals","code":"cat"}]}}`), "result=true display=Cat"},
		{"/CodeSystem/$validate-code", parametersOf(
			`{"name":"codeSystem","resource":{"resourceType":"CodeSystem","status":"active","content":"complete","concept":[{"code":"x","display":"X"}]}}`, `{"name":"code","valueCode":"x"}`), "result=true display=X"},
		{"/CodeSystem/$lookup", parametersOf(
			`{"name":"coding","valueCoding":{"system":"urn:animals","code":"cat"}}`,
			`{"name":"property","valueCode":"legs"}`), "name=Animals version=1 display=Cat"},
		{"/CodeSystem/$subsumes", parametersOf(
			`{"name":"codingA","valueCoding":{"system":"urn:animals","code":"cat"}}`,
			`{"name":"codingB","valueCoding":{"system":"urn:animals","code":"animal"}}`), "outcome=subsumed-by"},
		{"/ConceptMap/$translate", parametersOf(
			`{"name":"conceptMap","resource":{"resourceType":"ConceptMap","status":"active","group":[{"source":"urn:animals","target":"urn:t","element":[],"unmapped":{"mode":"provided"}}]}}`, `{"name":"coding","valueCoding":{"system":"urn:animals","code":"cat"}}`), `result=true match{ equivalence=equal concept={"code":"cat","system":"urn:t"} }`},
	} {
		if got := w.asked(c[0], c[1]); got != c[2] {
			w.t.Errorf("POST %s: %s, want %s", c[0], got, c[2])
		}
	}
}

func (w *world) badTerminology() {
	w.t.Helper()
	for path, status := range map[string]int{
		"/ValueSet/$expand": 400, "/ValueSet/$expand?url=urn:nothing": 404,
		"/ValueSet/$expand?url=urn:all&url=urn:all": 400,
		"/ValueSet/$expand?url=urn:all&offset=-1":   400, "/ValueSet/$expand?url=urn:all&count=x": 400,
		"/ValueSet/$expand?url=urn:all&activeOnly=maybe": 400, "/ValueSet/$expand?url=urn:all&date=2026": 400,
		"/ValueSet/$expand?url=urn:all&nothing=1": 400, "/ValueSet/$expand?url=urn:all&valueSet=x": 400,
		"/ValueSet/$expand?url=" + strings.Repeat("a", 2049): 400,
		"/ValueSet/$expand?url=urn:all&valueSetVersion=9":    404,
		"/ValueSet/$validate-code?url=urn:all":               400, "/ValueSet/$validate-code?url=urn:all&code=owl": 400,
		"/ValueSet/$validate-code?url=urn:all&code=owl&system=urn:animals&coding=urn:animals|owl":        400,
		"/ValueSet/$validate-code?url=urn:all&coding=urn:animals|":                                       400,
		"/ValueSet/$validate-code?url=urn:all&codeableConcept=x":                                         400,
		"/ValueSet/$validate-code?url=urn:all&coding=urn:animals|owl&abstract=x":                         400,
		"/CodeSystem/$lookup?code=owl":                                                                   400,
		"/CodeSystem/$lookup?system=urn:nothing&code=owl":                                                404,
		"/CodeSystem/$lookup?system=urn:animals&code=dog":                                                404,
		"/CodeSystem/$lookup?system=http://loinc.org&code=8867-4":                                        404,
		"/CodeSystem/$lookup?system=http://hl7.org/fhir/administrative-gender&code=male":                 422,
		"/CodeSystem/$lookup?system=urn:animals&code=owl&date=2026-01-01":                                400,
		"/CodeSystem/$lookup?system=urn:animals&code=owl&displayLanguage=de&displayLanguage=fr":          400,
		"/CodeSystem/$validate-code?url=urn:part&code=b":                                                 422,
		"/CodeSystem/$validate-code?code=b":                                                              400,
		"/CodeSystem/$subsumes?system=urn:animals&codeA=owl":                                             400,
		"/CodeSystem/$subsumes?codeA=owl&codeB=cat":                                                      400,
		"/CodeSystem/$subsumes?system=urn:animals&codeA=owl&codeB=dog":                                   404,
		"/CodeSystem/$subsumes?codingA=urn:animals|owl&codingB=urn:part|a":                               400,
		"/CodeSystem/animals/$subsumes?system=urn:part&codeA=owl&codeB=cat":                              400,
		"/CodeSystem/$subsumes?system=http://hl7.org/fhir/administrative-gender&codeA=male&codeB=female": 422,
		"/ConceptMap/$translate":                                                                         400,
		"/ConceptMap/$translate?coding=urn:animals|cat&url=urn:nothing":                                  404,
		"/ConceptMap/$translate?coding=urn:animals|cat&reverse=x":                                        400,
		"/ConceptMap/$translate?coding=urn:animals|cat&dependency=x":                                     400,
		"/ConceptMap/absent/$translate?coding=urn:animals|cat":                                           404,
		"/CodeSystem/absent/$validate-code?code=x":                                                       404,
		"/Observation/$lookup?code=x":                                                                    404,
	} {
		w.want(status, "all", "GET", path, "")
	}
	w.want(400, "all", "POST", "/ValueSet/$expand", `{"resourceType":"ValueSet"}`)
	w.want(400, "all", "POST", "/ValueSet/$expand", parametersOf(`{"name":"url","valuePeriod":{"start":"2026"}}`))
	w.want(401, "", "GET", "/ValueSet/$expand?url=urn:all", "")
	w.want(403, "reader", "GET", "/ValueSet/$expand?url=urn:all", "")
}

// hiddenTerminology tests that a resource that the scopes hide is like an absent one.
func (w *world) hiddenTerminology() {
	w.t.Helper()
	w.tokens["one"] = grant(w.consents, access.Rule{Type: "CodeSystem", May: access.Read, ID: "part"},
		access.Rule{Type: "ConceptMap", May: access.Read, ID: "other"})
	hidden := w.want(404, "one", "GET", "/CodeSystem/$lookup?system=urn:animals&code=owl", "")
	absent := w.want(404, "one", "GET", "/CodeSystem/$lookup?system=urn:absent&code=owl", "")
	if string(hidden.body) != string(absent.body) {
		w.t.Errorf("%s, absent %s", hidden.body, absent.body)
	}
	w.want(404, "one", "GET", "/CodeSystem/animals/$validate-code?code=owl", "")
	w.want(200, "one", "GET", "/CodeSystem/part/$validate-code?code=a", "")
	a := w.want(200, "one", "GET", "/ConceptMap/$translate?coding=urn:animals|cat", "")
	if strings.Contains(string(a.body), "felis") {
		w.t.Errorf("a hidden map translates: %s", a.body)
	}
}

// TestTerminologyInPatch patches what a FHIRPath selects by a value set or a code system.
func TestTerminologyInPatch(t *testing.T) {
	w := newWorld(t, drivers["pebble"](t))
	coded := strings.NewReplacer("http://loinc.org", "urn:animals", "8867-4", "cat").Replace(
		observation("o", "p1", "vital-signs", 60))
	w.put("Observation/o", coded, 201)
	inSet := `Observation.where(code.coding.where(memberOf('urn:all')).exists()).status`
	a := w.want(422, "all", "PATCH", "/Observation/o", fhirPathPatch(inSet, "amended"))
	if !strings.Contains(string(a.body), "terminology") {
		t.Errorf("without terminology: %s", a.body)
	}
	terminologyWorld(w)
	a = w.want(200, "all", "PATCH", "/Observation/o", fhirPathPatch(inSet, "amended"))
	if a.json["status"] != "amended" {
		t.Errorf("memberOf: %s", a.body)
	}
	subsumed := `Observation.where(code.coding.first().subsumedBy(code.coding.first())).status`
	a = w.want(200, "all", "PATCH", "/Observation/o", fhirPathPatch(subsumed, "corrected"))
	if a.json["status"] != "corrected" {
		t.Errorf("subsumedBy: %s", a.body)
	}
	w.want(422, "all", "PATCH", "/Observation/o", fhirPathPatch(strings.Replace(inSet, "urn:all", "urn:none", 1), "final"))
}

// TestClientTerminology uses the operations with resources that a client writes, changes and
// deletes.
func TestClientTerminology(t *testing.T) {
	w := newWorld(t, drivers["pebble"](t))
	terminologyWorld(w)
	system := `{"resourceType":"CodeSystem","id":"tea","url":"urn:tea","status":"active","content":"complete",` +
		`"hierarchyMeaning":"is-a","concept":[{"code":"tea","display":"Tea","designation":[{"language":"de-CH","value":"Tee"},` +
		`{"language":"fr","value":"Thé"}],"concept":[{"code":"green","display":"Green tea"}]}]}`
	w.want(201, "all", "PUT", "/CodeSystem/tea", system)
	w.want(201, "all", "PUT", "/ValueSet/drinks", `{"resourceType":"ValueSet","id":"drinks","url":"urn:drinks",`+
		`"status":"active","compose":{"include":[{"system":"urn:tea"}]}}`)
	w.want(201, "all", "PUT", "/ConceptMap/cm", `{"resourceType":"ConceptMap","id":"cm","url":"urn:cm","status":"active",`+
		`"group":[{"source":"urn:tea","target":"urn:t","element":[{"code":"tea","target":[{"code":"x","equivalence":"equal"}]}]}]}`)
	const lookUp = "/CodeSystem/$lookup?system=urn:tea&code=tea"
	for path, want := range map[string]string{
		"/ValueSet/$expand?url=urn:drinks":                                  "tea green",
		"/ValueSet/drinks/$expand?filter=green":                             "green",
		"/ValueSet/$validate-code?url=urn:drinks&system=urn:tea&code=green": "result=true display=Green tea",
		"/CodeSystem/tea/$validate-code?code=coffee":                        "result=false message=The code system does not have the code.",
		"/CodeSystem/$subsumes?system=urn:tea&codeA=tea&codeB=green":        "outcome=subsumes",
		lookUp + "&property=child":                                          "name=urn:tea display=Tea property{ code=child value=green }",
		lookUp + "&property=designation":                                    "name=urn:tea display=Tea designation{ language=de-CH value=Tee } designation{ language=fr value=Thé }",
		lookUp + "&property=lang.fr":                                        "name=urn:tea display=Tea designation{ language=fr value=Thé }",
		lookUp + "&property=x&displayLanguage=de":                           "name=urn:tea display=Tee",
		lookUp + "&property=x&displayLanguage=FR-ca":                        "name=urn:tea display=Thé",
		lookUp + "&property=x&displayLanguage=d":                            "name=urn:tea display=Tea",
		lookUp + "&property=x&displayLanguage=it":                           "name=urn:tea display=Tea",
		"/ConceptMap/cm/$translate?system=urn:tea&code=tea":                 `result=true match{ equivalence=equal concept={"code":"x","system":"urn:t"} source=urn:cm }`,
	} {
		if got := w.asked(path, ""); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	w.want(200, "all", "PUT", "/CodeSystem/tea", strings.Replace(system, `"green"`, `"black"`, 1))
	if got := w.asked("/ValueSet/$expand?url=urn:drinks", ""); got != "tea black" {
		t.Errorf("after a change: %s", got)
	}
	w.want(204, "all", "DELETE", "/CodeSystem/tea", "")
	w.want(404, "all", "GET", lookUp, "")
	w.want(422, "all", "GET", "/ValueSet/$expand?url=urn:drinks", "")
}
