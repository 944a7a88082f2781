package bulk

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// one returns the ids of an export of one type with parameters given as pairs.
func (w *world) one(level Level, post bool, typ string, pairs ...string) []string {
	w.t.Helper()
	params := url.Values{"_type": {typ}}
	for i := 0; i < len(pairs); i += 2 {
		params.Add(pairs[i], pairs[i+1])
	}
	r := Request{Level: level, Params: params, Post: post}
	if level == Group {
		r.GroupID = "g1"
	}
	return w.export(w.caller("ehr"), r)[typ]
}

func (w *world) remove(typ, id string) {
	w.t.Helper()
	if _, err := w.st.Commit(w.t.Context(), &store.Batch{Writes: []store.Write{{Op: store.Remove,
		Resource: fhir.Resource{Type: typ, ID: id}}}}); err != nil {
		w.t.Fatal(err)
	}
}

// TestTypesOfLevels checks that the types follow from the stored types and the Patient
// compartment, and that secrets and the audit trail are not among them.
func TestTypesOfLevels(t *testing.T) {
	system, patients := typesOf(System), typesOf(Patients)
	for _, typ := range fhir.Types {
		code, _ := search.PatientParam(typ)
		held := slices.Contains(withheld, typ)
		if slices.Contains(system, typ) == held {
			t.Errorf("system: %s", typ)
		}
		if slices.Contains(patients, typ) != (!held && code != "" && typ != "Group") {
			t.Errorf("patients: %s", typ)
		}
	}
	for _, typ := range []string{"Patient", "Observation", "Device", "Consent", "Provenance"} {
		if !slices.Contains(patients, typ) {
			t.Errorf("patients without %s", typ)
		}
	}
	if !slices.Equal(typesOf(Group), patients) {
		t.Error("a Group has other types than all patients")
	}
}

func TestTypeFilter(t *testing.T) {
	w := newWorld(t)
	w.seed()
	w.put("Observation", "other", `,"status":"amended","code":{"coding":[{"system":"http://loinc.org","code":"8310-5"}]},"subject":{"reference":"Patient/p1"},"effectiveDateTime":"2026-04-01T10:00:00Z"`)
	all := 10
	for _, c := range []struct {
		filters []string
		want    int
	}{
		{[]string{"Observation?code=8310-5"}, 1},
		{[]string{"Observation?code=8310-5,8867-4"}, all},              // a comma in a query
		{[]string{"Observation?code=8310-5,Observation?_id=p1-o0"}, 2}, // a comma between queries
		{[]string{"Observation?code=8310-5", "Observation?_id=p1-o0"}, 2},
		{[]string{"Observation?code=8867-4&status=amended"}, 0},
		{[]string{"Observation?date=gt2026-03-15T00%3A00%3A00Z"}, 1},
		{[]string{"Observation?date=gt2026-03-15T00:00:00Z"}, 1},
		{[]string{"Patient?_id=p1"}, all}, // other types are whole
	} {
		m := w.manifest(w.caller("ehr"), w.kick(w.caller("ehr"), Request{Level: System,
			Params: url.Values{"_type": {"Observation,Patient"}, "_typeFilter": c.filters}}))
		n := 0
		for _, f := range m.Output {
			if f.Type == "Observation" {
				n = len(w.file(w.caller("ehr"), f))
				if f.Count != n {
					t.Errorf("%v: count %d, %d lines", c.filters, f.Count, n)
				}
			}
		}
		if n != c.want {
			t.Errorf("%v: %d, want %d", c.filters, n, c.want)
		}
	}
}

