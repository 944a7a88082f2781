package rest

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// library is the data of the tests of chained searches, _has and includes.
var library = []string{
	`{"resourceType":"Organization","id":"root","name":"Acme Health","active":true}`,
	`{"resourceType":"Organization","id":"ward","name":"North Ward","partOf":{"reference":"Organization/root"}}`,
	`{"resourceType":"Practitioner","id":"doc","name":[{"family":"Strange","given":["Stephen"]}],"gender":"male"}`,
	`{"resourceType":"Patient","id":"ada","name":[{"family":"Lovelace","given":["Ada"]}],"gender":"female","birthDate":"1815-12-10","managingOrganization":{"reference":"Organization/ward"},"generalPractitioner":[{"reference":"Practitioner/doc"}],"identifier":[{"system":"http://x.test/mrn","value":"111","type":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/v2-0203","code":"MR"}]}}]}`,
	`{"resourceType":"Patient","id":"bob","name":[{"family":"Marley","given":["Bob"]}],"gender":"male","birthDate":"1945-02-06","managingOrganization":{"reference":"Organization/root"}}`,
	`{"resourceType":"Patient","id":"eve","name":[{"family":"Love","given":["Eve"]}],"gender":"female"}`,
	`{"resourceType":"Group","id":"study","type":"person","actual":true,"name":"Study","member":[{"entity":{"reference":"Patient/ada"}},{"entity":{"reference":"Patient/bob"}}]}`,
	`{"resourceType":"Device","id":"watch","patient":{"reference":"Patient/ada"},"deviceName":[{"name":"Watch","type":"model-name"}],"manufacturer":"Acme","owner":{"reference":"Organization/root"}}`,
	`{"resourceType":"Observation","id":"hr","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"subject":{"reference":"Patient/ada"},"device":{"reference":"Device/watch"},"performer":[{"reference":"Practitioner/doc"}],"effectiveDateTime":"2026-10-03T10:00:00Z","valueQuantity":{"value":62,"unit":"bpm","system":"http://unitsofmeasure.org","code":"/min"}}`,
	`{"resourceType":"Observation","id":"weight","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"29463-7"}]},"subject":{"reference":"Patient/bob"},"effectiveDateTime":"2026-10-04","valueQuantity":{"value":80.5,"unit":"kg","system":"http://unitsofmeasure.org","code":"kg"}}`,
	`{"resourceType":"Observation","id":"panel","status":"preliminary","code":{"coding":[{"system":"http://loinc.org","code":"85353-1"}]},"subject":{"reference":"Patient/ada"},"effectivePeriod":{"start":"2026-10-01","end":"2026-10-05"},"hasMember":[{"reference":"Observation/hr"}]}`,
	`{"resourceType":"Observation","id":"derived","status":"amended","code":{"text":"Mean"},"subject":{"reference":"Patient/eve"},"derivedFrom":[{"reference":"Observation/panel"}]}`,
	`{"resourceType":"Provenance","id":"prov","target":[{"reference":"Observation/hr"},{"reference":"Patient/ada"}],"recorded":"2026-10-03T10:00:01Z","agent":[{"who":{"reference":"Device/watch"}}]}`,
}

// shelve stores the library.
func (w *world) shelve() {
	w.t.Helper()
	for _, body := range library {
		typ := strings.Split(body, `"`)[3]
		id := strings.Split(body, `"`)[7]
		w.put(typ+"/"+id, body, 201)
	}
}

// modes returns the ids of the entries with a search mode, in the order of the Bundle.
func (a answer) modes(mode string) []string {
	var out []string
	entries, _ := a.json["entry"].([]any)
	for _, e := range entries {
		m, _ := e.(map[string]any)
		r, _ := m["resource"].(map[string]any)
		if s, _ := m["search"].(map[string]any); s["mode"] == mode {
			out = append(out, fmt.Sprint(r["resourceType"], "/", r["id"]))
		}
	}
	return out
}

// searchCase is a search and the ids of its matches and of what it includes.
type searchCase struct {
	rule     string // the section of search.html
	query    string
	matches  string
	included string
}

