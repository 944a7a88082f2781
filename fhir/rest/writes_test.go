package rest

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// given has the form of an id that the server gives.
const given = "abcdefghijklmnopqrstuvwxyz"

// ingested stores an Observation as the ingest does.
func (w *world) ingested(typ, id, patient, body string) {
	w.t.Helper()
	if body == "" {
		body = observation(id, patient, "vital-signs", 60)
	}
	_, rest, _ := strings.Cut(body, `"id":"`+id+`"`)
	r := fhir.Resource{Type: typ, ID: id, JSON: []byte(fhir.Prefix(typ, id) + "}" + rest)}
	if _, err := w.store.Commit(w.t.Context(),
		&store.Batch{Writes: []store.Write{{Resource: r, Vendor: "oura"}}}); err != nil {
		w.t.Fatal(err)
	}
}

// conditionalEntry returns a Bundle entry, with ifMatch if match is not empty.
func conditionalEntry(method, path, resource, match string) string {
	e := entry("", method, strings.TrimPrefix(path, "/"), resource)
	if match != "" {
		e = strings.Replace(e, `"method"`, `"ifMatch":"W/\"1\"","method"`, 1)
	}
	return e
}

// TestHiddenIsAbsent tests that on every write path, hidden and absent resources give
// the same status and text.
func TestHiddenIsAbsent(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		other := given[1:] + "2"
		long := "0123456789abcdefghijklmnopqrstuv"
		w.put("Patient/hid", `{"resourceType":"Patient","id":"hid"}`, 201)
		for _, id := range []string{given, long, "named", "removed"} {
			w.ingested("Observation", id, "hid", "")
		}
		w.ingested("Device", "dev", "hid", `{"resourceType":"Device","id":"dev","patient":{"reference":"Patient/hid"}}`)
		w.want(204, "all", "DELETE", "/Observation/removed", "")
		w.consents.set("hid", true)
		// absent stands for hidden in path and body.
		same := func(what string, hidden, absent answer) {
			t.Helper()
			a := strings.NewReplacer("named", "missing", "removed", "missing", given, other, long,
				long[1:]+"w").Replace(string(hidden.body))
			b := strings.NewReplacer("nowhere", "missing").Replace(string(absent.body))
			if hidden.status != absent.status || a != b || hidden.header.Get("ETag") != absent.header.Get("ETag") ||
				hidden.status < 400 {
				t.Errorf("%s: hidden %d %s, absent %d %s", what, hidden.status, hidden.body, absent.status, absent.body)
			}
		}
		body := func(id, patient string) string { return observation(id, patient, "vital-signs", 60) }
		for _, pair := range [][2]string{{given, other}, {long, long[1:] + "w"}, {"named", "nowhere"},
			{"removed", "nowhere"}} {
			for _, c := range []struct {
				method, patient, match string
				reserved               bool // the two differ unless the id is one of the server's
			}{
				{"PUT", "p1", `W/"1"`, false}, {"PUT", "p1", "*", false}, {"PUT", "hid", `W/"1"`, false},
				{"PUT", "nobody", `W/"1"`, false}, {"PUT", "hid", "", false}, {"PUT", "nobody", "", false},
				{"PUT", "p1", "", true}, {"DELETE", "", "", false}, {"DELETE", "", `W/"1"`, false},
			} {
				if c.reserved && len(pair[0]) < 20 {
					continue
				}
				var got, bundled, batched [2]answer
				for i, id := range pair {
					path, res := "/Observation/"+id, ""
					if c.method == "PUT" {
						res = body(id, c.patient)
					}
					var h []string
					if c.match != "" {
						h = []string{"If-Match", c.match}
					}
					got[i] = w.do("all", c.method, path, res, h...)
					e := conditionalEntry(c.method, path, res, c.match)
					bundled[i] = w.do("all", "POST", "/", bundle("transaction", e))
					b := w.do("all", "POST", "/", bundle("batch", e)).body
					_, b, _ = bytes.Cut(b, []byte(`"entry"`))
					batched[i] = answer{status: 400, header: http.Header{}, body: b}
				}
				what := fmt.Sprintf("%s %s, patient %q, If-Match %s", c.method, pair[0], c.patient, c.match)
				same(what, got[0], got[1])
				same(what+" in a transaction", bundled[0], bundled[1])
				same(what+" in a batch", batched[0], batched[1])
			}
		}
		// References: of the patient, and of resources of other types.
		for _, pair := range [][2]string{{"Patient/hid", "Patient/nobody"}, {"Device/dev", "Device/nothing"}} {
			var got, full, bundled [2]answer
			for i, ref := range pair {
				o := strings.Replace(body("", "x"), "Patient/x", ref, 1)
				got[i] = w.do("all", "POST", "/Observation", o)
				full[i] = w.do("all", "POST", "/Observation", strings.Replace(o, ref, w.srv.URL+"/fhir/"+ref, 1))
				bundled[i] = w.do("all", "POST", "/",
					bundle("transaction", entry("", "POST", "Observation", body("", "p1")),
						entry("", "POST", "Observation", o)))
			}
			same("a reference to "+pair[0], got[0], got[1])
			same("an absolute reference to "+pair[0], full[0], full[1])
			same("a reference in a transaction to "+pair[0], bundled[0], bundled[1])
		}
		// A conditional create and a conditional reference do not find what is hidden.
		for _, c := range []string{"_id=" + given, "patient=hid", "subject=Patient/hid"} {
			a := w.do("all", "POST", "/Observation", body("", "p1"), "If-None-Exist", c)
			b := w.do("all", "POST", "/Observation", body("", "p1"), "If-None-Exist",
				strings.NewReplacer(given, other, "hid", "nobody").Replace(c))
			if a.status != 201 || b.status != 201 {
				t.Errorf("If-None-Exist %s: %d, of what is absent %d", c, a.status, b.status)
			}
		}
		ref := func(q string) answer {
			o := strings.Replace(body("", "p1"), `"subject"`, `"device":{"reference":"Device?`+q+`"},"subject"`, 1)
			return w.do("all", "POST", "/", bundle("transaction", entry("", "POST", "Observation", o)))
		}
		same("a conditional reference", ref("_id=dev"), ref("_id=not"))
		// All that is hidden is as it was.
		w.consents.set("hid", false)
		for _, id := range []string{given, long, "named"} {
			if a := w.want(200, "all", "GET", "/Observation/"+id, ""); a.header.Get("ETag") != `W/"1"` {
				t.Errorf("%s has been written: %v", id, a.header)
			}
		}
		w.want(410, "all", "GET", "/Observation/removed", "")
		w.want(404, "all", "GET", "/Observation/"+other, "")
	})
}

