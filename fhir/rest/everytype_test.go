package rest

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/definitions/sample"
	"pulsegate/fhir/store/storetest"
)

// TestEveryType creates a resource of every type in JSON and XML, finds it by a value of
// each search parameter, patches and deletes it.
func TestEveryType(t *testing.T) {
	w := newWorld(t, drivers["pebble"](t))
	w.tokens["all"].Recipient = "all"          // the author of resources without a patient
	content := func(a answer) map[string]any { // without the Meta, whose version and time change
		delete(a.json, "meta")
		return a.json
	}
	d, err := validator()
	if err != nil {
		t.Fatal(err)
	}
	refused := []string{"AuditEvent", "Consent", "Subscription"} // clients cannot write these at will
	by := map[string][]storetest.Search{}
	for _, s := range storetest.Searches() {
		by[s.Type] = append(by[s.Type], s)
	}
	found := 0
	for _, typ := range fhir.Types {
		body, ok := sample.Resource(typ, "every")
		body = strings.ReplaceAll(body, `"Patient/1"`, `"Patient/p1"`)
		if !ok || slices.Contains(refused, typ) {
			continue
		}
		path := "/" + typ + "/every"
		w.want(201, "all", "PUT", path, body)
		first := w.want(200, "all", "GET", path, "")
		x := w.want(200, "all", "GET", path+"?_format=xml", "")
		w.want(200, "all", "PUT", path, string(x.body), "Content-Type", "application/fhir+xml")
		if again := w.want(200, "all", "GET", path, ""); !reflect.DeepEqual(content(again), content(first)) {
			t.Errorf("%s through XML: %s, was %s", typ, again.body, first.body)
		}
		w.want(200, "all", "PATCH", path, `[{"op":"add","path":"/language","value":"de"}]`, "Content-Type",
			"application/json-patch+json")
		for _, q := range []string{"_id=every", "_lastUpdated=ge2000-01-01&_id=every"} {
			got := w.want(200, "all", "GET", "/"+typ+"?"+q, "").ids()
			if !slices.Equal(got, []string{typ + "/every"}) {
				t.Errorf("%s?%s: %v", typ, q, got)
			}
		}
		for _, s := range by[typ] {
			if _, err := d.Resource(typ, []byte(s.Body), s.ID); err != nil {
				continue // an invariant demands more for the element
			}
			a := w.do("all", "PUT", "/"+typ+"/"+s.ID, s.Body)
			if a.status == 422 && (s.ID == "of-subject" || s.ID == "of-patient") {
				continue // the subject, which is no Patient, does not exist
			}
			if a.status != 201 {
				t.Errorf("PUT %s/%s: %d %s", typ, s.ID, a.status, a.body)
				continue
			}
			if got := w.want(200, "all", "GET", "/"+typ+"?"+s.Query+"&_count=1000", "").ids(); !slices.Contains(got,
				typ+"/"+s.ID) {
				t.Errorf("%s?%s does not find %s: %v", typ, s.Query, s.Body, got)
			}
			found++
			w.want(204, "all", "DELETE", "/"+typ+"/"+s.ID, "")
		}
		w.want(204, "all", "DELETE", path, "")
		w.want(410, "all", "GET", path, "")
		if got := w.want(200, "all", "GET", "/"+typ+"?_id=every", "").ids(); got != nil {
			t.Errorf("a deleted %s: %v", typ, got)
		}
	}
	if t.Log(found, "searches"); found < 1500 {
		t.Errorf("only %d searches", found)
	}
}