// run compares the answers to the cases, by GET and by POST.
func (w *world) run(cases []searchCase) {
	w.t.Helper()
	for _, c := range cases {
		path, query, _ := strings.Cut(c.query, "?")
		get := w.want(200, "all", "GET", "/"+path+"?"+escaped(query), "")
		post := w.want(200, "all", "POST", "/"+strings.TrimPrefix(path+"/_search", "/"), escaped(query), "Content-Type",
			"application/x-www-form-urlencoded")
		for method, a := range map[string]answer{"GET": get, "POST": post} {
			for mode, list := range map[string]string{"match": c.matches, "include": c.included} {
				got, want := a.modes(mode), strings.Fields(list)
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					w.t.Errorf("%s: %s %s: %s %v, want %v", c.rule, method, c.query, mode, got, want)
				}
			}
		}
	}
}

// escaped percent-encodes what may not stand in a query, and keeps the rest readable.
func escaped(query string) string {
	parts := strings.Split(query, "&")
	for i, p := range parts {
		name, value, _ := strings.Cut(p, "=")
		parts[i] = url.QueryEscape(name) + "=" + url.QueryEscape(value)
	}
	return strings.Join(parts, "&")
}

// TestChains tests chained parameters (search.html#chaining) and _has (search.html#has).
func TestChains(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.shelve()
		w.run([]searchCase{
			{"#chaining", "Observation?subject:Patient.family=lovelace", "Observation/hr Observation/panel", ""},
			{"#chaining", "Observation?patient.name=Ada", "Observation/hr Observation/panel", ""},
			{"#chaining: over all types that the reference may have", "Observation?subject.name=Ada",
				"Observation/hr Observation/panel", ""},
			{"#chaining: without a type", "Observation?performer.name=strange", "Observation/hr", ""},
			{"#chaining: nested", "Observation?subject:Patient.organization.name=north",
				"Observation/hr Observation/panel", ""},
			{"#chaining: nested", "Observation?patient.organization.partof.name=acme",
				"Observation/hr Observation/panel", ""},
			{"#chaining: nested", "Observation?device.patient.organization.partof:Organization.name=acme",
				"Observation/hr", ""},
			{"#chaining: values are alternatives", "Observation?patient.family=lovelace,marley",
				"Observation/hr Observation/panel Observation/weight", ""},
			{"#chaining: each parameter by itself", "Observation?patient.family=lovelace&patient.gender=male", "", ""},
			{"#chaining: with a modifier", "Observation?patient.family:exact=Love", "Observation/derived", ""},
			{"#chaining: with a modifier", "Observation?patient.organization:missing=true", "Observation/derived", ""},
			{"#chaining: with :not", "Observation?patient.gender:not=female", "Observation/weight", ""},
			{"#chaining: with a prefix", "Observation?patient.birthdate=lt1900", "Observation/hr Observation/panel",
				""},
			{"#chaining: by id", "Observation?subject:Patient._id=ada", "Observation/hr Observation/panel", ""},
			{"#chaining: by identifier", "Observation?patient.identifier=http://x.test/mrn|111",
				"Observation/hr Observation/panel", ""},
			{"#chaining: to the same type", "Observation?has-member:Observation.code=8867-4", "Observation/panel", ""},
			{"#chaining: to the same type twice",
				"Observation?derived-from:Observation.has-member:Observation.code=8867-4",
				"Observation/derived", ""},
			{"#chaining: no match", "Observation?patient.family=nobody", "", ""},
			{"#has", "Patient?_has:Observation:patient:code=8867-4", "Patient/ada", ""},
			{"#has: two are two resources",
				"Patient?_has:Observation:patient:code=8867-4&_has:Observation:patient:status=preliminary",
				"Patient/ada", ""},
			{"#has: with other parameters", "Patient?_has:Observation:subject:code=8867-4,29463-7&gender=male",
				"Patient/bob", ""},
			{"#has: by id", "Patient?_has:Group:member:_id=study", "Patient/ada Patient/bob", ""},
			{"#has: with a date", "Patient?_has:Observation:patient:date=ge2026-10-04", "Patient/ada Patient/bob", ""},
			{"#has: with a modifier", "Patient?_has:Observation:patient:status:not=final",
				"Patient/ada Patient/eve", ""},
			{"#has: nested", "Patient?_has:Observation:patient:_has:Provenance:target:agent=Device/watch",
				"Patient/ada", ""},
			{"#has: nested twice", "Organization?_has:Patient:organization:_has:Observation:patient:_has:Provenance:target:recorded=2026",
				"Organization/ward", ""},
			{"#has: a chain in it", "Patient?_has:Observation:patient:performer:Practitioner.family=strange",
				"Patient/ada", ""},
			{"#has: in a chain", "Observation?patient._has:Group:member:_id=study",
				"Observation/hr Observation/panel Observation/weight", ""},
			{"#has: in a chain", "Device?patient._has:Observation:patient:code=8867-4", "Device/watch", ""},
			{"#has: sorted", "Patient?_has:Observation:patient:code:missing=false&_sort=-birthdate&_total=accurate",
				"Patient/ada Patient/bob Patient/eve", ""},
		})
		a := w.want(200, "all", "GET", "/Observation?patient.name=Ada&_sort=-status", "")
		if got := a.modes("match"); !slices.Equal(got, []string{"Observation/panel", "Observation/hr"}) {
			t.Errorf("sorted chain: %v", got)
		}
		if a := w.want(200, "all", "GET", "/Observation?patient.name=Ada&_summary=count", ""); a.json["total"] != 2.0 {
			t.Errorf("counted chain: %s", a.body)
		}
		for query, says := range map[string]string{
			"Observation?patient.nothing=1":                                             "is not a search parameter of Patient",
			"Observation?patient:Device.name=1":                                         "cannot refer to that type",
			"Observation?code.name=1":                                                   "is not a reference",
			"Observation?subject.nothing=1":                                             "no type that parameter subject may refer to",
			"Patient?_has:Observation:code:code=1":                                      "must name a reference parameter of Observation",
			"Patient?_has:Observation:patient=1":                                        "_has:Type:reference:parameter",
			"Patient?_has:Nothing:patient:code=1":                                       "does not name a resource type",
			"Patient?_has:Device:organization:type=1":                                   "that may refer to Patient",
			"Observation?patient.link.link.link.link.link.name=x":                       "nested more than",
			"Observation?patient.birthdate=yesterday":                                   "value of birthdate",
			"Organization?" + strings.Repeat("_has:Organization:partof:", 6) + "name=x": "nested more than",
		} {
			a := w.want(400, "all", "GET", "/"+query, "")
			if !strings.Contains(fmt.Sprint(a.json["issue"]), says) {
				t.Errorf("%s: %s", query, a.body)
			}
		}
	})
}