// TestChangeOfSubject tests that ingested data stay with their patient, and that other
// changes of subject are recorded for both patients.
func TestChangeOfSubject(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.ingested("Observation", "data", "p1", "")
		w.ingested("Observation", "gone", "p1", "")
		w.ingested("Device", "dev", "p1", `{"resourceType":"Device","id":"dev","patient":{"reference":"Patient/p1"}}`)
		w.want(204, "all", "DELETE", "/Observation/gone", "")
		nobody := strings.Replace(observation("data", "p1", "vital-signs", 1),
			`"subject":{"reference":"Patient/p1"},`, "", 1)
		for _, c := range [][2]string{
			{"/Observation/data", observation("data", "p2", "vital-signs", 1)}, {"/Observation/data", nobody},
			{"/Observation/gone", observation("gone", "p2", "vital-signs", 1)},
			{"/Observation/data", strings.Replace(nobody, `"status"`,
				`"subject":{"reference":"https://other.test/fhir/Patient/p1"},"status"`, 1)},
			{"/Device/dev", `{"resourceType":"Device","id":"dev","patient":{"reference":"Patient/p2"}}`},
			{"/Device/dev", `{"resourceType":"Device","id":"dev","status":"active"}`},
		} {
			a := w.want(422, "all", "PUT", c[0], c[1])
			if !bytes.Contains(a.body, []byte("business-rule")) {
				t.Errorf("%s: %s", c[0], a.body)
			}
			w.want(422, "all", "POST", "/", bundle("transaction", entry("", "PUT", c[0][1:], c[1])))
		}
		w.want(200, "all", "PUT", "/Observation/data", observation("data", "p1", "vital-signs", 2))
		w.want(201, "all", "PUT", "/Observation/gone", observation("gone", "p1", "vital-signs", 2))

		w.put("Observation/own", observation("own", "p1", "vital-signs", 1), 201)
		w.put("Observation/own2", observation("own2", "p1", "vital-signs", 1), 201)
		w.want(200, "all", "PUT", "/Observation/own", observation("own", "p2", "vital-signs", 1), "X-Request-Id",
			"moved")
		w.want(200, "all", "POST", "/", bundle("transaction",
			entry("", "PUT", "Observation/own2", observation("own2", "p2", "vital-signs", 1))), "X-Request-Id",
			"movedT")
		w.want(204, "all", "DELETE", "/Observation/own", "")
		w.want(201, "all", "PUT", "/Observation/own", observation("own", "p1", "vital-signs", 1), "X-Request-Id",
			"back")
		for id, ref := range map[string]string{"moved": "Observation/own", "movedT": "Observation/own2",
			"back": "Observation/own"} {
			evs := w.eventsOf(id)
			if !named(evs, "p1", ref) || !named(evs, "p2", ref) || len(evs) != 2 {
				t.Errorf("%s: %v", id, evs)
			}
		}
	})
}

