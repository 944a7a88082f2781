package rest

import (
	"fmt"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
)

// TestSecurityContext shows that a Binary is hidden from its author, too, in reads, searches
// and histories, if the grant does not cover the resource that its securityContext names, or
// if the server does not know that resource. (Others never see a Binary, because it is in no patient's compartment.)
func TestSecurityContext(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		known := map[fhir.Ref]*access.Facts{}
		for _, ref := range []fhir.Ref{{Type: "Patient", ID: "p1"}, {Type: "Patient", ID: "p2"}} {
			_, facts, err := w.store.Read(t.Context(), ref, 0)
			if err != nil {
				t.Fatal(err)
			}
			known[ref] = facts
		}
		// Each grant is of the same client, "all".
		use := func(rules ...access.Rule) {
			g := grant(w.consents, rules...)
			g.Recipient = "all"
			g.Context = func(typ, id string) *access.Facts { return known[fhir.Ref{Type: typ, ID: id}] }
			w.tokens["all"] = g
		}
		everything := access.Rule{Type: "*", May: cruds}
		binaries := access.Rule{Type: "Binary", May: cruds}
		read := func(id string, status int) {
			t.Helper()
			for _, path := range []string{"/Binary/" + id, "/Binary/" + id + "/_history/1"} {
				w.want(status, "all", "GET", path, "", "Accept", "application/fhir+json")
			}
			shown := 0
			if status == 200 {
				shown = 1
			}
			w.want(status, "all", "GET", "/Binary/"+id+"/_history", "", "Accept", "application/fhir+json")
			for _, path := range []string{"/Binary?_id=" + id, "/Binary", "/Binary/_history"} {
				body := string(w.do("all", "GET", path, "", "Accept", "application/fhir+json").body)
				if n := strings.Count(body, `"fullUrl":"`+w.srv.URL+`/fhir/Binary/`+id+`"`); n != shown {
					t.Errorf("GET %s has %s %d times, want %d: %s", path, id, n, shown, fmt.Sprintf("%.500s", body))
				}
			}
		}
		use(everything)
		for id, header := range map[string][]string{"free": nil, "b1": {securityContext, "Patient/p1"}} {
			w.want(201, "all", "PUT", "/Binary/"+id, "content", append([]string{"Content-Type", "text/plain"}, header...)...)
		}
		read("free", 200)
		read("b1", 200)
		use(binaries, access.Rule{Type: "Patient", ID: "p1", May: access.Read})
		read("b1", 200)
		use(binaries, access.Rule{Type: "Patient", ID: "p2", May: access.Read})
		read("free", 200)
		read("b1", 404)
		use(binaries)
		read("free", 200)
		read("b1", 404)
		use(everything)
		w.consents.set("p1", true)
		read("free", 200)
		read("b1", 404)
	})
}
