package protocol

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/smart/client"
	"pulsegate/smart/proof/issuer"
)

// TestExternalIssuer checks that valid tokens of a configured issuer are accepted,
// with no more rights than the client is registered for, and that others are
// refused.
func TestExternalIssuer(t *testing.T) {
	key, forgedKey := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)),
		must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	w := newWorld(t)
	idp := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Cache-Control", "max-age=60")
		if _, err := rw.Write(w.jwks(key)); err != nil {
			t.Error(err)
		}
	}))
	defer idp.Close()
	app := w.app(client.None, func(c *client.Client) { c.Scope = "patient/Observation.rs user/*.rs" })
	w.external = &issuer.Verifier{Base: w.base + "/fhir",
		Keys: &client.Keys{HTTP: http.DefaultClient, Clock: w.clock.now, Algs: issuer.Algs()},
		Issuers: []issuer.Issuer{{Issuer: "https://idp.example", JWKSURL: idp.URL,
			Clients: map[string]string{"their-app": app.ID},
			Roles:   map[string]string{"Arzt": "practitioner"},
			Claims:  issuer.Claims{Roles: "realm_access/roles", Client: "azp"}}}}
	if err := w.external.Check(); err != nil {
		t.Fatal(err)
	}
	w.reopen()
	header := m{"alg": "ES384", "kid": "k1", "typ": "at+jwt"}
	signed := func(headerChange, change m, key *ecdsa.PrivateKey) string {
		c := m{"iss": "https://idp.example", "sub": "x9", "azp": "their-app", "aud": w.base + "/fhir",
			"jti": rand.Text(), "iat": w.clock.now().Unix(),
			"exp": w.clock.now().Add(10 * time.Minute).Unix(), "scope": "patient/*.rs openid", "patient": "p1",
			"realm_access": m{"roles": []string{"Arzt", "root"}},
			"fhirUser":     w.base + "/fhir/Practitioner/d1"}
		for k, v := range change {
			if c[k] = v; v == nil {
				delete(c, k)
			}
		}
		h := maps.Clone(header)
		maps.Copy(h, headerChange)
		return jwt(h, c, key)
	}
	valid := signed(nil, nil, key)
	// The rights are limited to the registered scope of the client.
	for path, want := range map[string]int{"Observation/o1": 200, "Observation/o3": 404, "Patient/p1": 403} {
		if got := w.read(valid, path); got != want {
			t.Errorf("%s: %d", path, got)
		}
	}
	if s := w.read(signed(nil, m{"realm_access": m{"roles": []string{"root"}}}, key), "Observation/o1"); s != 403 {
		t.Error("unknown role:", s)
	}
	for name, tok := range map[string]string{
		"forged":                   signed(nil, nil, forgedKey),
		"another audience":         signed(nil, m{"aud": "https://other.example"}, key),
		"another issuer":           signed(nil, m{"iss": "https://evil.example"}, key),
		"this server as issuer":    signed(nil, m{"iss": w.base}, key),
		"expired":                  signed(nil, m{"exp": w.clock.now().Unix()}, key),
		"lifetime too long":        signed(nil, m{"exp": w.clock.now().Add(2 * time.Hour).Unix()}, key),
		"no exp":                   signed(nil, m{"exp": nil}, key),
		"id_token":                 signed(m{"typ": "JWT"}, nil, key),
		"unknown kid":              signed(m{"kid": "k2"}, nil, key),
		"jku header":               signed(m{"jku": "https://evil.example"}, nil, key),
		"unknown client":           signed(nil, m{"azp": "unknown"}, key),
		"no subject":               signed(nil, m{"sub": nil}, key),
		"person of another server": signed(nil, m{"fhirUser": "https://other.example/fhir/Practitioner/d1"}, key),
		"path as patient":          signed(nil, m{"patient": "../p1"}, key),
	} {
		if s := w.read(tok, "Observation/o1"); s != 401 {
			t.Errorf("%s: %d", name, s)
		}
	}
}

