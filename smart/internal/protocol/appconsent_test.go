package protocol

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/smart/appconsent"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/authorize"
	"pulsegate/smart/oauth/introspect"
)

// addPatient stores a patient, a device and Observations. A Consent permits an
// EHR only, so that an app has access only after the patient's approval.
func (w *world) addPatient(id string) {
	put := func(typ, resourceID, rest string) store.Write {
		return store.Write{Vendor: "apple",
			Resource: fhir.Resource{Type: typ, ID: resourceID,
				JSON: []byte(fhir.Prefix(typ, resourceID) + `}` + rest + `}`)}}
	}
	b := &store.Batch{Writes: []store.Write{put("Patient", id, ""),
		put("Device", id+"-watch", `,"patient":{"reference":"Patient/`+id+`"}`)}}
	b.Writes[0].Vendor = ""
	for _, category := range []string{"vital-signs", "laboratory"} {
		b.Writes = append(b.Writes, put("Observation", id+"-"+category,
			`,"status":"final","category":[{"coding":[{"system":"`+categorySystem+`","code":"`+category+
				`"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},`+
				`"subject":{"reference":"Patient/`+id+`"},"effectiveDateTime":"2026-01-02T03:04:05Z"`))
	}
	b.Writes = append(b.Writes, store.Write{Resource: must(consent.Build(consent.Terms{ID: "ehr-" + id, Patient: id,
		Vendor: "apple", Recipient: "ehr", Now: w.clock.now()}))})
	must(w.store.Commit(context.Background(), b))
}

// signInPatient makes a patient the person who signs in.
func (w *world) signInPatient(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.subject = authorize.Subject{ID: "u-" + id, FHIRUser: fhir.Ref{Type: "Patient", ID: id},
		Roles: []string{"patient"}, AuthTime: w.clock.now()}
}

// observations returns the IDs of the Observations that a search with the token
// returns, or the status if the search fails.
func (w *world) observations(tok any) string {
	w.t.Helper()
	status, b := w.fetch(tok, "Observation?_sort=_id")
	if status != 200 {
		return fmt.Sprint(status)
	}
	var ids []string
	entries, _ := b["entry"].([]any)
	for _, e := range entries {
		ids = append(ids, e.(m)["resource"].(m)["id"].(string))
	}
	return strings.Join(ids, " ")
}

// authorizations returns the live authorizations of a person.
func (w *world) authorizations(subject string) []authz.Authorization {
	return must(w.tokens.Authorizations(context.Background(), subject))
}

