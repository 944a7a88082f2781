package rest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir/access"
)

// everythingOf follows the pages of $everything.
func (w *world) everythingOf(client, path string) (all []string) {
	w.t.Helper()
	for next, pages := path, 0; next != ""; pages++ {
		a := w.want(200, client, "GET", next, "")
		if a.json["type"] != "searchset" || pages > 50 {
			w.t.Fatalf("page %d: %.300s", pages, a.body)
		}
		for _, id := range a.ids() {
			if !slices.Contains(all, id) {
				all = append(all, id)
			}
		}
		next = a.link("next")
	}
	slices.Sort(all)
	return all
}

func (w *world) wantEverything(client, path, want string) {
	w.t.Helper()
	for _, count := range []string{"", "_count=1", "_count=2", "_count=1000"} {
		sep := "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		if got := strings.Join(w.everythingOf(client, path+sep+count), " "); got != want {
			w.t.Errorf("%s %s: %s\nwant %s", path, count, got, want)
		}
	}
}

func TestEverything(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.put("Practitioner/dr", `{"resourceType":"Practitioner","id":"dr"}`, 201)
		w.put("Practitioner/far", `{"resourceType":"Practitioner","id":"far"}`, 201)
		w.put("Device/d1", `{"resourceType":"Device","id":"d1","patient":{"reference":"Patient/p1"}}`, 201)
		w.put("Device/d2", `{"resourceType":"Device","id":"d2","patient":{"reference":"Patient/p2"}}`, 201)
		w.put("Organization/org", `{"resourceType":"Organization","id":"org","name":"X"}`, 201)
		with := func(id, patient, extra string) string {
			return strings.Replace(observation(id, patient, "vital-signs", 60), `"subject"`, extra+`"subject"`, 1)
		}
		w.put("Observation/o1", with("o1", "p1", `"performer":[{"reference":"Practitioner/dr"},{"reference":"Organization/org"}],`), 201)
		w.put("Observation/o2", with("o2", "p1", `"device":{"reference":"Device/d2"},"note":[{"text":"see \"reference\":\"Practitioner/far\""}],`), 201)
		w.put("Observation/o3", strings.ReplaceAll(with("o3", "p1", ""), "2026-10-03", "2026-10-05"), 201)
		w.put("Observation/x1", with("x1", "p2", `"performer":[{"reference":"Practitioner/far"}],`), 201)
		w.put("Provenance/v1", `{"resourceType":"Provenance","id":"v1","target":[{"reference":"Observation/o1"},{"reference":"Patient/p1"}],"recorded":"2026-10-03T10:00:00Z","agent":[{"who":{"display":"x"}}]}`, 201)
		w.put("Group/g1", `{"resourceType":"Group","id":"g1","type":"person","actual":true,"member":[{"entity":{"reference":"Patient/p1"}},{"entity":{"reference":"Patient/p2"}}]}`, 201)
		const p1 = "/Patient/p1/$everything"
		const all = "Device/d1 Observation/o1 Observation/o2 Observation/o3 Organization/org Patient/p1 Practitioner/dr Provenance/v1"
		w.wantEverything("all", p1, all)
		w.wantEverything("all", p1+"?_type=Observation", "Observation/o1 Observation/o2 Observation/o3")
		w.wantEverything("all", p1+"?_type=Observation,Practitioner&_type=Device",
			"Device/d1 Observation/o1 Observation/o2 Observation/o3 Practitioner/dr")
		w.wantEverything("all", p1+"?start=2026-10-04", "Device/d1 Observation/o3 Patient/p1 Provenance/v1")
		w.wantEverything("all", p1+"?end=2026-10-03&_type=Observation", "Observation/o1 Observation/o2")
		w.wantEverything("all", p1+"?_since=2999-01-01T00:00:00Z", "")
		since := time.Now().Add(-time.Hour).UTC().Format("2006-01-02T15:04:05Z")
		w.wantEverything("all", p1+"?_since="+since, all)
		if got := w.everythingOf("all", p1+"?_type=AuditEvent&_count=1000"); len(got) == 0 || !strings.HasPrefix(got[0], "AuditEvent/") {
			t.Errorf("AuditEvents: %v", got)
		}
		w.everythingScopes(p1)
		w.everythingAtSnapshot(p1)
		w.badEverything(p1)
		w.consents.set("p1", true)
		w.wantEverything("all", p1, "Patient/p1")
	})
}

