package rest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pulsegate/fhir/access"
)

// ordered returns the matches in the order of the Bundle.
func (a answer) ordered() []map[string]any {
	var out []map[string]any
	entries, _ := a.json["entry"].([]any)
	for _, e := range entries {
		m, _ := e.(map[string]any)
		if s, _ := m["search"].(map[string]any); s["mode"] == "match" {
			r, _ := m["resource"].(map[string]any)
			out = append(out, r)
		}
	}
	return out
}

func refsOf(resources []map[string]any) []string {
	var out []string
	for _, r := range resources {
		out = append(out, fmt.Sprint(r["resourceType"], "/", r["id"]))
	}
	return out
}

// matchPages follows the next links and returns all matches. between is called before each
// page but the first.
func (w *world) matchPages(client, path string, between func()) []map[string]any {
	w.t.Helper()
	a := w.want(200, client, "GET", path, "")
	all := a.ordered()
	for n := 0; a.link("next") != ""; n++ {
		if n > 200 {
			w.t.Fatalf("%s has no last page", path)
		}
		between()
		a = w.want(200, client, "GET", a.link("next"), "")
		all = append(all, a.ordered()...)
	}
	return all
}

// sortedData writes resources of several types in turns: with equal, missing and
// repeated values.
func (w *world) sortedData() {
	w.t.Helper()
	families := []string{"Adler", "Berg", "", "Adler", "Zorn", "Meer"}
	for i, family := range families {
		name := ""
		if family != "" {
			name = fmt.Sprintf(`,"name":[{"family":"%s"},{"family":"M%d"}]`, family, i)
		}
		when := fmt.Sprintf("2026-0%d-1%d", 1+i%3, i)
		for _, r := range [][2]string{{"Patient", name + `,"active":true`}, {"Practitioner", name},
			{"Procedure", `,"status":"completed","subject":{"reference":"Patient/p1"},"performedDateTime":"` + when + `"`},
			{"Encounter", `,"status":"finished","class":{"code":"AMB"},"subject":{"reference":"Patient/p2"},"period":{"start":"` +
				when + `"}`},
			{"Observation", `,"status":"final","code":{"text":"x"},"subject":{"reference":"Patient/p1"},"effectiveDateTime":"` +
				when + `"`}} {
			id := fmt.Sprintf("s%d-%s", (i*7)%len(families), strings.ToLower(r[0][:2]))
			w.put(r[0]+"/"+id, `{"resourceType":"`+r[0]+`","id":"`+id+`"`+r[1]+`}`, 201)
		}
	}
}

// sortKeyOf returns the sort key of a resource, "" if it has none. It is the test's own
// reading of the parameters.
func sortKeyOf(r map[string]any, param string, desc bool) string {
	switch param {
	case "_id":
		return fmt.Sprint(r["id"])
	case "_lastUpdated":
		meta, _ := r["meta"].(map[string]any)
		return fmt.Sprint(meta["lastUpdated"])
	case "family":
		var all []string
		names, _ := r["name"].([]any)
		for _, n := range names {
			m, _ := n.(map[string]any)
			all = append(all, strings.ToLower(fmt.Sprint(m["family"])))
		}
		slices.Sort(all)
		switch {
		case len(all) == 0:
			return ""
		case desc:
			return all[len(all)-1]
		}
		return all[0]
	}
	for _, name := range []string{"performedDateTime", "effectiveDateTime"} { // date
		if v, ok := r[name].(string); ok {
			return v
		}
	}
	period, _ := r["period"].(map[string]any)
	return fmt.Sprint(period["start"])
}

// TestSortOfSeveralTypes tests that a search of several types is sorted as a whole, that
// the pages are those of one snapshot, whatever is written meanwhile, and that its total
// is right.
func TestSortOfSeveralTypes(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.sortedData()
		writes := 0
		last := ""
		write := func(path string) {
			if path == last {
				return
			}
			last = path
			writes++
			w.put(fmt.Sprintf("Practitioner/new%d", writes), fmt.Sprintf(
				`{"resourceType":"Practitioner","id":"new%d","name":[{"family":"Aaa"}]}`, writes), 201)
			w.do("all", "PUT", "/Patient/s0-pa", `{"resourceType":"Patient","id":"s0-pa","name":[{"family":"Changed"}]}`)
		}
		for _, c := range [][2]string{
			{"Patient,Practitioner,Observation", "_lastUpdated"}, {"Patient,Practitioner,Observation", "-_lastUpdated"},
			{"Observation,Patient,Practitioner,Group", "_id"}, {"Observation,Practitioner", "-_id"},
			{"Patient,Practitioner", "family"}, {"Practitioner,Patient", "-family,_id"},
			{"Observation,Procedure,Encounter", "date"}, {"Encounter,Observation,Procedure", "-date,-_id"},
			{"", "-_lastUpdated"}, {"", "_id"}, {"Patient", "family"},
		} {
			for _, count := range []int{1, 4} {
				path := fmt.Sprintf("/?_type=%s&_sort=%s&_count=%d&_total=accurate", c[0], c[1], count)
				whole := w.matchPages("all", strings.Replace(path, fmt.Sprintf("_count=%d", count), "_count=1000", 1), func() {})
				total := w.want(200, "all", "GET", path, "").json["total"]
				if len(whole) < 10 && c[0] != "Patient" || total != float64(len(whole)) {
					t.Fatalf("%s: %d matches, total %v", path, len(whole), total)
				}
				all := w.matchPages("all", path, func() { write(path) })
				if fmt.Sprint(refsOf(all)) != fmt.Sprint(refsOf(whole)) {
					t.Fatalf("%s: the pages have\n%v\none page\n%v", path, refsOf(all), refsOf(whole))
				}
				inOrder(t, path, all, strings.Split(c[1], ","))
			}
		}
	})
}

