package rest

import (
	"fmt"
	"strings"
	"testing"
)

// organization returns an Organization with an identifier.
func organization(id, identifier, name string) string {
	if id != "" {
		id = `"id":"` + id + `",`
	}
	return `{"resourceType":"Organization",` + id + `"identifier":[{"system":"urn:t","value":"` + identifier +
		`"}],"name":"` + name + `"}`
}

// TestConditionalUpdate tests the table of R4 (http.html#cond-update).
func TestConditionalUpdate(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		const url = "/Organization?identifier=urn:t|"
		a := w.want(201, "all", "PUT", url+"1", organization("", "1", "first")) // no match, no id
		id := fmt.Sprint(a.json["id"])
		if len(id) != 26 || !strings.HasSuffix(a.header.Get("Location"), "/Organization/"+id+"/_history/1") {
			t.Errorf("created %s: %v", id, a.header)
		}
		a = w.want(200, "all", "PUT", url+"1", organization("", "1", "second")) // one match, no id
		if a.json["id"] != id || a.header.Get("ETag") != `W/"2"` || a.json["name"] != "second" {
			t.Errorf("%v %s", a.header, a.body)
		}
		a = w.want(200, "all", "PUT", url+"1", organization(id, "1", "third")) // one match, its id
		if a.header.Get("ETag") != `W/"3"` {
			t.Errorf("%v", a.header)
		}
		w.want(400, "all", "PUT", url+"1", organization("other", "1", "x")) // one match, another id
		a = w.want(201, "all", "PUT", url+"2", organization("named", "2", "x"))
		if a.json["id"] != "named" {
			t.Errorf("%s", a.body)
		}
		w.want(409, "all", "PUT", url+"3", organization("named", "3", "x")) // no match, an id in use
		w.want(404, "all", "PUT", url+"3", organization(given, "3", "x"))   // an id that only the server assigns
		w.want(204, "all", "DELETE", "/Organization/named", "")
		w.want(201, "all", "PUT", url+"3", organization("named", "3", "x")) // no match, an id that was deleted
		w.put("Organization/second", organization("second", "1", "x"), 201)
		w.want(412, "all", "PUT", url+"1", organization("", "1", "x")) // several matches
		w.want(412, "all", "PUT", url+"1", organization(id, "1", "x"))
		// Criteria, preconditions and bodies.
		w.want(412, "all", "PUT", "/Organization", organization("", "1", "x"))
		w.want(412, "all", "PUT", "/Organization?_count=1", organization("", "1", "x"))
		w.want(400, "all", "PUT", "/Organization?zanaria=1", organization("", "1", "x"))
		w.want(400, "all", "PUT", url+"9", organization("not an id", "1", "x"))
		w.want(400, "all", "PUT", url+"9", `{"resourceType":"Patient"}`)
		w.want(412, "all", "PUT", url+"9", organization("", "9", "x"), "If-Match", `W/"1"`)
		w.want(412, "all", "PUT", url+"3", organization("", "3", "x"), "If-None-Match", "*")
		w.want(200, "all", "PUT", url+"3", organization("", "3", "x"), "If-Match", `W/"3"`)
		w.want(412, "all", "PUT", url+"3", organization("", "3", "x"), "If-Match", `W/"3"`)
		// The scopes must cover the update and the search.
		w.want(403, "writer", "PUT", "/Observation?_id=1", observation("", "p1", "vital-signs", 60))
		w.want(403, "reader", "PUT", "/Observation?_id=1", observation("", "p1", "vital-signs", 60))
		w.want(405, "all", "PUT", "/AuditEvent?_id=1", `{"resourceType":"AuditEvent"}`)
	})
}