// TestPreconditions tests RFC 9110 section 13.1 in single requests and in Bundles.
func TestPreconditions(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.put("Observation/o", observation("o", "p1", "vital-signs", 1), 201)
		w.put("Observation/o", observation("o", "p1", "vital-signs", 2), 200)
		past, future := time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat),
			time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
		version := 2
		for _, c := range []struct {
			method, path string
			header       []string
			want         int
		}{
			{"PUT", "/Observation/o", []string{"If-None-Match", "*"}, 412},
			{"PUT", "/Observation/o", []string{"If-None-Match", `W/"1", W/"2"`}, 412},
			{"PUT", "/Observation/o", []string{"If-None-Match", `W/"1"`}, 200},
			{"DELETE", "/Observation/o", []string{"If-None-Match", "*"}, 412},
			{"DELETE", "/Observation/o", []string{"If-Unmodified-Since", past}, 412},
			{"PUT", "/Observation/o", []string{"If-Unmodified-Since", past}, 412},
			{"PUT", "/Observation/o", []string{"If-Unmodified-Since", future}, 200},
			{"PUT", "/Observation/o", []string{"If-Unmodified-Since", "yesterday"}, 200},
			{"PUT", "/Observation/o", []string{"If-Match", "*"}, 200},
			{"PUT", "/Observation/o", []string{"If-Match", "*", "If-Unmodified-Since", past}, 200},
			{"PUT", "/Observation/o", []string{"If-Match", `"77"`}, 412},
			{"PUT", "/Observation/o", []string{"If-Match", `"foreign"`}, 412},
			{"PUT", "/Observation/o", []string{"If-None-Match", "seven"}, 400},
			{"PUT", "/Observation/absent", []string{"If-Match", "*"}, 412},
			{"PUT", "/Observation/fresh", []string{"If-Unmodified-Since", past}, 201},
			{"PUT", "/Observation/fresher", []string{"If-None-Match", "*"}, 201},
		} {
			res := ""
			if c.method == "PUT" {
				res = observation(c.path[len("/Observation/"):], "p1", "vital-signs", 3)
			}
			a := w.want(c.want, "all", c.method, c.path, res, c.header...)
			if c.path == "/Observation/o" {
				if c.want == 200 {
					version++
				}
				if b := w.want(200, "all", "GET", c.path, ""); b.header.Get("ETag") != fmt.Sprintf(`W/"%d"`, version) {
					t.Errorf("%s %v: %d, then %s", c.method, c.header, a.status, b.header.Get("ETag"))
				}
			}
		}
		put := strings.Replace(entry("", "PUT", "Observation/o", observation("o", "p1", "vital-signs", 4)),
			`"method"`, `"ifNoneMatch":"*","method"`, 1)
		w.want(412, "all", "POST", "/", bundle("transaction", put))
		if a := w.want(200, "all", "POST", "/", bundle("batch", put)); !slices.Equal(statuses(a), []string{"412"}) {
			t.Errorf("in a batch: %s", a.body)
		}
		get := strings.Replace(entry("", "GET", "Observation/o", ""), `"method"`,
			`"ifNoneMatch":"W/\"`+fmt.Sprint(version)+`\"","method"`, 1)
		for _, typ := range []string{"batch", "transaction"} {
			if a := w.want(200, "all", "POST", "/", bundle(typ, get)); !slices.Equal(statuses(a),
				[]string{"304 Not Modified"}) {
				t.Errorf("in a %s: %s", typ, a.body)
			}
		}
	})
}

