package rest

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"pulsegate/fhir/access"
)

// issues returns the issues of an OperationOutcome as "severity code expression line".
func (a answer) issues() (out []string) {
	list, _ := a.json["issue"].([]any)
	for _, x := range list {
		m, _ := x.(map[string]any)
		line := fmt.Sprint(m["severity"], " ", m["code"])
		if e, ok := m["expression"].([]any); ok {
			line += fmt.Sprint(" ", e[0])
		}
		if l, ok := m["location"].([]any); ok {
			line += fmt.Sprint(" ", l[0])
		}
		out = append(out, line)
	}
	return out
}

const valid = `information informational`

func (w *world) validates(client, path, body, want string) answer {
	w.t.Helper()
	method := "POST"
	if body == "" {
		method = "GET"
	}
	a := w.want(200, client, method, path, body)
	if got := strings.Join(a.issues(), "; "); got != want {
		w.t.Errorf("%s %.80s: %s, want %s", path, body, a.body, want)
	}
	return a
}

func parametersOf(parts ...string) string {
	return `{"resourceType":"Parameters","parameter":[` + strings.Join(parts, ",") + `]}`
}

func TestValidate(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		const path = "/Observation/$validate"
		good := observation("", "p1", "vital-signs", 60)
		w.validates("all", path, good, valid)
		// Several issues, each with its place.
		w.validates("all", path, "{\"resourceType\":\"Observation\",\n \"status\":\"done\",\n  \"wrong\":1}",
			"error structure Observation line 1, column 1; error code-invalid Observation.status line 2, column 2; error structure Observation line 3, column 3")
		resource := `{"name":"resource","resource":` + "\n " + `{"resourceType":"Observation","status":"done"}}`
		w.validates("all", path, parametersOf(resource),
			"error structure Observation line 2, column 2; error code-invalid Observation.status line 2, column 32")
		w.validates("all", path, `{"resourceType":"Observation",`, "error invalid line 1, column 31")
		w.validates("all", path, `{"resourceType":"Patient"}`, "error invalid Observation.resourceType line 1, column 1")
		// Warnings do not refuse.
		w.validates("all", "/Group/$validate", `{"resourceType":"Group","type":"person","actual":true,"meta":{"profile":["http://example.org/p"]}}`,
			"warning not-supported Group.meta.profile[0] line 1, column 74")
		w.validates("all", "/CodeSystem/$validate", `{"resourceType":"CodeSystem","name":"not a name","status":"active","content":"complete"}`,
			"warning invariant CodeSystem line 1, column 1")
		// Profiles: known ones, and one that is not.
		const vitals = "http://hl7.org/fhir/StructureDefinition/vitalsigns"
		w.validates("all", path+"?profile="+vitals, good, valid)
		noDate := strings.Replace(good, `"effectiveDateTime":"2026-10-03T10:00:00+02:00",`, "", 1)
		if a := w.want(200, "all", "POST", path+"?profile="+vitals, noDate); !strings.HasPrefix(fmt.Sprint(a.issues()), "[error") {
			t.Errorf("profile: %s", a.body)
		}
		w.validates("all", path, noDate, valid)
		w.validates("all", path, parametersOf(`{"name":"resource","resource":`+good+`}`,
			`{"name":"profile","valueUri":"http://example.org/unknown"}`), "error not-supported Observation line 1, column 73")
		w.validateModes(good)
		w.badValidate(good)
		if got := w.want(200, "all", "GET", "/Observation?_summary=count", ""); got.json["total"] != float64(1) {
			t.Errorf("something was stored: %s", got.body)
		}
		if strings.Contains(w.errors.String(), canary) {
			t.Error("an outcome has content")
		}
	})
}

