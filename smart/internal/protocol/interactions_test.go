package protocol

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/store"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/authorize"
)

// modelResource holds the facts about a stored resource that the model uses.
type modelResource struct{ typ, id, patient, category string }

func (r modelResource) ref() string { return r.typ + "/" + r.id }

var modelResources = []modelResource{ // read only
	{"Patient", "p1", "p1", ""}, {"Patient", "p2", "p2", ""}, {"Practitioner", "d1", "", ""},
	{"Observation", "o1", "p1", "vital-signs"}, {"Observation", "o2", "p1", "laboratory"},
	{"Observation", "o3", "p2", "vital-signs"},
}

// person is a person who signs in, with the resources that the role gives
// access to.
type person struct {
	subject     authorize.Subject
	compartment string // ID of the only readable Patient compartment, or ""
	types       []string
}

var persons = []person{ // read only
	{authorize.Subject{ID: "u1", FHIRUser: fhir.Ref{Type: "Practitioner", ID: "d1"},
		Roles: []string{"practitioner"}}, "", []string{"Patient", "Observation", "Practitioner"}},
	{authorize.Subject{ID: "u2", FHIRUser: fhir.Ref{Type: "Practitioner", ID: "d1"}, Roles: []string{"reader"}}, "",
		[]string{"Patient", "Observation"}},
	{authorize.Subject{ID: "u3", FHIRUser: fhir.Ref{Type: "Patient", ID: "p1"}, Roles: []string{"patient"}}, "p1",
		[]string{"Patient", "Observation"}},
}

// consentState describes the Consent of a patient that permits any recipient.
// The approval of the app by the patient counts after an earlier withdrawal,
// but not against a later withdrawal or a denial.
type consentState string

const (
	permitted       consentState = "permitted"
	withdrawnBefore consentState = "withdrawn before the approval"
	withdrawnAfter  consentState = "withdrawn after the approval"
	denied          consentState = "denied"
)

var consentStates = []consentState{permitted, permitted, withdrawnBefore, withdrawnAfter, denied} // read only

// allows is the model. It reads the scopes as text and reports whether the
// person may read ("r") or search ("s") the resource with patient in context.
func allows(p person, scopes []string, interaction string, r modelResource, patient string,
	consents map[string]consentState) bool {
	if r.typ == "Observation" && consents[r.patient] != permitted &&
		(consents[r.patient] != withdrawnBefore || p.compartment != r.patient) {
		return false
	}
	for _, s := range scopes {
		if s == "fhirUser" && interaction == "r" && p.subject.FHIRUser.String() == r.ref() {
			return true
		}
		level, rest, ok := strings.Cut(s, "/")
		head, query, _ := strings.Cut(rest, "?")
		typ, perm, _ := strings.Cut(head, ".")
		if perm == "read" {
			perm = "rs"
		}
		if !ok || typ != "*" && typ != r.typ || !strings.Contains(perm, interaction) ||
			!slices.Contains(p.types, r.typ) || query != "" && !strings.HasSuffix(query, r.category) {
			continue
		}
		if level == "patient" && r.patient == patient ||
			level == "user" && (p.compartment == "" || p.compartment == r.patient) {
			return true
		}
	}
	return false
}

// tokenCase is a token request by a person, and the state of the patients'
// Consents.
type tokenCase struct {
	person   person
	scopes   []string
	consents map[string]consentState // by patient
	patient  string                  // in context
}

var tokenCases = rapid.Custom(func(t *rapid.T) tokenCase { // read only
	const category = "?category=" + categorySystem + "|"
	resources := []string{"patient/*.rs", "patient/*.read", "patient/Observation.rs", "patient/Observation.r",
		"patient/Observation.s", "patient/Patient.rs",
		"patient/Observation.rs" + category + "laboratory", "user/Observation.rs" + category + "vital-signs",
		"user/*.rs", "user/Patient.r", "user/Practitioner.rs", "user/Observation.read"}
	return tokenCase{
		rapid.SampledFrom(persons).Draw(t, "person"),
		rapid.SliceOfNDistinct(rapid.SampledFrom(resources), 1, 3, rapid.ID).Draw(t, "scopes"),
		map[string]consentState{"p1": rapid.SampledFrom(consentStates).Draw(t, "p1"),
			"p2": rapid.SampledFrom(consentStates).Draw(t, "p2")},
		rapid.SampledFrom([]string{"p1", "p2"}).Draw(t, "patient"),
	}
})

