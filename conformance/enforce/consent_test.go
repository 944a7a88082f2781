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

// Who may write a Consent: clients that hold every scope try, on every path a
// write can take, to open what a patient has closed.

const (
	theirs  = "recorded-by-operator" // active, for a third client
	ended   = "withdrawn"            // by the patient
	denial  = "denied"               // by the operator
	stopped = "stop-0123"            // by the patient's pages
	ownOne  = "own-before"           // by the attacker, and withdrawn by the operator
)

// consentBody is a Consent of p1; provision is JSON.
func consentBody(status, rule, provision string) string {
	return `{"resourceType":"Consent","status":"` + status +
		`","scope":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/consentscope","code":"patient-privacy"}]},` +
		`"category":[{"coding":[{"system":"http://loinc.org","code":"59284-0"}]}],"patient":{"reference":"Patient/p1"},` +
		`"policyRule":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/v3-ActCode","code":"` + rule +
		`"}]},"provision":` + provision + `}`
}

func actorsOf(system string, who ...string) string {
	var list []string
	for _, w := range who {
		list = append(list, `{"role":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/v3-ParticipationType","code":"IRCP"}]},"reference":{"identifier":{"system":"`+system+`","value":"`+w+`"}}}`)
	}
	return `"actor":[` + strings.Join(list, ",") + `]`
}

// openings are provisions that would show p1's data to somebody.
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

// siege is a server with a patient who has withdrawn, and two clients of one
// owner that hold every scope.
type siege struct {
	*world
	tokens map[string]string
	before map[string]string // Consents that are not the clients' own, as stored
}

