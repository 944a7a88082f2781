package protocol

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"pulsegate/smart/client"
	"pulsegate/smart/oauth/introspect"
	"pulsegate/smart/oauth/token"
)

// TestIntrospectionAndRevocation checks which clients may introspect and revoke a
// token, and that a revocation takes effect at the next request.
func TestIntrospectionAndRevocation(t *testing.T) {
	w := newWorld(t)
	c, other := w.app(client.SecretBasic, nil), w.app(client.SecretPost, nil)
	rs := w.app(client.PrivateKeyJWT, func(c *client.Client) { c.Inspects = true })
	public := w.app(client.None, nil)
	out := w.authorize(c, "openid fhirUser launch/patient offline_access patient/*.rs")
	introspectAs := func(as client.Client, tok any) (int, m) {
		s, res, _ := w.postForm(introspect.Path, as, url.Values{"token": {fmt.Sprint(tok)}}, nil)
		return s, res
	}
	_, id := claimsOf(t, out["id_token"])
	for _, as := range []client.Client{c, rs} {
		s, res := introspectAs(as, out["access_token"])
		if s != 200 || res["active"] != true || res["client_id"] != c.ID || res["scope"] != out["scope"] ||
			res["patient"] != "p1" || res["exp"] == nil ||
			res["iss"] != id["iss"] || res["sub"] != id["sub"] || res["fhirUser"] != id["fhirUser"] {
			t.Errorf("%d %v", s, res)
		}
	}
	if s, res := introspectAs(c, out["refresh_token"]); s != 200 || res["active"] != true ||
		res["scope"] != out["scope"] {
		t.Error(s, res)
	}
	inactive := func(name string, as client.Client, tok any) {
		t.Helper()
		if s, res := introspectAs(as, tok); s != 200 || len(res) != 1 || res["active"] != false {
			t.Errorf("%s: %d %v", name, s, res)
		}
	}
	inactive("another client's access token", other, out["access_token"])
	inactive("another client's refresh token", other, out["refresh_token"])
	inactive("nonsense", c, "nonsense")
	inactive("id_token", c, out["id_token"])
	inactive("unknown refresh token", c, unknownRefreshToken)
	if s, res := introspectAs(public, out["access_token"]); s != 401 || res["error"] != "invalid_client" {
		t.Error("public client:", s, res)
	}
	unknown := c
	unknown.ID = "unknown"
	if s, _ := introspectAs(unknown, out["access_token"]); s != 401 {
		t.Error("unknown client:", s)
	}
	if s, res, _ := w.postForm(introspect.Path, public, url.Values{"token": {out["access_token"].(string)}},
		func(r *http.Request) {
			r.Header.Set("Authorization", "Bearer "+out["access_token"].(string))
		}); s != 200 || res["active"] != true {
		t.Error("with a bearer token:", s, res)
	}
	revoke := func(as client.Client, tok any) {
		t.Helper()
		if s, res, _ := w.postForm(introspect.RevokePath, as, url.Values{"token": {fmt.Sprint(tok)}}, nil); s != 200 {
			t.Fatal(s, res)
		}
	}
	revoke(other, out["access_token"])
	revoke(other, out["refresh_token"])
	revoke(c, "nonsense")
	if s := w.read(out["access_token"], "Patient/p1"); s != 200 {
		t.Error("revocation by another client:", s)
	}
	revoke(c, out["access_token"])
	if s := w.read(out["access_token"], "Patient/p1"); s != 401 {
		t.Error("after revocation:", s)
	}
	inactive("revoked token", c, out["access_token"])
	s, next := w.refresh(c, out["refresh_token"], nil)
	if s != 200 {
		t.Fatal("the refresh token was revoked with the access token:", s, next)
	}
	revoke(c, next["refresh_token"])
	if s := w.read(next["access_token"], "Patient/p1"); s != 401 {
		t.Error("after revocation of the refresh token:", s)
	}
	if s, _ := w.refresh(c, next["refresh_token"], nil); s != 400 {
		t.Error(s)
	}
	w.reopen()
	inactive("after a restart", c, out["access_token"])
	back := w.backend("system/*.rs")
	_, backendToken, _ := w.postForm(token.Path, back,
		url.Values{"grant_type": {"client_credentials"}, "scope": {"system/*.rs"}},
		nil)
	if s := w.read(backendToken["access_token"], "Patient/p1"); s != 200 {
		t.Fatal(s, backendToken)
	}
	revoke(back, backendToken["access_token"])
	if s := w.read(backendToken["access_token"], "Patient/p1"); s != 401 {
		t.Error("revoked token of a backend:", s)
	}
}
