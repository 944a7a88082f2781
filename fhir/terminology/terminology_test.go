package terminology_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/fhir/fhirpath"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/terminology"
)

const base = "https://pg.example/fhir"

type fatal interface {
	Helper()
	Fatal(...any)
}

func put(t fatal, st store.Store, typ, id, rest string) {
	t.Helper()
	_, err := st.Commit(context.Background(),
		&store.Batch{Writes: []store.Write{{Resource: fhir.Resource{Type: typ, ID: id,
			JSON: []byte(fhir.Prefix(typ, id) + "}," + rest + "}")}}}})
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T) (store.Store, *terminology.Service) {
	t.Helper()
	st, err := pebblestore.Open("s", pebblestore.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	s, err := terminology.New(t.Context(), st, base)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return st, s
}

const animals = `"url":"urn:animals","version":"1","status":"active","content":"complete","caseSensitive":true,"valueSet":"urn:animals-all",
	"property":[{"code":"legs","type":"integer"}],"concept":[
	{"code":"animal","display":"Animal","concept":[
		{"code":"bird","display":"Bird","property":[{"code":"legs","valueInteger":2}],"concept":[{"code":"owl","display":"Owl","property":[{"code":"legs","valueInteger":2}]}]},
		{"code":"cat","display":"Cat","designation":[{"language":"de","value":"Katze"}],"property":[{"code":"legs","valueInteger":4}]}]},
	{"code":"bat","display":"Bat","property":[{"code":"parent","valueCode":"animal"},{"code":"inactive","valueBoolean":true}]}]`

func codesOf(t *testing.T, s *terminology.Service, compose string) string {
	t.Helper()
	v, err := terminology.ParseValueSet([]byte(`{"resourceType":"ValueSet","status":"active",` + compose + `}`))
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.Codes(t.Context(), v)
	if err != nil {
		var e *fhir.Error
		if e, _ = err.(*fhir.Error); e == nil {
			t.Fatal(err)
		}
		return e.Issues[0].Code
	}
	var out []string
	for _, c := range list {
		_, in, err := s.Has(t.Context(), v, c.System, c.Code)
		if err != nil || !in {
			t.Errorf("%s: %s is in the expansion, and is not in the set: %v", compose, c.Code, err)
		}
		out = append(out, c.Code)
	}
	return strings.Join(out, " ")
}

func TestExpansion(t *testing.T) {
	st, s := open(t)
	put(t, st, "CodeSystem", "animals", animals)
	put(t, st, "CodeSystem", "empty", `"url":"urn:empty","content":"not-present"`)
	put(t, st, "CodeSystem", "parts", `"url":"urn:parts","content":"complete","hierarchyMeaning":"part-of","concept":[{"code":"x"}]`)
	filter := func(property, op, value string) string {
		return `"compose":{"include":[{"system":"urn:animals","filter":[{"property":"` + property + `","op":"` +
			op + `","value":"` + value + `"}]}]}`
	}
	for compose, want := range map[string]string{
		`"compose":{"include":[{"system":"urn:animals"}]}`:                                                                 "animal bird owl cat bat",
		`"compose":{"inactive":false,"include":[{"system":"urn:animals"}]}`:                                                "animal bird owl cat",
		`"compose":{"include":[{"system":"urn:animals","concept":[{"code":"owl"},{"code":"cat"}]}]}`:                       "owl cat",
		`"compose":{"include":[{"system":"urn:animals"}],"exclude":[{"system":"urn:animals","concept":[{"code":"owl"}]}]}`: "animal bird cat bat",
		`"compose":{"include":[{"system":"http://loinc.org","concept":[{"code":"8867-4"}]}]}`:                              "8867-4",
		`"compose":{"include":[{"system":"http://loinc.org"}]}`:                                                            "not-supported",
		`"compose":{"include":[{"system":"urn:empty"}]}`:                                                                   "not-supported",
		`"compose":{"include":[{"valueSet":["http://hl7.org/fhir/ValueSet/action-cardinality-behavior"]}]}`:                "multiple single",
		`"compose":{"include":[{"system":"urn:animals","valueSet":["urn:animals-all"]}]}`:                                  "animal bird owl cat bat",
		`"compose":{"include":[{"valueSet":["urn:nothing"]}]}`:                                                             "not-supported",
		`"expansion":{"contains":[{"system":"urn:x","code":"a","contains":[{"system":"urn:x","code":"b"}]}]}`:              "a b",
		`"name":"X"`:                                      "not-supported",
		filter("concept", "is-a", "bird"):                 "bird owl",
		filter("concept", "descendent-of", "animal"):      "bird owl cat bat",
		filter("concept", "is-not-a", "bird"):             "animal cat bat",
		filter("concept", "generalizes", "owl"):           "animal bird owl",
		filter("concept", "is-a", "dog"):                  "not-supported",
		filter("legs", "=", "2"):                          "bird owl",
		filter("legs", "in", "4, 5"):                      "cat",
		filter("legs", "not-in", "2"):                     "animal cat bat",
		filter("legs", "exists", "true"):                  "bird owl cat",
		filter("legs", "exists", "false"):                 "animal bat",
		filter("code", "regex", "b.*"):                    "bird bat",
		filter("code", "regex", "("):                      "not-supported",
		filter("code", "regex", strings.Repeat("a", 501)): "not-supported",
		filter("wings", "=", "2"):                         "not-supported",
		filter("legs", "near", "2"):                       "not-supported",
		`"compose":{"include":[{"system":"urn:parts","filter":[{"property":"concept","op":"is-a","value":"x"}]}]}`: "not-supported",
	} {
		if got := codesOf(t, s, compose); got != want {
			t.Errorf("%s: %s, want %s", compose, got, want)
		}
	}
}

// TestHasAgrees tests that membership and expansion agree, for random value sets.
func TestHasAgrees(t *testing.T) {
	st, s := open(t)
	put(t, st, "CodeSystem", "animals", animals)
	all := []string{"animal", "bird", "owl", "cat", "bat", "dog"}
	rapid.Check(t, func(t *rapid.T) {
		part := func() string {
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				return `{"system":"urn:animals"}`
			case 1:
				return `{"valueSet":["urn:animals-all"]}`
			case 2:
				return `{"system":"urn:animals","filter":[{"property":"concept","op":"` +
					rapid.SampledFrom([]string{"is-a", "descendent-of", "is-not-a", "generalizes"}).Draw(t, "op") +
					`","value":"` +
					rapid.SampledFrom(all[:5]).Draw(t, "of") + `"}]}`
			}
			return `{"system":"urn:animals","concept":[{"code":"` + rapid.SampledFrom(all).Draw(t, "code") + `"}]}`
		}
		list := func(what string, least int) string {
			var out []string
			for range rapid.IntRange(least, 3).Draw(t, what) {
				out = append(out, part())
			}
			return "[" + strings.Join(out, ",") + "]"
		}
		body := `{"compose":{"inactive":` + rapid.SampledFrom([]string{"true", "false"}).Draw(t, "inactive") +
			`,"include":` +
			list("include", 1) + `,"exclude":` + list("exclude", 0) + `}}`
		v, err := terminology.ParseValueSet([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		codes, err := s.Codes(context.Background(), v)
		if err != nil {
			t.Fatal(err)
		}
		for _, code := range all {
			expanded := slices.ContainsFunc(codes, func(c terminology.Code) bool { return c.Code == code })
			for _, system := range []string{"urn:animals", ""} {
				_, in, err := s.Has(context.Background(), v, system, code)
				if err != nil || in != expanded {
					t.Fatalf("%s: %s %s: in the set %v, in the expansion %v, %v", body, system, code, in, expanded, err)
				}
			}
		}
	})
}

func TestLimits(t *testing.T) {
	_, s := open(t)
	deep := `{"compose":{"include":[{"valueSet":["urn:a"]}]}}`
	v, err := terminology.ParseValueSet([]byte(deep))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Codes(t.Context(), v); fhir.KindOf(err) != fhir.Unprocessable {
		t.Error(err)
	}
	var list []string
	for i := range terminology.MaxCodes + 1 {
		list = append(list, fmt.Sprintf(`{"code":"%d"}`, i))
	}
	v, err = terminology.ParseValueSet([]byte(`{"compose":{"include":[{"system":"urn:x","concept":[` +
		strings.Join(list, ",") + `]}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Codes(t.Context(), v); fhir.KindOf(err) != fhir.TooCostly {
		t.Error(err)
	}
	if _, in, err := s.Has(t.Context(), v, "urn:x", "7"); !in || err != nil {
		t.Error(in, err)
	}
}

// TestCommitsAreSeen tests that an answer is never older than the last commit, and that
// the newest version counts.
func TestCommitsAreSeen(t *testing.T) {
	st, s := open(t)
	system := func() string {
		c, err := s.CodeSystem(t.Context(), "urn:x", "")
		if err != nil {
			t.Fatal(err)
		}
		if c == nil {
			return "none"
		}
		return c.Version
	}
	if got := system(); got != "none" {
		t.Error(got)
	}
	put(t, st, "CodeSystem", "a", `"url":"urn:x","version":"2.9","content":"complete"`)
	put(t, st, "CodeSystem", "b", `"url":"urn:x","version":"2.10","content":"complete"`)
	if got := system(); got != "2.10" {
		t.Error(got)
	}
	if c, err := s.CodeSystem(t.Context(), "urn:x|2.9", ""); err != nil || c == nil || c.Ref.ID != "a" {
		t.Error(c, err)
	}
	put(t, st, "CodeSystem", "b", `"url":"urn:other","version":"2.10","content":"complete"`)
	if got := system(); got != "2.9" {
		t.Error(got)
	}
	if _, err := st.Commit(t.Context(), &store.Batch{Writes: []store.Write{{Op: store.Remove,
		Resource: fhir.Resource{Type: "CodeSystem", ID: "a"}}}}); err != nil {
		t.Fatal(err)
	}
	if got := system(); got != "none" {
		t.Error(got)
	}
	again, err := terminology.New(t.Context(), st, base) // what is stored before is found
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if c, err := again.CodeSystem(t.Context(), "urn:other", ""); err != nil || c == nil {
		t.Error(c, err)
	}
}

func TestSearchValueSets(t *testing.T) {
	st, s := open(t)
	put(t, st, "CodeSystem", "animals", animals)
	if codes, ok := s.Expand("urn:animals-all"); !ok || len(codes) != 5 {
		t.Error(codes, ok)
	}
	if codes, ok := s.Expand("http://hl7.org/fhir/ValueSet/administrative-gender|4.0.1"); !ok || len(codes) != 4 {
		t.Error(codes, ok)
	}
	if _, ok := s.Expand("urn:nothing"); ok {
		t.Error("an unknown value set has an expansion")
	}
	below, ok := s.Below("urn:animals", "bird")
	if fmt.Sprint(below, ok) != "[bird owl] true" {
		t.Error(below, ok)
	}
	above, ok := s.Above("urn:animals", "owl")
	if fmt.Sprint(above, ok) != "[animal bird owl] true" {
		t.Error(above, ok)
	}
	for _, c := range []element.Coding{{System: "urn:animals", Code: "dog"},
		{System: "http://loinc.org", Code: "8867-4"},
		{System: "http://hl7.org/fhir/administrative-gender", Code: "male"}} {
		if _, ok := s.Below(c.System, c.Code); ok {
			t.Errorf("%v has codes below", c)
		}
	}
}

func TestFHIRPath(t *testing.T) {
	st, s := open(t)
	put(t, st, "CodeSystem", "animals", animals)
	env := &fhirpath.Env{MemberOf: s.MemberOf, Subsumes: s.Subsumes}
	var doc fhirpath.Document
	if err := doc.Reset([]byte(`{"resourceType":"Observation","status":"final","code":{"coding":[{"system":"urn:animals","code":"owl"}]},"valueCodeableConcept":{"coding":[{"system":"urn:animals","code":"bird"}]},"category":[{"coding":[{"code":"owl"}]}]}`)); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		`Observation.code.memberOf('urn:animals-all')`:        "true",
		`Observation.code.coding.memberOf('urn:animals-all')`: "true",
		// without a system
		`Observation.category.memberOf('urn:animals-all')`:                                  "false",
		`Observation.status.memberOf('http://hl7.org/fhir/ValueSet/observation-status')`:    "true",
		`Observation.status.memberOf('http://hl7.org/fhir/ValueSet/administrative-gender')`: "false",
		`Observation.code.memberOf('urn:nothing')`:                                          "error",
		`Observation.value.subsumes(Observation.code)`:                                      "true",
		`Observation.code.subsumes(Observation.value)`:                                      "false",
		`Observation.code.coding.subsumedBy(Observation.value.coding)`:                      "true",
		`Observation.status.subsumes(Observation.status)`:                                   "error",
	} {
		e, err := fhirpath.Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		holds, err := e.Test(t.Context(), doc.Root(), env)
		got := fmt.Sprint(holds)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: %s (%v), want %s", text, got, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("{" + animals + "}"))
	f.Add([]byte(`{"compose":{"include":[{"system":"urn:x","filter":[{"property":"concept","op":"is-a","value":"x"}]}]}}`))
	f.Add([]byte(`{"group":[{"source":"a","target":"b","element":[{"code":"x","target":[{"code":"y","equivalence":"wider"}]}],"unmapped":{"mode":"fixed","code":"z"}}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if s, err := terminology.ParseCodeSystem(body); err == nil {
			for i := range s.Concepts {
				if s.Concept(s.Concepts[i].Code) == nil {
					t.Fatal("a concept is not found by its code")
				}
			}
		}
		if _, err := terminology.ParseValueSet(body); err != nil && fhir.KindOf(err) != fhir.Invalid {
			t.Fatal(err)
		}
		if m, err := terminology.ParseConceptMap(body); err == nil {
			if _, err := m.Translate(element.Coding{System: "a", Code: "x"}, terminology.Translation{}); err != nil &&
				fhir.KindOf(err) != fhir.Unprocessable {
				t.Fatal(err)
			}
		}
	})
}
