package rest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/interaction"
)

// testForms returns forms for the tests of $ehr-bundle. Both write an Observation with
// what the form was given. "us-core" writes nothing for the code "none", and selects from
// streams, which are identifiers of the system urn:stream. "many" writes three entries.
func testForms() map[string]interaction.Form {
	type observation struct {
		ID                string
		Identifier        []struct{ System, Value string }
		Code              struct{ Coding []struct{ Code string } }
		EffectiveDateTime string
	}
	write := func(n int) func(*interaction.FormSource) ([]interaction.FormEntry, error) {
		return func(src *interaction.FormSource) (out []interaction.FormEntry, err error) {
			var o observation
			if err := json.Unmarshal(src.Observation, &o); err != nil {
				return nil, err
			}
			for i := range n {
				if o.Code.Coding[0].Code == "none" {
					break
				}
				out = append(out, interaction.FormEntry{FullURL: fmt.Sprint("urn:", o.ID, i),
					IfNoneExist: "identifier=" + o.ID,
					JSON: fmt.Appendf(nil,
						`{"resourceType":"Observation","subject":{"reference":"%s"},"device":%t,"base":"%s"}`,
						src.Subject, src.Device != nil, src.Base)})
			}
			return out, nil
		}
	}
	return map[string]interaction.Form{
		"us-core": {
			Query: [][2]string{{"category", "vital-signs"}},
			Dense: func(b []byte) (string, time.Time, bool) {
				var o observation
				if json.Unmarshal(b, &o) != nil || len(o.Identifier) == 0 || o.Identifier[0].System != "urn:stream" {
					return "", time.Time{}, false
				}
				at, err := time.Parse(time.RFC3339, o.EffectiveDateTime)
				return o.Identifier[0].Value, at, err == nil
			},
			Write: write(1),
		},
		"many": {Transaction: true, Query: [][2]string{{"category", "activity"}}, Write: write(3)},
	}
}

// conditions returns the ids of the Observations in a Bundle, with the number of entries
// for each in a row.
func (a answer) conditions() string {
	var out []string
	entries, _ := a.json["entry"].([]any)
	for _, e := range entries {
		m, _ := e.(map[string]any)
		r, _ := m["request"].(map[string]any)
		if r["method"] != "POST" || r["url"] != "Observation" {
			return fmt.Sprintf("an entry is %v", r)
		}
		out = append(out, strings.TrimPrefix(fmt.Sprint(r["ifNoneExist"]), "identifier="))
	}
	return strings.Join(out, " ")
}

// putEHR stores the Observations of the tests: two streams of heart rates every 20
// minutes, from 10:00, and single ones.
func (w *world) putEHR() {
	w.put("Device/d1", `{"resourceType":"Device","id":"d1","patient":{"reference":"Patient/p1"}}`, 201)
	put := func(id, patient, code, at, extra string) {
		w.put("Observation/"+id, strings.Replace(coded(id, patient, code, at, quantity("60")), `"status":"final"`,
			`"status":"final"`+extra, 1), 201)
	}
	for i := range 6 {
		at := fmt.Sprintf("2026-10-03T%02d:%02d:00Z", 10+i/3, i%3*20)
		put(fmt.Sprint("a", i), "p1", "h", at,
			`,"identifier":[{"system":"urn:stream","value":"a"}],"device":{"reference":"Device/d1"}`)
		put(fmt.Sprint("b", i), "p1", "h", at, `,"identifier":[{"system":"urn:stream","value":"b"}]`)
	}
	put("s1", "p1", "h", "2026-10-03T10:01:00Z", "")
	put("s2", "p1", "other", "2026-10-04T10:00:00Z", "")
	put("n1", "p1", "none", "2026-10-03T10:02:00Z", "")
	put("derived", "p1", "h", "2026-10-03T10:03:00Z",
		`,"meta":{"tag":[{"system":"`+fhir.Canonical+`/CodeSystem/measures","code":"preferred"}]}`)
	put("x1", "p2", "h", "2026-10-03T10:00:00Z", "")
	w.put("Observation/early", strings.Replace(coded("early", "p1", "h", "2026-10-03T09:00:00Z", quantity("60")),
		`"final"`, `"preliminary"`, 1), 201)
	for _, id := range []string{"w1", "w2"} {
		w.put("Observation/"+id, strings.Replace(coded(id, "p1", "walk", "2026-10-0"+id[1:], ""), "vital-signs",
			"activity", 1),
			201)
	}
}

const hourly = "a0 b0 s1 a3 b3 s2"