// TestChainPages tests that the pages of a chained search show one state.
func TestChainPages(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.shelve()
		first := w.want(200, "all", "GET", "/Observation?patient.gender=female&_count=1&_sort=_id", "")
		w.put("Patient/ada", strings.Replace(library[3], `"gender":"female"`, `"gender":"other"`, 1), 200)
		w.put("Patient/bob", strings.Replace(library[4], `"gender":"male"`, `"gender":"female"`, 1), 200)
		all := first.modes("match")
		for next := first.link("next"); next != ""; {
			a := w.want(200, "all", "GET", next, "")
			all = append(all, a.modes("match")...)
			next = a.link("next")
		}
		if want := []string{"Observation/derived", "Observation/hr", "Observation/panel"}; !slices.Equal(all, want) {
			t.Errorf("pages have %v, want %v", all, want)
		}
		w.run([]searchCase{{"#chaining", "Observation?patient.gender=female",
			"Observation/derived Observation/weight", ""}})
	})
}

// TestIncludes tests _include and _revinclude (search.html#include).
func TestIncludes(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.shelve()
		w.run([]searchCase{
			{"#include", "Observation?_id=hr&_include=Observation:patient", "Observation/hr", "Patient/ada"},
			{"#include: a type", "Observation?_id=hr&_include=Observation:subject:Patient", "Observation/hr",
				"Patient/ada"},
			{"#include: another type", "Observation?_id=hr&_include=Observation:subject:Group", "Observation/hr", ""},
			{"#include: twice", "Observation?_id=hr&_include=Observation:subject&_include=Observation:device",
				"Observation/hr",
				"Patient/ada Device/watch"},
			{"#include: once", "Observation?patient=ada&_include=Observation:subject&_include=Observation:patient",
				"Observation/hr Observation/panel", "Patient/ada"},
			{"#include: all", "Observation?_id=hr&_include=Observation:*", "Observation/hr",
				"Patient/ada Device/watch Practitioner/doc"},
			{"#include: all", "Observation?_id=hr&_include=*", "Observation/hr",
				"Patient/ada Device/watch Practitioner/doc"},
			{"#include: a match is not included", "Observation?_include=Observation:has-member",
				"Observation/hr Observation/weight Observation/panel Observation/derived", ""},
			{"#include: not iterated", "Observation?_id=derived&_include=Observation:derived-from",
				"Observation/derived",
				"Observation/panel"},
			{"#include: iterated", "Observation?_id=derived&_include:iterate=Observation:derived-from&_include:iterate=Observation:has-member",
				"Observation/derived", "Observation/panel Observation/hr"},
			{"#include: iterated over types",
				"Observation?_id=hr&_include=Observation:patient&_include:iterate=Patient:organization&_include:iterate=Organization:partof",
				"Observation/hr", "Patient/ada Organization/ward Organization/root"},
			{"#include: recurse", "Organization?_id=ward&_include:recurse=Organization:partof", "Organization/ward",
				"Organization/root"},
			{"#include: all, iterated", "Observation?_id=derived&_include:iterate=Observation:*", "Observation/derived",
				"Observation/panel Observation/hr Patient/ada Patient/eve Device/watch Practitioner/doc"},
			{"#revinclude", "Patient?_id=ada&_revinclude=Observation:subject", "Patient/ada",
				"Observation/hr Observation/panel"},
			{"#revinclude: a type", "Patient?_id=ada&_revinclude=Observation:subject:Patient", "Patient/ada",
				"Observation/hr Observation/panel"},
			{"#revinclude: Provenance", "Observation?_id=hr&_revinclude=Provenance:target", "Observation/hr",
				"Provenance/prov"},
			{"#revinclude: all", "Patient?_id=ada&_revinclude=Observation:*", "Patient/ada",
				"Observation/hr Observation/panel"},
			{"#revinclude: several", "Patient?_id=ada&_revinclude=Observation:subject&_revinclude=Device:patient&_revinclude=Group:member",
				"Patient/ada", "Observation/hr Observation/panel Device/watch Group/study"},
			{"#revinclude: not iterated",
				"Patient?_id=ada&_revinclude=Device:patient&_include=Patient:organization", "Patient/ada",
				"Device/watch Organization/ward"},
			{"#revinclude: iterated", "Patient?_id=ada&_revinclude=Observation:subject&_revinclude:iterate=Provenance:target",
				"Patient/ada", "Observation/hr Observation/panel Provenance/prov"},
			{"#revinclude: iterated twice", "Patient?_id=bob&_revinclude:iterate=Group:member", "Patient/bob",
				"Group/study"},
			{"#revinclude: and include",
				"Patient?_id=ada&_revinclude=Observation:subject&_include:iterate=Observation:device",
				"Patient/ada", "Observation/hr Observation/panel Device/watch"},
			{"#revinclude: to the same type",
				"Observation?_id=hr&_revinclude:iterate=Observation:has-member&_revinclude:iterate=Observation:derived-from",
				"Observation/hr", "Observation/panel Observation/derived"},
			{"#revinclude: with a chain", "Patient?organization.name=north&_revinclude=Observation:subject",
				"Patient/ada",
				"Observation/hr Observation/panel"},
		})
		for query, says := range map[string]string{
			"Observation?_include=Observation:code":                              "reference parameter",
			"Observation?_include=Patient:organization":                          "iterate",
			"Observation?_include=Observation":                                   "Type:parameter",
			"Observation?_include=Observation:subject:Nothing":                   "target type",
			"Observation?_revinclude=Provenance":                                 "Type:parameter",
			"Observation?_revinclude=*":                                          "Type:parameter",
			"Observation?_revinclude=Nothing:target":                             "resource type",
			"Observation?_revinclude=Device:patient":                             "may refer to Observation",
			"Observation?_include:exact=Observation:subject":                     "iterate",
			"Observation?" + strings.Repeat("_include=Observation:subject&", 17): "more than 16",
		} {
			a := w.want(400, "all", "GET", "/"+strings.TrimSuffix(query, "&"), "")
			if !strings.Contains(fmt.Sprint(a.json["issue"]), says) {
				t.Errorf("%s: %s", query, a.body)
			}
		}
		w.limits.Includes = 1
		if a := w.do("all", "GET", "/Patient?_id=ada&_revinclude=Observation:subject", ""); a.status == 200 ||
			!strings.Contains(string(a.body), "more than 1 resources") {
			t.Errorf("bounded: %d %s", a.status, a.body)
		}
	})
}