// TestInteractionsMatchModel checks read, vread, history, search, counts and
// _include with random scopes, persons and Consents against the model.
func TestInteractionsMatchModel(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	storeConsent := func(patient string, state consentState, approved bool) {
		r := must(consent.Build(consent.Terms{ID: "c-" + patient, Patient: patient, Recipient: consent.AnyRecipient,
			Now: w.clock.now()}))
		switch {
		case state == withdrawnBefore, state == withdrawnAfter && approved:
			r = must(consent.Withdraw(r))
		case state == denied:
			r.JSON = bytes.Replace(r.JSON, []byte(`"type":"permit"`), []byte(`"type":"deny"`), 1)
		}
		must(w.store.Commit(context.Background(), &store.Batch{Writes: []store.Write{{Resource: r}}}))
		w.clock.add(time.Second)
	}
	statuses := map[int]int{} // number of responses by status
	byApproval := 0           // number of reads that only the approval permits
	check := func(t interface{ Fatalf(string, ...any) }, tc tokenCase) {
		p, consents, patient := tc.person, tc.consents, tc.patient
		if p.compartment != "" {
			patient = p.compartment
		}
		scopes := append([]string{"openid", "fhirUser", "launch/patient"}, tc.scopes...)
		for _, patient := range []string{"p1", "p2"} {
			storeConsent(patient, consents[patient], false)
		}
		w.subject = p.subject
		w.subject.AuthTime = w.clock.now()
		w.decide = func(pending *authorize.Pending) authorize.Decision {
			return authorize.Decision{Subject: w.subject, Patient: patient,
				Scopes: strings.Fields(pending.Scopes.String())}
		}
		tok := w.authorize(c, strings.Join(scopes, " "))["access_token"]
		w.clock.add(time.Second)
		for patient, state := range consents {
			if state == withdrawnAfter {
				storeConsent(patient, state, true)
			}
		}
		for _, r := range modelResources {
			want := allows(p, scopes, "r", r, patient, consents)
			if want && r.typ == "Observation" && consents[r.patient] != permitted {
				byApproval++
			}
			for _, path := range []string{"", "/_history/1", "/_history"} {
				got := w.read(tok, r.ref()+path)
				if statuses[got]++; (got == 200) != want || !want && got != 404 && got != 403 {
					t.Fatalf("%v %v, patient %s, Consents %v: %s%s is %d, want %v", p.subject.Roles, scopes, patient,
						consents, r.ref(), path, got, want)
				}
			}
		}
		for _, typ := range []string{"Patient", "Observation", "Practitioner"} {
			var want []string
			for _, r := range modelResources {
				if r.typ == typ && allows(p, scopes, "s", r, patient, consents) {
					want = append(want, r.ref())
				}
			}
			status, all := w.fetch(tok, typ)
			if status == 403 {
				if len(want) > 0 {
					t.Fatalf("%v: search of %s is refused, want %v", scopes, typ, want)
				}
				continue
			}
			got, _ := references(all)
			_, count := w.fetch(tok, typ+"?_summary=count")
			if status != 200 || !slices.Equal(got, want) || fmt.Sprint(count["total"]) != fmt.Sprint(len(want)) ||
				fmt.Sprint(all["total"]) != fmt.Sprint(len(want)) {
				t.Fatalf("%v %v, patient %s, Consents %v: search of %s: %v, total %v and %v, want %v", p.subject.Roles,
					scopes, patient, consents, typ, got, all["total"], count["total"], want)
			}
			if typ != "Observation" {
				continue
			}
			_, more := w.fetch(tok, "Observation?_include=Observation:subject")
			_, included := references(more)
			for _, ref := range included {
				r := modelResources[slices.IndexFunc(modelResources,
					func(r modelResource) bool { return r.ref() == ref })]
				if !allows(p, scopes, "r", r, patient, consents) && !allows(p, scopes, "s", r, patient, consents) {
					t.Fatalf("%v, patient %s: _include returns %s", scopes, patient, ref)
				}
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) { check(t, tokenCases.Draw(t, "case")) })
	// Random cases may miss a response. Continue until each has occurred.
	for seed := 0; statuses[200] == 0 || statuses[403] == 0 || statuses[404] == 0 || byApproval == 0; seed++ {
		if seed == 500 {
			t.Fatal("some responses never occurred:", statuses, byApproval)
		}
		check(t, tokenCases.Example(seed))
	}
}

// references returns the matched and the included resources of a searchset.
func references(b m) (match, include []string) {
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
