package rest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/bulk"
)

// thirdWorld is a world with an exporter and the client "third", which has scopes for
// every type but AuditEvent, and which only p9 permits at first.
func thirdWorld(t *testing.T) (*world, *consents) {
	t.Helper()
	permits := &consents{denied: map[string]bool{"p1": true, "p2": true, "p3": true}}
	w := serve(t, drivers["pebble"](t), func(w *world, s *Server) {
		x, err := bulk.New(t.Context(), bulk.Options{Store: w.store, Audit: s.Service.Audit, Clock: time.Now,
			Rand: rand.Reader, Base: s.Service.Base,
			GrantFor: func(_ context.Context, client, _ string) (*access.Grant, error) {
				return w.tokens[client], nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(x.Close)
		s.Operations = append(s.Operations, Bulk{Exporter: x, Base: s.Service.Base, Polls: 1 << 20})
	})
	var rules []access.Rule
	for _, typ := range fhir.Types {
		if typ != "AuditEvent" { // the trail names what others did
			rules = append(rules, access.Rule{Type: typ, May: cruds})
		}
	}
	w.tokens["third"] = &access.Grant{Recipient: "third", Consents: permits, Rules: rules}
	for _, p := range []string{"p1", "p2", "p3", "p9"} {
		w.put("Patient/"+p, `{"resourceType":"Patient","id":"`+p+`"}`, 201)
	}
	return w, permits
}

// surface is a request that tells of a resource.
type surface struct{ name, method, path, body, header string }

// surfaces returns requests about a resource that tell of it in different ways. Those
// that change a resource come last.
func (c *patientCase) surfaces() []surface {
	ref, in := c.typ+"/"+c.id, "/"+c.typ
	meta := parametersOf(`{"name":"meta","valueMeta":{"tag":[{"system":"urn:x","code":"y"}]}}`)
	get := func(name, path string) surface { return surface{name: name, method: "GET", path: path} }
	bundle := func(typ, request string) string {
		return `{"resourceType":"Bundle","type":"` + typ + `","entry":[{"request":` + request + `}]}`
	}
	all := []surface{
		get("read", "/"+ref), {"head", "HEAD", "/" + ref, "", ""}, get("XML", "/"+ref+"?_format=xml"),
		get("a page", "/"+ref+"?_format=html"), get("_summary", "/"+ref+"?_summary=true"),
		get("vread", "/"+ref+"/_history/1"), get("history", "/"+ref+"/_history"),
		get("history of the type", in+"/_history?_count=1000"),
		get("search", in+"?_id="+c.id), get("_lastUpdated", in+"?_lastUpdated=ge2000-01-01&_count=1000"),
		get("count", in+"?_summary=count"), get("parameter", in+"?"+c.code+"=Patient/"+c.patients[0]+"&_id="+c.id),
		get("missing", in+"?"+c.code+":missing=false&_id="+c.id), get("_filter", in+"?_filter=_id%20eq%20"+c.id),
		{"_search", "POST", in + "/_search", "_id=" + c.id, "application/x-www-form-urlencoded"},
		get("sort", in+"?_sort=-_lastUpdated&_count=1&_id="+c.id),
		get("_list", in+"?_list=list-"+c.id), get("system", "/?_type="+c.typ+"&_id="+c.id),
		{"system _search", "POST", "/_search", "_type=" + c.typ + ",Basic&_id=" + c.id,
			"application/x-www-form-urlencoded"},
		get("compartment", "/Patient/"+c.patients[0]+in+"?_id="+c.id),
		get("compartment of all types", "/Patient/"+c.patients[0]+"/*?_type="+c.typ+"&_id="+c.id),
		get("chain", "/Provenance?target:"+c.typ+"._id="+c.id),
		get("_has", "/Patient?_has:"+c.typ+":"+c.code+":_id="+c.id),
		get("_include", "/Provenance?_id=prov-"+c.id+"&_include=Provenance:target:"+c.typ),
		get("_revinclude", "/Patient?_id="+c.patients[0]+"&_revinclude="+c.typ+":"+c.code),
		get("$everything", "/Patient/"+c.patients[0]+"/$everything?_count=1000&_type="+c.typ),
		get("$meta", "/"+ref+"/$meta"),
		get("$validate", "/"+ref+"/$validate?mode=delete"),
		{"batch", "POST", "/", bundle("batch", `{"method":"GET","url":"`+ref+`"}`), ""},
		{"transaction", "POST", "/", bundle("transaction", `{"method":"GET","url":"`+ref+`"}`), ""},
		{"conditional create", "POST", in, strings.Replace(c.body, `"id":"`+c.id+`",`, "", 1),
			"If-None-Exist: _id=" + c.id},
		{"conditional read", "GET", "/" + ref, "", `If-None-Match: W/"1"`},
		{"$meta-add", "POST", "/" + ref + "/$meta-add", meta, ""},
		{"update of a version", "PUT", "/" + ref, c.body, `If-Match: W/"2"`},
		{"conditional update", "PUT", in + "?_id=" + c.id, c.body, ""},
		{"patch", "PATCH", "/" + ref, `[{"op":"add","path":"/language","value":"en"}]`, "application/json-patch+json"},
		{"conditional patch", "PATCH", in + "?_id=" + c.id, `[{"op":"add","path":"/language","value":"de"}]`,
			"application/json-patch+json"},
		{"conditional delete", "DELETE", in + "?_id=" + c.id, "", ""},
		{"update", "PUT", "/" + ref, c.body, ""},
		{"delete", "DELETE", "/" + ref, "", ""},
		get("deleted", "/"+ref),
	}
	return all
}

// varying matches the parts of an answer that differ between two servers in the same state.
var varying = regexp.MustCompile(`http://127\.0\.0\.1:\d+|"?__page=[^"&]*|\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)|` +
	`[0-9a-f]{8}-[0-9a-f-]{27}|W/\\?"\d+\\?"|/_history/\d+`)

var ownID = regexp.MustCompile(`"id":"[^"]*","meta":\{"lastUpdated":"T"\},"type":"(searchset|history|batch-response|transaction-response)"`)

// told returns all that the third client learns from a request.
func (w *world) told(s *surface) string {
	w.t.Helper()
	var header []string
	if name, value, ok := strings.Cut(s.header, ": "); ok {
		header = []string{name, value}
	} else if s.header != "" {
		header = []string{"Content-Type", s.header}
	}
	a := w.do("third", s.method, s.path, s.body, header...)
	text := fmt.Sprintln(a.status, a.header.Get("ETag") != "", a.header.Get("Location") != "",
		a.header.Get("Last-Modified") != "", a.header.Get("Content-Type")) + string(a.body)
	return ownID.ReplaceAllString(varying.ReplaceAllString(text, "T"), "")
}

// exported returns what the third client exports, as lines in order.
func (w *world) exported(path string) string {
	w.t.Helper()
	a := w.want(202, "third", "GET", path, "", "Prefer", "respond-async", "Accept", "application/fhir+json")
	status := a.header.Get("Content-Location")
	for a.status == 202 {
		a = w.do("third", "GET", status, "")
	}
	var m struct{ Output []struct{ Type, URL string } }
	if err := json.Unmarshal(a.body, &m); err != nil || a.status != 200 {
		w.t.Fatalf("the manifest of %s: %d %v", path, a.status, err)
	}
	var lines []string
	for _, o := range m.Output {
		for _, l := range strings.Split(w.file(o.URL), "\n") {
			lines = append(lines, varying.ReplaceAllString(l, "T"))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// file returns a file of an export.
func (w *world) file(url string) string {
	w.t.Helper()
	rq, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	rq.Header.Set("Authorization", "Bearer third")
	resp, err := http.DefaultClient.Do(rq)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		w.t.Fatalf("the file %s: %d %v", url, resp.StatusCode, err)
	}
	return string(body)
}

// about adds the resources of p9 that refer to the resource of a case, which need not exist.
func (w *world) about(c *patientCase) {
	w.t.Helper()
	w.put("Provenance/prov-"+c.id, `{"resourceType":"Provenance","id":"prov-`+c.id+`","target":[`+
		referenceTo(c.typ+"/"+c.id)+","+referenceTo("Patient/p9")+
		`],"recorded":"2026-10-03T10:00:00Z","agent":[{"who":{"display":"x"}}]}`, 201)
	w.put("List/list-"+c.id, `{"resourceType":"List","id":"list-`+c.id+`","status":"current","mode":"working",`+
		`"subject":`+referenceTo("Patient/p9")+`,"entry":[{"item":`+referenceTo(c.typ+"/"+c.id)+`}]}`, 201)
}

// TestThirdClientSeesNothing tests, for every type in a Patient's compartment, that a client
// with scopes for it which the patients have not permitted gets, on every surface, the
// answer of a server without the resource. A resource of two patients needs both consents.
// With them, every surface tells of the resource: a server that did not filter would
// answer so before.
func TestThirdClientSeesNothing(t *testing.T) {
	with, permits := thirdWorld(t)
	without, alike := thirdWorld(t)
	cases := patientCases(t)
	if testing.Short() { // one of each type
		cases = slices.CompactFunc(cases, func(a, b patientCase) bool { return a.typ == b.typ })
	}
	for i := range cases {
		with.put(cases[i].typ+"/"+cases[i].id, cases[i].body, 201)
		with.about(&cases[i])
		without.about(&cases[i])
	}
	deny := func(patients ...string) {
		for _, p := range []string{"p1", "p2", "p3"} {
			permits.set(p, slices.Contains(patients, p))
			alike.set(p, slices.Contains(patients, p))
		}
	}
	hidden := map[string]string{}
	for i := range cases {
		c := &cases[i]
		states := [][]string{{"p1", "p2", "p3"}}
		if len(c.patients) > 1 {
			states = [][]string{{"p1", "p2"}, {"p1", "p3"}}
		}
		for _, denied := range states {
			deny(denied...)
			for _, s := range c.surfaces() {
				got, want := with.told(&s), without.told(&s)
				if hidden[c.id+s.name] = got; got != want {
					t.Errorf("%s, %s without the consent of %v:\n%.600s\nabsent:\n%.600s", c.id, s.name, denied,
						got, want)
				}
			}
		}
	}
	deny("p1", "p2", "p3")
	whole := []surface{{name: "system history", method: "GET", path: "/_history?_count=1000"}}
	exports := []string{"/$export", "/Patient/$export"}
	for _, s := range whole {
		if got, want := with.told(&s), without.told(&s); got != want {
			t.Errorf("%s differs without consent", s.name)
		}
	}
	for _, path := range exports {
		if got, want := with.exported(path), without.exported(path); got != want {
			t.Errorf("%s differs without consent:\n%.2000s\nwant\n%.2000s", path, got, want)
		}
	}
	deny()
	tells := map[string]string{}
	for _, s := range whole {
		tells[s.name] = with.told(&s)
	}
	for _, path := range exports {
		tells[path] = with.exported(path)
	}
	for i := range cases {
		c := &cases[i]
		for name, text := range tells {
			if !strings.Contains(text, `"id":"`+c.id+`"`) {
				t.Errorf("%s with consent: %s does not tell of it", c.id, name)
			}
		}
		for _, s := range c.surfaces() {
			if got := with.told(&s); got == hidden[c.id+s.name] {
				t.Errorf("%s, %s with consent is as without: %.600s", c.id, s.name, got)
			}
		}
	}
}