// validateModes tests the modes, which say what a write would say.
func (w *world) validateModes(good string) {
	w.t.Helper()
	const path = "/Observation/$validate"
	w.put("Observation/o1", observation("o1", "p1", "vital-signs", 60), 201)
	w.validates("all", path+"?mode=create", good, valid)
	w.validates("all", path+"?mode=create", strings.Replace(good, "Patient/p1", "Patient/nobody", 1),
		"error not-found Observation.subject")
	w.validates("vitals", path+"?mode=create", strings.Replace(good, `"vital-signs"`, `"survey"`, 1), "error forbidden")
	w.validates("reader", path+"?mode=create", good, "error forbidden")
	const o1 = "/Observation/o1/$validate"
	w.validates("all", o1, "", valid)
	w.validates("all", o1+"?mode=update", observation("o1", "p1", "vital-signs", 61), valid)
	if a := w.want(200, "all", "POST", o1+"?mode=update", observation("o2", "p1", "vital-signs", 61)); !strings.HasPrefix(
		fmt.Sprint(a.issues()), "[error") {
		w.t.Errorf("another id: %s", a.body)
	}
	w.validates("all", o1+"?mode=delete", "", valid)
	w.validates("reader", o1+"?mode=delete", "", "error forbidden")
	w.validates("all", "/Patient/p1/$validate?mode=delete", "", "error conflict")
	w.validates("all", o1+"?mode=profile&profile=http://hl7.org/fhir/StructureDefinition/vitalsigns", "", valid)
	w.validates("all", "/Observation/absent/$validate?mode=delete", "", "error not-found")
	w.want(404, "all", "GET", "/Observation/absent/$validate", "")
	w.consents.set("p1", true)
	hidden := w.want(404, "all", "GET", o1, "")
	if absent := w.want(404, "all", "GET", "/Observation/absent/$validate", ""); string(absent.body) != string(hidden.body) {
		w.t.Errorf("%s, absent %s", hidden.body, absent.body)
	}
	one := w.validates("all", path+"?mode=create", good, "error not-found Observation.subject")
	other := w.validates("all", path+"?mode=create", strings.Replace(good, "Patient/p1", "Patient/nobody", 1),
		"error not-found Observation.subject")
	if string(one.body) != string(other.body) {
		w.t.Errorf("a hidden patient: %s, an absent one: %s", one.body, other.body)
	}
	w.consents.set("p1", false)
}

func (w *world) badValidate(good string) {
	w.t.Helper()
	const path, o1 = "/Observation/$validate", "/Observation/o1/$validate"
	w.want(400, "all", "GET", path, "")
	for _, q := range []string{"mode=x", "mode=update", "mode=delete", "mode=profile", "mode=create&mode=create", "nothing=1",
		"profile=" + strings.Repeat("a", 513), strings.Repeat("profile=a&", 17)} {
		w.want(400, "all", "POST", path+"?"+q, good)
	}
	w.want(400, "all", "POST", o1+"?mode=delete", good)
	w.want(400, "all", "POST", o1+"?mode=create", good)
	w.want(400, "all", "GET", o1+"?mode=profile", "")
	w.want(400, "all", "GET", o1+"?mode=update", "")
	w.want(400, "all", "POST", path, parametersOf(`{"name":"resource","valueString":"x"}`))
	w.want(400, "all", "POST", path, parametersOf(`{"name":"resource","resource":`+good+`}`, `{"name":"resource","resource":`+good+`}`))
	w.want(403, "patients", "POST", path, good)
	w.want(401, "", "POST", path, good)
	w.want(404, "all", "POST", "/Nothing/$validate", good)
	w.want(413, "all", "POST", path, `{"x":"`+strings.Repeat("a", 1<<20)+`"}`)
}

func metaParameters(meta string) string {
	return parametersOf(`{"name":"meta","valueMeta":` + meta + `}`)
}

