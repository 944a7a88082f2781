package rest

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir/access"
)

// versions returns the entries of a history as "Type/id method etag".
func (a answer) versions() (out []string) {
	entries, _ := a.json["entry"].([]any)
	for _, e := range entries {
		m, _ := e.(map[string]any)
		request, _ := m["request"].(map[string]any)
		response, _ := m["response"].(map[string]any)
		etag := strings.Trim(strings.TrimPrefix(fmt.Sprint(response["etag"]), "W/"), `"`)
		out = append(out, fmt.Sprint(request["url"], " ", request["method"], " ", etag))
		if (m["resource"] == nil) != (request["method"] == "DELETE") || response["lastModified"] == nil {
			out = append(out, "malformed")
		}
	}
	return out
}

// pages follows the next links of a history.
func (w *world) pages(client, path string) (all []string) {
	w.t.Helper()
	for path != "" {
		a := w.want(200, client, "GET", path, "")
		all = append(all, a.versions()...)
		path = a.link("next")
	}
	return all
}

// TestHistoryOfTypeAndSystem tests both histories: all versions, the newest first, pages of
// one snapshot, and only what the caller may see.
func TestHistoryOfTypeAndSystem(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.tokens["ada"] = grant(w.consents, access.Rule{Type: "*", May: access.Read, Patient: "p1"})
		w.put("Observation/a", observation("a", "p1", "vital-signs", 60), 201)
		w.put("Observation/b", observation("b", "p2", "vital-signs", 61), 201)
		w.put("Observation/a", observation("a", "p1", "vital-signs", 62), 200)
		w.put("Organization/o", organization("o", "1", "x"), 201)
		w.want(204, "all", "DELETE", "/Observation/b", "")
		const typeURL, systemURL = "/Observation/_history", "/_history"
		type one struct {
			client, path string
			want         []string
		}
		observations := []string{"Observation/b DELETE 2", "Observation/a PUT 2", "Observation/b PUT 1",
			"Observation/a PUT 1"}
		system := []string{"Observation/b DELETE 2", "Organization/o PUT 1", "Observation/a PUT 2",
			"Observation/b PUT 1",
			"Observation/a PUT 1", "Patient/p2 PUT 1", "Patient/p1 PUT 1"}
		for _, c := range []one{
			{"all", typeURL, observations}, {"all", systemURL, system}, {"reader", systemURL, observations},
			{"ada", typeURL, []string{"Observation/a PUT 2", "Observation/a PUT 1"}},
			{"ada", systemURL, []string{"Observation/a PUT 2", "Observation/a PUT 1", "Patient/p1 PUT 1"}},
			{"all", "/Device/_history", nil},
		} {
			a := w.want(200, c.client, "GET", c.path, "")
			if got := a.versions(); !slices.Equal(got, c.want) || a.json["type"] != "history" ||
				a.json["total"] != float64(len(c.want)) {
				t.Errorf("%s as %s: %v of %v, want %v", c.path, c.client, got, a.json["total"], c.want)
			}
			if got := w.pages(c.client, c.path+"?_count=1"); !slices.Equal(got, c.want) {
				t.Errorf("pages of %s as %s: %v, want %v", c.path, c.client, got, c.want)
			}
			if a := w.want(200, c.client, "GET", c.path+"?_count=0", ""); a.json["total"] != float64(len(c.want)) ||
				a.json["entry"] != nil {
				t.Errorf("%s?_count=0 as %s: %s", c.path, c.client, a.body)
			}
		}
		// Pages show the state of the first one, and the consents of now.
		next := w.want(200, "all", "GET", typeURL+"?_count=1", "").link("next")
		w.put("Observation/new", observation("new", "p1", "vital-signs", 63), 201)
		if got := w.pages("all", next); !slices.Equal(got, observations[1:]) {
			t.Errorf("pages after a write: %v", got)
		}
		w.want(400, "reader", "GET", next, "")
		w.want(400, "all", "GET", strings.Replace(next, "Observation", "Device", 1), "")
		w.consents.set("p1", true)
		for _, path := range []string{next, typeURL, systemURL} {
			if got := fmt.Sprint(w.pages("all", path)); strings.Contains(got, "Observation/a") ||
				!strings.Contains(got, "Observation/b") {
				t.Errorf("%s without a consent: %s", path, got)
			}
		}
		w.want(404, "all", "GET", "/Observation/a/_history", "")
		w.consents.set("p1", false)
		// Parameters.
		for _, path := range []string{typeURL, systemURL} {
			for _, query := range []string{"_sort=_lastUpdated", "_since=x", "_at=" + canary, "_count=-1", "zanaria=1",
				"__page=AAAA", "_count=1&_count=2"} {
				w.want(400, "all", "GET", path+"?"+query, "")
			}
		}
		w.want(403, "patients", "GET", typeURL, "")
		w.want(403, "writer", "GET", systemURL, "")
		w.want(404, "all", "GET", "/Zanaria/_history", "")
		w.want(401, "", "GET", systemURL, "")
		a := w.want(200, "all", "GET", typeURL+"?_elements=status&_count=2", "")
		if !strings.Contains(string(a.body), "SUBSETTED") || strings.Contains(string(a.body), "valueQuantity") {
			t.Errorf("_elements: %s", a.body)
		}
		// The audit trail names the patients, and has a history of its own.
		w.want(200, "all", "GET", typeURL, "", "X-Request-Id", "typed")
		w.want(200, "all", "GET", systemURL, "", "X-Request-Id", "everything")
		for request, code := range map[string]string{"typed": "history-type", "everything": "history-system"} {
			evs := w.eventsOf(request)
			if len(evs) != 2 || evs[0].patient+evs[1].patient != "p1p2" && evs[0].patient+evs[1].patient != "p2p1" ||
				!strings.Contains(evs[0].whole, `"code":"`+code+`"`) || !strings.Contains(evs[0].query, "_history") {
				t.Errorf("%s: %v", request, evs)
			}
		}
		events := w.want(200, "all", "GET", "/AuditEvent/_history?_count=5", "", "X-Request-Id", "looked").versions()
		if len(events) != 5 || !strings.HasPrefix(events[0], "AuditEvent/") ||
			strings.Contains(fmt.Sprint(w.pages("all", systemURL)),
				"AuditEvent") {
			t.Errorf("events: %v", events)
		}
		if got := w.recordedOf("looked"); !strings.Contains(got, `"110101"`) {
			t.Errorf("not recorded as a use of the audit log: %s", got)
		}
		if strings.Contains(w.errors.String(), canary) {
			t.Error("an error quotes the input")
		}
	})
}