// TestBatchIsIndependent tests that a failing entry does not affect the others.
func TestBatchIsIndependent(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		bad := map[string]string{
			entry("", "GET", "metadata", ""):                                     "400",
			entry("", "GET", "Observation/$lastn?patient=p1&zanaria=8867-4", ""): "400",
			entry("", "GET", "a/b/c", ""):                                        "400",
			entry("", "GET", "_history/1", ""):                                   "400",
			entry("", "PATCH", "Patient/p1", `{"resourceType":"Patient"}`):       "400",
			entry("", "PUT", "Patient?zanaria=x", `{"resourceType":"Patient"}`):  "400",
			entry("", "DELETE", "Observation?zanaria=x", ""):                     "400",
			entry("", "DELETE", "Observation?_count=1", ""):                      "412",
			entry("", "DELETE", "Observation", ""):                               "400",
			entry("", "POST", "Observation", ""):                                 "400",
			entry("", "PUT", "Observation/x", ""):                                "400",
			entry("", "STEAL", "Observation", ""):                                "400",
			entry("", "GET", "", ""):                                             "400", `7`: "400", `{}`: "400",
			entry("", "POST", "Observation/1", observation("", "p1", "vital-signs", 1)):  "400",
			entry("", "POST", "Zanaria", `{"resourceType":"Zanaria"}`):                   "404",
			entry("", "GET", "Zanaria/1", ""):                                            "404",
			entry("", "POST", "Observation", `{"resourceType":"Observation","code":{}}`): "400",
			entry("", "GET", "Observation?zanaria=1", ""):                                "400",
			entry("", "POST", "Observation",
				strings.Replace(observation("", "p1", "vital-signs", 1), "Patient/p1", "Patient?name=zzz", 1)): "422",
			strings.Replace(entry("", "PUT", "Observation/x", observation("x", "p1", "vital-signs", 1)), `"method"`,
				`"ifMatch":"seven","method"`, 1): "400",
		}
		for e, status := range bad {
			id := "good" + fmt.Sprint(len(e))
			a := w.want(200, "all", "POST", "/",
				bundle("batch", entry("", "POST", "Observation", observation("", "p1", "vital-signs", 1)), e,
					entry("", "GET", "Patient/p1", "")), "X-Request-Id", id)
			if got := statuses(a); !slices.Equal(got, []string{"201 Created", status, "200 OK"}) ||
				!bytes.Contains(a.body, []byte(`"outcome":{"resourceType":"OperationOutcome"`)) {
				t.Errorf("%s: %v: %s", e, got, a.body)
			}
			if evs := w.eventsOf(id); len(evs) < 3 {
				t.Errorf("%s: %d events of three entries", e, len(evs))
			}
			before := w.audited(`"create"`)
			if a := w.do("all", "POST", "/",
				bundle("transaction", entry("", "POST", "Observation", observation("", "p1", "vital-signs", 1)),
					e)); a.status < 400 && !strings.Contains(e, `"GET"`) {
				t.Errorf("in a transaction, %s: %d", e, a.status)
			} else if n := w.audited(`"create"`); a.status >= 400 && n != before {
				t.Errorf("in a transaction, %s: %d creates", e, n-before)
			}
		}
	})
}

