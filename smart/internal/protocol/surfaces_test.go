package protocol

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/store"
	"pulsegate/smart/authorize"
	"pulsegate/smart/client"
)

// thing is what the interpreter knows of a stored resource.
type thing struct{ typ, id, patient, category string }

var things = []thing{ // read only
	{"Patient", "p1", "p1", ""}, {"Patient", "p2", "p2", ""}, {"Practitioner", "d1", "", ""},
	{"Observation", "o1", "p1", "vital-signs"}, {"Observation", "o2", "p1", "laboratory"}, {"Observation", "o3", "p2", "vital-signs"},
}

// person is one who signs in, with what the roles of these tests let see.
type person struct {
	subject authorize.Subject
	own     string // the only compartment; "" no limit
	types   []string
}

var persons = []person{ // read only
	{authorize.Subject{ID: "u1", FHIRUser: fhir.Ref{Type: "Practitioner", ID: "d1"}, Roles: []string{"practitioner"}}, "", []string{"Patient", "Observation", "Practitioner"}},
	{authorize.Subject{ID: "u2", FHIRUser: fhir.Ref{Type: "Practitioner", ID: "d1"}, Roles: []string{"reader"}}, "", []string{"Patient", "Observation"}},
	{authorize.Subject{ID: "u3", FHIRUser: fhir.Ref{Type: "Patient", ID: "p1"}, Roles: []string{"patient"}}, "p1", []string{"Patient", "Observation"}},
}

// sees reads the scopes as text: may the person do it ("r" or "s") with x?
func sees(p person, scopes []string, do string, x thing, context string, agreed map[string]bool) bool {
	if x.typ == "Observation" && !agreed[x.patient] {
		return false
	}
	for _, s := range scopes {
		if s == "fhirUser" && do == "r" && p.subject.FHIRUser.String() == x.typ+"/"+x.id {
			return true
		}
		level, rest, ok := strings.Cut(s, "/")
		head, query, _ := strings.Cut(rest, "?")
		typ, perm, _ := strings.Cut(head, ".")
		if perm == "read" {
			perm = "rs"
		}
		if !ok || typ != "*" && typ != x.typ || !strings.Contains(perm, do) || !slices.Contains(p.types, x.typ) ||
			query != "" && !strings.HasSuffix(query, x.category) {
			continue
		}
		if level == "patient" && x.patient == context || level == "user" && (p.own == "" || p.own == x.patient) {
			return true
		}
	}
	return false
}

// Read, version read, history, search, count and _include of random tokens
// under random consents show what the interpreter says, and nothing else.
func TestSurfacesAgree(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	const category = "?category=http://terminology.hl7.org/CodeSystem/observation-category|"
	resources := []string{"patient/*.rs", "patient/*.read", "patient/Observation.rs", "patient/Observation.r", "patient/Observation.s", "patient/Patient.rs",
		"patient/Observation.rs" + category + "laboratory", "user/Observation.rs" + category + "vital-signs", "user/*.rs", "user/Patient.r", "user/Practitioner.rs", "user/Observation.read"}
	agree := func(patient string, yes bool) {
		r := must(consent.Grant(consent.Terms{ID: "c-" + patient, Patient: patient, Recipient: consent.AnyRecipient, Now: w.clock.now()}))
		if !yes {
			r = must(consent.Withdraw(r))
		}
		must(w.store.Commit(context.Background(), &store.Batch{Writes: []store.Write{{Resource: r}}}))
	}
	seen := map[int]int{}
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SampledFrom(persons).Draw(t, "person")
		scopes := append([]string{"openid", "fhirUser", "launch/patient"}, rapid.SliceOfNDistinct(rapid.SampledFrom(resources), 1, 3, rapid.ID).Draw(t, "scopes")...)
		agreed := map[string]bool{"p1": rapid.Bool().Draw(t, "p1 agrees"), "p2": rapid.Bool().Draw(t, "p2 agrees")}
		for patient, yes := range agreed {
			agree(patient, yes)
		}
		patient := "p1"
		if p.own == "" {
			patient = rapid.SampledFrom([]string{"p1", "p2"}).Draw(t, "context")
		}
		w.subject = p.subject
		w.subject.AuthTime = w.clock.now()
		w.decide = func(q *authorize.Pending) authorize.Decision {
			return authorize.Decision{Subject: w.subject, Patient: patient, Scopes: strings.Fields(q.Scopes.String())}
		}
		tok := w.get(c, strings.Join(scopes, " "))["access_token"]
		for _, x := range things {
			want := sees(p, scopes, "r", x, patient, agreed)
			for _, path := range []string{"", "/_history/1", "/_history"} {
				got := w.read(tok, x.typ+"/"+x.id+path)
				if seen[got]++; (got == 200) != want || !want && got != 404 && got != 403 {
					t.Fatalf("%v %v in %s under %v: %s/%s%s is %d, want %v", p.subject.Roles, scopes, patient, agreed, x.typ, x.id, path, got, want)
				}
			}
		}
		for _, typ := range []string{"Patient", "Observation", "Practitioner"} {
			var want []string
			for _, x := range things {
				if x.typ == typ && sees(p, scopes, "s", x, patient, agreed) {
					want = append(want, typ+"/"+x.id)
				}
			}
			status, all := w.fetch(tok, typ)
			if status == 403 {
				if len(want) > 0 {
					t.Fatalf("%v: search of %s is refused, want %v", scopes, typ, want)
				}
				continue
			}
			got, _ := found(all)
			_, count := w.fetch(tok, typ+"?_summary=count")
			if status != 200 || !slices.Equal(got, want) || fmt.Sprint(count["total"]) != fmt.Sprint(len(want)) || fmt.Sprint(all["total"]) != fmt.Sprint(len(want)) {
				t.Fatalf("%v %v in %s under %v: search of %s: %v, total %v and %v, want %v", p.subject.Roles, scopes, patient, agreed, typ, got, all["total"], count["total"], want)
			}
			if typ != "Observation" {
				continue
			}
			_, more := w.fetch(tok, "Observation?_include=Observation:subject")
			_, included := found(more)
			for _, ref := range included {
				x := things[slices.IndexFunc(things, func(x thing) bool { return x.typ+"/"+x.id == ref })]
				if !sees(p, scopes, "r", x, patient, agreed) && !sees(p, scopes, "s", x, patient, agreed) {
					t.Fatalf("%v in %s: _include shows %s", scopes, patient, ref)
				}
			}
		}
	})
	if seen[200] == 0 || seen[403] == 0 || seen[404] == 0 {
		t.Error("not every answer was seen:", seen)
	}
}

// found is the matches and the included of a searchset.
func found(b m) (match, include []string) {
	entries, ok := b["entry"].([]any)
	if !ok {
		return nil, nil
	}
	for _, e := range entries {
		r, mode := e.(m)["resource"].(m), e.(m)["search"].(m)["mode"]
		ref := fmt.Sprint(r["resourceType"], "/", r["id"])
		if mode == "include" {
			include = append(include, ref)
		} else {
			match = append(match, ref)
		}
	}
	sort.Strings(match)
	return match, include
}
