package rest

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

// jsonPatch is the header of a JSON Patch.
var jsonPatch = []string{"Content-Type", "application/json-patch+json"}

// fhirPathPatch returns a FHIRPath Patch that replaces the value at a path by a code.
func fhirPathPatch(path, code string) string {
	return `{"resourceType":"Parameters","parameter":[{"name":"operation","part":[{"name":"type","valueCode":"replace"},` +
		`{"name":"path","valueString":"` + path + `"},{"name":"value","valueCode":"` + code + `"}]}]}`
}

// patchEntry returns a JSON Patch as a Bundle has it.
func patchEntry(patch string) string {
	return `{"resourceType":"Binary","contentType":"application/json-patch+json","data":"` +
		base64.StdEncoding.EncodeToString([]byte(patch)) + `"}`
}

// TestPatch tests the patch interaction (R4 http.html#patch).
func TestPatch(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		o := strings.Replace(observation("o", "p1", "vital-signs", 60), `"value":60`, `"value":60.10`, 1)
		w.put("Observation/o", o, 201)
		a := w.want(200, "all", "PATCH", "/Observation/o", `[{"op":"replace","path":"/status","value":"amended"}]`,
			jsonPatch...)
		if a.json["status"] != "amended" || a.header.Get("ETag") != `W/"2"` ||
			!strings.HasSuffix(a.header.Get("Location"), "/Observation/o/_history/2") ||
			a.header.Get("Last-Modified") == "" || !strings.Contains(string(a.body), `"value":60.10`) {
			t.Errorf("%v %s", a.header, a.body)
		}
		a = w.want(200, "all", "PATCH", "/Observation/o", fhirPathPatch("Observation.status", "corrected"), "If-Match",
			`W/"2"`)
		if a.json["status"] != "corrected" || a.header.Get("ETag") != `W/"3"` ||
			!strings.Contains(string(a.body), `"value":60.10`) {
			t.Errorf("%v %s", a.header, a.body)
		}
		if n := w.audited(`"code":"patch"`, `"Observation/o/_history/3"`, `"Patient/p1"`); n != 1 {
			t.Errorf("%d events name the patched version", n)
		}
		set := func(path, value string) string {
			return `[{"op":"add","path":"` + path + `","value":` + value + `}]`
		}
		for _, c := range []struct {
			status int
			patch  string
			header []string
		}{
			{412, set("/status", `"final"`), []string{"If-Match", `W/"2"`}},
			{412, set("/status", `"final"`), []string{"If-None-Match", "*"}},
			{400, set("/status", `"final"`), []string{"If-Match", canary}},
			{400, `{"op":"add"}`, nil},
			{400, `[{"op":"steal","path":"/status"}]`, nil},
			{422, `[{"op":"test","path":"/status","value":"final"},{"op":"replace","path":"/status","value":"final"}]`, nil},
			{422, `[{"op":"remove","path":"/valueString"}]`, nil},
			// The result must be a valid update of the same resource.
			{400, set("/"+canary, "1"), nil},
			{400, set("/id", `"other"`), nil},
			{400, `[{"op":"remove","path":"/id"}]`, nil},
			{400, set("/resourceType", `"Patient"`), nil},
			{400, `[{"op":"remove","path":"/status"}]`, nil},
			{422, set("", `[]`), nil},
			{422, set("/subject/reference", `"Patient/nobody"`), nil},
			{413, "[" + strings.Repeat(set("/status", `"final"`)[1:len(set("/status", `"final"`))-1]+",", 500) +
				set("/status", `"final"`)[1:], nil},
		} {
			a := w.do("all", "PATCH", "/Observation/o", c.patch, append(c.header, jsonPatch...)...)
			if a.status != c.status {
				t.Errorf("%.80s, %v: %d, want %d: %.300s", c.patch, c.header, a.status, c.status, a.body)
			}
		}
		// A patch does not change the version facts of the store.
		a = w.want(200, "all", "PATCH", "/Observation/o",
			set("/meta", `{"versionId":"77","lastUpdated":"2001-01-01T00:00:00Z","tag":[{"code":"t"}]}`),
			jsonPatch...)
		meta, _ := a.json["meta"].(map[string]any)
		if meta["versionId"] != "4" || strings.HasPrefix(fmt.Sprint(meta["lastUpdated"]), "2001") ||
			meta["tag"] == nil {
			t.Errorf("meta %v", meta)
		}
		for _, header := range [][]string{{"Content-Type", "application/json"},
			{"Content-Type", "application/merge-patch+json"},
			{"Content-Type", "text/" + canary}, {"Content-Type", "application/fhir+json; fhirVersion=3.0"},
			{"Content-Type", "application/json-patch+json; charset=latin1"}} {
			a := w.want(415, "all", "PATCH", "/Observation/o", "[]", header...)
			if !strings.Contains(string(a.body), "application/json-patch+json") &&
				!strings.Contains(header[1], "charset") ||
				a.header.Get("Accept-Patch") != "application/json-patch+json, application/fhir+json, application/fhir+xml" {
				t.Errorf("%v: %v %s", header, a.header, a.body)
			}
		}
		w.want(404, "all", "PATCH", "/Observation/none", "[]", jsonPatch...)
		w.want(405, "all", "PATCH", "/AuditEvent/none", "[]", jsonPatch...)
		w.want(403, "reader", "PATCH", "/Observation/o", "[]", jsonPatch...)
		w.want(204, "all", "DELETE", "/Observation/o", "")
		w.want(410, "all", "PATCH", "/Observation/o", "[]", jsonPatch...)
		if text := w.errors.String(); strings.Contains(text, canary) {
			t.Error("an error quotes the input")
		}
	})
}

