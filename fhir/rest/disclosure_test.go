package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

// event has the parts of an AuditEvent that the tests compare.
type event struct {
	patient string
	query   string
	data    []string // references, without the patient's
	whole   string
}

// eventsOf returns the AuditEvents of a request.
func (w *world) eventsOf(request string) (out []event) {
	w.t.Helper()
	err := w.store.Scan(w.t.Context(), store.ScanRange{Types: []string{"AuditEvent"}, At: w.store.LastSeq(),
		Filter: access.All().Filter(access.Read)}, func(f *store.Found) bool {
		if !bytes.Contains(f.Resource.JSON, []byte(`"value":"`+request+`"`)) {
			return true
		}
		var x struct {
			Entity []struct {
				What  struct{ Reference string }
				Role  struct{ Code string }
				Query []byte
			}
		}
		if err := json.Unmarshal(f.Resource.JSON, &x); err != nil {
			w.t.Fatal(err)
		}
		e := event{patient: f.Facts.Patient, whole: string(f.Resource.JSON)}
		for _, y := range x.Entity {
			e.query += string(y.Query)
			if y.What.Reference != "" && y.Role.Code != "1" {
				e.data = append(e.data, y.What.Reference)
			}
		}
		out = append(out, e)
		return true
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func named(evs []event, patient, ref string) bool {
	for _, e := range evs {
		for _, d := range e.data {
			if e.patient == patient && (d == ref || strings.HasPrefix(d, ref+"/_history/")) {
				return true
			}
		}
	}
	return false
}

func identified(id, patient, value string) string {
	return strings.Replace(observation(id, patient, "vital-signs", 60), `"status"`,
		`"identifier":[{"system":"urn:t","value":"`+value+`"}],"status"`, 1)
}

func conditional(criteria, resource string) string {
	return `{"resource":` + resource + `,"request":{"method":"POST","url":"Observation","ifNoneExist":"` +
		criteria + `"}}`
}

// TestConditionalIsDisclosure tests that the patient's audit trail names the resources
// that a conditional create finds.
func TestConditionalIsDisclosure(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		for i, p := range []string{"p1", "p1", "p2"} {
			id := fmt.Sprint("o", i)
			w.put("Observation/"+id, identified(id, p, fmt.Sprint("v", min(i, 1)*i)), 201)
		}
		w.put("Observation/twin", identified("twin", "p2", "v2"), 201)
		new := observation("", "p1", "vital-signs", 1)
		w.want(200, "all", "POST", "/Observation", new, "If-None-Exist", "identifier=urn:t|v0", "X-Request-Id",
			"single")
		if evs := w.eventsOf("single"); !named(evs, "p1", "Observation/o0") {
			t.Errorf("a conditional create that matches: %v", evs)
		}
		w.want(412, "all", "POST", "/Observation", new, "If-None-Exist", "identifier=urn:t|v2", "X-Request-Id",
			"several")
		if evs := w.eventsOf("several"); !named(evs, "p2", "Observation/o2") || !named(evs, "p2", "Observation/twin") {
			t.Errorf("a conditional create that matches several: %v", evs)
		}
		w.want(201, "all", "POST", "/Observation", identified("", "p1", "v9"), "If-None-Exist",
			"identifier=urn:t|v9", "X-Request-Id", "none")
		if evs := w.eventsOf("none"); len(evs) != 2 || evs[0].query+evs[1].query == "" {
			t.Errorf("criteria that match nothing: %v", evs)
		}
		w.want(204, "all", "DELETE", "/Observation/twin", "")
		a := w.want(200, "all", "POST", "/",
			bundle("transaction", conditional("identifier=urn:t|v0", new),
				entry("", "PUT", "Observation/new", observation("new", "p2", "vital-signs", 2)),
				conditional("identifier=urn:t|v1", new), conditional("identifier=urn:t|v2", new),
				entry("", "DELETE", "Observation/twin", "")), "X-Request-Id", "bundle")
		evs := w.eventsOf("bundle")
		for ref, p := range map[string]string{"Observation/o0": "p1", "Observation/o1": "p1",
			"Observation/o2": "p2", "Observation/new": "p2", "Observation/twin": "p2"} {
			if !named(evs, p, ref) {
				t.Errorf("a transaction whose answer tells of %s: %v\n%s", ref, evs, a.body)
			}
		}
		// All matched: nothing is written but the trail.
		w.want(200, "all", "POST", "/", bundle("transaction", conditional("identifier=urn:t|v0", new)),
			"X-Request-Id", "matched")
		if evs := w.eventsOf("matched"); !named(evs, "p1", "Observation/o0") {
			t.Errorf("a transaction that writes nothing: %v", evs)
		}
		w.want(412, "all", "PUT", "/Observation/o1", observation("o1", "p1", "vital-signs", 1), "If-Match", `W/"9"`,
			"X-Request-Id", "stale")
		w.want(412, "all", "POST", "/", bundle("transaction",
			`{"resource":`+observation("o1", "p1", "vital-signs", 1)+
				`,"request":{"method":"PUT","url":"Observation/o1","ifMatch":"W/\"9\""}}`), "X-Request-Id", "staleT")
		w.want(410, "all", "GET", "/Observation/twin", "", "X-Request-Id", "gone")
		for id, want := range map[string][2]string{"stale": {"p1", "Observation/o1"},
			"staleT": {"p1", "Observation/o1"}, "gone": {"p2", "Observation/twin"}} {
			if evs := w.eventsOf(id); !named(evs, want[0], want[1]) {
				t.Errorf("an error that tells of a resource: %v", evs)
			}
		}
		// Hidden in a transaction is a denial on record.
		w.consents.set("p1", true)
		w.want(404, "all", "POST", "/", bundle("transaction", entry("", "DELETE", "Observation/o1", "")),
			"X-Request-Id", "denied")
		if evs := w.eventsOf("denied"); !named(evs, "p1", "Observation/o1") ||
			!strings.Contains(evs[0].whole, `"outcome":"8"`) {
			t.Errorf("a denied transaction: %v", evs)
		}
	})
}

// TestPatientsPart tests that an event in a patient's compartment contains nothing
// about others, and that one event in no compartment contains the whole request.
func TestPatientsPart(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		person := func(id, mrn, family string) string {
			return `{"resourceType":"Patient","id":"` + id + `","identifier":[{"system":"urn:mrn","value":"` + mrn +
				`"}],"name":[{"family":"` + family + `"}],"birthDate":"1971-02-03"}`
		}
		w.put("Patient/pat-ada", person("pat-ada", "990047110047", "Zanaria"), 201)
		w.put("Patient/pat-bob", person("pat-bob", "990047120047", "Quellmoor"), 201)
		for _, p := range []string{"pat-ada", "pat-bob"} {
			w.put("Observation/of-"+p, identified("of-"+p, p, "x-"+p), 201)
		}
		w.put("Group/g", `{"resourceType":"Group","id":"g","type":"person","actual":true,"member":[{"entity":{"reference":"Patient/pat-ada"}},{"entity":{"reference":"Patient/pat-bob"}}]}`, 201)
		foreign := map[string][]string{"pat-ada": {"pat-bob", "990047120047", "Quellmoor"},
			"pat-bob": {"pat-ada", "990047110047", "Zanaria"}}
		n := 0
		ask := func(method, path, body string, header ...string) {
			n++
			id := fmt.Sprint("part-", n)
			w.do("all", method, path, body, append(header, "X-Request-Id", id)...)
			evs := w.eventsOf(id)
			whole := len(evs) == 0
			for _, e := range evs {
				for _, f := range foreign[e.patient] {
					if strings.Contains(e.whole, f) || strings.Contains(e.query, f) {
						t.Errorf("%s %s %s: the event of %s holds %s: %s", method, path, body, e.patient, f, e.query)
					}
				}
				_, line, _ := strings.Cut(path, "?")
				whole = whole || strings.Contains(e.query, line) || method != "GET"
			}
			if !whole {
				t.Errorf("%s %s: no event holds the whole request: %v", method, path, evs)
			}
		}
		queries := []string{
			"Patient?identifier=urn:mrn|990047110047,urn:mrn|990047120047",
			"Patient?identifier=urn:mrn|990047120047,urn:mrn|x&_id=pat-ada", "Patient?_id=pat-ada,pat-bob",
			"Patient?family=Quellmoor,Zanaria",
			"Patient?family=Quellmoor&_id=pat-ada", "Patient?family:exact=Quellmoor,Zanaria",
			"Patient?identifier:not=urn:mrn|990047120047", "Patient?birthdate=1971-02-03,2000-11-11",
			"Patient?_id=pat-ada&name=Quellmoor",
			"Observation?patient=pat-ada,pat-bob",
			"Observation?patient=Patient/pat-ada,Patient/pat-bob&code=8867-4",
			"Observation?subject=Patient/pat-ada&subject=Patient/pat-bob",
			"Observation?_id=of-ada,of-bob", "Observation?identifier=urn:t|x-ada,urn:t|x-bob",
			"Observation?identifier=x-ada", "Observation?patient=pat-ada&identifier=x-bob",
			"Observation?patient=pat-ada&performer=Patient/pat-bob",
			"Observation?patient=pat-ada&code=990047120047", "Observation?patient=pat-ada&code=Quellmoor",
			"Observation?patient=pat-ada&value-string=Quellmoor",
			"Observation?patient=pat-ada&_tag=Quellmoor", "Observation?patient=pat-ada&status=990047120047",
			"Observation?patient=pat-ada&category=Quellmoor",
			"Observation?subject:identifier=urn:mrn|990047120047,urn:mrn|990047110047",
			"Observation?subject:Patient.family=Quellmoor&patient=pat-ada",
			"Observation?patient.identifier=990047120047", "Observation?_has:Group:member:_id=pat-bob",
			"Group?member=Patient/pat-ada,Patient/pat-bob&_include=Group:member", "Group?_id=g&_include=Group:member",
			"Observation?code=8867-4&_count=1", "Observation?_sort=-date&_count=1",
			"Observation?patient=pat-ada&date=ge2020", "AuditEvent?patient=pat-ada,pat-bob&_count=3",
			"AuditEvent?entity=Observation/of-bob,Observation/of-ada",
			"Observation/$lastn?patient=pat-ada&code=8867-4&identifier=x-bob",
			"Observation/$lastn?patient=pat-ada&code=990047120047",
			"Observation/$stats?subject=Patient/pat-ada&system=http://loinc.org&code=8867-4&statistic=count",
			"Observation/$stats?subject=Patient/pat-ada&system=urn:mrn&code=990047120047&statistic=count",
			"Patient/pat-ada/$ehr-bundle?code=8867-4&start=2020&subject=Patient/pat-ada",
			"Patient/pat-ada/$ehr-bundle?subject=Patient/pat-bob&code=990047120047",
		}
		for _, q := range queries {
			ask("GET", "/"+q, "")
			ask("GET", "/"+q+"&Quellmoor=990047120047&pat-bob=Zanaria", "", "Prefer", "handling=lenient")
			path, query, _ := strings.Cut(q, "?")
			ask("POST", "/", bundle("batch", entry("", "GET", q, "")))
			ask("POST", "/", bundle("transaction", entry("", "GET", q, "")))
			if !strings.Contains(path, "$") {
				ask("POST", "/"+path+"/_search", query, "Content-Type", "application/x-www-form-urlencoded")
			}
			if strings.HasPrefix(q, "Observation?") {
				ask("POST", "/Observation", observation("", "pat-ada", "vital-signs", 1), "If-None-Exist", query)
				ask("POST", "/Observation", observation("", "pat-bob", "vital-signs", 1), "If-None-Exist", query)
				ask("POST", "/", bundle("transaction",
					conditional(query, observation("", "pat-ada", "vital-signs", 1)),
					conditional("identifier=x-bob", observation("", "pat-ada", "vital-signs", 1))))
			}
		}
		// Page links hold the position of another patient's resource.
		next := w.want(200, "all", "GET", "/Observation?_count=1&_sort=_id", "").link("next")
		for range 3 {
			ask("GET", next, "")
			next = w.want(200, "all", "GET", next, "").link("next")
		}
		// A query without other people's data needs no second event.
		for _, q := range []string{"patient=pat-ada&code=http://loinc.org|8867-4&date=ge2026-01-01&_sort=-date&_count=10", "patient=Patient/pat-ada", "subject=Patient/pat-ada&category=vital-signs&status=final,amended&value-quantity=gt5||/min", "patient=pat-ada&code=8867-4&_include=Observation:device&_elements=code,status&_format=json"} {
			w.want(200, "all", "GET", "/Observation?"+q, "", "X-Request-Id", "one")
		}
		if evs := w.eventsOf("one"); len(evs) != 4 {
			t.Errorf("%d events of four searches about one patient: %v", len(evs), evs)
		}
	})
}
