package rest

import (
	"net/http"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/definitions/sample"
)

// TestThirdClientSeesNothingOfAuthors tests, for every type that needs a consent, that a
// resource without a patient is shown to the client that wrote it only: another client with
// scopes for the type, which all patients permit, gets on every surface that reads the answer
// of a server without the resource.
func TestThirdClientSeesNothingOfAuthors(t *testing.T) {
	with, permits := thirdWorld(t)
	without, alike := thirdWorld(t)
	for _, p := range []string{"p1", "p2", "p3"} {
		permits.set(p, false)
		alike.set(p, false)
	}
	with.tokens["author"] = &access.Grant{Recipient: "author", Consents: permits, Rules: with.tokens["third"].Rules}
	var cases []patientCase
	for _, typ := range fhir.Types {
		id := "authored-" + strings.ToLower(typ)
		body, ok := sample.Resource(typ, id)
		if !ok || !access.NeedsConsent(typ) || strings.Contains(body, "Patient/") {
			continue
		}
		c := patientCase{typ: typ, id: id, code: "_id", patients: []string{"p1"}, body: body}
		if code, _ := access.PatientParam(typ); code != "" && !strings.HasPrefix(code, "_") {
			c.code = code
		}
		with.want(http.StatusCreated, "author", "PUT", "/"+typ+"/"+id, body)
		with.about(&c)
		without.about(&c)
		cases = append(cases, c)
	}
	if len(cases) < 20 {
		t.Fatalf("%d types, want most of those that can lack a patient", len(cases))
	}
	for i := range cases {
		c := &cases[i]
		for _, s := range c.surfaces() {
			if s.method != "GET" && s.method != "HEAD" && !strings.HasSuffix(s.path, "_search") {
				continue
			}
			if got, want := with.told(&s), without.told(&s); got != want {
				t.Errorf("%s, %s:\n%.600s\nabsent:\n%.600s", c.id, s.name, got, want)
			}
		}
		for _, path := range []string{"/" + c.typ + "/" + c.id, "/" + c.typ + "?_id=" + c.id} { // the author sees it
			a := with.do("author", "GET", path, "")
			if raw := c.typ == "Binary" && !strings.Contains(path, "?"); a.status != http.StatusOK ||
				!raw && !strings.Contains(string(a.body), c.id) {
				t.Errorf("%s for its author: %d %.300s", path, a.status, a.body)
			}
		}
	}
	t.Log(len(cases), "types")
}