// TestParametersRefused checks errors, and that lenient handling reports what it ignores.
func TestParametersRefused(t *testing.T) {
	w := newWorld(t)
	w.seed()
	for _, c := range []struct {
		level    Level
		post     bool
		params   url.Values
		in       string
		lenient  bool // whether lenient handling accepts it
		observed int  // Observations of the lenient export
	}{
		{System, false, url.Values{"_typeFilter": {"Observation?_sort=date"}}, "_sort", true, 9},
		{System, false, url.Values{"_typeFilter": {"Observation?_include=Observation:subject"}}, "_include", true, 9},
		{System, false, url.Values{"_typeFilter": {"Observation?_count=3"}}, "_count", true, 9},
		{System, false, url.Values{"_typeFilter": {"Observation?subject.name=x"}}, "chained", true, 9},
		{System, false, url.Values{"_typeFilter": {"Observation?_has:Provenance:target:_id=x"}}, "_has", true, 9},
		{System, false, url.Values{"_typeFilter": {"Observation?nonsense=x"}}, "", true, 9},
		{System, false, url.Values{"_typeFilter": {"Observation"}}, "[type]?", true, 9},
		{System, false, url.Values{"_typeFilter": {"Observation?"}}, "no parameter", true, 9},
		{System, false, url.Values{"_type": {"Observation"}, "_typeFilter": {"Patient?_id=p1"}}, "not exported",
			true, 9},
		{System, false, url.Values{"_elements": {"nonsense"}}, "_elements", true, 9},
		{System, false, url.Values{"_elements": {"Patient.name.family"}}, "root elements", false, 0},
		{System, false, url.Values{"_until": {"tomorrow"}}, "_until must be", false, 0},
		{System, false, url.Values{"_since": {"2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"}}, "once", false, 0},
		{System, true, url.Values{"patient": {"Patient/p1"}}, "patients and groups", true, 9},
		{Patients, false, url.Values{"patient": {"Patient/p1"}}, "POST", true, 3}, // applied, not ignored
		{Patients, true, url.Values{"patient": {"Group/g1"}}, "Patient/[id]", false, 0},
		{Patients, true, url.Values{"patient": {"Patient/none"}}, "not part", true, 0},
		{Group, true, url.Values{"patient": {"Patient/p2"}}, "not part", true, 0},
		{System, false, url.Values{"includeAssociatedData": {"_custom"}}, "includeAssociatedData", true, 9},
		{System, false, url.Values{"organizeOutputBy": {"Observation"}}, "organizeOutputBy", true, 9},
		{System, false, url.Values{"allowPartialManifests": {"perhaps"}}, "allowPartialManifests", false, 0},
	} {
		r := Request{Level: c.level, Params: c.params, Post: c.post}
		if c.level == Group {
			r.GroupID = "g1"
		}
		caller := w.caller("ehr")
		_, err := w.exporter.KickOff(t.Context(), caller, r)
		if err == nil || fhir.KindOf(err) != fhir.Invalid ||
			!strings.Contains(fmt.Sprintf("%v %+v", err, issues(err)), c.in) {
			t.Errorf("%v: %v, want %q", c.params, err, c.in)
		}
		r.Lenient = true
		loc, err := w.exporter.KickOff(t.Context(), caller, r)
		if (err == nil) != c.lenient {
			t.Errorf("%v, lenient: %v", c.params, err)
			continue
		}
		if err != nil {
			continue
		}
		id := loc[strings.LastIndexByte(loc, '/')+1:]
		m := w.manifest(caller, id)
		reported := len(*m.Error) == 1 && (*m.Error)[0].Count == 1 && len(w.file(caller, (*m.Error)[0])) == 1
		if reported == (c.params.Has("patient") && c.level == Patients && !c.post) {
			t.Errorf("%v, lenient: errors %v", c.params, m.Error)
		}
		n := 0
		for _, f := range m.Output {
			if f.Type == "Observation" {
				n += f.Count
			}
		}
		if n != c.observed {
			t.Errorf("%v, lenient: %d Observations, want %d", c.params, n, c.observed)
		}
		if err := w.exporter.Delete(t.Context(), caller, id); err != nil {
			t.Fatal(err)
		}
	}
}

func issues(err error) string {
	b, _ := json.Marshal(err)
	return string(b)
}

func TestElements(t *testing.T) {
	w := newWorld(t)
	w.seed()
	c := w.caller("ehr")
	id := w.kick(c, Request{Level: System, Params: url.Values{"_type": {"Observation,Patient,Organization"},
		"_elements": {"Observation.effective,Patient.id", "Observation.subject"}}})
	w.manifest(c, id)
	for name, want := range map[string][]string{
		"Observation.ndjson":  {"code", "effectiveDateTime", "id", "meta", "resourceType", "status", "subject"},
		"Patient.ndjson":      {"id", "meta", "resourceType"},
		"Organization.ndjson": {"id", "meta", "name", "resourceType"},
	} {
		for _, line := range strings.Split(strings.TrimSpace(w.text(c, id, name)), "\n") {
			var r map[string]json.RawMessage
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatal(err)
			}
			if got := slices.Sorted(maps.Keys(r)); !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", name, got, want)
			}
			if tagged := strings.Contains(line, "SUBSETTED"); tagged == (name == "Organization.ndjson") {
				t.Errorf("%s: tagged %v", name, tagged)
			}
		}
	}
}

