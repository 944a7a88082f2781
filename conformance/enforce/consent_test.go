package enforce

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/store"
	"pulsegate/smart/client"
)

// These tests check who may write Consents. Clients with all scopes try, by every type
// of write, to regain access that a patient has withdrawn.

// The ids of the Consents of the patient.
const (
	byOperator = "recorded-by-operator" // active, for a fourth client
	ended      = "withdrawn"            // by the patient
	denial     = "denied"               // by the operator
	stopped    = "stop-0123"            // a denial by the pages of the patient
	byClient   = "own-before"           // recorded by client one, withdrawn by the operator
)

// consentBody returns a Consent of p1. provision is JSON.
func consentBody(status, rule, provision string) string {
	return `{"resourceType":"Consent","status":"` + status +
		`","scope":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/consentscope","code":"patient-privacy"}]},` +
		`"category":[{"coding":[{"system":"http://loinc.org","code":"59284-0"}]}],"patient":{"reference":"Patient/p1"},` +
		`"policyRule":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/v3-ActCode","code":"` + rule +
		`"}]},"provision":` + provision + `}`
}

// actorsOf returns the actors of a provision.
func actorsOf(system string, who ...string) string {
	var list []string
	for _, w := range who {
		list = append(list, `{"role":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/v3-ParticipationType","code":"IRCP"}]},"reference":{"identifier":{"system":"`+system+`","value":"`+w+`"}}}`)
	}
	return `"actor":[` + strings.Join(list, ",") + `]`
}

// openings returns provisions that would disclose the data of p1 to a client.
func openings() (out []string) {
	for _, who := range []string{actorsOf(consent.ClientSystem, "one"), actorsOf(consent.ClientSystem, "two"),
		actorsOf(consent.ClientSystem, "any"),
		actorsOf(consent.ClientSystem, "three", "one"), actorsOf(consent.AuthorizationSystem, "a1")} {
		out = append(out, `{"type":"permit",`+who+`}`, `{`+who+`}`,
			`{"type":"permit",`+who+`,"code":[{"coding":[{"system":"`+consent.VendorSystem+`","code":"apple"}]}]}`,
			`{"type":"deny",`+actorsOf(consent.ClientSystem, "nobody")+`}`,
			`{"type":"deny","provision":[{"type":"permit",`+who+`}]}`,
			`{"type":"permit","provision":[{"type":"permit",`+who+`}]}`,
			`{"type":"permit",`+who+`,"period":{"start":"2020-01-01"}}`)
	}
	return out
}

// consentWorld is a server with a patient who has withdrawn all consents, and with
// three clients that have all scopes.
type consentWorld struct {
	*world
	tokens map[string]string
	before map[string]string // the stored Consents before the attempts, by id
}

// newConsentWorld returns a consentWorld. records says that the clients may record
// Consents.
func newConsentWorld(f fault, which servers, records bool) *consentWorld {
	s := &consentWorld{world: open(f, which), tokens: map[string]string{}, before: map[string]string{}}
	ctx := context.Background()
	put := func(typ, id, vendor, author, body string) {
		must(s.db.Commit(ctx, &store.Batch{Writes: []store.Write{{Vendor: vendor, Author: author,
			Resource: must(validator().Resource(typ, []byte(strings.Replace(body, "{", `{"id":"`+id+`",`, 1)), id))}}}))
	}
	put("Patient", "p1", "", "", `{"resourceType":"Patient"}`)
	obs := `{"resourceType":"Observation","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"subject":{"reference":"Patient/p1"}}`
	put("Observation", "o1", "apple", "", obs)
	put("Observation", "o2", "oura", "", obs)
	put("Observation", "o3", "", "", obs)
	put("Consent", byOperator, "", "", consentBody("active", "OPTIN",
		`{"type":"permit",`+actorsOf(consent.ClientSystem, "four")+`}`))
	put("Consent", ended, "", "", consentBody("inactive", "OPTIN",
		`{"type":"permit",`+actorsOf(consent.ClientSystem, "any")+`}`))
	put("Consent", denial, "", "", consentBody("active", "OPTOUT",
		`{"type":"deny",`+actorsOf(consent.ClientSystem, "two")+`}`))
	put("Consent", stopped, "", "", consentBody("active", "OPTOUT",
		`{"type":"deny",`+actorsOf(consent.ClientSystem, "three")+`}`))
	put("Consent", byClient, "", "one", consentBody("inactive", "OPTIN",
		`{"type":"permit",`+actorsOf(consent.ClientSystem, "one")+`}`))
	for _, id := range []string{byOperator, ended, denial, stopped, byClient} {
		s.before[id] = s.stored(id)
	}
	for _, id := range []string{"one", "two", "three"} {
		k := token{client: id, scopes: []string{"system/*.cruds"}}
		must(s.clients.Add(ctx, client.Client{ID: id, Name: id, Scope: "system/*.cruds", JWKS: jwks(),
			RecordsConsent: records}))
		s.tokens[id] = s.issue(&k)
	}
	return s
}