// TestConditionalReferences are resolved in transactions: one match that the
// client may find, in the trail; else the transaction fails at its place.
func TestConditionalReferences(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		for _, id := range []string{"a", "b", "b2"} {
			w.put("Patient/c"+id, `{"resourceType":"Patient","id":"c`+id+
				`","identifier":[{"system":"urn:t","value":"`+id[:1]+`"}]}`, 201)
		}
		w.put("Practitioner/doc", `{"resourceType":"Practitioner","id":"doc","identifier":[{"system":"urn:t","value":"d"}]}`, 201)
		obs := func(subject, performer string) string {
			return strings.Replace(observation("", "x", "vital-signs", 1), `"subject":{"reference":"Patient/x"}`,
				`"performer":[{"display":"x"},{"reference":"`+performer+`"}],"subject":{"reference":"`+subject+`"}`, 1)
		}
		for i, subject := range []string{"Patient?identifier=urn:t|a", "Patient?identifier=urn:t%7Ca",
			w.srv.URL + "/fhir/Patient?identifier=urn:t|a", `Patient\u003fidentifier=urn:t|a`} {
			id := fmt.Sprint("cond", i)
			a := w.want(200, "all", "POST", "/",
				bundle("transaction", entry("", "POST", "Observation", obs(subject, "Practitioner?identifier=d"))),
				"X-Request-Id", id)
			if !bytes.Contains(a.body, []byte(`"reference":"Patient/ca"`)) ||
				!bytes.Contains(a.body, []byte(`"reference":"Practitioner/doc"`)) ||
				bytes.Contains(a.body, []byte("identifier=")) {
				t.Errorf("%s: %s", subject, a.body)
			}
			if evs := w.eventsOf(id); !named(evs, "ca", "Patient/ca") || !named(evs, "", "Practitioner/doc") {
				t.Errorf("%s: %v", subject, evs)
			}
			if a := w.want(200, "all", "GET", "/Observation?patient=ca", ""); len(a.ids()) != i+1 {
				t.Errorf("%s: found %v", subject, a.ids())
			}
		}
		for _, c := range []struct {
			client, subject, performer string
			want                       int
			place                      string
		}{
			{"all", "Patient?identifier=urn:t|none", "Practitioner/doc", 412, "Bundle.entry[1].resource.subject"},
			{"all", "Patient?identifier=urn:t|b", "Practitioner/doc", 412, "Bundle.entry[1].resource.subject"},
			{"all", "Patient/ca", "Practitioner?identifier=none", 412, "Bundle.entry[1].resource.performer"},
			{"all", "Patient?", "Practitioner/doc", 412, "Bundle.entry[1].resource.subject"},
			{"all", "Patient?zanaria=1", "Practitioner/doc", 400, "Bundle.entry[1].resource.subject"},
			{"all", "Coffee?identifier=1", "Practitioner/doc", 404, "Bundle.entry[1].resource.subject"},
			{"all", "Patient?identifier=urn:t|a", "Group?_id=none", 412, "Bundle.entry[1].resource.performer"},
			{"all", "Practitioner?identifier=d", "Practitioner/doc", 400, "Observation.subject"},
			{"vitals", "Patient?identifier=urn:t|a", "Practitioner?identifier=d", 403,
				"Bundle.entry[1].resource.performer"},
			{"all", "javascript:alert(1)", "Practitioner/doc", 422, "Observation.subject"},
			{"all", "x:y?z", "Practitioner/doc", 422, "Observation.subject"},
		} {
			ok := observation("", "p1", "vital-signs", 1)
			a := w.want(c.want, c.client, "POST", "/",
				bundle("transaction", entry("", "POST", "Observation", ok),
					entry("", "POST", "Observation", obs(c.subject, c.performer))))
			if !bytes.Contains(a.body, []byte(`"`+c.place)) || !bytes.Contains(a.body, []byte("Bundle.entry[1]")) {
				t.Errorf("%s, %s: %s", c.subject, c.performer, a.body)
			}
		}
		for _, subject := range []string{"Patient?identifier=urn:t|a", "Patient?identifier=a", "Patient?name=x",
			w.srv.URL + "/fhir/Patient?identifier=a", `Patient\u003fidentifier=urn:t|a`, "x:y"} {
			w.want(422, "all", "POST", "/Observation", obs(subject, "Practitioner/doc"))
			w.want(422, "all", "PUT", "/Observation/new",
				strings.Replace(obs(subject, "Practitioner/doc"), `"status"`, `"id":"new","status"`, 1))
			if a := w.want(200, "all", "POST", "/",
				bundle("batch", entry("", "POST", "Observation",
					obs(subject, "Practitioner/doc")))); !slices.Equal(statuses(a), []string{"422"}) {
				t.Errorf("%s in a batch: %s", subject, a.body)
			}
		}
		w.want(404, "all", "GET", "/Observation/new", "")
		if n := len(w.want(200, "all", "GET", "/Observation?patient=ca,p1,cb&_count=100", "").ids()); n != 4 {
			t.Errorf("%d Observations, want the 4 of the transactions that were done", n)
		}
	})
}

