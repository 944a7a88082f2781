package rest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

const uuid = "urn:uuid:5b9c1f2e-0001-4000-8000-00000000000"

func entry(full, method, url, resource string) string {
	if resource != "" {
		resource = `"resource":` + resource + `,`
	}
	if full != "" {
		full = `"fullUrl":"` + full + `",`
	}
	return `{` + full + resource + `"request":{"method":"` + method + `","url":"` + url + `"}}`
}

func bundle(typ string, entries ...string) string {
	return `{"resourceType":"Bundle","type":"` + typ + `","entry":[` + strings.Join(entries, ",") + `]}`
}

func statuses(a answer) []string {
	var out []string
	entries, _ := a.json["entry"].([]any)
	for _, e := range entries {
		m, _ := e.(map[string]any)
		r, _ := m["response"].(map[string]any)
		out = append(out, fmt.Sprint(r["status"]))
	}
	return out
}

func TestTransaction(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.put("Observation/old", observation("old", "p1", "vital-signs", 1), 201)
		patient := `{"resourceType":"Patient","name":[{"family":"` + canary + `"}]}`
		obs := strings.Replace(observation("", "x", "vital-signs", 62), "Patient/x", uuid+"1", 1)
		a := w.want(200, "all", "POST", "/", bundle("transaction",
			entry("", "GET", "Observation?code=8867-4&_summary=count", ""),
			entry(uuid+"2", "POST", "Observation", obs),
			entry(uuid+"1", "POST", "Patient", patient),
			entry("", "PUT", "Group/g", `{"resourceType":"Group","id":"g","type":"person","actual":true,"member":[{"entity":{"reference":"`+uuid+`1"}}]}`),
			entry("", "DELETE", "Observation/old", ""),
		))
		if got, want := statuses(a), []string{"200 OK", "201 Created", "201 Created", "201 Created",
			"204 No Content"}; !slices.Equal(got, want) || a.json["type"] != "transaction-response" {
			t.Fatalf("%v: %s", got, a.body)
		}
		if !bytes.Contains(a.body, []byte(`"total":1`)) {
			t.Errorf("GET does not see what the transaction left: %s", a.body)
		}
		if bytes.Contains(a.body, []byte("urn:uuid")) {
			t.Errorf("references not rewritten: %s", a.body)
		}
		g := w.want(200, "all", "GET", "/Group/g", "")
		i := bytes.Index(g.body, []byte(`"reference":"Patient/`))
		if i < 0 {
			t.Fatalf("Group: %s", g.body)
		}
		id := string(g.body[i+len(`"reference":"Patient/`):][:26])
		if a = w.want(200, "all", "GET", "/Observation?patient="+id, ""); len(a.ids()) != 1 {
			t.Errorf("Observation of the new patient: %v", a.ids())
		}
		for what, c := range map[string]struct {
			status int
			bad    string
		}{
			"invalid resource": {400, entry("", "POST", "Observation", `{"resourceType":"Observation"}`)},
			"unknown patient": {422,
				entry("", "POST", "Observation", observation("", "nobody", "vital-signs", 1))},
			"unresolved urn": {400,
				entry("", "POST", "Observation", strings.Replace(obs, uuid+"1", uuid+"7", 1))},
			"conditional reference": {412,
				entry("", "POST", "Observation", strings.Replace(obs, uuid+"1", "Patient?name=x", 1))},
			"twice the same":         {400, entry("", "PUT", "Patient/new", `{"resourceType":"Patient","id":"new"}`)},
			"delete what is used":    {409, entry("", "DELETE", "Patient/"+id, "")},
			"audit trail":            {405, entry("", "DELETE", "AuditEvent/x", "")},
			"hidden to be deleted":   {404, entry("", "DELETE", "Observation/none", "")},
			"method not in a Bundle": {405, entry("", "PATCH", "Patient/p1", `{"resourceType":"Patient"}`)},
		} {
			before := w.audited(`"create"`)
			a := w.do("all", "POST", "/",
				bundle("transaction", entry("", "PUT", "Patient/new", `{"resourceType":"Patient","id":"new"}`), c.bad))
			if a.status != c.status && !(c.status == 405 && a.status == 400) {
				t.Errorf("%s: %d, want %d: %s", what, a.status, c.status, a.body)
			}
			w.want(404, "all", "GET", "/Patient/new", "")
			if n := w.audited(`"create"`); n != before {
				t.Errorf("%s: %d events of creates that did not happen", what, n-before)
			}
		}
	})
}

