package rest

import (
	"fmt"
	"strings"
	"testing"
)

// ward is more data, of types beside the library's.
var ward = []string{
	`{"resourceType":"Location","id":"house","name":"House"}`,
	`{"resourceType":"Location","id":"room","name":"Room","partOf":{"reference":"Location/house"}}`,
	`{"resourceType":"Encounter","id":"visit","status":"finished","class":{"code":"AMB"},"subject":{"reference":"Patient/ada"},"location":[{"location":{"reference":"Location/room"}}],"participant":[{"individual":{"reference":"Practitioner/doc"}}],"length":{"value":140,"unit":"min","system":"http://unitsofmeasure.org","code":"min"}}`,
	`{"resourceType":"Medication","id":"pill","code":{"coding":[{"code":"aspirin"}]}}`,
	`{"resourceType":"MedicationRequest","id":"rx","status":"active","intent":"order","medicationReference":{"reference":"Medication/pill"},"subject":{"reference":"Patient/ada"},"encounter":{"reference":"Encounter/visit"},"requester":{"reference":"Practitioner/doc"}}`,
	`{"resourceType":"MedicationDispense","id":"dose","status":"completed","medicationReference":{"reference":"Medication/pill"},"subject":{"reference":"Patient/ada"},"authorizingPrescription":[{"reference":"MedicationRequest/rx"}],"performer":[{"actor":{"reference":"Practitioner/doc"}}]}`,
	`{"resourceType":"Condition","id":"flu","code":{"text":"Flu"},"subject":{"reference":"Patient/ada"},"encounter":{"reference":"Encounter/visit"},"onsetDateTime":"2026-09"}`,
	`{"resourceType":"List","id":"plan","status":"current","mode":"changes","subject":{"reference":"Patient/ada"},"entry":[{"item":{"reference":"MedicationRequest/rx"}},{"item":{"reference":"Observation/hr"}},{"deleted":true,"item":{"reference":"Observation/panel"}}]}`,
	`{"resourceType":"RelatedPerson","id":"mother","patient":{"reference":"Patient/ada"},"name":[{"family":"Byron"}]}`,
	`{"resourceType":"Observation","id":"outside","status":"final","code":{"text":"x"},"subject":{"reference":"Patient/eve"},"encounter":{"reference":"Encounter/visit"},"contained":[{"resourceType":"Device","id":"d","manufacturer":"Acme"}],"device":{"reference":"#d"}}`,
}

func (w *world) settle() {
	w.t.Helper()
	w.shelve()
	for _, body := range ward {
		f := strings.Split(body, `"`)
		w.put(f[3]+"/"+f[7], body, 201)
	}
}