// TestLinksOfATransaction: rules of type hold for what references become, and
// all kinds of links are replaced.
func TestLinksOfATransaction(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		group := `{"resourceType":"Group","type":"person","actual":true}`
		with := func(element string) string {
			return strings.Replace(observation("", "p1", "vital-signs", 1), `"status"`, element+`,"status"`, 1)
		}
		w.put("Group/g", `{"resourceType":"Group","id":"g","type":"person","actual":true,"identifier":[{"value":"gg"}]}`, 201)
		for _, ref := range []string{uuid + "1", "http://x.test/fhir/Group/9", "Group?identifier=gg",
			w.srv.URL + "/fhir/Group/g", "Group/g"} {
			a := w.want(400, "all", "POST", "/",
				bundle("transaction", entry(uuid+"1", "POST", "Group", group),
					entry("http://x.test/fhir/Group/9", "POST", "Group", group),
					entry("", "POST", "Observation", with(`"encounter":{"reference":"`+ref+`"}`))))
			if !bytes.Contains(a.body, []byte("Bundle.entry[2]")) ||
				!bytes.Contains(a.body, []byte("Observation.encounter")) {
				t.Errorf("%s: %s", ref, a.body)
			}
		}
		for _, own := range []string{w.srv.URL + "/fhir/Group/g",
			strings.ReplaceAll(w.srv.URL+"/fhir/Group/g", "/", `\/`)} {
			w.want(400, "all", "POST", "/Observation", with(`"encounter":{"reference":"`+own+`"}`))
			w.want(400, "all", "PUT", "/Observation/e",
				strings.Replace(with(`"encounter":{"reference":"`+own+`"}`), `"status"`, `"id":"e","status"`, 1))
		}
		escaped := strings.Replace(observation("", "p1", "vital-signs", 1), "Patient/p1",
			strings.ReplaceAll(w.srv.URL+"/fhir/Patient/p1", "/", `\/`), 1)
		if a := w.want(201, "all", "POST", "/Observation", escaped); !bytes.Contains(a.body,
			[]byte(`"reference":"Patient/p1"`)) {
			t.Errorf("an escaped reference to this server: %s", a.body)
		}
		rich := with(`"text":{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\"><a href=\"` +
			uuid + `1\">x</a><img src='` + uuid + `1' alt='x'/></div>"},` +
			`"extension":[{"url":"http://e.test/1","valueUri":"` + uuid +
			`1"},{"url":"http://e.test/2","valueUrl":"` + uuid + `1"},{"url":"http://e.test/5","valueUuid":"` +
			uuid + `1"},{"url":"http://e.test/6","valueOid":"urn:oid:1.2.3"},{"url":"http://e.test/3","valueString":"` + uuid + `1"},{"url":"http://e.test/4","valueCanonical":"` + uuid + `1"}],` +
			`"hasMember":[{"reference":"Observation/8"}]`)
		a := w.want(200, "all", "POST", "/",
			bundle("transaction", entry(uuid+"1", "POST", "Group", group),
				entry("http://x.test/fhir/Observation/8", "POST", "Observation",
					observation("", "p1", "vital-signs", 1)),
				entry("http://x.test/fhir/Observation/7", "POST", "Observation", rich),
				entry("urn:oid:1.2.3", "POST", "Group", group)))
		list, _ := a.json["entry"].([]any)
		id := func(i int) string {
			return fmt.Sprint(list[i].(map[string]any)["resource"].(map[string]any)["id"])
		}
		g, o, g2 := "Group/"+id(0), "Observation/"+id(1), "Group/"+id(3)
		for _, want := range []string{`<a href=\"` + g + `\">`, `<img src=\"` + g + `\"`, `"valueUri":"` + g + `"`,
			`"valueUuid":"` + g + `"`, `"valueOid":"` + g2 + `"`, `"valueUrl":"` + g + `"`,
			`"valueString":"` + uuid + `1"`, `"valueCanonical":"` + uuid + `1"`, `"reference":"` + o + `"`} {
			if !bytes.Contains(a.body, []byte(want)) {
				t.Errorf("%s is missing: %s", want, a.body)
			}
		}
	})
}