// TestExternalIssuerIsRestricted checks that an issuer can act only for the
// clients that its configuration maps, with the listed scopes. system/ scopes
// must be listed.
func TestExternalIssuerIsRestricted(t *testing.T) {
	key := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	w := newWorld(t)
	idp := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		if _, err := rw.Write(w.jwks(key)); err != nil {
			t.Error(err)
		}
	}))
	defer idp.Close()
	ehr, portal := w.backend("system/*.cruds"),
		w.app(client.None, func(c *client.Client) { c.Scope = "patient/*.rs user/*.rs" })
	read := func(iss issuer.Issuer, change m) int {
		iss.Issuer, iss.JWKSURL = "https://idp.example", idp.URL
		w.external = &issuer.Verifier{Base: w.base + "/fhir",
			Keys:    &client.Keys{HTTP: http.DefaultClient, Clock: w.clock.now, Algs: issuer.Algs()},
			Issuers: []issuer.Issuer{iss}}
		if err := w.external.Check(); err != nil {
			t.Fatal(err)
		}
		w.reopen()
		c := m{"iss": iss.Issuer, "aud": w.base + "/fhir", "jti": rand.Text(), "iat": w.clock.now().Unix(),
			"exp": w.clock.now().Add(10 * time.Minute).Unix()}
		for k, v := range change {
			c[k] = v
		}
		return w.read(jwt(m{"alg": "ES384", "kid": "k1", "typ": "at+jwt"}, c, key), "Patient/p1")
	}
	backend := func(id, scopes string) m { return m{"sub": id, "client_id": id, "scope": scopes} }
	mapped := map[string]string{"portal": portal.ID, "feed": ehr.ID}
	person := m{"sub": "x9", "client_id": "portal", "scope": "user/*.rs",
		"fhirUser": w.base + "/fhir/Practitioner/d1", "roles": []string{"doctor"}}
	roles := map[string]string{"doctor": "practitioner"}
	for _, tc := range []struct {
		name string
		iss  issuer.Issuer
		tok  m
		want int
	}{
		{"client that is not mapped, by its client_id here",
			issuer.Issuer{Clients: map[string]string{"portal": portal.ID}, Scopes: "system/*.cruds"},
			backend(ehr.ID, "system/*.cruds"), 401},
		{"mapped client, by its client_id here", issuer.Issuer{Clients: mapped, Scopes: "system/*.cruds"},
			backend(ehr.ID, "system/*.cruds"), 401},
		{"system/ scopes without a list", issuer.Issuer{Clients: mapped}, backend("feed", "system/*.cruds"), 403},
		{"system/ scopes other than those listed",
			issuer.Issuer{Clients: mapped, Scopes: "user/*.rs system/Observation.rs"},
			backend("feed", "system/*.cruds"), 403},
		{"listed system/ scope", issuer.Issuer{Clients: mapped, Scopes: "system/Patient.rs"},
			backend("feed", "system/*.cruds"), 200},
		{"person", issuer.Issuer{Clients: mapped, Roles: roles}, person, 200},
		{"person without a listed scope",
			issuer.Issuer{Clients: mapped, Roles: roles, Scopes: "user/Observation.rs"}, person, 403},
		{"person with system/ scopes", issuer.Issuer{Clients: mapped, Roles: roles, Scopes: "system/*.cruds"},
			m{"sub": "x9", "client_id": "feed", "scope": "system/*.cruds", "fhirUser": person["fhirUser"],
				"roles": []string{"doctor"}}, 403},
	} {
		if got := read(tc.iss, tc.tok); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
	for name, iss := range map[string]issuer.Issuer{
		"no clients":          {},
		"malformed client_id": {Clients: map[string]string{"x": "../y"}},
		"unknown scope":       {Clients: mapped, Scopes: "everything"},
		"empty client name":   {Clients: map[string]string{"": ehr.ID}},
	} {
		iss.Issuer, iss.JWKSURL = "https://idp.example", idp.URL
		if err := (&issuer.Verifier{Issuers: []issuer.Issuer{iss}}).Check(); fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