// TestConditionalPatchAndDelete tests both with no match, one and several.
func TestConditionalPatchAndDelete(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		const url, rename = "/Organization?identifier=urn:t|", `[{"op":"replace","path":"/name","value":"later"}]`
		w.put("Organization/a", organization("a", "1", "x"), 201)
		w.put("Organization/b", organization("b", "2", "x"), 201)
		w.put("Organization/c", organization("c", "2", "x"), 201)
		w.want(404, "all", "PATCH", url+"9", rename, jsonPatch...)
		a := w.want(200, "all", "PATCH", url+"1", rename, jsonPatch...)
		if a.json["id"] != "a" || a.json["name"] != "later" {
			t.Errorf("%s", a.body)
		}
		w.want(412, "all", "PATCH", url+"2", rename, jsonPatch...)
		w.want(412, "all", "PATCH", url+"1", rename, append(jsonPatch, "If-Match", `W/"1"`)...)
		w.want(412, "all", "PATCH", "/Organization", rename, jsonPatch...)

		w.want(204, "all", "DELETE", url+"9", "")
		w.want(412, "all", "DELETE", url+"9", "", "If-Match", `W/"1"`)
		w.want(412, "all", "DELETE", url+"2", "")
		w.want(412, "all", "DELETE", url+"1", "", "If-Match", `W/"1"`)
		if a := w.want(204, "all", "DELETE", url+"1", "", "If-Match", `W/"2"`); a.header.Get("ETag") != `W/"3"` {
			t.Errorf("%v", a.header)
		}
		w.want(410, "all", "GET", "/Organization/a", "")
		w.want(204, "all", "DELETE", url+"1", "") // again
		w.want(412, "all", "DELETE", "/Organization", "")
		w.want(412, "all", "DELETE", "/Organization?_summary=true", "")
		w.put("Observation/o", observation("o", "p1", "vital-signs", 60), 201)
		w.want(409, "all", "DELETE", "/Patient?_id=p1", "")
		w.want(403, "reader", "DELETE", "/Observation?_id=o", "")
	})
}

// TestConditionsSeeWhatTheCallerSees tests that hidden resources do not match, and that the
// criteria and the matches are recorded.
func TestConditionsSeeWhatTheCallerSees(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		const url = "/Device?identifier=urn:t|7"
		device := func(id, patient string) string {
			if id != "" {
				id = `"id":"` + id + `",`
			}
			return `{"resourceType":"Device",` + id +
				`"identifier":[{"system":"urn:t","value":"7"}],"patient":{"reference":"Patient/` +
				patient + `"}}`
		}
		w.put("Patient/hid", `{"resourceType":"Patient","id":"hid"}`, 201)
		w.put("Device/h", device("h", "hid"), 201)
		w.put("Device/h2", device("h2", "hid"), 201)
		w.consents.set("hid", true)
		w.want(204, "all", "DELETE", url, "")
		w.want(404, "all", "PATCH", url, "[]", jsonPatch...)
		a := w.want(201, "all", "PUT", url, device("", "p1"), "X-Request-Id", "created")
		id := fmt.Sprint(a.json["id"])
		w.want(200, "all", "PUT", url, device("", "p1"), "X-Request-Id", "updated")
		w.want(200, "all", "PATCH", url, `[{"op":"add","path":"/lotNumber","value":"1"}]`,
			append(jsonPatch, "X-Request-Id",
				"patched")...)
		w.want(204, "all", "DELETE", url, "", "X-Request-Id", "deleted")
		for request, has := range map[string][]string{
			"created": {`"code":"create"`, `"code":"search-type"`},
			"updated": {`"code":"update"`, `"code":"search-type"`, `"Device/` + id + `/_history/1"`},
			"patched": {`"code":"patch"`, `"code":"search-type"`, `"Device/` + id + `/_history/2"`},
			"deleted": {`"code":"delete"`, `"code":"search-type"`, `"Device/` + id + `/_history/3"`},
		} {
			evs := w.recordedOf(request)
			for _, h := range has {
				if !strings.Contains(evs, h) {
					t.Errorf("%s: no event has %s: %s", request, h, evs)
				}
			}
			if strings.Contains(evs, `"Device/h"`) || strings.Contains(evs, `"Device/h/`) {
				t.Errorf("%s: an event names what is hidden", request)
			}
		}
		w.consents.set("hid", false)
		w.want(412, "all", "DELETE", url, "", "X-Request-Id", "several")
		if evs := w.recordedOf("several"); !strings.Contains(evs, "Device/h") ||
			!strings.Contains(evs, "Device/h2") {
			t.Errorf("the matches are not recorded: %s", evs)
		}
	})
}

