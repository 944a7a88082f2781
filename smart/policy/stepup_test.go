package policy_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
)

// TestStepUp: a person changes and removes a Device with a fresh
// phishing-resistant sign-in and not otherwise, alone or in a Bundle; a backend
// needs none; nothing else is asked for more than it was.
func TestStepUp(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newSurfaces(t, rt, noFault)
		defer w.close()
		w.put(&item{resource: resource{typ: "Patient", id: "p1", patient: "p1"}}, map[string]any{"gender": "female"})
		w.agree(agreedTo{id: "c", patient: "p1", recipient: "k0"})
		k := &token{name: "k0", scopes: []string{"user/Device.cruds"}, user: fhir.Ref{Type: "Practitioner", ID: "d1"}, roles: []string{"keeper"}}
		if w.one(4) {
			k.user, k.roles, k.scopes = fhir.Ref{}, nil, []string{"system/Device.cruds"}
		}
		ago := rapid.SampledFrom([]time.Duration{0, 4 * time.Minute, 6 * time.Minute, 24 * time.Hour}).Draw(rt, "ago")
		k.acr = w.of("", "mfa", "phr", "phr", "urn:else")
		if k.signedIn = time.Now().Add(-ago); w.one(6) {
			k.signedIn = time.Time{}
		}
		w.tokens["k0"] = k
		strong := k.backend() || k.acr == "phr" && !k.signedIn.IsZero() && ago <= 5*time.Minute

		device := func() string {
			return `{"resourceType":"Device","id":"d","status":"inactive","patient":{"reference":"Patient/p1"}}`
		}
		w.put(&item{resource: resource{typ: "Device", id: "d", patient: "p1"}, refs: []string{"Patient/p1"}}, map[string]any{"status": "active", "patient": map[string]any{"reference": "Patient/p1"}})
		if a := w.ask("k0", "GET", "Device/d", ""); a.Code != 200 {
			rt.Fatalf("read: %d", a.Code)
		}
		var a *httptest.ResponseRecorder
		done := 204
		switch way := w.of("PUT", "DELETE", "transaction"); way {
		case "PUT":
			a, done = w.ask("k0", way, "Device/d", device()), 200
		case "DELETE":
			a = w.ask("k0", way, "Device/d", "")
		default:
			done = 200
			a = w.ask("k0", "POST", fhirBase+"/", `{"resourceType":"Bundle","type":"transaction","entry":[{"resource":`+device()+`,"request":{"method":"PUT","url":"Device/d"}}]}`)
		}
		r, _, err := w.db.Read(context.Background(), fhir.Ref{Type: "Device", ID: "d"}, 0)
		if err != nil {
			rt.Fatal(err)
		}
		if strong {
			if a.Code != done || r.Version != 2 {
				rt.Fatalf("%s after %v: %d %s", k.acr, ago, a.Code, a.Body)
			}
			return
		}
		c := a.Header().Get("WWW-Authenticate")
		if a.Code != http.StatusUnauthorized || r.Version != 1 || !strings.Contains(a.Body.String(), "OperationOutcome") {
			rt.Fatalf("%s after %v: %d %s", k.acr, ago, a.Code, a.Body)
		}
		for _, part := range []string{`Bearer error="insufficient_user_authentication"`, `acr_values="phr"`, `max_age="300"`} {
			if !strings.Contains(c, part) {
				rt.Fatalf("challenge %s", c)
			}
		}
		if e := access.Challenge(c).Error(); strings.ContainsAny(e, "\r\n") {
			rt.Fatal("a header of several lines")
		}
	})
}
