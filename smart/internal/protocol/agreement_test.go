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

// wearer stores a patient whose data was collected for an EHR only.
func (w *world) wearer(id string) {
	put := func(typ, rid, rest string) store.Write {
		return store.Write{Vendor: "apple",
			Resource: fhir.Resource{Type: typ, ID: rid, JSON: []byte(fhir.Prefix(typ, rid) + `}` + rest + `}`)}}
	}
	b := &store.Batch{Writes: []store.Write{put("Patient", id, ""),
		put("Device", id+"-watch", `,"patient":{"reference":"Patient/`+id+`"}`)}}
	b.Writes[0].Vendor = ""
	for _, c := range []string{"vital-signs", "laboratory"} {
		b.Writes = append(b.Writes, put("Observation", id+"-"+c,
			`,"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"`+c+
				`"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"subject":{"reference":"Patient/`+id+`"},"effectiveDateTime":"2026-01-02T03:04:05Z"`))
	}
	b.Writes = append(b.Writes, store.Write{Resource: must(consent.Build(consent.Terms{ID: "ehr-" + id, Patient: id,
		Vendor: "apple", Recipient: "ehr", Now: w.clock.now()}))})
	must(w.store.Commit(context.Background(), b))
}

func (w *world) signIn(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.subject = authorize.Subject{ID: "u-" + id, FHIRUser: fhir.Ref{Type: "Patient", ID: id},
		Roles: []string{"patient"}, AuthTime: w.clock.now()}
}