// TestSearchOfManyTypes tests searches that join the types of a hospital.
func TestSearchOfManyTypes(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.settle()
		w.run([]searchCase{
			{"#list", "MedicationRequest?_list=plan", "MedicationRequest/rx", ""},
			{"#list: a type of entries, without deleted ones", "Observation?_list=plan", "Observation/hr", ""},
			{"#list: with parameters", "Observation?_list=plan&status=amended", "", ""},
			{"#list: absent", "Observation?_list=none", "", ""},
			{"#list: by a chain of _has", "Observation?_has:List:item:_id=plan", "Observation/hr Observation/panel",
				""},
			{"#chaining", "MedicationDispense?prescription.encounter.location.partof.name=house",
				"MedicationDispense/dose", ""},
			{"#chaining", "Condition?encounter.participant:Practitioner.family=strange", "Condition/flu", ""},
			{"#chaining: medication", "MedicationRequest?medication.code=aspirin", "MedicationRequest/rx", ""},
			{"#chaining: not into contained resources", "Observation?device.manufacturer=acme", "Observation/hr", ""},
			{"#has", "Encounter?_has:Condition:encounter:code:text=flu", "Encounter/visit", ""},
			{"#has: and a chain", "Encounter?patient._has:Group:member:_id=study", "Encounter/visit", ""},
			{"#quantity: a Duration", "Encounter?length=gt2|http://unitsofmeasure.org|h", "Encounter/visit", ""},
			{"#quantity: a Duration", "Encounter?length=gt3|http://unitsofmeasure.org|h", "", ""},
			{"#include: R4's example", "MedicationDispense?_include=MedicationDispense:prescription&_include:iterate=MedicationRequest:requester",
				"MedicationDispense/dose", "MedicationRequest/rx Practitioner/doc"},
			{"#include: R4's example", "MedicationRequest?_include=MedicationRequest:patient&_revinclude=MedicationDispense:prescription",
				"MedicationRequest/rx", "Patient/ada MedicationDispense/dose"},
			{"#include: contained targets are not included", "Observation?_id=outside&_include=Observation:device",
				"Observation/outside", ""},
			{"#include: iterated over a hierarchy",
				"Encounter?_include=Encounter:location&_include:iterate=Location:partof",
				"Encounter/visit", "Location/room Location/house"},
			{"#revinclude: all parameters", "Encounter?_revinclude=MedicationRequest:*", "Encounter/visit",
				"MedicationRequest/rx"},
			{"compartmentdefinition-encounter.html", "Encounter/visit/Condition?", "Condition/flu", ""},
			{"compartmentdefinition-encounter.html", "Encounter/visit/*?_type=Condition,MedicationRequest,Encounter",
				"Condition/flu MedicationRequest/rx Encounter/visit", ""},
			{"compartmentdefinition-relatedperson.html", "RelatedPerson/mother/RelatedPerson?",
				"RelatedPerson/mother", ""},
			{"compartmentdefinition-patient.html", "Patient/ada/Condition?onset-date=2026-09", "Condition/flu", ""},
			{"compartmentdefinition-practitioner.html", "Practitioner/doc/Encounter?", "Encounter/visit", ""},
			{"#all: _lastUpdated", "Location?_lastUpdated=gt2020-01-01", "Location/room Location/house", ""},
			{"#all: _id", "?_id=room,flu", "Location/room Condition/flu", ""},
		})
		for query, status := range map[string]int{
			"Observation?_list=$current-medications": 400, "Observation?_list=a/b/c": 400,
			"Observation?_text=x": 400, "Observation?_content=x": 400, "Observation?_contained=true": 400,
			"Observation?_contained=false": 200, "Observation?_query=x": 400,
			"Patient/ada/_search": 404,
		} {
			w.want(status, "all", "GET", "/"+query, "")
		}
	})
}

// TestListIsHidden tests that a List that the caller may not see is no list.
func TestListIsHidden(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.settle()
		w.put("List/others", `{"resourceType":"List","id":"others","status":"current","mode":"working","subject":{"reference":"Patient/bob"},"entry":[{"item":{"reference":"Observation/hr"}}]}`, 201)
		for denied, want := range map[bool]int{false: 1, true: 0} {
			w.consents.set("bob", denied)
			if a := w.want(200, "all", "GET", "/Observation?_list=others", ""); len(a.modes("match")) != want {
				t.Errorf("denied %t: %s", denied, a.body)
			}
		}
		w.want(403, "reader", "GET", "/Observation?_list=plan", "")
	})
}

// TestJoinsAreForbiddenWithoutScope tests that the token must cover the types of a chain.
func TestJoinsAreForbiddenWithoutScope(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.settle()
		w.want(403, "reader", "GET", "/Observation?patient.family=love", "")
		w.want(403, "reader", "GET", "/Observation?_filter=patient.family%20eq%20love", "")
		w.want(403, "patients", "GET", "/Patient?_has:Observation:patient:code=8867-4", "")
		// A reference to several types is followed to those that the token covers.
		if a := w.want(200, "vitals", "GET", "/Observation?subject.name=x", ""); len(a.modes("match")) != 0 {
			t.Errorf("%s", a.body)
		}
		// A type that may not be searched is not included.
		if a := w.want(200, "patients", "GET", "/Patient?_id=ada&_revinclude=Observation:patient",
			""); len(a.modes("include")) != 0 {
			t.Errorf("%s", a.body)
		}
	})
}