// inOrder checks the order of resources by the test's own keys.
func inOrder(t *testing.T, path string, all []map[string]any, sort []string) {
	t.Helper()
	for i := 1; i < len(all); i++ {
		for _, s := range sort {
			param, desc := strings.CutPrefix(s, "-")
			a, b := sortKeyOf(all[i-1], param, desc), sortKeyOf(all[i], param, desc)
			c := cmp.Compare(a, b)
			if desc {
				c = -c
			}
			if a == "" || b == "" { // the one without a value comes last
				c = cmp.Compare(b, a)
			}
			if c > 0 {
				t.Fatalf("%s: %q before %q of %s in %v", path, a, b, param, refsOf(all))
			}
			if c != 0 {
				break
			}
		}
	}
}

// TestSortOfSeveralTypesIsFiltered tests that scopes and consents of the moment apply to
// every page, that deleted resources are left out, that includes and joins work, and
// that a page link belongs to its search.
func TestSortOfSeveralTypesIsFiltered(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.sortedData()
		w.tokens["some"] = grant(w.consents, access.Rule{Type: "Observation", May: access.Read | access.Search},
			access.Rule{Type: "Practitioner", May: access.Read | access.Search})
		for _, r := range w.matchPages("some", "/?_sort=_lastUpdated&_count=3", func() {}) {
			if typ := r["resourceType"]; typ != "Observation" && typ != "Practitioner" {
				t.Fatalf("a %v for a token without it", typ)
			}
		}
		w.want(403, "some", "GET", "/?_type=Observation,Patient&_sort=_id", "")
		path := "/?_type=Observation,Encounter,Practitioner&_sort=_lastUpdated&_count=4"
		first := w.want(200, "all", "GET", path, "")
		link := first.link("next")
		w.tokens["other"] = w.tokens["all"]
		w.want(400, "other", "GET", link, "")
		w.want(403, "some", "GET", link, "")
		w.want(400, "all", "GET", strings.Replace(link, "_sort=_lastUpdated", "_sort=_id", 1), "")
		w.want(400, "all", "GET", strings.Replace(link, "Observation,Encounter", "Encounter,Observation", 1), "")
		second := refsOf(w.want(200, "all", "GET", link, "").ordered())
		gone := second[slices.IndexFunc(second, func(s string) bool { return strings.HasPrefix(s, "Practitioner/") })]
		w.want(204, "all", "DELETE", "/"+gone, "")
		w.consents.set("p1", true)
		rest := append(first.ordered(), w.matchPages("all", link, func() {})...)[4:]
		for _, r := range refsOf(rest) {
			if strings.HasPrefix(r, "Observation/") || r == gone {
				t.Errorf("%s after its deletion or the withdrawal", r)
			}
		}
		if len(rest) == 0 {
			t.Error("nothing is left")
		}
		w.consents.set("p1", false)
		w.run([]searchCase{
			{"#sort: with a chain", "?_type=Observation,Procedure&patient._id=p1&_sort=-date",
				"Observation/s0-ob Observation/s1-ob Observation/s2-ob Observation/s3-ob Observation/s4-ob " +
					"Observation/s5-ob Procedure/s0-pr Procedure/s1-pr Procedure/s2-pr Procedure/s3-pr Procedure/s4-pr " +
					"Procedure/s5-pr", ""},
			{"#sort: with includes", "?_type=Observation,Procedure&_id=s0-ob,s1-pr&_include=Observation:patient&_sort=_id",
				"Observation/s0-ob Procedure/s1-pr", "Patient/p1"},
			{"#sort: in a compartment", "Patient/p2/*?_type=Encounter,Observation&_sort=-_lastUpdated",
				"Encounter/s0-en Encounter/s1-en Encounter/s2-en Encounter/s3-en Encounter/s4-en Encounter/s5-en", ""},
		})
	})
}

// TestSortOfSeveralTypesIsRefused tests that the answer names the rule for parameters
// that the types do not share.
func TestSortOfSeveralTypesIsRefused(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		for _, query := range []string{
			"_type=Patient,Observation&_sort=family", "_type=Observation,Patient&_sort=family",
			"_type=Patient,Practitioner&_sort=_id,birthdate", "_sort=date", "_type=Patient,Observation&_sort=nothing",
			"_type=Observation,ImplementationGuide&_sort=code",
			"_type=Observation,DiagnosticReport&_sort=code-value-quantity",
			"_type=MessageHeader,NamingSystem&_sort=responsible", "_type=Observation,MessageDefinition&_sort=focus",
			"_type=Coverage,Practitioner,RiskAssessment&_sort=identifier,probability",
		} {
			a := w.want(400, "all", "GET", "/?"+query, "")
			if text := string(a.body); !strings.Contains(text, "not-supported") || !strings.Contains(text, "_sort") ||
				!strings.Contains(text, "all of the types") {
				t.Errorf("%s: %s", query, text)
			}
			lenient := w.want(200, "all", "GET", "/?"+query, "", "Prefer", "handling=lenient")
			if strings.Contains(lenient.link("self"), "_sort") || !strings.Contains(string(lenient.body), "parameter _sort is not") {
				t.Errorf("lenient %s: %s", query, lenient.body)
			}
		}
	})
}
