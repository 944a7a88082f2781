package rest

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir/access"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/parameters"
	"pulsegate/fhir/store/pebblestore"
)

// parametersWorld is a world in which SearchParameter resources define parameters. rows says
// whether the store keeps index rows of them.
func parametersWorld(t *testing.T, fs vfs.FS, rows bool) (*world, *parameters.Live, *pebblestore.DB) {
	t.Helper()
	live := parameters.New()
	o := pebblestore.Options{FS: fs}
	if rows {
		o.Registry = live.Registry
	}
	st, err := pebblestore.Open("s", o)
	if err != nil {
		t.Fatal(err)
	}
	if err := live.Open(t.Context(), st, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	w := serve(t, st)
	w.service.Parameters = live.Registry
	w.service.Checks = map[string]interaction.Check{"SearchParameter": live.Check}
	w.persons = map[string]access.Principal{}
	return w, live, st
}

const colorURL, coachURL, bandURL = "https://example.org/color", "https://example.org/coach", "https://example.org/band"

func searchParameter(id, url, code, typ, base, expression, more string) string {
	return fmt.Sprintf(`{"resourceType":"SearchParameter","id":"%s","url":"%s","name":"X","status":"active","description":"X","code":"%s","base":["%s"],"type":"%s","expression":"%s"%s}`,
		id, url, code, base, typ, strings.ReplaceAll(expression, `"`, `\"`), more)
}

func extended(resource, extension string) string {
	return strings.Replace(resource, `{"resourceType"`, `{"extension":[`+extension+`],"resourceType"`, 1)
}

func (w *world) defineParameters() {
	w.t.Helper()
	ext := func(typ, url, value string) string {
		return typ + ".extension.where(url='" + url + "').value" + value
	}
	w.put("SearchParameter/color", searchParameter("color", colorURL, "eye-color", "token", "Patient",
		ext("Patient", colorURL, ".ofType(code)"), ""), 201)
	w.put("SearchParameter/coach", searchParameter("coach", coachURL, "coach", "reference", "Patient",
		ext("Patient", coachURL, ".ofType(Reference)"), `,"target":["Practitioner"]`), 201)
	w.put("SearchParameter/band", searchParameter("band", bandURL, "band-width", "quantity", "Observation",
		ext("Observation", bandURL, ".ofType(Quantity)"), ""), 201)
}

func (w *world) wearers() {
	w.t.Helper()
	w.put("Practitioner/dr", `{"resourceType":"Practitioner","id":"dr","name":[{"family":"Sprint"}]}`, 201)
	for i, color := range []string{"brown", "green", "brown"} {
		id := fmt.Sprint("p", i+1)
		e := `{"url":"` + colorURL + `","valueCode":"` + color + `"}`
		if i == 2 {
			e += `,{"url":"` + coachURL + `","valueReference":{"reference":"Practitioner/dr"}}`
		}
		w.put("Patient/"+id, extended(`{"resourceType":"Patient","id":"`+id+`"}`, e), 201)
		w.put("Observation/o"+fmt.Sprint(i+1), extended(observation(fmt.Sprint("o", i+1), id, "vital-signs", 60),
			fmt.Sprintf(`{"url":"%s","valueQuantity":{"value":%d,"unit":"mm","system":"http://unitsofmeasure.org","code":"mm"}}`,
				bandURL, 18+2*i)), 201)
	}
}

func (w *world) wantIDs(client, query, want string) {
	w.t.Helper()
	if got := strings.Join(w.want(200, client, "GET", query, "").ids(), " "); got != want {
		w.t.Errorf("%s as %s: %s, want %s", query, client, got, want)
	}
}

// wantDefined tests the searches that the parameters allow.
func (w *world) wantDefined(t *testing.T) {
	t.Helper()
	for query, want := range map[string]string{
		"/Patient?eye-color=brown":                                   "Patient/p1 Patient/p3",
		"/Patient?eye-color=brown,green&_sort=-eye-color&_count=1":   "Patient/p2",
		"/Patient?eye-color:not=brown":                               "Patient/p2",
		"/Patient?eye-color:missing=true":                            "",
		"/Patient?coach=Practitioner/dr":                             "Patient/p3",
		"/Patient?coach.name=sprint":                                 "Patient/p3",
		"/Patient?eye-color=brown&coach:missing=true":                "Patient/p1",
		"/Patient?coach=Practitioner/dr&_include=Patient:coach":      "Patient/p3 Practitioner/dr",
		"/Practitioner?_has:Patient:coach:eye-color=brown":           "Practitioner/dr",
		"/Practitioner?_revinclude=Patient:coach":                    "Patient/p3 Practitioner/dr",
		"/Observation?subject.eye-color=green":                       "Observation/o2",
		"/Observation?band-width=gt19":                               "Observation/o2 Observation/o3",
		"/Observation?band-width=lt1.9|http://unitsofmeasure.org|cm": "Observation/o1",
	} {
		w.wantIDs("all", query, want)
	}
}

// TestSearchParameters tests parameters that clients define: on resources of before and
// after, with and without index rows, after a restart, and when they are retired.
func TestSearchParameters(t *testing.T) {
	for _, rows := range []bool{false, true} {
		t.Run(fmt.Sprint("rows ", rows), func(t *testing.T) {
			fs := vfs.NewMem()
			w, live, st := parametersWorld(t, fs, rows)
			w.wearers()
			w.want(400, "all", "GET", "/Patient?eye-color=brown", "")
			w.defineParameters()
			w.wantDefined(t) // before there are rows
			build := func() {
				for range 1000 {
					more, err := st.Reindex(t.Context(), 2)
					if err != nil {
						t.Fatal(err)
					}
					w.wantIDs("all", "/Patient?eye-color=brown", "Patient/p1 Patient/p3")
					if !more {
						return
					}
				}
				t.Fatal("the index is never complete")
			}
			build()
			w.wantDefined(t)
			states, err := live.States(t.Context(), st)
			if err != nil || len(states) != 3 {
				t.Fatal(states, err)
			}
			for _, x := range states {
				if rows && !x.Ready {
					t.Errorf("%+v is not ready", x)
				}
			}
			w.put("Patient/p4", extended(`{"resourceType":"Patient","id":"p4"}`,
				`{"url":"`+colorURL+`","valueCode":"amber"}`), 201)
			w.wantIDs("all", "/Patient?eye-color=amber", "Patient/p4")
			w.want(204, "all", "DELETE", "/Patient/p4", "")
			w.consents.set("p2", true)
			w.wantIDs("all", "/Observation?band-width=gt19", "Observation/o3")
			w.wantIDs("all", "/Observation?subject.eye-color=green", "")
			w.consents.set("p2", false)

			live.Close()
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
			w, live, st = parametersWorld(t, fs, rows)
			defer func() {
				live.Close()
				if err := st.Close(); err != nil {
					t.Error(err)
				}
			}()
			w.wantDefined(t)
			build()
			before := live.Version()
			w.want(200, "all", "PATCH", "/SearchParameter/color", `[{"op":"replace","path":"/status","value":"retired"}]`,
				"Content-Type", "application/json-patch+json")
			w.want(204, "all", "DELETE", "/SearchParameter/band", "")
			w.want(400, "all", "GET", "/Patient?eye-color=brown", "")
			w.want(400, "all", "GET", "/Observation?band-width=gt19", "")
			w.wantIDs("all", "/Patient?coach=Practitioner/dr", "Patient/p3")
			if live.Version() == before {
				t.Error("the version is the same")
			}
		})
	}
}

// TestBadSearchParameters tests who may define parameters, and which.
func TestBadSearchParameters(t *testing.T) {
	w, live, st := parametersWorld(t, vfs.NewMem(), true)
	defer func() {
		live.Close()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}()
	good := searchParameter("x", "https://example.org/x", "x-ray", "token", "Patient", "Patient.active", "")
	person := grant(w.consents, access.Rule{Type: "*", May: cruds})
	person.Person = true
	w.tokens["person"] = person
	w.want(403, "person", "PUT", "/SearchParameter/x", good)
	w.want(403, "reader", "PUT", "/SearchParameter/x", good)
	w.put("SearchParameter/x", good, 201)
	w.want(403, "person", "DELETE", "/SearchParameter/x", "")
	for _, c := range []struct {
		status            int
		body, rule, where string
	}{
		{409, searchParameter("y", "https://example.org/x", "y-ray", "token", "Patient", "Patient.active", ""), "this URL", ""},
		{409, searchParameter("y", "https://example.org/y", "x-ray", "token", "Patient", "Patient.active", ""), "this code", ""},
		{422, searchParameter("y", "https://example.org/y", "name", "token", "Patient", "Patient.active", ""), "already has", "SearchParameter.code"},
		{422, searchParameter("y", "https://example.org/y", "_y", "token", "Patient", "Patient.active", ""), "code must be", "SearchParameter.code"},
		{422, searchParameter("y", "https://example.org/y", "y-ray", "token", "Patient", "Patient.active.", ""), "expression", "SearchParameter.expression"},
		{422, searchParameter("y", "https://example.org/y", "y-ray", "date", "Patient", "Patient.active", ""), "can index", "SearchParameter.expression"},
		{422, searchParameter("y", "https://example.org/y", "y-ray", "token", "Parameters", "Parameters.id", ""), "server stores", "SearchParameter.base"},
		{422, searchParameter("y", "https://example.org/y", "y-ray", "composite", "Patient", "Patient", ""), "not supported", "SearchParameter.type"},
	} {
		a := w.want(c.status, "all", "PUT", "/SearchParameter/y", c.body)
		if !strings.Contains(string(a.body), c.rule) || !strings.Contains(string(a.body), c.where) {
			t.Errorf("%s: want %q at %q", a.body, c.rule, c.where)
		}
	}
	draft := strings.Replace(good, "active", "draft", 1)
	w.put("SearchParameter/z", strings.Replace(draft, `"id":"x"`, `"id":"z"`, 1), 201)
	if p, ok := live.Registry().Lookup("Patient", "x-ray"); !ok || p.URL != "https://example.org/x" {
		t.Errorf("%+v", p)
	}
}