// TestJoinsAreDisclosed tests that the audit trail names each patient whose data decided
// a match, and tells no patient the part of the query about another.
func TestJoinsAreDisclosed(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.settle()
		count := func(patient string, has ...string) int {
			return w.audited(append(has, `"reference":"Patient/`+patient+`"`)...)
		}
		before := map[string]int{"ada": count("ada"), "bob": count("bob"), "eve": count("eve")}
		moved := func(query string, want ...string) {
			t.Helper()
			w.want(200, "all", "GET", "/"+query, "")
			for p, n := range before {
				now := count(p)
				named := false
				for _, x := range want {
					named = named || x == p
				}
				if (now > n) != named {
					t.Errorf("%s: %s has %d events, had %d", query, p, now, n)
				}
				before[p] = now
			}
		}
		moved("Organization?_has:Patient:organization:family=lovelace", "ada")
		moved("Organization?_has:Patient:organization:_has:Observation:patient:code=29463-7", "bob")
		moved("Practitioner?_has:Patient:general-practitioner:gender=female", "ada")
		moved("Group?member:Patient.family=marley", "bob") // the member that decided; a Group is in no compartment
		moved("Organization?_filter=_has:Patient:organization:family%20eq%20Marley", "bob")
		moved("Medication?_has:MedicationRequest:medication:status=active", "ada")
		moved("Organization?_has:Patient:organization:family=love", "ada") // eve matches, but decides nothing
		if n := w.audited(`"Patient/eve"`, "marley"); n != 0 {
			t.Errorf("%d events of eve name another's query", n)
		}
		moved("Patient/ada/Observation?status=final", "ada")
		moved("Practitioner/doc/*?_type=Patient", "ada")
		// A search in a compartment that finds another patient's data does not tell that
		// patient whose compartment it was.
		w.put("Observation/by", `{"resourceType":"Observation","id":"by","status":"final","code":{"text":"x"},"subject":{"reference":"Patient/eve"},"performer":[{"reference":"Patient/bob"}]}`, 201)
		before["eve"] = count("eve")
		before["bob"] = count("bob")
		moved("Patient/bob/Observation?status=final", "bob", "eve")
		if n := count("eve", "Patient/(another)/Observation"); n != 0 {
			t.Errorf("the line is readable without decoding: %d", n)
		}
	})
}

// TestPostIsGet tests that parameters of the URL and of the form count alike, also in
// compartments, and that Prefer applies.
func TestPostIsGet(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.settle()
		for path, want := range map[string]string{"Observation": "Observation/hr Observation/outside Observation/weight",
			"Patient/ada/Observation": "Observation/hr", "": "Observation/hr Observation/outside Observation/weight"} {
			types := ""
			if path == "" {
				types = "_type=Observation&"
			}
			form := []string{"Content-Type", "application/x-www-form-urlencoded"}
			url := "/" + strings.TrimPrefix(path+"/_search", "/")
			for _, c := range [][2]string{{"?" + types + "status=final", ""}, {"?" + types, "status=final"},
				{"", types + "status=final"}} {
				a := w.want(200, "all", "POST", url+c[0], c[1], form...)
				if got := strings.Join(a.ids(), " "); got != want {
					t.Errorf("POST %s%s %s: %s, want %s", url, c[0], c[1], got, want)
				}
			}
			w.want(400, "all", "POST", url, types+"status=final&nothing=1", form...)
			a := w.want(200, "all", "POST", url, types+"status=final&nothing=1",
				append(form, "Prefer", "handling=lenient")...)
			if !strings.Contains(string(a.body), "nothing") {
				t.Errorf("lenient: %s", a.body)
			}
			w.want(415, "all", "POST", url, `{}`)
		}
	})
}

// TestJoinsAreBounded tests the budget of joins: a join that finds too much is evaluated
// from the other side, and if that is too much, too, the error names the parameter.
func TestJoinsAreBounded(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.settle()
		w.limits.Joined = 2
		w.run([]searchCase{
			{"from the other side", "Patient?_has:Observation:patient:code:missing=false&gender=male",
				"Patient/bob", ""},
			{"from the other side", "Observation?patient.gender=male,female&code=8867-4", "Observation/hr", ""},
			{"from the other side, nested",
				"Organization?_id=ward&_has:Patient:organization:_has:Observation:patient:status=final,preliminary,amended",
				"Organization/ward", ""},
		})
		for query, name := range map[string]string{
			"Observation?patient.gender=male,female":                                           "patient",
			"Patient?_has:Observation:patient:code:missing=false":                              "_has:Observation:patient",
			"Patient?_filter=_has:Observation:patient:status%20ne%20nothing or gender eq male": "_has",
		} {
			a := w.do("all", "GET", "/"+escapedSpaces(query), "")
			if a.status == 200 || !strings.Contains(fmt.Sprint(a.json["issue"]), name) {
				t.Errorf("%s: %d %s", query, a.status, a.body)
			}
		}
	})
}

func escapedSpaces(s string) string { return strings.ReplaceAll(s, " ", "%20") }
