package rest

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir/access"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/searchparameter"
	"pulsegate/fhir/store/pebblestore"
)

const extensionBase = "https://hospital.example/fhir/StructureDefinition/"

// definition returns a SearchParameter over the value of an extension.
func definition(id, status, base, code, typ, more string) string {
	return fmt.Sprintf(`{"resourceType":"SearchParameter","id":"%s","url":"https://hospital.example/fhir/SearchParameter/%s",`+
		`"name":"Defined","status":"%s","description":"d","code":"%s","base":["%s"],"type":"%s"%s,`+
		`"expression":"%s.extension.where(url = '%s%s').value"}`, id, id, status, code, base, typ, more, base,
		extensionBase, code)
}

// extended returns the extension that a definition indexes.
func extended(code, value string) string {
	return fmt.Sprintf(`"extension":[{"url":"%s%s",%s}],`, extensionBase, code, value)
}

// definable is a world whose search parameters follow its SearchParameters.
type definable struct {
	*world
	fs     vfs.FS
	db     *pebblestore.DB
	params *searchparameter.Parameters
	close  func()
}

// openDefinable starts a server over the store in fs.
func openDefinable(t *testing.T, fs vfs.FS) *definable {
	t.Helper()
	params := searchparameter.New(nil)
	db, err := pebblestore.Open("", pebblestore.Options{FS: fs, CacheBytes: 8 << 20, Registry: params.Registry})
	if err != nil {
		t.Fatal(err)
	}
	stop, err := params.Follow(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	d := &definable{world: serve(t, db), fs: fs, db: db, params: params}
	d.service.Registry = params.Registry
	d.service.Checks = map[string]interaction.Check{"SearchParameter": params.Check}
	d.close = func() {
		stop()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	return d
}

// reindex builds the index and checks the store.
func (d *definable) reindex() {
	d.t.Helper()
	for more := true; more; {
		var err error
		if more, err = d.db.Reindex(d.t.Context(), 2); err != nil {
			d.t.Fatal(err)
		}
	}
	if err := d.db.Check(context.Background(), func(p string) { d.t.Error(p) }); err != nil {
		d.t.Fatal(err)
	}
}

// finds checks the ids that a search returns, in any order unless it is sorted.
func (d *definable) finds(client, query string, want ...string) {
	d.t.Helper()
	a := d.want(200, client, "GET", "/"+query, "")
	got := a.ids()
	if strings.Contains(query, "_sort=") {
		got = got[:0]
		for _, e := range a.json["entry"].([]any) {
			r := e.(map[string]any)["resource"].(map[string]any)
			got = append(got, fmt.Sprint(r["resourceType"], "/", r["id"]))
		}
	} else {
		slices.Sort(want)
	}
	if !slices.Equal(got, want) {
		d.t.Errorf("%s as %s: %v, want %v", query, client, got, want)
	}
}

func (d *definable) fill() {
	d.put("Organization/o1", `{"resourceType":"Organization","id":"o1","name":"North"}`, 201)
	d.put("Organization/o2", `{"resourceType":"Organization","id":"o2","name":"South"}`, 201)
	for i, nick := range []string{"Zoe", "Ada", "Mia"} {
		id := fmt.Sprint("p", i+1)
		d.put("Patient/"+id, fmt.Sprintf(`{"resourceType":"Patient","id":"%s","extension":[`+
			`{"url":"%snick","valueString":"%s"},{"url":"%sclinic","valueReference":{"reference":"Organization/o%d"}}]}`,
			id, extensionBase, nick, extensionBase, i%2+1), 201)
		d.wear("w"+id, id, "left")
		d.wear("x"+id, id, "right")
	}
}

func (d *definable) wear(id, patient, side string) {
	d.t.Helper()
	o := observation(id, patient, "vital-signs", 60)
	d.put("Observation/"+id, strings.Replace(o, `"status"`, extended("worn-on", `"valueCode":"`+side+`"`)+`"status"`, 1), 201)
}

// TestDefinedParameters creates SearchParameters on extensions of Observation and Patient,
// searches by them before and after the index is built and after a restart, and retires
// them.
func TestDefinedParameters(t *testing.T) {
	fs := vfs.NewMem()
	d := openDefinable(t, fs)
	d.fill()
	for _, q := range []string{"Patient?nick=ada", "Observation?worn-on=left", "Observation?patient.nick=ada",
		"Patient?_sort=nick", "Patient?_include=Patient:clinic"} {
		d.want(400, "all", "GET", "/"+q, "")
	}
	d.put("SearchParameter/worn-on", definition("worn-on", "active", "Observation", "worn-on", "token", ""), 201)
	d.put("SearchParameter/nick", definition("nick", "active", "Patient", "nick", "string", ""), 201)
	d.put("SearchParameter/clinic", definition("clinic", "active", "Patient", "clinic", "reference",
		`,"target":["Organization"]`), 201)
	d.searches()
	d.wear("new", "p2", "left")
	d.put("Patient/p4", `{"resourceType":"Patient","id":"p4",`+extended("nick", `"valueString":"Bea"`)+`"gender":"female"}`, 201)
	d.finds("all", "Observation?worn-on=left&patient=p2", "Observation/new", "Observation/wp2")
	d.finds("all", "Patient?nick=bea", "Patient/p4")
	d.want(204, "all", "DELETE", "/Observation/new", "")
	d.want(204, "all", "DELETE", "/Patient/p4", "")
	d.reindex()
	d.searches()
	page := d.want(200, "all", "GET", "/Patient?_sort=nick&_count=1", "").link("next")
	if page == "" {
		t.Fatal("no next page")
	}
	d.close()

	d = openDefinable(t, fs)
	d.searches()
	d.conditional()
	next := page[strings.Index(page, "/Patient"):]
	d.finds("all", next[1:], "Patient/p3")
	// A page link is bound to the definition that it was made under.
	d.put("SearchParameter/nick", strings.Replace(definition("nick", "active", "Patient", "nick", "string", ""),
		"').value", "').value.lower()", 1), 200)
	if a := d.do("all", "GET", next, ""); a.status < 400 {
		t.Errorf("a page of another definition: %d", a.status)
	}
	d.searches()
	d.reindex()
	d.searches()

	d.put("SearchParameter/nick", definition("nick", "retired", "Patient", "nick", "string", ""), 200)
	d.want(204, "all", "DELETE", "/SearchParameter/worn-on", "")
	for _, q := range []string{"Patient?nick=ada", "Observation?worn-on=left", "Observation?patient.nick=ada",
		"Patient?_sort=nick"} {
		d.want(400, "all", "GET", "/"+q, "")
	}
	d.finds("all", "Patient?clinic=Organization/o1", "Patient/p1", "Patient/p3")
	d.reindex()
	d.put("SearchParameter/worn-on", definition("worn-on", "active", "Observation", "worn-on", "token", ""), 201)
	d.finds("all", "Observation?worn-on=right&patient=p1", "Observation/xp1")
	d.close()
}

// searches searches by the parameters of TestDefinedParameters.
func (d *definable) searches() {
	d.t.Helper()
	d.finds("all", "Patient?nick=ada", "Patient/p2")
	d.finds("all", "Patient?nick:contains=i", "Patient/p3")
	d.finds("all", "Patient?nick:missing=true")
	d.finds("all", "Patient?_sort=nick", "Patient/p2", "Patient/p3", "Patient/p1")
	d.finds("all", "Patient?_sort=-nick&clinic=Organization/o1", "Patient/p1", "Patient/p3")
	d.finds("all", "Patient?clinic.name=south", "Patient/p2")
	d.finds("all", "Patient?nick=mia&_include=Patient:clinic", "Organization/o1", "Patient/p3")
	d.finds("all", "Organization?name=south&_revinclude=Patient:clinic", "Organization/o2", "Patient/p2")
	d.finds("all", "Organization?_has:Patient:clinic:nick=mia", "Organization/o1")
	d.finds("all", "Observation?patient.nick=zoe", "Observation/wp1", "Observation/xp1")
	d.finds("all", "Observation?patient.clinic.name=south&worn-on=left", "Observation/wp2")
	d.finds("all", "Observation?worn-on=left", "Observation/wp1", "Observation/wp2", "Observation/wp3")
	d.finds("all", "Observation?worn-on:not=left&patient=p1", "Observation/xp1")
	d.finds("all", "Observation?worn-on:missing=true")
	d.finds("all", "Observation?_filter="+url.QueryEscape("worn-on eq right and patient eq p3"), "Observation/xp3")
	d.finds("all", "Patient/p2/Observation?worn-on=right", "Observation/xp2")
	// A granular scope reads R4's parameters of each resource.
	d.finds("vitals", "Observation?worn-on=right&patient=p3", "Observation/xp3")
	d.hidden()
	if a := d.want(200, "all", "GET", "/Observation?worn-on=left&_summary=count", ""); fmt.Sprint(a.json["total"]) != "3" {
		d.t.Errorf("total %v", a.json["total"])
	}
}

// hidden checks that no search by a defined parameter discloses the data of a patient
// whose consent is missing.
func (d *definable) hidden() {
	d.t.Helper()
	d.consents.set("p2", true)
	d.finds("all", "Observation?worn-on=left", "Observation/wp1", "Observation/wp3")
	d.finds("all", "Observation?worn-on=left&patient.nick=ada")
	if a := d.want(200, "all", "GET", "/Observation?worn-on=left&_summary=count", ""); fmt.Sprint(a.json["total"]) != "2" {
		d.t.Errorf("total %v", a.json["total"])
	}
	d.consents.set("p2", false)
	d.tokens["own"] = grant(d.consents, access.Rule{Type: "*", May: access.Read | access.Search, Patient: "p1"})
	d.finds("own", "Patient?nick=ada,zoe", "Patient/p1")
	d.finds("own", "Observation?worn-on=left", "Observation/wp1")
	d.finds("own", "Observation?patient.nick=ada")
	d.finds("own", "Patient?_has:Observation:patient:worn-on=left", "Patient/p1")
}

// conditional writes by criteria with defined parameters.
func (d *definable) conditional() {
	d.t.Helper()
	body := `{"resourceType":"Patient",` + extended("nick", `"valueString":"Ada"`) + `"gender":"female"}`
	a := d.want(200, "all", "POST", "/Patient", body, "If-None-Exist", "nick=ada")
	if a.json["id"] != "p2" {
		d.t.Errorf("matched %v", a.json["id"])
	}
	// Both entries of a transaction match: what the first creates is found by the second.
	entry := `{"resource":` + strings.Replace(body, "Ada", "Nora", 1) +
		`,"request":{"method":"%s","url":"%s"}}`
	d.want(400, "all", "POST", "/", `{"resourceType":"Bundle","type":"transaction","entry":[`+
		fmt.Sprintf(entry, "POST", "Patient")+","+fmt.Sprintf(entry, "PUT", "Patient?nick=nora")+`]}`)
	d.finds("all", "Patient?nick=nora")
}

// TestRefusedParameters checks that SearchParameters that cannot take effect are refused
// with their place, and that drafts are stored without effect.
func TestRefusedParameters(t *testing.T) {
	d := openDefinable(t, vfs.NewMem())
	defer d.close()
	good := definition("good", "active", "Patient", "nick", "string", "")
	d.put("SearchParameter/good", good, 201)
	for name, c := range map[string]struct{ body, place string }{
		"code of R4":         {definition("bad", "active", "Patient", "name", "string", ""), "SearchParameter.code"},
		"code of another":    {definition("bad", "active", "Patient", "nick", "string", ""), "SearchParameter.code"},
		"url of another":     {strings.ReplaceAll(strings.Replace(good, `"id":"good"`, `"id":"bad"`, 1), "nick", "nock"), "SearchParameter.url"},
		"type":               {definition("bad", "active", "Patient", "bad", "special", ""), "SearchParameter.type"},
		"base":               {definition("bad", "active", "Resource", "bad", "token", ""), "SearchParameter.base"},
		"expression":         {strings.Replace(definition("bad", "active", "Patient", "bad", "token", ""), ".value", ".(("+canary, 1), "SearchParameter.expression"},
		"unknown element":    {strings.Replace(definition("bad", "active", "Patient", "bad", "token", ""), ".extension", "."+canary, 1), "SearchParameter.expression"},
		"unfit elements":     {strings.Replace(definition("bad", "active", "Patient", "bad", "date", ""), ".extension", ".name.family", 1), "SearchParameter.expression"},
		"without expression": {`{"resourceType":"SearchParameter","id":"bad","url":"urn:x","name":"Bad","status":"active","description":"d","code":"bad","base":["Patient"],"type":"token"}`, "SearchParameter.expression"},
	} {
		a := d.put("SearchParameter/bad", c.body, 422)
		if !strings.Contains(string(a.body), `"`+c.place+`"`) || strings.Contains(string(a.body), canary) {
			t.Errorf("%s: %s", name, a.body)
		}
		created := strings.Replace(c.body, `"active"`, `"draft"`, 1)
		d.want(201, "all", "POST", "/SearchParameter", created)
	}
	d.want(400, "all", "GET", "/Patient?bad=1", "")
	// The same code is free on another type, and again when its SearchParameter is gone.
	d.put("SearchParameter/other", definition("other", "active", "Practitioner", "nick", "string", ""), 201)
	d.put("SearchParameter/good", strings.Replace(good, `"active"`, `"draft"`, 1), 200)
	d.put("SearchParameter/bad", definition("bad", "active", "Patient", "nick", "string", ""), 201)
	d.put("SearchParameter/good", good, 422)
	d.want(204, "all", "DELETE", "/SearchParameter/bad", "")
	d.put("SearchParameter/good", good, 200)
	d.want(403, "reader", "POST", "/SearchParameter", definition("x", "active", "Patient", "x", "string", ""))
	for i := 1; i < 64; i++ {
		id := fmt.Sprint("n", i)
		d.put("SearchParameter/"+id, definition(id, "active", "Patient", id, "string", ""), 201)
	}
	if a := d.put("SearchParameter/many", definition("many", "active", "Patient", "many", "string", ""), 422); !strings.Contains(string(a.body), "SearchParameter.base") {
		t.Errorf("too many: %s", a.body)
	}
	d.put("SearchParameter/n1", definition("n1", "active", "Patient", "n1", "string", ""), 200)
}