// TestIncludeVersion tests that a reference to a version includes that version.
func TestIncludeVersion(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.shelve()
		w.put("Organization/root", strings.Replace(library[0], "Acme", "Apex", 1), 200)
		w.put("Organization/old", `{"resourceType":"Organization","id":"old","name":"Old","partOf":{"reference":"Organization/root/_history/1"}}`, 201)
		a := w.want(200, "all", "GET", "/Organization?_id=old&_include=Organization:partof", "")
		if !strings.Contains(string(a.body), "Acme Health") || strings.Contains(string(a.body), "Apex") {
			t.Errorf("%s", a.body)
		}
		a = w.want(200, "all", "GET", "/Organization?_id=ward&_include=Organization:partof", "")
		if !strings.Contains(string(a.body), "Apex") {
			t.Errorf("%s", a.body)
		}
	})
}

// TestFilter tests _filter (search_filter.html).
func TestFilter(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.shelve()
		var cases []searchCase
		for filter, matches := range map[string]string{
			`family eq "Love"`:                                              "eve",
			`family eq LOVE`:                                                "eve",
			`family sw love`:                                                "ada eve",
			`family ew lace`:                                                "ada",
			`family co "ove"`:                                               "ada eve",
			`family ne love and gender eq female`:                           "ada",
			`gender eq female and birthdate lt 1900`:                        "ada",
			`birthdate ge 1945-02-06`:                                       "bob",
			`birthdate po 1945-02`:                                          "bob",
			`birthdate pr true`:                                             "ada bob",
			`birthdate pr false and family co "love"`:                       "eve",
			`gender eq male or family eq love`:                              "bob eve",
			`not (gender eq female) and birthdate pr true`:                  "bob",
			`gender eq male or gender eq female and family eq love`:         "eve",
			`gender eq male or (gender eq female and family eq love)`:       "bob eve",
			`organization re Organization/ward`:                             "ada",
			`organization eq Organization/ward`:                             "ada",
			`organization.name co "ward"`:                                   "ada",
			`organization.partof.name sw acme`:                              "ada",
			`_has:Observation:patient:code eq http://loinc.org|8867-4`:      "ada",
			`identifier eq http://x.test/mrn|111 or _id eq eve`:             "ada eve",
			`(((gender eq male)))`:                                          "bob",
			`NOT (gender eq male) AND (family eq love OR family eq "love")`: "eve",
		} {
			var want []string
			for _, id := range strings.Fields(matches) {
				want = append(want, "Patient/"+id)
			}
			cases = append(cases, searchCase{"_filter", "Patient?_id=ada,bob,eve&_filter=" + filter,
				strings.Join(want, " "), ""})
		}
		cases = append(cases,
			searchCase{"_filter", "Observation?_filter=code eq http://loinc.org|8867-4 and value-quantity gt 60",
				"Observation/hr", ""},
			searchCase{"_filter", "Observation?_filter=subject.name co \"lovel\" or code eq 29463-7",
				"Observation/hr Observation/panel Observation/weight", ""},
			searchCase{"_filter", "Observation?_filter=code-value-quantity eq 29463-7$80.5", "Observation/weight", ""},
			searchCase{"_filter", "Observation?_filter=value-quantity ap 80500|http://unitsofmeasure.org|g",
				"Observation/weight", ""})
		w.run(cases)
		for filter, says := range map[string]string{
			`family`:                        "operator",
			`family eq`:                     "operator",
			`family xx y`:                   "operator",
			`family eq "x`:                  "closing quotation",
			`(family eq x`:                  "closing parenthesis",
			`family eq x)`:                  "the end",
			`family eq x gender eq y`:       "the end",
			`nothing eq x`:                  "not a search parameter",
			`family gt x`:                   "operator is not supported for family",
			`birthdate co x`:                "operator is not supported for birthdate",
			`birthdate eq gt2000`:           "without a prefix",
			`gender pr maybe`:               "true or false",
			`link[type eq x].other pr true`: "brackets",
			strings.Repeat("(", 40) + "family eq x" + strings.Repeat(")", 40): "nested more than",
			strings.Repeat("family eq x or ", 70) + "family eq x":             "more than 64 comparisons",
		} {
			a := w.want(400, "all", "GET", "/Patient?_filter="+url.QueryEscape(filter), "")
			if !strings.Contains(fmt.Sprint(a.json["issue"]), says) {
				t.Errorf("%s: %s", filter, a.body)
			}
		}
	})
}