func TestMeta(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		const o1 = "/Observation/o1/"
		w.put("Observation/o1", observation("o1", "p1", "vital-signs", 60), 201)
		if a := w.want(200, "all", "GET", o1+"$meta", ""); !strings.Contains(string(a.body), `"name":"return","valueMeta":{"versionId":"1"`) {
			t.Errorf("%s", a.body)
		}
		const tag = `{"tag":[{"system":"urn:t","code":"a","display":"A","userSelected":true}]}`
		w.want(200, "all", "POST", o1+"$meta-add", metaParameters(tag))
		a := w.want(200, "all", "POST", o1+"$meta-add", metaParameters(
			`{"profile":["http://hl7.org/fhir/StructureDefinition/vitalsigns"],"security":[{"system":"urn:s","code":"x"}],"tag":[{"system":"urn:t","code":"a","display":"other"}]}`))
		for _, has := range []string{`"versionId":"3"`, `"userSelected":true`, "vitalsigns", `"code":"x"`} {
			if !strings.Contains(string(a.body), has) || strings.Contains(string(a.body), "other") {
				t.Errorf("without %s: %s", has, a.body)
			}
		}
		r := w.want(200, "all", "GET", "/Observation/o1", "")
		if v, ok := r.json["valueQuantity"].(map[string]any); !ok || v["value"] != 60.0 {
			t.Errorf("%s", r.body)
		}
		// A call without a change makes no version.
		for _, path := range []string{"$meta-add", "$meta-delete"} {
			m := tag
			if path == "$meta-delete" {
				m = `{"tag":[{"system":"urn:t","code":"b"}]}`
			}
			if a := w.want(200, "all", "POST", o1+path, metaParameters(m)); !strings.Contains(string(a.body), `"versionId":"3"`) {
				t.Errorf("%s: %s", path, a.body)
			}
		}
		a = w.want(200, "all", "POST", o1+"$meta-delete", metaParameters(tag))
		if s := string(a.body); strings.Contains(s, "urn:t") || !strings.Contains(s, "urn:s") || !strings.Contains(s, `"versionId":"4"`) {
			t.Errorf("%s", s)
		}
		// A claim that does not hold is refused, like in an update.
		w.put("Observation/nodate", strings.Replace(observation("nodate", "p1", "survey", 60), `"effectiveDateTime":"2026-10-03T10:00:00+02:00",`, "", 1), 201)
		w.want(422, "all", "POST", "/Observation/nodate/$meta-add", metaParameters(`{"profile":["http://hl7.org/fhir/StructureDefinition/vitalsigns"]}`))
		w.badMeta(tag)
		if n := w.audited(`"code":"update"`, "Observation/o1/_history/4"); n != 1 {
			t.Errorf("%d AuditEvents of version 4", n)
		}
	})
}

func (w *world) badMeta(tag string) {
	w.t.Helper()
	const o1 = "/Observation/o1/"
	many := strings.Repeat(`"http://example.org/p",`, 101)
	for _, body := range []string{parametersOf(), parametersOf(`{"name":"x","valueMeta":` + tag + `}`), metaParameters("{}"),
		metaParameters(`{"tag":"x"}`), metaParameters(`{"profile":[` + many[:len(many)-1] + `]}`),
		parametersOf(`{"name":"meta","valueString":"x"}`), `{"resourceType":"Patient"}`, `{`} {
		for _, path := range []string{"$meta-add", "$meta-delete"} {
			w.want(400, "all", "POST", o1+path, body)
		}
	}
	w.want(400, "all", "GET", o1+"$meta?x=1", "")
	w.want(405, "all", "GET", o1+"$meta-add", "")
	w.want(403, "reader", "POST", o1+"$meta-add", metaParameters(tag))
	w.want(403, "patients", "GET", o1+"$meta", "")
	w.want(405, "all", "POST", "/AuditEvent/a/$meta-add", metaParameters(tag))
	w.want(404, "all", "POST", "/Observation/absent/$meta-add", metaParameters(tag))
	w.want(404, "all", "GET", "/Observation/absent/$meta", "")
	w.tokens["writer"] = grant(w.consents, access.Rule{Type: "Observation", May: access.Update})
	if a := w.want(200, "writer", "POST", o1+"$meta-add", metaParameters(tag)); strings.Contains(string(a.body), "urn:") {
		w.t.Errorf("a caller who may not read gets %s", a.body)
	}
	w.want(200, "all", "POST", o1+"$meta-delete", metaParameters(tag))
	w.consents.set("p1", true)
	hidden := w.want(404, "all", "POST", o1+"$meta-add", metaParameters(tag))
	absent := w.want(404, "all", "POST", "/Observation/absent/$meta-add", metaParameters(tag))
	if string(hidden.body) != string(absent.body) {
		w.t.Errorf("%s, absent %s", hidden.body, absent.body)
	}
	w.consents.set("p1", false)
}

// TestMetaAddIsNotLost tests that no tag of concurrent calls is lost.
func TestMetaAddIsNotLost(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.put("Observation/o1", observation("o1", "p1", "vital-signs", 60), 201)
		const n = 8
		var all sync.WaitGroup
		statuses := make([]int, n)
		for i := range n {
			all.Go(func() {
				statuses[i] = w.do("all", "POST", "/Observation/o1/$meta-add", metaParameters(fmt.Sprintf(`{"tag":[{"code":"t%d"}]}`, i))).status
			})
		}
		all.Wait()
		got := string(w.want(200, "all", "GET", "/Observation/o1/$meta", "").body)
		for i, status := range statuses {
			if status != 200 || !strings.Contains(got, fmt.Sprintf(`"t%d"`, i)) {
				t.Errorf("tag %d (%d) is lost: %s", i, status, got)
			}
		}
	})
}
