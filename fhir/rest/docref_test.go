package rest

import (
	"strings"
	"testing"
)

// document returns a DocumentReference with a status, a type, and a day of care.
func document(patient, status, code, day string) string {
	return `{"resourceType":"DocumentReference","status":"` + status + `","type":{"coding":[{"system":"http://loinc.org",` +
		`"code":"` + code + `"}]},"subject":{"reference":"Patient/` + patient + `"},"date":"` + day + `T12:00:00Z",` +
		`"content":[{"attachment":{"contentType":"text/plain","url":"https://docs.example.org/1"}}],` +
		`"context":{"period":{"start":"` + day + `T08:00:00Z","end":"` + day + `T09:00:00Z"}}}`
}

func TestDocRef(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		put := func(id, patient, status, code, day string) {
			w.put("DocumentReference/"+id, strings.Replace(document(patient, status, code, day), `{`, `{"id":"`+id+`",`, 1), 201)
		}
		put("d1", "p1", "current", "34133-9", "2026-01-01")
		put("d2", "p1", "current", "11488-4", "2026-02-01")
		put("d3", "p1", "superseded", "34133-9", "2026-03-01")
		put("d4", "p1", "entered-in-error", "34133-9", "2026-03-02")
		put("d5", "p2", "current", "34133-9", "2026-03-03")
		const loinc = "http://loinc.org|"
		for q, want := range map[string]string{
			"patient=p1":                                                     "d2 d1",
			"patient=Patient/p1":                                             "d2 d1",
			"patient=p1&type=" + loinc + "34133-9":                           "d1",
			"patient=p1&type=34133-9&type=" + loinc + "11488-4":              "d2 d1",
			"patient=p1&type=" + loinc + "57133-1":                           "",
			"patient=p1&start=2026-01-15T00:00:00Z":                          "d2",
			"patient=p1&end=2026-01-15T00:00:00Z":                            "d1",
			"patient=p1&start=2026-01-01T08:30:00Z&end=2026-01-01T08:40:00Z": "d1",
			"patient=p1&start=2025&end=2025":                                 "",
			"patient=p1&on-demand=false":                                     "d2 d1",
			"patient=p1&on-demand=true":                                      "",
			"patient=nobody":                                                 "",
			"patient=p1&_count=1":                                            "d2",
		} {
			a := w.want(200, "all", "GET", "/DocumentReference/$docref?"+q, "")
			if got := a.inOrder(); got != want || a.json["type"] != "searchset" {
				t.Errorf("%s: %v %q, want %q", q, a.json["type"], got, want)
			}
		}
		body := `{"resourceType":"Parameters","parameter":[{"name":"patient","valueId":"p1"},{"name":"type",` +
			`"valueCoding":{"system":"http://loinc.org","code":"34133-9"}},{"name":"start","valueDateTime":"2026-01-01"}]}`
		if got := w.want(200, "all", "POST", "/DocumentReference/$docref", body).inOrder(); got != "d1" {
			t.Errorf("POST: %q", got)
		}
		for _, q := range []string{"", "patient=", "patient=p1&patient=p1", "patient=p1,p2", "patient=p1&on-demand=yes",
			"patient=p1&profile=urn:x", "patient=p1&start=gt2026", "patient=p1&start=x", "patient=p1&name=x",
			"patient=Group/1", "patient=p1&end=2026-13", "patient=p1&_count=-1"} {
			w.want(400, "all", "GET", "/DocumentReference/$docref?"+q, "")
		}
		w.want(401, "", "GET", "/DocumentReference/$docref?patient=p1", "")
		before := w.audited("search-type", "Patient/p1")
		w.want(200, "all", "GET", "/DocumentReference/$docref?patient=p1", "")
		if n := w.audited("search-type", "Patient/p1") - before; n != 1 {
			t.Errorf("%d AuditEvents", n)
		}
	})
}