func besiege(f fault, records bool) *siege {
	s := &siege{world: open(f), tokens: map[string]string{}, before: map[string]string{}}
	ctx := context.Background()
	put := func(typ, id, vendor, author, body string) {
		must(s.db.Commit(ctx, &store.Batch{Writes: []store.Write{{Vendor: vendor, Author: author,
			Resource: must(door().Resource(typ, []byte(strings.Replace(body, "{", `{"id":"`+id+`",`, 1)), id))}}}))
	}
	put("Patient", "p1", "", "", `{"resourceType":"Patient"}`)
	obs := `{"resourceType":"Observation","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"subject":{"reference":"Patient/p1"}}`
	put("Observation", "o1", "apple", "", obs)
	put("Observation", "o2", "oura", "", obs)
	put("Observation", "o3", "", "", obs)
	put("Consent", theirs, "", "", consentBody("active", "OPTIN",
		`{"type":"permit",`+actorsOf(consent.ClientSystem, "four")+`}`))
	put("Consent", ended, "", "", consentBody("inactive", "OPTIN",
		`{"type":"permit",`+actorsOf(consent.ClientSystem, "any")+`}`))
	put("Consent", denial, "", "", consentBody("active", "OPTOUT",
		`{"type":"deny",`+actorsOf(consent.ClientSystem, "two")+`}`))
	put("Consent", stopped, "", "", consentBody("active", "OPTOUT",
		`{"type":"deny",`+actorsOf(consent.ClientSystem, "three")+`}`))
	put("Consent", ownOne, "", "one", consentBody("inactive", "OPTIN",
		`{"type":"permit",`+actorsOf(consent.ClientSystem, "one")+`}`))
	for _, id := range []string{theirs, ended, denial, stopped, ownOne} {
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

// stored is a Consent as the store has it.
func (s *siege) stored(id string) string {
	r, _, err := s.db.Read(context.Background(), fhir.Ref{Type: "Consent", ID: id}, 0)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(r.Version, r.Deleted, string(r.JSON))
}

// holds reports what must not have come about.
func (s *siege) holds() error {
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
	for id, was := range s.before {
		if is := s.stored(id); is != was {
			return fmt.Errorf("Consent %s was %s and is %s", id, was, is)
		}
	}
	return nil
}

// assault is one write.
type assault struct {
	client, via, method, id, body string
	exists                        string // If-None-Exist
}

var assaults = rapid.Custom(func(t *rapid.T) assault {
	a := assault{client: rapid.SampledFrom([]string{"one", "two", "three"}).Draw(t, "client"),
		via:    rapid.SampledFrom([]string{"", "batch", "transaction"}).Draw(t, "via"),
		method: rapid.SampledFrom([]string{"POST", "PUT", "DELETE"}).Draw(t, "method")}
	a.id = rapid.SampledFrom([]string{theirs, ended, denial, stopped, ownOne, "fresh", "stop-fresh",
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

// try does one write and returns its status; of a Bundle, that of the entry or
// of the whole.
func (s *siege) try(a assault) (int, string) {
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

// attack runs writes against a server and reports the first that had an
// effect it must not have.
func attack(f fault, records bool, list []assault) error {
	s := besiege(f, records)
	defer s.close()
	if err := s.holds(); err != nil {
		return fmt.Errorf("before anything was written: %w", err)
	}
	for _, a := range list {
		status, body := s.try(a)
		if !records && (status != 403 || !strings.Contains(body, "not registered to record Consents")) {
			return fmt.Errorf("%+v: %d %s, want 403 and why", a, status, body)
		}
		if err := s.holds(); err != nil {
			return fmt.Errorf("after %+v: %d: %w", a, status, err)
		}
	}
	return nil
}

var lists = rapid.SliceOfN(assaults, 4, 12)

// TestConsentWrites: without the operator's word no scope writes a Consent,
// on any path; with it, nothing that the patient has closed opens again, and
// what others recorded stays as it is.
func TestConsentWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if err := attack(noFault, rapid.Bool().Draw(t, "registered to record"), lists.Draw(t, "writes")); err != nil {
			t.Fatal(err)
		}
	})
}

// TestConsentWriteControls: a server that is wrong in one place is found.
func TestConsentWriteControls(t *testing.T) {
	for name, c := range map[string]struct {
		f       fault
		records bool
	}{"a scope suffices": {scopeSuffices, false},
		"a client's Consent is not held to anything": {consentUnowned, true}} {
		t.Run(name, func(t *testing.T) {
			for seed := range 200 {
				err := attack(c.f, c.records, lists.Example(seed))
				if err != nil {
					t.Logf("found with seed %d: %.200v", seed, err)
					return
				}
			}
			t.Error("not found in 200 lists")
		})
	}
}

// TestConsentRecorded: a client that is registered for it records what a
// patient agrees to, and changes and ends its own.
func TestConsentRecorded(t *testing.T) {
	s := besiege(noFault, true)
	defer s.close()
	ctx := context.Background()
	for _, p := range []string{"p2", "p3"} {
		must(s.db.Commit(ctx, &store.Batch{Writes: []store.Write{{Resource: must(door().Resource("Patient",
			[]byte(`{"resourceType":"Patient","id":"`+p+`"}`), p))},
			{Resource: must(door().Resource("Observation",
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
	expect("a Consent for itself, of a patient who has withdrawn none",
		s.do(s.tokens["one"], "PUT", "/Consent/c2", of("p2", withID("c2", permits("active", "one")))), 201)
	if !sees("one", "p2") || sees("two", "p2") {
		t.Fatal("the Consent is not in force, or for another")
	}
	expect("another's Consent", s.do(s.tokens["two"], "PUT", "/Consent/c2",
		of("p2", withID("c2", permits("active", "two")))), 403)
	expect("to another patient", s.do(s.tokens["one"], "PUT", "/Consent/c2",
		of("p3", withID("c2", permits("active", "one")))), 403)
	expect("its own, wider, before any withdrawal",
		s.do(s.tokens["one"], "PUT", "/Consent/c2", of("p2", withID("c2", permits("active", "two")))), 200)
	expect("its own ended", s.do(s.tokens["one"], "PUT", "/Consent/c2",
		of("p2", withID("c2", permits("inactive", "one")))), 200)
	expect("its own again", s.do(s.tokens["one"], "PUT", "/Consent/c2",
		of("p2", withID("c2", permits("active", "one")))), 403)
	expect("a new one", s.do(s.tokens["one"], "POST", "/Consent", of("p2", permits("active", "one"))), 403)
	expect("a denial", s.do(s.tokens["one"], "PUT", "/Consent/d2",
		of("p2", withID("d2", consentBody("active", "OPTOUT",
			`{"type":"deny",`+actorsOf(consent.ClientSystem, "two")+`}`)))), 201)
	expect("its own denial removed", s.do(s.tokens["one"], "DELETE", "/Consent/d2", ""), 403)
	expect("a draft removed", s.do(s.tokens["one"], "PUT", "/Consent/e2",
		of("p2", withID("e2", permits("draft", "one")))), 201)
	expect("a draft removed", s.do(s.tokens["one"], "DELETE", "/Consent/e2", ""), 204)
	// The operator's word and the patient's come first, and the flag is asked
	// at each use.
	if _, err := s.service.Create(ctx, operatorRequest(), "Consent", []byte(of("p2", permits("active", "one"))),
		""); err != nil || !sees("one", "p2") {
		t.Fatalf("the operator's Consent: %v", err)
	}
	must(s.clients.Change(ctx, "one", func(c *client.Client) error { c.RecordsConsent = false; return nil }))
	expect("after the right was taken away",
		s.do(s.tokens["one"], "POST", "/Consent", of("p3", permits("active", "one"))), 403)
}

func operatorRequest() *interaction.Request {
	return &interaction.Request{Caller: audit.Caller{Principal: &access.Principal{Operator: "uid:0",
		Grant: access.All()}}, Line: "test"}
}