// TestConditionalRead tests If-None-Match and If-Modified-Since, of which the first takes
// precedence (RFC 9110 section 13.2.2).
func TestConditionalRead(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.put("Observation/o", observation("o", "p1", "vital-signs", 60), 201)
		a := w.want(200, "all", "GET", "/Observation/o", "")
		modified := a.header.Get("Last-Modified")
		const old, future = "Mon, 01 Jan 2001 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"
		for _, c := range []struct {
			status int
			header []string
		}{
			{304, []string{"If-None-Match", `W/"1"`}}, {304, []string{"If-None-Match", `"1"`}},
			{304, []string{"If-None-Match", `"7", W/"1"`}}, {304, []string{"If-None-Match", "*"}},
			{200, []string{"If-None-Match", `W/"2"`}}, {200, []string{"If-None-Match", canary}},
			{304, []string{"If-Modified-Since", modified}}, {304, []string{"If-Modified-Since", future}},
			{200, []string{"If-Modified-Since", old}}, {200, []string{"If-Modified-Since", canary}},
			{200, []string{"If-None-Match", `W/"2"`, "If-Modified-Since", future}},
			{304, []string{"If-None-Match", `W/"1"`, "If-Modified-Since", old}},
		} {
			for _, path := range []string{"/Observation/o", "/Observation/o/_history/1"} {
				for _, method := range []string{"GET", "HEAD"} {
					a := w.want(c.status, "all", method, path, "", c.header...)
					if a.header.Get("ETag") != `W/"1"` || a.header.Get("Last-Modified") != modified ||
						c.status == 304 && len(a.body) > 0 {
						t.Errorf("%s %s, %v: %v %s", method, path, c.header, a.header, a.body)
					}
				}
			}
		}
		conditional := func(condition string) string {
			return strings.Replace(entry("", "GET", "Observation/o", ""), `"method"`, condition+`,"method"`, 1)
		}
		a = w.want(200, "all", "POST", "", bundle("batch", conditional(`"ifNoneMatch":"W/\"1\""`),
			conditional(`"ifNoneMatch":"W/\"2\"","ifModifiedSince":"2100-01-01T00:00:00Z"`),
			conditional(`"ifModifiedSince":"2100-01-01T00:00:00Z"`),
			conditional(`"ifModifiedSince":"2001-01-01T00:00:00Z"`)))
		if got := statuses(a); fmt.Sprint(got) != "[304 Not Modified 200 OK 304 Not Modified 200 OK]" {
			t.Errorf("in a batch: %v", got)
		}
		w.want(404, "all", "GET", "/Observation/none", "", "If-None-Match", "*")
	})
}