func TestBatch(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		a := w.want(200, "all", "POST", "", bundle("batch",
			entry("", "POST", "Observation", observation("", "p1", "vital-signs", 62)),
			entry("", "POST", "Observation", observation("", "nobody", "vital-signs", 62)),
			entry("", "GET", "Patient/p1", ""),
			entry("", "GET", "Observation?patient=p1", ""),
			entry("", "DELETE", "AuditEvent/x", ""),
		))
		if got, want := statuses(a), []string{"201 Created", "422", "200 OK", "200 OK", "405"}; !slices.Equal(got,
			want) {
			t.Errorf("%v: %s", got, a.body)
		}
	})
}

// TestAudit counts the events each request leaves.
func TestAudit(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.put("Observation/o1", observation("o1", "p1", "vital-signs", 1), 201)
		w.put("Observation/o2", observation("o2", "p2", "vital-signs", 2), 201)
		for _, c := range []struct {
			client, method, path, body string
			events                     int
			has                        []string
		}{
			{"all", "GET", "/Observation/o1", "", 1,
				[]string{`"read"`, "Patient/p1", "Observation/o1/_history/1", `"outcome":"0"`}},
			{"all", "GET", "/Observation", "", 2, []string{`"search-type"`, `"24"`}},
			{"all", "GET", "/Observation?patient=p1", "", 1, []string{"PatientQuery", "Patient/p1"}},
			{"all", "GET", "/Observation?_id=none", "", 1, []string{`"search-type"`}},
			{"all", "GET", "/Observation/o1/_history", "", 1, []string{`"history-instance"`, "Patient/p1"}},
			{"all", "POST", "/Observation", observation("", "p1", "vital-signs", 3), 1,
				[]string{`"create"`, "PatientCreate"}},
			{"all", "PUT", "/Observation/o1", observation("o1", "p1", "vital-signs", 3), 1,
				[]string{`"update"`, "Observation/o1/_history/2"}},
			{"all", "DELETE", "/Observation/o1", "", 1, []string{`"delete"`, "Observation/o1/_history/3"}},
			{"all", "GET", "/Observation/o1", "", 1, []string{`"outcome":"4"`}},
			{"reader", "GET", "/Patient/p1", "", 1, []string{`"outcome":"8"`, "Patient/p1"}},
			{"nobody", "GET", "/Patient/p1", "", 1, []string{`"outcome":"8"`, "unauthenticated"}},
			{"all", "GET", "/AuditEvent?_summary=count", "", 1, []string{"110101"}},
			{"all", "PUT", "/AuditEvent/x", `{"resourceType":"AuditEvent","id":"x"}`, 1, []string{`"outcome":"4"`}},
			{"", "GET", "/metadata", "", 0, nil},
			{"all", "POST", "/", bundle("transaction",
				entry("", "PUT", "Observation/t1", observation("t1", "p1", "vital-signs", 1)),
				entry("", "PUT", "Observation/t2", observation("t2", "p1", "vital-signs", 1))), 1,
				[]string{`"create"`, "Observation/t1/_history/1", "Observation/t2/_history/1"}},
		} {
			before, matching := w.audited(), w.audited(c.has...)
			w.do(c.client, c.method, c.path, c.body, "X-Request-Id", "rq-77")
			if n, m := w.audited()-before, w.audited(c.has...)-matching; n != c.events || m != c.events {
				t.Errorf("%s %s: %d events, %d with %v, want %d", c.method, c.path, n, m, c.has, c.events)
			}
		}
		if w.audited("rq-77") == 0 || w.audited(canary) != 0 {
			t.Error("request id missing in, or a name present in, the trail")
		}
	})
}
