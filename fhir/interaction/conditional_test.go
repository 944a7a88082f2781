package interaction_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

func upsert(criteria, body string) act {
	return func(s *interaction.Service) (interaction.Written, error) {
		return s.ConditionalUpdate(context.Background(), operator, "Organization", criteria, []byte(body),
			interaction.Preconditions{})
	}
}

func removeMatch(criteria string) act {
	return func(s *interaction.Service) (interaction.Written, error) {
		return s.ConditionalDelete(context.Background(), operator, "Organization", criteria,
			interaction.Preconditions{})
	}
}

const renames = `[{"op":"replace","path":"/name","value":"patched"}]`

func patchMatch(criteria string) act {
	return func(s *interaction.Service) (interaction.Written, error) {
		return s.ConditionalPatch(context.Background(), operator, "Organization", criteria,
			interaction.Patch{Body: []byte(renames)}, interaction.Preconditions{})
	}
}

func patchOf(id string) act {
	return func(s *interaction.Service) (interaction.Written, error) {
		return s.Patch(context.Background(), operator, fhir.Ref{Type: "Organization", ID: id},
			interaction.Patch{Body: []byte(renames)}, interaction.Preconditions{})
	}
}

func organizationWith(id, identifier, name string) string {
	return `{"resourceType":"Organization","id":"` + id + `","name":"` + name +
		`","identifier":[{"system":"urn:t","value":"` +
		identifier + `"}]}`
}