// TestPatchIsHiddenLikeAnUpdate tests that a patch of a hidden resource is that of an absent
// one, and that a caller who may not read gets no content.
func TestPatchIsHiddenLikeAnUpdate(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.put("Patient/hid", `{"resourceType":"Patient","id":"hid"}`, 201)
		w.put("Observation/h", observation("h", "hid", "vital-signs", 60), 201)
		w.consents.set("hid", true)
		for _, path := range []string{"/Observation/%s", "/Observation?_id=%s"} {
			for _, body := range []string{"[]", `[{"op":"test","path":"/status","value":"final"}]`, `[{"op":"x"}]`} {
				hidden := w.do("all", "PATCH", fmt.Sprintf(path, "h"), body, jsonPatch...)
				absent := w.do("all", "PATCH", fmt.Sprintf(path, "n"), body, jsonPatch...)
				if hidden.status != absent.status || string(hidden.body) != string(absent.body) ||
					hidden.status != 404 {
					t.Errorf("%s %s: %d %s, absent %d %s", path, body, hidden.status, hidden.body, absent.status,
						absent.body)
				}
			}
		}
		w.consents.set("hid", false)
		// A category outside of the scope cannot be patched in or out.
		w.want(403, "vitals", "PATCH", "/Observation/h",
			`[{"op":"replace","path":"/category/0/coding/0/code","value":"survey"}]`, jsonPatch...)
		a := w.want(200, "writer", "PATCH", "/Observation/h", `[{"op":"replace","path":"/status","value":"amended"}]`,
			jsonPatch...)
		if len(a.body) > 0 {
			t.Errorf("without the permission to read: %s", a.body)
		}
		a = w.want(200, "writer", "POST", "", bundle("batch", entry("", "PATCH", "Observation/h",
			patchEntry(`[{"op":"replace","path":"/status","value":"final"}]`))))
		if got := statuses(a); got[0] != "200 OK" || strings.Contains(string(a.body), "valueQuantity") {
			t.Errorf("in a batch: %v %s", got, a.body)
		}
	})
}

// TestPatchInBundle tests PATCH in batches and transactions, as JSON Patch in a Binary and
// as FHIRPath Patch in Parameters.
func TestPatchInBundle(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		for _, typ := range []string{"batch", "transaction"} {
			w.do("all", "DELETE", "/Observation/o", "")
			w.want(201, "all", "PUT", "/Observation/o", observation("o", "p1", "vital-signs", 60))
			w.put("Observation/other", observation("other", "p1", "vital-signs", 60), map[string]int{"batch": 201}[typ]+
				map[string]int{"transaction": 200}[typ])
			a := w.want(200, "all", "POST", "", bundle(typ,
				entry("", "PATCH", "Observation/o", patchEntry(`[{"op":"replace","path":"/status","value":"amended"}]`)),
				entry("", "PATCH", "Observation/other", fhirPathPatch("Observation.status", "corrected")),
				entry("", "GET", "Observation/o", "")))
			if got := statuses(a); fmt.Sprint(got) != "[200 OK 200 OK 200 OK]" ||
				strings.Count(string(a.body), `"status":"amended"`) != 2 ||
				!strings.Contains(string(a.body), `"status":"corrected"`) {
				t.Errorf("%s: %v %s", typ, got, a.body)
			}
		}
		for want, resource := range map[string]string{
			"415": strings.Replace(patchEntry("[]"), "json-patch+json", "xml-patch+xml", 1),
			"400": `{"resourceType":"Binary","contentType":"application/json-patch+json","data":"!"}`,
			"422": patchEntry(`[{"op":"test","path":"/status","value":"x"}]`),
		} {
			a := w.want(200, "all", "POST", "", bundle("batch", entry("", "PATCH", "Observation/o", resource)))
			if got := statuses(a); got[0] != want {
				t.Errorf("%s: %v, want %s", resource, got, want)
			}
			before := w.want(200, "all", "GET", "/Observation/other", "").header.Get("ETag")
			a = w.do("all", "POST", "", bundle("transaction", entry("", "PUT", "Observation/other",
				observation("other", "p1", "vital-signs", 61)), entry("", "PATCH", "Observation/o", resource)))
			if fmt.Sprint(a.status) != want ||
				w.want(200, "all", "GET", "/Observation/other", "").header.Get("ETag") != before {
				t.Errorf("a transaction with %s: %d, want %s and nothing written", resource, a.status, want)
			}
		}
		// A reference in a patch to another entry is resolved.
		a := w.want(200, "all", "POST", "", bundle("transaction",
			entry("urn:uuid:7d2ae1ae-0000-4000-8000-000000000001", "POST", "Device",
				`{"resourceType":"Device","patient":{"reference":"Patient/p1"}}`),
			entry("", "PATCH", "Observation/o", patchEntry(
				`[{"op":"add","path":"/device","value":{"reference":"urn:uuid:7d2ae1ae-0000-4000-8000-000000000001"}}]`))))
		device := a.ids()[0]
		if !strings.HasPrefix(device, "Device/") ||
			!strings.Contains(string(a.body), `"device":{"reference":"`+device+`"}`) {
			t.Errorf("%s", a.body)
		}
	})
}