// TestConditionsInTransaction tests conditional verbs and references in a transaction, whose
// entries are processed in R4's order (http.html#trules).
func TestConditionsInTransaction(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		const criteria = "Organization?identifier=urn:t|"
		for _, id := range []string{"1", "2", "3"} {
			w.put("Organization/o"+id, organization("o"+id, id, "x"), 201)
		}
		managed := func(reference string) string {
			return `{"resourceType":"Patient","managingOrganization":{"reference":"` + reference + `"}}`
		}
		const urn = "urn:uuid:7d2ae1ae-0000-4000-8000-000000000002"
		a := w.want(200, "all", "POST", "", bundle("transaction",
			entry("", "GET", "Organization/o1", ""),
			entry("", "POST", "Patient", managed(criteria+"4")), // created by this transaction
			entry("", "POST", "Patient", managed(urn)),
			entry("", "POST", "Patient", managed(criteria+"2")),
			entry(urn, "PUT", criteria+"1", organization("", "1", "later")),
			entry("", "PATCH", criteria+"2", patchEntry(`[{"op":"replace","path":"/name","value":"patched"}]`)),
			entry("", "PUT", criteria+"4", organization("", "4", "new")),
			entry("", "DELETE", criteria+"3", ""), entry("", "DELETE", criteria+"9", "")), "X-Request-Id", "tx")
		if got := fmt.Sprint(statuses(a)); got != "[200 OK 201 Created 201 Created 201 Created 200 OK 200 OK 201 Created 204 No Content 204 No Content]" {
			t.Fatalf("%s: %s", got, a.body)
		}
		body := string(a.body)
		fourth := fmt.Sprint(w.want(200, "all", "GET", "/"+criteria+"4", "").ids()[0])
		for _, want := range []string{`"name":"later"`, `"name":"patched"`, `{"reference":"Organization/o1"}`,
			`{"reference":"Organization/o2"}`, `{"reference":"` + fourth + `"}`} {
			if !strings.Contains(body, want) {
				t.Errorf("the answer lacks %s: %s", want, body)
			}
		}
		w.want(410, "all", "GET", "/Organization/o3", "")
		if evs := w.recordedOf("tx"); !strings.Contains(evs, `"code":"search-type"`) ||
			!strings.Contains(evs, "Organization/o1/_history/1") {
			t.Errorf("the criteria are not recorded: %s", evs)
		}
		// A transaction that fails writes nothing.
		for name, c := range map[string]struct {
			status  int
			entries []string
		}{
			"a reference to what is deleted": {412, []string{entry("", "POST", "Patient", managed(criteria+"1")),
				entry("", "DELETE", "Organization/o1", "")}},
			"a reference to two": {412, []string{entry("", "POST", "Patient", managed(criteria+"1")),
				entry("", "POST", "Organization", organization("", "1", "x"))}},
			"a reference to two new": {412, []string{entry("", "POST", "Patient", managed(criteria+"8")),
				entry("", "POST", "Organization", organization("", "8", "x")),
				entry("", "POST", "Organization", organization("", "8", "y"))}},
			"an update and a delete of one": {400, []string{entry("", "PUT", criteria+"1", organization("", "1", "x")),
				entry("", "DELETE", "Organization/o1", "")}},
			"two criteria of one": {400, []string{entry("", "PUT", criteria+"1", organization("", "1", "x")),
				entry("", "PATCH", "Organization?_id=o1", patchEntry("[]"))}},
			"the same criteria twice": {400, []string{entry("", "PUT", criteria+"8", organization("", "8", "x")),
				entry("", "PUT", criteria+"8", organization("", "8", "x"))}},
			"an update of what is created": {400,
				[]string{entry("", "POST", "Organization", organization("", "8", "x")),
					entry("", "PUT", criteria+"8", organization("", "8", "x"))}},
			"a patch of nothing":   {404, []string{entry("", "PATCH", criteria+"9", patchEntry("[]"))}},
			"a delete without any": {412, []string{entry("", "DELETE", "Organization?_count=1", "")}},
			"another id":           {400, []string{entry("", "PUT", criteria+"1", organization("other", "1", "x"))}},
		} {
			marker := entry("", "PUT", "Organization/marker", organization("marker", "m", "x"))
			a := w.do("all", "POST", "", bundle("transaction", append([]string{marker}, c.entries...)...))
			if a.status != c.status {
				t.Errorf("%s: %d, want %d: %s", name, a.status, c.status, a.body)
			}
			w.want(404, "all", "GET", "/Organization/marker", "")
		}
		// The same verbs in a batch.
		a = w.want(200, "all", "POST", "", bundle("batch",
			entry("", "PUT", criteria+"7", organization("", "7", "x")),
			entry("", "PUT", criteria+"7", organization("", "7", "y")),
			entry("", "PATCH", criteria+"7", patchEntry(`[{"op":"replace","path":"/name","value":"z"}]`)),
			entry("", "DELETE", criteria+"7", ""), entry("", "DELETE", criteria+"7", ""),
			entry("", "PATCH", criteria+"7", patchEntry("[]")), entry("", "GET", "Organization/_history?_count=1", ""),
			entry("", "GET", "_history?_count=1", "")))
		if got := fmt.Sprint(statuses(a)); got !=
			"[201 Created 200 OK 200 OK 204 No Content 204 No Content 404 200 OK 200 OK]" {
			t.Errorf("%s: %s", got, a.body)
		}
	})
}