// stored returns version and content of a Consent in the store.
func (s *consentWorld) stored(id string) string {
	r, _, err := s.db.Read(context.Background(), fhir.Ref{Type: "Consent", ID: id}, 0)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(r.Version, r.Deleted, string(r.JSON))
}

// verify returns an error if a client sees data of the patient, or if a Consent has
// changed.
func (s *consentWorld) verify() error {
	for who, tok := range s.tokens {
		if got := s.get(tok, "/Observation?patient=p1").entries("match"); len(got) > 0 {
			return fmt.Errorf("client %s sees %v", who, got)
		}
		for _, id := range []string{"o1", "o2", "o3"} {
			if a := s.get(tok, "/Observation/"+id); a.status != 404 {
				return fmt.Errorf("client %s reads %s: %d", who, id, a.status)
			}
		}
	}
	for id, before := range s.before {
		if now := s.stored(id); now != before {
			return fmt.Errorf("Consent %s was %s and is %s", id, before, now)
		}
	}
	return nil
}

// attempt is one write of a Consent.
type attempt struct {
	client, via, method, id, body string
	exists                        string // If-None-Exist
}

var attempts = rapid.Custom(func(t *rapid.T) attempt {
	a := attempt{client: rapid.SampledFrom([]string{"one", "two", "three"}).Draw(t, "client"),
		via:    rapid.SampledFrom([]string{"", "batch", "transaction"}).Draw(t, "via"),
		method: rapid.SampledFrom([]string{"POST", "PUT", "DELETE"}).Draw(t, "method")}
	a.id = rapid.SampledFrom([]string{byOperator, ended, denial, stopped, byClient, "fresh", "stop-fresh",
		"app-a1"}).Draw(t, "id")
	a.body = consentBody(rapid.SampledFrom([]string{"active", "active", "active", "draft", "inactive",
		"entered-in-error"}).Draw(t, "status"),
		rapid.SampledFrom([]string{"OPTIN", "OPTOUT"}).Draw(t, "rule"),
		rapid.SampledFrom(openings()).Draw(t, "provision"))
	if a.method == "POST" && rapid.Bool().Draw(t, "conditional") {
		a.exists = "status=proposed"
	}
	if a.method == "PUT" {
		a.body = strings.Replace(a.body, "{", `{"id":"`+a.id+`",`, 1)
	}
	return a
})

// try sends one write and returns its status and body. For a batch, the status is that
// of the entry.
func (s *consentWorld) try(a attempt) (int, string) {
	url := "Consent"
	if a.method != "POST" {
		url += "/" + a.id
	}
	body := a.body
	if a.method == "DELETE" {
		body = ""
	}
	if a.via == "" {
		var header []string
		if a.exists != "" {
			header = []string{"If-None-Exist", a.exists}
		}
		got := s.do(s.tokens[a.client], a.method, "/"+url, body, header...)
		return got.status, string(got.body)
	}
	request := map[string]any{"method": a.method, "url": url}
	if a.exists != "" {
		request["ifNoneExist"] = a.exists
	}
	entry := map[string]any{"request": request}
	if body != "" {
		entry["resource"] = json.RawMessage(body)
	}
	got := s.do(s.tokens[a.client], "POST", "/",
		string(must(json.Marshal(map[string]any{"resourceType": "Bundle", "type": a.via, "entry": []any{entry}}))))
	if got.status != 200 || a.via != "batch" {
		return got.status, string(got.body)
	}
	status, _ := got.json["entry"].([]any)[0].(map[string]any)["response"].(map[string]any)["status"].(string)
	n := 0
	fmt.Sscan(status, &n)
	return n, string(got.body)
}

// attack sends the attempts to a server and returns an error for the first with a
// forbidden effect.
func attack(f fault, which servers, records bool, list []attempt) error {
	s := newConsentWorld(f, which, records)
	defer s.close()
	if err := s.verify(); err != nil {
		return fmt.Errorf("before any attempt: %w", err)
	}
	for _, a := range list {
		status, body := s.try(a)
		if !records && (status != 403 || !strings.Contains(body, "not registered to record Consents")) {
			return fmt.Errorf("%+v: %d %s, want 403 with the reason", a, status, body)
		}
		if err := s.verify(); err != nil {
			return fmt.Errorf("after %+v: %d: %w", a, status, err)
		}
	}
	return nil
}

var lists = rapid.SliceOfN(attempts, 4, 12)

// TestConsentWrites checks that a client without the right to record Consents cannot
// write any, regardless of its scopes, and that a client with the right can neither regain
// withdrawn access nor change the Consents of others.
func TestConsentWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if err := attack(noFault, oneStore, rapid.Bool().Draw(t, "registered to record"), lists.Draw(t, "writes")); err != nil {
			t.Fatal(err)
		}
	})
}

// TestConsentWriteControls checks that servers with a fault are detected.
func TestConsentWriteControls(t *testing.T) { testConsentWriteControls(t, oneStore) }