// TestAnswerOfABundleIsBounded tests that an answer over the limit is an error of the
// entry in a batch, and fails a transaction before it writes.
func TestAnswerOfABundleIsBounded(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		const limit = 64 << 10
		w.limits.BundleBytes = limit
		for i := range 40 {
			w.put(fmt.Sprint("Observation/o", i), identified(fmt.Sprint("o", i), "p1", "v"+fmt.Sprint(i)), 201)
		}
		entries := []string{entry("", "POST", "Observation", identified("", "p1", "new"))}
		for range 30 {
			entries = append(entries, entry("", "GET", "Observation?patient=p1&_count=1000", ""))
		}
		entries = append(entries, entry("", "POST", "Observation", identified("", "p1", "late")),
			entry("", "GET", "Observation/o1", ""))
		for _, typ := range []string{"batch", "transaction"} {
			a := w.want(200, "all", "POST", "/", bundle(typ, entries...))
			st := statuses(a)
			if len(a.body) > limit+limit/2 || len(st) != len(entries) || st[0] != "201 Created" ||
				st[1] != "200 OK" || st[len(st)-1] != "403" || !bytes.Contains(a.body, []byte("too-costly")) {
				t.Errorf("%s: %d bytes, %v", typ, len(a.body), st)
			}
			want := "201 Created" // a transaction writes first
			if typ == "batch" {
				want = "403"
			}
			if got := st[len(st)-2]; got != want {
				t.Errorf("%s: the late write is %s, want %s", typ, got, want)
			}
		}
		// A page that ends early goes on with its link.
		first := entries[1]
		a := w.want(200, "all", "POST", "/", bundle("batch", first, first, first))
		if !bytes.Contains(a.body, []byte(`"relation":"next"`)) {
			t.Errorf("no page ended early: %v", statuses(a))
		}
		var distinct []string
		for i := range 40 {
			distinct = append(distinct, conditional(fmt.Sprintf("identifier=urn:t|v%d", i),
				observation("", "p1", "vital-signs", 1)))
			distinct = append(distinct, conditional(fmt.Sprintf("_id=o%d", i),
				observation("", "p1", "vital-signs", 1)),
				conditional(fmt.Sprintf("_id=o%d,x", i), observation("", "p1", "vital-signs", 1)))
		}
		before := w.store.LastSeq()
		full := bundle("transaction", append(distinct,
			entry("", "PUT", "Patient/late", `{"resourceType":"Patient","id":"late"}`))...)
		if a := w.want(403, "all", "POST", "/", full); !bytes.Contains(a.body, []byte("too-costly")) ||
			!bytes.Contains(a.body, []byte("Bundle.entry[")) {
			t.Errorf("%s", a.body)
		}
		w.want(404, "all", "GET", "/Patient/late", "")
		w.want(200, "all", "POST", "/", full, "Prefer", "return=minimal")
		w.want(200, "all", "GET", "/Patient/late", "")
		if w.store.LastSeq() == before {
			t.Error("nothing is in the trail")
		}
	})
}