// consentOf returns the Consent of an authorization, or nil if there is none.
func (w *world) consentOf(id string) m {
	r, _, err := w.store.Read(context.Background(), appconsent.Ref(id), 0)
	if fhir.KindOf(err) == fhir.NotFound && err != nil {
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	var out m
	if err := json.Unmarshal(r.JSON, &out); err != nil {
		w.t.Fatal(err)
	}
	return out
}

// countEvents returns the number of AuditEvents of an interaction with a
// resource.
func (w *world) countEvents(interaction, ref string) (n int) {
	w.t.Helper()
	q := must(search.Parse("AuditEvent", [][2]string{{"_count", "1000"}}, search.ParseOptions{}))
	err := w.store.Find(context.Background(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool {
			if s := string(f.Resource.JSON); strings.Contains(s, `"code":"`+interaction+`"`) &&
				strings.Contains(s, ref) {
				n++
			}
			return true
		})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// TestApprovalCreatesConsent checks that the scopes that a patient approves
// determine the app's access, that a Consent documents them, and that the
// access ends with the authorization.
func TestApprovalCreatesConsent(t *testing.T) {
	w := newWorld(t)
	w.addPatient("w1")
	c := w.app(client.None, nil)
	w.signInPatient("w1")
	w.decide = func(p *authorize.Pending) authorize.Decision { // narrows the scopes
		return authorize.Decision{Subject: w.subject,
			Scopes: []string{"patient/Observation.rs?category=" + categorySystem + "|vital-signs", "offline_access"}}
	}
	out := w.authorize(c, "offline_access patient/*.rs")
	if got := w.observations(out["access_token"]); got != "w1-vital-signs" {
		t.Fatalf("the app reads %q", got)
	}
	if s := w.read(out["access_token"], "Device?patient=w1"); s != 403 {
		t.Errorf("search of Devices: %d", s)
	}
	id := w.authorizations("u-w1")[0].ID
	doc := w.consentOf(id)
	provision, _ := doc["provision"].(m)
	if doc["status"] != "active" || doc["patient"].(m)["reference"] != "Patient/w1" ||
		fmt.Sprint(provision["class"]) != "[map[code:Observation system:http://hl7.org/fhir/resource-types]]" ||
		!strings.Contains(fmt.Sprint(provision["extension"]), "|vital-signs") ||
		!strings.Contains(fmt.Sprint(doc["text"]), "only vital signs") {
		t.Errorf("%v", doc)
	}
	end := must(time.Parse(time.RFC3339, provision["period"].(m)["end"].(string)))
	if longest := w.authorizations("u-w1")[0].Expires; end.Before(longest.Add(-2*time.Second)) ||
		end.After(longest.Add(authz.CodeLife)) {
		t.Errorf("the Consent ends at %s, the authorization at %s", end, longest)
	}
	if n := w.countEvents("create", "Consent/app-"+id); n != 1 {
		t.Errorf("%d AuditEvents of the creation", n)
	}

	// The Consent gives a practitioner's token of the same app no access.
	w.decide = nil
	w.subject = authorize.Subject{ID: "u1", FHIRUser: fhir.Ref{Type: "Practitioner", ID: "d1"},
		Roles: []string{"practitioner"}, AuthTime: w.clock.now()}
	doctor := w.authorize(c, "user/*.rs")
	if got := w.observations(doctor["access_token"]); strings.Contains(got, "w1") {
		t.Errorf("the practitioner's token reads %q", got)
	}
	if a := w.authorizations("u1"); len(a) != 1 || w.consentOf(a[0].ID) != nil {
		t.Error("a practitioner's approval created a Consent")
	}

	// A denial takes precedence over earlier and later approvals.
	deny := fhir.Resource{Type: "Consent", ID: "deny",
		JSON: []byte(fhir.Prefix("Consent", "deny") +
			`},"status":"active","scope":{"coding":[` +
			`{"system":"http://terminology.hl7.org/CodeSystem/consentscope","code":"patient-privacy"}]},` +
			`"patient":{"reference":"Patient/w1"},"provision":{"type":"deny","code":[{"coding":[{"system":"` +
			categorySystem + `","code":"vital-signs"}]}]}}`)}
	must(w.store.Commit(context.Background(), &store.Batch{Writes: []store.Write{{Resource: deny}}}))
	if got := w.observations(out["access_token"]); got != "" {
		t.Errorf("the app reads %q despite a denial", got)
	}
	w.signInPatient("w1")
	again := w.authorize(c, "patient/Observation.rs")
	if got := w.observations(again["access_token"]); got != "w1-laboratory" {
		t.Errorf("after a later approval the app reads %q despite a denial", got)
	}
	must(w.store.Commit(context.Background(), &store.Batch{Writes: []store.Write{{Op: store.Remove, Resource: deny}}}))
	if got := w.observations(out["access_token"]); got != "w1-vital-signs" {
		t.Errorf("the app reads %q after the denial was removed", got)
	}

	if err := w.tokens.Revoke(context.Background(), audit.Caller{}, "u-w1", id); err != nil {
		t.Fatal(err)
	}
	if s := w.read(out["access_token"], "Observation/w1-vital-signs"); s != 401 {
		t.Errorf("read after the revocation: %d", s)
	}
	if doc := w.consentOf(id); doc["status"] != "inactive" {
		t.Errorf("after the revocation the Consent is %v", doc["status"])
	}
	if n := w.countEvents("update", "Consent/app-"+id); n != 1 {
		t.Errorf("%d AuditEvents of the end", n)
	}
	if got := w.observations(again["access_token"]); got != "w1-laboratory w1-vital-signs" {
		t.Errorf("with the other authorization the app reads %q", got)
	}
}

// TestConsentEndsWithAuthorization checks that the Consent ends when the
// authorization is revoked, when a refresh token is reused, and at the end of
// the authorization, and that a withdrawn Consent ends the access.
func TestConsentEndsWithAuthorization(t *testing.T) {
	w := newWorld(t)
	w.addPatient("w1")
	w.signInPatient("w1")
	c := w.app(client.None, nil)
	open := func() (string, m) {
		out := w.authorize(c, "offline_access patient/Observation.rs")
		id := w.authorizations("u-w1")[0].ID
		if w.observations(out["access_token"]) == "" || w.consentOf(id)["status"] != "active" {
			t.Fatal("the app has no access")
		}
		return id, out
	}
	ended := func(name, id string, out m) {
		t.Helper()
		if s := w.consentOf(id)["status"]; s != "inactive" {
			t.Errorf("%s: the Consent is %v", name, s)
		}
		if s := w.read(out["access_token"], "Observation/w1-vital-signs"); s != 401 {
			t.Errorf("%s: %d", name, s)
		}
	}
	id, out := open()
	if s, _, _ := w.postForm(introspect.RevokePath, c, url.Values{"token": {out["refresh_token"].(string)}},
		nil); s != 200 {
		t.Fatal(s)
	}
	ended("revocation", id, out)

	id, out = open()
	if s, _ := w.refresh(c, out["refresh_token"], nil); s != 200 {
		t.Fatal(s)
	}
	w.clock.add(time.Minute)
	if s, _ := w.refresh(c, out["refresh_token"], nil); s != 400 {
		t.Fatal(s)
	}
	ended("reuse", id, out)

	// A withdrawal ends the access while the authorization is still valid.
	id, out = open()
	r, _, err := w.store.Read(context.Background(), appconsent.Ref(id), 0)
	if err != nil {
		t.Fatal(err)
	}
	must(w.store.Commit(context.Background(),
		&store.Batch{Writes: []store.Write{{Resource: must(consent.Withdraw(r))}}}))
	if got := w.observations(out["access_token"]); got != "" {
		t.Errorf("after the withdrawal the app reads %q", got)
	}
	if err := w.tokens.Revoke(context.Background(), audit.Caller{}, "u-w1", id); err != nil {
		t.Errorf("revocation after a withdrawal: %v", err)
	}

	// Without a refresh token, the Consent ends with the access token.
	out = w.authorize(c, "patient/Observation.rs")
	id = w.authorizations("u-w1")[0].ID
	end := must(time.Parse(time.RFC3339, w.consentOf(id)["provision"].(m)["period"].(m)["end"].(string)))
	if left := end.Sub(w.clock.now()); left > 17*time.Minute {
		t.Errorf("the Consent without offline access lasts %s", left)
	}
	if got := w.observations(out["access_token"]); got != "w1-laboratory w1-vital-signs" {
		t.Errorf("the app reads %q", got)
	}
	w.clock.add(16*time.Minute + 10*time.Second)
	if s := w.read(out["access_token"], "Observation"); s != 401 {
		t.Errorf("read after the end: %d", s)
	}
}

// countConsents returns the number of a patient's Consents for apps.
func (w *world) countConsents(patient string) (n int) {
	w.t.Helper()
	q := must(search.Parse("Consent", [][2]string{{"patient", patient}}, search.ParseOptions{}))
	if err := w.store.Find(context.Background(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool {
			if strings.HasPrefix(f.Resource.ID, appconsent.Ref("").ID) {
				n++
			}
			return true
		}); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// TestApprovalWithoutRedemption checks that a code without redemption creates
// no Consent, before and after its expiry, and that a redemption creates the
// Consent together with the token, even in the last second.
func TestApprovalWithoutRedemption(t *testing.T) {
	w := newWorld(t)
	w.addPatient("w1")
	w.signInPatient("w1")
	c := w.app(client.None, nil)
	noConsent := func(name string) {
		t.Helper()
		if n, created := w.countConsents("w1"), w.countEvents("create", "Consent/app-"); n != 0 || created != 0 {
			t.Errorf("%s: %d Consents, %d AuditEvents of a creation", name, n, created)
		}
	}
	code := w.code(c, "offline_access patient/Observation.rs", nil)
	noConsent("after the approval")
	if s, out, _ := w.redeem(c, code, url.Values{"code_verifier": {strings.Repeat("x", 43)}}); s != 400 {
		t.Fatal(s, out)
	}
	noConsent("after a refused redemption")
	w.clock.add(authz.CodeLife)
	if s, out, _ := w.redeem(c, code, nil); s != 400 || out["error"] != "invalid_grant" {
		t.Fatal(s, out)
	}
	noConsent("after the expiry")
	w.reopen()
	w.clock.add(2 * time.Hour) // the code is no longer stored
	noConsent("after the code was removed")

	w.signInPatient("w1")
	code = w.code(c, "offline_access patient/Observation.rs", nil)
	w.clock.add(authz.CodeLife - time.Second)
	s, out, _ := w.redeem(c, code, nil)
	if s != 200 || w.observations(out["access_token"]) != "w1-laboratory w1-vital-signs" || w.countConsents("w1") != 1 {
		t.Fatal(s, out, w.countConsents("w1"))
	}
	id := w.authorizations("u-w1")[0].ID
	if s, _, _ := w.redeem(c, code, nil); s != 400 || w.consentOf(id)["status"] != "inactive" {
		t.Error("after a second redemption the Consent is", w.consentOf(id)["status"])
	}

	// A withdrawal between approval and redemption takes precedence.
	all := must(consent.Build(consent.Terms{ID: "all-w1", Patient: "w1", Vendor: "apple",
		Recipient: consent.AnyRecipient, Now: w.clock.now()}))
	must(w.store.Commit(context.Background(), &store.Batch{Writes: []store.Write{{Resource: all}}}))
	code = w.code(c, "patient/Observation.rs", nil)
	w.clock.add(10 * time.Second)
	must(w.store.Commit(context.Background(),
		&store.Batch{Writes: []store.Write{{Resource: must(consent.Withdraw(all))}}}))
	w.clock.add(10 * time.Second)
	if s, out, _ := w.redeem(c, code, nil); s != 200 || w.observations(out["access_token"]) != "" {
		t.Error("after a withdrawal before the redemption the app reads", s, w.observations(out["access_token"]))
	}
}