func testConsentWriteControls(t *testing.T, which servers) {
	for name, c := range map[string]struct {
		f       fault
		records bool
	}{"a scope suffices": {scopeSuffices, false},
		"Consents of clients are not checked": {uncheckedConsents, true}} {
		t.Run(name, func(t *testing.T) {
			for seed := range 200 {
				err := attack(c.f, which, c.records, lists.Example(seed))
				if err != nil {
					t.Logf("detected with seed %d: %.200v", seed, err)
					return
				}
			}
			t.Error("not detected in 200 lists")
		})
	}
}

// TestConsentRecorded checks that a client with the right to record Consents can create
// one, and can change and end its own.
func TestConsentRecorded(t *testing.T) {
	s := newConsentWorld(noFault, oneStore, true)
	defer s.close()
	ctx := context.Background()
	for _, p := range []string{"p2", "p3"} {
		must(s.db.Commit(ctx, &store.Batch{Writes: []store.Write{{Resource: must(validator().Resource("Patient",
			[]byte(`{"resourceType":"Patient","id":"`+p+`"}`), p))},
			{Resource: must(validator().Resource("Observation",
				[]byte(`{"resourceType":"Observation","id":"of-`+p+
					`","status":"final","code":{"text":"x"},"subject":{"reference":"Patient/`+p+`"}}`), "of-"+p))}}}))
	}
	of := func(p, body string) string { return strings.Replace(body, "Patient/p1", "Patient/"+p, 1) }
	sees := func(who, p string) bool {
		return len(s.get(s.tokens[who], "/Observation?patient="+p).entries("match")) == 1
	}
	expect := func(what string, a answer, status int) {
		t.Helper()
		if a.status != status {
			t.Fatalf("%s: %d %s, want %d", what, a.status, a.body, status)
		}
	}
	permits := func(status, who string) string {
		return consentBody(status, "OPTIN", `{"type":"permit",`+actorsOf(consent.ClientSystem, who)+`}`)
	}
	withID := func(id, body string) string { return strings.Replace(body, "{", `{"id":"`+id+`",`, 1) }
	expect("a Consent for the client itself, of a patient without withdrawals",
		s.do(s.tokens["one"], "PUT", "/Consent/c2", of("p2", withID("c2", permits("active", "one")))), 201)
	if !sees("one", "p2") || sees("two", "p2") {
		t.Fatal("the Consent does not apply, or applies to another client")
	}
	expect("the Consent of another client", s.do(s.tokens["two"], "PUT", "/Consent/c2",
		of("p2", withID("c2", permits("active", "two")))), 403)
	expect("a change of the patient", s.do(s.tokens["one"], "PUT", "/Consent/c2",
		of("p3", withID("c2", permits("active", "one")))), 403)
	expect("its own for another recipient, before any withdrawal",
		s.do(s.tokens["one"], "PUT", "/Consent/c2", of("p2", withID("c2", permits("active", "two")))), 200)
	expect("the end of its own", s.do(s.tokens["one"], "PUT", "/Consent/c2",
		of("p2", withID("c2", permits("inactive", "one")))), 200)
	expect("its own as active again", s.do(s.tokens["one"], "PUT", "/Consent/c2",
		of("p2", withID("c2", permits("active", "one")))), 403)
	expect("a new one after the withdrawal",
		s.do(s.tokens["one"], "POST", "/Consent", of("p2", permits("active", "one"))), 403)
	expect("a denial", s.do(s.tokens["one"], "PUT", "/Consent/d2",
		of("p2", withID("d2", consentBody("active", "OPTOUT",
			`{"type":"deny",`+actorsOf(consent.ClientSystem, "two")+`}`)))), 201)
	expect("the removal of its own denial", s.do(s.tokens["one"], "DELETE", "/Consent/d2", ""), 403)
	expect("a draft", s.do(s.tokens["one"], "PUT", "/Consent/e2",
		of("p2", withID("e2", permits("draft", "one")))), 201)
	expect("the removal of a draft", s.do(s.tokens["one"], "DELETE", "/Consent/e2", ""), 204)
	// A Consent of the operator counts after a withdrawal, and the right to record is
	// checked at each request.
	if _, err := s.service.Create(ctx, operatorRequest(), "Consent", []byte(of("p2", permits("active", "one"))),
		""); err != nil || !sees("one", "p2") {
		t.Fatalf("the Consent of the operator: %v", err)
	}
	must(s.clients.Change(ctx, "one", func(c *client.Client) error { c.RecordsConsent = false; return nil }))
	expect("a Consent after the right was revoked",
		s.do(s.tokens["one"], "POST", "/Consent", of("p3", permits("active", "one"))), 403)
}

// operatorRequest returns a request of the operator.
func operatorRequest() *interaction.Request {
	return &interaction.Request{Caller: audit.Caller{Principal: &access.Principal{Operator: "uid:0",
		Grant: access.All()}}, Line: "test"}
}