func TestPatientParameter(t *testing.T) {
	w := newWorld(t)
	w.seed()
	if got := w.one(Patients, true, "Observation", "patient", "Patient/p1", "patient",
		base+"/Patient/p2"); len(got) != 6 {
		t.Errorf("two of three patients: %v", got)
	}
	if got := w.one(Patients, true, "Patient", "patient", "Patient/p2"); !slices.Equal(got, []string{"p2"}) {
		t.Errorf("a patient: %v", got)
	}
	if got := w.one(Group, true, "Patient", "patient", "Patient/p3"); !slices.Equal(got, []string{"p3"}) {
		t.Errorf("a member: %v", got)
	}
}

func TestUntil(t *testing.T) {
	w := newWorld(t)
	w.seed()
	m := w.manifest(w.caller("ehr"), w.kick(w.caller("ehr"), Request{Level: System}))
	at, err := time.Parse(fhir.InstantLayout, m.TransactionTime)
	if err != nil {
		t.Fatal(err)
	}
	res, _, err := w.st.Read(t.Context(), fhir.Ref{Type: "Observation", ID: "p3-o2"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	// The bound itself is excluded, as for _since.
	if got := w.one(System, false, "Observation", "_until",
		res.LastUpdated.Format(fhir.InstantLayout)); slices.Contains(got, "p3-o2") {
		t.Errorf("until its own time: %v", got)
	}
	if got := w.one(System, false, "Observation", "_until",
		at.Add(time.Hour).Format(fhir.InstantLayout)); len(got) != 9 {
		t.Errorf("until the future: %v", got)
	}
	if got := w.one(System, false, "Observation", "_until", "2020-01-01T00:00:00Z"); len(got) != 0 {
		t.Errorf("until the past: %v", got)
	}
}

// TestDeletedMatches checks that only deletions of what the request selects are reported.
func TestDeletedMatches(t *testing.T) {
	w := newWorld(t)
	w.seed()
	w.put("Observation", "other", `,"status":"final","code":{"coding":[{"code":"x"}]},"subject":{"reference":"Patient/p2"}`)
	c := w.caller("ehr")
	m := w.manifest(c, w.kick(c, Request{Level: System}))
	w.remove("Observation", "p2-o1")
	w.remove("Observation", "other")
	w.remove("Organization", "h1")
	for _, q := range []struct {
		params url.Values
		want   []string
	}{
		{url.Values{}, []string{"Observation/other", "Observation/p2-o1", "Organization/h1"}},
		{url.Values{"_type": {"Observation"}}, []string{"Observation/other", "Observation/p2-o1"}},
		{url.Values{"_type": {"Observation"}, "_typeFilter": {"Observation?code=8867-4"}},
			[]string{"Observation/p2-o1"}},
		{url.Values{"_type": {"Observation"}, "_until": {m.TransactionTime}}, nil},
	} {
		q.params.Set("_since", m.TransactionTime)
		m := w.manifest(c, w.kick(c, Request{Level: System, Params: q.params}))
		var got []string
		for _, f := range m.Deleted {
			for _, line := range w.file(c, f) {
				var b struct {
					Type  string
					Entry []struct{ Request struct{ Method, URL string } }
				}
				if err := json.Unmarshal([]byte(line), &b); err != nil || b.Type != "transaction" {
					t.Fatalf("%s: %v", line, err)
				}
				for _, e := range b.Entry {
					if e.Request.Method != "DELETE" {
						t.Error(e)
					}
					got = append(got, e.Request.URL)
				}
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, q.want) {
			t.Errorf("%v: %v, want %v", q.params, got, q.want)
		}
	}
}

func (w *world) provenance(id, recorded string, targets ...string) {
	w.t.Helper()
	var refs []string
	for _, r := range targets {
		refs = append(refs, `{"reference":"`+r+`"}`)
	}
	w.put("Provenance", id, `,"target":[`+strings.Join(refs, ",")+`],"recorded":"`+recorded+
		`","agent":[{"who":{"display":"x"}}]`)
}

func TestAssociatedData(t *testing.T) {
	w := newWorld(t)
	w.seed()
	w.provenance("v1", "2026-01-01T00:00:00Z", "Patient/p1", "Observation/p1-o0")
	w.provenance("v2", "2026-03-01T00:00:00Z", "Patient/p1", "Observation/p1-o0")
	w.provenance("v3", "2026-02-01T00:00:00Z", "Patient/p1", "Observation/p1-o0") // stored last, not the latest
	w.provenance("v4", "2026-02-01T00:00:00Z", "Patient/p2", "Observation/p2-o0")
	w.provenance("v5", "2026-02-01T00:00:00Z", "Patient/p2", "Device/none")
	export := func(params url.Values, types ...string) []string {
		return w.export(w.caller("ehr", types...), Request{Level: System, Params: params})["Provenance"]
	}
	for _, c := range []struct {
		params url.Values
		want   []string
	}{
		{url.Values{}, []string{"v1", "v2", "v3", "v4", "v5"}},
		{url.Values{"_type": {"Observation"}}, nil},
		{url.Values{"_type": {"Observation"}, "includeAssociatedData": {relevantProvenance}},
			[]string{"v1", "v2", "v3", "v4"}},
		{url.Values{"_type": {"Observation"}, "includeAssociatedData": {latestProvenance}}, []string{"v2", "v4"}},
		{url.Values{"_type": {"Observation"}, "includeAssociatedData": {latestProvenance + "," + relevantProvenance}},
			[]string{"v1", "v2", "v3", "v4"}},
		{url.Values{"_type": {"Observation"}, "includeAssociatedData": {latestProvenance},
			"_typeFilter": {"Observation?_id=p2-o0"}}, []string{"v4"}},
	} {
		if got := export(c.params); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.params, got, c.want)
		}
	}
	_, err := w.exporter.KickOff(t.Context(), w.caller("ehr", "Observation"), Request{Level: System,
		Params: url.Values{"_type": {"Observation"}, "includeAssociatedData": {latestProvenance}}})
	if err == nil || fhir.KindOf(err) != fhir.Forbidden {
		t.Errorf("without the scope: %v", err)
	}
}

// TestMemberOnce checks that a resource of several members of a Group is exported once.
func TestMemberOnce(t *testing.T) {
	w := newWorld(t)
	w.seed()
	w.provenance("v1", "2026-01-01T00:00:00Z", "Patient/p1", "Patient/p3")
	w.provenance("v2", "2026-01-01T00:00:00Z", "Patient/p2", "Patient/p3")
	w.provenance("v3", "2026-01-01T00:00:00Z", "Patient/p2")
	if got := w.one(Group, false, "Provenance"); !slices.Equal(got, []string{"v1", "v2"}) {
		t.Errorf("%v", got)
	}
}

func TestTypeFilters(t *testing.T) {
	for value, want := range map[string]int{
		"":                       0,
		"Aa?b=c":                 1,
		"Aa?b=c,d":               1,
		"Aa?b=c,Dd?e=f":          2,
		"Aa?b=c, Dd?e=f,g,Hh?i=": 3,
		",Aa?b=c,":               1,
	} {
		if got := typeFilters([]string{value}); len(got) != want {
			t.Errorf("%q: %q", value, got)
		}
	}
}

func FuzzTypeFilter(f *testing.F) {
	f.Add("Observation?code=a,b,Patient?_id=c")
	f.Add("Observation?date=gt2018-07-01T00%3A00%3A00Z&value-quantity=lt5||kg")
	f.Add("?,?")
	f.Fuzz(func(t *testing.T, s string) {
		for _, q := range typeFilters([]string{s}) {
			_, err := parseFilter(q, search.ParseOptions{Base: base})
			if err != nil && fhir.KindOf(err) == fhir.Internal {
				t.Fatal(err)
			}
		}
	})
}
