package protocol

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/smart/client"
	"pulsegate/smart/proof/issuer"
)

func TestExternalIssuer(t *testing.T) {
	key, evil := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)),
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
	head := m{"alg": "ES384", "kid": "k1", "typ": "at+jwt"}
	made := func(h, change m, k *ecdsa.PrivateKey) string {
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
		hh := m{}
		for _, x := range []m{head, h} {
			for k, v := range x {
				hh[k] = v
			}
		}
		return jwt(hh, c, k)
	}
	good := made(nil, nil, key)
	// no more than registered here
	for path, want := range map[string]int{"Observation/o1": 200, "Observation/o3": 404, "Patient/p1": 403} {
		if got := w.read(good, path); got != want {
			t.Errorf("%s: %d", path, got)
		}
	}
	if s := w.read(made(nil, m{"realm_access": m{"roles": []string{"root"}}}, key), "Observation/o1"); s != 403 {
		t.Error("a role that is none here:", s)
	}
	for name, tok := range map[string]string{
		"forged":           made(nil, nil, evil),
		"aud":              made(nil, m{"aud": "https://other.example"}, key),
		"issuer":           made(nil, m{"iss": "https://evil.example"}, key),
		"ours":             made(nil, m{"iss": w.base}, key),
		"expired":          made(nil, m{"exp": w.clock.now().Unix()}, key),
		"too long":         made(nil, m{"exp": w.clock.now().Add(2 * time.Hour).Unix()}, key),
		"no exp":           made(nil, m{"exp": nil}, key),
		"id_token":         made(m{"typ": "JWT"}, nil, key),
		"kid":              made(m{"kid": "k2"}, nil, key),
		"jku":              made(m{"jku": "https://evil.example"}, nil, key),
		"unknown client":   made(nil, m{"azp": "nobody"}, key),
		"no subject":       made(nil, m{"sub": nil}, key),
		"another's person": made(nil, m{"fhirUser": "https://other.example/fhir/Practitioner/d1"}, key),
		"patient a path":   made(nil, m{"patient": "../p1"}, key),
	} {
		if s := w.read(tok, "Observation/o1"); s != 401 {
			t.Errorf("%s: %d", name, s)
		}
	}
}

// TestExternalIssuerIsRestricted: an issuer speaks for the clients that its
// configuration names, with the scopes that are listed there, system/ scopes
// among them only if they are.
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
	named := map[string]string{"portal": portal.ID, "feed": ehr.ID}
	person := m{"sub": "x9", "client_id": "portal", "scope": "user/*.rs",
		"fhirUser": w.base + "/fhir/Practitioner/d1", "roles": []string{"doctor"}}
	roles := map[string]string{"doctor": "practitioner"}
	for _, c := range []struct {
		name string
		iss  issuer.Issuer
		tok  m
		want int
	}{
		{"another client of this server, by its id here",
			issuer.Issuer{Clients: map[string]string{"portal": portal.ID}, Scopes: "system/*.cruds"},
			backend(ehr.ID, "system/*.cruds"), 401},
		{"a client by its id here, though it is named", issuer.Issuer{Clients: named, Scopes: "system/*.cruds"},
			backend(ehr.ID, "system/*.cruds"), 401},
		{"system/ scopes that are not listed", issuer.Issuer{Clients: named}, backend("feed", "system/*.cruds"), 403},
		{"system/ scopes beside those listed",
			issuer.Issuer{Clients: named, Scopes: "user/*.rs system/Observation.rs"},
			backend("feed", "system/*.cruds"), 403},
		{"a system/ scope that is listed", issuer.Issuer{Clients: named, Scopes: "system/Patient.rs"},
			backend("feed", "system/*.cruds"), 200},
		{"a person", issuer.Issuer{Clients: named, Roles: roles}, person, 200},
		{"a person, with other scopes listed",
			issuer.Issuer{Clients: named, Roles: roles, Scopes: "user/Observation.rs"}, person, 403},
		{"a person with the scopes of a backend", issuer.Issuer{Clients: named, Roles: roles, Scopes: "system/*.cruds"},
			m{"sub": "x9", "client_id": "feed", "scope": "system/*.cruds", "fhirUser": person["fhirUser"],
				"roles": []string{"doctor"}}, 403},
	} {
		if got := read(c.iss, c.tok); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	for name, iss := range map[string]issuer.Issuer{
		"no clients":        {},
		"a client's id":     {Clients: map[string]string{"x": "../y"}},
		"an unknown scope":  {Clients: named, Scopes: "everything"},
		"a client, unnamed": {Clients: map[string]string{"": ehr.ID}},
	} {
		iss.Issuer, iss.JWKSURL = "https://idp.example", idp.URL
		if err := (&issuer.Verifier{Issuers: []issuer.Issuer{iss}}).Check(); fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