func TestEHRBundle(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.putEHR()
		const path = "/Patient/p1/$ehr-bundle"
		get := func(client, q string) answer { return w.want(200, client, "GET", path+"?"+q, "") }
		all := "a0 b0 s1 a1 b1 a2 b2 a3 b3 a4 b4 a5 b5 s2"
		for q, want := range map[string]string{
			"":                            hourly,
			"every=0":                     all,
			"every=20":                    all,
			"every=40":                    "a0 b0 s1 a2 b2 a4 b4 s2",
			"form=us-core&preferred=true": "a0 b0 s1 derived a3 b3 s2",
			"code=urn:test|other":         "s2",
			"code=other,none":             "s2",
			"code=other&code=h":           hourly,
			"start=2026-10-03T11:10:00Z":  "a4 b4 s2",
			"end=2026-10-03T10:30:00Z":    "a0 b0 s1",
			"start=2027":                  "",
			"form=many":                   "w1 w1 w1 w2 w2 w2",
		} {
			a := get("all", q)
			got := strings.Fields(a.conditions())
			typ := map[bool]string{true: "transaction", false: "batch"}[strings.Contains(q, "many")]
			// Observations of one instant come in any order.
			if !slices.Equal(inHours(got), inHours(strings.Fields(want))) || a.json["type"] != typ ||
				a.json["total"] != nil ||
				a.link("next") != "" {
				t.Errorf("%s: %s %q, want %q", q, a.json["type"], got, want)
			}
		}
		body := `{"resourceType":"Parameters","parameter":[{"name":"every","valueUnsignedInt":0},{"name":"code","valueCoding":{"system":"urn:test","code":"other"}},{"name":"subject","valueString":"https://ehr.example/fhir/Patient/77"}]}`
		a := w.want(200, "all", "POST", path, body)
		if a.conditions() != "s2" || !strings.Contains(string(a.body),
			`"reference":"https://ehr.example/fhir/Patient/77"`) {
			t.Errorf("POST: %s", a.body)
		}
		for _, q := range []string{"form=x", "every=-1", "every=1.5", "every=20000", "_count=0", "preferred=maybe",
			"start=x",
			"start=2026-13-01", "end=ge2026", "subject=Device/1", "subject=javascript:Patient/1", "subject=Patient/a/b",
			"subject=http://x/Patient/1?a", "patient=p2", "_sort=-date", "every=1&every=2", "__page=x",
			"code=" + strings.Repeat("x", 2100)} {
			w.want(400, "all", "GET", path+"?"+q, "")
		}
		w.want(400, "all", "POST", path,
			`{"resourceType":"Parameters","parameter":[{"name":"start","valuePeriod":{"start":"2026"}}]}`)
		w.want(401, "", "GET", path, "")
		w.want(404, "all", "GET", "/Observation/p1/$ehr-bundle", "")
		w.want(404, "all", "GET", "/Patient/a$b/$ehr-bundle", "")
		w.want(403, "patients", "GET", path, "")
		if got := w.want(200, "all", "GET", "/Patient/nobody/$ehr-bundle", "").conditions(); got != "" {
			t.Errorf("a Patient that does not exist: %s", got)
		}
		w.consents.set("p1", true)
		if got := get("all", "").conditions(); got != "" {
			t.Errorf("after the withdrawal: %s", got)
		}
	})
}

// inHours sorts ids that begin with letters of streams in each instant.
func inHours(ids []string) []string {
	out := slices.Clone(ids)
	for i := 1; i < len(out); i++ {
		if len(out[i]) == 2 && out[i][1] == out[i-1][1] && out[i] < out[i-1] {
			out[i], out[i-1] = out[i-1], out[i]
		}
	}
	return out
}

// TestEHRBundleDevice checks that the form gets the Device only if the caller may see it.
func TestEHRBundleDevice(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.putEHR()
		for client, want := range map[string]string{"all": `"device":true`, "reader": `"device":false`} {
			a := w.want(200, client, "GET", "/Patient/p1/$ehr-bundle?_count=1", "")
			if a.conditions() != "a0" || !strings.Contains(string(a.body), want) {
				t.Errorf("%s: %s, want %s", client, a.body, want)
			}
		}
		w.want(204, "all", "DELETE", "/Device/d1", "")
		if a := w.want(200, "all", "GET", "/Patient/p1/$ehr-bundle?_count=1", ""); !strings.Contains(string(a.body),
			`"device":false`) {
			t.Errorf("after the deletion: %s", a.body)
		}
	})
}