// organizations returns "id name" of the Organizations, without the ids that the server
// assigned.
func organizations(t *testing.T, st store.Store) string {
	t.Helper()
	var out []string
	err := st.Scan(t.Context(), store.ScanRange{Types: []string{"Organization"}, At: st.LastSeq(),
		Filter: access.All().Filter(access.Read)}, func(f *store.Found) bool {
		id := f.Resource.ID
		if len(id) == 26 {
			id = "*"
		}
		_, name, _ := strings.Cut(string(f.Resource.JSON), `"name":"`)
		name, _, _ = strings.Cut(name, `"`)
		out = append(out, id+" "+name)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// TestConditionalGuards lets a request at one process overtake a conditional one at another,
// between the search and the commit. The outcome must be that of the second after the first.
// Without guards, which is the control, it must be another one.
func TestConditionalGuards(t *testing.T) {
	const id7, name7 = "identifier=urn:t|7", "name=seven"
	one := organizationWith("", "7", "later")
	one = strings.Replace(one, `"id":"",`, "", 1)
	exists := put("Organization", "a", organizationWith("a", "7", "seven"))
	other := put("Organization", "b", organizationWith("b", "7", "seven"))
	for _, test := range []struct {
		name            string
		before          act
		overtaken, fast act
		want            string // what is left
		kind            fhir.Kind
		versioned       bool // a version protects the commit, and no guard
	}{
		{name: "update after a create", overtaken: upsert(id7, one), fast: exists, want: "a later"},
		{name: "update by name after a create", overtaken: upsert(name7, one), fast: exists, want: "a later"},
		{name: "update after an update", overtaken: upsert(id7, one), fast: upsert(id7, one), want: "* later"},
		{name: "update after a transaction", overtaken: upsert(id7, one), fast: transact(createNamed), want: "* later"},
		{name: "update after a second match", before: exists, overtaken: upsert(id7, one), fast: other,
			want: "a seven, b seven", kind: fhir.PreconditionFailed},
		{name: "update after a second match by update", before: exists, overtaken: upsert(name7, one),
			fast: put("Organization", "b", organizationWith("b", "9", "seven")), want: "a seven, b seven",
			kind: fhir.PreconditionFailed},
		{name: "update after the match has gone", before: exists, overtaken: upsert(id7, one),
			fast: remove("Organization", "a"), want: "* later", versioned: true},
		{name: "update after the match matches no more", before: exists, overtaken: upsert(id7, one),
			fast: put("Organization", "a", organizationWith("a", "8", "eight")), want: "* later, a eight",
			versioned: true},
		{name: "create after a create", overtaken: post("Organization", one, id7), fast: exists, want: "a seven"},
		{name: "create by name after a create", overtaken: post("Organization", one, name7), fast: exists,
			want: "a seven"},
		{name: "delete after a second match", before: exists, overtaken: removeMatch(id7), fast: other,
			want: "a seven, b seven", kind: fhir.PreconditionFailed},
		{name: "delete after the match matches no more", before: exists, overtaken: removeMatch(id7),
			fast: put("Organization", "a", organizationWith("a", "8", "eight")), want: "a eight", versioned: true},
		{name: "patch after a second match", before: exists, overtaken: patchMatch(id7), fast: other,
			want: "a seven, b seven", kind: fhir.PreconditionFailed},
		{name: "patch after the match has gone", before: exists, overtaken: patchMatch(id7),
			fast: remove("Organization", "a"), want: "", kind: fhir.NotFound, versioned: true},
		{name: "patch after an update", before: exists, overtaken: patchOf("a"),
			fast: put("Organization", "a",
				strings.Replace(organizationWith("a", "7", "x"), `"name"`, `"alias":["x"],"name"`, 1)),
			want: "a patched", versioned: true},
		{name: "transaction with an update after a create", overtaken: transact(
			`{"resource":` + one + `,"request":{"method":"PUT","url":"Organization?` + id7 + `"}}`), fast: exists,
			want: "a later"},
		{name: "transaction with a reference after a second match", before: exists, overtaken: transact(
			`{"resource":{"resourceType":"Organization","id":"c","name":"c","partOf":{"reference":"Organization?` +
				id7 +
				`"}},"request":{"method":"PUT","url":"Organization/c"}}`), fast: other, want: "a seven, b seven",
			kind: fhir.PreconditionFailed},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, unguarded := range []bool{false, true} {
				here, there, mine := twoProcesses(t)
				if test.before != nil {
					if _, err := test.before(there); err != nil {
						t.Fatal(err)
					}
				}
				mine.unguarded = unguarded
				mine.before = func() {
					if _, err := test.fast(there); err != nil {
						t.Errorf("the fast request: %v", err)
					}
				}
				_, err := test.overtaken(here)
				got := organizations(t, mine.Store)
				right := got == test.want && (err == nil) == (test.kind == 0) &&
					(err == nil || fhir.KindOf(err) == test.kind)
				switch {
				case mine.before != nil:
					t.Error("the overtaken request has not committed")
				case unguarded && !test.versioned && right:
					t.Error("without guards, the outcome is the same")
				case (!unguarded || test.versioned) && !right:
					t.Errorf("unguarded %v: %q, %v, want %q, kind %d", unguarded, got, err, test.want, test.kind)
				}
			}
		})
	}
}

// TestMatchThatChanges lets a request overtake a conditional one between its search and its
// look at the match. The outcome must be that of the second after the first.
func TestMatchThatChanges(t *testing.T) {
	const id7 = "identifier=urn:t|7"
	entry := func(method, resource string) act {
		return transact(`{` + resource + `"request":{"method":"` + method + `","url":"Organization?` + id7 + `"}}`)
	}
	patch := `"resource":{"resourceType":"Binary","contentType":"application/json-patch+json","data":"` +
		base64.StdEncoding.EncodeToString([]byte(renames)) + `"},`
	for name, c := range map[string]struct {
		slow act
		want string // what is left after a deletion of the match
		kind fhir.Kind
	}{
		"patch": {patchMatch(id7), "", fhir.NotFound}, "delete": {removeMatch(id7), "", 0},
		"update":                  {upsert(id7, named), "* x", 0},
		"patch in a transaction":  {entry("PATCH", patch), "", fhir.NotFound},
		"delete in a transaction": {entry("DELETE", ""), "", 0},
		"update in a transaction": {entry("PUT", `"resource":`+named+`,`), "* x", 0},
	} {
		here, there, mine := twoProcesses(t)
		if _, err := put("Organization", "a", organizationWith("a", "7", "seven"))(there); err != nil {
			t.Fatal(err)
		}
		mine.reads = func() {
			if _, err := remove("Organization", "a")(there); err != nil {
				t.Error(err)
			}
		}
		_, err := c.slow(here)
		got := organizations(t, mine.Store)
		if mine.reads != nil || got != c.want || (err == nil) != (c.kind == 0) || err != nil &&
			fhir.KindOf(err) != c.kind {
			t.Errorf("%s: %q, %v, want %q, kind %d", name, got, err, c.want, c.kind)
		}
	}
}

// TestConcurrentConditionalUpdates tests that concurrent conditional updates at two
// processes, whose locks are off, make one resource with a version for each.
func TestConcurrentConditionalUpdates(t *testing.T) {
	here, there, mine := twoProcesses(t)
	here.Store = mine.Store // concurrent requests cannot be interposed
	here.WithoutLocks()
	there.WithoutLocks()
	const n = 8
	var wg sync.WaitGroup
	for i := range n {
		s := []*interaction.Service{here, there}[i%2]
		wg.Go(func() {
			if _, err := upsert("identifier=urn:t|7",
				strings.Replace(named, `"x"`, fmt.Sprintf(`"x%d"`, i), 1))(s); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	w, err := upsert("identifier=urn:t|7", named)(here)
	if err != nil || w.Resource.Version != n+1 {
		t.Errorf("version %d, %v", w.Resource.Version, err)
	}
}

// TestPatchOfSample tests that a sample is patched, and listed in the histories, like the
// document for which it stands.
func TestPatchOfSample(t *testing.T) {
	var answers [2]string
	for i, wrap := range []func(store.Store) store.Store{
		func(s store.Store) store.Store { return s },
		func(s store.Store) store.Store { return store.Documents{Store: s} },
	} {
		_, s, mine := twoProcesses(t)
		s.Store = wrap(mine.Store)
		if _, err := put("Patient", "ada", ada)(s); err != nil {
			t.Fatal(err)
		}
		template := &series.Template{Patient: "ada", Vendor: "oura", Values: 1,
			Slots: []series.Slot{series.SlotEffective, series.SlotValue}, Parts: [][]byte{
				[]byte(`},"status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"subject":{"reference":"Patient/ada"},`),
				[]byte(`,"valueQuantity":{"value":`), []byte(`}}`)}}
		copy(template.Identity[:], "stream")
		columns := &series.Columns{}
		for i := range int64(3) {
			x := series.Sample{Start: 1767225600e6 + i*1e6, End: series.NoEnd}
			x.Values[0] = series.Decimal{Mant: 600 + i, Scale: 1}
			columns.Append(&x, 1)
		}
		writes := []store.SeriesWrite{{Template: template, Columns: columns}}
		at, _, err := s.Store.Probe(t.Context(), writes)
		if err == nil {
			_, err = s.Store.Commit(t.Context(), &store.Batch{Series: writes, Probed: at})
		}
		if err != nil {
			t.Fatal(err)
		}
		x := columns.At(1)
		key := template.Key(&x)
		ref := fhir.Ref{Type: "Observation", ID: key.ID()}
		add := func(w interaction.Written, err error) {
			answers[i] += fmt.Sprintf("%d %s %v\n", w.Resource.Version, plain(string(w.Resource.JSON)), err)
		}
		p := interaction.Patch{Body: []byte(`[{"op":"test","path":"/valueQuantity/value","value":60.1},` +
			`{"op":"replace","path":"/status","value":"amended"}]`)}
		add(s.Patch(t.Context(), operator, ref, p, interaction.Preconditions{}))
		add(s.Patch(t.Context(), operator, ref, interaction.Patch{Body: []byte(
			`[{"op":"replace","path":"/subject/reference","value":"Patient/ben"}]`)}, interaction.Preconditions{}))
		add(s.ConditionalPatch(t.Context(), operator, "Observation", "status=amended", p, interaction.Preconditions{}))
		w, err := s.ConditionalDelete(t.Context(), operator, "Observation", "status=amended",
			interaction.Preconditions{})
		answers[i] += fmt.Sprintln(w.Resource.Ref() == ref, err)
		for _, ref := range []fhir.Ref{ref, {Type: "Observation"}, {}} {
			page, err := s.History(t.Context(), operator, ref, interaction.HistoryQuery{})
			if err != nil {
				t.Fatal(err)
			}
			answers[i] += plain(string(page.Bytes())) + "\n"
		}
	}
	if answers[0] != answers[1] || strings.Count(answers[0], `"value":60.1`) < 4 ||
		!strings.HasPrefix(answers[0], "2 ") {
		t.Errorf("a sample:\n%s\na document:\n%s", answers[0], answers[1])
	}
}
