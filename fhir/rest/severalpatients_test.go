package rest

import (
	"slices"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

const appointmentOfTwo = `{"resourceType":"Appointment","id":"both","status":"proposed","participant":[` +
	`{"actor":{"reference":"Patient/p1"},"status":"accepted"},` +
	`{"actor":{"reference":"Patient/p2"},"status":"accepted"}]}`

// TestDeletionOfSeveralPatients checks that the deletion of a resource of two patients is
// disclosed only if both consent, and is recorded for both.
func TestDeletionOfSeveralPatients(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.put("Appointment/both", appointmentOfTwo, 201)
		w.want(204, "all", "DELETE", "/Appointment/both", "")
		for _, path := range []string{"/Appointment/_history", "/_history",
			"/Appointment/both/_history"} {
			before := w.audited(`"Patient/p2"`)
			a := w.do("all", "GET", path, "")
			if got := a.versions(); !slices.Contains(got, "Appointment/both DELETE 2") { // control
				t.Errorf("%s with both consents: %d %v", path, a.status, got)
			}
			if w.audited(`"Patient/p2"`) == before {
				t.Errorf("%s is not recorded for the second patient", path)
			}
			for _, p := range []string{"p1", "p2"} {
				w.consents.set(p, true)
				if got := w.do("all", "GET", path, "").versions(); slices.ContainsFunc(got,
					func(v string) bool { return v == "Appointment/both DELETE 2" || v == "Appointment/both PUT 1" }) {
					t.Errorf("%s without the consent of %s: %v", path, p, got)
				}
				if a := w.do("all", "GET", "/Appointment/both", ""); a.status != 404 {
					t.Errorf("read without the consent of %s: %d", p, a.status)
				}
				w.consents.set(p, false)
			}
		}
		w.want(410, "all", "GET", "/Appointment/both", "")
	})
}

// TestUndecidedIsHidden checks that a version whose patients cannot be found out is shown
// to the operator alone, even if the patient that is known consents.
func TestUndecidedIsHidden(t *testing.T) {
	g := grant(&consents{denied: map[string]bool{}}, access.Rule{Type: "*", May: cruds})
	f := &access.Facts{Type: "Appointment", ID: "a", Patient: "p1", Tokens: access.Undecided("Appointment")}
	if g.Filter(access.Read).Allow(f) || !access.All().Filter(access.Read).Allow(f) ||
		!slices.Equal(f.Patients(), []string{"p1"}) {
		t.Error("an undecided version is disclosed, or not to the operator")
	}
	f.Tokens = func(string) []access.Token { return nil }
	if !g.Filter(access.Read).Allow(f) { // control
		t.Error("a decided version is hidden")
	}
}

// TestOwnResources checks that no client can change what the server publishes, or publish
// under its URLs, by any kind of write.
func TestOwnResources(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.tokens["operator"] = access.All()
		code := func(id, url string) string {
			return `{"resourceType":"CodeSystem","id":"` + id + `","url":"` + url +
				`","status":"active",` +
				`"content":"complete"}`
		}
		own, theirs := fhir.Canonical+"/CodeSystem/own", "https://example.org/CodeSystem/x"
		topic := `{"resourceType":"Basic","id":"topic","code":{"text":"topic"}}`
		for _, r := range []fhir.Resource{{Type: "CodeSystem", ID: "own", JSON: []byte(code("own", own))},
			{Type: "Basic", ID: "topic", JSON: []byte(topic)}} {
			r, err := w.service.Validator.Resource(r.Type, r.JSON, r.ID)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.store.Commit(t.Context(), &store.Batch{Writes: []store.Write{{Op: store.Put, Resource: r,
				Expect: store.Absent}}}); err != nil {
				t.Fatal(err)
			}
		}
		seq := w.want(200, "all", "GET", "/CodeSystem/own", "").header.Get("ETag")
		entry := func(typ, method, url, resource string) string {
			return `{"resourceType":"Bundle","type":"` + typ + `","entry":[{"resource":` + resource +
				`,"request":{"method":"` + method + `","url":"` + url + `"}}]}`
		}
		jsonPatch := []string{"Content-Type", "application/json-patch+json"}
		const meta = `{"resourceType":"Parameters","parameter":[{"name":"meta","valueMeta":{"tag":[{"code":"x"}]}}]}`
		for _, c := range []struct {
			method, path, body string
			header             []string
		}{
			{"PUT", "/CodeSystem/own", code("own", theirs), nil},
			{"PUT", "/CodeSystem/new", code("new", own), nil},
			{"POST", "/CodeSystem", code("new", own+"|2"), nil},
			{"POST", "/CodeSystem", code("new", own), []string{"If-None-Exist", "url=https://example.org/none"}},
			{"PUT", "/CodeSystem?url=" + own, code("own", theirs), nil},
			{"PATCH", "/CodeSystem/own", `[{"op":"replace","path":"/status","value":"retired"}]`, jsonPatch},
			{"DELETE", "/CodeSystem/own", "", nil},
			{"DELETE", "/CodeSystem?url=" + own, "", nil},
			{"POST", "/CodeSystem/own/$meta-add", meta, nil},
			{"POST", "", entry("transaction", "PUT", "CodeSystem/own", code("own", theirs)), nil},
			{"POST", "", entry("transaction", "POST", "CodeSystem", code("new", own)), nil},
			{"PUT", "/Basic/topic", topic, nil},
			{"DELETE", "/Basic/topic", "", nil},
		} {
			a := w.do("all", c.method, c.path, c.body, c.header...)
			if a.status != 403 || a.json["resourceType"] != "OperationOutcome" {
				t.Errorf("%s %s: %d %s", c.method, c.path, a.status, a.body)
			}
		}
		w.want(200, "all", "POST", "", entry("batch", "PUT", "CodeSystem/own", code("own", theirs)))
		if got := w.want(200, "all", "GET", "/CodeSystem/own", "").header.Get("ETag"); got != seq {
			t.Errorf("the CodeSystem has version %s, had %s", got, seq)
		}
		// Controls: a client's own URL, one that only begins alike, and the operator.
		w.want(201, "all", "PUT", "/CodeSystem/x", code("x", theirs))
		w.want(200, "all", "PUT", "/CodeSystem/x", code("x", fhir.Canonical+"-not/CodeSystem/x"))
		w.want(200, "operator", "PUT", "/CodeSystem/own", code("own", own))
		w.want(204, "operator", "DELETE", "/CodeSystem/own", "")
	})
}