// TestSystemSearch tests searches of several types.
func TestSystemSearch(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.shelve()
		w.run([]searchCase{
			{"http.html#search: several types", "?_type=Patient,Organization&_id=ada,ward,hr",
				"Patient/ada Organization/ward", ""},
			{"http.html#search: a common parameter", "?_type=Patient,Practitioner&family=lovelace,strange",
				"Patient/ada Practitioner/doc", ""},
			{"http.html#search: all types", "?_id=ada,ward,hr", "Patient/ada Organization/ward Observation/hr", ""},
			{"http.html#search: includes", "?_type=Patient,Observation&_id=hr&_include=Observation:device",
				"Observation/hr",
				"Device/watch"},
			{"http.html#search: one type", "?_type=Patient&_id=ada", "Patient/ada", ""},
			{"compartmentdefinition.html", "Patient/ada/Observation?status=final", "Observation/hr", ""},
			{"compartmentdefinition.html: all", "Patient/bob/*?_type=Observation,Group",
				"Observation/weight Group/study", ""},
			{"compartmentdefinition.html: all", "Patient/bob/*?", "Observation/weight Group/study Patient/bob", ""},
			{"compartmentdefinition.html: itself", "Patient/bob/Patient?", "Patient/bob", ""},
			{"compartmentdefinition.html: Practitioner", "Practitioner/doc/Observation?code=8867-4",
				"Observation/hr", ""},
			{"compartmentdefinition.html: Practitioner", "Practitioner/doc/Patient?", "Patient/ada", ""},
			{"compartmentdefinition.html: Device", "Device/watch/Observation?", "Observation/hr", ""},
			{"compartmentdefinition.html: with a chain", "Patient/ada/Observation?device.manufacturer=acme",
				"Observation/hr", ""},
			{"compartmentdefinition.html: absent", "Patient/none/Observation?", "", ""},
		})
		for path, status := range map[string]int{
			"/?_type=Nothing":                   400,
			"/?_type=Patient&_type=Group":       400,
			"/?_type=Patient,Group&family=x":    400,
			"/?_type=Patient,Group&_sort=_id":   200,
			"/Patient?_type=Patient":            400,
			"/Patient/ada/Organization":         404,
			"/Organization/root/Patient":        404,
			"/Patient/ada/*?_type=Organization": 400,
		} {
			w.want(status, "all", "GET", path, "")
		}
		w.want(403, "patients", "GET", "/?_type=Patient,Observation", "")
		if a := w.want(200, "patients", "GET", "/?_id=ada,hr", ""); len(a.modes("match")) != 1 {
			t.Errorf("types without permission: %s", a.body)
		}
		if a := w.want(200, "all", "GET", "/?_type=Patient,Observation&_summary=count", ""); a.json["total"] != 9.0 {
			t.Errorf("count: %s", a.body)
		}
		var all []string
		for next := "/?_type=Practitioner,Patient,Organization&_count=2&_total=accurate"; next != ""; {
			a := w.want(200, "all", "GET", next, "")
			all = append(all, a.modes("match")...)
			if next = a.link("next"); a.json["total"] != 8.0 {
				t.Errorf("total: %s", a.body)
			}
		}
		slices.Sort(all)
		if len(all) != 8 || len(slices.Compact(all)) != 8 {
			t.Errorf("pages: %v", all)
		}
	})
}