// TestPrefer tests Prefer: return= on all writes (R4 http.html#return).
func TestPrefer(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		body := func(value int) string { return observation("o", "p1", "vital-signs", value) }
		const status = `[{"op":"replace","path":"/status","value":"amended"}]`
		for value, prefer := range map[string]string{"minimal": "", "OperationOutcome": "OperationOutcome",
			"representation": "Observation", "zanaria": "Observation"} {
			for _, c := range []struct {
				method, path, body string
				header             []string
			}{
				{"PUT", "/Observation/o", body(60), nil}, {"PATCH", "/Observation/o", status, jsonPatch},
				{"POST", "/Observation", observation("", "p1", "vital-signs", 60), nil},
				{"PUT", "/Observation?_id=o", body(61), nil}, {"PATCH", "/Observation?_id=o", status, jsonPatch},
				{"POST", "/Observation", body(60), []string{"If-None-Exist", "_id=o"}},
			} {
				a := w.do("all", c.method, c.path, c.body, append(c.header, "Prefer", "return="+value)...)
				typ, _ := a.json["resourceType"].(string)
				if a.status >= 300 || typ != prefer || a.header.Get("ETag") == "" ||
					a.header.Get("Last-Modified") == "" ||
					!strings.Contains(a.header.Get("Location"), "/_history/") {
					t.Errorf("%s %s, return=%s: %d %v %s", c.method, c.path, value, a.status, a.header, a.body)
				}
			}
			for _, typ := range []string{"batch", "transaction"} {
				a := w.want(200, "all", "POST", "", bundle(typ, entry("", "PUT", "Observation/o", body(62)),
					entry("", "GET", "Patient/p1", "")), "Prefer", "return="+value)
				entries := a.json["entry"].([]any)
				one := entries[0].(map[string]any)
				response := one["response"].(map[string]any)
				if (one["resource"] != nil) != (prefer == "Observation") ||
					(response["outcome"] != nil) != (prefer == "OperationOutcome") ||
					response["etag"] == nil || response["lastModified"] == nil || response["location"] == nil {
					t.Errorf("%s, return=%s: %v", typ, value, one)
				}
				if entries[1].(map[string]any)["resource"] == nil {
					t.Errorf("%s, return=%s: the read has no resource", typ, value)
				}
			}
		}
		w.put("Observation/gone", observation("gone", "p1", "vital-signs", 60), 201)
		a := w.want(200, "all", "DELETE", "/Observation/gone", "", "Prefer", "return=OperationOutcome")
		if a.json["resourceType"] != "OperationOutcome" || a.header.Get("ETag") != `W/"2"` {
			t.Errorf("%v %s", a.header, a.body)
		}
		w.want(204, "all", "DELETE", "/Observation?_id=o", "", "Prefer", "return=representation")
	})
}

// recordedOf returns the AuditEvents of a request as text.
func (w *world) recordedOf(request string) (out string) {
	w.t.Helper()
	for _, e := range w.eventsOf(request) {
		out += e.whole + "\n"
	}
	return out
}