// TestHistorySinceAndAt tests _since and _at of all three histories.
func TestHistorySinceAndAt(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		var times []time.Time // of the versions of o
		write := func(do func() answer) {
			t.Helper()
			a := do()
			if len(times) > 0 && a.status >= 300 {
				t.Fatalf("%d %s", a.status, a.body)
			}
			b := w.want(200, "all", "GET", "/Organization/_history?_count=1", "")
			entries := b.json["entry"].([]any)
			response := entries[0].(map[string]any)["response"].(map[string]any)
			at, err := time.Parse(time.RFC3339, response["lastModified"].(string))
			if err != nil {
				t.Fatal(err)
			}
			times = append(times, at)
			for deadline := at.Add(2 * time.Millisecond); time.Now().Before(deadline); { // the next has another time
				time.Sleep(time.Millisecond)
			}
		}
		put := func(id, name string) func() answer {
			return func() answer { return w.do("all", "PUT", "/Organization/"+id, organization(id, "1", name)) }
		}
		write(put("o", "one"))
		write(put("p", "one"))
		write(put("o", "two"))
		write(put("o", "three"))
		write(func() answer { return w.do("all", "DELETE", "/Organization/p", "") })
		all := []string{"p DELETE 2", "o PUT 3", "o PUT 2", "p PUT 1", "o PUT 1"}
		at := func(i int, ms time.Duration) string {
			return url.QueryEscape(times[i].Add(ms * time.Millisecond).Format("2006-01-02T15:04:05.000Z07:00"))
		}
		for _, c := range []struct {
			query string
			want  []string
		}{
			{"_since=" + at(0, 0), all}, {"_since=" + at(2, 0), all[:3]}, {"_since=" + at(2, 1), all[:2]},
			{"_since=" + at(4, 1), nil},
			{"_at=" + at(0, -1), nil}, {"_at=" + at(0, 0), all[4:]}, {"_at=" + at(1, 0), all[3:]},
			{"_at=" + at(2, 0), all[2:4]}, {"_at=" + at(3, 0), []string{all[1], all[3]}},
			{"_at=" + at(4, 0), all[:2]}, {"_at=" + at(4, 1), all[1:2]},
			{"_at=2001", nil}, {"_at=" + times[0].Add(-24*time.Hour).Format("2006-01-02"), nil},
			{"_at=" + at(4, 1) + "&_since=" + at(4, 0), nil},
		} {
			want := make([]string, len(c.want))
			for i, v := range c.want {
				want[i] = "Organization/" + v
			}
			for _, path := range []string{"/Organization/_history?", "/_history?"} {
				got := slices.DeleteFunc(w.pages("all", path+"_count=1&"+c.query), func(v string) bool {
					return !strings.HasPrefix(v, "Organization")
				})
				if !slices.Equal(got, want) {
					t.Errorf("%s%s: %v, want %v", path, c.query, got, want)
				}
			}
			for _, id := range []string{"o", "p"} {
				only := slices.DeleteFunc(slices.Clone(want), func(v string) bool {
					return !strings.HasPrefix(v, "Organization/"+id+" ")
				})
				if got := w.pages("all", "/Organization/"+id+"/_history?_count=1&"+c.query); !slices.Equal(got, only) {
					t.Errorf("of %s, %s: %v, want %v", id, c.query, got, only)
				}
			}
		}
	})
}