func (w *world) everythingScopes(p1 string) {
	w.t.Helper()
	w.tokens["other"] = grant(w.consents, access.Rule{Type: "*", May: cruds})
	w.wantEverything("reader", p1, "Observation/o1 Observation/o2 Observation/o3")
	w.wantEverything("patients", p1, "Patient/p1")
	w.tokens["own"] = grant(w.consents, access.Rule{Type: "*", May: cruds, Patient: "p2"})
	hidden := w.want(404, "own", "GET", p1, "")
	absent := w.want(404, "own", "GET", "/Patient/nobody/$everything", "")
	if string(hidden.body) != string(absent.body) {
		w.t.Errorf("%s, absent %s", hidden.body, absent.body)
	}
	w.tokens["nothing"] = grant(w.consents, access.Rule{Type: "Practitioner", May: cruds})
	w.want(403, "nothing", "GET", p1, "")
	w.want(403, "reader", "GET", p1+"?_type=Device", "")
	w.wantEverything("reader", p1+"?_type=Organization", "")
	w.tokens["trail"] = grant(w.consents, access.Rule{Type: "AuditEvent", May: cruds})
	w.want(403, "trail", "GET", p1, "") // AuditEvents are left out unless _type names them
	w.want(200, "trail", "GET", p1+"?_type=AuditEvent", "")
	w.want(401, "", "GET", p1, "")
	w.persons = map[string]access.Principal{"person": {ClientID: "app", Patient: "p2"}}
	got := strings.Join(w.everythingOf("person", "/Patient/$everything"), " ")
	if got != "Device/d2 Observation/x1 Patient/p2 Practitioner/far" {
		w.t.Errorf("of the patient in context: %s", got)
	}
	w.want(400, "all", "GET", "/Patient/$everything", "")
	w.want(404, "all", "GET", "/Group/g1/$everything", "")
	post := w.want(200, "all", "POST", p1, `{"resourceType":"Parameters","parameter":[{"name":"_type","valueCode":"Observation"},{"name":"_count","valueInteger":2},{"name":"start","valueDate":"2026-10-01"}]}`)
	if n := len(post.ids()); n != 2 || len(w.everythingOf("all", post.link("next"))) != 1 {
		w.t.Errorf("POST: %s", post.body)
	}
}

// everythingAtSnapshot tests that later pages show the state of the first one, and nothing
// that is deleted or hidden since.
func (w *world) everythingAtSnapshot(p1 string) {
	w.t.Helper()
	first := w.want(200, "all", "GET", p1+"?_count=1&_type=Observation", "")
	link := first.link("next")
	rest := 0
	for next := link; next != ""; rest++ {
		if rest == 0 {
			w.put("Observation/late", observation("late", "p1", "vital-signs", 61), 201)
			w.want(204, "all", "DELETE", "/Observation/o3", "")
		}
		a := w.want(200, "all", "GET", next, "")
		if ids := fmt.Sprint(a.ids()); strings.Contains(ids, "late") || strings.Contains(ids, "o3") {
			w.t.Errorf("a later page has %s", ids)
		}
		next = a.link("next")
	}
	for _, client := range []string{"other", "vitals", "reader"} {
		w.want(400, client, "GET", link, "")
	}
	for _, forged := range []string{strings.Replace(link, "_count=", "_count=1", 1), link + "AA", link + "&_since=2026-01-01T00:00:00Z",
		strings.Replace(link, "__page=A", "__page=B", 1), link[:len(link)-4]} {
		w.want(400, "all", "GET", forged, "")
	}
	w.want(400, "all", "GET", strings.Replace(link, "p1", "p2", 1), "")
	w.consents.set("p1", true)
	if a := w.want(200, "all", "GET", link, ""); len(a.ids()) > 0 {
		w.t.Errorf("after the withdrawal: %v", a.ids())
	}
	w.consents.set("p1", false)
	if evs := w.audited("search-type", "Patient/p1"); evs == 0 {
		w.t.Error("no AuditEvent")
	}
}

func (w *world) badEverything(p1 string) {
	w.t.Helper()
	for _, bad := range []string{"start=x", "end=2026-13-01", "_since=2026", "_since=x", "_type=Nothing", "_type=", "_count=0",
		"_count=-1", "_count=x", "_count=1&_count=2", "start=2026&start=2027", "__page=AAAA", "nothing=1", "_type=Observation,,"} {
		status := 400
		if bad == "_type=" {
			status = 200 // an empty parameter is ignored
		}
		w.want(status, "all", "GET", p1+"?"+bad, "")
	}
	w.want(400, "all", "POST", p1, `{"resourceType":"Parameters","parameter":[{"name":"start","valuePeriod":{"start":"2026"}}]}`)
	w.want(404, "all", "GET", "/Patient/bad_id/$everything", "")
}