// TestEHRBundlePages checks that the pages of every size have the entries of one page, and
// that a page link works only unchanged, for its client, and shows the first snapshot.
func TestEHRBundlePages(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.putEHR()
		for _, q := range []string{"", "every=40", "every=0", "form=many"} {
			whole := w.want(200, "all", "GET", "/Patient/p1/$ehr-bundle?_count=100&"+q, "").conditions()
			for count := 1; count <= 8; count++ {
				var got []string
				next := "/Patient/p1/$ehr-bundle?" + strings.Trim(q+"&_count="+fmt.Sprint(count), "&")
				for pages := 0; next != ""; pages++ {
					a := w.want(200, "all", "GET", next, "")
					part := strings.Fields(a.conditions())
					if len(part) > count && len(part) > 3 || pages > 20 {
						t.Fatalf("%s: page %d of %d has %v", q, pages, count, part)
					}
					got = append(got, part...)
					next = a.link("next")
				}
				if strings.Join(got, " ") != whole {
					t.Errorf("%s in pages of %d: %v, want %s", q, count, got, whole)
				}
			}
		}
		next := w.want(200, "all", "GET", "/Patient/p1/$ehr-bundle?_count=2", "").link("next")
		w.want(400, "reader", "GET", next, "")
		w.want(400, "all", "GET", strings.Replace(next, "_count=2", "_count=3", 1), "")
		w.want(400, "all", "GET", strings.Replace(next, "/p1/", "/p2/", 1), "")
		w.put("Observation/later", coded("later", "p1", "h", "2026-10-03T10:30:00Z", quantity("60")), 201)
		w.want(204, "all", "DELETE", "/Observation/s2", "")
		var got []string
		for next != "" {
			a := w.want(200, "all", "GET", next, "")
			got, next = append(got, strings.Fields(a.conditions())...), a.link("next")
		}
		if len(got) != 3 || slices.Contains(got, "later") || slices.Contains(got, "s2") {
			t.Errorf("after changes the pages have %v", got)
		}
	})
}

// TestEHRBundleAudit checks that one event of the patient names the request, and a second
// one in no compartment if the request names someone else.
func TestEHRBundleAudit(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.putEHR()
		for q, want := range map[string]int{
			"start=2026-10-01T00:00:00%2B02:00&end=2026&code=http://loinc.org|8867-4&form=us-core&every=5&preferred=true&_count=2": 1,
			"subject=Patient/p1": 1, "subject=Patient/p2": 2, "code=urn:mrn|990047120047": 2,
		} {
			id := fmt.Sprint("ask-", len(q), "-", want)
			w.want(200, "all", "GET", "/Patient/p1/$ehr-bundle?"+q, "", "X-Request-Id", id)
			evs := w.eventsOf(id)
			if len(evs) != want {
				t.Errorf("%s: %d events, want %d: %v", q, len(evs), want, evs)
			}
			if !slices.ContainsFunc(evs, func(e event) bool { return e.patient == "p1" && e.query != "" }) {
				t.Errorf("%s: no event of p1 has the query: %v", q, evs)
			}
		}
		w.want(400, "all", "GET", "/Patient/p1/$ehr-bundle?form=x", "", "X-Request-Id", "refused")
		if evs := w.eventsOf("refused"); len(evs) != 1 {
			t.Errorf("a refused request has %d events", len(evs))
		}
	})
}

func TestOperationDefinition(t *testing.T) {
	for _, o := range Offered() {
		if !strings.HasPrefix(o.Definition, "http") || o.Name == "ehr-bundle" &&
			o.Definition != "https://pulsegate.dev/fhir/OperationDefinition/ehr-bundle" {
			t.Errorf("the operation %s has the definition %s", o.Name, o.Definition)
		}
	}
	onEveryStore(t, func(t *testing.T, w *world) {
		if a := w.want(200, "", "GET", "/OperationDefinition/ehr-bundle",
			""); a.json["resourceType"] != "OperationDefinition" {
			t.Errorf("%s", a.body)
		}
		w.want(200, "", "HEAD", "/OperationDefinition/ehr-bundle", "")
		w.want(401, "", "GET", "/OperationDefinition/other", "")
		w.want(404, "all", "GET", "/OperationDefinition/other", "")
		w.put("OperationDefinition/other", `{"resourceType":"OperationDefinition","id":"other","name":"Other",`+
			`"status":"active","kind":"operation","code":"other","system":true,"type":false,"instance":false}`, 201)
		w.want(200, "all", "GET", "/OperationDefinition/other", "")
		w.want(200, "all", "HEAD", "/OperationDefinition/other", "")
		w.want(401, "", "HEAD", "/OperationDefinition/other", "")
	})
}