// seen is the ids of the Observations that a token sees.
func (w *world) seen(tok any) string {
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

func (w *world) live(subject string) []authz.Authorization {
	return must(w.tokens.Authorizations(context.Background(), subject))
}

// consentOf is the Consent of an authorization; nil when there is none.
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

// recorded counts the AuditEvents of an interaction with a resource.
func (w *world) recorded(interaction, ref string) (n int) {
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

// TestApprovalIsAConsent: what a patient leaves ticked is what the app sees,
// under a Consent that says so, until it is taken back.
func TestApprovalIsAConsent(t *testing.T) {
	w := newWorld(t)
	w.wearer("w1")
	c := w.app(client.None, nil)
	w.signIn("w1")
	w.decide = func(p *authorize.Pending) authorize.Decision { // narrows on the screen
		return authorize.Decision{Subject: w.subject,
			Scopes: []string{"patient/Observation.rs?category=http://terminology.hl7.org/CodeSystem/observation-category|vital-signs", "offline_access"}}
	}
	out := w.get(c, "offline_access patient/*.rs")
	if got := w.seen(out["access_token"]); got != "w1-vital-signs" {
		t.Fatalf("sees %q", got)
	}
	if s := w.read(out["access_token"], "Device?patient=w1"); s != 403 {
		t.Errorf("devices: %d", s)
	}
	id := w.live("u-w1")[0].ID
	doc := w.consentOf(id)
	prov, _ := doc["provision"].(m)
	if doc["status"] != "active" || doc["patient"].(m)["reference"] != "Patient/w1" ||
		fmt.Sprint(prov["class"]) != "[map[code:Observation system:http://hl7.org/fhir/resource-types]]" ||
		!strings.Contains(fmt.Sprint(prov["extension"]), "|vital-signs") ||
		!strings.Contains(fmt.Sprint(doc["text"]), "only vital signs") {
		t.Errorf("%v", doc)
	}
	end := must(time.Parse(time.RFC3339, prov["period"].(m)["end"].(string)))
	if longest := w.live("u-w1")[0].Expires; end.Before(longest.Add(-2*time.Second)) ||
		end.After(longest.Add(authz.CodeLife)) {
		t.Errorf("the consent ends %s, the authorization %s", end, longest)
	}
	if n := w.recorded("create", "Consent/app-"+id); n != 1 {
		t.Errorf("%d events of its making", n)
	}

	// Neither another patient's token nor a practitioner's, of the same app,
	// sees more for it.
	w.decide = nil
	w.subject = authorize.Subject{ID: "u1", FHIRUser: fhir.Ref{Type: "Practitioner", ID: "d1"},
		Roles: []string{"practitioner"}, AuthTime: w.clock.now()}
	doctor := w.get(c, "user/*.rs")
	if got := w.seen(doctor["access_token"]); strings.Contains(got, "w1") {
		t.Errorf("the practitioner's token sees %q", got)
	}
	if a := w.live("u1"); len(a) != 1 || w.consentOf(a[0].ID) != nil {
		t.Error("a practitioner's approval became a consent")
	}

	// A denial closes at once, whatever was approved before or after.
	deny := fhir.Resource{Type: "Consent", ID: "deny",
		JSON: []byte(fhir.Prefix("Consent", "deny") +
			`},"status":"active","scope":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/consentscope","code":"patient-privacy"}]},` +
			`"patient":{"reference":"Patient/w1"},"provision":{"type":"deny","code":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}]}}`)}
	must(w.store.Commit(context.Background(), &store.Batch{Writes: []store.Write{{Resource: deny}}}))
	if got := w.seen(out["access_token"]); got != "" {
		t.Errorf("sees %q against a denial", got)
	}
	w.signIn("w1")
	again := w.get(c, "patient/Observation.rs")
	if got := w.seen(again["access_token"]); got != "w1-laboratory" {
		t.Errorf("a later approval sees %q against a denial", got)
	}
	must(w.store.Commit(context.Background(), &store.Batch{Writes: []store.Write{{Op: store.Remove, Resource: deny}}}))
	if got := w.seen(out["access_token"]); got != "w1-vital-signs" {
		t.Errorf("sees %q after the denial has gone", got)
	}

	if err := w.tokens.Revoke(context.Background(), audit.Caller{}, "u-w1", id); err != nil {
		t.Fatal(err)
	}
	if s := w.read(out["access_token"], "Observation/w1-vital-signs"); s != 401 {
		t.Errorf("after the end: %d", s)
	}
	if doc := w.consentOf(id); doc["status"] != "inactive" {
		t.Errorf("after the end the consent is %v", doc["status"])
	}
	if n := w.recorded("update", "Consent/app-"+id); n != 1 {
		t.Errorf("%d events of its end", n)
	}
	if got := w.seen(again["access_token"]); got != "w1-laboratory w1-vital-signs" {
		t.Errorf("the other authorization sees %q", got)
	}
}

// TestConsentEndsWithTheAuthorization, however that ends.
func TestConsentEndsWithTheAuthorization(t *testing.T) {
	w := newWorld(t)
	w.wearer("w1")
	w.signIn("w1")
	c := w.app(client.None, nil)
	open := func() (string, m) {
		out := w.get(c, "offline_access patient/Observation.rs")
		id := w.live("u-w1")[0].ID
		if w.seen(out["access_token"]) == "" || w.consentOf(id)["status"] != "active" {
			t.Fatal("nothing is seen")
		}
		return id, out
	}
	gone := func(how, id string, out m) {
		t.Helper()
		if s := w.consentOf(id)["status"]; s != "inactive" {
			t.Errorf("%s: the consent is %v", how, s)
		}
		if s := w.read(out["access_token"], "Observation/w1-vital-signs"); s != 401 {
			t.Errorf("%s: %d", how, s)
		}
	}
	id, out := open()
	if s, _, _ := w.call(introspect.RevokePath, c, url.Values{"token": {out["refresh_token"].(string)}},
		nil); s != 200 {
		t.Fatal(s)
	}
	gone("revocation", id, out)

	id, out = open()
	if s, _ := w.refresh(c, out["refresh_token"], nil); s != 200 {
		t.Fatal(s)
	}
	w.clock.add(time.Minute)
	if s, _ := w.refresh(c, out["refresh_token"], nil); s != 400 {
		t.Fatal(s)
	}
	gone("reuse", id, out)

	// Withdrawn as any Consent is, with the authorization still standing.
	id, out = open()
	r, _, err := w.store.Read(context.Background(), appconsent.Ref(id), 0)
	if err != nil {
		t.Fatal(err)
	}
	must(w.store.Commit(context.Background(),
		&store.Batch{Writes: []store.Write{{Resource: must(consent.Withdraw(r))}}}))
	if got := w.seen(out["access_token"]); got != "" {
		t.Errorf("withdrawn, it sees %q", got)
	}
	if err := w.tokens.Revoke(context.Background(), audit.Caller{}, "u-w1", id); err != nil {
		t.Errorf("the end after a withdrawal: %v", err)
	}

	// No longer than the screen said.
	out = w.get(c, "patient/Observation.rs")
	id = w.live("u-w1")[0].ID
	end := must(time.Parse(time.RFC3339, w.consentOf(id)["provision"].(m)["period"].(m)["end"].(string)))
	if left := end.Sub(w.clock.now()); left > 17*time.Minute {
		t.Errorf("a consent to one use lasts %s", left)
	}
	if got := w.seen(out["access_token"]); got != "w1-laboratory w1-vital-signs" {
		t.Errorf("sees %q", got)
	}
	w.clock.add(16*time.Minute + 10*time.Second)
	if s := w.read(out["access_token"], "Observation"); s != 401 {
		t.Errorf("after the end: %d", s)
	}
}

// agreed counts the Consents of apps that a patient has.
func (w *world) agreed(patient string) (n int) {
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

// TestApprovalWithoutRedemption: a code that nobody redeems leaves no Consent,
// neither while it could be redeemed nor when it has expired; one that is
// redeemed gives token and Consent together, also in its last second.
func TestApprovalWithoutRedemption(t *testing.T) {
	w := newWorld(t)
	w.wearer("w1")
	w.signIn("w1")
	c := w.app(client.None, nil)
	none := func(when string) {
		t.Helper()
		if n, made := w.agreed("w1"), w.recorded("create", "Consent/app-"); n != 0 || made != 0 {
			t.Errorf("%s: %d consents, %d events of their making", when, n, made)
		}
	}
	code := w.code(c, "offline_access patient/Observation.rs", nil)
	none("approved")
	if s, out, _ := w.redeem(c, code, url.Values{"code_verifier": {strings.Repeat("x", 43)}}); s != 400 {
		t.Fatal(s, out)
	}
	none("refused")
	w.clock.add(authz.CodeLife)
	if s, out, _ := w.redeem(c, code, nil); s != 400 || out["error"] != "invalid_grant" {
		t.Fatal(s, out)
	}
	none("expired")
	w.reopen()
	w.clock.add(2 * time.Hour) // the code itself is forgotten
	none("forgotten")

	w.signIn("w1")
	code = w.code(c, "offline_access patient/Observation.rs", nil)
	w.clock.add(authz.CodeLife - time.Second)
	s, out, _ := w.redeem(c, code, nil)
	if s != 200 || w.seen(out["access_token"]) != "w1-laboratory w1-vital-signs" || w.agreed("w1") != 1 {
		t.Fatal(s, out, w.agreed("w1"))
	}
	id := w.live("u-w1")[0].ID
	if s, _, _ := w.redeem(c, code, nil); s != 400 || w.consentOf(id)["status"] != "inactive" {
		t.Error("a second redemption leaves the consent", w.consentOf(id)["status"])
	}

	// What was withdrawn after the approval is a later word than it.
	all := must(consent.Build(consent.Terms{ID: "all-w1", Patient: "w1", Vendor: "apple",
		Recipient: consent.AnyRecipient, Now: w.clock.now()}))
	must(w.store.Commit(context.Background(), &store.Batch{Writes: []store.Write{{Resource: all}}}))
	code = w.code(c, "patient/Observation.rs", nil)
	w.clock.add(10 * time.Second)
	must(w.store.Commit(context.Background(),
		&store.Batch{Writes: []store.Write{{Resource: must(consent.Withdraw(all))}}}))
	w.clock.add(10 * time.Second)
	if s, out, _ := w.redeem(c, code, nil); s != 200 || w.seen(out["access_token"]) != "" {
		t.Error("withdrawn between approval and redemption, it sees", s, w.seen(out["access_token"]))
	}
}
